"""The process that a worker starts to host a Celery application: ``python -m longshore.child --app module:app``."""

import argparse
import ctypes
import logging
import os
import platform
import queue
import signal
import sys
import threading
import time

import longshore

from .line import Line, TooLong, pack, unpack

# Between two signs of life.
HEARTBEAT = 1.0
# How much more this process is to be blamed for want of memory than its worker, of 1000.
BLAME = 300


class Attempt:
    """What the task that runs here can do, and what it should know."""

    def __init__(self, line, start):
        self._line = line
        self._stored = threading.Semaphore(0)
        self._lock = threading.Lock()
        self._drain = None
        # What is to be raised in the main thread once a checkpoint is stored.
        self.due = None
        checkpoint = start.get("checkpoint")
        self.saved = None if checkpoint is None else unpack(checkpoint)
        self.epoch = int(start.get("epoch", 0))

    def checkpoint(self, value):
        with self._line.undisturbed(), self._lock:
            self._line.say("checkpoint", value=pack(value))
            self._stored.acquire()
        if self.due is not None and threading.current_thread() is threading.main_thread():
            due, self.due = self.due, None
            due()

    def is_busy(self):
        return self._line.busy > 0

    def progress(self, text):
        self._line.say("progress", text=text)

    def draining(self):
        return self._drain is not None

    def left(self):
        if self._drain is None or self._drain[1] is None:
            return None
        begun, seconds = self._drain
        return max(0.0, begun + seconds - time.monotonic())

    # Called by the thread that listens.

    def stored(self):
        self._stored.release()

    def drain(self, seconds):
        self._drain = (time.monotonic(), seconds)


class ToWorker(logging.Handler):
    """Puts log records into the worker's log, each with its level."""

    def __init__(self, line):
        super().__init__()
        self._line = line

    def emit(self, record):
        try:
            level = "error" if record.levelno >= logging.ERROR else record.levelname.lower()
            self._line.say("log", level=level, text=self.format(record))
        except Exception:
            self.handleError(record)


def listen(line, starts):
    """Runs in a thread of its own. When the worker is gone, so is this process."""
    while True:
        try:
            heard = line.hear()
        except (OSError, ValueError):
            heard = None
        if heard is None:
            os._exit(0)
        kind, fields = heard
        attempt = longshore._attempt
        if kind == "start":
            # Here, so that no `drain` comes before it.
            longshore._attempt = Attempt(line, fields)
            starts.put(fields)
        elif kind == "saved" and attempt is not None:
            attempt.stored()
        elif kind == "drain" and attempt is not None:
            attempt.drain(fields.get("seconds"))


def live(line):
    """Runs in a thread of its own."""
    while True:
        try:
            line.say("alive")
        except OSError:
            os._exit(0)
        time.sleep(HEARTBEAT)


def die_with(parent):
    """From now on the kernel kills this process when its parent ends (Linux)."""
    try:
        ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    except (OSError, AttributeError):
        return
    if parent and os.getppid() != parent:
        os._exit(0)


def be_blamed():
    """For want of memory the kernel is to kill this process and not its worker."""
    try:
        with open("/proc/self/oom_score_adj", "r+") as file:
            now = int(file.read())
            file.seek(0)
            file.write(str(min(1000, now + BLAME)))
    except (OSError, ValueError):
        pass


def limit_memory(most):
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (most, resource.getrlimit(resource.RLIMIT_DATA)[1]))


def load(name, line):
    """The application, in the state that Celery's worker has brought it to before its first task."""
    from celery import signals
    from celery.app.utils import find_app

    app = find_app(name)
    app.set_current()
    app.set_default()
    app.loader.init_worker()
    app.finalize()
    if signals.setup_logging.receivers:
        signals.setup_logging.send(sender=None, loglevel=logging.INFO, logfile=None, format="", colorize=False)
    root = logging.getLogger()
    if not root.handlers:
        root.addHandler(ToWorker(line))
        root.setLevel(logging.INFO)
    signals.worker_init.send(sender=None)
    app.loader.init_worker_process()
    signals.worker_process_init.send(sender=None)
    return app


def names(app):
    for name, task in sorted(app.tasks.items()):
        known = {"name": name}
        for key, limit in (
            ("timeLimit", task.time_limit or app.conf.task_time_limit),
            ("softTimeLimit", task.soft_time_limit or app.conf.task_soft_time_limit),
        ):
            if limit:
                known[key] = float(limit)
        yield known


def main():
    parser = argparse.ArgumentParser(prog="longshore.child")
    parser.add_argument("--app", required=True, help="the Celery application, as `celery -A` takes it")
    parser.add_argument("--parent", type=int, default=0, help="the worker's process: it is not outlived")
    parser.add_argument("--memory", type=int, default=0, help="bytes of data that this process may have")
    arguments = parser.parse_args()
    die_with(arguments.parent)
    be_blamed()
    if arguments.memory:
        limit_memory(arguments.memory)
    # A Ctrl-C at the terminal is the worker's matter.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    line = Line()
    try:
        app = load(arguments.app, line)
        from . import tracer

        tracer.prepare(app)
    except BaseException as error:
        import traceback

        line.say(
            "failed",
            type=type(error).__name__,
            module=type(error).__module__,
            message=str(error),
            traceback=traceback.format_exc(),
        )
        sys.exit(1)
    import celery

    line.say(
        "hello",
        protocol=1,
        tasks=list(names(app)),
        software="Python %s, Celery %s" % (platform.python_version(), celery.__version__),
    )
    starts = queue.Queue()
    threading.Thread(target=live, args=(line,), daemon=True, name="longshore-live").start()
    threading.Thread(target=listen, args=(line, starts), daemon=True, name="longshore-listen").start()
    while True:
        start = starts.get()
        outcome = tracer.run(app, start["task"])
        longshore._attempt = None
        try:
            line.say(outcome.kind, **outcome.fields)
        except (TooLong, ValueError, TypeError) as error:
            refused = tracer.failed(error)
            line.say(refused.kind, **refused.fields)
        if not outcome.fit:
            # Not `sys.exit`: threads that the task has left behind could keep the process.
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(70)


if __name__ == "__main__":
    main()
