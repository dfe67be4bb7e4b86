//! The Helm chart, rendered by the real Helms, and what must hold of all that it renders.

mod admission;
mod alerts;
mod api;
mod budgets;
mod bundle;
mod helm;
mod image;
mod pods;
mod refused;
mod selector;

use std::collections::BTreeSet;
use std::process::Command;

use helm::{Helm, all, example, example_with, examples, kind, name, one, python, said, values};
use serde_json::{Value, json};

use crate::harness::{BackEnd, Bench, Folder, task};

/// The accounts and roles of the release `contract` in a namespace, with the example that has all of them.
pub(crate) fn rights(namespace: &str) -> Vec<Value> {
    let values = values("squad");
    let objects = Helm::Four.render_as("contract", namespace, &[&values], &[]);
    let mut objects = objects.unwrap();
    objects.retain(|object| {
        let kind = kind(object);
        kind == "ServiceAccount" || kind.contains("Role")
    });
    objects
}

#[test]
fn both_helms_find_nothing_to_say_against_any_example() {
    for helm in Helm::BOTH {
        for example in examples() {
            let verb = ["lint", "--strict", "--kube-version", "1.33.0"];
            let output = helm.run(&verb, &[&values(&example)], &[]);
            assert!(output.status.success(), "{example}: {}", said(&output));
        }
    }
}

#[test]
fn both_helms_render_the_same() {
    for example in examples() {
        let [three, four] = Helm::BOTH.map(|helm| {
            let mut objects = helm.render(&[&values(&example)], &[]).unwrap();
            objects.sort_by_cached_key(|object| (kind(object).to_owned(), name(object).to_owned()));
            objects
        });
        assert_eq!(three, four, "{example}");
    }
}

/// Writes each list of objects into a file of its own, and validates all of them.
fn validated(manifests: &[&[Value]]) -> (bool, String) {
    let folder = Folder::new();
    let mut files = Vec::new();
    for (number, objects) in manifests.iter().enumerate() {
        let file = folder.join(&format!("{number}.yaml"));
        // JSON is YAML, one document a line.
        let text: String = objects
            .iter()
            .map(|object| format!("---\n{object}\n"))
            .collect();
        std::fs::write(&file, text).unwrap();
        files.push(file);
    }
    let output = python("validate.py", &files, "");
    (output.status.success(), said(&output))
}

#[test]
fn every_object_is_valid_in_all_supported_versions() {
    let examples: Vec<Vec<Value>> = examples().iter().map(|name| example(name)).collect();
    let manifests: Vec<&[Value]> = examples.iter().map(Vec::as_slice).collect();
    let (valid, report) = validated(&manifests);
    assert!(valid, "{report}");
    for kind in [
        "ScaledObject=",
        "TriggerAuthentication=",
        "PodMonitor=",
        "PrometheusRule=",
        "StatefulSet=",
        "Ingress=",
    ] {
        assert!(report.contains(kind), "{kind} {report}");
    }
}

#[test]
fn the_validation_sees_a_mistake_of_each_kind() {
    let objects = example("squad");
    let mut wrong: Vec<Value> = ["PodDisruptionBudget", "ScaledObject", "PodMonitor"]
        .iter()
        .map(|kind| all(&objects, kind)[0].clone())
        .collect();
    for object in &mut wrong {
        object["spec"]["misspelt"] = json!(1);
    }
    let mut missing = one(&objects, "ScaledObject", "-fetch").clone();
    missing["spec"].as_object_mut().unwrap().remove("triggers");
    let unknown =
        json!({"apiVersion": "example.org/v1", "kind": "Nothing", "metadata": {"name": "x"}});
    wrong.extend([missing, unknown]);
    let manifests: Vec<&[Value]> = wrong.iter().map(std::slice::from_ref).collect();
    let (valid, report) = validated(&manifests);
    assert!(!valid);
    for (number, object) in wrong.iter().enumerate() {
        let found = report.contains(&format!("/{number}.yaml: "));
        assert!(found, "{}: {report}", kind(object));
    }
}

#[test]
fn the_readme_has_the_values() {
    let output = Command::new(helm::source("scripts/chart-readme"))
        .arg("--check")
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}

#[test]
fn a_scaled_pool_leaves_its_replicas_to_what_scales_it() {
    let objects = example("all");
    for (pool, replicas) in [
        ("quick", None),
        ("by-sql", None),
        ("slow-one", Some(json!(0))),
    ] {
        let deployment = one(&objects, "Deployment", &format!("-{pool}"));
        assert_eq!(
            deployment["spec"].get("replicas"),
            replicas.as_ref(),
            "{pool}"
        );
    }
    let scaler = one(&objects, "HorizontalPodAutoscaler", "-quick");
    assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "ci-worker-quick");
    let scaler = one(&objects, "ScaledObject", "-by-sql");
    assert_eq!(scaler["spec"]["scaleTargetRef"]["name"], "ci-worker-by-sql");
}

#[test]
fn a_trigger_counts_messages_that_workers_hold() {
    let objects = example("squad");
    let triggers = one(&objects, "ScaledObject", "-fetch")["spec"]["triggers"]
        .as_array()
        .unwrap();
    let rabbit: Vec<&Value> = triggers
        .iter()
        .filter(|trigger| trigger["type"] == "rabbitmq")
        .collect();
    assert_eq!(rabbit.len(), 1);
    assert_eq!(rabbit[0]["metadata"]["protocol"], "http");
    assert_eq!(rabbit[0]["metadata"]["queueName"], "ci_fetch");
}

/// The names of a release's objects, those outside of namespaces with their kind alone.
fn names(release: &str, namespace: &str) -> BTreeSet<String> {
    let rendered = ["squad", "api"].map(|example| {
        Helm::Four
            .render_as(release, namespace, &[&values(example)], &[])
            .unwrap()
    });
    let objects = rendered.concat();
    let scope = |object: &Value| {
        let global = [
            "ClusterRole",
            "ClusterRoleBinding",
            "ValidatingAdmissionPolicy",
            "ValidatingAdmissionPolicyBinding",
        ];
        if global.contains(&kind(object)) {
            ""
        } else {
            namespace
        }
        .to_owned()
    };
    objects
        .iter()
        .map(|object| format!("{} {} {}", kind(object), scope(object), name(object)))
        .collect()
}

#[test]
fn no_two_releases_share_an_object() {
    let releases = [
        ("ci", "lab"),
        ("ci", "lab-two"),
        ("ci-two", "lab"),
        ("longshore", "lab"),
        ("2nd", "lab"),
    ];
    let all = releases.map(|(release, namespace)| names(release, namespace));
    for (one, own) in all.iter().enumerate() {
        for other in &all[one + 1..] {
            assert_eq!(own.intersection(other).next(), None);
        }
    }
}

#[test]
fn workers_have_the_least_rights() {
    let objects = example("squad");
    let role = one(&objects, "Role", "ci-longshore");
    let expected = json!([
        {"apiGroups": [""], "resources": ["pods"], "verbs": ["get", "list", "watch", "patch"]},
        {"apiGroups": ["events.k8s.io"], "resources": ["events"], "verbs": ["create"]},
    ]);
    assert_eq!(role["rules"], expected);
    let nodes = one(&objects, "ClusterRole", ".nodes");
    let expected = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "watch"]}]);
    assert_eq!(nodes["rules"], expected);
    let drains = one(&objects, "ClusterRole", ".drain");
    let expected = json!([{"apiGroups": [""], "resources": ["nodes"], "verbs": ["get", "patch"]}]);
    assert_eq!(drains["rules"], expected);
    let bound: Vec<&str> = ["RoleBinding", "ClusterRoleBinding"]
        .iter()
        .flat_map(|kind| all(&objects, kind))
        .filter(|binding| binding["subjects"][0]["kind"] == "ServiceAccount")
        .map(|binding| binding["roleRef"]["name"].as_str().unwrap())
        .collect();
    assert_eq!(bound, ["ci-longshore", "lab.ci-longshore.nodes"]);
    assert_eq!(all(&example("unaware"), "Role"), Vec::<&Value>::new());
    assert_eq!(all(&example("all"), "ClusterRole"), Vec::<&Value>::new());
}

#[test]
fn nobody_may_delete_a_pod() {
    for objects in examples().iter().map(|name| example(name)) {
        for role in [all(&objects, "Role"), all(&objects, "ClusterRole")].concat() {
            let text = role["rules"].to_string();
            assert!(
                !text.contains("delete") && !text.contains('*'),
                "{} {text}",
                name(role)
            );
        }
    }
}

#[test]
fn the_notes_say_what_a_drain_does() {
    let notes = |example: &str| {
        let verb = ["install", "ci", "--dry-run=client", "--namespace", "lab"];
        let output = Helm::Four.run(&verb, &[&values(example)], &[]);
        assert!(output.status.success(), "{}", said(&output));
        said(&output).split_once("NOTES:").unwrap().1.to_owned()
    };
    let squad = notes("squad");
    for sentence in [
        "fetch (elastic, keda from 0 to 20 pods, takes ci_fetch):\n  As soon as the node is cordoned",
        "The eviction is granted at once, as far as the pool's own budget lets it. A worker then has 60 s",
        "postprocess (pinned, 4 pods, takes ci_fetch_postprocess, longshore_postprocess):\n  The drain waits for each of its pods",
    ] {
        assert!(squad.contains(sentence), "{sentence}\n{squad}");
    }
    assert!(notes("unaware").contains("Nothing holds the drain: kubernetes.enabled is false."));
    assert!(notes("embedded").contains("There is one pod"));
    let api = notes("api");
    for sentence in [
        "api (2 pods): it keeps nothing",
        "https://longshore.example.org/ with a token of ci, kernel-lab.",
    ] {
        assert!(api.contains(sentence), "{sentence}\n{api}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_backlog_is_what_runs_or_may_run() {
    Bench::run(BackEnd::Postgres, backlog).await;
}

/// KEDA runs the query; here it runs where our tables are.
async fn backlog(bench: Bench) {
    let schema = format!("config=[store]\nschema = \"{}\"", bench.config.schema);
    let objects = example_with("all", &["--set-string", &schema]);
    let scaler = one(&objects, "ScaledObject", "-by-sql");
    let query = scaler["spec"]["triggers"][0]["metadata"]["query"]
        .as_str()
        .unwrap();
    let worker = bench.worker().await;
    let mut tasks: Vec<_> = (0..12).map(|number| task(&format!("t{number}"))).collect();
    for (number, task) in tasks.iter_mut().enumerate() {
        task.queue = if number == 11 { "other" } else { "it's" }.into();
        bench.claimed(&worker, task).await;
    }
    let ends = [
        "queued", "running", "waiting", "parked", "done", "dead", "canceled", "expired",
    ];
    for (number, state) in ends.iter().enumerate() {
        bench
            .execute(&format!(
                "update tasks set state = '{state}' where id = 't{number}'"
            ))
            .await;
    }
    let later = "update tasks set state = 'waiting', run_at = 9999999999999 where id in ('t8', 't9', 't10')";
    bench.execute(later).await;
    assert_eq!(
        bench.number(query).await,
        2,
        "queued and running; waiting has no time yet"
    );
    bench
        .execute("update tasks set run_at = 1 where id in ('t2', 't8')")
        .await;
    assert_eq!(bench.number(query).await, 4, "and what is due");
}
