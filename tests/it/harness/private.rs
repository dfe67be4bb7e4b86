//! Servers of one test alone, for what would disturb every other: restarts, alarms, cut sessions.

use std::collections::HashMap;
use std::io::{BufRead as _, BufReader};
use std::process::{Child, Command, Stdio};
use std::sync::OnceLock;

static PRIVATE: OnceLock<HashMap<String, String>> = OnceLock::new();

/// The address of a server: of this test's own, or of those that `scripts/services` started.
pub(super) fn address(variable: &str) -> Option<String> {
    match PRIVATE.get() {
        Some(own) => own.get(variable).cloned(),
        None => std::env::var(variable).ok(),
    }
}

/// What `scripts/services` says of the servers that it started.
const NAMES: [&str; 5] = [
    "LONGSHORE_TEST_AMQP_API",
    "LONGSHORE_TEST_AMQP_MANAGE",
    "LONGSHORE_TEST_AMQP_URL",
    "LONGSHORE_TEST_PG_URL",
    "LONGSHORE_TEST_SERVICES_DIR",
];

/// Stops the servers when it is dropped.
pub(crate) struct Private(Child);

impl Private {
    /// Starts a RabbitMQ and a PostgreSQL; from now on this test's process uses them. Each test is a process of its own.
    pub(crate) fn start() -> Self {
        let script = concat!(env!("CARGO_MANIFEST_DIR"), "/scripts/services");
        let mut child = Command::new(script)
            .arg("--fast")
            .env_clear()
            .envs(std::env::vars_os().filter(|(name, _)| !NAMES.iter().any(|own| *own == name)))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let lines = BufReader::new(child.stdout.take().unwrap()).lines();
        let mut own = HashMap::new();
        for line in lines {
            let line = line.unwrap();
            let (name, value) = line
                .strip_prefix("export ")
                .and_then(|line| line.split_once('='))
                .expect("an export");
            own.insert(name.to_owned(), value.trim_matches('\'').to_owned());
            // The script prints what it inherited, too.
            if NAMES.iter().all(|name| own.contains_key(*name)) {
                break;
            }
        }
        let started = Self(child);
        assert!(
            PRIVATE.set(own).is_ok(),
            "run the tests by nextest: each in a process of its own"
        );
        started
    }

    /// Runs one of the programs that manage the servers.
    pub(crate) async fn manage(&self, program: &str, arguments: &[&str]) -> String {
        let program = format!(
            "{}/{program}",
            address("LONGSHORE_TEST_SERVICES_DIR").unwrap()
        );
        let output = tokio::process::Command::new(&program)
            .args(arguments)
            .output()
            .await
            .unwrap();
        let error = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(output.status.success(), "{program} {arguments:?}: {error}");
        String::from_utf8_lossy(&output.stdout).into_owned()
    }
}

impl Private {
    /// Stops (`STOP`) or lets go on (`CONT`) every process of PostgreSQL.
    pub(crate) fn pause_postgres(&self, signal: &str) {
        let file = format!(
            "{}/postgres.pid",
            address("LONGSHORE_TEST_SERVICES_DIR").unwrap()
        );
        let pid = std::fs::read_to_string(file).unwrap();
        let children = Command::new("pgrep")
            .args(["-P", pid.trim()])
            .output()
            .unwrap();
        let children = String::from_utf8(children.stdout).unwrap();
        let all = children
            .split_whitespace()
            .chain([pid.trim()])
            .collect::<Vec<_>>();
        let sent = Command::new("kill")
            .args(["-s", signal])
            .args(all)
            .status()
            .unwrap();
        assert!(sent.success());
    }
}

impl Drop for Private {
    fn drop(&mut self) {
        let pid = self.0.id().to_string();
        drop(Command::new("kill").args(["-s", "TERM", &pid]).status());
        drop(self.0.wait());
    }
}
