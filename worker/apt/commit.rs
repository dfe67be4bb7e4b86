//! The short half: a channel's readers see all packages of a promotion, or none.
//!
//! New indexes are written under their hashes, where nobody looks for them yet. The write of `InRelease` is the commit: it
//! succeeds only if that is still the one that was read, and what was read has been asked whether this attempt may write.

use std::collections::BTreeSet;

use bytes::Bytes;

use super::channel::{Channel, Probe, packages};
use super::index::Index;
use super::journal::{self, Entry, Fence};
use super::package::Package;
use super::release::{Release, by_hash};
use super::{AptError, Repository, gpg};
use crate::clock::Clock;
use crate::storage::{Created, Name, Replaced};

/// Each time, another was faster: it need not be tried for ever, since the task will be.
const TRIES: u32 = 8;

/// What came of a commit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub struct Committed {
    /// The channel's generation that has all of it.
    pub generation: i64,
    /// Whether this call wrote it; otherwise it was there.
    pub wrote: bool,
}

/// The files of a new generation, and what to read it by.
struct Draft {
    files: Vec<(Name, Bytes)>,
    release: Release,
    obsolete: BTreeSet<String>,
}

impl Repository {
    /// Lets the readers of `channel` see `packages`, whose files are staged.
    ///
    /// # Errors
    ///
    /// [`AptError`]; [`AptError::Stale`]: another has the right to write, and nothing was changed.
    ///
    /// # Cancel safety
    ///
    /// Either all is visible or nothing is; which, shows when it is asked again.
    pub async fn commit(
        &self,
        channel: &str,
        packages: &[Package],
        fence: &Fence,
        clock: &Clock,
    ) -> Result<Committed, AptError> {
        for package in packages {
            self.belongs(&package.identity)?;
        }
        for _ in 0..TRIES {
            let read = Channel::read(self, channel).await?;
            if read.probe(packages)? == Probe::Done {
                let generation = read.release.generation();
                // Our own write may have come to be without an answer.
                let ours = read.journal.written_by(fence);
                let wrote = ours.is_some();
                let generation = ours.unwrap_or(generation);
                return Ok(Committed { generation, wrote });
            }
            read.journal.check(fence, read.release.token())?;
            let seen = read.version.clone();
            let Draft {
                files,
                release,
                obsolete,
            } = self.draft(channel, read, packages, fence, clock)?;
            self.write(files).await?;
            crate::crash::point("apt:indexed");
            let signed = gpg::sign(&self.apt.gpg_home, &self.apt.key, &release.to_string()).await?;
            // They belong to generations that were superseded long before the one that was read.
            for file in obsolete {
                self.storage.remove(&Name::new(file)?).await?;
            }
            crate::crash::point("apt:signed");
            let name = Channel::in_release(channel)?;
            let replaced = self
                .storage
                .replace(&name, signed.into(), seen.as_ref())
                .await?;
            if replaced == Replaced::Done {
                crate::crash::point("apt:committed");
                return Ok(Committed {
                    generation: release.generation(),
                    wrote: true,
                });
            }
            tracing::info!(
                channel,
                "another has written the channel meanwhile; it is read again"
            );
        }
        Err(AptError::Busy {
            channel: channel.to_owned(),
            tries: TRIES,
        })
    }

    /// The generation after the one that was read, with `added` in it.
    fn draft(
        &self,
        channel: &str,
        read: Channel,
        added: &[Package],
        fence: &Fence,
        clock: &Clock,
    ) -> Result<Draft, AptError> {
        let Channel {
            mut release,
            mut indexes,
            mut journal,
            ..
        } = read;
        let apt = &self.apt;
        let before = release
            .files()
            .filter(|(path, _)| is_ours(apt, path))
            .map(|(path, listed)| by_hash(channel, path, &listed.sha256))
            .map(|name| name.map(|name| name.as_str().to_owned()))
            .collect::<Result<BTreeSet<_>, _>>()?;
        let mut files = Vec::new();
        let mut list = |release: &mut Release, path: String, bytes: Bytes| {
            release.list(path.as_str(), &bytes);
            let listed = release.file(&path).map(|listed| listed.sha256.as_str());
            files.push((by_hash(channel, &path, listed.unwrap_or_default())?, bytes));
            Ok::<_, AptError>(())
        };
        let mut new = BTreeSet::new();
        for architecture in &apt.architectures {
            let path = packages(&apt.component, architecture);
            let index = indexes.entry(architecture.clone()).or_default();
            let mut changed = release.file(&path).is_none();
            for package in added {
                let its = package.identity.architecture();
                if (its == "all" || its == architecture) && index.add(package.clone())? {
                    changed = true;
                    new.insert(package.identity.to_string());
                }
            }
            if changed {
                let text = index.to_string();
                let packed = Index::pack(&text).map_err(|error| AptError::Damaged {
                    channel: channel.to_owned(),
                    what: format!("its index cannot be packed: {error}"),
                })?;
                list(&mut release, format!("{path}.gz"), packed.into())?;
                list(&mut release, path, text.into())?;
            }
        }
        let now = clock.now();
        let keep = i64::try_from(apt.keep.as_millis()).unwrap_or(i64::MAX);
        let obsolete = journal.retire(before, apt.keep_generations, keep, now);
        release.advance(apt, channel, fence.token, now);
        journal.add(Entry {
            generation: release.generation(),
            token: fence.token,
            task: fence.task.clone(),
            epoch: fence.epoch,
            at: now,
            packages: new.into_iter().collect(),
            files: BTreeSet::new(),
        });
        list(
            &mut release,
            journal::PATH.to_owned(),
            journal.to_string().into(),
        )?;
        Ok(Draft {
            files,
            release,
            obsolete,
        })
    }

    async fn write(&self, files: Vec<(Name, Bytes)>) -> Result<(), AptError> {
        let writes = files.into_iter().map(async |(name, bytes)| {
            // What is there under this name are these bytes.
            let (Created::New | Created::There) = self.storage.create(&name, bytes).await?;
            Ok::<_, AptError>(())
        });
        futures::future::try_join_all(writes).await?;
        Ok(())
    }
}

/// Whether a file of a channel is one that [`Repository::commit`] writes, by its hash.
fn is_ours(apt: &crate::config::Apt, path: &str) -> bool {
    path == journal::PATH
        || apt.architectures.iter().any(|architecture| {
            let plain = packages(&apt.component, architecture);
            path.strip_prefix(&plain)
                .is_some_and(|rest| matches!(rest, "" | ".gz"))
        })
}
