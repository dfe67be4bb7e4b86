//! `longshore worker`: who works.

use std::process::ExitCode;
use std::sync::Arc;

use super::show::{ago, json, table};
use super::{Answer, open_store, print};
use crate::config::Config;

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Lists workers
    List {
        /// Also those that ended
        #[arg(long)]
        all: bool,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
}

pub(super) async fn run(config: Arc<Config>, verb: Verb) -> Answer {
    let Verb::List { all, json: as_json } = verb;
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    let workers = store.workers(all).await?;
    if as_json {
        print(&json(&workers)?);
        return Ok(ExitCode::SUCCESS);
    }
    let now = store.clock().now();
    let mut rows = table(&[
        "worker", "pool", "kind", "state", "running", "slots", "age", "lease",
    ]);
    for worker in &workers {
        rows.add_row([
            worker.id.to_string(),
            worker.pool.clone(),
            worker.kind.clone(),
            worker.state.clone(),
            worker.running.to_string(),
            worker.slots.to_string(),
            ago(Some(worker.started_at), now),
            if worker.lease_until > now {
                format!("{}s", (worker.lease_until - now) / 1000)
            } else {
                "over".into()
            },
        ]);
    }
    print(&rows.to_string());
    Ok(ExitCode::SUCCESS)
}
