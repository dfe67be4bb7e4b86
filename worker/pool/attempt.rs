//! One attempt: a handler runs under its claim until it returns or is cut off.

use std::any::Any;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use tokio::sync::{OwnedSemaphorePermit, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::decide::{Cut, Ended};
use super::{Attempt, Worker};
use crate::broker::Receipt;
use crate::celery;
use crate::config::PoolKind;
use crate::follow::Live;
use crate::handler::{Context, Outcome, Pulse, Running};
use crate::store::Claimed;
use crate::task::Task;

/// An attempt that ended, on its way to the store.
pub(super) struct Finished {
    pub(super) task: Arc<Task>,
    pub(super) claimed: Claimed,
    pub(super) ended: Ended,
    /// Whether it outran its elastic pool.
    pub(super) overran: bool,
    /// What it began with.
    pub(super) live: Arc<Live>,
}

/// Starts an attempt in the slot `place`.
pub(super) fn start(
    worker: &Arc<Worker>,
    live: Arc<Live>,
    task: Task,
    claimed: Claimed,
    (receipt, received): (Receipt, Instant),
    place: OwnedSemaphorePermit,
) {
    let task = Arc::new(task);
    let (drain, lost) = (CancellationToken::new(), CancellationToken::new());
    let (cut, cuts) = watch::channel(None);
    let pulse = Arc::new(Pulse::default());
    let context = Context::new(
        worker.store.clone(),
        Arc::clone(&task),
        claimed.clone(),
        Arc::clone(&live.terms),
        (drain.clone(), lost.clone()),
        worker.deadline.subscribe(),
        Arc::clone(&pulse),
    );
    // Intake claims known names only; one that has gone since is a failure like any other.
    let running = live.registry.start(&task, context.clone());
    let running = running.unwrap_or_else(|| {
        let name = task.name.clone();
        async move { Err(anyhow::anyhow!("no handler for {name:?}")) }.boxed()
    });
    let celery = &worker.setup.celery;
    let running = match celery.started(&worker.store, worker.setup.id.as_str(), &task) {
        Ok(None) => running,
        // Before the handler, so that it never comes after the end.
        Ok(Some(started)) => async move {
            context.write(vec![started]).await?;
            running.await
        }
        .boxed(),
        Err(error) => {
            tracing::error!(task.id = %task.id, %error, "the start of an attempt cannot be told");
            running
        }
    };
    let entry = Attempt {
        task: Arc::clone(&task),
        begun: Instant::now(),
        since: worker.store.clock().now(),
        receipt: Some(receipt),
        received,
        drain: drain.clone(),
        asked: None,
        cut,
        pulse,
    };
    tracing::debug!(task.id = %task.id, task.name, epoch = %claimed.epoch, "attempt begun");
    worker.tell_begun(&task, claimed.failures);
    let key = (task.id.clone(), claimed.epoch);
    worker.attempts(|attempts| attempts.insert(key, entry));
    let attempt = Run {
        worker: Arc::clone(worker),
        live,
        task,
        claimed,
        drain,
        lost,
        cuts,
    };
    worker.tasks.spawn(async move {
        let finished = attempt.run(running).await;
        let worker = finished.1;
        drop(place);
        if worker.finished.send(finished.0).await.is_err() {
            tracing::debug!("an attempt ended after its worker; rescue takes it over");
        }
    });
}

struct Run {
    worker: Arc<Worker>,
    live: Arc<Live>,
    task: Arc<Task>,
    claimed: Claimed,
    drain: CancellationToken,
    lost: CancellationToken,
    cuts: watch::Receiver<Option<Cut>>,
}

impl Run {
    /// How long it may take, and when it is asked to come to an end: a message of Celery's may ask for less than the policy.
    fn limits(&self) -> (Duration, Duration) {
        let limit = self.live.policies.get(&self.task.name).time_limit;
        let (hard, soft) = if self.live.registry.keeps_time(&self.task.name) {
            (None, None)
        } else {
            celery::limits(&self.task)
        };
        let seconds = |limit: f64| Duration::try_from_secs_f64(limit).unwrap_or(Duration::MAX);
        let limit = hard.map_or(limit, |hard| limit.min(seconds(hard)));
        (limit, soft.map_or(limit, |soft| limit.min(seconds(soft))))
    }

    async fn run(mut self, running: Running) -> (Finished, Arc<Worker>) {
        let begun = Instant::now();
        let (limit, soft) = self.limits();
        let soft = begun + soft;
        // An elastic attempt is asked at its budget, and ended one checkpoint later.
        let budget = match &self.live.kind {
            PoolKind::Elastic {
                budget,
                overrun_queue: Some(_),
            } => Some(*budget),
            PoolKind::Elastic {
                overrun_queue: None,
                ..
            }
            | PoolKind::Pinned => None,
        };
        let ask = begun + budget.unwrap_or(limit);
        let end = ask + self.worker.setup.worker.checkpoint_every * 2;
        let (mut overran, mut softly) = (false, false);
        let mut running = AssertUnwindSafe(running).catch_unwind();
        let ended = loop {
            tokio::select! {
                biased;
                cut = wait(&mut self.cuts) => break Ended::Cut(cut),
                returned = &mut running => break match returned {
                    Ok(Ok(Outcome::HandOff)) if softly => Ended::Cut(Cut::SoftLimit(soft - begun)),
                    Ok(answer) => Ended::Returned(answer),
                    Err(panic) => Ended::Panicked(text(panic.as_ref())),
                },
                () = tokio::time::sleep_until(begun + limit) => break Ended::Cut(Cut::TimeLimit(limit)),
                () = tokio::time::sleep_until(soft), if soft < begun + limit && !self.drain.is_cancelled() => {
                    softly = true;
                    self.drain.cancel();
                }
                () = tokio::time::sleep_until(ask), if budget.is_some() && !overran => {
                    tracing::info!(task.id = %self.task.id, task.name = self.task.name, "attempt outran its elastic pool");
                    overran = true;
                    self.drain.cancel();
                }
                () = tokio::time::sleep_until(end), if overran => break Ended::Cut(Cut::HandOff),
            }
        };
        drop(running);
        if matches!(ended, Ended::Cut(Cut::Lost)) {
            self.lost.cancel();
        }
        let Self {
            worker,
            live,
            task,
            claimed,
            ..
        } = self;
        (
            Finished {
                task,
                claimed,
                ended,
                overran,
                live,
            },
            worker,
        )
    }
}

async fn wait(cuts: &mut watch::Receiver<Option<Cut>>) -> Cut {
    match cuts.wait_for(Option::is_some).await.map(|cut| *cut) {
        Ok(Some(cut)) => cut,
        // The entry is gone, so that nobody can cut any more.
        Ok(None) | Err(_) => std::future::pending().await,
    }
}

fn text(panic: &(dyn Any + Send)) -> String {
    panic
        .downcast_ref::<&str>()
        .map(|text| (*text).to_owned())
        .or_else(|| panic.downcast_ref::<String>().cloned())
        .unwrap_or_else(|| "something that is no text".into())
}
