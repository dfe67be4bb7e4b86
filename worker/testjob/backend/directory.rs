//! Result files: JUnit XML, CTS/VTS `test_result.xml` (plain or in an archive), SQUAD-style `tests.json`,
//! `metrics.json` and `metadata.json`, logs, and whatever else is there as files. In a folder, or behind HTTP.
//!
//! A test job's id is the path of a file, or of a folder, below the backend's own; it never leads out of
//! that. What is there is finished: a producer renames its folder into place.

use std::fs::File;
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use tokio_util::io::SyncIoBridge;
use url::Url;

use self::files::Files;
use super::http::{Authorization, Client, HttpError, read_error};
use super::{Backend, BackendError, Collected, Download, Settings, Summary};
use crate::config;
use crate::testjob::format::FormatError;
use crate::testjob::item::{Item, Sink};

mod files;

/// Files of one test job; more are a mistake in the id.
const MAX_FILES: usize = 10_000;
/// Folders inside one another.
const MAX_DEPTH: usize = 8;
/// What is asked for behind HTTP, where nothing lists a folder; what is not there is passed over.
const ASKED: [&str; 9] = [
    "metadata.json",
    "tests.json",
    "metrics.json",
    "junit.xml",
    "test_result.xml",
    "results.tar.xz",
    "results.tar.gz",
    "kernel.log",
    "log",
];

/// A place of test jobs.
#[derive(Debug)]
pub struct Directory {
    place: Place,
    limits: config::Limits,
}

#[derive(Debug)]
enum Place {
    Folder(PathBuf),
    Site { client: Box<Client>, url: Url },
}

impl Directory {
    /// The test jobs in the folder `root`.
    pub fn folder(root: PathBuf, limits: &config::Limits) -> Self {
        Self {
            place: Place::Folder(root),
            limits: limits.clone(),
        }
    }

    /// The test jobs below `url`.
    ///
    /// # Errors
    ///
    /// [`HttpError`] if the client cannot be made.
    pub fn site(
        mut url: Url,
        token: Option<super::http::Secret>,
        http: super::http::Limits,
        limits: &config::Limits,
    ) -> Result<Self, HttpError> {
        if !url.path().ends_with('/') {
            url.set_path(&format!("{}/", url.path()));
        }
        let client = Client::new(&url, token.map(Authorization::Token).as_ref(), http)?;
        Ok(Self {
            place: Place::Site {
                client: Box::new(client),
                url,
            },
            limits: limits.clone(),
        })
    }
}

/// `id` as a path that does not lead out of its backend's place.
fn below(id: &str) -> Result<&Path, BackendError> {
    let path = Path::new(id);
    if id.is_empty()
        || path
            .components()
            .any(|part| !matches!(part, Component::Normal(_)))
    {
        return Err(BackendError::Final(format!(
            "test job id {id:?} is no path below the backend's place: give one without `..` and a leading `/`"
        )));
    }
    Ok(path)
}

fn address(url: &Url, path: &str) -> Result<Url, BackendError> {
    let mut url = url.clone();
    let wrong = || BackendError::Final(format!("{path:?} is no path behind HTTP"));
    url.path_segments_mut()
        .map_err(|()| wrong())?
        .pop_if_empty()
        .extend(path.split('/'));
    Ok(url)
}

#[async_trait]
impl Backend for Directory {
    async fn collect(
        &self,
        id: &str,
        _settings: &Settings,
        out: &Sink,
    ) -> Result<Collected, BackendError> {
        let path = below(id)?;
        let mut files = Files::new(&self.limits, out.clone());
        out.send(Item::Metadata("job_id".into(), id.into()))
            .await
            .map_err(|_| BackendError::Stopped)?;
        files = match &self.place {
            Place::Folder(root) => {
                let (root, place, id) = (root.clone(), root.join(path), id.to_owned());
                let read =
                    tokio::task::spawn_blocking(move || read_folder(&id, &root, &place, files));
                read.await.map_err(|error| {
                    BackendError::Temporary(format!("the reader ended: {error}"))
                })??
            }
            Place::Site { client, url } => read_site(id, client, url, files).await?,
        };
        let status = files.status.take().unwrap_or_else(|| "Complete".to_owned());
        out.send(Item::Metadata("job_status".into(), status.clone().into()))
            .await
            .map_err(|_| BackendError::Stopped)?;
        Ok(Collected::Done(Summary {
            completed: status == "Complete",
            status,
            name: path
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
            url: match &self.place {
                Place::Folder(_) => None,
                Place::Site { url, .. } => Some(address(url, id)?.to_string()),
            },
            environment: None,
            failure: None,
            can_resubmit: false,
        }))
    }

    async fn open(&self, id: &str, reference: &str) -> Result<Download, BackendError> {
        let path = below(reference)?;
        match &self.place {
            Place::Folder(root) => {
                let place = root.join(path);
                match tokio::fs::File::open(&place).await {
                    Ok(file) => Ok(Download::new(file, None)),
                    Err(error) => Err(io(id, &place, &error)),
                }
            }
            Place::Site { client, url } => Ok(client
                .file(&address(url, reference)?)
                .await?
                .into_download()),
        }
    }
}

fn read_folder(
    id: &str,
    root: &Path,
    place: &Path,
    mut files: Files,
) -> Result<Files, BackendError> {
    let mut paths = Vec::new();
    let root = root.canonicalize().map_err(|error| io(id, root, &error))?;
    list(id, &root, place, 0, &mut paths)?;
    if paths.is_empty() {
        return Err(BackendError::Final(format!(
            "test job {id:?}: {} holds no files",
            place.display()
        )));
    }
    for path in &paths {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let mut file = File::open(path).map_err(|error| io(id, path, &error))?;
        // The file lies there whole: one that ends too early would do so again.
        files
            .read(&name, &mut file)
            .map_err(|error| refusal(id, &name, error, false))?;
    }
    Ok(files)
}

/// A single file, or what [`ASKED`] names in a folder.
async fn read_site(
    id: &str,
    client: &Client,
    url: &Url,
    mut files: Files,
) -> Result<Files, BackendError> {
    let single = id
        .rsplit('/')
        .next()
        .filter(|name| name.contains('.'))
        .map(str::to_owned);
    let asked = match &single {
        Some(name) => vec![(id.to_owned(), name.clone())],
        None => ASKED
            .iter()
            .map(|name| (format!("{id}/{name}"), (*name).to_owned()))
            .collect(),
    };
    let mut found = false;
    for (path, name) in asked {
        let body = match client.file(&address(url, &path)?).await {
            Ok(body) => body,
            Err(error) if error.is_not_found() && single.is_none() => continue,
            Err(error) => return Err(error.into()),
        };
        found = true;
        let (mut input, id) = (SyncIoBridge::new(body.into_download()), id.to_owned());
        let read = tokio::task::spawn_blocking(move || {
            files
                .read(&name, &mut input)
                .map_err(|error| refusal(&id, &name, error, true))?;
            Ok::<_, BackendError>(files)
        });
        files = read
            .await
            .map_err(|error| BackendError::Temporary(format!("the reader ended: {error}")))??;
    }
    if found {
        return Ok(files);
    }
    Err(BackendError::Final(format!(
        "test job {id:?}: none of {} is there",
        ASKED.join(", ")
    )))
}

/// The files of a test job in the order of their paths, so that each collection is the same.
fn list(
    id: &str,
    root: &Path,
    place: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), BackendError> {
    // A link may lead elsewhere below the backend's folder, as mounted ConfigMaps do, and nowhere else.
    let real = place
        .canonicalize()
        .map_err(|error| io(id, place, &error))?;
    if !real.starts_with(root) {
        return Err(BackendError::Final(format!(
            "test job {id:?}: {} is a link that leads out of the backend's folder",
            place.display()
        )));
    }
    if real.is_file() {
        if files.len() >= MAX_FILES {
            return Err(BackendError::Final(format!(
                "test job {id:?} has more than {MAX_FILES} files"
            )));
        }
        files.push(place.to_owned());
        return Ok(());
    }
    if !real.is_dir() {
        return Ok(());
    }
    if depth >= MAX_DEPTH {
        return Err(BackendError::Final(format!(
            "test job {id:?}: {} is more than {MAX_DEPTH} folders deep",
            place.display()
        )));
    }
    let entries =
        std::fs::read_dir(place).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
    let mut paths = entries
        .map_err(|error| io(id, place, &error))?
        .into_iter()
        .map(|entry| entry.path())
        .collect::<Vec<_>>();
    paths.sort();
    for path in paths {
        list(id, root, &path, depth + 1, files)?;
    }
    Ok(())
}

fn io(id: &str, path: &Path, error: &std::io::Error) -> BackendError {
    let text = format!("test job {id:?}: {}: {error}", path.display());
    if matches!(
        error.kind(),
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied
    ) {
        BackendError::Final(text)
    } else {
        BackendError::Temporary(text)
    }
}

/// `streamed`: a file that ends too early may have been cut on its way.
fn refusal(id: &str, name: &str, error: FormatError, streamed: bool) -> BackendError {
    let text = format!("test job {id:?}: {name}: {error}");
    match error {
        FormatError::Stopped => BackendError::Stopped,
        FormatError::Io(error) => match read_error(&error) {
            BackendError::Final(reason) => {
                BackendError::Final(format!("test job {id:?}: {name}: {reason}"))
            }
            BackendError::Temporary(_) | BackendError::Stopped => BackendError::Temporary(text),
        },
        FormatError::Truncated { .. } if streamed => BackendError::Temporary(text),
        FormatError::Truncated { .. }
        | FormatError::Malformed { .. }
        | FormatError::Limit { .. } => BackendError::Final(text),
    }
}
