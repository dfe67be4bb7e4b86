//! Revisions on disk: each in a folder of its own that is never changed, and a link to the one that was good last.
//!
//! A revision is there as a whole or not at all: it is written beside and renamed, and who uses it [holds](Hold) it. Several workers may
//! share a folder.
//!
//! Never takes a revision away that somebody may be reading, and never takes one away in parts.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::time::Duration;

use rustix::fs::{CWD, RenameFlags, renameat_with};
use sha2::{Digest as _, Sha256};

use crate::bundle::{Manifest, Revision, Snapshot, hex, is_name};
use crate::crash;

/// What a revision is made of, beside its sources.
const MANIFEST: &str = "manifest.json";
/// The folder of its sources, each in one of its name.
const SOURCES: &str = "sources";
/// So many revisions are kept at least.
const KEPT: usize = 32;
/// What somebody began to write so long ago and did not end, nobody will.
const LEFT: Duration = Duration::from_secs(24 * 3600);

/// Where a worker keeps the revisions of one bundle.
#[derive(Debug, Clone)]
pub(super) struct Folder {
    root: PathBuf,
    current: PathBuf,
}

impl Folder {
    pub(super) fn new(root: &Path, bundle: &str, pool: &str) -> Self {
        let root = root.join(bundle);
        Self {
            current: root.join(format!("current-{}", fit(pool))),
            root,
        }
    }

    /// A revision, if all that it is made of is there as it was published.
    pub(super) fn whole(&self, revision: &Revision) -> io::Result<Option<Hold>> {
        let Some(hold) = Hold::of(self.root.join(revision.as_str()))? else {
            return Ok(None);
        };
        let manifest = fs::read(hold.folder.join(MANIFEST)).ok();
        let manifest: Option<Manifest> =
            manifest.and_then(|text| serde_json::from_slice(&text).ok());
        let is_whole = manifest.is_some_and(|manifest| {
            let is_same = |(name, wanted): (&String, &String)| {
                Snapshot::read(&hold.sources().join(name))
                    .is_ok_and(|found| found.revision() == *wanted)
            };
            manifest.revision() == *revision && manifest.sources.iter().all(is_same)
        });
        Ok(is_whole.then_some(hold))
    }

    /// Writes a revision.
    pub(super) fn put(
        &self,
        manifest: &Manifest,
        sources: &BTreeMap<String, Snapshot>,
    ) -> io::Result<()> {
        let revision = manifest.revision();
        if self.whole(&revision)?.is_some() {
            return Ok(());
        }
        let path = self.root.join(revision.as_str());
        let beside = self.beside(revision.as_str());
        fs::create_dir_all(&beside)?;
        let written = write_all(&beside, manifest, sources);
        crash::point("bundle:written");
        let placed = written.and_then(|()| self.place(&beside, &path, &revision));
        // What is left there is what nobody needs.
        let _gone = fs::remove_dir_all(&beside);
        placed?;
        crash::point("bundle:fetched");
        Ok(())
    }

    /// Gives what is written beside its name; what had it and is not what it was stands beside then.
    fn place(&self, beside: &Path, path: &Path, revision: &Revision) -> io::Result<()> {
        if let Err(error) = fs::rename(beside, path) {
            if !path.is_dir() {
                return Err(error);
            }
            // Another worker may have been faster.
            if self.whole(revision)?.is_some() {
                return Ok(());
            }
            renameat_with(CWD, beside, CWD, path, RenameFlags::EXCHANGE)?;
        }
        sync(&self.root)
    }

    /// A name that nobody reads.
    fn beside(&self, name: &str) -> PathBuf {
        let unique = uuid::Uuid::now_v7().simple();
        self.root.join(format!(".{name}.{unique}"))
    }

    /// The revision that was good last.
    pub(super) fn current(&self) -> Option<Revision> {
        let target = fs::read_link(&self.current).ok()?;
        Revision::parse(target.to_str()?)
    }

    /// A restart begins with this one.
    pub(super) fn set_current(&self, revision: &Revision) -> io::Result<()> {
        let beside = self.beside("current");
        std::os::unix::fs::symlink(revision.as_str(), &beside)?;
        fs::rename(&beside, &self.current)?;
        sync(&self.root)
    }

    /// Takes old revisions away that nobody holds and no restart begins with, and what was never ended.
    pub(super) fn tidy(&self) -> io::Result<()> {
        let (mut found, mut kept) = (Vec::new(), BTreeSet::new());
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            let Ok(changed) = entry.metadata().and_then(|entry| entry.modified()) else {
                // Another worker, which shares the folder, has just taken it away.
                continue;
            };
            if let Some(revision) = Revision::parse(name) {
                found.push((changed, revision));
            } else if name.starts_with("current-")
                && let Ok(target) = fs::read_link(entry.path())
                && let Some(revision) = target.to_str().and_then(Revision::parse)
            {
                kept.insert(revision);
            } else if name.starts_with('.') && changed.elapsed().is_ok_and(|age| age > LEFT) {
                let path = entry.path();
                let _gone = fs::remove_dir_all(&path).or_else(|_| fs::remove_file(path));
            }
        }
        found.sort();
        let old = found.len().saturating_sub(KEPT);
        let old = found.into_iter().take(old);
        for (_, revision) in old.filter(|(_, one)| !kept.contains(one)) {
            self.remove(&revision)?;
        }
        Ok(())
    }

    fn remove(&self, revision: &Revision) -> io::Result<()> {
        let path = self.root.join(revision.as_str());
        let Some(lock) = opened(&path)? else {
            return Ok(());
        };
        if lock.try_lock().is_ok() && is_at(&lock, &path)? {
            let beside = self.beside(revision.as_str());
            fs::rename(path, &beside)?;
            fs::remove_dir_all(beside)?;
        }
        Ok(())
    }
}

/// A revision that stays in its folder for as long as this is there, whoever tidies up: a shared lock of its directory.
#[derive(Debug)]
pub struct Hold {
    folder: PathBuf,
    _lock: File,
}

impl Hold {
    fn of(folder: PathBuf) -> io::Result<Option<Self>> {
        let Some(lock) = opened(&folder)? else {
            return Ok(None);
        };
        lock.lock_shared()?;
        Ok(is_at(&lock, &folder)?.then_some(Self {
            folder,
            _lock: lock,
        }))
    }

    /// The folder of its sources.
    pub(super) fn sources(&self) -> PathBuf {
        self.folder.join(SOURCES)
    }
}

/// A directory, to be locked; `None`: there is none.
fn opened(path: &Path) -> io::Result<Option<File>> {
    match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        other => other.map(Some),
    }
}

/// Whether what was locked stands there still: it may have been taken away, or changed its place, before it was.
fn is_at(lock: &File, path: &Path) -> io::Result<bool> {
    let held = lock.metadata()?;
    Ok(fs::metadata(path).is_ok_and(|now| (now.dev(), now.ino()) == (held.dev(), held.ino())))
}

/// A pool's name as a part of a file's, which it cannot be as it is if it has a `/`.
fn fit(pool: &str) -> String {
    if is_name(pool) {
        pool.to_owned()
    } else {
        hex(&Sha256::digest(pool.as_bytes()))
    }
}

fn write_all(
    folder: &Path,
    manifest: &Manifest,
    sources: &BTreeMap<String, Snapshot>,
) -> io::Result<()> {
    for (name, source) in sources {
        for (path, file) in &source.files {
            let path = folder.join(SOURCES).join(name).join(path);
            if let Some(parent) = path.parent() {
                fs::create_dir_all(parent)?;
            }
            write(&path, &file.bytes)?;
            if file.executable {
                fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
            }
        }
    }
    write(
        &folder.join(MANIFEST),
        serde_json::to_string(manifest)?.as_bytes(),
    )?;
    sync(folder)
}

fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
    let mut file = File::create_new(path)?;
    file.write_all(bytes)?;
    file.sync_all()
}

fn sync(folder: &Path) -> io::Result<()> {
    File::open(folder)?.sync_all()
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicBool, Ordering};
    use std::thread;

    use super::*;
    use crate::bundle::File as Content;

    fn content(number: usize) -> (Manifest, BTreeMap<String, Snapshot>) {
        let file = |name: &str| {
            let content = Content {
                bytes: format!("# {number} {name}").into_bytes(),
                executable: false,
            };
            (name.to_owned(), content)
        };
        let source = Snapshot {
            files: ["a.toml", "b.toml"].map(file).into(),
            ..Snapshot::default()
        };
        let manifest = Manifest {
            sources: [("one".to_owned(), source.revision())].into(),
            undoes: None,
        };
        (manifest, [("one".to_owned(), source)].into())
    }

    fn put(folder: &Folder, number: usize) -> Revision {
        let (manifest, sources) = content(number);
        folder.put(&manifest, &sources).unwrap();
        manifest.revision()
    }

    /// A folder that goes with the test.
    struct Scratch(Folder);

    impl Scratch {
        fn new() -> Self {
            let name = format!("longshore-{}", uuid::Uuid::now_v7().simple());
            Self(Folder::new(
                &std::env::temp_dir().join(name),
                "bundle",
                "pool",
            ))
        }
    }

    impl Drop for Scratch {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(self.0.root.parent().unwrap());
        }
    }

    #[test]
    fn what_another_has_written_meanwhile_stays_where_it_is() {
        let scratch = Scratch::new();
        let folder = &scratch.0;
        let revision = put(folder, 1);
        let held = folder.whole(&revision).unwrap().unwrap();
        let file = held.sources().join("one/a.toml");
        let before = fs::metadata(&file).unwrap().ino();
        put(folder, 1);
        assert_eq!(fs::metadata(&file).unwrap().ino(), before);
    }

    #[test]
    fn what_is_mended_is_never_missing() {
        let scratch = Scratch::new();
        let folder = &scratch.0;
        let revision = put(folder, 1);
        let path = folder.root.join(revision.as_str()).join("sources/one");
        thread::scope(|scope| {
            let mending = scope.spawn(|| {
                for _ in 0..50 {
                    fs::write(path.join("b.toml"), "wrong").unwrap();
                    assert!(folder.whole(&revision).unwrap().is_none());
                    put(folder, 1);
                    assert!(folder.whole(&revision).unwrap().is_some());
                }
            });
            while !mending.is_finished() {
                assert_eq!(fs::read(path.join("a.toml")).unwrap(), b"# 1 a.toml");
            }
        });
        assert_eq!(
            fs::read_dir(&folder.root).unwrap().count(),
            1,
            "nothing is left beside"
        );
    }

    #[test]
    fn workers_that_share_a_folder_tidy_up_beside_one_another() {
        let scratch = Scratch::new();
        let folder = &scratch.0;
        put(folder, 0);
        let over = AtomicBool::new(false);
        let written = thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    while !over.load(Ordering::Relaxed) {
                        folder.tidy().unwrap();
                    }
                });
            }
            let mut all = (1..200).map(content);
            let written = all.try_for_each(|(manifest, sources)| folder.put(&manifest, &sources));
            over.store(true, Ordering::Relaxed);
            written
        });
        written.unwrap();
        folder.tidy().unwrap();
        assert_eq!(fs::read_dir(&folder.root).unwrap().count(), KEPT);
    }

    #[test]
    fn what_is_held_and_what_a_restart_begins_with_stays() {
        let scratch = Scratch::new();
        let folder = &scratch.0;
        let revisions: Vec<Revision> = (0..KEPT + 4).map(|number| put(folder, number)).collect();
        for (at, revision) in revisions.iter().enumerate() {
            let moment = std::time::SystemTime::UNIX_EPOCH + Duration::from_secs(at as u64);
            let file = File::open(folder.root.join(revision.as_str())).unwrap();
            file.set_modified(moment).unwrap();
        }
        folder.set_current(&revisions[1]).unwrap();
        let held = folder.whole(&revisions[0]).unwrap().unwrap();
        folder.tidy().unwrap();
        let there = |at: usize| folder.whole(&revisions[at]).unwrap().is_some();
        assert_eq!([0, 1, 2, 3, 4].map(there), [true, true, false, false, true]);
        drop(held);
        folder.tidy().unwrap();
        assert_eq!([0, 1, 4].map(there), [false, true, true]);
    }
}
