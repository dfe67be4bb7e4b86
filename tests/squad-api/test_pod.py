"""The pod that the chart makes of `longshore api`: its configuration and tokens, with a database and a broker of its own."""

import base64
import os
import re
import subprocess

import pytest
import requests

from chart import containers, manifests, mount
from longshore import PROGRAM
from process import Process
from services import Database, Vhost, wait_for


@pytest.fixture
def surroundings():
    """What the example's addresses stand for."""
    database, vhost = Database(), Vhost()
    yield {"PATH": os.environ["PATH"], "LONGSHORE__STORE__URL": database.url, "LONGSHORE__BROKER__URL": vhost.url}, vhost
    vhost.drop()
    database.drop()


def command(release, kind, name, folder):
    """What the one container of a pod runs."""
    workload = release[kind, name]
    (container,) = containers(workload).values()
    config = mount(release, workload, folder / name)
    return [PROGRAM, *(config if each == "/etc/longshore/longshore.toml" else each for each in container["args"])]


def test_producers_with_a_token_of_a_secret_are_let_in(tmp_path, surroundings):
    variables, vhost = surroundings
    release = manifests("api")
    subprocess.run(command(release, "Job", "ci-longshore-migrate", tmp_path), env=variables, check=True, timeout=60)
    variables |= {"LONGSHORE__API__LISTEN": "127.0.0.1:0", "LONGSHORE__WORKER__LOG": "text"}
    line = command(release, "Deployment", "ci-longshore-api", tmp_path)
    api = Process("api", line, variables, tmp_path / "api.log")
    try:
        api.wait_for_line("answering producers")
        address = re.search(r"answering producers address=(\S+)", api.text())[1]

        def watch(token, project, testjob):
            return requests.post(
                f"http://{address}/api/watchjob/{project}/v1/board",
                headers={"Auth-Token": token},
                data={"backend": "lab", "testjob_id": testjob},
                timeout=60,
            ).status_code

        (container,) = containers(release["Deployment", "ci-longshore-api"]).values()
        probe = container["readinessProbe"]["httpGet"]["path"]
        assert requests.get(f"http://{address}{probe}", timeout=60).status_code == 200
        asked = [
            watch("api-tokens/ci", "any/project", "1"),
            watch("api-tokens/kernel-lab", "lab/kernel", "2"),
            watch("api-tokens/kernel-lab", "any/project", "3"),
            watch("secrets/lab", "lab/kernel", "4"),
        ]
        assert asked == [201, 201, 403, 401]
        sent = []

        def both():
            sent.extend(base64.b64decode(message["payload"]) for message in vhost.take("ci_fetch"))
            return len(sent) == 2

        wait_for("the messages of both test jobs on ci_fetch", both)
        assert api.stop() == 0
    finally:
        api.kill()
