//! One worker: deliveries become claims, claims attempts, attempts outcomes.
//!
//! Three loops share the state in [`Worker`]: *intake* (deliveries → claims), *settling* (outcomes → one
//! commit for all that are ready → acknowledgements) and *keeping* (lease, lock, cancellations, holding).
//! [`run`] joins the worker, starts them and sees to the drain. The pool knows nothing of what tasks do.
//!
//! Never: a claim without a free slot; an acknowledgement before the store has what it says; a wait, for
//! whatever it may be, inside a transaction; an attempt that outlives the worker's deadline.

use std::collections::HashMap;
use std::panic::AssertUnwindSafe;
use std::sync::atomic::AtomicUsize;
use std::sync::{Arc, Mutex, OnceLock, PoisonError, RwLock};
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{Notify, Semaphore, mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, Receipt};
use crate::celery::Celery;
use crate::clock::Millis;
use crate::config::{self, Policies};
use crate::follow::{Following, Live};
use crate::handler::{Pulse, Registry, Terms};
use crate::id::{Epoch, TaskId, WorkerId};
use crate::kube::Pod;
use crate::lifecycle::{Event, Life, Strictness};
use crate::maintenance::{self, Rules};
use crate::outbox::Relay;
use crate::store::{Member, Store, StoreError};
use crate::task::Task;

mod attempt;
pub mod decide;
mod gauges;
mod health;
mod intake;
mod keep;
mod live;
mod settle;
mod surroundings;
mod tools;

use attempt::Finished;
use decide::Cut;
pub use health::Health;
use tools::Tools;

/// A look at what all need may take so long to its end when the worker ends. Longer ones wait for a server that is away.
const LAST_LOOK: Duration = Duration::from_secs(1);

/// What a worker is made of.
#[derive(Debug, Clone)]
pub struct Setup {
    /// The pool's name.
    pub name: String,
    /// Its queues, slots and kind.
    pub pool: config::Pool,
    /// Lease, hold, grace, margin and the rest.
    pub worker: config::Worker,
    /// How often and how long tasks are tried.
    pub policies: Policies,
    /// What is forgotten, and when.
    pub retention: config::Retention,
    /// What is done for Celery's clients.
    pub celery: Celery,
    /// This life of this worker: made by [`member_id`].
    pub id: WorkerId,
    /// The pod that it runs in, if it does.
    pub pod: Option<Pod>,
    /// What probes and metrics are told.
    pub health: Health,
    /// What handlers are told of the configuration at first.
    pub terms: Arc<Terms>,
    /// The bundle that it follows, if it does.
    pub following: Option<Arc<tokio::sync::Mutex<Following>>>,
}

/// What can be asked of a running worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Request {
    /// Drain; said again: hand everything off at once.
    Stop,
    /// End now, and leave everything to rescue.
    Abandon,
    /// Say in the log what runs.
    Print,
}

/// How a worker ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Exit {
    /// It has nothing left: every attempt is settled or handed off.
    Drained,
    /// It ended with this many attempts that could not be written; rescue takes them over.
    Left(usize),
    /// It has nothing left, and is to begin anew: its configuration says what only a new life can have.
    Restart,
    /// One of its loops panicked, which is a bug; what ran was handed off as far as that went.
    Broken,
}

/// One running attempt.
struct Attempt {
    task: Arc<Task>,
    begun: Instant,
    /// The same, for people.
    since: Millis,
    /// When its message came.
    received: Instant,
    receipt: Option<Receipt>,
    drain: CancellationToken,
    /// When it was asked to go on elsewhere, because of pod or node.
    asked: Option<Instant>,
    cut: watch::Sender<Option<Cut>>,
    pulse: Arc<Pulse>,
}

/// A worker that was taken for dead may have claimed the same task again, under a later epoch.
type Attempts = HashMap<(TaskId, Epoch), Attempt>;

/// What the loops share.
struct Worker {
    setup: Setup,
    member: Member,
    store: Store,
    broker: Broker,
    /// What attempts begin with.
    live: RwLock<Arc<Live>>,
    relay: Relay,
    attempts: Mutex<Attempts>,
    finished: mpsc::Sender<Finished>,
    slots: Arc<Semaphore>,
    /// How many there are to be.
    wanted_slots: watch::Sender<u32>,
    life: watch::Sender<Life>,
    deadline: watch::Sender<Option<Instant>>,
    drain_begun: OnceLock<Instant>,
    /// Take nothing new, ever.
    quiet: CancellationToken,
    /// Why nothing new is taken for now.
    resting: watch::Sender<Option<String>>,
    /// The queues of the pool that are taken from: a tool can have some left out.
    queues: watch::Sender<Vec<String>>,
    /// What Celery's tools are told.
    tools: Tools,
    /// A tool wants the worker to drain.
    stop: CancellationToken,
    /// The worker is to begin anew once it has drained.
    restart: CancellationToken,
    /// Shared by what is about to begin attempts, and held alone by what changes what they begin with.
    beginnings: tokio::sync::RwLock<()>,
    /// The bundle has to be looked at before anything begins.
    outdated: watch::Sender<bool>,
    /// Claims under way.
    claiming: AtomicUsize,
    /// Attempts that went on elsewhere.
    handed_off: AtomicUsize,
    /// What runs has changed.
    changed: Notify,
    /// Try nothing again: the worker is about to end.
    give_up: CancellationToken,
    /// One of the loops has panicked.
    broken: CancellationToken,
    /// Everything of this worker that runs.
    tasks: TaskTracker,
}

/// A worker's id: the machine for people, and something that no other life of it has.
pub fn member_id(host: &str) -> WorkerId {
    WorkerId::new(format!("{host}.{}", uuid::Uuid::now_v7().simple()))
}

/// A worker's id in a pod: its name for people, its uid, and something that no other life of its container has.
pub fn pod_member_id(name: &str, uid: &str) -> WorkerId {
    member_id(&format!("{name}.{uid}"))
}

/// This machine's or pod's name.
pub fn host() -> String {
    std::env::var("HOSTNAME")
        .ok()
        .or_else(|| std::fs::read_to_string("/etc/hostname").ok())
        .map(|name| {
            name.trim()
                .replace(|c: char| !c.is_ascii_alphanumeric() && c != '-', "-")
        })
        .filter(|name| !name.is_empty())
        .unwrap_or_else(|| "worker".into())
}

/// Runs a worker until it is asked to stop and has drained.
///
/// # Errors
///
/// [`StoreError`] if the worker cannot enter the store's list at its start.
pub async fn run(
    setup: Setup,
    store: Store,
    broker: Broker,
    registry: Registry,
    mut requests: mpsc::Receiver<Request>,
) -> Result<Exit, StoreError> {
    let member = member(&setup);
    store.anchor_clock().await?;
    store.hold(&member).await?;
    store
        .join(&member, Life::Running.as_str(), setup.worker.lease)
        .await?;
    let tasks = TaskTracker::new();
    let relay_tasks = TaskTracker::new();
    let relay = Relay::start(store.clone(), broker.clone(), &relay_tasks);
    relay.publish(store.unpark(&registry.names()).await?).await;
    let (finished, outcomes) = mpsc::channel(settle::BATCH);
    let slots = setup.pool.slots;
    let live = live(&setup, registry);
    let (tools, happened) = Tools::new(setup.celery.tools());
    let worker = Arc::new(Worker {
        member,
        store,
        broker,
        live: RwLock::new(Arc::new(live)),
        relay,
        attempts: Mutex::default(),
        finished,
        slots: Arc::new(Semaphore::new(slots as usize)),
        wanted_slots: watch::channel(slots).0,
        life: watch::channel(Life::Starting).0,
        deadline: watch::channel(None).0,
        drain_begun: OnceLock::new(),
        quiet: CancellationToken::new(),
        resting: watch::channel(None).0,
        queues: watch::channel(setup.pool.queues.clone()).0,
        tools,
        stop: CancellationToken::new(),
        restart: CancellationToken::new(),
        beginnings: tokio::sync::RwLock::new(()),
        outdated: watch::channel(false).0,
        claiming: AtomicUsize::new(0),
        handed_off: AtomicUsize::new(0),
        changed: Notify::new(),
        give_up: CancellationToken::new(),
        broken: CancellationToken::new(),
        tasks: tasks.clone(),
        setup,
    });
    worker.advance(Event::Joined);
    worker.setup.health.joined();
    tracing::info!(worker = %worker.member.id, pool = worker.setup.name, queues = ?worker.setup.pool.queues, slots, "worker joined");
    surroundings::first_look(&worker).await;
    worker.first_word().await;
    let intake = worker.look_after("intake", intake::run(Arc::clone(&worker)));
    let settling = worker.look_after("settling", settle::run(Arc::clone(&worker), outcomes));
    let maintenance = worker.start_loops();
    let tools = tools::start(&worker, happened);
    tasks.close();
    let strictness = worker.until_stop(&mut requests).await;
    let Some(strictness) = strictness else {
        return Ok(Exit::Left(worker.count()));
    };
    let exit = worker.drain(strictness, requests, intake).await;
    worker.give_up.cancel();
    let rest = worker.setup.worker.margin.max(Duration::from_millis(200));
    last_writes(rest, settling, maintenance).await;
    surroundings::last_word(&worker).await;
    worker.farewell(rest).await;
    tools::last_word(tools).await;
    Ok(worker.end(exit))
}

/// The last outcomes are written; and who leads maintenance gives that up, so that nobody has to wait for its end.
async fn last_writes(rest: Duration, settling: JoinHandle<()>, maintenance: JoinHandle<()>) {
    let maintenance = tokio::time::timeout(rest.min(LAST_LOOK), maintenance);
    let (settled, _given_up) = tokio::join!(tokio::time::timeout(rest, settling), maintenance);
    if settled.is_err() {
        tracing::warn!("the last outcomes could not be written in time");
    }
}

/// What attempts begin with at first.
fn live(setup: &Setup, registry: Registry) -> Live {
    Live {
        terms: Arc::clone(&setup.terms),
        registry,
        policies: setup.policies.clone(),
        slots: setup.pool.slots,
        kind: setup.pool.kind.clone(),
        // Whoever follows the bundle holds it.
        hold: None,
    }
}

/// This worker as the store's list shows it.
fn member(setup: &Setup) -> Member {
    let kind = if setup.pool.kind.is_elastic() {
        "elastic"
    } else {
        "pinned"
    };
    Member {
        id: setup.id.clone(),
        pool: setup.name.clone(),
        kind: kind.into(),
        host: setup
            .pod
            .as_ref()
            .map_or_else(host, |pod| pod.name().to_owned()),
        pid: std::process::id(),
        slots: setup.pool.slots,
        lock_key: lock_key(&setup.id),
    }
}

fn rules(setup: &Setup) -> Rules {
    let config::Retention {
        finished_tasks,
        abandoned_runs,
    } = setup.retention;
    Rules {
        crash_limit: setup.worker.crash_limit,
        finished_tasks,
        abandoned_runs,
        celery: setup.celery.clone(),
    }
}

/// A lock's number for a worker: any that no other has.
fn lock_key(id: &WorkerId) -> i64 {
    use sha2::{Digest as _, Sha256};
    let digest = Sha256::digest(id.as_str().as_bytes());
    digest
        .iter()
        .take(8)
        .fold(0_i64, |key, byte| (key << 8) | i64::from(*byte))
}

impl Worker {
    fn end(&self, exit: Exit) -> Exit {
        if self.broken.is_cancelled() {
            Exit::Broken
        } else if exit == Exit::Drained && self.restart.is_cancelled() {
            Exit::Restart
        } else {
            exit
        }
    }

    fn attempts<T>(&self, with: impl FnOnce(&mut Attempts) -> T) -> T {
        with(&mut self.attempts.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn count(&self) -> usize {
        self.attempts(|attempts| attempts.len())
    }

    fn life(&self) -> Life {
        *self.life.borrow()
    }

    fn advance(&self, event: Event) {
        match self.life().on(event) {
            Ok(next) => {
                self.life.send_replace(next);
            }
            Err(error) => tracing::error!(%error, "a worker's life went wrong"),
        }
    }

    /// Starts all that goes on beside intake and settling. Returns the loop that may have to give something up at the end.
    fn start_loops(self: &Arc<Self>) -> JoinHandle<()> {
        self.look_after("lease", keep::lease(Arc::clone(self)));
        self.look_after("lock", keep::lock(Arc::clone(self)));
        self.look_after("surroundings", surroundings::signs(Arc::clone(self)));
        self.look_after("labels", surroundings::labels(Arc::clone(self)));
        self.look_after("gauges", gauges::run(Arc::clone(self)));
        self.look_after("bundle", live::follow(Arc::clone(self)));
        self.look_after("slots", live::slots(Arc::clone(self)));
        let maintaining = maintenance::run(
            self.store.clone(),
            self.broker.clone(),
            self.relay.clone(),
            self.member.id.clone(),
            rules(&self.setup),
            self.setup.pod.clone(),
            self.quiet.clone(),
        );
        self.look_after("maintenance", maintaining)
    }

    /// Runs one of the loops. A worker that has lost one is no worker: it ends, and is started anew.
    fn look_after(
        &self,
        name: &'static str,
        run: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let broken = self.broken.clone();
        self.tasks.spawn(async move {
            if AssertUnwindSafe(run).catch_unwind().await.is_err() {
                tracing::error!(name, "a loop of the worker panicked; the worker ends");
                broken.cancel();
            }
        })
    }

    /// Waits for the first request to stop. `None`: end now.
    async fn until_stop(&self, requests: &mut mpsc::Receiver<Request>) -> Option<Strictness> {
        loop {
            let request = tokio::select! {
                request = requests.recv() => request,
                () = self.broken.cancelled() => None,
                () = self.stop.cancelled() => Some(Request::Stop),
            };
            match request {
                Some(Request::Stop) | None => return Some(Strictness::escalated(None)),
                Some(Request::Abandon) => return None,
                Some(Request::Print) => self.print(),
            }
        }
    }

    /// Ends what runs: what can by itself or at a checkpoint, the rest at the deadline.
    async fn drain(
        &self,
        mut strictness: Strictness,
        mut requests: mpsc::Receiver<Request>,
        mut intake: JoinHandle<()>,
    ) -> Exit {
        let begun = *self.drain_begun.get_or_init(Instant::now);
        let mut plan = surroundings::Plan::new(self, begun);
        self.deadline.send_replace(Some(plan.deadline()));
        self.advance(Event::Stop);
        self.setup.health.draining();
        tracing::info!(
            running = self.count(),
            seconds = (plan.deadline() - begun).as_secs_f64(),
            "drain begun"
        );
        self.quiet.cancel();
        self.attempts(|attempts| attempts.values().for_each(|attempt| attempt.drain.cancel()));
        let mut taking = true;
        loop {
            let deadline = plan.deadline();
            if !taking && self.count() == 0 {
                self.advance(Event::Empty);
                tracing::info!("drained");
                return Exit::Drained;
            }
            tokio::select! {
                _ended = &mut intake, if taking => {
                    taking = false;
                    self.advance(Event::Returned);
                    // What was claimed while we turned quiet.
                    self.attempts(|attempts| attempts.values().for_each(|attempt| attempt.drain.cancel()));
                }
                () = self.settled() => {}
                strict = plan.changed(self) => {
                    self.deadline.send_replace(Some(plan.deadline()));
                    if strict && strictness == Strictness::Drain {
                        strictness = Strictness::HandOff;
                        self.cut_all(Cut::HandOff);
                    }
                }
                () = tokio::time::sleep_until(deadline), if strictness == Strictness::Drain => {
                    tracing::warn!(running = self.count(), "the deadline came; what runs is handed off");
                    strictness = Strictness::HandOff;
                    self.cut_all(Cut::HandOff);
                }
                () = tokio::time::sleep_until(deadline + self.setup.worker.margin / 2), if strictness == Strictness::HandOff => {
                    tracing::error!(running = self.count(), "attempts could not be handed off in time; rescue takes them over");
                    return Exit::Left(self.count());
                }
                request = requests.recv() => match request {
                    Some(Request::Stop) => {
                        strictness = Strictness::escalated(Some(strictness));
                        tracing::warn!(running = self.count(), "asked to stop again; what runs is handed off at once");
                        self.cut_all(Cut::HandOff);
                    }
                    Some(Request::Abandon) => return Exit::Left(self.count()),
                    Some(Request::Print) => self.print(),
                    // Nobody can ask any more: the deadline decides.
                    None => tokio::time::sleep(Duration::from_millis(50)).await,
                },
            }
        }
    }

    /// Waits for an attempt to be settled. Looks often: a drain is short.
    async fn settled(&self) {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }

    fn cut_all(&self, cut: Cut) {
        self.attempts(|attempts| attempts.values().for_each(|attempt| attempt.cut(cut)));
    }

    /// Leaves the store's list and publishes what is left in the relay, within `rest` each.
    async fn farewell(&self, rest: Duration) {
        if tokio::time::timeout(rest, self.relay.flush())
            .await
            .is_err()
        {
            tracing::warn!("the broker is away; the outbox keeps what was to be published");
        }
        let leave = async {
            if let Err(error) = self.store.leave(&self.member.id).await {
                tracing::warn!(%error, "the worker could not be taken off the list; its lease will run out");
            }
            self.store.let_go(&self.member.id).await;
            if let Some(following) = &self.setup.following
                && !self.restart.is_cancelled()
                && let Err(error) = following.lock().await.leave().await
            {
                tracing::warn!(%error, "the worker could not be taken off the bundle's list");
            }
        };
        if tokio::time::timeout(rest, leave).await.is_err() {
            tracing::warn!("the store is away; the worker's lease will run out");
        }
    }

    /// Says what runs.
    fn print(&self) {
        self.attempts(|attempts| {
            tracing::info!(life = self.life().as_str(), running = attempts.len(), slots = self.live().slots, "worker state");
            for ((id, epoch), attempt) in attempts.iter() {
                tracing::info!(
                    task.id = %id, task.name = attempt.task.name, epoch = %epoch,
                    seconds = attempt.begun.elapsed().as_secs_f64(), held = attempt.receipt.is_some(), "attempt runs",
                );
            }
        });
    }
}

impl Attempt {
    /// Ends the attempt; the first reason counts.
    fn cut(&self, cut: Cut) {
        self.cut.send_if_modified(|now| {
            let first = now.is_none();
            now.get_or_insert(cut);
            first
        });
    }
}
