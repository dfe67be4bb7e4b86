//! `testjob.submit`: a finished test job's results go to a server that its project names, once.
//!
//! The task is there from the command on that finishes the test job. What it does happens outside the store, so it is at
//! least once by itself: each attempt first asks the server whether it has the submission, known by a mark that is the same
//! in every attempt.

use std::sync::Arc;

use serde_json::{Value, json};

use super::Services;
use crate::handler::{Context, Fatal, Outcome};
use crate::store::{Op, Store, StoreError, TestJobFilter, TestJobView};
use crate::task::Task;

mod body;
pub(super) mod squad;

/// The name of the task that submits a test job's results to one sink.
pub const SUBMIT: &str = "testjob.submit";

/// What a submission is made of.
pub(super) struct Submission {
    pub(super) job: TestJobView,
    /// The published runs, the fetch's first.
    pub(super) runs: Vec<i64>,
}

/// The tasks that submit a test job once it is finished, as parts of a command that publishes one of its parts.
pub(super) fn when_finished(
    services: &Services,
    store: &Store,
    project: &str,
    testjob: i64,
    generation: i64,
) -> Result<Vec<Op>, StoreError> {
    let queue = services.config.route(SUBMIT);
    let tasks = services
        .config
        .project(project)
        .sinks
        .iter()
        .map(|sink| {
            Task::new(SUBMIT, queue)
                .with_id(format!("submit:{testjob}.{generation}/{sink}"))
                .with("testjob", testjob)
                .with("generation", generation)
                .with("sink", sink.as_str())
        })
        .collect::<Vec<_>>();
    store.when_finished(testjob, generation, &tasks)
}

/// Runs one attempt.
pub(super) async fn run(
    services: Arc<Services>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let wrong = |key: &str| Fatal(format!("argument {key:?} of {} is missing", task.name));
    let number = |key: &str, index| task.arg(key, index).and_then(Value::as_i64);
    let testjob = number("testjob", 0).ok_or_else(|| wrong("testjob"))?;
    let generation = number("generation", 1).ok_or_else(|| wrong("generation"))?;
    let name = task
        .arg("sink", 2)
        .and_then(Value::as_str)
        .ok_or_else(|| wrong("sink"))?;
    let Some(sink) = services.sinks.get(name) else {
        return Err(Fatal(format!(
            "unknown sink {name:?}: add [sinks.{name}] to the configuration, then `longshore task retry {}`",
            task.id
        ))
        .into());
    };
    let Some(submission) = look(&context, testjob, generation).await? else {
        return Ok(Outcome::done(json!({ "over": "collected anew since" })));
    };
    sink.submit(&context, submission).await
}

/// What there is to submit; `None` once readers see another generation.
async fn look(
    context: &Context,
    testjob: i64,
    generation: i64,
) -> anyhow::Result<Option<Submission>> {
    let store = context.store();
    let filter = TestJobFilter {
        id: Some(testjob),
        most: 1,
        ..TestJobFilter::default()
    };
    let parts = context.patiently(|| store.parts(testjob)).await?;
    let jobs = context.patiently(|| store.testjobs(&filter)).await?;
    let job = jobs
        .into_iter()
        .next()
        .filter(|job| job.visible == generation && job.wanted == generation);
    let mut runs = parts
        .into_iter()
        .filter(|part| part.generation == generation && part.run_state == "published")
        .map(|part| (part.part != "fetch", part.run))
        .collect::<Vec<_>>();
    runs.sort_unstable();
    Ok(job.map(|job| Submission {
        job,
        runs: runs.into_iter().map(|(_, run)| run).collect(),
    }))
}

/// Whether readers still see what was submitted.
pub(super) async fn is_current(context: &Context, submission: &Submission) -> anyhow::Result<bool> {
    let TestJobView { id, visible, .. } = submission.job;
    Ok(look(context, id, visible).await?.is_some())
}
