//! What an operator does by hand, and parked names.

use longshore::store::{ClaimAnswer, ClaimRequest, Settlement, State};

use super::enqueue::ids;
use super::settle::set_aside;
use crate::harness::{Bench, on_both, task};

on_both!(
    parked_tasks_run_when_a_worker_knows_their_name,
    what_waits_is_canceled_at_once,
    what_runs_is_asked_to_stop,
    what_is_over_is_not_canceled,
    a_task_can_be_revoked_before_it_comes,
    a_task_that_may_come_again_is_revoked_once,
    what_runs_is_revoked_only_if_it_is_to_be_terminated,
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
        let answer = bench.store.cancel(name, "not wanted").await.unwrap().0;
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
    let answer = bench.store.cancel("a", "not wanted").await.unwrap().0;
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
    assert_eq!(bench.store.cancel("a", "late").await.unwrap().0, None);
    assert_eq!(bench.store.cancel("unknown", "late").await.unwrap().0, None);
    assert_eq!(bench.view("a").await.state, State::Done);
}

async fn a_task_can_be_revoked_before_it_comes(bench: Bench) {
    let mut later = task("waiting");
    later.run_at = Some(bench.clock.now() + 60_000);
    bench.store.enqueue(&[later]).await.unwrap();
    let names = ["to-come".to_owned(), "waiting".to_owned()];
    let mut answer = bench.store.revoke(&names, false).await.unwrap().0;
    answer.sort_by(|one, other| one.0.cmp(&other.0));
    let canceled = names.map(|name| (name, State::Canceled));
    assert_eq!(answer, canceled);
    let worker = bench.worker().await;
    let come = task("to-come");
    let answer = bench.claim(&worker, &come).await;
    assert_eq!(answer, ClaimAnswer::Not(State::Canceled));
    bench
        .store
        .came_revoked(&[come.clone(), task("waiting")])
        .await
        .unwrap();
    let view = bench.view("to-come").await;
    assert_eq!(
        (view.state, &view.name, &view.queue),
        (State::Canceled, &come.name, &come.queue)
    );
    assert!(
        bench.view("waiting").await.run_at.is_some(),
        "it was known, and is left alone"
    );
    assert_eq!(bench.store.enqueue(&[come]).await.unwrap().new, []);
}

async fn a_task_that_may_come_again_is_revoked_once(bench: Bench) {
    let come = task("to-come");
    bench
        .store
        .revoke(&["to-come".to_owned()], false)
        .await
        .unwrap();
    let worker = bench.worker().await;
    let request = [ClaimRequest {
        task: &come,
        repeat: true,
        revision: None,
    }];
    let answer = bench.store.claim(&worker, &request).await.unwrap();
    assert_eq!(answer, [ClaimAnswer::Not(State::Canceled)]);
    bench
        .store
        .came_revoked(std::slice::from_ref(&come))
        .await
        .unwrap();
    let answer = bench.store.claim(&worker, &request).await.unwrap();
    assert!(
        matches!(answer[..], [ClaimAnswer::Claimed(_)]),
        "{answer:?}"
    );
}

async fn what_runs_is_revoked_only_if_it_is_to_be_terminated(bench: Bench) {
    let (_, worker, _) = bench.running("a").await;
    let id = ["a".to_owned()];
    assert_eq!(bench.store.revoke(&id, false).await.unwrap().0, []);
    assert_eq!(bench.store.held(&worker).await.unwrap()[0].cancel, 0);
    let answer = bench.store.revoke(&id, true).await.unwrap().0;
    assert_eq!(answer, [("a".to_owned(), State::Running)]);
    assert_eq!(bench.store.held(&worker).await.unwrap()[0].cancel, 1);
    let (other, _, epoch) = bench.running("b").await;
    let settled = [(other.id, epoch, Settlement::default())];
    bench.store.settle(&settled).await.unwrap();
    assert_eq!(
        bench.store.revoke(&["b".to_owned()], true).await.unwrap().0,
        []
    );
    assert_eq!(bench.view("b").await.state, State::Done);
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
