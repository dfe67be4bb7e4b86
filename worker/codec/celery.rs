//! Celery's messages, as kombu and `celery.app.amqp` write them.
//!
//! Protocol 2 keeps what a worker needs to route a task in headers and has the body
//! `[args, kwargs, {callbacks, errbacks, chain, chord}]`; protocol 1 has everything in the body, a
//! map. Described in <https://docs.celeryq.dev/en/stable/internals/protocol.html>.
//!
//! Never interprets a workflow (chain, chord): it is kept in [`Task::headers`] and written again.

use serde_json::{Map, Value, json};

use super::{
    MAX_PRIORITY, Message, REPLY_TO, Unreadable, WORKFLOW, moment, name,
    value::{self, Format},
};
use crate::id::TaskId;
use crate::task::{Task, Wire};

mod compression;
mod kombu;

pub(super) use kombu::{from_envelopes, to_envelopes};

/// The workflow's entries in a body.
const EMBED: [&str; 4] = ["callbacks", "errbacks", "chain", "chord"];

/// The longest `argsrepr` and `kwargsrepr`, in bytes: Celery's own bound.
const MAX_REPR: usize = 1024;

/// The smallest number that can be a time in seconds since 1970 (2001-09-09). A smaller one was
/// meant as "from now", and nobody knows when that was.
const MIN_SECONDS: f64 = 1e9;

/// The largest number that can be a time in seconds since 1970 (the year 9999).
const MAX_SECONDS: f64 = 253_402_300_799.0;

/// A message taken apart.
struct Parts {
    headers: Map<String, Value>,
    args: Vec<Value>,
    kwargs: Map<String, Value>,
    embed: Map<String, Value>,
}

/// Reads a message of either protocol.
pub(super) fn decode(message: &Message, format: Format, queue: &str) -> Result<Task, Unreadable> {
    check_encoding(message)?;
    let body = compression::inflate(message)?;
    let mut content = value::read(format, &body)?;
    if format == Format::Json {
        kombu::from_envelopes(&mut content);
    }
    let named = message.headers.get("task").is_some_and(|it| !it.is_null());
    let parts = if let Value::Object(fields) = content {
        // With a `task` header too: Celery 3.1 wrote such hybrids for Celery 4's workers.
        if !named && !fields.contains_key("task") {
            return Err(Unreadable::NoTask);
        }
        protocol_1(fields, message)?
    } else if !named {
        return Err(Unreadable::NoTask);
    } else if let Value::Array(items) = content {
        protocol_2(items, message)?
    } else {
        return Err(shape("the body", "[args, kwargs, embed]", &content));
    };
    assemble(parts, message, queue)
}

/// Writes a message of protocol 2 in JSON, which a Celery worker runs as if Celery had sent it.
///
/// Headers, workflow and `reply_to` of a task that came from Celery go out again as they came;
/// headers that brokers act upon (`CC`, `BCC`, `x-…`) do not. `run_at` and `expires_at` outside the
/// years 1 to 9999 become the nearest time within.
pub(super) fn encode(task: &Task) -> Message {
    let mut carried = task.headers.clone();
    let reply_to = match carried.get(REPLY_TO) {
        Some(Value::String(queue)) => Some(queue.clone()),
        _ => None,
    };
    carried.retain(|key, _| !(key == REPLY_TO && reply_to.is_some()) && passes_on(key));
    let mut embed: Map<String, Value> = EMBED
        .map(|key| (key.to_owned(), Value::Null))
        .into_iter()
        .collect();
    if let Some(Value::Object(workflow)) = carried.get_mut(WORKFLOW) {
        embed.append(workflow);
        carried.shift_remove(WORKFLOW);
    }
    let mut args = Value::Array(task.args.clone());
    let mut kwargs = Value::Object(task.kwargs.clone());
    let mut headers = defaults(task, &args, &kwargs);
    headers.append(&mut carried);
    headers.extend(fixed(task));
    let mut embed = Value::Object(embed);
    for part in [&mut args, &mut kwargs, &mut embed] {
        kombu::to_envelopes(part);
    }
    Message {
        content_type: Some("application/json".to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        headers,
        correlation_id: Some(task.id.to_string()),
        reply_to,
        priority: Some(task.priority),
        body: Value::Array(vec![args, kwargs, embed]).to_string().into(),
    }
}

/// Writes the answer to a task as Celery's `rpc://` backend does: JSON with the task's id as its correlation id.
pub(super) fn reply(task: &Task) -> Message {
    let mut body = Value::Object(task.kwargs.clone());
    kombu::to_envelopes(&mut body);
    Message {
        content_type: Some("application/json".to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        correlation_id: Some(task.id.to_string()),
        body: body.to_string().into(),
        ..Message::default()
    }
}

/// The headers that a task's fields say. A time in the header `eta` is for whoever takes the message; a task of ours has
/// [`Task::run_at`] instead, and waits here.
fn fixed(task: &Task) -> [(String, Value); 4] {
    let time = |time: Option<i64>| {
        time.and_then(|millis| moment::format(moment::clamp(millis)))
            .map_or(Value::Null, Value::from)
    };
    [
        ("task".to_owned(), task.name.as_str().into()),
        ("id".to_owned(), task.id.as_str().into()),
        (
            "eta".to_owned(),
            match (task.run_at, task.headers.get("eta")) {
                (None, Some(eta)) => eta.clone(),
                (run_at, _) => time(run_at),
            },
        ),
        ("expires".to_owned(), time(task.expires_at)),
    ]
}

/// The other headers of protocol 2, where [`Task::headers`] has none.
fn defaults(task: &Task, args: &Value, kwargs: &Value) -> Map<String, Value> {
    let others = json!({
        "lang": "rust",
        "shadow": null,
        "group": null,
        "group_index": null,
        "retries": 0,
        "timelimit": [null, null],
        "root_id": task.id.as_str(),
        "parent_id": null,
        "argsrepr": brief(args),
        "kwargsrepr": brief(kwargs),
        "origin": "longshore",
        "ignore_result": false,
    });
    match others {
        Value::Object(headers) => headers,
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Map::new()
        }
    }
}

/// Whether a header of a message that was read may be in one that is written.
fn passes_on(header: &str) -> bool {
    !matches!(header, "compression" | "CC" | "BCC") && !header.starts_with("x-")
}

/// A value for people to read, cut at [`MAX_REPR`].
fn brief(value: &Value) -> String {
    let mut text = value.to_string();
    if text.len() > MAX_REPR {
        text.truncate(text.floor_char_boundary(MAX_REPR - "…".len()));
        text.push('…');
    }
    text
}

fn check_encoding(message: &Message) -> Result<(), Unreadable> {
    const KNOWN: [&str; 6] = ["", "utf-8", "utf8", "binary", "us-ascii", "ascii-8bit"];
    let encoding = message.content_encoding.as_deref().unwrap_or_default();
    if KNOWN.contains(&encoding.to_ascii_lowercase().as_str()) {
        Ok(())
    } else {
        Err(Unreadable::ContentEncoding(encoding.to_owned()))
    }
}

fn protocol_2(items: Vec<Value>, message: &Message) -> Result<Parts, Unreadable> {
    let count = items.len();
    let [args, kwargs, embed] = <[Value; 3]>::try_from(items).map_err(|_| Unreadable::Field {
        field: "the body",
        problem: format!("has {count} items where [args, kwargs, embed] has 3"),
    })?;
    Ok(Parts {
        headers: message.headers.clone(),
        args: list("args", args)?,
        kwargs: map("kwargs", kwargs)?,
        embed: map("the body's third item", embed)?,
    })
}

fn protocol_1(mut fields: Map<String, Value>, message: &Message) -> Result<Parts, Unreadable> {
    let args = fields.shift_remove("args").unwrap_or_default();
    let kwargs = fields.shift_remove("kwargs").unwrap_or_default();
    let mut embed = Map::new();
    for key in EMBED {
        if let Some(value) = fields.shift_remove(key) {
            embed.insert(key.to_owned(), value);
        }
    }
    if fields.get("utc") == Some(&Value::Bool(false)) {
        for field in ["eta", "expires"] {
            let local = |text: &str| moment::parse(text).is_some_and(|moment| !moment.zoned);
            if fields.get(field).and_then(Value::as_str).is_some_and(local) {
                return Err(Unreadable::Field {
                    field: "a Celery v1 message with `utc` false",
                    problem: format!("`{field}` is in an unknown local time; set enable_utc"),
                });
            }
        }
    }
    let mut headers = message.headers.clone();
    headers.retain(|_, value| !value.is_null());
    fields.append(&mut headers);
    Ok(Parts {
        headers: fields,
        args: list("args", args)?,
        kwargs: map("kwargs", kwargs)?,
        embed,
    })
}

fn assemble(parts: Parts, message: &Message, queue: &str) -> Result<Task, Unreadable> {
    let Parts {
        mut headers,
        args,
        kwargs,
        mut embed,
    } = parts;
    let task = take_text(&mut headers, "task")?.ok_or(Unreadable::NoTask)?;
    let id = take_text(&mut headers, "id")?
        .or_else(|| message.correlation_id.clone())
        .filter(|id| !id.is_empty())
        .ok_or(Unreadable::NoId)?;
    let run_at = take_time(&mut headers, "eta")?;
    let expires_at = take_time(&mut headers, "expires")?;
    headers.shift_remove("compression");
    embed.retain(|_, value| !value.is_null());
    if !embed.is_empty() {
        headers.insert(WORKFLOW.to_owned(), Value::Object(embed));
    }
    if let Some(reply_to) = message.reply_to.as_deref().filter(|it| !it.is_empty()) {
        headers.insert(REPLY_TO.to_owned(), reply_to.into());
    }
    Ok(Task {
        once: false,
        id: TaskId::new(name("id", id)?),
        name: name("task", task)?,
        queue: queue.to_owned(),
        args,
        kwargs,
        priority: message.priority.unwrap_or(0).min(MAX_PRIORITY),
        run_at,
        expires_at,
        lane: None,
        after: Vec::new(),
        headers,
        wire: Wire::Celery,
    })
}

/// Takes a text out of the headers; a number counts as its text, null as nothing.
fn take_text(
    headers: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<String>, Unreadable> {
    match headers.shift_remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(other @ (Value::Bool(_) | Value::Array(_) | Value::Object(_))) => {
            Err(shape(field, "text", &other))
        }
    }
}

/// Takes a time out of the headers: ISO 8601 (UTC where it names no zone) or seconds since 1970.
fn take_time(
    headers: &mut Map<String, Value>,
    field: &'static str,
) -> Result<Option<i64>, Unreadable> {
    let wrong = |problem: String| Unreadable::Field { field, problem };
    match headers.shift_remove(field) {
        None | Some(Value::Null) => Ok(None),
        Some(Value::String(text)) => moment::parse(&text)
            .map(|moment| Some(moment.millis))
            .ok_or_else(|| wrong(format!("{text:?} is no ISO 8601 date and time"))),
        Some(Value::Number(number)) => match number.as_f64() {
            Some(seconds) if (MIN_SECONDS..=MAX_SECONDS).contains(&seconds) => {
                Ok(Some((seconds * 1000.0) as i64))
            }
            _ => Err(wrong(format!(
                "{number} is no time in seconds since 1970; send ISO 8601"
            ))),
        },
        Some(other @ (Value::Bool(_) | Value::Array(_) | Value::Object(_))) => {
            Err(shape(field, "ISO 8601 text", &other))
        }
    }
}

fn list(field: &'static str, value: Value) -> Result<Vec<Value>, Unreadable> {
    match value {
        Value::Array(items) => Ok(items),
        Value::Null => Ok(Vec::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(shape(field, "a list", &value))
        }
    }
}

fn map(field: &'static str, value: Value) -> Result<Map<String, Value>, Unreadable> {
    match value {
        Value::Object(map) => Ok(map),
        Value::Null => Ok(Map::new()),
        Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(shape(field, "a map", &value))
        }
    }
}

fn shape(field: &'static str, wanted: &str, found: &Value) -> Unreadable {
    let found = match found {
        Value::Null => "null",
        Value::Bool(_) => "true or false",
        Value::Number(_) => "a number",
        Value::String(_) => "text",
        Value::Array(_) => "a list",
        Value::Object(_) => "a map",
    };
    Unreadable::Field {
        field,
        problem: format!("is {found} where {wanted} should be"),
    }
}

#[cfg(test)]
mod tests;
