//! `longshore task`: what is queued, waits, runs and failed; dead letters run again; cancellation.

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;

use super::show::{ago, cell, json, table};
use super::{Answer, Failure, open_broker, open_store, print};
use crate::config::Config;
use crate::outbox;
use crate::pool;
use crate::store::{Filter, Ring, State, Store, TaskView};

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Lists tasks
    List {
        /// Only those in this state: queued, waiting, blocked, parked, running, done, dead, canceled, expired
        #[arg(long, value_parser = state)]
        state: Option<State>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows one task whole
    Show {
        /// Its id
        id: String,
    },
    /// Runs dead, canceled, expired or parked tasks again, from their last checkpoint
    Retry {
        /// Their ids
        ids: Vec<String>,
        /// Every dead letter
        #[arg(long)]
        all_dead: bool,
    },
    /// Cancels tasks; one that runs is stopped by its worker within seconds
    Cancel {
        /// Their ids
        #[arg(required = true)]
        ids: Vec<String>,
    },
}

fn state(word: &str) -> Result<State, String> {
    serde_json::from_value(word.into()).map_err(|_| {
        "one of queued, waiting, blocked, parked, running, done, dead, canceled, expired".into()
    })
}

pub(super) async fn run(config: Arc<Config>, verb: Verb) -> Answer {
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    match verb {
        Verb::List {
            state,
            limit,
            json: as_json,
        } => {
            let tasks = store
                .tasks(&Filter {
                    state,
                    most: limit,
                    id: None,
                })
                .await?;
            print(&if as_json {
                json(&tasks)?
            } else {
                listing(&store, &tasks).await?
            });
        }
        Verb::Show { id } => {
            let found = store
                .tasks(&Filter {
                    id: Some(id.clone()),
                    most: 1,
                    state: None,
                })
                .await?;
            let Some(task) = found.first() else {
                return Err(Failure::Wrong(format!("there is no task {id:?}")));
            };
            let mut value = serde_json::to_value(task)?;
            value["task"] = serde_json::from_str(&task.task)?;
            if task.state == State::Blocked {
                value["waits"] = serde_json::to_value(store.waits(&[&id]).await?)?;
                let standing = std::iter::once((task.id.as_str(), task.state));
                let waiting = waiting(&store, standing).await?;
                value["reason"] = waiting.get(&task.id).cloned().into();
            }
            print(&serde_json::to_string_pretty(&value)?);
        }
        Verb::Retry { ids, all_dead } => retry(&config, &store, ids, all_dead).await?,
        Verb::Cancel { ids } => {
            let mut next = Vec::new();
            for id in ids {
                let (state, rings) = store.cancel(&id, "canceled by hand").await?;
                next.extend(rings);
                let word = match state {
                    Some(State::Running) => "runs, and is told to stop",
                    Some(_) => "canceled",
                    None => "is over already, or was never there",
                };
                print(&format!("{id} {word}"));
            }
            if !next.is_empty() {
                announce(&config, &store, &next).await;
            }
        }
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

/// What those of these tasks that are blocked wait for, for people.
pub(super) async fn waiting(
    store: &Store,
    tasks: impl Iterator<Item = (&str, State)>,
) -> Result<HashMap<String, String>, Failure> {
    let now = store.clock().now();
    let blocked = tasks.filter(|(_, state)| *state == State::Blocked);
    let blocked = blocked.map(|(id, _)| id).collect::<Vec<_>>();
    let mut found: HashMap<String, String> = HashMap::new();
    if !blocked.is_empty() {
        for wait in store.waits(&blocked).await? {
            let text = wait.text(now);
            found
                .entry(wait.id)
                .and_modify(|all| *all = format!("{all}; {text}"))
                .or_insert(text);
        }
    }
    Ok(found)
}

/// The cell that says what a task waits for, or else why it stands where it does.
pub(super) fn why(waiting: &HashMap<String, String>, id: &str, reason: Option<&String>) -> String {
    cell(waiting.get(id).or(reason).map(String::as_str))
}

async fn listing(store: &Store, tasks: &[TaskView]) -> Result<String, Failure> {
    let now = store.clock().now();
    let standing = tasks.iter().map(|task| (task.id.as_str(), task.state));
    let waiting = waiting(store, standing).await?;
    let mut rows = table(&[
        "task",
        "name",
        "queue",
        "state",
        "failed",
        "crashed",
        "handed off",
        "age",
        "progress",
        "reason",
    ]);
    for task in tasks {
        rows.add_row([
            task.id.clone(),
            task.name.clone(),
            task.queue.clone(),
            task.state.as_str().to_owned(),
            task.failures.to_string(),
            task.crashes.to_string(),
            task.interruptions.to_string(),
            ago(Some(task.created_at), now),
            cell(task.progress.as_deref()),
            why(&waiting, &task.id, task.reason.as_ref()),
        ]);
    }
    Ok(rows.to_string())
}

/// Runs tasks again, and announces them.
async fn retry(
    config: &Config,
    store: &Store,
    ids: Vec<String>,
    all_dead: bool,
) -> Result<(), Failure> {
    let ids = if all_dead {
        store
            .tasks(&Filter {
                state: Some(State::Dead),
                most: 10_000,
                id: None,
            })
            .await?
            .into_iter()
            .map(|task| task.id)
            .collect()
    } else {
        ids
    };
    let rings = store.revive(&ids).await?;
    announce(config, store, &rings).await;
    print(&format!("{} of {} tasks run again", rings.len(), ids.len()));
    Ok(())
}

/// Publishes what may run now.
pub(super) async fn announce(config: &Config, store: &Store, rings: &[Ring]) {
    let broker = open_broker(config, store, &pool::member_id("verb"));
    outbox::publish(store, &broker, rings).await;
    broker.close().await;
}
