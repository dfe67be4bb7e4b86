//! Files in SQUAD's storage: written beside their place and put there whole, under a number that nothing refers to
//! until the transaction that shows them.

use std::io;
use std::path::{Path, PathBuf};

use tokio::fs;
use tokio::io::{AsyncWriteExt, BufWriter};

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
    Folder {
        file: BufWriter<fs::File>,
        beside: PathBuf,
        place: PathBuf,
    },
    Bucket(Upload),
}

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
        let written = match self.begin(PROBE, "text/plain").await {
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
    pub(super) async fn begin(&self, path: &str, mimetype: &str) -> Result<Writing, StorageError> {
        let file = match &self.place {
            Place::Folder(folder) => File::in_folder(folder, path).await?,
            Place::Bucket(bucket) => {
                let upload = bucket.upload(path, mimetype);
                File::Bucket(upload.map_err(failed("write", path))?)
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

impl File {
    async fn in_folder(storage: &Path, path: &str) -> Result<Self, StorageError> {
        let place = storage.join(path);
        let folder = place.parent().unwrap_or(storage).to_owned();
        fs::create_dir_all(&folder)
            .await
            .map_err(failed("make the folder of", path))?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let beside = folder.join(format!(".{name}.part"));
        let file = fs::File::create(&beside)
            .await
            .map_err(failed("write", path))?;
        Ok(Self::Folder {
            file: BufWriter::with_capacity(256 * 1024, file),
            beside,
            place,
        })
    }
}

impl Writing {
    pub(super) async fn write(&mut self, data: &[u8]) -> Result<(), StorageError> {
        self.length += data.len() as u64;
        let written = match &mut self.file {
            File::Folder { file, .. } => file.write_all(data).await,
            File::Bucket(upload) => upload.write(data).await,
        };
        written.map_err(failed("write", &self.path))
    }

    /// The file is in its place, whole. Returns its length.
    pub(super) async fn end(self) -> Result<u64, StorageError> {
        let Self { file, path, length } = self;
        match file {
            File::Folder {
                mut file,
                beside,
                place,
            } => {
                file.flush().await.map_err(failed("write", &path))?;
                let moved = fs::rename(&beside, &place).await;
                moved.map_err(failed("move", &path))?;
            }
            File::Bucket(upload) => upload.end().await.map_err(failed("write", &path))?,
        }
        Ok(length)
    }
}
