"""What the tests beside Celery have at hand: servers, databases, Longshore's workers, Celery's applications and workers.

Run by scripts/test under scripts/services, once with each Celery: `target/tools/celery/bin/pytest tests/celery` (5.7)
and `target/tools/celery52/bin/pytest tests/celery` (5.2). Client and Python worker are the Celery of that interpreter.
Each test has a vhost and a database of its own. Nothing sleeps to synchronise: a test waits for what it is about.
"""

import json
import os
import pathlib
import signal
import subprocess
import sys
import time
import urllib.parse
import urllib.request
import uuid

import celery
import psycopg2
import pytest

HERE = pathlib.Path(__file__).parent
ROOT = HERE.parent.parent
PROGRAM = pathlib.Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "debug" / "examples" / "celery_worker"
LIMIT = 30  # seconds that anything may take on a busy machine

CELERY = tuple(int(part) for part in celery.__version__.split(".")[:2])


def server(name):
    try:
        return os.environ[name]
    except KeyError:
        pytest.exit(f"{name} is not set: run these tests by scripts/services (scripts/test does)", returncode=2)


def wait_for(what, look, limit=LIMIT):
    """Waits until `look` answers something true, and returns that."""
    end = time.monotonic() + limit
    while True:
        found = look()
        if found:
            return found
        assert time.monotonic() < end, f"no {what} within {limit} s"
        time.sleep(0.02)


class Api:
    """RabbitMQ's management API."""

    def __init__(self):
        parts = urllib.parse.urlsplit(server("LONGSHORE_TEST_AMQP_API"))
        self.base = f"{parts.scheme}://{parts.hostname}:{parts.port}{parts.path}"
        passwords = urllib.request.HTTPPasswordMgrWithDefaultRealm()
        passwords.add_password(None, self.base, parts.username, parts.password)
        self.opener = urllib.request.build_opener(urllib.request.HTTPBasicAuthHandler(passwords))

    def __call__(self, method, path, body=None):
        request = urllib.request.Request(
            f"{self.base}/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        with self.opener.open(request, timeout=LIMIT) as answer:
            text = answer.read()
        return json.loads(text) if text else None


@pytest.fixture(scope="session")
def api():
    return Api()


class Vhost:
    def __init__(self, api, name):
        self.api, self.name = api, name
        self.url = f"{server('LONGSHORE_TEST_AMQP_URL')}/{name}"

    def peek(self, queue, count=100):
        """The messages of a queue, which stay there."""
        body = {"count": count, "ackmode": "ack_requeue_true", "encoding": "auto"}
        return self.api("POST", f"queues/{self.name}/{queue}/get", body)

    def depth(self, queue):
        """Messages that are ready on a queue, by a declaration that changes nothing; None if there is no such queue."""
        import kombu

        with kombu.Connection(self.url) as connection:
            channel = connection.channel()
            try:
                return channel.queue_declare(queue, passive=True).message_count
            except connection.channel_errors:
                return None


@pytest.fixture
def vhost(api):
    name = f"t{uuid.uuid4().hex[:12]}"
    api("PUT", f"vhosts/{name}", {})
    api("PUT", f"permissions/{name}/guest", {"configure": ".*", "write": ".*", "read": ".*"})
    yield Vhost(api, name)
    api("DELETE", f"vhosts/{name}")


class Database:
    """A PostgreSQL database."""

    def __init__(self, name):
        base = urllib.parse.urlsplit(server("LONGSHORE_TEST_PG_URL"))
        self.name = name
        self.url = base._replace(path=f"/{name}").geturl()
        self.parts = {"host": base.hostname, "port": base.port, "user": base.username}

    def query(self, sql, *values):
        connection = psycopg2.connect(self.url)
        try:
            with connection, connection.cursor() as cursor:
                cursor.execute(sql, values)
                return cursor.fetchall() if cursor.description else None
        finally:
            connection.close()


def administer(statement):
    connection = psycopg2.connect(server("LONGSHORE_TEST_PG_URL"))
    connection.autocommit = True
    try:
        with connection.cursor() as cursor:
            cursor.execute(statement)
    finally:
        connection.close()


@pytest.fixture
def database():
    name = f"t{uuid.uuid4().hex[:12]}"
    administer(f"create database {name}")
    yield Database(name)
    administer(f"drop database {name} with (force)")


CONFIG = """
[store]
url = "{store}"
[broker]
url = "{broker}"
queue_type = "classic"
[worker]
lease = "3s"
# tests end many workers, and one task may be there each time
crash_limit = 9
grace = "8s"
margin = "1s"
checkpoint_every = "100ms"
[pools.work]
kind = "pinned"
queues = ["longshore"]
slots = 4
[tasks.default]
attempts = 2
backoff_min = "100ms"
backoff_max = "200ms"
[celery]
results = "{results}"
database_format = "{format}"
{celery}
[celery.routes]
"*" = "python"
{routes}
"""


class Process:
    """A process of a test; its log is shown when the test fails."""

    def __init__(self, arguments, log, **others):
        self.log = log
        with open(log, "ab") as out:
            self.process = subprocess.Popen(
                [str(argument) for argument in arguments], stdout=out, stderr=subprocess.STDOUT, **others
            )

    def text(self):
        return self.log.read_text(errors="replace")

    def says(self, text):
        """Waits until its log has `text`."""

        def look():
            found = text in self.text()
            assert found or self.process.poll() is None, f"it ended without a word of {text!r}:\n{self.text()}"
            return found

        wait_for(f"{text!r} in {self.log.name}", look)
        return self

    def kill(self):
        self.process.kill()
        self.process.wait(LIMIT)

    def stop(self):
        """SIGTERM, and its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(LIMIT)

    def end(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(LIMIT)
            except subprocess.TimeoutExpired:
                self.kill()


class Longshore:
    """Longshore as a test configures it. `more` is TOML that comes after the usual; a worker is a process."""

    def __init__(self, folder, vhost, database):
        self.folder, self.vhost, self.database = folder, vhost, database
        self.config = folder / "longshore.toml"
        self.processes = []
        self.configure()

    def configure(self, results="rpc", celery="", more="", old="", new=""):
        """Writes the configuration and migrates; `old` in the usual one becomes `new`, `celery` goes into that section."""
        from application import LONGSHORE

        text = CONFIG.format(
            store=self.database.url,
            broker=self.vhost.url.replace("guest:guest@", "guest@"),
            results=results,
            celery=celery,
            format="json" if CELERY >= (5, 7) else "pickle",
            routes="\n".join(f'"{name}" = "longshore"' for name in LONGSHORE),
        )
        assert old in text
        self.config.write_text((text.replace(old, new) if old else text) + more)
        self.cli("migrate")

    def cli(self, *arguments):
        """Runs a verb and returns what it printed."""
        done = subprocess.run(
            [PROGRAM, "--config", self.config, *arguments], capture_output=True, text=True, timeout=LIMIT
        )
        assert done.returncode == 0, f"longshore {arguments} ended with {done.returncode}:\n{done.stdout}{done.stderr}"
        return done.stdout

    def worker(self, pool="work", crash_at=None):
        """Starts a worker and waits until it consumes."""
        environment = {**os.environ, "LONGSHORE_LOG": "debug,sqlx=error,lapin=off"}
        if crash_at:
            environment["LONGSHORE_CRASH_AT"] = crash_at
        log = self.folder / f"longshore-{len(self.processes)}.log"
        process = Process([PROGRAM, "--config", self.config, "run", "--pool", pool], log, env=environment)
        self.processes.append(process)
        return process.says("consuming")

    def state(self, task_id):
        """Where a task stands; None: it has no row."""
        rows = self.database.query("select state from longshore.tasks where id = %s", str(task_id))
        return rows[0][0] if rows else None

    def reaches(self, task_id, state):
        wait_for(f"{state} of {task_id}", lambda: self.state(task_id) == state)


@pytest.fixture
def longshore(tmp_path, vhost, database, request):
    assert PROGRAM.exists(), f"{PROGRAM} is not there: cargo build --example celery_worker"
    scene = Longshore(tmp_path, vhost, database)
    yield scene
    for process in scene.processes:
        process.end()
    show(request, scene.processes)


def show(request, processes):
    if getattr(request.node, "failed", False):
        for process in processes:
            print(f"--- {process.log.name}\n{process.text()[-6000:]}")


@pytest.hookimpl(hookwrapper=True)
def pytest_runtest_makereport(item, call):
    outcome = yield
    if outcome.get_result().failed:
        item.failed = True


@pytest.fixture
def app(vhost):
    """A Celery application, as a client; results come by rpc://."""
    from application import make

    made = make(vhost.url, "rpc://")
    yield made
    made.close()


@pytest.fixture(params=["rpc", "database", "django"])
def each(request, vhost, database, longshore, python_worker):
    """The same with each result backend, on all sides: an application, whose `backend` is the one for Python workers."""
    return with_results(request.param, vhost, database, longshore, python_worker)


@pytest.fixture(params=["database", "django"])
def tables(request, vhost, database, longshore, python_worker):
    """The same with those that can join a chord."""
    return with_results(request.param, vhost, database, longshore, python_worker)


# Before 5.7 the database backend keeps pickles, which Longshore writes and never reads.
@pytest.fixture(params=["django", "database"] if CELERY >= (5, 7) else ["django"])
def joined(request, vhost, database, longshore, python_worker):
    """The same with those whose chords Longshore itself joins."""
    return with_results(request.param, vhost, database, longshore, python_worker)


def with_results(results, vhost, database, longshore, python_worker):
    from application import make, use_django

    parts = database.parts
    backend = "rpc://"
    if results == "django":
        from django.core.management import call_command

        django = [parts["host"], str(parts["port"]), parts["user"], database.name]
        use_django(django)
        call_command("migrate", verbosity=0)
        python_worker.variables["TEST_DJANGO"] = ",".join(django)
        backend = "django-db"
    elif results == "database":
        backend = f"db+postgresql+psycopg2://{parts['user']}@{parts['host']}:{parts['port']}/{database.name}"
    app = make(vhost.url, backend)
    if results == "database":
        # As the first use does, but 5.2 thinks of its first database only.
        from celery.backends.database.session import ResultModelBase

        session = app.backend.ResultSession()
        ResultModelBase.metadata.create_all(session.get_bind())
        session.close()
    app.results, app.backend_url = results, backend
    longshore.configure(results)
    return app


class Workers:
    """Celery's own workers, of `application.py`."""

    def __init__(self, folder, vhost, request):
        self.folder, self.vhost, self.request, self.processes = folder, vhost, request, []
        self.variables = {}

    def __call__(self, queues="python", backend="rpc://", more=()):
        """Starts a worker and waits until it is ready."""
        log = self.folder / f"python-{len(self.processes)}.log"
        environment = {
            **os.environ,
            "PYTHONPATH": str(HERE),
            "TEST_BROKER": self.vhost.url,
            "TEST_BACKEND": backend,
            "TEST_FOLDER": str(self.folder),
            **self.variables,
        }
        process = Process(
            [
                *(sys.executable, "-m", "celery", "-A", "application:app", "worker", "-Q", queues, "-P", "solo"),
                *("--loglevel", "INFO", "--without-gossip", "--without-mingle"),
                *("-n", f"python{len(self.processes)}@here", *more),
            ],
            log,
            env=environment,
            cwd=self.folder,
        )
        self.processes.append(process)
        return process.says(" ready.")


@pytest.fixture
def python_worker(tmp_path, vhost, request):
    workers = Workers(tmp_path, vhost, request)
    yield workers
    for process in workers.processes:
        process.end()
    show(request, workers.processes)
