//! Order among tasks: lanes, and what a task waits for; pure data, no I/O.
//!
//! A lane never says who is next (the store does), and a task that waits holds no slot and no message. [`check`] refuses
//! graphs that could never run, before the store sees them.

use std::collections::{HashMap, HashSet};

use serde::{Deserialize, Serialize};

use crate::id::TaskId;

/// A place in a lane: tasks with one key run in the order in which they were enqueued, `limit` at a time. Whoever has begun keeps
/// its place through retries, hand-offs and deaths of its worker, until it has ended.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Lane {
    /// Any text, for instance the index that all of them write: `apt:stable`.
    pub key: String,
    /// How many run at once; `None`: as the lane has it, 1 for a new one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub limit: Option<u32>,
    /// What a final failure of this task means for those behind it.
    #[serde(default, skip_serializing_if = "OnFailure::is_halt")]
    pub on_failure: OnFailure,
}

impl Lane {
    /// A lane of this key, with one task at a time that halts when one fails.
    pub fn new(key: impl Into<String>) -> Self {
        Self {
            key: key.into(),
            limit: None,
            on_failure: OnFailure::Halt,
        }
    }
}

/// What a task that is finally failed means for those behind it in its lane. One that is canceled or expires just leaves.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum OnFailure {
    /// Nobody goes on until it is run again or skipped by hand.
    #[default]
    Halt,
    /// The next one goes on.
    Skip,
    /// All that wait behind it are canceled.
    CancelRest,
}

impl OnFailure {
    /// As the store and the command line write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Halt => "halt",
            Self::Skip => "skip",
            Self::CancelRest => "cancel-rest",
        }
    }

    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_halt(&self) -> bool {
        *self == Self::Halt
    }
}

/// Another task that a task waits for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct After {
    /// Which.
    pub task: TaskId,
    /// How it has to end. Ends it otherwise, the task that waits is canceled.
    #[serde(default)]
    pub when: When,
}

/// How a task that others wait for has to end.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum When {
    /// It did what it should.
    #[default]
    Success,
    /// However it ended.
    Done,
    /// It failed, was canceled or expired.
    Failed,
}

impl When {
    /// As the store and the command line write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Done => "done",
            Self::Failed => "failed",
        }
    }
}

/// Tasks that wait for one another in a circle.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("these tasks wait for one another, so none would ever run: {}", .0.join(", which waits for "))]
pub struct Circle(pub Vec<String>);

/// Refuses tasks of one transaction that would wait for one another for ever: a task waits for those it names, and for whoever was
/// put into its lane before it. Tasks that are there already wait for none of these, so they cannot close a circle.
///
/// # Errors
///
/// [`Circle`], with one of them.
pub fn check<'a>(
    tasks: impl IntoIterator<Item = (&'a TaskId, Option<&'a Lane>, &'a [After])>,
) -> Result<(), Circle> {
    let mut waits: HashMap<&str, Vec<&str>> = HashMap::new();
    let mut last: HashMap<&str, &str> = HashMap::new();
    let mut order = Vec::new();
    for (id, lane, after) in tasks {
        let mine = waits.entry(id.as_str()).or_default();
        mine.extend(after.iter().map(|after| after.task.as_str()));
        if let Some(before) = lane.and_then(|lane| last.insert(&lane.key, id.as_str()))
            && before != id.as_str()
        {
            mine.push(before);
        }
        order.push(id.as_str());
    }
    let mut cleared: HashSet<&str> = HashSet::new();
    for start in order {
        // Depth first with a path of our own: a graph of a million tasks is no deep recursion.
        let mut path: Vec<(&str, usize)> = vec![(start, 0)];
        let mut on_path: HashSet<&str> = HashSet::from([start]);
        while let Some((at, next)) = path.last_mut() {
            let at = *at;
            let following = waits.get(at).and_then(|all| all.get(*next)).copied();
            *next += 1;
            let Some(following) = following else {
                cleared.insert(at);
                on_path.remove(at);
                path.pop();
                continue;
            };
            if cleared.contains(following) || !waits.contains_key(following) {
                continue;
            }
            if !on_path.insert(following) {
                let circle = path.iter().map(|(id, _)| (*id).to_owned());
                let mut circle: Vec<String> =
                    circle.skip_while(|id| id.as_str() != following).collect();
                circle.push(following.to_owned());
                return Err(Circle(circle));
            }
            path.push((following, 0));
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn judge(tasks: &[(&str, Option<&str>, &[&str])]) -> Result<(), Circle> {
        let tasks: Vec<(TaskId, Option<Lane>, Vec<After>)> = tasks
            .iter()
            .map(|(id, lane, after)| {
                let after = after.iter().map(|id| After {
                    task: TaskId::new(*id),
                    when: When::Done,
                });
                (TaskId::new(*id), lane.map(Lane::new), after.collect())
            })
            .collect();
        check(
            tasks
                .iter()
                .map(|(id, lane, after)| (id, lane.as_ref(), after.as_slice())),
        )
    }

    #[test]
    fn circles_are_refused_and_named() {
        assert_eq!(judge(&[("a", None, &["b"]), ("b", None, &[])]), Ok(()));
        assert_eq!(
            judge(&[("a", None, &["b", "b"]), ("b", None, &["elsewhere"])]),
            Ok(())
        );
        let circle = judge(&[
            ("x", None, &["a"]),
            ("a", None, &["b"]),
            ("b", None, &["a"]),
        ])
        .unwrap_err();
        assert_eq!(circle.0, ["a", "b", "a"]);
        assert_eq!(
            judge(&[("a", None, &["a"])]).unwrap_err().0,
            ["a", "a"].map(str::to_owned)
        );
    }

    #[test]
    fn a_lane_is_a_wait_too() {
        assert_eq!(
            judge(&[("a", Some("l"), &[]), ("b", Some("l"), &["a"])]),
            Ok(())
        );
        // The first of the lane would wait for the second.
        assert!(judge(&[("a", Some("l"), &["b"]), ("b", Some("l"), &[])]).is_err());
        // Each lane's first waits for the other lane's second.
        let crossed = judge(&[
            ("a1", Some("a"), &["b2"]),
            ("b1", Some("b"), &["a2"]),
            ("a2", Some("a"), &[]),
            ("b2", Some("b"), &[]),
        ]);
        assert!(crossed.is_err());
        // Through a task of no lane.
        let through = judge(&[
            ("a", Some("l"), &["x"]),
            ("x", None, &["b"]),
            ("b", Some("l"), &[]),
        ]);
        assert!(through.is_err());
    }

    #[test]
    fn a_long_chain_is_no_deep_recursion() {
        let ids: Vec<TaskId> = (0..200_000)
            .map(|at| TaskId::new(format!("t{at}")))
            .collect();
        let after: Vec<Vec<After>> = (0..ids.len())
            .map(|at| {
                let next = ids.get(at + 1).cloned();
                next.map(|task| After {
                    task,
                    when: When::Success,
                })
                .into_iter()
                .collect()
            })
            .collect();
        let tasks = ids
            .iter()
            .zip(&after)
            .map(|(id, after)| (id, None, after.as_slice()));
        assert_eq!(check(tasks), Ok(()));
    }
}
