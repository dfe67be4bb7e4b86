//! Outcomes become rows: all that are ready share one commit, then their deliveries are acknowledged.

use std::collections::HashSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc};

use super::Worker;
use super::attempt::Finished;
use super::decide::{self, Ended, Verdict};
use crate::celery::events::What;
use crate::celery::{self, End, Exception};
use crate::config::PoolKind;
use crate::crash;
use crate::handler::Outcome;
use crate::id::{Epoch, TaskId};
use crate::store::{Op, Ring, Settlement, State, StoreError};
use crate::task::{Task, Wire};

/// Outcomes that share a commit, and the most that wait for one.
pub(super) const BATCH: usize = 256;
/// Commits of outcomes with what belongs to them that are on their way at once; while they are, the next ones come together.
const COMMITS: usize = 4;
/// Between two tries while the store is away.
const PAUSE: Duration = Duration::from_millis(250);

type Item = (TaskId, Epoch, Settlement);

/// An outcome on its way, and what to write if the store refuses it.
struct Settling {
    item: Item,
    refused: Settlement,
    with: Vec<Op>,
    follow: Vec<Task>,
}

impl Settling {
    /// Whether it may share a commit with others: nothing of what comes with it has a condition.
    fn joins(&self) -> bool {
        self.follow.is_empty() && self.with.iter().all(Op::is_joinable)
    }
}

/// Settles until the worker gives up and nothing waits.
pub(super) async fn run(worker: Arc<Worker>, mut outcomes: mpsc::Receiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH);
    let commits = Arc::new(Semaphore::new(COMMITS));
    loop {
        let count = tokio::select! {
            biased;
            count = outcomes.recv_many(&mut batch, BATCH) => count,
            () = worker.give_up.cancelled() => 0,
        };
        if count == 0 {
            return;
        }
        let (mut plain, mut over) = (Vec::with_capacity(count), Vec::new());
        let mut together = Vec::new();
        for finished in batch.drain(..) {
            let key = (finished.task.id.clone(), finished.claimed.epoch);
            match judge(&worker, finished) {
                None => over.push(key),
                Some(settling) if settling.with.is_empty() && settling.follow.is_empty() => {
                    plain.push(settling)
                }
                Some(settling) if settling.joins() => together.push(settling),
                Some(settling) => alone(&worker, settling),
            }
        }
        forget(&worker, over).await;
        if !together.is_empty()
            && let Ok(place) = Arc::clone(&commits).acquire_owned().await
        {
            let worker = Arc::clone(&worker);
            let tasks = worker.tasks.clone();
            tasks.spawn(async move { publish_all(&worker, together, place).await });
        }
        if !plain.is_empty() {
            settle(&worker, plain).await;
        }
    }
}

fn judge(worker: &Worker, finished: Finished) -> Option<Settling> {
    let Finished {
        task,
        claimed,
        ended,
        overran,
        live,
    } = finished;
    let elsewhere = match &live.kind {
        PoolKind::Elastic { overrun_queue, .. } if overran => overrun_queue.as_deref(),
        PoolKind::Elastic { .. } | PoolKind::Pinned => None,
    };
    let policy = live.policies.get(&task.name);
    let random = random();
    // What a task wants ignored is told nobody, and its workflow goes another way; that of one that is passed on goes with it.
    let ignored = matches!(
        ended,
        Ended::Returned(Ok(Outcome::Ignored | Outcome::PassedOn { .. }))
    );
    let exception = (task.wire == Wire::Celery && !ignored).then(|| decide::exception(&ended));
    let verdict = decide::verdict(ended, &task, &claimed, policy, random, elsewhere);
    let verdict = match (verdict, exception) {
        (Some(verdict), Some(exception)) => Some(continued(worker, &task, verdict, exception)),
        (verdict, _) => verdict,
    };
    let Some(Verdict {
        settlement,
        with,
        follow,
    }) = verdict
    else {
        lost();
        tracing::warn!(task.id = %task.id, task.name, epoch = %claimed.epoch, "attempt dropped: its lease is lost");
        return None;
    };
    let state = settlement.state.map_or("done", State::as_str);
    match &settlement.reason {
        Some(reason) => {
            tracing::info!(task.id = %task.id, task.name, epoch = %claimed.epoch, state, reason, "attempt ended")
        }
        None => {
            tracing::debug!(task.id = %task.id, task.name, epoch = %claimed.epoch, state, "attempt ended")
        }
    }
    let refused = decide::failed(
        "the store refused its outcome".into(),
        false,
        &claimed,
        policy,
        random,
    );
    Some(Settling {
        item: (task.id.clone(), claimed.epoch, settlement),
        refused,
        with,
        follow,
    })
}

/// What follows for Celery, in the same commit. A workflow that cannot go on has failed the task.
fn continued(worker: &Worker, task: &Task, mut verdict: Verdict, exception: Exception) -> Verdict {
    // Somebody may have it canceled, and then it is over with the very commit that has it run again. (A hand-off, which is
    // settled with others, sees to that itself.)
    if verdict.settlement.state == Some(State::Waiting) {
        verdict.with.extend(worker.store.told_if_over(&task.id));
    }
    let end = match verdict.settlement.state {
        Some(State::Done) => End::Done(verdict.settlement.result.clone().unwrap_or_default()),
        Some(State::Dead) => End::Failed(exception),
        Some(State::Canceled) => End::Revoked("terminated"),
        Some(State::Waiting) if verdict.settlement.failed => {
            verdict.settlement.message = celery::again(task);
            End::Retried(Some(exception))
        }
        Some(State::Waiting) => End::Retried(None),
        Some(State::Queued | State::Parked | State::Blocked | State::Running | State::Expired)
        | None => return verdict,
    };
    let after = |end: &End| {
        let celery = &worker.setup.celery;
        celery.after(&worker.store, worker.setup.id.as_str(), task, end)
    };
    match after(&end) {
        Ok(ops) => verdict.with.extend(ops),
        Err(broken) => {
            let reason = broken.to_string();
            tracing::error!(task.id = %task.id, task.name, reason, "a workflow of Celery's broke off");
            let failed = End::Failed(Exception::new("builtins", "RuntimeError", reason.clone()));
            verdict = Verdict {
                settlement: Settlement {
                    state: Some(State::Dead),
                    failed: true,
                    reason: Some(reason),
                    ..Settlement::default()
                },
                // What cannot be told either way is told nobody.
                with: after(&failed).unwrap_or_default(),
                follow: Vec::new(),
            };
        }
    }
    verdict
}

/// 0 to 1, to spread retries.
fn random() -> f64 {
    let mut bytes = [0; 4];
    match getrandom::fill(&mut bytes) {
        Ok(()) => f64::from(u32::from_le_bytes(bytes)) / f64::from(u32::MAX),
        Err(_) => 0.5,
    }
}

/// Writes outcomes that need nothing else, all in one commit.
async fn settle(worker: &Worker, batch: Vec<Settling>) {
    crash::point("settle:ready");
    let items = batch
        .iter()
        .map(|settling| settling.item.clone())
        .collect::<Vec<_>>();
    match patiently(worker, || worker.store.settle(&items)).await {
        Some(Ok((settled, rings))) => stored(worker, &items, &settled, rings).await,
        // One outcome that the store refuses is no matter of the others.
        Some(Err(error)) if batch.len() > 1 => {
            tracing::warn!(%error, outcomes = batch.len(), "outcomes were refused together; each is tried alone");
            for settling in batch {
                Box::pin(settle(worker, vec![settling])).await;
            }
        }
        Some(Err(error)) => {
            for Settling {
                item: (id, epoch, _),
                refused,
                ..
            } in batch
            {
                refuse(worker, id, epoch, refused, &error).await;
            }
        }
        None => tracing::warn!(
            tasks = items.len(),
            "outcomes could not be written; rescue runs the tasks again"
        ),
    }
}

async fn stored(worker: &Worker, items: &[Item], settled: &HashSet<TaskId>, rings: Vec<Ring>) {
    for (id, epoch, settlement) in items {
        if settled.contains(id) {
            count(worker, id, *epoch, settlement);
        } else {
            lost();
            tracing::warn!(task.id = %id, epoch = %epoch, "outcome refused: the lease is lost");
        }
    }
    crash::point("settle:stored");
    worker.relay.publish(rings).await;
    forget(
        worker,
        items
            .iter()
            .map(|(id, epoch, _)| (id.clone(), *epoch))
            .collect(),
    )
    .await;
    crash::point("settle:acknowledged");
}

/// Writes one outcome with what belongs to it, beside all others.
fn alone(worker: &Arc<Worker>, settling: Settling) {
    let worker = Arc::clone(worker);
    let tasks = worker.tasks.clone();
    tasks.spawn(async move { publish(&worker, settling).await });
}

/// Writes outcomes with what belongs to them in one commit; while it is on its way, more come together.
async fn publish_all(worker: &Arc<Worker>, batch: Vec<Settling>, place: OwnedSemaphorePermit) {
    crash::point("publish:ready");
    let items = batch.iter().map(|settling| settling.item.clone());
    let items = items.collect::<Vec<_>>();
    let ops = batch.iter().flat_map(|settling| settling.with.clone());
    let ops = ops.collect::<Vec<_>>();
    let answer = patiently(worker, || worker.store.settle_all(&items, ops.clone())).await;
    // The broker may be slow, and the next outcomes need not wait for it.
    drop(place);
    match answer {
        Some(Ok(rings)) => {
            crash::point("publish:stored");
            for (id, epoch, settlement) in &items {
                count(worker, id, *epoch, settlement);
            }
            worker.relay.publish(rings).await;
            let keys = items.into_iter().map(|(id, epoch, _)| (id, epoch));
            forget(worker, keys.collect()).await;
            crash::point("publish:acknowledged");
        }
        // One that is lost or refused is no matter of the others.
        Some(Err(error)) => {
            tracing::debug!(%error, outcomes = batch.len(), "outcomes were refused together; each is tried alone");
            batch.into_iter().for_each(|one| alone(worker, one));
        }
        None => tracing::warn!(
            tasks = items.len(),
            "outcomes could not be written; rescue runs the tasks again"
        ),
    }
}

/// Writes one outcome with what belongs to it.
async fn publish(worker: &Worker, settling: Settling) {
    let Settling {
        item: (id, epoch, settlement),
        refused,
        with,
        follow,
    } = settling;
    crash::point("publish:ready");
    let answer = patiently(worker, || {
        worker
            .store
            .settle_with(&id, epoch, &settlement, with.clone(), &follow)
    })
    .await;
    match answer {
        Some(Ok(rings)) => {
            crash::point("publish:stored");
            count(worker, &id, epoch, &settlement);
            worker.relay.publish(rings).await;
            forget(worker, vec![(id, epoch)]).await;
            crash::point("publish:acknowledged");
        }
        Some(Err(StoreError::Stale { command: "settle" })) => {
            lost();
            tracing::warn!(task.id = %id, epoch = %epoch, "outcome refused: the lease is lost");
            forget(worker, vec![(id, epoch)]).await;
        }
        Some(Err(error)) => refuse(worker, id, epoch, refused, &error).await,
        None => {
            tracing::warn!(task.id = %id, "an outcome could not be written; rescue runs the task again")
        }
    }
}

/// What the handler wanted written does not hold, or cannot be: a failure, and the policy of the task decides.
async fn refuse(
    worker: &Worker,
    id: TaskId,
    epoch: Epoch,
    refused: Settlement,
    error: &StoreError,
) {
    let reason = format!("its outcome could not be stored: {error}");
    tracing::error!(task.id = %id, epoch = %epoch, %error, "an outcome was refused by the store");
    let settlement = Settlement {
        reason: Some(reason),
        ..refused
    };
    let with = Vec::from_iter(worker.store.told_if_over(&id));
    let answer = patiently(worker, || {
        let with = with.clone();
        worker.store.settle_with(&id, epoch, &settlement, with, &[])
    })
    .await;
    match answer {
        Some(Ok(rings)) => {
            let settled = HashSet::from([id.clone()]);
            stored(worker, &[(id, epoch, settlement)], &settled, rings).await;
        }
        // Nobody runs it now, which its worker's next look at the store finds out.
        Some(Err(_)) | None => forget(worker, vec![(id, epoch)]).await,
    }
}

/// An outcome that the store has.
fn count(worker: &Worker, id: &TaskId, epoch: Epoch, settlement: &Settlement) {
    let outcome = match settlement.state {
        Some(State::Done) => "succeeded",
        Some(State::Dead) => "dead",
        Some(State::Canceled) => "canceled",
        Some(State::Waiting) if settlement.failed => "retried",
        Some(State::Waiting) => "later",
        Some(State::Queued) => "handed_off",
        Some(State::Parked | State::Blocked | State::Running | State::Expired) | None => "other",
    };
    if outcome == "handed_off" {
        let reason = if worker.quiet.is_cancelled() {
            "drain"
        } else if worker.resting.borrow().is_some() {
            "quiet"
        } else {
            "overrun"
        };
        metrics::counter!("longshore_handoffs_total", "reason" => reason).increment(1);
        worker.handed_off.fetch_add(1, Ordering::Relaxed);
    }
    let watched = worker.setup.health.is_watched();
    if !watched && !worker.tools.want_tasks() {
        return;
    }
    let found = worker.attempts(|attempts| {
        let attempt = attempts.get(&(id.clone(), epoch))?;
        Some((Arc::clone(&attempt.task), attempt.begun.elapsed()))
    });
    let Some((task, runtime)) = found else {
        return;
    };
    if watched {
        let (name, queue) = (task.name.clone(), task.queue.clone());
        metrics::counter!("longshore_tasks_total", "name" => name, "queue" => queue, "outcome" => outcome)
            .increment(1);
    }
    if let Some(what) = what(settlement, runtime) {
        worker.tell(id, || what);
    }
}

/// What Celery's tools are told of an outcome.
fn what(settlement: &Settlement, runtime: Duration) -> Option<What> {
    let reason = settlement.reason.clone().unwrap_or_default();
    match settlement.state? {
        State::Done => Some(What::succeeded(settlement.result.as_ref(), runtime)),
        State::Dead => Some(What::Failed { reason }),
        State::Canceled => Some(What::Revoked {
            terminated: true,
            expired: false,
        }),
        State::Waiting => Some(What::Retried { reason }),
        State::Queued => Some(What::Rejected),
        State::Parked | State::Blocked | State::Running | State::Expired => None,
    }
}

fn lost() {
    metrics::counter!("longshore_lease_losses_total").increment(1);
}

/// Attempts that are over: their deliveries can go.
async fn forget(worker: &Worker, keys: Vec<(TaskId, Epoch)>) {
    let receipts = worker.attempts(|attempts| {
        keys.iter()
            .filter_map(|key| attempts.remove(key)?.receipt)
            .collect::<Vec<_>>()
    });
    worker.changed.notify_waiters();
    worker.broker.ack(receipts).await;
}

/// Runs a verb again while the store is away. `None`: the worker ends before it came back.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    worker: &Worker,
    verb: impl Fn() -> F,
) -> Option<Result<T, StoreError>> {
    loop {
        match verb().await {
            Err(error) if error.is_temporary() => {
                tracing::warn!(%error, "the store is away; outcomes wait");
            }
            answer => return Some(answer),
        }
        tokio::select! {
            () = worker.give_up.cancelled() => return None,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
