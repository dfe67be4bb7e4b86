"""AsyncResult.get() returns what a handler returned and raises what it raised, with each result backend."""

import json

import pytest
from celery.exceptions import TaskRevokedError, TimeLimitExceeded
from conftest import CELERY, LIMIT, wait_for

VALUES = [None, True, 5, -1, 2**40, 2**63, 1.5, "text with ä and €", [], {}, [1, [2, {"a": None}]], {"b": [1, 2]}]


def test_what_a_handler_returns_is_the_result(longshore, each):
    longshore.worker()
    result = each.send_task("add", (2, 3))
    assert result.get(timeout=LIMIT) == 5
    assert result.state == "SUCCESS"
    assert result.successful()


def test_every_kind_of_value_comes_back_as_it_went(longshore, each):
    longshore.worker()
    sent = [each.send_task("echo", (value,)) for value in VALUES]
    assert [result.get(timeout=LIMIT)["args"][0] for result in sent] == VALUES


def test_an_error_is_raised_with_its_text(longshore, each):
    longshore.worker()
    result = each.send_task("fatal", ("no such thing",))
    with pytest.raises(RuntimeError, match="no such thing"):
        result.get(timeout=LIMIT)
    assert result.state == "FAILURE"
    assert "no such thing" in result.traceback


@pytest.mark.parametrize("kind", [ValueError, KeyError, OSError])
def test_an_error_with_a_name_in_python_is_raised_as_that(longshore, each, kind):
    longshore.worker()
    result = each.send_task("raise", (kind.__name__, "what it says"))
    with pytest.raises(kind, match="what it says"):
        result.get(timeout=LIMIT)


def test_a_failure_that_is_tried_again_is_told_once_at_the_end(longshore, each):
    longshore.worker()
    result = each.send_task("fail", ("twice",))
    with pytest.raises(RuntimeError, match="twice"):
        result.get(timeout=LIMIT)
    ((failures,),) = longshore.database.query("select failures from longshore.tasks where id = %s", result.id)
    assert failures == 2


def test_a_result_that_nobody_wants_is_not_kept(longshore, each):
    longshore.worker()
    ignored = each.send_task("add", (1, 1), ignore_result=True)
    longshore.reaches(ignored.id, "done")
    assert each.send_task("add", (2, 2)).get(timeout=LIMIT) == 4
    table = {"database": "celery_taskmeta", "django": "django_celery_results_taskresult"}.get(each.results)
    if table:
        assert each.AsyncResult(ignored.id).state == "PENDING"
        assert longshore.database.query(f"select count(*) from public.{table}") == [(1,)]


def test_a_reply_to_a_client_that_has_gone_is_dropped(longshore, app):
    gone = app.send_task("wait", (str(longshore.folder / "begun"), str(longshore.folder / "go")), reply_to="nobody-here")
    longshore.worker()
    (longshore.folder / "go").touch()
    longshore.reaches(gone.id, "done")
    assert app.send_task("add", (2, 3)).get(timeout=LIMIT) == 5
    assert longshore.vhost.depth("nobody-here") is None
    assert longshore.database.query("select count(*) from longshore.outbox") == [(0,)]


def test_a_hard_time_limit_ends_the_attempt(longshore, each):
    longshore.worker()
    begun = longshore.folder / "begun"
    result = each.send_task("wait", (str(begun), str(longshore.folder / "never")), time_limit=0.3)
    with pytest.raises(TimeLimitExceeded):
        result.get(timeout=LIMIT)


def test_results_in_tables_that_are_not_there_are_refused_at_the_start(longshore):
    import subprocess

    from conftest import PROGRAM

    for results in ("database", "django"):
        longshore.configure(results)
        ended = subprocess.run(
            [PROGRAM, "--config", longshore.config, "run", "--pool", "work"], capture_output=True, text=True, timeout=LIMIT
        )
        assert ended.returncode == 2
        assert "needs the table public." in ended.stderr


def test_longshore_writes_the_columns_that_python_writes(longshore, tables, python_worker):
    longshore.worker()
    python_worker(backend=tables.backend_url)
    ours, theirs = tables.send_task("add", (2, 3)), tables.send_task("py.add", (2, 3))
    assert (ours.get(timeout=LIMIT), theirs.get(timeout=LIMIT)) == (5, 5)
    if tables.results == "database":
        table, columns = "celery_taskmeta", "status, result, traceback, date_done is null"
    else:
        table = "django_celery_results_taskresult"
        columns = "status, content_type, content_encoding, result, traceback, date_created is null, date_done is null"
    sql = f"select {columns} from public.{table} where task_id = %s"
    found = [[bytes(v) if isinstance(v, memoryview) else v for v in longshore.database.query(sql, it.id)[0]] for it in (ours, theirs)]
    if tables.results == "database" and CELERY < (5, 7):
        # Both are pickles of 5, of different protocols.
        assert found[0][1][:1] == found[1][1][:1] == b"\x80"
        found[0][1] = found[1][1] = None
    assert found[0] == found[1]


@pytest.mark.parametrize("extended", ["off", "on"])
def test_a_task_that_runs_and_is_tried_again_says_so_in_the_tables(longshore, tables, extended):
    """STARTED with its worker, RETRY with its error, as Celery's own; then its end."""
    prepare(longshore, tables, extended)
    longshore.worker()
    begun, go = longshore.folder / "begun", longshore.folder / "go"
    sent = tables.send_task("wait", (str(begun), str(go)))
    wait_for("a handler that runs", begun.exists)
    runs = tables.AsyncResult(sent.id)
    assert (runs.state, runs.info["pid"]) == ("STARTED", longshore.processes[0].process.pid)
    assert not runs.ready()
    go.touch()
    assert sent.get(timeout=LIMIT) == "went on"
    failed = tables.send_task("raise", ("ValueError", "not yet"))
    wait_for("a task that will be tried again", lambda: tables.AsyncResult(failed.id).state == "RETRY")
    again = tables.AsyncResult(failed.id)
    assert isinstance(again.info, ValueError) and "not yet" in again.traceback
    longshore.cli("task", "cancel", failed.id)
    with pytest.raises(TaskRevokedError):
        failed.get(timeout=LIMIT)
    assert tables.AsyncResult(failed.id).state == "REVOKED"


def test_a_task_that_is_canceled_while_its_worker_hands_it_off_says_so(longshore, each):
    """The commit that would have it run again ends it, and no attempt is left to say so."""
    worker = longshore.worker()
    begun, go = longshore.folder / "begun", longshore.folder / "go"
    sent = each.send_task("wait", (str(begun), str(go)), {"obeys": True})
    wait_for("a handler that runs", begun.exists)
    longshore.database.query("update longshore.tasks set cancel = 1 where id = %s", sent.id)
    worker.stop()
    assert longshore.state(sent.id) == "canceled"
    longshore.worker()
    with pytest.raises(TaskRevokedError):
        sent.get(timeout=LIMIT)


def test_a_task_whose_result_is_ignored_says_nothing_of_its_start(longshore, tables):
    prepare(longshore, tables, "off")
    longshore.worker()
    begun = longshore.folder / "begun"
    sent = tables.send_task("wait", (str(begun), str(longshore.folder / "never")), ignore_result=True)
    wait_for("a handler that runs", begun.exists)
    assert tables.AsyncResult(sent.id).state == "PENDING"


def prepare(longshore, app, extended):
    """Tells the start, and waits long enough after a failure to look."""
    longshore.configure(
        app.results,
        celery=f'track_started = "on"\nresult_extended = "{extended}"',
        old='backoff_min = "100ms"\nbackoff_max = "200ms"',
        new='backoff_min = "1h"\nbackoff_max = "1h"',
    )


def test_the_columns_of_result_extended_are_those_that_python_writes(longshore, tables, python_worker):
    tables.conf.result_extended = True
    longshore.configure(tables.results, celery='result_extended = "on"')
    longshore.worker()
    python_worker.variables["TEST_EXTENDED"] = "yes"
    python_worker(backend=tables.backend_url)
    if tables.results == "database":
        table, columns = "celery_taskmeta", "name, args, kwargs, queue, retries, worker is null"
    else:
        table = "django_celery_results_taskresult"
        columns = "task_name, task_args, task_kwargs, periodic_task_name, worker is null"
    found = []
    for name, queue in (("echo", "longshore"), ("py.echo", "python")):
        sent = tables.send_task(name, (2, "ä"), {"key": [None]})
        assert sent.get(timeout=LIMIT) == {"args": [2, "ä"], "kwargs": {"key": [None]}}
        (row,) = longshore.database.query(f"select {columns} from public.{table} where task_id = %s", sent.id)
        row = [json.loads(bytes(value)) if isinstance(value, memoryview) else value for value in row]
        assert row[0] == name
        if tables.results == "database":
            assert row[3] == queue
            row[3] = None
        else:
            # JSON of a text, with or without escapes.
            row[1:3] = [json.loads(value) for value in row[1:3]]
        found.append(row[1:])
    assert found[0] == found[1]
    if tables.results == "database":
        assert found[0] == [[2, "ä"], {"key": [None]}, None, 0, False]


def test_extended_results_without_their_columns_are_refused_at_the_start(longshore, tables):
    import subprocess

    from conftest import PROGRAM

    longshore.configure(tables.results, celery='result_extended = "on"')
    if tables.results == "django":
        # Its columns are always there.
        longshore.worker()
        return
    longshore.database.query("alter table public.celery_taskmeta drop column queue")
    ended = subprocess.run([PROGRAM, "--config", longshore.config, "run", "--pool", "work"], capture_output=True, text=True, timeout=LIMIT)
    assert ended.returncode == 2
    assert "celery.result_extended needs the columns" in ended.stderr


def test_results_that_come_together_share_commits(longshore, each):
    """Of many tasks that end at once, each result is told, though not each has a commit of its own."""
    most = 400
    with each.producer_pool.acquire() as producer:
        sent = [each.send_task("add", (number, 1), producer=producer) for number in range(most)]
    longshore.configure(each.results, old="slots = 4", new="slots = 64")
    longshore.worker()
    assert [result.get(timeout=LIMIT) for result in sent] == [number + 1 for number in range(most)]
    # A row's last write is its settlement.
    ((transactions,),) = longshore.database.query("select count(distinct cast(xmin as text)) from longshore.tasks")
    assert transactions < most / 2
