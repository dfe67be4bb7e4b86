//! Ways in which the stand-in server misbehaves.

use std::io;
use std::time::Duration;

use axum::body::{Body, to_bytes};
use axum::http::header::{CONTENT_LENGTH, CONTENT_TYPE, RETRY_AFTER};
use axum::http::{HeaderValue, Response, StatusCode};
use bytes::Bytes;
use futures::StreamExt as _;

/// The largest answer that a fault may change, in bytes.
const MAX_CHANGED: usize = 64 << 20;

/// One fault: what happens to which requests.
#[derive(Debug, Clone)]
pub struct Fault {
    path: String,
    skip: u64,
    times: u64,
    effect: Effect,
}

impl Fault {
    /// `effect` for each request of a path that contains `path`.
    pub fn new(path: impl Into<String>, effect: Effect) -> Self {
        Self {
            path: path.into(),
            skip: 0,
            times: u64::MAX,
            effect,
        }
    }

    /// The same, for the first `times` requests only.
    #[must_use]
    pub fn times(mut self, times: u64) -> Self {
        self.times = times;
        self
    }

    /// The same, after `skip` requests that go well.
    #[must_use]
    pub fn after(mut self, skip: u64) -> Self {
        self.skip = skip;
        self
    }

    /// What happens to a request of `path`; counts it.
    pub(super) fn strike(&mut self, path: &str) -> Option<Effect> {
        if !path.contains(&self.path) {
            return None;
        }
        if self.skip > 0 {
            self.skip -= 1;
            return None;
        }
        self.times = self.times.checked_sub(1)?;
        Some(self.effect.clone())
    }
}

/// What happens to a request.
#[derive(Debug, Clone)]
pub enum Effect {
    /// This status in place of an answer.
    Status(u16),
    /// This status, with `Retry-After` in seconds.
    RetryAfter(u16, u64),
    /// A page of HTML with status 200, as proxies send it.
    Page,
    /// A redirect to this address.
    Redirect(String),
    /// The right answer, later.
    Delay(Duration),
    /// The connection breaks after this many bytes of the body.
    Break(u64),
    /// Only this many bytes, with the whole answer's `Content-Length`.
    Short(u64),
    /// Only this many bytes, with a `Content-Length` that fits them.
    Cut(u64),
    /// One byte of the answer each time this long has passed.
    Drip(Duration),
}

impl Effect {
    /// The answer that stands in place of the right one.
    pub(super) fn in_place(&self) -> Option<Response<Body>> {
        let (code, header, body) = match self {
            Self::Status(code) => (*code, None, "a fault\n"),
            Self::RetryAfter(code, after) => {
                (*code, Some((RETRY_AFTER, after.to_string())), "a fault\n")
            }
            Self::Page => (
                200,
                Some((CONTENT_TYPE, "text/html".to_owned())),
                "<!DOCTYPE html><html><body>Back soon</body></html>",
            ),
            Self::Redirect(to) => (302, Some((axum::http::header::LOCATION, to.clone())), ""),
            Self::Delay(_) | Self::Break(_) | Self::Short(_) | Self::Cut(_) | Self::Drip(_) => {
                return None;
            }
        };
        let mut response = Response::new(Body::from(body));
        *response.status_mut() =
            StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        if let Some((name, value)) = header
            && let Ok(value) = HeaderValue::from_str(&value)
        {
            response.headers_mut().insert(name, value);
        }
        Some(response)
    }

    /// What becomes of the right answer.
    pub(super) async fn upon(self, response: Response<Body>) -> Response<Body> {
        let (mut head, body) = response.into_parts();
        let changed = match self {
            Self::Break(bytes) => {
                head.headers.remove(CONTENT_LENGTH);
                broken(body, bytes)
            }
            Self::Short(bytes) => {
                let Some(whole) = all(body).await else {
                    return super::answer::status(500);
                };
                head.headers
                    .insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
                broken(Body::from(whole), bytes)
            }
            Self::Cut(bytes) => {
                let Some(mut whole) = all(body).await else {
                    return super::answer::status(500);
                };
                whole.truncate(usize::try_from(bytes).unwrap_or(usize::MAX));
                head.headers
                    .insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
                Body::from(whole)
            }
            Self::Drip(pause) => {
                let Some(whole) = all(body).await else {
                    return super::answer::status(500);
                };
                head.headers
                    .insert(CONTENT_LENGTH, HeaderValue::from(whole.len()));
                Body::from_stream(futures::stream::unfold(whole, move |mut rest| async move {
                    if rest.is_empty() {
                        return None;
                    }
                    tokio::time::sleep(pause).await;
                    Some((Ok::<_, io::Error>(rest.split_to(1)), rest))
                }))
            }
            Self::Status(_)
            | Self::RetryAfter(..)
            | Self::Page
            | Self::Redirect(_)
            | Self::Delay(_) => body,
        };
        Response::from_parts(head, changed)
    }
}

async fn all(body: Body) -> Option<Bytes> {
    to_bytes(body, MAX_CHANGED).await.ok()
}

/// `bytes` of `body`, then an error, at which the server drops the connection.
fn broken(body: Body, bytes: u64) -> Body {
    let pieces = futures::stream::unfold(
        (body.into_data_stream(), bytes),
        |(mut pieces, left)| async move {
            // A pause, so that what was sent before is not lost with the connection.
            if left == 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
                return Some((Err(io::Error::other("a fault")), (pieces, 0)));
            }
            let mut piece = match pieces.next().await {
                Some(Ok(piece)) => piece,
                Some(Err(error)) => return Some((Err(io::Error::other(error)), (pieces, 0))),
                None => return Some((Err(io::Error::other("a fault")), (pieces, 0))),
            };
            piece.truncate(usize::try_from(left).unwrap_or(usize::MAX));
            let left = left - piece.len() as u64;
            Some((Ok(piece), (pieces, left)))
        },
    );
    Body::from_stream(pieces)
}
