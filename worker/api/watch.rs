//! `watchjob`: a test job that runs on a backend is to be collected.

use std::sync::LazyLock;

use axum::body::{Body, Bytes};
use axum::extract::{FromRequest as _, Multipart, Request};
use axum::http::header;
use axum::http::request::Parts;
use regex::Regex;
use serde_json::json;

use super::answer::{Answer, Refusal};
use super::{Api, Place, header_text};
use crate::config::BackendKind;
use crate::testjob;

/// When a test job that was announced with `delay_fetch` is looked at though nobody said that it has ended: SQUAD polls as
/// often.
const DELAY: i64 = 3600 * 1000;

/// A group's name; those of users begin with `~`.
static GROUP: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"\A~?[a-zA-Z0-9][a-zA-Z0-9_.\-]*\z").ok());
/// TuxSuite's ids, as SQUAD writes them.
static TUXSUITE: LazyLock<Option<Regex>> = LazyLock::new(|| {
    Regex::new(r"\A(OEBUILD|BUILD|TEST):[0-9a-z_\-.]+@[0-9a-z_\-.]+#[a-zA-Z0-9]+\z").ok()
});

/// What the address says.
pub(super) struct Target {
    pub(super) project: String,
    pub(super) build: String,
    pub(super) environment: String,
}

impl Target {
    /// An address with a part that SQUAD takes for no name is not there.
    pub(super) fn of(place: &Place) -> Result<Self, Refusal> {
        let part = |name: &str| {
            place
                .get(name)
                .filter(|part| is(&GROUP, part) && (name == "group" || !part.starts_with('~')))
                .cloned()
                .ok_or(Refusal::NotFound)
        };
        Ok(Self {
            project: format!("{}/{}", part("group")?, part("project")?),
            build: part("build")?,
            environment: part("environment")?,
        })
    }
}

pub(super) async fn watch(
    api: &Api,
    place: &Place,
    parts: &Parts,
    body: Bytes,
    delayed: bool,
) -> Answer {
    let target = Target::of(place)?;
    let who = api.tokens.allow(&parts.headers, &target.project)?;
    if !api.config.knows_project(&target.project) {
        return Err(Refusal::NotFound);
    }
    let fields = fields(parts, body).await?;
    let field = |name: &str| {
        let found = fields.iter().rev().find(|(key, _)| key == name);
        found.map(|(_, value)| value.as_str())
    };
    let bad = |text: &str| Refusal::Bad(text.to_owned());
    let id = field("testjob_id").ok_or_else(|| bad("testjob_id is required"))?;
    let backend = field("backend").ok_or_else(|| bad("backend field is required"))?;
    let entry = api
        .config
        .backends
        .get(backend)
        .ok_or_else(|| bad("requested backend does not exist"))?;
    check_id(&entry.kind, id)?;
    let testjob = announce(api, &target, backend, id, delayed).await?;
    tracing::info!(
        testjob,
        backend,
        id,
        by = who,
        delayed,
        "a test job is watched"
    );
    Ok(testjob)
}

/// Whether a backend of this kind can have a test job of this id.
fn check_id(kind: &BackendKind, id: &str) -> Result<(), Refusal> {
    let wrong = match kind {
        BackendKind::Lava { .. } if id.is_empty() || !id.bytes().all(|b| b.is_ascii_digit()) => {
            "LAVA job id should be an integer".to_owned()
        }
        BackendKind::Tuxsuite { .. } if !is(&TUXSUITE, id) => {
            format!(
                "Job id {id:?} is not of the form KIND:group@project#uid, KIND being BUILD, OEBUILD or TEST"
            )
        }
        BackendKind::Directory { .. } | BackendKind::Site { .. } if id.is_empty() => {
            "testjob_id is empty".to_owned()
        }
        BackendKind::Lava { .. }
        | BackendKind::Tuxsuite { .. }
        | BackendKind::Directory { .. }
        | BackendKind::Site { .. } => return Ok(()),
    };
    Err(Refusal::Bad(wrong))
}

/// Stores a test job with the task that collects it, and publishes that. The same test job is the same task.
pub(super) async fn announce(
    api: &Api,
    target: &Target,
    backend: &str,
    id: &str,
    delayed: bool,
) -> Answer {
    let Target {
        project,
        build,
        environment,
    } = target;
    let queue = api.config.route(testjob::FETCH);
    let place = format!("{project}/{build}/{environment}");
    let mut task = testjob::fetch_task(queue, backend, id, &place, false);
    if delayed {
        // Another task, so that word of the test job's end need not wait for this one.
        let id = format!("{}:late", task.id);
        task = task.with_id(id);
        task.run_at = Some(api.store.clock().now().saturating_add(DELAY));
    }
    let row = json!({
        "backend": backend, "remote_id": id, "project": project, "build": build, "environment": environment,
    });
    match api.store.watch_testjob(&row, &[task]).await? {
        Some(watched) => {
            api.relay.publish(watched.rings).await;
            Ok(watched.id)
        }
        None => Err(Refusal::Bad(format!(
            "test job {id:?} of backend {backend:?} is watched already for another project or build"
        ))),
    }
}

/// A form's fields, whichever way it is written.
async fn fields(parts: &Parts, body: Bytes) -> Result<Vec<(String, String)>, Refusal> {
    let kind = header_text(&parts.headers, header::CONTENT_TYPE.as_str()).unwrap_or_default();
    if !kind.to_ascii_lowercase().starts_with("multipart/form-data") {
        let fields = url::form_urlencoded::parse(&body).into_owned();
        return Ok(fields.collect());
    }
    let broken = |error: &dyn std::fmt::Display| Refusal::Bad(format!("malformed form: {error}"));
    let request = Request::from_parts(parts.clone(), Body::from(body));
    let mut form = Multipart::from_request(request, &())
        .await
        .map_err(|error| broken(&error))?;
    let mut fields = Vec::new();
    while let Some(field) = form.next_field().await.map_err(|error| broken(&error))? {
        let name = field.name().unwrap_or_default().to_owned();
        let text = field.text().await.map_err(|error| broken(&error))?;
        fields.push((name, text));
    }
    Ok(fields)
}

fn is(pattern: &LazyLock<Option<Regex>>, text: &str) -> bool {
    pattern
        .as_ref()
        .is_some_and(|pattern| pattern.is_match(text))
}

/// Whether TuxSuite can have a test job of this id.
pub(super) fn is_tuxsuite(id: &str) -> bool {
    is(&TUXSUITE, id)
}
