//! `longshore testjob`: test jobs, where their parts are, and their published results.

use std::process::ExitCode;
use std::sync::Arc;

use serde_json::{Value, json};

use super::show::{ago, cell, json as as_text, table};
use super::{Answer, Failure, open_store, print};
use crate::config::Config;
use crate::store::{PartView, Store, TestJobFilter, TestJobView, TestPage};

mod results;

/// Failures that `show` names.
const FIRST_FAILURES: i64 = 10;

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Lists test jobs
    List {
        /// Only those of this group/project
        #[arg(long)]
        project: Option<String>,
        /// Only those of this backend
        #[arg(long)]
        backend: Option<String>,
        /// At most so many
        #[arg(long, default_value_t = 100)]
        limit: i64,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Shows one test job: its counts, its first failures, which plugin is where
    Show {
        /// Its number, or BACKEND/ID
        testjob: String,
        /// As JSON
        #[arg(long)]
        json: bool,
    },
    /// Prints its published results
    Results {
        /// Its number, or BACKEND/ID
        testjob: String,
        /// How
        #[arg(long, value_enum, default_value_t = results::Format::Table)]
        format: results::Format,
        /// As JSON lines, one a test; the same as --format json
        #[arg(long)]
        json: bool,
        /// Only tests with this result: pass, fail, xfail, skip
        #[arg(long, value_parser = ["pass", "fail", "xfail", "skip"])]
        result: Option<String>,
        /// Metrics in the place of tests (table, json and csv)
        #[arg(long, conflicts_with = "result")]
        metrics: bool,
    },
}

pub(super) async fn run(config: Arc<Config>, verb: Verb) -> Answer {
    let store = open_store(&config)?;
    store.check_schema().await?;
    store.anchor_clock().await?;
    match verb {
        Verb::List {
            project,
            backend,
            limit,
            json,
        } => {
            let found = store
                .testjobs(&TestJobFilter {
                    project,
                    backend,
                    most: limit,
                    ..TestJobFilter::default()
                })
                .await?;
            print(&if json {
                as_text(&found)?
            } else {
                listing(&store, &found)
            });
        }
        Verb::Show { testjob, json } => {
            let job = find(&store, &testjob).await?;
            show(&store, &job, json).await?;
        }
        Verb::Results {
            testjob,
            format,
            json,
            result,
            metrics,
        } => {
            let job = find(&store, &testjob).await?;
            let format = if json { results::Format::Json } else { format };
            results::print(&store, &job, format, result, metrics).await?;
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// The test job that a person means.
async fn find(store: &Store, name: &str) -> Result<TestJobView, Failure> {
    let mut filter = TestJobFilter {
        most: 1,
        ..TestJobFilter::default()
    };
    match (name.parse(), name.split_once('/')) {
        (Ok(id), _) => filter.id = Some(id),
        (Err(_), Some((backend, id))) => {
            filter.backend = Some(backend.to_owned());
            filter.remote_id = Some(id.to_owned());
        }
        (Err(_), None) => {
            return Err(Failure::Wrong(format!(
                "{name:?} is neither a test job's number nor BACKEND/ID"
            )));
        }
    }
    let found = store.testjobs(&filter).await?;
    found.into_iter().next().ok_or_else(|| {
        Failure::Wrong(format!(
            "there is no test job {name:?}; `longshore testjob list` shows those there are"
        ))
    })
}

fn listing(store: &Store, found: &[TestJobView]) -> String {
    let now = store.clock().now();
    let mut rows = table(&[
        "#",
        "test job",
        "project",
        "build",
        "environment",
        "state",
        "tests",
        "fail",
        "age",
        "reason",
    ]);
    for job in found {
        rows.add_row([
            job.id.to_string(),
            format!("{}/{}", job.backend, job.remote_id),
            job.project.clone(),
            job.build.clone(),
            job.environment.clone(),
            job.state.clone(),
            job.tests.to_string(),
            job.failed.to_string(),
            ago(Some(job.created_at), now),
            cell(job.reason.as_deref()),
        ]);
    }
    rows.to_string()
}

async fn show(store: &Store, job: &TestJobView, as_json: bool) -> Result<(), Failure> {
    let parts = store.parts(job.id).await?;
    let page = TestPage {
        result: Some("fail".into()),
        most: FIRST_FAILURES,
        ..TestPage::default()
    };
    let failures = store.tests(job.id, &page).await?;
    let metadata = store.facts(job.id, "metadata").await?;
    let problems = store
        .facts(job.id, "problem")
        .await?
        .into_iter()
        .map(|(_, text)| text)
        .collect::<Vec<_>>();
    let files = store.files(job.id).await?;
    if as_json {
        let metadata = metadata
            .into_iter()
            .map(|(key, value)| {
                (
                    key,
                    serde_json::from_str(&value).unwrap_or(Value::String(value)),
                )
            })
            .collect::<serde_json::Map<_, _>>();
        let whole = json!({ "testjob": job, "parts": parts, "failures": failures, "metadata": metadata, "problems": problems, "files": files });
        print(&as_text(&whole)?);
        return Ok(());
    }
    print(&format!(
        "{}/{}  {}/{}/{}",
        job.backend, job.remote_id, job.project, job.build, job.environment
    ));
    print(&format!(
        "state     {}{}",
        job.state,
        job.status
            .as_deref()
            .map(|word| format!(" (backend: {word})"))
            .unwrap_or_default()
    ));
    for (label, text) in [
        ("reason", &job.reason),
        ("name", &job.name),
        ("url", &job.url),
    ] {
        if let Some(text) = text {
            print(&format!("{label:<9} {text}"));
        }
    }
    print(&format!(
        "tests     {} ({} pass, {} fail, {} xfail, {} skip), {} metrics, {} problems",
        job.tests, job.passed, job.failed, job.xfailed, job.skipped, job.metrics, job.problems
    ));
    print(&format!("\n{}", parts_table(&parts)));
    if !failures.is_empty() {
        print("\nfirst failures");
        for test in &failures {
            print(&format!("  {}/{}", test.suite, test.name));
        }
    }
    for text in problems.iter().take(10) {
        print(&format!("problem: {text}"));
    }
    Ok(())
}

fn parts_table(parts: &[PartView]) -> String {
    let mut rows = table(&[
        "part",
        "results",
        "tests",
        "task",
        "failed",
        "crashed",
        "handed off",
        "progress",
        "reason",
    ]);
    for part in parts {
        let word = match part.run_state.as_str() {
            "published" => "published",
            "staging" => "being written",
            _ => "to come",
        };
        let number = |count: Option<i64>| count.unwrap_or_default().to_string();
        rows.add_row([
            part.part.clone(),
            word.to_owned(),
            part.tests.to_string(),
            cell(part.task_state.as_deref()),
            number(part.failures),
            number(part.crashes),
            number(part.interruptions),
            cell(part.progress.as_deref()),
            cell(part.reason.as_deref()),
        ]);
    }
    rows.to_string()
}
