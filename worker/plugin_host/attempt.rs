//! One attempt of a Python task in a child.

use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use tokio::time::Instant;

use super::protocol::{self, Failed, FromChild, Retry, Start, ToChild};
use super::{Host, Lent};
use crate::celery::Exception;
use crate::handler::{Context, Fatal, Outcome};
use crate::task::Task;

/// How much of a traceback is kept: its end.
const TRACEBACK: usize = 8 * 1024;
/// The longest wait that a task can ask for: what a year has.
const LONGEST_WAIT: f64 = 366.0 * 86_400.0;

/// What is kept of a task between its attempts.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
#[serde(default)]
struct Kept {
    /// What the task itself saved.
    #[serde(skip_serializing_if = "Option::is_none")]
    saved: Option<Value>,
    /// How often it asked to be run again, beyond what its message says.
    #[serde(skip_serializing_if = "Option::is_none")]
    retries: Option<u32>,
    /// Its arguments since then.
    #[serde(skip_serializing_if = "Option::is_none")]
    args: Option<Vec<Value>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    kwargs: Option<Map<String, Value>>,
}

/// Runs one attempt.
pub(super) async fn run(
    host: Arc<Host>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let mut kept = context.resume::<Kept>()?.unwrap_or_default();
    let mut lent = tokio::select! {
        biased;
        lent = host.borrow() => lent?,
        () = context.draining() => return Ok(Outcome::HandOff),
    };
    let limits = Limits::of(&host, &task);
    let end = limits.hard.map(|hard| (hard, Instant::now() + hard));
    let ended = {
        let Some(child) = lent.child.as_mut() else {
            anyhow::bail!("there is no child");
        };
        child
            .say(&ToChild::Start(Box::new(start(
                &host, &task, &context, &kept, &limits,
            ))))
            .await;
        let mut told = false;
        loop {
            let heard = tokio::select! {
                biased;
                heard = child.hear() => heard,
                () = context.draining(), if !told => {
                    told = true;
                    let left = |end: Instant| end.saturating_duration_since(Instant::now()).as_secs_f64();
                    child.say(&ToChild::Drain { seconds: context.deadline().map(left) }).await;
                    continue;
                }
                hard = over(end) => {
                    child.kill("it ran longer than its time limit");
                    return Err(too_long(hard));
                }
            };
            match heard {
                Some(FromChild::Checkpoint { value }) => {
                    kept.saved = Some(value);
                    context.save(&kept).await?;
                    child.say(&ToChild::Saved {}).await;
                }
                Some(FromChild::Progress { text }) => context.set_progress(text),
                Some(message) => match Ended::of(message) {
                    Ok(ended) => break ended,
                    Err(other) => {
                        tracing::warn!(task.id = %task.id, message = ?other, "a Python process said what no task can say");
                    }
                },
                None => {
                    let end = child.end().await;
                    // The environment may be what is wrong: the last lines of its log say.
                    anyhow::bail!(
                        "{end} while it ran the task{}",
                        in_brackets(&child.last_words())
                    );
                }
            }
        }
    };
    let (outcome, is_whole) = ended.outcome(&task, kept);
    if is_whole {
        lent.give_back();
    } else {
        drop::<Lent>(lent);
    }
    outcome
}

fn in_brackets(text: &str) -> String {
    let text = tail(text, TRACEBACK / 4);
    if text.is_empty() {
        String::new()
    } else {
        format!(" (its log ends with: {text})")
    }
}

/// How an attempt ended, as the child said it.
enum Ended {
    Done(Value),
    Failed(Failed),
    Later(f64, String),
    Retry(Retry),
    HandOff,
    Ignored,
}

impl Ended {
    fn of(message: FromChild) -> Result<Self, Box<FromChild>> {
        Ok(match message {
            FromChild::Done { result } => Self::Done(result),
            FromChild::Failed(failed) => Self::Failed(failed),
            FromChild::Later { seconds, reason } => Self::Later(seconds, reason),
            FromChild::Retry(retry) => Self::Retry(retry),
            FromChild::HandOff {} => Self::HandOff,
            FromChild::Ignored {} => Self::Ignored,
            other @ (FromChild::Hello(_)
            | FromChild::Alive {}
            | FromChild::Log { .. }
            | FromChild::Checkpoint { .. }
            | FromChild::Progress { .. }
            | FromChild::Test(_)
            | FromChild::Metric(_)
            | FromChild::Attachment(_)
            | FromChild::Metadata { .. }
            | FromChild::Problem { .. }
            | FromChild::Want { .. }) => return Err(Box::new(other)),
        })
    }

    /// What the pool is told, and whether the child is fit for another attempt.
    fn outcome(self, task: &Task, kept: Kept) -> (anyhow::Result<Outcome>, bool) {
        match self {
            Self::Done(result) => (Ok(Outcome::Done(result)), true),
            Self::Failed(failed) => {
                let is_final = failed.r#final;
                (Err(failure(failed)), is_final)
            }
            Self::Later(seconds, reason) => {
                let after = wait(seconds);
                (Ok(Outcome::Later { after, reason }), true)
            }
            Self::Retry(retry) => (again(retry, task, kept), true),
            Self::HandOff => (Ok(Outcome::HandOff), true),
            Self::Ignored => (Ok(Outcome::Ignored), true),
        }
    }
}

fn again(retry: Retry, task: &Task, kept: Kept) -> anyhow::Result<Outcome> {
    let Retry {
        seconds,
        reason,
        retries,
        args,
        kwargs,
    } = retry;
    let kept = Kept {
        saved: kept.saved,
        retries: Some(retries),
        args: args.or(kept.args),
        kwargs: kwargs.or(kept.kwargs),
    };
    let mut message = task.clone();
    message.headers.insert("retries".into(), retries.into());
    message.args = kept.args.clone().unwrap_or(message.args);
    message.kwargs = kept.kwargs.clone().unwrap_or(message.kwargs);
    Ok(Outcome::Again {
        after: wait(seconds),
        reason,
        // An older message of the task may come before this one.
        checkpoint: serde_json::to_value(kept)?,
        message: Box::new(message),
    })
}

fn wait(seconds: f64) -> Duration {
    let seconds = if seconds.is_finite() { seconds } else { 0.0 };
    Duration::from_secs_f64(seconds.clamp(0.0, LONGEST_WAIT))
}

/// An exception as a handler's error.
fn failure(failed: Failed) -> anyhow::Error {
    let Failed {
        r#type,
        module,
        message,
        args,
        traceback,
        r#final,
    } = failed;
    let traceback = tail(&traceback, TRACEBACK).to_owned();
    let cause = if traceback.is_empty() {
        "raised in the task".to_owned()
    } else {
        traceback.clone()
    };
    let raised = Exception {
        module,
        class: r#type,
        args: args.unwrap_or_else(|| vec![message.into()]),
        traceback: Some(traceback),
    };
    if r#final {
        anyhow::Error::new(Fatal(cause)).context(raised)
    } else {
        anyhow::anyhow!(cause).context(raised)
    }
}

/// Celery's own end of a task that runs too long: final.
fn too_long(limit: Duration) -> anyhow::Error {
    failure(Failed {
        r#type: "TimeLimitExceeded".into(),
        module: "billiard.exceptions".into(),
        message: limit.as_secs_f64().to_string(),
        args: Some(vec![limit.as_secs_f64().into()]),
        traceback: format!(
            "its process was killed at the task's time limit of {}",
            humantime::format_duration(limit)
        ),
        r#final: true,
    })
}

async fn over(end: Option<(Duration, Instant)>) -> Duration {
    match end {
        Some((hard, end)) => {
            tokio::time::sleep_until(end).await;
            hard
        }
        None => std::future::pending().await,
    }
}

/// Celery's time limits of a task: its message's, or else its own.
struct Limits {
    hard: Option<Duration>,
    soft: Option<f64>,
}

impl Limits {
    fn of(host: &Host, task: &Task) -> Self {
        let own = host.tasks.get(&task.name);
        let said = |index| {
            task.headers
                .get("timelimit")
                .and_then(Value::as_array)
                .and_then(|limits| limits.get(index))
                .and_then(Value::as_f64)
        };
        let sound = |seconds: &f64| (*seconds > 0.0) && *seconds <= LONGEST_WAIT;
        let hard = said(0).or_else(|| own.and_then(|own| own.time_limit));
        let soft = said(1).or_else(|| own.and_then(|own| own.soft_time_limit));
        Self {
            hard: hard.filter(sound).map(Duration::from_secs_f64),
            soft: soft.filter(sound),
        }
    }
}

fn start(host: &Host, task: &Task, context: &Context, kept: &Kept, limits: &Limits) -> Start {
    let (failures, crashes, interruptions) = context.history();
    let said = task.headers.get("retries").and_then(Value::as_u64);
    let retries = kept
        .retries
        .unwrap_or_else(|| said.and_then(|it| u32::try_from(it).ok()).unwrap_or(0));
    Start {
        task: Some(protocol::Task {
            id: task.id.to_string(),
            name: task.name.clone(),
            queue: task.queue.clone(),
            priority: u32::from(task.priority),
            args: kept.args.clone().unwrap_or_else(|| task.args.clone()),
            kwargs: kept.kwargs.clone().unwrap_or_else(|| task.kwargs.clone()),
            headers: task.headers.clone(),
            retries,
            hostname: host.hostname.clone(),
            soft_time_limit: limits.soft,
        }),
        testjob: None,
        checkpoint: kept.saved.clone(),
        epoch: context.epoch().get(),
        failures,
        crashes,
        interruptions,
    }
}

/// The end of a text, of at most `longest` bytes.
pub(crate) fn tail(text: &str, longest: usize) -> &str {
    let from = text.ceil_char_boundary(text.len().saturating_sub(longest));
    text.get(from..).unwrap_or(text)
}
