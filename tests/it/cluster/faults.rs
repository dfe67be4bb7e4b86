//! What goes wrong on demand, and the gates.

use std::time::{Duration, Instant};

use reqwest::Method;
use serde_json::{Value, json};

use super::client::{Client, MERGE, pod_path};
use super::{BUSY, Cluster, Fault, Pod, Rule};

fn cluster() -> (Cluster, Client) {
    let cluster = Cluster::start();
    cluster.add_pod(Pod::pinned("pool", "p-0").on("n1"));
    let client = Client::of(&cluster);
    (cluster, client)
}

#[tokio::test]
async fn a_fault_answers_for_the_requests_it_is_about() {
    let (cluster, client) = cluster();
    for (fault, code, after) in [
        (Fault::Forbidden, 403, None),
        (Fault::TooMany(None), 429, None),
        (Fault::TooMany(Some(3)), 429, Some("3")),
        (Fault::Internal, 500, None),
        (Fault::Gone, 410, None),
    ] {
        cluster.fault(Rule::on("get", "pods").named("p-0").from("tester"), fault);
        let answer = client.get(&pod_path("p-0")).await;
        assert_eq!(
            (answer.code, answer.retry_after.as_deref()),
            (code, after),
            "{fault:?}"
        );
        assert_eq!(answer.body["kind"], "Status");
        assert_eq!(
            client.get("/api/v1/pods").await.code,
            200,
            "lists are another verb"
        );
        assert_eq!(client.get(&pod_path("p-1")).await.code, 404, "another pod");
        cluster.lift_faults();
        assert_eq!(client.get(&pod_path("p-0")).await.code, 200);
    }
    cluster.fault(Rule::on("*", "*").from("another"), Fault::Internal);
    cluster.fault(Rule::on("*", "*").times(1), Fault::Forbidden);
    assert_eq!(client.get("/version").await.code, 403);
    assert_eq!(client.get("/version").await.code, 200);
}

#[tokio::test]
async fn a_fault_expires_a_watch_that_begins() {
    let (cluster, client) = cluster();
    cluster.fault(Rule::on("watch", "pods"), Fault::Expired);
    let mut watch = client.watch("/api/v1/pods?watch=true").await;
    assert_eq!(watch.next().await.unwrap().unwrap()["object"]["code"], 410);
}

#[tokio::test]
async fn a_request_hangs_comes_late_or_is_cut_off() {
    let (cluster, client) = cluster();
    let get = async |limit| {
        client
            .try_send(Method::GET, "/version", "", &Value::Null, limit)
            .await
    };
    cluster.fault(Rule::on("*", "*"), Fault::Hang);
    assert!(
        get(Duration::from_millis(200))
            .await
            .unwrap_err()
            .is_timeout()
    );
    cluster.lift_faults();
    cluster.fault(Rule::on("*", "*"), Fault::Slow(Duration::from_millis(200)));
    let begun = Instant::now();
    assert_eq!(get(Duration::from_secs(30)).await.unwrap().code, 200);
    assert!(begun.elapsed() >= Duration::from_millis(200));
    cluster.lift_faults();
    cluster.fault(Rule::on("*", "*"), Fault::Cut);
    let error = get(Duration::from_secs(30)).await.unwrap_err();
    assert!(
        error.is_request() && !error.is_timeout() && !error.is_connect(),
        "{error:?}"
    );
    let codes: Vec<_> = cluster.log().iter().map(|seen| seen.code).collect();
    assert_eq!(codes, [None, Some(200), None]);
}

#[tokio::test]
async fn a_server_that_was_away_knows_what_it_knew() {
    let (cluster, client) = cluster();
    let mut watch = client.watch("/api/v1/pods?watch=true").await;
    assert_eq!(watch.event().await.0, "ADDED");
    cluster.away();
    assert!(watch.next().await.is_err());
    let limit = Duration::from_secs(30);
    let refused = client
        .try_send(Method::GET, "/version", "", &Value::Null, limit)
        .await;
    assert!(refused.unwrap_err().is_connect());
    cluster.back();
    assert_eq!(client.get(&pod_path("p-0")).await.code, 200);
}

#[tokio::test]
async fn a_gate_holds_a_request_before_it_is_done_or_before_it_is_answered() {
    let (cluster, client) = cluster();
    let patch = |value: &str| {
        let client = client.clone();
        let body = json!({"metadata": {"labels": {BUSY: value}}});
        tokio::spawn(async move { client.patch(&pod_path("p-0"), MERGE, &body).await })
    };
    let label = || cluster.pod("p-0").unwrap()["metadata"]["labels"][BUSY].clone();

    let mut before = cluster.gate(Rule::on("patch", "pods"));
    let first = patch("1");
    let held = before.next().await;
    assert_eq!(
        (label(), &held.seen.body["metadata"]["labels"][BUSY]),
        (Value::Null, &json!("1"))
    );
    held.release();
    assert_eq!((first.await.unwrap().code, label()), (200, json!("1")));
    let second = patch("2");
    before.next().await.fail(Fault::Internal);
    assert_eq!((second.await.unwrap().code, label()), (500, json!("1")));
    drop(before);

    let mut after = cluster.gate(Rule::on("patch", "pods").answered());
    let third = patch("3");
    let held = after.next().await;
    assert_eq!(label(), "3");
    assert!(!third.is_finished());
    held.fail(Fault::Internal);
    assert_eq!((third.await.unwrap().code, label()), (500, json!("3")));
    let patches = cluster.requests(&Rule::on("patch", "pods"));
    assert!(
        patches
            .iter()
            .all(|seen| seen.content_type == MERGE && seen.query.is_empty())
    );
    assert_eq!(patches.len(), 3);
}
