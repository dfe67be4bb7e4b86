//! What the kernel's lines mean: the findings of SQUAD 1.98's log parser, taken apart into marks of one line each.

use std::fmt;
use std::sync::LazyLock;

use regex::{Regex, RegexSet};

use super::compiled;
use super::line::{CALLER, STAMP};

/// What was found: the first word or words of a test's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    // Blocks.
    Exception,
    Kasan,
    Kcsan,
    Kfence,
    PanicMultiline,
    InternalErrorOops,
    // Lines.
    Oops,
    Fault,
    Warning,
    Bug,
    InvalidOpcode,
    Panic,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exception => "exception",
            Self::Kasan => "kasan",
            Self::Kcsan => "kcsan",
            Self::Kfence => "kfence",
            Self::PanicMultiline => "panic-multiline",
            Self::InternalErrorOops => "internal-error-oops",
            Self::Oops => "oops",
            Self::Fault => "fault",
            Self::Warning => "warning",
            Self::Bug => "bug",
            Self::InvalidOpcode => "invalid-opcode",
            Self::Panic => "panic",
        })
    }
}

/// How a block ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `---[ end trace 0000000000000000 ]---` right after the time stamp.
    ExceptionTrace,
    /// The same anywhere, with an id.
    OopsTrace,
    /// A line of `=` after a time stamp.
    Separator,
    /// Any `=`.
    Equals,
    /// `---[ end Kernel panic - not syncing: … ]---`
    Panic,
}

/// How many [`End`]s there are.
pub(super) const ENDS: usize = 5;

impl Kind {
    /// What ends a block of this kind; `None` for the kinds of one line.
    pub(super) fn end(self) -> Option<End> {
        match self {
            Self::Exception => Some(End::ExceptionTrace),
            Self::Kasan | Self::Kfence => Some(End::Separator),
            Self::Kcsan => Some(End::Equals),
            Self::PanicMultiline => Some(End::Panic),
            Self::InternalErrorOops => Some(End::OopsTrace),
            Self::Oops
            | Self::Fault
            | Self::Warning
            | Self::Bug
            | Self::InvalidOpcode
            | Self::Panic => None,
        }
    }
}

/// What may begin in the middle of a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Opening {
    /// `------------[ cut here ]------------`
    Cut,
    /// A line of `=`, which a sanitizer's report may follow.
    Separator,
    /// `Kernel panic - …` right after a time stamp.
    Panic,
    /// `Internal error: Oops` right after a time stamp.
    Oops,
    /// `Kernel panic - not syncing` anywhere: a finding of one line, if it is in no other.
    PanicAlone,
}

/// An [`Opening`] and where in its line it stands.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Start {
    pub(super) opening: Opening,
    pub(super) begin: usize,
    pub(super) end: usize,
}

static STARTS: LazyLock<Regex> = LazyLock::new(|| {
    compiled(&format!(
        r"(-+\[? cut here \]?-+)|(?:{STAMP}{CALLER}?\s+(?:(=+$)|(Kernel panic - [^\n])|(Internal error: Oops)))|(Kernel panic - not syncing)"
    ))
});

const OPENINGS: [Opening; 5] = [
    Opening::Cut,
    Opening::Separator,
    Opening::Panic,
    Opening::Oops,
    Opening::PanicAlone,
];

static REPORT: LazyLock<Regex> = LazyLock::new(|| {
    compiled(&format!(
        r"^{STAMP}{CALLER}?\s+BUG: (?:(KASAN)|(KCSAN)|(KFENCE)):"
    ))
});

const REPORTS: [Kind; 3] = [Kind::Kasan, Kind::Kcsan, Kind::Kfence];

/// In the order in which they are tried.
const ALONE: [(Kind, &str); 5] = [
    (Kind::Oops, "Oops(?: -|:)"),
    (Kind::Fault, "Unhandled fault"),
    (Kind::Warning, "WARNING:"),
    (Kind::Bug, " kernel BUG at|BUG:"),
    (Kind::InvalidOpcode, "invalid opcode:"),
];

/// In the order of [`End`].
static END_PATTERNS: LazyLock<[String; ENDS]> = LazyLock::new(|| {
    [
        format!(r"{STAMP}{CALLER}?\s+-+\[? end trace \w* \]?-+"),
        r"-+\[? end trace \w+ \]?-+".to_owned(),
        format!(r"{STAMP}{CALLER}?\s+=+"),
        "=+".to_owned(),
        r"-+\[? end Kernel panic - [^\n]+ \]?-*".to_owned(),
    ]
});

static END: LazyLock<Vec<Regex>> = LazyLock::new(|| {
    let patterns = END_PATTERNS.iter();
    patterns.map(|pattern| compiled(pattern)).collect()
});

/// All that a line can be, so that one search says that it is nothing, as most lines are: the ends, then the findings of
/// one line.
#[expect(
    clippy::expect_used,
    reason = "constant patterns, all compiled by the tests"
)]
static MARKS: LazyLock<RegexSet> = LazyLock::new(|| {
    let alone = ALONE.iter().map(|(_, pattern)| (*pattern).to_owned());
    RegexSet::new(END_PATTERNS.iter().cloned().chain(alone)).expect("valid patterns")
});

/// What a line is, besides what begins in it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Marks {
    /// By [`End`]: whether one stands in it.
    pub(super) ends: [bool; ENDS],
    /// The finding that the whole line is, unless it is in a block.
    pub(super) alone: Option<Kind>,
}

/// Looks once at a line of the kernel.
pub(super) fn of(line: &str) -> Marks {
    let mut marks = Marks::default();
    for found in &MARKS.matches(line) {
        if let Some(end) = marks.ends.get_mut(found) {
            *end = true;
        } else if marks.alone.is_none() {
            marks.alone = ALONE.get(found - ENDS).map(|(kind, _)| *kind);
        }
    }
    marks
}

/// The first thing that begins at `column` or after.
pub(super) fn start(line: &str, column: usize) -> Option<Start> {
    let found = STARTS.captures_at(line, column)?;
    let whole = found.get(0)?;
    let which = OPENINGS
        .iter()
        .zip(1..)
        .find(|(_, group)| found.get(*group).is_some());
    which.map(|(opening, _)| Start {
        opening: *opening,
        begin: whole.start(),
        end: whole.end(),
    })
}

/// The kind of a sanitizer's report that begins with `line`, and where its headline goes on.
pub(super) fn report(line: &str) -> Option<(Kind, usize)> {
    let found = REPORT.captures(line)?;
    let which = REPORTS
        .iter()
        .zip(1..)
        .find(|(_, group)| found.get(*group).is_some());
    which.map(|(kind, _)| (*kind, found.get(0).map_or(0, |whole| whole.end())))
}

/// Where the first `end` after `column` is over.
pub(super) fn end(end: End, line: &str, column: usize) -> Option<usize> {
    let found = END.get(end as usize)?.find_at(line, column)?;
    Some(found.end())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn opens(line: &str) -> Option<Opening> {
        start(line, 0).map(|start| start.opening)
    }

    #[test]
    fn beginnings_are_known() {
        for (opening, line) in [
            (Opening::Cut, "[ 1.0] ------------[ cut here ]------------"),
            (Opening::Separator, "[ 1.0][  T9] ====="),
            (Opening::Panic, "[ 1.0] Kernel panic - not syncing: x"),
            (
                Opening::Oops,
                "[ 1.0] Internal error: Oops: 96000004 [#1] SMP",
            ),
            (Opening::PanicAlone, "[ 1.0] x: Kernel panic - not syncing"),
        ] {
            assert_eq!(opens(line), Some(opening), "{line}");
        }
        for line in [
            "[ 1.0] === x",
            "[ 1.0] =====\r",
            "[ 1.0] Kernel panic - ",
            "[ 1.0] Internal error: synchronous external abort: 96000210 [#1]",
        ] {
            assert_eq!(opens(line), None, "{line}");
        }
    }

    #[test]
    fn reports_of_sanitizers_are_known() {
        for (name, kind) in ["KASAN", "KCSAN", "KFENCE"].iter().zip(REPORTS) {
            let line = format!("[ 1.0] BUG: {name}: x in f+0x1/0x2");
            assert_eq!(report(&line).map(|(kind, _)| kind), Some(kind));
            assert_eq!(of(&line).alone, Some(Kind::Bug));
        }
        assert_eq!(report("[ 1.0] x BUG: KASAN: x"), None);
    }

    #[test]
    fn the_ends_of_blocks_are_known() {
        for (end, line) in [
            (vec![End::ExceptionTrace], "[ 1.0] ---[ end trace  ]---"),
            (
                vec![End::ExceptionTrace, End::OopsTrace],
                "[ 1.0] ---[ end trace 00 ]---",
            ),
            (vec![End::OopsTrace], "[ 1.0] x ---[ end trace 00 ]---"),
            (vec![End::Separator, End::Equals], "[ 1.0] ======="),
            (vec![End::Equals], "[ 1.0] a=b"),
            (vec![End::Panic], "[ 1.0] ---[ end Kernel panic - x: y ]---"),
            (vec![], "[ 1.0] Rebooting in 10 seconds.."),
        ] {
            let mut expected = [false; ENDS];
            for one in &end {
                expected[*one as usize] = true;
                assert!(super::end(*one, line, 0).is_some(), "{line}");
            }
            assert_eq!(of(line).ends, expected, "{line}");
        }
    }

    #[test]
    fn findings_of_one_line_are_known() {
        for (kind, line) in [
            (Kind::Oops, "[ 1.0] Oops: 0002 [#1] PREEMPT SMP"),
            (Kind::Oops, "[ 1.0] Oops: invalid opcode: 0000 [#1]"),
            (Kind::Oops, "[ 1.0] Internal error: Oops - BUG: 0 [#1]"),
            (Kind::Fault, "[ 1.0] Unhandled fault: page domain fault"),
            (Kind::Warning, "[ 1.0] WARNING: suspicious RCU usage"),
            (Kind::Bug, "[ 1.0] kernel BUG at mm/slub.c:305!"),
            (Kind::Bug, "[ 1.0] watchdog: BUG: soft lockup"),
            (Kind::InvalidOpcode, "[ 1.0] invalid opcode: 0000 [#1]"),
        ] {
            assert_eq!(of(line).alone, Some(kind), "{line}");
        }
        for line in [
            "[ 1.0] Unable to handle kernel NULL pointer dereference",
            "[ 1.0] general protection fault: 0000 [#1]",
            "[ 1.0] WARNING no colon",
        ] {
            assert_eq!(of(line).alone, None, "{line}");
        }
    }
}
