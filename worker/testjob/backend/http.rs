//! The one HTTP client of the backends: every wait, every body and every retry has a bound.
//!
//! Invariants: it never reads a body whole without a size limit; never takes a body that ended early
//! for an answer; never sends a token to another origin than the backend's; never puts a token, a
//! user name or a query string into an error or a `Debug` text. What is worth another try is
//! decided in one place, [`classify`].

use std::io;
use std::time::Duration;

use backon::{ExponentialBuilder, Retryable};
use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use reqwest::header::{ACCEPT_ENCODING, AUTHORIZATION, CONTENT_TYPE, HeaderValue};
use reqwest::{Response, redirect};
use serde::de::DeserializeOwned;
use tokio::time::{Instant, timeout};
use tokio_util::io::StreamReader;
use url::{Origin, Url};

use crate::testjob::backend::Download;

pub use self::failure::{Failure, HttpError, Verdict, classify, place, read_error};
use self::failure::{cause, failure, parse_json, status_failure};
pub use self::form::FormFile;

mod failure;
mod form;

/// Redirects followed before giving up: storage services use one or two.
const MAX_REDIRECTS: usize = 5;

/// Over how much waiting a download's rate is averaged: long enough for a pause of the network.
const RATE_WINDOW: Duration = Duration::from_secs(60);

/// A text that no error, log or `Debug` shows.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(String);

impl Secret {
    /// Takes the text as it is.
    pub fn new(text: impl Into<String>) -> Self {
        Self(text.into())
    }

    /// The text itself, to be sent and nothing else.
    pub(crate) fn expose(&self) -> &str {
        &self.0
    }
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Secret(hidden)")
    }
}

/// How a backend knows us.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authorization {
    /// `Authorization: Token <token>`: LAVA's REST interface.
    Token(Secret),
    /// HTTP basic authentication: LAVA's XML-RPC interface.
    Basic {
        /// The user's name.
        user: String,
        /// The user's token.
        password: Secret,
    },
    /// `Authorization: <token>` without a scheme: TuxSuite.
    Bare(Secret),
}

impl Authorization {
    fn header(&self) -> Result<HeaderValue, HttpError> {
        let text = match self {
            Self::Token(token) => format!("Token {}", token.expose()),
            Self::Basic { user, password } => {
                let pair = format!("{user}:{}", password.expose());
                format!("Basic {}", base64::prelude::BASE64_STANDARD.encode(pair))
            }
            Self::Bare(token) => token.expose().to_owned(),
        };
        let mut value = HeaderValue::from_str(&text).map_err(|_| HttpError {
            place: "the backend".to_owned(),
            failure: Failure::Setup(
                "its token has characters that no HTTP header can hold".to_owned(),
            ),
        })?;
        value.set_sensitive(true);
        Ok(value)
    }
}

/// The bounds of an exchange.
#[derive(Debug, Clone, PartialEq)]
pub struct Limits {
    /// Longest wait for a connection, TLS included. Default 10 s.
    pub connect: Duration,
    /// Longest silence of a server, before and within a body. Default 60 s.
    pub idle: Duration,
    /// Longest time for an answer that is read whole. Default 120 s.
    pub exchange: Duration,
    /// Longest time spent waiting for the server during a streamed download (our own slowness does
    /// not count). Default 6 h.
    pub download: Duration,
    /// Slowest download, in bytes a second over a minute of waiting. Default 1024.
    pub min_rate: u64,
    /// Largest answer that is read whole, in bytes after decompression. Default 32 MiB.
    pub answer: u64,
    /// Largest streamed download, in bytes. Default 32 GiB.
    pub file: u64,
    /// How often a temporary failure is tried again at once; the task is tried again later anyway.
    /// Default 2.
    pub retries: usize,
    /// The wait before the first retry; doubled for the next, with jitter. Default 500 ms.
    pub retry_delay: Duration,
    /// The longest `Retry-After` that is waited for; a longer one fails at once. Default 10 s.
    pub retry_after: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(60),
            exchange: Duration::from_secs(120),
            download: Duration::from_secs(6 * 3600),
            min_rate: 1024,
            answer: 32 << 20,
            file: 32 << 30,
            retries: 2,
            retry_delay: Duration::from_millis(500),
            retry_after: Duration::from_secs(10),
        }
    }
}

/// The client of one backend.
#[derive(Debug, Clone)]
pub struct Client {
    /// For answers and logs: decompresses on the way.
    answers: reqwest::Client,
    /// For files, whose bytes must arrive as they are even if a server labels them as compressed.
    files: reqwest::Client,
    origin: Origin,
    authorization: Option<HeaderValue>,
    limits: Limits,
}

impl Client {
    /// A client for the backend at `base`; `authorization` is sent to its origin only.
    ///
    /// # Errors
    ///
    /// [`Failure::Setup`]: a token that no header can hold, or no certificates on this system while
    /// `base` needs some.
    pub fn new(
        base: &Url,
        authorization: Option<&Authorization>,
        limits: Limits,
    ) -> Result<Self, HttpError> {
        // Fails if a provider is there already, which is as good.
        drop(rustls::crypto::ring::default_provider().install_default());
        let build = |gzip: bool| {
            builder(&limits)
                .gzip(gzip)
                .build()
                .or_else(|error| match base.scheme() {
                    // A container without certificates can still talk to a plain address.
                    "http" => builder(&limits).gzip(gzip).tls_certs_only([]).build(),
                    _ => Err(error),
                })
                .map_err(|error| HttpError::at(base, Failure::Setup(cause(&error))))
        };
        Ok(Self {
            answers: build(true)?,
            files: build(false)?,
            origin: base.origin(),
            authorization: authorization.map(Authorization::header).transpose()?,
            limits,
        })
    }

    /// The same client with another authorization.
    ///
    /// # Errors
    ///
    /// [`Failure::Setup`]: a token that no header can hold.
    pub fn authorized(&self, authorization: &Authorization) -> Result<Self, HttpError> {
        Ok(Self {
            authorization: Some(authorization.header()?),
            ..self.clone()
        })
    }

    /// The bounds in force.
    pub fn limits(&self) -> &Limits {
        &self.limits
    }

    /// Reads JSON.
    ///
    /// # Errors
    ///
    /// See [`classify`].
    pub async fn json<T: DeserializeOwned>(&self, url: &Url) -> Result<T, HttpError> {
        self.retrying(|| async move {
            let (body, kind) = self.whole(url, Want::Text).await?;
            parse_json(&body, kind.as_deref()).map_err(|failure| HttpError::at(url, failure))
        })
        .await
    }

    /// Sends `body` as `text/xml` and reads the answer whole: for questions in XML-RPC, which
    /// change nothing and may be repeated.
    ///
    /// # Errors
    ///
    /// See [`classify`].
    pub async fn ask_xml(&self, url: &Url, body: &str) -> Result<Bytes, HttpError> {
        self.retrying(|| async move { Ok(self.whole(url, Want::Reply(body)).await?.0) })
            .await
    }

    /// Opens a text for streaming, for instance a log, compressed on the way where the server can.
    /// A page of HTML is no text: servers send it in place of a log to those who are not let in.
    ///
    /// # Errors
    ///
    /// See [`classify`].
    pub async fn stream(&self, url: &Url) -> Result<Body, HttpError> {
        let body = self.retrying(|| self.open(url, Want::Text)).await?;
        match media_type(&body.response) {
            Some(kind) if kind.starts_with("text/html") => {
                Err(HttpError::at(url, Failure::Page("text/html".to_owned())))
            }
            Some(_) | None => Ok(body),
        }
    }

    /// Opens a file for streaming, its bytes as they are stored.
    ///
    /// # Errors
    ///
    /// See [`classify`].
    pub async fn file(&self, url: &Url) -> Result<Body, HttpError> {
        self.retrying(|| self.open(url, Want::File)).await
    }

    async fn retrying<T, F, Fut>(&self, exchange: F) -> Result<T, HttpError>
    where
        F: FnMut() -> Fut,
        Fut: Future<Output = Result<T, HttpError>>,
    {
        let longest = self.limits.retry_after;
        exchange
            .retry(
                ExponentialBuilder::default()
                    .with_min_delay(self.limits.retry_delay)
                    .with_factor(2.0)
                    .with_max_times(self.limits.retries)
                    .with_jitter(),
            )
            .when(|error| error.verdict() == Verdict::Temporary)
            .adjust(|error, delay| match error.retry_after() {
                Some(after) if after > longest => None,
                Some(after) => delay.map(|delay| delay.max(after)),
                None => delay,
            })
            .await
    }

    /// One request, its answer's head checked.
    async fn send(&self, url: &Url, want: Want<'_>) -> Result<Response, HttpError> {
        let mut request = match want {
            Want::Text => self.answers.get(url.clone()),
            Want::Reply(body) => self
                .answers
                .post(url.clone())
                .header(CONTENT_TYPE, "text/xml")
                .body(body.to_owned()),
            Want::File => self
                .files
                .get(url.clone())
                .header(ACCEPT_ENCODING, "identity"),
        };
        if url.origin() == self.origin
            && let Some(authorization) = &self.authorization
        {
            request = request.header(AUTHORIZATION, authorization.clone());
        }
        let response = request
            .send()
            .await
            .map_err(|error| HttpError::at(url, failure(error)))?;
        if matches!(want, Want::Reply(_)) && place(response.url()) != place(url) {
            // A redirected POST arrives as a GET without its body.
            let to = format!(
                "to {}; give the backend that address",
                place(response.url())
            );
            return Err(HttpError::at(url, Failure::Redirect(to)));
        }
        match status_failure(&response) {
            Some(failure) => Err(HttpError::at(url, failure)),
            None => Ok(response),
        }
    }

    /// An answer read whole, and its media type.
    async fn whole(&self, url: &Url, want: Want<'_>) -> Result<(Bytes, Option<String>), HttpError> {
        let limit = self.limits.answer;
        let exchange = async {
            let mut response = self.send(url, want).await?;
            let kind = media_type(&response).map(str::to_owned);
            if response
                .content_length()
                .is_some_and(|length| length > limit)
            {
                return Err(HttpError::at(url, Failure::TooLarge(limit)));
            }
            let mut whole = BytesMut::new();
            while let Some(chunk) = response
                .chunk()
                .await
                .map_err(|error| HttpError::at(url, failure(error)))?
            {
                if (whole.len() + chunk.len()) as u64 > limit {
                    return Err(HttpError::at(url, Failure::TooLarge(limit)));
                }
                whole.extend_from_slice(&chunk);
            }
            Ok((whole.freeze(), kind))
        };
        timeout(self.limits.exchange, exchange)
            .await
            .unwrap_or_else(|_| Err(HttpError::at(url, Failure::Timeout("exchange"))))
    }

    async fn open(&self, url: &Url, want: Want<'_>) -> Result<Body, HttpError> {
        let head = self.send(url, want);
        let response = timeout(self.limits.exchange, head)
            .await
            .unwrap_or_else(|_| Err(HttpError::at(url, Failure::Timeout("exchange"))))?;
        let limit = self.limits.file;
        if response
            .content_length()
            .is_some_and(|length| length > limit)
        {
            return Err(HttpError::at(url, Failure::TooLarge(limit)));
        }
        Ok(Body {
            response,
            place: place(url),
            limits: self.limits.clone(),
            pace: Pace::default(),
        })
    }
}

/// What a request is for.
#[derive(Debug, Clone, Copy)]
enum Want<'a> {
    /// JSON or a log.
    Text,
    /// The reply to this XML.
    Reply(&'a str),
    /// Bytes as they are stored.
    File,
}

/// A body being streamed.
#[derive(Debug)]
pub struct Body {
    response: Response,
    place: String,
    limits: Limits,
    pace: Pace,
}

impl Body {
    /// The next piece; `None` at the announced end.
    ///
    /// # Errors
    ///
    /// See [`classify`]; a body that ends early is an error, never an end.
    pub async fn chunk(&mut self) -> Result<Option<Bytes>, HttpError> {
        let before = Instant::now();
        let outcome = match timeout(self.limits.idle, self.response.chunk()).await {
            Err(_) => Err(Failure::Timeout("idle")),
            Ok(Err(error)) => Err(failure(error)),
            Ok(Ok(None)) => Ok(None),
            Ok(Ok(Some(chunk))) => self
                .pace
                .observe(before.elapsed(), chunk.len() as u64, &self.limits)
                .map(|()| Some(chunk)),
        };
        outcome.map_err(|failure| HttpError {
            place: self.place.clone(),
            failure,
        })
    }

    /// As a reader, whose errors [`read_error`] explains.
    pub fn into_download(self) -> Download {
        let media_type = media_type(&self.response).map(str::to_owned);
        let pieces = futures::stream::try_unfold(self, |mut body| async move {
            match body.chunk().await {
                Ok(Some(chunk)) => Ok(Some((chunk, body))),
                Ok(None) => Ok(None),
                Err(error) => Err(io::Error::other(error)),
            }
        });
        Download::new(StreamReader::new(Box::pin(pieces)), media_type)
    }
}

/// How fast a download comes; counts the time spent waiting for the server only.
#[derive(Debug, Default)]
struct Pace {
    waited: Duration,
    received: u64,
    window_waited: Duration,
    window_received: u64,
}

impl Pace {
    fn observe(&mut self, waited: Duration, bytes: u64, limits: &Limits) -> Result<(), Failure> {
        self.waited += waited;
        self.received += bytes;
        self.window_waited += waited;
        self.window_received += bytes;
        if self.received > limits.file {
            return Err(Failure::TooLarge(limits.file));
        }
        if self.waited > limits.download {
            return Err(Failure::Timeout("download"));
        }
        if self.window_waited >= RATE_WINDOW {
            if self.window_received < limits.min_rate.saturating_mul(self.window_waited.as_secs()) {
                return Err(Failure::Slow(limits.min_rate));
            }
            self.window_waited = Duration::ZERO;
            self.window_received = 0;
        }
        Ok(())
    }
}

fn media_type(response: &Response) -> Option<&str> {
    response.headers().get(CONTENT_TYPE)?.to_str().ok()
}

fn builder(limits: &Limits) -> reqwest::ClientBuilder {
    reqwest::Client::builder()
        .user_agent(concat!("longshore/", env!("CARGO_PKG_VERSION")))
        .connect_timeout(limits.connect)
        .read_timeout(limits.idle)
        .no_proxy()
        // A query may hold a token, which a `Referer` would tell the next host.
        .referer(false)
        .redirect(redirect::Policy::custom(|attempt| {
            let from_https = attempt
                .previous()
                .last()
                .is_some_and(|url| url.scheme() == "https");
            if attempt.previous().len() > MAX_REDIRECTS {
                attempt.error("too many of them")
            } else if from_https && attempt.url().scheme() != "https" {
                attempt.error("it leads from https to http")
            } else {
                attempt.follow()
            }
        }))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_text_shows_a_secret() {
        let base =
            Url::parse("https://me:hunter2@lava.example/api/v0.2/?token=hunter2#hunter2").unwrap();
        let authorization = Authorization::Basic {
            user: "me".into(),
            password: Secret::new("hunter2"),
        };
        let error = HttpError::at(&base, Failure::Timeout("idle"));
        let client = Client::new(&base, Some(&authorization), Limits::default()).unwrap();
        let texts = format!("{error} {error:?} {authorization:?} {client:?}");
        assert!(!texts.contains("hunter2"), "{texts}");
        assert!(!texts.contains("bWU6aHVudGVyMg"), "{texts}");
        assert!(texts.contains("https://lava.example/api/v0.2/"));
    }

    #[test]
    fn a_drip_is_slow_and_a_pause_is_not() {
        let limits = Limits::default();
        let second = Duration::from_secs(1);
        let mut drip = Pace::default();
        let end = (0..100).find_map(|_| drip.observe(second, 1, &limits).err());
        assert_eq!(end, Some(Failure::Slow(1024)));

        let mut paused = Pace::default();
        paused.observe(second, 1 << 20, &limits).unwrap();
        paused.observe(second * 59, 0, &limits).unwrap();
        assert_eq!(
            paused.observe(second * 60, 10, &limits),
            Err(Failure::Slow(1024))
        );
    }

    #[test]
    fn a_download_is_bounded_in_size_and_in_time() {
        let limits = Limits {
            file: 10,
            ..Limits::default()
        };
        assert_eq!(
            Pace::default().observe(Duration::ZERO, 11, &limits),
            Err(Failure::TooLarge(10))
        );
        let limits = Limits {
            download: Duration::from_secs(5),
            ..Limits::default()
        };
        assert_eq!(
            Pace::default().observe(Duration::from_secs(6), 1, &limits),
            Err(Failure::Timeout("download"))
        );
    }
}
