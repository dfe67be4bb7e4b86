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
    a_worker_that_comes_back_under_a_bad_revision_has_what_was_live_meanwhile,
);

async fn a_worker_that_comes_back_under_a_bad_revision_has_what_was_live_meanwhile(
    scene: Arc<Scene>,
) {
    scene.tells(1);
    let first = scene.publish().await;
    let there = scene.on("postprocess", "p1", &[]);
    // It keeps what it fetches where nobody else does.
    let own = scene.bench.folder.join("own");
    let own = [("LONGSHORE__BUNDLE__FOLDER", own.to_str().unwrap())];
    let mut goes = scene.on("fetch", "e1", &own);
    wait_until("both have it", LIMIT, async || {
        let (code, told) = scene.wait(&first, "20s").await;
        code == 0 && told.contains("2 workers")
    })
    .await;
    goes.signal("KILL");
    goes.wait().await;
    scene.tells(2);
    let second = scene.publish().await;
    scene.is_live(&second).await;
    scene.tells_nonsense(3);
    ok(scene.publish_with(&["--unchecked"]).await);
    there.said("was refused", LIMIT).await;
    let _back = scene.on("fetch", "e1", &own);
    assert_eq!(scene.runs("tell", "one").await, Some(second));
}
