//! Results as Celery's backends keep them: a message (`rpc://`), or a row.

use serde_json::{Map, Value, json};

use super::canvas::Step;
use super::exception::Exception;
use super::{Broken, reply_to};
use crate::clock::Millis;
use crate::codec;
use crate::config::{self, DatabaseFormat, Results, Switch};
use crate::store::{Op, ResultRow, Store};
use crate::task::{Task, Wire};

mod pickle;

/// The longest of a worker's names that django_celery_results takes, in characters.
const LONGEST_WORKER: usize = 100;
/// The longest name of a task or queue that `celery_taskmeta` takes, in characters.
const LONGEST_NAME: usize = 155;

/// One result.
#[derive(Debug, Clone)]
pub(super) struct Answer {
    id: String,
    status: &'static str,
    value: Value,
    traceback: Option<String>,
    reply_to: Option<String>,
    group: Value,
    parent: Value,
    told: Option<Told>,
    /// What was sent because of it, as Celery's result tuples.
    pub(super) children: Vec<Value>,
}

/// What is known of the task beside its result.
#[derive(Debug, Clone)]
struct Told {
    name: String,
    args: Value,
    kwargs: Value,
    call: Call,
}

/// What was called, as `result_extended` keeps it in `celery_taskmeta`.
#[derive(Debug, Clone)]
struct Call {
    args: Value,
    kwargs: Value,
    retries: i64,
    queue: String,
}

impl Answer {
    pub(super) fn success(task: &Task, value: &Value) -> Self {
        Self::of(task, "SUCCESS", value.clone(), None)
    }

    pub(super) fn failure(task: &Task, status: &'static str, exception: &Exception) -> Self {
        Self::of(task, status, exception.value(), Some(exception.trace()))
    }

    /// It runs in this process of `worker`.
    pub(super) fn started(task: &Task, worker: &str) -> Self {
        let value = json!({ "pid": std::process::id(), "hostname": worker });
        Self::of(task, "STARTED", value, None)
    }

    /// It will run again, because of `exception` or because it is not yet time.
    pub(super) fn retried(task: &Task, exception: Option<&Exception>) -> Self {
        match exception {
            Some(exception) => Self::failure(task, "RETRY", exception),
            None => Self::of(task, "RETRY", Value::Null, None),
        }
    }

    /// The failure of a step that will never run, because one before it failed.
    pub(super) fn of_step(step: Step, exception: &Exception) -> Self {
        Self {
            id: step.id,
            status: "FAILURE",
            value: exception.value(),
            traceback: Some(exception.trace()),
            reply_to: step.reply_to,
            group: step.group,
            parent: Value::Null,
            told: None,
            children: Vec::new(),
        }
    }

    fn of(task: &Task, status: &'static str, value: Value, traceback: Option<String>) -> Self {
        let header = |key: &str| task.headers.get(key).cloned().unwrap_or_default();
        Self {
            id: task.id.to_string(),
            status,
            value,
            traceback,
            reply_to: reply_to(&task.headers),
            group: header("group"),
            parent: header("parent_id"),
            told: Some(Told {
                name: task.name.clone(),
                args: header("argsrepr"),
                kwargs: header("kwargsrepr"),
                call: Call {
                    args: Value::Array(task.args.clone()),
                    kwargs: Value::Object(task.kwargs.clone()),
                    retries: header("retries").as_i64().unwrap_or_default(),
                    queue: task.queue.clone(),
                },
            }),
            children: Vec::new(),
        }
    }

    /// As a message, if anybody waits.
    pub(super) fn reply(&self, now: Millis) -> Option<Task> {
        let queue = self.reply_to.clone()?;
        let mut meta = Map::from_iter([
            ("task_id".to_owned(), self.id.as_str().into()),
            ("status".to_owned(), self.status.into()),
            ("result".to_owned(), self.value.clone()),
            ("traceback".to_owned(), self.traceback.clone().into()),
            ("children".to_owned(), Value::Array(self.children.clone())),
            ("date_done".to_owned(), codec::iso8601(now).into()),
        ]);
        for (key, value) in [("group_id", &self.group), ("parent_id", &self.parent)] {
            if !value.is_null() {
                meta.insert(key.to_owned(), value.clone());
            }
        }
        let mut reply = Task::new("reply", queue).with_id(self.id.clone());
        reply.kwargs = meta;
        reply.wire = Wire::Reply;
        Some(reply)
    }

    fn row(&self, results: Results, format: DatabaseFormat, worker: &str) -> ResultRow {
        let value = codec::celery_json(self.value.clone());
        // django_celery_results keeps the JSON of a text.
        let text = |value: &Value| (!value.is_null()).then(|| value.to_string());
        let result = match (results, format) {
            (Results::Database, DatabaseFormat::Pickle) => base64(&pickle::write(&value)),
            (Results::Database, DatabaseFormat::Json) => base64(value.to_string().as_bytes()),
            (Results::Django | Results::Rpc | Results::None, _) => value.to_string(),
        };
        let told = self.told.as_ref();
        let shortened = |text: &str, most| text.chars().take(most).collect::<String>();
        let call = told.map(|told| &told.call);
        let bytes =
            |value: &Value| base64(codec::celery_json(value.clone()).to_string().as_bytes());
        let (args, kwargs) = match results {
            Results::Database => (
                call.map(|call| bytes(&call.args)),
                call.map(|call| bytes(&call.kwargs)),
            ),
            Results::Django | Results::Rpc | Results::None => (
                told.and_then(|told| text(&told.args)),
                told.and_then(|told| text(&told.kwargs)),
            ),
        };
        ResultRow {
            task_id: self.id.clone(),
            status: self.status.to_owned(),
            result,
            traceback: self.traceback.clone(),
            name: told.map(|told| shortened(&told.name, LONGEST_NAME)),
            args,
            kwargs,
            worker: told.map(|_| shortened(worker, LONGEST_WORKER)),
            retries: call.map(|call| call.retries),
            queue: call.map(|call| shortened(&call.queue, LONGEST_NAME)),
            meta: Some(json!({ "children": self.children }).to_string()),
        }
    }
}

/// The write of `answers` into the tables of `results`.
pub(super) fn rows(
    store: &Store,
    config: &config::Celery,
    worker: &str,
    answers: &[Answer],
) -> Result<Option<Op>, Broken> {
    let (results, format) = (config.results, config.database_format);
    // One statement touches a row once only; the first word counts.
    let mut rows: Vec<ResultRow> = Vec::with_capacity(answers.len());
    for answer in answers {
        if !rows.iter().any(|row| row.task_id == answer.id) {
            rows.push(answer.row(results, format, worker));
        }
    }
    if rows.is_empty() {
        return Ok(None);
    }
    Ok(match results {
        Results::Database => Some(store.taskmeta(&rows, config.result_extended == Switch::On)?),
        Results::Django => Some(store.django_results(&rows)?),
        Results::None | Results::Rpc => None,
    })
}

fn base64(bytes: &[u8]) -> String {
    use base64::Engine as _;
    base64::prelude::BASE64_STANDARD.encode(bytes)
}
