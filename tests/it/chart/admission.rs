//! The admission policy's expressions, evaluated: a worker reaches its own pod and no other.

use serde_json::{Value, json};

use super::helm::{example, one, python, said};

const ACCOUNT: &str = "system:serviceaccount:lab:ci-longshore";
const BUSY: &str = "longshore.dev/busy";
const COST: &str = "controller.kubernetes.io/pod-deletion-cost";

const ALLOWED: &str = "allowed";
const OTHER_POD: &str = "a worker changes no pod but its own";
const OTHER_LABEL: &str = "a worker changes no label but longshore.dev/busy";
const OTHER_NOTE: &str =
    "a worker changes no annotation but controller.kubernetes.io/pod-deletion-cost";
const OTHER_FIELD: &str = "a worker changes neither a pod's spec nor its owners";

fn pod() -> Value {
    json!({
        "metadata": {
            "name": "own",
            "labels": {"app": "x", BUSY: "true"},
            "annotations": {"a": "b"},
            "ownerReferences": [{"uid": "1"}],
        },
        "spec": {"nodeName": "n"},
    })
}

/// An update of the pod `own` by the pod `caller` of a user: at the path the value, or nothing for null.
fn update(user: &str, caller: &str, path: &[&str], value: &Value) -> Value {
    let mut changed = pod();
    if let Some((key, parents)) = path.split_last() {
        let table = parents.iter().fold(&mut changed, |at, key| &mut at[*key]);
        let table = table.as_object_mut().unwrap();
        if value.is_null() {
            table.remove(*key);
        } else {
            table.insert((*key).into(), value.clone());
        }
    }
    let extra = json!({"authentication.kubernetes.io/pod-name": [caller]});
    json!({
        "request": {"userInfo": {"username": user, "extra": extra}},
        "object": changed,
        "oldObject": pod(),
    })
}

/// Updates of a worker's own pod, and what becomes of them.
fn own_updates() -> Vec<(Value, &'static str)> {
    let nothing = Value::Null;
    let text = json!("y");
    let none = json!([]);
    let cases: [(&[&str], &Value, &str); 12] = [
        (&[], &nothing, ALLOWED),
        (&["metadata", "labels", BUSY], &text, ALLOWED),
        (&["metadata", "labels", BUSY], &nothing, ALLOWED),
        (&["metadata", "annotations", COST], &text, ALLOWED),
        (&["metadata", "labels", "app"], &text, OTHER_LABEL),
        (&["metadata", "labels", "new"], &text, OTHER_LABEL),
        (&["metadata", "labels", "app"], &nothing, OTHER_LABEL),
        (&["metadata", "annotations", "new"], &text, OTHER_NOTE),
        (&["metadata", "annotations"], &nothing, OTHER_NOTE),
        (&["spec", "nodeName"], &text, OTHER_FIELD),
        (&["metadata", "ownerReferences"], &none, OTHER_FIELD),
        (&["metadata", "ownerReferences"], &nothing, OTHER_FIELD),
    ];
    cases
        .into_iter()
        .map(|(path, value, answer)| (update(ACCOUNT, "own", path, value), answer))
        .collect()
}

#[test]
fn a_worker_changes_its_own_pod_alone_and_only_what_it_writes() {
    let plain = |user: &str, caller: &str| update(user, caller, &[], &Value::Null);
    let mut anonymous = plain(ACCOUNT, "own");
    let user = anonymous["request"]["userInfo"].as_object_mut().unwrap();
    user.remove("extra");
    let mut cases = own_updates();
    cases.extend([
        (plain(ACCOUNT, "sibling"), OTHER_POD),
        (anonymous, OTHER_POD),
        (
            plain("system:serviceaccount:lab:other", "sibling"),
            "not matched",
        ),
        (plain("kubernetes-admin", ""), "not matched"),
    ]);
    let objects = example("squad");
    let policy = one(&objects, "ValidatingAdmissionPolicy", ".self");
    let requests: Vec<&Value> = cases.iter().map(|(request, _)| request).collect();
    let input = json!({"policy": policy, "requests": requests}).to_string();
    let output = python("admission.py", &[], &input);
    assert!(output.status.success(), "{}", said(&output));
    let answers = String::from_utf8(output.stdout).unwrap();
    let expected: Vec<&str> = cases.iter().map(|(_, answer)| *answer).collect();
    assert_eq!(answers.lines().collect::<Vec<_>>(), expected);
    let binding = &one(&objects, "ValidatingAdmissionPolicyBinding", ".self")["spec"];
    assert_eq!(binding["policyName"], policy["metadata"]["name"]);
    assert_eq!(binding["validationActions"], json!(["Deny"]));
}
