"""Test jobs whose results are published by one commit, because they waited for one another: SQUAD has of each what it has of one
that is published alone, whatever becomes of the others and whenever the worker dies.
"""

import contextlib

import psycopg2
import pytest

from dump import differences, dump
from engines import FETCH, POSTPROCESS, configuration
from installation import REST, Installation
from lava import Job, Lava
from longshore import Longshore, migrate
from scenarios import KERNEL_LOG, METADATA, SMOKE, named
from services import wait_for

SLOTS = 16
ENDED = "select 1 where not exists (select 1 from ci_testjob where not fetched or job_status = 'Fetching')"
# Test runs, and the transactions that wrote them.
COMMITS = "select count(*) as runs, count(distinct cast(xmin as text)) as commits from core_testrun"


@contextlib.contextmanager
def nobody_publishes(site):
    """Nobody can write a test run meanwhile."""
    connection = psycopg2.connect(site.database.url)
    try:
        connection.cursor().execute("lock table core_testrun in share mode")
        yield
    finally:
        connection.close()


def all_ready(site, count):
    """Waits until that many have written their files: then one is being published, and the others wait for it."""
    wait_for(f"files of {count}", lambda: len(list(site.storage.glob("testrun/*/log_file"))) == count)


def several(site, lava):
    """Test jobs of two projects with two environments each, whose known issues differ. Returns the builds."""
    backends = [site.backend("lab", lava.rest), site.backend("fake", "http://127.0.0.1:1", kind="fake")]
    builds = []
    for project, issues in [
        ("one/kernel", [("0_smoke/ifconfig", "board"), ("1_ltp*", "other"), ("foo/test1", "other")]),
        ("two/kernel", [("0_smoke/ifconfig", "other"), ("/", "board")]),
    ]:
        build = site.build(project, issues=issues)
        builds.append(build)
        for number in range(SLOTS // 4):
            suites = {**SMOKE, f"{number}_more": named("a", "b", measurement=str(number))} if number % 2 else SMOKE
            job = lava.add(Job(suites, log=KERNEL_LOG, metadata={**METADATA, "git_branch": f"b{number}"}))
            environment = ("board", "other")[number % 2]
            site.testjob(build, backends[0], job, environment)
            site.testjob(build, backends[1], f"{project}-{number}", environment)
    return builds


def published(template, folder, slots, point=None):
    """What SQUAD has of the builds in the end, and how many test runs there were at how many commits, if the worker died: then."""
    site, lava = Installation(template, folder), Lava()
    try:
        config = configuration(site, slots=slots)
        migrate(site, config)
        site.declare(FETCH, POSTPROCESS, *REST)
        builds = several(site, lava)
        for row in site.database.rows("select id from ci_testjob order by id"):
            site.fetch(row["id"])
        rest = site.worker(*REST)
        variables = {"LONGSHORE_CRASH_AT": point} if point else {}
        if slots == 1:
            worker = Longshore(site, "fetch", config, **variables)
        else:
            with nobody_publishes(site):
                worker = Longshore(site, "fetch", config, **variables)
                all_ready(site, slots)
        seen = None
        if point:
            worker.process.wait()
            seen = site.database.row(COMMITS)
            worker = Longshore(site, "fetch", config).wait_ready()
        site.wait_for("all test jobs", ENDED)
        seen = seen or site.database.row(COMMITS)
        worker.stop()
        for queue in REST:
            site.drained(queue)
        rest.stop()
        return [dump(site, build) for build in builds], seen
    finally:
        site.close()
        lava.close()


@pytest.fixture(scope="module")
def alone(template, tmp_path_factory):
    """What they leave one by one."""
    dumps, seen = published(template, tmp_path_factory.mktemp("alone") / "squad", slots=1)
    assert seen == {"runs": SLOTS, "commits": SLOTS}
    return dumps


def the_same(ours, theirs):
    for status in (status for build in (*ours, *theirs) for status in build["project_status"]):
        status["metrics_summary"] = round(status["metrics_summary"], 9)  # SQUAD's own sum, in whatever order the rows come
    return [line for one, other in zip(ours, theirs, strict=True) for line in differences(one, other)]


def test_test_jobs_of_one_commit_are_as_if_each_were_alone(template, tmp_path, alone):
    dumps, seen = published(template, tmp_path / "squad", SLOTS)
    assert seen == {"runs": SLOTS, "commits": 2}, "the first, and those that waited for it"
    assert the_same(dumps, alone) == []


@pytest.mark.parametrize(("point", "seen"), [("publish:before#2", (1, 1)), ("publish:after#2", (SLOTS, 2))])
def test_a_death_around_that_commit_leaves_all_of_them_or_none(template, tmp_path, alone, point, seen):
    dumps, at_death = published(template, tmp_path / "squad", SLOTS, point)
    assert (at_death["runs"], at_death["commits"]) == seen
    assert the_same(dumps, alone) == []


def test_one_that_cannot_be_published_is_no_matter_of_the_others(site):
    config = configuration(site, SLOTS)
    migrate(site, config)
    site.declare(FETCH, POSTPROCESS, *REST)
    build, backend = site.build(), site.backend("fake", "http://127.0.0.1:1", kind="fake")
    pks = [site.testjob(build, backend, job) for job in ("1", "2", "3", "4", "5", "twice", "twice")]
    for pk in pks:
        site.fetch(pk)
    with nobody_publishes(site):
        worker = Longshore(site, "fetch", config)
        all_ready(site, len(pks))
        # One that waits: whichever is being published is locked.
        taken = site.database.row(
            """update ci_testjob set fetched = true, job_status = 'Complete'
               where id = (select id from ci_testjob where job_id <> 'twice' order by id desc limit 1 for update skip locked) returning id"""
        )["id"]
    site.wait_for("all test jobs", "select 1 where not exists (select 1 from ci_testjob where not fetched)")
    # The one that was refused is tried again, and has nothing to do then.
    fetches = "longshore.tasks where name = 'squad.ci.tasks.fetch'"
    site.wait_for("all fetches", f"select 1 where not exists (select 1 from {fetches} and state <> 'done')")
    worker.stop()
    # One of the two of the same name may be refused by SQUAD's unique index while the other is being published.
    refused = site.database.rows(f"select failures, cast(task as jsonb)->'args'->0 as pk from {fetches} and failures > 0")
    assert all(row["failures"] == 1 for row in refused) and taken in [row["pk"] for row in refused], refused
    assert {row["pk"] for row in refused} - {taken} <= set(pks[-2:]) and len(refused) <= 2, refused
    rows = site.database.rows("select id, job_id, testrun_id, failure from ci_testjob order by id")
    for row in rows:
        if row["id"] == taken:
            assert (row["testrun_id"], row["failure"]) == (None, None), row
        elif row["job_id"] != "twice":
            assert row["testrun_id"] and row["failure"] is None, row
    twice = sorted((row["testrun_id"] is None, row["failure"]) for row in rows if row["job_id"] == "twice")
    assert twice == [(False, None), (True, "There is already a test run with job_id twice")], twice
    assert site.database.row("select count(*) as n from core_testrun")["n"] == len(pks) - 2


def test_one_that_is_collected_anew_keeps_its_name(site, quiet_lava):
    """The other of that name, which comes before it in the commit that they would share, has none either way."""
    config = configuration(site, SLOTS)
    migrate(site, config)
    site.declare(FETCH, POSTPROCESS, *REST)
    build, backend = site.build(), site.backend("lab", quiet_lava.rest)
    first, name = (quiet_lava.add(Job(SMOKE, log=KERNEL_LOG, metadata=METADATA)) for _ in range(2))
    holder, own, other = (site.testjob(build, backend, job, "board") for job in (first, name, name))
    worker = Longshore(site, "fetch", config)
    site.fetch(own)
    site.wait_for("its first test run", "select 1 from ci_testjob where id = %s and fetched", own)
    with nobody_publishes(site):
        site.fetch(holder)
        all_ready(site, 2)  # the two that come now wait for it
        site.publish("squad.ci.tasks.fetch", other, kwargs={}, task_id="a")
        site.publish("squad.ci.tasks.fetch", own, kwargs={"clean_testrun": True}, task_id="b")
        all_ready(site, 4)
    site.wait_for("all fetches", "select 1 where not exists (select 1 from longshore.tasks where name = 'squad.ci.tasks.fetch' and state <> 'done')")
    worker.stop()
    rows = {row["id"]: row for row in site.database.rows("select id, testrun_id, failure from ci_testjob")}
    assert rows[own]["testrun_id"] and rows[own]["failure"] is None, rows
    assert (rows[other]["testrun_id"], rows[other]["failure"]) == (None, f"There is already a test run with job_id {name}"), rows


# Test runs that others have written to the only build.
OTHERS = """
    with environments as (
        insert into core_environment (slug, project_id, expected_test_runs) select 'board', project_id, 0 from core_build returning id
    )
    insert into core_testrun (created_at, build_id, environment_id, data_processed, status_recorded, datetime, job_id, completed)
    select now(), b.id, e.id, true, true, now(), 'other-' || n, true from core_build b, environments e, generate_series(1, %s) n
"""
READ_BY_BUILD = "select sum(idx_tup_read) as n from pg_stat_user_indexes where indexrelname like 'core_testrun_build_id%%'"
NOBODY = "select 1 where not exists (select 1 from pg_stat_activity where datname = current_database() and application_name like 'longshore%%')"


def test_a_test_job_does_not_read_the_others_of_its_build(site):
    """PostgreSQL plans what is asked of each before it has counted them; with this many it preferred to read all of the build."""
    config = configuration(site, slots=SLOTS)
    migrate(site, config)
    site.declare(FETCH, POSTPROCESS, *REST)
    build, backend, count = site.build(), site.backend("fake", "http://127.0.0.1:1", kind="fake"), 100
    site.database.rows(OTHERS, [300])
    for number in range(count):
        site.fetch(site.testjob(build, backend, f"{number + 1}", "board"))
    worker = Longshore(site, "fetch", config)
    site.wait_for("all test jobs", "select 1 where not exists (select 1 from ci_testjob where not fetched)")
    worker.stop()
    site.wait_for("the backends, which say at their end what they read", NOBODY)
    assert site.database.row(READ_BY_BUILD)["n"] <= 4 * count
