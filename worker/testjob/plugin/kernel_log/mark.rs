//! What a message of the kernel means to the scan. The formats are those of the kernel's own
//! `kernel/panic.c`, `lib/bug.c`, `mm/{kasan,kfence}/report.c`, `kernel/kcsan/report.c`,
//! `arch/x86/kernel/{dumpstack,traps}.c`, `arch/x86/mm/fault.c`, and their likes for arm, arm64,
//! riscv, powerpc and s390.

use std::fmt;
use std::sync::LazyLock;

use regex::RegexSet;

/// What was found: the first word or words of a test's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    // Blocks.
    Exception,
    InternalErrorOops,
    Kasan,
    Kcsan,
    Kfence,
    PanicMultiline,
    // Lines.
    InvalidOpcode,
    Oops,
    Bug,
    Warning,
    Fault,
    Panic,
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Exception => "exception",
            Self::InternalErrorOops => "internal-error-oops",
            Self::Kasan => "kasan",
            Self::Kcsan => "kcsan",
            Self::Kfence => "kfence",
            Self::PanicMultiline => "panic-multiline",
            Self::InvalidOpcode => "invalid-opcode",
            Self::Oops => "oops",
            Self::Bug => "bug",
            Self::Warning => "warning",
            Self::Fault => "fault",
            Self::Panic => "panic",
        })
    }
}

/// The last line of a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum End {
    /// `---[ end trace 0000000000000000 ]---`
    Trace,
    /// A line of `=`, around the reports of the sanitizers.
    Separator,
    /// `---[ end Kernel panic - not syncing: … ]---`, or `Rebooting in 10 seconds..` in its stead.
    Panic,
}

impl Kind {
    /// What ends a block of this kind; `None` for the kinds of one line.
    pub(super) fn end(self) -> Option<End> {
        match self {
            Self::Exception | Self::InternalErrorOops => Some(End::Trace),
            Self::Kasan | Self::Kcsan | Self::Kfence => Some(End::Separator),
            Self::PanicMultiline => Some(End::Panic),
            Self::InvalidOpcode
            | Self::Oops
            | Self::Bug
            | Self::Warning
            | Self::Fault
            | Self::Panic => None,
        }
    }

    /// What a block is called of which the log has one line only.
    pub(super) fn alone(self) -> Self {
        match self {
            Self::InternalErrorOops => Self::Oops,
            Self::PanicMultiline => Self::Panic,
            Self::Exception
            | Self::Kasan
            | Self::Kcsan
            | Self::Kfence
            | Self::InvalidOpcode
            | Self::Oops
            | Self::Bug
            | Self::Warning
            | Self::Fault
            | Self::Panic => self,
        }
    }
}

/// What a message means.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Mark {
    /// A block begins.
    Opens(Kind),
    /// A block of the kinds with this end is over, if there is one.
    Ends(End),
    /// A finding by itself, unless it stands in a block.
    Line(Kind),
    /// Another kernel starts: nothing of the one before is still to come.
    Reboot,
}

/// The first pattern that matches decides, so the narrower one stands first. `[#1]` is the count of
/// oopses at the end of the line that every `die()` prints.
const MARKS: [(Mark, &str); 17] = [
    (Mark::Opens(Kind::Exception), r"-\[ cut here \]-"),
    (Mark::Ends(End::Trace), r"-\[ end trace "),
    (
        Mark::Ends(End::Panic),
        r"-\[ end Kernel panic |^Rebooting in [0-9]+ seconds",
    ),
    (Mark::Ends(End::Separator), r"^={20,}\s*$"),
    (
        Mark::Reboot,
        r"^(?:Linux version [0-9]|Booting Linux on physical CPU )",
    ),
    (
        Mark::Opens(Kind::PanicMultiline),
        r"Kernel panic - not syncing",
    ),
    (Mark::Opens(Kind::Kasan), r"BUG: KASAN: "),
    (Mark::Opens(Kind::Kcsan), r"BUG: KCSAN: "),
    (Mark::Opens(Kind::Kfence), r"BUG: KFENCE: "),
    (
        Mark::Opens(Kind::InternalErrorOops),
        r"Internal error: (?:Oops|.*\[#[0-9]+\])",
    ),
    (Mark::Line(Kind::InvalidOpcode), r"invalid opcode: "),
    (Mark::Line(Kind::Oops), r"(?-u:\b)Oops(?:: | - )"),
    (
        Mark::Line(Kind::Bug),
        r"(?-u:\b)BUG: |[Kk]ernel BUG (?:at |\[#)",
    ),
    (Mark::Line(Kind::Warning), r"(?-u:\b)WARNING: "),
    (
        Mark::Line(Kind::Fault),
        r"Unable to handle kernel |Unhandled (?:fault|prefetch abort)",
    ),
    (
        Mark::Line(Kind::Fault),
        r": [0-9a-f]{1,16} (?:ilc:[0-9] )?\[#[0-9]+\]",
    ),
    (Mark::Line(Kind::Panic), r"Kernel panic"),
];

#[expect(
    clippy::expect_used,
    reason = "constant patterns, all compiled by the tests"
)]
static PATTERNS: LazyLock<RegexSet> =
    LazyLock::new(|| RegexSet::new(MARKS.map(|(_, pattern)| pattern)).expect("valid patterns"));

/// What `message` means; `None` for most messages.
pub(super) fn of(message: &str) -> Option<Mark> {
    let first = PATTERNS.matches(message).iter().next()?;
    MARKS.get(first).map(|(mark, _)| *mark)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn all_mean(mark: Mark, messages: &[&str]) {
        for message in messages {
            assert_eq!(of(message), Some(mark), "{message}");
        }
    }

    #[test]
    fn beginnings_of_blocks_are_known() {
        for (kind, message) in [
            (Kind::Exception, "------------[ cut here ]------------"),
            (
                Kind::PanicMultiline,
                "Kernel panic - not syncing: No working init found.",
            ),
            (Kind::Kasan, "BUG: KASAN: slab-out-of-bounds in a+0x1/0x2"),
            (Kind::Kcsan, "BUG: KCSAN: data-race in a / b"),
            (
                Kind::Kfence,
                "BUG: KFENCE: use-after-free read in a+0x1/0x2",
            ),
        ] {
            all_mean(Mark::Opens(kind), &[message]);
        }
        all_mean(
            Mark::Opens(Kind::InternalErrorOops),
            &[
                "Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP",
                "Internal error: Oops - BUG: 00000000f2000800 [#1] SMP",
                "Internal error: synchronous external abort: 96000210 [#1] SMP",
            ],
        );
    }

    #[test]
    fn ends_of_blocks_are_known() {
        let panic = "---[ end Kernel panic - not syncing: x ]---";
        let separator = "==================================================";
        let arm64 = "Booting Linux on physical CPU 0x0000000000 [0x410fd034]";
        all_mean(
            Mark::Ends(End::Trace),
            &["---[ end trace 0000000000000000 ]---"],
        );
        all_mean(
            Mark::Ends(End::Panic),
            &[panic, "Rebooting in 10 seconds.."],
        );
        all_mean(Mark::Ends(End::Separator), &[separator]);
        all_mean(
            Mark::Reboot,
            &[arm64, "Linux version 6.12.1 (b@h) (gcc) #1 SMP"],
        );
    }

    #[test]
    fn opcodes_and_oopses_are_known() {
        all_mean(
            Mark::Line(Kind::InvalidOpcode),
            &[
                "invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
                "Oops: invalid opcode: 0000 [#1] PREEMPT SMP NOPTI",
            ],
        );
        all_mean(
            Mark::Line(Kind::Oops),
            &[
                "Oops: 0002 [#1] SMP PTI",
                "Oops: general protection fault, probably for non-canonical address 0x1: 0000 [#1]",
                "Oops - illegal instruction [#1]",
            ],
        );
    }

    #[test]
    fn bugs_and_warnings_are_known() {
        all_mean(
            Mark::Line(Kind::Bug),
            &[
                "BUG: unable to handle page fault for address: ffffffffc0000000",
                "BUG: kernel NULL pointer dereference, address: 0000000000000008",
                "BUG: sleeping function called from invalid context at mm/page_alloc.c:1",
                "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:2:77]",
                "kernel BUG at mm/slub.c:305!",
                "Kernel BUG [#1]",
            ],
        );
        all_mean(
            Mark::Line(Kind::Warning),
            &[
                "WARNING: CPU: 0 PID: 1 at kernel/smp.c:9 f+0x1/0x2",
                "WARNING: possible circular locking dependency detected",
            ],
        );
    }

    #[test]
    fn faults_are_known() {
        all_mean(
            Mark::Line(Kind::Fault),
            &[
                "Unable to handle kernel paging request at virtual address ffff800012345678",
                "Unhandled fault: imprecise external abort (0x1406) at 0x00000000",
                "general protection fault: 0000 [#1] SMP",
                "divide error: 0000 [#1] SMP",
                "illegal operation: 0001 ilc:1 [#1]",
            ],
        );
    }

    #[test]
    fn other_lines_mean_nothing() {
        for message in [
            "",
            "DEBUG: all is well",
            "FIRMWARNING: none",
            "mmc0: Internal error: try again",
            "traps: app[12] trap invalid opcode ip:55d0 sp:7ffc error:0 in app[55d0+1000]",
            "app[12]: segfault at 0 ip 0000 sp 0000 error 4",
            "[Firmware Bug]: TSC not synchronous",
            "Kernel command line: console=ttyS0 panic=10 oops=panic",
            "EXT4-fs (sda1): mounted filesystem",
            "=== begin ===",
        ] {
            assert_eq!(of(message), None, "{message}");
        }
    }

    #[test]
    fn blocks_have_an_end_and_lines_have_none() {
        for (mark, _) in MARKS {
            match mark {
                Mark::Opens(kind) => assert!(kind.end().is_some(), "{kind}"),
                Mark::Line(kind) => {
                    assert!(kind.end().is_none(), "{kind}");
                    assert_eq!(kind.alone(), kind);
                }
                Mark::Ends(_) | Mark::Reboot => {}
            }
        }
    }
}
