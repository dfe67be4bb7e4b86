//! A task as producers mean it and handlers get it; pure data, no I/O.
//!
//! A [`Task`] never says where it stands (the store does) and never runs itself (the pool does).

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};

use crate::id::TaskId;
use crate::lane::{After, Lane, When};

/// One unit of work.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Task {
    /// Unique in the store; two messages with one id are one task.
    pub id: TaskId,
    /// Which handler runs it, for instance `testjob.fetch`.
    pub name: String,
    /// The queue it was taken from or is to go to.
    pub queue: String,
    /// Positional arguments. Binary values are `{"$bytes": "<base64>"}`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub args: Vec<Value>,
    /// Named arguments.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub kwargs: Map<String, Value>,
    /// 0 to 9, larger first, where the queue has priorities; default 0.
    #[serde(default)]
    pub priority: u8,
    /// Not before this time (milliseconds since 1970, UTC); `None`: at once.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub run_at: Option<i64>,
    /// Not after this time (milliseconds since 1970, UTC); `None`: never too late.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub expires_at: Option<i64>,
    /// Its place among others of one key. Only [`crate::store::Store::enqueue`] gives places: no message says it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub lane: Option<Lane>,
    /// What it waits for; as above.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub after: Vec<After>,
    /// Whether it never runs again by itself once it has begun: if its worker dies or gives it up, it is a dead letter, and
    /// whoever enqueued it finds out what it did. Only [`crate::store::Store::enqueue`] gives it.
    #[serde(default, skip_serializing_if = "is_false")]
    pub once: bool,
    /// Whatever else the message's headers said, kept and passed on.
    #[serde(default, skip_serializing_if = "Map::is_empty")]
    pub headers: Map<String, Value>,
    /// How its message is written.
    #[serde(default, skip_serializing_if = "Wire::is_native")]
    pub wire: Wire,
}

/// How a task's message is written. One that came from Celery goes out as Celery's again, whatever is published
/// for it: its queue may be shared with Celery's workers, who drop what they cannot read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Wire {
    /// `longshore.task.v1`.
    #[default]
    Native,
    /// Celery's protocol 2, in JSON.
    Celery,
    /// No task but the answer to one, as Celery's `rpc://` backend sends it: [`Task::kwargs`] in JSON to the queue that the
    /// producer made for answers. If that is gone, so is whoever waited, and the answer is dropped.
    Reply,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
fn is_false(value: &bool) -> bool {
    !*value
}

impl Wire {
    #[expect(clippy::trivially_copy_pass_by_ref, reason = "serde calls it so")]
    fn is_native(&self) -> bool {
        *self == Self::Native
    }
}

impl Task {
    /// A task with a fresh id for the handler `name` on `queue`.
    pub fn new(name: impl Into<String>, queue: impl Into<String>) -> Self {
        Self {
            id: TaskId::fresh(),
            name: name.into(),
            queue: queue.into(),
            args: Vec::new(),
            kwargs: Map::new(),
            priority: 0,
            run_at: None,
            expires_at: None,
            lane: None,
            after: Vec::new(),
            once: false,
            headers: Map::new(),
            wire: Wire::Native,
        }
    }

    /// The same with `id`: enqueueing it twice is enqueueing it once.
    #[must_use]
    pub fn with_id(mut self, id: impl Into<String>) -> Self {
        self.id = TaskId::new(id);
        self
    }

    /// The same with a named argument.
    #[must_use]
    pub fn with(mut self, key: impl Into<String>, value: impl Into<Value>) -> Self {
        self.kwargs.insert(key.into(), value.into());
        self
    }

    /// The same in a lane.
    #[must_use]
    pub fn in_lane(mut self, lane: Lane) -> Self {
        self.lane = Some(lane);
        self
    }

    /// The same, once `task` has ended so.
    #[must_use]
    pub fn after(mut self, task: impl Into<String>, when: When) -> Self {
        let task = TaskId::new(task);
        self.after.push(After { task, when });
        self
    }

    /// The same, for Celery's workers to read.
    #[must_use]
    pub fn for_celery(mut self) -> Self {
        self.wire = Wire::Celery;
        self
    }

    /// The named argument `key`, or else the positional one at `index`.
    pub fn arg(&self, key: &str, index: usize) -> Option<&Value> {
        self.kwargs.get(key).or_else(|| self.args.get(index))
    }
}
