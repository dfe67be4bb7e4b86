"""What a death leaves, with SQUAD's own workers: the losses that Longshore is there to end."""

import signal

import cts
from installation import FETCH, POSTPROCESS
from lava import Case, Job
from scenarios import CTS, SMOKE, tradefed_job


def row_of(site, testjob):
    return site.database.row("select * from ci_testjob where id = %s", [testjob])


def test_squad_forgets_the_message_of_a_worker_that_dies(site, quiet_lava):
    job_id = quiet_lava.add(Job(SMOKE))
    gate = quiet_lava.hold(f"jobs/{job_id}/suites/")
    testjob = site.testjob(site.build(), site.backend("lab", quiet_lava.rest), job_id)
    worker = site.worker(FETCH)
    site.fetch(testjob)
    gate.wait_reached()
    worker.kill()
    gate.open()
    again = site.worker(FETCH)
    site.drained(FETCH)
    again.stop()
    row = row_of(site, testjob)
    assert (row["fetched"], row["last_fetch_attempt"], row["testrun_id"]) == (False, None, None)
    assert quiet_lava.count(f"jobs/{job_id}/suites/") == 1


def test_squad_leaves_a_job_fetching_whose_post_processing_dies(site, quiet_lava):
    archive = quiet_lava.serve("tradefed-output-death.tar.xz", cts.archive(CTS))
    job, columns = tradefed_job(archive)
    job_id = quiet_lava.add(job)
    gate = quiet_lava.hold("GET /files/tradefed-output-death.tar.xz")
    build = site.build(plugins=["tradefed"], settings="PLUGINS_TRADEFED_EXTRACT_AGGREGATED: true")
    testjob = site.testjob(build, site.backend("lab", quiet_lava.rest), job_id, **columns)
    fetcher, worker = site.worker(FETCH), site.worker(POSTPROCESS)
    site.fetch(testjob)
    gate.wait_reached()
    worker.kill()
    gate.open()
    again = site.worker(POSTPROCESS)
    site.drained(POSTPROCESS)
    site.drained(FETCH)
    again.stop()
    fetcher.stop()
    row = row_of(site, testjob)
    assert (row["job_status"], row["fetched"], row["subtasks_count"]) == ("Fetching", True, 1)
    assert site.inside("result = core.Build.objects.get(pk=build).finished[0]", build=build) is False


def test_squads_worker_finishes_its_task_when_asked_to_end(site, quiet_lava):
    job_id = quiet_lava.add(Job({"0_smoke": [Case("uname")]}))
    gate = quiet_lava.hold(f"jobs/{job_id}/suites/")
    testjob = site.testjob(site.build(), site.backend("lab", quiet_lava.rest), job_id)
    worker = site.worker(FETCH)
    site.fetch(testjob)
    gate.wait_reached()
    worker.signal(signal.SIGTERM)
    worker.wait_for_line("Warm shutdown")
    gate.open()
    worker.wait()
    row = row_of(site, testjob)
    assert (row["job_status"], row["fetched"]) == ("Complete", True)
