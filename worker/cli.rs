//! The command line: one verb a file. It reads the configuration, opens store and broker, and prints.
//!
//! Results go to standard output, logs and errors to standard error. Exit codes: 0 done, 1 it failed,
//! 2 wrong usage, configuration or schema, 3 a worker left attempts to rescue; those of `drain` beside them.

use std::ffi::OsString;
use std::io::{IsTerminal as _, Write as _};
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Parser, Subcommand};

use crate::broker::{Broker, Embedded, QueueKind, Rabbit, RabbitConfig};
use crate::clock::Clock;
use crate::config::{BrokerAddress, Config, Liveness, LogFormat, QueueType, StoreAddress};
use crate::exec;
use crate::handler::Registry;
use crate::id::WorkerId;
use crate::store::{Store, StoreConfig, StoreError};
use crate::testjob::plugin;

mod api;
mod config;
mod demo;
mod drain;
mod enqueue;
mod gate;
mod guard;
mod lane;
mod migrate;
mod run;
mod show;
mod signals;
mod squad;
mod task;
mod testjob;
mod worker;

/// A Kubernetes-aware task-queue worker that keeps every result whole however a pod dies.
#[derive(Parser)]
#[command(name = "longshore", version, about, long_about = None)]
struct Arguments {
    /// The configuration file; without one, defaults: an embedded store in ./longshore.db
    #[arg(long, short, global = true, env = "LONGSHORE_CONFIG")]
    config: Option<PathBuf>,
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Shows on this machine, in a minute, what happens when workers die
    Demo(demo::Arguments),
    /// Runs a worker of one pool until SIGTERM
    Run(run::Arguments),
    /// Answers producers over HTTP as SQUAD does, until SIGTERM
    Api,
    /// Adds a task, or many at once
    Enqueue(enqueue::Arguments),
    /// Brings the store's schema to this program's version
    Migrate(migrate::Arguments),
    /// Shows test jobs and their results
    #[command(subcommand)]
    Testjob(testjob::Verb),
    /// Shows tasks, runs dead letters again, cancels
    #[command(subcommand)]
    Task(task::Verb),
    /// Shows lanes, and lets halted ones go on
    #[command(subcommand)]
    Lane(lane::Verb),
    /// Shows gates, adds entries, and decides about one that is held
    #[command(subcommand)]
    Gate(gate::Verb),
    /// Shows workers
    #[command(subcommand)]
    Worker(worker::Verb),
    /// Looks after the SQUAD installation whose test jobs these are
    #[command(subcommand)]
    Squad(squad::Verb),
    /// Empties a node, a pod or a pool of a Kubernetes cluster of work, and never by force
    #[command(subcommand)]
    Drain(drain::Verb),
    /// Guards a command that runs as a task, for the worker that starts it
    #[command(name = exec::GUARD, hide = true)]
    Guard(guard::Arguments),
    /// Checks or shows the configuration, publishes bundles of it, and shows who has which
    #[command(subcommand)]
    Config(config::Verb),
}

/// Why a verb failed, and with which code the program ends.
#[derive(Debug)]
enum Failure {
    /// Wrong usage, configuration or schema.
    Wrong(String),
    /// Anything else.
    Failed(anyhow::Error),
}

impl<E: Into<anyhow::Error>> From<E> for Failure {
    fn from(error: E) -> Self {
        let error = error.into();
        match error.downcast_ref::<StoreError>() {
            Some(StoreError::Schema(text)) => Self::Wrong(text.clone()),
            Some(error @ StoreError::Graph { .. }) => {
                Self::Wrong(format!("longshore cannot {error}"))
            }
            Some(StoreError::Gate { reason }) => Self::Wrong(reason.clone()),
            Some(_) | None => Self::Failed(error),
        }
    }
}

type Answer = Result<ExitCode, Failure>;

/// A user's own handlers, added to those that the program has.
type Handlers = Box<dyn FnOnce(&mut Registry) + Send>;

/// Runs the program with this process's arguments.
pub fn main() -> ExitCode {
    main_with(|_| {})
}

/// The same with handlers of the caller's own, which `handlers` adds: `longshore run` runs their tasks too.
///
/// ```no_run
/// use longshore::handler::Outcome;
///
/// fn main() -> std::process::ExitCode {
///     longshore::cli::main_with(|registry| {
///         registry.add("greet", |_task, _context| async { Ok(Outcome::done("hello")) });
///     })
/// }
/// ```
pub fn main_with(handlers: impl FnOnce(&mut Registry) + Send + 'static) -> ExitCode {
    let Arguments { config, verb } = Arguments::parse();
    if let Verb::Guard(arguments) = verb {
        // One beside each command: it needs no runtime.
        return guard::run(arguments);
    }
    // Installing it twice is the only way that it fails.
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let runtime = match tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
    {
        Ok(runtime) => runtime,
        Err(error) => return fail(&Failure::Failed(error.into())),
    };
    let answer = runtime.block_on(run(config, verb, Box::new(handlers)));
    // A reader that hangs in a blocking call must not keep the process.
    runtime.shutdown_background();
    match answer {
        Ok(code) => code,
        Err(failure) => fail(&failure),
    }
}

async fn run(config: Option<PathBuf>, verb: Verb, handlers: Handlers) -> Answer {
    match verb {
        Verb::Demo(arguments) => demo::run(arguments).await,
        Verb::Run(arguments) => {
            let own = load_and_warn(config.clone())?;
            run::run(config, own, arguments, handlers).await
        }
        Verb::Api => api::run(load(config)?).await,
        Verb::Enqueue(arguments) => enqueue::run(load(config)?, arguments).await,
        Verb::Migrate(arguments) => migrate::run(load(config)?, arguments).await,
        Verb::Testjob(verb) => testjob::run(load(config)?, verb).await,
        Verb::Task(verb) => task::run(load(config)?, verb).await,
        Verb::Lane(verb) => lane::run(load(config)?, verb).await,
        Verb::Gate(verb) => gate::run(load(config)?, verb).await,
        Verb::Worker(verb) => worker::run(load(config)?, verb).await,
        Verb::Squad(verb) => squad::run(load(config)?, verb).await,
        Verb::Drain(verb) => drain::run(config, verb).await,
        Verb::Guard(arguments) => Ok(guard::run(arguments)),
        Verb::Config(verb) => {
            let own = load_and_warn(config.clone())?;
            config::run(config, own, verb).await
        }
    }
}

fn fail(failure: &Failure) -> ExitCode {
    let (text, code) = match failure {
        Failure::Wrong(text) => (text.clone(), 2),
        Failure::Failed(error) => (format!("longshore failed to {error:#}"), 1),
    };
    // Nobody may be reading any more.
    let _told = writeln!(std::io::stderr(), "{text}");
    ExitCode::from(code)
}

/// Reads the configuration; every mistake in it is told at once.
fn load(path: Option<PathBuf>) -> Result<Arc<Config>, Failure> {
    let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
    match Config::load(path.as_deref(), env, &plugin::KNOWN) {
        Ok(config) => {
            logs(config.worker.log);
            Ok(Arc::new(config))
        }
        Err(problems) => {
            let mut text = problems
                .iter()
                .map(ToString::to_string)
                .collect::<Vec<_>>()
                .join("\n");
            text.push_str(&format!(
                "\n{} to mend; nothing was started",
                if problems.len() == 1 {
                    "1 mistake".to_owned()
                } else {
                    format!("{} mistakes", problems.len())
                }
            ));
            Err(Failure::Wrong(text))
        }
    }
}

/// The same, and says what is odd in it: to who starts a worker or asks for it, not at every other verb.
fn load_and_warn(path: Option<PathBuf>) -> Result<Arc<Config>, Failure> {
    let config = load(path)?;
    for warning in &config.warnings {
        tracing::warn!("{warning}");
    }
    Ok(config)
}

/// Logs go to standard error; `LONGSHORE_LOG` says how much, `info` by default.
fn logs(format: LogFormat) {
    let filter = tracing_subscriber::EnvFilter::try_from_env("LONGSHORE_LOG")
        .unwrap_or_else(|_| tracing_subscriber::EnvFilter::new("info,sqlx=error,lapin=off"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal())
        .with_target(false);
    let set = match format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().try_init(),
    };
    // A second configuration in one process keeps the first one's logs.
    let _set = set;
}

/// The store that the configuration names.
fn open_store(config: &Config) -> Result<Store, StoreError> {
    let store = &config.store;
    let url = match &store.address {
        StoreAddress::Sqlite(path) => format!("sqlite:{}", path.display()),
        StoreAddress::Postgres(url) => url.to_string(),
    };
    let reader_url = store.reader.as_ref().map(|url| {
        let mut url = url.clone();
        if let Some(password) = &store.reader_password {
            // A PostgreSQL address always takes a password.
            let _set = url.set_password(Some(password.expose()));
        }
        url.to_string()
    });
    let options = StoreConfig {
        url,
        reader_url,
        schema: store.schema.clone(),
        connections: store.connections,
        password: store
            .password
            .as_ref()
            .map(|password| password.expose().to_owned()),
        locks: store.liveness == Liveness::Lock,
    };
    Store::open(&options, Clock::system())
}

/// The broker that the configuration names, as `worker` uses it.
fn open_broker(config: &Config, store: &Store, worker: &WorkerId) -> Broker {
    match &config.broker.address {
        BrokerAddress::Embedded => {
            Broker::Embedded(Arc::new(Embedded::new(store.clone(), worker.clone())))
        }
        BrokerAddress::Amqp(url) => {
            let mut url = url.clone();
            if url.username().is_empty() {
                // RabbitMQ's own default user.
                let _set = url.set_username("guest");
            }
            if let Some(password) = &config.broker.password {
                // An AMQP address always takes a password.
                let _set = url.set_password(Some(password.expose()));
            } else if url.username() == "guest" {
                let _set = url.set_password(Some("guest"));
            }
            let queue_kind = match config.broker.queue_type {
                QueueType::Quorum => QueueKind::Quorum,
                QueueType::Classic => QueueKind::Classic,
                QueueType::Passive => QueueKind::Passive,
            };
            Broker::Rabbit(Arc::new(Rabbit::new(RabbitConfig {
                url: url.to_string(),
                queue_kind,
                name: worker.to_string(),
                heartbeat: config.worker.lease / 2,
            })))
        }
    }
}

/// Prints to standard output; a reader that has gone away is no error.
fn print(text: &str) {
    let mut out = std::io::stdout().lock();
    // `longshore … | head` ends like this.
    let _gone = writeln!(out, "{text}");
}
