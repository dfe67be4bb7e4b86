"""An application whose task knows how to go on."""

import os

import longshore
from celery import Celery
from celery.exceptions import SoftTimeLimitExceeded

app = Celery("counting", broker="memory://")


@app.task
def count(folder, most, stop_at=None):
    """Counts, a checkpoint each, and writes down every step. At `stop_at` it waits, after its checkpoint, to be ended."""
    at = longshore.resume(0)
    began = at
    while at < most:
        at += 1
        with open(os.path.join(folder, "steps"), "a") as file:
            file.write("%d\n" % at)
        longshore.progress("%d of %d" % (at, most))
        if at == stop_at and began < stop_at:
            while not longshore.draining():
                longshore.checkpoint(at)
        longshore.checkpoint(at)
    return {"counted": at, "began at": began, "inside": longshore.inside()}


@app.task(soft_time_limit=0.5)
def hurried():
    """Saves without a pause until it is told that its time is over; and then still can."""
    at = 0
    try:
        while True:
            at += 1
            longshore.checkpoint([at, "x" * 100_000])
    except SoftTimeLimitExceeded:
        longshore.checkpoint(["told", at])
        return "told"
