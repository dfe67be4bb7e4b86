"""`longshore squad doctor` names what deaths of SQUAD's own workers left, and `unstick` repairs it."""

import concurrent.futures
import json

import pytest

from engines import InPlaceOfSquad, configuration
from installation import REST
from lava import Job
from longshore import longshore, migrate
from scenarios import SMOKE, tradefed_job
from windows import transaction

STATES = {
    # SQUAD's own columns as its workers leave them when they die (rows 2, 3, 5 and 7 of what is known of it)
    "nothing-written": "job.fetched, job.job_status = True, 'Fetching'",
    "unlinked": """
        job.fetched, job.job_status = True, 'Fetching'
        build.test_runs.create(environment=environment, job_id=job.job_id, completed=True)
    """,
    "never-told": """
        job.fetched, job.job_status = True, 'Fetching'
        job.testrun = build.test_runs.create(environment=environment, job_id=job.job_id, job_status='Complete', completed=True,
                                             data_processed=True, status_recorded=True)
    """,
    "cut-off": """
        job.fetched, job.job_status, job.subtasks_count = True, 'Fetching', 1
        job.testrun = build.test_runs.create(environment=environment, job_id=job.job_id, completed=True, data_processed=True)
        core.PluginScratch.objects.create(build=build, storage='[]')
    """,
}


@pytest.fixture
def stuck(site, quiet_lava):
    """A test job of each state."""
    config = configuration(site)
    migrate(site, config)
    backend = site.backend("rest", quiet_lava.rest)
    jobs = {}
    for state, code in STATES.items():
        build = site.build(f"lab/{state}")
        pk = site.testjob(build, backend, quiet_lava.add(Job(SMOKE)))
        site.inside(
            "from django.utils import timezone\n"
            "build = core.Build.objects.get(pk=build)\n"
            "environment, _ = build.project.environments.get_or_create(slug='board')\n"
            "job = ci.TestJob.objects.get(pk=pk)\n"
            "job.fetched_at = timezone.now() - timezone.timedelta(hours=2)\n"
            + "\n".join(line.strip() for line in code.replace("completed=True,\n", "completed=True, ").splitlines())
            + "\njob.save()\nresult = None",
            build=build,
            pk=pk,
        )
        jobs[state] = pk
    return config, jobs


@pytest.mark.parametrize("crash", [None, "squad_unstick:before", "squad_unstick:after"])
def test_each_cause_is_named_and_repaired(site, quiet_lava, stuck, crash):
    config, jobs = stuck
    told = longshore(site, config, "squad", "doctor", "--json")
    assert told.returncode == 3, told
    report = json.loads(told.stdout)
    assert {found["pk"]: found["cause"] for found in report["stuck"]} == {pk: state for state, pk in jobs.items()}
    assert "longshore squad unstick" in [finding["mend"] for finding in report["findings"]]

    before = site.database.rows("select * from ci_testjob order by id")
    dry = longshore(site, config, "squad", "unstick", "--dry-run")
    assert dry.returncode == 0 and "nothing was changed" in dry.stdout, dry
    assert site.database.rows("select * from ci_testjob order by id") == before

    engine = InPlaceOfSquad(site)
    rest = site.worker(*REST)
    if crash:
        assert longshore(site, config, "squad", "unstick", LONGSHORE_CRASH_AT=crash).returncode == -6
    done = longshore(site, config, "squad", "unstick")
    assert done.returncode == 0, done
    # what a commit has repaired before the end is not repaired again
    assert crash == "squad_unstick:after" or "3 to collect anew, 1 to tell of" in done.stdout, done
    site.wait_for(
        "the end of every test job",
        "select 1 where not exists (select 1 from ci_testjob where not fetched or job_status <> 'Complete' or testrun_id is null)",
    )
    for state, pk in jobs.items():
        tests = site.database.rows(
            "select count(*) as n from core_test c join ci_testjob t on t.testrun_id = c.test_run_id where t.id = %s", (pk,)
        )[0]["n"]
        assert tests == (0 if state == "never-told" else 7), state
    assert site.database.rows("select count(*) as n from core_testrun") == [{"n": len(jobs)}]
    engine.stop()
    rest.stop()
    # what belonged to a build that was still being repaired goes with the next repair
    assert longshore(site, config, "squad", "unstick").returncode == 0
    assert site.database.rows("select count(*) as n from core_pluginscratch") == [{"n": 0}]
    again = json.loads(longshore(site, config, "squad", "doctor", "--json").stdout)
    assert again["stuck"] == [] and again["loose"] == {"runs": 0, "scratch": 0}


def test_a_loose_run_stays_until_its_successor_is_whole(site, quiet_lava, stuck):
    """Of a test job that is collected anew it is what there is; of one that has another run it is nothing."""
    config, jobs = stuck
    old = site.inside(
        """
        from django.utils import timezone
        job = ci.TestJob.objects.get(pk=ended)
        build = job.target_build
        environment = build.project.environments.get(slug='board')
        job.testrun = build.test_runs.create(environment=environment, job_id='another', completed=True)
        job.job_status = 'Complete'
        job.save()
        result = build.test_runs.create(environment=environment, job_id=job.job_id, completed=True).pk
        core.TestRun.objects.all().update(created_at=timezone.now() - timezone.timedelta(hours=2))
        """,
        ended=jobs["nothing-written"],
    )
    waiting = site.database.rows(
        "select r.id from core_testrun r join ci_testjob t on t.target_build_id = r.build_id where t.id = %s", (jobs["unlinked"],)
    )
    done = longshore(site, config, "squad", "unstick")
    assert done.returncode == 0, done
    assert site.database.rows("select 1 from core_testrun where id = %s", (old,)) == []
    assert site.database.rows("select id from core_testrun where id = %s", (waiting[0]["id"],)) == waiting
    assert site.database.rows("select fetched from ci_testjob where id = %s", (jobs["unlinked"],)) == [{"fetched": False}]


def test_a_test_job_that_ends_meanwhile_is_not_collected_anew(site, quiet_lava, stuck):
    """Its end is on its way when `unstick` looks, and there when it writes."""
    config, jobs = stuck
    pk = jobs["cut-off"]
    others = [other for other in jobs.values() if other != pk]
    with concurrent.futures.ThreadPoolExecutor() as pool:
        with transaction(site, f"update ci_testjob set job_status = 'Complete', subtasks_count = 0 where id = {pk}") as other:
            done = pool.submit(longshore, site, config, "squad", "unstick")
            site.wait_for(
                "a repair that waits for it",
                "select 1 from pg_stat_activity where datname = current_database() and %s = any(pg_blocking_pids(pid))",
                other.get_backend_pid(),
            )
            other.commit()
        done = done.result()
    assert done.returncode == 1 and "has ended meanwhile" in done.stderr, done
    assert site.database.row("select fetched, job_status from ci_testjob where id = %s", [pk]) == {"fetched": True, "job_status": "Complete"}
    assert site.database.rows("select 1 from longshore.outbox") == [], "nobody was sent for anything"
    done = longshore(site, config, "squad", "unstick")
    assert done.returncode == 0, done
    again = site.database.rows("select id from ci_testjob where not fetched order by id")
    assert {row["id"] for row in again} == set(others) - {jobs["never-told"]}


def test_a_schema_that_differs_is_refused_with_the_difference(site):
    config = configuration(site)
    migrate(site, config)
    site.database.rows("alter table core_test add column weight integer not null default 0")
    site.database.rows("alter table core_test alter column weight drop default")
    site.database.rows("alter table core_status rename column tests_xfail to tests_expected")
    told = longshore(site, config, "squad", "doctor")
    assert told.returncode == 3, told
    assert "core_test needs a column weight that this Longshore does not know" in told.stdout
    assert "core_status has no column tests_xfail" in told.stdout


def test_without_squads_tables_it_says_where_to_look(site):
    config = configuration(site)
    site.database.rows("drop table core_test cascade")
    told = longshore(site, config, "squad", "doctor")
    assert told.returncode == 3 and "SQUAD's table core_test is not in the schema public" in told.stdout, told


def test_plugins_that_nobody_runs_are_named(site):
    config = configuration(site)
    migrate(site, config)
    site.build("lab/strange", plugins=["tradefed", "made_up"])
    told = longshore(site, config, "squad", "doctor")
    assert "lab/strange has the plugin made_up" in told.stdout, told
    named = longshore(site, config + '\n[squad.plugins]\nmade_up = "testjob"\n', "squad", "doctor")
    assert "made_up" not in named.stdout, named


def test_queues_that_nobody_takes_from_are_named(site):
    config = configuration(site)
    migrate(site, config)
    site.inside("result = None")
    site.declare("ci_fetch", "core_postprocess")
    site.worker("celery")
    site.drained("celery")
    site.publish("squad.ci.tasks.fetch", -1, queue="ci_fetch")
    report = json.loads(longshore(site, config, "squad", "doctor", "--json").stdout)
    found = {finding["what"].split(":")[0] for finding in report["findings"] if finding["about"] == "queues"}
    assert found == {
        "nobody takes from queue ci_fetch",
        "queue ci_fetch_postprocess is not there",
        "queue longshore_postprocess is not there",
        "nobody takes from queue core_postprocess",
    }
    seen = {queue["queue"]: (queue["messages"], queue["consumers"]) for queue in report["queues"]}
    assert seen["ci_fetch"] == (1, 0) and seen["celery"] == (0, 1)


def test_backends_that_only_python_knows_are_named(site):
    config = configuration(site)
    migrate(site, config)
    site.backend("own", "http://own.test", kind="made_up")
    told = longshore(site, config, "squad", "doctor")
    assert 'backend own is of the kind "made_up": its fetches are passed on to SQUAD\'s workers on celery' in told.stdout, told


def test_without_squad_in_the_configuration_it_says_what_to_write(site):
    told = longshore(site, "", "squad", "doctor")
    assert told.returncode == 2 and 'write store = "squad" in [testjobs]' in told.stderr, told
