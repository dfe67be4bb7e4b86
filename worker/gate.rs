//! Gates: entries that are tested side by side, each on top of those ahead of it, and published one at a time, in order.
//!
//! Pure data and decisions, no I/O: a [`Gate`] is what the store has of one, [`Gate::step`] says what follows from how its tasks
//! ended, and the store writes that under the gate's revision ([`crate::store::Store::gate`]). A gate is never kept in
//! memory between two looks, never publishes two entries at once, and never repeats a publication of which it does not know what it did.
//!
//! ```text
//! QUEUED ─in the window→ SPECULATING (base: what was published, and who is ahead and does not fail)
//! SPECULATING ─all voting tests passed→ READY ─first, base as published→ PUBLISHING ─done→ VERIFYING ─passed→ PUBLISHED
//! SPECULATING ─a voting test failed→ FAILING ─first, base as published→ FAILED
//! SPECULATING, READY, FAILING ─another base→ QUEUED, with the next generation of tests
//! PUBLISHING ─failed→ FAILED; ─unknown→ PROBING → PUBLISHING, VERIFYING or HELD
//! VERIFYING ─failed→ HELD ─by hand→ VERIFYING, REVERTING → FAILED, or PUBLISHED
//! before PUBLISHING ─dequeued, or what it needs has failed→ CANCELED
//! ```

mod plan;
mod verbs;
mod waits;

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::clock::Millis;
use crate::id::TaskId;
use crate::task::Task;

pub use verbs::{Refused, Verb};
pub use waits::read;

/// What the ids of all tasks of gates begin with.
const PREFIX: &str = "gate/";
/// Longest name of a gate and of an entry in bytes.
const LONGEST: usize = 128;

/// Whether a gate, an entry or a test may be called so: names are parts of the ids of tasks.
pub fn is_name(name: &str) -> bool {
    !name.is_empty() && name.len() <= LONGEST && !name.contains(['/', '\0'])
}

/// How a gate works. Kept with it: each enqueue brings what its configuration says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Settings {
    /// How many entries are tested at once.
    pub window: Window,
    /// What entries behind one that is held do.
    pub on_unverified: OnUnverified,
    /// What a publication that cannot be verified leads to.
    pub on_verify_failure: OnVerifyFailure,
    /// Whether the other tests of an entry go on when one has failed that decides. Default: they are canceled.
    pub run_all_tests: bool,
    /// Whether an entry that has not begun is dropped when a newer one comes.
    pub newest_only: bool,
    /// How often an entry whose publication was found absent is published again, before it is held; default 2.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub republish: Option<u32>,
    /// After how many seconds one that is published or verified counts as overdue; default an hour.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub overdue_s: Option<u32>,
}

/// How many entries, from the first on, run tests. It grows with each that is published and is divided by each that fails.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Window {
    /// What it begins with; 0: no limit.
    pub start: u32,
    /// What it never goes below.
    pub floor: u32,
    /// What it never goes above.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ceiling: Option<u32>,
    /// What each publication adds.
    pub increase: u32,
    /// What each failure divides it by.
    pub decrease: u32,
}

impl Default for Window {
    fn default() -> Self {
        Self {
            start: 20,
            floor: 3,
            ceiling: None,
            increase: 1,
            decrease: 2,
        }
    }
}

impl Window {
    /// One that stays as it is.
    pub fn fixed(size: u32) -> Self {
        Self {
            start: size,
            floor: size,
            ceiling: Some(size),
            increase: 0,
            decrease: 1,
        }
    }

    fn is_fixed(&self) -> bool {
        self.increase == 0 && self.decrease <= 1
    }

    fn clamp(&self, size: u32) -> u32 {
        if self.start == 0 {
            return 0;
        }
        let ceiling = self.ceiling.unwrap_or(u32::MAX).max(1);
        size.clamp(self.floor.clamp(1, ceiling), ceiling)
    }
}

/// What entries behind one that is held do.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnUnverified {
    /// They are tested on top of it; none is published.
    #[default]
    Speculate,
    /// They begin no more tests.
    Wait,
}

/// What a publication that cannot be verified leads to.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnVerifyFailure {
    /// The entry is held until somebody decides.
    #[default]
    Hold,
    /// It is taken back, and has failed.
    Revert,
}

/// A task that belongs to each entry.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Step {
    /// Which handler runs it.
    pub task: String,
    /// The queue it goes to.
    pub queue: String,
    /// Named arguments, beside the entry's.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub kwargs: Map<String, Value>,
}

/// A test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Test {
    /// Its name within the gate.
    pub key: String,
    /// What runs.
    pub step: Step,
    /// Whether it decides.
    pub voting: bool,
    /// Tests of the same entry that have to pass before it begins.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<String>,
    /// Tests of the same entry that have to be over before it begins, however they end.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after_any: Vec<String>,
    /// What its result stands for, to tests of entries behind that require it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub provides: Vec<String>,
    /// What it waits for in entries ahead, and gets the results of.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub requires: Vec<String>,
}

/// What is done with an entry; fixed when it is enqueued.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// What it has to pass, side by side but for what waits for another.
    pub tests: Vec<Test>,
    /// What makes it public.
    pub publish: Step,
    /// What looks whether it is public.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub verify: Option<Step>,
    /// What finds out what a publication did that did not say so: its result is `absent`, `partial` or `done`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub probe: Option<Step>,
    /// What takes a publication back.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub revert: Option<Step>,
    /// What is told how it ended, once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub report: Option<Step>,
}

/// An entry as it is enqueued.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct NewEntry {
    /// Unique in the gate: the same id is the same entry.
    pub id: String,
    /// What it is a version of: a newer one of the same takes its place at the end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub change: Option<String>,
    /// Named arguments of all its tasks.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub kwargs: Map<String, Value>,
    /// Entries that have to be published before it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub needs: Vec<String>,
    /// What is done with it.
    pub spec: Spec,
}

/// Where an entry stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "the module's head says what leads to each")]
pub enum State {
    Queued,
    Speculating,
    Failing,
    Ready,
    Publishing,
    Probing,
    Verifying,
    Held,
    Reverting,
    Published,
    Failed,
    Canceled,
}

impl State {
    /// As it is written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Speculating => "speculating",
            Self::Failing => "failing",
            Self::Ready => "ready",
            Self::Publishing => "publishing",
            Self::Probing => "probing",
            Self::Verifying => "verifying",
            Self::Held => "held",
            Self::Reverting => "reverting",
            Self::Published => "published",
            Self::Failed => "failed",
            Self::Canceled => "canceled",
        }
    }

    /// Whether it is over.
    pub fn is_end(self) -> bool {
        matches!(self, Self::Published | Self::Failed | Self::Canceled)
    }

    /// Whether its publication has begun, so that nothing but its own outcome ends it.
    pub fn is_committed(self) -> bool {
        matches!(
            self,
            Self::Publishing | Self::Probing | Self::Verifying | Self::Held | Self::Reverting
        )
    }

    /// Whether its tests decide about it.
    fn is_tested(self) -> bool {
        matches!(self, Self::Speculating | Self::Ready | Self::Failing)
    }
}

/// Why an entry is held.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Doubt {
    /// Nobody knows whether it was published.
    Unknown,
    /// It was published in part.
    Partial,
    /// It was published and could not be verified.
    Unverified,
}

/// An entry in a generation: what others were tested on.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct BaseRef {
    /// Which.
    pub entry: String,
    /// With which of its generations.
    pub generation: u32,
}

/// How a test of the entry's generation stands.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has a task.
    Running,
    /// It did what it should, with this result.
    Passed(Value),
    /// It did not, for this reason.
    Failed(String),
}

/// An entry of a gate.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Entry {
    /// As it was enqueued; of what it needs, what is not published yet.
    #[serde(flatten)]
    pub new: NewEntry,
    /// Where it stands.
    pub state: State,
    /// Since when.
    pub since: Millis,
    /// When it was enqueued.
    pub enqueued_at: Millis,
    /// Why, for people.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
    /// Which generation of its tests; 0 before the first.
    pub generation: u32,
    /// How many entries of the gate had been published when that began.
    pub published_before: u64,
    /// Who was ahead then and did not fail: what it was tested on, beside what was published.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub base: Vec<BaseRef>,
    /// The tests of that generation that have begun.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tests: BTreeMap<String, Standing>,
    /// Tasks of each kind but tests so far, which number them: publications, probes, verifications, reverts.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub tries: BTreeMap<Role, u32>,
    /// How often it was found not to be published although it should have been, since somebody last looked.
    #[serde(default)]
    pub absent: u32,
    /// Why it is held.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub doubt: Option<Doubt>,
    /// How many had been published when it was, itself included.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub published: Option<u64>,
}

/// What a task of an entry is for, beside tests.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[expect(missing_docs, reason = "as the fields of a spec")]
pub enum Role {
    Publish,
    Probe,
    Verify,
    Revert,
}

impl Role {
    fn as_str(self) -> &'static str {
        match self {
            Self::Publish => "publish",
            Self::Probe => "probe",
            Self::Verify => "verify",
            Self::Revert => "revert",
        }
    }
}

/// How a task has ended, as far as one can know.
#[derive(Debug, Clone, PartialEq)]
pub enum Fact {
    /// It did what it should and returned this.
    Done(Value),
    /// It said that it failed.
    Failed(String),
    /// It began and nobody heard of its end.
    Unknown(String),
}

/// What a step leads to.
#[derive(Debug, Clone, Default)]
pub struct Effects {
    /// Tasks to be enqueued.
    pub enqueue: Vec<Task>,
    /// Tasks that are not wanted any more.
    pub cancel: Vec<TaskId>,
    /// Entries that have ended.
    pub ended: Vec<String>,
}

/// A gate: its entries that have not ended, in order, and what has been published since the oldest of their tests began.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub struct Gate {
    /// Its name.
    #[serde(skip)]
    pub name: String,
    /// How it works.
    pub settings: Settings,
    /// How many entries run tests now; 0: all.
    pub window: u32,
    /// Why nothing is to be published, and since when.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hold: Option<(String, Millis)>,
    /// How many entries have ever been published.
    pub published: u64,
    /// The last ones of them.
    pub tail: Vec<BaseRef>,
    /// Those that have not ended, in order.
    #[serde(skip)]
    pub entries: Vec<Entry>,
    /// Those that have ended in this step.
    #[serde(skip)]
    pub ended: Vec<Entry>,
}

/// A gate that somebody has to look at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Alarm {
    /// Which entry holds it up, if one does.
    pub entry: Option<String>,
    /// Since when.
    pub since: Millis,
    /// Why, for people.
    pub why: String,
}

impl Entry {
    fn new(new: NewEntry, now: Millis) -> Self {
        Self {
            new,
            state: State::Queued,
            since: now,
            enqueued_at: now,
            reason: None,
            generation: 0,
            published_before: 0,
            base: Vec::new(),
            tests: BTreeMap::new(),
            tries: BTreeMap::new(),
            absent: 0,
            doubt: None,
            published: None,
        }
    }

    /// Its id.
    pub fn id(&self) -> &str {
        &self.new.id
    }

    fn at(&self) -> BaseRef {
        BaseRef {
            entry: self.new.id.clone(),
            generation: self.generation,
        }
    }

    fn set(&mut self, state: State, reason: Option<String>, now: Millis) {
        if self.state != state {
            self.since = now;
        }
        (self.state, self.reason) = (state, reason);
    }

    /// The task that its state waits for, if it is no test.
    fn role(&self) -> Option<Role> {
        match self.state {
            State::Publishing => Some(Role::Publish),
            State::Probing => Some(Role::Probe),
            State::Verifying => Some(Role::Verify),
            State::Reverting => Some(Role::Revert),
            State::Queued
            | State::Speculating
            | State::Failing
            | State::Ready
            | State::Held
            | State::Published
            | State::Failed
            | State::Canceled => None,
        }
    }

    /// The tests that have a task which has not ended.
    fn running(&self) -> impl Iterator<Item = &str> {
        let tests = self.tests.iter();
        tests.filter_map(|(key, standing)| {
            matches!(standing, Standing::Running).then_some(key.as_str())
        })
    }
}

impl Gate {
    /// An empty one.
    pub fn new(name: impl Into<String>, settings: Settings) -> Self {
        Self {
            name: name.into(),
            window: settings.window.clamp(settings.window.start),
            settings,
            ..Self::default()
        }
    }

    /// The lane in which its entries are published.
    pub fn lane(&self) -> String {
        format!("{PREFIX}{}", self.name)
    }

    /// Of whose entry a task is a part.
    pub fn of_task(id: &str) -> Option<&str> {
        let rest = id.strip_prefix(PREFIX)?;
        rest.split_once('/').map(|(name, _)| name)
    }

    /// The entry called `id`, if it has not ended.
    pub fn entry(&self, id: &str) -> Option<&Entry> {
        self.entries.iter().find(|entry| entry.id() == id)
    }

    fn test_id(&self, entry: &Entry, key: &str) -> TaskId {
        let (name, id, generation) = (&self.name, entry.id(), entry.generation);
        TaskId::new(format!("{PREFIX}{name}/{id}/{generation}/{key}"))
    }

    fn role_id(&self, entry: &Entry, role: Role) -> TaskId {
        let number = entry.tries.get(&role).copied().unwrap_or_default();
        let (name, id, role) = (&self.name, entry.id(), role.as_str());
        TaskId::new(format!("{PREFIX}{name}/{id}/{role}/{number}"))
    }

    /// The tasks whose ends decide what follows.
    pub fn awaited(&self) -> Vec<TaskId> {
        let mut ids = Vec::new();
        for entry in &self.entries {
            ids.extend(entry.running().map(|key| self.test_id(entry, key)));
            ids.extend(entry.role().map(|role| self.role_id(entry, role)));
        }
        ids
    }

    /// What somebody has to look at.
    pub fn alarm(&self, now: Millis) -> Option<Alarm> {
        let head = self.entries.first();
        if let Some(head) = head
            && head.state == State::Held
        {
            return Some(Alarm {
                entry: Some(head.id().to_owned()),
                since: head.since,
                why: head.reason.clone().unwrap_or_default(),
            });
        }
        let overdue = i64::from(self.settings.overdue_s.unwrap_or(3600)) * 1000;
        if let Some(head) = head
            && head.state.is_committed()
            && now - head.since >= overdue
        {
            return Some(Alarm {
                entry: Some(head.id().to_owned()),
                since: head.since,
                why: format!("{} for longer than it should be", head.state.as_str()),
            });
        }
        let (why, since) = self.hold.clone()?;
        Some(Alarm {
            entry: None,
            since,
            why,
        })
    }
}

#[cfg(test)]
mod tests;
