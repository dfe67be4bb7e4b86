"""What Longshore does once SQUAD shows a test job, or its own workers have ended it: nothing is kept, added or told twice."""

import pytest

from test_windows import QUEUES, tradefed_here
from windows import Lane, ended, ends, row_of, state

STAGED = ["tests", "metrics", "facts", "files", "data"]


def staged(site, own):
    """Rows that wait to be shown, or that nobody has removed."""
    schema = f"longshore_{own.name}"
    counts = " + ".join(f"(select count(*) from {schema}.staged_{table})" for table in STAGED)
    return site.database.row(f"select {counts} as n")["n"]


def nothing_staged(site, own):
    counts = " and ".join(f"not exists (select 1 from longshore_{own.name}.staged_{table})" for table in STAGED)
    site.wait_for("nothing staged", f"select 1 where {counts}")


@pytest.mark.parametrize("crash", [None, "clear:before", "clear:after", "squad_swept:before", "squad_swept:after"])
def test_nothing_is_kept_of_what_squad_shows(site, quiet_lava, crash):
    """A leader looks at its start: the next worker's removes what stood there."""
    site.inside("result = None")
    own = Lane(site, "kept")
    _, _, pk = tradefed_here(site, quiet_lava)
    python = site.worker()
    with own.running():
        own.fetch(pk)
        ended(site, pk)
    shown = state(site, pk)
    assert shown["tests"] > 270 and shown["attachments"] > 0
    assert staged(site, own) > shown["tests"]
    if crash:
        ends(own.start(LONGSHORE_CRASH_AT=crash).process)
    with own.running():
        nothing_staged(site, own)
        assert state(site, pk) == shown
        # what is over is over, and may be collected anew
        own.publish("squad.ci.tasks.postprocess_testjob_subtasks", "tradefed", pk, "Complete")
        before = row_of(site, pk)["testrun_id"]
        own.fetch(pk, clean_testrun=True)
        site.wait_for("another test run", "select 1 from ci_testjob where id = %s and testrun_id <> %s", pk, before)
        ended(site, pk)
    assert state(site, pk) == shown
    with own.running():
        nothing_staged(site, own)
        assert state(site, pk) == shown
    python.stop()


def collected_by_python(site, lava):
    """A test job whose long plugin is still on SQUAD's queue; its primary key and its test run."""
    _, _, pk = tradefed_here(site, lava)
    python = site.worker("ci_fetch")
    site.fetch(pk)
    site.wait_for("what Python collected", "select 1 from ci_testjob where id = %s and subtasks_count = 1", pk)
    site.drained("ci_fetch")
    python.stop()
    return pk, row_of(site, pk)["testrun_id"]


def test_a_plugin_that_python_has_run_meanwhile_adds_nothing(site, quiet_lava):
    """Its message comes to Longshore too, or is still held there when the one that Python had is done."""
    site.inside("result = None")
    pk, _ = collected_by_python(site, quiet_lava)
    site.publish("squad.ci.tasks.postprocess_testjob_subtasks", "tradefed", pk, "Complete")  # the same again
    python = [site.worker(), site.worker(*QUEUES)]
    ended(site, pk)
    for queue in QUEUES:
        site.drained(queue)
    once = state(site, pk)
    for worker in python:
        worker.stop()
    own = Lane(site, "late", queues=QUEUES)
    site.publish("squad.ci.tasks.postprocess_testjob_subtasks", "tradefed", pk, "Complete")
    with own.running():
        names = ["squad.ci.tasks.postprocess_testjob_subtasks", "longshore.squad.plugin"]
        over = "select 1 from longshore_late.tasks where name = any(%s) having count(*) > 0 and bool_and(state = 'done')"
        site.wait_for("its end", over, names)
    assert state(site, pk) == once


def test_a_plugin_that_is_at_work_adds_nothing_to_what_python_has_ended(site, quiet_lava):
    site.inside("result = None")
    gate = quiet_lava.hold("/files/")
    pk, testrun = collected_by_python(site, quiet_lava)
    own = Lane(site, "slow", queues=QUEUES)
    with own.running():
        site.wait_for("a plugin at work", "select 1 from longshore_slow.tasks where name = 'longshore.squad.plugin' and state = 'running'")
        site.database.rows("update ci_testjob set job_status = 'Complete', subtasks_count = 0 where id = %s", [pk])
        gate.open()
        site.wait_for("its end", "select 1 from longshore_slow.tasks where name = 'longshore.squad.plugin' and state = 'done'")
    assert row_of(site, pk)["testrun_id"] == testrun
    assert state(site, pk)["tests"] < 10, "those of the test job itself"


def test_who_takes_a_message_that_is_passed_on_calls_back(site):
    """Once, and nobody is told of an end before."""
    site.inside("result = None")
    own = Lane(site, "passing", queues=QUEUES)
    own.config += '\n[celery]\nresults = "django"\n'
    site.declare("celery", "called")
    called = {
        "task": "squad.ci.tasks.poll",
        "args": [],
        "kwargs": {},
        "options": {"queue": "called"},
        "subtask_type": None,
        "immutable": True,
    }
    pk = site.testjob(site.build("passing/on"), site.backend("fake", "http://fake.test", kind="fake"), "1")
    with own.running():
        sent = site.publish("squad.ci.tasks.update_testjob_status", pk, "Complete", queue="ci_fetch", link=called)
        site.wait_for("its end", "select 1 from longshore_passing.tasks where state = 'done' and id = %s", sent)
        site.wait_for("nothing left to say", "select 1 where not exists (select 1 from longshore_passing.outbox)")
    told = "select status from django_celery_results_taskresult where task_id = %s"
    assert site.database.rows(told, [sent]) == []
    assert site.vhost.take("called") == []
    python = site.worker("celery")
    site.drained("celery")
    python.stop()
    assert [row["status"] for row in site.database.rows(told, [sent])] == ["SUCCESS"]
    assert len(site.vhost.take("called")) == 1
