"""Whatever becomes of a Python process is the end of one attempt, and of nothing else."""

import os
import signal

import pytest
from conftest import alive, until


@pytest.mark.parametrize(
    "how, reason",
    [
        ("exit", "ended with exit code 3"),
        ("sys.exit", "SystemExit: 4"),
        ("kill", "killed by signal 9"),
        ("segv", "killed by signal 11"),
        ("stop", "nothing was heard of its process for 3s"),
        ("memory", "MemoryError"),
    ],
)
def test_a_death_ends_only_the_attempt(site, how, reason):
    site = site("shop:app", python={"memory": "512MiB"} if how == "memory" else {})
    worker = site.worker()
    folder = str(site.folder)
    # A neighbour in the other process, which is to notice nothing.
    site.enqueue("shop.waits", "neighbour", folder=folder, name="neighbour")
    pid, _ = map(int, site.file("runs-neighbour").split())
    site.enqueue("shop.dies", "dying", folder=folder, how=how)
    assert site.result("dying") == "survived " + how
    task = site.task("dying")
    assert task["failures"] == 1 and task["crashes"] == 0 and task["epoch"] == 2
    assert reason in site.log()
    (site.folder / "go-neighbour").touch()
    assert site.result("neighbour") == pid
    assert site.task("neighbour")["epoch"] == 1
    assert worker.poll() is None


def test_a_task_that_always_dies_is_a_dead_letter(site):
    site = site("shop:app")
    worker = site.worker("--python-processes", "1")
    site.enqueue("shop.aborts", "dying")
    task = site.ended("dying", "dead")
    assert task["failures"] == 3 and "killed by signal 6" in task["reason"]
    assert worker.poll() is None


def test_an_idle_process_that_dies_is_replaced(site):
    site = site("shop:app")
    site.worker("--python-processes", "1")
    site.enqueue("shop.who", "first")
    pid = site.result("first")["pid"]
    os.kill(pid, signal.SIGKILL)
    site.enqueue("shop.who", "second")
    assert site.result("second")["pid"] != pid
    assert site.task("second")["epoch"] == 1


def test_the_processes_end_with_their_worker(site):
    site = site("shop:app")
    worker = site.worker()
    site.enqueue("shop.waits", "long", folder=str(site.folder), name="long")
    pid, _ = map(int, site.file("runs-long").split())
    worker.send_signal(signal.SIGKILL)
    worker.wait()
    until("the process is gone", lambda: not alive(pid))
