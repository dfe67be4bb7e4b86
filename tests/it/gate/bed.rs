//! A gate whose workers are played by the test: each task ends as the test says, through the verbs that a worker uses.

use longshore::gate::{Entry, NewEntry, Settings, Spec, Step, Test, Verb};
use longshore::id::{Epoch, TaskId, WorkerId};
use longshore::store::{ClaimAnswer, ClaimRequest, Settlement, State, StoreError};
use longshore::task::Task;
use serde_json::{Value, json};

use crate::harness::{Bench, LONG, task};

/// The gate's name, where nothing else is said.
pub(crate) const GATE: &str = "g";

/// A gate on a store.
pub(crate) struct Bed {
    pub(crate) bench: Bench,
    pub(crate) worker: WorkerId,
    pub(crate) gate: String,
    settings: std::sync::Mutex<Settings>,
}

/// A step of a handler of this name.
pub(crate) fn step(name: &str) -> Step {
    Step {
        task: name.into(),
        queue: "work".into(),
        kwargs: serde_json::Map::default(),
    }
}

/// A test that votes.
pub(crate) fn voting(key: &str) -> Test {
    Test {
        key: key.into(),
        step: step(key),
        voting: true,
        after: Vec::new(),
        after_any: Vec::new(),
        provides: Vec::new(),
        requires: Vec::new(),
    }
}

/// An entry with one test, `unit`, and all of the other steps.
pub(crate) fn entry(id: &str) -> NewEntry {
    with_tests(id, vec![voting("unit")])
}

/// An entry with these tests.
pub(crate) fn with_tests(id: &str, tests: Vec<Test>) -> NewEntry {
    NewEntry {
        id: id.into(),
        spec: Spec {
            tests,
            publish: step("publish"),
            verify: Some(step("verify")),
            probe: Some(step("probe")),
            revert: Some(step("revert")),
            report: None,
        },
        ..NewEntry::default()
    }
}

/// The same entry, once these are published.
pub(crate) fn needs(entry: NewEntry, needs: &[&str]) -> NewEntry {
    NewEntry {
        needs: needs.iter().map(|&need| need.to_owned()).collect(),
        ..entry
    }
}

impl Bed {
    pub(crate) async fn new(bench: Bench) -> Self {
        Self::of(bench, GATE).await
    }

    /// The gate of this name.
    pub(crate) async fn of(bench: Bench, gate: &str) -> Self {
        let worker = bench.worker().await;
        let settings = std::sync::Mutex::default();
        Self {
            bench,
            worker,
            gate: gate.into(),
            settings,
        }
    }

    /// The whole id of one of its tasks.
    pub(crate) fn full(&self, id: &str) -> String {
        format!("gate/{}/{id}", self.gate)
    }

    /// What the gate is to work like.
    pub(crate) async fn configure(&self, settings: Settings) {
        *self.settings.lock().unwrap() = settings;
        self.enqueue([]).await;
    }

    pub(crate) async fn enqueue(&self, entries: impl IntoIterator<Item = NewEntry>) {
        self.ask(self.enqueueing(entries)).await;
    }

    pub(crate) fn enqueueing(&self, entries: impl IntoIterator<Item = NewEntry>) -> Verb {
        let settings = self.settings.lock().unwrap().clone();
        Verb::Enqueue(settings, entries.into_iter().collect())
    }

    pub(crate) async fn ask(&self, verb: Verb) -> Vec<String> {
        self.bench.store.gate(&self.gate, &verb).await.unwrap().0
    }

    /// Why a verb is refused; nothing has changed by it.
    pub(crate) async fn refused(&self, verb: Verb) -> String {
        let before = self.states().await;
        let StoreError::Gate { reason } =
            self.bench.store.gate(&self.gate, &verb).await.unwrap_err()
        else {
            panic!("{verb:?} is refused otherwise")
        };
        assert_eq!(self.states().await, before);
        reason
    }

    /// Its entries that have not ended, in order, with their states.
    pub(crate) async fn states(&self) -> String {
        let view = self.bench.store.gate_view(&self.gate).await.unwrap();
        words(view.unwrap().entries.iter())
    }

    /// Those that have ended, in the order in which they did.
    pub(crate) async fn ended(&self) -> String {
        let ended = self.bench.store.gate_ended(&self.gate, 100).await.unwrap();
        let mut ended: Vec<Entry> = ended.into_iter().map(|(entry, _)| entry).collect();
        ended.reverse();
        ended.sort_by_key(|entry| entry.since);
        words(ended.iter())
    }

    /// How many run tests.
    pub(crate) async fn window(&self) -> u32 {
        let view = self.bench.store.gate_view(&self.gate).await.unwrap();
        view.unwrap().gate.window
    }

    pub(crate) async fn find(&self, id: &str) -> Entry {
        let view = self
            .bench
            .store
            .gate_view(&self.gate)
            .await
            .unwrap()
            .unwrap();
        let live = view.entries.into_iter();
        let ended = self.bench.store.gate_ended(&self.gate, 100).await.unwrap();
        live.chain(ended.into_iter().map(|(entry, _)| entry))
            .find(|entry| entry.id() == id)
            .unwrap()
    }

    /// What an entry is tested on, beside what was published.
    pub(crate) async fn base(&self, id: &str) -> Vec<String> {
        let base = self.find(id).await.base.into_iter();
        base.map(|ahead| format!("{}@{}", ahead.entry, ahead.generation))
            .collect()
    }

    /// The gate's tasks that have not ended, in the order of their names.
    pub(crate) async fn open(&self) -> Vec<String> {
        let filter = longshore::store::Filter {
            id: None,
            state: None,
            most: 10_000,
        };
        let all = self.bench.store.tasks(&filter).await.unwrap();
        let open = all.into_iter().filter(|view| {
            matches!(
                view.state,
                State::Queued | State::Waiting | State::Blocked | State::Running | State::Parked
            )
        });
        let prefix = self.full("");
        let mut ids: Vec<String> = open
            .filter_map(|view| view.id.strip_prefix(&prefix).map(str::to_owned))
            .collect();
        ids.sort();
        ids
    }

    pub(crate) async fn task(&self, id: &str) -> Task {
        serde_json::from_str(&self.bench.view(&self.full(id)).await.task).unwrap()
    }

    /// What a task is told of its entry.
    pub(crate) async fn told(&self, id: &str) -> Value {
        self.task(id).await.kwargs["gate"].clone()
    }

    pub(crate) async fn task_state(&self, id: &str) -> &'static str {
        self.bench.view(&self.full(id)).await.state.as_str()
    }

    /// A worker begins a task.
    pub(crate) async fn begins(&self, id: &str) -> Epoch {
        let full = self.full(id);
        let queue = self.bench.view(&full).await.queue;
        let task = Task {
            queue,
            ..task(&full)
        };
        self.bench.claimed(&self.worker, &task).await.epoch
    }

    /// Ends a task, and looks that nobody else has to pass that on.
    pub(crate) async fn settles(&self, id: &str, epoch: Epoch, settlement: Settlement) {
        let items = [(TaskId::new(self.full(id)), epoch, settlement)];
        let (settled, _) = self.bench.store.settle(&items).await.unwrap();
        assert_eq!(settled.len(), 1);
    }

    pub(crate) async fn returns(&self, id: &str, result: Value) {
        let epoch = self.begins(id).await;
        let settlement = Settlement {
            state: Some(State::Done),
            result: Some(result),
            ..Settlement::default()
        };
        self.settles(id, epoch, settlement).await;
    }

    /// A task does what it should.
    pub(crate) async fn done(&self, id: &str) {
        self.returns(id, json!({ "by": id })).await;
    }

    /// A task fails for good.
    pub(crate) async fn fails(&self, id: &str) {
        let epoch = self.begins(id).await;
        let settlement = Settlement {
            state: Some(State::Dead),
            failed: true,
            reason: Some("it does not work".into()),
            ..Settlement::default()
        };
        self.settles(id, epoch, settlement).await;
    }

    /// A task's worker gives it up while it runs.
    pub(crate) async fn dies(&self, id: &str) {
        let epoch = self.begins(id).await;
        let settlement = Settlement {
            state: Some(State::Queued),
            interrupted: true,
            ..Settlement::default()
        };
        self.settles(id, epoch, settlement).await;
    }

    /// A test's worker fails it, and it is to be run again.
    pub(crate) async fn fails_for_now(&self, id: &str) {
        let epoch = self.begins(id).await;
        let settlement = Settlement {
            state: Some(State::Waiting),
            failed: true,
            reason: Some("the mirror does not answer".into()),
            ..Settlement::default()
        };
        self.settles(id, epoch, settlement).await;
    }

    /// The worker that began a task is lost; whoever is lost so often ends it.
    pub(crate) async fn loses(&self, id: &str, limit: u32) {
        let (store, member) = self.bench.other_worker(LONG).await;
        let task = task(&self.full(id));
        let answers = store.claim(&member.id, &[ClaimRequest::once(&task)]).await;
        assert!(matches!(answers.unwrap()[0], ClaimAnswer::Claimed(_)));
        let leader = WorkerId::fresh();
        let fence = self.bench.store.lead("maintenance", &leader, LONG).await;
        let fence = fence.unwrap().unwrap();
        store.leave(&member.id).await.unwrap();
        self.bench.store.rescue(&fence, limit).await.unwrap();
        let store = &self.bench.store;
        store.yield_lead("maintenance", &leader).await.unwrap();
    }

    /// What the maintenance leader does of a gate at each look.
    pub(crate) async fn look(&self) {
        self.bench.store.pass_on_left().await.unwrap();
        for gate in self.bench.store.gates_left(false).await.unwrap() {
            self.bench.store.gate_step(&gate).await.unwrap();
        }
    }

    /// All that is left of the entry at the head does what it should.
    pub(crate) async fn lands(&self, id: &str) {
        while let Some(next) = self
            .open()
            .await
            .into_iter()
            .find(|task| task.starts_with(&format!("{id}/")))
        {
            self.done(&next).await;
        }
        assert_eq!(self.find(id).await.state.as_str(), "published");
    }
}

fn words<'a>(entries: impl Iterator<Item = &'a Entry>) -> String {
    let words = entries.map(|entry| format!("{}:{}", entry.id(), entry.state.as_str()));
    words.collect::<Vec<_>>().join(" ")
}
