//! The store: the truth about tasks, workers and test jobs, in PostgreSQL or SQLite.
//!
//! Reading and writing are apart. Readers use connections that cannot write and get owned snapshots. A
//! write is one of a closed set of commands, the verbs below; each is one short transaction that runs on
//! a task of its own, so that a caller who goes away neither cuts it short nor leaves it open. A verb
//! never waits for anything but the database, and a command takes slices: the tasks of a batch share a
//! commit and are answered one by one.

use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tokio_util::task::TaskTracker;

use crate::clock::Clock;
use crate::id::WorkerId;

mod audit;
mod bundles;
mod by_hand;
mod celery;
pub(crate) mod command;
mod gates;
mod lanes;
mod merge;
mod messages;
mod outbox;
mod postgres;
mod produced;
mod published;
mod schema;
pub(crate) mod sql;
mod sqlite;
mod squad;
mod squad_repair;
mod sweep;
mod tasks;
mod testjobs;
mod workers;

pub use audit::{PublishedPart, StagedRun};
pub use bundles::{BundleError, Note as BundleNote, Noted};
pub use by_hand::{Filter, RunningView, TaskView};
pub use celery::{FoundResult, ResultRow};
pub use command::Op;
pub use gates::GateView;
pub use lanes::{EntryView, LaneView, Wait};
pub use messages::Taken;
pub use outbox::Ring;
pub use produced::Watched;
pub use published::{
    FileView, MetricView, PartView, TestJobFilter, TestJobView, TestPage, TestView,
};
pub use schema::{SchemaState, VERSION};
pub use squad::{Extent, STAGED_PAGE, Said, SquadJob, StagedMetric, StagedTest, Untold};
pub use squad_repair::{Large, Loose, SquadColumn, SquadProject, StuckJob};
pub use tasks::{ClaimAnswer, ClaimRequest, Claimed, Enqueued, SetAside, Settlement, State};
pub use testjobs::{Begun, Fetched, RunCounts, StagedRow};
pub use workers::{DeadLetter, Fence, Held, Member, WorkerView};

use command::{Row, typed};
use postgres::Postgres;
use sql::Sql;
use sqlite::Sqlite;

/// Where the store is.
#[derive(Debug, Clone)]
pub struct StoreConfig {
    /// `sqlite:PATH` or `postgres://user@host:port/database`.
    pub url: String,
    /// A PostgreSQL role that can only select, for readers; `None`: the same role in read-only sessions.
    pub reader_url: Option<String>,
    /// PostgreSQL's schema for our tables.
    pub schema: String,
    /// PostgreSQL's connections for commands, and as many for readers; at least 2.
    pub connections: u32,
    /// PostgreSQL's password, if the address has none.
    pub password: Option<String>,
    /// Whether a worker's death shows by its lock at once; behind a transaction pooler only the lease can tell.
    pub locks: bool,
}

/// A pool of connections, none of which is ever closed for its age.
///
/// sqlx 0.9 looks after idle connections in a loop over a count that can be one below nothing while another
/// thread takes the first connection: that loop then never ends, nor ever waits, and what waits on the same thread
/// of the runtime never runs. Without an age to look for there is no such loop.
fn pool<DB: sqlx::Database>(most: u32) -> sqlx::pool::PoolOptions<DB> {
    sqlx::pool::PoolOptions::new()
        .max_connections(most)
        .test_before_acquire(false)
        .idle_timeout(None)
        .max_lifetime(None)
}

impl StoreConfig {
    /// An embedded store in `path`.
    pub fn sqlite(path: &std::path::Path) -> Self {
        Self {
            url: format!("sqlite:{}", path.display()),
            reader_url: None,
            schema: "longshore".into(),
            connections: 2,
            password: None,
            locks: true,
        }
    }
}

/// Why a verb failed. A lost lease is an answer of a verb; as an error it is [`StoreError::Stale`].
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// The database cannot be reached, or the connection ended: try again.
    #[error("reach the store: {reason}")]
    Away {
        /// What the driver said.
        reason: String,
    },
    /// The database could not do it now (deadlock, time-out, busy): try again.
    #[error("write to the store: {reason}")]
    Busy {
        /// What the database said.
        reason: String,
        /// Whether it undid the command so that another one could go on, with which it would have waited in a circle.
        circle: bool,
    },
    /// A condition of the command did not hold (a later epoch, another owner): nothing was written.
    #[error("write under a lease that was lost (at {command})")]
    Stale {
        /// The statement that found it.
        command: &'static str,
    },
    /// The database refused: a write through a reader, a missing right, a full disk.
    #[error("have the store accept it: {reason}")]
    Refused {
        /// What the database said.
        reason: String,
    },
    /// A value did not fit what was expected of it: a bug, or another program's rows.
    #[error("understand a value of {command}: {reason}")]
    Value {
        /// The statement.
        command: &'static str,
        /// What did not fit.
        reason: String,
    },
    /// Tasks that name what is not there, or could never run.
    #[error("enqueue these tasks: {reason}")]
    Graph {
        /// Which, and why.
        reason: String,
    },
    /// A gate refuses what it was asked.
    #[error("{reason}")]
    Gate {
        /// Why, and what to do instead.
        reason: String,
    },
    /// The address cannot be understood.
    #[error("understand store.url: {reason}")]
    Address {
        /// What is wrong with it.
        reason: String,
    },
    /// The folder of lock files beside the SQLite file cannot be used.
    #[error("lock a file in {path}: {source}")]
    Lock {
        /// The folder.
        path: std::path::PathBuf,
        /// Why.
        #[source]
        source: Arc<std::io::Error>,
    },
    /// The schema is not the one this program knows.
    #[error("{0}")]
    Schema(String),
}

impl StoreError {
    /// Whether the same verb may succeed later.
    pub fn is_temporary(&self) -> bool {
        match self {
            Self::Away { .. } | Self::Busy { .. } => true,
            Self::Stale { .. }
            | Self::Refused { .. }
            | Self::Value { .. }
            | Self::Graph { .. }
            | Self::Gate { .. }
            | Self::Address { .. }
            | Self::Lock { .. }
            | Self::Schema(_) => false,
        }
    }
}

impl From<sqlx::Error> for StoreError {
    fn from(error: sqlx::Error) -> Self {
        let reason = error.to_string();
        let sqlx::Error::Database(database) = &error else {
            return Self::Away { reason };
        };
        let code = database.code().unwrap_or_default();
        match code.as_ref() {
            // PostgreSQL: serialization, deadlock, lock and statement time-outs, too many connections, no room, no
            // memory, read-only for now (a failover). SQLite: busy, locked, no room, a disk that fails, read-only.
            "40001" | "40P01" | "55P03" | "57014" | "53300" | "53100" | "53200" | "53400"
            | "25006" => Self::Busy {
                circle: code == "40P01",
                reason,
            },
            // SQLite's codes are numbers, extended ones above 255: the low byte is the class.
            code if code.len() < 5
                && code
                    .parse::<u32>()
                    .is_ok_and(|code| matches!(code & 0xff, 5 | 6 | 8 | 10 | 13)) =>
            {
                Self::Busy {
                    reason,
                    circle: false,
                }
            }
            // The server goes down, or ended our session.
            "57P01" | "57P02" | "57P03" | "25P03" | "08006" | "08003" => Self::Away { reason },
            _ => Self::Refused { reason },
        }
    }
}

enum Db {
    Postgres(Box<Postgres>),
    Sqlite(Sqlite),
}

struct Inner {
    db: Db,
    clock: Clock,
    locks: bool,
    schema: String,
    commands: TaskTracker,
    merger: merge::Merger,
}

/// A handle on the store; clones share it.
#[derive(Clone)]
pub struct Store(Arc<Inner>);

impl std::fmt::Debug for Store {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(match self.0.db {
            Db::Postgres(_) => "Store(PostgreSQL)",
            Db::Sqlite(_) => "Store(SQLite)",
        })
    }
}

impl Store {
    /// A handle on the store that `config` names; connects when first used.
    ///
    /// # Errors
    ///
    /// [`StoreError::Address`] if the address cannot be understood.
    pub fn open(config: &StoreConfig, clock: Clock) -> Result<Self, StoreError> {
        let db = if config.url.starts_with("sqlite:") {
            Db::Sqlite(Sqlite::open(config)?)
        } else if config.url.starts_with("postgres:") || config.url.starts_with("postgresql:") {
            Db::Postgres(Box::new(Postgres::open(config)?))
        } else {
            let reason = "it begins neither with sqlite: nor with postgres://".to_owned();
            return Err(StoreError::Address { reason });
        };
        Ok(Self(Arc::new(Inner {
            db,
            clock,
            locks: config.locks,
            schema: config.schema.clone(),
            commands: TaskTracker::new(),
            merger: merge::Merger::default(),
        })))
    }

    /// The clock that this store's commands go by.
    pub fn clock(&self) -> &Clock {
        &self.0.clock
    }

    /// Sets the clock by the database's.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn anchor_clock(&self) -> Result<(), StoreError> {
        let now = match &self.0.db {
            Db::Postgres(db) => db.now().await?,
            Db::Sqlite(db) => db.now().await?,
        };
        self.0.clock.anchor(now);
        Ok(())
    }

    /// Whether this is an embedded store.
    pub fn is_embedded(&self) -> bool {
        matches!(self.0.db, Db::Sqlite(_))
    }

    /// Waits for the commands under way, then closes every connection.
    pub async fn close(&self) {
        self.0.commands.close();
        self.0.commands.wait().await;
        match &self.0.db {
            Db::Postgres(db) => db.close().await,
            Db::Sqlite(db) => db.close().await,
        }
    }

    /// Runs one command: all of `ops` in one transaction, or nothing.
    async fn command(&self, name: &'static str, ops: Vec<Op>) -> Result<Vec<Vec<Row>>, StoreError> {
        let inner = Arc::clone(&self.0);
        let running = self.0.commands.spawn(async move {
            crate::crash::point(&format!("{name}:before"));
            let now = inner.clock.now();
            let answer = match &inner.db {
                Db::Postgres(db) => db.run(&ops, now).await,
                Db::Sqlite(db) => db.run(&ops, now).await,
            };
            crate::crash::point(&format!("{name}:after"));
            answer
        });
        running.await.unwrap_or_else(|error| {
            Err(StoreError::Away {
                reason: error.to_string(),
            })
        })
    }

    /// A command of one statement.
    async fn single(&self, name: &'static str, op: Op) -> Result<Vec<Row>, StoreError> {
        Ok(self
            .command(name, vec![op])
            .await?
            .into_iter()
            .next()
            .unwrap_or_default())
    }

    /// Reads a snapshot.
    async fn read<T: DeserializeOwned>(
        &self,
        sql: Sql,
        rows: &[impl Serialize],
    ) -> Result<Vec<T>, StoreError> {
        typed(self.read_rows(&Op::new(sql, rows)?).await?)
    }

    async fn read_rows(&self, op: &Op) -> Result<Vec<Row>, StoreError> {
        let now = self.0.clock.now();
        match &self.0.db {
            Db::Postgres(db) => db.read(op.sql, &op.rows, now).await,
            Db::Sqlite(db) => db.read(op.sql, &op.rows, now).await,
        }
    }

    /// Takes or keeps the lock whose loss says that this worker is dead.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn hold(&self, member: &Member) -> Result<(), StoreError> {
        match &self.0.db {
            _ if !self.0.locks => Ok(()),
            Db::Postgres(db) => db.hold(member.lock_key).await,
            Db::Sqlite(db) => db.hold(&member.id),
        }
    }

    /// Gives that lock back.
    pub async fn let_go(&self, worker: &WorkerId) {
        match &self.0.db {
            Db::Postgres(db) => db.let_go().await,
            Db::Sqlite(db) => db.let_go(worker),
        }
    }

    /// Notes what is committed by now, so that a commit during the look that follows is not missed.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn watch(&self) -> Result<Watch, StoreError> {
        let Db::Sqlite(db) = &self.0.db else {
            return Ok(Watch(None));
        };
        let mut connection = db.watcher().await?;
        let before = db.data_version(&mut connection).await?;
        Ok(Watch(Some((self.clone(), connection, before))))
    }
}

/// What was committed when it was made. It keeps one of the readers' connections.
#[must_use = "it is made to be waited on"]
pub struct Watch(Option<(Store, sqlite::Watcher, i64)>);

impl Watch {
    /// Waits until something was committed since then, or `most` has passed (SQLite; PostgreSQL: at once).
    ///
    /// # Errors
    ///
    /// As any verb.
    ///
    /// # Cancel safety
    ///
    /// It only reads.
    pub async fn changed(self, most: Duration) -> Result<(), StoreError> {
        /// How often to ask: the price is one page of shared memory.
        const LOOK: Duration = Duration::from_millis(15);
        let Some((store, mut connection, before)) = self.0 else {
            return Ok(());
        };
        let Db::Sqlite(db) = &store.0.db else {
            return Ok(());
        };
        let end = tokio::time::Instant::now() + most;
        while tokio::time::Instant::now() < end {
            // Slept first: where others commit all the time, a look at each commit would take a core.
            tokio::time::sleep(LOOK).await;
            if db.data_version(&mut connection).await? != before {
                break;
            }
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::pool;

    #[test]
    fn no_pool_has_the_loop_that_may_never_end() {
        let options = pool::<sqlx::Sqlite>(1);
        let ages = (options.get_idle_timeout(), options.get_max_lifetime());
        assert_eq!(ages, (None, None));
    }
}
