//! The names of findings: what stays the same when the same thing happens again, exactly as SQUAD 1.98 writes it,
//! because it compares builds by the names of tests.

use std::sync::LazyLock;

use regex::{Captures, Regex};
use sha2::{Digest, Sha256};
use unicode_normalization::UnicodeNormalization;

use super::line::STAMP;
use super::mark::Kind;
use super::{MAX_NAME, compiled};

/// A SHA-256 in hexadecimal digits, in characters.
const HASH: usize = 64;

static DURATION: LazyLock<Regex> = LazyLock::new(|| compiled(r"\b[0-9]+\.[0-9]+s\b"));
static TAINTED: LazyLock<Regex> = LazyLock::new(|| compiled(r"(?:Not t|T)ainted.*"));
/// Numbers, addresses, and words that look like one.
static HEX: LazyLock<Regex> = LazyLock::new(|| compiled(r"\b(?:0x)?[a-fA-F0-9]+\b"));
static NUMBER: LazyLock<Regex> =
    LazyLock::new(|| compiled(r"0x[a-f0-9]+|[<\[][0-9a-f]+?[>\]]|\b\d+\b"));
static BEFORE_BRACKET: LazyLock<Regex> = LazyLock::new(|| compiled(r"^\s*\("));
static TIME: LazyLock<Regex> = LazyLock::new(|| compiled(r"^<?>?\[[^\]]+\](?:\[[^\]]+\])?"));

/// Where in a finding's text its headline is: up to the first `+`, which begins an offset.
static HEADLINES: LazyLock<Vec<(Kind, Regex)>> = LazyLock::new(|| {
    let after = |kind, start: &str| (kind, compiled(&format!(r"{start}[^+\n]*")));
    vec![
        after(Kind::Exception, &format!(r"\n{STAMP}")),
        after(Kind::Kasan, "BUG: KASAN:"),
        after(Kind::Kcsan, "BUG: KCSAN:"),
        after(Kind::Kfence, "BUG: KFENCE:"),
        after(Kind::PanicMultiline, "Kernel "),
        after(Kind::InternalErrorOops, "Oops"),
        after(Kind::Oops, "Oops"),
        after(Kind::Fault, "Unhandled "),
        after(Kind::Warning, "WARNING:"),
        after(Kind::Bug, "BUG"),
        after(Kind::InvalidOpcode, "invalid opcode:"),
        after(Kind::Panic, "Kernel "),
    ]
});

/// The two names of a finding's tests: `<kind>-<slug>`, and the same with `-<sha256>`.
pub(super) fn names(kind: Kind, text: &str) -> (String, String) {
    let slug = headline(kind, text).map(|headline| slug(&stable(headline)));
    let short = match slug.filter(|slug| !slug.is_empty()) {
        Some(slug) => {
            let mut name = format!("{kind}-{slug}");
            name.truncate(MAX_NAME - HASH - 1); // ASCII
            name
        }
        None => kind.to_string(),
    };
    let mut long = format!("{short}-");
    for byte in Sha256::digest(stable(text).as_bytes()) {
        let digits = [byte >> 4, byte & 0xf];
        long.extend(
            digits
                .iter()
                .filter_map(|digit| char::from_digit((*digit).into(), 16)),
        );
    }
    (short, long)
}

fn headline(kind: Kind, text: &str) -> Option<&str> {
    let (_, pattern) = HEADLINES.iter().find(|(of, _)| *of == kind)?;
    Some(pattern.find(text)?.as_str())
}

/// `text` without numbers, addresses, taints and the first time stamp.
fn stable(text: &str) -> String {
    let text = DURATION.replace_all(text, "");
    let text = TAINTED.replace_all(&text, "");
    let text = HEX.replace_all(&text, "");
    let text = NUMBER.replace_all(&text, |found: &Captures<'_>| {
        let Some(number) = found.get(0) else {
            return String::new();
        };
        let rest = text.get(number.end()..).unwrap_or_default();
        let is_kept =
            number.as_str().starts_with(char::is_numeric) && !number.as_str().starts_with("0x");
        if is_kept && BEFORE_BRACKET.is_match(rest) {
            number.as_str().to_owned()
        } else {
            String::new()
        }
    });
    TIME.replace(&text, "").into_owned()
}

/// `text` in lower case, of letters, digits and `_`, its words joined by `-`; possibly nothing.
fn slug(text: &str) -> String {
    let mut slug = String::new();
    for letter in text.nfkd() {
        match letter {
            '-' | ' ' | '\t'..='\r' | '\x1c'..='\x1f' if !slug.ends_with('-') => slug.push('-'),
            'A'..='Z' | 'a'..='z' | '0'..='9' | '_' => slug.push(letter.to_ascii_lowercase()),
            _ => {}
        }
    }
    slug.trim_matches(['-', '_']).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn headlines_lose_what_changes_from_run_to_run() {
        for (kind, text, name) in [
            (
                Kind::Warning,
                "[  1.5] WARNING: CPU: 3 PID: 812 at kernel/smp.c:912 smp_call_function+0x10/0x2b0",
                "warning-warning-cpu-pid-at-kernelsmp-smp_call_function",
            ),
            (
                Kind::Exception,
                "---[ cut here ]---\n[  1.5][ T12] WARNING: made/up.h:7 at f+0x1/0x2",
                "exception-t12-warning-madeuph-at",
            ),
            (
                Kind::Exception,
                "---[ cut here ]------[ end trace ]---",
                "exception",
            ),
            (
                Kind::Oops,
                "[  1.5] Internal error: Oops - BUG: 00000000f2000800 [#1] SMP",
                "oops-oops-bug-smp",
            ),
            (
                Kind::Bug,
                "[  1.5] watchdog: BUG: soft lockup - CPU#1 stuck for 22s! [kworker/1:2:77]",
                "bug-bug-soft-lockup-cpu-stuck-for-22s-kworker",
            ),
            (
                Kind::Bug,
                "[  1.5] BUG: ünter 1.25s Tainted: G W Ⅷ",
                "bug-bug-unter",
            ),
            (
                Kind::Panic,
                "Kernel panic - not syncing: +",
                "panic-kernel-panic-not-syncing",
            ),
        ] {
            assert_eq!(names(kind, text).0, name, "{text}");
        }
    }

    #[test]
    fn a_name_has_at_most_256_characters_and_its_hash_whole() {
        let text = format!("[ 1.0] BUG: {}", "word ".repeat(200));
        let (short, long) = names(Kind::Bug, &text);
        assert_eq!((short.len(), long.len()), (MAX_NAME - HASH - 1, MAX_NAME));
        assert!(long.starts_with(&short));
        assert_ne!(long, names(Kind::Bug, &format!("{text} more")).1);
    }

    #[test]
    fn the_hash_is_of_what_does_not_change() {
        // SHA-256 of " BUG: soft lockup"
        let text = "[   12.345678] BUG: soft lockup";
        let hash = Sha256::digest(b" BUG: soft lockup");
        let hash: String = hash.iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(
            names(Kind::Bug, text).1,
            format!("bug-bug-soft-lockup-{hash}")
        );
        assert_eq!(
            stable("<4>[ 1.0][T2] x ٣٣ (1.5s) ٣ (a0x1fg [beef]"),
            " x ٣٣ () ٣ (ag []"
        );
    }

    #[test]
    fn every_kind_has_a_headline() {
        assert_eq!(HEADLINES.len(), 12);
    }
}
