//! SQUAD's test jobs: its fetch messages are handled here, and their results go into its own tables and files.
//!
//! Takes the place of SQUAD's workers on `ci_fetch` and `ci_fetch_postprocess`. Collected and post-processed in our own
//! tables, a test job appears in SQUAD's with one transaction, when its last part is there. What only SQUAD's Python
//! can do (its build status, notifications, plugins without a twin here) goes to its remaining workers as messages.
//!
//! Never writes a row of SQUAD's but in a command of the store, and never a whole row that somebody else may change.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::Value;
use url::Url;

use crate::config::{Config, ForeignKeys, ResultStore};
use crate::handler::{Context, Fatal, Outcome, Registry};
use crate::store::SquadJob;
use crate::task::Task;
use crate::testjob::backend::http::{Limits, Secret};
use crate::testjob::backend::lava::{Lava, LavaConfig};
use crate::testjob::backend::tuxsuite::{TuxSuite, TuxSuiteConfig};
use crate::testjob::backend::{BROWSER_LINKS, Backend, BackendError, Settings, TOLD};
use crate::testjob::plugin::external::Programs;

pub mod doctor;
mod export;
mod fake;
mod fetch;
mod files;
mod links;
mod plan;
mod plugin;
mod watch;

pub use files::{Storage, StorageError};
pub use watch::task as watch_task;

/// SQUAD's task that collects a test job.
pub const FETCH: &str = "squad.ci.tasks.fetch";
/// SQUAD's task that runs the plugins of a test job.
const POSTPROCESS: &str = "squad.ci.tasks.postprocess_testjob";
/// SQUAD's task that runs one long plugin.
const SUBTASKS: &str = "squad.ci.tasks.postprocess_testjob_subtasks";
/// SQUAD's task that ends a test job.
const UPDATE_STATUS: &str = "squad.ci.tasks.update_testjob_status";
/// SQUAD's task that runs the plugins of a test run.
const POSTPROCESS_TESTRUN: &str = "squad.core.tasks.postprocess_test_run";
/// SQUAD's task that submits a test job.
const SUBMIT: &str = "squad.ci.tasks.submit";
/// SQUAD's task that writes to the administrators of a project.
const MAIL: &str = "squad.ci.tasks.send_testjob_resubmit_admin_email";
/// SQUAD's word for a test job that is being collected or post-processed.
const FETCHING: &str = "Fetching";
/// What else stands on its queues and only Python can do: parts of a chord that Python began, the end of a test job.
const PYTHON: [&str; 3] = [
    "tradefed.tasks.create_testcase_tests",
    "tradefed.tasks.update_build_status",
    UPDATE_STATUS,
];
/// Our own task: one plugin over a collected test job of SQUAD.
const PLUGIN: &str = "longshore.squad.plugin";

/// The timeout of a request, in seconds, in a backend's or project's settings.
const TIMEOUT: &str = "TIMEOUT";

/// What the handlers need.
pub struct Squad {
    config: Arc<Config>,
    storage: Storage,
    /// Plugins that are programs of their own.
    programs: Option<Programs>,
    backends: Mutex<HashMap<Key, Arc<dyn Backend>>>,
}

/// A backend, with the settings of a project over its own.
type Source = (Arc<dyn Backend>, Settings);

/// What makes one backend differ from another.
#[derive(Clone, PartialEq, Eq, Hash)]
struct Key {
    kind: String,
    url: String,
    username: String,
    token: String,
    timeout: Duration,
}

impl Squad {
    /// For the installation that `config` names, if it names one.
    ///
    /// # Errors
    ///
    /// As [`Storage::new`]; or if what starts plugins cannot be set up.
    pub fn new(config: &Arc<Config>) -> anyhow::Result<Option<Arc<Self>>> {
        if config.testjobs.store != ResultStore::Squad {
            return Ok(None);
        }
        let Some(storage) = Storage::new(config)? else {
            return Ok(None);
        };
        Ok(Some(Arc::new(Self {
            config: Arc::clone(config),
            storage,
            programs: Programs::open(&config.plugins)?,
            backends: Mutex::default(),
        })))
    }

    /// Whether the rows that tests refer to are locked here, and PostgreSQL need not look for them again.
    fn holds(&self) -> bool {
        self.config.squad.foreign_keys == ForeignKeys::Held
    }

    /// The backend of a test job with the settings of its project over the backend's; `None` if only Python has one
    /// of this kind.
    fn backend(&self, job: &SquadJob) -> Result<Option<Source>, BackendError> {
        let mut settings = Settings::from_yaml(job.backend_settings.as_deref().unwrap_or_default());
        let project = Settings::from_yaml(job.project_settings.as_deref().unwrap_or_default());
        settings.0.extend(project.0);
        settings.0.insert(BROWSER_LINKS.to_owned(), true.into());
        settings.0.remove(TOLD);
        let told = job.told.as_deref().map(serde_json::from_str);
        if let Some(Ok(told)) = told {
            settings.0.insert(TOLD.to_owned(), told);
        }
        let timeout = settings
            .get(TIMEOUT)
            .and_then(Value::as_f64)
            .filter(|seconds| (1.0..=3600.0).contains(seconds))
            .map_or(Duration::from_secs(60), Duration::from_secs_f64);
        let token = match job.kind.as_str() {
            // TuxSuite's token may be a setting of the project.
            "tuxsuite" => settings
                .get("TUXSUITE_TOKEN")
                .and_then(Value::as_str)
                .unwrap_or(&job.token),
            _ => &job.token,
        };
        let key = Key {
            kind: job.kind.clone(),
            url: job.url.clone(),
            username: job.username.clone(),
            token: token.to_owned(),
            timeout,
        };
        let mut backends = self.backends.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(backend) = backends.get(&key) {
            return Ok(Some((Arc::clone(backend), settings)));
        }
        let Some(backend) = self.connect(&key)? else {
            return Ok(None);
        };
        /// More would mean that tokens change all the time: then none is worth keeping.
        const MOST: usize = 256;
        if backends.len() >= MOST {
            backends.clear();
        }
        backends.insert(key, Arc::clone(&backend));
        Ok(Some((backend, settings)))
    }

    fn connect(&self, key: &Key) -> Result<Option<Arc<dyn Backend>>, BackendError> {
        if key.kind == "fake" {
            return Ok(Some(Arc::new(fake::Fake)));
        }
        if !matches!(key.kind.as_str(), "lava" | "tuxsuite") {
            return Ok(None);
        }
        let url = Url::parse(&key.url)
            .map_err(|error| BackendError::Final(format!("the backend's address: {error}")))?;
        let limits = Limits {
            idle: key.timeout,
            answer: self.config.limits.body,
            file: self.config.limits.attachment,
            ..Limits::default()
        };
        let given = |text: &str| Some(text.to_owned()).filter(|text| !text.is_empty());
        let token = given(&key.token).map(Secret::new);
        let log_limit = self.config.limits.log;
        Ok(Some(if key.kind == "lava" {
            Arc::new(Lava::new(LavaConfig {
                url,
                username: given(&key.username),
                token,
                limits,
                log_limit,
            })?)
        } else {
            Arc::new(TuxSuite::new(TuxSuiteConfig {
                url,
                token,
                limits,
                log_limit,
            })?)
        }))
    }
}

impl std::fmt::Debug for Squad {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Squad({})", self.storage)
    }
}

/// Registers what SQUAD's queues carry.
pub fn register(registry: &mut Registry, squad: &Arc<Squad>) {
    let own = Arc::clone(squad);
    registry.add(FETCH, move |task, context| {
        fetch::fetch(Arc::clone(&own), task, context)
    });
    // SQUAD's poll sends the same id again for as long as a test job runs.
    registry.repeat(FETCH);
    let own = Arc::clone(squad);
    registry.add(POSTPROCESS, move |task, context| {
        fetch::postprocess(Arc::clone(&own), task, context)
    });
    let own = Arc::clone(squad);
    registry.add(SUBTASKS, move |task, context| {
        fetch::subtasks(Arc::clone(&own), task, context)
    });
    let own = Arc::clone(squad);
    registry.add(PLUGIN, move |task, context| {
        plugin::run(Arc::clone(&own), task, context)
    });
    let own = Arc::clone(squad);
    registry.add(watch::NAME, move |task, context| {
        watch::run(Arc::clone(&own), task, context)
    });
    for name in PYTHON {
        let own = Arc::clone(squad);
        registry.add(name, move |task, context| {
            let own = Arc::clone(&own);
            async move { pass_on(&own, &task, &context) }
        });
    }
}

/// A message for SQUAD's own workers goes to the queue where they take it.
fn pass_on(squad: &Squad, task: &Task, context: &Context) -> anyhow::Result<Outcome> {
    let mut other = task.clone().for_celery();
    other.queue.clone_from(&squad.config.squad.python_queue);
    Ok(Outcome::PassedOn {
        queue: other.queue.clone(),
        with: context.store().post(&[other])?,
    })
}

/// The primary key in a task's arguments.
fn pk(task: &Task, key: &str, index: usize) -> Result<i64, Fatal> {
    task.arg(key, index)
        .and_then(Value::as_i64)
        .ok_or_else(|| Fatal(format!("argument {key:?} of {} is no number", task.name)))
}

/// A text in a task's arguments.
fn text(task: &Task, key: &str, index: usize) -> Result<String, Fatal> {
    task.arg(key, index)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| Fatal(format!("argument {key:?} of {} is no text", task.name)))
}
