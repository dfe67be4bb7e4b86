//! The long half: a package's file comes to be at its place, whole, under a name that never stands for other bytes.
//!
//! First a small note beside that place says which content the name has: it is made once, by whoever comes first. Then the
//! file is written, by anybody who has those bytes. So two attempts, or a zombie and its heir, can only write the same.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use futures::StreamExt as _;
use sha2::{Digest as _, Sha256};

use super::channel::Channel;
use super::index::Conflict;
use super::package::{Identity, Package};
use super::stanza::Stanza;
use super::{AptError, Repository, deb, hex};
use crate::storage::{Bytestream, Created, Name, Storage, StorageError};

/// The largest note.
const LARGEST_NOTE: u64 = 2 * 1024 * 1024;

/// A package as a task asks for it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Wanted {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture; `None`: each that is there.
    pub architecture: Option<String>,
}

/// Where packages come from.
#[derive(Debug, Clone)]
pub enum Source {
    /// A channel of a repository, perhaps of another one.
    Channel(Arc<Repository>, String),
    /// The repository's folder of new packages.
    Incoming,
}

impl std::str::FromStr for Wanted {
    type Err = String;

    /// As `apt-get install` takes it: `name=version` or `name:architecture=version`.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("{text:?} is not name=version or name:architecture=version");
        let (name, version) = text.split_once('=').ok_or_else(wrong)?;
        let (name, architecture) = match name.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture)),
            None => (name, None),
        };
        Identity::new(name, version, architecture.unwrap_or("all"))
            .map_err(|error| format!("{}: {error}", wrong()))?;
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.map(str::to_owned),
        })
    }
}

impl Repository {
    /// The packages of a channel that are wanted, each at least once; nothing is written.
    ///
    /// # Errors
    ///
    /// [`AptError`], also if one is not there.
    pub async fn find(&self, channel: &str, wanted: &[Wanted]) -> Result<Vec<Package>, AptError> {
        let read = Channel::read(self, channel).await?;
        let mut all = Vec::new();
        for Wanted {
            name,
            version,
            architecture,
        } in wanted
        {
            let found = read.find(name, version, architecture.as_deref());
            if found.is_empty() {
                let which = architecture
                    .as_ref()
                    .map_or(String::new(), |it| format!(" for {it}"));
                return Err(AptError::Source(format!(
                    "dists/{channel} has no {name} {version}{which}"
                )));
            }
            all.extend(found.into_iter().cloned());
        }
        Ok(all)
    }

    /// What a file of the incoming folder is.
    ///
    /// # Errors
    ///
    /// [`AptError`].
    pub async fn look(&self, file: &Name) -> Result<Package, AptError> {
        let incoming = self.incoming()?;
        let read = digest(incoming, file, |_| {}).await?;
        let Some(Digested { size, sha256, head }) = read else {
            return Err(AptError::Source(format!("{file} is not in incoming")));
        };
        let control = deb::control(&head)
            .map_err(|error| AptError::Source(format!("{file} in incoming: {error}")))?;
        Package::from_control(&control, &self.apt.component, size, &sha256)
            .map_err(|error| AptError::Source(format!("{file} in incoming: {error}")))
    }

    /// Brings a package's file from where it is, and returns the package as it is here. `done` is told the bytes so far.
    /// `file` is its name in the source.
    ///
    /// # Errors
    ///
    /// [`AptError`]; [`AptError::Conflict`]: the version is here with other bytes.
    ///
    /// # Cancel safety
    ///
    /// Whatever it has done, it can be asked again.
    pub async fn stage(
        &self,
        source: &Source,
        file: &Name,
        package: Package,
        done: impl Fn(u64) + Clone + Send + 'static,
    ) -> Result<Package, AptError> {
        self.belongs(&package.identity)?;
        let (from, here) = match source {
            Source::Channel(other, _) => (&other.storage, std::ptr::eq(Arc::as_ptr(other), self)),
            Source::Incoming => (self.incoming()?, false),
        };
        let package = if here {
            package
        } else {
            let place = package.identity.file(&self.apt.component);
            package.moved(place.map_err(|error| AptError::Source(error.to_string()))?)
        };
        self.note(&package).await?;
        crate::crash::point("apt:noted");
        if let Some(there) = digest(&self.storage, &package.file, done.clone()).await? {
            if there.sha256 == package.sha256 {
                return Ok(package);
            }
            // Others made this repository, or its disk did.
            let conflict = Conflict {
                identity: package.identity,
                there: there.sha256,
                wanted: package.sha256,
            };
            return Err(conflict.into());
        }
        if here {
            return Err(AptError::Source(format!(
                "{} is not in the pool",
                package.file
            )));
        }
        let Some((size, pieces)) = from.stream(file).await? else {
            return Err(AptError::Source(format!(
                "{file} is not where it should be"
            )));
        };
        if size != package.size {
            return Err(AptError::Source(format!(
                "{file} has {size} bytes, and should have {}",
                package.size
            )));
        }
        let pieces = verifying(pieces, package.sha256.clone(), done);
        match self.storage.upload(&package.file, size, pieces).await {
            Ok(()) => Ok(package),
            Err(error) => Err(match error.because::<Spoiled>() {
                Some(spoiled) => AptError::Source(format!("{file}: {spoiled}")),
                None => error.into(),
            }),
        }
    }

    /// The package of this identity that was staged here.
    ///
    /// # Errors
    ///
    /// [`AptError::Source`]: it was not.
    pub async fn staged(&self, identity: &Identity) -> Result<Package, AptError> {
        let missing = |what: &str| AptError::Source(format!("{identity} is not staged: {what}"));
        let package = self
            .noted(identity)
            .await?
            .ok_or_else(|| missing("it has no note"))?;
        match self.storage.size(&package.file).await? {
            Some(size) if size == package.size => Ok(package),
            Some(_) => Err(missing("its file has another size")),
            None => Err(missing("its file is not in the pool")),
        }
    }

    /// Says which content an identity has, for ever.
    async fn note(&self, package: &Package) -> Result<(), AptError> {
        let name = self.note_of(&package.identity)?;
        let text = Bytes::from(package.to_string());
        match self.storage.create(&name, text).await? {
            Created::New => Ok(()),
            Created::There => {
                let Some(there) = self.noted(&package.identity).await? else {
                    return Err(AptError::Source(format!("{name} was taken away meanwhile")));
                };
                Ok(Conflict::check(&there, package)?)
            }
        }
    }

    async fn noted(&self, identity: &Identity) -> Result<Option<Package>, AptError> {
        let name = self.note_of(identity)?;
        let Some((bytes, _)) = self.storage.read(&name, LARGEST_NOTE).await? else {
            return Ok(None);
        };
        let text = String::from_utf8_lossy(&bytes);
        let package = Stanza::parse(&text)
            .map_err(Into::into)
            .and_then(Package::from_index)
            .map_err(|error| AptError::Source(format!("{name}: {error}")))?;
        if package.identity != *identity {
            return Err(AptError::Source(format!(
                "{name} is a note of {}",
                package.identity
            )));
        }
        Ok(Some(package))
    }

    fn note_of(&self, identity: &Identity) -> Result<Name, AptError> {
        identity
            .note(&self.apt.component)
            .map_err(|error| AptError::Source(error.to_string()))
    }

    fn incoming(&self) -> Result<&Storage, AptError> {
        self.incoming.as_ref().ok_or_else(|| {
            AptError::Asked("the repository has no incoming folder: write incoming = \"…\"".into())
        })
    }

    /// Fails for a package of an architecture that no channel here has.
    pub(super) fn belongs(&self, identity: &Identity) -> Result<(), AptError> {
        let architecture = identity.architecture();
        let known = &self.apt.architectures;
        if architecture == "all" || known.iter().any(|known| known == architecture) {
            return Ok(());
        }
        Err(AptError::Asked(format!(
            "{identity}: the repository has no architecture {architecture:?} (there are: {})",
            known.join(", ")
        )))
    }
}

/// What was found out by reading a file.
struct Digested {
    size: u64,
    sha256: String,
    /// Its beginning.
    head: Bytes,
}

/// Reads a whole file; `None`: there is none.
async fn digest(
    storage: &Storage,
    name: &Name,
    done: impl Fn(u64) + Send,
) -> Result<Option<Digested>, AptError> {
    let Some((_, mut pieces)) = storage.stream(name).await? else {
        return Ok(None);
    };
    let (mut hash, mut size, mut head) = (Sha256::new(), 0, BytesMut::new());
    while let Some(piece) = pieces.next().await {
        let piece = piece.map_err(|error| AptError::Storage(StorageError::reading(name, error)))?;
        hash.update(&piece);
        size += piece.len() as u64;
        let room = deb::HEAD.saturating_sub(head.len()).min(piece.len());
        head.extend_from_slice(piece.get(..room).unwrap_or_default());
        done(size);
    }
    let (sha256, head) = (hex(&hash.finalize()), head.freeze());
    Ok(Some(Digested { size, sha256, head }))
}

/// The bytes of a package's file are not those that they were said to be.
#[derive(Debug, thiserror::Error)]
#[error("its bytes have the SHA-256 {found}, and should have {wanted}")]
struct Spoiled {
    found: String,
    wanted: String,
}

struct Verifying<D> {
    from: Bytestream,
    hash: Sha256,
    size: u64,
    wanted: String,
    done: D,
}

/// The same bytes, with an error at the end if they are not those of `sha256`.
fn verifying(from: Bytestream, sha256: String, done: impl Fn(u64) + Send + 'static) -> Bytestream {
    let begin = Verifying {
        from,
        hash: Sha256::new(),
        size: 0,
        wanted: sha256,
        done,
    };
    futures::stream::try_unfold(begin, |mut state| async move {
        if let Some(piece) = state.from.next().await {
            let piece = piece?;
            state.hash.update(&piece);
            state.size += piece.len() as u64;
            (state.done)(state.size);
            return Ok(Some((piece, state)));
        }
        let Verifying { hash, wanted, .. } = state;
        let found = hex(&hash.finalize());
        if found == wanted {
            Ok(None)
        } else {
            Err(Spoiled { found, wanted }.into())
        }
    })
    .boxed()
}
