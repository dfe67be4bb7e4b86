//! The pod's real deadline: read at SIGTERM, followed when it shrinks, assumed short when there is none.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::config::Kubernetes;
use longshore::handler::{Outcome, Registry};
use longshore::pool::Exit;
use tokio::sync::Notify;

use super::{Site, elastic, task};
use crate::cluster::{Fault, Pod, Rule};
use crate::inside::{Inside, Made};
use crate::scene::{Scene, on_both_with};

on_both_with!(
    "";
    the_deletion_timestamp_is_the_deadline,
    a_deadline_that_shrinks_is_followed,
    without_a_deletion_the_time_that_is_left_is_assumed_to_be_short,
    without_a_deletion_a_shorter_grace_counts,
    without_an_answer_too,
    with_a_server_that_hangs_too,
);

pub(super) const MARGIN: Duration = Duration::from_secs(1);

/// A worker to be, whose attempts hear nothing, in a pod whose specification and configuration say: an hour of grace.
pub(super) struct Deaf {
    pub(super) made: Made,
    begun: Arc<Notify>,
    registry: Registry,
}

impl Deaf {
    pub(super) async fn new(site: &Site, unknown: Duration) -> Self {
        let begun = Arc::new(Notify::new());
        let mut registry = Registry::default();
        let tell = Arc::clone(&begun);
        registry.add("demo", move |_, _| {
            let tell = Arc::clone(&tell);
            async move {
                tell.notify_one();
                std::future::pending::<anyhow::Result<Outcome>>().await
            }
        });
        site.cluster
            .add_pod(Pod::elastic("inside", "e-0").on("n1").grace(3600));
        let settings = Kubernetes {
            unknown_grace: unknown,
            timeout: Duration::from_millis(500),
            ..site.settings("e-0")
        };
        let pod = longshore::kube::Pod::new(&settings).await.unwrap();
        let mut made = elastic(pod);
        made.worker.grace = Duration::from_secs(3600);
        made.worker.margin = MARGIN;
        made.worker.checkpoint_every = Duration::from_secs(600);
        Self {
            made,
            begun,
            registry,
        }
    }

    /// The worker, at work.
    pub(super) async fn start(self, scene: &Arc<Scene>) -> Inside {
        let worker = scene.inside(self.registry, self.made);
        scene.enqueue(&[task("1")]).await;
        self.begun.notified().await;
        worker
    }
}

async fn deaf(scene: &Arc<Scene>, site: &Site, unknown: Duration) -> Inside {
    Deaf::new(site, unknown).await.start(scene).await
}

/// Deletes the pod as `kubectl delete --grace-period` does.
pub(super) async fn delete(site: &Site, seconds: u32) {
    let url = format!(
        "{}/api/v1/namespaces/longshore/pods/e-0",
        site.cluster.url()
    );
    let body = serde_json::json!({ "gracePeriodSeconds": seconds }).to_string();
    let answer = reqwest::Client::new()
        .delete(url)
        .header("content-type", "application/json")
        .body(body)
        .send()
        .await
        .unwrap();
    assert!(answer.status().is_success(), "{answer:?}");
}

/// Waits until the drain has begun with the pod's deadline, and answers what the event says of it.
async fn drain_begun(site: &Site) -> String {
    let rule = Rule::on("create", "events");
    site.cluster
        .until("the drain has begun with its deadline", |cluster| {
            let seen = cluster.requests(&rule);
            let event = seen
                .iter()
                .find(|seen| seen.body["reason"] == "DrainBegun")?;
            Some(event.body["note"].as_str().unwrap().to_owned())
        })
        .await
}

fn is_between(what: Duration, least: u64, most: u64) {
    let (least, most) = (Duration::from_millis(least), Duration::from_millis(most));
    assert!(
        what >= least && what < most,
        "it took {what:?}, not {least:?} to {most:?}"
    );
}

async fn the_deletion_timestamp_is_the_deadline(scene: Arc<Scene>) {
    let site = Site::new();
    let worker = deaf(&scene, &site, Duration::from_secs(600)).await;
    let told = Instant::now();
    delete(&site, 4).await;
    worker.stop().await;
    assert_eq!(worker.ended().await, Exit::Drained);
    // Whole seconds, and one of margin.
    is_between(told.elapsed(), 1900, 4000);
    assert_eq!(scene.bench.view("1").await.interruptions, 1);
    // Whole seconds, rounded down twice.
    let said = drain_begun(&site).await;
    let lefts = ["2 s for them", "1 s for them"];
    assert!(lefts.iter().any(|left| said.ends_with(left)), "{said}");
}

async fn a_deadline_that_shrinks_is_followed(scene: Arc<Scene>) {
    let site = Site::new();
    let worker = deaf(&scene, &site, Duration::from_secs(600)).await;
    delete(&site, 600).await;
    worker.stop().await;
    drain_begun(&site).await;
    let told = Instant::now();
    delete(&site, 3).await;
    assert_eq!(worker.ended().await, Exit::Drained);
    is_between(told.elapsed(), 0, 3000);
    assert_eq!(scene.bench.view("1").await.interruptions, 1);
}

async fn without_a_deletion_the_time_that_is_left_is_assumed_to_be_short(scene: Arc<Scene>) {
    let site = Site::new();
    let worker = deaf(&scene, &site, Duration::from_secs(3)).await;
    let told = Instant::now();
    worker.stop().await;
    assert_eq!(worker.ended().await, Exit::Drained);
    is_between(told.elapsed(), 2000, 3000);
}

async fn without_a_deletion_a_shorter_grace_counts(scene: Arc<Scene>) {
    let site = Site::new();
    let mut deaf = Deaf::new(&site, Duration::from_secs(600)).await;
    deaf.made.worker.grace = Duration::from_secs(3);
    let worker = deaf.start(&scene).await;
    let told = Instant::now();
    worker.stop().await;
    assert_eq!(worker.ended().await, Exit::Drained);
    is_between(told.elapsed(), 2000, 3000);
}

async fn without_an_answer_too(scene: Arc<Scene>) {
    let site = Site::new();
    let worker = deaf(&scene, &site, Duration::from_secs(3)).await;
    site.cluster.away();
    let told = Instant::now();
    worker.stop().await;
    assert_eq!(worker.ended().await, Exit::Drained);
    is_between(told.elapsed(), 2000, 3600);
    assert_eq!(scene.bench.view("1").await.interruptions, 1);
}

async fn with_a_server_that_hangs_too(scene: Arc<Scene>) {
    let site = Site::new();
    let worker = deaf(&scene, &site, Duration::from_secs(3)).await;
    site.cluster.fault(Rule::on("*", "*"), Fault::Hang);
    let told = Instant::now();
    worker.stop().await;
    assert_eq!(worker.ended().await, Exit::Drained);
    is_between(told.elapsed(), 2000, 3600);
}
