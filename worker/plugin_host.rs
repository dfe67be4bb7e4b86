//! Children of a worker: processes that host handlers of a Python application, or a plugin for test jobs.
//!
//! A child never holds a lease, never acknowledges, never decides who may run: it computes and speaks
//! `protos/longshore/plugin/v1`. Whatever becomes of it (a crash, a kill for want of memory, a hang, `sys.exit`) is the
//! end of its attempt and no more: the [`Host`] starts another. When an attempt is cut off, its child is killed before
//! anybody else can be given the task.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::config::Python;
use crate::handler::Registry;

mod attempt;
pub(crate) mod child;
pub(crate) mod folder;
pub mod protocol;
mod python;

use child::{Child, Nursery, Program};
use protocol::{FromChild, TaskName};

pub(crate) use attempt::tail;
pub use python::Package;

/// The protocol's version that we speak.
const PROTOCOL: u32 = 1;
/// Between the death of a child and the next start: this, doubled with each that died young, …
const PAUSE_MIN: Duration = Duration::from_millis(100);
/// … up to this.
const PAUSE_MAX: Duration = Duration::from_secs(30);
/// A child that lived for so long did not die young.
const ADULT: Duration = Duration::from_secs(10);

/// Why a host could not begin.
#[derive(Debug, thiserror::Error)]
pub enum HostError {
    /// A process or a folder could not be made.
    #[error("start {what}: {source}")]
    Start {
        /// What.
        what: String,
        /// Why not.
        #[source]
        source: std::io::Error,
    },
    /// The application does not load.
    #[error("load the Python application {app:?}: {reason}")]
    Load {
        /// Which.
        app: String,
        /// What happened, with the end of its log.
        reason: String,
    },
}

/// The children of a worker that host a Python application.
pub struct Host {
    app: String,
    program: Program,
    nursery: Nursery,
    start_limit: Duration,
    /// Its tasks, by name.
    tasks: BTreeMap<String, TaskName>,
    /// Those whose producers use an id again.
    repeated: BTreeSet<String>,
    /// Who the worker is, for the tasks.
    hostname: String,
    /// Those without an attempt; each has a permit.
    idle: Mutex<Vec<Child>>,
    free: Semaphore,
    closed: CancellationToken,
    running: TaskTracker,
    /// What the children import; the folder goes with the last of them.
    _package: Package,
}

impl std::fmt::Debug for Host {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Host({}, {} tasks)", self.app, self.tasks.len())
    }
}

impl Host {
    /// Starts the application's processes, `slots` of them where the configuration names no number, and waits until the
    /// first has said what it runs.
    ///
    /// # Errors
    ///
    /// [`HostError`]: it cannot be started, or does not load.
    pub async fn start(
        config: &Python,
        app: &str,
        slots: u32,
        hostname: String,
    ) -> Result<Arc<Self>, HostError> {
        let Python {
            app: _,
            processes,
            python,
            path,
            silence,
            start_limit,
            memory,
            repeat,
        } = config;
        let package = Package::unpack().map_err(|source| HostError::Start {
            what: "the Python package's folder".into(),
            source,
        })?;
        let program = package.program(app, python, path, *silence, *memory);
        let nursery = Nursery::open().map_err(|source| HostError::Start {
            what: "the thread for child processes".into(),
            source,
        })?;
        let mut host = Self {
            app: app.to_owned(),
            program,
            nursery,
            start_limit: *start_limit,
            tasks: BTreeMap::new(),
            repeated: repeat.iter().cloned().collect(),
            hostname,
            idle: Mutex::default(),
            free: Semaphore::new(0),
            closed: CancellationToken::new(),
            running: TaskTracker::new(),
            _package: package,
        };
        let (first, hello) = host.child(0).await?;
        tracing::info!(
            app,
            software = hello.software,
            tasks = hello.tasks.len(),
            "Python application loaded"
        );
        host.tasks = hello
            .tasks
            .into_iter()
            .map(|task| (task.name.clone(), task))
            .collect();
        for name in &host.repeated {
            if !host.tasks.contains_key(name) {
                tracing::warn!(
                    task.name = name,
                    "python.repeat names a task that the application does not have"
                );
            }
        }
        let host = Arc::new(host);
        let mut first = Some(first);
        for place in 0..processes.unwrap_or(slots) {
            let keeping = Arc::clone(&host).keep(place, first.take());
            host.running.spawn(keeping);
        }
        Ok(host)
    }

    /// Registers a handler for each of the application's tasks; a name that is there already stays as it is.
    pub fn register(self: &Arc<Self>, registry: &mut Registry) {
        for name in self.tasks.keys() {
            if registry.knows(name) {
                tracing::info!(
                    task.name = name,
                    "the Python application has a task of this name too; it is not used"
                );
                continue;
            }
            let host = Arc::clone(self);
            registry.keep_time(name);
            if self.repeated.contains(name) {
                registry.repeat(name);
            }
            registry.add(name.clone(), move |task, context| {
                attempt::run(Arc::clone(&host), task, context)
            });
        }
    }

    /// Ends every child.
    pub fn close(&self) {
        self.closed.cancel();
        self.idle(Vec::clear);
    }

    /// Keeps one process running, until the host is closed.
    async fn keep(self: Arc<Self>, place: u32, mut first: Option<Child>) {
        let mut pause = PAUSE_MIN;
        while !self.closed.is_cancelled() {
            let begun = Instant::now();
            let child = match first.take() {
                Some(child) => Some(child),
                None => match self.child(place).await {
                    Ok((child, _)) => Some(child),
                    Err(error) => {
                        tracing::error!(%error, place, "a Python process could not be started; it is tried again");
                        None
                    }
                },
            };
            if let Some(child) = child {
                let mut exit = child.watch();
                self.offer(child);
                tokio::select! {
                    _ended = exit.wait_for(Option::is_some) => {}
                    () = self.closed.cancelled() => return,
                }
                tracing::warn!(place, "a Python process has ended; another is started");
            }
            pause = if begun.elapsed() >= ADULT {
                PAUSE_MIN
            } else {
                (pause * 2).min(PAUSE_MAX)
            };
            tokio::select! {
                () = tokio::time::sleep(pause / 2) => {}
                () = self.closed.cancelled() => return,
            }
        }
    }

    /// Starts a child and waits until it is ready.
    async fn child(&self, place: u32) -> Result<(Child, protocol::Hello), HostError> {
        let program = Program {
            name: format!("python-{place}"),
            ..self.program.clone()
        };
        let mut child = Child::start(&program, &self.nursery, &self.running)
            .await
            .map_err(|source| HostError::Start {
                what: format!(
                    "{:?} (see python.python in the configuration)",
                    program.command.first()
                ),
                source,
            })?;
        let wrong = |reason: String| HostError::Load {
            app: self.app.clone(),
            reason,
        };
        let hello = tokio::time::timeout(self.start_limit, child.hear()).await;
        match hello {
            Ok(Some(FromChild::Hello(hello))) if hello.protocol == PROTOCOL => Ok((child, hello)),
            Ok(Some(FromChild::Hello(hello))) => Err(wrong(format!(
                "its package speaks version {} of the protocol, and this worker {PROTOCOL}: remove the package from the application's environment, or update it",
                hello.protocol
            ))),
            Ok(Some(FromChild::Failed(failed))) => Err(wrong(format!(
                "{}: {}\n{}",
                failed.r#type, failed.message, failed.traceback
            ))),
            Ok(Some(other)) => Err(wrong(format!("it said {other:?} instead of hello"))),
            Ok(None) => {
                let end = child.end().await;
                Err(wrong(format!("{end}\n{}", child.last_words())))
            }
            Err(_) => Err(wrong(format!(
                "it was not ready after {} (python.start_limit)\n{}",
                humantime::format_duration(self.start_limit),
                child.last_words()
            ))),
        }
    }

    /// A child for one attempt.
    async fn borrow(self: &Arc<Self>) -> anyhow::Result<Lent> {
        loop {
            self.free.acquire().await?.forget();
            // One that died while it was idle still has its permit.
            if let Some(mut child) = self.idle(Vec::pop)
                && !child.is_over()
            {
                child.forget_the_past();
                return Ok(Lent {
                    child: Some(child),
                    host: Arc::clone(self),
                });
            }
        }
    }

    fn offer(&self, child: Child) {
        if self.closed.is_cancelled() {
            return;
        }
        self.idle(|idle| idle.push(child));
        self.free.add_permits(1);
    }

    fn idle<T>(&self, with: impl FnOnce(&mut Vec<Child>) -> T) -> T {
        with(&mut self.idle.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// A child that has an attempt. Dropped, it is killed: nobody knows what it is in the middle of.
struct Lent {
    child: Option<Child>,
    host: Arc<Host>,
}

impl Lent {
    /// The attempt ended as it should; the child can have another.
    fn give_back(mut self) {
        if let Some(child) = self.child.take() {
            self.host.offer(child);
        }
    }
}
