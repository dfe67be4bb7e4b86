//! How many are tested at once, and settings that change while entries are under way.

use longshore::gate::{Settings, Verb, Window};

use super::super::bed::{Bed, entry, needs};
use crate::harness::{Bench, on_both};

on_both!(
    queue_rate_limiting,
    queue_rate_limiting_dependent,
    queue_rate_limiting_reconfigure,
    reconfigure_window_shrink,
    reconfigure_window_fixed,
    live_reconfiguration_failed_change_at_head,
    double_live_reconfiguration_shared_queue,
    idle,
);

fn window(start: u32, floor: u32) -> Settings {
    let window = Window {
        start,
        floor,
        ..Window::default()
    };
    Settings {
        window,
        ..Settings::default()
    }
}

fn fixed(size: u32) -> Settings {
    let window = Window::fixed(size);
    Settings {
        window,
        ..Settings::default()
    }
}

/// 28. A failure halves the window; one across its edge that needs one within it waits.
async fn queue_rate_limiting(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(window(2, 1)).await;
    bed.enqueue([entry("a"), entry("b"), needs(entry("c"), &["b"])])
        .await;
    assert_eq!(bed.states().await, "a:speculating b:speculating c:queued");
    bed.fails("a/1/unit").await;
    assert_eq!(bed.window().await, 1);
    assert_eq!(bed.states().await, "b:speculating c:queued");
    assert_eq!(bed.open().await, ["b/2/unit"]);
    bed.lands("b").await;
    assert_eq!(bed.window().await, 2);
    bed.lands("c").await;
    assert_eq!(bed.window().await, 3);
}

/// 29. One within the window that needs one within it goes; each success widens it.
async fn queue_rate_limiting_dependent(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(window(2, 1)).await;
    bed.enqueue([
        entry("a"),
        needs(entry("b"), &["a"]),
        entry("c"),
        entry("d"),
        entry("e"),
    ])
    .await;
    assert_eq!(bed.open().await, ["a/1/unit", "b/1/unit"]);
    bed.lands("a").await;
    assert_eq!(bed.open().await, ["b/1/unit", "c/1/unit", "d/1/unit"]);
    bed.fails("b/1/unit").await;
    // 3, halved: one.
    assert_eq!(bed.window().await, 1);
    assert_eq!(bed.open().await, ["c/2/unit"]);
}

/// 30. One outside of the window outlives new settings, in its place.
async fn queue_rate_limiting_reconfigure(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(window(1, 1)).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.configure(Settings {
        overdue_s: Some(5),
        ..window(1, 1)
    })
    .await;
    assert_eq!(bed.states().await, "a:speculating b:queued");
    bed.lands("a").await;
    bed.lands("b").await;
}

/// 31. A window that moves keeps what it has come to, within its new bounds.
async fn reconfigure_window_shrink(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(window(3, 1)).await;
    bed.enqueue([entry("a"), entry("b"), entry("c"), entry("d")])
        .await;
    bed.lands("a").await;
    assert_eq!(bed.window().await, 4);
    bed.configure(window(1, 1)).await;
    assert_eq!(bed.window().await, 4);
    let mut bounded = window(1, 1);
    bounded.window.ceiling = Some(2);
    bed.configure(bounded).await;
    assert_eq!(bed.window().await, 2);
}

/// 32. A fixed window shrinks at once; what runs outside of it goes on.
async fn reconfigure_window_fixed(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.configure(fixed(2)).await;
    bed.enqueue([entry("a"), entry("b"), entry("c")]).await;
    bed.configure(fixed(1)).await;
    assert_eq!(bed.window().await, 1);
    assert_eq!(bed.open().await, ["a/1/unit", "b/1/unit"]);
    bed.done("b/1/unit").await;
    assert_eq!(bed.states().await, "a:speculating b:ready c:queued");
    bed.lands("a").await;
    bed.lands("b").await;
    assert_eq!(bed.find("b").await.generation, 1);
}

/// 33. New settings never put anybody onto one that has failed.
async fn live_reconfiguration_failed_change_at_head(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("x"), entry("a"), entry("b")]).await;
    bed.fails("a/1/unit").await;
    bed.configure(fixed(5)).await;
    bed.look().await;
    assert_eq!(bed.base("b").await, ["x@1"]);
    assert_eq!(bed.find("b").await.generation, 2);
    bed.lands("x").await;
    bed.lands("b").await;
}

/// 34. New settings, one more that needs another, new settings: all are published.
async fn double_live_reconfiguration_shared_queue(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a")]).await;
    bed.configure(fixed(4)).await;
    bed.enqueue([needs(entry("b"), &["a"])]).await;
    bed.configure(fixed(3)).await;
    bed.lands("a").await;
    bed.lands("b").await;
    assert_eq!(bed.ended().await, "a:published b:published");
}

/// 35. Looking often changes nothing.
async fn idle(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    let revision = "select revision from gates";
    let before = bed.bench.number(revision).await;
    for _ in 0..20 {
        bed.look().await;
        assert!(bed.bench.store.gate_step("g").await.unwrap().is_empty());
    }
    assert_eq!(bed.bench.number(revision).await, before);
    assert_eq!(bed.open().await, ["a/1/unit", "b/1/unit"]);
    bed.ask(Verb::Hold("a freeze".into())).await;
    bed.done("a/1/unit").await;
    bed.look().await;
    assert_eq!(bed.states().await, "a:ready b:speculating");
    bed.ask(Verb::Release).await;
    bed.lands("a").await;
}
