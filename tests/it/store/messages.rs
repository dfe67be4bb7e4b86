//! The rows behind the embedded broker.

use longshore::id::WorkerId;
use longshore::store::Taken;

use crate::harness::{Bench, LIMIT, LONG, on_both};

on_both!(
    a_message_is_taken_once,
    the_largest_priority_is_taken_first_and_then_the_oldest,
    only_its_consumer_can_drop_a_message,
    a_message_given_back_is_redelivered,
    what_a_dead_consumer_held_is_given_back_and_what_a_live_one_holds_is_not,
    a_take_is_bounded_over_all_its_queues,
    what_is_committed_during_a_look_is_not_missed,
);

async fn put(bench: &Bench, messages: &[(&str, u8, &str)]) {
    let rows: Vec<_> = messages
        .iter()
        .map(|(queue, priority, content)| ((*queue).to_owned(), *priority, (*content).to_owned()))
        .collect();
    bench.store.put_messages(&rows).await.unwrap();
}

async fn take(bench: &Bench, worker: &WorkerId, queues: &[&str], want: usize) -> Vec<Taken> {
    let queues: Vec<_> = queues.iter().map(|queue| (*queue).to_owned()).collect();
    bench
        .store
        .take_messages(worker, &queues, want)
        .await
        .unwrap()
}

fn contents(taken: &[Taken]) -> Vec<&str> {
    taken
        .iter()
        .map(|message| message.content.as_str())
        .collect()
}

async fn a_message_is_taken_once(bench: Bench) {
    let (one, two) = (bench.worker().await, bench.worker().await);
    let queue = ["a".to_owned()];
    assert!(!bench.store.has_messages(&queue).await.unwrap());
    put(&bench, &[("a", 0, "x"), ("b", 0, "of another queue")]).await;
    assert!(bench.store.has_messages(&queue).await.unwrap());
    assert_eq!(bench.store.queue_depth("a").await.unwrap(), 1);
    let taken = take(&bench, &one, &["a"], 9).await;
    assert_eq!(contents(&taken), ["x"]);
    assert_eq!((taken[0].queue.as_str(), taken[0].redelivered), ("a", 0));
    assert!(take(&bench, &two, &["a"], 9).await.is_empty());
    assert!(!bench.store.has_messages(&queue).await.unwrap());
    assert_eq!(bench.store.queue_depth("a").await.unwrap(), 0);
}

async fn the_largest_priority_is_taken_first_and_then_the_oldest(bench: Bench) {
    let worker = bench.worker().await;
    put(
        &bench,
        &[("a", 0, "1"), ("a", 9, "2"), ("a", 0, "3"), ("a", 9, "4")],
    )
    .await;
    let mut order = Vec::new();
    for _ in 0..4 {
        order.push(take(&bench, &worker, &["a"], 1).await.remove(0).content);
    }
    assert_eq!(order, ["2", "4", "1", "3"]);
}

async fn only_its_consumer_can_drop_a_message(bench: Bench) {
    let (one, two) = (bench.worker().await, bench.worker().await);
    put(&bench, &[("a", 0, "x"), ("a", 0, "y")]).await;
    let taken = take(&bench, &one, &["a"], 1).await;
    let seqs: Vec<_> = taken.iter().map(|message| message.seq).collect();
    let all = "select count(*) from messages";
    bench.store.drop_messages(&two, &seqs).await.unwrap();
    bench.store.release_messages(&two, &seqs).await.unwrap();
    assert_eq!(bench.number(all).await, 2);
    assert_eq!(bench.store.queue_depth("a").await.unwrap(), 1);
    bench.store.drop_messages(&one, &seqs).await.unwrap();
    assert_eq!(bench.number(all).await, 1);
    assert_eq!(contents(&take(&bench, &two, &["a"], 9).await), ["y"]);
}

async fn a_message_given_back_is_redelivered(bench: Bench) {
    let (one, two) = (bench.worker().await, bench.worker().await);
    put(&bench, &[("a", 0, "x")]).await;
    let taken = take(&bench, &one, &["a"], 1).await;
    bench
        .store
        .release_messages(&one, &[taken[0].seq])
        .await
        .unwrap();
    let taken = take(&bench, &two, &["a"], 1).await;
    assert_eq!((contents(&taken), taken[0].redelivered), (vec!["x"], 1));
}

async fn what_a_dead_consumer_held_is_given_back_and_what_a_live_one_holds_is_not(bench: Bench) {
    let own = bench.worker().await;
    let (dying, member) = bench.other_worker(LONG).await;
    let (living, live) = bench.other_worker(LONG).await;
    put(&bench, &[("a", 0, "x"), ("a", 0, "y"), ("a", 0, "z")]).await;
    for worker in [&own, &member.id, &live.id] {
        take(&bench, worker, &["a"], 1).await;
    }
    assert_eq!(bench.store.release_dead_consumers(&own).await.unwrap(), 0);
    dying.let_go(&member.id).await;
    crate::harness::wait_until("the death shows", LIMIT, async || {
        bench.store.release_dead_consumers(&own).await.unwrap() == 1
    })
    .await;
    let taken = take(&bench, &own, &["a"], 9).await;
    assert_eq!((contents(&taken), taken[0].redelivered), (vec!["y"], 1));
    living.close().await;
    dying.close().await;
}

async fn a_take_is_bounded_over_all_its_queues(bench: Bench) {
    let worker = bench.worker().await;
    put(
        &bench,
        &[("a", 0, "1"), ("b", 0, "2"), ("a", 0, "3"), ("b", 0, "4")],
    )
    .await;
    assert_eq!(take(&bench, &worker, &["a", "b"], 3).await.len(), 3);
    assert_eq!(take(&bench, &worker, &["a", "b"], 3).await.len(), 1);
}

async fn what_is_committed_during_a_look_is_not_missed(bench: Bench) {
    let other = bench.other();
    let watch = bench.store.watch().await.unwrap();
    assert!(
        !bench.store.has_messages(&["a".to_owned()]).await.unwrap(),
        "the look finds nothing"
    );
    let message = ("a".to_owned(), 0, "x".to_owned());
    other.put_messages(&[message]).await.unwrap();
    let woken = tokio::time::timeout(LIMIT, watch.changed(LONG)).await;
    woken
        .expect("it does not wait for the next commit")
        .unwrap();
    other.close().await;
}
