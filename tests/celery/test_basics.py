"""What everything else stands on: tasks of Celery's client run here, beside Celery's own workers."""

import pytest


def test_a_task_of_celery_runs_here(longshore, app):
    longshore.worker()
    sent = app.send_task("add", (2, 3), ignore_result=True)
    longshore.reaches(sent.id, "done")
    (result,) = longshore.database.query("select result from longshore.tasks where id = %s", sent.id)[0]
    assert result == "5"


@pytest.mark.parametrize("serializer", ["json", "msgpack"])
def test_a_task_is_read_in_each_serialization(longshore, app, serializer):
    longshore.worker()
    sent = app.send_task("echo", (1, "ä"), {"key": [None, True]}, serializer=serializer, ignore_result=True)
    longshore.reaches(sent.id, "done")


def test_a_python_worker_runs_python_tasks(app, python_worker):
    python_worker()
    assert app.send_task("py.add", (2, 3)).get(timeout=30) == 5
