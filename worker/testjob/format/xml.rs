//! XML in pieces, for the readers of result files: quick-xml with limits around it.
//!
//! It never holds more than one piece of a document (a tag or a run of text), never expands an
//! entity that a document declares, and never ends quietly inside an element. Bytes that are not
//! UTF-8 become U+FFFD, as do references to what no text can hold (NUL, lone surrogates): one test's
//! garbage must not cost the others.

use std::borrow::Cow;
use std::io::{self, BufRead, Read};

use quick_xml::errors::{Error, IllFormedError};
use quick_xml::events::{BytesDecl, BytesStart, Event};

use super::{FormatError, Limits};

/// How much is read at once.
const BLOCK: usize = 64 * 1024;

/// A piece of a document.
pub(super) enum Piece<'a> {
    /// An element begins; a [`Piece::Close`] follows for every one, `<a/>` included.
    Open(Element<'a>),
    /// The innermost element ends.
    Close,
    /// Character data, or a part of it: texts come in several pieces. Empty for what does not count
    /// (comments, instructions).
    Text(Cow<'a, str>),
    /// The document ends, all its elements closed.
    End,
}

/// A start tag.
pub(super) struct Element<'a> {
    tag: BytesStart<'a>,
    at: u64,
}

impl Element<'_> {
    /// Its name without a namespace's prefix.
    pub(super) fn name(&self) -> &str {
        self.tag.local_name().into_inner()
    }

    /// The value of the attribute `key`.
    pub(super) fn attribute(&self, key: &str) -> Result<Option<String>, FormatError> {
        match self.tag.try_get_attribute(key) {
            Ok(None) => Ok(None),
            Ok(Some(attribute)) => self.value(&attribute.value).map(Some),
            Err(error) => Err(FormatError::malformed(
                format!("<{}>: {error}", self.name()),
                self.at,
            )),
        }
    }

    /// The byte after its tag.
    pub(super) fn at(&self) -> u64 {
        self.at
    }

    fn value(&self, raw: &str) -> Result<String, FormatError> {
        let mut value = String::with_capacity(raw.len());
        let mut rest = raw;
        while let Some((before, reference)) = rest.split_once('&') {
            push_normalised(&mut value, before);
            let (name, after) = reference
                .split_once(';')
                .ok_or_else(|| FormatError::malformed("an attribute has a lone `&`", self.at))?;
            value.push(resolve(name, self.at)?);
            rest = after;
        }
        push_normalised(&mut value, rest);
        Ok(value)
    }
}

/// Literal white space in an attribute is a space each (XML 1.0, 3.3.3).
fn push_normalised(value: &mut String, literal: &str) {
    if literal.contains(['\t', '\n', '\r', '\0']) {
        value.extend(literal.chars().map(|char| match char {
            '\t' | '\n' | '\r' => ' ',
            '\0' => char::REPLACEMENT_CHARACTER,
            other => other,
        }));
    } else {
        value.push_str(literal);
    }
}

/// The character that `&name;` stands for.
///
/// Control characters are let through though XML 1.0 has none: the writer that Android's tools use
/// makes references of them.
fn resolve(name: &str, at: u64) -> Result<char, FormatError> {
    let number = match name {
        "lt" => return Ok('<'),
        "gt" => return Ok('>'),
        "amp" => return Ok('&'),
        "apos" => return Ok('\''),
        "quot" => return Ok('"'),
        name => name
            .strip_prefix('#')
            .map(|digits| match digits.strip_prefix('x') {
                Some(hex) => u32::from_str_radix(hex, 16),
                None => digits.parse(),
            }),
    };
    match number {
        Some(Ok(number)) => Ok(char::from_u32(number)
            .filter(|char| *char != '\0')
            .unwrap_or(char::REPLACEMENT_CHARACTER)),
        Some(Err(_)) | None => {
            let name = super::shortened(name, 100);
            let what = format!("unknown entity `&{name};` (declared entities are never expanded)");
            Err(FormatError::malformed(what, at))
        }
    }
}

/// A reader of pieces.
pub(super) struct Document<R> {
    reader: quick_xml::Reader<Source<R>>,
    buffer: Vec<u8>,
    /// Names of the open elements, outermost first; at most `depth` of them.
    open: Vec<String>,
    depth: usize,
    /// `<a/>` was opened and is to be closed.
    close_next: bool,
    had_root: bool,
}

impl<R: Read> Document<R> {
    /// A document that begins where `input` stands.
    pub(super) fn new(input: R, limits: &Limits) -> Self {
        Self {
            reader: quick_xml::Reader::from_reader(Source::new(input, limits.piece)),
            buffer: Vec::new(),
            open: Vec::new(),
            depth: limits.depth,
            close_next: false,
            had_root: false,
        }
    }

    /// The next piece.
    pub(super) fn next(&mut self) -> Result<Piece<'_>, FormatError> {
        if std::mem::take(&mut self.close_next) {
            self.open.pop();
            return Ok(Piece::Close);
        }
        self.buffer.clear();
        self.reader.get_mut().piece = 0;
        let event = self.reader.read_event_into(&mut self.buffer);
        let at = self.reader.buffer_position();
        match event {
            Ok(Event::Start(tag)) => {
                enter(&mut self.open, self.depth, &mut self.had_root, &tag, at)?;
                Ok(Piece::Open(Element { tag, at }))
            }
            Ok(Event::Empty(tag)) => {
                enter(&mut self.open, self.depth, &mut self.had_root, &tag, at)?;
                self.close_next = true;
                Ok(Piece::Open(Element { tag, at }))
            }
            Ok(Event::End(_)) => {
                self.open.pop();
                Ok(Piece::Close)
            }
            Ok(Event::Text(text)) if !self.had_root && !is_blank(&text) => {
                let what = "this is no XML: there is text before its first element";
                Err(FormatError::malformed(what, at))
            }
            Ok(Event::Text(text)) => Ok(Piece::Text(text.into_inner())),
            Ok(Event::CData(text)) => Ok(Piece::Text(text.into_inner())),
            Ok(Event::GeneralRef(name)) => {
                Ok(Piece::Text(Cow::Owned(resolve(&name, at)?.to_string())))
            }
            Ok(Event::Decl(declaration)) => check_encoding(&declaration, at).map(|()| NOTHING),
            Ok(Event::DocType(text)) if text.contains('[') => {
                let what =
                    "a DOCTYPE with declarations of its own is refused: remove it from the file";
                Err(FormatError::malformed(what, at))
            }
            Ok(Event::DocType(_) | Event::Comment(_) | Event::PI(_)) => Ok(NOTHING),
            Ok(Event::Eof) if self.open.is_empty() && self.had_root => Ok(Piece::End),
            Ok(Event::Eof) => Err(FormatError::truncated(inside(&self.open), at)),
            Err(error) => Err(failed(
                error,
                &self.open,
                at,
                self.reader.get_ref().is_at_end(),
            )),
        }
    }
}

const NOTHING: Piece<'static> = Piece::Text(Cow::Borrowed(""));

/// White space and byte order marks.
fn is_blank(text: &str) -> bool {
    text.trim_matches('\u{FEFF}').trim().is_empty()
}

fn enter(
    open: &mut Vec<String>,
    depth: usize,
    had_root: &mut bool,
    tag: &BytesStart<'_>,
    at: u64,
) -> Result<(), FormatError> {
    if open.len() >= depth {
        return Err(FormatError::Limit {
            what: "the depth of the XML, in elements,",
            limit: depth as u64,
        });
    }
    if open.is_empty() && std::mem::replace(had_root, true) {
        return Err(FormatError::malformed(
            "the XML has a second root element",
            at,
        ));
    }
    open.push(super::shortened(tag.name().into_inner(), 100));
    Ok(())
}

fn check_encoding(declaration: &BytesDecl<'_>, at: u64) -> Result<(), FormatError> {
    match declaration.encoding() {
        Some(Ok(name))
            if !["utf-8", "utf8", "us-ascii", "ascii"]
                .contains(&name.to_ascii_lowercase().as_str()) =>
        {
            let name = super::shortened(&name, 100);
            let what = format!("the XML's encoding is `{name}`: convert it to UTF-8");
            Err(FormatError::malformed(what, at))
        }
        Some(Ok(_)) | None => Ok(()),
        Some(Err(error)) => Err(FormatError::malformed(
            format!("the XML declaration: {error}"),
            at,
        )),
    }
}

fn inside(open: &[String]) -> String {
    if open.is_empty() {
        return "the XML, before its root element,".to_owned();
    }
    let mut what = "the XML, inside".to_owned();
    for name in open {
        what.push_str(&format!(" <{name}>"));
    }
    what.push(',');
    what
}

fn failed(error: Error, open: &[String], at: u64, ended: bool) -> FormatError {
    match error {
        Error::Io(error) => match std::sync::Arc::try_unwrap(error) {
            Ok(error) => FormatError::from_io(error),
            Err(shared) => FormatError::Io(io::Error::new(shared.kind(), shared.to_string())),
        },
        // Markup or a reference that the end of the input left open.
        Error::Syntax(_) | Error::IllFormed(IllFormedError::UnclosedReference) if ended => {
            FormatError::truncated(inside(open), at)
        }
        Error::Syntax(_)
        | Error::IllFormed(_)
        | Error::InvalidAttr(_)
        | Error::Encoding(_)
        | Error::Escape(_)
        | Error::Namespace(_) => {
            FormatError::malformed(format!("the XML is not well-formed: {error}"), at)
        }
    }
}

/// A buffered stream of valid UTF-8 that fails once a piece is too long.
struct Source<R> {
    input: R,
    /// The first `held` of its bytes are as they came and not decoded: between two reads, at most
    /// three of an unfinished character.
    raw: Box<[u8]>,
    held: usize,
    /// Valid text, of which `used` bytes are consumed.
    text: Vec<u8>,
    used: usize,
    /// Bytes consumed since the current piece began; its owner sets it to 0.
    piece: usize,
    limit: usize,
    ended: bool,
}

impl<R: Read> Source<R> {
    fn new(input: R, limit: usize) -> Self {
        Self {
            input,
            raw: vec![0; BLOCK].into_boxed_slice(),
            held: 0,
            text: Vec::with_capacity(BLOCK),
            used: 0,
            piece: 0,
            limit,
            ended: false,
        }
    }

    fn is_at_end(&self) -> bool {
        self.ended && self.used == self.text.len()
    }

    /// Reads once, behind what is held.
    fn read_block(&mut self) -> io::Result<()> {
        let room = self.raw.get_mut(self.held..).unwrap_or_default();
        let read = loop {
            match self.input.read(room) {
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                other => break other?,
            }
        };
        self.held += read;
        self.ended = read == 0;
        Ok(())
    }

    /// Moves the valid text of `raw` over, with U+FFFD for each invalid sequence.
    fn decode(&mut self) {
        let raw = self.raw.get(..self.held).unwrap_or_default();
        let mut done = 0;
        for chunk in raw.utf8_chunks() {
            self.text.extend_from_slice(chunk.valid().as_bytes());
            done += chunk.valid().len();
            let may_go_on = done + chunk.invalid().len() == raw.len()
                && std::str::from_utf8(chunk.invalid())
                    .is_err_and(|error| error.error_len().is_none());
            if may_go_on && !self.ended {
                break;
            }
            if !chunk.invalid().is_empty() {
                self.text.extend_from_slice("\u{FFFD}".as_bytes());
            }
            done += chunk.invalid().len();
        }
        self.raw.copy_within(done..self.held, 0);
        self.held -= done;
    }
}

impl<R: Read> Read for Source<R> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        let read = self.fill_buf()?.read(out)?;
        self.consume(read);
        Ok(read)
    }
}

impl<R: Read> BufRead for Source<R> {
    fn fill_buf(&mut self) -> io::Result<&[u8]> {
        if self.piece > self.limit {
            let limit = self.limit as u64;
            return Err(io::Error::other(FormatError::Limit {
                what: "one piece of the XML, in bytes,",
                limit,
            }));
        }
        while self.used == self.text.len() && !self.ended {
            self.text.clear();
            self.used = 0;
            self.read_block()?;
            self.decode();
        }
        Ok(self.text.get(self.used..).unwrap_or_default())
    }

    fn consume(&mut self, amount: usize) {
        self.used = (self.used + amount).min(self.text.len());
        self.piece += amount;
    }
}
