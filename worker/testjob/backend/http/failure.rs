//! What an exchange can fail of, and whether another try can help: [`classify`] is the one table.
//!
//! Invariant: no text made here holds a token, a user name or a query string.

use std::error::Error as StdError;
use std::io;
use std::time::Duration;

use reqwest::Response;
use reqwest::header::RETRY_AFTER;
use serde::de::DeserializeOwned;
use url::Url;

use crate::testjob::backend::BackendError;

/// The longest cause quoted in an error, in characters.
const MAX_CAUSE: usize = 200;

/// What went wrong in one exchange.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
pub enum Failure {
    /// A time limit passed; says which.
    #[error("no answer within the {0} time limit")]
    Timeout(&'static str),
    /// The server sent less than the slowest rate allowed.
    #[error("the server sent less than {0} bytes a second")]
    Slow(u64),
    /// No connection: refused, unreachable, name not found.
    #[error("no connection: {0}")]
    Connect(String),
    /// The TLS handshake broke off.
    #[error("the TLS handshake failed: {0}")]
    Tls(String),
    /// The server's certificate is not to be trusted.
    #[error("the server's certificate is not valid: {0}")]
    Certificate(String),
    /// The connection was reset or broke in another way.
    #[error("the connection broke: {0}")]
    Reset(String),
    /// The body ended before its announced length, or its last chunk is missing.
    #[error("the body ended early: {0}")]
    ShortBody(String),
    /// An answer outside 2xx.
    #[error("the server answered {code}")]
    Status {
        /// The status code.
        code: u16,
        /// What `Retry-After` asked for, where it was a number of seconds.
        retry_after: Option<Duration>,
    },
    /// A redirect that is not followed.
    #[error("a redirect was not followed: {0}")]
    Redirect(String),
    /// The body is larger than the limit, in bytes.
    #[error("the body is larger than the limit of {0} bytes")]
    TooLarge(u64),
    /// JSON that ends in the middle although the length fits.
    #[error("the answer ends in the middle: {0}")]
    EndsEarly(String),
    /// A page in place of data, for instance from a proxy.
    #[error("the answer is no data but a page of type {0}")]
    Page(String),
    /// A complete answer that says something else than expected.
    #[error("the answer is malformed: {0}")]
    Malformed(String),
    /// The request could not even be made.
    #[error("the request is not possible: {0}")]
    Setup(String),
}

/// Whether another try can help.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It can.
    Temporary,
    /// It would end the same.
    Final,
}

/// The one table of what is worth another try:
///
/// | failure | verdict |
/// |---|---|
/// | time limit, slow server | temporary |
/// | connection refused, unreachable, reset; name not found | temporary |
/// | TLS handshake broken off | temporary |
/// | bad certificate | final |
/// | body shorter than `Content-Length`, last chunk missing | temporary |
/// | 408, 425, 429 and every 5xx (`Retry-After` is respected within a bound) | temporary |
/// | 400, 401, 403, 404, 410 and every other status outside 2xx | final |
/// | too many redirects, a redirect from https to http | final |
/// | larger than the size limit | final |
/// | JSON that ends in the middle | temporary |
/// | a page that does not say it is JSON, HTML in place of a log (a proxy's, a log-in) | temporary |
/// | JSON (by its media type) that is malformed or says something else | final |
/// | a request that cannot be made | final |
///
/// A page in place of data is temporary because it is what proxies and servers in maintenance send
/// with status 200; a wrong address that always answers with a page ends when the task's attempts do.
pub fn classify(failure: &Failure) -> Verdict {
    match failure {
        Failure::Timeout(_)
        | Failure::Slow(_)
        | Failure::Connect(_)
        | Failure::Tls(_)
        | Failure::Reset(_)
        | Failure::ShortBody(_)
        | Failure::EndsEarly(_)
        | Failure::Page(_) => Verdict::Temporary,
        Failure::Status { code, .. } => match code {
            408 | 425 | 429 | 500..=599 => Verdict::Temporary,
            _ => Verdict::Final,
        },
        Failure::Certificate(_)
        | Failure::Redirect(_)
        | Failure::TooLarge(_)
        | Failure::Malformed(_)
        | Failure::Setup(_) => Verdict::Final,
    }
}

/// An exchange that gave no answer: where and why. The text never holds a secret.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("read {place}: {failure}")]
pub struct HttpError {
    /// Scheme, host and path; no user, no query.
    pub place: String,
    /// What went wrong.
    pub failure: Failure,
}

impl HttpError {
    /// A failure at `url`.
    pub fn at(url: &Url, failure: Failure) -> Self {
        Self {
            place: place(url),
            failure,
        }
    }

    /// Whether another try can help, by [`classify`].
    pub fn verdict(&self) -> Verdict {
        classify(&self.failure)
    }

    /// Whether the server said that there is no such thing.
    pub fn is_not_found(&self) -> bool {
        matches!(
            self.failure,
            Failure::Status {
                code: 404 | 410,
                ..
            }
        )
    }

    pub(super) fn retry_after(&self) -> Option<Duration> {
        match &self.failure {
            Failure::Status { retry_after, .. } => *retry_after,
            Failure::Timeout(_)
            | Failure::Slow(_)
            | Failure::Connect(_)
            | Failure::Tls(_)
            | Failure::Certificate(_)
            | Failure::Reset(_)
            | Failure::ShortBody(_)
            | Failure::Redirect(_)
            | Failure::TooLarge(_)
            | Failure::EndsEarly(_)
            | Failure::Page(_)
            | Failure::Malformed(_)
            | Failure::Setup(_) => None,
        }
    }
}

impl From<HttpError> for BackendError {
    fn from(error: HttpError) -> Self {
        match error.verdict() {
            Verdict::Temporary => Self::Temporary(error.to_string()),
            Verdict::Final => Self::Final(error.to_string()),
        }
    }
}

/// What an error while reading a [`Download`] means: the client's own verdict if it is one of its
/// errors, else temporary.
pub fn read_error(error: &io::Error) -> BackendError {
    match error
        .get_ref()
        .and_then(|inner| inner.downcast_ref::<HttpError>())
    {
        Some(http) => http.clone().into(),
        None => BackendError::Temporary(format!("read a download: {error}")),
    }
}

/// An address as errors show it: without user, password, query and fragment.
pub fn place(url: &Url) -> String {
    let port = url
        .port()
        .map_or_else(String::new, |port| format!(":{port}"));
    format!(
        "{}://{}{port}{}",
        url.scheme(),
        url.host_str().unwrap_or_default(),
        url.path()
    )
}

pub(super) fn status_failure(response: &Response) -> Option<Failure> {
    let status = response.status();
    if status.is_success() {
        return None;
    }
    let retry_after = response
        .headers()
        .get(RETRY_AFTER)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.trim().parse().ok())
        .map(Duration::from_secs);
    Some(Failure::Status {
        code: status.as_u16(),
        retry_after,
    })
}

/// Reads JSON; where it fails, tells a cut answer and a proxy's page from a wrong answer.
pub(super) fn parse_json<T: DeserializeOwned>(
    body: &[u8],
    kind: Option<&str>,
) -> Result<T, Failure> {
    serde_json::from_slice(body).map_err(|error| {
        let kind = kind.unwrap_or("unknown");
        if error.is_eof() {
            Failure::EndsEarly(shorten(&error.to_string()))
        } else if !kind.contains("json") {
            Failure::Page(shorten(kind))
        } else {
            Failure::Malformed(shorten(&error.to_string()))
        }
    })
}

pub(super) fn failure(error: reqwest::Error) -> Failure {
    let error = error.without_url();
    if let Some(tls) = find::<rustls::Error>(&error) {
        let text = shorten(&tls.to_string());
        return if matches!(tls, rustls::Error::InvalidCertificate(_)) {
            Failure::Certificate(text)
        } else {
            Failure::Tls(text)
        };
    }
    let text = cause(&error);
    if error.is_timeout() {
        Failure::Timeout(if error.is_connect() {
            "connect"
        } else {
            "idle"
        })
    } else if error.is_redirect() {
        Failure::Redirect(text)
    } else if error.is_builder() {
        Failure::Setup(text)
    } else if error.is_connect() {
        Failure::Connect(text)
    } else if find::<io::Error>(&error)
        .is_some_and(|io| io.kind() == io::ErrorKind::ConnectionReset)
    {
        Failure::Reset(text)
    } else if error.is_body() || error.is_decode() {
        Failure::ShortBody(text)
    } else {
        Failure::Reset(text)
    }
}

/// Looks for an error of type `E` among the causes, also inside of `io::Error`s.
fn find<'e, E: StdError + 'static>(error: &'e (dyn StdError + 'static)) -> Option<&'e E> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref::<E>() {
            return Some(found);
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner as &(dyn StdError + 'static)),
            None => error.source(),
        };
    }
    None
}

/// The innermost cause in words, shortened.
pub(super) fn cause(error: &(dyn StdError + 'static)) -> String {
    let mut last = error;
    while let Some(next) = last.source() {
        last = next;
    }
    shorten(&last.to_string())
}

fn shorten(text: &str) -> String {
    text.chars().take(MAX_CAUSE).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn status(code: u16) -> Failure {
        Failure::Status {
            code,
            retry_after: None,
        }
    }

    #[test]
    fn the_table_says_what_is_worth_another_try() {
        for code in [408, 425, 429, 500, 501, 502, 503, 504, 599] {
            assert_eq!(classify(&status(code)), Verdict::Temporary, "{code}");
        }
        for code in [304, 400, 401, 403, 404, 405, 410, 418, 451] {
            assert_eq!(classify(&status(code)), Verdict::Final, "{code}");
        }
        assert_eq!(
            classify(&Failure::Certificate(String::new())),
            Verdict::Final
        );
        assert_eq!(classify(&Failure::Tls(String::new())), Verdict::Temporary);
        assert_eq!(classify(&Failure::TooLarge(1)), Verdict::Final);
    }

    #[test]
    fn json_that_ends_in_the_middle_is_told_from_json_that_is_wrong() {
        let kind = Some("application/json");
        let verdict = |body: &[u8], kind| classify(&parse_json::<Vec<u8>>(body, kind).unwrap_err());
        assert_eq!(verdict(b"[1, 2", kind), Verdict::Temporary);
        assert_eq!(verdict(b"", kind), Verdict::Temporary);
        assert_eq!(verdict(b"{\"a\": 1}", kind), Verdict::Final);
        assert_eq!(verdict(b"[1, 2}", kind), Verdict::Final);
        assert_eq!(verdict(b"<html>", Some("text/html")), Verdict::Temporary);
        assert_eq!(parse_json::<Vec<u8>>(b"[1, 2]", None), Ok(vec![1, 2]));
    }
}
