//! `longshore demo` as a user or a program runs it: the real binary, its real workers, real signals.

#![expect(clippy::unwrap_used, reason = "a helper that fails fails its test")]

use std::io::{BufRead as _, BufReader, Lines};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStderr, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

/// A folder of its own, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(name: &str) -> Self {
        let id = uuid::Uuid::now_v7().simple();
        let path = std::env::temp_dir().join(format!("longshore-{name}-{id}"));
        std::fs::create_dir_all(&path).unwrap();
        Self(path)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        std::fs::remove_dir_all(&self.0).unwrap();
    }
}

fn demo(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    command.arg("demo").arg("--dir").arg(folder);
    command
}

/// Whether the process runs; a zombie does not.
fn runs(pid: u64) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let state = status.lines().find(|line| line.starts_with("State:"));
    state.is_some_and(|state| !state.contains('Z'))
}

#[test]
fn the_demo_kills_two_workers_and_nothing_is_lost_repeated_or_half_written() {
    let folder = Folder::new("demo");
    let output = demo(&folder.0)
        .args(["--json", "--tests", "20000", "--limit", "120s"])
        .output()
        .unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.lines().count(), 1, "{text}");
    let report: Value = serde_json::from_str(&text).unwrap();
    let number = |key: &str| {
        report[key]
            .as_u64()
            .unwrap_or_else(|| panic!("{key} in {report}"))
    };
    assert_eq!(number("test_jobs"), 21);
    assert_eq!(number("complete"), 21);
    assert!(number("tests_published") > 20_000, "{report}");
    assert_eq!(number("sigterms"), 1);
    assert_eq!(number("sigkills"), 1);
    assert!(number("handoffs") >= 1, "{report}");
    assert!(number("rescues") >= 1, "{report}");
    for none in ["half_written", "lost", "surplus", "rows_written_again"] {
        assert_eq!(number(none), 0, "{none} in {report}");
    }
    // The interrupted plugin had something to go on from, and went on from there.
    assert!(number("rows_read_again") >= 2000, "{report}");
    assert!(number("looks") > 10, "{report}");
    let resumed = report["resume_ms"].as_array().unwrap();
    assert_eq!(resumed.len(), 2);
    assert!(resumed.iter().all(|time| time.as_f64().unwrap() > 0.0));
    let pids = report["pids"].as_array().unwrap();
    assert_eq!(pids.len(), 4);
    assert!(pids.iter().all(|pid| !runs(pid.as_u64().unwrap())));
    assert!(folder.0.join("longshore.toml").exists());
}

/// A demo at work, what it says from then on, and its workers' processes.
fn demo_at_work(folder: &Path) -> (Child, Lines<BufReader<ChildStderr>>, Vec<u64>) {
    let mut child = demo(folder)
        .args(["--tests", "20000"])
        .stdout(Stdio::null())
        .stderr(Stdio::piped())
        .spawn()
        .unwrap();
    let mut lines = BufReader::new(child.stderr.take().unwrap()).lines();
    let (mut pids, mut told) = (Vec::new(), String::new());
    // Ends with the demo, and so within its limit.
    for line in lines.by_ref() {
        let line = line.unwrap();
        told = format!("{told}\n{line}");
        if let Some((_, rest)) = line.split_once("(pid ") {
            pids.push(rest.split_once(')').unwrap().0.parse::<u64>().unwrap());
        }
        if line.contains("enqueued") {
            break;
        }
    }
    assert_eq!(pids.len(), 2, "{told}");
    assert!(pids.iter().all(|pid| runs(*pid)), "{told}");
    (child, lines, pids)
}

#[test]
fn an_interrupted_demo_ends_at_once_and_takes_its_workers_with_it() {
    let folder = Folder::new("demo-interrupted");
    let (mut child, lines, pids) = demo_at_work(&folder.0);
    kill_process(Pid::from_child(&child), Signal::INT).unwrap();
    let mut rest = String::new();
    lines.for_each(|line| rest.push_str(&line.unwrap()));
    assert_eq!(child.wait().unwrap().code(), Some(1), "{rest}");
    assert!(rest.contains("asked to stop"), "{rest}");
    assert!(!pids.iter().any(|pid| runs(*pid)), "{rest}");
}

#[test]
fn a_demo_that_is_killed_takes_its_workers_with_it() {
    let folder = Folder::new("demo-killed");
    let (mut child, _lines, pids) = demo_at_work(&folder.0);
    child.kill().unwrap();
    child.wait().unwrap();
    let deadline = Instant::now() + Duration::from_secs(10);
    while pids.iter().any(|pid| runs(*pid)) {
        assert!(Instant::now() < deadline, "{pids:?} run on");
        std::thread::yield_now();
    }
}

#[test]
fn a_demo_that_runs_out_of_time_says_what_was_outstanding_and_where_the_logs_are() {
    let folder = Folder::new("demo-late");
    let output = demo(&folder.0)
        .args(["--json", "--limit", "1s"])
        .output()
        .unwrap();
    let errors = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{errors}");
    assert!(output.stdout.is_empty());
    assert!(errors.contains("it waited for"), "{errors}");
    assert!(errors.contains(".log"), "{errors}");
}

#[test]
fn a_folder_with_a_store_is_left_alone() {
    let folder = Folder::new("demo-store");
    std::fs::write(folder.0.join("longshore.db"), "mine").unwrap();
    let output = demo(&folder.0).output().unwrap();
    assert_eq!(output.status.code(), Some(2));
    assert!(String::from_utf8_lossy(&output.stderr).contains("holds a store already"));
    assert_eq!(
        std::fs::read_to_string(folder.0.join("longshore.db")).unwrap(),
        "mine"
    );
    assert_eq!(std::fs::read_dir(&folder.0).unwrap().count(), 1);
}
