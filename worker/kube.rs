//! What a worker knows of its pod and node, and what it tells the cluster of itself.
//!
//! [`Pod`] follows the own pod and node ([`signs`]: what they mean), keeps the busy label ([`busy`]) and the
//! deletion cost ([`cost`]), and writes a few events. Outside a cluster there is no [`Pod`].
//!
//! Never: a reason to stop working. An API server that is away, slow or forbidding costs only the
//! awareness; every call has a time limit and is tried again later ([`api`]). Never a worker's write on another
//! pod, not even one of the same name: each patch names the own pod's uid. [`drain`] is not for workers: it is what
//! somebody who drains a node asks of the cluster.

use std::sync::Arc;
use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod as PodObject};
use serde_json::json;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::config;

pub mod api;
pub mod busy;
pub mod cost;
pub mod drain;
mod event;
pub mod peers;
pub mod signs;
mod watching;

use api::{Api, Away, Call};
use busy::Busy;
pub use event::Note;
use signs::{Seen, Signs};

/// Says that a pinned pod must not be evicted: what the PodDisruptionBudget selects.
pub const BUSY_LABEL: &str = "longshore.dev/busy";
/// The pod's pool.
pub const POOL_LABEL: &str = "longshore.dev/pool";
/// Asks a pod to take nothing new and to hand off what it runs.
pub const HAND_OFF_ANNOTATION: &str = "longshore.dev/hand-off";
/// Which pods a ReplicaSet ends first.
pub const COST_ANNOTATION: &str = "controller.kubernetes.io/pod-deletion-cost";

/// The pod that this process runs in. Clones share it.
#[derive(Clone)]
pub struct Pod(Arc<Inner>);

struct Inner {
    settings: config::Kubernetes,
    identity: config::Identity,
    api: Api,
    seen: watch::Sender<Seen>,
    busy: Busy,
    events: event::Sparingly,
    tasks: TaskTracker,
}

impl std::fmt::Debug for Pod {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "Pod({}/{})",
            self.0.identity.namespace, self.0.identity.pod
        )
    }
}

impl Pod {
    /// The pod by the configuration; `None` outside a cluster, or when the API server's address cannot be found out,
    /// which is said once.
    pub async fn new(settings: &config::Kubernetes) -> Option<Self> {
        let identity = settings.identity.clone()?;
        let client = match api::client(settings).await {
            Ok(client) => client,
            Err(error) => {
                tracing::warn!(%error, "this pod's API server cannot be found; the worker goes on without");
                metrics::gauge!("longshore_kubernetes_lost").set(1.0);
                return None;
            }
        };
        Some(Self(Arc::new(Inner {
            api: Api::new(client, settings.timeout),
            settings: settings.clone(),
            identity,
            seen: watch::channel(Seen::default()).0,
            busy: Busy::default(),
            events: event::Sparingly::default(),
            tasks: TaskTracker::new(),
        })))
    }

    /// The pod's name.
    pub fn name(&self) -> &str {
        &self.0.identity.pod
    }

    /// The pod's uid.
    pub fn uid(&self) -> &str {
        &self.0.identity.uid
    }

    /// Follows pod and node until `end`.
    pub fn follow(&self, end: &CancellationToken) {
        let tasks = &self.0.tasks;
        let (pod, node) = (self.clone(), self.clone());
        let (ended, ended_too) = (end.clone(), end.clone());
        tasks.spawn(async move {
            let _ = ended.run_until_cancelled(watching::own_pod(&pod)).await;
        });
        if self.0.identity.node.is_some() {
            tasks.spawn(async move {
                let _ = ended_too
                    .run_until_cancelled(watching::own_node(&node))
                    .await;
            });
        }
    }

    /// What pod and node say, as it changes.
    pub fn seen(&self) -> watch::Receiver<Seen> {
        self.0.seen.subscribe()
    }

    /// What pod and node say.
    pub fn signs(&self) -> Signs {
        self.0.seen.borrow().signs.clone()
    }

    /// How long after SIGTERM the pod is gone, if it does not say.
    pub fn unknown_grace(&self) -> Duration {
        self.0.settings.unknown_grace
    }

    /// An attempt without progress for so long does not keep the pod busy.
    pub fn busy_limit(&self) -> Duration {
        self.0.settings.busy_limit
    }

    /// Looks at the own pod because it is to end. What fails is said in the log; then nothing is known.
    pub async fn look_for_deadline(&self) {
        if let Err(error) = self.look_at_pod(Call::ReadDeadline).await {
            tracing::warn!(%error, "the pod's deadline is not known");
        }
    }

    /// Looks at pod and node before anything is taken; a busy label left by an earlier life of the container is found.
    pub async fn look_around(&self) {
        let (pod, _node) = tokio::join!(self.look_at_pod(Call::ReadPod), self.look_at_node());
        if let Ok(pod) = pod {
            self.0.busy.found(&pod).await;
        }
    }

    async fn look_at_pod(&self, call: Call) -> Result<PodObject, Away> {
        let pods = self.pods();
        let pod = self
            .0
            .api
            .call(call, pods.get(&self.0.identity.pod))
            .await?;
        self.saw_pod(&pod);
        Ok(pod)
    }

    async fn look_at_node(&self) -> Result<(), Away> {
        let Some(name) = &self.0.identity.node else {
            return Ok(());
        };
        let nodes = self.nodes();
        let node = self.0.api.call(Call::ReadNode, nodes.get(name)).await?;
        self.saw_node(&node);
        Ok(())
    }

    fn pods(&self) -> ::kube::Api<PodObject> {
        ::kube::Api::namespaced(self.0.api.client(), &self.0.identity.namespace)
    }

    fn nodes(&self) -> ::kube::Api<Node> {
        ::kube::Api::all(self.0.api.client())
    }

    /// Takes in the own pod as it was read; another of the same name is none of ours.
    fn saw_pod(&self, pod: &PodObject) {
        if pod.metadata.uid.as_deref() != Some(self.uid()) {
            return;
        }
        // Deadlines are written by the cluster's clocks, to which this machine's is nearer than the store's.
        let now = (Clock::system().now(), Instant::now());
        self.0.seen.send_if_modified(|seen| seen.saw_pod(pod, now));
    }

    fn saw_node(&self, node: &Node) {
        self.0.seen.send_if_modified(|seen| seen.saw_node(node));
    }

    /// Changes labels or annotations of the own pod, and of no other that has its name.
    async fn patch(&self, call: Call, mut metadata: serde_json::Value) -> Result<(), Away> {
        if let Some(metadata) = metadata.as_object_mut() {
            metadata.insert("uid".into(), json!(self.uid()));
        }
        let patch = ::kube::api::Patch::Merge(json!({ "metadata": metadata }));
        let pods = self.pods();
        let parameters = ::kube::api::PatchParams::default();
        let pod = self
            .0
            .api
            .call(call, pods.patch(&self.0.identity.pod, &parameters, &patch))
            .await?;
        self.saw_pod(&pod);
        Ok(())
    }
}
