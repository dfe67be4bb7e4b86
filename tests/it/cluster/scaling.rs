//! Whom a ReplicaSet that shrinks ends first: each criterion of the ranking decides before those that come after it.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::state::stamp;
use super::{Cluster, Pod};

const HOUR: u64 = 3600;

fn ago(seconds: u64) -> Value {
    stamp(SystemTime::now() - Duration::from_secs(seconds)).into()
}

/// A pod of the set that has been ready for an hour, and there for an hour, and what sets it apart.
fn add(cluster: &Cluster, name: &str, node: &str, apart: impl FnOnce(&mut Value)) {
    let pod = Pod::elastic("pool", name).owner_replicaset("set", 12);
    cluster.add_pod(if node.is_empty() { pod } else { pod.on(node) });
    cluster.edit("pods", name, |pod| {
        pod["metadata"]["creationTimestamp"] = ago(HOUR);
        pod["status"]["conditions"][0]["lastTransitionTime"] = ago(HOUR);
        apart(pod);
    });
}

fn cost(pod: &mut Value, cost: &str) {
    pod["metadata"]["annotations"] = json!({"controller.kubernetes.io/pod-deletion-cost": cost});
}

fn restarts(pod: &mut Value, count: i64) {
    pod["status"]["containerStatuses"] = json!([{"name": "worker", "restartCount": count}]);
}

fn ready_for(pod: &mut Value, seconds: u64) {
    pod["status"]["conditions"][0]["lastTransitionTime"] = ago(seconds);
}

fn unready(pod: &mut Value) {
    pod["status"]["conditions"][0]["status"] = "False".into();
}

/// Each pod would go after the next one, were it not for what its name says.
fn ranked() -> (Cluster, [&'static str; 11]) {
    let cluster = Cluster::start();
    // The last one first, so that neither names nor uids nor the order of creation have a part in it.
    add(&cluster, "dear", "shared", |pod| {
        cost(pod, "1");
        restarts(pod, 9);
        ready_for(pod, 1);
    });
    add(&cluster, "old", "a", |pod| {
        pod["metadata"]["creationTimestamp"] = ago(100 * HOUR);
    });
    add(&cluster, "young", "b", |_| {});
    // Its readiness is older, but not by a power of two; and it has been there for longer than the next.
    add(&cluster, "restarted", "c", |pod| {
        restarts(pod, 3);
        ready_for(pod, HOUR + 100);
        pod["metadata"]["creationTimestamp"] = ago(100 * HOUR);
    });
    add(&cluster, "newly-ready", "d", |pod| ready_for(pod, 60));
    add(&cluster, "crowded", "shared", |pod| {
        ready_for(pod, 100 * HOUR);
    });
    add(&cluster, "cheap", "e", |pod| cost(pod, "-1"));
    add(&cluster, "unready", "f", |pod| {
        unready(pod);
        cost(pod, "100");
    });
    add(&cluster, "unknown", "g", |pod| {
        pod["status"]["phase"] = "Unknown".into();
        unready(pod);
    });
    add(&cluster, "pending", "h", |pod| {
        pod["status"]["phase"] = "Pending".into();
    });
    add(&cluster, "unassigned", "", |_| {});
    let order = [
        "unassigned",
        "pending",
        "unknown",
        "unready",
        "cheap",
        "crowded",
        "newly-ready",
        "restarted",
        "young",
        "old",
        "dear",
    ];
    (cluster, order)
}

#[tokio::test]
async fn a_set_that_shrinks_ends_its_pods_in_the_documented_order() {
    let (cluster, order) = ranked();
    assert_eq!(cluster.first_to_go("set", order.len()), order);
    assert_eq!(cluster.first_to_go("set", 2), order[..2]);
}

#[tokio::test]
async fn pods_that_end_anyway_and_those_of_others_do_not_count() {
    let (cluster, order) = ranked();
    add(&cluster, "ended", "i", |pod| {
        pod["status"]["phase"] = "Succeeded".into();
    });
    add(&cluster, "terminating", "i", |pod| {
        pod["metadata"]["deletionTimestamp"] = ago(0);
    });
    cluster.add_pod(Pod::elastic("pool", "other").owner_replicaset("another", 1));
    cluster.add_pod(Pod::elastic("pool", "lone"));
    assert_eq!(cluster.first_to_go("set", order.len()), order);
}

#[tokio::test]
async fn the_pods_of_a_set_that_shrinks_have_their_grace() {
    let (cluster, order) = ranked();
    assert_eq!(cluster.scale_down("set", 5), order[..5]);
    let set = cluster.object("replicasets", "set").unwrap();
    assert_eq!(set["spec"]["replicas"], 12 - 5);
    assert!(cluster.pod("unassigned").is_none(), "nobody has to end it");
    let meta = cluster.pod("cheap").unwrap()["metadata"].clone();
    assert_eq!(meta["deletionGracePeriodSeconds"], 30);
    assert_eq!(cluster.scale_down("set", 1), ["crowded"]);
    let meta = cluster.pod("newly-ready").unwrap()["metadata"].clone();
    assert!(meta["deletionTimestamp"].is_null());
}
