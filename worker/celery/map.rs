//! `celery.map` and `celery.starmap`, which every Celery worker has: one task runs for each of a list of items, in their
//! order, within one attempt. And `celery.chunks`, which sends a group of these.
//!
//! Each item begins from its beginning in each attempt: a checkpoint says nothing of which item it is of.

use std::sync::Arc;

use serde_json::{Map, Value};

use super::Celery;
use super::canvas::Canvas;
use crate::codec::WORKFLOW;
use crate::handler::{Context, Fatal, Outcome, Registry};
use crate::task::Task;

const CHUNKS: &str = "celery.chunks";

/// Adds them to what a worker runs, for the names that `registry` has now.
pub fn register(registry: &mut Registry, celery: &Celery) {
    let handlers = registry.clone();
    for (name, spread) in [("celery.map", false), ("celery.starmap", true)] {
        // A Python application has its own.
        if registry.knows(name) {
            continue;
        }
        let handlers = handlers.clone();
        registry.add(name, move |task, context| {
            let handlers = handlers.clone();
            async move { run(&handlers, &task, &context, spread).await }
        });
    }
    if !registry.knows(CHUNKS) {
        let celery = celery.clone();
        registry.add(CHUNKS, move |task, context| {
            let celery = celery.clone();
            async move { chunks(&celery, &task, &context) }
        });
    }
}

/// Sends the parts of chunks in the commit that settles them. The result is their group's, as from Celery.
fn chunks(celery: &Celery, task: &Arc<Task>, context: &Context) -> anyhow::Result<Outcome> {
    let now = context.store().clock().now();
    let mut canvas = Canvas::new(&celery.config.routes, task, now);
    let result = canvas.chunks().map_err(|wrong| Fatal(wrong.to_string()))?;
    Ok(Outcome::Publish {
        result,
        with: celery.ops(context.store(), "", canvas.end(), Vec::new(), now)?,
        follow: Vec::new(),
    })
}

async fn run(
    handlers: &Registry,
    task: &Arc<Task>,
    context: &Context,
    spread: bool,
) -> anyhow::Result<Outcome> {
    let wrong = || Fatal("it is not what Celery sends: task=…, it=[…]".into());
    let items = task.kwargs.get("it").and_then(Value::as_array);
    let name = super::handler_of(task);
    let (mut results, mut with, mut follow) = (Vec::new(), Vec::new(), Vec::new());
    for item in items.ok_or_else(wrong)? {
        let mut one = Task::clone(task);
        one.name = name.to_owned();
        one.args = match (spread, item) {
            (true, Value::Array(args)) => args.clone(),
            (true, _) => return Err(wrong().into()),
            (false, item) => vec![item.clone()],
        };
        one.kwargs = Map::new();
        one.headers.remove(WORKFLOW);
        let unknown = || Fatal(format!("no handler for {name:?}"));
        let running = handlers.start(&Arc::new(one), context.anew());
        match running.ok_or_else(unknown)?.await? {
            Outcome::Done(value) => results.push(value),
            Outcome::Publish {
                result,
                with: mut its,
                follow: mut new,
            } => {
                results.push(result);
                with.append(&mut its);
                follow.append(&mut new);
            }
            // The item has no row: the whole waits, or goes.
            Outcome::Later { after, reason }
            | Outcome::Again {
                after,
                reason,
                checkpoint: _,
                message: _,
            } => return Ok(Outcome::Later { after, reason }),
            Outcome::PassedOn {
                queue: _,
                with: its,
            } => {
                results.push(Value::Null);
                with.push(its);
            }
            other @ (Outcome::Ignored | Outcome::HandOff) => return Ok(other),
        }
    }
    Ok(Outcome::Publish {
        result: Value::Array(results),
        with,
        follow,
    })
}
