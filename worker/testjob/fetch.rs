//! `testjob.fetch`: one test job, from its backend into a run, published with its follow-up tasks at once.

use std::sync::Arc;

use serde_json::{Value, json};

use super::backend::{BackendError, Collected, Summary};
use super::stage::{Progress, Staged, stage};
use super::{POSTPROCESS, Services, Target, plugin_task, sink};
use crate::handler::{Context, Fatal, Outcome};
use crate::store::{Begun, Fetched, Op, RunCounts};
use crate::task::Task;

/// What a fetch task asks for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Order {
    /// The backend's name in the configuration.
    pub backend: String,
    /// The test job's id there.
    pub id: String,
    /// Where its results belong.
    pub target: Target,
    /// Whether to collect it anew if it was collected before.
    pub again: bool,
}

impl Order {
    /// Reads a task's arguments: `backend`, `id`, `target` and, if wanted, `again`, by name or in this order.
    ///
    /// # Errors
    ///
    /// [`Fatal`]: the same message would fail again.
    pub fn of(task: &Task) -> Result<Self, Fatal> {
        let text = |key: &str, index| match task.arg(key, index) {
            Some(Value::String(text)) if !text.is_empty() => Ok(text.clone()),
            Some(Value::Number(number)) => Ok(number.to_string()),
            Some(other) => Err(Fatal(format!(
                "argument {key:?} of {} is {other}, which is no text",
                task.name
            ))),
            None => Err(Fatal(format!(
                "argument {key:?} of {} is missing",
                task.name
            ))),
        };
        Ok(Self {
            backend: text("backend", 0)?,
            id: text("id", 1)?,
            target: text("target", 2)?.parse().map_err(Fatal)?,
            again: task
                .arg("again", 3)
                .and_then(Value::as_bool)
                .unwrap_or_default(),
        })
    }
}

/// Runs one attempt.
pub(super) async fn run(
    services: Arc<Services>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let order = Order::of(&task)?;
    let (backend, settings, poll_interval) = services
        .source(&order.backend, &order.target.project)
        .map_err(Fatal)?;
    let progress = match begin(&order, &task, &context).await? {
        Begun::Run {
            run,
            testjob,
            generation,
            own,
            unclean,
        } => match context.resume::<Progress>()? {
            Some(progress) if own => progress,
            Some(_) | None if unclean => Progress::over(run, testjob, generation),
            Some(_) | None => Progress::new(run, testjob, generation),
        },
        Begun::Finished => return Ok(Outcome::done(json!({ "collected": "before" }))),
        Begun::Elsewhere(other) => return Ok(Outcome::done(json!({ "collected by": other }))),
    };
    let (every, limit) = (
        services.config.worker.checkpoint_every,
        services.config.limits.results,
    );
    let Progress {
        run,
        testjob,
        generation,
        ..
    } = progress;
    let staged = stage(&context, progress, every, limit, |sink| {
        let (backend, settings, id) = (Arc::clone(&backend), settings.clone(), order.id.clone());
        async move {
            backend
                .collect(&id, &settings, &sink)
                .await
                .map_err(failure)
        }
    })
    .await?;
    let (answer, with, counts) = match staged {
        Staged::All {
            answer,
            rest,
            counts,
            progress: _,
        } => (answer, rest.ops(context.store())?, counts),
        Staged::HandOff => return Ok(Outcome::HandOff),
    };
    let summary = match answer {
        Collected::Done(summary) => summary,
        Collected::Running(state) => {
            context
                .write(vec![context.store().testjob_waits(testjob, &state)?])
                .await?;
            return Ok(Outcome::Later {
                after: poll_interval,
                reason: format!("the backend says {state}"),
            });
        }
    };
    let published = Published {
        run,
        testjob,
        generation,
        counts,
    };
    publish(&services, &order, &context, &published, summary, with)
}

/// What there is to publish.
struct Published {
    run: i64,
    testjob: i64,
    generation: i64,
    counts: RunCounts,
}

/// The outcome that publishes a run, with the tasks of the project's plugins.
fn publish(
    services: &Services,
    order: &Order,
    context: &Context,
    published: &Published,
    summary: Summary,
    mut with: Vec<Op>,
) -> anyhow::Result<Outcome> {
    let Published {
        run,
        testjob,
        generation,
        counts,
    } = published;
    let plugins = services.config.project(&order.target.project).plugins;
    let queue = services.config.route(POSTPROCESS);
    let follow = plugins
        .iter()
        .map(|plugin| plugin_task(queue, order, *testjob, *generation, plugin))
        .collect::<Vec<_>>();
    let ids = follow.iter().map(|task| task.id.clone());
    let plugins = plugins.into_iter().zip(ids).collect::<Vec<_>>();
    with.extend(context.store().publish_fetch(
        context.task(),
        *run,
        *testjob,
        *generation,
        counts,
        &word(summary),
        &plugins,
    )?);
    let project = &order.target.project;
    let store = context.store();
    with.extend(sink::when_finished(
        services,
        store,
        project,
        *testjob,
        *generation,
    )?);
    Ok(Outcome::Publish {
        result: json!({ "testjob": testjob, "tests": counts.tests, "metrics": counts.metrics }),
        with,
        follow,
    })
}

async fn begin(order: &Order, task: &Task, context: &Context) -> anyhow::Result<Begun> {
    let Order {
        backend,
        id,
        target,
        again,
    } = order;
    let row = json!({
        "backend": backend, "remote_id": id, "project": target.project, "build": target.build,
        "environment": target.environment, "again": i32::from(*again), "task": task.id,
    });
    Ok(context
        .patiently(|| context.store().begin_fetch(&task.id, context.epoch(), &row))
        .await?)
}

/// A backend's error as the handler's: final ones are not tried again.
pub(crate) fn failure(error: BackendError) -> anyhow::Error {
    match error {
        BackendError::Temporary(reason) => anyhow::anyhow!(reason),
        BackendError::Final(reason) => Fatal(reason).into(),
        BackendError::Stopped => anyhow::anyhow!("the attempt was stopped"),
    }
}

fn word(summary: Summary) -> Fetched {
    let Summary {
        status,
        completed,
        name,
        url,
        environment,
        failure,
        can_resubmit: _,
    } = summary;
    let status = if !completed && status == "Complete" {
        "Incomplete".to_owned()
    } else {
        status
    };
    let reason = failure.map(|failure| match failure {
        Value::String(text) => text,
        other @ (Value::Null
        | Value::Bool(_)
        | Value::Number(_)
        | Value::Array(_)
        | Value::Object(_)) => other.to_string(),
    });
    Fetched {
        status,
        name,
        url,
        reason,
        environment,
    }
}
