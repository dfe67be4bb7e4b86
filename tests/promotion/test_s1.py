"""Eight promotions onto one index, each with its verification, by workers that die, sleep too long and come back; and three ways
to do without what protects them, each of which must be seen to fail. README.md of this suite: the heads of trial.py, observer.py."""

import pytest
from publishers import Flawed, Own, PyDebS3, Reprepro

DISK, BUCKET = Own(bucket=False), Own(bucket=True)


def broken(wrong):
    return {one.invariant for one in wrong}


# The negative controls: if one of these fails, the observers see nothing.


def test_without_a_lane_packages_are_lost(trial):
    one = trial(PyDebS3(), lane=None, packages=4, until="p-")
    assert "I3" in broken(one.run())


def test_an_index_that_is_written_first_names_what_is_not_there(trial):
    one = trial(Flawed(order="index-first"), packages=3, rate=4_000_000, until="p-")
    assert broken(one.run()) == {"I1"}


def test_a_lock_without_a_fence_lets_a_late_write_undo_others(trial):
    one = trial(Flawed(lock=1), packages=2, until="p-")
    assert one.a_late_write() == 200
    assert {"I3", "I5"} <= broken(one.end())


def test_the_same_history_without_the_flaw_breaks_nothing(trial):
    """What the first two controls lack: the lane, the order."""
    one = trial(Flawed(), packages=3)
    assert one.run() == []


def test_a_late_write_is_answered_by_412_and_changes_nothing(trial):
    one = trial(BUCKET, packages=2)
    assert one.a_late_write() == 412
    assert one.end() == []
