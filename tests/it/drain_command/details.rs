//! What the pods run, as the store tells.

use std::path::PathBuf;

use longshore::id::WorkerId;
use longshore::store::Member;
use serde_json::{Value, json};

use super::Bed;
use crate::cluster::Pod;
use crate::harness::{Bench, LIMIT, LONG, id, member, on_both, task};

on_both!(
    what_runs_is_told_from_the_store,
    a_pool_is_waited_for_until_the_store_says_that_nothing_runs,
);

/// A worker of the pod `p-0` that the store knows.
async fn worker_of(bench: &Bench, bed: &Bed, pod: &str) -> WorkerId {
    let uid = bed.cluster.pod(pod).unwrap()["metadata"]["uid"].clone();
    let uid = uid.as_str().unwrap();
    let fresh = member();
    let member = Member {
        id: WorkerId::new(format!("{pod}.{uid}.{}", fresh.id)),
        host: pod.into(),
        ..fresh
    };
    bench.store.join(&member, "running", LONG).await.unwrap();
    member.id
}

/// A configuration with the test's store; its broker is not asked.
fn config_of(bench: &Bench) -> PathBuf {
    let broker = if bench.store.is_embedded() {
        "embedded"
    } else {
        "amqp://nobody@127.0.0.1:1/"
    };
    bench.write_config(broker, "")
}

async fn what_runs_is_told_from_the_store(bench: Bench) {
    let bed = Bed::with_pod(Pod::busy);
    let worker = worker_of(&bench, &bed, "p-0").await;
    let epoch = bench.claimed(&worker, &task("t1")).await.epoch;
    let (t1, state, progress) = (id("t1"), json!({}), Some("45 % of the modules"));
    let saved = bench
        .store
        .checkpoint(&t1, epoch, Some(&state), progress, vec![]);
    saved.await.unwrap();
    bench
        .execute("update tasks set started_at = started_at - 60000 where id = 't1'")
        .await;
    // Of an earlier life of the name, and of nobody.
    let stranger = Member {
        host: "p-0".into(),
        ..member()
    };
    bench.store.join(&stranger, "running", LONG).await.unwrap();
    bench.claimed(&stranger.id, &task("t2")).await;
    bench
        .execute(
            "insert into testjobs (backend, remote_id, project, build, environment, state, created_at) \
             values ('lab', '7', 'p', 'b', 'e', 'postprocessing', 1); \
             insert into runs (testjob, generation, part, task_id, state, created_at) \
             select id, 1, 'tradefed', 't1', 'staging', 1 from testjobs",
        )
        .await;
    let config = config_of(&bench);
    let line = format!("node n1 --json --config {}", config.display());
    let ended = bed.drain(&line).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    let report = ended.objects().remove(0);
    assert_eq!(report["details_missing"], Value::Null);
    let tasks = report["holds"][0]["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    for (key, value) in [
        ("id", "t1"),
        ("testjob", "lab/7"),
        ("progress", "45 % of the modules"),
    ] {
        assert_eq!(tasks[0][key], value);
    }
    for key in ["started_at", "checkpoint_at", "estimated_end"] {
        assert!(tasks[0][key].is_i64(), "{key}: {}", tasks[0]);
    }
    // A store that answers with an error costs the details alone.
    bench.execute("alter table tasks rename to gone").await;
    let ended = bed.drain(&line).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    let report = ended.objects().remove(0);
    assert_eq!(report["holds"][0]["state"], "busy");
    assert!(report["details_missing"].is_string());
}

async fn a_pool_is_waited_for_until_the_store_says_that_nothing_runs(bench: Bench) {
    let bed = Bed::new();
    bed.cluster.add_pod(Pod::elastic("fetch", "f-0").on("n1"));
    let worker = worker_of(&bench, &bed, "f-0").await;
    bench.claimed(&worker, &task("t1")).await;
    let config = config_of(&bench);
    let line = format!("pool fetch --hand-off --wait --config {}", config.display());
    let mut drain = bed.start(&line);
    drain.said("working, asked to hand off", LIMIT).await;
    bench
        .execute("update tasks set state = 'done', ended_at = 1 where id = 't1'")
        .await;
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
}
