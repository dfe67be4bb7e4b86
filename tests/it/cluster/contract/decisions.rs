//! What the server decides about deletions, evictions and writes: one answer each, whichever server is asked.

use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::{Answer, NOBODY, POD, Stage, code, pod};
use crate::cluster::client::STRATEGIC;
use crate::harness::{LIMIT, wait_for};

/// A node that is not there: what is bound to it is deleted gracefully, and no kubelet ends it.
const NOWHERE: &str = "longshore-nowhere";
const GROUP: &str = "longshore.dev/contract";
/// What a bound pod is granted.
const GRACE: u64 = 40;

pub(super) async fn are_as_expected(stage: &Stage) {
    a_deadline_only_comes_nearer(stage).await;
    a_budget_decides_who_is_evicted(stage).await;
    each_eviction_takes_one_disruption(stage).await;
    who_wrote_meanwhile_is_not_overwritten(stage).await;
    patches_are_of_their_kind(stage).await;
    // Without a kubelet they would stay, and the namespace with them.
    for name in ["pending", "ready", "other", "unready", "first", "next"] {
        let path = stage.pod_path(name);
        let removed = stage.ask("DELETE", &path, &grace(0)).await;
        assert!([200, 404].contains(&code(&removed)), "{removed:?}");
    }
}

async fn add_bound(stage: &Stage, name: &str, group: &str) -> String {
    let mut pod = pod(name);
    pod["metadata"]["labels"][GROUP] = group.into();
    pod["spec"]["nodeName"] = NOWHERE.into();
    pod["spec"]["terminationGracePeriodSeconds"] = GRACE.into();
    let added = stage.add(&pod).await;
    added["metadata"]["uid"].as_str().unwrap().to_owned()
}

async fn add_budget(stage: &Stage, name: &str, group: &str) {
    let budget = json!({
        "apiVersion": "policy/v1", "kind": "PodDisruptionBudget", "metadata": {"name": name},
        "spec": {"minAvailable": 1, "selector": {"matchLabels": {GROUP: group}}},
    });
    let path = stage.path("/apis/policy/v1", "poddisruptionbudgets");
    stage.ask("POST", &path, &budget).await.unwrap();
}

/// Waits until the budget's status has these numbers: healthy pods, allowed disruptions.
async fn budget_is(stage: &Stage, name: &str, healthy: u64, allowed: u64) -> Value {
    let path = stage.path("/apis/policy/v1", "poddisruptionbudgets");
    let path = format!("{path}/{name}");
    wait_for("the budget is looked after", LIMIT, async || {
        let budget = stage.ask("GET", &path, &Value::Null).await.unwrap();
        let status = &budget["status"];
        let is_seen = status["observedGeneration"] == budget["metadata"]["generation"]
            && status["currentHealthy"] == healthy
            && status["disruptionsAllowed"] == allowed;
        is_seen.then(|| status.clone())
    })
    .await
}

async fn is_terminating(stage: &Stage, name: &str) -> bool {
    !stage.pod(name).await["metadata"]["deletionTimestamp"].is_null()
}

/// The budget refuses, and says so where kubectl and `longshore drain` look for it.
fn is_refused(answer: &Answer) {
    assert_eq!(code(answer), 429, "{answer:?}");
    let status = answer.as_ref().unwrap_err();
    let causes = &status.details.as_ref().unwrap().causes;
    assert_eq!(causes[0].reason, "DisruptionBudget", "{status:?}");
    assert!(
        causes[0].message.contains("needs 1 healthy pods"),
        "{status:?}"
    );
}

async fn a_deadline_only_comes_nearer(stage: &Stage) {
    let name = "deleted";
    let uid = add_bound(stage, name, name).await;
    let worker = stage.worker(name, &uid).await;
    let path = stage.pod_path(name);
    let mut begun = None;
    for (asked, granted) in [
        (json!({}), GRACE),
        (grace(GRACE + 10), GRACE),
        (grace(20), 20),
    ] {
        let pod = stage.ask("DELETE", &path, &asked).await.unwrap();
        let meta = &pod["metadata"];
        assert_eq!(meta["deletionGracePeriodSeconds"], granted, "{asked}");
        let ends = humantime::parse_rfc3339(meta["deletionTimestamp"].as_str().unwrap()).unwrap();
        let start = ends - Duration::from_secs(granted);
        assert_eq!(
            *begun.get_or_insert(start),
            start,
            "from the first deletion on"
        );
        worker.look_for_deadline().await;
        let left =
            worker.signs().ends.expect("the pod has a deadline") - tokio::time::Instant::now();
        let ends = ends.duration_since(SystemTime::now()).unwrap_or_default();
        assert!(
            left.abs_diff(ends) < Duration::from_secs(1),
            "{left:?}, not {ends:?}"
        );
    }
    stage.ask("DELETE", &path, &grace(0)).await.unwrap();
    assert_eq!(code(&stage.ask("GET", &path, &Value::Null).await), 404);
}

fn grace(seconds: u64) -> Value {
    json!({"gracePeriodSeconds": seconds})
}

async fn a_budget_decides_who_is_evicted(stage: &Stage) {
    for name in ["pending", "ready", "other", "over", "unready"] {
        add_bound(stage, name, "decided").await;
    }
    for (name, phase, is_ready) in [
        ("ready", "Running", true),
        ("other", "Running", true),
        ("over", "Succeeded", false),
        ("unready", "Running", false),
    ] {
        stage.set_status(name, phase, is_ready).await;
    }
    add_budget(stage, "decided", "decided").await;
    budget_is(stage, "decided", 2, 1).await;

    let dry = json!({"dryRun": ["All"]});
    assert_eq!(code(&stage.evict_with("ready", "ready", &dry).await), 200);
    assert!(!is_terminating(stage, "ready").await);
    let none = json!({});
    for (name, named, expected) in [
        ("ready", "other", 400),
        ("nobody", "nobody", 404),
        // Not what a budget counts.
        ("pending", "pending", 200),
        ("over", "over", 200),
        // More are healthy than have to be.
        ("unready", "unready", 200),
    ] {
        let answer = stage.evict_with(name, named, &none).await;
        assert_eq!(code(&answer), expected, "{name}: {answer:?}");
    }
    assert!(is_terminating(stage, "unready").await);
    let over = stage
        .ask("GET", &stage.pod_path("over"), &Value::Null)
        .await;
    assert_eq!(code(&over), 404, "what has ended is gone at once");

    let status = budget_is(stage, "decided", 2, 1).await;
    assert!(
        status["disruptedPods"]
            .as_object()
            .is_none_or(serde_json::Map::is_empty)
    );
    // The budget is asked before it is looked whether this is the pod: one disruption is gone for nothing.
    let wrong = json!({"preconditions": {"uid": NOBODY}});
    let changed = stage.evict_with("ready", "ready", &wrong).await;
    assert_eq!(code(&changed), 409, "{changed:?}");
    let status = budget_is(stage, "decided", 1, 0).await;
    assert!(status["disruptedPods"]["ready"].is_string(), "{status}");
    is_refused(&stage.evict_with("other", "other", &none).await);

    add_budget(stage, "second", "decided").await;
    let two = stage.evict_with("other", "other", &none).await;
    assert_eq!(code(&two), 500, "{two:?}");
    let message = two.unwrap_err().message;
    assert!(
        message.contains("more than one PodDisruptionBudget"),
        "{message}"
    );
}

async fn each_eviction_takes_one_disruption(stage: &Stage) {
    for name in ["first", "next"] {
        add_bound(stage, name, "counted").await;
        stage.set_status(name, "Running", true).await;
    }
    add_budget(stage, "counted", "counted").await;
    budget_is(stage, "counted", 2, 1).await;
    let none = json!({});
    stage.evict_with("first", "first", &none).await.unwrap();
    is_refused(&stage.evict_with("next", "next", &none).await);
    let meta = stage.pod("first").await["metadata"].clone();
    assert_eq!(meta["deletionGracePeriodSeconds"], GRACE);
    // Another eviction of one that ends is asked of no budget; it may shorten its time.
    stage.evict_with("first", "first", &grace(7)).await.unwrap();
    let meta = stage.pod("first").await["metadata"].clone();
    assert_eq!(meta["deletionGracePeriodSeconds"], 7);
}

async fn who_wrote_meanwhile_is_not_overwritten(stage: &Stage) {
    let path = stage.pod_path(POD);
    let old = stage.pod(POD).await;
    stage
        .patch(
            POD,
            &json!({"metadata": {"labels": {"written": "meanwhile"}}}),
        )
        .await;
    let version = old["metadata"]["resourceVersion"].clone();
    let stale = json!({"metadata": {"resourceVersion": version, "labels": {"written": null}}});
    let mut another = stage.pod(POD).await;
    another["metadata"]["uid"] = NOBODY.into();
    for (method, body, expected) in [
        ("PUT", &old, 409),
        ("PATCH", &stale, 409),
        (
            "DELETE",
            &json!({"preconditions": {"resourceVersion": version}}),
            409,
        ),
        // Of a PUT the uid is a precondition; a patch would change it.
        ("PUT", &another, 409),
        ("PATCH", &json!({"metadata": {"uid": NOBODY}}), 422),
    ] {
        let answer = stage.ask(method, &path, body).await;
        assert_eq!(code(&answer), expected, "{method} {body}: {answer:?}");
    }
    let there = stage
        .ask("POST", &stage.path("/api/v1", "pods"), &pod(POD))
        .await;
    assert_eq!(there.unwrap_err().reason, "AlreadyExists");
    assert_eq!(
        stage.pod(POD).await["metadata"]["labels"]["written"],
        "meanwhile"
    );
}

async fn patches_are_of_their_kind(stage: &Stage) {
    let path = format!("{}/status", stage.pod_path(POD));
    stage.set_status(POD, "Running", true).await;
    let extra = json!({"status": {"conditions": [{"type": "Extra", "status": "True"}]}});
    let types = |pod: Value| -> Vec<String> {
        let conditions = pod["status"]["conditions"].as_array().unwrap();
        let types = conditions
            .iter()
            .map(|condition| condition["type"].as_str().unwrap().to_owned());
        types.collect()
    };
    let merged = stage
        .ask_as(STRATEGIC, "PATCH", &path, &extra)
        .await
        .unwrap();
    let mut found = types(merged);
    found.sort();
    assert_eq!(found, ["Extra", "Ready"]);
    let replaced = stage.ask("PATCH", &path, &extra).await.unwrap();
    assert_eq!(types(replaced), ["Extra"]);
    let unknown = stage
        .ask_as("application/json", "PATCH", &path, &extra)
        .await;
    assert_eq!(code(&unknown), 415, "{unknown:?}");

    // Nothing that is said again, and nothing that is taken off and was not there, is a change.
    let version = async || stage.pod(POD).await["metadata"]["resourceVersion"].clone();
    let before = version().await;
    let same = json!({"metadata": {"labels": {"written": "meanwhile", "never": null}}});
    stage.patch(POD, &same).await;
    assert_eq!(version().await, before);
}
