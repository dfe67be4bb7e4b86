//! A lane with the real program: workers are killed and stopped in the middle, and nobody runs out of turn.

use std::sync::Arc;
use std::time::Duration;

use longshore::lab::{Effect, Fault};
use longshore::lane::Lane;
use longshore::store::State;
use tokio_util::sync::CancellationToken;

use crate::harness::{Child, LIMIT, wait_for};
use crate::scene::{Scene, on_both_with};

const JOBS: usize = 8;
const WORKERS: usize = 4;

on_both_with!(""; a_lane_keeps_its_order_whoever_dies);

fn task_id(job: usize) -> String {
    format!("fetch:lab/{job}")
}

/// Who is let go, one after the other, as anybody could see at any time.
async fn watch(scene: Arc<Scene>, stop: CancellationToken) -> Vec<String> {
    let mut seen = Vec::new();
    while !stop.is_cancelled() {
        let entries = scene.bench.store.lane("index", 100).await.unwrap();
        let mut let_go = entries
            .into_iter()
            .filter(|entry| entry.state != State::Blocked);
        if let Some(first) = let_go.next()
            && seen.last() != Some(&first.id)
        {
            seen.push(first.id);
        }
        assert!(let_go.next().is_none(), "two of a lane are let go");
        tokio::task::yield_now().await;
    }
    seen
}

/// The worker that runs a task.
async fn owner(scene: &Scene, job: usize, workers: &[Child]) -> Option<usize> {
    let view = scene.bench.view(&task_id(job)).await;
    if view.state != State::Running {
        return None;
    }
    let known = scene.bench.store.workers(false).await.unwrap();
    let owner = known
        .into_iter()
        .find(|worker| Some(worker.id.as_str()) == view.worker.as_deref())?;
    workers
        .iter()
        .position(|child| i64::from(child.pid()) == owner.pid)
}

async fn a_lane_keeps_its_order_whoever_dies(scene: Arc<Scene>) {
    // Long enough to be caught in the middle.
    scene
        .lab
        .fail(Fault::new("/logs", Effect::Drip(Duration::from_millis(30))));
    let target = "group/project/build/environment";
    let mut tasks = Vec::new();
    for job in 0..JOBS {
        scene.small_job(&job.to_string());
        let task =
            longshore::testjob::fetch_task("ci_fetch", "lab", &job.to_string(), target, false);
        assert_eq!(task.id.as_str(), task_id(job));
        tasks.push(task.in_lane(Lane::new("index")));
    }
    let stop = CancellationToken::new();
    let watching = tokio::spawn(watch(Arc::clone(&scene), stop.clone()));
    let _helper = scene.worker("postprocess");
    let mut workers: Vec<Child> = (0..WORKERS).map(|_| scene.worker("fetch")).collect();
    let mut zombies = Vec::new();
    scene.bench.store.enqueue(&tasks).await.unwrap();
    for job in 0..JOBS {
        let what = format!("job {job} runs");
        let running = wait_for(&what, 4 * LIMIT, async || {
            let over = scene.bench.view(&task_id(job)).await.state == State::Done;
            match owner(&scene, job, &workers).await {
                None if over => Some(None),
                running => running.map(Some),
            }
        })
        .await;
        let Some(running) = running else { continue };
        match job % 3 {
            0 => workers[running].signal("KILL"),
            1 => workers[running].signal("STOP"),
            _ => continue,
        }
        let gone = std::mem::replace(&mut workers[running], scene.worker("fetch"));
        if job % 3 == 1 {
            zombies.push(gone);
        }
    }
    for job in 0..JOBS {
        scene.reaches("lab", &job.to_string(), "complete").await;
    }
    stop.cancel();
    let seen = watching.await.unwrap();
    assert!(seen.is_sorted(), "they were let go in this order: {seen:?}");
    assert!(seen.len() > JOBS / 2, "the watch has slept: {seen:?}");
    assert!(!zombies.is_empty(), "nobody was caught in the middle");
    let seen = scene.seen("lab", "2").await;
    for zombie in &zombies {
        zombie.signal("CONT");
        zombie.said("lease is lost", LIMIT).await;
    }
    for job in 0..JOBS {
        let same = scene.seen("lab", &job.to_string()).await == seen;
        assert!(same, "job {job} has each result once");
    }
}
