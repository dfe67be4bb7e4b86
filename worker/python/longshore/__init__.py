"""What a Celery task can say to Longshore, the worker that runs it.

A task that knows nothing of this simply runs. One that calls :func:`checkpoint` now and then goes on where it stopped,
on whichever worker, when its process, its worker or its machine dies, or when its worker is about to end::

    import longshore

    @app.task
    def sum_squares(most):
        at, total = longshore.resume((0, 0))
        while at < most:
            total += at * at
            at += 1
            if at % 1000 == 0:
                longshore.checkpoint((at, total))
        return total

Elsewhere (a Celery worker, a test, a shell) there is no worker to talk to: then nothing is saved and nothing resumed.
"""

__version__ = "0.1.0"
__all__ = ["HandOff", "checkpoint", "deadline", "draining", "epoch", "hand_off", "inside", "progress", "resume"]

# The attempt that runs in this process, if it is a child of a worker.
_attempt = None


class HandOff(BaseException):
    """The worker is about to end, and the task goes on elsewhere. Like ``SystemExit``, no ``except Exception`` takes it."""


def inside():
    """Whether a Longshore worker runs this task."""
    return _attempt is not None


def checkpoint(value):
    """Makes ``value`` (anything that can be JSON) durable: no later attempt begins before it.

    Raises :exc:`HandOff` if the worker is about to end: let it through.
    """
    if _attempt is not None:
        _attempt.checkpoint(value)
        if _attempt.draining():
            raise HandOff


def resume(default=None):
    """What the last checkpoint was; ``default`` at the beginning. Tuples come back as lists."""
    if _attempt is None or _attempt.saved is None:
        return default
    return _attempt.saved


def progress(text):
    """Says for people how far the task is."""
    if _attempt is not None:
        _attempt.progress(str(text))


def draining():
    """Whether the worker is about to end."""
    return _attempt is not None and _attempt.draining()


def deadline():
    """How many seconds are left once the worker is about to end; ``None``: it is not, or nobody knows."""
    return None if _attempt is None else _attempt.left()


def hand_off():
    """Ends this attempt: the task goes on from its last checkpoint, elsewhere."""
    if _attempt is not None:
        raise HandOff


def epoch():
    """This attempt's fencing token, larger in each attempt: for side effects elsewhere that can compare it."""
    return 0 if _attempt is None else _attempt.epoch
