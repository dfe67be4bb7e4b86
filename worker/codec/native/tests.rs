use serde_json::json;

use super::*;

const PROTO: &str = include_str!("../../../protos/longshore/task/v1/task.proto");

/// `(name, number, declared type)` of each field of the `.proto` file.
fn declared() -> Vec<(String, u8, String)> {
    let field = regex::Regex::new(r"^  ((?:optional )?\w+) (\w+) = (\d+);").unwrap();
    let fields = PROTO.lines().filter_map(|line| field.captures(line));
    let parts = fields.map(|found| {
        (
            found[2].to_owned(),
            found[3].parse().unwrap(),
            found[1].to_owned(),
        )
    });
    parts.collect()
}

/// The bytes of a message with one field set.
fn one(set: fn(&mut Envelope)) -> Vec<u8> {
    let mut envelope = Envelope::default();
    set(&mut envelope);
    envelope.encode_to_vec()
}

#[test]
fn the_struct_says_what_the_proto_file_says() {
    // Exhaustive: a new field of the struct fails to compile here.
    let Envelope {
        id: _,
        name: _,
        queue: _,
        args_json: _,
        kwargs_json: _,
        priority: _,
        run_at_ms: _,
        expires_at_ms: _,
        headers_json: _,
    } = Envelope::default();
    // Each with bytes that tell its type: text has a length; 300 tells a varint from a fixed number;
    // a 0 is only written if it is optional.
    let text = [1, b'x'].as_slice();
    let written = [
        ("id", one(|it| it.id = "x".into()), "string", text),
        ("name", one(|it| it.name = "x".into()), "string", text),
        ("queue", one(|it| it.queue = "x".into()), "string", text),
        (
            "args_json",
            one(|it| it.args_json = "x".into()),
            "string",
            text,
        ),
        (
            "kwargs_json",
            one(|it| it.kwargs_json = "x".into()),
            "string",
            text,
        ),
        (
            "priority",
            one(|it| it.priority = 300),
            "uint32",
            &[0xac, 2],
        ),
        (
            "run_at_ms",
            one(|it| it.run_at_ms = Some(0)),
            "optional int64",
            &[0],
        ),
        (
            "expires_at_ms",
            one(|it| it.expires_at_ms = Some(0)),
            "optional int64",
            &[0],
        ),
        (
            "headers_json",
            one(|it| it.headers_json = "x".into()),
            "string",
            text,
        ),
    ];
    let read: Vec<_> = written
        .into_iter()
        .map(|(name, bytes, kind, rest)| {
            assert_eq!(&bytes[1..], rest, "{name}");
            assert_eq!(bytes[0] & 7, if kind == "string" { 2 } else { 0 }, "{name}");
            (name.to_owned(), bytes[0] >> 3, kind.to_owned())
        })
        .collect();
    assert_eq!(read, declared());
}

#[test]
fn times_before_1970_are_int64_and_not_sint64() {
    let run_at = one(|it| it.run_at_ms = Some(-1));
    assert_eq!(run_at, [&[7 << 3][..], &[0xff; 9], &[1]].concat());
    let expires_at = one(|it| it.expires_at_ms = Some(-1));
    assert_eq!(expires_at, [&[8 << 3][..], &[0xff; 9], &[1]].concat());
}

#[test]
fn the_bytes_are_what_the_proto_file_says() {
    let mut task = Task::new("add", "sums").with_id("7").with("to", 1);
    task.args = vec![json!(2)];
    let message = encode(&task);
    assert_eq!(
        &message.body[..],
        b"\x0a\x017\x12\x03add\x1a\x04sums\x22\x03[2]\x2a\x08{\"to\":1}"
    );
    assert_eq!(message.content_type.as_deref(), Some(NATIVE));
    assert_eq!(message.correlation_id.as_deref(), Some("7"));
}

#[test]
fn a_field_of_a_later_version_is_skipped() {
    let mut message = encode(&Task::new("add", "sums").with_id("7"));
    message.body = [&message.body[..], &[10 << 3, 1]].concat().into();
    assert_eq!(decode(&message, "").unwrap().name, "add");
}

#[test]
fn the_queue_it_was_taken_from_wins() {
    let message = encode(&Task::new("add", "sums"));
    assert_eq!(
        decode(&message, "sums_suffix").unwrap().queue,
        "sums_suffix"
    );
}

#[test]
fn headers_added_on_the_way_are_kept() {
    let mut task = Task::new("add", "sums");
    task.headers.insert("a".into(), 1.into());
    let mut message = encode(&task);
    message.headers.insert("a".into(), 2.into());
    message.headers.insert("traceparent".into(), "t".into());
    let read = decode(&message, "q").unwrap().headers;
    assert_eq!(Value::Object(read), json!({"a": 1, "traceparent": "t"}));
}

#[test]
fn a_field_that_is_not_json_is_named() {
    let envelope = Envelope {
        id: "1".into(),
        name: "a".into(),
        kwargs_json: "[]".into(),
        ..Envelope::default()
    };
    let mut message = encode(&Task::new("a", "q"));
    message.body = envelope.encode_to_vec().into();
    let error = decode(&message, "q").unwrap_err();
    assert_eq!(error.to_string(), "kwargs_json: is no JSON object");
    message.body = b"\xff\xff"[..].into();
    let error = decode(&message, "q").unwrap_err();
    assert!(matches!(error, Unreadable::Protobuf(_)), "{error}");
}
