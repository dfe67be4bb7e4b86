//! Following one object: read it, watch from there on, and begin anew when that ends.
//!
//! Not by a ready-made watcher: that lists, which needs one right more, and lets a server that hangs keep
//! it waiting. Here each part has a time limit, and an object is read afresh at least every [`WATCH`].

use std::time::Duration;

use futures::StreamExt as _;
use k8s_openapi::api::core::v1::{Node, Pod as PodObject};
use kube::api::{Api, WatchEvent, WatchParams};
use kube::{Resource, ResourceExt as _};
use serde::de::DeserializeOwned;

use super::Pod;
use super::api::{Away, Call, away};

/// How long one watch lasts: a connection that died unseen costs no more than this.
const WATCH: Duration = Duration::from_secs(60);
/// Before the first try again, doubled with each …
const FIRST_PAUSE: Duration = Duration::from_millis(500);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);

pub(super) async fn own_pod(pod: &Pod) {
    let api = pod.pods();
    let name = pod.name().to_owned();
    follow(pod, Call::WatchPod, &api, &name, |seen: &PodObject| {
        pod.saw_pod(seen);
    })
    .await;
}

pub(super) async fn own_node(pod: &Pod) {
    let api = pod.nodes();
    let Some(name) = pod.0.identity.node.clone() else {
        return;
    };
    follow(pod, Call::WatchNode, &api, &name, |seen: &Node| {
        pod.saw_node(seen);
    })
    .await;
}

/// Tells `saw` every state of the object `name`. Ends only by being dropped.
async fn follow<K>(pod: &Pod, call: Call, api: &Api<K>, name: &str, saw: impl Fn(&K))
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let mut pause = FIRST_PAUSE;
    loop {
        match once(pod, call, api, name, &saw).await {
            Ok(()) => pause = FIRST_PAUSE,
            Err(error) => {
                pod.0.api.note(call, Some(&error));
                tokio::time::sleep(pause).await;
                pause = (pause * 2).min(LONGEST_PAUSE);
            }
        }
    }
}

/// One reading and one watch, to the end of the latter.
async fn once<K>(
    pod: &Pod,
    call: Call,
    api: &Api<K>,
    name: &str,
    saw: impl Fn(&K),
) -> Result<(), Away>
where
    K: Resource + Clone + DeserializeOwned + std::fmt::Debug,
{
    let limit = pod.0.api.timeout();
    let late = |_| Away::Silent(format!("no answer in {limit:?}"));
    let object = tokio::time::timeout(limit, api.get(name))
        .await
        .map_err(late)?
        .map_err(away)?;
    saw(&object);
    let seconds = u32::try_from(WATCH.as_secs()).unwrap_or(u32::MAX);
    let parameters = WatchParams::default()
        .fields(&format!("metadata.name={name}"))
        .timeout(seconds);
    let version = object.resource_version().unwrap_or_default();
    let stream = tokio::time::timeout(limit, api.watch(&parameters, &version))
        .await
        .map_err(late)?
        .map_err(away)?;
    pod.0.api.note(call, None);
    let mut stream = std::pin::pin!(stream);
    let end = tokio::time::Instant::now() + WATCH + limit;
    loop {
        let event = match tokio::time::timeout_at(end, stream.next()).await {
            // It lasted its time, or the connection is dead.
            Ok(None) | Err(_) => return Ok(()),
            Ok(Some(event)) => event.map_err(away)?,
        };
        match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => saw(&object),
            // Of the own pod or node there is nothing to say any more; the next reading says what is.
            WatchEvent::Deleted(_) => return Err(Away::Silent("the object is gone".into())),
            WatchEvent::Bookmark(_) => {}
            // Too old a version (410) among others: read anew.
            WatchEvent::Error(status) if status.code == 410 => return Ok(()),
            WatchEvent::Error(status) => {
                return Err(away(kube::Error::Api(status)));
            }
        }
    }
}
