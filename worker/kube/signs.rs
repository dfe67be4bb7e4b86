//! What the own pod and node say, as pure functions of the two objects.

use std::time::Duration;

use k8s_openapi::api::core::v1::{Node, Pod};
use tokio::time::Instant;

use super::HAND_OFF_ANNOTATION;
use crate::clock::Millis;

/// Taints with which somebody announces that the node is to be emptied.
const TAINTS: [&str; 3] = [
    "ToBeDeletedByClusterAutoscaler",
    "karpenter.sh/disrupted",
    "node.kubernetes.io/out-of-service",
];
/// Conditions of a node that announce the same, when `True`.
const CONDITIONS: [&str; 2] = ["DrainInProgress", "MaintenancePlanned"];
/// The pod is chosen to be evicted.
const DISRUPTION_TARGET: &str = "DisruptionTarget";

/// What follows from pod and node. All but `ends` may be taken back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Signs {
    /// Why nothing new shall be taken.
    pub quiet: Option<String>,
    /// Somebody wants what runs to go on elsewhere.
    pub hand_off: bool,
    /// When the pod is killed.
    pub ends: Option<Instant>,
}

/// What was read last of pod and node.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    /// What follows from it.
    pub signs: Signs,
    pod: Option<String>,
    node: Option<String>,
}

impl Seen {
    /// Takes in the own pod at the time `now` (the machine's clock, and the same moment here). Whether it says anything
    /// new.
    pub fn saw_pod(&mut self, pod: &Pod, now: (Millis, Instant)) -> bool {
        let before = self.signs.clone();
        self.pod = pod_sign(pod);
        self.signs.hand_off = is_hand_off_asked(pod);
        if let Some(ends) = ends(pod, now) {
            // A deadline only ever comes nearer; a later answer of the same deletion is no news.
            let nearer = self.signs.ends.is_none_or(|known| ends + SLACK < known);
            if nearer {
                self.signs.ends = Some(ends);
            }
        }
        self.conclude();
        self.signs != before
    }

    /// Takes in the own node. Whether it says anything new.
    pub fn saw_node(&mut self, node: &Node) -> bool {
        let before = self.signs.quiet.clone();
        self.node = node_sign(node);
        self.conclude();
        self.signs.quiet != before
    }

    fn conclude(&mut self) {
        self.signs.quiet = self.pod.clone().or_else(|| self.node.clone());
    }
}

/// Two readings of one deadline differ by less: by the answer's way, and by rounding to whole seconds.
const SLACK: Duration = Duration::from_millis(500);

fn is_hand_off_asked(pod: &Pod) -> bool {
    pod.metadata
        .annotations
        .as_ref()
        .and_then(|annotations| annotations.get(HAND_OFF_ANNOTATION))
        .is_some_and(|value| value == "true")
}

fn pod_sign(pod: &Pod) -> Option<String> {
    if pod.metadata.deletion_timestamp.is_some() {
        return Some("the pod is being deleted".into());
    }
    if is_hand_off_asked(pod) {
        return Some(format!("asked by the annotation {HAND_OFF_ANNOTATION}"));
    }
    let conditions = pod.status.as_ref()?.conditions.as_ref()?;
    conditions
        .iter()
        .find(|condition| condition.type_ == DISRUPTION_TARGET && condition.status == "True")
        .map(|condition| {
            let reason = condition.reason.as_deref().unwrap_or("no reason given");
            format!("the pod is a {DISRUPTION_TARGET} ({reason})")
        })
}

fn node_sign(node: &Node) -> Option<String> {
    let spec = node.spec.as_ref();
    if spec.and_then(|spec| spec.unschedulable) == Some(true) {
        return Some("the node is cordoned".into());
    }
    let taints = spec
        .and_then(|spec| spec.taints.as_deref())
        .unwrap_or_default();
    if let Some(taint) = taints
        .iter()
        .find(|taint| TAINTS.contains(&taint.key.as_str()))
    {
        return Some(format!("the node has the taint {}", taint.key));
    }
    let conditions = node.status.as_ref()?.conditions.as_deref()?;
    conditions
        .iter()
        .find(|condition| {
            CONDITIONS.contains(&condition.type_.as_str()) && condition.status == "True"
        })
        .map(|condition| format!("the node has the condition {}", condition.type_))
}

/// When a deleted pod is killed: at its `deletionTimestamp`, but, should the clocks disagree, no later than its grace
/// period from now on.
fn ends(pod: &Pod, (wall, here): (Millis, Instant)) -> Option<Instant> {
    let at = pod.metadata.deletion_timestamp.as_ref()?.0.as_millisecond();
    let left = Duration::from_millis(u64::try_from(at - wall).unwrap_or(0));
    let grace = pod
        .metadata
        .deletion_grace_period_seconds
        .and_then(|seconds| u64::try_from(seconds).ok())
        .map(Duration::from_secs);
    Some(here + grace.map_or(left, |grace| left.min(grace)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(value: serde_json::Value) -> Pod {
        serde_json::from_value(value).unwrap()
    }

    fn node(value: serde_json::Value) -> Node {
        serde_json::from_value(value).unwrap()
    }

    fn quiet_by(value: serde_json::Value) -> Option<String> {
        let mut seen = Seen::default();
        seen.saw_node(&node(value));
        seen.signs.quiet
    }

    #[test]
    fn cordons_taints_and_conditions_are_seen_and_taken_back() {
        let mut seen = Seen::default();
        assert!(seen.saw_node(&node(json!({ "spec": { "unschedulable": true } }))));
        assert!(seen.signs.quiet.is_some());
        assert!(seen.saw_node(&node(json!({ "spec": {} }))));
        assert_eq!(seen.signs, Signs::default());
        for key in TAINTS {
            let taint = json!({ "spec": { "taints": [{ "key": key, "effect": "NoSchedule" }] } });
            assert!(quiet_by(taint).unwrap().contains(key));
        }
        for kind in CONDITIONS {
            let condition = |status| json!({ "status": { "conditions": [{ "type": kind, "status": status }] } });
            assert!(quiet_by(condition("True")).unwrap().contains(kind));
            assert_eq!(quiet_by(condition("False")), None);
        }
    }

    #[test]
    fn a_candidate_for_deletion_is_no_sign() {
        let taint =
            json!({ "key": "DeletionCandidateOfClusterAutoscaler", "effect": "PreferNoSchedule" });
        assert_eq!(quiet_by(json!({ "spec": { "taints": [taint] } })), None);
    }

    #[test]
    fn a_disruption_target_is_quiet_until_the_condition_is_false() {
        let target = |status| {
            pod(
                json!({ "status": { "conditions": [{ "type": "DisruptionTarget", "status": status, "reason": "EvictionByEvictionAPI" }] } }),
            )
        };
        let mut seen = Seen::default();
        let now = (0, Instant::now());
        assert!(seen.saw_pod(&target("True"), now));
        assert!(
            seen.signs
                .quiet
                .clone()
                .unwrap()
                .contains("EvictionByEvictionAPI")
        );
        assert!(seen.saw_pod(&target("False"), now));
        assert_eq!(seen.signs, Signs::default());
    }

    fn deleted(at: i64, grace: i64) -> Pod {
        let at = k8s_openapi::jiff::Timestamp::from_millisecond(at)
            .unwrap()
            .to_string();
        pod(json!({ "metadata": { "deletionTimestamp": at, "deletionGracePeriodSeconds": grace } }))
    }

    #[test]
    fn the_deadline_is_the_stamp_and_no_later_than_the_grace_period() {
        let here = Instant::now();
        let mut seen = Seen::default();
        assert!(seen.saw_pod(&deleted(160_000, 60), (100_000, here)));
        assert_eq!(seen.signs.ends, Some(here + Duration::from_secs(60)));
        // A clock that runs an hour behind must not make an hour of it.
        let mut seen = Seen::default();
        seen.saw_pod(&deleted(3_760_000, 60), (100_000, here));
        assert_eq!(seen.signs.ends, Some(here + Duration::from_secs(60)));
        // One that runs ahead leaves nothing, and that is what is believed.
        let mut seen = Seen::default();
        seen.saw_pod(&deleted(160_000, 60), (3_700_000, here));
        assert_eq!(seen.signs.ends, Some(here));
    }

    #[test]
    fn the_deadline_comes_nearer_and_never_goes_away() {
        let here = Instant::now();
        let mut seen = Seen::default();
        seen.saw_pod(&deleted(160_000, 60), (100_000, here));
        let later = here + Duration::from_secs(10);
        assert!(!seen.saw_pod(&deleted(160_000, 60), (110_000, later)));
        assert!(seen.saw_pod(&deleted(130_000, 30), (110_000, later)));
        assert_eq!(seen.signs.ends, Some(later + Duration::from_secs(20)));
        assert!(!seen.saw_pod(&deleted(190_000, 90), (110_000, later)));
    }
}
