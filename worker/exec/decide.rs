//! When a command is told to end, and what its end means; pure.

use std::time::Duration;

use tokio::time::Instant;

use crate::config::{Exec, OnDrain};

/// Exit codes of a probe: the effect is there, …
const DONE: i32 = 0;
/// … nothing of it, …
const ABSENT: i32 = 10;
/// … a part of it. All others say that the probe itself failed: 1 and 2 are what broken scripts end with.
const PARTIAL: i32 = 11;

/// What is left of a drain for what a killed command has saved.
const LAST: Duration = Duration::from_millis(500);

/// Why a command was told to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Told {
    Drain,
    TimeLimit,
}

/// How a command ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum How {
    Code(i32),
    Signal(i32),
    /// Its guard ended with it.
    Gone(String),
}

/// A command that has ended.
#[derive(Debug, Clone)]
pub(super) struct Ended {
    pub(super) how: How,
    pub(super) told: Option<Told>,
    /// The end of its log.
    pub(super) tail: String,
}

/// What to do about a command that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Step {
    Wait,
    Terminate,
    Kill,
}

/// What is asked of a command that runs.
#[derive(Debug)]
pub(super) struct Patience {
    /// When its time is over.
    end: Instant,
    grace: Duration,
    on_drain: OnDrain,
    told: Option<(Told, Instant)>,
}

impl Patience {
    pub(super) fn new(end: Instant, exec: &Exec) -> Self {
        Self {
            end,
            grace: exec.grace,
            on_drain: exec.on_drain,
            told: None,
        }
    }

    pub(super) fn told(&self) -> Option<Told> {
        self.told.map(|(told, _)| told)
    }

    /// What is due. A drain without a deadline is one of this task alone (it outran its pool): it ends at once.
    pub(super) fn step(&mut self, now: Instant, draining: bool, deadline: Option<Instant>) -> Step {
        let last = |before: Duration| deadline.is_some_and(|deadline| now + before >= deadline);
        if let Some((_, since)) = self.told {
            return if now >= since + self.grace || last(LAST) {
                Step::Kill
            } else {
                Step::Wait
            };
        }
        let is_due = match self.on_drain {
            OnDrain::Terminate => true,
            OnDrain::Finish => deadline.is_none() || last(self.grace.max(2 * LAST)),
        };
        let told = if now >= self.end {
            Told::TimeLimit
        } else if draining && is_due {
            Told::Drain
        } else {
            return Step::Wait;
        };
        self.told = Some((told, now));
        Step::Terminate
    }
}

/// What the end of a command means.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Verdict {
    Success,
    HandOff,
    /// Another attempt may go better.
    Retry(String),
    /// No other attempt would.
    Fail(String),
}

/// What the end of a command or a stage means.
pub(super) fn judge(ended: &Ended, exec: &Exec, limit: Duration) -> Verdict {
    let stands = |codes: &[u8], code: i32| codes.iter().any(|it| i32::from(*it) == code);
    match (&ended.how, ended.told) {
        (How::Code(code), _) if stands(&exec.success, *code) => Verdict::Success,
        // Whatever it ended with, it had been told to.
        (_, Some(Told::Drain)) => Verdict::HandOff,
        (_, Some(Told::TimeLimit)) => Verdict::Retry(over_time(limit)),
        (How::Code(code), None) if stands(&exec.retry, *code) => Verdict::Retry(said(ended)),
        (How::Code(_), None) => Verdict::Fail(said(ended)),
        (How::Signal(_) | How::Gone(_), None) => Verdict::Retry(said(ended)),
    }
}

/// What a probe found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Found {
    Done,
    /// Nothing, or a part; as the command is told.
    Not(&'static str),
    HandOff,
    /// Nobody knows.
    Unknown(String),
}

/// What the end of a probe means.
pub(super) fn found(ended: &Ended, limit: Duration) -> Found {
    match (&ended.how, ended.told) {
        (_, Some(Told::Drain)) => Found::HandOff,
        (_, Some(Told::TimeLimit)) => Found::Unknown(over_time(limit)),
        (How::Code(DONE), None) => Found::Done,
        (How::Code(ABSENT), None) => Found::Not("absent"),
        (How::Code(PARTIAL), None) => Found::Not("partial"),
        (How::Code(_) | How::Signal(_) | How::Gone(_), None) => Found::Unknown(said(ended)),
    }
}

fn over_time(limit: Duration) -> String {
    format!(
        "it ran longer than its time limit of {}",
        humantime::format_duration(limit)
    )
}

fn said(ended: &Ended) -> String {
    let how = match &ended.how {
        How::Code(code) => format!("it ended with exit code {code}"),
        How::Signal(9) => "it was killed by signal 9: by hand, or for want of memory".to_owned(),
        How::Signal(signal) => format!("it was killed by signal {signal}"),
        How::Gone(end) => end.clone(),
    };
    if ended.tail.is_empty() {
        how
    } else {
        format!("{how}; its log ends with: {}", ended.tail)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn exec(rest: &str) -> Exec {
        let folder = crate::plugin_host::folder::Folder::make().unwrap();
        let file = folder.path().join("t");
        std::fs::write(&file, format!("[exec.x]\ncommand = ['p']\n{rest}\n")).unwrap();
        crate::config::Config::load(Some(&file), [], &[])
            .unwrap()
            .exec["x"]
            .clone()
    }

    fn ended(how: How, told: Option<Told>) -> Ended {
        let tail = "oh".to_owned();
        Ended { how, told, tail }
    }

    fn judged(how: How, told: Option<Told>) -> Verdict {
        let exec = exec("success = [0, 3]\nretry = [75, 100]");
        judge(&ended(how, told), &exec, Duration::from_secs(60))
    }

    #[test]
    fn exit_codes_are_success_retry_or_failure() {
        for code in [0, 3] {
            assert_eq!(judged(How::Code(code), None), Verdict::Success);
        }
        for code in [75, 100] {
            assert!(matches!(judged(How::Code(code), None), Verdict::Retry(_)));
        }
        for code in [1, 2, 127, 255] {
            let said = format!("it ended with exit code {code}; its log ends with: oh");
            assert_eq!(judged(How::Code(code), None), Verdict::Fail(said));
        }
        for how in [How::Signal(9), How::Signal(11), How::Gone("x".into())] {
            assert!(matches!(judged(how, None), Verdict::Retry(_)));
        }
    }

    #[test]
    fn what_was_told_to_end_did_so_for_that() {
        for how in [How::Signal(15), How::Code(143), How::Code(1), How::Code(75)] {
            assert_eq!(
                judged(how.clone(), Some(Told::Drain)),
                Verdict::HandOff,
                "{how:?}"
            );
            let late = judged(how, Some(Told::TimeLimit));
            assert!(matches!(late, Verdict::Retry(text) if text.contains("time limit of 1m")));
        }
        assert_eq!(judged(How::Code(0), Some(Told::Drain)), Verdict::Success);
        assert_eq!(
            judged(How::Code(0), Some(Told::TimeLimit)),
            Verdict::Success
        );
    }

    #[test]
    fn a_probe_that_fails_has_found_nothing_out() {
        let found = |how, told| found(&ended(how, told), Duration::from_secs(1));
        assert_eq!(found(How::Code(0), None), Found::Done);
        assert_eq!(found(How::Code(10), None), Found::Not("absent"));
        assert_eq!(found(How::Code(11), None), Found::Not("partial"));
        for how in [How::Code(1), How::Code(2), How::Signal(11)] {
            assert!(matches!(found(how, None), Found::Unknown(_)));
        }
        // It may have been cut short, and said so in a way of its own.
        assert_eq!(found(How::Code(0), Some(Told::Drain)), Found::HandOff);
        assert!(matches!(
            found(How::Code(10), Some(Told::TimeLimit)),
            Found::Unknown(_)
        ));
    }

    #[test]
    fn a_command_is_told_once_and_killed_after_its_grace() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut patience = Patience::new(after(60), &exec("grace = '10s'"));
        assert_eq!(patience.step(after(59), false, None), Step::Wait);
        assert_eq!(patience.step(after(60), false, None), Step::Terminate);
        assert_eq!(patience.told(), Some(Told::TimeLimit));
        assert_eq!(patience.step(after(69), true, None), Step::Wait);
        assert_eq!(patience.step(after(70), true, None), Step::Kill);
        assert_eq!(patience.told(), Some(Told::TimeLimit), "the first counts");
    }

    #[test]
    fn a_drain_ends_a_command_at_once_or_just_in_time() {
        let now = Instant::now();
        let after = |seconds| now + Duration::from_secs(seconds);
        let mut patience = Patience::new(after(60), &exec("on_drain = 'terminate'"));
        let deadline = Some(after(5));
        assert_eq!(patience.step(now, true, deadline), Step::Terminate);
        assert_eq!(patience.step(after(4), true, deadline), Step::Wait);
        let last = after(5) - LAST;
        assert_eq!(patience.step(last, true, deadline), Step::Kill, "in time");

        let mut patience = Patience::new(after(60), &exec("grace = '10s'"));
        assert_eq!(patience.step(now, true, Some(after(30))), Step::Wait);
        assert_eq!(patience.step(after(19), true, Some(after(30))), Step::Wait);
        assert_eq!(
            patience.step(after(20), true, Some(after(30))),
            Step::Terminate
        );
        assert_eq!(patience.told(), Some(Told::Drain));
        // It outran its pool.
        let mut patience = Patience::new(after(60), &exec(""));
        assert_eq!(patience.step(now, true, None), Step::Terminate);
    }
}
