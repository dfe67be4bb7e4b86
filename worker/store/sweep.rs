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
/// Test jobs of SQUAD that are emptied together.
const SHOWN: usize = 200;

impl Store {
    /// Drops a bounded piece of what a run has staged. Returns how many rows; 0: nothing is left.
    ///
    /// # Errors
    ///
    /// [`StoreError::Stale`] if the lease is lost; else as any verb.
    pub async fn clear(&self, id: &TaskId, epoch: Epoch, run: i64) -> Result<usize, StoreError> {
        let answers = self
            .checkpoint(id, epoch, None, None, reset(&[run])?)
            .await?;
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

    /// Removes a bounded piece of what was staged for test jobs that SQUAD shows: its readers have it in SQUAD's own tables.
    /// Returns whether something may be left.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn sweep_shown(&self) -> Result<bool, StoreError> {
        #[derive(Deserialize)]
        struct Shown {
            testjob: i64,
            generation: i64,
            run: Option<i64>,
        }
        let found: Vec<Shown> = self
            .read(sql!("squad/shown"), &[json!({ "most": SHOWN })])
            .await?;
        let runs = found.iter().filter_map(|shown| shown.run);
        let runs = runs.collect::<Vec<_>>();
        if !runs.is_empty() && self.clear_all(&runs).await? > 0 {
            return Ok(true);
        }
        let mut swept = found
            .iter()
            .map(|shown| (shown.testjob, shown.generation))
            .collect::<Vec<_>>();
        swept.sort_unstable();
        swept.dedup();
        if !swept.is_empty() {
            let rows = swept
                .iter()
                .map(
                    |(testjob, generation)| json!({ "testjob": testjob, "generation": generation }),
                )
                .collect::<Vec<_>>();
            self.single("squad_swept", Op::new(sql!("squad/swept"), &rows)?)
                .await?;
        }
        Ok(!swept.is_empty())
    }

    /// A bounded piece of a run that no task writes any more.
    async fn clear_unowned(&self, run: i64) -> Result<usize, StoreError> {
        self.clear_all(&[run]).await
    }

    /// The same of several.
    async fn clear_all(&self, runs: &[i64]) -> Result<usize, StoreError> {
        let answers = self.command("clear", reset(runs)?).await?;
        Ok(answers.iter().map(Vec::len).sum())
    }
}

fn reset(runs: &[i64]) -> Result<Vec<Op>, StoreError> {
    let rows = runs
        .iter()
        .map(|run| json!({ "run": run, "most": PIECE }))
        .collect::<Vec<_>>();
    [
        sql!("reset_tests"),
        sql!("reset_metrics"),
        sql!("reset_facts"),
        sql!("reset_files"),
        sql!("reset_data"),
    ]
    .into_iter()
    .map(|sql| Op::new(sql, &rows))
    .collect()
}
