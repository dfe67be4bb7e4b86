//! The names of findings: what stays the same when the same thing happens again.

use std::sync::LazyLock;

use regex::Regex;
use sha2::{Digest, Sha256};

use super::mark::Kind;
use super::{MAX_NAME, Phase, compiled};

/// A SHA-256 in hexadecimal digits, in characters.
const HASH: usize = 64;

/// The longest slug, in characters: with the longest kind, the hash and two `-` it makes a name of
/// [`MAX_NAME`].
const MAX_SLUG: usize = MAX_NAME - HASH - "internal-error-oops".len() - 2;

/// What changes from run to run, or from compiler to compiler, and is more than one word. Numbers
/// by themselves are dropped word by word.
static NOISE: LazyLock<Regex> = LazyLock::new(|| {
    compiled(
        r"(?x)
          : \x20 [0-9a-f]{1,16} \x20 \[\#[0-9]+\]             # code and count of an oops
        | CPU\#[0-9]+: \x20 [^\x20]+                          # processor, task and pid
        | \[ [^\[\]]* : [0-9]+ \]                             # [task:pid]
        | \+0x[0-9a-f]+ (?: /0x[0-9a-f]+ )?                   # offset/size
        | (?-u:\b) 0x[0-9A-Fa-f]+
        | (?-u:\b) [0-9]+ (?: \.[0-9]+ )? [mun]?s (?-u:\b)    # duration
        | \. (?: isra | constprop | part | cold | llvm ) (?: \.[0-9]+ )*",
    )
});

/// A function of a trace, as `%pS` prints it, without what the compiler added after a dot.
static FUNCTION: LazyLock<Regex> = LazyLock::new(|| {
    compiled(r"(\? )?([A-Za-z_][A-Za-z0-9_]*)[A-Za-z0-9_.$]*\+0x[0-9a-f]+/0x[0-9a-f]+")
});

/// A finding, borrowed from where it was read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Finding<'a> {
    /// Where it began.
    pub(super) phase: Phase,
    /// What it is.
    pub(super) kind: Kind,
    /// The message that tells it best.
    pub(super) headline: &'a str,
    /// The functions of its trace, one a line.
    pub(super) functions: &'a str,
    /// Its lines.
    pub(super) text: &'a str,
}

impl Finding<'_> {
    /// The two names of its tests: `<kind>-<slug>`, and the same with `-<sha256>`.
    pub(super) fn names(&self) -> (String, String) {
        // The kind says it already.
        let headline = self
            .headline
            .trim_start()
            .trim_start_matches("Internal error: ");
        let words = words(headline);
        let mut name = format!("{}-{}", self.kind, slug(&words));
        let mut hash = Sha256::new();
        hash.update(words.as_bytes());
        hash.update(b"\n");
        hash.update(self.functions.as_bytes());
        let short = name.clone();
        name.push('-');
        for byte in hash.finalize() {
            let digits = [byte >> 4, byte & 0xf];
            name.extend(
                digits
                    .iter()
                    .filter_map(|digit| char::from_digit((*digit).into(), 16)),
            );
        }
        (short, name)
    }
}

/// The words of `message` that say what happened, in lower case, joined by `-`; possibly none.
pub(super) fn words(message: &str) -> String {
    let quiet = NOISE.replace_all(message, " ");
    let mut joined = String::new();
    for word in quiet.split(|c: char| !c.is_ascii_alphanumeric() && c != '_') {
        if !tells(word) {
            continue;
        }
        if !joined.is_empty() {
            joined.push('-');
        }
        joined.push_str(&word.to_ascii_lowercase());
    }
    joined
}

/// Appends the functions that `message` names, each with a line end, without their offsets. Those
/// that the unwinder doubts (`? name`) are what happened to lie on the stack, and stay out.
pub(super) fn push_functions(message: &str, functions: &mut String) {
    for found in FUNCTION.captures_iter(message) {
        if let (None, Some(function)) = (found.get(1), found.get(2)) {
            functions.push_str(function.as_str());
            functions.push('\n');
        }
    }
}

/// Whether `word` is more than a number or an address.
fn tells(word: &str) -> bool {
    let address = word.len() >= 8 && word.bytes().all(|byte| byte.is_ascii_hexdigit());
    !address && word.bytes().any(|byte| byte.is_ascii_alphabetic())
}

/// `words` as part of a name.
fn slug(words: &str) -> &str {
    let cut = words.get(..MAX_SLUG).unwrap_or(words).trim_end_matches('-');
    if cut.is_empty() { "unnamed" } else { cut }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headlines_lose_what_changes_from_run_to_run() {
        for (headline, expected) in [
            (
                "WARNING: CPU: 3 PID: 812 at kernel/smp.c:912 smp_call_function+0x10/0x2b0",
                "warning-cpu-pid-at-kernel-smp-c-smp_call_function",
            ),
            (
                "WARNING: kernel/smp.c:912 at smp_call_function+0x10/0x2b0, CPU#3: kworker/3:1/812",
                "warning-kernel-smp-c-at-smp_call_function",
            ),
            ("Oops: 000b [#1] PREEMPT SMP", "oops-preempt-smp"),
            (
                "watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:2:77]",
                "watchdog-bug-soft-lockup-cpu-stuck-for",
            ),
            (
                "BUG: kernel NULL pointer dereference, address: 0000000000000008",
                "bug-kernel-null-pointer-dereference-address",
            ),
            (
                "Kernel panic - not syncing: Attempted to kill init! exitcode=0x0000000b",
                "kernel-panic-not-syncing-attempted-to-kill-init-exitcode",
            ),
            (
                "BUG: KASAN: slab-out-of-bounds in ext4_find.isra.0+0x1b/0x40 [ext4]",
                "bug-kasan-slab-out-of-bounds-in-ext4_find-ext4",
            ),
            ("ünter 12 0x34", "nter"),
            ("1 2 3", ""),
        ] {
            assert_eq!(words(headline), expected, "{headline}");
        }
    }

    #[test]
    fn functions_of_a_trace_are_taken_without_offsets_and_doubts() {
        let mut functions = String::new();
        push_functions(" ? __pfx_worker+0x10/0x10", &mut functions);
        push_functions(" process.cold+0x1f/0x2e [mod]", &mut functions);
        push_functions("RIP: 0010:fault+0x1/0x2", &mut functions);
        assert_eq!(functions, "process\nfault\n");
    }

    #[test]
    fn a_name_has_at_most_256_characters_and_its_hash_whole() {
        let finding = Finding {
            phase: Phase::Boot,
            kind: Kind::InternalErrorOops,
            headline: &"word ".repeat(200),
            functions: "",
            text: "",
        };
        let (short, long) = finding.names();
        assert!(long.len() <= MAX_NAME);
        assert_eq!(long.len() - short.len(), HASH + 1);
        assert!(long.starts_with(&short));
    }

    #[test]
    fn headlines_that_differ_after_the_cut_have_unlike_hashes() {
        let common = "word ".repeat(200);
        let names = |end: &str| {
            let headline = format!("{common}{end}");
            let finding = Finding {
                phase: Phase::Boot,
                kind: Kind::Bug,
                headline: &headline,
                functions: "",
                text: "",
            };
            finding.names()
        };
        assert_eq!(names("one").0, names("two").0);
        assert_ne!(names("one").1, names("two").1);
    }

    #[test]
    fn a_headline_without_words_still_has_a_name() {
        assert_eq!(slug(""), "unnamed");
    }
}
