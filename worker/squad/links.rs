//! Result files of CTS name their style sheet, its own style and a picture by bare names; beside SQUAD's pages they are
//! elsewhere: as in SQUAD's plugin, the names become addresses of the test run's attachments. A stream, in pieces of any
//! size.

use bytes::Bytes;

use crate::testjob::item::Item;
use crate::testjob::plugin::tradefed::RESULTS;

const SHEET: &str = "compatibility_result.xsl";
const STYLE: &str = "compatibility_result.css";
const PICTURE: &str = "logo.png";

/// The file under way, with its names replaced.
#[derive(Debug, Default)]
pub(super) struct Links {
    /// Where the attachments are; without it nothing is replaced.
    base: Option<String>,
    /// The names that are replaced in this file.
    names: &'static [&'static str],
    /// The end of what has come, which a name may go on in; shorter than the longest name.
    tail: Vec<u8>,
}

impl Links {
    pub(super) fn new(base: Option<String>) -> Self {
        Self {
            base,
            ..Self::default()
        }
    }

    /// What is left of the file under way, if `item` is no longer part of it.
    pub(super) fn end(&mut self, item: &Item) -> Option<Bytes> {
        match item {
            Item::File { .. } => self.rest(),
            Item::Data(_)
            | Item::Test(_)
            | Item::Metric(_)
            | Item::Metadata(..)
            | Item::Problem(_) => None,
        }
    }

    /// What is left of the last file.
    pub(super) fn rest(&mut self) -> Option<Bytes> {
        let tail = std::mem::take(&mut self.tail);
        (!tail.is_empty()).then(|| tail.into())
    }

    /// A file of that name in the archive begins.
    pub(super) fn begin(&mut self, name: &str) {
        self.names = match name {
            RESULTS => &[SHEET],
            SHEET => &[STYLE, PICTURE],
            _ => &[],
        };
    }

    /// The next piece of the file.
    pub(super) fn data(&mut self, data: Bytes) -> Bytes {
        let Some(base) = self.base.as_ref().filter(|_| !self.names.is_empty()) else {
            return data;
        };
        self.tail.extend_from_slice(&data);
        let mut out = Vec::with_capacity(self.tail.len());
        let mut rest = self.tail.as_slice();
        while let Some((byte, after)) = rest.split_first() {
            if let Some(name) = self
                .names
                .iter()
                .find(|name| rest.starts_with(name.as_bytes()))
            {
                out.extend_from_slice(base.as_bytes());
                out.push(b'/');
                out.extend_from_slice(name.as_bytes());
                rest = rest.get(name.len()..).unwrap_or_default();
            } else if self
                .names
                .iter()
                .any(|name| name.as_bytes().starts_with(rest))
            {
                break;
            } else {
                out.push(*byte);
                rest = after;
            }
        }
        self.tail = rest.to_vec();
        out.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replaced(base: Option<&str>, name: &str, text: &str, size: usize) -> String {
        let mut links = Links::new(base.map(str::to_owned));
        links.begin(name);
        let mut out = Vec::new();
        for piece in text.as_bytes().chunks(size) {
            out.extend_from_slice(&links.data(Bytes::copy_from_slice(piece)));
        }
        out.extend_from_slice(&links.rest().unwrap_or_default());
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn names_become_addresses_however_the_pieces_fall() {
        for (name, text, expected) in [
            (
                RESULTS,
                "<?xsl href=\"compatibility_result.xsl\"?> logo.png compatibility_result.xs",
                "<?xsl href=\"u/compatibility_result.xsl\"?> logo.png compatibility_result.xs",
            ),
            (
                SHEET,
                "compatibility_result.css llogo.pnglogo.png compatibility_result.xsl lo",
                "u/compatibility_result.css lu/logo.pngu/logo.png compatibility_result.xsl lo",
            ),
            (PICTURE, "logo.png", "logo.png"),
        ] {
            for size in 1..=text.len() {
                assert_eq!(replaced(Some("u"), name, text, size), expected, "{size}");
                assert_eq!(replaced(None, name, text, size), text);
            }
        }
    }

    #[test]
    fn the_rest_of_a_file_comes_before_the_next() {
        let mut links = Links::new(Some("u".to_owned()));
        links.begin(SHEET);
        assert_eq!(links.data(Bytes::from_static(b"x logo")), "x ");
        let next = Item::File {
            name: "next".to_owned(),
            mimetype: "text/plain".to_owned(),
        };
        assert_eq!(links.end(&Item::Problem("p".to_owned())), None);
        assert_eq!(links.end(&next).as_deref(), Some(b"logo".as_slice()));
        assert_eq!(links.end(&next), None);
    }
}
