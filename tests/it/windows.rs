//! The 22 windows in which SQUAD loses or half-writes a result when a worker dies or an error strikes, and what covers
//! each of them here: a table that is checked against the tests' own source.

use std::collections::BTreeSet;
use std::path::Path;

/// A window, and the tests that cover it or the reason why it is none here.
struct Window {
    /// Its number in SQUAD's list.
    number: u32,
    /// What happens there.
    what: &'static str,
    here: Here,
}

enum Here {
    /// These tests cover it: a file below `tests/it` or `worker`, and a function or a crash point in it.
    Tests(&'static [(&'static str, &'static str)]),
    /// It cannot exist, because of this; and these tests hold it so.
    Not(&'static str, &'static [(&'static str, &'static str)]),
}

use Here::{Not, Tests};

const CRASH: &str = "tests/it/crash.rs";
const HOSTILE: &str = "tests/it/hostile.rs";
const FILES: &str = "tests/it/hostile/files.rs";
const PUBLISH: &str = "tests/it/store/testjobs/publish.rs";
const AGAIN: &str = "tests/it/store/testjobs/again.rs";
const SETTLE: &str = "tests/it/store/settle.rs";

const WINDOWS: &[Window] = &[
    Window {
        number: 1,
        what: "the worker dies while it reads from the backend: the message is gone",
        here: Tests(&[
            (CRASH, "delivered"),
            (CRASH, "before_the_claim"),
            (CRASH, "after_the_claim"),
            (CRASH, "before_a_chunk"),
            ("tests/it/drain.rs", "sigquit_leaves_everything_to_rescue"),
        ]),
    },
    Window {
        number: 2,
        what: "the job is marked as fetched, and its run is not there yet",
        here: Tests(&[
            (CRASH, "before_publishing"),
            (CRASH, "before_the_first_checkpoint"),
            (CRASH, "after_the_first_checkpoint"),
        ]),
    },
    Window {
        number: 3,
        what: "the run is there without its tests",
        here: Tests(&[
            (CRASH, "before_a_chunk"),
            (CRASH, "after_a_chunk"),
            (
                PUBLISH,
                "staged_rows_are_invisible_until_they_are_published",
            ),
        ]),
    },
    Window {
        number: 4,
        what: "the run is whole and belongs to no job yet",
        here: Tests(&[(CRASH, "ready_to_publish"), (CRASH, "before_publishing")]),
    },
    Window {
        number: 5,
        what: "the follow-up tasks are not sent, or the broker is away",
        here: Tests(&[
            (CRASH, "after_publishing"),
            (CRASH, "before_the_outbox"),
            (CRASH, "after_the_outbox"),
            (CRASH, "before_the_outbox_is_marked"),
            (SETTLE, "what_follows_is_committed_with_the_outcome"),
            (
                "tests/it/broker/rabbitmq.rs",
                "publishing_goes_on_after_its_connection_was_closed",
            ),
        ]),
    },
    Window {
        number: 6,
        what: "the worker dies in a plugin, or before the plugins are counted",
        here: Tests(&[
            (CRASH, "claimed"),
            (CRASH, "published"),
            (PUBLISH, "the_last_plugin_completes_the_test_job"),
        ]),
    },
    Window {
        number: 7,
        what: "the plugin's process is killed in its parser; what it left keeps the build open for ever",
        here: Tests(&[
            (CRASH, "after_a_chunk"),
            (
                "tests/it/zombie.rs",
                "a_task_that_ends_its_workers_is_a_dead_letter_that_says_so",
            ),
            (
                "tests/it/store/testjobs/begin.rs",
                "what_was_given_up_long_ago_is_swept_and_begins_anew",
            ),
        ]),
    },
    Window {
        number: 8,
        what: "a plugin's parts are counted, and not all of their messages are sent",
        here: Not(
            "a plugin is one task with checkpoints, not many messages; what follows is one row each in the outbox",
            &[
                (SETTLE, "what_follows_is_committed_with_the_outcome"),
                (CRASH, "after_a_chunk"),
            ],
        ),
    },
    Window {
        number: 9,
        what: "the job is complete before its attachments are there",
        here: Tests(&[
            (CRASH, "before_publishing"),
            (CRASH, "before_the_second_is_published"),
            (CRASH, "after_the_second_is_published"),
        ]),
    },
    Window {
        number: 10,
        what: "the worker dies between two parts of a plugin's rows: half of the tests are visible",
        here: Tests(&[
            (CRASH, "before_a_chunk"),
            (CRASH, "after_a_chunk"),
            (
                PUBLISH,
                "staged_rows_are_invisible_until_they_are_published",
            ),
        ]),
    },
    Window {
        number: 11,
        what: "an error in a part of a plugin is swallowed: its rows are missing",
        here: Tests(&[
            (FILES, "an_attachment_cut_on_its_way_is_fetched_again"),
            (
                FILES,
                "an_attachment_that_is_a_bomb_fails_its_plugin_and_leaves_the_rest",
            ),
            (
                PUBLISH,
                "a_plugins_dead_letter_fails_the_test_job_and_keeps_what_is_published",
            ),
        ]),
    },
    Window {
        number: 12,
        what: "the parts' counter is deleted and the last step is never called",
        here: Not(
            "there is no counter: complete is derived from the plugins' rows by the command that publishes one",
            &[
                (PUBLISH, "the_last_plugin_completes_the_test_job"),
                (CRASH, "after_the_second_is_published"),
            ],
        ),
    },
    Window {
        number: 13,
        what: "the summary is deleted and not yet made anew",
        here: Not(
            "a run's counts are columns of the run, written by the command that publishes it",
            &[
                (PUBLISH, "a_run_is_published_once"),
                (AGAIN, "a_reader_sees_either_generation_whole"),
            ],
        ),
    },
    Window {
        number: 14,
        what: "the row is locked by somebody else, and one plugin's end is not counted",
        here: Tests(&[
            (
                PUBLISH,
                "two_plugins_that_complete_at_once_complete_the_test_job",
            ),
            (
                "tests/it/drain.rs",
                "a_locked_database_does_not_keep_a_worker_beyond_its_grace",
            ),
        ]),
    },
    Window {
        number: 15,
        what: "the last plugin is counted and the job is not yet complete",
        here: Tests(&[
            (CRASH, "before_the_second_is_published"),
            (CRASH, "after_the_second_is_published"),
            (CRASH, "published"),
        ]),
    },
    Window {
        number: 16,
        what: "the job is complete and nobody is told",
        here: Not(
            "nobody is told yet; whoever will be, is by a row of the outbox that the completing command writes",
            &[
                (SETTLE, "what_follows_is_committed_with_the_outcome"),
                (CRASH, "before_the_outbox"),
            ],
        ),
    },
    Window {
        number: 17,
        what: "after the job is marked as fetched, a value that the store does not take: it stays so for ever",
        here: Tests(&[
            (FILES, "xml_that_is_cut_off_fails_its_test_job"),
            (
                HOSTILE,
                "a_metric_that_is_no_number_and_a_nul_cost_themselves_only",
            ),
            (
                HOSTILE,
                "a_remote_id_that_does_not_exist_fails_its_test_job",
            ),
        ]),
    },
    Window {
        number: 18,
        what: "before that, an error that is not counted as an attempt: it is tried for ever",
        here: Tests(&[
            (
                "tests/it/overrun.rs",
                "failures_are_tried_again_with_growing_pauses_until_the_attempts_are_used_up",
            ),
            (
                HOSTILE,
                "a_message_that_cannot_be_read_is_kept_with_its_reason",
            ),
        ]),
    },
    Window {
        number: 19,
        what: "a callback's content is deleted before the fetch that needed it fails",
        here: Not(
            "there are no callbacks; a task keeps its arguments until it is over, however often it is tried",
            &[
                (
                    "tests/it/store/claims.rs",
                    "a_claim_begins_with_the_last_checkpoint",
                ),
                (
                    HOSTILE,
                    "a_server_that_stands_still_is_left_and_tried_again_while_other_work_goes_on",
                ),
            ],
        ),
    },
    Window {
        number: 20,
        what: "the old results are deleted before a second fetch fails",
        here: Tests(&[
            (AGAIN, "the_old_results_stay_until_the_new_are_complete"),
            (AGAIN, "replaced_results_are_swept"),
        ]),
    },
    Window {
        number: 21,
        what: "readers see a part while the rows are written",
        here: Tests(&[
            ("tests/it/scene.rs", "watch"),
            (AGAIN, "a_reader_sees_either_generation_whole"),
            (CRASH, "survives"),
        ]),
    },
    Window {
        number: 22,
        what: "a worker writes the whole row after minutes, over what others wrote meanwhile",
        here: Tests(&[
            (
                "tests/it/zombie.rs",
                "nothing_of_a_worker_that_slept_past_its_lease_is_accepted",
            ),
            (PUBLISH, "a_stale_epoch_can_neither_stage_nor_publish"),
            (SETTLE, "a_stale_epoch_cannot_settle"),
            (
                "tests/it/overrun.rs",
                "a_running_fetch_is_canceled_and_publishes_nothing",
            ),
        ]),
    },
];

#[test]
fn every_window_is_covered_by_tests_that_are_there() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let numbers = WINDOWS
        .iter()
        .map(|window| window.number)
        .collect::<Vec<_>>();
    assert_eq!(numbers, (1..=22).collect::<Vec<_>>());
    let mut missing = Vec::new();
    for Window { number, what, here } in WINDOWS {
        let tests = match here {
            Tests(tests) => tests,
            Not(why, tests) => {
                assert!(!why.is_empty());
                tests
            }
        };
        assert!(!tests.is_empty(), "nothing covers window {number}: {what}");
        let distinct = tests.iter().collect::<BTreeSet<_>>();
        assert_eq!(
            distinct.len(),
            tests.len(),
            "window {number} names a test twice"
        );
        for (file, name) in *tests {
            let text = std::fs::read_to_string(root.join(file))
                .unwrap_or_else(|error| panic!("window {number}: {file}: {error}"));
            let function = format!("fn {name}(");
            // A crash point is a name in the table of crash.rs; both of its tests are made from that.
            let point = format!("        {name} = \"");
            // A function of a test is a test only if it is registered too, as a line of `on_both!` or by itself.
            let registered = text.matches(&format!("{name},")).count() > 0
                || text.contains(&format!("#[test]\nfn {name}("))
                || text.contains(&format!("\nasync fn {name}"));
            if !(text.contains(&function) && registered || text.contains(&point)) {
                missing.push(format!(
                    "window {number} ({what}): {file} has no test {name}"
                ));
            }
        }
    }
    assert!(missing.is_empty(), "{}", missing.join("\n"));
}
