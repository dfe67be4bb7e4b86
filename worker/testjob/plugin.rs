//! `testjob.postprocess`: one plugin over one collected test job, into a run of its own.
//!
//! A plugin reads what the fetch published and what its backend refers to; it never sees another plugin's
//! results, and never finishes the test job: the rows do, when the last run is published.

use std::sync::Arc;

use serde_json::{Map, Value, json};

use super::fetch::failure;
use super::item::Sink;
use super::stage::{Progress, Staged, stage};
use super::{
    Services,
    backend::{Backend, Settings},
    sink,
};
use crate::handler::{Context, Fatal, Outcome};
use crate::store::Op;
use crate::task::Task;
use external::End;

pub(crate) mod external;
pub mod kernel_log;
pub(crate) mod kernel_log_task;
pub(crate) mod tradefed;

/// The plugins that are built in, by the names that a project enables them with.
pub const KNOWN: [&str; 2] = [TRADEFED, KERNEL_LOG];
pub(crate) const TRADEFED: &str = "tradefed";
pub(crate) const KERNEL_LOG: &str = "kernel-log";

/// What a plugin works on.
#[derive(Clone)]
pub(crate) struct Job {
    pub(crate) testjob: i64,
    pub(crate) generation: i64,
    pub(crate) id: String,
    pub(crate) backend: Arc<dyn Backend>,
    pub(crate) context: Context,
    pub(crate) limits: crate::config::Limits,
}

/// What a postprocess task asks for.
struct Order {
    testjob: i64,
    generation: i64,
    plugin: String,
    backend: String,
    id: String,
    project: String,
}

impl Order {
    fn of(task: &Task, services: &Services) -> Result<Self, Fatal> {
        let missing = |key: &str| Fatal(format!("argument {key:?} of {} is missing", task.name));
        let number = |key: &str, index| {
            task.arg(key, index)
                .and_then(Value::as_i64)
                .ok_or_else(|| missing(key))
        };
        let text = |key: &str, index| {
            task.arg(key, index)
                .and_then(Value::as_str)
                .map(str::to_owned)
                .ok_or_else(|| missing(key))
        };
        let plugin = text("plugin", 2)?;
        let own = &services.config.plugins;
        if !KNOWN.contains(&plugin.as_str()) && !own.contains_key(&plugin) {
            let own = own.keys().map(String::as_str);
            let known = KNOWN.into_iter().chain(own).collect::<Vec<_>>().join(", ");
            return Err(Fatal(format!(
                "unknown plugin {plugin:?} (there are: {known})"
            )));
        }
        Ok(Self {
            testjob: number("testjob", 0)?,
            generation: number("generation", 1)?,
            plugin,
            backend: text("backend", 3)?,
            id: text("id", 4)?,
            project: text("project", 5)?,
        })
    }
}

/// Runs one attempt.
pub(super) async fn run(
    services: Arc<Services>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let Order {
        testjob,
        generation,
        plugin,
        backend,
        id,
        project,
    } = Order::of(&task, &services)?;
    let (source, settings, _) = services.source(&backend, &project).map_err(Fatal)?;
    let run = context
        .patiently(|| {
            let store = context.store();
            store.begin_plugin(&task.id, context.epoch(), testjob, generation, &plugin)
        })
        .await?;
    let Some((run, unclean)) = run else {
        return Ok(Outcome::done(
            json!({ "over": "published before, or collected anew since" }),
        ));
    };
    let progress = match context.resume::<Progress>()? {
        Some(progress) => progress,
        None if unclean => Progress::over(run, testjob, generation),
        None => Progress::new(run, testjob, generation),
    };
    let (every, limit) = (
        services.config.worker.checkpoint_every,
        services.config.limits.results,
    );
    let job = Job {
        testjob,
        generation,
        id,
        backend: source,
        context: context.clone(),
        limits: services.config.limits.clone(),
    };
    let about = external::Project {
        backend,
        name: project,
        settings: shown(&settings),
    };
    let staged = stage(&context, progress, every, limit, |sink: Sink| {
        let (job, plugin, about) = (job.clone(), plugin.clone(), about.clone());
        let services = Arc::clone(&services);
        async move { look(&services, &plugin, &about, &job, &sink).await }
    })
    .await?;
    let submit = sink::when_finished(&services, context.store(), &about.name, testjob, generation)?;
    outcome(&context, staged, submit, (run, testjob, generation))
}

/// What becomes of a plugin's run.
fn outcome(
    context: &Context,
    staged: Staged<End>,
    submit: Vec<Op>,
    (run, testjob, generation): (i64, i64, i64),
) -> anyhow::Result<Outcome> {
    match staged {
        Staged::All {
            answer: End::Later(after, reason),
            rest: _,
            counts: _,
            progress: _,
        } => Ok(Outcome::Later { after, reason }),
        Staged::All {
            answer: End::Done,
            rest,
            counts,
            progress: _,
        } => {
            let mut with = rest.ops(context.store())?;
            with.extend(context.store().publish_plugin(
                context.task(),
                run,
                testjob,
                generation,
                &counts,
            )?);
            with.extend(submit);
            Ok(Outcome::Publish {
                result: json!({ "tests": counts.tests }),
                with,
                follow: Vec::new(),
            })
        }
        Staged::HandOff => Ok(Outcome::HandOff),
    }
}

/// Lets the plugin look at the test job.
async fn look(
    services: &Services,
    plugin: &str,
    about: &external::Project,
    job: &Job,
    sink: &Sink,
) -> anyhow::Result<End> {
    match plugin {
        TRADEFED => tradefed::run(job, sink).await.map(|()| End::Done),
        KERNEL_LOG => kernel_log_task::run(job, kernel_log_task::is_log, sink)
            .await
            .map(|()| End::Done),
        other => match &services.programs {
            Some(programs) => external::run(programs, other, about, job, sink).await,
            None => Err(Fatal(format!("unknown plugin {other:?}")).into()),
        },
    }
}

/// Settings as they may be shown.
pub(crate) fn shown(settings: &Settings) -> Map<String, Value> {
    match serde_json::to_value(crate::config::Settings(settings.0.clone())) {
        Ok(Value::Object(map)) => map,
        Ok(_) | Err(_) => Map::new(),
    }
}

/// An item of a plugin goes to the stager.
pub(crate) async fn send(sink: &Sink, item: super::item::Item) -> anyhow::Result<()> {
    sink.send(item)
        .await
        .map_err(|_| failure(super::backend::BackendError::Stopped))
}
