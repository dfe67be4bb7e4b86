//! Events of workers and tasks, as `celery.events` sends them and Flower reads them: dictionaries in JSON on the topic
//! exchange `celeryev`, those of tasks in batches.
//!
//! An event never costs a task anything but the time to put it into a queue: what does not fit there, or cannot be sent, is
//! dropped and counted. Callers: the pool's loops tell [`Feed`]; its loop for tools sends.
//!
//! No event says `utcoffset`: with it, receivers move the timestamp, which is UTC already, by the difference between
//! the two machines' time zones.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use serde_json::{Map, Value, json};
use tokio::sync::mpsc;

use super::repr;
use crate::codec::{self, Message};
use crate::id::TaskId;
use crate::task::Task;

/// The exchange of events.
pub const EXCHANGE: &str = "celeryev";
/// How often a worker says that it lives; tools give it up after two minutes without.
pub const HEARTBEAT: Duration = Duration::from_secs(2);
/// Events of tasks that wait to be sent, about 1 KiB each: more is a flood that nobody could read.
const MOST: usize = 4096;
/// The largest value of a logical clock that is believed: JSON's readers take larger numbers for fractions.
const LATEST: u64 = 1 << 53;

/// A worker's logical clock (Lamport's), by which tools order events of several workers.
#[derive(Debug, Default)]
pub struct Clock(AtomicU64);

impl Clock {
    /// The next moment.
    pub fn forward(&self) -> u64 {
        self.0.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// Goes on after `other`, which another's clock said.
    pub fn adjust(&self, other: u64) {
        if other < LATEST {
            self.0.fetch_max(other, Ordering::Relaxed);
        }
        self.forward();
    }
}

/// One thing that happened to a task.
#[derive(Debug)]
pub struct Happened {
    /// To which.
    pub id: TaskId,
    /// When, in milliseconds since 1970.
    pub at: i64,
    /// What.
    pub what: What,
}

/// What happened to a task.
#[derive(Debug, Clone, PartialEq)]
pub enum What {
    /// This worker has it.
    Received(Box<Received>),
    /// Its handler runs.
    Started,
    /// It is done.
    Succeeded {
        /// What it returned, as Python shows it.
        result: String,
        /// For how long it ran.
        runtime: Duration,
    },
    /// It has finally failed.
    Failed {
        /// Why.
        reason: String,
    },
    /// It will be tried again.
    Retried {
        /// Why.
        reason: String,
    },
    /// It goes back to its queue, for another worker.
    Rejected,
    /// It will not run.
    Revoked {
        /// Whether it ran.
        terminated: bool,
        /// Whether it came too late.
        expired: bool,
    },
}

/// What is said of a task when it comes.
#[derive(Debug, Clone, PartialEq)]
pub struct Received {
    name: String,
    args: String,
    kwargs: String,
    root_id: Value,
    parent_id: Value,
    retries: u32,
    eta: Option<String>,
    expires: Option<String>,
}

impl What {
    /// That a task has come which has failed `retries` times before.
    pub fn received(task: &Task, retries: u32) -> Self {
        let root_id = task.headers.get("root_id").cloned();
        // What others have tried before, the message says.
        let before = task.headers.get("retries").and_then(Value::as_u64);
        let before = before.and_then(|before| u32::try_from(before).ok());
        Self::Received(Box::new(Received {
            name: task.name.clone(),
            args: args(task),
            kwargs: kwargs(task),
            root_id: root_id.unwrap_or_else(|| task.id.as_str().into()),
            parent_id: task.headers.get("parent_id").cloned().unwrap_or_default(),
            retries: retries.max(before.unwrap_or_default()),
            eta: task.run_at.and_then(codec::time_text),
            expires: task.expires_at.and_then(codec::time_text),
        }))
    }

    /// That it returned `result`.
    pub fn succeeded(result: Option<&Value>, runtime: Duration) -> Self {
        Self::Succeeded {
            result: repr::of(result.unwrap_or(&Value::Null)),
            runtime,
        }
    }

    fn kind(&self) -> &'static str {
        match self {
            Self::Received(_) => "task-received",
            Self::Started => "task-started",
            Self::Succeeded { .. } => "task-succeeded",
            Self::Failed { .. } => "task-failed",
            Self::Retried { .. } => "task-retried",
            Self::Rejected => "task-rejected",
            Self::Revoked { .. } => "task-revoked",
        }
    }

    fn fields(self) -> Value {
        match self {
            Self::Received(received) => {
                let Received {
                    name,
                    args,
                    kwargs,
                    root_id,
                    parent_id,
                    retries,
                    eta,
                    expires,
                } = *received;
                json!({
                    "name": name, "args": args, "kwargs": kwargs, "root_id": root_id, "parent_id": parent_id,
                    "retries": retries, "eta": eta, "expires": expires,
                })
            }
            Self::Started => json!({}),
            Self::Succeeded { result, runtime } => {
                json!({ "result": result, "runtime": runtime.as_secs_f64() })
            }
            // There is no traceback but the chain of causes, which the reason is.
            Self::Failed { reason } | Self::Retried { reason } => {
                json!({ "exception": reason, "traceback": reason })
            }
            Self::Rejected => json!({ "requeue": true }),
            Self::Revoked {
                terminated,
                expired,
            } => json!({ "terminated": terminated, "signum": null, "expired": expired }),
        }
    }
}

/// Positional arguments for people: as the producer showed them, who may have hidden some.
pub(super) fn args(task: &Task) -> String {
    shown(task, "argsrepr").unwrap_or_else(|| repr::of_args(&task.args))
}

/// Named arguments for people, in the same way.
pub(super) fn kwargs(task: &Task) -> String {
    shown(task, "kwargsrepr").unwrap_or_else(|| repr::of_kwargs(&task.kwargs))
}

fn shown(task: &Task, header: &str) -> Option<String> {
    let text = task.headers.get(header)?.as_str()?;
    Some(repr::shortened(text.to_owned()))
}

/// Where the pool's loops say what happens to tasks. Clones share it; without a reader it costs nothing.
#[derive(Debug, Clone, Default)]
pub struct Feed(Option<Arc<Shared>>);

#[derive(Debug)]
struct Shared {
    wanted: AtomicBool,
    queue: mpsc::Sender<Happened>,
}

impl Feed {
    /// A feed and what reads it. Nothing is said before it is wanted.
    pub fn new(wanted: bool) -> (Self, mpsc::Receiver<Happened>) {
        let (queue, happened) = mpsc::channel(MOST);
        let shared = Shared {
            wanted: AtomicBool::new(wanted),
            queue,
        };
        (Self(Some(Arc::new(shared))), happened)
    }

    /// Whether anybody wants to know of tasks.
    pub fn is_wanted(&self) -> bool {
        self.0
            .as_ref()
            .is_some_and(|shared| shared.wanted.load(Ordering::Relaxed))
    }

    /// Says whether anybody does. Returns whether somebody did.
    pub fn want(&self, wanted: bool) -> bool {
        self.0
            .as_ref()
            .is_some_and(|shared| shared.wanted.swap(wanted, Ordering::Relaxed))
    }

    /// Says what happened, if anybody wants to know and there is room.
    pub fn tell(&self, happened: impl FnOnce() -> Happened) {
        if let Some(shared) = &self.0
            && shared.wanted.load(Ordering::Relaxed)
        {
            match shared.queue.try_reserve() {
                Ok(place) => place.send(happened()),
                Err(_) => dropped(1),
            }
        }
    }
}

/// Counts events that were not sent.
pub fn dropped(events: usize) {
    metrics::counter!("longshore_celery_events_dropped_total").increment(events as u64);
}

/// The worker that events are about.
#[derive(Debug)]
pub struct Node {
    /// Its name among Celery's workers.
    pub name: String,
    /// Its logical clock.
    pub clock: Clock,
}

impl Node {
    /// The worker called `name`.
    pub fn new(name: String) -> Self {
        Self {
            name,
            clock: Clock::default(),
        }
    }

    /// Events of tasks in one message, and its routing key.
    pub fn tasks(&self, happened: impl Iterator<Item = Happened>) -> (&'static str, Message) {
        let events = happened
            .map(|Happened { id, at, what }| {
                let kind = what.kind();
                let mut fields = what.fields();
                if let Value::Object(fields) = &mut fields {
                    fields.insert("uuid".into(), id.as_str().into());
                }
                self.event(kind, at, fields)
            })
            .collect::<Vec<_>>();
        ("task.multi", self.message(&Value::Array(events)))
    }

    /// The event `worker-online`, `worker-heartbeat` or `worker-offline`, and its routing key. `active` tasks run, and
    /// `processed` have run since the start.
    pub fn worker(
        &self,
        life: Life,
        at: i64,
        active: usize,
        processed: u64,
    ) -> (&'static str, Message) {
        let (kind, routing_key) = match life {
            Life::Online => ("worker-online", "worker.online"),
            Life::Heartbeat => ("worker-heartbeat", "worker.heartbeat"),
            Life::Offline => ("worker-offline", "worker.offline"),
        };
        let fields = json!({
            "freq": HEARTBEAT.as_secs_f64(), "active": active, "processed": processed, "loadavg": load(),
            "sw_ident": "longshore", "sw_ver": env!("CARGO_PKG_VERSION"), "sw_sys": system(),
        });
        (routing_key, self.message(&self.event(kind, at, fields)))
    }

    fn event(&self, kind: &str, at: i64, fields: Value) -> Value {
        let mut event = Map::new();
        event.insert("hostname".into(), self.name.as_str().into());
        event.insert("pid".into(), std::process::id().into());
        event.insert("clock".into(), self.clock.forward().into());
        event.insert("timestamp".into(), json!(at as f64 / 1000.0));
        event.insert("type".into(), kind.into());
        if let Value::Object(fields) = fields {
            event.extend(fields);
        }
        Value::Object(event)
    }

    fn message(&self, body: &Value) -> Message {
        let mut headers = Map::new();
        headers.insert("hostname".into(), self.name.as_str().into());
        Message {
            content_type: Some("application/json".into()),
            content_encoding: Some("utf-8".into()),
            headers,
            body: body.to_string().into(),
            ..Message::default()
        }
    }
}

/// What a worker says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Life {
    /// It has come.
    Online,
    /// It is still there.
    Heartbeat,
    /// It goes.
    Offline,
}

/// The machine's load, as Python's `os.getloadavg`; zeros where there is none to be read.
fn load() -> [f64; 3] {
    let text = std::fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let mut numbers = text.split(' ').map_while(|number| number.parse().ok());
    [(); 3].map(|()| numbers.next().unwrap_or(0.0))
}

/// The operating system, as Python's `platform.system`.
fn system() -> &'static str {
    match std::env::consts::OS {
        "linux" => "Linux",
        "macos" => "Darwin",
        other => other,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn happened(what: What) -> Happened {
        Happened {
            id: TaskId::new("a".to_owned()),
            at: 1500,
            what,
        }
    }

    fn body(message: &Message) -> Value {
        serde_json::from_slice(&message.body).unwrap()
    }

    #[test]
    fn events_of_tasks_are_one_list_in_the_order_of_the_clock() {
        let node = Node::new("longshore-a@b".into());
        let mut task = Task::new("add", "q").with("x", 1);
        task.args = vec![json!(2)];
        task.run_at = Some(7);
        let received = What::received(&task, 3);
        let events = [received, What::Started];
        let (routing_key, message) = node.tasks(events.into_iter().map(happened));
        assert_eq!(routing_key, "task.multi");
        let events = body(&message);
        assert_eq!(events[0]["type"], "task-received");
        assert_eq!(events[0]["args"], "(2,)");
        assert_eq!(events[0]["kwargs"], "{'x': 1}");
        assert_eq!(events[0]["eta"], "1970-01-01T00:00:00.007+00:00");
        assert_eq!(events[0]["root_id"], task.id.as_str());
        assert_eq!(events[0]["timestamp"], 1.5);
        assert_eq!(
            (&events[0]["clock"], &events[1]["clock"]),
            (&json!(1), &json!(2))
        );
        assert_eq!(events[1]["uuid"], "a");
        assert_eq!(message.headers["hostname"], "longshore-a@b");
    }

    #[test]
    fn what_a_producer_hides_of_its_arguments_stays_hidden() {
        let mut task = Task::new("login", "q").with("password", "hunter2");
        task.headers
            .insert("kwargsrepr".into(), "{'password': '***'}".into());
        assert_eq!(kwargs(&task), "{'password': '***'}");
    }

    #[test]
    fn a_feed_that_nobody_reads_costs_nothing_and_one_that_is_full_drops() {
        let never = || -> Happened { panic!("nobody wants to know") };
        Feed::default().tell(never);
        let (feed, mut queue) = Feed::new(false);
        feed.tell(never);
        assert!(!feed.want(true) && feed.is_wanted());
        for _ in 0..MOST + 10 {
            feed.tell(|| happened(What::Started));
        }
        let mut read = 0;
        while queue.try_recv().is_ok() {
            read += 1;
        }
        assert_eq!(read, MOST);
    }

    #[test]
    fn a_clock_goes_on_after_anothers_but_not_after_nonsense() {
        let clock = Clock::default();
        clock.adjust(41);
        assert_eq!(clock.forward(), 43);
        clock.adjust(u64::MAX);
        assert_eq!(clock.forward(), 45);
    }
}
