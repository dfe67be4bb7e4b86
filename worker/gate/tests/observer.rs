//! Who looks at a gate from outside.

use std::collections::{BTreeSet, HashMap, HashSet};

use serde_json::{Value, json};

use super::world::{GATE, Seen};
use crate::clock::Millis;
use crate::gate::{Alarm, Effects, Entry, Fact, Gate, Settings, Standing, State, Verb, Window};
use crate::id::TaskId;
use crate::task::Task;

/// Entries with their generations, in order.
type Sequence = Vec<(String, u32)>;
type Facts = HashMap<TaskId, Fact>;

#[derive(Debug)]
pub(super) struct Observer {
    /// All that was published, in order.
    published: Sequence,
    /// On what each generation of an entry was tested, all that was published before included.
    tested: HashMap<(String, u32), Sequence>,
    /// The ids of all tasks there ever were.
    ids: HashSet<String>,
    ended: HashSet<String>,
    /// The entries that have not ended.
    order: Vec<String>,
    needs: HashMap<String, BTreeSet<String>>,
    /// The tasks of an entry but tests and the report, in order.
    roles: HashMap<String, Vec<(String, String)>>,
    window: u32,
    bounds: Window,
    /// In which state the first entry is since when, and the same for what an operator stopped.
    head: Option<(String, State, Millis)>,
    hold: Option<Millis>,
}

fn clamp(bounds: &Window, size: u32) -> u32 {
    let most = bounds.ceiling.unwrap_or(u32::MAX);
    if bounds.start == 0 {
        0
    } else {
        size.max(bounds.floor).max(1).min(most)
    }
}

fn is_fixed(bounds: &Window) -> bool {
    bounds.increase == 0 && bounds.decrease == 1
}

fn is_tested(state: State) -> bool {
    matches!(state, State::Speculating | State::Ready | State::Failing)
}

fn full(id: &str, rest: &str) -> TaskId {
    TaskId::new(format!("gate/{GATE}/{id}/{rest}"))
}

fn fact<'a>(facts: &'a Facts, entry: &Entry, key: &str) -> Option<&'a Fact> {
    let of_test = format!("{}/{key}", entry.generation);
    facts.get(&full(entry.id(), &of_test))
}

impl Observer {
    pub(super) fn new(settings: &Settings) -> Self {
        Self {
            published: Vec::new(),
            tested: HashMap::new(),
            ids: HashSet::new(),
            ended: HashSet::new(),
            order: Vec::new(),
            needs: HashMap::new(),
            roles: HashMap::new(),
            window: clamp(&settings.window, settings.window.start),
            bounds: settings.window.clone(),
            head: None,
            hold: None,
        }
    }

    /// What was asked, with the order that it led to; what the gate is now; what it wants to be done.
    pub(super) fn looks(
        &mut self,
        before: &Gate,
        asked: Option<&(Verb, Vec<String>)>,
        after: &Gate,
        effects: &Effects,
        facts: &Facts,
        now: Millis,
    ) {
        let verb = asked.map(|(verb, _)| verb);
        if let Some((verb, order)) = asked {
            self.asks(verb, order, before, now);
        }
        for entry in &after.ended {
            self.ends(entry, verb, facts);
        }
        let live: Vec<String> = after
            .entries
            .iter()
            .map(|entry| entry.id().to_owned())
            .collect();
        assert_eq!(
            live, self.order,
            "G13: who leaves has ended, and nobody moves by himself"
        );
        assert_eq!(after.window, self.window, "G6: the window");
        let ended: BTreeSet<&str> = after.ended.iter().map(Entry::id).collect();
        for entry in &after.entries {
            let gone = self.needs[entry.id()]
                .iter()
                .find(|need| self.ended.contains(*need) && !self.is_published(need));
            assert_eq!(
                gone,
                None,
                "G10: {} stays ({ended:?} have ended)",
                entry.id()
            );
        }
        self.chain(before, after, facts);
        for task in &effects.enqueue {
            assert!(
                self.ids.insert(task.id.to_string()),
                "G3: a second {}",
                task.id
            );
            self.begins(task, verb, after, facts);
        }
        for entry in &after.ended {
            let report = full(entry.id(), "report");
            let reports = effects
                .enqueue
                .iter()
                .filter(|task| task.id == report)
                .count();
            let wanted = usize::from(entry.new.spec.report.is_some());
            assert_eq!(reports, wanted, "G13: reports of {}", entry.id());
        }
        for id in &effects.cancel {
            assert!(
                self.ids.contains(id.as_str()),
                "{id} is canceled before it is there"
            );
            assert!(
                id.as_str()
                    .split('/')
                    .nth(3)
                    .is_some_and(|part| part.parse::<u32>().is_ok()),
                "G9: {id} is no test"
            );
        }
        self.alarms(after, now);
    }

    fn is_published(&self, id: &str) -> bool {
        self.published.iter().any(|(entry, _)| entry == id)
    }

    /// What a verb may do with the order.
    fn asks(&mut self, verb: &Verb, order: &[String], before: &Gate, now: Millis) {
        match verb {
            Verb::Enqueue(settings, entries) => {
                if self.bounds != settings.window {
                    let stays = !is_fixed(&settings.window) && self.window != 0;
                    let size = if stays {
                        self.window
                    } else {
                        settings.window.start
                    };
                    self.window = clamp(&settings.window, size);
                    self.bounds = settings.window.clone();
                }
                for entry in entries {
                    let is_new = order.contains(&entry.id) && !self.order.contains(&entry.id);
                    if is_new {
                        self.needs
                            .insert(entry.id.clone(), entry.needs.iter().cloned().collect());
                    }
                }
                let new = order.iter().filter(|id| !self.order.contains(id));
                let stay = self.order.iter().filter(|id| order.contains(id));
                let wanted: Vec<&String> = stay.chain(new).collect();
                assert!(
                    wanted.into_iter().eq(order),
                    "new ones come last: {order:?}"
                );
            }
            Verb::Promote(id) => {
                let (mut group, mut looked) = (vec![id.clone()], 0);
                while looked < group.len() {
                    group.extend(self.needs[&group[looked]].clone());
                    looked += 1;
                }
                let begun = |id: &String| {
                    before
                        .entry(id)
                        .is_some_and(|entry| entry.state.is_committed())
                };
                let first = self.order.iter().filter(|id| begun(id));
                let then = self
                    .order
                    .iter()
                    .filter(|id| !begun(id) && group.contains(id));
                let rest = self
                    .order
                    .iter()
                    .filter(|id| !begun(id) && !group.contains(id));
                let wanted: Vec<&String> = first.chain(then).chain(rest).collect();
                assert!(wanted.into_iter().eq(order), "promoted: {order:?}");
            }
            Verb::Hold(_) => self.hold = self.hold.or(Some(now)),
            Verb::Release => self.hold = None,
            Verb::Dequeue(_) | Verb::Retry | Verb::Accept | Verb::Revert => {}
        }
        // Whoever has left by it is still there: it ends in this look.
        let gone = self.order.iter().filter(|id| !order.contains(id));
        self.order = gone.chain(order).cloned().collect();
        for (at, id) in order.iter().enumerate() {
            let late = self.needs[id]
                .iter()
                .find(|need| order[at..].contains(need));
            assert_eq!(late, None, "G10: {id} stands before what it needs");
        }
    }

    /// Where it stood when its tests began.
    fn stood(&self, entry: &Entry) -> Sequence {
        let before = usize::try_from(entry.published_before).unwrap();
        let base = entry
            .base
            .iter()
            .map(|ahead| (ahead.entry.clone(), ahead.generation));
        self.published[..before]
            .iter()
            .cloned()
            .chain(base)
            .collect()
    }

    /// How an entry ended, and by what right.
    fn ends(&mut self, entry: &Entry, verb: Option<&Verb>, facts: &Facts) {
        let id = entry.id();
        assert!(self.ended.insert(id.to_owned()), "G13: {id} ends twice");
        let began = self.roles.get(id);
        let last = |wanted: &str| {
            let roles = began?.iter().rev();
            let (_, task) = roles.into_iter().find(|(role, _)| role == wanted)?;
            facts.get(&TaskId::new(task))
        };
        let found =
            |word: &str| matches!(last("probe"), Some(Fact::Done(said)) if said["effect"] == word);
        let did = |role: &str| matches!(last(role), Some(Fact::Done(_)));
        let (spec, why) = (&entry.new.spec, entry.reason.as_deref().unwrap_or_default());
        match entry.state {
            State::Published => {
                assert_eq!(
                    self.order.first().map(String::as_str),
                    Some(id),
                    "G1: in order"
                );
                let accepted = verb == Some(&Verb::Accept);
                let published = did("publish") || found("done");
                let verified = spec.verify.is_none() || did("verify");
                assert!(
                    accepted || published && verified,
                    "G8: {id} was not seen to be published"
                );
                self.published.push((id.to_owned(), entry.generation));
            }
            State::Failed if began.is_some() => {
                let absent = matches!(last("publish"), Some(Fact::Failed(_)))
                    && (spec.probe.is_none() || found("absent"));
                let by_hand = verb == Some(&Verb::Revert) && spec.revert.is_none();
                assert!(
                    absent || did("revert") || by_hand,
                    "G8: {id} fails ({why}) and may be there"
                );
            }
            State::Failed => {
                assert_eq!(
                    self.stood(entry),
                    self.published,
                    "G5: {id} fails on what is not there"
                );
                self.failing(entry, facts);
            }
            State::Canceled => {
                assert!(began.is_none(), "G8: {id} is canceled and may be there");
                self.canceled(entry, verb);
            }
            State::Queued
            | State::Speculating
            | State::Failing
            | State::Ready
            | State::Publishing
            | State::Probing
            | State::Verifying
            | State::Held
            | State::Reverting => panic!("G13: {id} has ended and is {}", entry.state.as_str()),
        }
        self.leaves(entry);
    }

    fn canceled(&self, entry: &Entry, verb: Option<&Verb>) {
        let (id, why) = (entry.id(), entry.reason.as_deref().unwrap_or_default());
        let needed = self.needs[id].iter().any(|need| {
            self.ended.contains(need) && why.starts_with(&format!("it needs {need}, which is "))
        });
        let by_hand = matches!(verb, Some(Verb::Dequeue(wanted)) if wanted == id);
        let replaced = matches!(verb, Some(Verb::Enqueue(..))) && why.starts_with("replaced by ");
        assert!(
            needed || by_hand || replaced,
            "G10: {id} is canceled: {why}"
        );
    }

    fn leaves(&mut self, entry: &Entry) {
        let id = entry.id();
        self.order.retain(|live| live != id);
        let bounds = &self.bounds;
        let size = match entry.state == State::Published {
            true => self.window + bounds.increase,
            false if entry.state == State::Failed => self.window / bounds.decrease,
            false => self.window,
        };
        let stays = is_fixed(bounds) || bounds.start == 0;
        self.window = clamp(bounds, if stays { bounds.start } else { size });
    }

    /// A test that decides has failed, or can never pass.
    fn failing(&self, entry: &Entry, facts: &Facts) {
        let voting = entry.new.spec.tests.iter().filter(|test| test.voting);
        let failed = voting.clone().any(|test| {
            matches!(
                fact(facts, entry, &test.key),
                Some(Fact::Failed(_) | Fact::Unknown(_))
            )
        });
        let unrun = voting.clone().any(|test| {
            matches!(entry.tests.get(&test.key), Some(Standing::Failed(why)) if why.starts_with("not run: "))
                && !self.ids.contains(full(entry.id(), &format!("{}/{}", entry.generation, test.key)).as_str())
        });
        assert!(
            failed || unrun,
            "G12: {} fails without a test that decides",
            entry.id()
        );
    }

    /// Who stands on whom.
    fn chain(&mut self, before: &Gate, after: &Gate, facts: &Facts) {
        let mut now = self.published.clone();
        for (at, entry) in after.entries.iter().enumerate() {
            let id = entry.id();
            assert!(
                at == 0 || !entry.state.is_committed(),
                "G1: {id} is not the first"
            );
            if let Some(was) = before.entry(id).filter(|was| is_tested(was.state)) {
                let is_reset = entry.generation != was.generation || entry.state == State::Queued;
                let old = &self.tested[&(id.to_owned(), was.generation)];
                assert!(!is_reset || *old != now, "G4: {id} is reset for nothing");
            }
            if is_tested(entry.state) {
                let stood = self.stood(entry);
                let known = self
                    .tested
                    .entry((id.to_owned(), entry.generation))
                    .or_insert_with(|| stood.clone());
                assert_eq!(*known, stood, "G3: the base of a generation changes");
                assert_eq!(stood, now, "G4: {id} is not reset");
            }
            if entry.state == State::Failing {
                self.failing(entry, facts);
            }
            if entry.state == State::Ready {
                self.passed(entry, facts);
            }
            if entry.state.is_committed()
                || matches!(entry.state, State::Speculating | State::Ready)
            {
                now.push((id.to_owned(), entry.generation));
            }
        }
    }

    fn passed(&self, entry: &Entry, facts: &Facts) {
        for test in entry.new.spec.tests.iter().filter(|test| test.voting) {
            let passed = matches!(fact(facts, entry, &test.key), Some(Fact::Done(_)));
            assert!(passed, "G12: {} of {} has not passed", test.key, entry.id());
        }
    }

    /// By what right a task begins.
    fn begins(&mut self, task: &Task, verb: Option<&Verb>, after: &Gate, facts: &Facts) {
        let text = task.id.to_string();
        let parts: Vec<&str> = text.split('/').collect();
        let (id, told) = (parts[2], &task.kwargs["gate"]);
        assert_eq!(told["entry"], id);
        if parts[3] == "report" {
            assert!(
                self.ended.contains(id),
                "G13: {id} is reported and has not ended"
            );
            return;
        }
        let (at, entry) = after
            .entries
            .iter()
            .enumerate()
            .find(|(_, entry)| entry.id() == id)
            .unwrap();
        let count = usize::try_from(told["published"].as_u64().unwrap()).unwrap();
        let base = told["base"].as_array().unwrap().iter().map(|ahead| {
            let generation = u32::try_from(ahead["generation"].as_u64().unwrap()).unwrap();
            (ahead["entry"].as_str().unwrap().to_owned(), generation)
        });
        let told_base: Sequence = self.published[..count]
            .iter()
            .cloned()
            .chain(base)
            .collect();
        assert_eq!(
            told["generation"], entry.generation,
            "G3: {text} is told another generation"
        );
        let known = self
            .tested
            .entry((id.to_owned(), entry.generation))
            .or_insert_with(|| told_base.clone());
        assert_eq!(*known, told_base, "G2: {text} is told another base");
        if parts[3].parse::<u32>().is_err() {
            assert!(
                at == 0 && told_base == self.published,
                "G2: {text} is about something else than was tested"
            );
            self.role_begins(&text, parts[3], task, verb, after, facts);
            return;
        }
        let generation = entry.generation.to_string();
        assert_eq!(parts[3], generation, "G3: {text} is of another generation");
        let inside = after.window == 0 || at < usize::try_from(after.window).unwrap();
        let window = after.window;
        assert!(inside, "G6: {text} runs outside of the window of {window}");
        assert!(!task.once, "a test may run again");
        let artifacts = Value::Array(self.artifacts(entry, parts[4], after, facts));
        assert_eq!(told["artifacts"], artifacts, "G11: {text}");
    }

    /// By what right the first entry is published, looked for, verified or taken back.
    fn role_begins(
        &mut self,
        text: &str,
        role: &str,
        task: &Task,
        verb: Option<&Verb>,
        after: &Gate,
        facts: &Facts,
    ) {
        let entry = &after.entries[0];
        let id = entry.id();
        let last = self.roles.get(id).and_then(|roles| roles.last());
        let last = last.map(|(role, task)| (role.as_str(), facts.get(&TaskId::new(task))));
        let retried = verb == Some(&Verb::Retry);
        let probe = |word: &str| json!({ "effect": word });
        let by_right = match (role, last) {
            ("publish", None) => after.hold.is_none(),
            ("publish", Some(("probe", Some(Fact::Done(said))))) => *said == probe("absent"),
            ("publish", Some(_)) => retried && entry.new.spec.probe.is_none(),
            ("verify", Some(("publish", Some(Fact::Done(_))))) => true,
            ("verify", Some(("probe", Some(Fact::Done(said))))) => *said == probe("done"),
            ("verify", Some(("verify", Some(_)))) => retried,
            ("probe", Some((_, Some(_)))) => true,
            ("revert", Some(("verify", Some(Fact::Failed(_) | Fact::Unknown(_))))) => true,
            ("revert", Some((_, Some(_)))) => verb == Some(&Verb::Revert),
            _ => false,
        };
        assert!(by_right, "G8, G9, G14: {text} is blind: {last:?}");
        if role == "publish" {
            self.passed(entry, facts);
            let missing = self.needs[id].iter().find(|need| !self.is_published(need));
            assert_eq!(missing, None, "G10: {id} is published before what it needs");
        }
        let writes = |role: &str| matches!(role, "publish" | "revert");
        assert_eq!(task.once, writes(role), "G9: {text}");
        assert_eq!(
            task.lane.is_some(),
            writes(role),
            "G1: {text} has a lane and its token"
        );
        let mut all = self.roles.values().flatten();
        let other =
            all.find(|(role, task)| writes(role) && !facts.contains_key(&TaskId::new(task)));
        assert_eq!(other, None, "G1: {text} is not the only one");
        let began = self.roles.entry(id.to_owned()).or_default();
        began.push((role.to_owned(), text.to_owned()));
    }

    /// What those provide on which it stands and that are not published.
    fn artifacts(&self, entry: &Entry, key: &str, after: &Gate, facts: &Facts) -> Vec<Value> {
        let test = entry
            .new
            .spec
            .tests
            .iter()
            .find(|test| test.key == key)
            .unwrap();
        let mut all = Vec::new();
        for name in &test.requires {
            for ahead in after
                .entries
                .iter()
                .take_while(|ahead| ahead.id() != entry.id())
            {
                let generation = entry.base.iter().find(|base| base.entry == ahead.id());
                let Some(generation) = generation.map(|base| base.generation) else {
                    continue;
                };
                for by in ahead
                    .new
                    .spec
                    .tests
                    .iter()
                    .filter(|test| test.provides.contains(name))
                {
                    let Some(Fact::Done(result)) =
                        facts.get(&full(ahead.id(), &format!("{generation}/{}", by.key)))
                    else {
                        panic!(
                            "G11: {} does not wait for {name} of {}",
                            entry.id(),
                            ahead.id()
                        )
                    };
                    all.push(json!({ "entry": ahead.id(), "test": by.key, "provides": name, "result": result }));
                }
            }
        }
        all
    }

    fn alarms(&mut self, after: &Gate, now: Millis) {
        let first = after
            .entries
            .first()
            .map(|head| (head.id().to_owned(), head.state));
        let stays = self
            .head
            .as_ref()
            .map(|(id, state, _)| (id.clone(), *state))
            == first;
        if !stays {
            self.head = first.map(|(id, state)| (id, state, now));
        }
        let overdue = after
            .settings
            .overdue_s
            .map_or(3_600_000, |s| i64::from(s) * 1000);
        let seen = |at: Millis| {
            after
                .alarm(at)
                .map(|Alarm { entry, since, .. }| (entry, since))
        };
        for at in [now, now + overdue] {
            let wanted = match &self.head {
                Some((id, State::Held, since)) => Some((Some(id.clone()), *since)),
                Some((id, state, since)) if state.is_committed() && at - since >= overdue => {
                    Some((Some(id.clone()), *since))
                }
                _ => self.hold.map(|since| (None, since)),
            };
            assert_eq!(seen(at), wanted, "G14");
        }
    }

    /// Everything has ended, and what is to be seen is what was said.
    pub(super) fn is_over(&self, over: &HashMap<String, State>, seen: &HashMap<String, Seen>) {
        assert_eq!(self.order, [""; 0], "G13");
        for (id, state) in over {
            let there = seen.get(id).copied().unwrap_or_default();
            let wanted = if *state == State::Published {
                Seen::Done
            } else {
                Seen::Absent
            };
            assert_eq!(there, wanted, "G8: {id} is {}", state.as_str());
        }
    }
}
