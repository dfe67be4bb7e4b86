//! What a collection yields, item by item: the one vocabulary between those that read results
//! (backends, plugins) and the one that stages them.
//!
//! An [`Item`] is bounded in size by whoever makes it ([`DATA_CHUNK`], [`MAX_TEXT`]); a [`Sink`] is
//! bounded in number, so that a fast reader waits for a slow store.

use bytes::Bytes;
use serde::{Deserialize, Serialize};
use serde_json::Value;

/// The largest piece of an attachment in one item, in bytes: large enough for few rows, small
/// enough that a few of them in flight do not count.
pub const DATA_CHUNK: usize = 64 * 1024;

/// The longest log or stack trace kept with one test, in bytes; the rest is cut with a marker.
pub const MAX_TEXT: usize = 1024 * 1024;

/// What ends a text that was cut.
pub const CUT: &str = "\n[cut here: the log is longer]\n";

/// How a test ended. SQUAD's four values.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum TestResult {
    /// It did what it should.
    Pass,
    /// It did not.
    Fail,
    /// It failed as expected (a known issue, a failed assumption).
    Xfail,
    /// It was not run, or nobody knows.
    Skip,
}

/// One test.
#[derive(Debug, Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Test {
    /// The suite's name, without a trailing `/`; `/` for a test without a suite.
    pub suite: String,
    /// The test's name within its suite.
    pub name: String,
    /// How it ended.
    pub result: TestResult,
    /// Its log or stack trace.
    pub log: Option<String>,
}

/// One metric.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Metric {
    /// The suite's name.
    pub suite: String,
    /// The metric's name within its suite.
    pub name: String,
    /// The mean of the measurements.
    pub value: f64,
    /// Its unit; empty if unknown.
    pub unit: String,
    /// Each measurement.
    pub measurements: Vec<f64>,
}

/// One thing that a collection found.
#[derive(Debug, Clone, PartialEq)]
pub enum Item {
    /// A test.
    Test(Test),
    /// A metric.
    Metric(Metric),
    /// A fact about the test job; a later one of the same key wins.
    Metadata(String, Value),
    /// A file begins. Its data follows in [`Item::Data`] until the next item of another kind that
    /// is a file, or the end. Files never interleave; tests may stand between.
    File {
        /// Its name, without folders.
        name: String,
        /// Its media type, for instance `text/plain`.
        mimetype: String,
    },
    /// The next bytes of the file begun last, at most [`DATA_CHUNK`].
    Data(Bytes),
    /// Something that could not be kept as it was, counted and shown on the test job, for instance
    /// `metric boot/time: "fast" is no number`. It fails nothing else.
    Problem(String),
}

/// Where items go. Sending waits while the store is behind; an error means that nobody wants more
/// (the attempt was stopped): return at once.
pub type Sink = tokio::sync::mpsc::Sender<Item>;
