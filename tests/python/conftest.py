"""A worker that hosts one of the applications here, with a store and a broker in one file."""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time

import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
LONGSHORE = str(ROOT / os.environ.get("CARGO_TARGET_DIR", "target") / "debug/longshore")
# What a test waits for comes in a moment; a machine with other things to do may need longer.
LIMIT = 60


def until(what, look, limit=LIMIT):
    """Looks until there is something to see."""
    end = time.monotonic() + limit
    while True:
        seen = look()
        if seen:
            return seen
        assert time.monotonic() < end, "not seen in %d s: %s" % (limit, what)
        time.sleep(0.02)


def alive(pid):
    try:
        with open("/proc/%d/stat" % pid) as file:
            return file.read().rsplit(")", 1)[1].split()[0] not in "ZX"
    except OSError:
        return False


class Site:
    """A folder with a configuration, and the workers that were started in it."""

    def __init__(self, folder, app, path=(HERE / "application",), interpreter=sys.executable, environment=None, **sections):
        self.folder = pathlib.Path(folder)
        self.workers = []
        self.environment = dict(os.environ, SHOP_NOTES=str(folder), **(environment or {}))
        self.environment.pop("PYTHONPATH", None)
        values = {
            "store": {"url": "sqlite:longshore.db"},
            "worker": {"lease": "3s", "grace": "3s", "margin": "1s"},
            "pools.py": {"kind": "pinned", "queues": ["shop"], "slots": 2},
            "routes": {"*": "shop"},
            "tasks.default": {"attempts": 3, "backoff_min": "10ms", "backoff_max": "20ms"},
            "python": {"app": app, "python": str(interpreter), "path": [str(it) for it in path], "silence": "3s"},
        }
        if app is None:
            del values["python"]
        for name, keys in sections.items():
            values.setdefault(name, {}).update(keys)
        lines = []
        for name, keys in values.items():
            lines.append("[%s]" % ".".join(json.dumps(part) for part in name.split(".", 1)))
            lines.extend("%s = %s" % (json.dumps(key), json.dumps(value)) for key, value in keys.items())
        (self.folder / "longshore.toml").write_text("\n".join(lines) + "\n")
        self.run("migrate")

    def run(self, *arguments, missing=False):
        """What the program prints; with `missing`, nothing where it says that there is no such thing."""
        command = [LONGSHORE, "--config", str(self.folder / "longshore.toml"), *arguments]
        done = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=LIMIT)
        assert missing or done.returncode == 0, done.stderr
        return done.stdout

    def worker(self, *arguments):
        """Starts a worker and waits until it has joined."""
        log = self.folder / ("log-%d" % len(self.workers))
        command = [LONGSHORE, "--config", str(self.folder / "longshore.toml"), "run", "--pool", "py", *arguments]
        with open(log, "w") as file:
            process = subprocess.Popen(command, env=self.environment, stderr=file, cwd=self.folder)
        process.log = log
        self.workers.append(process)

        def joined():
            assert process.poll() is None, log.read_text()
            return "worker joined" in log.read_text()

        until("the worker has joined", joined)
        return process

    def log(self):
        return "".join(worker.log.read_text() for worker in self.workers)

    def enqueue(self, name, id, /, **kwargs):
        self.run("enqueue", "task", name, "--id", id, "--kwargs", json.dumps(kwargs))

    def task(self, id):
        return json.loads(self.run("task", "show", id))

    def ended(self, id, state="done"):
        """The task, once it is at its end."""

        def look():
            task = json.loads(self.run("task", "show", id, missing=True) or "null")
            return task if task and task["state"] in ("done", "dead", "canceled") else None

        task = until("the end of %s" % id, look)
        assert task["state"] == state, task
        return task

    def result(self, id):
        result = self.ended(id)["result"]
        return None if result is None else json.loads(result)

    def file(self, name):
        """What a task has written into a file of this name."""
        path = self.folder / name
        return until("the file %s" % name, lambda: path.exists() and path.read_text())

    def close(self):
        for worker in self.workers:
            if worker.poll() is None:
                worker.send_signal(signal.SIGQUIT)
        for worker in self.workers:
            worker.wait(LIMIT)


@pytest.fixture
def site(tmp_path):
    """Makes sites."""
    made = []

    def make(app, **options):
        made.append(Site(tmp_path, app, **options))
        return made[-1]

    yield make
    for one in made:
        one.close()
