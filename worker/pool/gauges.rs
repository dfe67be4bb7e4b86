//! Metrics that are a state, not an event: looked at now and then, and only if somebody reads them.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::Worker;
use crate::follow;

/// How often what this process knows is looked at.
const LOOK: Duration = Duration::from_secs(1);
/// How often broker and store are asked.
const ASK: Duration = Duration::from_secs(15);

pub(super) async fn run(worker: Arc<Worker>) {
    if !worker.setup.health.is_watched() {
        return;
    }
    let mut names = BTreeMap::new();
    let mut asked: Option<Instant> = None;
    loop {
        look(&worker, &mut names);
        if asked.is_none_or(|asked| asked.elapsed() >= ASK) {
            asked = Some(Instant::now());
            ask(&worker).await;
        }
        tokio::select! {
            () = worker.give_up.cancelled() => return,
            () = tokio::time::sleep(LOOK) => {}
        }
    }
}

/// `names`: every name that ran here, so that its gauge goes back to 0.
fn look(worker: &Worker, names: &mut BTreeMap<String, u32>) {
    names.values_mut().for_each(|count| *count = 0);
    let unsaved = worker.attempts(|attempts| {
        for attempt in attempts.values() {
            *names.entry(attempt.task.name.clone()).or_default() += 1;
        }
        attempts
            .values()
            .map(|attempt| attempt.pulse.unsaved_for())
            .max()
    });
    for (name, count) in names {
        metrics::gauge!("longshore_attempts_running", "name" => name.clone()).set(*count);
    }
    metrics::gauge!("longshore_checkpoint_age_seconds").set(unsaved.unwrap_or_default());
    let flag = |flag| if flag { 1.0 } else { 0.0 };
    let health = &worker.setup.health;
    metrics::gauge!("longshore_quiet").set(flag(health.is_resting() || health.is_draining()));
    metrics::gauge!("longshore_draining").set(flag(health.is_draining()));
    let lasted = worker.drain_begun.get().map(Instant::elapsed);
    metrics::gauge!("longshore_drain_seconds").set(lasted.unwrap_or_default());
    let deadline = worker.deadline.borrow().map_or(0.0, |deadline| {
        let left = deadline.saturating_duration_since(Instant::now());
        worker.store.clock().now() as f64 / 1000.0 + left.as_secs_f64()
    });
    metrics::gauge!("longshore_drain_deadline_timestamp_seconds").set(deadline);
}

/// What cannot be found out keeps its last value: the broker's and the store's absence shows elsewhere.
async fn ask(worker: &Worker) {
    for queue in &worker.setup.pool.queues {
        match worker.broker.depth(queue).await {
            Ok(depth) => {
                let pool = worker.setup.name.clone();
                metrics::gauge!("longshore_queue_depth", "pool" => pool, "queue" => queue.clone())
                    .set(depth as f64);
            }
            Err(error) => tracing::debug!(%error, queue, "the queue's depth could not be asked"),
        }
    }
    match worker.store.outbox_lag().await {
        Ok(lag) => metrics::gauge!("longshore_outbox_lag_seconds").set(lag),
        Err(error) => tracing::debug!(%error, "the outbox could not be looked at"),
    }
    if let Some(following) = &worker.setup.following {
        let place = following.lock().await.place();
        if let Err(error) = follow::gauges(&worker.store, &place).await {
            tracing::debug!(%error, "the bundle's workers could not be looked at");
        }
    }
    match worker.store.halted_lanes().await {
        Ok(lanes) => metrics::gauge!("longshore_lanes_halted").set(lanes),
        Err(error) => tracing::debug!(%error, "lanes could not be looked at"),
    }
}
