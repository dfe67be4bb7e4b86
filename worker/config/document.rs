//! A configuration file and the environment become one tree of values with the place of each.
//!
//! A variable `LONGSHORE__SECTION__KEY` replaces `key` in `[section]`. Its parts are compared
//! without case, and any letter of a key that a variable's name cannot have counts as `_`: where
//! the file has `[tasks."testjob.fetch"]`, `LONGSHORE__TASKS__TESTJOB_FETCH__ATTEMPTS` means it. A
//! key that the file does not have is taken in lower case, or as it is within `settings`. A
//! variable without a value counts as not set.
//!
//! Reading is bounded ([`LARGEST`]) and never stops at the first mistake; but a file that is no
//! TOML yields its syntax errors alone, since all else would follow from them.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use toml::Spanned;
use toml::de::{DeInteger, DeTable, DeValue};

use super::problem::{Place, Problem};
use super::value::{Table, Value};

/// The largest configuration file, in bytes: far more than any fleet has settings.
const LARGEST: u64 = 1024 * 1024;

/// What the names of our variables begin with.
pub(super) const PREFIX: &str = "LONGSHORE__";

/// The table within which keys are the user's own, so that their case matters.
const FREE_TABLE: &str = "settings";

/// The keys that lead to a value.
pub(super) type KeyPath = Vec<String>;

/// All that was written.
#[derive(Debug, Default)]
pub(super) struct Document {
    pub(super) table: Table,
    pub(super) places: BTreeMap<KeyPath, Place>,
    pub(super) problems: Vec<Problem>,
    /// The folder of a bundle, if some of it stands there.
    pub(super) bundle: Option<PathBuf>,
}

impl Document {
    /// Reads the file. On a problem with the file as a whole, nothing but the problem.
    pub(super) fn read(path: &Path) -> Self {
        match text_of(path) {
            Ok(text) => Self::parse(path, &text),
            Err(what) => Self::failed(vec![Problem {
                place: Place::File {
                    path: path.to_owned(),
                    line: None,
                },
                key: String::new(),
                value: None,
                what,
                mend: "name a readable file with --config".to_owned(),
            }]),
        }
    }

    /// Reads the text of the file at `path`.
    pub(super) fn parse(path: &Path, text: &str) -> Self {
        let (table, errors) = DeTable::parse_recoverable(text);
        let lines = Lines::of(path, text);
        if !errors.is_empty() {
            let problem = |error: &toml::de::Error| Problem {
                place: lines.place(error.span().map(|span| span.start)),
                key: String::new(),
                value: None,
                // The message alone: the whole error quotes the line, which may hold a password.
                what: error.message().trim().replace('\n', ", "),
                mend: "correct the TOML here (strings need quotes, each key stands once)"
                    .to_owned(),
            };
            return Self::failed(errors.iter().map(problem).collect());
        }
        let mut places = BTreeMap::new();
        let table = table_of(table.into_inner(), &mut Vec::new(), &lines, &mut places);
        Self {
            table,
            places,
            ..Self::default()
        }
    }

    fn failed(problems: Vec<Problem>) -> Self {
        Self {
            problems,
            ..Self::default()
        }
    }

    /// Where `section` begins.
    pub(super) fn place(&self, section: &str) -> Place {
        let place = self.places.get(&vec![section.to_owned()]);
        place.cloned().unwrap_or(Place::Nowhere)
    }

    /// Adds what `other` says; that two of them say the same key is a problem.
    pub(super) fn join(&mut self, other: Self) {
        let mut twice = Vec::new();
        merge(
            &mut self.table,
            other.table,
            &mut KeyPath::new(),
            &mut twice,
        );
        self.problems.extend(other.problems);
        for path in twice {
            let at = |places: &BTreeMap<KeyPath, Place>| places.get(&path).cloned();
            let first = at(&self.places).unwrap_or(Place::Nowhere);
            self.problems.push(Problem {
                place: at(&other.places).unwrap_or(Place::Nowhere),
                key: path.join("."),
                value: None,
                what: format!("is written at {first} too"),
                mend: "keep it in one source".to_owned(),
            });
        }
        self.places.extend(other.places);
    }

    /// Lays what `other` says over what this says.
    pub(super) fn replace_by(&mut self, other: Self) {
        replace(&mut self.table, other.table);
        self.places.extend(other.places);
        self.problems.extend(other.problems);
    }

    /// Lays the variables over what the file said.
    pub(super) fn overlay(&mut self, variables: &BTreeMap<String, String>) {
        for (name, value) in variables {
            if let Some(keys) = name.strip_prefix(PREFIX)
                && !value.is_empty()
                && let Err((what, mend)) = self.set(name, keys, value)
            {
                self.problems.push(Problem {
                    place: Place::Variable(name.clone()),
                    key: String::new(),
                    value: None,
                    what,
                    mend,
                });
            }
        }
    }

    fn set(&mut self, name: &str, keys: &str, value: &str) -> Result<(), (String, String)> {
        let place = Place::Variable(name.to_owned());
        let mut keys: Vec<&str> = keys.split("__").collect();
        let last = keys.pop().unwrap_or_default();
        let mut path = KeyPath::new();
        let mut table = &mut self.table;
        for key in keys {
            let key = resolve(table, &path, key)?;
            path.push(key.clone());
            let next = table.entry(key).or_insert_with(|| {
                self.places.insert(path.clone(), place.clone());
                Value::Table(Table::new())
            });
            match next {
                Value::Table(next) => table = next,
                // Whoever reads the section says what is wrong with it.
                Value::Text(_)
                | Value::Integer(_)
                | Value::Float(_)
                | Value::Flag(_)
                | Value::Date(_)
                | Value::List(_)
                | Value::Variable(_) => return Ok(()),
            }
        }
        let key = resolve(table, &path, last)?;
        if matches!(table.get(&key), Some(Value::Table(_))) {
            return Err((
                "names a section".to_owned(),
                format!("name a key of it: {name}__KEY"),
            ));
        }
        path.push(key.clone());
        table.insert(key, Value::Variable(value.to_owned()));
        self.places.insert(path, place);
        Ok(())
    }
}

/// Adds `other` to `table`; keys that both have, and that are no tables in both, are noted and stay.
fn merge(table: &mut Table, other: Table, path: &mut KeyPath, twice: &mut Vec<KeyPath>) {
    for (key, value) in other {
        path.push(key.clone());
        match (table.get_mut(&key), value) {
            (None, value) => drop(table.insert(key, value)),
            (Some(Value::Table(inner)), Value::Table(more)) => merge(inner, more, path, twice),
            (Some(_), _) => twice.push(path.clone()),
        }
        path.pop();
    }
}

/// The same, and what `other` has counts.
fn replace(table: &mut Table, other: Table) {
    for (key, value) in other {
        match (table.get_mut(&key), value) {
            (Some(Value::Table(inner)), Value::Table(more)) => replace(inner, more),
            (Some(_) | None, value) => drop(table.insert(key, value)),
        }
    }
}

/// The key of `table` that a part of a variable's name means.
fn resolve(table: &Table, path: &[String], part: &str) -> Result<String, (String, String)> {
    if part.is_empty() {
        return Err((
            "a part of the name is empty".to_owned(),
            format!("write {PREFIX}SECTION__KEY with two underscores between"),
        ));
    }
    if table.contains_key(part) {
        return Ok(part.to_owned());
    }
    let wanted = folded(part);
    let mut same = table.keys().filter(|key| folded(key) == wanted);
    match (same.next(), same.next()) {
        (Some(key), None) => Ok(key.clone()),
        (Some(one), Some(other)) => Err((
            format!("could mean {one:?} or {other:?}"),
            "set it in the file instead".to_owned(),
        )),
        (None, _) if path.iter().any(|key| key == FREE_TABLE) => Ok(part.to_owned()),
        (None, _) => Ok(part.to_lowercase()),
    }
}

/// A key as the name of a variable can have it.
fn folded(key: &str) -> String {
    let letter = |letter: char| {
        if letter.is_ascii_alphanumeric() {
            letter.to_ascii_lowercase()
        } else {
            '_'
        }
    };
    key.chars().map(letter).collect()
}

fn text_of(path: &Path) -> Result<String, String> {
    let unreadable = |error: std::io::Error| format!("cannot be read: {error}");
    let mut bytes = Vec::new();
    File::open(path)
        .map_err(unreadable)?
        .take(LARGEST + 1)
        .read_to_end(&mut bytes)
        .map_err(unreadable)?;
    if bytes.len() as u64 > LARGEST {
        return Err(format!("larger than {LARGEST} bytes"));
    }
    String::from_utf8(bytes).map_err(|_| "not UTF-8 text".to_owned())
}

fn table_of(
    table: DeTable<'_>,
    path: &mut KeyPath,
    lines: &Lines<'_>,
    places: &mut BTreeMap<KeyPath, Place>,
) -> Table {
    let mut values = Table::new();
    for (key, value) in table {
        let place = lines.place(Some(key.span().start));
        let key = key.into_inner().into_owned();
        path.push(key.clone());
        places.insert(path.clone(), place);
        let value = value_of(value.into_inner(), path, lines, places);
        path.pop();
        values.insert(key, value);
    }
    values
}

fn value_of(
    value: DeValue<'_>,
    path: &mut KeyPath,
    lines: &Lines<'_>,
    places: &mut BTreeMap<KeyPath, Place>,
) -> Value {
    match value {
        DeValue::String(text) => Value::Text(Cow::into_owned(text)),
        DeValue::Integer(number) => Value::Integer(integer_of(&number)),
        DeValue::Float(number) => Value::Float(number.as_str().parse().unwrap_or(f64::NAN)),
        DeValue::Boolean(flag) => Value::Flag(flag),
        DeValue::Datetime(date) => Value::Date(date.to_string()),
        DeValue::Array(values) => Value::List(
            values
                .into_iter()
                .map(Spanned::into_inner)
                .map(|value| value_of(value, path, lines, places))
                .collect(),
        ),
        DeValue::Table(table) => Value::Table(table_of(table, path, lines, places)),
    }
}

/// The number, or the largest of its sign: a range that it fails to be in refuses it.
fn integer_of(number: &DeInteger<'_>) -> i128 {
    let limit = if number.as_str().starts_with('-') {
        i128::MIN
    } else {
        i128::MAX
    };
    i128::from_str_radix(number.as_str(), number.radix()).unwrap_or(limit)
}

/// Which line a byte of the file is in.
struct Lines<'p> {
    path: &'p Path,
    starts: Vec<usize>,
}

impl<'p> Lines<'p> {
    fn of(path: &'p Path, text: &str) -> Self {
        let starts = text.match_indices('\n').map(|(at, _)| at + 1).collect();
        Self { path, starts }
    }

    fn place(&self, offset: Option<usize>) -> Place {
        let line = offset.map(|offset| 1 + self.starts.partition_point(|start| *start <= offset));
        Place::File {
            path: self.path.to_owned(),
            line,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Document {
        Document::parse(Path::new("t.toml"), text)
    }

    fn overlaid(text: &str, name: &str, value: &str) -> Document {
        let mut document = parsed(text);
        document.overlay(&BTreeMap::from([(name.to_owned(), value.to_owned())]));
        document
    }

    fn at<'d>(document: &'d Document, path: &[&str]) -> Option<&'d Value> {
        let (last, parents) = path.split_last()?;
        let mut table = &document.table;
        for key in parents {
            let Some(Value::Table(next)) = table.get(*key) else {
                return None;
            };
            table = next;
        }
        table.get(*last)
    }

    #[test]
    fn each_key_has_its_line() {
        let document = parsed("[store]\nurl = 'x'\n\n[pools.fetch]\nslots = 1\n");
        let line = |path: &[&str]| {
            let path: KeyPath = path.iter().map(|key| (*key).to_owned()).collect();
            document.places.get(&path).map(ToString::to_string)
        };
        assert_eq!(line(&["store"]).as_deref(), Some("t.toml:1"));
        assert_eq!(line(&["store", "url"]).as_deref(), Some("t.toml:2"));
        assert_eq!(line(&["pools", "fetch"]).as_deref(), Some("t.toml:4"));
        assert_eq!(
            line(&["pools", "fetch", "slots"]).as_deref(),
            Some("t.toml:5")
        );
    }

    #[test]
    fn syntax_errors_come_with_their_lines_and_quote_nothing() {
        let document = parsed("[store]\npassword = 'hunter2\nurl = \n");
        let told: Vec<String> = document.problems.iter().map(ToString::to_string).collect();
        assert!(told.len() >= 2, "{told:?}");
        assert!(
            told.iter().any(|problem| problem.starts_with("t.toml:2: ")),
            "{told:?}"
        );
        assert!(!told.concat().contains("hunter2"), "{told:?}");
    }

    #[test]
    fn a_variable_replaces_the_key_that_it_names() {
        let file = "[tasks.'testjob.fetch']\nattempts = 1\n";
        let document = overlaid(file, "LONGSHORE__TASKS__TESTJOB_FETCH__ATTEMPTS", "2");
        let value = at(&document, &["tasks", "testjob.fetch", "attempts"]);
        assert_eq!(value, Some(&Value::Variable("2".to_owned())));
    }

    #[test]
    fn a_variable_makes_the_sections_that_it_needs() {
        let document = overlaid(
            "",
            "LONGSHORE__BACKENDS__LAB__SETTINGS__CI_LAVA_HANDLE_SUITE",
            "true",
        );
        let value = at(
            &document,
            &["backends", "lab", "settings", "CI_LAVA_HANDLE_SUITE"],
        );
        assert_eq!(value, Some(&Value::Variable("true".to_owned())));
    }

    #[test]
    fn a_variable_that_could_mean_two_keys_means_none() {
        let document = overlaid(
            "[pools]\na-b = 1\na_b.x = 1\n",
            "LONGSHORE__POOLS__A.B",
            "2",
        );
        assert_eq!(document.problems.len(), 1, "{:?}", document.problems);
    }

    #[test]
    fn a_variable_cannot_replace_a_section() {
        let document = overlaid("[store]\nurl = 'x'\n", "LONGSHORE__STORE", "y");
        assert_eq!(document.problems.len(), 1, "{:?}", document.problems);
        assert_eq!(
            at(&document, &["store", "url"]),
            Some(&Value::Text("x".to_owned()))
        );
    }

    #[test]
    fn an_empty_variable_counts_as_not_set() {
        let document = overlaid("", "LONGSHORE__STORE__URL", "");
        assert_eq!(document.table, Table::new());
    }
}
