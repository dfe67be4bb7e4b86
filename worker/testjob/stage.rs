//! Items on their way into a run: normalised, counted, written in chunks with the checkpoint that says so.
//!
//! A run that was interrupted goes on: its source is read from the beginning again, and what is there
//! already is skipped, if it is the same. "The same" is a running hash over all items: a source that says
//! something else the second time is staged anew from its beginning, never mixed.
//!
//! Nothing here is visible to readers, and no chunk is kept in memory once it is written.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use serde::{Deserialize, Serialize};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio::time::Instant;

use super::item::{DATA_CHUNK, Item, MAX_TEXT, Metric, Sink, Test, TestResult};
use crate::crash;
use crate::handler::{Context, Stop};
use crate::store::{Op, RunCounts, StagedRow, Store, StoreError};

/// The longest suite, test or metric name, in characters; SQUAD's limit. Longer ones are cut and marked.
pub const MAX_NAME: usize = 256;
/// What stands at the end of a name that was cut.
const MARKER: &str = "…";
/// Rows of one chunk: enough that the commit is a small part of it.
const CHUNK_ROWS: usize = 10_000;
/// Bytes of one chunk: what an attempt holds in memory, twice over.
const CHUNK_BYTES: usize = 4 * 1024 * 1024;
/// Items between the source and the store, and as many taken at once: each may be [`DATA_CHUNK`] or more.
const IN_FLIGHT: usize = 64;

/// Where a run is, and how far.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Progress {
    /// The run.
    pub run: i64,
    /// Its test job.
    pub testjob: i64,
    /// Its generation.
    pub generation: i64,
    /// Items that are staged.
    items: u64,
    /// A hash over all of them.
    hash: u64,
    /// Rows that are staged, and the number of the last one.
    rows: i64,
    /// The file that data belongs to.
    file: Option<i64>,
    /// What was counted.
    counts: RunCounts,
    cut_names: u64,
    replaced: u64,
    /// Rows of an earlier beginning may still be there, and go before the first of this one.
    #[serde(default)]
    unclean: bool,
}

impl Progress {
    /// The beginning of a run.
    pub fn new(run: i64, testjob: i64, generation: i64) -> Self {
        Self {
            run,
            testjob,
            generation,
            items: 0,
            hash: Hash::START,
            rows: 0,
            file: None,
            counts: RunCounts::default(),
            cut_names: 0,
            replaced: 0,
            unclean: false,
        }
    }

    /// The beginning of a run that may hold rows of somebody who gave up.
    pub fn over(run: i64, testjob: i64, generation: i64) -> Self {
        Self {
            unclean: true,
            ..Self::new(run, testjob, generation)
        }
    }

    /// How many rows are staged.
    pub fn rows(&self) -> i64 {
        self.rows
    }

    /// Removes what an earlier beginning left, a bounded piece in each transaction.
    async fn clean(&mut self, context: &Context) -> Result<(), Stop> {
        if !self.unclean {
            return Ok(());
        }
        context.save(self).await?;
        let store = context.store();
        loop {
            let left = context
                .patiently(|| store.clear(context.task(), context.epoch(), self.run))
                .await?;
            if left == 0 {
                break;
            }
        }
        self.unclean = false;
        context.save(self).await
    }
}

/// Rows of a run that are not written yet: the last ones, or all of a small one.
#[derive(Debug)]
pub struct Rest {
    run: i64,
    /// The first one's number.
    from: i64,
    rows: Vec<StagedRow>,
}

impl Rest {
    /// What writes them.
    ///
    /// # Errors
    ///
    /// A row cannot be written as JSON.
    pub fn ops(&self, store: &Store) -> Result<Vec<Op>, StoreError> {
        store.stage(self.run, self.from, &self.rows)
    }

    /// Whether these are all rows of the run, and few.
    pub fn is_all_and_few(&self) -> bool {
        /// More are better read again than kept in memory.
        const FEW: (usize, usize) = (1000, 256 * 1024);
        let bytes: usize = self.rows.iter().map(size).sum();
        self.from == 1 && self.rows.len() <= FEW.0 && bytes <= FEW.1
    }

    /// The rows with their numbers.
    pub fn numbered(&self) -> impl Iterator<Item = (i64, &StagedRow)> {
        (self.from..).zip(&self.rows)
    }
}

/// How staging ended.
#[derive(Debug)]
pub enum Staged<T> {
    /// The source ended with this; what is left to write goes with the publishing command.
    All {
        /// What the source returned.
        answer: T,
        /// The last rows.
        rest: Rest,
        /// The run's counts.
        counts: RunCounts,
        /// The checkpoint that goes with `rest`, for whoever writes it before publishing.
        progress: Box<Progress>,
    },
    /// The worker drains: what was read is saved.
    HandOff,
}

/// Stages what `source` sends, going on after `progress`.
///
/// # Errors
///
/// What the source returned, or [`Stop`].
pub async fn stage<T, E, F>(
    context: &Context,
    progress: Progress,
    every: Duration,
    limit: u64,
    source: impl Fn(Sink) -> F,
) -> Result<Staged<T>, anyhow::Error>
where
    E: Into<anyhow::Error>,
    F: Future<Output = Result<T, E>>,
{
    let mut progress = progress;
    loop {
        progress.clean(context).await?;
        let (sink, items) = mpsc::channel(IN_FLIGHT);
        let stager = Stager::new(context.clone(), progress.clone(), every, limit);
        let (mut source, mut answer) = (std::pin::pin!(source(sink)), None);
        let mut staging = std::pin::pin!(stager.run(items));
        let staged = loop {
            tokio::select! {
                biased;
                end = &mut source, if answer.is_none() => answer = Some(end),
                staged = &mut staging => break staged?,
            }
        };
        // A source that is not at its end is dropped in every case but the first.
        match staged {
            End::All(mut stager) => {
                let answer = match answer {
                    Some(answer) => answer,
                    None => source.await,
                }
                .map_err(Into::into)?;
                if stager.skipping() {
                    progress = stager.anew();
                    continue;
                }
                let rest = stager.finish();
                return Ok(Staged::All {
                    answer,
                    rest,
                    counts: stager.progress.counts,
                    progress: Box::new(stager.progress),
                });
            }
            End::HandOff => return Ok(Staged::HandOff),
            End::Changed(stager) => progress = stager.anew(),
            End::TooMany => anyhow::bail!(crate::handler::Fatal(format!(
                "more than {limit} results: raise limits.results if they can be trusted"
            ))),
        }
    }
}

enum End {
    /// The source sent everything.
    All(Stager),
    HandOff,
    /// The source repeats itself differently.
    Changed(Stager),
    TooMany,
}

struct Stager {
    context: Context,
    /// What is durable, and what the next checkpoint will say.
    progress: Progress,
    /// Items still to be skipped, and the hash over those skipped.
    seen: u64,
    seen_hash: Hash,
    saved: u64,
    saved_hash: u64,
    /// What was skipped is not what is there.
    changed: bool,
    rows: Vec<StagedRow>,
    bytes: usize,
    data: BytesMut,
    last_save: Instant,
    every: Duration,
    limit: u64,
}

impl Stager {
    fn new(context: Context, progress: Progress, every: Duration, limit: u64) -> Self {
        Self {
            context,
            seen: 0,
            seen_hash: Hash(Hash::START),
            saved: progress.items,
            saved_hash: progress.hash,
            changed: false,
            progress,
            rows: Vec::new(),
            bytes: 0,
            data: BytesMut::new(),
            last_save: Instant::now(),
            every,
            limit,
        }
    }

    fn skipping(&self) -> bool {
        self.seen < self.saved
    }

    async fn run(mut self, mut items: mpsc::Receiver<Item>) -> Result<End, Stop> {
        let mut batch = Vec::with_capacity(IN_FLIGHT);
        loop {
            let context = self.context.clone();
            let count = tokio::select! {
                biased;
                // With the source at its end, publishing is the faster way out.
                () = context.draining(), if !items.is_closed() => {
                    self.save().await?;
                    return Ok(End::HandOff);
                }
                count = items.recv_many(&mut batch, IN_FLIGHT) => count,
            };
            if count == 0 {
                self.end_data();
                return Ok(if self.changed {
                    End::Changed(self)
                } else {
                    End::All(self)
                });
            }
            for item in batch.drain(..) {
                self.take(item);
                if self.changed {
                    return Ok(End::Changed(self));
                }
                if self.rows.len() >= CHUNK_ROWS || self.bytes >= CHUNK_BYTES {
                    self.save().await?;
                }
            }
            if self.progress.items > self.limit {
                return Ok(End::TooMany);
            }
            if self.last_save.elapsed() >= self.every {
                self.save().await?;
            }
        }
    }

    /// Data is cut anew, so that the same file is the same items whatever the network did.
    fn take(&mut self, item: Item) {
        match item {
            Item::Data(data) => {
                self.data.extend_from_slice(&data);
                while self.data.len() >= DATA_CHUNK {
                    let piece = self.data.split_to(DATA_CHUNK).freeze();
                    self.keep(Item::Data(piece));
                }
            }
            Item::File { .. } => {
                self.end_data();
                self.keep(item);
            }
            Item::Test(_) | Item::Metric(_) | Item::Metadata(..) | Item::Problem(_) => {
                self.keep(item)
            }
        }
    }

    fn end_data(&mut self) {
        if !self.data.is_empty() {
            let piece = self.data.split().freeze();
            self.keep(Item::Data(piece));
        }
    }

    fn keep(&mut self, item: Item) {
        if self.skipping() {
            self.seen += 1;
            self.seen_hash.item(&item);
            self.changed = !self.skipping() && self.seen_hash.0 != self.saved_hash;
            return;
        }
        self.progress.items += 1;
        let mut hash = Hash(self.progress.hash);
        hash.item(&item);
        self.progress.hash = hash.0;
        let row = self.row(item);
        self.bytes += size(&row);
        self.rows.push(row);
        self.progress.rows += 1;
    }

    fn row(&mut self, item: Item) -> StagedRow {
        match item {
            Item::Test(Test {
                suite,
                name,
                result,
                log,
            }) => {
                let counts = &mut self.progress.counts;
                counts.tests += 1;
                let (word, counter) = match result {
                    TestResult::Pass => ("pass", &mut counts.passed),
                    TestResult::Fail => ("fail", &mut counts.failed),
                    TestResult::Xfail => ("xfail", &mut counts.xfailed),
                    TestResult::Skip => ("skip", &mut counts.skipped),
                };
                *counter += 1;
                let log = log.map(|log| self.text(log));
                StagedRow::Test {
                    suite: self.name(suite),
                    name: self.name(name),
                    result: word,
                    log,
                }
            }
            Item::Metric(Metric {
                suite,
                name,
                value,
                unit,
                measurements,
            }) => {
                self.progress.counts.metrics += 1;
                StagedRow::Metric {
                    suite: self.name(suite),
                    name: self.name(name),
                    value,
                    unit: self.text(unit),
                    measurements,
                }
            }
            Item::Metadata(key, value) => StagedRow::Fact {
                kind: "metadata",
                key: self.text(key),
                value: self.json(value),
            },
            Item::Problem(text) => {
                self.progress.counts.problems += 1;
                StagedRow::Fact {
                    kind: "problem",
                    key: String::new(),
                    value: self.text(text),
                }
            }
            Item::File { name, mimetype } => {
                self.progress.file = Some(self.progress.rows + 1);
                StagedRow::File {
                    name: self.name(name),
                    mimetype: self.text(mimetype),
                }
            }
            Item::Data(data) => StagedRow::Data {
                file: self.progress.file.unwrap_or_default(),
                data,
            },
        }
    }

    fn name(&mut self, name: String) -> String {
        let name = self.text(name);
        if name.len() <= MAX_NAME || name.chars().nth(MAX_NAME).is_none() {
            return name;
        }
        self.progress.cut_names += 1;
        name.chars()
            .take(MAX_NAME - 1)
            .chain(MARKER.chars())
            .collect()
    }

    /// PostgreSQL's text holds no NUL.
    fn text(&mut self, text: String) -> String {
        if !text.contains('\0') {
            return text;
        }
        self.progress.replaced += 1;
        text.replace('\0', "\u{fffd}")
    }

    /// Nor does its jsonb.
    fn json(&mut self, value: Value) -> String {
        let text = value.to_string();
        if !text.contains("\\u0000") {
            return text;
        }
        self.progress.replaced += 1;
        without_nul(value).to_string()
    }

    async fn save(&mut self) -> Result<(), Stop> {
        self.last_save = Instant::now();
        if self.rows.is_empty() {
            return Ok(());
        }
        let ops = self.rest().ops(self.context.store());
        let ops = ops.map_err(Stop::Store)?;
        self.context.set_progress(format!(
            "{} tests, {} rows staged",
            self.progress.counts.tests, self.progress.rows
        ));
        crash::point("stage:before");
        self.context.save_with(&self.progress, ops).await?;
        crash::point("stage:after");
        Ok(())
    }

    /// The rows that are not written yet.
    fn rest(&mut self) -> Rest {
        let rows = std::mem::take(&mut self.rows);
        self.bytes = 0;
        let from = self.progress.rows - i64::try_from(rows.len()).unwrap_or(0) + 1;
        Rest {
            run: self.progress.run,
            from,
            rows,
        }
    }

    /// The last rows, and the summary of what could not be kept as it was.
    fn finish(&mut self) -> Rest {
        for (count, what) in [
            (
                std::mem::take(&mut self.progress.cut_names),
                format!("names longer than {MAX_NAME} characters were cut"),
            ),
            (
                std::mem::take(&mut self.progress.replaced),
                "texts had NUL characters, which were replaced".to_owned(),
            ),
        ] {
            if count > 0 {
                self.progress.counts.problems += i64::try_from(count).unwrap_or(i64::MAX);
                self.rows.push(StagedRow::Fact {
                    kind: "problem",
                    key: String::new(),
                    value: format!("{count} {what}"),
                });
                self.progress.rows += 1;
            }
        }
        self.rest()
    }

    /// The beginning again: the source said something else.
    fn anew(&self) -> Progress {
        let Progress {
            run,
            testjob,
            generation,
            ..
        } = self.progress;
        tracing::warn!(
            run,
            "the source did not repeat itself; its results are staged anew"
        );
        Progress::over(run, testjob, generation)
    }
}

fn size(row: &StagedRow) -> usize {
    match row {
        StagedRow::Test {
            suite, name, log, ..
        } => suite.len() + name.len() + log.as_ref().map_or(0, String::len) + 64,
        StagedRow::Metric { suite, name, .. } => suite.len() + name.len() + 64,
        StagedRow::Fact { key, value, .. } => key.len() + value.len() + 32,
        StagedRow::File { name, mimetype } => name.len() + mimetype.len() + 32,
        StagedRow::Data { data, .. } => data.len(),
    }
}

/// FNV-1a over eight bytes at a time: its whole state is one number, which a checkpoint can hold.
struct Hash(u64);

impl Hash {
    const START: u64 = 0xcbf2_9ce4_8422_2325;

    fn bytes(&mut self, bytes: &[u8]) {
        let (words, rest) = bytes.as_chunks::<8>();
        for word in words {
            self.word(u64::from_le_bytes(*word));
        }
        let mut last = [0; 8];
        for (to, from) in last.iter_mut().zip(rest) {
            *to = *from;
        }
        self.word(u64::from_le_bytes(last));
        self.word(bytes.len() as u64);
    }

    fn word(&mut self, word: u64) {
        self.0 = (self.0 ^ word)
            .wrapping_mul(0x0000_0100_0000_01b3)
            .rotate_left(29);
    }

    fn item(&mut self, item: &Item) {
        match item {
            Item::Test(Test {
                suite,
                name,
                result,
                log,
            }) => {
                self.word(1 + *result as u64);
                self.bytes(suite.as_bytes());
                self.bytes(name.as_bytes());
                self.bytes(log.as_deref().unwrap_or_default().as_bytes());
            }
            Item::Metric(Metric {
                suite,
                name,
                value,
                unit,
                ..
            }) => {
                self.word(value.to_bits());
                self.bytes(suite.as_bytes());
                self.bytes(name.as_bytes());
                self.bytes(unit.as_bytes());
            }
            Item::Metadata(key, value) => {
                self.bytes(key.as_bytes());
                self.bytes(value.to_string().as_bytes());
            }
            Item::File { name, mimetype } => {
                self.bytes(name.as_bytes());
                self.bytes(mimetype.as_bytes());
            }
            Item::Data(data) => self.bytes(data),
            Item::Problem(text) => self.bytes(text.as_bytes()),
        }
    }
}

fn without_nul(value: Value) -> Value {
    let clean = |text: String| text.replace('\0', "\u{fffd}");
    match value {
        Value::String(text) => clean(text).into(),
        Value::Array(items) => items.into_iter().map(without_nul).collect(),
        Value::Object(entries) => entries
            .into_iter()
            .map(|(key, value)| (clean(key), without_nul(value)))
            .collect(),
        plain @ (Value::Null | Value::Bool(_) | Value::Number(_)) => plain,
    }
}

/// Sends items from a blocking thread: what synchronous readers emit into.
pub fn blocking(sink: &Sink) -> impl FnMut(Item) -> Result<(), super::format::Stopped> + use<> {
    let sink = sink.clone();
    move |item| sink.blocking_send(item).map_err(|_| super::format::Stopped)
}

/// Sends a reader's bytes as data items while they are read by somebody else. Each read but the last fills its
/// buffer: where items stand between the data then depends on the file alone, never on how it came.
pub struct Tee<'a, R: ?Sized> {
    /// What is read.
    pub inner: &'a mut R,
    /// Where its bytes go too.
    pub sink: Sink,
}

impl<R: std::io::Read + ?Sized> std::io::Read for Tee<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.inner.read(rest) {
                Ok(0) => break,
                Ok(count) => filled += count,
                Err(error) if error.kind() == std::io::ErrorKind::Interrupted => {}
                Err(error) => return Err(error),
            }
        }
        if let Some(read) = buffer.get(..filled).filter(|read| !read.is_empty()) {
            let data = Bytes::copy_from_slice(read);
            self.sink
                .blocking_send(Item::Data(data))
                .map_err(|_| std::io::Error::other(super::format::FormatError::Stopped))?;
        }
        Ok(filled)
    }
}

const _: () = assert!(CHUNK_BYTES >= MAX_TEXT, "one test fits a chunk");
