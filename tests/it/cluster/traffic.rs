//! What clients have asked, what goes wrong with it by rule, and the gates at which a test holds a request.

use std::collections::BTreeMap;
use std::sync::Mutex;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{mpsc, oneshot};

use crate::harness::LIMIT;

/// One request.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    /// `get`, `list`, `watch`, `create`, `update`, `patch`, `delete`.
    pub(crate) verb: &'static str,
    /// `pods`, `pods/eviction`, `nodes`, …; a path of discovery with its slashes.
    pub(crate) resource: String,
    /// Empty for a list and a watch.
    pub(crate) name: String,
    pub(crate) query: BTreeMap<String, String>,
    pub(crate) content_type: String,
    pub(crate) agent: String,
    /// Null if there is none.
    pub(crate) body: Value,
    /// The status it was answered with, once it is.
    pub(crate) code: Option<u16>,
}

/// When a gate holds a request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Arrived,
    Decided,
    Answered,
}

/// Which requests; `*` stands for every verb, every resource.
#[derive(Debug, Clone)]
pub(crate) struct Rule {
    verb: String,
    resource: String,
    name: Option<String>,
    agent: Option<String>,
    left: Option<usize>,
    stage: Stage,
}

/// What goes wrong.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Fault {
    /// 403.
    Forbidden,
    /// 429, with `Retry-After` in seconds or without.
    TooMany(Option<u32>),
    /// 500.
    Internal,
    /// 410 as the status of the answer.
    Gone,
    /// A watch that begins and at once has an ERROR event of code 410.
    Expired,
    /// No answer, on an open connection.
    Hang,
    /// The answer comes so much later.
    Slow(Duration),
    /// The connection ends without an answer.
    Cut,
}

/// Holds each request that its rule is about.
#[derive(Debug)]
pub(crate) struct Gate {
    held: mpsc::UnboundedReceiver<Held>,
}

/// A request that waits; it goes on when this is dropped. One whose client has given up meanwhile is gone.
#[derive(Debug)]
#[must_use]
pub(crate) struct Held {
    pub(crate) seen: Seen,
    release: oneshot::Sender<Fault>,
}

/// The log, the faults and the gates.
#[derive(Debug, Default)]
pub(super) struct Traffic {
    log: Mutex<Vec<Seen>>,
    faults: Mutex<Vec<(Rule, Fault)>>,
    gates: Mutex<Vec<(Rule, mpsc::UnboundedSender<Held>)>>,
}

impl Rule {
    pub(crate) fn on(verb: &str, resource: &str) -> Self {
        Self {
            verb: verb.into(),
            resource: resource.into(),
            name: None,
            agent: None,
            left: None,
            stage: Stage::Arrived,
        }
    }

    pub(crate) fn named(mut self, name: &str) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Only from a client whose `User-Agent` begins so.
    pub(crate) fn from(mut self, agent: &str) -> Self {
        self.agent = Some(agent.into());
        self
    }

    /// Only the next `number` requests.
    pub(crate) fn times(mut self, number: usize) -> Self {
        self.left = Some(number);
        self
    }

    /// A gate holds an eviction between the decision and the deletion.
    pub(crate) fn decided(mut self) -> Self {
        self.stage = Stage::Decided;
        self
    }

    /// A gate holds the answer; what was asked has been done.
    pub(crate) fn answered(mut self) -> Self {
        self.stage = Stage::Answered;
        self
    }

    pub(crate) fn matches(&self, seen: &Seen) -> bool {
        (self.verb == "*" || self.verb == seen.verb)
            && (self.resource == "*" || self.resource == seen.resource)
            && self.name.as_ref().is_none_or(|name| *name == seen.name)
            && self
                .agent
                .as_ref()
                .is_none_or(|agent| seen.agent.starts_with(agent.as_str()))
    }

    /// Counts a match; false if it was about fewer.
    fn take(&mut self, seen: &Seen) -> bool {
        if self.left == Some(0) || !self.matches(seen) {
            return false;
        }
        self.left = self.left.map(|left| left - 1);
        true
    }
}

impl Gate {
    /// The next request that is held.
    pub(crate) async fn next(&mut self) -> Held {
        let next = tokio::time::timeout(LIMIT, self.held.recv()).await;
        next.expect("a request comes to the gate")
            .expect("the gate is there")
    }

    /// A request that is held already.
    pub(crate) fn waiting(&mut self) -> Option<Held> {
        self.held.try_recv().ok()
    }
}

impl Held {
    pub(crate) fn release(self) {
        drop(self);
    }

    pub(crate) fn fail(self, fault: Fault) {
        let sent = self.release.send(fault);
        assert!(sent.is_ok(), "the client has given up: {:?}", self.seen);
    }
}

impl Traffic {
    /// Notes a request; answers its place.
    pub(super) fn note(&self, seen: &Seen) -> usize {
        let mut log = self.log.lock().unwrap();
        log.push(seen.clone());
        log.len() - 1
    }

    pub(super) fn answered(&self, at: usize, code: u16) {
        self.log.lock().unwrap()[at].code = Some(code);
    }

    pub(super) fn log(&self) -> Vec<Seen> {
        self.log.lock().unwrap().clone()
    }

    pub(super) fn fault(&self, rule: Rule, fault: Fault) {
        self.faults.lock().unwrap().push((rule, fault));
    }

    pub(super) fn lift(&self) {
        self.faults.lock().unwrap().clear();
    }

    pub(super) fn gate(&self, rule: Rule) -> Gate {
        let (sender, held) = mpsc::unbounded_channel();
        self.gates.lock().unwrap().push((rule, sender));
        Gate { held }
    }

    /// Waits at the gates of `stage`. Some: what shall go wrong.
    pub(super) async fn pass(&self, stage: Stage, seen: &Seen) -> Option<Fault> {
        let waits = self.wait_at(stage, seen);
        for wait in waits {
            // An error says that the request was let go without a word.
            if let Ok(fault) = wait.await {
                return Some(fault);
            }
        }
        if stage != Stage::Arrived {
            return None;
        }
        let mut faults = self.faults.lock().unwrap();
        let found = faults
            .iter_mut()
            .find_map(|(rule, fault)| rule.take(seen).then_some(*fault));
        drop(faults);
        found
    }

    fn wait_at(&self, stage: Stage, seen: &Seen) -> Vec<oneshot::Receiver<Fault>> {
        let mut gates = self.gates.lock().unwrap();
        gates.retain(|(_, sender)| !sender.is_closed());
        let mut waits = Vec::new();
        for (rule, sender) in gates.iter_mut() {
            if rule.stage == stage && rule.take(seen) {
                let (release, wait) = oneshot::channel();
                let held = Held {
                    seen: seen.clone(),
                    release,
                };
                if sender.send(held).is_ok() {
                    waits.push(wait);
                }
            }
        }
        waits
    }
}
