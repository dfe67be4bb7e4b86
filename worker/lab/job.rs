//! The test jobs of the stand-in server, and what they consist of.

use std::fmt::Write as _;
use std::path::PathBuf;

use bytes::Bytes;

/// How large the pieces are in which a log is made, in bytes.
const PIECE: usize = 64 * 1024;
/// The line at which the first warning of a kernel begins.
const FIRST_WARNING: u64 = 20;
/// So many lines later begins the next one.
const WARNING_EVERY: u64 = 12;

/// A test job.
#[derive(Debug, Clone, PartialEq)]
pub struct LabJob {
    /// Its number, for instance `1234`.
    pub id: String,
    /// `job_name` of its definition.
    pub name: String,
    /// `device_type` of its definition.
    pub device_type: String,
    /// `Submitted`, `Running`, `Finished`, ….
    pub state: String,
    /// `Unknown`, `Complete`, `Incomplete`, `Canceled`.
    pub health: String,
    /// `metadata` of its definition.
    pub metadata: Vec<(String, String)>,
    /// Its suites, in order.
    pub suites: Vec<LabSuite>,
    /// Lines of its log; each has about 100 bytes.
    pub log_lines: u64,
    /// Functions in which its kernel warns: one block of lines each, from line 20 on.
    pub warnings: Vec<String>,
    /// How fast its log is served, in bytes a second; `None`: as fast as it goes.
    pub log_rate: Option<u64>,
    /// A result file that it refers to.
    pub attachment: Option<LabAttachment>,
}

/// A suite of a test job.
#[derive(Debug, Clone, PartialEq)]
pub struct LabSuite {
    /// For instance `0_smoke`, or `lava`.
    pub name: String,
    /// Its tests.
    pub tests: LabTests,
}

/// The tests of a suite.
#[derive(Debug, Clone, PartialEq)]
pub enum LabTests {
    /// These.
    Listed(Vec<LabTest>),
    /// So many, made up: every hundredth fails, every tenth is a measurement.
    Generated(u64),
}

/// A test.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct LabTest {
    /// Its name.
    pub name: String,
    /// `pass`, `fail`, `skip`, `unknown`.
    pub result: String,
    /// What was measured, as LAVA writes it, for instance `0.2600000000`.
    pub measurement: Option<String>,
    /// The measurement's unit.
    pub unit: String,
    /// Metadata beside `case`, `definition` and `result`.
    pub metadata: Vec<(String, String)>,
    /// First and last line of its log, counted from 1.
    pub lines: Option<(u64, u64)>,
}

/// A result file on disk, served at `/attachments/<name>` and named by the test `test-attachment`
/// of the suite `<suite>`; the definition then has a tradefed test of that name.
#[derive(Debug, Clone, PartialEq)]
pub struct LabAttachment {
    /// The name under which it is served.
    pub name: String,
    /// Where it lies.
    pub path: PathBuf,
    /// The tradefed definition's name; its suite is `1_<name>`.
    pub definition: String,
    /// `RESULTS_FORMAT` of the definition, for instance `aggregated`.
    pub results_format: String,
    /// How fast it is served, in bytes a second; `None`: as fast as it goes.
    pub rate: Option<u64>,
}

impl LabTest {
    /// A test that ended with `result`.
    pub fn new(name: impl Into<String>, result: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            result: result.into(),
            ..Self::default()
        }
    }

    /// The same with a measurement.
    #[must_use]
    pub fn measured(mut self, measurement: impl Into<String>, unit: impl Into<String>) -> Self {
        self.measurement = Some(measurement.into());
        self.unit = unit.into();
        self
    }

    /// The same with the lines of its log.
    #[must_use]
    pub fn logged(mut self, first: u64, last: u64) -> Self {
        self.lines = Some((first, last));
        self
    }

    /// The same with metadata.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }
}

impl LabSuite {
    /// A suite of these tests.
    pub fn new(name: impl Into<String>, tests: Vec<LabTest>) -> Self {
        Self {
            name: name.into(),
            tests: LabTests::Listed(tests),
        }
    }

    /// A suite of `count` tests, made up.
    pub fn generated(name: impl Into<String>, count: u64) -> Self {
        Self {
            name: name.into(),
            tests: LabTests::Generated(count),
        }
    }

    /// How many tests it has.
    pub fn len(&self) -> u64 {
        match &self.tests {
            LabTests::Listed(tests) => tests.len() as u64,
            LabTests::Generated(count) => *count,
        }
    }

    /// Whether it has no test.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The tests from `offset` on, at most `limit`.
    pub(super) fn page(&self, offset: u64, limit: usize) -> Vec<LabTest> {
        match &self.tests {
            LabTests::Listed(tests) => {
                let skip = usize::try_from(offset).unwrap_or(usize::MAX);
                tests.iter().skip(skip).take(limit).cloned().collect()
            }
            LabTests::Generated(count) => (offset..*count).take(limit).map(generated).collect(),
        }
    }
}

fn generated(index: u64) -> LabTest {
    let test = LabTest::new(
        format!("case-{index:07}"),
        if index % 100 == 99 { "fail" } else { "pass" },
    );
    if index % 10 == 5 {
        test.measured(format!("{}.5000000000", index % 7), "seconds")
    } else {
        test
    }
}

impl LabJob {
    /// A finished, complete test job with a suite `lava` that ended well, and nothing else.
    pub fn new(id: impl Into<String>) -> Self {
        let id = id.into();
        let lava = vec![
            LabTest::new("validate", "pass"),
            LabTest::new("auto-login-action", "pass").measured("12.5000000000", "seconds"),
            LabTest::new("job", "pass"),
        ];
        Self {
            name: format!("test job {id}"),
            id,
            device_type: "qemu".to_owned(),
            state: "Finished".to_owned(),
            health: "Complete".to_owned(),
            metadata: Vec::new(),
            suites: vec![LabSuite::new("lava", lava)],
            log_lines: 100,
            warnings: Vec::new(),
            log_rate: None,
            attachment: None,
        }
    }

    /// The same in another state.
    #[must_use]
    pub fn in_state(mut self, state: impl Into<String>, health: impl Into<String>) -> Self {
        self.state = state.into();
        self.health = health.into();
        self
    }

    /// The same with one more suite.
    #[must_use]
    pub fn suite(mut self, suite: LabSuite) -> Self {
        self.suites.push(suite);
        self
    }

    /// The same with a log of `lines` lines (about 100 bytes each).
    #[must_use]
    pub fn log(mut self, lines: u64) -> Self {
        self.log_lines = lines;
        self
    }

    /// The same with a kernel that warns in `function`; the log is long enough for it.
    #[must_use]
    pub fn warning(mut self, function: impl Into<String>) -> Self {
        self.warnings.push(function.into());
        let needed = FIRST_WARNING + WARNING_EVERY * self.warnings.len() as u64;
        self.log_lines = self.log_lines.max(needed);
        self
    }

    /// The same with its log served at `bytes` a second.
    #[must_use]
    pub fn throttled(mut self, bytes: u64) -> Self {
        self.log_rate = Some(bytes);
        self
    }

    /// The same with `key` in its definition's metadata.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<String>) -> Self {
        self.metadata.push((key.into(), value.into()));
        self
    }

    /// The same, failed for a reason of LAVA's (`error_type`: `Infrastructure`, `Job`, `Test`, …).
    #[must_use]
    pub fn failed(mut self, error_type: impl Into<String>, error_msg: impl Into<String>) -> Self {
        let job = LabTest::new("job", "fail")
            .with("error_type", error_type)
            .with("error_msg", error_msg);
        self.suites.retain(|suite| suite.name != "lava");
        self.suites.insert(
            0,
            LabSuite::new("lava", vec![LabTest::new("validate", "pass"), job]),
        );
        self.health = "Incomplete".to_owned();
        self
    }

    /// The same with a result file, as a CTS or VTS run leaves it. `url` is the server's address.
    #[must_use]
    pub fn attachment(mut self, attachment: LabAttachment, url: &str) -> Self {
        let reference = format!("{url}/attachments/{}", attachment.name);
        let test = LabTest::new("test-attachment", "pass").with("reference", reference);
        self.suites.push(LabSuite::new(
            format!("1_{}", attachment.definition),
            vec![test],
        ));
        self.attachment = Some(attachment);
        self
    }

    /// Its definition, as YAML.
    pub fn definition(&self) -> String {
        let mut yaml = format!(
            "job_name: {}\ndevice_type: {}\n",
            quoted(&self.name),
            quoted(&self.device_type)
        );
        if !self.metadata.is_empty() {
            yaml.push_str("metadata:\n");
            for (key, value) in &self.metadata {
                yaml += &format!("  {}: {}\n", quoted(key), quoted(value));
            }
        }
        yaml.push_str("actions:\n- boot: {method: qemu}\n");
        if let Some(attachment) = &self.attachment {
            yaml += &format!(
                "- test:\n    definitions:\n    - from: git\n      name: {}\n      \
                 path: automated/android/tradefed/tradefed.yaml\n      \
                 parameters: {{RESULTS_FORMAT: {}}}\n",
                quoted(&attachment.definition),
                quoted(&attachment.results_format)
            );
        }
        yaml
    }

    /// Its log from the line `first` to `last`, counted from 1, as it is served.
    pub fn log_text(&self, first: u64, last: u64) -> String {
        let mut text = String::new();
        for line in first..=last.min(self.log_lines) {
            push_line(&mut text, line, &self.warnings);
        }
        text
    }

    /// Its log in pieces, made while it is read.
    pub(super) fn log_pieces(&self) -> impl Iterator<Item = Bytes> + Send + use<> {
        let (total, warnings) = (self.log_lines, self.warnings.clone());
        let mut line = 0;
        std::iter::from_fn(move || {
            let mut piece = String::with_capacity(PIECE + 256);
            while line < total && piece.len() < PIECE {
                line += 1;
                push_line(&mut piece, line, &warnings);
            }
            (!piece.is_empty()).then(|| Bytes::from(piece))
        })
    }
}

/// One line of a log; every tenth is LAVA's own and no output of the device.
fn push_line(text: &mut String, line: u64, warnings: &[String]) {
    let (seconds, micros) = (line / 1000, line % 1000);
    let warned = warning_line(line, warnings);
    let level = if line % 10 == 1 && warned.is_none() {
        "info"
    } else {
        "target"
    };
    let message = warned.unwrap_or_else(|| format!("line {line} of the device"));
    // Writing to a string cannot fail.
    let _written = writeln!(
        text,
        "- {{\"dt\": \"2026-01-01T00:00:00.{micros:03}000\", \"lvl\": \"{level}\", \"msg\": {}}}",
        quoted(&format!("[{seconds:5}.{micros:06}] {message}"))
    );
}

/// What a warning's block says at this line, in the format of the kernel's `kernel/panic.c`.
fn warning_line(line: u64, warnings: &[String]) -> Option<String> {
    let at = line.checked_sub(FIRST_WARNING)?;
    let function = warnings.get(usize::try_from(at / WARNING_EVERY).ok()?)?;
    Some(match at % WARNING_EVERY {
        0 => "------------[ cut here ]------------".to_owned(),
        1 => format!("WARNING: CPU: 0 PID: 1 at drivers/made/up.c:7 {function}+0x10/0x20"),
        2 => "Modules linked in:".to_owned(),
        3 => "Call trace:".to_owned(),
        4 => format!(" {function}+0x10/0x20"),
        5 => " made_up_init+0x30/0x40".to_owned(),
        6 => "---[ end trace 0000000000000000 ]---".to_owned(),
        _ => return None,
    })
}

/// Text as a YAML scalar (every JSON string is one).
pub(super) fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}
