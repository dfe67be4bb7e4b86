"""Messages as Celery's clients send them: times, priorities, limits, and queues that Python's workers use too."""

import datetime

import pytest
from celery.exceptions import SoftTimeLimitExceeded
from conftest import LIMIT, wait_for
from kombu import Connection, Queue


def utc_in(seconds):
    return datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(seconds=seconds)


def test_a_countdown_holds_no_message_and_no_slot(longshore, app):
    longshore.configure(old="slots = 4", new="slots = 1")
    longshore.worker()
    later = app.send_task("add", (1, 2), countdown=3)
    longshore.reaches(later.id, "waiting")
    # The one slot and the one message of its prefetch are free.
    assert app.send_task("add", (3, 4)).get(timeout=LIMIT) == 7
    assert longshore.state(later.id) == "waiting"
    assert later.get(timeout=LIMIT) == 3
    ((early,),) = longshore.database.query("select started_at < created_at + 2500 from longshore.tasks where id = %s", later.id)
    assert not early


def test_an_eta_that_has_passed_is_now(longshore, app):
    longshore.worker()
    assert app.send_task("add", (1, 2), eta=utc_in(-60)).get(timeout=LIMIT) == 3


def test_an_expired_task_never_runs(longshore, app):
    notes = longshore.folder / "notes"
    longshore.worker()
    late = app.send_task("note", (str(notes), "late"), countdown=2, expires=1)
    longshore.reaches(late.id, "waiting")
    longshore.reaches(late.id, "expired")
    assert not notes.exists()


def test_larger_priorities_come_first(longshore, app, vhost):
    with Connection(vhost.url) as connection:
        Queue("longshore", channel=connection.channel(), queue_arguments={"x-max-priority": 10}).declare()
    longshore.configure(old="slots = 4", new="slots = 1")
    notes = longshore.folder / "notes"
    sent = [
        app.send_task("note", (str(notes), str(priority)), priority=priority, queue=Queue("longshore", queue_arguments={"x-max-priority": 10}, routing_key="longshore"))
        for priority in (0, 5, 9, 1)
    ]
    wait_for("all messages", lambda: vhost.depth("longshore") == 4)
    longshore.worker()
    for result in sent:
        longshore.reaches(result.id, "done")
    assert notes.read_text().split() == ["9", "5", "1", "0"]


def test_a_soft_limit_asks_the_handler_to_come_to_an_end(longshore, app):
    longshore.configure(old="attempts = 2", new="attempts = 99")
    longshore.worker()
    begun, go = longshore.folder / "begun", longshore.folder / "go"
    result = app.send_task("wait", (str(begun), str(go)), {"obeys": True}, soft_time_limit=0.3)
    wait_for("a handler that was asked", lambda: begun.exists() and "draining" in begun.read_text())
    go.touch()
    assert result.get(timeout=LIMIT) == "went on"


def test_what_a_drain_hands_off_goes_on_at_once_elsewhere(longshore, app):
    """Well before anybody would look for what nobody has claimed."""
    first = longshore.worker()
    begun, go = longshore.folder / "begun", longshore.folder / "go"
    result = app.send_task("wait", (str(begun), str(go)), {"obeys": True})
    wait_for("a handler that runs", begun.exists)
    longshore.worker()
    assert first.stop() == 0
    wait_for("another attempt", lambda: begun.read_text().count("begun") == 2)
    go.touch()
    assert result.get(timeout=LIMIT) == "went on"


def test_what_is_never_done_at_its_soft_limit_fails(longshore, app):
    longshore.worker()
    begun, go = longshore.folder / "begun", longshore.folder / "never"
    result = app.send_task("wait", (str(begun), str(go)), {"obeys": True}, soft_time_limit=0.3)
    with pytest.raises(SoftTimeLimitExceeded):
        result.get(timeout=LIMIT)
    assert begun.read_text().count("begun") == 2, "as many as its attempts"


def test_a_retry_counts_up_for_whoever_reads_the_message(longshore, app):
    # Long enough to look at it.
    longshore.configure(old='backoff_min = "100ms"\nbackoff_max = "200ms"', new='backoff_min = "1h"\nbackoff_max = "1h"')
    longshore.worker()
    sent = app.send_task("fail", ("no",), ignore_result=True)
    longshore.reaches(sent.id, "waiting")
    ((task,),) = longshore.database.query("select cast(task as json) from longshore.tasks where id = %s", sent.id)
    assert (task["headers"]["retries"], task["wire"]) == (1, "celery")


def test_tasks_of_python_on_a_shared_queue_are_sent_on(longshore, app, python_worker):
    """As they came: with their own serialization, times and workflow."""
    longshore.configure(
        old='queues = ["longshore"]', new='queues = ["longshore", "shared"]', celery='unknown_queue = "python"'
    )
    longshore.worker()
    python_worker()
    sent = [
        app.send_task("py.echo", ("ä",), queue="shared", serializer="msgpack"),
        app.send_task("add", (1, 2), queue="shared"),
        app.send_task("py.add", (3, 4), queue="shared", link=app.signature("py.note", args=("linked",))),
    ]
    assert [result.get(timeout=LIMIT) for result in sent] == [{"args": ["ä"], "kwargs": {}}, 3, 7]
    kept = longshore.folder / "python-notes"
    wait_for("the callback", lambda: kept.exists() and kept.read_text())
    assert [longshore.state(result.id) for result in sent] == [None, "done", None]


def test_an_unknown_task_is_parked_without_a_queue_for_it(longshore, app):
    longshore.worker()
    sent = app.send_task("py.add", (3, 4), queue="longshore", ignore_result=True)
    longshore.reaches(sent.id, "parked")


def test_a_queue_is_used_as_its_producer_declared_it(longshore, app, vhost, api):
    arguments = {"x-message-ttl": 86_400_000, "x-max-priority": 3}
    with Connection(vhost.url) as connection:
        Queue("longshore", channel=connection.channel(), queue_arguments=arguments).declare()
    worker = longshore.worker()
    queue = Queue("longshore", queue_arguments=arguments, routing_key="longshore")
    assert app.send_task("add", (1, 2), queue=queue).get(timeout=LIMIT) == 3
    assert api("GET", f"queues/{vhost.name}/longshore")["arguments"] == arguments
    assert worker.stop() == 0


def test_the_prefetch_is_each_consumers_own_so_that_a_quorum_queue_will_do(longshore, app, vhost, api):
    """Quorum queues refuse one for a whole channel (`global`), by which Celery's workers wait for ETAs."""
    arguments = {"x-queue-type": "quorum"}
    with Connection(vhost.url) as connection:
        Queue("longshore", channel=connection.channel(), queue_arguments=arguments).declare()
    longshore.worker()
    queue = Queue("longshore", queue_arguments=arguments, routing_key="longshore")
    assert app.send_task("add", (1, 2), queue=queue).get(timeout=LIMIT) == 3

    def channel():
        ours = [it for it in api("GET", f"consumers/{vhost.name}") if it["queue"]["name"] == "longshore"]
        # Statistics come a while later; until then a consumer's channel is an empty list.
        if not ours or not ours[0]["channel_details"]:
            return None
        named = [it for it in api("GET", "channels") if it["name"] == ours[0]["channel_details"]["name"]]
        return (ours[0], named[0]) if named and "global_prefetch_count" in named[0] else None

    consumer, found = wait_for("the consumer's channel in the statistics", channel)
    assert consumer["prefetch_count"] == 4
    assert found["global_prefetch_count"] == 0
