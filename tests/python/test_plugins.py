"""Plugins for test jobs that are programs of their own: the two examples, and what becomes of those that fail."""

import json
import signal
import sys

import pytest
from conftest import ROOT, alive, until

LOG = """\
[    0.000000] Linux version 6.12
[    1.200000] WARNING: CPU: 0 PID: 1 at kernel/foo.c:12 foo_init+0x10/0x20
[    1.300000] WARNING: CPU: 1 PID: 7 at kernel/foo.c:12 foo_init+0x10/0x20
[    1.400000] WARNING: CPU: 1 PID: 7 at kernel/bar.c:99 bar_probe+0x1/0x2
[    4.125000] Run /sbin/init as init process
"""


@pytest.fixture
def fetched(site, tmp_path):
    """Runs plugins over a test job whose log is above."""

    def run(**plugins):
        job = tmp_path / "results" / "job"
        job.mkdir(parents=True)
        (job / "log").write_text(LOG)
        (job / "tests.json").write_text('{"boot/login": "pass"}')
        sections = {"plugins.%s" % name: {"command": command} for name, command in plugins.items()}
        made = site(
            None,
            **{
                "pools.py": {"kind": "pinned", "queues": ["ci_fetch", "ci_fetch_postprocess"], "slots": 4},
                "routes": {"*": "ci_fetch"},
                "backends.files": {"kind": "directory", "path": "results"},
                "projects.*": {"plugins": list(plugins)},
                **sections,
            }
        )
        made.worker()
        made.run("enqueue", "fetch", "--backend", "files", "--id", "job", "--target", "group/project/1/board")
        return made

    return run


def look(site):
    return json.loads(site.run("testjob", "show", "files/job", "--json", missing=True) or "{}")


def whole(site):
    """What is shown of the test job, once it is complete."""

    def complete():
        shown = look(site)
        return shown if shown and shown["testjob"]["state"] == "complete" else None

    return until("the test job is complete", complete)


def results(site, *options):
    lines = site.run("testjob", "results", "files/job", "--json", *options).splitlines()
    return {"%s/%s" % (it["suite"], it["name"]): it for it in map(json.loads, lines)}


def script(folder, name, text):
    path = folder / name
    path.write_text(text)
    path.chmod(0o755)
    return [str(path)]


def test_the_examples_in_shell_and_python(fetched):
    examples = ROOT / "examples/plugins"
    site = fetched(
        **{
            "boot-time": [str(examples / "boot-time.sh")],
            "kernel-warnings": [str(examples / "kernel-warnings.py")],
        }
    )
    shown = whole(site)
    tests = results(site)
    assert {name: test["result"] for name, test in tests.items()} == {
        "boot/login": "pass",
        "boot/reached-init": "pass",
        "kernel-warnings/bar_probe": "fail",
        "kernel-warnings/foo_init": "fail",
    }
    assert tests["kernel-warnings/foo_init"]["log"].count("WARNING") == 2
    metrics = results(site, "--metrics")
    assert metrics["boot/time-to-init"]["value"] == 4.125 and metrics["boot/time-to-init"]["unit"] == "s"
    assert metrics["kernel-warnings/number"]["value"] == 3
    assert {file["name"] for file in shown["files"]} == {"log", "lines.txt", "warnings.txt"}
    assert "looked at a log of group/project" in site.log()


SENDS = """#!%s
import json, os, sys
folder = %r
def say(**message):
    print(json.dumps(message), flush=True)
def first_time(name):
    try:
        open(os.path.join(folder, name), "x").close()
        return True
    except FileExistsError:
        return False
def many(suite, count=20000):
    for number in range(count):
        print(json.dumps({"test": {"suite": suite, "name": "t%%d" %% number, "result": "pass"}}))
    sys.stdout.flush()
sys.stdin.readline()
"""


def sends(folder, name, text):
    """A plugin in Python that needs no package."""
    return script(folder, name, SENDS % (sys.executable, str(folder)) + text)


def part(site, name):
    return next(it for it in look(site)["parts"] if it["part"] == name)


def test_one_that_dies_leaves_nothing_of_what_it_sent(fetched, tmp_path):
    text = """
if first_time("died"):
    many("torn")
    os.kill(os.getpid(), 9)
many("whole")
say(done={})
"""
    site = fetched(dies=sends(tmp_path, "dies", text))
    whole(site)
    suites = {test["suite"] for test in results(site).values()}
    assert suites == {"boot", "whole"}
    assert part(site, "dies")["tests"] == 20000 and part(site, "dies")["failures"] == 1
    assert "its process was killed by signal 9" in site.log()


def test_it_is_begun_again_when_its_worker_is_killed_and_what_it_repeats_is_there_once(fetched, tmp_path):
    text = """
import time
many("same")
if first_time("began"):
    open(os.path.join(folder, "pid"), "w").write(str(os.getpid()))
    sys.stdin.readline()
    sys.exit(1)
say(metric={"suite": "same", "name": "m", "value": 2, "measurements": [1, 3]})
"""
    site = fetched(repeats=sends(tmp_path, "repeats", text))
    pid = int(site.file("pid"))
    until("a checkpoint of it", lambda: site.task("testjob:1.1/repeats")["checkpoint_at"])
    assert set(results(site)) == {"boot/login"}
    site.workers[0].send_signal(signal.SIGKILL)
    until("its end: it has lost its worker", lambda: not alive(pid))
    site.worker()
    whole(site)
    assert len(results(site)) == 20001
    assert results(site, "--metrics")["same/m"]["value"] == 2
    assert part(site, "repeats")["crashes"] == 1


def test_one_may_ask_to_come_later(fetched, tmp_path):
    text = """
if first_time("asked"):
    say(later={"seconds": 0.05, "reason": "the report is not ready"})
    sys.exit(0)
say(metadata={"key": "report", "value": {"pages": 3}})
say(attachment={"name": "report", "mimetype": "text/plain", "data": "aGVsbG8="})
say(unheardOf={"of": "a later version"})
"""
    site = fetched(waits=sends(tmp_path, "waits", text))
    shown = whole(site)
    assert shown["metadata"]["report"] == {"pages": 3}
    assert {"name": "report", "mimetype": "text/plain"} in shown["files"]
    assert part(site, "waits")["failures"] == 0
    assert "the report is not ready" in site.log()


@pytest.mark.parametrize(
    "text, reason",
    [
        ("say(test={'suite': 's', 'name': 'n', 'result': 'great'})", "pass, fail, xfail or skip"),
        ("say(attachment={'name': 'shadow', 'path': '/etc/passwd'})", "is no file in the plugin's folder"),
        ("say(attachment={'name': 'up', 'path': '../../etc/passwd'})", "attachment"),
        ("say(failed={'type': 'NoLicence', 'message': 'not mine', 'final': True})", "NoLicence: not mine"),
    ],
)
def test_what_no_other_attempt_could_mend_is_a_dead_letter(fetched, tmp_path, text, reason):
    site = fetched(wrong=sends(tmp_path, "wrong", text + "\nsys.stdin.readline()"))
    task = site.ended("testjob:1.1/wrong", "dead")
    assert reason in task["reason"] and task["failures"] == 1
    # What the fetch found is there all the same.
    assert set(results(site)) == {"boot/login"}


def test_words_that_are_no_message_fail_the_attempt(fetched, tmp_path):
    site = fetched(chatters=sends(tmp_path, "chatters", "print('hello world', flush=True)\nsys.stdin.readline()"))
    task = site.ended("testjob:1.1/chatters", "dead")
    assert "hello world" in task["reason"] and task["failures"] == 3
