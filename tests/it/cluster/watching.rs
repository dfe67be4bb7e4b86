//! Watches on the wire.

use serde_json::json;

use super::client::Client;
use super::{BUSY, Cluster, Ending, Pod};

fn cluster() -> (Cluster, Client) {
    let cluster = Cluster::start();
    cluster.add_pod(Pod::pinned("pool", "p-0").on("n1"));
    let client = Client::of(&cluster);
    (cluster, client)
}

fn label(cluster: &Cluster, value: &str) {
    cluster.edit("pods", "p-0", |pod| {
        pod["metadata"]["labels"][BUSY] = value.into()
    });
}

fn event(kind: &str, name: &str) -> (String, String) {
    (kind.into(), name.into())
}

#[tokio::test]
async fn a_watch_says_each_change_after_its_version_once() {
    let (cluster, client) = cluster();
    label(&cluster, "true");
    let from = cluster.version();
    cluster.add_pod(Pod::pinned("pool", "p-1"));
    let mut watch = client
        .watch(&format!("/api/v1/pods?watch=true&resourceVersion={from}"))
        .await;
    cluster.add_node("n9");
    label(&cluster, "false");
    cluster.remove("pods", "p-0");
    assert_eq!(watch.event().await, event("ADDED", "p-1"));
    assert_eq!(watch.event().await, event("MODIFIED", "p-0"));
    let gone = watch.next().await.unwrap().unwrap();
    assert_eq!(gone["type"], "DELETED");
    assert_eq!(
        gone["object"]["metadata"]["resourceVersion"],
        cluster.version().to_string()
    );
    assert_eq!(gone["object"]["metadata"]["labels"][BUSY], "false");
}

#[tokio::test]
async fn what_leaves_a_selector_is_deleted_for_its_watch() {
    let (cluster, client) = cluster();
    let path = "/api/v1/pods?watch=1&labelSelector=longshore.dev/busy%3Dtrue";
    let mut watch = client.watch(path).await;
    label(&cluster, "true");
    cluster.edit("pods", "p-0", |pod| {
        pod["status"]["phase"] = "Failed".into()
    });
    label(&cluster, "false");
    for kind in ["ADDED", "MODIFIED", "DELETED"] {
        assert_eq!(watch.event().await, event(kind, "p-0"));
    }
}

#[tokio::test]
async fn a_watch_from_the_beginning_begins_with_what_is_there_and_marks_its_end_if_asked() {
    let (cluster, client) = cluster();
    let mut watch = client
        .watch("/api/v1/pods?watch=true&resourceVersion=0")
        .await;
    assert_eq!(watch.event().await, event("ADDED", "p-0"));
    let path = "/api/v1/pods?watch=true&sendInitialEvents=true&resourceVersionMatch=NotOlderThan\
                &allowWatchBookmarks=true&resourceVersion=";
    let mut watch = client.watch(path).await;
    assert_eq!(watch.event().await, event("ADDED", "p-0"));
    let mark = watch.next().await.unwrap().unwrap();
    assert_eq!(mark["type"], "BOOKMARK");
    assert_eq!(
        mark["object"]["metadata"]["annotations"],
        json!({"k8s.io/initial-events-end": "true"})
    );
    label(&cluster, "true");
    assert_eq!(watch.event().await, event("MODIFIED", "p-0"));
    let refused = client
        .get("/api/v1/pods?watch=true&sendInitialEvents=true")
        .await;
    assert_eq!(refused.code, 422);
}

#[tokio::test]
async fn a_watch_has_bookmarks_if_asked_and_one_before_its_time_is_over() {
    let (cluster, client) = cluster();
    let version = cluster.version();
    let path = format!("/api/v1/pods?watch=true&timeoutSeconds=1&resourceVersion={version}");
    let mut plain = client.watch(&path).await;
    let mut marked = client
        .watch(&format!("{path}&allowWatchBookmarks=true"))
        .await;
    cluster.add_node("n9");
    cluster.watches("pods", Ending::Bookmark);
    for _ in 0..2 {
        let mark = marked.next().await.unwrap().unwrap();
        assert_eq!(mark["type"], "BOOKMARK");
        assert_eq!(
            mark["object"]["metadata"]["resourceVersion"],
            cluster.version().to_string()
        );
    }
    assert!(marked.next().await.unwrap().is_none());
    assert!(plain.next().await.unwrap().is_none());
}

#[tokio::test]
async fn a_watch_from_a_forgotten_version_is_expired() {
    let (cluster, client) = cluster();
    let old = cluster.version();
    label(&cluster, "true");
    cluster.forget();
    let mut watch = client
        .watch(&format!("/api/v1/pods?watch=true&resourceVersion={old}"))
        .await;
    let error = watch.next().await.unwrap().unwrap();
    assert_eq!(
        (&error["type"], &error["object"]["code"]),
        (&json!("ERROR"), &json!(410))
    );
    assert!(watch.next().await.unwrap().is_none());
    let path = format!(
        "/api/v1/pods?watch=true&resourceVersion={}",
        cluster.version()
    );
    let mut watch = client.watch(&path).await;
    label(&cluster, "false");
    assert_eq!(watch.event().await, event("MODIFIED", "p-0"));
}

#[tokio::test]
async fn a_test_ends_watches_in_each_way_they_end() {
    let (cluster, client) = cluster();
    for (at, ending) in [Ending::Closed, Ending::Cut, Ending::Expired]
        .into_iter()
        .enumerate()
    {
        let version = cluster.version();
        let path = format!("/api/v1/pods?watch=true&resourceVersion={version}");
        let mut watch = client.watch(&path).await;
        cluster.watches("nodes", ending);
        cluster.watches("*", ending);
        match ending {
            Ending::Closed => assert!(watch.next().await.unwrap().is_none()),
            Ending::Cut => assert!(watch.next().await.is_err()),
            Ending::Expired => {
                assert_eq!(
                    watch.next().await.unwrap().unwrap()["object"]["reason"],
                    "Expired"
                );
                assert!(watch.next().await.unwrap().is_none());
            }
            Ending::Bookmark => {}
        }
        // One that begins again where this one did goes on.
        label(&cluster, &at.to_string());
        let mut again = client.watch(&path).await;
        assert_eq!(again.event().await, event("MODIFIED", "p-0"));
    }
}
