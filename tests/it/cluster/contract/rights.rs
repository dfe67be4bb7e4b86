//! The rights that the chart gives, as a real API server takes them: enough for a worker and for `longshore drain`, and
//! no more. This repository's server lets everybody do everything.

use std::path::{Path, PathBuf};

use serde_json::{Value, json};

use super::{POD, Stage, code};
use crate::chart;
use crate::harness::Folder;

/// The group that the example's values let drain.
const OPERATORS: &str = "operators";

/// Kubeconfigs of those whom the chart knows, for a namespace with the chart's roles.
pub(super) struct Users {
    pub(super) worker: PathBuf,
    pub(super) operator: PathBuf,
    _folder: Folder,
}

impl Users {
    pub(super) async fn given(stage: &Stage, administrator: &Path) -> Self {
        let space = &stage.namespace;
        let mut account = None;
        for object in chart::rights(space) {
            let (group, plural) = match object["kind"].as_str().unwrap() {
                "ServiceAccount" => ("/api/v1", "serviceaccounts"),
                "Role" => ("/apis/rbac.authorization.k8s.io/v1", "roles"),
                "RoleBinding" => ("/apis/rbac.authorization.k8s.io/v1", "rolebindings"),
                "ClusterRole" => ("/apis/rbac.authorization.k8s.io/v1", "clusterroles"),
                _ => ("/apis/rbac.authorization.k8s.io/v1", "clusterrolebindings"),
            };
            let path = match plural {
                "clusterroles" | "clusterrolebindings" => format!("{group}/{plural}"),
                _ => stage.path(group, plural),
            };
            stage.ask("POST", &path, &object).await.unwrap();
            if plural == "serviceaccounts" {
                account = object["metadata"]["name"].as_str().map(str::to_owned);
            }
        }
        let account = account.expect("the workers have an account");
        let account = format!("system:serviceaccount:{space}:{account}");
        let folder = Folder::new();
        let groups = ["system:serviceaccounts", "system:authenticated"];
        let worker = folder.join("worker");
        write(&worker, administrator, space, &account, &groups);
        let operator = folder.join("operator");
        write(
            &operator,
            administrator,
            space,
            "somebody",
            &[OPERATORS, "system:authenticated"],
        );
        Self {
            worker,
            operator,
            _folder: folder,
        }
    }
}

/// The administrator's kubeconfig, for acting as another.
fn write(file: &Path, administrator: &Path, namespace: &str, user: &str, groups: &[&str]) {
    let config = kube::config::Kubeconfig::read_from(administrator).unwrap();
    let mut config = serde_json::to_value(&config).unwrap();
    let who = &mut config["users"][0]["user"];
    who["as"] = user.into();
    who["as-groups"] = json!(groups);
    config["contexts"][0]["context"]["namespace"] = namespace.into();
    std::fs::write(file, config.to_string()).unwrap();
}

/// What a worker and an operator must not do, and what only look like the same.
pub(super) async fn are_no_more(stage: &Stage, users: &Users, node: &str) {
    let worker = stage.seen_by(&users.worker).await;
    let operator = stage.seen_by(&users.operator).await;
    let pods = stage.path("/api/v1", "pods");
    let secrets = stage.path("/api/v1", "secrets");
    let (pod, node) = (stage.pod_path(POD), format!("/api/v1/nodes/{node}"));
    let nodes = "/api/v1/nodes".to_owned();
    let nothing = json!({});
    for (who, method, path, expected) in [
        (&worker, "GET", &pods, 200),
        (&worker, "PATCH", &pod, 200),
        (&worker, "GET", &node, 200),
        (&worker, "GET", &nodes, 403),
        (&worker, "PATCH", &node, 403),
        (&worker, "DELETE", &pod, 403),
        (&worker, "GET", &secrets, 403),
        (&operator, "PATCH", &pod, 200),
        (&operator, "PATCH", &node, 200),
        (&operator, "DELETE", &pod, 403),
        (&operator, "GET", &secrets, 403),
    ] {
        let body = if method == "GET" {
            &Value::Null
        } else {
            &nothing
        };
        let answer = who.ask(method, path, body).await;
        assert_eq!(code(&answer), expected, "{method} {path}: {answer:?}");
    }
    let evicted = worker.evict_with(POD, POD, &nothing).await;
    assert_eq!(code(&evicted), 403, "{evicted:?}");
}
