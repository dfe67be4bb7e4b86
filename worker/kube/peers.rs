//! The pods of all pools in this namespace, as the maintenance leader follows them: one that is gone or
//! has ended ends its workers' leases at once.
//!
//! Only what was seen counts: a pod that was there and is no longer, or that says itself that it has
//! ended. A pod that was never seen (another cluster's, another namespace's, one too new) is no dead pod.

use std::collections::{HashMap, HashSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::Pod as PodObject;
use kube::ResourceExt as _;
use kube::api::{ListParams, WatchEvent, WatchParams};
use tokio::sync::Notify;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};

use super::api::{Away, Call, away};
use super::{POOL_LABEL, Pod};

/// How long one watch lasts before the list is read anew.
const WATCH: Duration = Duration::from_secs(120);
/// Between two tries.
const PAUSE: Duration = Duration::from_secs(5);
/// How many pods one page of the list has.
const PAGE: u32 = 250;
/// A pod that ended is remembered for this long: until then its workers are off the store's list, or the lease ended them.
const MEMORY: Duration = Duration::from_secs(600);

/// Which pods have ended. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Peers(Arc<Shared>);

#[derive(Debug, Default)]
struct Shared {
    pods: Mutex<Pods>,
    changed: Notify,
}

/// Ends the following when it is dropped.
#[derive(Debug)]
pub struct Following(#[expect(dead_code, reason = "its drop is what it is for")] DropGuard);

/// By uid.
#[derive(Debug, Default)]
struct Pods {
    live: HashSet<String>,
    ended: HashMap<String, Instant>,
}

impl Peers {
    /// Whether the pod with this uid is known to have ended.
    pub fn is_gone(&self, uid: &str) -> bool {
        self.pods(|pods| pods.ended.contains_key(uid))
    }

    /// Waits until a pod has ended.
    pub async fn changed(&self) {
        self.0.changed.notified().await;
    }

    fn pods<T>(&self, with: impl FnOnce(&mut Pods) -> T) -> T {
        with(&mut self.0.pods.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// All pods that there are.
    fn saw_all(&self, all: &[PodObject]) {
        let listed = all.iter().filter_map(uid).collect::<HashSet<_>>();
        let missing = self.pods(|pods| {
            pods.ended.retain(|_, when| when.elapsed() < MEMORY);
            pods.live.difference(&listed).cloned().collect::<Vec<_>>()
        });
        missing.into_iter().for_each(|uid| self.ended(uid));
        all.iter().for_each(|pod| self.saw(pod));
    }

    fn saw(&self, pod: &PodObject) {
        let Some(uid) = uid(pod) else { return };
        if has_ended(pod) {
            self.ended(uid);
        } else {
            self.pods(|pods| pods.live.insert(uid));
        }
    }

    fn ended(&self, uid: String) {
        let is_new = self.pods(|pods| {
            pods.live.remove(&uid);
            pods.ended.insert(uid, Instant::now()).is_none()
        });
        if is_new {
            self.0.changed.notify_one();
        }
    }

    /// Follows the pods through the own pod's rights, until the guard is dropped.
    #[must_use]
    pub fn followed_by(self, pod: Pod) -> Following {
        let end = CancellationToken::new();
        let ended = end.clone();
        let tasks = pod.0.tasks.clone();
        tasks.spawn(async move {
            let _ = ended.run_until_cancelled(self.follow(&pod)).await;
            pod.0.api.forget(Call::WatchPeers);
        });
        Following(end.drop_guard())
    }

    async fn follow(&self, pod: &Pod) {
        loop {
            if let Err(error) = self.once(pod).await {
                pod.0.api.note(Call::WatchPeers, Some(&error));
                tokio::time::sleep(PAUSE).await;
            }
        }
    }

    async fn once(&self, pod: &Pod) -> Result<(), Away> {
        let limit = pod.0.api.timeout();
        let late = |_| Away::Silent(format!("no answer in {limit:?}"));
        let pods = pod.pods();
        let mut page = ListParams::default().labels(POOL_LABEL).limit(PAGE);
        let mut all = Vec::new();
        let version = loop {
            let list = tokio::time::timeout(limit, pods.list(&page))
                .await
                .map_err(late)?
                .map_err(away)?;
            all.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page = page.continue_token(&token),
                None => break list.metadata.resource_version.unwrap_or_default(),
            }
        };
        self.saw_all(&all);
        drop(all);
        let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
        let parameters = WatchParams::default().labels(POOL_LABEL).timeout(seconds);
        let stream = tokio::time::timeout(limit, pods.watch(&parameters, &version))
            .await
            .map_err(late)?
            .map_err(away)?;
        pod.0.api.note(Call::WatchPeers, None);
        let mut stream = std::pin::pin!(stream);
        let end = Instant::now() + WATCH + limit;
        while let Ok(Some(event)) = tokio::time::timeout_at(end, stream.next()).await {
            match event.map_err(away)? {
                WatchEvent::Added(pod) | WatchEvent::Modified(pod) => self.saw(&pod),
                WatchEvent::Deleted(pod) => {
                    if let Some(uid) = uid(&pod) {
                        self.ended(uid);
                    }
                }
                WatchEvent::Bookmark(_) => {}
                WatchEvent::Error(status) if status.code == 410 => return Ok(()),
                WatchEvent::Error(status) => return Err(away(::kube::Error::Api(status))),
            }
        }
        Ok(())
    }
}

fn uid(pod: &PodObject) -> Option<String> {
    pod.uid()
}

/// Whether nothing of the pod runs any more, by its own word.
fn has_ended(pod: &PodObject) -> bool {
    let phase = pod
        .status
        .as_ref()
        .and_then(|status| status.phase.as_deref());
    matches!(phase, Some("Succeeded" | "Failed"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn pod(uid: &str, phase: &str) -> PodObject {
        serde_json::from_value(json!({ "metadata": { "uid": uid }, "status": { "phase": phase } }))
            .unwrap()
    }

    #[test]
    fn a_pod_that_vanished_or_ended_is_gone_and_an_unknown_one_is_not() {
        let peers = Peers::default();
        peers.saw_all(&[pod("a", "Running"), pod("b", "Running"), pod("c", "Failed")]);
        assert_eq!(
            ["a", "b", "c", "d"].map(|uid| peers.is_gone(uid)),
            [false, false, true, false]
        );
        peers.saw_all(&[pod("b", "Running")]);
        assert_eq!(["a", "b"].map(|uid| peers.is_gone(uid)), [true, false]);
        peers.saw(&pod("b", "Succeeded"));
        assert!(peers.is_gone("b"));
    }
}
