//! What is to be done with a pod, as pure functions of it.

use std::fmt;

use k8s_openapi::api::core::v1::Pod;

use crate::clock::Millis;
use crate::kube::{BUSY_LABEL, HAND_OFF_ANNOTATION, POOL_LABEL};

/// Which kind of pool a pod belongs to.
const KIND_LABEL: &str = "longshore.dev/kind";
/// The kind whose pods are never labelled busy.
const ELASTIC: &str = "elastic";
/// What the kubelet writes on pods that it runs without the API server.
const MIRROR: &str = "kubernetes.io/config.mirror";

/// One of Longshore's pods as it was looked at.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct PodView {
    /// Its name.
    pub name: String,
    /// Its namespace.
    pub namespace: String,
    /// Which of all that ever had the name.
    pub uid: String,
    /// Its version.
    pub version: String,
    /// Its node, once it has one.
    pub node: Option<String>,
    /// Its pool; without one it is not Longshore's.
    pub pool: Option<String>,
    /// Its pool's kind.
    pub kind: Option<String>,
    /// It runs what must not be interrupted.
    pub is_busy: bool,
    /// It is asked to hand off.
    pub is_asked: bool,
    /// It has ended.
    pub is_over: bool,
    /// It belongs to a DaemonSet, which would put it back, or to the kubelet.
    pub is_fixed: bool,
    /// When it is killed, since it is being deleted.
    pub ends: Option<Millis>,
}

impl fmt::Display for PodView {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.namespace, self.name)
    }
}

/// What is wanted of pods.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Wanted {
    /// That they hand off what they run, or no longer; or nothing of the kind.
    pub hand_off: Option<bool>,
    /// That they go.
    pub evict: bool,
}

/// What to do with a pod now.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Step {
    /// Ask it to hand off, or take that back.
    Ask(bool),
    /// Evict it.
    Evict,
    /// Nothing.
    Wait,
}

/// Where a pod stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Standing {
    /// It is being deleted and is killed then at the latest.
    Ending(Millis),
    /// It runs what must not be interrupted.
    Busy,
    /// Whatever it runs, it may be evicted.
    Free,
}

impl PodView {
    /// The pod as far as it matters here.
    pub fn of(pod: &Pod) -> Self {
        let meta = &pod.metadata;
        let label = |name: &str| meta.labels.as_ref().and_then(|labels| labels.get(name));
        let annotation = |name: &str| meta.annotations.as_ref().and_then(|all| all.get(name));
        let is = |value: Option<&String>| value.is_some_and(|value| value == "true");
        let text = |value: &Option<String>| value.clone().unwrap_or_default();
        let deleted = meta.deletion_timestamp.as_ref();
        Self {
            name: text(&meta.name),
            namespace: text(&meta.namespace),
            uid: text(&meta.uid),
            version: text(&meta.resource_version),
            node: pod.spec.as_ref().and_then(|spec| spec.node_name.clone()),
            pool: label(POOL_LABEL).cloned(),
            kind: label(KIND_LABEL).cloned(),
            is_busy: is(label(BUSY_LABEL)),
            is_asked: is(annotation(HAND_OFF_ANNOTATION)),
            is_over: is_over(pod),
            is_fixed: is_fixed(pod),
            ends: deleted.map(|time| time.0.as_millisecond()),
        }
    }

    /// Whether it is one to drain.
    pub fn counts(&self) -> bool {
        self.pool.is_some() && !self.is_over && !self.is_fixed
    }

    /// Where it stands.
    pub fn standing(&self) -> Standing {
        match self.ends {
            Some(ends) => Standing::Ending(ends),
            None if self.is_busy => Standing::Busy,
            None => Standing::Free,
        }
    }

    /// Whether it runs anything: `tasks` of its workers by the store, if that is known. `None`: nobody can say.
    pub fn works(&self, tasks: Option<usize>) -> Option<bool> {
        match tasks {
            _ if self.is_busy => Some(true),
            Some(tasks) => Some(tasks > 0),
            None if self.kind.as_deref() == Some(ELASTIC) => None,
            None => Some(false),
        }
    }

    /// What to do with it now. A pod that is labelled busy is never evicted, whether a budget would let it or not.
    pub fn step(&self, wanted: Wanted) -> Step {
        let standing = self.standing();
        if !self.counts() || matches!(standing, Standing::Ending(_)) {
            return Step::Wait;
        }
        if let Some(asked) = wanted.hand_off
            && asked != self.is_asked
        {
            return Step::Ask(asked);
        }
        if wanted.evict && standing == Standing::Free {
            Step::Evict
        } else {
            Step::Wait
        }
    }
}

fn is_over(pod: &Pod) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

fn is_fixed(pod: &Pod) -> bool {
    let meta = &pod.metadata;
    let owners = meta.owner_references.iter().flatten();
    let annotations = meta.annotations.iter().flat_map(|all| all.keys());
    owners
        .filter(|owner| owner.controller == Some(true))
        .any(|owner| owner.kind == "DaemonSet")
        || annotations.into_iter().any(|name| name == MIRROR)
}

/// Whether a drain would evict the pod, whoever's it is.
pub(super) fn is_evictable(pod: &Pod) -> bool {
    !is_over(pod) && !is_fixed(pod)
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    const DRAIN: Wanted = Wanted {
        hand_off: None,
        evict: true,
    };

    /// A pinned pod with `changes` to its metadata.
    fn pod(changes: &Value) -> PodView {
        let mut meta = json!({
            "name": "p-0", "namespace": "ci", "uid": "u", "resourceVersion": "7",
            "labels": { "longshore.dev/pool": "post", "longshore.dev/kind": "pinned" },
        });
        for (key, value) in changes.as_object().unwrap() {
            match meta[key].as_object_mut() {
                Some(object) => object.extend(value.as_object().unwrap().clone()),
                None => meta[key] = value.clone(),
            }
        }
        let object = json!({ "metadata": meta, "spec": { "nodeName": "n", "containers": [] } });
        PodView::of(&serde_json::from_value(object).unwrap())
    }

    fn busy() -> Value {
        json!({ "labels": { "longshore.dev/busy": "true" } })
    }

    fn asked() -> Value {
        json!({ "annotations": { "longshore.dev/hand-off": "true" } })
    }

    fn deleted() -> Value {
        json!({ "deletionTimestamp": "1970-01-01T00:01:00Z" })
    }

    #[test]
    fn an_idle_pod_is_evicted_and_a_busy_one_is_waited_for() {
        assert_eq!(pod(&json!({})).step(DRAIN), Step::Evict);
        assert_eq!(pod(&busy()).step(DRAIN), Step::Wait);
        assert_eq!(pod(&busy()).standing(), Standing::Busy);
    }

    #[test]
    fn a_pod_that_ends_already_is_waited_for_and_not_asked_any_more() {
        let ending = pod(&deleted());
        let all = Wanted {
            hand_off: Some(true),
            evict: true,
        };
        assert_eq!(ending.step(all), Step::Wait);
        assert_eq!(ending.standing(), Standing::Ending(60_000));
        assert!(ending.counts());
    }

    #[test]
    fn a_pod_is_asked_to_hand_off_once_and_before_anything_else() {
        let wanted = Wanted {
            hand_off: Some(true),
            evict: true,
        };
        assert_eq!(pod(&json!({})).step(wanted), Step::Ask(true));
        assert_eq!(pod(&busy()).step(wanted), Step::Ask(true));
        assert_eq!(pod(&asked()).step(wanted), Step::Evict);
        let back = Wanted {
            hand_off: Some(false),
            evict: false,
        };
        assert_eq!(pod(&asked()).step(back), Step::Ask(false));
        assert_eq!(pod(&busy()).step(back), Step::Wait);
    }

    #[test]
    fn without_the_wish_nothing_is_evicted() {
        let wanted = Wanted {
            hand_off: Some(true),
            evict: false,
        };
        assert_eq!(pod(&asked()).step(wanted), Step::Wait);
    }

    #[test]
    fn pods_that_are_not_longshores_or_come_back_or_are_over_are_left_alone() {
        let mut foreign = pod(&json!({}));
        foreign.pool = None;
        assert_eq!(foreign.step(DRAIN), Step::Wait);
        let owner = json!({ "apiVersion": "apps/v1", "kind": "DaemonSet", "name": "d", "uid": "d", "controller": true });
        for changes in [
            json!({ "ownerReferences": [owner] }),
            json!({ "annotations": { "kubernetes.io/config.mirror": "x" } }),
        ] {
            let fixed = pod(&changes);
            assert!(fixed.is_fixed);
            assert_eq!(fixed.step(DRAIN), Step::Wait);
        }
        let mut over = pod(&json!({}));
        over.is_over = true;
        assert_eq!(over.step(DRAIN), Step::Wait);
        assert!(!over.counts());
    }

    #[test]
    fn whether_a_pod_works_is_said_by_its_label_or_the_store_and_never_guessed() {
        let (idle, busy) = (pod(&json!({})), pod(&busy()));
        let elastic = pod(&json!({ "labels": { "longshore.dev/kind": "elastic" } }));
        assert_eq!(busy.works(Some(0)), Some(true));
        assert_eq!(idle.works(Some(2)), Some(true));
        assert_eq!(idle.works(None), Some(false));
        assert_eq!(elastic.works(Some(0)), Some(false));
        assert_eq!(elastic.works(None), None);
    }
}
