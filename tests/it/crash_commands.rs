//! Every command that keeps workers and queues going, × an end before and after its commit: what it leaves is a state
//! that somebody else goes on from. (Those of a task's own way are in `crash`.)

use std::sync::Arc;

use longshore::lab::{Effect, Fault};

use crate::harness::{BackEnd, Child, LIMIT, wait_until};
use crate::scene::{Scene, scene};

/// The test jobs; LAVA's ids are numbers. Each has nine tests and a metric.
const HELD: &str = "1";
const RETRIED: &str = "2";
const SILENT: &str = "3";

/// A deployment in which each of these commands has something to do: a task that a dead worker held, one that waits
/// for another attempt, one of a name nobody knows, and one whose announcement was never published.
async fn trouble(scene: &Arc<Scene>) {
    for id in [HELD, RETRIED, SILENT] {
        scene.small_job(id);
    }
    scene
        .lab
        .fail(Fault::new("/logs", Effect::Drip(std::time::Duration::from_millis(100))).times(1));
    let killed = scene.worker("fetch");
    scene.fetch("lab", HELD).await;
    wait_until("the log is being read", 2 * LIMIT, async || {
        scene.lab.count("/logs") > 0
    })
    .await;
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
    let silent = longshore::testjob::fetch_task(
        "ci_fetch",
        "lab",
        SILENT,
        "group/project/build/environment",
        false,
    );
    scene.bench.store.enqueue(&[silent]).await.unwrap();
}

async fn survives(back_end: BackEnd, point: &'static str) {
    scene(back_end, "", async |scene| {
        trouble(&scene).await;
        let mut doomed = scene.doomed("fetch", point);
        let status = doomed.ended(2 * LIMIT).await;
        assert!(
            !status.success(),
            "{point} was never reached:\n{}",
            doomed.log()
        );
        let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
        for id in [HELD, RETRIED, SILENT] {
            let job = scene.reaches("lab", id, "complete").await;
            assert_eq!(job.tests, 9, "test job {id} after the end at {point}");
        }
        scene.settles().await;
        assert_eq!(
            scene.bench.view("unknown").await.state,
            longshore::store::State::Parked
        );
    })
    .await;
}

macro_rules! points {
    ($($name:ident = $point:literal,)+) => {
        $(mod $name {
            use crate::harness::BackEnd;

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn sqlite() {
                super::survives(BackEnd::Sqlite, $point).await;
            }

            #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn postgres() {
                super::survives(BackEnd::Postgres, $point).await;
            }
        })+
    };
}

points! {
    before_joining = "join:before",
    after_joining = "join:after",
    before_unparking = "unpark:before",
    after_unparking = "unpark:after",
    before_renewing = "renew:before",
    after_renewing = "renew:after",
    before_leading = "lead:before",
    after_leading = "lead:after",
    before_setting_aside = "set_aside:before",
    after_setting_aside = "set_aside:after",
    before_the_dead_are_marked = "mark_lost:before",
    after_the_dead_are_marked = "mark_lost:after",
    before_the_rescue = "rescue:before",
    after_the_rescue = "rescue:after",
    before_waiting_tasks_are_due = "due:before",
    after_waiting_tasks_are_due = "due:after",
    before_the_outbox_is_taken = "outbox_take:before",
    after_the_outbox_is_taken = "outbox_take:after",
    before_the_sweep = "sweep:before",
    after_the_sweep = "sweep:after",
}

/// The commands of the embedded broker, which RabbitMQ does by itself.
macro_rules! embedded_points {
    ($($name:ident = $point:literal,)+) => {
        $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
        async fn $name() {
            survives(BackEnd::Sqlite, $point).await;
        })+
    };
}

embedded_points! {
    before_messages_are_put = "put_messages:before",
    after_messages_are_put = "put_messages:after",
    before_messages_are_taken = "take_messages:before",
    after_messages_are_taken = "take_messages:after",
    before_messages_are_dropped = "drop_messages:before",
    after_messages_are_dropped = "drop_messages:after",
}

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
    for point in ["enqueue:before", "enqueue:after"] {
        let mut doomed = Child::start(&scene.bench.folder, &verb, &[("LONGSHORE_CRASH_AT", point)]);
        assert!(!doomed.ended(LIMIT).await.success());
        scene.verb(&verb[..8]).await;
    }
    let _workers = (scene.worker("fetch"), scene.worker("postprocess"));
    let job = scene.reaches("lab", "1", "complete").await;
    assert_eq!(job.tests, 9);
    for (word, point) in [
        ("cancel", "cancel:before"),
        ("cancel", "cancel:after"),
        ("retry", "revive:before"),
        ("retry", "revive:after"),
    ] {
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
        let mut doomed = Child::start(&scene.bench.folder, &verb, &[("LONGSHORE_CRASH_AT", point)]);
        assert!(
            !doomed.ended(LIMIT).await.success(),
            "{point} was never reached"
        );
        scene.verb(&verb[..3]).await;
        let state = if word == "retry" {
            longshore::store::State::Parked
        } else {
            longshore::store::State::Canceled
        };
        scene.task_reaches(point, state).await;
    }
}

mod a_verb {
    use crate::harness::BackEnd;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        crate::scene::scene(
            BackEnd::Sqlite,
            "",
            super::a_verb_that_ended_in_its_command_is_said_again,
        )
        .await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        crate::scene::scene(
            BackEnd::Postgres,
            "",
            super::a_verb_that_ended_in_its_command_is_said_again,
        )
        .await;
    }
}
