"""Who looks at a channel all the time and knows nothing of its writers: a walk from `InRelease` to every byte that it leads to,
and the real `apt-get`. What it finds is said by the name of the invariant that is broken:

    I1  every file that InRelease leads to is there, whole, with the hashes that are said of it
    I2  `apt-get update` succeeds, and each package that is listed can be downloaded
    I3  no package that was seen is ever missing again
    I4  packages appear in the order in which their promotions were enqueued
    I5  fencing tokens and generations only grow
"""

import collections
import hashlib
import json
import os
import re
import threading
import urllib.error
import urllib.parse
import urllib.request

from bench import Failed, tool

Wrong = collections.namedtuple("Wrong", "invariant text")
Look = collections.namedtuple("Look", "generation token packages journal")


# The stand-in for S3 lets everybody read, but a HEAD has to be signed; how, it does not look at.
SIGNED = {"Authorization": "AWS4-HMAC-SHA256 Credential=a/20260101/us-east-1/s3/aws4_request, SignedHeaders=host, Signature=0"}


class Damage(Exception):
    """A reader did not find what it was told."""


def sha256(data):
    return hashlib.sha256(data).hexdigest()


class Reader:
    """Reads a repository below an address, `file:…` or `http:…`."""

    def __init__(self, address, channel, key, folder):
        self.address, self.channel, self.key, self.folder = address, channel, key, folder
        self.opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
        self.known = {}

    def request(self, path, method, **headers):
        # As apt asks for it: `+` would be read as a space.
        url = f"{self.address}/" + urllib.parse.quote(path, safe="/~:")
        try:
            with self.opener.open(urllib.request.Request(url, headers=headers, method=method), timeout=120) as answer:
                return answer.read(), (answer.headers["ETag"], answer.headers["Content-Length"])
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None, None
            raise

    def get(self, path):
        """A file's bytes; None if there is none."""
        if self.address.startswith("http:"):
            return self.request(path, "GET")[0]
        try:
            with open(f"{self.address[5:]}/{path}", "rb") as file:
                return file.read()
        except FileNotFoundError:
            return None

    def identity(self, path):
        """What changes with a file's bytes; None if there is none."""
        if self.address.startswith("http:"):
            return self.request(path, "HEAD", **SIGNED)[1]
        try:
            found = os.stat(f"{self.address[5:]}/{path}")
            return found.st_ino, found.st_mtime_ns, found.st_size
        except FileNotFoundError:
            return None

    def digest(self, path):
        """Size and SHA-256 of a large file, which is read again whenever it may be another one."""
        identity = self.identity(path)
        if identity is None:
            raise Damage(f"{path} is missing")
        if self.known.get(path, (None,))[0] != identity:
            data = self.get(path)
            if data is None:
                raise Damage(f"{path} is missing")
            self.known[path] = identity, (str(len(data)), sha256(data))
        return self.known[path][1]

    def release(self):
        """The text that is signed; None if nothing is published."""
        signed = self.get(f"dists/{self.channel}/InRelease")
        if signed is None:
            return None
        seen = self.folder / f"seen-{threading.get_ident()}"
        seen.write_bytes(signed)
        return tool("gpgv", "--keyring", self.key, "--output", "-", seen)

    def listed(self, release):
        lines = release.split("\nSHA256:\n")[1].splitlines()
        for line in lines:
            if not line.startswith(" "):
                return
            yield line.split()

    def file(self, sha, size, path):
        """A file of the channel as `InRelease` says it is, by its hash or, where that is not kept, by its name."""
        folder, place = os.path.dirname(path), f"dists/{self.channel}"
        data = self.get(os.path.normpath(f"{place}/{folder}/by-hash/SHA256/{sha}"))
        if data is None and not path.startswith("longshore."):
            data = self.get(f"{place}/{path}")
        if data is None:
            raise Damage(f"{path} ({sha}) is missing")
        if (str(len(data)), sha256(data)) != (size, sha):
            raise Damage(f"{path} is not what InRelease says")
        return data

    def look(self):
        """Follows the channel to its end; None if there is none."""
        release = self.release()
        if release is None:
            return None
        packages, journal = [], []
        for sha, size, path in self.listed(release):
            # Names that only tools without `by-hash` read are theirs to keep.
            if os.path.basename(path) not in ("Packages", "Packages.gz", "longshore.journal"):
                continue
            data = self.file(sha, size, path)
            if path == "longshore.journal":
                journal = [json.loads(line) for line in data.decode().splitlines()]
            elif path.endswith("/Packages"):
                for field in stanzas(data):
                    if self.digest(field["Filename"]) != (field["Size"], field["SHA256"]):
                        raise Damage(f"{field['Filename']} is not what the index says")
                    packages.append(field["Package"])

        def number(name):
            found = re.search(rf"^X-Longshore-{name}: (\d+)$", release, re.MULTILINE)
            return int(found[1]) if found else None

        return Look(number("Generation"), number("Token"), frozenset(packages), journal)

    def names(self):
        """The packages of the index as it lies there, whoever has signed it; None if there is none."""
        data = self.get(f"dists/{self.channel}/main/binary-amd64/Packages")
        return None if data is None else frozenset(field["Package"] for field in stanzas(data))

    def apt_get(self, folder, *verb):
        """Runs the real one, with folders of its own."""
        for name in ("lists/partial", "cache/archives/partial"):
            (folder / name).mkdir(parents=True, exist_ok=True)
        sources = folder / "sources.list"
        sources.write_text(f"deb [arch=amd64 signed-by={self.key}] {self.address} {self.channel} main\n")
        options = {"Dir::Etc::sourcelist": sources, "Dir::Etc::sourceparts": "-", "Dir::State": folder,
                   "Dir::State::status": "/var/lib/dpkg/status", "Dir::Cache": folder / "cache", "APT::Sandbox::User": "root",
                   # A warning says that an index was not read.
                   "Acquire::Retries": 0, "APT::Update::Error-Mode": "any"}
        tool("apt-get", *(f"-o{key}={value}" for key, value in options.items()), *verb, cwd=folder)


def stanzas(data):
    for stanza in filter(str.strip, data.decode().split("\n\n")):
        yield dict(line.split(": ", 1) for line in stanza.splitlines() if ": " in line)


class Observer:
    """Looks until it is closed, and once more. `own`: the writer promises that every single look is whole. `order`: the names
    of the packages as they shall appear; None: nobody said."""

    # apt-get takes a fifth of a second of a core, each time.
    PAUSE = {"look": 0.05, "update": 0.2}

    def __init__(self, reader, own, order):
        self.reader, self.own, self.order = reader, own, order
        self.wrong, self.looks, self.updates = [], 0, 0
        self.last, self.seen = None, frozenset()
        self.over = threading.Event()
        watches = [self.look] + ([self.update] if own else [])
        self.threads = [threading.Thread(target=self.watch, args=(how,)) for how in watches]
        for thread in self.threads:
            thread.start()

    def close(self):
        self.over.set()
        for thread in self.threads:
            thread.join()

    def say(self, invariant, text):
        if not any(wrong.invariant == invariant for wrong in self.wrong):
            self.wrong.append(Wrong(invariant, text))

    def watch(self, how):
        while True:
            last = self.over.is_set()
            try:
                how()
            except Exception as error:  # whatever it is, a reader met it
                self.say("I1" if how == self.look else "I2", f"{type(error).__name__}: {error}")
            if last:
                return
            self.over.wait(self.PAUSE[how.__name__])

    def look(self):
        if not self.own:
            names = self.reader.names()
            if names is not None:
                self.looks += 1
                self.grown(names)
            return
        look = self.reader.look()
        if look is None:
            return
        self.looks += 1
        if self.last and look[:2] != self.last[:2]:
            if look.generation <= self.last.generation:
                self.say("I5", f"generation {look.generation} is seen after {self.last.generation}")
            if None not in (look.token, self.last.token) and look.token <= self.last.token:
                self.say("I5", f"token {look.token} is seen after {self.last.token}")
        self.last = look
        self.grown(look.packages)

    def grown(self, packages):
        if not self.seen <= packages:
            self.say("I3", f"lost: {sorted(self.seen - packages)}")
        self.seen = packages
        if self.order is not None and packages != set(self.order[:len(packages)]):
            self.say("I4", f"not in order: {sorted(packages)}")

    def update(self):
        if self.reader.identity(f"dists/{self.reader.channel}/InRelease") is not None:
            self.reader.apt_get(self.reader.folder / "apt-watch", "update")
            self.updates += 1
