"""Runs inside SQUAD: answers calls, one JSON object a line on standard input, one on standard output.

{"code": "…", "values": {…}} runs the code with SQUAD's models and the values as names; the answer is {"result": …}, which
the code leaves in `result`, or {"error": traceback}.
"""

import json
import os
import sys
import traceback

answers = os.fdopen(os.dup(1), "w")
os.dup2(2, 1)  # what else SQUAD prints is no answer

import django  # noqa: E402

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "squad.settings")
django.setup()

from django.contrib.auth.models import User  # noqa: E402
from rest_framework.authtoken.models import Token  # noqa: E402

from squad.celery import app  # noqa: E402
from squad.ci import models as ci  # noqa: E402
from squad.core import models as core  # noqa: E402

app.loader.import_default_modules()  # the tasks, as a worker knows them


def publish(name, args, kwargs=None, **options):
    """Sends a task as SQUAD's own code does: with the task's own options and SQUAD's routes."""
    return app.tasks[name].apply_async(args=args, kwargs=kwargs, **options).id


def main():
    names = {"User": User, "Token": Token, "app": app, "ci": ci, "core": core, "publish": publish}
    for line in sys.stdin:
        call = json.loads(line)
        scope = {**names, **call["values"], "result": None}
        try:
            exec(compile(call["code"], "<test>", "exec"), scope)
            answer = {"result": scope["result"]}
        except Exception:
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer, default=str), file=answers, flush=True)


main()
