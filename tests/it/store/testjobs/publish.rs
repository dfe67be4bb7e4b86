//! What is published is visible at once and whole; what is staged is not.

use longshore::id::WorkerId;
use longshore::store::{Settlement, State, StoreError};

use super::{counted, fetch, standing, tests, visible};
use crate::harness::{Bench, on_both, task};

on_both!(
    staged_rows_are_invisible_until_they_are_published,
    a_stale_epoch_can_neither_stage_nor_publish,
    a_run_is_published_once,
    the_last_plugin_completes_the_test_job,
    two_plugins_that_complete_at_once_complete_the_test_job,
    a_plugin_of_another_generation_publishes_nothing,
    a_plugins_dead_letter_fails_the_test_job_and_keeps_what_is_published,
    a_plugins_run_begins_only_for_its_own_task,
);

async fn staged_rows_are_invisible_until_they_are_published(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.stage(&bench, 1, &tests("a", 100)).await;
    fetch.stage(&bench, 101, &tests("b", 50)).await;
    assert!(visible(&bench, fetch.testjob).await.is_empty());
    assert_eq!(standing(&bench).await.tests, 0);
    fetch.publish(&bench, 150, &[]).await.unwrap();
    assert_eq!(visible(&bench, fetch.testjob).await.len(), 150);
    let view = standing(&bench).await;
    assert_eq!(
        (view.state.as_str(), view.tests, view.passed),
        ("complete", 150, 150)
    );
    assert!(view.fetched_at.is_some() && view.ended_at.is_some());
}

async fn a_stale_epoch_can_neither_stage_nor_publish(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    let worker = bench.view("f").await.worker.unwrap();
    let (heir, dead) = (bench.worker().await, WorkerId::new(worker));
    let taken = bench
        .store
        .take_over(&heir, &fetch.task, fetch.epoch, &dead, 9, None)
        .await;
    assert!(taken.unwrap().is_some());
    let ops = bench
        .store
        .stage(fetch.run, 1, &tests("zombie", 3))
        .unwrap();
    let staged = bench
        .store
        .checkpoint(&fetch.task, fetch.epoch, None, None, ops)
        .await;
    assert!(
        matches!(staged, Err(StoreError::Stale { .. })),
        "{staged:?}"
    );
    assert_eq!(bench.number("select count(*) from staged_tests").await, 0);
    let published = fetch.publish(&bench, 3, &["p"]).await;
    assert!(
        matches!(published, Err(StoreError::Stale { .. })),
        "{published:?}"
    );
    let view = standing(&bench).await;
    assert_eq!((view.state.as_str(), view.visible), ("fetching", 0));
    assert_eq!(
        bench.number("select count(*) from runs").await,
        1,
        "no plugin"
    );
    assert!(bench.find("f/p").await.is_none());
}

async fn a_run_is_published_once(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    first.publish(&bench, 0, &["p"]).await.unwrap();
    let plugin = first.plugin(&bench, "p").await;
    plugin.publish(&bench.store, 0).await.unwrap();
    // Another task with a valid epoch, and the same run.
    let (other, _, epoch) = bench.running("other").await;
    let ops = bench
        .store
        .publish_plugin(&plugin.task, plugin.run, plugin.testjob, 1, &counted(5))
        .unwrap();
    let settlement = Settlement::default();
    let answer = bench
        .store
        .settle_with(&other.id, epoch, &settlement, ops, &[])
        .await;
    assert!(
        matches!(
            answer,
            Err(StoreError::Stale {
                command: "run_publish"
            })
        ),
        "{answer:?}"
    );
    assert_eq!(standing(&bench).await.tests, 0);
}

async fn the_last_plugin_completes_the_test_job(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.stage(&bench, 1, &tests("a", 2)).await;
    fetch.publish(&bench, 2, &["p", "q"]).await.unwrap();
    let view = standing(&bench).await;
    assert_eq!((view.state.as_str(), view.tests), ("postprocessing", 2));
    for (part, state) in [("p", "postprocessing"), ("q", "complete")] {
        let plugin = fetch.plugin(&bench, part).await;
        plugin.stage(&bench, &tests(part, 3)).await;
        assert_eq!(standing(&bench).await.state, "postprocessing");
        plugin.publish(&bench.store, 3).await.unwrap();
        assert_eq!(standing(&bench).await.state, state);
    }
    assert_eq!(
        visible(&bench, fetch.testjob).await,
        ["a0", "a1", "p0", "p1", "p2", "q0", "q1", "q2"]
    );
    assert_eq!(standing(&bench).await.tests, 8);
    let parts = bench.store.parts(fetch.testjob).await.unwrap();
    let parts: Vec<_> = parts
        .iter()
        .map(|part| (part.part.as_str(), part.run_state.as_str()))
        .collect();
    assert_eq!(
        parts,
        [
            ("fetch", "published"),
            ("p", "published"),
            ("q", "published")
        ]
    );
}

async fn two_plugins_that_complete_at_once_complete_the_test_job(bench: Bench) {
    /// A lost update is a matter of luck.
    const ROUNDS: usize = 50;
    let other = bench.other();
    for round in 0..ROUNDS {
        let again = round > 0;
        let fetch = fetch(&bench, &format!("f{round}"), again).await;
        fetch.publish(&bench, 0, &["p", "q"]).await.unwrap();
        let (p, q) = (
            fetch.plugin(&bench, "p").await,
            fetch.plugin(&bench, "q").await,
        );
        let (one, two) = tokio::join!(p.publish(&bench.store, 1), q.publish(&other, 1));
        one.unwrap();
        two.unwrap();
        let view = standing(&bench).await;
        assert_eq!(
            (view.state.as_str(), view.tests),
            ("complete", 2),
            "round {round}"
        );
    }
    other.close().await;
}

async fn a_plugin_of_another_generation_publishes_nothing(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.publish(&bench, 0, &["p"]).await.unwrap();
    let mut plugin = fetch.plugin(&bench, "p").await;
    plugin.generation += 1;
    let answer = plugin.publish(&bench.store, 1).await;
    assert!(
        matches!(answer, Err(StoreError::Stale { .. })),
        "{answer:?}"
    );
    assert_eq!(bench.view("f/p").await.state, State::Running);
    assert_eq!(standing(&bench).await.state, "postprocessing");
}

async fn a_plugins_dead_letter_fails_the_test_job_and_keeps_what_is_published(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.stage(&bench, 1, &tests("a", 2)).await;
    fetch.publish(&bench, 2, &["p", "q"]).await.unwrap();
    let plugin = fetch.plugin(&bench, "p").await;
    let dead = Settlement {
        state: Some(State::Dead),
        reason: Some("the archive is cut off".into()),
        ..Settlement::default()
    };
    bench
        .store
        .settle(&[(plugin.task.clone(), plugin.epoch, dead)])
        .await
        .unwrap();
    let other = fetch.plugin(&bench, "q").await;
    other.stage(&bench, &tests("q", 1)).await;
    other.publish(&bench.store, 1).await.unwrap();
    let view = standing(&bench).await;
    assert_eq!((view.state.as_str(), view.tests), ("failed", 3));
    assert_eq!(view.reason.as_deref(), Some("the archive is cut off"));
    // By hand again, and it is complete.
    bench
        .store
        .revive(&[plugin.task.as_str().to_owned()])
        .await
        .unwrap();
    let worker = bench.worker().await;
    let epoch = bench
        .claimed(&worker, &task(plugin.task.as_str()))
        .await
        .epoch;
    let plugin = super::Plugin { epoch, ..plugin };
    plugin.publish(&bench.store, 0).await.unwrap();
    assert_eq!(standing(&bench).await.state, "complete");
}

async fn a_plugins_run_begins_only_for_its_own_task(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch.publish(&bench, 0, &["p"]).await.unwrap();
    let (other, _, epoch) = bench.running("other").await;
    let begun = bench
        .store
        .begin_plugin(&other.id, epoch, fetch.testjob, 1, "p")
        .await;
    assert_eq!(begun.unwrap(), None);
    let plugin = fetch.plugin(&bench, "p").await;
    let (task, epoch) = (plugin.task.clone(), plugin.epoch);
    let store = &bench.store;
    let again = store
        .begin_plugin(&task, epoch, fetch.testjob, 1, "p")
        .await;
    assert_eq!(
        again.unwrap(),
        Some((plugin.run, false)),
        "its next attempt goes on"
    );
}
