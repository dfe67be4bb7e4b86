//! Verbs on tasks: enqueue, claim, checkpoint, settle.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Op, Row, typed};
use super::lanes::{DOOM, Ended, written};
use super::outbox::{Ring, announced, ring_ended_op, ring_new_op, ring_op, rings};
use super::sql::sql;
use super::{Store, StoreError, lanes};
use crate::bundle::Revision;
use crate::gate::Gate;
use crate::id::{Epoch, TaskId, WorkerId};
use crate::task::{Task, Wire};

/// Where a task stands. One writer: the store's commands.
///
/// | from | by | to |
/// |---|---|---|
/// | – | enqueue, first delivery | queued, waiting, blocked, parked, expired, running |
/// | blocked | its turn in its lane, the end of what it waits for | queued, waiting, canceled |
/// | queued | claim | running (`epoch + 1`) |
/// | queued | a worker that does not know its name | parked |
/// | waiting | its time | queued, or expired |
/// | parked | a worker that knows its name | queued |
/// | running | settle: done, retry, hand-off, final failure | done, waiting, queued, dead |
/// | running | its worker's death | queued, or dead at the crash limit |
/// | queued, waiting, blocked, parked, running | cancel | canceled |
/// | dead, canceled, expired, parked | retry by hand | queued, blocked |
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum State {
    /// May run; a message says so, or is in the outbox.
    Queued,
    /// Not before its time.
    Waiting,
    /// No worker so far knows its name.
    Parked,
    /// Not before its turn in its lane, or before other tasks have ended.
    Blocked,
    /// An attempt has it.
    Running,
    /// It did what it should.
    Done,
    /// Finally failed: a dead letter.
    Dead,
    /// Stopped by hand.
    Canceled,
    /// Too late to begin.
    Expired,
}

impl State {
    /// As the store and the command line write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Queued => "queued",
            Self::Waiting => "waiting",
            Self::Parked => "parked",
            Self::Blocked => "blocked",
            Self::Running => "running",
            Self::Done => "done",
            Self::Dead => "dead",
            Self::Canceled => "canceled",
            Self::Expired => "expired",
        }
    }
}

/// What [`Store::enqueue`] did.
#[derive(Debug, Default)]
pub struct Enqueued {
    /// The tasks that are new.
    pub new: Vec<TaskId>,
    /// What is to be published for them.
    pub rings: Vec<Ring>,
}

/// A delivery that wants to become an attempt.
#[derive(Debug, Clone)]
pub struct ClaimRequest<'a> {
    /// The task as delivered.
    pub task: &'a Task,
    /// Whether it runs again if it is over.
    pub repeat: bool,
    /// The revision of the bundle that it begins with.
    pub revision: Option<&'a Revision>,
}

impl<'a> ClaimRequest<'a> {
    /// Of a task that runs once.
    pub fn once(task: &'a Task) -> Self {
        Self {
            task,
            repeat: false,
            revision: None,
        }
    }
}

/// What an attempt begins with.
#[derive(Debug, Clone, PartialEq)]
pub struct Claimed {
    /// Which claim of the task it is: the store's fencing token.
    pub epoch: Epoch,
    /// The fencing token for effects elsewhere; see [`crate::handler::Context::token`].
    pub token: i64,
    /// How often the task has failed before.
    pub failures: u32,
    /// How often a worker died while it ran.
    pub crashes: u32,
    /// How often it was handed off.
    pub interruptions: u32,
    /// Where the last attempt got to.
    pub checkpoint: Option<Value>,
}

/// The store's answer to one claim.
#[derive(Debug, Clone, PartialEq)]
pub enum ClaimAnswer {
    /// Run it.
    Claimed(Claimed),
    /// A worker has it, under this epoch.
    Busy {
        /// Whose it is.
        worker: WorkerId,
        /// Since which claim.
        epoch: Epoch,
    },
    /// It may not run now, and has a row that says when or whether: drop the message.
    Not(State),
    /// The worker was given up for dead, and may claim again once it has joined again: the message is another's.
    Lost,
}

/// A delivery that may not run now, and the row that is to say so.
#[derive(Debug, Clone)]
pub struct SetAside {
    /// The task as delivered.
    pub task: Task,
    /// `Queued`, `Waiting`, `Parked` or `Expired`.
    pub state: State,
    /// Why, for people.
    pub reason: Option<String>,
}

/// How an attempt ended, as the store is to write it.
#[derive(Debug, Clone, Default)]
pub struct Settlement {
    /// The task's new state.
    pub state: Option<State>,
    /// Another queue from now on.
    pub queue: Option<String>,
    /// For `Waiting`: how long, in milliseconds.
    pub delay: i64,
    /// Whether this counts as a failure.
    pub failed: bool,
    /// Whether this counts as an interruption.
    pub interrupted: bool,
    /// A last checkpoint.
    pub checkpoint: Option<Value>,
    /// What the handler returned.
    pub result: Option<Value>,
    /// Why it ended so.
    pub reason: Option<String>,
    /// For a task that will run again: its message from now on.
    pub message: Option<Task>,
}

#[derive(Deserialize)]
struct ClaimRow {
    id: String,
    epoch: Epoch,
    failures: u32,
    crashes: u32,
    interruptions: u32,
    checkpoint: Option<String>,
    place: Option<i64>,
}

impl ClaimRow {
    fn claimed(self) -> (String, Claimed) {
        let checkpoint = self
            .checkpoint
            .and_then(|text| serde_json::from_str(&text).ok());
        let Self {
            id,
            epoch,
            failures,
            crashes,
            interruptions,
            checkpoint: _,
            place,
        } = self;
        (
            id,
            Claimed {
                epoch,
                token: lanes::token(place, epoch),
                failures,
                crashes,
                interruptions,
                checkpoint,
            },
        )
    }
}

#[derive(Deserialize)]
pub(super) struct Standing {
    id: String,
    state: State,
    epoch: Epoch,
    worker: Option<String>,
}

pub(super) fn task_row(task: &Task) -> Result<Value, StoreError> {
    let text = serde_json::to_string(task).map_err(|error| StoreError::Value {
        command: "task",
        reason: error.to_string(),
    })?;
    Ok(json!({
        "id": task.id, "name": task.name, "queue": task.queue, "priority": task.priority,
        "run_at": task.run_at, "expires_at": task.expires_at, "task": text, "once": i64::from(task.once),
        "links": i64::from(Gate::of_task(task.id.as_str()).is_some()),
    }))
}

pub(super) fn with(mut row: Value, fields: Value) -> Value {
    if let (Value::Object(row), Value::Object(fields)) = (&mut row, fields) {
        row.extend(fields);
    }
    row
}

pub(super) fn parsed(task: &str) -> Result<Task, StoreError> {
    serde_json::from_str(task).map_err(|error| StoreError::Value {
        command: "task",
        reason: error.to_string(),
    })
}

pub(super) fn ids(rows: &[Row]) -> Vec<String> {
    rows.iter()
        .filter_map(|row| row.get("id")?.as_str().map(str::to_owned))
        .collect()
}

fn settle_op(rows: &[Value]) -> Result<Op, StoreError> {
    Op::new(sql!("settle"), rows)
}

fn settle_row(id: &TaskId, epoch: Epoch, settlement: &Settlement) -> Value {
    let text = |value: &Option<Value>| value.as_ref().map(Value::to_string);
    json!({
        "id": id, "epoch": epoch, "state": settlement.state.unwrap_or(State::Done), "queue": settlement.queue,
        "delay": settlement.delay, "failed": i32::from(settlement.failed),
        "interrupted": i32::from(settlement.interrupted), "checkpoint": text(&settlement.checkpoint),
        "result": text(&settlement.result), "reason": settlement.reason,
        "task": settlement.message.as_ref().and_then(|task| serde_json::to_string(task).ok()),
    })
}

impl Store {
    /// Adds tasks with the messages that announce them, in one transaction. An id that is there already is left alone.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was added then.
    pub async fn enqueue(&self, tasks: &[Task]) -> Result<Enqueued, StoreError> {
        // A gate takes what a task of that id does for its own one's.
        if let Some(task) = tasks
            .iter()
            .find(|task| Gate::of_task(task.id.as_str()).is_some())
        {
            return Err(StoreError::Graph {
                reason: format!("{}: ids like gate/NAME/… are of gates' own tasks", task.id),
            });
        }
        let ops = enqueue_ops(tasks)?;
        let (answers, mut rings) = match self.announcing("enqueue", ops.clone()).await {
            Err(StoreError::Stale { command }) => {
                let unknown = self.unknown(tasks).await?.join(", ");
                return Err(match unknown.as_str() {
                    "" => StoreError::Stale { command },
                    ids => StoreError::Graph {
                        reason: format!(
                            "they are to run after tasks that are not there: {ids} (ended tasks are forgotten after retention.finished_tasks)"
                        ),
                    },
                });
            }
            done => done?,
        };
        let new = written(&ops, &answers, "enqueue");
        let new = new.into_iter().map(TaskId::new).collect::<Vec<_>>();
        let doomed = written(&ops, &answers, DOOM.name);
        self.pass_on_these(doomed, &mut rings).await;
        // A task that was there and still queued is announced again, which is harmless; but it is not ours to publish.
        rings.retain(|ring| new.contains(&ring.task.id));
        Ok(Enqueued { new, rings })
    }

    /// Turns deliveries into attempts of `worker`. The answers stand in the order of the requests; of two
    /// deliveries of one task, the first is claimed.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was claimed then.
    pub async fn claim(
        &self,
        worker: &WorkerId,
        requests: &[ClaimRequest<'_>],
    ) -> Result<Vec<ClaimAnswer>, StoreError> {
        let mut seen = HashSet::new();
        let mut rows = Vec::with_capacity(requests.len());
        for ClaimRequest {
            task,
            repeat,
            revision,
        } in requests
        {
            if seen.insert(task.id.as_str()) {
                let own =
                    json!({ "worker": worker, "again": i32::from(*repeat), "revision": revision });
                rows.push(with(task_row(task)?, own));
            }
        }
        // Always in the same order: two workers that claim the same tasks wait for one another, never in a circle.
        rows.sort_by(|one, other| one["id"].as_str().cmp(&other["id"].as_str()));
        let answer = self.single("claim", Op::new(sql!("claim"), &rows)?).await?;
        let mut claimed: HashMap<String, Claimed> = typed::<ClaimRow>(answer)?
            .into_iter()
            .map(ClaimRow::claimed)
            .collect();
        // It is so of all of them or of none.
        if claimed.is_empty() && self.is_lost(worker).await? {
            return Ok(vec![ClaimAnswer::Lost; requests.len()]);
        }
        let epochs: HashMap<String, Epoch> = claimed
            .iter()
            .map(|(id, claimed)| (id.clone(), claimed.epoch))
            .collect();
        let missing: Vec<Value> = requests
            .iter()
            .filter(|request| !claimed.contains_key(request.task.id.as_str()))
            .map(|request| json!({ "id": request.task.id }))
            .collect();
        let standing: HashMap<String, Standing> = if missing.is_empty() {
            HashMap::new()
        } else {
            self.standing(&missing).await?
        };
        Ok(requests
            .iter()
            .map(|ClaimRequest { task, .. }| {
                if let Some(claimed) = claimed.remove(task.id.as_str()) {
                    return ClaimAnswer::Claimed(claimed);
                }
                match standing.get(task.id.as_str()) {
                    Some(Standing {
                        state: State::Running,
                        epoch,
                        worker: Some(worker),
                        ..
                    }) => ClaimAnswer::Busy {
                        worker: WorkerId::new(worker.clone()),
                        epoch: *epoch,
                    },
                    Some(standing) => ClaimAnswer::Not(standing.state),
                    // The second delivery of a task that this batch has just claimed.
                    None => ClaimAnswer::Busy {
                        worker: worker.clone(),
                        epoch: epochs
                            .get(task.id.as_str())
                            .copied()
                            .unwrap_or(Epoch::FIRST),
                    },
                }
            })
            .collect())
    }

    /// Claims a task of the dead worker `dead`, if it is still that worker's under `epoch`, nobody wants it canceled, and it has not
    /// yet ended `crash_limit` workers. `None`: it is not.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn take_over(
        &self,
        worker: &WorkerId,
        id: &TaskId,
        epoch: Epoch,
        dead: &WorkerId,
        crash_limit: u32,
        revision: Option<&Revision>,
    ) -> Result<Option<Claimed>, StoreError> {
        let row = json!({
            "id": id, "epoch": epoch, "dead": dead, "worker": worker, "crash_limit": crash_limit, "revision": revision,
        });
        let rows = self
            .single("take_over", Op::one(sql!("take_over"), &row)?)
            .await?;
        Ok(typed::<ClaimRow>(rows)?
            .into_iter()
            .next()
            .map(|row| row.claimed().1))
    }

    /// Gives deliveries that may not run now a row that says so; their messages can be acknowledged then.
    /// Those set aside as `Queued` are announced again.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was written then.
    pub async fn set_aside(&self, items: &[SetAside]) -> Result<Vec<Ring>, StoreError> {
        let mut seen = HashSet::new();
        let mut rows = Vec::with_capacity(items.len());
        for SetAside {
            task,
            state,
            reason,
        } in items
        {
            if seen.insert(task.id.as_str()) {
                rows.push(with(
                    task_row(task)?,
                    json!({ "state": state, "reason": reason }),
                ));
            }
        }
        let queued = items
            .iter()
            .filter(|item| item.state == State::Queued)
            .map(|item| item.task.id.as_str());
        let mut ops = vec![Op::new(sql!("set_aside"), &rows)?, ring_op(queued)?];
        let ended = items
            .iter()
            .filter(|item| item.state == State::Expired && item.task.wire == Wire::Celery)
            .map(|item| item.task.id.as_str())
            .collect::<Vec<_>>();
        if !ended.is_empty() {
            ops.push(ring_ended_op(ended.into_iter())?);
        }
        let mut answers = self.command("set_aside", ops).await?.into_iter();
        let ended = Ended::among(&answers.next().unwrap_or_default());
        let mut rings = rings(answers.next().unwrap_or_default())?;
        self.pass_on_after(ended, &mut rings).await;
        Ok(rings)
    }

    /// Where these tasks stand, those that are there.
    pub(super) async fn standing(
        &self,
        rows: &[Value],
    ) -> Result<HashMap<String, Standing>, StoreError> {
        let rows: Vec<Standing> = self.read(sql!("standing"), rows).await?;
        Ok(rows.into_iter().map(|row| (row.id.clone(), row)).collect())
    }

    /// Writes how attempts ended, all in one commit; each is answered for itself. Returns the tasks whose
    /// outcome was accepted (the others' leases are lost) and what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb; nothing was written then.
    pub async fn settle(
        &self,
        items: &[(TaskId, Epoch, Settlement)],
    ) -> Result<(HashSet<TaskId>, Vec<Ring>), StoreError> {
        let mut rows = items
            .iter()
            .map(|(id, epoch, settlement)| settle_row(id, *epoch, settlement))
            .collect::<Vec<_>>();
        // In the order in which others lock several tasks.
        rows.sort_by(|one, other| one["id"].as_str().cmp(&other["id"].as_str()));
        let mut ops = vec![settle_op(&rows)?];
        let again = items
            .iter()
            .filter(|(_, _, settlement)| settlement.state == Some(State::Queued));
        let again = again.map(|(id, _, _)| id.as_str()).collect::<Vec<_>>();
        if !again.is_empty() {
            ops.push(ring_op(again.iter().copied())?);
            // One that somebody has canceled is over instead.
            ops.push(ring_ended_op(again.into_iter())?);
        }
        let mut answers = self.command("settle", ops).await?.into_iter();
        let rows = answers.next().unwrap_or_default();
        let settled = ids(&rows).into_iter().map(TaskId::new).collect();
        let mut rings = rings(answers.next().unwrap_or_default())?;
        self.pass_on_after(Ended::among(&rows), &mut rings).await;
        Ok((settled, rings))
    }

    /// Writes how one attempt ended together with `ops` and new tasks: all of it, or, if the lease is lost
    /// or one of `ops` finds its condition broken, nothing. Returns what is to be published, also for others that shared its
    /// commit: one of them is answered for all.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if nothing was written for one of these reasons; else as any verb.
    pub async fn settle_with(
        &self,
        id: &TaskId,
        epoch: Epoch,
        settlement: &Settlement,
        ops: Vec<Op>,
        follow: &[Task],
    ) -> Result<Vec<Ring>, StoreError> {
        debug_assert!(
            settlement.state != Some(State::Queued),
            "only `settle` announces"
        );
        let mut all = vec![settle_op(&[settle_row(id, epoch, settlement)])?.guarded()];
        all.extend(ops);
        all.extend(enqueue_ops(follow)?);
        let answer = self.together("publish", id, all.clone()).await?;
        if !answer.speaks {
            return Ok(Vec::new());
        }
        let announces = all.iter().map(Op::announces).collect();
        let mut rings = announced(&answer.rows, announces)?;
        let doomed = written(&all, &answer.rows, DOOM.name);
        self.pass_on_these(doomed, &mut rings).await;
        let ended = Ended::among(answer.rows.first().map_or(&[], Vec::as_slice));
        self.pass_on_after(ended, &mut rings).await;
        Ok(rings)
    }

    /// Writes how several attempts ended together with `ops`, all of which [join](Op::is_joinable): all of it, or, if one lease is
    /// lost, nothing. Returns what is to be published.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if nothing was written because of a lease; else as any verb.
    pub async fn settle_all(
        &self,
        items: &[(TaskId, Epoch, Settlement)],
        ops: Vec<Op>,
    ) -> Result<Vec<Ring>, StoreError> {
        let announced = |item: &(_, _, Settlement)| item.2.state == Some(State::Queued);
        debug_assert!(!items.iter().any(announced), "only `settle` announces");
        let mut items = items.iter().collect::<Vec<_>>();
        // Always in the same order: two that write the same rows wait for one another, never in a circle.
        items.sort_by(|(one, ..), (other, ..)| one.as_str().cmp(other.as_str()));
        let rows = items.iter();
        let rows = rows
            .map(|(id, epoch, settlement)| settle_row(id, *epoch, settlement))
            .collect::<Vec<_>>();
        let mut all = vec![settle_op(&rows)?.guarded_all(rows.len())];
        all.extend(Op::joined(ops));
        let (answers, mut rings) = self.announcing("publish", all).await?;
        let ended = Ended::among(answers.first().map_or(&[], Vec::as_slice));
        self.pass_on_after(ended, &mut rings).await;
        Ok(rings)
    }

    /// Messages for workers other than Longshore's, as a part of the command that settles a task: published
    /// once that is committed, at least once, each to its task's queue. They get no row, so nothing here waits for them.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if a task cannot be written as JSON.
    pub fn post(&self, tasks: &[Task]) -> Result<Op, StoreError> {
        let rows = tasks.iter().map(task_row).collect::<Result<Vec<_>, _>>()?;
        Op::new(sql!("post"), &rows)
    }

    /// As a part of the command that settles a task of Celery's otherwise than by its answer: if it is over with that command, the
    /// maintenance leader tells those who wait for it. Other tasks are passed over.
    ///
    /// # Errors
    ///
    /// [`StoreError::Value`] if the id cannot be written as JSON.
    pub fn told_if_over(&self, id: &TaskId) -> Result<Op, StoreError> {
        ring_ended_op(std::iter::once(id.as_str()))
    }

    /// Writes an attempt's checkpoint (`None`: leaves the last one) together with `ops`.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost: nothing was written; else as any verb.
    pub async fn checkpoint(
        &self,
        id: &TaskId,
        epoch: Epoch,
        checkpoint: Option<&Value>,
        progress: Option<&str>,
        ops: Vec<Op>,
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let all = checkpoint_ops(id, epoch, checkpoint, progress, ops)?;
        let mut answers = self.command("checkpoint", all).await?;
        Ok(answers.split_off(1))
    }

    /// The same with others that wait to be written, and without a checkpoint. The answers of `ops` have the rows of all of them.
    pub(super) async fn write_together(
        &self,
        id: &TaskId,
        epoch: Epoch,
        ops: Vec<Op>,
    ) -> Result<Arc<Vec<Vec<Row>>>, StoreError> {
        let all = checkpoint_ops(id, epoch, None, None, ops)?;
        Ok(self.together("checkpoint", id, all).await?.rows)
    }

    /// The checkpoint of an attempt that still holds its task.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn checkpoint_of(
        &self,
        id: &TaskId,
        epoch: Epoch,
    ) -> Result<Option<Value>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            checkpoint: Option<String>,
        }
        let rows: Vec<Row> = self
            .read(
                sql!("checkpoint_of"),
                &[json!({ "id": id, "epoch": epoch })],
            )
            .await?;
        let text = rows.into_iter().next().and_then(|row| row.checkpoint);
        Ok(text.and_then(|text| serde_json::from_str(&text).ok()))
    }

    /// Makes parked tasks of these names runnable, because a worker knows them now. Returns what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn unpark(&self, names: &[String]) -> Result<Vec<Ring>, StoreError> {
        let rows = names
            .iter()
            .map(|name| json!({ "name": name }))
            .collect::<Vec<_>>();
        let ops = vec![Op::new(sql!("unpark"), &rows)?, ring_new_op()?];
        rings(self.command("unpark", ops).await?.pop().unwrap_or_default())
    }
}

/// `ops` after an attempt's checkpoint, or after a look at its lease alone.
fn checkpoint_ops(
    id: &TaskId,
    epoch: Epoch,
    checkpoint: Option<&Value>,
    progress: Option<&str>,
    ops: Vec<Op>,
) -> Result<Vec<Op>, StoreError> {
    let row = json!({ "id": id, "epoch": epoch, "checkpoint": checkpoint.map(Value::to_string), "progress": progress });
    let mut all = vec![Op::one(sql!("checkpoint"), &row)?.guarded()];
    all.extend(ops);
    Ok(all)
}

/// What adds tasks and announces those that may run.
pub(super) fn enqueue_ops(tasks: &[Task]) -> Result<Vec<Op>, StoreError> {
    if tasks.is_empty() {
        return Ok(Vec::new());
    }
    if let Some(ops) = lanes::enqueue_ops(tasks)? {
        return Ok(ops);
    }
    let rows = tasks.iter().map(task_row).collect::<Result<Vec<_>, _>>()?;
    Ok(vec![
        enqueue_op(&rows)?,
        ring_op(tasks.iter().map(|task| task.id.as_str()))?,
    ])
}

pub(super) fn enqueue_op(rows: &[Value]) -> Result<Op, StoreError> {
    Op::new(sql!("enqueue"), rows)
}
