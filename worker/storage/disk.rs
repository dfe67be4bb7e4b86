//! Files in a folder. What is not whole yet is in its folder `.longshore`, on the same file system.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{self, Read as _, Write as _};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::Context as _;
use bytes::Bytes;
use futures::{StreamExt as _, TryStreamExt as _};
use sha2::{Digest as _, Sha256};
use tokio::io::AsyncWriteExt as _;

use super::{Bytestream, Created, Name, Replaced, Version};

/// Where files are on their way, and locks.
const ASIDE: &str = ".longshore";

/// What a piece of a stream has: few system calls, little memory.
const PIECE: usize = 256 * 1024;

/// A lock is held for milliseconds; who waits longer meets a holder that was stopped, and tries again later.
const PATIENCE: Duration = Duration::from_secs(10);

/// A part of this age that nobody has locked is of a process that died: one that lives locks it at once.
const ABANDONED: Duration = Duration::from_secs(600);

type Answer<T> = anyhow::Result<T>;

pub(super) async fn read(
    root: &Arc<PathBuf>,
    name: &Name,
    most: u64,
) -> Answer<Option<(Bytes, Version)>> {
    let path = root.join(name.as_str());
    blocking(move || {
        let Some(bytes) = there(read_whole(&path, most))? else {
            return Ok(None);
        };
        let version = version(&bytes);
        Ok(Some((bytes.into(), version)))
    })
    .await
}

pub(super) async fn stream(root: &Arc<PathBuf>, name: &Name) -> Answer<Option<(u64, Bytestream)>> {
    let Some(file) = there(tokio::fs::File::open(root.join(name.as_str())).await)? else {
        return Ok(None);
    };
    let metadata = file.metadata().await?;
    anyhow::ensure!(metadata.is_file(), "it is no file");
    let pieces = tokio_util::io::ReaderStream::with_capacity(file, PIECE);
    Ok(Some((metadata.len(), pieces.map_err(Into::into).boxed())))
}

pub(super) async fn size(root: &Arc<PathBuf>, name: &Name) -> Answer<Option<u64>> {
    let found = there(tokio::fs::metadata(root.join(name.as_str())).await)?;
    Ok(found.filter(fs::Metadata::is_file).map(|found| found.len()))
}

pub(super) async fn create(root: &Arc<PathBuf>, name: &Name, bytes: Bytes) -> Answer<Created> {
    let (root, path) = (Arc::clone(root), root.join(name.as_str()));
    blocking(move || {
        if path.exists() {
            return Ok(Created::There);
        }
        let folder = folder_of(&root, &path)?;
        let mut part = Part::begin(&root)?;
        part.file.write_all(&bytes)?;
        part.file.sync_all()?;
        // Unlike a rename, a link fails where something is.
        match fs::hard_link(&part.path, &path) {
            Ok(()) => {
                sync_folder(&folder)?;
                Ok(Created::New)
            }
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Ok(Created::There),
            Err(error) => Err(error.into()),
        }
    })
    .await
}

pub(super) async fn replace(
    root: &Arc<PathBuf>,
    name: &Name,
    bytes: Bytes,
    seen: Option<&Version>,
) -> Answer<Replaced> {
    let (root, path) = (Arc::clone(root), root.join(name.as_str()));
    let lock = format!("{}.lock", name.as_str().replace('/', "!"));
    let seen = seen.cloned();
    blocking(move || {
        let folder = folder_of(&root, &path)?;
        // All that can take long is done before the lock is taken.
        let mut part = Part::begin(&root)?;
        part.file.write_all(&bytes)?;
        part.file.sync_all()?;
        let _lock = lock_file(&root.join(ASIDE).join(lock))?;
        let now = there(read_whole(&path, u64::MAX))?;
        if now.as_deref().map(version) != seen {
            return Ok(Replaced::Changed);
        }
        fs::rename(&part.path, &path)?;
        sync_folder(&folder)?;
        Ok(Replaced::Done)
    })
    .await
}

pub(super) async fn upload(root: &Arc<PathBuf>, name: &Name, mut from: Bytestream) -> Answer<()> {
    let (base, path) = (Arc::clone(root), root.join(name.as_str()));
    let place = path.clone();
    let (part, folder) = blocking(move || {
        let folder = folder_of(&base, &place)?;
        Ok((Part::begin(&base)?, folder))
    })
    .await?;
    let mut file = tokio::fs::File::from_std(part.file.try_clone()?);
    while let Some(piece) = from.next().await {
        file.write_all(&piece?).await?;
        crate::crash::point("storage:piece");
    }
    file.flush().await?;
    blocking(move || {
        part.file.sync_all()?;
        fs::rename(&part.path, &path)?;
        sync_folder(&folder)
    })
    .await
}

pub(super) async fn remove(root: &Arc<PathBuf>, name: &Name) -> Answer<()> {
    there(tokio::fs::remove_file(root.join(name.as_str())).await)?;
    Ok(())
}

/// A file on its way: locked for as long as its process lives, gone when it is dropped.
struct Part {
    file: File,
    path: PathBuf,
}

impl Part {
    fn begin(root: &Path) -> Answer<Self> {
        let aside = root.join(ASIDE);
        if !aside.is_dir() {
            make_folder(root, &aside)?;
        }
        sweep(&aside)?;
        let path = aside.join(format!("{}.part", uuid::Uuid::now_v7()));
        let mut options = OpenOptions::new();
        let file = options
            .read(true)
            .write(true)
            .create_new(true)
            .open(&path)?;
        file.try_lock()?;
        Ok(Self { file, path })
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        // After a rename there is nothing, after a link one name of two.
        drop(fs::remove_file(&self.path));
    }
}

/// Takes away what processes left that died.
fn sweep(aside: &Path) -> Answer<()> {
    for entry in fs::read_dir(aside)? {
        let path = entry?.path();
        if path.extension().is_none_or(|extension| extension != "part") {
            continue;
        }
        let Some(file) = there(File::open(&path))? else {
            continue;
        };
        let age = file.metadata()?.modified()?.elapsed().unwrap_or_default();
        if age > ABANDONED && file.try_lock().is_ok() {
            there(fs::remove_file(&path))?;
        }
    }
    Ok(())
}

fn lock_file(path: &Path) -> Answer<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .open(path)?;
    let end = Instant::now() + PATIENCE;
    loop {
        match file.try_lock() {
            Ok(()) => return Ok(file),
            Err(TryLockError::WouldBlock) if Instant::now() < end => {
                std::thread::sleep(Duration::from_millis(5));
            }
            Err(TryLockError::WouldBlock) => {
                anyhow::bail!(
                    "another process has held {} for {PATIENCE:?}",
                    path.display()
                )
            }
            Err(TryLockError::Error(error)) => return Err(error.into()),
        }
    }
}

/// The folder of `path`, made if it is not there.
fn folder_of(root: &Path, path: &Path) -> Answer<PathBuf> {
    let folder = path.parent().unwrap_or(root).to_owned();
    if !folder.is_dir() {
        make_folder(root, &folder)?;
    }
    Ok(folder)
}

/// Makes `folder` and what is between it and `root`, and makes them last.
fn make_folder(root: &Path, folder: &Path) -> Answer<()> {
    fs::create_dir_all(folder)?;
    for made in folder.ancestors().take_while(|at| at.starts_with(root)) {
        sync_folder(made)?;
    }
    Ok(())
}

fn sync_folder(folder: &Path) -> Answer<()> {
    Ok(File::open(folder)?.sync_all()?)
}

fn read_whole(path: &Path, most: u64) -> io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    let read = File::open(path)?
        .take(most.saturating_add(1))
        .read_to_end(&mut bytes)?;
    if read as u64 > most {
        return Err(io::Error::other(format!("it has more than {most} bytes")));
    }
    Ok(bytes)
}

fn version(bytes: &[u8]) -> Version {
    let digest = Sha256::digest(bytes);
    Version(digest.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// `None` for what is not there.
fn there<T>(found: io::Result<T>) -> io::Result<Option<T>> {
    match found {
        Ok(found) => Ok(Some(found)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::NotADirectory
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Answer<T> + Send + 'static,
) -> Answer<T> {
    tokio::task::spawn_blocking(work)
        .await
        .context("the work on the file ended early")?
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicU64, Ordering};

    use bytes::BytesMut;

    use super::*;

    fn root() -> Arc<PathBuf> {
        static COUNT: AtomicU64 = AtomicU64::new(0);
        let name = format!(
            "longshore-disk-{}-{}",
            std::process::id(),
            COUNT.fetch_add(1, Ordering::Relaxed)
        );
        let path = std::env::temp_dir().join(name);
        fs::create_dir(&path).unwrap();
        Arc::new(path)
    }

    fn name(text: &str) -> Name {
        Name::new(text).unwrap()
    }

    #[tokio::test]
    async fn a_file_is_made_once() {
        let root = root();
        let a = name("dists/x/a");
        let made = create(&root, &a, Bytes::from_static(b"one")).await.unwrap();
        assert_eq!(made, Created::New);
        let again = create(&root, &a, Bytes::from_static(b"two")).await.unwrap();
        assert_eq!(again, Created::There);
        let (bytes, _) = read(&root, &a, 10).await.unwrap().unwrap();
        assert_eq!(&bytes[..], b"one");
        assert!(read(&root, &a, 2).await.is_err(), "it is longer than that");
        fs::remove_dir_all(&*root).unwrap();
    }

    #[tokio::test]
    async fn of_many_who_replace_the_same_one_does() {
        let root = root();
        let a = name("a");
        let done = replace(&root, &a, Bytes::from_static(b"0"), None)
            .await
            .unwrap();
        assert_eq!(done, Replaced::Done);
        let (_, seen) = read(&root, &a, 10).await.unwrap().unwrap();
        let tries = (1..=16).map(|number: u8| {
            let (root, a, seen) = (&root, &a, &seen);
            async move {
                replace(root, a, vec![number].into(), Some(seen))
                    .await
                    .unwrap()
            }
        });
        let answers = futures::future::join_all(tries).await;
        let done = answers.iter().filter(|answer| **answer == Replaced::Done);
        assert_eq!(done.count(), 1);
        let none = replace(&root, &a, Bytes::from_static(b"9"), None)
            .await
            .unwrap();
        assert_eq!(none, Replaced::Changed, "there is one");
        let left = fs::read_dir(root.join(ASIDE)).unwrap();
        let names: Vec<_> = left.map(|entry| entry.unwrap().file_name()).collect();
        assert_eq!(names, ["a.lock"], "no part is left");
        fs::remove_dir_all(&*root).unwrap();
    }

    #[tokio::test]
    async fn of_a_stream_that_fails_nothing_is_written() {
        let root = root();
        let a = name("pool/a");
        let pieces = [Ok(Bytes::from_static(b"one")), Err(anyhow::anyhow!("cut"))];
        let from = futures::stream::iter(pieces).boxed();
        assert!(upload(&root, &a, from).await.is_err());
        assert_eq!(size(&root, &a).await.unwrap(), None);
        let from = futures::stream::iter([Ok(Bytes::from_static(b"one"))]).boxed();
        upload(&root, &a, from).await.unwrap();
        assert_eq!(size(&root, &a).await.unwrap(), Some(3));
        let (size, pieces) = stream(&root, &a).await.unwrap().unwrap();
        let bytes: BytesMut = pieces.try_collect().await.unwrap();
        assert_eq!((size, &bytes[..]), (3, &b"one"[..]));
        fs::remove_dir_all(&*root).unwrap();
    }
}
