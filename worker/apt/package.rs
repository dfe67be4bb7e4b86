//! A package as an index knows it, and which names it may have; pure.

use std::fmt;

use super::stanza::{BadStanza, Stanza};
use crate::storage::{BadName, Name};

/// Fields that an index adds to a package's control file: a package that brings them itself is refused.
const ADDED: [&str; 7] = [
    "Filename",
    "Size",
    "SHA256",
    "SHA1",
    "SHA512",
    "MD5sum",
    "Description-md5",
];

/// What tells one package from another: of one identity, there is only ever one content.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    name: String,
    version: String,
    architecture: String,
}

/// A package's stanza in an index, checked.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Package {
    /// Which.
    pub identity: Identity,
    /// Where its file is.
    pub file: Name,
    /// That file's size.
    pub size: u64,
    /// That file's SHA-256, in lower-case hexadecimal digits.
    pub sha256: String,
    stanza: Stanza,
}

/// What is wrong with a package's fields.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum BadPackage {
    /// They are no stanza.
    #[error(transparent)]
    Stanza(#[from] BadStanza),
    /// A field is missing or has a value that it cannot have.
    #[error("{field} is {value:?}")]
    Field {
        /// Which.
        field: &'static str,
        /// What it has.
        value: String,
    },
    /// A control file has a field that only an index has.
    #[error("its control file has the field {0}, which only an index may add")]
    Added(&'static str),
    /// Its file would be outside the repository.
    #[error(transparent)]
    Name(#[from] BadName),
}

impl Identity {
    /// Checked by Debian's rules for each.
    ///
    /// # Errors
    ///
    /// [`BadPackage::Field`].
    pub fn new(name: &str, version: &str, architecture: &str) -> Result<Self, BadPackage> {
        let wrong = |field, value: &str| {
            let value = value.chars().take(200).collect();
            Err(BadPackage::Field { field, value })
        };
        if !is_name(name) {
            return wrong("Package", name);
        }
        if !is_version(version) {
            return wrong("Version", version);
        }
        if !is_architecture(architecture) {
            return wrong("Architecture", architecture);
        }
        Ok(Self {
            name: name.to_owned(),
            version: version.to_owned(),
            architecture: architecture.to_owned(),
        })
    }

    /// The package's name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// Its version, with an epoch if it has one.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its architecture, or `all`.
    pub fn architecture(&self) -> &str {
        &self.architecture
    }

    /// Where a file of this package is in a pool, without the ending. No two packages have the same: an epoch, which Debian
    /// leaves out of names, is a folder.
    fn place(&self, component: &str) -> String {
        let Self {
            name,
            version,
            architecture,
        } = self;
        let letters = if name.starts_with("lib") { 4 } else { 1 };
        let prefix = name.get(..letters).unwrap_or(name);
        let (epoch, version) = match version.split_once(':') {
            Some((epoch, version)) => (format!("epoch-{epoch}/"), version),
            None => (String::new(), version.as_str()),
        };
        format!("pool/{component}/{prefix}/{name}/{epoch}{name}_{version}_{architecture}")
    }

    /// The name of its file.
    ///
    /// # Errors
    ///
    /// [`BadPackage::Name`] if it would be too long.
    pub fn file(&self, component: &str) -> Result<Name, BadPackage> {
        Ok(Name::new(format!("{}.deb", self.place(component)))?)
    }

    /// The name of the note that says which content this identity has.
    ///
    /// # Errors
    ///
    /// [`BadPackage::Name`] if it would be too long.
    pub fn note(&self, component: &str) -> Result<Name, BadPackage> {
        Ok(Name::new(format!("{}.stanza", self.place(component)))?)
    }
}

/// As `apt-get install` takes it.
impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}={}", self.name, self.architecture, self.version)
    }
}

impl Package {
    /// Takes a stanza of an index.
    ///
    /// # Errors
    ///
    /// [`BadPackage`].
    pub fn from_index(stanza: Stanza) -> Result<Self, BadPackage> {
        let field = |field| stanza.get(field).unwrap_or_default();
        let wrong = |name| BadPackage::Field {
            field: name,
            value: field(name).to_owned(),
        };
        let identity = Identity::new(field("Package"), field("Version"), field("Architecture"))?;
        let file = field("Filename");
        let file = Name::new(file.strip_prefix("./").unwrap_or(file))?;
        let size = field("Size").parse().map_err(|_| wrong("Size"))?;
        let sha256 = field("SHA256").to_ascii_lowercase();
        if !is_sha256(&sha256) {
            return Err(wrong("SHA256"));
        }
        Ok(Self {
            identity,
            file,
            size,
            sha256,
            stanza,
        })
    }

    /// Makes an index's stanza of a package's control file.
    ///
    /// # Errors
    ///
    /// [`BadPackage`].
    pub fn from_control(
        control: &str,
        component: &str,
        size: u64,
        sha256: &str,
    ) -> Result<Self, BadPackage> {
        let mut stanza = Stanza::parse(control)?;
        if let Some(added) = ADDED.into_iter().find(|field| stanza.get(field).is_some()) {
            return Err(BadPackage::Added(added));
        }
        let field = |field| stanza.get(field).unwrap_or_default();
        let identity = Identity::new(field("Package"), field("Version"), field("Architecture"))?;
        let file = identity.file(component)?;
        stanza.set("Filename", file.as_str());
        stanza.set("Size", size.to_string());
        stanza.set("SHA256", sha256);
        Self::from_index(stanza)
    }

    /// The same package with its file elsewhere.
    #[must_use]
    pub fn moved(mut self, file: Name) -> Self {
        self.stanza.set("Filename", file.as_str());
        self.file = file;
        self
    }
}

impl fmt::Display for Package {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.stanza.fmt(f)
    }
}

/// Whether these are the digits of a SHA-256.
pub(super) fn is_sha256(text: &str) -> bool {
    text.len() == 64 && text.bytes().all(|c| matches!(c, b'0'..=b'9' | b'a'..=b'f'))
}

fn is_name(text: &str) -> bool {
    let is_first = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
    (2..=128).contains(&text.len())
        && text.starts_with(is_first)
        && text.chars().all(|c| is_first(c) || "+-.".contains(c))
}

fn is_version(text: &str) -> bool {
    let (epoch, rest) = text.split_once(':').unwrap_or(("0", text));
    let is_epoch = (1..=9).contains(&epoch.len()) && epoch.bytes().all(|c| c.is_ascii_digit());
    is_epoch
        && (1..=128).contains(&rest.len())
        && rest.starts_with(|c: char| c.is_ascii_alphanumeric())
        && rest
            .chars()
            .all(|c| c.is_ascii_alphanumeric() || ".+~-".contains(c))
}

fn is_architecture(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|c: char| c.is_ascii_lowercase())
        && text
            .chars()
            .all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-')
}

#[cfg(test)]
mod tests {
    use super::*;

    const CONTROL: &str = "Package: libhello1\nVersion: 2:1.0~rc1+b1-1\nArchitecture: amd64\n";
    const SHA: &str = "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa";

    #[test]
    fn a_control_file_becomes_a_stanza_of_an_index() {
        let package = Package::from_control(CONTROL, "main", 7, SHA).unwrap();
        assert_eq!(
            package.identity.to_string(),
            "libhello1:amd64=2:1.0~rc1+b1-1"
        );
        let file = "pool/main/libh/libhello1/epoch-2/libhello1_1.0~rc1+b1-1_amd64.deb";
        let text = format!("{CONTROL}Filename: {file}\nSize: 7\nSHA256: {SHA}\n");
        assert_eq!(package.to_string(), text);
        let again = Package::from_index(Stanza::parse(&text).unwrap()).unwrap();
        assert_eq!(again, package);
    }

    #[test]
    fn a_package_that_says_what_only_an_index_may_is_refused() {
        for field in [
            "Filename: /etc/shadow",
            "sha256: 00",
            "size: 1",
            "MD5Sum: 1",
        ] {
            let control = format!("{CONTROL}{field}\n");
            let answer = Package::from_control(&control, "main", 7, SHA);
            assert!(
                matches!(answer, Err(BadPackage::Added(_))),
                "{field}: {answer:?}"
            );
        }
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for (name, version, architecture) in [
            ("../hello", "1", "amd64"),
            ("hello/x", "1", "amd64"),
            ("Hello", "1", "amd64"),
            ("h", "1", "amd64"),
            ("", "1", "amd64"),
            ("hello", "1/../../2", "amd64"),
            ("hello", "1:", "amd64"),
            ("hello", "a:1", "amd64"),
            ("hello", "1:2:3", "amd64"),
            ("hello", "1 2", "amd64"),
            ("hello", "", "amd64"),
            ("hello", "-1", "amd64"),
            ("hello", "1", "amd64/.."),
            ("hello", "1", ""),
            ("hello", "1", "source amd64"),
            ("hello", "1_amd64", "amd64"),
        ] {
            let answer = Identity::new(name, version, architecture);
            assert!(answer.is_err(), "{name} {version} {architecture}");
        }
        for file in ["/etc/passwd", "../x.deb", "pool/../../x.deb", ""] {
            let text = format!("{CONTROL}Filename: {file}\nSize: 1\nSHA256: {SHA}\n");
            let answer = Package::from_index(Stanza::parse(&text).unwrap());
            assert!(
                matches!(answer, Err(BadPackage::Name(_))),
                "{file}: {answer:?}"
            );
        }
    }

    #[test]
    fn two_packages_never_have_the_same_file() {
        let file = |version| {
            Identity::new("hello", version, "all")
                .unwrap()
                .file("main")
                .unwrap()
        };
        assert_ne!(file("1.0"), file("0:1.0"));
        assert_ne!(file("1:1.0"), file("2:1.0"));
    }
}
