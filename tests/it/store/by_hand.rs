//! What an operator does by hand, and parked names.

use longshore::store::{ClaimAnswer, Settlement, State};

use super::enqueue::ids;
use super::settle::set_aside;
use crate::harness::{Bench, on_both, task};

on_both!(
    parked_tasks_run_when_a_worker_knows_their_name,
    what_waits_is_canceled_at_once,
    what_runs_is_asked_to_stop,
    what_is_over_is_not_canceled,
    a_revived_task_runs_again_with_its_counts_at_zero,
    what_runs_or_is_done_is_not_revived,
);

async fn parked_tasks_run_when_a_worker_knows_their_name(bench: Bench) {
    set_aside(&bench, &task("a"), State::Parked).await;
    let mut unknown = task("b");
    unknown.name = "other".into();
    set_aside(&bench, &unknown, State::Parked).await;
    let rings = bench.store.unpark(&["demo.work".into()]).await.unwrap();
    assert_eq!(ids(&rings), ["a"]);
    let view = bench.view("a").await;
    assert_eq!((view.state, view.reason), (State::Queued, None));
    assert_eq!(bench.view("b").await.state, State::Parked);
    let rings = bench.store.unpark(&["demo.work".into()]).await.unwrap();
    // One made runnable in this very millisecond may be announced twice; it is not parked any more.
    assert!(rings.iter().all(|ring| ring.task.id.as_str() == "a"));
}

async fn what_waits_is_canceled_at_once(bench: Bench) {
    let mut later = task("waiting");
    later.run_at = Some(bench.clock.now() + 60_000);
    bench.store.enqueue(&[task("queued"), later]).await.unwrap();
    set_aside(&bench, &task("parked"), State::Parked).await;
    for name in ["queued", "waiting", "parked"] {
        let answer = bench.store.cancel(name, "not wanted").await.unwrap();
        assert_eq!(answer, Some(State::Canceled));
        let view = bench.view(name).await;
        assert_eq!(view.state, State::Canceled);
        assert_eq!(view.reason.as_deref(), Some("not wanted"));
        assert!(view.ended_at.is_some());
    }
    let worker = bench.worker().await;
    let answer = bench.claim(&worker, &task("queued")).await;
    assert_eq!(answer, ClaimAnswer::Not(State::Canceled));
}

async fn what_runs_is_asked_to_stop(bench: Bench) {
    let (task, worker, epoch) = bench.running("a").await;
    let answer = bench.store.cancel("a", "not wanted").await.unwrap();
    assert_eq!(answer, Some(State::Running));
    assert_eq!(bench.store.held(&worker).await.unwrap()[0].cancel, 1);
    // What it had finished by then counts.
    let settled = [(task.id.clone(), epoch, Settlement::default())];
    bench.store.settle(&settled).await.unwrap();
    assert_eq!(bench.view("a").await.state, State::Done);
}

async fn what_is_over_is_not_canceled(bench: Bench) {
    let (task, _, epoch) = bench.running("a").await;
    let settled = [(task.id, epoch, Settlement::default())];
    bench.store.settle(&settled).await.unwrap();
    assert_eq!(bench.store.cancel("a", "late").await.unwrap(), None);
    assert_eq!(bench.store.cancel("unknown", "late").await.unwrap(), None);
    assert_eq!(bench.view("a").await.state, State::Done);
}

async fn a_revived_task_runs_again_with_its_counts_at_zero(bench: Bench) {
    let (first, worker, epoch) = bench.running("a").await;
    let dead = Settlement {
        state: Some(State::Dead),
        failed: true,
        checkpoint: Some(serde_json::json!(4)),
        reason: Some("it failed".into()),
        ..Settlement::default()
    };
    bench
        .store
        .settle(&[(first.id.clone(), epoch, dead)])
        .await
        .unwrap();
    for state in [State::Parked, State::Expired] {
        set_aside(&bench, &task(state.as_str()), state).await;
    }
    let all = ["a", "parked", "expired"].map(str::to_owned);
    let rings = bench.store.revive(&all).await.unwrap();
    assert_eq!(ids(&rings), ["a", "expired", "parked"]);
    let view = bench.view("a").await;
    assert_eq!(
        (view.state, view.failures, view.crashes),
        (State::Queued, 0, 0)
    );
    assert_eq!((view.reason, view.ended_at), (None, None));
    let claimed = bench.claimed(&worker, &first).await;
    assert_eq!(claimed.checkpoint, Some(serde_json::json!(4)));
    assert_eq!(claimed.epoch, epoch.next());
}

async fn what_runs_or_is_done_is_not_revived(bench: Bench) {
    bench.running("running").await;
    let (done, _, epoch) = bench.running("done").await;
    let settled = [(done.id, epoch, Settlement::default())];
    bench.store.settle(&settled).await.unwrap();
    let all = ["running", "done", "unknown"].map(str::to_owned);
    assert!(bench.store.revive(&all).await.unwrap().is_empty());
    assert_eq!(bench.view("running").await.state, State::Running);
    assert_eq!(bench.view("done").await.state, State::Done);
}
