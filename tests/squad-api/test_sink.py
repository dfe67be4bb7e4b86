"""Results of test jobs that Longshore collects into its own tables, submitted to the real SQUAD."""

import json
import signal

import psycopg2
import pytest
import requests

TARGET = "lab/kernel/v1/board"
JOB = "smoke-1"
FETCH = f"fetch:files/{JOB}"
SUBMIT = "submit:1.1/qa"
PANIC = "[    1.000000] Kernel panic - not syncing: made up\n[    1.100000] ---[ end Kernel panic\n"
LOG = "booting caf\u00e9\n" + PANIC
TESTS = {"smoke/uname": "pass", "smoke/ping": {"result": "fail", "log": "no \"answer\"\n"}, "smoke/old": "skip"}
METRICS = {"smoke/boot": {"value": 1.5, "unit": "s"}, "smoke/reads": [1.0, 2.0, 3.0]}
METADATA = {"job_status": "Complete", "kernel": "6.1", "nested": {"a": [1, None]}}
# each step between the last part's commit and the end of the submission, and those around them
POINTS = [
    "publish:ready",  # the fetch is about to be committed
    "publish:stored#2",  # the plugin's commit, which finishes the test job, is done; nobody has published its messages
    "outbox:before-publish#2",
    "outbox:published#2",
    "submit:ready",
    "submit:sent",
    "settle:ready",
    "settle:stored",
    "settle:acknowledged",
]


def results(folder, name=JOB, tests=TESTS):
    """A test job's files, as the directory backend reads them."""
    place = folder / "results" / name
    place.mkdir(parents=True)
    (place / "tests.json").write_text(json.dumps(tests))
    (place / "metrics.json").write_text(json.dumps(METRICS))
    (place / "metadata.json").write_text(json.dumps(METADATA))
    (place / "log").write_bytes(LOG.encode())
    (place / "trace.bin").write_bytes(bytes(range(256)) * 5000)  # several pieces in the store
    (place / "empty.txt").write_bytes(b"")


def files(folder, url, token, **more):
    options = "\n".join(f"{key} = {value}" for key, value in more.items())
    return f"""
[backends.files]
kind = "directory"
path = "{folder}/results"

[sinks.qa]
kind = "squad"
url = "{url}"
token = "{token}"
{options}

[projects."lab/kernel"]
plugins = ["kernel-log"]
sinks = ["qa"]
"""


@pytest.fixture
def ready(alone, site):
    """Longshore with a collected test job's files and a task to collect it, and SQUAD's project, empty."""
    site.build(version="0")
    results(alone.folder)
    alone.configure(files(alone.folder, site.start_web(), site.token()))
    return alone, site


def enqueue(alone, *more, job=JOB):
    alone.ask("enqueue", "fetch", "--backend", "files", "--id", job, "--target", TARGET, *more)


def expect_once(site):
    """SQUAD has the submission, whole and once."""
    (run,) = site.database.rows("select * from core_testrun")
    api = f"/api/testruns/{run['id']}"
    assert (run["job_id"], run["job_status"]) == (JOB, "Complete")
    metadata = site.get(f"{api}/metadata_file/").json()
    assert metadata["kernel"] == "6.1" and metadata["nested"] == METADATA["nested"] and metadata["job_id"] == JOB
    tests = {
        f"{row['slug']}/{row['name']}": (row["result"], row["log"])
        for row in site.database.rows(
            "select s.slug, m.name, t.result, t.log from core_test t join core_suite s on s.id = t.suite_id"
            " join core_suitemetadata m on m.id = t.metadata_id where t.test_run_id = %s",
            [run["id"]],
        )
    }
    plugin = {name: tests.pop(name) for name in list(tests) if name.startswith("log-parser")}
    assert {name: result for name, (result, _) in tests.items()} == {"smoke/uname": True, "smoke/ping": False, "smoke/old": None}
    assert tests["smoke/ping"][1] == TESTS["smoke/ping"]["log"]
    assert plugin and all("made up" in log for _, log in plugin.values()), plugin
    metrics = site.database.rows("select result, unit, measurements from core_metric order by result")
    assert [(row["result"], row["unit"], row["measurements"]) for row in metrics] == [
        (1.5, "s", "1.5"),
        (2.0, "", "1.0,2.0,3.0"),
    ]
    assert site.get(f"{api}/log_file/").content.decode() == LOG
    attachments = site.database.rows("select filename, length from core_attachment order by filename")
    assert {row["filename"]: row["length"] for row in attachments} == {"trace.bin": 1_280_000, "empty.txt": 0}
    assert site.get(f"{api}/attachments/?filename=trace.bin").content == bytes(range(256)) * 5000


def test_a_finished_test_job_is_submitted_whole_and_once(ready):
    alone, site = ready
    enqueue(alone)
    worker = alone.worker()
    task = alone.wait_for_task(SUBMIT, "done")
    expect_once(site)
    # SQUAD cannot replace a run: collected anew, it stays as it is
    (alone.folder / "results" / JOB / "tests.json").write_text("{}")
    enqueue(alone, "--again")
    alone.wait_for_task("submit:1.2/qa", "done")
    expect_once(site)
    assert worker.stop() == 0, task


@pytest.mark.parametrize("point", POINTS)
def test_killed_at_each_step_it_is_submitted_once(ready, point):
    alone, site = ready
    enqueue(alone)
    worker = alone.worker(LONGSHORE_CRASH_AT=point)
    assert worker.wait() == -signal.SIGABRT
    alone.worker()
    alone.wait_for_task(SUBMIT, "done")
    expect_once(site)


def test_killed_while_squad_works_on_it_it_is_submitted_once(ready):
    alone, site = ready
    enqueue(alone)
    blocker = Lock(site, "core_testrun")
    worker = alone.worker()
    blocker.wait_waiting()  # SQUAD has read the submission and writes its run
    worker.kill()
    alone.worker()
    blocker.release()
    alone.wait_for_task(SUBMIT, "done")
    expect_once(site)


def test_another_ones_run_of_that_id_is_not_taken_for_ours(ready):
    alone, site = ready
    answer = requests.post(
        f"{site.start_web()}/api/submit/{TARGET}",
        data={"tests": "{}", "metadata": json.dumps({"job_id": JOB})},
        headers={"Authorization": f"Token {site.token()}"},
        timeout=60,
    )
    assert answer.status_code == 201
    enqueue(alone)
    alone.worker()
    task = alone.wait_for_task(SUBMIT, "dead")
    assert f"a test run {answer.text} with job_id {JOB} that is not of this test job" in task["reason"]


def test_a_wrong_token_is_a_dead_letter_that_says_so(alone, site):
    site.build(version="0", is_public=False)
    results(alone.folder)
    alone.configure(files(alone.folder, site.start_web(), "wrong"))
    enqueue(alone)
    alone.worker()
    task = alone.wait_for_task(SUBMIT, "dead")
    assert "token" in task["reason"], task
    assert site.database.rows("select * from core_testrun") == []


class Lock:
    """Keeps others from writing a table of SQUAD's until `release`."""

    def __init__(self, site, table):
        self.site, self.table = site, table
        self.connection = psycopg2.connect(site.database.url)
        self.connection.cursor().execute(f"lock table {table} in share mode")

    def wait_waiting(self):
        self.site.wait_for(
            f"SQUAD to wait for {self.table}",
            "select 1 from pg_locks where not granted and relation = %s::regclass",
            self.table,
        )

    def release(self):
        self.connection.close()
