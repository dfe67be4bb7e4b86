"""What happens in test labs, as data: test jobs of a LAVA server, and the SQUAD projects that they are for.

`run` puts scenarios through an engine and returns what SQUAD has of each afterwards; `outcome_of` all of them.
"""

import dataclasses
import time

import yaml

import cts
from dump import api, dump, pages
from engines import ENGINES, settle
from installation import NOTIFICATION, Installation
from lava import Case, Job, Lava, log_of
from services import LIMIT


@dataclasses.dataclass
class Wanted:
    """A test job that SQUAD waits for."""

    job: Job | None  # None: the server knows no such job
    environment: str = "board"
    rpc: bool = False  # by XML-RPC instead of REST
    ends: bool = True  # else one look at it changes nothing but the attempt
    same_id: bool = False  # as the one before it
    columns: dict = dataclasses.field(default_factory=dict)


@dataclasses.dataclass
class Scenario:
    """A build, alone in its project unless it names another's."""

    name: str
    jobs: list[Wanted]
    project: str | None = None
    settings: dict | None = None
    plugins: list[str] | None = None
    issues: list[tuple[str, str]] = ()
    faults: list[tuple] = ()  # arguments of Lava.fail; JOB stands for the first job's id
    after: str | None = None  # only once that one has ended
    told: bool = True  # that the build has finished is told; SQUAD does not tell when its last job left no test run
    lossy: bool = False  # a fault in whose course SQUAD's workers lose results: Longshore's need not equal them

    build: int | None = None
    testjobs: list[int] = ()
    job_ids: list = ()


SMOKE = {
    "lava": [
        Case("validate"),
        Case("login-action", measurement="21.5", unit="seconds"),
        Case("job"),
    ],
    "0_smoke": [
        Case("uname"),
        Case("ifconfig", "fail"),
        Case("reboot", "skip"),
        Case("odd", "unknown"),
    ],
    "1_ltp-syscalls": [Case("abort01"), Case("accept02", "fail"), Case("group/nested")],
    "2_speed": [
        Case("read", measurement="100.5", unit="MB/s"),
        Case("write", measurement="50", unit="MB/s"),
        Case("zero", measurement="0"),
    ],
}
METADATA = {
    "git_branch": "main",
    "ltp-syscalls__version": "20260101",
    "list": ["a", "b"],
}
LOG = log_of("booting", "smoke begins", "uname -a", "Linux qemu 6.12", "ünïcödé", "done")


def failed(error_type, message="no such device", **extra):
    """The suites of a job that LAVA itself failed."""
    metadata = {"case": "job", "definition": "lava", "error_type": error_type, "error_msg": message}
    return {"lava": [Case("job", "fail", metadata=metadata)], **extra}


def named(*names, **options):
    return [Case(name, **options) for name in names]


KERNEL_LOG = log_of(
    "[    0.000000] Booting Linux on physical CPU 0x0",
    "[    1.234567] WARNING: CPU: 0 PID: 1 at drivers/made/up.c:42 made_up_function+0x10/0x20",
    "[    2.000000] BUG: unable to handle page fault for address: ffff888",
    "qemu login: root",
    "[    9.000000] Kernel panic - not syncing: made up",
)

FAILURE_TRACE = "java.lang.AssertionError: made up <1> & <2>\n\tat com.example.Test.one(Test.java:1)"
CTS = cts.result_xml(
    {
        ("CtsMadeUpTestCases", "arm64-v8a"): {
            "com.example.FirstTest": [
                cts.Test("passes"),
                cts.Test("fails", "fail", FAILURE_TRACE),
                cts.Test("assumes", "ASSUMPTION_FAILURE", "org.junit.AssumptionViolatedException: no camera"),
                cts.Test("ignored", "IGNORED"),
            ],
            "com.example.SecondTest": [cts.Test(f"test{number}[{number}/x]") for number in range(150)],
        },
        ("CtsOtherTestCases", "arm64-v8a"): {f"com.example.Case{number}": [cts.Test("only")] for number in range(120)},
    }
)


def tradefed_job(archive_url, name="cts-lkft", results_format="aggregated", result="pass"):
    """A LAVA job that ran tradefed, and the definition that SQUAD holds of it."""
    job = Job(
        suites={
            "lava": [Case("job")],
            f"0_{name}": [
                Case("boot"),
                Case("com.example.FirstTest.fails", "fail"),
                Case("test-attachment", result, metadata={"case": "test-attachment", "reference": archive_url}),
            ],
        },
        actions=cts.definition_actions(name, results_format),
        log=LOG,
    )
    return job, {"definition": job.definition_text()}


def scenarios(lava):
    """All of them, with jobs of their own on that server."""
    archive = lava.serve("tradefed-output-20260301.tar.xz", cts.archive(CTS))
    aggregated, aggregated_columns = tradefed_job(archive)
    separate, separate_columns = tradefed_job(archive, results_format="atomic")
    missing, missing_columns = tradefed_job(f"{lava.address}/files/none.tar.xz")
    logged = {"0_smoke": [Case("uname", log=(2, 4)), Case("reboot", "fail", log=(5, 5)), Case("odd")]}
    nul = {"0_smoke": named("uname")}
    return [
        Scenario("complete", [Wanted(Job(SMOKE, metadata=METADATA, log=LOG))]),
        Scenario("complete_rpc", [Wanted(Job(SMOKE, metadata=METADATA, log=LOG), rpc=True)]),
        Scenario("test_logs_rest", [Wanted(Job(logged, log=LOG))]),
        Scenario("test_logs_rpc", [Wanted(Job(logged, log=LOG), rpc=True)]),
        Scenario("infrastructure", [Wanted(Job(failed("Infrastructure", **{"0_smoke": named("uname")}), "Incomplete"))]),
        Scenario("infrastructure_rpc", [Wanted(Job(failed("Infrastructure"), "Incomplete"), rpc=True)]),
        Scenario(
            "infrastructure_kept",
            [Wanted(Job(failed("Infrastructure", **{"0_smoke": named("uname")}), "Incomplete"))],
            settings={"CI_LAVA_WORK_AROUND_INFRA_ERRORS": True},
        ),
        Scenario("test_error", [Wanted(Job(failed("Test", **{"0_smoke": named("uname")}), "Incomplete"))]),
        Scenario("canceled", [Wanted(Job(SMOKE, "Canceled"))]),
        Scenario("empty", [Wanted(Job({}))]),
        Scenario("empty_rpc", [Wanted(Job({}), rpc=True)]),
        Scenario("running", [Wanted(Job(SMOKE, "Unknown", "Running"), ends=False)]),
        Scenario("running_rpc", [Wanted(Job(SMOKE, "Unknown", "Running"), rpc=True, ends=False)]),
        Scenario("no_such_job", [Wanted(None, columns={"job_id": "99999999"})]),
        Scenario(
            "names",
            [
                Wanted(
                    Job(
                        {
                            "0_": named("no-suite"),
                            "noprefix": named("a"),
                            "1_a/b": named("c"),
                            "2_cts": named("case[x/y]", "deep/case[x/y/z]", "open[only", "a/b", "trailing/"),
                            "3_ünï": named("cödé", "with space", "emoji-😀"),
                        }
                    )
                )
            ],
        ),
        Scenario(
            "long_names",
            [
                Wanted(
                    Job(
                        {
                            "0_long": named("n" * 256, "n" * 257, "é" * 256)
                            + named("m" * 256, "m" * 257, measurement="1", unit="s"),
                        }
                    )
                )
            ],
        ),
        Scenario(
            "known_issues",
            [Wanted(Job(SMOKE))],
            issues=[("smoke/ifconfig", "board"), ("ltp-*/acc*", "board"), ("smoke/uname", "another")],
        ),
        Scenario(
            "two_jobs",
            [Wanted(Job(SMOKE)), Wanted(Job({"0_smoke": named("uname", result="fail")}), environment="other")],
        ),
        Scenario("one_of_two", [Wanted(Job(SMOKE)), Wanted(Job(SMOKE, "Unknown", "Running"), ends=False)]),
        Scenario("same_id", [Wanted(Job(SMOKE)), Wanted(Job({}), same_id=True)], told=False),
        Scenario(
            "last_one_unknown",
            [Wanted(Job(SMOKE)), Wanted(None, columns={"job_id": "88888888"})],
            told=False,
            lossy=True,
        ),
        Scenario(
            "boot",
            [Wanted(Job(SMOKE, metadata={"testsuite": "quick"}))],
            settings={"CI_LAVA_HANDLE_BOOT": True},
        ),
        Scenario("lava_suite", [Wanted(Job(SMOKE))], settings={"CI_LAVA_HANDLE_SUITE": True}),
        Scenario("cloned", [Wanted(Job(SMOKE))], settings={"CI_LAVA_CLONE_MEASUREMENTS": True}),
        Scenario("pages", [Wanted(Job({"0_many": named(*(f"test{number:04}" for number in range(123)))}))]),
        Scenario(
            "pages_rpc", [Wanted(Job({"0_many": named(*(f"test{number:04}" for number in range(1003)))}), rpc=True)]
        ),
        Scenario("broken_log", [Wanted(Job(SMOKE, log=LOG + b'- {"lvl": "target", "msg": "cut' + b"\n- [\n"))]),
        Scenario("nul_in_log", [Wanted(Job(nul, log=log_of("before\0after", "caf\xe9")))]),
        Scenario(
            "page_fails",
            [Wanted(Job({"0_cut": named(*map(str, range(60)))}))],
            lossy=True,
            faults=[("jobs/JOB/suites/JOB00/tests/?limit=50&offset=50", 500)],
        ),
        Scenario("suites_fail", [Wanted(Job(SMOKE))], lossy=True, faults=[("jobs/JOB/suites/", 500)]),
        Scenario("log_fails", [Wanted(Job(SMOKE, log=LOG))], lossy=True, faults=[("jobs/JOB/logs/", 500)]),
        Scenario("details_fail", [Wanted(Job(SMOKE))], lossy=True, faults=[("jobs/JOB", 503)]),
        Scenario(
            "details_fail_rpc",
            [Wanted(Job(SMOKE), rpc=True, ends=False)],
            lossy=True,
            faults=[("RPC scheduler.job_details('JOB'", 503)],
        ),
        Scenario("cut_off", [Wanted(Job(SMOKE))], lossy=True, faults=[("jobs/JOB", None)]),
        Scenario("kernel_log", [Wanted(Job(SMOKE, log=KERNEL_LOG))], plugins=["linux_log_parser"]),
        Scenario("plugin_for_nothing", [Wanted(Job(SMOKE))], plugins=["example"]),
        Scenario(
            "tradefed",
            [Wanted(aggregated, columns=aggregated_columns)],
            plugins=["tradefed"],
            settings={"PLUGINS_TRADEFED_EXTRACT_AGGREGATED": True},
        ),
        Scenario("tradefed_not_extracted", [Wanted(separate, columns=separate_columns)], plugins=["tradefed"]),
        Scenario(
            "tradefed_missing",
            [Wanted(missing, columns=missing_columns)],
            plugins=["tradefed"],
            settings={"PLUGINS_TRADEFED_EXTRACT_AGGREGATED": True},
        ),
        Scenario("tradefed_without_definition", [Wanted(Job(SMOKE))], plugins=["tradefed"]),
        Scenario("before", [Wanted(Job(SMOKE))], project="lab/history"),
        Scenario(
            "regression",
            [Wanted(Job({**SMOKE, "0_smoke": [Case("uname", "fail"), Case("ifconfig")]}))],
            project="lab/history",
            after="before",
        ),
    ]


class Nowhere:
    """Instead of a server, where only the scenarios' names are wanted."""

    address = ""

    def serve(self, name, content):
        return name


NAMES = [scenario.name for scenario in scenarios(Nowhere())]
LOSSY = [scenario.name for scenario in scenarios(Nowhere()) if scenario.lossy]


class Outcomes(dict):
    """What is seen of each scenario, by name. Of one that did not end it cannot be had: the others still can."""

    def __init__(self, engine):
        super().__init__()
        self.engine, self.stuck = engine, {}

    def __getitem__(self, name):
        assert name not in self.stuck, self.stuck[name]
        return super().__getitem__(name)


def run(engine, site, lava, all_scenarios, look=dump):
    """Puts the scenarios through the engine of that name. Returns what `look` sees of each, by name."""
    outcomes = Outcomes(engine)
    rest = site.worker(*ENGINES[engine].REST)
    started = ENGINES[engine](site)
    waiting = list(all_scenarios)
    while waiting:
        now = [scenario for scenario in waiting if scenario.after not in {other.name for other in waiting}]
        waiting = [scenario for scenario in waiting if scenario not in now]
        for scenario in now:
            prepare(site, lava, scenario)
        for scenario in now:
            for testjob in scenario.testjobs:
                site.fetch(testjob)
        deadline = time.monotonic() + 2 * LIMIT  # of all together
        for scenario in now:
            try:
                wait_for_end(site, engine, scenario, max(1, deadline - time.monotonic()))
            except AssertionError as stuck:
                outcomes.stuck[scenario.name] = str(stuck)
    settle(site, started, rest)
    for scenario in all_scenarios:
        outcomes[scenario.name] = look(site, scenario.build)
    return outcomes


def outcome_of(engine, template, folder):
    """Puts all scenarios through an engine beside a SQUAD and a LAVA of their own."""
    site, lava = Installation(template, folder), Lava()
    try:
        look = {"tables": dump, "api": api, "pages": pages}
        return run(
            engine,
            site,
            lava,
            scenarios(lava),
            lambda site, build: {name: read(site, build) for name, read in look.items()},
        )
    finally:
        site.close()
        lava.close()


def prepare(site, lava, scenario):
    """Makes its build and test jobs, at the server and in SQUAD."""
    backends = {False: site.backend("rest", lava.rest), True: site.backend("rpc", lava.rpc)}
    scenario.build = site.build(
        scenario.project or f"lab/{scenario.name}",
        version=scenario.name,
        settings=yaml.safe_dump(scenario.settings) if scenario.settings else None,
        plugins=scenario.plugins,
        issues=scenario.issues,
    )
    scenario.testjobs, scenario.job_ids = [], []
    for wanted in scenario.jobs:
        columns = dict(wanted.columns)
        job_id = columns.pop("job_id", None)
        if wanted.same_id:
            job_id = scenario.job_ids[-1]
        elif wanted.job is not None:
            job_id = lava.add(wanted.job)
        scenario.job_ids.append(job_id)
        testjob = site.testjob(scenario.build, backends[wanted.rpc], job_id, wanted.environment, **columns)
        scenario.testjobs.append(testjob)
    for part, *fault in scenario.faults:
        lava.fail(part.replace("JOB", str(scenario.job_ids[0])), *fault)


def wait_for_end(site, engine, scenario, limit):
    """Waits until its test jobs are as far as they come, and the build's status has been told."""
    goes_on = scenario.lossy and engine != "squad"  # SQUAD's workers try again after an hour, if ever
    for wanted, testjob in zip(scenario.jobs, scenario.testjobs):
        ended = "and fetched and job_status <> 'Fetching'" if wanted.ends or goes_on else ""
        site.wait_for(
            f"test job {testjob} of {scenario.name}",
            f"select 1 from ci_testjob where id = %s and last_fetch_attempt is not null {ended}",
            testjob,
            limit=limit,
        )
    if goes_on or (scenario.told and all(wanted.ends for wanted in scenario.jobs)):
        site.wait_for(
            f"the build's status of {scenario.name}",
            """select 1 where not exists (select 1 from core_testrun where build_id = %s)
               union all select 1 from core_projectstatus where build_id = %s and finished""",
            scenario.build,
            scenario.build,
            limit=limit,
        )
