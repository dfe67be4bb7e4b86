//! Revisions on disk: each in a folder of its own that is never changed, and a link to the one that was good last.
//!
//! A revision is there as a whole or not at all: it is written beside and renamed. Several workers may share a folder.

use std::collections::{BTreeMap, BTreeSet};
use std::fs::{self, File};
use std::io::{self, Write as _};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use sha2::{Digest as _, Sha256};

use crate::bundle::{Manifest, Revision, Snapshot, hex, is_name};
use crate::crash;

/// What a revision is made of, beside its sources.
const MANIFEST: &str = "manifest.json";
/// The folder of its sources, each in one of its name.
const SOURCES: &str = "sources";
/// So many revisions are kept at least.
const KEPT: usize = 32;

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

    /// The sources of a revision, if it is there.
    pub(super) fn sources(&self, revision: &Revision) -> Option<PathBuf> {
        self.find(revision).map(|path| path.join(SOURCES))
    }

    fn find(&self, revision: &Revision) -> Option<PathBuf> {
        let path = self.root.join(revision.as_str());
        path.is_dir().then_some(path)
    }

    /// Writes a revision.
    pub(super) fn put(
        &self,
        manifest: &Manifest,
        sources: &BTreeMap<String, Snapshot>,
    ) -> io::Result<()> {
        let revision = manifest.revision();
        if self.find(&revision).is_some() {
            return Ok(());
        }
        let path = self.root.join(revision.as_str());
        let beside = self
            .root
            .join(format!(".{revision}.{}", uuid::Uuid::now_v7().simple()));
        fs::create_dir_all(&beside)?;
        let written = write_all(&beside, manifest, sources);
        crash::point("bundle:written");
        match written.and_then(|()| fs::rename(&beside, &path)) {
            Ok(()) => sync(&self.root)?,
            Err(error) => {
                // What stays is a hidden folder that nobody reads.
                let _gone = fs::remove_dir_all(&beside);
                // Another worker may have been faster.
                if !path.is_dir() {
                    return Err(error);
                }
            }
        }
        crash::point("bundle:fetched");
        Ok(())
    }

    /// Whether all that a revision is made of is there, as it was published.
    pub(super) fn is_whole(&self, revision: &Revision) -> bool {
        let Some(path) = self.find(revision) else {
            return false;
        };
        let manifest = fs::read(path.join(MANIFEST)).ok();
        let manifest: Option<Manifest> =
            manifest.and_then(|text| serde_json::from_slice(&text).ok());
        manifest.is_some_and(|manifest| {
            let is_same = |(name, wanted): (&String, &String)| {
                Snapshot::read(&path.join(SOURCES).join(name))
                    .is_ok_and(|found| found.revision() == *wanted)
            };
            manifest.revision() == *revision && manifest.sources.iter().all(is_same)
        })
    }

    /// Takes a revision away that is not what it was.
    pub(super) fn discard(&self, revision: &Revision) -> io::Result<()> {
        match self.find(revision) {
            Some(path) => fs::remove_dir_all(path),
            None => Ok(()),
        }
    }

    /// The revision that was good last.
    pub(super) fn current(&self) -> Option<Revision> {
        let target = fs::read_link(&self.current).ok()?;
        Revision::parse(target.to_str()?)
    }

    /// A restart begins with this one.
    pub(super) fn set_current(&self, revision: &Revision) -> io::Result<()> {
        let beside = self
            .root
            .join(format!(".current.{}", uuid::Uuid::now_v7().simple()));
        std::os::unix::fs::symlink(revision.as_str(), &beside)?;
        fs::rename(&beside, &self.current)?;
        sync(&self.root)
    }

    /// Takes old revisions away, but none that somebody may be using.
    pub(super) fn tidy(&self, used: &BTreeSet<Revision>) -> io::Result<()> {
        let (mut found, mut kept) = (Vec::new(), used.clone());
        for entry in fs::read_dir(&self.root)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_str().unwrap_or_default();
            if let Some(revision) = Revision::parse(name) {
                found.push((entry.metadata()?.modified()?, revision));
            } else if name.starts_with("current-")
                && let Ok(target) = fs::read_link(entry.path())
                && let Some(revision) = target.to_str().and_then(Revision::parse)
            {
                kept.insert(revision);
            }
        }
        found.sort();
        let old = found.len().saturating_sub(KEPT);
        for (_, revision) in found
            .iter()
            .take(old)
            .filter(|(_, one)| !kept.contains(one))
        {
            fs::remove_dir_all(self.root.join(revision.as_str()))?;
        }
        Ok(())
    }
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
