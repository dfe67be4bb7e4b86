//! Which pods a label selector selects, as Kubernetes defines it.

use std::collections::BTreeMap;

use serde_json::Value;

/// The labels of a pod.
pub(super) type Labels = BTreeMap<String, String>;

/// The label of a pod that must not be interrupted.
pub(super) const BUSY: &str = "longshore.dev/busy";

/// The labels in an object's or a pod template's metadata.
pub(super) fn labels(object: &Value) -> Labels {
    let labels = &object["metadata"]["labels"];
    serde_json::from_value(labels.clone()).unwrap()
}

/// The same pod, busy.
pub(super) fn busy(labels: &Labels) -> Labels {
    let mut labels = labels.clone();
    labels.insert(BUSY.into(), "true".into());
    labels
}

/// Whether a `LabelSelector` selects a pod with these labels; an empty one selects every pod.
pub(super) fn selects(selector: &Value, labels: &Labels) -> bool {
    let empty = Vec::new();
    let equal = selector["matchLabels"]
        .as_object()
        .into_iter()
        .flatten()
        .all(|(key, value)| labels.get(key).map(String::as_str) == value.as_str());
    let expressions = selector["matchExpressions"].as_array().unwrap_or(&empty);
    equal
        && expressions
            .iter()
            .all(|expression| holds(expression, labels))
}

fn holds(expression: &Value, labels: &Labels) -> bool {
    let value = labels.get(expression["key"].as_str().unwrap());
    let listed = || {
        let values = expression["values"].as_array().unwrap();
        value.is_some_and(|value| values.iter().any(|one| one == value))
    };
    match expression["operator"].as_str().unwrap() {
        "In" => listed(),
        "NotIn" => !listed(),
        "Exists" => value.is_some(),
        "DoesNotExist" => value.is_none(),
        other => panic!("no operator of a label selector: {other}"),
    }
}

/// Every label that a selector names.
pub(super) fn keys(selector: &Value) -> Vec<&str> {
    let expressions = selector["matchExpressions"].as_array();
    let labels = selector["matchLabels"].as_object();
    let listed = expressions
        .into_iter()
        .flatten()
        .map(|expression| expression["key"].as_str().unwrap());
    labels
        .into_iter()
        .flatten()
        .map(|(key, _)| key.as_str())
        .chain(listed)
        .collect()
}
