//! `longshore demo`: the whole of it on one machine, and what happens when workers die.
//!
//! A stand-in LAVA server in this process, an embedded store and broker in a folder, and workers that are
//! processes of this program. One is asked to end in the middle of a fetch, one is killed in the middle of
//! a plugin. A reader looks at what is published the whole time; at the end every result is compared with
//! what was served. It ends within its time, and its workers with it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use tokio::sync::watch as channel;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use super::{Answer, Failure, open_broker, open_store, print, show, signals};
use crate::clock::Clock;
use crate::config::Config;
use crate::lab::Lab;
use crate::pool::{self, Request};
use crate::store::{Filter, Store, StoreConfig};
use crate::testjob::plugin;
use crate::{outbox, testjob};

mod check;
mod death;
mod jobs;
mod narrate;
mod report;
mod watch;
mod workers;

use death::{Death, Prey, Signal};
use jobs::Everything;
use narrate::Narrator;
use report::{Report, grouped};
use workers::Worker;

/// The configuration's name in the folder.
const CONFIG: &str = "longshore.toml";
/// The store's.
const STORE: &str = "longshore.db";
/// The pools of [`configuration`].
const ELASTIC: &str = "fetch";
const PINNED: &str = "postprocess";
/// Fewer tests than this cannot be interrupted in their middle.
const FEWEST: u64 = 1000;

#[derive(clap::Args)]
pub(super) struct Arguments {
    /// Where everything is put, and kept; by default a temporary folder that is removed at the end
    #[arg(long)]
    dir: Option<PathBuf>,
    /// Tests of the CTS result
    #[arg(long, default_value_t = 100_000, value_parser = clap::value_parser!(u64).range(FEWEST..=10_000_000))]
    tests: u64,
    /// Ends after this much time, done or not
    #[arg(long, default_value = "60s", value_parser = humantime::parse_duration)]
    limit: Duration,
    /// The result as one JSON object on standard output, and nothing else
    #[arg(long)]
    json: bool,
}

pub(super) async fn run(arguments: Arguments) -> Answer {
    let Arguments {
        dir,
        tests,
        limit,
        json,
    } = arguments;
    let mut requests = signals::requests()?;
    let narrator = Narrator::new(json);
    let folder = Folder::make(dir)?;
    narrator.plain(&opening(tests, &folder));
    let outcome = tokio::select! {
        ended = tokio::time::timeout(limit, Box::pin(play(&folder.path, tests, &narrator))) => ended.unwrap_or_else(|_| {
            Err(anyhow::anyhow!("end within {} (--limit)", humantime::format_duration(limit)))
        }),
        () = asked_to_stop(&mut requests) => Err(anyhow::anyhow!("go on: it was asked to stop")),
    };
    let report = match outcome {
        Ok(report) => report,
        Err(error) => {
            let outstanding = outstanding(&folder.path, &narrator).await;
            return Err(Failure::Failed(error.context(outstanding)));
        }
    };
    let well = report.is_well();
    if json {
        print(&show::json(&report)?);
    } else {
        print(&format!("\n{}\n\n{}", report.table(), report.verdict()));
        if folder.kept {
            let config = folder.path.join(CONFIG);
            print(&format!(
                "Look around: longshore --config {} testjob list",
                config.display()
            ));
        } else if !well {
            print(&format!(
                "The workers' logs and the store: {}",
                folder.path.display()
            ));
        }
    }
    if well {
        folder.remove();
    }
    Ok(if well {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

/// What is about to happen.
fn opening(tests: u64, folder: &Folder) -> String {
    let fate = if folder.kept {
        ""
    } else {
        "\n(removed if all is well; --dir DIR keeps them)"
    };
    format!(
        "longshore demo: workers collect test jobs from a stand-in LAVA server; one of the\n\
         test jobs has a CTS result of {} tests. An elastic worker is asked to end in\n\
         the middle of a fetch (SIGTERM), a pinned one is killed in the middle of a plugin\n\
         (SIGKILL). No result may be lost, doubled or visible in part.\n\
         Files: {}{fate}\n",
        grouped(tests),
        folder.path.display()
    )
}

/// Waits for SIGINT, SIGTERM or SIGQUIT.
async fn asked_to_stop(requests: &mut tokio::sync::mpsc::Receiver<Request>) {
    loop {
        match requests.recv().await {
            Some(Request::Stop | Request::Abandon) => return,
            Some(Request::Print) => {}
            // Nobody can ask any more.
            None => std::future::pending().await,
        }
    }
}

/// Where everything is.
struct Folder {
    path: PathBuf,
    /// The user chose it.
    kept: bool,
}

impl Folder {
    fn make(chosen: Option<PathBuf>) -> Result<Self, Failure> {
        let kept = chosen.is_some();
        let path = chosen.unwrap_or_else(|| {
            std::env::temp_dir().join(format!("longshore-demo-{}", uuid::Uuid::now_v7().simple()))
        });
        let path = std::path::absolute(&path)?;
        if path.join(STORE).exists() {
            return Err(Failure::Wrong(format!(
                "--dir {}: it holds a store already, which the demo leaves alone; give a new folder",
                path.display()
            )));
        }
        std::fs::create_dir_all(&path).with_context(|| format!("create {}", path.display()))?;
        Ok(Self { path, kept })
    }

    fn remove(self) {
        if !self.kept
            && let Err(error) = std::fs::remove_dir_all(&self.path)
        {
            tracing::warn!(%error, path = %self.path.display(), "the demo's files could not be removed");
        }
    }
}

/// What the workers run with.
fn configuration(lab: &str) -> String {
    format!(
        r#"# Written by `longshore demo`. The stand-in server is gone with the demo; the results are not.
[store]
url = "sqlite:{STORE}"

[broker]
url = "embedded"

[worker]
# Short, so that there is something to go on from; 5s by default.
checkpoint_every = "200ms"

[pools.{ELASTIC}]
kind = "elastic"
queues = ["ci_fetch"]
slots = 4

[pools.{PINNED}]
kind = "pinned"
queues = ["ci_fetch_postprocess"]
slots = 2

[backends.lab]
kind = "lava"
url = "{lab}"

[projects."demo/linux"]
plugins = ["kernel-log"]

[projects."demo/android"]
plugins = ["tradefed", "kernel-log"]
"#
    )
}

/// The demo itself.
async fn play(folder: &Path, tests: u64, narrator: &Narrator) -> anyhow::Result<Report> {
    narrator.waits_for("the stand-in server, the store and the first workers");
    let lab = Lab::start(Vec::new(), Vec::new()).await?;
    let (place, url) = (folder.to_owned(), lab.url().to_owned());
    let (served, everything) =
        tokio::task::spawn_blocking(move || jobs::make(&place, &url, tests)).await??;
    served.into_iter().for_each(|job| lab.put(job));
    let everything = Arc::new(everything);
    narrator.say(&format!(
        "LAVA on {} serves {} test jobs with {} tests",
        lab.url(),
        everything.len(),
        grouped(jobs::tests(&everything))
    ));
    let file = folder.join(CONFIG);
    std::fs::write(&file, configuration(&lab.rest_url()))?;
    let config = Config::load(
        Some(&file),
        Vec::<(OsString, OsString)>::new(),
        &plugin::KNOWN,
    )
    .map_err(|problems| anyhow::anyhow!("read {}: {problems:?}", file.display()))?;
    let store = open_store(&config)?;
    store.migrate().await?;
    store.anchor_clock().await?;

    let (enough, tasks) = (CancellationToken::new(), TaskTracker::new());
    let _stop = enough.clone().drop_guard();
    let (sender, seen) = channel::channel(watch::Seen::default());
    // Its own connections, all of them read-only: it uses no verb that writes.
    let reader = Store::open(&StoreConfig::sqlite(&folder.join(STORE)), Clock::system())?;
    let watcher = tasks.spawn(watch::run(
        reader,
        Arc::clone(&everything),
        enough.clone(),
        sender,
    ));
    let total = u64::try_from(jobs::tests(&everything)).unwrap_or_default();
    let drawn = narrator.draw(
        store.clone(),
        everything.len() as u64,
        total,
        seen.clone(),
        enough.clone(),
    );
    let acted = async {
        let acted = act(folder, &config, &store, &everything, narrator, seen.clone()).await;
        enough.cancel();
        acted
    };
    let (acted, ()) = tokio::join!(Box::pin(acted), Box::pin(drawn));
    let (deaths, pids) = acted?;
    let watched = watcher.await??;
    narrator.waits_for("the comparison of every result with what was served");
    let found = check::all(&store, &everything).await?;
    let report = report(&store, &everything, deaths, pids, watched, found, narrator).await?;
    store.close().await;
    lab.stop().await;
    Ok(report)
}

/// Starts workers, gives them work, lets two of them die and waits until everything is complete.
async fn act(
    folder: &Path,
    config: &Config,
    store: &Store,
    everything: &Everything,
    narrator: &Narrator,
    mut seen: channel::Receiver<watch::Seen>,
) -> anyhow::Result<(Vec<Death>, Vec<u32>)> {
    let start = |pool, number| Worker::start(folder, pool, number);
    let (mut fetch, mut postprocess) = (start(ELASTIC, 1)?, start(PINNED, 1)?);
    for (worker, kind) in [(&mut fetch, "elastic"), (&mut postprocess, "pinned")] {
        worker.joined(store).await?;
        narrator.say(&format!(
            "{kind} worker {} (pid {}) is there",
            worker.name, worker.pid
        ));
    }
    let mut pids = vec![fetch.pid, postprocess.pid];
    enqueue(config, store, everything).await?;
    narrator.say(&format!("{} fetch tasks enqueued", everything.len()));
    narrator
        .waits_for("two workers to die in the middle of a task, and the tasks to go on elsewhere");
    let (slow, cts) = prey(everything);
    let (ended, killed) = tokio::try_join!(
        Box::pin(death::meet(
            store,
            narrator,
            Signal::Term,
            &slow,
            &mut fetch,
            || start(ELASTIC, 2)
        )),
        Box::pin(death::meet(
            store,
            narrator,
            Signal::Kill,
            &cts,
            &mut postprocess,
            || start(PINNED, 2)
        )),
    )?;
    narrator.waits_for("every test job to be complete");
    let ((first, mut fetch), (second, mut postprocess)) = (ended, killed);
    pids.extend([fetch.pid, postprocess.pid]);
    let (jobs, parts) = (
        everything.len() as u64,
        everything
            .values()
            .map(|job| job.parts().len())
            .sum::<usize>(),
    );
    seen.wait_for(|seen| seen.complete == jobs && seen.parts == parts)
        .await?;
    narrator.say("every test job is complete");
    narrator.waits_for("the last workers to end");
    fetch.terminate()?;
    postprocess.terminate()?;
    fetch.ended().await?;
    postprocess.ended().await?;
    Ok((vec![first, second], pids))
}

/// Whose tasks are interrupted, and how far they are by then: a file begun, a tenth of the tests.
fn prey(everything: &Everything) -> (Prey<'static>, Prey<'static>) {
    let plan = everything.get(jobs::CTS).and_then(|job| job.cts);
    let tenth = plan.map_or(1, |plan| plan.tests / 10);
    let slow = Prey {
        job: jobs::SLOW,
        part: "fetch",
        least: 1,
    };
    let cts = Prey {
        job: jobs::CTS,
        part: "tradefed",
        least: i64::try_from(tenth).unwrap_or(i64::MAX),
    };
    (slow, cts)
}

async fn enqueue(config: &Config, store: &Store, everything: &Everything) -> anyhow::Result<()> {
    let queue = config.route(testjob::FETCH);
    let tasks = everything
        .iter()
        .map(|(id, job)| testjob::fetch_task(queue, "lab", id, &job.target, false))
        .collect::<Vec<_>>();
    let enqueued = store.enqueue(&tasks).await?;
    let broker = open_broker(config, store, &pool::member_id("demo"));
    outbox::publish(store, &broker, &enqueued.rings).await;
    broker.close().await;
    Ok(())
}

async fn report(
    store: &Store,
    everything: &Everything,
    deaths: Vec<Death>,
    pids: Vec<u32>,
    watched: watch::Watched,
    found: check::Found,
    narrator: &Narrator,
) -> anyhow::Result<Report> {
    let filter = Filter {
        most: 10_000,
        ..Filter::default()
    };
    let tasks = store.tasks(&filter).await?;
    let staged = store.staged_sizes(None).await?;
    let parts = store.published_parts().await?;
    let surplus: i64 = staged
        .iter()
        .map(|run| (run.staged_tests - run.tests).max(0))
        .sum();
    Ok(Report {
        test_jobs: everything.len() as u64,
        complete: found.complete,
        tests_published: parts.iter().map(|part| part.found_tests).sum(),
        tests_expected: jobs::tests(everything),
        sigterms: report::count(&deaths, Signal::Term),
        sigkills: report::count(&deaths, Signal::Kill),
        handoffs: tasks.iter().map(|task| u64::from(task.interruptions)).sum(),
        rescues: tasks.iter().map(|task| u64::from(task.crashes)).sum(),
        resume_ms: deaths.iter().map(|death| death.resume_ms).collect(),
        repeated_ms: deaths.iter().map(|death| death.repeated_ms).collect(),
        rows_read_again: deaths.iter().map(|death| death.rows_kept).sum(),
        rows_written_again: watched.withdrawn + surplus,
        looks: watched.looks,
        half_written: watched.half_written,
        lost: found.lost,
        surplus: found.surplus,
        seconds: report::seconds(narrator.elapsed()),
        deaths,
        pids,
        problems: watched.told.into_iter().chain(found.told).collect(),
    })
}

/// What the demo was waiting for when it ended, and where to look.
async fn outstanding(folder: &Path, narrator: &Narrator) -> String {
    let mut text = format!(
        "finish the demo; after {} s it waited for {}",
        report::seconds(narrator.elapsed()),
        narrator.step()
    );
    let counts = async {
        let store = Store::open(&StoreConfig::sqlite(&folder.join(STORE)), Clock::system()).ok()?;
        Some((
            store.testjob_counts().await.ok()?,
            store.task_counts().await.ok()?,
        ))
    };
    if let Ok(Some((jobs, tasks))) = tokio::time::timeout(Duration::from_secs(2), counts).await {
        let jobs = jobs.iter().map(|(state, count)| format!("{count} {state}"));
        let tasks = tasks
            .iter()
            .map(|(state, count)| format!("{count} {}", state.as_str()));
        text.push_str(&format!(
            " (test jobs: {}; tasks: {})",
            jobs.collect::<Vec<_>>().join(", "),
            tasks.collect::<Vec<_>>().join(", ")
        ));
    }
    text.push_str(&format!(
        "; the workers' logs are {}/*.log",
        folder.display()
    ));
    text
}
