//! What a worker shows over HTTP: probes for the kubelet, metrics for Prometheus.
//!
//! `/livez` says that the runtime moves, by answering. A slow task or a broker that is away never makes it
//! fail: ending the worker would mend neither. `/readyz` and `/startupz` say what [`Health`] says. Nothing
//! here changes anything, and nothing is secret: no arguments, no addresses, no names but those of tasks,
//! queues and pools.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::Context as _;
use axum::Router;
use axum::extract::State;
use axum::http::StatusCode;
use axum::routing::get;
use metrics_exporter_prometheus::{PrometheusBuilder, PrometheusHandle};
use tokio::net::TcpListener;
use tokio::task::AbortHandle;

use crate::pool::Health;

/// How often what was counted is tidied, whether anybody reads it or not.
const UPKEEP: Duration = Duration::from_secs(5);

/// Ends the server when it is dropped.
#[derive(Debug)]
pub struct Server {
    address: SocketAddr,
    tasks: [AbortHandle; 2],
}

impl Server {
    /// Where it listens: with the port that the system chose, if port 0 was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.tasks.iter().for_each(AbortHandle::abort);
    }
}

#[derive(Clone)]
struct Shown {
    health: Health,
    metrics: PrometheusHandle,
}

/// Serves until the answer is dropped. From now on this process counts.
///
/// # Errors
///
/// If nothing can listen there, or this process serves already.
pub async fn serve(listen: SocketAddr, health: Health) -> anyhow::Result<Server> {
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} (http.listen)"))?;
    let metrics = PrometheusBuilder::new()
        .install_recorder()
        .context("count")?;
    describe();
    health.watch();
    let address = listener.local_addr()?;
    let upkeep = metrics.clone();
    let router = Router::new()
        .route("/livez", get(|| async { "alive\n" }))
        .route("/startupz", get(startup))
        .route("/readyz", get(ready))
        .route("/metrics", get(shown))
        .with_state(Shown { health, metrics });
    // Both live as long as the process: there is nothing to wait for at a drain.
    #[expect(clippy::disallowed_methods, reason = "ended by the answer's drop")]
    let tasks = [
        tokio::spawn(async move {
            if let Err(error) = axum::serve(listener, router).await {
                tracing::error!(%error, "probes are answered no more");
            }
        })
        .abort_handle(),
        tokio::spawn(async move {
            loop {
                tokio::time::sleep(UPKEEP).await;
                upkeep.run_upkeep();
            }
        })
        .abort_handle(),
    ];
    tracing::info!(%address, "answering probes");
    Ok(Server { address, tasks })
}

async fn startup(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    said(shown.health.has_started(), "started\n", "starting\n")
}

async fn ready(State(shown): State<Shown>) -> (StatusCode, &'static str) {
    said(shown.health.is_ready(), "ready\n", "not consuming\n")
}

fn said(is_so: bool, yes: &'static str, no: &'static str) -> (StatusCode, &'static str) {
    if is_so {
        (StatusCode::OK, yes)
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, no)
    }
}

async fn shown(State(shown): State<Shown>) -> ([(&'static str, &'static str); 1], String) {
    let kind = ("content-type", "text/plain; version=0.0.4; charset=utf-8");
    ([kind], shown.metrics.render())
}

fn describe_bundles() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_gauge!(
        "longshore_bundle_behind_seconds",
        Unit::Seconds,
        "For how long this worker has not had what its bundle says; 0: it has it"
    );
    describe_gauge!(
        "longshore_bundle_refused",
        "1 while this worker cannot take the revision that it is to have"
    );
    describe_gauge!(
        "longshore_bundle_needs_restart",
        "1 while only a restart by hand would take the revision over"
    );
    describe_counter!(
        "longshore_bundle_refusals_total",
        "How often this worker refused a revision"
    );
    describe_gauge!(
        "longshore_bundle_late_workers",
        "Workers of the fleet that lag for long, silent ones too, by bundle"
    );
    describe_gauge!(
        "longshore_bundle_freeze_end_timestamp_seconds",
        Unit::Seconds,
        "When the bundle's freeze ends, or ended; 0: there was none"
    );
}

/// What each metric means, for whoever reads `/metrics`; docs/kubernetes.md has the same list.
fn describe() {
    use metrics::{Unit, describe_counter, describe_gauge};
    describe_counter!(
        "longshore_tasks_total",
        "Attempts whose outcome the store has, by task name, queue and outcome"
    );
    describe_counter!("longshore_handoffs_total", "Attempts handed off, by reason");
    describe_counter!(
        "longshore_rescues_total",
        "Tasks of dead workers that were made to run again"
    );
    describe_counter!(
        "longshore_lease_losses_total",
        "Attempts whose outcome was refused because another attempt has the task"
    );
    describe_counter!(
        "longshore_kubernetes_errors_total",
        "Calls of the API server that failed, by call"
    );
    describe_counter!(
        "longshore_celery_events_dropped_total",
        "Events for Celery's tools that could not be sent"
    );
    describe_gauge!(
        "longshore_attempts_running",
        "Attempts that run here, by task name"
    );
    describe_gauge!(
        "longshore_checkpoint_age_seconds",
        Unit::Seconds,
        "For how long the attempt that saved last longest ago has saved nothing"
    );
    describe_bundles();
    describe_states();
}

fn describe_states() {
    use metrics::{Unit, describe_gauge};
    describe_gauge!("longshore_quiet", "1 while nothing new is taken");
    describe_gauge!("longshore_draining", "1 from SIGTERM on");
    describe_gauge!(
        "longshore_drain_seconds",
        Unit::Seconds,
        "For how long the drain has lasted; 0 without a drain"
    );
    describe_gauge!(
        "longshore_drain_deadline_timestamp_seconds",
        Unit::Seconds,
        "When what runs is handed off at the latest; 0 without a drain"
    );
    describe_gauge!(
        "longshore_outbox_lag_seconds",
        Unit::Seconds,
        "For how long the oldest message of the outbox is overdue"
    );
    describe_gauge!(
        "longshore_queue_depth",
        "Messages that wait on a queue of this pool"
    );
    describe_gauge!(
        "longshore_lanes_halted",
        "Lanes that a failed task holds up"
    );
    describe_gauge!(
        "longshore_gates_blocked",
        "Gates that do not go on until somebody decides; by the worker that leads, 0 elsewhere"
    );
    describe_gauge!(
        "longshore_busy",
        "1 while this pod is labelled busy and must not be evicted"
    );
    describe_gauge!(
        "longshore_kubernetes_lost",
        "1 while the API server does not answer as it should"
    );
    describe_gauge!("longshore_build_info", "1, with the version");
    begin();
}

/// What is there from the beginning, so that its first change shows.
fn begin() {
    metrics::gauge!("longshore_build_info", "version" => env!("CARGO_PKG_VERSION")).set(1.0);
    metrics::gauge!("longshore_kubernetes_lost").set(0.0);
    metrics::gauge!("longshore_busy").set(0.0);
    metrics::gauge!("longshore_gates_blocked").set(0.0);
    metrics::counter!("longshore_rescues_total").increment(0);
    metrics::counter!("longshore_lease_losses_total").increment(0);
    metrics::counter!("longshore_celery_events_dropped_total").increment(0);
}
