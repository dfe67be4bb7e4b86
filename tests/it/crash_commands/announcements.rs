//! What nobody would hear of again: a task whose worker is dead, whose message is lost, whose announcement the broker
//! refuses, which was parked. The leader that sees to it ends in its command, and the next one does.

use std::sync::Arc;

use longshore::store::State;
use reqwest::Method;
use serde_json::json;

use super::{a_log_is_read, end_the_lead, ended_at, fetch_silently, others_finish, slow_logs};
use crate::harness::{Child, LIMIT, wait_until};
use crate::scene::Scene;

const LEADS: &str = "maintenance is led by this worker";
const TASK: &str = "fetch:lab/1";

points! { RESCUE: a_rescue;
    before_the_rescue = "rescue:before",
    after_the_rescue = "rescue:after",
}
points! { RESCUED: a_rescued_task_whose_message_is_lost;
    before_a_rescued_task_is_announced_again = "ring_rescued:before",
    after_a_rescued_task_is_announced_again = "ring_rescued:after",
}
points! { LOST: a_task_whose_message_was_lost_long_ago;
    before_a_task_is_announced_again = "ring_again:before",
    after_a_task_is_announced_again = "ring_again:after",
}
points! { REFUSED: an_announcement_that_the_broker_refuses;
    before_an_announcement_is_released = "outbox_release:before",
    after_an_announcement_is_released = "outbox_release:after",
}
points! { PARKED: a_parked_task;
    before_unparking = "unpark:before",
    after_unparking = "unpark:after",
}
points! { YIELDED: a_leader_that_drains;
    before_the_lead_is_given_up = "lead_yield:before",
    after_the_lead_is_given_up = "lead_yield:after",
}

/// A worker ends in the middle of a fetch, and no other consumes its queue.
async fn a_fetch_loses_its_worker(scene: &Scene) {
    scene.small_job("1");
    scene.lab.fail(slow_logs().times(1));
    let killed = scene.worker("fetch");
    scene.fetch("lab", "1").await;
    a_log_is_read(scene).await;
    killed.signal("KILL");
    drop(killed);
}

/// Takes every message off the queue of fetches.
async fn lose_messages(scene: &Scene) {
    match &scene.bell {
        None => scene.bench.execute("delete from messages").await,
        Some(bell) => {
            let contents = format!("{}/contents", bell.queue_path("ci_fetch"));
            bell.api(Method::DELETE, &contents, None).await;
        }
    }
    let broker = scene.broker(&scene.bench.store, &longshore::pool::member_id("counter"));
    wait_until("the queue is empty", LIMIT, async || {
        broker.depth("ci_fetch").await.unwrap() == 0
    })
    .await;
    broker.close().await;
}

/// Whether `point` is behind its command's commit, as a number to compare with what the command has written.
fn written(point: &str) -> i64 {
    i64::from(point.ends_with(":after"))
}

async fn outbox(scene: &Scene) -> i64 {
    scene.bench.number("select count(*) from outbox").await
}

async fn a_rescue(scene: Arc<Scene>, point: &'static str) {
    a_fetch_loses_its_worker(&scene).await;
    end_the_lead(&scene).await;
    // The dead worker's tasks are left to the next leader.
    let undertaker = scene.doomed("postprocess", "mark_lost:after");
    ended_at(undertaker, "mark_lost:after").await;
    end_the_lead(&scene).await;
    assert_eq!(scene.bench.view(TASK).await.state, State::Running);
    ended_at(scene.doomed("postprocess", point), point).await;
    let view = scene.bench.view(TASK).await;
    let expected = [State::Running, State::Queued][usize::from(view.crashes > 0)];
    assert_eq!(
        (i64::from(view.crashes), view.state),
        (written(point), expected)
    );
    assert_eq!(outbox(&scene).await, written(point));
    let _heirs = others_finish(&scene, &["1"], point).await;
}

async fn a_rescued_task_whose_message_is_lost(scene: Arc<Scene>, point: &'static str) {
    let mut rescuer = scene.worker("postprocess");
    rescuer.said(LEADS, LIMIT).await;
    a_fetch_loses_its_worker(&scene).await;
    wait_until("the task is rescued", LIMIT, async || {
        let view = scene.bench.view(TASK).await;
        (view.state, view.crashes) == (State::Queued, 1) && outbox(&scene).await == 0
    })
    .await;
    rescuer.signal("TERM");
    assert!(rescuer.ended(LIMIT).await.success());
    lose_messages(&scene).await;
    // Long enough ago for a rescued task to be announced again, and for no other.
    let earlier = "update tasks set rung_at = rung_at - 10000, rings = 0";
    scene.bench.execute(earlier).await;
    ended_at(scene.doomed("fetch", point), point).await;
    let rings = scene.bench.number("select rings from tasks").await;
    assert_eq!(
        (rings, outbox(&scene).await),
        (written(point), written(point))
    );
    let _heirs = others_finish(&scene, &["1"], point).await;
}

async fn a_task_whose_message_was_lost_long_ago(scene: Arc<Scene>, point: &'static str) {
    scene.small_job("1");
    scene.fetch("lab", "1").await;
    lose_messages(&scene).await;
    let rung = "select rung_at from tasks";
    scene
        .bench
        .execute("update tasks set rung_at = rung_at - 3600000")
        .await;
    let before = scene.bench.number(rung).await;
    ended_at(scene.doomed("fetch", point), point).await;
    let again = i64::from(scene.bench.number(rung).await > before);
    assert_eq!(
        (again, outbox(&scene).await),
        (written(point), written(point))
    );
    let _heirs = others_finish(&scene, &["1"], point).await;
}

/// Whether the broker takes messages.
async fn take_messages(scene: &Scene, takes: bool) {
    match &scene.bell {
        None => {
            let refuse = "create trigger refuse before insert on messages \
                begin select raise(abort, 'no room for messages'); end";
            let sql = if takes { "drop trigger refuse" } else { refuse };
            scene.bench.execute(sql).await;
        }
        Some(bell) => {
            let write = if takes { ".*" } else { "" };
            let rights = json!({ "configure": ".*", "write": write, "read": ".*" });
            bell.api(Method::PUT, &bell.permissions_path(), Some(rights))
                .await;
        }
    }
}

async fn an_announcement_that_the_broker_refuses(scene: Arc<Scene>, point: &'static str) {
    scene.small_job("1");
    fetch_silently(&scene, "1").await;
    take_messages(&scene, false).await;
    ended_at(scene.doomed("fetch", point), point).await;
    assert_eq!(outbox(&scene).await, 1, "it is still to be published");
    assert_eq!(scene.bench.view(TASK).await.state, State::Queued);
    take_messages(&scene, true).await;
    let _heirs = others_finish(&scene, &["1"], point).await;
}

async fn a_parked_task(scene: Arc<Scene>, point: &'static str) {
    scene.small_job("1");
    fetch_silently(&scene, "1").await;
    // As a worker leaves it that does not know the name.
    scene
        .bench
        .execute("delete from outbox; update tasks set state = 'parked'")
        .await;
    ended_at(scene.doomed("fetch", point), point).await;
    let state = [State::Parked, State::Queued][usize::from(written(point) == 1)];
    assert_eq!(scene.bench.view(TASK).await.state, state);
    assert_eq!(outbox(&scene).await, written(point));
    let _heirs = others_finish(&scene, &["1"], point).await;
}

async fn a_leader_that_drains(scene: Arc<Scene>, point: &'static str) {
    scene.small_job("1");
    scene.small_job("2");
    scene.lab.fail(slow_logs());
    let leader: Child = scene.doomed("fetch", point);
    leader.said(LEADS, LIMIT).await;
    scene.fetch("lab", "1").await;
    a_log_is_read(&scene).await;
    leader.signal("TERM");
    ended_at(leader, point).await;
    let free = scene.bench.number("select lease_until from leaders").await == 0;
    assert_eq!(i64::from(free), written(point));
    scene.lab.heal();
    // Only a leader publishes this one.
    fetch_silently(&scene, "2").await;
    let _heirs = others_finish(&scene, &["1", "2"], point).await;
}
