//! What the stand-in server answers: its REST interface, its files, and who may ask.

use std::io;
use std::sync::Arc;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::extract::Request;
use axum::http::header::{AUTHORIZATION, CONTENT_LENGTH, CONTENT_TYPE};
use axum::http::{HeaderValue, Response, StatusCode};
use base64::Engine as _;
use futures::StreamExt as _;
use serde_json::{Value, json};
use tokio_util::io::ReaderStream;

use super::job::{LabAttachment, LabJob, LabSuite, LabTest, quoted};
use super::{Shared, rpc};

/// The largest question that is read, in bytes.
const MAX_QUESTION: usize = 1 << 20;

/// An empty answer of this status.
pub(super) fn status(code: u16) -> Response<Body> {
    let mut response = Response::new(Body::from(json!({"detail": code}).to_string()));
    *response.status_mut() =
        StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    response
}

/// Whether a request shows that it knows `token`: in a header (REST, XML-RPC) or its query (the
/// plain log).
pub(super) fn knows(request: &Request, token: &str) -> bool {
    let header = request
        .headers()
        .get(AUTHORIZATION)
        .and_then(|value| value.to_str().ok())
        .unwrap_or_default();
    let basic = header
        .strip_prefix("Basic ")
        .and_then(|text| base64::prelude::BASE64_STANDARD.decode(text).ok());
    let password = basic.and_then(|pair| String::from_utf8(pair).ok());
    header.strip_prefix("Token ") == Some(token)
        || password.is_some_and(|pair| {
            pair.split_once(':')
                .is_some_and(|(_, password)| password == token)
        })
        || query(request, "token").as_deref() == Some(token)
}

fn query(request: &Request, key: &str) -> Option<String> {
    let pairs = url::form_urlencoded::parse(request.uri().query()?.as_bytes());
    pairs
        .into_iter()
        .find(|(name, _)| name == key)
        .map(|(_, value)| value.into_owned())
}

/// The answer to a request.
pub(super) async fn to(shared: &Shared, request: Request) -> Response<Body> {
    let path = request.uri().path().trim_end_matches('/').to_owned();
    if path == "/RPC2" {
        return match to_bytes(request.into_body(), MAX_QUESTION).await {
            Ok(question) => xml(rpc::answer(shared, &String::from_utf8_lossy(&question))),
            Err(_) => status(413),
        };
    }
    let parts: Vec<&str> = path.split('/').skip(1).collect();
    let found = match parts.as_slice() {
        ["attachments", name] => return attachment(shared, name).await,
        ["api", "v0.2", "jobs", id, rest @ ..] => shared.job(id).map(|job| (job, rest.to_vec())),
        ["scheduler", "job", id, "log_file", "plain"] => {
            shared.job(id).map(|job| (job, vec!["logs"]))
        }
        _ => None,
    };
    let Some((job, rest)) = found else {
        return status(404);
    };
    match rest.as_slice() {
        [] => json_answer(&details(&job)),
        ["logs"] => log(&job),
        ["suites"] => json_answer(&page(
            shared,
            &request,
            job.suites.len() as u64,
            |offset, limit| {
                let skip = usize::try_from(offset).unwrap_or(usize::MAX);
                let suites = job.suites.iter().enumerate().skip(skip).take(limit);
                suites.map(|(index, suite)| json!({"id": index + 1, "name": suite.name, "job": job.id})).collect()
            },
        )),
        ["suites", number, "tests"] => match suite(&job, number) {
            Some((number, suite)) => {
                json_answer(&page(shared, &request, suite.len(), |offset, limit| {
                    let tests = suite.page(offset, limit);
                    tests
                        .iter()
                        .zip(offset..)
                        .map(|(test, index)| test_answer(suite, number, index, test))
                        .collect()
                }))
            }
            None => status(404),
        },
        _ => status(404),
    }
}

fn suite<'a>(job: &'a LabJob, number: &str) -> Option<(usize, &'a LabSuite)> {
    let number: usize = number.parse().ok()?;
    Some((number, job.suites.get(number.checked_sub(1)?)?))
}

fn details(job: &LabJob) -> Value {
    let is_finished = job.state == "Finished";
    json!({
        "id": job.id,
        "submitter": "lab",
        "state": job.state,
        "health": job.health,
        "priority": 50,
        "description": job.name,
        "definition": job.definition(),
        "requested_device_type": job.device_type,
        "actual_device": format!("{}-01", job.device_type),
        "submit_time": "2026-01-01T00:00:00Z",
        "start_time": "2026-01-01T00:01:00Z",
        "end_time": if is_finished { json!("2026-01-01T00:31:00Z") } else { Value::Null },
    })
}

fn test_answer(suite: &LabSuite, number: usize, index: u64, test: &LabTest) -> Value {
    json!({
        "id": number as u64 * 10_000_000 + index,
        "name": test.name,
        "unit": test.unit,
        "result": test.result,
        "measurement": test.measurement,
        "metadata": metadata(suite, test),
        "suite": number,
        "start_log_line": test.lines.map(|lines| lines.0),
        "end_log_line": test.lines.map(|lines| lines.1),
        "test_set": null,
        "logged": "2026-01-01T00:02:00Z",
    })
}

/// A test's metadata, as YAML.
pub(super) fn metadata(suite: &LabSuite, test: &LabTest) -> String {
    let own = [
        ("case", &test.name),
        ("definition", &suite.name),
        ("result", &test.result),
    ];
    let own = own
        .into_iter()
        .map(|(key, value)| format!("{key}: {}\n", quoted(value)));
    let more = test
        .metadata
        .iter()
        .map(|(key, value)| format!("{}: {}\n", quoted(key), quoted(value)));
    own.chain(more).collect()
}

/// One page of a list of `count` entries, as the request asks for it.
fn page(
    shared: &Shared,
    request: &Request,
    count: u64,
    entries: impl FnOnce(u64, usize) -> Vec<Value>,
) -> Value {
    let number = |key| query(request, key).and_then(|text| text.parse::<u64>().ok());
    let offset = number("offset").unwrap_or(0);
    let limit = number("limit")
        .and_then(|limit| usize::try_from(limit).ok())
        .unwrap_or(50)
        .clamp(1, shared.page());
    let results = entries(offset, limit);
    let end = offset + results.len() as u64;
    let next = (end < count).then(|| {
        let path = request.uri().path();
        format!("{}{path}?limit={limit}&offset={end}", shared.url)
    });
    json!({"count": count, "next": next, "previous": null, "results": results})
}

fn json_answer(value: &Value) -> Response<Body> {
    typed("application/json", Body::from(value.to_string()))
}

fn xml(text: String) -> Response<Body> {
    typed("text/xml", Body::from(text))
}

fn typed(kind: &'static str, body: Body) -> Response<Body> {
    let mut response = Response::new(body);
    response
        .headers_mut()
        .insert(CONTENT_TYPE, HeaderValue::from_static(kind));
    response
}

fn log(job: &LabJob) -> Response<Body> {
    let rate = job.log_rate;
    let pieces = futures::stream::iter(job.log_pieces()).then(move |piece| async move {
        throttle(rate, piece.len()).await;
        Ok::<_, io::Error>(piece)
    });
    typed("application/yaml", Body::from_stream(pieces))
}

/// Waits as long as `bytes` take at `rate`.
async fn throttle(rate: Option<u64>, bytes: usize) {
    if let Some(rate) = rate {
        tokio::time::sleep(Duration::from_secs_f64(bytes as f64 / rate.max(1) as f64)).await;
    }
}

async fn attachment(shared: &Shared, name: &str) -> Response<Body> {
    let found = super::lock(&shared.jobs)
        .values()
        .find_map(|job: &Arc<LabJob>| {
            job.attachment
                .clone()
                .filter(|attachment| attachment.name == name)
        });
    let Some(LabAttachment { path, rate, .. }) = found else {
        return status(404);
    };
    let Ok(file) = tokio::fs::File::open(&path).await else {
        return status(404);
    };
    let Ok(length) = file.metadata().await.map(|metadata| metadata.len()) else {
        return status(500);
    };
    let pieces = ReaderStream::with_capacity(file, piece_size(rate));
    let pieces = pieces.then(move |piece| async move {
        if let Ok(piece) = &piece {
            throttle(rate, piece.len()).await;
        }
        piece
    });
    let mut response = typed("application/octet-stream", Body::from_stream(pieces));
    response
        .headers_mut()
        .insert(CONTENT_LENGTH, HeaderValue::from(length));
    response
}

/// About 50 ms of a throttled file, or 64 KiB of any other.
fn piece_size(rate: Option<u64>) -> usize {
    match rate {
        Some(rate) => usize::try_from(rate / 20)
            .unwrap_or(usize::MAX)
            .clamp(1, 64 * 1024),
        None => 64 * 1024,
    }
}
