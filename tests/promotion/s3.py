"""A stand-in for S3: moto, a program of its own, with one request at a time.

S3 compares and writes in one step; moto compares, and writes later, so of two conditional writes at once both could be accepted.

Prints its address, then makes a bucket of each line that it reads, and says so; ends with its input. All may read what they know of,
as readers of a repository do.
"""

import io
import json
import sys
import threading

import boto3
from moto.moto_server import threaded_moto_server
from moto.server import ThreadedMotoServer

TURN = threading.Lock()


class OneAtATime(threaded_moto_server.DomainDispatcherApplication):
    """Takes its turn once all of a request is there: whoever is stopped in the middle of one holds nobody up."""

    def __call__(self, environ, start_response):
        sent, length = environ["wsgi.input"], environ.get("CONTENT_LENGTH")
        whole = sent.read(int(length)) if length else sent.read() if environ.get("wsgi.input_terminated") else b""
        environ["wsgi.input"] = io.BytesIO(whole)
        with TURN:
            return super().__call__(environ, start_response)


threaded_moto_server.DomainDispatcherApplication = OneAtATime
server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
client = boto3.client("s3", endpoint_url=f"http://{host}:{port}", region_name="us-east-1",
                      aws_access_key_id="a", aws_secret_access_key="b")
print(f"{host}:{port}", flush=True)
for bucket in map(str.strip, sys.stdin):
    client.create_bucket(Bucket=bucket)
    client.put_bucket_policy(Bucket=bucket, Policy=json.dumps({"Version": "2012-10-17", "Statement": [
        {"Effect": "Allow", "Principal": "*", "Action": ["s3:GetObject", "s3:ListBucket"],
         "Resource": [f"arn:aws:s3:::{bucket}", f"arn:aws:s3:::{bucket}/*"]}]}))
    print(bucket, flush=True)
