//! The same gate before a signed repository on disk or in S3: its publisher is `apt.promote`, and dies or sleeps at every
//! point. The reader is the one of the tests of `apt.promote`.

use serde_json::json;

use super::*;
use crate::apt::bed::{Bed, Kind, bed};

/// Two workers: what is published is published by one of its own, so that it is this one that dies.
fn settings() -> String {
    let pools = "\n[pools.publish]\nkind = \"pinned\"\nqueues = [\"publish\"]\nslots = 1\n\
        [pools.tests]\nkind = \"pinned\"\nqueues = [\"tests\"]\nslots = 2\n";
    format!("{EXAMPLE}{pools}")
}

async fn on(kind: Kind) {
    bed(
        kind,
        &settings(),
        a_promotion_that_dies_anywhere_is_made_once,
    )
    .await;
}

mod a_promotion_that_dies_anywhere_is_made_once {
    use super::Kind;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn disk() {
        super::on(Kind::Disk).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn bucket() {
        super::on(Kind::Bucket).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_promotion_that_sleeps_past_its_lease_changes_nothing() {
    bed(Kind::Bucket, &settings(), a_sleeper_changes_nothing).await;
}

/// Where the publisher dies, and whether its promotion is there then, and whether that is known.
const POINTS: &[(&str, bool, bool)] = &[
    ("intake:claimed", false, false),
    ("apt:noted", false, false),
    ("storage:piece", false, false),
    ("apt:staged", false, false),
    ("apt:indexed", false, false),
    ("apt:signed", false, false),
    ("apt:committed", true, false),
    ("settle:ready", true, false),
    ("settle:stored", true, true),
    ("settle:acknowledged", true, true),
];

/// The repository with something in it already, and the example beside it.
async fn furnished(bed: &Bed) {
    let source = format!(
        "deb [signed-by={}] {} stable main",
        bed.path("key.gpg").display(),
        bed.address()
    );
    furnish(bed.path("src").parent().unwrap(), &source);
    let mut worker = bed.worker();
    let file = bed.deb("seed", "1.0", 10);
    bed.promote("seed", &file, "stable").await;
    bed.done("seed").await;
    worker.signal("TERM");
    worker.ended(LIMIT).await;
}

fn entry(bed: &Bed, name: &str, depends: &str) -> NewEntry {
    let entry = package(bed.path("src").parent().unwrap(), name, depends, name);
    let Value::Object(kwargs) = json!({ "repository": "main", "to": "stable" }) else {
        unreachable!()
    };
    let publish = Step {
        kwargs,
        ..step("apt.promote", "publish")
    };
    NewEntry {
        spec: spec(publish),
        ..entry
    }
}

fn worker(bed: &Bed, pool: &str, point: &str) -> Child {
    let config = bed.config.to_str().unwrap();
    let crash = [("LONGSHORE_CRASH_AT", point)];
    let variables: &[_] = if point.is_empty() { &[] } else { &crash };
    Child::start(
        &bed.bench.folder,
        &["run", "--pool", pool, "--config", config],
        variables,
    )
}

async fn a_promotion_that_dies_anywhere_is_made_once(bed: Arc<Bed>) {
    furnished(&bed).await;
    let _tests = worker(&bed, "tests", "");
    let (mut order, mut journal) = (Vec::new(), vec![(1, "seed".to_owned(), "seed".to_owned())]);
    let mut before = "seed".to_owned();
    for (point, is_there, is_known) in POINTS {
        let name = point.replace(':', "-");
        enqueue(&bed.bench.store, [entry(&bed, &name, &before)]).await;
        let mut doomed = worker(&bed, "publish", point);
        let status = doomed.ended(2 * LIMIT).await;
        assert!(!status.success(), "{point} was never reached");
        let mut heir = worker(&bed, "publish", "");
        let ended = drained(&bed.bench.store).await;
        heir.signal("TERM");
        heir.ended(LIMIT).await;
        let times = if *is_there { 1 } else { 2 };
        let wanted = (times, u32::from(!is_known));
        assert_eq!(tries(&ended[&name]), wanted, "{point}");
        let by = format!("gate/{GATE}/{name}/publish/{times}");
        journal.push((i64::try_from(journal.len()).unwrap() + 1, by, name.clone()));
        order.push(name.clone());
        let order: Vec<&str> = order.iter().map(String::as_str).collect();
        published_as_tested(&ended, &["seed=1.0"], &order);
        assert_eq!(journaled(&bed).await, journal, "{point}");
        before = name;
    }
}

/// The generations of the channel: number, task, package.
async fn journaled(bed: &Bed) -> Vec<(i64, String, String)> {
    let journal = bed.journal("stable").await.into_iter();
    let told = journal.map(|(number, task, packages)| {
        assert_eq!(packages.len(), 1);
        let name = packages[0].split(':').next().unwrap().to_owned();
        (number, task, name)
    });
    told.collect()
}

async fn a_sleeper_changes_nothing(bed: Arc<Bed>) {
    furnished(&bed).await;
    let _tests = worker(&bed, "tests", "");
    let gate = bed.gate.as_ref().unwrap();
    gate.hold("PUT stable/InRelease");
    let zombie = worker(&bed, "publish", "");
    enqueue(
        &bed.bench.store,
        [entry(&bed, "lib", "seed"), entry(&bed, "app", "lib")],
    )
    .await;
    gate.holds().await;
    bed.bench.freeze(&zombie).await;
    let _heir = worker(&bed, "publish", "");
    let ended = drained(&bed.bench.store).await;
    published_as_tested(&ended, &["seed=1.0"], &["lib", "app"]);
    assert_eq!(tries(&ended["lib"]), (2, 1));
    let wanted = [
        (1, "seed".to_owned(), "seed".to_owned()),
        (2, format!("gate/{GATE}/lib/publish/2"), "lib".to_owned()),
        (3, format!("gate/{GATE}/app/publish/1"), "app".to_owned()),
    ];
    assert_eq!(journaled(&bed).await, wanted);
    // Its write comes late, and it wakes.
    gate.open();
    zombie.signal("CONT");
    zombie.said("lease is lost", LIMIT).await;
    assert_eq!(journaled(&bed).await, wanted);
}
