//! Objects on the wire: versions, patches, lists, deletions.

use std::time::SystemTime;

use serde_json::{Value, json};

use super::client::{Client, MERGE, STRATEGIC, pod_path};
use super::{BUSY, Budget, Cluster, NAMESPACE, Pod};

fn cluster() -> (Cluster, Client) {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    cluster.add_pod(Pod::pinned("pool", "p-0").on("n1").grace(60));
    let client = Client::of(&cluster);
    (cluster, client)
}

fn version(object: &Value) -> &str {
    object["metadata"]["resourceVersion"].as_str().unwrap()
}

#[tokio::test]
async fn what_was_read_before_a_change_cannot_be_written_back() {
    let (cluster, client) = cluster();
    let path = pod_path("p-0");
    let old = client.get(&path).await.body;
    let label = json!({"metadata": {"labels": {BUSY: "true"}}});
    let patched = client.patch(&path, MERGE, &label).await;
    assert_eq!(patched.code, 200);
    assert_ne!(version(&patched.body), version(&old));

    let stale = client.update(&path, &old).await;
    assert_eq!(
        (stale.code, &stale.body["reason"]),
        (409, &json!("Conflict"))
    );
    let unlabel = json!({"metadata": {"resourceVersion": version(&old), "labels": {BUSY: null}}});
    assert_eq!(client.patch(&path, MERGE, &unlabel).await.code, 409);
    let options = json!({"preconditions": {"resourceVersion": version(&old)}});
    assert_eq!(client.delete(&path, &options).await.code, 409);
    let options = json!({"preconditions": {"uid": "another"}});
    assert_eq!(client.delete(&path, &options).await.code, 409);
    assert_eq!(
        cluster.pod("p-0").unwrap()["metadata"]["labels"][BUSY],
        "true"
    );

    let mut fresh = patched.body;
    fresh["metadata"]["labels"][BUSY] = Value::Null;
    assert_eq!(client.update(&path, &fresh).await.code, 200);
}

#[tokio::test]
async fn a_change_of_nothing_has_no_new_version() {
    let (cluster, client) = cluster();
    let before = cluster.version();
    let same = json!({"metadata": {"labels": {"longshore.dev/pool": "pool"}}});
    assert_eq!(client.patch(&pod_path("p-0"), MERGE, &same).await.code, 200);
    assert_eq!(cluster.version(), before);
}

#[tokio::test]
async fn patches_of_two_types_are_understood_and_the_others_refused() {
    let (cluster, client) = cluster();
    let path = "/api/v1/nodes/n1";
    let patch = json!({"status": {"conditions": [{"type": "DrainInProgress", "status": "True"}]}});
    let status = format!("{path}/status");
    assert_eq!(client.patch(&status, STRATEGIC, &patch).await.code, 200);
    let types = |cluster: &Cluster| {
        let node = cluster.object("nodes", "n1").unwrap();
        let conditions = node["status"]["conditions"].as_array().unwrap().clone();
        conditions
            .iter()
            .map(|condition| condition["type"].as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(types(&cluster), ["Ready", "DrainInProgress"]);
    assert_eq!(client.patch(&status, MERGE, &patch).await.code, 200);
    assert_eq!(types(&cluster), ["DrainInProgress"]);
    for other in [
        "application/json-patch+json",
        "application/apply-patch+yaml",
    ] {
        assert_eq!(
            client.patch(path, other, &json!({})).await.code,
            415,
            "{other}"
        );
    }
}

#[tokio::test]
async fn the_status_and_the_rest_are_written_each_by_its_own_path() {
    let (_cluster, client) = cluster();
    let patch = json!({"metadata": {"labels": {"a": "1"}}, "status": {"phase": "Failed"}});
    let whole = client.patch(&pod_path("p-0"), MERGE, &patch).await.body;
    assert_eq!(
        (&whole["metadata"]["labels"]["a"], &whole["status"]["phase"]),
        (&json!("1"), &json!("Running"))
    );
    let patch = json!({"metadata": {"labels": {"a": "2"}}, "status": {"phase": "Failed"}});
    let path = format!("{}/status", pod_path("p-0"));
    let status = client.patch(&path, MERGE, &patch).await.body;
    assert_eq!(
        (
            &status["metadata"]["labels"]["a"],
            &status["status"]["phase"]
        ),
        (&json!("1"), &json!("Failed"))
    );
}

#[tokio::test]
async fn a_list_has_what_its_selectors_select_and_the_version_to_watch_from() {
    let (cluster, client) = cluster();
    cluster.add_pod(Pod::elastic("other", "e-0").on("n2").busy());
    cluster.add_pod(Pod::elastic("other", "e-1").on("n1").phase("Pending"));
    for (query, expected) in [
        ("", &["e-0", "e-1", "p-0"][..]),
        ("?fieldSelector=spec.nodeName%3Dn1", &["e-1", "p-0"]),
        ("?fieldSelector=metadata.name%3De-0", &["e-0"]),
        (
            "?fieldSelector=status.phase!%3DPending&labelSelector=longshore.dev/pool%3Dother",
            &["e-0"],
        ),
        ("?labelSelector=longshore.dev/busy", &["e-0"]),
    ] {
        let list = client.get(&format!("/api/v1/pods{query}")).await.body;
        let items = list["items"].as_array().unwrap();
        let names: Vec<_> = items
            .iter()
            .map(|pod| pod["metadata"]["name"].as_str().unwrap())
            .collect();
        assert_eq!(names, expected, "{query}");
        assert_eq!(
            (list["kind"].as_str(), version(&list)),
            (Some("PodList"), &*cluster.version().to_string())
        );
    }
}

#[tokio::test]
async fn objects_are_created_once_and_named_by_the_server_if_asked() {
    let (_cluster, client) = cluster();
    let path = format!("/apis/coordination.k8s.io/v1/namespaces/{NAMESPACE}/leases");
    let lease = json!({"metadata": {"name": "leader"}, "spec": {"holderIdentity": "a"}});
    let dry = client.create(&format!("{path}?dryRun=All"), &lease).await;
    assert_eq!(
        (dry.code, client.get(&format!("{path}/leader")).await.code),
        (201, 404)
    );
    assert_eq!(client.create(&path, &lease).await.code, 201);
    let again = client.create(&path, &lease).await;
    assert_eq!(
        (again.code, &again.body["reason"]),
        (409, &json!("AlreadyExists"))
    );
    let blind = json!({"metadata": {"name": "leader"}, "spec": {"holderIdentity": "b"}});
    assert_eq!(
        client.update(&format!("{path}/leader"), &blind).await.code,
        422
    );

    let path = format!("/apis/events.k8s.io/v1/namespaces/{NAMESPACE}/events");
    let event = json!({"metadata": {"generateName": "p-0."}, "note": "drain begun"});
    let created = client.create(&path, &event).await;
    assert!(created.body["metadata"]["name"].as_str().unwrap().len() > "p-0.".len());
    assert_eq!(client.get("/api/v1/pods/x/y/z").await.code, 404);
}

#[tokio::test]
async fn a_deletion_is_only_ever_shortened_and_from_its_beginning() {
    let (cluster, client) = cluster();
    let path = pod_path("p-0");
    let begun = SystemTime::now();
    let deadline = |pod: &Value| {
        let text = pod["metadata"]["deletionTimestamp"].as_str().unwrap();
        let time = humantime::parse_rfc3339(text).unwrap();
        // Whole seconds are cut off.
        (time.duration_since(begun).unwrap().as_secs_f64() + 0.999).floor()
    };
    let first = client.delete(&path, &json!({})).await.body;
    let start = deadline(&first) - 60.0;
    assert!((0.0..5.0).contains(&start), "{first}");
    assert_eq!(first["metadata"]["deletionGracePeriodSeconds"], 60);
    assert_eq!(first["metadata"]["generation"], 2);

    let longer = client
        .delete(&path, &json!({"gracePeriodSeconds": 90}))
        .await
        .body;
    assert_eq!(longer, first);
    let plain = client.delete(&path, &json!({})).await.body;
    assert_eq!(plain, first);
    let shorter = client
        .delete(&path, &json!({"gracePeriodSeconds": 7}))
        .await
        .body;
    assert!((deadline(&shorter) - start - 7.0).abs() < 0.01, "{shorter}");
    assert_eq!(shorter["metadata"]["deletionGracePeriodSeconds"], 7);
    assert_eq!(shorter["metadata"]["generation"], 2);
    let negative = client
        .delete(&path, &json!({"gracePeriodSeconds": -5}))
        .await
        .body;
    assert_eq!(negative["metadata"]["deletionGracePeriodSeconds"], 1);
    assert_eq!(
        client
            .delete(&path, &json!({"gracePeriodSeconds": 0}))
            .await
            .code,
        200
    );
    assert!(cluster.pod("p-0").is_none());
}

#[tokio::test]
async fn a_pod_that_does_not_run_is_removed_at_once() {
    let (cluster, client) = cluster();
    cluster.add_pod(Pod::elastic("pool", "nowhere").phase("Pending"));
    cluster.add_pod(Pod::elastic("pool", "ended").on("n1").phase("Succeeded"));
    for name in ["nowhere", "ended"] {
        assert_eq!(client.delete(&pod_path(name), &json!({})).await.code, 200);
        assert!(cluster.pod(name).is_none(), "{name}");
    }
    let path = format!("{}?gracePeriodSeconds=0", pod_path("p-0"));
    let dry = json!({"dryRun": ["All"]});
    assert_eq!(client.delete(&path, &dry).await.code, 200);
    assert!(cluster.pod("p-0").is_some());
    assert_eq!(client.delete(&path, &Value::Null).await.code, 200);
    assert!(cluster.pod("p-0").is_none());
}

#[tokio::test]
async fn other_kinds_are_deleted_at_once() {
    let (cluster, client) = cluster();
    cluster.add_budget(Budget::busy());
    let path = format!("/apis/policy/v1/namespaces/{NAMESPACE}/poddisruptionbudgets/test-busy");
    let deleted = client.delete(&path, &json!({})).await;
    assert_eq!(
        (deleted.code, &deleted.body["status"]),
        (200, &json!("Success"))
    );
    assert_eq!(client.delete(&path, &json!({})).await.code, 404);
}
