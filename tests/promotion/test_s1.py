"""Eight promotions onto one index, each with its verification, by workers that die, sleep too long and come back; and three ways
to do without what protects them, each of which must be seen to fail. README.md of this suite: the heads of trial.py, observer.py."""

import json

import pytest
from bench import deb
from observer import sha256
from publishers import LANE, Flawed, Own, PyDebS3
from trial import course

DISK, BUCKET = Own(bucket=False), Own(bucket=True)


def broken(wrong):
    return {one.invariant for one in wrong}


# The negative controls: if one of these fails, the observers see nothing.


def test_without_a_lane_packages_are_lost(trial):
    one = trial(PyDebS3(), lane=None, packages=3, until="p-")
    assert "I3" in broken(one.run())


def test_an_index_that_is_written_first_names_what_is_not_there(trial):
    one = trial(Flawed(order="index-first"), packages=2, until="p-")
    assert broken(one.run()) == {"I1"}


def test_a_lock_without_a_fence_lets_a_late_write_undo_others(trial):
    one = trial(Flawed(lock=1), packages=2, until="p-")
    assert one.a_late_write() == 200
    assert {"I3", "I5"} <= broken(one.end())


def test_the_same_history_without_the_flaw_breaks_nothing(trial):
    """What the first two controls lack: the lane, the order."""
    one = trial(Flawed(), packages=2)
    assert one.run() == []


def test_a_late_write_is_answered_by_412_and_changes_nothing(trial):
    one = trial(BUCKET, packages=2)
    assert one.a_late_write() == 412
    assert one.end() == []


# Whoever dies, whenever.


# Together they reach every point. scripts/promotion-trial has more of them.
@pytest.mark.parametrize("seed", (0, 1, 3, 4))
def test_promotions_are_whole_once_and_in_order_whoever_dies(trial, seed):
    publisher, options, run = course(seed, servers=True)
    # One slot takes its time.
    one = trial(publisher, packages=8 if options["workers"] > 1 else 4, **options)
    assert one.run(**run) == [], one.summary()
    assert set(run["alone"]) | set(run["disturbances"]) <= set(one.reached)


@pytest.mark.parametrize("seed", range(2))
def test_other_tools_lose_nothing_and_end_well_whoever_dies(trial, seed):
    publisher, options, run = course(seed, servers=False, names=("reprepro", "pydeb-s3"))
    one = trial(publisher, packages=3, **options)
    assert one.run(**run) == [], one.summary()
    assert set(run["alone"]) <= set(one.reached)


def test_the_lane_takes_as_long_as_the_commits_not_the_uploads(trial):
    """I9."""
    one = trial(BUCKET, packages=4, size=1_500_000, rate=1_000_000)
    assert one.run() == []
    tasks = {row[0]: row[1:] for row in one.scene.rows("select id, started_at, ended_at from tasks")}
    uploads = sum(tasks[f"s-{name}"][1] - tasks[f"s-{name}"][0] for name in one.scene.names)
    assert uploads > 4 * 1500
    in_lane = [tasks[f"p-{name}"] for name in one.scene.names]
    assert max(ended for _, ended in in_lane) - min(begun for begun, _ in in_lane) < uploads / 2


def test_a_verification_runs_while_the_next_promotion_does(trial):
    """I6: the second promotion cannot end before the first one's verification has begun."""
    one = trial(BUCKET, packages=2)
    one.begin()
    worker = one.scene.worker()
    worker.proxy.after("/InRelease", lambda: worker.proxy.hold("/InRelease"))
    worker.start()
    assert worker.proxy.held.wait(60), "the second promotion was not reached"
    one.scene.wait("V1 runs", lambda: [event for event in one.scene.said() if event["verify"] == 1])
    assert one.scene.state("p-package2") == "running"
    worker.proxy.open()
    one.scene.wait("all is verified", one.is_over)
    assert one.end() == []


POLICIES = {
    "halt": {"p": "done done done dead blocked blocked", "v": "done done done canceled blocked blocked"},
    "skip": {"p": "done done done dead done done", "v": "done done done canceled done done"},
    "cancel-rest": {"p": "done done done dead canceled canceled", "v": "done done done canceled canceled canceled"},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_a_version_with_other_bytes_is_refused_and_the_lane_does_as_declared(trial, policy):
    """I10, I11, and of I6: a verification does not care for another's promotion."""
    one = trial(DISK, packages=6, size=10_000, whole=True, meet=False)
    scene = one.scene
    incoming, first = scene.folder / "incoming", scene.names[3]
    one.lane = {"key": LANE, "on_failure": policy}
    deb(incoming, first, 10_000)
    bytes_before = (incoming / f"{first}.deb").read_bytes()
    task = scene.publisher.promotion(first, whole=True)[0]
    scene.longshore("enqueue", "task", task["name"], "--id", "early", "--kwargs", json.dumps(task["kwargs"]))
    scene.worker().start()
    scene.wait("it is promoted", lambda: scene.state("early") == "done")
    one.begin()
    wanted = {f"{kind}-{name}": state for kind, states in POLICIES[policy].items()
              for name, state in zip(scene.names, states.split(), strict=True)}
    scene.wait("all is as declared", lambda: wanted.items() <= dict(scene.rows("select id, state from tasks") or []).items())
    one.watch.close()
    assert broken(one.watch.wrong) <= {"I4"}, "the early one is out of order by design"
    assert "with other bytes" in scene.rows(f"select reason from tasks where id = 'p-{first}'")[0][0]
    promoted = [name for name in scene.names if wanted[f"p-{name}"] == "done"]
    look = one.reader.look()
    assert look.packages == {first, *promoted}
    assert [entry["task"] for entry in look.journal] == ["early", *(f"p-{name}" for name in promoted)]
    assert one.reader.digest(f"pool/main/p/{first}/{first}_1.0_amd64.deb")[1] == sha256(bytes_before)
