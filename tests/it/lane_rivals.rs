//! Many processes at once on a few lanes and shared dependencies, on PostgreSQL: nobody runs out of turn, nobody is told of a
//! deadlock, and once everything has ended nothing is left that waits.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex};

use longshore::id::{Epoch, WorkerId};
use longshore::lane::{Lane, OnFailure, When};
use longshore::store::{ClaimAnswer, ClaimRequest, Filter, Settlement, State, Store};
use longshore::task::Task;

use crate::harness::{BackEnd, Bench, LIMIT, LONG, id, task, wait_until};

const RIVALS: u64 = 6;
const STEPS: usize = 120;
const LANES: u64 = 3;

/// What the rivals have in common.
#[derive(Debug, Default)]
struct Shared {
    /// All tasks, with their lane.
    known: Mutex<Vec<(String, Option<u64>)>>,
    /// How many run in lane 0, which has room for one.
    holding: AtomicI64,
    /// The last token of lane 0.
    token: AtomicI64,
}

struct Rival {
    store: Store,
    worker: WorkerId,
    shared: Arc<Shared>,
    runs: Vec<(String, Epoch, Option<u64>)>,
    random: u64,
    made: u64,
    number: u64,
}

fn ended(state: State) -> Settlement {
    Settlement {
        state: Some(state),
        failed: state == State::Dead,
        ..Settlement::default()
    }
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

    fn one_of_the_last(&mut self) -> Option<(String, Option<u64>)> {
        let back = usize::try_from(self.any(12)).unwrap();
        let known = self.shared.known.lock().unwrap();
        known
            .len()
            .checked_sub(1 + back)
            .map(|at| known[at].clone())
    }

    fn graph(&mut self) -> Vec<(Task, Option<u64>)> {
        let mut tasks: Vec<(Task, Option<u64>)> = Vec::new();
        for _ in 0..=self.any(3) {
            self.made += 1;
            // Neither the order of enqueueing nor that of the rivals.
            let mut new = task(&format!("{}-{}-{}", self.any(100), self.number, self.made));
            let lane = (self.any(4) > 0).then(|| self.any(LANES));
            if let Some(lane) = lane {
                let on_failure = [OnFailure::Halt, OnFailure::Skip, OnFailure::CancelRest]
                    [usize::try_from(self.any(3)).unwrap()];
                new = new.in_lane(Lane {
                    on_failure,
                    limit: (lane == 2).then_some(2),
                    ..Lane::new(format!("lane-{lane}"))
                });
            }
            for _ in 0..self.any(3) {
                let when = [When::Success, When::Success, When::Done, When::Failed]
                    [usize::try_from(self.any(4)).unwrap()];
                let other = if self.any(2) == 0 {
                    tasks.last().map(|(task, _)| task.id.to_string())
                } else {
                    self.one_of_the_last().map(|(id, _)| id)
                };
                if let Some(other) =
                    other.filter(|other| new.after.iter().all(|after| after.task.as_str() != other))
                {
                    new = new.after(other, when);
                }
            }
            tasks.push((new, lane));
        }
        tasks
    }

    async fn enqueue(&mut self) {
        let graph = self.graph();
        let tasks: Vec<Task> = graph.iter().map(|(task, _)| task.clone()).collect();
        self.store.enqueue(&tasks).await.unwrap();
        let known = graph
            .into_iter()
            .map(|(task, lane)| (task.id.to_string(), lane));
        self.shared.known.lock().unwrap().extend(known);
    }

    async fn claim(&mut self) {
        let filter = Filter {
            id: None,
            state: Some(State::Queued),
            most: 8,
        };
        let queued = self.store.tasks(&filter).await.unwrap();
        let which = usize::try_from(self.any(8)).unwrap();
        if let Some(view) = queued.into_iter().nth(which) {
            let lane = view
                .lane
                .as_deref()
                .and_then(|lane| lane.strip_prefix("lane-")?.parse().ok());
            self.claim_this(view.id, lane).await;
        }
    }

    async fn claim_this(&mut self, name: String, lane: Option<u64>) {
        let wanted = task(&name);
        let answer = self
            .store
            .claim(&self.worker, &[ClaimRequest::once(&wanted)])
            .await
            .unwrap()
            .remove(0);
        let ClaimAnswer::Claimed(claimed) = answer else {
            return;
        };
        if lane == Some(0) {
            assert_eq!(
                self.shared.holding.fetch_add(1, Ordering::SeqCst),
                0,
                "two run in lane 0"
            );
            let last = self.shared.token.swap(claimed.token, Ordering::SeqCst);
            assert!(
                last < claimed.token,
                "tokens of a lane grow: {last} {}",
                claimed.token
            );
        }
        self.runs.push((name, claimed.epoch, lane));
    }

    async fn settle(&mut self) {
        let Some((name, epoch, lane)) = self.runs.pop() else {
            return;
        };
        let state = [State::Done, State::Done, State::Dead, State::Queued]
            [usize::try_from(self.any(4)).unwrap()];
        if lane == Some(0) {
            self.shared.holding.fetch_sub(1, Ordering::SeqCst);
        }
        if state == State::Done && self.any(3) == 0 {
            let graph = self.graph();
            let tasks: Vec<Task> = graph.iter().map(|(task, _)| task.clone()).collect();
            self.store
                .settle_with(&id(&name), epoch, &ended(state), Vec::new(), &tasks)
                .await
                .unwrap();
            let known = graph
                .into_iter()
                .map(|(task, lane)| (task.id.to_string(), lane));
            self.shared.known.lock().unwrap().extend(known);
            return;
        }
        let (settled, _) = self
            .store
            .settle(&[(id(&name), epoch, ended(state))])
            .await
            .unwrap();
        assert_eq!(settled.len(), 1, "nobody else holds {name}");
    }

    async fn step(&mut self) {
        match self.any(16) {
            0..4 => self.enqueue().await,
            4..9 => self.claim().await,
            9..13 => self.settle().await,
            13 => {
                if let Some((name, _)) = self.one_of_the_last() {
                    self.store.cancel(&name, "by hand").await.unwrap();
                }
            }
            14 => {
                let names: Vec<String> = [self.one_of_the_last(), self.one_of_the_last()]
                    .into_iter()
                    .flatten()
                    .map(|(name, _)| name)
                    .collect();
                self.store.revive(&names).await.unwrap();
            }
            _ => {
                let lane = self.any(LANES);
                self.store.skip(&format!("lane-{lane}")).await.unwrap();
                let limit = u32::try_from(1 + self.any(3)).unwrap();
                self.store.set_limit("lane-1", limit).await.unwrap();
            }
        }
    }
}

async fn in_state(bench: &Bench, state: State) -> Vec<String> {
    let filter = Filter {
        id: None,
        state: Some(state),
        most: 100_000,
    };
    bench
        .store
        .tasks(&filter)
        .await
        .unwrap()
        .into_iter()
        .map(|view| view.id)
        .collect()
}

/// Runs everything that may run, and skips what halts a lane, until nothing moves any more.
async fn drain(bench: &Bench, mut rival: Rival) {
    while bench.store.pass_on_left().await.unwrap().0 {}
    let lanes: BTreeMap<String, Option<u64>> =
        rival.shared.known.lock().unwrap().iter().cloned().collect();
    loop {
        let queued = in_state(bench, State::Queued).await;
        for name in &queued {
            rival.claim_this(name.clone(), lanes[name]).await;
            while let Some((name, epoch, lane)) = rival.runs.pop() {
                if lane == Some(0) {
                    rival.shared.holding.fetch_sub(1, Ordering::SeqCst);
                }
                bench
                    .store
                    .settle(&[(id(&name), epoch, ended(State::Done))])
                    .await
                    .unwrap();
            }
        }
        if !queued.is_empty() {
            continue;
        }
        let mut skipped = 0;
        for lane in 0..LANES {
            skipped += bench
                .store
                .skip(&format!("lane-{lane}"))
                .await
                .unwrap()
                .0
                .len();
        }
        if skipped == 0 {
            break;
        }
    }
}

async fn rivals(bench: Bench, seed: u64) {
    let shared = Arc::new(Shared::default());
    let mut all = Vec::new();
    for number in 0..RIVALS {
        let (store, member) = bench.other_worker(LONG).await;
        let random = (seed * RIVALS + number).wrapping_mul(0x9e37_79b9_7f4a_7c15);
        let mut rival = Rival {
            store,
            worker: member.id,
            shared: Arc::clone(&shared),
            runs: Vec::new(),
            random,
            made: 0,
            number,
        };
        all.push(tokio::spawn(async move {
            for _ in 0..STEPS {
                rival.step().await;
            }
            while !rival.runs.is_empty() {
                rival.settle().await;
            }
            rival.store.close().await;
        }));
    }
    for rival in all {
        rival.await.unwrap();
    }
    let (store, member) = bench.other_worker(LONG).await;
    let rest = Rival {
        store: store.clone(),
        worker: member.id,
        shared,
        runs: Vec::new(),
        random: seed,
        made: 0,
        number: RIVALS,
    };
    drain(&bench, rest).await;
    let left = in_state(&bench, State::Blocked).await;
    let refs: Vec<&str> = left.iter().map(String::as_str).collect();
    assert!(
        left.is_empty(),
        "these wait for ever: {:?}",
        bench.store.waits(&refs).await.unwrap()
    );
    assert_eq!(in_state(&bench, State::Running).await, [""; 0]);
    store.close().await;
}

macro_rules! seeds {
    ($($name:ident = $seed:literal,)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 4)]
        async fn $name() {
            Bench::run(BackEnd::Postgres, |bench| rivals(bench, $seed)).await;
        })+
    };
}

seeds! {
    nothing_waits_for_ever_after_the_first_scramble = 1,
    nothing_waits_for_ever_after_the_second_scramble = 2,
    nothing_waits_for_ever_after_the_third_scramble = 3,
}

/// Whoever moves a lane waits for whoever is at it, and sees then what that one has done: here a task that takes its place in the lane
/// while the one ahead of it ends.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn who_passes_on_waits_for_who_is_at_the_lane() {
    Bench::run(BackEnd::Postgres, async |bench| {
        let worker = bench.worker().await;
        let first = task("first").in_lane(Lane::new("l"));
        bench.store.enqueue(std::slice::from_ref(&first)).await.unwrap();
        let epoch = bench.claimed(&worker, &first).await.epoch;
        let mut other = bench.postgres().await;
        let enqueue = "begin; update lanes set next_place = next_place + 1 where key = 'l'; \
            insert into tasks (id, name, queue, priority, state, epoch, created_at, rung_at, task, lane, place, on_failure, links) \
            select 'second', t.name, t.queue, t.priority, 'blocked', 0, t.created_at, t.rung_at, t.task, t.lane, t.place + 1, t.on_failure, 1 \
            from tasks t where t.id = 'first'";
        sqlx::raw_sql(enqueue).execute(&mut other).await.unwrap();
        let store = bench.store.clone();
        let settling = tokio::spawn(async move {
            let items = [(id("first"), epoch, ended(State::Done))];
            store.settle(&items).await.unwrap()
        });
        let waits = format!(
            "select count(*) from pg_locks l join pg_stat_activity a on a.pid = l.pid where not l.granted and a.query like '%lanes%' \
             and exists (select 1 from pg_locks o where o.pid = a.pid and o.relation = '\"{}\".lanes'::regclass)",
            bench.config.schema
        );
        wait_until("somebody waits for the lane, or did not", LIMIT, async || {
            settling.is_finished() || bench.number(&waits).await > 0
        })
        .await;
        sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
        settling.await.unwrap();
        assert_eq!(bench.view("second").await.state, State::Queued);
    })
    .await;
}

/// A lane that somebody is coming into is not forgotten, though nobody is to be seen in it yet.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lane_is_not_forgotten_while_somebody_comes() {
    Bench::run(BackEnd::Postgres, async |bench| {
        let (worker, fence) = (bench.worker().await, bench.leader().await);
        let first = task("first").in_lane(Lane::new("l"));
        bench.store.enqueue(std::slice::from_ref(&first)).await.unwrap();
        let epoch = bench.claimed(&worker, &first).await.epoch;
        let done = [(id("first"), epoch, ended(State::Done))];
        bench.store.settle(&done).await.unwrap();
        let day = std::time::Duration::from_secs(86_400);
        bench.clock.advance(2 * day);
        let mut other = bench.postgres().await;
        let enqueue = "begin; update lanes set next_place = next_place + 1 where key = 'l'; \
            insert into tasks (id, name, queue, priority, state, epoch, created_at, rung_at, task, lane, place, on_failure, links) \
            select 'second', t.name, t.queue, t.priority, 'queued', 0, t.created_at, t.rung_at, t.task, t.lane, t.last_place + 1, t.on_failure, 1 \
            from tasks t where t.id = 'first'";
        sqlx::raw_sql(enqueue).execute(&mut other).await.unwrap();
        let store = bench.store.clone();
        let sweeping = tokio::spawn(async move { store.sweep(&fence, day).await.unwrap() });
        let waits = "select count(*) from pg_locks l join pg_stat_activity a on a.pid = l.pid where not l.granted and a.query like '%lanes%'";
        wait_until("the sweep waits for the lane, or did not", LIMIT, async || {
            sweeping.is_finished() || bench.number(waits).await > 0
        })
        .await;
        sqlx::raw_sql("commit").execute(&mut other).await.unwrap();
        sweeping.await.unwrap();
        assert_eq!(bench.number("select count(*) from lanes").await, 1);
    })
    .await;
}
