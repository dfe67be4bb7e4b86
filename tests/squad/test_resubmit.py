"""A test job that failed for a reason that its project wants tried again has one successor, whatever dies."""

import pytest

from engines import Longshore, configuration
from installation import REST
from lava import Case, Job
from longshore import migrate
from scenarios import failed, named

SETTINGS = "CI_LAVA_INFRA_ERROR_MESSAGES: ['[', 'no such .evice']"


@pytest.mark.parametrize("crash", [None, "publish:before", "publish:after", "outbox:before-publish", "outbox:published"])
@pytest.mark.parametrize("plugins", [None, ["linux_log_parser"]])
def test_a_failed_test_job_has_one_successor(site, quiet_lava, crash, plugins):
    config = configuration(site)
    migrate(site, config)
    job = Job(failed("Infrastructure", **{"0_smoke": named("uname")}), "Incomplete")
    pk = site.testjob(
        site.build(settings=SETTINGS, plugins=plugins),
        site.backend("rest", quiet_lava.rest),
        quiet_lava.add(job),
        definition=job.definition_text(),
    )
    rest = site.worker(*REST)
    if crash:
        doomed = Longshore(site, "fetch", config, LONGSHORE_CRASH_AT=crash)
        site.fetch(pk)
        doomed.process.child.wait(60)
    else:
        site.fetch(pk)
    workers = [Longshore(site, pool, config).wait_ready() for pool in ("fetch", "postprocess")]
    site.wait_for("its end", "select 1 from ci_testjob where id = %s and job_status = 'Incomplete' and can_resubmit", pk)
    [successor] = site.wait_for(
        "its successor at the server",
        "select * from ci_testjob where parent_job_id = %s and submitted and job_id is not null",
        pk,
    )
    for worker in workers:
        worker.stop()
    for queue in REST:
        site.drained(queue)
    rest.stop()
    assert successor["resubmitted_count"] == 1 and not successor["fetched"]
    assert successor["definition"] == job.definition_text()
    assert len(site.database.rows("select * from ci_testjob")) == 2
    assert len([text for text in quiet_lava.requests if text == "POST /api/v0.2/jobs/"]) == 1


@pytest.mark.parametrize(
    ("job", "columns"),
    [
        (Job(failed("Infrastructure", "something else"), "Incomplete"), {}),
        (Job(failed("Infrastructure"), "Incomplete"), {"resubmitted_count": 3}),
        (Job(failed("Bug"), "Incomplete"), {}),
        (Job({"0_smoke": [Case("uname")]}), {}),
    ],
)
def test_others_have_none(site, quiet_lava, job, columns):
    config = configuration(site)
    migrate(site, config)
    build, backend = site.build(settings=SETTINGS), site.backend("rest", quiet_lava.rest)
    pk = site.testjob(build, backend, quiet_lava.add(job), definition=job.definition_text(), **columns)
    rest, worker = site.worker(*REST), Longshore(site, "fetch", config).wait_ready()
    site.fetch(pk)
    site.wait_for("its end", "select 1 from ci_testjob where id = %s and fetched and job_status <> 'Fetching'", pk)
    worker.stop()
    rest.stop()
    assert len(site.database.rows("select * from ci_testjob")) == 1


def test_a_plugin_of_a_test_job_that_python_collected_meanwhile_ends_without_a_word(site, quiet_lava):
    config = configuration(site)
    migrate(site, config)
    pk = site.testjob(
        site.build(plugins=["linux_log_parser"]), site.backend("rest", quiet_lava.rest), quiet_lava.add(Job({"0_smoke": [Case("uname")]}))
    )
    doomed = Longshore(site, "fetch", config, LONGSHORE_CRASH_AT="publish:after")
    site.fetch(pk)
    doomed.process.child.wait(60)
    site.database.rows("update ci_testjob set fetched = true, job_status = 'Complete' where id = %s", (pk,))
    workers = [Longshore(site, pool, config).wait_ready() for pool in ("fetch", "postprocess")]
    site.wait_for(
        "the end of the plugin's task",
        "select 1 from longshore.tasks where name = 'longshore.squad.plugin' and state = 'done' and failures = 0",
    )
    for worker in workers:
        worker.stop()
    assert site.database.rows("select * from core_testrun") == []
    assert site.database.rows("select job_status, testrun_id from ci_testjob") == [{"job_status": "Complete", "testrun_id": None}]
