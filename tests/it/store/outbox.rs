//! Messages to publish.

use std::collections::HashSet;
use std::time::Duration;

use super::enqueue::ids;
use crate::harness::{Bench, on_both, task};

on_both!(
    a_message_is_its_committers_first_and_anybodys_later,
    a_published_message_is_gone,
    a_message_given_back_is_free_after_its_delay,
    what_one_relay_has_taken_another_does_not_get,
    a_take_is_bounded_and_the_next_one_goes_on,
    a_message_of_a_task_that_has_run_may_come_late_and_is_harmless,
);

/// Longer than a committer has for its own messages.
const HELD: Duration = Duration::from_secs(6);

async fn a_message_is_its_committers_first_and_anybodys_later(bench: Bench) {
    let added = bench.store.enqueue(&[task("a")]).await.unwrap();
    assert!(bench.store.outbox_take().await.unwrap().is_empty());
    bench.clock.advance(HELD);
    let taken = bench.store.outbox_take().await.unwrap();
    assert_eq!(ids(&taken), ["a"]);
    assert_eq!(taken[0].seq, added.rings[0].seq);
    assert!(
        bench.store.outbox_take().await.unwrap().is_empty(),
        "held by who took it"
    );
    bench.clock.advance(HELD);
    assert_eq!(
        ids(&bench.store.outbox_take().await.unwrap()),
        ["a"],
        "who took it died"
    );
}

async fn a_published_message_is_gone(bench: Bench) {
    let added = bench.store.enqueue(&[task("a"), task("b")]).await.unwrap();
    let a = added
        .rings
        .iter()
        .find(|ring| ring.task.id.as_str() == "a")
        .unwrap();
    bench.store.outbox_done(&[a.seq]).await.unwrap();
    bench.store.outbox_done(&[a.seq]).await.unwrap();
    bench.clock.advance(HELD);
    assert_eq!(ids(&bench.store.outbox_take().await.unwrap()), ["b"]);
}

async fn a_message_given_back_is_free_after_its_delay(bench: Bench) {
    let added = bench.store.enqueue(&[task("a")]).await.unwrap();
    bench
        .store
        .outbox_release(&[added.rings[0].seq], 1000)
        .await
        .unwrap();
    assert!(bench.store.outbox_take().await.unwrap().is_empty());
    bench.clock.advance(Duration::from_millis(1001));
    assert_eq!(ids(&bench.store.outbox_take().await.unwrap()), ["a"]);
}

async fn what_one_relay_has_taken_another_does_not_get(bench: Bench) {
    let tasks: Vec<_> = (0..100).map(|n| task(&n.to_string())).collect();
    bench.store.enqueue(&tasks).await.unwrap();
    bench.clock.advance(HELD);
    let other = bench.other();
    let (a, b) = tokio::join!(bench.store.outbox_take(), other.outbox_take());
    let mut taken = a.unwrap();
    taken.extend(b.unwrap());
    taken.extend(bench.store.outbox_take().await.unwrap());
    let distinct: HashSet<_> = taken.iter().map(|ring| ring.seq).collect();
    assert_eq!((taken.len(), distinct.len()), (100, 100));
    other.close().await;
}

async fn a_take_is_bounded_and_the_next_one_goes_on(bench: Bench) {
    let tasks: Vec<_> = (0..501).map(|n| task(&n.to_string())).collect();
    bench.store.enqueue(&tasks).await.unwrap();
    bench.clock.advance(HELD);
    assert_eq!(bench.store.outbox_take().await.unwrap().len(), 500);
    assert_eq!(bench.store.outbox_take().await.unwrap().len(), 1);
}

async fn a_message_of_a_task_that_has_run_may_come_late_and_is_harmless(bench: Bench) {
    bench.store.enqueue(&[task("a")]).await.unwrap();
    let worker = bench.worker().await;
    bench.claimed(&worker, &task("a")).await;
    bench.clock.advance(HELD);
    let late = bench.store.outbox_take().await.unwrap().remove(0).task;
    let answer = bench.claim(&bench.worker().await, &late).await;
    assert!(
        matches!(answer, longshore::store::ClaimAnswer::Busy { .. }),
        "{answer:?}"
    );
}
