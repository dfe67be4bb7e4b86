"""A stand-in for S3: moto's server, and before it a door that counts what comes and can hold it.

moto checks no signature: that a key is the right one is not tested here.
"""

import collections
import http.client
import http.server
import pathlib
import re
import threading
import uuid

import boto3

from lava import Gate
from process import Process
from services import LIMIT, wait_for

SERVER = pathlib.Path("target/tools/s3/bin/moto_server").resolve()
KEY, SECRET, REGION = "a-key-id", "a-secret-key", "eu-test-1"

Asked = collections.namedtuple("Asked", "method path size")


class Trap(Gate):
    """Holds requests whose askers die: what it held never comes to the server, what comes when it is open does."""

    def holds(self, asked):
        return not self.passable.is_set() and self.matches(asked)


class S3:
    """The server; each test has a bucket of its own."""

    def __init__(self, folder):
        environment = {"PATH": "/usr/bin:/bin", "PYTHONUNBUFFERED": "1"}
        self.server = Process("moto", [SERVER, "-H", "127.0.0.1", "-p", "0"], environment, folder / "moto.log")
        found = wait_for("moto's port", lambda: re.search(r"http://127\.0\.0\.1:(\d+)", self.server.text()))
        self.port = int(found[1])
        self.lock, self.asked, self.gates, self.failures = threading.Lock(), [], [], []
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def answer(self):
                outer.answer(self)

            do_GET = do_PUT = do_POST = do_DELETE = do_HEAD = answer

            def log_message(self, *arguments):
                pass

        self.door = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.door.daemon_threads = True
        threading.Thread(target=self.door.serve_forever, daemon=True).start()
        self.address = f"http://127.0.0.1:{self.door.server_address[1]}"
        self.client = boto3.client(
            "s3", endpoint_url=self.address, region_name=REGION, aws_access_key_id=KEY, aws_secret_access_key=SECRET
        )

    def answer(self, handler):
        """Passes a request on to moto."""
        body = handler.rfile.read(int(handler.headers.get("Content-Length") or 0))
        with self.lock:
            self.asked.append(Asked(handler.command, handler.path, len(body)))
            asked = f"{handler.command} {handler.path}"
            gates = [gate for gate in self.gates if gate.holds(asked)]
            failing = next((failure for failure in self.failures if re.search(failure[0], asked) and failure[2] > 0), None)
            if failing:
                failing[2] -= 1
                handler.send_response(failing[1])
                handler.send_header("Content-Length", "0")
                handler.end_headers()
                return
        for gate in gates:
            gate.reached.set()
            gate.passable.wait(LIMIT)
            handler.close_connection = True
            return
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=LIMIT)
        try:
            connection.request(handler.command, handler.path, body, dict(handler.headers.items()))
            answer = connection.getresponse()
            content = answer.read()
            handler.send_response(answer.status)
            for name, value in answer.getheaders():
                if name.lower() not in ("transfer-encoding", "connection", "content-length", "date", "server"):
                    handler.send_header(name, value)
            length = answer.getheader("Content-Length", "0") if handler.command == "HEAD" else len(content)
            handler.send_header("Content-Length", str(length))
            handler.end_headers()
            if handler.command != "HEAD":
                handler.wfile.write(content)
        except (BrokenPipeError, ConnectionResetError):
            pass  # who asked is gone
        finally:
            connection.close()

    def hold(self, pattern):
        """Holds the requests, as `METHOD path`, in which the pattern is found, until it is opened: they never arrive."""
        gate = Trap(lambda text: re.search(pattern, text))
        with self.lock:
            self.gates.append(gate)
        return gate

    def fail(self, pattern, status, times):
        """Answers so many of the requests, as `METHOD path`, in which the pattern is found with that status."""
        with self.lock:
            self.failures.append([pattern, status, times])

    def seen(self, method, pattern=""):
        """The requests of that method so far in whose path the pattern is found."""
        with self.lock:
            return [asked for asked in self.asked if asked.method == method and re.search(pattern, asked.path)]

    def bucket(self, location="squad/files"):
        bucket = Bucket(self, f"squad-{uuid.uuid4().hex[:12]}", location)
        self.client.create_bucket(Bucket=bucket.name, CreateBucketConfiguration={"LocationConstraint": REGION})
        return bucket

    def close(self):
        self.door.shutdown()
        self.door.server_close()
        self.server.kill()


class Bucket:
    """A bucket, as SQUAD and Longshore are told of it."""

    def __init__(self, s3, name, location):
        self.s3, self.name, self.location = s3, name, location
        self.place = f"s3://{name}/{location}"

    # what an operator of SQUAD writes into the settings of django-storages
    def for_squad(self):
        return f"""
DEFAULT_FILE_STORAGE = "storages.backends.s3.S3Storage"
AWS_STORAGE_BUCKET_NAME = "{self.name}"
AWS_LOCATION = "{self.location}"
AWS_S3_ENDPOINT_URL = "{self.s3.address}"
AWS_S3_REGION_NAME = "{REGION}"
AWS_S3_ACCESS_KEY_ID = "{KEY}"
AWS_S3_SECRET_ACCESS_KEY = "{SECRET}"
"""

    def for_longshore(self):
        return f"""
[s3]
endpoint = "{self.s3.address}"
region = "{REGION}"
key_id = "{KEY}"
secret_key = "{SECRET}"
"""

    def read(self, path):
        return self.s3.client.get_object(Bucket=self.name, Key=f"{self.location}/{path}")["Body"].read()

    def keys(self):
        """The keys of all objects, below the location."""
        pages = self.s3.client.get_paginator("list_objects_v2").paginate(Bucket=self.name)
        found = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        assert all(key.startswith(f"{self.location}/") for key in found), found
        return sorted(key.removeprefix(f"{self.location}/") for key in found)

    def unfinished(self):
        """The uploads that were begun and neither completed nor ended."""
        return self.s3.client.list_multipart_uploads(Bucket=self.name).get("Uploads", [])
