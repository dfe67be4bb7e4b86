//! What only RabbitMQ can do: missing queues, canceled consumers, closed connections.

use longshore::broker::{BrokerError, QueueKind};
use reqwest::Method;
use serde_json::json;

use super::{body, message, numbered, publish};
use crate::harness::{Bell, Kind, next};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_missing_queue_that_may_not_be_declared_is_refused_with_what_to_do() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        let peer = bell.peer_with(QueueKind::Passive).await;
        let answer = peer.broker.declare(&["missing".into()]).await;
        let Err(BrokerError::Refused(reason)) = answer else {
            panic!("a missing queue was accepted: {answer:?}");
        };
        assert!(reason.contains("\"missing\" is not there"), "{reason}");
        assert!(
            reason.contains("NOT_FOUND"),
            "RabbitMQ's own words: {reason}"
        );
        assert!(reason.contains("broker.queue_type"), "{reason}");
        assert!(peer.broker.depth("missing").await.is_err());
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_there_and_cannot_be_used_is_not_said_to_be_missing() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        let owner = lapin::Connection::connect(&bell.url(), lapin::ConnectionProperties::default())
            .await
            .unwrap();
        let exclusive = lapin::options::QueueDeclareOptions {
            exclusive: true,
            ..lapin::options::QueueDeclareOptions::default()
        };
        let channel = owner.create_channel().await.unwrap();
        let arguments = lapin::types::FieldTable::default();
        channel
            .queue_declare("taken".into(), exclusive, arguments)
            .await
            .unwrap();
        for kind in [QueueKind::Passive, QueueKind::Classic] {
            let peer = bell.peer_with(kind).await;
            let answer = peer.broker.declare(&["taken".into()]).await;
            let Err(BrokerError::Refused(reason)) = answer else {
                panic!("another's queue was accepted: {answer:?}");
            };
            assert!(reason.contains("RESOURCE_LOCKED"), "{reason}");
            assert!(!reason.contains("is not there"), "{reason}");
        }
        owner.close(200, "bye".into()).await.unwrap();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_message_for_a_missing_queue_fails_alone() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        bell.peer()
            .await
            .broker
            .declare(&["there".into()])
            .await
            .unwrap();
        let peer = bell.peer_with(QueueKind::Passive).await;
        let batch = [
            message("there", "1"),
            message("missing", "2"),
            message("there", "3"),
        ];
        let answers = peer.broker.publish(&batch).await;
        let answers: Vec<_> = answers.iter().map(Result::is_ok).collect();
        assert_eq!(answers, [true, false, true]);
        bell.depth_is(&peer, "there", 2).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn queues_are_declared_as_they_are_wanted_and_used_as_they_are() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        for (queue, kind, expected) in [
            ("quorum", QueueKind::Quorum, "quorum"),
            ("classic", QueueKind::Classic, "classic"),
            // Somebody else has declared it otherwise: that is no conflict.
            ("classic", QueueKind::Quorum, "classic"),
        ] {
            let peer = bell.peer_with(kind).await;
            peer.broker.declare(&[queue.into()]).await.unwrap();
            let found = bell.api(Method::GET, &bell.queue_path(queue), None).await;
            assert_eq!(found["type"], expected);
            assert_eq!(found["durable"], true);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuming_goes_on_after_its_connection_was_closed() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        let (peer, publisher) = (bell.peer().await, bell.peer().await);
        publish(&publisher, &numbered("q", 1)).await;
        let mut consumer = peer.consume("q", 4);
        let held = next(&mut consumer).await;
        bell.cut(&peer).await;
        let again = next(&mut consumer).await;
        assert_eq!((body(&again).as_str(), again.redelivered), ("0", true));
        // The old delivery's channel is gone: acknowledging it is harmless, and acknowledges nothing else.
        peer.broker.ack(vec![held.receipt]).await;
        publish(&publisher, &[message("q", "next")]).await;
        let after = next(&mut consumer).await;
        assert_eq!(body(&after), "next");
        peer.broker.ack(vec![again.receipt, after.receipt]).await;
        bell.kill(peer, consumer).await;
        bell.depth_is(&publisher, "q", 0).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn consuming_goes_on_after_its_queue_was_deleted() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        let (peer, publisher) = (bell.peer().await, bell.peer().await);
        publish(&publisher, &numbered("q", 1)).await;
        let mut consumer = peer.consume("q", 4);
        let held = next(&mut consumer).await;
        bell.api(Method::DELETE, &bell.queue_path("q"), None).await;
        // The consumer declares it again; until then a message has nowhere to go, and says so.
        crate::harness::wait_until("the queue is back", crate::harness::LIMIT, async || {
            publisher.broker.publish(&[message("q", "next")]).await[0].is_ok()
        })
        .await;
        assert_eq!(body(&next(&mut consumer).await), "next");
        // Its queue is gone, and with it the message: nothing to acknowledge any more.
        peer.broker.ack(vec![held.receipt]).await;
        publish(&publisher, &[message("q", "last")]).await;
        assert_eq!(body(&next(&mut consumer).await), "last");
        consumer.quiet();
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn publishing_goes_on_after_its_connection_was_closed() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        let peer = bell.peer().await;
        publish(&peer, &numbered("q", 1)).await;
        bell.cut(&peer).await;
        // The first may meet the connection's end, and says so; the next one has a new connection.
        crate::harness::wait_until("publishing works", crate::harness::LIMIT, async || {
            peer.broker.publish(&[message("q", "next")]).await[0].is_ok()
        })
        .await;
        bell.depth_is(&peer, "q", 2).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_refused_login_says_so_and_comes_right_when_it_is_allowed() {
    Bell::run(Kind::Rabbit, async |bell: Bell| {
        let none = json!({ "configure": "", "write": "", "read": "" });
        let (peer, path) = (bell.peer().await, bell.permissions_path());
        bell.api(Method::PUT, &path, Some(none)).await;
        let answer = peer.broker.publish(&numbered("q", 1)).await.remove(0);
        let error = answer.expect_err("nothing may be declared").to_string();
        assert!(
            error.contains("ACCESS_REFUSED") || error.contains("access"),
            "{error}"
        );
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        bell.api(Method::PUT, &path, Some(all)).await;
        publish(&peer, &numbered("q", 1)).await;
    })
    .await;
}
