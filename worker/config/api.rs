//! `[api]` and `[sinks]`: where producers speak to us by SQUAD's HTTP, and whom results are submitted to.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;
use url::Url;

use super::address::{self, Address, serialize_url};
use super::backend;
use super::problem::Wrong;
use super::quantity::serialize_duration;
use super::secret::Secret;
use super::section::{SecretKeys, Section};

/// How producers speak to `longshore api`.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Api {
    /// The address and port. Default: none, and `longshore api` does not start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
    /// Who may watch test jobs, by a name for logs. Default: nobody.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub tokens: BTreeMap<String, Token>,
}

/// One who may watch test jobs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Token {
    /// What the producer shows.
    pub token: Secret,
    /// The projects, `group/project`, that it may watch test jobs of. Default `["*"]`: all.
    pub projects: Vec<String>,
    /// The names of tasks that it may enqueue by `POST /api/tasks`; `package.*` is all that begin so; `gate/NAME`: it may
    /// enqueue entries of that gate. Default: none.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub tasks: Vec<String>,
}

/// A server that results are submitted to.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Sink {
    /// What it is.
    pub kind: SinkKind,
    /// Where it is, without a password.
    #[serde(serialize_with = "serialize_url")]
    pub url: Url,
    /// What it wants to be shown. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// How long one submission may take, 1 s to 6 h. Default 10 min.
    #[serde(serialize_with = "serialize_duration")]
    pub timeout: Duration,
}

/// What a sink is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum SinkKind {
    /// A SQUAD server, by its submit API.
    Squad,
}

/// How a secret of these sections is given.
const TOKEN: SecretKeys = SecretKeys {
    plain: "token",
    file: "token_file",
    variable: Some("token_env"),
    url: "url",
};

impl Api {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let listen = section.parsed("listen", str::to_owned, |text| {
            text.parse().map_err(|_| {
                Wrong::new(
                    "not an address and a port",
                    r#"write listen = "0.0.0.0:8081""#,
                )
            })
        });
        let tokens = section.table("tokens", |section| {
            section.tables(|_, section| Token::read(section))
        });
        Self {
            listen,
            tokens: tokens
                .into_iter()
                .filter_map(|(name, token)| Some((name, token?)))
                .collect(),
        }
    }
}

impl Token {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let token = section.secret(&TOKEN, None);
        let projects = section
            .list("projects")
            .unwrap_or_else(|| vec!["*".to_owned()]);
        let tasks = section.list("tasks").unwrap_or_default();
        let sound = ["token", "token_file", "token_env"]
            .iter()
            .all(|key| section.is_sound(key));
        if token.is_none() && sound {
            section.wrong_itself(Wrong::new("no token", r#"write token_file = "…""#));
        }
        Some(Self {
            token: token?,
            projects,
            tasks,
        })
    }

    /// Whether it may enqueue tasks of this name.
    pub fn may_enqueue(&self, name: &str) -> bool {
        self.tasks
            .iter()
            .any(|entry| match entry.strip_suffix('*') {
                Some(beginning) => name.starts_with(beginning),
                None => name == entry,
            })
    }

    /// Whether it may watch test jobs of `group/project`.
    pub fn may(&self, project: &str) -> bool {
        self.projects
            .iter()
            .any(|entry| entry == "*" || entry == project)
    }
}

impl Sink {
    /// The sink, or `None` after a problem that leaves it without a kind or a place.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let kind = section.choice("kind", &[("squad", SinkKind::Squad)]);
        if kind.is_none() && section.is_sound("kind") {
            section.wrong(
                "kind",
                None,
                Wrong::new("missing", r#"write kind = "squad""#),
            );
        }
        let (url, in_url) = match section.parsed("url", address::masked, backend::http) {
            Some(Address { url, secret }) => (Some(url), secret),
            None => (None, None),
        };
        let token = section.secret(&TOKEN, in_url);
        let timeout = section.duration(
            "timeout",
            Duration::from_secs(1)..=Duration::from_secs(6 * 3600),
            Duration::from_secs(600),
        );
        let mut url = backend::required(section, "url", url)?;
        if !url.path().ends_with('/') {
            let path = format!("{}/", url.path());
            url.set_path(&path);
        }
        Some(Self {
            kind: kind?,
            url,
            token,
            timeout,
        })
    }
}
