//! A node with a worker at work is drained: by kubectl and by `longshore drain`, of this server and of a real one.
//!
//! The worker is a process and its job a stand-in's; the test is its kubelet. The real server is asked only where it is
//! nobody's (`LONGSHORE_TEST_KUBE_NODES`), since this adds a node. There worker and drain have the chart's rights alone;
//! kubectl, which looks into all namespaces, has an administrator's.

use std::path::{Path, PathBuf};
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::lab::{Effect, Fault};
use serde_json::{Value, json};

use super::rights::{self, Users};
use super::{BUSY, POD, Stage, code, pod};
use crate::cluster::{Cluster, Kubectl, ended};
use crate::harness::{BackEnd, Child, Folder, LIMIT, wait_for, wait_until};
use crate::pod::process::SETTINGS;
use crate::scene::{GRACE, Scene, scene};

const WORKER: &str = "p-0";
/// Longer than it takes to begin to drain.
const WORK: Duration = Duration::from_secs(6);
/// kubectl tries every five seconds.
const SOON: Duration = Duration::from_secs(7);

#[derive(Clone, Copy)]
enum By {
    Kubectl,
    Longshore,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn kubectl_drains_a_node_when_the_work_on_it_is_done() {
    on_each_server(By::Kubectl).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn longshore_drains_a_node_when_the_work_on_it_is_done() {
    on_each_server(By::Longshore).await;
}

async fn on_each_server(by: By) {
    let (cluster, folder) = (Cluster::start(), Folder::new());
    on_server(cluster.kubeconfig(&folder), by, false).await;
    let real = std::env::var_os("LONGSHORE_TEST_KUBECONFIG");
    let is_ours = std::env::var_os("LONGSHORE_TEST_KUBE_NODES").is_some();
    if let Some(real) = real.filter(|_| is_ours) {
        on_server(real.into(), by, true).await;
    }
}

async fn on_server(kubeconfig: PathBuf, by: By, is_real: bool) {
    scene(BackEnd::Sqlite, SETTINGS, async |scene| {
        let stage = Stage::set(&kubeconfig).await;
        let node = add_node(&stage).await;
        if is_real {
            let users = Users::given(&stage, &kubeconfig).await;
            stage.add_pod(POD).await;
            rights::are_no_more(&stage, &users, &node).await;
            let drains = match by {
                By::Kubectl => &kubeconfig,
                By::Longshore => &users.operator,
            };
            drained(&scene, &stage, &node, (&users.worker, drains), by).await;
        } else {
            drained(&scene, &stage, &node, (&kubeconfig, &kubeconfig), by).await;
        }
        let node = format!("/api/v1/nodes/{node}");
        stage.ask("DELETE", &node, &Value::Null).await.unwrap();
        stage.clear().await.unwrap();
    })
    .await;
}

/// `users` are the worker's kubeconfig and the drain's.
async fn drained(scene: &Arc<Scene>, stage: &Stage, node: &str, users: (&Path, &Path), by: By) {
    let uid = add_worker(stage, node).await;
    let mut worker = start(scene, stage, node, &uid, users.0);
    scene.small_job("1");
    scene
        .lab
        .fail(Fault::new("suites", Effect::Delay(WORK)).times(1));
    scene.fetch("lab", "1").await;
    wait_until("it is at work", LIMIT, async || {
        scene.lab.count("suites") > 0
    })
    .await;
    assert_eq!(stage.pod(WORKER).await["metadata"]["labels"][BUSY], "true");

    let kubelet = async {
        let deleted = async || {
            let pod = stage.pod(WORKER).await;
            (!pod["metadata"]["deletionTimestamp"].is_null()).then(Instant::now)
        };
        let deleted = wait_for("the pod is deleted", 2 * LIMIT, deleted).await;
        worker.signal("TERM");
        let status = worker.ended(GRACE).await;
        assert!(status.success(), "{status:?}");
        let now = json!({"gracePeriodSeconds": 0, "preconditions": {"uid": uid}});
        stage
            .ask("DELETE", &stage.pod_path(WORKER), &now)
            .await
            .unwrap();
        deleted
    };
    let finished = async {
        scene.reaches("lab", "1", "postprocessing").await;
        Instant::now()
    };
    let (output, deleted, finished) =
        tokio::join!(drain(scene, stage, node, users.1, by), kubelet, finished);
    assert!(output.status.success(), "{output:?}");
    let waited = deleted.duration_since(finished);
    assert!(
        waited < SOON,
        "the pod was evicted {waited:?} after the work"
    );
    let log = worker.log();
    assert!(!log.contains("the API server fails"), "{log}");
    let found = stage
        .ask("GET", &format!("/api/v1/nodes/{node}"), &Value::Null)
        .await;
    assert_eq!(found.unwrap()["spec"]["unschedulable"], true);
    let disturbed = "select count(*) from tasks where interruptions + crashes > 0";
    assert_eq!(scene.bench.number(disturbed).await, 0);
}

async fn drain(scene: &Scene, stage: &Stage, node: &str, kubeconfig: &Path, by: By) -> Output {
    match by {
        By::Kubectl => {
            let kubectl = Kubectl::at(kubeconfig.to_owned());
            let line = [
                "drain",
                node,
                "--ignore-daemonsets",
                "--delete-emptydir-data",
            ];
            ended(kubectl.start(&line)).await
        }
        By::Longshore => {
            let kubeconfig = kubeconfig.to_str().unwrap();
            let mut line = vec!["drain", "node", node, "--wait", "--json"];
            line.extend(["--kubeconfig", kubeconfig, "--namespace", &stage.namespace]);
            scene.try_verb(&line).await
        }
    }
}

async fn add_node(stage: &Stage) -> String {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"generateName": "longshore-test-"}});
    let node = stage.ask("POST", "/api/v1/nodes", &node).await.unwrap();
    let name = node["metadata"]["name"].as_str().unwrap().to_owned();
    let ready = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
    stage
        .ask("PATCH", &format!("/api/v1/nodes/{name}/status"), &ready)
        .await
        .unwrap();
    name
}

/// Adds a pinned pool of one, its pod on the node, and the chart's budget. Answers the pod's uid.
async fn add_worker(stage: &Stage, node: &str) -> String {
    let labels = json!({"app.kubernetes.io/instance": "contract", "longshore.dev/pool": "pinned", "longshore.dev/kind": "pinned"});
    let mut bound = pod(WORKER);
    bound["metadata"]["labels"] = labels.clone();
    let set = json!({
        "apiVersion": "apps/v1", "kind": "StatefulSet", "metadata": {"name": "p"},
        "spec": {
            "replicas": 1, "serviceName": "p", "updateStrategy": {"type": "OnDelete"}, "selector": {"matchLabels": labels},
            "template": {"metadata": {"labels": labels}, "spec": bound["spec"]},
        },
    });
    let set = stage
        .ask("POST", &stage.path("/apis/apps/v1", "statefulsets"), &set)
        .await
        .unwrap();
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "busy"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {"app.kubernetes.io/instance": "contract", BUSY: "true"}}},
    });
    let path = stage.path("/apis/policy/v1", "poddisruptionbudgets");
    stage.ask("POST", &path, &budget).await.unwrap();
    bound["metadata"]["ownerReferences"] = json!([{
        "apiVersion": "apps/v1", "kind": "StatefulSet", "name": "p", "uid": set["metadata"]["uid"], "controller": true,
    }]);
    bound["spec"]["nodeName"] = node.into();
    let added = stage
        .ask("POST", &stage.path("/api/v1", "pods"), &bound)
        .await;
    if code(&added) == 409 {
        // Its controller, if there is one, was faster: it is scheduled as a scheduler does it.
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding", "metadata": {"name": WORKER},
            "target": {"apiVersion": "v1", "kind": "Node", "name": node},
        });
        let path = format!("{}/binding", stage.pod_path(WORKER));
        stage.ask("POST", &path, &binding).await.unwrap();
    } else {
        added.unwrap();
    }
    stage.set_status(WORKER, "Running", true).await;
    let pod = stage.pod(WORKER).await;
    assert_eq!(pod["spec"]["nodeName"], node);
    pod["metadata"]["uid"].as_str().unwrap().to_owned()
}

fn start(scene: &Scene, stage: &Stage, node: &str, uid: &str, kubeconfig: &Path) -> Child {
    let variables = [
        ("LONGSHORE__KUBERNETES__POD", WORKER),
        ("LONGSHORE__KUBERNETES__NAMESPACE", &stage.namespace),
        ("LONGSHORE__KUBERNETES__UID", uid),
        ("LONGSHORE__KUBERNETES__NODE", node),
        (
            "LONGSHORE__KUBERNETES__KUBECONFIG",
            kubeconfig.to_str().unwrap(),
        ),
    ];
    let config = scene.config.to_str().unwrap();
    Child::start(
        &scene.bench.folder,
        &["run", "--pool", "pinned", "--config", config],
        &variables,
    )
}
