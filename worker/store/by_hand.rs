//! What operators see of tasks, and do to them.

use std::collections::HashMap;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Op, typed};
use super::lanes::{Ended, RELINK, again_ops, before_again_ops, waive_op, written};
use super::outbox::{Ring, ring_ended_op};
use super::sql::sql;
use super::tasks::{State, parsed, task_row, with};
use super::{Store, StoreError};
use crate::clock::Millis;
use crate::id::{Epoch, TaskId, WorkerId};
use crate::task::Task;

/// Name and queue of a task that was revoked before it came; the claim's statement knows it too.
const UNKNOWN: &str = "(unknown)";

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
    pub lane: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<String>,
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
    /// Cancels a task: one that waits at once, one that runs as soon as its worker hears of it. Returns its state, if it was not
    /// over, and what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn cancel(
        &self,
        id: &str,
        reason: &str,
    ) -> Result<(Option<State>, Vec<Ring>), StoreError> {
        #[derive(Deserialize)]
        struct Answer {
            state: State,
        }
        let ops = cancel_ops(&[id], reason)?.to_vec();
        let mut answers = self.command("cancel", ops).await?.into_iter();
        let rows = answers.next().unwrap_or_default();
        let mut rings = Vec::new();
        self.pass_on_after(Ended::among(&rows), &mut rings).await;
        let answer = typed::<Answer>(rows)?.into_iter().next();
        Ok((answer.map(|answer| answer.state), rings))
    }

    /// Cancels tasks that wait, and for those that have not come yet leaves a row that keeps them from running; what runs
    /// is asked to stop if `terminate`, and goes on otherwise. Returns those that were not over, with their state now, and what is to be
    /// published.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was changed then.
    pub async fn revoke(
        &self,
        ids: &[String],
        terminate: bool,
    ) -> Result<(Vec<(String, State)>, Vec<Ring>), StoreError> {
        #[derive(Deserialize)]
        struct Answer {
            id: String,
            state: State,
        }
        let mut rows = Vec::with_capacity(ids.len());
        for id in ids {
            // What it would have been, nobody knows.
            let task = Task::new(UNKNOWN, UNKNOWN).with_id(id);
            let fields = json!({ "reason": "revoked by a tool of Celery's", "terminate": i32::from(terminate) });
            rows.push(with(task_row(&task)?, fields));
        }
        let ops = vec![
            Op::new(sql!("revoke"), &rows)?,
            ring_ended_op(ids.iter().map(String::as_str))?,
            waive_op(ids)?,
        ];
        let mut answers = self.command("cancel", ops).await?.into_iter();
        let rows = answers.next().unwrap_or_default();
        let mut rings = Vec::new();
        self.pass_on_after(Ended::among(&rows), &mut rings).await;
        let answers = typed::<Answer>(rows)?.into_iter();
        let answers = answers.map(|Answer { id, state }| (id, state));
        Ok((answers.collect(), rings))
    }

    /// Gives the rows of tasks that were revoked before they came what their messages say. Other tasks are left alone.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was changed then.
    pub async fn came_revoked(&self, tasks: &[Task]) -> Result<(), StoreError> {
        let rows = tasks
            .iter()
            .map(|task| Ok(with(task_row(task)?, json!({ "unknown": UNKNOWN }))))
            .collect::<Result<Vec<_>, StoreError>>()?;
        let ops = vec![
            Op::new(sql!("came_revoked"), &rows)?,
            ring_ended_op(tasks.iter().map(|task| task.id.as_str()))?,
        ];
        self.command("set_aside", ops).await.map(drop)
    }

    /// Lets dead, canceled, expired or parked tasks run again: one that halts its lane in its place, others of a lane at its end. What was
    /// canceled because they failed waits for them again. Returns what is to be published.
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
        let mut ops = before_again_ops(&rows)?.to_vec();
        ops.push(Op::new(sql!("revive"), &rows)?);
        ops.extend(again_ops(&rows)?);
        let (answers, mut rings) = self.announcing("revive", ops.clone()).await?;
        let again = written(&ops, &answers, RELINK.name);
        self.pass_on_these(again, &mut rings).await;
        Ok(rings)
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

/// What cancels tasks.
pub(super) fn cancel_ops(ids: &[&str], reason: &str) -> Result<[Op; 3], StoreError> {
    let rows = ids
        .iter()
        .map(|id| json!({ "id": id, "reason": reason }))
        .collect::<Vec<_>>();
    Ok([
        Op::new(sql!("cancel"), &rows)?,
        ring_ended_op(ids.iter().copied())?,
        waive_op(ids)?,
    ])
}
