use std::time::Instant;

use proptest::prelude::*;
use serde_json::json;

use super::*;

#[test]
fn pythons_numbers_that_are_not_finite_are_read() {
    let text = br#"[NaN, -Infinity, {"NaN\"": Infinity}, "a NaN \\", 1]"#;
    assert_eq!(
        json(text).unwrap(),
        json!(["NaN", "-Infinity", {"NaN\"": "Infinity"}, "a NaN \\", 1])
    );
}

#[test]
fn a_json_error_names_the_place() {
    let error = json(b"[1,\n  nope]").unwrap_err();
    let Unreadable::Syntax { format, place, .. } = error else {
        panic!("{error}")
    };
    assert_eq!(format, "JSON");
    assert_eq!(place, Place::Line { line: 2, column: 4 });
    assert!(json(b"[NaN, nope]").is_err());
    assert!(json(b"1 2").is_err());
}

#[test]
fn too_many_json_values_are_refused() {
    let text = format!("[{}0]", "0,".repeat(MAX_VALUES));
    let error = json(text.as_bytes()).unwrap_err();
    assert!(matches!(error, Unreadable::TooMany { .. }), "{error}");
}

#[test]
fn yaml_values_are_read() {
    let text = "a: [1, -2, 2.5, .inf, .nan, yes, true, ~, 'x']\n1: {}\n? [2]\n: 2026-01-02\nbig: 123456789012345678901234567890\n";
    assert_eq!(
        yaml(text.as_bytes()).unwrap(),
        json!({
            "a": [1, -2, 2.5, "Infinity", "NaN", "yes", true, null, "x"],
            "1": {},
            "[2]": "2026-01-02",
            "big": "123456789012345678901234567890",
        })
    );
}

#[test]
fn yaml_tags_are_ignored_except_binary() {
    let text = "- !!python/tuple [1]\n- !mine {a: !other 2}\n- !!str 5\n";
    assert_eq!(yaml(text.as_bytes()).unwrap(), json!([[1], {"a": 2}, "5"]));
    for start in ["", "---\n"] {
        let text =
            format!("{start}- !!binary |\n  AP\n  8Q\n- '!!binary'\n- !!binary 'not base64!'\n");
        assert_eq!(
            yaml(text.as_bytes()).unwrap(),
            json!([{"$bytes": "AP8Q"}, "!!binary", "not base64!"])
        );
    }
    let error = yaml(b"- !!binary aGk=\n- [\n").unwrap_err();
    assert!(error.to_string().contains(" at line 3"), "{error}");
}

#[test]
fn more_than_one_yaml_document_is_refused() {
    let error = yaml(b"--- 1\n--- 2\n").unwrap_err();
    assert!(
        matches!(error, Unreadable::Syntax { format: "YAML", .. }),
        "{error}"
    );
}

#[test]
fn yaml_alias_bombs_are_refused_at_once() {
    let mut doubling = "- &a0 [x, x]\n".to_owned();
    for level in 1..40 {
        let last = level - 1;
        doubling += &format!("- &a{level} [*a{last}, *a{last}]\n");
    }
    let text = format!(
        "- &long [{}]\n{}",
        "x, ".repeat(400),
        "- *long\n".repeat(20_000)
    );
    for bomb in [doubling, text] {
        let began = Instant::now();
        let error = yaml(bomb.as_bytes()).unwrap_err();
        assert!(
            matches!(
                error,
                Unreadable::TooMany { .. } | Unreadable::Syntax { .. }
            ),
            "{error}"
        );
        assert!(began.elapsed().as_secs() < 10);
    }
}

#[test]
fn an_alias_of_a_long_text_counts_each_time() {
    let long = "x".repeat(500_000);
    let text = format!("- &long {long}\n{}", "- *long\n".repeat(60_000));
    let error = yaml(text.as_bytes()).unwrap_err();
    assert!(matches!(error, Unreadable::TooLarge { .. }), "{error}");
}

#[test]
fn the_worst_yaml_that_may_be_read_is_refused_soon() {
    // As many openings as the limit on work allows, one within the other.
    let depth = 22_000;
    assert!(depth * depth <= MAX_YAML_WORK);
    let began = Instant::now();
    let error = yaml("[".repeat(depth).as_bytes()).unwrap_err();
    assert!(
        matches!(
            error,
            Unreadable::TooDeep { .. } | Unreadable::Syntax { .. }
        ),
        "{error}"
    );
    assert!(began.elapsed().as_secs() < 20);
    let error = yaml("[".repeat(MAX_YAML).as_bytes()).unwrap_err();
    assert!(
        error.to_string().contains("send JSON or msgpack"),
        "{error}"
    );
    let error = yaml(" ".repeat(MAX_YAML + 1).as_bytes()).unwrap_err();
    assert!(matches!(error, Unreadable::TooLarge { .. }), "{error}");
}

proptest! {
    #[test]
    fn json_is_read_as_others_read_it(value in crate::codec::tests::values()) {
        prop_assert_eq!(json(value.to_string().as_bytes()).unwrap(), value);
    }

    #[test]
    fn a_binary_value_is_told_from_others(bytes in prop::collection::vec(any::<u8>(), 0..20)) {
        let Value::Object(map) = from_bytes(&bytes) else { panic!("a map") };
        prop_assert_eq!(BASE64_STANDARD.decode(base64_of(&map).unwrap()).unwrap(), bytes);
    }
}

#[test]
fn what_only_looks_binary_is_none() {
    for value in [
        json!({"$bytes": "?"}),
        json!({"$bytes": 1}),
        json!({"$bytes": "", "a": 1}),
    ] {
        let Value::Object(map) = value else {
            panic!("a map")
        };
        assert_eq!(base64_of(&map), None);
    }
}

#[test]
fn msgpack_that_is_written_is_read_by_another_and_by_us() {
    let value = json!({
        "none": null, "flags": [true, false], "numbers": [0, -1, i64::MIN, u64::MAX, 1.5], "text": "é\n", "map": {"a": []},
    });
    let body = write_msgpack(&value);
    assert_eq!(read(Format::Msgpack, &body).unwrap(), value);
    let theirs = rmpv::decode::read_value(&mut body.as_slice()).unwrap();
    assert_eq!(theirs["numbers"][3].as_u64(), Some(u64::MAX));
    assert_eq!(theirs["text"].as_str(), Some("é\n"));
    assert_eq!(theirs["map"]["a"].as_array().map(Vec::len), Some(0));
}
