//! Kombu's envelopes for what JSON lacks: `{"__type__": …, "__value__": …}`.
//!
//! Binary data (`bytes` as text, `base64`) is translated; envelopes of other types (`datetime`,
//! `decimal`, `uuid`, …) stay as they are, so that they reach a Python worker as they left.

use base64::{Engine, prelude::BASE64_STANDARD};
use serde_json::{Map, Value, json};

use crate::codec::value;

/// Kombu's binary envelopes → `{"$bytes": …}`, at any depth.
pub(in crate::codec) fn from_envelopes(value: &mut Value) {
    replace(value, &|map| match (kind(map)?, map.get("__value__")?) {
        ("bytes", Value::String(text)) => Some(value::from_bytes(text.as_bytes())),
        ("base64", Value::String(text)) => {
            let bytes = BASE64_STANDARD.decode(text).ok()?;
            Some(value::from_bytes(&bytes))
        }
        _ => None,
    });
}

/// `{"$bytes": …}` → Kombu's binary envelope, at any depth.
pub(in crate::codec) fn to_envelopes(value: &mut Value) {
    replace(value, &|map| {
        let text = value::base64_of(map)?;
        Some(json!({"__type__": "base64", "__value__": text}))
    });
}

/// Puts what `with` says in the place of each map that it says something about.
fn replace(value: &mut Value, with: &dyn Fn(&Map<String, Value>) -> Option<Value>) {
    match value {
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => {}
        Value::Array(items) => items.iter_mut().for_each(|item| replace(item, with)),
        Value::Object(map) => match with(map) {
            Some(replacement) => *value = replacement,
            None => map.values_mut().for_each(|item| replace(item, with)),
        },
    }
}

fn kind(map: &Map<String, Value>) -> Option<&str> {
    map.get("__type__").filter(|_| map.len() == 2)?.as_str()
}
