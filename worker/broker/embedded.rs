//! The embedded broker: rows of the SQLite store, for several processes on one machine.
//!
//! A consumer is a worker, and dead when its lock file is free: then any other consumer gives back what
//! it held. Nothing is written while nothing happens: a look is a read of the file's change counter.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{BrokerError, Delivery, Outgoing};
use crate::codec::Message;
use crate::id::WorkerId;
use crate::store::{Store, StoreError, Taken, Watch};

/// How often dead consumers are looked for: the longest a killed worker's messages lie idle.
const DEATH_WATCH: Duration = Duration::from_millis(100);
/// After an error of the store.
const BACK_OFF: Duration = Duration::from_millis(250);

/// The embedded broker as one worker uses it.
#[derive(Debug)]
pub struct Embedded {
    store: Store,
    consumer: WorkerId,
    published: Arc<Notify>,
    tasks: TaskTracker,
}

/// The right to acknowledge one message, and one place in the prefetch window.
#[derive(Debug)]
pub struct Receipt {
    seq: i64,
    _place: OwnedSemaphorePermit,
}

/// A message as its row's text: the native envelope is bytes, and a row is text.
#[derive(Serialize, Deserialize)]
struct Content {
    content_type: Option<String>,
    content_encoding: Option<String>,
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    headers: Map<String, Value>,
    correlation_id: Option<String>,
    reply_to: Option<String>,
    #[serde(default)]
    priority: Option<u8>,
    body: String,
}

impl Embedded {
    /// The broker in `store`, used by the worker `consumer`.
    pub fn new(store: Store, consumer: WorkerId) -> Self {
        Self {
            store,
            consumer,
            published: Arc::default(),
            tasks: TaskTracker::new(),
        }
    }

    pub(super) async fn publish(&self, messages: &[Outgoing]) -> Vec<Result<(), BrokerError>> {
        let rows = messages.iter().map(row).collect::<Vec<_>>();
        let answer = self.store.put_messages(&rows).await.map_err(away);
        self.published.notify_waiters();
        vec![answer; messages.len()]
    }

    pub(super) fn consume(
        &self,
        queues: &[String],
        prefetch: u16,
        out: mpsc::Sender<Delivery>,
        quiet: CancellationToken,
    ) {
        let feed = Feed {
            store: self.store.clone(),
            consumer: self.consumer.clone(),
            published: Arc::clone(&self.published),
            queues: queues.to_vec(),
            places: Arc::new(Semaphore::new(usize::from(prefetch))),
            prefetch: usize::from(prefetch),
            out,
        };
        self.tasks.spawn(feed.run(quiet));
    }

    pub(super) async fn ack(&self, receipts: Vec<Receipt>) {
        if receipts.is_empty() {
            return;
        }
        let seqs = receipts
            .iter()
            .map(|receipt| receipt.seq)
            .collect::<Vec<_>>();
        if let Err(error) = self.store.drop_messages(&self.consumer, &seqs).await {
            tracing::warn!(%error, "messages could not be acknowledged; they will be delivered again and dropped");
        }
    }

    pub(super) async fn release(&self, receipts: Vec<Receipt>) {
        if receipts.is_empty() {
            return;
        }
        let seqs = receipts
            .iter()
            .map(|receipt| receipt.seq)
            .collect::<Vec<_>>();
        if let Err(error) = self.store.release_messages(&self.consumer, &seqs).await {
            tracing::warn!(%error, "messages could not be given back; they will be when this worker has ended");
        }
    }

    pub(super) async fn depth(&self, queue: &str) -> Result<u64, BrokerError> {
        let depth = self.store.queue_depth(queue).await.map_err(away)?;
        Ok(u64::try_from(depth).unwrap_or_default())
    }

    pub(super) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
    }
}

/// What a look for messages came to.
enum Look {
    /// They are handed on; there may be more.
    Found,
    /// There was none when this watch began.
    Nothing(Watch),
    /// Nobody wants more.
    Over,
}

/// One consumer's loop.
struct Feed {
    store: Store,
    consumer: WorkerId,
    published: Arc<Notify>,
    queues: Vec<String>,
    places: Arc<Semaphore>,
    prefetch: usize,
    out: mpsc::Sender<Delivery>,
}

impl Feed {
    async fn run(self, quiet: CancellationToken) {
        let mut looked = tokio::time::Instant::now();
        while !quiet.is_cancelled() && !self.out.is_closed() {
            if looked.elapsed() >= DEATH_WATCH {
                looked = tokio::time::Instant::now();
                if let Err(error) = self.store.release_dead_consumers(&self.consumer).await {
                    tracing::warn!(%error, "dead consumers could not be looked for");
                }
            }
            // Ours are heard of at once, and registered before the look, as those of others are in it.
            let published = self.published.notified();
            let found = match self.take(&quiet).await {
                Ok(Look::Found) => continue,
                Ok(Look::Nothing(watch)) => Ok(watch),
                Ok(Look::Over) => return,
                Err(error) => Err(error),
            };
            tokio::select! {
                () = quiet.cancelled() => {}
                () = published => {}
                () = nap(found) => {}
            }
        }
    }

    /// Takes as many messages as there are places and hands them on.
    async fn take(&self, quiet: &CancellationToken) -> Result<Look, StoreError> {
        let places = tokio::select! {
            () = quiet.cancelled() => return Ok(Look::Over),
            () = self.out.closed() => return Ok(Look::Over),
            place = Arc::clone(&self.places).acquire_owned() => place,
        };
        let Ok(first) = places else {
            return Ok(Look::Over);
        };
        let mut places = vec![first];
        while places.len() < self.prefetch
            && let Ok(place) = Arc::clone(&self.places).try_acquire_owned()
        {
            places.push(place);
        }
        let watch = self.store.watch().await?;
        if !self.store.has_messages(&self.queues).await? {
            return Ok(Look::Nothing(watch));
        }
        let taken = self
            .store
            .take_messages(&self.consumer, &self.queues, places.len())
            .await?;
        let look = if taken.is_empty() {
            Look::Nothing(watch)
        } else {
            Look::Found
        };
        for (message, place) in taken.into_iter().zip(places) {
            if self.out.send(delivery(message, place)).await.is_err() {
                break;
            }
        }
        Ok(look)
    }
}

/// Waits for a commit since the look that found nothing; after one that failed, for the back-off.
async fn nap(look: Result<Watch, StoreError>) {
    let changed = match look {
        Ok(watch) => watch.changed(DEATH_WATCH).await,
        Err(error) => Err(error),
    };
    if let Err(error) = changed {
        tracing::warn!(%error, "messages could not be looked for");
        tokio::time::sleep(BACK_OFF).await;
    }
}

fn away(error: StoreError) -> BrokerError {
    BrokerError::Away(error.to_string())
}

fn row(outgoing: &Outgoing) -> (String, u8, String) {
    let Message {
        content_type,
        content_encoding,
        headers,
        correlation_id,
        reply_to,
        priority,
        body,
    } = outgoing.message.clone();
    let content = Content {
        content_type,
        content_encoding,
        headers,
        correlation_id,
        reply_to,
        priority,
        body: STANDARD.encode(&body),
    };
    let content = serde_json::to_string(&content).unwrap_or_default();
    (
        outgoing.queue.clone(),
        priority.unwrap_or_default(),
        content,
    )
}

/// A row that cannot be read becomes a message that cannot be read, for the pool to set aside with its reason.
fn delivery(taken: Taken, place: OwnedSemaphorePermit) -> Delivery {
    let Taken {
        seq,
        queue,
        content,
        redelivered,
    } = taken;
    let message = match serde_json::from_str::<Content>(&content) {
        Ok(Content {
            content_type,
            content_encoding,
            headers,
            correlation_id,
            reply_to,
            priority,
            body,
        }) => Message {
            content_type,
            content_encoding,
            headers,
            correlation_id,
            reply_to,
            priority,
            body: STANDARD.decode(body).unwrap_or_default().into(),
        },
        Err(_) => Message {
            body: content.into(),
            ..Message::default()
        },
    };
    Delivery {
        queue,
        message,
        redelivered: redelivered != 0,
        received: tokio::time::Instant::now(),
        receipt: super::Receipt::Embedded(Receipt { seq, _place: place }),
    }
}
