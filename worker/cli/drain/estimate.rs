//! When a task may end: only by a share that its progress names, and only from two points in time.

use std::collections::HashMap;
use std::sync::LazyLock;

use regex::Regex;

use crate::clock::Millis;
use crate::id::{Epoch, TaskId};
use crate::store::RunningView;

/// `45 %`, `3/10`, `3 of 10`.
static SHARE: LazyLock<Option<Regex>> =
    LazyLock::new(|| Regex::new(r"(\d+(?:\.\d+)?)\s?%|(\d+)(?:\s?/\s?|\sof\s)(\d+)").ok());

/// The first that was seen of each attempt that began somewhere in the middle.
#[derive(Debug, Default)]
pub(super) struct Estimates(HashMap<(TaskId, Epoch), Point>);

/// How far it was, when.
type Point = (Millis, f64);

impl Estimates {
    /// When `task` ends if it goes on as it went.
    pub(super) fn of(&mut self, task: &RunningView) -> Option<Millis> {
        let now = (task.checkpoint_at?, share(task.progress.as_deref()?)?);
        let begun = if task.epoch == Epoch::FIRST {
            (task.started_at?, 0.0)
        } else {
            // Where this attempt began is not known; from here on it is.
            let key = (task.id.clone(), task.epoch);
            *self.0.entry(key).or_insert(now)
        };
        end(begun, now)
    }
}

fn end((from, before): Point, (at, share): Point) -> Option<Millis> {
    if share <= before || at <= from {
        return None;
    }
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        reason = "an estimate, of milliseconds"
    )]
    let left = ((at - from) as f64 * (1.0 - share) / (share - before)) as Millis;
    Some(at.saturating_add(left))
}

/// The share that a text names, from 0 to 1. `None` if it names none, or more than one.
fn share(text: &str) -> Option<f64> {
    let mut found = SHARE.as_ref()?.captures_iter(text);
    let only = found.next().filter(|_| found.next().is_none())?;
    let whole = only.get(0)?;
    let beside = |c: char| c.is_alphanumeric() || matches!(c, '/' | '.' | '-' | '_' | ':');
    let (before, after) = (&text[..whole.start()], &text[whole.end()..]);
    // A date, a version or an address is no share; a full stop may follow.
    let glued = before.chars().next_back().is_some_and(beside)
        || after
            .chars()
            .next()
            .is_some_and(|c| c != '.' && c != ':' && beside(c));
    if glued {
        return None;
    }
    let number = |at: usize| only.get(at)?.as_str().parse::<f64>().ok();
    let share = match number(1) {
        Some(percent) => percent / 100.0,
        None => number(2)? / number(3)?,
    };
    (0.0..=1.0).contains(&share).then_some(share)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::WorkerId;

    fn task(epoch: Epoch, started: Millis, at: Millis, progress: &str) -> RunningView {
        RunningView {
            worker: WorkerId::new("p.u.1"),
            id: TaskId::new("t"),
            name: "demo".into(),
            queue: "q".into(),
            epoch,
            testjob: None,
            started_at: Some(started),
            checkpoint_at: Some(at),
            progress: Some(progress.into()),
        }
    }

    #[test]
    fn a_share_is_read_only_where_there_is_exactly_one() {
        for (text, expected) in [
            ("25 %", Some(0.25)),
            ("25% done.", Some(0.25)),
            ("3/12 modules", Some(0.25)),
            ("module 3 of 12", Some(0.25)),
            ("half: 6/12.", Some(0.5)),
            ("40000 tests, 1200 rows staged", None),
            ("3/12 modules, 25 %", None),
            ("since 2026/11/22", None),
            ("v1/2", None),
            ("13/12", None),
            ("0/0", None),
            ("", None),
        ] {
            assert_eq!(share(text), expected, "{text:?}");
        }
    }

    #[test]
    fn a_first_attempt_is_counted_from_its_start() {
        let mut estimates = Estimates::default();
        let quarter = task(Epoch::FIRST, 1000, 2000, "25 %");
        assert_eq!(estimates.of(&quarter), Some(5000));
    }

    #[test]
    fn a_later_attempt_is_counted_from_where_it_was_first_seen() {
        let mut estimates = Estimates::default();
        let second = Epoch::FIRST.next();
        assert_eq!(estimates.of(&task(second, 1000, 2000, "50 %")), None);
        assert_eq!(estimates.of(&task(second, 1000, 2000, "50 %")), None);
        let further = task(second, 1000, 3000, "75 %");
        assert_eq!(estimates.of(&further), Some(4000));
    }

    #[test]
    fn without_a_share_nothing_is_estimated() {
        let mut estimates = Estimates::default();
        let task = task(Epoch::FIRST, 1000, 2000, "40000 tests, 40000 rows staged");
        assert_eq!(estimates.of(&task), None);
    }
}
