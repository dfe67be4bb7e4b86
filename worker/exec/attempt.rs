//! One attempt of a command: probe, stage, command, each below a guard of its own.

use std::ffi::OsString;
use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::time::{Instant, MissedTickBehavior};

use super::Handler;
use super::arguments::{fill, fit_id};
use super::decide::{Ended, Found, How, Patience, Step, Verdict, found, judge};
use super::files::{Files, Kept};
use crate::config::{Command, Exec};
use crate::handler::{Context, Fatal, Outcome};
use crate::id::Epoch;
use crate::plugin_host::child::{Child, Program};
use crate::plugin_host::protocol::{FromChild, Start, ToChild};
use crate::plugin_host::tail;
use crate::task::Task;

/// How often a running command is looked at: its checkpoint, its last words, its time.
const LOOK: Duration = Duration::from_millis(250);
/// How much of a command's log a failure tells: its end.
const TOLD: usize = 2 * 1024;
/// How much of its last line is shown as progress.
const PROGRESS: usize = 200;
/// Where programs are looked for if the worker itself has no `PATH`.
const PATH: &str = "/usr/local/bin:/usr/bin:/bin";

/// Which of its commands runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Probe,
    Stage,
    Command,
}

impl Phase {
    fn as_str(self) -> &'static str {
        match self {
            Self::Probe => "probe",
            Self::Stage => "stage",
            Self::Command => "command",
        }
    }
}

/// Runs one attempt.
pub(super) async fn run(
    handler: Arc<Handler>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let Exec {
        command,
        stage,
        probe,
        ..
    } = &handler.exec;
    // All of them before the first begins: a task that does not fit has no effect.
    let filled = |command: &Command| fill(command, &task.kwargs).map_err(unfit);
    let command = filled(command)?;
    let stage = stage.as_ref().map(filled).transpose()?;
    let probe = probe.as_ref().map(filled).transpose()?;
    fit_id(task.id.as_str()).map_err(unfit)?;
    let kept = context.resume::<Kept>()?.unwrap_or_default();
    let files = Files::make(&task, kept.saved())?;
    let mut attempt = Attempt {
        end: Instant::now() + handler.limit,
        handler,
        task,
        context,
        files,
        kept,
        probed: None,
    };
    // The first attempt of all has had no effect yet.
    if let Some(probe) = probe
        && attempt.context.epoch() > Epoch::FIRST
    {
        let ended = attempt.process(Phase::Probe, probe).await?;
        match found(&ended, attempt.handler.limit) {
            Found::Done => return attempt.done().await,
            Found::Not(what) => attempt.probed = Some(what),
            Found::HandOff => return Ok(Outcome::HandOff),
            Found::Unknown(why) => anyhow::bail!("the probe does not know: {why}"),
        }
    }
    if let Some(stage) = stage
        && !attempt.kept.staged
        && let Some(outcome) = attempt.stage(stage).await?
    {
        return Ok(outcome);
    }
    if attempt.context.is_draining() {
        return Ok(Outcome::HandOff);
    }
    attempt.command(command).await
}

fn unfit(error: impl std::error::Error) -> Fatal {
    Fatal(format!(
        "the command does not fit the task: failed to {error}"
    ))
}

struct Attempt {
    handler: Arc<Handler>,
    task: Arc<Task>,
    context: Context,
    files: Files,
    kept: Kept,
    /// What the probe found, if it was asked.
    probed: Option<&'static str>,
    /// When its time is over.
    end: Instant,
}

impl Attempt {
    /// Stages; `Some`: that was all for now.
    async fn stage(&mut self, stage: Vec<OsString>) -> anyhow::Result<Option<Outcome>> {
        if self.context.is_draining() {
            return Ok(Some(Outcome::HandOff));
        }
        let ended = self.process(Phase::Stage, stage).await?;
        match judge(&ended, &self.handler.exec, self.handler.limit) {
            Verdict::Success => {
                self.kept.staged = true;
                self.context.save(&self.kept).await?;
                self.files.put_checkpoint(self.kept.saved())?;
                Ok(None)
            }
            Verdict::HandOff => Ok(Some(Outcome::HandOff)),
            Verdict::Retry(why) => anyhow::bail!("the stage failed: {why}"),
            Verdict::Fail(why) => anyhow::bail!(Fatal(format!("the stage failed: {why}"))),
        }
    }

    async fn command(&mut self, command: Vec<OsString>) -> anyhow::Result<Outcome> {
        let ended = self.process(Phase::Command, command).await?;
        let verdict = judge(&ended, &self.handler.exec, self.handler.limit);
        if matches!(verdict, Verdict::Retry(_) | Verdict::Fail(_)) && self.kept.staged {
            // What was staged may be what is wrong.
            self.kept.staged = false;
            self.context.save(&self.kept).await?;
        }
        match verdict {
            Verdict::Success => self.done().await,
            Verdict::HandOff => Ok(Outcome::HandOff),
            Verdict::Retry(why) => anyhow::bail!("the command failed: {why}"),
            Verdict::Fail(why) => anyhow::bail!(Fatal(format!("the command failed: {why}"))),
        }
    }

    async fn done(&self) -> anyhow::Result<Outcome> {
        Ok(Outcome::Done(self.files.take_result().await?))
    }

    /// Runs one process to its end.
    async fn process(&mut self, phase: Phase, arguments: Vec<OsString>) -> anyhow::Result<Ended> {
        let program = self.program(phase, arguments);
        let children = Arc::clone(&self.handler.children);
        let mut child = Child::start(&program, &children.nursery, &children.tasks)
            .await
            .map_err(|error| anyhow::anyhow!("the {} cannot run: {error}", phase.as_str()))?;
        child.say(&ToChild::Start(Box::<Start>::default())).await;
        let mut patience = Patience::new(self.end, &self.handler.exec);
        let mut looks = tokio::time::interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let context = self.context.clone();
        let mut draining = false;
        let how = loop {
            tokio::select! {
                biased;
                heard = child.hear() => match self.heard(phase, &mut child, heard).await? {
                    Some(how) => break how,
                    None => continue,
                },
                () = context.draining(), if !draining => draining = true,
                _look = looks.tick() => {}
            }
            match patience.step(Instant::now(), draining, context.deadline()) {
                Step::Wait => {}
                Step::Terminate => child.say(&ToChild::Drain { seconds: None }).await,
                Step::Kill => child.kill("it was killed after its grace"),
            }
            self.look(&child).await?;
        };
        // Whatever it started ends with it.
        let unlogged = child.end_log("its command has ended").await;
        if unlogged > 0 {
            tracing::warn!(task.id = %self.task.id, task.name = self.task.name, bytes = unlogged, last = tail(&child.last_words(), TOLD), "more output than log_limit; the rest was not logged");
        }
        self.keep().await?;
        Ok(Ended {
            how,
            told: patience.told(),
            tail: tail(&child.last_words(), TOLD).to_owned(),
        })
    }

    /// What the guard says; `Some`: the end.
    async fn heard(
        &self,
        phase: Phase,
        child: &mut Child,
        heard: Option<FromChild>,
    ) -> anyhow::Result<Option<How>> {
        match heard {
            Some(FromChild::Done { result }) => {
                let number = |key| {
                    let number = result.get(key).and_then(Value::as_i64);
                    number.and_then(|number| i32::try_from(number).ok())
                };
                let code = number("code").map(How::Code);
                Ok(code.or_else(|| number("signal").map(How::Signal)))
            }
            Some(FromChild::Failed(failed)) => {
                anyhow::bail!(
                    "the {} cannot be started: {}",
                    phase.as_str(),
                    failed.message
                )
            }
            Some(other) => {
                tracing::warn!(task.id = %self.task.id, message = ?other, "a guard said what no guard can say");
                Ok(None)
            }
            None => Ok(Some(How::Gone(child.end().await))),
        }
    }

    /// Saves what it saved, and shows what it said last.
    async fn look(&mut self, child: &Child) -> anyhow::Result<()> {
        if let Some(line) = child.last_word() {
            let line = line.chars().take(PROGRESS).collect::<String>();
            if self.context.progress().as_ref() != Some(&line) {
                self.context.set_progress(line);
            }
        }
        self.keep().await
    }

    /// Makes a new checkpoint durable.
    async fn keep(&mut self) -> anyhow::Result<()> {
        if let Some(bytes) = self.files.new_checkpoint().await? {
            self.kept.save(bytes);
            self.context.save(&self.kept).await?;
        }
        Ok(())
    }

    fn program(&self, phase: Phase, arguments: Vec<OsString>) -> Program {
        let guard = [self.handler.children.guard.clone(), super::GUARD.into()];
        let dash = OsString::from("--");
        let exec = &self.handler.exec;
        Program {
            name: format!("{} {}", self.handler.name, self.task.id),
            command: guard.into_iter().chain([dash]).chain(arguments).collect(),
            environment: self.environment(phase),
            alone: true,
            folder: Some(exec.dir.clone().unwrap_or_else(|| self.files.work())),
            speaks: false,
            silence: None,
            log_limit: Some(exec.log_limit),
        }
    }

    /// All that it sees of the world: nothing of the worker's but what is named.
    fn environment(&self, phase: Phase) -> Vec<(String, OsString)> {
        let Exec { env, pass_env, .. } = &self.handler.exec;
        let path = std::env::var_os("PATH").unwrap_or_else(|| PATH.into());
        let mut variables = vec![("PATH".to_owned(), path)];
        for name in pass_env {
            if let Some(value) = std::env::var_os(name) {
                variables.push((name.clone(), value));
            }
        }
        let named = env.iter();
        variables.extend(named.map(|(name, value)| (name.clone(), value.into())));
        let (failures, ..) = self.context.history();
        let epoch = self.context.epoch().get().to_string();
        let ours: [(&str, OsString); 12] = [
            ("TASK_ID", self.task.id.as_str().into()),
            ("TASK", self.handler.name.as_str().into()),
            ("ATTEMPT", failures.saturating_add(1).to_string().into()),
            ("EPOCH", epoch.into()),
            ("TOKEN", self.context.token().to_string().into()),
            ("PHASE", phase.as_str().into()),
            ("PROBE", self.probed.unwrap_or_default().into()),
            ("WORK", self.files.work().into()),
            ("ARGS", self.files.arguments().into()),
            ("CHECKPOINT", self.files.checkpoint().into()),
            ("CHECKPOINT_OUT", self.files.next_checkpoint().into()),
            ("RESULT", self.files.result().into()),
        ];
        let ours = ours.into_iter();
        variables.extend(ours.map(|(name, value)| (format!("LONGSHORE_{name}"), value)));
        variables
    }
}
