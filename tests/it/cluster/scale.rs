//! A ReplicaSet that shrinks: whom its controller ends first.

use std::cmp::Reverse;
use std::time::{Duration, SystemTime};

use serde_json::Value;

use super::evict::{self, Options, is_terminal};
use super::kind::Kind;
use super::state::{Key, State, condition, is_ready};
use super::{Cluster, NAMESPACE};

/// What makes one pod go before another, in this order; the least goes first.
type Rank = (
    // It has a node.
    bool,
    // Pending, Unknown, Running.
    u8,
    bool,
    i64,
    // Pods of the same set on its node.
    Reverse<usize>,
    // For how long it has been ready, as a power of two; one that is not ready has no such time.
    Option<u32>,
    // Restarts.
    Reverse<i64>,
    // For how long it has been there, as a power of two.
    Option<u32>,
    // Chance, in the real controller too.
    String,
);

impl Cluster {
    /// The pods that the ReplicaSet `set` would end to have `number` fewer, in their order.
    ///
    /// The ranking is the documented one. Unlike the real controller's, a time that falls into the same power of two does
    /// not decide: the next criterion does.
    pub(crate) fn first_to_go(&self, set: &str, number: usize) -> Vec<String> {
        self.server.look(|state| first_to_go(state, set, number))
    }

    /// The ReplicaSet `set` is to have `number` pods fewer: its controller deletes them, with their own grace. Answers whom.
    pub(crate) fn scale_down(&self, set: &str, number: usize) -> Vec<String> {
        self.server.change(|state| {
            let key = Key::new(Kind::of("replicasets"), NAMESPACE, set);
            let mut object = state.find(&key).expect("the set is there").clone();
            let replicas = object["spec"]["replicas"].as_i64().unwrap();
            object["spec"]["replicas"] = (replicas - i64::try_from(number).unwrap()).into();
            state.put(&key, object);
            let names = first_to_go(state, set, number);
            for name in &names {
                let key = Key::new(Kind::of("pods"), NAMESPACE, name);
                evict::delete(state, &key, &Options::default()).expect("the pod is there");
            }
            names
        })
    }
}

fn first_to_go(state: &State, set: &str, number: usize) -> Vec<String> {
    let pods: Vec<&Value> = state
        .all("pods")
        .filter(|(key, pod)| key.namespace == NAMESPACE && is_of(pod, set) && is_active(pod))
        .map(|(_, pod)| pod)
        .collect();
    assert!(pods.len() >= number, "{set} has {} pods", pods.len());
    let mut ranked: Vec<(Rank, String)> = pods
        .iter()
        .map(|pod| (rank(pod, &pods), text(&pod["metadata"]["name"])))
        .collect();
    ranked.sort();
    ranked
        .into_iter()
        .take(number)
        .map(|(_, name)| name)
        .collect()
}

fn is_of(pod: &Value, set: &str) -> bool {
    let owners = pod["metadata"]["ownerReferences"].as_array();
    owners.into_iter().flatten().any(|owner| {
        owner["controller"] == true && owner["kind"] == "ReplicaSet" && owner["name"] == set
    })
}

/// What has ended or is to end is no part of the set any more.
fn is_active(pod: &Value) -> bool {
    !is_terminal(pod) && pod["metadata"]["deletionTimestamp"].is_null()
}

fn rank(pod: &Value, all: &[&Value]) -> Rank {
    let node = |pod: &Value| text(&pod["spec"]["nodeName"]);
    let phase = match pod["status"]["phase"].as_str() {
        Some("Pending") => 0,
        Some("Running") => 2,
        _ => 1,
    };
    let cost = &pod["metadata"]["annotations"]["controller.kubernetes.io/pod-deletion-cost"];
    let siblings = all.iter().filter(|other| node(other) == node(pod)).count();
    let ready = is_ready(pod);
    let since = condition(pod, "Ready").map(|ready| &ready["lastTransitionTime"]);
    let containers = pod["status"]["containerStatuses"].as_array();
    let restarts = containers
        .into_iter()
        .flatten()
        .filter_map(|container| container["restartCount"].as_i64());
    (
        !node(pod).is_empty(),
        phase,
        ready,
        text(cost).parse().unwrap_or(0),
        Reverse(siblings),
        since.filter(|_| ready).and_then(age),
        Reverse(restarts.max().unwrap_or(0)),
        age(&pod["metadata"]["creationTimestamp"]),
        text(&pod["metadata"]["uid"]),
    )
}

/// The age by a time as objects write it, as a power of two.
fn age(since: &Value) -> Option<u32> {
    let since = humantime::parse_rfc3339(since.as_str()?).ok()?;
    let age = SystemTime::now().duration_since(since);
    age.unwrap_or(Duration::ZERO).as_nanos().checked_ilog2()
}

fn text(value: &Value) -> String {
    value.as_str().unwrap_or_default().to_owned()
}
