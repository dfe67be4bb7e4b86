//! Verbs on SQUAD's own tables, which stand in the schema `public` of the same PostgreSQL database.
//!
//! Everything that SQUAD's readers can see of a test job is written by the one command that publishes its last part
//! ([`Store::squad_export`]): nothing here shows half of it.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Op, Row, typed};
use super::sql::{Sql, sql};
use super::testjobs::{begin_ops, begun};
use super::{Begun, FileView, Store, StoreError};
use crate::clock::Millis;
use crate::id::{Epoch, TaskId};
use crate::task::Task;

/// A test job of SQUAD with what its fetch needs.
#[derive(Clone, Deserialize)]
#[expect(missing_docs, reason = "each is what SQUAD's column of that name says")]
pub struct SquadJob {
    pub pk: i64,
    pub job_id: Option<String>,
    pub fetched: bool,
    pub fetch_attempts: i64,
    pub resubmitted_count: i64,
    pub job_status: Option<String>,
    pub testrun: Option<i64>,
    pub environment: String,
    pub definition: Option<String>,
    pub build: Option<i64>,
    pub version: Option<String>,
    pub backend: String,
    pub url: String,
    pub username: String,
    /// A secret.
    pub token: String,
    pub kind: String,
    /// YAML; may hold secrets.
    pub backend_settings: Option<String>,
    pub max_fetch_attempts: i64,
    /// `group/project`.
    pub project: String,
    /// YAML; may hold secrets.
    pub project_settings: Option<String>,
    /// Names with commas between them.
    pub plugins: Option<String>,
    /// JSON: what the backend called back with; the signature was SQUAD's to check.
    pub told: Option<String>,
}

impl std::fmt::Debug for SquadJob {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(
            f,
            "SquadJob({} {}/{:?})",
            self.pk, self.backend, self.job_id
        )
    }
}

/// What the backend said of a test job, in SQUAD's columns.
#[derive(Debug, Clone, Default, Serialize)]
#[expect(missing_docs, reason = "each is what SQUAD's column of that name says")]
pub struct Said {
    pub status: String,
    pub completed: i32,
    /// A JSON object.
    pub metadata: String,
    pub failure: Option<String>,
    pub name: Option<String>,
    pub environment: Option<String>,
    /// ISO 8601.
    pub started_at: Option<String>,
    /// ISO 8601.
    pub ended_at: Option<String>,
    /// 1 if SQUAD is to submit it again.
    pub resubmit: i32,
}

/// A staged test.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct StagedTest {
    pub seq: i64,
    pub suite: String,
    pub name: String,
    pub result: String,
    pub log: Option<String>,
}

/// A staged metric.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct StagedMetric {
    pub seq: i64,
    pub suite: String,
    pub name: String,
    pub value: f64,
    pub unit: String,
    pub measurements: String,
}

/// A test job that SQUAD was told of and does not show so.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct Untold {
    pub testjob: i64,
    pub generation: i64,
    pub pk: i64,
    pub status: Option<String>,
    /// From its collection until SQUAD was last told, in milliseconds.
    pub since: i64,
}

/// Rows of a page of what is staged: a shorter one is the last.
pub const STAGED_PAGE: i64 = 2000;

/// What of a test job is known to be there, so that nobody looks for the rest.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Extent {
    /// Whether a plugin has published a part of it.
    pub plugins: bool,
    /// Whether there are metrics.
    pub metrics: bool,
    /// Whether there are files beside the log.
    pub files: bool,
    /// Whether it is to be submitted again.
    pub resubmit: bool,
    /// Whether it has so many results that others need not wait for it.
    pub many: bool,
}

impl Extent {
    /// Anything may be there.
    pub const ANY: Self = Self {
        plugins: true,
        metrics: true,
        files: true,
        resubmit: true,
        many: true,
    };

    /// Whether this step of an export has something to do.
    fn has(self, step: Sql) -> bool {
        match step.name {
            "squad/facts" | "squad/issues" => self.plugins,
            "squad/metrics" => self.metrics || self.plugins,
            "squad/attachments" => self.files || self.plugins,
            "squad/resubmitted" => self.resubmit,
            _ => true,
        }
    }
}

impl Store {
    /// A test job of SQUAD.
    ///
    /// # Errors
    ///
    /// As any verb; [`StoreError::Refused`] if this database has no tables of SQUAD.
    pub async fn squad_job(&self, pk: i64) -> Result<Option<SquadJob>, StoreError> {
        let op = Op::one(sql!("squad/job"), &json!({ "pk": pk }))?;
        // Of others too, if they were read with it.
        let found = self.read_together(op).await?;
        let found = found
            .iter()
            .filter(|row| row.get("pk").and_then(Value::as_i64) == Some(pk));
        Ok(typed(found.take(1).cloned().collect())?.into_iter().next())
    }

    /// A fetch of a test job of SQUAD begins. `target` is as for [`Store::begin_fetch`]; with `testrun`, what is
    /// published is added to that test run. Returns also the number of the test run.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost; else as any verb.
    pub async fn begin_squad(
        &self,
        id: &TaskId,
        epoch: Epoch,
        target: &Value,
        pk: i64,
        clean: bool,
        testrun: Option<i64>,
    ) -> Result<(Begun, Option<i64>), StoreError> {
        /// Among the answers: the checkpoint's and the test job's come before.
        const RUNS: usize = 2;
        const EXPORTS: usize = 3;
        #[derive(Deserialize)]
        struct Export {
            pk: i64,
            testjob: i64,
            testrun: i64,
        }
        let mut row = target.clone();
        if let Value::Object(row) = &mut row {
            row.insert("pk".into(), pk.into());
            row.insert("clean".into(), i32::from(clean).into());
            row.insert("testrun".into(), testrun.into());
        }
        let mut ops = Vec::from(begin_ops(&row)?);
        ops.push(Op::one(sql!("squad/begin"), &row)?);
        if testrun.is_none() {
            ops.push(self.squad_looked(pk)?);
        }
        let answers = self.write_together(id, epoch, ops).await?;
        let rows = |at| answers.get(at).map_or(&[] as &[Row], Vec::as_slice);
        // Of others' test jobs too, if they began in the same commit.
        let exports = typed::<Export>(rows(EXPORTS).to_vec())?;
        let own = exports.into_iter().find(|export| export.pk == pk);
        let testjob = own.as_ref().map(|own| own.testjob);
        let mut runs = rows(RUNS).to_vec();
        runs.retain(|run| run.get("testjob").and_then(Value::as_i64) == testjob);
        Ok((begun(id, runs)?, own.map(|own| own.testrun)))
    }

    /// SQUAD's poll is to leave the test job alone for its interval.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_looked(&self, pk: i64) -> Result<Op, StoreError> {
        Op::one(sql!("squad/looked"), &json!({ "pk": pk }))
    }

    /// A fetch failed, as SQUAD counts it.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_failed(&self, pk: i64, failure: &str, is_final: bool) -> Result<Op, StoreError> {
        let row = json!({ "pk": pk, "failure": failure, "final": i32::from(is_final) });
        Op::one(sql!("squad/failed"), &row)
    }

    /// Keeps what the backend said, until it is published with everything else.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_said(&self, testjob: i64, generation: i64, said: &Said) -> Result<Op, StoreError> {
        #[derive(Serialize)]
        struct Row<'a> {
            testjob: i64,
            generation: i64,
            #[serde(flatten)]
            said: &'a Said,
        }
        let row = Row {
            testjob,
            generation,
            said,
        };
        Ok(Op::one(sql!("squad/said"), &row)?.guarded())
    }

    /// Takes a number for each of these files of a run, once: where they go in SQUAD's storage (file, path).
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost; else as any verb.
    pub async fn squad_files(
        &self,
        id: &TaskId,
        epoch: Epoch,
        run: i64,
        seqs: &[i64],
    ) -> Result<Vec<(i64, String)>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            seq: i64,
            path: String,
        }
        let rows = seqs
            .iter()
            .map(|seq| json!({ "run": run, "seq": seq }))
            .collect::<Vec<_>>();
        let ops = vec![Op::new(sql!("squad/files"), &rows)?];
        let answer = self.checkpoint(id, epoch, None, None, ops).await?.pop();
        let rows: Vec<Row> = typed(answer.unwrap_or_default())?;
        Ok(rows.into_iter().map(|row| (row.seq, row.path)).collect())
    }

    /// These files (file, bytes) of a run stand in SQUAD's storage.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_stored(&self, run: i64, lengths: &[(i64, u64)]) -> Result<Op, StoreError> {
        let rows = lengths
            .iter()
            .map(|(seq, length)| json!({ "run": run, "seq": seq, "length": length }))
            .collect::<Vec<_>>();
        Op::new(sql!("squad/file_length"), &rows)
    }

    /// Makes the names of the tests in rows `after` to `upto` of a run known to SQUAD, ahead of the tests themselves. A name without
    /// a test shows nowhere: no lease is asked for.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_names(&self, run: i64, after: i64, upto: i64) -> Result<(), StoreError> {
        let row = json!({ "run": run, "after": after, "upto": upto });
        let ops = vec![
            Op::one(sql!("squad/names_plan"), &row)?,
            Op::one(sql!("squad/names_ahead"), &row)?,
        ];
        self.command("squad_names", ops).await.map(drop)
    }

    /// Shows a test job in SQUAD, as the last parts of the command that publishes a part: everything at once if it was
    /// the last part, else nothing. `messages` are published then; the text `@testrun` in them becomes the test run's number,
    /// `@successor` that of the test job that is submitted in its place; those that have it go only if there is one.
    /// With `held`, PostgreSQL does not check the foreign keys of many tests, whose rows are locked here; see
    /// [`Store::squad_may_hold`].
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_export(
        &self,
        testjob: i64,
        generation: i64,
        messages: &[Task],
        extent: Extent,
        held: bool,
    ) -> Result<Vec<Op>, StoreError> {
        const BEFORE: [Sql; 6] = [
            sql!("squad/facts"),
            sql!("squad/replaced"),
            sql!("squad/names"),
            sql!("squad/suites"),
            sql!("squad/testrun"),
            sql!("squad/issues"),
        ];
        const TESTS: Sql = sql!("squad/tests");
        const AFTER: [Sql; 11] = [
            sql!("squad/links"),
            sql!("squad/metrics"),
            sql!("squad/versions"),
            sql!("squad/no_status"),
            sql!("squad/status"),
            sql!("squad/attachments"),
            sql!("squad/testjob"),
            sql!("squad/no_input"),
            sql!("squad/build"),
            sql!("squad/resubmitted"),
            sql!("squad/told"),
        ];
        let row = json!({ "testjob": testjob, "generation": generation });
        let patience = patience(&row)?;
        let mut ops = vec![
            if extent.many {
                patience.alone()
            } else {
                patience
            },
            Op::one(sql!("squad/lock"), &row)?.guarded(),
        ];
        let (leave, check) = (sql!("squad/keys_held"), sql!("squad/keys_checked"));
        let steps = BEFORE.into_iter().chain(held.then_some(leave));
        let steps = steps.chain([TESTS]).chain(held.then_some(check));
        for step in steps.chain(AFTER) {
            let rows = std::slice::from_ref(&row);
            let rows = if extent.has(step) { rows } else { &[] };
            ops.push(Op::new(step, rows)?.if_any());
        }
        if extent.many {
            ops.push(Op::one(sql!("squad/checks_planned"), &row)?);
        }
        ops.push(announcement(testjob, generation, messages)?);
        Ok(ops)
    }

    /// Succeeds if this role may have PostgreSQL not check foreign keys (`session_replication_role`): a superuser may, and since
    /// PostgreSQL 15 whom one has granted it.
    ///
    /// # Errors
    ///
    /// As any verb; [`StoreError::Refused`] if it may not.
    pub async fn squad_may_hold(&self) -> Result<(), StoreError> {
        // Where commands are run: readers may have another role.
        let op = Op::one(sql!("squad/may_hold"), &json!({ "nothing": 0 }))?;
        self.command("squad_may_hold", vec![op]).await.map(drop)
    }

    /// Test jobs that SQUAD was told of before `before` and still shows as being finished. Those that it shows as told
    /// are forgotten.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_untold(&self, before: Millis, most: i64) -> Result<Vec<Untold>, StoreError> {
        self.read(
            sql!("squad/untold"),
            &[json!({ "before": before, "most": most })],
        )
        .await
    }

    /// Forgets those that SQUAD shows as it was told before `before`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_heard(&self, before: Millis) -> Result<Op, StoreError> {
        Op::one(sql!("squad/heard"), &json!({ "before": before }))
    }

    /// Tells SQUAD again.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_tell(&self, untold: &Untold, messages: &[Task]) -> Result<Vec<Op>, StoreError> {
        let row = json!({ "testjob": untold.testjob, "generation": untold.generation });
        Ok(vec![
            Op::one(sql!("squad/told_again"), &row)?,
            self.post(messages)?,
        ])
    }

    /// The number of the test run that a collection of a test job is to become, or is added to.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_testrun(
        &self,
        testjob: i64,
        generation: i64,
    ) -> Result<Option<i64>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            testrun: i64,
        }
        let row = json!({ "testjob": testjob, "generation": generation });
        let found: Vec<Row> = self.read(sql!("squad/run_of"), &[row]).await?;
        Ok(found.first().map(|row| row.testrun))
    }

    /// Whether a collection has a test of that suite.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_has_suite(
        &self,
        testjob: i64,
        generation: i64,
        suite: &str,
    ) -> Result<bool, StoreError> {
        let row = json!({ "testjob": testjob, "generation": generation, "suite": suite });
        let found: Vec<Value> = self.read(sql!("squad/has_suite"), &[row]).await?;
        Ok(!found.is_empty())
    }

    /// Whether a test run of SQUAD was written here.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_is_ours(&self, testrun: i64) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            exports: i64,
        }
        let rows: Vec<Row> = self
            .read(sql!("squad/is_ours"), &[json!({ "testrun": testrun })])
            .await?;
        Ok(rows.first().is_some_and(|row| row.exports > 0))
    }

    /// What a plugin could not do, shown on the test job.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a value cannot be written as JSON.
    pub fn squad_problem(
        &self,
        testjob: i64,
        generation: i64,
        text: &str,
    ) -> Result<Op, StoreError> {
        let row = json!({ "testjob": testjob, "generation": generation, "text": text });
        Op::one(sql!("squad/problem"), &row)
    }

    /// A page of what a run has staged.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn staged_tests(&self, run: i64, after: i64) -> Result<Vec<StagedTest>, StoreError> {
        let row = json!({ "run": run, "after": after, "most": STAGED_PAGE });
        self.read(sql!("squad/staged_tests"), &[row]).await
    }

    /// A page of what a run has staged.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn staged_metrics(
        &self,
        run: i64,
        after: i64,
    ) -> Result<Vec<StagedMetric>, StoreError> {
        let row = json!({ "run": run, "after": after, "most": STAGED_PAGE });
        self.read(sql!("squad/staged_metrics"), &[row]).await
    }

    /// The facts (key, JSON) that a run has staged, in order.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn staged_facts(&self, run: i64) -> Result<Vec<(String, String)>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            key: String,
            value: String,
        }
        let rows: Vec<Row> = self
            .read(sql!("squad/staged_facts"), &[json!({ "run": run })])
            .await?;
        Ok(rows.into_iter().map(|row| (row.key, row.value)).collect())
    }

    /// The files that a run has staged.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn staged_files(&self, run: i64) -> Result<Vec<FileView>, StoreError> {
        self.read(sql!("squad/staged_files"), &[json!({ "run": run })])
            .await
    }
}

/// What comes after it in a command may take minutes.
pub(super) fn patience(row: &Value) -> Result<Op, StoreError> {
    Ok(Op::one(sql!("squad/patience"), row)?.slow())
}

/// The messages that go once a test job is shown; with none there is nothing to say.
fn announcement(testjob: i64, generation: i64, messages: &[Task]) -> Result<Op, StoreError> {
    let rows = messages
        .iter()
        .map(|task| {
            let text = serde_json::to_string(task).map_err(|error| StoreError::Value {
                command: "squad/post",
                reason: error.to_string(),
            })?;
            Ok(json!({ "testjob": testjob, "generation": generation, "id": task.id, "queue": task.queue, "task": text }))
        })
        .collect::<Result<Vec<_>, StoreError>>()?;
    Op::new(sql!("squad/post"), &rows)
}
