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
from windows import Lane, Proxy, Readers, ended, ends, row_of, state, transaction, wait_for

CTS_SETTINGS = "PLUGINS_TRADEFED_EXTRACT_AGGREGATED: true"
WHOLE = {"tests": 283, "metrics": 3, "attachments": 7}
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

# Where a worker ends by itself, and how many times each of these is passed on the way. A death at the last one is after all is
# said and done.
POINTS = {
    "intake:delivered": 1, "checkpoint:before": 4, "publish:ready": 2,
}
POINTS_LIST = [f"{name}#{number}" for name, times in POINTS.items() for number in range(1, times + 1)]
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


def prepare(squad, lava, readers, name, plugins=("tradefed", "linux_log_parser")):
    """A test job with everything that a fetch and plugins bring, in a project of its own."""
    number = 7000 + next(NUMBERS)  # as long as any other
    archive = lava.serve(f"{number}.tar.xz", cts.archive(CTS))
    job, columns = tradefed_job(archive)
    job.suites["1_speed"] = SMOKE["2_speed"]
    job.log, job.metadata = KERNEL_LOG, METADATA
    job_id = lava.add(job, number)
    build = squad.build(f"windows/{number}", plugins=list(plugins), settings=CTS_SETTINGS)
    pk = squad.testjob(build, squad.backend("lab", lava.rest), job_id, **columns)
    readers.expect(job_id, build, **WHOLE)
    return Death(name, job_id, build, pk)


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
            gate = lava.hold(point.replace("JOB", str(death.job_id)))
            first = own.start().process
            gate.wait_reached()
            first.kill()
            gate.open()

        def dead_or_done():
            row = row_of(squad, death.testjob)
            return not first.running() or (row["fetched"] and row["job_status"] != "Fetching")

        wait_for(f"a death at {point}", dead_or_done)
        if point != "never":
            ends(first, 1)
        death.died = not first.running()
        if death.died:
            death.at_death = state(squad, death.testjob)
            second = own.start()
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
    points = ["never", *POINTS_LIST, *REQUESTS]
    prepared = {point: prepare(squad, lava, readers, point) for point in points}
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        found = dict(zip(points, pool.map(lambda point: die(squad, lava, point, prepared[point]), points)))
    for death in found.values():
        number = str(death.job_id)
        death.dump = json.loads(json.dumps(dump(squad, death.build)).replace(number, "JOB"))
    return found


@pytest.mark.parametrize("point", [*POINTS_LIST, *REQUESTS])
def test_a_death_at_any_step_leaves_what_an_undisturbed_run_leaves(deaths, readers, point):
    death, undisturbed = deaths[point], deaths["never"]
    assert undisturbed.stuck is None and death.stuck is None
    assert death.died, "the point was not reached"
    assert differences(death.dump, undisturbed.dump) == []
    assert death.dump == undisturbed.dump
