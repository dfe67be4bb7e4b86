//! Verbs on workers: their lease, who is dead, who leads, and what only the leader writes.
//!
//! Whatever a leader writes carries its [`Fence`]: a leader that was deposed writes nothing.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Op, Row, typed};
use super::lanes::Ended;
use super::outbox::{Ring, ring_ended_op, ring_new_op, rings};
use super::sql::{Sql, sql};
use super::tasks::State;
use super::{Db, Store, StoreError};
use crate::clock::Millis;
use crate::id::{Epoch, TaskId, WorkerId};

/// A lane's places are at least so much older than those that it begins with after it was forgotten: clocks may differ.
const LANES_KEPT: Duration = Duration::from_secs(3600);

/// One worker process as it presents itself.
#[derive(Debug, Clone)]
pub struct Member {
    /// This life of it.
    pub id: WorkerId,
    /// Its pool's name.
    pub pool: String,
    /// `elastic` or `pinned`.
    pub kind: String,
    /// The machine or pod.
    pub host: String,
    /// The number of its process.
    pub pid: u32,
    /// How many attempts it runs at once.
    pub slots: u32,
    /// The advisory lock that it holds while it lives (PostgreSQL).
    pub lock_key: i64,
}

/// One task that the store says a worker holds.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
pub struct Held {
    /// Which.
    pub id: TaskId,
    /// Under which claim.
    pub epoch: Epoch,
    /// 1: somebody wants it canceled.
    pub cancel: i64,
}

/// A worker as the store knows it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each is what the column of that name says; DESIGN's words"
)]
pub struct WorkerView {
    pub id: WorkerId,
    pub pool: String,
    pub kind: String,
    pub host: String,
    pub pid: i64,
    pub state: String,
    pub slots: i64,
    pub started_at: Millis,
    pub lease_until: Millis,
    #[serde(skip_serializing)]
    pub lock_key: i64,
    pub running: i64,
}

/// A leader's right to write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fence {
    /// What it leads.
    pub name: String,
    /// Who it is.
    pub worker: WorkerId,
    /// Since which election.
    pub term: i64,
}

impl Fence {
    fn op(&self) -> Result<Op, StoreError> {
        let row = json!({ "name": self.name, "worker": self.worker, "term": self.term });
        Ok(Op::one(sql!("lead_check"), &row)?.guarded())
    }
}

/// A task that its workers' deaths have made a dead letter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct DeadLetter {
    /// The task.
    pub id: TaskId,
    /// Its name.
    pub name: String,
    /// The queue that it ran from.
    pub queue: String,
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// A worker's lease and lock.
#[derive(Deserialize)]
struct Standing {
    id: WorkerId,
    lease_until: Millis,
    lock_key: i64,
    state: String,
}

impl Standing {
    fn is_over(&self) -> bool {
        matches!(self.state.as_str(), "lost" | "stopped")
    }
}

impl Store {
    /// Enters a worker, or enters it again after its lease ran out.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn join(
        &self,
        member: &Member,
        state: &str,
        lease: Duration,
    ) -> Result<(), StoreError> {
        let row = json!({
            "id": member.id, "pool": member.pool, "kind": member.kind, "host": member.host, "pid": member.pid,
            "state": state, "slots": member.slots, "lease": millis(lease), "lock_key": member.lock_key,
        });
        self.single("join", Op::one(sql!("worker_join"), &row)?)
            .await
            .map(drop)
    }

    /// Renews a worker's lease. False: it was given up for dead, and what it held is or will be another's.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn renew(
        &self,
        worker: &WorkerId,
        state: &str,
        lease: Duration,
    ) -> Result<bool, StoreError> {
        let row = json!({ "id": worker, "lease": millis(lease), "state": state });
        Ok(!self
            .single("renew", Op::one(sql!("worker_renew"), &row)?)
            .await?
            .is_empty())
    }

    /// Whether a worker is given up for dead, or unknown.
    pub(super) async fn is_lost(&self, worker: &WorkerId) -> Result<bool, StoreError> {
        let rows: Vec<Standing> = self.by_id(std::slice::from_ref(worker)).await?;
        Ok(rows.iter().all(Standing::is_over))
    }

    async fn by_id(&self, workers: &[WorkerId]) -> Result<Vec<Standing>, StoreError> {
        let rows = workers.iter().map(|id| json!({ "id": id }));
        let rows = rows.collect::<Vec<_>>();
        self.read(sql!("workers_by_id"), &rows).await
    }

    /// What the store says this worker holds.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn held(&self, worker: &WorkerId) -> Result<Vec<Held>, StoreError> {
        self.read(sql!("worker_tasks"), &[json!({ "id": worker })])
            .await
    }

    /// Takes a worker off the list; what it still holds is for rescue at once.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn leave(&self, worker: &WorkerId) -> Result<(), StoreError> {
        self.single(
            "leave",
            Op::one(sql!("worker_leave"), &json!({ "id": worker }))?,
        )
        .await
        .map(drop)
    }

    /// Which of these workers are dead: ended, out of their lease, or (where locks mean something) without their lock.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn dead_among(&self, workers: &[WorkerId]) -> Result<Vec<WorkerId>, StoreError> {
        let rows = self.by_id(workers).await?;
        let now = self.0.clock.now();
        let over = |row: &Standing| row.lease_until <= now || row.is_over();
        let unlocked: Vec<WorkerId> = match &self.0.db {
            _ if !self.0.locks => Vec::new(),
            Db::Postgres(db) => {
                let held = db
                    .held(&rows.iter().map(|row| row.lock_key).collect::<Vec<_>>())
                    .await?;
                rows.iter()
                    .filter(|row| !held.contains(&row.lock_key))
                    .map(|row| row.id.clone())
                    .collect()
            }
            Db::Sqlite(db) => rows
                .iter()
                .filter(|row| !db.held(&row.id))
                .map(|row| row.id.clone())
                .collect(),
        };
        let known = |id: &WorkerId| rows.iter().find(|row| row.id == *id);
        Ok(workers
            .iter()
            .filter(|id| known(id).is_none_or(|row| over(row) || unlocked.contains(&row.id)))
            .cloned()
            .collect())
    }

    /// Every worker, those that ended only with `ended`.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn workers(&self, ended: bool) -> Result<Vec<WorkerView>, StoreError> {
        self.read(
            sql!("workers_live"),
            &[json!({ "ended": i32::from(ended) })],
        )
        .await
    }

    /// Becomes or stays the leader of `name`. `None`: somebody else is.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn lead(
        &self,
        name: &str,
        worker: &WorkerId,
        lease: Duration,
    ) -> Result<Option<Fence>, StoreError> {
        #[derive(Deserialize)]
        struct Term {
            term: i64,
        }
        let row = json!({ "name": name, "worker": worker, "lease": millis(lease) });
        let rows = self.single("lead", Op::one(sql!("lead"), &row)?).await?;
        let term = typed::<Term>(rows)?.into_iter().next();
        Ok(term.map(|Term { term }| Fence {
            name: name.to_owned(),
            worker: worker.clone(),
            term,
        }))
    }

    /// Stops leading, so that another may at once.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn yield_lead(&self, name: &str, worker: &WorkerId) -> Result<(), StoreError> {
        let row = json!({ "name": name, "worker": worker });
        self.single("lead_yield", Op::one(sql!("lead_yield"), &row)?)
            .await
            .map(drop)
    }

    /// Gives workers up for dead, each only if it has not renewed since it was seen so.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the leader was deposed; else as any verb.
    pub async fn mark_lost(
        &self,
        fence: &Fence,
        workers: &[(WorkerId, Millis)],
    ) -> Result<usize, StoreError> {
        let rows = workers
            .iter()
            .map(|(id, until)| json!({ "id": id, "lease_until": until }))
            .collect::<Vec<_>>();
        let ops = vec![fence.op()?, Op::new(sql!("workers_lost"), &rows)?];
        Ok(self
            .command("mark_lost", ops)
            .await?
            .pop()
            .map_or(0, |rows| rows.len()))
    }

    /// Makes what ended workers held runnable again, or a dead letter at `crash_limit`: up to 500 tasks.
    /// Returns how many of each.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the leader was deposed; else as any verb.
    pub async fn rescue(
        &self,
        fence: &Fence,
        crash_limit: u32,
    ) -> Result<(Vec<Ring>, Vec<DeadLetter>), StoreError> {
        #[derive(Deserialize)]
        struct Rescued {
            id: String,
            name: String,
            queue: String,
            state: State,
        }
        let row = json!({ "crash_limit": crash_limit });
        let ends = self.ids(sql!("doomed"), &row).await?;
        let (rings, rows) = self
            .fenced_ring("rescue", fence, sql!("rescue"), row, &ends)
            .await?;
        let dead = typed::<Rescued>(rows)?
            .into_iter()
            .filter(|row| row.state == State::Dead)
            .map(|row| DeadLetter {
                id: TaskId::new(row.id),
                name: row.name,
                queue: row.queue,
            });
        Ok((rings, dead.collect()))
    }

    /// Makes tasks runnable whose time has come: up to 500.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the leader was deposed; else as any verb.
    pub async fn due(&self, fence: &Fence) -> Result<Vec<Ring>, StoreError> {
        let ends = self.ids(sql!("withering"), &json!({})).await?;
        Ok(self
            .fenced_ring("due", fence, sql!("due"), json!({}), &ends)
            .await?
            .0)
    }

    /// When the next waiting task is due.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn next_due(&self) -> Result<Option<Millis>, StoreError> {
        #[derive(Deserialize)]
        struct Next {
            run_at: Option<Millis>,
        }
        let rows: Vec<Next> = self.read(sql!("next_due"), &[] as &[Value]).await?;
        Ok(rows.into_iter().next().and_then(|next| next.run_at))
    }

    /// Announces rescued tasks again that nobody has claimed yet, less and less often: up to 500.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the leader was deposed; else as any verb.
    pub async fn ring_rescued(&self, fence: &Fence) -> Result<Vec<Ring>, StoreError> {
        let (rings, _) = self
            .fenced_ring("ring_rescued", fence, sql!("ring_rescued"), json!({}), &[])
            .await?;
        Ok(rings)
    }

    /// Announces tasks again that nobody claimed for `after`: up to 500.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the leader was deposed; else as any verb.
    pub async fn ring_again(
        &self,
        fence: &Fence,
        after: Duration,
    ) -> Result<Vec<Ring>, StoreError> {
        Ok(self
            .fenced_ring(
                "ring_again",
                fence,
                sql!("ring_again"),
                json!({ "after": millis(after) }),
                &[],
            )
            .await?
            .0)
    }

    /// Removes ended tasks older than `tasks`, idle lanes, and workers that ended before then or an hour ago: each look at what
    /// the dead held goes through them. Returns how many tasks.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the leader was deposed; else as any verb.
    pub async fn sweep(&self, fence: &Fence, tasks: Duration) -> Result<usize, StoreError> {
        let before = |age: Duration| json!({ "before": self.0.clock.now() - millis(age) });
        let workers = before(tasks.min(Duration::from_secs(3600)));
        let lanes = self.idle_lanes(tasks.max(LANES_KEPT)).await?;
        let mut ops = vec![
            fence.op()?,
            Op::one(sql!("sweep_workers"), &workers)?,
            Op::one(sql!("gates/sweep"), &before(tasks))?,
        ];
        ops.extend(lanes);
        ops.extend([
            Op::one(sql!("lanes/sweep_after"), &before(tasks))?,
            Op::one(sql!("sweep_tasks"), &before(tasks))?,
        ]);
        Ok(self
            .command("sweep", ops)
            .await?
            .pop()
            .map_or(0, |rows| rows.len()))
    }

    /// The tasks that a statement finds.
    pub(super) async fn ids(&self, statement: Sql, row: &Value) -> Result<Vec<String>, StoreError> {
        #[derive(Deserialize)]
        struct Id {
            id: String,
        }
        let rows: Vec<Id> = self.read(statement, std::slice::from_ref(row)).await?;
        Ok(rows.into_iter().map(|row| row.id).collect())
    }

    /// A fenced statement that makes tasks runnable, and the messages that announce them; `ends` are the tasks that it may
    /// make an end of.
    async fn fenced_ring(
        &self,
        name: &'static str,
        fence: &Fence,
        statement: Sql,
        row: Value,
        ends: &[String],
    ) -> Result<(Vec<Ring>, Vec<Row>), StoreError> {
        let mut ops = vec![fence.op()?, Op::one(statement, &row)?, ring_new_op()?];
        if !ends.is_empty() {
            ops.push(ring_ended_op(ends.iter().map(String::as_str))?);
        }
        let mut answers = self.command(name, ops).await?.into_iter().skip(1);
        let rows = answers.next().unwrap_or_default();
        let ended = Ended::among(&rows);
        let mut rings = rings(answers.next().unwrap_or_default())?;
        self.pass_on_after(ended, &mut rings).await;
        Ok((rings, rows))
    }
}
