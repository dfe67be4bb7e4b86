//! Verbs for whoever looks after a SQUAD installation: what its schema is, what earlier deaths left, and its repair.

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::command::Op;
use super::outbox::rings;
use super::sql::sql;
use super::squad::patience;
use super::{Ring, Store, StoreError};
use crate::clock::Millis;
use crate::task::Task;

/// A column of one of SQUAD's tables.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct SquadColumn {
    pub table_name: String,
    pub column_name: String,
    /// 1 if an insert must give it.
    pub needed: i64,
}

/// A project of SQUAD with plugins.
#[derive(Debug, Clone, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct SquadProject {
    pub project: String,
    pub plugins: String,
}

/// A test job that SQUAD shows as being finished, with what a death may have left.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each is what the column of that name says")]
pub struct StuckJob {
    pub pk: i64,
    pub project: String,
    pub build: Option<String>,
    pub job_id: Option<String>,
    pub testrun: Option<i64>,
    pub subtasks: i64,
    pub status: Option<String>,
    pub processed: Option<bool>,
    pub recorded: Option<bool>,
    pub fetched_at: Option<Millis>,
    /// Test runs of this test job that it is not linked to.
    pub loose: i64,
    /// Scratch rows of its build.
    pub scratch: i64,
    pub told_at: Option<Millis>,
}

/// How large results are, for which foreign keys that are held are worth something.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
pub struct Large {
    /// The tests of the largest of the last test runs.
    pub tests: i64,
    /// Whether somebody's trigger wants to see each test: then the database checks as ever.
    pub watched: bool,
}

/// What belongs to no test job any more.
#[derive(Debug, Clone, Copy, Default, Serialize, Deserialize)]
#[expect(missing_docs, reason = "each counts what its name says")]
pub struct Loose {
    pub runs: i64,
    pub scratch: i64,
}

impl Store {
    /// The columns of these tables of SQUAD.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_columns(&self, tables: &[&str]) -> Result<Vec<SquadColumn>, StoreError> {
        let rows = tables
            .iter()
            .map(|name| json!({ "name": name }))
            .collect::<Vec<_>>();
        self.read(sql!("squad/columns"), &rows).await
    }

    /// The last migration of each of SQUAD's applications (application, name).
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_migrations(&self) -> Result<Vec<(String, String)>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            app: String,
            name: String,
        }
        let rows: Vec<Row> = self.read(sql!("squad/migrations"), &[json!({})]).await?;
        Ok(rows.into_iter().map(|row| (row.app, row.name)).collect())
    }

    /// The projects that have plugins.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_projects(&self) -> Result<Vec<SquadProject>, StoreError> {
        self.read(sql!("squad/projects"), &[json!({})]).await
    }

    /// The backends (name, kind).
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_backends(&self) -> Result<Vec<(String, String)>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            name: String,
            kind: String,
        }
        let rows: Vec<Row> = self.read(sql!("squad/kinds"), &[json!({})]).await?;
        Ok(rows.into_iter().map(|row| (row.name, row.kind)).collect())
    }

    /// Test jobs that SQUAD shows as being finished since before `before`.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_stuck(&self, before: Millis) -> Result<Vec<StuckJob>, StoreError> {
        self.read(sql!("squad/stuck"), &[json!({ "before": before })])
            .await
    }

    /// How much belongs to no test job any more.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_loose(&self) -> Result<Loose, StoreError> {
        let rows: Vec<Loose> = self.read(sql!("squad/loose"), &[json!({})]).await?;
        Ok(rows.first().copied().unwrap_or_default())
    }

    /// How large the last test runs are.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn squad_large(&self) -> Result<Large, StoreError> {
        /// Enough for a day's largest.
        const LAST: i64 = 200;
        let rows: Vec<Large> = self
            .read(sql!("squad/large"), &[json!({ "last": LAST })])
            .await?;
        Ok(rows.first().copied().unwrap_or_default())
    }

    /// Repairs what deaths left: the test jobs `again` are to be collected anew, nobody waits for the subtasks of `tell`
    /// any more, what belongs to nothing since before `before` goes, and `messages` say so. Returns what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was changed then.
    pub async fn squad_unstick(
        &self,
        again: &[i64],
        tell: &[i64],
        before: Millis,
        messages: &[Task],
    ) -> Result<Vec<Ring>, StoreError> {
        let rows = |pks: &[i64]| pks.iter().map(|pk| json!({ "pk": pk })).collect::<Vec<_>>();
        let ops = vec![
            patience(&json!({}))?,
            Op::new(sql!("squad/fetch_again"), &rows(again))?.guarded_all(again.len()),
            Op::new(sql!("squad/no_subtasks"), &rows(tell))?,
            Op::one(sql!("squad/no_loose"), &json!({ "before": before }))?,
            Op::one(sql!("squad/no_scratch"), &json!({}))?,
            self.post(messages)?,
        ];
        rings(
            self.command("squad_unstick", ops)
                .await?
                .pop()
                .unwrap_or_default(),
        )
    }
}
