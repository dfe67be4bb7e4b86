//! One collection from TuxSuite: what is read and sent for each kind of test job.

use bytes::Bytes;
use serde_json::{Map, Value};
use url::Url;

use crate::testjob::backend::http::{Body, Client, Failure, HttpError};
use crate::testjob::backend::lava::logs::{self, Link};
use crate::testjob::backend::lava::results::{self, Ranged, split_name, too_long};
use crate::testjob::backend::tuxsuite::{Answer, End, JobId, Kind, TuxSuite};
use crate::testjob::backend::{BackendError, Outlet, REFERENCES, Settings};
use crate::testjob::item::{DATA_CHUNK, Item, Metric, Test, TestResult};

/// Steps from a test over the sanity tests that it waited for to the build: TuxSuite's plans have two.
const MAX_CHAIN: usize = 5;

/// Tests of one test job that are held until the log is read.
const MAX_TESTS: usize = 100_000;

/// Files that tests refer to; a CTS run has one.
const MAX_REFERENCES: usize = 1000;

/// One collection under way.
pub(super) struct Collection<'a, 'o> {
    pub(super) client: Client,
    pub(super) suite: &'a TuxSuite,
    pub(super) id: &'a JobId,
    pub(super) url: Url,
    pub(super) answer: Answer,
    pub(super) settings: &'a Settings,
    pub(super) out: &'a mut Outlet<'o>,
}

impl Collection<'_, '_> {
    /// Sends the chosen fields and what `metadata.json` beside the results adds.
    pub(super) async fn metadata(&mut self) -> Result<(), BackendError> {
        for (key, value) in self
            .answer
            .chosen(self.settings, self.id.kind.metadata_key())
        {
            self.out.fact(&key, value).await?;
        }
        if let Some(url) = self
            .answer
            .download("metadata.json")
            .filter(|_| self.id.kind != Kind::OeBuild)
        {
            match self.client.json::<Map<String, Value>>(&url).await {
                Ok(more) => {
                    for (key, value) in more {
                        self.out.fact(&key, value).await?;
                    }
                }
                Err(error) if is_missing(&error) => {}
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    pub(super) async fn build(&mut self) -> Result<End, BackendError> {
        let status = self
            .answer
            .need("build_status")?
            .as_str()
            .unwrap_or("unknown")
            .to_owned();
        let name = self.answer.build_name().ok_or_else(|| {
            BackendError::Final(
                "TuxSuite's answer has neither build_name nor toolchain and kconfig".to_owned(),
            )
        })?;
        self.out.fact("build_name", name.as_str()).await?;
        if let Some(config) = self.answer.download("config") {
            self.out.fact("config", config.as_str()).await?;
        }
        let full = format!("build/{name}");
        if status == "error" {
            // TuxSuite gave up.
            self.send_test(&full, TestResult::Skip).await?;
        } else {
            self.send_test(&full, results::result(&status)).await?;
            let warnings = self.answer.0.get("warnings_count").cloned();
            self.send_metric(&format!("{full}-warnings"), warnings.as_ref())
                .await?;
            let duration = self
                .answer
                .0
                .get("tuxmake_metadata")
                .and_then(|all| all.pointer("/results/duration/build"));
            let duration = duration.cloned();
            self.send_metric(&format!("{full}-duration"), duration.as_ref())
                .await?;
            self.send_log().await?;
        }
        for file in ["config", "tuxmake_reproducer.sh", "tux_plan.yaml"] {
            if let Some(url) = self.answer.download(file) {
                self.send_file(file, &url, u64::MAX).await?;
            }
        }
        let status = if status == "error" {
            "Incomplete"
        } else {
            "Complete"
        };
        Ok(End {
            status,
            name: Some(name),
            failure: None,
        })
    }

    pub(super) async fn oe_build(&mut self) -> Result<End, BackendError> {
        let result = self
            .answer
            .need("result")?
            .as_str()
            .unwrap_or("unknown")
            .to_owned();
        if let Some(sources) = self
            .answer
            .0
            .get("sources")
            .filter(|sources| !sources.is_null())
            .cloned()
        {
            self.out.fact("sources", sources).await?;
        }
        let result = if result == "pass" {
            TestResult::Pass
        } else {
            TestResult::Fail
        };
        self.send_test("build/build", result).await?;
        self.send_log().await?;
        Ok(End {
            status: "Complete",
            name: None,
            failure: None,
        })
    }

    pub(super) async fn test(&mut self) -> Result<End, BackendError> {
        let tests = self.answer.0.get("tests").and_then(Value::as_array);
        let tests = tests.map_or(&[][..], Vec::as_slice);
        let names: Vec<&str> = tests
            .iter()
            .filter_map(Value::as_str)
            .filter(|name| *name != "boot")
            .collect();
        let name = Some(results::cut_name(&names.join(",")));
        if let Some((status, why)) = self.answer.given_up() {
            self.send_test("boot/boot", TestResult::Skip).await?;
            return Ok(End {
                status,
                name,
                failure: Some(Value::from(why)),
            });
        }
        let has_failed = self.answer.text("result") == Some("fail");
        let failure = self.answer.0.get("results").filter(|_| has_failed).cloned();
        let build = self.build_of_test().await?;
        let boot = results::result(self.answer.boot().unwrap_or("unknown"));
        self.send_test(
            &format!("boot/{}", build.as_deref().unwrap_or("boot")),
            boot,
        )
        .await?;
        let ranged = self.test_results().await?;
        for file in ["reproducer", "tux_plan.yaml"] {
            let url = self.below(file);
            self.send_file(file, &url, u64::MAX).await?;
        }
        let log = match self.answer.download("lava-logs.yaml") {
            Some(url) => self.stream(&url).await?,
            None => None,
        };
        logs::send(
            log,
            ranged,
            Link {
                address: self.url.as_str(),
                for_browser: false,
            },
            self.suite.log_limit,
            self.out,
        )
        .await?;
        Ok(End {
            status: "Complete",
            name,
            failure,
        })
    }

    /// Follows what the test waited for to its build; sends the build's chosen fields and returns
    /// its name.
    async fn build_of_test(&mut self) -> Result<Option<String>, BackendError> {
        let mut next = self
            .answer
            .waiting_for()
            .and_then(|(kind, uid)| self.id.sibling(kind, uid));
        for _ in 0..MAX_CHAIN {
            let Some(id) = next else { return Ok(None) };
            let answer = match self.client.json(&self.suite.address(&id)?).await {
                Ok(answer) => Answer(answer),
                Err(error) if is_missing(&error) => {
                    self.out
                        .problem(format!("what the test waited for is not there: {error}"))
                        .await?;
                    return Ok(None);
                }
                Err(error) => return Err(error.into()),
            };
            if id.kind == Kind::Build {
                for (key, value) in answer.chosen(self.settings, "TEST_BUILD_METADATA_KEYS") {
                    self.out.fact(&key, value).await?;
                }
                let name = answer.build_name();
                if let Some(name) = &name {
                    self.out.fact("build_name", name.as_str()).await?;
                }
                return Ok(name);
            }
            next = answer
                .waiting_for()
                .and_then(|(kind, uid)| self.id.sibling(kind, uid));
        }
        self.out
            .problem(format!("the build is more than {MAX_CHAIN} steps away"))
            .await?;
        Ok(None)
    }

    /// Sends the tests that have no log; returns those that have.
    async fn test_results(&mut self) -> Result<Vec<Ranged>, BackendError> {
        let suites: Map<String, Value> = self.client.json(&self.below("results")).await?;
        if let Some(error) = suites.get("error").filter(|error| !error.is_null()) {
            self.out
                .problem(format!(
                    "TuxSuite has no results: {}",
                    results::cut_name(&error.to_string())
                ))
                .await?;
            return Ok(Vec::new());
        }
        let (mut ranged, mut references) = (Vec::new(), Map::new());
        for (suite, tests) in &suites {
            let suite = match suite.split_once('_') {
                Some((number, rest)) if number.bytes().all(|byte| byte.is_ascii_digit()) => rest,
                Some(_) | None => suite,
            };
            for (name, test) in tests.as_object().into_iter().flatten() {
                let Some(result) = test.get("result").and_then(Value::as_str) else {
                    continue;
                };
                let full = format!("{suite}/{name}");
                let reference = test
                    .get("reference")
                    .filter(|reference| reference.is_string());
                if let Some(reference) = reference.filter(|_| references.len() < MAX_REFERENCES) {
                    references.insert(full.clone(), reference.clone());
                }
                let lines = results::lines(test.get("starttc"), test.get("endtc"));
                match (split_name(&full), lines) {
                    (Some((suite, name)), Some(lines)) if ranged.len() < MAX_TESTS => {
                        let test = Test {
                            suite,
                            name,
                            result: results::result(result),
                            log: None,
                        };
                        ranged.push(Ranged { test, lines });
                    }
                    (_, _) => self.send_test(&full, results::result(result)).await?,
                }
            }
        }
        if !references.is_empty() {
            self.out.fact(REFERENCES, references).await?;
        }
        Ok(ranged)
    }

    async fn send_test(&mut self, full: &str, result: TestResult) -> Result<(), BackendError> {
        match split_name(full) {
            Some((suite, name)) => {
                self.out
                    .send(Item::Test(Test {
                        suite,
                        name,
                        result,
                        log: None,
                    }))
                    .await
            }
            None => self.out.problem(too_long("test", full)).await,
        }
    }

    async fn send_metric(&mut self, full: &str, value: Option<&Value>) -> Result<(), BackendError> {
        match (split_name(full), value.and_then(Value::as_f64)) {
            (Some((suite, name)), Some(value)) => {
                let measurements = vec![value];
                self.out
                    .send(Item::Metric(Metric {
                        suite,
                        name,
                        value,
                        unit: String::new(),
                        measurements,
                    }))
                    .await
            }
            (Some(_), None) => {
                let found = results::cut_name(&value.unwrap_or(&Value::Null).to_string());
                self.out
                    .problem(format!("metric {full}: {found} is no number"))
                    .await
            }
            (None, _) => self.out.problem(too_long("metric", full)).await,
        }
    }

    /// Sends `build.log` as the log.
    async fn send_log(&mut self) -> Result<(), BackendError> {
        let found = match self.answer.download("build.log") {
            Some(url) => self.send_file_as("log", &url, self.suite.log_limit).await?,
            None => false,
        };
        if !found {
            self.out.problem("the log is not there").await?;
        }
        Ok(())
    }

    async fn send_file(&mut self, name: &str, url: &Url, limit: u64) -> Result<(), BackendError> {
        self.send_file_as(name, url, limit).await.map(drop)
    }

    /// Sends what is at `url` as the file `name`, cut after `limit` bytes; false if it is not there.
    async fn send_file_as(
        &mut self,
        name: &str,
        url: &Url,
        limit: u64,
    ) -> Result<bool, BackendError> {
        let Some(mut body) = self.stream(url).await? else {
            return Ok(false);
        };
        self.out.file(name, "text/plain").await?;
        let mut sent = 0_u64;
        while let Some(chunk) = body.chunk().await? {
            for piece in chunk.chunks(DATA_CHUNK) {
                self.out
                    .send(Item::Data(Bytes::copy_from_slice(piece)))
                    .await?;
            }
            sent += chunk.len() as u64;
            if sent > limit {
                self.out
                    .problem(format!("{name} is cut after {sent} bytes"))
                    .await?;
                break;
            }
        }
        Ok(true)
    }

    /// What is at `url`; `None` if there is nothing.
    async fn stream(&self, url: &Url) -> Result<Option<Body>, BackendError> {
        match self.client.stream(url).await {
            Ok(body) => Ok(Some(body)),
            Err(error) if is_missing(&error) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// An address below the test job's.
    fn below(&self, name: &str) -> Url {
        let mut url = self.url.clone();
        url.set_path(&format!("{}/{name}", self.url.path()));
        url
    }
}

/// Whether there is nothing at an address: storage services answer 403 for what is not there.
fn is_missing(error: &HttpError) -> bool {
    error.is_not_found() || matches!(error.failure, Failure::Status { code: 403, .. })
}
