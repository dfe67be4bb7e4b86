//! The broker: the doorbell that says a task may run. RabbitMQ, or embedded in the SQLite store.
//!
//! A broker never knows whether a task has run (the store does). A delivery stays the broker's until it is
//! acknowledged; when its worker dies it is delivered again. Acknowledging is always safe to lose: a
//! message that comes again is dropped by the claim.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::codec::Message;

pub mod embedded;
pub mod rabbitmq;

pub use embedded::Embedded;
pub use rabbitmq::{QueueKind, Rabbit, RabbitConfig};

/// A message on its way to a queue.
#[derive(Debug, Clone)]
pub struct Outgoing {
    /// Where to.
    pub queue: String,
    /// What.
    pub message: Message,
    /// Whether it is dropped, and counts as published, where there is no such queue; else the queue is declared.
    pub optional: bool,
}

/// A message that a consumer holds. Not acknowledged, it is delivered again once its consumer is gone.
#[derive(Debug)]
#[must_use = "a delivery that is dropped stays unacknowledged until its consumer ends"]
pub struct Delivery {
    /// Where it was.
    pub queue: String,
    /// What it says.
    pub message: Message,
    /// Whether somebody may have seen it before.
    pub redelivered: bool,
    /// When it came.
    pub received: Instant,
    /// What to acknowledge it with.
    pub receipt: Receipt,
}

/// The right to acknowledge one delivery.
#[derive(Debug)]
pub enum Receipt {
    /// Of the embedded broker.
    Embedded(embedded::Receipt),
    /// Of RabbitMQ.
    Rabbit(rabbitmq::Receipt),
}

/// What the name of a queue ends with that holds messages of another which cannot be read.
const UNREADABLE: &str = ".unreadable";

/// Where messages of `queue` go that cannot be read.
pub fn unreadable_queue(queue: &str) -> String {
    format!("{queue}{UNREADABLE}")
}

fn is_unreadable_queue(queue: &str) -> bool {
    queue.ends_with(UNREADABLE)
}

/// Why the broker did not do it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum BrokerError {
    /// It cannot be reached, does not answer, or blocks publishers: try again.
    #[error("reach the broker: {0}")]
    Away(String),
    /// It refuses, and would again: a wrong password, a queue declared otherwise.
    #[error("have the broker accept it: {0}")]
    Refused(String),
}

/// Deliveries of one pool's queues. Ends (yields `None`) after [`Consumer::quiet`], when nothing more can come.
#[derive(Debug)]
pub struct Consumer {
    /// The deliveries.
    pub deliveries: mpsc::Receiver<Delivery>,
    quiet: CancellationToken,
    attached: Attached,
}

/// Whether a consumer has its queues right now. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Attached(Arc<AtomicBool>);

impl Attached {
    /// Whether it has.
    pub fn get(&self) -> bool {
        self.0.load(Ordering::Relaxed)
    }

    fn set(&self, attached: bool) {
        self.0.store(attached, Ordering::Relaxed);
    }
}

impl Consumer {
    /// Whether it has its queues: false while the broker is away.
    pub fn attached(&self) -> Attached {
        self.attached.clone()
    }

    /// Takes nothing new. What is delivered already still comes.
    pub fn quiet(&self) {
        self.quiet.cancel();
    }
}

/// An exchange as those declare it who use it.
#[derive(Debug, Clone, Copy)]
pub struct Exchange {
    /// Its name.
    pub name: &'static str,
    /// What it does with messages.
    pub kind: ExchangeKind,
    /// Whether it outlives the broker's process.
    pub durable: bool,
}

/// What an exchange does with messages.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ExchangeKind {
    /// To all.
    Fanout,
    /// By patterns of the routing key.
    Topic,
}

/// A queue that is one process's alone, and goes with its connection.
#[derive(Debug, Clone)]
pub struct Mailbox {
    /// Its name.
    pub queue: String,
    /// Whose messages it gets.
    pub exchange: Exchange,
    /// Exchanges that are to be there, too.
    pub others: Vec<Exchange>,
    /// After so long without a consumer it goes.
    pub expires: Duration,
    /// After so long a message in it goes.
    pub message_ttl: Duration,
}

/// A message for an exchange. Nobody keeps it: it is lost where nobody listens.
#[derive(Debug, Clone)]
pub struct Posted {
    /// Where to.
    pub exchange: String,
    /// To whom there.
    pub routing_key: String,
    /// What.
    pub message: Message,
}

/// A connection beside the work: see [`Broker::aside`].
#[derive(Debug)]
pub struct Aside {
    /// What comes to the mailbox.
    pub requests: mpsc::Receiver<Message>,
    /// What goes out. What does not fit waits for nothing: it is dropped by whoever sends it.
    pub posts: mpsc::Sender<Posted>,
    /// What goes out when there is nothing else: whoever has much of it waits here, and brings more at a time.
    pub bulk: mpsc::Sender<Posted>,
    /// Whether there is a connection.
    pub attached: watch::Receiver<bool>,
    quiet: DropGuard,
    ended: JoinHandle<()>,
}

impl Aside {
    /// Messages that wait in either direction: enough for a second of a few tools, and a bound on what an absent broker
    /// keeps in memory.
    const MOST: usize = 64;

    /// Ends it when what waits has gone out, or cannot.
    pub async fn close(self) {
        let Self { quiet, ended, .. } = self;
        drop(quiet);
        // It has ended either way.
        let _ended = ended.await;
    }
}

/// A handle on the broker; clones share it.
#[derive(Debug, Clone)]
pub enum Broker {
    /// In the SQLite store.
    Embedded(Arc<Embedded>),
    /// RabbitMQ.
    Rabbit(Arc<Rabbit>),
}

/// How long one call may take before the broker counts as away.
pub(crate) const CALL_TIMEOUT: Duration = Duration::from_secs(10);

impl Broker {
    /// Publishes messages and waits until the broker has them safe; each is answered for itself.
    pub async fn publish(&self, messages: &[Outgoing]) -> Vec<Result<(), BrokerError>> {
        match self {
            Self::Embedded(broker) => broker.publish(messages).await,
            Self::Rabbit(broker) => broker.publish(messages).await,
        }
    }

    /// Consumes `queues`, with at most `prefetch` deliveries of each held at once. Survives whatever happens to the
    /// connection, until it is made quiet.
    pub fn consume(&self, queues: &[String], prefetch: u16) -> Consumer {
        let (sender, deliveries) = mpsc::channel(usize::from(prefetch).max(1));
        let (quiet, attached) = (CancellationToken::new(), Attached::default());
        match self {
            // Its store is its broker: there is nothing to attach to.
            Self::Embedded(broker) => {
                attached.set(true);
                broker.consume(queues, prefetch, sender, quiet.clone());
            }
            Self::Rabbit(broker) => {
                broker.consume(queues, prefetch, sender, quiet.clone(), attached.clone());
            }
        }
        Consumer {
            deliveries,
            quiet,
            attached,
        }
    }

    /// Acknowledges deliveries. One whose connection has ended is delivered again, and dropped then.
    pub async fn ack(&self, receipts: Vec<Receipt>) {
        let (mut embedded, mut rabbit) = (Vec::new(), Vec::new());
        for receipt in receipts {
            match receipt {
                Receipt::Embedded(receipt) => embedded.push(receipt),
                Receipt::Rabbit(receipt) => rabbit.push(receipt),
            }
        }
        if let Self::Embedded(broker) = self {
            broker.ack(embedded).await;
        }
        rabbitmq::ack(rabbit).await;
    }

    /// Gives deliveries back, when the store cannot take them: the last resort.
    pub async fn release(&self, receipts: Vec<Receipt>) {
        let (mut embedded, mut rabbit) = (Vec::new(), Vec::new());
        for receipt in receipts {
            match receipt {
                Receipt::Embedded(receipt) => embedded.push(receipt),
                Receipt::Rabbit(receipt) => rabbit.push(receipt),
            }
        }
        if let Self::Embedded(broker) = self {
            broker.release(embedded).await;
        }
        rabbitmq::release(rabbit).await;
    }

    /// Makes sure that the queues are there.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] if the broker is away or refuses.
    pub async fn declare(&self, queues: &[String]) -> Result<(), BrokerError> {
        match self {
            Self::Embedded(_) => Ok(()),
            Self::Rabbit(broker) => broker.declare(queues).await,
        }
    }

    /// How many messages wait on a queue, and how many consumers it has (the embedded broker counts none).
    ///
    /// # Errors
    ///
    /// [`BrokerError`] if the broker is away or knows no such queue.
    pub async fn standing(&self, queue: &str) -> Result<(u64, u64), BrokerError> {
        match self {
            Self::Embedded(broker) => Ok((broker.depth(queue).await?, 0)),
            Self::Rabbit(broker) => broker.standing(queue).await,
        }
    }

    /// How many messages wait on a queue.
    ///
    /// # Errors
    ///
    /// [`BrokerError`] if the broker is away or knows no such queue.
    pub async fn depth(&self, queue: &str) -> Result<u64, BrokerError> {
        match self {
            Self::Embedded(broker) => broker.depth(queue).await,
            Self::Rabbit(broker) => Ok(broker.standing(queue).await?.0),
        }
    }

    /// A connection beside the work, with a mailbox; made anew by itself whenever it ends. `None`: the embedded broker
    /// has no exchanges.
    pub fn aside(&self, mailbox: Mailbox) -> Option<Aside> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbit(broker) => Some(broker.aside(mailbox)),
        }
    }

    /// Where it is, as host, port and vhost; `None` for the embedded one.
    pub fn place(&self) -> Option<(String, u16, String)> {
        match self {
            Self::Embedded(_) => None,
            Self::Rabbit(broker) => broker.place(),
        }
    }

    /// Ends every connection, after what is under way.
    pub async fn close(&self) {
        match self {
            Self::Embedded(broker) => broker.close().await,
            Self::Rabbit(broker) => broker.close().await,
        }
    }
}
