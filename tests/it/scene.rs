//! A whole deployment of one test: a store, its broker, a stand-in LAVA, and the real program as workers.
//!
//! A [`Scene`] watches the published views all the time: a test fails if anybody could ever have seen a
//! part of a run.

use std::path::PathBuf;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use longshore::lab::{Lab, LabAttachment, LabJob, LabSuite};
use longshore::store::{MetricView, State, TestJobFilter, TestJobView, TestPage, TestView};
use longshore::testjob::format::generate::{Plan, tarball};
use tokio_util::sync::CancellationToken;

use crate::harness::{BackEnd, Bell, Bench, Child, Kind, LIMIT, run, wait_for, wait_until};

/// Tests of one job's own suite, and in its attachment: more than one chunk, so that a run has a middle.
pub(crate) const OWN: u64 = 10_500;
pub(crate) const ATTACHED: u64 = 10_500;

pub(crate) struct Scene {
    pub(crate) bench: Bench,
    pub(crate) bell: Option<Bell>,
    pub(crate) lab: Lab,
    pub(crate) config: PathBuf,
    half: Arc<AtomicU64>,
    looks: Arc<AtomicU64>,
    blind: Arc<AtomicBool>,
}

/// Everything that readers get of a test job, but for its numbers.
#[derive(Debug, PartialEq)]
pub(crate) struct Seen {
    tests: Vec<(String, String, String, String, Option<String>)>,
    metrics: Vec<(String, String, String, String)>,
    files: Vec<(String, i64)>,
}

/// Runs `test` with a deployment on one back end, and at its end asserts that nobody saw a part of a run.
pub(crate) async fn scene<F: Future<Output = ()>>(
    back_end: BackEnd,
    settings: &str,
    test: impl FnOnce(Arc<Scene>) -> F,
) {
    Bench::run(back_end, async |bench| match back_end {
        BackEnd::Sqlite => play(bench, None, settings, test).await,
        BackEnd::Postgres => {
            Bell::run(Kind::Rabbit, async |bell| {
                play(bench, Some(bell), settings, test).await
            })
            .await
        }
    })
    .await;
}

async fn play<F: Future<Output = ()>>(
    bench: Bench,
    bell: Option<Bell>,
    settings: &str,
    test: impl FnOnce(Arc<Scene>) -> F,
) {
    let lab = Lab::start(Vec::new(), Vec::new()).await.unwrap();
    let url = bell
        .as_ref()
        .map_or_else(|| "embedded".to_owned(), Bell::url);
    let rest = format!(
        "{settings}\n[backends.lab]\nkind = \"lava\"\nurl = \"{}\"\ntimeout = \"5s\"\npoll_interval = \"1s\"\n\
         [backends.dir]\nkind = \"directory\"\npath = \"results\"\n\
         [projects.\"*\"]\nplugins = [\"tradefed\", \"kernel-log\"]\n[projects.\"bare/bare\"]\nplugins = []\n",
        lab.rest_url(),
    );
    let mut rest = rest;
    if !rest.contains("[worker]") {
        rest.push_str(WORKER);
    }
    if !rest.contains("[pools") {
        rest.push_str(POOLS);
    }
    let config = bench.write_config(
        &url,
        &format!(
            "{}{rest}",
            if bell.is_some() {
                "queue_type = \"classic\"\n"
            } else {
                ""
            }
        ),
    );
    let scene = Arc::new(Scene {
        bench,
        bell,
        lab,
        config,
        half: Arc::default(),
        looks: Arc::default(),
        blind: Arc::default(),
    });
    let stop = CancellationToken::new();
    let watching = tokio::task::spawn(watch(Arc::clone(&scene), stop.clone()));
    wait_until("somebody watches", LIMIT, async || {
        scene.looks.load(Ordering::Relaxed) > 0
    })
    .await;
    test(Arc::clone(&scene)).await;
    stop.cancel();
    watching.await.unwrap();
    assert_eq!(
        scene.half.load(Ordering::Relaxed),
        0,
        "a reader saw a part of a run"
    );
}

/// Makes of each `async fn(Arc<Scene>)` two tests, `name::sqlite` and `name::postgres`; `settings` go into the
/// configuration.
macro_rules! on_both_with {
    ($settings:expr; $($name:ident),+ $(,)?) => {
        $(mod $name {
            use $crate::harness::BackEnd;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                $crate::scene::scene(BackEnd::Sqlite, $settings, super::$name).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                $crate::scene::scene(BackEnd::Postgres, $settings, super::$name).await;
            }
        })+
    };
}
pub(crate) use on_both_with;

/// Short leases and graces, so that a test does not wait long for what it is about.
const WORKER: &str = "[worker]\nlease = \"3s\"\ngrace = \"8s\"\nmargin = \"1s\"\ncheckpoint_every = \"100ms\"\n\
    [tasks.default]\nbackoff_min = \"100ms\"\nbackoff_max = \"1s\"\n";

/// No budget: on a busy machine even a short fetch could outrun one.
const POOLS: &str = "[pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\nslots = 8\n\
    [pools.postprocess]\nkind = \"pinned\"\nqueues = [\"ci_fetch_postprocess\"]\nslots = 2\n";

/// Looks at the published views until told to stop: each run there has exactly the tests that it says.
async fn watch(scene: Arc<Scene>, stop: CancellationToken) {
    let broken = "select count(*) from published_runs p where p.tests <> (select count(*) from published_tests t where t.run = p.run)";
    while !stop.is_cancelled() {
        if scene.blind.load(Ordering::Relaxed) {
            return;
        }
        let half = scene.bench.number(broken).await;
        scene
            .half
            .fetch_add(u64::try_from(half).unwrap(), Ordering::Relaxed);
        scene.looks.fetch_add(1, Ordering::Relaxed);
        tokio::task::yield_now().await;
    }
}

impl Scene {
    /// Gives the lab a test job: a suite, a log, and a CTS archive.
    pub(crate) fn job(&self, id: &str) {
        let path = self.bench.folder.join("cts.tar.xz");
        if !path.exists() {
            let file = std::fs::File::create(&path).unwrap();
            tarball(
                file,
                &Plan {
                    fail_every: 100,
                    ..Plan::new(ATTACHED, 7)
                },
            )
            .unwrap();
        }
        let attachment = LabAttachment {
            name: "cts.tar.xz".into(),
            path,
            definition: "cts".into(),
            results_format: "aggregated".into(),
            rate: None,
        };
        let job = LabJob::new(id)
            .suite(LabSuite::generated("0_suite", OWN))
            .log(200);
        self.lab.put(job.attachment(attachment, self.lab.url()));
    }

    /// Gives the lab a test job of ten tests.
    pub(crate) fn small_job(&self, id: &str) {
        self.lab.put(
            LabJob::new(id)
                .suite(LabSuite::generated("0_suite", 10))
                .log(20),
        );
    }

    /// Changes the configuration, for whoever is started from now on.
    pub(crate) fn configure(&self, from: &str, to: &str) {
        let text = std::fs::read_to_string(&self.config).unwrap();
        assert!(
            text.contains(from),
            "the configuration has no {from:?}:\n{text}"
        );
        std::fs::write(&self.config, text.replace(from, to)).unwrap();
    }

    /// Puts a file of a test job where the backend `dir` finds it.
    pub(crate) fn file(&self, id: &str, name: &str, bytes: impl AsRef<[u8]>) {
        let folder = self.bench.folder.join("results").join(id);
        std::fs::create_dir_all(&folder).unwrap();
        std::fs::write(folder.join(name), bytes).unwrap();
    }

    /// Runs a verb of the program with this deployment's configuration; it must succeed.
    pub(crate) async fn verb(&self, arguments: &[&str]) -> String {
        let output = self.try_verb(arguments).await;
        let (out, err) = (
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr),
        );
        assert!(output.status.success(), "{arguments:?}: {out}{err}");
        out.into_owned()
    }

    /// The same, whatever comes of it.
    pub(crate) async fn try_verb(&self, arguments: &[&str]) -> std::process::Output {
        let mut all = vec!["--config", self.config.to_str().unwrap()];
        all.extend(arguments);
        run(&all).await
    }

    /// Enqueues the collection of a job by the command line.
    pub(crate) async fn fetch(&self, backend: &str, id: &str) {
        let target = "group/project/build/environment";
        self.verb(&[
            "enqueue",
            "fetch",
            "--backend",
            backend,
            "--id",
            id,
            "--target",
            target,
        ])
        .await;
    }

    pub(crate) fn worker(&self, pool: &str) -> Child {
        Child::worker(&self.bench.folder, &self.config, pool)
    }

    /// A worker that aborts at a point.
    pub(crate) fn doomed(&self, pool: &str, point: &str) -> Child {
        let arguments = [
            "run",
            "--pool",
            pool,
            "--config",
            self.config.to_str().unwrap(),
        ];
        Child::start(
            &self.bench.folder,
            &arguments,
            &[("LONGSHORE_CRASH_AT", point)],
        )
    }

    pub(crate) async fn find(&self, backend: &str, id: &str) -> Option<TestJobView> {
        let filter = TestJobFilter {
            backend: Some(backend.into()),
            remote_id: Some(id.into()),
            most: 1,
            ..TestJobFilter::default()
        };
        self.bench.store.testjobs(&filter).await.unwrap().pop()
    }

    /// Waits until a job's state is `state`.
    pub(crate) async fn reaches(&self, backend: &str, id: &str, state: &str) -> TestJobView {
        wait_for(
            &format!("{backend}/{id} is {state}"),
            2 * LIMIT,
            async || {
                self.find(backend, id)
                    .await
                    .filter(|job| job.state == state)
            },
        )
        .await
    }

    /// Waits until a task is in `state`.
    pub(crate) async fn task_reaches(&self, id: &str, state: State) {
        wait_until(
            &format!("task {id} is {}", state.as_str()),
            2 * LIMIT,
            async || {
                self.bench
                    .find(id)
                    .await
                    .is_some_and(|task| task.state == state)
            },
        )
        .await;
    }

    /// What readers get of a job.
    pub(crate) async fn seen(&self, backend: &str, id: &str) -> Seen {
        let job = self
            .find(backend, id)
            .await
            .expect("the test job is there")
            .id;
        let store = &self.bench.store;
        let (mut tests, mut page) = (
            Vec::new(),
            TestPage {
                logs: true,
                most: 5000,
                ..TestPage::default()
            },
        );
        loop {
            let found = store.tests(job, &page).await.unwrap();
            let Some(last) = found.last() else { break };
            (page.run, page.seq) = (last.run, last.seq);
            tests.extend(found.into_iter().map(
                |TestView {
                     part,
                     suite,
                     name,
                     result,
                     log,
                     ..
                 }| (part, suite, name, result, log),
            ));
        }
        let all = TestPage {
            most: 100_000,
            ..TestPage::default()
        };
        let metrics = store.metrics(job, &all).await.unwrap();
        let metrics = metrics
            .into_iter()
            .map(
                |MetricView {
                     part,
                     suite,
                     name,
                     value,
                     ..
                 }| (part, suite, name, value.to_string()),
            )
            .collect();
        let mut files = Vec::new();
        for file in store.files(job).await.unwrap() {
            let size = self.bench.number(&format!("select coalesce(sum(length(data)), 0) from staged_data where run = {} and file = {}", file.run, file.seq)).await;
            files.push((file.name, size));
        }
        // Two plugins publish in any order.
        tests.sort();
        files.sort();
        Seen {
            tests,
            metrics,
            files,
        }
    }

    /// The database will not answer for a while: nobody can look.
    pub(crate) fn pause_watching(&self) {
        self.blind.store(true, Ordering::Relaxed);
    }

    /// Waits until nothing is left to do: no task is open, nothing is in the outbox.
    pub(crate) async fn settles(&self) {
        let open = "select (select count(*) from tasks where state in ('queued', 'waiting', 'running')) + (select count(*) from outbox)";
        wait_until("nothing is left to do", LIMIT, async || {
            self.bench.number(open).await == 0
        })
        .await;
    }
}

impl Seen {
    pub(crate) fn tests(&self) -> usize {
        self.tests.len()
    }
}

/// The time within which a worker that was told to stop must have ended.
pub(crate) const GRACE: Duration = Duration::from_secs(8);
