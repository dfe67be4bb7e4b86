"""A plugin for test jobs, in Python.

The worker starts a plugin once for each test job; what it sends becomes visible as a whole, when it ends well::

    from longshore import plugin

    def run(job):
        for line in open(job.file("log"), errors="replace"):
            if "Call trace" in line:
                job.test("kernel", "no-call-trace", "fail", log=line)

    plugin.main(run)

Needs nothing but Python; `protos/longshore/plugin/v1/plugin.proto` says what goes over the line.
"""

import os
import sys
import traceback

from .line import Line, pack, unpack

__all__ = ["Job", "main"]


class Job:
    """The test job, and what a plugin can say of it."""

    def __init__(self, line, fields):
        self._line = line
        self.number = fields.get("number")
        self.generation = fields.get("generation")
        self.plugin = fields.get("plugin")
        self.backend = fields.get("backend")
        self.id = fields.get("id")
        self.project = fields.get("project")
        self.settings = unpack(fields.get("settings") or {})
        self.metadata_of = unpack(fields.get("metadata") or {})
        self.files = [file["name"] for file in fields.get("files") or []]
        self.folder = fields.get("folder")

    def file(self, name):
        """The path of a file that was collected; ``None`` if the test job has none of this name."""
        self._line.say("want", name=name)
        heard = self._line.hear()
        if heard is None:
            raise EOFError("the worker is gone")
        return heard[1].get("path") or None

    def test(self, suite, name, result, log=""):
        """A test: ``pass``, ``fail``, ``xfail`` or ``skip``."""
        self._line.say("test", suite=suite, name=name, result=result, log=log)

    def metric(self, suite, name, value, unit="", measurements=()):
        self._line.say(
            "metric", suite=suite, name=name, value=value, unit=unit, measurements=list(measurements) or [value]
        )

    def metadata(self, key, value):
        self._line.say("metadata", key=key, value=pack(value))

    def attach(self, path, name=None, mimetype="application/octet-stream"):
        """A file in the plugin's folder (`job.folder`, where it runs) becomes an attachment."""
        self._line.say("attachment", name=name or os.path.basename(path), mimetype=mimetype, path=os.path.abspath(path))

    def problem(self, text):
        """Something that could not be done as it should: shown on the test job, and fails nothing."""
        self._line.say("problem", text=text)

    def progress(self, text):
        self._line.say("progress", text=text)


class Later(Exception):
    """Raise it to be run again after this many seconds."""

    def __init__(self, seconds, reason=""):
        super().__init__(reason)
        self.seconds, self.reason = seconds, reason


def main(run):
    """Runs ``run(job)`` for the test job that the worker names. An exception is a failure, tried again by the policy of
    ``testjob.postprocess``."""
    # What is printed is for the log, not for the worker to read.
    os.dup2(2, 1)
    line = Line()
    heard = line.hear()
    if heard is None or heard[0] != "start":
        sys.exit("a worker starts this program: see docs/plugins.md")
    try:
        run(Job(line, heard[1]["testjob"]))
    except Later as later:
        line.say("later", seconds=later.seconds, reason=later.reason)
    except Exception as error:
        line.say(
            "failed",
            type=type(error).__name__,
            module=type(error).__module__,
            message=str(error),
            traceback=traceback.format_exc(),
        )
        sys.exit(1)
    else:
        line.say("done")
