//! Merge patches (RFC 7396) and the part of strategic merge patches that pods, nodes and budgets need.

use serde_json::{Map, Value};

/// RFC 7396: null removes, an object is merged, everything else replaces.
pub(super) fn merge(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    let target = object(target);
    for (name, value) in patch {
        if value.is_null() {
            target.shift_remove(name);
        } else {
            merge(target.entry(name).or_insert(Value::Null), value);
        }
    }
}

/// As a merge patch, but lists with a merge key are merged by it.
pub(super) fn strategic(target: &mut Value, patch: &Value) {
    let Value::Object(patch) = patch else {
        *target = patch.clone();
        return;
    };
    if patch.get("$patch").is_some_and(|how| how == "replace") {
        let mut whole = patch.clone();
        whole.shift_remove("$patch");
        *target = Value::Object(whole);
        return;
    }
    let target = object(target);
    for (name, value) in patch.iter().filter(|(name, _)| !name.starts_with('$')) {
        match (value, merge_key(name)) {
            (Value::Null, _) => {
                target.shift_remove(name);
            }
            (Value::Array(items), Some(key)) => {
                let list = target.entry(name).or_insert(Value::Array(Vec::new()));
                merge_list(list, items, key);
            }
            _ => strategic(target.entry(name).or_insert(Value::Null), value),
        }
    }
}

/// The merge keys of core/v1; lists that are not here (a node's taints, a pod's tolerations) are replaced whole.
fn merge_key(list: &str) -> Option<&'static str> {
    match list {
        "conditions" | "addresses" => Some("type"),
        "containers" | "initContainers" | "volumes" | "env" | "imagePullSecrets" => Some("name"),
        "ownerReferences" => Some("uid"),
        "volumeMounts" => Some("mountPath"),
        "ports" => Some("containerPort"),
        _ => None,
    }
}

fn merge_list(list: &mut Value, items: &[Value], key: &str) {
    if !list.is_array() {
        *list = Value::Array(Vec::new());
    }
    let Value::Array(list) = list else { return };
    for item in items {
        let at = list.iter().position(|old| old.get(key) == item.get(key));
        let deletes = item.get("$patch").is_some_and(|how| how == "delete");
        match (at, deletes) {
            (Some(at), true) => {
                list.remove(at);
            }
            (Some(at), false) => strategic(&mut list[at], item),
            (None, true) => {}
            (None, false) => list.push(item.clone()),
        }
    }
}

fn object(value: &mut Value) -> &mut Map<String, Value> {
    if !value.is_object() {
        *value = Value::Object(Map::new());
    }
    value.as_object_mut().expect("it has just become one")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_merge_patch_removes_by_null_and_replaces_lists() {
        let mut target = json!({"a": {"b": 1, "c": 2}, "list": [{"type": "x"}]});
        merge(
            &mut target,
            &json!({"a": {"b": null, "d": {"e": null}}, "list": [{"type": "y"}]}),
        );
        assert_eq!(
            target,
            json!({"a": {"c": 2, "d": {}}, "list": [{"type": "y"}]})
        );
    }

    #[test]
    fn a_strategic_patch_merges_conditions_by_type_and_replaces_taints() {
        let mut target = json!({
            "spec": {"taints": [{"key": "a"}]},
            "status": {"conditions": [{"type": "Ready", "status": "True", "reason": "r"}, {"type": "Old"}]},
        });
        let patch = json!({
            "spec": {"taints": [{"key": "b"}]},
            "status": {
                "$setElementOrder/conditions": [{"type": "Ready"}],
                "conditions": [
                    {"type": "Ready", "status": "False"},
                    {"type": "Old", "$patch": "delete"},
                    {"type": "New"},
                ],
            },
        });
        strategic(&mut target, &patch);
        let expected = json!({
            "spec": {"taints": [{"key": "b"}]},
            "status": {"conditions": [{"type": "Ready", "status": "False", "reason": "r"}, {"type": "New"}]},
        });
        assert_eq!(target, expected);
    }
}
