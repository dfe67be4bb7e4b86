//! Wall time, anchored in the store's, so that workers with wrong clocks agree on leases.
//!
//! A [`Clock`] never goes back between two settings of the machine's clock: it counts on a monotonic
//! one from its anchor.

use std::sync::{
    Arc,
    atomic::{AtomicI64, Ordering},
};
use std::time::{Instant, SystemTime, UNIX_EPOCH};

/// Milliseconds since 1970, UTC.
pub type Millis = i64;

/// A source of wall time that all parts of a process share.
#[derive(Debug, Clone)]
pub struct Clock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    base: Instant,
    at_base: AtomicI64,
}

impl Clock {
    /// A clock that starts at this machine's time.
    #[expect(
        clippy::disallowed_methods,
        reason = "the one place that reads the machine's clock"
    )]
    pub fn system() -> Self {
        let now = SystemTime::now()
            .duration_since(UNIX_EPOCH)
            .map_or(0, |since| {
                i64::try_from(since.as_millis()).unwrap_or(i64::MAX)
            });
        Self(Arc::new(Inner {
            base: Instant::now(),
            at_base: AtomicI64::new(now),
        }))
    }

    /// The time now.
    pub fn now(&self) -> Millis {
        self.0.at_base.load(Ordering::Relaxed) + self.elapsed()
    }

    /// Says what time it is now, by the store's word.
    pub fn anchor(&self, now: Millis) {
        self.0
            .at_base
            .store(now - self.elapsed(), Ordering::Relaxed);
    }

    /// Moves the clock, for tests of what time does.
    pub fn advance(&self, by: std::time::Duration) {
        let by = i64::try_from(by.as_millis()).unwrap_or(i64::MAX);
        self.0.at_base.fetch_add(by, Ordering::Relaxed);
    }

    fn elapsed(&self) -> Millis {
        i64::try_from(self.0.base.elapsed().as_millis()).unwrap_or(i64::MAX)
    }
}
