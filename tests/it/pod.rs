//! A worker in a pod: what it does when the cluster speaks, and that a cluster that does not speak is no matter.
//!
//! The cluster is this repository's own API server (`cluster`); stores, brokers and workers are real.

mod away;
mod counted;
mod deadline;
mod node;
pub(crate) mod process;
mod race;
mod scale;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use longshore::config::{Identity, Kubernetes, PoolKind};
use longshore::handler::{Outcome, Registry};
use longshore::store::State;
use longshore::task::Task;
use serde_json::Value;
use tokio::sync::Notify;

use crate::cluster::{BUSY, Budget, Cluster, Pod, Rule};
use crate::harness::{Folder, LIMIT, wait_until};
use crate::inside::{Made, QUEUE};
use crate::scene::{Scene, on_both_with};

on_both_with!(
    "";
    the_label_is_there_before_the_claim_and_until_the_result_is_stored,
    a_label_that_an_earlier_life_left_is_taken_off,
    an_attempt_without_progress_no_longer_keeps_its_node,
    the_deletion_cost_follows_what_the_pod_holds,
);

/// A cluster with a node, a budget for busy pods, and what the workers need to find it.
pub(crate) struct Site {
    pub(crate) cluster: Cluster,
    pub(crate) kubeconfig: PathBuf,
    _folder: Folder,
}

impl Site {
    pub(crate) fn new() -> Self {
        let (cluster, folder) = (Cluster::start(), Folder::new());
        cluster.add_node("n1");
        cluster.add_budget(Budget::busy());
        let kubeconfig = cluster.kubeconfig(&folder);
        Self {
            cluster,
            kubeconfig,
            _folder: folder,
        }
    }

    /// The configuration of a worker in the pod `name`, which is there already.
    pub(crate) fn settings(&self, name: &str) -> Kubernetes {
        let pod = self.cluster.pod(name).unwrap();
        let text = |value: &Value| value.as_str().unwrap().to_owned();
        Kubernetes {
            identity: Some(Identity {
                pod: name.into(),
                namespace: text(&pod["metadata"]["namespace"]),
                uid: text(&pod["metadata"]["uid"]),
                node: pod["spec"]["nodeName"].as_str().map(str::to_owned),
            }),
            kubeconfig: Some(self.kubeconfig.clone()),
            timeout: Duration::from_secs(20),
            unknown_grace: Duration::from_secs(10),
            busy_limit: Duration::from_secs(3600),
            settle: Duration::ZERO,
        }
    }

    /// A pinned pod on the node, and a worker's view of it.
    pub(crate) async fn pinned(&self, name: &str) -> longshore::kube::Pod {
        self.cluster.add_pod(
            Pod::pinned("inside", name)
                .on("n1")
                .owner_statefulset("p", 2),
        );
        longshore::kube::Pod::new(&self.settings(name))
            .await
            .unwrap()
    }

    /// The same of an elastic pod.
    pub(crate) async fn elastic(&self, name: &str) -> longshore::kube::Pod {
        self.cluster.add_pod(Pod::elastic("inside", name).on("n1"));
        longshore::kube::Pod::new(&self.settings(name))
            .await
            .unwrap()
    }

    pub(crate) fn label(&self, pod: &str) -> Option<String> {
        let pod = self.cluster.pod(pod)?;
        pod["metadata"]["labels"][BUSY].as_str().map(str::to_owned)
    }

    pub(crate) fn cordon(&self, cordoned: bool) {
        self.cluster.edit("nodes", "n1", |node| {
            node["spec"]["unschedulable"] = cordoned.into()
        });
    }

    /// The reasons of all events so far.
    pub(crate) fn events(&self) -> Vec<String> {
        let rule = Rule::on("create", "events");
        let seen = self.cluster.requests(&rule);
        seen.iter()
            .filter_map(|seen| seen.body["reason"].as_str().map(str::to_owned))
            .collect()
    }
}

/// A worker that may be scaled.
pub(crate) fn elastic(pod: longshore::kube::Pod) -> Made {
    let mut made = Made::default();
    made.pool.kind = PoolKind::Elastic {
        budget: Duration::from_secs(3600),
        overrun_queue: None,
    };
    made.pod = Some(pod);
    made
}

/// A worker that may not.
pub(crate) fn pinned(pod: longshore::kube::Pod) -> Made {
    Made {
        pod: Some(pod),
        ..Made::default()
    }
}

pub(crate) fn task(id: &str) -> Task {
    Task::new("demo", QUEUE).with_id(id)
}

/// A handler that says that it has begun, and ends when it is told to.
pub(crate) struct Held {
    pub(crate) begun: Arc<Notify>,
    pub(crate) go: Arc<Notify>,
}

impl Held {
    pub(crate) fn new() -> (Self, Registry) {
        let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
        let mut registry = Registry::default();
        let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go));
        registry.add("demo", move |_, _| {
            let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
            async move {
                tell.notify_one();
                wait.notified().await;
                Ok(Outcome::done("held"))
            }
        });
        (Self { begun, go }, registry)
    }
}

async fn the_label_is_there_before_the_claim_and_until_the_result_is_stored(scene: Arc<Scene>) {
    let site = Site::new();
    let (held, registry) = Held::new();
    let worker = scene.inside(registry, pinned(site.pinned("p-0").await));
    // The claim must wait for the label.
    let mut labelling = site.cluster.gate(Rule::on("patch", "pods").times(1));
    scene.enqueue(&[task("1")]).await;
    let patch = labelling.next().await;
    assert_eq!(patch.seen.body["metadata"]["labels"][BUSY], "true");
    let claimed = scene
        .bench
        .number("select count(*) from tasks where state = 'running'")
        .await;
    assert_eq!(claimed, 0, "claimed before the pod was labelled");
    // … and for the look at the node that follows it.
    let mut looking = site.cluster.gate(Rule::on("get", "nodes").times(1));
    patch.release();
    let look = looking.next().await;
    assert_eq!(site.label("p-0").as_deref(), Some("true"));
    let claimed = scene
        .bench
        .number("select count(*) from tasks where state = 'running'")
        .await;
    assert_eq!(claimed, 0, "claimed before the node was looked at");
    look.release();
    held.begun.notified().await;
    let mut clearing = site.cluster.gate(Rule::on("patch", "pods").times(1));
    held.go.notify_one();
    let patch = clearing.next().await;
    assert_eq!(patch.seen.body["metadata"]["labels"][BUSY], Value::Null);
    assert_eq!(scene.bench.view("1").await.state, State::Done);
    patch.release();
    site.cluster
        .until("the label is off", |_| {
            site.label("p-0").is_none().then_some(())
        })
        .await;
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn a_label_that_an_earlier_life_left_is_taken_off(scene: Arc<Scene>) {
    let site = Site::new();
    site.cluster.add_pod(
        Pod::pinned("inside", "p-0")
            .on("n1")
            .owner_statefulset("p", 2)
            .busy(),
    );
    let pod = longshore::kube::Pod::new(&site.settings("p-0"))
        .await
        .unwrap();
    let worker = scene.inside(Registry::default(), pinned(pod));
    site.cluster
        .until("the label is off", |_| {
            site.label("p-0").is_none().then_some(())
        })
        .await;
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn an_attempt_without_progress_no_longer_keeps_its_node(scene: Arc<Scene>) {
    let site = Site::new();
    let (begun, save) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut registry = Registry::default();
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&save));
    registry.add("demo", move |_, context| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            context.save(&1).await?;
            wait.notified().await;
            Ok(Outcome::done("at last"))
        }
    });
    site.cluster.add_pod(
        Pod::pinned("inside", "p-0")
            .on("n1")
            .owner_statefulset("p", 2),
    );
    let settings = Kubernetes {
        // Well above the time between two looks of the worker.
        busy_limit: Duration::from_secs(3),
        ..site.settings("p-0")
    };
    let pod = longshore::kube::Pod::new(&settings).await.unwrap();
    let worker = scene.inside(registry, pinned(pod));
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    assert_eq!(site.label("p-0").as_deref(), Some("true"));
    let rule = Rule::on("create", "events");
    site.cluster
        .until("the event is written", |cluster| {
            (!cluster.requests(&rule).is_empty()).then_some(())
        })
        .await;
    assert_eq!(site.events(), ["BusyTooLong"]);
    assert_eq!(site.label("p-0"), None);
    assert_eq!(
        scene.bench.view("1").await.state,
        State::Running,
        "it may go on"
    );
    // It gets on again: the pod is busy again.
    save.notify_one();
    site.cluster
        .until("the label is on", |_| site.label("p-0").map(drop))
        .await;
    save.notify_one();
    scene.task_reaches("1", State::Done).await;
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn the_deletion_cost_follows_what_the_pod_holds(scene: Arc<Scene>) {
    let site = Site::new();
    let (held, registry) = Held::new();
    let worker = scene.inside(registry, elastic(site.elastic("e-0").await));
    let cost = || {
        let pod = site.cluster.pod("e-0").unwrap();
        let cost = &pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
        cost.as_str().map(str::to_owned)
    };
    scene.enqueue(&[task("1")]).await;
    held.begun.notified().await;
    assert_eq!(cost(), None, "short work costs nothing");
    site.cluster
        .until("the cost is written", |_| cost().map(drop))
        .await;
    assert_eq!(cost().as_deref(), Some("10"));
    assert_eq!(
        site.label("e-0"),
        None,
        "an elastic pod is never labelled busy"
    );
    held.go.notify_one();
    scene.task_reaches("1", State::Done).await;
    let patches = site.cluster.requests(&Rule::on("patch", "pods")).len();
    assert_eq!(
        patches, 1,
        "written when the class changes, and no more than every 30 s"
    );
    worker.stop().await;
    let _exit = worker.ended().await;
}

/// Waits until the worker holds nothing of its queue: it rests.
pub(crate) async fn rests(scene: &Scene, task: &str) {
    wait_until("the task is back on its queue", LIMIT, async || {
        scene
            .bench
            .find(task)
            .await
            .is_some_and(|task| task.state == State::Queued)
    })
    .await;
}
