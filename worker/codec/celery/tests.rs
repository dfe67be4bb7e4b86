//! The samples were written by kombu 5.7.0 and celery 5.7.0 (`as_task_v2`, `as_task_v1`).

use serde_json::json;

use super::*;
use crate::codec::{decode, encode};

const JSON: &str = "application/json";
const MSGPACK: &str = "application/x-msgpack";
const YAML: &str = "application/x-yaml";

/// A call of a task with every kind of value, in JSON, msgpack and YAML.
const RICH_JSON: &[u8] = br#"[[1, -5, 2.5, "\u00fc\n", null, true, [1, [2]], {"k": {"n": 1}}], {"raw": {"__type__": "base64", "__value__": "AP8Q"}, "text": {"__type__": "bytes", "__value__": "hi"}}, {"callbacks": null, "errbacks": null, "chain": null, "chord": null}]"#;
const RICH_JSON_GZIP: &str = "eJxljssKwjAQRX9lmHWUtqiIO/9A12kIaYy0NETJQy2Sf3dauxC7OXAPc2eG85LBasugWhOwTkVx1bVDBi5ZyyD6ZBiMQ7wSgsEbezwQHbHMeTJePScnZRzuRkoK2KhgdhtaQ/ahbJr18bQ/YyYbzSsuS0M0YdFpO8x5vKOVtY3SfSD7/Q6N939Gt6pzv/HmL3PM4gP2UEfB";
const RICH_JSON_ZSTD: &str = "KLUv/SDuxQQAMskeH1CFWAegn9SlQtNNDGssll5wAXQ0BUwAfoN00mRmBkNMTciF4+LTHCflu3oEudZA2Nwnb61/nOhNaQa8eW89onAwUNgajN37AeFFrbnVGXsMaTIG0GStiNXjJ6tDn7wMkywvsryPyumFkEbv4+IUx0GXexVB4lUCXmStCQBTZU3Upms6EXoZu2omsPIfnelutvElTCg=";
const RICH_MSGPACK: &str = "k5gB+8tABAAAAAAAAKPDvArAw5IBkQKBoWuBoW4BgqNyYXfEAwD/EKR0ZXh0xAJoaYSpY2FsbGJhY2tzwKhlcnJiYWNrc8ClY2hhaW7ApWNob3JkwA==";
const RICH_MSGPACK_GZIP: &str = "eJybPIPx92kHFgYwWHx4D9eBw5MYJzI1LsxuXJjH2LS4KLH8CDPDf4ElJakVJUeYMjJbViYn5uQkJSZnFx9YkVpUBGEtTc5IzMwDUflFKQcAw/skjg==";
const RICH_MSGPACK_ZSTD: &str = "KLUv/SBVqQIAk5gB+8tABAAAAAAAAKPDvArAw5IBkQKBoWuBoW4BgqNyYXfEAwD/EKR0ZXh0xAJoaYSpY2FsbGJhY2tzwKhlcnJiYWNrc8ClY2hhaW7ApWNob3JkwA==";
const RICH_YAML: &[u8] = b"- - 1\n  - -5\n  - 2.5\n  - \"\\xFC\\n\"\n  - null\n  - true\n  - - 1\n    - - 2\n  - k:\n      n: 1\n- raw: !!binary |\n    AP8Q\n  text: !!binary |\n    aGk=\n- callbacks: null\n  chain: null\n  chord: null\n  errbacks: null\n";
const RICH_YAML_GZIP: &str = "eJzTVdBVMORSAJK6pmDKSA9CK8VUuDnH5CmBOXmlOTlgRklRaSpENVgXhGUEFsm2AgsoKORZAeV0FYoSy60UFBWTMvMSiyoVasCSjgEWgUBGSWpFCYZconu2LVBbcmJOTlJicnaxFczW5IzEzDwkXn5RCpyXWlSErBgABOAzQQ==";
const RICH_YAML_ZSTD: &str = "KLUv/SDOBQQAAgYWHGBr24AZNVWT2qQlpUoBwHankkrIvaIIrQseDWDdK9ELblShksGUMruqjidgBm3Pav8hAofB445WbhiEng3t4yVP/iVTltNt1+HEC6HwLAlRAHj8LzkeAw8AUPEByogxeo6J9XN6QEnDHfls14IjqwHgCEsjOAVfGayrJAE=";
/// A call with an infinite number and a map with keys that are no text.
const KEYS: &str =
    "k5LLf/AAAAAAAACDAQPAAstABAAAAAAAAASAhKljYWxsYmFja3PAqGVycmJhY2tzwKVjaGFpbsClY2hvcmTA";
/// A call in a chord, with a chain and a callback.
const CHORD: &str = "k5ECgISpY2FsbGJhY2tzkYakdGFza6NjLmSkYXJnc5ECpmt3YXJnc4Cnb3B0aW9uc4Csc3VidGFza190eXBlwKlpbW11dGFibGXCqGVycmJhY2tzwKVjaGFpbpGGpHRhc2ujYS5ipGFyZ3ORAaZrd2FyZ3OAp29wdGlvbnOArHN1YnRhc2tfdHlwZcCpaW1tdXRhYmxlwqVjaG9yZIakdGFza6NjLmSkYXJnc5ECpmt3YXJnc4Cnb3B0aW9uc4Csc3VidGFza190eXBlwKlpbW11dGFibGXC";
/// A message of protocol 1.
const V1: &str = "j6R0YXNrq2V4YW1wbGUuYWRkomlkqDdmOWMwZDFlpGFyZ3ORAqZrd2FyZ3OBoWuheKVncm91cMCrZ3JvdXBfaW5kZXjAp3JldHJpZXMAo2V0YdkgMjAyNi0xMS0yMlQwMjo0NjozOC43Nzc0NTQrMDA6MDCnZXhwaXJlc8CjdXRjw6ljYWxsYmFja3PAqGVycmJhY2tzwKl0aW1lbGltaXSSwMCndGFza3NldMClY2hvcmTA";

fn base64(text: &str) -> Vec<u8> {
    use base64::{Engine, prelude::BASE64_STANDARD};
    BASE64_STANDARD.decode(text).unwrap()
}

/// What celery 5.7.0 puts into the headers.
fn headers() -> Value {
    json!({
        "lang": "py", "task": "example.add", "id": "7f9c0d1e", "shadow": null, "eta": null,
        "expires": null, "group": null, "group_index": null, "retries": 0,
        "timelimit": [null, null], "root_id": "7f9c0d1e", "parent_id": null, "argsrepr": "(2,)",
        "kwargsrepr": "{}", "origin": "me", "ignore_result": false, "replaced_task_nesting": 0,
        "stamped_headers": null, "stamps": {},
    })
}

fn message(content_type: &str, changes: Value, body: impl Into<bytes::Bytes>) -> Message {
    let (Value::Object(mut headers), Value::Object(mut changes)) = (headers(), changes) else {
        panic!("headers are maps")
    };
    headers.append(&mut changes);
    Message {
        content_type: Some(content_type.to_owned()),
        content_encoding: Some("utf-8".to_owned()),
        headers,
        correlation_id: Some("7f9c0d1e".to_owned()),
        reply_to: Some(String::new()),
        priority: Some(0),
        body: body.into(),
    }
}

fn read(message: &Message) -> Task {
    decode(message, "ci_fetch").unwrap()
}

fn problem(message: &Message) -> String {
    decode(message, "ci_fetch").unwrap_err().to_string()
}

#[test]
fn squads_fetch_is_read() {
    // Measured on the wire: fetch(2).
    let body = b"\x93\x91\x02\x80\x84\xa9callbacks\xc0\xa8errbacks\xc0\xa5chain\xc0\xa5chord\xc0";
    assert_eq!(body.len(), 40);
    let changes = json!({"task": "squad.ci.tasks.fetch", "id": "12:lava/3456"});
    let mut message = message(MSGPACK, changes, &body[..]);
    message.content_encoding = Some("binary".to_owned());
    message.reply_to = Some("6d0e".to_owned());
    message.priority = Some(10);
    let task = read(&message);
    assert_eq!(task.id.as_str(), "12:lava/3456");
    assert_eq!(task.name, "squad.ci.tasks.fetch");
    assert_eq!(task.queue, "ci_fetch");
    assert_eq!(task.args, [json!(2)]);
    assert!(task.kwargs.is_empty());
    assert_eq!(task.priority, 9);
    assert_eq!((task.run_at, task.expires_at), (None, None));
    assert_eq!(task.headers[REPLY_TO], "6d0e");
    assert_eq!(task.headers["lang"], "py");
    assert_eq!(task.headers["group"], Value::Null);
    for said_elsewhere in ["task", "id", "eta", "expires", WORKFLOW] {
        assert!(
            !task.headers.contains_key(said_elsewhere),
            "{said_elsewhere}"
        );
    }
}

#[test]
fn every_serializer_and_compression_of_celery_is_read() {
    let samples = [
        (JSON, None, RICH_JSON.to_vec()),
        (JSON, Some("application/x-gzip"), base64(RICH_JSON_GZIP)),
        (JSON, Some("application/zstd"), base64(RICH_JSON_ZSTD)),
        (MSGPACK, None, base64(RICH_MSGPACK)),
        (
            MSGPACK,
            Some("application/x-gzip"),
            base64(RICH_MSGPACK_GZIP),
        ),
        (MSGPACK, Some("application/zstd"), base64(RICH_MSGPACK_ZSTD)),
        (YAML, None, RICH_YAML.to_vec()),
        (YAML, Some("application/x-gzip"), base64(RICH_YAML_GZIP)),
        (YAML, Some("application/zstd"), base64(RICH_YAML_ZSTD)),
    ];
    for (kind, compression, body) in samples {
        let task = read(&message(kind, json!({"compression": compression}), body));
        let args = json!([1, -5, 2.5, "ü\n", null, true, [1, [2]], {"k": {"n": 1}}]);
        assert_eq!(Value::Array(task.args), args, "{kind} {compression:?}");
        let kwargs = json!({"raw": {"$bytes": "AP8Q"}, "text": {"$bytes": "aGk="}});
        assert_eq!(Value::Object(task.kwargs), kwargs, "{kind} {compression:?}");
        assert!(!task.headers.contains_key("compression"));
    }
}

#[test]
fn values_that_json_lacks_have_a_place() {
    let task = read(&message(MSGPACK, json!({}), base64(KEYS)));
    assert_eq!(
        task.args,
        [json!("Infinity"), json!({"1": 3, "null": 2, "2.5": 4})]
    );
    let body =
        r#"[[{"__type__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"}, NaN], {}, {}]"#;
    let task = read(&message(JSON, json!({}), body));
    let kept = json!({"__type__": "datetime", "__value__": "2026-01-02T03:04:05+00:00"});
    assert_eq!(task.args, [kept, json!("NaN")]);
}

#[test]
fn a_workflow_is_kept_and_written_again() {
    let changes = json!({"group": "g", "group_index": 1, "other": {"deep": [1]}});
    let task = read(&message(MSGPACK, changes, base64(CHORD)));
    let signature = |name: &str, arg: u8| {
        json!({
            "task": name, "args": [arg], "kwargs": {}, "options": {}, "subtask_type": null,
            "immutable": false,
        })
    };
    let workflow = json!({
        "callbacks": [signature("c.d", 2)],
        "chain": [signature("a.b", 1)],
        "chord": signature("c.d", 2),
    });
    assert_eq!(task.headers[WORKFLOW], workflow);
    let written = encode(&task.clone().for_celery());
    assert!(!written.headers.contains_key(WORKFLOW));
    assert_eq!(written.headers["group"], "g");
    assert_eq!(written.headers["other"], json!({"deep": [1]}));
    let body: Value = serde_json::from_slice(&written.body).unwrap();
    assert_eq!(body[2]["errbacks"], Value::Null);
    assert_eq!(body[2]["chord"], signature("c.d", 2));
    assert_eq!(read(&written), task);
}

#[test]
fn times_are_read_with_and_without_a_zone() {
    let at = |eta: Value| {
        read(&message(
            JSON,
            json!({"eta": eta, "expires": eta}),
            RICH_JSON,
        ))
    };
    let cases = [
        (json!("2026-01-02T03:04:05.678901"), 1_767_323_045_678),
        (json!("2026-01-02T05:34:05.678901+02:30"), 1_767_323_045_678),
        (json!(1_767_323_045), 1_767_323_045_000),
        (json!(1_767_323_045.5), 1_767_323_045_500),
    ];
    for (text, millis) in cases {
        let task = at(text);
        assert_eq!((task.run_at, task.expires_at), (Some(millis), Some(millis)));
    }
    let error = problem(&message(JSON, json!({"eta": "soon"}), RICH_JSON));
    assert_eq!(error, "eta: \"soon\" is no ISO 8601 date and time");
    let error = problem(&message(JSON, json!({"expires": 60}), RICH_JSON));
    assert_eq!(
        error,
        "expires: 60 is no time in seconds since 1970; send ISO 8601"
    );
    assert!(problem(&message(JSON, json!({"eta": []}), RICH_JSON)).starts_with("eta: is a list"));
}

#[test]
fn the_id_is_a_header_or_else_the_correlation_id() {
    let mut message = message(JSON, json!({"id": 17}), RICH_JSON);
    assert_eq!(read(&message).id.as_str(), "17");
    message.headers.shift_remove("id");
    assert_eq!(read(&message).id.as_str(), "7f9c0d1e");
    message.correlation_id = Some(String::new());
    assert_eq!(decode(&message, "q").unwrap_err(), Unreadable::NoId);
}

#[test]
fn a_message_of_protocol_1_is_read() {
    let mut v1 = message(MSGPACK, json!({}), base64(V1));
    v1.headers = Map::new();
    let task = read(&v1);
    assert_eq!(
        (task.id.as_str(), task.name.as_str()),
        ("7f9c0d1e", "example.add")
    );
    assert_eq!(
        (task.args, task.kwargs["k"].as_str()),
        (vec![json!(2)], Some("x"))
    );
    assert_eq!(task.run_at, Some(1_795_315_598_777));
    assert_eq!(task.headers["retries"], 0);

    let local = r#"{"task": "a", "id": "1", "utc": false, "eta": "2026-01-02T03:04:05"}"#;
    let mut v1 = message(JSON, json!({}), local);
    v1.headers = Map::new();
    assert!(problem(&v1).ends_with("`eta` is in an unknown local time; set enable_utc"));
    v1.body = r#"{"args": []}"#.into();
    assert_eq!(decode(&v1, "q").unwrap_err(), Unreadable::NoTask);
    v1.body = "[[], {}, {}]".into();
    assert_eq!(decode(&v1, "q").unwrap_err(), Unreadable::NoTask);
}

#[test]
fn headers_of_a_hybrid_message_win() {
    let body = r#"{"task": "old", "id": "old", "args": [1], "retries": 3, "chord": {"task": "c"}}"#;
    let task = read(&message(JSON, json!({"retries": null}), body));
    assert_eq!(
        (task.id.as_str(), task.name.as_str()),
        ("7f9c0d1e", "example.add")
    );
    assert_eq!(task.headers["retries"], 3);
    assert_eq!(task.headers[WORKFLOW], json!({"chord": {"task": "c"}}));
}

#[test]
fn a_wrong_shape_is_named() {
    let cases = [
        (
            "1",
            "the body: is a number where [args, kwargs, embed] should be",
        ),
        (
            "[[], {}]",
            "the body: has 2 items where [args, kwargs, embed] has 3",
        ),
        ("[1, {}, {}]", "args: is a number where a list should be"),
        ("[[], [], {}]", "kwargs: is a list where a map should be"),
        (
            "[[], {}, 1]",
            "the body's third item: is a number where a map should be",
        ),
    ];
    for (body, error) in cases {
        assert_eq!(problem(&message(JSON, json!({}), body)), error);
    }
    let error = problem(&message(JSON, json!({"task": true}), RICH_JSON));
    assert_eq!(error, "task: is true or false where text should be");
    let mut latin = message(JSON, json!({}), RICH_JSON);
    latin.content_encoding = Some("latin-1".to_owned());
    assert!(problem(&latin).starts_with("unknown content encoding \"latin-1\""));
}

#[test]
fn what_is_written_is_what_celery_expects() {
    let mut task = Task::new("example.add", "q")
        .with_id("1:a/b")
        .with("raw", value::from_bytes(b"\0\xff"));
    task.args = vec![json!("é".repeat(2000))];
    task.run_at = Some(1_767_323_045_678);
    task.expires_at = Some(i64::MAX);
    task.headers.insert(REPLY_TO.into(), "results".into());
    task.headers.insert("x-death".into(), json!([]));
    task.headers.insert("CC".into(), json!(["elsewhere"]));
    let written = encode(&task.clone().for_celery());
    let mut headers = Value::Object(written.headers);
    let repr = headers["argsrepr"].take();
    assert!(repr.as_str().unwrap().len() <= MAX_REPR && repr.as_str().unwrap().ends_with('…'));
    assert_eq!(
        headers,
        json!({
            "lang": "rust", "task": "example.add", "id": "1:a/b", "root_id": "1:a/b",
            "parent_id": null, "group": null, "group_index": null, "shadow": null, "retries": 0,
            "timelimit": [null, null], "argsrepr": null,
            "kwargsrepr": "{\"raw\":{\"$bytes\":\"AP8=\"}}", "origin": "longshore",
            "ignore_result": false, "eta": "2026-01-02T03:04:05.678+00:00",
            "expires": "9999-12-31T23:59:59.999+00:00",
        })
    );
    assert_eq!(written.correlation_id.as_deref(), Some("1:a/b"));
    assert_eq!(written.reply_to.as_deref(), Some("results"));
    let body: Value = serde_json::from_slice(&written.body).unwrap();
    assert_eq!(
        body[1]["raw"],
        json!({"__type__": "base64", "__value__": "AP8="})
    );
    assert_eq!(
        body[2],
        json!({"callbacks": null, "errbacks": null, "chain": null, "chord": null})
    );
}

#[test]
fn an_answer_is_what_the_rpc_backend_reads() {
    let mut answer = Task::new("reply", "clients-queue").with_id("7f9c0d1e");
    answer.kwargs = Map::from_iter([
        ("status".to_owned(), json!("SUCCESS")),
        ("result".to_owned(), json!({ "$bytes": "AP8Q" })),
    ]);
    answer.wire = Wire::Reply;
    let message = encode(&answer);
    assert_eq!(message.correlation_id.as_deref(), Some("7f9c0d1e"));
    assert_eq!(message.content_type.as_deref(), Some(JSON));
    let body: Value = serde_json::from_slice(&message.body).unwrap();
    let bytes = json!({ "__type__": "base64", "__value__": "AP8Q" });
    assert_eq!(body, json!({ "status": "SUCCESS", "result": bytes }));
}

#[test]
fn a_time_for_others_goes_out_and_one_of_ours_goes_before_it() {
    let mut task = Task::new("a", "q").for_celery();
    assert_eq!(encode(&task).headers["eta"], Value::Null);
    task.headers
        .insert("eta".into(), "2026-01-01T00:00:00+00:00".into());
    assert_eq!(encode(&task).headers["eta"], "2026-01-01T00:00:00+00:00");
    task.run_at = Some(0);
    assert_ne!(encode(&task).headers["eta"], "2026-01-01T00:00:00+00:00");
}
