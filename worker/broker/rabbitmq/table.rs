//! AMQP header tables ↔ JSON. What JSON cannot say is kept as the nearest it can.

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use lapin::types::{AMQPValue, FieldArray, FieldTable};
use serde_json::{Map, Value, json};

/// How deep tables may nest; deeper values are null.
const MAX_DEPTH: usize = 16;

/// A message's headers.
pub(super) fn from_amqp(table: &FieldTable) -> Map<String, Value> {
    object(table, 0)
}

fn object(table: &FieldTable, depth: usize) -> Map<String, Value> {
    table
        .inner()
        .iter()
        .map(|(key, item)| (key.to_string(), value(item, depth)))
        .collect()
}

fn value(item: &AMQPValue, depth: usize) -> Value {
    if depth > MAX_DEPTH {
        return Value::Null;
    }
    match item {
        AMQPValue::Boolean(item) => json!(item),
        AMQPValue::ShortShortInt(item) => json!(item),
        AMQPValue::ShortShortUInt(item) => json!(item),
        AMQPValue::ShortInt(item) => json!(item),
        AMQPValue::ShortUInt(item) => json!(item),
        AMQPValue::LongInt(item) => json!(item),
        AMQPValue::LongUInt(item) => json!(item),
        AMQPValue::LongLongInt(item) => json!(item),
        AMQPValue::Timestamp(item) => json!(item),
        AMQPValue::Float(item) => json!(item),
        AMQPValue::Double(item) => json!(item),
        AMQPValue::DecimalValue(item) => {
            json!(f64::from(item.value) / 10f64.powi(i32::from(item.scale)))
        }
        AMQPValue::ShortString(item) => json!(item.as_str()),
        AMQPValue::LongString(item) => json!(String::from_utf8_lossy(item.as_bytes())),
        AMQPValue::FieldArray(item) => item
            .as_slice()
            .iter()
            .map(|item| value(item, depth + 1))
            .collect(),
        AMQPValue::FieldTable(item) => Value::Object(object(item, depth + 1)),
        AMQPValue::ByteArray(item) => json!({ "$bytes": STANDARD.encode(item.as_slice()) }),
        AMQPValue::Void => Value::Null,
    }
}

/// Headers for a message.
pub(super) fn to_amqp(headers: &Map<String, Value>) -> FieldTable {
    let mut table = FieldTable::default();
    for (key, item) in headers {
        table.insert(key.as_str().into(), amqp(item));
    }
    table
}

fn amqp(item: &Value) -> AMQPValue {
    match item {
        Value::Null => AMQPValue::Void,
        Value::Bool(item) => AMQPValue::Boolean(*item),
        Value::Number(item) => match (item.as_i64(), item.as_f64()) {
            (Some(item), _) => AMQPValue::LongLongInt(item),
            (None, item) => AMQPValue::Double(item.unwrap_or_default()),
        },
        Value::String(item) => AMQPValue::LongString(item.as_str().into()),
        Value::Array(items) => {
            AMQPValue::FieldArray(FieldArray::from(items.iter().map(amqp).collect::<Vec<_>>()))
        }
        Value::Object(items) => AMQPValue::FieldTable(to_amqp(items)),
    }
}
