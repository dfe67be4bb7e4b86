//! Migrations: append-only and numbered; the previous release still runs against the new schema.

use super::postgres::quoted;
use super::sql::{Dialect, expand};
use super::{Db, Store, StoreError};

/// The schema version that this program writes.
pub const VERSION: i64 = MIGRATIONS.len() as i64;

const MIGRATIONS: &[&str] = &[
    include_str!("migrations/0001_base.sql"),
    include_str!("migrations/0002_squad.sql"),
    include_str!("migrations/0003_lanes.sql"),
    include_str!("migrations/0004_gates.sql"),
    include_str!("migrations/0005_bundles.sql"),
    include_str!("migrations/0006_shown.sql"),
];

/// How the store's schema stands to this program's.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SchemaState {
    /// The same.
    Current,
    /// The store has none: run `longshore migrate`.
    Missing,
    /// The store's is older: run `longshore migrate`.
    Older(i64),
    /// The store's is newer: run a newer longshore.
    Newer(i64),
}

impl Store {
    /// Compares the store's schema with this program's.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn schema(&self) -> Result<SchemaState, StoreError> {
        let found = match &self.0.db {
            Db::Postgres(db) => db.version().await?,
            Db::Sqlite(db) => db.version().await?,
        };
        Ok(match found {
            None => SchemaState::Missing,
            Some(version) if version < VERSION => SchemaState::Older(version),
            Some(version) if version > VERSION => SchemaState::Newer(version),
            Some(_) => SchemaState::Current,
        })
    }

    /// Fails unless the schema is this program's.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] says what to do; else as any verb.
    pub async fn check_schema(&self) -> Result<(), StoreError> {
        match self.schema().await? {
            SchemaState::Current => Ok(()),
            SchemaState::Missing => Err(StoreError::Schema(
                "the store has no tables of longshore: run `longshore migrate`".into(),
            )),
            SchemaState::Older(found) => Err(StoreError::Schema(format!(
                "the store's schema is version {found}, this longshore needs {VERSION}: run `longshore migrate`"
            ))),
            SchemaState::Newer(found) => Err(StoreError::Schema(format!(
                "the store's schema is version {found}, this longshore knows only {VERSION}: run a newer longshore"
            ))),
        }
    }

    /// Brings the schema to this program's version; several at once do it once. Returns how many steps were made.
    ///
    /// # Errors
    ///
    /// [`StoreError::Schema`] if the schema is newer; else as any verb.
    pub async fn migrate(&self) -> Result<usize, StoreError> {
        let mut done = 0;
        let mut failed = None;
        loop {
            let at = match self.schema().await? {
                SchemaState::Current => return Ok(done),
                SchemaState::Missing => 0,
                SchemaState::Older(found) => usize::try_from(found).unwrap_or_default(),
                SchemaState::Newer(_) => return self.check_schema().await.map(|()| done),
            };
            // A step that failed and is still to be made was not made by somebody else meanwhile.
            if let Some((step, error)) = failed.take()
                && step == at
            {
                return Err(error);
            }
            let Some(text) = MIGRATIONS.get(at) else {
                return Ok(done);
            };
            let made = match &self.0.db {
                Db::Postgres(db) => {
                    db.script(&self.0.schema, &statements(at, text, Dialect::Postgres))
                        .await
                }
                Db::Sqlite(db) => db.script(&statements(at, text, Dialect::Sqlite)).await,
            };
            match made {
                Ok(()) => done += 1,
                Err(error) => failed = Some((at, error)),
            }
        }
    }

    /// Lets a PostgreSQL role read our tables and views, and nothing else.
    ///
    /// # Errors
    ///
    /// [`StoreError::Refused`] if there is no such role, or on SQLite.
    pub async fn grant_reader(&self, role: &str) -> Result<(), StoreError> {
        let Db::Postgres(db) = &self.0.db else {
            return Err(StoreError::Refused {
                reason: "SQLite has no roles: its readers open the file read-only".into(),
            });
        };
        let (schema, role) = (quoted(&self.0.schema), quoted(role));
        db.script(
            &self.0.schema,
            &[
                format!("grant usage on schema {schema} to {role}"),
                format!("grant select on all tables in schema {schema} to {role}"),
            ],
        )
        .await
    }
}

/// All that makes an empty database the current one.
#[cfg(test)]
pub(super) fn all(dialect: Dialect) -> Vec<String> {
    let texts = MIGRATIONS.iter().enumerate();
    texts
        .flat_map(|(at, text)| statements(at, text, dialect))
        .collect()
}

fn statements(at: usize, text: &str, dialect: Dialect) -> Vec<String> {
    let mut all = Vec::new();
    if at == 0 {
        all.push("create table schema_version (version bigint primary key)".to_owned());
    }
    all.extend(
        expand(text, dialect)
            .split(';')
            .map(str::trim)
            .filter(|s| !s.is_empty())
            .map(str::to_owned),
    );
    all.push(format!(
        "insert into schema_version (version) values ({})",
        at + 1
    ));
    all
}
