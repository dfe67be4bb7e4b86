//! The real program as a child process.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{ExitStatus, Output, Stdio};
use std::time::Duration;

use tokio::process::Command;

use super::{Folder, unique, wait_for, wait_until};

/// A running `longshore`; killed when it is dropped, and its log is printed if the test has failed.
#[derive(Debug)]
pub(crate) struct Child {
    process: tokio::process::Child,
    pid: u32,
    name: String,
    log: PathBuf,
}

/// `longshore` with `arguments`, and nothing of the caller's configuration.
fn command(arguments: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_longshore"));
    for (name, _) in std::env::vars_os() {
        if name.to_string_lossy().starts_with("LONGSHORE_") {
            command.env_remove(&name);
        }
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .kill_on_drop(true);
    command
}

/// Runs a verb that ends by itself.
pub(crate) async fn run(arguments: &[&str]) -> Output {
    run_with(arguments, &BTreeMap::new()).await
}

/// Runs a verb that ends by itself, with variables in its environment.
pub(crate) async fn run_with(arguments: &[&str], variables: &BTreeMap<String, String>) -> Output {
    tokio::time::timeout(super::LIMIT, command(arguments).envs(variables).output())
        .await
        .unwrap_or_else(|_| panic!("`longshore {}` did not end", arguments.join(" ")))
        .unwrap()
}

impl Child {
    /// Starts it with `arguments` and the `variables` in its environment.
    pub(crate) fn start(folder: &Folder, arguments: &[&str], variables: &[(&str, &str)]) -> Self {
        let log = folder.join(&format!("{}.log", unique()));
        let file = std::fs::File::create(&log).unwrap();
        let process = command(arguments)
            .envs(variables.iter().copied())
            .stdout(file.try_clone().unwrap())
            .stderr(file)
            .spawn()
            .unwrap();
        let pid = process.id().expect("it has just begun");
        Self {
            process,
            pid,
            name: format!("longshore {}", arguments.join(" ")),
            log,
        }
    }

    /// Starts a worker of `pool`.
    pub(crate) fn worker(folder: &Folder, config: &Path, pool: &str) -> Self {
        let config = config.to_str().unwrap();
        Self::start(folder, &["run", "--pool", pool, "--config", config], &[])
    }

    pub(crate) fn pid(&self) -> u32 {
        self.pid
    }

    /// Sends `TERM`, `KILL`, `STOP`, ….
    pub(crate) fn signal(&self, name: &str) {
        let sent = std::process::Command::new("kill")
            .args(["-s", name, &self.pid.to_string()])
            .status()
            .unwrap();
        assert!(sent.success(), "{} had ended before SIG{name}", self.name);
    }

    /// Whether each of its threads is stopped.
    pub(crate) fn stands_still(&self) -> bool {
        std::fs::read_dir(format!("/proc/{}/task", self.pid))
            .unwrap()
            .all(|thread| {
                let stat = std::fs::read_to_string(thread.unwrap().path().join("stat"));
                // The name, in brackets, may hold anything. A thread that has just ended has no state.
                stat.map_or(true, |stat| {
                    stat.rsplit_once(") ").unwrap().1.starts_with('T')
                })
            })
    }

    /// Waits until it has ended.
    pub(crate) async fn ended(&mut self, limit: Duration) -> ExitStatus {
        let Self { process, name, .. } = self;
        wait_for(&format!("{name} has ended"), limit, async || {
            process.try_wait().unwrap()
        })
        .await
    }

    /// The same, for as long as it takes.
    ///
    /// # Cancel safety
    ///
    /// It can be dropped and asked again.
    pub(crate) async fn wait(&mut self) -> ExitStatus {
        self.process.wait().await.unwrap()
    }

    /// What it has said so far.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap()
    }

    /// Waits until it has said `text`.
    pub(crate) async fn said(&self, text: &str, limit: Duration) {
        let what = format!("{} says {text:?}", self.name);
        wait_until(&what, limit, async || self.log().contains(text)).await;
    }
}

impl Drop for Child {
    fn drop(&mut self) {
        if std::thread::panicking() || std::env::var_os("SHOWLOG").is_some() {
            eprintln!(
                "--- {} (pid {}) said:\n{}---",
                self.name,
                self.pid,
                self.log()
            );
        }
    }
}
