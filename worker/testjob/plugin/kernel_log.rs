//! Finds kernel crashes, warnings and sanitizer reports in the log of a booted machine.
//!
//! A [`Scanner`] takes the log in pieces of any size and gives failed tests at its end. It is pure:
//! it never does I/O, never waits, never looks at a line twice, so its time is linear in the length
//! of the log, whatever the log says, and its memory is bounded (see Limits). The same log gives
//! the same tests in the same order, however it is cut into pieces.
//!
//! # What is looked at
//!
//! Lines that carry a time stamp of the kernel, `[   12.345678]`, wherever in the line: after
//! `<6>`, a prompt, or the prefix of syslog, and before a caller id (`[  T123]`, `[    C0]`) or the
//! journal's `host kernel:`. The clock of `dmesg -T`, `[Thu Jan  1 00:00:12 1970]`, counts too.
//! Escape sequences for colours are removed. Other lines (the tests' own output) are passed over,
//! also in the middle of a trace, because the console mixes them.
//!
//! The first line with ` login:`, `console:/` or `root@…:/#` (or `:~#`) ends the boot. What began
//! before goes to the suite `log-parser-boot`, what began after to `log-parser-test`.
//!
//! # What is found
//!
//! | kind | from | to |
//! |---|---|---|
//! | `exception` | `------------[ cut here ]------------` | `---[ end trace …` |
//! | `internal-error-oops` | `Internal error: Oops…`, `Internal error: … [#1]` (arm, arm64) | `---[ end trace …` |
//! | `kasan`, `kcsan`, `kfence` | `BUG: KASAN:`, `BUG: KCSAN:`, `BUG: KFENCE:` | a line of `=` |
//! | `panic-multiline` | `Kernel panic - not syncing` | `---[ end Kernel panic …`, `Rebooting in …` |
//! | `invalid-opcode` | `invalid opcode: 0000 [#1]` | one line |
//! | `oops` | `Oops: 0002 [#1]`, `Oops - …` | one line |
//! | `bug` | `BUG: …`, `kernel BUG at …` | one line |
//! | `warning` | `WARNING: …` | one line |
//! | `fault` | `Unable to handle kernel …`, `Unhandled fault: …`, any other `…: 0000 [#1]` | one line |
//! | `panic` | a panic of which the log has just one line | one line |
//!
//! A block (the first six kinds) owns all that stands in it: what would be a finding of one line is
//! not reported again. So does an exception own the `Internal error: Oops - BUG` that `BUG()` makes
//! on arm64. Otherwise the beginning of one block ends the block before, and so does a reboot, the
//! end of the log, or a limit: a block without its end is reported with what there is of it.
//!
//! # What comes out
//!
//! Each finding makes two failed tests, as SQUAD's log parser does, so that one can follow a kind
//! of trouble and one very instance of it from build to build:
//!
//! * `<kind>-<slug>`: the slug is the headline in lower-case words joined by `-`, without whatever
//!   changes from run to run: times, addresses, pids, numbers of processors, offsets, source lines;
//! * `<kind>-<slug>-<sha256>`: the hash covers the whole headline, so treated, and the functions of
//!   the trace in their order. Registers, modules and versions stay out of it: they would make
//!   every run unlike the last.
//!
//! The tests' logs are the findings' lines. Tests come sorted by suite and name.
//!
//! # Limits
//!
//! | what | limit | beyond it |
//! |---|---|---|
//! | a line | [`MAX_LINE`] | the rest of the line is not looked at |
//! | a block | [`MAX_BLOCK_LINES`], [`MAX_BLOCK_BYTES`] | the block ends |
//! | findings kept in one test's log | [`MAX_ENTRIES`], [`MAX_TEXT`] | counted in the log's last line |
//! | logs kept of one scan | [`MAX_KEPT`] | counted in the log's last line |
//! | unlike findings of one scan | [`MAX_FINDINGS`] | counted in the test [`TOO_MANY`] |
//! | a test's name | [`MAX_NAME`] | the slug is cut; the hash is not |

mod block;
mod line;
mod mark;
mod name;
mod report;
#[cfg(test)]
mod tests;

use crate::testjob::item::{MAX_TEXT, Test};
use block::Block;
use line::Line;
use mark::{Kind, Mark};
use name::Finding;
use report::Report;

/// The longest part of a line that is looked at, in bytes: eight times what `printk` writes into
/// one, so that only other programs' output is ever cut.
pub const MAX_LINE: usize = 8 * 1024;

/// The longest block, in lines of the kernel. Whole traces have some 50 to 300; a block whose end
/// was lost swallows no more than this.
pub const MAX_BLOCK_LINES: usize = 1000;

/// The longest block, in bytes: one always fits into a test's log.
pub const MAX_BLOCK_BYTES: usize = MAX_TEXT - report::TRAILER;

/// How many findings one test's log shows; SQUAD's limit.
pub const MAX_ENTRIES: u64 = 100;

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
    open: Option<Block>,
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
            open: None,
            report: Report::default(),
        }
    }

    /// Takes the next bytes of the log: any number, cut anywhere. Lines end with `\n` or `\r\n`;
    /// what is no UTF-8 is replaced.
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

    /// Takes the next line of the log, without its end. Use either this or [`Scanner::feed`].
    pub fn line(&mut self, line: &str) {
        let line = line
            .get(..line.floor_char_boundary(MAX_LINE))
            .unwrap_or(line);
        let line = line::clean(line);
        let parted = match self.phase {
            Phase::Boot => line::at_prompt(&line),
            Phase::Test => None,
        };
        let Some((boot, test)) = parted else {
            self.kernel_line(line::parse(&line));
            return;
        };
        // A prompt and messages of the kernel often share a line.
        self.kernel_line(line::parse(boot));
        self.phase = Phase::Test;
        self.kernel_line(line::parse(test));
    }

    /// Ends the log and gives its tests, all failed, sorted by suite and name; none for a log
    /// without findings.
    pub fn finish(mut self) -> Vec<Test> {
        if !self.tail.is_empty() {
            self.end_tail();
        }
        self.close();
        self.report.into_tests()
    }

    fn kernel_line(&mut self, line: Option<Line<'_>>) {
        let Some(line) = line else { return };
        if self.open.as_ref().is_some_and(Block::is_full) {
            self.close();
        }
        let mark = mark::of(line.message);
        match mark {
            Some(Mark::Opens(kind)) if !self.owns(kind) => {
                self.close();
                self.open = Some(Block::open(self.phase, kind, line));
            }
            Some(Mark::Reboot) => self.close(),
            Some(Mark::Opens(_) | Mark::Ends(_) | Mark::Line(_)) | None => {
                self.inside_or_alone(line, mark);
            }
        }
    }

    /// Whether a block of `kind` is but a part of the open one.
    fn owns(&self, kind: Kind) -> bool {
        self.open.as_ref().is_some_and(|open| open.owns(kind))
    }

    fn inside_or_alone(&mut self, line: Line<'_>, mark: Option<Mark>) {
        if let Some(open) = &mut self.open {
            open.push(line, mark);
            if open.ends_at(mark) {
                self.close();
            }
        } else if let Some(Mark::Line(kind)) = mark {
            self.report.add(&Finding {
                phase: self.phase,
                kind,
                headline: line.message,
                functions: "",
                text: line.whole,
            });
        }
    }

    fn close(&mut self) {
        if let Some(block) = self.open.take() {
            self.report.add(&block.finding());
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
        self.tail.capacity() + self.open.as_ref().map_or(0, Block::held) + self.report.held()
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
