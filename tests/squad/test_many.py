"""Many tests at once: names that go ahead of them, joins instead of look-ups, and foreign keys that are left to Longshore."""

import json

import pytest

import cts
from engines import FETCH, POSTPROCESS, configuration
from installation import REST
from longshore import Longshore, longshore, migrate
from scenarios import tradefed_job

LAVAS = 3  # tests of the LAVA job itself, of which one failed
TESTS = 22_000  # more than one step of names, and far more than are looked up one by one

COUNTED = """
    create table public.counted (tests bigint);
    create function count_test() returns trigger language plpgsql as $$ begin insert into public.counted values (1); return null; end $$;
    create trigger counted after insert on core_test for each row execute function count_test();
"""


@pytest.mark.parametrize(
    "keys, crash", [("checked", None), ("held", "squad_names:before#2"), ("held beside a trigger", "squad_names:after#2")]
)
def test_two_large_results_of_the_same_suites_at_once(site, quiet_lava, keys, crash):
    config = configuration(site, slots=2, keys=keys.split()[0])
    migrate(site, config)
    if keys.endswith("trigger"):
        site.database.rows(COUNTED)
    site.declare(FETCH, POSTPROCESS, *REST)
    archive = quiet_lava.serve("many.tar.xz", cts.archive(cts.generated(TESTS)))
    build = site.build(plugins=["tradefed"], settings="PLUGINS_TRADEFED_EXTRACT_AGGREGATED: true")
    backend = site.backend("rest", quiet_lava.rest)
    for board in ("one", "two"):
        job, columns = tradefed_job(archive)
        site.fetch(site.testjob(build, backend, quiet_lava.add(job), board, **columns))
    if crash:
        doomed = Longshore(site, "postprocess", config, LONGSHORE_CRASH_AT=crash)
        fetching = Longshore(site, "fetch", config).wait_ready()
        assert doomed.process.wait(120) == -6
        fetching.stop()
    workers = [Longshore(site, pool, config).wait_ready() for pool in ("fetch", "postprocess")]
    rest = site.worker(*REST)
    ended = "select 1 where (select count(*) from ci_testjob where fetched and job_status = 'Complete') = 2"
    site.wait_for("both test jobs", ended, limit=240)
    for worker in workers:
        worker.stop()
    rest.stop()

    told = json.loads(longshore(site, config, "squad", "doctor", "--json").stdout)
    assert [f"{TESTS + LAVAS} tests" in hint for hint in told["hints"]] == ([True] if keys == "checked" else []), told

    # each test once, under its own name, with everything that it refers to
    runs = site.database.rows(
        """select t.test_run_id, count(*) as tests, count(distinct (m.suite, m.name)) as names, count(*) filter (where not t.result) as failed
           from core_test t join core_suitemetadata m on m.id = t.metadata_id and m.kind = 'test'
           join core_suite s on s.id = t.suite_id and s.slug = m.suite
           join core_testrun r on r.id = t.test_run_id and r.build_id = t.build_id and r.environment_id = t.environment_id
           group by t.test_run_id"""
    )
    assert len(runs) == 2, runs
    for run in runs:
        assert (run["tests"], run["names"], run["failed"]) == (TESTS + LAVAS, TESTS + LAVAS, TESTS // 22 + 1), run
    assert site.database.row("select count(*) as n from core_test")["n"] == 2 * (TESTS + LAVAS)
    status = site.database.rows("select tests_pass, tests_fail from core_status where suite_id is null")
    assert [(row["tests_pass"], row["tests_fail"]) for row in status] == [(TESTS * 21 // 22 + LAVAS - 1, TESTS // 22 + 1)] * 2, status
    if keys.endswith("trigger"):
        assert site.database.row("select count(*) as n from counted")["n"] == 2 * (TESTS + LAVAS)


def test_a_role_that_may_not_is_told_at_the_start(site):
    config = configuration(site, keys="held")
    migrate(site, config)
    role = f"plain_{site.database.name}"
    site.database.rows(
        f"create role {role} login; grant usage on schema longshore, public to {role}; "
        f"grant select on all tables in schema longshore, public to {role}; grant insert, update on longshore.tasks to {role}"
    )
    try:
        as_role = config.replace(f"{site.database.user}@", f"{role}@", 1)
        assert as_role != config
        told = longshore(site, as_role, "run", "--pool", "fetch")
        examined = longshore(site, as_role, "squad", "doctor", "--json")
    finally:
        site.database.rows(f"drop owned by {role}; drop role {role}")
    assert told.returncode == 2 and "squad.foreign_keys" in told.stderr and "grant set on parameter" in told.stderr, told
    (finding,) = [finding for finding in json.loads(examined.stdout)["findings"] if finding["about"] == "foreign keys"]
    assert finding["fatal"] and "grant set on parameter" in finding["mend"]
