//! What the servers alone can do: the ceilings that a worker is measured against.

use std::time::Instant;

use futures::StreamExt as _;
use lapin::options::{BasicAckOptions, BasicConsumeOptions, BasicQosOptions};
use lapin::types::FieldTable;
use lapin::{Connection, ConnectionProperties};
use sqlx::postgres::PgPoolOptions;
use sqlx::{Executor, Row};

use crate::servers::Servers;

const PREFETCH: u16 = 1000;
const BATCH: usize = 256;

/// Consumes and acknowledges, nothing else.
pub(crate) async fn consume(servers: &Servers, queue: &str, messages: u64) -> f64 {
    let begun = Instant::now();
    let connection = Connection::connect(&servers.amqp, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .unwrap();
    let mut consumer = channel
        .basic_consume(
            queue.into(),
            "bare".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap();
    let mut seen = 0;
    while seen < messages {
        let delivery = consumer.next().await.unwrap().unwrap();
        seen += 1;
        if seen % BATCH as u64 == 0 || seen == messages {
            channel
                .basic_ack(delivery.delivery_tag, BasicAckOptions { multiple: true })
                .await
                .unwrap();
        }
    }
    messages as f64 / begun.elapsed().as_secs_f64()
}

/// A durable ledger with nothing around it: claims, completions and acknowledgements of up to 256 tasks share a commit
/// and a frame; one batch is claimed while the one before it is completed.
pub(crate) async fn ledger(servers: &Servers, queue: &str, messages: u64) -> f64 {
    let pool = PgPoolOptions::new()
        .max_connections(4)
        .connect(&servers.postgres)
        .await
        .unwrap();
    pool.execute("drop table if exists bench_ledger")
        .await
        .unwrap();
    pool.execute("create table bench_ledger (id text primary key, state text not null, epoch bigint not null, task text not null, ended_at bigint)").await.unwrap();
    let begun = Instant::now();
    let connection = Connection::connect(&servers.amqp, ConnectionProperties::default())
        .await
        .unwrap();
    let channel = connection.create_channel().await.unwrap();
    channel
        .basic_qos(PREFETCH, BasicQosOptions::default())
        .await
        .unwrap();
    let mut consumer = channel
        .basic_consume(
            queue.into(),
            "bare".into(),
            BasicConsumeOptions::default(),
            FieldTable::default(),
        )
        .await
        .unwrap()
        .ready_chunks(BATCH);
    let (sender, mut claimed) = tokio::sync::mpsc::channel::<(Vec<String>, u64)>(2);
    let completions = pool.clone();
    let acks = channel.clone();
    let completing = tokio::task::spawn(async move {
        let mut done = 0;
        while done < messages {
            let (ids, tag) = claimed.recv().await.unwrap();
            done += ids.len() as u64;
            sqlx::query("update bench_ledger set state = 'done', ended_at = 1 from unnest($1::text[]) as i(id) where bench_ledger.id = i.id and epoch = 1 returning bench_ledger.id")
                .bind(&ids).fetch_all(&completions).await.unwrap();
            acks.basic_ack(tag, BasicAckOptions { multiple: true })
                .await
                .unwrap();
        }
    });
    let mut seen = 0;
    while seen < messages {
        let deliveries = consumer
            .next()
            .await
            .unwrap()
            .into_iter()
            .map(Result::unwrap)
            .collect::<Vec<_>>();
        seen += deliveries.len() as u64;
        let tag = deliveries.last().unwrap().delivery_tag;
        let ids = deliveries
            .iter()
            .map(|delivery| {
                longshore::codec::decode(
                    &longshore::codec::Message {
                        content_type: Some(longshore::codec::NATIVE.into()),
                        body: delivery.data.clone().into(),
                        ..Default::default()
                    },
                    queue,
                )
                .unwrap()
                .id
                .to_string()
            })
            .collect::<Vec<_>>();
        let bodies = deliveries
            .iter()
            .map(|delivery| format!("{:?}", delivery.data.len()))
            .collect::<Vec<_>>();
        let rows = sqlx::query("insert into bench_ledger (id, state, epoch, task) select i.id, 'running', 1, i.body from unnest($1::text[], $2::text[]) as i(id, body) on conflict (id) do nothing returning id")
            .bind(&ids).bind(&bodies).fetch_all(&pool).await.unwrap();
        let ids = rows.iter().map(|row| row.get::<String, _>(0)).collect();
        sender.send((ids, tag)).await.unwrap();
    }
    completing.await.unwrap();
    messages as f64 / begun.elapsed().as_secs_f64()
}
