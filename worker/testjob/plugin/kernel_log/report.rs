//! The findings of one scan, gathered by the names of their tests. Never holds more than
//! [`MAX_KEPT`] of logs and [`MAX_FINDINGS`] unlike findings, and never forgets one without
//! counting it.

use std::collections::BTreeMap;

use super::name::Finding;
use super::{MAX_ENTRIES, MAX_FINDINGS, MAX_KEPT, Phase, TOO_MANY};
use crate::testjob::item::{MAX_TEXT, Test, TestResult};

/// Room for the last line of a test's log, in bytes.
pub(super) const TRAILER: usize = 128;

/// What is known of one test.
#[derive(Debug, Default)]
struct Kept {
    log: String,
    /// How many findings the log shows.
    entries: u64,
    /// How many more there were.
    more: u64,
}

/// All findings so far.
#[derive(Debug, Default)]
pub(super) struct Report {
    /// By suite and name, which is the order in which they are given.
    tests: BTreeMap<(Phase, String), Kept>,
    /// Unlike findings in `tests`.
    findings: usize,
    /// Bytes of all logs in `tests`.
    kept: usize,
    /// Findings beyond [`MAX_FINDINGS`].
    too_many: BTreeMap<Phase, u64>,
}

impl Report {
    /// Counts `finding`, and keeps its lines while there is room.
    pub(super) fn add(&mut self, finding: &Finding<'_>) {
        let (short, long) = finding.names();
        let long = (finding.phase, long);
        if !self.tests.contains_key(&long) {
            if self.findings == MAX_FINDINGS {
                *self.too_many.entry(finding.phase).or_default() += 1;
                return;
            }
            self.findings += 1;
        }
        self.keep(long, finding.text);
        self.keep((finding.phase, short), finding.text);
    }

    /// The tests, sorted by suite and name.
    pub(super) fn into_tests(mut self) -> Vec<Test> {
        for (phase, count) in std::mem::take(&mut self.too_many) {
            let test = self.tests.entry((phase, TOO_MANY.to_owned())).or_default();
            test.log = format!(
                "{count} findings more; only the first {MAX_FINDINGS} unlike ones have tests"
            );
        }
        let tests = self.tests.into_iter().map(|((phase, name), kept)| Test {
            suite: phase.suite().to_owned(),
            name,
            result: TestResult::Fail,
            log: Some(kept.into_log()),
        });
        tests.collect()
    }

    fn keep(&mut self, key: (Phase, String), text: &str) {
        let test = self.tests.entry(key).or_default();
        let first = test.entries == 0 && test.more == 0;
        let budget = if first { MAX_KEPT } else { MAX_KEPT / 2 };
        let size = text.len() + usize::from(!test.log.is_empty());
        if test.entries == MAX_ENTRIES
            || test.log.len() + size + TRAILER > MAX_TEXT
            || self.kept + size > budget
        {
            test.more += 1;
            return;
        }
        if !test.log.is_empty() {
            test.log.push('\n');
        }
        test.log.push_str(text);
        test.entries += 1;
        self.kept += size;
    }

    /// Bytes of all logs, to prove the bound.
    #[cfg(test)]
    pub(super) fn kept(&self) -> usize {
        self.kept
    }

    /// Bytes held, to prove the bound.
    #[cfg(test)]
    pub(super) fn held(&self) -> usize {
        self.tests
            .iter()
            .map(|((_, name), kept)| name.capacity() + kept.log.capacity())
            .sum()
    }
}

impl Kept {
    fn into_log(mut self) -> String {
        if self.more > 0 {
            if !self.log.is_empty() {
                self.log.push('\n');
            }
            self.log
                .push_str(&format!("… {} more like this, not kept", self.more));
        }
        self.log
    }
}
