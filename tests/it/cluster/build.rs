//! Pods, nodes and budgets as the chart and a cluster make them.

use serde_json::{Value, json};

use super::state::{now, set_condition};

/// The namespace of everything that a test adds.
pub(crate) const NAMESPACE: &str = "longshore";
/// The label of a pod that must not be interrupted.
pub(crate) const BUSY: &str = "longshore.dev/busy";
/// The release whose pods these are.
const RELEASE: &str = "test";

/// A pod to be.
#[derive(Debug)]
#[must_use]
pub(crate) struct Pod {
    pub(super) object: Value,
    pub(super) owner: Option<Owner>,
}

/// Who made a pod.
#[derive(Debug)]
pub(super) struct Owner {
    pub(super) plural: &'static str,
    pub(super) name: String,
    pub(super) replicas: i64,
}

/// A budget to be.
#[derive(Debug)]
#[must_use]
pub(crate) struct Budget(pub(super) Value);

impl Pod {
    pub(crate) fn pinned(pool: &str, name: &str) -> Self {
        Self::new(pool, name, "pinned")
    }

    pub(crate) fn elastic(pool: &str, name: &str) -> Self {
        Self::new(pool, name, "elastic")
    }

    fn new(pool: &str, name: &str, kind: &str) -> Self {
        let mut object = json!({
            "metadata": {"name": name, "namespace": NAMESPACE, "labels": {
                "app.kubernetes.io/name": "longshore",
                "app.kubernetes.io/instance": RELEASE,
                "app.kubernetes.io/component": "worker",
                "longshore.dev/pool": pool,
                "longshore.dev/kind": kind,
            }},
            "spec": {
                "containers": [{"name": "worker", "image": "longshore", "resources": {}}],
                "volumes": [{"name": "tmp", "emptyDir": {}}],
                "terminationGracePeriodSeconds": 30,
                "restartPolicy": "Always",
            },
            "status": {"phase": "Running", "startTime": now()},
        });
        let ready = json!({"type": "Ready", "status": "True"});
        set_condition(&mut object["status"]["conditions"], ready);
        Self {
            object,
            owner: None,
        }
    }

    pub(crate) fn on(mut self, node: &str) -> Self {
        self.object["spec"]["nodeName"] = node.into();
        self
    }

    /// `terminationGracePeriodSeconds`.
    pub(crate) fn grace(mut self, seconds: i64) -> Self {
        self.object["spec"]["terminationGracePeriodSeconds"] = seconds.into();
        self
    }

    pub(crate) fn phase(mut self, phase: &str) -> Self {
        self.object["status"]["phase"] = phase.into();
        self
    }

    pub(crate) fn unready(mut self) -> Self {
        let ready = json!({"type": "Ready", "status": "False"});
        set_condition(&mut self.object["status"]["conditions"], ready);
        self
    }

    pub(crate) fn label(mut self, name: &str, value: &str) -> Self {
        self.object["metadata"]["labels"][name] = value.into();
        self
    }

    pub(crate) fn busy(self) -> Self {
        self.label(BUSY, "true")
    }

    /// The StatefulSet is made with it, unless it is there.
    pub(crate) fn owner_statefulset(self, name: &str, replicas: i64) -> Self {
        self.owner("statefulsets", name, replicas)
    }

    /// The ReplicaSet is made with it, unless it is there.
    pub(crate) fn owner_replicaset(self, name: &str, replicas: i64) -> Self {
        self.owner("replicasets", name, replicas)
    }

    pub(crate) fn owner_daemonset(self, name: &str) -> Self {
        self.owner("daemonsets", name, 1)
    }

    fn owner(mut self, plural: &'static str, name: &str, replicas: i64) -> Self {
        let name = name.into();
        self.owner = Some(Owner {
            plural,
            name,
            replicas,
        });
        self
    }
}

impl Budget {
    /// The chart's: busy pods of the release are not evicted.
    pub(crate) fn busy() -> Self {
        let labels = json!({"app.kubernetes.io/instance": RELEASE, BUSY: "true"});
        Self::named("test-busy", &json!({"maxUnavailable": 0}), &labels)
    }

    /// One over the pods of `pool`.
    pub(crate) fn of_pool(name: &str, pool: &str, limit: &Value) -> Self {
        Self::named(name, limit, &json!({"longshore.dev/pool": pool}))
    }

    fn named(name: &str, limit: &Value, labels: &Value) -> Self {
        let mut spec = limit.clone();
        spec["selector"] = json!({"matchLabels": labels});
        Self(json!({"metadata": {"name": name, "namespace": NAMESPACE}, "spec": spec}))
    }

    pub(crate) fn unready_pods_always(mut self) -> Self {
        self.0["spec"]["unhealthyPodEvictionPolicy"] = "AlwaysAllow".into();
        self
    }
}

pub(super) fn node(name: &str) -> Value {
    let mut node = json!({
        "metadata": {"name": name, "labels": {"kubernetes.io/hostname": name}}, "spec": {}, "status": {},
    });
    let ready = json!({"type": "Ready", "status": "True"});
    set_condition(&mut node["status"]["conditions"], ready);
    node
}
