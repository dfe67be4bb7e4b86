//! The files that an attempt and its commands talk by.

use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD as BASE64;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use tokio::io::AsyncReadExt as _;

use crate::handler::Fatal;
use crate::plugin_host::folder::Folder;
use crate::task::Task;

/// The largest checkpoint, in bytes: it is written whole each time.
const LARGEST_CHECKPOINT: u64 = 64 * 1024;
/// The largest result, in bytes.
const LARGEST_RESULT: u64 = 1024 * 1024;

/// What is kept of a task between its attempts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Kept {
    /// What the command saved, as text, …
    #[serde(skip_serializing_if = "Option::is_none")]
    text: Option<String>,
    /// … or, where that cannot be stored as text, in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    base64: Option<String>,
    /// Whether the stage is over.
    #[serde(skip_serializing_if = "is_false")]
    pub(super) staged: bool,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(flag: &bool) -> bool {
    !flag
}

impl Kept {
    /// Keeps what the command saved.
    pub(super) fn save(&mut self, bytes: Vec<u8>) {
        (self.text, self.base64) = match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => (Some(text), None),
            Ok(text) => (None, Some(BASE64.encode(text))),
            Err(error) => (None, Some(BASE64.encode(error.as_bytes()))),
        };
    }

    /// What the command saved.
    pub(super) fn saved(&self) -> Option<Vec<u8>> {
        match (&self.text, &self.base64) {
            (Some(text), _) => Some(text.clone().into_bytes()),
            (None, Some(base64)) => BASE64.decode(base64).ok(),
            (None, None) => None,
        }
    }
}

/// A folder with them; it goes with the attempt.
pub(super) struct Files {
    folder: Folder,
    seen: Option<Seen>,
}

/// By what a file that was replaced shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    inode: u64,
    modified: (i64, i64),
    size: u64,
}

impl Files {
    /// Makes them.
    pub(super) fn make(task: &Task, saved: Option<Vec<u8>>) -> io::Result<Self> {
        let folder = Folder::make()?;
        std::fs::create_dir(folder.path().join("work"))?;
        let arguments = json!({ "args": task.args, "kwargs": task.kwargs });
        std::fs::write(folder.path().join("arguments"), arguments.to_string())?;
        let files = Self { folder, seen: None };
        files.put_checkpoint(saved)?;
        Ok(files)
    }

    /// Lets a command find the last checkpoint.
    pub(super) fn put_checkpoint(&self, saved: Option<Vec<u8>>) -> io::Result<()> {
        saved.map_or(Ok(()), |saved| std::fs::write(self.checkpoint(), saved))
    }

    /// Where a command runs that has no folder of its own.
    pub(super) fn work(&self) -> PathBuf {
        self.path("work")
    }

    /// The task's arguments.
    pub(super) fn arguments(&self) -> PathBuf {
        self.path("arguments")
    }

    /// The last checkpoint, …
    pub(super) fn checkpoint(&self) -> PathBuf {
        self.path("checkpoint")
    }

    /// … and the next.
    pub(super) fn next_checkpoint(&self) -> PathBuf {
        self.path("checkpoint.out")
    }

    /// The task's result.
    pub(super) fn result(&self) -> PathBuf {
        self.path("result")
    }

    fn path(&self, name: &str) -> PathBuf {
        self.folder.path().join(name)
    }

    /// A checkpoint that was written since the last look.
    pub(super) async fn new_checkpoint(&mut self) -> anyhow::Result<Option<Vec<u8>>> {
        let path = self.next_checkpoint();
        let found = match tokio::fs::symlink_metadata(&path).await {
            Ok(found) => found,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error.into()),
        };
        let seen = Some(Seen {
            inode: found.ino(),
            modified: (found.mtime(), found.mtime_nsec()),
            size: found.size(),
        });
        if self.seen == seen {
            return Ok(None);
        }
        self.seen = seen;
        let bytes = read(&path, LARGEST_CHECKPOINT, "LONGSHORE_CHECKPOINT_OUT").await?;
        Ok(Some(bytes))
    }

    /// What the command wrote as the task's result; null if nothing.
    pub(super) async fn take_result(&self) -> anyhow::Result<Value> {
        let path = self.result();
        if !tokio::fs::try_exists(&path).await? {
            return Ok(Value::Null);
        }
        let bytes = read(&path, LARGEST_RESULT, "LONGSHORE_RESULT").await?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Fatal(format!("LONGSHORE_RESULT holds no JSON: {error}")).into())
    }
}

/// Reads a file that a command wrote.
async fn read(path: &Path, largest: u64, name: &str) -> anyhow::Result<Vec<u8>> {
    // What is no file could keep us waiting for ever.
    if !tokio::fs::symlink_metadata(path).await?.is_file() {
        anyhow::bail!(Fatal(format!("what was made of {name} is no file")));
    }
    let mut bytes = Vec::new();
    let mut file = tokio::fs::File::open(path).await?.take(largest + 1);
    file.read_to_end(&mut bytes).await?;
    if bytes.len() as u64 > largest {
        anyhow::bail!(Fatal(format!("{name} is larger than {largest} bytes")));
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn any_bytes_are_kept_as_they_are() {
        for bytes in [&b"step 3\n"[..], b"", b"a\0b", b"\xff\xfe", "é".as_bytes()] {
            let mut kept = Kept::default();
            kept.save(bytes.to_vec());
            let json = serde_json::to_string(&kept).unwrap();
            assert!(!json.contains("u0000"), "{json}");
            let back: Kept = serde_json::from_str(&json).unwrap();
            assert_eq!(back.saved().as_deref(), Some(bytes));
        }
        assert_eq!(Kept::default().saved(), None);
    }

    #[tokio::test]
    async fn what_a_command_makes_of_its_files_is_bounded() {
        let mut files = Files::make(&Task::new("a", "q"), None).unwrap();
        assert_eq!(files.new_checkpoint().await.unwrap(), None);
        std::fs::write(files.next_checkpoint(), "1").unwrap();
        assert_eq!(
            files.new_checkpoint().await.unwrap().as_deref(),
            Some(&b"1"[..])
        );
        assert_eq!(files.new_checkpoint().await.unwrap(), None, "seen");
        std::fs::write(files.next_checkpoint(), vec![b'a'; 65_537]).unwrap();
        let error = files.new_checkpoint().await.unwrap_err();
        assert!(error.to_string().contains("larger than"), "{error}");
        std::fs::remove_file(files.next_checkpoint()).unwrap();
        std::os::unix::fs::symlink("/dev/zero", files.next_checkpoint()).unwrap();
        let error = files.new_checkpoint().await.unwrap_err();
        assert!(error.to_string().contains("is no file"), "{error}");
        assert_eq!(files.take_result().await.unwrap(), Value::Null);
        std::fs::write(files.result(), "{").unwrap();
        assert!(files.take_result().await.is_err());
    }
}
