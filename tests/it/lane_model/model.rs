//! Lanes as they are to be, without a store.

use std::collections::{BTreeMap, BTreeSet};

use longshore::id::Epoch;
use longshore::lane::{OnFailure, When};
use longshore::store::State;

pub(super) fn has_ended(state: State) -> bool {
    matches!(
        state,
        State::Done | State::Dead | State::Canceled | State::Expired
    )
}

/// Whether a task that has ended so is what was wanted of it.
pub(super) fn suits(when: When, state: State) -> bool {
    match when {
        When::Success => state == State::Done,
        When::Done => true,
        When::Failed => state != State::Done,
    }
}

/// A task as the model sees it.
#[derive(Debug, Clone)]
pub(super) struct Model {
    pub(super) state: State,
    pub(super) lane: Option<usize>,
    pub(super) place: Option<u64>,
    /// The place that it had last.
    pub(super) last: Option<u64>,
    pub(super) policy: OnFailure,
    pub(super) after: Vec<(usize, When)>,
    pub(super) later: bool,
    /// Whether it was let go once.
    pub(super) released: bool,
    pub(super) epoch: Option<Epoch>,
    pub(super) crashes: u32,
    pub(super) cancel: bool,
}

#[derive(Debug, Default)]
pub(super) struct Tasks {
    pub(super) all: Vec<Model>,
    pub(super) limits: BTreeMap<usize, u32>,
    pub(super) next_place: u64,
}

impl Tasks {
    pub(super) fn those(&self, wanted: impl Fn(&Model) -> bool) -> Vec<usize> {
        let all = self.all.iter().enumerate();
        all.filter(|(_, task)| wanted(task))
            .map(|(at, _)| at)
            .collect()
    }

    pub(super) fn in_lane(&self, lane: usize) -> Vec<usize> {
        let mut found = self.those(|task| task.lane == Some(lane) && task.place.is_some());
        found.sort_by_key(|at| self.all[*at].place);
        found
    }

    pub(super) fn give_place(&mut self, at: usize) {
        self.next_place += 1;
        self.all[at].place = Some(self.next_place);
    }

    pub(super) fn lose_place(&mut self, at: usize) {
        let task = &mut self.all[at];
        task.last = task.place.or(task.last);
        task.place = None;
    }

    /// How long a chain of these a task waits for.
    pub(super) fn depth(&self, at: usize, among: &BTreeSet<usize>) -> usize {
        let after = self.all[at].after.iter();
        let after = after
            .filter(|(other, _)| among.contains(other) && self.all[*other].state == State::Blocked);
        let depths = after.map(|(other, _)| 1 + self.depth(*other, among));
        depths.max().unwrap_or_default()
    }

    pub(super) fn is_ready(&self, at: usize) -> bool {
        let mut after = self.all[at].after.iter();
        after.all(|(other, when)| {
            let state = self.all[*other].state;
            has_ended(state) && suits(*when, state)
        })
    }

    /// Who may run runs. Answers them.
    pub(super) fn let_go(&mut self) -> Vec<usize> {
        let mut free = self.those(|task| task.state == State::Blocked && task.lane.is_none());
        free.retain(|at| self.is_ready(*at));
        for (lane, limit) in self.limits.clone() {
            let entries = self.in_lane(lane);
            let waits = |at: &&usize| self.all[**at].state == State::Blocked;
            let mut room = (limit as usize + entries.iter().filter(waits).count())
                .saturating_sub(entries.len());
            for at in entries.into_iter().take(limit as usize) {
                match self.all[at].state {
                    State::Dead => break,
                    State::Blocked if self.is_ready(at) && room > 0 => {
                        free.push(at);
                        room -= 1;
                    }
                    State::Blocked => break,
                    State::Queued
                    | State::Waiting
                    | State::Parked
                    | State::Running
                    | State::Done
                    | State::Canceled
                    | State::Expired => {}
                }
            }
        }
        for at in &free {
            let task = &mut self.all[*at];
            task.state = if task.later {
                State::Waiting
            } else {
                State::Queued
            };
            task.released = true;
        }
        free
    }

    /// Cancels what can never run because of these. Answers them.
    pub(super) fn doom(&mut self, ended: &[usize]) -> Vec<usize> {
        let mut over = ended.to_vec();
        loop {
            let is_over = |(other, when): &(usize, When)| {
                let state = self.all[*other].state;
                over.contains(other) && has_ended(state) && !suits(*when, state)
            };
            let doomed =
                self.those(|task| task.state == State::Blocked && task.after.iter().any(is_over));
            if doomed.is_empty() {
                return over.split_off(ended.len());
            }
            for at in doomed {
                self.all[at].state = State::Canceled;
                over.push(at);
            }
        }
    }

    /// These have ended.
    pub(super) fn pass_on(&mut self, mut ended: Vec<usize>) {
        while !ended.is_empty() {
            ended.retain(|at| has_ended(self.all[*at].state));
            let mut gone = BTreeSet::new();
            for at in &ended {
                let failed = self.all[*at].clone();
                let (State::Dead, OnFailure::CancelRest, Some(_)) =
                    (failed.state, failed.policy, failed.place)
                else {
                    continue;
                };
                for rest in self.those(|task| {
                    task.lane == failed.lane
                        && task.place > failed.place
                        && task.state == State::Blocked
                }) {
                    self.all[rest].state = State::Canceled;
                    self.all[rest].after.clear();
                    gone.insert(rest);
                }
            }
            gone.extend(self.doom(&ended));
            for at in ended {
                let Model { state, policy, .. } = self.all[at];
                if (state, policy) != (State::Dead, OnFailure::Halt) {
                    self.lose_place(at);
                }
                if state == State::Done {
                    self.all[at].after.clear();
                }
            }
            ended = gone.into_iter().collect();
        }
    }

    /// What was canceled with these, and what would stand ahead of them; `back`: they, and whether they move.
    pub(super) fn called_back(
        &self,
        these: &BTreeSet<usize>,
        mut back: Vec<(usize, bool)>,
    ) -> BTreeSet<usize> {
        let mut found = BTreeSet::new();
        while let Some((at, moves)) = back.pop() {
            if !found.insert((at, moves)) {
                continue;
            }
            for (waits, task) in self.all.iter().enumerate() {
                for (_, when) in task.after.iter().filter(|(other, _)| *other == at) {
                    let called = task.state == State::Canceled && *when == When::Success;
                    let stands = task.state == State::Blocked
                        || task.state == State::Queued && these.contains(&waits);
                    if called || stands && moves {
                        back.push((waits, true));
                    }
                }
            }
        }
        found.into_iter().map(|(at, _)| at).collect()
    }

    pub(super) fn revive(&mut self, these: &BTreeSet<usize>) {
        let these: BTreeSet<usize> = these
            .iter()
            .copied()
            .filter(|at| {
                matches!(
                    self.all[*at].state,
                    State::Dead | State::Canceled | State::Expired | State::Parked
                )
            })
            .collect();
        for at in &these {
            let task = self.all[*at].clone();
            let matters = |(other, when): &(usize, When)| {
                !has_ended(self.all[*other].state)
                    || *when == When::Success && these.contains(other)
            };
            let after = task
                .after
                .into_iter()
                .filter(|after| !task.released && matters(after))
                .collect();
            self.all[*at].after = after;
        }
        let mut back = Vec::new();
        for at in &these {
            let task = &self.all[*at];
            let stays = task.state == State::Parked
                || (task.state, task.policy) == (State::Dead, OnFailure::Halt);
            if !stays {
                self.lose_place(*at);
            }
            let task = &mut self.all[*at];
            (task.state, task.crashes, task.later) = (State::Queued, 0, false);
            let moves = task.lane.is_some() && task.place.is_none() || !task.after.is_empty();
            back.push((*at, moves));
        }
        let found = self.called_back(&these, back);
        for at in &found {
            if matches!(self.all[*at].state, State::Canceled | State::Blocked) {
                self.all[*at].state = State::Blocked;
                self.lose_place(*at);
            }
        }
        for at in &these {
            if self.all[*at].lane.is_some() || !self.all[*at].after.is_empty() {
                self.all[*at].state = State::Blocked;
            }
        }
        let mut placeless = self.those(|task| {
            task.state == State::Blocked && task.lane.is_some() && task.place.is_none()
        });
        let again: BTreeSet<usize> = found.union(&these).copied().collect();
        placeless.sort_by_key(|at| (self.depth(*at, &again), self.all[*at].last));
        for at in placeless {
            self.give_place(at);
        }
        let waits = found
            .into_iter()
            .filter(|at| self.all[*at].state == State::Blocked);
        let over: BTreeSet<usize> = waits
            .flat_map(|at| self.all[at].after.iter().map(|(other, _)| *other))
            .filter(|other| has_ended(self.all[*other].state))
            .collect();
        self.let_go();
        self.pass_on(over.into_iter().collect());
    }
}
