//! The statements, one file each in `sql/`, written once for both databases.
//!
//! What differs is spelled with marks, replaced when a statement is first used:
//! `{rows a text, b bigint}` is the statement's first parameter, a JSON array of objects, as a table `i`
//! (`{rows:k …}`: as `k`); `{now}` is the second, the time; `$3` is a binary value; `{any}` uses the first
//! where a statement has no use for it; `{id}` and `{bytes}` are column types; a line that begins with
//! `--pg ` is for PostgreSQL only.

use std::collections::HashMap;
use std::sync::{Mutex, OnceLock, PoisonError};

/// Which database a statement is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(crate) enum Dialect {
    /// PostgreSQL 13 or later.
    Postgres,
    /// SQLite 3.38 or later.
    Sqlite,
}

/// A statement's name and text as written.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Sql {
    pub(crate) name: &'static str,
    pub(crate) text: &'static str,
}

/// Names the statement in `sql/<name>.sql`.
macro_rules! sql {
    ($name:literal) => {
        $crate::store::sql::Sql {
            name: $name,
            text: include_str!(concat!("sql/", $name, ".sql")),
        }
    };
}
pub(crate) use sql;

impl Sql {
    /// The text for `dialect`; made once per process.
    pub(crate) fn for_dialect(self, dialect: Dialect) -> &'static str {
        static MADE: OnceLock<Mutex<HashMap<(Dialect, &'static str), &'static str>>> =
            OnceLock::new();
        let mut made = MADE
            .get_or_init(Mutex::default)
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        made.entry((dialect, self.name))
            .or_insert_with(|| Box::leak(expand(self.text, dialect).into_boxed_str()))
    }
}

/// `text` with its marks replaced for `dialect`.
pub(crate) fn expand(text: &str, dialect: Dialect) -> String {
    let mut lines = String::with_capacity(text.len() * 2);
    for line in text.lines() {
        let line = match (line.trim_start().strip_prefix("--pg "), dialect) {
            (Some(rest), Dialect::Postgres) => rest,
            (None, _) if !line.trim_start().starts_with("--") => line,
            (Some(_), Dialect::Sqlite) | (None, _) => continue,
        };
        lines.push_str(line);
        lines.push('\n');
    }
    let mut out = String::with_capacity(lines.len() * 2);
    let mut rest = lines.as_str();
    while let Some((before, after)) = rest.split_once('{') {
        out.push_str(before);
        let Some((mark, tail)) = after.split_once('}') else {
            break;
        };
        out.push_str(&replace(mark, dialect));
        rest = tail;
    }
    out.push_str(rest);
    out
}

fn replace(mark: &str, dialect: Dialect) -> String {
    match (mark, dialect) {
        ("now", _) => "cast($2 as bigint)".into(),
        ("any", _) => "cast($1 as text) is not null".into(),
        ("id", Dialect::Postgres) => "bigint generated always as identity primary key".into(),
        ("id", Dialect::Sqlite) => "integer primary key autoincrement".into(),
        ("bytes", Dialect::Postgres) => "bytea".into(),
        ("bytes", Dialect::Sqlite) => "blob".into(),
        (other, _) => {
            let (head, columns) = other.split_once(' ').unwrap_or((other, ""));
            let alias = head.strip_prefix("rows:").unwrap_or("i");
            match dialect {
                // What is compared with itself is always so; PostgreSQL, which takes the array for 100 rows, believes it of one in 200.
                // For 100 rows it would rather go through the whole of a table that was small when it last looked than
                // find each by its index.
                Dialect::Postgres => {
                    let first = columns.split_whitespace().next().unwrap_or_default();
                    format!(
                        "(select * from jsonb_to_recordset(cast($1 as jsonb)) as rows({columns}) where {first} is not distinct from {first}) as {alias}"
                    )
                }
                Dialect::Sqlite => {
                    let columns = columns
                        .split(',')
                        .filter_map(|column| column.split_whitespace().next())
                        .map(|name| format!("value->>'{name}' as {name}"))
                        .collect::<Vec<_>>()
                        .join(", ");
                    format!("(select {columns} from json_each($1)) as {alias}")
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn marks_are_replaced_for_each_database() {
        let text =
            "-- why\nselect i.a from {rows a text, b bigint} where t > {now}\n  --pg for update";
        assert_eq!(
            expand(text, Dialect::Postgres),
            "select i.a from (select * from jsonb_to_recordset(cast($1 as jsonb)) as rows(a text, b bigint) where a is not distinct from a) as i where t > cast($2 as bigint)\nfor update\n",
        );
        assert_eq!(
            expand(text, Dialect::Sqlite),
            "select i.a from (select value->>'a' as a, value->>'b' as b from json_each($1)) as i where t > cast($2 as bigint)\n",
        );
    }
}
