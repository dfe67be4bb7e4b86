//! RabbitMQ over AMQP 0.9.1 by lapin: two connections, so that a broker that blocks publishers still
//! takes acknowledgements, and recovery by us: a connection that ends is made anew, and with it everything
//! on it. An attempt never notices: its lease, not its delivery, keeps the task.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex as StdMutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use futures::future::join_all;
use futures::stream::SelectAll;
use lapin::options::{
    BasicAckOptions, BasicCancelOptions, BasicConsumeOptions, BasicNackOptions,
    BasicPublishOptions, BasicQosOptions, ConfirmSelectOptions, QueueDeclareOptions,
};
use lapin::types::{FieldTable, ShortString};
use lapin::uri::AMQPUri;
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Aside, Attached, BrokerError, CALL_TIMEOUT, Delivery, Mailbox, Outgoing};
use crate::codec::Message;

mod aside;
mod open;
mod queue;
mod table;

use open::{Open, Tag};
use queue::{declare, queue_name};

/// How long to wait before connecting again, at first and at most.
const BACK_OFF: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// How queues are declared that are not there yet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum QueueKind {
    /// Replicated and durable: the default.
    Quorum,
    /// Classic and durable.
    Classic,
    /// Never declared: a queue that is missing is an error.
    Passive,
}

/// Where RabbitMQ is, and how to use it.
#[derive(Debug, Clone)]
pub struct RabbitConfig {
    /// `amqp://user:password@host:5672/vhost`. Never logged.
    pub url: String,
    /// For queues that are missing.
    pub queue_kind: QueueKind,
    /// Shown in RabbitMQ's list of connections.
    pub name: String,
    /// After two of these without a sign of life the broker gives a worker's messages to others: half a lease is a
    /// good value. RabbitMQ's own default is 60 s.
    pub heartbeat: Duration,
}

/// RabbitMQ as one worker uses it.
#[derive(Debug)]
pub struct Rabbit {
    config: RabbitConfig,
    publisher: Mutex<Option<Publisher>>,
    tasks: TaskTracker,
}

#[derive(Debug)]
struct Publisher {
    connection: Connection,
    channel: Channel,
    declared: HashSet<String>,
}

/// One channel's deliveries. Delivery tags mean something on it only.
#[derive(Debug)]
struct Link {
    channel: Channel,
    /// Tags to acknowledge go to the one task that does so: two that send at once could acknowledge a tag twice,
    /// and RabbitMQ closes the channel over that.
    acks: mpsc::UnboundedSender<(Vec<u64>, oneshot::Sender<()>)>,
    open: Arc<StdMutex<Open>>,
    // The connection ends with its last channel's last receipt.
    connection: Arc<Connection>,
}

impl Link {
    fn new(connection: Arc<Connection>, channel: Channel, tasks: &TaskTracker) -> Self {
        // As many as there are deliveries, which the prefetch bounds.
        let (acks, orders) = mpsc::unbounded_channel();
        let open = Arc::default();
        tasks.spawn(acknowledge(channel.clone(), Arc::clone(&open), orders));
        Self {
            channel,
            acks,
            open,
            connection,
        }
    }
}

/// The right to acknowledge one delivery on its channel.
#[derive(Debug)]
pub struct Receipt {
    link: Arc<Link>,
    tag: u64,
}

fn away(error: impl std::fmt::Display) -> BrokerError {
    BrokerError::Away(error.to_string())
}

/// `future`, or the broker counts as away.
async fn limited<T, E: std::fmt::Display>(
    future: impl Future<Output = Result<T, E>>,
) -> Result<T, BrokerError> {
    match tokio::time::timeout(CALL_TIMEOUT, future).await {
        Ok(answer) => answer.map_err(away),
        Err(_) => Err(silent()),
    }
}

fn silent() -> BrokerError {
    BrokerError::Away(format!("no answer within {} s", CALL_TIMEOUT.as_secs()))
}

/// Waits until the broker has a message safe.
async fn confirmed<C>(sent: Result<C, BrokerError>) -> Result<(), BrokerError>
where
    C: Future<Output = lapin::Result<Confirmation>>,
{
    let confirmation = limited(sent?).await?;
    if confirmation.is_nack() {
        return Err(BrokerError::Away(
            "the broker could not keep a message".into(),
        ));
    }
    match confirmation.take_message() {
        Some(returned) => Err(BrokerError::Away(format!(
            "a message came back: {}",
            returned.reply_text
        ))),
        None => Ok(()),
    }
}

impl Rabbit {
    /// A handle; connects when first used.
    pub fn new(config: RabbitConfig) -> Self {
        Self {
            config,
            publisher: Mutex::new(None),
            tasks: TaskTracker::new(),
        }
    }

    async fn connect(&self, role: &str) -> Result<Connection, BrokerError> {
        connect(&self.config, role).await
    }

    /// The publishing channel, and which of the queues cannot be had.
    async fn publisher(
        &self,
        queues: &HashSet<String>,
    ) -> Result<(Channel, HashMap<String, BrokerError>), BrokerError> {
        let mut slot = self.publisher.lock().await;
        if slot
            .as_ref()
            .is_some_and(|publisher| !publisher.channel.status().connected())
        {
            *slot = None;
        }
        let publisher = match &mut *slot {
            Some(publisher) => publisher,
            empty => {
                let connection = self.connect("publisher").await?;
                let channel = limited(connection.create_channel()).await?;
                limited(channel.confirm_select(ConfirmSelectOptions::default())).await?;
                empty.insert(Publisher {
                    connection,
                    channel,
                    declared: HashSet::new(),
                })
            }
        };
        let mut refused = HashMap::new();
        for queue in queues {
            if publisher.declared.contains(queue) {
                continue;
            }
            match declare(&publisher.connection, queue, self.config.queue_kind).await {
                Ok(()) => {
                    publisher.declared.insert(queue.clone());
                }
                Err(error) => {
                    refused.insert(queue.clone(), error);
                }
            }
        }
        Ok((publisher.channel.clone(), refused))
    }

    async fn drop_publisher(&self) {
        self.publisher.lock().await.take();
    }

    pub(super) async fn publish(&self, messages: &[Outgoing]) -> Vec<Result<(), BrokerError>> {
        let queues = messages
            .iter()
            .filter(|message| !message.optional)
            .map(|message| message.queue.clone())
            .collect();
        let (channel, refused) = match self.publisher(&queues).await {
            Ok(made) => made,
            Err(error) => return vec![Err(error); messages.len()],
        };
        let mut confirms = Vec::with_capacity(messages.len());
        for message in messages {
            // One queue that cannot be had is no matter of the others.
            if let Some(error) = refused.get(&message.queue) {
                confirms.push(Err(error.clone()));
                continue;
            }
            let options = BasicPublishOptions {
                mandatory: !message.optional,
                ..BasicPublishOptions::default()
            };
            let queue = match queue_name(&message.queue) {
                Ok(queue) => queue,
                Err(error) => {
                    confirms.push(Err(error));
                    continue;
                }
            };
            let body = &message.message.body;
            let sent = channel.basic_publish(
                "".into(),
                queue,
                options,
                body,
                properties(&message.message),
            );
            confirms.push(limited(sent).await);
        }
        let answers = join_all(confirms.into_iter().map(confirmed)).await;
        if answers
            .iter()
            .any(|answer| matches!(answer, Err(BrokerError::Away(_))))
        {
            self.drop_publisher().await;
        }
        answers
    }

    pub(super) async fn declare(&self, queues: &[String]) -> Result<(), BrokerError> {
        let (_, refused) = self.publisher(&queues.iter().cloned().collect()).await?;
        refused.into_values().next().map_or(Ok(()), Err)
    }

    pub(super) async fn standing(&self, queue: &str) -> Result<(u64, u64), BrokerError> {
        let channel = {
            let _made = self.publisher(&HashSet::new()).await?;
            let slot = self.publisher.lock().await;
            let Some(publisher) = slot.as_ref() else {
                return Err(BrokerError::Away("the connection has just ended".into()));
            };
            limited(publisher.connection.create_channel()).await?
        };
        let options = QueueDeclareOptions {
            passive: true,
            ..QueueDeclareOptions::default()
        };
        let found =
            limited(channel.queue_declare(queue_name(queue)?, options, FieldTable::default()))
                .await?;
        let standing = (
            u64::from(found.message_count()),
            u64::from(found.consumer_count()),
        );
        let _ended = limited(channel.close(200, "done".into())).await;
        Ok(standing)
    }

    pub(super) fn consume(
        &self,
        queues: &[String],
        prefetch: u16,
        out: mpsc::Sender<Delivery>,
        quiet: CancellationToken,
        attached: Attached,
    ) {
        let feed = Feed {
            config: self.config.clone(),
            queues: queues.to_vec(),
            prefetch,
            out,
            tasks: self.tasks.clone(),
            attached,
        };
        self.tasks.spawn(feed.run(quiet));
    }

    pub(super) fn aside(&self, mailbox: Mailbox) -> Aside {
        let (incoming, requests) = mpsc::channel(Aside::MOST);
        let (posts, outgoing) = mpsc::channel(Aside::MOST);
        let (bulk, bulky) = mpsc::channel(1);
        let (attached, is_attached) = watch::channel(false);
        let quiet = CancellationToken::new();
        let link = aside::Link {
            config: self.config.clone(),
            mailbox,
            incoming,
            outgoing,
            bulky,
            attached,
            quiet: quiet.clone(),
        };
        Aside {
            requests,
            posts,
            bulk,
            attached: is_attached,
            quiet: quiet.drop_guard(),
            ended: self.tasks.spawn(link.run()),
        }
    }

    /// Host, port and vhost.
    pub(super) fn place(&self) -> Option<(String, u16, String)> {
        let uri: AMQPUri = self.config.url.parse().ok()?;
        Some((uri.authority.host, uri.authority.port, uri.vhost))
    }

    pub(super) async fn close(&self) {
        self.tasks.close();
        self.tasks.wait().await;
        if let Some(publisher) = self.publisher.lock().await.take()
            && let Err(error) = limited(publisher.connection.close(200, "bye".into())).await
        {
            tracing::debug!(%error, "the publishing connection ended before it was closed");
        }
    }
}

async fn connect(config: &RabbitConfig, role: &str) -> Result<Connection, BrokerError> {
    let properties = ConnectionProperties::default()
        .with_connection_name(format!("{} {role}", config.name).into());
    let mut uri: AMQPUri = config.url.parse().map_err(BrokerError::Refused)?;
    let seconds = config.heartbeat.as_secs().clamp(1, 60);
    uri.query.heartbeat = u16::try_from(seconds).ok();
    limited(Connection::connect_uri(uri, properties)).await
}

/// A property that does not fit AMQP's 255 bytes is left out: the body says the same.
fn short(text: Option<&String>) -> Option<ShortString> {
    ShortString::try_new(text?.as_str()).ok()
}

fn properties(message: &Message) -> BasicProperties {
    let Message {
        content_type,
        content_encoding,
        headers,
        correlation_id,
        reply_to,
        priority,
        body: _,
    } = message;
    let mut properties = BasicProperties::default().with_delivery_mode(2);
    if let Some(text) = short(content_type.as_ref()) {
        properties = properties.with_content_type(text);
    }
    if let Some(text) = short(content_encoding.as_ref()) {
        properties = properties.with_content_encoding(text);
    }
    if let Some(text) = short(correlation_id.as_ref()) {
        properties = properties.with_correlation_id(text);
    }
    if let Some(text) = short(reply_to.as_ref()) {
        properties = properties.with_reply_to(text);
    }
    if let Some(priority) = priority {
        properties = properties.with_priority(*priority);
    }
    properties.with_headers(table::to_amqp(headers))
}

/// One consumer's life, over as many connections as it takes.
struct Feed {
    config: RabbitConfig,
    queues: Vec<String>,
    prefetch: u16,
    out: mpsc::Sender<Delivery>,
    tasks: TaskTracker,
    attached: Attached,
}

/// Why a session with the broker ended.
enum End {
    Quiet,
    Broken(BrokerError),
}

impl Feed {
    async fn run(self, quiet: CancellationToken) {
        let mut wait = BACK_OFF.0;
        loop {
            let begun = Instant::now();
            let end = tokio::select! {
                biased;
                end = self.session(&quiet) => end,
                // Quiet while there is no connection: nothing more can come.
                () = async { quiet.cancelled().await; tokio::time::sleep(CALL_TIMEOUT).await } => End::Quiet,
            };
            match end {
                End::Quiet => return,
                End::Broken(_) if quiet.is_cancelled() || self.out.is_closed() => return,
                End::Broken(error) => {
                    tracing::warn!(%error, queues = ?self.queues, "consuming was interrupted");
                }
            }
            wait = if begun.elapsed() > BACK_OFF.1 {
                BACK_OFF.0
            } else {
                (wait * 2).min(BACK_OFF.1)
            };
            tokio::select! {
                () = quiet.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn session(&self, quiet: &CancellationToken) -> End {
        let ended = self.consume(quiet).await;
        self.attached.set(false);
        match ended {
            Ok(()) => End::Quiet,
            Err(error) => End::Broken(error),
        }
    }

    /// Consumes on one connection until it ends (an error) or all is quiet.
    async fn consume(&self, quiet: &CancellationToken) -> Result<(), BrokerError> {
        let connection = Arc::new(connect(&self.config, "consumer").await?);
        for queue in &self.queues {
            declare(&connection, queue, self.config.queue_kind).await?;
        }
        let channel = limited(connection.create_channel()).await?;
        limited(channel.basic_qos(self.prefetch, BasicQosOptions::default())).await?;
        let link = Arc::new(Link::new(connection, channel, &self.tasks));
        let mut streams = SelectAll::new();
        for queue in &self.queues {
            streams.push(self.subscribe(&link, queue).await?);
        }
        self.attached.set(true);
        tracing::info!(queues = ?self.queues, prefetch = self.prefetch, "consuming");
        loop {
            let next = tokio::select! {
                () = quiet.cancelled() => break,
                () = self.out.closed() => break,
                next = streams.next() => next,
            };
            let Some((queue, delivery)) = next else {
                return Err(BrokerError::Away("every consumer has ended".into()));
            };
            match delivery {
                Some(Ok(delivery)) => self.hand_on(&link, queue, delivery).await,
                Some(Err(error)) => return Err(away(error)),
                // Canceled by the broker (the queue was deleted, its leader moved, a consumer timeout of 4.3): consume again.
                None => {
                    tracing::warn!(%queue, "the broker canceled the consumer");
                    declare(&link.connection, &queue, self.config.queue_kind).await?;
                    streams.push(self.subscribe(&link, &queue).await?);
                }
            }
        }
        for queue in &self.queues {
            limited(
                link.channel
                    .basic_cancel(tag(queue).as_str().into(), BasicCancelOptions::default()),
            )
            .await?;
        }
        // What was on its way when we canceled still comes, then each stream ends.
        while let Some((queue, delivery)) = streams.next().await {
            if let Some(Ok(delivery)) = delivery {
                self.hand_on(&link, queue, delivery).await;
            }
        }
        Ok(())
    }

    /// A stream that says of each delivery its queue, and `None` once when the consumer has ended.
    async fn subscribe(
        &self,
        link: &Link,
        queue: &str,
    ) -> Result<
        futures::stream::BoxStream<
            'static,
            (String, Option<lapin::Result<lapin::message::Delivery>>),
        >,
        BrokerError,
    > {
        let options = BasicConsumeOptions::default();
        let consumer = limited(link.channel.basic_consume(
            queue.into(),
            tag(queue).as_str().into(),
            options,
            FieldTable::default(),
        ))
        .await?;
        let queue = queue.to_owned();
        let ended = futures::stream::once(futures::future::ready(None));
        Ok(consumer
            .map(Some)
            .chain(ended)
            .map(move |delivery| (queue.clone(), delivery))
            .boxed())
    }

    async fn hand_on(&self, link: &Arc<Link>, queue: String, delivery: lapin::message::Delivery) {
        let tag = delivery.delivery_tag;
        link.open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .tags
            .insert(tag, Tag::Held);
        let receipt = Receipt {
            link: Arc::clone(link),
            tag,
        };
        let redelivered = delivery.redelivered;
        let message = message(delivery);
        let delivery = Delivery {
            queue,
            message,
            redelivered,
            received: Instant::now(),
            receipt: super::Receipt::Rabbit(receipt),
        };
        if self.out.send(delivery).await.is_err() {
            tracing::debug!(
                "a delivery came after its pool had ended; the broker will deliver it again"
            );
        }
    }
}

/// Our name for the consumer of a queue: one per channel and queue.
fn tag(queue: &str) -> String {
    format!("longshore {queue}")
}

fn message(delivery: lapin::message::Delivery) -> Message {
    let properties = delivery.properties;
    let text = |value: &Option<lapin::types::ShortString>| value.as_ref().map(ToString::to_string);
    Message {
        content_type: text(properties.content_type()),
        content_encoding: text(properties.content_encoding()),
        headers: properties
            .headers()
            .as_ref()
            .map(table::from_amqp)
            .unwrap_or_default(),
        correlation_id: text(properties.correlation_id()),
        reply_to: text(properties.reply_to()),
        priority: *properties.priority(),
        body: delivery.data.into(),
    }
}

/// Acknowledges, and waits until it is said to the broker.
pub(super) async fn ack(receipts: Vec<Receipt>) {
    let mut said = Vec::new();
    for (link, tags) in by_link(receipts) {
        let (done, wait) = oneshot::channel();
        if link.acks.send((tags, done)).is_ok() {
            said.push(wait);
        }
    }
    for wait in said {
        // An error means that the channel has ended: its deliveries will come again and be dropped.
        let _ended = wait.await;
    }
}

/// The one task of a channel that acknowledges: one frame for all tags up to the first that is still open,
/// one for each beyond.
async fn acknowledge(
    channel: Channel,
    open: Arc<StdMutex<Open>>,
    mut orders: mpsc::UnboundedReceiver<(Vec<u64>, oneshot::Sender<()>)>,
) {
    let mut batch = Vec::new();
    while orders.recv_many(&mut batch, 64).await > 0 {
        let tags = batch
            .iter()
            .flat_map(|(tags, _)| tags.iter().copied())
            .collect::<Vec<_>>();
        let (upto, single) = open
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .done(&tags);
        let mut frames = single
            .into_iter()
            .map(|tag| (tag, false))
            .collect::<Vec<_>>();
        frames.extend(upto.map(|tag| (tag, true)));
        for (tag, multiple) in frames {
            if let Err(error) = limited(channel.basic_ack(tag, BasicAckOptions { multiple })).await
            {
                tracing::debug!(%error, "an acknowledgement was lost with its channel; the delivery will come again and be dropped");
                break;
            }
        }
        for (_, done) in batch.drain(..) {
            // Whoever asked may have stopped waiting.
            let _gone = done.send(());
        }
    }
}

/// Gives back.
pub(super) async fn release(receipts: Vec<Receipt>) {
    for (link, tags) in by_link(receipts) {
        for tag in tags {
            link.open
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .tags
                .insert(tag, Tag::Told);
            let options = BasicNackOptions {
                multiple: false,
                requeue: true,
            };
            if limited(link.channel.basic_nack(tag, options))
                .await
                .is_err()
            {
                break;
            }
        }
    }
}

fn by_link(receipts: Vec<Receipt>) -> Vec<(Arc<Link>, Vec<u64>)> {
    let mut links: Vec<(Arc<Link>, Vec<u64>)> = Vec::new();
    for Receipt { link, tag } in receipts {
        match links
            .iter_mut()
            .find(|(known, _)| Arc::ptr_eq(known, &link))
        {
            Some((_, tags)) => tags.push(tag),
            None => links.push((link, vec![tag])),
        }
    }
    links
}
