"""What a task's time limit meets while the process speaks."""

import json
import socket
import subprocess
import sys

from conftest import ROOT

TALKS = """
import sys
import longshore
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded
from longshore import child, line, tracer

app = Celery("talks", broker="memory://")
line = line.Line()

class Told(child.Attempt):
    def is_busy(self):
        busy = super().is_busy()
        if busy:
            print("over", flush=True)
        return busy

longshore._attempt = Told(line, {})

@app.task
def talks():
    # More than a socket takes: it waits until somebody reads, and that is after the limit has struck.
    line.say("progress", text="x" * 5_000_000)
    while True:
        pass

try:
    tracer.call(talks, {"softTimeLimit": 1.5}, [], {})
except SoftTimeLimitExceeded:
    line.say("done", result="told")
"""


def test_a_soft_time_limit_cuts_no_line_short():
    ours, theirs = socket.socketpair()
    with subprocess.Popen(
        [sys.executable, "-c", TALKS],
        env={"PYTHONPATH": str(ROOT / "worker/python")},
        stdin=theirs,
        stdout=subprocess.PIPE,
    ) as process:
        theirs.close()
        assert process.stdout.readline() == b"over\n"
        lines = [json.loads(line) for line in ours.makefile("rb")]
    assert [next(iter(line)) for line in lines] == ["progress", "done"]
    assert len(lines[0]["progress"]["text"]) == 5_000_000
