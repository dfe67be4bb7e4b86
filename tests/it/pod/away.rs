//! An API server that refuses, fails, hangs or is gone costs the awareness, never the work.

use std::sync::Arc;
use std::time::Duration;

use longshore::config::Kubernetes;
use longshore::handler::{Outcome, Registry};
use longshore::pool::Exit;
use longshore::store::State;

use super::{Held, Site, elastic, pinned, task};
use crate::cluster::{Fault, Pod, Rule};
use crate::harness::BackEnd;
use crate::scene::{Scene, on_both_with, scene};

on_both_with!(
    "";
    a_server_that_goes_away_and_comes_back_costs_the_awareness_between,
);

const FAULTS: [Fault; 7] = [
    Fault::Forbidden,
    Fault::TooMany(None),
    Fault::TooMany(Some(60)),
    Fault::Internal,
    Fault::Gone,
    Fault::Hang,
    Fault::Cut,
];

/// Each call of the API fails in each way, all the time: work is done as ever.
macro_rules! each_call {
    ($($name:ident: $verb:literal $resource:literal),+ $(,)?) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            scene(BackEnd::Sqlite, "", |scene| works_without(scene, $verb, $resource)).await;
        })+
    };
}
each_call!(
    without_get_pods: "get" "pods",
    without_watch_pods: "watch" "pods",
    without_list_pods: "list" "pods",
    without_patch_pods: "patch" "pods",
    without_get_nodes: "get" "nodes",
    without_watch_nodes: "watch" "nodes",
    without_create_events: "create" "events",
    without_anything: "*" "*",
);

async fn works_without(scene: Arc<Scene>, verb: &str, resource: &str) {
    for (number, fault) in FAULTS.into_iter().chain([Fault::Expired]).enumerate() {
        let site = Site::new();
        site.cluster.fault(Rule::on(verb, resource), fault);
        let mut registry = Registry::default();
        registry.add("demo", |_, _| async { Ok(Outcome::done("as ever")) });
        site.cluster.add_pod(
            Pod::pinned("inside", "p-0")
                .on("n1")
                .owner_statefulset("p", 1),
        );
        site.cluster.add_pod(Pod::elastic("inside", "e-0").on("n1"));
        for pod in ["p-0", "e-0"] {
            let settings = Kubernetes {
                timeout: Duration::from_millis(100),
                ..site.settings(pod)
            };
            let view = longshore::kube::Pod::new(&settings).await.unwrap();
            let made = if pod == "p-0" {
                pinned(view)
            } else {
                elastic(view)
            };
            let worker = scene.inside(registry.clone(), made);
            let id = format!("{number}-{pod}");
            scene.enqueue(&[task(&id)]).await;
            scene.task_reaches(&id, State::Done).await;
            let view = scene.bench.view(&id).await;
            assert_eq!(
                (view.failures, view.crashes, view.interruptions),
                (0, 0, 0),
                "{fault:?}"
            );
            worker.stop().await;
            assert_eq!(worker.ended().await, Exit::Drained, "{fault:?}");
        }
    }
}

/// What is asked of a pod whose end is near must not wait for the client's own patience.
#[tokio::test]
async fn what_is_told_to_slow_down_is_not_asked_again_by_the_client() {
    let site = Site::new();
    let pod = site.pinned("p-0").await;
    for after in [None, Some(1)] {
        site.cluster
            .fault(Rule::on("get", "pods"), Fault::TooMany(after));
        pod.look_for_deadline().await;
        site.cluster.lift_faults();
    }
    let asked = site.cluster.requests(&Rule::on("get", "pods"));
    assert_eq!(asked.len(), 2, "{asked:?}");
}

async fn a_server_that_goes_away_and_comes_back_costs_the_awareness_between(scene: Arc<Scene>) {
    let site = Site::new();
    let (held, registry) = Held::new();
    let pod = site.pinned("p-0").await;
    site.cluster.away();
    let worker = scene.inside(registry, pinned(pod));
    scene.enqueue(&[task("1")]).await;
    held.begun.notified().await;
    assert_eq!(site.label("p-0"), None);
    site.cluster.back();
    // Late, but there: what runs is protected as soon as it can be.
    site.cluster
        .until("the label is on", |_| site.label("p-0").map(drop))
        .await;
    // And the node is watched again.
    site.cordon(true);
    let rule = Rule::on("create", "events");
    site.cluster
        .until("it says that it is quiet", |cluster| {
            (!cluster.requests(&rule).is_empty()).then_some(())
        })
        .await;
    held.go.notify_one();
    scene.task_reaches("1", State::Done).await;
    worker.stop().await;
    let _exit = worker.ended().await;
}
