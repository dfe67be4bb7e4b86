"""What SQUAD has when nothing goes wrong at its own side, whoever fetches: SQUAD's workers or Longshore's pools.

The facts hold for both; and all that SQUAD has is the same as after SQUAD's own workers, but for what `deliberate.py`
lists, which by SQUAD compared with
SQUAD also shows that the comparison itself does not hang on a run's ids, ports or moments.
"""

import pytest

from deliberate import unexpected
from dump import but_for_defects, differences
from scenarios import CTS, LOSSY, NAMES, outcome_of


@pytest.fixture(scope="module", params=["squad", "longshore"], ids="by_{}".format)
def outcome(request, template, tmp_path_factory):
    """What an engine leaves, of each scenario."""
    return outcome_of(request.param, template, tmp_path_factory.mktemp(request.param) / "squad")


@pytest.mark.parametrize("view", ["tables", "api", "pages"])
@pytest.mark.parametrize("scenario", [name for name in NAMES if name not in LOSSY])
def test_the_same_as_by_squad(truth, outcome, scenario, view):
    ours, theirs = (but_for_defects(seen[scenario][view]) for seen in (outcome, truth))
    found = differences(ours, theirs)
    if outcome.engine == "longshore":
        found = unexpected(scenario, view, found)
    assert found == []


# --- facts that do not come from a second run ---


def only(outcome, scenario):
    """The build, its one test job and one test run."""
    build = outcome[scenario]["tables"]
    (job,), (run,) = build["testjobs"], build["testruns"]
    return build, job, run


def results(run):
    return {f"{test['metadata_suite']}|{test['metadata_name']}": test["result"] for test in run["tests"]}


def status(run, suite=None):
    (row,) = [row for row in run["statuses"] if row["suite_id"] == suite]
    return {name.removeprefix("tests_"): row[name] for name in row if name.startswith("tests_")}


def counts(passed, failed=0, expected=0, skipped=0):
    return {"pass": passed, "fail": failed, "xfail": expected, "skip": skipped}


def project_status(build):
    (row,) = build["project_status"]
    return row


@pytest.mark.parametrize("scenario", ["complete", "complete_rpc"])
def test_a_complete_job_is_whole(outcome, scenario):
    build, job, run = only(outcome, scenario)
    assert (job["job_status"], job["fetched"], job["failure"], job["can_resubmit"]) == ("Complete", True, None, False)
    assert job["name"] == "boot-and-test" and job["started_at"] == "2026-03-01T10:00:00+00:00"
    assert results(run) == {
        "smoke|uname": True,
        "smoke|ifconfig": False,
        "smoke|reboot": None,
        "smoke|odd": None,
        "ltp-syscalls|abort01": True,
        "ltp-syscalls|accept02": False,
        "ltp-syscalls/group|nested": True,
    }
    assert {metric["metadata_name"]: (metric["result"], metric["unit"]) for metric in run["metrics"]} == {
        "read": (100.5, "MB/s"),
        "write": (50.0, "MB/s"),
        "zero": (0.0, ""),
    }
    assert status(run) == counts(3, 2, 0, 2) and status(run, "smoke") == counts(1, 1, 0, 2)
    # a geometric mean without the zero
    assert project_status(build)["metrics_summary"] == pytest.approx((100.5 * 50) ** 0.5)
    assert run["log_file"] == "booting\nsmoke begins\nuname -a\nLinux qemu 6.12\nünïcödé\ndone\n"
    assert build["finished"] == [True, []] and project_status(build)["finished"]
    assert project_status(build)["notified"]


def test_suite_versions_are_kept(outcome):
    build, _, run = only(outcome, "complete")
    assert {row["suite_id"]: row["version"] for row in run["statuses"] if row["version"]} == {"ltp-syscalls": "20260101"}
    assert run["metadata_file"]["suite_versions"] == {"ltp-syscalls": "20260101"}
    assert [suite["versions"] for suite in build["suites"] if suite["slug"] == "ltp-syscalls"] == [["20260101"]]


@pytest.mark.parametrize("scenario", NAMES)
def test_every_run_has_one_status_of_its_own_that_says_it_has_metrics(outcome, scenario):
    # SQUAD says so whether or not there are any: its pages then show a summary of 0
    for run in outcome[scenario]["tables"]["testruns"]:
        assert [row["has_metrics"] for row in run["statuses"] if row["suite_id"] is None] == [True]
        assert all(row["metrics_summary"] is not None for row in run["statuses"])


@pytest.mark.parametrize("scenario", ["infrastructure", "infrastructure_rpc", "canceled", "empty", "empty_rpc"])
def test_a_job_that_did_not_complete_has_an_empty_run_and_may_be_resubmitted(outcome, scenario):
    build, job, run = only(outcome, scenario)
    assert job["can_resubmit"] and not run["completed"]
    assert (run["tests"], run["metrics"], run["tests_file"], run["metrics_file"]) == ([], [], {}, {})
    assert status(run) == counts(0)
    assert build["finished"] == [True, []] and project_status(build)["test_runs_incomplete"] == 1


def test_the_failure_is_the_metadata_as_python_writes_it(outcome):
    _, job, _ = only(outcome, "infrastructure")
    expected = {"case": "job", "definition": "lava", "error_msg": "no such device", "error_type": "Infrastructure"}
    assert job["failure"] == str(expected)


@pytest.mark.parametrize("scenario", ["infrastructure_kept", "test_error"])
def test_an_error_that_is_not_the_labs_keeps_the_results(outcome, scenario):
    _, job, run = only(outcome, scenario)
    assert (job["job_status"], job["can_resubmit"], run["completed"]) == ("Incomplete", False, True)
    assert results(run) == {"smoke|uname": True}


@pytest.mark.parametrize("scenario", ["running", "running_rpc"])
def test_a_running_job_is_left_alone(outcome, scenario):
    build = outcome[scenario]["tables"]
    (job,) = build["testjobs"]
    assert (job["fetched"], job["fetch_attempts"], job["job_status"]) == (False, 0, "Submitted")
    assert job["last_fetch_attempt"] and build["testruns"] == [] and build["finished"][0] is False


def test_names_are_split_as_squad_splits_them(outcome):
    _, _, run = only(outcome, "names")
    assert set(results(run)) == {
        "/|no-suite",
        "noprefix|a",
        "a/b|c",
        "cts|case[x/y]",
        "cts/deep|case[x/y/z]",
        "cts|open[only",
        "cts/a|b",
        "cts/trailing|",
        "ünï|cödé",
        "ünï|with space",
        "ünï|emoji-😀",
    }


def test_names_longer_than_the_column_are_dropped(outcome):
    _, _, run = only(outcome, "long_names")
    assert set(results(run)) == {"long|" + "n" * 256, "long|" + "é" * 256}
    assert [len(metric["metadata_name"]) for metric in run["metrics"]] == [256]
    # SQUAD writes the third into its file too, where nothing reads it
    assert len(run["tests_file"]) == (3 if outcome.engine == "squad" else 2)


def test_known_issues_of_the_environment_make_failures_expected(outcome):
    build, _, run = only(outcome, "known_issues")
    assert {test["metadata_name"] for test in run["tests"] if test["has_known_issues"]} == {"ifconfig", "accept02"}
    assert status(run) == counts(3, 0, 2, 2)
    assert project_status(build)["tests_xfail"] == 2


def test_two_jobs_of_a_build_add_up(outcome):
    build = outcome["two_jobs"]["tables"]
    assert [run["environment_id"] for run in build["testruns"]] == ["board", "other"]
    assert (project_status(build)["tests_pass"], project_status(build)["tests_fail"]) == (3, 3)
    assert project_status(build)["test_runs_total"] == 2


def test_a_build_with_a_job_to_come_is_not_finished(outcome):
    build = outcome["one_of_two"]["tables"]
    assert build["finished"] == [False, ["There are unfinished CI jobs"]]
    assert not project_status(build)["finished"] and not project_status(build)["notified"]


def test_an_id_that_has_a_run_gets_no_second_one(outcome):
    build = outcome["same_id"]["tables"]
    assert len(build["testruns"]) == 1
    assert build["testjobs"][1]["failure"].startswith("There is already a test run with job_id")
    assert [job["job_status"] for job in build["testjobs"]] == ["Complete", "Complete"]


def test_an_unknown_job_is_given_up_with_what_the_server_said(outcome):
    (job,) = outcome["no_such_job"]["tables"]["testjobs"]
    assert (job["fetched"], job["fetch_attempts"], job["job_status"]) == (True, 1, "Submitted")
    said = {"squad": '{"detail": "Not found."}', "longshore": "the server answered 404"}
    assert job["failure"].endswith(said[outcome.engine])


# What each fault of the server costs SQUAD: tests that it has, whether it gave up, and its log's length.
COSTS = {
    "page_fails": (50, True, 0),
    "suites_fail": (0, True, 0),
    "log_fails": (7, True, 0),
    "details_fail": (0, True, 0),
    "details_fail_rpc": (0, False, 0),
    "cut_off": (0, True, 0),
}
WHOLE = {"page_fails": (60, True, 0), "log_fails": (7, True, 59)}


@pytest.mark.parametrize("scenario", COSTS)
def test_a_fault_of_the_server_costs_squad_results_and_longshore_none(outcome, scenario):
    build = outcome[scenario]["tables"]
    (job,) = build["testjobs"]
    tests = sum(len(run["tests"]) for run in build["testruns"])
    log = sum(len(run["log_file"]) for run in build["testruns"])
    expected = COSTS[scenario] if outcome.engine == "squad" else WHOLE.get(scenario, (7, True, 0))
    assert (tests, job["fetched"], log) == expected
    assert "secret-token" not in (job["failure"] or "")


def test_the_end_of_a_build_is_told_though_its_last_job_left_nothing(outcome):
    build = outcome["last_one_unknown"]["tables"]
    assert build["finished"] == [True, []]
    # SQUAD's workers tell nobody: their build has an end that no page and no mail knows of
    told = outcome.engine != "squad"
    assert (project_status(build)["finished"], project_status(build)["notified"]) == (told, told)


def test_logs_of_tests_come_by_xml_rpc_only(outcome):
    _, _, run = only(outcome, "test_logs_rpc")
    logs = {test["metadata_name"]: test["log"] for test in run["tests"]}
    assert logs["odd"] is None
    assert logs["uname"].startswith("Testcase log: <a href=") and logs["uname"].count("\n\n") == 3
    _, _, run = only(outcome, "test_logs_rest")
    assert {test["log"] for test in run["tests"]} == {None}


@pytest.mark.parametrize("scenario, number", [("pages", 123), ("pages_rpc", 1003)])
def test_all_pages_are_read(outcome, scenario, number):
    _, _, run = only(outcome, scenario)
    assert len(run["tests"]) == number


def test_a_broken_log_is_kept_as_far_as_it_goes(outcome):
    _, _, run = only(outcome, "broken_log")
    assert run["log_file"].endswith("done\n") and len(run["tests"]) == 7


def test_a_nul_is_taken_out_of_the_log(outcome):
    _, _, run = only(outcome, "nul_in_log")
    assert run["log_file"] == "beforeafter\ncafé\n"


def test_the_settings_for_lavas_own_suite(outcome):
    _, _, run = only(outcome, "boot")
    assert results(run)["boot-boot-and-test|qemu-quick"] is True
    assert ("time-qemu", 21.5) in {(metric["metadata_name"], metric["result"]) for metric in run["metrics"]}
    _, _, run = only(outcome, "lava_suite")
    assert results(run)["lava|validate"] is True
    _, _, run = only(outcome, "cloned")
    assert results(run)["speed|read"] is True and len(run["metrics"]) == 3


def test_the_kernels_words_become_failed_tests(outcome):
    _, _, run = only(outcome, "kernel_log")
    found = {test["metadata_name"]: test for test in run["tests"] if test["suite_id"].startswith("log-parser")}
    assert len(found) == 6 and not any(test["result"] for test in found.values())
    assert found["panic-kernel-panic-not-syncing-made-up"]["suite_id"] == "log-parser-test"
    assert found["panic-kernel-panic-not-syncing-made-up"]["has_known_issues"] is None
    assert status(run, "log-parser-test") == counts(0, 2)


def test_tradefeds_results_become_tests(outcome):
    build, job, run = only(outcome, "tradefed")
    assert (job["job_status"], job["subtasks_count"]) == ("Complete", 0)
    suite = "cts-lkft/arm64-v8a.CtsMadeUpTestCases"
    found = {test["metadata_name"]: test for test in run["tests"] if test["suite_id"] == suite}
    first = "com.example.FirstTest."
    assert [found[first + name]["result"] for name in ("passes", "fails", "assumes", "ignored")] == [
        True,
        False,
        False,
        None,
    ]
    assert found[first + "assumes"]["has_known_issues"] and not found[first + "fails"]["has_known_issues"]
    assert found[first + "fails"]["log"].endswith("Test.java:1)") and found[first + "passes"]["log"] == ""
    assert status(run, suite) == counts(151, 1, 1, 1)
    assert status(run) == counts(273, 2, 1, 1)
    assert build["plugin_scratch"] == [] and build["chord_counters"] == []
    assert {issue["test_name"] for issue in build["known_issues"]} == {f"{suite}/{first}assumes"}
    assert f"tradefed_results_url_{job['job_id']}" in run["metadata_file"]


def test_tradefeds_files_become_attachments(outcome):
    for scenario in ("tradefed", "tradefed_not_extracted"):
        _, _, run = only(outcome, scenario)
        assert {(attachment["filename"], attachment["mimetype"]) for attachment in run["attachments"]} == {
            ("test_results.xml", "application/xml"),
            ("compatibility_result.xsl", "application/xslt+xml"),
            ("compatibility_result.css", "text/css"),
            ("logo.png", "image/png"),
            ("teadefed_stdout.txt", "text/plain"),
            ("teadefed_logcat.txt", "text/plain"),
            ("tradefed-output-20260301.tar.xz", "application/x-xz"),
        }
    (xml,) = [entry for entry in run["attachments"] if entry["filename"] == "test_results.xml"]
    assert xml["stored"]["length"] > len(CTS)  # the style sheet's name in it became an address


@pytest.mark.parametrize("scenario", ["tradefed_missing", "tradefed_without_definition", "plugin_for_nothing"])
def test_a_plugin_without_work_does_not_hold_the_job_up(outcome, scenario):
    build, job, run = only(outcome, scenario)
    assert (job["job_status"], job["subtasks_count"], run["attachments"]) == ("Complete", 0, [])
    assert build["finished"] == [True, []]


def test_regressions_and_fixes_are_told(outcome):
    build, _, _ = only(outcome, "regression")
    assert project_status(build)["baseline_id"] == "before"
    assert "smoke/uname" in project_status(build)["regressions"]
    assert "smoke/ifconfig" in project_status(build)["fixes"]
