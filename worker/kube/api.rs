//! Calls of the API server: each has a time limit, none is retried inside, and what fails is said once.
//!
//! A kind of call that has just failed is not made again for a while: a server that is away may cost a
//! caller one time limit, not one each time. What must be asked (the deadline at SIGTERM) is asked anyway.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use kube::config::{KubeConfigOptions, Kubeconfig};
use tokio::time::Instant;

use crate::config;

/// After a failure a kind of call that has a substitute is not made for this long.
const REST: Duration = Duration::from_secs(5);

/// What is asked of the API server, as the metric `longshore_kubernetes_errors_total` names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Call {
    /// The own pod at SIGTERM.
    ReadDeadline,
    /// The own pod, followed.
    WatchPod,
    /// The own node, followed.
    WatchNode,
    /// The pools' pods, followed.
    WatchPeers,
    /// The own pod before a claim.
    ReadPod,
    /// The own node before a claim.
    ReadNode,
    /// The busy label on.
    Label,
    /// The busy label off.
    Unlabel,
    /// The deletion cost.
    Cost,
    /// An event.
    Event,
}

impl Call {
    /// As metrics and logs name it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::ReadDeadline => "read_deadline",
            Self::WatchPod => "watch_pod",
            Self::WatchNode => "watch_node",
            Self::WatchPeers => "watch_peers",
            Self::ReadPod => "read_pod",
            Self::ReadNode => "read_node",
            Self::Label => "label",
            Self::Unlabel => "unlabel",
            Self::Cost => "cost",
            Self::Event => "event",
        }
    }

    /// The calls that would be answered too, now that this one is: on the same object, with no more rights. Most are not
    /// made again until there is a reason, and would be taken to fail until then.
    fn proves(self) -> &'static [Self] {
        match self {
            Self::WatchPod => &[Self::WatchPod, Self::ReadPod, Self::ReadDeadline],
            Self::ReadPod | Self::ReadDeadline => &[Self::ReadPod, Self::ReadDeadline],
            Self::WatchNode => &[Self::WatchNode, Self::ReadNode],
            Self::ReadNode => &[Self::ReadNode],
            Self::WatchPeers => &[Self::WatchPeers],
            Self::Label | Self::Unlabel | Self::Cost => &[Self::Label, Self::Unlabel, Self::Cost],
            Self::Event => &[Self::Event],
        }
    }

    /// Whether the caller knows what to do without it, so that it may be left out after a failure.
    fn can_rest(self) -> bool {
        match self {
            Self::ReadPod | Self::ReadNode | Self::Label | Self::Cost | Self::Event => true,
            Self::ReadDeadline
            | Self::WatchPod
            | Self::WatchNode
            | Self::WatchPeers
            | Self::Unlabel => false,
        }
    }
}

/// The API server did not do it.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Away {
    /// It did not answer in time, cannot be reached, or answered 429 or 5xx.
    #[error("{0}")]
    Silent(String),
    /// It refuses and would again: no right (401, 403), no such object, a conflict.
    #[error("{reason} ({code})")]
    Refused {
        /// The HTTP status.
        code: u16,
        /// What it said.
        reason: String,
    },
    /// Not asked, since it has just failed.
    #[error("not asked again yet")]
    Resting,
}

/// A client with a time limit and a memory of what fails.
pub struct Api {
    client: kube::Client,
    timeout: Duration,
    failing: Mutex<Failing>,
}

/// The kinds of calls whose last one failed, and when.
#[derive(Debug, Default)]
struct Failing(HashMap<Call, Instant>);

impl Failing {
    /// Whether this kind did not fail before.
    fn failed(&mut self, call: Call, now: Instant) -> bool {
        self.0.insert(call, now).is_none()
    }

    /// The kinds that fail no more.
    fn answered(&mut self, call: Call) -> Vec<Call> {
        let proven = call.proves().iter().copied();
        proven
            .filter(|call| self.0.remove(call).is_some())
            .collect()
    }

    /// Whether anything is missing of what the worker knows and says of its pod: an event is for people alone.
    fn is_lost(&self) -> bool {
        self.0.keys().any(|call| *call != Call::Event)
    }
}

/// A client by the configuration. It retries nothing by itself: a refused eviction or an API server that asks to
/// slow down (429) is an answer.
///
/// # Errors
///
/// If neither the file nor the pod says where the API server is.
pub async fn client(settings: &config::Kubernetes) -> anyhow::Result<kube::Client> {
    let mut config = match &settings.kubeconfig {
        Some(path) => {
            let file = Kubeconfig::read_from(path)?;
            kube::Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await?
        }
        None => kube::Config::incluster()?,
    };
    config.default_retry = false;
    config.connect_timeout = Some(settings.timeout);
    Ok(kube::Client::try_from(config)?)
}

impl Api {
    /// Calls through `client`, each for at most `timeout`.
    pub fn new(client: kube::Client, timeout: Duration) -> Self {
        Self {
            client,
            timeout,
            failing: Mutex::default(),
        }
    }

    /// The client itself; what is asked through it goes through [`Api::call`].
    pub fn client(&self) -> kube::Client {
        self.client.clone()
    }

    /// How long a call may take.
    pub fn timeout(&self) -> Duration {
        self.timeout
    }

    /// Awaits one call.
    ///
    /// # Errors
    ///
    /// [`Away`], said in the log when calls of this kind begin to fail.
    pub async fn call<T>(
        &self,
        call: Call,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Away> {
        if call.can_rest()
            && self.failing(|failing| {
                failing
                    .0
                    .get(&call)
                    .is_some_and(|last| last.elapsed() < REST)
            })
        {
            return Err(Away::Resting);
        }
        let answer = match tokio::time::timeout(self.timeout, asked).await {
            Ok(answer) => answer.map_err(away),
            Err(_) => Err(Away::Silent(format!("no answer in {:?}", self.timeout))),
        };
        self.note(call, answer.as_ref().err());
        answer
    }

    /// Remembers how a call ended.
    pub fn note(&self, call: Call, error: Option<&Away>) {
        match error {
            Some(error) => {
                let is_new = self.failing(|failing| failing.failed(call, Instant::now()));
                metrics::counter!("longshore_kubernetes_errors_total", "call" => call.as_str())
                    .increment(1);
                if is_new {
                    tracing::warn!(call = call.as_str(), %error, "the API server fails; the worker goes on without it");
                } else {
                    tracing::debug!(call = call.as_str(), %error, "the API server still fails");
                }
            }
            None => {
                for call in self.failing(|failing| failing.answered(call)) {
                    tracing::info!(call = call.as_str(), "the API server answers again");
                }
            }
        }
    }

    /// What is not asked any more does not fail.
    pub fn forget(&self, call: Call) {
        self.failing(|failing| failing.0.remove(&call));
    }

    fn failing<T>(&self, with: impl FnOnce(&mut Failing) -> T) -> T {
        let mut failing = self.failing.lock().unwrap_or_else(PoisonError::into_inner);
        let answer = with(&mut failing);
        let is_lost = failing.is_lost();
        metrics::gauge!("longshore_kubernetes_lost").set(if is_lost { 1.0 } else { 0.0 });
        answer
    }
}

/// What an error of the client means.
pub fn away(error: kube::Error) -> Away {
    let kube::Error::Api(status) = error else {
        return Away::Silent(error.to_string());
    };
    match status.code {
        429 | 500.. => Away::Silent(format!("{} ({})", status.message, status.code)),
        code => Away::Refused {
            code,
            reason: status.message.clone(),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_asked_again_fails_no_longer_than_what_says_the_same() {
        let (mut failing, now) = (Failing::default(), Instant::now());
        for call in [Call::ReadPod, Call::ReadDeadline, Call::WatchPod] {
            assert!(failing.failed(call, now));
        }
        assert!(!failing.failed(Call::WatchPod, now), "said once");
        assert!(failing.is_lost());
        assert_eq!(failing.answered(Call::ReadNode), []);
        assert_eq!(failing.answered(Call::WatchPod).len(), 3);
        assert!(!failing.is_lost());
        assert_eq!(failing.answered(Call::WatchPod), [], "said once");
        // A label is not tried again where nothing runs any more.
        failing.failed(Call::Label, now);
        assert_eq!(failing.answered(Call::Unlabel), [Call::Label]);
        // A read says nothing of a watch, for which there is a right of its own.
        failing.failed(Call::WatchNode, now);
        assert_eq!(failing.answered(Call::ReadNode), []);
        assert!(failing.is_lost());
    }

    #[test]
    fn an_event_that_is_not_written_is_no_lost_awareness() {
        let mut failing = Failing::default();
        failing.failed(Call::Event, Instant::now());
        assert!(!failing.is_lost());
    }
}
