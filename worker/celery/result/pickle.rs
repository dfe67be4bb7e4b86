//! A pickle of a JSON value, protocol 2: what Celery's SQLAlchemy backend keeps before 5.7. Written only; a pickle is
//! never read, since reading one can run code. Described in Python's `pickletools`.

use serde_json::{Number, Value};

/// `value` as Python's None, bool, int, float, str, list and dict.
pub(super) fn write(value: &Value) -> Vec<u8> {
    let mut out = vec![0x80, 2];
    put(value, &mut out);
    out.push(b'.');
    out
}

fn put(value: &Value, out: &mut Vec<u8>) {
    match value {
        Value::Null => out.push(b'N'),
        Value::Bool(true) => out.push(0x88),
        Value::Bool(false) => out.push(0x89),
        Value::Number(number) => put_number(number, out),
        Value::String(text) => put_text(text, out),
        Value::Array(items) => {
            out.extend(*b"](");
            items.iter().for_each(|item| put(item, out));
            out.push(b'e');
        }
        Value::Object(entries) => {
            out.extend(*b"}(");
            for (key, value) in entries {
                put_text(key, out);
                put(value, out);
            }
            out.push(b'u');
        }
    }
}

fn put_number(number: &Number, out: &mut Vec<u8>) {
    let whole = number
        .as_i64()
        .map(i128::from)
        .or_else(|| number.as_u64().map(i128::from));
    match whole {
        Some(whole) => match i32::try_from(whole) {
            Ok(small) => {
                out.push(b'J');
                out.extend(small.to_le_bytes());
            }
            // LONG1: its length in bytes, then two's complement; 9 bytes hold any of 64 bits.
            Err(_) => {
                out.extend([0x8a, 9]);
                out.extend(whole.to_le_bytes().iter().take(9));
            }
        },
        None => {
            out.push(b'G');
            out.extend(number.as_f64().unwrap_or(f64::NAN).to_be_bytes());
        }
    }
}

fn put_text(text: &str, out: &mut Vec<u8>) {
    out.push(b'X');
    // No value of ours is anywhere near 4 GiB: the codec reads at most 16 MiB.
    out.extend(u32::try_from(text.len()).unwrap_or(u32::MAX).to_le_bytes());
    out.extend(text.as_bytes());
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    /// What `pickletools` makes of each is in tests/celery, where Celery reads them.
    #[test]
    fn small_values_are_the_bytes_that_python_writes() {
        assert_eq!(write(&Value::Null), b"\x80\x02N.");
        assert_eq!(write(&json!(true)), b"\x80\x02\x88.");
        assert_eq!(write(&json!(5)), b"\x80\x02J\x05\0\0\0.");
        assert_eq!(write(&json!("é")), b"\x80\x02X\x02\0\0\0\xc3\xa9.");
        assert_eq!(write(&json!([1])), b"\x80\x02](J\x01\0\0\0e.");
    }
}
