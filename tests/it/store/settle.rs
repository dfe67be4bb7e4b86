//! How attempts end, and deliveries that do not begin.

use std::time::Duration;

use longshore::id::{Epoch, TaskId};
use longshore::store::{SetAside, Settlement, State, StoreError};
use longshore::task::Task;
use serde_json::json;

use super::enqueue::ids;
use crate::harness::{Bench, on_both, task};

on_both!(
    a_done_task_keeps_its_result_and_no_checkpoint,
    a_retry_waits_for_its_delay_and_counts_a_failure,
    a_handoff_is_queued_elsewhere_and_counts_no_failure,
    a_dead_letter_keeps_its_reason,
    a_canceled_task_is_over,
    a_stale_epoch_cannot_settle,
    a_batch_settles_item_by_item,
    what_follows_is_committed_with_the_outcome,
    a_message_for_others_is_committed_with_the_outcome_and_gets_no_row,
    a_stale_epoch_writes_nothing_of_what_follows,
    outcomes_with_messages_share_a_commit_and_a_stale_one_undoes_all,
    a_stale_epoch_with_nothing_to_follow_says_so,
    a_broken_condition_undoes_the_outcome,
    a_delivery_set_aside_gets_a_row_that_says_so,
    setting_aside_changes_nothing_of_a_task_that_runs_or_is_over,
    a_delivery_set_aside_as_queued_is_announced_again,
    an_end_of_a_celery_task_that_no_attempt_says_is_told_once,
    a_retry_may_change_the_message,
);

pub(super) async fn set_aside(bench: &Bench, task: &Task, state: State) {
    let item = SetAside {
        task: task.clone(),
        state,
        reason: Some(format!("to be {}", state.as_str())),
    };
    bench.store.set_aside(&[item]).await.unwrap();
}

async fn settle(bench: &Bench, task: &Task, epoch: Epoch, settlement: Settlement) -> bool {
    let items = [(task.id.clone(), epoch, settlement)];
    let (settled, _) = bench.store.settle(&items).await.unwrap();
    settled.contains(&task.id)
}

async fn a_done_task_keeps_its_result_and_no_checkpoint(bench: Bench) {
    let (task, _, epoch) = bench.running("a").await;
    bench
        .store
        .checkpoint(&task.id, epoch, Some(&json!(1)), None, vec![])
        .await
        .unwrap();
    let done = Settlement {
        state: Some(State::Done),
        result: Some(json!({ "tests": 3 })),
        ..Settlement::default()
    };
    assert!(settle(&bench, &task, epoch, done).await);
    let view = bench.view("a").await;
    assert_eq!(
        (view.state, view.worker, view.reason),
        (State::Done, None, None)
    );
    assert_eq!(view.result.as_deref(), Some("{\"tests\":3}"));
    assert!(view.ended_at.is_some());
    let kept = "select count(*) from tasks where checkpoint is not null";
    assert_eq!(bench.number(kept).await, 0);
}

async fn a_retry_waits_for_its_delay_and_counts_a_failure(bench: Bench) {
    let (task, worker, epoch) = bench.running("a").await;
    let retry = Settlement {
        state: Some(State::Waiting),
        delay: 30_000,
        failed: true,
        checkpoint: Some(json!("half")),
        reason: Some("the lab was away\0".into()),
        ..Settlement::default()
    };
    assert!(settle(&bench, &task, epoch, retry).await);
    let view = bench.view("a").await;
    assert_eq!(
        (view.state, view.failures, view.interruptions),
        (State::Waiting, 1, 0)
    );
    assert_eq!(view.reason.as_deref(), Some("the lab was away\u{fffd}"));
    assert_eq!(view.ended_at, None);
    let leader = bench.leader().await;
    bench.clock.advance(Duration::from_secs(29));
    assert!(bench.store.due(&leader).await.unwrap().is_empty());
    bench.clock.advance(Duration::from_secs(2));
    assert_eq!(ids(&bench.store.due(&leader).await.unwrap()), ["a"]);
    let claimed = bench.claimed(&worker, &task).await;
    assert_eq!(
        (claimed.failures, claimed.checkpoint),
        (1, Some(json!("half")))
    );
}

async fn a_handoff_is_queued_elsewhere_and_counts_no_failure(bench: Bench) {
    let (task, _, epoch) = bench.running("a").await;
    let handoff = Settlement {
        state: Some(State::Queued),
        queue: Some("pinned".into()),
        interrupted: true,
        checkpoint: Some(json!(5)),
        ..Settlement::default()
    };
    let items = [(task.id.clone(), epoch, handoff)];
    let (settled, rings) = bench.store.settle(&items).await.unwrap();
    assert!(settled.contains(&task.id));
    assert_eq!(ids(&rings), ["a"]);
    assert_eq!(rings[0].task.queue, "pinned");
    let view = bench.view("a").await;
    assert_eq!((view.state, view.queue.as_str()), (State::Queued, "pinned"));
    assert_eq!((view.failures, view.crashes, view.interruptions), (0, 0, 1));
    assert_eq!((view.worker, view.ended_at), (None, None));
}

async fn a_dead_letter_keeps_its_reason(bench: Bench) {
    let (task, _, epoch) = bench.running("a").await;
    let dead = Settlement {
        state: Some(State::Dead),
        failed: true,
        reason: Some("no such test job".into()),
        ..Settlement::default()
    };
    assert!(settle(&bench, &task, epoch, dead).await);
    let view = bench.view("a").await;
    assert_eq!((view.state, view.failures), (State::Dead, 1));
    assert_eq!(view.reason.as_deref(), Some("no such test job"));
}

async fn a_canceled_task_is_over(bench: Bench) {
    let (task, worker, epoch) = bench.running("a").await;
    bench.store.cancel("a", "by hand").await.unwrap();
    let canceled = Settlement {
        state: Some(State::Canceled),
        reason: Some("by hand".into()),
        ..Settlement::default()
    };
    assert!(settle(&bench, &task, epoch, canceled).await);
    let view = bench.view("a").await;
    assert_eq!((view.state, view.failures), (State::Canceled, 0));
    assert!(bench.store.held(&worker).await.unwrap().is_empty());
}

async fn a_stale_epoch_cannot_settle(bench: Bench) {
    let (task, worker, old) = bench.running("a").await;
    let taken = bench
        .store
        .take_over(&worker, &task.id, old, &worker, 9, None)
        .await;
    let new = taken.unwrap().unwrap().epoch;
    assert!(!settle(&bench, &task, old, Settlement::default()).await);
    assert_eq!(bench.view("a").await.state, State::Running);
    assert!(settle(&bench, &task, new, Settlement::default()).await);
    assert!(
        !settle(&bench, &task, new, Settlement::default()).await,
        "once"
    );
}

async fn a_batch_settles_item_by_item(bench: Bench) {
    let (a, _, good) = bench.running("a").await;
    let (b, _, other) = bench.running("b").await;
    let items = [
        (b.id.clone(), other.next(), Settlement::default()),
        (a.id.clone(), good, Settlement::default()),
    ];
    let (settled, _) = bench.store.settle(&items).await.unwrap();
    assert_eq!(settled.into_iter().collect::<Vec<_>>(), [a.id]);
    assert_eq!(bench.view("b").await.state, State::Running);
}

async fn what_follows_is_committed_with_the_outcome(bench: Bench) {
    let (first, _, epoch) = bench.running("a").await;
    let settlement = Settlement::default();
    let rings = bench
        .store
        .settle_with(&first.id, epoch, &settlement, vec![], &[task("b")])
        .await
        .unwrap();
    assert_eq!(ids(&rings), ["b"]);
    assert_eq!(bench.view("a").await.state, State::Done);
    assert_eq!(bench.view("b").await.state, State::Queued);
}

async fn a_message_for_others_is_committed_with_the_outcome_and_gets_no_row(bench: Bench) {
    let (first, _, epoch) = bench.running("a").await;
    let settlement = Settlement::default();
    let with = vec![bench.store.post(&[task("b").for_celery()]).unwrap()];
    let rings = bench
        .store
        .settle_with(&first.id, epoch, &settlement, with.clone(), &[task("c")])
        .await
        .unwrap();
    assert_eq!(ids(&rings), ["b", "c"]);
    assert!(bench.find("b").await.is_none());
    let again = bench
        .store
        .settle_with(&first.id, epoch, &settlement, with, &[])
        .await;
    assert!(matches!(again, Err(StoreError::Stale { .. })), "{again:?}");
    assert_eq!(bench.number("select count(*) from outbox").await, 2);
}

async fn a_stale_epoch_writes_nothing_of_what_follows(bench: Bench) {
    let (first, _, epoch) = bench.running("a").await;
    let (store, settlement) = (&bench.store, Settlement::default());
    let waits = store.testjob_waits(1, "Running").unwrap();
    let answer = store
        .settle_with(
            &first.id,
            epoch.next(),
            &settlement,
            vec![waits],
            &[task("b")],
        )
        .await;
    assert!(
        matches!(answer, Err(StoreError::Stale { command: "settle" })),
        "{answer:?}"
    );
    assert_eq!(bench.view("a").await.state, State::Running);
    assert!(bench.find("b").await.is_none());
    assert_eq!(bench.number("select count(*) from outbox").await, 0);
}

async fn outcomes_with_messages_share_a_commit_and_a_stale_one_undoes_all(bench: Bench) {
    let (a, _, good) = bench.running("a").await;
    let (b, _, other) = bench.running("b").await;
    let post = |id: &str| bench.store.post(&[task(id).for_celery()]).unwrap();
    let with = vec![post("to-a"), post("to-b")];
    let item = |id: &TaskId, epoch| (id.clone(), epoch, Settlement::default());
    let stale = [item(&b.id, other.next()), item(&a.id, good)];
    let answer = bench.store.settle_all(&stale, with.clone()).await;
    assert!(
        matches!(answer, Err(StoreError::Stale { command: "settle" })),
        "{answer:?}"
    );
    assert_eq!(bench.view("a").await.state, State::Running);
    assert_eq!(bench.number("select count(*) from outbox").await, 0);
    let both = [item(&b.id, other), item(&a.id, good)];
    let rings = bench.store.settle_all(&both, with).await.unwrap();
    assert_eq!(ids(&rings), ["to-a", "to-b"]);
    assert_eq!(bench.view("a").await.state, State::Done);
    assert_eq!(bench.view("b").await.state, State::Done);
    // One alone is held to its condition as well.
    let answer = bench.store.settle_all(&both[..1], vec![]).await;
    assert!(
        matches!(answer, Err(StoreError::Stale { .. })),
        "{answer:?}"
    );
}

async fn a_stale_epoch_with_nothing_to_follow_says_so(bench: Bench) {
    let (first, _, epoch) = bench.running("a").await;
    let settlement = Settlement::default();
    let answer = bench
        .store
        .settle_with(&first.id, epoch.next(), &settlement, vec![], &[])
        .await;
    assert!(
        matches!(answer, Err(StoreError::Stale { .. })),
        "{answer:?}"
    );
}

async fn a_broken_condition_undoes_the_outcome(bench: Bench) {
    let (first, _, epoch) = bench.running("a").await;
    let (store, settlement) = (&bench.store, Settlement::default());
    let no_such_run = store
        .publish_plugin(&first.id, 77, 7, 1, &Default::default())
        .unwrap();
    let answer = store
        .settle_with(&first.id, epoch, &settlement, no_such_run, &[task("b")])
        .await;
    assert!(
        matches!(
            answer,
            Err(StoreError::Stale {
                command: "testjob_lock"
            })
        ),
        "{answer:?}"
    );
    assert_eq!(bench.view("a").await.state, State::Running);
    assert!(bench.find("b").await.is_none());
}

async fn a_delivery_set_aside_gets_a_row_that_says_so(bench: Bench) {
    for state in [State::Queued, State::Waiting, State::Parked, State::Expired] {
        let mut task = task(state.as_str());
        task.run_at = (state == State::Waiting).then(|| bench.clock.now() + 60_000);
        set_aside(&bench, &task, state).await;
        let view = bench.view(state.as_str()).await;
        assert_eq!(view.state, state);
        assert_eq!(view.reason, Some(format!("to be {}", state.as_str())));
        assert_eq!(view.run_at, task.run_at);
        assert_eq!(view.ended_at.is_some(), state == State::Expired);
    }
}

async fn setting_aside_changes_nothing_of_a_task_that_runs_or_is_over(bench: Bench) {
    let (running, _, _) = bench.running("running").await;
    let (done, _, epoch) = bench.running("done").await;
    assert!(settle(&bench, &done, epoch, Settlement::default()).await);
    for task in [&running, &done] {
        for state in [State::Queued, State::Waiting, State::Parked, State::Expired] {
            set_aside(&bench, task, state).await;
        }
    }
    assert_eq!(bench.view("running").await.state, State::Running);
    assert_eq!(bench.view("done").await.state, State::Done);
    assert_eq!(bench.number("select count(*) from outbox").await, 0);
}

async fn a_delivery_set_aside_as_queued_is_announced_again(bench: Bench) {
    let item = |name: &str, state| SetAside {
        task: task(name),
        state,
        reason: None,
    };
    let items = [
        item("a", State::Queued),
        item("b", State::Parked),
        item("a", State::Queued),
    ];
    let rings = bench.store.set_aside(&items).await.unwrap();
    assert!(rings.iter().all(|ring| ring.task.id.as_str() == "a"));
    assert!(!rings.is_empty());
}

/// By expiry, by hand and by the crash limit; only Celery's tasks have anybody to tell.
async fn an_end_of_a_celery_task_that_no_attempt_says_is_told_once(bench: Bench) {
    let celery = |name: &str| task(name).for_celery();
    set_aside(&bench, &celery("late"), State::Expired).await;
    set_aside(&bench, &task("native"), State::Expired).await;
    set_aside(&bench, &celery("later"), State::Waiting).await;
    bench.store.cancel("later", "by hand").await.unwrap();
    // An end is known by its moment: in the same millisecond it would be told twice, which sends the same ids.
    bench.store.clock().advance(Duration::from_millis(1));
    bench.store.cancel("later", "again").await.unwrap();
    bench.store.clock().advance(Duration::from_secs(10));
    let mut told = Vec::new();
    for ring in bench.store.outbox_take().await.unwrap() {
        if let Some(state) = ring.ended {
            told.push((ring.task.id.to_string(), state));
            let message = celery("what-follows");
            let ops = || vec![bench.store.post(std::slice::from_ref(&message)).unwrap()];
            let rings = bench.store.outbox_told(ring.seq, ops()).await.unwrap();
            assert_eq!(rings.len(), 1);
            let again = bench.store.outbox_told(ring.seq, ops()).await;
            assert!(matches!(again, Err(StoreError::Stale { .. })), "{again:?}");
        }
    }
    told.sort_by(|one, other| one.0.cmp(&other.0));
    assert_eq!(
        told,
        [
            ("late".to_owned(), State::Expired),
            ("later".to_owned(), State::Canceled)
        ]
    );
    let sent = "select count(*) from outbox where task_id = 'what-follows'";
    assert_eq!(bench.number(sent).await, 2);
}

async fn a_retry_may_change_the_message(bench: Bench) {
    let (mut message, _, epoch) = bench.running("a").await;
    message.headers.insert("retries".into(), 1.into());
    let settlement = Settlement {
        state: Some(State::Queued),
        message: Some(message.clone()),
        ..Settlement::default()
    };
    let (_, rings) = bench
        .store
        .settle(&[(message.id.clone(), epoch, settlement)])
        .await
        .unwrap();
    assert_eq!(rings[0].task.headers, message.headers);
}
