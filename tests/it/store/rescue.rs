//! What becomes of a dead worker's tasks.

use std::time::Duration;

use longshore::id::WorkerId;
use longshore::store::{DeadLetter, Settlement, State, StoreError};

use super::enqueue::ids;
use crate::harness::{Bench, id, on_both, task};

on_both!(
    a_take_over_claims_under_the_next_epoch_and_counts_a_crash,
    a_take_over_is_only_of_the_dead_workers_attempt,
    a_take_over_stops_at_the_crash_limit,
    what_somebody_wants_canceled_is_not_taken_over,
    of_two_that_take_over_at_once_one_succeeds,
    a_lost_workers_tasks_are_queued_once,
    at_the_crash_limit_a_task_is_a_dead_letter_that_says_so,
    a_live_workers_tasks_are_not_rescued,
    a_worker_that_has_renewed_since_is_not_lost,
    a_task_that_left_its_dead_worker_is_not_rescued,
    what_nobody_claimed_for_long_is_announced_again,
    ended_tasks_are_swept_when_they_are_old_and_dead_letters_stay,
);

async fn a_take_over_claims_under_the_next_epoch_and_counts_a_crash(bench: Bench) {
    let (task, dead, epoch) = bench.running("a").await;
    let heir = bench.worker().await;
    let taken = bench
        .store
        .take_over(&heir, &task.id, epoch, &dead, 3, None)
        .await;
    let claimed = taken.unwrap().unwrap();
    assert_eq!((claimed.epoch, claimed.crashes), (epoch.next(), 1));
    assert_eq!(bench.view("a").await.worker.as_deref(), Some(heir.as_str()));
    let late = [(task.id.clone(), epoch, Settlement::default())];
    let (settled, _) = bench.store.settle(&late).await.unwrap();
    assert!(settled.is_empty(), "the dead worker's word counts no more");
}

async fn a_take_over_is_only_of_the_dead_workers_attempt(bench: Bench) {
    let (task, dead, epoch) = bench.running("a").await;
    let (store, heir) = (&bench.store, bench.worker().await);
    let of_another = store
        .take_over(&heir, &task.id, epoch, &heir, 3, None)
        .await;
    assert_eq!(of_another.unwrap(), None);
    let of_a_later_claim = store
        .take_over(&heir, &task.id, epoch.next(), &dead, 3, None)
        .await;
    assert_eq!(of_a_later_claim.unwrap(), None);
    let settled = [(task.id.clone(), epoch, Settlement::default())];
    store.settle(&settled).await.unwrap();
    let of_what_is_done = store
        .take_over(&heir, &task.id, epoch, &dead, 3, None)
        .await;
    assert_eq!(of_what_is_done.unwrap(), None);
    assert_eq!(bench.view("a").await.epoch, epoch);
}

async fn a_take_over_stops_at_the_crash_limit(bench: Bench) {
    let (task, worker, mut epoch) = bench.running("a").await;
    for _ in 0..2 {
        let taken = bench
            .store
            .take_over(&worker, &task.id, epoch, &worker, 3, None)
            .await;
        epoch = taken.unwrap().expect("below the limit").epoch;
    }
    let taken = bench
        .store
        .take_over(&worker, &task.id, epoch, &worker, 3, None)
        .await;
    assert_eq!(taken.unwrap(), None);
}

async fn what_somebody_wants_canceled_is_not_taken_over(bench: Bench) {
    let (task, dead, epoch) = bench.running("a").await;
    let (store, heir) = (&bench.store, bench.worker().await);
    store.cancel("a", "by hand").await.unwrap();
    let taken = store
        .take_over(&heir, &task.id, epoch, &dead, 3, None)
        .await;
    assert_eq!(taken.unwrap(), None);
    store.leave(&dead).await.unwrap();
    store.rescue(&bench.leader().await, 3).await.unwrap();
    assert_eq!(bench.view("a").await.state, State::Canceled);
}

async fn of_two_that_take_over_at_once_one_succeeds(bench: Bench) {
    let (task, dead, epoch) = bench.running("a").await;
    let (one, two, other) = (bench.worker().await, bench.worker().await, bench.other());
    let (a, b) = tokio::join!(
        bench.store.take_over(&one, &task.id, epoch, &dead, 9, None),
        other.take_over(&two, &task.id, epoch, &dead, 9, None),
    );
    assert!(a.unwrap().is_some() ^ b.unwrap().is_some());
    other.close().await;
}

/// Has `worker` given up for dead.
pub(super) async fn lose(bench: &Bench, worker: &WorkerId) {
    let workers = bench.store.workers(false).await.unwrap();
    let until = workers
        .iter()
        .find(|view| view.id == *worker)
        .unwrap()
        .lease_until;
    let leader = bench
        .store
        .lead("losing", worker, Duration::from_secs(9))
        .await;
    let lost = [(worker.clone(), until)];
    let count = bench
        .store
        .mark_lost(&leader.unwrap().unwrap(), &lost)
        .await;
    assert_eq!(count.unwrap(), 1);
}

async fn a_lost_workers_tasks_are_queued_once(bench: Bench) {
    let (_, dead, epoch) = bench.running("a").await;
    bench.claimed(&dead, &task("b")).await;
    lose(&bench, &dead).await;
    let leader = bench.leader().await;
    let (rings, letters) = bench.store.rescue(&leader, 3).await.unwrap();
    assert_eq!(ids(&rings), ["a", "b"]);
    assert!(letters.is_empty());
    let view = bench.view("a").await;
    assert_eq!(
        (view.state, view.crashes, view.failures),
        (State::Queued, 1, 0)
    );
    assert_eq!((view.worker, view.epoch), (None, epoch));
    let (rings, _) = bench.store.rescue(&leader, 3).await.unwrap();
    assert!(rings.is_empty(), "once");
    let heir = bench.worker().await;
    assert_eq!(bench.claimed(&heir, &task("a")).await.epoch, epoch.next());
}

async fn at_the_crash_limit_a_task_is_a_dead_letter_that_says_so(bench: Bench) {
    let leader = bench.leader().await;
    for crash in 1..=2 {
        let (_, dead, _) = bench.running("a").await;
        lose(&bench, &dead).await;
        bench.store.yield_lead("losing", &dead).await.unwrap();
        bench.clock.advance(Duration::from_millis(1));
        let (rings, letters) = bench.store.rescue(&leader, 2).await.unwrap();
        let (name, queue) = (task("a").name, task("a").queue);
        let letter = DeadLetter {
            id: id("a"),
            name,
            queue,
        };
        let expected = if crash == 2 { vec![letter] } else { vec![] };
        assert_eq!(letters, expected);
        assert_eq!(rings.len(), 1 - expected.len());
    }
    let view = bench.view("a").await;
    assert_eq!((view.state, view.crashes), (State::Dead, 2));
    assert!(view.ended_at.is_some());
    assert!(view.reason.unwrap().contains("its worker died 2 times"));
}

async fn a_live_workers_tasks_are_not_rescued(bench: Bench) {
    bench.running("a").await;
    let (rings, letters) = bench.store.rescue(&bench.leader().await, 3).await.unwrap();
    assert!(rings.is_empty() && letters.is_empty());
    assert_eq!(bench.view("a").await.state, State::Running);
}

async fn a_worker_that_has_renewed_since_is_not_lost(bench: Bench) {
    let worker = bench.worker().await;
    let until = bench.store.workers(false).await.unwrap()[0].lease_until;
    bench.clock.advance(Duration::from_secs(1));
    let lease = Duration::from_secs(3600);
    bench.store.renew(&worker, "running", lease).await.unwrap();
    let leader = bench.leader().await;
    let lost = bench
        .store
        .mark_lost(&leader, &[(worker.clone(), until)])
        .await;
    assert_eq!(lost.unwrap(), 0);
    assert!(bench.store.renew(&worker, "running", lease).await.unwrap());
}

async fn a_task_that_left_its_dead_worker_is_not_rescued(bench: Bench) {
    let (task, dead, epoch) = bench.running("a").await;
    let heir = bench.worker().await;
    let taken = bench
        .store
        .take_over(&heir, &task.id, epoch, &dead, 3, None)
        .await;
    assert!(taken.unwrap().is_some());
    lose(&bench, &dead).await;
    let (rings, _) = bench.store.rescue(&bench.leader().await, 3).await.unwrap();
    assert!(rings.is_empty());
    assert_eq!(bench.view("a").await.crashes, 1, "one death is one crash");
}

async fn what_nobody_claimed_for_long_is_announced_again(bench: Bench) {
    bench.store.enqueue(&[task("a"), task("b")]).await.unwrap();
    let worker = bench.worker().await;
    bench.claimed(&worker, &task("b")).await;
    let (leader, minute) = (bench.leader().await, Duration::from_secs(60));
    assert!(
        bench
            .store
            .ring_again(&leader, minute)
            .await
            .unwrap()
            .is_empty()
    );
    bench.clock.advance(minute * 2);
    let rings = bench.store.ring_again(&leader, minute).await.unwrap();
    assert_eq!(ids(&rings), ["a"]);
    bench.clock.advance(Duration::from_millis(1));
    let rings = bench.store.ring_again(&leader, minute).await.unwrap();
    assert!(
        rings.is_empty(),
        "not again before that time has passed again"
    );
}

async fn ended_tasks_are_swept_when_they_are_old_and_dead_letters_stay(bench: Bench) {
    for (name, state) in [("done", State::Done), ("dead", State::Dead)] {
        let (task, worker, epoch) = bench.running(name).await;
        let settlement = Settlement {
            state: Some(state),
            ..Settlement::default()
        };
        bench
            .store
            .settle(&[(task.id, epoch, settlement)])
            .await
            .unwrap();
        bench.store.leave(&worker).await.unwrap();
    }
    let (_, at_work, _) = bench.running("running").await;
    let (leader, hour) = (bench.leader().await, Duration::from_secs(3600));
    assert_eq!(bench.store.sweep(&leader, hour).await.unwrap(), 0);
    bench.clock.advance(hour * 2);
    assert_eq!(bench.store.sweep(&leader, hour).await.unwrap(), 1);
    assert!(bench.find("done").await.is_none());
    assert_eq!(bench.view("dead").await.state, State::Dead);
    assert_eq!(bench.view("running").await.state, State::Running);
    let left = bench.store.workers(true).await.unwrap();
    let left: Vec<_> = left.into_iter().map(|view| view.id).collect();
    assert_eq!(left, [at_work], "workers that ended are forgotten too");
    let answer = bench.store.sweep(&leaders_of_nothing(&leader), hour).await;
    assert!(
        matches!(answer, Err(StoreError::Stale { .. })),
        "{answer:?}"
    );
}

fn leaders_of_nothing(leader: &longshore::store::Fence) -> longshore::store::Fence {
    longshore::store::Fence {
        term: leader.term + 1,
        ..leader.clone()
    }
}
