//! The handlers: `apt.promote` does both halves, `apt.stage` and `apt.commit` one each.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::journal::Fence;
use super::package::{Identity, Package};
use super::stage::{Source, Wanted};
use super::stanza::Stanza;
use super::{AptError, Committed, Repositories, Repository};
use crate::handler::{Context, Fatal, Outcome, Registry};
use crate::storage::Name;
use crate::task::Task;

/// Both halves: what a lane of promotions runs if they are small.
pub const PROMOTE: &str = "apt.promote";
/// The long half alone: in no lane.
pub const STAGE: &str = "apt.stage";
/// The short half alone, of what was staged: in the channel's lane, after its `apt.stage`.
pub const COMMIT: &str = "apt.commit";

/// The most packages of one promotion: their stanzas are in its checkpoint.
const MOST: usize = 1000;

/// The named arguments of a task.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
struct Arguments {
    /// The repository's name in the configuration.
    repository: String,
    /// The channel where packages are to be seen. `apt.stage` needs none.
    #[serde(default)]
    to: Option<String>,
    /// The channel that they come from.
    #[serde(default)]
    from: Option<String>,
    /// The repository that they come from, if it is another.
    #[serde(default)]
    from_repository: Option<String>,
    /// `name=version` or `name:architecture=version`.
    #[serde(default)]
    packages: Vec<String>,
    /// Names of files in the incoming folder.
    #[serde(default)]
    files: Vec<String>,
}

/// What a task asks for, checked against the configuration.
struct Promotion {
    repository: Arc<Repository>,
    source: Source,
    to: Option<String>,
    wanted: Vec<Wanted>,
    files: Vec<Name>,
}

/// What is durable between the halves: the stanzas of what is staged.
#[derive(Debug, Serialize, Deserialize)]
struct Staged {
    staged: Vec<String>,
}

/// Registers the handlers.
pub fn register(registry: &mut Registry, repositories: &Repositories) {
    let own = repositories.clone();
    registry.add(PROMOTE, move |task, context| {
        let own = own.clone();
        async move { ended(promote(&own, &task, &context).await, &context) }
    });
    let own = repositories.clone();
    registry.add(STAGE, move |task, context| {
        let own = own.clone();
        async move { ended(stage_only(&own, &task, &context).await, &context) }
    });
    let own = repositories.clone();
    registry.add(COMMIT, move |task, context| {
        let own = own.clone();
        async move { ended(commit_only(&own, &task, &context).await, &context) }
    });
}

/// By what right this attempt writes.
fn fence(context: &Context) -> Fence {
    Fence {
        task: context.task().to_string(),
        epoch: context.epoch().get(),
        token: token(context),
    }
}

/// The fencing token of the lane that the attempt holds; `None`: it is in no lane. There, the token is the epoch, which only
/// counts the attempts of one task: another task's would begin with 1 again.
fn token(context: &Context) -> Option<i64> {
    Some(context.token()).filter(|token| *token != context.epoch().get())
}

/// An error that another attempt would meet again is final.
fn ended(answer: anyhow::Result<Outcome>, context: &Context) -> anyhow::Result<Outcome> {
    answer.map_err(|error| match error.downcast::<AptError>() {
        Ok(error) if error.is_temporary() => error.into(),
        Ok(error) => {
            tracing::warn!(%error, task.id = %context.task(), "the promotion is refused");
            Fatal(error.to_string()).into()
        }
        Err(error) => error,
    })
}

async fn promote(
    repositories: &Repositories,
    task: &Task,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let promotion = Promotion::read(repositories, task)?;
    let to = promotion.target()?;
    let packages = match context.resume::<Staged>()? {
        Some(staged) => staged.packages()?,
        None => match promotion.stage(context).await? {
            Some(packages) => packages,
            None => return Ok(Outcome::HandOff),
        },
    };
    context.set_progress("staged");
    crate::crash::point("apt:staged");
    promotion.commit(to, &packages, context).await
}

async fn stage_only(
    repositories: &Repositories,
    task: &Task,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let promotion = Promotion::read(repositories, task)?;
    let Some(packages) = promotion.stage(context).await? else {
        return Ok(Outcome::HandOff);
    };
    crate::crash::point("apt:staged");
    Ok(Outcome::done(json!({ "packages": names(&packages) })))
}

async fn commit_only(
    repositories: &Repositories,
    task: &Task,
    context: &Context,
) -> anyhow::Result<Outcome> {
    let promotion = Promotion::read(repositories, task)?;
    let to = promotion.target()?;
    let packages = promotion.staged().await?;
    promotion.commit(to, &packages, context).await
}

impl Staged {
    fn packages(&self) -> anyhow::Result<Vec<Package>> {
        let read = |text: &String| anyhow::Ok(Package::from_index(Stanza::parse(text)?)?);
        self.staged.iter().map(read).collect()
    }
}

impl Promotion {
    fn read(repositories: &Repositories, task: &Task) -> anyhow::Result<Self> {
        let wrong = |what: String| Fatal(format!("{}: {what}", task.name));
        if !task.args.is_empty() {
            return Err(wrong("it takes named arguments only".into()).into());
        }
        let mut arguments = task.kwargs.clone();
        // What a gate tells all of its tasks: what is promoted stands in the entry's own arguments.
        arguments.remove("gate");
        let arguments = Value::Object(arguments);
        let Arguments {
            repository,
            to,
            from,
            from_repository,
            packages,
            files,
        } = serde_json::from_value(arguments).map_err(|error| wrong(error.to_string()))?;
        let repository = Arc::clone(repositories.get(&repository)?);
        if let Some(to) = &to {
            repository.has(to)?;
        }
        if packages.len() + files.len() > MOST || packages.len() + files.len() == 0 {
            return Err(wrong(format!("it needs 1 to {MOST} packages or files")).into());
        }
        let wanted = packages
            .iter()
            .map(|text| text.parse().map_err(wrong))
            .collect::<Result<Vec<_>, _>>()?;
        let files = files
            .into_iter()
            .map(Name::new)
            .collect::<Result<Vec<_>, _>>()
            .map_err(|error| wrong(error.to_string()))?;
        let source = match from {
            Some(_) if !files.is_empty() => {
                return Err(wrong(
                    "files are in incoming, not in a channel: leave out from".into(),
                )
                .into());
            }
            Some(from) => {
                let other = match from_repository {
                    Some(name) => Arc::clone(repositories.get(&name)?),
                    None => Arc::clone(&repository),
                };
                other.has(&from)?;
                Source::Channel(other, from)
            }
            None if from_repository.is_some() => {
                return Err(wrong("from_repository needs from, its channel".into()).into());
            }
            None => Source::Incoming,
        };
        Ok(Self {
            repository,
            source,
            to,
            wanted,
            files,
        })
    }

    fn target(&self) -> anyhow::Result<&str> {
        let to = self.to.as_deref();
        to.ok_or_else(|| Fatal("the argument to, a channel, is missing".into()).into())
    }

    /// Stages all; `None`: the worker wants to end first.
    async fn stage(&self, context: &Context) -> anyhow::Result<Option<Vec<Package>>> {
        let found = match &self.source {
            Source::Channel(other, from) => other.find(from, &self.wanted).await?,
            Source::Incoming if self.files.is_empty() => {
                let what = "what is staged is named by from, or by files of incoming";
                return Err(Fatal(what.into()).into());
            }
            Source::Incoming => Vec::new(),
        };
        let known = found
            .into_iter()
            .map(|package| (package.file.clone(), Some(package)));
        let unknown = self.files.iter().map(|file| (file.clone(), None));
        let all = known.chain(unknown).collect::<Vec<_>>();
        let count = all.len();
        let (mut packages, mut seen) = (Vec::new(), BTreeSet::new());
        for (at, (file, package)) in all.into_iter().enumerate() {
            if context.is_draining() {
                return Ok(None);
            }
            let package = match package {
                Some(package) => package,
                None => self.repository.look(&file).await?,
            };
            let (size, of, told) = (package.size, package.identity.to_string(), context.clone());
            let done = move |bytes: u64| {
                let percent = bytes.saturating_mul(100).checked_div(size).unwrap_or(100);
                told.set_progress(format!("staging {of} ({} of {count}): {percent} %", at + 1));
            };
            let package = self
                .repository
                .stage(&self.source, &file, package, done)
                .await?;
            if seen.insert(package.identity.clone()) {
                packages.push(package);
            }
        }
        let staged = packages.iter().map(ToString::to_string).collect();
        context.save(&Staged { staged }).await?;
        Ok(Some(packages))
    }

    /// What `apt.stage` has staged.
    async fn staged(&self) -> anyhow::Result<Vec<Package>> {
        if !self.files.is_empty() {
            let what = "apt.commit names packages, as the result of apt.stage does";
            return Err(Fatal(what.into()).into());
        }
        let mut packages = Vec::new();
        match &self.source {
            // What a channel's signature says goes before what stands in the pool.
            Source::Channel(other, from) => {
                for package in other.find(from, &self.wanted).await? {
                    let staged = self.repository.staged(&package.identity).await?;
                    super::Conflict::check(&staged, &package).map_err(AptError::from)?;
                    packages.push(staged);
                }
            }
            Source::Incoming => {
                for Wanted {
                    name,
                    version,
                    architecture,
                } in &self.wanted
                {
                    let Some(architecture) = architecture else {
                        let what = format!("{name}={version} needs an architecture here");
                        return Err(Fatal(what).into());
                    };
                    let identity = Identity::new(name, version, architecture)?;
                    packages.push(self.repository.staged(&identity).await?);
                }
            }
        }
        Ok(packages)
    }

    async fn commit(
        &self,
        to: &str,
        packages: &[Package],
        context: &Context,
    ) -> anyhow::Result<Outcome> {
        let fence = fence(context);
        let committed = self
            .repository
            .commit(to, packages, &fence, context.store().clock())
            .await;
        let Committed { generation, wrote } = match committed {
            Ok(committed) => committed,
            // An attempt that was overtaken has lost its lease, too: it need not end the task with an error.
            Err(AptError::Busy { channel, tries }) => {
                let reason = format!("dists/{channel} was written {tries} times by others");
                let after = Duration::from_secs(1);
                return Ok(Outcome::Later { after, reason });
            }
            Err(error) => return Err(error.into()),
        };
        tracing::info!(
            task.id = %context.task(),
            channel = to,
            generation,
            wrote,
            "packages promoted"
        );
        Ok(Outcome::done(json!({
            "channel": to,
            "generation": generation,
            "token": fence.token,
            "wrote": wrote,
            "packages": names(packages),
        })))
    }
}

fn names(packages: &[Package]) -> Vec<String> {
    packages
        .iter()
        .map(|package| package.identity.to_string())
        .collect()
}
