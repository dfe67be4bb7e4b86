"""Every window in which SQUAD's own workers lose a test job, with Longshore in their place: a death at every step, and then
SQUAD has what it has when nothing goes wrong; all the while readers look for what must never be seen.
"""

import concurrent.futures
import dataclasses
import itertools
import json
import re
import signal

import pytest

import cts
from dump import differences, dump
from installation import Installation
from lava import Case, Job, log_of
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
    *(f"checkpoint:after#{number}" for number in range(1, 7)),
    *(
        f"{name}#{number}"
        for number in (1, 2, 3)
        for name in ("publish:ready", "publish:after", "publish:acknowledged")
    ),
    # the messages of the plugins go in one batch, or in two
    *(f"{name}#{number}" for number in (1, 2) for name in ("outbox:published", "outbox_done:after")),
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
        # as a number of its own: the names of findings end with hashes
        number = re.compile(rf"(?<![0-9a-f]){death.job_id}(?![0-9a-f])")
        death.dump = json.loads(number.sub("JOB", json.dumps(dump(squad, death.build))))
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
    survived(deaths, "publish:after#1", "publish:after#2", "publish:after#3", "outbox:published#1", "outbox:published#2")


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


# Test jobs on which SQUAD's workers raised an error that nothing handled, and that stayed Fetching: (job, by XML-RPC, plugins).
SPEED = {"0_smoke": [Case("uname")]}
ODD = {
    "measured": (Job({**SPEED, "1_speed": [Case("read", measurement="fast"), Case("write", measurement="1")]}), False, []),
    "not_finite": (Job({**SPEED, "1_speed": [Case("read", measurement="nan"), Case("write", measurement="inf")]}), False, []),
    "nul_in_test_log": (Job({"0_smoke": [Case("uname", log=(1, 2))]}, log=log_of("a\0b", "c")), True, []),
    "nul_in_name": (Job({"0_smoke": [Case("uname"), Case("un\0ame")]}), False, []),
    "nul_in_metadata": (Job(SPEED, metadata={"key\0": "value\0", "list": ["\0"]}), False, []),
    "long_suite": (Job({**SPEED, "1_" + "s" * 300: [Case("uname")]}), False, []),
    "no_such_plugin": (Job(SPEED), False, ["no_such_plugin"]),
    
}
# Row 18: errors before anything is written; the poll sent the same message for ever.
BEFORE = {
    "broken_definition": Job(SPEED, definition="{unbalanced: [\n- a: b: c"),
    "definition_is_a_list": Job(SPEED, definition="[1, 2]"),
}


@pytest.fixture(scope="module")
def odd(squad, lava, readers):
    """Those test jobs, through one worker; their rows and builds, by name."""
    lava.reset()
    own = lane(squad, slots=4, patience="1s", attempts=3)
    begun = {}
    jobs = {**ODD, **{name: (job, False, []) for name, job in BEFORE.items()}}
    for name, (job, rpc, plugins) in jobs.items():
        job_id = lava.add(job, 7000 + next(NUMBERS))
        build = squad.build(f"odd/{name}", plugins=plugins)
        backend = squad.backend("rpc", lava.rpc) if rpc else squad.backend("lab", lava.rest)
        begun[name] = (build, squad.testjob(build, backend, job_id))
        own.fetch(begun[name][1])
    found = {}
    with own.running():
        for name, (build, pk) in begun.items():
            try:
                found[name] = (ended(squad, pk, 40), dump(squad, build))
            except AssertionError as error:
                found[name] = (str(error), row_of(squad, pk))
    return found


@pytest.mark.parametrize("name", ODD)
def test_row_17_odd_results_are_no_reason_to_lose_a_test_job(odd, name):
    row, build = odd[name]
    assert not isinstance(row, str), (row, build)
    assert row["job_status"] == "Complete"
    (run,) = build["testruns"]
    assert ("smoke", "uname", True) in {(test["metadata_suite"], test["metadata_name"], test["result"]) for test in run["tests"]}
    assert build["finished"] == [True, []]


@pytest.mark.parametrize("name", BEFORE)
def test_row_18_what_the_server_says_wrong_is_no_reason_to_ask_for_ever(odd, name):
    row, build = odd[name]
    assert not isinstance(row, str), (row, build)
    assert row["fetched"] and row["job_status"] != LEFT


def tuxsuite_job(squad, lava, told, now):
    """A test job of TuxSuite's, which has called back with `told` and says `now` when it is asked; its address there, its
    build and its primary key."""
    uid = str(next(NUMBERS))
    address = f"/v1/groups/g/projects/p/tests/{uid}"
    lava.files[address] = (json.dumps(now).encode(), "application/json")
    results = {"smoke": {"uname": {"result": "pass"}}}
    lava.files[address + "/results"] = (json.dumps(results).encode(), "application/json")
    backend = squad.backend("tux", f"{lava.address}/v1/", kind="tuxsuite")
    build = squad.build(f"tux/{uid}")
    pk = squad.testjob(build, backend, f"TEST:g@p#{uid}")
    squad.inside("ci.ResultsInput.objects.create(test_job_id=pk, text=text)", pk=pk, text=json.dumps(told))
    return address, build, pk


FINISHED = {"state": "finished", "result": "pass", "results": {"boot": "pass"}, "uid": "1", "tests": ["boot"], "download_url": ""}
INPUTS = "select text from ci_resultsinput where test_job_id = %s"


def test_row_19_a_callback_is_not_used_up_by_a_fault(squad, readers, lava):
    """SQUAD's worker deleted what TuxSuite had called back with, and then failed."""
    address, _, pk = tuxsuite_job(squad, lava, FINISHED, now={"state": "running"})
    # more often than one attempt asks
    lava.fail(f"{address}/results", 503, 4)
    own = lane(squad)
    own.fetch(pk)
    gate = lava.hold(f"{address}/results")
    first = own.start().process
    gate.wait_reached()
    first.kill()
    gate.open()
    assert len(squad.database.rows(INPUTS, [pk])) == 1
    with own.running():
        assert ended(squad, pk)["job_status"] == "Complete"
    assert squad.database.row(f"select max(failures) as n from longshore_{own.name}.tasks")["n"] > 0
    assert state(squad, pk)["tests"] > 0
    # TuxSuite was believed, and need not be asked; what it said is used up now, so that it may say more
    assert f"GET {address}" not in lava.requests
    assert squad.database.rows(INPUTS, [pk]) == []


@pytest.mark.parametrize("told", [{"state": "running"}, {**FINISHED, "results": {"boot": "unknown"}}, ["nonsense"]])
def test_row_19_a_callback_that_says_too_little_is_asked_after(squad, readers, lava, told):
    """What was stored was believed, and the test job left running until a poll."""
    address, _, pk = tuxsuite_job(squad, lava, told, now=FINISHED)
    own = lane(squad)
    with own.running():
        own.fetch(pk)
        assert ended(squad, pk)["job_status"] == "Complete"
    assert state(squad, pk)["tests"] > 0


def test_row_19_what_is_not_there_is_not_asked_for_for_ever(squad, readers, lava):
    uid = next(NUMBERS)
    backend = squad.backend("tux", f"{lava.address}/v1/", kind="tuxsuite")
    pk = squad.testjob(squad.build(f"tux/{uid}"), backend, f"TEST:g@p#none{uid}")
    own = lane(squad)
    with own.running():
        own.fetch(pk)
        squad.wait_for("the end of what is not there", "select 1 from ci_testjob where id = %s and fetched", pk)
    assert row_of(squad, pk)["failure"]


def test_row_20_old_results_stay_until_there_are_new_ones(squad, readers, lava):
    """SQUAD's worker deleted the test run, and then asked whether there is another."""
    job_id, build, pk = smoke(squad, lava, readers)
    own = lane(squad, attempts=1)
    with own.running():
        own.fetch(pk)
        ended(squad, pk)
        first = row_of(squad, pk)["testrun_id"]
        lava.fail(f"jobs/{job_id}/suites/", 404)
        failing = own.fetch(pk, clean_testrun=True)
        squad.wait_for(
            "an attempt that failed", f"select 1 from longshore_{own.name}.tasks where id = %s and state in ('done', 'dead')", failing
        )
        assert row_of(squad, pk)["testrun_id"] == first and state(squad, pk)["tests"] == 7
        readers.expect(job_id, build, 1, 0, 0)
        lava.jobs[str(job_id)] = Job({"0_smoke": [Case("new")]})
        own.fetch(pk, clean_testrun=True)
        squad.wait_for(
            "the new run", "select 1 from ci_testjob where id = %s and testrun_id <> %s and job_status = 'Complete'", pk, first
        )
    (run,) = dump(squad, build)["testruns"]
    assert [test["metadata_name"] for test in run["tests"]] == ["new"]


def test_row_21_readers_have_looked_all_the_time(deaths, readers):
    """What they must never see is remembered, and each test here asks for it; here, that they were there to see it."""
    assert readers.looks["database"] > len(POINTS) and readers.looks["web"] > 0
    seen = {str(death.job_id) for death in deaths.values()}
    assert {job_id for reader, job_id in readers.whole if reader == "database"} >= seen
    wait_for("the web reader", lambda: {job_id for reader, job_id in readers.whole if reader == "web"} >= seen)


def test_row_21_the_readers_see_what_must_not_be(squad, lava):
    """So that their silence means something: SQUAD's own tables in the states that its workers leave."""
    looking = Readers(squad)
    try:
        job_id, build, pk = smoke(squad, lava, looking)
        for number, step in enumerate(
            (
                f"""insert into core_environment (project_id, slug) select project_id, 'board' from core_build where id = {build}""",
                f"""update ci_testjob set fetched = true, job_status = 'Complete' where id = {pk}""",
            )
        ):
            squad.database.rows(step)
        wait_for("a build that is finished without its run", lambda: any("without the run" in text for text in looking.problems))
    finally:
        looking.close()


def test_row_22_what_others_write_to_the_row_stays(squad, readers, lava):
    """SQUAD's worker saved all columns as it had read them minutes ago."""
    job_id, _, pk = smoke(squad, lava, readers)
    gate = lava.hold(f"jobs/{job_id}/suites/")
    own = lane(squad)
    with own.running():
        own.fetch(pk)
        gate.wait_reached()
        squad.database.rows(
            """update ci_testjob set resubmitted_count = 3, definition = 'by hand', can_resubmit = true,
               submitted_at = '2026-01-01T00:00:00Z', parent_job_id = id where id = %s""",
            [pk],
        )
        gate.open()
        row = ended(squad, pk)
    assert (row["resubmitted_count"], row["definition"], row["can_resubmit"], row["parent_job_id"]) == (3, "by hand", True, pk)
    assert row["submitted_at"].isoformat() == "2026-01-01T00:00:00+00:00"


def test_a_test_job_that_is_deleted_meanwhile_stays_deleted(squad, readers, lava):
    job_id, build, pk = smoke(squad, lava, readers)
    gate = lava.hold(f"jobs/{job_id}/suites/")
    own = lane(squad)
    with own.running():
        fetch = own.fetch(pk)
        gate.wait_reached()
        squad.inside("ci.TestJob.objects.get(pk=pk).delete()", pk=pk)
        gate.open()
        squad.wait_for("the end of its task", f"select 1 from longshore_{own.name}.tasks where id = %s and state = 'done'", fetch)
    assert dump(squad, build)["testruns"] == []


# --- more than one ---


def test_the_same_message_again_and_again_is_one_fetch(squad, readers, lava):
    """SQUAD's poll sends the same id for as long as a test job is not fetched; two workers have it at the same time."""
    job_id, build, pk = smoke(squad, lava, readers)
    gate = lava.hold(f"jobs/{job_id}/suites/")
    own = lane(squad)
    for _ in range(3):
        own.publish("squad.ci.tasks.fetch", pk, task_id=f"{pk}:lab/{job_id}")
        own.fetch(pk)
    with own.running(), own.running():
        gate.wait_reached()
        own.publish("squad.ci.tasks.fetch", pk, task_id=f"{pk}:lab/{job_id}")
        squad.wait_for(
            "the other messages' ends", f"select 1 from longshore_{own.name}.tasks where name = 'squad.ci.tasks.fetch' and state = 'done'"
        )
        gate.open()
        ended(squad, pk)
        squad.wait_for(
            "the end of all", f"""select 1 where not exists (select 1 from longshore_{own.name}.tasks
            where name = 'squad.ci.tasks.fetch' and state <> 'done')"""
        )
    assert state(squad, pk) == {**ENDED, "tests": 7, "attachments": 0}
    assert len(dump(squad, build)["testruns"]) == 1


# --- beside Python, and back to it ---


def fake_jobs(squad, number, readers=None):
    """Test jobs of SQUAD's backend `fake`: six tests and four metrics, or none."""
    backend = squad.backend("fake", "http://fake.test", kind="fake")
    build = squad.build("beside/fake")
    return [squad.testjob(build, backend, f"fake{at}") for at in range(number)]


def all_ended(squad, jobs, limit=120):
    squad.wait_for(
        "the end of all test jobs",
        f"""select 1 where not exists (select 1 from ci_testjob
            where id = any(%s) and (not fetched or job_status = '{LEFT}'))""",
        jobs,
        limit=limit,
    )


def whole(squad, jobs, tradefed):
    """Each has one test run, with all tests once."""
    rows = squad.database.rows(
        """select t.id, t.job_status, r.completed, count(distinct r.id) as runs, count(c.id) as tests, count(distinct c.metadata_id) as names
           from ci_testjob t left join core_testrun r on r.build_id = t.target_build_id and r.job_id = t.job_id
           left join core_test c on c.test_run_id = r.id where t.id = any(%s) group by t.id, r.completed""",
        [jobs],
    )
    assert len(rows) == len(jobs)
    for row in rows:
        expected = 277 if row["id"] in tradefed else 6 if row["completed"] else 0
        assert (row["runs"], row["tests"], row["names"]) == (1, expected, expected), row
    assert squad.database.rows("select 1 from core_pluginscratch") == []
    assert squad.database.rows("select 1 from django_celery_results_chordcounter") == []


def tradefed_jobs(squad, lava, number):
    """Test jobs with a plugin, in a build of their own."""
    archive = lava.serve("beside.tar.xz", cts.archive(CTS))
    build = squad.build("beside/cts", plugins=["tradefed"], settings=CTS_SETTINGS)
    backend = squad.backend("lab", lava.rest)
    jobs = []
    for _ in range(number):
        job, columns = tradefed_job(archive)
        jobs.append(squad.testjob(build, backend, lava.add(job), **columns))
    return jobs


QUEUES = ["ci_fetch", "ci_fetch_postprocess"]


def test_beside_pythons_workers(site, quiet_lava):
    """Both take from the same queues. A worker of Longshore's is killed in the midst of it, and what SQUAD's have begun is
    let finish: their own deaths lose work, beside whomever they run."""
    site.inside("result = None")
    tradefed = tradefed_jobs(site, quiet_lava, 6)
    jobs = fake_jobs(site, 54) + tradefed
    own = Lane(site, "beside", slots=2, queues=QUEUES)
    for pk in jobs:
        site.fetch(pk)
    python = [site.worker(), site.worker(*QUEUES)]
    victim = own.start().wait_ready()
    with own.running():
        site.wait_for("some work of both", "select 1 from ci_testjob where fetched having count(*) > 8")
        victim.process.kill()
        with own.running():
            site.wait_for("more work", "select 1 from ci_testjob where fetched having count(*) > 30")
            python[1].stop()
            all_ended(site, jobs)
    mine = site.database.row("select count(*) as exports from longshore_beside.squad_exports")
    assert 0 < mine["exports"]
    whole(site, jobs, tradefed)


@pytest.mark.parametrize("how", [signal.SIGTERM, signal.SIGKILL], ids=["drained", "killed"])
def test_going_back(site, quiet_lava, how):
    """Longshore goes in the midst of its work, and SQUAD's workers are started again, as before it came. What was shown is
    ended by SQUAD; what was not is in SQUAD's queues, or the poll finds it."""
    site.inside("result = None")
    tradefed = tradefed_jobs(site, quiet_lava, 2)
    jobs = tradefed + fake_jobs(site, 6)
    gate = quiet_lava.hold("/files/beside.tar.xz")
    own = Lane(site, "going", slots=2, queues=QUEUES)
    for pk in jobs:
        site.fetch(pk)
    worker = own.start().wait_ready()
    # both slots are held, and what was to be said before is said
    wait_for("two plugins at work", lambda: quiet_lava.count("/files/beside.tar.xz") == 2)
    site.wait_for("nothing left to say", "select 1 where not exists (select 1 from longshore_going.outbox)")
    worker.process.signal(how)
    gate.open()
    worker.process.wait()
    site.worker()
    site.worker(*QUEUES)
    # the poll, an hour later
    site.inside(
        """
        from django.utils import timezone
        import datetime
        ci.Backend.objects.update(poll_interval=0)
        ci.TestJob.objects.filter(fetched=False).update(last_fetch_attempt=timezone.now() - datetime.timedelta(hours=1))
        """
    )
    site.publish("squad.ci.tasks.poll")
    all_ended(site, jobs)
    for queue in QUEUES:
        site.drained(queue)
    all_ended(site, jobs)
    whole(site, jobs, tradefed)


def test_all_message_kinds(site, quiet_lava):
    """Python's workers left messages of all kinds when they were stopped; each is handled, or goes where Python takes it."""
    site.inside("result = None")
    job_id, build, pk = tradefed_here(site, quiet_lava)
    python = site.worker("ci_fetch")
    site.fetch(pk)
    site.wait_for("what Python collected", "select 1 from ci_testjob where id = %s and subtasks_count = 1", pk)
    site.drained("ci_fetch")
    python.stop()
    testrun = row_of(site, pk)["testrun_id"]
    # what has been left: its subtask, which is there already, and of another test job its parts and their end
    other, other_build, other_pk = tradefed_here(site, quiet_lava)
    site.publish("squad.ci.tasks.postprocess_testjob", other_pk, "Complete", queue="ci_fetch")  # not collected: nothing to do
    sent = [
        site.publish("tradefed.tasks.create_testcase_tests", 12345, "none", testrun, queue="ci_fetch"),
        site.publish("tradefed.tasks.update_build_status", [], testrun, job_id, "Complete", queue="ci_fetch"),
        site.publish("squad.ci.tasks.update_testjob_status", -1, "Complete", queue="ci_fetch"),
    ]
    own = Lane(site, "kinds", queues=QUEUES)
    site.declare("celery")
    with own.running():
        passed = {
            "tradefed.tasks.create_testcase_tests",
            "tradefed.tasks.update_build_status",
            "squad.ci.tasks.update_testjob_status",
        }
        site.wait_for(
            "the end of all messages",
            """select 1 from longshore_kinds.tasks where state = 'done' and name <> 'squad.ci.tasks.fetch'
               having count(*) filter (where name = any(%s)) = 3 and count(*) filter (where name like '%%postprocess%%') = 2""",
            list(passed),
        )
        site.fetch(other_pk)
        site.worker()
        all_ended(site, [pk, other_pk])
        # also those that Python can make nothing of
        ran = "select 1 from django_celery_results_taskresult where task_id = any(%s) having count(*) = 3"
        site.wait_for("all that was passed on, run by Python", ran, sent)
    assert state(site, pk) == ENDED
    assert state(site, other_pk) == ENDED
