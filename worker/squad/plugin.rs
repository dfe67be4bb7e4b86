//! One plugin over a collected test job of SQUAD: staged like any run; the last one shows the test job in SQUAD.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::export::{LOG, staged_files};
use super::links::Links;
use super::plan::Plan;
use super::{FETCHING, Squad, pk, text};
use crate::handler::{Context, Fatal, Outcome};
use crate::store::{Extent, Op, RunCounts, SquadJob, StagedRow};
use crate::task::Task;
use crate::testjob::backend::{REFERENCES, Settings, yaml};
use crate::testjob::item::{Item, Sink};
use crate::testjob::plugin::external::{self, End};
use crate::testjob::plugin::{Job, KERNEL_LOG, TRADEFED, kernel_log_task, send, shown, tradefed};
use crate::testjob::stage::{Progress, Staged, stage};

/// The setting without which CTS results are kept as files only.
const EXTRACT: &str = "PLUGINS_TRADEFED_EXTRACT_AGGREGATED";

/// A test run with this suite is of a build: its log is no kernel's.
const BUILD_SUITE: &str = "build";

/// SQUAD's names of the files in CTS archives, where they differ from the archive's.
const NAMES: [(&str, &str); 3] = [
    ("test_result.xml", "test_results.xml"),
    ("tradefed-stdout.txt", "teadefed_stdout.txt"),
    ("tradefed-logcat.txt", "teadefed_logcat.txt"),
];

/// What a plugin's task asks for.
#[derive(Clone)]
struct Order {
    testjob: i64,
    generation: i64,
    plugin: String,
    pk: i64,
    status: String,
    plan: Plan,
    /// Whether SQUAD shows the test job already, and is to show it with this.
    shown: bool,
    /// Whether Python has collected it, and post-processes it unless this does.
    added: bool,
}

impl Order {
    fn of(task: &Task) -> Result<Self, Fatal> {
        let flag = |key: &str, index| {
            task.arg(key, index)
                .and_then(Value::as_bool)
                .unwrap_or_default()
        };
        Ok(Self {
            testjob: pk(task, "testjob", 0)?,
            generation: pk(task, "generation", 1)?,
            plugin: text(task, "plugin", 2)?,
            pk: pk(task, "pk", 3)?,
            status: text(task, "status", 4)?,
            plan: Plan {
                native: Vec::new(),
                testrun: flag("testrun", 5),
                testjob: flag("python", 6),
                successor: task.arg("mail", 7).and_then(Value::as_bool),
            },
            shown: flag("shown", 8),
            added: flag("added", 9),
        })
    }
}

/// Runs one attempt.
pub(super) async fn run(
    squad: Arc<Squad>,
    task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let order = Order::of(&task)?;
    let store = context.store();
    let Some(job) = context.patiently(|| store.squad_job(order.pk)).await? else {
        return Ok(Outcome::done(
            json!({ "nothing to do": "SQUAD has no such test job" }),
        ));
    };
    if job.fetched && !order.shown {
        return Ok(Outcome::done(
            json!({ "nothing to do": "SQUAD's own workers have collected it meanwhile" }),
        ));
    }
    if order.added && job.job_status.as_deref() != Some(FETCHING) {
        return Ok(Outcome::done(
            json!({ "nothing to do": "SQUAD's own workers have finished it meanwhile" }),
        ));
    }
    let (testjob, generation) = (order.testjob, order.generation);
    let run = context
        .patiently(|| {
            store.begin_plugin(
                &task.id,
                context.epoch(),
                testjob,
                generation,
                &order.plugin,
            )
        })
        .await?;
    let Some((run, unclean)) = run else {
        return Ok(Outcome::done(
            json!({ "over": "published before, or collected anew since" }),
        ));
    };
    let progress = match context.resume::<Progress>()? {
        Some(progress) => progress,
        None if unclean => Progress::over(run, testjob, generation),
        None => Progress::new(run, testjob, generation),
    };
    let staging = staged(&squad, &order, &job, &context, progress);
    let (found, named) = squad.naming(&context, run, staging).await;
    let (mut with, counts) = match found {
        Ok(Found::Later(after, reason)) => return Ok(Outcome::Later { after, reason }),
        Ok(Found::All(progress, rest, counts)) => {
            context.save_with(&progress, rest).await?;
            squad.names(&context, &progress, named).await?;
            let files = squad
                .attachments(&context, run, staged_files(&context, run).await?)
                .await?;
            (files.into_iter().collect::<Vec<_>>(), counts)
        }
        Ok(Found::HandOff) => return Ok(Outcome::HandOff),
        // SQUAD's test jobs end whatever a plugin makes of them: what is wrong is shown on the test job.
        Err(error) => match error.downcast::<Fatal>() {
            Ok(Fatal(reason)) => given_up(&squad, &context, &order, &job, run, &reason).await?,
            Err(other) => return Err(other),
        },
    };
    with.extend(store.publish_plugin(&task.id, run, testjob, generation, &counts)?);
    let messages = order
        .plan
        .messages(&squad.config.squad, order.pk, generation, &order.status);
    with.extend(store.squad_export(testjob, generation, &messages, Extent::ANY, squad.holds())?);
    Ok(Outcome::Publish {
        result: json!({ "tests": counts.tests }),
        with,
        follow: Vec::new(),
    })
}

/// What comes of a plugin's look.
enum Found {
    /// All that it finds, which is staged but for the rest.
    All(Box<Progress>, Vec<Op>, RunCounts),
    /// It wants to look again after this time.
    Later(Duration, String),
    /// The worker drains.
    HandOff,
}

/// Stages what the plugin finds.
async fn staged(
    squad: &Squad,
    order: &Order,
    job: &SquadJob,
    context: &Context,
    progress: Progress,
) -> anyhow::Result<Found> {
    let found = squad.backend(job).map_err(crate::testjob::fetch::failure)?;
    let Some((backend, settings)) = found else {
        anyhow::bail!(Fatal(format!(
            "a backend of the kind {:?} is Python's",
            job.kind
        )));
    };
    let config = &squad.config;
    let work = Job {
        testjob: order.testjob,
        generation: order.generation,
        id: job.job_id.clone().unwrap_or_default(),
        backend,
        context: context.clone(),
        limits: config.limits.clone(),
    };
    let every = config.worker.checkpoint_every;
    let staged = stage(
        context,
        progress,
        every,
        config.limits.results,
        |sink: Sink| {
            let (work, settings) = (work.clone(), settings.clone());
            async move {
                match order.plugin.as_str() {
                    TRADEFED => cts(squad, &work, job, &settings, &sink).await?,
                    KERNEL_LOG => kernel_log(&work, &sink).await?,
                    other => return external(squad, other, &work, job, &settings, &sink).await,
                }
                Ok(End::Done)
            }
        },
    )
    .await?;
    Ok(match staged {
        Staged::All {
            answer: End::Later(after, reason),
            rest: _,
            counts: _,
            progress: _,
        } => Found::Later(after, reason),
        Staged::All {
            answer: End::Done,
            rest,
            counts,
            progress,
        } => Found::All(progress, rest.ops(context.store())?, counts),
        Staged::HandOff => Found::HandOff,
    })
}

/// A program of the configuration's.
async fn external(
    squad: &Squad,
    plugin: &str,
    work: &Job,
    job: &SquadJob,
    settings: &Settings,
    sink: &Sink,
) -> anyhow::Result<End> {
    let Some(programs) = &squad.programs else {
        return Err(Fatal(format!("unknown plugin {plugin:?}")).into());
    };
    let about = external::Project {
        backend: job.backend.clone(),
        name: job.project.clone(),
        settings: shown(settings),
    };
    external::run(programs, plugin, &about, work, sink).await
}

/// A plugin that cannot do its work leaves nothing but the reason, and where the results would have been.
async fn given_up(
    squad: &Squad,
    context: &Context,
    order: &Order,
    job: &SquadJob,
    run: i64,
    reason: &str,
) -> anyhow::Result<(Vec<Op>, RunCounts)> {
    let store = context.store();
    while context
        .patiently(|| store.clear(context.task(), context.epoch(), run))
        .await?
        > 0
    {}
    let text = format!("plugin {}: {reason}", order.plugin);
    tracing::warn!(testjob = order.pk, "{text}");
    let row = StagedRow::Fact {
        kind: "problem",
        key: String::new(),
        value: text.clone(),
    };
    let mut rows = vec![row];
    if order.plugin == TRADEFED
        && let Ok(Some((_, settings))) = squad.backend(job)
        && let Some((prefix, _)) = definition(job, &settings)
    {
        let place = (order.testjob, order.generation);
        let found = archive_of(context, place, prefix.as_deref()).await?;
        rows.extend(found.map(|(_, reference)| StagedRow::Fact {
            kind: "metadata",
            key: results_url(job.job_id.as_deref().unwrap_or_default()),
            value: Value::from(reference).to_string(),
        }));
    }
    let mut with = store.stage(run, 1, &rows)?;
    with.push(store.squad_problem(order.testjob, order.generation, &text)?);
    let counts = RunCounts {
        problems: 1,
        ..RunCounts::default()
    };
    Ok((with, counts))
}

/// Findings in the kernel's log, unless the test run is of a build.
async fn kernel_log(work: &Job, sink: &Sink) -> anyhow::Result<()> {
    let store = work.context.store();
    let is_build = work
        .context
        .patiently(|| store.squad_has_suite(work.testjob, work.generation, BUILD_SUITE))
        .await?;
    if is_build {
        return Ok(());
    }
    kernel_log_task::run(work, |name| name == LOG, sink).await
}

/// Where the archive is, as SQUAD's metadata calls it.
fn results_url(job_id: &str) -> String {
    format!("tradefed_results_url_{job_id}")
}

/// The suite and the address of the archive that the collection of a test job names.
async fn archive_of(
    context: &Context,
    (testjob, generation): (i64, i64),
    prefix: Option<&str>,
) -> anyhow::Result<Option<(String, String)>> {
    let store = context.store();
    let facts = context
        .patiently(|| store.fetched_facts(testjob, generation))
        .await?;
    Ok(facts
        .iter()
        .filter(|(key, _)| key == REFERENCES)
        .find_map(|(_, value)| attachment(value, prefix)))
}

/// Where SQUAD shows the attachments of the test run, if the configuration says where SQUAD is.
async fn attachments(squad: &Squad, work: &Job, job: &SquadJob) -> anyhow::Result<Option<String>> {
    let Some(url) = &squad.config.squad.url else {
        return Ok(None);
    };
    let store = work.context.store();
    let testrun = work
        .context
        .patiently(|| store.squad_testrun(work.testjob, work.generation))
        .await?;
    let version = job.version.as_deref().unwrap_or_default();
    Ok(testrun.map(|testrun| {
        format!(
            "{url}/{}/build/{version}/attachments/testrun/{testrun}",
            job.project
        )
    }))
}

/// CTS and VTS results, as SQUAD's plugin of that name takes them: from the one test definition that runs tradefed.
async fn cts(
    squad: &Squad,
    work: &Job,
    job: &SquadJob,
    settings: &Settings,
    sink: &Sink,
) -> anyhow::Result<()> {
    let Some((prefix, extract)) = definition(job, settings) else {
        let text = "tradefed: not exactly one tradefed.yaml in the definition";
        return send(sink, Item::Problem(text.into())).await;
    };
    let place = (work.testjob, work.generation);
    let found = archive_of(&work.context, place, prefix.as_deref()).await?;
    let Some((suite, reference)) = found else {
        let text = "tradefed: no test of the test job names an attachment";
        return send(sink, Item::Problem(text.into())).await;
    };
    let key = results_url(&work.id);
    send(sink, Item::Metadata(key, reference.as_str().into())).await?;
    let attachments = attachments(squad, work, job).await?;
    let (all, mut items) = mpsc::channel(64);
    let pick = async {
        let mut links = Links::new(attachments);
        while let Some(item) = items.recv().await {
            if let Some(rest) = links.end(&item)
                && sink.send(Item::Data(rest)).await.is_err()
            {
                break;
            }
            let item = match item {
                Item::Test(_) if !extract => continue,
                // SQUAD keeps the address alone.
                Item::Metadata(..) => continue,
                Item::File { name, mimetype } => {
                    links.begin(&name);
                    let name = squads(name);
                    Item::File { name, mimetype }
                }
                Item::Data(data) => Item::Data(links.data(data)),
                other @ (Item::Test(_) | Item::Metric(_) | Item::Problem(_)) => other,
            };
            if sink.send(item).await.is_err() {
                return;
            }
        }
        if let Some(rest) = links.rest() {
            // A closed sink is told by whoever sends next.
            let _closed = sink.send(Item::Data(rest)).await;
        }
    };
    let suite = prefix.unwrap_or(suite);
    let read = async {
        let all = all;
        tradefed::one(work, &suite, &reference, &all).await
    };
    let (read, ()) = tokio::join!(read, pick);
    read?;
    archive(work, &reference, sink).await
}

/// The archive itself, which SQUAD keeps too.
async fn archive(work: &Job, reference: &str, sink: &Sink) -> anyhow::Result<()> {
    use tokio::io::AsyncReadExt;
    let name = archive_name(reference);
    let mut download = work
        .backend
        .open(&work.id, reference)
        .await
        .map_err(crate::testjob::fetch::failure)?;
    let mimetype = download.media_type.take();
    let mimetype = mimetype.unwrap_or_else(|| "application/x-tar".to_owned());
    send(sink, Item::File { name, mimetype }).await?;
    let mut buffer = vec![0; crate::testjob::item::DATA_CHUNK];
    loop {
        let read = download.read(&mut buffer).await?;
        let Some(data) = buffer.get(..read).filter(|data| !data.is_empty()) else {
            return Ok(());
        };
        send(sink, Item::Data(bytes::Bytes::copy_from_slice(data))).await?;
    }
}

/// The name of the one test definition that runs tradefed (TuxSuite's test jobs have none), and whether its tests are
/// wanted. `None`: there is not exactly one.
fn definition(job: &SquadJob, settings: &Settings) -> Option<(Option<String>, bool)> {
    let wanted = settings.is_on(EXTRACT);
    if job.kind == "tuxsuite" {
        return Some((Some("vts-lkft".to_owned()), wanted));
    }
    let definition = yaml(job.definition.as_deref()?);
    let mut found = Vec::new();
    for action in definition.get("actions")?.as_array()? {
        let definitions = action.get("test").and_then(|test| test.get("definitions"));
        for test in definitions.and_then(Value::as_array).into_iter().flatten() {
            let text = |key: &str| test.get(key).and_then(Value::as_str);
            let format = test
                .get("params")
                .and_then(|params| params.get("RESULTS_FORMAT"))
                .and_then(Value::as_str);
            if let (Some(path), Some(name), Some(format)) = (text("path"), text("name"), format)
                && path.contains("tradefed.yaml")
            {
                found.push((name.to_owned(), format == "aggregated"));
            }
        }
    }
    match found.as_slice() {
        [(name, is_aggregated)] => Some((Some(name.clone()), wanted && *is_aggregated)),
        _ => None,
    }
}

/// The suite and the address of the archive: of a suite whose name contains `part`, if given.
fn attachment(references: &str, part: Option<&str>) -> Option<(String, String)> {
    let references: serde_json::Map<String, Value> = serde_json::from_str(references).ok()?;
    references.into_iter().find_map(|(test, reference)| {
        let (suite, name) = test.rsplit_once('/')?;
        let fits = name == tradefed::ATTACHMENT
            && (part.is_none_or(|part| suite.contains(part) || part == "vts-lkft"));
        fits.then(|| Some((suite.to_owned(), reference.as_str()?.to_owned())))?
    })
}

fn squads(name: String) -> String {
    let renamed = NAMES.iter().find(|(own, _)| *own == name);
    renamed.map_or(name, |(_, theirs)| (*theirs).to_owned())
}

/// SQUAD's name of the archive: the end of its address, or what a parameter of it names.
fn archive_name(reference: &str) -> String {
    const ENDING: &str = "tar.xz";
    let end = |text: &str| {
        let head = text.strip_suffix(ENDING)?;
        let kept = |letter: char| letter.is_alphanumeric() || matches!(letter, '_' | '.' | '-');
        let name = head.rfind(|letter| !kept(letter)).map_or(head, |at| {
            head.get(at..)
                .unwrap_or_default()
                .trim_start_matches(|letter| !kept(letter))
        });
        (!name.is_empty()).then(|| format!("{name}{ENDING}"))
    };
    let url = url::Url::parse(reference).ok();
    end(tradefed::archive_name(reference))
        .or_else(|| {
            let mut values = url.as_ref()?.query_pairs();
            values.find_map(|(_, value)| end(&value).map(|_| value.into_owned()))
        })
        .unwrap_or_else(|| "tradefed.tar.gz".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn archives_are_called_as_by_squad() {
        for (reference, name) in [
            (
                "https://f/a/tradefed-output-2.tar.xz?x=1",
                "tradefed-output-2.tar.xz",
            ),
            ("https://f/a/b%20c/x@output.tar.xz", "output.tar.xz"),
            (
                "https://s/api/testruns/7/attachments/?filename=out-7.tar.xz",
                "out-7.tar.xz",
            ),
            ("https://f/results.zip", "tradefed.tar.gz"),
            ("no address", "tradefed.tar.gz"),
        ] {
            assert_eq!(archive_name(reference), name, "{reference}");
        }
    }
}
