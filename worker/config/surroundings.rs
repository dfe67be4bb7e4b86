//! `[http]` and `[kubernetes]`: what a worker shows of itself, and what it knows of its pod.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::problem::Wrong;
use super::quantity::serialize_duration;
use super::section::Section;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const DAY: Duration = Duration::from_secs(86_400);

/// Where a worker answers probes and shows its metrics.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Http {
    /// The address and port of `/livez`, `/readyz`, `/startupz` and `/metrics`. Default: none, nothing listens.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub listen: Option<SocketAddr>,
}

impl Http {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let listen = section.parsed("listen", str::to_owned, |text| {
            text.parse().map_err(|_| {
                Wrong::new(
                    "not an address and a port",
                    r#"write listen = "0.0.0.0:8080""#,
                )
            })
        });
        Self { listen }
    }
}

/// What a worker knows of the pod that it runs in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Kubernetes {
    /// Who the pod is. Default: none, this is no pod, and the rest of the section means nothing.
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    pub identity: Option<Identity>,
    /// The file that says where the API server is. Default: the pod's service account.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kubeconfig: Option<PathBuf>,
    /// How long one call of the API may take, 100 ms to 1 min. Default 2 s.
    #[serde(serialize_with = "serialize_duration")]
    pub timeout: Duration,
    /// What is left after SIGTERM when the pod has no `deletionTimestamp` (a failed liveness probe, a kubelet that
    /// shuts down, an API server that is away) and `grace` is not shorter, 1 s to 7 days. Default 10 s.
    #[serde(serialize_with = "serialize_duration")]
    pub unknown_grace: Duration,
    /// An attempt that makes no progress for so long no longer keeps its node from being drained, 10 s to 30 days.
    /// Default 1 h.
    #[serde(serialize_with = "serialize_duration")]
    pub busy_limit: Duration,
    /// Between the busy label and the look at pod and node that follows it, 0 s to 10 s: for evictions that were
    /// decided before the label, by tools that do not cordon. Default 0 s.
    #[serde(serialize_with = "serialize_duration")]
    pub settle: Duration,
}

/// Who a pod is, by the downward API.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Identity {
    /// `metadata.name`.
    pub pod: String,
    /// `metadata.namespace`.
    pub namespace: String,
    /// `metadata.uid`.
    pub uid: String,
    /// `spec.nodeName`. Without it, cordons and taints are not seen.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node: Option<String>,
}

impl Kubernetes {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            identity: Self::identity(section),
            kubeconfig: section.path("kubeconfig"),
            timeout: section.duration("timeout", SECOND / 10..=MINUTE, 2 * SECOND),
            unknown_grace: section.duration("unknown_grace", SECOND..=7 * DAY, 10 * SECOND),
            busy_limit: section.duration("busy_limit", 10 * SECOND..=30 * DAY, 60 * MINUTE),
            settle: section.duration("settle", Duration::ZERO..=10 * SECOND, Duration::ZERO),
        }
    }

    fn identity(section: &mut Section<'_>) -> Option<Identity> {
        const KEYS: [&str; 3] = ["pod", "namespace", "uid"];
        let [pod, namespace, uid] = KEYS.map(|key| section.text(key));
        let node = section.text("node");
        match (pod, namespace, uid) {
            (Some(pod), Some(namespace), Some(uid)) => Some(Identity {
                pod,
                namespace,
                uid,
                node,
            }),
            (None, None, None) => None,
            (pod, namespace, uid) => {
                for (key, value) in KEYS.iter().zip([pod, namespace, uid]) {
                    if value.is_none() && section.is_sound(key) {
                        let wrong = Wrong::new(
                            "missing, though others of pod, namespace and uid are there",
                            "set all three from the downward API, or none",
                        );
                        section.wrong(key, None, wrong);
                    }
                }
                None
            }
        }
    }
}
