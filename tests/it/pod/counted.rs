//! What Prometheus reads of a worker: each is there when it happens.
//!
//! A process counts once, so each of these tests needs one of its own, as nextest gives it.

use std::sync::Arc;
use std::time::Duration;

use longshore::http::{self, Server};
use longshore::pool::Exit;
use longshore::store::State;
use tokio::sync::Notify;

use super::deadline::{Deaf, MARGIN, delete};
use super::node::patient;
use super::{Held, Site, elastic, pinned, rests, task};
use crate::harness::{LIMIT, wait_until};
use crate::inside::Made;
use crate::scene::{Scene, on_both_with};

on_both_with!(
    "";
    what_a_worker_does_is_counted,
    an_outcome_that_comes_too_late_is_counted,
    tasks_whose_workers_died_are_counted_by_the_leader,
    a_drain_is_seen_while_it_lasts_and_hands_off_even_if_its_deadline_is_past,
);

/// The metrics of this process.
struct Metrics {
    server: Server,
}

impl Metrics {
    async fn of(made: &Made) -> Self {
        let listen = "127.0.0.1:0".parse().unwrap();
        let server = http::serve(listen, made.health.clone()).await.unwrap();
        Self { server }
    }

    async fn read(&self) -> String {
        let url = format!("http://{}/metrics", self.server.address());
        reqwest::get(url).await.unwrap().text().await.unwrap()
    }

    /// The value of a series, once there is one.
    async fn value(&self, series: &str) -> Option<f64> {
        let text = self.read().await;
        let line = text.lines().find_map(|line| line.strip_prefix(series))?;
        Some(line.trim().parse().unwrap())
    }

    async fn reaches(&self, series: &str, value: f64) {
        wait_until(&format!("{series} is {value}"), LIMIT, async || {
            self.value(series).await == Some(value)
        })
        .await;
    }
}

async fn what_a_worker_does_is_counted(scene: Arc<Scene>) {
    let (site, begun) = (Site::new(), Arc::new(Notify::new()));
    let made = elastic(site.elastic("e-0").await);
    let metrics = Metrics::of(&made).await;
    let worker = scene.inside(patient(&begun), made);
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    let running = "longshore_attempts_running{name=\"demo\"}";
    metrics.reaches(running, 1.0).await;
    for series in [
        "longshore_queue_depth{pool=\"inside\",queue=\"work\"}",
        "longshore_outbox_lag_seconds",
    ] {
        wait_until(series, LIMIT, async || {
            metrics.value(series).await.is_some()
        })
        .await;
    }
    site.cordon(true);
    rests(&scene, "1").await;
    let outcome = |outcome: &str| {
        format!("longshore_tasks_total{{name=\"demo\",queue=\"work\",outcome=\"{outcome}\"}}")
    };
    for series in [
        "longshore_handoffs_total{reason=\"quiet\"}",
        &outcome("handed_off"),
        "longshore_quiet",
    ] {
        metrics.reaches(series, 1.0).await;
    }
    metrics.reaches(running, 0.0).await;
    site.cordon(false);
    metrics.reaches(&outcome("succeeded"), 1.0).await;
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn an_outcome_that_comes_too_late_is_counted(scene: Arc<Scene>) {
    let site = Site::new();
    let (held, registry) = Held::new();
    let made = pinned(site.pinned("p-0").await);
    let metrics = Metrics::of(&made).await;
    let worker = scene.inside(registry, made);
    scene.enqueue(&[task("1")]).await;
    held.begun.notified().await;
    let losses = "longshore_lease_losses_total";
    assert_eq!(
        metrics.value(losses).await,
        Some(0.0),
        "seen before it rises"
    );
    // As if another had taken it meanwhile.
    scene
        .bench
        .execute("update tasks set epoch = epoch + 1")
        .await;
    held.go.notify_one();
    metrics.reaches(losses, 1.0).await;
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn tasks_whose_workers_died_are_counted_by_the_leader(scene: Arc<Scene>) {
    let site = Site::new();
    for id in ["fell once", "fell twice"] {
        let _running = scene.bench.running(id).await;
    }
    for sql in [
        "update tasks set crashes = 1 where id = 'fell twice'",
        "update workers set state = 'lost'",
    ] {
        scene.bench.execute(sql).await;
    }
    let (_held, registry) = Held::new();
    let mut made = pinned(site.pinned("p-0").await);
    made.pool.queues = vec!["another".into()];
    made.worker.crash_limit = 2;
    let metrics = Metrics::of(&made).await;
    let worker = scene.inside(registry, made);
    let dead = "longshore_tasks_total{name=\"demo.work\",queue=\"work\",outcome=\"dead\"}";
    metrics.reaches(dead, 1.0).await;
    metrics.reaches("longshore_rescues_total", 1.0).await;
    assert_eq!(scene.bench.view("fell twice").await.state, State::Dead);
    assert_eq!(scene.bench.view("fell once").await.state, State::Queued);
    worker.stop().await;
    let _exit = worker.ended().await;
}

async fn a_drain_is_seen_while_it_lasts_and_hands_off_even_if_its_deadline_is_past(
    scene: Arc<Scene>,
) {
    let site = Site::new();
    let deaf = Deaf::new(&site, Duration::from_secs(600)).await;
    let metrics = Metrics::of(&deaf.made).await;
    let worker = deaf.start(&scene).await;
    let (lasted, deadline) = (
        "longshore_drain_seconds",
        "longshore_drain_deadline_timestamp_seconds",
    );
    metrics.reaches(lasted, 0.0).await;
    assert_eq!(metrics.value(deadline).await, Some(0.0), "there is none");
    delete(&site, 600).await;
    worker.stop().await;
    // For longer than a hand-off may take, which begins anew when the deadline does.
    for (series, least) in [(deadline, 0.0), (lasted, MARGIN.as_secs_f64())] {
        wait_until(series, LIMIT, async || {
            metrics
                .value(series)
                .await
                .is_some_and(|value| value > least)
        })
        .await;
    }
    metrics.reaches("longshore_draining", 1.0).await;
    // As an autoscaler does that has no more time for a node: less than the margin is left.
    delete(&site, 1).await;
    assert_eq!(worker.ended().await, Exit::Drained);
    let view = scene.bench.view("1").await;
    assert_eq!((view.interruptions, view.crashes), (1, 0));
}
