//! What is swept: results that were replaced, rows of a task that was given up, tasks that ended long ago. A leader
//! ends between any two pieces of it; readers never notice, and the next one sweeps on.

use std::sync::Arc;

use longshore::store::State;

use super::{a_log_is_read, end_the_lead, ended_at, others_finish, slow_logs};
use crate::harness::{Child, LIMIT, wait_until};
use crate::scene::Scene;

points! { REPLACED: replaced_results;
    before_a_replaced_run_is_emptied = "clear:before",
    after_a_replaced_run_is_emptied = "clear:after",
    before_a_replaced_run_is_forgotten = "sweep_runs:before",
    after_a_replaced_run_is_forgotten = "sweep_runs:after",
}
points! { GIVEN_UP: rows_of_a_task_that_was_given_up;
    before_a_given_up_run_is_marked = "sweep_abandoned:before",
    after_a_given_up_run_is_marked = "sweep_abandoned:after",
    before_a_given_up_run_is_emptied = "clear:before",
    after_a_given_up_run_is_emptied = "clear:after",
}
points! { ENDED: tasks_that_ended_long_ago;
    before_the_sweep = "sweep:before",
    after_the_sweep = "sweep:after",
}

const STAGED: &str = "select (select count(*) from staged_tests) + (select count(*) from staged_metrics) \
    + (select count(*) from staged_facts) + (select count(*) from staged_files) + (select count(*) from staged_data)";
const PARTS: i64 = 3;

/// Kills workers together: none of them leads, and sweeps, after the other.
async fn kill<const N: usize>(scene: &Scene, mut workers: [Child; N]) {
    for worker in &workers {
        worker.signal("KILL");
    }
    for worker in &mut workers {
        worker.ended(LIMIT).await;
    }
    end_the_lead(scene).await;
}

async fn replaced_results(scene: Arc<Scene>, point: &'static str) {
    scene.small_job("1");
    let workers = [scene.worker("fetch"), scene.worker("postprocess")];
    scene.fetch("lab", "1").await;
    scene.reaches("lab", "1", "complete").await;
    let again = [
        "enqueue",
        "fetch",
        "--backend",
        "lab",
        "--id",
        "1",
        "--target",
    ];
    let again = [&again[..], &["group/project/build/environment", "--again"]].concat();
    scene.verb(&again).await;
    wait_until("the results are replaced", LIMIT, async || {
        scene.find("lab", "1").await.unwrap().visible == 2
    })
    .await;
    scene.settles().await;
    kill(&scene, workers).await;
    let before = scene.seen("lab", "1").await;
    let old = "select count(*) from runs where generation = 1 and testjob in (select id from testjobs where remote_id = '1')";
    let rows = scene.bench.number(STAGED).await;
    assert_eq!(
        scene.bench.number(old).await,
        PARTS,
        "nothing was swept yet"
    );
    ended_at(scene.doomed("fetch", point), point).await;
    assert!(scene.seen("lab", "1").await == before, "readers noticed");
    let emptied = scene.bench.number(STAGED).await < rows;
    assert_eq!(emptied, point != "clear:before");
    let left = PARTS - i64::from(point == "sweep_runs:after");
    assert_eq!(scene.bench.number(old).await, left);
    let _heirs = others_finish(&scene, &["1"], point).await;
    let orphans = "select count(*) from staged_facts where run not in (select id from runs)";
    wait_until("all of it is swept", LIMIT, async || {
        scene.bench.number(old).await + scene.bench.number(orphans).await == 0
    })
    .await;
    assert!(scene.seen("lab", "1").await == before, "readers noticed");
}

async fn rows_of_a_task_that_was_given_up(scene: Arc<Scene>, point: &'static str) {
    // Its first chunk is there before its log is read.
    scene.job("1");
    scene.job("2");
    scene.lab.fail(slow_logs());
    let worker = scene.worker("fetch");
    scene.fetch("lab", "1").await;
    a_log_is_read(&scene).await;
    wait_until("something is staged", LIMIT, async || {
        scene.bench.number(STAGED).await > 0
    })
    .await;
    scene.verb(&["task", "cancel", "fetch:lab/1"]).await;
    scene.task_reaches("fetch:lab/1", State::Canceled).await;
    kill(&scene, [worker]).await;
    let rows = scene.bench.number(STAGED).await;
    scene
        .bench
        .execute("update tasks set ended_at = ended_at - 7200000")
        .await;
    ended_at(scene.doomed("fetch", point), point).await;
    let marked = "select count(*) from runs where unclean = 1";
    let marked = scene.bench.number(marked).await;
    assert_eq!(marked, i64::from(point != "sweep_abandoned:before"));
    let emptied = scene.bench.number(STAGED).await < rows;
    assert_eq!(emptied, point == "clear:after");
    scene.lab.heal();
    end_the_lead(&scene).await;
    let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
    wait_until("all of it is swept", LIMIT, async || {
        scene.bench.number(STAGED).await == 0
    })
    .await;
    scene.verb(&["task", "retry", "fetch:lab/1"]).await;
    scene.reaches("lab", "1", "complete").await;
    scene.fetch("lab", "2").await;
    scene.reaches("lab", "2", "complete").await;
    scene.settles().await;
    let (disturbed, undisturbed) = (scene.seen("lab", "1").await, scene.seen("lab", "2").await);
    assert!(disturbed == undisturbed, "after the end at {point}");
}

async fn tasks_that_ended_long_ago(scene: Arc<Scene>, point: &'static str) {
    scene.small_job("1");
    let workers = [scene.worker("fetch"), scene.worker("postprocess")];
    scene.fetch("lab", "1").await;
    scene.reaches("lab", "1", "complete").await;
    scene.settles().await;
    kill(&scene, workers).await;
    let month = 31_i64 * 24 * 3600 * 1000;
    let earlier = format!("update tasks set ended_at = ended_at - {month}");
    scene.bench.execute(&earlier).await;
    ended_at(scene.doomed("fetch", point), point).await;
    let tasks = "select count(*) from tasks";
    let left = if point == "sweep:before" { PARTS } else { 0 };
    assert_eq!(scene.bench.number(tasks).await, left);
    let _heirs = others_finish(&scene, &["1"], point).await;
    wait_until("all of it is swept", LIMIT, async || {
        scene.bench.find("fetch:lab/1").await.is_none()
    })
    .await;
}
