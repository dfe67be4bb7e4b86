//! LAVA, through its REST interface (version 0.2) or its XML-RPC interface.
//!
//! Invariants: a collection never ends well with results missing: every page is read or the
//! collection fails; it never holds more than one page of results, `MAX_RANGED` tests that wait
//! for their logs and one line of the log; it changes nothing on the server.
//!
//! Order of what is sent: metadata, `definition.yaml`, results (suite `lava` first, then the
//! server's order), then the log with the tests whose log lines are known, in the order of their lines.

use std::fmt;

use async_trait::async_trait;
use bytes::Bytes;
use serde_json::Value;
use url::Url;

use crate::testjob::backend::http::{Authorization, Body, Client, HttpError, Limits, Secret};
use crate::testjob::backend::lava::rest::Rest;
use crate::testjob::backend::lava::results::{Case, Definition, Ranged, Rules, Yield};
use crate::testjob::backend::lava::xmlrpc::XmlRpc;
use crate::testjob::backend::{
    Backend, BackendError, Collected, Download, Outlet, REFERENCES, Settings, Summary, web_address,
};
use crate::testjob::item::{DATA_CHUNK, Item, Sink};

pub(super) mod logs;
mod rest;
pub(in crate::testjob) mod results;
#[cfg(test)]
mod tests;
mod xmlrpc;

/// Suites of one test job; LAVA jobs have a few dozen.
const MAX_SUITES: usize = 10_000;

/// Tests of one suite, so that a server which never ends cannot hold us for ever.
const MAX_CASES: u64 = 5_000_000;

/// Cases of the suite `lava`, which is held until it says whether the job failed.
const MAX_LAVA_CASES: usize = 20_000;

/// Tests that wait for the log: about 20 MB. Those beyond come without.
const MAX_RANGED: usize = 100_000;

/// Files that tests refer to; a CTS run has one.
const MAX_REFERENCES: usize = 1000;

/// How to reach a LAVA server.
#[derive(Debug, Clone, PartialEq)]
pub struct LavaConfig {
    /// `https://lava.example/api/v0.2/` for REST, `https://lava.example/RPC2` for XML-RPC.
    pub url: Url,
    /// The user, for XML-RPC.
    pub username: Option<String>,
    /// The token; without one, public test jobs only.
    pub token: Option<Secret>,
    /// Bounds of each exchange.
    pub limits: Limits,
    /// The most of a log that is read, in bytes; the rest is cut. 1 GiB is a good value.
    pub log_limit: u64,
}

/// A LAVA server.
#[derive(Debug)]
pub struct Lava {
    client: Client,
    interface: Interface,
    site: Url,
    log_limit: u64,
}

#[derive(Debug)]
enum Interface {
    Rest(Rest),
    XmlRpc(XmlRpc),
}

/// A test job's number, `1234` or `1234.0` (multinode); safe inside a path.
#[derive(Debug, Clone, PartialEq, Eq)]
struct JobId(String);

impl JobId {
    fn parse(text: &str) -> Result<Self, BackendError> {
        let digits = |text: &str| {
            !text.is_empty() && text.len() <= 20 && text.bytes().all(|b| b.is_ascii_digit())
        };
        let (job, part) = text
            .split_once('.')
            .map_or((text, "0"), |(job, part)| (job, part));
        if digits(job) && digits(part) {
            Ok(Self(text.to_owned()))
        } else {
            let text: String = text.chars().take(40).collect();
            Err(BackendError::Final(format!(
                "{text:?} is no LAVA test job: give a number as 1234 or 1234.0"
            )))
        }
    }

    fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for JobId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What LAVA says of a test job.
#[derive(Debug, Clone, PartialEq)]
struct Details {
    state: String,
    /// How it ended (`Complete`, `Incomplete`, `Canceled`, `Unknown`); while it runs, its state.
    status: String,
    definition: Option<String>,
    description: Option<String>,
    started: Option<String>,
    ended: Option<String>,
}

impl Details {
    fn is_finished(&self) -> bool {
        matches!(
            self.state.as_str(),
            "Complete" | "Incomplete" | "Canceled" | "Finished"
        )
    }
}

#[derive(Debug, Clone, PartialEq)]
struct Suite {
    /// How the interface names it: its number (REST) or its name (XML-RPC).
    key: String,
    name: String,
}

/// Where in a suite's tests the next page begins.
#[derive(Debug, Clone, Default)]
struct Cursor {
    /// Cases read so far.
    read: u64,
    /// The page's address, where the interface gives one.
    next: Option<Url>,
}

#[derive(Debug)]
struct Page {
    cases: Vec<Case>,
    next: Option<Cursor>,
}

impl Interface {
    async fn details(&self, id: &JobId) -> Result<Details, BackendError> {
        match self {
            Self::Rest(rest) => rest.details(id).await,
            Self::XmlRpc(rpc) => rpc.details(id).await,
        }
    }

    async fn suites(&self, id: &JobId) -> Result<Vec<Suite>, BackendError> {
        match self {
            Self::Rest(rest) => rest.suites(id).await,
            Self::XmlRpc(rpc) => rpc.suites(id).await,
        }
    }

    async fn cases(&self, id: &JobId, suite: &Suite, cursor: Cursor) -> Result<Page, BackendError> {
        match self {
            Self::Rest(rest) => rest.cases(id, suite, cursor).await,
            Self::XmlRpc(rpc) => rpc.cases(id, suite, cursor).await,
        }
    }

    async fn log(&self, id: &JobId) -> Result<Option<Body>, BackendError> {
        match self {
            Self::Rest(rest) => rest.log(id).await,
            Self::XmlRpc(rpc) => rpc.log(id).await,
        }
    }
}

/// One collection under way.
struct Collection<'a, 'o> {
    lava: &'a Lava,
    id: &'a JobId,
    rules: Rules,
    definition: Definition,
    ranged: Vec<Ranged>,
    /// Tests sent without their log because too many waited.
    unheld: u64,
    /// What becomes the fact [`REFERENCES`].
    references: serde_json::Map<String, Value>,
    out: &'a mut Outlet<'o>,
}

impl Lava {
    /// A client of the server at `config.url`; connects to nothing yet. The interface is REST if the
    /// address contains `api` and not `RPC2`, else XML-RPC.
    ///
    /// # Errors
    ///
    /// A token that cannot be sent, or no certificates on this system.
    pub fn new(config: LavaConfig) -> Result<Self, HttpError> {
        let LavaConfig {
            url,
            username,
            token,
            limits,
            log_limit,
        } = config;
        // SQUAD's addresses may hold both; nothing that is shown ever does.
        let username =
            username.or_else(|| Some(url.username().to_owned()).filter(|user| !user.is_empty()));
        let token = token.or_else(|| url.password().map(Secret::new));
        let url = bare(url);
        let is_rest = !url.path().contains("RPC2") && url.path().contains("api");
        let authorization = match (&token, &username) {
            (Some(token), _) if is_rest => Some(Authorization::Token(token.clone())),
            (Some(token), Some(user)) => Some(Authorization::Basic {
                user: user.clone(),
                password: token.clone(),
            }),
            (Some(_) | None, _) => None,
        };
        let client = Client::new(&url, authorization.as_ref(), limits)?;
        let mut site = url.clone();
        site.set_path("/");
        site.set_query(None);
        let interface = if is_rest {
            Interface::Rest(Rest::new(client.clone(), url))
        } else {
            Interface::XmlRpc(XmlRpc::new(client.clone(), url, username, token))
        };
        Ok(Self {
            client,
            interface,
            site,
            log_limit,
        })
    }

    fn job_url(&self, id: &JobId) -> String {
        format!("{}scheduler/job/{id}", self.site)
    }
}

#[async_trait]
impl Backend for Lava {
    async fn collect(
        &self,
        id: &str,
        settings: &Settings,
        out: &Sink,
    ) -> Result<Collected, BackendError> {
        let id = JobId::parse(id)?;
        let details = self.interface.details(&id).await?;
        if !details.is_finished() {
            return Ok(Collected::Running(details.state));
        }
        let mut out = Outlet::new(out);
        let definition = read_definition(&details, &mut out).await?;
        let job_name = definition
            .job_name
            .clone()
            .or_else(|| details.description.clone());
        for (key, value) in &definition.metadata {
            out.fact(key, value.clone()).await?;
        }
        self.send_facts(&id, &details, &mut out).await?;
        let mut collection = Collection {
            lava: self,
            id: &id,
            rules: Rules::of(settings),
            definition,
            ranged: Vec::new(),
            unheld: 0,
            references: serde_json::Map::new(),
            out: &mut out,
        };
        let (failure, counts) = if details.status == "Canceled" {
            (None, false)
        } else {
            collection.results().await?
        };
        collection.log().await?;
        let any = out.finish().await?;
        let completed = counts && any;
        Ok(Collected::Done(Summary {
            status: details.status,
            completed,
            name: job_name,
            url: Some(self.job_url(&id)),
            environment: None,
            failure,
            can_resubmit: !completed,
        }))
    }

    async fn open(&self, id: &str, reference: &str) -> Result<Download, BackendError> {
        JobId::parse(id)?;
        Ok(self
            .client
            .file(&web_address(reference)?)
            .await?
            .into_download())
    }
}

impl Lava {
    /// Sends what is known without the results; later facts win over the definition's metadata.
    async fn send_facts(
        &self,
        id: &JobId,
        details: &Details,
        out: &mut Outlet<'_>,
    ) -> Result<(), BackendError> {
        for (key, value) in [
            ("start_time", &details.started),
            ("end_time", &details.ended),
        ] {
            if let Some(value) = value {
                out.fact(key, value.as_str()).await?;
            }
        }
        out.fact("job_id", id.as_str()).await?;
        out.fact("job_status", details.status.as_str()).await?;
        out.fact("job_url", self.job_url(id)).await?;
        if let Some(definition) = &details.definition {
            out.file("definition.yaml", "application/yaml").await?;
            for piece in definition.as_bytes().chunks(DATA_CHUNK) {
                out.send(Item::Data(Bytes::copy_from_slice(piece))).await?;
            }
        }
        Ok(())
    }
}

/// The address without user and password.
fn bare(mut url: Url) -> Url {
    // Both fail only for addresses that cannot have them.
    if url.set_username("").is_err() || url.set_password(None).is_err() {
        tracing::debug!("an address cannot hold a user");
    }
    url
}

async fn read_definition(
    details: &Details,
    out: &mut Outlet<'_>,
) -> Result<Definition, BackendError> {
    match details.definition.as_deref().map(Definition::parse) {
        Some(Ok(definition)) => Ok(definition),
        Some(Err(why)) => {
            out.problem(format!("the definition is not readable: {why}"))
                .await?;
            Ok(Definition::default())
        }
        None => Ok(Definition::default()),
    }
}

impl Collection<'_, '_> {
    /// Sends the results, except of tests that wait for their log. Returns LAVA's failure and
    /// whether the results count; results that do not count are not sent.
    async fn results(&mut self) -> Result<(Option<Value>, bool), BackendError> {
        let (lava, others): (Vec<Suite>, Vec<Suite>) = self
            .lava
            .interface
            .suites(self.id)
            .await?
            .into_iter()
            .partition(|suite| suite.name == "lava");
        let mut failure = None;
        let mut held = Vec::new();
        for suite in &lava {
            let mut cursor = Some(Cursor::default());
            while let Some(at) = cursor {
                let page = self.lava.interface.cases(self.id, suite, at).await?;
                for case in &page.cases {
                    failure = results::failure(case).or(failure);
                    held.extend(results::items(
                        &suite.name,
                        case,
                        self.rules,
                        &self.definition,
                    ));
                }
                if held.len() > MAX_LAVA_CASES {
                    let text = format!(
                        "suite lava of test job {} has more than {MAX_LAVA_CASES} tests",
                        self.id
                    );
                    return Err(BackendError::Final(text));
                }
                cursor = page.next;
            }
        }
        let infrastructure = failure.as_ref().is_some_and(results::is_infrastructure);
        if infrastructure && !self.rules.accept_infrastructure {
            return Ok((failure, false));
        }
        self.send(held).await?;
        self.other_suites(&others).await?;
        Ok((failure, true))
    }

    async fn other_suites(&mut self, suites: &[Suite]) -> Result<(), BackendError> {
        for suite in suites {
            let mut cursor = Some(Cursor::default());
            while let Some(at) = cursor {
                let page = self.lava.interface.cases(self.id, suite, at).await?;
                for case in &page.cases {
                    if let Some((test, reference)) = results::reference(&suite.name, case)
                        && self.references.len() < MAX_REFERENCES
                    {
                        self.references.insert(test, Value::String(reference));
                    }
                    self.send(results::items(
                        &suite.name,
                        case,
                        self.rules,
                        &self.definition,
                    ))
                    .await?;
                }
                cursor = page.next;
            }
        }
        if !self.references.is_empty() {
            self.out
                .fact(REFERENCES, std::mem::take(&mut self.references))
                .await?;
        }
        Ok(())
    }

    async fn send(&mut self, items: Vec<Yield>) -> Result<(), BackendError> {
        for item in items {
            match item {
                Yield::Ready(item) => self.out.send(item).await?,
                // SQUAD has them by XML-RPC only, and a table for them that is as large as that.
                Yield::WithLog(ranged)
                    if self.rules.browser_links
                        && matches!(self.lava.interface, Interface::Rest(_)) =>
                {
                    self.out.send(Item::Test(ranged.test)).await?;
                }
                Yield::WithLog(ranged) if self.ranged.len() < MAX_RANGED => {
                    self.ranged.push(ranged)
                }
                Yield::WithLog(ranged) => {
                    self.unheld += 1;
                    self.out.send(Item::Test(ranged.test)).await?;
                }
            }
        }
        Ok(())
    }

    /// Sends the log, and the tests that waited for it.
    async fn log(&mut self) -> Result<(), BackendError> {
        if self.unheld > 0 {
            let text = format!(
                "{} tests are without a log: more than {MAX_RANGED} have one",
                self.unheld
            );
            self.out.problem(text).await?;
        }
        let body = self.lava.interface.log(self.id).await?;
        let link = self.lava.job_url(self.id);
        let ranged = std::mem::take(&mut self.ranged);
        let link = logs::Link {
            address: &link,
            for_browser: self.rules.browser_links,
        };
        logs::send(body, ranged, link, self.lava.log_limit, self.out).await
    }
}
