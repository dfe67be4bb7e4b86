//! The outbox relay of one process: publishes what its commits announced, and says so to the store.
//!
//! It never decides what is published. What it cannot publish stays in the outbox for the maintenance leader.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_util::task::TaskTracker;

use crate::broker::{Broker, Outgoing};
use crate::codec;
use crate::crash;
use crate::store::{Ring, Store};
use crate::task::Wire;

/// Messages on their way at once; commits wait beyond that, so that a broker that is slow slows them.
const BACKLOG: usize = 4096;
/// Messages published before the store is told.
const BATCH: usize = 256;
/// When to try again what could not be published.
const RETRY: Duration = Duration::from_secs(1);

/// The way to the relay; clones share it.
#[derive(Debug, Clone)]
pub struct Relay(mpsc::Sender<Order>);

#[derive(Debug)]
enum Order {
    Ring(Box<Ring>),
    Flush(oneshot::Sender<()>),
}

impl Relay {
    /// Starts the relay on `tasks`; it ends with its last handle.
    pub fn start(store: Store, broker: Broker, tasks: &TaskTracker) -> Self {
        let (sender, orders) = mpsc::channel(BACKLOG);
        tasks.spawn(run(store, broker, orders));
        Self(sender)
    }

    /// Publishes these, after those given before.
    pub async fn publish(&self, rings: Vec<Ring>) {
        for ring in rings {
            if self.0.send(Order::Ring(Box::new(ring))).await.is_err() {
                tracing::debug!("the relay has ended; the outbox keeps the message");
            }
        }
    }

    /// Waits until all given so far are published, or have failed.
    pub async fn flush(&self) {
        let (done, wait) = oneshot::channel();
        if self.0.send(Order::Flush(done)).await.is_ok() {
            // An error means that the relay has ended, which is as good as flushed.
            let _ended = wait.await;
        }
    }
}

async fn run(store: Store, broker: Broker, mut orders: mpsc::Receiver<Order>) {
    let mut batch = Vec::with_capacity(BATCH);
    while orders.recv_many(&mut batch, BATCH).await > 0 {
        let (mut rings, mut waiting) = (Vec::new(), Vec::new());
        for order in batch.drain(..) {
            match order {
                Order::Ring(ring) => rings.push(*ring),
                Order::Flush(done) => waiting.push(done),
            }
        }
        publish(&store, &broker, &rings).await;
        for done in waiting {
            // Whoever asked may have stopped waiting.
            let _gone = done.send(());
        }
    }
}

/// Publishes messages of the outbox and marks those that the broker has safe. Returns how many.
pub async fn publish(store: &Store, broker: &Broker, rings: &[Ring]) -> usize {
    if rings.is_empty() {
        return 0;
    }
    let messages = rings
        .iter()
        .map(|ring| Outgoing {
            queue: ring.task.queue.clone(),
            message: codec::encode(&ring.task),
            optional: ring.task.wire == Wire::Reply,
        })
        .collect::<Vec<_>>();
    crash::point("outbox:before-publish");
    let answers = broker.publish(&messages).await;
    crash::point("outbox:published");
    let (mut done, mut failed, mut reason) = (Vec::new(), Vec::new(), None);
    for (ring, answer) in rings.iter().zip(answers) {
        match answer {
            Ok(()) => done.push(ring.seq),
            Err(error) => {
                failed.push(ring.seq);
                reason = Some(error);
            }
        }
    }
    if let Some(error) = reason {
        tracing::warn!(%error, messages = failed.len(), "messages could not be published; the outbox keeps them");
        let delay = i64::try_from(RETRY.as_millis()).unwrap_or(1000);
        if let Err(error) = store.outbox_release(&failed, delay).await {
            tracing::warn!(%error, "the outbox could not be told; its messages are free again in some seconds");
        }
    }
    if !done.is_empty()
        && let Err(error) = store.outbox_done(&done).await
    {
        tracing::warn!(%error, "published messages could not be marked; they will come twice, and be dropped once");
    }
    done.len()
}
