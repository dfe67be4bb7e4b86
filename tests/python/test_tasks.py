"""An unmodified Celery application's tasks do under Longshore what they do under Celery."""

import base64
import pathlib
import subprocess
import sys

import pytest

APPLICATION = pathlib.Path(__file__).parent / "application"


@pytest.fixture
def shop(site):
    site = site("shop:app")
    site.worker()
    return site


def test_the_application_is_one_like_any_other():
    """Its own tests pass, without anything of Longshore."""
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "test_shop.py"]
    done = subprocess.run(command, cwd=APPLICATION, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout


def test_a_task_returns_what_its_function_returns(shop):
    shop.enqueue("shop.add", "sum", x=2, y=3)
    assert shop.result("sum") == 5


def test_a_task_sees_its_request(shop):
    shop.enqueue("shop.who", "who", colour="blue")
    seen = shop.result("who")
    assert seen["id"] == "who" and seen["queue"] == "shop" and seen["kwargs"] == {"colour": "blue"}
    assert seen["retries"] == 0 and not seen["direct"] and not seen["eager"]
    assert seen["hostname"].startswith("py@")
    assert seen["pid"] != shop.workers[0].pid


def test_bytes_come_and_go_as_bytes(shop):
    data = {"$bytes": base64.b64encode(b"\xff\x00").decode()}
    shop.enqueue("shop.size", "bytes", data=data)
    assert shop.result("bytes") == {"type": "bytes", "size": 2, "back": data}
    assert "weighing 2 bytes" in shop.log() and "printed by a task" in shop.log()


def test_the_workers_own_variables_are_no_matter_of_a_task(site):
    site = site("shop:app", environment={"LONGSHORE__WORKER__LOG": "text"})
    site.worker()
    site.enqueue("shop.surroundings", "around")
    assert site.result("around") == []


def test_an_exception_is_final_as_it_is_for_celery(shop):
    shop.enqueue("shop.divide", "bad", x=1, y=0)
    task = shop.ended("bad", "dead")
    assert task["failures"] == 1
    assert task["reason"].startswith("ZeroDivisionError: division by zero: Traceback")
    assert "shop.py" in task["reason"] and "tracer.py" not in task["reason"]


def test_hooks_and_signals_are_called(shop):
    shop.enqueue("shop.add", "sum", x=2, y=3)
    shop.result("sum")
    shop.enqueue("shop.divide", "bad", x=1, y=0)
    shop.ended("bad", "dead")
    assert (shop.folder / "notes").read_text().splitlines() == [
        "on_success shop.add 5",
        "after_return shop.add SUCCESS",
        "on_failure shop.divide ZeroDivisionError ZeroDivisionError: division by zero",
        "after_return shop.divide FAILURE",
    ]


def test_a_task_that_retries_itself_is_run_again_and_counts(shop):
    shop.enqueue("shop.order", "tea", name="tea")
    assert shop.result("tea") == "tea after 2 retries"
    task = shop.task("tea")
    assert task["epoch"] == 3 and task["failures"] == 0


def test_retries_end_where_the_task_says(shop):
    shop.enqueue("shop.order", "never", name="caviar", there_at=99)
    task = shop.ended("never", "dead")
    assert task["epoch"] == 4 and task["reason"].startswith("OutOfStock: caviar")


def test_autoretry_works(shop):
    shop.enqueue("shop.automatic", "auto")
    assert shop.result("auto") == 2


def test_ignore_and_reject(shop):
    shop.enqueue("shop.ignored", "ignored")
    shop.enqueue("shop.rejected", "rejected")
    assert shop.result("ignored") is None
    assert shop.ended("rejected", "dead")["reason"].startswith("Reject: spoiled")


def test_a_task_that_would_be_replaced_fails_and_says_why(shop):
    """Its substitute would be dropped as a repetition of it."""
    shop.enqueue("shop.replaced", "replaced")
    task = shop.ended("replaced", "dead")
    assert task["failures"] == 1 and task["reason"].startswith("NotImplementedError: Task.replace()")


def test_a_task_that_is_replaced_where_it_is_called_is_celerys(shop):
    shop.enqueue("shop.replaced_within", "within")
    assert shop.result("within") == 3


def test_a_soft_time_limit_is_told_to_the_task(shop):
    shop.enqueue("shop.patient", "patient")
    assert shop.result("patient") == "told in time"


def test_a_soft_time_limit_leaves_the_alarm_to_the_task(shop):
    shop.enqueue("shop.alarmed", "alarmed")
    assert shop.result("alarmed") == ["rung", "told in time"]


def test_a_soft_time_limit_that_is_not_caught_fails_the_task_finally(shop):
    """It ends a call that waits, and not later than that."""
    shop.enqueue("shop.rests", "rests")
    task = shop.ended("rests", "dead")
    assert task["failures"] == 1 and task["reason"].startswith("SoftTimeLimitExceeded")


def test_a_hard_time_limit_ends_the_task_and_is_final(shop):
    shop.enqueue("shop.stubborn", "stubborn")
    task = shop.ended("stubborn", "dead")
    assert task["failures"] == 1 and task["reason"].startswith("TimeLimitExceeded: 0.5")
    shop.enqueue("shop.add", "next", x=1, y=1)
    assert shop.result("next") == 2


def test_a_task_that_was_canceled_is_ended(shop):
    shop.enqueue("shop.waits", "long", folder=str(shop.folder), name="long")
    pid, helper = map(int, shop.file("runs-long").split())
    shop.run("task", "cancel", "long")
    shop.ended("long", "canceled")
    from conftest import alive, until

    until("the process and its own are gone", lambda: not alive(pid) and not alive(helper))


def test_an_application_that_does_not_load_is_told_at_the_start(site):
    site = site("shop:nothing_like_it")
    with pytest.raises(AssertionError, match="nothing_like_it"):
        site.worker()
    assert site.workers[0].wait(10) == 2
