//! The producers' HTTP: pods without rights or workers' labels, and tokens that no worker has.

use serde_json::{Value, json};

use super::helm::{Helm, all, example, example_with, kind, name, one, pods, values, workers};
use super::selector::{labels, selects};

/// The pod template of the api.
fn api(objects: &[Value]) -> &Value {
    &one(objects, "Deployment", "-api")["spec"]["template"]
}

/// The paths of the files of Secrets in a pod's configuration.
fn files(pod: &Value) -> Vec<String> {
    let sources = pod["spec"]["volumes"][0]["projected"]["sources"]
        .as_array()
        .unwrap();
    let path = |source: &Value| {
        source["secret"]["items"][0]["path"]
            .as_str()
            .map(str::to_owned)
    };
    sources.iter().filter_map(path).collect()
}

#[test]
fn without_being_asked_for_there_is_no_api() {
    let off = ["--set", "api.enabled=false"];
    for objects in [example_with("api", &off), example("squad")] {
        for object in objects {
            assert!(
                kind(&object) == "Pod" || !name(&object).ends_with("-api"),
                "{object}"
            );
        }
    }
}

#[test]
fn only_the_api_has_the_producers_tokens() {
    let objects = example("api");
    let tokens = ["api-tokens/ci", "api-tokens/kernel-lab"];
    for pod in pods(&objects) {
        let is_api = pod == api(&objects);
        for token in tokens {
            assert_eq!(files(pod).contains(&token.to_owned()), is_api, "{pod}");
        }
    }
    for map in all(&objects, "ConfigMap") {
        let text = map["data"].to_string();
        assert_eq!(text.contains("api-tokens"), name(map).ends_with("-api"));
    }
}

#[test]
fn the_api_has_an_account_without_rights() {
    let objects = example("api");
    let account = &api(&objects)["spec"]["serviceAccountName"];
    assert_eq!(account, "ci-longshore-api");
    let made = one(&objects, "ServiceAccount", "-api");
    assert_eq!(made["automountServiceAccountToken"], false);
    for binding in [
        all(&objects, "RoleBinding"),
        all(&objects, "ClusterRoleBinding"),
    ]
    .concat()
    {
        let subjects = binding["subjects"].as_array().unwrap();
        assert!(subjects.iter().all(|subject| subject["name"] != *account));
    }
    for worker in workers(&objects) {
        assert_ne!(worker["spec"]["serviceAccountName"], *account);
    }
}

#[test]
fn the_service_finds_the_apis_pods_alone_on_their_port() {
    let objects = example("api");
    let service = &one(&objects, "Service", "-api")["spec"];
    let selector = json!({"matchLabels": service["selector"]});
    let found: Vec<&Value> = pods(&objects)
        .into_iter()
        .filter(|pod| selects(&selector, &labels(pod)))
        .collect();
    assert_eq!(found, [api(&objects)]);
    let container = &api(&objects)["spec"]["containers"][0];
    let port = &container["ports"][0];
    assert_eq!(port["name"], service["ports"][0]["targetPort"]);
    let listen = &container["env"][0];
    assert_eq!(listen["name"], "LONGSHORE__API__LISTEN");
    assert_eq!(
        listen["value"],
        format!("0.0.0.0:{}", port["containerPort"])
    );
    let ingress = &one(&objects, "Ingress", "-api")["spec"]["rules"][0];
    let backend = &ingress["http"]["paths"][0]["backend"]["service"];
    assert_eq!(backend["name"], "ci-longshore-api");
    assert_eq!(backend["port"]["name"], service["ports"][0]["name"]);
}

/// Who may come in to a pod: the ports of all policies that select it.
fn open_ports(objects: &[Value], pod: &Value) -> Vec<Value> {
    all(objects, "NetworkPolicy")
        .into_iter()
        .filter(|policy| selects(&policy["spec"]["podSelector"], &labels(pod)))
        .flat_map(|policy| policy["spec"]["ingress"].as_array().unwrap())
        .flat_map(|rule| rule["ports"].as_array().unwrap())
        .map(|port| port["port"].clone())
        .collect()
}

#[test]
fn each_pod_is_reached_at_its_own_port_alone() {
    let objects = example("api");
    for pod in pods(&objects) {
        let port = if pod == api(&objects) { 8081 } else { 8080 };
        assert_eq!(open_ports(&objects, pod), [json!(port)]);
    }
}

#[test]
fn changed_tokens_restart_the_api_alone() {
    let templates = |objects: &[Value]| {
        [all(objects, "Deployment"), all(objects, "StatefulSet")]
            .concat()
            .into_iter()
            .map(|workload| {
                (
                    name(workload).to_owned(),
                    workload["spec"]["template"].clone(),
                )
            })
            .collect::<Vec<_>>()
    };
    let before = templates(&example("api"));
    let change = ["--set", "api.tokens.ci.projects={lab/kernel}"];
    for helm in Helm::BOTH {
        let after = templates(&helm.render(&[&values("api")], &change).unwrap());
        assert_eq!(before.len(), after.len());
        for (old, new) in before.iter().zip(&after) {
            assert_eq!(old.1 == new.1, !old.0.ends_with("-api"), "{}", old.0);
        }
    }
}
