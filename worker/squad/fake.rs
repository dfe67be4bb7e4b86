//! SQUAD's backend `fake`: results from nowhere, for trying out. The same test job always has the same ones.

use async_trait::async_trait;
use bytes::Bytes;

use crate::testjob::backend::{
    Backend, BackendError, Collected, Download, Outlet, Settings, Summary,
};
use crate::testjob::item::{Item, Metric, Sink, Test, TestResult};

/// The backend.
#[derive(Debug)]
pub(super) struct Fake;

const TESTS: [(&str, &str); 6] = [
    ("/", "test1"),
    ("/", "test2"),
    ("foo", "test1"),
    ("foo", "test2"),
    ("bar", "test1"),
    ("bar", "test2"),
];
const METRICS: [(&str, &str); 4] = [
    ("/", "metric1"),
    ("/", "metric2"),
    ("foobenchmarks", "metric1"),
    ("barbenchmarks", "metric1"),
];

/// A number from 0 to 1 that belongs to `id` and `what`.
fn chance(id: &str, what: usize) -> f64 {
    let hash = id
        .bytes()
        .chain(what.to_le_bytes())
        .fold(0x811c_9dc5_u32, |hash, byte| {
            (hash ^ u32::from(byte)).wrapping_mul(0x0100_0193)
        });
    f64::from(hash) / f64::from(u32::MAX)
}

#[async_trait]
impl Backend for Fake {
    async fn collect(
        &self,
        id: &str,
        _settings: &Settings,
        out: &Sink,
    ) -> Result<Collected, BackendError> {
        let mut out = Outlet::new(out);
        out.fact("foo", "bar").await?;
        let completed = chance(id, 0) <= 0.8;
        for (at, (suite, name)) in TESTS.iter().enumerate().filter(|_| completed) {
            let result = if chance(id, at + 1) <= 0.8 {
                TestResult::Pass
            } else {
                TestResult::Fail
            };
            out.send(Item::Test(Test {
                suite: (*suite).to_owned(),
                name: (*name).to_owned(),
                result,
                log: None,
            }))
            .await?;
        }
        for (at, (suite, name)) in METRICS.iter().enumerate().filter(|_| completed) {
            let value = chance(id, at + 10);
            out.send(Item::Metric(Metric {
                suite: (*suite).to_owned(),
                name: (*name).to_owned(),
                value,
                unit: String::new(),
                measurements: vec![value],
            }))
            .await?;
        }
        out.file("log", "text/plain").await?;
        let log = format!("a fake log file\nof the test job {id}\n");
        out.send(Item::Data(Bytes::from(log))).await?;
        out.finish().await?;
        Ok(Collected::Done(Summary {
            status: "Finished".to_owned(),
            completed,
            name: None,
            url: Some(format!("https://example.com/job/{id}")),
            environment: None,
            failure: None,
            can_resubmit: !completed,
        }))
    }

    async fn open(&self, _id: &str, _reference: &str) -> Result<Download, BackendError> {
        Err(BackendError::Final(
            "the fake backend has no files".to_owned(),
        ))
    }
}
