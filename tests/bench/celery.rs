//! What it costs to tell Celery's tools of each task: no-op tasks without events, with events that nobody reads, and with a
//! reader as Flower is one.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use futures::StreamExt as _;
use lapin::options::{
    BasicConsumeOptions, ExchangeDeclareOptions, QueueBindOptions, QueueDeclareOptions,
};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties, ExchangeKind};
use longshore::celery::events::EXCHANGE;
use longshore::config::Tools;

use crate::servers::Servers;
use crate::{Figure, figure, median, noop};

const RUNS: usize = 5;
/// Of a task that is done: received, started, succeeded.
const EVENTS: u64 = 3;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let (mut off, mut unread, mut read) = (Vec::new(), Vec::new(), Vec::new());
    let (mut unread_ratios, mut read_ratios, mut heard) = (Vec::new(), Vec::new(), Vec::new());
    for run in 0..RUNS {
        let mut rates = [0.0; 3];
        // Whoever comes later finds the servers warmer and fuller.
        for turn in 0..rates.len() {
            let which = (run + turn) % rates.len();
            let ledger = servers.ledger().await;
            rates[which] = match which {
                0 => noop::told(&ledger, servers, Tools::Off).await,
                1 => noop::told(&ledger, servers, Tools::Events).await,
                _ => {
                    let reader = Reader::start(servers).await;
                    let rate = noop::told(&ledger, servers, Tools::Events).await;
                    heard.push(reader.end().await as f64 / (EVENTS * noop::TASKS) as f64);
                    rate
                }
            };
        }
        let [without, with, with_reader] = rates;
        eprintln!("  {without:.0}, {with:.0} and with a reader {with_reader:.0}");
        off.push(without);
        unread.push(with);
        read.push(with_reader);
        unread_ratios.push(with / without);
        read_ratios.push(with_reader / without);
    }
    let line = |what: &str, rates: &mut [f64], ratios: Option<&mut [f64]>| {
        let ratio = ratios.map(|ratios| format!(" ({:.2} ×)", median(ratios)));
        let rate = median(rates);
        let cost = 1e6 / rate;
        figure(
            format!("no-op tasks, {what} (tasks/s)"),
            format!("{rate:.0}, {cost:.0} µs each{}", ratio.unwrap_or_default()),
        )
    };
    let mut figures = vec![
        line("events off", &mut off, None),
        line(
            "events on, no reader",
            &mut unread,
            Some(&mut unread_ratios),
        ),
        line("events on, one reader", &mut read, Some(&mut read_ratios)),
    ];
    figures.push(figure(
        "  … of whose events the reader got, the others were dropped",
        format!("{:.0} %", 100.0 * median(&mut heard)),
    ));
    figures
}

/// Takes all events of tasks and counts them.
struct Reader {
    connection: Connection,
    events: Arc<AtomicU64>,
    reading: tokio::task::JoinHandle<()>,
}

impl Reader {
    async fn start(servers: &Servers) -> Self {
        let connection = Connection::connect(&servers.amqp, ConnectionProperties::default())
            .await
            .unwrap();
        let channel = connection.create_channel().await.unwrap();
        let queue = format!("celeryev.{}", uuid::Uuid::now_v7());
        let options = ExchangeDeclareOptions {
            durable: true,
            ..Default::default()
        };
        channel
            .exchange_declare(
                EXCHANGE.into(),
                ExchangeKind::Topic,
                options,
                FieldTable::default(),
            )
            .await
            .unwrap();
        let options = QueueDeclareOptions {
            exclusive: true,
            auto_delete: true,
            ..Default::default()
        };
        channel
            .queue_declare(queue.as_str().into(), options, FieldTable::default())
            .await
            .unwrap();
        channel
            .queue_bind(
                queue.as_str().into(),
                EXCHANGE.into(),
                "task.#".into(),
                QueueBindOptions::default(),
                FieldTable::default(),
            )
            .await
            .unwrap();
        let options = BasicConsumeOptions {
            no_ack: true,
            ..Default::default()
        };
        let mut consumer = channel
            .basic_consume(
                queue.as_str().into(),
                "".into(),
                options,
                FieldTable::default(),
            )
            .await
            .unwrap();
        let events = Arc::new(AtomicU64::new(0));
        let count = Arc::clone(&events);
        let reading = tokio::task::spawn(async move {
            while let Some(Ok(delivery)) = consumer.next().await {
                let batch: Vec<serde_json::Value> = serde_json::from_slice(&delivery.data).unwrap();
                count.fetch_add(batch.len() as u64, Ordering::Relaxed);
            }
            drop(channel);
        });
        Self {
            connection,
            events,
            reading,
        }
    }

    /// How many came. What is under way when the worker has ended does not count: nobody can say how long to wait for it.
    async fn end(self) -> u64 {
        self.connection.close(200, "".into()).await.unwrap();
        self.reading.await.unwrap();
        self.events.load(Ordering::Relaxed)
    }
}
