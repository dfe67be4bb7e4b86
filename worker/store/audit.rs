//! Verbs that count what is there against what is said to be there: for the demo and for tests.
//!
//! They read only, each in one snapshot, and take time in proportion to the rows they count.

use serde::Deserialize;
use serde_json::{Value, json};

use super::sql::sql;
use super::{Store, StoreError};

/// A test job, or one published part of it, as one look found it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct PublishedPart {
    /// The test job.
    pub testjob: i64,
    /// Its id on its backend.
    pub remote_id: String,
    /// Its state.
    pub state: String,
    /// The published run; `None`: nothing of the test job is published.
    pub run: Option<i64>,
    /// `fetch`, or a plugin's name.
    pub part: Option<String>,
    /// Tests that the run says it has.
    pub tests: Option<i64>,
    /// Metrics that the run says it has.
    pub metrics: Option<i64>,
    /// Tests that a reader finds.
    pub found_tests: i64,
    /// Metrics that a reader finds.
    pub found_metrics: i64,
}

/// How much of a run is durable.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct StagedRun {
    /// The run.
    pub run: i64,
    /// Its test job.
    pub testjob: i64,
    /// `fetch`, or a plugin's name.
    pub part: String,
    /// `pending`, `staging` or `published`.
    pub state: String,
    /// Tests that it says it has; 0 until it is published.
    pub tests: i64,
    /// Tests that are there.
    pub staged_tests: i64,
    /// Metrics, facts, files and their pieces that are there.
    pub other_rows: i64,
}

impl StagedRun {
    /// Rows of every kind.
    pub fn rows(&self) -> i64 {
        self.staged_tests + self.other_rows
    }
}

impl Store {
    /// Every test job with what is published of it, in one snapshot, through the views that readers use.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn published_parts(&self) -> Result<Vec<PublishedPart>, StoreError> {
        self.read(sql!("published_parts"), &[] as &[Value]).await
    }

    /// How much of each run of a test job is durable; `None`: of every run.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn staged_sizes(&self, testjob: Option<i64>) -> Result<Vec<StagedRun>, StoreError> {
        self.read(sql!("staged_sizes"), &[json!({ "testjob": testjob })])
            .await
    }
}
