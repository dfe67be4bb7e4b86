//! The outbox: messages to publish, committed together with the state that caused them.

use std::time::Duration;

use serde::Deserialize;
use serde_json::{Value, json};

use super::command::{Op, Row, typed};
use super::sql::sql;
use super::tasks::{State, parsed};
use super::{Store, StoreError};
use crate::task::Task;

/// A message to publish, committed with the state that caused it. Delete it by its number once confirmed.
#[derive(Debug, Clone)]
pub struct Ring {
    /// Its row in the outbox.
    pub seq: i64,
    /// The task, with the queue that it goes to.
    pub task: Task,
    /// No message but a word for the maintenance leader: this task of Celery's has ended so, and no attempt could say it.
    pub ended: Option<State>,
}

impl Store {
    /// Marks messages as published.
    ///
    /// # Errors
    ///
    /// As any verb; they will be published again then, which is harmless.
    pub async fn outbox_done(&self, seqs: &[i64]) -> Result<(), StoreError> {
        let rows = seqs
            .iter()
            .map(|seq| json!({ "seq": seq }))
            .collect::<Vec<_>>();
        self.single("outbox_done", Op::new(sql!("outbox_done"), &rows)?)
            .await
            .map(drop)
    }

    /// Gives messages back that could not be published, for whoever relays after `delay` milliseconds.
    ///
    /// # Errors
    ///
    /// As any verb; they are free again by themselves after some seconds.
    pub async fn outbox_release(&self, seqs: &[i64], delay: i64) -> Result<(), StoreError> {
        let rows = seqs
            .iter()
            .map(|seq| json!({ "seq": seq, "delay": delay }))
            .collect::<Vec<_>>();
        self.single("outbox_release", Op::new(sql!("outbox_release"), &rows)?)
            .await
            .map(drop)
    }

    /// Says what follows from the end of a task of Celery's, `ops`, in the place of the row `seq` that spoke of it: all of it
    /// once, whoever else tries. Returns what is to be published.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if somebody else did; else as any verb.
    pub async fn outbox_told(&self, seq: i64, ops: Vec<Op>) -> Result<Vec<Ring>, StoreError> {
        let mut all = vec![Op::one(sql!("outbox_told"), &json!({ "seq": seq }))?.guarded()];
        all.extend(ops);
        Ok(self.announcing("outbox_done", all).await?.1)
    }

    /// Takes up to 500 messages that nobody has published in time.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn outbox_take(&self) -> Result<Vec<Ring>, StoreError> {
        rings(
            self.single(
                "outbox_take",
                Op::new(sql!("outbox_take"), &[] as &[Value])?,
            )
            .await?,
        )
    }

    /// For how long the oldest message of the outbox is overdue.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn outbox_lag(&self) -> Result<Duration, StoreError> {
        #[derive(Deserialize)]
        struct Lag {
            lag: i64,
        }
        let rows: Vec<Lag> = self.read(sql!("outbox_lag"), &[] as &[Value]).await?;
        let lag = rows.first().map_or(0, |row| row.lag);
        Ok(Duration::from_millis(
            u64::try_from(lag).unwrap_or_default(),
        ))
    }
}

/// The rows of the `ring` statement as messages.
pub(super) fn rings(rows: Vec<Row>) -> Result<Vec<Ring>, StoreError> {
    #[derive(Deserialize)]
    struct RingRow {
        seq: i64,
        queue: String,
        task: String,
    }
    typed::<RingRow>(rows)?
        .into_iter()
        .map(|RingRow { seq, queue, task }| {
            #[derive(Deserialize)]
            struct Word {
                ended: State,
            }
            // As `ring_ended` writes it, in front of the task's own fields.
            let ended = task.starts_with("{\"ended\":");
            let ended = ended.then(|| serde_json::from_str::<Word>(&task));
            let ended = ended.and_then(Result::ok).map(|word| word.ended);
            let task = parsed(&task)?;
            Ok(Ring {
                seq,
                task: Task {
                    // A word about a task goes nowhere.
                    queue: if ended.is_some() { task.queue } else { queue },
                    run_at: None,
                    ..task
                },
                ended,
            })
        })
        .collect()
}

/// The messages among the answers of a command.
pub(super) fn announced(
    answers: &[Vec<Row>],
    announces: Vec<bool>,
) -> Result<Vec<Ring>, StoreError> {
    let announced = answers.iter().zip(announces);
    rings(
        announced
            .filter_map(|(rows, announces)| announces.then_some(rows))
            .flatten()
            .cloned()
            .collect(),
    )
}

/// Lets the maintenance leader know of those of these tasks that the command has ended, if they are Celery's.
pub(super) fn ring_ended_op<'a>(ids: impl Iterator<Item = &'a str>) -> Result<Op, StoreError> {
    Op::new(
        sql!("ring_ended"),
        &ids.map(|id| json!({ "id": id })).collect::<Vec<_>>(),
    )
}

pub(super) fn ring_op<'a>(ids: impl Iterator<Item = &'a str>) -> Result<Op, StoreError> {
    Op::new(
        sql!("ring"),
        &ids.map(|id| json!({ "id": id })).collect::<Vec<_>>(),
    )
}

/// Announces what the statement before it has made runnable.
pub(super) fn ring_new_op() -> Result<Op, StoreError> {
    Op::one(sql!("ring_new"), &json!({}))
}
