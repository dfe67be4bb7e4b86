"""What readers see when workers are killed, SQUAD's own and Longshore's at the same moments:
`scripts/services --fast -- target/tools/squad/bin/python tests/squad/kills.py [ROUNDS] [ENGINE…]`.

Each round is one test job with a CTS result of two chunks. Both workers of an engine (fetches, post-processing) get SIGKILL
at the moment, and two others are started. Where the build's status is reckoned, SQUAD's remaining worker dies with them: with
Longshore, it is the one that does that. A reader looks at the database all the while. When all queues are empty, SQUAD's
poll runs once, as it does every hour, and what it begins runs to its end. Prints a table;
ends with 1 if Longshore has lost, halved or doubled anything.
"""

import collections
import contextlib
import itertools
import pathlib
import re
import sys
import tempfile
import threading

import psycopg2

import cts
import engines
from installation import FETCH, NOTIFICATION, POSTPROCESS, REST, Installation, migrate
from lava import Lava
from longshore import Longshore
from longshore import migrate as migrate_longshore
from scenarios import CTS, SMOKE, tradefed_job
from services import LIMIT, Database, wait_for
from windows import Proxy, Readers, ended, row_of, state

SETTINGS = "PLUGINS_TRADEFED_EXTRACT_AGGREGATED: true"
MOMENTS = {
    "undisturbed": "no kill",
    "fetch": "LAVA is asked for suites",
    "committed": "the fetch is committed, nothing of it has reached the broker",
    "postprocess": "the archive is loaded",
    "rows": "between two rows of the archive's second chunk",
    "status": "the build's status is written",
}
# Tests of the whole, and of its fetch and the archive's first chunk, with some of the second.
TESTS, BETWEEN = 277, 265
# A number that no other lock of this database has.
LOCK = 47_114_711


class Stalling(Proxy):
    """A broker that takes nothing for a while, though its connections stand."""

    def __init__(self, host, port):
        self.passing = threading.Event()
        self.passing.set()
        super().__init__(host, port)

    def copy(self, source, sink):
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                self.passing.wait()
                sink.sendall(data)


class Watch(Readers):
    """Remembers of which test jobs a reader has seen a part."""

    def __init__(self, site):
        self.parts, self.broken = collections.defaultdict(set), []
        super().__init__(site, web=False)

    def problem(self, text):
        found = re.search(r"(?:run|statuses) of (\d+)", text)
        if found:
            self.parts[found[1]].add(text)
        else:
            self.broken.append(text)


class Squad:
    """SQUAD's two workers."""

    COMMITTED = """select 1 from ci_testjob t join core_testrun r on r.id = t.testrun_id
                   where r.status_recorded and t.id = %s"""

    def __init__(self, site, broker):
        self.site, self.environment, self.workers = site, {"SQUAD_CELERY_BROKER_URL": broker}, []

    def start(self):
        self.workers = [self.site.worker(queue, environment=self.environment) for queue in (FETCH, POSTPROCESS)]
        for worker in self.workers:
            worker.wait_for_line(" ready.")

    def kill(self):
        for worker in self.workers:
            worker.kill()

    def settle(self, _pk):
        for queue in (FETCH, FETCH, POSTPROCESS, FETCH, FETCH, FETCH, NOTIFICATION):
            self.site.drained(queue)


class InPlaceOfSquad(Squad):
    """Longshore's two pools."""

    COMMITTED = "select 1 from longshore.outbox where %s > 0"

    def __init__(self, site, broker):
        super().__init__(site, broker)
        # The end is told again after this long, where SQUAD has not acted on it.
        self.config = engines.configuration(site).replace("[squad]", '[squad]\npatience = "5s"').replace(site.vhost.url, broker)
        migrate_longshore(site, self.config)
        site.declare(FETCH, POSTPROCESS, *REST)

    def start(self):
        started = [Longshore(self.site, pool, self.config) for pool in ("fetch", "postprocess")]
        self.workers = [worker.wait_ready().process for worker in started]

    def settle(self, pk):
        # What is not ended by then is stuck, and counted so.
        with contextlib.suppress(AssertionError):
            ended(self.site, pk, limit=2 * LIMIT)


ENGINES = {"squad": Squad, "longshore": InPlaceOfSquad}


@contextlib.contextmanager
def gate(site):
    """Whoever comes to the place that `waits_at` names waits there, for as long as the block lasts."""
    connection = psycopg2.connect(site.database.url)
    connection.autocommit = True
    with connection.cursor() as cursor:
        cursor.execute("select pg_advisory_lock(%s)", [LOCK])
    try:
        yield
    finally:
        connection.close()


def triggers(site):
    """Places in the database where a writer can be held: `kills_wait` has builds, and how many tests of a run are enough, or
    null for the build's status."""
    site.database.rows(
        f"""
        create table kills_wait (build integer primary key, tests integer);
        create function kills_at_test() returns trigger language plpgsql as $$ begin
          if exists (select from public.kills_wait w where w.build = new.build_id
                     and w.tests <= (select count(*) from public.core_test t where t.test_run_id = new.test_run_id)) then
            perform pg_advisory_xact_lock_shared({LOCK});
          end if;
          return new;
        end $$;
        create function kills_at_status() returns trigger language plpgsql as $$ begin
          if exists (select from public.kills_wait w join public.ci_testjob j on j.target_build_id = w.build
                     where w.build = new.build_id and w.tests is null and j.job_status = 'Complete') then
            perform pg_advisory_xact_lock_shared({LOCK});
          end if;
          return new;
        end $$;
        create trigger kills_at_test before insert on core_test for each row execute function kills_at_test();
        create trigger kills_at_status before insert or update on core_projectstatus for each row execute function kills_at_status()
        """
    )


def waits(site):
    return site.database.rows(
        "select 1 from pg_locks where locktype = 'advisory' and objid = %s and not granted", [LOCK]
    )


class Scene:
    """One engine beside one SQUAD."""

    def __init__(self, name, template, folder):
        self.site = Installation(template, folder)
        triggers(self.site)
        address = self.site.vhost.url.removeprefix("amqp://").partition("@")[2]
        host, _, port = address.partition("/")[0].rpartition(":")
        self.proxy = Stalling(host, int(port))
        broker = self.site.vhost.url.replace(f":{port}", f":{self.proxy.port}")
        self.lava, self.watch, self.numbers = Lava(), Watch(self.site), itertools.count(7000)
        self.engine = ENGINES[name](self.site, broker)
        self.remaining()
        self.engine.start()

    def remaining(self):
        self.rest = self.site.worker()
        self.rest.wait_for_line(" ready.")

    def close(self):
        self.watch.close()
        self.proxy.close()
        self.lava.close()
        self.site.close()

    def prepare(self):
        number = next(self.numbers)
        job, columns = tradefed_job(self.lava.serve(f"{number}.tar.xz", cts.archive(CTS)))
        job.suites["1_speed"] = SMOKE["2_speed"]
        self.lava.add(job, number)
        build = self.site.build(f"kills/{number}", plugins=["tradefed"], settings=SETTINGS)
        pk = self.site.testjob(build, self.site.backend("lab", self.lava.rest), number, **columns)
        return number, build, pk

    def play(self, moment, whole):
        """One round. Returns what became of the test job; `whole` is what its test run has, None: not known yet."""
        number, build, pk = self.prepare()
        if whole:
            self.watch.expect(number, build, *whole)
        getattr(self, moment)(number, build, pk)
        self.engine.settle(pk)
        return number, pk

    def die(self, rest=False):
        self.engine.kill()
        if rest:
            self.rest.kill()

    def again(self, rest=False):
        if rest:
            self.remaining()
        self.engine.start()

    def undisturbed(self, _number, _build, pk):
        self.site.fetch(pk)

    def held(self, request, pk):
        at = self.lava.hold(request)
        self.site.fetch(pk)
        at.wait_reached()
        return at

    def fetch(self, number, _build, pk):
        at = self.held(f"jobs/{number}/suites/", pk)
        self.die()
        at.open()
        self.again()

    def postprocess(self, number, _build, pk):
        at = self.held(f"/files/{number}.tar.xz", pk)
        self.die()
        at.open()
        self.again()

    def committed(self, number, _build, pk):
        at = self.held(f"jobs/{number}/logs/", pk)
        self.proxy.passing.clear()
        at.open()
        self.site.wait_for("the fetch's commit", self.engine.COMMITTED, pk)
        self.die()
        self.proxy.down()
        self.proxy.passing.set()
        self.proxy.up()
        self.again()

    def rows(self, _number, build, pk):
        self.written(build, BETWEEN, pk)

    def status(self, _number, build, pk):
        self.written(build, None, pk)

    def written(self, build, tests, pk):
        self.site.database.rows("insert into kills_wait values (%s, %s)", [build, tests])
        with gate(self.site):
            self.site.fetch(pk)
            wait_for("a writer at the gate", lambda: waits(self.site))
            self.die(rest=tests is None)
        self.site.database.rows("delete from kills_wait")
        self.again(rest=tests is None)


def became(site, pk, whole):
    """What SQUAD shows of a test job in the end."""
    found = state(site, pk)
    told = site.database.rows(
        """select 1 from ci_testjob t join core_projectstatus s on s.build_id = t.target_build_id
           where t.id = %s and s.finished and s.notified""",
        [pk],
    )
    if not found["fetched"]:
        return "lost"
    if found["job_status"] == "Fetching":
        return "stuck"
    if found["testruns"] > 1 or found["tests"] > whole[0] or found["attachments"] > whole[2]:
        return "doubled"
    if (found["tests"], found["attachments"]) != (whole[0], whole[2]):
        return "incomplete"
    return "whole" if told else "untold"


def whole_of(site, pk):
    """What the test run has that nobody disturbed."""
    row = row_of(site, pk)
    (counts,) = site.database.rows(
        """select (select count(*) from core_test where test_run_id = %(run)s)::int as tests,
                  (select count(*) from core_metric where test_run_id = %(run)s)::int as metrics,
                  (select count(*) from core_attachment where test_run_id = %(run)s)::int as attachments""",
        {"run": row["testrun_id"]},
    )
    return counts["tests"], counts["metrics"], counts["attachments"]


def run(name, template, folder, rounds):
    """A line for each moment: how many of the rounds ended how."""
    scene = Scene(name, template, folder)
    try:
        _, first = scene.play("undisturbed", None)
        whole = whole_of(scene.site, first)
        assert whole[0] == TESTS, whole
        print(f"{name}: a test run has {whole}", file=sys.stderr, flush=True)
        lines = {}
        for moment in MOMENTS:
            jobs = []
            for _ in range(rounds):
                jobs.append(scene.play(moment, whole))
                print(f"{name} {moment}: {became(scene.site, jobs[-1][1], whole)}", file=sys.stderr, flush=True)
            lines[moment] = [jobs, collections.Counter(became(scene.site, pk, whole) for _, pk in jobs), None]
        poll(scene, lines)
        for moment, line in lines.items():
            jobs = line[0]
            line[2] = collections.Counter(became(scene.site, pk, whole) for _, pk in jobs)
            line[0] = sum(1 for number, _ in jobs if scene.watch.parts[str(number)])
        assert scene.watch.broken == [], scene.watch.broken
        return lines
    finally:
        scene.close()


def poll(scene, lines):
    """SQUAD's poll, when the time has come for each test job that is not fetched; and what it begins."""
    scene.site.database.rows(
        """update ci_testjob set last_fetch_attempt = now() - interval '2 hours'
           where not fetched and last_fetch_attempt is not null"""
    )
    scene.site.publish("squad.ci.tasks.poll", queue="ci_poll")
    scene.site.drained("ci_poll")
    for jobs, *_ in lines.values():
        for _, pk in jobs:
            scene.engine.settle(pk)


def main():
    rounds = int((sys.argv + ["5"])[1])
    only = sys.argv[2:] or list(ENGINES)
    template, found = Database(), {}
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        migrate(template, folder)
        for name in only:
            found[name] = run(name, template, folder / name, rounds)
        template.drop()
    print(f"{rounds} rounds each")
    print("| killed when | engine | seen in part | before the next poll | in the end |\n|---|---|---|---|---|")
    for moment, what in MOMENTS.items():
        for name in only:
            seen, before, after = found[name][moment]
            text = [", ".join(f"{count} {kind}" for kind, count in sorted(counts.items())) for counts in (before, after)]
            print(f"| {what} | {name} | {seen} | {text[0]} | {text[1]} |")
    ours = found.get("longshore", {}).values()
    sys.exit(any(seen or set(before) != {"whole"} for seen, before, _after in ours))


if __name__ == "__main__":
    main()
