//! What probes are told of a worker.

use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use crate::broker::Attached;

/// What probes are told. Clones share it.
#[derive(Debug, Clone, Default)]
pub struct Health(Arc<Told>);

#[derive(Debug, Default)]
struct Told {
    joined: AtomicBool,
    resting: AtomicBool,
    draining: AtomicBool,
    watched: AtomicBool,
    consumer: Mutex<Option<Attached>>,
}

impl Health {
    /// Whether the worker is in the store's list.
    pub fn has_started(&self) -> bool {
        self.0.joined.load(Ordering::Relaxed)
    }

    /// Whether it takes work, or takes none by request. How much it has to do does not count: an unready pod is the
    /// first that a ReplicaSet ends.
    pub fn is_ready(&self) -> bool {
        let consumes = || {
            let consumer = self
                .0
                .consumer
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            consumer.as_ref().is_some_and(Attached::get)
        };
        self.has_started()
            && (self.is_resting() || self.0.draining.load(Ordering::Relaxed) || consumes())
    }

    /// Whether it takes nothing new for now.
    pub fn is_resting(&self) -> bool {
        self.0.resting.load(Ordering::Relaxed)
    }

    /// Whether it ends.
    pub fn is_draining(&self) -> bool {
        self.0.draining.load(Ordering::Relaxed)
    }

    /// Somebody reads the metrics: what costs a question to find out is found out.
    pub fn watch(&self) {
        self.0.watched.store(true, Ordering::Relaxed);
    }

    pub(super) fn is_watched(&self) -> bool {
        self.0.watched.load(Ordering::Relaxed)
    }

    pub(super) fn joined(&self) {
        self.0.joined.store(true, Ordering::Relaxed);
    }

    pub(super) fn rests(&self, resting: bool) {
        self.0.resting.store(resting, Ordering::Relaxed);
    }

    pub(super) fn draining(&self) {
        self.0.draining.store(true, Ordering::Relaxed);
    }

    pub(super) fn consumes(&self, attached: Attached) {
        *self
            .0
            .consumer
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(attached);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_ready_while_it_consumes_or_takes_nothing_by_request() {
        let health = Health::default();
        health.rests(true);
        assert!(!health.is_ready(), "it has not begun");
        health.joined();
        assert!(health.is_ready(), "at rest");
        health.rests(false);
        health.consumes(Attached::default());
        assert!(!health.is_ready(), "the broker is away");
        health.draining();
        assert!(health.is_ready(), "in its drain");
    }
}
