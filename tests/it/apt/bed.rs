//! A repository of one test, on disk or in S3, with real keys, real packages, real workers, and somebody who looks all the
//! time: `apt-get update`, and a walk over everything that `InRelease` leads to.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::{Arc, Mutex};

use longshore::apt::{Fence, Package, Repositories, Repository, Source};
use longshore::config::Config;
use longshore::storage::Name;
use longshore::store::State;
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use super::server::{Gate, Server};
use super::walk;
use crate::harness::{BackEnd, Bench, Child, LIMIT, run, wait_until};

/// Where the repository is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Disk,
    Bucket,
}

pub(crate) struct Bed {
    pub(crate) bench: Bench,
    pub(crate) config: PathBuf,
    pub(crate) gate: Option<Gate>,
    pub(crate) kind: Kind,
    server: Option<Server>,
    seen: Arc<Mutex<Seen>>,
}

/// What was seen by whoever looked.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) looks: u32,
    pub(crate) wrong: Vec<String>,
    /// The packages of each look at a channel, if they are not those of the look before.
    pub(crate) sets: BTreeMap<String, Vec<BTreeSet<String>>>,
}

const CHANNELS: [&str; 2] = ["testing", "stable"];

/// Runs `test` with a repository, and at its end asserts that nobody ever saw half of anything.
pub(crate) async fn bed<F: Future<Output = ()>>(
    kind: Kind,
    settings: &str,
    test: impl FnOnce(Arc<Bed>) -> F,
) {
    Bench::run(BackEnd::Sqlite, async |bench| {
        let bed = Arc::new(Bed::new(bench, kind, settings).await);
        let stop = CancellationToken::new();
        let watching = tokio::task::spawn(watch(Arc::clone(&bed), stop.clone()));
        test(Arc::clone(&bed)).await;
        stop.cancel();
        watching.await.unwrap();
        let home = bed.path("gpg");
        tool(
            "gpgconf",
            &["--homedir", text(&home), "--kill", "gpg-agent"],
        );
        let seen = bed.seen.lock().unwrap();
        assert!(seen.looks > 1, "nobody looked");
        assert!(seen.wrong.is_empty(), "readers saw: {:#?}", seen.wrong);
        for sets in seen.sets.values() {
            for pair in sets.windows(2) {
                assert!(pair[0].is_subset(&pair[1]), "a package went away: {pair:?}");
            }
        }
    })
    .await;
}

/// Makes of each `async fn(Arc<Bed>)` two tests, `name::disk` and `name::bucket`; `settings` go into `[apt.main]`.
macro_rules! on_disk_and_in_a_bucket {
    ($settings:expr; $($name:ident),+ $(,)?) => {
        $(mod $name {
            use $crate::apt::bed::{Kind, bed};

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn disk() {
                bed(Kind::Disk, $settings, super::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn bucket() {
                bed(Kind::Bucket, $settings, super::$name).await;
            }
        })+
    };
}
pub(crate) use on_disk_and_in_a_bucket;

pub(crate) fn text(path: &Path) -> &str {
    path.to_str().unwrap()
}

/// Runs a program that must succeed.
pub(crate) fn tool(program: &str, arguments: &[&str]) -> String {
    let output = Command::new(program)
        .args(arguments)
        .env("LC_ALL", "C.UTF-8")
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{program} {arguments:?}: {said}");
    String::from_utf8(output.stdout).unwrap()
}

/// A key of this test, and its fingerprint.
pub(crate) fn new_key(home: &Path, name: &str) -> String {
    std::fs::create_dir_all(home).unwrap();
    // GnuPG complains of a folder that others can read.
    tool("chmod", &["700", text(home)]);
    let home = ["--homedir", text(home), "--batch", "--quiet"];
    let make = [
        "--passphrase",
        "",
        "--quick-generate-key",
        name,
        "ed25519",
        "sign",
        "never",
    ];
    tool("gpg", &[&home[..], &make].concat());
    let list = tool(
        "gpg",
        &[&home[..], &["--with-colons", "--list-keys", name]].concat(),
    );
    let line = list.lines().find(|line| line.starts_with("fpr:")).unwrap();
    line.split(':').nth(9).unwrap().to_owned()
}

impl Bed {
    async fn new(bench: Bench, kind: Kind, settings: &str) -> Self {
        let path = |name: &str| bench.folder.join(name);
        let key = new_key(&path("gpg"), "archive@example.org");
        let home = path("gpg");
        let export = ["--homedir", text(&home), "--batch", "--export", "--output"];
        tool("gpg", &[&export[..], &[text(&path("key.gpg"))]].concat());
        for folder in ["incoming", "repository", "other"] {
            std::fs::create_dir(path(folder)).unwrap();
        }
        let (server, gate) = match kind {
            Kind::Disk => (None, None),
            Kind::Bucket => {
                let server = Server::start().await;
                let gate = Gate::before(server.address).await;
                (Some(server), Some(gate))
            }
        };
        let storage = match kind {
            Kind::Disk => "repository",
            Kind::Bucket => "s3://debs/some/where",
        };
        let s3 = gate.as_ref().map_or(String::new(), |gate| {
            format!(
                "[s3]\nendpoint = \"http://{}\"\nkey_id = \"a\"\nsecret_key = \"b\"\n",
                gate.address
            )
        });
        let repository = |name: &str, storage: &str| {
            format!(
                "[apt.{name}]\nstorage = \"{storage}\"\nincoming = \"incoming\"\nchannels = [\"testing\", \"stable\"]\n\
                 gpg_home = \"gpg\"\nkey = \"{key}\"\n"
            )
        };
        let rest = format!(
            "[worker]\nlease = \"3s\"\ngrace = \"8s\"\nmargin = \"1s\"\n[tasks.default]\nbackoff_min = \"100ms\"\n\
             backoff_max = \"1s\"\n[pools.apt]\nkind = \"pinned\"\nqueues = [\"apt\"]\nslots = 4\n[routes]\n\"*\" = \"apt\"\n{s3}\
             {}{}{settings}\n",
            repository("other", "other"),
            repository("main", storage),
        );
        let config = bench.write_config("embedded", &rest);
        Self {
            bench,
            config,
            gate,
            kind,
            server,
            seen: Arc::default(),
        }
    }

    pub(crate) fn path(&self, name: &str) -> PathBuf {
        self.bench.folder.join(name)
    }

    /// Where readers find the repository.
    pub(crate) fn address(&self) -> String {
        match &self.server {
            None => format!("file:{}", text(&self.path("repository"))),
            Some(server) => format!("http://{}/debs/some/where", server.address),
        }
    }

    /// Puts a package into the incoming folder; the same arguments make other bytes each time.
    pub(crate) fn deb(&self, name: &str, version: &str, size: usize) -> String {
        let folder = self.path(&format!("build-{name}"));
        std::fs::create_dir_all(folder.join("DEBIAN")).unwrap();
        let control = format!(
            "Package: {name}\nVersion: {version}\nArchitecture: amd64\nMaintainer: T <t@example.org>\nDescription: a test\n of a package\n"
        );
        std::fs::write(folder.join("DEBIAN/control"), control).unwrap();
        let mut payload = vec![0; size];
        getrandom::fill(&mut payload).unwrap();
        std::fs::write(folder.join("payload"), payload).unwrap();
        let file = format!("{name}.deb");
        let place = self.path("incoming").join(&file);
        let build = [
            "-Znone",
            "--root-owner-group",
            "-b",
            text(&folder),
            text(&place),
        ];
        tool("dpkg-deb", &build);
        file
    }

    /// Enqueues a task of ours.
    pub(crate) async fn enqueue(&self, name: &str, id: &str, arguments: Value) {
        self.enqueue_with(name, id, arguments, &[]).await;
    }

    async fn enqueue_with(&self, name: &str, id: &str, arguments: Value, more: &[&str]) {
        let arguments = arguments.to_string();
        let verb = [
            "--config",
            text(&self.config),
            "enqueue",
            "task",
            name,
            "--id",
            id,
            "--kwargs",
            &arguments,
        ];
        let output = run(&[&verb[..], more].concat()).await;
        assert!(
            output.status.success(),
            "{}",
            String::from_utf8_lossy(&output.stderr)
        );
    }

    /// Enqueues the promotion of a file from incoming.
    pub(crate) async fn promote(&self, id: &str, file: &str, to: &str) {
        let arguments = json!({ "repository": "main", "to": to, "files": [file] });
        self.enqueue("apt.promote", id, arguments).await;
    }

    /// The same in the channel's lane.
    pub(crate) async fn promote_in_lane(&self, id: &str, file: &str, to: &str) {
        let arguments = json!({ "repository": "main", "to": to, "files": [file] });
        let lane = format!("apt:{to}");
        let more = ["--lane", lane.as_str()];
        self.enqueue_with("apt.promote", id, arguments, &more).await;
    }

    pub(crate) fn worker(&self) -> Child {
        Child::worker(&self.bench.folder, &self.config, "apt")
    }

    /// A worker that aborts at a point.
    pub(crate) fn doomed(&self, point: &str) -> Child {
        let arguments = ["run", "--pool", "apt", "--config", text(&self.config)];
        Child::start(
            &self.bench.folder,
            &arguments,
            &[("LONGSHORE_CRASH_AT", point)],
        )
    }

    /// Waits until a task is done, and returns its result.
    pub(crate) async fn done(&self, id: &str) -> Value {
        self.reaches(id, State::Done).await;
        serde_json::from_str(&self.bench.view(id).await.result.unwrap()).unwrap()
    }

    /// Waits until a task is finally failed, and returns why.
    pub(crate) async fn dead(&self, id: &str) -> String {
        self.reaches(id, State::Dead).await;
        self.bench.view(id).await.reason.unwrap()
    }

    async fn reaches(&self, id: &str, state: State) {
        let what = format!("{id} is {}", state.as_str());
        wait_until(&what, 2 * LIMIT, async || {
            let task = self.bench.find(id).await;
            let over = task
                .as_ref()
                .is_some_and(|task| task.state.as_str() == "dead");
            assert!(
                !over || state == State::Dead,
                "{id} failed: {:?}",
                task.unwrap().reason
            );
            task.is_some_and(|task| task.state == state)
        })
        .await;
    }

    /// The repository as a program of one's own would use it.
    pub(crate) fn repository(&self) -> Arc<Repository> {
        let config = Config::load(Some(&self.config), [], &[]).unwrap();
        let all = Repositories::new(&config).unwrap().unwrap();
        Arc::clone(all.get("main").unwrap())
    }

    /// Stages a file of incoming without a task.
    pub(crate) async fn stage(&self, file: &str) -> Package {
        let repository = self.repository();
        let name = Name::new(file).unwrap();
        let package = repository.look(&name).await.unwrap();
        repository
            .stage(&Source::Incoming, &name, package, |_| {})
            .await
            .unwrap()
    }

    /// What is at `path` of the repository, read by nothing of ours.
    pub(crate) async fn get(&self, path: &str) -> Option<Vec<u8>> {
        walk::get(&self.address(), path).await
    }

    /// `(generation, task, packages)` of each generation of a channel.
    pub(crate) async fn journal(&self, channel: &str) -> Vec<(i64, String, Vec<String>)> {
        walk::journal(self, channel).await
    }

    /// The token of each generation.
    pub(crate) async fn tokens(&self, channel: &str) -> Vec<Option<i64>> {
        let entries = walk::entries(self, channel).await;
        entries
            .iter()
            .map(|entry| entry["token"].as_i64())
            .collect()
    }

    pub(crate) fn key(&self) -> PathBuf {
        self.path("key.gpg")
    }
}

pub(crate) fn fence(task: &str, epoch: i64, token: Option<i64>) -> Fence {
    Fence {
        task: task.into(),
        epoch,
        token,
    }
}

/// Looks until told to stop, and once more.
async fn watch(bed: Arc<Bed>, stop: CancellationToken) {
    let reader = walk::AptGet::new(&bed);
    loop {
        let last = stop.is_cancelled();
        for channel in CHANNELS {
            let found = walk::walk(&bed, channel).await;
            let there = match found {
                Ok(Some(packages)) => {
                    let mut seen = bed.seen.lock().unwrap();
                    let sets = seen.sets.entry(channel.to_owned()).or_default();
                    if sets.last() != Some(&packages) {
                        sets.push(packages);
                    }
                    true
                }
                Ok(None) => false,
                Err(wrong) => {
                    bed.seen.lock().unwrap().wrong.push(wrong);
                    true
                }
            };
            if there && let Err(wrong) = reader.update(channel).await {
                bed.seen.lock().unwrap().wrong.push(wrong);
            }
        }
        bed.seen.lock().unwrap().looks += 1;
        if last {
            return;
        }
        tokio::task::yield_now().await;
    }
}
