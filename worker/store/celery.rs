//! Results and chords where Celery's clients look for them: the tables of its SQLAlchemy backend (`celery_taskmeta`) and of
//! django_celery_results, in the store's own PostgreSQL database, so that they are written in the commit that settles a task.
//!
//! The tables are the application's: never made or changed here.

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::Op;
use super::sql::sql;
use super::tasks::task_row;
use super::{Store, StoreError};
use crate::task::Task;

/// A result for [`Store::taskmeta`] or [`Store::django_results`].
#[derive(Debug, Clone, Default, Serialize)]
pub struct ResultRow {
    /// Whose.
    pub task_id: String,
    /// `STARTED`, `RETRY`, `SUCCESS`, `FAILURE` or `REVOKED`.
    pub status: String,
    /// The value as the table keeps it: text, or base64 of bytes for `celery_taskmeta`.
    pub result: String,
    /// For people.
    pub traceback: Option<String>,
    /// The task's name.
    pub name: Option<String>,
    /// Its positional arguments, for people; for `celery_taskmeta` base64 of their JSON.
    pub args: Option<String>,
    /// Its named arguments, in the same way.
    pub kwargs: Option<String>,
    /// Who ran it.
    pub worker: Option<String>,
    /// How often it was tried before.
    pub retries: Option<i64>,
    /// Where it came from.
    pub queue: Option<String>,
    /// JSON with `children`.
    pub meta: Option<String>,
}

/// A result that is there.
#[derive(Debug, Clone, Deserialize)]
pub struct FoundResult {
    /// Whose.
    pub task_id: String,
    /// As Celery names it.
    pub status: String,
    /// What `result` is, where the table says so.
    #[serde(default)]
    pub content_type: Option<String>,
    /// As the table keeps it; see [`ResultRow::result`].
    pub result: Option<String>,
}

impl Store {
    /// Results for clients of Celery's `database` backend, as a part of the command that settles a task; `extended` where the
    /// table has the columns of `result_extended`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if they cannot be written as JSON.
    pub fn taskmeta(&self, rows: &[ResultRow], extended: bool) -> Result<Op, StoreError> {
        let statement = match extended {
            true => sql!("celery/meta_extended"),
            false => sql!("celery/meta"),
        };
        Op::new(statement, rows)
    }

    /// Results for clients of Celery's `django-db` backend, as a part of the command that settles a task.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if they cannot be written as JSON.
    pub fn django_results(&self, rows: &[ResultRow]) -> Result<Op, StoreError> {
        Op::new(sql!("celery/django"), rows)
    }

    /// Begins a chord of the `django-db` backend whose header has `size` parts; `results` are theirs, as JSON.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if it cannot be written as JSON.
    pub fn chord_begin(&self, group: &str, results: &Value, size: usize) -> Result<Op, StoreError> {
        let row = json!({ "group_id": group, "sub_tasks": results.to_string(), "size": size });
        Op::one(sql!("celery/chord_begin"), &row)
    }

    /// Counts down a chord of the `django-db` backend, and announces `unlock` if that was the last part.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if it cannot be written as JSON.
    pub fn chord_part(&self, group: &str, unlock: &Task) -> Result<[Op; 2], StoreError> {
        let mut row = task_row(unlock)?;
        if let Value::Object(fields) = &mut row {
            fields.insert("group_id".into(), group.into());
        }
        Ok([
            Op::one(sql!("celery/chord_part"), &json!({ "group_id": group }))?,
            Op::one(sql!("celery/chord_end"), &row)?,
        ])
    }

    /// What `celery_taskmeta` has of these tasks.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn taskmeta_of(&self, ids: &[String]) -> Result<Vec<FoundResult>, StoreError> {
        self.read(sql!("celery/meta_of"), &rows(ids, "task_id"))
            .await
    }

    /// What django_celery_results has of these tasks.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn django_results_of(&self, ids: &[String]) -> Result<Vec<FoundResult>, StoreError> {
        self.read(sql!("celery/django_of"), &rows(ids, "task_id"))
            .await
    }

    /// Which of these tables, named with their schema, are there.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn tables(&self, names: &[String]) -> Result<Vec<String>, StoreError> {
        #[derive(Deserialize)]
        struct Name {
            name: String,
        }
        let found: Vec<Name> = self
            .read(sql!("celery/tables"), &rows(names, "name"))
            .await?;
        Ok(found.into_iter().map(|row| row.name).collect())
    }

    /// Whether `celery_taskmeta` has the columns of `result_extended`.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn taskmeta_is_extended(&self) -> Result<bool, StoreError> {
        let names = ["name", "args", "kwargs", "worker", "retries", "queue"];
        let rows = names.map(|name| json!({ "name": name }));
        let found: Vec<Value> = self.read(sql!("celery/columns"), &rows).await?;
        Ok(found.len() == names.len())
    }
}

fn rows(texts: &[String], key: &str) -> Vec<Value> {
    texts.iter().map(|text| json!({ key: text })).collect()
}
