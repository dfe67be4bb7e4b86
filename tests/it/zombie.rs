//! Workers that are taken for dead and are not, and workers that die again and again.

use std::sync::Arc;

use longshore::lab::{Effect, Fault};
use longshore::store::State;

use crate::harness::{LIMIT, wait_until};
use crate::scene::{Scene, on_both_with};

on_both_with!("";
    nothing_of_a_worker_that_slept_past_its_lease_is_accepted,
    a_task_that_ends_its_workers_is_a_dead_letter_that_says_so,
);

async fn nothing_of_a_worker_that_slept_past_its_lease_is_accepted(scene: Arc<Scene>) {
    scene.job("1");
    scene.job("2");
    // Slow enough to be caught in the middle, fast enough to go on for a while after it wakes.
    scene
        .lab
        .fail(Fault::new("/logs", Effect::Drip(std::time::Duration::from_millis(20))).times(1));
    let zombie = scene.worker("fetch");
    scene.fetch("lab", "1").await;
    wait_until("the log is being read", LIMIT, async || {
        scene.lab.count("/logs") > 0
    })
    .await;
    let epoch = scene.bench.view("fetch:lab/1").await.epoch;
    scene.bench.freeze(&zombie).await;
    let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
    scene.reaches("lab", "1", "complete").await;
    assert!(
        scene.bench.view("fetch:lab/1").await.epoch > epoch,
        "another attempt did it"
    );
    let before = scene.seen("lab", "1").await;
    zombie.signal("CONT");
    zombie.said("lease is lost", LIMIT).await;
    scene.fetch("lab", "2").await;
    scene.reaches("lab", "2", "complete").await;
    assert!(
        scene.seen("lab", "1").await == before,
        "the zombie changed a result"
    );
    assert!(
        scene.seen("lab", "2").await == before,
        "the results are those of an undisturbed run"
    );
}

async fn a_task_that_ends_its_workers_is_a_dead_letter_that_says_so(scene: Arc<Scene>) {
    scene.small_job("1");
    scene.small_job("2");
    scene.fetch("lab", "1").await;
    for _ in 0..3 {
        let mut doomed = scene.doomed("fetch", "publish:before");
        doomed.ended(2 * LIMIT).await;
    }
    let _healthy = (scene.worker("fetch"), scene.worker("postprocess"));
    scene.task_reaches("fetch:lab/1", State::Dead).await;
    let view = scene.bench.view("fetch:lab/1").await;
    assert_eq!(
        (view.crashes, view.failures),
        (3, 0),
        "crashes are no failures"
    );
    assert!(view.reason.unwrap().contains("its worker died 3 times"));
    let job = scene.reaches("lab", "1", "failed").await;
    assert!(
        job.reason.unwrap().contains("its worker died"),
        "the test job says why"
    );
    scene.fetch("lab", "2").await;
    scene.reaches("lab", "2", "complete").await;
    scene.verb(&["task", "retry", "fetch:lab/1"]).await;
    scene.reaches("lab", "1", "complete").await;
}
