//! `longshore run`: one worker of one pool.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;

use super::{Answer, Failure, Handlers, open_broker, open_store, signals};
use crate::apt::{self, Repositories};
use crate::celery::{self, Celery};
use crate::config::{Config, ForeignKeys, Python, Results, Switch};
use crate::exec;
use crate::handler::Registry;
use crate::http;
use crate::kube::Pod;
use crate::plugin_host::Host;
use crate::pool::{self, Exit, Health, Setup};
use crate::squad::{self, Squad};
use crate::store::{Store, StoreError};
use crate::testjob::{self, Services};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Which of the configuration's pools
    #[arg(long)]
    pool: String,
    /// The process that starts this worker, and without which it shall not be: it is killed with that
    #[arg(long, hide = true)]
    parent: Option<i32>,
    #[command(flatten)]
    python: PythonArguments,
}

/// What goes before the configuration's `[python]`.
#[derive(clap::Args)]
struct PythonArguments {
    /// Run the tasks of this Celery application, module:app, in Python processes of the worker's own (python.app)
    #[arg(long, value_name = "MODULE:APP")]
    python_app: Option<String>,
    /// How many processes; by default as many as the pool has slots (python.processes)
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1024))]
    python_processes: Option<u32>,
    /// The application's interpreter (python.python)
    #[arg(long, value_name = "PATH")]
    python: Option<PathBuf>,
}

/// Left to rescue.
const LEFT: u8 = 3;

pub(super) async fn run(config: Arc<Config>, arguments: Arguments, handlers: Handlers) -> Answer {
    let Arguments {
        pool,
        parent,
        python,
    } = arguments;
    if let Some(parent) = parent {
        die_with(parent)?;
    }
    let Some(entry) = config.pools.get(&pool).cloned() else {
        let known = config.pools.keys().cloned().collect::<Vec<_>>().join(", ");
        return Err(Failure::Wrong(format!(
            "there is no pool {pool:?} in the configuration (there are: {known})"
        )));
    };
    let requests = signals::requests()?;
    tracing::info!("configuration:\n{}", config.redacted_toml());
    let store = open_store(&config)?;
    store.check_schema().await?;
    let celery = Celery::new(config.celery.clone());
    let mut registry = registry(&config, &store, &celery, handlers).await?;
    result_tables(&config, &store).await?;
    let children = host(
        python.over(&config.python),
        &pool,
        entry.slots,
        &mut registry,
    )
    .await?;
    celery::map::register(&mut registry, &celery);
    let health = Health::default();
    let server = match config.http.listen {
        Some(listen) => Some(http::serve(listen, health.clone()).await?),
        None => None,
    };
    // After that: what it has to say of the API server is counted.
    let pod = Pod::new(&config.kubernetes).await;
    let setup = Setup {
        name: pool,
        pool: entry,
        worker: config.worker.clone(),
        policies: config.tasks.clone(),
        retention: config.retention.clone(),
        celery,
        id: pod
            .as_ref()
            .map_or_else(|| pool::member_id(&pool::host()), pool::pod_member_id),
        pod,
        health,
    };
    let broker = open_broker(&config, &store, &setup.id);
    let _server = server;
    let exit = pool::run(setup, store, broker, registry, requests).await;
    if let Some(children) = children {
        children.close();
    }
    Ok(match exit? {
        Exit::Drained => ExitCode::SUCCESS,
        Exit::Left(attempts) => {
            tracing::warn!(attempts, "ended; rescue takes over what ran");
            ExitCode::from(LEFT)
        }
        Exit::Broken => ExitCode::FAILURE,
    })
}

/// Every handler that is a part of this program.
async fn registry(
    config: &Arc<Config>,
    store: &Store,
    celery: &Celery,
    handlers: Handlers,
) -> Result<Registry, Failure> {
    let mut registry = Registry::default();
    testjob::register(&mut registry, &Arc::new(Services::new(Arc::clone(config))?));
    if let Some(repositories) = Repositories::new(config)? {
        apt::register(&mut registry, &repositories);
    }
    let squad = Squad::new(config).map_err(|error| Failure::Wrong(error.to_string()))?;
    if let Some(squad) = &squad {
        if config.squad.foreign_keys == ForeignKeys::Held {
            store.squad_may_hold().await.map_err(may_not_hold)?;
        }
        squad::register(&mut registry, squad);
        let watch = store.enqueue(&[squad::watch_task(config)]).await?;
        tracing::debug!(new = watch.new.len(), "SQUAD is looked after");
    }
    handlers(&mut registry);
    celery::unlock::register(&mut registry, celery);
    exec::register(&mut registry, config)
        .map_err(|error| Failure::Wrong(format!("longshore failed to {error}")))?;
    Ok(registry)
}

fn may_not_hold(error: StoreError) -> Failure {
    let StoreError::Refused { reason } = error else {
        return error.into();
    };
    Failure::Wrong(format!(
        "squad.foreign_keys = \"held\" is not permitted to the role of store.url ({reason}): {}, or leave it at \"checked\"",
        squad::doctor::MAY_HOLD
    ))
}

impl PythonArguments {
    fn over(self, config: &Python) -> Python {
        let Self {
            python_app,
            python_processes,
            python,
        } = self;
        Python {
            app: python_app.or_else(|| config.app.clone()),
            processes: python_processes.or(config.processes),
            python: python.unwrap_or_else(|| config.python.clone()),
            ..config.clone()
        }
    }
}

/// Starts the Python application, if there is one, and registers what it runs.
async fn host(
    python: Python,
    pool: &str,
    slots: u32,
    registry: &mut Registry,
) -> Result<Option<Arc<Host>>, Failure> {
    let Some(app) = &python.app else {
        return Ok(None);
    };
    let hostname = format!("{pool}@{}", pool::host());
    let host = Host::start(&python, app, slots, hostname)
        .await
        .map_err(|error| Failure::Wrong(format!("longshore failed to {error}")))?;
    host.register(registry);
    Ok(Some(host))
}

/// Fails unless the tables are there that results go to: they are the application's, which makes them.
async fn result_tables(config: &Config, store: &Store) -> Result<(), Failure> {
    let results = config.celery.results;
    let wanted: Vec<String> = results.tables().iter().map(ToString::to_string).collect();
    if wanted.is_empty() {
        return Ok(());
    }
    let found = store.tables(&wanted).await?;
    match wanted.iter().find(|table| !found.contains(table)) {
        None if config.celery.result_extended == Switch::On
            && results == Results::Database
            && !store.taskmeta_is_extended().await? =>
        {
            Err(Failure::Wrong(
                "celery.result_extended needs the columns name, args, kwargs, worker, retries and queue of public.celery_taskmeta, which a Celery application with result_extended = True makes: add them, or set it to \"off\"".into(),
            ))
        }
        None => Ok(()),
        Some(missing) => Err(Failure::Wrong(format!(
            "celery.results = {:?} needs the table {missing} in the store's database: have the Celery application make it there (Django's migrate, or a first use of the database backend), or point store.url at its database",
            results.as_str()
        ))),
    }
}

/// From now on this process is killed when its parent ends (Linux; elsewhere nothing happens).
fn die_with(parent: i32) -> anyhow::Result<()> {
    #[cfg(target_os = "linux")]
    {
        use rustix::process::{Pid, Signal, getppid, set_parent_process_death_signal};
        set_parent_process_death_signal(Some(Signal::KILL))?;
        // It may have ended before that.
        anyhow::ensure!(
            getppid().map(Pid::as_raw_pid) == Some(parent),
            "stay: the process {parent} that started it has ended"
        );
    }
    #[cfg(not(target_os = "linux"))]
    let _ = parent;
    Ok(())
}
