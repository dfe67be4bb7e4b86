//! `[python]` and `[plugins]`: child processes that run handlers and plugins.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::Serialize;

use super::problem::Wrong;
use super::quantity::{serialize_duration, serialize_optional_size};
use super::section::Section;

const SECOND: Duration = Duration::from_secs(1);
const MINUTE: Duration = Duration::from_secs(60);
const HOUR: Duration = Duration::from_secs(3600);
const MIB: u64 = 1024 * 1024;
const TIB: u64 = MIB * MIB;

/// The Python application whose tasks a worker runs, and the processes that it runs in.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Python {
    /// The Celery application, `module:app`, as `celery -A` takes it. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app: Option<String>,
    /// How many processes, 1 to 1024, each with one task at a time. Default: as many as the pool has slots.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub processes: Option<u32>,
    /// The interpreter: the application's, of its virtual environment. Default `python3`, looked for in `PATH`.
    pub python: PathBuf,
    /// Folders to import from, before those of the interpreter. Default: none; the working directory is one.
    pub path: Vec<PathBuf>,
    /// A process that does not even say that it lives for so long is killed, 2 s to 1 h. Default 60 s. Python says so
    /// from a thread of its own: only what stops all threads of the process is meant (a C function that keeps the
    /// interpreter's lock, a stopped process), not a long task.
    #[serde(serialize_with = "serialize_duration")]
    pub silence: Duration,
    /// How long loading the application may take, 1 s to 1 h. Default 60 s.
    #[serde(serialize_with = "serialize_duration")]
    pub start_limit: Duration,
    /// How much memory (data) one process may take, 16 MiB to 1 TiB: more is a `MemoryError` in the task, and the process
    /// is started anew. Default: no limit.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_optional_size"
    )]
    pub memory: Option<u64>,
    /// Tasks by name whose producers use an id for each subject, not for each message: a message with the id of a task that
    /// is over runs it again. Default: none; such a message is a second delivery of the same.
    pub repeat: Vec<String>,
}

impl Python {
    pub(super) fn read(section: &mut Section<'_>) -> Self {
        // A bare name is looked for in PATH; with a slash it is a path like any other.
        let written = section.text("python");
        let python = written.unwrap_or_else(|| "python3".to_owned());
        let python = if python.contains('/') {
            section.located("python", &python)
        } else {
            PathBuf::from(python)
        };
        Self {
            app: section.text("app"),
            processes: section.optional_count("processes", 1..=1024),
            python,
            path: section.paths("path").unwrap_or_default(),
            silence: section.duration("silence", 2 * SECOND..=HOUR, MINUTE),
            start_limit: section.duration("start_limit", SECOND..=HOUR, MINUTE),
            memory: section.optional_size("memory", 16 * MIB..=TIB),
            repeat: section.list("repeat").unwrap_or_default(),
        }
    }
}

/// A plugin for test jobs that is a program of its own.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Plugin {
    /// The program and its arguments. A program with a slash starts at the file's folder.
    pub command: Vec<String>,
}

impl Plugin {
    /// The plugins below `[plugins]`.
    pub(super) fn read_all(section: &mut Section<'_>) -> BTreeMap<String, Self> {
        let built_in = section.reading().known_plugins();
        let plugins = section.tables(|name, section| {
            if built_in.contains(&name) {
                let wrong = Wrong::new("a plugin of this name is built in", "call it another name");
                section.wrong_itself(wrong);
            }
            Self::read(section)
        });
        let named = plugins.into_iter();
        named
            .filter_map(|(name, plugin)| Some((name, plugin?)))
            .collect()
    }

    fn read(section: &mut Section<'_>) -> Option<Self> {
        let mut command = section.words("command").unwrap_or_default();
        let Some(program) = command.first_mut() else {
            if section.is_sound("command") {
                let wrong = Wrong::new("missing", r#"write command = ["program", "argument"]"#);
                section.wrong("command", None, wrong);
            }
            return None;
        };
        if program.contains('/') {
            *program = section
                .located("command", program)
                .to_string_lossy()
                .into_owned();
        }
        Some(Self { command })
    }
}
