//! `[bundle]` and `[features]`: configuration that a worker takes over while it runs, and what of it needs a restart.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use super::document::Document;
use super::pool::PoolKind;
use super::problem::{Problem, Wrong};
use super::quantity::serialize_duration;
use super::section::Section;
use super::{Config, Pool};
use crate::bundle::is_name;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);

/// Sections that a worker must have before it can read a bundle.
const FIXED: [&str; 3] = ["store", "broker", "bundle"];

/// The bundle that a worker follows.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Bundle {
    /// Its name in the store.
    pub name: String,
    /// Where what was fetched is kept, so that a restart begins with the last good one. Default
    /// `longshore-bundles` in the file's folder.
    pub folder: PathBuf,
    /// Between two looks at what is wanted, 100 ms to 1 h. Default 5 s.
    #[serde(serialize_with = "serialize_duration")]
    pub look_every: Duration,
    /// How long fetching and checking a revision may take, 1 s to 1 h. Default 30 s.
    #[serde(serialize_with = "serialize_duration")]
    pub check_limit: Duration,
    /// After so long a worker that has not what it is to have is late, 1 s to 30 days. Default 10 min.
    #[serde(serialize_with = "serialize_duration")]
    pub late_after: Duration,
    /// For so long nothing must have moved in `sources` before they are taken, 0 s to 1 day. Default 5 s.
    #[serde(serialize_with = "serialize_duration")]
    pub quiet_min: Duration,
    /// After so long they are taken even if something moves still. Default four times `quiet_min`.
    #[serde(serialize_with = "serialize_duration")]
    pub quiet_max: Duration,
    /// Files, directories and mounts that are looked at in place of the store, by name. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub sources: BTreeMap<String, PathBuf>,
}

impl Bundle {
    /// The section, unless it is empty.
    pub(super) fn read(section: &mut Section<'_>) -> Option<Self> {
        let is_there = !section.names().is_empty();
        let name = section.parsed("name", str::to_owned, named);
        let folder = section
            .path("folder")
            .unwrap_or_else(|| section.located("folder", "longshore-bundles"));
        let look_every = section.duration("look_every", SECOND / 10..=HOUR, 5 * SECOND);
        let quiet_min = section.duration("quiet_min", Duration::ZERO..=DAY, 5 * SECOND);
        let bundle = Self {
            folder,
            look_every,
            check_limit: section.duration("check_limit", SECOND..=HOUR, 30 * SECOND),
            late_after: section.duration("late_after", SECOND..=30 * DAY, 600 * SECOND),
            quiet_min,
            quiet_max: section.duration("quiet_max", Duration::ZERO..=4 * DAY, 4 * quiet_min),
            sources: section.table("sources", |section| {
                for name in section.names() {
                    if let Err(wrong) = named(&name) {
                        section.wrong(&name, None, wrong);
                    }
                }
                section.named_paths()
            }),
            name: name.clone().unwrap_or_default(),
        };
        if is_there && name.is_none() && section.is_sound("name") {
            let wrong = Wrong::new(
                "is missing",
                r#"name the bundle that is followed: name = "production""#,
            );
            section.wrong("name", None, wrong);
        }
        if bundle.quiet_max < bundle.quiet_min && section.is_sound("quiet_max") {
            section.wrong(
                "quiet_max",
                None,
                Wrong::new("less than quiet_min", "give at least as much"),
            );
        }
        name.map(|_| bundle)
    }
}

/// A name that is a folder's too.
fn named(text: &str) -> Result<String, Wrong> {
    if is_name(text) {
        return Ok(text.to_owned());
    }
    Err(Wrong::new(
        "not a name that a folder can have",
        "write 1 to 63 letters, digits, '-', '_' and '.', the last not in front",
    ))
}

/// The switches below `[features]`.
pub(super) fn features(section: &mut Section<'_>) -> BTreeMap<String, bool> {
    section.flags()
}

/// The documents of a bundle's sources laid over what the worker's own file says.
pub(super) fn overlay(base: &mut Document, folder: &Path, members: &[PathBuf]) {
    base.bundle = Some(folder.to_owned());
    let mut all = Document::default();
    for path in members {
        let mut member = Document::read(path);
        for section in FIXED {
            if member.table.contains_key(section) {
                member.problems.push(Problem {
                    place: member.place(section),
                    key: section.to_owned(),
                    value: None,
                    what: "cannot be in a bundle: a worker needs it to find the bundle".to_owned(),
                    mend: "write it in the worker's own file".to_owned(),
                });
            }
        }
        all.join(member);
    }
    base.replace_by(all);
}

/// Every file below `folder` that is configuration: those whose names end in `.toml`, in order.
///
/// # Errors
///
/// What the file system says.
pub(super) fn members(folder: &Path) -> std::io::Result<Vec<PathBuf>> {
    let (mut all, mut folders) = (Vec::new(), vec![folder.to_owned()]);
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder)? {
            let path = entry?.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|ending| ending == "toml") {
                all.push(path);
            }
        }
    }
    all.sort();
    Ok(all)
}

impl Config {
    /// What differs in `other` that a worker of `pool` can only take by a restart: sections, or keys of its pool.
    pub fn restarts(&self, other: &Self, pool: &str) -> Vec<String> {
        let mut differ = Vec::new();
        let mut check = |name: &str, same: bool| {
            if !same {
                differ.push(name.to_owned());
            }
        };
        check("worker", self.worker == other.worker);
        check("http", self.http == other.http);
        check("kubernetes", self.kubernetes == other.kubernetes);
        check("celery", self.celery == other.celery);
        check("python", self.python == other.python);
        check("testjobs", self.testjobs == other.testjobs);
        check("squad", self.squad == other.squad);
        check("s3", self.s3 == other.s3);
        check("apt", self.apt == other.apt);
        check("api", self.api == other.api);
        check("limits", self.limits == other.limits);
        check("retention", self.retention == other.retention);
        let fixed = |config: &Self| config.pools.get(pool).map(fixed);
        check(&format!("pools.{pool}"), fixed(self) == fixed(other));
        differ
    }
}

/// A pool but for what it can change while it works: its slots and its budget.
fn fixed(pool: &Pool) -> Pool {
    let kind = match &pool.kind {
        PoolKind::Elastic { overrun_queue, .. } => PoolKind::Elastic {
            budget: Duration::ZERO,
            overrun_queue: overrun_queue.clone(),
        },
        PoolKind::Pinned => PoolKind::Pinned,
    };
    Pool {
        kind,
        slots: 0,
        queues: pool.queues.clone(),
    }
}
