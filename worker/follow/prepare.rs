//! A revision is fetched beside what is there, and checked as a worker would begin with it; nothing runs with it yet.
//!
//! Never checks a revision twice at once, and never waits for a check that hangs longer than it may take.

use std::collections::BTreeMap;
use std::sync::Arc;

use super::folder::Hold;
use super::{Checked, Following, Live, Refused, Stop};
use crate::bundle::Revision;
use crate::crash;

/// So many checks may hang, each a thread of its own; then there are no others.
const HANGING: usize = 4;

impl Following {
    /// Runs what reads files, for so long as a check may take.
    pub(super) async fn bounded<T: Send + 'static>(
        &self,
        run: impl FnOnce() -> T + Send + 'static,
    ) -> Result<T, Stop> {
        let limit = self.bundle.check_limit;
        match tokio::time::timeout(limit, tokio::task::spawn_blocking(run)).await {
            Ok(Ok(answer)) => Ok(answer),
            Ok(Err(panic)) => Err(Stop::Refused(format!("reading it panicked: {panic}"))),
            Err(_) => Err(Stop::Refused(format!(
                "its files could not be read within check_limit ({limit:?})"
            ))),
        }
    }

    /// Fetches a revision if it is not there, and checks it.
    pub(super) async fn prepare(&mut self, revision: &Revision) -> Result<Checked, Stop> {
        let hold = self.fetch(revision).await?;
        self.me.report.fetched = Some(revision.clone());
        let checked = self.check(revision, hold).await?;
        self.me.report.checked = Some(revision.clone());
        crash::point("bundle:checked");
        Ok(checked)
    }

    /// What is there of a revision, if that is all of it.
    async fn whole(&self, revision: &Revision) -> Result<Option<Hold>, Stop> {
        let (folder, wanted) = (self.folder.clone(), revision.clone());
        let whole = self.bounded(move || folder.whole(&wanted)).await?;
        whole.map_err(|error| Stop::Refused(self.unkept(&error)))
    }

    fn unkept(&self, error: &std::io::Error) -> String {
        format!(
            "cannot be kept in {}: {error}",
            self.bundle.folder.display()
        )
    }

    async fn fetch(&self, revision: &Revision) -> Result<Hold, Stop> {
        if let Some(hold) = self.whole(revision).await? {
            return Ok(hold);
        }
        let manifest = self
            .store
            .bundle_manifest(&self.bundle.name, revision)
            .await?;
        let manifest = manifest.ok_or_else(|| {
            Stop::Refused(format!(
                "the store has no revision {revision} of bundle {:?}",
                self.bundle.name
            ))
        })?;
        let mut sources = BTreeMap::new();
        for (name, wanted) in &manifest.sources {
            let source = self.store.bundle_source(wanted).await?;
            let source = source.ok_or_else(|| {
                Stop::Refused(format!("the store has no source {name} of {revision}"))
            })?;
            let source =
                source.map_err(|error| Stop::Refused(format!("source {name}: {error}")))?;
            if source.revision() != *wanted {
                return Err(Stop::Refused(format!(
                    "source {name} of {revision} is not what was published"
                )));
            }
            sources.insert(name.clone(), source);
        }
        let folder = self.folder.clone();
        let put = self
            .bounded(move || folder.put(&manifest, &sources))
            .await?;
        put.map_err(|error| Stop::Refused(self.unkept(&error)))?;
        let hold = self.whole(revision).await?;
        hold.ok_or_else(|| Stop::Refused(format!("{revision} is gone from the folder")))
    }

    async fn check(&mut self, revision: &Revision, hold: Hold) -> Result<Checked, Stop> {
        let limit = self.bundle.check_limit;
        self.running.retain(|(_, running)| !running.is_finished());
        if self.running.len() >= HANGING || self.running.iter().any(|(of, _)| of == revision) {
            return Err(Stop::Refused("a check before it has not ended yet".into()));
        }
        let (recipe, pool, of) = (self.recipe.clone(), self.me.pool.clone(), revision.clone());
        let mut running = tokio::task::spawn_blocking(move || {
            let sources = hold.sources();
            let config = (recipe.load)(&sources).map_err(|problems| {
                // As whoever published it knows them: by source and path in it.
                let base = format!("{}/", sources.display());
                let told = problems
                    .iter()
                    .map(|problem| problem.to_string().replace(&base, ""));
                Refused(told.collect::<Vec<_>>().join("\n"))
            })?;
            let config = Arc::new(config);
            let live = Arc::new(Live::new((of, hold), &config, &pool, &*recipe.build)?);
            Ok(Checked { config, live })
        });
        match tokio::time::timeout(limit, &mut running).await {
            Ok(Ok(checked)) => Ok(checked?),
            Ok(Err(panic)) => Err(Stop::Refused(format!("checking it panicked: {panic}"))),
            Err(_) => {
                self.running.push((revision.clone(), running));
                Err(Stop::Refused(format!(
                    "the check did not end within check_limit ({limit:?})"
                )))
            }
        }
    }
}
