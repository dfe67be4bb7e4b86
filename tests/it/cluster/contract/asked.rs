//! What the maintenance leader and `longshore drain` ask about the pods of a pool.

use longshore::kube::peers::Peers;
use longshore::kube::{HAND_OFF_ANNOTATION, POOL_LABEL, Pod};
use serde_json::Value;

use super::{Stage, code, pod};
use crate::harness::{LIMIT, run, wait_until};

const POOL: &str = "asked";
const KIND_LABEL: &str = "longshore.dev/kind";

/// Adds a pod of the pool that nobody schedules; answers its uid.
async fn add_member(stage: &Stage, name: &str) -> String {
    let mut member = pod(name);
    member["metadata"]["labels"][POOL_LABEL] = POOL.into();
    member["metadata"]["labels"][KIND_LABEL] = "pinned".into();
    let added = stage.add(&member).await;
    added["metadata"]["uid"].as_str().unwrap().to_owned()
}

pub(super) async fn pods_of_a_pool_are_followed(stage: &Stage, pod: &Pod) {
    let vanishes = add_member(stage, "vanishes").await;
    let ends = add_member(stage, "ends").await;
    let peers = Peers::default();
    let following = peers.clone().followed_by(pod.clone());
    let is_gone = async |uid: &str| {
        wait_until("the pod is known to be gone", LIMIT, async || {
            peers.is_gone(uid)
        })
        .await;
    };
    stage.set_status("ends", "Failed", false).await;
    is_gone(&ends).await;
    // It was there when the other one was looked at.
    assert!(!peers.is_gone(&vanishes));
    let path = stage.pod_path("vanishes");
    stage.ask("DELETE", &path, &Value::Null).await.unwrap();
    is_gone(&vanishes).await;
    drop(following);
    let path = stage.pod_path("ends");
    stage.ask("DELETE", &path, &Value::Null).await.unwrap();
}

/// Runs `longshore drain`; it does what it shall.
async fn drain(stage: &Stage, what: &[&str]) {
    let kubeconfig = stage.settings.kubeconfig.as_ref().unwrap();
    let place = ["--namespace", &stage.namespace, "--kubeconfig"];
    let line = [&["drain"], what, &place, &[kubeconfig.to_str().unwrap()]].concat();
    let output = run(&line).await;
    assert!(output.status.success(), "{what:?}: {output:?}");
}

pub(super) async fn a_pool_hands_off_and_works_again(stage: &Stage) {
    let uid = add_member(stage, "member").await;
    let member = stage.worker("member", &uid).await;
    for (what, asked) in [("--hand-off", true), ("--undo", false)] {
        drain(stage, &["pool", POOL, what]).await;
        let annotations = &stage.pod("member").await["metadata"]["annotations"];
        assert_eq!(annotations[HAND_OFF_ANNOTATION] == "true", asked, "{what}");
        member.look_around().await;
        assert_eq!(member.signs().hand_off, asked, "{what}");
    }
}

pub(super) async fn one_pod_is_drained(stage: &Stage) {
    drain(stage, &["pod", "member", "--wait", "--json"]).await;
    let found = stage
        .ask("GET", &stage.pod_path("member"), &Value::Null)
        .await;
    assert_eq!(code(&found), 404, "{found:?}");
}
