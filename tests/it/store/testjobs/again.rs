//! Collecting a finished test job anew: the old results stay until the new ones are there.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use longshore::store::{Begun, TestPage};
use tokio_util::task::TaskTracker;

use super::{begin, fetch, standing, target, tests, visible};
use crate::harness::{Bench, on_both};

on_both!(
    asked_for_again_a_finished_test_job_begins_its_next_generation,
    the_old_results_stay_until_the_new_are_complete,
    replaced_results_are_swept,
    a_reader_sees_either_generation_whole,
);

async fn published(
    bench: &Bench,
    name: &str,
    again: bool,
    count: i64,
    plugins: &[&str],
) -> super::Fetch {
    let fetch = fetch(bench, name, again).await;
    fetch.stage(bench, 1, &tests(name, count)).await;
    fetch.publish(bench, count, plugins).await.unwrap();
    fetch
}

async fn asked_for_again_a_finished_test_job_begins_its_next_generation(bench: Bench) {
    let first = published(&bench, "f", false, 2, &[]).await;
    let second = fetch(&bench, "g", true).await;
    assert_eq!((second.testjob, second.generation), (first.testjob, 2));
    assert_ne!(second.run, first.run);
    // An attempt that begins again does not ask for a third.
    bench.clock.advance(std::time::Duration::from_millis(1));
    let store = &bench.store;
    let again = store
        .begin_fetch(&second.task, second.epoch, &target("g", true))
        .await;
    let expected = Begun::Run {
        run: second.run,
        testjob: first.testjob,
        generation: 2,
        own: true,
        unclean: false,
    };
    assert_eq!(again.unwrap(), expected);
    // Nor does another task, while this one may run.
    assert_eq!(
        begin(&bench, "h", true).await.2,
        Begun::Elsewhere(second.task)
    );
}

async fn the_old_results_stay_until_the_new_are_complete(bench: Bench) {
    let first = published(&bench, "f", false, 2, &[]).await;
    let second = published(&bench, "g", true, 3, &["p"]).await;
    assert_eq!(visible(&bench, first.testjob).await, ["f0", "f1"]);
    assert_eq!(standing(&bench).await.tests, 2);
    let plugin = second.plugin(&bench, "p").await;
    plugin.stage(&bench, &tests("p", 1)).await;
    assert_eq!(visible(&bench, first.testjob).await, ["f0", "f1"]);
    plugin.publish(&bench.store, 1).await.unwrap();
    assert_eq!(
        visible(&bench, first.testjob).await,
        ["g0", "g1", "g2", "p0"]
    );
    let view = standing(&bench).await;
    assert_eq!(
        (view.state.as_str(), view.visible, view.tests),
        ("complete", 2, 4)
    );
}

async fn replaced_results_are_swept(bench: Bench) {
    let first = published(&bench, "f", false, 2, &["p"]).await;
    first
        .plugin(&bench, "p")
        .await
        .publish(&bench.store, 0)
        .await
        .unwrap();
    assert_eq!(bench.store.sweep_runs().await.unwrap(), 0);
    published(&bench, "g", true, 3, &[]).await;
    assert_eq!(
        bench.store.sweep_runs().await.unwrap(),
        2,
        "the fetch and the plugin"
    );
    assert_eq!(bench.store.sweep_runs().await.unwrap(), 0);
    assert_eq!(bench.number("select count(*) from staged_tests").await, 3);
    assert_eq!(bench.number("select count(*) from runs").await, 1);
    assert_eq!(visible(&bench, first.testjob).await, ["g0", "g1", "g2"]);
}

async fn a_reader_sees_either_generation_whole(bench: Bench) {
    const ROUNDS: usize = 8;
    const COUNT: i64 = 300;
    let testjob = published(&bench, "f", false, COUNT, &[]).await.testjob;
    let (over, readers) = (Arc::new(AtomicBool::new(false)), TaskTracker::new());
    let reader = {
        let (store, over) = (bench.other(), Arc::clone(&over));
        readers.spawn(async move {
            let mut looks = 0;
            while !over.load(Ordering::Relaxed) {
                let page = TestPage {
                    most: 10_000,
                    ..TestPage::default()
                };
                let tests = store.tests(testjob, &page).await.unwrap();
                let of_one = tests.iter().filter(|test| test.run == tests[0].run).count();
                assert_eq!(
                    (tests.len(), of_one),
                    (300, 300),
                    "half of a result was seen"
                );
                looks += 1;
            }
            store.close().await;
            looks
        })
    };
    for round in 0..ROUNDS {
        published(&bench, &format!("g{round}"), true, COUNT, &[]).await;
        bench.store.sweep_runs().await.unwrap();
    }
    over.store(true, Ordering::Relaxed);
    assert!(reader.await.unwrap() > 0);
}
