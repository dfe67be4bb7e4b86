//! Celery's remote control, as `kombu.pidbox` sends it and `celery.worker.control` answers it: pure.
//!
//! A [`Request`] is what a message asks of this worker, an answer what `celery inspect` and `celery control` print. Shapes
//! and texts are Celery's where a tool reads them. What a running worker cannot change is answered by an error that says
//! where it is set. Caller: the pool's loop for tools.

use std::collections::BTreeMap;
use std::time::Duration;

use regex::RegexBuilder;
use serde_json::{Map, Value, json};

use super::events::{self, Node};
use super::repr;
use crate::codec::{self, Message, Unreadable};
use crate::task::Task;

/// The exchange of requests.
pub const EXCHANGE: &str = "celery.pidbox";
/// Ids in one request: each is a row in one statement.
const MOST_IDS: usize = 10_000;
/// The largest pattern of nodes' names, compiled.
const PATTERN: usize = 64 * 1024;
/// Arguments of one task that are told whole, in bytes; larger ones are told as people see them.
const WHOLE: usize = 8 * 1024;

/// The queue in which the worker `node` gets requests.
pub fn mailbox(node: &str) -> String {
    format!("{node}.{EXCHANGE}")
}

/// What a message asks of this worker.
#[derive(Debug, Clone, PartialEq)]
pub struct Request {
    /// What to do; or why it cannot be done.
    pub command: Result<Command, String>,
    /// Where the answer goes; `None`: nobody waits for one.
    pub reply_to: Option<ReplyTo>,
    /// The sender's logical clock.
    pub clock: u64,
}

/// Where an answer goes.
#[derive(Debug, Clone, PartialEq)]
pub struct ReplyTo {
    exchange: String,
    routing_key: String,
    ticket: Value,
    /// In which the request was written, so that its sender can read it.
    content_type: Option<String>,
}

/// What a worker can be asked.
#[derive(Debug, Clone, PartialEq)]
#[expect(missing_docs, reason = "each is Celery's command of that name")]
pub enum Command {
    Ping,
    Clock,
    Hello { from: String },
    Report,
    Conf,
    Stats,
    Registered,
    ActiveQueues,
    Active { safe: bool },
    Reserved,
    Scheduled,
    Revoked,
    QueryTask { ids: Vec<String> },
    Revoke { ids: Vec<String>, terminate: bool },
    EnableEvents,
    DisableEvents,
    Heartbeat,
    Shutdown,
    AddConsumer { queue: String },
    CancelConsumer { queue: String },
}

/// Reads a request; `None`: it is for other workers.
///
/// # Errors
///
/// [`Unreadable`] if the message cannot be read. What it asks for and cannot have stands in [`Request::command`].
pub fn read(message: &Message, node: &str) -> Result<Option<Request>, Unreadable> {
    let Value::Object(body) = codec::read_value(message)? else {
        return Ok(None);
    };
    if !is_for(&body, node) {
        return Ok(None);
    }
    let text = |map: &Map<String, Value>, key: &str| map.get(key)?.as_str().map(str::to_owned);
    let reply_to = body
        .get("reply_to")
        .and_then(Value::as_object)
        .and_then(|to| {
            Some(ReplyTo {
                exchange: text(to, "exchange")?,
                routing_key: text(to, "routing_key")?,
                ticket: body.get("ticket").cloned().unwrap_or_default(),
                content_type: message.content_type.clone(),
            })
        });
    let none = Map::new();
    let arguments = body
        .get("arguments")
        .and_then(Value::as_object)
        .unwrap_or(&none);
    let method = text(&body, "method").unwrap_or_default();
    Ok(Some(Request {
        command: Command::read(&method, arguments),
        reply_to,
        clock: message
            .headers
            .get("clock")
            .and_then(Value::as_u64)
            .unwrap_or(0),
    }))
}

/// As `kombu.pidbox.Node` decides it: by names, else by a pattern, else for all.
fn is_for(body: &Map<String, Value>, node: &str) -> bool {
    let text = |key| {
        body.get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    };
    match body.get("destination") {
        Some(Value::Array(names)) if !names.is_empty() => {
            names.iter().any(|name| name.as_str() == Some(node))
        }
        Some(Value::String(name)) if !name.is_empty() => name == node,
        _ => match (text("pattern"), text("matcher")) {
            (Some(pattern), Some(matcher)) => is_match(node, pattern, matcher),
            _ => true,
        },
    }
}

fn is_match(node: &str, pattern: &str, matcher: &str) -> bool {
    let pattern = match matcher {
        "glob" => glob(pattern),
        "pcre" => format!("^(?:{pattern})"),
        other => {
            tracing::debug!(matcher = other, "a tool names nodes in an unknown way");
            return false;
        }
    };
    let built = RegexBuilder::new(&pattern)
        .size_limit(PATTERN)
        .dot_matches_new_line(true)
        .build();
    match built {
        Ok(regex) => regex.is_match(node),
        Err(error) => {
            tracing::debug!(%error, "a tool's pattern of nodes cannot be read");
            false
        }
    }
}

/// A pattern of Python's `fnmatch` as a regular expression.
fn glob(pattern: &str) -> String {
    let mut regex = String::from("^");
    let mut rest = pattern;
    while let Some(c) = rest.chars().next() {
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
        match c {
            '*' => regex.push_str(".*"),
            '?' => regex.push('.'),
            '[' => {
                // A `]` right at the beginning is one of the set.
                let skip = usize::from(rest.starts_with('!'));
                let from =
                    skip + usize::from(rest.get(skip..).is_some_and(|it| it.starts_with(']')));
                let end = rest.get(from..).and_then(|set| set.find(']'));
                match end.and_then(|end| rest.split_at_checked(from + end)) {
                    Some((set, after)) => {
                        regex.push('[');
                        if skip == 1 {
                            regex.push('^');
                        }
                        for c in set.chars().skip(skip) {
                            if c != '-' {
                                regex.push_str(&regex::escape(&c.to_string()));
                            } else {
                                regex.push('-');
                            }
                        }
                        regex.push(']');
                        rest = after.get(1..).unwrap_or_default();
                    }
                    None => regex.push_str("\\["),
                }
            }
            c => regex.push_str(&regex::escape(&c.to_string())),
        }
    }
    regex.push('$');
    regex
}

impl Command {
    fn read(method: &str, arguments: &Map<String, Value>) -> Result<Self, String> {
        let flag = |key: &str| arguments.get(key).is_some_and(is_true);
        let text = |key: &str| match arguments.get(key).and_then(Value::as_str) {
            Some(text) if !text.is_empty() => Ok(text.to_owned()),
            _ => Err(format!("{method}: {key} is missing")),
        };
        Ok(match method {
            "ping" => Self::Ping,
            "clock" => Self::Clock,
            "hello" => Self::Hello {
                from: text("from_node")?,
            },
            "report" => Self::Report,
            "conf" | "dump_conf" => Self::Conf,
            "stats" => Self::Stats,
            "registered" | "dump_tasks" => Self::Registered,
            "active_queues" => Self::ActiveQueues,
            "active" | "dump_active" => Self::Active { safe: flag("safe") },
            "reserved" | "dump_reserved" => Self::Reserved,
            "scheduled" | "dump_schedule" => Self::Scheduled,
            "revoked" | "dump_revoked" => Self::Revoked,
            "query_task" => Self::QueryTask {
                ids: ids(method, arguments.get("ids"))?,
            },
            "revoke" => Self::Revoke {
                ids: ids(method, arguments.get("task_id"))?,
                terminate: flag("terminate"),
            },
            "terminate" => Self::Revoke {
                ids: ids(method, arguments.get("task_id"))?,
                terminate: true,
            },
            "enable_events" => Self::EnableEvents,
            "disable_events" => Self::DisableEvents,
            "heartbeat" => Self::Heartbeat,
            "shutdown" => Self::Shutdown,
            "add_consumer" => Self::AddConsumer {
                queue: text("queue")?,
            },
            "cancel_consumer" => Self::CancelConsumer {
                queue: text("queue")?,
            },
            other => return Err(refusal(other)),
        })
    }
}

/// Why a worker does not do it.
fn refusal(method: &str) -> String {
    match method {
        "rate_limit" => {
            "Longshore has no rate limits: [pools.NAME] slots of its configuration bounds what runs at a time"
        }
        "time_limit" => {
            "time limits are set by the policy of a task in Longshore's configuration: [tasks.\"NAME\"] time_limit"
        }
        "pool_grow" | "pool_shrink" | "autoscale" => {
            "the slots of a worker are set in Longshore's configuration: [pools.NAME] slots; scale by the number of workers"
        }
        "pool_restart" => "a worker of Longshore is restarted as a process: it drains on SIGTERM",
        "revoke_by_stamped_headers" => "Longshore revokes tasks by their ids only",
        "election" => "Longshore takes no part in elections",
        "memsample" | "memdump" | "objgraph" => "there is no Python in this worker to look at",
        // As Celery answers it.
        _ => return format!("KeyError({})", repr::of_text(method)),
    }
    .to_owned()
}

/// As Celery reads a flag: the command line sends texts.
fn is_true(value: &Value) -> bool {
    match value {
        Value::Bool(flag) => *flag,
        Value::String(text) => matches!(text.to_lowercase().as_str(), "true" | "yes" | "1" | "on"),
        Value::Number(number) => number.as_f64() != Some(0.0),
        Value::Null => false,
        Value::Array(items) => !items.is_empty(),
        Value::Object(map) => !map.is_empty(),
    }
}

/// One id or a list of them, sorted: workers that write the same rows do so in one order.
fn ids(method: &str, value: Option<&Value>) -> Result<Vec<String>, String> {
    let wrong = || format!("{method}: give a task's id, or a list of ids");
    let one = |value: &Value| {
        value
            .as_str()
            .filter(|id| !id.is_empty() && id.len() <= codec::MAX_NAME && !id.contains('\0'))
            .map(str::to_owned)
            .ok_or_else(wrong)
    };
    let mut ids = match value {
        Some(Value::Array(items)) if items.len() <= MOST_IDS => {
            items.iter().map(one).collect::<Result<Vec<_>, _>>()?
        }
        Some(Value::Array(_)) => {
            return Err(format!("{method}: more than {MOST_IDS} ids in one request"));
        }
        Some(value) => vec![one(value)?],
        None => return Err(wrong()),
    };
    ids.sort();
    ids.dedup();
    Ok(ids)
}

/// `{"ok": …}`.
pub fn ok(text: impl Into<Value>) -> Value {
    json!({ "ok": text.into() })
}

/// `{"error": …}`.
pub fn error(text: impl Into<Value>) -> Value {
    json!({ "error": text.into() })
}

/// An answer as a message, with its exchange and its routing key.
pub fn reply(node: &Node, to: &ReplyTo, answer: Value) -> (String, String, Message) {
    let mut body = Map::new();
    body.insert(node.name.clone(), answer);
    let body = Value::Object(body);
    let mut headers = Map::new();
    headers.insert("ticket".into(), to.ticket.clone());
    headers.insert("clock".into(), node.clock.forward().into());
    let message = Message {
        headers,
        ..codec::write_value(&body, to.content_type.as_deref())
    };
    (to.exchange.clone(), to.routing_key.clone(), message)
}

/// A task as `active` and others show it.
pub struct Shown<'t> {
    /// It.
    pub task: &'t Task,
    /// Since when it runs, in milliseconds since 1970.
    pub started: Option<i64>,
    /// Whether its message is acknowledged.
    pub acknowledged: bool,
}

impl Shown<'_> {
    /// As Celery's `Request.info` says it; `safe`: arguments only as people see them.
    pub fn info(&self, node: &str, safe: bool) -> Value {
        let Self {
            task,
            started,
            acknowledged,
        } = self;
        let whole = |value: Value, shown: String| {
            if safe || value.to_string().len() > WHOLE {
                Value::from(shown)
            } else {
                value
            }
        };
        json!({
            "id": task.id,
            "name": task.name,
            "args": whole(task.args.clone().into(), events::args(task)),
            "kwargs": whole(task.kwargs.clone().into(), events::kwargs(task)),
            "type": task.name,
            "hostname": node,
            "time_start": started.map(|millis| millis as f64 / 1000.0),
            "acknowledged": acknowledged,
            "delivery_info": {
                "exchange": "", "routing_key": task.queue, "priority": task.priority, "redelivered": false,
            },
            "worker_pid": std::process::id(),
        })
    }

    /// As `scheduled` shows it.
    pub fn scheduled(&self, node: &str) -> Value {
        json!({
            "eta": self.task.run_at.and_then(codec::time_text),
            "priority": self.task.priority,
            "request": self.info(node, false),
        })
    }
}

/// What `active_queues` says of queues: what a producer needs to know.
pub fn active_queues(queues: &[String]) -> Value {
    queues
        .iter()
        .map(|queue| {
            json!({
                "name": queue,
                "exchange": {
                    "name": "", "type": "direct", "arguments": null, "durable": true, "passive": false,
                    "auto_delete": false, "delivery_mode": null, "no_declare": true,
                },
                "routing_key": queue, "queue_arguments": null, "binding_arguments": null,
                "consumer_arguments": null, "durable": true, "exclusive": false, "auto_delete": false,
                "no_ack": false, "alias": null, "bindings": [], "no_declare": null, "expires": null,
                "message_ttl": null, "max_length": null, "max_length_bytes": null, "max_priority": null,
            })
        })
        .collect()
}

/// What `stats` tells of a worker.
pub struct Stats<'w> {
    /// The pool's kind, `elastic` or `pinned`.
    pub kind: &'w str,
    /// Attempts at a time.
    pub slots: u32,
    /// Since when it is there.
    pub uptime: Duration,
    /// How many tasks of each name began.
    pub total: BTreeMap<String, u64>,
    /// RabbitMQ's host, port and vhost.
    pub place: Option<(String, u16, String)>,
}

impl Stats<'_> {
    /// The answer.
    pub fn answer(self, node: &Node) -> Value {
        let Self {
            kind,
            slots,
            uptime,
            total,
            place,
        } = self;
        let (host, port, vhost) = place.unwrap_or_default();
        let pid = std::process::id();
        json!({
            "total": total,
            "pid": pid,
            "clock": node.clock.forward().to_string(),
            "uptime": uptime.as_secs(),
            "pool": {
                "implementation": format!("longshore:{kind}"), "max-concurrency": slots, "processes": [pid],
                "max-tasks-per-child": "N/A", "put-guarded-by-semaphore": false, "timeouts": [0, 0], "writes": "N/A",
            },
            // Without the user: a place for no secret.
            "broker": { "transport": "amqp", "hostname": host, "port": port, "virtual_host": vhost },
            "prefetch_count": slots,
            "rusage": { "maxrss": peak_memory() },
        })
    }
}

/// The most memory that was resident, in KiB, where the system tells.
fn peak_memory() -> Option<u64> {
    let status = std::fs::read_to_string("/proc/self/status").ok()?;
    let line = status
        .lines()
        .find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.trim().strip_suffix(" kB")?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    const NODE: &str = "longshore-fetch@pod-1";

    fn request(body: &Value) -> Option<Request> {
        let message = Message {
            content_type: Some("application/json".into()),
            body: body.to_string().into(),
            ..Message::default()
        };
        read(&message, NODE).unwrap()
    }

    fn command(method: &str, arguments: Value) -> Result<Command, String> {
        request(&json!({ "method": method, "arguments": arguments }))
            .unwrap()
            .command
    }

    #[test]
    fn a_request_is_for_all_for_named_nodes_or_for_those_that_match() {
        let is_for = |destination: Value, pattern: Value, matcher: Value| {
            request(&json!({
                "method": "ping", "destination": destination, "pattern": pattern, "matcher": matcher,
            }))
            .is_some()
        };
        let none = Value::Null;
        assert!(is_for(none.clone(), none.clone(), none.clone()));
        assert!(is_for(json!([]), none.clone(), none.clone()));
        assert!(is_for(json!(["a@b", NODE]), none.clone(), none.clone()));
        assert!(!is_for(json!(["a@b"]), none.clone(), none.clone()));
        for (pattern, matcher, expected) in [
            ("longshore-*@pod-?", "glob", true),
            ("longshore-*", "glob", true),
            ("longshore", "glob", false),
            ("longshore-[e-g]etch@pod-[!2]", "glob", true),
            ("longshore-[!e-g]etch@*", "glob", false),
            ("longshore.fetch@*", "glob", false),
            ("longshore-[", "glob", false),
            ("long.*@pod", "pcre", true),
            ("etch", "pcre", false),
            ("(", "pcre", false),
            ("x", "sql", false),
        ] {
            let found = is_for(none.clone(), json!(pattern), json!(matcher));
            assert_eq!(found, expected, "{pattern} {matcher}");
        }
    }

    #[test]
    fn a_brackets_first_character_may_be_one_that_ends_it() {
        let matches =
            |pattern: &str, text: &str| regex::Regex::new(&glob(pattern)).unwrap().is_match(text);
        assert!(matches("[]]", "]") && matches("[!]]", "a") && !matches("[!]]", "]"));
        assert!(matches("a.b", "a.b") && !matches("a.b", "axb"));
    }

    #[test]
    fn ids_are_one_or_many() {
        let revoke = |ids: &[&str], terminate| {
            Ok(Command::Revoke {
                ids: ids.iter().map(|id| (*id).to_owned()).collect(),
                terminate,
            })
        };
        assert_eq!(
            command("revoke", json!({ "task_id": "a", "signal": "TERM" })),
            revoke(&["a"], false)
        );
        assert_eq!(
            command(
                "revoke",
                json!({ "task_id": ["b", "a", "b"], "terminate": "true" })
            ),
            revoke(&["a", "b"], true)
        );
        assert_eq!(
            command("terminate", json!({ "task_id": ["a"], "signal": "KILL" })),
            revoke(&["a"], true)
        );
        for wrong in [
            json!({}),
            json!({ "task_id": 3 }),
            json!({ "task_id": ["", "a"] }),
            json!({ "task_id": "a\0" }),
        ] {
            assert!(command("revoke", wrong).is_err());
        }
        assert!(command("revoke", json!({ "task_id": vec!["a"; MOST_IDS + 1] })).is_err());
    }

    #[test]
    fn what_cannot_be_done_is_said() {
        assert_eq!(
            command("nonesuch", json!({})),
            Err("KeyError('nonesuch')".into())
        );
        assert!(
            command("time_limit", json!({}))
                .unwrap_err()
                .contains("time_limit")
        );
        assert!(
            command("add_consumer", json!({}))
                .unwrap_err()
                .contains("queue")
        );
    }

    #[test]
    fn an_answer_goes_where_it_is_awaited_in_the_format_of_the_request() {
        let mut sent = json!({
            "method": "ping", "ticket": "t", "reply_to": { "exchange": "reply.celery.pidbox", "routing_key": "r" },
        });
        let node = Node::new(NODE.into());
        let to = request(&sent).unwrap().reply_to.unwrap();
        let (exchange, routing_key, message) = reply(&node, &to, ok("pong"));
        assert_eq!(
            (exchange.as_str(), routing_key.as_str()),
            ("reply.celery.pidbox", "r")
        );
        assert_eq!(message.headers["ticket"], "t");
        assert_eq!(
            codec::read_value(&message).unwrap(),
            json!({ NODE: { "ok": "pong" } })
        );
        let msgpack = ReplyTo {
            content_type: Some("application/x-msgpack".into()),
            ..to
        };
        let (.., message) = reply(&node, &msgpack, ok("pong"));
        assert_eq!(
            message.content_type.as_deref(),
            Some("application/x-msgpack")
        );
        assert_eq!(
            codec::read_value(&message).unwrap(),
            json!({ NODE: { "ok": "pong" } })
        );
        sent["reply_to"] = Value::Null;
        assert_eq!(request(&sent).unwrap().reply_to, None);
    }

    #[test]
    fn large_arguments_are_told_as_people_see_them() {
        let mut task = Task::new("add", "q");
        task.args = vec![json!([1])];
        let info = |task: &Task, safe| {
            Shown {
                task,
                started: Some(1500),
                acknowledged: true,
            }
            .info(NODE, safe)
        };
        assert_eq!(info(&task, false)["args"], json!([[1]]));
        assert_eq!(info(&task, true)["args"], json!("([1],)"));
        assert_eq!(info(&task, false)["time_start"], json!(1.5));
        task.args = vec!["x".repeat(WHOLE).into()];
        assert!(info(&task, false)["args"].is_string());
    }
}
