//! An API server that forbids, fails or is away.

use super::Bed;
use crate::cluster::{Fault, NAMESPACE, Pod, Rule};
use crate::harness::LIMIT;

#[tokio::test]
async fn what_is_forbidden_is_said_with_its_place_and_mend() {
    for (rule, words) in [
        (Rule::on("get", "nodes"), ["get node n1", "rbac.drain"]),
        (Rule::on("patch", "nodes"), ["patch node n1", "rbac.drain"]),
        (
            Rule::on("list", "pods"),
            ["list pods in all namespaces", "--namespace"],
        ),
        (
            Rule::on("patch", "pods"),
            ["patch pod longshore/p-0", "rbac.drain"],
        ),
        (
            Rule::on("create", "pods/eviction"),
            ["evict pod longshore/p-0", "rbac.drain"],
        ),
    ] {
        for wait in ["", " --wait"] {
            let bed = Bed::with_pod(|pod| pod);
            bed.cluster.fault(rule.clone(), Fault::Forbidden);
            let ended = bed.drain(&format!("node n1 --hand-off{wait}")).await;
            ended.with(5, &words);
            ended.with(5, &["403"]);
            assert!(!bed.is_deleted("p-0"));
        }
    }
}

#[tokio::test]
async fn a_user_of_one_namespace_drains_what_is_in_it() {
    let bed = Bed::with_pod(|pod| pod);
    let ended = bed.drain(&format!("node n1 --namespace {NAMESPACE}")).await;
    ended.with(5, &["ending"]);
    assert!(bed.is_deleted("p-0"));
    let elsewhere = Bed::with_pod(|pod| pod);
    elsewhere.drain("node n1 -n other").await.with(0, &[]);
    assert!(!elsewhere.is_deleted("p-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_ends_one_look_and_is_waited_for_by_a_waiting_drain() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    bed.cluster.away();
    let ended = bed.drain("node n1").await;
    ended.with(6, &["does not answer", "may be cordoned"]);
    let ended = bed.drain("node n1 --wait --deadline 1s --json").await;
    ended.with(6, &["tried again until the deadline"]);
    assert_eq!(ended.objects().last().unwrap()["outcome"], "unreachable");

    let mut drain = bed.start("node n1 --wait");
    drain.said("tried again until the deadline", LIMIT).await;
    bed.cluster.back();
    drain.said("answers again", LIMIT).await;
    drain.said("p-0 (post) busy", LIMIT).await;
    bed.cluster.away();
    bed.cluster.back();
    bed.set_busy("p-0", false);
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
}

#[tokio::test]
async fn an_api_server_that_never_answers_or_fails_is_unreachable_at_the_deadline() {
    for fault in [Fault::Hang, Fault::Internal, Fault::TooMany(Some(1))] {
        let bed = Bed::with_pod(|pod| pod);
        bed.cluster.fault(Rule::on("*", "*"), fault);
        let ended = bed.drain("node n1 --wait --deadline 1s").await;
        ended.with(6, &["may be cordoned"]);
    }
}
