//! Sources that nobody bundles: mounts and directories, which say what is wanted by what is in them.
//!
//! Never takes what moves still, what is there in part, or what says that it belongs to something else.

use std::collections::{BTreeMap, BTreeSet};

use super::{Following, Stop};
use crate::bundle::{Manifest, Quiet, Revision, Snapshot};
use crate::clock::Millis;

impl Following {
    /// The same of mounts and directories, which say it by what is in them.
    pub(super) async fn wanted_of_sources(
        &mut self,
        is_frozen: bool,
        now: Millis,
    ) -> Result<Option<Revision>, Stop> {
        let kept = self.applied.clone().or_else(|| self.folder.current());
        if is_frozen && kept.is_some() {
            return Ok(kept);
        }
        let paths = self.bundle.sources.clone();
        let found = self.bounded(move || {
            paths
                .into_iter()
                .map(|(name, path)| Ok((name, Snapshot::read(&path)?)))
                .collect::<Result<BTreeMap<String, Snapshot>, crate::bundle::SourceError>>()
        });
        let found = found
            .await?
            .map_err(|error| Stop::Refused(error.to_string()))?;
        let sources = found
            .iter()
            .map(|(name, source)| (name.clone(), source.revision()));
        let manifest = Manifest {
            sources: sources.collect(),
            undoes: None,
        };
        let revision = manifest.revision();
        if self.applied.as_ref() == Some(&revision) {
            self.moving = None;
            return Ok(Some(revision));
        }
        let is_set = set(&found, &revision).map_err(Stop::Refused)?;
        let quiet = Quiet {
            min: self.bundle.quiet_min,
            max: self.bundle.quiet_max,
        };
        let changed = found.values().filter_map(|source| source.changed).max();
        let rested = changed
            .and_then(|changed| changed.elapsed().ok())
            .unwrap_or_default();
        if !is_set && !quiet.is_over(&mut self.moving, revision.as_str(), now, rested) {
            return Ok(self.applied.clone());
        }
        let folder = self.folder.clone();
        let put = self.bounded(move || folder.put(&manifest, &found)).await?;
        put.map_err(|error| Stop::Refused(format!("cannot be kept: {error}")))?;
        Ok(Some(revision))
    }
}

/// Whether all sources say that they belong to one set, so that nobody has to wait whether more comes. What they say may be the
/// revision itself, which is then looked at.
fn set(found: &BTreeMap<String, Snapshot>, revision: &Revision) -> Result<bool, String> {
    let marks: BTreeSet<Option<&str>> = found
        .values()
        .map(|source| source.mark.as_deref())
        .collect();
    if let (1, Some(mark)) = (marks.len(), marks.first()) {
        return match mark.map(Revision::parse) {
            Some(Some(said)) if said != *revision => Err(format!(
                "the sources say that they are {said}, but make {revision}: some of it is not there yet"
            )),
            Some(_) => Ok(true),
            None => Ok(false),
        };
    }
    let told = found
        .iter()
        .map(|(name, source)| format!("{name} {}", source.mark.as_deref().unwrap_or("none")));
    let told: Vec<String> = told.collect();
    Err(format!(
        "the sources belong to different sets: {}",
        told.join(", ")
    ))
}
