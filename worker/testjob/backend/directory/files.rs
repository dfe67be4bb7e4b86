//! One result file after another, each read by what it is.

use std::io::{BufReader, Read};

use bytes::Bytes;
use serde_json::Value;

use crate::config;
use crate::testjob::format::{FormatError, Limits, archive, junit, squad, tradefed};
use crate::testjob::item::{CUT, DATA_CHUNK, Item, Sink};
use crate::testjob::stage::blocking;

/// How much of an XML file tells what it is.
const HEAD: usize = 4096;

/// The media type of logs.
const TEXT: &str = "text/plain";

/// A collection under way.
pub(super) struct Files {
    limits: Limits,
    file_limit: u64,
    sink: Sink,
    /// What `metadata.json` says of the test job's end.
    pub(super) status: Option<String>,
}

impl Files {
    /// A reader that sends to `sink`.
    pub(super) fn new(limits: &config::Limits, sink: Sink) -> Self {
        let file_limit = limits.log;
        Self {
            limits: Limits {
                unpacked: limits.attachment,
                ..Limits::default()
            },
            file_limit,
            sink,
            status: None,
        }
    }

    /// Reads one file by its name and, for XML, its first bytes. Blocks.
    pub(super) fn read(&mut self, name: &str, input: &mut dyn Read) -> Result<(), FormatError> {
        let mut input = BufReader::with_capacity(DATA_CHUNK, input);
        let mut emit = blocking(&self.sink);
        match name {
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
            _ if name.ends_with(".xml") => self.xml(name, &mut input, &mut emit),
            _ if is_archive(name) => {
                archive::read(&mut input, name, &self.limits, &mut |member| match member
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
            _ => self.keep(name, &mut input),
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

    /// Keeps a file as it is, up to the limit.
    fn keep(&self, name: &str, input: &mut dyn Read) -> Result<(), FormatError> {
        let send = |item| {
            self.sink
                .blocking_send(item)
                .map_err(|_| FormatError::Stopped)
        };
        let mimetype = mimetype(name);
        send(Item::File {
            name: name.to_owned(),
            mimetype: mimetype.to_owned(),
        })?;
        // One byte more says whether there is more.
        let mut input = input.take(self.file_limit.saturating_add(1));
        let mut left = self.file_limit;
        let mut buffer = vec![0; DATA_CHUNK];
        loop {
            let count = input.read(&mut buffer).map_err(FormatError::Io)?;
            let kept = usize::try_from(left).unwrap_or(usize::MAX).min(count);
            if let Some(read) = buffer.get(..kept).filter(|read| !read.is_empty()) {
                send(Item::Data(Bytes::copy_from_slice(read)))?;
            }
            if kept < count {
                if mimetype == TEXT {
                    send(Item::Data(Bytes::from_static(CUT.as_bytes())))?;
                }
                let limit = self.file_limit;
                return send(Item::Problem(format!("{name} is cut after {limit} bytes")));
            }
            if count == 0 {
                return Ok(());
            }
            left -= kept as u64;
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
        "log" | "txt" => TEXT,
        "json" => "application/json",
        "xml" => "application/xml",
        "html" => "text/html",
        "png" => "image/png",
        _ => "application/octet-stream",
    }
}
