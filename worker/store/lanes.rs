//! Lanes, and tasks that wait for others: who may run next.
//!
//! A task with a lane or with others to wait for is enqueued `blocked`. Whatever ends a task of which something depends leaves it
//! marked in its own commit (`links = 1`); [`Store::pass_on`] then frees its place, cancels what can never run and lets go what
//! may, in a commit of its own. If nobody gets to that, the maintenance leader does at its next look. Nothing is counted: who is
//! next follows from the rows of the lane, under the lane's lock.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::command::{Op, Row};
use super::outbox::{Ring, announced, ring_new_op, ring_op};
use super::sql::{Sql, sql};
use super::tasks::{State, enqueue_op, ids, task_row, with};
use super::{Store, StoreError, gates};
use crate::clock::Millis;
use crate::id::{Epoch, TaskId};
use crate::lane;
use crate::task::Task;

/// Longest key of a lane in bytes: it is part of an index.
const LONGEST_KEY: usize = 512;
/// Rounds of passing on in one verb; what is left then is the leader's.
const ROUNDS: usize = 64;
/// Its answer is what a revival makes to be passed on again.
pub(super) const RELINK: Sql = sql!("lanes/relink");
/// Their answers are tasks that end by them.
pub(super) const DOOM: Sql = sql!("lanes/doom");
const CANCEL_REST: Sql = sql!("lanes/cancel_rest");

/// Attempts of one task in a place of a lane whose tokens differ: more than that many claims of one task are refused nowhere, but
/// share the last token.
const TOKENS: i64 = 1_000_000;

/// The fencing token of an attempt. Without a lane it is the attempt's epoch; in a lane it grows from attempt to attempt of all its
/// tasks: the place and then the epoch.
pub(super) fn token(place: Option<i64>, epoch: Epoch) -> i64 {
    let epoch = epoch.get();
    place.map_or(epoch, |place| {
        place
            .saturating_mul(TOKENS)
            .saturating_add(epoch.min(TOKENS - 1))
    })
}

/// A lane as operators see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LaneView {
    /// Its key.
    pub key: String,
    /// How many may run at once.
    pub slots: i64,
    /// How many have begun and have not ended.
    pub holding: i64,
    /// How many wait.
    pub waiting: i64,
    /// Since when the first of those waits.
    pub waiting_since: Option<Millis>,
    /// A task that failed and holds up the others.
    pub halted_by: Option<String>,
    /// Since when.
    pub halted_at: Option<Millis>,
}

/// A task in a lane as operators see it.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[expect(
    missing_docs,
    reason = "each is what the task's column of that name says"
)]
pub struct EntryView {
    pub id: String,
    pub name: String,
    pub state: State,
    pub place: i64,
    pub epoch: Epoch,
    pub worker: Option<String>,
    pub created_at: Millis,
    /// When it was let go: its turn.
    pub released_at: Option<Millis>,
    pub started_at: Option<Millis>,
    pub run_at: Option<Millis>,
    pub failures: u32,
    pub progress: Option<String>,
    pub reason: Option<String>,
}

/// What a blocked task waits for.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Wait {
    /// The task that waits.
    pub id: String,
    /// The task that it waits for.
    pub on_task: String,
    /// How that one has to end; `None`: it is ahead in the lane.
    pub wanted: Option<String>,
    /// Where that one stands.
    pub state: State,
    /// The lane in which it is ahead.
    pub lane: Option<String>,
    /// Since when the task waits there.
    pub since: Option<Millis>,
}

impl Wait {
    /// For people: `behind p3 (running) in lane apt:stable for 5m`.
    pub fn text(&self, now: Millis) -> String {
        let Self {
            on_task,
            wanted,
            state,
            lane,
            since,
            id: _,
        } = self;
        let state = state.as_str();
        let since = since.map_or(0, |since| u64::try_from((now - since) / 1000).unwrap_or(0));
        let since = humantime::format_duration(Duration::from_secs(since));
        match (lane, wanted.as_deref()) {
            (Some(lane), _) if state == "dead" => {
                format!("lane {lane} is halted: {on_task} failed; waits for {since}")
            }
            (Some(lane), _) => format!("behind {on_task} ({state}) in lane {lane} for {since}"),
            (None, Some("failed")) => format!("after {on_task} ({state}) if that fails"),
            (None, Some("done")) => format!("after {on_task} ({state})"),
            (None, _) => format!("after {on_task} ({state}) if that succeeds"),
        }
    }
}

/// Tasks that have ended and of which something depends.
#[derive(Debug, Default)]
pub(super) struct Ended {
    ids: Vec<String>,
    /// Whether one of them did otherwise than it should, as far as the caller knows.
    failed: bool,
}

impl Ended {
    /// Of the tasks that a statement has written, those that have ended and of which something depends.
    pub(super) fn among(rows: &[Row]) -> Self {
        #[derive(Deserialize)]
        struct Link {
            id: String,
            #[serde(default)]
            links: i64,
            state: State,
        }
        let mut found = Self::default();
        for row in rows {
            let link = serde_json::from_value::<Link>(Value::Object(row.clone()));
            let Ok(Link {
                id,
                links: 1,
                state,
            }) = link
            else {
                continue;
            };
            match state {
                State::Done => found.ids.push(id),
                State::Dead | State::Canceled | State::Expired => {
                    found.ids.push(id);
                    found.failed = true;
                }
                State::Queued
                | State::Waiting
                | State::Parked
                | State::Blocked
                | State::Running => {}
            }
        }
        found
    }

    /// These, of which nothing else is known.
    fn these(ids: Vec<String>) -> Self {
        Self { ids, failed: true }
    }
}

/// Whether a task is more than a plain one.
fn is_linked(task: &Task) -> bool {
    task.lane.is_some() || !task.after.is_empty()
}

/// The lanes of tasks, in order, each with the limit that they say and how many they are.
fn lanes_of(tasks: &[Task]) -> Result<BTreeMap<&str, (Option<u32>, i64)>, StoreError> {
    let mut lanes: BTreeMap<&str, (Option<u32>, i64)> = BTreeMap::new();
    for task in tasks {
        let Some(lane) = &task.lane else { continue };
        let wrong = |what: String| StoreError::Graph {
            reason: format!("task {}: {what}", task.id),
        };
        if lane.key.is_empty() || lane.key.len() > LONGEST_KEY {
            return Err(wrong(format!("a lane's key has 1 to {LONGEST_KEY} bytes")));
        }
        if lane.limit == Some(0) {
            return Err(wrong(format!(
                "lane {} lets nobody run: its limit is at least 1",
                lane.key
            )));
        }
        let (limit, number) = lanes.entry(&lane.key).or_default();
        *limit = lane.limit.or(*limit);
        *number += 1;
    }
    Ok(lanes)
}

/// The rows of tasks, with their places counted from the ends of their lanes.
fn rows_of(
    tasks: &[Task],
    lanes: &BTreeMap<&str, (Option<u32>, i64)>,
) -> Result<Vec<Value>, StoreError> {
    let waited: HashSet<&TaskId> = tasks
        .iter()
        .flat_map(|task| task.after.iter().map(|after| &after.task))
        .collect();
    let mut left: BTreeMap<&str, i64> = lanes
        .iter()
        .map(|(key, (_, number))| (*key, *number))
        .collect();
    let mut rows = Vec::with_capacity(tasks.len());
    for task in tasks {
        let mut row = with(
            task_row(task)?,
            json!({ "waits": i64::from(is_linked(task)) }),
        );
        if is_linked(task) || waited.contains(&task.id) {
            row = with(row, json!({ "links": 1 }));
        }
        if let Some(lane) = &task.lane {
            let back = left.entry(&lane.key).or_default();
            let fields =
                json!({ "lane": lane.key, "back": *back, "on_failure": lane.on_failure.as_str() });
            *back -= 1;
            row = with(row, fields);
        }
        rows.push(row);
    }
    Ok(rows)
}

/// The statements that add tasks of which some stand in lanes or wait for others, and let go those of them that may run.
/// `None`: they are all plain.
pub(super) fn enqueue_ops(tasks: &[Task]) -> Result<Option<Vec<Op>>, StoreError> {
    if !tasks.iter().any(is_linked) {
        return Ok(None);
    }
    let order = tasks
        .iter()
        .map(|task| (&task.id, task.lane.as_ref(), task.after.as_slice()));
    lane::check(order).map_err(|circle| StoreError::Graph {
        reason: circle.to_string(),
    })?;
    let lanes = lanes_of(tasks)?;
    let rows = rows_of(tasks, &lanes)?;
    let after = tasks
        .iter()
        .flat_map(|task| task.after.iter().map(move |after| (task, after)));
    // Even what is enqueued here may have been there before, and have ended.
    let waited: BTreeSet<&TaskId> = after.clone().map(|(_, after)| &after.task).collect();
    let waited = waited.iter().map(|id| json!({ "id": id }));
    let waited = waited.collect::<Vec<_>>();
    let after = after.map(|(task, after)| {
        json!({ "id": task.id, "after": after.task, "wanted": after.when.as_str() })
    });
    // Lanes first, then tasks, each in one order: whoever passes on locks them so too, and nobody waits in a circle.
    let places = lanes
        .iter()
        .map(|(key, (limit, number))| json!({ "lane": key, "slots": limit, "number": number }));
    let mut ops = vec![
        Op::new(sql!("lanes/places"), &places.collect::<Vec<_>>())?,
        enqueue_op(&rows)?,
        Op::new(sql!("lanes/link"), &waited)?,
        Op::new(sql!("lanes/known"), &waited)?.guarded(),
        Op::new(sql!("lanes/after_add"), &after.collect::<Vec<_>>())?,
        ring_op(tasks.iter().map(|task| task.id.as_str()))?,
        // Some of what they wait for may have ended.
        doom_op(&waited)?,
    ];
    let mine = lanes.keys().map(|key| json!({ "lane": key }));
    ops.extend(let_go(&mine.collect::<Vec<_>>(), &waited)?);
    Ok(Some(ops))
}

/// Lets go what may run in lanes that move, given by `rows`, and what waits in no lane for the tasks `ended`.
fn let_go(rows: &[Value], ended: &[Value]) -> Result<[Op; 5], StoreError> {
    Ok([
        lock_op(rows)?,
        Op::new(sql!("lanes/lock_waiting"), rows)?,
        Op::new(sql!("lanes/admit"), rows)?,
        Op::new(sql!("lanes/release"), ended)?,
        Op::new(sql!("lanes/ring"), &[] as &[Value])?,
    ])
}

fn lock_op(rows: &[Value]) -> Result<Op, StoreError> {
    Op::new(sql!("lanes/lock"), rows)
}

fn doom_op(ended: &[Value]) -> Result<Op, StoreError> {
    Op::new(DOOM, ended)
}

/// Tasks that are canceled by hand do not come back with what they waited for.
pub(super) fn waive_op(ids: &[impl AsRef<str>]) -> Result<Op, StoreError> {
    let rows = ids.iter().map(|id| json!({ "id": id.as_ref() }));
    Op::new(sql!("lanes/waive"), &rows.collect::<Vec<_>>())
}

/// What follows from tasks that run again by hand, and announces them.
pub(super) fn again_ops(rows: &[Value]) -> Result<Vec<Op>, StoreError> {
    let none: &[Value] = &[];
    let mut ops = vec![
        Op::new(sql!("lanes/recall"), rows)?,
        Op::new(sql!("lanes/block_again"), rows)?,
        Op::new(sql!("lanes/places_again"), none)?,
        Op::new(sql!("lanes/place_again"), none)?,
        ring_new_op()?,
        Op::new(RELINK, none)?,
    ];
    // Their own lanes may be halted no more, and others may have a new first.
    let lanes = [rows, &[json!({ "again": 1 })]].concat();
    ops.extend(let_go(&lanes, &[])?);
    Ok(ops)
}

/// What comes before tasks run again by hand.
pub(super) fn before_again_ops(rows: &[Value]) -> Result<[Op; 2], StoreError> {
    Ok([lock_op(rows)?, Op::new(sql!("lanes/stand_again"), rows)?])
}

/// Of a command, the tasks that this statement has written.
pub(super) fn written(ops: &[Op], answers: &[Vec<Row>], name: &str) -> Vec<String> {
    let answers = ops.iter().zip(answers);
    let mine = answers.filter(|(op, _)| op.sql.name == name);
    mine.flat_map(|(_, rows)| ids(rows)).collect()
}

impl Store {
    /// Passes on what nobody has, up to 500 tasks' ends. Returns whether there were any, and what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn pass_on_left(&self) -> Result<(bool, Vec<Ring>), StoreError> {
        #[derive(Deserialize)]
        struct Id {
            id: String,
        }
        let rows: Vec<Id> = self.read(sql!("lanes/ending"), &[] as &[Value]).await?;
        let ids: Vec<String> = rows.into_iter().map(|row| row.id).collect();
        Ok((!ids.is_empty(), self.pass_on(Ended::these(ids)).await?))
    }

    /// Passes on the ends of tasks: their lanes move, what waited for them runs or never will. Returns what is to be published.
    async fn pass_on(&self, ended: Ended) -> Result<Vec<Ring>, StoreError> {
        let mut all = Vec::new();
        let mut next = ended;
        for _ in 0..ROUNDS {
            if next.ids.is_empty() {
                break;
            }
            // Always in the same order: who passes on the same ends waits for the other, never in a circle.
            next.ids.sort_unstable();
            let rows = next.ids.iter().map(|id| json!({ "id": id }));
            let rows = rows.collect::<Vec<_>>();
            let mut more = HashSet::new();
            if next.failed {
                let ops = vec![
                    Op::new(sql!("lanes/hold"), &rows)?,
                    Op::new(CANCEL_REST, &rows)?,
                    Op::new(sql!("lanes/waive_rest"), &rows)?,
                    doom_op(&rows)?,
                ];
                let answers = self.command("doom", ops.clone()).await?;
                more.extend(written(&ops, &answers, CANCEL_REST.name));
                more.extend(written(&ops, &answers, DOOM.name));
            }
            let gates = gates::of(&next.ids);
            let mark = gates::mark_op(&gates)?;
            let [lock, lock_waiting, admit, release, ring] = let_go(&rows, &rows)?;
            let leave = Op::new(sql!("lanes/leave"), &rows)?;
            let forget = Op::new(sql!("lanes/forget"), &rows)?;
            let passed = Op::new(sql!("lanes/passed"), &rows)?;
            let left = Op::new(sql!("lanes/left"), &rows)?;
            // Gates before lanes, lanes before tasks: nobody waits in a circle.
            let mut ops = Vec::from_iter(mark);
            ops.extend([
                lock,
                lock_waiting,
                leave,
                admit,
                release,
                forget,
                passed,
                ring,
                left,
            ]);
            let (mut answers, rings) = self.announcing("pass_on", ops).await?;
            more.extend(ids(&answers.pop().unwrap_or_default()));
            all.extend(rings);
            for gate in gates {
                all.extend(self.gate_step(gate).await?);
            }
            next = Ended::these(more.into_iter().collect());
        }
        Ok(all)
    }

    /// A command, and what is to be published after it.
    pub(super) async fn announcing(
        &self,
        name: &'static str,
        ops: Vec<Op>,
    ) -> Result<(Vec<Vec<Row>>, Vec<Ring>), StoreError> {
        let announces = ops.iter().map(Op::announces).collect::<Vec<_>>();
        let answers = self.command(name, ops).await?;
        let rings = announced(&answers, announces)?;
        Ok((answers, rings))
    }

    /// Passes on for a verb that has done what it should: what cannot be passed on now, the leader will.
    pub(super) async fn pass_on_after(&self, ended: Ended, rings: &mut Vec<Ring>) {
        match self.pass_on(ended).await {
            Ok(more) => rings.extend(more),
            Err(error) => {
                tracing::warn!(%error, "the end of a task could not be passed on; the maintenance leader will");
            }
        }
    }

    /// The same for tasks that a verb has canceled, or made to be looked at again.
    pub(super) async fn pass_on_these(&self, ids: Vec<String>, rings: &mut Vec<Ring>) {
        self.pass_on_after(Ended::these(ids), rings).await;
    }

    /// Lets the lane `key` go on without the task that failed and halts it. Returns that task's id, if there is one, and what is to
    /// be published.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn skip(&self, key: &str) -> Result<(Vec<String>, Vec<Ring>), StoreError> {
        let rows = [json!({ "lane": key })];
        let mut ops = vec![lock_op(&rows)?, Op::new(sql!("lanes/skip"), &rows)?];
        ops.extend(let_go(&rows, &[])?);
        let (answers, rings) = self.announcing("skip", ops).await?;
        let skipped = ids(answers.get(1).map_or(&[], Vec::as_slice));
        Ok((skipped, rings))
    }

    /// How many of the lane `key` may run at once, from now on. Returns whether there is such a lane, and what is to be published.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn set_limit(&self, key: &str, limit: u32) -> Result<(bool, Vec<Ring>), StoreError> {
        let row = json!({ "lane": key, "slots": limit.max(1) });
        let mut ops = vec![Op::one(sql!("lanes/limit"), &row)?];
        ops.extend(let_go(&[json!({ "lane": key })], &[])?);
        let (answers, rings) = self.announcing("lane_limit", ops).await?;
        Ok((answers.first().is_some_and(|rows| !rows.is_empty()), rings))
    }

    /// The lanes in which something is, or the one called `key`, up to `most`.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn lanes(&self, key: Option<&str>, most: i64) -> Result<Vec<LaneView>, StoreError> {
        self.read(sql!("lanes/lanes"), &[json!({ "lane": key, "most": most })])
            .await
    }

    /// What forgets lanes of which nothing is left to know, up to 500. They are locked before they are looked at once more: whoever
    /// comes meanwhile has come before, or finds a new one.
    pub(super) async fn idle_lanes(&self, age: Duration) -> Result<Vec<Op>, StoreError> {
        let age = i64::try_from(age.as_millis()).unwrap_or(i64::MAX);
        let before = self.0.clock.now().saturating_sub(age);
        let idle = self
            .ids(sql!("lanes/idle"), &json!({ "before": before }))
            .await?;
        if idle.is_empty() {
            return Ok(Vec::new());
        }
        let rows = idle
            .iter()
            .map(|key| json!({ "lane": key, "before": before }));
        let rows = rows.collect::<Vec<_>>();
        Ok(vec![lock_op(&rows)?, Op::new(sql!("lanes/sweep"), &rows)?])
    }

    /// How many lanes a failed task halts.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn halted_lanes(&self) -> Result<u32, StoreError> {
        #[derive(Deserialize)]
        struct Halted {
            number: u32,
        }
        let rows: Vec<Halted> = self.read(sql!("lanes/halted"), &[] as &[Value]).await?;
        Ok(rows.first().map_or(0, |row| row.number))
    }

    /// What is in the lane `key`, in order, up to `most`.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn lane(&self, key: &str, most: i64) -> Result<Vec<EntryView>, StoreError> {
        self.read(sql!("lanes/lane"), &[json!({ "lane": key, "most": most })])
            .await
    }

    /// What those of these tasks that are blocked wait for.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn waits(&self, ids: &[&str]) -> Result<Vec<Wait>, StoreError> {
        let rows = ids.iter().map(|id| json!({ "id": id }));
        self.read(sql!("lanes/waits"), &rows.collect::<Vec<_>>())
            .await
    }

    /// Of these tasks, those that the store does not know.
    pub(super) async fn unknown(&self, tasks: &[Task]) -> Result<Vec<String>, StoreError> {
        let here: HashSet<&TaskId> = tasks.iter().map(|task| &task.id).collect();
        let after = tasks.iter().flat_map(|task| &task.after);
        let wanted: HashSet<&TaskId> = after
            .map(|after| &after.task)
            .filter(|id| !here.contains(id))
            .collect();
        if wanted.is_empty() {
            return Ok(Vec::new());
        }
        let rows = wanted.iter().map(|id| json!({ "id": id }));
        let known = self.standing(&rows.collect::<Vec<_>>()).await?;
        let known: HashSet<TaskId> = known.into_keys().map(TaskId::new).collect();
        let mut unknown = wanted.into_iter().filter(|id| !known.contains(id));
        let mut unknown: Vec<String> = unknown.by_ref().map(ToString::to_string).collect();
        unknown.sort();
        Ok(unknown)
    }
}
