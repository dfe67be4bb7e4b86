//! The messages between a worker and its children: `protos/longshore/plugin/v1/plugin.proto` in JSON, one a line.
//!
//! Written by hand, so that building needs no protobuf compiler; a test holds it against the `.proto` file.

use std::io;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::io::{AsyncBufRead, AsyncBufReadExt as _};

/// The longest line, in bytes: as much as a message may have.
pub const MAX_LINE: usize = 16 * 1024 * 1024;

/// What the worker says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum ToChild {
    /// Begin.
    Start(Box<Start>),
    /// The checkpoint is durable.
    Saved {},
    /// The worker is about to end.
    Drain {
        /// What is left, in seconds.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        seconds: Option<f64>,
    },
    /// The answer to [`FromChild::Want`].
    File {
        /// The file's name.
        name: String,
        /// Where it is now; empty if there is none.
        path: String,
    },
}

/// What a child says.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum FromChild {
    /// The first message of a Python child.
    Hello(Hello),
    /// A sign of life.
    Alive {},
    /// For the log.
    Log {
        /// `debug`, `info`, `warning` or `error`.
        #[serde(default)]
        level: String,
        /// What it says.
        #[serde(default)]
        text: String,
    },
    /// Make this durable.
    Checkpoint {
        /// What to go on from.
        #[serde(default)]
        value: Value,
    },
    /// How far it is.
    Progress {
        /// For people.
        #[serde(default)]
        text: String,
    },
    /// It did what it should.
    Done {
        /// What it returned.
        #[serde(default)]
        result: Value,
    },
    /// It failed.
    Failed(Failed),
    /// Not yet.
    Later {
        /// How long to wait.
        #[serde(default)]
        seconds: f64,
        /// What for.
        #[serde(default)]
        reason: String,
    },
    /// The task wants to be run again.
    Retry(Retry),
    /// Go on elsewhere.
    HandOff {},
    /// Over, and nobody is to be told.
    Ignored {},
    /// A test.
    Test(Test),
    /// A metric.
    Metric(Metric),
    /// A file.
    Attachment(Attachment),
    /// A fact.
    Metadata {
        /// Its name.
        #[serde(default)]
        key: String,
        /// What it is.
        #[serde(default)]
        value: Value,
    },
    /// Something that could not be done as it should.
    Problem {
        /// What.
        #[serde(default)]
        text: String,
    },
    /// Give me this file of the test job.
    Want {
        /// Its name.
        #[serde(default)]
        name: String,
    },
}

/// The beginning of an attempt.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Start {
    /// A task of a Python application, …
    #[serde(skip_serializing_if = "Option::is_none")]
    pub task: Option<Task>,
    /// … or a test job for a plugin.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub testjob: Option<TestJob>,
    /// What the last attempt saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub checkpoint: Option<Value>,
    /// The fencing token.
    pub epoch: i64,
    /// How often the task failed, …
    pub failures: u32,
    /// … lost its worker, …
    pub crashes: u32,
    /// … and was handed off.
    pub interruptions: u32,
}

/// A task of a Python application.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Task {
    /// Its id.
    pub id: String,
    /// Its name.
    pub name: String,
    /// The queue that it came from.
    pub queue: String,
    /// 0 to 9.
    pub priority: u32,
    /// Positional arguments.
    pub args: Vec<Value>,
    /// Named arguments.
    pub kwargs: Map<String, Value>,
    /// The message's headers.
    pub headers: Map<String, Value>,
    /// How often it asked to be run again.
    pub retries: u32,
    /// The worker's name.
    pub hostname: String,
    /// In seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_time_limit: Option<f64>,
}

/// A test job for a plugin.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TestJob {
    /// Its number in the store.
    pub number: i64,
    /// Which collection of it this is.
    pub generation: i64,
    /// The plugin's name.
    pub plugin: String,
    /// Where it ran.
    pub backend: String,
    /// Its id there.
    pub id: String,
    /// `group/project`.
    pub project: String,
    /// For the backend, but for secrets.
    pub settings: Map<String, Value>,
    /// What the backend said.
    pub metadata: Map<String, Value>,
    /// The files that were collected.
    pub files: Vec<FileName>,
    /// The plugin's own folder.
    pub folder: String,
}

/// A file of a test job.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FileName {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub mimetype: String,
}

/// A child that is ready.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Hello {
    /// The protocol's version.
    pub protocol: u32,
    /// What it runs.
    pub tasks: Vec<TaskName>,
    /// For the log.
    pub software: String,
}

/// A task that a child runs.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TaskName {
    /// Its name.
    pub name: String,
    /// The child is killed after so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_limit: Option<f64>,
    /// The task is told after so many seconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub soft_time_limit: Option<f64>,
}

/// An exception.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Failed {
    /// Its class.
    pub r#type: String,
    /// The module of that.
    pub module: String,
    /// What it says.
    pub message: String,
    /// What it was made of; without, of `message`.
    pub args: Option<Vec<Value>>,
    /// Where it came from.
    pub traceback: String,
    /// Whether another attempt would fail the same.
    pub r#final: bool,
}

/// A task's wish to be run again.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Retry {
    /// How long to wait.
    pub seconds: f64,
    /// Why.
    pub reason: String,
    /// Which retry it is.
    pub retries: u32,
    /// Other arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub args: Option<Vec<Value>>,
    /// Other named arguments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kwargs: Option<Map<String, Value>>,
}

/// A test.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Test {
    /// Its suite.
    pub suite: String,
    /// Its name.
    pub name: String,
    /// `pass`, `fail`, `xfail` or `skip`.
    pub result: String,
    /// Its log.
    pub log: String,
}

/// A metric.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Metric {
    /// Its suite.
    pub suite: String,
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: f64,
    /// Its unit.
    pub unit: String,
    /// Each measurement.
    pub measurements: Vec<f64>,
}

/// A file that a plugin made.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Attachment {
    /// Its name.
    pub name: String,
    /// Its media type.
    pub mimetype: String,
    /// Its bytes in base64, …
    pub data: String,
    /// … or a file that holds them.
    pub path: String,
}

/// Why a line could not be read.
#[derive(Debug, thiserror::Error)]
pub enum Unheard {
    /// The socket is gone.
    #[error("read from the child: {0}")]
    Io(#[from] io::Error),
    /// More than [`MAX_LINE`].
    #[error("read a line of more than {MAX_LINE} bytes")]
    TooLong,
    /// It is no message.
    #[error("read a message of the child: {what} in {line:?}")]
    NoMessage {
        /// What is wrong.
        what: String,
        /// The line's beginning.
        line: String,
    },
}

/// One message as its line.
pub fn line(message: &ToChild) -> Vec<u8> {
    // Only maps with keys that are no text could fail, and there are none.
    let mut line = serde_json::to_vec(message).unwrap_or_default();
    line.push(b'\n');
    line
}

/// The next message; `None` at the end. Empty lines and kinds of later versions are passed over.
///
/// # Errors
///
/// [`Unheard`]: what follows cannot be understood either.
pub async fn read(input: &mut (impl AsyncBufRead + Unpin)) -> Result<Option<FromChild>, Unheard> {
    let mut bytes = Vec::new();
    loop {
        bytes.clear();
        if !read_line(input, &mut bytes).await? {
            return Ok(None);
        }
        if let Some(message) = parse(&bytes)? {
            return Ok(Some(message));
        }
    }
}

fn parse(line: &[u8]) -> Result<Option<FromChild>, Unheard> {
    let line = line.trim_ascii();
    if line.is_empty() {
        return Ok(None);
    }
    serde_json::from_slice(line).map(Some).or_else(|error| {
        let kind = serde_json::from_slice::<Map<String, Value>>(line)
            .ok()
            .and_then(|map| map.keys().next().cloned());
        match kind {
            Some(kind) if !KINDS.contains(&kind.as_str()) => {
                tracing::debug!(
                    kind,
                    "a child said something of a kind that is not known here"
                );
                Ok(None)
            }
            Some(_) | None => Err(Unheard::NoMessage {
                what: error.to_string(),
                line: String::from_utf8_lossy(line.get(..200).unwrap_or(line)).into_owned(),
            }),
        }
    })
}

/// What a child can say in this version.
const KINDS: [&str; 17] = [
    "hello",
    "alive",
    "log",
    "checkpoint",
    "progress",
    "done",
    "failed",
    "later",
    "retry",
    "handOff",
    "ignored",
    "test",
    "metric",
    "attachment",
    "metadata",
    "problem",
    "want",
];

/// Reads a line of text, of which no more than `longest` bytes are kept; whether there was anything.
///
/// # Errors
///
/// What reading says.
pub async fn read_text(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
    longest: usize,
) -> io::Result<bool> {
    line.clear();
    let mut any = false;
    loop {
        let piece = input.fill_buf().await?;
        if piece.is_empty() {
            return Ok(any);
        }
        any = true;
        let end = piece.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(piece.len(), |end| end + 1);
        let room = longest.saturating_sub(line.len()).min(count);
        line.extend_from_slice(piece.get(..room).unwrap_or_default());
        input.consume(count);
        if end.is_some() {
            return Ok(true);
        }
    }
}

/// Reads up to the next line feed; whether there was anything.
async fn read_line(
    input: &mut (impl AsyncBufRead + Unpin),
    line: &mut Vec<u8>,
) -> Result<bool, Unheard> {
    loop {
        let piece = input.fill_buf().await?;
        if piece.is_empty() {
            return Ok(!line.is_empty());
        }
        let end = piece.iter().position(|byte| *byte == b'\n');
        let count = end.map_or(piece.len(), |end| end + 1);
        line.extend_from_slice(piece.get(..count).unwrap_or(piece));
        input.consume(count);
        if line.len() > MAX_LINE {
            return Err(Unheard::TooLong);
        }
        if end.is_some() {
            return Ok(true);
        }
    }
}

#[cfg(test)]
mod tests;
