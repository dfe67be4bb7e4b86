//! Conformance of the broker: every verb, embedded and on RabbitMQ, and what only RabbitMQ can do to us.

mod rabbitmq;

use std::collections::HashSet;

use longshore::broker::{Delivery, Outgoing};
use longshore::codec::Message;
use serde_json::json;

use crate::harness::{Bell, LIMIT, Peer, next, on_both_brokers, wait_until};

on_both_brokers!(
    a_published_message_is_delivered_and_acknowledged_for_good,
    what_is_not_acknowledged_is_delivered_again_when_its_consumer_is_gone,
    no_more_than_the_prefetch_is_held_at_once,
    the_largest_priority_comes_first,
    a_quiet_consumer_hands_over_what_is_in_flight_and_ends,
    a_released_delivery_comes_again,
    the_depth_counts_what_waits,
    each_message_of_a_batch_is_answered,
    headers_and_properties_come_back_as_they_were,
    several_queues_are_consumed_and_acknowledged_in_any_order,
    two_consumers_share_a_queue,
    a_consumer_that_is_dropped_does_not_keep_its_broker_from_closing,
);

fn message(queue: &str, body: &str) -> Outgoing {
    Outgoing {
        queue: queue.into(),
        message: Message {
            content_type: Some("text/plain".into()),
            body: body.to_owned().into(),
            ..Message::default()
        },
        optional: false,
    }
}

fn body(delivery: &Delivery) -> String {
    String::from_utf8(delivery.message.body.to_vec()).unwrap()
}

async fn publish(peer: &Peer, messages: &[Outgoing]) {
    let answers = peer.broker.publish(messages).await;
    assert_eq!(answers.len(), messages.len());
    for answer in answers {
        answer.unwrap();
    }
}

/// `count` messages on `queue`, numbered from 0.
fn numbered(queue: &str, count: usize) -> Vec<Outgoing> {
    (0..count).map(|n| message(queue, &n.to_string())).collect()
}

async fn a_published_message_is_delivered_and_acknowledged_for_good(bell: Bell) {
    let peer = bell.peer().await;
    publish(&peer, &[message("q", "hello")]).await;
    let mut consumer = peer.consume("q", 4);
    let delivery = next(&mut consumer).await;
    assert_eq!(
        (body(&delivery).as_str(), delivery.queue.as_str()),
        ("hello", "q")
    );
    assert!(!delivery.redelivered);
    peer.broker.ack(vec![delivery.receipt]).await;
    bell.kill(peer, consumer).await;

    let second = bell.peer().await;
    publish(&second, &[message("q", "last")]).await;
    let mut consumer = second.consume("q", 4);
    assert_eq!(
        body(&next(&mut consumer).await),
        "last",
        "what was acknowledged is gone"
    );
    consumer.quiet();
}

async fn what_is_not_acknowledged_is_delivered_again_when_its_consumer_is_gone(bell: Bell) {
    let (first, second) = (bell.peer().await, bell.peer().await);
    publish(&first, &numbered("q", 3)).await;
    let mut consumer = first.consume("q", 8);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut consumer).await);
    }
    first.broker.ack(vec![held.remove(1).receipt]).await;
    let mut heir = second.consume("q", 8);
    bell.kill(first, consumer).await;
    let mut again = [next(&mut heir).await, next(&mut heir).await];
    again.sort_by_key(body);
    assert_eq!(again.each_ref().map(body), ["0", "2"]);
    assert!(again.iter().all(|delivery| delivery.redelivered));
    heir.quiet();
}

async fn no_more_than_the_prefetch_is_held_at_once(bell: Bell) {
    let peer = bell.peer().await;
    publish(&peer, &numbered("q", 10)).await;
    let mut consumer = peer.consume("q", 3);
    let mut held = Vec::new();
    for _ in 0..3 {
        held.push(next(&mut consumer).await);
    }
    // A second consumer gets all the rest, which shows that the first holds no more than three.
    let other = bell.peer().await;
    let mut rest = other.consume("q", 20);
    let mut others = Vec::new();
    for _ in 0..7 {
        others.push(next(&mut rest).await);
    }
    assert!(consumer.deliveries.try_recv().is_err());
    let receipts = held.into_iter().map(|delivery| delivery.receipt).collect();
    peer.broker.ack(receipts).await;
    rest.quiet();
    while rest.deliveries.recv().await.is_some() {}
    publish(&peer, &[message("q", "room again")]).await;
    assert_eq!(body(&next(&mut consumer).await), "room again");
    consumer.quiet();
}

async fn the_largest_priority_comes_first(bell: Bell) {
    let peer = bell.peer().await;
    bell.priority_queue("q").await;
    let with = |priority, text: &str| {
        let mut outgoing = message("q", text);
        outgoing.message.priority = Some(priority);
        outgoing
    };
    publish(
        &peer,
        &[with(0, "small"), with(9, "large"), with(5, "middle")],
    )
    .await;
    let mut consumer = peer.consume("q", 1);
    let mut order = Vec::new();
    for _ in 0..3 {
        let delivery = next(&mut consumer).await;
        order.push((body(&delivery), delivery.message.priority));
        peer.broker.ack(vec![delivery.receipt]).await;
    }
    let expected = [("large", 9), ("middle", 5), ("small", 0)];
    assert_eq!(
        order,
        expected.map(|(text, priority)| (text.to_owned(), Some(priority)))
    );
    consumer.quiet();
}

async fn a_quiet_consumer_hands_over_what_is_in_flight_and_ends(bell: Bell) {
    let peer = bell.peer().await;
    publish(&peer, &numbered("q", 5)).await;
    let mut consumer = peer.consume("q", 5);
    let first = next(&mut consumer).await;
    consumer.quiet();
    let mut seen = vec![first];
    while let Some(delivery) = consumer.deliveries.recv().await {
        seen.push(delivery);
    }
    publish(&peer, &[message("q", "after")]).await;
    // All that was handed over can still be acknowledged; the rest waits for others.
    let left = 6 - seen.len();
    let receipts = seen.into_iter().map(|delivery| delivery.receipt).collect();
    peer.broker.ack(receipts).await;
    bell.depth_is(&peer, "q", left as u64).await;
}

async fn a_released_delivery_comes_again(bell: Bell) {
    let peer = bell.peer().await;
    publish(&peer, &numbered("q", 2)).await;
    let mut consumer = peer.consume("q", 2);
    let (a, b) = (next(&mut consumer).await, next(&mut consumer).await);
    peer.broker.release(vec![a.receipt]).await;
    let again = next(&mut consumer).await;
    assert_eq!((body(&again).as_str(), again.redelivered), ("0", true));
    peer.broker.ack(vec![b.receipt, again.receipt]).await;
    bell.kill(peer, consumer).await;
    let other = bell.peer().await;
    assert_eq!(other.broker.depth("q").await.unwrap(), 0);
}

async fn the_depth_counts_what_waits(bell: Bell) {
    let peer = bell.peer().await;
    peer.broker
        .declare(&["q".into(), "r".into()])
        .await
        .unwrap();
    assert_eq!(peer.broker.depth("q").await.unwrap(), 0);
    publish(&peer, &numbered("q", 7)).await;
    bell.depth_is(&peer, "q", 7).await;
    assert_eq!(peer.broker.depth("r").await.unwrap(), 0);
    let mut consumer = peer.consume("q", 2);
    let _held = (next(&mut consumer).await, next(&mut consumer).await);
    bell.depth_is(&peer, "q", 5).await;
    consumer.quiet();
}

async fn each_message_of_a_batch_is_answered(bell: Bell) {
    let peer = bell.peer().await;
    assert!(peer.broker.publish(&[]).await.is_empty());
    let mut batch = numbered("q", 300);
    batch.extend(numbered("r", 200));
    publish(&peer, &batch).await;
    bell.depth_is(&peer, "q", 300).await;
    bell.depth_is(&peer, "r", 200).await;
}

async fn headers_and_properties_come_back_as_they_were(bell: Bell) {
    let peer = bell.peer().await;
    let headers = json!({
        "text": "ä 😀", "number": 7, "real": 1.5, "yes": true, "none": null,
        "list": [1, "two", [3]], "map": { "a": { "b": "c" } }, "bytes": { "$bytes": "AP8=" },
    });
    let sent = Message {
        content_type: Some("application/x".into()),
        content_encoding: Some("binary".into()),
        headers: headers.as_object().unwrap().clone(),
        correlation_id: Some("12:lava/3456".into()),
        reply_to: Some("answers".into()),
        priority: Some(3),
        body: vec![0, 255, 10, 13].into(),
    };
    let outgoing = Outgoing {
        queue: "q".into(),
        message: sent.clone(),
        optional: false,
    };
    publish(&peer, &[outgoing]).await;
    let mut consumer = peer.consume("q", 1);
    assert_eq!(next(&mut consumer).await.message, sent);
    consumer.quiet();
}

async fn several_queues_are_consumed_and_acknowledged_in_any_order(bell: Bell) {
    const EACH: usize = 200;
    let queues = ["q", "r", "s"].map(str::to_owned);
    let (peer, publisher) = (bell.peer().await, bell.peer().await);
    peer.broker.declare(&queues).await.unwrap();
    let mut consumer = peer.broker.consume(&queues, 16);
    for n in 0..EACH {
        let batch: Vec<_> = queues
            .iter()
            .map(|queue| message(queue, &n.to_string()))
            .collect();
        publish(&publisher, &batch).await;
    }
    let (mut seen, mut held) = (HashSet::new(), Vec::new());
    while seen.len() < EACH * queues.len() {
        let delivery = next(&mut consumer).await;
        assert!(
            !delivery.redelivered,
            "an acknowledgement has broken the channel"
        );
        assert!(seen.insert((delivery.queue.clone(), body(&delivery))));
        held.push(delivery.receipt);
        // Now the newest first, now the oldest.
        if held.len() >= 8 {
            let index = if seen.len() % 2 == 0 {
                held.len() - 1
            } else {
                0
            };
            peer.broker.ack(vec![held.remove(index)]).await;
        }
    }
    peer.broker.ack(held).await;
    bell.kill(peer, consumer).await;
    for queue in &queues {
        assert_eq!(publisher.broker.depth(queue).await.unwrap(), 0);
    }
}

async fn two_consumers_share_a_queue(bell: Bell) {
    let (one, two) = (bell.peer().await, bell.peer().await);
    one.broker.declare(&["q".into()]).await.unwrap();
    let (mut a, mut b) = (one.consume("q", 1), two.consume("q", 1));
    publish(&one, &numbered("q", 2)).await;
    let (first, second) = (next(&mut a).await, next(&mut b).await);
    let bodies: HashSet<_> = [body(&first), body(&second)].into();
    assert_eq!(bodies.len(), 2);
    a.quiet();
    b.quiet();
}

async fn a_consumer_that_is_dropped_does_not_keep_its_broker_from_closing(bell: Bell) {
    let peer = bell.peer().await;
    publish(&peer, &numbered("q", 2)).await;
    let mut consumer = peer.consume("q", 1);
    let held = next(&mut consumer).await;
    drop((consumer, held));
    let closed = tokio::time::timeout(LIMIT, peer.broker.close()).await;
    assert!(
        closed.is_ok(),
        "closing waits for a consumer that nobody has"
    );
    wait_until("others can go on", LIMIT, async || {
        bell.peer().await.broker.depth("q").await.is_ok()
    })
    .await;
}
