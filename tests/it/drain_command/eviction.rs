//! What is evicted, and what budgets and pods that change under the hands of a drain let be.

use serde_json::json;

use super::Bed;
use crate::cluster::{Budget, Cluster, Pod, Rule};
use crate::harness::LIMIT;

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_takes_work_under_the_drains_hands_is_not_evicted_though_no_budget_holds_it() {
    let bed = Bed::new();
    bed.cluster.add_pod(Pod::pinned("post", "p-0").on("n1"));
    let mut gate = bed.cluster.gate(Rule::on("create", "pods/eviction"));
    let (ended, ()) = tokio::join!(bed.drain("node n1"), async {
        let eviction = gate.next().await;
        bed.set_busy("p-0", true);
        eviction.release();
    });
    ended.with(5, &["busy", "1 pod hold"]);
    assert!(!bed.is_deleted("p-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_refuses_is_named_and_waited_for() {
    let bed = Bed::with_pod(|pod| pod);
    let zero = json!({"maxUnavailable": 0});
    bed.cluster
        .add_budget(Budget::of_pool("own", "post", &zero));
    let ended = bed.drain("node n1").await;
    ended.with(5, &["idle, not evicted", "disruption budget own"]);
    bed.cluster.pods_end_at_once();
    let mut drain = bed.start("node n1 --wait");
    drain.said("disruption budget own", LIMIT).await;
    bed.cluster.remove("poddisruptionbudgets", "own");
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0));
}

#[tokio::test]
async fn two_budgets_over_one_pod_are_refused_with_the_mend_though_others_are_evicted() {
    let bed = Bed::with_pod(|pod| pod);
    bed.cluster.add_pod(Pod::elastic("fetch", "f-0").on("n1"));
    for name in ["own", "another"] {
        let all = json!({"maxUnavailable": "100%"});
        bed.cluster.add_budget(Budget::of_pool(name, "post", &all));
    }
    let ended = bed.drain("node n1 --wait").await;
    ended.with(
        5,
        &[
            "evict pod longshore/p-0",
            "more than one PodDisruptionBudget",
            "leave one PodDisruptionBudget in namespace longshore",
            "kubectl uncordon n1",
        ],
    );
    assert!(bed.is_deleted("f-0") && !bed.is_deleted("p-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_successor_of_the_same_name_is_none_of_the_drains_business() {
    let bed = Bed::with_pod(|pod| pod);
    let mut drain = bed.start("pod p-0 --wait");
    let deleted = |_: &Cluster| bed.is_deleted("p-0").then_some(());
    bed.cluster.until("the pod is evicted", deleted).await;
    bed.cluster.remove("pods", "p-0");
    let successor = Pod::pinned("post", "p-0").on("n1").busy();
    bed.cluster.add_pod(successor.owner_statefulset("post", 1));
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
    assert!(!bed.is_deleted("p-0") && !bed.is_cordoned());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_replaced_while_it_is_asked_is_no_refusal() {
    let bed = Bed::with_pod(Pod::busy);
    let mut gate = bed.cluster.gate(Rule::on("patch", "pods"));
    let mut drain = bed.start("pod p-0 --wait --hand-off");
    let asked = gate.next().await;
    bed.cluster.remove("pods", "p-0");
    let successor = Pod::pinned("post", "p-0").on("n1").busy();
    bed.cluster.add_pod(successor.owner_statefulset("post", 1));
    drop(gate);
    asked.release();
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
    assert!(!bed.is_asked("p-0") && !bed.is_deleted("p-0"));
}
