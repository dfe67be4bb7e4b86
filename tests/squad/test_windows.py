"""Every window in which SQUAD's own workers lose a test job, with Longshore in their place: a death at every step, and then
SQUAD has what it has when nothing goes wrong; all the while readers look for what must never be seen.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import signal

import pytest

import cts
from dump import differences, dump
from installation import Installation
from lava import Case, Job
from scenarios import CTS, KERNEL_LOG, METADATA, SMOKE, tradefed_job
from windows import LEFT, Lane, Proxy, Readers, ended, ends, row_of, state, transaction, wait_for

CTS_SETTINGS = "PLUGINS_TRADEFED_EXTRACT_AGGREGATED: true"
NUMBERS = itertools.count()


@pytest.fixture(scope="module")
def squad(template, tmp_path_factory):
    """One SQUAD with its web server and its remaining worker, for all lanes."""
    installation = Installation(template, tmp_path_factory.mktemp("windows") / "squad")
    installation.inside("result = None")
    installation.worker()
    yield installation
    installation.close()


@pytest.fixture(scope="module")
def readers(squad):
    looking = Readers(squad)
    yield looking
    looking.close()


@pytest.fixture(autouse=True)
def nothing_wrong_is_seen(request):
    """After each test that has readers: they have seen nothing that must not be."""
    yield
    if "readers" in request.fixturenames:
        request.getfixturevalue("readers").expect_nothing_wrong()


def lane(squad, **options):
    return Lane(squad, f"n{next(NUMBERS)}", **options)


# --- a death at every step of one test job with two plugins ---

# Where a worker ends by itself: after each thing that lasts, a commit, a message or an acknowledgement, in the order of their
# first one. Of three tasks, the fetch and two plugins; the third publishing shows the test job.
POINTS = [
    "intake:delivered#1",
    *(f"claim:after#{number}" for number in (1, 2, 3)),
    *(f"checkpoint:after#{number}" for number in range(1, 8)),
    *(
        f"{name}#{number}"
        for number in (1, 2, 3)
        for name in ("publish:ready", "publish:after", "outbox:published", "outbox_done:after", "publish:acknowledged")
    ),
]
# Where LAVA is asked, and the worker is killed before it is answered.
REQUESTS = ["jobs/JOB", "jobs/JOB/suites/", "/tests/", "jobs/JOB/logs/", "/files/JOB.tar.xz"]


@dataclasses.dataclass
class Death:
    """One test job, in whose course the worker died."""

    point: str
    job_id: int
    build: int
    testjob: int
    died: bool = False
    at_death: dict | None = None
    stuck: str | None = None
    dump: str | None = None


def prepare(squad, lava, readers, name, plugins=("tradefed", "linux_log_parser"), xml=CTS, tests=283):
    """A test job with everything that a fetch and plugins bring, in a project of its own."""
    number = 7000 + next(NUMBERS)  # as long as any other
    archive = lava.serve(f"{number}.tar.xz", cts.archive(xml))
    job, columns = tradefed_job(archive)
    job.suites["1_speed"] = SMOKE["2_speed"]
    job.log, job.metadata = KERNEL_LOG, METADATA
    job_id = lava.add(job, number)
    build = squad.build(f"windows/{number}", plugins=list(plugins), settings=CTS_SETTINGS)
    pk = squad.testjob(build, squad.backend("lab", lava.rest), job_id, **columns)
    readers.expect(job_id, build, tests, metrics=3, attachments=7)
    return Death(name, job_id, build, pk)


def request(point, job_id):
    """The text of that request for that test job."""
    return f"/suites/{job_id}00/tests/" if point == "/tests/" else point.replace("JOB", str(job_id))


def die(squad, lava, point, death):
    """Puts the test job through a worker that dies at the point, and through another."""
    own = lane(squad)
    try:
        own.fetch(death.testjob)
        if "#" in point:
            first = own.start(LONGSHORE_CRASH_AT=point).process
        elif point == "never":
            first = own.start().process
        else:
            gate = lava.hold(request(point, death.job_id))
            first = own.start().process
            gate.wait_reached()
            first.kill()
            gate.open()

        def dead_or_done():
            row = row_of(squad, death.testjob)
            return not first.running() or (row["fetched"] and row["job_status"] != "Fetching")

        wait_for(f"a death at {point}", dead_or_done)
        if point != "never":
            ends(first, 1)  # what comes after the end is soon there, or is not on the way
        death.died = not first.running()
        if death.died:
            death.at_death = state(squad, death.testjob)
            second = own.start().wait_ready()
        ended(squad, death.testjob)
        if death.died:
            second.stop()
        else:
            first.stop()
    except Exception as error:
        death.stuck = repr(error)
    return death


@pytest.fixture(scope="module")
def deaths(squad, lava, readers):
    """What SQUAD has of each test job after the death of its worker at each point."""
    lava.reset()
    points = ["never", *POINTS, *REQUESTS]
    prepared = {point: prepare(squad, lava, readers, point) for point in points}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = dict(zip(points, pool.map(lambda point: die(squad, lava, point, prepared[point]), points)))
    for death in found.values():
        number = str(death.job_id)
        death.dump = json.loads(json.dumps(dump(squad, death.build)).replace(number, "JOB"))
    return found


@pytest.mark.parametrize("point", [*POINTS, *REQUESTS])
def test_a_death_at_any_step_leaves_what_an_undisturbed_run_leaves(deaths, readers, point):
    survived(deaths, point)


def survived(deaths, *points):
    """SQUAD has the same after a death at each of these as after none. Returns what it had at the deaths."""
    undisturbed = deaths["never"]
    assert undisturbed.stuck is None
    for point in points:
        death = deaths[point]
        assert death.stuck is None
        assert death.died, f"{point} was not reached"
        assert differences(death.dump, undisturbed.dump) == []
        assert death.dump == undisturbed.dump
    return [deaths[point].at_death for point in points]


NOTHING = {"fetched": False, "job_status": "Submitted", "linked": False, "testruns": 0, "tests": 0, "attachments": 0}
ALL = {"fetched": True, "job_status": LEFT, "linked": True, "testruns": 1, "tests": 283, "attachments": 7}
ENDED = {**ALL, "job_status": "Complete"}


# --- SQUAD's rows, as the facts number them ---


def test_row_01_a_death_before_anything_is_written_needs_no_poll(deaths, readers, lava):
    """The message was acknowledged before the work, and is gone until the next poll. Here it is not, and LAVA is asked again."""
    for at_death in survived(deaths, *REQUESTS):
        assert at_death == NOTHING
    assert lava.count(f"jobs/{deaths['jobs/JOB/suites/'].job_id}/suites/?") >= 2


def test_row_02_no_job_is_said_to_be_collected_that_has_no_run(deaths, readers):
    """The test job was fetched for SQUAD before its run was there."""
    for at_death in survived(deaths, "checkpoint:after#1", "checkpoint:after#2", "publish:ready#1", "publish:after#1"):
        assert at_death == NOTHING


@pytest.mark.parametrize("left", ["empty", "full"])
def test_row_03_and_04_a_run_without_a_job_is_replaced(squad, readers, lava, left):
    """SQUAD's workers left a test run that no test job has; a fetch of the test job called it a duplicate for ever."""
    job_id = lava.add(Job(SMOKE), 7000 + next(NUMBERS))
    build = squad.build(f"windows/{job_id}")
    pk = squad.testjob(build, squad.backend("lab", lava.rest), job_id)
    squad.inside(
        """
        from squad.core.tasks import ReceiveTestRun
        build = core.Build.objects.get(pk=build)
        receive = ReceiveTestRun(build.project, update_project_status=False)
        receive(version=build.version, environment_slug='board', metadata_file='{"job_id": "%s"}' % job_id,
                tests_file='{"old/one": "pass"}')
        if left == 'empty':
            core.Test.objects.filter(build=build).delete()
            core.Status.objects.filter(test_run__build=build).delete()
        """,
        build=build,
        job_id=job_id,
        left=left,
    )
    assert state(squad, pk) == {**NOTHING, "testruns": 1, "tests": 1 if left == "full" else 0}
    own = lane(squad)
    with own.running():
        own.fetch(pk)
        assert ended(squad, pk)["failure"] is None
    assert state(squad, pk) == {**ENDED, "tests": 7, "attachments": 0}
    (run,) = dump(squad, build)["testruns"]
    assert {test["metadata_suite"] for test in run["tests"]} == {"smoke", "ltp-syscalls", "ltp-syscalls/group"}


def test_row_03_nothing_is_seen_of_a_run_that_is_not_published(deaths, readers):
    """The run was there before its tests."""
    points = ["publish:ready#2", "publish:after#2", "publish:ready#3"]
    assert survived(deaths, *points) == [NOTHING] * 3


def test_row_04_the_run_and_its_link_come_with_one_commit(deaths, readers):
    assert survived(deaths, "publish:after#3") == [ALL]


def test_row_05_a_death_before_the_message_that_goes_with_a_commit(deaths, readers):
    survived(deaths, "publish:after#1", "publish:after#2", "publish:after#3", "outbox:published#1", "outbox:published#3")


def test_row_05_the_broker_may_be_away_when_results_are_published(squad, readers, lava):
    """SQUAD's worker gave up after 0.7 s, with a test job that stays Fetching."""
    address = squad.vhost.url.removeprefix("amqp://").partition("@")[2]
    host, _, port = address.partition("/")[0].rpartition(":")
    proxy = Proxy(host, int(port))
    death = prepare(squad, lava, readers, "broker", plugins=["tradefed"], tests=277)
    gate = lava.hold(f"/files/{death.job_id}.tar.xz")
    own = lane(squad, broker=squad.vhost.url.replace(f":{port}", f":{proxy.port}"))
    with own.running():
        own.fetch(death.testjob)
        gate.wait_reached()
        proxy.down()
        gate.open()
        squad.wait_for(
            "results while the broker is away", "select 1 from core_testrun where job_id = %s", str(death.job_id)
        )
        assert state(squad, death.testjob) == {**ALL, "tests": 277}
        assert squad.database.rows(f"select 1 from longshore_{own.name}.outbox") != []
        proxy.up()
        ended(squad, death.testjob)
    proxy.close()
    assert state(squad, death.testjob) == {**ENDED, "tests": 277}


def test_row_06_a_death_between_the_fetch_and_its_plugins(deaths, readers):
    """The test job stayed Fetching, with a number of plugins that nobody ran."""
    points = ["publish:acknowledged#1", "claim:after#2", "checkpoint:after#3"]
    assert survived(deaths, *points) == [NOTHING] * 3


def test_row_07_a_death_while_a_plugin_reads(squad, readers, lava):
    """The work was lost, and its scratch kept the build's notification from being sent for ever."""
    cases = {f"com.example.Case{number}": [cts.Test(f"test{at}") for at in range(100)] for number in range(101)}
    death = prepare(squad, lava, readers, "reading", xml=cts.result_xml({("CtsMany", "arm64-v8a"): cases}), tests=10_109)
    own = lane(squad)
    own.fetch(death.testjob)
    first = own.start(LONGSHORE_CRASH_AT="stage:after#1").process
    wait_for("a death in the middle of the plugin", lambda: not first.running())
    assert state(squad, death.testjob) == NOTHING
    assert squad.database.rows(f"select 1 from longshore_{own.name}.staged_tests offset 9000") != []
    with own.running():
        ended(squad, death.testjob)
    build = dump(squad, death.build)
    assert state(squad, death.testjob) == {**ENDED, "tests": 10_109}
    assert build["plugin_scratch"] == [] and build["project_status"][0]["notified"]


def test_row_08_no_part_of_the_work_is_published_without_the_rest(deaths, readers):
    """A death between N messages left a counter that never came to 0. Here all messages are rows of the commit before."""
    assert survived(deaths, "publish:after#1", "outbox:published#1", "outbox_done:after#1") == [NOTHING] * 3


def test_row_09_a_job_is_complete_with_its_attachments_only(deaths, readers):
    assert survived(deaths, "checkpoint:after#4", "checkpoint:after#5", "checkpoint:after#6", "publish:ready#3") == [NOTHING] * 4


def test_row_10_tests_are_seen_all_or_not_at_all(deaths, readers):
    """3 656 of 6 273 tests were seen after a death, for ever."""
    for death in deaths.values():
        assert death.at_death is None or death.at_death["tests"] in (0, 283)
    survived(deaths, "publish:ready#3", "publish:after#3")


def test_row_11_what_the_database_refuses_is_tried_again(squad, readers, lava):
    """A part whose rows could not be written was dropped, and the test job Complete without them."""
    death = prepare(squad, lava, readers, "refused")
    squad.database.rows(
        f"""create function refuse() returns trigger language plpgsql as $$ begin
            if new.build_id = {death.build} then raise exception 'refused, for a test'; end if; return new; end $$;
            create trigger refuse before insert on core_test for each row execute function refuse()"""
    )
    own = lane(squad)
    with own.running():
        own.fetch(death.testjob)
        try:
            squad.wait_for("a failure", f"select 1 from longshore_{own.name}.tasks where failures > 0")
            assert state(squad, death.testjob) == NOTHING
        finally:
            squad.database.rows("drop function refuse() cascade")
        ended(squad, death.testjob)
    assert state(squad, death.testjob) == ENDED


def test_row_12_the_end_is_told_after_a_death_before_it_was(deaths, readers):
    """The counter was gone, and the message that it should have led to."""
    points = ["publish:after#3", "publish:acknowledged#3"]
    assert survived(deaths, *points)[0] == ALL



def test_row_13_a_run_is_never_without_its_status(squad, readers, lava):
    """Statuses were deleted and reckoned anew with a commit between. Here Python has collected a test job whose plugin
    Longshore runs, dies before and after it adds to the run, and the statuses are always those of its tests."""
    job_id, build, pk = tradefed_here(squad, lava)
    python = squad.worker("ci_fetch")
    squad.fetch(pk)
    own = lane(squad, queues=["ci_fetch_postprocess"])
    squad.wait_for("what Python collected", "select 1 from ci_testjob where id = %s and subtasks_count = 1", pk)
    squad.drained("ci_fetch")
    python.stop()
    assert state(squad, pk) == {**ALL, "tests": 9, "attachments": 0}
    readers.expect(job_id, build, 9, 3, 0)
    readers.expect(job_id, build, 283, 3, 7)
    for point, tests in (("publish:ready#2", 9), ("publish:after#1", 283)):
        worker = own.start(LONGSHORE_CRASH_AT=point).process
        wait_for(f"a death at {point}", lambda: not worker.running())
        assert state(squad, pk)["tests"] == tests
    with own.running():
        ended(squad, pk)
    assert state(squad, pk) == ENDED
    build = dump(squad, build)
    assert build["testjobs"][0]["subtasks_count"] == 0 and build["finished"] == [True, []]


def tradefed_here(squad, lava):
    """As `prepare`, for test jobs that Python collects, whose runs are seen before they are whole."""

    class Nobody:
        @staticmethod
        def expect(*arguments, **options):
            pass

    death = prepare(squad, lava, Nobody, "python")
    return death.job_id, death.build, death.testjob


def smoke(squad, lava, readers, job=None, tests=7, metrics=3, plugins=(), **columns):
    """A test job without plugins; its number, build and primary key."""
    job_id = lava.add(job or Job(SMOKE), 7000 + next(NUMBERS))
    build = squad.build(f"windows/{job_id}", plugins=list(plugins))
    pk = squad.testjob(build, squad.backend("lab", lava.rest), job_id, **columns)
    readers.expect(job_id, build, tests, metrics)
    return job_id, build, pk


def test_row_14_a_locked_row_loses_no_end(squad, readers, lava):
    """SQUAD's task gives up in silence when anybody has the test job's row locked; it is told again."""
    _, _, pk = smoke(squad, lava, readers)
    own = lane(squad, python_queue=f"celery_{pk}", patience="1s")
    with own.running():
        own.fetch(pk)
        squad.wait_for("its run", "select 1 from ci_testjob where id = %s and testrun_id is not null", pk)
        with transaction(squad, f"select 1 from ci_testjob where id = {pk} for update"):
            squad.worker(own.python_queue)
            squad.drained(own.python_queue)
            assert row_of(squad, pk)["job_status"] == LEFT
        ended(squad, pk)


def test_row_14_a_locked_row_delays_publishing_and_no_more(squad, readers, lava):
    _, _, pk = smoke(squad, lava, readers)
    own = lane(squad)
    with own.running():
        with transaction(squad, f"select 1 from ci_testjob where id = {pk} for update") as other:
            own.fetch(pk)
            squad.wait_for(
                "somebody who waits for the row",
                "select 1 from pg_stat_activity where datname = current_database() and %s = any(pg_blocking_pids(pid))",
                other.get_backend_pid(),
            )
        ended(squad, pk)


def killed_while_waiting(squad, worker, query):
    """Kills SQUAD's worker while it waits for a lock in a statement like `query`, which then has no effect."""
    (waiting,) = squad.wait_for(
        f"{worker.name}, waiting in {query}",
        "select pid from pg_stat_activity where datname = current_database() and wait_event_type = 'Lock' and query like %s",
        query,
    )
    worker.kill()
    squad.database.rows("select pg_terminate_backend(%s)", [waiting["pid"]])
    squad.wait_for(
        "the end of its connection",
        "select 1 where not exists (select 1 from pg_stat_activity where pid = %s)",
        waiting["pid"],
    )


def test_row_15_a_death_after_the_count_and_before_the_status(squad, readers, lava):
    """The counter was 0, and the test job Fetching for ever; it is told again."""
    _, _, pk = smoke(squad, lava, readers)
    own = lane(squad, python_queue=f"celery_{pk}", patience="1s")
    with own.running():
        own.fetch(pk)
        squad.wait_for("its run", "select 1 from ci_testjob where id = %s and testrun_id is not null", pk)
        squad.database.rows(
            f"""update ci_testjob set subtasks_count = 1 where id = {pk};
                create function wait_here() returns trigger language plpgsql as
                  $$ begin perform pg_advisory_xact_lock({pk}); return new; end $$;
                create trigger wait_here before update on ci_testjob for each row
                  when (new.id = {pk} and new.job_status <> '{LEFT}') execute function wait_here()"""
        )
        with transaction(squad, f"select pg_advisory_xact_lock({pk})"):
            killed_while_waiting(squad, squad.worker(own.python_queue), 'UPDATE "ci_testjob"%')
        squad.database.rows("drop function wait_here() cascade")
        row = row_of(squad, pk)
        assert (row["job_status"], row["subtasks_count"]) == (LEFT, 0)
        squad.worker(own.python_queue)
        ended(squad, pk)


def test_row_16_a_death_after_the_job_and_before_its_build(squad, readers, lava):
    """The test job was Complete, and its build's status as if it were not, without a notification; it is told again."""
    _, build, pk = smoke(squad, lava, readers)
    own = lane(squad, python_queue=f"celery_{pk}", patience="1s")
    with own.running():
        own.fetch(pk)
        squad.wait_for("its run", "select 1 from ci_testjob where id = %s and testrun_id is not null", pk)
        with transaction(squad, "lock table core_projectstatus in exclusive mode"):
            killed_while_waiting(squad, squad.worker(own.python_queue), '%"core_projectstatus"%')
        assert row_of(squad, pk)["job_status"] == "Complete"
        assert not dump(squad, build)["project_status"][0]["finished"]
        squad.worker(own.python_queue)
        ended(squad, pk)
    assert dump(squad, build)["project_status"][0]["finished"]
