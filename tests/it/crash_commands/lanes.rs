//! Lanes: an end that its process could not pass on is the leader's to pass on, and a verb on a lane that ended in its command is
//! said again.

use std::sync::Arc;

use longshore::lane::{Lane, When};
use longshore::store::{Settlement, State};
use longshore::task::Task;

use super::ended_at;
use crate::harness::{Child, id};
use crate::scene::{Scene, on_both_with};

pub(super) const PASSED_ON: [&str; 4] = [
    "doom:before",
    "doom:after",
    "pass_on:before",
    "pass_on:after",
];
pub(super) const BY_HAND: [&str; 6] = [
    "enqueue:before",
    "enqueue:after",
    "skip:before",
    "skip:after",
    "lane_limit:before",
    "lane_limit:after",
];
on_both_with!("";
    an_end_that_was_not_passed_on_is_the_leaders,
    a_verb_on_a_lane_that_ended_in_its_command_is_said_again,
);

/// A task that a worker parks: its message has come.
fn parks(name: &str) -> Task {
    Task::new("nobody.knows", "ci_fetch").with_id(name)
}

/// One that holds its lane for as long as the test lasts.
fn holds(scene: &Scene, name: &str, lane: &str) -> Task {
    let mut task = parks(name).in_lane(Lane::new(lane));
    task.run_at = Some(scene.bench.clock.now() + 3_600_000);
    task
}

async fn dies_in(scene: &Scene, verb: &[&str], point: &str) {
    let config = ["--config", scene.config.to_str().unwrap()];
    let arguments = [verb, &config].concat();
    let doomed = Child::start(
        &scene.bench.folder,
        &arguments,
        &[("LONGSHORE_CRASH_AT", point)],
    );
    ended_at(doomed, point).await;
}

async fn an_end_that_was_not_passed_on_is_the_leaders(scene: Arc<Scene>) {
    for point in PASSED_ON {
        let name = |of: &str| format!("{of} {point}");
        let (holder, behind) = (name("holder"), name("behind"));
        let tasks = [
            holds(&scene, &holder, point),
            parks(&behind).in_lane(Lane::new(point)),
            parks(&name("never")).after(&holder, When::Success),
            parks(&name("anyway")).after(name("never"), When::Done),
        ];
        scene.bench.store.enqueue(&tasks).await.unwrap();
        dies_in(&scene, &["task", "cancel", &holder], point).await;
        assert_eq!(scene.bench.view(&holder).await.state, State::Canceled);
        let waits = scene.bench.view(&behind).await.state == State::Blocked;
        assert_eq!(waits, point != "pass_on:after");
    }
    let _leader = scene.worker("fetch");
    for point in PASSED_ON {
        for (of, state) in [
            ("behind", State::Parked),
            ("never", State::Canceled),
            ("anyway", State::Parked),
        ] {
            scene.task_reaches(&format!("{of} {point}"), state).await;
        }
    }
}

async fn a_verb_on_a_lane_that_ended_in_its_command_is_said_again(scene: Arc<Scene>) {
    let store = &scene.bench.store;
    let worker = scene.bench.worker().await;
    for point in BY_HAND {
        let (first, second) = (format!("first {point}"), format!("second {point}"));
        let behind = parks(&second).in_lane(Lane::new(point));
        let enqueue = [
            "enqueue",
            "task",
            "nobody.knows",
            "--queue",
            "ci_fetch",
            "--id",
            &second,
            "--lane",
            point,
        ];
        let verb: &[&str] = match point.split(':').next().unwrap() {
            "enqueue" => &enqueue,
            "skip" => {
                let halts = parks(&first).in_lane(Lane::new(point));
                store.enqueue(&[halts.clone(), behind]).await.unwrap();
                let epoch = scene.bench.claimed(&worker, &halts).await.epoch;
                let dead = Settlement {
                    state: Some(State::Dead),
                    ..Settlement::default()
                };
                store.settle(&[(id(&first), epoch, dead)]).await.unwrap();
                &["lane", "skip", point]
            }
            _ => {
                let held = holds(&scene, &first, point);
                store.enqueue(&[held, behind]).await.unwrap();
                &["lane", "limit", point, "2"]
            }
        };
        dies_in(&scene, verb, point).await;
        let again = scene.try_verb(verb).await;
        // What was skipped once is no more there to be skipped.
        assert_eq!(again.status.success(), point != "skip:after");
    }
    let _leader = scene.worker("fetch");
    for point in BY_HAND {
        scene
            .task_reaches(&format!("second {point}"), State::Parked)
            .await;
    }
}
