//! Where test jobs run: LAVA, TuxSuite, a directory of result files. A backend reads; it never
//! stores, never retries a whole collection (the task does) and never calls a short read a result.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::task::Poll;

use async_trait::async_trait;
use serde_json::Value;
use tokio::io::{AsyncRead, ReadBuf};
use url::Url;

use crate::testjob::item::{Item, Sink};

pub mod directory;
pub mod http;
pub mod lava;
pub mod tuxsuite;

/// How a finished test job ended, in SQUAD's words.
#[derive(Debug, Clone, PartialEq)]
pub struct Summary {
    /// `Complete`, `Incomplete`, `Canceled` as the backend says.
    pub status: String,
    /// Whether its results count as complete: false for infrastructure errors and empty results.
    pub completed: bool,
    /// The test job's name on the backend.
    pub name: Option<String>,
    /// Where a person can look at it.
    pub url: Option<String>,
    /// The environment, where the backend knows better than who asked (TuxSuite's test name).
    pub environment: Option<String>,
    /// Why it failed on the backend: LAVA's error metadata, TuxSuite's reason.
    pub failure: Option<Value>,
    /// Whether the same test job may be submitted again.
    pub can_resubmit: bool,
}

/// What one look at a test job said.
#[derive(Debug, Clone, PartialEq)]
pub enum Collected {
    /// Not finished: look again later. Nothing was sent to the sink. The backend's word for its state.
    Running(String),
    /// Finished, and every item was sent to the sink.
    Done(Summary),
}

/// Why a collection ended without an answer.
#[derive(Debug, thiserror::Error)]
pub enum BackendError {
    /// Worth another attempt later: a time-out, a reset connection, any 5xx or 429, a short read.
    #[error("{0}")]
    Temporary(String),
    /// Another attempt would end the same: no such test job, not allowed, a limit exceeded, not parseable.
    #[error("{0}")]
    Final(String),
    /// The sink was closed: the attempt was told to stop.
    #[error("the attempt was stopped")]
    Stopped,
}

/// Settings of a project over those of its backend, by SQUAD's keys (`CI_LAVA_HANDLE_SUITE`, …).
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Settings(pub BTreeMap<String, Value>);

impl Settings {
    /// Reads a mapping in YAML, as SQUAD keeps settings; anything else is no settings.
    pub fn from_yaml(text: &str) -> Self {
        match yaml(text) {
            Value::Object(entries) => Self(entries.into_iter().collect()),
            Value::Null
            | Value::Bool(_)
            | Value::Number(_)
            | Value::String(_)
            | Value::Array(_) => Self::default(),
        }
    }

    /// Whether `key` is set to something true.
    pub fn is_on(&self, key: &str) -> bool {
        match self.0.get(key) {
            Some(Value::Bool(on)) => *on,
            Some(Value::String(text)) => matches!(
                text.to_ascii_lowercase().as_str(),
                "true" | "yes" | "1" | "on"
            ),
            Some(Value::Number(number)) => number.as_f64() != Some(0.0),
            Some(Value::Null | Value::Array(_) | Value::Object(_)) | None => false,
        }
    }

    /// The value of `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
}

/// The setting with which a test's log begins as SQUAD's web pages show it.
pub(crate) const BROWSER_LINKS: &str = "LONGSHORE_BROWSER_LINKS";

/// The setting that holds what the backend has said of the test job by itself, an object: it need not be asked for that.
pub(crate) const TOLD: &str = "LONGSHORE_TOLD";

/// YAML as JSON; null if it is no YAML.
pub(crate) fn yaml(text: &str) -> Value {
    serde_norway::from_str(text).map_or(Value::Null, lava::results::to_json)
}

/// The metadata key under which a backend tells of files that tests refer to: a mapping of
/// `<suite>/<test>` to what [`Backend::open`] takes, for instance
/// `{"cts-lkft/test-attachment": "https://…/tradefed-output.tar.xz"}`. At most 1000 of them.
pub const REFERENCES: &str = "references";

/// A byte stream of a file that a test job refers to.
pub struct Download {
    reader: Box<dyn AsyncRead + Send + Unpin>,
    /// What the server says it is.
    pub media_type: Option<String>,
}

impl Download {
    /// What `reader` gives.
    pub fn new(
        reader: impl AsyncRead + Send + Unpin + 'static,
        media_type: Option<String>,
    ) -> Self {
        Self {
            reader: Box::new(reader),
            media_type,
        }
    }
}

impl AsyncRead for Download {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut std::task::Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<std::io::Result<()>> {
        Pin::new(&mut self.reader).poll_read(context, buffer)
    }
}

/// A source of test jobs.
#[async_trait]
pub trait Backend: Send + Sync {
    /// Looks at the test job `id`; if it is finished, sends everything it has to `out`: metadata
    /// (`job_id`, `job_status`, `job_url`, and for LAVA `definition` as the file `definition.yaml`),
    /// tests, metrics, and files, the job's log as the file `log`. The same finished test job
    /// yields the same items in the same order each time, so that an interrupted collection can go on.
    ///
    /// # Errors
    ///
    /// [`BackendError`] says whether trying again can help. Some items may have been sent by then.
    async fn collect(
        &self,
        id: &str,
        settings: &Settings,
        out: &Sink,
    ) -> Result<Collected, BackendError>;

    /// Opens a file of the test job `id` by the reference that its results gave (a URL, or a path
    /// for the directory backend).
    ///
    /// # Errors
    ///
    /// As [`Backend::collect`].
    async fn open(&self, id: &str, reference: &str) -> Result<Download, BackendError>;
}

/// A reference that must be an `http` or `https` address.
pub(crate) fn web_address(reference: &str) -> Result<Url, BackendError> {
    match Url::parse(reference) {
        Ok(url) if matches!(url.scheme(), "http" | "https") => Ok(url),
        Ok(_) | Err(_) => Err(BackendError::Final(
            "open a file: its reference is no http or https address".to_owned(),
        )),
    }
}

/// Problems sent word for word; the rest is counted. A broken log must not become a million rows.
const MAX_PROBLEMS: u64 = 100;

/// A [`Sink`] as backends use it: a closed one is [`BackendError::Stopped`], problems are bounded,
/// and it knows whether any result came.
pub(crate) struct Outlet<'a> {
    sink: &'a Sink,
    results: u64,
    problems: u64,
}

impl<'a> Outlet<'a> {
    /// An outlet to which nothing was sent yet.
    pub(crate) fn new(sink: &'a Sink) -> Self {
        Self {
            sink,
            results: 0,
            problems: 0,
        }
    }

    /// Sends one item; waits while the store is behind.
    pub(crate) async fn send(&mut self, item: Item) -> Result<(), BackendError> {
        match &item {
            Item::Test(_) | Item::Metric(_) => self.results += 1,
            Item::Problem(_) => {
                self.problems += 1;
                if self.problems > MAX_PROBLEMS {
                    return Ok(());
                }
            }
            Item::Metadata(..) | Item::File { .. } | Item::Data(_) => {}
        }
        self.sink
            .send(item)
            .await
            .map_err(|_| BackendError::Stopped)
    }

    /// Sends a fact about the test job.
    pub(crate) async fn fact(
        &mut self,
        key: &str,
        value: impl Into<Value>,
    ) -> Result<(), BackendError> {
        self.send(Item::Metadata(key.to_owned(), value.into()))
            .await
    }

    /// Sends a problem.
    pub(crate) async fn problem(&mut self, text: impl Into<String>) -> Result<(), BackendError> {
        self.send(Item::Problem(text.into())).await
    }

    /// Begins a file.
    pub(crate) async fn file(&mut self, name: &str, mimetype: &str) -> Result<(), BackendError> {
        self.send(Item::File {
            name: name.to_owned(),
            mimetype: mimetype.to_owned(),
        })
        .await
    }

    /// Says how many problems were only counted; returns whether any test or metric was sent.
    pub(crate) async fn finish(self) -> Result<bool, BackendError> {
        if let Some(more) = self
            .problems
            .checked_sub(MAX_PROBLEMS)
            .filter(|more| *more > 0)
        {
            let last = Item::Problem(format!("{more} more problems were counted and not kept"));
            self.sink
                .send(last)
                .await
                .map_err(|_| BackendError::Stopped)?;
        }
        Ok(self.results > 0)
    }
}
