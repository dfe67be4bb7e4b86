//! What `kubectl get` shows of nodes and pods; of other kinds it makes its own columns.

use serde_json::{Value, json};

use super::kind::Kind;
use super::state::is_ready;

pub(super) fn one(kind: &Kind, object: &Value) -> Option<Value> {
    many(kind, &[object], &json!({}))
}

pub(super) fn many(kind: &Kind, objects: &[&Value], meta: &Value) -> Option<Value> {
    let columns = match kind.plural {
        "nodes" => &["Name", "Status"][..],
        "pods" => &["Name", "Ready", "Status"],
        _ => return None,
    };
    let cells = if kind.plural == "nodes" { node } else { pod };
    let columns: Vec<Value> = columns
        .iter()
        .map(|name| json!({"name": name, "type": "string", "format": "", "description": "", "priority": 0}))
        .collect();
    let rows: Vec<Value> = objects
        .iter()
        .map(|object| {
            json!({
                "cells": cells(object),
                "object": {
                    "kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"],
                },
            })
        })
        .collect();
    Some(json!({
        "kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": meta, "columnDefinitions": columns, "rows": rows,
    }))
}

fn name(object: &Value) -> String {
    object["metadata"]["name"]
        .as_str()
        .unwrap_or_default()
        .into()
}

fn node(node: &Value) -> Vec<String> {
    let mut status = String::from(if is_ready(node) { "Ready" } else { "NotReady" });
    if node["spec"]["unschedulable"] == true {
        status.push_str(",SchedulingDisabled");
    }
    vec![name(node), status]
}

fn pod(pod: &Value) -> Vec<String> {
    let ready = if is_ready(pod) { "1/1" } else { "0/1" };
    let status = if pod["metadata"]["deletionTimestamp"].is_null() {
        pod["status"]["phase"].as_str().unwrap_or_default()
    } else {
        "Terminating"
    };
    vec![name(pod), ready.into(), status.into()]
}
