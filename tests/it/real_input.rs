//! Real input: this project's own JUnit report and this machine's own kernel log, from the directory backend to
//! `testjob results`. What comes out is compared with what a plain search in the same files finds.

use std::collections::BTreeSet;
use std::sync::Arc;

use longshore::testjob::format::{Limits, junit};
use longshore::testjob::item::Item;
use regex::Regex;
use serde_json::Value;

use crate::scene::{Scene, on_both_with};

on_both_with!("";
    this_projects_own_report_comes_out_as_it_went_in,
    this_machines_own_kernel_log_is_kept_whole_and_searched,
);

/// A file that `scripts/test` made.
fn made(variable: &str) -> Vec<u8> {
    let path = std::env::var(variable).unwrap_or_else(|_| {
        panic!("{variable} is not set: run the tests with scripts/test, or set it to such a file")
    });
    std::fs::read(&path).unwrap_or_else(|error| panic!("{variable}: {path}: {error}"))
}

/// How many tests ended how.
#[derive(Debug, Default, PartialEq, Clone, Copy)]
struct Ends {
    pass: usize,
    fail: usize,
    skip: usize,
}

impl Ends {
    fn all(self) -> usize {
        self.pass + self.fail + self.skip
    }

    fn count<'a>(results: impl Iterator<Item = &'a str>) -> Self {
        let mut ends = Self::default();
        for result in results {
            match result {
                "pass" => ends.pass += 1,
                "fail" => ends.fail += 1,
                "skip" => ends.skip += 1,
                other => panic!("{other:?} is no result of a JUnit test"),
            }
        }
        ends
    }
}

/// What a search for tags finds in a report, and the tests' names.
fn searched(report: &str) -> (Ends, BTreeSet<String>) {
    let name = Regex::new("^[^>]*? name=\"([^\"]*)\"").unwrap();
    let references = [
        ("&lt;", "<"),
        ("&gt;", ">"),
        ("&quot;", "\""),
        ("&apos;", "'"),
        ("&amp;", "&"),
    ];
    let mut names = BTreeSet::new();
    let cases = report.split("<testcase").skip(1).map(|case| {
        let mut name = name.captures(case).expect("a test has a name")[1].to_owned();
        for (reference, char) in references {
            name = name.replace(reference, char);
        }
        names.insert(name);
        let case = case.split("</testcase>").next().unwrap();
        if case.contains("<failure") || case.contains("<error") {
            "fail"
        } else if case.contains("<skipped") {
            "skip"
        } else {
            "pass"
        }
    });
    (Ends::count(cases), names)
}

async fn this_projects_own_report_comes_out_as_it_went_in(scene: Arc<Scene>) {
    let report = made("LONGSHORE_TEST_JUNIT");
    let (expected, names) = searched(&String::from_utf8(report.clone()).unwrap());
    assert!(expected.all() > 0, "the report has no test");
    scene.file("own", "junit.xml", &report);
    let _workers = (scene.worker("fetch"), scene.worker("postprocess"));
    let target = "bare/bare/build/environment";
    scene
        .verb(&[
            "enqueue",
            "fetch",
            "--backend",
            "dir",
            "--id",
            "own",
            "--target",
            target,
        ])
        .await;
    let job = scene.reaches("dir", "own", "complete").await;
    assert_eq!(
        (job.tests, job.passed, job.failed, job.skipped),
        (
            expected.all() as i64,
            expected.pass as i64,
            expected.fail as i64,
            expected.skip as i64
        )
    );
    shown_in_each_format(&scene, expected, &names).await;
}

/// `testjob results` shows the same, however it is asked.
async fn shown_in_each_format(scene: &Scene, expected: Ends, names: &BTreeSet<String>) {
    let results = async |more: &[&str]| {
        let mut arguments = vec!["testjob", "results", "dir/own"];
        arguments.extend(more);
        scene.verb(&arguments).await
    };
    let table = results(&[]).await;
    let found = table
        .lines()
        .skip(1)
        .map(|line| line.split(' ').next().unwrap());
    assert_eq!(Ends::count(found), expected, "as a table");

    let lines = results(&["--json"]).await;
    let tests = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    let tests = tests.collect::<Vec<_>>();
    let found = tests.iter().map(|test| test["result"].as_str().unwrap());
    assert_eq!(Ends::count(found), expected, "as JSON");
    let found = tests
        .iter()
        .map(|test| test["name"].as_str().unwrap().to_owned());
    assert_eq!(&found.collect::<BTreeSet<_>>(), names);

    let text = results(&["--format", "csv"]).await;
    let rows = csv::Reader::from_reader(text.as_bytes()).into_records();
    let rows = rows
        .map(|row| row.unwrap()[3].to_owned())
        .collect::<Vec<_>>();
    assert_eq!(
        Ends::count(rows.iter().map(String::as_str)),
        expected,
        "as CSV"
    );

    let text = results(&["--format", "junit"]).await;
    assert_eq!(
        searched(&text),
        (expected, names.clone()),
        "as JUnit, searched"
    );
    let mut found = BTreeSet::new();
    let counts = junit::read(
        &mut text.as_bytes(),
        false,
        &Limits::default(),
        &mut |item| {
            if let Item::Test(test) = item {
                found.insert(test.name);
            }
            Ok(())
        },
    )
    .unwrap();
    let counts = Ends {
        pass: counts.pass as usize,
        fail: counts.fail as usize,
        skip: counts.skip as usize,
    };
    assert_eq!((counts, found), (expected, names.clone()), "as JUnit, read");
}

/// The names of the tests that `testjob results` shows.
async fn names(scene: &Scene, id: &str) -> BTreeSet<String> {
    let job = format!("dir/{id}");
    let lines = scene.verb(&["testjob", "results", &job, "--json"]).await;
    let tests = lines
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap());
    tests
        .map(|test| {
            assert_eq!(
                (&test["part"], &test["result"]),
                (&"kernel-log".into(), &"fail".into())
            );
            test["name"].as_str().unwrap().to_owned()
        })
        .collect()
}

async fn this_machines_own_kernel_log_is_kept_whole_and_searched(scene: Arc<Scene>) {
    let log = made("LONGSHORE_TEST_KERNEL_LOG");
    let text = String::from_utf8_lossy(&log).into_owned();
    assert!(
        text.lines().count() > 10,
        "this is no kernel's log:\n{text}"
    );
    // The finding of any line: those in blocks have such lines too, but for their frames.
    let headline = Regex::new(
        r"^.*\[ *[0-9]+\.[0-9]+\](?:\[ *[TC][0-9]+\])? .*(?:WARNING:| kernel BUG at|BUG:|Oops(?: -|:)|Kernel panic - not syncing|Unhandled fault|invalid opcode:)",
    )
    .unwrap();
    let trouble = text
        .lines()
        .filter(|line| headline.is_match(line))
        .collect::<Vec<_>>();
    let warning = "[99999.000001] ------------[ cut here ]------------\n\
                   [99999.000002] WARNING: CPU: 0 PID: 1 at drivers/made/up.c:7 made_up+0x10/0x20\n\
                   [99999.000003] Call trace:\n[99999.000004]  made_up+0x10/0x20\n\
                   [99999.000005] ---[ end trace 0000000000000000 ]---\n";
    scene.file("kernel", "kernel.log", &log);
    let mut more = log.clone();
    more.extend_from_slice(b"\n");
    more.extend_from_slice(warning.as_bytes());
    scene.file("warned", "kernel.log", &more);
    let _workers = (scene.worker("fetch"), scene.worker("postprocess"));
    for (id, size) in [("kernel", log.len()), ("warned", more.len())] {
        scene.fetch("dir", id).await;
        scene.reaches("dir", id, "complete").await;
        let kept = format!(
            "select sum(length(d.data)) from staged_data d join published_runs p on p.run = d.run where p.remote_id = '{id}'"
        );
        assert_eq!(
            scene.bench.number(&kept).await,
            size as i64,
            "the log is kept whole"
        );
    }
    let (found, warned) = (names(&scene, "kernel").await, names(&scene, "warned").await);
    assert_eq!(
        found.is_empty(),
        trouble.is_empty(),
        "{found:?}\n{trouble:?}"
    );
    // Two tests a finding, and one line of trouble at least.
    assert!(found.len() <= 2 * trouble.len(), "{found:?}\n{trouble:?}");
    assert!(warned.is_superset(&found));
    assert_eq!(warned.len(), found.len() + 2, "{warned:?}");
    assert!(
        warned.iter().any(|name| name.contains("made_up")),
        "{warned:?}"
    );
}
