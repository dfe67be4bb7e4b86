"""SQUAD keeps its files in S3, by django-storages: what Longshore puts there is what SQUAD's own workers put there, SQUAD
reads it, and a death leaves nothing there that no row refers to.
"""

import base64
import itertools
import json
import pathlib
import random
import re

import pytest

import cts
from dump import but_for_defects, differences, dump
from engines import configuration
from installation import Installation
from lava import Lava
from longshore import longshore, migrate
from s3 import S3
from scenarios import CTS, run, scenarios, tradefed_job
from services import wait_for
from windows import Lane, ended, state

SETTINGS = "PLUGINS_TRADEFED_EXTRACT_AGGREGATED: true"
# Larger than one request may be, in the archive too: it does not shrink.
LARGE = base64.b64encode(random.Random(4).randbytes(14 << 20))
PART = 8 << 20
NUMBERS = itertools.count(9000)
NOTHING = {"fetched": False, "job_status": "Submitted", "linked": False, "testruns": 0, "tests": 0, "attachments": 0}


@pytest.fixture(scope="module")
def s3(tmp_path_factory):
    server = S3(tmp_path_factory.mktemp("s3"))
    yield server
    server.close()


def referred(site):
    """The paths in all rows of SQUAD's that name files."""
    rows = site.database.rows(
        """select unnest(array[tests_file_storage, metrics_file_storage, log_file_storage]) as path from core_testrun
           union all select storage from core_attachment"""
    )
    return sorted(row["path"] for row in rows)


# --- beside SQUAD's own workers ---


def seen_of(site, build):
    """Its tables and files, and its attachments as SQUAD's web server serves them."""
    headers = {"Authorization": f"Token {site.token()}"}
    served = {}
    for row in site.database.rows("select a.* from core_attachment a join core_testrun r on r.id = a.test_run_id where r.build_id = %s", [build]):
        answer = site.get(f"/api/testruns/{row['test_run_id']}/attachments/", params={"filename": row["filename"]}, headers=headers)
        served[row["filename"]] = answer.content == site.file(row["storage"])
    return {"tables": dump(site, build), "served": served}


def outcome(engine, template, folder, bucket):
    """What an engine leaves of some scenarios, and the objects in the bucket."""
    site, lava = Installation(template, folder, bucket), Lava()
    try:
        chosen = [scenario for scenario in scenarios(lava) if scenario.name in ("complete", "empty", "tradefed")]
        outcomes = run(engine, site, lava, chosen, seen_of)
        assert bucket.keys() == referred(site)
        keys = sorted(re.sub(r"\d+", "N", key, count=1) for key in bucket.keys())
        return {name: outcomes[name] for name in ("complete", "empty", "tradefed")}, keys
    finally:
        site.close()
        lava.close()


def test_the_same_as_by_squads_workers(template, s3, tmp_path):
    theirs, their_keys = outcome("squad", template, tmp_path / "squad", s3.bucket())
    ours, our_keys = outcome("longshore", template, tmp_path / "longshore", s3.bucket())
    assert our_keys == their_keys and len(our_keys) == 3 * 3 + 7
    assert differences(but_for_defects(ours), but_for_defects(theirs)) == []
    assert ours["tradefed"]["served"] == dict.fromkeys(theirs["tradefed"]["served"], True)


# --- deaths, with objects that are sent in parts ---

POINTS = [
    # put there and not said: by the fetch, by the plugin
    "publish:ready#1",
    "publish:ready#2",
    "publish:after#2",
    # a request, held until the worker is dead
    r"PUT .*tests_file",
    r"PUT .*\.tar\.xz\?.*partNumber=2",
    r"POST .*logcat\.txt\?uploadId=",
]


@pytest.fixture(scope="module")
def site(template, s3, tmp_path_factory):
    installation = Installation(template, tmp_path_factory.mktemp("deaths") / "squad", s3.bucket())
    installation.inside("result = None")
    installation.worker()
    yield installation
    installation.close()


@pytest.fixture(scope="module")
def large(lava):
    """The content of an archive that goes in parts."""
    return cts.archive(CTS, logcat=LARGE)


def prepared(site, lava, large):
    """A test job with large files, in a project of its own; its number, build and primary key."""
    number = next(NUMBERS)
    job, columns = tradefed_job(lava.serve(f"{number}.tar.xz", large))
    job_id = lava.add(job, number)
    build = site.build(f"deaths/{number}", plugins=["tradefed"], settings=SETTINGS)
    return job_id, build, site.testjob(build, site.backend("lab", lava.rest), job_id, **columns)


def without(job_id, value):
    """A dump without the test job's own number, and without the archive that is called so."""
    return json.loads(re.sub(rf"(?<![0-9a-f]){job_id}(?![0-9a-f])", "JOB", json.dumps(value)))


@pytest.fixture(scope="module")
def first(site, lava, large):
    """What SQUAD has of such a test job when nobody dies; and as `peak`, the most memory of the worker that did it, in kB,
    but for the pages of the program itself."""
    job_id, build, pk = prepared(site, lava, large)
    own = Lane(site, "undisturbed")
    with own.running() as worker:
        own.fetch(pk)
        ended(site, pk)
        status = pathlib.Path(f"/proc/{worker.process.pid}/status").read_text()
    assert state(site, pk)["attachments"] == 7
    found = without(job_id, dump(site, build))
    peak, program = (int(re.search(rf"{name}:\s*(\d+) kB", status)[1]) for name in ("VmHWM", "RssFile"))
    found["peak"] = peak - program
    return found


@pytest.fixture(scope="module")
def undisturbed(first):
    return {name: value for name, value in first.items() if name != "peak"}


@pytest.mark.parametrize("point", POINTS)
def test_a_death_leaves_what_an_undisturbed_run_leaves(site, s3, lava, large, undisturbed, point):
    job_id, build, pk = prepared(site, lava, large)
    own = Lane(site, f"n{job_id}")
    own.fetch(pk)
    if "#" in point:
        first = own.start(LONGSHORE_CRASH_AT=point).process
        wait_for(f"a death at {point}", lambda: not first.running())
    else:
        gate = s3.hold(point)
        first = own.start().process
        gate.wait_reached()
        first.kill()
        gate.open()
    at_death = state(site, pk)
    assert at_death == NOTHING or point == "publish:after#2"
    with own.running():
        ended(site, pk)
    assert without(job_id, dump(site, build)) == undisturbed
    assert site.bucket.keys() == referred(site)


def test_large_objects_go_in_parts(site, s3, first):
    """No request has more than a part, and nobody holds more of a file than a few of them."""
    parts = s3.seen("PUT", r"\.tar\.xz\?.*partNumber=")
    assert len(parts) >= 2 and max(part.size for part in s3.seen("PUT")) == PART
    assert not s3.seen("PUT", rf"{site.bucket.name}.*\.tar\.xz$")
    assert first["peak"] < 75_000


def test_a_server_that_is_out_of_order_for_a_while(site, s3, lava, large, undisturbed):
    job_id, build, pk = prepared(site, lava, large)
    s3.fail(r"PUT .*/metrics_file", 503, 2)
    # more often than one attempt tries: the next one does it again
    s3.fail(r"PUT .*partNumber=2", 500, 5)
    own = Lane(site, f"n{job_id}")
    with own.running():
        own.fetch(pk)
        ended(site, pk)
    assert [failure[2] for failure in s3.failures] == [0, 0]
    assert without(job_id, dump(site, build)) == undisturbed
    assert site.bucket.keys() == referred(site)
    assert site.database.rows(f"select 1 from longshore_n{job_id}.tasks where failures > 0") != []
    # an upload that failed is ended
    assert not [upload for upload in site.bucket.unfinished() if f"{job_id}.tar.xz" in upload["Key"]]


# --- the doctor ---


def test_the_doctor_says_that_nothing_can_be_put_there(site, s3):
    config = configuration(site)
    migrate(site, config)
    before = site.bucket.keys()
    told = longshore(site, config, "squad", "doctor", "--json")
    report = json.loads(told.stdout)
    assert [finding for finding in report["findings"] if finding["about"] == "storage"] == []
    assert site.bucket.keys() == before
    wrong = longshore(site, config.replace(site.bucket.name, "nobodys-bucket"), "squad", "doctor", "--json")
    assert wrong.returncode == 3, wrong
    (finding,) = [finding for finding in json.loads(wrong.stdout)["findings"] if finding["about"] == "storage"]
    assert "s3://nobodys-bucket/squad/files" in finding["what"] and "NoSuchBucket" in finding["what"] and finding["fatal"]
    assert "a-secret-key" not in wrong.stdout + wrong.stderr


def test_the_key_may_be_in_the_environment(site):
    """As AWS's own programs have it."""
    config = configuration(site)
    written = re.search(r"\[s3\].*", config, re.S)[0]
    config = config.replace(written, "")
    variables = {
        "AWS_ENDPOINT_URL": site.bucket.s3.address,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "id",
        "AWS_SECRET_ACCESS_KEY": "secret",
    }
    told = longshore(site, config, "squad", "doctor", "--json", **variables)
    assert [finding for finding in json.loads(told.stdout)["findings"] if finding["about"] == "storage"] == []
