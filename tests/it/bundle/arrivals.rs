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
