//! The closed set of the store's commands, taken from its source, and which of them end in a test.

use std::collections::BTreeSet;

use super::{BY_HAND, EMBEDDED, ENQUEUE, TROUBLE, announcements, gates, given_back, lanes, sweeps};
use crate::layers::{code, sources};
use crate::{apt, bundle, crash};

/// Commands that need no test of their own, and why.
const EXCUSED: &[(&str, &str)] = &[
    (
        "squad_names",
        "it writes SQUAD's tables: tests/squad/test_many.py ends it",
    ),
    (
        "squad_swept",
        "it writes of test jobs of SQUAD: tests/squad/test_windows.py ends it",
    ),
    (
        "squad_unstick",
        "it writes SQUAD's tables: tests/squad/test_doctor.py ends it",
    ),
    (
        "squad_may_hold",
        "it writes nothing: a setting of its own transaction",
    ),
];

/// Points at which tests/squad-api/test_sink.py ends a worker: a SQUAD server must be there.
const SUBMISSIONS: &[&str] = &["submit:ready", "submit:sent"];

/// Every point at which some test ends a worker and has another one finish.
const TESTED: &[&[&str]] = &[
    crash::POINTS,
    crash::DRAIN_POINTS,
    TROUBLE,
    EMBEDDED,
    &ENQUEUE,
    &BY_HAND,
    announcements::RESCUE,
    announcements::RESCUED,
    announcements::LOST,
    announcements::REFUSED,
    announcements::PARKED,
    announcements::YIELDED,
    given_back::GIVEN_BACK,
    &lanes::PASSED_ON,
    &lanes::BY_HAND,
    &gates::PASSED_ON,
    sweeps::REPLACED,
    sweeps::GIVEN_UP,
    sweeps::ENDED,
    apt::UPLOAD_TO_DISK,
    apt::COMMIT,
    SUBMISSIONS,
    &bundle::POINTS,
];

fn tested() -> BTreeSet<&'static str> {
    let points = TESTED.iter().copied().flatten();
    points
        .map(|point| point.split('#').next().unwrap_or(point))
        .collect()
}

/// The first arguments of the calls of `function` in a text.
fn first_arguments<'a>(text: &'a str, function: &str) -> Vec<&'a str> {
    text.split(function)
        .skip(1)
        .map(|rest| rest.trim_start().split([',', ')']).next().unwrap_or(rest))
        .collect()
}

/// The names of the commands. All of them stand in the store: whatever runs one is private to it.
fn commands() -> BTreeSet<String> {
    let (mut names, mut passed_on) = (BTreeSet::new(), 0);
    for (file, text) in sources() {
        if file != "store.rs" && !file.starts_with("store/") {
            continue;
        }
        let text = code(&text).map(|(_, line)| line).collect::<Vec<_>>();
        let text = text.join("\n");
        for function in [
            ".command(",
            ".single(",
            ".fenced_ring(",
            ".announcing(",
            ".together(",
        ] {
            for argument in first_arguments(&text, function) {
                match argument.strip_prefix('"').and_then(|a| a.strip_suffix('"')) {
                    Some(name) => drop(names.insert(name.to_owned())),
                    None if argument == "name" => passed_on += 1,
                    None => panic!("worker/{file}: a command's name is no literal: {argument}"),
                }
            }
        }
    }
    assert_eq!(
        passed_on, 4,
        "`single`, `fenced_ring`, `announcing` and `once` pass a name on"
    );
    names
}

/// The named points between commands.
fn others() -> BTreeSet<String> {
    let sources = sources();
    let points = sources.values().flat_map(|text| {
        let text = code(text).map(|(_, line)| line).collect::<Vec<_>>();
        let text = text.join("\n");
        first_arguments(&text, "crash::point(")
            .into_iter()
            .filter_map(|point| point.strip_prefix('"')?.strip_suffix('"'))
            .map(str::to_owned)
            .collect::<Vec<_>>()
    });
    points.collect()
}

#[test]
fn every_command_ends_before_and_after_its_commit() {
    let (commands, tested) = (commands(), tested());
    assert!(
        commands.len() > 30,
        "the search has lost some: {commands:?}"
    );
    for (name, why) in EXCUSED {
        assert!(commands.contains(*name), "{name} is no command");
        assert!(!why.is_empty(), "{name} is excused without a reason");
    }
    let excused = |name: &str| EXCUSED.iter().any(|(excused, _)| *excused == name);
    let missing = commands
        .iter()
        .filter(|name| !excused(name))
        .flat_map(|name| [format!("{name}:before"), format!("{name}:after")])
        .filter(|point| !tested.contains(point.as_str()))
        .collect::<Vec<_>>();
    assert_eq!(missing, [""; 0], "no test ends a worker here");
}

#[test]
fn every_point_between_commands_is_tested_and_documented() {
    let (points, tested) = (others(), tested());
    let missing = points
        .iter()
        .filter(|point| !tested.contains(point.as_str()));
    assert_eq!(
        missing.collect::<Vec<_>>(),
        [""; 0],
        "no test ends a worker here"
    );
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/ARCHITECTURE.md")).unwrap();
    for point in points {
        assert!(text.contains(&format!("`{point}`")), "{point} is not there");
    }
}

#[test]
fn the_suite_beside_squad_names_its_points() {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/tests/squad-api/test_sink.py")).unwrap();
    for point in SUBMISSIONS {
        assert!(text.contains(&format!("\"{point}\"")), "{point}");
    }
}

#[test]
fn a_tested_point_is_one() {
    let (commands, others) = (commands(), others());
    for point in tested() {
        let of_command = point
            .strip_suffix(":before")
            .or_else(|| point.strip_suffix(":after"))
            .is_some_and(|name| commands.contains(name));
        assert!(of_command || others.contains(point), "{point} is nowhere");
    }
}

#[test]
fn the_architecture_names_every_command() {
    let root = env!("CARGO_MANIFEST_DIR");
    let text = std::fs::read_to_string(format!("{root}/ARCHITECTURE.md")).unwrap();
    let list = text.split("(its commit):").nth(1).unwrap();
    let list = list.split("Between them").next().unwrap();
    let named = list.split('`').skip(1).step_by(2);
    let named = named.flat_map(str::split_whitespace).map(str::to_owned);
    assert_eq!(named.collect::<BTreeSet<_>>(), commands());
}
