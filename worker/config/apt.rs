//! `[apt]`: repositories of Debian packages that the handlers of `apt` write.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use serde::{Serialize, Serializer};

use super::backend::required;
use super::problem::Wrong;
use super::quantity::serialize_duration;
use super::s3::BucketPlace;
use super::section::{LONGEST_PATH, Section, filled};

/// A repository.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Apt {
    /// Where it is: what holds `dists` and `pool`.
    pub storage: Place,
    /// Where new packages are put that are in no channel yet. Default: nowhere.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub incoming: Option<Place>,
    /// The channels, as in `dists/CHANNEL`: no task may name another.
    pub channels: Vec<String>,
    /// The architectures that each channel has an index for. Default `["amd64"]`.
    pub architectures: Vec<String>,
    /// The one component. Default `main`.
    pub component: String,
    /// `Origin` in each Release. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub origin: Option<String>,
    /// `Label` in each Release. Default: none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub label: Option<String>,
    /// GnuPG's folder, which has the key, and all keys by which channels are signed.
    pub gpg_home: PathBuf,
    /// The fingerprint of the key that signs.
    pub key: String,
    /// So many earlier generations of a channel keep their indexes, for readers who have begun, 1 to 1000. Default 10.
    pub keep_generations: u32,
    /// … and none goes before it is superseded for so long, 0 to 365 days. Default 1 h.
    #[serde(serialize_with = "serialize_duration")]
    pub keep: Duration,
}

/// A folder, or a place in a bucket.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// On disk.
    Folder(PathBuf),
    /// In S3, reached by `[s3]`.
    Bucket(BucketPlace),
}

impl Place {
    fn read(section: &mut Section<'_>, key: &'static str) -> Option<Self> {
        let place = section.parsed(key, str::to_owned, |text| {
            let text = filled(text, LONGEST_PATH)?;
            match text.split_once("://") {
                Some(("s3", place)) => BucketPlace::parse(place).map(Self::Bucket),
                Some(_) => Err(Wrong::new(
                    "neither a folder nor a place in a bucket",
                    r#"write "/srv/apt" or "s3://bucket/prefix""#,
                )),
                None => Ok(Self::Folder(text.into())),
            }
        })?;
        Some(match place {
            Self::Folder(folder) => Self::Folder(section.located(key, &folder.to_string_lossy())),
            place @ Self::Bucket(_) => place,
        })
    }
}

impl std::fmt::Display for Place {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Bucket(place) => place.fmt(f),
        }
    }
}

impl Serialize for Place {
    fn serialize<S: Serializer>(&self, out: S) -> Result<S::Ok, S::Error> {
        out.collect_str(self)
    }
}

impl Apt {
    /// The repositories below `[apt]`.
    pub(super) fn read_all(section: &mut Section<'_>) -> BTreeMap<String, Self> {
        let read = section.tables(|_, section| Self::read(section));
        let read = read.into_iter();
        read.filter_map(|(name, apt)| Some((name, apt?))).collect()
    }

    fn read(section: &mut Section<'_>) -> Option<Self> {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        let storage = Place::read(section, "storage");
        let incoming = Place::read(section, "incoming");
        let channels = words(section, "channels");
        let architectures = words(section, "architectures").unwrap_or_else(|| vec!["amd64".into()]);
        let component = section.text("component").unwrap_or_else(|| "main".into());
        let (origin, label) = (line(section, "origin"), line(section, "label"));
        let gpg_home = section.path("gpg_home");
        let key = section.text("key");
        let keep_generations = section.count("keep_generations", 1..=1000, 10);
        let keep = section.duration(
            "keep",
            Duration::ZERO..=365 * DAY,
            Duration::from_secs(3600),
        );
        if !is_word(&component) && section.is_sound("component") {
            let wrong = Wrong::new("not a name of a component", "write component = \"main\"");
            section.wrong("component", Some(format!("{component:?}")), wrong);
        }
        if let Some(key) = &key
            && section.is_sound("key")
            && !(key.len() >= 40 && key.chars().all(|c| c.is_ascii_hexdigit()))
        {
            let wrong = Wrong::new(
                "no fingerprint of a key",
                "write the 40 digits that `gpg --fingerprint` shows, without spaces",
            );
            section.wrong("key", Some(format!("{key:?}")), wrong);
        }
        Some(Self {
            storage: required(section, "storage", storage)?,
            incoming,
            channels: required(section, "channels", channels)?,
            architectures,
            component,
            origin,
            label,
            gpg_home: required(section, "gpg_home", gpg_home)?,
            key: required(section, "key", key)?.to_ascii_uppercase(),
            keep_generations,
            keep,
        })
    }
}

/// A text of one line: it becomes a field's value.
fn line(section: &mut Section<'_>, key: &'static str) -> Option<String> {
    let text = section.text(key)?;
    if text.contains(char::is_control) || text.trim() != text {
        let wrong = Wrong::new(
            "not one line",
            "write it without line ends and outer spaces",
        );
        section.wrong(key, Some(format!("{text:?}")), wrong);
    }
    Some(text)
}

/// Names that are parts of paths.
fn words(section: &mut Section<'_>, key: &'static str) -> Option<Vec<String>> {
    let words = section.list(key)?;
    if words.is_empty() {
        section.wrong(key, None, Wrong::new("empty", "name at least one"));
    }
    for word in words.iter().filter(|word| !is_word(word)) {
        let wrong = Wrong::new(
            "has other characters than a-z, 0-9, ., + and -, or does not begin with one of the first",
            "write the name as it is in dists/NAME or binary-NAME",
        );
        section.wrong(key, Some(format!("{word:?}")), wrong);
    }
    Some(words)
}

fn is_word(text: &str) -> bool {
    let mut letters = text.chars();
    let is_first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    letters.next().is_some_and(is_first) && letters.all(|c| is_first(c) || ".+-".contains(c))
}
