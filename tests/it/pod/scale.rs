//! A ReplicaSet that shrinks ends idle pods: busy ones cost more, and are as ready as the others.

use std::sync::Arc;

use longshore::handler::Registry;
use longshore::pool::{Exit, Health};
use longshore::store::State;

use super::{Held, Site, elastic, pinned, task};
use crate::cluster::Pod;
use crate::harness::{LIMIT, wait_until};
use crate::inside::Inside;
use crate::scene::{Scene, on_both_with};

on_both_with!(
    "";
    a_set_that_shrinks_ends_the_idle_pods,
    a_busy_worker_is_ready_even_at_rest_and_in_its_drain,
);

/// A worker in one of the set's pods, and what its probes are told, once it is ready.
async fn member(scene: &Scene, site: &Site, name: &str, registry: &Registry) -> (Inside, Health) {
    let pod = longshore::kube::Pod::new(&site.settings(name))
        .await
        .unwrap();
    let made = elastic(pod);
    let health = made.health.clone();
    let worker = scene.inside(registry.clone(), made);
    is_ready(&health).await;
    (worker, health)
}

async fn is_ready(health: &Health) {
    wait_until("the worker is ready", LIMIT, async || health.is_ready()).await;
}

async fn a_set_that_shrinks_ends_the_idle_pods(scene: Arc<Scene>) {
    let site = Site::new();
    let (held, registry) = Held::new();
    let names = ["e-0", "e-1", "e-2"];
    for name in names {
        let pod = Pod::elastic("inside", name).on("n1");
        site.cluster.add_pod(pod.owner_replicaset("inside", 3));
    }
    for name in &names[1..] {
        site.cluster.edit("pods", name, |pod| {
            pod["status"]["conditions"][0]["lastTransitionTime"] = "2026-01-01T00:00:00Z".into();
        });
    }
    let (busy, health) = member(&scene, &site, "e-0", &registry).await;
    scene.enqueue(&[task("1")]).await;
    held.begun.notified().await;
    let mut idle = Vec::new();
    for name in &names[1..] {
        idle.push(member(&scene, &site, name, &registry).await);
    }
    assert_eq!(
        site.cluster.first_to_go("inside", 1),
        ["e-0"],
        "the youngest would go, were it idle"
    );
    site.cluster
        .until("the busy pod has its cost", |cluster| {
            let cost = "controller.kubernetes.io/pod-deletion-cost";
            cluster.pod("e-0")?["metadata"]["annotations"][cost]
                .as_str()
                .map(drop)
        })
        .await;
    // As the kubelet would say after its next probe: one that is not ready goes before any cost counts.
    let healths = [&health, &idle[0].1, &idle[1].1];
    for (name, health) in names.iter().zip(healths) {
        site.cluster.probed(name, health.is_ready());
    }
    let mut gone = site.cluster.scale_down("inside", 2);
    gone.sort();
    assert_eq!(gone, names[1..]);
    for ((worker, _), name) in idle.into_iter().zip(gone) {
        worker.stop().await;
        assert_eq!(worker.ended().await, Exit::Drained);
        site.cluster.remove("pods", &name);
    }
    let left = site.cluster.pod("e-0").unwrap();
    assert!(left["metadata"]["deletionTimestamp"].is_null());
    held.go.notify_one();
    scene.task_reaches("1", State::Done).await;
    let view = scene.bench.view("1").await;
    assert_eq!((view.interruptions, view.crashes), (0, 0));
    busy.stop().await;
    let _exit = busy.ended().await;
}

async fn a_busy_worker_is_ready_even_at_rest_and_in_its_drain(scene: Arc<Scene>) {
    let site = Site::new();
    let (held, registry) = Held::new();
    let mut made = pinned(site.pinned("p-0").await);
    made.pool.slots = 1;
    let health = made.health.clone();
    assert!(!health.is_ready(), "it has not begun");
    let worker = scene.inside(registry, made);
    is_ready(&health).await;
    // More than it has room for.
    scene.enqueue(&[task("1"), task("2")]).await;
    held.begun.notified().await;
    assert!(health.is_ready(), "busy");
    site.cordon(true);
    wait_until("it rests", LIMIT, async || health.is_resting()).await;
    assert!(health.is_ready(), "busy at rest");
    worker.stop().await;
    wait_until("it drains", LIMIT, async || health.is_draining()).await;
    assert!(health.is_ready(), "busy in its drain");
    held.go.notify_one();
    assert_eq!(worker.ended().await, Exit::Drained);
    let done = "select count(*) from tasks where state = 'done'";
    assert_eq!(scene.bench.number(done).await, 1);
}
