"""A stand-in for a LAVA server: the calls that SQUAD makes, by REST (`/api/v0.2/`) and by XML-RPC (`/RPC2`), answered
from test jobs given as data. It counts what it is asked, and stops or fails at a request when a test says so.

The forms are those of LAVA's documentation of both interfaces; only what SQUAD or Longshore read is filled.
"""

import dataclasses
import datetime
import http.server
import json
import threading
import urllib.parse
import xmlrpc.client

import yaml

from services import LIMIT

STARTED = "2026-03-01T10:00:00.000000Z"
ENDED = "2026-03-01T10:30:00.000000Z"


@dataclasses.dataclass
class Case:
    """One result in a suite."""

    name: str
    result: str = "pass"
    measurement: str | None = None  # as text, as LAVA has it
    unit: str = ""
    log: tuple[int, int] | None = None  # first and last line in the job's log, from 1
    metadata: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Job:
    """A test job as the server has it. `health` is `Complete`, `Incomplete`, `Canceled` or `Unknown`."""

    suites: dict[str, list[Case]] = dataclasses.field(default_factory=dict)
    health: str = "Complete"
    state: str = "Finished"  # or Submitted, Scheduling, Scheduled, Running, Canceling
    metadata: dict = dataclasses.field(default_factory=dict)
    name: str = "boot-and-test"
    device_type: str = "qemu"
    actions: list = dataclasses.field(default_factory=list)
    log: bytes = b""
    definition: str | None = None  # instead of the one made of the fields above

    def definition_text(self):
        if self.definition is not None:
            return self.definition
        return yaml.safe_dump(
            {
                "job_name": self.name,
                "device_type": self.device_type,
                "metadata": self.metadata,
                "actions": self.actions,
                "visibility": "public",
            },
            sort_keys=False,
        )


def log_of(*messages, level="target"):
    """A log as LAVA keeps it: each message a line of YAML."""
    lines = [
        f'- {{"dt": "2026-03-01T10:00:{number % 60:02}.000000", "lvl": "{level}", "msg": {json.dumps(message)}}}\n'
        for number, message in enumerate(messages)
    ]
    return "".join(lines).encode()


class Gate:
    """Stands in the way of requests: each that matches waits until `open()`."""

    def __init__(self, matches):
        self.matches, self.reached, self.passable = matches, threading.Event(), threading.Event()

    def wait_reached(self, limit=LIMIT):
        assert self.reached.wait(limit), "no request came to where it was to be held"

    def open(self):
        self.passable.set()


class Lava:
    """The server, on a free port of the loopback, until `close`."""

    def __init__(self, page_size=50):
        self.jobs, self.files, self.requests = {}, {}, []
        self.gates, self.failures = [], []
        self.page_size, self.next_id, self.lock = page_size, 1000, threading.Lock()
        lava = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self):
                lava.answer(self)

            do_POST = do_GET

            def log_message(self, *arguments):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.address = f"http://127.0.0.1:{self.server.server_port}"
        self.rest = f"{self.address}/api/v0.2/"
        self.rpc = f"{self.address}/RPC2"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        for gate in self.gates:
            gate.open()
        self.server.shutdown()
        self.server.server_close()

    def add(self, job, job_id=None):
        """Takes a job; returns its id."""
        with self.lock:
            if job_id is None:
                self.next_id += 1
                job_id = self.next_id
        self.jobs[str(job_id)] = job
        return job_id

    def serve(self, name, content, mimetype="application/x-xz"):
        """Serves a file; returns its address."""
        self.files[f"/files/{name}"] = (content, mimetype)
        return f"{self.address}/files/{name}"

    # --- on command ---

    def hold(self, part):
        """From now on a request whose text has `part` waits at the gate that is returned."""
        gate = Gate(lambda request: part in request)
        self.gates.append(gate)
        return gate

    def fail(self, part, status=503, times=1, body="out of order"):
        """The next `times` requests whose text has `part` are answered with `status`, or cut off with `status=None`."""
        self.failures.append([part, status, times, body])

    def count(self, part=""):
        """How many requests had `part` in their text."""
        return sum(part in request for request in self.requests)

    def reset(self):
        """Forgets requests, gates and failures; keeps jobs."""
        for gate in self.gates:
            gate.open()
        self.requests, self.gates, self.failures = [], [], []

    # --- answers ---

    def answer(self, handler):
        """Answers one request. Its text is "GET /path?query", or "RPC method(arguments)"."""
        length = int(handler.headers.get("Content-Length") or 0)
        body = handler.rfile.read(length)
        parts = urllib.parse.urlsplit(handler.path)
        path = "/" + parts.path.lstrip("/")
        call = None
        if path == "/RPC2":
            arguments, method = xmlrpc.client.loads(body, use_builtin_types=True)
            call = (method, arguments)
            text = f"RPC {method}{arguments!r}"
        else:
            text = f"{handler.command} {path}" + (f"?{parts.query}" if parts.query else "")
        self.requests.append(text)
        for gate in list(self.gates):
            if gate.matches(text):
                gate.reached.set()
                gate.passable.wait()
        for failure in list(self.failures):
            part, status, _, failure_body = failure
            if part in text:
                failure[2] -= 1
                if failure[2] == 0:
                    self.failures.remove(failure)
                if status is None:
                    handler.close_connection = True
                    handler.connection.close()
                    return
                self.send(handler, status, failure_body.encode(), "text/plain")
                return
        if call:
            self.send(handler, 200, self.rpc_answer(*call), "text/xml")
        else:
            self.send(handler, *self.rest_answer(handler.command, path, urllib.parse.parse_qs(parts.query)))

    @staticmethod
    def send(handler, status, body, mimetype="application/json"):
        try:
            handler.send_response(status)
            handler.send_header("Content-Type", mimetype)
            handler.send_header("Content-Length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:
            pass  # whoever asked is gone: tests kill them

    def again(self, job_id):
        """What a resubmission makes: the same job, queued."""
        return self.add(dataclasses.replace(self.jobs[job_id], state="Submitted", health="Unknown"))

    def rest_answer(self, command, path, query):
        """Status, body and type of a REST request."""
        if path in self.files:
            content, mimetype = self.files[path]
            return 200, content, mimetype
        words = [word for word in path.removeprefix("/api/v0.2").split("/") if word]
        answer = self.rest_object(command, words, query)
        if isinstance(answer, bytes):
            return 200, answer, "application/yaml"
        if answer is None:
            return 404, b'{"detail": "Not found."}'
        status = 201 if command == "POST" and words[-1:] != ["cancel"] else 200
        return status, json.dumps(answer).encode()

    def rest_object(self, command, words, query):
        match words:
            case ["system", "master_config"]:
                return {"EVENT_SOCKET": "tcp://*:5500"}
            case ["jobs"] if command == "POST":
                return {"message": "job(s) successfully submitted", "job_ids": [str(self.add(Job(state="Submitted")))]}
            case ["scheduler", "job", job_id, "log_file", "plain"] if job_id in self.jobs:
                return self.jobs[job_id].log
            case ["jobs", job_id, *rest] if job_id in self.jobs:
                return self.job_object(command, job_id, self.jobs[job_id], rest, query)
        return None

    def job_object(self, command, job_id, job, words, query):
        match words:
            case []:
                return {
                    "id": int(job_id),
                    "state": job.state,
                    "health": job.health,
                    "description": job.name,
                    "requested_device_type": job.device_type,
                    "definition": job.definition_text(),
                    "start_time": STARTED,
                    "end_time": ENDED if job.state == "Finished" else None,
                }
            case ["definition"]:
                return job.definition_text()
            case ["logs"]:
                return job.log
            case ["cancel"] if command == "POST":
                job.state, job.health = "Finished", "Canceled"
                return {"message": "Job cancel signal sent."}
            case ["resubmit"] if command == "POST":
                return {"message": "job(s) successfully resubmitted", "job_ids": [str(self.again(job_id))]}
            case ["suites"]:
                wanted = query.get("name__contains", [""])[0]
                suites = [
                    {"id": int(job_id) * 100 + number, "name": name, "job": int(job_id)}
                    for number, name in enumerate(job.suites)
                    if wanted in name
                ]
                return self.page(f"jobs/{job_id}/suites/", suites, query)
            case ["suites", suite_id, "tests"]:
                number = int(suite_id) - int(job_id) * 100
                cases = list(job.suites.values())[number]
                wanted = query.get("name", [None])[0]
                tests = [
                    self.test_object(int(suite_id), index, case)
                    for index, case in enumerate(cases)
                    if wanted in (None, case.name)
                ]
                return self.page(f"jobs/{job_id}/suites/{suite_id}/tests/", tests, query)
        return None

    @staticmethod
    def test_object(suite_id, index, case):
        start, end = case.log or (None, None)
        return {
            "id": suite_id * 10000 + index,
            "name": case.name,
            "result": case.result,
            "measurement": case.measurement,
            "units": case.unit,
            "metadata": yaml.safe_dump(case.metadata),
            "start_log_line": start,
            "end_log_line": end,
            "suite": suite_id,
            "test_set": None,
            "logged": STARTED,
        }

    def page(self, path, objects, query):
        """A page of a list, with the address of the next."""
        limit = int(query.get("limit", [self.page_size])[0])
        offset = int(query.get("offset", ["0"])[0])
        following = None
        if offset + limit < len(objects):
            filters = {name: values[0] for name, values in query.items()}
            filters |= {"limit": limit, "offset": offset + limit}
            following = f"{self.rest}{path}?{urllib.parse.urlencode(filters)}"
        return {
            "count": len(objects),
            "next": following,
            "previous": None,
            "results": objects[offset : offset + limit],
        }

    def rpc_answer(self, method, arguments):
        """The body that answers an XML-RPC call."""
        try:
            result = self.rpc_result(method, arguments)
        except KeyError:
            result = xmlrpc.client.Fault(404, "Specified job not found.")
        if isinstance(result, xmlrpc.client.Fault):
            return xmlrpc.client.dumps(result).encode()
        return xmlrpc.client.dumps((result,), methodresponse=True, allow_none=True).encode()

    def rpc_result(self, method, arguments):
        if method == "scheduler.get_publisher_event_socket":
            return "tcp://*:5500"
        if method == "scheduler.submit_job":
            return self.add(Job(state="Submitted"))
        job_id = str(arguments[0])
        job = self.jobs[job_id]
        match method:
            case "scheduler.job_details":
                return {
                    "id": int(job_id),
                    "status": job.health if job.state == "Finished" else job.state,
                    "description": job.name,
                    "definition": job.definition_text(),
                    "start_time": datetime.datetime(2026, 3, 1, 10, 0),
                    "end_time": datetime.datetime(2026, 3, 1, 10, 30),
                }
            case "scheduler.jobs.definition":
                return job.definition_text()
            case "scheduler.cancel_job":
                job.state, job.health = "Finished", "Canceled"
                return True
            case "scheduler.resubmit_job":
                return self.again(job_id)
            case "results.get_testjob_suites_list_yaml":
                suites = [{"id": number, "job": int(job_id), "name": name} for number, name in enumerate(job.suites)]
                return yaml.safe_dump(suites)
            case "results.get_testsuite_results_yaml":
                _, suite, limit, offset = arguments
                cases = job.suites[suite][offset : offset + limit]
                return yaml.safe_dump([self.rpc_case(job_id, suite, case) for case in cases])
        return xmlrpc.client.Fault(1, f"method {method} is not supported")

    @staticmethod
    def rpc_case(job_id, suite, case):
        start, end = case.log or (None, None)
        answer = {
            "job": job_id,
            "suite": suite,
            "name": case.name,
            "result": case.result,
            # LAVA writes every value here as text
            "measurement": str(case.measurement),
            "unit": case.unit,
            "metadata": case.metadata,
        }
        if case.log:
            answer |= {"log_start_line": str(start), "log_end_line": str(end)}
        return answer
