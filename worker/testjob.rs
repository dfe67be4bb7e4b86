//! Test jobs: collect their results, publish them whole, post-process them.
//!
//! Three handlers of the engine like any user's: `testjob.fetch`, `testjob.postprocess` and `testjob.submit`. They never
//! write a row that readers see but in the command that settles their task.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::config::{self, BackendKind, Config};
use crate::handler::Registry;
use crate::task::Task;

pub mod backend;
pub mod fetch;
pub mod format;
pub mod item;
pub mod plugin;
pub mod sink;
pub mod stage;

use backend::directory::Directory;
use backend::http::{Limits, Secret};
use backend::lava::{Lava, LavaConfig};
use backend::tuxsuite::{TuxSuite, TuxSuiteConfig};
use backend::{Backend, BackendError, Settings};
use sink::squad::SquadSink;

/// The name of the task that collects a test job.
pub const FETCH: &str = "testjob.fetch";
/// The name of the task that runs one plugin over a collected test job.
pub const POSTPROCESS: &str = "testjob.postprocess";

/// What the handlers need: the backends, and what projects want.
pub struct Services {
    backends: BTreeMap<String, Source>,
    sinks: BTreeMap<String, SquadSink>,
    config: Arc<Config>,
    /// Plugins that are programs of their own.
    programs: Option<plugin::external::Programs>,
}

struct Source {
    backend: Arc<dyn Backend>,
    settings: config::Settings,
    poll_interval: Duration,
}

impl Services {
    /// Makes every backend and sink that the configuration names.
    ///
    /// # Errors
    ///
    /// [`BackendError::Final`] if one cannot be made, or a plugin's program could not be started.
    pub fn new(config: Arc<Config>) -> Result<Self, BackendError> {
        let mut backends = BTreeMap::new();
        for (name, entry) in &config.backends {
            let config::Backend {
                kind,
                username,
                token,
                timeout,
                poll_interval,
                settings,
            } = entry;
            let token = token.as_ref().map(|token| Secret::new(token.expose()));
            let limits = Limits {
                idle: *timeout,
                answer: config.limits.body,
                file: config.limits.attachment,
                ..Limits::default()
            };
            let (username, log_limit) = (username.clone(), config.limits.log);
            let backend: Arc<dyn Backend> = match kind {
                BackendKind::Lava { url } => Arc::new(Lava::new(LavaConfig {
                    url: url.clone(),
                    username,
                    token,
                    limits,
                    log_limit,
                })?),
                BackendKind::Tuxsuite { url } => Arc::new(TuxSuite::new(TuxSuiteConfig {
                    url: url.clone(),
                    token,
                    limits,
                    log_limit,
                })?),
                BackendKind::Directory { path } => {
                    Arc::new(Directory::folder(path.clone(), &config.limits))
                }
                BackendKind::Site { url } => {
                    Arc::new(Directory::site(url.clone(), token, limits, &config.limits)?)
                }
            };
            backends.insert(
                name.clone(),
                Source {
                    backend,
                    settings: settings.clone(),
                    poll_interval: *poll_interval,
                },
            );
        }
        let sinks = config
            .sinks
            .iter()
            .map(|(name, sink)| Ok((name.clone(), SquadSink::new(sink)?)))
            .collect::<Result<_, BackendError>>()?;
        let programs = plugin::external::Programs::open(&config.plugins)
            .map_err(|error| BackendError::Final(error.to_string()))?;
        Ok(Self {
            backends,
            sinks,
            config,
            programs,
        })
    }

    /// A backend with the settings of a project over its own.
    fn source(
        &self,
        name: &str,
        project: &str,
    ) -> Result<(Arc<dyn Backend>, Settings, Duration), String> {
        let Some(source) = self.backends.get(name) else {
            let known = self.backends.keys().cloned().collect::<Vec<_>>().join(", ");
            let known = if known.is_empty() {
                "none is configured".to_owned()
            } else {
                format!("configured: {known}")
            };
            return Err(format!(
                "unknown backend {name:?} ({known}): add [backends.{name}] to the configuration, or correct the task"
            ));
        };
        let mut settings = source.settings.0.clone();
        settings.extend(self.config.project(project).settings.0);
        Ok((
            Arc::clone(&source.backend),
            Settings(settings),
            source.poll_interval,
        ))
    }
}

impl std::fmt::Debug for Services {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.backends.keys()).finish()
    }
}

/// Registers the three handlers.
pub fn register(registry: &mut Registry, services: &Arc<Services>) {
    let own = Arc::clone(services);
    registry.add(FETCH, move |task, context| {
        fetch::run(Arc::clone(&own), task, context)
    });
    let own = Arc::clone(services);
    registry.add(POSTPROCESS, move |task, context| {
        plugin::run(Arc::clone(&own), task, context)
    });
    let own = Arc::clone(services);
    registry.add(sink::SUBMIT, move |task, context| {
        sink::run(Arc::clone(&own), task, context)
    });
}

/// Where a test job's results belong: `group/project/build/environment`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `group/project`.
    pub project: String,
    /// The build's version.
    pub build: String,
    /// The environment, for instance a device type.
    pub environment: String,
}

impl std::str::FromStr for Target {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split('/').collect::<Vec<_>>();
        match parts.as_slice() {
            [group, project, build, environment]
                if parts.iter().all(|part| !part.trim().is_empty()) =>
            {
                Ok(Self {
                    project: format!("{group}/{project}"),
                    build: (*build).to_owned(),
                    environment: (*environment).to_owned(),
                })
            }
            _ => Err(format!(
                "target {text:?} is not group/project/build/environment: give all four parts, none of them empty"
            )),
        }
    }
}

/// The task that collects the test job `id` of `backend`. The same test job is the same task, unless `again`.
pub fn fetch_task(queue: &str, backend: &str, id: &str, target: &str, again: bool) -> Task {
    let task = Task::new(FETCH, queue)
        .with("backend", backend)
        .with("id", id)
        .with("target", target);
    if again {
        return task.with("again", true);
    }
    task.with_id(format!("fetch:{backend}/{id}"))
}

/// The task that runs `plugin` over a collected test job.
fn plugin_task(
    queue: &str,
    origin: &fetch::Order,
    testjob: i64,
    generation: i64,
    plugin: &str,
) -> Task {
    let mut task =
        Task::new(POSTPROCESS, queue).with_id(format!("testjob:{testjob}.{generation}/{plugin}"));
    let kwargs = json!({
        "testjob": testjob, "generation": generation, "plugin": plugin,
        "backend": origin.backend, "id": origin.id, "project": origin.target.project,
    });
    if let Value::Object(kwargs) = kwargs {
        task.kwargs = kwargs;
    }
    task
}
