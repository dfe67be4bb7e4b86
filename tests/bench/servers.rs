//! The servers that `scripts/services` started, and fresh places in them.

use std::process::Command;
use std::sync::Arc;

use longshore::broker::{Broker, QueueKind, Rabbit, RabbitConfig};
use longshore::clock::Clock;
use longshore::store::{Store, StoreConfig};
use sqlx::PgPool;
use sqlx::postgres::PgPoolOptions;

/// A store, and a connection beside it.
pub(crate) struct Ledger {
    pub(crate) store: Store,
    pub(crate) schema: String,
    pub(crate) pool: PgPool,
}

impl Ledger {
    /// Waits until no task runs. Asks an index alone, so that the wait costs the worker next to nothing.
    pub(crate) async fn at_rest(&self) {
        let query = format!(
            "select exists (select from {}.tasks where state = 'running')",
            self.schema
        );
        while sqlx::query_scalar(sqlx::AssertSqlSafe(query.clone()))
            .fetch_one(&self.pool)
            .await
            .unwrap()
        {
            tokio::time::sleep(std::time::Duration::from_millis(2)).await;
        }
    }
}

/// Where they are.
pub(crate) struct Servers {
    pub(crate) amqp: String,
    pub(crate) postgres: String,
}

impl Servers {
    pub(crate) fn from_env() -> Self {
        let get =
            |name: &str| std::env::var(name).expect("run scripts/bench, which starts the servers");
        Self {
            amqp: get("LONGSHORE_TEST_AMQP_URL"),
            postgres: get("LONGSHORE_TEST_PG_URL"),
        }
    }

    /// How a store in `schema` is opened.
    pub(crate) fn config(&self, schema: &str) -> StoreConfig {
        StoreConfig {
            url: self.postgres.clone(),
            reader_url: None,
            schema: schema.to_owned(),
            connections: 8,
            password: None,
            locks: true,
        }
    }

    /// A store in a schema of its own.
    pub(crate) async fn ledger(&self) -> Ledger {
        let schema = format!("bench_{}", uuid::Uuid::now_v7().simple());
        let store = Store::open(&self.config(&schema), Clock::system()).unwrap();
        store.migrate().await.unwrap();
        let pool = PgPoolOptions::new()
            .max_connections(1)
            .connect(&self.postgres)
            .await
            .unwrap();
        Ledger {
            store,
            schema,
            pool,
        }
    }

    /// Where, with what and when: the table's head.
    pub(crate) async fn head(&self) -> String {
        let pool = PgPoolOptions::new().connect(&self.postgres).await.unwrap();
        let postgres: String = sqlx::query_scalar("show server_version")
            .fetch_one(&pool)
            .await
            .unwrap();
        let manage = std::env::var("LONGSHORE_TEST_AMQP_MANAGE").unwrap();
        format!(
            "{} · {} cores · RabbitMQ {} · PostgreSQL {postgres} · {}",
            machine(),
            std::thread::available_parallelism().map_or(0, usize::from),
            said(Command::new(manage).args(["-q", "version"])),
            said(Command::new("date").args(["-u", "+%Y-%m-%d"])),
        )
    }

    /// A broker whose missing queues become classic ones.
    pub(crate) fn broker(&self, kind: QueueKind) -> Broker {
        Broker::Rabbit(Arc::new(Rabbit::new(RabbitConfig {
            url: self.amqp.clone(),
            queue_kind: kind,
            name: "bench".into(),
            heartbeat: std::time::Duration::from_secs(10),
        })))
    }
}

/// What a program prints.
fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    String::from_utf8_lossy(&output.stdout).trim().to_owned()
}

/// The machine's processor.
fn machine() -> String {
    std::fs::read_to_string("/proc/cpuinfo")
        .ok()
        .and_then(|text| {
            text.lines().find_map(|line| {
                Some(
                    line.strip_prefix("model name")?
                        .split_once(": ")?
                        .1
                        .to_owned(),
                )
            })
        })
        .unwrap_or_else(|| "unknown machine".into())
}
