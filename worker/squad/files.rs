//! Files in SQUAD's storage: written beside their place and moved there whole, under a number that nothing refers to
//! until the transaction that shows them.

use std::path::{Path, PathBuf};

use tokio::fs;
use tokio::io::{AsyncWriteExt, BufWriter};

/// A file on its way.
pub(super) struct Writing {
    file: BufWriter<fs::File>,
    beside: PathBuf,
    place: PathBuf,
    length: u64,
}

/// What could not be done with a file of the storage; another attempt may.
#[derive(Debug, thiserror::Error)]
#[error("{what} {path} in squad.storage: {source}")]
pub(super) struct StorageError {
    what: &'static str,
    path: String,
    #[source]
    source: std::io::Error,
}

fn failed(what: &'static str, path: &Path) -> impl FnOnce(std::io::Error) -> StorageError {
    let path = path.display().to_string();
    move |source| StorageError { what, path, source }
}

impl Writing {
    /// Begins the file `path` below `storage`; one that was begun before is begun again.
    pub(super) async fn begin(storage: &Path, path: &str) -> Result<Self, StorageError> {
        let place = storage.join(path);
        let folder = place.parent().unwrap_or(storage).to_owned();
        fs::create_dir_all(&folder)
            .await
            .map_err(failed("make the folder of", &place))?;
        let name = place.file_name().unwrap_or_default().to_string_lossy();
        let beside = folder.join(format!(".{name}.part"));
        let file = fs::File::create(&beside)
            .await
            .map_err(failed("write", &place))?;
        Ok(Self {
            file: BufWriter::with_capacity(256 * 1024, file),
            beside,
            place,
            length: 0,
        })
    }

    pub(super) async fn write(&mut self, data: &[u8]) -> Result<(), StorageError> {
        self.length += data.len() as u64;
        self.file
            .write_all(data)
            .await
            .map_err(failed("write", &self.place))
    }

    /// The file is in its place, whole. Returns its length.
    pub(super) async fn end(mut self) -> Result<u64, StorageError> {
        self.file
            .flush()
            .await
            .map_err(failed("write", &self.place))?;
        fs::rename(&self.beside, &self.place)
            .await
            .map_err(failed("move", &self.place))?;
        Ok(self.length)
    }
}
