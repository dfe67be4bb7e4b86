//! Reading is apart from writing: the database itself refuses a write on a reader's session.

use longshore::store::{Store, StoreConfig};
use sqlx::Connection as _;

use crate::harness::{BackEnd, Bench, Folder, task};

#[tokio::test]
async fn a_read_that_writes_is_refused_by_postgres() {
    Bench::run(BackEnd::Postgres, async |bench: Bench| {
        bench.store.enqueue(&[task("a")]).await.unwrap();
        // From now on, whoever reads tasks writes.
        bench
            .execute(
                "create table probe (n int);
                create function leak() returns int language plpgsql volatile as
                  $$ begin insert into probe values (1); return 0; end $$;
                alter table tasks rename to tasks_kept;
                create view tasks as select * from tasks_kept where leak() = 0",
            )
            .await;
        let answer = bench.store.task_counts().await;
        let error = answer.expect_err("a reader wrote").to_string();
        assert!(error.contains("read-only transaction"), "{error}");
        assert_eq!(bench.number("select count(*) from probe").await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_role_that_may_only_select_is_enough_to_read_with() {
    Bench::run(BackEnd::Postgres, async |bench: Bench| {
        bench.store.enqueue(&[task("a")]).await.unwrap();
        let role = format!("reader_{}", bench.config.schema);
        bench.execute(&format!("create role {role} login")).await;
        bench.store.grant_reader(&role).await.unwrap();
        let config = StoreConfig {
            reader_url: Some(bench.config.url.replace("postgres@", &format!("{role}@"))),
            ..bench.config.clone()
        };
        let store = Store::open(&config, bench.clock.clone()).unwrap();
        assert_eq!(store.task_counts().await.unwrap().len(), 1);

        let url = config.reader_url.as_deref().unwrap();
        let mut reader = sqlx::PgConnection::connect(url).await.unwrap();
        let write = format!("delete from {}.tasks", config.schema);
        let answer = sqlx::query(sqlx::AssertSqlSafe(write))
            .execute(&mut reader)
            .await;
        let error = answer.expect_err("a reader wrote").to_string();
        assert!(error.contains("permission denied"), "{error}");
        reader.close().await.unwrap();
        store.close().await;
        bench
            .execute(&format!("drop owned by {role}; drop role {role}"))
            .await;
    })
    .await;
}

#[tokio::test]
async fn sqlite_has_no_roles_and_says_so() {
    Bench::run(BackEnd::Sqlite, async |bench: Bench| {
        let error = bench
            .store
            .grant_reader("reader")
            .await
            .expect_err("no roles");
        assert!(error.to_string().contains("SQLite has no roles"), "{error}");
    })
    .await;
}

#[tokio::test]
async fn an_sqlite_reader_opens_the_file_for_reading_only() {
    Bench::run(BackEnd::Sqlite, async |bench: Bench| {
        bench.store.enqueue(&[task("a")]).await.unwrap();
        let before = open_files(&bench.folder);
        let other = bench.other();
        assert_eq!(other.task_counts().await.unwrap().len(), 1);
        let after = open_files(&bench.folder);
        let new: Vec<_> = after.iter().filter(|file| !before.contains(file)).collect();
        assert!(!new.is_empty(), "a read opens the file");
        for (number, flags) in new {
            assert_eq!(flags & 0o3, 0, "file {number} is open for writing");
        }
        other.close().await;
    })
    .await;
}

/// The numbers and flags under which this process has the store's file open.
fn open_files(folder: &Folder) -> Vec<(String, u32)> {
    let path = folder.join("store.db");
    let mut found = Vec::new();
    for entry in std::fs::read_dir("/proc/self/fd").unwrap() {
        let entry = entry.unwrap();
        if std::fs::read_link(entry.path()).is_ok_and(|target| target == path) {
            let number = entry.file_name().to_string_lossy().into_owned();
            let info = std::fs::read_to_string(format!("/proc/self/fdinfo/{number}")).unwrap();
            let flags = info
                .lines()
                .find_map(|line| line.strip_prefix("flags:"))
                .unwrap();
            found.push((number, u32::from_str_radix(flags.trim(), 8).unwrap()));
        }
    }
    found
}
