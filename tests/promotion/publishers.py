"""Who publishes in a trial: what the configuration says of it, which tasks a promotion is, and where it can be made to die."""

import json
import sys

from bench import HERE, ROOT, TOOLS

CHANNEL = "stable"
LANE = "apt:stable"
SHARES = {"upload 25 %": 0.25, "upload 50 %": 0.5, "upload 75 %": 0.75}
# What ends any worker, whatever it runs.
ANY = {"after claim": "crash intake:claimed", "after DB commit before broker ack": "crash settle:stored", "in verify": "verify"}


class Publisher:
    """`own`: every look at the channel is whole, and its journal says who wrote what. `bucket`: where the repository is."""

    own, bucket = True, False

    def prepare(self, site):
        """Makes what has to be there before the first worker."""

    def config(self, site, endpoint):
        """TOML, for a worker that finds the bucket at `endpoint`."""
        raise NotImplementedError

    def points(self, size):
        """Name of a point, and how a worker dies there: `crash POINT`, `sent SHARE`, `put END`, `verify` or `publishing`."""
        raise NotImplementedError

    def promotion(self, name, whole):
        """The tasks of a promotion but for names and lane; the last one is the one that belongs into the lane."""
        raise NotImplementedError


class Own(Publisher):
    """apt.promote, or its halves."""

    def __init__(self, bucket):
        self.bucket = bucket

    def config(self, site, endpoint):
        storage = f"s3://{site.bucket}" if self.bucket else site.folder / "repository"
        return (f'[apt.main]\nstorage = "{storage}"\nincoming = "incoming"\nchannels = ["{CHANNEL}"]\ngpg_home = "gpg"\n'
                f'key = "{site.key.fingerprint}"\n')

    def points(self, size):
        pieces = size / (256 * 1024)
        upload = {name: f"sent {share}" if self.bucket else f"crash storage:piece#{round(pieces * share)}"
                  for name, share in SHARES.items()}
        return {**upload, "after pool": "crash apt:staged", "after Packages": "crash apt:indexed",
                "between Release and InRelease": "crash apt:signed", "after commit before DB ack": "crash apt:committed", **ANY}

    def promotion(self, name, whole):
        to = {"repository": "main", "to": CHANNEL}
        if whole:
            return [{"name": "apt.promote", "kwargs": {**to, "files": [f"{name}.deb"]}}]
        return [{"name": "apt.stage", "kwargs": {"repository": "main", "files": [f"{name}.deb"]}},
                {"name": "apt.commit", "kwargs": {**to, "packages": [f"{name}:amd64=1.0"]}}]


class Command(Publisher):
    """A command that is no part of Longshore."""

    def promotion(self, name, whole):
        return [{"name": "publish", "kwargs": {"file": f"{name}.deb"}}]


class Flawed(Command):
    """flawed.py."""

    bucket = True

    def __init__(self, order="pool-first", lock=0):
        self.order, self.lock = order, lock

    def prepare(self, site):
        settings = {"place": site.bucket, "channel": CHANNEL, "gpg": str(site.key.home), "order": self.order, "lock": self.lock}
        (site.folder / "flawed.json").write_text(json.dumps(settings))

    def config(self, site, endpoint):
        command = [sys.executable, str(HERE / "flawed.py"), "{file}"]
        return (f'[exec.publish]\ncommand = {json.dumps(command)}\ndir = "incoming"\n'
                f'env = {{ FLAWED = "{site.folder}/flawed.json", ENDPOINT = "http://{endpoint}" }}\n')

    def points(self, size):
        return {}


class PyDebS3(Command):
    """pydeb-s3, whose own lock cannot be used: the lane is the only one."""

    own, bucket = False, True

    def config(self, site, endpoint):
        command = [str(TOOLS / "s3/bin/pydeb-s3"), "upload", "--bucket", site.bucket, "--codename", CHANNEL, "--endpoint",
                   f"http://{endpoint}", "--access-key-id", "a", "--secret-access-key", "b", "--sign", site.key.fingerprint,
                   "--gpg-options", f"--homedir {site.key.home} --batch", "{file}"]
        return f'[exec.publish]\ncommand = {json.dumps(command)}\ndir = "incoming"\n'

    def points(self, size):
        return {**{name: f"sent {share}" for name, share in SHARES.items()}, "after pool": "put .deb", "after Packages": "put /Packages",
                "between Release and InRelease": "put /Release", "after commit before DB ack": "crash settle:ready", **ANY}


# Stands before reprepro: in the middle of what it does, kills the worker above the guard above it, if it is told to.
SHIM = """#!/bin/sh
case " $* " in *" includedeb "*)
  if mv "{chosen}" "{chosen}.$$" 2>/dev/null; then
    "{real}" "$@" &
    sleep "$(cat "{chosen}.$$")"
    kill -KILL "$(awk '/^PPid:/ {{ print $2 }}' "/proc/$PPID/status")"
    sleep 60
  fi ;;
esac
exec "{real}" "$@"
"""


class Reprepro(Command):
    """reprepro, by examples/exec."""

    own = False

    def prepare(self, site):
        shim = site.folder / "bin/reprepro"
        shim.parent.mkdir()
        shim.write_text(SHIM.format(chosen=site.chosen_to_publish, real=TOOLS / "reprepro/reprepro"))
        shim.chmod(0o755)
        conf = site.folder / "repository/conf"
        conf.mkdir(parents=True)
        (conf / "distributions").write_text(f"Codename: {CHANNEL}\nArchitectures: amd64\nComponents: main\n"
                                            f"SignWith: {site.key.fingerprint}\n")

    def config(self, site, endpoint):
        arguments = f'"{CHANNEL}", "{site.folder}/incoming/{{file}}"'
        examples = ROOT / "examples/exec"
        return (f'[exec.publish]\ncommand = ["{examples}/include.sh", {arguments}]\nprobe = ["{examples}/is-included.sh", {arguments}]\n'
                f'dir = "repository"\nenv = {{ GNUPGHOME = "{site.key.home}", PATH = "{site.folder}/bin:/usr/bin:/bin" }}\n')

    def points(self, size):
        return {"while it publishes": "publishing", "after commit before DB ack": "crash settle:ready", **ANY}


PUBLISHERS = {"disk": Own(bucket=False), "bucket": Own(bucket=True), "pydeb-s3": PyDebS3(), "reprepro": Reprepro()}
