//! SQLite: one connection that writes, a few that were opened read-only, and a lock file per worker.

use std::fs::{File, TryLockError};
use std::path::{Path, PathBuf};
use std::sync::{Mutex as StdMutex, PoisonError};
use std::time::{Duration, Instant};

use sqlx::sqlite::{
    SqliteArguments, SqliteConnectOptions, SqliteConnection, SqlitePool, SqliteRow,
    SqliteSynchronous,
};
use sqlx::{Arguments, Column, Connection, Executor, Row as _, TypeInfo, ValueRef};

use super::command::{Op, Row};
use super::sql::{Dialect, Sql};
use super::{StoreConfig, StoreError, pool};
use crate::clock::{Clock, Millis};
use crate::id::WorkerId;

/// How long a writer waits for another process's: writes take milliseconds, a checkpoint of the log a second.
const BUSY_TIMEOUT: Duration = Duration::from_secs(20);

/// Between two tries of what SQLite does not wait for itself.
const BUSY_PAUSE: Duration = Duration::from_millis(5);

/// The file, and the locks beside it.
pub(crate) struct Sqlite {
    commands: SqlitePool,
    readers: SqlitePool,
    locks: PathBuf,
    lock: StdMutex<Option<File>>,
}

/// Has a file write ahead of its tables, as it then does for ever. SQLite refuses this at once to all but one of those that
/// ask while the file is new, whatever their busy timeout.
async fn keep_a_log(connection: &mut SqliteConnection) -> Result<(), sqlx::Error> {
    let ends = Instant::now() + BUSY_TIMEOUT;
    loop {
        match connection.execute("pragma journal_mode = wal").await {
            Err(error) if is_busy(&error) && Instant::now() < ends => {
                tokio::time::sleep(BUSY_PAUSE).await;
            }
            answer => return answer.map(drop),
        }
    }
}

/// SQLite's codes are numbers, of which the low byte is the class.
fn is_busy(error: &sqlx::Error) -> bool {
    let code = error.as_database_error().and_then(|error| error.code());
    code.and_then(|code| code.parse::<u32>().ok())
        .is_some_and(|code| code & 0xff == 5)
}

/// A connection on which the file's changes are counted.
pub(crate) type Watcher = sqlx::pool::PoolConnection<sqlx::Sqlite>;

impl Sqlite {
    pub(crate) fn open(config: &StoreConfig) -> Result<Self, StoreError> {
        let path = config
            .url
            .trim_start_matches("sqlite:")
            .trim_start_matches("//");
        let path = Path::new(path);
        let common = SqliteConnectOptions::new()
            .filename(path)
            .busy_timeout(BUSY_TIMEOUT)
            .statement_cache_capacity(200);
        let writer = common
            .clone()
            .create_if_missing(true)
            .synchronous(SqliteSynchronous::Full)
            .pragma("cache_size", "-16000")
            .pragma("journal_size_limit", "67108864");
        let reader = common.read_only(true).pragma("cache_size", "-4000");
        Ok(Self {
            commands: pool(1)
                .after_connect(|connection, _| Box::pin(keep_a_log(connection)))
                .connect_lazy_with(writer),
            readers: pool(4).connect_lazy_with(reader),
            locks: path.with_extension("locks"),
            lock: StdMutex::new(None),
        })
    }

    pub(crate) async fn run(&self, ops: &[Op], now: Millis) -> Result<Vec<Vec<Row>>, StoreError> {
        let mut connection = self.commands.acquire().await?;
        let mut transaction = connection.begin_with("begin immediate").await?;
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

    pub(crate) async fn read(
        &self,
        sql: Sql,
        rows: &str,
        now: Millis,
    ) -> Result<Vec<Row>, StoreError> {
        let text = sql.for_dialect(Dialect::Sqlite);
        let found = sqlx::query_with(text, arguments(rows, now, None)?)
            .fetch_all(&self.readers)
            .await?;
        found.iter().map(decode).collect()
    }

    pub(crate) async fn read_bytes(
        &self,
        sql: Sql,
        rows: &str,
    ) -> Result<Vec<(i64, Vec<u8>)>, StoreError> {
        let text = sql.for_dialect(Dialect::Sqlite);
        let found = sqlx::query_with(text, arguments(rows, 0, None)?)
            .fetch_all(&self.readers)
            .await?;
        found
            .iter()
            .map(|row| Ok((row.try_get(0)?, row.try_get(1)?)))
            .collect()
    }

    /// One machine, one clock.
    #[expect(clippy::unused_async, reason = "the same shape as PostgreSQL's")]
    pub(crate) async fn now(&self) -> Result<Millis, StoreError> {
        Ok(Clock::system().now())
    }

    pub(crate) async fn script(&self, statements: &[String]) -> Result<(), StoreError> {
        let mut connection = self.commands.acquire().await?;
        let mut transaction = connection.begin_with("begin immediate").await?;
        for statement in statements {
            transaction
                .execute(sqlx::AssertSqlSafe(statement.clone()))
                .await?;
        }
        transaction.commit().await?;
        Ok(())
    }

    pub(crate) async fn version(&self) -> Result<Option<i64>, StoreError> {
        let known = sqlx::query("select 1 from sqlite_master where name = 'schema_version'")
            .fetch_optional(&self.commands)
            .await?;
        if known.is_none() {
            return Ok(None);
        }
        let row = sqlx::query("select max(version) from schema_version")
            .fetch_one(&self.commands)
            .await?;
        Ok(row.try_get(0)?)
    }

    /// A number that changes when another connection commits: whether a look is worth it.
    pub(crate) async fn data_version(
        &self,
        connection: &mut SqliteConnection,
    ) -> Result<i64, StoreError> {
        Ok(sqlx::query("pragma data_version")
            .fetch_one(connection)
            .await?
            .try_get(0)?)
    }

    /// A connection to ask [`Sqlite::data_version`] on: the number means something on one connection only.
    pub(crate) async fn watcher(&self) -> Result<Watcher, StoreError> {
        Ok(self.readers.acquire().await?)
    }

    /// Takes this worker's lock file, as long as the process lives.
    pub(crate) fn hold(&self, worker: &WorkerId) -> Result<(), StoreError> {
        let mut slot = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.is_none() {
            std::fs::create_dir_all(&self.locks).map_err(|source| self.lock_error(source))?;
            let file =
                File::create(self.lock_path(worker)).map_err(|source| self.lock_error(source))?;
            file.lock().map_err(|source| self.lock_error(source))?;
            *slot = Some(file);
        }
        Ok(())
    }

    /// Gives it back.
    pub(crate) fn let_go(&self, worker: &WorkerId) {
        let mut slot = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
        if slot.take().is_some()
            && let Err(error) = std::fs::remove_file(self.lock_path(worker))
        {
            tracing::debug!(%error, "the lock file was gone before it was removed");
        }
    }

    /// Whether a process holds this worker's lock file.
    pub(crate) fn held(&self, worker: &WorkerId) -> bool {
        let path = self.lock_path(worker);
        let file = match File::open(&path) {
            Ok(file) => file,
            // What cannot be looked at is no sign of death.
            Err(error) => return error.kind() != std::io::ErrorKind::NotFound,
        };
        match file.try_lock_shared() {
            Ok(()) => false,
            Err(TryLockError::WouldBlock | TryLockError::Error(_)) => true,
        }
    }

    pub(crate) async fn close(&self) {
        self.readers.close().await;
        self.commands.close().await;
    }

    fn lock_path(&self, worker: &WorkerId) -> PathBuf {
        self.locks.join(worker.as_str())
    }

    fn lock_error(&self, source: std::io::Error) -> StoreError {
        StoreError::Lock {
            path: self.locks.clone(),
            source: std::sync::Arc::new(source),
        }
    }
}

fn arguments(rows: &str, now: Millis, bytes: Option<&[u8]>) -> Result<SqliteArguments, StoreError> {
    let mut arguments = SqliteArguments::default();
    arguments
        .add(rows.to_owned())
        .and_then(|()| arguments.add(now))
        .and_then(|()| bytes.map_or(Ok(()), |bytes| arguments.add(bytes.to_vec())))
        .map_err(|error| StoreError::Value {
            command: "arguments",
            reason: error.to_string(),
        })?;
    Ok(arguments)
}

async fn execute(
    connection: &mut SqliteConnection,
    op: &Op,
    now: Millis,
) -> Result<Vec<Row>, StoreError> {
    let text = op.sql.for_dialect(Dialect::Sqlite);
    let arguments = arguments(&op.rows, now, op.bytes.as_deref())?;
    let found = sqlx::query_with(text, arguments)
        .fetch_all(connection)
        .await?;
    found.iter().map(decode).collect()
}

fn decode(row: &SqliteRow) -> Result<Row, StoreError> {
    let mut out = Row::new();
    for column in row.columns() {
        let at = column.ordinal();
        let raw = row.try_get_raw(at)?;
        let kind = raw.type_info().name().to_owned();
        let value = match (raw.is_null(), kind.as_str()) {
            (true, _) => serde_json::Value::Null,
            (false, "INTEGER") => row.try_get::<i64, _>(at)?.into(),
            (false, "REAL") => row.try_get::<f64, _>(at)?.into(),
            (false, _) => row.try_get::<String, _>(at)?.into(),
        };
        out.insert(column.name().to_owned(), value);
    }
    Ok(out)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::sync::atomic::{AtomicU64, Ordering};

    use super::super::sql::sql;
    use super::super::{ClaimAnswer, ClaimRequest, Db, Settlement, Store, schema};
    use super::*;
    use crate::id::TaskId;
    use crate::lane::Lane;
    use crate::task::Task;

    /// Counts SQLite's own steps, ten at a time: nobody's clock, and the same in each run.
    async fn counted(store: &Store) -> Arc<AtomicU64> {
        let steps = Arc::new(AtomicU64::new(0));
        let Db::Sqlite(db) = &store.0.db else {
            panic!("it is a SQLite store");
        };
        let mut connection = db.commands.acquire().await.unwrap();
        let mut handle = connection.lock_handle().await.unwrap();
        let count = Arc::clone(&steps);
        handle.set_progress_handler(10, move || {
            count.fetch_add(1, Ordering::Relaxed);
            true
        });
        steps
    }

    /// The steps of an enqueue into a lane and of a completion that passes it on, where `waiting` wait in each of so many lanes.
    async fn lane_steps(lanes: usize, waiting: usize) -> [u64; 2] {
        let folder = std::env::temp_dir().join(TaskId::fresh().as_str());
        std::fs::create_dir(&folder).unwrap();
        let config = StoreConfig::sqlite(&folder.join("store.db"));
        let store = Store::open(&config, Clock::system()).unwrap();
        store.migrate().await.unwrap();
        let entry = |lane: usize, place: usize| {
            let id = format!("{lane}-{place}");
            let task = Task::new("work", "queue").with_id(id);
            task.in_lane(Lane::new(lane.to_string()))
        };
        let all = (0..lanes).flat_map(|lane| (0..=waiting).map(move |place| entry(lane, place)));
        store.enqueue(&all.collect::<Vec<_>>()).await.unwrap();
        let (worker, first) = (WorkerId::fresh(), entry(lanes / 2, 0));
        let member = crate::store::Member {
            id: worker.clone(),
            pool: "pool".into(),
            kind: "pinned".into(),
            host: "host".into(),
            pid: 1,
            slots: 1,
            lock_key: 1,
        };
        store
            .join(&member, "running", Duration::from_secs(60))
            .await
            .unwrap();
        let claims = [ClaimRequest::once(&first)];
        let answer = store.claim(&worker, &claims).await.unwrap().remove(0);
        let ClaimAnswer::Claimed(claimed) = answer else {
            panic!("the first of a lane may run");
        };
        let steps = counted(&store).await;
        store.enqueue(&[entry(0, waiting + 1)]).await.unwrap();
        let enqueue = steps.swap(0, Ordering::Relaxed);
        let done = (first.id, claimed.epoch, Settlement::default());
        let (_, rings) = store.settle(&[done]).await.unwrap();
        assert_eq!(rings.len(), 1, "the next one may run");
        store.close().await;
        std::fs::remove_dir_all(&folder).unwrap();
        [enqueue, steps.load(Ordering::Relaxed)]
    }

    #[tokio::test]
    async fn a_lane_costs_the_same_however_many_wait_in_it_and_in_others() {
        let few = lane_steps(2, 2).await;
        let many = lane_steps(40, 40).await;
        for (few, many) in few.into_iter().zip(many) {
            assert!(few > 0 && many * 10 <= few * 12, "{many} against {few}");
        }
    }

    /// A page that has to be sorted costs all that is behind it, and a whole result the square of its size.
    #[tokio::test]
    async fn a_page_is_read_in_the_order_of_its_index() {
        let mut connection = SqliteConnection::connect("sqlite::memory:").await.unwrap();
        for statement in schema::all(Dialect::Sqlite) {
            let statement = sqlx::AssertSqlSafe(statement);
            connection.execute(statement).await.unwrap();
        }
        for sql in [sql!("read_tests"), sql!("read_metrics")] {
            let explain = format!("explain query plan {}", sql.for_dialect(Dialect::Sqlite));
            let bound = arguments("[]", 0, None).unwrap();
            let plan = sqlx::query_with(sqlx::AssertSqlSafe(explain), bound)
                .fetch_all(&mut connection)
                .await
                .unwrap();
            let plan: Vec<String> = plan.iter().map(|step| step.get("detail")).collect();
            let searched = plan
                .iter()
                .any(|step| step.starts_with("SEARCH") && step.contains("(run=? AND seq>?)"));
            assert!(searched, "{} looks at other rows: {plan:#?}", sql.name);
            let sorted = plan.iter().any(|step| step.contains("TEMP B-TREE"));
            assert!(!sorted, "{} sorts: {plan:#?}", sql.name);
        }
    }
}
