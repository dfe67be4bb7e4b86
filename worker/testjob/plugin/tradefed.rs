//! The plugin `tradefed`: CTS and VTS results from the archive that a test job's `test-attachment` names.
//!
//! Everything streams: download, decompression, XML, rows. What the archive holds beside the results is
//! kept as files.

use std::collections::BTreeMap;
use std::io::Read;

use tokio_util::io::SyncIoBridge;

use super::{Job, send};
use crate::handler::Fatal;
use crate::testjob::backend::REFERENCES;
use crate::testjob::backend::http::read_error;
use crate::testjob::fetch::failure;
use crate::testjob::format::{FormatError, Limits, archive, tradefed};
use crate::testjob::item::{DATA_CHUNK, Item, Sink};
use crate::testjob::stage::{Tee, blocking};

/// The test whose reference is the archive.
pub(crate) const ATTACHMENT: &str = "test-attachment";
/// The results within the archive.
pub(crate) const RESULTS: &str = "test_result.xml";
/// What else is kept of it: name and media type.
const KEPT: [(&str, &str); 5] = [
    ("compatibility_result.xsl", "application/xslt+xml"),
    ("compatibility_result.css", "text/css"),
    ("logo.png", "image/png"),
    ("tradefed-stdout.txt", "text/plain"),
    ("tradefed-logcat.txt", "text/plain"),
];

/// Collects every attachment of the test job; one without any has nothing to do, and says so.
pub(super) async fn run(job: &Job, sink: &Sink) -> anyhow::Result<()> {
    let store = job.context.store();
    let facts = job
        .context
        .patiently(|| store.fetched_facts(job.testjob, job.generation))
        .await?;
    let attachments = facts
        .iter()
        .filter(|(key, _)| key == REFERENCES)
        .flat_map(|(_, value)| attachments(value))
        .collect::<Vec<_>>();
    if attachments.is_empty() {
        send(
            sink,
            Item::Problem("tradefed: no test of the test job names an attachment".into()),
        )
        .await?;
    }
    for (suite, reference) in attachments {
        one(job, &suite, &reference, sink).await?;
    }
    Ok(())
}

/// Collects the archive that `reference` names.
pub(crate) async fn one(
    job: &Job,
    suite: &str,
    reference: &str,
    sink: &Sink,
) -> anyhow::Result<()> {
    let download = job
        .backend
        .open(&job.id, reference)
        .await
        .map_err(failure)?;
    let mut input = SyncIoBridge::new(download);
    let (sink, suite) = (sink.clone(), suite.to_owned());
    let limits = Limits {
        unpacked: job.limits.attachment,
        ..Limits::default()
    };
    let name = archive_name(reference).to_owned();
    let read =
        tokio::task::spawn_blocking(move || unpack(&mut input, &name, &suite, &limits, &sink))
            .await?;
    let found = read.map_err(|error| refusal(error, reference))?;
    if !found {
        anyhow::bail!(Fatal(format!(
            "the attachment {reference} holds no {RESULTS}"
        )));
    }
    Ok(())
}

/// The last part of a reference's path.
pub(crate) fn archive_name(reference: &str) -> &str {
    let path = reference.split(['?', '#']).next().unwrap_or_default();
    path.rsplit('/').next().unwrap_or_default()
}

/// The suites that have an archive, and its address.
fn attachments(references: &str) -> Vec<(String, String)> {
    let references: BTreeMap<String, String> = serde_json::from_str(references).unwrap_or_default();
    references
        .into_iter()
        .filter_map(|(test, reference)| {
            let (suite, name) = test.rsplit_once('/')?;
            (name == ATTACHMENT).then(|| (suite.to_owned(), reference))
        })
        .collect()
}

fn refusal(error: FormatError, reference: &str) -> anyhow::Error {
    let text = format!("the attachment {reference}: {error}");
    match error {
        // The download knows whether another one can help.
        FormatError::Io(error) => failure(read_error(&error)),
        FormatError::Truncated { .. } | FormatError::Stopped => anyhow::anyhow!(text),
        FormatError::Malformed { .. } | FormatError::Limit { .. } => Fatal(text).into(),
    }
}

/// Reads the archive; whether it held results.
fn unpack(
    input: &mut dyn Read,
    name: &str,
    suite: &str,
    limits: &Limits,
    sink: &Sink,
) -> Result<bool, FormatError> {
    let mut emit = blocking(sink);
    let mut found = false;
    archive::read(input, name, limits, &mut |member| {
        let base = member.name.rsplit('/').next().unwrap_or_default();
        if base == RESULTS {
            found = true;
            emit(file(RESULTS, "application/xml"))?;
            let mut input = std::io::BufReader::with_capacity(
                DATA_CHUNK,
                Tee {
                    inner: member.data,
                    sink: sink.clone(),
                },
            );
            tradefed::read(&mut input, suite, limits, &mut emit)?;
        } else if let Some((name, mimetype)) = KEPT.iter().find(|(name, _)| base == *name) {
            emit(file(name, mimetype))?;
            let mut tee = Tee {
                inner: member.data,
                sink: sink.clone(),
            };
            std::io::copy(&mut tee, &mut std::io::sink()).map_err(io_error)?;
        }
        Ok(())
    })?;
    Ok(found)
}

fn file(name: &str, mimetype: &str) -> Item {
    Item::File {
        name: name.to_owned(),
        mimetype: mimetype.to_owned(),
    }
}

/// The archive's own errors travel inside those of its reader.
fn io_error(error: std::io::Error) -> FormatError {
    error
        .downcast::<FormatError>()
        .unwrap_or_else(FormatError::Io)
}
