"""Longshore without a SQUAD: a store and a broker of its own, `longshore api` and a worker as its programs."""

import json
import os
import re
import subprocess

from longshore import PROGRAM
from process import Process
from services import Database, Vhost, wait_for

TOKEN = "a-token-for-tests"
CONFIG = f"""
[api]
listen = "127.0.0.1:0"

[api.tokens.ci]
token = "{TOKEN}"

[api.tokens.other]
token = "another-token"
projects = ["lab/other"]

[pools.all]
kind = "elastic"
queues = ["ci_fetch", "ci_fetch_postprocess"]

[tasks.default]
backoff_min = "100ms"
backoff_max = "1s"
"""


class Embedded:
    """One file, which is the broker too."""

    CONFIG = """
[store]
url = "sqlite:longshore.db"
"""

    def close(self):
        pass


class Servers:
    """PostgreSQL and RabbitMQ."""

    def __init__(self):
        self.database, self.vhost = Database(), Vhost()
        self.CONFIG = f"""
[store]
url = "{self.database.url}"

[broker]
url = "{self.vhost.url}"
"""

    def close(self):
        self.vhost.drop()
        self.database.drop()


class Alone:
    """A store and the programs on it; `close` ends them."""

    def __init__(self, folder, servers):
        folder.mkdir()
        self.servers = servers
        self.folder, self.processes = folder, []
        self.config = folder / "longshore.toml"
        self.environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}

    def configure(self, *more):
        """Writes the configuration, and gives the store its tables."""
        self.config.write_text("\n".join([self.servers.CONFIG, CONFIG, *more]))
        self.ask("migrate")

    def start(self, *arguments, **variables):
        name = f"longshore-{arguments[0]}"
        log = self.folder / f"{len(self.processes)}-{name}.log"
        arguments = [PROGRAM, *arguments, "--config", self.config]
        process = Process(name, arguments, {**self.environment, **variables}, log)
        self.processes.append(process)
        return process

    def api(self, **variables):
        """`longshore api`, and its address."""
        process = self.start("api", **variables)

        def address():
            process.expect_running()
            found = re.search(r"answering producers address=(\S+)", process.text())
            return found and f"http://{found[1]}"

        return process, wait_for("the address of longshore api in its log", address)

    def worker(self, **variables):
        return self.start("run", "--pool", "all", **variables)

    def ask(self, *arguments):
        """What a command prints."""
        done = subprocess.run(
            [PROGRAM, *arguments, "--config", self.config], env=self.environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        return done.stdout

    def testjobs(self):
        return json.loads(self.ask("testjob", "list", "--json"))

    def tasks(self):
        return {task["id"]: task for task in json.loads(self.ask("task", "list", "--json"))}

    def wait_for_task(self, task, state):
        """Waits until that task is in that state; returns it."""

        def there():
            found = self.tasks().get(task)
            return found if found and found["state"] == state else None

        return wait_for(f"{task} to be {state}", there)

    def close(self):
        for process in self.processes:
            process.kill()
