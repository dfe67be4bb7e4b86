//! Verbs on test jobs: stage where nobody looks, publish at once.
//!
//! What an attempt writes goes in as [`Op`]s beside its checkpoint or its settlement, so that the epoch
//! guards it.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Columns, Op, Pieces, Row, Tests, typed};
use super::sql::sql;
use super::{Db, Store, StoreError};
use crate::id::{Epoch, TaskId};

/// One row on its way into a run; `seq` counts all rows of a run and never repeats.
#[derive(Debug, Clone, PartialEq)]
pub enum StagedRow {
    /// A test.
    Test {
        /// The suite.
        suite: String,
        /// Its name there.
        name: String,
        /// `pass`, `fail`, `xfail` or `skip`.
        result: &'static str,
        /// Its log.
        log: Option<String>,
    },
    /// A metric.
    Metric {
        /// The suite.
        suite: String,
        /// Its name there.
        name: String,
        /// The mean.
        value: f64,
        /// Its unit.
        unit: String,
        /// Each measurement.
        measurements: Vec<f64>,
    },
    /// `metadata`, or a `problem` (then without a key).
    Fact {
        /// Which of the two.
        kind: &'static str,
        /// The metadata's key.
        key: String,
        /// JSON, or the problem's text.
        value: String,
    },
    /// A file begins; its pieces name its number.
    File {
        /// Its name.
        name: String,
        /// Its media type.
        mimetype: String,
    },
    /// A piece of the file with this number.
    Data {
        /// The file's number in the run.
        file: i64,
        /// The bytes.
        data: Bytes,
    },
}

/// How many rows of each kind a run has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each counts what its name says")]
pub struct RunCounts {
    pub tests: i64,
    pub passed: i64,
    pub failed: i64,
    pub xfailed: i64,
    pub skipped: i64,
    pub metrics: i64,
    pub problems: i64,
}

/// A test job as a fetch task may begin it.
#[derive(Debug, Clone, PartialEq)]
pub enum Begun {
    /// Stage into this run.
    Run {
        /// The run.
        run: i64,
        /// The test job.
        testjob: i64,
        /// The generation.
        generation: i64,
        /// Whether it was this task's before: then the task's checkpoint is about it.
        own: bool,
        /// Whether it may hold rows of somebody who gave up.
        unclean: bool,
    },
    /// It is collected already, and not to be collected again.
    Finished,
    /// Another task that may still run collects it.
    Elsewhere(TaskId),
}

/// The backend's word on a test job, as publishing writes it.
#[derive(Debug, Clone, Default)]
pub struct Fetched {
    /// `Complete`, `Incomplete`, `Canceled`.
    pub status: String,
    /// Its name there.
    pub name: Option<String>,
    /// Its page there.
    pub url: Option<String>,
    /// Why it failed there.
    pub reason: Option<String>,
    /// The environment, if the backend knows better.
    pub environment: Option<String>,
}

#[derive(Deserialize)]
struct RunRow {
    id: i64,
    testjob: i64,
    generation: i64,
    state: String,
    task_id: String,
    fresh: i64,
    unclean: i64,
}

impl Store {
    /// A fetch task begins: the test job and its run are there from now on, under this attempt's epoch.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost; else as any verb.
    pub async fn begin_fetch(
        &self,
        id: &TaskId,
        epoch: Epoch,
        target: &Value,
    ) -> Result<Begun, StoreError> {
        let ops = begin_ops(target)?.into();
        let mut answers = self.checkpoint(id, epoch, None, None, ops).await?;
        begun(id, answers.pop().unwrap_or_default())
    }

    /// A plugin's task begins: its run, and whether that may hold rows of somebody who gave up; `None` if it
    /// is published already or is no longer this task's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost; else as any verb.
    pub async fn begin_plugin(
        &self,
        id: &TaskId,
        epoch: Epoch,
        testjob: i64,
        generation: i64,
        plugin: &str,
    ) -> Result<Option<(i64, bool)>, StoreError> {
        #[derive(Deserialize)]
        struct Run {
            id: i64,
            state: String,
            unclean: i64,
        }
        let row =
            json!({ "testjob": testjob, "generation": generation, "part": plugin, "task": id });
        let mut answers = self
            .checkpoint(id, epoch, None, None, vec![Op::one(sql!("run_of"), &row)?])
            .await?;
        let run: Option<Run> = typed(answers.pop().unwrap_or_default())?.into_iter().next();
        Ok(run
            .filter(|run| run.state == "staging")
            .map(|run| (run.id, run.unclean == 1)))
    }

    /// Rows for a run, the first with the number `from`, as parts of a command.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a row cannot be written as JSON.
    pub fn stage(&self, run: i64, from: i64, rows: &[StagedRow]) -> Result<Vec<Op>, StoreError> {
        let (mut tests, mut metrics, mut facts, mut files, mut ops) =
            (vec![], vec![], vec![], vec![], vec![]);
        let (mut columns, mut pieces) = (Tests::default(), Pieces::default());
        let postgres = matches!(self.0.db, Db::Postgres(_));
        for (seq, row) in (from..).zip(rows) {
            match row {
                StagedRow::Test { suite, name, result, log } if postgres => columns.push(run, seq, [suite, name, result], log.as_deref()),
                StagedRow::Test { suite, name, result, log } => tests.push(
                    json!({ "run": run, "seq": seq, "suite": suite, "name": name, "result": result, "log": log }),
                ),
                StagedRow::Metric { suite, name, value, unit, measurements } => metrics.push(json!({
                    "run": run, "seq": seq, "suite": suite, "name": name, "value": value, "unit": unit,
                    "measurements": serde_json::to_string(measurements).unwrap_or_default(),
                })),
                StagedRow::Fact { kind, key, value } => {
                    facts.push(json!({ "run": run, "seq": seq, "kind": kind, "key": key, "value": value }));
                }
                StagedRow::File { name, mimetype } => {
                    files.push(json!({ "run": run, "seq": seq, "name": name, "mimetype": mimetype }));
                }
                StagedRow::Data { file, data } if postgres => pieces.push(run, *file, seq, data.clone()),
                StagedRow::Data { file, data } => ops.push(
                    Op::one(sql!("stage_data"), &json!({ "run": run, "file": file, "seq": seq }))?.with_bytes(data.clone()),
                ),
            }
        }
        if !tests.is_empty() {
            ops.push(Op::new(sql!("stage_tests"), &tests)?);
        }
        if postgres {
            let (pieces, columns) = (Columns::Pieces(pieces), Columns::Tests(columns));
            ops.push(Op::of_columns(sql!("stage_pieces"), pieces)?.if_any());
            ops.push(Op::of_columns(sql!("stage_columns"), columns)?.if_any());
        }
        for (sql, rows) in [
            (sql!("stage_metrics"), metrics),
            (sql!("stage_facts"), facts),
            (sql!("stage_files"), files),
        ] {
            if postgres || !rows.is_empty() {
                ops.push(Op::new(sql, &rows)?.if_any());
            }
        }
        Ok(ops)
    }

    /// Publishes a fetch, as parts of the command that settles its task: the run, the backend's word, and
    /// the plugins (name, task) that the test job waits for from now on.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    #[expect(
        clippy::too_many_arguments,
        reason = "each is a column of what is published"
    )]
    pub fn publish_fetch(
        &self,
        task: &TaskId,
        run: i64,
        testjob: i64,
        generation: i64,
        counts: &RunCounts,
        fetched: &Fetched,
        plugins: &[(String, TaskId)],
    ) -> Result<Vec<Op>, StoreError> {
        let word = json!({
            "testjob": testjob, "status": fetched.status, "name": fetched.name, "url": fetched.url,
            "reason": fetched.reason, "environment": fetched.environment,
        });
        let rows = plugins
            .iter()
            .map(|(part, task)| json!({ "testjob": testjob, "generation": generation, "part": part, "task": task }))
            .collect::<Vec<_>>();
        let mut ops = vec![lock(testjob, generation)?, publish_run(run, task, counts)?];
        if !rows.is_empty() {
            ops.push(Op::new(sql!("runs_add"), &rows)?);
        }
        ops.push(Op::one(sql!("testjob_fetched"), &word)?.guarded());
        ops.push(finish(testjob)?);
        Ok(ops)
    }

    /// Publishes a plugin's run, as parts of the command that settles its task; the last one finishes the test job.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn publish_plugin(
        &self,
        task: &TaskId,
        run: i64,
        testjob: i64,
        generation: i64,
        counts: &RunCounts,
    ) -> Result<Vec<Op>, StoreError> {
        Ok(vec![
            lock(testjob, generation)?,
            publish_run(run, task, counts)?,
            finish(testjob)?,
        ])
    }

    /// Notes that the backend has not finished a test job.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub fn testjob_waits(&self, testjob: i64, status: &str) -> Result<Op, StoreError> {
        Op::one(
            sql!("testjob_waits"),
            &json!({ "testjob": testjob, "status": status }),
        )
    }
}

/// A test job and its run are there from now on.
pub(super) fn begin_ops(target: &Value) -> Result<[Op; 2], StoreError> {
    Ok([
        Op::one(sql!("testjob_begin"), target)?,
        Op::one(sql!("run_begin"), target)?,
    ])
}

/// What `run_begin` answers to the task `id`.
pub(super) fn begun(id: &TaskId, rows: Vec<Row>) -> Result<Begun, StoreError> {
    let run: Option<RunRow> = typed(rows)?.into_iter().next();
    Ok(match run {
        None => Begun::Finished,
        Some(run) if run.state == "published" => Begun::Finished,
        Some(run) if run.task_id != id.as_str() => Begun::Elsewhere(TaskId::new(run.task_id)),
        Some(run) => Begun::Run {
            run: run.id,
            testjob: run.testjob,
            generation: run.generation,
            own: run.fresh == 0,
            unclean: run.unclean == 1,
        },
    })
}

fn lock(testjob: i64, generation: i64) -> Result<Op, StoreError> {
    let row = json!({ "testjob": testjob, "generation": generation });
    Ok(Op::one(sql!("testjob_lock"), &row)?.guarded())
}

fn finish(testjob: i64) -> Result<Op, StoreError> {
    Op::one(sql!("testjob_finish"), &json!({ "testjob": testjob }))
}

fn publish_run(run: i64, task: &TaskId, counts: &RunCounts) -> Result<Op, StoreError> {
    let RunCounts {
        tests,
        passed,
        failed,
        xfailed,
        skipped,
        metrics,
        problems,
    } = counts;
    let row = json!({
        "run": run, "task": task, "tests": tests, "passed": passed, "failed": failed, "xfailed": xfailed, "skipped": skipped,
        "metrics": metrics, "problems": problems,
    });
    Ok(Op::one(sql!("run_publish"), &row)?.guarded())
}
