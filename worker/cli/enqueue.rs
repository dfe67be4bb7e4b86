//! `longshore enqueue`: a task by hand or by a script, stored and announced in one transaction.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use super::{Answer, Failure, open_broker, open_store, print};
use crate::celery;
use crate::clock::Millis;
use crate::config::{BrokerAddress, Config};
use crate::outbox;
use crate::pool;
use crate::task::Task;
use crate::testjob::{self, Target};

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
    },
}

pub(super) async fn run(config: Arc<Config>, verb: Verb) -> Answer {
    if matches!(verb, Verb::Task { celery: true, .. }) {
        return for_celery(&config, verb).await;
    }
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    let tasks = tasks(&config, store.clock().now(), verb)?;
    let enqueued = store.enqueue(&tasks).await?;
    let broker = open_broker(&config, &store, &pool::member_id("enqueue"));
    outbox::publish(&store, &broker, &enqueued.rings).await;
    for task in &tasks {
        let word = if enqueued.new.contains(&task.id) {
            "enqueued"
        } else {
            "was there already"
        };
        print(&format!(
            "{} {word} ({} on {})",
            task.id, task.name, task.queue
        ));
    }
    broker.close().await;
    store.close().await;
    Ok(ExitCode::SUCCESS)
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
        } => {
            let kwargs: Map<String, Value> = serde_json::from_str(&kwargs).map_err(|error| {
                Failure::Wrong(format!("--kwargs {kwargs:?} is no JSON object: {error}"))
            })?;
            let args: Vec<Value> = serde_json::from_str(&args).map_err(|error| {
                Failure::Wrong(format!("--args {args:?} is no JSON array: {error}"))
            })?;
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
            vec![match id {
                Some(id) => task.with_id(id),
                None => task,
            }]
        }
    })
}
