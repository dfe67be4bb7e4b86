//! What follows from how tasks ended: never from anything else, and the same again if it is asked again.

use std::collections::HashMap;

use serde_json::{Map, Value, json};

use super::{
    BaseRef, Doubt, Effects, Entry, Fact, Gate, OnUnverified, OnVerifyFailure, Role, Standing,
    State, Step, Test,
};
use crate::clock::Millis;
use crate::id::TaskId;
use crate::lane::{Lane, OnFailure};
use crate::task::Task;

/// How often a publication that was found absent is made again, if nobody says it.
const REPUBLISH: u32 = 2;

impl Gate {
    /// What follows from how tasks ended. Asked again with the same, it answers that nothing does.
    pub fn step(&mut self, facts: &HashMap<TaskId, Fact>, now: Millis) -> Effects {
        let mut effects = Effects::default();
        self.observe(facts);
        // Whoever leaves changes what the others stand on.
        while self.pass(facts, now, &mut effects) {}
        self.forget();
        effects
    }

    /// Takes down how tests ended.
    fn observe(&mut self, facts: &HashMap<TaskId, Fact>) {
        for at in 0..self.entries.len() {
            let running: Vec<String> = self.entries[at].running().map(str::to_owned).collect();
            for key in running {
                let id = self.test_id(&self.entries[at], &key);
                let standing = match facts.get(&id) {
                    Some(Fact::Done(result)) => Standing::Passed(result.clone()),
                    Some(Fact::Failed(why) | Fact::Unknown(why)) => Standing::Failed(why.clone()),
                    None => continue,
                };
                self.entries[at].tests.insert(key, standing);
            }
        }
    }

    /// Looks at each entry in order. Returns whether one has left, so that all are to be looked at again.
    fn pass(&mut self, facts: &HashMap<TaskId, Fact>, now: Millis, effects: &mut Effects) -> bool {
        let mut chain: Vec<BaseRef> = Vec::new();
        let mut held = false;
        for at in 0..self.entries.len() {
            if self.entries[at].state.is_committed() {
                self.settle(at, facts, now, effects);
                if self.entries[at].state.is_end() {
                    self.leave(at, effects, now);
                    return true;
                }
                held |= self.entries[at].state == State::Held;
                chain.push(self.entries[at].at());
                continue;
            }
            let stands = self.stands(at, &chain);
            let is_reset = self.entries[at].state.is_tested()
                && (!stands || self.seen(at, &chain) != self.entries[at].base);
            if is_reset {
                self.reset(at, "what it was tested on has changed", now, effects);
            }
            let waits = held && self.settings.on_unverified == OnUnverified::Wait;
            let is_inside = self.window == 0 || u32::try_from(at).is_ok_and(|at| at < self.window);
            if self.entries[at].state == State::Queued && stands && is_inside && !waits {
                let published = self.published;
                let entry = &mut self.entries[at];
                entry.generation += 1;
                (entry.published_before, entry.base) = (published, chain.clone());
                entry.set(State::Speculating, None, now);
            }
            if self.entries[at].state.is_tested() {
                // Of one that a smaller window has left outside, what runs may end, and nothing begins.
                if is_inside && !waits {
                    self.dispatch(at, now, effects);
                }
                self.judge(at, now, effects);
            }
            match self.entries[at].state {
                // With `run_all_tests` the others are waited for; else none is left by now.
                State::Failing if at == 0 && self.entries[at].running().next().is_none() => {
                    let reason = self.entries[at].reason.clone();
                    self.entries[at].set(State::Failed, reason, now);
                    self.leave(at, effects, now);
                    return true;
                }
                State::Ready if at == 0 && self.hold.is_none() => {
                    self.begin(at, Role::Publish, State::Publishing, now, effects);
                    chain.push(self.entries[at].at());
                }
                State::Speculating | State::Ready => chain.push(self.entries[at].at()),
                State::Queued
                | State::Failing
                | State::Publishing
                | State::Probing
                | State::Verifying
                | State::Held
                | State::Reverting
                | State::Published
                | State::Failed
                | State::Canceled => {}
            }
        }
        false
    }

    /// Whether all that an entry needs and that is still to come is in its base.
    fn stands(&self, at: usize, chain: &[BaseRef]) -> bool {
        let mut needs = self.entries[at].new.needs.iter();
        needs.all(|need| chain.iter().any(|ahead| ahead.entry == *need))
    }

    /// What an entry that was tested at that time would stand on now: what was published since, and who is ahead.
    fn seen(&self, at: usize, chain: &[BaseRef]) -> Vec<BaseRef> {
        let since = self.published - self.entries[at].published_before;
        let since = usize::try_from(since).unwrap_or(usize::MAX);
        let from = self.tail.len().saturating_sub(since);
        [&self.tail[from..], chain].concat()
    }

    /// Its tests are worth nothing any more.
    fn reset(&mut self, at: usize, why: &str, now: Millis, effects: &mut Effects) {
        self.cancel_tests(at, effects);
        let entry = &mut self.entries[at];
        entry.tests.clear();
        entry.base.clear();
        entry.set(State::Queued, Some(why.to_owned()), now);
    }

    pub(super) fn cancel_tests(&mut self, at: usize, effects: &mut Effects) {
        let entry = &self.entries[at];
        let running: Vec<TaskId> = entry
            .running()
            .map(|key| self.test_id(entry, key))
            .collect();
        // What this very step would have begun never begins.
        let (unborn, running): (Vec<_>, Vec<_>) = running
            .into_iter()
            .partition(|id| effects.enqueue.iter().any(|task| task.id == *id));
        effects.enqueue.retain(|task| !unborn.contains(&task.id));
        effects.cancel.extend(running);
    }

    /// Begins the tests that may begin.
    fn dispatch(&mut self, at: usize, now: Millis, effects: &mut Effects) {
        if self.entries[at].state == State::Failing && !self.settings.run_all_tests {
            return;
        }
        // One that fails unrun may be what another one waits for.
        loop {
            let mut moved = false;
            for index in 0..self.entries[at].new.spec.tests.len() {
                let test = self.entries[at].new.spec.tests[index].clone();
                if self.entries[at].tests.contains_key(&test.key) {
                    continue;
                }
                let standing = match self.may_begin(at, &test) {
                    May::Wait => continue,
                    May::Never(why) => Standing::Failed(why),
                    May::Begin(artifacts) => {
                        let entry = &self.entries[at];
                        let mut facts = self.told(entry);
                        facts.insert("test".into(), test.key.clone().into());
                        facts.insert("artifacts".into(), artifacts.into());
                        let id = self.test_id(entry, &test.key);
                        effects.enqueue.push(task(id, &test.step, entry, facts));
                        Standing::Running
                    }
                };
                self.entries[at].tests.insert(test.key, standing);
                moved = true;
            }
            if !moved {
                return;
            }
            self.judge(at, now, effects);
        }
    }

    fn may_begin(&self, at: usize, test: &Test) -> May {
        let entry = &self.entries[at];
        for key in &test.after {
            match entry.tests.get(key) {
                Some(Standing::Passed(_)) => {}
                Some(Standing::Failed(_)) => {
                    return May::Never(format!("not run: it is to run after {key}, which failed"));
                }
                Some(Standing::Running) | None => return May::Wait,
            }
        }
        for key in &test.after_any {
            match entry.tests.get(key) {
                Some(Standing::Passed(_) | Standing::Failed(_)) => {}
                Some(Standing::Running) | None => return May::Wait,
            }
        }
        let mut artifacts = Vec::new();
        for name in &test.requires {
            for ahead in &entry.base {
                // Who has been published since is found where everybody finds it.
                let Some(provider) = self.entry(&ahead.entry) else {
                    continue;
                };
                let of_name = |test: &&Test| test.provides.contains(name);
                for providing in provider.new.spec.tests.iter().filter(of_name) {
                    match provider.tests.get(&providing.key) {
                        Some(Standing::Passed(result)) => artifacts.push(json!({
                            "entry": provider.id(), "test": providing.key, "provides": name, "result": result,
                        })),
                        Some(Standing::Failed(_)) => {
                            let by = provider.id();
                            return May::Never(format!(
                                "not run: it requires {name}, and {} of {by} failed",
                                providing.key
                            ));
                        }
                        Some(Standing::Running) | None => return May::Wait,
                    }
                }
            }
        }
        May::Begin(artifacts)
    }

    /// What the tests so far say of an entry.
    fn judge(&mut self, at: usize, now: Millis, effects: &mut Effects) {
        if self.entries[at].state == State::Failing {
            return;
        }
        let entry = &self.entries[at];
        let voting = || entry.new.spec.tests.iter().filter(|test| test.voting);
        let failed = voting().find_map(|test| match entry.tests.get(&test.key) {
            Some(Standing::Failed(why)) => Some(format!("{} failed: {why}", test.key)),
            Some(Standing::Running | Standing::Passed(_)) | None => None,
        });
        let passed =
            voting().all(|test| matches!(entry.tests.get(&test.key), Some(Standing::Passed(_))));
        if failed.is_some() {
            if !self.settings.run_all_tests {
                self.cancel_tests(at, effects);
                let given_up = |standing: &mut Standing| {
                    if *standing == Standing::Running {
                        *standing = Standing::Failed("canceled: another test failed".into());
                    }
                };
                self.entries[at].tests.values_mut().for_each(given_up);
            }
            self.entries[at].set(State::Failing, failed, now);
        } else if passed {
            self.entries[at].set(State::Ready, None, now);
        }
    }

    /// What a publication has come to.
    fn settle(
        &mut self,
        at: usize,
        facts: &HashMap<TaskId, Fact>,
        now: Millis,
        effects: &mut Effects,
    ) {
        // Each look takes one task's end: what it leads to begins a task that has none.
        let Some(role) = self.entries[at].role() else {
            return;
        };
        let id = self.role_id(&self.entries[at], role);
        let Some(fact) = facts.get(&id) else { return };
        match (role, fact) {
            (Role::Publish, Fact::Done(_)) => self.verify(at, now, effects),
            (Role::Publish, Fact::Failed(why)) if self.entries[at].new.spec.probe.is_none() => {
                self.entries[at].set(
                    State::Failed,
                    Some(format!("publishing failed: {why}")),
                    now,
                );
            }
            (Role::Publish, Fact::Failed(why)) => {
                self.entries[at].doubt = None;
                self.begin(at, Role::Probe, State::Probing, now, effects);
                self.entries[at].reason = Some(format!("publishing failed: {why}"));
            }
            (Role::Publish, Fact::Unknown(why)) => {
                self.entries[at].doubt = Some(Doubt::Unknown);
                self.look(at, why, now, effects);
            }
            (Role::Probe, Fact::Done(found)) => self.found(at, found, now, effects),
            (Role::Probe, Fact::Failed(why) | Fact::Unknown(why)) => {
                let why = format!("nobody knows what was published: the probe failed: {why}");
                self.doubt(at, Doubt::Unknown, why, now);
            }
            (Role::Verify, Fact::Done(_)) => self.land(at, now),
            (Role::Verify, Fact::Failed(why) | Fact::Unknown(why)) => {
                let why = format!("published, and could not be verified: {why}");
                // Without a step that takes it back, only somebody can.
                let reverts = self.entries[at].new.spec.revert.is_some();
                if reverts && self.settings.on_verify_failure == OnVerifyFailure::Revert {
                    self.revert(at, &why, now, effects);
                } else {
                    self.doubt(at, Doubt::Unverified, why, now);
                }
            }
            (Role::Revert, Fact::Done(_)) => {
                let reason = self.entries[at].reason.clone();
                self.entries[at].set(State::Failed, reason, now);
            }
            (Role::Revert, Fact::Failed(why) | Fact::Unknown(why)) => {
                let why = format!("it could not be taken back: {why}");
                self.doubt(at, Doubt::Unknown, why, now);
            }
        }
    }

    /// What a probe found.
    fn found(&mut self, at: usize, found: &Value, now: Millis, effects: &mut Effects) {
        let word = found.get("effect").unwrap_or(found).as_str();
        let unknown = self.entries[at].doubt.is_some();
        let again = self.entries[at].absent < self.settings.republish.unwrap_or(REPUBLISH);
        match word {
            Some("done") => self.verify(at, now, effects),
            Some("absent") if !unknown => {
                let reason = self.entries[at].reason.clone();
                self.entries[at].set(State::Failed, reason, now);
            }
            Some("absent") if again => {
                self.entries[at].absent += 1;
                self.begin(at, Role::Publish, State::Publishing, now, effects);
            }
            Some("absent") => {
                let why = "not published, again and again: its publisher ends without a word";
                self.doubt(at, Doubt::Unknown, why.into(), now);
            }
            Some("partial") => {
                self.doubt(at, Doubt::Partial, "published in part".into(), now);
            }
            Some(_) | None => {
                let why = format!(
                    "nobody knows what was published: the probe said {found} (one of \"absent\", \"partial\", \"done\" is its result)"
                );
                self.doubt(at, Doubt::Unknown, why, now);
            }
        }
    }

    /// Finds out what a publication did, or lets somebody do that.
    fn look(&mut self, at: usize, why: &str, now: Millis, effects: &mut Effects) {
        if self.entries[at].new.spec.probe.is_some() {
            self.begin(at, Role::Probe, State::Probing, now, effects);
            self.entries[at].reason = Some(format!("nobody knows what was published: {why}"));
        } else {
            let why = format!("nobody knows what was published, and the gate has no probe: {why}");
            self.doubt(at, Doubt::Unknown, why, now);
        }
    }

    fn doubt(&mut self, at: usize, doubt: Doubt, why: String, now: Millis) {
        self.entries[at].doubt = Some(doubt);
        self.entries[at].set(State::Held, Some(why), now);
    }

    /// It is published; looks whether that is to be seen.
    pub(super) fn verify(&mut self, at: usize, now: Millis, effects: &mut Effects) {
        self.entries[at].doubt = None;
        if self.entries[at].new.spec.verify.is_some() {
            self.begin(at, Role::Verify, State::Verifying, now, effects);
        } else {
            self.land(at, now);
        }
    }

    /// It is published for good.
    pub(super) fn land(&mut self, at: usize, now: Millis) {
        self.published += 1;
        let entry = &mut self.entries[at];
        entry.doubt = None;
        entry.published = Some(self.published);
        entry.set(State::Published, None, now);
        let landed = entry.at();
        self.tail.push(landed);
    }

    pub(super) fn revert(&mut self, at: usize, why: &str, now: Millis, effects: &mut Effects) {
        let reason = Some(format!("{why}; taken back"));
        if self.entries[at].new.spec.revert.is_some() {
            self.begin(at, Role::Revert, State::Reverting, now, effects);
            self.entries[at].reason = reason;
        } else {
            self.entries[at].set(State::Failed, reason, now);
        }
    }

    /// Begins a task of an entry that is no test.
    pub(super) fn begin(
        &mut self,
        at: usize,
        role: Role,
        state: State,
        now: Millis,
        effects: &mut Effects,
    ) {
        *self.entries[at].tries.entry(role).or_default() += 1;
        self.entries[at].set(state, None, now);
        let entry = &self.entries[at];
        let spec = &entry.new.spec;
        let step = match role {
            Role::Publish => Some(&spec.publish),
            Role::Probe => spec.probe.as_ref(),
            Role::Verify => spec.verify.as_ref(),
            Role::Revert => spec.revert.as_ref(),
        };
        let Some(step) = step else { return };
        let mut task = task(self.role_id(entry, role), step, entry, self.told(entry));
        if matches!(role, Role::Publish | Role::Revert) {
            // Never twice without a look at what the first one did; in the lane, so that a late one has an old token.
            task.once = true;
            task.lane = Some(Lane {
                on_failure: OnFailure::Skip,
                ..Lane::new(self.lane())
            });
        }
        effects.enqueue.push(task);
    }

    /// What each task of an entry is told of it.
    fn told(&self, entry: &Entry) -> Map<String, Value> {
        let base = entry.base.iter().map(|ahead| {
            let there = self.entry(&ahead.entry);
            json!({
                "entry": ahead.entry, "generation": ahead.generation, "landed": there.is_none(),
                "change": there.map(|there| &there.new.change), "kwargs": there.map(|there| &there.new.kwargs),
            })
        });
        let passed = entry
            .tests
            .iter()
            .filter_map(|(key, standing)| match standing {
                Standing::Passed(result) => Some((key.clone(), result.clone())),
                Standing::Failed(_) | Standing::Running => None,
            });
        let told = json!({
            "gate": self.name, "entry": entry.id(), "change": entry.new.change, "generation": entry.generation,
            "published": entry.published_before, "base": base.collect::<Vec<_>>(), "results": passed.collect::<Map<_, _>>(),
        });
        let told = told.as_object();
        told.cloned().unwrap_or_default()
    }

    /// An entry that has ended leaves; what needs it and cannot have it goes with it.
    pub(super) fn leave(&mut self, at: usize, effects: &mut Effects, now: Millis) {
        let mut gone = self.remove(at, effects);
        let size = self.window;
        let window = &self.settings.window;
        self.window = match gone.state {
            _ if window.is_fixed() || window.start == 0 => window.clamp(window.start),
            State::Published => window.clamp(size.saturating_add(window.increase)),
            State::Failed => window.clamp(size / window.decrease.max(1)),
            State::Canceled
            | State::Queued
            | State::Speculating
            | State::Failing
            | State::Ready
            | State::Publishing
            | State::Probing
            | State::Verifying
            | State::Held
            | State::Reverting => size,
        };
        let id = gone.id().to_owned();
        let landed = gone.state == State::Published;
        gone.new.needs.clear();
        self.ended.push(gone);
        if landed {
            for entry in &mut self.entries {
                entry.new.needs.retain(|need| *need != id);
            }
            return;
        }
        while let Some(at) = self
            .entries
            .iter()
            .position(|entry| entry.new.needs.contains(&id))
        {
            let how = self.ended.last().map_or("gone", |gone| gone.state.as_str());
            let why = format!("it needs {id}, which is {how}");
            self.entries[at].set(State::Canceled, Some(why), now);
            self.leave(at, effects, now);
        }
    }

    fn remove(&mut self, at: usize, effects: &mut Effects) -> Entry {
        if self.entries[at].state != State::Published {
            self.cancel_tests(at, effects);
        }
        let mut entry = self.entries.remove(at);
        entry
            .tests
            .retain(|_, standing| *standing != Standing::Running);
        effects.ended.push(entry.id().to_owned());
        if let Some(step) = &entry.new.spec.report {
            let mut told = self.told(&entry);
            told.insert("outcome".into(), entry.state.as_str().into());
            told.insert("reason".into(), entry.reason.clone().into());
            let id = format!("{}/{}/report", self.lane(), entry.id());
            effects
                .enqueue
                .push(task(TaskId::new(id), step, &entry, told));
        }
        entry
    }

    /// Drops what nobody was tested on.
    fn forget(&mut self) {
        let tested = self.entries.iter().filter(|entry| entry.state.is_tested());
        let oldest = tested.map(|entry| entry.published_before).min();
        let since = self.published - oldest.unwrap_or(self.published);
        let keep = usize::try_from(since).unwrap_or(usize::MAX);
        let excess = self.tail.len().saturating_sub(keep);
        self.tail.drain(..excess);
    }
}

enum May {
    Begin(Vec<Value>),
    Wait,
    Never(String),
}

fn task(id: TaskId, step: &Step, entry: &Entry, told: Map<String, Value>) -> Task {
    let mut task = Task::new(&step.task, &step.queue);
    task.id = id;
    task.kwargs = entry.new.kwargs.clone();
    task.kwargs.extend(step.kwargs.clone());
    task.kwargs.insert("gate".into(), told.into());
    task
}
