//! What producers ask over HTTP, as they ask a SQUAD server: `longshore api`.
//!
//! `POST /api/watchjob/<group>/<project>/<build>/<environment>` and TuxSuite's signed callbacks at
//! `POST /api/fetchjob/<group>/<project>/<build>/<environment>/<backend>`, with SQUAD's fields, tokens and answers, so
//! that `squad-client` need not know to whom it speaks. Any number of these processes may run: all state is the store's.
//!
//! `POST /api/tasks` takes many tasks at once ([`crate::graph`]) from those whose token allows their names, `POST /api/gates/NAME/entries`
//! entries of a gate ([`crate::gate::read`]) from those whose token allows `gate/NAME`.
//!
//! Never answers 201 before the store has the test job and its task. Never asks a backend. Never holds more of a request
//! than its limit, nor a connection that stands still. No token is in an answer or a log.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, Bytes, to_bytes};
use axum::extract::{Path, Query, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse as _, Response};
use axum::routing::{get, post};
use axum::{Json, Router};
use hyper::server::conn::http1::Builder;
use hyper_util::rt::{TokioIo, TokioTimer};
use hyper_util::server::graceful::GracefulShutdown;
use hyper_util::service::TowerToHyperService;
use serde::Deserialize;
use serde_json::json;
use tokio::net::TcpListener;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Config;
use crate::outbox::Relay;
use crate::store::Store;

mod answer;
mod callback;
mod gates;
mod tasks;
mod tokens;
mod watch;

use answer::{Answer, Refusal};
use tokens::Tokens;

/// The version of SQUAD whose answers these are; `squad-client` asks for it first.
const SQUAD_VERSION: &str = "1.98";
/// The largest request; TuxSuite's callbacks have some 10 KiB.
const LARGEST: usize = 1024 * 1024;
/// The longest time for a request, its body and the store included.
const LONGEST: Duration = Duration::from_secs(30);
/// The longest time for a request's head, and between two requests of a connection.
const HEAD: Duration = Duration::from_secs(15);
/// Connections at once; more wait to be accepted.
const CONNECTIONS: usize = 512;
/// How long what runs may take once a stop is asked for.
const STOP: Duration = Duration::from_secs(10);

/// What answers need.
#[derive(Debug)]
pub struct Api {
    config: Arc<Config>,
    store: Store,
    relay: Relay,
    tokens: Tokens,
}

/// `<group>/<project>/<build>/<environment>`, and a callback's backend.
type Place = HashMap<String, String>;

#[derive(Debug, Deserialize)]
struct Delay {
    delay_fetch: Option<String>,
}

impl Api {
    /// For the producers that `config` names.
    pub fn new(config: Arc<Config>, store: Store, relay: Relay) -> Self {
        let tokens = Tokens::new(&config.api.tokens);
        Self {
            config,
            store,
            relay,
            tokens,
        }
    }

    /// Answers until `stop`, and then what was asked before.
    pub async fn serve(self, listener: TcpListener, stop: CancellationToken) {
        let (running, graceful) = (TaskTracker::new(), GracefulShutdown::new());
        let room = Arc::new(Semaphore::new(CONNECTIONS));
        let service = TowerToHyperService::new(router(Arc::new(self)));
        loop {
            let next = async {
                let permit = Arc::clone(&room).acquire_owned().await.ok()?;
                Some((permit, listener.accept().await))
            };
            let (permit, stream) = tokio::select! {
                () = stop.cancelled() => break,
                next = next => match next {
                    Some((permit, Ok((stream, _)))) => (permit, stream),
                    Some((_, Err(error))) => {
                        tracing::warn!(%error, "a connection was not accepted");
                        // Out of file descriptors, mostly: they come back as connections end.
                        tokio::time::sleep(Duration::from_millis(100)).await;
                        continue;
                    }
                    None => break,
                },
            };
            let connection = Builder::new()
                .timer(TokioTimer::new())
                .header_read_timeout(HEAD)
                .serve_connection(TokioIo::new(stream), service.clone());
            let connection = graceful.watch(connection);
            running.spawn(async move {
                // Whoever asked has gone, or was too slow.
                let _ended = connection.await;
                drop(permit);
            });
        }
        drop(listener);
        running.close();
        if tokio::time::timeout(STOP, graceful.shutdown())
            .await
            .is_err()
        {
            tracing::warn!("ended with requests unanswered");
        }
    }
}

fn router(api: Arc<Api>) -> Router {
    let watch = "/api/watchjob/{group}/{project}/{build}/{environment}";
    let callback = "/api/fetchjob/{group}/{project}/{build}/{environment}/{backend}";
    Router::new()
        .route(watch, post(watch_job))
        .route(&format!("{watch}/"), post(watch_job))
        .route(callback, post(fetch_job))
        .route(&format!("{callback}/"), post(fetch_job))
        .route("/api/tasks", post(enqueue))
        .route("/api/tasks/", post(enqueue))
        .route("/api/gates/{name}/entries", post(enter))
        .route("/api/gates/{name}/entries/", post(enter))
        .route("/api/version", get(|| async { SQUAD_VERSION }))
        .route("/api/version/", get(|| async { SQUAD_VERSION }))
        .route("/livez", get(|| async { "alive\n" }))
        .route("/readyz", get(ready))
        .with_state(api)
}

async fn watch_job(
    State(api): State<Arc<Api>>,
    Path(place): Path<Place>,
    Query(Delay { delay_fetch }): Query<Delay>,
    request: Request,
) -> Response {
    in_time(async {
        let (parts, body) = read(request).await?;
        watch::watch(&api, &place, &parts, body, delay_fetch.is_some()).await
    })
    .await
}

async fn fetch_job(
    State(api): State<Arc<Api>>,
    Path(place): Path<Place>,
    request: Request,
) -> Response {
    in_time(async {
        let (parts, body) = read(request).await?;
        callback::callback(&api, &place, &parts.headers, &body).await
    })
    .await
}

async fn enqueue(State(api): State<Arc<Api>>, request: Request) -> Response {
    let answer = async {
        let (parts, body) = read(request).await?;
        tasks::enqueue(&api, &parts.headers, &body).await
    };
    match tokio::time::timeout(LONGEST, answer).await {
        Ok(Ok(tasks)) => (StatusCode::CREATED, Json(json!({ "tasks": tasks }))).into_response(),
        Ok(Err(refusal)) => refusal.into_response(),
        Err(_) => Refusal::Late.into_response(),
    }
}

async fn enter(
    State(api): State<Arc<Api>>,
    Path(name): Path<String>,
    request: Request,
) -> Response {
    let answer = async {
        let (parts, body) = read(request).await?;
        gates::enqueue(&api, &name, &parts.headers, &body).await
    };
    match tokio::time::timeout(LONGEST, answer).await {
        Ok(Ok(entries)) => {
            (StatusCode::CREATED, Json(json!({ "entries": entries }))).into_response()
        }
        Ok(Err(refusal)) => refusal.into_response(),
        Err(_) => Refusal::Late.into_response(),
    }
}

/// Whether the store answers.
async fn ready(State(api): State<Arc<Api>>) -> (StatusCode, &'static str) {
    let answer = tokio::time::timeout(Duration::from_secs(2), api.store.check_schema()).await;
    if matches!(answer, Ok(Ok(()))) {
        (StatusCode::OK, "ready\n")
    } else {
        (StatusCode::SERVICE_UNAVAILABLE, "the store is away\n")
    }
}

async fn in_time(answer: impl Future<Output = Answer>) -> Response {
    match tokio::time::timeout(LONGEST, answer).await {
        Ok(Ok(id)) => (StatusCode::CREATED, id.to_string()).into_response(),
        Ok(Err(refusal)) => refusal.into_response(),
        Err(_) => Refusal::Late.into_response(),
    }
}

async fn read(request: Request) -> Result<(Parts, Bytes), Refusal> {
    let (parts, body): (Parts, Body) = request.into_parts();
    let length = header_text(&parts.headers, header::CONTENT_LENGTH.as_str())
        .and_then(|length| length.parse::<usize>().ok());
    if length.is_some_and(|length| length > LARGEST) {
        return Err(Refusal::Large);
    }
    match to_bytes(body, LARGEST).await {
        Ok(bytes) => Ok((parts, bytes)),
        Err(_) => Err(Refusal::Large),
    }
}

fn header_text<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    headers.get(name)?.to_str().ok()
}
