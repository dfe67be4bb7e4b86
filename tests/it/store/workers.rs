//! Workers: joining, renewing, leaving, and how their death shows.

use std::time::Duration;

use longshore::store::{Held, Store, StoreConfig};

use crate::harness::{BackEnd, Bench, LIMIT, LONG, member, on_both, wait_until};

on_both!(
    a_worker_that_joins_is_listed,
    a_renewal_prolongs_the_lease,
    a_worker_given_up_for_dead_cannot_renew_but_join_again,
    a_worker_that_leaves_is_listed_only_among_the_ended,
    what_a_worker_holds_is_what_it_has_claimed,
    a_worker_is_dead_when_its_lease_is_over,
    a_worker_is_dead_when_its_lock_is_lost,
    a_worker_is_dead_when_it_has_left_or_was_never_there,
    without_locks_the_lease_alone_decides,
    a_lock_can_be_given_back_and_taken_by_the_next_worker,
);

async fn a_worker_that_joins_is_listed(bench: Bench) {
    let member = member();
    bench.store.join(&member, "starting", LONG).await.unwrap();
    let [view] = &bench.store.workers(false).await.unwrap()[..] else {
        panic!("one worker has joined");
    };
    assert_eq!(view.id, member.id);
    assert_eq!(
        (view.pool.as_str(), view.kind.as_str()),
        ("fetch", "elastic")
    );
    assert_eq!(
        (view.state.as_str(), view.host.as_str()),
        ("starting", "host")
    );
    assert_eq!((view.slots, view.pid, view.running), (4, 1, 0));
    assert_eq!(view.lock_key, member.lock_key);
    assert!(view.lease_until > bench.clock.now());
}

async fn a_renewal_prolongs_the_lease(bench: Bench) {
    let member = member();
    let lease = Duration::from_secs(15);
    bench.store.join(&member, "starting", lease).await.unwrap();
    let before = bench.store.workers(false).await.unwrap()[0].lease_until;
    bench.clock.advance(Duration::from_secs(10));
    assert!(bench.store.renew(&member.id, "quiet", lease).await.unwrap());
    let view = bench.store.workers(false).await.unwrap().remove(0);
    assert!(view.lease_until >= before + 10_000);
    assert_eq!(view.state, "quiet");
}

async fn a_worker_given_up_for_dead_cannot_renew_but_join_again(bench: Bench) {
    let (store, member) = bench.other_worker(Duration::from_secs(15)).await;
    let until = store.workers(false).await.unwrap()[0].lease_until;
    let leader = bench.leader().await;
    let lost = [(member.id.clone(), until)];
    assert_eq!(bench.store.mark_lost(&leader, &lost).await.unwrap(), 1);
    assert!(!store.renew(&member.id, "running", LONG).await.unwrap());
    store.join(&member, "running", LONG).await.unwrap();
    assert!(store.renew(&member.id, "running", LONG).await.unwrap());
    store.close().await;
}

async fn a_worker_that_leaves_is_listed_only_among_the_ended(bench: Bench) {
    let worker = bench.worker().await;
    bench.store.leave(&worker).await.unwrap();
    assert!(bench.store.workers(false).await.unwrap().is_empty());
    assert_eq!(bench.store.workers(true).await.unwrap()[0].state, "stopped");
}

async fn what_a_worker_holds_is_what_it_has_claimed(bench: Bench) {
    let (task, worker, epoch) = bench.running("a").await;
    bench.running("of another").await;
    let held = |cancel| Held {
        id: task.id.clone(),
        epoch,
        cancel,
    };
    assert_eq!(bench.store.held(&worker).await.unwrap(), [held(0)]);
    bench.store.cancel("a", "by hand").await.unwrap();
    assert_eq!(bench.store.held(&worker).await.unwrap(), [held(1)]);
}

async fn a_worker_is_dead_when_its_lease_is_over(bench: Bench) {
    let (store, member) = bench.other_worker(Duration::from_secs(15)).await;
    let among = [member.id.clone()];
    assert!(bench.store.dead_among(&among).await.unwrap().is_empty());
    bench.clock.advance(Duration::from_secs(16));
    assert_eq!(
        bench.store.dead_among(&among).await.unwrap(),
        among,
        "lock or not"
    );
    store.close().await;
}

async fn a_worker_is_dead_when_its_lock_is_lost(bench: Bench) {
    let (store, member) = bench.other_worker(LONG).await;
    let among = [member.id.clone()];
    assert!(bench.store.dead_among(&among).await.unwrap().is_empty());
    // The end of the process: its connections and its files are closed.
    store.close().await;
    drop(store);
    wait_until("the worker's death shows", LIMIT, async || {
        bench.store.dead_among(&among).await.unwrap() == among
    })
    .await;
}

async fn a_worker_is_dead_when_it_has_left_or_was_never_there(bench: Bench) {
    let (left, unknown, live) = (
        bench.worker().await,
        member().id,
        bench.other_worker(LONG).await,
    );
    bench.store.leave(&left).await.unwrap();
    let among = [left.clone(), unknown.clone(), live.1.id.clone()];
    let dead = bench.store.dead_among(&among).await.unwrap();
    assert_eq!(dead, [left, unknown]);
    live.0.close().await;
}

async fn without_locks_the_lease_alone_decides(bench: Bench) {
    let config = StoreConfig {
        locks: false,
        ..bench.config.clone()
    };
    let store = Store::open(&config, bench.clock.clone()).unwrap();
    let member = member();
    store
        .join(&member, "running", Duration::from_secs(15))
        .await
        .unwrap();
    store.hold(&member).await.unwrap();
    let among = [member.id];
    assert!(store.dead_among(&among).await.unwrap().is_empty());
    bench.clock.advance(Duration::from_secs(16));
    assert_eq!(store.dead_among(&among).await.unwrap(), among);
    store.close().await;
}

async fn a_lock_can_be_given_back_and_taken_by_the_next_worker(bench: Bench) {
    let store = bench.other();
    for _ in 0..2 {
        let member = member();
        store.join(&member, "running", LONG).await.unwrap();
        store.hold(&member).await.unwrap();
        store.hold(&member).await.unwrap();
        let among = [member.id.clone()];
        assert!(bench.store.dead_among(&among).await.unwrap().is_empty());
        store.let_go(&member.id).await;
        wait_until("the lock is free", LIMIT, async || {
            bench.store.dead_among(&among).await.unwrap() == among
        })
        .await;
    }
    if bench.back_end == BackEnd::Sqlite {
        let left = std::fs::read_dir(bench.folder.join("store.locks")).unwrap();
        assert_eq!(left.count(), 0, "lock files go with their workers");
    }
    store.close().await;
}
