//! What a worker needs of an API server, asked of this one and, where `LONGSHORE_TEST_KUBECONFIG` names a kubeconfig, of
//! the real one there, by the same function.
//!
//! The worker's own code speaks ([`longshore::kube::Pod`]); a plain client sets the stage and looks at what came of it. It
//! takes the rights of an administrator, and it touches nothing outside of a namespace of its own, `longshore-test-…`,
//! which it deletes at its end; of the nodes it reads one, if there is one that takes pods.
//!
//! No scheduler and no kubelet has a part in it: the pods name a scheduler that nobody is, or a node that is not there, so
//! that they never run, and the test itself writes the status of one that does, and removes what is deleted. Of the
//! controllers the one of the budgets is needed. What takes a node of its own (`drained`) is asked only where
//! `LONGSHORE_TEST_KUBE_NODES` is set too, as it is by `scripts/kube-apiserver`: the cluster is nobody's.
//!
//! Without the variable the real server is no part of the test, and that it passes says nothing about one.

mod asked;
mod decisions;
mod drained;
mod rights;

use std::path::Path;
use std::time::Duration;

use axum::http::Request;
use futures::{FutureExt as _, StreamExt as _};
use kube::core::{Status, WatchEvent};
use longshore::config::{Identity, Kubernetes};
use longshore::kube::api::{Away, client};
use longshore::kube::busy::Admission;
use longshore::kube::{COST_ANNOTATION, HAND_OFF_ANNOTATION, Note, Pod};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::client::MERGE;
use super::{BUSY, Cluster};
use crate::harness::{Folder, LIMIT, wait_for};

const POD: &str = "worker-0";
const OTHER: &str = "worker-1";
const INSTANCE: &str = "app.kubernetes.io/instance";
const NOBODY: &str = "00000000-0000-4000-8000-000000000000";

#[tokio::test]
async fn the_api_server_is_what_the_worker_takes_it_for() {
    let (cluster, folder) = (Cluster::start(), Folder::new());
    cluster.add_node("n1");
    holds(&cluster.kubeconfig(&folder)).await;
    assert_eq!(cluster.spaces(), Vec::<String>::new(), "all is gone again");
    if let Some(real) = std::env::var_os("LONGSHORE_TEST_KUBECONFIG") {
        holds(Path::new(&real)).await;
    }
}

/// Asks all of it of the server that `kubeconfig` names.
async fn holds(kubeconfig: &Path) {
    let stage = Stage::set(kubeconfig).await;
    let played = std::panic::AssertUnwindSafe(play(&stage))
        .catch_unwind()
        .await;
    let cleared = stage.clear().await;
    if let Err(panic) = played {
        std::panic::resume_unwind(panic);
    }
    cleared.unwrap();
}

async fn play(stage: &Stage) {
    let uid = stage.add_pod(POD).await;
    let other = stage.add_pod(OTHER).await;
    let pod = stage.worker(POD, &uid).await;
    stage.node_is_read().await;
    the_label_and_the_cost_are_written_on_the_own_pod_only(stage, &pod).await;
    events_are_written(stage, &pod, &uid).await;
    one_pod_is_watched(stage, &pod).await;
    a_deletion_names_its_pod(stage, &other).await;
    asked::pods_of_a_pool_are_followed(stage, &pod).await;
    asked::a_pool_hands_off_and_works_again(stage).await;
    asked::one_pod_is_drained(stage).await;
    decisions::are_as_expected(stage).await;
    the_busy_label_keeps_a_pod_that_runs(stage, &pod, &uid).await;
}

async fn the_label_and_the_cost_are_written_on_the_own_pod_only(stage: &Stage, pod: &Pod) {
    pod.look_around().await;
    assert_eq!(pod.admit().await, Admission::Go);
    assert_eq!(stage.pod(POD).await["metadata"]["labels"][BUSY], "true");
    assert!(pod.settle_busy(|| false).await);
    let labels = stage.pod(POD).await["metadata"]["labels"].clone();
    assert!(labels.get(BUSY).is_none(), "{labels}");
    assert!(labels.get(INSTANCE).is_some(), "the others stay: {labels}");
    pod.write_cost(100).await.unwrap();
    let impostor = stage.worker(POD, NOBODY).await;
    let refused = impostor.write_cost(7).await;
    assert!(
        matches!(refused, Err(Away::Refused { code: 422, .. })),
        "{refused:?}"
    );
    let annotations = stage.pod(POD).await["metadata"]["annotations"].clone();
    assert_eq!(annotations[COST_ANNOTATION], "100");
}

async fn events_are_written(stage: &Stage, pod: &Pod, uid: &str) {
    pod.event(Note::Quiet, "takes nothing new: a test".into())
        .await;
    let path = stage.path("/apis/events.k8s.io/v1", "events");
    let list = stage.ask("GET", &path, &Value::Null).await.unwrap();
    let events = list["items"].as_array().unwrap();
    let ours = events.iter().find(|event| event["reason"] == "Quiet");
    let ours = ours.unwrap_or_else(|| panic!("no event: {list}"));
    assert_eq!(ours["regarding"]["uid"], uid);
}

async fn one_pod_is_watched(stage: &Stage, pod: &Pod) {
    let version = stage.pod(POD).await["metadata"]["resourceVersion"].clone();
    let end = CancellationToken::new();
    pod.follow(&end);
    // A change of another pod is not among what the watch says.
    let asked = |asked: Value| json!({"metadata": {"annotations": {HAND_OFF_ANNOTATION: asked}}});
    for name in [OTHER, POD] {
        stage.patch(name, &asked(json!("true"))).await;
    }
    let path = stage.path("/api/v1", "pods");
    let version = version.as_str().unwrap();
    let path =
        format!("{path}?watch=true&fieldSelector=metadata.name%3D{POD}&resourceVersion={version}");
    let request = Request::get(path).body(Vec::new()).unwrap();
    let events = stage.client.request_events::<Value>(request).await.unwrap();
    let mut events = std::pin::pin!(events);
    let event = tokio::time::timeout(LIMIT, events.next()).await;
    let event = event.expect("the watch says something").unwrap().unwrap();
    let WatchEvent::Modified(seen) = event else {
        panic!("{event:?}");
    };
    assert_eq!(seen["metadata"]["name"], POD);
    // The worker's own watch says the same, and when it is taken back.
    let mut signs = pod.seen();
    for (wanted, patch) in [(true, None), (false, Some(asked(Value::Null)))] {
        if let Some(patch) = patch {
            stage.patch(POD, &patch).await;
        }
        let seen = signs.wait_for(|seen| seen.signs.hand_off == wanted);
        let seen = tokio::time::timeout(LIMIT, seen).await;
        drop(seen.expect("the worker hears of it").unwrap());
    }
    end.cancel();
}

async fn a_deletion_names_its_pod(stage: &Stage, uid: &str) {
    let path = stage.pod_path(OTHER);
    for (whose, expected) in [(NOBODY, 409), (uid, 200)] {
        let options = json!({
            "apiVersion": "v1", "kind": "DeleteOptions", "preconditions": {"uid": whose},
        });
        let answer = stage.ask("DELETE", &path, &options).await;
        assert_eq!(code(&answer), expected, "{answer:?}");
    }
    assert_eq!(code(&stage.ask("GET", &path, &Value::Null).await), 404);
}

async fn the_busy_label_keeps_a_pod_that_runs(stage: &Stage, pod: &Pod, uid: &str) {
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": "busy"},
        "spec": {"maxUnavailable": 0, "selector": {"matchLabels": {INSTANCE: "contract", BUSY: "true"}}},
    });
    let path = stage.path("/apis/policy/v1", "poddisruptionbudgets");
    stage.ask("POST", &path, &budget).await.unwrap();
    stage.set_status(POD, "Running", true).await;

    assert_eq!(pod.admit().await, Admission::Go);
    let refused = stage.evict(uid).await.unwrap_err();
    assert_eq!(refused.code, 429, "{refused:?}");
    let causes = refused.details.unwrap().causes;
    assert_eq!(causes[0].reason, "DisruptionBudget", "{causes:?}");
    let meta = stage.pod(POD).await["metadata"].clone();
    assert!(meta["deletionTimestamp"].is_null());

    assert!(pod.settle_busy(|| false).await);
    // The options are read, or this one would have been evicted.
    let another = stage.evict(NOBODY).await;
    assert_eq!(code(&another), 409, "{another:?}");
    stage.evict(uid).await.unwrap();
    let gone = stage.ask("GET", &stage.pod_path(POD), &Value::Null).await;
    assert_eq!(code(&gone), 404, "{gone:?}");
}

/// A client, and a namespace of this test alone.
struct Stage {
    client: kube::Client,
    settings: Kubernetes,
    namespace: String,
    node: Option<String>,
}

type Answer = Result<Value, Box<Status>>;

/// The status, as far as a client of kube is told.
fn code(answer: &Answer) -> u16 {
    answer.as_ref().err().map_or(200, |status| status.code)
}

impl Stage {
    async fn set(kubeconfig: &Path) -> Self {
        let settings = Kubernetes {
            identity: None,
            kubeconfig: Some(kubeconfig.to_owned()),
            timeout: Duration::from_secs(20),
            unknown_grace: Duration::from_secs(10),
            busy_limit: Duration::from_secs(3600),
            settle: Duration::ZERO,
        };
        let mut stage = Self {
            client: client(&settings).await.unwrap(),
            settings,
            namespace: String::new(),
            node: None,
        };
        let nodes = stage.ask("GET", "/api/v1/nodes", &Value::Null).await;
        let nodes = nodes.unwrap()["items"].take();
        // One that is about to go would be a reason to take no work.
        let node = nodes.as_array().unwrap().iter().find(|node| {
            let taints = node["spec"]["taints"].as_array();
            taints.is_none_or(Vec::is_empty) && node["spec"]["unschedulable"] != true
        });
        stage.node = node.map(|node| node["metadata"]["name"].as_str().unwrap().to_owned());
        let space = json!({
            "apiVersion": "v1", "kind": "Namespace",
            "metadata": {"generateName": "longshore-test-"},
        });
        let space = stage.ask("POST", "/api/v1/namespaces", &space).await;
        let name = space.unwrap()["metadata"]["name"].take();
        stage.namespace = name.as_str().unwrap().to_owned();
        stage
    }

    /// The same namespace, as another may see it.
    async fn seen_by(&self, kubeconfig: &Path) -> Self {
        let settings = Kubernetes {
            kubeconfig: Some(kubeconfig.to_owned()),
            ..self.settings.clone()
        };
        Self {
            client: client(&settings).await.unwrap(),
            settings,
            namespace: self.namespace.clone(),
            node: self.node.clone(),
        }
    }

    /// The namespace's controller deletes what is in it.
    async fn clear(&self) -> Answer {
        let path = format!("/api/v1/namespaces/{}", self.namespace);
        self.ask("DELETE", &path, &Value::Null).await
    }

    fn path(&self, group: &str, plural: &str) -> String {
        format!("{group}/namespaces/{}/{plural}", self.namespace)
    }

    fn pod_path(&self, name: &str) -> String {
        format!("{}/{name}", self.path("/api/v1", "pods"))
    }

    async fn ask(&self, method: &str, path: &str, body: &Value) -> Answer {
        let content = match method {
            "PATCH" => MERGE,
            _ => "application/json",
        };
        self.ask_as(content, method, path, body).await
    }

    async fn ask_as(&self, content: &str, method: &str, path: &str, body: &Value) -> Answer {
        let body = if body.is_null() {
            Vec::new()
        } else {
            body.to_string().into_bytes()
        };
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header("content-type", content)
            .body(body)
            .unwrap();
        let answer = tokio::time::timeout(LIMIT, self.client.request(request)).await;
        match answer.unwrap_or_else(|_| panic!("no answer: {method} {path}")) {
            Ok(object) => Ok(object),
            Err(kube::Error::Api(status)) => Err(status),
            Err(error) => panic!("{method} {path}: {error}"),
        }
    }

    async fn pod(&self, name: &str) -> Value {
        let answer = self.ask("GET", &self.pod_path(name), &Value::Null).await;
        answer.unwrap()
    }

    async fn patch(&self, name: &str, patch: &Value) {
        let answer = self.ask("PATCH", &self.pod_path(name), patch).await;
        drop(answer.unwrap());
    }

    /// Adds a pod that nobody schedules; answers its uid.
    async fn add_pod(&self, name: &str) -> String {
        let added = self.add(&pod(name)).await;
        added["metadata"]["uid"].as_str().unwrap().to_owned()
    }

    /// Adds a pod to the namespace.
    async fn add(&self, pod: &Value) -> Value {
        let path = self.path("/api/v1", "pods");
        // A namespace takes pods once a controller has given it its service account.
        wait_for("the namespace takes pods", LIMIT, async || {
            match self.ask("POST", &path, pod).await {
                Ok(added) => Some(added),
                Err(status) if status.code == 403 && status.message.contains("serviceaccount") => {
                    None
                }
                Err(status) => panic!("{status:?}"),
            }
        })
        .await
    }

    /// Writes a pod's status as a kubelet does.
    async fn set_status(&self, name: &str, phase: &str, is_ready: bool) {
        let ready = if is_ready { "True" } else { "False" };
        let status = json!({"status": {"phase": phase, "conditions": [
            {"type": "Ready", "status": ready, "lastTransitionTime": "2026-01-01T00:00:00Z"},
        ]}});
        let path = format!("{}/status", self.pod_path(name));
        self.ask("PATCH", &path, &status).await.unwrap();
    }

    /// A worker in the pod `name`, which it takes for the one of `uid`.
    async fn worker(&self, name: &str, uid: &str) -> Pod {
        let identity = Identity {
            pod: name.into(),
            namespace: self.namespace.clone(),
            uid: uid.into(),
            node: self.node.clone(),
        };
        let settings = Kubernetes {
            identity: Some(identity),
            ..self.settings.clone()
        };
        Pod::new(&settings).await.unwrap()
    }

    async fn node_is_read(&self) {
        if let Some(node) = &self.node {
            let path = format!("/api/v1/nodes/{node}");
            let found = self.ask("GET", &path, &Value::Null).await.unwrap();
            assert_eq!(found["metadata"]["name"], node.as_str());
        }
    }

    /// Evicts [`POD`] if it is the one of `uid`.
    async fn evict(&self, uid: &str) -> Answer {
        let options = json!({"preconditions": {"uid": uid}});
        self.evict_with(POD, POD, &options).await
    }

    /// Evicts the pod `name` by a body that names the pod `named`.
    async fn evict_with(&self, name: &str, named: &str, options: &Value) -> Answer {
        let eviction = json!({
            "apiVersion": "policy/v1", "kind": "Eviction",
            "metadata": {"name": named, "namespace": self.namespace}, "deleteOptions": options,
        });
        let path = format!("{}/eviction", self.pod_path(name));
        self.ask("POST", &path, &eviction).await
    }
}

/// A pod as the restricted standard lets it in, that nobody schedules.
fn pod(name: &str) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Pod",
        "metadata": {"name": name, "labels": {INSTANCE: "contract"}},
        "spec": {
            "schedulerName": "nobody",
            "automountServiceAccountToken": false,
            "securityContext": {
                "runAsNonRoot": true, "runAsUser": 65532, "seccompProfile": {"type": "RuntimeDefault"},
            },
            "containers": [{
                "name": "worker", "image": "longshore.invalid/worker",
                "securityContext": {"allowPrivilegeEscalation": false, "capabilities": {"drop": ["ALL"]}},
            }],
        },
    })
}
