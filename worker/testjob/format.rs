//! Result files as test suites write them: JUnit, CTS/VTS (tradefed), SQUAD's JSON, and the archives
//! they come in. Each reader takes a byte stream and emits [`Item`]s.
//!
//! A reader never holds a file in memory, whatever the file says of itself: every nesting, name,
//! text and ratio has a limit ([`Limits`]). It never takes a short read for a result: a file that
//! ends in the middle is [`FormatError::Truncated`]. It never shortens or repairs a test's name, and
//! it emits the same items in the same order each time it reads the same bytes.
//!
//! Readers are synchronous: backends and plugins run them on a blocking thread over a bridge from
//! their download. What they emit before an error is real but not the whole: the caller drops it.

use std::fmt;
use std::io;

use crate::testjob::item::{Item, MAX_TEXT, TestResult};

pub mod archive;
pub mod generate;
pub mod junit;
pub mod squad;
pub mod tradefed;
mod xml;

/// Where a reader's items go.
pub type Emit<'a> = dyn FnMut(Item) -> Result<(), Stopped> + 'a;

/// Nobody wants more items: the attempt was told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the receiver of the items stopped")]
pub struct Stopped;

/// Where in a file an error was found, for its message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Place {
    /// So many bytes after the beginning of the (unpacked) file.
    Byte(u64),
    /// A line and a column, both from 1.
    Line(usize, usize),
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Byte(byte) => write!(f, "byte {byte}"),
            Self::Line(line, column) => write!(f, "line {line}, column {column}"),
        }
    }
}

/// Why a file could not be read to its end.
#[derive(Debug, thiserror::Error)]
pub enum FormatError {
    /// The byte stream itself failed. Whether that is worth another attempt, its maker knows.
    #[error("read the file: {0}")]
    Io(#[source] io::Error),
    /// The file ends too early: a download that broke off, or a producer that died while writing.
    /// Worth another attempt where the stream may have been short.
    #[error("{what} ended too early, at {at}")]
    Truncated {
        /// What was being read, for instance `the XML, inside <Module> <TestCase>,`.
        what: String,
        /// Where the bytes ended.
        at: Place,
    },
    /// The file is not what it should be. Reading it again will not help.
    #[error("{what}, at {at}")]
    Malformed {
        /// What is wrong.
        what: String,
        /// Where.
        at: Place,
    },
    /// The file is larger, deeper or denser than this worker takes.
    #[error("{what} is over the limit of {limit}; raise the limit if the file can be trusted")]
    Limit {
        /// Which measure, with its unit.
        what: &'static str,
        /// The limit that was passed.
        limit: u64,
    },
    /// The receiver of the items stopped.
    #[error("the receiver of the items stopped")]
    Stopped,
}

impl From<Stopped> for FormatError {
    fn from(_: Stopped) -> Self {
        Self::Stopped
    }
}

impl FormatError {
    /// The error for an error of a stream: what a stream of ours put into it (a limit, a damaged
    /// archive), else [`FormatError::Io`].
    fn from_io(error: io::Error) -> Self {
        error.downcast::<Self>().unwrap_or_else(Self::Io)
    }

    /// Whether reading the file anew may end otherwise: the stream failed, or was short.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Io(_) | Self::Truncated { .. } => true,
            Self::Malformed { .. } | Self::Limit { .. } | Self::Stopped => false,
        }
    }

    fn malformed(what: impl Into<String>, at: u64) -> Self {
        Self::Malformed {
            what: what.into(),
            at: Place::Byte(at),
        }
    }

    fn truncated(what: impl Into<String>, at: u64) -> Self {
        Self::Truncated {
            what: what.into(),
            at: Place::Byte(at),
        }
    }
}

/// What a reader takes at most. The defaults let the largest real CTS result pass (a million tests,
/// 70 MB of XML from 2 MB of `.tar.xz`) and refuse what would only exhaust the worker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Limits {
    /// Elements inside one another, in XML; default 64 (real results have 7). JSON has
    /// `serde_json`'s own limit of 128.
    pub depth: usize,
    /// The longest piece of a file that must be held at once, in bytes: one XML tag with its
    /// attributes, one run of text, one JSON entry. Default 8 MiB.
    pub piece: usize,
    /// The longest log or stack trace that is kept, in bytes; the rest is cut with a marker.
    /// Default [`MAX_TEXT`].
    pub text: usize,
    /// Bytes that an archive may unpack to, all members together; default 8 GiB.
    pub unpacked: u64,
    /// Unpacked bytes for each packed byte, looked at after the first 16 MiB; default 1000
    /// (real results have 35 to 100).
    pub ratio: u64,
    /// Members of an archive, folders and links included; default 100 000.
    pub members: u64,
    /// Memory that a decompressor may take for its window, in bytes, for zstd rounded down to a
    /// power of two; default 96 MiB (`xz -9` takes 65 MiB, `zstd -19` 8 MiB).
    pub window: u64,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            depth: 64,
            piece: 8 << 20,
            text: MAX_TEXT,
            unpacked: 8 << 30,
            ratio: 1000,
            members: 100_000,
            window: 96 << 20,
        }
    }
}

/// How many tests ended how.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Counts {
    /// Tests with [`TestResult::Pass`].
    pub pass: u64,
    /// Tests with [`TestResult::Fail`].
    pub fail: u64,
    /// Tests with [`TestResult::Xfail`].
    pub xfail: u64,
    /// Tests with [`TestResult::Skip`].
    pub skip: u64,
}

impl Counts {
    /// Counts one more.
    pub fn add(&mut self, result: TestResult) {
        match result {
            TestResult::Pass => self.pass += 1,
            TestResult::Fail => self.fail += 1,
            TestResult::Xfail => self.xfail += 1,
            TestResult::Skip => self.skip += 1,
        }
    }

    /// All tests.
    pub fn total(&self) -> u64 {
        self.pass + self.fail + self.xfail + self.skip
    }
}

/// The longest metadata value, and name within a problem, in bytes: they are shown in tables.
const MAX_VALUE: usize = 4096;

/// A text that grows piece by piece and keeps at most `limit` bytes, with U+FFFD for each NUL, which
/// PostgreSQL's texts cannot hold.
struct Text {
    kept: String,
    limit: usize,
    cut: usize,
}

impl Text {
    fn new(limit: usize) -> Self {
        Self {
            kept: String::new(),
            limit,
            cut: 0,
        }
    }

    fn push(&mut self, piece: &str) {
        if piece.contains('\0') {
            return self.push(&piece.replace('\0', "\u{FFFD}"));
        }
        let room = if self.cut == 0 {
            self.limit - self.kept.len().min(self.limit)
        } else {
            0
        };
        let fits = piece
            .get(..piece.floor_char_boundary(room))
            .unwrap_or_default();
        self.kept.push_str(fits);
        self.cut += piece.len() - fits.len();
    }

    fn is_empty(&self) -> bool {
        self.kept.is_empty()
    }

    /// The text, with a marker at its end if something was cut; `None` if nothing was ever pushed.
    fn take(&mut self) -> Option<String> {
        let mut kept = std::mem::take(&mut self.kept);
        let mut cut = std::mem::take(&mut self.cut);
        if cut > 0 {
            const MARKER: usize = 48;
            let end = kept.floor_char_boundary(self.limit.saturating_sub(MARKER));
            cut += kept.len() - end;
            kept.truncate(end);
            kept.push_str(&format!("\n[… {cut} bytes cut]"));
        }
        (!kept.is_empty()).then_some(kept)
    }
}

/// `text`, at most `limit` bytes of it.
fn shortened(text: &str, limit: usize) -> String {
    let mut short = Text::new(limit);
    short.push(text);
    short.take().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_cut_within_its_limit_and_says_by_how_much() {
        let mut text = Text::new(100);
        for _ in 0..30 {
            text.push("häßlich ");
        }
        let kept = text.take().unwrap();
        assert!(kept.len() <= 100, "{}", kept.len());
        let body = kept.find("\n[… ").unwrap();
        assert!(kept.ends_with(&format!("[… {} bytes cut]", 30 * "häßlich ".len() - body)));
        assert_eq!(text.take(), None, "taking empties it");
    }

    #[test]
    fn a_text_has_no_nul() {
        assert_eq!(shortened("a\0b", 100), "a\u{FFFD}b");
    }

    #[test]
    fn a_text_of_exactly_the_limit_is_whole() {
        let mut text = Text::new(4);
        text.push("ab");
        text.push("cd");
        assert_eq!(text.take().as_deref(), Some("abcd"));
    }

    #[test]
    fn an_error_inside_an_io_error_comes_out_again() {
        let inner = FormatError::Limit {
            what: "x",
            limit: 1,
        };
        assert!(matches!(
            FormatError::from_io(io::Error::other(inner)),
            FormatError::Limit { .. }
        ));
        let plain = io::Error::from(io::ErrorKind::ConnectionReset);
        assert!(matches!(FormatError::from_io(plain), FormatError::Io(_)));
    }
}
