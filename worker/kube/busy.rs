//! The busy label: on a pinned pod exactly while it runs what must not be interrupted.
//!
//! The order is what makes it safe: label, then look at pod and node afresh, then claim. Whoever cordons
//! first is seen by the look; whoever evicts after the label is refused by the budget that selects it.
//! Whether it is needed is derived each time from what runs, under the lock that orders the patches; there
//! is no count that could be lost.

use k8s_openapi::api::core::v1::Pod as PodObject;
use serde_json::json;
use tokio::sync::Mutex;

use super::api::Call;
use super::{BUSY_LABEL, Pod};

/// What the pod's label is, as far as is known.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Label {
    /// Nobody has looked, or a patch had no answer: it may be there.
    #[default]
    Unknown,
    On,
    Off,
}

/// The label's state and lock.
#[derive(Debug, Default)]
pub(super) struct Busy(Mutex<Label>);

impl Busy {
    /// What the pod had before this process touched it.
    pub(super) async fn found(&self, pod: &PodObject) {
        let labels = pod.metadata.labels.as_ref();
        if labels.is_none_or(|labels| !labels.contains_key(BUSY_LABEL)) {
            *self.0.lock().await = Label::Off;
        }
    }
}

/// Whether a claim may follow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub enum Admission {
    /// The label is on (or the API server is away, which is no reason not to work).
    Go,
    /// Pod or node are about to end: take nothing.
    Rest,
}

impl Pod {
    /// Before a claim on a pinned pod: labels it if it is not labelled, and looks at pod and node afresh.
    pub async fn admit(&self) -> Admission {
        let mut label = self.0.busy.0.lock().await;
        if *label != Label::On {
            // Without the label there is nothing that a look could make safe; the watches go on.
            *label = Label::Unknown;
            if self.label(Call::Label, true).await.is_ok() {
                *label = Label::On;
                tokio::time::sleep(self.0.settings.settle).await;
                let (_pod, _node) =
                    tokio::join!(self.look_at_pod(Call::ReadPod), self.look_at_node());
            }
        }
        drop(label);
        if self.signs().quiet.is_some() {
            Admission::Rest
        } else {
            Admission::Go
        }
    }

    /// Makes the label what `is_needed` says. False: it could not be; ask again.
    pub async fn settle_busy(&self, is_needed: impl Fn() -> bool) -> bool {
        let mut label = self.0.busy.0.lock().await;
        let (want, call) = if is_needed() {
            (Label::On, Call::Label)
        } else {
            (Label::Off, Call::Unlabel)
        };
        if *label == want {
            return true;
        }
        // Whoever gives up waiting does not know what became of it.
        *label = Label::Unknown;
        let patched = self.label(call, want == Label::On).await.is_ok();
        if patched {
            *label = want;
        }
        patched
    }

    async fn label(&self, call: Call, on: bool) -> Result<(), super::api::Away> {
        let value = on.then_some("true");
        self.patch(call, json!({ "labels": { BUSY_LABEL: value } }))
            .await?;
        metrics::gauge!("longshore_busy").set(if on { 1.0 } else { 0.0 });
        Ok(())
    }
}
