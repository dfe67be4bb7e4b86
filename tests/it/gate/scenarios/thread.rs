//! What RDO's maintainers feared, or had: a publish job after the gate, of which nobody saw that it failed.

use serde_json::json;

use super::super::bed::{Bed, entry, step};
use crate::harness::{Bench, on_both};

on_both!(
    r1_a_window_between_merge_and_publish,
    r2_a_publish_that_fails_unseen,
    r3_a_follower_tested_with_what_never_landed,
    r4_two_publishers_land_out_of_order,
    r5_a_channel_lost_while_publishing,
    r6_a_mirror_that_does_not_answer,
);

/// R1. Who merges the source is told after the publish; until then the entry is ahead of everybody, in what they are tested on.
async fn r1_a_window_between_merge_and_publish(bench: Bench) {
    let bed = Bed::new(bench).await;
    let mut a = entry("a");
    a.spec.report = Some(step("merge"));
    bed.enqueue([a]).await;
    bed.done("a/1/unit").await;
    for (state, task) in [("publishing", "a/publish/1"), ("verifying", "a/verify/1")] {
        assert_eq!(bed.find("a").await.state.as_str(), state);
        assert!(bed.bench.find(&bed.full("a/report")).await.is_none());
        let late = format!("after-{state}");
        bed.enqueue([entry(&late)]).await;
        assert_eq!(bed.base(&late).await[0], "a@1");
        bed.done(task).await;
    }
    assert_eq!(bed.told("a/report").await["outcome"], json!("published"));
}

/// R2. The failure is the entry's: it is told, those behind are tested without it, and it comes back only through its tests.
async fn r2_a_publish_that_fails_unseen(bench: Bench) {
    let bed = Bed::new(bench).await;
    let with_report = |id: &str| {
        let mut told = entry(id);
        told.spec.report = Some(step("report"));
        told
    };
    bed.enqueue([with_report("a"), entry("b")]).await;
    bed.done("a/1/unit").await;
    bed.done("b/1/unit").await;
    bed.fails("a/publish/1").await;
    bed.returns("a/probe/1", json!("absent")).await;
    let told = bed.told("a/report").await;
    assert_eq!(
        (&told["outcome"], &told["reason"]),
        (
            &json!("failed"),
            &json!("publishing failed: it does not work")
        )
    );
    assert!(bed.find("b").await.base.is_empty());
    // By hand the publication does not run again, and the same entry is the same: it has ended.
    bed.bench
        .store
        .revive(&[bed.full("a/publish/1")])
        .await
        .unwrap();
    bed.enqueue([with_report("a")]).await;
    assert_eq!(bed.open().await, ["a/report", "b/2/unit"]);
    bed.enqueue([with_report("a-again")]).await;
    assert_eq!(bed.base("a-again").await, ["b@2"]);
}

/// R3. What a follower was tested with did not land: that test says nothing.
async fn r3_a_follower_tested_with_what_never_landed(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.done("b/1/unit").await;
    bed.done("a/1/unit").await;
    bed.fails("a/publish/1").await;
    // Until it is known what is there, nobody goes on without it.
    assert_eq!(bed.states().await, "a:probing b:ready");
    bed.returns("a/probe/1", json!("absent")).await;
    assert_eq!(bed.open().await, ["b/2/unit"]);
    assert_eq!(bed.told("b/2/unit").await["base"], json!([]));
    bed.lands("b").await;
}

/// R4. There are never two publishers, and a later one has a larger token than all before it.
async fn r4_two_publishers_land_out_of_order(bench: Bench) {
    let bed = Bed::new(bench).await;
    let ids = ["a", "b", "c"];
    bed.enqueue(ids.map(entry)).await;
    for id in ids {
        bed.done(&format!("{id}/1/unit")).await;
    }
    let mut last = 0;
    for id in ids {
        let open = bed.open().await;
        assert_eq!(open, [format!("{id}/publish/1")]);
        let task = bed.task(&open[0]).await;
        let claimed = bed.bench.claimed(&bed.worker, &task).await;
        assert!(claimed.token > last);
        last = claimed.token;
        bed.settles(
            &open[0],
            claimed.epoch,
            longshore::store::Settlement::default(),
        )
        .await;
        bed.done(&format!("{id}/verify/1")).await;
    }
}

/// R5. Nobody knows whether it landed: that is looked at, and then it is published again or not.
async fn r5_a_channel_lost_while_publishing(bench: Bench) {
    for (gate, found, next) in [
        ("landed", "done", "a/verify/1"),
        ("lost", "absent", "a/publish/2"),
    ] {
        let bed = Bed::of(bench.clone(), gate).await;
        bed.enqueue([entry("a")]).await;
        bed.done("a/1/unit").await;
        bed.loses("a/publish/1", 10).await;
        assert_eq!(bed.open().await, ["a/probe/1"]);
        bed.returns("a/probe/1", json!(found)).await;
        assert_eq!(bed.open().await, [next]);
        bed.lands("a").await;
    }
    // Without a probe somebody has to say it.
    let bed = Bed::of(bench, "blind").await;
    let mut a = entry("a");
    a.spec.probe = None;
    bed.enqueue([a]).await;
    bed.done("a/1/unit").await;
    bed.loses("a/publish/1", 10).await;
    assert_eq!(bed.states().await, "a:held");
}

/// R6. A mirror's silence is a test that is tried again, no verdict on the change.
async fn r6_a_mirror_that_does_not_answer(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.fails_for_now("a/1/unit").await;
    assert_eq!(bed.states().await, "a:speculating b:speculating");
    bed.bench
        .execute("update tasks set state = 'queued', run_at = null where state = 'waiting'")
        .await;
    bed.lands("a").await;
    assert_eq!(bed.find("b").await.generation, 1);
}
