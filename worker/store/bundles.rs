//! Bundles in the store: their content, what is wanted, who has what, and what was done.
//!
//! What is wanted changes from the version that was read, or is read again: nobody decides on what somebody else has changed
//! meanwhile. A revision is there as a whole or not at all, and its content never changes.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::json;

use super::command::Op;
use super::sql::sql;
use super::{Db, Store, StoreError};
use crate::bundle::{
    Follower, Manifest, Refusal, Report, Revision, Snapshot, SourceError, State, Verb,
};
use crate::clock::Millis;
use crate::id::WorkerId;

/// How often a change is decided on again because somebody else was faster.
const ROUNDS: usize = 32;
/// The files of so many revisions of a bundle are kept, and those that may be wanted; the log names all that there ever were.
const KEPT: usize = 50;
/// Whose name stands in the log for what follows by itself.
const NOBODY: &str = "longshore";

/// What was done to a bundle.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Noted {
    /// Its number: later ones are higher.
    pub id: i64,
    /// When.
    pub at: Millis,
    /// `published`, `live`, `refused`, …
    pub what: String,
    /// The revision that it is about.
    pub revision: Option<Revision>,
    /// A person, or a worker.
    pub who: String,
    /// More for people.
    pub detail: String,
}

/// Something to be noted.
#[derive(Debug, Clone)]
pub struct Note<'a> {
    /// `published`, `live`, `refused`, …
    pub what: &'a str,
    /// The revision that it is about.
    pub revision: Option<&'a Revision>,
    /// A person, or a worker.
    pub who: &'a str,
    /// More for people.
    pub detail: &'a str,
}

impl Note<'_> {
    fn op(&self, bundle: &str) -> Result<Op, StoreError> {
        let row = json!({
            "bundle": bundle, "what": self.what, "revision": self.revision, "who": self.who, "detail": self.detail,
        });
        Op::one(sql!("bundles/note"), &row)
    }
}

/// Why a bundle was not changed.
#[derive(Debug, thiserror::Error)]
pub enum BundleError {
    /// The verb cannot be done.
    #[error(transparent)]
    Refused(#[from] Refusal),
    /// The store says no.
    #[error(transparent)]
    Store(#[from] StoreError),
}

fn unfit(command: &'static str) -> impl Fn(serde_json::Error) -> StoreError {
    move |error| StoreError::Value {
        command,
        reason: error.to_string(),
    }
}

impl Store {
    /// What is wanted of a bundle, and the version of that; 0 if nobody has said anything yet.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn bundle_state(&self, bundle: &str) -> Result<(i64, State), StoreError> {
        #[derive(Deserialize)]
        struct Row {
            version: i64,
            state: String,
        }
        let rows: Vec<Row> = self
            .read(sql!("bundles/state"), &[json!({ "bundle": bundle })])
            .await?;
        let Some(row) = rows.into_iter().next() else {
            return Ok((0, State::default()));
        };
        let state = serde_json::from_str(&row.state).map_err(unfit("bundles/state"))?;
        Ok((row.version, state))
    }

    /// Does a verb, and notes it if something is different after it. Returns what is so then, and whether it is different.
    ///
    /// # Errors
    ///
    /// [`BundleError::Refused`] if it cannot be done; else as any verb.
    pub async fn bundle_verb(
        &self,
        bundle: &str,
        verb: &Verb,
        note: &Note<'_>,
    ) -> Result<(State, bool), BundleError> {
        self.bundle_change(bundle, verb, Some(note), Vec::new())
            .await
    }

    /// It is live on some worker: others that cannot take what is newer may begin with it.
    ///
    /// # Errors
    ///
    /// As [`Store::bundle_verb`].
    pub async fn bundle_good(&self, bundle: &str, revision: &Revision) -> Result<(), BundleError> {
        let verb = Verb::Good(revision.clone());
        self.bundle_change(bundle, &verb, None, Vec::new())
            .await
            .map(drop)
    }

    /// Adds a revision with its sources, and has it wanted: all of it or nothing.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn bundle_publish(
        &self,
        bundle: &str,
        manifest: &Manifest,
        sources: &[(String, Vec<u8>)],
        verb: &Verb,
        note: &Note<'_>,
    ) -> Result<(State, bool), BundleError> {
        let mut ops = Vec::new();
        // In the same order as anybody else.
        let sources: BTreeMap<_, _> = sources.iter().cloned().collect();
        for (source, packed) in sources {
            let row = json!({ "source": source });
            ops.push(Op::one(sql!("bundles/add_source"), &row)?.with_bytes(packed.into()));
        }
        let text = serde_json::to_string(manifest).map_err(unfit("bundles/add"))?;
        let row = json!({ "bundle": bundle, "revision": manifest.revision(), "manifest": text });
        ops.push(Op::one(sql!("bundles/add"), &row)?);
        ops.push(Op::one(sql!("bundles/sweep"), &json!({ "most": KEPT }))?);
        self.bundle_change(bundle, verb, Some(note), ops).await
    }

    async fn bundle_change(
        &self,
        bundle: &str,
        verb: &Verb,
        note: Option<&Note<'_>>,
        with: Vec<Op>,
    ) -> Result<(State, bool), BundleError> {
        for _ in 0..ROUNDS {
            let (version, mut state) = self.bundle_state(bundle).await?;
            if !state.apply(verb, version + 1, self.clock().now())? {
                return Ok((state, false));
            }
            let text = serde_json::to_string(&state).map_err(unfit("bundles/change"))?;
            let row = json!({ "bundle": bundle, "version": version, "state": text });
            let mut ops = with.clone();
            ops.push(Op::one(sql!("bundles/change"), &row)?.guarded());
            ops.extend(note.map(|note| note.op(bundle)).transpose()?);
            match self.command("bundle_change", ops).await {
                Ok(_) => return Ok((state, true)),
                Err(StoreError::Stale { .. }) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Err(StoreError::Refused {
            reason: format!("bundle {bundle:?} is changed by too many at once"),
        }
        .into())
    }

    /// What a revision is made of.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn bundle_manifest(
        &self,
        bundle: &str,
        revision: &Revision,
    ) -> Result<Option<Manifest>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            manifest: String,
        }
        let row = json!({ "bundle": bundle, "revision": revision });
        let rows: Vec<Row> = self.read(sql!("bundles/manifest"), &[row]).await?;
        let text = rows.into_iter().next().map(|row| row.manifest);
        text.map(|text| serde_json::from_str(&text).map_err(unfit("bundles/manifest")))
            .transpose()
    }

    /// The files of a source; `None` if the store has no such revision of one.
    ///
    /// # Errors
    ///
    /// As any verb; the inner one if what is there cannot be read.
    pub async fn bundle_source(
        &self,
        source: &str,
    ) -> Result<Option<Result<Snapshot, SourceError>>, StoreError> {
        let op = Op::one(sql!("bundles/source"), &json!({ "source": source }))?;
        let rows = match &self.0.db {
            Db::Postgres(db) => db.read_bytes(op.sql, &op.rows).await,
            Db::Sqlite(db) => db.read_bytes(op.sql, &op.rows).await,
        }?;
        Ok(rows.first().map(|(_, packed)| Snapshot::unpack(packed)))
    }

    /// A worker says what it has; one that `succeeds` those before it on its machine takes them off the list, if they have ended.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn bundle_report(
        &self,
        bundle: &str,
        follower: &Follower,
        succeeds: bool,
        note: Option<&Note<'_>>,
    ) -> Result<(), StoreError> {
        let text = serde_json::to_string(&follower.report).map_err(unfit("bundles/report"))?;
        let row = json!({
            "bundle": bundle, "worker": follower.worker, "pool": follower.pool, "kind": follower.kind,
            "host": follower.host, "report": text,
        });
        let mut ops = vec![Op::one(sql!("bundles/report"), &row)?];
        if succeeds {
            ops.push(Op::one(sql!("bundles/succeed"), &row)?);
        }
        if let Some(note) = note {
            ops.push(note.op(bundle)?);
        }
        self.command("bundle_report", ops).await.map(drop)
    }

    /// A worker no longer follows a bundle. `false`: nobody knew of it.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn bundle_leave(&self, bundle: &str, worker: &WorkerId) -> Result<bool, StoreError> {
        let row = json!({ "bundle": bundle, "worker": worker });
        let gone = self
            .single("bundle_leave", Op::one(sql!("bundles/leave"), &row)?)
            .await?;
        Ok(!gone.is_empty())
    }

    /// Who follows a bundle, and what they said last.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn bundle_reports(&self, bundle: &str) -> Result<Vec<Follower>, StoreError> {
        #[derive(Deserialize)]
        struct Row {
            worker: WorkerId,
            pool: String,
            kind: String,
            host: String,
            reported_at: Millis,
            report: String,
            lost: i64,
        }
        let rows: Vec<Row> = self
            .read(sql!("bundles/reports"), &[json!({ "bundle": bundle })])
            .await?;
        rows.into_iter()
            .map(|row| {
                let report: Report =
                    serde_json::from_str(&row.report).map_err(unfit("bundles/reports"))?;
                Ok(Follower {
                    worker: row.worker,
                    pool: row.pool,
                    kind: row.kind,
                    host: row.host,
                    lost: row.lost == 1,
                    at: row.reported_at,
                    report,
                })
            })
            .collect()
    }

    /// What was done to a bundle before entry `before`, newest first.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn bundle_log(
        &self,
        bundle: &str,
        before: i64,
        most: i64,
    ) -> Result<Vec<Noted>, StoreError> {
        let row = json!({ "bundle": bundle, "before": before, "most": most });
        self.read(sql!("bundles/log"), &[row]).await
    }

    /// Does what follows by itself, under nobody's name.
    ///
    /// # Errors
    ///
    /// As [`Store::bundle_verb`].
    pub async fn bundle_follows(
        &self,
        bundle: &str,
        verb: &Verb,
        what: &str,
        revision: Option<&Revision>,
        detail: &str,
    ) -> Result<bool, BundleError> {
        let note = Note {
            what,
            revision,
            who: NOBODY,
            detail,
        };
        Ok(self.bundle_verb(bundle, verb, &note).await?.1)
    }
}
