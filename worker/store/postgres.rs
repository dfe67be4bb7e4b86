//! PostgreSQL: a pool for commands, one for readers that cannot write, one connection for the liveness lock.

use std::str::FromStr;
use std::time::Duration;

use sqlx::postgres::{PgArguments, PgConnectOptions, PgPool, PgRow};
use sqlx::{Arguments, Column, Connection, Executor, PgConnection, Row as _, TypeInfo, ValueRef};
use tokio::sync::Mutex;

use super::command::{Columns, Guard, Op, Row};
use super::sql::{Dialect, Sql};
use super::{StoreConfig, StoreError, pool};
use crate::clock::Millis;

/// A free connection is waited for this long.
const ACQUIRE_TIMEOUT: Duration = Duration::from_secs(10);
/// A statement may take this long: bulk chunks take far less, so longer means trouble.
const STATEMENT_TIMEOUT: Duration = Duration::from_secs(20);
/// A lock may be waited for this long; commands hold theirs for milliseconds.
const LOCK_TIMEOUT: Duration = Duration::from_secs(5);
/// No command thinks inside a transaction; a connection that does is broken.
const IDLE_TIMEOUT: Duration = Duration::from_secs(3);
/// A server that has not answered by then is gone, whatever its connection says.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(30);
/// The same of a command that may take minutes.
const SLOW_TIMEOUT: Duration = Duration::from_secs(900);

/// So often a command begins that PostgreSQL undoes because it waits for another in a circle. Commands lock lanes, then tasks, each in
/// one order, but for some that begin with a task of their own: each circle lets one of the two through.
const CIRCLES: u32 = 5;

/// The two pools.
pub(crate) struct Postgres {
    commands: PgPool,
    readers: PgPool,
    lock: Mutex<Option<PgConnection>>,
    options: PgConnectOptions,
}

impl Postgres {
    pub(crate) fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let options = options(&config.url, config)?;
        let reader = match &config.reader_url {
            Some(url) => options_of(url)?,
            None => options.clone(),
        };
        let reader = session(reader, config)
            .application_name("longshore reader")
            .options([("default_transaction_read_only", "on")]);
        let pool = || pool(config.connections.max(2)).acquire_timeout(ACQUIRE_TIMEOUT);
        Ok(Self {
            commands: pool().connect_lazy_with(options.clone()),
            readers: pool().connect_lazy_with(reader),
            lock: Mutex::new(None),
            options: options.application_name("longshore liveness"),
        })
    }

    pub(crate) async fn run(&self, ops: &[Op], now: Millis) -> Result<Vec<Vec<Row>>, StoreError> {
        let mut connection = self.commands.acquire().await?;
        let patience = if ops.iter().any(|op| op.slow) {
            SLOW_TIMEOUT
        } else {
            ANSWER_TIMEOUT
        };
        for attempt in 1.. {
            match tokio::time::timeout(patience, run_on(&mut connection, ops, now)).await {
                // Nothing was written, and a command is values only: the same again is the same.
                Ok(Err(StoreError::Busy {
                    circle: true,
                    reason,
                })) if attempt < CIRCLES => {
                    tracing::debug!(%reason, attempt, "two commands waited for one another; this one begins again");
                }
                Ok(answer) => return answer,
                Err(_) => break,
            }
        }
        // Whatever it was doing, nobody will use it again.
        connection.close_on_drop();
        Err(silent())
    }

    pub(crate) async fn read(
        &self,
        sql: Sql,
        rows: &str,
        now: Millis,
    ) -> Result<Vec<Row>, StoreError> {
        let text = sql.for_dialect(Dialect::Postgres);
        let read =
            sqlx::query_with(text, arguments(text, rows, now, None)?).fetch_all(&self.readers);
        let found = tokio::time::timeout(ANSWER_TIMEOUT, read)
            .await
            .map_err(|_| silent())??;
        found.iter().map(decode).collect()
    }

    pub(crate) async fn read_bytes(
        &self,
        sql: Sql,
        rows: &str,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        let text = sql.for_dialect(Dialect::Postgres);
        let found = sqlx::query_with(text, arguments(text, rows, 0, None)?)
            .fetch_all(&self.readers)
            .await?;
        found
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    pub(crate) async fn now(&self) -> Result<Millis, StoreError> {
        let row =
            sqlx::query("select cast(extract(epoch from clock_timestamp()) * 1000 as bigint)")
                .fetch_one(&self.commands)
                .await?;
        Ok(row.try_get(0)?)
    }

    /// Runs a migration's statements in one transaction.
    pub(crate) async fn script(
        &self,
        schema: &str,
        statements: &[String],
    ) -> Result<(), StoreError> {
        let mut connection = self.commands.acquire().await?;
        let mut transaction = connection.begin().await?;
        let schema = quoted(schema);
        let row = sqlx::query("select to_regnamespace($1) is not null")
            .bind(&schema)
            .fetch_one(&mut *transaction)
            .await?;
        // PostgreSQL asks for the right to create one even where `if not exists` finds it; somebody else may have made ours.
        if !row.try_get::<bool, _>(0)? {
            let create = format!("create schema if not exists {schema}");
            transaction.execute(sqlx::AssertSqlSafe(create)).await?;
        }
        for statement in statements {
            transaction
                .execute(sqlx::AssertSqlSafe(statement.clone()))
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    /// The schema version in the database; `None`: no schema of ours.
    pub(crate) async fn version(&self) -> Result<Option<i64>, StoreError> {
        let row = sqlx::query("select to_regclass('schema_version') is not null")
            .fetch_one(&self.commands)
            .await?;
        if !row.try_get::<bool, _>(0)? {
            return Ok(None);
        }
        let row = sqlx::query("select max(version) from schema_version")
            .fetch_one(&self.commands)
            .await?;
        Ok(row.try_get(0)?)
    }

    /// Takes the session lock `key` on a connection of its own, anew if that connection has ended.
    pub(crate) async fn hold(&self, key: i64) -> Result<(), StoreError> {
        let mut slot = self.lock.lock().await;
        if let Some(connection) = slot.as_mut() {
            let answers = tokio::time::timeout(LOCK_TIMEOUT, connection.ping()).await;
            if matches!(answers, Ok(Ok(()))) {
                return Ok(());
            }
        }
        *slot = None;
        let mut connection = PgConnection::connect_with(&self.options).await?;
        let taken: bool = sqlx::query("select pg_try_advisory_lock($1)")
            .bind(key)
            .fetch_one(&mut connection)
            .await?
            .try_get(0)?;
        // Not taken: the server has not yet noticed that our last connection ended. The next renewal tries again.
        *slot = taken.then_some(connection);
        Ok(())
    }

    /// Gives the lock back.
    pub(crate) async fn let_go(&self) {
        if let Some(connection) = self.lock.lock().await.take()
            && let Err(error) = connection.close().await
        {
            tracing::debug!(%error, "the liveness connection ended before it was closed");
        }
    }

    /// Which of these locks somebody holds.
    pub(crate) async fn held(&self, keys: &[i64]) -> Result<Vec<i64>, StoreError> {
        let found = sqlx::query(
            "select (cast(classid as bigint) << 32) | cast(objid as bigint) from pg_locks \
             where locktype = 'advisory' and objsubid = 1 and granted \
             and database = (select oid from pg_database where datname = current_database())",
        )
        .fetch_all(&self.commands)
        .await?;
        let held = found
            .iter()
            .map(|row| row.try_get::<i64, _>(0))
            .collect::<Result<Vec<_>, _>>()?;
        Ok(keys
            .iter()
            .copied()
            .filter(|key| held.contains(key))
            .collect())
    }

    pub(crate) async fn close(&self) {
        self.let_go().await;
        self.commands.close().await;
        self.readers.close().await;
    }
}

fn options_of(url: &str) -> Result<PgConnectOptions, StoreError> {
    PgConnectOptions::from_str(url).map_err(|error| StoreError::Address {
        reason: error.to_string(),
    })
}

fn options(url: &str, config: &StoreConfig) -> Result<PgConnectOptions, StoreError> {
    Ok(session(options_of(url)?, config).application_name("longshore command"))
}

/// What every session is told: where the tables are, and how long anything may take.
fn session(mut options: PgConnectOptions, config: &StoreConfig) -> PgConnectOptions {
    if let Some(password) = &config.password {
        options = options.password(password);
    }
    options
        .options([
            ("search_path", quoted(&config.schema)),
            (
                "statement_timeout",
                STATEMENT_TIMEOUT.as_millis().to_string(),
            ),
            ("lock_timeout", LOCK_TIMEOUT.as_millis().to_string()),
            (
                "idle_in_transaction_session_timeout",
                IDLE_TIMEOUT.as_millis().to_string(),
            ),
            // Every statement of ours finds its rows by an index; a plan made while a table was small
            // must not scan it when it is large.
            ("enable_seqscan", "off".to_owned()),
            ("enable_hashjoin", "off".to_owned()),
            ("enable_mergejoin", "off".to_owned()),
            ("jit", "off".to_owned()),
        ])
        .statement_cache_capacity(200)
}

/// A schema's name as an identifier.
pub(super) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}

fn arguments(
    text: &str,
    rows: &str,
    now: Millis,
    bytes: Option<&[u8]>,
) -> Result<PgArguments, StoreError> {
    let mut arguments = PgArguments::default();
    let added = arguments
        .add(rows)
        .and_then(|()| {
            if text.contains("$2") || bytes.is_some() {
                arguments.add(now)
            } else {
                Ok(())
            }
        })
        .and_then(|()| bytes.map_or(Ok(()), |bytes| arguments.add(bytes)));
    added.map_err(|error| StoreError::Value {
        command: "arguments",
        reason: error.to_string(),
    })?;
    Ok(arguments)
}

fn silent() -> StoreError {
    StoreError::Away {
        reason: format!("no answer within {} s", ANSWER_TIMEOUT.as_secs()),
    }
}

async fn run_on(
    connection: &mut PgConnection,
    ops: &[Op],
    now: Millis,
) -> Result<Vec<Vec<Row>>, StoreError> {
    if let [op] = ops
        && !matches!(op.guard, Guard::All(_))
    {
        let rows = execute(connection, op, now).await?;
        return match op.guard {
            // One statement that found nothing has written nothing.
            Guard::Some if rows.is_empty() => Err(StoreError::Stale {
                command: op.sql.name,
            }),
            Guard::Some | Guard::Free | Guard::All(_) => Ok(vec![rows]),
        };
    }
    let mut transaction = connection.begin().await?;
    let mut answers = Vec::with_capacity(ops.len());
    for op in ops {
        let rows = execute(&mut transaction, op, now).await?;
        if !op.guard.holds(rows.len()) {
            transaction.rollback().await?;
            return Err(StoreError::Stale {
                command: op.sql.name,
            });
        }
        answers.push(rows);
    }
    transaction.commit().await?;
    Ok(answers)
}

async fn execute(
    connection: &mut PgConnection,
    op: &Op,
    now: Millis,
) -> Result<Vec<Row>, StoreError> {
    if op.optional && op.count == 0 {
        return Ok(Vec::new());
    }
    let text = op.sql.for_dialect(Dialect::Postgres);
    if let Some(columns) = &op.columns {
        let insert = sqlx::query(text);
        let pieces: Vec<&[u8]>;
        let insert = match columns.as_ref() {
            Columns::Tests(tests) => {
                let [suite, name, result] = &tests.texts;
                let insert = insert.bind(&tests.run).bind(&tests.seq);
                insert.bind(suite).bind(name).bind(result).bind(&tests.log)
            }
            Columns::Pieces(all) => {
                pieces = all.data.iter().map(|piece| &piece[..]).collect();
                let insert = insert.bind(&all.run).bind(&all.file);
                insert.bind(&all.seq).bind(&pieces)
            }
        };
        insert.execute(connection).await?;
        return Ok(Vec::new());
    }
    let arguments = arguments(text, &op.rows, now, op.bytes.as_deref())?;
    let found = sqlx::query_with(text, arguments)
        .fetch_all(connection)
        .await?;
    found.iter().map(decode).collect()
}

fn decode(row: &PgRow) -> Result<Row, StoreError> {
    let mut out = Row::new();
    for column in row.columns() {
        let at = column.ordinal();
        let value = if row.try_get_raw(at)?.is_null() {
            serde_json::Value::Null
        } else {
            match column.type_info().name() {
                "INT8" => row.try_get::<i64, _>(at)?.into(),
                "INT4" => row.try_get::<i32, _>(at)?.into(),
                "FLOAT8" => row.try_get::<f64, _>(at)?.into(),
                "BOOL" => row.try_get::<bool, _>(at)?.into(),
                _ => row.try_get::<String, _>(at)?.into(),
            }
        };
        out.insert(column.name().to_owned(), value);
    }
    Ok(out)
}
