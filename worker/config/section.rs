//! Reads one table of the configuration, key by key, and complains of the keys that nobody read.
//!
//! A [`Section`] never stops at a mistake: it notes a problem and goes on with the default, so
//! that all mistakes are told at once. What it yields counts only if no problem was noted.

use std::collections::BTreeMap;
use std::fmt::Display;
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use super::document::KeyPath;
use super::problem::{Place, Wrong, suggestion};
use super::quantity;
use super::reading::Reading;
use super::secret::{self, HIDDEN, Secret};
use super::value::{Table, Value};

/// The longest name of a pool, task, queue, backend or project, in bytes: as long as AMQP lets a
/// queue's name be.
const LONGEST_NAME: usize = 255;

/// The longest path, in bytes: as long as Linux lets one be.
pub(super) const LONGEST_PATH: usize = 4096;

/// The keys under which one secret can be given.
pub(super) struct SecretKeys {
    /// The secret itself.
    pub(super) plain: &'static str,
    /// A file that holds it.
    pub(super) file: &'static str,
    /// A key that names an environment variable that holds it.
    pub(super) variable: Option<&'static str>,
    /// A URL that may hold it.
    pub(super) url: &'static str,
}

/// One table that is being read.
pub(super) struct Section<'r> {
    reading: &'r Reading<'r>,
    path: KeyPath,
    entries: Table,
    known: Vec<&'static str>,
}

impl<'r> Section<'r> {
    /// Lets `read` take what it knows of the table at `path`, and complains of the rest.
    pub(super) fn run<T>(
        reading: &'r Reading<'r>,
        path: KeyPath,
        entries: Table,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        let mut section = Self {
            reading,
            path,
            entries,
            known: Vec::new(),
        };
        let value = read(&mut section);
        for key in section.entries.keys() {
            let wrong = Wrong::new("unknown key", suggestion(key, &section.known));
            section.wrong(key, None, wrong);
        }
        value
    }

    /// What the whole reading has at hand.
    pub(super) fn reading(&self) -> &'r Reading<'r> {
        self.reading
    }

    /// Notes that the value of `key` is wrong.
    pub(super) fn wrong(&self, key: &str, shown: Option<String>, wrong: Wrong) {
        self.reading.wrong(&self.path_of(key), shown, wrong);
    }

    /// Notes that the section as a whole is wrong.
    pub(super) fn wrong_itself(&self, wrong: Wrong) {
        let path: Vec<&str> = self.path.iter().map(String::as_str).collect();
        self.reading.wrong(&path, None, wrong);
    }

    /// Whether nothing was wrong with the value of `key`.
    pub(super) fn is_sound(&self, key: &str) -> bool {
        self.reading.is_sound(&self.path_of(key))
    }

    /// Whether `key` was written, not left to its default.
    pub(super) fn is_written(&self, key: &str) -> bool {
        self.reading.is_written(&self.path_of(key))
    }

    /// Whether `key` is a section.
    pub(super) fn is_table(&self, key: &str) -> bool {
        matches!(self.entries.get(key), Some(Value::Table(_)))
    }

    /// The keys that nobody has read yet.
    pub(super) fn names(&self) -> Vec<String> {
        self.entries.keys().cloned().collect()
    }

    /// Reads the section `key`, which is empty if nobody wrote it.
    pub(super) fn table<T>(
        &mut self,
        key: &'static str,
        read: impl FnOnce(&mut Section<'_>) -> T,
    ) -> T {
        self.known.push(key);
        self.named_table(key, read)
    }

    /// Reads all that is left here, as sections that bear the user's names.
    pub(super) fn tables<T>(
        &mut self,
        mut read: impl FnMut(&str, &mut Section<'_>) -> T,
    ) -> BTreeMap<String, T> {
        let names: Vec<String> = self.entries.keys().cloned().collect();
        names
            .into_iter()
            .map(|name| {
                self.check_name(&name);
                let value = self.named_table(&name, |section| read(&name, section));
                (name, value)
            })
            .collect()
    }

    /// Takes all that is left here, as names and what belongs to them.
    pub(super) fn texts(&mut self) -> BTreeMap<String, String> {
        let mut texts = BTreeMap::new();
        for (name, value) in std::mem::take(&mut self.entries) {
            self.check_name(&name);
            match value.text().and_then(named) {
                Ok(text) => drop(texts.insert(name, text)),
                Err(wrong) => self.wrong(&name, Some(value.shown()), wrong),
            }
        }
        texts
    }

    /// Takes all that is left here, as names and paths.
    pub(super) fn named_paths(&mut self) -> BTreeMap<String, PathBuf> {
        let texts = self.texts();
        let path = |(name, text): (String, String)| {
            let path = self.located(&name, &text);
            (name, path)
        };
        texts.into_iter().map(path).collect()
    }

    /// Takes all that is left here, as names and what is so of them.
    pub(super) fn flags(&mut self) -> BTreeMap<String, bool> {
        let mut flags = BTreeMap::new();
        for (name, value) in std::mem::take(&mut self.entries) {
            self.check_name(&name);
            match value.flag() {
                Ok(flag) => drop(flags.insert(name, flag)),
                Err(wrong) => self.wrong(&name, Some(value.shown()), wrong),
            }
        }
        flags
    }

    /// Takes all that is left here, as JSON.
    pub(super) fn json(&mut self) -> BTreeMap<String, serde_json::Value> {
        let mut values = BTreeMap::new();
        for (name, value) in std::mem::take(&mut self.entries) {
            match value.json() {
                Ok(json) => drop(values.insert(name, json)),
                Err(wrong) => self.wrong(&name, None, wrong),
            }
        }
        values
    }

    /// A duration within `range`.
    pub(super) fn duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
        default: Duration,
    ) -> Duration {
        self.optional_duration(key, range).unwrap_or(default)
    }

    /// A duration within `range`, if written.
    pub(super) fn optional_duration(
        &mut self,
        key: &'static str,
        range: RangeInclusive<Duration>,
    ) -> Option<Duration> {
        self.value(key, |value| {
            let duration = quantity::duration(&value.quantity()?)?;
            within(duration, &range, "a duration", |duration| {
                quantity::show_duration(*duration)
            })
        })
    }

    /// A size in bytes within `range`.
    pub(super) fn size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
        default: u64,
    ) -> u64 {
        self.optional_size(key, range).unwrap_or(default)
    }

    /// A size in bytes within `range`, if written.
    pub(super) fn optional_size(
        &mut self,
        key: &'static str,
        range: RangeInclusive<u64>,
    ) -> Option<u64> {
        self.value(key, |value| {
            let bytes = quantity::size(&value.quantity()?)?;
            within(bytes, &range, "a size", |bytes| quantity::show_size(*bytes))
        })
    }

    /// A whole number within `range`, if written.
    pub(super) fn optional_count<N>(
        &mut self,
        key: &'static str,
        range: RangeInclusive<N>,
    ) -> Option<N>
    where
        N: TryFrom<i128> + PartialOrd + Display + Copy,
    {
        self.value(key, |value| {
            let number = value.integer()?;
            let number =
                N::try_from(number).map_err(|_| out_of_range(&range, "a number", N::to_string))?;
            within(number, &range, "a number", N::to_string)
        })
    }

    /// A whole number within `range`.
    pub(super) fn count<N>(&mut self, key: &'static str, range: RangeInclusive<N>, default: N) -> N
    where
        N: TryFrom<i128> + PartialOrd + Display + Copy,
    {
        self.optional_count(key, range).unwrap_or(default)
    }

    /// A number from 0 to 1.
    pub(super) fn fraction(&mut self, key: &'static str, default: f64) -> f64 {
        self.value(key, |value| {
            within(value.float()?, &(0.0..=1.0), "a number", f64::to_string)
        })
        .unwrap_or(default)
    }

    /// One of a few words.
    pub(super) fn choice<T: Copy>(
        &mut self,
        key: &'static str,
        choices: &[(&str, T)],
    ) -> Option<T> {
        self.value(key, |value| {
            let text = value.text()?;
            let found = choices.iter().find(|(word, _)| *word == text);
            found.map(|(_, choice)| *choice).ok_or_else(|| {
                let words: Vec<&str> = choices.iter().map(|(word, _)| *word).collect();
                let quoted: Vec<String> = words.iter().map(|word| format!("{word:?}")).collect();
                Wrong::new(
                    format!("not one of {}", quoted.join(", ")),
                    suggestion(text, &words),
                )
            })
        })
    }

    /// Whether something is so.
    pub(super) fn flag(&mut self, key: &'static str, default: bool) -> bool {
        self.value(key, Value::flag).unwrap_or(default)
    }

    /// A text that is not empty.
    pub(super) fn text(&mut self, key: &'static str) -> Option<String> {
        self.value(key, |value| value.text().and_then(named))
    }

    /// A list of texts, none of them empty or twice; `None` if not written.
    pub(super) fn list(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.value(key, |value| {
            let texts = value.texts()?;
            for (at, text) in texts.iter().enumerate() {
                named(text)?;
                if texts.iter().take(at).any(|earlier| earlier == text) {
                    return Err(Wrong::new(format!("{text:?} stands twice"), "keep it once"));
                }
            }
            Ok(texts)
        })
    }

    /// A list of texts, none of them empty, in which one may stand twice; `None` if not written.
    pub(super) fn words(&mut self, key: &'static str) -> Option<Vec<String>> {
        self.value(key, |value| {
            let texts = value.texts()?;
            texts.iter().try_for_each(|text| named(text).map(drop))?;
            Ok(texts)
        })
    }

    /// A list of texts, each as `parse` takes it; `None` if not written.
    pub(super) fn list_of<T>(
        &mut self,
        key: &'static str,
        parse: impl Fn(&str) -> Result<T, Wrong>,
    ) -> Option<Vec<T>> {
        self.value(key, |value| {
            value.texts()?.iter().map(|text| parse(text)).collect()
        })
    }

    /// A list of numbers from 0 to 255; `None` if not written.
    pub(super) fn numbers(&mut self, key: &'static str) -> Option<Vec<u8>> {
        self.value(key, |value| {
            let number = |number| {
                u8::try_from(number).map_err(|_| {
                    Wrong::new(
                        format!("{number} is out of range"),
                        "give numbers from 0 to 255",
                    )
                })
            };
            value.integers()?.into_iter().map(number).collect()
        })
    }

    /// A path. One that the file has starts at the file's folder, one that a variable has at the
    /// working directory.
    pub(super) fn path(&mut self, key: &'static str) -> Option<PathBuf> {
        let text = self.value(key, |value| {
            value.text().and_then(|text| filled(text, LONGEST_PATH))
        })?;
        Some(self.located(key, &text))
    }

    /// A list of paths, each as in [`Section::path`]; `None` if not written.
    pub(super) fn paths(&mut self, key: &'static str) -> Option<Vec<PathBuf>> {
        let texts = self.list(key)?;
        Some(texts.iter().map(|text| self.located(key, text)).collect())
    }

    /// `text`, which is the value of `key` or its default, as a path.
    pub(super) fn located(&self, key: &str, text: &str) -> PathBuf {
        let place = self.reading.place(&self.path_of(key));
        let of_bundle = match &place {
            Place::Variable(_) if self.is_written(key) => return PathBuf::from(text),
            // Each of its files starts at a folder of its own.
            Place::File { path, .. } if self.is_written(key) => self.reading.folder_in_bundle(path),
            Place::Variable(_) | Place::File { .. } | Place::Nowhere => None,
        };
        of_bundle.map_or_else(|| self.reading.located(text), |folder| folder.join(text))
    }

    /// A value whose text may hold a secret: `show` says what a problem may tell of it.
    pub(super) fn parsed<T>(
        &mut self,
        key: &'static str,
        show: impl FnOnce(&str) -> String,
        parse: impl FnOnce(&str) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.take(key)?;
        match value.text() {
            Ok(text) => parse(text)
                .map_err(|wrong| self.wrong(key, Some(format!("{:?}", show(text))), wrong))
                .ok(),
            Err(wrong) => {
                self.wrong(key, None, wrong);
                None
            }
        }
    }

    /// A secret, from where it was given: a variable of the environment goes before the file, and
    /// within either it may be given once only. `in_url` was split off from the URL.
    pub(super) fn secret(&mut self, keys: &SecretKeys, in_url: Option<Secret>) -> Option<Secret> {
        let plain = self.parsed(
            keys.plain,
            |_| HIDDEN.to_owned(),
            |text| filled(text, secret::LONGEST).map(Secret::new),
        );
        let file = self.path(keys.file);
        let variable = keys.variable.and_then(|key| self.text(key));
        let given = [
            (keys.plain, plain.is_some()),
            (keys.file, file.is_some()),
            (keys.variable.unwrap_or_default(), variable.is_some()),
            (keys.url, in_url.is_some()),
        ];
        let mut keys_given: Vec<&str> = given
            .iter()
            .filter(|(_, given)| *given)
            .map(|(key, _)| *key)
            .collect();
        let from_environment =
            |key: &str| matches!(self.reading.place(&self.path_of(key)), Place::Variable(_));
        if keys_given.iter().any(|key| from_environment(key)) {
            keys_given.retain(|key| from_environment(key));
        }
        let chosen = *keys_given.first()?;
        if let Some(other) = keys_given.get(1) {
            let wrong = Wrong::new(
                format!("the secret is given here and by `{other}`"),
                "keep one of them",
            );
            self.wrong(chosen, None, wrong);
            return None;
        }
        if chosen == keys.plain {
            plain
        } else if chosen == keys.url {
            in_url
        } else if chosen == keys.file {
            let file = file?;
            let shown = || Some(format!("{:?}", file.display().to_string()));
            Secret::read(&file)
                .map_err(|wrong| self.wrong(chosen, shown(), wrong))
                .ok()
        } else {
            let name = variable?;
            let secret = self.reading.variable(&name).map(Secret::new);
            if secret.is_none() {
                let wrong = Wrong::new("this variable is not set", "set it, or name another");
                self.wrong(chosen, Some(format!("{name:?}")), wrong);
            }
            secret
        }
    }

    fn value<T>(
        &mut self,
        key: &'static str,
        parse: impl FnOnce(&Value) -> Result<T, Wrong>,
    ) -> Option<T> {
        let value = self.take(key)?;
        parse(&value)
            .map_err(|wrong| self.wrong(key, Some(value.shown()), wrong))
            .ok()
    }

    fn take(&mut self, key: &'static str) -> Option<Value> {
        self.known.push(key);
        self.entries.remove(key)
    }

    fn named_table<T>(&mut self, key: &str, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        let entries = match self.entries.remove(key) {
            Some(Value::Table(entries)) => entries,
            Some(
                value @ (Value::Text(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Flag(_)
                | Value::Date(_)
                | Value::List(_)
                | Value::Variable(_)),
            ) => {
                // Not shown: it may be a URL with its password, meant for a key of the section.
                self.wrong(
                    key,
                    None,
                    value.unlike(
                        "a section",
                        "write its keys below a line with its name in [ ]",
                    ),
                );
                Table::new()
            }
            None => Table::new(),
        };
        let mut path = self.path.clone();
        path.push(key.to_owned());
        Section::run(self.reading, path, entries, read)
    }

    fn check_name(&self, name: &str) {
        if let Err(wrong) = named(name) {
            self.wrong(name, None, wrong);
        }
    }

    fn path_of<'p>(&'p self, key: &'p str) -> Vec<&'p str> {
        self.path.iter().map(String::as_str).chain([key]).collect()
    }
}

/// A text that can be a name.
fn named(text: &str) -> Result<String, Wrong> {
    filled(text, LONGEST_NAME)
}

/// A text that is neither empty nor longer than `longest` bytes.
pub(super) fn filled(text: &str, longest: usize) -> Result<String, Wrong> {
    if text.is_empty() {
        Err(Wrong::new(
            "must not be empty",
            "write a value, or remove the key",
        ))
    } else if text.len() > longest {
        Err(Wrong::new(
            format!("longer than {longest} bytes"),
            "shorten it",
        ))
    } else if text.contains(char::is_control) {
        Err(Wrong::new("has a control character", "remove it"))
    } else {
        Ok(text.to_owned())
    }
}

fn within<T: PartialOrd>(
    value: T,
    range: &RangeInclusive<T>,
    kind: &str,
    show: impl Fn(&T) -> String,
) -> Result<T, Wrong> {
    if range.contains(&value) {
        Ok(value)
    } else {
        Err(out_of_range(range, kind, show))
    }
}

fn out_of_range<T>(range: &RangeInclusive<T>, kind: &str, show: impl Fn(&T) -> String) -> Wrong {
    Wrong::new(
        "out of range",
        format!(
            "give {kind} from {} to {}",
            show(range.start()),
            show(range.end())
        ),
    )
}
