//! Plugins that are programs of their own, in any language: `[plugins.NAME]`.
//!
//! The program is started once for each test job, in a folder of its own, and speaks `longshore.plugin.v1` over its
//! standard input and output. What it sends is staged like what a built-in plugin finds: visible as a whole or not at
//! all. One that is cut off is killed, and begun again; what it repeats is recognised.

use std::collections::BTreeMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use base64::Engine as _;
use base64::prelude::BASE64_STANDARD;
use bytes::Bytes;
use serde_json::{Map, Value};
use tokio::io::AsyncWriteExt as _;
use tokio_util::task::TaskTracker;

use super::{Job, send};
use crate::config;
use crate::handler::Fatal;
use crate::plugin_host::child::{Child, Nursery, Program};
use crate::plugin_host::folder::Folder;
use crate::plugin_host::protocol::{
    Attachment, Failed, FileName, FromChild, Metric, Start, Test, TestJob, ToChild,
};
use crate::plugin_host::{HostError, Package};
use crate::testjob::item::{self, CUT, DATA_CHUNK, Item, MAX_TEXT, Sink, TestResult};

/// The most measurements of one metric that are kept.
const MAX_MEASUREMENTS: usize = 65_536;
/// The longest wait that a plugin can ask for: a year.
const LONGEST_WAIT: f64 = 366.0 * 86_400.0;

/// What starts the programs.
pub(crate) struct Programs {
    nursery: Nursery,
    children: TaskTracker,
    /// For those in Python.
    package: Package,
    commands: BTreeMap<String, Vec<String>>,
}

impl Programs {
    /// Ready to start the plugins that the configuration names, if there are any.
    pub(crate) fn open(
        plugins: &BTreeMap<String, config::Plugin>,
    ) -> Result<Option<Self>, HostError> {
        if plugins.is_empty() {
            return Ok(None);
        }
        let wrong = |what: &str| {
            let what = what.to_owned();
            |source| HostError::Start { what, source }
        };
        let commands = plugins
            .iter()
            .map(|(name, config::Plugin { command })| (name.clone(), command.clone()))
            .collect();
        Ok(Some(Self {
            nursery: Nursery::open().map_err(wrong("the thread for child processes"))?,
            children: TaskTracker::new(),
            package: Package::unpack().map_err(wrong("the Python package's folder"))?,
            commands,
        }))
    }

    async fn start(&self, plugin: &str, folder: &Path) -> anyhow::Result<Child> {
        let Some(command) = self.commands.get(plugin) else {
            anyhow::bail!(Fatal(format!("unknown plugin {plugin:?}")));
        };
        let program = Program {
            name: plugin.to_owned(),
            command: command.iter().map(Into::into).collect(),
            environment: vec![("PYTHONPATH".into(), self.package.python_path(&[]))],
            alone: false,
            folder: Some(folder.to_owned()),
            speaks: true,
            silence: None,
            log_limit: None,
        };
        Child::start(&program, &self.nursery, &self.children)
            .await
            .map_err(|error| {
                anyhow::anyhow!("the plugin's program {command:?} cannot be started: {error}")
            })
    }
}

/// How a program ended.
pub(crate) enum End {
    /// It is done.
    Done,
    /// It wants to be run again after this time.
    Later(Duration, String),
}

/// Runs the program of `plugin`.
pub(crate) async fn run(
    programs: &Programs,
    plugin: &str,
    project: &Project,
    job: &Job,
    sink: &Sink,
) -> anyhow::Result<End> {
    let folder = Folder::make()?;
    let start = start(plugin, project, job, folder.path()).await?;
    let mut child = programs.start(plugin, folder.path()).await?;
    child.say(&ToChild::Start(Box::new(start))).await;
    loop {
        match child.hear().await {
            Some(FromChild::Test(test)) => send(sink, Item::Test(checked(test)?)).await?,
            Some(FromChild::Metric(metric)) => {
                for item in measured(metric) {
                    send(sink, item).await?;
                }
            }
            Some(FromChild::Metadata { key, value }) => {
                let item = if key.is_empty() || value.to_string().len() > MAX_TEXT {
                    Item::Problem(format!("metadata {key:?} has no name or is too long"))
                } else {
                    Item::Metadata(key, value)
                };
                send(sink, item).await?;
            }
            Some(FromChild::Problem { text }) => {
                send(sink, Item::Problem(shortened(text))).await?;
            }
            Some(FromChild::Attachment(attachment)) => {
                attach(attachment, folder.path(), job, sink).await?;
            }
            Some(FromChild::Want { name }) => {
                let path = fetch(&name, folder.path(), job).await?;
                let path = path.map_or_else(String::new, |it| it.to_string_lossy().into_owned());
                child.say(&ToChild::File { name, path }).await;
            }
            Some(FromChild::Progress { text }) => job.context.set_progress(text),
            Some(FromChild::Done { result: _ }) => return Ok(End::Done),
            Some(FromChild::Later { seconds, reason }) => {
                let seconds = if seconds.is_finite() { seconds } else { 0.0 };
                let after = Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_WAIT));
                return Ok(End::Later(after, reason));
            }
            Some(FromChild::Failed(failed)) => return Err(failure(failed)),
            Some(
                other @ (FromChild::Hello(_)
                | FromChild::Alive {}
                | FromChild::Log { .. }
                | FromChild::Checkpoint { .. }
                | FromChild::Retry(_)
                | FromChild::HandOff {}
                | FromChild::Ignored {}),
            ) => {
                tracing::warn!(plugin, message = ?other, "a plugin said what only a task can say");
            }
            // A script need not say `done`: that it ends well is enough.
            None if child.ended_well().await => return Ok(End::Done),
            None => {
                let end = child.end().await;
                anyhow::bail!("the plugin {plugin}: {end}\n{}", child.last_words());
            }
        }
    }
}

/// What a plugin is told of the project.
#[derive(Debug, Clone)]
pub(crate) struct Project {
    /// The backend's name.
    pub(crate) backend: String,
    /// `group/project`.
    pub(crate) name: String,
    /// For the backend; those that are secret are hidden.
    pub(crate) settings: Map<String, Value>,
}

async fn start(plugin: &str, project: &Project, job: &Job, folder: &Path) -> anyhow::Result<Start> {
    let store = job.context.store();
    let facts = job
        .context
        .patiently(|| store.fetched_facts(job.testjob, job.generation))
        .await?;
    let files = job
        .context
        .patiently(|| store.fetched_files(job.testjob, job.generation))
        .await?;
    let (failures, crashes, interruptions) = job.context.history();
    let metadata = facts.into_iter().map(|(key, value)| {
        let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
        (key, value)
    });
    let files = files.into_iter().map(|file| FileName {
        name: file.name,
        mimetype: file.mimetype,
    });
    Ok(Start {
        task: None,
        testjob: Some(TestJob {
            number: job.testjob,
            generation: job.generation,
            plugin: plugin.to_owned(),
            backend: project.backend.clone(),
            id: job.id.clone(),
            project: project.name.clone(),
            settings: project.settings.clone(),
            metadata: metadata.collect(),
            files: files.collect(),
            folder: folder.to_string_lossy().into_owned(),
        }),
        checkpoint: None,
        epoch: job.context.epoch().get(),
        failures,
        crashes,
        interruptions,
    })
}

fn checked(test: Test) -> Result<item::Test, Fatal> {
    let Test {
        suite,
        name,
        result,
        log,
    } = test;
    let result = match result.as_str() {
        "pass" => TestResult::Pass,
        "fail" => TestResult::Fail,
        "xfail" => TestResult::Xfail,
        "skip" => TestResult::Skip,
        other => {
            return Err(Fatal(format!(
                "the plugin said {other:?} of the test {suite}/{name}: it must be pass, fail, xfail or skip"
            )));
        }
    };
    if name.is_empty() {
        return Err(Fatal(format!(
            "the plugin sent a test of the suite {suite:?} without a name"
        )));
    }
    Ok(item::Test {
        suite: of_suite(&suite),
        name,
        result,
        log: Some(log).filter(|log| !log.is_empty()).map(shortened),
    })
}

fn of_suite(suite: &str) -> String {
    let suite = suite.trim_end_matches('/');
    if suite.is_empty() { "/" } else { suite }.to_owned()
}

fn measured(metric: Metric) -> Vec<Item> {
    let Metric {
        suite,
        name,
        value,
        unit,
        mut measurements,
    } = metric;
    let mut items = Vec::new();
    if measurements.is_empty() {
        measurements.push(value);
    }
    if measurements.len() > MAX_MEASUREMENTS {
        items.push(Item::Problem(format!(
            "metric {suite}/{name}: of {} measurements the first {MAX_MEASUREMENTS} are kept",
            measurements.len()
        )));
        measurements.truncate(MAX_MEASUREMENTS);
    }
    items.push(Item::Metric(item::Metric {
        suite: of_suite(&suite),
        name,
        value,
        unit: shortened(unit),
        measurements,
    }));
    items
}

fn shortened(mut text: String) -> String {
    if text.len() > MAX_TEXT {
        text.truncate(text.floor_char_boundary(MAX_TEXT - CUT.len()));
        text.push_str(CUT);
    }
    text
}

fn failure(failed: Failed) -> anyhow::Error {
    let Failed {
        r#type,
        module: _,
        message,
        args: _,
        traceback,
        r#final,
    } = failed;
    let parts = [r#type, message, traceback];
    let said = parts.iter().filter(|part| !part.is_empty());
    let text = said.cloned().collect::<Vec<_>>().join(": ");
    let text = shortened(text);
    if r#final {
        Fatal(text).into()
    } else {
        anyhow::anyhow!(text)
    }
}

/// A file that the plugin made becomes an attachment.
async fn attach(
    attachment: Attachment,
    folder: &Path,
    job: &Job,
    sink: &Sink,
) -> anyhow::Result<()> {
    let Attachment {
        name,
        mimetype,
        data,
        path,
    } = attachment;
    let base = name.rsplit('/').next().unwrap_or_default().to_owned();
    let wrong = |what: String| Fatal(format!("the plugin's attachment {name:?}: {what}"));
    if base.is_empty() {
        return Err(wrong("it has no name".into()).into());
    }
    let mimetype = if mimetype.is_empty() {
        "application/octet-stream".to_owned()
    } else {
        mimetype
    };
    let file = Item::File {
        name: base,
        mimetype,
    };
    if path.is_empty() {
        let data = BASE64_STANDARD
            .decode(&data)
            .map_err(|error| wrong(format!("its data is no base64: {error}")))?;
        send(sink, file).await?;
        for piece in data.chunks(DATA_CHUNK) {
            send(sink, Item::Data(Bytes::copy_from_slice(piece))).await?;
        }
        return Ok(());
    }
    let (folder, limit, to) = (folder.to_owned(), job.limits.attachment, sink.clone());
    let read = tokio::task::spawn_blocking(move || -> Result<(), String> {
        let there = folder
            .join(&path)
            .canonicalize()
            .map_err(|error| format!("{path:?}: {error}"))?;
        let folder = folder.canonicalize().map_err(|error| error.to_string())?;
        if !there.starts_with(&folder) || !there.is_file() {
            return Err(format!("{path:?} is no file in the plugin's folder"));
        }
        let input = std::fs::File::open(&there).map_err(|error| error.to_string())?;
        let length = input.metadata().map_or(0, |it| it.len());
        if length > limit {
            return Err(format!("{length} bytes are more than limits.attachment"));
        }
        let mut input = input.take(limit);
        let stopped = |_| "nobody wants it any more".to_owned();
        to.blocking_send(file).map_err(stopped)?;
        let mut buffer = vec![0; DATA_CHUNK];
        loop {
            let count = input.read(&mut buffer).map_err(|error| error.to_string())?;
            let Some(piece) = buffer.get(..count).filter(|piece| !piece.is_empty()) else {
                return Ok(());
            };
            to.blocking_send(Item::Data(Bytes::copy_from_slice(piece)))
                .map_err(stopped)?;
        }
    });
    Ok(read.await?.map_err(wrong)?)
}

/// Puts a file of the test job into the plugin's folder.
async fn fetch(name: &str, folder: &Path, job: &Job) -> anyhow::Result<Option<PathBuf>> {
    let store = job.context.store();
    let files = job
        .context
        .patiently(|| store.fetched_files(job.testjob, job.generation))
        .await?;
    let Some(file) = files.iter().find(|file| file.name == name) else {
        return Ok(None);
    };
    // What the plugin makes itself is not overwritten, whatever a file is called.
    let into = folder.join("files");
    tokio::fs::create_dir_all(&into).await?;
    let base = name
        .rsplit('/')
        .next()
        .filter(|base| !base.is_empty() && !base.starts_with('.'));
    let path = into.join(base.unwrap_or("file"));
    let mut output = tokio::fs::File::create(&path).await?;
    let mut after = 0;
    loop {
        let pieces = job
            .context
            .patiently(|| store.file_data(file, after))
            .await?;
        let Some((last, _)) = pieces.last() else {
            break;
        };
        after = *last;
        for (_, data) in &pieces {
            output.write_all(data).await?;
        }
    }
    output.flush().await?;
    Ok(Some(path))
}
