"""Numbers beside SQUAD's own workers, in one run: `scripts/services -- PYTHON tests/squad/bench.py fetch|cts [COUNT] [ENGINE…]`.

fetch  test jobs of the fake backend: how many a second are collected, from the first to the last one's end in the database; and the
       processor time of each (which says more than the seconds where others use the machine)
cts    one test job with a CTS result of COUNT tests: from its message to the end of the test job; with the engine `bare` nothing but
       `insert … select` of such tests into SQUAD's tables, from a table beside them: what their indexes and foreign keys cost

Prints a line for each engine. Longshore is the release program: `cargo build --release` first.
"""

import os
import pathlib
import sys
import tempfile
import time

import psycopg2

import cts
import engines
import longshore
from installation import REST, Installation, migrate
from lava import Job, Lava
from scenarios import tradefed_job
from services import Database


class Pair(engines.Squad):
    """SQUAD's own workers, with two processes for fetches."""

    def __init__(self, site):
        self.site = site
        self.workers = [site.worker(engines.FETCH, arguments=["--concurrency=2"]), site.worker(engines.POSTPROCESS)]


class Held(engines.InPlaceOfSquad):
    """Longshore, with the foreign keys of many tests left to it."""

    KEYS = "held"


class Wide(engines.InPlaceOfSquad):
    """Longshore, with the slots of an elastic worker in a pod."""

    SLOTS = 32


class Twins(engines.InPlaceOfSquad):
    """Two of Longshore's workers for fetches, as `Pair` has two processes; of few slots a transaction has few test jobs."""

    SLOTS = 64

    def __init__(self, site):
        super().__init__(site)
        config = engines.configuration(site, self.SLOTS, self.KEYS)
        self.workers.append(longshore.Longshore(site, "fetch", config).wait_ready())


ENGINES = {**engines.ENGINES, "pair": Pair, "held": Held, "wide": Wide, "twins": Twins}
longshore.PROGRAM = longshore.PROGRAM.parents[1] / "release" / "longshore"


def peak(processes):
    """The largest resident size of each process, in MiB."""
    sizes = []
    for process in processes:
        status = pathlib.Path(f"/proc/{process.child.pid}/status").read_text()
        line = next(line for line in status.splitlines() if line.startswith("VmHWM"))
        sizes.append(int(line.split()[1]) // 1024)
    return sizes


def spent(belongs):
    """Seconds of processor time of the processes that belong (by their parent and session), and of their children that have ended."""
    total = 0
    for entry in pathlib.Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = entry.read_text().rpartition(")")[2].split()
        except (FileNotFoundError, ProcessLookupError):
            continue  # it has ended, and is in its parent's account
        if belongs(int(entry.parent.name), int(fields[1]), int(fields[3])):
            total += sum(map(int, fields[11:15]))
    return total / os.sysconf("SC_CLK_TCK")


def spent_by_postgres(site):
    """The same of PostgreSQL: its server, and all that it has started."""
    folder = site.database.row("select current_setting('data_directory') as folder")["folder"]
    server = int(pathlib.Path(folder, "postmaster.pid").read_text().split()[0])
    return spent(lambda pid, parent, session: server in (pid, parent))


def fetch(site, engine, count):
    backend = site.backend("fake", "http://127.0.0.1:1", kind="fake")
    build = site.build()
    for number in range(count):
        site.testjob(build, backend, f"{number + 1}", "board")
    jobs = [row["id"] for row in site.database.rows("select id from ci_testjob order by id")]
    for job in jobs:
        site.fetch(job)
    before, others = spent_by_postgres(site), len(site.processes)
    started = engine(site)
    site.wait_for("all test jobs", "select 1 where not exists (select 1 from ci_testjob where not fetched or testrun_id is null)", limit=600)
    seconds = float(site.database.rows("select extract(epoch from max(fetched_at) - min(fetched_at)) as s from ci_testjob")[0]["s"])
    sessions = {process.pid for process in site.processes[others:]}
    worker = spent(lambda pid, parent, session: session in sessions)
    postgres = spent_by_postgres(site) - before
    print(
        f"fetch {engine.__name__}: {(count - 1) / seconds:.1f} test jobs/s ({count} in {seconds:.1f} s); processor time of a test job: "
        f"worker {worker / count * 1000:.1f} ms, PostgreSQL {postgres / count * 1000:.1f} ms",
        flush=True,
    )
    return started


def one_cts(site, engine, archive, count):
    lava = Lava()
    job, columns = tradefed_job(lava.serve("tradefed-output.tar.xz", archive))
    build = site.build(plugins=["tradefed"], settings="PLUGINS_TRADEFED_EXTRACT_AGGREGATED: true")
    testjob = site.testjob(build, site.backend("rest", lava.rest), lava.add(job), "board", **columns)
    started = engine(site)
    rest = site.worker(*REST)
    begun = time.monotonic()
    site.fetch(testjob)
    site.wait_for("the test job", "select 1 from ci_testjob where fetched and job_status = 'Complete'", limit=1800)
    seconds = time.monotonic() - begun
    tests = site.database.rows("select count(*) as n from core_test")[0]["n"]
    print(f"cts {engine.__name__}: {seconds:.1f} s for {tests} tests, peaks {peak(site.processes)} MiB", flush=True)
    rest.kill()
    lava.close()
    return started


BARE_ROWS = """
    create unlogged table bare_rows as
    select 'cts-lkft/arm64-v8a.CtsModule' || module as suite, 'com.example.module' || module || '.Case' || kase || '.test' || test as name,
      test < 21 as result, case when test = 21 then 'java.lang.AssertionError: made up' end as log
    from generate_series(0, 99) module, generate_series(0, greatest(1, %s / 2200) - 1) kase, generate_series(0, 21) test
"""
BARE_SUITES = "insert into core_suite (slug, project_id) select distinct suite, %s from bare_rows"
BARE_NAMES = "insert into core_suitemetadata (kind, suite, name) select 'test', suite, name from bare_rows order by suite, name"
BARE_TESTS = """
    insert into core_test (result, suite_id, test_run_id, log, metadata_id, has_known_issues, build_id, environment_id)
    select b.result, s.id, r.id, b.log, m.id, false, r.build_id, r.environment_id
    from bare_rows b join core_suite s on s.slug = b.suite join core_suitemetadata m on m.kind = 'test' and m.suite = b.suite and m.name = b.name
    cross join core_testrun r
"""


def bare(site, count):
    """The rows of a CTS result, without any program between them and SQUAD's tables."""
    project = site.inside(
        """
        build = core.Build.objects.get(pk=build)
        environment = build.project.environments.create(slug='board')
        build.test_runs.create(environment=environment, job_id='1')
        result = build.project.pk
        """,
        build=site.build(),
    )
    connection = psycopg2.connect(site.database.url)
    connection.autocommit = True
    cursor = connection.cursor()

    def seconds(statement, *values):
        begun = time.monotonic()
        cursor.execute(statement, values)
        return time.monotonic() - begun

    def written(statement):
        cursor.execute("begin")
        inserted = seconds(statement)
        return f"{inserted:.1f} s and its commit {seconds('commit'):.1f} s"

    cursor.execute(BARE_ROWS, [count])
    cursor.execute(BARE_SUITES, [project])
    cursor.execute("analyze bare_rows; analyze core_suite")
    names = written(BARE_NAMES)
    cursor.execute("analyze core_suitemetadata")
    checked = written(BARE_TESTS)
    tests = site.database.row("select count(*) as n from core_test")["n"]
    cursor.execute("truncate core_test cascade; set session_replication_role = replica")
    unchecked = written(BARE_TESTS)
    connection.close()
    print(
        f"cts bare: {tests} names {names}; tests {checked}; tests without a look at their foreign keys {unchecked}",
        flush=True,
    )


def main():
    what, count = sys.argv[1], int((sys.argv + ["0"])[2]) or {"fetch": 2000, "cts": 1_000_000}[sys.argv[1]]
    only = sys.argv[3:] or ["squad", "longshore"]
    template = Database()
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        migrate(template, folder)
        archive = cts.archive(cts.generated(count)) if what == "cts" and only != ["bare"] else None
        for name in only:
            site = Installation(template, folder / name)
            try:
                if name == "bare":
                    bare(site, count)
                elif what == "fetch":
                    fetch(site, ENGINES[name], count)
                else:
                    one_cts(site, ENGINES[name], archive, count)
            finally:
                site.close()
        template.drop()


main()
