//! What producers and operators ask of a gate. Nothing is half done: a verb is refused, with the reason, or is done whole.

use std::collections::{HashMap, HashSet};

use super::{Doubt, Effects, Entry, Gate, LONGEST, NewEntry, Role, Settings, State, is_name};
use crate::clock::Millis;

/// What is asked of a gate.
#[derive(Debug, Clone, PartialEq)]
pub enum Verb {
    /// Adds entries at its end, those that others need first; and what it is to work like.
    Enqueue(Settings, Vec<NewEntry>),
    /// Takes an entry out, and those that need it.
    Dequeue(String),
    /// Puts an entry, with those that it needs, before all that are not published yet.
    Promote(String),
    /// Publishes nothing more, for this reason.
    Hold(String),
    /// Publishes again.
    Release,
    /// Goes on with an entry that is held: looks again at what was published.
    Retry,
    /// Counts an entry that is held as published.
    Accept,
    /// Takes back what an entry that is held has published; it has failed.
    Revert,
}

/// Why a gate refuses what it is asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

fn refused<T>(why: impl Into<String>) -> Result<T, Refused> {
    Err(Refused(why.into()))
}

impl Gate {
    /// Does what `verb` asks; `known` are entries that have ended, with how. Returns the ids of the entries that it is about. A
    /// [step](Gate::step) has to follow.
    ///
    /// # Errors
    ///
    /// [`Refused`] with what is to be done instead; the gate is then to be thrown away.
    pub fn ask(
        &mut self,
        verb: Verb,
        known: &HashMap<String, State>,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<Vec<String>, Refused> {
        match verb {
            Verb::Enqueue(settings, entries) => {
                named("gate", &self.name)?;
                self.work_like(settings);
                self.enqueue(entries, known, now, effects)
            }
            Verb::Dequeue(id) => self.dequeue(&id, "dequeued by hand", now, effects),
            Verb::Promote(id) => self.promote(&id),
            Verb::Hold(reason) => {
                let since = self.hold.as_ref().map_or(now, |(_, since)| *since);
                self.hold = Some((reason, since));
                Ok(Vec::new())
            }
            Verb::Release => match self.hold.take() {
                Some(_) => Ok(Vec::new()),
                None => refused(format!("gate {} was not on hold", self.name)),
            },
            Verb::Retry => {
                let (at, doubt) = self.held()?;
                match doubt {
                    Doubt::Unverified => self.verify(at, now, effects),
                    Doubt::Unknown | Doubt::Partial
                        if self.entries[at].new.spec.probe.is_some() =>
                    {
                        self.entries[at].absent = 0;
                        self.entries[at].doubt = Some(Doubt::Unknown);
                        self.begin(at, Role::Probe, State::Probing, now, effects);
                    }
                    Doubt::Unknown | Doubt::Partial => {
                        self.begin(at, Role::Publish, State::Publishing, now, effects);
                    }
                }
                Ok(vec![self.entries[at].id().to_owned()])
            }
            Verb::Accept => {
                let (at, _) = self.held()?;
                let id = self.entries[at].id().to_owned();
                self.land(at, now);
                self.leave(at, effects, now);
                Ok(vec![id])
            }
            Verb::Revert => {
                let (at, _) = self.held()?;
                let id = self.entries[at].id().to_owned();
                let why = self.entries[at].reason.clone().unwrap_or_default();
                self.revert(at, &why, now, effects);
                if self.entries[at].state.is_end() {
                    self.leave(at, effects, now);
                }
                Ok(vec![id])
            }
        }
    }
    fn held(&self) -> Result<(usize, Doubt), Refused> {
        match self.entries.first() {
            Some(head) if head.state == State::Held => {
                Ok((0, head.doubt.unwrap_or(Doubt::Unknown)))
            }
            Some(head) => refused(format!(
                "nothing is held in gate {}: its first entry, {}, is {}",
                self.name,
                head.id(),
                head.state.as_str()
            )),
            None => refused(format!(
                "nothing is held in gate {}: it is empty",
                self.name
            )),
        }
    }

    /// Works like this from now on. What a window has grown to, it keeps within its new bounds.
    fn work_like(&mut self, settings: Settings) {
        let window = &settings.window;
        // It has none yet, or had no limit.
        let is_new = self.window == 0 && window.start != 0;
        if self.settings == settings && !is_new {
            return;
        }
        let stays = !window.is_fixed() && !is_new;
        self.window = window.clamp(if stays { self.window } else { window.start });
        self.settings = settings;
    }

    fn enqueue(
        &mut self,
        new: Vec<NewEntry>,
        known: &HashMap<String, State>,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<Vec<String>, Refused> {
        let ids: Vec<String> = new.iter().map(|entry| entry.id.clone()).collect();
        let (mut seen, mut changes) = (HashSet::new(), HashSet::new());
        for entry in &new {
            check(entry)?;
            if !seen.insert(entry.id.as_str()) {
                return refused(format!("two entries have the id {:?}", entry.id));
            }
            if let Some(change) = &entry.change
                && !changes.insert(change.as_str())
            {
                return refused(format!("two entries are versions of {change:?}"));
            }
        }
        let new = new
            .into_iter()
            .filter(|entry| self.entry(&entry.id).is_none() && !known.contains_key(&entry.id));
        let mut new: Vec<NewEntry> = new.collect();
        for entry in &new {
            self.make_way(entry, now, effects)?;
        }
        for entry in &mut new {
            let NewEntry { id, needs, .. } = entry;
            for need in needs.iter() {
                let is_here = ids.contains(need) || self.entry(need).is_some();
                let why = match known.get(need) {
                    _ if is_here => continue,
                    Some(State::Published) => continue,
                    Some(state) => format!("is {}", state.as_str()),
                    None => "is not in this gate".to_owned(),
                };
                return refused(format!("entry {id} needs {need}, which {why}"));
            }
            needs.retain(|need| known.get(need) != Some(&State::Published));
        }
        // Whoever is needed goes first; else they keep their order.
        while !new.is_empty() {
            let stands =
                |entry: &NewEntry| entry.needs.iter().all(|need| self.entry(need).is_some());
            let Some(at) = new.iter().position(stands) else {
                let circle: Vec<&str> = new.iter().map(|entry| entry.id.as_str()).collect();
                return refused(format!(
                    "these entries need one another, so none would ever be published: {}",
                    circle.join(", ")
                ));
            };
            let entry = new.remove(at);
            self.entries.push(Entry::new(entry, now));
        }
        Ok(ids)
    }

    /// An older version of the same change goes, and in a gate for the newest only, whatever has not begun.
    fn make_way(
        &mut self,
        new: &NewEntry,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<(), Refused> {
        let newest_only = self.settings.newest_only;
        let old = |entry: &Entry| {
            let replaced = new.change.is_some() && entry.new.change == new.change;
            let unbegun = newest_only && entry.state == State::Queued && entry.generation == 0;
            !entry.state.is_committed() && (replaced || unbegun)
        };
        while let Some(entry) = self.entries.iter().find(|entry| old(entry)) {
            let id = entry.id().to_owned();
            self.dequeue(&id, &format!("replaced by {}", new.id), now, effects)?;
        }
        Ok(())
    }

    fn dequeue(
        &mut self,
        id: &str,
        why: &str,
        now: Millis,
        effects: &mut Effects,
    ) -> Result<Vec<String>, Refused> {
        let at = self.place(id)?;
        let before = effects.ended.len();
        self.entries[at].set(State::Canceled, Some(why.to_owned()), now);
        self.leave(at, effects, now);
        Ok(effects.ended[before..].to_vec())
    }

    fn promote(&mut self, id: &str) -> Result<Vec<String>, Refused> {
        self.place(id)?;
        let mut group = vec![id.to_owned()];
        let mut looked = 0;
        while let Some(next) = group.get(looked).cloned() {
            let needs = self.entry(&next).map_or(&[][..], |entry| &entry.new.needs);
            let more: Vec<String> = needs
                .iter()
                .filter(|need| !group.contains(need))
                .cloned()
                .collect();
            group.extend(more);
            looked += 1;
        }
        let rank = |entry: &Entry| match entry.state.is_committed() {
            true => 0,
            false if group.iter().any(|id| id == entry.id()) => 1,
            false => 2,
        };
        // Stable: each keeps its order among its like.
        self.entries.sort_by_key(rank);
        Ok(group)
    }

    /// Where an entry is that may still be moved or taken out.
    fn place(&self, id: &str) -> Result<usize, Refused> {
        let Some(at) = self.entries.iter().position(|entry| entry.id() == id) else {
            return refused(format!("there is no entry {id:?} in gate {}", self.name));
        };
        let state = self.entries[at].state;
        if state == State::Held {
            return refused(format!(
                "entry {id} is held: nobody knows what of it is public. Decide by `longshore gate retry`, `revert` or `accept`"
            ));
        }
        if state.is_committed() {
            return refused(format!(
                "entry {id} is {}: only its outcome ends that",
                state.as_str()
            ));
        }
        Ok(at)
    }
}

/// Refuses a name that could not be a part of a task's id.
fn named(what: &str, name: &str) -> Result<(), Refused> {
    if !is_name(name) {
        return refused(format!(
            "{what} {name:?}: a name has 1 to {LONGEST} bytes, and no /"
        ));
    }
    Ok(())
}

/// Refuses what could never be published, or could not be named.
fn check(entry: &NewEntry) -> Result<(), Refused> {
    let NewEntry { id, spec, .. } = entry;
    named("entry", id)?;
    if spec.publish.task.is_empty() {
        return refused(format!("entry {id}: nothing says how it is published"));
    }
    if entry.needs.contains(id) {
        return refused(format!("entry {id} needs itself"));
    }
    let mut before: HashSet<&str> = HashSet::new();
    for test in &spec.tests {
        named("test", &test.key)?;
        if before.contains(test.key.as_str()) {
            return refused(format!("entry {id}: two tests are called {:?}", test.key));
        }
        for after in test.after.iter().chain(&test.after_any) {
            if !before.contains(after.as_str()) {
                return refused(format!(
                    "entry {id}: test {} is to run after {after:?}, which is not a test named before it",
                    test.key
                ));
            }
        }
        before.insert(&test.key);
    }
    Ok(())
}
