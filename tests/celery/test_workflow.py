"""Workflows go on over Longshore's tasks as over Celery's own."""

import json

import pytest
from celery import chain, chord, group, signature
from celery.exceptions import ChordError
from conftest import LIMIT, wait_for


def sig(app, name, *args, **options):
    return app.signature(name, args=args, **options)


def test_a_chain_goes_from_python_over_longshore_to_python(longshore, each, python_worker):
    longshore.worker()
    python_worker(backend=each.backend_url)
    flow = chain(sig(each, "py.add", 1, 2), sig(each, "add", 10), sig(each, "py.add", 100), sig(each, "mul", 2), app=each)
    assert flow.apply_async().get(timeout=LIMIT) == 226


def test_a_chain_goes_from_longshore_to_longshore(longshore, each):
    longshore.worker()
    flow = chain(sig(each, "add", 1, 2), sig(each, "mul", 10), sig(each, "add", 1), app=each)
    assert flow.apply_async().get(timeout=LIMIT) == 31


def test_an_immutable_step_gets_nothing_of_the_one_before(longshore, each):
    longshore.worker()
    flow = chain(sig(each, "add", 1, 2), sig(each, "mul", 3, 4, immutable=True), app=each)
    assert flow.apply_async().get(timeout=LIMIT) == 12


def test_a_step_knows_where_it_comes_from(longshore, each, python_worker):
    longshore.worker()
    python_worker(backend=each.backend_url)
    result = chain(sig(each, "add", 1, 2), sig(each, "add", 3), sig(each, "py.describe"), app=each).apply_async()
    told = result.get(timeout=LIMIT)
    assert told["args"] == [6]
    assert told["id"] == result.id
    assert told["parent_id"] == result.parent.id
    assert told["root_id"] == result.parent.parent.id
    assert told["retries"] == 0


def test_parents_and_children_are_known_to_the_client(longshore, tables):
    longshore.worker()
    result = chain(sig(tables, "add", 1, 2), sig(tables, "mul", 5), app=tables).apply_async()
    assert result.get(timeout=LIMIT) == 15
    assert result.parent.get(timeout=LIMIT) == 3
    if tables.results == "django":
        # The other backends of 5.2 keep no children.
        assert [child.id for child in result.parent.children] == [result.id]


def test_a_failed_step_fails_those_that_follow(longshore, each):
    longshore.worker()
    result = chain(sig(each, "fatal", "broke off"), sig(each, "add", 1), sig(each, "mul", 2), app=each).apply_async()
    with pytest.raises(RuntimeError, match="broke off"):
        result.get(timeout=LIMIT)
    longshore.reaches(result.parent.parent.id, "dead")
    assert longshore.state(result.id) is None


def test_callbacks_get_the_result(longshore, app, python_worker):
    longshore.worker()
    python_worker()
    notes = longshore.folder / "notes"
    links = [sig(app, "py.note", "kept"), sig(app, "note", str(notes), "linked", immutable=True)]
    assert app.send_task("add", (2, 3), link=links).get(timeout=LIMIT) == 5
    kept = longshore.folder / "python-notes"
    wait_for("both callbacks", lambda: all(it.exists() and it.read_text() for it in (kept, notes)))
    assert kept.read_text() == "(5, 'kept')\n"
    assert notes.read_text() == "linked\n"


def test_errbacks_get_the_id_of_what_failed(longshore, app, python_worker):
    longshore.worker()
    python_worker()
    notes = longshore.folder / "notes"
    links = [sig(app, "py.note", "failed"), sig(app, "note", str(notes), "failed", immutable=True)]
    result = app.send_task("fail", ("no",), link_error=links, link=sig(app, "py.note", "never"))
    with pytest.raises(RuntimeError):
        result.get(timeout=LIMIT)
    kept = longshore.folder / "python-notes"
    wait_for("both errbacks", lambda: all(it.exists() and it.read_text() for it in (kept, notes)))
    assert kept.read_text() == f"('{result.id}', 'failed')\n"


def test_celerys_worker_too_sends_an_id_alone_to_an_errback_that_it_does_not_have(vhost, app, python_worker):
    """Whatever its style: it cannot know. Longshore does with all errbacks as Celery does here."""
    python_worker()
    elsewhere = signature("elsewhere.on_error", app=app).set(queue="shared")
    failed = app.send_task("py.fail", ("no",), link_error=elsewhere)
    wait_for("the errback", lambda: vhost.depth("shared"))
    (message,) = vhost.peek("shared")
    assert message["properties"]["headers"]["task"] == "elsewhere.on_error"
    assert json.loads(message["payload"])[:2] == [[failed.id], {}]


def test_a_group_runs_everywhere(longshore, each, python_worker):
    longshore.worker()
    python_worker(backend=each.backend_url)
    flow = group(sig(each, "add", 1, 2), sig(each, "py.add", 3, 4), sig(each, "mul", 5, 6), app=each)
    assert flow.apply_async().get(timeout=LIMIT) == [3, 7, 30]


def test_a_chain_ends_in_a_group(longshore, each, python_worker):
    longshore.worker()
    python_worker(backend=each.backend_url)
    flow = chain(sig(each, "add", 1, 2), group(sig(each, "add", 10), sig(each, "py.add", 20), app=each), app=each)
    assert flow.apply_async().get(timeout=LIMIT) == [13, 23]


def test_a_chord_joins_parts_of_both_sides_for_python(longshore, tables, python_worker):
    longshore.worker()
    python_worker(backend=tables.backend_url)
    assert chord(parts(tables), sig(tables, "py.total"), app=tables).apply_async().get(timeout=LIMIT) == 15


def test_a_chord_joins_parts_of_both_sides_for_longshore(longshore, joined, python_worker):
    longshore.worker()
    python_worker(backend=joined.backend_url)
    assert chord(parts(joined), sig(joined, "total"), app=joined).apply_async().get(timeout=LIMIT) == 15


def parts(app):
    return [sig(app, "add", 1, 1), sig(app, "py.add", 2, 2), sig(app, "mul", 3, 3)]


def test_a_chord_of_longshore_alone(longshore, joined):
    longshore.worker()
    header = [sig(joined, "add", n, n) for n in range(10)]
    assert chord(header, sig(joined, "total"), app=joined).apply_async().get(timeout=LIMIT) == 90


def test_a_chord_in_the_middle_of_a_chain(longshore, tables, python_worker):
    longshore.worker()
    python_worker(backend=tables.backend_url)
    middle = group(sig(tables, "add", 1), sig(tables, "py.add", 2), app=tables)
    flow = chain(sig(tables, "add", 1, 2), middle, sig(tables, "py.total"), sig(tables, "mul", 2), app=tables)
    assert flow.apply_async().get(timeout=LIMIT) == 18


def test_a_failed_part_fails_the_chord(longshore, tables, python_worker):
    longshore.worker()
    python_worker(backend=tables.backend_url)
    body = sig(tables, "py.total").on_error(sig(tables, "py.note", "chord failed"))
    result = chord([sig(tables, "add", 1, 1), sig(tables, "fatal", "part failed")], body, app=tables).apply_async()
    # Not `get`, which looks at the parts first and raises what they did.
    wait_for("the end of the body", result.ready)
    assert isinstance(result.result, ChordError)
    assert "part failed" in str(result.result)
    kept = longshore.folder / "python-notes"
    wait_for("the errback", kept.exists)


def test_a_chord_that_cannot_be_joined_fails_and_says_why(longshore, app):
    """rpc:// has no chords in Celery either: its client refuses one, and so do we in the middle of a chain."""
    longshore.worker()
    members = [signature("add", args=(1,), app=app).set(queue="longshore", task_id=f"member-{n}") for n in range(2)]
    step = {
        "task": "celery.chord",
        "args": [],
        "kwargs": {
            "kwargs": {},
            "header": {"task": "celery.group", "args": [], "kwargs": {"tasks": [dict(it) for it in members]}, "options": {"task_id": "g"}, "subtask_type": "group", "immutable": False},
            "body": dict(sig(app, "total").set(task_id="body")),
        },
        "options": {},
        "subtask_type": "chord",
        "immutable": False,
    }
    result = app.send_task("add", (1, 2), chain=[step])
    with pytest.raises(RuntimeError, match="a chord needs"):
        result.get(timeout=LIMIT)
    assert longshore.state("member-0") is None
