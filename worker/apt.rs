//! Package repositories as apt reads them: packages go from channel to channel without a reader who sees half of it.
//!
//! A promotion has two halves. **Stage** is long and may run beside any other: it puts a package's file where its name never
//! stands for other bytes. **Commit** is short: it writes the new indexes under names that are their hashes, and then
//! replaces the channel's signed `InRelease`, if that is still as it was read. Before that write nothing is visible, after
//! it everything is. **Probe** reads a channel and says how far it is, so that a death anywhere is settled by the next
//! attempt. Each generation of a channel says in its journal who wrote it, and by which token: who comes too late is refused.
//!
//! Never replaces a version of a package by other bytes, never writes an index in place, never takes away a file that a
//! generation needs which a reader may still be reading. A package never leaves a channel here.

use std::collections::BTreeMap;
use std::sync::Arc;

use sha2::{Digest as _, Sha256};

use crate::config::{Apt, Config, StoragePlace};
use crate::storage::{BadName, Storage, StorageError};

mod channel;
mod commit;
mod deb;
mod gpg;
mod handler;
mod index;
mod journal;
mod package;
mod release;
mod stage;
mod stanza;

pub use channel::{Channel, Probe};
pub use commit::Committed;
pub use gpg::GpgError;
pub use handler::{COMMIT, PROMOTE, STAGE, register};
pub use index::{BadIndex, Conflict, Index};
pub use journal::{Entry, Fence, Journal, Stale};
pub use package::{BadPackage, Identity, Package};
pub use release::{BadRelease, Release};
pub use stage::{Source, Wanted};

/// Every repository of the configuration, by name.
#[derive(Debug, Clone)]
pub struct Repositories(Arc<BTreeMap<String, Arc<Repository>>>);

/// One repository.
#[derive(Debug)]
pub struct Repository {
    apt: Apt,
    storage: Storage,
    incoming: Option<Storage>,
}

/// Why a promotion did not come about.
#[derive(Debug, thiserror::Error)]
pub enum AptError {
    /// A storage did not do as it should.
    #[error(transparent)]
    Storage(#[from] StorageError),
    /// GnuPG did not.
    #[error(transparent)]
    Gpg(#[from] GpgError),
    /// A name that would lead elsewhere.
    #[error(transparent)]
    Name(#[from] BadName),
    /// A channel is not as a channel is.
    #[error("dists/{channel} is damaged: {what}")]
    Damaged {
        /// Which.
        channel: String,
        /// What is wrong.
        what: String,
    },
    /// A version is there with other bytes.
    #[error(transparent)]
    Conflict(#[from] Conflict),
    /// Somebody else has the right to write.
    #[error(transparent)]
    Stale(#[from] Stale),
    /// Others wrote the channel each time before this could.
    #[error(
        "others have written dists/{channel} {tries} times meanwhile: put its promotions into one lane"
    )]
    Busy {
        /// Which.
        channel: String,
        /// How often it was tried.
        tries: u32,
    },
    /// What was to be promoted is not there, or not what it should be.
    #[error("{0}")]
    Source(String),
    /// What was asked for can never be done.
    #[error("{0}")]
    Asked(String),
}

impl AptError {
    /// Whether another attempt may do it.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Storage(_) | Self::Gpg(_) | Self::Busy { .. } => true,
            Self::Name(_)
            | Self::Damaged { .. }
            | Self::Conflict(_)
            | Self::Stale(_)
            | Self::Source(_)
            | Self::Asked(_) => false,
        }
    }
}

impl Repositories {
    /// What the configuration names; `None`: it names none.
    ///
    /// # Errors
    ///
    /// If a bucket's settings are of no use.
    pub fn new(config: &Config) -> anyhow::Result<Option<Self>> {
        let open = |place: &StoragePlace| Storage::open(place, &config.s3);
        let mut all = BTreeMap::new();
        for (name, apt) in &config.apt {
            let repository = Repository {
                apt: apt.clone(),
                storage: open(&apt.storage)?,
                incoming: apt.incoming.as_ref().map(open).transpose()?,
            };
            all.insert(name.clone(), Arc::new(repository));
        }
        Ok((!all.is_empty()).then(|| Self(Arc::new(all))))
    }

    /// The repository of this name.
    ///
    /// # Errors
    ///
    /// [`AptError::Asked`].
    pub fn get(&self, name: &str) -> Result<&Arc<Repository>, AptError> {
        self.0.get(name).ok_or_else(|| {
            let known = self
                .0
                .keys()
                .map(String::as_str)
                .collect::<Vec<_>>()
                .join(", ");
            AptError::Asked(format!(
                "there is no repository {name:?}: write [apt.{name}] (there are: {known})"
            ))
        })
    }
}

impl Repository {
    /// Fails unless the configuration names the channel.
    fn has(&self, channel: &str) -> Result<(), AptError> {
        if self.apt.channels.iter().any(|known| known == channel) {
            return Ok(());
        }
        let known = self.apt.channels.join(", ");
        Err(AptError::Asked(format!(
            "the repository has no channel {channel:?} (there are: {known})"
        )))
    }
}

/// In lower-case hexadecimal digits.
fn sha256(bytes: &[u8]) -> String {
    hex(&Sha256::digest(bytes))
}

fn hex(bytes: &[u8]) -> String {
    const DIGITS: [char; 16] = [
        '0', '1', '2', '3', '4', '5', '6', '7', '8', '9', 'a', 'b', 'c', 'd', 'e', 'f',
    ];
    let halves = bytes.iter().flat_map(|byte| [byte >> 4, byte & 15]);
    halves
        .filter_map(|half| DIGITS.get(usize::from(half)))
        .collect()
}
