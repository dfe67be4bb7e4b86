//! A broker of one test: a SQLite file, or a virtual host of the RabbitMQ beside the tests.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use longshore::broker::{Broker, Consumer, Delivery, Embedded, QueueKind, Rabbit, RabbitConfig};
use longshore::id::WorkerId;
use longshore::store::{Member, Store};
use reqwest::Method;
use serde_json::{Value, json};

use super::{BackEnd, Bench, LIMIT, LONG, member, server, unique, wait_for, wait_until};

/// Which broker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Embedded,
    Rabbit,
}

/// A broker without queues; clones share it.
#[derive(Debug, Clone)]
pub(crate) struct Bell {
    pub(crate) kind: Kind,
    bench: Bench,
    vhost: String,
    client: reqwest::Client,
}

/// One worker process as the broker knows it.
#[derive(Debug)]
pub(crate) struct Peer {
    pub(crate) broker: Broker,
    pub(crate) id: WorkerId,
    store: Option<(Store, Member)>,
}

impl Bell {
    /// Runs `test` on a fresh broker, and takes that away whatever comes of it.
    pub(crate) async fn run<F: Future<Output = ()>>(kind: Kind, test: impl FnOnce(Self) -> F) {
        let bell = Self::new(kind).await;
        let outcome = AssertUnwindSafe(Box::pin(test(bell.clone())))
            .catch_unwind()
            .await;
        if kind == Kind::Rabbit {
            bell.api(Method::DELETE, &format!("vhosts/{}", bell.vhost), None)
                .await;
        }
        bell.bench.end().await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    async fn new(kind: Kind) -> Self {
        // The first test of a process chooses; others find it chosen.
        drop(rustls::crypto::ring::default_provider().install_default());
        let bell = Self {
            kind,
            bench: Bench::empty(BackEnd::Sqlite),
            vhost: unique(),
            client: reqwest::Client::builder()
                .timeout(Duration::from_secs(30))
                .build()
                .unwrap(),
        };
        match kind {
            Kind::Embedded => {
                bell.bench.store.migrate().await.unwrap();
            }
            Kind::Rabbit => {
                let vhost = &bell.vhost;
                bell.api(Method::PUT, &format!("vhosts/{vhost}"), None)
                    .await;
                let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
                bell.api(Method::PUT, &bell.permissions_path(), Some(all))
                    .await;
            }
        }
        bell
    }

    /// RabbitMQ's address, with this test's virtual host.
    pub(crate) fn url(&self) -> String {
        format!("{}/{}", server("LONGSHORE_TEST_AMQP_URL"), self.vhost)
    }

    /// Asks RabbitMQ's management API.
    pub(crate) async fn api(&self, method: Method, path: &str, body: Option<Value>) -> Value {
        let address = format!("{}/{path}", server("LONGSHORE_TEST_AMQP_API"));
        let mut request = self.client.request(method.clone(), &address);
        if let Some(body) = body {
            request = request.json(&body);
        }
        let answer = request.send().await.unwrap();
        assert!(
            answer.status().is_success(),
            "{method} {path}: {}",
            answer.status()
        );
        let text = answer.text().await.unwrap();
        serde_json::from_str(&text).unwrap_or(Value::Null)
    }

    /// Another worker.
    pub(crate) async fn peer(&self) -> Peer {
        self.peer_with(QueueKind::Classic).await
    }

    /// Another worker, which declares queues so (RabbitMQ).
    pub(crate) async fn peer_with(&self, queue_kind: QueueKind) -> Peer {
        let member = member();
        let id = member.id.clone();
        match self.kind {
            Kind::Embedded => {
                let store = self.bench.other();
                store.join(&member, "running", LONG).await.unwrap();
                store.hold(&member).await.unwrap();
                let broker = Embedded::new(store.clone(), id.clone());
                Peer {
                    broker: Broker::Embedded(Arc::new(broker)),
                    id,
                    store: Some((store, member)),
                }
            }
            Kind::Rabbit => Peer {
                broker: Broker::Rabbit(Arc::new(Rabbit::new(RabbitConfig {
                    url: self.url(),
                    queue_kind,
                    name: id.as_str().into(),
                    heartbeat: Duration::from_secs(10),
                }))),
                id,
                store: None,
            },
        }
    }

    /// Ends a worker as its death would be seen by the broker: its consumer ends, its connections or its lock go.
    pub(crate) async fn kill(&self, peer: Peer, mut consumer: Consumer) {
        let connections = match self.kind {
            Kind::Embedded => Vec::new(),
            Kind::Rabbit => self.listed(&peer).await,
        };
        consumer.quiet();
        // Held until the connection is gone: nothing is given back but by the death.
        let mut held = Vec::new();
        while let Some(delivery) = consumer.deliveries.recv().await {
            held.push(delivery);
        }
        if let Some((store, member)) = &peer.store {
            store.let_go(&member.id).await;
        }
        self.close(connections).await;
    }

    /// Closes each connection that RabbitMQ has of a worker, at least one.
    pub(crate) async fn cut(&self, peer: &Peer) {
        let connections = self.listed(peer).await;
        self.close(connections).await;
    }

    async fn close(&self, connections: Vec<String>) {
        for name in connections {
            let name = name.replace(' ', "%20").replace('>', "%3E");
            let address = format!("{}/connections/{name}", server("LONGSHORE_TEST_AMQP_API"));
            // One that ends by itself just then (another of the worker was closed) is answered with 500, and is gone the next time.
            wait_until("RabbitMQ has closed a connection", LIMIT, async || {
                let answer = self.client.delete(&address).send().await.unwrap();
                let status = answer.status();
                let gone = status == reqwest::StatusCode::NOT_FOUND;
                assert!(
                    gone || status.is_success() || status.is_server_error(),
                    "{status}"
                );
                !status.is_server_error()
            })
            .await;
        }
    }

    async fn listed(&self, peer: &Peer) -> Vec<String> {
        wait_for("RabbitMQ lists the connections", LIMIT, async || {
            let names = self.connections(peer).await;
            (!names.is_empty()).then_some(names)
        })
        .await
    }

    async fn connections(&self, peer: &Peer) -> Vec<String> {
        let path = format!("vhosts/{}/connections", self.vhost);
        let all = self.api(Method::GET, &path, None).await;
        let of_peer = |connection: &&Value| {
            let name = &connection["client_properties"]["connection_name"];
            let of_peer = name
                .as_str()
                .is_some_and(|name| name.starts_with(peer.id.as_str()));
            of_peer && connection["state"] == "running"
        };
        let found = all.as_array().unwrap().iter().filter(of_peer);
        found
            .map(|connection| connection["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// Waits until `count` messages wait on `queue`.
    pub(crate) async fn depth_is(&self, peer: &Peer, queue: &str, count: u64) {
        let what = format!("{count} messages wait on {queue}");
        wait_until(&what, LIMIT, async || {
            peer.broker
                .depth(queue)
                .await
                .is_ok_and(|depth| depth == count)
        })
        .await;
    }

    /// Makes a queue with priorities; every queue of the embedded broker has them.
    pub(crate) async fn priority_queue(&self, queue: &str) {
        if self.kind == Kind::Rabbit {
            let queue_type = json!({ "durable": true, "arguments": { "x-max-priority": 9 } });
            self.api(Method::PUT, &self.queue_path(queue), Some(queue_type))
                .await;
        }
    }

    /// The path of our user's permissions in the management API.
    pub(crate) fn permissions_path(&self) -> String {
        format!("permissions/{}/guest", self.vhost)
    }

    /// Closes every connection of this test's virtual host, at least one.
    pub(crate) async fn cut_all(&self) {
        let path = format!("vhosts/{}/connections", self.vhost);
        let names = wait_for("RabbitMQ lists the connections", LIMIT, async || {
            let all = self.api(Method::GET, &path, None).await;
            let names = all
                .as_array()
                .unwrap()
                .iter()
                .map(|one| one["name"].as_str().unwrap().to_owned());
            Some(names.collect::<Vec<_>>()).filter(|names| !names.is_empty())
        })
        .await;
        for name in names {
            let name = name.replace(' ', "%20").replace('>', "%3E");
            let address = format!("{}/connections/{name}", server("LONGSHORE_TEST_AMQP_API"));
            // One that has ended by itself meanwhile is as good as cut.
            drop(self.client.delete(&address).send().await.unwrap());
        }
    }

    /// The path of a queue in the management API.
    pub(crate) fn queue_path(&self, queue: &str) -> String {
        format!("queues/{}/{queue}", self.vhost)
    }
}

impl Peer {
    pub(crate) fn consume(&self, queue: &str, prefetch: u16) -> Consumer {
        self.broker.consume(&[queue.to_owned()], prefetch)
    }
}

/// The next delivery.
pub(crate) async fn next(consumer: &mut Consumer) -> Delivery {
    tokio::time::timeout(LIMIT, consumer.deliveries.recv())
        .await
        .expect("a delivery comes in time")
        .expect("the consumer goes on")
}
