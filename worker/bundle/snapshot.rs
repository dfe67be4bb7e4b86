//! What a source holds at one moment: the files of a file, a directory, a ConfigMap's mount or a git repository.
//!
//! Bounded ([`LARGEST_FILE`], [`LARGEST_SOURCE`], [`MOST_FILES`]); a source that changes while it is read is read again, so that what is
//! yielded was there as a whole. Never runs anything but `git archive`, and never writes.

use std::collections::BTreeMap;
use std::fs;
use std::io::Read as _;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::SystemTime;

use flate2::Compression;
use flate2::read::GzDecoder;
use flate2::write::GzEncoder;
use sha2::{Digest as _, Sha256};

use super::hex;

/// Bytes of one file, as many as a configuration file may have.
pub const LARGEST_FILE: u64 = 1024 * 1024;
/// Bytes of a source: a ConfigMap has at most one mebibyte.
pub const LARGEST_SOURCE: u64 = 16 * 1024 * 1024;
/// Files of a source.
pub const MOST_FILES: usize = 1000;
/// How often a source that moves meanwhile is read again.
const TRIES: usize = 5;
/// What the kubelet calls the link to a mount's present files.
const DATA: &str = "..data";
/// The file that says to which set the source belongs.
pub const MARK: &str = ".bundle";
/// Bytes of it.
const LONGEST_MARK: u64 = 256;

/// A file of a source.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct File {
    /// What is in it.
    pub bytes: Vec<u8>,
    /// Whether it may be run.
    pub executable: bool,
}

/// A source as it was at one moment.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Snapshot {
    /// Its files, by their path in it, `/` between.
    pub files: BTreeMap<String, File>,
    /// The set that it says it belongs to.
    pub mark: Option<String>,
    /// When something in it was changed last, if the file system says so.
    pub changed: Option<SystemTime>,
}

/// Why a source cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum SourceError {
    /// The file system says no.
    #[error("{}: {error}", path.display())]
    Io {
        /// Where.
        path: PathBuf,
        /// Why.
        error: std::io::Error,
    },
    /// There is nothing in it.
    #[error("{} is empty: a source has at least one file", .0.display())]
    Empty(PathBuf),
    /// It is larger than anything that is a configuration.
    #[error("{} {what}", path.display())]
    Large {
        /// Where.
        path: PathBuf,
        /// Which bound.
        what: String,
    },
    /// Its names are no text, or leave it.
    #[error("{}: a file's name must be UTF-8 text without control characters, and lead nowhere else", .0.display())]
    Name(PathBuf),
    /// It never stood still.
    #[error("{} changes while it is read: try again", .0.display())]
    Moving(PathBuf),
    /// git says no.
    #[error("git archive {revision} in {}: {said}", path.display())]
    Git {
        /// The clone.
        path: PathBuf,
        /// What was wanted of it.
        revision: String,
        /// What it said.
        said: String,
    },
}

impl Snapshot {
    /// The SHA-256 of the files: of each its path, whether it may be run, and the SHA-256 of its bytes.
    pub fn revision(&self) -> String {
        let mut all = Sha256::new();
        for (path, file) in &self.files {
            all.update((path.len() as u64).to_be_bytes());
            all.update(path.as_bytes());
            all.update([u8::from(file.executable)]);
            all.update(Sha256::digest(&file.bytes));
        }
        hex(&all.finalize())
    }

    /// Bytes of all files.
    pub fn bytes(&self) -> u64 {
        self.files
            .values()
            .map(|file| file.bytes.len() as u64)
            .sum()
    }

    /// Its files as one piece: a tar, compressed.
    ///
    /// # Errors
    ///
    /// A path that no tar can have.
    pub fn pack(&self) -> std::io::Result<Vec<u8>> {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        for (path, file) in &self.files {
            let mut header = tar::Header::new_gnu();
            header.set_size(file.bytes.len() as u64);
            header.set_mode(if file.executable { 0o755 } else { 0o644 });
            archive.append_data(&mut header, path, file.bytes.as_slice())?;
        }
        archive.into_inner()?.finish()
    }

    /// What [`Snapshot::pack`] has made of it.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub fn unpack(packed: &[u8]) -> Result<Self, SourceError> {
        unpack(Path::new("the store's copy"), GzDecoder::new(packed))
    }

    /// What is in a file, or in a directory with all below it. Hidden files are left out, and so is what the kubelet
    /// keeps beside a ConfigMap's files; of a ConfigMap the files are of one moment.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub fn read(path: &Path) -> Result<Self, SourceError> {
        for _ in 0..TRIES {
            let (mark, before) = (link(path), read_once(path));
            // A swap takes the old files away: what failed then has only moved.
            if mark != link(path) {
                continue;
            }
            let before = before?;
            if read_once(path)? == before && mark == link(path) {
                return if before.files.is_empty() {
                    Err(SourceError::Empty(path.to_owned()))
                } else {
                    Ok(before)
                };
            }
        }
        Err(SourceError::Moving(path.to_owned()))
    }

    /// What a commit of the clone at `path` holds, or a directory of it.
    ///
    /// # Errors
    ///
    /// [`SourceError`].
    pub fn read_git(path: &Path, revision: &str) -> Result<Self, SourceError> {
        let failed = |said: String| SourceError::Git {
            path: path.to_owned(),
            revision: revision.to_owned(),
            said,
        };
        let mut child = Command::new("git")
            .arg("-C")
            .arg(path)
            .args(["archive", "--format=tar", "--end-of-options", revision])
            .env("GIT_TERMINAL_PROMPT", "0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| failed(format!("cannot be started: {error}")))?;
        let out = child.stdout.take();
        let files = out.map_or_else(|| Ok(Self::default()), |out| unpack(path, out));
        // Whatever is left of it is not wanted.
        let output = child
            .wait_with_output()
            .map_err(|error| failed(error.to_string()))?;
        if !output.status.success() {
            let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(failed(if said.is_empty() {
                output.status.to_string()
            } else {
                said
            }));
        }
        let files = files?;
        if files.files.is_empty() {
            return Err(SourceError::Empty(path.to_owned()));
        }
        Ok(files)
    }

    fn touched(&mut self, what: Option<fs::Metadata>) {
        let changed = what.and_then(|what| what.modified().ok());
        self.changed = self.changed.max(changed);
    }

    fn add(
        &mut self,
        root: &Path,
        path: String,
        mode: u32,
        file: impl std::io::Read,
    ) -> Result<(), SourceError> {
        let place = root.join(&path);
        let is_odd = |part: &str| matches!(part, "" | "." | "..");
        if path.split('/').any(is_odd) || path.chars().any(char::is_control) {
            return Err(SourceError::Name(place));
        }
        let large = |what: String| SourceError::Large {
            path: place.clone(),
            what,
        };
        let mut bytes = Vec::new();
        file.take(LARGEST_FILE + 1)
            .read_to_end(&mut bytes)
            .map_err(|error| SourceError::Io {
                path: place.clone(),
                error,
            })?;
        if bytes.len() as u64 > LARGEST_FILE {
            return Err(large(format!("is larger than {LARGEST_FILE} bytes")));
        }
        let executable = mode & 0o111 != 0;
        self.files.insert(path, File { bytes, executable });
        if self.files.len() > MOST_FILES {
            return Err(large(format!(
                "makes more than {MOST_FILES} files of a source"
            )));
        }
        if self.bytes() > LARGEST_SOURCE {
            return Err(large(format!(
                "makes a source larger than {LARGEST_SOURCE} bytes"
            )));
        }
        Ok(())
    }
}

/// Where a mount's link to its present files points.
fn link(path: &Path) -> Option<PathBuf> {
    fs::read_link(path.join(DATA)).ok()
}

/// The first line of the file, if there is one and it is a text.
fn mark(path: &Path) -> Option<String> {
    let mut text = String::new();
    let file = fs::File::open(path).ok()?;
    file.take(LONGEST_MARK).read_to_string(&mut text).ok()?;
    let line = text.lines().next()?.trim();
    (!line.is_empty()).then(|| line.to_owned())
}

fn read_once(path: &Path) -> Result<Snapshot, SourceError> {
    let at = |error| SourceError::Io {
        path: path.to_owned(),
        error,
    };
    let mut files = Snapshot::default();
    // What the link points to now, so that a swap meanwhile mixes nothing.
    let root = link(path).map_or_else(|| path.to_owned(), |target| path.join(target));
    if fs::metadata(&root).map_err(at)?.is_dir() {
        walk(&mut files, &root, &root, String::new())?;
        files.mark = mark(&root.join(MARK));
        files.touched(fs::symlink_metadata(path.join(DATA)).ok());
    } else {
        let name = path.file_name().and_then(|name| name.to_str());
        let name = name.ok_or_else(|| SourceError::Name(path.to_owned()))?;
        let file = fs::File::open(&root).map_err(at)?;
        let what = file.metadata().map_err(at)?;
        let mode = what.permissions().mode();
        files.touched(Some(what));
        files.add(path.parent().unwrap_or(path), name.to_owned(), mode, file)?;
    }
    Ok(files)
}

fn walk(
    files: &mut Snapshot,
    root: &Path,
    folder: &Path,
    before: String,
) -> Result<(), SourceError> {
    let at = |error| SourceError::Io {
        path: folder.to_owned(),
        error,
    };
    files.touched(fs::metadata(folder).ok());
    for entry in fs::read_dir(folder).map_err(at)? {
        let entry = entry.map_err(at)?;
        let place = entry.path();
        let name = entry.file_name();
        let name = name
            .to_str()
            .ok_or_else(|| SourceError::Name(place.clone()))?;
        if name.starts_with('.') {
            continue;
        }
        let io = |error| SourceError::Io {
            path: place.clone(),
            error,
        };
        let kind = fs::metadata(&place).map_err(io)?;
        let path = format!("{before}{name}");
        if kind.is_dir() {
            // A link to a folder above would lead round for ever.
            if entry.file_type().map_err(io)?.is_symlink() {
                continue;
            }
            walk(files, root, &place, format!("{path}/"))?;
        } else if kind.is_file() {
            let mode = kind.permissions().mode();
            files.touched(Some(kind));
            files.add(root, path, mode, fs::File::open(&place).map_err(io)?)?;
        }
    }
    Ok(())
}

fn unpack(root: &Path, archive: impl std::io::Read) -> Result<Snapshot, SourceError> {
    let io = |error| SourceError::Io {
        path: root.to_owned(),
        error,
    };
    let mut files = Snapshot::default();
    for entry in tar::Archive::new(archive).entries().map_err(io)? {
        let entry = entry.map_err(io)?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = entry.path().map_err(io)?.into_owned();
        let text = path
            .to_str()
            .ok_or_else(|| SourceError::Name(root.join(&path)))?
            .to_owned();
        if text
            .split('/')
            .any(|part| part.starts_with('.') && part != "..")
        {
            continue;
        }
        let mode = entry.header().mode().map_err(io)?;
        files.add(root, text, mode, entry)?;
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    struct Folder(PathBuf);

    impl Folder {
        fn new() -> Self {
            let path = std::env::temp_dir().join(format!(
                "longshore-source-{}",
                uuid::Uuid::now_v7().simple()
            ));
            fs::create_dir_all(&path).unwrap();
            Self(path)
        }

        fn write(&self, path: &str, text: &str) {
            let path = self.0.join(path);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        }
    }

    impl Drop for Folder {
        fn drop(&mut self) {
            let _gone = fs::remove_dir_all(&self.0);
        }
    }

    fn names(snapshot: &Snapshot) -> Vec<&str> {
        snapshot.files.keys().map(String::as_str).collect()
    }

    #[test]
    fn a_directory_is_its_files_and_not_what_is_hidden() {
        let folder = Folder::new();
        folder.write("a.toml", "x = 1");
        folder.write("deep/er/b.txt", "b");
        folder.write(".git/config", "hidden");
        folder.write(".bundle", " set 7 \nmore");
        let read = Snapshot::read(&folder.0).unwrap();
        assert_eq!(names(&read), ["a.toml", "deep/er/b.txt"]);
        assert_eq!(read.mark.as_deref(), Some("set 7"));
        let one = Snapshot::read(&folder.0.join("a.toml")).unwrap();
        assert_eq!(names(&one), ["a.toml"]);
    }

    #[test]
    fn the_revision_is_of_names_bytes_and_what_may_be_run() {
        let folder = Folder::new();
        folder.write("a", "1");
        let before = Snapshot::read(&folder.0).unwrap().revision();
        assert_eq!(Snapshot::read(&folder.0).unwrap().revision(), before);
        fs::set_permissions(folder.0.join("a"), fs::Permissions::from_mode(0o755)).unwrap();
        let run = Snapshot::read(&folder.0).unwrap().revision();
        assert_ne!(run, before);
        folder.write("a", "2");
        assert_ne!(Snapshot::read(&folder.0).unwrap().revision(), run);
    }

    #[test]
    fn what_was_packed_comes_out_as_it_was() {
        let folder = Folder::new();
        folder.write("a", "1");
        folder.write("deep/b", &"x".repeat(100_000));
        fs::set_permissions(folder.0.join("a"), fs::Permissions::from_mode(0o700)).unwrap();
        let read = Snapshot::read(&folder.0).unwrap();
        let back = Snapshot::unpack(&read.pack().unwrap()).unwrap();
        assert_eq!(back.files, read.files);
        assert_eq!(back.revision(), read.revision());
    }

    #[test]
    fn nothing_leaves_its_source_and_nothing_is_too_large() {
        let mut archive = tar::Builder::new(GzEncoder::new(Vec::new(), Compression::default()));
        let mut header = tar::Header::new_gnu();
        header.set_size(1);
        header.set_mode(0o644);
        header.as_old_mut().name[..9].copy_from_slice(b"../escape");
        header.set_cksum();
        archive.append(&header, &b"x"[..]).unwrap();
        let packed = archive.into_inner().unwrap().finish().unwrap();
        assert!(matches!(
            Snapshot::unpack(&packed),
            Err(SourceError::Name(_))
        ));
        let folder = Folder::new();
        folder.write("a", &"x".repeat(LARGEST_FILE as usize + 1));
        assert!(matches!(
            Snapshot::read(&folder.0),
            Err(SourceError::Large { .. })
        ));
    }

    #[test]
    fn a_source_with_nothing_in_it_is_none() {
        let folder = Folder::new();
        assert!(matches!(
            Snapshot::read(&folder.0),
            Err(SourceError::Empty(_))
        ));
        assert!(matches!(
            Snapshot::read(&folder.0.join("none")),
            Err(SourceError::Io { .. })
        ));
    }
}
