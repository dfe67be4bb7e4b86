//! A worker's death in the middle of a task, and how the task goes on: all of it read from the store.

use std::time::{Duration, Instant};

use anyhow::Context as _;
use serde::Serialize;

use super::narrate::Narrator;
use super::report::grouped;
use super::workers::Worker;
use crate::id::Epoch;
use crate::store::{Filter, Store, TaskView, TestJobFilter};

/// Between two looks.
const LOOK: Duration = Duration::from_millis(3);

/// How a worker dies.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub(super) enum Signal {
    /// As when a pool is scaled down.
    #[serde(rename = "SIGTERM")]
    Term,
    /// As when memory runs out or a node is lost.
    #[serde(rename = "SIGKILL")]
    Kill,
}

impl Signal {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Term => "SIGTERM",
            Self::Kill => "SIGKILL",
        }
    }
}

/// One death.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Death {
    pub(super) signal: Signal,
    pub(super) worker: String,
    /// What it was in the middle of.
    pub(super) task: String,
    /// From the signal until the task ran elsewhere.
    pub(super) resume_ms: f64,
    /// From the checkpoint that it went on from until the signal: what was done in vain.
    pub(super) repeated_ms: i64,
    /// Rows that were durable when it went on: read again, and skipped.
    pub(super) rows_kept: i64,
    /// How the worker ended.
    pub(super) exit: String,
}

/// Whose task is to be interrupted, and how far it must be.
pub(super) struct Prey<'a> {
    /// The test job's id on its backend.
    pub(super) job: &'a str,
    /// `fetch` or a plugin's name.
    pub(super) part: &'a str,
    /// At least so many rows are durable.
    pub(super) least: i64,
}

/// A task in the middle of its work.
struct Caught {
    testjob: i64,
    run: i64,
    task: String,
    epoch: Epoch,
}

/// Sends `signal` to `victim` once it is in the middle of `prey`, and waits until that runs elsewhere. The
/// replacement of a worker that is asked to end is there before; that of one that is killed comes after.
pub(super) async fn meet(
    store: &Store,
    narrator: &Narrator,
    signal: Signal,
    prey: &Prey<'_>,
    victim: &mut Worker,
    replacement: impl FnOnce() -> anyhow::Result<Worker>,
) -> anyhow::Result<(Death, Worker)> {
    let task = format!("{} of {}", prey.part, prey.job);
    let caught = in_the_middle(store, prey).await?;
    let early = match signal {
        Signal::Term => {
            let mut worker = replacement()?;
            worker.joined(store).await?;
            narrator.say(&format!(
                "worker {} (pid {}) is there",
                worker.name, worker.pid
            ));
            Ok(worker)
        }
        Signal::Kill => Err(replacement),
    };
    let rows = rows(store, &caught).await?;
    narrator.say(&format!(
        "{} to {}, in the middle of its task \"{task}\": {} rows are durable",
        signal.word(),
        victim.name,
        grouped(rows)
    ));
    let (sent, sent_at) = (Instant::now(), store.clock().now());
    match signal {
        Signal::Term => victim.terminate()?,
        Signal::Kill => victim.kill()?,
    }
    let worker = match early {
        Ok(worker) => worker,
        Err(replacement) => replacement()?,
    };
    let resumed = elsewhere(store, &caught).await?;
    let resume_ms = (sent.elapsed().as_secs_f64() * 10_000.0).round() / 10.0;
    let rows_kept = self::rows(store, &caught).await?;
    narrator.say(&format!(
        "\"{task}\" goes on in {} after {resume_ms} ms, behind those {} rows",
        worker.name,
        grouped(rows_kept)
    ));
    let exit = victim.ended().await?;
    let done_at = resumed.checkpoint_at.unwrap_or(resumed.created_at);
    let death = Death {
        signal,
        worker: victim.name.clone(),
        task,
        resume_ms,
        repeated_ms: (sent_at - done_at).max(0),
        rows_kept,
        exit: exit.to_string(),
    };
    anyhow::ensure!(
        signal == Signal::Kill || exit.success(),
        "end {} in order: it ended with {exit}",
        victim.name
    );
    Ok((death, worker))
}

/// Waits until `prey` runs, has a checkpoint and enough durable rows, but is not done.
async fn in_the_middle(store: &Store, prey: &Prey<'_>) -> anyhow::Result<Caught> {
    let filter = TestJobFilter {
        remote_id: Some(prey.job.to_owned()),
        most: 1,
        ..TestJobFilter::default()
    };
    loop {
        for job in store.testjobs(&filter).await? {
            let parts = store.parts(job.id).await?;
            let Some(part) = parts.into_iter().find(|part| part.part == prey.part) else {
                continue;
            };
            anyhow::ensure!(
                part.run_state != "published",
                "interrupt {} of {}: it was done before; give it more to do with --tests",
                prey.part,
                prey.job
            );
            let Some(task) = task(store, &part.task_id).await? else {
                continue;
            };
            let caught = Caught {
                testjob: job.id,
                run: part.run,
                task: part.task_id,
                epoch: task.epoch,
            };
            let running = task.state == crate::store::State::Running;
            if running && task.checkpoint_at.is_some() && rows(store, &caught).await? >= prey.least
            {
                return Ok(caught);
            }
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Waits until the task runs under another claim.
async fn elsewhere(store: &Store, caught: &Caught) -> anyhow::Result<TaskView> {
    loop {
        let task = task(store, &caught.task)
            .await?
            .with_context(|| format!("find the task {} again", caught.task))?;
        if task.epoch > caught.epoch {
            return Ok(task);
        }
        anyhow::ensure!(
            task.state != crate::store::State::Done,
            "interrupt {}: it was done before the signal came",
            caught.task
        );
        tokio::time::sleep(LOOK).await;
    }
}

async fn task(store: &Store, id: &str) -> anyhow::Result<Option<TaskView>> {
    let filter = Filter {
        id: Some(id.to_owned()),
        state: None,
        most: 1,
    };
    Ok(store.tasks(&filter).await?.into_iter().next())
}

async fn rows(store: &Store, caught: &Caught) -> anyhow::Result<i64> {
    let sizes = store.staged_sizes(Some(caught.testjob)).await?;
    let own = sizes.iter().find(|run| run.run == caught.run);
    Ok(own.map_or(0, crate::store::StagedRun::rows))
}
