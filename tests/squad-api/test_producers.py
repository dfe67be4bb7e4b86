"""Producers of SQUAD speak to `longshore api`: the real squad-client, and requests beside the real SQUAD's answers."""

import base64
import json
import os
import signal
import socket
import subprocess
import sys
import urllib.parse

import pytest
import requests
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from alone import TOKEN
from lava import Case, Job

TARGET = "lab/kernel/v1/board"
WATCH = f"/api/watchjob/{TARGET}"
CALLBACK = f"/api/fetchjob/{TARGET}/tux"
TUX_ID = "TEST:lab@kernel#1yPYGaOEPNwr2pfqBgONY43zORp"
HEADERS = {"Authorization": f"Token {TOKEN}"}
FORM = {"backend": "lab", "testjob_id": "17"}
CLIENT = """
import sys
from squad_client.core.api import SquadApi
from squad_client.shortcuts import watchjob
url, token, testjob_id, delay = sys.argv[1:]
SquadApi.configure(url=url, token=token)
ok = watchjob(group_project_slug="lab/kernel", build_version="v1", env_slug="board", backend_name="lab",
              testjob_id=testjob_id, delay_fetch=delay == "delay")
sys.exit(0 if ok else 3)
"""


def squad_client(url, token, testjob_id, delay="now"):
    """Runs squad-client in a process of its own; returns how it ended and what it wrote."""
    done = subprocess.run(
        [sys.executable, "-c", CLIENT, url, token, str(testjob_id), delay],
        env={"PATH": os.environ["PATH"]},
        capture_output=True,
        text=True,
        timeout=60,
    )
    return done.returncode, done.stdout + done.stderr


def lab(url):
    return f"""
[backends.lab]
kind = "lava"
url = "{url}"
poll_interval = "1s"
"""


def tux(key):
    return f"""
[backends.tux]
kind = "tuxsuite"
url = "http://127.0.0.1:9/"

[projects."lab/kernel"]
settings = {{ TUXSUITE_PUBLIC_KEY = "{key}" }}
"""


def test_squad_client_watches_a_test_job_and_it_is_collected(alone, lava):
    job_id = lava.add(Job({"0_smoke": [Case("uname"), Case("ping", "fail")]}))
    alone.configure(lab(lava.rest))
    process, url = alone.api()
    for _ in range(2):  # the same test job, once
        ended, text = squad_client(url, TOKEN, job_id)
        assert ended == 0, text
        assert "version" not in text, "squad-client wondered about the server's version"
    alone.worker()
    alone.wait_for_task(f"fetch:lab/{job_id}", "done")
    (job,) = alone.testjobs()
    assert (job["project"], job["build"], job["environment"]) == ("lab/kernel", "v1", "board")
    assert (job["state"], job["tests"], job["passed"]) == ("complete", 2, 1)
    assert list(alone.tasks()) == [f"fetch:lab/{job_id}"]
    assert process.stop() == 0


def test_squad_client_is_told_what_is_wrong(alone):
    alone.configure(lab("http://127.0.0.1:9/api/v0.2"))
    _, url = alone.api()
    ended, text = squad_client(url, TOKEN, "x17")
    assert ended == 3 and "LAVA job id should be an integer" in text
    ended, text = squad_client(url, "wrong", "17")
    assert ended == 3 and "authentication needed" in text
    ended, text = squad_client(url, "another-token", "17")
    assert ended not in (0, 3) and "is forbidden" in text  # squad-client raises at 403
    assert alone.testjobs() == []


@pytest.mark.parametrize("point", ["enqueue:before", "enqueue:after", "outbox:before-publish", "outbox:published"])
def test_a_death_of_the_api_costs_the_producer_a_repetition_and_no_more(alone, lava, point):
    job_id = lava.add(Job({"0_smoke": [Case("uname")]}))
    alone.configure(lab(lava.rest))
    process, url = alone.api(LONGSHORE_CRASH_AT=point)
    form = {**FORM, "testjob_id": str(job_id)}
    try:
        # at the last two it may have answered before its end
        assert requests.post(url + WATCH, data=form, headers=HEADERS, timeout=30).status_code == 201
    except requests.ConnectionError:
        pass
    assert process.wait() == -signal.SIGABRT
    _, url = alone.api()
    answer = requests.post(url + WATCH, data=form, headers=HEADERS, timeout=30)
    assert answer.status_code == 201, answer.text
    alone.worker()
    alone.wait_for_task(f"fetch:lab/{job_id}", "done")
    (job,) = alone.testjobs()
    assert (str(job["id"]), job["state"], job["tests"]) == (answer.text, "complete", 1)
    assert list(alone.tasks()) == [f"fetch:lab/{job_id}"]


def test_what_is_delayed_runs_late_or_when_its_end_is_told(alone):
    key, public = keys()
    alone.configure(tux(public))
    _, url = alone.api()
    form = {"backend": "tux", "testjob_id": TUX_ID}
    first = requests.post(url + WATCH, params={"delay_fetch": "true"}, data=form, headers=HEADERS, timeout=30)
    assert first.status_code == 201
    assert {id: task["state"] for id, task in alone.tasks().items()} == {f"fetch:tux/{TUX_ID}:late": "waiting"}
    answers = [requests.post(url + CALLBACK, timeout=30, **signed(key, payload())) for _ in range(2)]
    assert [(answer.status_code, answer.text) for answer in answers] == [(201, first.text)] * 2
    assert alone.tasks()[f"fetch:tux/{TUX_ID}"]["state"] == "queued"
    assert len(alone.tasks()) == 2


def test_a_test_job_belongs_to_one_build(alone):
    alone.configure(lab("http://127.0.0.1:9/api/v0.2"))
    _, url = alone.api()
    assert requests.post(url + WATCH, data=FORM, headers=HEADERS, timeout=30).status_code == 201
    other = requests.post(f"{url}/api/watchjob/lab/kernel/v2/board", data=FORM, headers=HEADERS, timeout=30)
    assert other.status_code == 400 and "another project or build" in other.text
    assert [job["build"] for job in alone.testjobs()] == ["v1"]


def test_a_request_has_bounds(alone):
    alone.configure(lab("http://127.0.0.1:9/api/v0.2"))
    _, url = alone.api()
    large = {**FORM, "more": "x" * 2_000_000}
    assert requests.post(url + WATCH, data=large, headers=HEADERS, timeout=30).status_code == 413
    place = urllib.parse.urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=60) as slow:
        slow.sendall(b"POST /api/watchjob/lab/kernel/v1/board HTTP/1.1\r\nHost: a\r\n")
        while slow.recv(1000):  # it is ended, perhaps with a word; else the time limit above
            pass
    assert alone.testjobs() == []


# --- beside SQUAD ---


def keys():
    """A private key and its public one in OpenSSH's form."""
    key = ec.generate_private_key(ec.SECP256R1())
    form = (serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH)
    return key, key.public_key().public_bytes(*form).decode()


def payload(**status):
    return {"kind": "test", "status": {"project": "lab/kernel", "uid": TUX_ID.split("#")[1], **status}}


def signed(key, body):
    """A callback as TuxSuite sends it."""
    body = body if isinstance(body, bytes) else json.dumps(body).encode()
    signature = base64.urlsafe_b64encode(key.sign(body, ec.ECDSA(hashes.SHA256())))
    return {"data": body, "headers": {"x-tux-payload-signature": signature, "content-type": "application/json"}}


def shown(answer):
    """An answer as far as both must agree: an id is a number, and the texts of 404 are pages."""
    if answer.status_code == 201:
        return 201, answer.text.isdecimal()
    return answer.status_code, answer.text if answer.status_code == 400 else None


@pytest.fixture
def both(alone, site, lava):
    """The addresses of SQUAD and of Longshore, which know the same backends and projects, and TuxSuite's key."""
    key, public = keys()
    lava.add(Job({"0_smoke": [Case("uname")]}), job_id="17")
    site.build(settings=f"TUXSUITE_PUBLIC_KEY: {public}", is_public=False)
    site.backend("lab", lava.rest)
    site.backend("tux", "http://127.0.0.1:9/", kind="tuxsuite")
    token = site.token()
    alone.configure(lab(lava.rest), tux(public))
    alone.config.write_text(alone.config.read_text().replace(TOKEN, token))
    _, url = alone.api()
    return (site.start_web(), url), key, {"Authorization": f"Token {token}"}


def agreed(both, path, **request):
    """What SQUAD answers, and Longshore as well."""
    addresses, _, _ = both
    squad, own = [shown(requests.post(address + path, timeout=60, **request)) for address in addresses]
    assert own == squad, f"{path} {request}"
    return own


def test_watchjob_is_answered_as_by_squad(both):
    _, _, headers = both
    token = headers["Authorization"].split()[1]
    forms = [
        ({}, (400, "testjob_id is required")),
        ({"testjob_id": "17"}, (400, "backend field is required")),
        ({"testjob_id": "17", "backend": "none"}, (400, "requested backend does not exist")),
        ({"testjob_id": "x17", "backend": "lab"}, (400, "LAVA job id should be an integer")),
        ({"testjob_id": "", "backend": "lab"}, (400, "LAVA job id should be an integer")),
        (FORM, (201, True)),
    ]
    for form, expected in forms:
        assert agreed(both, WATCH, data=form, headers=headers) == expected
        if form:
            files = {name: (None, value) for name, value in form.items()}
            assert agreed(both, WATCH, files=files, headers=headers) == expected
    for shown_as in ({"Authorization": f"token {token}"}, {"Auth-Token": token}):
        assert agreed(both, WATCH + "/", data=FORM, headers=shown_as)[0] == 201
    for shown_as in ({}, {"Authorization": "Token wrong"}, {"Auth-Token": "wrong"}, {"Authorization": token}):
        assert agreed(both, WATCH, data=FORM, headers=shown_as) == (401, None)
    for path in ("lab/none/v1/board", "none/kernel/v1/board", "lab/kernel/v1", "lab/kernel/-v1/board"):
        assert agreed(both, f"/api/watchjob/{path}", data=FORM, headers=headers) == (404, None)


def test_callbacks_are_answered_as_by_squad(both):
    _, key, _ = both
    stranger, _ = keys()
    refused = "request is not valid for this backend: "
    unsigned = {"data": b"{}"}
    assert agreed(both, CALLBACK, **unsigned) == (400, refused + "tuxsuite request is missing signature headers")
    assert agreed(both, CALLBACK, **signed(stranger, payload())) == (
        400,
        refused + "Failed to verify signature against payload",
    )
    changed = {**signed(key, payload()), "data": json.dumps(payload(uid="other")).encode()}
    assert agreed(both, CALLBACK, **changed)[0] == 400
    assert agreed(both, CALLBACK, **signed(key, {"kind": "test"})) == (
        400,
        "malformed callback payload: `kind` and `status` are required in the payload",
    )
    assert agreed(both, f"/api/fetchjob/{TARGET}/none", **signed(key, payload())) == (
        400,
        "requested backend does not exist",
    )
    assert agreed(both, f"/api/fetchjob/{TARGET}/lab", **signed(key, payload())) == (
        400,
        "requested backend does not support callbacks",
    )
    assert agreed(both, "/api/fetchjob/lab/none/v1/board/tux", **signed(key, payload())) == (
        400,
        "group/project does not exist",
    )
    assert agreed(both, CALLBACK, **signed(key, payload())) == (201, True)
    # said again, SQUAD 1.98 refuses (it keeps what TuxSuite says once), which TuxSuite takes for a failure
    (squad, own), _, _ = both
    again = [requests.post(address + CALLBACK, timeout=60, **signed(key, payload())) for address in (squad, own)]
    assert [answer.status_code for answer in again] == [400, 201]


def test_a_callback_names_the_same_test_job_as_to_squad(both, alone, site):
    _, key, _ = both
    body = payload(device="qemu-arm64")
    assert agreed(both, CALLBACK, **signed(key, body)) == (201, True)
    theirs = site.database.row("select job_id, environment from ci_testjob")
    (own,) = alone.testjobs()
    assert (own["remote_id"], own["environment"]) == (theirs["job_id"], theirs["environment"])
    assert own["remote_id"] == TUX_ID
    assert alone.tasks()[f"fetch:tux/{TUX_ID}"]["state"] == "queued"
