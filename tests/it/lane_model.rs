//! Random histories of lanes and of tasks that wait for others, against a model that is naive enough to be read: it looks at all
//! tasks again and again. The store agrees with it after every step, and lets nobody go out of turn.

mod model;
mod steps;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use longshore::id::WorkerId;
use longshore::lane::{Lane, When};
use longshore::store::{Fence, Filter, SetAside, Settlement, State, Store};
use longshore::task::Task;
use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use self::model::{Model, Tasks, has_ended};
use self::steps::{Spec, Step, step};
use crate::harness::{BackEnd, Bench, id, task};

const LANES: usize = 3;
const CRASH_LIMIT: u32 = 2;
/// Longer than a test lasts.
const PASS: Duration = Duration::from_secs(1000);

struct World {
    bench: Bench,
    fence: Fence,
    worker: WorkerId,
    tasks: Tasks,
    /// The last token of each lane.
    tokens: HashMap<usize, i64>,
    /// Lanes that had room for more than one.
    wide: BTreeSet<usize>,
}

/// Later tasks have earlier ids: nothing may go by them.
fn name(at: usize) -> String {
    format!("t{:03}", 999 - at)
}

fn key(lane: usize) -> String {
    format!("lane-{lane}")
}

/// One of these.
fn pick(of: &[usize], which: usize) -> Option<usize> {
    (!of.is_empty()).then(|| of[which % of.len()])
}

impl World {
    async fn new(bench: Bench) -> Self {
        Self {
            fence: bench.leader().await,
            worker: bench.worker().await,
            bench,
            tasks: Tasks::default(),
            tokens: HashMap::new(),
            wide: BTreeSet::new(),
        }
    }

    fn store(&self) -> &Store {
        &self.bench.store
    }

    fn in_state(&self, state: State, which: usize) -> Option<usize> {
        pick(&self.tasks.those(|task| task.state == state), which)
    }

    async fn take(&mut self, step: Step) {
        let before: Vec<State> = self.tasks.all.iter().map(|task| task.state).collect();
        self.act(step).await;
        self.tasks.let_go();
        self.agrees().await;
        self.nobody_overtook(&before);
        assert!(
            !self.store().pass_on_left().await.unwrap().0,
            "an end is left"
        );
    }

    async fn act(&mut self, step: Step) {
        match step {
            Step::Enqueue(specs) => self.enqueue(specs).await,
            Step::Claim(which) => {
                if let Some(at) = self.in_state(State::Queued, which) {
                    self.claim(at).await;
                }
            }
            Step::Settle(which, state) => {
                if let Some(at) = self.in_state(State::Running, which) {
                    self.settle(at, state).await;
                }
            }
            Step::Kill => self.kill().await,
            Step::Cancel(which) => {
                let open = self.tasks.those(|task| !has_ended(task.state));
                if let Some(at) = pick(&open, which) {
                    self.cancel(at).await;
                }
            }
            Step::Revive(which) => {
                let over = self
                    .tasks
                    .those(|task| has_ended(task.state) || task.state == State::Parked);
                let these: BTreeSet<usize> = which
                    .iter()
                    .filter_map(|which| pick(&over, *which))
                    .collect();
                let names: Vec<String> = these.iter().map(|at| name(*at)).collect();
                self.store().revive(&names).await.unwrap();
                self.tasks.revive(&these);
            }
            Step::Skip(lane) => {
                self.store().skip(&key(lane)).await.unwrap();
                for at in self.tasks.in_lane(lane) {
                    if self.tasks.all[at].state == State::Dead {
                        self.tasks.lose_place(at);
                    }
                }
            }
            Step::Limit(lane, limit) => self.limit(lane, limit).await,
            Step::Expire(which) => self.aside(which, State::Expired).await,
            Step::Park(which) => self.aside(which, State::Parked).await,
            Step::Pass => {
                self.bench.clock.advance(PASS);
                self.store().due(&self.fence).await.unwrap();
                self.store().unpark(&["demo.work".into()]).await.unwrap();
                for at in self
                    .tasks
                    .those(|task| matches!(task.state, State::Waiting | State::Parked))
                {
                    self.tasks.all[at].state = State::Queued;
                }
                for task in &mut self.tasks.all {
                    task.later = false;
                }
            }
            Step::Die(which, state, then) => self.die(which, state, then).await,
        }
    }

    /// The task as it is enqueued, and its lane's limit from then on.
    fn message(&mut self, at: usize, spec: &Spec, after: &[(usize, When)]) -> Task {
        let mut new = task(&name(at));
        for (other, when) in after {
            new = new.after(name(*other), *when);
        }
        if let Some(lane) = spec.lane {
            new = new.in_lane(Lane {
                key: key(lane),
                limit: spec.limit,
                on_failure: spec.policy,
            });
            let limit = spec
                .limit
                .or_else(|| self.tasks.limits.get(&lane).copied())
                .unwrap_or(1);
            self.tasks.limits.insert(lane, limit);
        }
        if spec.later {
            new.run_at = Some(self.bench.clock.now() + 900_000);
        }
        new
    }

    async fn enqueue(&mut self, specs: Vec<Spec>) {
        let mut sent = Vec::new();
        for spec in specs {
            let known = self.tasks.all.len();
            if let Some(at) = spec
                .again
                .and_then(|which| pick(&(0..known).collect::<Vec<_>>(), which))
            {
                if !sent.iter().any(|task: &Task| task.id.as_str() == name(at)) {
                    sent.push(task(&name(at)));
                }
                continue;
            }
            let mut after: Vec<(usize, When)> = Vec::new();
            for (which, when) in spec.after.iter().copied() {
                if let Some(other) = (known > 0).then(|| which % known)
                    && !after.iter().any(|(there, _)| *there == other)
                {
                    after.push((other, when));
                }
            }
            sent.push(self.message(known, &spec, &after));
            let waits = spec.lane.is_some() || !after.is_empty();
            self.tasks.all.push(Model {
                state: match (waits, spec.later) {
                    (true, _) => State::Blocked,
                    (false, true) => State::Waiting,
                    (false, false) => State::Queued,
                },
                lane: spec.lane,
                place: None,
                last: None,
                policy: spec.policy,
                after,
                later: spec.later,
                released: false,
                epoch: None,
                crashes: 0,
                cancel: false,
            });
            if spec.lane.is_some() {
                self.tasks.give_place(known);
            }
        }
        self.widen();
        self.store().enqueue(&sent).await.unwrap();
        let names: BTreeSet<&str> = sent
            .iter()
            .flat_map(|task| &task.after)
            .map(|after| after.task.as_str())
            .collect();
        let all = 0..self.tasks.all.len();
        let named: Vec<usize> = all
            .filter(|at| names.contains(name(*at).as_str()))
            .collect();
        let doomed = self.tasks.doom(&named);
        self.tasks.pass_on(doomed);
    }

    fn widen(&mut self) {
        let wide = self.tasks.limits.iter().filter(|(_, limit)| **limit > 1);
        self.wide.extend(wide.map(|(lane, _)| *lane));
    }

    async fn claim(&mut self, at: usize) {
        let claimed = self.bench.claimed(&self.worker, &task(&name(at))).await;
        let task = &mut self.tasks.all[at];
        task.state = State::Running;
        task.epoch = Some(claimed.epoch);
        let Some(lane) = task.lane else {
            assert_eq!(claimed.token, claimed.epoch.get());
            return;
        };
        if !self.wide.contains(&lane) {
            let last = self.tokens.insert(lane, claimed.token).unwrap_or_default();
            assert!(
                last < claimed.token,
                "tokens grow: {last} {}",
                claimed.token
            );
        }
    }

    fn is_canceled(task: &mut Model, state: State) -> State {
        let again = matches!(state, State::Queued | State::Waiting);
        if std::mem::take(&mut task.cancel) && again {
            State::Canceled
        } else {
            state
        }
    }

    async fn settle(&mut self, at: usize, state: State) {
        let settlement = Settlement {
            state: Some(state),
            delay: 500,
            failed: state == State::Dead,
            ..Settlement::default()
        };
        let items = [(id(&name(at)), self.tasks.all[at].epoch.unwrap(), settlement)];
        assert_eq!(self.store().settle(&items).await.unwrap().0.len(), 1);
        let state = Self::is_canceled(&mut self.tasks.all[at], state);
        self.tasks.all[at].state = state;
        self.tasks.pass_on(vec![at]);
    }

    async fn kill(&mut self) {
        self.store().leave(&self.worker).await.unwrap();
        self.worker = self.bench.worker().await;
        self.store().rescue(&self.fence, CRASH_LIMIT).await.unwrap();
        let held = self.tasks.those(|task| task.state == State::Running);
        for at in &held {
            let task = &mut self.tasks.all[*at];
            task.crashes += 1;
            let state = if task.crashes >= CRASH_LIMIT && !task.cancel {
                State::Dead
            } else {
                State::Queued
            };
            task.state = Self::is_canceled(task, state);
        }
        self.tasks.pass_on(held);
    }

    async fn cancel(&mut self, at: usize) {
        self.store().cancel(&name(at), "by hand").await.unwrap();
        let task = &mut self.tasks.all[at];
        if task.state == State::Running {
            task.cancel = true;
            return;
        }
        task.state = State::Canceled;
        task.after.clear();
        self.tasks.pass_on(vec![at]);
    }

    async fn limit(&mut self, lane: usize, limit: u32) {
        let (known, _) = self.store().set_limit(&key(lane), limit).await.unwrap();
        assert_eq!(known, self.tasks.limits.contains_key(&lane));
        if known {
            self.tasks.limits.insert(lane, limit);
            self.widen();
        }
    }

    async fn aside(&mut self, which: usize, state: State) {
        if let Some(at) = self.in_state(State::Queued, which) {
            let item = SetAside {
                task: task(&name(at)),
                state,
                reason: None,
            };
            self.store().set_aside(&[item]).await.unwrap();
            self.tasks.all[at].state = state;
            self.tasks.pass_on(vec![at]);
        }
    }

    async fn die(&mut self, which: usize, state: State, then: Option<Box<Step>>) {
        let from = if state == State::Canceled {
            State::Blocked
        } else {
            State::Running
        };
        let Some(at) = self.in_state(from, which) else {
            return;
        };
        let waive = if state == State::Canceled {
            format!("; delete from task_after where task_id = '{}'", name(at))
        } else {
            String::new()
        };
        let sql = format!(
            "update tasks set state = '{}', worker = null, cancel = 0, ended_at = {} where id = '{}'{waive}",
            state.as_str(),
            self.bench.clock.now(),
            name(at)
        );
        self.bench.execute(&sql).await;
        let task = &mut self.tasks.all[at];
        (task.state, task.cancel) = (state, false);
        if state == State::Canceled {
            task.after.clear();
        }
        if let Some(then) = then {
            Box::pin(self.act(*then)).await;
        }
        while self.store().pass_on_left().await.unwrap().0 {}
        if has_ended(self.tasks.all[at].state) {
            self.tasks.pass_on(vec![at]);
        }
    }

    async fn agrees(&self) {
        for lane in 0..LANES {
            let found = self.store().lane(&key(lane), 1000).await.unwrap();
            let found: Vec<(String, State)> = found
                .into_iter()
                .map(|entry| (entry.id, entry.state))
                .collect();
            let expected = self.tasks.in_lane(lane).into_iter();
            let expected: Vec<(String, State)> = expected
                .map(|at| (name(at), self.tasks.all[at].state))
                .collect();
            assert_eq!(found, expected, "lane {lane}");
        }
        let filter = Filter {
            id: None,
            state: None,
            most: 10_000,
        };
        let found = self.store().tasks(&filter).await.unwrap();
        let found: BTreeMap<String, State> = found
            .into_iter()
            .map(|view| (view.id, view.state))
            .collect();
        let expected: BTreeMap<String, State> = self
            .tasks
            .all
            .iter()
            .enumerate()
            .map(|(at, task)| (name(at), task.state))
            .collect();
        assert_eq!(found, expected);
    }

    /// Of those that this step let go, which is judged by what the model says now; and it agrees with the store.
    fn nobody_overtook(&self, before: &[State]) {
        let holds = |at: &usize| !matches!(self.tasks.all[*at].state, State::Blocked | State::Dead);
        for (lane, limit) in &self.tasks.limits {
            let entries = self.tasks.in_lane(*lane);
            let let_go: Vec<usize> = entries
                .iter()
                .copied()
                .filter(|at| {
                    holds(at)
                        && before.get(*at).is_none_or(|state| {
                            !matches!(
                                state,
                                State::Queued | State::Waiting | State::Parked | State::Running
                            )
                        })
                })
                .collect();
            let Some(last) = let_go
                .iter()
                .filter_map(|at| self.tasks.all[*at].place)
                .max()
            else {
                continue;
            };
            let holding = entries.iter().copied().filter(holds).count();
            assert!(
                holding <= *limit as usize,
                "{holding} of {limit} run in lane {lane}"
            );
            let overtaken = entries
                .iter()
                .copied()
                .filter(|at| self.tasks.all[*at].place < Some(last) && !holds(at));
            assert_eq!(
                overtaken.count(),
                0,
                "somebody was overtaken in lane {lane}"
            );
        }
        for (at, task) in self.tasks.all.iter().enumerate() {
            let waits = task.state == State::Blocked && task.lane.is_none();
            assert!(!waits || !self.tasks.is_ready(at), "{} could run", name(at));
        }
    }

    /// Whatever was random so far: once everything that failed is skipped and everything else runs, nothing is left.
    async fn drains(&mut self) {
        loop {
            while self.in_state(State::Queued, 0).is_some() {
                self.take(Step::Claim(0)).await;
            }
            if self.in_state(State::Running, 0).is_some() {
                self.take(Step::Settle(0, State::Done)).await;
            } else if !self
                .tasks
                .those(|task| matches!(task.state, State::Waiting | State::Parked))
                .is_empty()
            {
                self.take(Step::Pass).await;
            } else if let Some(lane) = (0..LANES).find(|lane| {
                self.tasks
                    .in_lane(*lane)
                    .iter()
                    .any(|at| self.tasks.all[*at].state == State::Dead)
            }) {
                self.take(Step::Skip(lane)).await;
            } else {
                break;
            }
        }
        let left = self.tasks.those(|task| task.state == State::Blocked);
        assert!(
            left.is_empty(),
            "these never run: {left:?} {:?}",
            self.tasks
        );
    }
}

fn play(back_end: BackEnd, steps: Vec<Step>) {
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()
        .unwrap();
    runtime.block_on(Bench::run(back_end, async |bench| {
        let mut world = World::new(bench).await;
        for step in steps {
            world.take(step).await;
        }
        world.drains().await;
    }));
}

/// The same histories in every run, so that a change is judged by itself; `PROPTEST_CASES` asks for so many others.
fn config(cases: u32) -> ProptestConfig {
    let others = std::env::var("PROPTEST_CASES").ok();
    let others = others.and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: others.unwrap_or(cases),
        rng_seed: others.map_or(RngSeed::Fixed(1), |_| RngSeed::Random),
        max_shrink_iters: 400,
        ..ProptestConfig::default()
    }
}

proptest! {
    #![proptest_config(config(64))]

    #[test]
    fn sqlite_agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..50)) {
        play(BackEnd::Sqlite, steps);
    }
}

proptest! {
    #![proptest_config(config(12))]

    #[test]
    fn postgres_agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..50)) {
        play(BackEnd::Postgres, steps);
    }
}
