//! Commands that share a commit: as if each were alone, whatever becomes of the others (PostgreSQL).

use futures::future::{join, join_all, poll_immediate};
use longshore::id::WorkerId;
use longshore::store::{Ring, Settlement, StoreError};
use serde_json::json;
use sqlx::{Connection as _, Row as _};

use super::{Fetch, a_test, complete, counted, tests};
use crate::harness::{BackEnd, Bench, LIMIT, task, wait_until};

/// The one that holds up the others.
const FIRST: &str = "first";

/// Fetches under way, each of a test job of its own.
async fn begun(bench: &Bench, names: &[&str]) -> Vec<Fetch> {
    let mut all = Vec::new();
    for name in names {
        let (task, _, epoch) = bench.running(name).await;
        let target = json!({
            "backend": "lab", "remote_id": name, "project": "group/project", "build": "v1", "environment": "board",
            "task": name, "again": 0,
        });
        let begun = bench.store.begin_fetch(&task.id, epoch, &target).await;
        let longshore::store::Begun::Run {
            run,
            testjob,
            generation,
            ..
        } = begun.unwrap()
        else {
            panic!("{name} was given no run");
        };
        all.push(Fetch {
            task: task.id,
            epoch,
            run,
            testjob,
            generation,
        });
    }
    all
}

impl Fetch {
    /// Publishes three tests that it brings along, and a plugin's task.
    async fn bring(&self, bench: &Bench) -> Result<Vec<Ring>, StoreError> {
        let plugin = self.plugin_id("p");
        let mut ops = bench.store.stage(self.run, 1, &tests("a", 3))?;
        ops.extend(bench.store.publish_fetch(
            &self.task,
            self.run,
            self.testjob,
            self.generation,
            &counted(3),
            &complete(),
            &[("p".to_owned(), plugin.clone())],
        )?);
        let (store, settlement) = (&bench.store, Settlement::default());
        let follow = [task(plugin.as_str())];
        store
            .settle_with(&self.task, self.epoch, &settlement, ops, &follow)
            .await
    }
}

/// Has all but the first of these be published while that one's commit waits for a lock, which it gets at once or once the others are
/// answered. Their answers, the first's before.
async fn published_behind(
    bench: &Bench,
    fetches: &[Fetch],
    at_once: bool,
) -> Vec<Result<Vec<Ring>, StoreError>> {
    let mut holder = bench.postgres().await;
    let mut holding = holder.begin().await.unwrap();
    let locked = sqlx::query("select pg_backend_pid() from tasks where id = 'first' for update");
    let pid: i32 = locked.fetch_one(&mut *holding).await.unwrap().get(0);
    let mut all: Vec<_> = fetches
        .iter()
        .map(|fetch| Box::pin(fetch.bring(bench)))
        .collect();
    // The first look begins a command, or queues it up.
    assert!(poll_immediate(&mut all[0]).await.is_none());
    let waits =
        format!("select count(*) from pg_stat_activity where {pid} = any(pg_blocking_pids(pid))");
    wait_until("the first waits for the lock", LIMIT, async || {
        bench.number(&waits).await == 1
    })
    .await;
    for other in &mut all[1..] {
        assert!(poll_immediate(other).await.is_none());
    }
    let first = all.remove(0);
    if at_once {
        holding.rollback().await.unwrap();
        let (first, others) = join(first, join_all(all)).await;
        return [first].into_iter().chain(others).collect();
    }
    let others = join_all(all).await;
    holding.rollback().await.unwrap();
    [first.await].into_iter().chain(others).collect()
}

/// Those that wait go together.
async fn published_together(
    bench: &Bench,
    fetches: &[Fetch],
) -> Vec<Result<Vec<Ring>, StoreError>> {
    published_behind(bench, fetches, true).await
}

/// How many transactions have written these runs.
async fn commits(bench: &Bench, fetches: &[Fetch]) -> i64 {
    let runs = fetches.iter().map(|fetch| fetch.run.to_string());
    let runs = runs.collect::<Vec<_>>().join(", ");
    let query = format!("select count(distinct cast(xmin as text)) from runs where id in ({runs})");
    bench.number(&query).await
}

async fn visible_in(bench: &Bench, fetch: &Fetch) -> Vec<String> {
    super::visible(bench, fetch.testjob).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn those_that_wait_share_a_commit_and_its_messages_are_given_out_once() {
    Bench::run(BackEnd::Postgres, async |bench: Bench| {
        let fetches = begun(&bench, &[FIRST, "b", "c", "d"]).await;
        let answers = published_together(&bench, &fetches).await;
        let mut rung = Vec::new();
        for answer in answers {
            rung.extend(
                answer
                    .unwrap()
                    .into_iter()
                    .map(|ring| ring.task.id.to_string()),
            );
        }
        rung.sort_unstable();
        assert_eq!(rung, ["b/p", "c/p", "d/p", "first/p"]);
        assert_eq!(commits(&bench, &fetches[1..]).await, 1, "one commit");
        assert_eq!(commits(&bench, &fetches).await, 2, "and the first's");
        for fetch in &fetches {
            assert_eq!(visible_in(&bench, fetch).await, ["a0", "a1", "a2"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_one_is_refused_for_is_no_matter_of_the_others() {
    Bench::run(BackEnd::Postgres, async |bench: Bench| {
        let names = [FIRST, "good", "stale", "superseded", "doubled", "well"];
        let fetches = begun(&bench, &names).await;
        let [_, good, stale, superseded, doubled, well] = fetches.as_slice() else {
            panic!("six are under way");
        };
        let worker = bench.view("stale").await.worker.unwrap();
        let (heir, dead) = (bench.worker().await, WorkerId::new(worker));
        let taken = bench
            .store
            .take_over(&heir, &stale.task, stale.epoch, &dead, 9, None);
        assert!(taken.await.unwrap().is_some());
        let id = superseded.testjob;
        bench
            .execute(&format!(
                "update \"{}\".testjobs set wanted = 2 where id = {id}",
                bench.config.schema
            ))
            .await;
        doubled.stage(&bench, 1, &[a_test("there already")]).await;

        let answers = published_together(&bench, &fetches).await;
        let [Ok(_), Ok(_), gone, left, refused, Ok(_)] = answers.as_slice() else {
            panic!("{answers:?}");
        };
        assert!(
            matches!(gone, Err(StoreError::Stale { command: "settle" })),
            "{gone:?}"
        );
        let lock = "testjob_lock";
        assert!(
            matches!(left, Err(StoreError::Stale { command }) if *command == lock),
            "{left:?}"
        );
        assert!(
            matches!(refused, Err(StoreError::Refused { .. })),
            "{refused:?}"
        );
        for fetch in [good, well] {
            assert_eq!(visible_in(&bench, fetch).await, ["a0", "a1", "a2"]);
        }
        let three = [stale, superseded, doubled]
            .map(|fetch| fetch.run.to_string())
            .join(", ");
        let published =
            format!("select count(*) from runs where id in ({three}) and state = 'published'");
        assert_eq!(bench.number(&published).await, 0);
        let left = format!("select count(*) from staged_tests where run in ({three})");
        assert_eq!(
            bench.number(&left).await,
            1,
            "the one that was there already"
        );
        let plugins =
            "select count(*) from tasks where id in ('stale/p', 'superseded/p', 'doubled/p')";
        assert_eq!(bench.number(plugins).await, 0);
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_that_waits_for_a_lock_does_not_hold_up_the_others() {
    Bench::run(BackEnd::Postgres, async |bench: Bench| {
        let fetches = begun(&bench, &[FIRST, "b", "c"]).await;
        for answer in published_behind(&bench, &fetches, false).await {
            answer.unwrap();
        }
        for fetch in &fetches {
            assert_eq!(visible_in(&bench, fetch).await, ["a0", "a1", "a2"]);
        }
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_command_whose_caller_has_gone_is_run_all_the_same() {
    Bench::run(BackEnd::Postgres, async |bench: Bench| {
        let fetches = begun(&bench, &[FIRST]).await;
        assert!(
            poll_immediate(Box::pin(fetches[0].bring(&bench)))
                .await
                .is_none()
        );
        wait_until("it is published", LIMIT, async || {
            !visible_in(&bench, &fetches[0]).await.is_empty()
        })
        .await;
    })
    .await;
}
