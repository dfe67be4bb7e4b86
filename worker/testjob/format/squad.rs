//! SQUAD's submission files: `tests.json`, `metrics.json`, `metadata.json` (its documentation,
//! "Submitting results", names them so).
//!
//! Each is one JSON object that is read entry by entry; an entry over [`Limits::piece`] is refused,
//! so that memory stays flat however many there are. One entry that cannot be kept is an
//! [`Item::Problem`] and never costs the others.

use std::cell::Cell;
use std::fmt;
use std::io::{self, BufReader, Read};
use std::rc::Rc;

use serde::de::{
    DeserializeOwned, Deserializer, Error as _, IgnoredAny, MapAccess, SeqAccess, Visitor,
};
use serde::{Deserialize, de};
use serde_json::Value;

use super::{Counts, Emit, FormatError, Limits, MAX_VALUE, Place, Stopped, Text, shortened};
use crate::testjob::item::{Item, Metric, Test, TestResult};

/// The longest entry of `metadata.json`, in bytes: as a tree it takes some thirty times as much.
const MAX_METADATA: usize = 1 << 20;

/// Reads `tests.json`: `{"suite/test": "pass"}` or `{"suite/test": {"result": "pass", "log": "…"}}`.
/// Returns what it counted.
///
/// `pass`, `fail` and `xfail` mean themselves; every other word, and null, is [`TestResult::Skip`].
///
/// # Errors
///
/// [`FormatError`]; what was emitted by then is not the whole.
pub fn tests(
    input: &mut dyn Read,
    limits: &Limits,
    emit: &mut Emit<'_>,
) -> Result<Counts, FormatError> {
    let mut counts = Counts::default();
    entries(input, limits.piece, &mut |key, raw: Raw| {
        let shown = raw.shown();
        let (result, log) = match raw {
            Raw::Text(result) => (Raw::Text(result), None),
            Raw::Object(fields) => (fields.result, fields.log.text()),
            Raw::Null | Raw::Bool(_) | Raw::Number(_) | Raw::List(_) => (raw, None),
        };
        let result = match &result {
            Raw::Text(word) => result_of(word),
            Raw::Null => TestResult::Skip,
            Raw::Bool(_) | Raw::Number(_) | Raw::List(_) | Raw::Object(_) => {
                let key = shortened(&key, MAX_VALUE);
                return emit(Item::Problem(format!("test {key}: {shown} is no result")));
            }
        };
        let (suite, name) = split_name(&key);
        if name.is_empty() {
            return emit(Item::Problem(format!(
                "test {}: it has no name",
                shortened(&key, MAX_VALUE)
            )));
        }
        counts.add(result);
        let log = log.and_then(|log| {
            let mut kept = Text::new(limits.text);
            kept.push(&log);
            kept.take()
        });
        emit(Item::Test(Test {
            suite: suite.to_owned(),
            name: name.to_owned(),
            result,
            log,
        }))
    })?;
    Ok(counts)
}

/// Reads `metrics.json`: `{"suite/metric": 1.5}`, a list of measurements instead of the number, or
/// `{"value": …, "unit": "…"}` around either.
///
/// # Errors
///
/// [`FormatError`]; what was emitted by then is not the whole.
pub fn metrics(
    input: &mut dyn Read,
    limits: &Limits,
    emit: &mut Emit<'_>,
) -> Result<(), FormatError> {
    entries(input, limits.piece, &mut |key, raw: Raw| {
        let shown = raw.shown();
        let (value, unit) = match raw {
            Raw::Object(fields) => (fields.value, fields.unit.text().unwrap_or_default()),
            Raw::Null | Raw::Bool(_) | Raw::Number(_) | Raw::Text(_) | Raw::List(_) => {
                (raw, String::new())
            }
        };
        let measurements = match value {
            Raw::Number(number) => vec![number],
            Raw::List(Some(numbers)) => numbers,
            Raw::Null | Raw::Bool(_) | Raw::Text(_) | Raw::List(None) | Raw::Object(_) => {
                Vec::new()
            }
        };
        let mean = measurements.iter().sum::<f64>() / measurements.len() as f64;
        let (suite, name) = split_name(&key);
        if !mean.is_finite() || name.is_empty() {
            let key = shortened(&key, MAX_VALUE);
            let what = if name.is_empty() {
                "it has no name".to_owned()
            } else {
                format!("{shown} is no number")
            };
            return emit(Item::Problem(format!("metric {key}: {what}")));
        }
        let unit = shortened(&unit, MAX_VALUE);
        emit(Item::Metric(Metric {
            suite: suite.to_owned(),
            name: name.to_owned(),
            value: mean,
            unit,
            measurements,
        }))
    })
}

/// Reads `metadata.json`, an object of anything.
///
/// # Errors
///
/// [`FormatError`]; what was emitted by then is not the whole.
pub fn metadata(
    input: &mut dyn Read,
    limits: &Limits,
    emit: &mut Emit<'_>,
) -> Result<(), FormatError> {
    let piece = limits.piece.min(MAX_METADATA);
    entries(input, piece, &mut |key, value: Value| {
        emit(Item::Metadata(key, value))
    })
}

/// What SQUAD's words for a test's end mean.
pub fn result_of(word: &str) -> TestResult {
    match word {
        "pass" => TestResult::Pass,
        "fail" => TestResult::Fail,
        "xfail" => TestResult::Xfail,
        _ => TestResult::Skip,
    }
}

/// Splits `suite/test` as SQUAD does: at the last `/`, but not at one inside a trailing `[…]`
/// (a parameterised test's values). Without a suite, the suite is `/`.
pub fn split_name(full: &str) -> (&str, &str) {
    let plain = full.get(..parameters_start(full)).unwrap_or(full);
    match plain.rfind('/') {
        Some(slash) => {
            let suite = full.get(..slash).unwrap_or_default().trim_end_matches('/');
            let name = full.get(slash + 1..).unwrap_or_default();
            (if suite.is_empty() { "/" } else { suite }, name)
        }
        None => ("/", full),
    }
}

/// Where the bracketed groups at the end of `name` begin; its length if there are none.
fn parameters_start(name: &str) -> usize {
    let mut start = name.len();
    let mut depth = 0_usize;
    for (index, byte) in name.bytes().enumerate().rev() {
        match byte {
            b']' => depth += 1,
            b'[' if depth > 0 => {
                depth -= 1;
                if depth == 0 {
                    start = index;
                }
            }
            _ if depth == 0 => break,
            _ => {}
        }
    }
    start
}

/// Reads one JSON object and hands over its entries, none longer than `piece` bytes or so.
fn entries<V: DeserializeOwned>(
    input: &mut dyn Read,
    piece: usize,
    each: &mut dyn FnMut(String, V) -> Result<(), Stopped>,
) -> Result<(), FormatError> {
    let since = Rc::new(Cell::new(0));
    let metered = Metered {
        input,
        since: Rc::clone(&since),
        limit: piece,
    };
    let mut json =
        serde_json::Deserializer::from_reader(BufReader::with_capacity(64 * 1024, metered));
    let mut stopped = false;
    let visitor = Entries {
        each,
        since,
        stopped: &mut stopped,
        kind: std::marker::PhantomData,
    };
    let read = json.deserialize_map(visitor).and_then(|()| json.end());
    if stopped {
        return Err(FormatError::Stopped);
    }
    read.map_err(|error| {
        let at = Place::Line(error.line(), error.column());
        let text = error.to_string();
        let what = text
            .rsplit_once(" at line ")
            .map_or(text.as_str(), |(what, _)| what);
        match error.classify() {
            serde_json::error::Category::Io => FormatError::from_io(error.into()),
            serde_json::error::Category::Eof => FormatError::Truncated {
                what: "the JSON".to_owned(),
                at,
            },
            serde_json::error::Category::Syntax | serde_json::error::Category::Data => {
                FormatError::Malformed {
                    what: format!("the JSON is not as expected: {}", shortened(what, 500)),
                    at,
                }
            }
        }
    })
}

/// Fails once too much was read for one entry.
struct Metered<'a> {
    input: &'a mut dyn Read,
    /// Bytes read since the last entry was done.
    since: Rc<Cell<usize>>,
    limit: usize,
}

impl Read for Metered<'_> {
    fn read(&mut self, out: &mut [u8]) -> io::Result<usize> {
        if self.since.get() > self.limit {
            let limit = self.limit as u64;
            return Err(io::Error::other(FormatError::Limit {
                what: "one entry of the JSON, in bytes,",
                limit,
            }));
        }
        let read = self.input.read(out)?;
        self.since.set(self.since.get() + read);
        Ok(read)
    }
}

struct Entries<'a, V> {
    each: &'a mut dyn FnMut(String, V) -> Result<(), Stopped>,
    since: Rc<Cell<usize>>,
    stopped: &'a mut bool,
    kind: std::marker::PhantomData<V>,
}

impl<'de, V: Deserialize<'de>> Visitor<'de> for Entries<'_, V> {
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("an object")
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<(), M::Error> {
        while let Some((key, value)) = map.next_entry::<String, V>()? {
            self.since.set(0);
            if let Err(stop) = (self.each)(key, value) {
                *self.stopped = true;
                return Err(M::Error::custom(stop));
            }
        }
        Ok(())
    }
}

/// The value of a test or a metric, of whatever kind, without what has no meaning here.
enum Raw {
    Null,
    Bool(bool),
    Number(f64),
    Text(String),
    /// A list of numbers; `None`: of something else too.
    List(Option<Vec<f64>>),
    Object(Box<Fields>),
}

/// The fields of an object that mean something.
struct Fields {
    result: Raw,
    log: Raw,
    value: Raw,
    unit: Raw,
}

impl Raw {
    fn text(self) -> Option<String> {
        match self {
            Self::Text(text) => Some(text),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::List(_) | Self::Object(_) => None,
        }
    }

    /// For the message that it is not what it should be.
    fn shown(&self) -> String {
        match self {
            Self::Null => "null".to_owned(),
            Self::Bool(value) => value.to_string(),
            Self::Number(value) => value.to_string(),
            Self::Text(text) => format!("\"{}\"", shortened(text, 100)),
            Self::List(Some(numbers)) if numbers.is_empty() => "an empty list".to_owned(),
            Self::List(_) => "a list".to_owned(),
            Self::Object(_) => "an object".to_owned(),
        }
    }
}

impl<'de> Deserialize<'de> for Raw {
    fn deserialize<D: Deserializer<'de>>(from: D) -> Result<Self, D::Error> {
        from.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = Raw;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("any value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<Raw, E> {
        Ok(Raw::Null)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<Raw, E> {
        Ok(Raw::Bool(value))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<Raw, E> {
        Ok(Raw::Number(value as f64))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<Raw, E> {
        Ok(Raw::Number(value as f64))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<Raw, E> {
        Ok(Raw::Number(value))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<Raw, E> {
        Ok(Raw::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<Raw, E> {
        Ok(Raw::Text(value))
    }

    fn visit_seq<S: SeqAccess<'de>>(self, mut seq: S) -> Result<Raw, S::Error> {
        let mut numbers = Vec::new();
        while let Some(raw) = seq.next_element::<Raw>()? {
            let Raw::Number(number) = raw else {
                while seq.next_element::<IgnoredAny>()?.is_some() {}
                return Ok(Raw::List(None));
            };
            numbers.push(number);
        }
        Ok(Raw::List(Some(numbers)))
    }

    fn visit_map<M: MapAccess<'de>>(self, mut map: M) -> Result<Raw, M::Error> {
        let mut fields = Fields {
            result: Raw::Null,
            log: Raw::Null,
            value: Raw::Null,
            unit: Raw::Null,
        };
        while let Some(key) = map.next_key::<String>()? {
            match key.as_str() {
                "result" => fields.result = map.next_value()?,
                "log" => fields.log = map.next_value()?,
                "value" => fields.value = map.next_value()?,
                "unit" => fields.unit = map.next_value()?,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
        }
        Ok(Raw::Object(Box::new(fields)))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    type Outcome<T> = (Vec<Item>, Result<T, FormatError>);

    fn collect<T>(run: impl FnOnce(&mut Emit<'_>) -> Result<T, FormatError>) -> Outcome<T> {
        let mut items = Vec::new();
        let outcome = run(&mut |item| {
            items.push(item);
            Ok(())
        });
        (items, outcome)
    }

    fn read_tests(text: &str) -> Outcome<Counts> {
        collect(|emit| tests(&mut text.as_bytes(), &Limits::default(), emit))
    }

    fn read_metrics(text: &str) -> Outcome<()> {
        collect(|emit| metrics(&mut text.as_bytes(), &Limits::default(), emit))
    }

    #[test]
    fn names_are_split_at_the_last_slash_outside_trailing_brackets() {
        for (full, suite, name) in [
            ("a/b", "a", "b"),
            ("a/b/c", "a/b", "c"),
            ("c", "/", "c"),
            ("/c", "/", "c"),
            ("a//c", "a", "c"),
            ("a/t[x/y]", "a", "t[x/y]"),
            ("a/t[x/y][z/[q/]]", "a", "t[x/y][z/[q/]]"),
            ("a[x/y]/t", "a[x/y]", "t"),
            ("a[x]/t[y/z]", "a[x]", "t[y/z]"),
            ("t[x/y]", "/", "t[x/y]"),
            ("a/t]", "a", "t]"),
            ("a/", "a", ""),
        ] {
            assert_eq!(split_name(full), (suite, name), "{full}");
        }
    }

    #[test]
    fn tests_are_read_in_both_forms_and_a_wrong_one_costs_nothing_else() {
        let (items, counts) = read_tests(
            r#"{"s/a":"pass","s/b":{"result":"fail","log":"why","extra":[[{}]]},"c":"xfail","d":"unknown",
               "e":null,"f":{"log":"x"},"s/bad":7,"s/":"pass"}"#,
        );
        assert_eq!(
            counts.unwrap(),
            Counts {
                pass: 1,
                fail: 1,
                xfail: 1,
                skip: 3
            }
        );
        let Item::Test(failed) = &items[1] else {
            panic!("{items:?}")
        };
        assert_eq!(
            (failed.suite.as_str(), failed.log.as_deref()),
            ("s", Some("why"))
        );
        assert_eq!(
            items[6],
            Item::Problem("test s/bad: 7 is no result".to_owned())
        );
        assert_eq!(
            items[7],
            Item::Problem("test s/: it has no name".to_owned())
        );
    }

    #[test]
    fn metrics_are_read_in_all_forms_and_a_wrong_one_costs_nothing_else() {
        let (items, outcome) = read_metrics(
            r#"{"boot/time":"fast","s/a":2,"s/b":[1,2.5,-0.5],"s/c":{"value":[3],"unit":"ms"},"s/d":[],"s/e":[1,"x",2],
               "s/f":{"unit":"ms"}}"#,
        );
        outcome.unwrap();
        assert_eq!(
            items[0],
            Item::Problem("metric boot/time: \"fast\" is no number".to_owned())
        );
        let metrics: Vec<_> = items
            .iter()
            .filter_map(|item| {
                if let Item::Metric(metric) = item {
                    Some(metric)
                } else {
                    None
                }
            })
            .collect();
        assert_eq!(
            (
                metrics[0].value,
                metrics[1].value,
                metrics[1].measurements.len()
            ),
            (2.0, 1.0, 3)
        );
        assert_eq!((metrics[2].value, metrics[2].unit.as_str()), (3.0, "ms"));
        assert_eq!(
            items[4],
            Item::Problem("metric s/d: an empty list is no number".to_owned())
        );
        assert_eq!(items.len(), 7);
    }

    #[test]
    fn metadata_is_any_object() {
        let text = r#"{"a":"b","c":{"d":[1]}}"#;
        let (items, _) = collect(|emit| metadata(&mut text.as_bytes(), &Limits::default(), emit));
        assert_eq!(
            items[1],
            Item::Metadata("c".into(), serde_json::json!({"d": [1]}))
        );
    }

    #[test]
    fn what_is_no_object_is_refused_with_its_place() {
        for text in ["[]", "null", "{\"a\" 1}", "{} x"] {
            let error = read_tests(text).1.unwrap_err();
            assert!(
                matches!(
                    error,
                    FormatError::Malformed {
                        at: Place::Line(1, _),
                        ..
                    }
                ),
                "{text}: {error}"
            );
        }
    }

    #[test]
    fn a_file_cut_anywhere_is_truncated_never_a_result() {
        let text = r#"{"s/b":{"result":"fail","log":"wh\u00e9y"},"x":"pass"}"#;
        for end in 0..text.len() {
            let error = read_tests(&text[..end]).1.unwrap_err();
            assert!(
                matches!(error, FormatError::Truncated { .. }),
                "{end}: {error}"
            );
        }
    }

    #[test]
    fn deep_and_long_entries_are_refused() {
        let deep = format!("{{\"a\":{}", "{\"result\":".repeat(100_000));
        assert!(matches!(
            read_tests(&deep).1,
            Err(FormatError::Malformed { .. })
        ));
        let ignored = format!(
            "{{\"a\":{{\"x\":{}{}}}}}",
            "[".repeat(100_000),
            "]".repeat(100_000)
        );
        assert_eq!(
            read_tests(&ignored).1.unwrap().total(),
            1,
            "what is ignored may be deep"
        );
        let limits = Limits {
            piece: 100_000,
            ..Limits::default()
        };
        for text in [
            format!("{{\"{}", "k".repeat(1 << 20)),
            format!("{{\"k\":[{}", "1,".repeat(1 << 20)),
        ] {
            let (_, outcome) = collect(|emit| metrics(&mut text.as_bytes(), &limits, emit));
            assert!(
                matches!(outcome, Err(FormatError::Limit { limit: 100_000, .. })),
                "{outcome:?}"
            );
        }
    }

    #[test]
    fn many_entries_together_may_be_longer_than_one() {
        let text = format!(
            "{{{}\"z/z\":\"pass\"}}",
            "\"suite/test\":\"fail\",".repeat(50_000)
        );
        let limits = Limits {
            piece: 10_000,
            ..Limits::default()
        };
        let (_, counts) = collect(|emit| tests(&mut text.as_bytes(), &limits, emit));
        assert_eq!(counts.unwrap().total(), 50_001);
    }

    #[test]
    fn a_stopped_receiver_ends_the_reading_at_once() {
        let outcome = tests(
            &mut b"{\"a\":\"pass\",\"b\":\"pass\"}".as_slice(),
            &Limits::default(),
            &mut |_| Err(Stopped),
        );
        assert!(matches!(outcome, Err(FormatError::Stopped)));
    }

    proptest! {
        #[test]
        fn mutated_files_never_panic(edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)) {
            let mut bytes = br#"{"s/b":{"result":"fail","log":"why","value":[1,2]},"x":1e3,"y/[z/]":"pass"}"#.to_vec();
            for (index, byte) in edits {
                let index = index.index(bytes.len());
                bytes[index] = byte;
            }
            let limits = Limits::default();
            let outcomes = [
                collect(|emit| tests(&mut bytes.as_slice(), &limits, emit).map(|_| ())).1,
                collect(|emit| metrics(&mut bytes.as_slice(), &limits, emit)).1,
                collect(|emit| metadata(&mut bytes.as_slice(), &limits, emit)).1,
            ];
            for outcome in outcomes {
                prop_assert!(!matches!(outcome, Err(FormatError::Io(_))), "{outcome:?}");
            }
        }

        #[test]
        fn splitting_loses_nothing(full in "[a-z/\\[\\]ä]{1,20}") {
            let (suite, name) = split_name(&full);
            prop_assert!(full.ends_with(name));
            prop_assert!(suite == "/" || full.starts_with(suite));
        }
    }
}
