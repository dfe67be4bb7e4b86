"""SQUAD as an operator has it: its database, broker, storage, workers and web server."""

import json
import os
import pathlib
import socket
import subprocess
import sys
import textwrap
import threading

import requests

from process import Process
from services import LIMIT, Database, Vhost, wait_for

BIN = pathlib.Path(sys.executable).parent
HERE = pathlib.Path(__file__).parent
FETCH = "ci_fetch"
POSTPROCESS = "ci_fetch_postprocess"
NOTIFICATION = "core_notification"
REST = ("celery", "ci_poll", "ci_quick", "core_notification", "core_postprocess", "core_quick", "core_reporting")


def variables(database, storage, broker=None):
    """The environment of SQUAD's programs: nothing of the caller's but what any program needs."""
    environment = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    environment |= {
        "ENV": "production",
        "SECRET_KEY": "not a secret, for tests",
        "DATABASE": database.for_squad,
        "SQUAD_STORAGE_DIR": str(storage),
        "SQUAD_STATIC_DIR": str(storage / "static"),
        # in texts that SQUAD stores; nothing is asked there
        "SQUAD_HOSTNAME": "squad.test",
        "SQUAD_BASE_URL": "http://squad.test",
        "PYTHONUNBUFFERED": "1",
    }
    if broker:
        environment["SQUAD_CELERY_BROKER_URL"] = broker
    return environment


def migrate(database, storage):
    """SQUAD's own migrations."""
    done = subprocess.run(
        [BIN / "squad-admin", "migrate", "--no-input", "-v", "0"],
        env=variables(database, storage),
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stdout[-4000:]


class Installation:
    """One SQUAD with a database, virtual host and storage of its own; all of it goes with `close`. Its files are in a folder,
    or in a `bucket`."""

    def __init__(self, template, folder, bucket=None):
        self.folder = folder
        self.storage = folder / "storage"
        self.storage.mkdir(parents=True)
        self.database = Database(template)
        self.vhost = Vhost()
        self.environment = variables(self.database, self.storage, self.vhost.url)
        self.bucket = bucket
        if bucket:
            settings = folder / "settings.py"
            settings.write_text(bucket.for_squad())
            self.environment["SQUAD_EXTRA_SETTINGS"] = str(settings)
        self.processes = []
        self.helper = None
        self.asking, self.starting = threading.Lock(), threading.Lock()
        self.web = None

    def process(self, name, arguments, environment=None, **options):
        """Starts a program that ends with this installation."""
        with self.starting:
            log = self.folder / f"{len(self.processes)}-{name}.log"
            process = Process(name, arguments, environment or self.environment, log, **options)
            self.processes.append(process)
        return process

    def close(self):
        for process in self.processes:
            process.kill()
        self.vhost.drop()
        self.database.drop()

    def file(self, path):
        """What a file of its storage holds."""
        return self.bucket.read(path) if self.bucket else (self.storage / path).read_bytes()

    def for_longshore(self):
        """Where Longshore is told that SQUAD's files are: the value of `squad.storage`, and what else stands in the file."""
        return (self.bucket.place, self.bucket.for_longshore()) if self.bucket else (str(self.storage), "")

    # --- inside SQUAD ---

    def inside(self, code, **values):
        """Runs Python inside SQUAD, with its models as `core` and `ci`; returns what it leaves in `result`."""
        if self.helper is None:
            self.helper = self.process(
                "inside", [sys.executable, HERE / "inside.py"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
            ).child
        call = json.dumps({"code": textwrap.dedent(code), "values": values})
        with self.asking:
            self.helper.stdin.write(call.encode() + b"\n")
            self.helper.stdin.flush()
            line = self.helper.stdout.readline()
        assert line, "the helper inside SQUAD ended; its log is in " + str(self.folder)
        answer = json.loads(line)
        assert "error" not in answer, answer["error"]
        return answer["result"]

    def backend(self, name, url, kind="lava", **columns):
        """A backend; returns its primary key."""
        columns = {"implementation_type": kind, "username": "squad", "token": "secret-token", **columns}
        return self.inside(
            "result = ci.Backend.objects.update_or_create(name=name, defaults={'url': url, **columns})[0].pk",
            name=name,
            url=url,
            columns=columns,
        )

    def build(self, project="lab/kernel", version="1", settings=None, plugins=None, issues=(), **columns):
        """A build with its group and project; returns its primary key.

        `issues` are known issues: (test name, environment). Columns are the project's.
        """
        return self.inside(
            """
            group, slug = project.split('/')
            group, _ = core.Group.objects.get_or_create(slug=group)
            project, _ = group.projects.get_or_create(slug=slug)
            project.project_settings = settings
            project.enabled_plugins_list = plugins
            for name, value in columns.items():
                setattr(project, name, value)
            project.save()
            for test_name, environment in issues:
                environment, _ = project.environments.get_or_create(slug=environment)
                issue = core.KnownIssue.objects.create(title='Known: ' + test_name, test_name=test_name)
                issue.environments.add(environment)
            result = project.builds.get_or_create(version=version)[0].pk
            """,
            project=project,
            version=version,
            settings=settings,
            plugins=plugins,
            issues=issues,
            columns=columns,
        )

    def testjob(self, build, backend, job_id, environment="board", **columns):
        """A submitted test job of that build; returns its primary key."""
        return self.inside(
            """
            build = core.Build.objects.get(pk=build)
            columns = {'submitted': True, 'job_status': 'Submitted', **columns}
            result = ci.TestJob.objects.create(target=build.project, target_build=build, backend_id=backend,
                                               job_id=job_id, environment=environment, **columns).pk
            """,
            build=build,
            backend=backend,
            job_id=str(job_id),
            environment=environment,
            columns=columns,
        )

    def publish(self, name, *args, **options):
        """Sends a task as SQUAD does; returns its id."""
        return self.inside(
            "result = publish(name, args, **options)", name=name, args=args, options=options
        )

    def fetch(self, testjob, **kwargs):
        """Sends what SQUAD sends when a test job is to be fetched."""
        return self.publish("squad.ci.tasks.fetch", testjob, kwargs=kwargs)

    # --- SQUAD's programs ---

    def worker(self, *queues, environment=None, arguments=()):
        """SQUAD's own worker, of one process, for those queues; by default all but the two that Longshore takes over."""
        queues = queues or REST
        return self.process(
            "squad-worker",
            [
                BIN / "squad-worker",
                f"--queues={','.join(queues)}",
                "--concurrency=1",
                "--without-mingle",
                "--without-gossip",
                f"--hostname=w{len(self.processes)}@%h",
                *arguments,
            ],
            environment={**self.environment, **(environment or {})},
        )

    def declare(self, *queues):
        """Declares queues as SQUAD's programs do when they first use them."""
        self.inside(
            """
            with app.connection_for_write() as connection:
                for name in queues:
                    app.amqp.queues[name](connection.default_channel).declare()
            """,
            queues=queues,
        )

    def drained(self, queue):
        """Waits until SQUAD's worker on `queue` has run all that was there, and started nothing since: queues are in
        order, and a worker of one process runs one task at a time."""
        mark = self.publish("squad.ci.tasks.fetch", -1, queue=queue)  # no such test job: nothing is done
        self.wait_for(
            f"the mark at the end of {queue}",
            "select 1 from django_celery_results_taskresult where task_id = %s and status = 'SUCCESS'",
            mark,
        )

    def wait_for(self, what, query, *values, limit=LIMIT):
        """Waits until `query` has rows, and returns them."""
        def there():
            for process in self.processes:
                if process.child.poll() not in (None, 0, -6, -9, -15):  # -6: at a crash point
                    process.expect_running()
            return self.database.rows(query, values)

        return wait_for(what, there, limit)

    def start_web(self):
        """SQUAD's web server; sets and returns its address."""
        if self.web is None:
            listener = socket.create_server(("127.0.0.1", 0))
            port = listener.getsockname()[1]
            # the program listens on our socket: no port is free only to be taken by another
            number = listener.fileno()
            self.process(
                "squad",
                [BIN / "squad", "--fast", "--bind", f"fd://{number}", "--workers", "1", "--threads", "4"],
                pass_fds=[number],
            )
            listener.close()
            self.web = f"http://127.0.0.1:{port}"
        return self.web

    def token(self):
        """A token of an administrator, for SQUAD's API."""
        return self.inside(
            """
            user, _ = User.objects.get_or_create(username='admin', is_superuser=True, is_staff=True)
            result = Token.objects.get_or_create(user=user)[0].key
            """
        )

    def get(self, path, **options):
        """Asks SQUAD's web server."""
        answer = requests.get(self.start_web() + path, timeout=LIMIT, **options)
        assert answer.status_code == 200, f"GET {path}: {answer.status_code} {answer.text[:2000]}"
        return answer
