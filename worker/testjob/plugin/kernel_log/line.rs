//! One line of the console: what of it the kernel said, and whether it shows a prompt.

use std::sync::LazyLock;

use regex::Regex;

use super::compiled;

/// `printk`'s time stamp.
pub(super) const STAMP: &str = r"\[[ 0-9]+\.[ 0-9]+\]";

/// The caller's id (`CONFIG_PRINTK_CALLER`): a task or a processor.
pub(super) const CALLER: &str = r"(?:\s*?\[\s*?[CT][0-9]+\s*?\])";

static KERNELS: LazyLock<Regex> = LazyLock::new(|| compiled(&format!("{STAMP}{CALLER}? ")));

/// SQUAD's signs that a machine is up.
static PROMPT: LazyLock<Regex> = LazyLock::new(|| compiled(r" login:|console:/|root@.*:[/~]#"));

/// The kernel's message in a line, with its time stamp, if there is one.
pub(super) fn kernels(line: &str) -> Option<&str> {
    line.get(KERNELS.find(line)?.start()..)
}

/// What stands in a line before a prompt, and the rest, if there is a prompt.
pub(super) fn at_prompt(line: &str) -> Option<(&str, &str)> {
    line.split_at_checked(PROMPT.find(line)?.start())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_message_begins_with_its_time_stamp() {
        for (line, message) in [
            ("[   12.345678] BUG: x", "[   12.345678] BUG: x"),
            (
                "[    0.000000][    T0] BUG: x",
                "[    0.000000][    T0] BUG: x",
            ),
            ("[ 1234.567890] [C3] BUG: x", "[ 1234.567890] [C3] BUG: x"),
            ("<4>[   12.345678] BUG: x", "[   12.345678] BUG: x"),
            (
                "kern  :warn  : [   12.345678] BUG: x",
                "[   12.345678] BUG: x",
            ),
            (
                "root@board:~# [   12.345678] BUG: x\r",
                "[   12.345678] BUG: x\r",
            ),
            (
                "[1.0]no [    2.0] \x1b[31mBUG: x",
                "[    2.0] \x1b[31mBUG: x",
            ),
        ] {
            assert_eq!(kernels(line), Some(message), "{line}");
        }
    }

    #[test]
    fn a_line_without_a_time_stamp_is_not_the_kernels() {
        for line in [
            "BUG: x",
            "[12] BUG: x",
            "[  OK  ] BUG: x",
            "[a.b] BUG: x",
            "[   12.345678]BUG: x",
            "[Thu Jan  1 00:00:12 1970] BUG: x",
            "",
            "[",
        ] {
            assert_eq!(kernels(line), None, "{line}");
        }
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
