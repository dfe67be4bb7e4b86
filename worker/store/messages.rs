//! The rows behind the embedded broker: messages in the same SQLite file, one consumer per worker.

use serde::Deserialize;
use serde_json::json;

use super::command::{Op, typed};
use super::sql::sql;
use super::{Store, StoreError};
use crate::id::WorkerId;

/// A message that this consumer holds now.
#[derive(Debug, Clone, Deserialize)]
pub struct Taken {
    /// Its place, and its delivery tag.
    pub seq: i64,
    /// Where it was.
    pub queue: String,
    /// What it says, as the embedded broker wrote it.
    pub content: String,
    /// 1: somebody held it before and gave it back or died.
    pub redelivered: i64,
}

impl Store {
    /// Adds messages: queue, priority, content.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn put_messages(&self, messages: &[(String, u8, String)]) -> Result<(), StoreError> {
        let rows = messages
            .iter()
            .map(|(queue, priority, content)| json!({ "queue": queue, "priority": priority, "content": content }))
            .collect::<Vec<_>>();
        self.single("put_messages", Op::new(sql!("put_messages"), &rows)?)
            .await
            .map(drop)
    }

    /// Takes up to `want` messages off `queues`, the largest priority first.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn take_messages(
        &self,
        consumer: &WorkerId,
        queues: &[String],
        want: usize,
    ) -> Result<Vec<Taken>, StoreError> {
        let rows = queues
            .iter()
            .map(|queue| json!({ "queue": queue, "consumer": consumer, "want": want }))
            .collect::<Vec<_>>();
        let found = self
            .single("take_messages", Op::new(sql!("take_messages"), &rows)?)
            .await?;
        let mut taken: Vec<Taken> = typed(found)?;
        taken.sort_by_key(|message| message.seq);
        Ok(taken)
    }

    /// Whether a message waits on one of `queues`: a read, so that an idle consumer writes nothing.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn has_messages(&self, queues: &[String]) -> Result<bool, StoreError> {
        let rows = queues
            .iter()
            .map(|queue| json!({ "queue": queue }))
            .collect::<Vec<_>>();
        let found: Vec<serde_json::Value> = self.read(sql!("has_messages"), &rows).await?;
        Ok(!found.is_empty())
    }

    /// Removes messages that this consumer holds: acknowledged.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn drop_messages(&self, consumer: &WorkerId, seqs: &[i64]) -> Result<(), StoreError> {
        let rows = held(consumer, seqs);
        self.single("drop_messages", Op::new(sql!("drop_messages"), &rows)?)
            .await
            .map(drop)
    }

    /// Gives messages back that this consumer holds.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn release_messages(
        &self,
        consumer: &WorkerId,
        seqs: &[i64],
    ) -> Result<(), StoreError> {
        let rows = held(consumer, seqs);
        self.single(
            "release_messages",
            Op::new(sql!("release_messages"), &rows)?,
        )
        .await
        .map(drop)
    }

    /// Gives back what dead consumers held, as a broker does when a connection ends. Returns how many messages.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn release_dead_consumers(&self, own: &WorkerId) -> Result<usize, StoreError> {
        #[derive(Deserialize)]
        struct Consumer {
            id: WorkerId,
        }
        let found: Vec<Consumer> = self
            .read(sql!("consumers"), &[] as &[serde_json::Value])
            .await?;
        let others = found
            .into_iter()
            .map(|row| row.id)
            .filter(|id| id != own)
            .collect::<Vec<_>>();
        if others.is_empty() {
            return Ok(0);
        }
        let dead = self.dead_among(&others).await?;
        if dead.is_empty() {
            return Ok(0);
        }
        let rows = dead
            .iter()
            .map(|id| json!({ "consumer": id }))
            .collect::<Vec<_>>();
        Ok(self
            .single(
                "release_consumers",
                Op::new(sql!("release_consumers"), &rows)?,
            )
            .await?
            .len())
    }

    /// How many messages wait on each queue.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn queue_depth(&self, queue: &str) -> Result<i64, StoreError> {
        #[derive(Deserialize)]
        struct Depth {
            number: i64,
        }
        let found: Vec<Depth> = self
            .read(sql!("queue_depth"), &[json!({ "queue": queue })])
            .await?;
        Ok(found.first().map_or(0, |row| row.number))
    }
}

fn held(consumer: &WorkerId, seqs: &[i64]) -> Vec<serde_json::Value> {
    seqs.iter()
        .map(|seq| json!({ "seq": seq, "consumer": consumer }))
        .collect()
}
