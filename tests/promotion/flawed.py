"""A publisher with the flaws that lanes and fences are for, as a command: flawed.py FILE. It reads the index, adds the package and
writes the index, in a bucket, without asking whether it is still as it was read.

FLAWED, a file of settings, says what more is wrong: `order` "pool-first" or "index-first"; `lock`, seconds after which the lock of
another is taken for a dead one's, or 0 for no lock.
"""

import datetime
import gzip
import json
import os
import pathlib
import subprocess
import sys
import time
import urllib.error
import urllib.request

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import tool  # noqa: E402
from observer import SIGNED, sha256  # noqa: E402

settings = json.loads(pathlib.Path(os.environ["FLAWED"]).read_text())
endpoint, place = os.environ["ENDPOINT"], settings["place"]
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))


def request(method, name, data=None, **headers):
    """The answer's bytes; None for 404, False for 412."""
    asked = urllib.request.Request(f"{endpoint}/{place}/{name}", data, {**SIGNED, "Content-Type": "application/octet-stream", **headers}, method=method)
    try:
        with opener.open(asked, timeout=120) as answer:
            return answer.read()
    except urllib.error.HTTPError as error:
        if error.code in (404, 412):
            return None if error.code == 404 else False
        raise


def lock():
    """Waits for the lock, but not longer than a holder is given."""
    mine = json.dumps({"by": os.urandom(8).hex(), "at": time.time()}).encode()
    while request("PUT", "lock", mine, **{"If-None-Match": "*"}) is False:
        theirs = request("GET", "lock")
        if theirs and time.time() - json.loads(theirs)["at"] > settings["lock"]:
            request("DELETE", "lock")
        time.sleep(0.05)
    return mine


def unlock(mine):
    if request("GET", "lock") == mine:
        request("DELETE", "lock")


def read():
    """The packages and the journal as they are."""
    channel = f"dists/{settings['channel']}"
    index = request("GET", f"{channel}/main/binary-amd64/Packages") or b""
    journal = request("GET", f"{channel}/longshore.journal") or b""
    return index.decode(), [json.loads(line) for line in journal.decode().splitlines()]


def write(index, journal):
    channel = f"dists/{settings['channel']}"
    files = {"main/binary-amd64/Packages": index.encode(), "main/binary-amd64/Packages.gz": gzip.compress(index.encode()),
             "longshore.journal": "".join(json.dumps(entry) + "\n" for entry in journal).encode()}
    listed = ""
    for path, data in files.items():
        folder = f"{channel}/{os.path.dirname(path)}".rstrip("/")
        request("PUT", f"{folder}/by-hash/SHA256/{sha256(data)}", data)
        request("PUT", f"{channel}/{path}", data)
        listed += f" {sha256(data)} {len(data)} {path}\n"
    now = datetime.datetime.now(datetime.timezone.utc).strftime("%a, %d %b %Y %H:%M:%S UTC")
    last = journal[-1]
    release = (f"Codename: {settings['channel']}\nDate: {now}\nArchitectures: amd64\nComponents: main\nAcquire-By-Hash: yes\n"
               f"X-Longshore-Generation: {last['generation']}\nX-Longshore-Token: {last['token']}\nSHA256:\n{listed}")
    signed = subprocess.run(["gpg", "--homedir", settings["gpg"], "--batch", "--clearsign"], input=release.encode(),
                            capture_output=True, check=True).stdout
    request("PUT", f"{channel}/InRelease", signed)


def upload(file, data):
    request("PUT", f"pool/{file}", data)


file = pathlib.Path(sys.argv[1])
data = file.read_bytes()
control = tool("dpkg-deb", "-f", file).rstrip("\n")
stanza = f"{control}\nFilename: pool/{file.name}\nSize: {len(data)}\nSHA256: {sha256(data)}\n"
mine = lock() if settings["lock"] else None
index, journal = read()
if settings["order"] == "pool-first":
    upload(file.name, data)
if stanza not in index:
    journal.append({"generation": len(journal) + 1, "token": int(os.environ["LONGSHORE_TOKEN"]),
                    "task": os.environ["LONGSHORE_TASK_ID"], "at": int(time.time() * 1000)})
    write("\n".join(filter(None, [index, stanza])), journal)
if settings["order"] == "index-first":
    upload(file.name, data)
if mine:
    unlock(mine)
