//! The outages again (25 to 27), of real workers that run real commands: what is published is published once, in order, and nobody is
//! tested twice for it.
//!
//! The commands write down what they do: `journal` what began, under which epoch, `public` what was published.

use std::sync::Arc;
use std::time::Duration;

use longshore::gate::{Entry, NewEntry, Role, Settings, Spec, Step, Test, Verb};
use serde_json::Map;

use super::super::bed::{GATE, voting};
use crate::exec::{QUEUE, stop};
use crate::harness::{BackEnd, Child, LIMIT, Private, wait_until};
use crate::scene::{Scene, on_both_with, scene};

on_both_with!("";
    executor_disconnect,
    scheduler_disconnect,
);

/// A probe finds what is public; what else there is to do is `script`'s to say.
const HEAD: &str = r#"
    task=${LONGSHORE_TASK_ID#gate/g/} entry=${LONGSHORE_TASK_ID#gate/g/} epoch=$LONGSHORE_EPOCH
    entry=${entry%%/*}
    echo "$task $epoch" >> journal
    publish() { echo "$entry" >> public; }
    probe() { if grep -qx "$entry" public 2>/dev/null; then result done; else result absent; fi; }
"#;

/// What the tasks of an entry do where nothing is the matter with them.
const REST: &str = r#"
    case $task in
        */publish/*) publish ;;
        */probe/*) probe ;;
    esac
"#;

fn demo() -> Step {
    Step {
        task: "demo".into(),
        queue: QUEUE.into(),
        kwargs: Map::default(),
    }
}

fn entry(id: &str) -> NewEntry {
    let unit = Test {
        step: demo(),
        ..voting("unit")
    };
    NewEntry {
        id: id.into(),
        spec: Spec {
            tests: vec![unit],
            publish: demo(),
            verify: Some(demo()),
            probe: Some(demo()),
            ..Spec::default()
        },
        ..NewEntry::default()
    }
}

impl Scene {
    /// Enqueues `a` and `b`, whose tasks run `script` first. Its process tells nobody: that is left to the leader.
    async fn gated(&self, script: &str) {
        self.script(&format!("{HEAD}{script}{REST}"), "");
        let verb = Verb::Enqueue(Settings::default(), vec![entry("a"), entry("b")]);
        self.bench.store.gate(GATE, &verb).await.unwrap();
    }

    /// Both are published, once each and in order, tested once; answers the first of them.
    async fn both_land(&self) -> Entry {
        let store = &self.bench.store;
        wait_until("the gate is empty", 3 * LIMIT, async || {
            // The store may have been away a moment ago.
            let Ok(view) = store.gate_view(GATE).await else {
                return false;
            };
            view.unwrap().entries.is_empty()
        })
        .await;
        assert_eq!(self.wrote("public").unwrap(), "a\nb\n");
        let mut ended = store.gate_ended(GATE, 10).await.unwrap();
        ended.sort_by_key(|(entry, _)| entry.published);
        let places: Vec<_> = ended.iter().map(|(entry, _)| entry.published).collect();
        assert_eq!(places, [Some(1), Some(2)]);
        for (entry, _) in &ended {
            assert_eq!(entry.generation, 1, "an outage is no verdict: {entry:#?}");
            assert_eq!(entry.tries[&Role::Publish], 1, "{entry:#?}");
        }
        ended.swap_remove(0).0
    }
}

async fn kill(mut worker: Child) {
    worker.signal("KILL");
    worker.ended(LIMIT).await;
}

/// 25. The worker is killed in a test, and its heir once it has published.
async fn executor_disconnect(scene: Arc<Scene>) {
    let script = r#"
        case $task.$epoch in
            a/1/unit.1) echo yes > tested; await never ;;
            a/publish/1.*) publish; echo yes > published; await never ;;
        esac
    "#;
    scene.gated(script).await;
    let first = scene.worker("fetch");
    scene.writes("tested").await;
    kill(first).await;
    let second = scene.worker("fetch");
    scene.writes("published").await;
    kill(second).await;
    let third = scene.worker("fetch");
    let a = scene.both_land().await;
    assert_eq!(a.tries[&Role::Probe], 1, "what it did was looked at");
    let journal = scene.wrote("journal").unwrap();
    assert!(journal.contains("a/1/unit 2\n"), "{journal}");
    assert!(!journal.contains("a/publish/1 2\n"), "{journal}");
    stop(third).await;
}

/// 26. Whoever steps the gate ends before it passes the end of a test on, before it has stepped the gate, and after that.
async fn scheduler_disconnect(scene: Arc<Scene>) {
    scene.gated("").await;
    for point in ["pass_on:before", "gate:before", "gate:after"] {
        let mut doomed = scene.doomed("fetch", point);
        let status = doomed.ended(2 * LIMIT).await;
        let said = format!("aborted at a crash point point=\"{point}\"");
        assert!(
            !status.success() && doomed.log().contains(&said),
            "it ended elsewhere than at {point}:\n{}",
            doomed.log()
        );
    }
    let heir = scene.worker("fetch");
    scene.both_land().await;
    stop(heir).await;
}

/// Longer than a worker's lease: the outage that is to be survived, not a wait for anything.
const OUTAGE: Duration = Duration::from_secs(4);

/// Whoever is at work, in a test and while it publishes, goes on when the store is away.
const WAITS: &str = r#"
    case $task in
        a/1/unit) echo yes > tested; await go-tested; echo yes > over-tested ;;
        a/publish/1) publish; echo yes > published; await go-published; echo yes > over-published; exit 0 ;;
    esac
"#;

/// 27. The database does not answer, from before a test ends until after it has; and so when something is published.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper_disconnect_postgres() {
    let servers = Private::start();
    scene(BackEnd::Postgres, "", async |scene| {
        scene.pause_watching();
        scene.gated(WAITS).await;
        let worker = scene.worker("fetch");
        for what in ["tested", "published"] {
            scene.writes(what).await;
            servers.pause_postgres("STOP");
            scene.touch(&format!("go-{what}"));
            scene.writes(&format!("over-{what}")).await;
            tokio::time::sleep(OUTAGE).await;
            servers.pause_postgres("CONT");
        }
        scene.both_land().await;
        stop(worker).await;
    })
    .await;
}

/// 27. The same with a file that nobody can write to.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn zookeeper_disconnect_sqlite() {
    scene(BackEnd::Sqlite, "", async |scene| {
        scene.gated(WAITS).await;
        let worker = scene.worker("fetch");
        for what in ["tested", "published"] {
            scene.writes(what).await;
            let lock = scene.bench.lock_for_writing().await;
            scene.touch(&format!("go-{what}"));
            scene.writes(&format!("over-{what}")).await;
            tokio::time::sleep(OUTAGE).await;
            drop(lock);
        }
        scene.both_land().await;
        stop(worker).await;
    })
    .await;
}
