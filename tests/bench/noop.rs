//! Durable tasks that do nothing: one worker, RabbitMQ and PostgreSQL, beside what the servers alone can do.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use longshore::broker::{Broker, Outgoing, QueueKind};
use longshore::codec;
use longshore::config::{Config, Pool, PoolKind, Tools};
use longshore::handler::{Outcome, Registry, Terms};
use longshore::pool::{self, Request, Setup};
use longshore::task::Task;
use tokio::sync::{Notify, mpsc};

use crate::servers::{Ledger, Servers};
use crate::{Figure, bare, figure, median};

pub(crate) const TASKS: u64 = 60_000;
const SLOTS: u32 = 1000;
const RUNS: usize = 5;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let (mut ours, mut acks, mut sketch) = (Vec::new(), Vec::new(), Vec::new());
    let mut ratios = Vec::new();
    for run in 0..RUNS {
        acks.push(bare::consume(servers, &publish(servers).await, TASKS).await);
        // Whoever comes second finds the servers warmer and fuller.
        let (rate, ceiling) = if run % 2 == 0 {
            let ceiling = bare::ledger(servers, &publish(servers).await, TASKS).await;
            (longshore(&servers.ledger().await, servers).await, ceiling)
        } else {
            let rate = longshore(&servers.ledger().await, servers).await;
            (
                rate,
                bare::ledger(servers, &publish(servers).await, TASKS).await,
            )
        };
        eprintln!("  {rate:.0} of {ceiling:.0}");
        ours.push(rate);
        sketch.push(ceiling);
        ratios.push(rate / ceiling);
    }
    vec![
        figure(
            "no-op tasks, durable, one worker (tasks/s)",
            format!("{:.0}", median(&mut ours)),
        ),
        figure(
            "  bare lapin, consume and multiple-ack (messages/s)",
            format!("{:.0}", median(&mut acks)),
        ),
        figure(
            "  bare sketch: lapin + PostgreSQL, all batched (tasks/s)",
            format!("{:.0}", median(&mut sketch)),
        ),
        figure(
            format!("  ratio to the bare sketch, median of {RUNS} runs"),
            format!("{:.2}", median(&mut ratios)),
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
            optional: false,
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

/// Tasks a second of one worker on this store.
pub(crate) async fn longshore(ledger: &Ledger, servers: &Servers) -> f64 {
    told(ledger, servers, Tools::Off).await
}

/// The same, of a worker that tells Celery's tools what these want.
pub(crate) async fn told(ledger: &Ledger, servers: &Servers, tools: Tools) -> f64 {
    under(ledger, servers, tools, Arc::default()).await
}

/// The same, of attempts that are told these terms.
pub(crate) async fn under(
    ledger: &Ledger,
    servers: &Servers,
    tools: Tools,
    terms: Arc<Terms>,
) -> f64 {
    let queue = &publish(servers).await;
    let store = ledger.store.clone();
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
    let setup = Setup {
        terms,
        ..setup(queue, SLOTS, tools)
    };
    let begun = Instant::now();
    let worker = tokio::task::spawn(pool::run(setup, store, broker, registry, receiver));
    all.notified().await;
    ledger.at_rest().await;
    let rate = TASKS as f64 / begun.elapsed().as_secs_f64();
    requests.send(Request::Stop).await.unwrap();
    let _exit = worker.await.unwrap().unwrap();
    rate
}

fn setup(queue: &str, slots: u32, tools: Tools) -> Setup {
    let mut config = Config::embedded(std::path::Path::new("."));
    config.celery.tools = tools;
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
        celery: longshore::celery::Celery::new(config.celery),
        id: pool::member_id("bench"),
        pod: None,
        health: pool::Health::default(),
        terms: Arc::default(),
        following: None,
    }
}
