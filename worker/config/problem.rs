//! What is wrong with a configuration: where, what, and how to mend it.
//!
//! A [`Problem`] never holds a secret, and never the value of a key that nobody knows (it may be a
//! misspelt password).

use std::fmt;
use std::path::PathBuf;

/// Where a setting was written.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Place {
    /// In a file.
    File {
        /// The file as it was named on the command line.
        path: PathBuf,
        /// The line, from 1; `None` if the problem is the file as a whole.
        line: Option<usize>,
    },
    /// In an environment variable of this name.
    Variable(String),
    /// Nowhere: a default, or a setting that is missing.
    Nowhere,
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File {
                path,
                line: Some(line),
            } => write!(f, "{}:{line}", path.display()),
            Self::File { path, line: None } => write!(f, "{}", path.display()),
            Self::Variable(name) => write!(f, "variable {name}"),
            Self::Nowhere => f.write_str("configuration"),
        }
    }
}

/// One thing that is wrong, told so that it can be mended without reading the source:
/// `longshore.toml:7: pools.fetch.slots = 0: out of range: give a number from 1 to 1024`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{place}: {}{what}: {mend}", subject(key, value.as_deref()))]
pub struct Problem {
    /// Where it was written.
    pub place: Place,
    /// The path of the key, for instance `tasks."testjob.fetch".attempts`; empty if the file as a
    /// whole is meant.
    pub key: String,
    /// The value as written, shortened; `None` if there is none or it may be a secret.
    pub value: Option<String>,
    /// What is wrong.
    pub what: String,
    /// What to do about it.
    pub mend: String,
}

fn subject(key: &str, value: Option<&str>) -> String {
    match (key, value) {
        ("", _) => String::new(),
        (key, Some(value)) => format!("{key} = {value}: "),
        (key, None) => format!("{key}: "),
    }
}

/// Why one value cannot be taken: the part of a [`Problem`] that the value's parser knows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Wrong {
    pub(super) what: String,
    pub(super) mend: String,
}

impl Wrong {
    pub(super) fn new(what: impl Into<String>, mend: impl Into<String>) -> Self {
        Self {
            what: what.into(),
            mend: mend.into(),
        }
    }
}

/// The longest word that is compared: a suggestion is not worth more time.
const LONGEST_WORD: usize = 64;

/// The one of `known` that `word` was probably meant to be.
pub(super) fn nearest<'k>(word: &str, known: &[&'k str]) -> Option<&'k str> {
    if word.len() > LONGEST_WORD {
        return None;
    }
    let word = word.to_lowercase();
    let allowed = word.chars().count().div_ceil(3);
    known
        .iter()
        .map(|candidate| (distance(&word, &candidate.to_lowercase()), *candidate))
        .filter(|(distance, _)| *distance <= allowed)
        .min()
        .map(|(_, candidate)| candidate)
}

/// What to say about `word`, which is none of `known`.
pub(super) fn suggestion(word: &str, known: &[&str]) -> String {
    match nearest(word, known) {
        Some(candidate) => format!("did you mean {candidate:?}?"),
        None if known.is_empty() => "remove it".to_owned(),
        None => {
            let known: Vec<String> = known.iter().map(|word| format!("{word:?}")).collect();
            format!("known here: {}", known.join(", "))
        }
    }
}

/// Levenshtein's distance: how many letters to insert, remove or replace.
fn distance(left: &str, right: &str) -> usize {
    let right: Vec<char> = right.chars().collect();
    let mut row: Vec<usize> = (0..=right.len()).collect();
    for (i, from) in left.chars().enumerate() {
        let mut next = Vec::with_capacity(row.len());
        let mut last = i + 1;
        next.push(last);
        for (to, above) in right.iter().zip(row.windows(2)) {
            let &[diagonal, above] = above else { break };
            let replaced = diagonal + usize::from(from != *to);
            last = replaced.min(above + 1).min(last + 1);
            next.push(last);
        }
        row = next;
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_distance_counts_inserted_removed_and_replaced_letters() {
        assert_eq!(distance("pools", "pools"), 0);
        assert_eq!(distance("pool", "pools"), 1);
        assert_eq!(distance("kitten", "sitting"), 3);
        assert_eq!(distance("", "abc"), 3);
        assert_eq!(distance("abc", ""), 3);
    }

    #[test]
    fn a_near_word_is_suggested_and_a_far_one_is_not() {
        assert_eq!(nearest("pool", &["limits", "pools"]), Some("pools"));
        assert_eq!(nearest("Sltos", &["slots", "queues"]), Some("slots"));
        assert_eq!(nearest("colour", &["slots", "queues"]), None);
        assert_eq!(suggestion("colour", &["slots"]), r#"known here: "slots""#);
    }

    #[test]
    fn a_problem_reads_as_place_key_value_reason_mend() {
        let problem = Problem {
            place: Place::File {
                path: "longshore.toml".into(),
                line: Some(7),
            },
            key: "pools.fetch.slots".to_owned(),
            value: Some("0".to_owned()),
            what: "out of range".to_owned(),
            mend: "give a number from 1 to 1024".to_owned(),
        };
        assert_eq!(
            problem.to_string(),
            "longshore.toml:7: pools.fetch.slots = 0: out of range: give a number from 1 to 1024"
        );
    }
}
