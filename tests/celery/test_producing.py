"""Longshore as the producer: its messages are tasks to Celery's workers."""

import json

from conftest import LIMIT, wait_for


def test_the_command_line_sends_a_task_to_a_python_worker(longshore, vhost, python_worker):
    python_worker()
    printed = longshore.cli(
        *("enqueue", "task", "py.note", "--celery", "--args", json.dumps([1, "ä", {"b": [None]}]), "--id", "mine")
    )
    assert printed == "mine published (py.note on python)\n"
    notes = longshore.folder / "python-notes"
    wait_for("the task", lambda: notes.exists() and notes.read_text())
    assert notes.read_text() == "(1, 'ä', {'b': [None]})\n"
    assert longshore.state("mine") is None


def test_a_countdown_is_the_python_workers_to_wait_for(longshore, vhost, app, python_worker):
    worker = python_worker()
    longshore.cli("enqueue", "task", "py.note", "--celery", "--countdown", "1s", "--expires", "1h", "--kwargs", "{}", "--id", "later")
    wait_for("the task", (longshore.folder / "python-notes").exists)
    assert "py.note[later]" in worker.text()


def test_priority_and_queue_are_as_said(longshore, vhost, app):
    longshore.cli("enqueue", "task", "py.add", "--celery", "--queue", "elsewhere", "--priority", "7", "--args", "[1]")
    (message,) = vhost.peek("elsewhere")
    assert message["properties"]["priority"] == 7
    assert message["properties"]["headers"]["task"] == "py.add"
    assert json.loads(message["payload"])[:2] == [[1], {}]
