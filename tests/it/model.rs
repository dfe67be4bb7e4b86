//! Random histories of deliveries, claims, checkpoints, deaths, rescues and outcomes, against a model that is naive
//! enough to be read: the store agrees with it after every step.

use std::collections::BTreeMap;
use std::time::Duration;

use longshore::id::{Epoch, TaskId, WorkerId};
use longshore::store::{ClaimAnswer, Fence, Settlement, State, Store, StoreError};
use longshore::task::Task;
use proptest::prelude::*;
use serde_json::{Value, json};

use crate::harness::{BackEnd, Bench};

const TASKS: usize = 3;
const WORKERS: usize = 3;
const CRASH_LIMIT: u32 = 3;

#[derive(Debug, Clone)]
enum Step {
    /// A message for the task reaches the worker.
    Deliver(usize, usize),
    Checkpoint(usize, usize, u8),
    Complete(usize, usize),
    Fail(usize, usize),
    HandOff(usize, usize),
    /// The worker ends without a word; another life of it begins.
    Kill(usize),
    /// The leader looks.
    Rescue,
    /// A second passes, and what is due may run.
    Pass,
    Cancel(usize),
    Revive(usize),
}

fn step() -> impl Strategy<Value = Step> {
    let (task, worker) = (0..TASKS, 0..WORKERS);
    let pair = (worker.clone(), task.clone());
    prop_oneof![
        6 => pair.clone().prop_map(|(w, t)| Step::Deliver(w, t)),
        4 => (pair.clone(), any::<u8>()).prop_map(|((w, t), value)| Step::Checkpoint(w, t, value)),
        2 => pair.clone().prop_map(|(w, t)| Step::Complete(w, t)),
        2 => pair.clone().prop_map(|(w, t)| Step::Fail(w, t)),
        2 => pair.prop_map(|(w, t)| Step::HandOff(w, t)),
        2 => worker.prop_map(Step::Kill),
        2 => Just(Step::Rescue),
        2 => Just(Step::Pass),
        1 => task.clone().prop_map(Step::Cancel),
        1 => task.prop_map(Step::Revive),
    ]
}

/// A task as the model sees it.
#[derive(Debug, Clone, PartialEq)]
struct Model {
    state: State,
    epoch: i64,
    owner: Option<WorkerId>,
    checkpoint: Option<u8>,
    failures: u32,
    crashes: u32,
    cancel: bool,
}

/// A worker's life, and what it believes to run.
struct Life {
    id: WorkerId,
    runs: BTreeMap<usize, i64>,
}

struct World {
    bench: Bench,
    fence: Fence,
    workers: Vec<Life>,
    /// Lives that have ended and that the leader has not yet seen.
    dead: Vec<WorkerId>,
    tasks: BTreeMap<usize, Model>,
}

impl World {
    async fn new(bench: Bench) -> Self {
        let fence = bench.leader().await;
        let mut workers = Vec::new();
        for _ in 0..WORKERS {
            workers.push(Life {
                id: bench.worker().await,
                runs: BTreeMap::new(),
            });
        }
        Self {
            bench,
            fence,
            workers,
            dead: Vec::new(),
            tasks: BTreeMap::new(),
        }
    }

    fn store(&self) -> &Store {
        &self.bench.store
    }

    async fn take(&mut self, step: Step) {
        match step {
            Step::Deliver(worker, task) => self.deliver(worker, task).await,
            Step::Checkpoint(worker, task, value) => self.checkpoint(worker, task, value).await,
            Step::Complete(worker, task) => self.settle(worker, task, State::Done, false).await,
            Step::Fail(worker, task) => self.settle(worker, task, State::Waiting, true).await,
            Step::HandOff(worker, task) => self.settle(worker, task, State::Queued, false).await,
            Step::Kill(worker) => {
                let fresh = self.bench.worker().await;
                let old = std::mem::replace(
                    &mut self.workers[worker],
                    Life {
                        id: fresh,
                        runs: BTreeMap::new(),
                    },
                );
                self.store().leave(&old.id).await.unwrap();
                self.dead.push(old.id);
            }
            Step::Rescue => self.rescue().await,
            Step::Pass => {
                self.bench.clock.advance(Duration::from_secs(1));
                self.store().due(&self.fence).await.unwrap();
                for model in self
                    .tasks
                    .values_mut()
                    .filter(|model| model.state == State::Waiting)
                {
                    model.state = State::Queued;
                }
            }
            Step::Cancel(task) => {
                self.store().cancel(&name(task), "by hand").await.unwrap();
                if let Some(model) = self.tasks.get_mut(&task) {
                    match model.state {
                        State::Queued | State::Waiting | State::Parked | State::Blocked => {
                            model.state = State::Canceled
                        }
                        State::Running => model.cancel = true,
                        State::Done | State::Dead | State::Canceled | State::Expired => {}
                    }
                }
            }
            Step::Revive(task) => {
                self.store().revive(&[name(task)]).await.unwrap();
                if let Some(model) = self.tasks.get_mut(&task)
                    && matches!(model.state, State::Dead | State::Canceled)
                {
                    (model.state, model.failures, model.crashes) = (State::Queued, 0, 0);
                }
            }
        }
        self.agrees().await;
    }

    async fn deliver(&mut self, worker: usize, task: usize) {
        let message = Task::new("demo", "work").with_id(name(task));
        let id = self.workers[worker].id.clone();
        let answer = self.bench.claim(&id, &message).await;
        let model = self.tasks.entry(task).or_insert(Model {
            state: State::Queued,
            epoch: 0,
            owner: None,
            checkpoint: None,
            failures: 0,
            crashes: 0,
            cancel: false,
        });
        if model.state == State::Queued {
            model.epoch += 1;
            (model.state, model.owner) = (State::Running, Some(id.clone()));
            self.workers[worker].runs.insert(task, model.epoch);
            let ClaimAnswer::Claimed(claimed) = answer else {
                panic!("{task} was free and is {answer:?}")
            };
            assert_eq!(claimed.epoch.get(), model.epoch);
            assert_eq!(
                claimed.checkpoint,
                model.checkpoint.map(Value::from),
                "it goes on where the last attempt was"
            );
            return;
        }
        match answer {
            ClaimAnswer::Claimed(claimed) => {
                panic!("{task} was claimed twice: {claimed:?} {model:?}")
            }
            ClaimAnswer::Busy {
                worker: owner,
                epoch,
            } => {
                assert_eq!(
                    (Some(owner), epoch.get(), State::Running),
                    (model.owner.clone(), model.epoch, model.state)
                );
            }
            ClaimAnswer::Not(state) => assert_eq!(state, model.state),
            ClaimAnswer::Lost => panic!("{task}: its worker lives"),
        }
    }

    /// The task that a worker believes to run, if it does.
    fn believed(&self, worker: usize, task: usize) -> Option<(TaskId, Epoch, bool)> {
        let epoch = *self.workers[worker].runs.get(&task)?;
        let model = &self.tasks[&task];
        let holds = model.state == State::Running && model.epoch == epoch;
        let epoch = serde_json::from_value(json!(epoch)).unwrap();
        Some((TaskId::new(name(task)), epoch, holds))
    }

    async fn checkpoint(&mut self, worker: usize, task: usize, value: u8) {
        let Some((id, epoch, holds)) = self.believed(worker, task) else {
            return;
        };
        let answer = self
            .store()
            .checkpoint(&id, epoch, Some(&json!(value)), None, Vec::new())
            .await;
        match answer {
            Ok(_) => assert!(holds, "a stale epoch has saved"),
            Err(StoreError::Stale { .. }) => assert!(!holds, "the holder could not save"),
            Err(error) => panic!("{error}"),
        }
        if holds && let Some(model) = self.tasks.get_mut(&task) {
            model.checkpoint = Some(value);
        }
    }

    async fn settle(&mut self, worker: usize, task: usize, state: State, failed: bool) {
        let Some((id, epoch, holds)) = self.believed(worker, task) else {
            return;
        };
        let settlement = Settlement {
            state: Some(state),
            delay: 500,
            failed,
            ..Settlement::default()
        };
        let (settled, _) = self
            .store()
            .settle(&[(id.clone(), epoch, settlement)])
            .await
            .unwrap();
        assert_eq!(
            settled.contains(&id),
            holds,
            "an outcome is accepted of the holder, and of nobody else"
        );
        self.workers[worker].runs.remove(&task);
        if holds && let Some(model) = self.tasks.get_mut(&task) {
            let again = matches!(state, State::Queued | State::Waiting);
            model.state = if model.cancel && again {
                State::Canceled
            } else {
                state
            };
            model.failures = if state == State::Waiting && !failed {
                0
            } else {
                model.failures + u32::from(failed)
            };
            if state == State::Done {
                model.checkpoint = None;
            }
            (model.owner, model.cancel) = (None, false);
        }
    }

    async fn rescue(&mut self) {
        self.store().rescue(&self.fence, CRASH_LIMIT).await.unwrap();
        for model in self.tasks.values_mut() {
            if model.state == State::Running
                && model
                    .owner
                    .as_ref()
                    .is_some_and(|owner| self.dead.contains(owner))
            {
                model.crashes += 1;
                model.state = if model.cancel {
                    State::Canceled
                } else if model.crashes >= CRASH_LIMIT {
                    State::Dead
                } else {
                    State::Queued
                };
                (model.owner, model.cancel) = (None, false);
            }
        }
        self.dead.clear();
    }

    async fn agrees(&self) {
        for (task, model) in &self.tasks {
            let view = self.bench.view(&name(*task)).await;
            let found = (
                view.state,
                view.epoch.get(),
                view.worker.map(WorkerId::new),
                view.failures,
                view.crashes,
            );
            let expected = (
                model.state,
                model.epoch,
                model.owner.clone(),
                model.failures,
                model.crashes,
            );
            assert_eq!(found, expected, "task {task}");
        }
    }
}

fn name(task: usize) -> String {
    format!("task-{task}")
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_store_agrees_with_a_naive_model(steps in prop::collection::vec(step(), 1..60)) {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        runtime.block_on(Bench::run(BackEnd::Sqlite, async |bench| {
            let mut world = World::new(bench).await;
            for step in steps {
                world.take(step).await;
            }
        }));
    }
}
