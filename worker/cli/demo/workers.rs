//! The demo's workers: processes of this very program.
//!
//! Invariant: none outlives the demo. Each is killed when its handle is dropped, and on Linux by the
//! system if the demo itself is killed; none gets a signal of the terminal: the demo decides who dies.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Stdio};
use std::time::Duration;

use anyhow::Context as _;
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::id::WorkerId;
use crate::store::Store;

/// Between two looks at the store.
const LOOK: Duration = Duration::from_millis(5);

/// One worker process.
pub(super) struct Worker {
    /// For people: the pool and a number.
    pub(super) name: String,
    /// Its process.
    pub(super) pid: u32,
    child: Child,
    log: PathBuf,
}

impl Worker {
    /// Starts a worker of `pool` on the configuration in `folder`; its log is a file there.
    pub(super) fn start(folder: &Path, pool: &str, number: usize) -> anyhow::Result<Self> {
        let name = format!("{pool}-{number}");
        let log = folder.join(format!("{name}.log"));
        let file = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new(std::env::current_exe().context("find this program")?);
        command
            .args(["run", "--pool", pool, "--config"])
            .arg(folder.join(super::CONFIG))
            .args(["--parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(file.try_clone()?)
            .stderr(file)
            // Their only backend is on this machine.
            .env("NO_PROXY", "127.0.0.1")
            .process_group(0)
            .kill_on_drop(true);
        // What the user has set for real workers is not for these.
        for (key, _) in std::env::vars_os() {
            let text = key.to_string_lossy();
            if text.starts_with("LONGSHORE_") && text != "LONGSHORE_LOG" {
                command.env_remove(&key);
            }
        }
        let child = command.spawn().context("start a worker")?;
        let pid = child.id().context("learn a worker's process id")?;
        Ok(Self {
            name,
            pid,
            child,
            log,
        })
    }

    /// Waits until the store knows it.
    pub(super) async fn joined(&mut self, store: &Store) -> anyhow::Result<WorkerId> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                anyhow::bail!(
                    "start {}: it ended with {status}; see {}",
                    self.name,
                    self.log.display()
                );
            }
            let workers = store.workers(false).await?;
            let own = workers
                .into_iter()
                .find(|worker| worker.pid == i64::from(self.pid));
            if let Some(worker) = own {
                return Ok(worker.id);
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Asks it to end.
    pub(super) fn terminate(&self) -> anyhow::Result<()> {
        let pid = self
            .child
            .id()
            .and_then(|pid| Pid::from_raw(i32::try_from(pid).ok()?));
        let pid = pid.with_context(|| format!("signal {}: it has ended", self.name))?;
        kill_process(pid, Signal::TERM).with_context(|| format!("signal {}", self.name))
    }

    /// Ends it at once.
    pub(super) fn kill(&mut self) -> anyhow::Result<()> {
        self.child
            .start_kill()
            .with_context(|| format!("kill {}", self.name))
    }

    /// Waits for its end.
    pub(super) async fn ended(&mut self) -> anyhow::Result<ExitStatus> {
        self.child
            .wait()
            .await
            .with_context(|| format!("wait for {}", self.name))
    }
}
