//! Test jobs: staged where nobody looks, published at once.

mod again;
mod begin;
mod publish;
mod read;
mod together;

use longshore::id::{Epoch, TaskId};
use longshore::store::{
    Begun, Fetched, RunCounts, Settlement, StagedRow, StoreError, TestJobFilter, TestJobView,
    TestPage,
};
use longshore::task::Task;
use serde_json::{Value, json};

use crate::harness::{Bench, id, task};

/// The one test job of these tests, as a fetch task names it.
fn target(task: &str, again: bool) -> Value {
    json!({
        "backend": "lab", "remote_id": "42", "project": "group/project", "build": "v1",
        "environment": "board", "task": task, "again": i32::from(again),
    })
}

/// A fetch under way.
struct Fetch {
    task: TaskId,
    epoch: Epoch,
    run: i64,
    testjob: i64,
    generation: i64,
}

async fn begin(bench: &Bench, name: &str, again: bool) -> (TaskId, Epoch, Begun) {
    let (task, _, epoch) = bench.running(name).await;
    let begun = bench
        .store
        .begin_fetch(&task.id, epoch, &target(name, again))
        .await;
    (task.id, epoch, begun.unwrap())
}

/// Begins a fetch, which must be given a run.
async fn fetch(bench: &Bench, name: &str, again: bool) -> Fetch {
    let (task, epoch, begun) = begin(bench, name, again).await;
    let Begun::Run {
        run,
        testjob,
        generation,
        ..
    } = begun
    else {
        panic!("{name} was given no run: {begun:?}");
    };
    Fetch {
        task,
        epoch,
        run,
        testjob,
        generation,
    }
}

fn a_test(name: &str) -> StagedRow {
    StagedRow::Test {
        suite: "suite".into(),
        name: name.into(),
        result: "pass",
        log: Some(format!("log of {name}\twith\\\nlines\r")),
    }
}

/// `count` tests, whose names begin with `prefix`.
fn tests(prefix: &str, count: i64) -> Vec<StagedRow> {
    (0..count)
        .map(|n| a_test(&format!("{prefix}{n}")))
        .collect()
}

fn counted(tests: i64) -> RunCounts {
    RunCounts {
        tests,
        passed: tests,
        ..RunCounts::default()
    }
}

fn complete() -> Fetched {
    Fetched {
        status: "Complete".into(),
        ..Fetched::default()
    }
}

async fn stage(
    bench: &Bench,
    task: &TaskId,
    epoch: Epoch,
    run: i64,
    from: i64,
    rows: &[StagedRow],
) {
    let ops = bench.store.stage(run, from, rows).unwrap();
    bench
        .store
        .checkpoint(task, epoch, Some(&json!(from)), None, ops)
        .await
        .unwrap();
}

impl Fetch {
    async fn stage(&self, bench: &Bench, from: i64, rows: &[StagedRow]) {
        stage(bench, &self.task, self.epoch, self.run, from, rows).await;
    }

    /// Publishes with `count` tests, and `plugins` to wait for.
    async fn publish(&self, bench: &Bench, count: i64, plugins: &[&str]) -> Result<(), StoreError> {
        let follow: Vec<(String, TaskId)> = plugins
            .iter()
            .map(|part| ((*part).to_owned(), self.plugin_id(part)))
            .collect();
        let ops = bench.store.publish_fetch(
            &self.task,
            self.run,
            self.testjob,
            self.generation,
            &counted(count),
            &complete(),
            &follow,
        )?;
        let tasks: Vec<Task> = follow.iter().map(|(_, id)| task(id.as_str())).collect();
        let settlement = Settlement::default();
        let store = &bench.store;
        store
            .settle_with(&self.task, self.epoch, &settlement, ops, &tasks)
            .await
            .map(drop)
    }

    fn plugin_id(&self, part: &str) -> TaskId {
        id(&format!("{}/{part}", self.task))
    }

    /// Claims a plugin's task and begins its run.
    async fn plugin(&self, bench: &Bench, part: &str) -> Plugin {
        let id = self.plugin_id(part);
        let worker = bench.worker().await;
        let epoch = bench.claimed(&worker, &task(id.as_str())).await.epoch;
        let run = bench
            .store
            .begin_plugin(&id, epoch, self.testjob, self.generation, part)
            .await
            .unwrap();
        Plugin {
            task: id,
            epoch,
            run: run.expect("its run waits for it").0,
            testjob: self.testjob,
            generation: self.generation,
        }
    }
}

/// A plugin's task under way.
#[derive(Clone)]
struct Plugin {
    task: TaskId,
    epoch: Epoch,
    run: i64,
    testjob: i64,
    generation: i64,
}

impl Plugin {
    async fn stage(&self, bench: &Bench, rows: &[StagedRow]) {
        stage(bench, &self.task, self.epoch, self.run, 1, rows).await;
    }

    async fn publish(&self, store: &longshore::store::Store, count: i64) -> Result<(), StoreError> {
        let ops = store.publish_plugin(
            &self.task,
            self.run,
            self.testjob,
            self.generation,
            &counted(count),
        )?;
        let settlement = Settlement::default();
        store
            .settle_with(&self.task, self.epoch, &settlement, ops, &[])
            .await
            .map(drop)
    }
}

async fn standing(bench: &Bench) -> TestJobView {
    let filter = TestJobFilter {
        most: 2,
        ..TestJobFilter::default()
    };
    let mut all = bench.store.testjobs(&filter).await.unwrap();
    assert_eq!(all.len(), 1, "one test job is known");
    all.remove(0)
}

/// The names of the tests that readers see.
async fn visible(bench: &Bench, testjob: i64) -> Vec<String> {
    let page = TestPage {
        most: 10_000,
        ..TestPage::default()
    };
    let tests = bench.store.tests(testjob, &page).await.unwrap();
    tests.into_iter().map(|test| test.name).collect()
}
