//! A LAVA job's log: read once, line by line, into the file `log` and the logs of its tests.
//!
//! Invariants: it never holds more than one line of the log, one piece of the file and the
//! excerpts of [`MAX_ACTIVE`] tests; never takes a log that ended early for the whole; a line that
//! cannot be read is skipped and counted, and ends nothing.
//!
//! Format (LAVA's dispatcher): a YAML list, one entry a line, `- {"dt": "…", "lvl": "target", "msg": "…"}`.

use std::collections::VecDeque;

use base64::Engine as _;
use bytes::{Bytes, BytesMut};
use serde::Deserialize;
use serde_json::Value;

use crate::testjob::backend::http::Body;
use crate::testjob::backend::lava::results::Ranged;
use crate::testjob::backend::{BackendError, Outlet};
use crate::testjob::item::{CUT, DATA_CHUNK, Item, MAX_TEXT, Test};

/// The longest line that is read; a longer one is skipped. LAVA's own limit is far below.
const MAX_LINE: usize = 1024 * 1024;

/// Tests whose excerpts are gathered at the same time; LAVA's tests run one after the other.
const MAX_ACTIVE: usize = 16;

/// How much of the file is gathered before it is sent.
const PIECE: usize = 64 * 1024;

/// How a test's log begins.
#[derive(Debug, Clone, Copy)]
pub(in crate::testjob::backend) struct Link<'a> {
    /// The page of the whole log.
    pub(in crate::testjob::backend) address: &'a str,
    /// Whether as SQUAD writes it, for a browser.
    pub(in crate::testjob::backend) for_browser: bool,
}

impl Link<'_> {
    fn to(self, line: u64) -> String {
        let to = format!("{}#L{line}", self.address);
        if self.for_browser {
            format!("Testcase log: <a href='{to}'>{to}</a>\n")
        } else {
            format!("{to}\n")
        }
    }

    /// What follows each line: SQUAD adds another line end to the line's own.
    fn line_end(self) -> &'static str {
        if self.for_browser { "\n\n" } else { "\n" }
    }
}

/// Sends the file `log` and every test of `ranged` with its lines. `body` is `None` where the server
/// has no log: the tests come without. A log longer than `limit` bytes is cut there.
pub(in crate::testjob::backend) async fn send(
    body: Option<Body>,
    ranged: Vec<Ranged>,
    link: Link<'_>,
    limit: u64,
    out: &mut Outlet<'_>,
) -> Result<(), BackendError> {
    let mut excerpts = Excerpts::new(ranged, link);
    let Some(mut body) = body else {
        out.problem("the log is not there").await?;
        return finish(excerpts, out).await;
    };
    out.file("log", "text/plain").await?;
    let (mut lines, mut text) = (Lines::default(), BytesMut::new());
    let (mut read, mut number, mut broken) = (0_u64, 0_u64, 0_u64);
    while let Some(mut chunk) = body.chunk().await? {
        read += chunk.len() as u64;
        while let Some(line) = lines.next(&mut chunk) {
            number += 1;
            broken += u64::from(take(&line, &mut text));
            for test in excerpts.line(number, &line) {
                out.send(Item::Test(test)).await?;
            }
            send_pieces(&mut text, PIECE, out).await?;
        }
        if read > limit {
            text.extend_from_slice(CUT.as_bytes());
            out.problem(format!("the log is cut after {limit} bytes"))
                .await?;
            break;
        }
    }
    if read <= limit
        && let Some(line) = lines.last()
    {
        excerpts.line_end = "\n";
        broken += u64::from(take(&line, &mut text));
        for test in excerpts.line(number + 1, &line) {
            out.send(Item::Test(test)).await?;
        }
    }
    send_pieces(&mut text, 0, out).await?;
    if broken > 0 {
        out.problem(format!(
            "{broken} lines of the log are not readable and were skipped"
        ))
        .await?;
    }
    finish(excerpts, out).await
}

/// Sends the tests whose lines did not come.
async fn finish(excerpts: Excerpts<'_>, out: &mut Outlet<'_>) -> Result<(), BackendError> {
    let crowded = excerpts.crowded;
    for test in excerpts.rest() {
        out.send(Item::Test(test)).await?;
    }
    if crowded > 0 {
        out.problem(format!(
            "{crowded} tests are without a log: more than {MAX_ACTIVE} at the same lines"
        ))
        .await?;
    }
    Ok(())
}

/// Sends what `text` holds beyond `keep` bytes.
async fn send_pieces(
    text: &mut BytesMut,
    keep: usize,
    out: &mut Outlet<'_>,
) -> Result<(), BackendError> {
    while text.len() > keep {
        let piece = text.split_to(text.len().min(DATA_CHUNK)).freeze();
        out.send(Item::Data(piece)).await?;
    }
    Ok(())
}

/// Adds what `line` contributes to the file; whether the line is broken.
fn take(line: &Line, text: &mut BytesMut) -> bool {
    match line {
        Line::Whole(bytes) => match message(bytes) {
            Ok(Some(message)) => {
                text.extend_from_slice(message.replace('\0', "").as_bytes());
                text.extend_from_slice(b"\n");
                false
            }
            Ok(None) => false,
            Err(Broken) => true,
        },
        Line::TooLong => true,
    }
}

/// A line that is no entry of a log.
#[derive(Debug, PartialEq)]
struct Broken;

#[derive(Deserialize)]
struct Entry {
    lvl: String,
    #[serde(default)]
    msg: Value,
}

/// What a line of the log says, if it is from the device (`target`) or a test (`feedback`).
fn message(line: &[u8]) -> Result<Option<String>, Broken> {
    let line = line.trim_ascii();
    if line.is_empty() || line == b"---" || line == b"[]" {
        return Ok(None);
    }
    let entry = line.strip_prefix(b"- ").ok_or(Broken)?;
    // Most lines are JSON too, which is much faster to read than YAML.
    if let Ok(Entry { lvl, msg }) = serde_json::from_slice(entry) {
        return Ok(wanted(&lvl)
            .then(|| msg.as_str().map(str::to_owned))
            .flatten());
    }
    let entry = String::from_utf8(entry.to_vec()).unwrap_or_else(|error| latin1(error.as_bytes()));
    // Bytes of the serial line that are no UTF-8; the YAML reader drops the tag.
    let is_binary = entry.contains("\"msg\": !!binary ");
    let entry: serde_norway::Value = serde_norway::from_str(&entry).map_err(|_| Broken)?;
    let level = entry
        .get("lvl")
        .and_then(serde_norway::Value::as_str)
        .ok_or(Broken)?;
    if !wanted(level) {
        return Ok(None);
    }
    let Some(text) = entry.get("msg").and_then(serde_norway::Value::as_str) else {
        return Ok(None);
    };
    if !is_binary {
        return Ok(Some(text.to_owned()));
    }
    let compact: String = text.split_ascii_whitespace().collect();
    let bytes = base64::prelude::BASE64_STANDARD
        .decode(compact)
        .map_err(|_| Broken)?;
    Ok(Some(latin1(&bytes)))
}

fn wanted(level: &str) -> bool {
    matches!(level, "target" | "feedback")
}

/// Text of a serial line in its usual encoding.
fn latin1(bytes: &[u8]) -> String {
    bytes.iter().copied().map(char::from).collect()
}

/// One line, without its end.
#[derive(Debug, PartialEq)]
enum Line {
    Whole(Bytes),
    /// Longer than [`MAX_LINE`].
    TooLong,
}

/// Cuts pieces into lines.
#[derive(Debug, Default)]
struct Lines {
    partial: BytesMut,
    skipping: bool,
}

impl Lines {
    /// The next line of what came before and `chunk`; `None` when `chunk` is used up.
    fn next(&mut self, chunk: &mut Bytes) -> Option<Line> {
        let Some(end) = chunk.iter().position(|byte| *byte == b'\n') else {
            self.keep(chunk);
            chunk.clear();
            return None;
        };
        let piece = chunk.split_to(end);
        drop(chunk.split_to(1));
        if self.partial.is_empty() && !self.skipping && piece.len() <= MAX_LINE {
            return Some(Line::Whole(piece));
        }
        self.keep(&piece);
        Some(self.close())
    }

    /// What stands after the last line end, if anything.
    fn last(mut self) -> Option<Line> {
        (self.skipping || !self.partial.is_empty()).then(|| self.close())
    }

    fn keep(&mut self, piece: &[u8]) {
        if self.skipping || self.partial.len() + piece.len() > MAX_LINE {
            self.skipping = true;
            self.partial.clear();
        } else {
            self.partial.extend_from_slice(piece);
        }
    }

    fn close(&mut self) -> Line {
        if std::mem::take(&mut self.skipping) {
            Line::TooLong
        } else {
            Line::Whole(self.partial.split().freeze())
        }
    }
}

/// The tests that wait for their lines.
#[derive(Debug)]
struct Excerpts<'l> {
    /// By first line.
    waiting: VecDeque<Ranged>,
    active: Vec<(Ranged, String)>,
    link: Link<'l>,
    line_end: &'static str,
    /// Tests that got no log because too many shared their lines.
    crowded: u64,
}

impl<'l> Excerpts<'l> {
    fn new(mut ranged: Vec<Ranged>, link: Link<'l>) -> Self {
        ranged.sort_by_key(|ranged| ranged.lines.0);
        Self {
            waiting: ranged.into(),
            active: Vec::new(),
            link,
            line_end: link.line_end(),
            crowded: 0,
        }
    }

    /// Takes line `number`; returns the tests that are complete with it.
    fn line(&mut self, number: u64, line: &Line) -> Vec<Test> {
        let mut complete = Vec::new();
        while let Some(next) = self.waiting.pop_front_if(|next| next.lines.0 <= number) {
            if self.active.len() < MAX_ACTIVE {
                let text = self.link.to(next.lines.0);
                self.active.push((next, text));
            } else {
                self.crowded += 1;
                complete.push(next.test);
            }
        }
        if let Line::Whole(bytes) = line {
            for (_, text) in &mut self.active {
                append(text, bytes, self.line_end);
            }
        }
        let done = self
            .active
            .extract_if(.., |(ranged, _)| ranged.lines.1 <= number);
        complete.extend(done.map(|(ranged, text)| Test {
            log: Some(text),
            ..ranged.test
        }));
        complete
    }

    /// The tests that are not complete, with what they have.
    fn rest(self) -> impl Iterator<Item = Test> {
        let active = self.active.into_iter().map(|(ranged, text)| Test {
            log: Some(text),
            ..ranged.test
        });
        active.chain(self.waiting.into_iter().map(|ranged| ranged.test))
    }
}

/// Adds a line to a test's log, up to [`MAX_TEXT`]; never a NUL, which no database keeps in a text.
fn append(text: &mut String, line: &[u8], line_end: &str) {
    if text.ends_with(CUT) {
        return;
    }
    if text.len() + line.len() + CUT.len() + line_end.len() > MAX_TEXT {
        text.push_str(CUT);
        return;
    }
    match std::str::from_utf8(line) {
        Ok(line) => text.extend(line.chars().filter(|c| *c != '\0')),
        Err(_) => text.push_str(&String::from_utf8_lossy(line).replace('\0', "")),
    }
    text.push_str(line_end);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testjob::item::TestResult;

    const PLAIN: Link<'_> = Link {
        address: "http://l/1",
        for_browser: false,
    };

    fn split(pieces: &[&[u8]]) -> Vec<Line> {
        let mut lines = Lines::default();
        let mut found = Vec::new();
        for piece in pieces {
            let mut chunk = Bytes::copy_from_slice(piece);
            while let Some(line) = lines.next(&mut chunk) {
                found.push(line);
            }
        }
        found.extend(lines.last());
        found
    }

    fn whole(text: &str) -> Line {
        Line::Whole(Bytes::copy_from_slice(text.as_bytes()))
    }

    fn ranged(name: &str, first: u64, last: u64) -> Ranged {
        let test = Test {
            suite: "s".into(),
            name: name.into(),
            result: TestResult::Pass,
            log: None,
        };
        Ranged {
            test,
            lines: (first, last),
        }
    }

    #[test]
    fn lines_are_the_same_however_the_pieces_fall() {
        let text = b"one\n\ntwo\nthree";
        let expected = [whole("one"), whole(""), whole("two"), whole("three")];
        for size in 1..text.len() {
            assert_eq!(
                split(&text.chunks(size).collect::<Vec<_>>()),
                expected,
                "{size}"
            );
        }
    }

    #[test]
    fn a_line_without_end_is_not_held() {
        let long = vec![b'x'; MAX_LINE];
        assert_eq!(
            split(&[&long, b"y\nshort\n"]),
            [Line::TooLong, whole("short")]
        );
        assert_eq!(split(&[&long, b"y"]), [Line::TooLong]);
    }

    #[test]
    fn only_the_device_and_the_tests_speak() {
        let said = |line: &str| message(line.as_bytes());
        let text = |text: &str| Ok(Some(text.to_owned()));
        assert_eq!(
            said(r#"- {"dt": "x", "lvl": "target", "msg": "hello"}"#),
            text("hello")
        );
        assert_eq!(
            said(r#"- {"lvl": "feedback", "ns": "n", "msg": "f"}"#),
            text("f")
        );
        assert_eq!(said(r#"- {"lvl": "info", "msg": "no"}"#), Ok(None));
        assert_eq!(
            said(r#"- {"lvl": "results", "msg": {"case": "job"}}"#),
            Ok(None)
        );
        assert_eq!(said("- {lvl: target, msg: 'it''s'}"), text("it's"));
        assert_eq!(
            said(r#"- {"lvl": "target", "msg": "\x1b[0m\e"}"#),
            text("\u{1b}[0m\u{1b}")
        );
        assert_eq!(
            said(r#"- {"lvl": "target", "msg": !!binary "/2E="}"#),
            text("ÿa")
        );
        assert_eq!(said(""), Ok(None));
        for broken in [
            "- {\"lvl\": \"target\", \"msg\": \"",
            "kernel panic",
            "- {\"msg\": \"x\"}",
            "- [",
            "- &a [*a]",
        ] {
            assert_eq!(said(broken), Err(Broken), "{broken}");
        }
    }

    #[test]
    fn a_test_gets_its_lines_and_a_link() {
        let mut excerpts = Excerpts::new(
            vec![ranged("late", 9, 9), ranged("b", 2, 3), ranged("a", 1, 2)],
            PLAIN,
        );
        assert_eq!(excerpts.line(1, &whole("one")), []);
        let a = excerpts.line(2, &whole("two\0"));
        assert_eq!(a[0].name, "a");
        assert_eq!(a[0].log.as_deref(), Some("http://l/1#L1\none\ntwo\n"));
        let b = excerpts.line(3, &whole("three"));
        assert_eq!(b[0].log.as_deref(), Some("http://l/1#L2\ntwo\nthree\n"));
        let rest: Vec<_> = excerpts.rest().collect();
        assert_eq!((rest[0].name.as_str(), &rest[0].log), ("late", &None));
    }

    #[test]
    fn for_a_browser_it_is_squads_text() {
        let link = Link {
            for_browser: true,
            ..PLAIN
        };
        let mut excerpts = Excerpts::new(vec![ranged("a", 1, 2)], link);
        assert_eq!(excerpts.line(1, &whole("one")), []);
        let a = excerpts.line(2, &whole("two"));
        let expected = "Testcase log: <a href='http://l/1#L1'>http://l/1#L1</a>\none\n\ntwo\n\n";
        assert_eq!(a[0].log.as_deref(), Some(expected));
    }

    #[test]
    fn many_tests_at_the_same_lines_are_bounded() {
        let tests = (0..100).map(|n| ranged(&n.to_string(), 1, 5)).collect();
        let mut excerpts = Excerpts::new(tests, PLAIN);
        assert_eq!(excerpts.line(1, &whole("x")).len(), 100 - MAX_ACTIVE);
        assert_eq!(excerpts.crowded, 84);
        assert_eq!(excerpts.rest().count(), MAX_ACTIVE);
    }

    #[test]
    fn an_excerpt_is_cut_once() {
        let mut text = String::new();
        for _ in 0..40 {
            append(&mut text, &vec![b'x'; 64 * 1024], "\n");
        }
        assert!(text.len() <= MAX_TEXT);
        assert_eq!(text.matches(CUT).count(), 1);
    }
}
