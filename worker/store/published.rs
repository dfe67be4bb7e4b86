//! What readers get of test jobs: through views that show published runs of the visible generation only.

use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::Op;
use super::sql::{Sql, sql};
use super::{Db, Store, StoreError};
use crate::clock::Millis;

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
struct FactRow {
    kind: String,
    key: String,
    value: String,
}

impl Store {
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
