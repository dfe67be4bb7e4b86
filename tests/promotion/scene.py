"""One repository, its store, and the workers that are started, killed, stopped and woken."""

import contextlib
import json
import os
import signal
import sqlite3
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid

from bench import HERE, LONGSHORE, Key, tool
from proxy import Proxy
from publishers import CHANNEL

LEASE = 3


class Servers:
    """A schema and a vhost of one trial, in the PostgreSQL and the RabbitMQ of scripts/services."""

    def __init__(self):
        self.name = f"t{uuid.uuid4().hex[:12]}"
        self.folder = os.environ["LONGSHORE_TEST_SERVICES_DIR"]
        self.url = os.environ["LONGSHORE_TEST_PG_URL"]
        self.broker = os.environ["LONGSHORE_TEST_AMQP_URL"].replace("guest:guest@", "guest@") + f"/{self.name}"
        self.api("PUT", f"vhosts/{self.name}", {})
        self.api("PUT", f"permissions/{self.name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})

    def api(self, method, path, body=None):
        base = urllib.parse.urlsplit(os.environ["LONGSHORE_TEST_AMQP_API"])
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        url = base._replace(netloc=f"{base.hostname}:{base.port}").geturl() + f"/{path}"
        passwords.add_password(None, url, base.username, base.password)
        opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPBasicAuthHandler(passwords))
        data = None if body is None else json.dumps(body).encode()
        opener.open(urllib.request.Request(url, data, {"Content-Type": "application/json"}, method=method), timeout=60).close()

    def connect(self):
        import psycopg2

        connection = psycopg2.connect(self.url, options=f"-c search_path={self.name}")
        connection.autocommit = True
        return connection

    def restart_broker(self):
        """Begins it, and returns the process that does it."""
        return subprocess.Popen([f"{self.folder}/rabbitmq-restart"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL)

    def restart_database(self):
        """One of PostgreSQL's processes is killed: it ends all others, recovers from its log and begins anew."""
        connection = self.connect()
        os.kill(connection.get_backend_pid(), signal.SIGKILL)
        with contextlib.suppress(Exception):
            connection.close()

    def close(self):
        self.api("DELETE", f"vhosts/{self.name}")
        with contextlib.closing(self.connect()) as connection, connection.cursor() as cursor:
            cursor.execute(f"drop schema if exists {self.name} cascade")


class Worker:
    """A worker process, with a way of its own to the bucket."""

    def __init__(self, scene, number):
        self.scene, self.number = scene, number
        self.proxy = Proxy(scene.s3.address, scene.rate, scene.size) if scene.s3 else None
        self.config = scene.write_config(number, self.proxy.address if self.proxy else "")
        self.log = scene.folder / f"worker-{number}.log"
        self.process, self.armed, self.stopped = None, None, False

    def start(self, crash=None):
        environment = dict(os.environ)
        environment.pop("LONGSHORE_CRASH_AT", None)
        if crash:
            environment["LONGSHORE_CRASH_AT"] = crash
        with open(self.log, "a") as log:
            self.process = subprocess.Popen([LONGSHORE, "--config", self.config, "run", "--pool", "apt"], env=environment,
                                            stdin=subprocess.DEVNULL, stdout=log, stderr=subprocess.STDOUT)

    def lives(self):
        return self.process is not None and self.process.poll() is None

    def kill(self):
        self.process.kill()

    def freeze(self):
        """Stops it where it holds no lock of SQLite's, which nobody could take from it."""
        while self.lives():
            self.process.send_signal(signal.SIGSTOP)
            self.stopped = True
            if self.scene.is_free_to_write():
                return
            self.wake()

    def wake(self):
        self.stopped = False
        if self.lives():
            self.process.send_signal(signal.SIGCONT)

    def close(self):
        if self.process:
            self.process.kill()
            self.process.wait()
        if self.proxy:
            self.proxy.close()


class Scene:
    def __init__(self, folder, publisher, s3=None, servers=False, slots=4, size=4_000_000, rate=8_000_000, packages=8, meet=True):
        self.folder, self.publisher, self.s3 = folder, publisher, s3 if publisher.bucket else None
        self.slots, self.size, self.rate, self.packages = slots, size, rate, packages
        self.names = [f"package{number}" for number in range(1, packages + 1)]
        self.key, self.servers = Key(folder), Servers() if servers else None
        self.events, self.chosen = folder / "events", folder / "kill-in-verify"
        self.chosen_to_publish = folder / "kill-while-publishing"
        for name in ("incoming", "repository"):
            (folder / name).mkdir()
        if self.s3:
            self.bucket = f"debs-{uuid.uuid4().hex[:12]}"
            self.s3.bucket(self.bucket)
            self.address = f"http://{self.s3.address}/{self.bucket}"
        else:
            self.address = f"file:{folder}/repository"
        self.events.touch()
        self.verifies(meet)
        publisher.prepare(self)
        self.config = self.write_config(0, self.s3.address if self.s3 else "")
        self.longshore("migrate")
        self.workers, self._connection = [], None

    def verifies(self, meet):
        settings = {"address": self.address, "channel": CHANNEL, "key": str(self.key.public), "incoming": str(self.folder / "incoming"),
                    "events": str(self.events), "kill": str(self.chosen), "meet": self.packages if meet else 0, "patience": 30}
        (self.folder / "verify.json").write_text(json.dumps(settings))

    def write_config(self, number, endpoint):
        store, broker = 'url = "sqlite:store.db"', 'url = "embedded"'
        if self.servers:
            store, broker = f'url = "{self.servers.url}"\nschema = "{self.servers.name}"', f'url = "{self.servers.broker}"'
        verify = json.dumps([sys.executable, str(HERE / "verify.py"), "{number}"])
        s3 = f'[s3]\nendpoint = "http://{endpoint}"\nkey_id = "a"\nsecret_key = "b"\n' if endpoint else ""
        path = self.folder / f"longshore-{number}.toml"
        path.write_text(
            f'[store]\n{store}\n[broker]\n{broker}\n[worker]\nlease = "{LEASE}s"\ngrace = "8s"\nmargin = "1s"\ncrash_limit = 1000\n'
            '[tasks.default]\nattempts = 1000\nbackoff_min = "50ms"\nbackoff_max = "500ms"\n'
            f'[pools.apt]\nkind = "pinned"\nqueues = ["apt"]\nslots = {self.slots}\n[routes]\n"*" = "apt"\n{s3}'
            f'[exec.verify]\ncommand = {verify}\nenv = {{ VERIFY = "{self.folder}/verify.json" }}\n'
            f'{self.publisher.config(self, endpoint)}')
        return path

    def longshore(self, *arguments):
        return tool(LONGSHORE, "--config", self.config, *arguments)

    def enqueue(self, whole=False, lane=None):
        """All promotions and verifications in one transaction. `lane`: what the graph says of a promotion's lane."""
        tasks = []
        for number, name in enumerate(self.names, 1):
            *before, promotion = self.publisher.promotion(name, whole)
            for task in before:
                tasks.append({"ref": f"s-{name}", "id": f"s-{name}", **task})
            after = {"after": [f"s-{name}"]} if before else {}
            tasks.append({"ref": f"p-{name}", "id": f"p-{name}", **promotion, **after, **({"lane": lane} if lane else {})})
            tasks.append({"id": f"v-{name}", "name": "verify", "after": [f"p-{name}"], "kwargs": {"number": number}})
        graph = self.folder / "graph.json"
        graph.write_text(json.dumps({"tasks": tasks}))
        self.longshore("enqueue", "--graph", graph)

    def worker(self):
        self.workers.append(Worker(self, len(self.workers) + 1))
        return self.workers[-1]

    def rows(self, sql):
        """What the store says; None if it cannot be asked now."""
        try:
            if not self.servers:
                with contextlib.closing(sqlite3.connect(f"file:{self.folder}/store.db?mode=ro", uri=True, timeout=5)) as connection:
                    return connection.execute(sql).fetchall()
            if self._connection is None:
                self._connection = self.servers.connect()
            with self._connection.cursor() as cursor:
                cursor.execute(sql)
                return cursor.fetchall()
        except Exception:
            # It has begun anew, perhaps: the next connection will know.
            if self._connection is not None:
                self._connection.close()
            self._connection = None
            return None

    def is_free_to_write(self):
        if self.servers:
            return True
        with contextlib.closing(sqlite3.connect(self.folder / "store.db", timeout=0, isolation_level=None)) as connection:
            try:
                connection.execute("begin immediate")
                connection.execute("rollback")
                return True
            except sqlite3.OperationalError:
                return False

    def held_by(self, process):
        """The tasks that a process holds by the store's word, with their epochs."""
        return dict(self.rows("select t.id, t.epoch from tasks t join workers w on w.id = t.worker "
                              f"where t.state = 'running' and w.pid = {process.pid}") or [])

    def said(self):
        """What the verifications have said."""
        return [json.loads(line) for line in self.events.read_text().splitlines()]

    def wait(self, what, holds, limit=60):
        end = time.monotonic() + limit
        while not holds():
            if time.monotonic() > end:
                raise TimeoutError(f"not within {limit} s: {what}")
            time.sleep(0.02)

    def state(self, task):
        rows = self.rows(f"select state from tasks where id = '{task}'")
        return rows[0][0] if rows else None

    def close(self):
        for worker in self.workers:
            worker.close()
        if self._connection is not None:
            self._connection.close()
        if self.servers:
            self.servers.close()
        self.key.close()
