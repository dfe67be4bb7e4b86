//! Cordons and taints: quiet before SIGTERM, and work again when they are taken back.

use std::sync::Arc;

use longshore::handler::{Outcome, Registry};
use longshore::pool::Exit;
use longshore::store::State;
use serde_json::json;
use tokio::sync::Notify;

use super::{Held, Site, elastic, pinned, rests, task};
use crate::cluster::Rule;
use crate::scene::{Scene, on_both_with};

on_both_with!(
    "";
    an_elastic_worker_on_a_cordoned_node_hands_off_before_any_sigterm,
    a_pinned_worker_on_a_cordoned_node_finishes_and_takes_nothing_until_it_is_uncordoned,
    a_pinned_worker_hands_off_when_it_is_asked_by_its_annotation,
    a_worker_that_has_ended_leaves_no_label,
    a_worker_that_starts_on_a_tainted_node_takes_nothing,
);

/// A handler whose first attempt runs until it is asked to go on elsewhere.
pub(super) fn patient(begun: &Arc<Notify>) -> Registry {
    let mut registry = Registry::default();
    let tell = Arc::clone(begun);
    registry.add("demo", move |_, context| {
        let tell = Arc::clone(&tell);
        async move {
            if let Some(step) = context.resume::<u32>()? {
                return Ok(Outcome::done(json!({ "went on after": step })));
            }
            context.save(&7).await?;
            tell.notify_one();
            context.draining().await;
            Ok(Outcome::HandOff)
        }
    });
    registry
}

async fn an_elastic_worker_on_a_cordoned_node_hands_off_before_any_sigterm(scene: Arc<Scene>) {
    let (site, begun) = (Site::new(), Arc::new(Notify::new()));
    let first = scene.inside(patient(&begun), elastic(site.elastic("e-0").await));
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    site.cordon(true);
    rests(&scene, "1").await;
    let view = scene.bench.view("1").await;
    assert_eq!((view.interruptions, view.failures, view.crashes), (1, 0, 0));
    // The same worker takes it again once the node is there again.
    site.cordon(false);
    scene.task_reaches("1", State::Done).await;
    let view = scene.bench.view("1").await;
    assert_eq!(view.result.as_deref(), Some(r#"{"went on after":7}"#));
    let rule = Rule::on("create", "events");
    site.cluster
        .until("both events are written", |cluster| {
            (cluster.requests(&rule).len() >= 2).then_some(())
        })
        .await;
    let mut events = site.events();
    events.sort();
    assert_eq!(events, ["HandedOff", "Quiet"]);
    first.stop().await;
    let _exit = first.ended().await;
}

async fn a_pinned_worker_on_a_cordoned_node_finishes_and_takes_nothing_until_it_is_uncordoned(
    scene: Arc<Scene>,
) {
    let site = Site::new();
    let (held, registry) = Held::new();
    let worker = scene.inside(registry, pinned(site.pinned("p-0").await));
    scene.enqueue(&[task("1")]).await;
    held.begun.notified().await;
    site.cordon(true);
    let rule = Rule::on("create", "events");
    site.cluster
        .until("it says that it is quiet", |cluster| {
            (!cluster.requests(&rule).is_empty()).then_some(())
        })
        .await;
    scene.enqueue(&[task("2")]).await;
    assert_eq!(
        scene.bench.view("1").await.state,
        State::Running,
        "it finishes what it has"
    );
    held.go.notify_one();
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.bench.view("1").await.interruptions, 0);
    site.cluster
        .until("the label is off", |_| {
            site.label("p-0").is_none().then_some(())
        })
        .await;
    assert_eq!(scene.bench.view("2").await.state, State::Queued);
    site.cordon(false);
    held.begun.notified().await;
    held.go.notify_one();
    scene.task_reaches("2", State::Done).await;
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn a_pinned_worker_hands_off_when_it_is_asked_by_its_annotation(scene: Arc<Scene>) {
    let (site, begun) = (Site::new(), Arc::new(Notify::new()));
    let worker = scene.inside(patient(&begun), pinned(site.pinned("p-0").await));
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    let ask = |value: serde_json::Value| {
        site.cluster.edit("pods", "p-0", |pod| {
            pod["metadata"]["annotations"]["longshore.dev/hand-off"] = value;
        });
    };
    ask("true".into());
    rests(&scene, "1").await;
    site.cluster
        .until("the label is off", |_| {
            site.label("p-0").is_none().then_some(())
        })
        .await;
    ask("false".into());
    scene.task_reaches("1", State::Done).await;
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn a_worker_that_has_ended_leaves_no_label(scene: Arc<Scene>) {
    let (site, begun) = (Site::new(), Arc::new(Notify::new()));
    let worker = scene.inside(patient(&begun), pinned(site.pinned("p-0").await));
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    assert_eq!(site.label("p-0").as_deref(), Some("true"));
    worker.stop().await;
    assert_eq!(worker.ended().await, Exit::Drained);
    assert_eq!(scene.bench.view("1").await.interruptions, 1);
    assert_eq!(site.label("p-0"), None);
}

async fn a_worker_that_starts_on_a_tainted_node_takes_nothing(scene: Arc<Scene>) {
    let site = Site::new();
    let taint = json!([{ "key": "karpenter.sh/disrupted", "effect": "NoSchedule" }]);
    site.cluster
        .edit("nodes", "n1", |node| node["spec"]["taints"] = taint);
    let (held, registry) = Held::new();
    let worker = scene.inside(registry, elastic(site.elastic("e-0").await));
    scene.enqueue(&[task("1")]).await;
    let rule = Rule::on("create", "events");
    site.cluster
        .until("it says that it is quiet", |cluster| {
            (!cluster.requests(&rule).is_empty()).then_some(())
        })
        .await;
    assert_eq!(scene.bench.view("1").await.state, State::Queued);
    site.cluster
        .edit("nodes", "n1", |node| node["spec"]["taints"] = json!([]));
    held.begun.notified().await;
    held.go.notify_one();
    scene.task_reaches("1", State::Done).await;
    worker.stop().await;
    let _exit = worker.ended().await;
}
