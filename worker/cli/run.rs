//! `longshore run`: one worker of one pool.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, OnceLock};

use tokio::sync::Mutex;

use super::{Answer, Failure, Handlers, open_broker, open_store, signals};
use crate::apt::{self, Repositories};
use crate::bundle::{Follower, Report};
use crate::celery::{self, Celery};
use crate::config::{Bundle, Config, ForeignKeys, Pool, Python, ResultStore, Results, Switch};
use crate::exec;
use crate::follow::{Following, Recipe};
use crate::handler::{Registry, Terms};
use crate::http;
use crate::id::WorkerId;
use crate::kube::Pod;
use crate::plugin_host::Host;
use crate::pool::{self, Exit, Health, Setup};
use crate::squad::{self, Squad};
use crate::store::{Store, StoreError};
use crate::testjob::{self, Services, plugin};

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

pub(super) async fn run(
    path: Option<PathBuf>,
    config: Arc<Config>,
    arguments: Arguments,
    handlers: Handlers,
) -> Answer {
    let Arguments {
        pool,
        parent,
        python,
    } = arguments;
    if let Some(parent) = parent {
        die_with(parent)?;
    }
    entry(&config, &pool)?;
    let mut requests = signals::requests()?;
    let store = open_store(&config)?;
    store.check_schema().await?;
    let parts = Parts::new(handlers);
    let id = id(&config);
    let mut following = match &config.bundle {
        Some(bundle) => Some(parts.following(path, &config, bundle, &store, &id, &pool)?),
        None => None,
    };
    let config = match &mut following {
        Some(following) => tokio::select! {
            config = following.begin() => config?,
            // It may wait for a bundle that can be used.
            _stop = requests.recv() => return Ok(ExitCode::SUCCESS),
        },
        None => config,
    };
    let entry = entry(&config, &pool)?.clone();
    tracing::info!("configuration:\n{}", config.redacted_toml());
    parts.ask_store(&config, &store).await?;
    result_tables(&config, &store).await?;
    let children = host(python.over(&config.python), &pool, entry.slots).await?;
    if let Some(children) = &children {
        parts.host(children);
    }
    let registry = parts.registry(&config)?;
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
        celery: Celery::new(config.celery.clone()),
        id,
        pod,
        health,
        terms: Arc::new(Terms {
            revision: following
                .as_ref()
                .and_then(|following| following.revision().cloned()),
            features: config.features.clone(),
        }),
        following: following.map(|following| Arc::new(Mutex::new(following))),
    };
    let broker = open_broker(&config, &store, &setup.id);
    let _server = server;
    let exit = pool::run(setup, store, broker, registry, requests).await;
    if let Some(children) = children {
        children.close();
    }
    code(exit?)
}

/// This life of this worker.
fn id(config: &Config) -> WorkerId {
    match &config.kubernetes.identity {
        Some(pod) => pool::pod_member_id(&pod.pod, &pod.uid),
        None => pool::member_id(&pool::host()),
    }
}

fn code(exit: Exit) -> Answer {
    Ok(match exit {
        Exit::Drained => ExitCode::SUCCESS,
        Exit::Restart => return Err(begin_anew()),
        Exit::Left(attempts) => {
            tracing::warn!(attempts, "ended; rescue takes over what ran");
            ExitCode::from(LEFT)
        }
        Exit::Broken => ExitCode::FAILURE,
    })
}

fn entry<'c>(config: &'c Config, pool: &str) -> Result<&'c Pool, Failure> {
    config.pools.get(pool).ok_or_else(|| {
        let known = config.pools.keys().cloned().collect::<Vec<_>>().join(", ");
        Failure::Wrong(format!(
            "there is no pool {pool:?} in the configuration (there are: {known})"
        ))
    })
}

/// Begins this program anew in the same process, whoever has started it; answers why it could not.
fn begin_anew() -> Failure {
    use std::os::unix::process::CommandExt as _;
    tracing::info!("the worker begins anew, with what its bundle says");
    let program = std::env::current_exe();
    let error = match program {
        Ok(program) => Command::new(program)
            .args(std::env::args_os().skip(1))
            .exec(),
        Err(error) => error,
    };
    Failure::Failed(anyhow::Error::new(error).context("begin anew with what the bundle says"))
}

/// What the handlers are made from, for one configuration after another.
#[derive(Clone)]
struct Parts {
    /// The user's own handlers.
    own: Registry,
    children: Arc<OnceLock<Arc<Host>>>,
}

impl Parts {
    fn new(handlers: Handlers) -> Self {
        let mut own = Registry::default();
        handlers(&mut own);
        Self {
            own,
            children: Arc::default(),
        }
    }

    /// The tasks of the Python application are run too.
    fn host(&self, children: &Arc<Host>) {
        // It is said once.
        let _said = self.children.set(Arc::clone(children));
    }

    /// Every handler that is a part of this program, as `config` wants them. Asks nobody over a network.
    fn registry(&self, config: &Arc<Config>) -> Result<Registry, Failure> {
        let celery = Celery::new(config.celery.clone());
        let mut registry = Registry::default();
        testjob::register(&mut registry, &Arc::new(Services::new(Arc::clone(config))?));
        if let Some(repositories) = Repositories::new(config)? {
            apt::register(&mut registry, &repositories);
        }
        let squad = Squad::new(config).map_err(|error| Failure::Wrong(error.to_string()))?;
        if let Some(squad) = &squad {
            squad::register(&mut registry, squad);
        }
        registry.merge(&self.own);
        celery::unlock::register(&mut registry, &celery);
        exec::register(&mut registry, config)
            .map_err(|error| Failure::Wrong(format!("longshore failed to {error}")))?;
        if let Some(children) = self.children.get() {
            children.register(&mut registry);
        }
        celery::map::register(&mut registry, &celery);
        Ok(registry)
    }

    /// What the handlers of SQUAD's test jobs need of the store before they begin.
    async fn ask_store(&self, config: &Arc<Config>, store: &Store) -> Result<(), Failure> {
        if config.testjobs.store != ResultStore::Squad {
            return Ok(());
        }
        if config.squad.foreign_keys == ForeignKeys::Held {
            store.squad_may_hold().await.map_err(may_not_hold)?;
        }
        let watch = store.enqueue(&[squad::watch_task(config)]).await?;
        tracing::debug!(new = watch.new.len(), "SQUAD is looked after");
        Ok(())
    }

    /// A worker that follows a bundle, before it has anything of it.
    fn following(
        &self,
        path: Option<PathBuf>,
        config: &Arc<Config>,
        bundle: &Bundle,
        store: &Store,
        id: &WorkerId,
        pool: &str,
    ) -> Result<Following, Failure> {
        let is_elastic = entry(config, pool)?.kind.is_elastic();
        let me = Follower {
            worker: id.clone(),
            pool: pool.to_owned(),
            kind: if is_elastic { "elastic" } else { "pinned" }.into(),
            host: config
                .kubernetes
                .identity
                .as_ref()
                .map_or_else(pool::host, |own| own.pod.clone()),
            lost: false,
            at: 0,
            report: Report::default(),
        };
        let env: Vec<(OsString, OsString)> = std::env::vars_os().collect();
        let parts = self.clone();
        let recipe = Recipe {
            load: Arc::new(move |sources| {
                Config::load_with_bundle(path.as_deref(), sources, env.clone(), &plugin::KNOWN)
            }),
            build: Arc::new(move |config| match parts.registry(config) {
                Ok(registry) => Ok(registry),
                Err(Failure::Wrong(text)) => Err(anyhow::anyhow!(text)),
                Err(Failure::Failed(error)) => Err(error),
            }),
        };
        Ok(Following::new(
            store.clone(),
            config,
            bundle.clone(),
            me,
            recipe,
        ))
    }
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

/// Starts the Python application, if there is one.
async fn host(python: Python, pool: &str, slots: u32) -> Result<Option<Arc<Host>>, Failure> {
    let Some(app) = &python.app else {
        return Ok(None);
    };
    let hostname = format!("{pool}@{}", pool::host());
    let host = Host::start(&python, app, slots, hostname)
        .await
        .map_err(|error| Failure::Wrong(format!("longshore failed to {error}")))?;
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
