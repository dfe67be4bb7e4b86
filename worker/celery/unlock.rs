//! `celery.chord_unlock`, which every Celery worker has: looks whether all parts of a chord have ended, and sends its body
//! with their results, or fails it.
//!
//! Runs on any queue where the body or a part of a chord goes; a Python worker on the same queue may take it as well.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;

use super::canvas::{self, Canvas, UNLOCK};
use super::{Celery, End, Exception};
use crate::codec;
use crate::config::{DatabaseFormat, Results};
use crate::handler::{Context, Fatal, Outcome, Registry};
use crate::store::FoundResult;
use crate::task::Task;

/// Between two looks: Celery's `result_chord_retry_interval`.
const AGAIN: Duration = Duration::from_secs(1);

/// Adds it to what a worker runs, if results are in tables that can be read: a pickle is not.
pub fn register(registry: &mut Registry, celery: &Celery) {
    let readable = match celery.config.results {
        Results::Django => true,
        Results::Database => celery.config.database_format == DatabaseFormat::Json,
        Results::None | Results::Rpc => false,
    };
    if readable {
        let celery = celery.clone();
        registry.add(UNLOCK, move |task, context| {
            let celery = celery.clone();
            async move { run(&celery, &task, &context).await }
        });
    }
}

async fn run(celery: &Celery, task: &Arc<Task>, context: &Context) -> anyhow::Result<Outcome> {
    let wrong = || Fatal("it is not what Celery sends: (group, body), result=[…]".into());
    let body = task.args.get(1).cloned().ok_or_else(wrong)?;
    let parts = task
        .kwargs
        .get("result")
        .and_then(Value::as_array)
        .ok_or_else(wrong)?;
    let tree = parts.iter().map(|part| Part::read(part, 0));
    let tree = tree.collect::<Option<Vec<_>>>().ok_or_else(wrong)?;
    let mut parts = Vec::new();
    tree.iter().for_each(|part| part.ids(&mut parts));
    let found = context
        .patiently(|| async {
            match celery.config.results {
                Results::Database => context.store().taskmeta_of(&parts).await,
                Results::Django => context.store().django_results_of(&parts).await,
                Results::None | Results::Rpc => Ok(Vec::new()),
            }
        })
        .await?;
    let of = |id: &String| found.iter().find(|found| found.task_id == *id);
    let failed = |found: &&FoundResult| matches!(found.status.as_str(), "FAILURE" | "REVOKED");
    if let Some(culprit) = parts.iter().filter_map(of).find(failed) {
        return fail(celery, task, context, body, culprit);
    }
    let done = parts
        .iter()
        .map(|id| of(id).filter(|found| found.status == "SUCCESS"));
    let Some(done) = done.collect::<Option<Vec<_>>>() else {
        return Ok(Outcome::Later {
            after: AGAIN,
            reason: "the chord's header has not ended".into(),
        });
    };
    let values = done.into_iter().map(|found| value(celery, found));
    let mut values = values.collect::<Result<Vec<_>, _>>()?.into_iter();
    let values = tree.iter().map(|part| part.fill(&mut values)).collect();
    let now = context.store().clock().now();
    let mut canvas = Canvas::new(&celery.config.routes, task, now);
    canvas.join(body, values)?;
    let with = celery.ops(context.store(), "", canvas.end(), Vec::new(), now)?;
    Ok(Outcome::Publish {
        result: Value::Null,
        with,
        follow: Vec::new(),
    })
}

/// A part of a chord: a task, or the members of a group that ends a chain of it.
enum Part {
    One(String),
    Many(Vec<Self>),
}

impl Part {
    /// Of a result tuple: `((id, parent), members)`.
    fn read(tuple: &Value, depth: usize) -> Option<Self> {
        /// Far above any real one.
        const DEEPEST: usize = 32;
        match tuple.get(1) {
            Some(Value::Array(members)) if depth < DEEPEST => {
                let members = members.iter().map(|part| Self::read(part, depth + 1));
                members.collect::<Option<_>>().map(Self::Many)
            }
            _ => Some(Self::One(tuple.get(0)?.get(0)?.as_str()?.to_owned())),
        }
    }

    fn ids(&self, into: &mut Vec<String>) {
        match self {
            Self::One(id) => into.push(id.clone()),
            Self::Many(members) => members.iter().for_each(|part| part.ids(into)),
        }
    }

    /// Its value, from those of all ids in their order.
    fn fill(&self, values: &mut impl Iterator<Item = Value>) -> Value {
        match self {
            Self::One(_) => values.next().unwrap_or_default(),
            Self::Many(members) => members.iter().map(|part| part.fill(values)).collect(),
        }
    }
}

/// The value that a part returned.
fn value(celery: &Celery, found: &FoundResult) -> anyhow::Result<Value> {
    use base64::Engine as _;
    let text = found.result.clone().unwrap_or_else(|| "null".into());
    let unreadable = |why: &str| {
        Fatal(format!(
            "the result of {} cannot be read here ({why}): celery's result_serializer must be json",
            found.task_id
        ))
    };
    let json = match celery.config.results {
        Results::Database => {
            let bytes = base64::prelude::BASE64_STANDARD
                .decode(text.replace('\n', ""))
                .map_err(|_| unreadable("no base64"))?;
            String::from_utf8(bytes).map_err(|_| unreadable("no text"))?
        }
        Results::Django | Results::None | Results::Rpc => {
            if found.content_type.as_deref() != Some("application/json") {
                return Err(
                    unreadable(found.content_type.as_deref().unwrap_or("no content type")).into(),
                );
            }
            text
        }
    };
    let value = serde_json::from_str(&json).map_err(|_| unreadable("no JSON"))?;
    Ok(codec::from_celery_json(value))
}

/// A part has failed, and so has the body, without having run.
fn fail(
    celery: &Celery,
    task: &Arc<Task>,
    context: &Context,
    body: Value,
    culprit: &FoundResult,
) -> anyhow::Result<Outcome> {
    let cause = value(celery, culprit).unwrap_or_default();
    let text = |key: &str| {
        cause
            .get(key)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let args = cause.get("exc_message").and_then(Value::as_array).cloned();
    let raised = Exception {
        module: text("exc_module"),
        class: text("exc_type"),
        args: args.unwrap_or_default(),
        traceback: None,
    };
    let reason = format!("Dependency {} raised {}", culprit.task_id, raised.repr());
    let error = Exception::new("celery.exceptions", "ChordError", reason);
    let never_run = canvas::never_run(body, &task.queue)?;
    let with = celery.after(context.store(), "", &never_run, &End::Failed(error))?;
    Ok(Outcome::Publish {
        result: Value::Null,
        with,
        follow: Vec::new(),
    })
}
