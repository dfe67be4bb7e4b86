//! A SQUAD server as a sink: its submit API.
//!
//! `POST /api/submit/<group>/<project>/<build>/<environment>` with the files `tests`, `metrics`, `metadata`, `log` and
//! `attachment`s. SQUAD refuses a second run of one `job_id` in a build, and keeps the metadata as they came: [`MARK`] in
//! them tells our own submission from another one's of the same `job_id`.

use std::collections::BTreeSet;
use std::time::Duration;

use bytes::Bytes;
use futures::stream::StreamExt as _;
use serde::Deserialize;
use serde_json::{Map, Value, json};
use url::Url;
use uuid::Uuid;

use super::body::{self, Data};
use super::{Submission, is_current};
use crate::config;
use crate::crash;
use crate::handler::{Context, Fatal, Outcome};
use crate::store::TestJobView;
use crate::testjob::backend::http::{
    Authorization, Client, Failure, FormFile, HttpError, Limits, Secret, Verdict,
};
use crate::testjob::backend::{BackendError, REFERENCES};

/// The key in the metadata of a submitted run that says which test job of ours it is.
const MARK: &str = "longshore_testjob";
/// How SQUAD begins to say that a build has a run of this `job_id`.
const DUPLICATE: &str = "There is already a test run with job_id";
/// The file that is a test job's log.
const LOG: &str = "log";
/// The most of SQUAD's words in a reason.
const QUOTED: usize = 500;

/// One SQUAD server.
#[derive(Debug)]
pub(in crate::testjob) struct SquadSink {
    client: Client,
    url: Url,
    timeout: Duration,
}

/// Where the submission stands on the server.
enum Found {
    Nothing,
    Ours(i64),
    /// Ours, and SQUAD has not worked through it: it is about to, or died within it.
    Unfinished(i64),
    /// A run of the same `job_id` in the build that is not ours.
    Other(i64),
}

impl SquadSink {
    pub(in crate::testjob) fn new(sink: &config::Sink) -> Result<Self, BackendError> {
        let config::Sink {
            kind: config::SinkKind::Squad,
            url,
            token,
            timeout,
        } = sink;
        let token = token
            .as_ref()
            .map(|token| Authorization::Token(Secret::new(token.expose())));
        let limits = Limits {
            // SQUAD answers once it has worked through everything.
            idle: *timeout,
            ..Limits::default()
        };
        Ok(Self {
            client: Client::new(url, token.as_ref(), limits)?,
            url: url.clone(),
            timeout: *timeout,
        })
    }

    /// Submits, unless the server has it.
    pub(super) async fn submit(
        &self,
        context: &Context,
        submission: Submission,
    ) -> anyhow::Result<Outcome> {
        let job_id = job_id(&submission.job);
        let mark = mark(&submission.job);
        if let Some(outcome) = self.there(&submission.job, &job_id, &mark).await? {
            return Ok(outcome);
        }
        let files = files(context, &submission, &job_id, &mark).await?;
        if !is_current(context, &submission).await? {
            return Ok(Outcome::done(json!({ "over": "collected anew since" })));
        }
        let TestJobView {
            project,
            build,
            environment,
            ..
        } = &submission.job;
        let path = format!("api/submit/{project}/{build}/{environment}");
        let url = self.at(&path)?;
        crash::point("submit:ready");
        let (status, text) = self
            .client
            .post_form(&url, files, self.timeout)
            .await
            .map_err(failed)?;
        crash::point("submit:sent");
        let said = text.chars().take(QUOTED).collect::<String>();
        match status {
            200..=299 => {
                let run = text.trim().parse::<i64>().ok();
                Ok(Outcome::done(json!({ "submitted": run })))
            }
            // An attempt before this one was still being worked on when we asked.
            400 if text.starts_with(DUPLICATE) => {
                match self.there(&submission.job, &job_id, &mark).await? {
                    Some(outcome) => Ok(outcome),
                    None => anyhow::bail!("SQUAD says {said:?}, and does not show that run"),
                }
            }
            408 | 425 | 429 | 500.. => anyhow::bail!("SQUAD answered {status}"),
            401 | 403 => Err(Fatal(format!(
                "SQUAD answered {status}: the sink's token must be of a user who may submit results to {project}"
            ))
            .into()),
            404 => Err(Fatal(format!("SQUAD answered 404: it has no project {project}")).into()),
            _ => Err(Fatal(format!("SQUAD refused the results with {status}: {said}")).into()),
        }
    }

    /// The outcome if the server has the run, ours or another's.
    async fn there(
        &self,
        job: &TestJobView,
        job_id: &str,
        mark: &str,
    ) -> anyhow::Result<Option<Outcome>> {
        match self.find(job, job_id, mark).await.map_err(failed)? {
            Found::Nothing => Ok(None),
            Found::Ours(run) => Ok(Some(Outcome::done(json!({ "submitted before": run })))),
            Found::Unfinished(run) => {
                anyhow::bail!("SQUAD has the results as test run {run} and has not worked through them")
            }
            Found::Other(run) => Err(Fatal(format!(
                "SQUAD's build {}/{} has a test run {run} with job_id {job_id} that is not of this test job",
                job.project, job.build
            ))
            .into()),
        }
    }

    async fn find(&self, job: &TestJobView, job_id: &str, mark: &str) -> Result<Found, HttpError> {
        #[derive(Deserialize)]
        struct Page {
            results: Vec<Run>,
        }
        #[derive(Deserialize)]
        struct Run {
            id: i64,
            status_recorded: bool,
        }
        let (group, project) = job.project.split_once('/').unwrap_or_default();
        let mut url = self.at("api/testruns/")?;
        url.query_pairs_mut().extend_pairs([
            ("job_id", job_id),
            ("build__version", &job.build),
            ("build__project__slug", project),
            ("build__project__group__slug", group),
            ("fields", "id,status_recorded"),
        ]);
        let page: Page = self.client.json(&url).await?;
        // There is at most one: SQUAD has a unique index.
        let Some(Run {
            id,
            status_recorded,
        }) = page.results.into_iter().next()
        else {
            return Ok(Found::Nothing);
        };
        let url = self.at(&format!("api/testruns/{id}/metadata_file/"))?;
        let metadata: Value = self.client.json(&url).await?;
        let is_ours = metadata.get(MARK).and_then(Value::as_str) == Some(mark);
        Ok(match (is_ours, status_recorded) {
            (true, true) => Found::Ours(id),
            (true, false) => Found::Unfinished(id),
            (false, _) => Found::Other(id),
        })
    }

    fn at(&self, path: &str) -> Result<Url, HttpError> {
        self.url
            .join(path)
            .map_err(|error| HttpError::at(&self.url, Failure::Setup(error.to_string())))
    }
}

/// The files of a submission, counted.
async fn files(
    context: &Context,
    submission: &Submission,
    job_id: &str,
    mark: &str,
) -> anyhow::Result<Vec<FormFile>> {
    let (store, runs) = (context.store(), &submission.runs);
    let metadata = metadata(context, submission, job_id, mark).await?;
    let metadata = Bytes::from(serde_json::to_vec(&metadata)?);
    let once = move || futures::stream::iter([Ok(metadata.clone())]).boxed();
    let json = "application/json";
    let mut files = vec![
        counted("tests", "tests.json", json, || body::tests(store, runs)).await?,
        counted("metrics", "metrics.json", json, || {
            body::metrics(store, runs)
        })
        .await?,
        counted("metadata", "metadata.json", json, once).await?,
    ];
    let mut names = BTreeSet::new();
    for run in runs {
        for file in context.patiently(|| store.staged_files(*run)).await? {
            context.set_progress(format!("reading {}", file.name));
            if file.name == LOG && !names.contains(LOG) {
                let data = || body::text(body::file(store, &file));
                files.push(counted("log", "log.txt", "text/plain", data).await?);
                names.insert(LOG.to_owned());
                continue;
            }
            let name = free(&names, &file.name);
            let data = || body::file(store, &file);
            files.push(counted("attachment", &name, &file.mimetype, data).await?);
            names.insert(name);
        }
    }
    context.set_progress("submitting");
    Ok(files)
}

async fn counted(
    field: &'static str,
    name: &str,
    mimetype: &str,
    data: impl Fn() -> Data,
) -> anyhow::Result<FormFile> {
    Ok(FormFile {
        field,
        name: name.to_owned(),
        mimetype: mimetype.to_owned(),
        length: body::length(data()).await?,
        data: data(),
    })
}

/// A name that SQUAD takes as it is, and that no other attachment has: of two it would keep one.
fn free(taken: &BTreeSet<String>, name: &str) -> String {
    let name = name.replace(['/', '\\'], "_");
    let numbered = (2..).map(|number| format!("{number}-{name}"));
    std::iter::once(name.clone())
        .chain(numbered)
        .find(|name| !taken.contains(name))
        .unwrap_or(name)
}

/// The backend's facts, and what SQUAD itself reads in them.
async fn metadata(
    context: &Context,
    submission: &Submission,
    job_id: &str,
    mark: &str,
) -> anyhow::Result<Map<String, Value>> {
    let (store, job) = (context.store(), &submission.job);
    let mut metadata = Map::new();
    for run in &submission.runs {
        for (key, value) in context.patiently(|| store.staged_facts(*run)).await? {
            if key != REFERENCES && !metadata.contains_key(&key) {
                let value = serde_json::from_str(&value).unwrap_or(Value::String(value));
                metadata.insert(key, value);
            }
        }
    }
    metadata.insert("job_id".into(), job_id.into());
    metadata.insert(MARK.into(), mark.into());
    for (key, value) in [("job_status", &job.status), ("job_url", &job.url)] {
        if let Some(value) = value {
            metadata.insert(key.into(), value.as_str().into());
        }
    }
    Ok(metadata)
}

/// SQUAD allows no slash there.
fn job_id(job: &TestJobView) -> String {
    job.remote_id.replace('/', "_")
}

/// The same in every attempt and generation, and no other test job's, of whichever store.
fn mark(job: &TestJobView) -> String {
    let TestJobView {
        backend,
        remote_id,
        project,
        build,
        created_at,
        ..
    } = job;
    let text = json!([backend, remote_id, project, build, created_at]).to_string();
    Uuid::new_v5(&Uuid::NAMESPACE_OID, text.as_bytes()).to_string()
}

fn failed(error: HttpError) -> anyhow::Error {
    if let Failure::Status {
        code: 401 | 403, ..
    } = error.failure
    {
        return Fatal(format!("{error}: see the sink's token")).into();
    }
    match error.verdict() {
        Verdict::Temporary => error.into(),
        Verdict::Final => Fatal(error.to_string()).into(),
    }
}
