"""A small Celery application. It knows nothing of Longshore, and its own tests (test_shop.py) neither."""

import os
import pathlib
import signal
import subprocess
import sys
import time

from celery import Celery, Task
from celery.exceptions import Ignore, Reject, SoftTimeLimitExceeded
from celery.result import allow_join_result
from celery.utils.log import get_task_logger

app = Celery("shop", broker=os.environ.get("SHOP_BROKER", "memory://"))
app.conf.task_default_queue = os.environ.get("SHOP_QUEUE", "celery")
app.conf.result_backend = os.environ.get("SHOP_RESULTS")
log = get_task_logger(__name__)


class Counted(Task):
    """A base class with hooks, as applications have them."""

    ended = []

    def on_success(self, value, task_id, args, kwargs):
        note("on_success %s %r" % (self.name, value))

    def on_failure(self, error, task_id, args, kwargs, info):
        note("on_failure %s %s %s" % (self.name, type(error).__name__, info.traceback.splitlines()[-1]))

    def on_retry(self, error, task_id, args, kwargs, info):
        note("on_retry %s %s" % (self.name, error))

    def after_return(self, state, value, task_id, args, kwargs, info):
        note("after_return %s %s" % (self.name, state))


def note(text):
    """Writes a line where a test finds it."""
    folder = os.environ.get("SHOP_NOTES")
    if folder:
        with open(os.path.join(folder, "notes"), "a") as file:
            file.write(text + "\n")


@app.task(base=Counted)
def add(x, y):
    return x + y


@app.task(bind=True)
def who(self, *args, **kwargs):
    request = self.request
    return {
        "id": request.id,
        "retries": request.retries,
        "hostname": request.hostname,
        "queue": request.delivery_info["routing_key"],
        "direct": request.called_directly,
        "eager": request.is_eager,
        "args": list(request.args),
        "kwargs": request.kwargs,
        "own": request.headers,
        "pid": os.getpid(),
    }


@app.task
def size(data):
    log.info("weighing %d bytes", len(data))
    print("printed by a task")
    return {"type": type(data).__name__, "size": len(data), "back": data}


@app.task(base=Counted)
def divide(x, y):
    return x / y


@app.task
def surroundings():
    return sorted(name for name in os.environ if name.startswith("LONGSHORE__"))


class OutOfStock(Exception):
    pass


class Closed(Exception):
    def __init__(self):
        super().__init__()

    def __str__(self):
        return "come back tomorrow"


@app.task
def enter():
    raise Closed


@app.task(bind=True, base=Counted, max_retries=3)
def order(self, name, there_at=2):
    if self.request.retries < there_at:
        raise self.retry(exc=OutOfStock(name), countdown=0.05)
    return "%s after %d retries" % (name, self.request.retries)


@app.task(bind=True, autoretry_for=(OutOfStock,), retry_kwargs={"countdown": 0.05}, max_retries=5)
def automatic(self):
    if self.request.retries < 2:
        raise OutOfStock("not yet")
    return self.request.retries


@app.task
def ignored():
    raise Ignore()


@app.task
def rejected():
    raise Reject("spoiled", requeue=False)


@app.task(bind=True)
def replaced(self):
    return self.replace(add.s(1, 2))


@app.task
def replaced_within():
    with allow_join_result():
        return replaced.apply().get()


@app.task(soft_time_limit=0.3)
def patient():
    try:
        while True:
            time.sleep(0.01)
    except SoftTimeLimitExceeded:
        return "told in time"


@app.task(soft_time_limit=1)
def alarmed():
    """Uses the alarm for something of its own."""
    rung = []
    before = signal.signal(signal.SIGALRM, lambda *_: rung.append("rung"))
    signal.setitimer(signal.ITIMER_REAL, 0.1)
    try:
        while not rung:
            time.sleep(0.01)
        time.sleep(20)
        return rung + ["not told"]
    except SoftTimeLimitExceeded:
        return rung + ["told in time"]
    finally:
        signal.signal(signal.SIGALRM, before)


@app.task(soft_time_limit=0.3)
def rests(seconds=3600):
    time.sleep(seconds)


@app.task(time_limit=0.5)
def stubborn():
    while True:
        time.sleep(0.01)


def first_time(folder, name):
    """Whether this is the first run of `name`."""
    try:
        pathlib.Path(folder, name).touch(exist_ok=False)
        return True
    except FileExistsError:
        return False


@app.task
def dies(folder, how):
    """Ends its process the first time, one way or another."""
    if not first_time(folder, "died-" + how):
        return "survived " + how
    if how == "exit":
        os._exit(3)
    if how == "sys.exit":
        sys.exit(4)
    if how == "kill":
        os.kill(os.getpid(), signal.SIGKILL)
    if how == "segv":
        os.kill(os.getpid(), signal.SIGSEGV)
    if how == "stop":
        os.kill(os.getpid(), signal.SIGSTOP)
    if how == "memory":
        return len([bytearray(1 << 20) for _ in range(1 << 20)])
    raise ValueError(how)


@app.task
def aborts():
    os.abort()


@app.task
def waits(folder, name):
    """Says that it runs, and then knows nothing but its work, for which it has a process of its own."""
    helper = subprocess.Popen(["sleep", "600"])
    write(folder, "runs-" + name, "%d %d" % (os.getpid(), helper.pid))
    while not os.path.exists(os.path.join(folder, "go-" + name)):
        time.sleep(0.01)
    helper.kill()
    helper.wait()
    return os.getpid()


@app.task
def passes_on(x):
    """A task that publishes another."""
    return add.delay(x, 1).id


def write(folder, name, text):
    """A file that appears whole."""
    path = pathlib.Path(folder, name)
    path.with_suffix(".new").write_text(text)
    path.with_suffix(".new").rename(path)
