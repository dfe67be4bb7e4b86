//! `longshore config publish` and `rollback`.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use super::{Of, Place, failed, millis, outcome};
use serde::Serialize;

use crate::bundle::{First, Manifest, Revision, Snapshot, SourceError, Verb as Change, is_name};
use crate::cli::show::json;
use crate::cli::{Answer, Failure, print};
use crate::config::Config;
use crate::store::BundleNote;
use crate::testjob::plugin;

/// How long the sources may take to be read and checked: a clone may stand on a disk that hangs.
const LIMIT: Duration = Duration::from_secs(60);

#[derive(clap::Args)]
pub(in crate::cli) struct Arguments {
    #[command(flatten)]
    of: Of,
    /// A source: a file, a directory, or a commit of a local clone of a git repository, whole or one directory of it
    #[arg(long = "source", value_name = "NAME=PATH | NAME=git:PATH[@COMMIT[:DIR]]", required = true, value_parser = source)]
    sources: Vec<(String, Origin)>,
    /// A step that has to be done by hand before it may go out: `longshore config ack STEP`
    #[arg(long, value_name = "STEP")]
    requires: Vec<String>,
    /// So many workers, or so many percent of them, have it first
    #[arg(long, value_name = "N | P%", value_parser = first)]
    first: Option<First>,
    /// For so long they have to be well before the others follow
    #[arg(long, default_value = "5m", value_parser = humantime::parse_duration, requires = "first")]
    healthy: Duration,
    /// A source of the newest revision that is to be in it no more; one that is merely not named is refused
    #[arg(long, value_name = "NAME")]
    without: Vec<String>,
    /// Do not check it as a worker with this configuration would
    #[arg(long)]
    unchecked: bool,
    /// Only say what would be published, and what is different in it
    #[arg(long)]
    dry_run: bool,
    /// Print what was done as JSON
    #[arg(long)]
    json: bool,
    /// Publish nothing, but write the sources into this new directory, marked as one set: for ConfigMaps and mounts
    #[arg(long, value_name = "DIR", conflicts_with_all = ["first", "requires", "json", "dry_run"])]
    into: Option<PathBuf>,
}

/// Where a source comes from.
#[derive(Debug, Clone)]
enum Origin {
    Path(PathBuf),
    Git(PathBuf, String),
}

fn source(text: &str) -> Result<(String, Origin), String> {
    let (name, place) = text.split_once('=').ok_or("write NAME=PATH")?;
    if !is_name(name) {
        return Err(
            "a source's name has 1 to 63 letters, digits, '-', '_' and '.', and no '.' in front"
                .into(),
        );
    }
    let origin = match place.strip_prefix("git:") {
        None => Origin::Path(place.into()),
        Some(clone) => {
            let (path, commit) = clone.rsplit_once('@').unwrap_or((clone, "HEAD"));
            Origin::Git(path.into(), commit.to_owned())
        }
    };
    Ok((name.to_owned(), origin))
}

fn first(text: &str) -> Result<First, String> {
    let number = |text: &str| text.parse::<u32>().map_err(|error| error.to_string());
    match text.strip_suffix('%').map(number) {
        Some(Ok(percent @ 1..=100)) => Ok(First::Percent(percent)),
        None => match number(text)? {
            0 => Err("at least one worker has to have it first".into()),
            count => Ok(First::Count(count)),
        },
        Some(_) => Err("give a number of workers, or 1% to 100%".into()),
    }
}

impl Origin {
    fn read(&self) -> Result<Snapshot, SourceError> {
        match self {
            Self::Path(path) => Snapshot::read(path),
            Self::Git(path, commit) => Snapshot::read_git(path, commit),
        }
    }
}

pub(super) async fn run(path: Option<PathBuf>, config: &Config, arguments: Arguments) -> Answer {
    let mut origins = BTreeMap::new();
    for (name, origin) in arguments.sources {
        if origins.insert(name.clone(), origin).is_some() {
            return Err(Failure::Wrong(format!("--source {name} is given twice")));
        }
    }
    let checked = !arguments.unchecked;
    let read = tokio::task::spawn_blocking(move || read(path.as_deref(), &origins, checked));
    let sources = tokio::time::timeout(LIMIT, read).await.map_err(|_| {
        Failure::Wrong(format!(
            "the sources could not be read and checked within {LIMIT:?}; nothing was published"
        ))
    })???;
    let manifest = Manifest {
        sources: sources
            .iter()
            .map(|(name, source)| (name.clone(), source.revision()))
            .collect(),
        undoes: None,
    };
    let revision = manifest.revision();
    if let Some(into) = arguments.into {
        write(&into, &sources, &revision)?;
        print(&format!(
            "revision {revision} is in {}: one directory for each source, marked as a set",
            into.display()
        ));
        return Ok(ExitCode::SUCCESS);
    }
    let place = Place::open(config, arguments.of).await?;
    let difference = against_newest(&place, &sources, &arguments.without).await?;
    if arguments.dry_run {
        let done = would_publish(&place, revision, difference).await?;
        return said(&done, arguments.json);
    }
    let change = Change::Publish {
        revision,
        requires: arguments.requires.into_iter().collect(),
        canary: arguments
            .first
            .map(|first| (first, millis(arguments.healthy))),
    };
    let done = publish(&place, &manifest, &sources, &change, &difference).await?;
    said(&done, arguments.json)
}

fn said(done: &Published, as_json: bool) -> Answer {
    print(&if as_json {
        json(done)?
    } else {
        done.text.clone()
    });
    Ok(ExitCode::SUCCESS)
}

/// What a publication would come to.
async fn would_publish(
    place: &Place,
    revision: Revision,
    difference: Vec<String>,
) -> Result<Published, Failure> {
    let (_, state) = place.store.bundle_state(&place.bundle).await?;
    let is_new = state
        .newest
        .is_none_or(|newest| newest.revision != revision);
    let text = if is_new {
        format!("revision {revision}\n{}", difference.join("\n"))
    } else {
        format!("nothing is different: revision {revision} is the newest")
    };
    Ok(Published {
        revision,
        is_new,
        difference,
        text,
    })
}

/// What a publication has come to.
#[derive(Serialize)]
struct Published {
    revision: Revision,
    is_new: bool,
    difference: Vec<String>,
    #[serde(skip)]
    text: String,
}

async fn publish(
    place: &Place,
    manifest: &Manifest,
    sources: &BTreeMap<String, Snapshot>,
    change: &Change,
    difference: &[String],
) -> Result<Published, Failure> {
    let packed = sources
        .iter()
        .map(|(name, source)| {
            Ok((
                manifest.sources.get(name).cloned().unwrap_or_default(),
                source.pack()?,
            ))
        })
        .collect::<anyhow::Result<Vec<_>>>()?;
    let (revision, detail) = (manifest.revision(), difference.join("\n"));
    let note = BundleNote {
        what: "published",
        revision: Some(&revision),
        who: &place.by,
        detail: &detail,
    };
    let published = place
        .store
        .bundle_publish(&place.bundle, manifest, &packed, change, &note);
    let (state, is_new) = published.await.map_err(failed)?;
    let mut text = if is_new {
        outcome(place, &state)
    } else {
        format!(
            "nothing is different: revision {revision} of bundle {} is the newest",
            place.bundle
        )
    };
    difference
        .iter()
        .for_each(|line| text.push_str(&format!("\n  {line}")));
    if place.store.bundle_reports(&place.bundle).await?.is_empty() {
        text.push_str(&format!("\nno worker follows bundle {} yet", place.bundle));
    }
    Ok(Published {
        revision,
        is_new,
        difference: difference.to_vec(),
        text,
    })
}

/// What is different from the newest revision.
async fn against_newest(
    place: &Place,
    sources: &BTreeMap<String, Snapshot>,
    without: &[String],
) -> Result<Vec<String>, Failure> {
    let (_, state) = place.store.bundle_state(&place.bundle).await?;
    let before = match &state.newest {
        Some(newest) => contents(place, &newest.revision).await?,
        None => BTreeMap::new(),
    };
    let left_out = |name: &&String| !sources.contains_key(*name) && !without.contains(name);
    if let Some(name) = before.keys().find(left_out) {
        return Err(Failure::Wrong(format!(
            "source {name} of the newest revision is not given: add --source {name}=…, or --without {name} if it is to go; nothing was published"
        )));
    }
    Ok(difference(&before, sources))
}

/// Reads the sources, and checks what a worker with this configuration would make of them.
fn read(
    path: Option<&Path>,
    origins: &BTreeMap<String, Origin>,
    checked: bool,
) -> Result<BTreeMap<String, Snapshot>, Failure> {
    let mut sources = BTreeMap::new();
    for (name, origin) in origins {
        let source = origin.read();
        let source = source.map_err(|error| {
            Failure::Wrong(format!("source {name}: {error}; nothing was published"))
        })?;
        sources.insert(name.clone(), source);
    }
    if checked {
        let folder = tempfile(&sources)?;
        let env: Vec<_> = std::env::vars_os().collect();
        let answer = Config::load_with_bundle(path, &folder, env, &plugin::KNOWN);
        std::fs::remove_dir_all(&folder)?;
        if let Err(problems) = answer {
            let base = format!("{}/", folder.display());
            let told: Vec<String> = problems
                .iter()
                .map(|problem| problem.to_string().replace(&base, ""))
                .collect();
            return Err(Failure::Wrong(format!(
                "{}\nnothing was published",
                told.join("\n")
            )));
        }
    }
    Ok(sources)
}

fn tempfile(sources: &BTreeMap<String, Snapshot>) -> anyhow::Result<PathBuf> {
    let folder = std::env::temp_dir().join(format!(
        "longshore-bundle-{}",
        uuid::Uuid::now_v7().simple()
    ));
    put(&folder, sources, None)?;
    Ok(folder)
}

fn put(
    folder: &Path,
    sources: &BTreeMap<String, Snapshot>,
    mark: Option<&Revision>,
) -> std::io::Result<()> {
    for (name, source) in sources {
        let folder = folder.join(name);
        std::fs::create_dir_all(&folder)?;
        for (path, file) in &source.files {
            let path = folder.join(path);
            std::fs::create_dir_all(path.parent().unwrap_or(&folder))?;
            std::fs::write(&path, &file.bytes)?;
            if file.executable {
                std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755))?;
            }
        }
        if let Some(mark) = mark {
            std::fs::write(
                folder.join(crate::bundle::snapshot::MARK),
                format!("{mark}\n"),
            )?;
        }
    }
    Ok(())
}

fn write(
    into: &Path,
    sources: &BTreeMap<String, Snapshot>,
    revision: &Revision,
) -> Result<(), Failure> {
    if into.exists() {
        return Err(Failure::Wrong(format!(
            "{} is there already: name a new directory",
            into.display()
        )));
    }
    let runs = |source: &Snapshot| {
        source
            .files
            .iter()
            .find(|(_, file)| file.executable)
            .map(|(path, _)| path.clone())
    };
    if let Some((name, path)) = sources
        .iter()
        .find_map(|(name, source)| Some((name, runs(source)?)))
    {
        return Err(Failure::Wrong(format!(
            "{name}/{path} may be run, which a ConfigMap does not keep: take that from it (chmod -x), and name its interpreter where it is run"
        )));
    }
    put(into, sources, Some(revision))
        .map_err(|error| Failure::Wrong(format!("{}: {error}", into.display())))
}

/// The sources of a revision as the store has them.
async fn contents(
    place: &Place,
    revision: &Revision,
) -> Result<BTreeMap<String, Snapshot>, Failure> {
    let mut sources = BTreeMap::new();
    let manifest = place.store.bundle_manifest(&place.bundle, revision).await?;
    for (name, source) in manifest.unwrap_or_default().sources {
        if let Some(Ok(snapshot)) = place.store.bundle_source(&source).await? {
            sources.insert(name, snapshot);
        }
    }
    Ok(sources)
}

/// What is different, a line for each file; of configuration the keys, never their values, which may be secrets.
fn difference(
    before: &BTreeMap<String, Snapshot>,
    after: &BTreeMap<String, Snapshot>,
) -> Vec<String> {
    let files = |sources: &BTreeMap<String, Snapshot>| {
        let mut all = BTreeMap::new();
        for (name, source) in sources {
            for (path, file) in &source.files {
                all.insert(format!("{name}/{path}"), file.clone());
            }
        }
        all
    };
    let (before, after) = (files(before), files(after));
    let names: BTreeSet<&String> = before.keys().chain(after.keys()).collect();
    names
        .into_iter()
        .filter_map(|name| match (before.get(name), after.get(name)) {
            (Some(old), Some(new)) if old == new => None,
            (None, Some(_)) => Some(format!("+ {name}")),
            (Some(_), None) => Some(format!("- {name}")),
            (Some(old), Some(new)) => Some(format!("~ {name}{}", keys(&old.bytes, &new.bytes))),
            (None, None) => None,
        })
        .collect()
}

/// Which keys are different in a TOML file.
fn keys(old: &[u8], new: &[u8]) -> String {
    let read = |bytes: &[u8]| {
        let text = std::str::from_utf8(bytes).ok()?;
        let mut flat = BTreeMap::new();
        flatten(
            &mut flat,
            String::new(),
            &toml::Value::Table(text.parse().ok()?),
        );
        Some(flat)
    };
    let (Some(old), Some(new)) = (read(old), read(new)) else {
        return String::new();
    };
    let names: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    let told = names
        .into_iter()
        .filter_map(|name| match (old.get(name), new.get(name)) {
            (Some(old), Some(new)) if old == new => None,
            (None, _) => Some(format!("+{name}")),
            (_, None) => Some(format!("-{name}")),
            (Some(_), Some(_)) => Some(format!("~{name}")),
        });
    let told: Vec<String> = told.collect();
    if told.is_empty() {
        String::new()
    } else {
        format!(": {}", told.join(" "))
    }
}

fn flatten(flat: &mut BTreeMap<String, String>, name: String, value: &toml::Value) {
    match value {
        toml::Value::Table(table) => {
            for (key, value) in table {
                let name = if name.is_empty() {
                    key.clone()
                } else {
                    format!("{name}.{key}")
                };
                flatten(flat, name, value);
            }
        }
        toml::Value::String(_)
        | toml::Value::Integer(_)
        | toml::Value::Float(_)
        | toml::Value::Boolean(_)
        | toml::Value::Datetime(_)
        | toml::Value::Array(_) => drop(flat.insert(name, value.to_string())),
    }
}

pub(super) async fn rollback(config: &Config, of: Of, to: Option<Revision>, now: bool) -> Answer {
    let place = Place::open(config, of).await?;
    let (_, state) = place.store.bundle_state(&place.bundle).await?;
    let Some(newest) = &state.newest else {
        return Err(Failure::Wrong(
            "nothing was published yet: there is nothing to go back from".into(),
        ));
    };
    let own = place
        .store
        .bundle_manifest(&place.bundle, &newest.revision)
        .await?
        .unwrap_or_default();
    let target = match to {
        Some(to) => place
            .store
            .bundle_manifest(&place.bundle, &to)
            .await?
            .map(|manifest| (to, manifest)),
        None => last_good(&place, &state.good, &own).await?,
    };
    let Some((target, before)) = target else {
        return Err(Failure::Wrong(
            "there is no such revision to go back to: `longshore config log` shows what there was"
                .into(),
        ));
    };
    let manifest = Manifest {
        sources: before.sources,
        undoes: Some(newest.revision.clone()),
    };
    let revision = manifest.revision();
    let change = Change::Publish {
        revision: revision.clone(),
        requires: BTreeSet::new(),
        canary: None,
    };
    let detail = format!("{} is undone: as {target}", newest.revision);
    let note = BundleNote {
        what: "rolled back",
        revision: Some(&revision),
        who: &place.by,
        detail: &detail,
    };
    let sources = files(&place, &target, &manifest).await?;
    let published = place
        .store
        .bundle_publish(&place.bundle, &manifest, &sources, &change, &note);
    let (mut state, _) = published.await.map_err(failed)?;
    if now {
        state = place.change(&Change::ApplyNow, "apply now", "").await?.0;
    }
    print(&format!("{}\n  {detail}", outcome(&place, &state)));
    Ok(ExitCode::SUCCESS)
}

/// The files of a revision, which the store still has.
async fn files(
    place: &Place,
    revision: &Revision,
    manifest: &Manifest,
) -> Result<Vec<(String, Vec<u8>)>, Failure> {
    let mut files = Vec::new();
    for (name, source) in &manifest.sources {
        let found = place.store.bundle_source(source).await?;
        let Some(Ok(found)) = found else {
            return Err(Failure::Wrong(format!(
                "the files of source {name} of {revision} are not kept any more: publish them again from where they come from"
            )));
        };
        files.push((source.clone(), found.pack().map_err(anyhow::Error::from)?));
    }
    Ok(files)
}

/// The last revision that was live on some worker, says something else than `own`, and was not undone since.
async fn last_good(
    place: &Place,
    good: &[Revision],
    own: &Manifest,
) -> Result<Option<(Revision, Manifest)>, Failure> {
    let mut undone: BTreeSet<Revision> = own.undoes.iter().cloned().collect();
    for revision in good {
        let manifest = place
            .store
            .bundle_manifest(&place.bundle, revision)
            .await?
            .unwrap_or_default();
        undone.extend(manifest.undoes.clone());
        if manifest.sources != own.sources
            && !undone.contains(revision)
            && !manifest.sources.is_empty()
        {
            return Ok(Some((revision.clone(), manifest)));
        }
    }
    Ok(None)
}
