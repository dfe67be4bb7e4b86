//! Claims and their epochs.

use longshore::id::Epoch;
use longshore::store::{ClaimAnswer, ClaimRequest, Settlement, State, StoreError};
use serde_json::json;

use crate::harness::{Bench, LONG, id, on_both, task};

on_both!(
    a_delivery_of_an_unknown_task_is_claimed_under_the_first_epoch,
    a_second_claim_is_busy,
    two_deliveries_of_one_task_in_a_batch_are_one_claim,
    a_batch_answers_item_by_item,
    two_workers_that_claim_at_once_share_the_tasks,
    a_worker_that_was_given_up_for_dead_claims_nothing_until_it_joins_again,
    each_claim_raises_the_epoch,
    a_claim_of_a_task_that_may_not_run_says_where_it_stands,
    a_claim_begins_with_the_last_checkpoint,
    a_stale_epoch_cannot_checkpoint,
    a_checkpoint_without_a_value_leaves_the_last_one,
    an_id_or_name_of_any_text_is_kept,
);

async fn a_delivery_of_an_unknown_task_is_claimed_under_the_first_epoch(bench: Bench) {
    let worker = bench.worker().await;
    let claimed = bench.claimed(&worker, &task("a").with("key", 1)).await;
    assert_eq!(claimed.epoch, Epoch::FIRST);
    assert_eq!(
        (
            claimed.failures,
            claimed.crashes,
            claimed.interruptions,
            claimed.checkpoint
        ),
        (0, 0, 0, None)
    );
    let view = bench.view("a").await;
    assert_eq!(view.state, State::Running);
    assert_eq!(view.worker.as_deref(), Some(worker.as_str()));
    assert!(view.task.contains("\"key\""), "{}", view.task);
}

async fn a_second_claim_is_busy(bench: Bench) {
    let (task, first, epoch) = bench.running("a").await;
    let second = bench.worker().await;
    let busy = ClaimAnswer::Busy {
        worker: first.clone(),
        epoch,
    };
    assert_eq!(bench.claim(&second, &task).await, busy);
    assert_eq!(
        bench.claim(&first, &task).await,
        busy,
        "nor may its own worker"
    );
}

async fn two_deliveries_of_one_task_in_a_batch_are_one_claim(bench: Bench) {
    let worker = bench.worker().await;
    let (a, b) = (task("a"), task("b"));
    // Its second epoch, so that the answer cannot be right by chance.
    let epoch = bench.claimed(&worker, &a).await.epoch;
    let again = Settlement {
        state: Some(State::Queued),
        ..Settlement::default()
    };
    bench
        .store
        .settle(&[(a.id.clone(), epoch, again)])
        .await
        .unwrap();
    let requests = [&a, &b, &a].map(ClaimRequest::once);
    let answers = bench.store.claim(&worker, &requests).await.unwrap();
    let [ClaimAnswer::Claimed(first), ClaimAnswer::Claimed(_), second] = &answers[..] else {
        panic!("{answers:?}");
    };
    assert_eq!(first.epoch, epoch.next());
    let busy = ClaimAnswer::Busy {
        worker,
        epoch: first.epoch,
    };
    assert_eq!(*second, busy);
}

async fn a_batch_answers_item_by_item(bench: Bench) {
    let (busy, other, _) = bench.running("busy").await;
    let (done, _, epoch) = bench.running("done").await;
    let settled = [(done.id.clone(), epoch, Settlement::default())];
    bench.store.settle(&settled).await.unwrap();
    let (worker, new) = (bench.worker().await, task("new"));
    let requests = [&busy, &new, &done].map(ClaimRequest::once);
    let answers = bench.store.claim(&worker, &requests).await.unwrap();
    assert!(
        matches!(&answers[0], ClaimAnswer::Busy { worker, .. } if *worker == other),
        "{answers:?}"
    );
    assert!(
        matches!(&answers[1], ClaimAnswer::Claimed(_)),
        "{answers:?}"
    );
    assert_eq!(answers[2], ClaimAnswer::Not(State::Done));
}

async fn two_workers_that_claim_at_once_share_the_tasks(bench: Bench) {
    let tasks: Vec<_> = (0..50).map(|n| task(&format!("t{n}"))).collect();
    let (one, two) = (bench.worker().await, bench.worker().await);
    let other = bench.other();
    let forth: Vec<_> = tasks.iter().map(ClaimRequest::once).collect();
    let (a, b) = tokio::join!(bench.store.claim(&one, &forth), other.claim(&two, &forth));
    for (task, (a, b)) in tasks.iter().zip(a.unwrap().into_iter().zip(b.unwrap())) {
        let won = [a, b].map(|answer| matches!(answer, ClaimAnswer::Claimed(_)));
        assert!(won[0] ^ won[1], "{} was claimed by {won:?}", task.id);
    }
    other.close().await;
}

async fn a_worker_that_was_given_up_for_dead_claims_nothing_until_it_joins_again(bench: Bench) {
    let (store, member) = bench.other_worker(LONG).await;
    let (queued, new) = (task("queued"), task("new"));
    bench
        .store
        .enqueue(std::slice::from_ref(&queued))
        .await
        .unwrap();
    let (running, dead, epoch) = bench.running("running").await;
    bench.store.leave(&dead).await.unwrap();
    store.leave(&member.id).await.unwrap();
    let requests = [&queued, &new].map(ClaimRequest::once);
    let answers = store.claim(&member.id, &requests).await.unwrap();
    assert_eq!(answers, [ClaimAnswer::Lost, ClaimAnswer::Lost]);
    let heir = async || {
        let taken = store.take_over(&member.id, &running.id, epoch, &dead, 3, None);
        taken.await.unwrap()
    };
    assert_eq!(heir().await, None);
    assert!(bench.find("new").await.is_none());
    store.join(&member, "running", LONG).await.unwrap();
    let answers = store.claim(&member.id, &requests).await.unwrap();
    assert!(
        matches!(
            answers[..],
            [ClaimAnswer::Claimed(_), ClaimAnswer::Claimed(_)]
        ),
        "{answers:?}"
    );
    assert!(heir().await.is_some());
    store.close().await;
}

async fn each_claim_raises_the_epoch(bench: Bench) {
    let (task, worker, mut epoch) = bench.running("a").await;
    for _ in 0..3 {
        let again = Settlement {
            state: Some(State::Queued),
            ..Settlement::default()
        };
        bench
            .store
            .settle(&[(task.id.clone(), epoch, again)])
            .await
            .unwrap();
        let next = bench.claimed(&worker, &task).await.epoch;
        assert_eq!(next, epoch.next());
        epoch = next;
    }
}

async fn a_claim_of_a_task_that_may_not_run_says_where_it_stands(bench: Bench) {
    let worker = bench.worker().await;
    for state in [State::Waiting, State::Done, State::Dead, State::Canceled] {
        let task = task(state.as_str());
        let epoch = bench.claimed(&worker, &task).await.epoch;
        let settlement = Settlement {
            state: Some(state),
            delay: 60_000,
            ..Settlement::default()
        };
        bench
            .store
            .settle(&[(task.id.clone(), epoch, settlement)])
            .await
            .unwrap();
        assert_eq!(bench.claim(&worker, &task).await, ClaimAnswer::Not(state));
    }
    for state in [State::Waiting, State::Parked, State::Expired] {
        let task = task(&format!("aside {}", state.as_str()));
        super::settle::set_aside(&bench, &task, state).await;
        assert_eq!(bench.claim(&worker, &task).await, ClaimAnswer::Not(state));
    }
}

async fn a_claim_begins_with_the_last_checkpoint(bench: Bench) {
    let (task, worker, epoch) = bench.running("a").await;
    let checkpoint = json!({ "row": 7, "text": "a\u{0}b\\\"" });
    bench
        .store
        .checkpoint(&task.id, epoch, Some(&checkpoint), Some("7 rows"), vec![])
        .await
        .unwrap();
    assert_eq!(bench.view("a").await.progress.as_deref(), Some("7 rows"));
    assert!(bench.view("a").await.checkpoint_at.is_some());
    let again = Settlement {
        state: Some(State::Queued),
        interrupted: true,
        ..Settlement::default()
    };
    bench
        .store
        .settle(&[(task.id.clone(), epoch, again)])
        .await
        .unwrap();
    let claimed = bench.claimed(&worker, &task).await;
    assert_eq!(claimed.checkpoint, Some(checkpoint));
    assert_eq!(claimed.interruptions, 1);
}

async fn a_stale_epoch_cannot_checkpoint(bench: Bench) {
    let (task, worker, old) = bench.running("a").await;
    let taken = bench
        .store
        .take_over(&bench.worker().await, &task.id, old, &worker, 9, None)
        .await
        .unwrap();
    let new = taken.expect("it was that worker's").epoch;
    let (stale, fresh) = (json!("stale"), json!("fresh"));
    let answer = bench
        .store
        .checkpoint(&task.id, old, Some(&stale), None, vec![])
        .await;
    assert!(
        matches!(answer, Err(StoreError::Stale { .. })),
        "{answer:?}"
    );
    bench
        .store
        .checkpoint(&task.id, new, Some(&fresh), None, vec![])
        .await
        .unwrap();
}

async fn a_checkpoint_without_a_value_leaves_the_last_one(bench: Bench) {
    let (task, worker, epoch) = bench.running("a").await;
    let store = &bench.store;
    store
        .checkpoint(&task.id, epoch, Some(&json!(3)), Some("3"), vec![])
        .await
        .unwrap();
    store
        .checkpoint(&task.id, epoch, None, None, vec![])
        .await
        .unwrap();
    assert_eq!(bench.view("a").await.progress.as_deref(), Some("3"));
    let taken = store
        .take_over(&worker, &id("a"), epoch, &worker, 9, None)
        .await
        .unwrap();
    assert_eq!(taken.unwrap().checkpoint, Some(json!(3)));
}

async fn an_id_or_name_of_any_text_is_kept(bench: Bench) {
    let worker = bench.worker().await;
    let text = "12:lava/3456 'x' \"y\" \\ ä 😀 {} $1 %\n\t";
    let mut odd = task(text).with(text, text);
    odd.name = text.into();
    bench.claimed(&worker, &odd).await;
    let view = bench.view(text).await;
    assert_eq!((view.id.as_str(), view.name.as_str()), (text, text));
    let kept: longshore::task::Task = serde_json::from_str(&view.task).unwrap();
    assert_eq!(kept, odd);
}
