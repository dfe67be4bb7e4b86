//! `longshore enqueue`: a task by hand or by a script, stored and announced in one transaction.

use std::collections::HashSet;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::{Answer, Failure, open_broker, open_store, print};
use crate::celery;
use crate::clock::Millis;
use crate::config::{BrokerAddress, Config};
use crate::graph;
use crate::lane::{After, Lane, OnFailure};
use crate::outbox;
use crate::pool;
use crate::task::Task;
use crate::testjob::{self, Target};

#[derive(clap::Args)]
#[command(args_conflicts_with_subcommands = true, arg_required_else_help = true)]
pub(super) struct Arguments {
    /// Adds all tasks of a JSON file in one transaction, with their lanes and what they wait for; `-`: standard input
    #[arg(long, value_name = "FILE")]
    graph: Option<PathBuf>,
    #[command(subcommand)]
    verb: Option<Verb>,
}

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Collects a test job
    Fetch {
        /// The backend's name in the configuration
        #[arg(long)]
        backend: String,
        /// The test job's id on the backend; may be given several times
        #[arg(long, required = true)]
        id: Vec<String>,
        /// Where the results belong: group/project/build/environment
        #[arg(long)]
        target: String,
        /// Collect it anew even if it was collected before; readers see the old results until the new ones are whole
        #[arg(long)]
        again: bool,
    },
    /// Any task by its name
    Task {
        /// Its name, for instance testjob.fetch
        name: String,
        /// Its positional arguments, as a JSON array
        #[arg(long, default_value = "[]")]
        args: String,
        /// Its named arguments, as a JSON object
        #[arg(long, default_value = "{}")]
        kwargs: String,
        /// For Celery's workers: published as their message, to the queue of celery.routes, and not kept here
        #[arg(long)]
        celery: bool,
        /// Its id; the same id is the same task
        #[arg(long)]
        id: Option<String>,
        /// Its queue; by default the one that the configuration routes it to
        #[arg(long)]
        queue: Option<String>,
        /// 0 to 9, larger first, where the queue has priorities
        #[arg(long, default_value_t = 0)]
        priority: u8,
        /// Not before this much time from now, for instance 10m
        #[arg(long, value_parser = humantime::parse_duration)]
        countdown: Option<Duration>,
        /// Not after this much time from now
        #[arg(long, value_parser = humantime::parse_duration)]
        expires: Option<Duration>,
        /// The lane in which it runs in its turn, for instance apt:stable
        #[arg(long, conflicts_with = "celery")]
        lane: Option<String>,
        /// How many of the lane run at once, from now on; 1 for a new lane
        #[arg(long, requires = "lane", value_parser = clap::value_parser!(u32).range(1..))]
        lane_limit: Option<u32>,
        /// What its final failure means for those behind it in the lane: halt, skip or cancel-rest
        #[arg(long, requires = "lane", default_value = "halt", value_parser = graph::on_failure)]
        on_failure: OnFailure,
        /// A task after which it runs: ID, or ID:done, ID:failed; may be given several times
        #[arg(long, conflicts_with = "celery", value_parser = graph::after)]
        after: Vec<After>,
    },
}

pub(super) async fn run(config: Arc<Config>, arguments: Arguments) -> Answer {
    let Arguments { graph, verb } = arguments;
    if let Some(verb @ Verb::Task { celery: true, .. }) = verb {
        return for_celery(&config, verb).await;
    }
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    let now = store.clock().now();
    let (names, tasks): (Vec<_>, Vec<_>) = match (graph, verb) {
        (Some(path), _) => {
            let wrong = |error: String| Failure::Wrong(format!("{}: {error}", path.display()));
            let text = read(&path).map_err(|error| wrong(error.to_string()))?;
            let named = graph::read(&text, now, |name| config.route(name));
            named
                .map_err(|error| wrong(error.to_string()))?
                .into_iter()
                .unzip()
        }
        (None, Some(verb)) => {
            let tasks = tasks(&config, now, verb)?.into_iter();
            tasks.map(|task| (None, task)).unzip()
        }
        (None, None) => return Err(Failure::Wrong("what is to be enqueued? See --help".into())),
    };
    let enqueued = store.enqueue(&tasks).await?;
    let broker = open_broker(&config, &store, &pool::member_id("enqueue"));
    outbox::publish(&store, &broker, &enqueued.rings).await;
    let new = enqueued.new.iter().collect::<HashSet<_>>();
    for (name, task) in names.iter().zip(&tasks) {
        let word = if new.contains(&task.id) {
            "enqueued"
        } else {
            "was there already"
        };
        let name = name.as_deref().map(|name| format!("{name}: "));
        let lane = task
            .lane
            .as_ref()
            .map(|lane| format!(", lane {}", lane.key));
        print(&format!(
            "{}{} {word} ({} on {}{})",
            name.unwrap_or_default(),
            task.id,
            task.name,
            task.queue,
            lane.unwrap_or_default()
        ));
    }
    broker.close().await;
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn read(path: &Path) -> std::io::Result<Vec<u8>> {
    if path != Path::new("-") {
        return std::fs::read(path);
    }
    let mut text = Vec::new();
    std::io::stdin().read_to_end(&mut text)?;
    Ok(text)
}

/// Publishes for Celery's workers; the store is not asked.
async fn for_celery(config: &Config, verb: Verb) -> Answer {
    if config.broker.address == BrokerAddress::Embedded {
        return Err(Failure::Wrong(
            "Celery's workers take nothing from the embedded broker: set broker.url to amqp://…"
                .into(),
        ));
    }
    let store = open_store(config)?;
    let tasks = tasks(config, store.clock().now(), verb)?;
    let broker = open_broker(config, &store, &pool::member_id("enqueue"));
    for (task, answer) in tasks.iter().zip(celery::send(&broker, &tasks).await) {
        answer?;
        print(&format!(
            "{} published ({} on {})",
            task.id, task.name, task.queue
        ));
    }
    broker.close().await;
    store.close().await;
    Ok(ExitCode::SUCCESS)
}

pub(super) fn parsed<T: DeserializeOwned>(
    flag: &str,
    what: &str,
    text: &str,
) -> Result<T, Failure> {
    let wrong = |error| Failure::Wrong(format!("{flag} {text:?} is no JSON {what}: {error}"));
    serde_json::from_str(text).map_err(wrong)
}

/// The tasks that a verb asks for.
fn tasks(config: &Config, now: Millis, verb: Verb) -> Result<Vec<Task>, Failure> {
    let after =
        |time: Duration| now.saturating_add(i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
    Ok(match verb {
        Verb::Fetch {
            backend,
            id,
            target,
            again,
        } => {
            target.parse::<Target>().map_err(Failure::Wrong)?;
            if !config.backends.contains_key(&backend) {
                let known = config
                    .backends
                    .keys()
                    .cloned()
                    .collect::<Vec<_>>()
                    .join(", ");
                return Err(Failure::Wrong(format!(
                    "there is no backend {backend:?} in the configuration (there are: {known})"
                )));
            }
            let queue = config.route(testjob::FETCH);
            id.iter()
                .map(|id| testjob::fetch_task(queue, &backend, id, &target, again))
                .collect::<Vec<_>>()
        }
        Verb::Task {
            name,
            args,
            kwargs,
            celery,
            id,
            queue,
            priority,
            countdown,
            expires,
            lane,
            lane_limit,
            on_failure,
            after: waits,
        } => {
            let kwargs: Map<String, Value> = parsed("--kwargs", "object", &kwargs)?;
            let args: Vec<Value> = parsed("--args", "array", &args)?;
            let route = match celery {
                true => config.celery.routes.get(&name),
                false => config.route(&name),
            };
            let queue = queue.unwrap_or_else(|| route.to_owned());
            let mut task = Task::new(name, queue);
            if celery {
                task = task.for_celery();
            }
            task.args = args;
            task.kwargs = kwargs;
            task.priority = priority.min(9);
            task.run_at = countdown.map(after);
            task.expires_at = expires.map(after);
            task.lane = lane.map(|key| Lane {
                key,
                limit: lane_limit,
                on_failure,
            });
            task.after = waits;
            vec![match id {
                Some(id) => task.with_id(id),
                None => task,
            }]
        }
    })
}
