//! What nobody will see: emptied piece by piece, so that no transaction is long.

use std::time::Duration;

use serde::Deserialize;
use serde_json::json;

use super::command::Op;
use super::sql::sql;
use super::{Store, StoreError};
use crate::id::{Epoch, TaskId};

/// Rows of one table that one transaction removes: some tens of milliseconds' worth.
const PIECE: usize = 20_000;

impl Store {
    /// Drops a bounded piece of what a run has staged. Returns how many rows; 0: nothing is left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost; else as any verb.
    pub async fn clear(&self, id: &TaskId, epoch: Epoch, run: i64) -> Result<usize, StoreError> {
        let answers = self.checkpoint(id, epoch, None, None, reset(run)?).await?;
        Ok(answers.iter().map(Vec::len).sum())
    }

    /// Removes runs that a later generation has replaced, ten at most. Returns how many.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn sweep_runs(&self) -> Result<usize, StoreError> {
        #[derive(Deserialize)]
        struct Run {
            id: i64,
        }
        let found: Vec<Run> = self
            .read(sql!("superseded"), &[json!({ "most": 10 })])
            .await?;
        for Run { id } in &found {
            while self.clear_unowned(*id).await? > 0 {}
            self.single(
                "sweep_runs",
                Op::one(sql!("forget_run"), &json!({ "run": id }))?,
            )
            .await?;
        }
        Ok(found.len())
    }

    /// Removes what was staged by tasks that were given up more than `after` ago, ten runs at most. Returns how many.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn sweep_abandoned(&self, after: Duration) -> Result<usize, StoreError> {
        #[derive(Deserialize)]
        struct Run {
            id: i64,
            task_id: String,
        }
        let before = self.0.clock.now() - i64::try_from(after.as_millis()).unwrap_or(i64::MAX);
        let found: Vec<Run> = self
            .read(
                sql!("abandoned"),
                &[json!({ "before": before, "most": 10 })],
            )
            .await?;
        for Run { id, task_id } in &found {
            let ops = vec![
                Op::one(sql!("forget_checkpoint"), &json!({ "id": task_id }))?.guarded(),
                Op::one(sql!("run_unclean"), &json!({ "run": id }))?,
            ];
            match self.command("sweep_abandoned", ops).await {
                Ok(_) => while self.clear_unowned(*id).await? > 0 {},
                // It was retried by hand meanwhile, and goes on from there.
                Err(StoreError::Stale { .. }) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(found.len())
    }

    /// A bounded piece of a run that no task writes any more.
    async fn clear_unowned(&self, run: i64) -> Result<usize, StoreError> {
        let answers = self.command("clear", reset(run)?).await?;
        Ok(answers.iter().map(Vec::len).sum())
    }
}

fn reset(run: i64) -> Result<Vec<Op>, StoreError> {
    let row = json!({ "run": run, "most": PIECE });
    [
        sql!("reset_tests"),
        sql!("reset_metrics"),
        sql!("reset_facts"),
        sql!("reset_files"),
        sql!("reset_data"),
    ]
    .into_iter()
    .map(|sql| Op::one(sql, &row))
    .collect()
}
