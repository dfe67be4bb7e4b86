//! SQUAD's messages about a test job: collect it, or post-process one that Python collected.

use std::sync::Arc;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::export::{Rows, Run, is_attachment, metadata, python};
use super::plan::{Plan, enabled, native};
use super::{FETCHING, PLUGIN, Squad, pass_on, pk, text};
use crate::config::ResultStore;
use crate::handler::{Context, Fatal, Outcome};
use crate::store::{Begun, Extent, Fetched, Op, RunCounts, Said, SquadJob, StagedRow};
use crate::task::Task;
use crate::testjob::backend::{Backend, BackendError, Collected, Settings, Summary};
use crate::testjob::fetch::failure;
use crate::testjob::item::{Item, Sink};
use crate::testjob::stage::{Progress, Rest, Staged, stage};

/// The backend's name of SQUAD's test jobs in our own table.
const BACKEND: &str = "squad";

/// A setting: what LAVA says of failures after which a test job is submitted again, as regular expressions.
const ERRORS: &str = "CI_LAVA_INFRA_ERROR_MESSAGES";
/// A setting: whether administrators get mail of that; on unless it says no.
const MAIL_SETTING: &str = "CI_LAVA_SEND_ADMIN_EMAIL";

/// What is done with what is collected.
#[derive(Debug, Clone, PartialEq, Eq)]
enum Mode {
    /// It becomes a test run, in the place of the one before if `clean`.
    Fetch { clean: bool },
    /// Python has collected it: plugins are to add to its test run.
    Add { testrun: i64, status: String },
}

/// One attempt's work.
struct Work {
    squad: Arc<Squad>,
    context: Context,
    job: SquadJob,
    job_id: String,
    mode: Mode,
    plan: Plan,
    settings: Settings,
}

fn ended(why: &str) -> anyhow::Result<Outcome> {
    Ok(Outcome::done(json!({ "nothing to do": why })))
}

/// `squad.ci.tasks.fetch`.
pub(super) async fn fetch(
    squad: Arc<Squad>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let pk = pk(&task, "job_id", 0)?;
    let clean = task
        .arg("clean_testrun", 1)
        .and_then(Value::as_bool)
        .unwrap_or_default();
    let Some(job) = find(&context, pk).await? else {
        return ended("SQUAD has no such test job");
    };
    let Some(job_id) = job.job_id.clone() else {
        return ended("it was not submitted");
    };
    if job.fetched && !clean {
        return ended("it is collected");
    }
    if job.fetch_attempts >= job.max_fetch_attempts {
        return ended("SQUAD has tried it often enough");
    }
    if job.build.is_none() {
        anyhow::bail!(Fatal("the test job belongs to no build".to_owned()));
    }
    let plan = Plan::of(&squad.config, &job.project, enabled(&job));
    run(
        Work {
            squad,
            context,
            job,
            job_id,
            mode: Mode::Fetch { clean },
            plan,
            settings: Settings::default(),
        },
        &task,
    )
    .await
}

/// `squad.ci.tasks.postprocess_testjob`: all plugins of a test job that Python collected.
pub(super) async fn postprocess(
    squad: Arc<Squad>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let (pk, status) = (pk(&task, "job_id", 0)?, text(&task, "job_status", 1)?);
    let Some(job) = find(&context, pk).await? else {
        return ended("SQUAD has no such test job");
    };
    let mut plan = Plan::of(&squad.config, &job.project, enabled(&job));
    // Python ran the plugins of the test run when it collected it.
    plan.testrun = false;
    plan.native
        .retain(|name| name != crate::testjob::plugin::KERNEL_LOG);
    add(squad, task, context, job, status, plan).await
}

/// `squad.ci.tasks.postprocess_testjob_subtasks`: one long plugin.
pub(super) async fn subtasks(
    squad: Arc<Squad>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let name = text(&task, "plugin_name", 0)?;
    let (pk, status) = (pk(&task, "job_id", 1)?, text(&task, "job_status", 2)?);
    let Some(own) = native(&name) else {
        return pass_on(&squad, &task, &context);
    };
    let Some(job) = find(&context, pk).await? else {
        return ended("SQUAD has no such test job");
    };
    let plan = Plan {
        native: vec![own.to_owned()],
        ..Plan::default()
    };
    add(squad, task, context, job, status, plan).await
}

async fn find(context: &Context, pk: i64) -> anyhow::Result<Option<SquadJob>> {
    let store = context.store();
    Ok(context.patiently(|| store.squad_job(pk)).await?)
}

/// Adds what plugins find to a test run that is there.
async fn add(
    squad: Arc<Squad>,
    task: Arc<Task>,
    context: Context,
    job: SquadJob,
    status: String,
    plan: Plan,
) -> anyhow::Result<Outcome> {
    let store = context.store();
    let (Some(testrun), Some(job_id)) = (job.testrun, job.job_id.clone()) else {
        return ended("it has no test run");
    };
    if plan.native.is_empty() || context.patiently(|| store.squad_is_ours(testrun)).await? {
        // Ours has all that native plugins find; what is left is Python's, or the end.
        let messages = plan.messages(&squad.config.squad, job.pk, testrun, &status);
        return Ok(Outcome::Publish {
            result: json!({ "left to SQUAD": messages.len() }),
            with: vec![store.post(&messages)?],
            follow: Vec::new(),
        });
    }
    if job.job_status.as_deref() != Some(FETCHING) {
        return ended("SQUAD's own workers have finished it meanwhile");
    }
    let mode = Mode::Add { testrun, status };
    run(
        Work {
            squad,
            context: context.clone(),
            job,
            job_id,
            mode,
            plan,
            settings: Settings::default(),
        },
        &task,
    )
    .await
}

async fn run(mut work: Work, task: &Task) -> anyhow::Result<Outcome> {
    debug_assert_eq!(work.squad.config.testjobs.store, ResultStore::Squad);
    let (backend, settings) = match work.squad.backend(&work.job) {
        Ok(Some(found)) => found,
        // Only Python knows how to talk to it.
        Ok(None) => return pass_on(&work.squad, task, &work.context),
        Err(error) => return work.failed(error).await,
    };
    let tries_again = work.job.kind == "lava" && settings.get(ERRORS).is_some();
    let wants_mail = settings.get(MAIL_SETTING).is_none() || settings.is_on(MAIL_SETTING);
    work.plan.successor = tries_again.then_some(wants_mail);
    work.settings = settings.clone();
    let Work { squad, context, .. } = &work;
    let (progress, testrun) = match work.begin(task).await? {
        (
            Begun::Run {
                run,
                testjob,
                generation,
                own,
                unclean,
            },
            Some(testrun),
        ) => {
            let progress = match context.resume::<Progress>()? {
                Some(progress) if own => progress,
                Some(_) | None if unclean => Progress::over(run, testjob, generation),
                Some(_) | None => Progress::new(run, testjob, generation),
            };
            (progress, testrun)
        }
        (Begun::Elsewhere(other), _) => return ended(&format!("it is collected by {other}")),
        (Begun::Finished | Begun::Run { .. }, _) => return ended("its plugins are under way"),
    };
    let config = &squad.config;
    let (every, limit) = (config.worker.checkpoint_every, config.limits.results);
    let results = matches!(work.mode, Mode::Fetch { .. });
    let place = (progress.run, progress.testjob, progress.generation);
    let staging = stage(context, progress, every, limit, |sink| {
        let (backend, settings, id) = (Arc::clone(&backend), settings.clone(), work.job_id.clone());
        async move { collect(&*backend, &id, &settings, sink, results).await }
    });
    let (staged, named) = squad.naming(context, place.0, staging).await;
    let (answer, rest, counts, progress) = match staged {
        Ok(Staged::All {
            answer,
            rest,
            counts,
            progress,
        }) => (answer, rest, counts, progress),
        Ok(Staged::HandOff) => return Ok(Outcome::HandOff),
        Err(error) => match error.downcast::<BackendError>() {
            Ok(error) => return work.failed(error).await,
            Err(other) => return Err(other),
        },
    };
    let summary = match answer {
        Collected::Done(summary) => readable(summary),
        Collected::Running(state) => {
            // SQUAD's poll and its listener say when to look again.
            return Ok(Outcome::done(json!({ "the backend says": state })));
        }
    };
    let rows = kept(squad, context, &progress, (rest, named)).await?;
    work.publish(place, testrun, summary, (counts, rows)).await
}

/// Few rows go with what publishes them, and are not read again; files with numbers are taken from the store.
async fn kept(
    squad: &Squad,
    context: &Context,
    progress: &Progress,
    (rest, named): (Rest, i64),
) -> anyhow::Result<Rows> {
    if rest.is_all_and_few() && !has_attachments(&rest) {
        return Ok(Rows::Here(rest));
    }
    context
        .save_with(progress, rest.ops(context.store())?)
        .await?;
    squad.names(context, progress, named).await?;
    Ok(Rows::Stored)
}

/// Whether there are files that get a number in SQUAD.
fn has_attachments(rest: &Rest) -> bool {
    rest.numbered()
        .any(|(_, row)| matches!(row, StagedRow::File { name, .. } if is_attachment(name)))
}

/// PostgreSQL's text holds no NUL.
fn readable(mut summary: Summary) -> Summary {
    if let Some(name) = &mut summary.name {
        name.retain(|sign| sign != '\0');
    }
    summary
}

/// What the backend has, without results if only plugins are to run.
async fn collect(
    backend: &dyn Backend,
    id: &str,
    settings: &Settings,
    sink: Sink,
    results: bool,
) -> Result<Collected, BackendError> {
    if results {
        return backend.collect(id, settings, &sink).await;
    }
    let (all, mut items) = mpsc::channel(64);
    let pick = async {
        while let Some(item) = items.recv().await {
            let keep = match item {
                Item::Test(_) | Item::Metric(_) => false,
                Item::Metadata(..) | Item::File { .. } | Item::Data(_) | Item::Problem(_) => true,
            };
            if keep && sink.send(item).await.is_err() {
                break;
            }
        }
    };
    let (answer, ()) = tokio::join!(
        async {
            let all = all;
            backend.collect(id, settings, &all).await
        },
        pick
    );
    answer
}

impl Work {
    async fn begin(&self, task: &Task) -> anyhow::Result<(Begun, Option<i64>)> {
        let Self {
            context, job, mode, ..
        } = self;
        let row = json!({
            "backend": BACKEND, "remote_id": job.pk.to_string(), "project": job.project,
            "build": job.version.as_deref().unwrap_or_default(), "environment": job.environment, "again": 1, "task": task.id,
        });
        let (clean, testrun) = match mode {
            Mode::Fetch { clean } => (*clean, None),
            Mode::Add { testrun, .. } => (false, Some(*testrun)),
        };
        Ok(context
            .patiently(|| {
                let store = context.store();
                store.begin_squad(&task.id, context.epoch(), &row, job.pk, clean, testrun)
            })
            .await?)
    }

    /// A fetch that ended without an answer: tried again by the policy of the task's name, which as a whole is one
    /// attempt in SQUAD's count.
    async fn failed(&self, error: BackendError) -> anyhow::Result<Outcome> {
        let Self {
            squad,
            context,
            job,
            ..
        } = self;
        let policy = squad.config.policy(super::FETCH);
        let (failures, _, _) = context.history();
        let (reason, is_final) = match error {
            BackendError::Temporary(reason) if failures + 1 < policy.attempts => {
                return Err(anyhow::anyhow!(reason));
            }
            BackendError::Temporary(reason) => (reason, false),
            BackendError::Final(reason) => (reason, true),
            error @ BackendError::Stopped => return Err(failure(error)),
        };
        let store = context.store();
        Ok(Outcome::Publish {
            result: json!({ "failed": reason }),
            with: vec![store.squad_failed(job.pk, &reason, is_final)?],
            follow: Vec::new(),
        })
    }

    /// The outcome that publishes the run here, and shows the test job in SQUAD unless plugins are still to come.
    async fn publish(
        &self,
        (run, testjob, generation): (i64, i64, i64),
        testrun: i64,
        summary: Summary,
        (counts, rows): (RunCounts, Rows),
    ) -> anyhow::Result<Outcome> {
        let Self {
            squad,
            context,
            job,
            mode,
            plan,
            ..
        } = self;
        let store = context.store();
        let mut with = rows.ops(store)?;
        let (status, extent) = match mode {
            Mode::Fetch { .. } => {
                let place = (run, testjob, generation);
                let (status, extent, more) = self
                    .testrun(place, testrun, &summary, (counts, &rows))
                    .await?;
                with.extend(more);
                (status, extent)
            }
            Mode::Add { status, .. } => (status.clone(), Extent::ANY),
        };
        let queue = &squad.config.squad.postprocess_queue;
        let follow = plan
            .native
            .iter()
            .map(|plugin| self.plugin_task(queue, testjob, generation, plugin, &status))
            .collect::<Vec<_>>();
        let parts = plan.native.iter().cloned();
        let parts = parts
            .zip(follow.iter().map(|task| task.id.clone()))
            .collect::<Vec<_>>();
        let word = Fetched {
            status: summary.status,
            name: summary.name,
            url: summary.url,
            reason: summary.failure.as_ref().map(python),
            environment: summary.environment,
        };
        let published: Vec<Op> = store.publish_fetch(
            context.task(),
            run,
            testjob,
            generation,
            &counts,
            &word,
            &parts,
        )?;
        with.extend(published);
        let messages = plan.messages(&squad.config.squad, job.pk, generation, &status);
        with.extend(store.squad_export(testjob, generation, &messages, extent, squad.holds())?);
        Ok(Outcome::Publish {
            result: json!({ "testrun": testrun, "tests": counts.tests, "metrics": counts.metrics }),
            with,
            follow,
        })
    }

    /// Writes the files of a test run, and answers its status, what of it is there, and the statements that show it.
    async fn testrun(
        &self,
        (run, testjob, generation): (i64, i64, i64),
        testrun: i64,
        summary: &Summary,
        (counts, rows): (RunCounts, &Rows),
    ) -> anyhow::Result<(String, Extent, Vec<Op>)> {
        /// More are published by themselves.
        const MANY: i64 = 1000;
        let Self {
            squad,
            context,
            job,
            plan,
            ..
        } = self;
        let completed = summary.completed && counts.tests + counts.metrics > 0;
        let files = rows.files(context, run).await?;
        let place = Run {
            run,
            testrun,
            named_units: job.kind == "lava",
        };
        squad
            .testrun_files(context, place, (rows, &files), completed)
            .await?;
        let mut with = Vec::new();
        with.extend(squad.attachments(context, run, files).await?);
        let facts = rows.facts(context, run).await?;
        let said = self.said(facts, summary, completed);
        let extent = Extent {
            plugins: !plan.native.is_empty(),
            metrics: counts.metrics > 0,
            files: !with.is_empty(),
            resubmit: said.resubmit == 1,
            many: counts.tests + counts.metrics > MANY,
        };
        with.push(context.store().squad_said(testjob, generation, &said)?);
        Ok((said.status, extent, with))
    }

    /// Whether the project wants a test job that failed like this submitted again: SQUAD's rule for LAVA.
    fn is_to_be_resubmitted(&self, summary: &Summary) -> bool {
        /// After so many successors it is left alone.
        const MOST: i64 = 3;
        let Some(failure) = &summary.failure else {
            return false;
        };
        let text = |key: &str| failure.get(key).and_then(Value::as_str).unwrap_or_default();
        let wanted = self.settings.get(ERRORS);
        let mut patterns = wanted
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(Value::as_str);
        self.job.kind == "lava"
            && self.job.resubmitted_count < MOST
            && matches!(text("error_type"), "Infrastructure" | "Job" | "Test")
            && patterns.any(|pattern| {
                let pattern = regex::RegexBuilder::new(pattern)
                    .case_insensitive(true)
                    .build();
                pattern.is_ok_and(|pattern| pattern.is_match(text("error_msg")))
            })
    }

    fn said(&self, facts: Vec<(String, String)>, summary: &Summary, completed: bool) -> Said {
        let (metadata, [started_at, ended_at]) =
            metadata(facts, &self.job_id, &summary.status, summary.url.as_deref());
        Said {
            status: summary.status.clone(),
            completed: i32::from(completed),
            metadata: Value::Object(metadata).to_string(),
            failure: summary.failure.as_ref().map(python),
            name: summary.name.clone(),
            environment: summary.environment.clone(),
            started_at,
            ended_at,
            resubmit: i32::from(self.is_to_be_resubmitted(summary)),
        }
    }

    fn plugin_task(
        &self,
        queue: &str,
        testjob: i64,
        generation: i64,
        plugin: &str,
        status: &str,
    ) -> Task {
        Task::new(PLUGIN, queue)
            .with_id(format!("squad:{testjob}.{generation}/{plugin}"))
            .with("testjob", testjob)
            .with("generation", generation)
            .with("plugin", plugin)
            .with("pk", self.job.pk)
            .with("status", status)
            .with("testrun", self.plan.testrun)
            .with("python", self.plan.testjob)
            .with("mail", self.plan.successor)
            .with("shown", self.mode != (Mode::Fetch { clean: false }))
            .with("added", matches!(self.mode, Mode::Add { .. }))
    }
}
