//! `longshore api`: answers producers until SIGTERM.

use std::process::ExitCode;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answer, Failure, open_broker, open_store, signals};
use crate::api::Api;
use crate::config::{Config, ResultStore};
use crate::outbox::Relay;
use crate::pool::{self, Request};

pub(super) async fn run(config: Arc<Config>) -> Answer {
    let Some(listen) = config.api.listen else {
        return Err(Failure::Wrong(
            "nobody says where to listen: write listen = \"0.0.0.0:8081\" in [api]".to_owned(),
        ));
    };
    if config.testjobs.store == ResultStore::Squad {
        return Err(Failure::Wrong(
            "with testjobs.store = \"squad\", SQUAD's own web server answers producers".to_owned(),
        ));
    }
    if config.api.tokens.is_empty() {
        tracing::warn!("[api.tokens] is empty: only signed callbacks are let in");
    }
    let mut requests = signals::requests()?;
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    let broker = open_broker(&config, &store, &pool::member_id("api"));
    let listener = TcpListener::bind(listen)
        .await
        .with_context(|| format!("listen on {listen} (api.listen)"))?;
    tracing::info!(address = %listener.local_addr()?, "answering producers");
    let tasks = TaskTracker::new();
    let relay = Relay::start(store.clone(), broker.clone(), &tasks);
    let stop = CancellationToken::new();
    let api = Api::new(config, store.clone(), relay.clone());
    let serving = tasks.spawn(api.serve(listener, stop.clone()));
    while let Some(request) = requests.recv().await {
        match request {
            Request::Stop | Request::Abandon => break,
            Request::Print => tracing::info!("it holds nothing: all state is the store's"),
        }
    }
    stop.cancel();
    serving.await?;
    relay.flush().await;
    drop(relay);
    broker.close().await;
    store.close().await;
    Ok(ExitCode::SUCCESS)
}
