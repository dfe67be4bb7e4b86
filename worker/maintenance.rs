//! What somebody has to do for all: rescue, schedule, relay what others left, announce again, sweep.
//!
//! One worker at a time leads, elected in the store; what it decides is fenced by its term (relaying and sweeping need no fence: done twice, they are done once). Without a
//! leader nothing is wrong, only later. The leader never runs tasks, and never decides on anything that it
//! read longer ago than one look.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::time::Duration;

use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::broker::Broker;
use crate::celery::{Celery, End, Exception};
use crate::id::WorkerId;
use crate::kube::Pod;
use crate::kube::peers::Peers;
use crate::outbox::{self, Relay};
use crate::store::{DeadLetter, Fence, Ring, State, Store, StoreError, WorkerView};

/// The name of the one thing that is led.
const LEADERSHIP: &str = "maintenance";
/// How often the leader looks: half of the time after which a killed worker's tasks run elsewhere.
const LOOK: Duration = Duration::from_millis(500);
/// A leader that is not heard of for this long is replaced.
const LEASE: Duration = Duration::from_secs(5);
/// How often what is slow to change is looked at.
const SLOW_LOOK: Duration = Duration::from_secs(60);
/// How often all gates are looked at in which something is.
const GATES: Duration = Duration::from_secs(15);
/// A worker whose lock is free is believed dead after this long: a live one takes it again within 300 ms.
const DOUBT: Duration = Duration::from_millis(900);
/// Live workers renew every second: after this long without a break, a lease that is over says something.
const STEADY: Duration = Duration::from_secs(3);
/// After this long a task that could run and that nobody claimed is announced again.
const RING_AGAIN: Duration = Duration::from_secs(30 * 60);
/// The most of a look that goes to what was staged for SQUAD, of which there may be much after an upgrade: well below [`LEASE`].
const SWEEPING: Duration = Duration::from_secs(2);

/// What the leader needs to know.
#[derive(Debug, Clone)]
pub struct Rules {
    /// After so many workers that died with it a task is a dead letter.
    pub crash_limit: u32,
    /// How long finished tasks are kept.
    pub finished_tasks: Duration,
    /// How long the unpublished rows of a task that was given up are kept.
    pub abandoned_runs: Duration,
    /// What follows from tasks of Celery's that end without an attempt to say so.
    pub celery: Celery,
}

/// Leads whenever nobody else does, until `quiet`.
pub async fn run(
    store: Store,
    broker: Broker,
    relay: Relay,
    worker: WorkerId,
    rules: Rules,
    pod: Option<Pod>,
    quiet: CancellationToken,
) {
    let mut leader = Leader {
        store,
        broker,
        relay,
        rules,
        steady: None,
        last: None,
        doubted: HashMap::new(),
        peers: Peers::default(),
        mourned: HashSet::new(),
        slow: None,
        gates: None,
        blocked: BTreeMap::new(),
    };
    let mut led = false;
    let mut following = None;
    while !quiet.is_cancelled() {
        let pause = match leader.store.lead(LEADERSHIP, &worker, LEASE).await {
            Ok(Some(fence)) => {
                if !std::mem::replace(&mut led, true) {
                    // Which gates are blocked is this one's to show now.
                    leader.gates = None;
                    following = pod.clone().map(|pod| leader.peers.clone().followed_by(pod));
                    tracing::info!(worker = %worker, term = fence.term, "maintenance is led by this worker");
                }
                if let Err(error) = leader.look(&fence).await {
                    tracing::warn!(%error, "maintenance was interrupted");
                }
                LOOK
            }
            Ok(None) => {
                if led {
                    leader.forget_blocked();
                }
                (led, following) = (false, None);
                LEASE / 5
            }
            Err(error) => {
                tracing::debug!(%error, "the store is away; maintenance waits");
                LEASE / 5
            }
        };
        let wait = tokio::time::sleep(pause);
        tokio::select! {
            () = quiet.cancelled() => {}
            () = wait => {}
            () = leader.peers.changed(), if led => {}
        }
    }
    drop(following);
    if led && let Err(error) = leader.store.yield_lead(LEADERSHIP, &worker).await {
        tracing::debug!(%error, "maintenance could not be given up; it will run out");
    }
}

/// The uid of the pod that a worker's id names: `pod.uid.life`, where a name may have dots of its own.
fn pod_uid(id: &WorkerId) -> Option<&str> {
    let mut parts = id.as_str().rsplit('.');
    let _life = parts.next()?;
    let uid = parts.next()?;
    parts.next().map(|_| uid)
}

struct Leader {
    store: Store,
    broker: Broker,
    relay: Relay,
    rules: Rules,
    /// Since when each look has followed the one before in time.
    steady: Option<Instant>,
    last: Option<Instant>,
    /// Workers whose lock was free, and since when.
    doubted: HashMap<WorkerId, Instant>,
    /// The pools' pods, in a cluster.
    peers: Peers,
    /// Workers that were given up because their pod is gone: once each. One that comes back nevertheless is judged by its lease.
    mourned: HashSet<WorkerId>,
    slow: Option<Instant>,
    gates: Option<Instant>,
    /// Gates that somebody has to look at, with why.
    blocked: BTreeMap<String, String>,
}

impl Leader {
    async fn look(&mut self, fence: &Fence) -> Result<(), StoreError> {
        let now = Instant::now();
        if self
            .last
            .replace(now)
            .is_none_or(|last| now - last > STEADY)
        {
            self.steady = None;
        }
        let steady = *self.steady.get_or_insert(now);
        self.bury_workers(fence, steady.elapsed() >= STEADY).await?;
        loop {
            let (rings, dead) = self.store.rescue(fence, self.rules.crash_limit).await?;
            for DeadLetter { id, name, queue } in &dead {
                tracing::error!(task.id = %id, task.name = name, "task is a dead letter: it ended too many workers");
                let (name, queue) = (name.clone(), queue.clone());
                metrics::counter!("longshore_tasks_total", "name" => name, "queue" => queue, "outcome" => "dead")
                    .increment(1);
            }
            if rings.is_empty() && dead.is_empty() {
                break;
            }
            tracing::info!(tasks = rings.len(), "tasks of dead workers may run again");
            let rescued = u64::try_from(rings.len()).unwrap_or_default();
            metrics::counter!("longshore_rescues_total").increment(rescued);
            self.relay.publish(rings).await;
        }
        loop {
            let rings = self.store.due(fence).await?;
            if rings.is_empty() {
                break;
            }
            self.relay.publish(rings).await;
        }
        self.relay
            .publish(self.store.ring_rescued(fence).await?)
            .await;
        // Whoever ended them died before it came to that.
        let (_, rings) = self.store.pass_on_left().await?;
        self.relay.publish(rings).await;
        for gate in self.store.gates_left(false).await? {
            self.step(&gate).await?;
        }
        let left = self.store.outbox_take().await?;
        let (ended, left): (Vec<_>, Vec<_>) =
            left.into_iter().partition(|ring| ring.ended.is_some());
        for ring in ended {
            self.tell(ring).await?;
        }
        if !left.is_empty() {
            let published = outbox::publish(&self.store, &self.broker, &left).await;
            tracing::info!(
                messages = left.len(),
                published,
                "relayed messages that others left"
            );
        }
        if self.gates.is_none_or(|last| last.elapsed() >= GATES) {
            self.gates = Some(Instant::now());
            self.look_at_gates().await?;
        }
        if self.slow.is_none_or(|last| last.elapsed() >= SLOW_LOOK) {
            self.slow = Some(Instant::now());
            self.slow_look(fence).await?;
        }
        Ok(())
    }

    /// A task of Celery's has ended without an attempt to say so: those who wait are told, and its workflow ends.
    async fn tell(&self, ring: Ring) -> Result<(), StoreError> {
        let end = match ring.ended {
            Some(State::Dead) => End::Failed(Exception::new(
                "billiard.exceptions",
                "WorkerLostError",
                "its worker died while it ran, once too often",
            )),
            Some(State::Expired) => End::Revoked("expired"),
            Some(
                State::Canceled
                | State::Queued
                | State::Waiting
                | State::Parked
                | State::Blocked
                | State::Running
                | State::Done,
            )
            | None => End::Revoked("revoked"),
        };
        let ops = match self.rules.celery.after(&self.store, "", &ring.task, &end) {
            Ok(ops) => ops,
            Err(error) => {
                tracing::error!(task.id = %ring.task.id, %error, "the end of a task could not be told");
                Vec::new()
            }
        };
        match self.store.outbox_told(ring.seq, ops).await {
            Ok(rings) => self.relay.publish(rings).await,
            Err(StoreError::Stale { .. }) => {}
            // Whatever else waits is no worse for this one.
            Err(error) if !error.is_temporary() => {
                tracing::error!(task.id = %ring.task.id, %error, "the end of a task could not be told; it will be tried again");
            }
            Err(error) => return Err(error),
        }
        Ok(())
    }

    /// Gives up workers that are dead: when their lease is over, or when their lock stays free. After an outage of
    /// the store everybody's lease is over, so leases count only when the store has been there for a while.
    async fn bury_workers(&mut self, fence: &Fence, steady: bool) -> Result<(), StoreError> {
        let workers = self.store.workers(false).await?;
        let ids = workers
            .iter()
            .map(|worker| worker.id.clone())
            .collect::<Vec<_>>();
        let dead = self.store.dead_among(&ids).await?;
        let now = self.store.clock().now();
        let unlocked = |worker: &&WorkerView| worker.lease_until > now && dead.contains(&worker.id);
        let unlocked = workers
            .iter()
            .filter(unlocked)
            .map(|worker| worker.id.clone())
            .collect::<Vec<_>>();
        self.doubted.retain(|id, _| unlocked.contains(id));
        let mut lost = workers
            .iter()
            .filter(|worker| dead.contains(&worker.id))
            .filter(|worker| {
                (steady && worker.lease_until <= now) || self.doubted_for(worker) >= DOUBT
            })
            .map(|worker| (worker.id.clone(), worker.lease_until))
            .collect::<Vec<_>>();
        self.mourned.retain(|id| ids.contains(id));
        let mut gone = Vec::new();
        for worker in &workers {
            let is_gone = pod_uid(&worker.id).is_some_and(|uid| self.peers.is_gone(uid));
            if is_gone && !self.mourned.contains(&worker.id) {
                tracing::warn!(worker = %worker.id, "the worker's pod is gone");
                gone.push(worker.id.clone());
                if !lost.iter().any(|(id, _)| *id == worker.id) {
                    lost.push((worker.id.clone(), worker.lease_until));
                }
            }
        }
        for id in unlocked {
            self.doubted.entry(id).or_insert_with(Instant::now);
        }
        if lost.is_empty() {
            return Ok(());
        }
        for (id, _) in &lost {
            tracing::warn!(worker = %id, "worker is dead");
            self.doubted.remove(id);
        }
        self.store.mark_lost(fence, &lost).await?;
        self.mourned.extend(gone);
        Ok(())
    }

    fn doubted_for(&self, worker: &WorkerView) -> Duration {
        self.doubted
            .get(&worker.id)
            .map(Instant::elapsed)
            .unwrap_or_default()
    }

    async fn slow_look(&self, fence: &Fence) -> Result<(), StoreError> {
        self.relay
            .publish(self.store.ring_again(fence, RING_AGAIN).await?)
            .await;
        while self.store.sweep(fence, self.rules.finished_tasks).await? > 0 {}
        while self.store.sweep_runs().await? > 0 {}
        let begun = Instant::now();
        while begun.elapsed() < SWEEPING && self.store.sweep_shown().await? {}
        while self
            .store
            .sweep_abandoned(self.rules.abandoned_runs)
            .await?
            > 0
        {}
        Ok(())
    }

    /// Does what follows in each gate in which something is, whoever was to do it; and tells which of them do not go on by themselves.
    async fn look_at_gates(&mut self) -> Result<(), StoreError> {
        let mut blocked = BTreeMap::new();
        for gate in self.store.gates_left(true).await? {
            if !self.step(&gate).await? {
                continue;
            }
            let view = self.store.gate_view(&gate).await?;
            let Some(alarm) = view.and_then(|view| view.alarm) else {
                continue;
            };
            let entry = alarm.entry.unwrap_or_default();
            let why = alarm.why;
            if !self.blocked.contains_key(&gate) {
                tracing::error!(gate, entry, why, "gate is blocked: somebody has to decide");
            }
            blocked.insert(gate, why);
        }
        for gate in self.blocked.keys().filter(|it| !blocked.contains_key(*it)) {
            tracing::info!(gate, "gate is not blocked any more");
        }
        metrics::gauge!("longshore_gates_blocked").set(blocked.len() as f64);
        self.blocked = blocked;
        Ok(())
    }

    /// Does what follows in a gate. Returns whether it could be read: all others are no worse for one that a newer program wrote.
    async fn step(&self, gate: &str) -> Result<bool, StoreError> {
        match self.store.gate_step(gate).await {
            Ok(rings) => self.relay.publish(rings).await,
            Err(error) if !error.is_temporary() => {
                tracing::error!(gate, %error, "a gate could not be looked at; it will be tried again");
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
        Ok(true)
    }

    /// Another one shows them from now on.
    fn forget_blocked(&mut self) {
        self.blocked.clear();
        metrics::gauge!("longshore_gates_blocked").set(0.0);
    }
}
