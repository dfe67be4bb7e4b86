//! Many tasks in one file: what `longshore enqueue --graph` and `POST /api/tasks` read.
//!
//! ```json
//! {"tasks": [
//!   {"ref": "build", "name": "package.build", "kwargs": {"package": "hello"}},
//!   {"ref": "promote", "name": "package.promote", "lane": "apt:stable", "after": ["build"]},
//!   {"name": "package.verify", "after": [{"task": "promote", "when": "success"}]}
//! ]}
//! ```
//!
//! A `ref` is a name within the file; whatever is no `ref` in `after` is the id of a task that the store has. All of the tasks are
//! enqueued in one transaction, or none. This module reads and never stores.

use std::collections::{HashMap, HashSet};
use std::time::Duration;

use serde::Deserialize;
use serde_json::{Map, Value};

use crate::id::TaskId;
use crate::lane::{After, Lane, OnFailure, When};
use crate::task::Task;

/// Most tasks in one file.
pub const MOST: usize = 100_000;

/// Why a graph cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unfit(String);

/// A task, and its name within the file.
pub type Named = (Option<String>, Task);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    tasks: Vec<Entry>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Entry {
    r#ref: Option<String>,
    id: Option<String>,
    name: String,
    #[serde(default)]
    args: Vec<Value>,
    #[serde(default)]
    kwargs: Map<String, Value>,
    queue: Option<String>,
    #[serde(default)]
    priority: u8,
    countdown: Option<String>,
    expires: Option<String>,
    lane: Option<LaneEntry>,
    #[serde(default)]
    after: Vec<AfterEntry>,
}

#[derive(Deserialize)]
#[serde(untagged)]
enum LaneEntry {
    Key(String),
    Whole(Lane),
}

#[derive(Deserialize)]
#[serde(untagged)]
enum AfterEntry {
    Task(String),
    Whole {
        task: String,
        #[serde(default)]
        when: When,
    },
}

/// Reads tasks from JSON. `route` is the queue of a name that says none, `now` the store's time.
///
/// # Errors
///
/// [`Unfit`] names the task and what is wrong with it.
pub fn read<'a>(
    json: &[u8],
    now: i64,
    route: impl Fn(&str) -> &'a str,
) -> Result<Vec<Named>, Unfit> {
    let File { tasks } =
        serde_json::from_slice(json).map_err(|error| Unfit(format!("no graph: {error}")))?;
    if tasks.len() > MOST {
        return Err(Unfit(format!(
            "{} tasks are more than the {MOST} that one transaction takes",
            tasks.len()
        )));
    }
    let (mut refs, mut ids) = (HashMap::new(), HashSet::new());
    for entry in &tasks {
        let id = match &entry.id {
            Some(id) if id.is_empty() => {
                return Err(Unfit(format!("task {}: its id is empty", entry.label())));
            }
            Some(id) => TaskId::new(id.clone()),
            None => TaskId::fresh(),
        };
        if let Some(name) = &entry.r#ref
            && refs.insert(name.clone(), id.clone()).is_some()
        {
            return Err(Unfit(format!("two tasks have the ref {name:?}")));
        }
        if !ids.insert(id.clone()) {
            return Err(Unfit(format!("two tasks have the id {id}")));
        }
    }
    tasks
        .into_iter()
        .map(|entry| entry.task(now, &refs, &route))
        .collect()
}

impl Entry {
    /// For messages.
    fn label(&self) -> &str {
        let names = [self.r#ref.as_deref(), self.id.as_deref()];
        names.into_iter().flatten().next().unwrap_or(&self.name)
    }

    fn task<'a>(
        self,
        now: i64,
        refs: &HashMap<String, TaskId>,
        route: &impl Fn(&str) -> &'a str,
    ) -> Result<Named, Unfit> {
        let label = self.label().to_owned();
        let time = |what: &str, text: Option<&str>| -> Result<Option<i64>, Unfit> {
            let Some(text) = text else { return Ok(None) };
            let length: Duration = humantime::parse_duration(text)
                .map_err(|error| Unfit(format!("task {label}: {what} {text:?}: {error}")))?;
            let length = i64::try_from(length.as_millis()).unwrap_or(i64::MAX);
            Ok(Some(now.saturating_add(length)))
        };
        if self.name.is_empty() {
            return Err(Unfit(format!("task {label}: its name is empty")));
        }
        let run_at = time("countdown", self.countdown.as_deref())?;
        let expires_at = time("expires", self.expires.as_deref())?;
        let queue = self.queue.unwrap_or_else(|| route(&self.name).to_owned());
        let mut task = Task::new(self.name, queue);
        // By its ref, so that all agree on a fresh one.
        match (&self.r#ref, self.id) {
            (Some(name), _) if refs.contains_key(name) => task.id = refs[name].clone(),
            (_, Some(id)) => task.id = TaskId::new(id),
            (_, None) => {}
        }
        task.args = self.args;
        task.kwargs = self.kwargs;
        task.priority = self.priority.min(9);
        (task.run_at, task.expires_at) = (run_at, expires_at);
        task.lane = self.lane.map(|lane| match lane {
            LaneEntry::Key(key) => Lane::new(key),
            LaneEntry::Whole(lane) => lane,
        });
        task.after = self
            .after
            .into_iter()
            .map(|after| {
                let (task, when) = match after {
                    AfterEntry::Task(task) => (task, When::Success),
                    AfterEntry::Whole { task, when } => (task, when),
                };
                let known = refs.get(&task).cloned();
                let task = known.unwrap_or_else(|| TaskId::new(task));
                After { task, when }
            })
            .collect();
        Ok((self.r#ref, task))
    }
}

/// Reads what `--after` says: `ID`, or `ID:done`, `ID:failed`, `ID:success`.
///
/// # Errors
///
/// [`Unfit`] if there is no id.
pub fn after(text: &str) -> Result<After, Unfit> {
    let (id, when) = match text.rsplit_once(':') {
        Some((id, "success")) => (id, When::Success),
        Some((id, "done")) => (id, When::Done),
        Some((id, "failed")) => (id, When::Failed),
        Some(_) | None => (text, When::Success),
    };
    if id.is_empty() {
        return Err(Unfit(format!("{text:?} names no task")));
    }
    Ok(After {
        task: TaskId::new(id),
        when,
    })
}

/// Reads what `--on-failure` says.
///
/// # Errors
///
/// [`Unfit`] names the words.
pub fn on_failure(text: &str) -> Result<OnFailure, Unfit> {
    let all = [OnFailure::Halt, OnFailure::Skip, OnFailure::CancelRest];
    let found = all.into_iter().find(|policy| policy.as_str() == text);
    found.ok_or_else(|| Unfit("one of halt, skip, cancel-rest".into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn graph(text: &str) -> Result<Vec<Named>, Unfit> {
        read(text.as_bytes(), 1_000, |name| match name {
            "a" => "queue-of-a",
            _ => "default",
        })
    }

    #[test]
    fn refs_become_ids_and_ids_stay() {
        let tasks = graph(
            r#"{"tasks": [
                {"ref": "one", "name": "a", "lane": "l", "countdown": "2s"},
                {"name": "b", "queue": "q", "after": ["one", {"task": "old", "when": "failed"}],
                 "lane": {"key": "l", "limit": 2, "on_failure": "cancel-rest"}},
                {"ref": "two", "id": "mine", "name": "c", "after": ["two-not", "two"], "expires": "1m"}
            ]}"#,
        )
        .unwrap();
        let [one, two, three] = [&tasks[0].1, &tasks[1].1, &tasks[2].1];
        assert_eq!(
            (one.queue.as_str(), one.run_at),
            ("queue-of-a", Some(3_000))
        );
        assert_eq!(one.lane, Some(Lane::new("l")));
        assert_eq!(two.after[0].task, one.id);
        assert_eq!(two.after[1], after("old:failed").unwrap());
        let lane = two.lane.clone().unwrap();
        assert_eq!(
            (lane.limit, lane.on_failure),
            (Some(2), OnFailure::CancelRest)
        );
        assert_eq!(
            (three.id.as_str(), three.expires_at),
            ("mine", Some(61_000))
        );
        // Not a ref: an id; a ref of its own: itself, which the store refuses.
        assert_eq!(three.after[0].task.as_str(), "two-not");
        assert_eq!(three.after[1].task.as_str(), "mine");
    }

    #[test]
    fn what_is_wrong_is_named() {
        let wrong = |text: &str| graph(text).unwrap_err().to_string();
        assert!(wrong("{").starts_with("no graph: "));
        assert!(wrong(r#"{"tasks": [{"name": "a", "afer": []}]}"#).contains("afer"));
        assert!(wrong(r#"{"tasks": [{}]}"#).contains("missing field `name`"));
        assert_eq!(
            wrong(r#"{"tasks": [{"ref": "x", "name": "a"}, {"ref": "x", "name": "a"}]}"#),
            r#"two tasks have the ref "x""#
        );
        assert_eq!(
            wrong(r#"{"tasks": [{"id": "x", "name": "a"}, {"id": "x", "name": "a"}]}"#),
            "two tasks have the id x"
        );
        assert!(
            wrong(r#"{"tasks": [{"ref": "x", "name": "a", "countdown": "soon"}]}"#)
                .starts_with(r#"task x: countdown "soon": "#)
        );
        assert!(after(":done").is_err());
        assert_eq!(after("a:b").unwrap().task.as_str(), "a:b");
        assert!(on_failure("stop").is_err());
    }
}
