use proptest::prelude::*;
use serde_json::json;

use super::*;

/// Values that JSON has a place for, nested a few levels.
pub(crate) fn values() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        any::<u64>().prop_map(Value::from),
        any::<i32>().prop_map(|number| Value::from(f64::from(number) / 8.0)),
        ".{0,8}".prop_map(Value::from),
        prop::collection::vec(any::<u8>(), 0..8).prop_map(|bytes| value::from_bytes(&bytes)),
    ];
    leaf.prop_recursive(4, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            maps(inner).prop_map(Value::from),
        ]
    })
}

fn maps(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Map<String, Value>> {
    prop::collection::vec(("[a-z_\"é]{1,6}", value), 0..4).prop_map(|all| all.into_iter().collect())
}

/// Tasks that every format can say; their headers are none that a format knows.
fn tasks() -> impl Strategy<Value = Task> {
    let time = || prop::option::of(-62_135_596_800_000_i64..=253_402_300_799_999);
    (
        ("[^\0]{1,20}", "[^\0]{1,20}", "[a-z]{1,8}"),
        (prop::collection::vec(values(), 0..4), maps(values())),
        (0..=9_u8, time(), time()),
        maps(values()),
    )
        .prop_map(
            |(texts, arguments, (priority, run_at, expires_at), headers)| Task {
                id: crate::id::TaskId::new(texts.0),
                name: texts.1,
                queue: texts.2,
                args: arguments.0,
                kwargs: arguments.1,
                priority,
                run_at,
                expires_at,
                lane: None,
                after: Vec::new(),
                headers: headers
                    .into_iter()
                    .map(|(key, value)| (format!("mine_{key}"), value))
                    .collect(),
                wire: Wire::Native,
                once: false,
            },
        )
}

fn message(content_type: &str, headers: Value, body: impl Into<Bytes>) -> Message {
    let Value::Object(headers) = headers else {
        panic!("headers are a map")
    };
    Message {
        content_type: Some(content_type.to_owned()),
        headers,
        body: body.into(),
        ..Message::default()
    }
}

#[test]
fn the_content_type_chooses_the_format() {
    let headers = json!({"task": "a", "id": "1"});
    for kind in [
        "application/json",
        "Application/JSON; charset=utf-8",
        "text/json",
    ] {
        assert!(decode(&message(kind, headers.clone(), "[[], {}, {}]"), "q").is_ok());
    }
    for kind in [
        "application/x-msgpack",
        "application/msgpack",
        "application/vnd.msgpack",
    ] {
        let body: &[u8] = &[0x93, 0x90, 0x80, 0x80];
        assert!(decode(&message(kind, headers.clone(), body), "q").is_ok());
    }
    for kind in ["application/x-yaml", "application/yaml", "text/yaml"] {
        assert!(decode(&message(kind, headers.clone(), "[[], {}, {}]"), "q").is_ok());
    }
}

#[test]
fn an_unknown_content_type_is_named() {
    let error = decode(&message("image/png", json!({"task": "a"}), ""), "q").unwrap_err();
    assert_eq!(error, Unreadable::ContentType("image/png".into()));
    let error = decode(&Message::default(), "q").unwrap_err();
    assert_eq!(error, Unreadable::NoContentType);
    let pickle = "application/x-python-serialize";
    let error = decode(&message(pickle, json!({"task": "a"}), ""), "q").unwrap_err();
    assert_eq!(error, Unreadable::Pickle(pickle.into()));
}

#[test]
fn a_body_above_the_limit_is_refused_in_every_format() {
    for kind in [
        NATIVE,
        "application/json",
        "application/x-msgpack",
        "application/x-yaml",
    ] {
        let message = message(
            kind,
            json!({"task": "a", "id": "1"}),
            vec![b' '; MAX_BODY + 1],
        );
        let error = decode(&message, "q").unwrap_err();
        assert!(
            matches!(error, Unreadable::TooLarge { .. }),
            "{kind}: {error}"
        );
    }
}

#[test]
fn hostile_nesting_is_refused_in_every_format() {
    let open = |text: &str| text.repeat(MAX_DEPTH + 2).into_bytes();
    let cases = [
        ("application/json", open("[")),
        ("application/json", open("{\"a\":")),
        ("application/x-msgpack", vec![0x91; MAX_BODY]),
        (
            "application/x-msgpack",
            [0x81, 0xa1, b'a'].repeat(1_000_000),
        ),
        ("application/x-yaml", open("- ")),
        ("application/x-yaml", [open("["), open("]")].concat()),
        ("application/x-yaml", b"&a [*a]".to_vec()),
    ];
    for (kind, body) in cases {
        let error = decode(&message(kind, json!({"task": "a", "id": "1"}), body), "q").unwrap_err();
        assert!(
            matches!(error, Unreadable::TooDeep { .. }),
            "{kind}: {error}"
        );
    }
}

#[test]
fn an_id_or_a_name_that_no_store_keeps_is_refused() {
    for (task, id) in [("a", "\0"), ("a\0", "1"), ("", "1")] {
        let celery = message(
            "application/json",
            json!({"task": task, "id": id}),
            "[[], {}, {}]",
        );
        let error = decode(&celery, "q").unwrap_err();
        assert!(matches!(error, Unreadable::Field { .. }), "{error}");
        let error = decode(&encode(&Task::new(task, "q").with_id(id)), "q").unwrap_err();
        assert!(matches!(error, Unreadable::Field { .. }), "{error}");
    }
    let task = Task::new("a".repeat(MAX_NAME + 1), "q");
    let error = decode(&encode(&task), "q").unwrap_err();
    assert_eq!(error.to_string(), "name: is longer than 1024 bytes");
}

proptest! {
    #[test]
    fn a_native_task_is_read_back(task in tasks()) {
        prop_assert_eq!(decode(&encode(&task), &task.queue).unwrap(), task.clone());
        prop_assert_eq!(decode(&encode(&task), "").unwrap(), task);
    }

    #[test]
    fn a_celery_task_is_read_back(task in tasks()) {
        let task = task.for_celery();
        let message = encode(&task);
        let mut read = decode(&message, &task.queue).unwrap();
        prop_assert_eq!(&encode(&read), &message);
        read.headers.retain(|key, _| key.starts_with("mine_"));
        prop_assert_eq!(read, task);
    }

    #[test]
    fn any_bytes_are_a_task_or_unreadable(
        kind in prop::sample::select(vec![
            NATIVE, "application/json", "application/x-msgpack", "application/x-yaml",
        ]),
        headers in prop::sample::select(vec![
            json!({}),
            json!({"task": "a", "id": "1"}),
            json!({"task": "a", "id": "1", "compression": "gzip"}),
            json!({"task": "a", "id": "1", "compression": "zstd"}),
        ]),
        body in prop_oneof![
            prop::collection::vec(any::<u8>(), 0..300),
            "[\\[\\]{}:,\"'&*!|>%#?\\- \na0-9.e~<]{0,100}".prop_map(String::into_bytes),
        ],
    ) {
        drop(decode(&message(kind, headers, body), "q"));
    }

    #[test]
    fn any_change_of_a_message_is_a_task_or_unreadable(
        task in tasks(), at in any::<prop::sample::Index>(), byte in any::<u8>(), native in any::<bool>(),
    ) {
        let mut message = encode(&if native { task } else { task.for_celery() });
        let mut body = message.body.to_vec();
        let at = at.index(body.len());
        body[at] = byte;
        message.body = body.into();
        drop(decode(&message, "q"));
    }
}
