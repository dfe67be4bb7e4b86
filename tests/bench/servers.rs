//! The servers that `scripts/services` started, and fresh places in them.

use std::sync::Arc;

use longshore::broker::{Broker, QueueKind, Rabbit, RabbitConfig};
use longshore::clock::Clock;
use longshore::store::{Store, StoreConfig};

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

    /// A store in a schema of its own.
    pub(crate) async fn store(&self) -> Store {
        let config = StoreConfig {
            url: self.postgres.clone(),
            reader_url: None,
            schema: format!("bench_{}", uuid::Uuid::now_v7().simple()),
            connections: 8,
            password: None,
            locks: true,
        };
        let store = Store::open(&config, Clock::system()).unwrap();
        store.migrate().await.unwrap();
        store
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

/// The machine's processor, for the table's head.
pub(crate) fn machine() -> String {
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
