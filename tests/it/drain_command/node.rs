//! A node is drained: cordoned, waited for, and never forced.

use std::time::Instant;

use serde_json::{Value, json};

use super::{Bed, SOON};
use crate::cluster::{Cluster, Pod, Rule};
use crate::harness::LIMIT;

#[tokio::test]
async fn a_node_without_longshores_pods_is_cordoned_and_others_are_left_alone() {
    let bed = Bed::new();
    let daemon = |name| Pod::pinned("x", name).on("n1").owner_daemonset("d");
    bed.cluster.add_pod(Pod::pinned("x", "foreign").on("n1"));
    bed.cluster.add_pod(daemon("foreign-daemon"));
    bed.cluster.add_pod(daemon("daemon"));
    for name in ["foreign", "foreign-daemon"] {
        bed.cluster.edit("pods", name, |pod| {
            pod["metadata"]["labels"] = json!({"app": "foreign"});
        });
    }
    let ended = bed.drain("node n1").await;
    ended.with(
        0,
        &[
            "nothing of Longshore is left",
            "Pods of others on the node: 1",
            "kubectl drain n1",
            "kubectl uncordon n1",
        ],
    );
    assert!(bed.is_cordoned());
    assert!(!bed.is_deleted("foreign") && !bed.is_deleted("daemon"));
    assert!(
        bed.cluster
            .requests(&Rule::on("*", "pods/eviction"))
            .is_empty()
    );
    bed.drain("node n1").await.with(0, &["cordoned already"]);
    let patches = bed.cluster.requests(&Rule::on("patch", "nodes"));
    assert_eq!(patches.len(), 1, "a cordoned node needs no patch");
}

#[tokio::test]
async fn one_look_evicts_what_is_idle_and_says_what_holds_the_node() {
    let bed = Bed::with_pod(Pod::busy);
    let idle = Pod::pinned("post", "p-1").on("n1");
    bed.cluster.add_pod(idle.owner_statefulset("post", 2));
    bed.cluster
        .add_pod(Pod::elastic("fetch", "f-0").on("n1").grace(20));
    let over = Pod::pinned("post", "over").on("n1").phase("Succeeded");
    bed.cluster.add_pod(over);
    bed.cluster
        .add_pod(Pod::pinned("post", "elsewhere").on("n2"));
    let ended = bed.drain("node n1").await;
    ended.with(5, &["3 pods hold it (2 evicted)", "--wait", "killed in"]);
    assert!(bed.is_deleted("p-1") && bed.is_deleted("f-0"));
    assert!(!bed.is_deleted("p-0") && !bed.is_deleted("elsewhere") && !bed.is_deleted("over"));
    let row = |pod: &str| {
        let row = ended.out.lines().find(|line| line.contains(pod));
        row.unwrap_or_default().to_owned()
    };
    assert!(row("p-0").contains("busy"), "{}", ended.out);
    assert!(row("f-0").contains("ending"), "{}", ended.out);
    assert!(row("over").is_empty() && row("elsewhere").is_empty());
    let evictions = bed.cluster.requests(&Rule::on("create", "pods/eviction"));
    assert_eq!(
        evictions.len(),
        2,
        "a busy pod's eviction is not even tried"
    );
    for eviction in evictions {
        let options = &eviction.body["deleteOptions"];
        let pod = bed.cluster.pod(&eviction.name).unwrap();
        assert_eq!(options["preconditions"]["uid"], pod["metadata"]["uid"]);
        assert_eq!(options["gracePeriodSeconds"], Value::Null);
    }
    bed.nothing_was_deleted();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_as_long_as_the_work_and_no_longer() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    let mut drain = bed.start("node n1 --wait");
    drain.said("p-0 (post) busy", LIMIT).await;
    bed.until_looked(5).await;
    assert!(!bed.is_deleted("p-0"));
    let end = Instant::now();
    bed.set_busy("p-0", false);
    let status = drain.ended(LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", drain.log());
    assert!(end.elapsed() < SOON, "it took {:?}", end.elapsed());
    drain.said("p-0 no longer holds it", LIMIT).await;
    drain
        .said("nothing of Longshore is left (1 evicted)", LIMIT)
        .await;
    bed.nothing_was_deleted();
}

#[tokio::test]
async fn at_the_deadline_nothing_is_forced() {
    let bed = Bed::with_pod(Pod::busy);
    let ended = bed.drain("node n1 --wait --deadline 1s").await;
    ended.with(
        4,
        &[
            "the deadline came while 1 pod held it",
            "nothing was forced",
            "kubectl uncordon n1",
        ],
    );
    assert!(bed.is_cordoned() && !bed.is_deleted("p-0"));
    let tried = Rule::on("create", "pods/eviction");
    assert!(bed.cluster.requests(&tried).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn by_request_pods_are_asked_to_hand_off_before_they_are_evicted() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    let mut drain = bed.start("node n1 --wait --hand-off");
    let asked = |_: &Cluster| bed.is_asked("p-0").then_some(());
    bed.cluster.until("the pod is asked", asked).await;
    bed.set_busy("p-0", false);
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
    let patches = bed.cluster.requests(&Rule::on("patch", "pods"));
    assert_eq!(patches.len(), 1, "asked once");
}

#[tokio::test]
async fn an_interrupted_drain_says_how_to_undo_what_it_did() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let bed = Bed::with_pod(Pod::busy);
        let mut drain = bed.start("node n1 --wait --hand-off");
        drain.said("p-0 (post) busy, asked", LIMIT).await;
        drain.signal(signal);
        assert_eq!(drain.ended(LIMIT).await.code(), Some(code));
        for words in [
            "interrupted while 1 pod held it",
            "The node stays cordoned. To undo: kubectl uncordon n1",
            "kubectl annotate pod -n longshore p-0 longshore.dev/hand-off-",
        ] {
            drain.said(words, LIMIT).await;
        }
        assert!(bed.is_cordoned() && !bed.is_deleted("p-0"));
    }
}

#[tokio::test]
async fn a_node_that_somebody_uncordons_is_not_drained_any_further() {
    let bed = Bed::with_pod(Pod::busy);
    let mut drain = bed.start("node n1 --wait");
    bed.until_cordoned().await;
    drain.said("p-0 (post) busy", LIMIT).await;
    bed.cluster.edit("nodes", "n1", |node| {
        node["spec"]["unschedulable"] = false.into();
    });
    assert_eq!(drain.ended(LIMIT).await.code(), Some(5));
    drain.said("somebody has uncordoned node n1", LIMIT).await;
    assert!(!bed.is_cordoned());
}
