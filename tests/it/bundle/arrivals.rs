//! Workers that come while somebody is told that a revision is live: they begin nothing that is older.

use sqlx::Connection as _;

use super::crew::QUEUES;
use super::*;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_that_was_not_on_the_list_yet_begins_with_what_is_live() {
    crate::scene::scene(BackEnd::Postgres, FOLLOWS, its_first_word_is_late).await;
}

/// The reports of one pool wait for a lock.
const LATE: &str = "create function late() returns trigger language plpgsql as $$ begin
    if new.pool = 'postprocess' then perform pg_advisory_xact_lock(4711); end if; return new; end $$;
    create trigger late before insert on bundle_reports for each row execute function late()";

async fn its_first_word_is_late(scene: Arc<Scene>) {
    scene.tells(1);
    let first = scene.publish().await;
    let _there = scene.on("fetch", "e1", &[]);
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    scene.bench.execute(LATE).await;
    let mut lock = scene.bench.postgres().await;
    let held = "select pg_advisory_lock(4711)";
    sqlx::raw_sql(held).execute(&mut lock).await.unwrap();
    // By itself it would look again in an hour.
    let comes = scene.on(
        "postprocess",
        "p1",
        &[("LONGSHORE__BUNDLE__LOOK_EVERY", "1h")],
    );
    comes.said("worker joined", LIMIT).await;
    wait_until("it is about to say what it has", LIMIT, async || {
        let waiting = "select count(*) from pg_locks where locktype = 'advisory' and objid = 4711 and not granted";
        scene.bench.number(waiting).await > 0
    })
    .await;
    scene.tells(2);
    let second = scene.publish().await;
    scene.is_live(&second).await;
    scene
        .enqueue(&[Task::new("tell", QUEUES[1]).with_id("one")])
        .await;
    lock.close().await.unwrap();
    scene.done("one").await;
    assert_eq!(scene.revision_of("one").await, Some(second));
    assert!(scene.told().iter().all(|line| line.number() == 2));
}

on_both_with!(crate::bundle::FOLLOWS;
    a_worker_that_starts_under_bad_revisions_has_what_was_live_meanwhile,
    a_worker_that_wakes_under_bad_revisions_has_what_was_live_meanwhile,
    a_worker_that_wakes_under_bad_revisions_begins_anew_for_what_was_live_meanwhile,
    a_worker_that_starts_under_one_whose_check_hangs_has_what_was_live_meanwhile,
);

/// Two workers with `first`.
async fn two_have(scene: &Scene, first: &str) -> [Child; 2] {
    let there = scene.on("postprocess", "p1", &[]);
    let comes = apart(scene);
    wait_until("both have it", LIMIT, async || {
        let (code, told) = scene.wait(first, "20s").await;
        code == 0 && told.contains("2 workers")
    })
    .await;
    [there, comes]
}

/// A worker that keeps what it fetches where nobody else does.
fn apart(scene: &Scene) -> Child {
    let own = scene.bench.folder.join("own");
    let own = ("LONGSHORE__BUNDLE__FOLDER", own.to_str().unwrap());
    scene.on("fetch", "e1", &[own])
}

/// Two revisions that nobody can take, one after the other.
async fn bad_ones(scene: &Scene) {
    for number in [3, 4] {
        scene.tells_nonsense(number);
        let bad = scene.publish_as(&["--unchecked"]).await;
        is_refused(scene, &bad).await;
    }
}

async fn is_refused(scene: &Scene, bad: &str) {
    wait_until("it is refused", LIMIT, async || {
        scene.wait(bad, "1s").await.0 == 3
    })
    .await;
}

async fn a_worker_that_starts_under_bad_revisions_has_what_was_live_meanwhile(scene: Arc<Scene>) {
    scene.tells(1);
    let first = scene.publish().await;
    let [_there, mut goes] = two_have(&scene, &first).await;
    goes.signal("KILL");
    goes.wait().await;
    scene.tells(2);
    let second = scene.publish().await;
    scene.is_live(&second).await;
    bad_ones(&scene).await;
    let _back = apart(&scene);
    assert_eq!(scene.runs("tell", "one").await, Some(second));
}

async fn a_worker_that_wakes_under_bad_revisions_has_what_was_live_meanwhile(scene: Arc<Scene>) {
    let second = wakes(&scene).await;
    let status = scene.status().await;
    let workers = status["workers"].as_array().unwrap();
    for one in workers {
        assert_eq!(one["standing"], "refused", "{one}");
        assert_eq!(one["report"]["applied"], second.as_str(), "{one}");
    }
}

async fn a_worker_that_wakes_under_bad_revisions_begins_anew_for_what_was_live_meanwhile(
    scene: Arc<Scene>,
) {
    pools(&scene, "before");
    wakes(&scene).await;
}

/// What an elastic worker takes from, which only a restart changes.
fn pools(scene: &Scene, queue: &str) {
    let pools = format!(
        "[pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\", \"{queue}\"]\n\
         [pools.postprocess]\nkind = \"pinned\"\nqueues = [\"ci_fetch_postprocess\"]\n"
    );
    scene.write("commands/pools.toml", &pools);
}

/// An elastic worker is taken for dead while something is live, and wakes when something else was published.
async fn wakes(scene: &Scene) -> String {
    scene.tells(1);
    let first = scene.publish().await;
    let [_there, sleeps] = two_have(scene, &first).await;
    scene.bench.freeze(&sleeps).await;
    scene.tells(2);
    if scene.source("commands").join("pools.toml").exists() {
        pools(scene, "meanwhile");
    }
    let second = scene.publish().await;
    // Of a worker that is dead nobody expects anything.
    scene.is_live(&second).await;
    bad_ones(scene).await;
    scene
        .enqueue(&[Task::new("tell", QUEUES[0]).with_id("one")])
        .await;
    sleeps.signal("CONT");
    scene.done("one").await;
    assert_eq!(scene.revision_of("one").await.as_ref(), Some(&second));
    assert!(scene.told().iter().all(|line| line.number() == 2));
    second
}

async fn a_worker_that_starts_under_one_whose_check_hangs_has_what_was_live_meanwhile(
    scene: Arc<Scene>,
) {
    scene.tells(1);
    let first = scene.publish().await;
    let _there = scene.on("postprocess", "p1", &[]);
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    let pipe = scene.bench.folder.join("pipe");
    let made = std::process::Command::new("mkfifo").arg(&pipe).status();
    assert!(made.unwrap().success());
    let hangs = format!(
        "[backends.other]\nkind = \"lava\"\nurl = \"http://127.0.0.1:1\"\ntoken_file = \"{}\"\n",
        pipe.display()
    );
    scene.write("switches/backend.toml", &hangs);
    let hangs = scene.publish_as(&["--unchecked"]).await;
    is_refused(&scene, &hangs).await;
    let _comes = apart(&scene);
    assert_eq!(scene.runs("tell", "one").await, Some(first));
}
