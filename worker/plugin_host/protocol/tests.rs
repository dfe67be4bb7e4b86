use std::collections::BTreeMap;

use serde_json::json;

use super::*;

const PROTO: &str = include_str!("../../../protos/longshore/plugin/v1/plugin.proto");

/// Per message of the `.proto` file: its fields by their names in JSON.
fn declared() -> BTreeMap<String, Vec<String>> {
    let message = regex::Regex::new(r"^message (\w+) \{").unwrap();
    let field = regex::Regex::new(r"^ +(?:optional |repeated )?[\w.]+ (\w+) = \d+;").unwrap();
    let mut found = BTreeMap::<String, Vec<String>>::new();
    let mut current = String::new();
    for line in PROTO.lines() {
        if let Some(name) = message.captures(line) {
            current = name[1].to_owned();
            found.entry(current.clone()).or_default();
        } else if let Some(name) = field.captures(line) {
            found.get_mut(&current).unwrap().push(camel(&name[1]));
        }
    }
    found.values_mut().for_each(|names| names.sort());
    found
}

fn camel(name: &str) -> String {
    let mut parts = name.split('_');
    let mut text = parts.next().unwrap().to_owned();
    for part in parts {
        text.push_str(&part[..1].to_uppercase());
        text.push_str(&part[1..]);
    }
    text
}

fn keys(value: &impl Serialize) -> Vec<String> {
    let value = serde_json::to_value(value).unwrap();
    let mut keys = value
        .as_object()
        .unwrap()
        .keys()
        .cloned()
        .collect::<Vec<_>>();
    keys.sort();
    keys
}

/// The fields of what a message holds.
fn inner(message: &impl Serialize) -> (String, Vec<String>) {
    let value = serde_json::to_value(message).unwrap();
    let (kind, value) = value.as_object().unwrap().iter().next().unwrap();
    (kind.clone(), keys(value))
}

#[test]
fn the_structs_say_what_the_proto_file_says() {
    let declared = declared();
    let some = || Some(1.0);
    let task = Task {
        soft_time_limit: some(),
        ..Task::default()
    };
    let start = Start {
        task: Some(task.clone()),
        testjob: Some(TestJob::default()),
        checkpoint: Some(json!(1)),
        ..Start::default()
    };
    let name = TaskName {
        time_limit: some(),
        soft_time_limit: some(),
        ..TaskName::default()
    };
    let retry = Retry {
        args: Some(Vec::new()),
        kwargs: Some(Map::new()),
        ..Retry::default()
    };
    for (message, fields) in [
        ("Start", keys(&start)),
        ("Task", keys(&task)),
        ("TestJob", keys(&TestJob::default())),
        ("FileName", keys(&FileName::default())),
        ("Hello", keys(&Hello::default())),
        ("TaskName", keys(&name)),
        ("Failed", keys(&Failed::default())),
        ("Retry", keys(&retry)),
        ("Test", keys(&Test::default())),
        ("Metric", keys(&Metric::default())),
        ("Attachment", keys(&Attachment::default())),
    ] {
        assert_eq!(declared[message], fields, "{message}");
    }
}

#[test]
fn the_kinds_say_what_the_proto_file_says() {
    let declared = declared();
    let some = || Some(1.0);
    let text = String::new;
    let told = [
        ToChild::Saved {},
        ToChild::Drain { seconds: some() },
        ToChild::File {
            name: text(),
            path: text(),
        },
    ];
    for message in told {
        let (kind, fields) = inner(&message);
        assert!(declared["ToChild"].contains(&kind), "{kind}");
        let name = format!("{}{}", kind[..1].to_uppercase(), &kind[1..]);
        assert_eq!(declared[&name], fields, "{name}");
    }
    let heard = [
        FromChild::Alive {},
        FromChild::Log {
            level: text(),
            text: text(),
        },
        FromChild::Checkpoint { value: json!(1) },
        FromChild::Progress { text: text() },
        FromChild::Done { result: json!(1) },
        FromChild::Later {
            seconds: 1.0,
            reason: text(),
        },
        FromChild::HandOff {},
        FromChild::Ignored {},
        FromChild::Metadata {
            key: text(),
            value: json!(1),
        },
        FromChild::Problem { text: text() },
        FromChild::Want { name: text() },
    ];
    for message in heard {
        let (kind, fields) = inner(&message);
        let name = format!("{}{}", kind[..1].to_uppercase(), &kind[1..]);
        assert_eq!(declared[&name], fields, "{name}");
    }
    let mut kinds = KINDS.map(str::to_owned).to_vec();
    kinds.sort();
    assert_eq!(declared["FromChild"], kinds);
}

#[tokio::test]
async fn lines_become_messages_and_what_is_unknown_is_passed_over() {
    let mut input: &[u8] = b"\n{\"later v\": {}}\n{\"alive\":{}}\r\n{\"done\":{\"result\":7}}";
    assert_eq!(read(&mut input).await.unwrap(), Some(FromChild::Alive {}));
    let done = FromChild::Done { result: json!(7) };
    assert_eq!(read(&mut input).await.unwrap(), Some(done));
    assert_eq!(read(&mut input).await.unwrap(), None);
}

#[tokio::test]
async fn what_is_no_message_says_so() {
    let mut input: &[u8] = b"hello world\n";
    let error = read(&mut input).await.unwrap_err().to_string();
    assert!(error.contains("hello world"), "{error}");
    let mut input: &[u8] = b"{\"test\":{\"suite\":1}}\n";
    assert!(read(&mut input).await.is_err());
}

#[tokio::test]
async fn a_line_without_an_end_is_refused() {
    let endless = vec![b'x'; MAX_LINE + 2];
    let mut input = endless.as_slice();
    assert!(matches!(read(&mut input).await, Err(Unheard::TooLong)));
}
