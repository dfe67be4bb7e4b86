//! How a fetch begins.

use longshore::store::{Begun, Settlement, State, StoreError};

use super::{a_test, begin, fetch, standing, target, visible};
use crate::harness::{Bench, on_both};

on_both!(
    a_new_test_job_gets_a_run_of_its_first_generation,
    the_same_task_finds_its_run_again,
    a_second_task_is_sent_elsewhere_while_the_first_may_run,
    a_second_task_takes_over_from_one_that_is_over_and_is_told_of_its_rows,
    what_was_given_up_long_ago_is_swept_and_begins_anew,
    a_finished_test_job_stays_as_it_is,
    a_second_fetch_while_plugins_are_out_changes_nothing,
    a_stale_epoch_begins_nothing,
    a_test_job_that_the_backend_has_not_finished_waits,
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
    bench.clock.advance(std::time::Duration::from_millis(1));
    let again = bench
        .store
        .begin_fetch(&first.task, first.epoch, &target("f", false))
        .await;
    let expected = Begun::Run {
        run: first.run,
        testjob: first.testjob,
        generation: 1,
        own: true,
        unclean: false,
    };
    assert_eq!(again.unwrap(), expected);
}

async fn a_second_task_is_sent_elsewhere_while_the_first_may_run(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    bench.clock.advance(std::time::Duration::from_secs(1));
    let elsewhere = Begun::Elsewhere(first.task.clone());
    assert_eq!(begin(&bench, "g", false).await.2, elsewhere);
    assert_eq!(begin(&bench, "h", true).await.2, elsewhere);
    // The first goes on from where it was.
    let target = target("f", false);
    let again = bench
        .store
        .begin_fetch(&first.task, first.epoch, &target)
        .await;
    let own = matches!(again, Ok(Begun::Run { own: true, .. }));
    assert!(own, "{again:?}");
    first.publish(&bench, 0, &[]).await.unwrap();
}

/// Has a fetch given up for good, with what it has staged.
async fn give_up(bench: &Bench, fetch: &super::Fetch) {
    fetch.stage(bench, 1, &[a_test("left behind")]).await;
    let dead = Settlement {
        state: Some(State::Dead),
        ..Settlement::default()
    };
    let items = [(fetch.task.clone(), fetch.epoch, dead)];
    bench.store.settle(&items).await.unwrap();
}

async fn a_second_task_takes_over_from_one_that_is_over_and_is_told_of_its_rows(bench: Bench) {
    let first = fetch(&bench, "f", false).await;
    give_up(&bench, &first).await;
    assert_eq!(standing(&bench).await.state, "failed");
    let (task, epoch, begun) = begin(&bench, "g", false).await;
    let Begun::Run {
        run,
        own: false,
        unclean: true,
        ..
    } = begun
    else {
        panic!("{begun:?}");
    };
    assert_eq!(run, first.run);
    assert_eq!(standing(&bench).await.state, "fetching");
    let stale = bench.store.clear(&task, epoch.next(), run).await;
    assert!(matches!(stale, Err(StoreError::Stale { .. })), "{stale:?}");
    assert_eq!(bench.store.clear(&task, epoch, run).await.unwrap(), 1);
    assert_eq!(bench.store.clear(&task, epoch, run).await.unwrap(), 0);
    assert_eq!(bench.number("select count(*) from staged_tests").await, 0);
}

async fn what_was_given_up_long_ago_is_swept_and_begins_anew(bench: Bench) {
    let hour = std::time::Duration::from_secs(3600);
    let fetch = fetch(&bench, "f", false).await;
    give_up(&bench, &fetch).await;
    assert_eq!(bench.store.sweep_abandoned(hour).await.unwrap(), 0);
    bench.clock.advance(hour * 2);
    assert_eq!(bench.store.sweep_abandoned(hour).await.unwrap(), 1);
    assert_eq!(bench.store.sweep_abandoned(hour).await.unwrap(), 0, "once");
    assert_eq!(bench.number("select count(*) from staged_tests").await, 0);
    bench.store.revive(&["f".to_owned()]).await.unwrap();
    let worker = bench.worker().await;
    let claimed = bench.claimed(&worker, &crate::harness::task("f")).await;
    assert_eq!(claimed.checkpoint, None);
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
    let heir = bench.worker().await;
    let taken = bench
        .store
        .take_over(&heir, &task.id, epoch, &worker, 9, None)
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
