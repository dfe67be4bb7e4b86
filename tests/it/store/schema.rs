//! Migrations.

use longshore::store::{SchemaState, StoreError, VERSION};

use crate::harness::{BackEnd, Bench, on_both};

on_both!(
    migrating_twice_is_migrating_once,
    a_newer_schema_is_refused_and_said,
    an_older_schema_is_refused_and_said,
);

/// A migration needs a store without tables, which `Bench::run` does not give.
async fn on_an_empty_store<F: Future<Output = ()>>(
    back_end: BackEnd,
    test: impl FnOnce(Bench) -> F,
) {
    let bench = Bench::empty(back_end);
    test(bench.clone()).await;
    bench.end().await;
}

async fn a_store_without_tables_says_what_to_do_on(bench: Bench) {
    assert_eq!(bench.store.schema().await.unwrap(), SchemaState::Missing);
    let answer = bench.store.check_schema().await;
    let error = answer.expect_err("there are no tables").to_string();
    assert!(error.contains("longshore migrate"), "{error}");
}

async fn migrating_at_once_makes_each_step_once_on(bench: Bench) {
    let others = [bench.other(), bench.other(), bench.other()];
    let made = futures::future::join_all(others.iter().map(|store| store.migrate())).await;
    let made: usize = made.into_iter().map(Result::unwrap).sum();
    assert_eq!(i64::try_from(made).unwrap(), VERSION);
    assert_eq!(bench.store.schema().await.unwrap(), SchemaState::Current);
    for other in others {
        other.close().await;
    }
}

mod a_store_without_tables_says_what_to_do {
    use super::*;

    #[tokio::test]
    async fn sqlite() {
        on_an_empty_store(BackEnd::Sqlite, a_store_without_tables_says_what_to_do_on).await;
    }

    #[tokio::test]
    async fn postgres() {
        on_an_empty_store(BackEnd::Postgres, a_store_without_tables_says_what_to_do_on).await;
    }
}

mod migrating_at_once_makes_each_step_once {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        on_an_empty_store(BackEnd::Sqlite, migrating_at_once_makes_each_step_once_on).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        on_an_empty_store(BackEnd::Postgres, migrating_at_once_makes_each_step_once_on).await;
    }
}

async fn migrating_twice_is_migrating_once(bench: Bench) {
    assert_eq!(bench.store.schema().await.unwrap(), SchemaState::Current);
    assert_eq!(bench.store.migrate().await.unwrap(), 0);
    bench.store.check_schema().await.unwrap();
}

async fn a_newer_schema_is_refused_and_said(bench: Bench) {
    let newer = VERSION + 1;
    bench
        .execute(&format!("insert into schema_version values ({newer})"))
        .await;
    assert_eq!(
        bench.store.schema().await.unwrap(),
        SchemaState::Newer(newer)
    );
    for answer in [
        bench.store.check_schema().await,
        bench.store.migrate().await.map(drop),
    ] {
        let Err(StoreError::Schema(error)) = answer else {
            panic!("a newer schema was accepted");
        };
        assert!(error.contains("run a newer longshore"), "{error}");
    }
}

async fn an_older_schema_is_refused_and_said(bench: Bench) {
    bench
        .execute("update schema_version set version = version - 1")
        .await;
    let older = VERSION - 1;
    assert_eq!(
        bench.store.schema().await.unwrap(),
        SchemaState::Older(older)
    );
    let error = bench
        .store
        .check_schema()
        .await
        .expect_err("it is older")
        .to_string();
    assert!(error.contains("run `longshore migrate`"), "{error}");
}
