"""Whatever dies, and whenever: a workflow goes on exactly once, and a result is told."""

import os
import signal

import pytest
from celery import chain, chord
from celery.exceptions import ChordError, TaskRevokedError
from conftest import LIMIT, wait_for

# Where a worker can die between the end of a handler and the end of all that follows from it.
POINTS = [
    "publish:ready",
    "publish:before",
    "publish:after",
    "publish:stored",
    "outbox:before-publish",
    "outbox:published",
    "publish:acknowledged",
]


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def test_a_worker_killed_in_the_middle_of_a_task_continues_the_chain_once(longshore, app):
    first = longshore.worker()
    begun, go, notes = (longshore.folder / name for name in ("begun", "go", "notes"))
    flow = chain(
        app.signature("wait", args=(str(begun), str(go))),
        app.signature("note", args=(str(notes), "next"), immutable=True),
        app.signature("add", args=(1, 2), immutable=True),
        app=app,
    )
    result = flow.apply_async()
    wait_for("the first attempt", lambda: lines(begun) == ["begun"])
    first.kill()
    longshore.worker()
    wait_for("the second attempt", lambda: lines(begun) == ["begun", "begun"])
    go.touch()
    assert result.get(timeout=LIMIT) == 3
    assert lines(notes) == ["next"]


@pytest.mark.parametrize("point", POINTS)
def test_a_worker_that_dies_after_a_task_continues_its_chain_once(longshore, tables, point):
    """A step whose message was sent twice is one task: three in all, each done once."""
    doomed = longshore.worker(crash_at=point)
    flow = chain(*(tables.signature("add", args=(n,)) for n in (1, 2, 4)), app=tables)
    result = flow.apply_async()
    doomed.process.wait(LIMIT)
    assert doomed.process.returncode == -signal.SIGABRT
    longshore.worker()
    assert result.get(timeout=LIMIT) == 7
    assert result.parent.parent.get(timeout=LIMIT) == 1
    assert longshore.database.query("select state, count(*) from longshore.tasks group by state") == [("done", 3)]


def test_a_chord_counts_each_part_once_whoever_dies(longshore, joined):
    flow = chord([joined.signature("add", args=(n, n)) for n in range(6)], joined.signature("total"), app=joined)
    result = flow.apply_async()
    for point in ("publish:after", "publish:ready", "publish:acknowledged"):
        doomed = longshore.worker(crash_at=point)
        doomed.process.wait(LIMIT)
        assert doomed.process.returncode == -signal.SIGABRT
    longshore.worker()
    assert result.get(timeout=LIMIT) == 30


def test_a_message_that_comes_twice_continues_the_chain_once(longshore, app):
    """The same message again, as a broker or a producer without confirms may send it."""
    longshore.worker()
    notes = longshore.folder / "notes"
    step = app.signature("note", args=(str(notes), "next"), immutable=True).set(task_id="the-next-one")
    for _ in range(3):
        app.send_task("add", (1, 2), task_id="the-first-one", chain=[dict(step)])
    longshore.reaches("the-next-one", "done")
    wait_for("all three messages", lambda: longshore.vhost.depth("longshore") == 0)
    assert lines(notes) == ["next"]


def test_a_paused_worker_whose_task_went_on_elsewhere_says_nothing(longshore, app):
    first = longshore.worker()
    begun, go, notes = (longshore.folder / name for name in ("begun", "go", "notes"))
    step = app.signature("note", args=(str(notes), "next"), immutable=True)
    result = chain(app.signature("wait", args=(str(begun), str(go))), step, app=app).apply_async()
    wait_for("the first attempt", lambda: lines(begun) == ["begun"])
    os.kill(first.process.pid, signal.SIGSTOP)
    longshore.worker()
    wait_for("the second attempt", lambda: lines(begun) == ["begun", "begun"])
    go.touch()
    result.get(timeout=LIMIT)
    os.kill(first.process.pid, signal.SIGCONT)
    # It notices, and goes on as a worker: the next task may be its.
    first.says("lease is lost")
    assert app.send_task("add", (1, 2)).get(timeout=LIMIT) == 3
    assert lines(notes) == ["next"]


def test_a_task_that_ends_too_many_workers_fails_for_its_client_too(longshore, each, python_worker):
    """No attempt says so: the maintenance leader does, and what is linked to the failure runs."""
    longshore.configure(each.results, old='crash_limit = 9', new='crash_limit = 1')
    doomed = longshore.worker()
    begun, notes = longshore.folder / "begun", longshore.folder / "notes"
    link = each.signature("note", args=(str(notes), "failed"), immutable=True)
    result = each.send_task("wait", (str(begun), str(longshore.folder / "never")), link_error=link)
    wait_for("the attempt", begun.exists)
    doomed.kill()
    longshore.worker()
    with pytest.raises(Exception, match="its worker died") as caught:
        result.get(timeout=LIMIT)
    assert type(caught.value).__name__ == "WorkerLostError"
    wait_for("the errback", lambda: lines(notes) == ["failed"])


def test_a_task_that_is_canceled_while_it_waits_is_revoked(longshore, each):
    longshore.worker()
    result = each.send_task("add", (1, 2), countdown=3600)
    longshore.reaches(result.id, "waiting")
    longshore.cli("task", "cancel", result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=LIMIT)


def test_a_task_that_is_canceled_while_it_runs_is_revoked(longshore, each):
    longshore.worker()
    begun = longshore.folder / "begun"
    result = each.send_task("wait", (str(begun), str(longshore.folder / "never")))
    wait_for("the attempt", begun.exists)
    longshore.cli("task", "cancel", result.id)
    with pytest.raises(TaskRevokedError):
        result.get(timeout=LIMIT)


def test_a_task_that_expires_while_it_waits_is_revoked(longshore, each):
    longshore.worker()
    result = each.send_task("add", (1, 2), countdown=2, expires=1)
    with pytest.raises(TaskRevokedError, match="expired"):
        result.get(timeout=LIMIT)
    assert longshore.state(result.id) == "expired"


def test_a_part_that_is_revoked_fails_its_chord(longshore, joined):
    longshore.worker()
    parts = [joined.signature("add", args=(1, 1)), joined.signature("add", args=(2, 2)).set(countdown=2, expires=1)]
    result = chord(parts, joined.signature("total"), app=joined).apply_async()
    wait_for("the end of the body", result.ready)
    assert isinstance(result.result, ChordError)
