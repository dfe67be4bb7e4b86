//! `[backends]` and `[projects]`: where test jobs run, and what becomes of their results.

use std::collections::BTreeMap;
use std::fmt;
use std::path::PathBuf;
use std::time::Duration;

use serde::ser::SerializeMap;
use serde::{Serialize, Serializer};
use serde_json::Value;
use url::Url;

use super::Plugin;
use super::address::{self, Address, serialize_url};
use super::problem::{Wrong, suggestion};
use super::quantity::serialize_duration;
use super::secret::{HIDDEN, Secret, is_secret_name};
use super::section::{SecretKeys, Section};

const HOUR: Duration = Duration::from_secs(3600);

/// A place where test jobs run.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Backend {
    /// What it is and where.
    #[serde(flatten)]
    pub kind: BackendKind,
    /// Who asks, where the backend wants to know (LAVA's XML-RPC). Default: nobody.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub username: Option<String>,
    /// What it wants to be shown: by `token_file`, by the variable that `token_env` names, as `token`,
    /// or as the URL's password. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<Secret>,
    /// How long one request may stand still, 1 s to 1 h. Default 60 s.
    #[serde(serialize_with = "serialize_duration")]
    pub timeout: Duration,
    /// How long until the next look at a test job that still runs, 1 s to 1 day. Default 60 s.
    #[serde(serialize_with = "serialize_duration")]
    pub poll_interval: Duration,
    /// Settings by SQUAD's keys. Default: none.
    #[serde(skip_serializing_if = "Settings::is_empty")]
    pub settings: Settings,
}

/// What a backend is and where.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum BackendKind {
    /// A LAVA server.
    Lava {
        /// Where its API is, without a password.
        #[serde(serialize_with = "serialize_url")]
        url: Url,
    },
    /// TuxSuite.
    Tuxsuite {
        /// Where its API is, without a password.
        #[serde(serialize_with = "serialize_url")]
        url: Url,
    },
    /// A directory of result files.
    Directory {
        /// The directory.
        path: PathBuf,
    },
    /// The same behind HTTP.
    #[serde(rename = "directory")]
    Site {
        /// What the test jobs' folders are below, without a password.
        #[serde(serialize_with = "serialize_url")]
        url: Url,
    },
}

#[derive(Clone, Copy, PartialEq)]
enum KindName {
    Lava,
    Tuxsuite,
    Directory,
}

/// How a project's test jobs are treated.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Project {
    /// The plugins that post-process its test jobs. Default: none.
    pub plugins: Vec<String>,
    /// Whom its finished test jobs are submitted to, by names of `[sinks]`. Default: nobody.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub sinks: Vec<String>,
    /// Settings over those of the backend. Default: none.
    #[serde(skip_serializing_if = "Settings::is_empty")]
    pub settings: Settings,
}

/// Free settings. Those whose names say that they are secret are shown as `***`.
#[derive(Clone, PartialEq, Default)]
pub struct Settings(pub BTreeMap<String, Value>);

impl Backend {
    /// The backend, or `None` after a problem that leaves it without a kind or a place.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let kind = section.choice(
            "kind",
            &[
                ("lava", KindName::Lava),
                ("tuxsuite", KindName::Tuxsuite),
                ("directory", KindName::Directory),
            ],
        );
        if kind.is_none() && section.is_sound("kind") {
            let mend = r#"write kind = "lava", "tuxsuite" or "directory""#;
            section.wrong("kind", None, Wrong::new("missing", mend));
        }
        let address = section.parsed("url", address::masked, http);
        let path = section.path("path");
        let username = section.text("username");
        let (url, in_url) = match address {
            Some(Address { url, secret }) => (Some(url), secret),
            None => (None, None),
        };
        let (url, in_url_name) = url.map_or((None, None), |mut url| {
            let name = Some(url.username().to_owned()).filter(|name| !name.is_empty());
            // An HTTP URL always has a place for a name, so that removing it cannot fail.
            (url.set_username("").is_ok().then_some(url), name)
        });
        let keys = SecretKeys {
            plain: "token",
            file: "token_file",
            variable: Some("token_env"),
            url: "url",
        };
        let backend = Self {
            kind: BackendKind::Directory {
                path: PathBuf::new(),
            },
            username: username.or(in_url_name),
            token: section.secret(&keys, in_url),
            timeout: section.duration(
                "timeout",
                Duration::from_secs(1)..=HOUR,
                Duration::from_secs(60),
            ),
            poll_interval: section.duration(
                "poll_interval",
                Duration::from_secs(1)..=24 * HOUR,
                Duration::from_secs(60),
            ),
            settings: Settings::read(section),
        };
        let kind = kind?;
        refuse_what_the_kind_has_not(section, kind);
        let kind = match kind {
            KindName::Lava => BackendKind::Lava {
                url: required(section, "url", url)?,
            },
            KindName::Tuxsuite => BackendKind::Tuxsuite {
                url: required(section, "url", url)?,
            },
            KindName::Directory => match url {
                Some(url) => BackendKind::Site { url },
                None => BackendKind::Directory {
                    path: required(section, "path", path)?,
                },
            },
        };
        Some(Self { kind, ..backend })
    }
}

/// Each kind has its own place, and a directory on disk asks nobody.
fn refuse_what_the_kind_has_not(section: &Section<'_>, kind: KindName) {
    let behind_http = section.is_written("url");
    let (refused, what, mend): (&[&str], _, _) = match kind {
        KindName::Lava | KindName::Tuxsuite => (
            &["path"],
            "a server has a url instead",
            r#"write url = "https://…""#,
        ),
        KindName::Directory if behind_http => (
            &["path", "username"],
            "a directory behind HTTP has a url and perhaps a token",
            "remove it, or the url",
        ),
        KindName::Directory => (
            &["username", "token", "token_file", "token_env"],
            "a directory on disk has a path alone",
            "remove it, or write a url for a directory behind HTTP",
        ),
    };
    for key in refused {
        if section.is_written(key) && section.is_sound(key) {
            section.wrong(key, None, Wrong::new(what, mend));
        }
    }
}

pub(super) fn required<T>(section: &Section<'_>, key: &str, value: Option<T>) -> Option<T> {
    if value.is_none() && section.is_sound(key) {
        section.wrong(
            key,
            None,
            Wrong::new("missing", format!(r#"write {key} = "…""#)),
        );
    }
    value
}

/// The address of an HTTP API.
pub(super) fn http(text: &str) -> Result<Address, Wrong> {
    let address = address::parse(
        text,
        &["http", "https"],
        "https://lava.example.org/api/v0.2",
    )?;
    if address.url.query().is_some() {
        return Err(Wrong::new(
            "a URL with parameters",
            "remove what follows the ?, and give a token by token_file",
        ));
    }
    Ok(address)
}

impl Project {
    pub(super) fn read(
        name: &str,
        section: &mut Section<'_>,
        own: &BTreeMap<String, Plugin>,
    ) -> Self {
        let is_name = name.split_once('/').is_some_and(|(group, project)| {
            !group.is_empty() && !project.is_empty() && !project.contains('/')
        });
        if name != "*" && !is_name {
            let mend = r#"write [projects."group/project"], or [projects."*"] for all others"#;
            section.wrong_itself(Wrong::new("not a project's name", mend));
        }
        let built_in = section.reading().known_plugins().iter().copied();
        let known = built_in
            .chain(own.keys().map(String::as_str))
            .collect::<Vec<_>>();
        let plugins = section.list("plugins").unwrap_or_default();
        for plugin in &plugins {
            if !known.contains(&plugin.as_str()) {
                let wrong = Wrong::new("unknown plugin", suggestion(plugin, &known));
                section.wrong("plugins", Some(format!("{plugin:?}")), wrong);
            }
        }
        Self {
            plugins,
            sinks: section.list("sinks").unwrap_or_default(),
            settings: Settings::read(section),
        }
    }
}

impl Settings {
    fn read(section: &mut Section<'_>) -> Self {
        Self(section.table("settings", |section| section.json()))
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The setting `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.get(key)
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map()
            .entries(self.0.iter().map(|(key, value)| (key, hidden(key, value))))
            .finish()
    }
}

impl Serialize for Settings {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let mut map = out.serialize_map(Some(self.0.len()))?;
        for (key, value) in &self.0 {
            map.serialize_entry(key, &hidden(key, value))?;
        }
        map.end()
    }
}

/// The value with everything hidden that bears a secret's name.
fn hidden(key: &str, value: &Value) -> Value {
    if is_secret_name(key) {
        return HIDDEN.into();
    }
    match value {
        Value::Array(values) => values.iter().map(|value| hidden(key, value)).collect(),
        Value::Object(map) => Value::Object(
            map.iter()
                .map(|(key, value)| (key.clone(), hidden(key, value)))
                .collect(),
        ),
        Value::Null | Value::Bool(_) | Value::Number(_) | Value::String(_) => value.clone(),
    }
}
