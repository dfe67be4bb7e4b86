//! Those whom a gate works with: workers that end its tasks as the history says, the place where entries are published, and an
//! operator who looks there before he decides.

use std::collections::{BTreeMap, HashMap, HashSet};

use proptest::prelude::*;
use serde_json::{Value, json};

use super::observer::Observer;
use crate::clock::Millis;
use crate::gate::{
    Effects, Fact, Gate, NewEntry, OnUnverified, OnVerifyFailure, Settings, Spec, State, Step,
    Test, Verb, Window,
};
use crate::id::TaskId;
use crate::task::Task;

/// The gate's name.
pub(super) const GATE: &str = "g";
/// How many shapes of entries there are.
pub(super) const SHAPES: usize = 7;

/// An entry to be enqueued. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub(super) struct Make {
    pub(super) needs: Vec<usize>,
    pub(super) change: Option<u8>,
    pub(super) shape: usize,
    /// It is none that is new.
    pub(super) again: Option<usize>,
}

/// How a task ends, and what it has done by then.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    Done,
    Failed,
    /// Nobody hears of its end.
    Unknown,
    /// It says something that nobody understands.
    Babbles,
}

/// What of an entry is to be seen where entries are published.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) enum Seen {
    #[default]
    Absent,
    Partial,
    Done,
}

#[derive(Debug, Clone)]
pub(super) enum Move {
    Enqueue(Vec<Make>),
    /// A task ends: perhaps one that nobody wants any more.
    End(usize, End, Seen),
    /// The same, and nobody looks at it yet.
    Quietly(usize, End, Seen),
    /// A task that has ended is said to have ended otherwise.
    Again(usize, End),
    /// The gate is written down and read.
    Restart,
    Dequeue(usize),
    Promote(usize),
    Hold,
    Release,
    Retry(Seen),
    Accept,
    Revert,
    Settings(usize),
    /// Nothing has happened, and somebody looks.
    Look,
}

pub(super) fn one_of<T>(of: &[T], which: usize) -> Option<&T> {
    (!of.is_empty()).then(|| &of[which % of.len()])
}

/// Different enough to reach all of a gate.
pub(super) fn settings(which: usize) -> Settings {
    let window = match which % 4 {
        0 => Window::default(),
        1 => Window::fixed(2),
        2 => Window {
            start: 0,
            ..Window::default()
        },
        _ => Window {
            start: 4,
            floor: 1,
            ceiling: Some(5),
            increase: 1,
            decrease: 2,
        },
    };
    Settings {
        window,
        on_unverified: match which / 4 % 2 {
            0 => OnUnverified::Speculate,
            _ => OnUnverified::Wait,
        },
        on_verify_failure: match which / 8 % 2 {
            0 => OnVerifyFailure::Hold,
            _ => OnVerifyFailure::Revert,
        },
        run_all_tests: which / 16 % 2 == 1,
        newest_only: which % 11 == 10,
        republish: Some(1),
        overdue_s: Some(5),
    }
}

fn step(name: &str) -> Step {
    Step {
        task: name.into(),
        queue: "work".into(),
        ..Step::default()
    }
}

fn test(key: &str, voting: bool) -> Test {
    Test {
        key: key.into(),
        step: step(key),
        voting,
        after: Vec::new(),
        after_any: Vec::new(),
        provides: Vec::new(),
        requires: Vec::new(),
    }
}

fn spec(shape: usize) -> Spec {
    let words = |words: &[&str]| words.iter().map(|&word| word.to_owned()).collect();
    let build = |voting| Test {
        provides: words(&["package"]),
        ..test("build", voting)
    };
    let install = Test {
        requires: words(&["package"]),
        after: words(&["build"]),
        ..test("install", true)
    };
    let late = Test {
        after_any: words(&["lint"]),
        ..test("late", true)
    };
    let whole = Spec {
        tests: vec![test("unit", true)],
        publish: step("publish"),
        verify: Some(step("verify")),
        probe: Some(step("probe")),
        revert: Some(step("revert")),
        report: Some(step("report")),
    };
    match shape % SHAPES {
        0 => whole,
        1 => Spec {
            tests: vec![build(true), install],
            ..whole
        },
        2 => Spec {
            probe: None,
            verify: None,
            ..whole
        },
        3 => Spec {
            tests: vec![test("lint", false), test("unit", true), late],
            ..whole
        },
        4 => Spec {
            tests: Vec::new(),
            probe: None,
            ..whole
        },
        5 => Spec {
            tests: vec![build(false), test("unit", true)],
            revert: None,
            ..whole
        },
        _ => Spec {
            tests: vec![
                Test {
                    requires: words(&["package"]),
                    ..test("lint", false)
                },
                test("unit", true),
            ],
            report: None,
            ..whole
        },
    }
}

/// A task as its worker knows it.
#[derive(Debug)]
struct Play {
    task: Task,
    /// Which entry it is a part of, and what it does there.
    entry: String,
    what: String,
}

pub(super) struct World {
    pub(super) gate: Gate,
    settings: Settings,
    tasks: BTreeMap<String, Play>,
    /// Tasks that have not ended.
    pub(super) open: Vec<String>,
    facts: HashMap<TaskId, Fact>,
    /// What was said first.
    first: HashMap<TaskId, Fact>,
    /// What is to be seen of each entry.
    seen: HashMap<String, Seen>,
    over: HashMap<String, State>,
    made: Vec<String>,
    observer: Observer,
    now: Millis,
}

impl World {
    pub(super) fn new(which: usize) -> Self {
        let settings = settings(which);
        let gate = Gate::new(GATE, settings.clone());
        Self {
            observer: Observer::new(&settings),
            gate,
            settings,
            tasks: BTreeMap::new(),
            open: Vec::new(),
            facts: HashMap::new(),
            first: HashMap::new(),
            seen: HashMap::new(),
            over: HashMap::new(),
            made: Vec::new(),
            now: 0,
        }
    }

    pub(super) fn take(&mut self, next: Move) {
        self.now += 1000;
        match next {
            Move::Enqueue(makes) => self.enqueue(makes),
            Move::End(which, end, seen) => {
                self.ends(which, end, seen);
                self.look(None);
            }
            Move::Quietly(which, end, seen) => self.ends(which, end, seen),
            Move::Again(which, end) => self.again(which, end),
            Move::Restart => self.restart(),
            Move::Look => self.look(None),
            Move::Dequeue(which) => {
                if let Some(id) = self.live(which) {
                    self.look(Some(Verb::Dequeue(id)));
                }
            }
            Move::Promote(which) => {
                if let Some(id) = self.live(which) {
                    self.look(Some(Verb::Promote(id)));
                }
            }
            Move::Hold => self.look(Some(Verb::Hold("a freeze".into()))),
            Move::Release => self.look(Some(Verb::Release)),
            Move::Retry(seen) => self.decide(Verb::Retry, seen),
            Move::Accept => self.decide(Verb::Accept, Seen::Done),
            Move::Revert => self.decide(Verb::Revert, Seen::Absent),
            Move::Settings(which) => {
                self.settings = settings(which);
                self.look(Some(Verb::Enqueue(self.settings.clone(), Vec::new())));
            }
        }
    }

    fn live(&self, which: usize) -> Option<String> {
        one_of(&self.gate.entries, which).map(|entry| entry.id().to_owned())
    }

    fn enqueue(&mut self, makes: Vec<Make>) {
        let mut new = Vec::new();
        for make in makes {
            let id = match make.again.and_then(|which| one_of(&self.made, which)) {
                Some(old) => old.clone(),
                None => format!("e{}", self.made.len()),
            };
            let mut needs: Vec<String> = Vec::new();
            for which in make.needs {
                // Of the last ones, so that they are mostly still there.
                let last = &self.made[self.made.len().saturating_sub(5)..];
                let known = one_of(last, which).filter(|need| **need != id);
                needs.extend(known.filter(|need| !needs.contains(need)).cloned());
            }
            if !self.made.contains(&id) {
                self.made.push(id.clone());
            }
            new.push(NewEntry {
                id,
                change: make.change.map(|change| format!("change-{change}")),
                needs,
                spec: spec(make.shape),
                ..NewEntry::default()
            });
        }
        new.dedup_by(|one, other| one.id == other.id);
        self.look(Some(Verb::Enqueue(self.settings.clone(), new)));
    }

    /// The operator decides about an entry that is held, and sees to what he says.
    fn decide(&mut self, verb: Verb, cleans: Seen) {
        let head = self.gate.entries.first();
        if let Some(head) = head
            && head.state == State::Held
        {
            let seen = self.seen.entry(head.id().to_owned()).or_default();
            let spec = &head.new.spec;
            match verb {
                // Without a probe he answers for that nothing is there; with one it tells what he has left there.
                Verb::Retry
                    if spec.probe.is_none() && head.doubt != Some(super::Doubt::Unverified) =>
                {
                    *seen = Seen::Absent;
                }
                Verb::Retry if *seen == Seen::Partial => *seen = cleans,
                Verb::Accept => *seen = Seen::Done,
                Verb::Revert if spec.revert.is_none() => *seen = Seen::Absent,
                Verb::Enqueue(..)
                | Verb::Dequeue(_)
                | Verb::Promote(_)
                | Verb::Hold(_)
                | Verb::Release
                | Verb::Retry
                | Verb::Revert => {}
            }
        }
        self.look(Some(verb));
    }

    fn ends(&mut self, which: usize, end: End, seen: Seen) {
        let Some(id) = one_of(&self.open, which).cloned() else {
            return;
        };
        self.open.retain(|open| *open != id);
        let play = &self.tasks[&id];
        let there = self.seen.entry(play.entry.clone()).or_default();
        let failed = || Fact::Failed(format!("{id} failed"));
        let unknown = || Fact::Unknown(format!("{id} died"));
        let has_probe = play.entry_has_probe(&self.gate);
        let fact = match (play.what.as_str(), end) {
            ("publish", end) => {
                assert_ne!(*there, Seen::Done, "G9: {id} publishes what is published");
                let (now, fact) = match end {
                    End::Done | End::Babbles => (Seen::Done, Fact::Done(Value::Null)),
                    // What says that it failed may have done something nevertheless; so there are probes.
                    End::Failed if has_probe => (seen, failed()),
                    End::Failed => (Seen::Absent, failed()),
                    End::Unknown => (seen, unknown()),
                };
                *there = now;
                fact
            }
            ("revert", end) => {
                let (now, fact) = match end {
                    End::Done | End::Babbles => (Seen::Absent, Fact::Done(Value::Null)),
                    End::Failed => (*there, failed()),
                    End::Unknown => (seen, unknown()),
                };
                *there = now;
                fact
            }
            ("probe", End::Done) => Fact::Done(json!({ "effect": there.word() })),
            ("probe", End::Babbles) => Fact::Done(json!("perhaps")),
            (_, End::Done | End::Babbles) => Fact::Done(json!({ "by": id })),
            (_, End::Failed) => failed(),
            (_, End::Unknown) => unknown(),
        };
        self.first.insert(TaskId::new(&id), fact.clone());
        self.facts.insert(TaskId::new(id), fact);
    }

    /// Only what nobody waits for any more can be said to have ended otherwise.
    fn again(&mut self, which: usize, end: End) {
        self.look(None);
        let awaited: HashSet<TaskId> = self.gate.awaited().into_iter().collect();
        let mut over: Vec<TaskId> = self.facts.keys().cloned().collect();
        over.retain(|id| !awaited.contains(id));
        over.sort_by(|one, other| one.as_str().cmp(other.as_str()));
        if let Some(id) = one_of(&over, which) {
            let fact = match end {
                End::Done | End::Babbles => Fact::Done(json!("absent")),
                End::Failed => Fact::Failed("late".into()),
                End::Unknown => Fact::Unknown("late".into()),
            };
            self.facts.insert(id.clone(), fact);
            let before = self.gate.clone();
            self.look(None);
            self.gate.ended.clone_from(&before.ended);
            assert_eq!(self.gate, before, "G3: what is late has no effect");
        }
    }

    /// As the store does it.
    fn restart(&mut self) {
        let state = serde_json::to_string(&self.gate).unwrap();
        let mut read: Gate = serde_json::from_str(&state).unwrap();
        GATE.clone_into(&mut read.name);
        for entry in &self.gate.entries {
            let text = serde_json::to_string(entry).unwrap();
            read.entries.push(serde_json::from_str(&text).unwrap());
        }
        self.gate.ended.clear();
        assert_eq!(read, self.gate, "G15: what is read is what was written");
        self.gate = read;
    }

    /// A verb, and what follows from everything so far.
    fn look(&mut self, verb: Option<Verb>) {
        let mut gate = self.gate.clone();
        gate.ended.clear();
        let mut effects = Effects::default();
        let mut asked = None;
        if let Some(verb) = verb {
            let known = &self.over;
            if gate
                .ask(verb.clone(), known, self.now, &mut effects)
                .is_err()
            {
                return;
            }
            asked = Some((
                verb,
                gate.entries
                    .iter()
                    .map(|entry| entry.id().to_owned())
                    .collect::<Vec<_>>(),
            ));
        }
        let more = gate.step(&self.facts, self.now);
        effects.enqueue.extend(more.enqueue);
        effects.cancel.extend(more.cancel);
        effects.ended.extend(more.ended);
        self.observer.looks(
            &self.gate,
            asked.as_ref(),
            &gate,
            &effects,
            &self.first,
            self.now,
        );
        let before = gate.clone();
        let nothing = gate.step(&self.facts, self.now);
        assert_eq!(gate, before, "asked again, it is the same");
        assert!(
            nothing.enqueue.is_empty() && nothing.cancel.is_empty() && nothing.ended.is_empty()
        );
        self.gate = gate;
        for entry in &self.gate.ended {
            self.over.insert(entry.id().to_owned(), entry.state);
        }
        for task in effects.enqueue {
            let id = task.id.to_string();
            let parts: Vec<&str> = id.split('/').collect();
            let what = match parts[3..] {
                [role, _] if role.parse::<u32>().is_err() => role,
                ["report"] => "report",
                _ => "test",
            };
            let (entry, what) = (parts[2].to_owned(), what.to_owned());
            self.open.push(id.clone());
            self.tasks.insert(id, Play { task, entry, what });
        }
        self.moves_on();
    }

    /// Whoever waits, waits for a task that is there, or for somebody to decide.
    fn moves_on(&self) {
        let awaited = self.gate.awaited();
        for id in &awaited {
            assert!(
                self.open.iter().any(|open| open == id.as_str()),
                "G7: nobody runs {id}"
            );
        }
        let Some(head) = self.gate.entries.first() else {
            return;
        };
        let decides =
            head.state == State::Held || self.gate.hold.is_some() && head.state == State::Ready;
        assert!(
            decides || !awaited.is_empty(),
            "G7: it waits for nothing: {:?}",
            self.gate.entries
        );
    }

    /// With one worker that does what it should, and an operator who decides, everything ends.
    pub(super) fn drains(&mut self) {
        self.now += 1000;
        self.look(None);
        for round in 0_usize.. {
            assert!(round < 10_000, "G7: it never ends: {:?}", self.gate.entries);
            if self.gate.hold.is_some() {
                self.take(Move::Release);
            }
            let head = self.gate.entries.first().map(|head| head.state);
            let next = match (head, round % 3) {
                (None, _) if self.open.is_empty() => break,
                (Some(State::Held), 0) => Move::Retry(Seen::Absent),
                (Some(State::Held), 1) => Move::Revert,
                (Some(State::Held), _) => Move::Accept,
                _ => Move::End(0, End::Done, Seen::Done),
            };
            self.take(next);
        }
        self.observer.is_over(&self.over, &self.seen);
        let reported = self.tasks.values().filter(|play| play.what == "report");
        for Play { task, entry, .. } in reported {
            let told = &task.kwargs["gate"]["outcome"];
            assert_eq!(told, self.over[entry].as_str(), "G13: {entry}");
        }
    }
}

impl Play {
    fn entry_has_probe(&self, gate: &Gate) -> bool {
        let entry = gate.entry(&self.entry);
        entry.is_some_and(|entry| entry.new.spec.probe.is_some())
    }
}

impl Seen {
    fn word(self) -> &'static str {
        match self {
            Self::Absent => "absent",
            Self::Partial => "partial",
            Self::Done => "done",
        }
    }
}

fn make() -> impl Strategy<Value = Make> {
    let needs = prop_oneof![3 => Just(0), 1 => Just(1), 1 => Just(2)]
        .prop_flat_map(|most| prop::collection::vec(any::<usize>(), most));
    let change = prop::option::weighted(0.2, 0..3_u8);
    let again = prop::option::weighted(0.05, any::<usize>());
    (needs, change, 0..SHAPES, again).prop_map(|(needs, change, shape, again)| Make {
        needs,
        change,
        shape,
        again,
    })
}

fn seen() -> impl Strategy<Value = Seen> + Clone {
    prop_oneof![Just(Seen::Absent), Just(Seen::Partial), Just(Seen::Done)]
}

pub(super) fn some_move() -> impl Strategy<Value = Move> {
    let which = any::<usize>();
    let end = prop_oneof![14 => Just(End::Done), 5 => Just(End::Failed), 2 => Just(End::Unknown), 1 => Just(End::Babbles)];
    let ends = (which, end, seen());
    prop_oneof![
        8 => prop::collection::vec(make(), 1..5).prop_map(Move::Enqueue),
        40 => ends.clone().prop_map(|(which, end, seen)| Move::End(which, end, seen)),
        10 => ends.clone().prop_map(|(which, end, seen)| Move::Quietly(which, end, seen)),
        3 => ends.prop_map(|(which, end, _)| Move::Again(which, end)),
        5 => Just(Move::Restart),
        2 => which.prop_map(Move::Dequeue),
        3 => which.prop_map(Move::Promote),
        1 => Just(Move::Hold),
        3 => Just(Move::Release),
        2 => seen().prop_map(Move::Retry),
        1 => Just(Move::Accept),
        1 => Just(Move::Revert),
        2 => (0..32_usize).prop_map(Move::Settings),
        3 => Just(Move::Look),
    ]
}
