"""Runs one task of a Celery application as Celery's own worker does, but for what Longshore does itself.

Longshore takes the message, counts, stores the result and continues the workflow. So nothing here needs a connection to
the broker or the result backend; those that the task itself uses are the application's.
"""

import datetime
import json
import signal
import sys
import threading
import traceback as traceback_of

from celery import signals, states
from celery._state import _set_task_join_will_block, _task_stack
from celery.app.task import Context, Task
from celery.app.trace import task_has_custom
from celery.exceptions import Ignore, NotRegistered, Reject, Retry, SoftTimeLimitExceeded
from kombu.utils import json as kombu_json

try:
    from billiard.einfo import ExceptionInfo
except ImportError:  # pragma: no cover
    from celery.utils.collections import ExceptionInfo

import longshore

from . import HandOff
from .line import pack, unpack

# What `Reject(requeue=True)` waits: Celery gives the message back at once, which makes a loop without a pause.
REQUEUED = 1.0


class Outcome:
    """The message that ends an attempt, and whether this process is fit for another."""

    def __init__(self, kind, fit=True, **fields):
        self.kind, self.fit, self.fields = kind, fit, fields


def prepare(app):
    """Once for a process: as Celery's `process_initializer` and its worker do."""
    _set_task_join_will_block(True)
    original = Task.signature_from_request

    # `self.retry` asks for this signature, sends it and raises `Retry`. The worker does the sending.
    def signature_from_request(self, *args, **kwargs):
        signature = original(self, *args, **kwargs)
        signature.apply_async = lambda *_args, **_kwargs: self.request.__dict__.update(_longshore_retry=signature)
        return signature

    Task.signature_from_request = signature_from_request
    replace = Task.replace

    # Its message would come while its task still runs, under the same id, and be taken for a repetition.
    def replaced(self, sig):
        if self.request.is_eager or self.request.called_directly:
            return replace(self, sig)
        raise NotImplementedError(
            "Task.replace() sends another task under the id of this one, which Longshore cannot tell from this one: "
            "call it instead, or have both in a chain"
        )

    Task.replace = replaced


def request_of(message, args, kwargs):
    """The request as Celery's worker makes it of a message's headers."""
    headers = dict(message.get("headers") or {})
    workflow = headers.pop("celery", None) or {}
    request = dict(
        headers,
        id=message["id"],
        task=message["name"],
        args=args,
        kwargs=kwargs,
        retries=message.get("retries", 0),
        hostname=message.get("hostname"),
        correlation_id=message["id"],
        delivery_info={
            "exchange": "",
            "routing_key": message.get("queue"),
            "priority": message.get("priority", 0),
            "redelivered": False,
        },
        called_directly=False,
        is_eager=False,
    )
    request.setdefault("root_id", message["id"])
    for key in ("callbacks", "errbacks", "chain", "chord"):
        request[key] = workflow.get(key)
    return Context(request)


def encoded(value):
    """A value as JSON can hold it, by the rules of Celery's serializer."""
    plain = json.loads(kombu_json.dumps(pack(value)))
    json.dumps(plain, allow_nan=False)
    return plain


def failed(error, final=True, fit=True):
    kind = type(error)
    try:
        args = encoded(list(error.args))
    except Exception:
        args = [repr(arg) for arg in error.args]
    return Outcome(
        "failed",
        fit=fit,
        type=getattr(kind, "__qualname__", kind.__name__),
        module=kind.__module__,
        message=text_of(error),
        args=args,
        traceback="".join(traceback_of.format_exception(kind, error, own(error.__traceback__))),
        final=final,
    )


def own(trace):
    """A traceback without what stands above the application in it."""
    first = trace
    while first is not None and first.tb_frame.f_code.co_filename == __file__:
        first = first.tb_next
    return first or trace


def text_of(error):
    try:
        return str(error)
    except Exception as other:
        return "<%s, and its text failed with %s>" % (type(error).__name__, type(other).__name__)


def run(app, message):
    """Runs the task and says how it ended."""
    try:
        task = app.tasks[message["name"]]
    except NotRegistered as error:
        return failed(error)
    hook = getattr(kombu_json, "object_hook", None)
    args = unpack(message.get("args") or [], hook)
    kwargs = unpack(message.get("kwargs") or {}, hook)
    context = request_of(message, args, kwargs)
    _task_stack.push(task)
    task.push_request(**context.__dict__)
    try:
        return traced(app, task, message, args, kwargs)
    finally:
        task.pop_request()
        _task_stack.pop()


def traced(app, task, message, args, kwargs):
    uuid, state, value = message["id"], None, None
    try:
        try:
            signals.task_prerun.send(sender=task, task_id=uuid, task=task, args=args, kwargs=kwargs)
            app.loader.on_task_init(uuid, task)
            if hasattr(task, "before_start"):
                task.before_start(uuid, args, kwargs)
            value = call(task, message, args, kwargs)
            state, outcome = succeeded(task, message, value, args, kwargs)
        except Retry as error:
            state, value, outcome = states.RETRY, error, retried(task, uuid, error, args, kwargs)
        except Ignore:
            state, outcome = states.IGNORED, Outcome("ignored")
        except Reject as error:
            state, outcome = states.REJECTED, rejected(error)
        except MemoryError as error:
            # Whatever it could not get, this process may need next.
            state, value, outcome = states.FAILURE, error, failure(task, uuid, error, args, kwargs)
            outcome.fit, outcome.fields["final"] = False, False
        except Exception as error:
            state, value, outcome = states.FAILURE, error, failure(task, uuid, error, args, kwargs)
    except HandOff:
        return Outcome("handOff")
    except BaseException as error:
        # `sys.exit` and the like: Celery's child would end here, and so does this one. Another takes the next attempt.
        return failed(error, final=False, fit=False)
    finally:
        signals.task_postrun.send(
            sender=task, task_id=uuid, task=task, args=args, kwargs=kwargs, retval=value, state=state
        )
        app.loader.on_process_cleanup()
    return outcome


def call(task, message, args, kwargs):
    function = task if task_has_custom(task, "__call__") else task.run
    limit = message.get("softTimeLimit")
    if not limit:
        return function(*args, **kwargs)
    with SoftLimit(limit):
        return function(*args, **kwargs)


class SoftLimit:
    """Raises `SoftTimeLimitExceeded`, once, wherever the main thread is when the time is over.

    By SIGUSR1, as Celery does: it ends a system call that waits, and SIGALRM stays the task's own.
    """

    # Between two signals to a thread that is in what must not be cut short.
    AGAIN = 0.01

    def __init__(self, seconds):
        self._seconds, self._over, self._lock = seconds, False, threading.Lock()
        self._ended = threading.Event()

    def __enter__(self):
        self._before = signal.signal(signal.SIGUSR1, self._strike)
        threading.Thread(target=self._watch, daemon=True, name="longshore-limit").start()

    def __exit__(self, *_error):
        self._over = True
        # After this no signal comes, which could find no handler and end the process.
        with self._lock:
            self._ended.set()
        signal.signal(signal.SIGUSR1, self._before or signal.SIG_DFL)

    def _watch(self):
        wait = self._seconds
        while not self._ended.wait(wait):
            with self._lock:
                if self._over:
                    return
                signal.pthread_kill(threading.main_thread().ident, signal.SIGUSR1)
            wait = self.AGAIN

    def _strike(self, _signal, _frame):
        if longshore._attempt.is_busy():
            # A task that saves without a pause may never be met between two checkpoints.
            longshore._attempt.due = self._raise
        else:
            self._raise()

    def _raise(self):
        if not self._over:
            self._over = True
            raise SoftTimeLimitExceeded()


def succeeded(task, message, value, args, kwargs):
    wanted = getattr(task.request, "_longshore_retry", None)
    if wanted is not None:
        # `self.retry(throw=False)`, and then it returned.
        return states.RETRY, again(wanted, None, wanted.options.get("countdown"), wanted.options.get("eta"))
    ignored = task.request.ignore_result if task.request.ignore_result is not None else task.ignore_result
    outcome = Outcome("done", result=None if ignored else encoded(value))
    task.on_success(value, message["id"], args, kwargs)
    signals.task_success.send(sender=task, result=value)
    task.after_return(states.SUCCESS, value, message["id"], args, kwargs, None)
    return states.SUCCESS, outcome


def failure(task, uuid, error, args, kwargs):
    outcome = failed(error)
    info = ExceptionInfo(sys.exc_info())
    try:
        task.on_failure(error, uuid, args, kwargs, info)
        signals.task_failure.send(
            sender=task,
            task_id=uuid,
            exception=error,
            args=args,
            kwargs=kwargs,
            traceback=error.__traceback__,
            einfo=info,
        )
        task.after_return(states.FAILURE, error, uuid, args, kwargs, info)
    finally:
        del info
    return outcome


def retried(task, uuid, error, args, kwargs):
    wanted = getattr(task.request, "_longshore_retry", None)
    if wanted is None:
        # Raised by hand: Celery's worker believes that somebody has sent the message.
        return Outcome("ignored")
    info = ExceptionInfo(sys.exc_info())
    task.on_retry(error.exc or error, uuid, args, kwargs, info)
    signals.task_retry.send(sender=task, request=task.request, reason=error, einfo=info)
    task.after_return(states.RETRY, error, uuid, args, kwargs, info)
    eta = error.when if isinstance(error.when, datetime.datetime) else None
    seconds = error.when if isinstance(error.when, (int, float)) else None
    return again(wanted, error, seconds, eta)


def again(signature, error, seconds, eta):
    if seconds is None and isinstance(eta, datetime.datetime):
        if eta.tzinfo is None:
            eta = eta.replace(tzinfo=datetime.timezone.utc)
        seconds = (eta - datetime.datetime.now(datetime.timezone.utc)).total_seconds()
    reason = "the task wants to be run again"
    if error is not None and error.exc is not None:
        reason += ": %s: %s" % (type(error.exc).__name__, text_of(error.exc))
    return Outcome(
        "retry",
        seconds=float(max(seconds or 0, 0)),
        reason=reason,
        retries=signature.options.get("retries", 1),
        args=encoded(list(signature.args)),
        kwargs=encoded(dict(signature.kwargs)),
    )


def rejected(error):
    if getattr(error, "requeue", False):
        return Outcome("later", seconds=REQUEUED, reason="the task rejected its message, to be delivered again")
    return Outcome(
        "failed", type="Reject", module="celery.exceptions", message=str(error.reason or "rejected"), final=True
    )
