//! `[testjobs]` and `[squad]`: whose tables the results of test jobs go into.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::problem::Wrong;
use super::quantity::serialize_duration;
use super::s3::BucketPlace;
use super::section::{LONGEST_PATH, Section, filled};

/// Where the results of test jobs go.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct TestJobs {
    /// Whose test jobs they are. Default `longshore`.
    pub store: ResultStore,
}

/// Whose tables hold results.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ResultStore {
    /// Our own.
    #[default]
    Longshore,
    /// SQUAD's, in the same PostgreSQL database: its fetch messages are handled too.
    Squad,
}

/// How a SQUAD installation is set up.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Squad {
    /// Where SQUAD's files are. Needed with `testjobs.store = "squad"`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub storage: Option<Storage>,
    /// The address of its web server, its `SQUAD_BASE_URL`: style sheets in result files are linked to its attachments.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub url: Option<String>,
    /// The queue of native plugins; only Longshore takes from it. Default `longshore_postprocess`.
    pub postprocess_queue: String,
    /// The queue on which SQUAD's remaining workers take what only Python can do. Default `celery`.
    pub python_queue: String,
    /// The queue of SQUAD's task `squad.core.tasks.postprocess_test_run`. Default `core_postprocess`.
    pub testrun_queue: String,
    /// The queue of SQUAD's tasks that submit test jobs and write mail. Default `ci_quick`.
    pub quick_queue: String,
    /// How long SQUAD's workers may take to end a test job before they are told again, 1 s to 1 h. Default 60 s.
    #[serde(serialize_with = "serialize_duration")]
    pub patience: Duration,
    /// Who sees to it that the rows exist that a test refers to. Default `checked`.
    pub foreign_keys: ForeignKeys,
    /// What a plugin that exists in Python only hooks into, by its name. SQUAD's own are known.
    pub plugins: BTreeMap<String, Hook>,
}

/// Where SQUAD's files are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Storage {
    /// In this folder, its `SQUAD_STORAGE_DIR`.
    Folder(PathBuf),
    /// In a bucket, by the S3 storage of its django-storages: the bucket and its `location`.
    Bucket(BucketPlace),
}

/// Who sees to it that the rows exist that a test refers to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum ForeignKeys {
    /// PostgreSQL looks for each when the transaction ends: more than a minute for a million tests.
    #[default]
    Checked,
    /// Longshore, which has found and locked each while it wrote the tests; needs the right to set `session_replication_role`.
    Held,
}

/// When SQUAD calls a plugin.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Hook {
    /// `postprocess_testrun`.
    Testrun,
    /// `postprocess_testjob`.
    Testjob,
    /// Not for results of test jobs.
    None,
}

impl TestJobs {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let choices = [
            ("longshore", ResultStore::Longshore),
            ("squad", ResultStore::Squad),
        ];
        Self {
            store: section.choice("store", &choices).unwrap_or_default(),
        }
    }
}

impl Storage {
    fn read(section: &mut Section<'_>) -> Option<Self> {
        let storage = section.parsed("storage", str::to_owned, |text| {
            let text = filled(text, LONGEST_PATH)?;
            match text.split_once("://") {
                Some(("s3", place)) => BucketPlace::parse(place).map(Self::Bucket),
                Some(_) => Err(Wrong::new(
                    "neither a folder nor a place in a bucket",
                    r#"write SQUAD's SQUAD_STORAGE_DIR, or "s3://bucket/prefix""#,
                )),
                None => Ok(Self::Folder(text.into())),
            }
        })?;
        Some(match storage {
            Self::Folder(folder) => {
                Self::Folder(section.located("storage", &folder.to_string_lossy()))
            }
            place @ Self::Bucket(_) => place,
        })
    }
}

impl std::fmt::Display for Storage {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(place) => place.fmt(f),
        }
    }
}

impl Serialize for Storage {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl Squad {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        let mut queue =
            |key, default: &str| section.text(key).unwrap_or_else(|| default.to_owned());
        let postprocess_queue = queue("postprocess_queue", "longshore_postprocess");
        let python_queue = queue("python_queue", "celery");
        let testrun_queue = queue("testrun_queue", "core_postprocess");
        let quick_queue = queue("quick_queue", "ci_quick");
        let storage = Storage::read(section);
        let url = section
            .text("url")
            .map(|url| url.trim_end_matches('/').to_owned());
        let patience = section.duration(
            "patience",
            Duration::from_secs(1)..=Duration::from_secs(3600),
            Duration::from_secs(60),
        );
        let keys = [
            ("checked", ForeignKeys::Checked),
            ("held", ForeignKeys::Held),
        ];
        let foreign_keys = section.choice("foreign_keys", &keys).unwrap_or_default();
        let plugins = section.table("plugins", |section| {
            section
                .texts()
                .into_iter()
                .filter_map(|(name, word)| {
                    let hook = match word.as_str() {
                        "testrun" => Hook::Testrun,
                        "testjob" => Hook::Testjob,
                        "none" => Hook::None,
                        _ => {
                            let wrong = Wrong::new(
                                "not one of \"testrun\", \"testjob\", \"none\"",
                                "name the method that the plugin has",
                            );
                            section.wrong(&name, Some(format!("{word:?}")), wrong);
                            return None;
                        }
                    };
                    Some((name, hook))
                })
                .collect()
        });
        Self {
            storage,
            url,
            postprocess_queue,
            python_queue,
            testrun_queue,
            quick_queue,
            patience,
            foreign_keys,
            plugins,
        }
    }
}
