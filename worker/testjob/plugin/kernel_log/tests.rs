//! Whole logs, written for these tests in the kernel's formats.

use proptest::prelude::*;

use super::*;
use crate::testjob::item::TestResult;

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
fn a_warning_is_one_exception_named_by_its_headline() {
    let log = warning("refcount_warn");
    let found = scan(&log);
    let slug = "exception-warning-cpu-pid-at-lib-refcount-c-refcount_warn";
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].name, slug);
    assert!(found[1].name.starts_with(slug) && found[1].name.len() == slug.len() + 65);
    for test in found {
        assert_eq!(test.suite, "log-parser-boot");
        assert_eq!(test.result, TestResult::Fail);
        assert_eq!(test.log.as_deref(), Some(log.trim_end()));
    }
}

#[test]
fn the_hash_is_of_the_code_path_and_not_of_the_run() {
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
fn a_sanitizer_report_goes_to_its_closing_line() {
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
        assert_eq!(log_of(&log, &name).lines().count(), 4);
    }
}

#[test]
fn an_oops_of_arm64_is_a_fault_and_a_block() {
    let log = format!(
        "[    5.000001] Unable to handle kernel NULL pointer dereference at virtual address 0000000000000008
[    5.000002] Mem abort info:
[    5.000003] Internal error: Oops: 0000000096000004 [#1] PREEMPT SMP
[    5.000004] pc : probe+0x10/0x80
{END_TRACE}
"
    );
    assert_eq!(
        names(&log),
        [
            "log-parser-boot/fault-unable-to-handle-kernel-null-pointer-dereference-at-virtual-address",
            "log-parser-boot/internal-error-oops-oops-preempt-smp",
        ]
    );
}

#[test]
fn an_oops_of_x86_is_reported_line_by_line() {
    let log = "[    5.1] BUG: kernel NULL pointer dereference, address: 0000000000000008
[    5.2] #PF: supervisor write access in kernel mode
[    5.3] Oops: 0002 [#1] PREEMPT SMP
[    5.4] invalid opcode: 0000 [#2] SMP
[    5.5] general protection fault: 0000 [#3] SMP
[    5.6] WARNING: suspicious RCU usage
";
    assert_eq!(
        names(log),
        [
            "log-parser-boot/bug-bug-kernel-null-pointer-dereference-address",
            "log-parser-boot/fault-general-protection-fault-smp",
            "log-parser-boot/invalid-opcode-invalid-opcode-smp",
            "log-parser-boot/oops-oops-preempt-smp",
            "log-parser-boot/warning-warning-suspicious-rcu-usage",
        ]
    );
}

#[test]
fn an_exception_owns_the_oops_that_it_makes() {
    let log = format!(
        "{CUT_HERE}
[    5.000002] kernel BUG at mm/slub.c:305!
[    5.000003] Internal error: Oops - BUG: 00000000f2000800 [#1] PREEMPT SMP
{END_TRACE}
"
    );
    assert_eq!(
        names(&log),
        ["log-parser-boot/exception-kernel-bug-at-mm-slub-c"]
    );
}

#[test]
fn a_panic_ends_with_its_end_line_or_the_reboot() {
    let panic = "[    6.000001] Kernel panic - not syncing: Fatal exception\n[    6.000002] Kernel Offset: disabled\n";
    for end in [
        "[    6.000003] ---[ end Kernel panic - not syncing: Fatal exception ]---\n",
        "[    6.000003] Rebooting in 10 seconds..\n",
        "[    0.000000] Linux version 6.12.0 (b@h)\n",
    ] {
        let log = format!("{panic}{end}[    7.0] WARNING: after\n");
        assert_eq!(
            names(&log),
            [
                "log-parser-boot/panic-multiline-kernel-panic-not-syncing-fatal-exception",
                "log-parser-boot/warning-warning-after",
            ]
        );
    }
}

#[test]
fn a_panic_of_one_line_is_called_so() {
    let log = "[    6.000001] Kernel panic - not syncing: Fatal exception\n";
    assert_eq!(
        names(log),
        ["log-parser-boot/panic-kernel-panic-not-syncing-fatal-exception"]
    );
}

#[test]
fn a_panic_ends_the_exception_that_it_follows() {
    let cut_off = warning("f").replace(
        END_TRACE,
        "[    5.1] Kernel panic - not syncing: panic_on_warn set",
    );
    assert_eq!(
        names(&cut_off),
        [
            "log-parser-boot/exception-warning-cpu-pid-at-lib-refcount-c-f",
            "log-parser-boot/panic-kernel-panic-not-syncing-panic_on_warn-set",
        ]
    );
}

#[test]
fn a_block_ends_where_the_next_begins_or_the_log_ends() {
    let whole = warning("f");
    let head: String = whole
        .lines()
        .take(4)
        .map(|line| format!("{line}\n"))
        .collect();
    let log = format!("{head}{}{head}", head.replace(" f+", " g+"));
    let slug = "exception-warning-cpu-pid-at-lib-refcount-c";
    assert_eq!(
        names(&log),
        [
            format!("log-parser-boot/{slug}-f"),
            format!("log-parser-boot/{slug}-g")
        ]
    );
    assert_eq!(
        log_of(&log, &format!("{slug}-f")),
        format!("{head}{head}").trim_end()
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
fn a_block_belongs_to_the_part_in_which_it_began() {
    let log = warning("f").replace("[    5.000006]", "board login:\n[    5.000006]");
    assert_eq!(
        names(&log),
        ["log-parser-boot/exception-warning-cpu-pid-at-lib-refcount-c-f"]
    );
    assert_eq!(
        log_of(&log, "exception-warning-cpu-pid-at-lib-refcount-c-f"),
        warning("f").trim_end()
    );
}

#[test]
fn line_ends_and_prefixes_change_nothing() {
    let plain = warning("f");
    let plain_names: Vec<_> = scan(&plain).into_iter().map(|test| test.name).collect();
    for other in [
        plain.replace('\n', "\r\n"),
        plain.replace("[    5", "<4>[    5"),
        plain.replace("[    5", "Jan  1 00:00:05 board kernel: [    5"),
        plain.replace("] ", "][  T123] "),
        plain.replace('\n', "\nsome test's output\n"),
    ] {
        let others: Vec<_> = scan(&other).into_iter().map(|test| test.name).collect();
        assert_eq!(others, plain_names, "{other}");
    }
    assert_eq!(
        log_of(&plain.replace('\n', "\r\n"), &plain_names[0]),
        plain.trim_end()
    );
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
fn repeats_are_shown_up_to_the_limit_and_counted_beyond() {
    let log = "[    1.0] WARNING: again\n".repeat(250);
    let found = scan(&log);
    assert_eq!(found.len(), 2);
    for test in found {
        let kept = test.log.expect("a log");
        assert_eq!(kept.lines().count(), 101);
        assert!(kept.ends_with("\n… 150 more like this, not kept"));
    }
}

#[test]
fn a_block_is_no_longer_than_its_limit() {
    let noise = "[    5.000002] filler\n".repeat(MAX_BLOCK_LINES + 5);
    let log = format!("{CUT_HERE}\n{noise}[    6.0] WARNING: after\n");
    assert_eq!(
        names(&log),
        [
            "log-parser-boot/exception-filler",
            "log-parser-boot/warning-warning-after"
        ]
    );
    assert_eq!(
        log_of(&log, "exception-filler").lines().count(),
        MAX_BLOCK_LINES
    );

    let wide = format!("[    5.000002] {}\n", "wide ".repeat(1500)).repeat(200);
    let found = scan(&format!("{CUT_HERE}\n{wide}"));
    for test in found {
        let size = test.log.expect("a log").len();
        assert!(size <= MAX_TEXT && size > MAX_TEXT - 2 * MAX_LINE, "{size}");
    }
}

#[test]
fn ten_megabytes_of_beginnings_without_ends_leave_a_small_state() {
    let chunk = format!("{CUT_HERE}\n").repeat(1000);
    let mut scanner = Scanner::new();
    for _ in 0..10 * 1024 * 1024 / chunk.len() {
        scanner.feed(chunk.as_bytes());
        assert!(scanner.held() < 64 * 1024);
    }
    let found = scanner.finish();
    assert_eq!(found.len(), 2);
    assert_eq!(found[0].name, "exception-cut-here");
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
            format!("{CUT_HERE}\n[    5.0] WARNING: {name}\n{filler}{END_TRACE}\n").as_bytes(),
        );
        assert!(scanner.report.kept() <= MAX_KEPT);
    }
    let before = scanner.report.kept();
    assert!(before > MAX_KEPT / 2);
    scanner.feed(b"[    6.0] Kernel panic: short\n[    6.0] Kernel panic: short\n");
    let found = scanner.finish();
    assert_eq!(found.len(), 2 * 27);
    let last = found
        .iter()
        .find(|test| test.name == "panic-kernel-panic-short")
        .expect("the test");
    let log = last.log.as_deref().expect("a log");
    assert_eq!(
        log,
        "[    6.0] Kernel panic: short\n… 1 more like this, not kept"
    );
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
