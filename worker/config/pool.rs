//! `[pools]` and `[routes]`: who takes which queue, and which queue a task goes to.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::Serialize;

use super::problem::Wrong;
use super::quantity::serialize_duration;
use super::section::Section;
use super::worker::Worker;

/// The route of every task that has none.
pub(super) const ANY: &str = "*";

/// What is kept free of an elastic pool's default budget, for the last checkpoint.
const SLACK: Duration = Duration::from_secs(1);

/// Queues of the default pools, named as SQUAD names them.
const FETCH_QUEUE: &str = "ci_fetch";
const POSTPROCESS_QUEUE: &str = "ci_fetch_postprocess";

/// Workers of one configuration.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Pool {
    /// Whether it may be scaled, and what follows from that.
    #[serde(flatten)]
    pub kind: PoolKind,
    /// The queues that it takes from, at least one, in order of preference.
    pub queues: Vec<String>,
    /// At most so many attempts of one worker at a time, 1 to 1024. Default 8 for an elastic pool, 2
    /// for a pinned one.
    pub slots: u32,
}

/// Whether a pool may be scaled.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(tag = "kind", rename_all = "lowercase")]
pub enum PoolKind {
    /// It may be scaled up and down while it works.
    Elastic {
        /// How long an attempt may run before it counts as overrun, at most the worker's `grace` less
        /// its `margin`. Default 1 s less than that.
        #[serde(serialize_with = "serialize_duration")]
        budget: Duration,
        /// Where an overrun task goes, from its checkpoint on: a queue of pinned pools only. Default:
        /// it stays.
        #[serde(skip_serializing_if = "Option::is_none")]
        overrun_queue: Option<String>,
    },
    /// It is never scaled while it works.
    Pinned,
}

impl PoolKind {
    /// Whether it is [`PoolKind::Elastic`].
    pub fn is_elastic(&self) -> bool {
        match self {
            Self::Elastic { .. } => true,
            Self::Pinned => false,
        }
    }
}

impl Pool {
    /// The pools below `[pools]`, or two that fetch and post-process if there are none.
    pub(super) fn read_all(section: &mut Section<'_>, worker: &Worker) -> BTreeMap<String, Self> {
        let pools = section.tables(|_, section| Self::read(section, worker));
        if !pools.is_empty() {
            return pools;
        }
        let overrun_queue = Some(POSTPROCESS_QUEUE.to_owned());
        let elastic = PoolKind::Elastic {
            budget: default_budget(worker),
            overrun_queue,
        };
        let pool = |kind: PoolKind, queue: &str| Self {
            slots: default_slots(kind.is_elastic()),
            kind,
            queues: vec![queue.to_owned()],
        };
        BTreeMap::from([
            ("fetch".to_owned(), pool(elastic, FETCH_QUEUE)),
            (
                "postprocess".to_owned(),
                pool(PoolKind::Pinned, POSTPROCESS_QUEUE),
            ),
        ])
    }

    fn read(section: &mut Section<'_>, worker: &Worker) -> Self {
        let is_elastic = section.choice("kind", &[("elastic", true), ("pinned", false)]);
        if is_elastic.is_none() && section.is_sound("kind") {
            section.wrong(
                "kind",
                None,
                Wrong::new("missing", r#"write kind = "elastic" or kind = "pinned""#),
            );
        }
        let queues = section.list("queues").unwrap_or_default();
        if queues.is_empty() && section.is_sound("queues") {
            section.wrong(
                "queues",
                None,
                Wrong::new("a pool without a queue", r#"write queues = ["name"]"#),
            );
        }
        let budget = section.optional_duration("budget", Duration::from_millis(1)..=Duration::MAX);
        let overrun_queue = section.text("overrun_queue");
        let kind = match is_elastic {
            Some(true) => PoolKind::Elastic {
                budget: budget.unwrap_or_else(|| default_budget(worker)),
                overrun_queue,
            },
            Some(false) => {
                for key in ["budget", "overrun_queue"] {
                    if section.is_written(key) {
                        let wrong = Wrong::new(
                            "a pinned pool has none",
                            r#"remove it, or write kind = "elastic""#,
                        );
                        section.wrong(key, None, wrong);
                    }
                }
                PoolKind::Pinned
            }
            // Already a problem; as pinned it is the cause of no other.
            None => PoolKind::Pinned,
        };
        let slots = section.count("slots", 1..=1024, default_slots(kind.is_elastic()));
        Self {
            kind,
            queues,
            slots,
        }
    }
}

fn default_slots(is_elastic: bool) -> u32 {
    if is_elastic { 8 } else { 2 }
}

/// A little less than a stopping worker has.
fn default_budget(worker: &Worker) -> Duration {
    let room = worker.room();
    room.saturating_sub(SLACK.min(room / 2))
}

/// Which queue a task goes to, by its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(transparent)]
pub struct Routes {
    /// By a task's name, or by `prefix.*`, or by `*`, which always stands here.
    patterns: BTreeMap<String, String>,
}

impl Routes {
    /// The routes below `[routes]`, and those that go without saying: `testjob.fetch`,
    /// `testjob.postprocess` and `testjob.submit` to SQUAD's queues, all else to the first queue of the first elastic pool.
    pub(super) fn read(section: &mut Section<'_>, pools: &BTreeMap<String, Pool>) -> Self {
        let mut routes = Self::written(section);
        for (name, queue) in [
            ("testjob.fetch", FETCH_QUEUE),
            ("testjob.postprocess", POSTPROCESS_QUEUE),
            ("testjob.submit", POSTPROCESS_QUEUE),
        ] {
            if routes.find(name).is_none() {
                routes.patterns.insert(name.to_owned(), queue.to_owned());
            }
        }
        let first = pools
            .values()
            .find(|pool| pool.kind.is_elastic())
            .or_else(|| pools.values().next());
        let queue = first
            .and_then(|pool| pool.queues.first())
            .map_or(FETCH_QUEUE, String::as_str);
        routes
            .patterns
            .entry(ANY.to_owned())
            .or_insert_with(|| queue.to_owned());
        routes
    }

    /// The routes of a section, and `queue` for all else.
    pub(super) fn with_default(section: &mut Section<'_>, queue: &str) -> Self {
        let mut routes = Self::written(section);
        routes
            .patterns
            .entry(ANY.to_owned())
            .or_insert_with(|| queue.to_owned());
        routes
    }

    fn written(section: &mut Section<'_>) -> Self {
        let patterns = section.texts();
        for pattern in patterns.keys() {
            let prefix = pattern.strip_suffix(".*").unwrap_or(pattern);
            if pattern != ANY && (prefix.is_empty() || prefix.contains('*')) {
                let wrong =
                    Wrong::new("not a pattern", r#"write a task's name, "prefix.*" or "*""#);
                section.wrong(pattern, None, wrong);
            }
        }
        Self { patterns }
    }

    /// The queue of the task `name`: by its whole name, else by its longest prefix, else by `*`.
    pub fn get(&self, name: &str) -> &str {
        self.find(name).unwrap_or(FETCH_QUEUE)
    }

    /// Every pattern with its queue, in the order of the patterns.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &str)> {
        self.patterns
            .iter()
            .map(|(pattern, queue)| (pattern.as_str(), queue.as_str()))
    }

    fn find(&self, name: &str) -> Option<&str> {
        let prefixes = name
            .rmatch_indices('.')
            .filter_map(|(at, _)| name.get(..at));
        let queue = self
            .patterns
            .get(name)
            .or_else(|| {
                prefixes
                    .map(|prefix| format!("{prefix}.*"))
                    .find_map(|pattern| self.patterns.get(&pattern))
            })
            .or_else(|| self.patterns.get(ANY));
        queue.map(String::as_str)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn routes(pairs: &[(&str, &str)]) -> Routes {
        let pair = |(pattern, queue): &(&str, &str)| ((*pattern).to_owned(), (*queue).to_owned());
        Routes {
            patterns: pairs.iter().map(pair).collect(),
        }
    }

    #[test]
    fn the_whole_name_goes_before_the_longest_prefix_before_the_rest() {
        let routes = routes(&[
            ("a.b.c", "exact"),
            ("a.b.*", "long"),
            ("a.*", "short"),
            ("*", "rest"),
        ]);
        let queues = ["a.b.c", "a.b.d", "a.b.d.e", "a.x", "a", "b"].map(|name| routes.get(name));
        assert_eq!(queues, ["exact", "long", "long", "short", "rest", "rest"]);
    }
}
