//! Nobody is told too early that a revision is live: not while a claim is under way, not because a worker seems dead.

use sqlx::Connection as _;

use super::*;

on_both_with!(crate::bundle::FOLLOWS;
    a_worker_that_was_taken_for_dead_begins_nothing_before_it_has_looked_again,
);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revision_is_live_once_nothing_is_left_that_would_begin_with_the_one_before() {
    crate::scene::scene(BackEnd::Postgres, FOLLOWS, a_claim_is_under_way).await;
}

async fn begins_with(scene: &Scene, revision: &str) {
    let begins = |report: &Value| report["applied"] == revision;
    scene.reports("it begins", begins).await;
}

async fn a_claim_is_under_way(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    begins_with(&scene, &first).await;
    let mut lock = scene.bench.postgres().await;
    let held = "begin; lock table tasks in share mode";
    sqlx::raw_sql(held).execute(&mut lock).await.unwrap();
    scene
        .announce(&[Task::new("say", QUEUE).with_id("one")])
        .await;
    wait_until("a claim waits", LIMIT, async || {
        let waiting =
            "select count(*) from pg_locks where not granted and relation = 'tasks'::regclass";
        scene.bench.number(waiting).await > 0
    })
    .await;
    scene.three(2);
    let second = scene.publish().await;
    let kept = scene.bench.folder.join("kept/production/current-fetch");
    wait_until("it is to be taken over", LIMIT, async || {
        std::fs::read_link(&kept).unwrap() == *second
    })
    .await;
    assert_eq!(scene.wait(&second, "2s").await.0, 2, "too early");
    sqlx::raw_sql("commit").execute(&mut lock).await.unwrap();
    lock.close().await.unwrap();
    scene.is_live(&second).await;
    scene.done("one").await;
    assert_eq!(scene.revision_of("one").await, Some(first));
    assert_eq!(scene.runs("say", "two").await, Some(second));
}

async fn a_worker_that_was_taken_for_dead_begins_nothing_before_it_has_looked_again(
    scene: Arc<Scene>,
) {
    scene.three(1);
    let first = scene.publish().await;
    let quick = std::fs::read_to_string(&scene.config).unwrap();
    // It looks by itself at its start only.
    scene.configure("look_every = \"100ms\"", "look_every = \"1h\"");
    let sleeper = scene.fetch_worker();
    begins_with(&scene, &first).await;
    std::fs::write(&scene.config, quick).unwrap();
    let _other = scene.worker("postprocess");
    wait_until("both are live", LIMIT, async || {
        let (code, told) = scene.wait(&first, "20s").await;
        code == 0 && told.contains("2 workers")
    })
    .await;
    scene.bench.freeze(&sleeper).await;
    scene.three(2);
    let second = scene.publish().await;
    // Of a worker that is dead nobody expects anything.
    scene.is_live(&second).await;
    scene
        .enqueue(&[Task::new("say", QUEUE).with_id("one")])
        .await;
    sleeper.signal("CONT");
    scene.done("one").await;
    assert_eq!(scene.revision_of("one").await, Some(second));
    assert_eq!(scene.said(), ["2 2 2"; 2]);
}
