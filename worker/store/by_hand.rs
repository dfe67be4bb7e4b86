//! What operators see of tasks, and do to them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Op, typed};
use super::outbox::{Ring, ring_ended_op, ring_new_op, rings};
use super::sql::sql;
use super::tasks::{State, parsed, task_row, with};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::id::{Epoch, TaskId, WorkerId};

/// Which tasks to list.
#[derive(Debug, Clone, Default)]
pub struct Filter {
    /// Just this one.
    pub id: Option<String>,
    /// Just those in this state.
    pub state: Option<State>,
    /// At most so many.
    pub most: i64,
}

/// A task as operators see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each is what the column of that name says; DESIGN's words"
)]
pub struct TaskView {
    pub id: String,
    pub name: String,
    pub queue: String,
    pub priority: i64,
    pub state: State,
    pub epoch: Epoch,
    pub worker: Option<String>,
    pub failures: u32,
    pub crashes: u32,
    pub interruptions: u32,
    pub run_at: Option<Millis>,
    pub expires_at: Option<Millis>,
    pub created_at: Millis,
    pub started_at: Option<Millis>,
    pub ended_at: Option<Millis>,
    pub checkpoint_at: Option<Millis>,
    pub progress: Option<String>,
    pub result: Option<String>,
    pub reason: Option<String>,
    #[serde(skip_serializing)]
    pub task: String,
}

/// What a worker runs, as somebody sees it who wants its pod to end.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct RunningView {
    /// Who runs it.
    #[serde(skip_serializing)]
    pub worker: WorkerId,
    /// The task.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// Its queue.
    pub queue: String,
    /// Under which claim.
    #[serde(skip_serializing)]
    pub epoch: Epoch,
    /// The test job that it is for, as `BACKEND/ID`.
    pub testjob: Option<String>,
    /// Since when this attempt runs.
    pub started_at: Option<Millis>,
    /// When its progress was made durable last.
    pub checkpoint_at: Option<Millis>,
    /// How far it was then, in its handler's words.
    pub progress: Option<String>,
}

impl Store {
    /// Cancels tasks: what waits at once, what runs as soon as its worker hears of it. Returns the state of
    /// each one that was not over.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn cancel(&self, id: &str, reason: &str) -> Result<Option<State>, StoreError> {
        #[derive(Deserialize)]
        struct Answer {
            state: State,
        }
        let ops = vec![
            Op::one(sql!("cancel"), &json!({ "id": id, "reason": reason }))?,
            ring_ended_op(std::iter::once(id))?,
        ];
        let mut answers = self.command("cancel", ops).await?.into_iter();
        let rows = answers.next().unwrap_or_default();
        Ok(typed::<Answer>(rows)?
            .into_iter()
            .next()
            .map(|answer| answer.state))
    }

    /// Lets dead, canceled, expired or parked tasks run again. Returns what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn revive(&self, found: &[String]) -> Result<Vec<Ring>, StoreError> {
        let mut rows = Vec::with_capacity(found.len());
        for id in found {
            let filter = Filter {
                id: Some(id.clone()),
                state: None,
                most: 1,
            };
            for view in self.tasks(&filter).await? {
                // It may be late by now: that is what the operator wants.
                let mut task = parsed(&view.task)?;
                task.expires_at = None;
                rows.push(with(task_row(&task)?, json!({ "id": id })));
            }
        }
        let ops = vec![Op::new(sql!("revive"), &rows)?, ring_new_op()?];
        rings(self.command("revive", ops).await?.pop().unwrap_or_default())
    }

    /// Lists tasks, oldest first.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn tasks(&self, filter: &Filter) -> Result<Vec<TaskView>, StoreError> {
        let row = json!({ "id": filter.id, "state": filter.state, "most": filter.most });
        self.read(sql!("task_show"), &[row]).await
    }

    /// What runs on these hosts (pods' names), up to 1000 tasks.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn running_on(&self, hosts: &[&str]) -> Result<Vec<RunningView>, StoreError> {
        let rows = hosts
            .iter()
            .map(|host| json!({ "host": host }))
            .collect::<Vec<_>>();
        self.read(sql!("pods_running"), &rows).await
    }

    /// How many tasks there are by state.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn task_counts(&self) -> Result<HashMap<State, i64>, StoreError> {
        #[derive(Deserialize)]
        struct Count {
            state: State,
            number: i64,
        }
        let rows: Vec<Count> = self.read(sql!("task_counts"), &[] as &[Value]).await?;
        Ok(rows
            .into_iter()
            .map(|Count { state, number }| (state, number))
            .collect())
    }
}
