//! What the reading of a configuration has at hand, and what it found wrong so far.
//!
//! A [`Reading`] only collects: whether a value is right, the sections and the rules between them say.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use super::document::{Document, KeyPath};
use super::problem::{Place, Problem, Wrong};
use super::section::Section;
use super::value::Table;

/// Everything that the reading of a configuration has at hand, and what it found wrong.
pub(super) struct Reading<'k> {
    /// Where relative paths start.
    folder: PathBuf,
    variables: BTreeMap<String, String>,
    known_plugins: &'k [&'k str],
    places: BTreeMap<KeyPath, Place>,
    bundle: Option<PathBuf>,
    problems: RefCell<Vec<Problem>>,
    warnings: RefCell<Vec<Problem>>,
}

impl<'k> Reading<'k> {
    /// A reading of `document`, whose relative paths start at `folder`; with the values to walk.
    pub(super) fn of(
        document: Document,
        folder: &Path,
        variables: BTreeMap<String, String>,
        known_plugins: &'k [&'k str],
    ) -> (Self, Table) {
        let Document {
            table,
            places,
            problems,
            bundle,
        } = document;
        let reading = Self {
            folder: folder.to_owned(),
            variables,
            known_plugins,
            places,
            bundle,
            problems: RefCell::new(problems),
            warnings: RefCell::default(),
        };
        (reading, table)
    }

    /// Reads the whole document.
    pub(super) fn root<T>(&self, table: Table, read: impl FnOnce(&mut Section<'_>) -> T) -> T {
        Section::run(self, KeyPath::new(), table, read)
    }

    /// The names of plugins that a project may have.
    pub(super) fn known_plugins(&self) -> &'k [&'k str] {
        self.known_plugins
    }

    /// The path `text` as the file means it.
    pub(super) fn located(&self, text: &str) -> PathBuf {
        self.folder.join(text)
    }

    /// The folder of a file, if it is one of a bundle's.
    pub(super) fn folder_in_bundle<'p>(&self, file: &'p Path) -> Option<&'p Path> {
        let bundle = self.bundle.as_ref()?;
        file.parent().filter(|folder| folder.starts_with(bundle))
    }

    /// What a variable of the environment says; an empty one counts as not set.
    pub(super) fn variable(&self, name: &str) -> Option<&str> {
        self.variables
            .get(name)
            .map(String::as_str)
            .filter(|value| !value.is_empty())
    }

    /// Notes that the value at `path` is wrong.
    pub(super) fn wrong(&self, path: &[&str], shown: Option<String>, wrong: Wrong) {
        let problem = self.problem(path, shown, wrong);
        self.problems.borrow_mut().push(problem);
    }

    /// Notes that the value at `path` may be a mistake.
    pub(super) fn warn(&self, path: &[&str], shown: Option<String>, wrong: Wrong) {
        let problem = self.problem(path, shown, wrong);
        self.warnings.borrow_mut().push(problem);
    }

    /// Whether nothing was wrong with the value at `path`.
    pub(super) fn is_sound(&self, path: &[&str]) -> bool {
        let key = rendered(path);
        !self
            .problems
            .borrow()
            .iter()
            .any(|problem| problem.key == key)
    }

    /// Whether the value at `path` was written, not left to its default.
    pub(super) fn is_written(&self, path: &[&str]) -> bool {
        self.places.contains_key(&owned(path))
    }

    /// The problems and the warnings, in the order of their places.
    pub(super) fn end(self) -> (Vec<Problem>, Vec<Problem>) {
        let sorted = |problems: RefCell<Vec<Problem>>| {
            let mut problems = problems.into_inner();
            problems.sort_by(|left, right| left.place.cmp(&right.place));
            problems
        };
        (sorted(self.problems), sorted(self.warnings))
    }

    /// The place of the value at `path`, or else of the nearest section around it.
    pub(super) fn place(&self, path: &[&str]) -> Place {
        let mut path = owned(path);
        while !path.is_empty() {
            if let Some(place) = self.places.get(&path) {
                return place.clone();
            }
            path.pop();
        }
        Place::Nowhere
    }

    fn problem(
        &self,
        path: &[&str],
        value: Option<String>,
        Wrong { what, mend }: Wrong,
    ) -> Problem {
        Problem {
            place: self.place(path),
            key: rendered(path),
            value,
            what,
            mend,
        }
    }
}

fn owned(path: &[&str]) -> KeyPath {
    path.iter().map(|key| (*key).to_owned()).collect()
}

/// The path as it could be written in the file.
fn rendered(path: &[&str]) -> String {
    let is_bare = |key: &str| {
        !key.is_empty()
            && key
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte))
    };
    let keys: Vec<String> = path
        .iter()
        .map(|key| {
            if is_bare(key) {
                (*key).to_owned()
            } else {
                format!("{key:?}")
            }
        })
        .collect();
    keys.join(".")
}
