//! `longshore run`: one worker of one pool.

use std::process::ExitCode;
use std::sync::Arc;

use super::{Answer, Failure, Handlers, open_broker, open_store, signals};
use crate::celery::{self, Celery};
use crate::config::Config;
use crate::handler::Registry;
use crate::http;
use crate::kube::Pod;
use crate::pool::{self, Exit, Health, Setup};
use crate::squad::{self, Squad};
use crate::store::Store;
use crate::testjob::{self, Services};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Which of the configuration's pools
    #[arg(long)]
    pool: String,
    /// The process that starts this worker, and without which it shall not be: it is killed with that
    #[arg(long, hide = true)]
    parent: Option<i32>,
}

/// Left to rescue.
const LEFT: u8 = 3;

pub(super) async fn run(
    config: Arc<Config>,
    Arguments { pool, parent }: Arguments,
    handlers: Handlers,
) -> Answer {
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
    let mut registry = Registry::default();
    testjob::register(
        &mut registry,
        &Arc::new(Services::new(Arc::clone(&config))?),
    );
    let squad = Squad::new(&config);
    if let Some(squad) = &squad {
        squad::register(&mut registry, squad);
        let watch = store.enqueue(&[squad::watch_task(&config)]).await?;
        tracing::debug!(new = watch.new.len(), "SQUAD is looked after");
    }
    handlers(&mut registry);
    let celery = Celery::new(config.celery.clone());
    celery::unlock::register(&mut registry, &celery);
    result_tables(&config, &store).await?;
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
    Ok(
        match pool::run(setup, store, broker, registry, requests).await? {
            Exit::Drained => ExitCode::SUCCESS,
            Exit::Left(attempts) => {
                tracing::warn!(attempts, "ended; rescue takes over what ran");
                ExitCode::from(LEFT)
            }
            Exit::Broken => ExitCode::FAILURE,
        },
    )
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
