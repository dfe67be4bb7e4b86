//! A message that a draining worker gives back, embedded: what cannot be read and cannot be set aside either.

use std::sync::Arc;

use longshore::broker::Outgoing;
use longshore::codec::Message;

use super::{ended_at, others_finish};
use crate::harness::{LIMIT, wait_until};
use crate::scene::Scene;

embedded_points! { GIVEN_BACK: a_message_that_is_given_back;
    before_messages_are_released = "release_messages:before",
    after_messages_are_released = "release_messages:after",
}

async fn a_message_that_is_given_back(scene: Arc<Scene>, point: &'static str) {
    scene.small_job("1");
    let refuse = "create trigger refuse before insert on messages when new.queue = 'ci_fetch.unreadable' \
        begin select raise(abort, 'no room for messages'); end";
    scene.bench.execute(refuse).await;
    let broker = scene.broker(&scene.bench.store, &longshore::pool::member_id("producer"));
    let unreadable = Outgoing {
        queue: "ci_fetch".into(),
        message: Message {
            content_type: Some("application/json".into()),
            body: b"{".to_vec().into(),
            ..Message::default()
        },
        optional: false,
    };
    broker.publish(&[unreadable]).await.remove(0).unwrap();
    broker.close().await;
    let doomed = scene.doomed("fetch", point);
    doomed.said("could not be set aside yet", LIMIT).await;
    doomed.signal("TERM");
    ended_at(doomed, point).await;
    let held = "select count(*) from messages where consumer is not null";
    let held = scene.bench.number(held).await;
    assert_eq!(held, i64::from(point.ends_with(":before")));
    scene.bench.execute("drop trigger refuse").await;
    scene.fetch("lab", "1").await;
    let _heirs = others_finish(&scene, &["1"], point).await;
    let count = async |queue: &str| {
        let sql = format!("select count(*) from messages where queue = '{queue}'");
        scene.bench.number(&sql).await
    };
    wait_until("it is set aside, once", LIMIT, async || {
        (count("ci_fetch").await, count("ci_fetch.unreadable").await) == (0, 1)
    })
    .await;
}
