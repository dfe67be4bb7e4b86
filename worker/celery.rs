//! What follows from a task of Celery's that has ended for good: its workflow goes on and its result is written, as
//! Celery's own workers would do it, but all in the commit that settles the task. A task that is run twice, by a
//! redelivery or after a death, is settled once, and so is continued once.
//!
//! The engine asks [`Celery::after`] and knows nothing else of Celery. Pure but for [`unlock`], which reads results.

use serde_json::{Value, json};

use crate::broker::{Broker, BrokerError, Outgoing};
use crate::clock::Millis;
use crate::codec::{self, REPLY_TO};
use crate::config;
use crate::store::{Op, Store, StoreError};
use crate::task::{Task, Wire};

mod canvas;
pub mod control;
pub mod events;
mod exception;
pub mod map;
mod repr;
mod result;
pub mod unlock;

pub use exception::Exception;

use canvas::{Canvas, Plan};
use result::Answer;

/// How a task of Celery's ended.
#[derive(Debug, Clone)]
pub enum End {
    /// It returned this.
    Done(Value),
    /// It failed, finally.
    Failed(Exception),
    /// It was canceled, or came too late.
    Revoked(&'static str),
    /// Not at all: it will run again, because of this failure or because it is not yet time.
    Retried(Option<Exception>),
}

/// A workflow that cannot go on, in words for people.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Broken {
    /// What the message says makes no sense, or is more than is known here.
    #[error("its workflow cannot go on: {0}")]
    Workflow(String),
    /// It cannot be written.
    #[error(transparent)]
    Store(#[from] StoreError),
}

/// How Celery's tasks are treated: `[celery]` of the configuration.
#[derive(Debug, Clone)]
pub struct Celery {
    config: config::Celery,
}

impl Celery {
    /// As the configuration says.
    pub fn new(config: config::Celery) -> Self {
        Self { config }
    }

    /// What Celery's own tools see.
    pub fn tools(&self) -> config::Tools {
        self.config.tools
    }

    /// The queue of Python workers where `task` belongs, whose name is not known here, if there is one.
    pub fn queue_of_unknown(&self, task: &Task) -> Option<&str> {
        let queue = self.config.unknown_queue.as_deref();
        queue.filter(|_| task.wire == Wire::Celery)
    }

    /// What belongs into the commit that settles `task`: the messages that its workflow goes on with, its part of a
    /// chord, and its result. Nothing for a task that is not Celery's.
    ///
    /// # Errors
    ///
    /// [`Broken`] if its workflow cannot go on: the task has failed, then.
    pub fn after(
        &self,
        store: &Store,
        worker: &str,
        task: &Task,
        end: &End,
    ) -> Result<Vec<Op>, Broken> {
        if task.wire != Wire::Celery {
            return Ok(Vec::new());
        }
        let now = store.clock().now();
        let mut canvas = Canvas::new(&self.config.routes, task, now);
        let mut answers = Vec::new();
        let wanted = task.headers.get("ignore_result") != Some(&Value::Bool(true));
        match end {
            End::Done(value) => {
                canvas.succeeded(value)?;
                answers.push(Answer::success(task, value));
            }
            End::Failed(exception) => {
                answers.push(Answer::failure(task, "FAILURE", exception));
                for step in canvas.failed()? {
                    answers.push(Answer::of_step(step, exception));
                }
            }
            End::Revoked(reason) => {
                let exception = Exception::revoked(reason);
                answers.push(Answer::failure(task, "REVOKED", &exception));
                canvas.part_of(task)?;
            }
            // Who waits for the answer waits on.
            End::Retried(_) if self.config.results.tables().is_empty() => {}
            End::Retried(exception) => answers.push(Answer::retried(task, exception.as_ref())),
        }
        if !wanted {
            answers.clear();
        }
        let plan = canvas.end();
        if let Some(answer) = answers.first_mut() {
            answer.children = plan.children.clone();
        }
        self.ops(store, worker, plan, answers, now)
    }

    /// What is written when an attempt of `task` begins, before its handler runs: `track_started`.
    ///
    /// # Errors
    ///
    /// [`Broken::Store`] if it cannot be written as JSON.
    pub fn started(&self, store: &Store, worker: &str, task: &Task) -> Result<Option<Op>, Broken> {
        let ignored = task.headers.get("ignore_result") == Some(&Value::Bool(true));
        let wanted = self.config.track_started == config::Switch::On;
        if !wanted || task.wire != Wire::Celery || ignored {
            return Ok(None);
        }
        let answers = [Answer::started(task, worker)];
        result::rows(store, &self.config, worker, &answers)
    }

    /// The writes that a plan and its answers are.
    fn ops(
        &self,
        store: &Store,
        worker: &str,
        plan: Plan,
        answers: Vec<Answer>,
        now: Millis,
    ) -> Result<Vec<Op>, Broken> {
        let Plan {
            mut posts,
            chords,
            parts,
            children: _,
        } = plan;
        let mut ops = Vec::new();
        let results = self.config.results;
        match results {
            config::Results::None => {}
            config::Results::Rpc => {
                posts.extend(answers.iter().filter_map(|answer| answer.reply(now)));
            }
            config::Results::Database | config::Results::Django => {
                ops.extend(result::rows(store, &self.config, worker, &answers)?);
            }
        }
        for chord in chords {
            match results {
                config::Results::Django => {
                    ops.push(store.chord_begin(
                        &chord.group,
                        &Value::Array(chord.results),
                        chord.size,
                    )?);
                }
                config::Results::Database => posts.push(chord.unlock(now)),
                config::Results::None | config::Results::Rpc => {
                    return Err(Broken::Workflow(
                        "a chord needs its members' results: set celery.results to \"database\" or \"django\"".into(),
                    ));
                }
            }
        }
        if results == config::Results::Django {
            for (group, unlock) in &parts {
                ops.extend(store.chord_part(group, unlock)?);
            }
        }
        if !posts.is_empty() {
            ops.push(store.post(&posts)?);
        }
        Ok(ops)
    }
}

/// Publishes tasks for Celery's workers, each to its queue, and waits until the broker has them safe; each is answered for
/// itself. They get no row here. From within a handler, [`Store::post`] does so in the commit that settles its task.
///
/// ```no_run
/// # async fn example(broker: longshore::broker::Broker) {
/// use longshore::task::Task;
///
/// let mut task = Task::new("shop.tasks.ship", "shipping").for_celery();
/// task.args = vec![42.into()];
/// for answer in longshore::celery::send(&broker, &[task]).await {
///     answer.unwrap();
/// }
/// # }
/// ```
pub async fn send(broker: &Broker, tasks: &[Task]) -> Vec<Result<(), BrokerError>> {
    let messages = tasks
        .iter()
        .map(|task| Outgoing {
            queue: task.queue.clone(),
            message: codec::encode(&task.clone().for_celery()),
            optional: false,
        })
        .collect::<Vec<_>>();
    broker.publish(&messages).await
}

/// The message of a task that failed and will run again: one try more, as Celery counts them.
pub fn again(task: &Task) -> Option<Task> {
    if task.wire != Wire::Celery {
        return None;
    }
    let mut task = task.clone();
    let retries = task.headers.get("retries").and_then(Value::as_u64);
    task.headers.insert(
        "retries".into(),
        retries.unwrap_or_default().saturating_add(1).into(),
    );
    Some(task)
}

/// The name of the handler that must be there for `task`: of a map, the one that it maps.
pub fn handler_of(task: &Task) -> &str {
    let mapped = || task.kwargs.get("task")?.get("task")?.as_str();
    match is_map(&task.name) {
        true => mapped().unwrap_or(&task.name),
        false => &task.name,
    }
}

/// Whether the task called `name` runs another one for each of its items.
fn is_map(name: &str) -> bool {
    matches!(name, "celery.map" | "celery.starmap" | "celery.chunks")
}

/// The limits of one attempt that a message asks for, in seconds: the hard one, and the one at which the task is asked to
/// come to an end.
pub fn limits(task: &Task) -> (Option<f64>, Option<f64>) {
    let limit = |at: usize| {
        let seconds = task.headers.get("timelimit")?.get(at)?.as_f64()?;
        (seconds > 0.0 && seconds.is_finite()).then_some(seconds)
    };
    match task.wire {
        Wire::Celery => (limit(0), limit(1)),
        Wire::Native | Wire::Reply => (None, None),
    }
}

/// The name of a queue for answers, if the message has one.
fn reply_to(headers: &serde_json::Map<String, Value>) -> Option<String> {
    let queue = headers.get(REPLY_TO)?.as_str()?;
    (!queue.is_empty()).then(|| queue.to_owned())
}

/// A result as Celery's clients write it: `((id, parent), children)`.
fn tuple(id: &str, parent: Option<&str>) -> Value {
    json!([[id, parent.map(|id| json!([[id, null], null]))], null])
}
