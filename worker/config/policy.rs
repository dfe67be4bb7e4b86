//! `[tasks]`: how often and how long a task is tried.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::problem::Wrong;
use super::quantity::{serialize_duration, show_duration};
use super::section::Section;

const DAY: Duration = Duration::from_secs(86_400);

/// How often and how long one kind of task is tried.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Policy {
    /// After so many failed attempts a task is a dead letter, 1 to 1000. Default 10,
    /// which with the default delays outlasts a backend that is away for half an hour.
    pub attempts: u32,
    /// The delay after the first failure, 10 ms to 7 days. Default 5 s.
    #[serde(serialize_with = "serialize_duration")]
    pub backoff_min: Duration,
    /// The delay that doubling ends at, 10 ms to 7 days, at least `backoff_min`. Default 10 min.
    #[serde(serialize_with = "serialize_duration")]
    pub backoff_max: Duration,
    /// The part of a delay by which chance lengthens or shortens it, 0 to 1, so that tasks that
    /// failed together do not come back together. Default 0.2.
    pub jitter: f64,
    /// The longest that one attempt may run, 1 s to 30 days. Default 1 h.
    #[serde(serialize_with = "serialize_duration")]
    pub time_limit: Duration,
}

impl Default for Policy {
    fn default() -> Self {
        Self {
            attempts: 10,
            backoff_min: Duration::from_secs(5),
            backoff_max: Duration::from_secs(600),
            jitter: 0.2,
            time_limit: Duration::from_secs(3600),
        }
    }
}

impl Policy {
    /// How long to wait after the failure number `failures` (from 1) before the next attempt:
    /// `backoff_min`, doubled with each further failure up to `backoff_max`, then longer or shorter by
    /// up to `jitter`, as `random` (0 to 1) has it. Any `random` is taken: what is outside counts as
    /// the nearer end, what is no number as the middle.
    pub fn delay(&self, failures: u32, random: f64) -> Duration {
        let random = if random.is_nan() {
            0.5
        } else {
            random.clamp(0.0, 1.0)
        };
        // 2^1023 is the largest power that an f64 holds; the minimum with the maximum ends it anyway.
        let doublings = i32::try_from(failures.saturating_sub(1).min(1023)).unwrap_or(1023);
        let seconds = (self.backoff_min.as_secs_f64() * 2_f64.powi(doublings))
            .min(self.backoff_max.as_secs_f64());
        let factor = 1.0 + self.jitter * (2.0 * random - 1.0);
        Duration::try_from_secs_f64(seconds * factor).unwrap_or(self.backoff_max)
    }

    fn read(section: &mut Section<'_>, base: &Self) -> Self {
        let backoff = Duration::from_millis(10)..=7 * DAY;
        let policy = Self {
            attempts: section.count("attempts", 1..=1000, base.attempts),
            backoff_min: section.duration("backoff_min", backoff.clone(), base.backoff_min),
            backoff_max: section.duration("backoff_max", backoff, base.backoff_max),
            jitter: section.fraction("jitter", base.jitter),
            time_limit: section.duration(
                "time_limit",
                Duration::from_secs(1)..=30 * DAY,
                base.time_limit,
            ),
        };
        if policy.backoff_min > policy.backoff_max
            && section.is_sound("backoff_min")
            && section.is_sound("backoff_max")
        {
            let (key, value) = if section.is_written("backoff_max") {
                ("backoff_max", policy.backoff_max)
            } else {
                ("backoff_min", policy.backoff_min)
            };
            let (min, max) = (
                show_duration(policy.backoff_min),
                show_duration(policy.backoff_max),
            );
            let wrong = Wrong::new(
                format!("backoff_min ({min}) is more than backoff_max ({max})"),
                "raise backoff_max or lower backoff_min",
            );
            section.wrong(key, Some(format!("{:?}", show_duration(value))), wrong);
        }
        policy
    }
}

/// The policies of all tasks.
#[derive(Debug, Clone, PartialEq, Default, Serialize)]
pub struct Policies {
    /// For tasks that have none of their own, and for what the others leave out.
    pub default: Policy,
    /// By the task's name.
    #[serde(flatten)]
    pub named: BTreeMap<String, Policy>,
}

impl Policies {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let default = section.table("default", |section| {
            Policy::read(section, &Policy::default())
        });
        let named = section.tables(|_, section| Policy::read(section, &default));
        Self { default, named }
    }

    /// The policy of the task `name`.
    pub fn get(&self, name: &str) -> &Policy {
        self.named.get(name).unwrap_or(&self.default)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn delays_double_up_to_the_maximum() {
        let policy = Policy::default();
        let delays: Vec<u64> = (0..10)
            .map(|failures| policy.delay(failures, 0.5).as_secs())
            .collect();
        assert_eq!(delays, [5, 5, 10, 20, 40, 80, 160, 320, 600, 600]);
    }

    #[test]
    fn jitter_lengthens_or_shortens_by_its_fraction() {
        let policy = Policy::default();
        assert_eq!(policy.delay(1, 0.0), Duration::from_secs(4));
        assert_eq!(policy.delay(1, 1.0), Duration::from_secs(6));
        assert_eq!(policy.delay(1, f64::NAN), Duration::from_secs(5));
        assert_eq!(policy.delay(1, -7.0), Duration::from_secs(4));
    }

    proptest! {
        #[test]
        fn no_delay_leaves_its_bounds(failures: u32, random: f64, min in 1_u64..1_000_000, more in 0_u64..1_000_000, jitter in 0.0..=1.0) {
            let policy = Policy {
                backoff_min: Duration::from_millis(min),
                backoff_max: Duration::from_millis(min + more),
                jitter,
                ..Policy::default()
            };
            let seconds = policy.delay(failures, random).as_secs_f64();
            prop_assert!(seconds >= policy.backoff_min.as_secs_f64() * (1.0 - jitter) - 1e-6);
            prop_assert!(seconds <= policy.backoff_max.as_secs_f64() * (1.0 + jitter) + 1e-6);
        }
    }
}
