//! Outcomes become rows: all that are ready share one commit, then their deliveries are acknowledged.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;

use super::Worker;
use super::attempt::Finished;
use super::decide::{self, Verdict};
use crate::config::PoolKind;
use crate::crash;
use crate::id::{Epoch, TaskId};
use crate::store::{Ring, Settlement, StoreError};

/// Outcomes that share a commit, and the most that wait for one.
pub(super) const BATCH: usize = 256;
/// Between two tries while the store is away.
const PAUSE: Duration = Duration::from_millis(250);

type Item = (TaskId, Epoch, Settlement);

/// Settles until the worker gives up and nothing waits.
pub(super) async fn run(worker: Arc<Worker>, mut outcomes: mpsc::Receiver<Finished>) {
    let mut batch = Vec::with_capacity(BATCH);
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
        for finished in batch.drain(..) {
            let id = finished.task.id.clone();
            match judge(&worker, finished) {
                None => over.push(id),
                Some((item, Verdict { with, follow, .. }))
                    if with.is_empty() && follow.is_empty() =>
                {
                    plain.push(item)
                }
                Some((item, verdict)) => {
                    let worker = Arc::clone(&worker);
                    worker
                        .tasks
                        .clone()
                        .spawn(async move { publish(&worker, item, verdict).await });
                }
            }
        }
        forget(&worker, over).await;
        if !plain.is_empty() {
            settle(&worker, plain).await;
        }
    }
}

fn judge(worker: &Worker, finished: Finished) -> Option<(Item, Verdict)> {
    let Finished {
        task,
        claimed,
        ended,
        overran,
    } = finished;
    let elsewhere = match &worker.setup.pool.kind {
        PoolKind::Elastic { overrun_queue, .. } if overran => overrun_queue.as_deref(),
        PoolKind::Elastic { .. } | PoolKind::Pinned => None,
    };
    let policy = worker.setup.policies.get(&task.name);
    let verdict = decide::verdict(ended, &task, &claimed, policy, random(), elsewhere);
    let Some(verdict) = verdict else {
        tracing::warn!(task.id = %task.id, task.name, epoch = %claimed.epoch, "attempt dropped: its lease is lost");
        return None;
    };
    let state = verdict
        .settlement
        .state
        .map_or("done", crate::store::State::as_str);
    match &verdict.settlement.reason {
        Some(reason) => {
            tracing::info!(task.id = %task.id, task.name, epoch = %claimed.epoch, state, reason, "attempt ended")
        }
        None => {
            tracing::debug!(task.id = %task.id, task.name, epoch = %claimed.epoch, state, "attempt ended")
        }
    }
    Some((
        (task.id.clone(), claimed.epoch, verdict.settlement.clone()),
        verdict,
    ))
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
async fn settle(worker: &Worker, items: Vec<Item>) {
    crash::point("settle:ready");
    let answer = patiently(worker, || worker.store.settle(&items)).await;
    let ids = items
        .iter()
        .map(|(id, _, _)| id.clone())
        .collect::<Vec<_>>();
    match answer {
        Some(Ok((settled, rings))) => {
            for (id, epoch, _) in items.iter().filter(|(id, _, _)| !settled.contains(id)) {
                tracing::warn!(task.id = %id, epoch = %epoch, "outcome refused: the lease is lost");
            }
            crash::point("settle:stored");
            worker.relay.publish(rings).await;
            forget(worker, ids).await;
            crash::point("settle:acknowledged");
        }
        Some(Err(error)) => {
            tracing::error!(%error, tasks = ids.len(), "outcomes were refused by the store; rescue runs the tasks again");
            worker.attempts(|attempts| ids.iter().for_each(|id| drop(attempts.remove(id))));
        }
        None => tracing::warn!(
            tasks = ids.len(),
            "outcomes could not be written; rescue runs the tasks again"
        ),
    }
}

/// Writes one outcome with what belongs to it.
async fn publish(worker: &Worker, item: Item, verdict: Verdict) {
    let (id, epoch, settlement) = item;
    let Verdict { with, follow, .. } = verdict;
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
            published(worker, id, rings).await;
        }
        Some(Err(StoreError::Stale { command: "settle" })) => {
            tracing::warn!(task.id = %id, epoch = %epoch, "outcome refused: the lease is lost");
            forget(worker, vec![id]).await;
        }
        // What the handler wanted written does not hold (any more): that is a failure, and its task's policy decides.
        Some(Err(error)) => {
            let failed = Settlement {
                state: Some(crate::store::State::Waiting),
                delay: 1000,
                failed: true,
                reason: Some(format!("its result could not be published: {error}")),
                ..Settlement::default()
            };
            settle(worker, vec![(id, epoch, failed)]).await;
        }
        None => {
            tracing::warn!(task.id = %id, "an outcome could not be written; rescue runs the task again")
        }
    }
}

async fn published(worker: &Worker, id: TaskId, rings: Vec<Ring>) {
    worker.relay.publish(rings).await;
    forget(worker, vec![id]).await;
    crash::point("publish:acknowledged");
}

/// Attempts that are over: their deliveries can go.
async fn forget(worker: &Worker, ids: Vec<TaskId>) {
    let receipts = worker.attempts(|attempts| {
        ids.iter()
            .filter_map(|id| attempts.remove(id)?.receipt)
            .collect::<Vec<_>>()
    });
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
