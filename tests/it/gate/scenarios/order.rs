//! Who is tested on what, and in which order it is published.

use longshore::gate::{NewEntry, Settings, Verb, Window};
use serde_json::json;

use super::super::bed::{Bed, entry, needs, step, voting, with_tests};
use crate::harness::{Bench, on_both};

on_both!(
    parallel_changes,
    independent_queues,
    patch_order,
    needed_changes_enqueue,
    delayed_merge_conflict,
    new_patchset_dequeues_old_on_head,
    new_patchset_dequeues_old_without_dependents,
    abandoned_gate,
    cancel_starting_build,
    supercedent_promote,
    deploy_window,
    deploy_window_shared,
    cycle_reporting_partial_failure,
    gate_reset_with_cycle,
);

/// 1. They are tested together and published in series, whoever is ready first.
async fn parallel_changes(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    bed.done("c/1/unit").await;
    bed.done("b/1/unit").await;
    assert_eq!(bed.open().await, ["a/1/unit"]);
    bed.lands("a").await;
    bed.lands("b").await;
    bed.lands("c").await;
    for id in ["a", "b", "c"] {
        assert_eq!(bed.find(id).await.generation, 1, "nothing is tested twice");
    }
}

/// 3. Gates of other names do not mix.
async fn independent_queues(bench: Bench) {
    let (one, two) = (
        Bed::of(bench.clone(), "one").await,
        Bed::of(bench, "two").await,
    );
    one.enqueue([entry("a"), entry("b")]).await;
    two.enqueue([entry("a")]).await;
    assert!(two.base("a").await.is_empty());
    one.fails("a/1/unit").await;
    assert_eq!(two.states().await, "a:speculating");
    two.lands("a").await;
    assert_eq!(one.open().await, ["b/2/unit"]);
}

/// 9. Those that are needed go first, however they are named.
async fn patch_order(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([
        needs(entry("c"), &["b"]),
        needs(entry("b"), &["a"]),
        entry("x"),
        entry("a"),
    ])
    .await;
    assert_eq!(
        bed.states().await,
        "x:speculating a:speculating b:speculating c:speculating"
    );
}

/// 10. What is needed is enqueued ahead, or is there, or was published; else nothing is.
async fn needed_changes_enqueue(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a")]).await;
    bed.lands("a").await;
    let missing = bed.enqueueing([entry("ok"), needs(entry("b"), &["a", "p"])]);
    let why = bed.refused(missing).await;
    assert_eq!(why, "entry b needs p, which is not in this gate");
    bed.enqueue([needs(entry("b"), &["a", "p"]), entry("p")])
        .await;
    assert_eq!(bed.states().await, "p:speculating b:speculating");
    let circle = bed.enqueueing([needs(entry("x"), &["y"]), needs(entry("y"), &["x"])]);
    assert!(bed.refused(circle).await.ends_with("published: x, y"));
}

/// 15. What an entry is tested on stays as it was when its tests began, whoever comes or conflicts behind it.
async fn delayed_merge_conflict(bench: Bench) {
    let bed = Bed::new(bench).await;
    let window = Window::fixed(2);
    bed.configure(Settings {
        window,
        ..Settings::default()
    })
    .await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    let before = bed.told("b/1/unit").await;
    bed.lands("a").await;
    // Only now it begins, and does not fit.
    bed.fails("c/1/unit").await;
    assert_eq!(bed.told("b/1/unit").await, before);
    assert_eq!(bed.base("b").await, ["a@1"]);
    bed.lands("b").await;
    assert_eq!(bed.ended().await, "a:published b:published c:failed");
}

fn version(id: &str, change: &str) -> NewEntry {
    NewEntry {
        change: Some(change.into()),
        ..entry(id)
    }
}

/// 19. A new version takes the old one out, with those that need it; others pass.
async fn new_patchset_dequeues_old_on_head(bench: Bench) {
    let bed = Bed::new(bench).await;
    let old = version("a1", "a");
    bed.enqueue([old, needs(entry("b"), &["a1"]), entry("c")])
        .await;
    bed.enqueue([version("a2", "a")]).await;
    assert_eq!(bed.ended().await, "a1:canceled b:canceled");
    assert_eq!(bed.find("a1").await.reason.unwrap(), "replaced by a2");
    assert_eq!(bed.open().await, ["a2/1/unit", "c/2/unit"]);
    bed.lands("c").await;
    bed.lands("a2").await;
    // One that is being published is not taken back.
    bed.enqueue([version("a3", "a")]).await;
    bed.done("a3/1/unit").await;
    bed.enqueue([version("a4", "a")]).await;
    assert_eq!(bed.states().await, "a3:publishing a4:speculating");
}

/// 20. Without any that need it, only the old one leaves.
async fn new_patchset_dequeues_old_without_dependents(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("x"), version("a1", "a"), entry("b")])
        .await;
    bed.enqueue([version("a2", "a")]).await;
    assert_eq!(
        bed.states().await,
        "x:speculating b:speculating a2:speculating"
    );
    assert_eq!(bed.ended().await, "a1:canceled");
    assert_eq!(bed.find("x").await.generation, 1, "nobody ahead is reset");
}

/// 21. One that is taken out leaves, and its tests end.
async fn abandoned_gate(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    assert_eq!(bed.ask(Verb::Dequeue("a".into())).await, ["a"]);
    assert_eq!(bed.task_state("a/1/unit").await, "canceled");
    assert_eq!(bed.open().await, ["b/2/unit"]);
    assert!(
        bed.refused(Verb::Dequeue("a".into()))
            .await
            .contains("no entry \"a\"")
    );
}

/// 22. One that is taken out between the enqueueing of its test and the beginning never runs it.
async fn cancel_starting_build(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a")]).await;
    let task = bed.task("a/1/unit").await;
    bed.ask(Verb::Dequeue("a".into())).await;
    let claim = bed.bench.claim(&bed.worker, &task).await;
    assert!(matches!(claim, longshore::store::ClaimAnswer::Not(_)));
    assert_eq!(bed.open().await, [""; 0]);
}

/// 48. Where only the newest counts: who runs and who came last do, those between are dropped.
async fn supercedent_promote(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(Settings {
        newest_only: true,
        window: Window::fixed(1),
        ..Settings::default()
    })
    .await;
    bed.enqueue([entry("a")]).await;
    bed.enqueue([entry("b")]).await;
    bed.enqueue([entry("c")]).await;
    assert_eq!(bed.states().await, "a:speculating c:queued");
    bed.lands("a").await;
    bed.lands("c").await;
    assert_eq!(bed.ended().await, "b:canceled a:published c:published");
}

/// 49. Every one, one at a time.
async fn deploy_window(bench: Bench) {
    let bed = Bed::new(bench).await;
    let window = Window::fixed(1);
    bed.configure(Settings {
        window,
        ..Settings::default()
    })
    .await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    for id in ["a", "b", "c"] {
        assert_eq!(bed.open().await, [format!("{id}/1/unit")]);
        bed.lands(id).await;
    }
}

/// 49. … those of several projects too, where they share a gate; a failure frees the place.
async fn deploy_window_shared(bench: Bench) {
    let bed = Bed::new(bench).await;
    let window = Window::fixed(1);
    bed.configure(Settings {
        window,
        ..Settings::default()
    })
    .await;
    bed.enqueue([entry("p-1"), entry("q-1"), entry("p-2")])
        .await;
    bed.lands("p-1").await;
    bed.fails("q-1/1/unit").await;
    assert_eq!(bed.open().await, ["p-2/1/unit"]);
    bed.lands("p-2").await;
    let twice = bed.enqueueing([version("r-1", "r"), version("r-2", "r")]);
    assert_eq!(
        bed.refused(twice).await,
        "two entries are versions of \"r\""
    );
}

/// Several changes that only make sense together are one entry.
fn group(id: &str) -> NewEntry {
    let mut group = with_tests(id, vec![voting("unit")]);
    group.kwargs.insert("changes".into(), json!(["x", "y"]));
    group.spec.report = Some(step("report"));
    group
}

/// 50. A group of which half was published is held, and when it is taken back all of it is told that it failed, once.
async fn cycle_reporting_partial_failure(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([group("xy"), entry("b")]).await;
    bed.done("xy/1/unit").await;
    bed.dies("xy/publish/1").await;
    bed.returns("xy/probe/1", json!("partial")).await;
    assert_eq!(bed.states().await, "xy:held b:speculating");
    bed.ask(Verb::Revert).await;
    bed.done("xy/revert/1").await;
    assert_eq!(bed.open().await, ["b/2/unit", "xy/report"]);
    let told = bed.task("xy/report").await.kwargs;
    assert_eq!(told["gate"]["outcome"], json!("failed"));
    assert_eq!(told["changes"], json!(["x", "y"]));
}

/// 50. A group is reset as a whole.
async fn gate_reset_with_cycle(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), group("xy"), entry("b")]).await;
    bed.fails("a/1/unit").await;
    assert_eq!(bed.open().await, ["b/2/unit", "xy/2/unit"]);
    assert_eq!(bed.base("b").await, ["xy@2"]);
}
