//! A Kubernetes API server for tests: plain HTTP on a port of its own, all state in memory.
//!
//! It models, as far as the worker, `longshore drain` and the real kubectl see it:
//! - discovery, with `pods/eviction`; namespaces, pods, nodes, PodDisruptionBudgets, StatefulSets, DaemonSets, ReplicaSets,
//!   leases and `events.k8s.io` events; get, list, create, update, merge and strategic merge patch, delete, `…/status`,
//!   dry runs;
//! - one resource version for all, 409 where a version or a UID does not fit, no new version without a change;
//! - label and field selectors; watches from a version or from the beginning (also `sendInitialEvents`), with what a
//!   change is to a selector, bookmarks before the end and when a test asks, `timeoutSeconds`, 410 for a forgotten version;
//! - graceful deletion (`deletionTimestamp` = now + grace in whole seconds; later deletions only shorten it, from the
//!   original start) and evictions by the rules of the API server, in two steps between which others may come;
//! - the disruption controller (`budget`), without lag unless it is paused; of the ReplicaSet's, whom it ends when a set
//!   shrinks (`scale`);
//! - the kubelet of pods that have a process (`kubelet`): SIGTERM, SIGKILL at the deadline, the phase, the pod's removal;
//! - faults by rule, and gates at which a test holds requests, so that tests interleave without sleeping.
//!
//! It does not model: who may do what (a fault says 403), validation and which fields may change, finalizers, owners and
//! garbage collection, server-side apply and JSON patches (415), pages of a list, reads at a version, aggregated
//! discovery, OpenAPI, protobuf, the scheduler, and controllers other than those two. The real kubectl is the
//! independent client of it (`kubectl`), and a real API server can be asked the same as it (`contract`).

mod budget;
mod build;
mod client;
mod contract;
mod door;
mod evict;
mod evictions;
mod faults;
mod kind;
mod kubectl;
mod kubelet;
mod patch;
mod refusal;
mod scale;
mod scaling;
mod select;
mod server;
mod state;
mod table;
mod traffic;
mod watch;
mod watching;
mod wire;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::{Arc, Mutex};

use axum::Router;
use serde_json::{Value, json};
use tokio::net::{TcpListener, TcpSocket};
use tokio::runtime::{Builder, Runtime};

pub(crate) use build::{BUSY, Budget, NAMESPACE, Pod};
pub(crate) use kubectl::{DRAIN, Kubectl, ended};
pub(crate) use state::Ending;
pub(crate) use traffic::{Fault, Gate, Held, Rule, Seen};

use crate::harness::{Folder, LIMIT};
use door::{Cutter, Door};
use kind::Kind;
use server::Server;
use state::{Key, Record, State};

/// A cluster of this test alone, gone when it is dropped.
#[derive(Debug)]
pub(crate) struct Cluster {
    server: Arc<Server>,
    address: SocketAddr,
    running: Mutex<Running>,
}

/// The server has a runtime of its own, so that it can go away with all its connections.
#[derive(Debug)]
enum Running {
    Here(Runtime),
    /// The port is kept and refuses connections.
    Away(TcpSocket),
    /// Between the two.
    Neither,
}

impl Cluster {
    pub(crate) fn start() -> Self {
        let listener = std::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let address = listener.local_addr().unwrap();
        let server = Arc::new(Server::new());
        listener.set_nonblocking(true).unwrap();
        let runtime = serve(&server, || TcpListener::from_std(listener).unwrap());
        Self {
            server,
            address,
            running: Mutex::new(Running::Here(runtime)),
        }
    }

    pub(crate) fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// Writes a kubeconfig for it; its default namespace is [`NAMESPACE`].
    pub(crate) fn kubeconfig(&self, folder: &Folder) -> PathBuf {
        let path = folder.join("kubeconfig");
        let config = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": self.url()}}],
            "users": [{"name": "test", "user": {}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test", "namespace": NAMESPACE}}],
        });
        std::fs::write(&path, config.to_string()).unwrap();
        path
    }

    /// Goes away: connections break, new ones are refused. What it knows stays.
    pub(crate) fn away(&self) {
        let mut running = self.running.lock().unwrap();
        let Running::Here(runtime) = std::mem::replace(&mut *running, Running::Neither) else {
            panic!("it is not there");
        };
        // The listener is closed when its task is dropped, which this waits for.
        std::thread::spawn(move || drop(runtime)).join().unwrap();
        let socket = TcpSocket::new_v4().unwrap();
        socket.set_reuseaddr(true).unwrap();
        socket.bind(self.address).unwrap();
        *running = Running::Away(socket);
    }

    /// Is there again, at the same address.
    pub(crate) fn back(&self) {
        let mut running = self.running.lock().unwrap();
        let Running::Away(socket) = std::mem::replace(&mut *running, Running::Neither) else {
            panic!("it is not away");
        };
        let runtime = serve(&self.server, || socket.listen(128).unwrap());
        *running = Running::Here(runtime);
    }

    pub(crate) fn add_node(&self, name: &str) {
        self.add("nodes", build::node(name));
    }

    /// Adds the pod, and its owner if that is not there.
    pub(crate) fn add_pod(&self, pod: Pod) {
        let Pod { mut object, owner } = pod;
        if let Some(owner) = owner {
            let kind = Kind::of(owner.plural);
            let key = Key::new(kind, NAMESPACE, &owner.name);
            let found = self.server.look(|state| state.get(&key).cloned());
            let found = found.unwrap_or_else(|| {
                let meta = json!({"name": owner.name, "namespace": NAMESPACE});
                self.add(
                    owner.plural,
                    json!({"metadata": meta, "spec": {"replicas": owner.replicas}}),
                )
            });
            object["metadata"]["ownerReferences"] = json!([{
                "apiVersion": kind.api_version(), "kind": kind.kind, "name": owner.name,
                "uid": found["metadata"]["uid"], "controller": true, "blockOwnerDeletion": true,
            }]);
        }
        self.add("pods", object);
    }

    pub(crate) fn add_budget(&self, budget: Budget) {
        self.add("poddisruptionbudgets", budget.0);
    }

    fn add(&self, plural: &str, object: Value) -> Value {
        let added = self
            .server
            .change(|state| state.create(Kind::of(plural), object));
        added.unwrap_or_else(|refusal| panic!("{plural}: {refusal:?}"))
    }

    /// The object as it is now; of [`NAMESPACE`], if its kind has one.
    pub(crate) fn object(&self, plural: &str, name: &str) -> Option<Value> {
        let key = Key::new(Kind::of(plural), NAMESPACE, name);
        self.server.look(|state| state.get(&key).cloned())
    }

    /// The namespaces in which there is anything, or that were made.
    fn spaces(&self) -> Vec<String> {
        self.server.look(State::spaces)
    }

    pub(crate) fn pod(&self, name: &str) -> Option<Value> {
        self.object("pods", name)
    }

    /// Changes an object, as somebody else in the cluster would.
    pub(crate) fn edit(&self, plural: &str, name: &str, edit: impl FnOnce(&mut Value)) {
        let key = Key::new(Kind::of(plural), NAMESPACE, name);
        self.server.change(|state| {
            let mut object = state.find(&key).expect("it is there").clone();
            edit(&mut object);
            state.put(&key, object);
        });
    }

    /// Removes an object with no grace, as the end of a pod or the loss of a node does.
    pub(crate) fn remove(&self, plural: &str, name: &str) {
        let key = Key::new(Kind::of(plural), NAMESPACE, name);
        let old = self.server.change(|state| state.remove(&key));
        assert!(old.is_some(), "{plural} {name} is not there");
    }

    /// The version that the last change had.
    pub(crate) fn version(&self) -> u64 {
        self.server.look(|state| state.version)
    }

    /// Forgets what has happened: watches from before now are expired.
    pub(crate) fn forget(&self) {
        self.server.change(|state| state.floor = state.version);
    }

    /// Does `what` to the open watches of `plural` (`*`: of all).
    pub(crate) fn watches(&self, plural: &str, what: Ending) {
        let plural = plural.to_owned();
        self.server
            .change(|state| state.history.push(Record::Watches { plural, what }));
    }

    /// The disruption controller stops, or works again and looks at every budget.
    pub(crate) fn disruption_controller(&self, works: bool) {
        self.server.change(|state| {
            state.controller = works;
            if works {
                budget::sync_all(state);
            }
        });
    }

    /// From now on `fault` happens to the requests of `rule`; of several, the first that fits.
    pub(crate) fn fault(&self, rule: Rule, fault: Fault) {
        self.server.traffic.fault(rule, fault);
    }

    /// No fault any more.
    pub(crate) fn lift_faults(&self) {
        self.server.traffic.lift();
    }

    /// Holds the requests of `rule` from now on, until the gate is dropped.
    pub(crate) fn gate(&self, rule: Rule) -> Gate {
        self.server.traffic.gate(rule)
    }

    /// Every request so far.
    pub(crate) fn log(&self) -> Vec<Seen> {
        self.server.traffic.log()
    }

    /// The requests of `rule` so far.
    pub(crate) fn requests(&self, rule: &Rule) -> Vec<Seen> {
        let mut log = self.log();
        log.retain(|seen| rule.matches(seen));
        log
    }

    /// Waits until `look` finds something; it looks again at each change and each request.
    pub(crate) async fn until<T>(&self, what: &str, mut look: impl FnMut(&Self) -> Option<T>) -> T {
        let mut moves = self.server.moves();
        let found = async {
            loop {
                moves.borrow_and_update();
                if let Some(found) = look(self) {
                    return found;
                }
                moves.changed().await.expect("the server is there");
            }
        };
        let found = tokio::time::timeout(LIMIT, found).await;
        found.unwrap_or_else(|_| panic!("waited {LIMIT:?} in vain until {what}; {:#?}", self.log()))
    }
}

/// Serves in a runtime of its own.
fn serve(server: &Arc<Server>, listener: impl FnOnce() -> TcpListener) -> Runtime {
    let runtime = Builder::new_multi_thread()
        .worker_threads(1)
        .thread_name("cluster")
        .enable_all()
        .build()
        .unwrap();
    let app = Router::new()
        .fallback(server::answer)
        .with_state(Arc::clone(server))
        .into_make_service_with_connect_info::<Cutter>();
    let entered = runtime.enter();
    let door = Door(listener());
    drop(entered);
    runtime.spawn(async move { axum::serve(door, app).await.unwrap() });
    runtime
}

impl Drop for Cluster {
    fn drop(&mut self) {
        let running = std::mem::replace(self.running.get_mut().unwrap(), Running::Neither);
        match running {
            Running::Here(runtime) => runtime.shutdown_background(),
            Running::Away(_) | Running::Neither => {}
        }
    }
}
