//! One leader at a time, and the fence around what it writes.

use std::time::Duration;

use longshore::id::WorkerId;
use longshore::store::{Fence, StoreError};

use crate::harness::{Bench, LONG, on_both};

on_both!(
    only_one_worker_leads,
    a_leader_that_renews_keeps_its_term,
    a_leader_whose_lease_is_over_is_replaced_and_the_term_rises,
    a_leader_that_yields_is_replaced_at_once,
    of_many_candidates_at_once_one_is_elected,
    leaders_of_different_things_do_not_meet,
    the_fence_refuses_a_deposed_leader_everywhere,
);

/// The right of a leader that another has replaced.
pub(super) async fn deposed(bench: &Bench) -> Fence {
    let lease = Duration::from_millis(1);
    let old = bench
        .store
        .lead("maintenance", &WorkerId::fresh(), lease)
        .await;
    bench.clock.advance(Duration::from_millis(10));
    bench.leader().await;
    old.unwrap().unwrap()
}

async fn lead(bench: &Bench, worker: &WorkerId) -> Option<Fence> {
    let lease = Duration::from_secs(10);
    bench
        .store
        .lead("maintenance", worker, lease)
        .await
        .unwrap()
}

async fn only_one_worker_leads(bench: Bench) {
    let (one, two) = (WorkerId::fresh(), WorkerId::fresh());
    let fence = lead(&bench, &one).await.unwrap();
    assert_eq!((fence.worker, fence.term), (one, 1));
    assert_eq!(lead(&bench, &two).await, None);
}

async fn a_leader_that_renews_keeps_its_term(bench: Bench) {
    let one = WorkerId::fresh();
    let fence = lead(&bench, &one).await;
    for _ in 0..3 {
        bench.clock.advance(Duration::from_secs(6));
        assert_eq!(lead(&bench, &one).await, fence);
        assert_eq!(lead(&bench, &WorkerId::fresh()).await, None);
    }
}

async fn a_leader_whose_lease_is_over_is_replaced_and_the_term_rises(bench: Bench) {
    let (one, two) = (WorkerId::fresh(), WorkerId::fresh());
    let old = lead(&bench, &one).await.unwrap();
    bench.clock.advance(Duration::from_secs(11));
    let new = lead(&bench, &two).await.unwrap();
    assert_eq!(new.term, old.term + 1);
    assert_eq!(lead(&bench, &one).await, None, "it does not come back");
}

async fn a_leader_that_yields_is_replaced_at_once(bench: Bench) {
    let (one, two) = (WorkerId::fresh(), WorkerId::fresh());
    lead(&bench, &one).await.unwrap();
    bench.store.yield_lead("maintenance", &two).await.unwrap();
    assert_eq!(lead(&bench, &two).await, None, "only the leader can yield");
    bench.store.yield_lead("maintenance", &one).await.unwrap();
    assert!(lead(&bench, &two).await.is_some());
}

async fn of_many_candidates_at_once_one_is_elected(bench: Bench) {
    let other = bench.other();
    let candidates = (0..16).map(|n| {
        let store = if n % 2 == 0 { &bench.store } else { &other };
        async move { store.lead("maintenance", &WorkerId::fresh(), LONG).await }
    });
    let answers = futures::future::join_all(candidates).await;
    let elected = answers.into_iter().filter_map(Result::unwrap).count();
    assert_eq!(elected, 1);
    other.close().await;
}

async fn leaders_of_different_things_do_not_meet(bench: Bench) {
    let (one, two) = (WorkerId::fresh(), WorkerId::fresh());
    lead(&bench, &one).await.unwrap();
    let other = bench.store.lead("other", &two, LONG).await.unwrap();
    assert_eq!(other.unwrap().term, 1);
}

async fn the_fence_refuses_a_deposed_leader_everywhere(bench: Bench) {
    let deposed = deposed(&bench).await;
    let store = &bench.store;
    let hour = Duration::from_secs(3600);
    let answers = [
        store.mark_lost(&deposed, &[]).await.map(drop),
        store.rescue(&deposed, 3).await.map(drop),
        store.due(&deposed).await.map(drop),
        store.ring_again(&deposed, hour).await.map(drop),
        store.sweep(&deposed, hour).await.map(drop),
    ];
    for answer in answers {
        assert!(
            matches!(answer, Err(StoreError::Stale { .. })),
            "{answer:?}"
        );
    }
}
