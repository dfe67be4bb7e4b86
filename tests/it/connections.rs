//! RabbitMQ goes away in every way there is, in the middle of an attempt: the attempt goes on, nothing is lost, and
//! nothing runs twice to the end.

use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use longshore::handler::{Outcome, Registry};
use longshore::lab::{Effect, Fault};
use longshore::pool::Exit;
use longshore::store::State;
use longshore::task::Task;
use reqwest::Method;
use tokio::sync::Notify;

use crate::harness::{BackEnd, Bell, LIMIT, Private, wait_until};
use crate::inside::{Inside, Made, QUEUE};
use crate::scene::{GRACE, Scene, scene};

/// A worker in the middle of an attempt that ends when it is told to.
struct Busy {
    worker: Inside,
    go: Arc<Notify>,
    ended: Arc<AtomicU32>,
    queue: &'static str,
}

async fn busy(scene: &Scene, made: Made) -> Busy {
    busy_on(scene, made, QUEUE).await
}

/// The same on another queue; the long task is called as the queue is.
async fn busy_on(scene: &Scene, mut made: Made, queue: &'static str) -> Busy {
    made.pool.queues = vec![queue.into()];
    let (begun, go, ended) = (
        Arc::new(Notify::new()),
        Arc::new(Notify::new()),
        Arc::new(AtomicU32::new(0)),
    );
    let mut registry = Registry::default();
    let (tell, wait, count) = (Arc::clone(&begun), Arc::clone(&go), Arc::clone(&ended));
    registry.add("demo", move |task, context| {
        let (tell, wait, count) = (Arc::clone(&tell), Arc::clone(&wait), Arc::clone(&count));
        async move {
            if task.id.as_str() == queue {
                context.save(&1).await?;
                tell.notify_one();
                wait.notified().await;
                count.fetch_add(1, Ordering::SeqCst);
            }
            Ok(Outcome::done(()))
        }
    });
    let worker = scene.inside(registry, made);
    scene
        .enqueue(&[Task::new("demo", queue).with_id(queue)])
        .await;
    begun.notified().await;
    Busy {
        worker,
        go,
        ended,
        queue,
    }
}

impl Busy {
    /// The attempt ends, once and as the first; another task still gets through; the worker stops in order.
    async fn goes_on(self, scene: &Scene) {
        let after = format!("after {}", self.queue);
        scene
            .enqueue(&[Task::new("demo", self.queue).with_id(&after)])
            .await;
        scene.task_reaches(&after, State::Done).await;
        self.go.notify_one();
        scene.task_reaches(self.queue, State::Done).await;
        let view = scene.bench.view(self.queue).await;
        assert_eq!(
            (view.epoch.get(), view.crashes, view.failures),
            (1, 0, 0),
            "it was one attempt"
        );
        scene.settles().await;
        assert_eq!(self.ended.load(Ordering::SeqCst), 1, "it ended once");
        self.worker.stop().await;
        assert_eq!(self.worker.ended().await, Exit::Drained);
    }
}

fn bell(scene: &Scene) -> &Bell {
    scene.bell.as_ref().expect("there is a RabbitMQ")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn connections_that_are_closed_do_not_disturb_an_attempt() {
    scene(BackEnd::Postgres, "", async |scene| {
        let busy = busy(&scene, Made::default()).await;
        bell(&scene).cut_all().await;
        busy.goes_on(&scene).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_queue_that_is_deleted_is_made_anew_and_consumed() {
    scene(BackEnd::Postgres, "", async |scene| {
        let busy = busy(&scene, Made::default()).await;
        bell(&scene)
            .api(Method::DELETE, &bell(&scene).queue_path(QUEUE), None)
            .await;
        busy.goes_on(&scene).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_delivery_that_comes_again_while_its_attempt_runs_is_dropped() {
    scene(BackEnd::Postgres, "", async |scene| {
        let busy = busy(&scene, Made::default()).await;
        // The same announcement twice more, as a relay does that died before it said what it had published.
        let twice = [
            Task::new("demo", QUEUE).with_id(QUEUE),
            Task::new("demo", QUEUE).with_id(QUEUE),
        ];
        scene.announce(&twice).await;
        busy.goes_on(&scene).await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn database_connections_that_are_cut_do_not_disturb_an_attempt() {
    let servers = Private::start();
    scene(BackEnd::Postgres, "", async |scene| {
        let busy = busy(&scene, Made::default()).await;
        scene.pause_watching();
        for _ in 0..5 {
            let cut = "select pg_terminate_backend(pid) from pg_stat_activity where application_name like 'longshore%'";
            servers.manage("psql", &["-c", cut]).await;
        }
        busy.goes_on(&scene).await;
    })
    .await;
}

/// RabbitMQ closes the channel of a delivery that is held for longer than its consumer timeout (here a minute,
/// looked at each second): of a consumer that holds on, as the control shows, and never of a worker.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_task_that_is_longer_than_the_consumer_timeout_is_never_delivered_again() {
    let servers = Private::start();
    let timeout = Duration::from_secs(60);
    servers
        .manage(
            "rabbitmqctl",
            &[
                "eval",
                "application:set_env(rabbit, consumer_timeout, 60000).",
            ],
        )
        .await;
    scene(BackEnd::Postgres, "", async |scene| {
        let mut made = Made::default();
        made.worker.hold = Duration::from_secs(10);
        let busy = busy(&scene, made).await;
        // One that holds on for too long: its channel is closed, and its attempt does not notice.
        let mut holding = Made::default();
        holding.worker.hold = Duration::from_secs(1500);
        let closed = busy_on(&scene, holding, "held").await;
        let control = bell(&scene).peer().await;
        control.broker.declare(&["control".into()]).await.unwrap();
        scene
            .announce(&[Task::new("demo", "control").with_id("control")])
            .await;
        let mut held = control.consume("control", 1);
        let first = held.deliveries.recv().await.unwrap();
        assert!(!first.redelivered);
        let again = tokio::time::timeout(timeout * 2, held.deliveries.recv()).await;
        let again = again
            .expect("RabbitMQ took the control's delivery away")
            .unwrap();
        assert!(again.redelivered, "the timeout is in force");
        assert_eq!(scene.bench.view(QUEUE).await.state, State::Running);
        drop((first, again));
        // Each sees at its end that nothing is left to do.
        busy.go.notify_one();
        scene.task_reaches(QUEUE, State::Done).await;
        closed.goes_on(&scene).await;
        busy.goes_on(&scene).await;
    })
    .await;
}

/// RabbitMQ blocks publishers when memory is short; attempts end all the same, and what is to be published waits.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_blocks_publishers_only_delays_what_is_to_be_published() {
    let servers = Private::start();
    scene(BackEnd::Postgres, "", async |scene| {
        let busy = busy(&scene, Made::default()).await;
        servers
            .manage("rabbitmqctl", &["set_vm_memory_high_watermark", "0.00001"])
            .await;
        // Stored, and for the outbox to announce.
        let blocked = Task::new("demo", QUEUE).with_id("blocked");
        scene
            .bench
            .store
            .enqueue(std::slice::from_ref(&blocked))
            .await
            .unwrap();
        busy.go.notify_one();
        scene.task_reaches(QUEUE, State::Done).await;
        assert_eq!(scene.bench.view("blocked").await.state, State::Queued);
        servers
            .manage("rabbitmqctl", &["set_vm_memory_high_watermark", "0.6"])
            .await;
        scene.task_reaches("blocked", State::Done).await;
        busy.worker.stop().await;
        assert_eq!(busy.worker.ended().await, Exit::Drained);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_broker_that_restarts_does_not_disturb_an_attempt() {
    let servers = Private::start();
    scene(BackEnd::Postgres, "", async |scene| {
        let busy = busy(&scene, Made::default()).await;
        servers.manage("rabbitmq-restart", &[]).await;
        busy.goes_on(&scene).await;
    })
    .await;
}

/// A worker that is told to stop while a server is away ends in time, and nothing is lost.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_without_a_broker_ends_in_time_and_the_outbox_keeps_the_rest() {
    let servers = Private::start();
    scene(BackEnd::Postgres, "", async |scene| {
        scene.job("1");
        scene.lab.fail(Fault::new(
            "/logs",
            Effect::Drip(Duration::from_millis(100)),
        ));
        let mut worker = scene.worker("fetch");
        scene.fetch("lab", "1").await;
        wait_until("the log is being read", LIMIT, async || {
            scene.lab.count("/logs") > 0
        })
        .await;
        servers.manage("rabbitmqctl", &["stop_app"]).await;
        let told = Instant::now();
        worker.signal("TERM");
        assert_eq!(
            worker.ended(LIMIT).await.code(),
            Some(0),
            "what it had is in the store"
        );
        assert!(
            told.elapsed() < GRACE + Duration::from_secs(2),
            "{:?}",
            told.elapsed()
        );
        let view = scene.bench.view("fetch:lab/1").await;
        assert_eq!((view.state, view.interruptions), (State::Queued, 1));
        servers.manage("rabbitmqctl", &["start_app"]).await;
        scene.lab.heal();
        let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
        scene.reaches("lab", "1", "complete").await;
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_without_a_database_ends_in_time_and_rescue_goes_on() {
    let servers = Private::start();
    scene(BackEnd::Postgres, "", async |scene| {
        scene.job("1");
        scene.lab.fail(Fault::new(
            "/logs",
            Effect::Drip(Duration::from_millis(100)),
        ));
        let mut worker = scene.worker("fetch");
        scene.fetch("lab", "1").await;
        wait_until("the log is being read", LIMIT, async || {
            scene.lab.count("/logs") > 0
        })
        .await;
        scene.pause_watching();
        servers.pause_postgres("STOP");
        let told = Instant::now();
        worker.signal("TERM");
        assert_eq!(
            worker.ended(LIMIT).await.code(),
            Some(3),
            "what it could not write is left to rescue"
        );
        assert!(
            told.elapsed() < GRACE + Duration::from_secs(3),
            "{:?}",
            told.elapsed()
        );
        servers.pause_postgres("CONT");
        scene.lab.heal();
        let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
        scene.reaches("lab", "1", "complete").await;
    })
    .await;
}
