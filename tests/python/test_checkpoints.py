"""A task that saves checkpoints goes on where it was; one that knows nothing of them is begun again."""

import signal

from conftest import alive, until

MOST, STOP = 200, 100


def steps(site):
    return [int(step) for step in (site.folder / "steps").read_text().split()]


def at_its_stop(site, id):
    """Waits until the task has come to where it waits to be ended."""
    until("the step", lambda: (site.folder / "steps").exists() and STOP in steps(site))
    until("its checkpoint", lambda: site.task(id)["progress"] == "%d of %d" % (STOP, MOST))


def count(site):
    site.enqueue("counting.count", "count", folder=str(site.folder), most=MOST, stop_at=STOP)
    at_its_stop(site, "count")


def test_it_goes_on_after_its_worker_was_killed(site):
    site = site("counting:app")
    worker = site.worker()
    count(site)
    worker.send_signal(signal.SIGKILL)
    site.worker()
    result = site.result("count")
    assert result == {"counted": MOST, "began at": STOP, "inside": True}
    assert steps(site) == list(range(1, MOST + 1))
    assert site.task("count")["crashes"] == 1


def test_it_is_handed_off_at_a_checkpoint_when_its_worker_drains(site):
    site = site("counting:app", worker={"grace": "30s"})
    worker = site.worker()
    count(site)
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(10) == 0
    task = site.task("count")
    assert (task["state"], task["interruptions"], task["failures"]) == ("queued", 1, 0)
    site.worker()
    assert site.result("count")["began at"] == STOP
    assert steps(site) == list(range(1, MOST + 1))


def test_a_task_that_knows_nothing_may_end_while_its_worker_drains(site):
    site = site("shop:app", worker={"grace": "60s"})
    worker = site.worker()
    site.enqueue("shop.waits", "long", folder=str(site.folder), name="long")
    pid, _ = map(int, site.file("runs-long").split())
    worker.send_signal(signal.SIGTERM)
    until("the drain has begun", lambda: "drain begun" in site.log())
    (site.folder / "go-long").touch()
    assert worker.wait(10) == 0
    assert site.result("long") == pid


def test_at_the_deadline_it_is_killed_with_all_it_started_and_begun_again_elsewhere(site):
    site = site("shop:app")
    worker = site.worker()
    site.enqueue("shop.waits", "long", folder=str(site.folder), name="long")
    pid, helper = map(int, site.file("runs-long").split())
    worker.send_signal(signal.SIGTERM)
    assert worker.wait(20) == 0
    until("the process and its own are gone", lambda: not alive(pid) and not alive(helper))
    task = site.task("long")
    assert (task["state"], task["interruptions"], task["failures"]) == ("queued", 1, 0)
    (site.folder / "go-long").touch()
    site.worker()
    assert site.result("long") != pid


def test_a_task_is_told_its_time_limit_between_two_checkpoints(site):
    site = site("counting:app")
    site.worker()
    for number in range(3):
        site.enqueue("counting.hurried", "hurried-%d" % number)
        assert site.result("hurried-%d" % number) == "told"
        assert site.task("hurried-%d" % number)["failures"] == 0
