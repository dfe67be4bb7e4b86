//! A connection beside the work: a mailbox of one's own, and messages to exchanges that nobody waits for. Whatever
//! is lost with it is lost, and nothing else is: it is made anew by itself.

use std::time::Duration;

use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, BasicPublishOptions, ConfirmSelectOptions, ExchangeDeclareOptions,
    QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::{AMQPValue, FieldTable, ShortString};
use lapin::{Channel, Connection, ExchangeKind};
use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::super::{BrokerError, Exchange, Mailbox, Posted};
use super::{BACK_OFF, RabbitConfig, confirmed, connect, limited, message, properties, queue_name};
use crate::codec::Message;

/// What the one task of a connection aside has.
pub(super) struct Link {
    pub(super) config: RabbitConfig,
    pub(super) mailbox: Mailbox,
    pub(super) incoming: mpsc::Sender<Message>,
    pub(super) outgoing: mpsc::Receiver<Posted>,
    pub(super) bulky: mpsc::Receiver<Posted>,
    pub(super) attached: watch::Sender<bool>,
    pub(super) quiet: CancellationToken,
}

impl Link {
    /// Until quiet, over as many connections as it takes; then once more what is to go out, if there is a connection.
    pub(super) async fn run(mut self) {
        let mut wait = BACK_OFF.0;
        loop {
            let begun = Instant::now();
            let ended = self.session().await;
            self.attached.send_replace(false);
            let Err(error) = ended else { return };
            if self.quiet.is_cancelled() {
                return;
            }
            tracing::warn!(%error, mailbox = self.mailbox.queue, "the connection of Celery's tools was interrupted");
            wait = if begun.elapsed() > BACK_OFF.1 {
                BACK_OFF.0
            } else {
                (wait * 2).min(BACK_OFF.1)
            };
            tokio::select! {
                () = self.quiet.cancelled() => return,
                () = tokio::time::sleep(wait) => {}
            }
        }
    }

    async fn session(&mut self) -> Result<(), BrokerError> {
        let quiet = self.quiet.clone();
        let connecting = async {
            let connection = connect(&self.config, "tools").await?;
            let channel = limited(connection.create_channel()).await?;
            let consumer = self.open(&channel).await?;
            Ok::<_, BrokerError>((connection, channel, consumer))
        };
        let (connection, _channel, mut consumer) = tokio::select! {
            made = connecting => made?,
            () = quiet.cancelled() => return Ok(()),
        };
        let mut publisher = None;
        self.attached.send_replace(true);
        loop {
            tokio::select! {
                biased;
                () = quiet.cancelled() => break,
                delivery = consumer.next() => match delivery {
                    Some(Ok(delivery)) => {
                        if self.incoming.try_send(message(delivery)).is_err() {
                            tracing::debug!("a request of a tool was dropped: too many wait");
                        }
                    }
                    Some(Err(error)) => return Err(super::away(error)),
                    None => return Err(BrokerError::Away("its mailbox is gone".into())),
                },
                Some(posted) = self.outgoing.recv() => post(&connection, &mut publisher, posted).await?,
                Some(posted) = self.bulky.recv() => post(&connection, &mut publisher, posted).await?,
            }
        }
        while let Ok(posted) = self.bulky.try_recv().or_else(|_| self.outgoing.try_recv()) {
            post(&connection, &mut publisher, posted).await?;
        }
        limited(connection.close(200, "bye".into())).await
    }

    /// Declares exchanges and mailbox as Celery does, and takes from the mailbox.
    async fn open(&self, channel: &Channel) -> Result<lapin::Consumer, BrokerError> {
        let Mailbox {
            queue,
            exchange,
            others,
            expires,
            message_ttl,
        } = &self.mailbox;
        for exchange in others.iter().chain([exchange]) {
            declare(channel, exchange).await?;
        }
        let name = queue_name(queue)?;
        let millis = |time: &Duration| {
            AMQPValue::LongInt(i32::try_from(time.as_millis()).unwrap_or(i32::MAX))
        };
        let mut arguments = FieldTable::default();
        arguments.insert("x-expires".into(), millis(expires));
        arguments.insert("x-message-ttl".into(), millis(message_ttl));
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..QueueDeclareOptions::default()
        };
        limited(channel.queue_declare(name.clone(), options, arguments)).await?;
        limited(channel.queue_bind(
            name.clone(),
            exchange.name.into(),
            "".into(),
            QueueBindOptions::default(),
            FieldTable::default(),
        ))
        .await?;
        let options = BasicConsumeOptions {
            no_ack: true,
            ..BasicConsumeOptions::default()
        };
        limited(channel.basic_consume(name, "".into(), options, FieldTable::default())).await
    }
}

async fn declare(channel: &Channel, exchange: &Exchange) -> Result<(), BrokerError> {
    let kind = match exchange.kind {
        super::super::ExchangeKind::Fanout => ExchangeKind::Fanout,
        super::super::ExchangeKind::Topic => ExchangeKind::Topic,
    };
    let options = ExchangeDeclareOptions {
        durable: exchange.durable,
        ..ExchangeDeclareOptions::default()
    };
    limited(channel.exchange_declare(exchange.name.into(), kind, options, FieldTable::default()))
        .await
}

/// Publishes one message and waits for the broker's word, so that no more is under way than one: the queue before it is
/// bounded, the connection's own buffers are not. An exchange that is not there costs the message, and a channel.
async fn post(
    connection: &Connection,
    publisher: &mut Option<Channel>,
    posted: Posted,
) -> Result<(), BrokerError> {
    let Posted {
        exchange,
        routing_key,
        message,
    } = posted;
    let (Ok(exchange), Ok(routing_key)) = (
        ShortString::try_new(exchange.as_str()),
        ShortString::try_new(routing_key.as_str()),
    ) else {
        tracing::debug!("a tool wants its answer at an address that is too long");
        return Ok(());
    };
    let channel = match publisher.take() {
        Some(channel) if channel.status().connected() => channel,
        Some(_) | None => {
            let channel = limited(connection.create_channel()).await?;
            limited(channel.confirm_select(ConfirmSelectOptions::default())).await?;
            channel
        }
    };
    let properties = properties(&message).with_delivery_mode(1);
    let options = BasicPublishOptions::default();
    let sent = channel.basic_publish(exchange, routing_key, options, &message.body, properties);
    let answer = confirmed(limited(sent).await).await;
    if !connection.status().connected() {
        return answer;
    }
    match answer {
        Ok(()) => *publisher = Some(channel),
        Err(error) => {
            tracing::debug!(%error, "a message for Celery's tools was lost");
            // Whatever is left of it.
            let _closed = limited(channel.close(200, "done".into())).await;
        }
    }
    Ok(())
}
