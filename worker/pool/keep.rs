//! Staying alive in the store's eyes: the lease, the lock, and what both tell about our attempts.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use super::decide::Cut;
use crate::id::{Epoch, TaskId};
use crate::lifecycle::Life;
use crate::store::{Held, Settlement, State, StoreError};

/// How often the lock's connection is looked after: far more often than rescue believes in its loss.
const LOCK_LOOK: Duration = Duration::from_millis(300);

/// A task is orphaned after this long: claims and outcomes on their way take far less.
const ORPHANED: Duration = Duration::from_secs(5);
/// How often parked tasks are looked for: a worker that does not know a name may park it at any time.
const UNPARK: Duration = Duration::from_secs(15);

/// Renews the lease three times as often as it must, and compares what we run with what the store says.
pub(super) async fn lease(worker: Arc<Worker>) {
    let every = worker.setup.worker.lease / 3;
    let mut unparked = Instant::now();
    let mut orphans = HashMap::new();
    let mut next = Instant::now() + every.min(Duration::from_secs(1));
    loop {
        tokio::select! {
            () = worker.give_up.cancelled() => return,
            () = tokio::time::sleep_until(next) => {}
        }
        let wait = match renew(&worker, &mut orphans).await {
            Ok(()) => every,
            Err(error) => {
                tracing::warn!(%error, "the lease could not be renewed; attempts go on");
                every.min(Duration::from_secs(1))
            }
        };
        next = Instant::now() + wait.min(Duration::from_secs(1));
        release_held(&worker).await;
        if unparked.elapsed() >= UNPARK && worker.life() == Life::Running {
            unparked = Instant::now();
            unpark(&worker).await;
        }
    }
}

/// Tasks that a worker without our handlers has parked may run.
pub(super) async fn unpark(worker: &Worker) {
    match worker.store.unpark(&worker.live().registry.names()).await {
        Ok(rings) => worker.relay.publish(rings).await,
        Err(error) => tracing::debug!(%error, "parked tasks could not be looked for"),
    }
}

impl Worker {
    /// Its life as the store's list shows it.
    pub(super) fn life_told(&self) -> Life {
        match self.life() {
            Life::Starting | Life::Running => Life::Running,
            other @ (Life::Quiet | Life::Draining | Life::Stopped) => other,
        }
    }

    /// False: the worker was given up for dead.
    pub(super) async fn renew(&self) -> Result<bool, StoreError> {
        let (life, lease) = (self.life_told(), self.setup.worker.lease);
        let store = &self.store;
        store.renew(&self.member.id, life.as_str(), lease).await
    }
}

async fn renew(
    worker: &Worker,
    orphans: &mut HashMap<(TaskId, Epoch), Instant>,
) -> Result<(), StoreError> {
    worker.store.anchor_clock().await?;
    // Taken before the store is asked: what is claimed in between is missing from neither.
    let ours = worker.attempts(|attempts| attempts.keys().cloned().collect::<Vec<_>>());
    if !worker.renew().await? {
        worker.join_again().await?;
    }
    let held = worker.store.held(&worker.member.id).await?;
    for key in ours {
        let cut = match held
            .iter()
            .find(|held| held.id == key.0 && held.epoch == key.1)
        {
            None => Cut::Lost,
            Some(Held { cancel: 1, .. }) => Cut::Canceled,
            Some(_) => continue,
        };
        worker.attempts(|attempts| {
            if let Some(attempt) = attempts.get(&key) {
                attempt.cut(cut);
            }
        });
    }
    give_up_orphans(worker, held, orphans).await
}

/// Tasks that the store says we run and that we do not: a claim whose answer was lost, an outcome that was
/// refused. What is so for [`ORPHANED`] is no claim or settlement under way, and runs again.
async fn give_up_orphans(
    worker: &Worker,
    held: Vec<Held>,
    orphans: &mut HashMap<(TaskId, Epoch), Instant>,
) -> Result<(), StoreError> {
    let missing = worker.attempts(|attempts| {
        held.into_iter()
            .map(|held| (held.id, held.epoch))
            .filter(|key| !attempts.contains_key(key))
            .collect::<Vec<_>>()
    });
    orphans.retain(|key, _| missing.contains(key));
    for key in missing {
        orphans.entry(key).or_insert_with(Instant::now);
    }
    let lost = orphans
        .iter()
        .filter(|(_, since)| since.elapsed() >= ORPHANED)
        .map(|(key, _)| key.clone())
        .collect::<Vec<_>>();
    if lost.is_empty() {
        return Ok(());
    }
    tracing::warn!(
        tasks = lost.len(),
        "tasks that this worker holds and does not run are given back"
    );
    let again = Settlement {
        state: Some(State::Queued),
        interrupted: true,
        ..Settlement::default()
    };
    let items = lost
        .into_iter()
        .map(|(id, epoch)| (id, epoch, again.clone()))
        .collect::<Vec<_>>();
    let (_, rings) = worker.store.settle(&items).await?;
    worker.relay.publish(rings).await;
    Ok(())
}

/// Acknowledges deliveries held for long: from then on the lease alone keeps their tasks.
async fn release_held(worker: &Worker) {
    let hold = worker.setup.worker.hold;
    let receipts = worker.attempts(|attempts| {
        attempts
            .values_mut()
            .filter(|attempt| attempt.received.elapsed() >= hold)
            .filter_map(|attempt| attempt.receipt.take())
            .collect::<Vec<_>>()
    });
    if !receipts.is_empty() {
        tracing::debug!(
            deliveries = receipts.len(),
            "acknowledged deliveries of long attempts; their leases keep them"
        );
        worker.broker.ack(receipts).await;
    }
}

/// Takes the liveness lock again as soon as its connection has ended.
pub(super) async fn lock(worker: Arc<Worker>) {
    loop {
        tokio::select! {
            () = worker.give_up.cancelled() => return,
            () = tokio::time::sleep(LOCK_LOOK) => {}
        }
        if let Err(error) = worker.store.hold(&worker.member).await {
            tracing::debug!(%error, "the liveness lock could not be taken; it is tried again");
        }
    }
}
