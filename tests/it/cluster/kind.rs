//! The kinds of objects that the server has, and what discovery says of them.

use serde_json::{Value, json};

/// One resource of the API.
#[derive(Debug)]
pub(super) struct Kind {
    pub(super) group: &'static str,
    pub(super) version: &'static str,
    /// As in paths; unique among the kinds here, so it names the kind inside the server.
    pub(super) plural: &'static str,
    pub(super) kind: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
    pub(super) namespaced: bool,
    pub(super) has_status: bool,
}

const fn kind(
    group: &'static str,
    plural: &'static str,
    kind: &'static str,
    singular: &'static str,
    short: &'static [&'static str],
) -> Kind {
    Kind {
        group,
        version: "v1",
        plural,
        kind,
        singular,
        short,
        namespaced: true,
        has_status: true,
    }
}

static KINDS: [Kind; 9] = [
    kind("", "pods", "Pod", "pod", &["po"]),
    Kind {
        namespaced: false,
        ..kind("", "nodes", "Node", "node", &["no"])
    },
    Kind {
        namespaced: false,
        ..kind("", "namespaces", "Namespace", "namespace", &["ns"])
    },
    kind(
        "policy",
        "poddisruptionbudgets",
        "PodDisruptionBudget",
        "poddisruptionbudget",
        &["pdb"],
    ),
    kind(
        "apps",
        "statefulsets",
        "StatefulSet",
        "statefulset",
        &["sts"],
    ),
    kind("apps", "daemonsets", "DaemonSet", "daemonset", &["ds"]),
    kind("apps", "replicasets", "ReplicaSet", "replicaset", &["rs"]),
    Kind {
        has_status: false,
        ..kind("coordination.k8s.io", "leases", "Lease", "lease", &[])
    },
    Kind {
        has_status: false,
        ..kind("events.k8s.io", "events", "Event", "event", &["ev"])
    },
];

impl Kind {
    pub(super) fn of(plural: &str) -> &'static Self {
        let found = KINDS.iter().find(|kind| kind.plural == plural);
        found.unwrap_or_else(|| panic!("the server has no {plural:?}"))
    }

    pub(super) fn at(group: &str, version: &str, plural: &str) -> Option<&'static Self> {
        KINDS
            .iter()
            .find(|kind| (kind.group, kind.version, kind.plural) == (group, version, plural))
    }

    /// As objects say it: `v1`, `policy/v1`.
    pub(super) fn api_version(&self) -> String {
        if self.group.is_empty() {
            self.version.into()
        } else {
            format!("{}/{}", self.group, self.version)
        }
    }

    fn resources(&self) -> Vec<Value> {
        let verbs = [
            "create", "delete", "get", "list", "patch", "update", "watch",
        ];
        let mut found = vec![json!({
            "name": self.plural, "singularName": self.singular, "namespaced": self.namespaced,
            "kind": self.kind, "verbs": verbs, "shortNames": self.short,
        })];
        if self.has_status {
            found.push(json!({
                "name": format!("{}/status", self.plural), "singularName": "",
                "namespaced": self.namespaced, "kind": self.kind, "verbs": ["get", "patch", "update"],
            }));
        }
        if self.plural == "pods" {
            // Where this line or the group `policy` is missing, kubectl drain deletes instead of evicting, and says nothing.
            found.push(json!({
                "name": "pods/eviction", "singularName": "", "namespaced": true,
                "group": "policy", "version": "v1", "kind": "Eviction", "verbs": ["create"],
            }));
        }
        found
    }
}

/// What a path of discovery answers.
pub(super) fn discovery(path: &str) -> Option<Value> {
    match path.trim_end_matches('/') {
        "/version" => Some(json!({
            "major": "1", "minor": "37", "gitVersion": "v1.37.1", "gitCommit": "", "gitTreeState": "clean",
            "buildDate": "2026-01-01T00:00:00Z", "goVersion": "", "compiler": "", "platform": "linux/amd64",
        })),
        "/api" => Some(json!({
            "kind": "APIVersions", "versions": ["v1"], "serverAddressByClientCIDRs": [],
        })),
        "/apis" => Some(groups()),
        "/api/v1" => resources("", "v1"),
        path => {
            let (group, version) = path.strip_prefix("/apis/")?.split_once('/')?;
            resources(group, version)
        }
    }
}

fn groups() -> Value {
    let mut names: Vec<&str> = Vec::new();
    for kind in &KINDS {
        if !kind.group.is_empty() && !names.contains(&kind.group) {
            names.push(kind.group);
        }
    }
    let groups: Vec<Value> = names
        .iter()
        .map(|name| {
            let version = json!({"groupVersion": format!("{name}/v1"), "version": "v1"});
            json!({"name": name, "versions": [version], "preferredVersion": version})
        })
        .collect();
    json!({"kind": "APIGroupList", "apiVersion": "v1", "groups": groups})
}

fn resources(group: &str, version: &str) -> Option<Value> {
    let kinds = KINDS
        .iter()
        .filter(|kind| kind.group == group && kind.version == version);
    let found: Vec<Value> = kinds.flat_map(Kind::resources).collect();
    if found.is_empty() {
        return None;
    }
    let version = if group.is_empty() {
        version.to_owned()
    } else {
        format!("{group}/{version}")
    };
    Some(json!({
        "kind": "APIResourceList", "apiVersion": "v1", "groupVersion": version, "resources": found,
    }))
}
