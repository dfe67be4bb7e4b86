//! A worker within the test's own process, with handlers that the test writes.

use std::sync::Arc;
use std::time::Duration;

use longshore::broker::{Broker, Embedded, Outgoing, QueueKind, Rabbit, RabbitConfig};
use longshore::codec;
use longshore::config::{Config, Policies, Pool, PoolKind, Retention, Worker};
use longshore::handler::Registry;
use longshore::outbox;
use longshore::pool::{self, Exit, Request, Setup};
use longshore::store::{Store, StoreError};
use longshore::task::Task;
use tokio::sync::mpsc;
use tokio::task::JoinHandle;

use crate::harness::{LIMIT, wait_for};
use crate::scene::Scene;

pub(crate) const QUEUE: &str = "work";

/// A running worker.
pub(crate) struct Inside {
    pub(crate) requests: mpsc::Sender<Request>,
    ended: JoinHandle<Result<Exit, StoreError>>,
}

/// How the worker is made.
pub(crate) struct Made {
    pub(crate) pool: Pool,
    pub(crate) worker: Worker,
    pub(crate) policies: Policies,
    pub(crate) pod: Option<longshore::kube::Pod>,
    /// What its probes would be told.
    pub(crate) health: pool::Health,
}

impl Default for Made {
    fn default() -> Self {
        let Config {
            mut worker,
            mut tasks,
            ..
        } = Config::embedded(std::path::Path::new("."));
        worker.lease = Duration::from_secs(3);
        worker.grace = Duration::from_secs(3);
        worker.margin = Duration::from_secs(1);
        worker.checkpoint_every = Duration::from_millis(100);
        tasks.default.backoff_min = Duration::from_millis(50);
        Self {
            pool: Pool {
                kind: PoolKind::Pinned,
                queues: vec![QUEUE.into()],
                slots: 4,
            },
            worker,
            policies: tasks,
            pod: None,
            health: pool::Health::default(),
        }
    }
}

impl Scene {
    /// The broker as another worker uses it.
    pub(crate) fn broker(&self, store: &Store, id: &longshore::id::WorkerId) -> Broker {
        match &self.bell {
            None => Broker::Embedded(Arc::new(Embedded::new(store.clone(), id.clone()))),
            Some(bell) => Broker::Rabbit(Arc::new(Rabbit::new(RabbitConfig {
                url: bell.url(),
                queue_kind: QueueKind::Classic,
                name: id.to_string(),
                heartbeat: Duration::from_secs(5),
            }))),
        }
    }

    /// Starts a worker in this process, with a handle on the store of its own.
    pub(crate) fn inside(&self, registry: Registry, made: Made) -> Inside {
        let store = self.bench.other();
        let Made {
            pool,
            worker,
            policies,
            pod,
            health,
        } = made;
        let id = pod.as_ref().map_or_else(
            || pool::member_id("inside"),
            |pod| pool::pod_member_id(pod.name(), pod.uid()),
        );
        let broker = self.broker(&store, &id);
        let retention = Retention {
            finished_tasks: Duration::from_secs(3600),
            abandoned_runs: Duration::from_secs(3600),
        };
        let setup = Setup {
            name: "inside".into(),
            pool,
            worker,
            policies,
            retention,
            celery: longshore::celery::Celery::new(
                Config::embedded(std::path::Path::new(".")).celery,
            ),
            id,
            pod,
            health,
            terms: Arc::default(),
            following: None,
        };
        let (requests, receiver) = mpsc::channel(4);
        let ended = tokio::task::spawn(pool::run(setup, store, broker, registry, receiver));
        Inside { requests, ended }
    }

    /// Enqueues tasks, and publishes what announces them.
    pub(crate) async fn enqueue(&self, tasks: &[Task]) {
        // A connection of the test's own may have been cut, too.
        let enqueued = wait_for("the store takes tasks", LIMIT, async || {
            self.bench.store.enqueue(tasks).await.ok()
        })
        .await;
        let broker = self.broker(&self.bench.store, &pool::member_id("enqueue"));
        outbox::publish(&self.bench.store, &broker, &enqueued.rings).await;
        broker.close().await;
    }
}

impl Scene {
    /// Publishes messages as any producer does, whatever the store says of their tasks.
    pub(crate) async fn announce(&self, tasks: &[Task]) {
        let broker = self.broker(&self.bench.store, &pool::member_id("producer"));
        let messages = tasks
            .iter()
            .map(|task| Outgoing {
                queue: task.queue.clone(),
                message: codec::encode(task),
                optional: false,
            })
            .collect::<Vec<_>>();
        for answer in broker.publish(&messages).await {
            answer.unwrap();
        }
        broker.close().await;
    }
}

impl Inside {
    /// Asks it to stop.
    pub(crate) async fn stop(&self) {
        self.requests.send(Request::Stop).await.unwrap();
    }

    /// Waits for its end.
    pub(crate) async fn ended(self) -> Exit {
        tokio::time::timeout(LIMIT, self.ended)
            .await
            .expect("the worker ends")
            .unwrap()
            .unwrap()
    }
}
