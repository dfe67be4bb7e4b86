"""Workflows in workflows: maps and chunks, groups in chains in chords, each with tasks of both sides."""

import pytest
from celery import chain, chord, group
from celery.canvas import chunks, xmap, xstarmap
from celery.result import result_from_tuple
from conftest import LIMIT, wait_for
from test_workflow import sig

PAIRS = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 5)]
SUMS = [2, 4, 6, 8, 10]


def test_a_map_runs_here_for_each_item(longshore, each):
    longshore.worker()
    assert xstarmap(sig(each, "add"), PAIRS, app=each).apply_async().get(timeout=LIMIT) == SUMS
    assert xmap(sig(each, "total"), [[1, 2], [3]], app=each).apply_async().get(timeout=LIMIT) == [3, 3]


def test_chunks_run_here(longshore, each):
    longshore.worker()
    # Celery's client routes them by the name celery.starmap.
    result = chunks(sig(each, "add"), PAIRS, 2, app=each).apply_async(queue="longshore")
    assert result.get(timeout=LIMIT) == [SUMS[:2], SUMS[2:4], SUMS[4:]]


def test_a_map_fails_as_its_item_does(longshore, each):
    longshore.worker()
    result = xmap(sig(each, "fatal"), ["one", "two"], app=each).apply_async()
    with pytest.raises(RuntimeError, match="one"):
        result.get(timeout=LIMIT)


def test_a_map_of_what_is_not_known_here_goes_where_python_runs_it(longshore, app, python_worker):
    longshore.configure(celery='unknown_queue = "python"')
    longshore.worker()
    python_worker()
    flow = xstarmap(sig(app, "py.add"), PAIRS, app=app)
    assert flow.apply_async(queue="longshore").get(timeout=LIMIT) == SUMS


def test_a_map_of_what_nobody_knows_is_parked(longshore, app):
    longshore.worker()
    sent = xmap(sig(app, "nobody.knows"), [1], app=app).apply_async(queue="longshore", ignore_result=True)
    longshore.reaches(sent.id, "parked")


@pytest.mark.parametrize("mapped", ["add", "py.add"])
def test_maps_in_the_middle_of_a_chain(longshore, each, python_worker, mapped):
    longshore.worker()
    python_worker(backend=each.backend_url)
    flow = chain(sig(each, "add", 1, 2), xstarmap(sig(each, mapped), PAIRS, app=each), sig(each, "total"), app=each)
    assert flow.apply_async().get(timeout=LIMIT) == sum(SUMS)


@pytest.mark.parametrize("mapped", ["add", "py.add"])
def test_chunks_that_end_a_chain_are_a_task_that_sends_their_parts(longshore, tables, python_worker, mapped):
    """Its result is that of their group, on either side."""
    longshore.worker()
    python_worker(backend=tables.backend_url)
    parts = chunks(sig(tables, mapped), PAIRS, 2, app=tables)
    sent = chain(sig(tables, "add", 1, 2), parts, app=tables).apply_async().get(timeout=LIMIT)
    assert result_from_tuple(sent, app=tables).get(timeout=LIMIT) == [SUMS[:2], SUMS[2:4], SUMS[4:]]


def test_a_chord_of_chunks_after_a_task_of_longshores(longshore, tables, python_worker):
    longshore.worker()
    python_worker(backend=tables.backend_url)
    parts = chunks(sig(tables, "add"), PAIRS, 2, app=tables).group()
    flow = chain(sig(tables, "add", 1, 2), parts, sig(tables, "py.echo"), app=tables)
    assert flow.apply_async().get(timeout=LIMIT)["args"] == [[SUMS[:2], SUMS[2:4], SUMS[4:]]]


def test_a_group_in_a_chain_in_a_chord(longshore, tables, python_worker):
    """The header's part is a chain that ends in a group; its steps are of both sides. Of the members of a chord begun by Python
    django_celery_results counts such a group as one: with a member of Python's, its worker might be who uses the count up, and
    looks once only, so that even Celery's workers alone do not end such a chord."""
    longshore.worker()
    python_worker(backend=tables.backend_url)
    last = "py.add" if tables.results == "database" else "add"
    inner = group(sig(tables, "add", 10), sig(tables, last, 20), app=tables)
    part = chain(sig(tables, "add", 1, 2), inner, app=tables)
    flow = chord([part, sig(tables, "mul", 2, 2)], sig(tables, "py.echo"), app=tables)
    found = flow.apply_async().get(timeout=LIMIT)["args"][0]
    assert flat(found) == [4, 13, 23]


def test_a_chord_in_a_chain_in_a_chord(longshore, tables, python_worker):
    """The inner chord's body is Longshore's. Where its parts are pickles (5.2, `database`), the message that joins them is
    passed on to a Python worker, as one whose task is unknown here."""
    longshore.configure(tables.results, celery='unknown_queue = "python"')
    longshore.worker()
    python_worker(backend=tables.backend_url)
    inner = group(sig(tables, "add", 10), sig(tables, "py.add", 20), app=tables)
    part = chain(sig(tables, "add", 1, 2), inner, sig(tables, "total"), sig(tables, "add", 1), app=tables)
    flow = chord([part, sig(tables, "py.add", 2, 2)], sig(tables, "py.echo"), app=tables)
    assert flat(flow.apply_async().get(timeout=LIMIT)["args"][0]) == [4, 37]


def test_a_chord_with_a_group_in_a_chain_after_a_task_of_longshores(longshore, tables, python_worker):
    """The same, begun by Longshore."""
    longshore.worker()
    python_worker(backend=tables.backend_url)
    inner = group(sig(tables, "add", 10), sig(tables, "py.add", 20), app=tables)
    header = group(chain(sig(tables, "add", 2), inner, app=tables), sig(tables, "mul", 2), app=tables)
    flow = chain(sig(tables, "add", 1, 2), chord(header, sig(tables, "py.echo"), app=tables), app=tables)
    assert flat(flow.apply_async().get(timeout=LIMIT)["args"][0]) == [6, 15, 25]


def flat(values):
    """All numbers of lists in lists, in order of size."""
    if isinstance(values, list):
        return sorted(number for value in values for number in flat(value))
    return [values]


def lines(file):
    return file.read_text().splitlines() if file.exists() else []


def test_an_errback_in_the_new_style_is_told_as_celery_tells_those_of_others(longshore, app, python_worker):
    """Celery calls one in the worker of the failed task, with its request and exception, if that worker knows it; else, and so
    from here, it is sent as a task with the failed one's id. One that takes both serves both."""
    longshore.worker()
    python_worker()
    notes = longshore.folder / "python-notes"
    link = sig(app, "py.errback")
    theirs = app.send_task("py.fail", ("theirs",), link_error=link)
    wait_for("the errback of a Python task", lambda: len(lines(notes)) == 1)
    ours = app.send_task("fatal", ("ours",), link_error=link)
    wait_for("the errback of a task of Longshore's", lambda: len(lines(notes)) == 2)
    assert lines(notes) == [f"('{theirs.id}', 'theirs')", f"('{ours.id}', None)"]


def test_errbacks_of_longshores_are_sent_by_python_with_the_id(longshore, app, python_worker):
    longshore.worker()
    python_worker()
    notes = longshore.folder / "notes"
    link = sig(app, "echo")
    link.set(task_id="the-errback")
    failed = app.send_task("py.fail", ("no",), link_error=link)
    longshore.reaches("the-errback", "done")
    ((result,),) = longshore.database.query("select cast(result as json) from longshore.tasks where id = 'the-errback'")
    assert result["args"] == [failed.id]
