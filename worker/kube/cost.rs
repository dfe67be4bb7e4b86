//! The deletion cost of an elastic pod: a ReplicaSet that shrinks ends the cheapest first.
//!
//! Written only when the class of what it holds changes and at most every [`PAUSE`], as its documentation
//! asks: each write is a write on the API server. Short work counts as none: it ends by itself.

use std::time::Duration;

use serde_json::json;
use tokio::time::Instant;

use super::api::{Away, Call};
use super::{COST_ANNOTATION, Pod};

/// The least time between two writes.
pub const PAUSE: Duration = Duration::from_secs(30);

/// Classes of work, by how long the oldest attempt has run, with their costs.
const CLASSES: [(Duration, i32); 3] = [
    (Duration::from_secs(300), 1000),
    (Duration::from_secs(60), 100),
    (Duration::from_secs(5), 10),
];

/// What a pod costs whose oldest attempt has run for `oldest`.
pub fn cost(oldest: Option<Duration>) -> i32 {
    let Some(oldest) = oldest else { return 0 };
    CLASSES
        .iter()
        .find(|(least, _)| oldest >= *least)
        .map_or(0, |(_, cost)| *cost)
}

/// What was written last, if that succeeded, and when.
#[derive(Debug, Default)]
pub struct Written(Option<(Option<i32>, Instant)>);

impl Written {
    /// What is to be written now, if anything.
    pub fn due(&self, cost: i32, now: Instant) -> bool {
        match self.0 {
            // A new pod has no annotation, which means 0.
            None => cost != 0,
            Some((written, when)) => written != Some(cost) && now.duration_since(when) >= PAUSE,
        }
    }

    /// Notes a try: what was written, or that nobody knows what is there.
    pub fn note(&mut self, cost: Option<i32>, now: Instant) {
        self.0 = Some((cost, now));
    }
}

impl Pod {
    /// Writes the deletion cost.
    ///
    /// # Errors
    ///
    /// [`Away`] if the API server did not take it.
    pub async fn write_cost(&self, cost: i32) -> Result<(), Away> {
        let metadata = json!({ "annotations": { COST_ANNOTATION: cost.to_string() } });
        self.patch(Call::Cost, metadata).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_longer_the_dearer_and_short_work_costs_nothing() {
        let costs = [None, Some(1), Some(5), Some(60), Some(3000)]
            .map(|seconds| cost(seconds.map(Duration::from_secs)));
        assert_eq!(costs, [0, 0, 10, 100, 1000]);
    }

    #[test]
    fn it_is_written_when_the_class_changes_and_no_more_than_every_half_minute() {
        let start = Instant::now();
        let mut written = Written::default();
        assert!(!written.due(0, start));
        assert!(written.due(10, start));
        written.note(Some(10), start);
        assert!(!written.due(10, start + PAUSE * 2));
        assert!(!written.due(100, start + PAUSE / 2));
        assert!(written.due(100, start + PAUSE));
    }

    #[test]
    fn what_could_not_be_written_is_written_later_though_nothing_has_changed() {
        let start = Instant::now();
        let mut written = Written::default();
        written.note(None, start);
        assert!(!written.due(10, start + PAUSE / 2));
        assert!(written.due(10, start + PAUSE));
        assert!(written.due(0, start + PAUSE), "it may be there");
    }
}
