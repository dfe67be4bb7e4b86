//! One line of the console: what of it the kernel said, and whether it shows a prompt.

use std::borrow::Cow;
use std::sync::LazyLock;

use regex::Regex;

use super::compiled;

/// `printk`'s time stamp, or that of `dmesg -T`; then, where they are, the caller's id
/// (`CONFIG_PRINTK_CALLER`) and the journal's `host kernel:`.
static STAMP: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"(?x)
        \[ (?: \x20* [0-9]{1,10} \. [0-9]{1,9}
             | [A-Z][a-z]{2} \x20 [A-Z][a-z]{2} \x20 [\x20 0-9][0-9] \x20 [0-9:]{8} \x20 [0-9]{4} ) \]
        (?: \x20? \[ \x20* [TC] [0-9]{1,10} \] )?
        \x20?
        (?: [!-~]+ \x20 kernel: \x20 )?",
    )
});

/// SQUAD's signs that a machine is up.
static PROMPT: LazyLock<Regex> = LazyLock::new(|| compiled(r" login:|console:/|root@.*:[/~]#"));

/// Escape sequences of terminals (colours, cursor), and characters that no log should hold.
static CONTROL: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"\x1b\[[0-9;?]*[A-Za-z]|[\x00-\x08\x0a-\x1f\x7f]"));

/// A line with a time stamp of the kernel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line<'a> {
    /// The line as the console showed it.
    pub(super) whole: &'a str,
    /// What follows the time stamp.
    pub(super) message: &'a str,
}

/// `line` without colours, control characters and the `\r` of its end.
pub(super) fn clean(line: &str) -> Cow<'_, str> {
    CONTROL.replace_all(line, "")
}

/// The kernel's message in a clean line, if there is one.
pub(super) fn parse(line: &str) -> Option<Line<'_>> {
    let stamp = STAMP.find(line)?;
    Some(Line {
        whole: line,
        message: line.get(stamp.end()..)?,
    })
}

/// What stands in a clean line before a prompt, and the rest, if there is a prompt.
pub(super) fn at_prompt(line: &str) -> Option<(&str, &str)> {
    line.split_at_checked(PROMPT.find(line)?.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn message(line: &str) -> Option<&str> {
        parse(line).map(|line| line.message)
    }

    #[test]
    fn the_message_follows_a_time_stamp_of_any_style() {
        for line in [
            "[   12.345678] BUG: x",
            "[    0.000000][    T0] BUG: x",
            "[ 1234.567890] [C3] BUG: x",
            "<4>[   12.345678] BUG: x",
            "kern  :warn  : [   12.345678] BUG: x",
            "Jan  1 00:00:12 board kernel: [   12.345678] BUG: x",
            "[   12.345678] board kernel: BUG: x",
            "[Thu Jan  1 00:00:12 1970] BUG: x",
            "2024-02-03T04:05:06.123456 [   12.345678] BUG: x",
            "root@board:~# [   12.345678] BUG: x",
        ] {
            assert_eq!(message(line), Some("BUG: x"), "{line}");
        }
    }

    #[test]
    fn a_line_without_a_time_stamp_is_not_the_kernels() {
        for line in [
            "BUG: x",
            "[12] BUG: x",
            "[  OK  ] BUG: x",
            "[a.b] BUG: x",
            "",
            "[",
        ] {
            assert_eq!(message(line), None, "{line}");
        }
    }

    #[test]
    fn colours_and_line_ends_are_removed() {
        assert_eq!(
            clean("\x1b[32m[    1.000000] \x1b[0m\x1b[1;31mBUG:\tx\0\r"),
            "[    1.000000] BUG:\tx"
        );
        assert!(matches!(
            clean("plain ünïcode"),
            Cow::Borrowed("plain ünïcode")
        ));
    }

    #[test]
    fn prompts_are_seen() {
        for line in [
            "board login:",
            "console:/ $",
            "root@board:/# ls",
            "root@board:~# ",
        ] {
            assert!(at_prompt(line).is_some(), "{line}");
        }
        for line in ["login:", "root@board", "console:", "user@board:~#"] {
            assert!(at_prompt(line).is_none(), "{line}");
        }
    }
}
