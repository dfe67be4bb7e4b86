//! A channel's `Release`: its fields, and each file that belongs to it by size and SHA-256; pure.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;
use std::time::{Duration, UNIX_EPOCH};

use super::package::is_sha256;
use super::stanza::{BadStanza, Stanza};
use crate::clock::Millis;
use crate::config::Apt;
use crate::storage::{BadName, Name};

/// Which generation of the channel this is, from 1 on.
const GENERATION: &str = "X-Longshore-Generation";
/// The highest fencing token under which the channel was written.
const TOKEN: &str = "X-Longshore-Token";

/// What the fields and checksums of a channel say.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Release {
    fields: Stanza,
    files: BTreeMap<String, Listed>,
}

/// A file of a channel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    /// In lower-case hexadecimal digits.
    pub sha256: String,
    /// In bytes.
    pub size: u64,
}

/// What is wrong with a `Release`.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadRelease {
    /// It is no stanza.
    #[error(transparent)]
    Stanza(#[from] BadStanza),
    /// A field says what it cannot say.
    #[error("{0} cannot be read: {1:?}")]
    Field(&'static str, String),
    /// A file would be elsewhere.
    #[error(transparent)]
    Name(#[from] BadName),
}

impl Listed {
    /// What is said of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        Self {
            sha256: super::sha256(bytes),
            size: bytes.len() as u64,
        }
    }

    /// Whether these are the bytes.
    pub fn fits(&self, bytes: &[u8]) -> bool {
        self.size == bytes.len() as u64 && self.sha256 == super::sha256(bytes)
    }
}

/// The name by which a file of this content never stands for another: beside `path`, below `by-hash`.
///
/// # Errors
///
/// [`BadName`].
pub(super) fn by_hash(channel: &str, path: &str, sha256: &str) -> Result<Name, BadName> {
    let folder = path
        .rsplit_once('/')
        .map_or(String::new(), |(folder, _)| format!("{folder}/"));
    Name::new(format!("dists/{channel}/{folder}by-hash/SHA256/{sha256}"))
}

impl Release {
    /// Reads a `Release`.
    ///
    /// # Errors
    ///
    /// [`BadRelease`].
    pub fn parse(text: &str) -> Result<Self, BadRelease> {
        let mut fields = Stanza::parse(text)?;
        let list = fields.get("SHA256").unwrap_or_default().to_owned();
        fields.remove("SHA256");
        let mut files = BTreeMap::new();
        for line in list.lines().filter(|line| !line.trim().is_empty()) {
            let wrong = || BadRelease::Field("SHA256", line.to_owned());
            let parts = line.split_whitespace().collect::<Vec<_>>();
            let [sha256, size, path] = parts[..] else {
                return Err(wrong());
            };
            let sha256 = sha256.to_ascii_lowercase();
            let size = size.parse().map_err(|_| wrong())?;
            if !is_sha256(&sha256) {
                return Err(wrong());
            }
            let path = Name::new(path)?.as_str().to_owned();
            let listed = Listed { sha256, size };
            if files
                .insert(path, listed.clone())
                .is_some_and(|other| other != listed)
            {
                return Err(wrong());
            }
        }
        let release = Self { fields, files };
        release.number(GENERATION)?;
        release.number(TOKEN)?;
        Ok(release)
    }

    fn number(&self, field: &'static str) -> Result<Option<i64>, BadRelease> {
        let read = |text: &str| text.parse().ok().filter(|number| *number >= 0);
        self.fields
            .get(field)
            .map(|text| read(text).ok_or_else(|| BadRelease::Field(field, text.to_owned())))
            .transpose()
    }

    /// Which generation it is; 0 if it is not ours, or nothing.
    pub fn generation(&self) -> i64 {
        self.number(GENERATION).ok().flatten().unwrap_or(0)
    }

    /// The highest fencing token so far.
    pub fn token(&self) -> Option<i64> {
        self.number(TOKEN).ok().flatten()
    }

    /// What it says of a file.
    pub fn file(&self, path: &str) -> Option<&Listed> {
        self.files.get(path)
    }

    /// Every file.
    pub fn files(&self) -> impl Iterator<Item = (&str, &Listed)> {
        self.files
            .iter()
            .map(|(path, listed)| (path.as_str(), listed))
    }

    /// Says of a file what is so from now on.
    pub fn list(&mut self, path: impl Into<String>, bytes: &[u8]) {
        self.files.insert(path.into(), Listed::of(bytes));
    }

    /// Makes it the next generation, as `apt` wants it, under a token that is no lower than those before.
    pub fn advance(&mut self, apt: &Apt, channel: &str, token: Option<i64>, now: Millis) {
        let generation = self.generation() + 1;
        let token = self.token().max(token);
        let fields = &mut self.fields;
        for (name, value) in [("Origin", &apt.origin), ("Label", &apt.label)] {
            if let Some(value) = value {
                fields.set(name, value);
            }
        }
        for name in ["Suite", "Codename"] {
            if fields.get(name).is_none() {
                fields.set(name, channel);
            }
        }
        let mut all = |name, ours: &[String]| {
            let there = fields.get(name).unwrap_or_default().to_owned();
            let ours = ours.iter().map(String::as_str);
            let all = there
                .split_whitespace()
                .chain(ours)
                .collect::<BTreeSet<_>>();
            fields.set(name, all.into_iter().collect::<Vec<_>>().join(" "));
        };
        all("Architectures", &apt.architectures);
        all("Components", std::slice::from_ref(&apt.component));
        // Weaker sums, and a term that only who set it could prolong.
        for name in ["MD5Sum", "SHA1", "SHA512", "Valid-Until"] {
            fields.remove(name);
        }
        fields.set("Date", date(now));
        fields.set("Acquire-By-Hash", "yes");
        fields.set(GENERATION, generation.to_string());
        if let Some(token) = token {
            fields.set(TOKEN, token.to_string());
        }
    }
}

/// As it is signed.
impl std::fmt::Display for Release {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.fields.fmt(f)?;
        let mut list = String::from("SHA256:\n");
        for (path, Listed { sha256, size }) in self.files() {
            writeln!(list, " {sha256} {size:>16} {path}")?;
        }
        f.write_str(&list)
    }
}

/// The time as `Release` has it, for instance `Thu, 01 Jan 1970 00:00:00 UTC`.
fn date(now: Millis) -> String {
    const DAYS: [&str; 7] = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"];
    const MONTHS: [&str; 12] = [
        "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
    ];
    let millis = u64::try_from(now).unwrap_or(0);
    let name = |names: &[&'static str], at: u64| {
        usize::try_from(at)
            .ok()
            .and_then(|at| names.get(at).copied())
            .unwrap_or_default()
    };
    let day = name(&DAYS, millis / 86_400_000 % 7);
    let time = UNIX_EPOCH + Duration::from_millis(millis);
    let text = humantime::format_rfc3339_seconds(time).to_string();
    // 1970-01-01T00:00:00Z
    let part = |range: std::ops::Range<usize>| text.get(range).unwrap_or_default();
    let month = part(5..7).parse::<u64>().unwrap_or(1);
    let month = name(&MONTHS, month.saturating_sub(1));
    format!(
        "{day}, {} {month} {} {} UTC",
        part(8..10),
        part(0..4),
        part(11..19)
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn apt() -> Apt {
        use crate::config::StoragePlace;
        Apt {
            storage: StoragePlace::Folder("/srv/apt".into()),
            incoming: None,
            channels: vec!["stable".into()],
            architectures: vec!["amd64".into(), "arm64".into()],
            component: "main".into(),
            origin: Some("Example".into()),
            label: None,
            gpg_home: "/nowhere".into(),
            key: "0".repeat(40),
            keep_generations: 3,
            keep: Duration::ZERO,
        }
    }

    #[test]
    fn a_release_is_written_as_it_was_read() {
        let mut release = Release::default();
        release.list("main/binary-amd64/Packages", b"");
        release.advance(&apt(), "stable", Some(7), 1_795_365_611_000);
        let text = release.to_string();
        assert!(
            text.contains("\nDate: Sun, 22 Nov 2026 16:40:11 UTC\n"),
            "{text}"
        );
        assert!(text.contains("\nArchitectures: amd64 arm64\n"), "{text}");
        assert!(!text.contains("\n\n"), "{text}");
        let again = Release::parse(&text).unwrap();
        assert_eq!(again, release);
        assert_eq!((again.generation(), again.token()), (1, Some(7)));
    }

    #[test]
    fn a_token_never_goes_down() {
        let mut release = Release::default();
        release.advance(&apt(), "stable", Some(7), 0);
        release.advance(&apt(), "stable", None, 0);
        assert_eq!((release.generation(), release.token()), (2, Some(7)));
        release.advance(&apt(), "stable", Some(3), 0);
        assert_eq!((release.generation(), release.token()), (3, Some(7)));
    }

    #[test]
    fn a_release_of_somebody_else_is_gone_on_with() {
        let sha = "b".repeat(64);
        let text = format!(
            "Codename: bookworm\nArchitectures: i386\nValid-Until: Sat, 01 Jan 2000 00:00:00 UTC\nMD5Sum:\n 0 1 a\nSHA256:\n {sha} 5 main/source/Sources.gz\n"
        );
        let mut release = Release::parse(&text).unwrap();
        release.advance(&apt(), "stable", None, 0);
        let text = release.to_string();
        assert!(
            text.contains("Codename: bookworm\n") && text.contains("Suite: stable\n"),
            "{text}"
        );
        assert!(text.contains("Architectures: amd64 arm64 i386\n"), "{text}");
        assert!(
            !text.contains("MD5Sum") && !text.contains("Valid-Until"),
            "{text}"
        );
        assert!(text.contains("main/source/Sources.gz"), "{text}");
    }

    #[test]
    fn what_leads_elsewhere_or_says_nothing_is_refused() {
        let sha = "b".repeat(64);
        for list in [
            format!(" {sha} 5 ../../etc/passwd"),
            format!(" {sha} 5 /etc/passwd"),
            format!(" {sha} x a"),
            format!(" {sha} 5"),
            " 00 5 a".to_owned(),
            format!(" {sha} 5 a\n {sha} 6 a"),
        ] {
            assert!(
                Release::parse(&format!("SHA256:\n{list}\n")).is_err(),
                "{list}"
            );
        }
        for field in ["X-Longshore-Generation: -1", "X-Longshore-Token: x"] {
            assert!(Release::parse(&format!("{field}\n")).is_err(), "{field}");
        }
    }

    #[test]
    fn a_file_by_its_hash_is_beside_the_file() {
        let name = |path| by_hash("stable", path, "ab").unwrap().as_str().to_owned();
        assert_eq!(
            name("main/binary-all/Packages"),
            "dists/stable/main/binary-all/by-hash/SHA256/ab"
        );
        assert_eq!(name("log"), "dists/stable/by-hash/SHA256/ab");
    }
}
