//! Finds kernel crashes, warnings and sanitizer reports in the log of a booted machine.
//!
//! A [`Scanner`] takes the log in pieces of any size and gives failed tests at its end. It is pure:
//! it never does I/O, never waits, never looks at a line twice, so its time is linear in the length
//! of the log, whatever the log says, and its memory is bounded (see Limits). The same log gives
//! the same tests in the same order, however it is cut into pieces.
//!
//! # What is found
//!
//! What SQUAD 1.98's log parser finds, by the same names and with the same logs, because SQUAD compares builds by the
//! names of their tests: `tests/squad/test_kernel_log.py` runs both over the same logs.
//!
//! Only lines with a time stamp of the kernel count, `[   12.345678]` and a blank, wherever in the line, and with a
//! caller's id (`[  T123]`, `[    C0]`) or without; what stands before the stamp is dropped. The first ` login:`,
//! `console:/` or `root@…:/#` (or `:~#`) ends the boot: what is before goes to the suite `log-parser-boot`, the rest to
//! `log-parser-test`.
//!
//! | kind | from | to |
//! |---|---|---|
//! | `exception` | `------------[ cut here ]------------` | `---[ end trace …` |
//! | `kasan`, `kfence` | a line of `=`, then `BUG: KASAN:`, `BUG: KFENCE:` | a line that begins with `=` |
//! | `kcsan` | a line of `=`, then `BUG: KCSAN:` | the next `=` |
//! | `panic-multiline` | `Kernel panic - ` | `---[ end Kernel panic - …` |
//! | `internal-error-oops` | `Internal error: Oops` | `---[ end trace …` |
//! | `oops` | `Oops: …`, `Oops - …` | one line |
//! | `fault` | `Unhandled fault` | one line |
//! | `warning` | `WARNING: …` | one line |
//! | `bug` | `BUG: …`, `kernel BUG at …` | one line |
//! | `invalid-opcode` | `invalid opcode: …` | one line |
//! | `panic` | `Kernel panic - not syncing` | the end of the line |
//!
//! A block (the first six kinds) owns all that stands in it. What begins like a block and has no end is none: its lines
//! are looked at one by one. Where several kinds begin at one place, the first of the table is found.
//!
//! # What comes out
//!
//! Each finding makes two failed tests, so that one can follow a kind of trouble and one very instance of it from build
//! to build:
//!
//! * `<kind>-<slug>`: the slug is the headline in lower-case words joined by `-`, without times, numbers and addresses;
//! * `<kind>-<slug>-<sha256>`: the hash covers the whole text, without the same.
//!
//! The tests' logs are the findings' lines, each text once. Tests come sorted by suite and name.
//!
//! # Limits
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | a line | [`MAX_LINE`] | the rest of the line is not looked at |
//! | a block | [`MAX_BLOCK`] | it is none: its lines are looked at one by one |
//! | texts in one test's log | [`MAX_ENTRIES`], [`MAX_LOG`] characters, [`MAX_TEXT`] | left out, as by SQUAD |
//! | logs kept of one scan | [`MAX_KEPT`] | counted in the log's last line |
//! | unlike findings of one scan | [`MAX_FINDINGS`] | counted in the test [`TOO_MANY`] |
//! | a test's name | [`MAX_NAME`] | the slug is cut; the hash is not |

mod line;
mod mark;
mod name;
mod report;
#[cfg(test)]
mod tests;
mod window;

#[cfg(doc)]
use crate::testjob::item::MAX_TEXT;
use crate::testjob::item::Test;
use report::Report;
use window::Window;

/// The longest part of a line that is looked at, in bytes: eight times what `printk` writes into
/// one, so that only other programs' output is ever cut.
pub const MAX_LINE: usize = 8 * 1024;

/// The longest block, in bytes: what a scan keeps while it waits for a block's end. Whole traces have some 300 lines; only
/// what lost its end is longer.
pub const MAX_BLOCK: usize = 4 * 1024 * 1024;

/// How many texts one test's log shows; SQUAD's limit.
pub const MAX_ENTRIES: usize = 100;

/// The longest log of a test, in characters; SQUAD's limit.
pub const MAX_LOG: usize = 1_000_000;

/// The logs of all tests of one scan together, in bytes (their buffers may take twice that). Half
/// of it is kept free for findings not seen before, so that a warning in a loop does not push out
/// the crash that follows.
pub const MAX_KEPT: usize = 32 * 1024 * 1024;

/// How many findings of unlike name or hash one scan tells apart: far more than a kernel that gets
/// anywhere prints, and few enough to be stored.
pub const MAX_FINDINGS: usize = 5000;

/// The longest name of a test, in characters; SQUAD's limit.
pub const MAX_NAME: usize = 256;

/// The name of the test that stands for all findings beyond [`MAX_FINDINGS`].
pub const TOO_MANY: &str = "too-many-findings";

/// Before or after the first prompt; sorts in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
enum Phase {
    Boot,
    Test,
}

impl Phase {
    fn suite(self) -> &'static str {
        match self {
            Self::Boot => "log-parser-boot",
            Self::Test => "log-parser-test",
        }
    }
}

/// One scan of one log.
#[derive(Debug)]
pub struct Scanner {
    phase: Phase,
    /// The beginning of a line whose end has not come yet, at most [`MAX_LINE`].
    tail: Vec<u8>,
    window: Window,
    report: Report,
}

impl Default for Scanner {
    fn default() -> Self {
        Self::new()
    }
}

impl Scanner {
    /// A scan that has seen nothing.
    pub fn new() -> Self {
        Self {
            phase: Phase::Boot,
            tail: Vec::new(),
            window: Window::default(),
            report: Report::default(),
        }
    }

    /// Takes the next bytes of the log: any number, cut anywhere. What is no UTF-8 is
    /// replaced.
    pub fn feed(&mut self, chunk: &[u8]) {
        let mut rest = chunk;
        while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
            let (head, after) = rest.split_at(end);
            if self.tail.is_empty() {
                self.line(&String::from_utf8_lossy(cut(head, MAX_LINE)));
            } else {
                self.extend_tail(head);
                self.end_tail();
            }
            rest = after.get(1..).unwrap_or_default();
        }
        self.extend_tail(rest);
    }

    /// Takes the next line of the log, without its `\n`. Use either this or [`Scanner::feed`].
    pub fn line(&mut self, line: &str) {
        let line = line
            .get(..line.floor_char_boundary(MAX_LINE))
            .unwrap_or(line);
        let parted = match self.phase {
            Phase::Boot => line::at_prompt(line),
            Phase::Test => None,
        };
        let Some((boot, test)) = parted else {
            self.kernels(line);
            return;
        };
        // A prompt and messages of the kernel often share a line.
        self.kernels(boot);
        self.decide(true);
        self.window = Window::default();
        self.phase = Phase::Test;
        self.kernels(test);
    }

    /// Ends the log and gives its tests, all failed, sorted by suite and name; none for a log
    /// without findings.
    pub fn finish(mut self) -> Vec<Test> {
        if !self.tail.is_empty() {
            self.end_tail();
        }
        self.decide(true);
        self.report.into_tests()
    }

    fn kernels(&mut self, line: &str) {
        if let Some(line) = line::kernels(line) {
            self.window.push(line);
            self.decide(false);
        }
    }

    /// Reports what can be told by now; all, if this part of the log is `over`.
    fn decide(&mut self, over: bool) {
        while let Some((kind, text)) = self.window.next(over) {
            self.report.add(self.phase, kind, &text);
        }
    }

    fn extend_tail(&mut self, bytes: &[u8]) {
        let room = MAX_LINE - self.tail.len();
        self.tail.extend_from_slice(cut(bytes, room));
    }

    fn end_tail(&mut self) {
        let tail = std::mem::take(&mut self.tail);
        self.line(&String::from_utf8_lossy(&tail));
    }

    /// Bytes held, to prove the bound.
    #[cfg(test)]
    fn held(&self) -> usize {
        self.tail.capacity() + self.window.held() + self.report.held()
    }
}

/// The first `limit` of `bytes`.
fn cut(bytes: &[u8], limit: usize) -> &[u8] {
    bytes.get(..limit).unwrap_or(bytes)
}

/// Compiles a pattern of this module.
#[expect(
    clippy::expect_used,
    reason = "constant patterns, all compiled by the tests"
)]
fn compiled(pattern: &str) -> regex::Regex {
    regex::Regex::new(pattern).expect("a valid pattern")
}
