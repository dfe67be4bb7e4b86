//! TuxSuite: builds, OpenEmbedded builds and tests in Linaro's cloud.
//!
//! Invariants: a test job's result is sent whole or the collection fails; a 404 is an answer ("no
//! such test job"), never "still running"; the chain of what a test waited for is followed
//! a few steps at most; the token is sent to TuxSuite's own address only.
//!
//! Sources: TuxSuite's public interface, and SQUAD 1.98's behaviour where they leave a choice.

use async_trait::async_trait;
use serde_json::{Map, Value};
use url::Url;

use crate::testjob::backend::http::{Authorization, Client, Failure, HttpError, Limits, Secret};
use crate::testjob::backend::tuxsuite::collection::Collection;
use crate::testjob::backend::{
    Backend, BackendError, Collected, Download, Outlet, Settings, Summary, TOLD, web_address,
};
use crate::testjob::item::Sink;

mod collection;
mod sha1;
#[cfg(test)]
mod tests;

/// How to reach TuxSuite.
#[derive(Debug, Clone, PartialEq)]
pub struct TuxSuiteConfig {
    /// For instance `https://tuxapi.tuxsuite.com/v1/`.
    pub url: Url,
    /// The token; without one, public test jobs only.
    pub token: Option<Secret>,
    /// Bounds of each exchange.
    pub limits: Limits,
    /// The most of a log that is read, in bytes; the rest is cut. 1 GiB is a good value.
    pub log_limit: u64,
}

/// TuxSuite.
#[derive(Debug)]
pub struct TuxSuite {
    client: Client,
    /// Ends with `/`.
    base: Url,
    log_limit: u64,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    OeBuild,
    Build,
    Test,
}

impl Kind {
    /// Its part of an address.
    fn plural(self) -> &'static str {
        match self {
            Self::OeBuild => "oebuilds",
            Self::Build => "builds",
            Self::Test => "tests",
        }
    }

    /// The setting that lists which of its fields become metadata.
    fn metadata_key(self) -> &'static str {
        match self {
            Self::OeBuild => "OEBUILD_METADATA_KEYS",
            Self::Build => "BUILD_METADATA_KEYS",
            Self::Test => "TEST_METADATA_KEYS",
        }
    }
}

/// A test job's id, safe inside a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct JobId {
    kind: Kind,
    group: String,
    project: String,
    uid: String,
}

impl JobId {
    fn parse(text: &str) -> Result<Self, BackendError> {
        Self::read(text).ok_or_else(|| {
            let text: String = text.chars().take(80).collect();
            let form = "OEBUILD, BUILD or TEST, then :group@project#uid";
            BackendError::Final(format!("{text:?} is no TuxSuite test job: give {form}"))
        })
    }

    fn read(text: &str) -> Option<Self> {
        let (kind, rest) = text.split_once(':')?;
        let (owner, uid) = rest.split_once('#')?;
        let (group, project) = owner.split_once('@')?;
        let kind = match kind {
            "OEBUILD" => Kind::OeBuild,
            "BUILD" => Kind::Build,
            "TEST" => Kind::Test,
            _ => return None,
        };
        let is_name = |name: &str| {
            let allowed = |byte: u8| matches!(byte, b'a'..=b'z' | b'0'..=b'9' | b'_' | b'-');
            !name.is_empty() && name.bytes().all(allowed)
        };
        let is_good = is_name(group) && is_name(project) && is_uid(uid);
        is_good.then(|| Self {
            kind,
            group: group.to_owned(),
            project: project.to_owned(),
            uid: uid.to_owned(),
        })
    }

    /// The same project's `uid` of `kind`.
    fn sibling(&self, kind: Kind, uid: &str) -> Option<Self> {
        is_uid(uid).then(|| Self {
            kind,
            uid: uid.to_owned(),
            ..self.clone()
        })
    }
}

fn is_uid(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_alphanumeric())
}

/// What a test job says about itself. Fields that a kind lacks are `None`.
struct Answer(Map<String, Value>);

impl Answer {
    fn text(&self, key: &str) -> Option<&str> {
        self.0
            .get(key)
            .and_then(Value::as_str)
            .filter(|text| !text.is_empty())
    }

    fn need(&self, key: &str) -> Result<&Value, BackendError> {
        self.0
            .get(key)
            .ok_or_else(|| BackendError::Final(format!("TuxSuite's answer has no {key}")))
    }

    /// The fields listed in the setting `list`, `null` where missing.
    fn chosen(&self, settings: &Settings, list: &str) -> Vec<(String, Value)> {
        let keys = settings
            .get(list)
            .and_then(Value::as_array)
            .map_or(&[][..], Vec::as_slice);
        let keys = keys.iter().filter_map(Value::as_str);
        keys.map(|key| {
            (
                key.to_owned(),
                self.0.get(key).cloned().unwrap_or(Value::Null),
            )
        })
        .collect()
    }

    /// The address of a file beside the results.
    fn download(&self, name: &str) -> Option<Url> {
        let mut base = Url::parse(self.text("download_url")?).ok()?;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        base.join(name).ok()
    }

    /// The build's name: its own, or made of toolchain and configuration.
    fn build_name(&self) -> Option<String> {
        if let Some(name) = self.text("build_name") {
            return Some(name.to_owned());
        }
        let toolchain = self.text("toolchain")?;
        let kconfig = match self.0.get("kconfig")? {
            Value::String(one) => vec![one.as_str()],
            Value::Array(list) => list.iter().filter_map(Value::as_str).collect(),
            Value::Null | Value::Bool(_) | Value::Number(_) | Value::Object(_) => return None,
        };
        let (first, more) = kconfig.split_first()?;
        Some(match more {
            [] => format!("{toolchain}-{first}"),
            more => format!("{toolchain}-{first}-{}", sha1::first_8(&more.concat())),
        })
    }
}

impl TuxSuite {
    /// A client of TuxSuite at `config.url`; connects to nothing yet.
    ///
    /// # Errors
    ///
    /// A token that cannot be sent, or no certificates on this system.
    pub fn new(config: TuxSuiteConfig) -> Result<Self, HttpError> {
        let TuxSuiteConfig {
            url: mut base,
            token,
            limits,
            log_limit,
        } = config;
        if !base.path().ends_with('/') {
            base.set_path(&format!("{}/", base.path()));
        }
        let authorization = token.map(Authorization::Bare);
        let client = Client::new(&base, authorization.as_ref(), limits)?;
        Ok(Self {
            client,
            base,
            log_limit,
        })
    }
}

/// How a test job ended, beside what was sent.
struct End {
    status: &'static str,
    name: Option<String>,
    failure: Option<Value>,
}

#[async_trait]
impl Backend for TuxSuite {
    async fn collect(
        &self,
        id: &str,
        settings: &Settings,
        out: &Sink,
    ) -> Result<Collected, BackendError> {
        let parsed = JobId::parse(id)?;
        let client = match settings.get("TUXSUITE_TOKEN").and_then(Value::as_str) {
            Some(token) => self
                .client
                .authorized(&Authorization::Bare(Secret::new(token)))?,
            None => self.client.clone(),
        };
        let url = self.address(&parsed)?;
        // A callback that came too early is no answer for ever.
        let told = settings.get(TOLD).and_then(Value::as_object).cloned();
        let told = told
            .map(Answer)
            .filter(|told| told.running(parsed.kind).is_none());
        let answer = match told {
            Some(answer) => answer,
            None => Answer(client.json(&url).await?),
        };
        if let Some(state) = answer.running(parsed.kind) {
            return Ok(Collected::Running(state.to_owned()));
        }
        let environment = answer
            .text("test_name")
            .filter(|_| parsed.kind == Kind::Test)
            .map(str::to_owned);
        let mut outlet = Outlet::new(out);
        let mut collection = Collection {
            client,
            suite: self,
            id: &parsed,
            url,
            answer,
            settings,
            out: &mut outlet,
        };
        collection.metadata().await?;
        let end = match parsed.kind {
            Kind::Build => collection.build().await?,
            Kind::OeBuild => collection.oe_build().await?,
            Kind::Test => collection.test().await?,
        };
        let job_url = collection.url.to_string();
        outlet.fact("job_id", id).await?;
        outlet.fact("job_status", end.status).await?;
        outlet.fact("job_url", job_url.as_str()).await?;
        let completed = outlet.finish().await?;
        Ok(Collected::Done(Summary {
            status: end.status.to_owned(),
            completed,
            name: end.name,
            url: Some(job_url),
            environment,
            failure: end.failure,
            can_resubmit: false,
        }))
    }

    async fn open(&self, _id: &str, reference: &str) -> Result<Download, BackendError> {
        Ok(self
            .client
            .file(&web_address(reference)?)
            .await?
            .into_download())
    }
}

impl TuxSuite {
    fn address(&self, id: &JobId) -> Result<Url, BackendError> {
        let JobId {
            kind,
            group,
            project,
            uid,
        } = id;
        let path = format!("groups/{group}/projects/{project}/{}/{uid}", kind.plural());
        self.base
            .join(&path)
            .map_err(|error| HttpError::at(&self.base, Failure::Setup(error.to_string())).into())
    }
}

impl Answer {
    /// What state it is in, if that is not its last.
    fn running(&self, kind: Kind) -> Option<&str> {
        let state = self.text("state").unwrap_or("unknown");
        if state != "finished" {
            return Some(state);
        }
        // TuxSuite finishes a test before it knows how the boot went.
        let early = kind == Kind::Test && self.boot() == Some("unknown");
        early.then_some("finished, the boot's result is not there yet")
    }

    /// How the boot of a test went.
    fn boot(&self) -> Option<&str> {
        self.0.get("results")?.get("boot")?.as_str()
    }

    /// Why a finished test has no results of its own: its status, and the reason in words.
    fn given_up(&self) -> Option<(&'static str, &'static str)> {
        let results = self.0.get("results").and_then(Value::as_object);
        if results.is_none_or(Map::is_empty) {
            let why = match self.text("waiting_for") {
                None => "no results",
                Some(other) if other.contains("BUILD") => "build failed",
                Some(_) => "sanity test failed",
            };
            return Some(("Complete", why));
        }
        match self.text("result") {
            Some("error") => Some(("Incomplete", "tuxsuite infrastructure error")),
            Some("canceled") => Some(("Canceled", "tuxsuite job canceled")),
            Some(_) | None => None,
        }
    }

    /// What a test waited for: its kind and uid. A bare uid is a build's.
    fn waiting_for(&self) -> Option<(Kind, &str)> {
        match self.text("waiting_for")?.split_once('#') {
            Some(("TEST", uid)) => Some((Kind::Test, uid)),
            Some(("BUILD", uid)) => Some((Kind::Build, uid)),
            Some((_, _)) => None,
            None => self.text("waiting_for").map(|uid| (Kind::Build, uid)),
        }
    }
}
