//! Alerts and dashboard: sound to Prometheus, and about metrics that a worker has.

use std::collections::BTreeSet;
use std::path::Path;

use regex::Regex;
use serde_json::Value;

use super::helm::{example, one, said, source, tool};
use crate::harness::Folder;

/// Every text like `longshore_…` in a text.
fn metrics(text: &str) -> BTreeSet<String> {
    let name = Regex::new(r"\blongshore_[a-z_]+[a-z]").unwrap();
    name.find_iter(text)
        .map(|found| found.as_str().to_owned())
        .collect()
}

/// All that the program's sources name in quotation marks.
fn written(folder: &Path, found: &mut BTreeSet<String>) {
    let quoted = Regex::new("\"(longshore_[a-z_]+)\"").unwrap();
    for entry in std::fs::read_dir(folder).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            written(&path, found);
        } else if path.extension().is_some_and(|extension| extension == "rs") {
            let text = std::fs::read_to_string(&path).unwrap();
            found.extend(quoted.captures_iter(&text).map(|name| name[1].to_owned()));
        }
    }
}

fn rules() -> Value {
    one(&example("squad"), "PrometheusRule", "")["spec"].clone()
}

fn dashboard() -> Value {
    let objects = example("squad");
    let data = one(&objects, "ConfigMap", "-dashboard")["data"]
        .as_object()
        .unwrap()
        .clone();
    serde_json::from_str(data.values().next().unwrap().as_str().unwrap()).unwrap()
}

#[test]
fn alerts_and_dashboard_are_about_metrics_that_a_worker_has() {
    let mut known = BTreeSet::new();
    written(&source("worker"), &mut known);
    assert!(known.len() > 10, "{known:?}");
    let text = rules().to_string() + &dashboard().to_string();
    let used: BTreeSet<String> = metrics(&text)
        .iter()
        .map(|name| name.strip_suffix("_bucket").unwrap_or(name).to_owned())
        .collect();
    assert!(used.len() > 10, "{used:?}");
    let unknown: Vec<&String> = used.difference(&known).collect();
    assert!(unknown.is_empty(), "{unknown:?}");
}

/// The metrics of the documentation's table, with their kinds.
fn listed() -> BTreeSet<(String, String)> {
    let text = std::fs::read_to_string(source("docs/kubernetes.md")).unwrap();
    let name = Regex::new(r"`(longshore_[a-z_]+)(\{[a-z,]+\})?`").unwrap();
    let rows = text
        .lines()
        .filter(|line| line.starts_with("| `longshore_"));
    rows.flat_map(|row| {
        let cells = row.split('|').map(str::trim).collect::<Vec<_>>();
        let names = name.captures_iter(cells[1]);
        names
            .map(|name| (name[1].to_owned(), cells[2].to_owned()))
            .collect::<Vec<_>>()
    })
    .collect()
}

/// The metrics that a text of the program makes or, with `describe_`, describes, with their kinds.
fn made(text: &str, prefix: &str) -> BTreeSet<(String, String)> {
    let call = format!(r#"\b{prefix}(gauge|counter|histogram)!\(\s*"(longshore_[a-z_]+)""#);
    let call = Regex::new(&call).unwrap();
    let found = call.captures_iter(text);
    found
        .map(|call| (call[2].to_owned(), call[1].to_owned()))
        .collect()
}

fn program(folder: &Path) -> String {
    let entries = std::fs::read_dir(folder).unwrap();
    let texts = entries.map(|entry| {
        let path = entry.unwrap().path();
        match path.extension() {
            Some(extension) if extension == "rs" => std::fs::read_to_string(&path).unwrap(),
            _ if path.is_dir() => program(&path),
            _ => String::new(),
        }
    });
    texts.collect()
}

#[test]
fn the_documentation_lists_each_metric_that_a_worker_has() {
    let text = program(&source("worker"));
    let made_at_all = made(&text, "metrics::");
    assert!(made_at_all.len() > 10, "{made_at_all:?}");
    assert_eq!(listed(), made_at_all);
    assert_eq!(made(&text, "describe_"), made_at_all);
}

#[test]
fn each_alert_says_what_to_do() {
    let rules = rules();
    for alert in rules["groups"][0]["rules"].as_array().unwrap() {
        let annotations = &alert["annotations"];
        assert!(
            annotations["summary"].as_str().unwrap().len() > 20,
            "{alert}"
        );
        assert!(
            annotations["description"].as_str().unwrap().len() > 80,
            "{alert}"
        );
        let runbook = annotations["runbook_url"].as_str().unwrap();
        assert!(
            runbook.ends_with(alert["alert"].as_str().unwrap()),
            "{runbook}"
        );
        assert!(
            ["info", "warning", "critical"]
                .contains(&alert["labels"]["severity"].as_str().unwrap())
        );
    }
}

/// What promtool is to find: a busy pod on a cordoned node, beside one that is busy alone; a queue that stands
/// still, beside one that moves; a pod's first dead letter and another's fifth, for an hour; a drain that ends in ten
/// seconds; an api without a ready pod, until it is not meant to have any; of two bundles one with workers that are late,
/// frozen until 40 minutes after the start, and one without.
const SCENE: &str = r#"
rule_files: [rules.yaml]
evaluation_interval: 1m
tests:
  - interval: 1m
    input_series:
      - {series: 'longshore_busy{job="lab/ci-longshore",pod="held"}', values: '1x60'}
      - {series: 'longshore_quiet{job="lab/ci-longshore",pod="held"}', values: '1x60'}
      - {series: 'longshore_busy{job="lab/ci-longshore",pod="free"}', values: '1x60'}
      - {series: 'longshore_quiet{job="lab/ci-longshore",pod="free"}', values: '0x60'}
      - {series: 'longshore_queue_depth{job="lab/ci-longshore",queue="still"}', values: '3x100'}
      - {series: 'longshore_queue_depth{job="lab/ci-longshore",queue="moves"}', values: '3x100'}
      - {series: 'longshore_tasks_total{job="lab/ci-longshore",queue="moves",name="n",outcome="succeeded"}', values: '0+1x100'}
      - {series: 'longshore_tasks_total{job="lab/ci-longshore",queue="q",name="first",outcome="dead"}', values: '_x10 1x100'}
      - {series: 'longshore_tasks_total{job="lab/ci-longshore",queue="q",name="again",outcome="dead"}', values: '4x10 5x100'}
      - {series: 'longshore_draining{job="lab/ci-longshore",pod="late"}', values: '1x60'}
      - {series: 'longshore_drain_deadline_timestamp_seconds{job="lab/ci-longshore",pod="late"}', values: '610x60'}
      - {series: 'longshore_draining{job="lab/ci-longshore",pod="no-deadline"}', values: '1x60'}
      - {series: 'longshore_drain_deadline_timestamp_seconds{job="lab/ci-longshore",pod="no-deadline"}', values: '0x60'}
      - {series: 'longshore_bundle_late_workers{job="lab/ci-longshore",bundle="lags",pod="a"}', values: '2x60'}
      - {series: 'longshore_bundle_late_workers{job="lab/ci-longshore",bundle="lags",pod="b"}', values: '1x60'}
      - {series: 'longshore_bundle_late_workers{job="lab/ci-longshore",bundle="even",pod="a"}', values: '0x60'}
      - {series: 'longshore_bundle_refused{job="lab/ci-longshore",pod="a"}', values: '1x60'}
      - {series: 'longshore_bundle_refused{job="lab/ci-longshore",pod="b"}', values: '0x60'}
      - {series: 'longshore_bundle_needs_restart{job="lab/ci-longshore",pod="a"}', values: '0x60'}
      - {series: 'longshore_bundle_needs_restart{job="lab/ci-longshore",pod="b"}', values: '1x60'}
      - {series: 'longshore_bundle_freeze_end_timestamp_seconds{job="lab/ci-longshore",bundle="lags",pod="a"}', values: '2400x100'}
      - {series: 'longshore_bundle_freeze_end_timestamp_seconds{job="lab/ci-longshore",bundle="lags",pod="b"}', values: '2400x100'}
      - {series: 'longshore_bundle_freeze_end_timestamp_seconds{job="lab/ci-longshore",bundle="even",pod="a"}', values: '0x100'}
      - {series: 'kube_deployment_status_replicas_available{namespace="lab",deployment="ci-longshore-api"}', values: '0x60'}
      - {series: 'kube_deployment_spec_replicas{namespace="lab",deployment="ci-longshore-api"}', values: '2x20 0x40'}
    promql_expr_test:
      - expr: count by (deployment) (ALERTS{alertname="LongshoreApiDown",alertstate="firing"})
        eval_time: 10m
        exp_samples: [{labels: '{deployment="ci-longshore-api"}', value: 1}]
      - expr: ALERTS{alertname="LongshoreApiDown"}
        eval_time: 30m
      - expr: ALERTS{alertname="LongshoreBusyPodHoldsNode",alertstate="firing"}
        eval_time: 29m
      - expr: count by (pod) (ALERTS{alertname="LongshoreBusyPodHoldsNode",alertstate="firing"})
        eval_time: 31m
        exp_samples: [{labels: '{pod="held"}', value: 1}]
      - expr: count by (queue) (ALERTS{alertname="LongshorePoolStandsStill",alertstate="firing"})
        eval_time: 70m
        exp_samples: [{labels: '{queue="still"}', value: 1}]
      - expr: ALERTS{alertname="LongshoreBundleLate",alertstate="firing"}
        eval_time: 4m
      - expr: count by (bundle) (ALERTS{alertname="LongshoreBundleLate",alertstate="firing"})
        eval_time: 6m
        exp_samples: [{labels: '{bundle="lags"}', value: 1}]
      - expr: count by (pod) (ALERTS{alertname="LongshoreBundleRefused",alertstate="firing"})
        eval_time: 2m
        exp_samples: [{labels: '{pod="a"}', value: 1}]
      - expr: count by (pod) (ALERTS{alertname="LongshoreBundleNeedsRestart",alertstate="firing"})
        eval_time: 6m
        exp_samples: [{labels: '{pod="b"}', value: 1}]
      - expr: ALERTS{alertname=~"LongshoreFreeze.+"}
        eval_time: 9m
      - expr: count by (alertname, bundle) (ALERTS{alertname=~"LongshoreFreeze.+"})
        eval_time: 11m
        exp_samples: [{labels: '{alertname="LongshoreFreezeEndsSoon",bundle="lags"}', value: 1}]
      - expr: count by (alertname, bundle) (ALERTS{alertname=~"LongshoreFreeze.+"})
        eval_time: 40m
        exp_samples: [{labels: '{alertname="LongshoreFreezeOver",bundle="lags"}', value: 1}]
      - expr: ALERTS{alertname=~"LongshoreFreeze.+"}
        eval_time: 55m
      - expr: count by (name) (ALERTS{alertname="LongshoreDeadLetters"})
        eval_time: 21m
        exp_samples: [{labels: '{name="again"}', value: 1}, {labels: '{name="first"}', value: 1}]
      - expr: ALERTS{alertname="LongshoreDeadLetters"}
        eval_time: 90m
      - expr: ALERTS{alertname="LongshoreDrainNearDeadline"}
        eval_time: 9m
      - expr: count by (pod) (ALERTS{alertname="LongshoreDrainNearDeadline"})
        eval_time: 10m
        exp_samples: [{labels: '{pod="late"}', value: 1}]
"#;

#[test]
fn prometheus_accepts_the_alerts_and_they_fire_when_they_should() {
    let folder = Folder::new();
    std::fs::write(folder.join("rules.yaml"), rules().to_string()).unwrap();
    std::fs::write(folder.join("scene.yaml"), SCENE).unwrap();
    for (verb, file) in [("check", "rules.yaml"), ("test", "scene.yaml")] {
        let output = tool("promtool")
            .args([verb, "rules"])
            .arg(folder.join(file))
            .output()
            .unwrap();
        assert!(output.status.success(), "{}", said(&output));
    }
}

#[test]
fn the_dashboards_queries_are_sound() {
    let dashboard = dashboard();
    let panels = dashboard["panels"].as_array().unwrap();
    assert!(panels.len() > 10);
    let mut groups = String::new();
    for (number, target) in panels
        .iter()
        .flat_map(|panel| panel["targets"].as_array().unwrap())
        .enumerate()
    {
        let expression = target["expr"]
            .as_str()
            .unwrap()
            .replace("$__rate_interval", "5m");
        assert!(expression.contains("lab/ci-longshore"), "{expression}");
        groups += &format!("  - {{record: 'r:{number}', expr: '{expression}'}}\n");
    }
    let folder = Folder::new();
    std::fs::write(
        folder.join("rules.yaml"),
        format!("groups:\n- name: x\n  rules:\n{groups}"),
    )
    .unwrap();
    let output = tool("promtool")
        .args(["check", "rules"])
        .arg(folder.join("rules.yaml"))
        .output()
        .unwrap();
    assert!(output.status.success(), "{}", said(&output));
}
