//! Every command that keeps workers and queues going, × an end before and after its commit: what it leaves is a state
//! that somebody else goes on from, and what is published then is what an undisturbed run publishes. (Those of a task's
//! own way are in `crash`.) The last of these modules asserts that no command is left out.

use std::sync::Arc;
use std::time::Duration;

use longshore::lab::{Effect, Fault};
use longshore::store::State;

use crate::harness::{Child, LIMIT, wait_until};
use crate::scene::{Scene, on_both_with};

/// Makes of each point two tests of a scenario, `name::sqlite` and `name::postgres`, and a list of all.
macro_rules! points {
    ($list:ident: $scenario:ident; $($name:ident = $point:literal,)+) => {
        pub(super) const $list: &[&str] = &[$($point),+];
        $(mod $name {
            use crate::harness::BackEnd;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                crate::scene::scene(BackEnd::Sqlite, "", |scene| super::$scenario(scene, $point)).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                crate::scene::scene(BackEnd::Postgres, "", |scene| super::$scenario(scene, $point)).await;
            }
        })+
    };
}

/// The same for commands of the embedded broker, whose work RabbitMQ does by itself.
macro_rules! embedded_points {
    ($list:ident: $scenario:ident; $($name:ident = $point:literal,)+) => {
        pub(super) const $list: &[&str] = &[$($point),+];
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            use crate::harness::BackEnd;
            crate::scene::scene(BackEnd::Sqlite, "", |scene| $scenario(scene, $point)).await;
        })+
    };
}

mod announcements;
mod gates;
mod given_back;
mod lanes;
mod none_left_out;
mod sweeps;

/// The test jobs; LAVA's ids are numbers. Each has nine tests and a metric.
const HELD: &str = "1";
const RETRIED: &str = "2";
const SILENT: &str = "3";
/// One that nothing happens to, to compare with.
const UNDISTURBED: &str = "9";

/// Waits until a worker has ended at `point`, and nowhere else.
async fn ended_at(mut doomed: Child, point: &str) {
    let status = doomed.ended(2 * LIMIT).await;
    let said = format!("aborted at a crash point point=\"{point}\"");
    assert!(
        !status.success() && doomed.log().contains(&said),
        "it ended elsewhere than at {point}:\n{}",
        doomed.log()
    );
}

/// A fetch whose announcement was never published: a leader has to.
async fn fetch_silently(scene: &Scene, id: &str) {
    let target = "group/project/build/environment";
    let task = longshore::testjob::fetch_task("ci_fetch", "lab", id, target, false);
    scene.bench.store.enqueue(&[task]).await.unwrap();
}

/// Waits until somebody reads a log, which [`slow_logs`] makes last.
async fn a_log_is_read(scene: &Scene) {
    wait_until("the log is being read", 2 * LIMIT, async || {
        scene.lab.count("/logs") > 0
    })
    .await;
}

/// Logs that last long enough to be caught in the middle.
fn slow_logs() -> Fault {
    Fault::new("/logs", Effect::Drip(Duration::from_millis(100)))
}

/// Spares a test the 5 s until another may lead in the place of one that has ended.
async fn end_the_lead(scene: &Scene) {
    let over = "update leaders set lease_until = 0";
    scene.bench.execute(over).await;
}

/// Lets other workers finish `ids`, and compares what readers get with a test job that nothing happened to.
async fn others_finish(scene: &Scene, ids: &[&str], point: &str) -> (Child, Child) {
    if !point.starts_with("lead") {
        end_the_lead(scene).await;
    }
    let heirs = (scene.worker("fetch"), scene.worker("postprocess"));
    for id in ids {
        scene.reaches("lab", id, "complete").await;
    }
    scene.small_job(UNDISTURBED);
    scene.fetch("lab", UNDISTURBED).await;
    let job = scene.reaches("lab", UNDISTURBED, "complete").await;
    assert_eq!((job.tests, job.metrics), (9, 1));
    scene.settles().await;
    let whole = scene.seen("lab", UNDISTURBED).await;
    for id in ids {
        let seen = scene.seen("lab", id).await;
        assert!(seen == whole, "test job {id} after the end at {point}");
    }
    heirs
}

/// A deployment in which each of these commands has something to do: a task that a dead worker held, one that waits
/// for another attempt, one of a name nobody knows, and one whose announcement was never published.
async fn trouble(scene: &Scene) {
    for id in [HELD, RETRIED, SILENT] {
        scene.small_job(id);
    }
    scene.lab.fail(slow_logs().times(1));
    let killed = scene.worker("fetch");
    scene.fetch("lab", HELD).await;
    a_log_is_read(scene).await;
    killed.signal("KILL");
    drop(killed);
    // Each request of this one fails for a while, and each failure makes the task wait.
    scene
        .lab
        .fail(Fault::new(format!("/jobs/{RETRIED}/"), Effect::Status(503)).times(4));
    scene.fetch("lab", RETRIED).await;
    scene
        .verb(&[
            "enqueue",
            "task",
            "nobody.knows",
            "--id",
            "unknown",
            "--queue",
            "ci_fetch",
        ])
        .await;
    fetch_silently(scene, SILENT).await;
}

async fn survives(scene: Arc<Scene>, point: &'static str) {
    trouble(&scene).await;
    ended_at(scene.doomed("fetch", point), point).await;
    let _heirs = others_finish(&scene, &[HELD, RETRIED, SILENT], point).await;
    assert_eq!(scene.bench.view("unknown").await.state, State::Parked);
}

points! { TROUBLE: survives;
    before_joining = "join:before",
    after_joining = "join:after",
    before_renewing = "renew:before",
    after_renewing = "renew:after",
    before_leading = "lead:before",
    after_leading = "lead:after",
    before_setting_aside = "set_aside:before",
    after_setting_aside = "set_aside:after",
    after_the_row_of_what_was_set_aside = "intake:set-aside",
    before_a_task_is_taken_over = "take_over:before",
    after_a_task_is_taken_over = "take_over:after",
    before_the_dead_are_marked = "mark_lost:before",
    after_the_dead_are_marked = "mark_lost:after",
    before_waiting_tasks_are_due = "due:before",
    after_waiting_tasks_are_due = "due:after",
    before_the_outbox_is_taken = "outbox_take:before",
    after_the_outbox_is_taken = "outbox_take:after",
}

embedded_points! { EMBEDDED: survives;
    before_messages_are_put = "put_messages:before",
    after_messages_are_put = "put_messages:after",
    before_messages_are_taken = "take_messages:before",
    after_messages_are_taken = "take_messages:after",
    before_messages_are_dropped = "drop_messages:before",
    after_messages_are_dropped = "drop_messages:after",
    before_dead_consumers_are_released = "release_consumers:before",
    after_dead_consumers_are_released = "release_consumers:after",
}

const ENQUEUE: [&str; 2] = ["enqueue:before", "enqueue:after"];
const BY_HAND: [&str; 4] = [
    "cancel:before",
    "cancel:after",
    "revive:before",
    "revive:after",
];
on_both_with!(""; a_verb_that_ended_in_its_command_is_said_again);

/// A verb of the command line that ends in its command: said again, it does what it should, once.
async fn a_verb_that_ended_in_its_command_is_said_again(scene: Arc<Scene>) {
    scene.small_job("1");
    let config = scene.config.to_str().unwrap().to_owned();
    let verb = [
        "enqueue",
        "fetch",
        "--backend",
        "lab",
        "--id",
        "1",
        "--target",
        "g/p/b/e",
        "--config",
        config.as_str(),
    ];
    let start = |verb: &[&str], point| {
        Child::start(&scene.bench.folder, verb, &[("LONGSHORE_CRASH_AT", point)])
    };
    for point in ENQUEUE {
        ended_at(start(&verb, point), point).await;
        scene.verb(&verb[..8]).await;
    }
    let _workers = (scene.worker("fetch"), scene.worker("postprocess"));
    let job = scene.reaches("lab", "1", "complete").await;
    assert_eq!(job.tests, 9);
    for point in BY_HAND {
        let word = if point.starts_with("cancel") {
            "cancel"
        } else {
            "retry"
        };
        scene
            .verb(&[
                "enqueue",
                "task",
                "nobody.knows",
                "--id",
                point,
                "--countdown",
                "1h",
            ])
            .await;
        if word == "retry" {
            scene.verb(&["task", "cancel", point]).await;
        }
        let verb = ["task", word, point, "--config", config.as_str()];
        ended_at(start(&verb, point), point).await;
        scene.verb(&verb[..3]).await;
        let state = if word == "retry" {
            State::Parked
        } else {
            State::Canceled
        };
        scene.task_reaches(point, state).await;
    }
}
