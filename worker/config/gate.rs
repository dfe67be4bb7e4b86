//! `[gates]`: what is done with the entries of a gate, and how it works.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use serde::Serialize;

use super::pool::Routes;
use super::problem::{Wrong, suggestion};
use super::quantity::serialize_duration;
use super::reading::Reading;
use super::section::Section;
use crate::gate::{self, OnUnverified, OnVerifyFailure, Settings, Spec, Step, Window};

const MEND_NAME: &str = "write a name of 1 to 128 bytes, without /";

/// A gate.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Gate {
    /// What entries behind one that is held do: `speculate` (default) or `wait`.
    pub on_unverified: OnUnverified,
    /// What a publication that cannot be verified leads to: `hold` (default) or `revert`.
    pub on_verify_failure: OnVerifyFailure,
    /// Whether the other tests of an entry go on when one has failed that decides. Default: no.
    pub run_all_tests: bool,
    /// Whether an entry that has not begun is dropped when a newer one comes. Default: no.
    pub newest_only: bool,
    /// How often a publication that was found absent is made again, 0 to 1000. Default 2.
    pub republish: u32,
    /// After so long one that is published or verified is alarmed, 1 s to 30 days. Default 1 h.
    #[serde(serialize_with = "serialize_duration")]
    pub overdue: Duration,
    /// How many entries are tested at once.
    pub window: Window,
    /// What makes an entry public.
    pub publish: Step,
    /// What looks whether it is public. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verify: Option<Step>,
    /// What finds out what a publication did that did not say so. Default: nothing, and the entry is held.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Step>,
    /// What takes a publication back. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revert: Option<Step>,
    /// What is told how an entry ended. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub report: Option<Step>,
    /// What an entry has to pass, by name. Default: nothing.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tests: BTreeMap<String, Test>,
}

/// A test of a gate's entries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Test {
    /// Whether it decides. Default: yes.
    pub voting: bool,
    /// Tests that have to pass before it begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Tests that have to be over before it begins.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub after_any: Vec<String>,
    /// What its result stands for.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
    /// What it waits for in entries ahead.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
    /// What runs.
    #[serde(flatten)]
    pub step: Step,
}

impl Gate {
    /// How it works.
    pub fn settings(&self) -> Settings {
        Settings {
            window: self.window.clone(),
            on_unverified: self.on_unverified,
            on_verify_failure: self.on_verify_failure,
            run_all_tests: self.run_all_tests,
            newest_only: self.newest_only,
            republish: Some(self.republish),
            overdue_s: Some(u32::try_from(self.overdue.as_secs()).unwrap_or(u32::MAX)),
        }
    }

    /// What is done with each entry.
    pub fn spec(&self) -> Spec {
        let (order, _) = order(&self.tests);
        let test = |key: &String| {
            let test = self.tests.get(key)?;
            Some(gate::Test {
                key: key.clone(),
                step: test.step.clone(),
                voting: test.voting,
                after: test.after.clone(),
                after_any: test.after_any.clone(),
                provides: test.provides.clone(),
                requires: test.requires.clone(),
            })
        };
        Spec {
            tests: order.iter().filter_map(test).collect(),
            publish: self.publish.clone(),
            verify: self.verify.clone(),
            probe: self.probe.clone(),
            revert: self.revert.clone(),
            report: self.report.clone(),
        }
    }

    /// The gates below `[gates]`.
    pub(super) fn read_all(section: &mut Section<'_>, routes: &Routes) -> BTreeMap<String, Self> {
        let names = section.names();
        for name in names.iter().filter(|name| !gate::is_name(name)) {
            section.wrong(name, None, Wrong::new("no name of a gate", MEND_NAME));
        }
        let read = section.tables(|name, section| Self::read(name, section, routes));
        let read = read.into_iter();
        read.filter_map(|(name, gate)| Some((name, gate?)))
            .collect()
    }

    fn read(name: &str, section: &mut Section<'_>, routes: &Routes) -> Option<Self> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        const HOUR: Duration = Duration::from_secs(3600);
        let unverified = [
            ("speculate", OnUnverified::Speculate),
            ("wait", OnUnverified::Wait),
        ];
        let failure = [
            ("hold", OnVerifyFailure::Hold),
            ("revert", OnVerifyFailure::Revert),
        ];
        let publish = step(section, "publish", routes);
        let of_publish = ["gates", name, "publish", "task"];
        if publish.is_none()
            && section.is_sound("publish")
            && section.reading().is_sound(&of_publish)
        {
            let wrong = Wrong::new("missing", r#"write publish = "the.task""#);
            section.wrong("publish", None, wrong);
        }
        let gate = Self {
            on_unverified: section
                .choice("on_unverified", &unverified)
                .unwrap_or_default(),
            on_verify_failure: section
                .choice("on_verify_failure", &failure)
                .unwrap_or_default(),
            run_all_tests: section.flag("run_all_tests", false),
            newest_only: section.flag("newest_only", false),
            republish: section.count("republish", 0..=1000, 2),
            overdue: section.duration("overdue", Duration::from_secs(1)..=30 * DAY, HOUR),
            window: window(section),
            publish: publish.clone().unwrap_or_default(),
            verify: step(section, "verify", routes),
            probe: step(section, "probe", routes),
            revert: step(section, "revert", routes),
            report: step(section, "report", routes),
            tests: Test::read_all(section, routes),
        };
        if gate.on_verify_failure == OnVerifyFailure::Revert
            && gate.revert.is_none()
            && section.is_sound("revert")
        {
            let wrong = Wrong::new(
                "nothing says how a publication is taken back",
                r#"write revert = "the.task", or on_verify_failure = "hold""#,
            );
            section.wrong("on_verify_failure", Some(r#""revert""#.into()), wrong);
        }
        check(name, &gate.tests, section.reading());
        publish.map(|_| gate)
    }
}

impl Test {
    fn new(step: Step) -> Self {
        Self {
            voting: true,
            after: Vec::new(),
            after_any: Vec::new(),
            provides: Vec::new(),
            requires: Vec::new(),
            step,
        }
    }

    /// A table of them by their names, or a list of tasks whose names are theirs.
    fn read_all(section: &mut Section<'_>, routes: &Routes) -> BTreeMap<String, Self> {
        if !section.is_table("tests") {
            let tasks = section.list("tests").unwrap_or_default();
            for task in tasks.iter().filter(|task| !gate::is_name(task)) {
                let wrong = Wrong::new("no name of a test", MEND_NAME);
                section.wrong("tests", Some(format!("{task:?}")), wrong);
            }
            let test = |task: String| (task.clone(), Self::new(on_its_queue(task, routes)));
            return tasks.into_iter().map(test).collect();
        }
        section.table("tests", |section| {
            let names = section.names();
            for name in names.iter().filter(|name| !gate::is_name(name)) {
                section.wrong(name, None, Wrong::new("no name of a test", MEND_NAME));
            }
            section.tables(|_, section| Self::read(section, &names, routes))
        })
    }

    fn read(section: &mut Section<'_>, names: &[String], routes: &Routes) -> Self {
        let known: Vec<&str> = names.iter().map(String::as_str).collect();
        let others = |section: &mut Section<'_>, key| {
            let others = section.list(key).unwrap_or_default();
            for other in others.iter().filter(|name| !names.contains(name)) {
                let wrong = Wrong::new("no test of this gate", suggestion(other, &known));
                section.wrong(key, Some(format!("{other:?}")), wrong);
            }
            others
        };
        Self {
            voting: section.flag("voting", true),
            after: others(section, "after"),
            after_any: others(section, "after_any"),
            provides: section.list("provides").unwrap_or_default(),
            requires: section.list("requires").unwrap_or_default(),
            step: table_step(section, routes).unwrap_or_default(),
        }
    }
}

/// What the tests of a gate say of one another.
fn check(gate: &str, tests: &BTreeMap<String, Test>, reading: &Reading<'_>) {
    let provided: BTreeSet<&str> = tests
        .values()
        .flat_map(|test| test.provides.iter().map(String::as_str))
        .collect();
    let known: Vec<&str> = provided.iter().copied().collect();
    for (key, test) in tests {
        let requires = test.requires.iter().map(String::as_str);
        for name in requires.filter(|name| !provided.contains(name)) {
            let wrong = Wrong::new("no test of this gate provides it", suggestion(name, &known));
            let path = ["gates", gate, "tests", key.as_str(), "requires"];
            reading.wrong(&path, Some(format!("{name:?}")), wrong);
        }
    }
    let (_, circle) = order(tests);
    let is_sound = |key: &&String| {
        let sound = |what| reading.is_sound(&["gates", gate, "tests", key.as_str(), what]);
        sound("after") && sound("after_any")
    };
    if !circle.is_empty() && tests.keys().all(|key| is_sound(&key)) {
        let circle = circle.join(", ");
        let wrong = Wrong::new(
            format!("these wait for one another, so none would ever begin: {circle}"),
            "take one out of after or after_any",
        );
        reading.wrong(&["gates", gate, "tests"], None, wrong);
    }
}

/// The names of tests, those that others wait for first; and those that wait for one another.
fn order(tests: &BTreeMap<String, Test>) -> (Vec<String>, Vec<String>) {
    let mut left: Vec<&String> = tests.keys().collect();
    let mut order: Vec<String> = Vec::new();
    let stands = |key: &String, order: &[String]| {
        let after = |test: &Test| {
            let mut before = test.after.iter().chain(&test.after_any);
            before.all(|name| order.contains(name))
        };
        tests.get(key).is_some_and(after)
    };
    while let Some(at) = left.iter().position(|key| stands(key, &order)) {
        order.push(left.remove(at).clone());
    }
    (order, left.into_iter().cloned().collect())
}

/// A task by its name, or a table that says more of it.
fn step(section: &mut Section<'_>, key: &'static str, routes: &Routes) -> Option<Step> {
    if section.is_table(key) {
        section.table(key, |section| table_step(section, routes))
    } else {
        let task = section.text(key)?;
        Some(on_its_queue(task, routes))
    }
}

fn table_step(section: &mut Section<'_>, routes: &Routes) -> Option<Step> {
    let task = section.text("task");
    let queue = section.text("queue");
    let kwargs = section.table("kwargs", |section| section.json());
    if task.is_none() && section.is_sound("task") {
        let wrong = Wrong::new("missing", r#"write task = "the.task""#);
        section.wrong("task", None, wrong);
    }
    if kwargs.contains_key("gate") {
        let wrong = Wrong::new("this is what a gate tells its tasks", "choose another name");
        section.wrong("kwargs", None, wrong);
    }
    let step = on_its_queue(task?, routes);
    Some(Step {
        queue: queue.unwrap_or(step.queue),
        kwargs: kwargs.into_iter().collect(),
        task: step.task,
    })
}

fn on_its_queue(task: String, routes: &Routes) -> Step {
    Step {
        queue: routes.get(&task).to_owned(),
        task,
        ..Step::default()
    }
}

/// A number that stays, or a table of how it grows and shrinks.
fn window(section: &mut Section<'_>) -> Window {
    const MOST: u32 = 100_000;
    let default = Window::default();
    if !section.is_table("window") {
        return match section.optional_count("window", 0..=MOST) {
            None => default,
            Some(0) => Window {
                start: 0,
                ..default
            },
            Some(size) => Window::fixed(size),
        };
    }
    section.table("window", |section| {
        let window = Window {
            start: section.count("start", 0..=MOST, default.start),
            floor: section.count("floor", 1..=MOST, default.floor),
            ceiling: section.optional_count("ceiling", 1..=MOST),
            increase: section.count("increase", 0..=MOST, default.increase),
            decrease: section.count("decrease", 1..=MOST, default.decrease),
        };
        let ceiling = window.ceiling.unwrap_or(u32::MAX);
        if window.floor > ceiling && section.is_sound("ceiling") && section.is_sound("floor") {
            let wrong = Wrong::new(
                format!("less than floor ({})", window.floor),
                "raise it, or lower floor",
            );
            section.wrong("ceiling", Some(ceiling.to_string()), wrong);
        } else if section.is_written("start")
            && window.start != 0
            && !(window.floor..=ceiling).contains(&window.start)
        {
            let wrong = Wrong::new(
                format!("not between floor ({}) and ceiling", window.floor),
                "begin within them; 0 is no limit",
            );
            section.wrong("start", Some(window.start.to_string()), wrong);
        }
        window
    })
}
