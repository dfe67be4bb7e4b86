//! A store of one test, migrated, with a clock that the test moves.

use std::panic::AssertUnwindSafe;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt as _;
use longshore::clock::Clock;
use longshore::id::{Epoch, TaskId, WorkerId};
use longshore::store::{
    ClaimAnswer, ClaimRequest, Claimed, Fence, Filter, Member, Store, StoreConfig, TaskView,
};
use longshore::task::Task;
use sqlx::{ConnectOptions as _, Connection as _, Row as _};

use super::{Child, Folder, LIMIT, server, unique, wait_until};

/// Which database.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BackEnd {
    Sqlite,
    Postgres,
}

/// A store, its clock and a folder; clones share them.
#[derive(Debug, Clone)]
pub(crate) struct Bench {
    pub(crate) store: Store,
    pub(crate) clock: Clock,
    pub(crate) config: StoreConfig,
    pub(crate) back_end: BackEnd,
    pub(crate) folder: Arc<Folder>,
}

/// A lease that no test outlives.
pub(crate) const LONG: Duration = Duration::from_secs(3600);

impl Bench {
    /// Runs `test` on a fresh, migrated store, and takes that away whatever comes of it.
    pub(crate) async fn run<F: Future<Output = ()>>(
        back_end: BackEnd,
        test: impl FnOnce(Self) -> F,
    ) {
        let bench = Self::empty(back_end);
        bench.store.migrate().await.unwrap();
        let outcome = AssertUnwindSafe(Box::pin(test(bench.clone())))
            .catch_unwind()
            .await;
        bench.end().await;
        if let Err(panic) = outcome {
            std::panic::resume_unwind(panic);
        }
    }

    /// A store without tables. [`Bench::end`] takes it away.
    pub(crate) fn empty(back_end: BackEnd) -> Self {
        let folder = Folder::new();
        let mut config = StoreConfig::sqlite(&folder.join("store.db"));
        if back_end == BackEnd::Postgres {
            config.url = server("LONGSHORE_TEST_PG_URL");
            config.schema = unique();
            config.connections = 4;
        }
        let clock = Clock::system();
        Self {
            store: Store::open(&config, clock.clone()).unwrap(),
            clock,
            config,
            back_end,
            folder: Arc::new(folder),
        }
    }

    pub(crate) async fn end(self) {
        self.store.close().await;
        if self.back_end == BackEnd::Postgres {
            self.execute(&format!(
                "drop schema if exists \"{}\" cascade",
                self.config.schema
            ))
            .await;
        }
    }

    /// Another process's handle on the same store: connections and locks of its own, the same clock.
    pub(crate) fn other(&self) -> Store {
        Store::open(&self.config, self.clock.clone()).unwrap()
    }

    /// Writes a configuration file with this store, the broker at `broker`, and `rest`, in TOML.
    pub(crate) fn write_config(&self, broker: &str, rest: &str) -> PathBuf {
        let path = self.folder.join("longshore.toml");
        let text = format!(
            "[store]\nurl = \"{}\"\nschema = \"{}\"\n[broker]\nurl = \"{broker}\"\n{rest}\n",
            self.config.url, self.config.schema,
        );
        std::fs::write(&path, text).unwrap();
        path
    }

    /// Runs statements behind the store's back.
    pub(crate) async fn execute(&self, sql: &str) {
        let sql = sqlx::raw_sql(sqlx::AssertSqlSafe(sql.to_owned()));
        match self.back_end {
            BackEnd::Sqlite => {
                let mut connection = self.sqlite().await;
                sql.execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
            BackEnd::Postgres => {
                let mut connection = self.postgres().await;
                sql.execute(&mut connection).await.unwrap();
                connection.close().await.unwrap();
            }
        }
    }

    /// The one number that a query behind the store's back answers.
    pub(crate) async fn number(&self, sql: &str) -> i64 {
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        match self.back_end {
            BackEnd::Sqlite => {
                let mut connection = self.sqlite().await;
                let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                row.get(0)
            }
            BackEnd::Postgres => {
                let mut connection = self.postgres().await;
                let row = sqlx::query(sql).fetch_one(&mut connection).await.unwrap();
                connection.close().await.unwrap();
                row.get(0)
            }
        }
    }

    /// The texts that a query behind the store's back answers (PostgreSQL).
    pub(crate) async fn texts(&self, sql: &str) -> Vec<String> {
        let mut connection = self.postgres().await;
        let sql = sqlx::AssertSqlSafe(sql.to_owned());
        let rows = sqlx::query(sql).fetch_all(&mut connection).await.unwrap();
        connection.close().await.unwrap();
        rows.iter().map(|row| row.get(0)).collect()
    }

    /// Stops a process (SIGSTOP) where it does not hold SQLite's one lock for writers, which nobody can take from one that
    /// is stopped. (PostgreSQL ends the sessions of such a one, and their locks with them.)
    pub(crate) async fn freeze(&self, child: &Child) {
        wait_until("it is stopped outside of a write", LIMIT, async || {
            child.signal("STOP");
            wait_until("it stands still", LIMIT, async || child.stands_still()).await;
            let free = self.is_free_to_write().await;
            if !free {
                child.signal("CONT");
            }
            free
        })
        .await;
    }

    async fn is_free_to_write(&self) -> bool {
        if self.back_end == BackEnd::Postgres {
            return true;
        }
        let mut connection = self.sqlite_within(Duration::ZERO).await;
        let begun = sqlx::query("begin immediate")
            .execute(&mut connection)
            .await;
        connection.close().await.unwrap();
        begun.is_ok()
    }

    async fn sqlite(&self) -> sqlx::SqliteConnection {
        self.sqlite_within(Duration::from_secs(20)).await
    }

    async fn sqlite_within(&self, patience: Duration) -> sqlx::SqliteConnection {
        sqlx::sqlite::SqliteConnectOptions::new()
            .filename(self.folder.join("store.db"))
            .busy_timeout(patience)
            .connect()
            .await
            .unwrap()
    }

    pub(crate) async fn postgres(&self) -> sqlx::PgConnection {
        self.config
            .url
            .parse::<sqlx::postgres::PgConnectOptions>()
            .unwrap()
            .options([("search_path", &self.config.schema)])
            .connect()
            .await
            .unwrap()
    }

    /// A worker that has joined and holds its lock, on this store's handle.
    pub(crate) async fn worker(&self) -> WorkerId {
        let member = member();
        join(&self.store, &member, LONG).await;
        member.id
    }

    /// A worker as another process: what it does goes through a handle of its own.
    pub(crate) async fn other_worker(&self, lease: Duration) -> (Store, Member) {
        let (store, member) = (self.other(), member());
        join(&store, &member, lease).await;
        (store, member)
    }

    /// Claims `task` for `worker`.
    pub(crate) async fn claim(&self, worker: &WorkerId, task: &Task) -> ClaimAnswer {
        let answers = self.store.claim(worker, &[ClaimRequest::once(task)]).await;
        answers.unwrap().remove(0)
    }

    /// Claims `task` for `worker`, which must succeed.
    pub(crate) async fn claimed(&self, worker: &WorkerId, task: &Task) -> Claimed {
        match self.claim(worker, task).await {
            ClaimAnswer::Claimed(claimed) => claimed,
            other @ (ClaimAnswer::Busy { .. } | ClaimAnswer::Not(_) | ClaimAnswer::Lost) => {
                panic!("{} was not claimed: {other:?}", task.id)
            }
        }
    }

    /// A task that a worker runs.
    pub(crate) async fn running(&self, id: &str) -> (Task, WorkerId, Epoch) {
        let (task, worker) = (task(id), self.worker().await);
        let epoch = self.claimed(&worker, &task).await.epoch;
        (task, worker, epoch)
    }

    /// What operators see of a task.
    pub(crate) async fn view(&self, id: &str) -> TaskView {
        self.find(id)
            .await
            .unwrap_or_else(|| panic!("there is no task {id}"))
    }

    pub(crate) async fn find(&self, id: &str) -> Option<TaskView> {
        let filter = Filter {
            id: Some(id.into()),
            state: None,
            most: 1,
        };
        self.store.tasks(&filter).await.unwrap().pop()
    }

    /// The right of a fresh leader.
    pub(crate) async fn leader(&self) -> Fence {
        self.store
            .lead("maintenance", &WorkerId::fresh(), LONG)
            .await
            .unwrap()
            .expect("nobody leads yet")
    }
}

async fn join(store: &Store, member: &Member, lease: Duration) {
    store.join(member, "running", lease).await.unwrap();
    store.hold(member).await.unwrap();
}

/// A worker nobody knows yet.
pub(crate) fn member() -> Member {
    let id = WorkerId::fresh();
    // The random end of a UUID: two workers of one server never share a lock.
    let random = id.as_str().rsplit('-').next().unwrap();
    Member {
        lock_key: i64::from_str_radix(random, 16).unwrap(),
        id,
        pool: "fetch".into(),
        kind: "elastic".into(),
        host: "host".into(),
        pid: 1,
        slots: 4,
    }
}

/// A task for nobody in particular.
pub(crate) fn task(id: &str) -> Task {
    Task::new("demo.work", "work").with_id(id)
}

/// The id of a task.
pub(crate) fn id(id: &str) -> TaskId {
    TaskId::new(id)
}

impl Bench {
    /// Keeps everybody else from writing (SQLite) until it is dropped.
    pub(crate) async fn lock_for_writing(&self) -> sqlx::SqliteConnection {
        let mut connection = self.sqlite().await;
        sqlx::raw_sql("begin immediate")
            .execute(&mut connection)
            .await
            .unwrap();
        connection
    }
}
