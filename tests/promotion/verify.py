"""The verification of a promotion, as a command: the real `apt-get` downloads the package, and it is what was put in.

verify.py NUMBER, with VERIFY, a file of settings, in its environment. What it does is said, line by line, in the file `events`.
"""

import json
import os
import pathlib
import sys
import time

sys.path.insert(0, str(pathlib.Path(__file__).parent))
from bench import Failed  # noqa: E402
from observer import Reader, sha256  # noqa: E402

settings = json.loads(pathlib.Path(os.environ["VERIFY"]).read_text())
number = int(sys.argv[1])
events = pathlib.Path(settings["events"])
name = f"package{number}"


def say(what, **more):
    event = {"verify": number, "epoch": os.environ["LONGSHORE_EPOCH"], "what": what, "at": time.time(), **more}
    with open(events, "a") as file:
        file.write(json.dumps(event) + "\n")


def worker():
    """The process above the guard above this."""
    status = pathlib.Path(f"/proc/{os.getppid()}/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in status if line.startswith("PPid:"))


def is_chosen():
    try:
        os.unlink(settings["kill"])
        return True
    except FileNotFoundError:
        return False


say("begun")
if is_chosen():
    say("kill", pid=worker())
    time.sleep(60)  # for whoever reads that
    sys.exit(75)
folder = pathlib.Path(os.environ["LONGSHORE_WORK"])
reader = Reader(settings["address"], settings["channel"], settings["key"], folder)
try:
    reader.apt_get(folder, "update")
    reader.apt_get(folder, "download", f"{name}=1.0")
    (found,) = folder.glob("*.deb")
    if sha256(found.read_bytes()) != sha256((pathlib.Path(settings["incoming"]) / f"{name}.deb").read_bytes()):
        raise Failed("it has other bytes")
except Failed as error:
    say("failed", why=str(error))
    print(error)
    sys.exit(75)
# The next one is promoted and verified while this one goes on: a lane that this held would stand still.
end = time.monotonic() + settings["patience"]
successor = json.dumps(number + 1)
while number < settings["meet"] and time.monotonic() < end:
    if any(f'"verify": {successor},' in line for line in events.read_text().splitlines()):
        say("met")
        break
    time.sleep(0.02)
say("done")
