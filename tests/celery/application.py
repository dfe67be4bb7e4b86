"""A Celery application like any: the tests' client, and what their Python workers run.

Tasks called `py.…` are Python's. Those of Longshore are known by name only, and are routed to its queue.
"""

import os
import pathlib

from celery import Celery
from kombu import Queue

LONGSHORE = ("add", "mul", "total", "echo", "fail", "fatal", "raise", "note", "wait")


def use_django(database):
    """Lets Django use the PostgreSQL `database` (host, port, user, name), whatever it used before."""
    import django
    from django.conf import settings
    from django.db import connections

    host, port, user, name = database
    if not settings.configured:
        default = {"ENGINE": "django.db.backends.postgresql", "HOST": host, "PORT": port, "USER": user, "NAME": name}
        settings.configure(
            INSTALLED_APPS=["django_celery_results"],
            DATABASES={"default": default},
            USE_TZ=True,
            DEFAULT_AUTO_FIELD="django.db.models.AutoField",
        )
        django.setup()
    connections["default"].close()
    connections["default"].settings_dict["NAME"] = name


def make(broker, backend):
    app = Celery("application", broker=broker, backend=backend, set_as_current=False)
    app.conf.update(
        task_default_queue="python",
        task_routes={"py.*": {"queue": "python"}, **{name: {"queue": "longshore"} for name in LONGSHORE}},
        task_queues=[Queue(name, routing_key=name) for name in ("python", "longshore", "shared")],
        task_create_missing_queues=True,
        broker_connection_retry_on_startup=True,
        accept_content=["json", "msgpack"],
        result_extended="TEST_EXTENDED" in os.environ,
    )
    tasks(app)
    return app


def tasks(app):
    folder = pathlib.Path(os.environ.get("TEST_FOLDER", "."))

    def note(line):
        with open(folder / "python-notes", "a") as out:
            out.write(f"{line}\n")

    @app.task(name="py.add")
    def add(*numbers):
        return sum(numbers)

    @app.task(name="py.total")
    def total(numbers, *more):
        return sum(numbers) + sum(more)

    @app.task(name="py.echo")
    def echo(*args, **kwargs):
        return {"args": list(args), "kwargs": kwargs}

    @app.task(name="py.note")
    def take_note(*args):
        note(repr(args))
        return list(args)

    @app.task(name="py.fail")
    def fail(message="no"):
        raise ValueError(message)

    @app.task(name="py.errback")
    def errback(request, exc=None, traceback=None):
        """In the new style, and for workers that send an id only."""
        note((getattr(request, "id", request), exc and str(exc)))

    @app.task(name="py.describe", bind=True)
    def describe(self, *args):
        """What a worker is told of a task."""
        request = self.request
        told = {key: getattr(request, key, None) for key in ("id", "root_id", "parent_id", "group", "retries", "origin")}
        return {"args": list(args), **told}


if "TEST_DJANGO" in os.environ:
    use_django(os.environ["TEST_DJANGO"].split(","))

# Only in a worker: a client makes its own.
app = make(os.environ["TEST_BROKER"], os.environ["TEST_BACKEND"]) if "TEST_BROKER" in os.environ else None
