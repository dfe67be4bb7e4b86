//! Several worker processes, each as if on a machine of its own, and tasks that say where and with what they ran.

use std::path::PathBuf;

use super::*;

/// The queues of the pools `fetch` and `postprocess`.
pub(super) const QUEUES: [&str; 2] = ["ci_fetch", "ci_fetch_postprocess"];

/// One line that an attempt has written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    pub(super) task: String,
    pub(super) epoch: String,
    pub(super) host: String,
    /// What each file of the three sources says: the script, what it read beside it, its argument, and its variable.
    pub(super) numbers: Vec<u32>,
}

impl Line {
    /// The number that all sources say.
    pub(super) fn number(&self) -> u32 {
        let first = self.numbers[0];
        assert!(
            self.numbers == [first; 4],
            "an attempt ran with a mixed set: {self:?}"
        );
        first
    }
}

impl Scene {
    /// Three sources that say that they are `number`, of which the tasks `tell` show each file. An attempt looks twice.
    pub(super) fn tells(&self, number: u32) {
        let line = format!(
            "echo \"$LONGSHORE_TASK_ID $LONGSHORE_EPOCH $HOSTNAME {number} $(cat number) $1 $SWITCH\" >> \"$2\"\n"
        );
        self.write("scripts/say.sh", &format!("{line}sleep 0.1\n{line}"));
        self.write("scripts/number", &number.to_string());
        self.write(
            "commands/say.toml",
            &format!(
                "[exec.tell]\ncommand = [\"sh\", \"say.sh\", \"{number}\", \"{}\"]\ndir = \"../scripts\"\npass_env = [\"HOSTNAME\"]\n",
                self.told_in().display()
            ),
        );
        self.write(
            "switches/switch.toml",
            &format!("[exec.tell.env]\nSWITCH = \"{number}\"\n"),
        );
    }

    /// The same, but no worker can run with it.
    pub(super) fn tells_nonsense(&self, number: u32) {
        self.tells(number);
        let wrong = "[tasks.tell]\nattempts = -1\n";
        let text = std::fs::read_to_string(self.source("switches/switch.toml")).unwrap();
        self.write("switches/switch.toml", &format!("{text}{wrong}"));
    }

    fn told_in(&self) -> PathBuf {
        self.bench.folder.join("told")
    }

    /// What all attempts have told so far.
    pub(super) fn told(&self) -> Vec<Line> {
        let text = std::fs::read_to_string(self.told_in()).unwrap_or_default();
        text.lines().map(line).collect()
    }

    /// Starts a worker of `pool` as if on the machine `host`.
    pub(super) fn on(&self, pool: &str, host: &str, more: &[(&str, &str)]) -> Child {
        let config = self.config.to_str().unwrap();
        let mut variables = vec![("HOSTNAME", host)];
        variables.extend(more);
        let arguments = ["run", "--pool", pool, "--config", config];
        Child::start(&self.bench.folder, &arguments, &variables)
    }

    /// Publishes what the sources say, and answers its revision.
    pub(super) async fn publish_as(&self, more: &[&str]) -> String {
        let told = ok(self.publish_with(more).await);
        told.split_whitespace().nth(1).unwrap().to_owned()
    }

    /// Publishes what the sources say, and is killed at `point`.
    pub(super) async fn publish_and_die(&self, point: &str) -> Output {
        let sources = ["scripts", "commands", "switches"]
            .map(|name| format!("{name}={}", self.source(name).display()));
        let config = self.config.to_str().unwrap();
        let mut arguments = vec!["--config", config, "config", "publish"];
        for source in &sources {
            arguments.extend(["--source", source]);
        }
        let crash = ("LONGSHORE_CRASH_AT".to_owned(), point.to_owned());
        run_with(&arguments, &[crash].into()).await
    }

    /// The log, oldest first.
    pub(super) async fn log(&self) -> Vec<Value> {
        let text = ok(self
            .config_verb(&["log", "--json", "--limit", "10000"])
            .await);
        let mut log: Vec<Value> = serde_json::from_str(&text).unwrap();
        log.reverse();
        log
    }
}

fn line(text: &str) -> Line {
    let mut words = text.split(' ');
    let mut word = || words.next().unwrap_or_default().to_owned();
    let (task, epoch, host) = (word(), word(), word());
    // What is missing is no number, and no set either.
    let numbers = words.map(|word| word.parse().unwrap_or(u32::MAX)).collect();
    Line {
        task,
        epoch,
        host,
        numbers,
    }
}

/// The machine of a worker, by its id.
pub(super) fn host(worker: &str) -> &str {
    worker.split_once('.').unwrap().0
}
