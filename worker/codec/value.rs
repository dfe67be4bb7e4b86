//! Bodies → JSON values, within [`MAX_DEPTH`] and [`MAX_VALUES`], whatever the bytes say about
//! themselves.
//!
//! JSON and YAML go through one serde visitor that counts as it builds; msgpack has a reader of its
//! own, which counts the same way.

use std::{cell::Cell, fmt};

use base64::{Engine, prelude::BASE64_STANDARD};
use serde::de::{DeserializeSeed, EnumAccess, MapAccess, SeqAccess, VariantAccess, Visitor};
use serde_json::{Map, Value};

use super::{MAX_BODY, MAX_DEPTH, MAX_VALUES, Place, Unreadable};

mod msgpack;

/// The largest YAML body, in bytes: the parser keeps about a hundred bytes for each byte of it.
const MAX_YAML: usize = 1024 * 1024;

/// The most work that YAML's `[` and `{` may cause: the parser looks at every open one at each
/// token, so it takes a time of (openings × bytes).
const MAX_YAML_WORK: usize = 512 * 1024 * 1024;

/// The one key of a binary value, `{"$bytes": "<base64>"}`.
const BYTES: &str = "$bytes";

/// What a body is written in.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Format {
    /// RFC 8259, plus Python's `NaN`, `Infinity` and `-Infinity`.
    Json,
    /// The msgpack specification of 2017 (with `bin`, `ext` and timestamps).
    Msgpack,
    /// One YAML document, by YAML 1.2: the texts `1e3` and `0o7`, which PyYAML (1.1) leaves without
    /// quotes, are read as numbers.
    Yaml,
}

/// Reads one value from the whole of `body`.
pub(super) fn read(format: Format, body: &[u8]) -> Result<Value, Unreadable> {
    match format {
        Format::Json => json(body),
        Format::Msgpack => msgpack::read(body, &Budget::full()),
        Format::Yaml => yaml(body),
    }
}

/// Writes one value as msgpack.
pub(super) fn write_msgpack(value: &Value) -> Vec<u8> {
    let mut body = Vec::new();
    msgpack::write(value, &mut body);
    body
}

/// Reads JSON, the whole of `text`.
pub(super) fn json(text: &[u8]) -> Result<Value, Unreadable> {
    match strict_json(text) {
        Err(error @ Unreadable::Syntax { .. }) => match quote_non_finite(text) {
            Some(mended) => strict_json(&mended).map_err(|_| error),
            None => Err(error),
        },
        result => result,
    }
}

/// The binary value with these bytes.
pub(super) fn from_bytes(bytes: &[u8]) -> Value {
    let mut map = Map::with_capacity(1);
    map.insert(BYTES.to_owned(), BASE64_STANDARD.encode(bytes).into());
    Value::Object(map)
}

/// The base64 text of a binary value; `None` if `map` is none.
pub(super) fn base64_of(map: &Map<String, Value>) -> Option<&str> {
    let text = map.get(BYTES).filter(|_| map.len() == 1)?.as_str()?;
    BASE64_STANDARD.decode(text).is_ok().then_some(text)
}

/// `number`, or its name where JSON has no such number.
fn from_f64(number: f64) -> Value {
    match serde_json::Number::from_f64(number) {
        Some(number) => Value::Number(number),
        None if number.is_nan() => "NaN".into(),
        None if number > 0.0 => "Infinity".into(),
        None => "-Infinity".into(),
    }
}

/// A map's key as text: Python's JSON encoder writes keys the same way.
fn key_text(key: Value) -> String {
    match key {
        Value::String(text) => text,
        Value::Object(map) => base64_of(&map)
            .and_then(|text| BASE64_STANDARD.decode(text).ok())
            .and_then(|bytes| String::from_utf8(bytes).ok())
            .unwrap_or_else(|| Value::Object(map).to_string()),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::Array(_) => key.to_string(),
    }
}

fn strict_json(text: &[u8]) -> Result<Value, Unreadable> {
    let budget = Budget::full();
    let mut parser = serde_json::Deserializer::from_slice(text);
    let result = Seed::root(&budget).deserialize(&mut parser);
    let result = result.and_then(|value| parser.end().map(|()| value));
    result.map_err(|error| {
        let place = Place::Line {
            line: error.line(),
            column: error.column(),
        };
        budget.reason("JSON", &error, place)
    })
}

/// `text` with Python's names for numbers that are not finite made strings; `None` if it has none.
fn quote_non_finite(text: &[u8]) -> Option<Vec<u8>> {
    const NAMES: [&[u8]; 3] = [b"NaN", b"Infinity", b"-Infinity"];
    let mut mended = Vec::with_capacity(text.len() + 64);
    let mut found = false;
    let mut in_string = false;
    let mut rest = text;
    while let Some((&byte, after)) = rest.split_first() {
        let name = NAMES.iter().find(|name| rest.starts_with(name));
        match (in_string, byte, name) {
            (false, _, Some(name)) => {
                mended.push(b'"');
                mended.extend_from_slice(name);
                mended.push(b'"');
                rest = rest.get(name.len()..).unwrap_or_default();
                found = true;
                continue;
            }
            (true, b'\\', _) => {
                let pair = rest.get(..2).unwrap_or(rest);
                mended.extend_from_slice(pair);
                rest = rest.get(pair.len()..).unwrap_or_default();
                continue;
            }
            (_, b'"', _) => in_string = !in_string,
            _ => {}
        }
        mended.push(byte);
        rest = after;
    }
    found.then_some(mended)
}

fn yaml(body: &[u8]) -> Result<Value, Unreadable> {
    if body.len() > MAX_YAML {
        return Err(Unreadable::TooLarge {
            what: "the YAML body",
            limit: MAX_YAML,
        });
    }
    let openings = body.iter().filter(|byte| matches!(byte, b'[' | b'{'));
    if openings.count() * body.len() > MAX_YAML_WORK {
        return Err(Unreadable::Syntax {
            format: "YAML that may be read",
            reason: "too many `[` and `{` for its size; send JSON or msgpack".to_owned(),
            place: Place::Unknown,
        });
    }
    let syntax = |reason: String, place| Unreadable::Syntax {
        format: "YAML",
        reason,
        place,
    };
    let text = std::str::from_utf8(body)
        .map_err(|error| syntax("no UTF-8".to_owned(), Place::Byte(error.valid_up_to())))?;
    let (text, added) = with_local_tags(text);
    let budget = Budget::full();
    let parser = serde_norway::Deserializer::from_str(&text);
    Seed::root(&budget).deserialize(parser).map_err(|error| {
        let place = error.location().map_or(Place::Unknown, |at| Place::Line {
            line: at.line().saturating_sub(added),
            column: at.column(),
        });
        budget.reason("YAML", &error, place)
    })
}

/// `text` with YAML's own tags (`!!binary`) made local ones (`!binary`), which the parser hands on
/// where it hides the former; and how many lines that put in front.
fn with_local_tags(text: &str) -> (std::borrow::Cow<'_, str>, usize) {
    if !text.contains("!!binary") || text.starts_with(['%', '\u{feff}']) {
        return (text.into(), 0);
    }
    if text.starts_with("---") {
        return (format!("%TAG !! !\n{text}").into(), 1);
    }
    (format!("%TAG !! !\n---\n{text}").into(), 2)
}

/// Which limit a body exceeds.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Excess {
    Depth,
    Values,
    Text,
}

impl Excess {
    fn at(self, format: &'static str, place: Place) -> Unreadable {
        match self {
            Self::Depth => Unreadable::TooDeep { format, place },
            Self::Values => Unreadable::TooMany { format, place },
            Self::Text => Unreadable::TooLarge {
                what: "the text in the body, aliases resolved,",
                limit: MAX_BODY,
            },
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Depth => "too deep",
            Self::Values => "too many values",
            Self::Text => "too much text",
        })
    }
}

/// What one body may still hold. Shared by all values in it; remembers what it refused, because
/// serde's errors carry only text.
struct Budget {
    values: Cell<usize>,
    /// Bytes of text, which a YAML alias can repeat.
    text: Cell<usize>,
    refused: Cell<Option<Excess>>,
}

impl Budget {
    fn full() -> Self {
        Self {
            values: Cell::new(MAX_VALUES),
            text: Cell::new(MAX_BODY),
            refused: Cell::new(None),
        }
    }

    /// Counts one value.
    fn take(&self) -> Result<(), Excess> {
        let left = self.values.get().checked_sub(1);
        let left = left.ok_or_else(|| self.refuse(Excess::Values))?;
        self.values.set(left);
        Ok(())
    }

    /// Counts the bytes of a text.
    fn take_text(&self, bytes: usize) -> Result<(), Excess> {
        let left = self.text.get().checked_sub(bytes);
        let left = left.ok_or_else(|| self.refuse(Excess::Text))?;
        self.text.set(left);
        Ok(())
    }

    /// The depth of what is within an array or a map that is itself within `depth` others.
    fn deeper(&self, depth: usize) -> Result<usize, Excess> {
        if depth < MAX_DEPTH {
            Ok(depth + 1)
        } else {
            Err(self.refuse(Excess::Depth))
        }
    }

    fn refuse(&self, excess: Excess) -> Excess {
        self.refused.set(Some(excess));
        excess
    }

    /// Why reading failed: what was refused, or else what the parser said.
    fn reason(
        &self,
        format: &'static str,
        error: &dyn std::error::Error,
        place: Place,
    ) -> Unreadable {
        match self.refused.get() {
            Some(excess) => excess.at(format, place),
            None => Unreadable::Syntax {
                format,
                reason: error.to_string(),
                place,
            },
        }
    }
}

/// Builds one value out of whatever a serde parser finds.
#[derive(Clone, Copy)]
struct Seed<'b> {
    budget: &'b Budget,
    depth: usize,
}

impl<'b> Seed<'b> {
    fn root(budget: &'b Budget) -> Self {
        Self { budget, depth: 0 }
    }

    fn inner<E: serde::de::Error>(self) -> Result<Self, E> {
        let depth = self.budget.deeper(self.depth).map_err(E::custom)?;
        Ok(Self { depth, ..self })
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, parser: D) -> Result<Value, D::Error> {
        self.budget.take().map_err(serde::de::Error::custom)?;
        parser.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_none<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i64<E>(self, value: i64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_u64<E>(self, value: u64) -> Result<Value, E> {
        Ok(value.into())
    }

    fn visit_i128<E>(self, value: i128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_u128<E>(self, value: u128) -> Result<Value, E> {
        Ok(value.to_string().into())
    }

    fn visit_f64<E>(self, value: f64) -> Result<Value, E> {
        Ok(from_f64(value))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.budget.take_text(value.len()).map_err(E::custom)?;
        Ok(value.into())
    }

    fn visit_bytes<E>(self, value: &[u8]) -> Result<Value, E> {
        Ok(from_bytes(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut items: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut array = Vec::new();
        while let Some(item) = items.next_element_seed(inner)? {
            array.push(item);
        }
        Ok(Value::Array(array))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut entries: A) -> Result<Value, A::Error> {
        let inner = self.inner()?;
        let mut map = Map::new();
        while let Some(key) = entries.next_key_seed(inner)? {
            map.insert(key_text(key), entries.next_value_seed(inner)?);
        }
        Ok(Value::Object(map))
    }

    /// A value with a YAML tag of its own: binary data, or the value without the tag.
    fn visit_enum<A: EnumAccess<'de>>(self, tagged: A) -> Result<Value, A::Error> {
        let (tag, inner) = tagged.variant::<String>()?;
        let value = inner.newtype_variant_seed(self)?;
        if tag == "binary"
            && let Value::String(text) = &value
        {
            let text: String = text.split_whitespace().collect();
            if let Ok(bytes) = BASE64_STANDARD.decode(text) {
                return Ok(from_bytes(&bytes));
            }
        }
        Ok(value)
    }
}

#[cfg(test)]
mod tests;
