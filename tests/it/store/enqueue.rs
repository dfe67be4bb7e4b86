//! Adding tasks, and those that wait for their time.

use std::time::Duration;

use longshore::store::{Ring, State, StoreError};

use crate::harness::{Bench, id, on_both, task};

on_both!(
    an_enqueued_task_is_queued_and_announced,
    enqueueing_twice_is_enqueueing_once,
    a_task_with_a_countdown_waits_until_it_is_due,
    a_task_whose_time_is_over_when_it_is_due_expires,
    a_deposed_leader_makes_nothing_due,
    the_counts_are_those_of_the_tasks,
    a_listing_selects_by_state_and_is_bounded,
);

pub(super) fn ids(rings: &[Ring]) -> Vec<&str> {
    let mut ids: Vec<_> = rings.iter().map(|ring| ring.task.id.as_str()).collect();
    ids.sort_unstable();
    ids
}

async fn an_enqueued_task_is_queued_and_announced(bench: Bench) {
    let first = task("a").with("key", "value");
    let added = bench
        .store
        .enqueue(&[first.clone(), task("b")])
        .await
        .unwrap();
    assert_eq!(added.new, [id("a"), id("b")]);
    assert_eq!(ids(&added.rings), ["a", "b"]);
    let ring = added.rings.iter().find(|ring| ring.task.id == first.id);
    assert_eq!(
        ring.unwrap().task,
        first,
        "the announcement is the task itself"
    );
    assert_eq!(bench.view("a").await.state, State::Queued);
    assert_eq!(bench.number("select count(*) from outbox").await, 2);
}

async fn enqueueing_twice_is_enqueueing_once(bench: Bench) {
    bench
        .store
        .enqueue(&[task("a").with("n", 1)])
        .await
        .unwrap();
    let again = [task("a").with("n", 2), task("b"), task("b")];
    let added = bench.store.enqueue(&again).await.unwrap();
    assert_eq!(added.new, [id("b")]);
    assert!(added.rings.iter().all(|ring| ring.task.id == id("b")));
    assert!(bench.view("a").await.task.contains("{\"n\":1}"));

    let worker = bench.worker().await;
    bench.claimed(&worker, &task("a")).await;
    let added = bench.store.enqueue(&[task("a")]).await.unwrap();
    assert!(added.new.is_empty() && added.rings.is_empty());
    assert_eq!(bench.view("a").await.state, State::Running);
}

async fn a_task_with_a_countdown_waits_until_it_is_due(bench: Bench) {
    let mut later = task("a");
    later.run_at = Some(bench.clock.now() + 60_000);
    let added = bench
        .store
        .enqueue(&[later.clone(), task("b")])
        .await
        .unwrap();
    assert_eq!(ids(&added.rings), ["b"], "what waits is not announced");
    assert_eq!(bench.view("a").await.state, State::Waiting);
    assert_eq!(bench.store.next_due().await.unwrap(), later.run_at);

    let leader = bench.leader().await;
    assert!(bench.store.due(&leader).await.unwrap().is_empty());
    bench.clock.advance(Duration::from_secs(61));
    let rings = bench.store.due(&leader).await.unwrap();
    assert_eq!(ids(&rings), ["a"]);
    assert_eq!(rings[0].task.run_at, None, "its message is for now");
    assert_eq!(bench.view("a").await.state, State::Queued);
    assert_eq!(bench.store.next_due().await.unwrap(), None);
    // Within one millisecond it may be announced twice, which is harmless.
    bench.clock.advance(Duration::from_millis(1));
    assert!(
        bench.store.due(&leader).await.unwrap().is_empty(),
        "due once"
    );
}

async fn a_task_whose_time_is_over_when_it_is_due_expires(bench: Bench) {
    let mut later = task("a");
    later.run_at = Some(bench.clock.now() + 60_000);
    later.expires_at = Some(bench.clock.now() + 90_000);
    bench.store.enqueue(&[later]).await.unwrap();
    bench.clock.advance(Duration::from_secs(91));
    let leader = bench.leader().await;
    assert!(bench.store.due(&leader).await.unwrap().is_empty());
    let view = bench.view("a").await;
    assert_eq!(view.state, State::Expired);
    assert!(view.ended_at.is_some());
}

async fn a_deposed_leader_makes_nothing_due(bench: Bench) {
    let mut later = task("a");
    later.run_at = Some(bench.clock.now() + 1000);
    bench.store.enqueue(&[later]).await.unwrap();
    let deposed = super::leaders::deposed(&bench).await;
    bench.clock.advance(Duration::from_secs(2));
    let answer = bench.store.due(&deposed).await;
    assert!(
        matches!(answer, Err(StoreError::Stale { .. })),
        "{answer:?}"
    );
    assert_eq!(bench.view("a").await.state, State::Waiting);
}

async fn the_counts_are_those_of_the_tasks(bench: Bench) {
    bench.running("r").await;
    bench.store.enqueue(&[task("a"), task("b")]).await.unwrap();
    let counts = bench.store.task_counts().await.unwrap();
    assert_eq!(counts.len(), 2);
    assert_eq!((counts[&State::Queued], counts[&State::Running]), (2, 1));
}

async fn a_listing_selects_by_state_and_is_bounded(bench: Bench) {
    let tasks: Vec<_> = (0..5).map(|n| task(&format!("t{n}"))).collect();
    bench.store.enqueue(&tasks).await.unwrap();
    bench.running("r").await;
    let filter = longshore::store::Filter {
        id: None,
        state: Some(State::Queued),
        most: 3,
    };
    let found = bench.store.tasks(&filter).await.unwrap();
    let found: Vec<_> = found.iter().map(|view| view.id.as_str()).collect();
    assert_eq!(found, ["t0", "t1", "t2"]);
}
