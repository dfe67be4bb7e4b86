//! `longshore squad`: what is wrong with a SQUAD installation, and the repair of what deaths left.

use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;

use super::show::{ago, cell, json, table};
use super::{Answer, Failure, open_broker, open_store, print};
use crate::broker::Broker;
use crate::clock::Millis;
use crate::config::{self, Config, Pool, ResultStore};
use crate::outbox;
use crate::pool;
use crate::squad::Storage;
use crate::squad::doctor::{self, Cause, Finding};
use crate::store::{Loose, Store, StoreError, StuckJob};

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Says what is wrong with the SQUAD that the configuration names; changes nothing
    Doctor {
        /// A test job that is being finished for longer is stuck
        #[arg(long, value_parser = humantime::parse_duration, default_value = "1h")]
        older_than: Duration,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Repairs test jobs that earlier crashes left behind, and removes what belongs to none
    Unstick {
        /// A test job that is being finished for longer is stuck
        #[arg(long, value_parser = humantime::parse_duration, default_value = "1h")]
        older_than: Duration,
        /// Only says what would be done
        #[arg(long)]
        dry_run: bool,
    },
}

/// Something needs somebody.
const FINDINGS: u8 = 3;

#[derive(Serialize)]
struct Queue {
    queue: String,
    messages: Option<u64>,
    consumers: Option<u64>,
}

#[derive(Serialize)]
struct Stuck {
    #[serde(flatten)]
    job: StuckJob,
    cause: Cause,
    repair: &'static str,
}

impl From<StuckJob> for Stuck {
    fn from(job: StuckJob) -> Self {
        let cause = Cause::of(&job);
        let repair = cause.repair();
        Self { job, cause, repair }
    }
}

#[derive(Default, Serialize)]
struct Report {
    migrations: Vec<(String, String)>,
    queues: Vec<Queue>,
    stuck: Vec<Stuck>,
    loose: Loose,
    findings: Vec<Finding>,
    /// What is no fault, and could be better.
    hints: Vec<String>,
}

pub(super) async fn run(config: Arc<Config>, verb: Verb) -> Answer {
    if config.testjobs.store != ResultStore::Squad {
        return Err(Failure::Wrong(
            "the configuration names no SQUAD: write store = \"squad\" in [testjobs]".to_owned(),
        ));
    }
    let store = open_store(&config)?;
    store.anchor_clock().await?;
    let answer = match verb {
        Verb::Doctor { older_than, json } => examine(&config, &store, older_than, json).await,
        Verb::Unstick {
            older_than,
            dry_run,
        } => unstick(&config, &store, older_than, dry_run).await,
    };
    store.close().await;
    answer
}

fn before(store: &Store, age: Duration) -> Millis {
    let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
    store.clock().now().saturating_sub(age)
}

async fn examine(config: &Config, store: &Store, older_than: Duration, as_json: bool) -> Answer {
    let mut report = Report {
        findings: doctor::schema(&store.squad_columns(&doctor::tables()).await?),
        ..Report::default()
    };
    if let Err(error) = store.check_schema().await {
        let what = error.to_string();
        report
            .findings
            .push(found("schema", what, "longshore migrate", true));
    }
    // Nothing else can be asked of a schema that is not what it should be.
    if report.findings.iter().any(|finding| finding.fatal) {
        return show(&report, store, as_json);
    }
    report.migrations = store.squad_migrations().await?;
    report.findings.extend(doctor::version(&report.migrations));
    report
        .findings
        .extend(projects_and_backends(config, store).await?);
    report.findings.extend(storage(config).await);
    let (wrong, hint) = foreign_keys(config, store).await?;
    report.findings.extend(wrong);
    report.hints.extend(hint);
    let broker = open_broker(config, store, &pool::member_id("squad"));
    report.queues = queues(config, &broker).await;
    broker.close().await;
    let unserved = report
        .queues
        .iter()
        .filter_map(|queue| unserved(config, queue));
    report.findings.extend(unserved);
    report.loose = store.squad_loose().await?;
    let stuck = store.squad_stuck(before(store, older_than)).await?;
    report.stuck = stuck.into_iter().map(Stuck::from).collect();
    let Loose { runs, scratch } = report.loose;
    if !report.stuck.is_empty() || runs + scratch > 0 {
        let what = format!(
            "{} test jobs are stuck, {runs} test runs and {scratch} scratch rows belong to none",
            report.stuck.len()
        );
        report
            .findings
            .push(found("test jobs", what, "longshore squad unstick", false));
    }
    show(&report, store, as_json)
}

fn found(about: &str, what: String, mend: &str, fatal: bool) -> Finding {
    Finding {
        about: about.to_owned(),
        what,
        mend: mend.to_owned(),
        fatal,
    }
}

async fn projects_and_backends(config: &Config, store: &Store) -> Result<Vec<Finding>, Failure> {
    let mut findings = Vec::new();
    for project in store.squad_projects().await? {
        findings.extend(doctor::plugins(config, &project.project, &project.plugins));
    }
    for (name, kind) in store.squad_backends().await? {
        if !doctor::knows_backend(&kind) {
            let what = format!(
                "backend {name} is of the kind {kind:?}: its fetches are passed on to SQUAD's workers on {}",
                config.squad.python_queue
            );
            findings.push(found(
                "backends",
                what,
                "nothing, if they have that kind",
                false,
            ));
        }
    }
    Ok(findings)
}

/// Whether foreign keys can be held as configured, or could be.
async fn foreign_keys(
    config: &Config,
    store: &Store,
) -> Result<(Option<Finding>, Option<String>), Failure> {
    let may_hold = match store.squad_may_hold().await {
        Ok(()) => true,
        Err(StoreError::Refused { .. }) => false,
        Err(error) => return Err(error.into()),
    };
    let large = store.squad_large().await?;
    Ok(doctor::foreign_keys(config, large, may_hold))
}

/// Whether files can be put where SQUAD looks for them.
async fn storage(config: &Config) -> Option<Finding> {
    let storage = config.squad.storage.as_ref()?;
    let asked = match Storage::new(config) {
        Ok(Some(storage)) => storage.probe().await,
        Ok(None) => Ok(()),
        Err(error) => Err(error),
    };
    let error = asked.err()?;
    let mend = match storage {
        config::Storage::Folder(_) => "mount SQUAD's storage there, writable for Longshore's user",
        config::Storage::Bucket(_) => {
            "name SQUAD's bucket and its location, and in [s3] a key that may put objects there"
        }
    };
    let what = format!("no file can be written into {storage}: {error}");
    Some(found("storage", what, mend, true))
}

async fn queues(config: &Config, broker: &Broker) -> Vec<Queue> {
    let mut names = config
        .pools
        .values()
        .flat_map(|pool| pool.queues.clone())
        .collect::<Vec<_>>();
    names.extend([
        config.squad.postprocess_queue.clone(),
        config.squad.python_queue.clone(),
        config.squad.testrun_queue.clone(),
    ]);
    names.sort();
    names.dedup();
    let mut found = Vec::new();
    for queue in names {
        let standing = broker.standing(&queue).await.ok();
        found.push(Queue {
            messages: standing.map(|(messages, _)| messages),
            consumers: standing.map(|(_, consumers)| consumers),
            queue,
        });
    }
    found
}

fn unserved(config: &Config, queue: &Queue) -> Option<Finding> {
    let python = [&config.squad.python_queue, &config.squad.testrun_queue].contains(&&queue.queue);
    let elastic = |pool: &Pool| pool.kind.is_elastic() && pool.queues.contains(&queue.queue);
    if queue.messages == Some(0) && !python && config.pools.values().any(elastic) {
        // Scaled to none until something comes.
        return None;
    }
    let (what, mend) = match (queue.consumers, python) {
        (None, _) => (
            format!("queue {} is not there", queue.queue),
            "start whoever takes from it: Longshore's pools, or SQUAD's workers",
        ),
        (Some(0), true) => (
            format!(
                "nobody takes from queue {}: builds are not finished, nobody is notified",
                queue.queue
            ),
            "start one of SQUAD's own workers for it",
        ),
        (Some(0), false) => (
            format!("nobody takes from queue {}", queue.queue),
            "start the Longshore pool that has it",
        ),
        (Some(_), _) => return None,
    };
    Some(Finding {
        about: "queues".into(),
        what,
        mend: mend.into(),
        fatal: false,
    })
}

fn show(report: &Report, store: &Store, as_json: bool) -> Answer {
    let code = if report.findings.is_empty() {
        ExitCode::SUCCESS
    } else {
        ExitCode::from(FINDINGS)
    };
    if as_json {
        print(&json(report)?);
        return Ok(code);
    }
    for (app, name) in &report.migrations {
        print(&format!("SQUAD's {app}: {name}"));
    }
    if !report.queues.is_empty() {
        let mut rows = table(&["queue", "messages", "consumers"]);
        for Queue {
            queue,
            messages,
            consumers,
        } in &report.queues
        {
            let number = |number: &Option<u64>| {
                number.map_or_else(|| "-".to_owned(), |number| number.to_string())
            };
            rows.add_row([queue.clone(), number(messages), number(consumers)]);
        }
        print(&format!("\n{rows}"));
    }
    if !report.stuck.is_empty() {
        let jobs = report.stuck.iter().map(|stuck| &stuck.job);
        print(&format!("\n{}", stuck_table(jobs, store.clock().now())));
    }
    print("");
    for Finding {
        about, what, mend, ..
    } in &report.findings
    {
        print(&format!("{about}: {what}\n  → {mend}"));
    }
    if report.findings.is_empty() {
        print("nothing is wrong");
    }
    for hint in &report.hints {
        print(&format!("hint: {hint}"));
    }
    Ok(code)
}

fn stuck_table<'a>(jobs: impl Iterator<Item = &'a StuckJob>, now: Millis) -> comfy_table::Table {
    let mut rows = table(&[
        "testjob", "project", "build", "job", "since", "cause", "repair",
    ]);
    for job in jobs {
        let cause = Cause::of(job);
        rows.add_row([
            job.pk.to_string(),
            job.project.clone(),
            cell(job.build.as_deref()),
            cell(job.job_id.as_deref()),
            ago(job.fetched_at, now),
            cause.text().to_owned(),
            cause.repair().to_owned(),
        ]);
    }
    rows
}

async fn unstick(config: &Config, store: &Store, older_than: Duration, dry_run: bool) -> Answer {
    store.check_schema().await?;
    let before = before(store, older_than);
    let (stuck, loose) = (store.squad_stuck(before).await?, store.squad_loose().await?);
    let now = store.clock().now();
    if !stuck.is_empty() {
        print(&stuck_table(stuck.iter(), now).to_string());
    }
    let (tell, again): (Vec<_>, Vec<_>) = stuck
        .iter()
        .partition(|job| Cause::of(job) == Cause::NeverTold);
    let summary = format!(
        "{} to collect anew, {} to tell of; {} test runs and {} scratch rows that belong to no test job",
        again.len(),
        tell.len(),
        loose.runs,
        loose.scratch
    );
    if dry_run {
        print(&format!("{summary}\nnothing was changed (--dry-run)"));
        return Ok(ExitCode::SUCCESS);
    }
    let messages = stuck
        .iter()
        .map(|job| doctor::repair(config, job, now))
        .collect::<Vec<_>>();
    let pks = |jobs: &[&StuckJob]| jobs.iter().map(|job| job.pk).collect::<Vec<_>>();
    let repaired = store
        .squad_unstick(&pks(&again), &pks(&tell), before, &messages)
        .await;
    let rings = match repaired {
        Err(StoreError::Stale { .. }) => {
            let text = "repair them: one of these test jobs has ended meanwhile. Nothing was changed; run it again";
            return Err(anyhow::anyhow!(text).into());
        }
        other => other?,
    };
    let broker = open_broker(config, store, &pool::member_id("squad"));
    let sent = outbox::publish(store, &broker, &rings).await;
    broker.close().await;
    print(&summary);
    if sent < rings.len() {
        print(&format!(
            "{} messages are committed and wait for the broker; a worker sends them",
            rings.len() - sent
        ));
    }
    Ok(ExitCode::SUCCESS)
}
