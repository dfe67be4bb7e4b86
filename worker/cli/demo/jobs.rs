//! What the stand-in server serves, and what must be published of it: known beforehand, test by test.
//!
//! Nothing here reads what the workers wrote, and nothing is parsed: both sides follow from the same plan.

use std::collections::BTreeMap;
use std::fs::File;
use std::io;
use std::path::Path;

use crate::lab::{LabAttachment, LabJob, LabSuite, LabTest};
use crate::testjob::format::generate::{Plan, tarball};
use crate::testjob::item::{Test, TestResult};

/// Small test jobs.
const SMALL: u64 = 20;
/// The id of the first of them. Its log is served slowly: a fetch that lasts.
pub(super) const SLOW: &str = "1001";
/// The id of the test job with the CTS result.
pub(super) const CTS: &str = "2001";
/// Lines of the slow log, and how long it takes to serve it.
const SLOW_LINES: u64 = 20_000;
const SLOW_SECONDS: u64 = 3;
/// How long it takes to serve the CTS result: long enough to be in the middle of it.
const CTS_SECONDS: u64 = 4;
/// Functions in which the made-up kernels warn.
const WARNED: [&str; 3] = [
    "made_up_usb_probe",
    "made_up_mmc_resume",
    "made_up_net_transmit",
];
/// What the plugin `kernel-log` calls such a warning.
const FINDING: &str = "exception-warning-cpu-pid-at-driversmadeup-";

/// How many results one part of a test job has.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Count {
    pub(super) tests: i64,
    pub(super) metrics: i64,
}

impl std::fmt::Display for Count {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{} tests and {} metrics", self.tests, self.metrics)
    }
}

/// What must be published of one test job.
#[derive(Debug)]
pub(super) struct Expected {
    /// `group/project/build/environment`.
    pub(super) target: String,
    /// The tests that the fetch finds, in no order.
    pub(super) tests: Vec<Test>,
    /// The metrics that it finds: suite, name and value.
    pub(super) metrics: Vec<(String, String, f64)>,
    /// What `kernel-log` finds; each once so, and once with a hash behind.
    pub(super) findings: Vec<String>,
    /// What `tradefed` finds.
    pub(super) cts: Option<Plan>,
}

/// The suite that stands before those of the CTS result.
const CTS_SUITE: &str = "cts";

impl Expected {
    /// How much each part has.
    pub(super) fn parts(&self) -> BTreeMap<&'static str, Count> {
        let tests = |tests: usize| Count {
            tests: i64::try_from(tests).unwrap_or(i64::MAX),
            metrics: 0,
        };
        let fetch = Count {
            metrics: i64::try_from(self.metrics.len()).unwrap_or(i64::MAX),
            ..tests(self.tests.len())
        };
        let mut parts = BTreeMap::from([
            ("fetch", fetch),
            ("kernel-log", tests(self.findings.len() * 2)),
        ]);
        if let Some(plan) = self.cts {
            parts.insert(
                "tradefed",
                tests(usize::try_from(plan.tests).unwrap_or(usize::MAX)),
            );
        }
        parts
    }

    /// The test at `index` of the CTS result.
    pub(super) fn cts_test(&self, index: u64) -> Option<Test> {
        let plan = self.cts.filter(|plan| index < plan.tests)?;
        let test = plan.test(index);
        Some(Test {
            suite: format!("{CTS_SUITE}/{}", test.suite),
            ..test
        })
    }
}

/// What must be published of every test job, by its id.
pub(super) type Everything = BTreeMap<String, Expected>;

/// Tests in all.
pub(super) fn tests(everything: &Everything) -> i64 {
    everything
        .values()
        .flat_map(Expected::parts)
        .map(|(_, count)| count.tests)
        .sum()
}

/// Makes every test job for a server at `url`, and the CTS result of `tests` tests in `folder`.
pub(super) fn make(folder: &Path, url: &str, tests: u64) -> io::Result<(Vec<LabJob>, Everything)> {
    let (mut jobs, mut everything) = (Vec::new(), Everything::new());
    for number in 0..SMALL {
        let (job, expected) = small(number, url);
        everything.insert(job.id.clone(), expected);
        jobs.push(job);
    }
    let (job, expected) = cts(folder, url, tests)?;
    everything.insert(job.id.clone(), expected);
    jobs.push(job);
    Ok((jobs, everything))
}

/// A test job with some suites, metrics and a log; the kernel of every fourth one warns.
fn small(number: u64, url: &str) -> (LabJob, Expected) {
    let mut job = LabJob::new((1001 + number).to_string())
        .log(400)
        .with("git branch", "mainline");
    if job.id == SLOW {
        let bytes = job.log(SLOW_LINES);
        let size = bytes.log_text(1, SLOW_LINES).len() as u64;
        job = bytes.throttled(size / SLOW_SECONDS);
    }
    let warned = WARNED.iter().take((number % 4) as usize);
    for function in warned.clone() {
        job = job.warning(*function);
    }
    let smoke = (0..20 + number).map(|index| {
        let line = 100 + index * 4;
        LabTest::new(format!("boot-step-{index}"), result(index + number)).logged(line, line + 2)
    });
    let calls = (0..80)
        .map(|index| LabTest::new(format!("syscall-{index:03}"), result(index * 7 + number)));
    let bench = (0..6).map(|index| {
        LabTest::new(format!("speed-{index}"), "pass")
            .measured(format!("{}.2500000000", 10 * index + number), "MB/s")
    });
    let suites = [
        LabSuite::new("0_smoke", smoke.collect()),
        LabSuite::new("1_ltp-syscalls", calls.collect()),
        LabSuite::new("2_bench", bench.collect()),
    ];
    for suite in suites {
        job = job.suite(suite);
    }
    let (tests, metrics) = results(&job, url);
    let expected = Expected {
        target: format!("demo/linux/v6.18-{number}/qemu-arm64"),
        tests,
        metrics,
        findings: warned.map(|function| finding(function)).collect(),
        cts: None,
    };
    (job, expected)
}

/// What the plugin calls a warning in `function`.
fn finding(function: &str) -> String {
    format!("{FINDING}{function}")
}

fn result(dice: u64) -> &'static str {
    match dice % 31 {
        7 => "fail",
        11 => "skip",
        _ => "pass",
    }
}

fn cts(folder: &Path, url: &str, tests: u64) -> io::Result<(LabJob, Expected)> {
    let plan = Plan::new(tests, 42);
    let path = folder.join("tradefed-output.tar.xz");
    let (_, file) = tarball(File::create(&path)?, &plan)?;
    let attachment = LabAttachment {
        name: "tradefed-output.tar.xz".to_owned(),
        path,
        definition: CTS_SUITE.to_owned(),
        results_format: "aggregated".to_owned(),
        rate: Some((file.metadata()?.len() / CTS_SECONDS).max(1)),
    };
    let job = LabJob::new(CTS).log(2000).attachment(attachment, url);
    let (tests, metrics) = results(&job, url);
    let expected = Expected {
        target: "demo/android/cts-14/dragonboard".to_owned(),
        tests,
        metrics,
        findings: Vec::new(),
        cts: Some(plan),
    };
    Ok((job, expected))
}

/// What a fetch must find of a test job: a case with a measurement is a metric, any other a test; the
/// suite `lava` does not count.
fn results(job: &LabJob, url: &str) -> (Vec<Test>, Vec<(String, String, f64)>) {
    let (mut tests, mut metrics) = (Vec::new(), Vec::new());
    for suite in job.suites.iter().filter(|suite| suite.name != "lava") {
        let crate::lab::LabTests::Listed(cases) = &suite.tests else {
            continue;
        };
        let name = suite.name.split_once('_').map_or("", |(_, name)| name);
        for case in cases {
            match case.measurement.as_deref().map(str::parse::<f64>) {
                Some(Ok(value)) => metrics.push((name.to_owned(), case.name.clone(), value)),
                Some(Err(_)) | None => tests.push(Test {
                    suite: name.to_owned(),
                    name: case.name.clone(),
                    result: match case.result.as_str() {
                        "pass" => TestResult::Pass,
                        "fail" => TestResult::Fail,
                        _ => TestResult::Skip,
                    },
                    log: case.lines.map(|(first, last)| {
                        let lines = job.log_text(first, last);
                        format!("{url}/scheduler/job/{}#L{first}\n{lines}", job.id)
                    }),
                }),
            }
        }
    }
    (tests, metrics)
}
