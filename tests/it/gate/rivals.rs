//! Many processes at once on two gates: whoever ends a task looks at its gate, and so does everybody else. No step is lost, one
//! publishes at a time, in order, on what was tested, and each entry is reported once.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, Mutex};

use longshore::gate::{NewEntry, Settings, State as Stands, Test, Verb};
use longshore::id::WorkerId;
use longshore::store::{ClaimAnswer, ClaimRequest, Filter, Settlement, State, Store, StoreError};
use longshore::task::Task;
use serde_json::{Value, json};

use super::bed::{step, voting, with_tests};
use crate::harness::{BackEnd, Bench, LIMIT, LONG, task, wait_until};

const RIVALS: u64 = 4;
const GATES: [&str; 2] = ["one", "two"];

/// What the rivals have in common.
#[derive(Debug, Default)]
struct Shared {
    /// What is published, in the order in which it was done.
    done: Mutex<Vec<String>>,
    /// Who publishes in each gate.
    publishing: Mutex<HashMap<String, String>>,
    /// How often each report was made.
    reports: Mutex<BTreeMap<String, u32>>,
    /// How many entries each gate was given.
    made: Mutex<HashMap<String, usize>>,
}

struct Rival {
    store: Store,
    worker: WorkerId,
    shared: Arc<Shared>,
    random: u64,
    number: u64,
    made: u64,
}

fn ended(state: State, result: Option<Value>) -> Settlement {
    Settlement {
        state: Some(state),
        failed: state == State::Dead,
        interrupted: state == State::Queued,
        result,
        ..Settlement::default()
    }
}

/// `gate/GATE/ENTRY/…`
fn parts(id: &str) -> (String, String, String) {
    let parts: Vec<&str> = id.split('/').collect();
    (parts[1].into(), parts[2].into(), parts[3].into())
}

fn entry(id: &str) -> NewEntry {
    let lint = Test {
        voting: false,
        ..voting("lint")
    };
    let mut entry = with_tests(id, vec![voting("unit"), lint]);
    entry.spec.report = Some(step("report"));
    entry
}

async fn in_state(store: &Store, state: State) -> Vec<String> {
    let filter = Filter {
        id: None,
        state: Some(state),
        most: 10_000,
    };
    let found = store.tasks(&filter).await.unwrap();
    found.into_iter().map(|view| view.id).collect()
}

impl Rival {
    /// Any number below `below`.
    fn any(&mut self, below: u64) -> u64 {
        // Knuth's generator: the same steps in each run, whatever their order among the rivals.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn gate(&mut self) -> &'static str {
        GATES[usize::try_from(self.any(2)).unwrap()]
    }

    /// What somebody else has done first is refused, and no error.
    async fn ask(&self, gate: &str, verb: Verb) -> bool {
        match self.store.gate(gate, &verb).await {
            Ok(_) => true,
            Err(StoreError::Gate { .. } | StoreError::Stale { .. }) => false,
            Err(error) => panic!("{verb:?}: {error}"),
        }
    }

    async fn enqueue(&mut self) {
        let gate = self.gate();
        let mut new = Vec::new();
        for _ in 0..=self.any(2) {
            self.made += 1;
            new.push(entry(&format!("e{}-{}", self.number, self.made)));
        }
        let count = new.len();
        let verb = Verb::Enqueue(Settings::default(), new);
        while !self.ask(gate, verb.clone()).await {}
        *self
            .shared
            .made
            .lock()
            .unwrap()
            .entry(gate.into())
            .or_default() += count;
    }

    /// Takes up to `most` tasks of any gates, and ends them in one commit; `well`: as they should.
    async fn work(&mut self, most: u64, well: bool) -> bool {
        let queued = in_state(&self.store, State::Queued).await;
        let mut items = Vec::new();
        for _ in 0..=self.any(most) {
            let which = usize::try_from(self.any(12)).unwrap();
            let Some(id) = queued.get(if well { items.len() } else { which }) else {
                continue;
            };
            let wanted: Task = task(id);
            let answer = self
                .store
                .claim(&self.worker, &[ClaimRequest::once(&wanted)])
                .await;
            if let ClaimAnswer::Claimed(claimed) = answer.unwrap().remove(0) {
                let settlement = self.ends(id, well);
                items.push((wanted.id, claimed.epoch, settlement));
            }
        }
        if items.is_empty() {
            return !queued.is_empty();
        }
        // Who publishes has done so, or has not; from here on another may.
        for (id, ..) in &items {
            let (gate, _, role) = parts(id.as_str());
            if role == "publish" || role == "revert" {
                let held = self.shared.publishing.lock().unwrap().remove(&gate);
                assert_eq!(held.as_deref(), Some(id.as_str()));
            }
        }
        let (settled, _) = self.store.settle(&items).await.unwrap();
        assert_eq!(settled.len(), items.len(), "nobody else holds them");
        !queued.is_empty()
    }

    /// Does what a task does, and says how it ended.
    fn ends(&mut self, id: &str, well: bool) -> Settlement {
        let (gate, entry, role) = parts(id);
        let luck = if well { 99 } else { self.any(100) };
        let name = format!("{gate}/{entry}");
        let mut done = self.shared.done.lock().unwrap();
        if role == "publish" || role == "revert" {
            let other = self
                .shared
                .publishing
                .lock()
                .unwrap()
                .insert(gate, id.into());
            assert_eq!(other, None, "{id} is not the only one");
        }
        match role.as_str() {
            "publish" => {
                assert!(!done.contains(&name), "{name} is published twice");
                let does = luck >= 10 && luck % 10 != 1;
                if does {
                    done.push(name);
                }
                match luck {
                    10..30 => ended(State::Queued, None),
                    _ if does => ended(State::Done, None),
                    _ => ended(State::Dead, None),
                }
            }
            "revert" => {
                done.retain(|published| *published != name);
                ended(State::Done, None)
            }
            "probe" => {
                let there = done.contains(&name);
                ended(
                    State::Done,
                    Some(json!(if there { "done" } else { "absent" })),
                )
            }
            "report" => {
                *self.shared.reports.lock().unwrap().entry(name).or_default() += 1;
                ended(State::Done, None)
            }
            _ if luck < 12 => ended(State::Dead, None),
            "verify" => ended(State::Done, None),
            _ if luck < 18 => ended(State::Queued, None),
            _ => ended(State::Done, Some(json!(id))),
        }
    }

    /// Decides about an entry that is held. Only one does: it looks first.
    async fn decide(&mut self, gate: &str) -> bool {
        let Some(view) = self.store.gate_view(gate).await.unwrap() else {
            return false;
        };
        let Some(head) = view
            .entries
            .first()
            .filter(|head| head.state == Stands::Held)
        else {
            return false;
        };
        let name = format!("{gate}/{}", head.id());
        let there = self.shared.done.lock().unwrap().contains(&name);
        let verb = match self.any(3) {
            0 if there => Verb::Accept,
            1 => Verb::Revert,
            _ => Verb::Retry,
        };
        self.ask(gate, verb).await
    }

    async fn step(&mut self) {
        let gate = self.gate();
        match self.any(20) {
            0..3 => self.enqueue().await,
            3..15 => {
                self.work(3, false).await;
            }
            15 | 16 => drop(self.store.gate_step(gate).await.unwrap()),
            17 if self.number == 0 => {
                self.decide(gate).await;
            }
            _ => {
                let view = self.store.gate_view(gate).await.unwrap();
                let (published, entries) = view
                    .map(|view| (view.gate.published, view.entries))
                    .unwrap_or_default();
                let mut since = entries.iter().map(|entry| entry.published_before);
                assert!(since.all(|before| before <= published), "of two moments");
                let which = usize::try_from(self.any(6)).unwrap();
                if let Some(entry) = entries.get(which) {
                    let id = entry.id().to_owned();
                    let verb = match self.any(4) {
                        0 => Verb::Dequeue(id),
                        _ => Verb::Promote(id),
                    };
                    self.ask(gate, verb).await;
                }
            }
        }
    }
}

/// What is left is done by one who does what he should, and a leader who passes on.
async fn drain(bench: &Bench, rival: &mut Rival) {
    loop {
        while bench.store.pass_on_left().await.unwrap().0 {}
        for gate in bench.store.gates_left(true).await.unwrap() {
            bench.store.gate_step(&gate).await.unwrap();
        }
        let mut moved = rival.work(8, true).await;
        for gate in GATES {
            moved |= rival.decide(gate).await;
        }
        if !moved {
            break;
        }
    }
}

async fn ends_well(bench: &Bench, shared: &Shared, gate: &str) {
    let view = bench.store.gate_view(gate).await.unwrap().unwrap();
    assert!(
        view.entries.is_empty(),
        "these never end: {:?}",
        view.entries
    );
    let ended = bench.store.gate_ended(gate, 10_000).await.unwrap();
    assert_eq!(
        ended.len(),
        shared.made.lock().unwrap()[gate],
        "each ends once"
    );
    let mut published: Vec<_> = ended.iter().map(|(entry, _)| entry).collect();
    for entry in &published {
        let name = format!("{gate}/{}", entry.id());
        assert_eq!(
            shared.reports.lock().unwrap().get(&name),
            Some(&1),
            "reports of {name}"
        );
    }
    published.retain(|entry| entry.state == Stands::Published);
    published.sort_by_key(|entry| entry.published);
    let sequence: Vec<(String, u32)> = published
        .iter()
        .map(|entry| (entry.id().to_owned(), entry.generation))
        .collect();
    for (at, entry) in published.iter().enumerate() {
        assert_eq!(entry.published, Some(at as u64 + 1), "{gate}");
        let before = usize::try_from(entry.published_before).unwrap();
        let base = entry
            .base
            .iter()
            .map(|ahead| (ahead.entry.clone(), ahead.generation));
        let tested: Vec<_> = sequence[..before].iter().cloned().chain(base).collect();
        assert_eq!(
            tested,
            sequence[..at],
            "{} was published on something else",
            entry.id()
        );
    }
    let done = shared.done.lock().unwrap();
    let done = done
        .iter()
        .filter_map(|name| name.strip_prefix(&format!("{gate}/")));
    let sequence = sequence.iter().map(|(id, _)| id.as_str());
    assert!(done.eq(sequence), "published in another order");
}

async fn rivals(bench: Bench, seed: u64, steps: usize) {
    let shared = Arc::new(Shared::default());
    let rival = |store: Store, worker: WorkerId, number: u64| Rival {
        store,
        worker,
        shared: Arc::clone(&shared),
        random: (seed * RIVALS + number).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        number,
        made: 0,
    };
    let mut all = Vec::new();
    for number in 0..RIVALS {
        let (store, member) = bench.other_worker(LONG).await;
        let mut rival = rival(store, member.id, number);
        all.push(tokio::spawn(async move {
            for _ in 0..steps {
                rival.step().await;
            }
            rival.store.close().await;
        }));
    }
    for rival in all {
        rival.await.unwrap();
    }
    // Whatever has ended was passed on by whoever ended it, and has been looked at: a leader has nothing to do but for what
    // the gates themselves have canceled.
    assert_eq!(bench.store.gates_left(false).await.unwrap(), [""; 0]);
    let left = "select count(*) from tasks where links = 1 and state in ('done', 'dead')";
    assert_eq!(bench.number(left).await, 0, "somebody could not pass on");
    let (store, member) = bench.other_worker(LONG).await;
    let mut last = rival(store, member.id, 0);
    last.made = 1_000_000;
    drain(&bench, &mut last).await;
    for gate in GATES {
        ends_well(&bench, &shared, gate).await;
    }
    for state in [State::Blocked, State::Running, State::Queued] {
        assert_eq!(in_state(&bench.store, state).await, [""; 0]);
    }
    last.store.close().await;
}

macro_rules! seeds {
    ($($name:ident = $back_end:ident $seed:literal $steps:literal,)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            Bench::run(BackEnd::$back_end, |bench| rivals(bench, $seed, $steps)).await;
        })+
    };
}

seeds! {
    no_step_is_lost_after_the_first_scramble = Postgres 1 100,
    no_step_is_lost_after_the_second_scramble = Postgres 2 100,
    no_step_is_lost_after_a_scramble_on_sqlite = Sqlite 3 60,
}

/// Whoever decides on what somebody else has changed meanwhile decides again.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_was_decided_on_a_gate_that_has_changed_is_decided_again() {
    Bench::run(BackEnd::Postgres, async |bench| {
        let verb = Verb::Enqueue(Settings::default(), vec![entry("a"), entry("b")]);
        bench.store.gate("g", &verb).await.unwrap();
        let mut other = bench.postgres().await;
        // Somebody else stops it, and has not committed that yet.
        let hold = "begin; update gates set revision = revision + 1, \
            state = jsonb_set(state::jsonb, '{hold}', '[\"a freeze\", 1]')::text where name = 'g'";
        sqlx::raw_sql(hold).execute(&mut other).await.unwrap();
        let store = bench.store.clone();
        let asking = tokio::spawn(async move {
            store.gate("g", &Verb::Dequeue("b".into())).await.unwrap();
        });
        let waits = format!(
            "select count(*) from pg_locks l join pg_stat_activity a on a.pid = l.pid where not l.granted and a.query like '%gates%' \
             and exists (select 1 from pg_locks o where o.pid = a.pid and o.relation = '\"{}\".gates'::regclass)",
            bench.config.schema
        );
        wait_until("it waits for the gate", LIMIT, async || bench.number(&waits).await > 0).await;
        sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
        asking.await.unwrap();
        let view = bench.store.gate_view("g").await.unwrap().unwrap();
        assert_eq!(view.entries.len(), 1);
        assert!(view.gate.hold.is_some(), "what the other one said is lost");
    })
    .await;
}
