//! What a write is: a short list of statements that the store runs in one transaction of its own.
//!
//! A command holds values only. It cannot wait for anything, see a result before the next statement
//! runs, or keep a transaction open: the interface gives it none.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use super::StoreError;
use super::sql::Sql;

/// A row as the store answers it.
pub(crate) type Row = Map<String, Value>;

/// What must be true of a statement's answer, or the whole command is undone as [`StoreError::Stale`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Guard {
    /// Anything goes.
    Free,
    /// At least one row.
    Some,
    /// So many rows.
    All(usize),
}

impl Guard {
    /// Whether an answer of `rows` rows will do.
    pub(crate) fn holds(self, rows: usize) -> bool {
        match self {
            Self::Free => true,
            Self::Some => rows > 0,
            Self::All(wanted) => rows == wanted,
        }
    }
}

/// One statement of a command with its values.
#[derive(Debug, Clone)]
pub struct Op {
    pub(crate) sql: Sql,
    pub(crate) rows: String,
    pub(crate) guard: Guard,
    pub(crate) bytes: Option<Bytes>,
    pub(crate) columns: Option<Arc<Columns>>,
    /// Whether a command with it may take minutes.
    pub(crate) slow: bool,
    /// How many rows it has.
    pub(super) count: usize,
    /// Whether a command with it shares its commit with no other.
    pub(super) alone: bool,
    /// Whether it is left out if it has none.
    pub(super) optional: bool,
}

/// Rows for PostgreSQL as one parameter for each column.
#[derive(Debug, Clone)]
pub(crate) enum Columns {
    /// Of `stage_columns`.
    Tests(Tests),
    /// Of `stage_pieces`.
    Pieces(Pieces),
}

/// Many tests: about as fast as COPY, and one message each way. Of COPY the last data and its end are two, and sqlx has the second
/// wait until the server's TCP has acknowledged the first: 40 ms a time.
#[derive(Debug, Clone, Default)]
pub(crate) struct Tests {
    pub(crate) run: Vec<i64>,
    pub(crate) seq: Vec<i64>,
    /// Suite, name, result.
    pub(crate) texts: [Vec<String>; 3],
    pub(crate) log: Vec<Option<String>>,
}

/// Pieces of files.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pieces {
    pub(crate) run: Vec<i64>,
    pub(crate) file: Vec<i64>,
    pub(crate) seq: Vec<i64>,
    pub(crate) data: Vec<Bytes>,
}

impl Tests {
    pub(crate) fn push(&mut self, run: i64, seq: i64, texts: [&str; 3], log: Option<&str>) {
        self.run.push(run);
        self.seq.push(seq);
        for (column, text) in self.texts.iter_mut().zip(texts) {
            column.push(text.to_owned());
        }
        self.log.push(log.map(ToOwned::to_owned));
    }
}

impl Pieces {
    pub(crate) fn push(&mut self, run: i64, file: i64, seq: i64, data: Bytes) {
        self.run.push(run);
        self.file.push(file);
        self.seq.push(seq);
        self.data.push(data);
    }
}

impl Columns {
    /// Adds the rows of `other`, which are for the same statement.
    fn append(&mut self, other: &Self) {
        match (self, other) {
            (Self::Tests(to), Self::Tests(from)) => {
                to.run.extend_from_slice(&from.run);
                to.seq.extend_from_slice(&from.seq);
                for (to, from) in to.texts.iter_mut().zip(&from.texts) {
                    to.extend_from_slice(from);
                }
                to.log.extend_from_slice(&from.log);
            }
            (Self::Pieces(to), Self::Pieces(from)) => {
                to.run.extend_from_slice(&from.run);
                to.file.extend_from_slice(&from.file);
                to.seq.extend_from_slice(&from.seq);
                to.data.extend_from_slice(&from.data);
            }
            (Self::Tests(_), Self::Pieces(_)) | (Self::Pieces(_), Self::Tests(_)) => {}
        }
    }

    fn rows(&self) -> usize {
        match self {
            Self::Tests(tests) => tests.seq.len(),
            Self::Pieces(pieces) => pieces.seq.len(),
        }
    }

    fn bytes(&self) -> usize {
        match self {
            Self::Tests(tests) => {
                let texts = tests
                    .texts
                    .iter()
                    .flatten()
                    .chain(tests.log.iter().flatten());
                texts.map(String::len).sum()
            }
            Self::Pieces(pieces) => pieces.data.iter().map(Bytes::len).sum(),
        }
    }
}

impl Op {
    /// `sql` over `rows`.
    pub(crate) fn new<T: Serialize>(sql: Sql, rows: &[T]) -> Result<Self, StoreError> {
        let count = rows.len();
        let rows = serde_json::to_string(rows).map_err(|error| StoreError::Value {
            command: sql.name,
            reason: error.to_string(),
        })?;
        let rows = without_nul(rows);
        Ok(Self {
            sql,
            rows,
            guard: Guard::Free,
            bytes: None,
            columns: None,
            slow: false,
            count,
            alone: false,
            optional: false,
        })
    }

    /// `sql` over rows in columns.
    pub(crate) fn of_columns(sql: Sql, columns: Columns) -> Result<Self, StoreError> {
        let mut op = Self::new::<Value>(sql, &[])?;
        op.count = columns.rows();
        op.columns = Some(Arc::new(columns));
        Ok(op)
    }

    /// `sql` over one row.
    pub(crate) fn one<T: Serialize>(sql: Sql, row: &T) -> Result<Self, StoreError> {
        Self::new(sql, std::slice::from_ref(row))
    }

    /// The same, and the command is undone if it answers no row.
    pub(crate) fn guarded(mut self) -> Self {
        self.guard = Guard::Some;
        self
    }

    /// The same, and the command is undone unless it answers `rows` rows.
    pub(crate) fn guarded_all(mut self, rows: usize) -> Self {
        self.guard = Guard::All(rows);
        self
    }

    /// Whether it only adds rows, each for itself: such ones of several tasks may be one statement, in any order.
    pub fn is_joinable(&self) -> bool {
        let adds = matches!(
            self.sql.name,
            "post" | "ring_ended" | "celery/meta" | "celery/meta_extended" | "celery/django"
        );
        adds && self.guard == Guard::Free && self.bytes.is_none() && self.columns.is_none()
    }

    /// Joinable statements with as few of them as there are kinds.
    pub(crate) fn joined(ops: Vec<Self>) -> Vec<Self> {
        let mut all: Vec<Self> = Vec::new();
        for op in ops {
            match all.iter_mut().find(|one| one.sql.name == op.sql.name) {
                Some(one) => one.append(&op),
                None => all.push(op),
            }
        }
        all
    }

    /// Its rows, which are a list in JSON, and those of `other`, which is of the same statement.
    pub(super) fn append(&mut self, other: &Self) {
        self.count += other.count;
        if let (Some(columns), Some(more)) = (&mut self.columns, &other.columns) {
            Arc::make_mut(columns).append(more);
        }
        let more = other.rows.strip_prefix('[').unwrap_or_default();
        if more == "]" {
            return;
        }
        self.rows.pop();
        if self.rows.len() > 1 {
            self.rows.push(',');
        }
        self.rows.push_str(more);
    }

    /// The same; a command with it may take minutes.
    pub(crate) fn slow(mut self) -> Self {
        self.slow = true;
        self
    }

    /// The same; a command with it shares its commit with no other.
    pub(crate) fn alone(mut self) -> Self {
        self.alone = true;
        self
    }

    /// The same; left out if it has no rows (of PostgreSQL's commands), so that those with and without rows are of one shape.
    pub(crate) fn if_any(mut self) -> Self {
        self.optional = true;
        self
    }

    /// About how much its values take.
    pub(super) fn weight(&self) -> usize {
        self.rows.len() + self.columns.as_ref().map_or(0, |columns| columns.bytes())
    }

    /// Whether its answer is rows of the outbox, to be published.
    pub(crate) fn announces(&self) -> bool {
        matches!(
            self.sql.name,
            "ring" | "ring_new" | "post" | "squad/post" | "celery/chord_end" | "lanes/ring"
        )
    }

    /// The same with a binary value as `$3`.
    pub(crate) fn with_bytes(mut self, bytes: Bytes) -> Self {
        self.bytes = Some(bytes);
        self
    }
}

/// PostgreSQL's text holds no NUL; U+FFFD stands for it. JSON writes it as `\\u0000`, and a backslash as two.
fn without_nul(json: String) -> String {
    const NUL: &str = "\\u0000";
    if !json.contains(NUL) {
        return json;
    }
    let mut out = String::with_capacity(json.len());
    let mut rest = json.as_str();
    while let Some(at) = rest.find('\\') {
        let (before, from) = rest.split_at(at);
        out.push_str(before);
        let (escape, after) = match from.strip_prefix(NUL) {
            Some(after) => ("\u{fffd}", after),
            // A backslash and what it escapes, which is one byte.
            None => from.split_at(from.len().min(2)),
        };
        out.push_str(escape);
        rest = after;
    }
    out.push_str(rest);
    out
}

/// The rows of one statement as values of `T`.
pub(crate) fn typed<T: DeserializeOwned>(rows: Vec<Row>) -> Result<Vec<T>, StoreError> {
    rows.into_iter()
        .map(|row| {
            serde_json::from_value(Value::Object(row)).map_err(|error| StoreError::Value {
                command: "read",
                reason: error.to_string(),
            })
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nul_is_replaced_and_a_written_out_escape_is_not() {
        let json = serde_json::to_string(&["a\0b", r"a\u0000b", "\\\0", "\n"]).unwrap();
        let back: Vec<String> = serde_json::from_str(&without_nul(json)).unwrap();
        assert_eq!(back, ["a\u{fffd}b", r"a\u0000b", "\\\u{fffd}", "\n"]);
    }
}
