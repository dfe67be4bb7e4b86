//! How a fetch begins.

use longshore::id::WorkerId;
use longshore::store::{Begun, Settlement, State, StoreError};

use super::{a_test, begin, complete, counted, fetch, standing, target, visible};
use crate::harness::{Bench, on_both};

on_both!(
    a_new_test_job_gets_a_run_of_its_first_generation,
    the_same_task_finds_its_run_again,
    a_second_task_is_sent_elsewhere_while_the_first_may_run,
    a_second_task_takes_over_from_one_that_is_over,
    a_finished_test_job_stays_as_it_is,
    a_second_fetch_while_plugins_are_out_changes_nothing,
    a_stale_epoch_begins_nothing,
    a_test_job_that_the_backend_has_not_finished_waits,
    a_reset_drops_what_was_staged,
);

async fn a_new_test_job_gets_a_run_of_its_first_generation(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    assert_eq!(fetch.generation, 1);
    let view = standing(&bench).await;
    assert_eq!((view.id, view.state.as_str()), (fetch.testjob, "fetching"));
    assert_eq!(
        (view.backend.as_str(), view.remote_id.as_str()),
        ("lab", "42")
    );
    assert_eq!((view.visible, view.wanted, view.tests), (0, 1, 0));
    assert_eq!(
        bench.store.testjob_counts().await.unwrap(),
        [("fetching".to_owned(), 1)]
    );
}

async fn the_same_task_finds_its_run_again(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    let again = bench
        .store
        .begin_fetch(&first.task, first.epoch, &target("f", false))
        .await;
    let expected = Begun::Run {
        run: first.run,
        testjob: first.testjob,
        generation: 1,
    };
    assert_eq!(again.unwrap(), expected);
}

async fn a_second_task_is_sent_elsewhere_while_the_first_may_run(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    let elsewhere = Begun::Elsewhere(first.task.clone());
    assert_eq!(begin(&bench, "g", false).await.2, elsewhere);
    assert_eq!(begin(&bench, "h", true).await.2, elsewhere);
    first.publish(&bench, 0, &[]).await.unwrap();
}

async fn a_second_task_takes_over_from_one_that_is_over(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    let dead = Settlement {
        state: Some(State::Dead),
        ..Settlement::default()
    };
    let items = [(first.task.clone(), first.epoch, dead)];
    bench.store.settle(&items).await.unwrap();
    assert_eq!(standing(&bench).await.state, "failed");
    let second = fetch(&bench, "g", false).await;
    assert_eq!(second.run, first.run);
    assert_eq!(standing(&bench).await.state, "fetching");
}

async fn a_finished_test_job_stays_as_it_is(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    first.stage(&bench, 1, &[a_test("t")]).await;
    first.publish(&bench, 1, &[]).await.unwrap();
    assert_eq!(begin(&bench, "g", false).await.2, Begun::Finished);
    let view = standing(&bench).await;
    assert_eq!(
        (view.state.as_str(), view.visible, view.wanted),
        ("complete", 1, 1)
    );
    assert_eq!(visible(&bench, first.testjob).await, ["t"]);
}

async fn a_second_fetch_while_plugins_are_out_changes_nothing(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    first.publish(&bench, 0, &["p"]).await.unwrap();
    assert_eq!(standing(&bench).await.state, "postprocessing");
    assert_eq!(begin(&bench, "g", false).await.2, Begun::Finished);
    assert_eq!(standing(&bench).await.state, "postprocessing");
    let plugin = first.plugin(&bench, "p").await;
    plugin.publish(&bench.store, 0).await.unwrap();
    assert_eq!(standing(&bench).await.state, "complete");
}

async fn a_stale_epoch_begins_nothing(bench: Bench) {
    let (task, worker, epoch) = bench.running("f").await;
    let heir = WorkerId::fresh();
    let taken = bench
        .store
        .take_over(&heir, &task.id, epoch, &worker, 9)
        .await;
    assert!(taken.unwrap().is_some());
    let begun = bench
        .store
        .begin_fetch(&task.id, epoch, &target("f", false))
        .await;
    assert!(matches!(begun, Err(StoreError::Stale { .. })), "{begun:?}");
    assert_eq!(bench.number("select count(*) from testjobs").await, 0);
    let plugin = bench.store.begin_plugin(&task.id, epoch, 1, 1, "p").await;
    assert!(
        matches!(plugin, Err(StoreError::Stale { .. })),
        "{plugin:?}"
    );
}

async fn a_test_job_that_the_backend_has_not_finished_waits(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    let waits = bench.store.testjob_waits(fetch.testjob, "Running").unwrap();
    let later = Settlement {
        state: Some(State::Waiting),
        delay: 1000,
        ..Settlement::default()
    };
    let store = &bench.store;
    store
        .settle_with(&fetch.task, fetch.epoch, &later, vec![waits], &[])
        .await
        .unwrap();
    let view = standing(&bench).await;
    assert_eq!(
        (view.state.as_str(), view.status.as_deref()),
        ("submitted", Some("Running"))
    );
}

async fn a_reset_drops_what_was_staged(bench: Bench) {
    let fetch = fetch(&bench, "f", false).await;
    fetch
        .stage(&bench, 1, &[a_test("old"), a_test("older")])
        .await;
    let mut ops = bench.store.reset(fetch.run).unwrap();
    ops.extend(bench.store.stage(fetch.run, 1, &[a_test("new")]).unwrap());
    bench
        .store
        .checkpoint(&fetch.task, fetch.epoch, None, None, ops)
        .await
        .unwrap();
    let ops = bench
        .store
        .publish_fetch(fetch.run, fetch.testjob, 1, &counted(1), &complete(), &[])
        .unwrap();
    let settlement = Settlement::default();
    bench
        .store
        .settle_with(&fetch.task, fetch.epoch, &settlement, ops, &[])
        .await
        .unwrap();
    assert_eq!(visible(&bench, fetch.testjob).await, ["new"]);
}
