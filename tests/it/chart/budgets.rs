//! An eviction fails where two budgets match a pod, and nothing holds a drain where none matches a busy one.

use serde_json::Value;

use super::helm::{all, example, examples, kind, name, one, pods, workers};
use super::selector::{BUSY, Labels, busy, keys, labels, selects};

/// The names of the budgets that match a pod.
fn matching<'o>(objects: &'o [Value], labels: &Labels) -> Vec<&'o str> {
    all(objects, "PodDisruptionBudget")
        .into_iter()
        .filter(|budget| selects(&budget["spec"]["selector"], labels))
        .map(name)
        .collect()
}

#[test]
fn no_pod_can_match_two_budgets() {
    for example_name in examples() {
        let objects = example(&example_name);
        for pod in pods(&objects) {
            // The label may come to any pod: by a worker, or by hand.
            for labels in [labels(pod), busy(&labels(pod))] {
                let budgets = matching(&objects, &labels);
                assert!(budgets.len() <= 1, "{example_name}: {labels:?} {budgets:?}");
            }
        }
    }
}

#[test]
fn a_budget_that_overlaps_the_busy_one_would_be_found() {
    let mut objects = example("squad");
    for object in &mut objects {
        if kind(object) == "PodDisruptionBudget" {
            let selector = object["spec"]["selector"].as_object_mut().unwrap();
            selector.remove("matchExpressions");
        }
    }
    let fetch = labels(&one(&objects, "Deployment", "-fetch")["spec"]["template"]);
    let found = matching(&objects, &busy(&fetch));
    assert_eq!(found, ["ci-longshore-busy", "ci-longshore-fetch"]);
}

#[test]
fn a_pinned_pod_is_held_exactly_while_it_is_busy() {
    for example_name in ["all", "api", "embedded", "squad"] {
        let objects = example(example_name);
        let mut seen = 0;
        for pod in workers(&objects) {
            let labels = labels(pod);
            if labels["longshore.dev/kind"] == "pinned" {
                assert_eq!(matching(&objects, &labels), Vec::<&str>::new());
                let held = matching(&objects, &busy(&labels));
                assert!(held.len() == 1 && held[0].ends_with("-busy"), "{held:?}");
                seen += 1;
            }
        }
        assert_eq!(seen, 1, "{example_name}");
    }
    assert_eq!(
        all(&example("unaware"), "PodDisruptionBudget"),
        Vec::<&Value>::new()
    );
}

#[test]
fn the_busy_budget_allows_nothing_and_never_spares_unready_pods() {
    for (example_name, field, value) in [
        ("squad", "maxUnavailable", 0),
        ("all", "minAvailable", 2_147_483_647),
    ] {
        let objects = example(example_name);
        let budget = &one(&objects, "PodDisruptionBudget", "-busy")["spec"];
        assert_eq!(budget[field], value);
        assert_eq!(budget.get("unhealthyPodEvictionPolicy"), None);
        let mut named = keys(&budget["selector"]);
        named.sort_unstable();
        assert_eq!(named, ["app.kubernetes.io/instance", BUSY]);
    }
}

#[test]
fn nothing_but_budgets_selects_by_the_busy_label() {
    for object in examples().iter().flat_map(|name| example(name)) {
        let selectors: Vec<&Value> = match kind(&object) {
            "PodDisruptionBudget" => continue,
            "Service" => {
                let selector = object["spec"]["selector"].as_object().unwrap();
                assert!(!selector.contains_key(BUSY), "{object}");
                continue;
            }
            _ => vec![&object["spec"]["selector"], &object["spec"]["podSelector"]],
        };
        let template = &object["spec"]["template"];
        let spread = template["spec"]["topologySpreadConstraints"].as_array();
        let spread = spread
            .into_iter()
            .flatten()
            .map(|rule| &rule["labelSelector"]);
        for selector in selectors.into_iter().chain(spread) {
            assert!(!keys(selector).contains(&BUSY), "{object}");
        }
        // And no pod begins with it.
        assert_eq!(template["metadata"]["labels"].get(BUSY), None);
    }
}

#[test]
fn workloads_select_their_own_pods_alone() {
    let mut objects = example("all");
    objects.extend(
        super::helm::Helm::Four
            .render_as("other", "lab", &[&super::values("all")], &[])
            .unwrap(),
    );
    for workload in [all(&objects, "Deployment"), all(&objects, "StatefulSet")].concat() {
        let selector = &workload["spec"]["selector"];
        let own = labels(&workload["spec"]["template"]);
        let selected: Vec<Labels> = pods(&objects)
            .into_iter()
            .map(labels)
            .filter(|labels| selects(selector, labels))
            .collect();
        assert_eq!(selected, [own], "{}", name(workload));
    }
}
