//! Celery's own tools see this worker: their requests are answered, and what happens to tasks is told as events.
//!
//! Nothing of it decides anything: what a request changes goes through the store's verbs or through what the other loops
//! look at anyway (a stop, the queues that are taken from). Never a reason to stop working, nor to wait: what the broker
//! does not take at once is dropped, and counted.

use std::collections::{BTreeMap, HashSet, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use super::{Setup, Worker};
use crate::broker::{Exchange, ExchangeKind, Mailbox, Posted};
use crate::celery::control::{self, Command, Request, Shown, Stats};
use crate::celery::events::{self, Feed, Happened, Life, Node, What};
use crate::codec::Message;
use crate::config;
use crate::id::TaskId;
use crate::store::{Filter, State, StoreError};
use crate::task::Task;

/// Events of tasks in one message.
const BATCH: usize = 100;
/// The longest that a request may take: whoever asked has given up long before.
const LIMIT: Duration = Duration::from_secs(5);
/// The longest that a broker may keep a worker that ends.
const LAST_WORD: Duration = Duration::from_millis(500);
/// Tasks that are named as waiting, and looked at for it.
const WAITING: i64 = 200;
/// Revoked tasks that are remembered for `inspect revoked` and for Celery's workers that start.
const REVOKED: usize = 10_000;
/// As Celery declares its mailboxes.
const MAILBOX_EXPIRES: Duration = Duration::from_secs(10);
const MAILBOX_TTL: Duration = Duration::from_secs(300);

/// What the loops tell, if any tool may listen.
#[derive(Debug, Default)]
pub(super) struct Tools {
    feed: Feed,
    /// How many attempts of each name began.
    begun: Mutex<BTreeMap<String, u64>>,
}

impl Tools {
    /// As the configuration wants it, and where to read what happens; `None`: nowhere.
    pub(super) fn new(wanted: config::Tools) -> (Self, Option<mpsc::Receiver<Happened>>) {
        let wanted = match wanted {
            config::Tools::Off => return (Self::default(), None),
            config::Tools::On => false,
            config::Tools::Events => true,
        };
        let (feed, happened) = Feed::new(wanted);
        let tools = Self {
            feed,
            begun: Mutex::default(),
        };
        (tools, Some(happened))
    }

    /// Whether anybody wants to know of tasks.
    pub(super) fn want_tasks(&self) -> bool {
        self.feed.is_wanted()
    }

    fn begun<T>(&self, with: impl FnOnce(&mut BTreeMap<String, u64>) -> T) -> T {
        with(&mut self.begun.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Worker {
    /// Tells tools what happened to a task.
    pub(super) fn tell(&self, id: &TaskId, what: impl FnOnce() -> What) {
        self.tools.feed.tell(|| Happened {
            id: id.clone(),
            at: self.store.clock().now(),
            what: what(),
        });
    }

    /// Tells tools that a task has come which will not begin now.
    pub(super) fn tell_aside(&self, task: &Task, what: Option<What>) {
        self.tell(&task.id, || What::received(task, 0));
        if let Some(what) = what {
            self.tell(&task.id, || what);
        }
    }

    /// Tells tools that a task has come which will never run, because it is late or canceled.
    pub(super) fn tell_revoked(&self, task: &Task, expired: bool) {
        let revoked = What::Revoked {
            terminated: false,
            expired,
        };
        self.tell_aside(task, Some(revoked));
    }

    /// Tells tools that an attempt begins of a task that has failed `failures` times.
    pub(super) fn tell_begun(&self, task: &Task, failures: u32) {
        if self.setup.celery.tools() == config::Tools::Off {
            return;
        }
        self.tools.begun(|begun| match begun.get_mut(&task.name) {
            Some(count) => *count += 1,
            None => drop(begun.insert(task.name.clone(), 1)),
        });
        self.tell(&task.id, || What::received(task, failures));
        self.tell(&task.id, || What::Started);
    }
}

/// The worker's name among Celery's. A pod has one worker; elsewhere the process's number tells several apart.
fn name(setup: &Setup) -> String {
    const LONGEST: usize = 100;
    let pool = setup.name.get(..setup.name.floor_char_boundary(LONGEST));
    let pool = pool.unwrap_or_default();
    match &setup.pod {
        Some(pod) => format!("longshore-{pool}@{}", pod.name()),
        None => format!("longshore-{pool}@{}.{}", super::host(), std::process::id()),
    }
}

/// Starts to answer and to tell, if that is wanted.
pub(super) fn start(
    worker: &Arc<Worker>,
    happened: Option<mpsc::Receiver<Happened>>,
) -> Option<JoinHandle<()>> {
    let run = run(Arc::clone(worker), happened?);
    Some(worker.look_after("tools", run))
}

/// Gives the last events no more than a moment.
pub(super) async fn last_word(tools: Option<JoinHandle<()>>) {
    if let Some(tools) = tools
        && tokio::time::timeout(LAST_WORD, tools).await.is_err()
    {
        tracing::debug!("the broker did not take the last events in time");
    }
}

/// Answers and tells until the worker ends.
async fn run(worker: Arc<Worker>, happened: mpsc::Receiver<Happened>) {
    let node = Node::new(name(&worker.setup));
    let fanout = Exchange {
        name: control::EXCHANGE,
        kind: ExchangeKind::Fanout,
        durable: false,
    };
    let topic = Exchange {
        name: events::EXCHANGE,
        kind: ExchangeKind::Topic,
        durable: true,
    };
    let mailbox = Mailbox {
        queue: control::mailbox(&node.name),
        exchange: fanout,
        others: vec![topic],
        expires: MAILBOX_EXPIRES,
        message_ttl: MAILBOX_TTL,
    };
    let Some(mut aside) = worker.broker.aside(mailbox) else {
        tracing::warn!("Celery's tools need RabbitMQ; this worker is unknown to them");
        return;
    };
    tracing::info!(node = node.name, "Celery's tools know this worker");
    let desk = Desk {
        worker: &worker,
        node: &node,
        posts: aside.posts.clone(),
        bulk: aside.bulk.clone(),
        began: Instant::now(),
    };
    let attached = aside.attached.clone();
    tokio::join!(
        desk.report(attached, happened),
        desk.answer(&mut aside.requests)
    );
    desk.live(Life::Offline);
    aside.close().await;
}

/// Where both halves work.
struct Desk<'w> {
    worker: &'w Arc<Worker>,
    node: &'w Node,
    posts: mpsc::Sender<Posted>,
    bulk: mpsc::Sender<Posted>,
    began: Instant,
}

impl Desk<'_> {
    /// Sends what happens to tasks, and that the worker lives.
    async fn report(
        &self,
        mut attached: tokio::sync::watch::Receiver<bool>,
        mut happened: mpsc::Receiver<Happened>,
    ) {
        let mut beat = Instant::now() + events::HEARTBEAT;
        let mut batch = Vec::with_capacity(BATCH);
        loop {
            tokio::select! {
                () = self.worker.give_up.cancelled() => break,
                Ok(()) = attached.changed() => {
                    if *attached.borrow_and_update() {
                        self.live(Life::Online);
                        beat = Instant::now() + events::HEARTBEAT;
                    }
                }
                _some = happened.recv_many(&mut batch, BATCH), if batch.is_empty() => {}
                // While this one waits, more come together.
                Ok(place) = self.bulk.reserve(), if !batch.is_empty() => {
                    fill(&mut batch, &mut happened);
                    place.send(self.tasks(batch.drain(..)));
                }
                () = tokio::time::sleep_until(beat) => {
                    beat = Instant::now() + events::HEARTBEAT;
                    // What nobody takes now would only be old news later.
                    if *attached.borrow() {
                        self.live(Life::Heartbeat);
                    }
                }
            }
        }
        loop {
            fill(&mut batch, &mut happened);
            if batch.is_empty() {
                return;
            }
            let events = batch.len();
            if self.posts.try_send(self.tasks(batch.drain(..))).is_err() {
                events::dropped(events);
            }
        }
    }

    fn tasks(&self, batch: std::vec::Drain<'_, Happened>) -> Posted {
        let (routing_key, message) = self.node.tasks(batch);
        Posted {
            exchange: events::EXCHANGE.into(),
            routing_key: routing_key.into(),
            message,
        }
    }

    fn live(&self, life: Life) {
        let processed = self.worker.tools.begun(|begun| begun.values().sum());
        let now = self.worker.store.clock().now();
        let (routing_key, message) = self.node.worker(life, now, self.worker.count(), processed);
        if !self.post(events::EXCHANGE.into(), routing_key.into(), message) {
            events::dropped(1);
        }
    }

    /// False: there is no room, and the message is gone.
    fn post(&self, exchange: String, routing_key: String, message: Message) -> bool {
        let posted = Posted {
            exchange,
            routing_key,
            message,
        };
        self.posts.try_send(posted).is_ok()
    }

    /// Answers requests, one after another.
    async fn answer(&self, requests: &mut mpsc::Receiver<Message>) {
        let mut revoked = VecDeque::new();
        loop {
            let message = tokio::select! {
                () = self.worker.give_up.cancelled() => return,
                Some(message) = requests.recv() => message,
            };
            let request = match control::read(&message, &self.node.name) {
                Ok(Some(request)) => request,
                Ok(None) => continue,
                Err(error) => {
                    tracing::warn!(%error, "a request of Celery's remote control cannot be read");
                    continue;
                }
            };
            let Request {
                command,
                reply_to,
                clock,
            } = request;
            self.node.clock.adjust(clock);
            let answer = match command {
                Ok(command) => {
                    let working = self.obey(command, &mut revoked);
                    let answer = tokio::time::timeout(LIMIT, working).await;
                    answer.unwrap_or_else(|_| Ok(control::error("the store does not answer")))
                }
                Err(reason) => Ok(control::error(reason)),
            };
            let answer = answer.unwrap_or_else(|error| {
                tracing::warn!(%error, "a request of Celery's remote control failed");
                control::error(format!("failed to {error}"))
            });
            if let Some(reply_to) = reply_to {
                let (exchange, routing_key, message) = control::reply(self.node, &reply_to, answer);
                if !self.post(exchange, routing_key, message) {
                    tracing::debug!("an answer to a tool was dropped");
                }
            }
        }
    }

    async fn obey(
        &self,
        command: Command,
        revoked: &mut VecDeque<String>,
    ) -> Result<Value, StoreError> {
        let worker = self.worker;
        Ok(match command {
            Command::Ping => control::ok("pong"),
            Command::Clock => json!({ "clock": self.node.clock.forward() }),
            // Celery's workers ask all others when they start, and take over what these say.
            Command::Hello { from } if from == self.node.name => Value::Null,
            Command::Hello { .. } => {
                json!({ "revoked": revoked, "clock": self.node.clock.forward() })
            }
            Command::Report => control::ok(self.about()),
            Command::Conf => conf(&worker.setup),
            Command::Stats => self.stats(),
            Command::Registered => worker.live().registry.names().into(),
            Command::ActiveQueues => control::active_queues(&worker.queues.borrow()),
            Command::Active { safe } => self.active(safe),
            // What is claimed runs; deliveries beyond that are given back.
            Command::Reserved => json!([]),
            Command::Scheduled => self.scheduled().await?,
            Command::Revoked => json!(revoked),
            Command::QueryTask { ids } => self.query(&ids).await?,
            Command::Revoke { ids, terminate } => self.revoke(ids, terminate, revoked).await?,
            Command::EnableEvents => control::ok(if worker.tools.feed.want(true) {
                "task events already enabled"
            } else {
                "task events enabled"
            }),
            Command::DisableEvents => control::ok(if worker.tools.feed.want(false) {
                "task events disabled"
            } else {
                "task events already disabled"
            }),
            Command::Heartbeat => {
                self.live(Life::Heartbeat);
                Value::Null
            }
            Command::Shutdown => {
                tracing::info!("a tool asks for the end of this worker; it drains");
                worker.stop.cancel();
                Value::Null
            }
            Command::AddConsumer { queue } => self.consume(&queue, true),
            Command::CancelConsumer { queue } => self.consume(&queue, false),
        })
    }

    fn about(&self) -> String {
        let setup = &self.worker.setup;
        format!(
            "software -> longshore:{} ({} {})\npool -> {} (kind:{} slots:{} queues:{})\n",
            env!("CARGO_PKG_VERSION"),
            std::env::consts::OS,
            std::env::consts::ARCH,
            setup.name,
            self.worker.member.kind,
            self.worker.live().slots,
            setup.pool.queues.join(","),
        )
    }

    fn stats(&self) -> Value {
        let stats = Stats {
            kind: &self.worker.member.kind,
            slots: self.worker.live().slots,
            uptime: self.began.elapsed(),
            total: self.worker.tools.begun(|begun| begun.clone()),
            place: self.worker.broker.place(),
        };
        stats.answer(self.node)
    }

    fn active(&self, safe: bool) -> Value {
        self.worker.attempts(|attempts| {
            attempts
                .values()
                .map(|attempt| {
                    let shown = Shown {
                        task: &attempt.task,
                        started: Some(attempt.since),
                        acknowledged: attempt.receipt.is_none(),
                    };
                    shown.info(&self.node.name, safe)
                })
                .collect()
        })
    }

    /// Tasks of this worker's queues that wait for their time: those of the oldest ones that wait anywhere.
    async fn scheduled(&self) -> Result<Value, StoreError> {
        let filter = Filter {
            id: None,
            state: Some(State::Waiting),
            most: WAITING,
        };
        let waiting = self.worker.store.tasks(&filter).await?;
        Ok(waiting
            .into_iter()
            .filter(|view| self.worker.setup.pool.queues.contains(&view.queue))
            .filter_map(|view| {
                let mut task: Task = serde_json::from_str(&view.task).ok()?;
                task.run_at = view.run_at;
                Some(waits(&task).scheduled(&self.node.name))
            })
            .collect())
    }

    async fn query(&self, ids: &[String]) -> Result<Value, StoreError> {
        let mut found = serde_json::Map::new();
        if let Value::Array(active) = self.active(false) {
            for info in active {
                if let Some(id) = info["id"].as_str()
                    && ids.iter().any(|wanted| wanted == id)
                {
                    found.insert(id.to_owned(), json!(["active", info]));
                }
            }
        }
        for id in ids.iter().take(WAITING as usize) {
            if found.contains_key(id) {
                continue;
            }
            let filter = Filter {
                id: Some(id.clone()),
                state: Some(State::Waiting),
                most: 1,
            };
            for view in self.worker.store.tasks(&filter).await? {
                if self.worker.setup.pool.queues.contains(&view.queue)
                    && let Ok(task) = serde_json::from_str::<Task>(&view.task)
                {
                    let info = waits(&task).info(&self.node.name, false);
                    found.insert(id.clone(), json!(["scheduled", info]));
                }
            }
        }
        Ok(Value::Object(found))
    }

    /// Revokes for all workers and for good: in the store. Every worker is asked at once; the first one does it.
    async fn revoke(
        &self,
        ids: Vec<String>,
        terminate: bool,
        revoked: &mut VecDeque<String>,
    ) -> Result<Value, StoreError> {
        let (standing, rings) = self.worker.store.revoke(&ids, terminate).await?;
        self.worker.relay.publish(rings).await;
        let names = ids.join(", ");
        tracing::info!(tasks = names, terminate, "tasks were revoked by a tool");
        let known = revoked.iter().cloned().collect::<HashSet<_>>();
        revoked.extend(ids.into_iter().filter(|id| !known.contains(id)));
        while revoked.len() > REVOKED {
            revoked.pop_front();
        }
        let running = standing
            .into_iter()
            .filter(|(_, state)| *state == State::Running)
            .map(|(id, _)| id)
            .collect::<Vec<_>>();
        Ok(control::ok(match (terminate, running.is_empty()) {
            (false, _) => format!("tasks {names} flagged as revoked"),
            (true, true) => "terminate: tasks unknown".into(),
            (true, false) => format!("terminate: {}", running.join(", ")),
        }))
    }

    /// Takes from a queue of the pool again, or no more for now.
    fn consume(&self, queue: &str, wanted: bool) -> Value {
        let Worker { setup, queues, .. } = &**self.worker;
        if !setup.pool.queues.iter().any(|known| known == queue) {
            return control::error(format!(
                "queue {queue:?} is none of pool {:?}: add it to [pools.{:?}] queues and restart its workers",
                setup.name, setup.name
            ));
        }
        let changed = queues.send_if_modified(|taken| {
            let next = setup
                .pool
                .queues
                .iter()
                .filter(|known| {
                    if *known == queue {
                        wanted
                    } else {
                        taken.contains(known)
                    }
                })
                .cloned()
                .collect::<Vec<_>>();
            let changed = *taken != next;
            *taken = next;
            changed
        });
        if changed {
            tracing::info!(queue, consumes = wanted, "a tool changed what is taken");
            self.worker.tell_rest();
        }
        control::ok(match (wanted, changed) {
            (true, true) => format!("add consumer {queue}"),
            (true, false) => format!("already consuming from {queue}"),
            (false, _) => format!("no longer consuming from {queue}"),
        })
    }
}

/// Takes what has happened meanwhile, up to a whole batch.
fn fill(batch: &mut Vec<Happened>, happened: &mut mpsc::Receiver<Happened>) {
    while batch.len() < BATCH
        && let Ok(next) = happened.try_recv()
    {
        batch.push(next);
    }
}

/// A task that waits for its time, in the store: nothing of it is held.
fn waits(task: &Task) -> Shown<'_> {
    Shown {
        task,
        started: None,
        acknowledged: true,
    }
}

/// What of the configuration decides how this worker behaves. Addresses and whatever may be a secret are not in it.
fn conf(setup: &Setup) -> Value {
    let config::Worker {
        lease,
        hold,
        grace,
        margin,
        checkpoint_every,
        crash_limit,
        log: _,
    } = &setup.worker;
    let seconds = |time: &Duration| time.as_secs_f64();
    json!({
        "pool": setup.name, "queues": setup.pool.queues, "slots": setup.pool.slots,
        "kind": if setup.pool.kind.is_elastic() { "elastic" } else { "pinned" },
        "worker.lease": seconds(lease), "worker.hold": seconds(hold), "worker.grace": seconds(grace),
        "worker.margin": seconds(margin), "worker.checkpoint_every": seconds(checkpoint_every),
        "worker.crash_limit": crash_limit,
    })
}
