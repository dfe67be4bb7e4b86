//! Files in SQUAD's storage: written beside their place and put there whole, under a number that nothing refers to
//! until the transaction that shows them.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs;
use tokio::io::AsyncWriteExt;

use crate::bucket::{Bucket, Upload};
use crate::config::{self, Config};

/// SQUAD's storage.
#[derive(Debug)]
pub struct Storage {
    place: Place,
    /// As the configuration has it.
    name: String,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Bucket(Bucket),
}

/// A file on its way.
pub(super) struct Writing {
    file: File,
    /// For errors.
    path: String,
    length: u64,
}

enum File {
    Folder(Beside),
    Bucket(Upload),
}

/// A file beside its place. A small one is made in one go when it is whole: each step is a thread of its own that the runtime waits for.
struct Beside {
    beside: PathBuf,
    place: PathBuf,
    /// What is not written yet.
    buffer: Vec<u8>,
    /// Once it is not small.
    file: Option<fs::File>,
}

/// What is collected before it is written.
const BUFFER: usize = 256 * 1024;

/// What could not be done with a file of the storage; another attempt may.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path} in squad.storage: {source}")]
pub struct StorageError {
    what: &'static str,
    path: String,
    #[source]
    source: io::Error,
}

fn failed(what: &'static str, path: &str) -> impl FnOnce(io::Error) -> StorageError {
    let path = path.to_owned();
    move |source| StorageError { what, path, source }
}

/// What stands in its place for a moment while somebody asks whether it can.
const PROBE: &str = ".longshore";

impl Storage {
    /// The storage that the configuration names, if it names one. Asks nobody.
    ///
    /// # Errors
    ///
    /// What is said of the bucket cannot be.
    pub fn new(config: &Config) -> Result<Option<Self>, StorageError> {
        let Some(storage) = &config.squad.storage else {
            return Ok(None);
        };
        let name = storage.to_string();
        let place = match storage {
            config::Storage::Folder(folder) => Place::Folder(folder.clone()),
            config::Storage::Bucket(place) => {
                let bucket = Bucket::new(place, &config.s3);
                Place::Bucket(bucket.map_err(failed("reach", &name))?)
            }
        };
        Ok(Some(Self { place, name }))
    }

    /// Succeeds if files can be put there.
    ///
    /// # Errors
    ///
    /// Why none can.
    pub async fn probe(&self) -> Result<(), StorageError> {
        let written = match self.begin(PROBE, "text/plain") {
            Ok(writing) => writing.end().await.map(drop),
            Err(error) => Err(error),
        };
        // It may not be there; who may not remove it puts it there anew the next time.
        let _gone = match &self.place {
            Place::Folder(folder) => fs::remove_file(folder.join(PROBE)).await,
            Place::Bucket(bucket) => bucket.remove(PROBE).await,
        };
        written
    }

    /// Begins the file `path`; one that was begun before is begun again.
    pub(super) fn begin(&self, path: &str, mimetype: &str) -> Result<Writing, StorageError> {
        let file = match &self.place {
            Place::Folder(folder) => File::Folder(Beside::new(folder, path)),
            Place::Bucket(bucket) => {
                let upload = bucket.upload(path, mimetype);
                File::Bucket(upload.map_err(failed(WRITE, path))?)
            }
        };
        Ok(Writing {
            file,
            path: path.to_owned(),
            length: 0,
        })
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(&self.name)
    }
}

/// Which step failed, and why.
type Failed = (&'static str, io::Error);

const FOLDER: &str = "make the folder of";
const WRITE: &str = "write";
const MOVE: &str = "move";

impl Beside {
    fn new(storage: &Path, path: &str) -> Self {
        let place = storage.join(path);
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let beside = place.with_file_name(format!(".{name}.part"));
        Self {
            beside,
            place,
            buffer: Vec::new(),
            file: None,
        }
    }

    async fn write(&mut self, data: &[u8]) -> Result<(), Failed> {
        self.buffer.extend_from_slice(data);
        if self.buffer.len() < BUFFER {
            return Ok(());
        }
        let file = match &mut self.file {
            Some(file) => file,
            empty @ None => {
                if let Some(folder) = self.beside.parent() {
                    let made = fs::create_dir_all(folder).await;
                    made.map_err(|error| (FOLDER, error))?;
                }
                let file = fs::File::create(&self.beside).await;
                empty.insert(file.map_err(|error| (WRITE, error))?)
            }
        };
        let written = file.write_all(&self.buffer).await;
        self.buffer.clear();
        written.map_err(|error| (WRITE, error))
    }

    async fn end(self) -> Result<(), Failed> {
        let Self {
            beside,
            place,
            buffer,
            file,
        } = self;
        let Some(mut file) = file else {
            let small = vec![(beside, place, buffer)];
            return at_once(small).await.map_err(|(_, failed)| failed);
        };
        let written = match file.write_all(&buffer).await {
            Ok(()) => file.flush().await,
            error @ Err(_) => error,
        };
        written.map_err(|error| (WRITE, error))?;
        let moved = fs::rename(&beside, &place).await;
        moved.map_err(|error| (MOVE, error))
    }
}

/// Makes small files (beside their place, their place, what is in them), one after another. Says which one could not be made.
async fn at_once(files: Vec<(PathBuf, PathBuf, Vec<u8>)>) -> Result<(), (usize, Failed)> {
    let all = move || {
        for (at, (beside, place, data)) in files.iter().enumerate() {
            small(beside, place, data).map_err(|failed| (at, failed))?;
        }
        Ok(())
    };
    let made = tokio::task::spawn_blocking(all).await;
    made.unwrap_or_else(|error| Err((0, (WRITE, io::Error::other(error)))))
}

fn small(beside: &Path, place: &Path, data: &[u8]) -> Result<(), Failed> {
    use std::fs;
    // Of the files of a test run, the first finds no folder yet.
    let written = match (fs::write(beside, data), beside.parent()) {
        (Err(error), Some(folder)) if error.kind() == io::ErrorKind::NotFound => {
            fs::create_dir_all(folder).map_err(|error| (FOLDER, error))?;
            fs::write(beside, data)
        }
        (written, _) => written,
    };
    written.map_err(|error| (WRITE, error))?;
    fs::rename(beside, place).map_err(|error| (MOVE, error))
}

impl Writing {
    pub(super) async fn write(&mut self, data: &[u8]) -> Result<(), StorageError> {
        self.length += data.len() as u64;
        let written = match &mut self.file {
            File::Folder(beside) => beside.write(data).await,
            File::Bucket(upload) => upload.write(data).await.map_err(|error| (WRITE, error)),
        };
        written.map_err(|(what, error)| failed(what, &self.path)(error))
    }

    /// The file is in its place, whole. Returns its length.
    pub(super) async fn end(self) -> Result<u64, StorageError> {
        let Self { file, path, length } = self;
        let ended = match file {
            File::Folder(beside) => beside.end().await,
            File::Bucket(upload) => upload.end().await.map_err(|error| (WRITE, error)),
        };
        ended.map_err(|(what, error)| failed(what, &path)(error))?;
        Ok(length)
    }

    /// The same of several.
    pub(super) async fn end_all(all: Vec<Self>) -> Result<(), StorageError> {
        let (mut small, mut paths) = (Vec::new(), Vec::new());
        for writing in all {
            match writing {
                Self {
                    file:
                        File::Folder(Beside {
                            beside,
                            place,
                            buffer,
                            file: None,
                        }),
                    path,
                    length: _,
                } => {
                    small.push((beside, place, buffer));
                    paths.push(path);
                }
                other => {
                    other.end().await?;
                }
            }
        }
        let made = at_once(small).await;
        made.map_err(|(at, (what, error))| {
            failed(what, paths.get(at).map_or("", String::as_str))(error)
        })
    }
}
