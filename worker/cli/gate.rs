//! `longshore gate`: what is in which gate, what it waits for, and what people decide about it.

use std::collections::HashSet;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use serde_json::Value;

use super::enqueue::{parsed, read};
use super::show::{ago, cell, json, table};
use super::{Answer, Failure, open_broker, open_store, print};
use crate::config::{self, Config};
use crate::gate::{self, Entry, NewEntry};
use crate::outbox;
use crate::pool;
use crate::store::{GateView, Ring, Store};

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Lists all gates; one that somebody has to look at says why
    List {
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows what is in a gate, in order, and what each entry waits for
    Show {
        /// Its name
        name: String,
        /// Those that have ended instead, newest first
        #[arg(long)]
        ended: bool,
        /// At most so many of those
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Adds an entry at the end, or many at once; the gate works as the configuration says from now on
    #[command(group = clap::ArgGroup::new("what").required(true))]
    Enqueue {
        /// The gate's name, as in [gates] of the configuration
        name: String,
        /// The entry's id; the same id is the same entry
        #[arg(group = "what")]
        id: Option<String>,
        /// What it is a version of: a newer one replaces it while it is not published
        #[arg(long, requires = "id")]
        change: Option<String>,
        /// An entry that has to be published before it; may be given several times
        #[arg(long, requires = "id")]
        needs: Vec<String>,
        /// Named arguments of all its tasks, as a JSON object
        #[arg(long, requires = "id", default_value = "{}")]
        kwargs: String,
        /// Adds all entries of a JSON file, or none; `-`: standard input
        #[arg(long, group = "what", value_name = "FILE")]
        file: Option<PathBuf>,
    },
    /// Takes an entry out, with those that need it. Not one that is being published
    Dequeue {
        /// The gate's name
        name: String,
        /// The entry's id
        id: String,
    },
    /// Puts an entry, with those that it needs, before all that are not published yet
    Promote {
        /// The gate's name
        name: String,
        /// The entry's id
        id: String,
    },
    /// Publishes nothing more until `release`; tests go on
    Hold {
        /// The gate's name
        name: String,
        /// Why; whoever looks at the gate sees it
        #[arg(long)]
        reason: String,
    },
    /// Publishes again
    Release {
        /// The gate's name
        name: String,
    },
    /// Goes on with the entry that is held: looks again what was published
    Retry {
        /// The gate's name
        name: String,
    },
    /// Takes back what the entry that is held has published: it has failed
    Revert {
        /// The gate's name
        name: String,
    },
    /// Counts the entry that is held as published
    Accept {
        /// The gate's name
        name: String,
    },
}

pub(super) async fn run(config: Arc<Config>, verb: Verb) -> Answer {
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    match verb {
        Verb::List { json: as_json } => listing(&store, as_json).await?,
        Verb::Show {
            name,
            ended,
            limit,
            json: as_json,
        } => {
            let Some(view) = store.gate_view(&name).await? else {
                return Err(unknown(&name));
            };
            if ended {
                show_ended(&store, &name, limit, as_json).await?;
            } else {
                show(&store, view, as_json).await?;
            }
        }
        Verb::Enqueue {
            name,
            id,
            change,
            needs,
            kwargs,
            file,
        } => {
            let gate = configured(&config, &name)?;
            let entries = match (id, file) {
                (Some(id), _) => vec![NewEntry {
                    id,
                    change,
                    kwargs: parsed("--kwargs", "object", &kwargs)?,
                    needs,
                    spec: gate.spec(),
                }],
                (None, Some(path)) => entries(&path, gate)?,
                (None, None) => Vec::new(),
            };
            enqueue(&config, &store, &name, gate, entries).await?;
        }
        Verb::Dequeue { name, id } => {
            let gone = ask(&config, &store, &name, gate::Verb::Dequeue(id)).await?;
            print(&format!("dequeued: {}", gone.join(", ")));
        }
        Verb::Promote { name, id } => {
            let moved = ask(&config, &store, &name, gate::Verb::Promote(id)).await?;
            let moved = moved.join(", ");
            print(&format!("before all that are not being published: {moved}"));
        }
        Verb::Hold { name, reason } => {
            ask(&config, &store, &name, gate::Verb::Hold(reason)).await?;
            print(&format!(
                "gate {name} publishes nothing more until `longshore gate release {name}`"
            ));
        }
        Verb::Release { name } => {
            ask(&config, &store, &name, gate::Verb::Release).await?;
            print(&format!("gate {name} publishes again"));
        }
        Verb::Retry { name } => decide(&config, &store, &name, gate::Verb::Retry).await?,
        Verb::Revert { name } => decide(&config, &store, &name, gate::Verb::Revert).await?,
        Verb::Accept { name } => decide(&config, &store, &name, gate::Verb::Accept).await?,
    }
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

fn unknown(name: &str) -> Failure {
    Failure::Wrong(format!(
        "there is no gate {name:?}: nothing was ever enqueued there"
    ))
}

fn configured<'a>(config: &'a Config, name: &str) -> Result<&'a config::Gate, Failure> {
    config.gates.get(name).ok_or_else(|| {
        let known: Vec<&str> = config.gates.keys().map(String::as_str).collect();
        Failure::Wrong(match known.as_slice() {
            [] => format!("the configuration has no [gates.{name}], and no other gate"),
            known => format!(
                "the configuration has no [gates.{name}]; it has {}",
                known.join(", ")
            ),
        })
    })
}

/// The entries of a file.
fn entries(path: &Path, gate: &config::Gate) -> Result<Vec<NewEntry>, Failure> {
    let wrong = |error: String| Failure::Wrong(format!("{}: {error}", path.display()));
    let text = read(path).map_err(|error| wrong(error.to_string()))?;
    gate::read(&text, &gate.spec()).map_err(|error| wrong(error.0))
}

/// Asks a gate, and announces what follows.
async fn ask(
    config: &Config,
    store: &Store,
    name: &str,
    verb: gate::Verb,
) -> Result<Vec<String>, Failure> {
    let (about, rings) = store.gate(name, &verb).await?;
    publish(config, store, &rings).await;
    Ok(about)
}

async fn publish(config: &Config, store: &Store, rings: &[Ring]) {
    let broker = open_broker(config, store, &pool::member_id("gate"));
    outbox::publish(store, &broker, rings).await;
    broker.close().await;
}

async fn enqueue(
    config: &Config,
    store: &Store,
    name: &str,
    gate: &config::Gate,
    entries: Vec<NewEntry>,
) -> Result<(), Failure> {
    let ids = |view: &Option<GateView>| -> Vec<String> {
        let entries = view.iter().flat_map(|view| &view.entries);
        entries.map(|entry| entry.id().to_owned()).collect()
    };
    let before: HashSet<String> = ids(&store.gate_view(name).await?).into_iter().collect();
    let verb = gate::Verb::Enqueue(gate.settings(), entries);
    let asked = ask(config, store, name, verb).await?;
    let after = ids(&store.gate_view(name).await?);
    for id in asked {
        let place = after.iter().position(|other| *other == id);
        let word = match place {
            Some(at) if !before.contains(&id) => format!("enqueued, {} in gate {name}", at + 1),
            Some(at) => format!("was there already, {} in gate {name}", at + 1),
            None => "was there already, and has ended".to_owned(),
        };
        print(&format!("{id} {word}"));
    }
    Ok(())
}

/// What is decided about the entry that is held, and what it is now.
async fn decide(
    config: &Config,
    store: &Store,
    name: &str,
    verb: gate::Verb,
) -> Result<(), Failure> {
    let about = ask(config, store, name, verb).await?;
    let view = store.gate_view(name).await?;
    let ended = store.gate_ended(name, 100).await?;
    let live = view.iter().flat_map(|view| &view.entries);
    let all: Vec<&Entry> = live
        .chain(ended.iter().map(|(entry, _when)| entry))
        .collect();
    for id in about {
        let now = all.iter().find(|entry| entry.id() == id);
        let now = now.map_or("gone", |entry| entry.state.as_str());
        print(&format!("{id} is {now}"));
    }
    Ok(())
}

async fn listing(store: &Store, as_json: bool) -> Result<(), Failure> {
    let now = store.clock().now();
    let mut views = Vec::new();
    for name in store.gates().await? {
        views.extend(store.gate_view(&name).await?);
    }
    if as_json {
        print(&json(&views)?);
        return Ok(());
    }
    let mut rows = table(&["gate", "entries", "window", "published", "first", "blocked"]);
    for view in &views {
        let first = view.entries.first().map(|first| {
            let since = ago(Some(first.since), now);
            format!("{} ({} for {since})", first.id(), first.state.as_str())
        });
        rows.add_row([
            view.name.clone(),
            view.entries.len().to_string(),
            window(view),
            view.gate.published.to_string(),
            cell(first.as_deref()),
            cell(blocked(view, now).as_deref()),
        ]);
    }
    print(&rows.to_string());
    Ok(())
}

fn window(view: &GateView) -> String {
    match view.gate.window {
        0 => "all".to_owned(),
        size => size.to_string(),
    }
}

/// Why somebody has to look at a gate.
fn blocked(view: &GateView, now: crate::clock::Millis) -> Option<String> {
    let alarm = view.alarm.as_ref()?;
    let by = alarm.entry.as_deref();
    let by = by.map_or_else(|| "on hold".to_owned(), |entry| format!("by {entry}"));
    let since = ago(Some(alarm.since), now);
    Some(format!("{by} for {since}: {}", alarm.why))
}

async fn show(store: &Store, view: GateView, as_json: bool) -> Result<(), Failure> {
    let now = store.clock().now();
    let tasks = store.gate_tasks(&view.gate).await?;
    let waits = |id: &str| {
        let state = |task: &crate::id::TaskId| tasks.get(task).map(|state| state.as_str());
        view.gate.waits(id, state, now).unwrap_or_default()
    };
    if as_json {
        let mut shown = serde_json::to_value(&view)?;
        if let Some(Value::Array(entries)) = shown.get_mut("entries") {
            for (entry, of) in entries.iter_mut().zip(&view.entries) {
                if let Value::Object(entry) = entry {
                    entry.insert("waits_for".into(), waits(of.id()).into());
                }
            }
        }
        print(&json(&shown)?);
        return Ok(());
    }
    if let Some(why) = blocked(&view, now) {
        print(&format!("BLOCKED {why}"));
    }
    let (size, published) = (window(&view), view.gate.published);
    let name = &view.name;
    if view.entries.is_empty() {
        print(&format!(
            "nothing is in gate {name}; {published} entries were published"
        ));
        return Ok(());
    }
    print(&format!(
        "gate {name}: window {size}, {published} entries were published"
    ));
    let mut rows = table(&[
        "#",
        "entry",
        "change",
        "state",
        "since",
        "generation",
        "base",
        "waits for",
    ]);
    for (at, entry) in view.entries.iter().enumerate() {
        let base: Vec<String> = entry
            .base
            .iter()
            .map(|ahead| format!("{}@{}", ahead.entry, ahead.generation))
            .collect();
        rows.add_row([
            (at + 1).to_string(),
            entry.id().to_owned(),
            cell(entry.new.change.as_deref()),
            entry.state.as_str().to_owned(),
            ago(Some(entry.since), now),
            entry.generation.to_string(),
            cell(Some(&base.join(" "))),
            cell(Some(&waits(entry.id()))),
        ]);
    }
    print(&rows.to_string());
    Ok(())
}

async fn show_ended(store: &Store, name: &str, most: i64, as_json: bool) -> Result<(), Failure> {
    let now = store.clock().now();
    let ended = store.gate_ended(name, most).await?;
    if as_json {
        let shown: Vec<Value> = ended
            .iter()
            .map(|(entry, at)| {
                let mut shown = serde_json::to_value(entry)?;
                if let Value::Object(shown) = &mut shown {
                    shown.insert("ended_at".into(), (*at).into());
                }
                Ok(shown)
            })
            .collect::<Result<_, serde_json::Error>>()?;
        print(&json(&shown)?);
        return Ok(());
    }
    let mut rows = table(&[
        "entry",
        "change",
        "state",
        "ended",
        "generation",
        "published as",
        "reason",
    ]);
    for (entry, at) in &ended {
        let number = entry.published.map(|number| number.to_string());
        rows.add_row([
            entry.id().to_owned(),
            cell(entry.new.change.as_deref()),
            entry.state.as_str().to_owned(),
            ago(Some(*at), now),
            entry.generation.to_string(),
            cell(number.as_deref()),
            cell(entry.reason.as_deref()),
        ]);
    }
    print(&rows.to_string());
    Ok(())
}
