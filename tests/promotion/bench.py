"""What a trial of promotions stands on: the programs, a key, packages, and a stand-in for S3."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import sys

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
LONGSHORE = ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/longshore"
TOOLS = ROOT / "target/tools"


class Failed(Exception):
    """A program did not do what it should."""


def tool(*arguments, **more):
    """What a program prints that must succeed."""
    command = [str(argument) for argument in arguments]
    environment = dict(os.environ, LC_ALL="C.UTF-8", **more.pop("environment", {}))
    environment.pop("http_proxy", None)
    done = subprocess.run(command, capture_output=True, stdin=subprocess.DEVNULL, env=environment, **more)
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace")
        raise Failed(f"{' '.join(command[:3])} … ended with {done.returncode}: {said}")
    return done.stdout.decode()


class S3:
    """moto, a program of its own, with buckets for whoever asks."""

    def __init__(self):
        self.process = subprocess.Popen([sys.executable, HERE / "s3.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE,
                                        stderr=subprocess.DEVNULL, text=True)
        self.address = self.process.stdout.readline().strip()

    def bucket(self, name):
        self.process.stdin.write(f"{name}\n")
        self.process.stdin.flush()
        assert self.process.stdout.readline().strip() == name

    def close(self):
        self.process.stdin.close()
        self.process.wait()


class Key:
    """A key of GnuPG's in a folder of its own."""

    def __init__(self, folder):
        self.home, self.public = folder / "gpg", folder / "key.gpg"
        self.home.mkdir(mode=0o700)
        gpg = ["gpg", "--homedir", self.home, "--batch", "--quiet"]
        tool(*gpg, "--passphrase", "", "--quick-generate-key", "archive@example.org", "ed25519", "sign", "never")
        tool(*gpg, "--export", "--output", self.public)
        listed = tool(*gpg, "--with-colons", "--list-keys").splitlines()
        self.fingerprint = next(line.split(":")[9] for line in listed if line.startswith("fpr"))

    def close(self):
        with contextlib.suppress(Failed):
            tool("gpgconf", "--homedir", self.home, "--kill", "gpg-agent")


def deb(folder, name, size):
    """Puts a package of so many random bytes into a folder."""
    build = folder / f"build-{name}"
    (build / "DEBIAN").mkdir(parents=True)
    (build / "DEBIAN/control").write_text(f"Package: {name}\nVersion: 1.0\nArchitecture: amd64\nSection: misc\nPriority: optional\n"
                                          "Maintainer: T <t@example.org>\nDescription: a test\n")
    with open(build / "payload", "wb") as file:
        for at in range(0, size, 1 << 20):
            file.write(os.urandom(min(1 << 20, size - at)))
    tool("dpkg-deb", "-Znone", "--root-owner-group", "-b", build, folder / f"{name}.deb")
    shutil.rmtree(build)
