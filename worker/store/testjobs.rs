//! Verbs on test jobs: stage where nobody looks, publish at once, read what is published.
//!
//! What an attempt writes goes in as [`Op`]s beside its checkpoint or its settlement, so that the epoch
//! guards it. What readers get goes through views that show published runs of the visible generation only.

use std::time::Duration;

use bytes::Bytes;
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Copy, Op, typed};
use super::sql::{Sql, sql};
use super::{Db, Store, StoreError};
use crate::clock::Millis;
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

/// Which test jobs to list.
#[derive(Debug, Clone, Default)]
#[expect(missing_docs, reason = "each selects by the column of that name")]
pub struct TestJobFilter {
    pub id: Option<i64>,
    pub backend: Option<String>,
    pub remote_id: Option<String>,
    pub project: Option<String>,
    /// Only those with a larger id.
    pub after: i64,
    /// At most so many.
    pub most: i64,
}

/// A test job as readers see it. `tests` to `problems` count what is published.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each is what the column of that name says; DESIGN's words"
)]
pub struct TestJobView {
    pub id: i64,
    pub backend: String,
    pub remote_id: String,
    pub project: String,
    pub build: String,
    pub environment: String,
    pub state: String,
    pub status: Option<String>,
    pub name: Option<String>,
    pub url: Option<String>,
    pub reason: Option<String>,
    pub created_at: Millis,
    pub fetched_at: Option<Millis>,
    pub ended_at: Option<Millis>,
    pub visible: i64,
    pub wanted: i64,
    pub tests: i64,
    pub passed: i64,
    pub failed: i64,
    pub xfailed: i64,
    pub skipped: i64,
    pub metrics: i64,
    pub problems: i64,
}

/// One part of a test job (`fetch`, or a plugin's name) and where it is.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each is what the column of that name says; DESIGN's words"
)]
pub struct PartView {
    pub run: i64,
    pub part: String,
    pub generation: i64,
    pub run_state: String,
    pub tests: i64,
    pub metrics: i64,
    pub problems: i64,
    pub published_at: Option<Millis>,
    pub task_id: String,
    pub task_state: Option<String>,
    pub failures: Option<i64>,
    pub crashes: Option<i64>,
    pub interruptions: Option<i64>,
    pub worker: Option<String>,
    pub reason: Option<String>,
    pub progress: Option<String>,
    pub run_at: Option<Millis>,
}

/// A published test.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct TestView {
    #[serde(skip_serializing)]
    pub run: i64,
    pub part: String,
    #[serde(skip_serializing)]
    pub seq: i64,
    pub suite: String,
    pub name: String,
    pub result: String,
    pub log: Option<String>,
}

/// A published metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct MetricView {
    #[serde(skip_serializing)]
    pub run: i64,
    pub part: String,
    #[serde(skip_serializing)]
    pub seq: i64,
    pub suite: String,
    pub name: String,
    pub value: f64,
    pub unit: String,
    #[serde(skip_serializing)]
    pub measurements: String,
}

/// A file of a run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct FileView {
    #[serde(skip_serializing)]
    pub run: i64,
    #[serde(skip_serializing)]
    pub seq: i64,
    pub name: String,
    pub mimetype: String,
}

/// Where a page of tests or metrics begins, and what it holds.
#[derive(Debug, Clone, Default)]
pub struct TestPage {
    /// After this row of `run`.
    pub run: i64,
    /// After this row.
    pub seq: i64,
    /// Only tests of this result.
    pub result: Option<String>,
    /// With their logs.
    pub logs: bool,
    /// At most so many.
    pub most: i64,
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
        let ops = vec![
            Op::one(sql!("testjob_begin"), target)?,
            Op::one(sql!("run_begin"), target)?,
        ];
        let mut answers = self.checkpoint(id, epoch, None, None, ops).await?;
        let run: Option<RunRow> = typed(answers.pop().unwrap_or_default())?.into_iter().next();
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
            (Tests::default(), vec![], vec![], vec![], vec![]);
        let postgres = matches!(self.0.db, Db::Postgres(_));
        for (seq, row) in (from..).zip(rows) {
            match row {
                StagedRow::Test { suite, name, result, log } if postgres => tests.copy(run, seq, suite, name, result, log.as_deref()),
                StagedRow::Test { suite, name, result, log } => tests.rows.push(
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
                StagedRow::Data { file, data } => ops.push(
                    Op::one(sql!("stage_data"), &json!({ "run": run, "file": file, "seq": seq }))?.with_bytes(data.clone()),
                ),
            }
        }
        ops.extend(tests.into_op()?);
        for (sql, rows) in [
            (sql!("stage_metrics"), metrics),
            (sql!("stage_facts"), facts),
            (sql!("stage_files"), files),
        ] {
            if !rows.is_empty() {
                ops.push(Op::new(sql, &rows)?);
            }
        }
        Ok(ops)
    }

    /// Drops a bounded piece of what a run has staged. Returns how many rows; 0: nothing is left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost; else as any verb.
    pub async fn clear(&self, id: &TaskId, epoch: Epoch, run: i64) -> Result<usize, StoreError> {
        let answers = self.checkpoint(id, epoch, None, None, reset(run)?).await?;
        Ok(answers.iter().map(Vec::len).sum())
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
        Ok(vec![
            lock(testjob, generation)?,
            publish_run(run, task, counts)?,
            Op::new(sql!("runs_add"), &rows)?,
            Op::one(sql!("testjob_fetched"), &word)?.guarded(),
            finish(testjob)?,
        ])
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

    /// Lists test jobs.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn testjobs(&self, filter: &TestJobFilter) -> Result<Vec<TestJobView>, StoreError> {
        let TestJobFilter {
            id,
            backend,
            remote_id,
            project,
            after,
            most,
        } = filter;
        let row = json!({ "id": id, "backend": backend, "remote_id": remote_id, "project": project, "after": after, "most": most });
        self.read(sql!("testjob_standing"), &[row]).await
    }

    /// Which part of a test job is where.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn parts(&self, testjob: i64) -> Result<Vec<PartView>, StoreError> {
        self.read(sql!("testjob_parts"), &[json!({ "testjob": testjob })])
            .await
    }

    /// A page of published tests, full as long as there are more. One that goes on after another stays in that
    /// one's generation: if that was replaced meanwhile it is empty, and [`TestJobView::visible`] says so.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn tests(&self, testjob: i64, page: &TestPage) -> Result<Vec<TestView>, StoreError> {
        let TestPage {
            run,
            seq,
            result,
            logs,
            most,
        } = page;
        let row = |run: i64, seq: i64, most: i64| json!({ "testjob": testjob, "run": run, "seq": seq, "result": result, "logs": i32::from(*logs), "most": most });
        let place = |test: &TestView| (test.run, test.seq);
        self.page(sql!("read_tests"), (*run, *seq), *most, row, place)
            .await
    }

    /// A page over the runs that a statement reads one after the other: `row` is its values for a place and a number
    /// of rows, `place` where a row stands.
    async fn page<T: DeserializeOwned>(
        &self,
        sql: Sql,
        from: (i64, i64),
        most: i64,
        row: impl Fn(i64, i64, i64) -> Value,
        place: impl Fn(&T) -> (i64, i64),
    ) -> Result<Vec<T>, StoreError> {
        loop {
            let ((mut run, mut seq), mut found) = (from, Vec::<T>::new());
            let mut statements = 0;
            loop {
                let rest = most - i64::try_from(found.len()).unwrap_or(i64::MAX);
                // The statement stops where a run ends.
                let some: Vec<T> = self.read(sql, &[row(run, seq, rest)]).await?;
                statements += 1;
                let Some(last) = some.last() else {
                    break;
                };
                (run, seq) = place(last);
                let full = i64::try_from(some.len()).unwrap_or(i64::MAX) >= rest;
                found.extend(some);
                if full {
                    break;
                }
            }
            // Several statements are several snapshots: a generation that was replaced in between is read anew.
            let replaced = match found.first() {
                Some(first) if statements > 1 && from.0 == 0 => {
                    !self.is_visible(place(first).0).await?
                }
                Some(_) | None => false,
            };
            if !replaced {
                return Ok(found);
            }
        }
    }

    /// Whether readers see a run now.
    async fn is_visible(&self, run: i64) -> Result<bool, StoreError> {
        let found: Vec<Value> = self
            .read(sql!("run_visible"), &[json!({ "run": run })])
            .await?;
        Ok(!found.is_empty())
    }

    /// A page of published metrics, as [`Store::tests`] reads those of tests.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn metrics(
        &self,
        testjob: i64,
        page: &TestPage,
    ) -> Result<Vec<MetricView>, StoreError> {
        let TestPage { run, seq, most, .. } = page;
        let row = |run: i64, seq: i64, most: i64| json!({ "testjob": testjob, "run": run, "seq": seq, "most": most });
        let place = |metric: &MetricView| (metric.run, metric.seq);
        self.page(sql!("read_metrics"), (*run, *seq), *most, row, place)
            .await
    }

    /// Published metadata (`metadata`) or problems (`problem`): keys and values, at most 10 000.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn facts(
        &self,
        testjob: i64,
        kind: &str,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let rows: Vec<FactRow> = self
            .read(
                sql!("read_facts"),
                &[json!({ "testjob": testjob, "kind": kind })],
            )
            .await?;
        Ok(rows.into_iter().map(|row| (row.key, row.value)).collect())
    }

    /// Published files.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn files(&self, testjob: i64) -> Result<Vec<FileView>, StoreError> {
        self.read(sql!("read_files"), &[json!({ "testjob": testjob })])
            .await
    }

    /// The metadata of the fetch that a plugin works on.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn fetched_facts(
        &self,
        testjob: i64,
        generation: i64,
    ) -> Result<Vec<(String, String)>, StoreError> {
        let row = json!({ "testjob": testjob, "generation": generation });
        let rows: Vec<FactRow> = self.read(sql!("read_run_facts"), &[row]).await?;
        Ok(rows
            .into_iter()
            .filter(|row| row.kind == "metadata")
            .map(|row| (row.key, row.value))
            .collect())
    }

    /// The files of the fetch that a plugin works on.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn fetched_files(
        &self,
        testjob: i64,
        generation: i64,
    ) -> Result<Vec<FileView>, StoreError> {
        self.read(
            sql!("read_run_files"),
            &[json!({ "testjob": testjob, "generation": generation })],
        )
        .await
    }

    /// The next pieces of a file after the piece `after` (0: from its beginning), each with its number.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn file_data(
        &self,
        file: &FileView,
        after: i64,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        let op = Op::one(
            sql!("read_data"),
            &json!({ "run": file.run, "file": file.seq, "after": after }),
        )?;
        match &self.0.db {
            Db::Postgres(db) => db.read_bytes(op.sql, &op.rows).await,
            Db::Sqlite(db) => db.read_bytes(op.sql, &op.rows).await,
        }
    }

    /// Removes runs that a later generation has replaced, ten at most. Returns how many.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn sweep_runs(&self) -> Result<usize, StoreError> {
        #[derive(Deserialize)]
        struct Run {
            id: i64,
        }
        let found: Vec<Run> = self
            .read(sql!("superseded"), &[json!({ "most": 10 })])
            .await?;
        for Run { id } in &found {
            while self.clear_unowned(*id).await? > 0 {}
            self.single(
                "sweep_runs",
                Op::one(sql!("forget_run"), &json!({ "run": id }))?,
            )
            .await?;
        }
        Ok(found.len())
    }

    /// Removes what was staged by tasks that were given up more than `after` ago, ten runs at most. Returns how many.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn sweep_abandoned(&self, after: Duration) -> Result<usize, StoreError> {
        #[derive(Deserialize)]
        struct Run {
            id: i64,
            task_id: String,
        }
        let before = self.0.clock.now() - i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let found: Vec<Run> = self
            .read(
                sql!("abandoned"),
                &[json!({ "before": before, "most": 10 })],
            )
            .await?;
        for Run { id, task_id } in &found {
            let ops = vec![
                Op::one(sql!("forget_checkpoint"), &json!({ "id": task_id }))?.guarded(),
                Op::one(sql!("run_unclean"), &json!({ "run": id }))?,
            ];
            match self.command("sweep_abandoned", ops).await {
                Ok(_) => while self.clear_unowned(*id).await? > 0 {},
                // It was retried by hand meanwhile, and goes on from there.
                Err(StoreError::Stale { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.len())
    }

    /// A bounded piece of a run that no task writes any more.
    async fn clear_unowned(&self, run: i64) -> Result<usize, StoreError> {
        let answers = self.command("clear", reset(run)?).await?;
        Ok(answers.iter().map(Vec::len).sum())
    }

    /// How many test jobs there are by state.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn testjob_counts(&self) -> Result<Vec<(String, i64)>, StoreError> {
        #[derive(Deserialize)]
        struct Count {
            state: String,
            number: i64,
        }
        let rows: Vec<Count> = self.read(sql!("testjobs_known"), &[] as &[Value]).await?;
        Ok(rows
            .into_iter()
            .map(|row| (row.state, row.number))
            .collect())
    }
}

#[derive(Deserialize)]
struct FactRow {
    kind: String,
    key: String,
    value: String,
}

/// Rows of one table that one transaction removes: some tens of milliseconds' worth.
const PIECE: usize = 20_000;

fn reset(run: i64) -> Result<Vec<Op>, StoreError> {
    let row = json!({ "run": run, "most": PIECE });
    [
        sql!("reset_tests"),
        sql!("reset_metrics"),
        sql!("reset_facts"),
        sql!("reset_files"),
        sql!("reset_data"),
    ]
    .into_iter()
    .map(|sql| Op::one(sql, &row))
    .collect()
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

/// Tests of a chunk: as JSON rows for SQLite, as COPY text for PostgreSQL.
#[derive(Default)]
struct Tests {
    rows: Vec<Value>,
    text: Vec<u8>,
}

impl Tests {
    /// PostgreSQL's COPY text format: columns end with a tab, rows with a newline, `\N` is null, and a
    /// backslash stands before what would be misread (PostgreSQL's documentation of COPY, "Text Format").
    fn copy(
        &mut self,
        run: i64,
        seq: i64,
        suite: &str,
        name: &str,
        result: &str,
        log: Option<&str>,
    ) {
        self.text
            .extend_from_slice(format!("{run}\t{seq}\t").as_bytes());
        for value in [Some(suite), Some(name), Some(result), log] {
            match value {
                None => self.text.extend_from_slice(b"\\N"),
                Some(value) => self.escaped(value),
            }
            self.text.push(b'\t');
        }
        self.text.pop();
        self.text.push(b'\n');
    }

    fn escaped(&mut self, value: &str) {
        for byte in value.bytes() {
            match byte {
                b'\\' => self.text.extend_from_slice(b"\\\\"),
                b'\t' => self.text.extend_from_slice(b"\\t"),
                b'\n' => self.text.extend_from_slice(b"\\n"),
                b'\r' => self.text.extend_from_slice(b"\\r"),
                other => self.text.push(other),
            }
        }
    }

    fn into_op(self) -> Result<Option<Op>, StoreError> {
        if self.text.is_empty() && self.rows.is_empty() {
            return Ok(None);
        }
        let mut op = Op::new(sql!("stage_tests"), &self.rows)?;
        if !self.text.is_empty() {
            op.copy = Some(Copy {
                into: "staged_tests (run, seq, suite, name, result, log)",
                text: self.text.into(),
            });
        }
        Ok(Some(op))
    }
}
