//! The real program as a process.

use crate::harness::{Bench, Child, Kind, LIMIT, on_both, run};

on_both!(
    migrate_makes_the_tables_and_a_worker_runs_until_it_is_told_to_end,
    a_worker_that_meets_another_schema_says_so_and_exits_2,
);

const POOL: &str = "[pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\n\
                    [pools.postprocess]\nkind = \"pinned\"\nqueues = [\"ci_fetch_postprocess\"]\n";

/// A broker that fits the store: embedded beside SQLite, RabbitMQ beside PostgreSQL.
pub(crate) async fn with_broker<F: Future<Output = ()>>(
    bench: &Bench,
    test: impl FnOnce(String) -> F,
) {
    if bench.store.is_embedded() {
        test("embedded".into()).await;
    } else {
        crate::harness::Bell::run(Kind::Rabbit, async |bell: crate::harness::Bell| {
            test(bell.url()).await
        })
        .await;
    }
}

async fn migrate_makes_the_tables_and_a_worker_runs_until_it_is_told_to_end(bench: Bench) {
    with_broker(&bench, async |broker| {
        let config = bench.write_config(&broker, POOL);
        let output = run(&["migrate", "--config", config.to_str().unwrap()]).await;
        assert!(output.status.success(), "{output:?}");
        let mut worker = Child::worker(&bench.folder, &config, "fetch");
        crate::harness::wait_until("the worker has joined", LIMIT, async || {
            let workers = bench.store.workers(false).await.unwrap();
            workers
                .iter()
                .any(|view| view.pid == i64::from(worker.pid()) && view.state == "running")
        })
        .await;
        worker.signal("TERM");
        let status = worker.ended(LIMIT).await;
        assert_eq!(status.code(), Some(0), "{}", worker.log());
        assert!(
            bench.store.workers(false).await.unwrap().is_empty(),
            "it has left"
        );
    })
    .await;
}

async fn a_worker_that_meets_another_schema_says_so_and_exits_2(bench: Bench) {
    bench
        .execute("insert into schema_version select max(version) + 1 from schema_version")
        .await;
    let config = bench.write_config("embedded", POOL);
    let broker = if bench.store.is_embedded() {
        "embedded"
    } else {
        "amqp://nobody@127.0.0.1:1/"
    };
    let config = if broker == "embedded" {
        config
    } else {
        bench.write_config(broker, POOL)
    };
    let mut worker = Child::worker(&bench.folder, &config, "fetch");
    let status = worker.ended(LIMIT).await;
    assert_eq!(status.code(), Some(2), "{}", worker.log());
    worker.said("run a newer longshore", LIMIT).await;
}
