//! Result files in a folder: JUnit XML, CTS/VTS `test_result.xml` (plain or in an archive), SQUAD-style
//! `tests.json`, `metrics.json` and `metadata.json`, logs, and whatever else is there as files.
//!
//! A test job's id is the path of a file, or of a folder, below the backend's own; it never leads out of
//! that. What is there is finished: a producer renames its folder into place.

use std::fs::File;
use std::io::{BufReader, Read};
use std::path::{Component, Path, PathBuf};

use async_trait::async_trait;
use serde_json::Value;

use super::{Backend, BackendError, Collected, Download, Settings, Summary};
use crate::config;
use crate::testjob::format::{FormatError, Limits, archive, junit, squad, tradefed};
use crate::testjob::item::{DATA_CHUNK, Item, Sink};
use crate::testjob::stage::blocking;

/// Files of one test job; more are a mistake in the id.
const MAX_FILES: usize = 10_000;
/// Folders inside one another.
const MAX_DEPTH: usize = 8;
/// How much of an XML file tells what it is.
const HEAD: usize = 4096;

/// A folder of test jobs.
#[derive(Debug)]
pub struct Directory {
    root: PathBuf,
    limits: Limits,
    file_limit: u64,
}

impl Directory {
    /// The test jobs in `root`.
    pub fn new(root: PathBuf, limits: &config::Limits) -> Self {
        let file_limit = limits.log;
        Self {
            root,
            limits: Limits {
                unpacked: limits.attachment,
                ..Limits::default()
            },
            file_limit,
        }
    }

    /// The place of `id`, which must not lead out of the backend's folder.
    fn place(&self, id: &str) -> Result<PathBuf, BackendError> {
        let path = Path::new(id);
        if id.is_empty()
            || path
                .components()
                .any(|part| !matches!(part, Component::Normal(_)))
        {
            return Err(BackendError::Final(format!(
                "test job id {id:?} is no path below the backend's folder: give one without `..` and a leading `/`"
            )));
        }
        Ok(self.root.join(path))
    }
}

#[async_trait]
impl Backend for Directory {
    async fn collect(
        &self,
        id: &str,
        _settings: &Settings,
        out: &Sink,
    ) -> Result<Collected, BackendError> {
        let place = self.place(id)?;
        let (id, sink, limits, file_limit) =
            (id.to_owned(), out.clone(), self.limits, self.file_limit);
        let read = tokio::task::spawn_blocking(move || {
            Collection {
                limits,
                file_limit,
                sink,
                status: None,
            }
            .read(&id, &place)
        });
        read.await
            .map_err(|error| BackendError::Temporary(format!("the reader ended: {error}")))?
    }

    async fn open(&self, id: &str, reference: &str) -> Result<Download, BackendError> {
        let place = self.place(reference)?;
        match tokio::fs::File::open(&place).await {
            Ok(file) => Ok(Box::new(file)),
            Err(error) => Err(io(id, &place, &error)),
        }
    }
}

/// One collection under way, on a blocking thread.
struct Collection {
    limits: Limits,
    file_limit: u64,
    sink: Sink,
    status: Option<String>,
}

impl Collection {
    fn read(mut self, id: &str, place: &Path) -> Result<Collected, BackendError> {
        let mut files = Vec::new();
        list(id, place, 0, &mut files)?;
        if files.is_empty() {
            return Err(BackendError::Final(format!(
                "test job {id:?}: {} holds no files",
                place.display()
            )));
        }
        self.emit(Item::Metadata("job_id".into(), id.into()))?;
        for file in &files {
            self.file(file).map_err(|error| refusal(id, file, error))?;
        }
        let status = self.status.take().unwrap_or_else(|| "Complete".to_owned());
        self.emit(Item::Metadata("job_status".into(), status.clone().into()))?;
        Ok(Collected::Done(Summary {
            completed: status == "Complete",
            status,
            name: place
                .file_name()
                .map(|name| name.to_string_lossy().into_owned()),
            url: None,
            environment: None,
            failure: None,
            can_resubmit: false,
        }))
    }

    fn emit(&self, item: Item) -> Result<(), BackendError> {
        self.sink
            .blocking_send(item)
            .map_err(|_| BackendError::Stopped)
    }

    fn file(&mut self, path: &Path) -> Result<(), FormatError> {
        let name = path
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .unwrap_or_default();
        let file = File::open(path).map_err(FormatError::Io)?;
        let mut input = BufReader::with_capacity(DATA_CHUNK, file);
        let mut emit = blocking(&self.sink);
        match name.as_str() {
            "tests.json" => squad::tests(&mut input, &self.limits, &mut emit).map(drop),
            "metrics.json" => squad::metrics(&mut input, &self.limits, &mut emit),
            "metadata.json" => squad::metadata(&mut input, &self.limits, &mut |item| {
                if let Item::Metadata(key, Value::String(status)) = &item
                    && key == "job_status"
                {
                    self.status = Some(status.clone());
                    return Ok(());
                }
                emit(item)
            }),
            _ if name.ends_with(".xml") => self.xml(&name, &mut input, &mut emit),
            _ if is_archive(&name) => {
                archive::read(&mut input, &name, &self.limits, &mut |member| match member
                    .name
                    .rsplit('/')
                    .next()
                {
                    Some("test_result.xml") => {
                        tradefed::read(member.data, "", &self.limits, &mut emit).map(drop)
                    }
                    Some(_) | None => Ok(()),
                })
            }
            _ => self.keep(&name, &mut input),
        }
    }

    /// An XML file is what its root element says.
    fn xml(
        &self,
        name: &str,
        input: &mut dyn Read,
        emit: &mut dyn FnMut(Item) -> Result<(), crate::testjob::format::Stopped>,
    ) -> Result<(), FormatError> {
        let mut head = Vec::with_capacity(HEAD);
        input
            .take(HEAD as u64)
            .read_to_end(&mut head)
            .map_err(FormatError::Io)?;
        let text = String::from_utf8_lossy(&head).into_owned();
        let mut whole = std::io::Cursor::new(head).chain(input);
        if text.contains("<testsuite") {
            return junit::read(&mut whole, false, &self.limits, emit).map(drop);
        }
        if text.contains("<Result") {
            return tradefed::read(&mut whole, "", &self.limits, emit).map(drop);
        }
        emit(Item::Problem(format!(
            "{name} is neither JUnit nor CTS; it is kept as a file"
        )))?;
        self.keep(name, &mut whole)
    }

    /// Keeps a file as it is.
    fn keep(&self, name: &str, input: &mut dyn Read) -> Result<(), FormatError> {
        let send = |item| {
            self.sink
                .blocking_send(item)
                .map_err(|_| FormatError::Stopped)
        };
        send(Item::File {
            name: name.to_owned(),
            mimetype: mimetype(name).to_owned(),
        })?;
        let mut left = self.file_limit;
        let mut buffer = vec![0; DATA_CHUNK];
        loop {
            let count = input.read(&mut buffer).map_err(FormatError::Io)?;
            let Some(read) = buffer.get(..count).filter(|read| !read.is_empty()) else {
                return Ok(());
            };
            left = left.checked_sub(count as u64).ok_or(FormatError::Limit {
                what: "a file (limits.log), in bytes,",
                limit: self.file_limit,
            })?;
            send(Item::Data(bytes::Bytes::copy_from_slice(read)))?;
        }
    }
}

fn is_archive(name: &str) -> bool {
    [
        ".tar", ".tar.xz", ".txz", ".tar.gz", ".tgz", ".tar.zst", ".tzst", ".xml.xz", ".xml.gz",
    ]
    .iter()
    .any(|end| name.ends_with(end))
}

fn mimetype(name: &str) -> &'static str {
    match name.rsplit_once('.').map_or(name, |(_, end)| end) {
        "log" | "txt" => "text/plain",
        "json" => "application/json",
        "xml" => "application/xml",
        "html" => "text/html",
        "png" => "image/png",
        _ => "application/octet-stream",
    }
}

/// The files of a test job in the order of their paths, so that each collection is the same.
fn list(
    id: &str,
    place: &Path,
    depth: usize,
    files: &mut Vec<PathBuf>,
) -> Result<(), BackendError> {
    let kind = std::fs::metadata(place).map_err(|error| io(id, place, &error))?;
    if kind.is_file() {
        if files.len() >= MAX_FILES {
            return Err(BackendError::Final(format!(
                "test job {id:?} has more than {MAX_FILES} files"
            )));
        }
        files.push(place.to_owned());
    }
    if kind.is_dir() && depth < MAX_DEPTH {
        let entries =
            std::fs::read_dir(place).and_then(|entries| entries.collect::<Result<Vec<_>, _>>());
        let mut paths = entries
            .map_err(|error| io(id, place, &error))?
            .into_iter()
            .map(|entry| entry.path())
            .collect::<Vec<_>>();
        paths.sort();
        for path in paths {
            list(id, &path, depth + 1, files)?;
        }
    }
    Ok(())
}

fn io(id: &str, path: &Path, error: &std::io::Error) -> BackendError {
    let text = format!("test job {id:?}: {}: {error}", path.display());
    match error.kind() {
        std::io::ErrorKind::NotFound | std::io::ErrorKind::PermissionDenied => {
            BackendError::Final(text)
        }
        _ => BackendError::Temporary(text),
    }
}

fn refusal(id: &str, file: &Path, error: FormatError) -> BackendError {
    let name = file.file_name().unwrap_or_default().to_string_lossy();
    let text = format!("test job {id:?}: {name}: {error}");
    match error {
        FormatError::Stopped => BackendError::Stopped,
        FormatError::Io(_) => BackendError::Temporary(text),
        // The file lies there whole: reading it again would end the same.
        FormatError::Truncated { .. }
        | FormatError::Malformed { .. }
        | FormatError::Limit { .. } => BackendError::Final(text),
    }
}
