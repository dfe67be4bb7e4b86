//! Whole logs, written for these tests in the kernel's formats.

use proptest::prelude::*;

use super::*;
use crate::testjob::item::{MAX_TEXT, TestResult};

const CUT_HERE: &str = "[    5.000001] ------------[ cut here ]------------";
const END_TRACE: &str = "[    5.000009] ---[ end trace 0000000000000000 ]---";
const SEPARATOR: &str =
    "[    5.000001] ==================================================================";

fn scan(log: &str) -> Vec<Test> {
    let mut scanner = Scanner::new();
    scanner.feed(log.as_bytes());
    scanner.finish()
}

/// `suite/name` of the tests without a hash.
fn names(log: &str) -> Vec<String> {
    let hashed = |name: &str| name.rsplit('-').next().is_some_and(|end| end.len() == 64);
    let tests = scan(log).into_iter().filter(|test| !hashed(&test.name));
    tests
        .map(|test| format!("{}/{}", test.suite, test.name))
        .collect()
}

/// The log of the test with this name, without a hash.
fn log_of(log: &str, name: &str) -> String {
    scan(log)
        .into_iter()
        .find(|test| test.name == name)
        .and_then(|test| test.log)
        .expect("a log")
}

fn warning(func: &str) -> String {
    format!(
        "{CUT_HERE}
[    5.000002] refcount_t: underflow; use-after-free.
[    5.000003] WARNING: CPU: 1 PID: 77 at lib/refcount.c:28 {func}+0xba/0x110
[    5.000004] Modules linked in: snd_hda fuse
[    5.000005] RIP: 0010:{func}+0xba/0x110
[    5.000006] Call Trace:
[    5.000007]  ? __warn+0x7d/0x130
[    5.000008]  put_thing+0x15/0x30
{END_TRACE}
"
    )
}

#[test]
fn a_warning_is_one_exception_named_by_its_second_line() {
    let log = warning("refcount_warn");
    let found = scan(&log);
    let slug = "exception-refcount_t-underflow-use-after-free";
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].name, slug);
    assert!(found[1].name.starts_with(slug) && found[1].name.len() == slug.len() + 65);
    for test in found {
        assert_eq!(test.suite, "log-parser-boot");
        assert_eq!(test.result, TestResult::Fail);
        let expected = log.trim_end().replacen("[    5.000001] ", "", 1);
        assert_eq!(test.log.as_deref(), Some(expected.as_str()));
    }
}

#[test]
fn the_hash_is_of_the_text_and_not_of_the_run() {
    let once = scan(&warning("f"));
    let other_run = warning("f")
        .replace("5.0000", "9.1230")
        .replace("0xba", "0xbc")
        .replace("PID: 77", "PID: 9");
    assert_eq!(once[1].name, scan(&other_run)[1].name);
    let other_path = warning("f").replace("put_thing", "get_thing");
    assert_eq!(once[0].name, scan(&other_path)[0].name);
    assert_ne!(once[1].name, scan(&other_path)[1].name);
}

#[test]
fn a_sanitizer_report_goes_from_its_first_line_to_its_last() {
    for (kind, what) in [
        ("KASAN", "slab-out-of-bounds"),
        ("KCSAN", "data-race"),
        ("KFENCE", "use-after-free"),
    ] {
        let log = format!(
            "{SEPARATOR}
[    5.000002] BUG: {kind}: {what} in do_it+0x1b/0x40
[    5.000003] Write of size 1 at addr ffff888100a2b3c4 by task test/77
[    5.000004] WARNING: inside
{SEPARATOR}
[    5.000006] BUG: outside
"
        );
        let name = format!("{0}-bug-{0}-{what}-in-do_it", kind.to_lowercase());
        let mut expected = vec![
            "log-parser-boot/bug-bug-outside".to_owned(),
            format!("log-parser-boot/{name}"),
        ];
        expected.sort();
        assert_eq!(names(&log), expected);
        assert_eq!(log_of(&log, &name).lines().count(), 5);
        let cut_off = log.replacen(SEPARATOR, "", 1);
        assert_eq!(
            names(&cut_off).len(),
            3,
            "without its first line it is none"
        );
    }
}

#[test]
fn an_oops_of_arm64_is_a_block() {
    let log = format!(
        "[    5.000003] Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP
[    5.000004] pc : probe+0x10/0x80
{END_TRACE}
"
    );
    assert_eq!(
        names(&log),
        ["log-parser-boot/internal-error-oops-oops-preempt-smp"]
    );
    assert_eq!(
        names(&log.replace("end trace", "end")),
        ["log-parser-boot/oops-oops-preempt-smp"],
        "without an end, a line"
    );
}

#[test]
fn an_oops_of_x86_is_reported_line_by_line() {
    let log = "[    5.1] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    5.2] #PF: supervisor write access in kernel mode
[    5.3] Oops: 0002 [#1] PREEMPT SMP
[    5.4] invalid opcode: 0000 [#2] SMP
[    5.5] Unhandled fault: page domain fault (0x01b)
[    5.6] WARNING: suspicious RCU usage
";
    assert_eq!(
        names(log),
        [
            "log-parser-boot/bug-bug-kernel-null-pointer-dereference-address",
            "log-parser-boot/fault-unhandled-fault-page-domain-fault",
            "log-parser-boot/invalid-opcode-invalid-opcode-smp",
            "log-parser-boot/oops-oops-preempt-smp",
            "log-parser-boot/warning-warning-suspicious-rcu-usage",
        ]
    );
}

#[test]
fn a_panic_with_its_end_is_a_block_and_without_a_line() {
    let panic = "[    6.000001] Kernel panic - not syncing: Fatal\n[    6.000002] WARNING: x\n";
    let end = "[    6.000003] ---[ end Kernel panic - not syncing: Fatal ]---\n";
    assert_eq!(
        names(&format!("{panic}{end}")),
        ["log-parser-boot/panic-multiline-kernel-panic-not-syncing-fatal"]
    );
    assert_eq!(
        names(panic),
        [
            "log-parser-boot/panic-kernel-panic-not-syncing-fatal",
            "log-parser-boot/warning-warning-x"
        ]
    );
    let name = "panic-kernel-panic-not-syncing-fatal";
    assert_eq!(log_of(panic, name), "Kernel panic - not syncing: Fatal");
}

#[test]
fn what_follows_the_end_of_a_block_in_its_line_is_looked_at() {
    let log = warning("f").replace(
        END_TRACE,
        &format!("{END_TRACE} Kernel panic - not syncing: x"),
    );
    assert_eq!(names(&log).len(), 2, "{:?}", names(&log));
}

#[test]
fn a_block_goes_to_the_next_end_and_without_one_is_none() {
    let whole = warning("f");
    let head: String = whole
        .lines()
        .take(4)
        .map(|line| format!("{line}\n"))
        .collect();
    let slug = "exception-refcount_t-underflow-use-after-free";
    let log = format!("{head}{whole}");
    assert_eq!(names(&log), [format!("log-parser-boot/{slug}")]);
    assert_eq!(
        log_of(&log, slug).lines().count(),
        log.lines().count(),
        "from the first beginning"
    );
    assert_eq!(
        names(&format!("{whole}{head}")),
        [
            format!("log-parser-boot/{slug}"),
            "log-parser-boot/warning-warning-cpu-pid-at-librefcount".to_owned()
        ]
    );
}

#[test]
fn the_first_prompt_parts_boot_and_test() {
    let log = "[    1.0] WARNING: one
[    2.0] WARNING: two root@board:~#
root@board:/# [    3.0] WARNING: three
[    4.0] WARNING: one
";
    assert_eq!(
        names(log),
        [
            "log-parser-boot/warning-warning-one",
            "log-parser-boot/warning-warning-two",
            "log-parser-test/warning-warning-one",
            "log-parser-test/warning-warning-three",
        ]
    );
    for prompt in ["debian login: ", "console:/ $ "] {
        assert_eq!(
            names(&format!("{prompt}[    3.0] WARNING: x")),
            ["log-parser-test/warning-warning-x"]
        );
    }
}

#[test]
fn a_block_does_not_go_on_after_the_prompt() {
    let log = warning("f").replace("[    5.000006]", "board login:\n[    5.000006]");
    assert_eq!(
        names(&log),
        ["log-parser-boot/warning-warning-cpu-pid-at-librefcount"]
    );
}

#[test]
fn other_output_and_prefixes_change_nothing() {
    let plain = warning("f");
    let found = scan(&plain);
    for other in [
        plain.replace("[    5", "<4>[    5"),
        plain.replace("[    5", "Jan  1 00:00:05 board kernel: [    5"),
        plain.replace('\n', "\nsome test's output\n"),
    ] {
        assert_eq!(scan(&other), found, "{other}");
    }
}

#[test]
fn without_time_stamps_nothing_is_found() {
    let bare: String = warning("f")
        .lines()
        .filter_map(|line| line.get(15..))
        .map(|line| format!("{line}\n"))
        .collect();
    assert!(bare.contains("WARNING: "));
    assert_eq!(scan(&bare), []);
    assert_eq!(scan(""), []);
}

#[test]
fn a_text_is_shown_once_and_at_most_100_texts_are() {
    let again = scan(&"[    1.0] WARNING: again\n".repeat(250));
    for test in &again {
        assert_eq!(test.log.as_deref(), Some("[    1.0] WARNING: again"));
    }
    let log: String = (0..250)
        .map(|second| format!("[    {second}.0] WARNING: again\n"))
        .collect();
    let found = scan(&log);
    assert_eq!(found.len(), again.len());
    for (test, lines) in found.iter().zip([100, 199]) {
        assert_eq!(
            test.log.as_deref().map(|log| log.lines().count()),
            Some(lines)
        );
    }
    assert!(
        found[1]
            .log
            .as_deref()
            .is_some_and(|log| log.contains("\n---\n"))
    );
}

#[test]
fn a_log_has_a_million_characters_at_most() {
    let wide = format!("[    5.000002] {}\n", "wide ".repeat(1500)).repeat(200);
    for test in scan(&format!("{CUT_HERE}\n{wide}{END_TRACE}\n")) {
        assert_eq!(test.log.expect("a log").chars().count(), MAX_LOG);
    }
}

#[test]
fn what_is_longer_than_a_block_is_looked_at_line_by_line() {
    let line = format!("[    5.000002] filler{}\n", "r".repeat(900));
    let filler = line.repeat(MAX_BLOCK / line.len() + 2);
    let log = format!("{CUT_HERE}\n[    5.0] WARNING: inside\n{filler}{END_TRACE}\n");
    assert_eq!(names(&log), ["log-parser-boot/warning-warning-inside"]);
    let short = log.replace(&filler, &line.repeat(100));
    assert_eq!(names(&short), ["log-parser-boot/exception-warning-inside"]);
}

#[test]
fn ten_megabytes_of_beginnings_without_ends_leave_a_small_state() {
    let chunk = format!("{CUT_HERE}\n").repeat(1000);
    let mut scanner = Scanner::new();
    for _ in 0..10 * 1024 * 1024 / chunk.len() {
        scanner.feed(chunk.as_bytes());
        assert!(scanner.held() <= MAX_BLOCK + MAX_LINE);
    }
    assert_eq!(scanner.finish(), []);
}

#[test]
fn a_line_without_end_leaves_a_small_state() {
    let mut scanner = Scanner::new();
    scanner.feed(b"[    1.0] WARNING: endless ");
    for _ in 0..1000 {
        scanner.feed(&[b'x'; 10_000]);
        assert!(scanner.held() <= 4 * MAX_LINE);
    }
    assert_eq!(scanner.finish().len(), 2);
}

#[test]
fn unlike_findings_beyond_the_limit_are_counted() {
    let letters = |n: usize| -> String {
        n.to_string()
            .bytes()
            .map(|digit| char::from(digit - b'0' + b'a'))
            .chain(['z'])
            .collect()
    };
    let log: String = (0..MAX_FINDINGS + 7)
        .map(|n| format!("[    1.0] WARNING: {}\n", letters(n)))
        .collect();
    let found = scan(&log);
    assert_eq!(found.len(), 2 * MAX_FINDINGS + 1);
    let too_many = found
        .iter()
        .find(|test| test.name == TOO_MANY)
        .expect("the test");
    assert!(
        too_many
            .log
            .as_deref()
            .is_some_and(|log| log.starts_with("7 findings more"))
    );
    assert!(found.is_sorted_by_key(|test| (test.suite.clone(), test.name.clone())));
}

#[test]
fn the_logs_of_all_tests_together_have_a_limit_and_news_is_kept_longer() {
    let filler = format!("[    5.000002] {}\n", "wide ".repeat(1500)).repeat(120);
    let mut scanner = Scanner::new();
    for round in 0..26 {
        let name = char::from(b'a' + round);
        scanner.feed(
            format!("{CUT_HERE}\n[    5.0] WARNING: n{name}\n{filler}{END_TRACE}\n").as_bytes(),
        );
        assert!(scanner.report.kept() <= MAX_KEPT);
    }
    let before = scanner.report.kept();
    assert!(before > MAX_KEPT / 2);
    scanner.feed(b"[    6.0] BUG: short\n[    7.0] BUG: short\n");
    let found = scanner.finish();
    assert_eq!(found.len(), 2 * 27);
    let last = found
        .iter()
        .find(|test| test.name == "bug-bug-short")
        .expect("the test");
    let log = last.log.as_deref().expect("a log");
    assert_eq!(log, "[    6.0] BUG: short\n… 1 more like this, not kept");
}

/// Pieces of logs, so that random sequences of them hit the cases that matter.
fn line() -> impl Strategy<Value = String> {
    prop_oneof![
        Just(CUT_HERE.to_owned()),
        Just(END_TRACE.to_owned()),
        Just(SEPARATOR.to_owned()),
        Just("[    1.0] BUG: KASAN: bad in f+0x1/0x2\r".to_owned()),
        Just("[    1.0] Internal error: Oops: 12 [#1]".to_owned()),
        Just("[    1.0] Kernel panic - not syncing: x".to_owned()),
        Just("[    1.0] ---[ end Kernel panic - not syncing: x ]---".to_owned()),
        Just("[    0.0] Linux version 6.1".to_owned()),
        Just("board login: [    1.0] WARNING: ünï".to_owned()),
        "\\PC{0,60}",
        "\\[ {0,3}[0-9]{1,3}\\.[0-9]{1,6}\\](\\[ *T[0-9]\\])? (BUG: |WARNING: |Oops: |x: 0f \\[#1\\])?\\PC{0,40}",
        "(\x1b\\[[0-9;]{0,4}m|[\x00-\x1f]|a){0,20}",
    ]
}

proptest! {
    #[test]
    fn no_log_panics_and_no_name_is_too_long(lines in proptest::collection::vec(line(), 0..80)) {
        for test in scan(&lines.join("\n")) {
            prop_assert!(test.name.len() <= MAX_NAME);
            prop_assert!(test.log.is_some_and(|log| !log.is_empty() && log.len() <= MAX_TEXT));
        }
    }

    #[test]
    fn the_cut_of_the_log_into_pieces_changes_nothing(
        lines in proptest::collection::vec(line(), 0..40),
        sizes in proptest::collection::vec(1_usize..200, 1..20),
    ) {
        let log = lines.join("\n");
        let mut scanner = Scanner::new();
        let mut rest = log.as_bytes();
        for size in sizes.iter().cycle() {
            let (piece, after) = rest.split_at((*size).min(rest.len()));
            scanner.feed(piece);
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        let mut by_line = Scanner::new();
        for line in log.split('\n') {
            by_line.line(line);
        }
        let whole = scan(&log);
        prop_assert_eq!(&scanner.finish(), &whole);
        prop_assert_eq!(&by_line.finish(), &whole);
    }

    #[test]
    fn any_bytes_are_a_log(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        let mut scanner = Scanner::new();
        scanner.feed(&bytes);
        scanner.finish();
    }
}
