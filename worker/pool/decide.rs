//! What the pool decides, as pure functions: what becomes of a delivery, and of an attempt that ended.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};

use crate::celery::Exception;
use crate::clock::Millis;
use crate::config::Policy;
use crate::handler::{Fatal, Outcome, Stop};
use crate::store::{Claimed, Op, Settlement, State};
use crate::task::Task;

/// What becomes of a task that was delivered.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Triage {
    /// Try to claim it.
    Claim,
    /// Give it a row that says where it stands, and drop the message.
    Aside(State, Option<String>),
}

/// Looks at a delivered task, before the store does.
pub fn triage(task: &Task, now: Millis, known: bool) -> Triage {
    if task.expires_at.is_some_and(|end| end <= now) {
        return Triage::Aside(
            State::Expired,
            Some("it was delivered after it had expired".into()),
        );
    }
    if !known {
        return Triage::Aside(
            State::Parked,
            Some(format!("no worker here has a handler for {:?}", task.name)),
        );
    }
    if task.run_at.is_some_and(|begin| begin > now) {
        return Triage::Aside(State::Waiting, None);
    }
    Triage::Claim
}

/// Why the pool ended an attempt itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cut {
    /// The worker ends, or the attempt outran its elastic pool.
    HandOff,
    /// Another attempt has the task.
    Lost,
    /// Somebody wants it canceled.
    Canceled,
    /// It ran longer than its name's time limit.
    TimeLimit(Duration),
    /// Its message's soft limit asked it to come to an end, and it left the rest to another attempt.
    SoftLimit(Duration),
}

/// How an attempt ended.
#[derive(Debug)]
pub enum Ended {
    /// The handler returned.
    Returned(anyhow::Result<Outcome>),
    /// The handler panicked with this text.
    Panicked(String),
    /// The pool ended it.
    Cut(Cut),
}

/// What to write about an attempt that ended. `None`: nothing; the task is another's.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The outcome.
    pub settlement: Settlement,
    /// Writes in its transaction.
    pub with: Vec<Op>,
    /// New tasks in its transaction.
    pub follow: Vec<Task>,
}

impl From<Settlement> for Verdict {
    fn from(settlement: Settlement) -> Self {
        Self {
            settlement,
            ..Self::default()
        }
    }
}

/// What an ended attempt means for its task. `random` (0 to 1) spreads the retries; `elsewhere` is the
/// queue of a task that outran its pool.
pub fn verdict(
    ended: Ended,
    task: &Arc<Task>,
    claimed: &Claimed,
    policy: &Policy,
    random: f64,
    elsewhere: Option<&str>,
) -> Option<Verdict> {
    let settled = |settlement| Some(Verdict::from(settlement));
    match ended {
        Ended::Returned(Ok(outcome)) => Some(returned(outcome, task, elsewhere)),
        Ended::Cut(Cut::HandOff) => settled(handed_off(task, elsewhere)),
        Ended::Returned(Err(error)) => match error.downcast_ref::<Stop>() {
            Some(Stop::LeaseLost) => None,
            stopped @ (Some(Stop::Store(_) | Stop::Checkpoint(_)) | None) => {
                let last = task.once || error.downcast_ref::<Fatal>().is_some();
                settled(Settlement {
                    // What the handler could not write down, it may have done.
                    interrupted: task.once && stopped.is_some(),
                    ..failed(format!("{error:#}"), last, claimed, policy, random)
                })
            }
        },
        Ended::Panicked(text) => settled(cut(
            format!("the handler panicked: {text}"),
            task,
            claimed,
            policy,
            random,
        )),
        Ended::Cut(Cut::Lost) => None,
        Ended::Cut(Cut::Canceled) => settled(Settlement {
            state: Some(State::Canceled),
            reason: Some("canceled by hand while it ran".into()),
            ..Settlement::default()
        }),
        Ended::Cut(Cut::TimeLimit(limit)) => settled(cut(
            format!(
                "it ran longer than its time limit of {}",
                humantime::format_duration(limit)
            ),
            task,
            claimed,
            policy,
            random,
        )),
        // Another attempt with the same limit could end the same way for ever.
        Ended::Cut(Cut::SoftLimit(limit)) => settled(cut(
            format!(
                "it was not done at its soft time limit of {}",
                humantime::format_duration(limit)
            ),
            task,
            claimed,
            policy,
            random,
        )),
    }
}

/// What the handler returned.
fn returned(outcome: Outcome, task: &Task, elsewhere: Option<&str>) -> Verdict {
    match outcome {
        Outcome::Done(result) => done(result).into(),
        Outcome::Publish {
            result,
            with,
            follow,
        } => Verdict {
            settlement: done(result),
            with,
            follow,
        },
        Outcome::Later { after, reason } => later(after, reason).into(),
        Outcome::Again {
            after,
            reason,
            checkpoint,
            message,
        } => Verdict::from(Settlement {
            checkpoint: Some(checkpoint),
            message: Some(*message),
            ..later(after, reason)
        }),
        Outcome::Ignored => done(Value::Null).into(),
        Outcome::PassedOn { queue, with } => Verdict {
            settlement: done(json!({ "passed on to": queue })),
            with: vec![with],
            follow: Vec::new(),
        },
        Outcome::HandOff => handed_off(task, elsewhere).into(),
    }
}

/// Another attempt goes on, at once.
fn handed_off(task: &Task, elsewhere: Option<&str>) -> Settlement {
    Settlement {
        state: Some(State::Queued),
        interrupted: true,
        queue: Some(elsewhere.unwrap_or(&task.queue).to_owned()),
        ..Settlement::default()
    }
}

/// A failure in the middle of something: of a task that is to run once, nobody knows what it did.
fn cut(reason: String, task: &Task, claimed: &Claimed, policy: &Policy, random: f64) -> Settlement {
    Settlement {
        interrupted: task.once,
        ..failed(reason, task.once, claimed, policy, random)
    }
}

fn done(result: Value) -> Settlement {
    let result = (!result.is_null()).then_some(result);
    Settlement {
        state: Some(State::Done),
        result,
        ..Settlement::default()
    }
}

/// Not yet.
fn later(after: Duration, reason: String) -> Settlement {
    Settlement {
        state: Some(State::Waiting),
        delay: millis(after),
        reason: Some(reason),
        ..Settlement::default()
    }
}

/// A failure: again later, or a dead letter when the policy's attempts are used up or another would fail the same.
pub fn failed(
    reason: String,
    last: bool,
    claimed: &Claimed,
    policy: &Policy,
    random: f64,
) -> Settlement {
    let failures = claimed.failures.saturating_add(1);
    if last || failures >= policy.attempts {
        let reason = if last {
            reason
        } else {
            format!("{reason} (attempt {failures} of {})", policy.attempts)
        };
        return Settlement {
            state: Some(State::Dead),
            failed: true,
            reason: Some(reason),
            ..Settlement::default()
        };
    }
    Settlement {
        state: Some(State::Waiting),
        delay: millis(policy.delay(failures, random)),
        failed: true,
        reason: Some(reason),
        ..Settlement::default()
    }
}

/// What an attempt's end is to Celery's clients, if the task has ended with it.
pub fn exception(ended: &Ended) -> Exception {
    match ended {
        Ended::Returned(Err(error)) => Exception::of(error),
        Ended::Returned(Ok(_)) => Exception::new("builtins", "RuntimeError", "it did not end well"),
        Ended::Panicked(text) => Exception::new("builtins", "RuntimeError", text.clone()),
        Ended::Cut(Cut::TimeLimit(limit)) => {
            let seconds = limit.as_secs_f64();
            Exception {
                args: vec![seconds.into()],
                ..Exception::new("celery.exceptions", "TimeLimitExceeded", "")
            }
        }
        Ended::Cut(Cut::SoftLimit(_)) => {
            Exception::new("billiard.exceptions", "SoftTimeLimitExceeded", "")
        }
        Ended::Cut(Cut::HandOff | Cut::Lost | Cut::Canceled) => {
            Exception::new("celery.exceptions", "TaskRevokedError", "terminated")
        }
    }
}

fn millis(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn claimed(failures: u32) -> Claimed {
        Claimed {
            epoch: crate::id::Epoch::FIRST,
            token: 1,
            failures,
            crashes: 7,
            interruptions: 99,
            checkpoint: None,
        }
    }

    fn judge(ended: Ended, failures: u32) -> Option<Settlement> {
        judge_of(Task::new("a", "q"), ended, failures)
    }

    fn judge_of(task: Task, ended: Ended, failures: u32) -> Option<Settlement> {
        let task = Arc::new(task);
        let policy = Policy {
            attempts: 3,
            ..Policy::default()
        };
        verdict(
            ended,
            &task,
            &claimed(failures),
            &policy,
            0.5,
            Some("pinned"),
        )
        .map(|verdict| verdict.settlement)
    }

    #[test]
    fn a_hand_off_burns_no_attempt_and_an_overrun_goes_elsewhere() {
        for ended in [
            Ended::Returned(Ok(Outcome::HandOff)),
            Ended::Cut(Cut::HandOff),
        ] {
            let settlement = judge(ended, 2).unwrap();
            assert_eq!(settlement.state, Some(State::Queued));
            assert!(settlement.interrupted && !settlement.failed);
            assert_eq!(settlement.queue.as_deref(), Some("pinned"));
        }
    }

    #[test]
    fn what_is_not_done_at_its_soft_limit_has_failed() {
        let ended = || Ended::Cut(Cut::SoftLimit(Duration::from_secs(60)));
        let settlement = judge(ended(), 0).unwrap();
        assert_eq!(settlement.state, Some(State::Waiting));
        assert!(settlement.failed, "else it would begin anew for ever");
        let settlement = judge(ended(), 2).unwrap();
        assert_eq!(settlement.state, Some(State::Dead));
        let reason = settlement.reason.unwrap();
        assert!(reason.contains("soft time limit of 1m"), "{reason}");
    }

    #[test]
    fn failures_are_retried_until_the_attempts_are_used_up() {
        let state = |failures| {
            judge(Ended::Returned(Err(anyhow::anyhow!("no"))), failures)
                .unwrap()
                .state
        };
        assert_eq!(state(0), Some(State::Waiting));
        assert_eq!(state(1), Some(State::Waiting));
        assert_eq!(state(2), Some(State::Dead));
    }

    #[test]
    fn a_fatal_failure_is_a_dead_letter_at_once() {
        let ended = Ended::Returned(Err(Fatal("no such test job".into()).into()));
        let settlement = judge(ended, 0).unwrap();
        assert_eq!(settlement.state, Some(State::Dead));
        assert_eq!(settlement.reason.as_deref(), Some("no such test job"));
    }

    #[test]
    fn a_panic_is_a_failure_of_the_attempt() {
        let settlement = judge(Ended::Panicked("index".into()), 0).unwrap();
        assert!(settlement.failed);
        assert_eq!(settlement.state, Some(State::Waiting));
    }

    #[test]
    fn what_runs_once_is_a_dead_letter_and_says_whether_it_knows_what_it_did() {
        let judge = |ended| {
            let mut task = Task::new("a", "q");
            task.once = true;
            let settlement = judge_of(task, ended, 0).unwrap();
            assert_eq!(settlement.state, Some(State::Dead));
            settlement.interrupted
        };
        let store = crate::store::StoreError::Stale { command: "x" };
        assert!(!judge(Ended::Returned(Err(anyhow::anyhow!("no")))));
        assert!(judge(Ended::Returned(Err(Stop::Store(store).into()))));
        assert!(judge(Ended::Panicked("index".into())));
        assert!(judge(Ended::Cut(Cut::TimeLimit(Duration::from_secs(1)))));
    }

    #[test]
    fn an_attempt_that_lost_its_lease_writes_nothing() {
        assert!(judge(Ended::Cut(Cut::Lost), 0).is_none());
        assert!(judge(Ended::Returned(Err(Stop::LeaseLost.into())), 0).is_none());
    }

    #[test]
    fn not_yet_burns_no_attempt() {
        let later = Outcome::Later {
            after: Duration::from_secs(60),
            reason: "running".into(),
        };
        let settlement = judge(Ended::Returned(Ok(later)), 2).unwrap();
        assert_eq!(
            (settlement.state, settlement.delay, settlement.failed),
            (Some(State::Waiting), 60_000, false)
        );
    }

    #[test]
    fn a_task_that_wants_to_be_run_again_goes_on_from_what_it_said() {
        let again = Outcome::Again {
            after: Duration::from_secs(2),
            reason: "out of stock".into(),
            checkpoint: serde_json::json!({ "retries": 1 }),
            message: Box::new(Task::new("a", "elsewhere")),
        };
        let settlement = judge(Ended::Returned(Ok(again)), 2).unwrap();
        assert_eq!(
            (settlement.state, settlement.delay, settlement.failed),
            (Some(State::Waiting), 2_000, false)
        );
        assert_eq!(
            settlement.checkpoint,
            Some(serde_json::json!({ "retries": 1 }))
        );
        assert!(settlement.message.is_some_and(|it| it.queue == "elsewhere"));
    }

    #[test]
    fn deliveries_are_triaged_by_time_and_name() {
        let mut task = Task::new("a", "q");
        assert_eq!(triage(&task, 100, true), Triage::Claim);
        assert!(matches!(
            triage(&task, 100, false),
            Triage::Aside(State::Parked, Some(_))
        ));
        task.run_at = Some(101);
        assert_eq!(
            triage(&task, 100, true),
            Triage::Aside(State::Waiting, None)
        );
        assert_eq!(triage(&task, 101, true), Triage::Claim);
        task.expires_at = Some(100);
        assert!(matches!(
            triage(&task, 100, true),
            Triage::Aside(State::Expired, Some(_))
        ));
    }
}
