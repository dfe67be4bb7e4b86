//! What becomes of a task beside running once: it outlives its elastic pool, fails and is tried again, waits for its
//! time or for a worker that knows it, is preferred, and is canceled; by the verbs of the command line.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longshore::config::{Pool, PoolKind};
use longshore::handler::{Outcome, Registry};
use longshore::lab::{Effect, Fault};
use longshore::pool::Exit;
use longshore::store::{State, TaskView};
use longshore::task::Task;
use serde_json::Value;
use tokio::sync::{Notify, mpsc};

use crate::harness::{BackEnd, Child, LIMIT, wait_until};
use crate::inside::{Inside, Made, QUEUE};
use crate::scene::{OWN, Scene, on_both_with, scene};

on_both_with!("[pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\nslots = 4\nbudget = \"1s\"\n\
    overrun_queue = \"ci_fetch_postprocess\"\n\
    [pools.postprocess]\nkind = \"pinned\"\nqueues = [\"ci_fetch_postprocess\"]\nslots = 2\n";
    a_fetch_that_outlives_its_elastic_pool_is_completed_by_a_pinned_worker,
);
on_both_with!("";
    a_handler_that_hears_nothing_is_moved_from_its_last_checkpoint,
    failures_are_tried_again_with_growing_pauses_until_the_attempts_are_used_up,
    a_countdown_is_waited_for_and_an_expired_task_never_runs,
    an_unknown_name_is_parked_until_a_worker_that_knows_it_appears,
    a_waiting_task_is_canceled_at_once_and_runs_when_it_is_retried,
    a_running_task_is_canceled_by_its_worker,
    a_running_fetch_is_canceled_and_publishes_nothing,
);

/// The id of the last command's task as `task list --json` shows it.
async fn listed(scene: &Scene, state: &str, id: &str) -> Option<Value> {
    let text = scene
        .verb(&["task", "list", "--state", state, "--json"])
        .await;
    let tasks = serde_json::from_str::<Vec<Value>>(&text).unwrap();
    tasks.into_iter().find(|task| task["id"] == id)
}

/// Enqueues a task called `demo` by the command line.
async fn enqueue(scene: &Scene, id: &str, more: &[&str]) {
    let mut arguments = vec!["enqueue", "task", "demo", "--queue", QUEUE, "--id", id];
    arguments.extend(more);
    scene.verb(&arguments).await;
}

/// Handlers of which `demo` tells that it ran, and is done.
fn telling(tell: &mpsc::UnboundedSender<String>) -> Registry {
    let mut registry = Registry::default();
    let tell = tell.clone();
    registry.add("demo", move |task, _| {
        tell.send(task.id.to_string()).unwrap();
        async { Ok(Outcome::done("ran")) }
    });
    registry
}

async fn done(scene: &Scene, id: &str) -> TaskView {
    scene.task_reaches(id, State::Done).await;
    scene.bench.view(id).await
}

async fn end(worker: Inside) {
    worker.stop().await;
    assert_eq!(worker.ended().await, Exit::Drained);
}

async fn a_fetch_that_outlives_its_elastic_pool_is_completed_by_a_pinned_worker(scene: Arc<Scene>) {
    scene.job("1");
    scene.job("2");
    // Wherever it is after its budget, it cannot be at its end.
    let drip = Effect::Drip(Duration::from_millis(100));
    scene.lab.fail(Fault::new("/jobs/1/logs", drip));
    let elastic = scene.worker("fetch");
    scene.fetch("lab", "1").await;
    wait_until("the attempt has overrun", LIMIT, async || {
        scene.bench.view("fetch:lab/1").await.interruptions == 1
    })
    .await;
    let moved = scene.bench.view("fetch:lab/1").await;
    assert_eq!(
        (
            moved.state,
            moved.queue.as_str(),
            moved.failures,
            moved.crashes
        ),
        (State::Queued, "ci_fetch_postprocess", 0, 0)
    );
    assert!(elastic.log().contains("attempt outran its elastic pool"));
    let staged = "select count(*) from staged_tests";
    assert!(scene.bench.number(staged).await > 0, "it saved what it had");
    scene.lab.heal();
    // No pinned worker was there until now, so none but this one can complete it.
    let arguments = [
        "run",
        "--pool",
        "postprocess",
        "--config",
        scene.config.to_str().unwrap(),
    ];
    let debug = [("LONGSHORE_LOG", "longshore=debug")];
    let pinned = Child::start(&scene.bench.folder, &arguments, &debug);
    scene.reaches("lab", "1", "complete").await;
    let begun = |log: String| {
        log.lines()
            .any(|line| line.contains("attempt begun") && line.contains("fetch:lab/1"))
    };
    assert!(begun(pinned.log()), "the pinned worker ran it");
    assert_eq!(scene.bench.view("fetch:lab/1").await.interruptions, 1);
    scene.fetch("lab", "2").await;
    scene.reaches("lab", "2", "complete").await;
    let (overrun, undisturbed) = (scene.seen("lab", "1").await, scene.seen("lab", "2").await);
    assert!(undisturbed.tests() as u64 > OWN);
    assert!(overrun == undisturbed, "the results differ");
}

async fn a_handler_that_hears_nothing_is_moved_from_its_last_checkpoint(scene: Arc<Scene>) {
    const PINNED: &str = "pinned";
    let mut registry = Registry::default();
    registry.add("demo", |_, context| async move {
        if let Some(step) = context.resume::<u32>()? {
            return Ok(Outcome::done(step));
        }
        context.save(&5).await?;
        std::future::pending::<anyhow::Result<Outcome>>().await
    });
    let kind = PoolKind::Elastic {
        budget: Duration::from_millis(300),
        overrun_queue: Some(PINNED.into()),
    };
    let pool = |kind, queue: &str| Pool {
        kind,
        queues: vec![queue.into()],
        slots: 1,
    };
    let elastic = Made {
        pool: pool(kind, QUEUE),
        ..Made::default()
    };
    let pinned = Made {
        pool: pool(PoolKind::Pinned, PINNED),
        ..Made::default()
    };
    registry.add("quick", |_, _| async { Ok(Outcome::done("quick")) });
    let elastic = scene.inside(registry.clone(), elastic);
    enqueue(&scene, "1", &[]).await;
    wait_until("the attempt has overrun", LIMIT, async || {
        scene.bench.view("1").await.interruptions == 1
    })
    .await;
    // A message that comes late, as of a producer that sends one again, takes it not back; the next one is behind it.
    scene
        .announce(&[Task::new("demo", QUEUE).with_id("1")])
        .await;
    scene
        .enqueue(&[Task::new("quick", QUEUE).with_id("2")])
        .await;
    done(&scene, "2").await;
    assert_eq!(scene.bench.view("1").await.state, State::Queued);
    let workers = [elastic, scene.inside(registry, pinned)];
    let view = done(&scene, "1").await;
    assert_eq!(view.result.as_deref(), Some("5"));
    assert_eq!(
        (view.queue.as_str(), view.failures, view.interruptions),
        (PINNED, 0, 1)
    );
    for worker in workers {
        end(worker).await;
    }
}

async fn failures_are_tried_again_with_growing_pauses_until_the_attempts_are_used_up(
    scene: Arc<Scene>,
) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let tries = Arc::new(AtomicU32::new(0));
    let mut registry = Registry::default();
    let counted = Arc::clone(&tries);
    registry.add("demo", move |_, _| {
        let number = counted.fetch_add(1, Ordering::Relaxed);
        tell.send(Instant::now()).unwrap();
        async move {
            if number == 3 {
                return Ok(Outcome::done("at last"));
            }
            anyhow::bail!("no luck at try {number}")
        }
    });
    let mut made = Made::default();
    let policy = &mut made.policies.default;
    (policy.attempts, policy.jitter) = (3, 0.0);
    policy.backoff_min = Duration::from_millis(300);
    let worker = scene.inside(registry, made);
    enqueue(&scene, "1", &[]).await;
    scene.task_reaches("1", State::Dead).await;
    let mut times = Vec::new();
    while let Ok(time) = told.try_recv() {
        times.push(time);
    }
    let pauses = times
        .windows(2)
        .map(|pair| pair[1] - pair[0])
        .collect::<Vec<_>>();
    assert_eq!(pauses.len(), 2, "three attempts and no more");
    assert!(pauses[0] >= Duration::from_millis(290), "{pauses:?}");
    assert!(pauses[1] >= Duration::from_millis(590), "{pauses:?}");
    let dead = listed(&scene, "dead", "1").await.unwrap();
    assert_eq!(dead["reason"], "no luck at try 2 (attempt 3 of 3)");
    assert_eq!(
        (&dead["failures"], &dead["crashes"]),
        (&3.into(), &0.into())
    );
    let said = scene.verb(&["task", "retry", "1"]).await;
    assert_eq!(said, "1 of 1 tasks run again\n");
    let view = done(&scene, "1").await;
    assert_eq!(view.result.as_deref(), Some("\"at last\""));
    assert!(
        scene
            .verb(&["task", "retry", "--all-dead"])
            .await
            .starts_with("0 of 0")
    );
    end(worker).await;
}

async fn a_countdown_is_waited_for_and_an_expired_task_never_runs(scene: Arc<Scene>) {
    let (tell, mut told) = mpsc::unbounded_channel();
    enqueue(&scene, "later", &["--countdown", "1500ms"]).await;
    enqueue(&scene, "late", &["--expires", "1ms"]).await;
    enqueue(
        &scene,
        "never",
        &["--countdown", "500ms", "--expires", "400ms"],
    )
    .await;
    assert!(listed(&scene, "waiting", "later").await.is_some());
    let worker = scene.inside(telling(&tell), Made::default());
    enqueue(&scene, "now", &[]).await;
    let view = done(&scene, "later").await;
    let waited = view.started_at.unwrap() - view.created_at;
    assert!(waited >= 1490, "it began after {waited} ms");
    for id in ["late", "never"] {
        scene.task_reaches(id, State::Expired).await;
        let view = scene.bench.view(id).await;
        assert!(view.reason.unwrap().contains("expired"));
        assert!(view.started_at.is_none());
    }
    end(worker).await;
    drop(tell);
    let mut ran = Vec::new();
    while let Ok(id) = told.try_recv() {
        ran.push(id);
    }
    assert_eq!(ran, ["now", "later"]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_embedded_broker_delivers_the_largest_priority_first() {
    scene(BackEnd::Sqlite, "", async |scene| {
        let (tell, mut told) = mpsc::unbounded_channel();
        for (id, priority) in [("a", "0"), ("b", "5"), ("c", "9"), ("d", "5")] {
            enqueue(&scene, id, &["--priority", priority]).await;
        }
        let mut made = Made::default();
        made.pool.slots = 1;
        let worker = scene.inside(telling(&tell), made);
        let mut ran = Vec::new();
        for _ in 0..4 {
            ran.push(told.recv().await.unwrap());
        }
        assert_eq!(ran, ["c", "b", "d", "a"]);
        scene.settles().await;
        end(worker).await;
    })
    .await;
}

async fn an_unknown_name_is_parked_until_a_worker_that_knows_it_appears(scene: Arc<Scene>) {
    let mut real = scene.worker("fetch");
    scene
        .verb(&[
            "enqueue", "task", "demo", "--queue", "ci_fetch", "--id", "1",
        ])
        .await;
    scene.task_reaches("1", State::Parked).await;
    let parked = listed(&scene, "parked", "1").await.unwrap();
    let reason = parked["reason"].as_str().unwrap();
    assert!(
        reason.contains("no worker here has a handler for \"demo\""),
        "{reason}"
    );
    scene.small_job("7000");
    let helper = scene.worker("postprocess");
    scene.fetch("lab", "7000").await;
    scene.reaches("lab", "7000", "complete").await;
    // It would park it again, whenever it is the first to get it.
    real.signal("TERM");
    assert_eq!(real.ended(LIMIT).await.code(), Some(0));
    let (tell, mut told) = mpsc::unbounded_channel();
    let mut made = Made::default();
    made.pool.queues = vec!["ci_fetch".into()];
    let worker = scene.inside(telling(&tell), made);
    let view = done(&scene, "1").await;
    assert_eq!(
        (view.failures, told.recv().await.as_deref()),
        (0, Some("1"))
    );
    end(worker).await;
    drop(helper);
}

async fn a_waiting_task_is_canceled_at_once_and_runs_when_it_is_retried(scene: Arc<Scene>) {
    let (tell, mut told) = mpsc::unbounded_channel();
    let worker = scene.inside(telling(&tell), Made::default());
    enqueue(&scene, "1", &["--countdown", "1h"]).await;
    assert_eq!(scene.verb(&["task", "cancel", "1"]).await, "1 canceled\n");
    let canceled = listed(&scene, "canceled", "1").await.unwrap();
    assert_eq!(canceled["reason"], "canceled by hand");
    assert!(told.try_recv().is_err(), "it never ran");
    let again = scene.verb(&["task", "cancel", "1", "nobody"]).await;
    assert_eq!(
        again.matches("is over already, or was never there").count(),
        2
    );
    scene.verb(&["task", "retry", "1"]).await;
    done(&scene, "1").await;
    end(worker).await;
}

async fn a_running_task_is_canceled_by_its_worker(scene: Arc<Scene>) {
    let (begun, dropped) = (Arc::new(Notify::new()), Arc::new(Notify::new()));
    struct Tells(Arc<Notify>);
    impl Drop for Tells {
        fn drop(&mut self) {
            self.0.notify_one();
        }
    }
    let mut registry = Registry::default();
    let (tell, tell_drop) = (Arc::clone(&begun), Arc::clone(&dropped));
    registry.add("demo", move |_, _| {
        let (tell, guard) = (Arc::clone(&tell), Tells(Arc::clone(&tell_drop)));
        async move {
            tell.notify_one();
            std::future::pending::<()>().await;
            drop(guard);
            Ok(Outcome::done(()))
        }
    });
    let worker = scene.inside(registry, Made::default());
    scene
        .enqueue(&[Task::new("demo", QUEUE).with_id("1")])
        .await;
    begun.notified().await;
    let said = scene.verb(&["task", "cancel", "1"]).await;
    assert_eq!(said, "1 runs, and is told to stop\n");
    scene.task_reaches("1", State::Canceled).await;
    tokio::time::timeout(LIMIT, dropped.notified())
        .await
        .expect("the handler is ended");
    let canceled = listed(&scene, "canceled", "1").await.unwrap();
    assert_eq!(canceled["reason"], "canceled by hand while it ran");
    assert_eq!(
        (&canceled["failures"], &canceled["crashes"]),
        (&0.into(), &0.into())
    );
    end(worker).await;
}

async fn a_running_fetch_is_canceled_and_publishes_nothing(scene: Arc<Scene>) {
    scene.job("1");
    scene.lab.fail(Fault::new(
        "/jobs/1/logs",
        Effect::Drip(Duration::from_millis(100)),
    ));
    let _workers = (scene.worker("fetch"), scene.worker("postprocess"));
    scene.fetch("lab", "1").await;
    wait_until("the log is being read", LIMIT, async || {
        scene.lab.count("/logs") > 0
    })
    .await;
    scene.verb(&["task", "cancel", "fetch:lab/1"]).await;
    scene.task_reaches("fetch:lab/1", State::Canceled).await;
    let job = scene.find("lab", "1").await.unwrap();
    assert_eq!((job.tests, job.visible), (0, 0), "{job:?}");
    scene.lab.heal();
    scene.small_job("7000");
    scene.fetch("lab", "7000").await;
    scene.reaches("lab", "7000", "complete").await;
    scene.verb(&["task", "retry", "fetch:lab/1"]).await;
    scene.reaches("lab", "1", "complete").await;
}
