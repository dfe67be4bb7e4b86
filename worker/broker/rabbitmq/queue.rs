//! One queue: its name, and that it is there, as its producer or we declare it.

use lapin::Connection;
use lapin::options::QueueDeclareOptions;
use lapin::protocol::{AMQPErrorKind, AMQPSoftError};
use lapin::types::{AMQPValue, FieldTable, ShortString};

use super::super::{BrokerError, CALL_TIMEOUT, is_unreadable_queue};
use super::{QueueKind, away, limited, silent};

/// A queue's name as AMQP writes it.
pub(super) fn queue_name(queue: &str) -> Result<ShortString, BrokerError> {
    ShortString::try_new(queue)
        .map_err(|_| BrokerError::Refused(format!("queue name {queue:?} is longer than 255 bytes")))
}

/// Makes sure of one queue, on a channel of its own: a refusal closes the channel.
pub(super) async fn declare(
    connection: &Connection,
    queue: &str,
    kind: QueueKind,
) -> Result<(), BrokerError> {
    let channel = limited(connection.create_channel()).await?;
    let passive = QueueDeclareOptions {
        passive: true,
        ..QueueDeclareOptions::default()
    };
    let there = channel.queue_declare(queue_name(queue)?, passive, FieldTable::default());
    let missing = match tokio::time::timeout(CALL_TIMEOUT, there).await {
        Ok(Ok(_)) => {
            let _ended = limited(channel.close(200, "done".into())).await;
            return Ok(());
        }
        Ok(Err(error)) => missing(queue, &error)?,
        Err(_) => return Err(silent()),
    };
    let mut arguments = FieldTable::default();
    match kind {
        // Ours, whoever declares the rest.
        QueueKind::Passive if is_unreadable_queue(queue) => {}
        QueueKind::Passive => {
            return Err(BrokerError::Refused(format!(
                "queue {queue:?} is not there ({missing}), and broker.queue_type = \"passive\" declares none: have its producer declare it, or set \"quorum\" or \"classic\""
            )));
        }
        QueueKind::Quorum => {
            arguments.insert(
                "x-queue-type".into(),
                AMQPValue::LongString("quorum".into()),
            );
        }
        QueueKind::Classic => {}
    }
    let channel = limited(connection.create_channel()).await?;
    let options = QueueDeclareOptions {
        durable: true,
        ..QueueDeclareOptions::default()
    };
    limited(channel.queue_declare(queue_name(queue)?, options, arguments)).await?;
    let _ended = limited(channel.close(200, "done".into())).await;
    Ok(())
}

/// RabbitMQ's words for a queue that is not there, or whose node is not. Whatever else it says is an error: the queue
/// may be there, and to declare it could only fail for the same reason.
fn missing(queue: &str, error: &lapin::Error) -> Result<String, BrokerError> {
    let lapin::ErrorKind::ProtocolError(protocol) = error.kind() else {
        return Err(away(error));
    };
    match protocol.kind() {
        AMQPErrorKind::Soft(AMQPSoftError::NOTFOUND) => Ok(protocol.get_message().to_string()),
        AMQPErrorKind::Soft(_) => Err(BrokerError::Refused(format!(
            "queue {queue:?} cannot be used: {}",
            protocol.get_message()
        ))),
        AMQPErrorKind::Hard(_) => Err(away(error)),
    }
}
