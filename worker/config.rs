//! The configuration: one file and the environment, read once, checked whole.
//!
//! [`Config::load`] tells every mistake at once, each with its place and its mend, and yields a
//! [`Config`] only if there is none. Defaults stand in the readers of the sections alone, so that
//! [`Config::embedded`] and an empty file mean the same. No password or token is ever in `Debug`, in
//! [`Config::redacted_toml`] or in a [`Problem`].
//!
//! Reads the configuration file and the files of secrets that it names; touches nothing else, and
//! takes the environment as a value.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::path::Path;

use serde::Serialize;

mod address;
mod api;
mod apt;
mod backend;
mod bundle;
mod celery;
mod check;
mod document;
mod exec;
mod gate;
mod policy;
mod pool;
mod problem;
mod python;
mod quantity;
mod reading;
mod s3;
mod secret;
mod section;
mod squad;
mod store;
mod surroundings;
#[cfg(test)]
mod tests;
mod value;
mod worker;

pub use api::{Api, Sink, SinkKind, Token};
pub use apt::{Apt, Place as StoragePlace};
pub use backend::{Backend, BackendKind, Project, Settings};
pub use bundle::Bundle;
pub use celery::{Celery, DatabaseFormat, Results, Switch, Tools};
pub use exec::{Argument, Command, Exec, OnDrain, Piece};
pub use gate::{Gate, Test as GateTest};
pub use policy::{Policies, Policy};
pub use pool::{Pool, PoolKind, Routes};
pub use problem::{Place, Problem};
pub use python::{Plugin, Python};
pub use s3::{BucketPlace, S3};
pub use secret::Secret;
pub use squad::{ForeignKeys, Hook, ResultStore, Squad, Storage, TestJobs};
pub use store::{Broker, BrokerAddress, Liveness, QueueType, Store, StoreAddress};
pub use surroundings::{Http, Identity, Kubernetes};
pub use worker::{Limits, LogFormat, Retention, Worker};

use document::Document;
use reading::Reading;
use section::Section;

/// The entry of `[projects]` for all that have none of their own.
const ANY_PROJECT: &str = "*";

/// All settings, valid as a whole.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Config {
    /// `[store]`: the database that holds every task.
    pub store: Store,
    /// `[broker]`: where messages come from.
    pub broker: Broker,
    /// `[worker]`: how a worker lives.
    pub worker: Worker,
    /// `[http]`: what a worker shows of itself.
    pub http: Http,
    /// `[kubernetes]`: what it knows of its pod.
    pub kubernetes: Kubernetes,
    /// `[pools]`, by name. Default: `fetch` (elastic, queue `ci_fetch`) and `postprocess` (pinned,
    /// queue `ci_fetch_postprocess`).
    pub pools: BTreeMap<String, Pool>,
    /// `[routes]`: which queue a task goes to.
    pub routes: Routes,
    /// `[celery]`: what is done for Celery's clients.
    pub celery: Celery,
    /// `[tasks]`: how often and how long a task is tried.
    pub tasks: Policies,
    /// `[exec]`: commands that run as tasks, by the task's name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub exec: BTreeMap<String, Exec>,
    /// `[gates]`: what is tested side by side and published in order, by the gate's name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub gates: BTreeMap<String, Gate>,
    /// `[python]`: the Python application whose tasks a worker runs.
    pub python: Python,
    /// `[plugins]`: plugins for test jobs that are programs of their own, by name. Default: none.
    pub plugins: BTreeMap<String, Plugin>,
    /// `[backends]`, by name. Default: none.
    pub backends: BTreeMap<String, Backend>,
    /// `[projects]`, by `group/project` or `*`. Default: none.
    pub projects: BTreeMap<String, Project>,
    /// `[sinks]`, by name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sinks: BTreeMap<String, Sink>,
    /// `[api]`: how producers speak to `longshore api`.
    pub api: Api,
    /// `[testjobs]`: where their results go.
    pub testjobs: TestJobs,
    /// `[squad]`: the SQUAD installation whose test jobs these are.
    pub squad: Squad,
    /// `[s3]`: how buckets are reached.
    pub s3: S3,
    /// `[apt]`: repositories of Debian packages, by name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub apt: BTreeMap<String, Apt>,
    /// `[bundle]`: the configuration that a worker takes over while it runs. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub bundle: Option<Bundle>,
    /// `[features]`: switches that handlers ask for by name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub features: BTreeMap<String, bool>,
    /// `[limits]`: what is refused as too large.
    pub limits: Limits,
    /// `[retention]`: what is forgotten, and when.
    pub retention: Retention,
    /// What may be a mistake, but need not be.
    #[serde(skip)]
    pub warnings: Vec<Problem>,
}

impl Config {
    /// Reads the file at `path`, if any, and lays the variables `LONGSHORE__SECTION__KEY` of `env`
    /// (usually [`std::env::vars_os`]) over it. A relative path in the file, and the default path of
    /// the store, start at the file's folder; one in a variable starts at the working directory.
    /// `known_plugins` are the names that a project's `plugins` may have.
    ///
    /// # Errors
    ///
    /// Every [`Problem`] that was found, in the order of the places; never an empty list. A file that
    /// cannot be read or is no TOML yields that alone.
    pub fn load(
        path: Option<&Path>,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        known_plugins: &[&str],
    ) -> Result<Self, Vec<Problem>> {
        let document = path.map(Document::read).unwrap_or_default();
        let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
        Self::assemble(document, folder, env, known_plugins)
    }

    /// The same with the configuration of a bundle, whose sources stand in the folder `bundle`, laid over the file. A relative path
    /// in a file of the bundle starts at that file's folder.
    ///
    /// # Errors
    ///
    /// As [`Config::load`]; and what a bundle must not say, or says twice.
    pub fn load_with_bundle(
        path: Option<&Path>,
        bundle: &Path,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        known_plugins: &[&str],
    ) -> Result<Self, Vec<Problem>> {
        let mut document = path.map(Document::read).unwrap_or_default();
        match bundle::members(bundle) {
            Ok(members) => bundle::overlay(&mut document, bundle, &members),
            Err(error) => document.problems.push(Problem {
                place: Place::File {
                    path: bundle.to_owned(),
                    line: None,
                },
                key: String::new(),
                value: None,
                what: format!("cannot be read: {error}"),
                mend: "publish the bundle again".to_owned(),
            }),
        }
        let folder = path.and_then(Path::parent).unwrap_or(Path::new(""));
        Self::assemble(document, folder, env, known_plugins)
    }

    /// The defaults, with the store and the broker in the file `longshore.db` of the folder `dir`.
    pub fn embedded(dir: &Path) -> Self {
        // Defaults are never wrong (there is a test), so that nothing is lost here.
        let (reading, table) = Reading::of(Document::default(), dir, BTreeMap::new(), &[]);
        reading.root(table, Self::read)
    }

    /// How often and how long the task `name` is tried: its own policy, or else the default one.
    pub fn policy(&self, name: &str) -> &Policy {
        self.tasks.get(name)
    }

    /// The queue of the task `name`: by its whole name, else by its longest `prefix.*`, else by `*`.
    pub fn route(&self, name: &str) -> &str {
        self.routes.get(name)
    }

    /// How the test jobs of `group/project` are treated: as its own entry says, or else as `*` says,
    /// or else without plugins and settings.
    pub fn project(&self, name: &str) -> Project {
        self.projects
            .get(name)
            .or_else(|| self.projects.get(ANY_PROJECT))
            .cloned()
            .unwrap_or_default()
    }

    /// Whether `group/project` is one of ours: it or `*` has an entry, or there are no entries at all.
    pub fn knows_project(&self, name: &str) -> bool {
        self.projects.is_empty()
            || self.projects.contains_key(name)
            || self.projects.contains_key(ANY_PROJECT)
    }

    /// Everything, defaults included, as a file that means the same, but for its secrets: `***`.
    pub fn redacted_toml(&self) -> String {
        toml::to_string(self).unwrap_or_else(|error| format!("# cannot be shown: {error}\n"))
    }

    fn assemble(
        mut document: Document,
        folder: &Path,
        env: impl IntoIterator<Item = (OsString, OsString)>,
        known_plugins: &[&str],
    ) -> Result<Self, Vec<Problem>> {
        if !document.problems.is_empty() {
            // What the file would have said is unknown, so whatever else seems wrong may not be.
            return Err(document.problems);
        }
        let variables = variables(env, &mut document.problems);
        document.overlay(&variables);
        let (reading, table) = Reading::of(document, folder, variables, known_plugins);
        let config = reading.root(table, Self::read);
        check::check(&config, &reading);
        let (problems, warnings) = reading.end();
        if problems.is_empty() {
            Ok(Self { warnings, ..config })
        } else {
            Err(problems)
        }
    }

    fn read(root: &mut Section<'_>) -> Self {
        let worker = root.table("worker", Worker::read);
        let pools = root.table("pools", |section| Pool::read_all(section, &worker));
        let plugins = root.table("plugins", Plugin::read_all);
        let routes = root.table("routes", |section| Routes::read(section, &pools));
        Self {
            store: root.table("store", Store::read),
            broker: root.table("broker", Broker::read),
            worker,
            http: root.table("http", Http::read),
            kubernetes: root.table("kubernetes", Kubernetes::read),
            gates: root.table("gates", |section| Gate::read_all(section, &routes)),
            routes,
            pools,
            celery: root.table("celery", Celery::read),
            tasks: root.table("tasks", Policies::read),
            exec: root.table("exec", Exec::read_all),
            python: root.table("python", Python::read),
            projects: root.table("projects", |section| {
                section.tables(|name, section| Project::read(name, section, &plugins))
            }),
            plugins,
            backends: root
                .table("backends", |section| {
                    section.tables(|_, section| Backend::read(section))
                })
                .into_iter()
                .filter_map(|(name, backend)| Some((name, backend?)))
                .collect(),
            sinks: root
                .table("sinks", |section| {
                    section.tables(|_, section| Sink::read(section))
                })
                .into_iter()
                .filter_map(|(name, sink)| Some((name, sink?)))
                .collect(),
            api: root.table("api", Api::read),
            testjobs: root.table("testjobs", TestJobs::read),
            squad: root.table("squad", Squad::read),
            s3: root.table("s3", S3::read),
            apt: root.table("apt", Apt::read_all),
            bundle: root.table("bundle", Bundle::read),
            features: root.table("features", bundle::features),
            limits: root.table("limits", Limits::read),
            retention: root.table("retention", Retention::read),
            warnings: Vec::new(),
        }
    }
}

/// The environment as text; of what is no text, only our own variables are a problem.
fn variables(
    env: impl IntoIterator<Item = (OsString, OsString)>,
    problems: &mut Vec<Problem>,
) -> BTreeMap<String, String> {
    let mut variables = BTreeMap::new();
    for (name, value) in env {
        let name = name.to_string_lossy().into_owned();
        match value.into_string() {
            Ok(value) => drop(variables.insert(name, value)),
            Err(_) if name.starts_with(document::PREFIX) => problems.push(Problem {
                place: Place::Variable(name),
                key: String::new(),
                value: None,
                what: "not UTF-8 text".to_owned(),
                mend: "set it to UTF-8 text".to_owned(),
            }),
            Err(_) => {}
        }
    }
    variables
}
