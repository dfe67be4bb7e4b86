//! Message bodies ↔ [`Task`]: the one place that knows how producers write tasks down.
//!
//! Read are the native format ([`NATIVE`]), Celery's protocol 2 and simple messages of its
//! protocol 1; written are the native format and Celery's protocol 2. Pure: bytes in, values out.
//!
//! Whatever the bytes, this module never panics, never holds more than [`MAX_BODY`] of a body that
//! inflates, never builds more than [`MAX_VALUES`] values nor nests deeper than [`MAX_DEPTH`], and
//! never yields half a task: a message is read whole or is [`Unreadable`].
//!
//! Callers: the brokers' consumers, and whoever publishes.

use std::fmt;

use bytes::Bytes;
use serde_json::{Map, Value};

use crate::task::{Task, Wire};

mod celery;
mod moment;
mod native;
mod value;

/// The content type of the native format, `longshore.task.v1.Task` of `protos/`.
pub const NATIVE: &str = "application/vnd.longshore.task.v1+protobuf";

/// The largest body read, in bytes, after decompression too. RabbitMQ 4 refuses larger messages by
/// default, and a task's arguments say what to do; results go elsewhere.
pub const MAX_BODY: usize = 16 * 1024 * 1024;

/// The deepest nesting of arrays and maps in a body: far above any real task, and far below what
/// would exhaust a thread's stack.
pub const MAX_DEPTH: usize = 64;

/// The most values (keys of maps included) in a body: a body of one-byte values would otherwise
/// take more than a hundred times its size in memory.
pub const MAX_VALUES: usize = 256 * 1024;

/// The longest id or name of a task, in bytes: both are indexed in the stores, and PostgreSQL
/// refuses index entries above about 2700 bytes.
pub const MAX_NAME: usize = 1024;

/// The largest [`Task::priority`].
const MAX_PRIORITY: u8 = 9;

/// The entry of [`Task::headers`] that keeps a Celery message's workflow: an object with the
/// entries of `callbacks`, `errbacks`, `chain` and `chord` that are not null.
pub const WORKFLOW: &str = "celery";

/// The entry of [`Task::headers`] that keeps a message's `reply_to` property.
pub const REPLY_TO: &str = "reply_to";

/// A message as a broker hands it over, without the broker's types.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Message {
    /// What the body is, for instance `application/json`.
    pub content_type: Option<String>,
    /// The body's character set, `utf-8`, or `binary`.
    pub content_encoding: Option<String>,
    /// The application's headers.
    pub headers: Map<String, Value>,
    /// For Celery the task's id.
    pub correlation_id: Option<String>,
    /// The queue on which the producer awaits the result.
    pub reply_to: Option<String>,
    /// 0 to 255, larger first, where the queue has priorities.
    pub priority: Option<u8>,
    /// The body, compressed if the header `compression` says so.
    pub body: Bytes,
}

/// Where in a body something is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// At this offset, from 0.
    Byte(usize),
    /// In a text, both from 1.
    Line {
        /// The line.
        line: usize,
        /// The column.
        column: usize,
    },
    /// The parser does not say.
    Unknown,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(offset) => write!(f, "byte {offset}"),
            Self::Line { line, column } => write!(f, "line {line}, column {column}"),
            Self::Unknown => f.write_str("an unknown place"),
        }
    }
}

/// Why a message is no task. Final: the same message will never be readable, so it is to be set
/// aside with this reason, neither retried nor dropped.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unreadable {
    /// Nothing says what the body is.
    #[error("the message has no content type; set it to {NATIVE} or application/json")]
    NoContentType,
    /// The body is of a kind that is not read.
    #[error(
        "unknown content type {0:?}; send {NATIVE}, application/json, application/x-msgpack or application/x-yaml"
    )]
    ContentType(String),
    /// The body is a Python pickle, which can run code when it is read.
    #[error(
        "content type {0:?} is a Python pickle, which is never read; set Celery's task_serializer to json or msgpack"
    )]
    Pickle(String),
    /// The body is text in an encoding that is not read.
    #[error("unknown content encoding {0:?}; send utf-8 or binary")]
    ContentEncoding(String),
    /// The body is compressed by a method that is not read.
    #[error("header `compression`: unsupported method {0:?}; send gzip, zlib, zstd or none")]
    Compression(String),
    /// The body is not what the header `compression` says.
    #[error("the body cannot be decompressed as {method}: {reason}")]
    Damaged {
        /// The method.
        method: &'static str,
        /// What the decompressor said.
        reason: String,
    },
    /// The body is too large.
    #[error("{what} is larger than {limit} bytes; pass large data by reference")]
    TooLarge {
        /// Which form of the body.
        what: &'static str,
        /// The limit, in bytes.
        limit: usize,
    },
    /// Arrays and maps are nested too deeply.
    #[error("the {format} nests deeper than {MAX_DEPTH} levels at {place}")]
    TooDeep {
        /// What was read.
        format: &'static str,
        /// Where.
        place: Place,
    },
    /// There are too many values.
    #[error(
        "the {format} holds more than {MAX_VALUES} values, counted at {place}; pass large data by reference"
    )]
    TooMany {
        /// What was read.
        format: &'static str,
        /// Where.
        place: Place,
    },
    /// The body is not what the content type says.
    #[error("the body is not {format}: {reason} at {place}")]
    Syntax {
        /// What it should be.
        format: &'static str,
        /// What is wrong.
        reason: String,
        /// Where.
        place: Place,
    },
    /// The body is no protobuf message of ours.
    #[error("the body is no longshore.task.v1.Task: {0}")]
    Protobuf(#[source] prost::DecodeError),
    /// The message names no task.
    #[error("no `task` header, and the body is no Celery v1 message (a map with `task`)")]
    NoTask,
    /// The message has no id.
    #[error("no task id: set the header `id` or the property correlation_id")]
    NoId,
    /// A header, property or field has a value that makes no sense.
    #[error("{field}: {problem}")]
    Field {
        /// Its name.
        field: &'static str,
        /// What is wrong with it, and what would be right.
        problem: String,
    },
}

/// Writes a task in the format that it says.
pub fn encode(task: &Task) -> Message {
    match task.wire {
        Wire::Native => native::encode(task),
        Wire::Celery => celery::encode(task),
        Wire::Reply => celery::reply(task),
    }
}

/// Reads a task from a message that was taken from `queue`.
///
/// The format is chosen by the content type; Celery's protocol 2 is told from protocol 1 by the
/// header `task`. Headers that a field of [`Task`] says (`task`, `id`, `eta`, `expires`,
/// `compression`) are not repeated in [`Task::headers`]; all others are there, null ones too.
/// Values without a place in JSON become: binary data `{"$bytes": "<base64>"}`, other msgpack
/// extensions `{"$ext": <type>, "$bytes": "<base64>"}`, its timestamps ISO 8601 text, numbers that
/// are not finite the texts `NaN`, `Infinity` and `-Infinity`, and keys of maps their text.
///
/// # Errors
///
/// [`Unreadable`] if the message is no task, or not one that this worker may read.
pub fn decode(message: &Message, queue: &str) -> Result<Task, Unreadable> {
    let kind = kind(message)?;
    if kind == NATIVE {
        native::decode(message, queue)
    } else {
        celery::decode(message, format(&kind)?, queue)
    }
}

/// Reads a message that is no task, but one value: one of Celery's remote control. Its values are those of [`decode`].
///
/// # Errors
///
/// [`Unreadable`] if it cannot be read, or may not.
pub fn read_value(message: &Message) -> Result<Value, Unreadable> {
    value::read(format(&kind(message)?)?, &message.body)
}

/// One value as a message that a reader of `content_type` can read: msgpack, or else JSON, which is YAML too.
pub fn write_value(value: &Value, content_type: Option<&str>) -> Message {
    let (content_type, content_encoding, body) = match content_type.map(format) {
        Some(Ok(value::Format::Msgpack)) => (
            "application/x-msgpack",
            "binary",
            value::write_msgpack(value),
        ),
        Some(Ok(value::Format::Yaml)) => ("application/x-yaml", "utf-8", value.to_string().into()),
        Some(Ok(value::Format::Json) | Err(_)) | None => {
            ("application/json", "utf-8", value.to_string().into())
        }
    };
    Message {
        content_type: Some(content_type.to_owned()),
        content_encoding: Some(content_encoding.to_owned()),
        body: body.into(),
        ..Message::default()
    }
}

/// A time in milliseconds since 1970 as ISO 8601 text; `None` outside the years 1 to 9999.
pub fn time_text(millis: i64) -> Option<String> {
    moment::format(millis)
}

/// The content type of a message that is not too large, without parameters and in lower case.
fn kind(message: &Message) -> Result<String, Unreadable> {
    if message.body.len() > MAX_BODY {
        return Err(Unreadable::TooLarge {
            what: "the body",
            limit: MAX_BODY,
        });
    }
    let given = message
        .content_type
        .as_deref()
        .filter(|kind| !kind.is_empty())
        .ok_or(Unreadable::NoContentType)?;
    let kind = given.split(';').next().unwrap_or(given).trim();
    Ok(kind.to_ascii_lowercase())
}

fn format(kind: &str) -> Result<value::Format, Unreadable> {
    match kind {
        "application/json" | "text/json" => Ok(value::Format::Json),
        "application/x-msgpack" | "application/msgpack" | "application/vnd.msgpack" => {
            Ok(value::Format::Msgpack)
        }
        "application/x-yaml" | "application/yaml" | "text/yaml" | "text/x-yaml" => {
            Ok(value::Format::Yaml)
        }
        "application/x-python-serialize" => Err(Unreadable::Pickle(kind.to_owned())),
        _ => Err(Unreadable::ContentType(kind.to_owned())),
    }
}

/// A value as Celery writes it in JSON: binary data in kombu's envelopes.
pub fn celery_json(mut value: Value) -> Value {
    celery::to_envelopes(&mut value);
    value
}

/// A value that Celery wrote in JSON, read: the inverse of [`celery_json`].
pub fn from_celery_json(mut value: Value) -> Value {
    celery::from_envelopes(&mut value);
    value
}

/// A time (milliseconds since 1970, UTC) as ISO 8601 text; one outside the years 1 to 9999 as the nearest within.
pub fn iso8601(millis: i64) -> String {
    moment::format(moment::clamp(millis)).unwrap_or_default()
}

/// An ISO 8601 time in milliseconds since 1970; UTC where it names no zone.
pub fn from_iso8601(text: &str) -> Option<i64> {
    moment::parse(text).map(|moment| moment.millis)
}

/// `text` if it can be an id or a name that every store keeps.
fn name(field: &'static str, text: String) -> Result<String, Unreadable> {
    let problem = if text.is_empty() {
        "is empty".to_owned()
    } else if text.len() > MAX_NAME {
        format!("is longer than {MAX_NAME} bytes")
    } else if text.contains('\0') {
        "contains a NUL character".to_owned()
    } else {
        return Ok(text);
    };
    Err(Unreadable::Field { field, problem })
}

#[cfg(test)]
mod tests;
