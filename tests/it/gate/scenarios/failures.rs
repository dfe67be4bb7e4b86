//! What a failure means for the entry, and for those behind it.

use longshore::gate::{NewEntry, Settings, Test};
use serde_json::json;

use super::super::bed::{Bed, entry, needs, step, voting, with_tests};
use crate::harness::{Bench, on_both};

on_both!(
    failed_changes,
    failed_change_at_head,
    failed_change_in_middle,
    failed_change_at_head_with_queue,
    two_failed_changes_at_head,
    head_is_dequeued_once,
    project_merge_conflict,
    submit_failure,
    failed_reporter,
    nonvoting_job,
    rerun_on_error,
    rerun_on_abort,
    fail_fast_gate,
    fail_fast_retry,
);

/// 2. Who was tested on one that fails is ended, and tested without it.
async fn failed_changes(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.fails("a/1/unit").await;
    assert_eq!(bed.task_state("b/1/unit").await, "canceled");
    bed.lands("b").await;
    assert!(bed.find("b").await.base.is_empty());
    assert_eq!(bed.ended().await, "a:failed b:published");
}

/// 4. The first one fails: all behind it are reset once.
async fn failed_change_at_head(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    bed.done("b/1/unit").await;
    bed.fails("a/1/unit").await;
    // What had passed on top of it says nothing any more.
    assert_eq!(bed.open().await, ["b/2/unit", "c/2/unit"]);
    assert_eq!(bed.base("c").await, ["b@2"]);
    bed.lands("b").await;
    bed.lands("c").await;
}

/// 5. One in the middle fails: only those behind it are reset.
async fn failed_change_in_middle(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    bed.fails("b/1/unit").await;
    let generations = [
        bed.find("a").await.generation,
        bed.find("c").await.generation,
    ];
    assert_eq!(generations, [1, 2]);
    bed.lands("a").await;
    bed.lands("c").await;
    assert_eq!(bed.ended().await, "a:published b:failed c:published");
}

fn in_steps(id: &str) -> NewEntry {
    let after = vec!["merge".to_owned()];
    let unit = Test {
        after,
        ..voting("unit")
    };
    with_tests(id, vec![voting("merge"), unit])
}

/// 6. Tests that have not been begun never are, either.
async fn failed_change_at_head_with_queue(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([in_steps("a"), in_steps("b")]).await;
    assert_eq!(bed.open().await, ["a/1/merge", "b/1/merge"]);
    bed.done("b/1/merge").await;
    bed.fails("a/1/merge").await;
    assert_eq!(bed.open().await, ["b/2/merge"]);
    assert!(bed.bench.find(&bed.full("a/1/unit")).await.is_none());
    assert_eq!(bed.task_state("b/1/unit").await, "canceled");
    bed.lands("b").await;
}

/// 7. Two fail, in either order: who is behind them is tested without both.
async fn two_failed_changes_at_head(bench: Bench) {
    for (gate, order) in [("one", ["a", "b"]), ("two", ["b", "a"])] {
        let bed = Bed::of(bench.clone(), gate).await;
        bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
        for id in order {
            let generation = bed.find(id).await.generation;
            bed.fails(&format!("{id}/{generation}/unit")).await;
        }
        if gate == "two" {
            // It failed on top of one that failed: that says nothing of it alone.
            assert_eq!(bed.states().await, "b:speculating c:speculating");
            bed.fails("b/2/unit").await;
        }
        assert!(bed.base("c").await.is_empty());
        bed.lands("c").await;
        assert_eq!(bed.ended().await, "a:failed b:failed c:published");
    }
}

/// 8. Two tests of the first one fail: it leaves once, and is told so once.
async fn head_is_dequeued_once(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(Settings {
        run_all_tests: true,
        ..Settings::default()
    })
    .await;
    let mut a = with_tests("a", vec![voting("one"), voting("two")]);
    a.spec.report = Some(step("report"));
    bed.enqueue([entry("x"), a, entry("b")]).await;
    bed.fails("a/1/one").await;
    bed.fails("a/1/two").await;
    bed.lands("x").await;
    assert_eq!(bed.ended().await, "x:published a:failed");
    assert_eq!(bed.open().await, ["a/report", "b/2/unit"]);
    assert_eq!(bed.find("b").await.generation, 2, "reset once");
    // The first one too stays until all of its tests are over.
    bed.enqueue([with_tests("c", vec![voting("one"), voting("two")])])
        .await;
    bed.lands("b").await;
    bed.fails("c/1/one").await;
    assert_eq!(bed.states().await, "c:failing");
    assert_eq!(bed.task_state("c/1/two").await, "queued");
    bed.done("c/1/two").await;
    assert_eq!(bed.states().await, "");
}

/// 14. An entry that does not fit fails like any other; the gate goes on.
async fn project_merge_conflict(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([in_steps("a"), in_steps("b"), in_steps("c")])
        .await;
    bed.fails("b/1/merge").await;
    let why = bed.find("b").await.reason.unwrap();
    assert_eq!(why, "merge failed: it does not work");
    bed.lands("a").await;
    bed.lands("c").await;
    assert_eq!(bed.ended().await, "a:published b:failed c:published");
}

/// 16. All tests pass and publishing fails: the entry has failed, and who was tested on it is tested again.
async fn submit_failure(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.done("a/1/unit").await;
    bed.done("b/1/unit").await;
    bed.fails("a/publish/1").await;
    // It said that it failed; whether nothing is there is looked at.
    bed.returns("a/probe/1", json!("absent")).await;
    assert_eq!(bed.ended().await, "a:failed");
    let why = bed.find("a").await.reason.unwrap();
    assert_eq!(why, "publishing failed: it does not work");
    assert_eq!(bed.open().await, ["b/2/unit"]);
}

/// 17. A report that fails is nobody else's.
async fn failed_reporter(bench: Bench) {
    let bed = Bed::new(bench).await;
    let told = |id: &str| {
        let mut told = entry(id);
        told.spec.report = Some(step("report"));
        told
    };
    bed.enqueue([told("a"), told("b")]).await;
    bed.done("a/1/unit").await;
    bed.done("a/publish/1").await;
    bed.done("a/verify/1").await;
    bed.fails("a/report").await;
    for task in ["b/1/unit", "b/publish/1", "b/verify/1"] {
        bed.done(task).await;
    }
    assert_eq!(bed.told("b/report").await["outcome"], json!("published"));
    bed.done("b/report").await;
    assert_eq!(bed.open().await, [""; 0], "a's is not made up for");
    assert_eq!(bed.ended().await, "a:published b:published");
}

/// 18. A test that does not vote does not decide, and nobody waits for it.
async fn nonvoting_job(bench: Bench) {
    let bed = Bed::new(bench).await;
    let lint = || Test {
        voting: false,
        ..voting("lint")
    };
    bed.enqueue([
        with_tests("a", vec![lint(), voting("unit")]),
        with_tests("b", vec![lint(), voting("unit")]),
    ])
    .await;
    bed.fails("a/1/lint").await;
    assert_eq!(bed.states().await, "a:speculating b:speculating");
    for task in ["a/1/unit", "a/publish/1", "a/verify/1"] {
        bed.done(task).await;
    }
    bed.done("b/1/unit").await;
    assert_eq!(bed.states().await, "b:publishing");
}

/// 23. A worker's trouble is no verdict: the test runs again, in the same generation.
async fn rerun_on_error(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.dies("a/1/unit").await;
    bed.loses("a/1/unit", 3).await;
    assert_eq!(bed.open().await, ["a/1/unit", "b/1/unit"]);
    bed.lands("a").await;
    assert_eq!(bed.find("b").await.generation, 1);
}

/// 24. … but not for ever: then it fails, and says why.
async fn rerun_on_abort(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), needs(entry("b"), &["a"])]).await;
    bed.loses("a/1/unit", 2).await;
    bed.loses("a/1/unit", 2).await;
    assert_eq!(bed.ended().await, "a:failed b:canceled");
    let why = bed.find("a").await.reason.unwrap();
    assert!(why.contains("its worker died 2 times"), "{why}");
}

/// 38. The other tests of one that has failed are ended; it stays until whoever is ahead has left.
async fn fail_fast_gate(bench: Bench) {
    let bed = Bed::new(bench).await;
    let two = || vec![voting("one"), voting("two")];
    bed.enqueue([entry("a"), with_tests("b", two())]).await;
    bed.fails("b/1/one").await;
    assert_eq!(bed.task_state("b/1/two").await, "canceled");
    assert_eq!(bed.states().await, "a:speculating b:failing");
    // Without the one ahead it is worth another try.
    bed.fails("a/1/unit").await;
    assert_eq!(bed.open().await, ["b/2/one", "b/2/two"]);
}

/// 39. A test that is to be tried again has not failed.
async fn fail_fast_retry(bench: Bench) {
    let bed = Bed::new(bench).await;
    let two = || vec![voting("one"), voting("two")];
    bed.enqueue([with_tests("a", two()), entry("b")]).await;
    bed.fails_for_now("a/1/one").await;
    assert_eq!(bed.states().await, "a:speculating b:speculating");
    assert_eq!(bed.open().await, ["a/1/one", "a/1/two", "b/1/unit"]);
}
