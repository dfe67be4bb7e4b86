//! Who may be evicted: the decision table of the API server, with the budgets of the disruption controller.

use serde_json::{Value, json};

use super::client::{Answer, Client};
use super::{BUSY, Budget, Cluster, Pod, Rule};

/// Pods `p-0` … of a StatefulSet of `replicas`, and their budget.
fn pool(replicas: i64, limit: &Value) -> (Cluster, Client) {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    for number in 0..replicas {
        let pod = Pod::pinned("pool", &format!("p-{number}")).on("n1");
        cluster.add_pod(pod.owner_statefulset("p", replicas));
    }
    cluster.add_budget(Budget::of_pool("pool", "pool", limit));
    let client = Client::of(&cluster);
    (cluster, client)
}

fn allowed(cluster: &Cluster, budget: &str) -> i64 {
    let budget = cluster.object("poddisruptionbudgets", budget).unwrap();
    budget["status"]["disruptionsAllowed"].as_i64().unwrap()
}

fn is_terminating(cluster: &Cluster, pod: &str) -> bool {
    !cluster.pod(pod).unwrap()["metadata"]["deletionTimestamp"].is_null()
}

fn refused(answer: &Answer, retry_after: Option<&str>) {
    assert_eq!(
        (answer.code, answer.retry_after.as_deref()),
        (429, retry_after),
        "{answer:?}"
    );
    assert_eq!(
        answer.body["details"]["causes"][0]["reason"],
        "DisruptionBudget"
    );
}

#[tokio::test]
async fn a_pod_without_a_budget_is_told_why_and_deleted() {
    let (cluster, client) = pool(1, &json!({"maxUnavailable": 0}));
    cluster.add_pod(Pod::elastic("free", "f-0").on("n1"));
    let evicted = client.evict("f-0", &json!({"gracePeriodSeconds": 7})).await;
    assert_eq!(
        (evicted.code, &evicted.body["status"]),
        (201, &json!("Success"))
    );
    let pod = cluster.pod("f-0").unwrap();
    assert_eq!(pod["metadata"]["deletionGracePeriodSeconds"], 7);
    let condition = pod["status"]["conditions"]
        .as_array()
        .unwrap()
        .last()
        .unwrap();
    assert_eq!(
        (&condition["type"], &condition["reason"]),
        (&json!("DisruptionTarget"), &json!("EvictionByEvictionAPI"))
    );
    assert_eq!(client.evict("f-9", &Value::Null).await.code, 404);
    let wrong = json!({"metadata": {"name": "f-1"}});
    let path = format!("{}/eviction", super::client::pod_path("f-0"));
    assert_eq!(client.create(&path, &wrong).await.code, 400);
}

#[tokio::test]
async fn the_busy_label_alone_keeps_a_pod() {
    let (cluster, client) = pool(0, &json!({"maxUnavailable": 0}));
    cluster.add_budget(Budget::busy());
    cluster.add_pod(
        Pod::pinned("pinned", "b-0")
            .on("n1")
            .busy()
            .owner_statefulset("b", 2),
    );
    refused(&client.evict("b-0", &Value::Null).await, None);
    assert!(!is_terminating(&cluster, "b-0"));
    cluster.edit("pods", "b-0", |pod| {
        pod["metadata"]["labels"][BUSY] = Value::Null
    });
    assert_eq!(client.evict("b-0", &Value::Null).await.code, 201);
    assert!(is_terminating(&cluster, "b-0"));
}

#[tokio::test]
async fn a_budget_allows_what_the_scale_of_the_owner_leaves() {
    for (limit, expected) in [
        (json!({"maxUnavailable": 0}), 0),
        (json!({"maxUnavailable": 1}), 1),
        (json!({"maxUnavailable": "50%"}), 2),
        (json!({"minAvailable": 2}), 1),
        (json!({"minAvailable": "50%"}), 1),
        (json!({"minAvailable": i32::MAX}), 0),
    ] {
        let (cluster, _client) = pool(3, &limit);
        assert_eq!(allowed(&cluster, "pool"), expected, "{limit}");
    }
    // The hole of a surge: more busy pods than replicas.
    let (cluster, _client) = pool(3, &json!({"maxUnavailable": 0}));
    cluster.edit("statefulsets", "p", |set| {
        set["spec"]["replicas"] = 2.into()
    });
    cluster.disruption_controller(true);
    assert_eq!(allowed(&cluster, "pool"), 1);
}

#[tokio::test]
async fn each_eviction_takes_one_disruption_until_the_pod_is_back() {
    let (cluster, client) = pool(3, &json!({"maxUnavailable": 1}));
    assert_eq!(
        client.evict("p-0", &json!({"dryRun": ["All"]})).await.code,
        201
    );
    assert!(!is_terminating(&cluster, "p-0"));
    cluster.disruption_controller(false);
    assert_eq!(client.evict("p-0", &Value::Null).await.code, 201);
    refused(&client.evict("p-1", &Value::Null).await, None);
    cluster.disruption_controller(true);
    cluster.remove("pods", "p-0");
    refused(&client.evict("p-1", &Value::Null).await, None);
    cluster.add_pod(
        Pod::pinned("pool", "p-0")
            .on("n1")
            .owner_statefulset("p", 3),
    );
    assert_eq!(client.evict("p-1", &Value::Null).await.code, 201);
}

#[tokio::test]
async fn pods_that_do_not_run_skip_their_budgets() {
    let (cluster, client) = pool(1, &json!({"maxUnavailable": 0}));
    for (name, phase) in [("a", "Pending"), ("b", "Succeeded"), ("c", "Failed")] {
        cluster.add_pod(Pod::pinned("pool", name).on("n1").phase(phase));
        assert_eq!(client.evict(name, &Value::Null).await.code, 201, "{phase}");
    }
    assert!(is_terminating(&cluster, "a"));
    assert!(cluster.pod("b").is_none() && cluster.pod("c").is_none());
    // One that is terminating, whose eviction shortens its time.
    assert_eq!(
        client
            .delete(&super::client::pod_path("p-0"), &Value::Null)
            .await
            .code,
        200
    );
    assert_eq!(
        client
            .evict("p-0", &json!({"gracePeriodSeconds": 3}))
            .await
            .code,
        201
    );
    assert_eq!(
        cluster.pod("p-0").unwrap()["metadata"]["deletionGracePeriodSeconds"],
        3
    );
}

#[tokio::test]
async fn two_budgets_are_an_error_whatever_they_allow() {
    let (cluster, client) = pool(1, &json!({"maxUnavailable": 1}));
    cluster.add_budget(Budget::of_pool(
        "second",
        "pool",
        &json!({"maxUnavailable": 1}),
    ));
    let answer = client.evict("p-0", &Value::Null).await;
    assert_eq!(answer.code, 500);
    assert!(
        answer.body["message"]
            .as_str()
            .unwrap()
            .contains("more than one PodDisruptionBudget")
    );
}

#[tokio::test]
async fn a_budget_that_is_not_yet_understood_asks_to_come_again() {
    let (cluster, client) = pool(1, &json!({"maxUnavailable": 1}));
    cluster.disruption_controller(false);
    cluster.edit("poddisruptionbudgets", "pool", |budget| {
        budget["metadata"]["generation"] = 2.into()
    });
    refused(&client.evict("p-0", &Value::Null).await, Some("10"));
    cluster.disruption_controller(true);
    assert_eq!(client.evict("p-0", &Value::Null).await.code, 201);
    // Nor is one whose pods' owner has no scale, and that still keeps them.
    let pod = Pod::pinned("daemons", "d-0").on("n1").owner_daemonset("d");
    cluster.add_pod(pod);
    cluster.add_budget(Budget::of_pool(
        "daemons",
        "daemons",
        &json!({"maxUnavailable": 1}),
    ));
    refused(&client.evict("d-0", &Value::Null).await, Some("10"));
}

#[tokio::test]
async fn a_pod_that_is_not_ready_goes_if_the_others_suffice_or_the_budget_says_always() {
    let (cluster, client) = pool(1, &json!({"minAvailable": 1}));
    cluster.add_pod(Pod::pinned("pool", "sick").on("n1").unready());
    assert_eq!(allowed(&cluster, "pool"), 0);
    assert_eq!(client.evict("sick", &Value::Null).await.code, 201);

    let (cluster, client) = pool(0, &json!({"minAvailable": 1}));
    cluster.add_pod(Pod::pinned("pool", "sick").on("n1").unready());
    refused(&client.evict("sick", &Value::Null).await, None);

    let (cluster, client) = pool(0, &json!({"minAvailable": 1}));
    cluster.remove("poddisruptionbudgets", "pool");
    let budget = Budget::of_pool("pool", "pool", &json!({"minAvailable": 1}));
    cluster.add_budget(budget.unready_pods_always());
    cluster.add_pod(Pod::pinned("pool", "sick").on("n1").unready());
    assert_eq!(client.evict("sick", &Value::Null).await.code, 201);
}

#[tokio::test]
async fn an_eviction_keeps_to_its_preconditions() {
    let (cluster, client) = pool(1, &json!({"maxUnavailable": 1}));
    let uid = cluster.pod("p-0").unwrap()["metadata"]["uid"].clone();
    let wrong = client
        .evict("p-0", &json!({"preconditions": {"uid": "another"}}))
        .await;
    assert_eq!(wrong.code, 409);
    assert!(!is_terminating(&cluster, "p-0"));
    // The disruption it has taken is free when the pod is still there two minutes later, or the controller forgets it.
    cluster.edit("poddisruptionbudgets", "pool", |budget| {
        budget["status"]["disruptedPods"] = json!({})
    });
    assert_eq!(
        client
            .evict("p-0", &json!({"preconditions": {"uid": uid}}))
            .await
            .code,
        201
    );
}

/// Between the decision and the deletion of an eviction a label comes too late: why the worker looks again after it.
#[tokio::test]
async fn a_label_between_decision_and_deletion_does_not_keep_the_pod() {
    let (cluster, client) = pool(0, &json!({"maxUnavailable": 0}));
    cluster.add_budget(Budget::busy());
    cluster.add_pod(
        Pod::pinned("pinned", "b-0")
            .on("n1")
            .owner_statefulset("b", 1),
    );
    let mut gate = cluster.gate(Rule::on("create", "pods/eviction").decided());
    let evictor = client.clone();
    let eviction = tokio::spawn(async move { evictor.evict("b-0", &Value::Null).await });
    let held = gate.next().await;
    assert!(!is_terminating(&cluster, "b-0"));
    cluster.edit("pods", "b-0", |pod| {
        pod["metadata"]["labels"][BUSY] = "true".into()
    });
    held.release();
    assert_eq!(eviction.await.unwrap().code, 201);
    assert!(is_terminating(&cluster, "b-0"));
}

/// A pod that was pending when it was looked at is looked at again when it has changed.
#[tokio::test]
async fn a_pod_that_begins_to_run_meanwhile_is_decided_again() {
    let (cluster, client) = pool(0, &json!({"maxUnavailable": 0}));
    cluster.add_budget(Budget::busy());
    let pod = Pod::pinned("pinned", "b-0")
        .on("n1")
        .busy()
        .phase("Pending");
    cluster.add_pod(pod.owner_statefulset("b", 1));
    let mut gate = cluster.gate(Rule::on("create", "pods/eviction").decided().times(1));
    let evictor = client.clone();
    let eviction = tokio::spawn(async move { evictor.evict("b-0", &Value::Null).await });
    let held = gate.next().await;
    cluster.edit("pods", "b-0", |pod| {
        pod["status"]["phase"] = "Running".into()
    });
    held.release();
    refused(&eviction.await.unwrap(), None);
    assert!(!is_terminating(&cluster, "b-0"));
}
