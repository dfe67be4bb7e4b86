//! Verbs for what comes from producers and what goes to others: test jobs announced over HTTP, and what follows a
//! finished one.

use serde::Deserialize;
use serde_json::{Value, json};

use super::command::{Op, typed};
use super::outbox::{ring_op, rings};
use super::sql::sql;
use super::tasks::{enqueue_ops, ids, task_row, with};
use super::{Ring, Store, StoreError};
use crate::task::Task;

/// A test job that a producer announced.
#[derive(Debug, Clone)]
pub struct Watched {
    /// Its id here.
    pub id: i64,
    /// What is to be published.
    pub rings: Vec<Ring>,
}

impl Store {
    /// A test job (`backend`, `remote_id`, `project`, `build`, `environment`) is there from now on, with the tasks that
    /// collect it, in one transaction; what is there already is left alone. `None`: it belongs to another project or
    /// build, and nothing was added.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was added then.
    pub async fn watch_testjob(
        &self,
        testjob: &Value,
        tasks: &[Task],
    ) -> Result<Option<Watched>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            id: i64,
        }
        let mut ops = vec![Op::one(sql!("testjob_watch"), testjob)?.guarded()];
        ops.extend(enqueue_ops(tasks)?);
        let mut answers = match self.command("enqueue", ops).await {
            Ok(answers) => answers.into_iter(),
            Err(StoreError::Stale { .. }) => return Ok(None),
            Err(error) => return Err(error),
        };
        let rows: Vec<Row> = typed(answers.next().unwrap_or_default())?;
        let new = ids(&answers.next().unwrap_or_default());
        let mut rings = rings(answers.next().unwrap_or_default())?;
        // As in `enqueue`: what was there already is not ours to publish.
        rings.retain(|ring| new.iter().any(|id| ring.task.id.as_str() == id));
        Ok(rows
            .into_iter()
            .next()
            .map(|row| Watched { id: row.id, rings }))
    }

    /// Tasks that follow a test job once it is finished, as parts of a command that publishes one of its parts: that of
    /// the last part adds them, with the messages that announce them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a task cannot be written as JSON.
    pub fn when_finished(
        &self,
        testjob: i64,
        generation: i64,
        tasks: &[Task],
    ) -> Result<Vec<Op>, StoreError> {
        if tasks.is_empty() {
            return Ok(Vec::new());
        }
        let of = json!({ "testjob": testjob, "generation": generation });
        let rows = tasks
            .iter()
            .map(|task| Ok(with(task_row(task)?, of.clone())))
            .collect::<Result<Vec<_>, StoreError>>()?;
        Ok(vec![
            Op::new(sql!("follow_finished"), &rows)?,
            ring_op(tasks.iter().map(|task| task.id.as_str()))?,
        ])
    }
}
