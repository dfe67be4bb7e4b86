"""What the tests of SQUAD's windows share: Longshore in lanes of its own beside one SQUAD, and readers that look all the
time for what must never be seen.
"""

import contextlib
import json
import socket
import threading
import time

import psycopg2
import requests
from psycopg2.extras import RealDictCursor

from longshore import Longshore, migrate
from services import LIMIT, wait_for

# A test job's results: how many tests, metrics and attachments its test run has, when it has all.
LEFT = "Fetching"


class Lane:
    """One Longshore beside SQUAD: its own schema and queues, so that several run beside each other. `options` are keys
    of `[squad]`; `queues` are SQUAD's, the one for fetches first."""

    def __init__(self, site, name, broker=None, attempts=10, slots=1, queues=None, **options):
        self.site, self.name = site, name
        queues = queues or [f"ci_fetch_{name}"]
        self.fetch_queue = queues[0]
        self.python_queue = options.setdefault("python_queue", "celery")
        self.queue = options.setdefault("postprocess_queue", f"longshore_{name}")
        options.setdefault("patience", "1h")
        keys = "\n".join(f"{key} = {json.dumps(value)}" for key, value in options.items())
        storage, more = site.for_longshore()
        self.config = f"""
[store]
url = "{site.database.url}"
schema = "longshore_{name}"
connections = 4

[testjobs]
store = "squad"

[squad]
storage = "{storage}"
{keys}

[broker]
url = "{broker or site.vhost.url}"
queue_type = "classic"

[http]
listen = "127.0.0.1:0"

[tasks.default]
attempts = {attempts}
backoff_min = "200ms"

[pools.all]
kind = "pinned"
queues = {json.dumps([*queues, self.queue])}
slots = {slots}
{more}
"""
        migrate(site, self.config)
        site.declare(*queues)

    def start(self, **variables):
        return Longshore(self.site, "all", self.config, **variables)

    def fetch(self, testjob, **kwargs):
        """What SQUAD sends when a test job is to be fetched."""
        return self.publish("squad.ci.tasks.fetch", testjob, kwargs=kwargs)

    def publish(self, name, *args, **options):
        return self.site.publish(name, *args, queue=self.fetch_queue, **options)

    @contextlib.contextmanager
    def running(self, **variables):
        """A worker of this lane for as long as the block lasts; it drains after it."""
        worker = self.start(**variables).wait_ready()
        yield worker
        worker.stop()


def row_of(site, pk):
    return site.database.row("select * from ci_testjob where id = %s", [pk])


def ended(site, pk, limit=LIMIT):
    """Waits until SQUAD's build says that the test job is over, and has been told."""
    site.wait_for(
        f"the end of test job {pk}",
        """select 1 from ci_testjob t join core_projectstatus s on s.build_id = t.target_build_id
           where t.id = %s and t.fetched and t.job_status <> 'Fetching' and s.notified""",
        pk,
        limit=limit,
    )
    return row_of(site, pk)


def state(site, pk):
    """What SQUAD's readers see of a test job: its row's state, and how much of its test run."""
    return site.database.row(
        """select t.fetched, t.job_status, t.testrun_id is not null as linked, count(r.id) as testruns,
                  coalesce(sum((select count(*) from core_test c where c.test_run_id = r.id)), 0)::int as tests,
                  coalesce(sum((select count(*) from core_attachment c where c.test_run_id = r.id)), 0)::int as attachments
           from ci_testjob t left join core_testrun r on r.build_id = t.target_build_id and r.job_id = t.job_id
           where t.id = %s group by t.id""",
        [pk],
    )


class Readers:
    """Two readers, of the database and of the API, that look until `close` and remember what must not be.

    They know of the test jobs that `expect` names. A test run is there with all results or not at all, its statuses say
    what its tests say, and a build that says that it is finished has all its test runs whole.
    """

    RUNS = """
        select r.id, r.job_id, r.build_id, t.tests, t.pass, t.fail, t.xfail, t.skip, t.suites, m.metrics, a.attachments,
               s.tests_pass, s.tests_fail, s.tests_xfail, s.tests_skip, s.statuses, r.status_recorded, r.data_processed,
               exists (select 1 from ci_testjob j where j.testrun_id = r.id) as linked
        from core_testrun r
        cross join lateral (
          select count(*) as tests, count(distinct suite_id) as suites, count(*) filter (where result) as pass,
                 count(*) filter (where not result and has_known_issues is not true) as fail,
                 count(*) filter (where not result and has_known_issues) as xfail, count(*) filter (where result is null) as skip
          from core_test where test_run_id = r.id) t
        cross join lateral (select count(*) as metrics from core_metric where test_run_id = r.id) m
        cross join lateral (select count(*) as attachments from core_attachment where test_run_id = r.id) a
        cross join lateral (
          select max(tests_pass) filter (where suite_id is null) as tests_pass, max(tests_fail) filter (where suite_id is null) as tests_fail,
                 max(tests_xfail) filter (where suite_id is null) as tests_xfail, max(tests_skip) filter (where suite_id is null) as tests_skip,
                 count(*) filter (where suite_id is not null) as statuses
          from core_status where test_run_id = r.id) s
        where r.job_id = any(%s)"""
    BUILDS = """
        select j.target_build_id as build, j.job_id, r.id as testrun, coalesce(s.finished, false) as told
        from ci_testjob j left join core_testrun r on r.build_id = j.target_build_id and r.job_id = j.job_id
        left join core_projectstatus s on s.build_id = j.target_build_id
        where j.job_id = any(%s) and (s.finished or not exists (
          select 1 from ci_testjob o where o.target_build_id = j.target_build_id and (not o.fetched or o.job_status = 'Fetching')))"""

    def __init__(self, site, web=True):
        self.site, self.expected, self.builds, self.problems = site, {}, {}, []
        self.looks = {"database": 0, "web": 0}
        self.whole = set()  # (reader, job id) seen whole
        self.over, self.lock = threading.Event(), threading.Lock()
        self.threads = [threading.Thread(target=self.read, args=["database", self.look, 0.01], daemon=True)]
        if web:
            self.headers = {"Authorization": f"Token {site.token()}"}
            self.web = site.start_web()
            self.threads.append(threading.Thread(target=self.read, args=["web", self.browse, 0.1], daemon=True))
        for thread in self.threads:
            thread.start()

    def expect(self, job_id, build, tests, metrics=0, attachments=0):
        """That test job's run has so much; again with other numbers: those are right too."""
        with self.lock:
            self.expected.setdefault(str(job_id), set()).add((tests, metrics, attachments))
            if tests < 1000:  # the web server takes long to list more
                self.builds[str(job_id)] = build

    def known(self):
        with self.lock:
            return {job_id: set(whole) for job_id, whole in self.expected.items()}, dict(self.builds)

    def read(self, name, look, pause):
        while not self.over.wait(pause):
            try:
                look(*self.known())
            except Exception as error:  # a reader that cannot read shows nothing
                self.problem(f"{name}: {error!r}")
                return
            self.looks[name] += 1

    def problem(self, text):
        with self.lock:
            if text not in self.problems:
                self.problems.append(text)

    def look(self, expected, _builds):
        """One moment of the database."""
        connection = psycopg2.connect(self.site.database.url, cursor_factory=RealDictCursor)
        try:
            connection.set_session(isolation_level="REPEATABLE READ", readonly=True)
            with connection.cursor() as cursor:
                cursor.execute(self.RUNS, [list(expected)])
                runs = cursor.fetchall()
                cursor.execute(self.BUILDS, [list(expected)])
                finished = cursor.fetchall()
        finally:
            connection.close()
        for run in runs:
            self.check(expected, run)
        for build in finished:
            if build["testrun"] is None:
                self.problem(f"build {build['build']} is finished without the run of {build['job_id']}")

    def check(self, expected, run):
        has = (run["tests"], run["metrics"], run["attachments"])
        if has not in expected[run["job_id"]]:
            self.problem(f"the run of {run['job_id']} shows {has} instead of {expected[run['job_id']]}")
        if not (run["linked"] and run["status_recorded"] and run["data_processed"]):
            self.problem(f"the run of {run['job_id']} is not finished: {dict(run)}")
        counted = [run[name] for name in ("pass", "fail", "xfail", "skip")]
        if counted != [run["tests_" + name] for name in ("pass", "fail", "xfail", "skip")] or run["statuses"] < run["suites"]:
            self.problem(f"the statuses of {run['job_id']} are not those of its tests: {dict(run)}")
        self.whole.add(("database", run["job_id"]))

    def get(self, path):
        answer = requests.get(self.web + path, headers=self.headers, timeout=LIMIT)
        return answer.json() if answer.status_code == 200 else None

    def browse(self, expected, builds):
        """What programs see by the web server, of what has not been seen whole."""
        for job_id, build in builds.items():
            if ("web", job_id) in self.whole or self.over.is_set():
                continue
            page = self.get(f"/api/builds/{build}/")
            told = bool(page and page["finished"])
            runs = self.get(f"/api/builds/{build}/testruns/")["results"]
            if told and not runs:
                self.problem(f"web: build {build} is finished without a run")
            for run in runs:
                tests = self.get(f"/api/testruns/{run['id']}/tests/?limit=1000")
                statuses = self.get(f"/api/testruns/{run['id']}/status/")
                if tests is None or statuses is None or run["job_id"] not in expected:
                    continue  # replaced since
                tests = len(tests["results"])
                if tests not in {whole[0] for whole in expected[run["job_id"]]}:
                    self.problem(f"web: the run of {run['job_id']} shows {tests} tests")
                (overall,) = [row for row in statuses["results"] if row["suite"] is None]
                counted = sum(overall[f"tests_{name}"] for name in ("pass", "fail", "xfail", "skip"))
                if counted != tests:
                    self.problem(f"web: the status of {run['job_id']} counts {counted} tests of {tests}")
                self.whole.add(("web", run["job_id"]))

    def expect_nothing_wrong(self):
        with self.lock:
            assert self.problems == []

    def close(self):
        self.over.set()
        for thread in self.threads:
            thread.join()


class Proxy:
    """Stands before RabbitMQ, and can be gone for a while."""

    def __init__(self, host, port):
        self.target, self.connections, self.lock, self.is_down = (host, port), [], threading.Lock(), False
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                ours, _ = self.listener.accept()
            except OSError:
                return
            with self.lock:
                if self.is_down:
                    ours.close()
                    continue
                theirs = socket.create_connection(self.target)
                self.connections += [ours, theirs]
            for pair in ((ours, theirs), (theirs, ours)):
                threading.Thread(target=self.copy, args=pair, daemon=True).start()

    @staticmethod
    def copy(source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                sink.sendall(data)
        for end in (source, sink):
            with contextlib.suppress(OSError):
                end.shutdown(socket.SHUT_RDWR)

    def down(self):
        """Cuts everything, and takes no new connection."""
        with self.lock:
            self.is_down = True
            for connection in self.connections:
                with contextlib.suppress(OSError):
                    connection.shutdown(socket.SHUT_RDWR)
            self.connections.clear()

    def up(self):
        with self.lock:
            self.is_down = False

    def close(self):
        self.down()
        self.listener.close()


@contextlib.contextmanager
def transaction(site, *statements):
    """A transaction of somebody else's, open for as long as the block lasts; then it is undone."""
    connection = psycopg2.connect(site.database.url)
    try:
        with connection.cursor() as cursor:
            for statement in statements:
                cursor.execute(statement)
        yield connection
    finally:
        connection.rollback()
        connection.close()


def ends(process, limit=LIMIT):
    """Waits until a process has ended by itself, or `None` after `limit` seconds."""
    deadline = time.monotonic() + limit
    while process.running():
        if time.monotonic() > deadline:
            return None
        time.sleep(0.02)
    return process.child.returncode


__all__ = ["LIMIT", "Lane", "Proxy", "Readers", "ended", "ends", "row_of", "state", "transaction", "wait_for"]
