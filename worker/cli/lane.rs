//! `longshore lane`: what is in which lane, and what an operator does about one that is halted.

use std::process::ExitCode;
use std::sync::Arc;

use super::show::{ago, cell, json, table};
use super::task::{announce, waiting, why};
use super::{Answer, Failure, open_store, print};
use crate::config::Config;
use crate::store::{EntryView, LaneView, State, Store};

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Lists the lanes in which something is; one that a failed task halts says so
    List {
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows what is in a lane, in order
    Show {
        /// Its key
        key: String,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Lets a halted lane go on without the task that failed. To run that again instead: `longshore task retry`
    Skip {
        /// Its key
        key: String,
    },
    /// Changes how many of a lane run at once; what runs goes on
    Limit {
        /// Its key
        key: String,
        /// How many
        #[arg(value_parser = clap::value_parser!(u32).range(1..))]
        limit: u32,
    },
}

pub(super) async fn run(config: Arc<Config>, verb: Verb) -> Answer {
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    match verb {
        Verb::List {
            limit,
            json: as_json,
        } => {
            let lanes = store.lanes(None, limit).await?;
            print(&if as_json {
                json(&lanes)?
            } else {
                listing(&store, &lanes)
            });
        }
        Verb::Show {
            key,
            limit,
            json: as_json,
        } => {
            let entries = store.lane(&key, limit).await?;
            if as_json {
                let lane = store.lanes(Some(&key), 1).await?.pop();
                print(&json(
                    &serde_json::json!({ "lane": lane, "tasks": entries }),
                )?);
            } else if entries.is_empty() {
                print(&format!("nothing is in lane {key}"));
            } else {
                print(&entries_table(&store, &entries).await?);
            }
        }
        Verb::Skip { key } => {
            let (skipped, rings) = store.skip(&key).await?;
            announce(&config, &store, &rings).await;
            let Some(task) = skipped.first() else {
                return Err(Failure::Wrong(format!(
                    "no failed task halts lane {key}: see `longshore lane show {key}`"
                )));
            };
            print(&format!("lane {key} goes on without {task}"));
        }
        Verb::Limit { key, limit } => {
            let (known, rings) = store.set_limit(&key, limit).await?;
            announce(&config, &store, &rings).await;
            if !known {
                return Err(Failure::Wrong(format!("there is no lane {key:?}")));
            }
            print(&format!("lane {key}: {limit} at once"));
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

fn listing(store: &Store, lanes: &[LaneView]) -> String {
    let now = store.clock().now();
    let mut rows = table(&["lane", "limit", "begun", "waiting", "oldest", "halted"]);
    for lane in lanes {
        let halted = lane.halted_by.as_ref().map(|task| {
            let since = ago(lane.halted_at, now);
            format!("by {task}, {since} ago")
        });
        rows.add_row([
            lane.key.clone(),
            lane.slots.to_string(),
            lane.holding.to_string(),
            lane.waiting.to_string(),
            ago(lane.waiting_since, now),
            cell(halted.as_deref()),
        ]);
    }
    rows.to_string()
}

async fn entries_table(store: &Store, entries: &[EntryView]) -> Result<String, Failure> {
    let now = store.clock().now();
    let standing = entries.iter().map(|entry| (entry.id.as_str(), entry.state));
    let waiting = waiting(store, standing).await?;
    let mut rows = table(&[
        "#", "task", "name", "state", "age", "turn", "failed", "progress", "reason",
    ]);
    for (at, entry) in entries.iter().enumerate() {
        let turn = match entry.state {
            State::Blocked => "-".to_owned(),
            State::Queued
            | State::Waiting
            | State::Parked
            | State::Running
            | State::Done
            | State::Dead
            | State::Canceled
            | State::Expired => ago(entry.released_at, now),
        };
        rows.add_row([
            (at + 1).to_string(),
            entry.id.clone(),
            entry.name.clone(),
            entry.state.as_str().to_owned(),
            ago(Some(entry.created_at), now),
            turn,
            entry.failures.to_string(),
            cell(entry.progress.as_deref()),
            why(&waiting, &entry.id, entry.reason.as_ref()),
        ]);
    }
    Ok(rows.to_string())
}
