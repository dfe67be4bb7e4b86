//! Reads a channel: its signed `InRelease`, and from there each index that is ours.

use std::collections::BTreeMap;

use bytes::Bytes;

use super::index::{Conflict, Index, LARGEST};
use super::journal::{self, Journal};
use super::package::{Identity, Package};
use super::release::{Release, by_hash};
use super::{AptError, Repository, gpg};
use crate::storage::{Name, Version};

/// The largest `InRelease`; Debian's has 150 KB.
const LARGEST_RELEASE: u64 = 16 * 1024 * 1024;

/// A channel as it was at one time.
#[derive(Debug, Clone, Default)]
pub struct Channel {
    /// Which `InRelease` that was; `None`: there was none.
    pub version: Option<Version>,
    /// Its fields and files.
    pub release: Release,
    /// Its packages, by architecture.
    pub indexes: BTreeMap<String, Index>,
    /// Who wrote its generations.
    pub journal: Journal,
}

/// How far a promotion is, as a channel's readers see it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Probe {
    /// None of its packages is there.
    Absent,
    /// Some are.
    Partial,
    /// All are.
    Done,
}

impl Channel {
    /// Where its `InRelease` is.
    pub(super) fn in_release(channel: &str) -> Result<Name, AptError> {
        Ok(Name::new(format!("dists/{channel}/InRelease"))?)
    }

    /// Reads a channel; one that nobody has written is empty.
    ///
    /// # Errors
    ///
    /// [`AptError`].
    pub async fn read(repository: &Repository, channel: &str) -> Result<Self, AptError> {
        repository.has(channel)?;
        let damaged = |what: String| AptError::Damaged {
            channel: channel.to_owned(),
            what,
        };
        let Repository { apt, storage, .. } = repository;
        let name = Self::in_release(channel)?;
        let Some((signed, version)) = storage.read(&name, LARGEST_RELEASE).await? else {
            return Ok(Self::default());
        };
        let text = gpg::verified(&apt.gpg_home, &signed).await?;
        let release =
            Release::parse(&text).map_err(|error| damaged(format!("InRelease: {error}")))?;
        let mut read = Self {
            version: Some(version),
            ..Self::default()
        };
        for architecture in &apt.architectures {
            let plain = packages(&apt.component, architecture);
            let packed = format!("{plain}.gz");
            let wrong =
                |path: &str, error: &dyn std::fmt::Display| damaged(format!("{path}: {error}"));
            let index = if let Some(bytes) = file(repository, channel, &release, &packed).await? {
                Index::unpack(&bytes).map_err(|error| wrong(&packed, &error))?
            } else if let Some(bytes) = file(repository, channel, &release, &plain).await? {
                let text = std::str::from_utf8(&bytes).map_err(|error| wrong(&plain, &error))?;
                Index::parse(text).map_err(|error| wrong(&plain, &error))?
            } else {
                continue;
            };
            read.indexes.insert(architecture.clone(), index);
        }
        if let Some(bytes) = file(repository, channel, &release, journal::PATH).await? {
            let text = String::from_utf8_lossy(&bytes);
            read.journal = Journal::parse(&text)
                .map_err(|error| damaged(format!("{}: {error}", journal::PATH)))?;
        }
        read.release = release;
        Ok(read)
    }

    /// Which packages have this name and version, and this architecture, if one is given.
    pub fn find(&self, name: &str, version: &str, architecture: Option<&str>) -> Vec<&Package> {
        let mut found = BTreeMap::new();
        for package in self.indexes.values().flat_map(Index::packages) {
            let identity = &package.identity;
            if identity.name() == name
                && identity.version() == version
                && architecture.is_none_or(|wanted| wanted == identity.architecture())
            {
                found.insert(identity, package);
            }
        }
        found.into_values().collect()
    }

    /// How far a promotion of these packages is.
    ///
    /// # Errors
    ///
    /// [`Conflict`]: one of them is there with other bytes.
    pub fn probe(&self, packages: &[Package]) -> Result<Probe, Conflict> {
        let mut there = 0;
        for package in packages {
            let mut everywhere = true;
            for index in self.indexes_of(&package.identity) {
                match index.and_then(|index| index.get(&package.identity)) {
                    Some(found) => Conflict::check(found, package)?,
                    None => everywhere = false,
                }
            }
            there += usize::from(everywhere);
        }
        Ok(match there {
            0 if !packages.is_empty() => Probe::Absent,
            there if there == packages.len() => Probe::Done,
            _ => Probe::Partial,
        })
    }

    /// The indexes in which a package belongs: its architecture's, or all.
    fn indexes_of<'c>(
        &'c self,
        identity: &'c Identity,
    ) -> impl Iterator<Item = Option<&'c Index>> + 'c {
        let of_all = identity.architecture() == "all";
        let own = (!of_all).then(|| self.indexes.get(identity.architecture()));
        // A channel that has no index at all has none of the package's either.
        let every = of_all.then(|| {
            let none = self.indexes.is_empty().then_some(None);
            self.indexes.values().map(Some).chain(none)
        });
        own.into_iter().chain(every.into_iter().flatten())
    }
}

/// The path of an index in a channel.
pub(super) fn packages(component: &str, architecture: &str) -> String {
    format!("{component}/binary-{architecture}/Packages")
}

/// A file that a `Release` lists, as it says; `None`: it lists none.
async fn file(
    repository: &Repository,
    channel: &str,
    release: &Release,
    path: &str,
) -> Result<Option<Bytes>, AptError> {
    let Some(listed) = release.file(path) else {
        return Ok(None);
    };
    let most = listed.size.min(LARGEST);
    // Repositories that others made may have none by hash.
    let places = [
        by_hash(channel, path, &listed.sha256)?,
        Name::new(format!("dists/{channel}/{path}"))?,
    ];
    for place in &places {
        let found = repository.storage.read(place, most).await?;
        if let Some((bytes, _)) = found.filter(|(bytes, _)| listed.fits(bytes)) {
            return Ok(Some(bytes));
        }
    }
    Err(AptError::Damaged {
        channel: channel.to_owned(),
        what: format!("{path} is not there as InRelease says it is"),
    })
}
