//! Write sections: interleaved callers, ended at any moment, leave nothing half-done.
//!
//! The trouble this guards against: interleaved logical threads that shared one transaction, where the
//! end of one took the work of another with it, or left the transaction open.

use std::time::Duration;

use longshore::id::{Epoch, TaskId};
use longshore::store::{ClaimRequest, Store};
use serde_json::json;
use tokio_util::task::TaskTracker;

use crate::harness::{BackEnd, Bench, LIMIT, on_both, task, wait_until};

on_both!(
    interleaved_steps_ended_at_random_never_skip_one,
    callers_ended_at_random_leave_no_transaction_open,
    a_command_is_made_to_its_end_though_its_caller_has_gone,
);

/// Numbers that look random and are the same in each run (Knuth's MMIX generator).
struct Dice(u64);

impl Dice {
    fn below(&mut self, end: u64) -> u64 {
        self.0 = self
            .0
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.0 >> 33) % end
    }
}

/// Writes the steps A, B, C of one task, with I/O in between: each is a command of its own.
async fn steps(store: Store, id: TaskId, epoch: Epoch, pauses: [u64; 2]) {
    for (step, pause) in [("A", 0), ("B", pauses[0]), ("C", pauses[1])] {
        tokio::time::sleep(Duration::from_micros(pause)).await;
        // A second statement, so that each step is a transaction of its own.
        let second = store.testjob_waits(0, step).unwrap();
        let mark = json!(step);
        if store
            .checkpoint(&id, epoch, Some(&mark), Some(step), vec![second])
            .await
            .is_err()
        {
            return;
        }
        let made = task(&format!("{id}{step}"));
        if store.enqueue(&[made]).await.is_err() {
            return;
        }
    }
}

async fn interleaved_steps_ended_at_random_never_skip_one(bench: Bench) {
    const CALLERS: u64 = 200;
    let (worker, mut dice, callers) = (bench.worker().await, Dice(7), TaskTracker::new());
    let tasks: Vec<_> = (0..CALLERS).map(|n| task(&format!("{n:03}"))).collect();
    let requests: Vec<_> = tasks.iter().map(ClaimRequest::once).collect();
    bench.store.claim(&worker, &requests).await.unwrap();
    let mut running = Vec::new();
    for task in tasks {
        let pauses = [dice.below(30_000), dice.below(30_000)];
        let caller = steps(bench.store.clone(), task.id, Epoch::FIRST, pauses);
        running.push(callers.spawn(caller));
    }
    for caller in &running {
        if dice.below(4) > 0 {
            tokio::time::sleep(Duration::from_micros(dice.below(1500))).await;
            caller.abort();
        }
    }
    callers.close();
    callers.wait().await;
    bench
        .store
        .enqueue(&[task("the store works on")])
        .await
        .unwrap();
    // What was under way when its caller ended is made to its end: close waits for it.
    let reader = bench.other();
    bench.store.close().await;
    let filter = |id: String| longshore::store::Filter {
        id: Some(id),
        state: None,
        most: 1,
    };
    let mut whole = 0;
    for n in 0..CALLERS {
        let progress = reader
            .tasks(&filter(format!("{n:03}")))
            .await
            .unwrap()
            .remove(0)
            .progress;
        let made = async |step: &str| {
            !reader
                .tasks(&filter(format!("{n:03}{step}")))
                .await
                .unwrap()
                .is_empty()
        };
        let made = [made("A").await, made("B").await, made("C").await];
        let reached = progress.as_deref().map_or(0, |step| match step {
            "A" => 1,
            "B" => 2,
            _ => 3,
        });
        for (step, made) in made.into_iter().enumerate() {
            assert!(
                !made || step < reached,
                "task {n}: {made} before its checkpoint"
            );
            assert!(
                made || step + 1 >= reached,
                "task {n} skipped step {step}: {progress:?}"
            );
        }
        whole += usize::from(made[2]);
    }
    assert!(whole > 0 && whole < 200, "{whole} of 200 came to their end");
    reader.close().await;
}

async fn callers_ended_at_random_leave_no_transaction_open(bench: Bench) {
    const CALLERS: u64 = 10_000;
    const AT_ONCE: u64 = 100;
    let user = format!("user_{}", bench.config.schema);
    let mut config = bench.config.clone();
    if bench.back_end == BackEnd::Postgres {
        // A user of its own: its sessions are this test's alone.
        bench
            .execute(&format!("create role {user} login superuser"))
            .await;
        config.url = config.url.replace("postgres@", &format!("{user}@"));
    }
    let store = Store::open(&config, bench.clock.clone()).unwrap();
    let (mut dice, callers) = (Dice(11), TaskTracker::new());
    for round in 0..CALLERS / AT_ONCE {
        let mut calls: Vec<_> = (0..AT_ONCE)
            .map(|n| {
                let store = store.clone();
                // Two statements: a transaction, and not a single statement that commits itself.
                callers.spawn(async move { store.enqueue(&[task(&format!("{round}.{n}"))]).await })
            })
            .collect();
        // While the first few end by themselves, others are within their transactions.
        for call in calls.drain(..usize::try_from(dice.below(6)).unwrap()) {
            call.await.unwrap().unwrap();
        }
        for call in calls {
            call.abort();
        }
    }
    callers.close();
    callers.wait().await;
    if bench.back_end == BackEnd::Postgres {
        let open = format!(
            "select count(*) from pg_stat_activity where usename = '{user}' and state <> 'idle'"
        );
        wait_until("no session has a transaction open", LIMIT, async || {
            bench.number(&open).await == 0
        })
        .await;
    }
    let added = store.enqueue(&[task("the store works on")]).await.unwrap();
    assert_eq!(added.new.len(), 1);
    store.close().await;
    // Each task has its announcement, or neither is there.
    let unannounced = "select count(*) from tasks where id not in (select task_id from outbox)";
    assert_eq!(bench.number(unannounced).await, 0);
    let tasks = bench.number("select count(*) from tasks").await;
    assert!(tasks > 1, "no caller came as far as its command");
    if bench.back_end == BackEnd::Postgres {
        bench.execute(&format!("drop role {user}")).await;
    }
}

async fn a_command_is_made_to_its_end_though_its_caller_has_gone(bench: Bench) {
    const CALLERS: usize = 50;
    let store = bench.other();
    for n in 0..CALLERS {
        let tasks = [task(&n.to_string())];
        let mut call = Box::pin(store.enqueue(&tasks));
        // It has begun its command, and is dropped while that runs.
        let first = futures::poll!(&mut call);
        assert!(first.is_pending(), "no database answers at once");
    }
    store.close().await;
    let made = bench.number("select count(*) from tasks").await;
    assert_eq!(usize::try_from(made).unwrap(), CALLERS);
}
