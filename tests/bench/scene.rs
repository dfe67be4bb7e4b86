//! A folder with a configuration, a stand-in LAVA server, a store, and workers that are processes of the real program.

use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use longshore::broker::{Broker, Embedded, QueueKind};
use longshore::clock::Clock;
use longshore::id::WorkerId;
use longshore::lab::Lab;
use longshore::store::{Filter, Member, State, Store, StoreConfig, TaskView};
use longshore::task::Task;
use longshore::{outbox, pool, testjob};
use rustix::process::{Pid, Signal, kill_process};
use tokio::process::{Child, Command};

use crate::servers::Servers;

/// Between two looks at the store.
const LOOK: Duration = Duration::from_millis(1);
/// After this long something is broken, and the measurement ends.
const LIMIT: Duration = Duration::from_secs(300);

/// Where rows and messages are.
#[derive(Clone, Copy)]
pub(crate) enum Back {
    Servers,
    Embedded,
}

impl Back {
    pub(crate) const BOTH: [Self; 2] = [Self::Servers, Self::Embedded];

    pub(crate) fn as_str(self) -> &'static str {
        match self {
            Self::Servers => "RabbitMQ + PostgreSQL",
            Self::Embedded => "embedded",
        }
    }
}

pub(crate) struct Scene {
    pub(crate) lab: Lab,
    pub(crate) store: Store,
    pub(crate) folder: PathBuf,
    broker: Broker,
    queue: String,
}

impl Scene {
    /// `slots` of the pool `fetch`; the pool `postprocess` has two. `plugins` of every project, as TOML.
    pub(crate) async fn new(servers: &Servers, back: Back, slots: u32, plugins: &str) -> Self {
        let lab = Lab::start(Vec::new(), Vec::new()).await.unwrap();
        let unique = format!("bench_{}", uuid::Uuid::now_v7().simple());
        let folder = std::env::temp_dir().join(&unique);
        std::fs::create_dir(&folder).unwrap();
        let (store_url, broker_url, config) = match back {
            Back::Servers => (
                servers.postgres.clone(),
                servers.amqp.replace("guest:guest@", ""),
                servers.config(&unique),
            ),
            Back::Embedded => (
                "sqlite:longshore.db".to_owned(),
                "embedded".to_owned(),
                StoreConfig::sqlite(&folder.join("longshore.db")),
            ),
        };
        let queue = format!("{unique}.fetch");
        let text = format!(
            r#"
[store]
url = "{store_url}"
schema = "{unique}"
[broker]
url = "{broker_url}"
[worker]
crash_limit = 1000
[pools.fetch]
kind = "elastic"
queues = ["{queue}"]
slots = {slots}
overrun_queue = "{unique}.post"
[pools.postprocess]
kind = "pinned"
queues = ["{unique}.post"]
slots = 2
[routes]
"testjob.fetch" = "{queue}"
"testjob.postprocess" = "{unique}.post"
"*" = "{queue}"
[backends.lab]
kind = "lava"
url = "{}"
[projects."*"]
plugins = {plugins}
"#,
            lab.rest_url()
        );
        std::fs::write(folder.join("longshore.toml"), text).unwrap();
        let store = Store::open(&config, Clock::system()).unwrap();
        store.migrate().await.unwrap();
        store.anchor_clock().await.unwrap();
        let broker = match back {
            Back::Servers => servers.broker(QueueKind::Quorum),
            Back::Embedded => Broker::Embedded(std::sync::Arc::new(Embedded::new(
                store.clone(),
                pool::member_id("bench"),
            ))),
        };
        Self {
            lab,
            store,
            folder,
            broker,
            queue,
        }
    }

    /// A fetch task for a test job of the stand-in server.
    pub(crate) fn fetch_task(&self, id: &str) -> Task {
        testjob::fetch_task(&self.queue, "lab", id, "bench/bench/1/qemu", false)
    }

    /// Stores and announces tasks.
    pub(crate) async fn enqueue(&self, tasks: &[Task]) {
        for tasks in tasks.chunks(1000) {
            let enqueued = self.store.enqueue(tasks).await.unwrap();
            outbox::publish(&self.store, &self.broker, &enqueued.rings).await;
        }
    }

    /// A task for the workers of the pool `fetch`.
    pub(crate) fn task(&self, name: &str) -> Task {
        Task::new(name, &self.queue)
    }

    /// Starts a worker process.
    pub(crate) fn worker(&self, pool: &str) -> Worker {
        self.start(env!("CARGO_BIN_EXE_longshore").as_ref(), pool)
    }

    /// Starts a worker process that has this program's own handlers too.
    pub(crate) fn worker_of_ours(&self, pool: &str) -> Worker {
        self.start(&std::env::current_exe().unwrap(), pool)
    }

    fn start(&self, program: &Path, pool: &str) -> Worker {
        let log = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.folder.join(format!("{pool}.log")))
            .unwrap();
        let child = Command::new(program)
            .current_dir(&self.folder)
            .args(["run", "--pool", pool, "--config"])
            .arg(self.folder.join("longshore.toml"))
            .args(["--parent", &std::process::id().to_string()])
            .env("NO_PROXY", "127.0.0.1")
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(log)
            .kill_on_drop(true)
            .spawn()
            .unwrap();
        let pid = child.id().unwrap();
        Worker { pid, child }
    }

    /// A worker that the store knows.
    pub(crate) async fn joined(&self, pool: &str) -> Worker {
        let worker = self.worker(pool);
        let begun = Instant::now();
        while !self.pids().await.contains(&worker.pid) {
            self.patience(begun, "a worker did not join");
            tokio::time::sleep(LOOK).await;
        }
        worker
    }

    async fn pids(&self) -> Vec<u32> {
        let workers = self.store.workers(false).await.unwrap();
        workers.iter().map(|worker| worker.pid as u32).collect()
    }

    /// The process that runs a task.
    pub(crate) async fn owner(&self, task: &TaskView) -> u32 {
        let workers = self.store.workers(false).await.unwrap();
        let owner = workers
            .iter()
            .find(|worker| Some(worker.id.as_str()) == task.worker.as_deref());
        owner.unwrap().pid as u32
    }

    /// Waits until a task runs under an epoch above `above`.
    pub(crate) async fn running(&self, task: &Task, above: u64) -> TaskView {
        let filter = Filter {
            id: Some(task.id.to_string()),
            most: 1,
            ..Filter::default()
        };
        let begun = Instant::now();
        loop {
            let found = self.store.tasks(&filter).await.unwrap().pop();
            if let Some(task) = found
                && task.state == State::Running
                && epoch(&task) > above
            {
                return task;
            }
            self.patience(begun, "a task does not run");
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Waits until a task is done.
    pub(crate) async fn done(&self, task: &Task) {
        let filter = Filter {
            id: Some(task.id.to_string()),
            most: 1,
            ..Filter::default()
        };
        let begun = Instant::now();
        loop {
            let found = self.store.tasks(&filter).await.unwrap().pop();
            if found.is_some_and(|task| task.state == State::Done) {
                return;
            }
            self.patience(begun, "a task is not done");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Waits until so many test jobs are complete.
    pub(crate) async fn complete(&self, jobs: i64) {
        let begun = Instant::now();
        loop {
            let counts = self.store.testjob_counts().await.unwrap();
            if counts
                .iter()
                .any(|(state, count)| state == "complete" && *count >= jobs)
            {
                return;
            }
            self.patience(begun, &format!("test jobs are not complete: {counts:?}"));
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    fn patience(&self, begun: Instant, what: &str) {
        assert!(
            begun.elapsed() < LIMIT,
            "{what}; see {}",
            self.folder.display()
        );
    }

    pub(crate) async fn end(self) {
        self.broker.close().await;
        self.store.close().await;
        self.lab.stop().await;
        std::fs::remove_dir_all(&self.folder).unwrap();
    }
}

/// A worker of this process that is on the store's list: nobody else may claim.
pub(crate) async fn joined(store: &Store) -> WorkerId {
    let id = WorkerId::fresh();
    let member = Member {
        id: id.clone(),
        pool: "bench".into(),
        kind: "pinned".into(),
        host: "bench".into(),
        pid: std::process::id(),
        slots: 1,
        lock_key: 0,
    };
    store.join(&member, "running", LIMIT).await.unwrap();
    id
}

pub(crate) fn epoch(task: &TaskView) -> u64 {
    task.epoch
        .to_string()
        .trim_start_matches('e')
        .parse()
        .unwrap()
}

/// One worker process; it is killed when this is dropped.
pub(crate) struct Worker {
    pub(crate) pid: u32,
    child: Child,
}

impl Worker {
    pub(crate) fn signal(&self, signal: Signal) {
        kill_process(Pid::from_raw(self.pid as i32).unwrap(), signal).unwrap();
    }

    pub(crate) async fn ended(mut self) {
        let _status = self.child.wait().await.unwrap();
    }

    /// A line of `/proc/PID/status` in MiB: `VmRSS`, `VmHWM`, `RssAnon`.
    pub(crate) fn memory(&self, key: &str) -> f64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.pid)).unwrap();
        let line = status
            .lines()
            .find_map(|line| line.strip_prefix(key)?.strip_prefix(':'))
            .unwrap();
        let kib: f64 = line.trim().trim_end_matches(" kB").parse().unwrap();
        kib / 1024.0
    }
}
