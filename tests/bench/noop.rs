//! Durable tasks that do nothing: one worker, RabbitMQ and PostgreSQL, beside what the servers alone can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use longshore::broker::{Broker, Outgoing, QueueKind};
use longshore::codec;
use longshore::config::{Config, Pool, PoolKind};
use longshore::handler::{Outcome, Registry};
use longshore::pool::{self, Request, Setup};
use longshore::store::{State, Store};
use longshore::task::Task;
use tokio::sync::{Notify, mpsc};

use crate::{Figure, bare, figure, median, servers::Servers};

const TASKS: u64 = 60_000;
const SLOTS: u32 = 1000;
const RUNS: usize = 3;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let (mut ours, mut acks, mut sketch) = (Vec::new(), Vec::new(), Vec::new());
    for _ in 0..RUNS {
        acks.push(bare::consume(servers, &publish(servers).await, TASKS).await);
        sketch.push(bare::ledger(servers, &publish(servers).await, TASKS).await);
        let queue = publish(servers).await;
        ours.push(longshore(servers, &queue).await);
    }
    let (ours, acks, sketch) = (median(&mut ours), median(&mut acks), median(&mut sketch));
    vec![
        figure(
            "no-op tasks, durable, one worker (tasks/s)",
            format!("{ours:.0}"),
        ),
        figure(
            "  bare lapin, consume and multiple-ack (messages/s)",
            format!("{acks:.0}"),
        ),
        figure(
            "  bare sketch: lapin + PostgreSQL, all batched (tasks/s)",
            format!("{sketch:.0}"),
        ),
        figure(
            "  ratio to the bare sketch",
            format!("{:.2}", ours / sketch),
        ),
    ]
}

/// A queue with the tasks on it.
async fn publish(servers: &Servers) -> String {
    let broker = servers.broker(QueueKind::Classic);
    let queue = format!("bench.{}", uuid::Uuid::now_v7().simple());
    broker.declare(std::slice::from_ref(&queue)).await.unwrap();
    let messages = (0..TASKS)
        .map(|number| Outgoing {
            queue: queue.clone(),
            message: codec::encode(&Task::new("noop", &queue).with("n", number)),
        })
        .collect::<Vec<_>>();
    for chunk in messages.chunks(2000) {
        for answer in broker.publish(chunk).await {
            answer.unwrap();
        }
    }
    broker.close().await;
    queue
}

async fn longshore(servers: &Servers, queue: &str) -> f64 {
    let store = servers.store().await;
    let broker: Broker = servers.broker(QueueKind::Classic);
    let (done, all) = (Arc::new(AtomicU64::new(0)), Arc::new(Notify::new()));
    let mut registry = Registry::default();
    let (count, last) = (Arc::clone(&done), Arc::clone(&all));
    registry.add("noop", move |_, _| {
        if count.fetch_add(1, Ordering::Relaxed) + 1 == TASKS {
            last.notify_one();
        }
        async { Ok(Outcome::Done(serde_json::Value::Null)) }
    });
    let (requests, receiver) = mpsc::channel(1);
    let setup = setup(queue, SLOTS);
    let begun = Instant::now();
    let worker = tokio::task::spawn(pool::run(setup, store.clone(), broker, registry, receiver));
    all.notified().await;
    wait_done(&store).await;
    let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
    requests.send(Request::Stop).await.unwrap();
    let _exit = worker.await.unwrap().unwrap();
    rate
}

async fn wait_done(store: &Store) {
    while store
        .task_counts()
        .await
        .unwrap()
        .get(&State::Done)
        .copied()
        .unwrap_or_default()
        < TASKS as i64
    {
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

pub(crate) fn setup(queue: &str, slots: u32) -> Setup {
    let config = Config::embedded(std::path::Path::new("."));
    Setup {
        name: "bench".into(),
        pool: Pool {
            kind: PoolKind::Pinned,
            queues: vec![queue.to_owned()],
            slots,
        },
        worker: config.worker,
        policies: config.tasks,
        retention: config.retention.clone(),
        id: pool::member_id("bench"),
    }
}
