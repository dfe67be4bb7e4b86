//! The native format: `longshore.task.v1.Task` of `protos/longshore/task/v1/task.proto`.
//!
//! The struct here is written by hand, so that building needs no protobuf compiler; a test holds it
//! against the `.proto` file.

use prost::Message as _;
use serde_json::{Map, Value};

use super::{MAX_PRIORITY, Message, NATIVE, Unreadable, name, value};
use crate::id::TaskId;
use crate::task::{Task, Wire};

/// The message as protobuf has it; the `.proto` file describes the fields.
#[derive(Clone, PartialEq, prost::Message)]
struct Envelope {
    #[prost(string, tag = "1")]
    id: String,
    #[prost(string, tag = "2")]
    name: String,
    #[prost(string, tag = "3")]
    queue: String,
    #[prost(string, tag = "4")]
    args_json: String,
    #[prost(string, tag = "5")]
    kwargs_json: String,
    #[prost(uint32, tag = "6")]
    priority: u32,
    #[prost(int64, optional, tag = "7")]
    run_at_ms: Option<i64>,
    #[prost(int64, optional, tag = "8")]
    expires_at_ms: Option<i64>,
    #[prost(string, tag = "9")]
    headers_json: String,
}

/// Writes a task in the native format.
///
/// A reader refuses bodies above [`MAX_BODY`](super::MAX_BODY); this does not check.
pub(super) fn encode(task: &Task) -> Message {
    let envelope = Envelope {
        id: task.id.to_string(),
        name: task.name.clone(),
        queue: task.queue.clone(),
        args_json: array_text(&task.args),
        kwargs_json: object_text(&task.kwargs),
        priority: u32::from(task.priority),
        run_at_ms: task.run_at,
        expires_at_ms: task.expires_at,
        headers_json: object_text(&task.headers),
    };
    Message {
        content_type: Some(NATIVE.to_owned()),
        content_encoding: Some("binary".to_owned()),
        headers: Map::new(),
        correlation_id: Some(task.id.to_string()),
        reply_to: None,
        priority: Some(task.priority),
        body: envelope.encode_to_vec().into(),
    }
}

/// Reads a task in the native format. Headers of the message itself, which others added on its way,
/// are kept where the body has none of that name.
pub(super) fn decode(message: &Message, queue: &str) -> Result<Task, Unreadable> {
    let Envelope {
        id,
        name: task,
        queue: meant,
        args_json,
        kwargs_json,
        priority,
        run_at_ms,
        expires_at_ms,
        headers_json,
    } = Envelope::decode(message.body.as_ref()).map_err(Unreadable::Protobuf)?;
    let mut headers = message.headers.clone();
    headers.extend(object("headers_json", &headers_json)?);
    Ok(Task {
        once: false,
        id: TaskId::new(name("id", id)?),
        name: name("name", task)?,
        queue: match queue {
            "" => meant,
            taken_from => taken_from.to_owned(),
        },
        args: array("args_json", &args_json)?,
        kwargs: object("kwargs_json", &kwargs_json)?,
        priority: u8::try_from(priority).map_or(MAX_PRIORITY, |it| it.min(MAX_PRIORITY)),
        run_at: run_at_ms,
        expires_at: expires_at_ms,
        lane: None,
        after: Vec::new(),
        headers,
        wire: Wire::Native,
    })
}

/// A JSON array, empty text if it is empty. Unlike `serde_json::to_string` it cannot fail.
fn array_text(items: &[Value]) -> String {
    let mut text = String::new();
    for item in items {
        text.push(if text.is_empty() { '[' } else { ',' });
        text.push_str(&item.to_string());
    }
    if !text.is_empty() {
        text.push(']');
    }
    text
}

/// A JSON object, empty text if it is empty.
fn object_text(map: &Map<String, Value>) -> String {
    let mut text = String::new();
    for (key, value) in map {
        text.push(if text.is_empty() { '{' } else { ',' });
        text.push_str(&format!("{}:{value}", Value::from(key.as_str())));
    }
    if !text.is_empty() {
        text.push('}');
    }
    text
}

fn array(field: &'static str, text: &str) -> Result<Vec<Value>, Unreadable> {
    if text.is_empty() {
        return Ok(Vec::new());
    }
    match parse(field, text)? {
        Value::Array(items) => Ok(items),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Object(_) => {
            Err(wrong(field, "is no JSON array".to_owned()))
        }
    }
}

fn object(field: &'static str, text: &str) -> Result<Map<String, Value>, Unreadable> {
    if text.is_empty() {
        return Ok(Map::new());
    }
    match parse(field, text)? {
        Value::Object(map) => Ok(map),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) | Value::Array(_) => {
            Err(wrong(field, "is no JSON object".to_owned()))
        }
    }
}

fn parse(field: &'static str, text: &str) -> Result<Value, Unreadable> {
    value::json(text.as_bytes()).map_err(|error| wrong(field, error.to_string()))
}

fn wrong(field: &'static str, problem: String) -> Unreadable {
    Unreadable::Field { field, problem }
}

#[cfg(test)]
mod tests;
