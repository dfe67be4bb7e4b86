//! `longshore run`: one worker of one pool.

use std::process::ExitCode;
use std::sync::Arc;

use super::{Answer, Failure, open_broker, open_store, signals};
use crate::config::Config;
use crate::handler::Registry;
use crate::pool::{self, Exit, Setup};
use crate::testjob::{self, Services};

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Which of the configuration's pools
    #[arg(long)]
    pool: String,
}

/// Left to rescue.
const LEFT: u8 = 3;

pub(super) async fn run(config: Arc<Config>, Arguments { pool }: Arguments) -> Answer {
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
    let setup = Setup {
        name: pool,
        pool: entry,
        worker: config.worker.clone(),
        policies: config.tasks.clone(),
        retention: config.retention.clone(),
        id: pool::member_id(&pool::host()),
    };
    let broker = open_broker(&config, &store, &setup.id);
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
