//! A task that is never run twice: whatever takes it from its worker ends it, and says that nobody knows what it did.

use std::time::Duration;

use longshore::lane::Lane;
use longshore::store::{ClaimAnswer, SetAside, Settlement, State};
use longshore::task::Task;

use super::rescue::lose;
use crate::harness::{Bench, id, on_both, task};

on_both!(
    a_dead_workers_task_is_a_dead_letter_if_it_is_to_run_once,
    nobody_takes_over_what_is_to_run_once,
    what_is_to_run_once_and_is_given_back_has_ended,
    what_is_to_run_once_is_canceled_as_any_other_is,
    what_is_to_run_once_runs_by_hand_only_if_it_never_could,
    the_next_one_of_its_lane_runs_when_one_is_given_up,
);

fn once(name: &str) -> Task {
    Task {
        once: true,
        ..task(name)
    }
}

async fn enqueued(bench: &Bench, name: &str) -> Task {
    let task = once(name);
    let all = std::slice::from_ref(&task);
    bench.store.enqueue(all).await.unwrap();
    task
}

async fn a_dead_workers_task_is_a_dead_letter_if_it_is_to_run_once(bench: Bench) {
    let (task, dead) = (enqueued(&bench, "a").await, bench.worker().await);
    let epoch = bench.claimed(&dead, &task).await.epoch;
    lose(&bench, &dead).await;
    let leader = bench.leader().await;
    let (rings, letters) = bench.store.rescue(&leader, 9).await.unwrap();
    let letters: Vec<_> = letters.into_iter().map(|letter| letter.id).collect();
    assert_eq!((rings.len(), letters), (0, vec![id("a")]));
    let view = bench.view("a").await;
    assert_eq!((view.state, view.crashes), (State::Dead, 1));
    assert!(view.reason.unwrap().contains("never run again by itself"));
    assert!(view.ended_at.is_some());
    // It was not dead, and says what it did: too late.
    let late = [(id("a"), epoch, Settlement::default())];
    let (settled, _) = bench.store.settle(&late).await.unwrap();
    assert!(settled.is_empty());
}

async fn nobody_takes_over_what_is_to_run_once(bench: Bench) {
    let (task, dead) = (enqueued(&bench, "a").await, bench.worker().await);
    let epoch = bench.claimed(&dead, &task).await.epoch;
    let heir = bench.worker().await;
    let taken = bench
        .store
        .take_over(&heir, &task.id, epoch, &dead, 9, None);
    assert_eq!(taken.await.unwrap(), None);
    let again = bench.claim(&heir, &task).await;
    assert!(matches!(again, ClaimAnswer::Busy { .. }), "{again:?}");
    assert_eq!(bench.view("a").await.state, State::Running);
}

async fn what_is_to_run_once_and_is_given_back_has_ended(bench: Bench) {
    let worker = bench.worker().await;
    // A hand-off, and what would be tried again later.
    for (name, state) in [("handed-off", State::Queued), ("later", State::Waiting)] {
        let task = enqueued(&bench, name).await;
        let epoch = bench.claimed(&worker, &task).await.epoch;
        let settlement = Settlement {
            state: Some(state),
            delay: 1,
            reason: Some("it drains".into()),
            ..Settlement::default()
        };
        let items = [(task.id.clone(), epoch, settlement)];
        let (settled, rings) = bench.store.settle(&items).await.unwrap();
        assert_eq!((settled.len(), rings.len()), (1, 0), "nobody is called");
        let view = bench.view(name).await;
        assert_eq!((view.state, view.interruptions), (State::Dead, 1), "{name}");
        assert!(view.ended_at.is_some());
        let reason = view.reason.unwrap();
        assert!(reason.starts_with("it drains; given up while it ran"));
        bench.clock.advance(Duration::from_secs(1));
        let leader = bench.store.lead("due", &worker, Duration::from_secs(9));
        let leader = leader.await.unwrap().unwrap();
        assert!(bench.store.due(&leader).await.unwrap().is_empty());
        let again = bench.claim(&worker, &task).await;
        assert!(matches!(again, ClaimAnswer::Not(_)), "{again:?}");
    }
}

async fn what_is_to_run_once_is_canceled_as_any_other_is(bench: Bench) {
    let (task, worker) = (enqueued(&bench, "a").await, bench.worker().await);
    let epoch = bench.claimed(&worker, &task).await.epoch;
    bench.store.cancel("a", "by hand").await.unwrap();
    let handed_off = Settlement {
        state: Some(State::Queued),
        interrupted: true,
        ..Settlement::default()
    };
    let items = [(task.id.clone(), epoch, handed_off)];
    bench.store.settle(&items).await.unwrap();
    let view = bench.view("a").await;
    assert_eq!(view.state, State::Canceled);
    assert!(view.epoch == epoch, "so that one knows that it began");
}

async fn what_is_to_run_once_runs_by_hand_only_if_it_never_could(bench: Bench) {
    let worker = bench.worker().await;
    // Whoever enqueued it has been told that it will not run.
    enqueued(&bench, "canceled").await;
    bench.store.cancel("canceled", "by hand").await.unwrap();
    let given_up = enqueued(&bench, "given-up").await;
    let epoch = bench.claimed(&worker, &given_up).await.epoch;
    let settlement = Settlement {
        state: Some(State::Queued),
        ..Settlement::default()
    };
    let items = [(given_up.id.clone(), epoch, settlement)];
    bench.store.settle(&items).await.unwrap();
    let unknown = enqueued(&bench, "unknown").await;
    let parked = SetAside {
        task: unknown,
        state: State::Parked,
        reason: Some("nobody knows it".into()),
    };
    bench.store.set_aside(&[parked]).await.unwrap();
    let names = ["canceled", "given-up", "unknown"].map(str::to_owned);
    bench.store.revive(&names).await.unwrap();
    assert_eq!(bench.view("canceled").await.state, State::Canceled);
    assert_eq!(bench.view("given-up").await.state, State::Dead);
    assert_eq!(bench.view("unknown").await.state, State::Queued);
}

async fn the_next_one_of_its_lane_runs_when_one_is_given_up(bench: Bench) {
    let in_lane = |name: &str| {
        once(name).in_lane(Lane {
            on_failure: longshore::lane::OnFailure::Skip,
            ..Lane::new("l")
        })
    };
    let (first, second) = (in_lane("first"), in_lane("second"));
    let both = [first.clone(), second.clone()];
    bench.store.enqueue(&both).await.unwrap();
    let dead = bench.worker().await;
    let token = bench.claimed(&dead, &first).await.token;
    lose(&bench, &dead).await;
    let leader = bench.leader().await;
    bench.store.rescue(&leader, 9).await.unwrap();
    let heir = bench.worker().await;
    // A late write of the first one is older than this.
    assert!(bench.claimed(&heir, &second).await.token > token);
}
