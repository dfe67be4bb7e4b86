//! A stand-in LAVA server on this machine: for the demo, for trying a configuration out, and for
//! tests. It serves test jobs that it makes up, by REST (version 0.2) and by XML-RPC, and can be
//! told to misbehave while it runs.
//!
//! Invariants: it listens on 127.0.0.1 only; never holds a log or an attachment in memory, however
//! large; it answers the same question about the same test job the same way each time, faults apart.

use std::collections::BTreeMap;
use std::io;
use std::net::{Ipv4Addr, SocketAddr};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::Router;
use axum::body::Body;
use axum::extract::{Request, State};
use axum::response::Response;
use tokio::net::TcpListener;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

pub use self::fault::{Effect, Fault};
pub use self::job::{LabAttachment, LabJob, LabSuite, LabTest, LabTests};

mod answer;
mod fault;
mod job;
mod rpc;

/// A running stand-in server. It stops when this is dropped.
#[derive(Debug)]
pub struct Lab {
    address: SocketAddr,
    shared: Arc<Shared>,
    stop: CancellationToken,
    tasks: TaskTracker,
}

/// What the server's requests share.
#[derive(Debug)]
struct Shared {
    jobs: Mutex<BTreeMap<String, Arc<LabJob>>>,
    faults: Mutex<Vec<Fault>>,
    requests: Mutex<BTreeMap<String, u64>>,
    /// Only requests that know it are answered.
    token: Mutex<Option<String>>,
    /// Entries of a page at most.
    page: Mutex<usize>,
    url: String,
}

/// Entries of a page, as a fresh LAVA server has them at most.
const PAGE: usize = 500;

impl Lab {
    /// Starts a server with `jobs`, misbehaving as `faults` say, on a free port.
    ///
    /// # Errors
    ///
    /// If no port can be had.
    pub async fn start(jobs: Vec<LabJob>, faults: Vec<Fault>) -> io::Result<Self> {
        let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
        let address = listener.local_addr()?;
        let jobs = jobs
            .into_iter()
            .map(|job| (job.id.clone(), Arc::new(job)))
            .collect();
        let shared = Arc::new(Shared {
            jobs: Mutex::new(jobs),
            faults: Mutex::new(faults),
            requests: Mutex::default(),
            token: Mutex::default(),
            page: Mutex::new(PAGE),
            url: format!("http://{address}"),
        });
        let router = Router::new()
            .fallback(serve)
            .with_state(Arc::clone(&shared));
        let (stop, tasks) = (CancellationToken::new(), TaskTracker::new());
        let stopped = stop.clone();
        tasks.spawn(async move {
            tokio::select! {
                () = stopped.cancelled() => {}
                outcome = axum::serve(listener, router) => {
                    if let Err(error) = outcome {
                        tracing::warn!(%error, "the stand-in server stopped");
                    }
                }
            }
        });
        tasks.close();
        Ok(Self {
            address,
            shared,
            stop,
            tasks,
        })
    }

    /// The server's address, without a trailing `/`.
    pub fn url(&self) -> &str {
        &self.shared.url
    }

    /// The address of the REST interface.
    pub fn rest_url(&self) -> String {
        format!("{}/api/v0.2/", self.shared.url)
    }

    /// The address of the XML-RPC interface.
    pub fn rpc_url(&self) -> String {
        format!("{}/RPC2", self.shared.url)
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Adds a test job, or replaces the one of its id: for instance by the same one, now finished.
    pub fn put(&self, job: LabJob) {
        lock(&self.shared.jobs).insert(job.id.clone(), Arc::new(job));
    }

    /// Adds a fault, from the next request on.
    pub fn fail(&self, fault: Fault) {
        lock(&self.shared.faults).push(fault);
    }

    /// Ends every fault.
    pub fn heal(&self) {
        lock(&self.shared.faults).clear();
    }

    /// From now on answers 401 to requests without this token.
    pub fn require_token(&self, token: impl Into<String>) {
        *lock(&self.shared.token) = Some(token.into());
    }

    /// From now on puts at most `entries` (at least 1) into one page of the REST interface.
    pub fn set_page(&self, entries: usize) {
        *lock(&self.shared.page) = entries.max(1);
    }

    /// How many requests of each path there were; those of XML-RPC stand as `/RPC2`.
    pub fn requests(&self) -> BTreeMap<String, u64> {
        lock(&self.shared.requests).clone()
    }

    /// How many requests there were of paths that contain `part`.
    pub fn count(&self, part: &str) -> u64 {
        lock(&self.shared.requests)
            .iter()
            .filter(|(path, _)| path.contains(part))
            .map(|(_, count)| count)
            .sum()
    }

    /// Stops the server and waits until it no longer listens.
    pub async fn stop(self) {
        self.stop.cancel();
        self.tasks.wait().await;
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl Shared {
    fn job(&self, id: &str) -> Option<Arc<LabJob>> {
        lock(&self.jobs).get(id).map(Arc::clone)
    }

    fn page(&self) -> usize {
        *lock(&self.page)
    }

    /// The fault for the next request of `path`, if one is in force; uses it up once.
    fn fault(&self, path: &str) -> Option<Effect> {
        lock(&self.faults)
            .iter_mut()
            .find_map(|fault| fault.strike(path))
    }

    fn may(&self, request: &Request) -> bool {
        match &*lock(&self.token) {
            Some(token) => answer::knows(request, token),
            None => true,
        }
    }
}

async fn serve(State(shared): State<Arc<Shared>>, request: Request) -> Response<Body> {
    let path = request.uri().path().to_owned();
    *lock(&shared.requests).entry(path.clone()).or_default() += 1;
    let effect = shared.fault(&path);
    if let Some(Effect::Delay(delay)) = &effect {
        tokio::time::sleep(*delay).await;
    }
    if let Some(early) = effect.as_ref().and_then(Effect::in_place) {
        return early;
    }
    let response = if path.starts_with("/attachments/") || shared.may(&request) {
        answer::to(&shared, request).await
    } else {
        answer::status(401)
    };
    match effect {
        Some(effect) => effect.upon(response).await,
        None => response,
    }
}

/// The lock's content; a panic elsewhere leaves these plain values usable.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
