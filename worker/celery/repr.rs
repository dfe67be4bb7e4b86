//! Values as Python's `repr` shows them, which is how Celery tells people of arguments and results.

use serde_json::{Map, Value};

/// The longest text, in bytes: Celery's own bound.
const MOST: usize = 1024;

/// One value.
pub(super) fn of(value: &Value) -> String {
    cut(|text| write(value, text))
}

/// Positional arguments: a tuple.
pub(super) fn of_args(args: &[Value]) -> String {
    cut(|text| {
        text.push('(');
        list(args, text);
        text.push_str(if args.len() == 1 { ",)" } else { ")" });
    })
}

/// Named arguments: a dictionary.
pub(super) fn of_kwargs(kwargs: &Map<String, Value>) -> String {
    cut(|text| entries(kwargs, text))
}

/// `text` in quotes.
pub(super) fn of_text(text: &str) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quote(text, &mut quoted);
    quoted
}

fn cut(write: impl FnOnce(&mut String)) -> String {
    let mut text = String::new();
    write(&mut text);
    shortened(text)
}

/// `text`, no longer than may be.
pub(super) fn shortened(mut text: String) -> String {
    if text.len() > MOST {
        text.truncate(text.floor_char_boundary(MOST - "...".len()));
        text.push_str("...");
    }
    text
}

/// Writes no more than a little beyond [`MOST`].
fn write(value: &Value, text: &mut String) {
    if text.len() > MOST {
        return;
    }
    match value {
        Value::Null => text.push_str("None"),
        Value::Bool(true) => text.push_str("True"),
        Value::Bool(false) => text.push_str("False"),
        Value::Number(number) => text.push_str(&number.to_string()),
        Value::String(string) => quote(string, text),
        Value::Array(items) => {
            text.push('[');
            list(items, text);
            text.push(']');
        }
        Value::Object(map) => entries(map, text),
    }
}

fn list(items: &[Value], text: &mut String) {
    for (at, item) in items.iter().enumerate() {
        if text.len() > MOST {
            return;
        }
        if at > 0 {
            text.push_str(", ");
        }
        write(item, text);
    }
}

fn entries(map: &Map<String, Value>, text: &mut String) {
    text.push('{');
    for (at, (key, value)) in map.iter().enumerate() {
        if text.len() > MOST {
            return;
        }
        if at > 0 {
            text.push_str(", ");
        }
        quote(key, text);
        text.push_str(": ");
        write(value, text);
    }
    text.push('}');
}

fn quote(string: &str, text: &mut String) {
    let mark = if string.contains('\'') && !string.contains('"') {
        '"'
    } else {
        '\''
    };
    text.push(mark);
    for c in string.chars() {
        if text.len() > MOST {
            return;
        }
        match c {
            '\\' => text.push_str("\\\\"),
            '\n' => text.push_str("\\n"),
            '\r' => text.push_str("\\r"),
            '\t' => text.push_str("\\t"),
            c if c == mark => {
                text.push('\\');
                text.push(c);
            }
            c if c.is_control() => text.push_str(&format!("\\x{:02x}", u32::from(c))),
            c => text.push(c),
        }
    }
    text.push(mark);
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn values_look_as_python_shows_them() {
        assert_eq!(
            of(&json!([null, true, 1.5, "it's", {"a": "b\n"}])),
            r#"[None, True, 1.5, "it's", {'a': 'b\n'}]"#
        );
        assert_eq!(of_args(&[json!(2)]), "(2,)");
        assert_eq!(of_args(&[json!(2), json!(3)]), "(2, 3)");
        assert_eq!(of_args(&[]), "()");
        assert_eq!(of_kwargs(&Map::new()), "{}");
        assert_eq!(of_text("a\"'b"), r#"'a"\'b'"#);
    }

    #[test]
    fn a_large_value_is_cut() {
        for value in [
            json!("é".repeat(100_000)),
            json!(vec!["xxxxxxxx"; 100_000]),
            json!({ "a": vec![json!({ "b": 1 }); 100_000] }),
        ] {
            let text = of(&value);
            assert!(text.len() <= MOST && text.ends_with("..."), "{text}");
        }
    }
}
