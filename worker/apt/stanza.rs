//! Stanzas: `Field: value` lines as in a package's control file, in `Packages` and in `Release` (deb-control(5)); pure.
//!
//! Bytes of strangers come in here. What is accepted can be written into an index as it is: nothing in it can begin another
//! field or another stanza.

/// The longest stanza, in bytes; Debian's longest has some 20 000.
const LONGEST: usize = 1024 * 1024;

/// The most fields of a stanza.
const MOST_FIELDS: usize = 200;

/// Fields with their values, in their order. No name stands twice, in whatever case.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stanza(Vec<(String, String)>);

/// The text is no stanza.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("line {line}: {what}")]
pub struct BadStanza {
    /// Counted from 1.
    pub line: usize,
    /// What is wrong with it.
    pub what: String,
}

impl Stanza {
    /// Reads one stanza; line ends after it do not count.
    ///
    /// # Errors
    ///
    /// [`BadStanza`], also for none, two, or one that is too large.
    pub fn parse(text: &str) -> Result<Self, BadStanza> {
        let wrong = |line: usize, what: &str| BadStanza {
            line: line + 1,
            what: what.to_owned(),
        };
        if text.len() > LONGEST {
            return Err(wrong(0, "it is longer than a stanza may be"));
        }
        let mut stanza = Self::default();
        for (at, line) in text.trim_end_matches('\n').split('\n').enumerate() {
            if line.contains(|c: char| c.is_control() && c != '\t') {
                return Err(wrong(at, "it has a control character"));
            }
            if line.trim().is_empty() {
                return Err(wrong(at, "it is empty, where one stanza was expected"));
            }
            if line.starts_with([' ', '\t']) {
                let Some((_, value)) = stanza.0.last_mut() else {
                    return Err(wrong(at, "it goes on with no field"));
                };
                value.push('\n');
                value.push_str(line);
                continue;
            }
            let Some((name, value)) = line.split_once(':') else {
                return Err(wrong(at, "it has no colon"));
            };
            if !is_field(name) {
                return Err(wrong(at, "that is no field's name"));
            }
            if stanza.get(name).is_some() {
                return Err(wrong(at, &format!("{name} stands twice")));
            }
            if stanza.0.len() == MOST_FIELDS {
                return Err(wrong(at, "there are too many fields"));
            }
            stanza.0.push((name.to_owned(), value.trim().to_owned()));
        }
        Ok(stanza)
    }

    /// A field's value; lines after its first begin as they were written.
    pub fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
            .map(|(_, value)| value.as_str())
    }

    /// Sets a field, in its place or at the end. The value is ours: no line of it but the first begins without a space.
    pub fn set(&mut self, name: &str, value: impl Into<String>) {
        let value = value.into();
        match self
            .0
            .iter_mut()
            .find(|(field, _)| field.eq_ignore_ascii_case(name))
        {
            Some((_, old)) => *old = value,
            None => self.0.push((name.to_owned(), value)),
        }
    }

    /// Takes a field away.
    pub fn remove(&mut self, name: &str) {
        self.0
            .retain(|(field, _)| !field.eq_ignore_ascii_case(name));
    }
}

/// As it is written, with a line end after each line and no empty line.
impl std::fmt::Display for Stanza {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (name, value) in &self.0 {
            match value.as_str() {
                "" => writeln!(f, "{name}:")?,
                value if value.starts_with('\n') => writeln!(f, "{name}:{value}")?,
                value => writeln!(f, "{name}: {value}")?,
            }
        }
        Ok(())
    }
}

/// Printable ASCII without spaces and colons, and neither a comment nor a list of a signature's.
fn is_field(name: &str) -> bool {
    !name.is_empty()
        && !name.starts_with(['#', '-'])
        && name.chars().all(|c| c.is_ascii_graphic() && c != ':')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn a_stanza_is_written_as_it_was_read() {
        let text = "Package: hello\nDescription: short\n long\n .\n more\nDepends:\nTag:\n a\n";
        let stanza = Stanza::parse(text).unwrap();
        assert_eq!(stanza.get("package"), Some("hello"));
        assert_eq!(stanza.get("Description"), Some("short\n long\n .\n more"));
        assert_eq!(stanza.to_string(), text);
    }

    #[test]
    fn what_could_be_read_as_something_else_is_refused() {
        for (text, what) in [
            ("", "empty"),
            ("A: b\n\nC: d\n", "empty"),
            ("A: b\n \nC: d\n", "empty"),
            (" A: b\n", "goes on"),
            ("A\n", "no colon"),
            ("A: b\na: c\n", "twice"),
            ("A b: c\n", "no field"),
            ("#A: c\n", "no field"),
            ("-----BEGIN PGP SIGNATURE-----: c\n", "no field"),
            (": c\n", "no field"),
            ("A: b\rFilename: c\n", "control"),
            ("A: b\0\n", "control"),
            ("A: b\u{85}\n", "control"),
        ] {
            let wrong = Stanza::parse(text).expect_err(text);
            assert!(wrong.what.contains(what), "{text:?}: {wrong}");
        }
        assert!(Stanza::parse(&"A: b\n".repeat(300_000)).is_err());
    }

    proptest! {
        #[test]
        fn whatever_is_read_is_written_as_one_stanza_that_reads_the_same(text in "([A-Ca-c:# \t.-]{0,6}\n){0,6}") {
            if let Ok(stanza) = Stanza::parse(&text) {
                let written = stanza.to_string();
                prop_assert!(!written.contains("\n\n"));
                prop_assert_eq!(Stanza::parse(&written).unwrap(), stanza);
            }
        }

        #[test]
        fn nothing_makes_it_panic(text in any::<String>()) {
            drop(Stanza::parse(&text));
        }
    }
}
