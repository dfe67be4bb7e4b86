//! A worker that is told to stop: what ends in time, what saves, what ignores the request; real signals.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::handler::{Outcome, Registry};
use longshore::lab::{Effect, Fault};
use longshore::pool::Exit;
use longshore::store::State;
use longshore::task::Task;
use serde_json::json;
use tokio::sync::Notify;

use crate::harness::{BackEnd, LIMIT, wait_until};
use crate::inside::{Made, QUEUE};
use crate::scene::{GRACE, Scene, on_both_with, scene};

on_both_with!("";
    a_task_that_ends_in_time_ends_on_its_worker,
    a_task_that_saves_is_handed_off_at_its_checkpoint,
    a_task_that_ignores_the_request_is_handed_off_from_its_last_checkpoint_at_the_deadline,
    a_second_request_hands_everything_off_at_once,
    what_was_prefetched_runs_elsewhere_at_once,
    sigterm_ends_an_idle_worker_with_0_within_a_second,
    sigterm_in_a_fetch_hands_it_off_and_another_worker_ends_it,
    sigquit_leaves_everything_to_rescue,
    sighup_is_ignored_and_sigusr1_says_what_runs,
);

fn task(id: &str) -> Task {
    Task::new("demo", QUEUE).with_id(id)
}

async fn a_task_that_ends_in_time_ends_on_its_worker(scene: Arc<Scene>) {
    let (begun, go) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    let mut registry = Registry::default();
    let (tell, wait) = (Arc::clone(&begun), Arc::clone(&go));
    registry.add("demo", move |_, context| {
        let (tell, wait) = (Arc::clone(&tell), Arc::clone(&wait));
        async move {
            tell.notify_one();
            wait.notified().await;
            assert!(
                context.deadline().is_some(),
                "a draining worker says until when"
            );
            Ok(Outcome::done("in time"))
        }
    });
    let worker = scene.inside(registry, Made::default());
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    worker.stop().await;
    wait_until("the worker is draining", LIMIT, async || {
        scene
            .bench
            .store
            .workers(false)
            .await
            .unwrap()
            .iter()
            .any(|worker| worker.state == "draining" || worker.state == "quiet")
            || worker.requests.capacity() > 0
    })
    .await;
    // Wait for the drain to have reached the attempt: its deadline is set before the request is done.
    go.notify_one();
    assert_eq!(worker.ended().await, Exit::Drained);
    let view = scene.bench.view("1").await;
    assert_eq!(
        (view.state, view.interruptions, view.result.as_deref()),
        (State::Done, 0, Some("\"in time\""))
    );
}

async fn a_task_that_saves_is_handed_off_at_its_checkpoint(scene: Arc<Scene>) {
    let begun = Arc::new(Notify::new());
    let mut registry = Registry::default();
    let tell = Arc::clone(&begun);
    registry.add("demo", move |_, context| {
        let tell = Arc::clone(&tell);
        async move {
            if let Some(step) = context.resume::<u32>()? {
                return Ok(Outcome::done(
                    json!({ "went on after": step, "history": context.history() }),
                ));
            }
            tell.notify_one();
            context.draining().await;
            context.save(&7).await?;
            Ok(Outcome::HandOff)
        }
    });
    let first = scene.inside(registry.clone(), Made::default());
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    let second = scene.inside(registry, Made::default());
    let told = Instant::now();
    first.stop().await;
    assert_eq!(first.ended().await, Exit::Drained);
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "it did not wait for its deadline"
    );
    scene.task_reaches("1", State::Done).await;
    let view = scene.bench.view("1").await;
    assert_eq!(
        view.result.as_deref(),
        Some(r#"{"went on after":7,"history":[0,0,1]}"#)
    );
    assert_eq!(
        (view.failures, view.crashes, view.interruptions),
        (0, 0, 1),
        "a hand-off burns no attempt"
    );
    second.stop().await;
    assert_eq!(second.ended().await, Exit::Drained);
}

/// A handler that saves once and then hears nothing; its heir returns what it found.
fn deaf(begun: &Arc<Notify>) -> Registry {
    let mut registry = Registry::default();
    let tell = Arc::clone(begun);
    registry.add("demo", move |_, context| {
        let tell = Arc::clone(&tell);
        async move {
            if let Some(step) = context.resume::<u32>()? {
                return Ok(Outcome::done(step));
            }
            context.save(&3).await?;
            tell.notify_one();
            std::future::pending::<anyhow::Result<Outcome>>().await
        }
    });
    registry
}

async fn a_task_that_ignores_the_request_is_handed_off_from_its_last_checkpoint_at_the_deadline(
    scene: Arc<Scene>,
) {
    let begun = Arc::new(Notify::new());
    let first = scene.inside(deaf(&begun), Made::default());
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    let second = scene.inside(deaf(&begun), Made::default());
    let told = Instant::now();
    first.stop().await;
    assert_eq!(first.ended().await, Exit::Drained);
    let (room, grace) = (Duration::from_secs(2), Duration::from_secs(3));
    assert!(told.elapsed() >= room, "it had until its deadline");
    assert!(
        told.elapsed() < grace,
        "it ended within its grace, not after {:?}",
        told.elapsed()
    );
    scene.task_reaches("1", State::Done).await;
    let view = scene.bench.view("1").await;
    assert_eq!(
        (view.result.as_deref(), view.interruptions, view.failures),
        (Some("3"), 1, 0)
    );
    second.stop().await;
    assert_eq!(second.ended().await, Exit::Drained);
}

async fn a_second_request_hands_everything_off_at_once(scene: Arc<Scene>) {
    let begun = Arc::new(Notify::new());
    let mut made = Made::default();
    made.worker.grace = Duration::from_secs(600);
    let first = scene.inside(deaf(&begun), made);
    scene.enqueue(&[task("1")]).await;
    begun.notified().await;
    let told = Instant::now();
    first.stop().await;
    first.stop().await;
    assert_eq!(first.ended().await, Exit::Drained);
    assert!(
        told.elapsed() < Duration::from_secs(5),
        "it did not wait for ten minutes"
    );
    let view = scene.bench.view("1").await;
    assert_eq!((view.state, view.interruptions), (State::Queued, 1));
}

async fn what_was_prefetched_runs_elsewhere_at_once(scene: Arc<Scene>) {
    let begun = Arc::new(Notify::new());
    let mut made = Made::default();
    made.pool.slots = 1;
    let mut slow = Registry::default();
    let tell = Arc::clone(&begun);
    slow.add("demo", move |_, _| {
        let tell = Arc::clone(&tell);
        async move {
            tell.notify_one();
            std::future::pending::<anyhow::Result<Outcome>>().await
        }
    });
    let first = scene.inside(slow, made);
    scene.enqueue(&[task("1"), task("2"), task("3")]).await;
    begun.notified().await;
    let mut quick = Registry::default();
    quick.add("demo", |_, _| async { Ok(Outcome::done(())) });
    let second = scene.inside(quick, Made::default());
    first.stop().await;
    // The first one's own task runs until the deadline; what it had not begun does not wait for that.
    for id in ["2", "3"] {
        scene.task_reaches(id, State::Done).await;
        assert_eq!(
            scene.bench.view(id).await.interruptions,
            0,
            "it was never begun"
        );
    }
    assert_eq!(first.ended().await, Exit::Drained);
    scene.task_reaches("1", State::Done).await;
    second.stop().await;
    assert_eq!(second.ended().await, Exit::Drained);
}

async fn sigterm_ends_an_idle_worker_with_0_within_a_second(scene: Arc<Scene>) {
    let mut worker = scene.worker("fetch");
    worker.said("worker joined", LIMIT).await;
    let told = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.ended(LIMIT).await.code(), Some(0));
    assert!(
        told.elapsed() < Duration::from_secs(2),
        "{:?}",
        told.elapsed()
    );
    assert!(
        scene.bench.store.workers(false).await.unwrap().is_empty(),
        "it is off the list"
    );
}

/// A worker in the middle of a fetch whose log never ends.
async fn fetching(scene: &Scene) -> crate::harness::Child {
    scene.job("1");
    scene.lab.fail(Fault::new(
        "/logs",
        Effect::Drip(Duration::from_millis(100)),
    ));
    let worker = scene.worker("fetch");
    scene.fetch("lab", "1").await;
    scene.task_reaches("fetch:lab/1", State::Running).await;
    wait_until("the log is being read", LIMIT, async || {
        scene.lab.count("/logs") > 0
    })
    .await;
    worker
}

async fn sigterm_in_a_fetch_hands_it_off_and_another_worker_ends_it(scene: Arc<Scene>) {
    let mut worker = fetching(&scene).await;
    let told = Instant::now();
    worker.signal("TERM");
    assert_eq!(worker.ended(LIMIT).await.code(), Some(0));
    assert!(
        told.elapsed() < GRACE / 2,
        "it handed off at once: {:?}",
        told.elapsed()
    );
    let view = scene.bench.view("fetch:lab/1").await;
    assert_eq!(
        (view.state, view.interruptions, view.failures),
        (State::Queued, 1, 0)
    );
    scene.lab.heal();
    let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
    scene.reaches("lab", "1", "complete").await;
}

async fn sigquit_leaves_everything_to_rescue(scene: Arc<Scene>) {
    let mut worker = fetching(&scene).await;
    worker.signal("QUIT");
    assert_eq!(worker.ended(LIMIT).await.code(), Some(3));
    assert_eq!(
        scene.bench.view("fetch:lab/1").await.state,
        State::Running,
        "nothing was written"
    );
    scene.lab.heal();
    let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
    scene.reaches("lab", "1", "complete").await;
    assert_eq!(scene.bench.view("fetch:lab/1").await.crashes, 1);
}

async fn sighup_is_ignored_and_sigusr1_says_what_runs(scene: Arc<Scene>) {
    let mut worker = fetching(&scene).await;
    worker.signal("HUP");
    worker.said("SIGHUP was ignored", LIMIT).await;
    worker.signal("USR1");
    worker.said("attempt runs", LIMIT).await;
    assert!(worker.log().contains("fetch:lab/1"));
    worker.signal("TERM");
    assert_eq!(worker.ended(LIMIT).await.code(), Some(0));
}

/// A drain while a server is away: `server` is stopped (SIGSTOP) in the middle.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_locked_database_does_not_keep_a_worker_beyond_its_grace() {
    scene(BackEnd::Sqlite, "", async |scene| {
        let mut worker = fetching(&scene).await;
        let lock = scene.bench.lock_for_writing().await;
        let told = Instant::now();
        worker.signal("TERM");
        let code = worker.ended(LIMIT).await.code();
        assert_eq!(code, Some(3), "what it could not write is left to rescue");
        assert!(
            told.elapsed() < GRACE + Duration::from_secs(3),
            "{:?}",
            told.elapsed()
        );
        drop(lock);
        scene.lab.heal();
        let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
        scene.reaches("lab", "1", "complete").await;
    })
    .await;
}
