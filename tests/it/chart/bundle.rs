//! Workers that follow a bundle: what they are told of it, and that a change of it restarts none of them.

use std::collections::BTreeMap;

use serde_json::{Value, json};

use super::helm::{Helm, all, example, name, one, values, workers};
use super::pods::templates;
use crate::harness::Folder;

/// The configuration that workers start with.
fn config(objects: &[Value], map: &str) -> toml::Table {
    let map = one(objects, "ConfigMap", map);
    let text = map["data"]["longshore.toml"].as_str().unwrap();
    text.parse().unwrap()
}

/// Where a pod's worker has which volume.
fn mounts(pod: &Value) -> BTreeMap<&str, &Value> {
    let volumes = pod["spec"]["volumes"].as_array().unwrap();
    let mounts = pod["spec"]["containers"][0]["volumeMounts"]
        .as_array()
        .unwrap();
    let volume = |mount: &Value| {
        assert_eq!(mount.get("subPath"), None, "{mount}");
        volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
    };
    mounts
        .iter()
        .filter_map(|mount| Some((mount["mountPath"].as_str().unwrap(), volume(mount)?)))
        .collect()
}

/// The example `api`, with the bundle that `text` says, by both Helms.
fn with_bundle(text: &str) -> [Vec<Value>; 2] {
    let folder = Folder::new();
    let file = folder.join("values.yaml");
    std::fs::write(&file, text).unwrap();
    Helm::BOTH.map(|helm| helm.render(&[&values("api"), &file], &[]).unwrap())
}

/// Two sources of a bundle that the chart itself makes ConfigMaps of.
fn own(attempts: u32) -> [Vec<Value>; 2] {
    with_bundle(&format!(
        "bundle: {{enabled: true, name: b, sources: {{
           policies: {{files: {{t.toml: \"[tasks.default]\\nattempts = {attempts}\"}}}},
           projects: {{files: {{p.toml: \"[projects]\"}}}}}}}}"
    ))
}

#[test]
fn a_changed_bundle_restarts_no_pod() {
    for (before, after) in own(5).iter().zip(&own(6)) {
        let map = |objects: &[Value], of: &str| one(objects, "ConfigMap", of)["data"].clone();
        assert_ne!(
            map(before, "-bundle-policies")["t.toml"],
            map(after, "-bundle-policies")["t.toml"]
        );
        assert_eq!(templates(before).len(), 3, "elastic, pinned and the api");
        assert_eq!(templates(before), templates(after));
    }
}

#[test]
fn sources_that_the_chart_makes_are_one_set() {
    let marks = |objects: &[Value]| {
        ["-bundle-policies", "-bundle-projects"]
            .map(|of| one(objects, "ConfigMap", of)["data"][".bundle"].clone())
    };
    for (before, after) in own(5).iter().zip(&own(6)) {
        let ([one, other], [new, _]) = (marks(before), marks(after));
        assert_eq!(one, other);
        // Also that of the source in which nothing is different: it is of the new set too.
        assert_eq!(marks(after)[0], marks(after)[1]);
        assert_ne!(one, new);
        // A worker takes 16 digits for a revision, and compares them with what it finds.
        assert_eq!(one.as_str().unwrap().len(), 64);
    }
}

#[test]
fn each_source_is_mounted_whole_where_the_worker_looks() {
    let objects = example("bundle");
    let config = config(&objects, "ci-longshore");
    let bundle = config["bundle"].as_table().unwrap();
    assert_eq!(bundle["name"].as_str(), Some("production"));
    assert_eq!(bundle["look_every"].as_str(), Some("2s"));
    assert_eq!(bundle["late_after"].as_str(), Some("5m"));
    assert_eq!(bundle["quiet_min"].as_str(), Some("10s"));
    assert_eq!(bundle["quiet_max"].as_str(), Some("2m"));
    let pods = workers(&objects);
    assert_eq!(pods.len(), 2);
    for pod in pods {
        let mounts = mounts(pod);
        assert!(mounts[bundle["folder"].as_str().unwrap()]["emptyDir"].is_object());
        for (source, map) in [("policies", "ci-policies"), ("projects", "ci-projects")] {
            let path = bundle["sources"][source].as_str().unwrap();
            assert_eq!(mounts[path]["configMap"], json!({"name": map}));
        }
    }
}

#[test]
fn the_small_end_keeps_its_bundle_on_its_volume() {
    let more = [
        "--set",
        "bundle.enabled=true",
        "--set-string",
        "bundle.name=b",
    ];
    let objects = Helm::Four.render(&[&values("embedded")], &more).unwrap();
    let folder = config(&objects, "ci-longshore")["bundle"]["folder"].clone();
    assert_eq!(folder.as_str(), Some("/var/lib/longshore/bundles"));
    let set = one(&objects, "StatefulSet", "-all");
    let data = &set["spec"]["volumeClaimTemplates"][0]["metadata"]["name"];
    let pod = workers(&objects)[0];
    let mounts = pod["spec"]["containers"][0]["volumeMounts"]
        .as_array()
        .unwrap();
    let at = |path: &str| mounts.iter().find(|mount| mount["mountPath"] == path);
    assert_eq!(&at("/var/lib/longshore").unwrap()["name"], data);
    assert_eq!(at("/var/lib/longshore/bundles"), None);
}

#[test]
fn without_a_bundle_nobody_follows_one() {
    let objects = example("api");
    assert!(!config(&objects, "ci-longshore").contains_key("bundle"));
    let maps = all(&objects, "ConfigMap");
    assert!(maps.iter().all(|map| !name(map).contains("-bundle-")));
    for pod in workers(&objects) {
        assert!(!pod.to_string().contains("bundle"), "{pod}");
    }
}
