//! Entries that need others, tests that wait for tests, results that are handed on.

use longshore::gate::{NewEntry, Test, Verb};
use serde_json::{Value, json};

use super::super::bed::{Bed, entry, needs, voting, with_tests};
use crate::harness::{Bench, on_both};

on_both!(
    dependent_changes_dequeue,
    failing_dependent_changes,
    dependent_behind_dequeue,
    jobs_launched_only_if_all_dependencies_are_successful,
    soft_dependencies_failure,
    provides_requires_shared_queue_fast,
    provides_requires_shared_queue_slow,
    provides_requires_check_old_failure,
    job_pause_retry,
);

/// 11. What is needed does not fit: those that need it leave, whatever their tests say by then.
async fn dependent_changes_dequeue(bench: Bench) {
    let bed = Bed::new(bench).await;
    let c = needs(entry("c"), &["b"]);
    bed.enqueue([entry("a"), needs(entry("b"), &["a"]), c, entry("x")])
        .await;
    bed.done("c/1/unit").await;
    bed.fails("a/1/unit").await;
    assert_eq!(bed.ended().await, "a:failed b:canceled c:canceled");
    assert_eq!(
        bed.find("b").await.reason.unwrap(),
        "it needs a, which is failed"
    );
    assert_eq!(bed.open().await, ["x/2/unit"]);
}

/// 12. Those that need a failing one wait unrun for its end and leave with it; others pass.
async fn failing_dependent_changes(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([
        entry("x"),
        entry("a"),
        needs(entry("b"), &["a"]),
        entry("c"),
    ])
    .await;
    bed.fails("a/1/unit").await;
    assert_eq!(
        bed.states().await,
        "x:speculating a:failing b:queued c:speculating"
    );
    assert_eq!(bed.base("c").await, ["x@1"]);
    bed.lands("x").await;
    assert_eq!(bed.ended().await, "x:published a:failed b:canceled");
    bed.lands("c").await;
    // If the one ahead fails instead, what failed on top of it and what needs that get another try.
    bed.enqueue([entry("x2"), entry("a2"), needs(entry("b2"), &["a2"])])
        .await;
    bed.fails("a2/1/unit").await;
    bed.fails("x2/1/unit").await;
    assert_eq!(bed.open().await, ["a2/2/unit", "b2/2/unit"]);
    bed.lands("a2").await;
    bed.lands("b2").await;
}

/// 13. Those behind one that is taken out, and those that need them, are handled still.
async fn dependent_behind_dequeue(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([
        entry("a"),
        entry("b"),
        needs(entry("c"), &["b"]),
        entry("d"),
    ])
    .await;
    bed.ask(Verb::Dequeue("a".into())).await;
    assert_eq!(bed.open().await, ["b/2/unit", "c/2/unit", "d/2/unit"]);
    bed.enqueue([needs(entry("e"), &["d", "c"])]).await;
    for id in ["b", "c", "d", "e"] {
        bed.lands(id).await;
    }
    assert_eq!(
        bed.ended().await,
        "a:canceled b:published c:published d:published e:published"
    );
}

/// 36. A test begins when all that it is to run after have passed, and fails unrun if one has not.
async fn jobs_launched_only_if_all_dependencies_are_successful(bench: Bench) {
    let bed = Bed::new(bench).await;
    let after = |key: &str, after: &[&str], votes: bool| Test {
        after: after.iter().map(|&key| key.to_owned()).collect(),
        voting: votes,
        ..voting(key)
    };
    let tests = vec![
        after("one", &[], false),
        after("two", &[], true),
        after("both", &["one", "two"], false),
        after("more", &["both"], false),
        after("last", &["two"], true),
    ];
    bed.enqueue([entry("x"), with_tests("a", tests)]).await;
    assert_eq!(bed.open().await, ["a/1/one", "a/1/two", "x/1/unit"]);
    bed.done("a/1/two").await;
    assert_eq!(bed.open().await, ["a/1/last", "a/1/one", "x/1/unit"]);
    bed.fails("a/1/one").await;
    assert_eq!(bed.open().await, ["a/1/last", "x/1/unit"]);
    let standing = serde_json::to_value(&bed.find("a").await.tests["more"]).unwrap();
    assert_eq!(
        standing,
        json!({ "failed": "not run: it is to run after both, which failed" })
    );
    bed.done("a/1/last").await;
    assert_eq!(bed.states().await, "x:speculating a:ready");
}

/// 37. One that is to run after others however they end begins then.
async fn soft_dependencies_failure(bench: Bench) {
    let bed = Bed::new(bench).await;
    let one = Test {
        voting: false,
        ..voting("one")
    };
    let soft = Test {
        after_any: vec!["one".into()],
        ..voting("soft")
    };
    bed.enqueue([with_tests("a", vec![one, soft])]).await;
    assert_eq!(bed.open().await, ["a/1/one"]);
    bed.fails("a/1/one").await;
    assert_eq!(bed.open().await, ["a/1/soft"]);
    bed.lands("a").await;
}

fn provider(id: &str, votes: bool) -> NewEntry {
    let build = Test {
        provides: vec!["image".into()],
        voting: votes,
        ..voting("build")
    };
    with_tests(id, vec![build, voting("unit")])
}

fn consumer(id: &str) -> NewEntry {
    let test = Test {
        requires: vec!["image".into()],
        ..voting("install")
    };
    with_tests(id, vec![test])
}

async fn artifacts(bed: &Bed, task: &str) -> Value {
    bed.told(task).await["artifacts"].clone()
}

/// 45. The provider is done first: its results are handed on for as long as it is not published.
async fn provides_requires_shared_queue_fast(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([provider("a", true)]).await;
    bed.returns("a/1/build", json!({ "sha": "1" })).await;
    bed.enqueue([consumer("b")]).await;
    let handed =
        json!([{ "entry": "a", "test": "build", "provides": "image", "result": { "sha": "1" } }]);
    assert_eq!(artifacts(&bed, "b/1/install").await, handed);
    bed.lands("a").await;
    bed.enqueue([consumer("c")]).await;
    assert_eq!(artifacts(&bed, "c/1/install").await, json!([]));
}

/// 45. The provider is slow: whoever requires its results waits for them, without a task.
async fn provides_requires_shared_queue_slow(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([provider("a", true), provider("x", true), consumer("b")])
        .await;
    bed.returns("a/1/build", json!("one")).await;
    assert!(bed.bench.find(&bed.full("b/1/install")).await.is_none());
    bed.returns("x/1/build", json!("two")).await;
    let handed = artifacts(&bed, "b/1/install").await;
    assert_eq!(
        (&handed[0]["result"], &handed[1]["result"]),
        (&json!("one"), &json!("two"))
    );
    // It waits for one that is published before it provides anything: then all find it in public.
    bed.enqueue([provider("p", false), consumer("q")]).await;
    for id in ["a", "x", "b"] {
        bed.lands(id).await;
    }
    for task in ["p/1/unit", "p/publish/1", "p/verify/1"] {
        bed.done(task).await;
    }
    assert_eq!(artifacts(&bed, "q/1/install").await, json!([]));
}

/// 46. The provider failed: whoever requires its results fails unrun.
async fn provides_requires_check_old_failure(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([provider("a", false), consumer("b")]).await;
    bed.fails("a/1/build").await;
    assert!(bed.bench.find(&bed.full("b/1/install")).await.is_none());
    let why = bed.find("b").await.reason.unwrap();
    assert_eq!(
        why,
        "install failed: not run: it requires image, and build of a failed"
    );
    bed.lands("a").await;
    assert_eq!(bed.ended().await, "a:published b:failed");
}

/// Number 47, in its place: a test whose worker is lost runs again before those that are to run after it begin; tests that got the results
/// of an entry ahead run again with the new ones when that one is tested again.
async fn job_pause_retry(bench: Bench) {
    let bed = Bed::of(bench.clone(), "parent").await;
    let child = Test {
        after: vec!["parent".into()],
        ..voting("child")
    };
    bed.enqueue([with_tests("a", vec![voting("parent"), child])])
        .await;
    bed.loses("a/1/parent", 3).await;
    assert_eq!(bed.open().await, ["a/1/parent"]);
    bed.done("a/1/parent").await;
    assert_eq!(bed.open().await, ["a/1/child"]);
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("x"), provider("a", true), consumer("b")])
        .await;
    bed.returns("a/1/build", json!("old")).await;
    assert_eq!(
        artifacts(&bed, "b/1/install").await[0]["result"],
        json!("old")
    );
    bed.fails("x/1/unit").await;
    assert_eq!(bed.open().await, ["a/2/build", "a/2/unit"]);
    bed.returns("a/2/build", json!("new")).await;
    assert_eq!(
        artifacts(&bed, "b/2/install").await[0]["result"],
        json!("new")
    );
}
