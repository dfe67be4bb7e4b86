//! `[worker]`, `[limits]` and `[retention]`: how a worker lives, what it refuses, what it forgets.

use std::time::Duration;

use serde::Serialize;

use super::quantity::{serialize_duration, serialize_size};
use super::section::Section;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// How a worker lives.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Worker {
    /// How long a worker that nobody hears of still owns its tasks, 3 s to 1 h. Default 15 s.
    #[serde(serialize_with = "serialize_duration")]
    pub lease: Duration,
    /// How long an attempt keeps its message unacknowledged, 1 s to 25 min, counted from its delivery: RabbitMQ closes the
    /// channel after 30. Default 10 min.
    #[serde(serialize_with = "serialize_duration")]
    pub hold: Duration,
    /// From SIGTERM to SIGKILL where the pod does not say, 1 s to 7 days. Default 30 s.
    #[serde(serialize_with = "serialize_duration")]
    pub grace: Duration,
    /// How long before the end of `grace` a worker is gone, 0 s to 1 h; less than `grace`. Default 2 s.
    #[serde(serialize_with = "serialize_duration")]
    pub margin: Duration,
    /// How often a running attempt makes its progress durable, 100 ms to 10 min. Default 5 s.
    #[serde(serialize_with = "serialize_duration")]
    pub checkpoint_every: Duration,
    /// After so many attempts that took their worker with them a task is a dead letter, 1 to 1000.
    /// Default 3.
    pub crash_limit: u32,
    /// How log lines look. Default [`LogFormat::Text`].
    pub log: LogFormat,
}

/// How log lines look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum LogFormat {
    /// For people.
    Text,
    /// One JSON object a line.
    Json,
}

impl Worker {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            lease: section.duration("lease", 3 * SECOND..=HOUR, 15 * SECOND),
            hold: section.duration("hold", SECOND..=25 * MINUTE, 10 * MINUTE),
            grace: section.duration("grace", SECOND..=7 * DAY, 30 * SECOND),
            margin: section.duration("margin", Duration::ZERO..=HOUR, 2 * SECOND),
            checkpoint_every: section.duration(
                "checkpoint_every",
                SECOND / 10..=10 * MINUTE,
                5 * SECOND,
            ),
            crash_limit: section.count("crash_limit", 1..=1000, 3),
            log: section
                .choice(
                    "log",
                    &[("text", LogFormat::Text), ("json", LogFormat::Json)],
                )
                .unwrap_or(LogFormat::Text),
        }
    }

    /// The time that a stopping worker has for its work: `grace` less `margin`.
    pub fn room(&self) -> Duration {
        self.grace.saturating_sub(self.margin)
    }
}

/// What is refused as too large; each refusal says which limit it met.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Limits {
    /// A test job's log, in bytes, 1 KiB to 1 TiB. Default 5 GiB.
    #[serde(serialize_with = "serialize_size")]
    pub log: u64,
    /// One attachment, in bytes, 1 KiB to 1 TiB. Default 8 GiB.
    #[serde(serialize_with = "serialize_size")]
    pub attachment: u64,
    /// Tests and metrics of one test job, 1 to 1 000 000 000. Default 20 000 000.
    pub results: u64,
    /// A message's body, unpacked, in bytes, 1 KiB to 512 MiB. Default 16 MiB.
    #[serde(serialize_with = "serialize_size")]
    pub body: u64,
}

impl Limits {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        const KIB: u64 = 1 << 10;
        const MIB: u64 = 1 << 20;
        const GIB: u64 = 1 << 30;
        const TIB: u64 = 1 << 40;
        Self {
            log: section.size("log", KIB..=TIB, 5 * GIB),
            attachment: section.size("attachment", KIB..=TIB, 8 * GIB),
            results: section.count("results", 1..=1_000_000_000, 20_000_000),
            body: section.size("body", KIB..=512 * MIB, 16 * MIB),
        }
    }
}

/// What is forgotten, and when.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Retention {
    /// How long the row of a finished task is kept, 1 min to 3650 days: for so long a second message
    /// of the same id is dropped. Default 30 days.
    #[serde(serialize_with = "serialize_duration")]
    pub finished_tasks: Duration,
    /// How long staged results that were never published are kept, 1 min to 365 days. Default 1 h.
    #[serde(serialize_with = "serialize_duration")]
    pub abandoned_runs: Duration,
}

impl Retention {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        Self {
            finished_tasks: section.duration("finished_tasks", MINUTE..=3650 * DAY, 30 * DAY),
            abandoned_runs: section.duration("abandoned_runs", MINUTE..=365 * DAY, HOUR),
        }
    }
}
