//! The findings of one scan, gathered by the names of their tests. Never holds more than
//! [`MAX_KEPT`] of logs and [`MAX_FINDINGS`] unlike findings.

use std::collections::{BTreeMap, HashSet};

use sha2::{Digest, Sha256};

use super::mark::Kind;
use super::{MAX_ENTRIES, MAX_FINDINGS, MAX_KEPT, MAX_LOG, Phase, TOO_MANY, name};
use crate::testjob::item::{MAX_TEXT, Test, TestResult};

/// Room for the last line of a test's log, in bytes.
const TRAILER: usize = 128;

/// What is known of one test.
#[derive(Debug, Default)]
struct Kept {
    log: String,
    /// Characters in the log.
    length: usize,
    /// The digests of the texts that the log shows, or would if there were room: the same text again is nothing new.
    texts: HashSet<[u8; 32]>,
    /// How many of them are not in the log because [`MAX_KEPT`] is reached.
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
    /// Counts a finding, and keeps its text while there is room.
    pub(super) fn add(&mut self, phase: Phase, kind: Kind, text: &str) {
        let (short, long) = name::names(kind, text);
        let long = (phase, long);
        if !self.tests.contains_key(&long) {
            if self.findings == MAX_FINDINGS {
                *self.too_many.entry(phase).or_default() += 1;
                return;
            }
            self.findings += 1;
        }
        let digest = Sha256::digest(text.as_bytes()).into();
        self.keep(long, digest, text, "\n---\n");
        self.keep((phase, short), digest, text, "\n");
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

    fn keep(&mut self, key: (Phase, String), digest: [u8; 32], text: &str, separator: &str) {
        let test = self.tests.entry(key).or_default();
        let is_first = test.texts.is_empty();
        if test.texts.len() == MAX_ENTRIES || !test.texts.insert(digest) {
            return;
        }
        let budget = if is_first { MAX_KEPT } else { MAX_KEPT / 2 };
        let mut size = 0;
        for part in [if is_first { "" } else { separator }, text] {
            let part = beginning(part, MAX_LOG - test.length, test.room());
            if self.kept + size + part.len() > budget {
                test.more += 1;
                break;
            }
            test.log.push_str(part);
            test.length += part.chars().count();
            size += part.len();
        }
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
    /// How many bytes more the log may have.
    fn room(&self) -> usize {
        (MAX_TEXT - TRAILER).saturating_sub(self.log.len())
    }

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

/// As much of `text` as has at most so many characters and bytes.
fn beginning(text: &str, characters: usize, bytes: usize) -> &str {
    let text = text.get(..text.floor_char_boundary(bytes)).unwrap_or(text);
    let end = text.char_indices().nth(characters);
    end.and_then(|(end, _)| text.get(..end)).unwrap_or(text)
}
