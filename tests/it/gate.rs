//! Gates on both stores: what is tested on what, what is published, and what nobody does. The tests play the workers.

mod bed;
mod commands;
mod real;
mod rivals;
mod scenarios;
mod swept;

use longshore::gate::{OnUnverified, Settings, Verb, Window};
use longshore::store::{Settlement, State};
use serde_json::json;

use crate::harness::{Bench, on_both};
use bed::{Bed, entry, needs};

on_both!(
    entries_are_tested_side_by_side_and_published_in_order,
    a_failure_resets_only_those_behind,
    what_a_publication_did_is_looked_at_before_it_is_made_again,
    what_was_stopped_or_lost_is_looked_at_and_not_made_again_for_ever,
    a_publication_that_is_not_seen_is_held_until_somebody_decides,
    who_needs_what_failed_leaves_unrun,
);

async fn entries_are_tested_side_by_side_and_published_in_order(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    assert_eq!(bed.open().await, ["a/1/unit", "b/1/unit", "c/1/unit"]);
    assert_eq!(bed.told("c/1/unit").await["base"][1]["entry"], json!("b"));
    // Ready, but not the first.
    bed.done("b/1/unit").await;
    assert_eq!(bed.states().await, "a:speculating b:ready c:speculating");
    bed.done("a/1/unit").await;
    assert_eq!(bed.open().await, ["a/publish/1", "c/1/unit"]);
    bed.done("a/publish/1").await;
    assert_eq!(bed.open().await, ["a/verify/1", "c/1/unit"]);
    bed.done("a/verify/1").await;
    bed.done("b/publish/1").await;
    bed.done("b/verify/1").await;
    bed.done("c/1/unit").await;
    bed.done("c/publish/1").await;
    bed.done("c/verify/1").await;
    assert_eq!(bed.ended().await, "a:published b:published c:published");
    assert_eq!(bed.open().await, [""; 0]);
}

async fn a_failure_resets_only_those_behind(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    bed.fails("b/1/unit").await;
    assert_eq!(bed.states().await, "a:speculating b:failing c:speculating");
    assert_eq!(bed.open().await, ["a/1/unit", "c/2/unit"]);
    assert_eq!(bed.base("c").await, ["a@1"]);
    // What the old generation says has no effect.
    assert_eq!(bed.task_state("c/1/unit").await, "canceled");
    bed.lands("a").await;
    assert_eq!(bed.ended().await, "a:published b:failed");
    assert_eq!(bed.states().await, "c:speculating");
    bed.lands("c").await;
}

async fn what_a_publication_did_is_looked_at_before_it_is_made_again(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.done("a/1/unit").await;
    bed.dies("a/publish/1").await;
    assert_eq!(bed.open().await, ["a/probe/1", "b/1/unit"]);
    bed.returns("a/probe/1", json!("absent")).await;
    assert_eq!(bed.open().await, ["a/publish/2", "b/1/unit"]);
    bed.dies("a/publish/2").await;
    bed.returns("a/probe/2", json!("done")).await;
    assert_eq!(bed.open().await, ["a/verify/1", "b/1/unit"]);
    bed.done("a/verify/1").await;
    assert_eq!(bed.ended().await, "a:published");
}

async fn what_was_stopped_or_lost_is_looked_at_and_not_made_again_for_ever(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a")]).await;
    bed.done("a/1/unit").await;
    // Canceled while it ran: it may have done its work.
    let epoch = bed.begins("a/publish/1").await;
    let stopped = Settlement {
        state: Some(State::Canceled),
        reason: Some("by hand".into()),
        ..Settlement::default()
    };
    bed.settles("a/publish/1", epoch, stopped).await;
    bed.returns("a/probe/1", json!("absent")).await;
    // Its row has gone.
    assert_eq!(bed.open().await, ["a/publish/2"]);
    let lost = bed.full("a/publish/2");
    bed.bench
        .execute(&format!("delete from tasks where id = '{lost}'"))
        .await;
    bed.bench.store.gate_step(&bed.gate).await.unwrap();
    bed.returns("a/probe/2", json!("absent")).await;
    bed.dies("a/publish/3").await;
    bed.returns("a/probe/3", json!("absent")).await;
    assert_eq!(bed.states().await, "a:held");
    let why = bed.find("a").await.reason.unwrap();
    assert!(why.contains("again and again"), "{why}");
    assert_eq!(bed.open().await, [""; 0]);
}

async fn a_publication_that_is_not_seen_is_held_until_somebody_decides(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(Settings {
        on_unverified: OnUnverified::Wait,
        window: Window::fixed(2),
        ..Settings::default()
    })
    .await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    bed.done("a/1/unit").await;
    bed.done("a/publish/1").await;
    bed.fails("a/verify/1").await;
    assert_eq!(bed.states().await, "a:held b:speculating c:queued");
    bed.done("b/1/unit").await;
    // None publishes past it.
    assert_eq!(bed.states().await, "a:held b:ready c:queued");
    assert!(
        bed.refused(Verb::Dequeue("a".into()))
            .await
            .contains("held")
    );
    bed.ask(Verb::Retry).await;
    bed.fails("a/verify/2").await;
    bed.ask(Verb::Revert).await;
    bed.done("a/revert/1").await;
    assert_eq!(bed.ended().await, "a:failed");
    // What was tested on it is tested again.
    assert_eq!(bed.open().await, ["b/2/unit", "c/1/unit"]);
}

async fn who_needs_what_failed_leaves_unrun(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([
        needs(entry("c"), &["a"]),
        entry("a"),
        needs(entry("d"), &["c"]),
        entry("b"),
    ])
    .await;
    assert_eq!(
        bed.states().await,
        "a:speculating c:speculating d:speculating b:speculating"
    );
    bed.fails("a/1/unit").await;
    assert_eq!(bed.ended().await, "a:failed c:canceled d:canceled");
    assert_eq!(
        bed.find("d").await.reason.unwrap(),
        "it needs c, which is canceled"
    );
    assert_eq!(bed.open().await, ["b/2/unit"]);
}
