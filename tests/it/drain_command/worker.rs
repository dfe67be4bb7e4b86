//! Real workers, whose node is drained.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::lab::{Effect, Fault as LabFault};
use longshore::store::{Filter, State};
use serde_json::Value;

use super::{Ended, SOON};
use crate::cluster::{Cluster, Pod};
use crate::harness::{Child, LIMIT, wait_until};
use crate::pod::Site;
use crate::scene::{Scene, on_both_with};

on_both_with!(
    crate::pod::process::SETTINGS;
    a_workers_node_is_drained_when_its_work_is_done,
    by_request_a_workers_node_is_drained_before_its_work_is_done,
);

/// A pinned worker process in the pod `p-0` that collects a test job, whose server answers `later`.
async fn busy_worker(scene: &Scene, later: LabFault) -> (Site, Child) {
    let site = Site::new();
    let pod = Pod::pinned("pinned", "p-0").on("n1");
    site.cluster.add_pod(pod.owner_statefulset("p", 1));
    let worker = scene.process(&site, "pinned", "p-0", &[]);
    scene.small_job("1");
    scene.lab.fail(later);
    scene.fetch("lab", "1").await;
    // The label alone would not do: it comes before the claim, which a cordon in between prevents.
    wait_until("it is at work", LIMIT, async || {
        scene.lab.count("suites") > 0
    })
    .await;
    assert!(site.label("p-0").is_some(), "the pod is busy");
    (site, worker)
}

async fn a_workers_node_is_drained_when_its_work_is_done(scene: Arc<Scene>) {
    let delay = Effect::Delay(Duration::from_secs(6));
    let later = LabFault::new("suites", delay).times(1);
    let (site, mut worker) = busy_worker(&scene, later).await;
    let kubeconfig = site.kubeconfig.to_str().unwrap();
    let line = [
        "drain",
        "node",
        "n1",
        "--wait",
        "--json",
        "--kubeconfig",
        kubeconfig,
    ];
    let idle = |_: &Cluster| site.label("p-0").is_none().then(Instant::now);
    let (output, end, stopped) = tokio::join!(
        scene.try_verb(&line),
        site.cluster.until("the work is done", idle),
        site.cluster.runs("p-0", &mut worker),
    );
    let took = end.elapsed();
    let ended = Ended::of(&output);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(took < SOON, "it took {took:?}");
    assert!(stopped.status.success() && !stopped.killed, "{stopped:?}");
    let objects = ended.objects();
    let busy = |report: &&Value| report["holds"][0]["tasks"][0]["testjob"] == "lab/1";
    let held = objects.iter().find(busy);
    let held = held.unwrap_or_else(|| panic!("nobody was told of lab/1: {}", ended.out));
    assert_eq!(held["holds"][0]["state"], "busy");
    assert_eq!(objects.last().unwrap()["outcome"], "done");
    assert_eq!(
        scene.find("lab", "1").await.unwrap().state,
        "postprocessing"
    );
}

async fn by_request_a_workers_node_is_drained_before_its_work_is_done(scene: Arc<Scene>) {
    let never = Effect::Delay(Duration::from_secs(600));
    let (site, mut worker) = busy_worker(&scene, LabFault::new("suites", never)).await;
    let kubeconfig = site.kubeconfig.to_str().unwrap();
    let line = [
        "drain",
        "node",
        "n1",
        "--wait",
        "--hand-off",
        "--kubeconfig",
        kubeconfig,
    ];
    let (output, stopped) =
        tokio::join!(scene.try_verb(&line), site.cluster.runs("p-0", &mut worker));
    assert!(stopped.status.success() && !stopped.killed, "{stopped:?}");
    Ended::of(&output).with(0, &["nothing of Longshore is left (1 evicted)"]);
    let all = Filter {
        id: None,
        state: Some(State::Queued),
        most: 10,
    };
    let queued = scene.bench.store.tasks(&all).await.unwrap();
    let counts = queued
        .iter()
        .map(|task| (task.interruptions, task.failures));
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 0)], "{queued:?}");
}
