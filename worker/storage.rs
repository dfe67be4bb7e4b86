//! Files of others in a folder or a bucket: whole or not there, made once or replaced under a condition.
//!
//! Nothing is ever seen half-written, and nothing is replaced that is not as the caller has read it: on disk by a file
//! moved into its place under a lock that a process's death releases, in a bucket by the server's conditional writes.

use std::path::PathBuf;
use std::sync::Arc;

use bytes::Bytes;
use futures::stream::BoxStream;

use crate::config::{S3, StoragePlace};

mod bucket;
mod disk;

use bucket::Bucket;

/// One place. Clones share it.
#[derive(Debug, Clone)]
pub struct Storage(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Disk(Arc<PathBuf>),
    Bucket(Arc<Bucket>),
}

/// A file's name below a [`Storage`]: never outside of it.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(String);

/// The text is no [`Name`].
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not the name of a file in a storage")]
pub struct BadName(pub String);

/// Which content a file had when it was read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Version(String);

/// Whether [`Storage::create`] made the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Created {
    /// It did.
    New,
    /// One was there, and is as it was.
    There,
}

/// Whether [`Storage::replace`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Replaced {
    /// The new content is there.
    Done,
    /// The file is no longer as it was read, and is left so.
    Changed,
}

/// What could not be done.
#[derive(Debug, thiserror::Error)]
#[error("{what} {name}: {source:#}")]
pub struct StorageError {
    what: &'static str,
    name: String,
    #[source]
    source: anyhow::Error,
}

/// A file's bytes, piece by piece.
pub type Bytestream = BoxStream<'static, Result<Bytes, anyhow::Error>>;

impl Name {
    /// The longest, in bytes: as long as S3 lets a key be.
    const LONGEST: usize = 1024;

    /// Takes `text` if it is a relative path without `.`, `..` or anything that one system reads otherwise than another.
    ///
    /// # Errors
    ///
    /// [`BadName`].
    pub fn new(text: impl Into<String>) -> Result<Self, BadName> {
        let text = text.into();
        let is_fine = !text.is_empty()
            && text.len() <= Self::LONGEST
            && !text.contains(|c: char| c.is_control() || c == '\\')
            && text.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if is_fine {
            Ok(Self(text))
        } else {
            Err(BadName(text))
        }
    }

    /// The path.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Display for Name {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.0)
    }
}

impl StorageError {
    /// What broke off a stream that [`Storage::stream`] gave.
    pub fn reading(name: &Name, error: anyhow::Error) -> Self {
        failed("read", name)(error)
    }

    /// The cause, if it is of this kind: for instance one that a stream brought along which was to be written.
    pub fn because<E: std::error::Error + Send + Sync + 'static>(&self) -> Option<&E> {
        self.source.downcast_ref()
    }
}

/// Says what failed at which file.
fn failed<E: Into<anyhow::Error>>(
    what: &'static str,
    name: &Name,
) -> impl FnOnce(E) -> StorageError {
    let name = name.to_string();
    move |source| StorageError {
        what,
        name,
        source: source.into(),
    }
}

impl Storage {
    /// What is at `place`; asks no server yet.
    ///
    /// # Errors
    ///
    /// If the settings of a bucket are of no use.
    pub fn open(place: &StoragePlace, s3: &S3) -> anyhow::Result<Self> {
        Ok(Self(match place {
            StoragePlace::Folder(folder) => Kind::Disk(Arc::new(folder.clone())),
            StoragePlace::Bucket(place) => Kind::Bucket(Arc::new(Bucket::open(place, s3)?)),
        }))
    }

    /// A whole file of at most `most` bytes, and which it is; `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`StorageError`], also for a longer one.
    pub async fn read(
        &self,
        name: &Name,
        most: u64,
    ) -> Result<Option<(Bytes, Version)>, StorageError> {
        match &self.0 {
            Kind::Disk(root) => disk::read(root, name, most).await,
            Kind::Bucket(bucket) => bucket.read(name, most).await,
        }
        .map_err(failed("read", name))
    }

    /// A file's size and bytes; `None`: there is none. One that is replaced meanwhile fails.
    ///
    /// # Errors
    ///
    /// [`StorageError`], or later in the stream.
    pub async fn stream(&self, name: &Name) -> Result<Option<(u64, Bytestream)>, StorageError> {
        match &self.0 {
            Kind::Disk(root) => disk::stream(root, name).await,
            Kind::Bucket(bucket) => bucket.stream(name).await,
        }
        .map_err(failed("read", name))
    }

    /// A file's size; `None`: there is none.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    pub async fn size(&self, name: &Name) -> Result<Option<u64>, StorageError> {
        match &self.0 {
            Kind::Disk(root) => disk::size(root, name).await,
            Kind::Bucket(bucket) => bucket.size(name).await,
        }
        .map_err(failed("look at", name))
    }

    /// Makes a file that is not there; what is there stays.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    ///
    /// # Cancel safety
    ///
    /// It is made whole or not at all.
    pub async fn create(&self, name: &Name, bytes: Bytes) -> Result<Created, StorageError> {
        match &self.0 {
            Kind::Disk(root) => disk::create(root, name, bytes).await,
            Kind::Bucket(bucket) => bucket.create(name, bytes).await,
        }
        .map_err(failed("make", name))
    }

    /// Puts `bytes` in place of what was `seen`; `None`: in place of nothing.
    ///
    /// # Errors
    ///
    /// [`StorageError`]: whether it was done is open, then; read it again.
    ///
    /// # Cancel safety
    ///
    /// It is replaced whole or not at all.
    pub async fn replace(
        &self,
        name: &Name,
        bytes: Bytes,
        seen: Option<&Version>,
    ) -> Result<Replaced, StorageError> {
        match &self.0 {
            Kind::Disk(root) => disk::replace(root, name, bytes, seen).await,
            Kind::Bucket(bucket) => bucket.replace(name, bytes, seen).await,
        }
        .map_err(failed("replace", name))
    }

    /// Writes a file of `size` bytes whatever was there: only for names that never stand for other bytes. Where the stream
    /// ends with an error, nothing is written.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    pub async fn upload(
        &self,
        name: &Name,
        size: u64,
        from: Bytestream,
    ) -> Result<(), StorageError> {
        match &self.0 {
            Kind::Disk(root) => disk::upload(root, name, from).await,
            Kind::Bucket(bucket) => bucket.upload(name, size, from).await,
        }
        .map_err(failed("write", name))
    }

    /// Takes a file away, if it is there.
    ///
    /// # Errors
    ///
    /// [`StorageError`].
    pub async fn remove(&self, name: &Name) -> Result<(), StorageError> {
        match &self.0 {
            Kind::Disk(root) => disk::remove(root, name).await,
            Kind::Bucket(bucket) => bucket.remove(name).await,
        }
        .map_err(failed("remove", name))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_never_leads_outside() {
        for text in [
            "dists/stable/InRelease",
            "pool/a~b+c:1_amd64.deb",
            "a/..b/.c",
        ] {
            assert_eq!(Name::new(text).expect("a name").as_str(), text);
        }
        let long = "a".repeat(1025);
        for text in [
            "",
            "/etc/passwd",
            "a/../../b",
            "..",
            ".",
            "a//b",
            "a/",
            "a\\..\\b",
            "a\nb",
            "a\0",
            &long,
        ] {
            assert!(Name::new(text).is_err(), "{text:?}");
        }
    }
}
