use proptest::prelude::*;

use super::*;
use crate::config::Config;

/// 2026-01-01.
const NOW: Millis = 1_767_225_600_000;

fn routes() -> Routes {
    Config::embedded(std::path::Path::new(".")).celery.routes
}

fn task(workflow: Value) -> Task {
    let mut task = Task::new("first", "q").with_id("parent").for_celery();
    task.headers.insert("root_id".into(), "root".into());
    task.headers.insert(WORKFLOW.into(), workflow);
    task
}

fn sig(name: &str, args: Value, options: Value) -> Value {
    json!({ "task": name, "args": args, "kwargs": {}, "options": options, "subtask_type": null, "immutable": false })
}

fn group(tasks: Value, options: Value) -> Value {
    json!({ "task": "celery.group", "args": [], "kwargs": { "tasks": tasks }, "options": options, "subtask_type": "group", "immutable": false })
}

fn chain(tasks: Value, options: Value) -> Value {
    json!({ "task": "celery.chain", "args": [], "kwargs": { "tasks": tasks }, "options": options, "subtask_type": "chain", "immutable": false })
}

fn succeeded(workflow: Value, value: Value) -> Plan {
    let (routes, task) = (routes(), task(workflow));
    let mut canvas = Canvas::new(&routes, &task, NOW);
    canvas.succeeded(&value).unwrap();
    canvas.end()
}

fn names(steps: &Value) -> Vec<&str> {
    let steps = steps.as_array().unwrap();
    steps
        .iter()
        .map(|step| step["task"].as_str().unwrap())
        .collect()
}

#[test]
fn the_last_of_a_chain_is_next_and_gets_the_rest() {
    let steps = json!([
        sig("c", json!([]), json!({})),
        sig(
            "b",
            json!([2]),
            json!({ "task_id": "id-b", "queue": "q2", "reply_to": "me" })
        )
    ]);
    let plan = succeeded(json!({ "chain": steps }), json!(1));
    let [next] = &plan.posts[..] else {
        panic!("{:?}", plan.posts)
    };
    assert_eq!(
        (next.name.as_str(), next.id.as_str(), next.queue.as_str()),
        ("b", "id-b", "q2")
    );
    assert_eq!(next.args, [json!(1), json!(2)]);
    assert_eq!(next.wire, Wire::Celery);
    let header = |key: &str| next.headers[key].clone();
    assert_eq!(
        (header("root_id"), header("parent_id"), header("reply_to")),
        (json!("root"), json!("parent"), json!("me"))
    );
    assert_eq!(names(&next.headers[WORKFLOW]["chain"]), ["c"]);
    assert_eq!(
        plan.children,
        [json!([["id-b", [["parent", null], null]], null])]
    );
}

#[test]
fn ids_that_are_not_there_are_the_same_each_time() {
    let workflow =
        || json!({ "callbacks": [sig("a", json!([]), json!({})), sig("a", json!([]), json!({}))] });
    let ids = |plan: Plan| {
        plan.posts
            .into_iter()
            .map(|task| task.id)
            .collect::<Vec<_>>()
    };
    let first = ids(succeeded(workflow(), json!(1)));
    assert_eq!(first, ids(succeeded(workflow(), json!(1))));
    assert_ne!(first[0], first[1]);
}

#[test]
fn an_immutable_signature_takes_nothing() {
    let mut next = sig("b", json!([2]), json!({}));
    next["immutable"] = true.into();
    let plan = succeeded(json!({ "chain": [next] }), json!(1));
    assert_eq!(plan.posts[0].args, [json!(2)]);
}

#[test]
fn options_become_headers_and_times() {
    let options = json!({
        "priority": 7, "countdown": 60, "expires": "2026-01-02T00:00:00+00:00", "time_limit": 10, "soft_time_limit": 5,
        "ignore_result": true, "headers": { "own": 1 }, "stamped_headers": ["s"], "s": ["v"], "link": sig("l", json!([]), json!({})),
        "link_error": [sig("e", json!([]), json!({}))],
    });
    let plan = succeeded(
        json!({ "callbacks": [sig("b", json!([]), options)] }),
        json!(1),
    );
    let task = &plan.posts[0];
    assert_eq!(
        (task.priority, task.expires_at, task.run_at),
        (7, Some(NOW + 86_400_000), None)
    );
    assert_eq!(task.headers["eta"], codec::iso8601(NOW + 60_000));
    assert_eq!(task.headers["timelimit"], json!([10, 5]));
    assert_eq!(task.headers["ignore_result"], json!(true));
    assert_eq!(
        (&task.headers["own"], &task.headers["stamps"]),
        (&json!(1), &json!({ "s": ["v"] }))
    );
    assert_eq!(names(&task.headers[WORKFLOW]["callbacks"]), ["l"]);
    assert_eq!(names(&task.headers[WORKFLOW]["errbacks"]), ["e"]);
}

#[test]
fn members_of_a_group_know_it() {
    let members = json!([
        sig("a", json!([1]), json!({})),
        group(json!([sig("b", json!([2]), json!({}))]), json!({}))
    ]);
    let plan = succeeded(
        json!({ "chain": [group(members, json!({ "task_id": "g" }))] }),
        json!(0),
    );
    let told = plan.posts.iter().map(|task| {
        (
            task.name.as_str(),
            &task.headers["group"],
            &task.headers["group_index"],
        )
    });
    assert_eq!(
        told.collect::<Vec<_>>(),
        [("a", &json!("g"), &json!(0)), ("b", &json!("g"), &json!(1))]
    );
    assert_eq!(plan.posts[1].args, [json!(0), json!(2)]);
}

#[test]
fn a_chain_in_a_callback_is_unpacked_and_a_group_with_a_step_after_it_is_a_chord() {
    let steps = json!([
        sig("a", json!([]), json!({})),
        chain(
            json!([
                group(
                    json!([
                        sig("b", json!([]), json!({})),
                        sig("c", json!([]), json!({}))
                    ]),
                    json!({})
                ),
                sig("d", json!([]), json!({}))
            ]),
            json!({})
        ),
        sig("e", json!([]), json!({})),
    ]);
    let plan = succeeded(
        json!({ "callbacks": [chain(steps, json!({ "task_id": "end" }))] }),
        json!(1),
    );
    let [first] = &plan.posts[..] else {
        panic!("{:?}", plan.posts)
    };
    assert_eq!(first.name, "a");
    let rest = &first.headers[WORKFLOW]["chain"];
    assert_eq!(names(rest), ["e", "celery.chord"]);
    assert_eq!(rest[0]["options"]["task_id"], "end");
    assert_eq!(rest[1]["kwargs"]["body"]["task"], "d");
}

#[test]
fn a_chord_in_a_chain_hands_what_comes_after_it_to_its_body() {
    let mut chord = sig("celery.chord", json!([]), json!({}));
    // As a client wrote it down before it knew what comes after.
    let early = sig("body", json!([]), json!({ "task_id": "body-id" }));
    chord["subtask_type"] = "chord".into();
    chord["kwargs"] = json!({
        "kwargs": {},
        "header": group(json!([sig("a", json!([]), json!({ "task_id": "a-id", "chord": early })), sig("b", json!([]), json!({}))]), json!({ "task_id": "g" })),
        "body": early,
    });
    let plan = succeeded(
        json!({ "chain": [sig("after", json!([]), json!({})), chord] }),
        json!(1),
    );
    assert_eq!(
        plan.posts
            .iter()
            .map(|task| task.name.as_str())
            .collect::<Vec<_>>(),
        ["a", "b"]
    );
    for part in &plan.posts {
        let body = &part.headers[WORKFLOW]["chord"];
        assert_eq!(
            (&body["options"]["task_id"], &body["chord_size"]),
            (&json!("body-id"), &json!(2))
        );
        assert_eq!(names(&body["options"]["chain"]), ["after"]);
        assert!(part.headers[WORKFLOW].get("chain").is_none());
    }
    let [begun] = &plan.chords[..] else {
        panic!("{:?}", plan.chords)
    };
    assert_eq!((begun.group.as_str(), begun.size), ("g", 2));
    assert_eq!(begun.results[0], json!([["a-id", null], null]));
}

#[test]
fn a_failure_is_that_of_all_steps_to_come_and_calls_errbacks_with_the_id() {
    let workflow = json!({
        "chain": [sig("c", json!([]), json!({ "task_id": "c" })), sig("b", json!([]), json!({ "task_id": "b" }))],
        "errbacks": [sig("e", json!(["more"]), json!({}))],
        "callbacks": [sig("never", json!([]), json!({}))],
    });
    let (routes, task) = (routes(), task(workflow));
    let mut canvas = Canvas::new(&routes, &task, NOW);
    let steps = canvas.failed().unwrap();
    assert_eq!(
        steps
            .iter()
            .map(|step| step.id.as_str())
            .collect::<Vec<_>>(),
        ["b", "c"]
    );
    let plan = canvas.end();
    let [errback] = &plan.posts[..] else {
        panic!("{:?}", plan.posts)
    };
    assert_eq!(
        (errback.name.as_str(), &errback.args),
        ("e", &vec![json!("parent"), json!("more")])
    );
    assert_eq!(errback.queue, "celery");
}

#[test]
fn a_part_of_a_chord_ends_with_its_task_however_that_ended() {
    let workflow = json!({ "chord": sig("body", json!([]), json!({ "task_id": "body" })) });
    let (routes, mut task) = (routes(), task(workflow));
    task.headers.insert("group".into(), "g".into());
    for succeeds in [true, false] {
        let mut canvas = Canvas::new(&routes, &task, NOW);
        if succeeds {
            canvas.succeeded(&Value::Null).unwrap();
        } else {
            canvas.failed().unwrap();
        }
        let plan = canvas.end();
        let [(group, unlock)] = &plan.parts[..] else {
            panic!("{:?}", plan.parts)
        };
        assert_eq!(
            (group.as_str(), unlock.name.as_str(), unlock.queue.as_str()),
            ("g", UNLOCK, "q")
        );
    }
}

#[test]
fn nonsense_is_said_to_be_nonsense() {
    let mut deep = sig("a", json!([]), json!({}));
    for _ in 0..100 {
        deep = group(json!([deep]), json!({}));
    }
    let late = sig("a", json!([]), json!({ "eta": "tomorrow" }));
    for step in [json!(1), json!({}), deep, late] {
        let (routes, task) = (routes(), task(json!({ "chain": [step] })));
        let mut canvas = Canvas::new(&routes, &task, NOW);
        assert!(matches!(
            canvas.succeeded(&Value::Null),
            Err(Broken::Workflow(_))
        ));
    }
}

fn json_value() -> impl Strategy<Value = Value> {
    let keys = prop::sample::select(vec![
        "task",
        "args",
        "kwargs",
        "options",
        "subtask_type",
        "immutable",
        "tasks",
        "header",
        "body",
        "chain",
        "chord",
        "task_id",
        "group_id",
        "link",
        "link_error",
        "eta",
        "queue",
        "x",
    ]);
    let texts = prop::sample::select(vec![
        "group",
        "chain",
        "chord",
        "celery.group",
        "a",
        "2026-01-01T00:00:00",
        "",
    ]);
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        texts.prop_map(Value::from)
    ];
    leaf.prop_recursive(8, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((keys.clone(), inner), 0..6).prop_map(|entries| entries
                .into_iter()
                .map(|(key, value)| (key.to_owned(), value))
                .collect::<Map<_, _>>()
                .into()),
        ]
    })
}

proptest! {
    /// A workflow is whatever a producer wrote: it goes on or is refused, and nothing panics.
    #[test]
    fn no_workflow_panics(workflow in json_value(), value in json_value()) {
        let (routes, task) = (routes(), task(workflow));
        let mut canvas = Canvas::new(&routes, &task, NOW);
        let _either = canvas.succeeded(&value);
        let _either = canvas.failed();
        let _plan = canvas.end();
    }
}

#[test]
fn a_part_of_a_chord_that_ends_in_a_group_counts_with_each_of_its_members() {
    let plain = |name: &str| sig(name, json!([]), json!({}));
    let inner = group(json!([plain("b"), plain("c")]), json!({}));
    let header = group(
        json!([chain(json!([plain("a"), inner]), json!({})), plain("d")]),
        json!({ "task_id": "header" }),
    );
    let chord = json!({
        "task": "celery.chord", "args": [], "kwargs": { "kwargs": {}, "header": header, "body": plain("body") },
        "options": {}, "subtask_type": "chord", "immutable": false,
    });
    let plan = succeeded(json!({ "chain": [chord] }), json!(1));
    let begun = &plan.chords[0];
    assert_eq!(begun.size, 3);
    let members = begun.results[0][1].as_array().unwrap();
    assert_eq!((members.len(), &begun.results[1][1]), (2, &Value::Null));
    // The group that is still to come takes part in the outer chord, member by member.
    let next = &plan.posts[0].headers[WORKFLOW]["chain"][0];
    for (member, result) in next["kwargs"]["tasks"]
        .as_array()
        .unwrap()
        .iter()
        .zip(members)
    {
        assert_eq!(member["options"]["task_id"], result[0][0]);
        assert_eq!(member["options"]["group_id"], "header");
        assert_eq!(member["options"]["chord"]["task"], "body");
    }
}

#[test]
fn chunks_are_a_group_of_maps_on_the_queue_of_what_they_map() {
    let mut task = task(json!({}));
    task.kwargs =
        json!({ "task": sig("add", json!([]), json!({})), "it": [[1, 2], [3, 4], [5, 6]], "n": 2 })
            .as_object()
            .unwrap()
            .clone();
    let routes = routes();
    let mut canvas = Canvas::new(&routes, &task, NOW);
    let result = canvas.chunks().unwrap();
    let plan = canvas.end();
    let parts = plan.posts.iter().map(|part| &part.kwargs["it"]);
    let parts = parts.collect::<Vec<_>>();
    assert_eq!(parts, [&json!([[1, 2], [3, 4]]), &json!([[5, 6]])]);
    assert_eq!(plan.posts[0].name, "celery.starmap");
    assert_eq!(result[1][1][0][0], plan.posts[1].id.as_str());
    task.kwargs.insert("n".into(), 0.into());
    assert!(Canvas::new(&routes, &task, NOW).chunks().is_err());
}
