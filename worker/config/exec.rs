//! `[exec]`: commands that run as tasks.
//!
//! A message never names a program, a file, a folder or a variable: it fills the placeholders that stand here, each
//! within one argument.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::problem::Wrong;
use super::quantity::{serialize_duration, serialize_optional_duration, serialize_size};
use super::section::Section;

const SECOND: Duration = Duration::from_secs(1);
const HOUR: Duration = Duration::from_secs(3600);
const DAY: Duration = Duration::from_secs(86_400);
const KIB: u64 = 1024;
const GIB: u64 = 1024 * 1024 * 1024;

/// The longest argument as written, in bytes: a short script fits.
const LONGEST_ARGUMENT: usize = 16 * 1024;
/// What a shell is called.
const SHELLS: [&str; 8] = ["sh", "bash", "dash", "ash", "zsh", "ksh", "mksh", "busybox"];
/// What a placeholder says for a value that may be empty or begin with `-`.
const ANY: &str = "any";

/// A command that runs as the task of its name.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Exec {
    /// The program and its arguments. A program with a slash starts at the file's folder.
    pub command: Command,
    /// What runs before it, once: long work that nobody sees, under names that never change. Default: nothing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stage: Option<Command>,
    /// What is asked first, if an earlier attempt may have had the command's effect, whether it did. Default: nothing,
    /// the command runs again.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub probe: Option<Command>,
    /// Where they run. Default: an empty folder of the attempt's own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dir: Option<PathBuf>,
    /// Variables of the worker's environment that they get, beside `PATH`. Default: none.
    pub pass_env: Vec<String>,
    /// Exit codes that mean that the command did what it should. Default 0.
    pub success: Vec<u8>,
    /// Exit codes that mean that it may do so another time. Default 75 (`EX_TEMPFAIL` of sysexits.h). With any other the
    /// task has failed for good.
    pub retry: Vec<u8>,
    /// After so long they get SIGTERM, 1 s to 30 days. Default: `grace` before the time limit of `[tasks]`.
    #[serde(
        skip_serializing_if = "Option::is_none",
        serialize_with = "serialize_optional_duration"
    )]
    pub time_limit: Option<Duration>,
    /// From SIGTERM to SIGKILL, 0 s to 1 h. Default 10 s.
    #[serde(serialize_with = "serialize_duration")]
    pub grace: Duration,
    /// What a drain does to them. Default `finish`.
    pub on_drain: OnDrain,
    /// How much of one command's output goes to the worker's log, 1 KiB to 1 GiB; of the rest only the end is kept. Default 1 MiB.
    #[serde(serialize_with = "serialize_size")]
    pub log_limit: u64,
    /// Variables of their environment, shown as they are: a secret is for `pass_env` or a file. Default: none.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub env: BTreeMap<String, String>,
}

/// What a drain does to a command that runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum OnDrain {
    /// It may end by itself until `grace` before the worker's deadline; then it gets SIGTERM.
    #[default]
    Finish,
    /// It gets SIGTERM at once.
    Terminate,
}

/// A program and its arguments.
#[derive(Debug, Clone, PartialEq)]
pub struct Command {
    /// A path, or a name to look for in `PATH`.
    pub program: String,
    /// What it is given.
    pub arguments: Vec<Argument>,
}

/// One argument: text with placeholders.
#[derive(Debug, Clone, PartialEq)]
pub struct Argument {
    written: String,
    /// What it is made of.
    pub pieces: Vec<Piece>,
}

/// A part of an argument.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Piece {
    /// As it stands.
    Text(String),
    /// A named argument of the task.
    Value {
        /// Its name.
        name: String,
        /// Whether it may be empty or begin with `-`.
        any: bool,
    },
}

impl Serialize for Command {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        let Self { program, arguments } = self;
        let arguments = arguments.iter().map(|argument| argument.written.as_str());
        out.collect_seq(std::iter::once(program.as_str()).chain(arguments))
    }
}

impl Exec {
    /// The commands below `[exec]`.
    pub(super) fn read_all(section: &mut Section<'_>) -> BTreeMap<String, Self> {
        let read = section.tables(|_, section| Self::read(section));
        let read = read.into_iter();
        read.filter_map(|(name, exec)| Some((name, exec?)))
            .collect()
    }

    fn read(section: &mut Section<'_>) -> Option<Self> {
        let [command, stage, probe] =
            ["command", "stage", "probe"].map(|key| Command::read(section, key));
        if command.is_none() && section.is_sound("command") {
            let wrong = Wrong::new("missing", r#"write command = ["program", "{argument}"]"#);
            section.wrong("command", None, wrong);
        }
        let success = section.numbers("success").unwrap_or_else(|| vec![0]);
        // The code of sysexits.h for what may go well later.
        let retry = section.numbers("retry").unwrap_or_else(|| vec![75]);
        if let Some(code) = retry.iter().find(|code| success.contains(code))
            && section.is_sound("retry")
        {
            let wrong = Wrong::new(
                format!("{code} stands in success too"),
                "keep it in one of them",
            );
            section.wrong("retry", None, wrong);
        }
        let drain = [
            ("finish", OnDrain::Finish),
            ("terminate", OnDrain::Terminate),
        ];
        let exec = Self {
            command: command.clone().unwrap_or_else(Command::none),
            stage,
            probe,
            dir: section.path("dir"),
            pass_env: section
                .list_of("pass_env", |name| variable(name).map(|()| name.to_owned()))
                .unwrap_or_default(),
            success,
            retry,
            time_limit: section.optional_duration("time_limit", SECOND..=30 * DAY),
            grace: section.duration("grace", Duration::ZERO..=HOUR, 10 * SECOND),
            on_drain: section.choice("on_drain", &drain).unwrap_or_default(),
            log_limit: section.size("log_limit", KIB..=GIB, 1024 * KIB),
            env: section.table("env", |section| {
                let texts = section.texts();
                for name in texts.keys() {
                    if let Err(wrong) = variable(name) {
                        section.wrong(name, None, wrong);
                    }
                }
                texts
            }),
        };
        command.map(|_| exec)
    }
}

impl Command {
    /// Stands where none was written; never run.
    fn none() -> Self {
        Self {
            program: String::new(),
            arguments: Vec::new(),
        }
    }

    fn read(section: &mut Section<'_>, key: &'static str) -> Option<Self> {
        let mut written = section.list_of(key, Argument::parse)?;
        if written.is_empty() {
            let wrong = Wrong::new("empty", r#"write ["program", "{argument}"]"#);
            section.wrong(key, None, wrong);
            return None;
        }
        let first = written.remove(0);
        let command = Self {
            program: if first.written.contains('/') {
                let path = section.located(key, &first.written);
                path.to_string_lossy().into_owned()
            } else {
                first.written.clone()
            },
            arguments: written,
        };
        if first.written.is_empty() || first.written.contains(['{', '}']) {
            let wrong = Wrong::new(
                "the program is empty or has a brace in it",
                "name the program itself: a task never does",
            );
            section.wrong(key, Some(format!("{:?}", first.written)), wrong);
        } else if let Some(script) = command.filled_script() {
            let wrong = Wrong::new(
                "a shell would run what a task puts into its script",
                r#"write ["sh", "-c", "… \"$1\" …", "sh", "{argument}"]"#,
            );
            section.wrong(key, Some(format!("{:?}", script.written)), wrong);
        }
        Some(command)
    }

    /// A script of a shell's that has a placeholder in it.
    fn filled_script(&self) -> Option<&Argument> {
        let name = Path::new(&self.program).file_name()?.to_str()?;
        let arguments = &self.arguments;
        let is_script = |at: &usize| {
            let flag = arguments.get(*at)?.written.strip_prefix('-')?;
            Some(!flag.starts_with('-') && flag.contains('c'))
        };
        let flag = (0..arguments.len()).find(|at| is_script(at) == Some(true))?;
        let script = arguments.get(flag + 1)?;
        (SHELLS.contains(&name) && !script.is_fixed()).then_some(script)
    }
}

impl Argument {
    /// Whether nothing of a task is in it.
    fn is_fixed(&self) -> bool {
        self.pieces
            .iter()
            .all(|piece| matches!(piece, Piece::Text(_)))
    }

    /// Reads `text`, `{name}`, `{name:any}`, and `{{`, `}}` for braces.
    fn parse(text: &str) -> Result<Self, Wrong> {
        const MEND: &str = "write {name}, {name:any}, or {{ and }} for braces";
        if text.contains('\0') || text.len() > LONGEST_ARGUMENT {
            return Err(Wrong::new(
                format!("has a NUL character, or more than {LONGEST_ARGUMENT} bytes"),
                "put it into a file",
            ));
        }
        let (mut pieces, mut fixed) = (Vec::new(), String::new());
        let mut rest = text;
        while let Some(at) = rest.find(['{', '}']) {
            let (before, from) = rest.split_at(at);
            fixed.push_str(before);
            if let Some(after) = from.strip_prefix("{{") {
                fixed.push('{');
                rest = after;
            } else if let Some(after) = from.strip_prefix("}}") {
                fixed.push('}');
                rest = after;
            } else {
                let inside = from.strip_prefix('{').and_then(|it| it.split_once('}'));
                let (inside, after) =
                    inside.ok_or_else(|| Wrong::new("a brace stands alone", MEND))?;
                let (name, any) = match inside.split_once(':') {
                    None => (inside, false),
                    Some((name, ANY)) => (name, true),
                    Some(_) => {
                        return Err(Wrong::new(
                            format!("{{{inside}}} says something else than {ANY}"),
                            MEND,
                        ));
                    }
                };
                let is_letter = |c: char| c.is_ascii_alphanumeric() || c == '_' || c == '-';
                if name.is_empty() || !name.chars().all(is_letter) {
                    let what = format!("{{{inside}}} is no name of an argument");
                    return Err(Wrong::new(what, MEND));
                }
                if !fixed.is_empty() {
                    pieces.push(Piece::Text(std::mem::take(&mut fixed)));
                }
                let name = name.to_owned();
                pieces.push(Piece::Value { name, any });
                rest = after;
            }
        }
        fixed.push_str(rest);
        if !fixed.is_empty() || pieces.is_empty() {
            pieces.push(Piece::Text(fixed));
        }
        let written = text.to_owned();
        Ok(Self { written, pieces })
    }
}

/// A name that a variable of a command's environment may have: ours are not for others to set, and may hold passwords.
fn variable(name: &str) -> Result<(), Wrong> {
    let mut letters = name.chars();
    let is_first = |c: char| c.is_ascii_alphabetic() || c == '_';
    let is_name =
        letters.next().is_some_and(is_first) && letters.all(|c| is_first(c) || c.is_ascii_digit());
    if name.starts_with("LONGSHORE_") {
        Err(Wrong::new(
            format!("{name:?} is one of Longshore's own"),
            "choose another name",
        ))
    } else if is_name {
        Ok(())
    } else {
        Err(Wrong::new(
            format!("{name:?} is no name of a variable"),
            "write letters, digits and _",
        ))
    }
}
