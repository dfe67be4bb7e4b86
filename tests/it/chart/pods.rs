//! What every pod of the chart is, and which changes restart it.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde_json::{Value, json};

use super::helm::{
    Helm, all, example, example_with, examples, kind, name, one, pods, values, workers,
};
use crate::harness::{Folder, run_with};

/// The containers of a pod, with those that run before.
fn containers(pod: &Value) -> Vec<&Value> {
    ["initContainers", "containers"]
        .iter()
        .filter_map(|list| pod["spec"][list].as_array())
        .flatten()
        .collect()
}

/// The environment of a container: values as they are, `$` and where they come from otherwise.
fn environment(container: &Value) -> BTreeMap<String, String> {
    let variables = container["env"].as_array().into_iter().flatten();
    variables
        .map(|variable| {
            let source = &variable["valueFrom"];
            let value = [
                &variable["value"],
                &source["fieldRef"]["fieldPath"],
                &source["secretKeyRef"]["key"],
            ]
            .into_iter()
            .find_map(Value::as_str)
            .unwrap();
            (
                variable["name"].as_str().unwrap().to_owned(),
                value.to_owned(),
            )
        })
        .collect()
}

#[test]
fn every_pod_is_restricted() {
    for example_name in examples() {
        let objects = example(&example_name);
        // SQUAD's files have SQUAD's owner.
        let user = if example_name == "squad" { 1000 } else { 65532 };
        for pod in pods(&objects) {
            let context = &pod["spec"]["securityContext"];
            assert_eq!(context["runAsNonRoot"], true);
            assert_eq!(context["runAsUser"], user);
            // Nobody is to go through all of SQUAD's files.
            assert_eq!(context.get("fsGroup").is_none(), example_name == "squad");
            assert_eq!(context["seccompProfile"]["type"], "RuntimeDefault");
            assert_eq!(pod["spec"]["enableServiceLinks"], false);
            for container in containers(pod) {
                let expected = json!({
                    "allowPrivilegeEscalation": false,
                    "readOnlyRootFilesystem": true,
                    "capabilities": {"drop": ["ALL"]},
                });
                assert_eq!(container["securityContext"], expected);
                // There is no shell in the image: the entrypoint is the program.
                assert_eq!(container.get("command"), None);
            }
        }
    }
}

#[test]
fn only_workers_that_watch_their_pod_get_a_token() {
    for example_name in examples() {
        let objects = example(&example_name);
        let aware = example_name != "unaware";
        for pod in pods(&objects) {
            let worker = pod["metadata"]["labels"]["app.kubernetes.io/component"] == "worker";
            assert_eq!(
                pod["spec"]["automountServiceAccountToken"],
                worker && aware,
                "{example_name}"
            );
        }
    }
}

#[test]
fn a_worker_knows_its_grace_and_who_it_is() {
    let objects = example("squad");
    for (pool, grace) in [("fetch", 60), ("postprocess", 120)] {
        let pod = workers(&objects)
            .into_iter()
            .find(|pod| pod["metadata"]["labels"]["longshore.dev/pool"] == pool)
            .unwrap();
        assert_eq!(pod["spec"]["terminationGracePeriodSeconds"], grace);
        let env = environment(containers(pod)[0]);
        let expected = [
            ("LONGSHORE__WORKER__GRACE", format!("{grace}s")),
            ("LONGSHORE__HTTP__LISTEN", "0.0.0.0:8080".into()),
            ("LONGSHORE__KUBERNETES__POD", "metadata.name".into()),
            (
                "LONGSHORE__KUBERNETES__NAMESPACE",
                "metadata.namespace".into(),
            ),
            ("LONGSHORE__KUBERNETES__UID", "metadata.uid".into()),
            ("LONGSHORE__KUBERNETES__NODE", "spec.nodeName".into()),
            ("LONGSHORE__STORE__PASSWORD", "password".into()),
            ("LONGSHORE__BROKER__PASSWORD", "password".into()),
        ];
        let expected = expected
            .map(|(name, value)| (name.to_owned(), value))
            .into();
        assert_eq!(env, expected);
    }
    let without_nodes = example("all");
    let env = environment(containers(workers(&without_nodes)[0])[0]);
    assert!(
        env.contains_key("LONGSHORE__KUBERNETES__UID")
            && !env.contains_key("LONGSHORE__KUBERNETES__NODE")
    );
}

#[test]
fn every_worker_is_probed_spread_and_of_its_class() {
    for example_name in examples() {
        let objects = example(&example_name);
        for pod in workers(&objects) {
            let worker = containers(pod).pop().unwrap();
            for (probe, path) in [
                ("startupProbe", "/startupz"),
                ("livenessProbe", "/livez"),
                ("readinessProbe", "/readyz"),
            ] {
                let asked = &worker[probe]["httpGet"];
                assert_eq!(*asked, json!({"path": path, "port": "http"}), "{probe}");
            }
            let spread = &pod["spec"]["topologySpreadConstraints"][0];
            assert_eq!(spread["topologyKey"], "kubernetes.io/hostname");
            let own = spread["labelSelector"]["matchLabels"].as_object().unwrap();
            assert_eq!(
                own["longshore.dev/pool"], pod["metadata"]["labels"]["longshore.dev/pool"],
                "{example_name}"
            );
        }
    }
    let objects = example("squad");
    let pinned = one(&objects, "StatefulSet", "-postprocess");
    let class = &pinned["spec"]["template"]["spec"]["priorityClassName"];
    assert_eq!(class, "longshore-pinned");
}

#[test]
fn a_pinned_pool_is_replaced_and_scaled_by_people_alone() {
    for objects in ["all", "embedded", "squad"].map(example) {
        for set in all(&objects, "StatefulSet") {
            assert_eq!(set["spec"]["updateStrategy"], json!({"type": "OnDelete"}));
            assert!(set["spec"]["replicas"].is_u64());
            let annotations = &set["spec"]["template"]["metadata"]["annotations"];
            assert_eq!(
                annotations["cluster-autoscaler.kubernetes.io/safe-to-evict"],
                "false"
            );
            assert_eq!(annotations["karpenter.sh/do-not-disrupt"], "true");
        }
    }
}

/// The pod template of each workload.
pub(super) fn templates(objects: &[Value]) -> BTreeMap<String, Value> {
    [all(objects, "Deployment"), all(objects, "StatefulSet")]
        .concat()
        .into_iter()
        .map(|workload| {
            (
                name(workload).to_owned(),
                workload["spec"]["template"].clone(),
            )
        })
        .collect()
}

#[test]
fn a_changed_configuration_changes_elastic_pods_alone() {
    let before = templates(&example("squad"));
    let changes: [&[&str]; 2] = [
        &[
            "--set-string",
            "config=[store]\nurl = \"postgres://u@h/d\"\n[broker]\nurl = \"amqp://u@h\"",
        ],
        &["--set", "pools.fetch.slots=3"],
    ];
    for change in changes {
        let after = templates(&example_with("squad", change));
        assert_ne!(
            before["ci-longshore-fetch"], after["ci-longshore-fetch"],
            "{change:?}"
        );
        assert_eq!(
            before["ci-longshore-postprocess"], after["ci-longshore-postprocess"],
            "{change:?}"
        );
    }
}

#[test]
fn no_pod_carries_the_version_of_the_chart() {
    for objects in examples().iter().map(|name| example(name)) {
        for pod in workers(&objects) {
            let labels = pod["metadata"]["labels"].as_object().unwrap();
            assert!(
                !labels.contains_key("helm.sh/chart")
                    && !labels.contains_key("app.kubernetes.io/version")
            );
        }
    }
}

/// The configuration of a pod in a folder, with the files of Secrets that the pod has, and no others.
fn configuration(objects: &[Value], pod: &Value, folder: &Folder) -> PathBuf {
    let sources = pod["spec"]["volumes"][0]["projected"]["sources"]
        .as_array()
        .unwrap();
    let map = sources[0]["configMap"]["name"].as_str().unwrap();
    let map = one(objects, "ConfigMap", map);
    for source in &sources[1..] {
        let secret = folder.join(source["secret"]["items"][0]["path"].as_str().unwrap());
        std::fs::create_dir_all(secret.parent().unwrap()).unwrap();
        std::fs::write(secret, "token").unwrap();
    }
    let file = folder.join("longshore.toml");
    std::fs::write(&file, map["data"]["longshore.toml"].as_str().unwrap()).unwrap();
    file
}

#[tokio::test]
async fn the_program_accepts_the_configuration_of_every_pod() {
    for example_name in examples() {
        let objects = example(&example_name);
        for pod in pods(&objects) {
            let folder = Folder::new();
            let file = configuration(&objects, pod, &folder);
            for container in containers(pod) {
                let mut env = environment(container);
                // What Secrets hold.
                for (name, value) in [("STORE", "postgres://u:p@h/d"), ("BROKER", "amqp://u:p@h")] {
                    env.entry(format!("LONGSHORE__{name}__URL"))
                        .and_modify(|url| {
                            if url == "url" {
                                value.clone_into(url);
                            }
                        });
                }
                let arguments = ["config", "check", "--config", file.to_str().unwrap()];
                let output = run_with(&arguments, &env).await;
                let said = String::from_utf8_lossy(&output.stderr);
                assert!(
                    output.status.success(),
                    "{example_name} {}: {said}",
                    container["name"]
                );
            }
        }
    }
}

#[test]
fn a_budget_of_time_reaches_its_own_pool_alone() {
    // Another pool's grace may be shorter, and the program would refuse it there.
    let objects = example("all");
    let config = one(&objects, "ConfigMap", "ci-worker")["data"]["longshore.toml"]
        .as_str()
        .unwrap();
    assert!(!config.contains("budget"), "{config}");
    for deployment in all(&objects, "Deployment") {
        let env = environment(&deployment["spec"]["template"]["spec"]["containers"][0]);
        let budget = env
            .get("LONGSHORE__POOLS__QUICK__BUDGET")
            .map(String::as_str);
        let expected = name(deployment).ends_with("-quick").then_some("20s");
        assert_eq!(budget, expected, "{}", name(deployment));
    }
}

#[test]
fn hooks_need_nothing_that_the_release_makes() {
    let objects = example("squad");
    let job = one(&objects, "Job", "-migrate");
    let sources = job["spec"]["template"]["spec"]["volumes"][0]["projected"]["sources"]
        .as_array()
        .unwrap();
    let map = sources[0]["configMap"]["name"].as_str().unwrap();
    let hooks = |object: &Value| object["metadata"]["annotations"]["helm.sh/hook"].clone();
    assert_eq!(hooks(job), "pre-install,pre-upgrade");
    assert_eq!(hooks(one(&objects, "ConfigMap", map)), hooks(job));
    assert_eq!(
        job["spec"]["template"]["spec"].get("serviceAccountName"),
        None
    );
    let embedded = example("embedded");
    assert!(embedded.iter().all(|object| kind(object) != "Job"));
    let set = one(&embedded, "StatefulSet", "-all");
    assert_eq!(
        set["spec"]["template"]["spec"]["initContainers"][0]["args"][0],
        "migrate"
    );
}

#[test]
fn a_pool_of_the_values_replaces_whole_defaults() {
    let extra = |objects: &[Value], kind: &str, pool: &str| {
        let env = &one(objects, kind, pool)["spec"]["template"]["spec"]["containers"][0]["env"];
        env.as_array()
            .unwrap()
            .iter()
            .any(|variable| variable["name"] == "HTTPS_PROXY")
    };
    let objects = example("all");
    assert!(extra(&objects, "Deployment", "-quick"), "from the defaults");
    assert!(
        !extra(&objects, "StatefulSet", "-pin"),
        "its own, which are none"
    );
    assert_eq!(one(&objects, "StatefulSet", "-pin")["spec"]["replicas"], 0);
    assert!(
        objects
            .iter()
            .all(|object| !name(object).ends_with("-gone")),
        "not enabled"
    );
    let removed = Helm::BOTH.map(|helm| {
        helm.render(&[&values("squad")], &["--set", "pools.fetch=null"])
            .unwrap()
    });
    for objects in removed {
        assert_eq!(all(&objects, "Deployment"), Vec::<&Value>::new());
    }
}

#[test]
fn every_worker_beside_squad_can_write_where_squad_looks() {
    let objects = example("squad");
    let toml = one(&objects, "ConfigMap", "ci-longshore")["data"]["longshore.toml"].clone();
    let config: toml::Table = toml.as_str().unwrap().parse().unwrap();
    assert_eq!(config["testjobs"]["store"].as_str(), Some("squad"));
    assert_eq!(config["broker"]["queue_type"].as_str(), Some("classic"));
    let storage = config["squad"]["storage"].as_str().unwrap();
    let doctor = json!([
        "squad",
        "doctor",
        "--config",
        "/etc/longshore/longshore.toml"
    ]);
    let test = one(&objects, "Pod", "-test");
    let examined: Vec<&Value> = containers(test)
        .into_iter()
        .filter(|container| container["args"] == doctor)
        .collect();
    assert_eq!(examined.len(), 1);
    let mut writers = vec![(test, examined[0])];
    writers.extend(
        workers(&objects)
            .into_iter()
            .map(|pod| (pod, containers(pod)[0])),
    );
    assert_eq!(writers.len(), 3);
    for (pod, container) in writers {
        let mounts = container["volumeMounts"].as_array().unwrap();
        let mount = mounts
            .iter()
            .find(|mount| mount["mountPath"] == storage)
            .unwrap();
        assert_ne!(mount["readOnly"], true);
        let volumes = pod["spec"]["volumes"].as_array().unwrap();
        let volume = volumes
            .iter()
            .find(|volume| volume["name"] == mount["name"])
            .unwrap();
        assert!(volume["persistentVolumeClaim"]["claimName"].is_string());
    }
}

#[test]
fn beside_squad_what_must_not_be_interrupted_is_pinned() {
    let objects = example("squad");
    let toml = one(&objects, "ConfigMap", "ci-longshore")["data"]["longshore.toml"].clone();
    let config: toml::Table = toml.as_str().unwrap().parse().unwrap();
    let pool = |name: &str| config["pools"][name].clone();
    let queues = |name: &str| {
        let queues = pool(name)["queues"].as_array().unwrap().clone();
        queues
            .iter()
            .map(|queue| queue.as_str().unwrap().to_owned())
            .collect::<Vec<_>>()
    };
    assert_eq!(pool("fetch")["kind"].as_str(), Some("elastic"));
    assert_eq!(queues("fetch"), ["ci_fetch"]);
    assert_eq!(pool("postprocess")["kind"].as_str(), Some("pinned"));
    assert_eq!(
        queues("postprocess"),
        ["ci_fetch_postprocess", "longshore_postprocess"]
    );
    // SQUAD's workers take from the other one for as long as they run.
    assert_eq!(
        pool("fetch")["overrun_queue"].as_str(),
        Some("longshore_postprocess")
    );
}
