//! Msgpack ↔ JSON values, by <https://github.com/msgpack/msgpack/blob/master/spec.md>.
//!
//! Never allocates by a length that the body claims: an array's or a map's length is first held
//! against the bytes that are left.

use serde_json::{Map, Value};

use super::{Budget, Excess, Place, Unreadable, from_bytes, from_f64, key_text};
use crate::codec::moment;

/// The extension type of timestamps.
const TIMESTAMP: i8 = -1;

/// Reads one value from the whole of `body`.
pub(super) fn read(body: &[u8], budget: &Budget) -> Result<Value, Unreadable> {
    let mut reader = Reader {
        rest: body,
        size: body.len(),
        budget,
    };
    let value = reader.value(0)?;
    if reader.rest.is_empty() {
        Ok(value)
    } else {
        Err(reader.wrong("more bytes after the end of the value"))
    }
}

/// Writes one value, always in the longest form of its kind: what is written is read by machines and small.
pub(super) fn write(value: &Value, body: &mut Vec<u8>) {
    let sized = |body: &mut Vec<u8>, marker: u8, size: usize| {
        body.push(marker);
        // What does not fit would be beyond any body's bound.
        body.extend(u32::try_from(size).unwrap_or(u32::MAX).to_be_bytes());
    };
    let text = |body: &mut Vec<u8>, text: &str| {
        sized(body, 0xdb, text.len());
        body.extend(text.as_bytes());
    };
    match value {
        Value::Null => body.push(0xc0),
        Value::Bool(flag) => body.push(if *flag { 0xc3 } else { 0xc2 }),
        Value::Number(number) => {
            if let Some(number) = number.as_i64() {
                body.push(0xd3);
                body.extend(number.to_be_bytes());
            } else if let Some(number) = number.as_u64() {
                body.push(0xcf);
                body.extend(number.to_be_bytes());
            } else {
                body.push(0xcb);
                body.extend(number.as_f64().unwrap_or_default().to_be_bytes());
            }
        }
        Value::String(string) => text(body, string),
        Value::Array(items) => {
            sized(body, 0xdd, items.len());
            items.iter().for_each(|item| write(item, body));
        }
        Value::Object(map) => {
            sized(body, 0xdf, map.len());
            for (key, item) in map {
                text(body, key);
                write(item, body);
            }
        }
    }
}

/// The unread part of a body.
struct Reader<'b> {
    rest: &'b [u8],
    size: usize,
    budget: &'b Budget,
}

impl<'b> Reader<'b> {
    /// Reads a value that is within `depth` arrays and maps.
    fn value(&mut self, depth: usize) -> Result<Value, Unreadable> {
        let place = self.place();
        self.budget.take().map_err(|excess| at(excess, place))?;
        Ok(match self.byte()? {
            small @ 0x00..=0x7f => small.into(),
            0xc0 => Value::Null,
            0xc1 => return Err(wrong("the byte 0xc1, which begins nothing,", place)),
            0xc2 => false.into(),
            0xc3 => true.into(),
            0xca => from_f64(f64::from(f32::from_be_bytes(self.array()?))),
            0xcb => from_f64(f64::from_be_bytes(self.array()?)),
            0xcc => u8::from_be_bytes(self.array()?).into(),
            0xcd => u16::from_be_bytes(self.array()?).into(),
            0xce => u32::from_be_bytes(self.array()?).into(),
            0xcf => u64::from_be_bytes(self.array()?).into(),
            0xd0 => i8::from_be_bytes(self.array()?).into(),
            0xd1 => i16::from_be_bytes(self.array()?).into(),
            0xd2 => i32::from_be_bytes(self.array()?).into(),
            0xd3 => i64::from_be_bytes(self.array()?).into(),
            negative @ 0xe0..=0xff => i8::from_be_bytes([negative]).into(),
            marker => return self.sized(marker, depth, place),
        })
    }

    /// Reads a value whose marker says its length, or how many bytes of length follow.
    fn sized(&mut self, marker: u8, depth: usize, place: Place) -> Result<Value, Unreadable> {
        match marker {
            0x80..=0x8f => self.map(usize::from(marker & 0x0f), depth, place),
            0x90..=0x9f => self.list(usize::from(marker & 0x0f), depth, place),
            0xa0..=0xbf => self.text(usize::from(marker & 0x1f)),
            0xc4 | 0xc7 | 0xd9 => {
                let length = u8::from_be_bytes(self.array()?);
                self.blob(marker, usize::from(length))
            }
            0xc5 | 0xc8 | 0xda => {
                let length = u16::from_be_bytes(self.array()?);
                self.blob(marker, usize::from(length))
            }
            0xc6 | 0xc9 | 0xdb => {
                let length = self.long()?;
                self.blob(marker, length)
            }
            0xd4 => self.extension(1),
            0xd5 => self.extension(2),
            0xd6 => self.extension(4),
            0xd7 => self.extension(8),
            0xd8 => self.extension(16),
            0xdc => {
                let length = u16::from_be_bytes(self.array()?);
                self.list(usize::from(length), depth, place)
            }
            0xdd => {
                let length = self.long()?;
                self.list(length, depth, place)
            }
            0xde => {
                let length = u16::from_be_bytes(self.array()?);
                self.map(usize::from(length), depth, place)
            }
            0xdf => {
                let length = self.long()?;
                self.map(length, depth, place)
            }
            _ => Err(wrong("an unknown marker", place)),
        }
    }

    /// `length` bytes that are what `marker` says: binary, an extension or text.
    fn blob(&mut self, marker: u8, length: usize) -> Result<Value, Unreadable> {
        match marker {
            0xc4..=0xc6 => Ok(from_bytes(self.bytes(length)?)),
            0xc7..=0xc9 => self.extension(length),
            _ => self.text(length),
        }
    }

    /// Text; binary where it is no UTF-8, as old writers marked both alike.
    fn text(&mut self, length: usize) -> Result<Value, Unreadable> {
        let bytes = self.bytes(length)?;
        Ok(std::str::from_utf8(bytes).map_or_else(|_| from_bytes(bytes), Value::from))
    }

    fn list(&mut self, length: usize, depth: usize, place: Place) -> Result<Value, Unreadable> {
        let depth = self.deeper(depth, length, place)?;
        let mut items = Vec::new();
        for _ in 0..length {
            items.push(self.value(depth)?);
        }
        Ok(Value::Array(items))
    }

    fn map(&mut self, length: usize, depth: usize, place: Place) -> Result<Value, Unreadable> {
        let depth = self.deeper(depth, length.saturating_mul(2), place)?;
        let mut map = Map::new();
        for _ in 0..length {
            let key = key_text(self.value(depth)?);
            map.insert(key, self.value(depth)?);
        }
        Ok(Value::Object(map))
    }

    /// The depth within a container of `values` values, if as many can follow.
    fn deeper(&self, depth: usize, values: usize, place: Place) -> Result<usize, Unreadable> {
        if values > self.rest.len() {
            let left = self.rest.len();
            let reason = format!("a length of {values} values where {left} bytes follow");
            return Err(wrong(&reason, place));
        }
        let deeper = self.budget.deeper(depth);
        deeper.map_err(|excess| at(excess, place))
    }

    fn extension(&mut self, length: usize) -> Result<Value, Unreadable> {
        let kind = i8::from_be_bytes(self.array()?);
        let data = self.bytes(length)?;
        if kind == TIMESTAMP
            && let Some(text) = timestamp(data).and_then(moment::format)
        {
            return Ok(text.into());
        }
        let Value::Object(mut map) = from_bytes(data) else {
            return Ok(Value::Null);
        };
        map.insert("$ext".to_owned(), kind.into());
        Ok(Value::Object(map))
    }

    fn long(&mut self) -> Result<usize, Unreadable> {
        let length = u32::from_be_bytes(self.array()?);
        Ok(usize::try_from(length).unwrap_or(usize::MAX))
    }

    fn byte(&mut self) -> Result<u8, Unreadable> {
        self.array().map(|[byte]| byte)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Unreadable> {
        let (bytes, rest) = self.rest.split_first_chunk().ok_or_else(|| self.ends(N))?;
        self.rest = rest;
        Ok(*bytes)
    }

    fn bytes(&mut self, length: usize) -> Result<&'b [u8], Unreadable> {
        let (bytes, rest) = self
            .rest
            .split_at_checked(length)
            .ok_or_else(|| self.ends(length))?;
        self.rest = rest;
        Ok(bytes)
    }

    fn ends(&self, wanted: usize) -> Unreadable {
        let left = self.rest.len();
        self.wrong(&format!("the end, {left} bytes on, of {wanted} wanted,"))
    }

    fn wrong(&self, reason: &str) -> Unreadable {
        wrong(reason, self.place())
    }

    fn place(&self) -> Place {
        Place::Byte(self.size - self.rest.len())
    }
}

fn at(excess: Excess, place: Place) -> Unreadable {
    excess.at("msgpack", place)
}

fn wrong(reason: &str, place: Place) -> Unreadable {
    Unreadable::Syntax {
        format: "msgpack",
        reason: reason.to_owned(),
        place,
    }
}

/// A timestamp's milliseconds since 1970; `None` if it is none.
fn timestamp(data: &[u8]) -> Option<i64> {
    let (seconds, nanoseconds) = if let Ok(data) = <[u8; 4]>::try_from(data) {
        (i64::from(u32::from_be_bytes(data)), 0)
    } else if let Ok(data) = <[u8; 8]>::try_from(data) {
        let both = u64::from_be_bytes(data);
        let seconds = i64::try_from(both & ((1 << 34) - 1)).ok()?;
        (seconds, i64::try_from(both >> 34).ok()?)
    } else {
        let (nanoseconds, seconds) = data.split_first_chunk::<4>()?;
        let seconds = i64::from_be_bytes(<[u8; 8]>::try_from(seconds).ok()?);
        (seconds, i64::from(u32::from_be_bytes(*nanoseconds)))
    };
    if nanoseconds >= 1_000_000_000 {
        return None;
    }
    seconds
        .checked_mul(1000)?
        .checked_add(nanoseconds / 1_000_000)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::codec::MAX_VALUES;
    use proptest::prelude::*;
    use serde_json::json;

    fn decoded(body: &[u8]) -> Result<Value, Unreadable> {
        read(body, &Budget::full())
    }

    #[test]
    fn every_marker_is_read() {
        let cases: &[(&[u8], Value)] = &[
            (&[0x7f], json!(127)),
            (&[0xe0], json!(-32)),
            (&[0xc0], json!(null)),
            (&[0xc2], json!(false)),
            (&[0xc3], json!(true)),
            (&[0xcc, 0xff], json!(255)),
            (&[0xcd, 1, 0], json!(256)),
            (&[0xce, 0, 1, 0, 0], json!(65536)),
            (
                &[0xcf, 255, 255, 255, 255, 255, 255, 255, 255],
                json!(u64::MAX),
            ),
            (&[0xd0, 0x80], json!(-128)),
            (&[0xd1, 0x80, 0], json!(-32768)),
            (&[0xd2, 0x80, 0, 0, 0], json!(i32::MIN)),
            (&[0xd3, 0x80, 0, 0, 0, 0, 0, 0, 0], json!(i64::MIN)),
            (&[0xca, 0x3f, 0x80, 0, 0], json!(1.0)),
            (&[0xcb, 0x3f, 0xf8, 0, 0, 0, 0, 0, 0], json!(1.5)),
            (&[0xcb, 0x7f, 0xf8, 0, 0, 0, 0, 0, 0], json!("NaN")),
            (&[0xca, 0xff, 0x80, 0, 0], json!("-Infinity")),
            (&[0xa2, b'h', b'i'], json!("hi")),
            (&[0xa1, 0xff], json!({"$bytes": "/w=="})),
            (&[0xd9, 1, b'a'], json!("a")),
            (&[0xda, 0, 1, b'a'], json!("a")),
            (&[0xdb, 0, 0, 0, 1, b'a'], json!("a")),
            (&[0xc4, 2, 0, 255], json!({"$bytes": "AP8="})),
            (&[0xc5, 0, 1, 0], json!({"$bytes": "AA=="})),
            (&[0xc6, 0, 0, 0, 1, 0], json!({"$bytes": "AA=="})),
            (&[0x92, 1, 2], json!([1, 2])),
            (&[0xdc, 0, 1, 1], json!([1])),
            (&[0xdd, 0, 0, 0, 1, 1], json!([1])),
            (&[0x81, 0xa1, b'a', 1], json!({"a": 1})),
            (&[0xde, 0, 1, 1, 2], json!({"1": 2})),
            (&[0xdf, 0, 0, 0, 1, 0xc4, 1, b'k', 2], json!({"k": 2})),
            (&[0x81, 0xc0, 1], json!({"null": 1})),
            (&[0x81, 0x91, 1, 1], json!({"[1]": 1})),
            (&[0xd4, 5, 9], json!({"$bytes": "CQ==", "$ext": 5})),
            (&[0xc7, 1, 5, 9], json!({"$bytes": "CQ==", "$ext": 5})),
            (
                &[0xd6, 0xff, 0, 0, 0, 1],
                json!("1970-01-01T00:00:01+00:00"),
            ),
            (
                &[0xd7, 0xff, 0x77, 0x35, 0x94, 0, 0, 0, 0, 1],
                json!("1970-01-01T00:00:01.500+00:00"),
            ),
            (
                &[
                    0xc7, 12, 0xff, 0, 0, 0, 0, 255, 255, 255, 255, 255, 255, 255, 255,
                ],
                json!("1969-12-31T23:59:59+00:00"),
            ),
        ];
        for (body, value) in cases {
            assert_eq!(decoded(body).as_ref(), Ok(value), "{body:02x?}");
        }
    }

    #[test]
    fn an_error_names_the_byte() {
        let error = decoded(&[0x92, 0x01, 0xc1]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the body is not msgpack: the byte 0xc1, which begins nothing, at byte 2"
        );
        let error = decoded(&[0x01, 0x02]).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the body is not msgpack: more bytes after the end of the value at byte 1"
        );
        let error = decoded(&[0xa5, b'a']).unwrap_err();
        assert_eq!(
            error.to_string(),
            "the body is not msgpack: the end, 1 bytes on, of 5 wanted, at byte 1"
        );
    }

    #[test]
    fn a_length_that_lies_allocates_nothing() {
        for marker in [0xdd, 0xdf, 0xdb, 0xc6, 0xc9] {
            let error = decoded(&[marker, 0xff, 0xff, 0xff, 0xff, 0xc0]).unwrap_err();
            assert!(matches!(error, Unreadable::Syntax { .. }), "{error}");
        }
    }

    #[test]
    fn too_deep_is_refused_where_it_is() {
        let mut body = vec![0x91; 64];
        body.push(0xc0);
        assert!(decoded(&body).is_ok());
        let error = decoded(&vec![0x91; 1_000_000]).unwrap_err();
        let place = Place::Byte(64);
        assert_eq!(
            error,
            Unreadable::TooDeep {
                format: "msgpack",
                place
            }
        );
    }

    #[test]
    fn too_many_values_are_refused() {
        let count = MAX_VALUES as u32;
        let mut body = vec![0xdd];
        body.extend(count.to_be_bytes());
        body.extend(vec![0xc0; MAX_VALUES]);
        let error = decoded(&body).unwrap_err();
        assert!(matches!(error, Unreadable::TooMany { .. }), "{error}");
    }

    proptest! {
        #[test]
        fn any_bytes_are_read_or_refused(body in prop::collection::vec(any::<u8>(), 0..200)) {
            drop(decoded(&body));
        }

        #[test]
        fn what_another_writer_wrote_is_read(value in crate::codec::tests::values()) {
            let mut body = Vec::new();
            rmpv::encode::write_value(&mut body, &foreign(&value)).unwrap();
            prop_assert_eq!(decoded(&body).unwrap(), value);
        }
    }

    fn foreign(value: &Value) -> rmpv::Value {
        match value {
            Value::Null => rmpv::Value::Nil,
            Value::Bool(value) => (*value).into(),
            Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(number), _) => number.into(),
                (None, Some(number)) => number.into(),
                (None, None) => number.as_f64().unwrap().into(),
            },
            Value::String(text) => text.as_str().into(),
            Value::Array(items) => rmpv::Value::Array(items.iter().map(foreign).collect()),
            Value::Object(map) => rmpv::Value::Map(
                map.iter()
                    .map(|(key, value)| (key.as_str().into(), foreign(value)))
                    .collect(),
            ),
        }
    }
}
