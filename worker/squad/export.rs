//! What a part brings into SQUAD: its files before, and the statements of the transaction that shows everything.

use std::convert::Infallible;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use futures::stream::{self, TryStreamExt as _};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::time::Instant;

use super::Squad;
use super::files::Writing;
use crate::handler::{Context, Stop};
use crate::store::{
    FileView, Op, STAGED_PAGE, StagedMetric, StagedRow, StagedTest, Store, StoreError,
};
use crate::testjob::stage::{Progress, Rest};

/// Facts that our backends add for our own use.
const OURS: [&str; 3] = [
    crate::testjob::backend::REFERENCES,
    "start_time",
    "end_time",
];

/// The file that holds a test job's log, and the one with its definition, which SQUAD has already.
pub(super) const LOG: &str = "log";
const DEFINITION: &str = "definition.yaml";

/// What SQUAD's storage takes a file without an ending for.
const UNTYPED: &str = "application/octet-stream";

/// The names of so many rows are made known by one statement; fewer are not worth a commit of their own.
const NAMES: i64 = 20_000;

/// A run whose rows are staged.
#[derive(Debug, Clone, Copy)]
pub(super) struct Run {
    pub(super) run: i64,
    pub(super) testrun: i64,
    /// Whether a unit without a name is an empty text in SQUAD, not null: LAVA's are.
    pub(super) named_units: bool,
}

/// The results that a file of a test run lists.
#[derive(Debug, Clone, Copy)]
enum Kind {
    Tests,
    Metrics,
}

/// A result in such a file.
struct Entry {
    seq: i64,
    name: String,
    value: Value,
}

impl Kind {
    fn file(self) -> &'static str {
        match self {
            Self::Tests => "tests_file",
            Self::Metrics => "metrics_file",
        }
    }

    /// The next results after row `after`.
    async fn page(
        self,
        context: &Context,
        rows: &Rows,
        run: Run,
        after: i64,
    ) -> anyhow::Result<Vec<Entry>> {
        let metric = |metric| Entry::metric(metric, run.named_units);
        Ok(match self {
            Self::Tests => {
                let tests = rows.tests(context, run.run, after).await?;
                tests.into_iter().map(Entry::test).collect()
            }
            Self::Metrics => {
                let metrics = rows.metrics(context, run.run, after).await?;
                metrics.into_iter().map(metric).collect()
            }
        })
    }
}

/// Where the rows of a run are.
#[derive(Debug)]
pub(super) enum Rows {
    /// In the store.
    Stored,
    /// Here, all of them, few, on their way into the store with the command that publishes them.
    Here(Rest),
}

impl Rows {
    /// What is to be written of them.
    pub(super) fn ops(&self, store: &Store) -> Result<Vec<Op>, StoreError> {
        match self {
            Self::Stored => Ok(Vec::new()),
            Self::Here(rest) => rest.ops(store),
        }
    }

    /// Tests after row `after`: all, or a page of [`STAGED_PAGE`].
    async fn tests(
        &self,
        context: &Context,
        run: i64,
        after: i64,
    ) -> Result<Vec<StagedTest>, Stop> {
        let store = context.store();
        let Self::Here(rest) = self else {
            return context.patiently(|| store.staged_tests(run, after)).await;
        };
        let test = |(seq, row): (i64, &StagedRow)| match row {
            StagedRow::Test {
                suite,
                name,
                result,
                log,
            } => Some(StagedTest {
                seq,
                suite: suite.clone(),
                name: name.clone(),
                result: (*result).to_owned(),
                log: log.clone(),
            }),
            StagedRow::Metric { .. }
            | StagedRow::Fact { .. }
            | StagedRow::File { .. }
            | StagedRow::Data { .. } => None,
        };
        Ok(rest.numbered().filter_map(test).collect())
    }

    /// Metrics, likewise.
    async fn metrics(
        &self,
        context: &Context,
        run: i64,
        after: i64,
    ) -> Result<Vec<StagedMetric>, Stop> {
        let store = context.store();
        let Self::Here(rest) = self else {
            return context.patiently(|| store.staged_metrics(run, after)).await;
        };
        let metric = |(seq, row): (i64, &StagedRow)| match row {
            StagedRow::Metric {
                suite,
                name,
                value,
                unit,
                measurements,
            } => Some(StagedMetric {
                seq,
                suite: suite.clone(),
                name: name.clone(),
                value: *value,
                unit: unit.clone(),
                measurements: json!(measurements).to_string(),
            }),
            StagedRow::Test { .. }
            | StagedRow::Fact { .. }
            | StagedRow::File { .. }
            | StagedRow::Data { .. } => None,
        };
        Ok(rest.numbered().filter_map(metric).collect())
    }

    /// The facts (key, JSON).
    pub(super) async fn facts(
        &self,
        context: &Context,
        run: i64,
    ) -> Result<Vec<(String, String)>, Stop> {
        let store = context.store();
        let Self::Here(rest) = self else {
            return context.patiently(|| store.staged_facts(run)).await;
        };
        let fact = |(_, row): (i64, &StagedRow)| match row {
            StagedRow::Fact {
                kind: "metadata",
                key,
                value,
            } => Some((key.clone(), value.clone())),
            StagedRow::Fact { .. }
            | StagedRow::Test { .. }
            | StagedRow::Metric { .. }
            | StagedRow::File { .. }
            | StagedRow::Data { .. } => None,
        };
        Ok(rest.numbered().filter_map(fact).collect())
    }

    /// The files.
    pub(super) async fn files(&self, context: &Context, run: i64) -> Result<Vec<FileView>, Stop> {
        let Self::Here(rest) = self else {
            return staged_files(context, run).await;
        };
        let file = |(seq, row): (i64, &StagedRow)| match row {
            StagedRow::File { name, mimetype } => Some(FileView {
                run,
                seq,
                name: name.clone(),
                mimetype: mimetype.clone(),
            }),
            StagedRow::Test { .. }
            | StagedRow::Metric { .. }
            | StagedRow::Fact { .. }
            | StagedRow::Data { .. } => None,
        };
        Ok(rest.numbered().filter_map(file).collect())
    }

    /// The next pieces of a file after row `after`; none: that was all.
    async fn pieces(
        &self,
        context: &Context,
        file: &FileView,
        after: i64,
    ) -> Result<Vec<(i64, Bytes)>, Stop> {
        let store = context.store();
        let Self::Here(rest) = self else {
            let pieces = context.patiently(|| store.file_data(file, after)).await?;
            let pieces = pieces.into_iter();
            return Ok(pieces.map(|(seq, data)| (seq, data.into())).collect());
        };
        let piece = |(seq, row): (i64, &StagedRow)| match row {
            StagedRow::Data { file: of, data } if *of == file.seq && seq > after => {
                Some((seq, data.clone()))
            }
            StagedRow::Data { .. }
            | StagedRow::Test { .. }
            | StagedRow::Metric { .. }
            | StagedRow::Fact { .. }
            | StagedRow::File { .. } => None,
        };
        Ok(rest.numbered().filter_map(piece).collect())
    }
}

impl Entry {
    fn test(test: StagedTest) -> Self {
        Self {
            seq: test.seq,
            name: full_name(&test.suite, &test.name),
            value: json!({ "result": test.result, "log": test.log }),
        }
    }

    fn metric(metric: StagedMetric, named_units: bool) -> Self {
        let measured: Vec<f64> = serde_json::from_str(&metric.measurements).unwrap_or_default();
        let value = match measured.as_slice() {
            [] | [_] => json!(metric.value),
            several => json!(several),
        };
        let unit = Some(metric.unit).filter(|unit| named_units || !unit.is_empty());
        Self {
            seq: metric.seq,
            name: full_name(&metric.suite, &metric.name),
            value: json!({ "value": value, "unit": unit }),
        }
    }
}

impl Squad {
    /// Writes the three files that SQUAD keeps with each test run.
    pub(super) async fn testrun_files(
        &self,
        context: &Context,
        run: Run,
        (rows, files): (&Rows, &[FileView]),
        completed: bool,
    ) -> anyhow::Result<()> {
        let mut all = Vec::new();
        for kind in [Kind::Tests, Kind::Metrics] {
            all.push(self.listing(context, rows, run, kind, completed).await?);
        }
        let log = files.iter().find(|file| file.name == LOG);
        let mut writing = self.begin(run, "log_file")?;
        if let Some(log) = log {
            copy(context, rows, log, &mut writing, true).await?;
        }
        all.push(writing);
        Ok(Writing::end_all(all).await?)
    }

    /// Does `staging`, and makes the names of many tests known meanwhile, as they are staged. Answers also how many rows that
    /// was done for.
    pub(super) async fn naming<T>(
        &self,
        context: &Context,
        run: i64,
        staging: impl Future<Output = anyhow::Result<T>>,
    ) -> (anyhow::Result<T>, i64) {
        /// Between two looks at how far staging is.
        const LOOK: Duration = Duration::from_millis(250);
        #[derive(Deserialize)]
        struct Saved {
            rows: i64,
        }
        let (named, store) = (AtomicI64::new(0), context.store());
        let follow = async {
            let mut looked = Instant::now();
            loop {
                tokio::time::sleep(LOOK).await;
                let passed = looked.elapsed();
                looked = Instant::now();
                if !context.saved_within(passed) {
                    continue;
                }
                let saved =
                    context.patiently(|| store.checkpoint_of(context.task(), context.epoch()));
                let saved = saved
                    .await?
                    .and_then(|saved| Saved::deserialize(saved).ok());
                let rows = saved.map_or(0, |saved| saved.rows);
                let mut after = named.load(Ordering::Relaxed);
                if rows < after {
                    // It was staged anew.
                    after = 0;
                }
                while rows - after >= NAMES {
                    context
                        .patiently(|| store.squad_names(run, after, after + NAMES))
                        .await?;
                    after += NAMES;
                    named.store(after, Ordering::Relaxed);
                }
            }
        };
        let staged = tokio::select! {
            biased;
            staged = staging => staged,
            lost = follow => {
                let lost: Result<Infallible, Stop> = lost;
                lost.map(|never| match never {}).map_err(Into::into)
            }
        };
        (staged, named.into_inner())
    }

    /// Makes the names of many tests known after the first `named` rows, in steps, so that the transaction that shows them stays short.
    pub(super) async fn names(
        &self,
        context: &Context,
        progress: &Progress,
        named: i64,
    ) -> anyhow::Result<()> {
        /// Steps under way at once: PostgreSQL does each on one processor.
        const BESIDE: usize = 2;
        let (run, rows, store) = (progress.run, progress.rows(), context.store());
        let mut after = if named <= rows { named } else { 0 };
        let ahead = std::iter::from_fn(|| {
            let step = after;
            after += NAMES;
            (rows > NAMES && step < rows).then_some(Ok::<i64, Stop>(step))
        });
        let write = |after| async move {
            context
                .patiently(|| store.squad_names(run, after, after + NAMES))
                .await?;
            // Who has lost the task goes no further, and whoever watches sees that it moves.
            context.write(Vec::new()).await
        };
        stream::iter(ahead)
            .try_for_each_concurrent(BESIDE, write)
            .await?;
        Ok(())
    }

    fn begin(&self, run: Run, name: &str) -> anyhow::Result<Writing> {
        let path = format!("testrun/{}/{name}", run.testrun);
        Ok(self.storage.begin(&path, UNTYPED)?)
    }

    /// Writes a file that names all results of a kind with what they are, none if the test job did not complete: one
    /// JSON object.
    async fn listing(
        &self,
        context: &Context,
        rows: &Rows,
        run: Run,
        kind: Kind,
        completed: bool,
    ) -> anyhow::Result<Writing> {
        let mut writing = self.begin(run, kind.file())?;
        let (mut after, mut sign) = (0, "{");
        let mut more = completed;
        while more {
            let page = kind.page(context, rows, run, after).await?;
            more = i64::try_from(page.len()).is_ok_and(|rows| rows == STAGED_PAGE);
            after = page.last().map_or(after, |last| last.seq);
            for Entry { name, value, .. } in page {
                let line = format!("{sign}{}: {value}", Value::from(name));
                writing.write(line.as_bytes()).await?;
                sign = ", ";
            }
        }
        let end: &[u8] = if sign == "{" { b"{}" } else { b"}" };
        writing.write(end).await?;
        Ok(writing)
    }

    /// Writes the other files of a run as attachments; the statement that says so goes with the publishing command.
    pub(super) async fn attachments(
        &self,
        context: &Context,
        run: i64,
        mut files: Vec<FileView>,
    ) -> anyhow::Result<Option<Op>> {
        files.retain(|file| is_attachment(&file.name));
        if files.is_empty() {
            return Ok(None);
        }
        let store = context.store();
        let seqs = files.iter().map(|file| file.seq).collect::<Vec<_>>();
        let places = context
            .patiently(|| store.squad_files(context.task(), context.epoch(), run, &seqs))
            .await?;
        let mut lengths = Vec::new();
        for (seq, path) in places {
            let Some(file) = files.iter().find(|file| file.seq == seq) else {
                continue;
            };
            let mut writing = self.storage.begin(&path, &file.mimetype)?;
            copy(context, &Rows::Stored, file, &mut writing, false).await?;
            lengths.push((seq, writing.end().await?));
        }
        Ok(Some(store.squad_stored(run, &lengths)?))
    }
}

/// Whether a staged file becomes an attachment.
pub(super) fn is_attachment(name: &str) -> bool {
    name != LOG && name != DEFINITION
}

/// The files that a run has staged.
pub(super) async fn staged_files(context: &Context, run: i64) -> Result<Vec<FileView>, Stop> {
    let store = context.store();
    context.patiently(|| store.staged_files(run)).await
}

/// Copies a staged file; a text of SQUAD's holds no NUL.
async fn copy(
    context: &Context,
    rows: &Rows,
    file: &FileView,
    to: &mut Writing,
    is_text: bool,
) -> anyhow::Result<()> {
    let mut after = 0;
    loop {
        let pieces = rows.pieces(context, file, after).await?;
        let Some((last, _)) = pieces.last() else {
            return Ok(());
        };
        after = *last;
        for (_, data) in &pieces {
            if is_text {
                for part in data.split(|byte| *byte == 0) {
                    to.write(part).await?;
                }
            } else {
                to.write(data).await?;
            }
        }
    }
}

/// A test's or metric's name as SQUAD writes it in one piece.
fn full_name(suite: &str, name: &str) -> String {
    if suite == "/" {
        name.to_owned()
    } else {
        format!("{suite}/{name}")
    }
}

/// The metadata as SQUAD keeps it: the backend's facts, and what SQUAD itself says of the test job.
pub(super) fn metadata(
    facts: Vec<(String, String)>,
    job_id: &str,
    status: &str,
    url: Option<&str>,
) -> (Map<String, Value>, [Option<String>; 2]) {
    let mut metadata = Map::new();
    let mut times = [None, None];
    for (key, value) in facts {
        let value: Value = serde_json::from_str(&value).unwrap_or(Value::Null);
        match key.as_str() {
            "start_time" => times[0] = value.as_str().and_then(moment),
            "end_time" => times[1] = value.as_str().and_then(moment),
            key if OURS.contains(&key) => {}
            _ => {
                metadata.insert(key, value);
            }
        }
    }
    metadata.insert("job_id".into(), job_id.into());
    metadata.insert("job_status".into(), status.into());
    if let Some(url) = url {
        metadata.insert("job_url".into(), url.into());
    }
    (metadata, times)
}

/// A time that PostgreSQL reads without doubt: ISO 8601, or XML-RPC's form of it.
fn moment(text: &str) -> Option<String> {
    let is_time = text.len() >= 17
        && text.len() <= 40
        && text
            .bytes()
            .all(|byte| byte.is_ascii_digit() || b"-:T. +Z".contains(&byte))
        && text
            .get(..4)
            .is_some_and(|year| year.bytes().all(|byte| byte.is_ascii_digit()));
    is_time.then(|| text.to_owned())
}

/// A value as Python's `str()` shows it: the form in which SQUAD keeps LAVA's error metadata.
pub(super) fn python(value: &Value) -> String {
    match value {
        Value::Null => "None".to_owned(),
        Value::Bool(true) => "True".to_owned(),
        Value::Bool(false) => "False".to_owned(),
        Value::Number(number) => number.to_string(),
        Value::String(text) => quoted(text),
        Value::Array(items) => {
            let items = items.iter().map(python).collect::<Vec<_>>();
            format!("[{}]", items.join(", "))
        }
        Value::Object(entries) => {
            let entries = entries
                .iter()
                .map(|(key, value)| format!("{}: {}", quoted(key), python(value)))
                .collect::<Vec<_>>();
            format!("{{{}}}", entries.join(", "))
        }
    }
}

/// A text as Python's `repr()` shows it.
fn quoted(text: &str) -> String {
    let quote = if text.contains('\'') && !text.contains('"') {
        '"'
    } else {
        '\''
    };
    let mut out = String::from(quote);
    for sign in text.chars() {
        match sign {
            '\\' => out.push_str("\\\\"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            sign if sign == quote => {
                out.push('\\');
                out.push(sign);
            }
            sign if sign.is_control() => out.push_str(&format!("\\x{:02x}", u32::from(sign))),
            sign => out.push(sign),
        }
    }
    out.push(quote);
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn error_metadata_looks_as_in_python() {
        let value = json!({"error_msg": "it's \"gone\"", "n": 1, "ok": null, "list": [true, 'a'], "plain": "it's"});
        assert_eq!(
            python(&value),
            r#"{'error_msg': 'it\'s "gone"', 'n': 1, 'ok': None, 'list': [True, 'a'], 'plain': "it's"}"#
        );
    }

    #[test]
    fn our_own_facts_are_not_shown_and_squads_are() {
        let facts = vec![
            ("references".to_owned(), "{}".to_owned()),
            (
                "start_time".to_owned(),
                r#""2024-01-02T03:04:05Z""#.to_owned(),
            ),
            ("end_time".to_owned(), r#""yesterday""#.to_owned()),
            ("branch".to_owned(), r#""main""#.to_owned()),
        ];
        let (metadata, times) = metadata(facts, "7", "Complete", None);
        assert_eq!(
            Value::Object(metadata),
            json!({"branch": "main", "job_id": "7", "job_status": "Complete"})
        );
        assert_eq!(times, [Some("2024-01-02T03:04:05Z".to_owned()), None]);
    }
}
