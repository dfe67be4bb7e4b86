//! An index of packages (`Packages`): read, merged and written; pure.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;
use std::io::{Read as _, Write as _};

use super::package::{BadPackage, Identity, Package};
use super::stanza::Stanza;

/// The largest index, unpacked: Debian's own has some 50 MB.
pub(super) const LARGEST: u64 = 512 * 1024 * 1024;

/// All packages of one architecture in a channel.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Index(BTreeMap<Identity, Package>);

/// An index that cannot be gone on with.
#[derive(Debug, thiserror::Error)]
pub enum BadIndex {
    /// It is not packed as its name says, or larger than [`LARGEST`].
    #[error("it cannot be unpacked: {0}")]
    Packing(#[from] std::io::Error),
    /// One of its stanzas is no package's.
    #[error("its stanza {at}: {source}")]
    Package {
        /// Counted from 1.
        at: usize,
        /// What is wrong.
        #[source]
        source: BadPackage,
    },
    /// It has two contents for one identity.
    #[error(transparent)]
    Conflict(#[from] Conflict),
}

/// One version of a package with two contents: refused, never replaced.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "{identity} is there with other bytes (SHA-256 {there}, not {wanted}): a version never changes, so give it another"
)]
pub struct Conflict {
    /// Of which package.
    pub identity: Identity,
    /// What is there.
    pub there: String,
    /// What was to be.
    pub wanted: String,
}

impl Conflict {
    /// Whether `there` and `wanted` are one content.
    ///
    /// # Errors
    ///
    /// The conflict, if not.
    pub fn check(there: &Package, wanted: &Package) -> Result<(), Self> {
        if there.sha256 == wanted.sha256 && there.size == wanted.size {
            return Ok(());
        }
        Err(Self {
            identity: wanted.identity.clone(),
            there: there.sha256.clone(),
            wanted: wanted.sha256.clone(),
        })
    }
}

impl Index {
    /// Reads an index.
    ///
    /// # Errors
    ///
    /// [`BadIndex`].
    pub fn parse(text: &str) -> Result<Self, BadIndex> {
        let mut index = Self::default();
        let stanzas = text.split("\n\n").map(|text| text.trim_matches('\n'));
        for (at, text) in stanzas.filter(|text| !text.is_empty()).enumerate() {
            let package = Stanza::parse(text)
                .map_err(BadPackage::from)
                .and_then(Package::from_index)
                .map_err(|source| BadIndex::Package { at: at + 1, source })?;
            index.add(package)?;
        }
        Ok(index)
    }

    /// Reads an index as `Packages.gz` has it.
    ///
    /// # Errors
    ///
    /// [`BadIndex`].
    pub fn unpack(bytes: &[u8]) -> Result<Self, BadIndex> {
        let mut text = String::new();
        let read = flate2::read::MultiGzDecoder::new(bytes)
            .take(LARGEST + 1)
            .read_to_string(&mut text)?;
        if read as u64 > LARGEST {
            let what = format!("it has more than {LARGEST} bytes");
            return Err(std::io::Error::other(what).into());
        }
        Self::parse(&text)
    }

    /// Adds a package; `false`: it is there.
    ///
    /// # Errors
    ///
    /// [`Conflict`]: the same identity is there with other bytes, and stays.
    pub fn add(&mut self, package: Package) -> Result<bool, Conflict> {
        match self.0.entry(package.identity.clone()) {
            Entry::Vacant(place) => {
                place.insert(package);
                Ok(true)
            }
            Entry::Occupied(place) => Conflict::check(place.get(), &package).map(|()| false),
        }
    }

    /// The package of this identity.
    pub fn get(&self, identity: &Identity) -> Option<&Package> {
        self.0.get(identity)
    }

    /// All, in the order in which they are written.
    pub fn packages(&self) -> impl Iterator<Item = &Package> {
        self.0.values()
    }

    /// The same bytes from the same input: no time, no name.
    ///
    /// # Errors
    ///
    /// Never in fact: memory takes what is written.
    pub fn pack(text: &str) -> std::io::Result<Vec<u8>> {
        let mut packed = flate2::GzBuilder::new().write(Vec::new(), flate2::Compression::default());
        packed.write_all(text.as_bytes())?;
        packed.finish()
    }
}

/// As `Packages` has it.
impl std::fmt::Display for Index {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.packages()
            .try_for_each(|package| writeln!(f, "{package}"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn package(name: &str, version: &str, sha: char) -> Package {
        let control = format!("Package: {name}\nVersion: {version}\nArchitecture: all\n");
        Package::from_control(&control, "main", 1, &sha.to_string().repeat(64)).unwrap()
    }

    #[test]
    fn an_index_is_written_as_it_was_read() {
        let mut index = Index::default();
        assert!(index.add(package("world", "1", 'a')).unwrap());
        assert!(index.add(package("hello", "1", 'a')).unwrap());
        assert!(index.add(package("hello", "2", 'b')).unwrap());
        let text = index.to_string();
        assert_eq!(text.matches("\n\n").count(), 3);
        assert_eq!(Index::parse(&text).unwrap(), index);
        let packed = Index::pack(&text).unwrap();
        assert_eq!(Index::unpack(&packed).unwrap(), index);
        assert_eq!(Index::pack(&text).unwrap(), packed);
        assert_eq!(Index::parse("").unwrap(), Index::default());
    }

    #[test]
    fn a_version_with_other_bytes_is_refused_and_what_is_there_stays() {
        let mut index = Index::default();
        assert!(index.add(package("hello", "1", 'a')).unwrap());
        assert!(!index.add(package("hello", "1", 'a')).unwrap());
        let conflict = index.add(package("hello", "1", 'b')).unwrap_err();
        assert_eq!(conflict.identity.to_string(), "hello:all=1");
        let there = index.packages().map(|package| package.sha256.clone());
        assert_eq!(there.collect::<Vec<_>>(), ["a".repeat(64)]);
        let twice = format!(
            "{}\n{}\n",
            package("hello", "1", 'a'),
            package("hello", "1", 'b')
        );
        assert!(matches!(Index::parse(&twice), Err(BadIndex::Conflict(_))));
    }

    #[test]
    fn what_is_no_index_is_refused() {
        let good = package("hello", "1", 'a').to_string();
        for text in [
            "Package: a\n".to_owned(),
            good.replace("pool/", "../"),
            good.replace("Size: 1", "Size: -1"),
            good.replace("aaaa", "zzzz"),
        ] {
            assert!(Index::parse(&text).is_err(), "{text}");
        }
        assert!(Index::unpack(b"no gzip").is_err());
    }
}
