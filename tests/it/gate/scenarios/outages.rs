//! Workers, leaders and stores that go away, and lanes (Zuul's semaphores) whose holders do.

use longshore::gate::Verb;
use longshore::lane::Lane;
use longshore::store::{Fence, Settlement, State};
use longshore::task::Task;

use super::super::bed::{Bed, entry};
use crate::harness::{Bench, LONG, id, on_both, task};

on_both!(
    executor_disconnect,
    scheduler_disconnect,
    zookeeper_disconnect,
    semaphore_one,
    semaphore_two,
    semaphore_abandon,
    semaphore_abandon_pending_execution,
    semaphore_handler_cleanup,
    semaphore_zk_error,
);

/// 25. A worker is gone: its test is finished by another, and what it says later counts for nothing.
async fn executor_disconnect(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a")]).await;
    bed.loses("a/1/unit", 3).await;
    bed.done("a/1/unit").await;
    assert_eq!(bed.states().await, "a:publishing");
    let late = Settlement {
        state: Some(State::Dead),
        ..Settlement::default()
    };
    let epoch = longshore::id::Epoch::FIRST;
    let items = [(id(&bed.full("a/1/unit")), epoch, late)];
    assert!(bed.bench.store.settle(&items).await.unwrap().0.is_empty());
    assert_eq!(bed.states().await, "a:publishing");
}

/// 26. Whoever ended a test died before it came to the gate: the leader does.
async fn scheduler_disconnect(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.begins("a/1/unit").await;
    // What the commit that ends a task leaves, and no more.
    let ended =
        "update tasks set state = 'done', ended_at = 1, worker = null where id = 'gate/g/a/1/unit'";
    bed.bench.execute(ended).await;
    assert_eq!(bed.states().await, "a:speculating b:speculating");
    bed.look().await;
    assert_eq!(bed.states().await, "a:publishing b:speculating");
    // It died after it had marked the gate.
    bed.begins("a/publish/1").await;
    let publish = ended
        .replace("a/1/unit", "a/publish/1")
        .replace("worker = null", "worker = null, links = 2");
    bed.bench.execute(&publish).await;
    bed.bench
        .execute("update gates set dirty = 1, revision = revision + 1")
        .await;
    bed.look().await;
    assert_eq!(bed.states().await, "a:verifying b:speculating");
}

/// 27. The store is away in the middle: nothing is half done, and another handle goes on with the same gate.
async fn zookeeper_disconnect(bench: Bench) {
    let bed = Bed::new(bench).await;
    bed.enqueue([entry("a"), entry("b")]).await;
    let gone = bed.bench.other();
    gone.close().await;
    let verb = Verb::Dequeue("a".into());
    assert!(gone.gate("g", &verb).await.is_err());
    assert_eq!(bed.states().await, "a:speculating b:speculating");
    let other = bed.bench.other();
    other.gate("g", &verb).await.unwrap();
    other.close().await;
    assert_eq!(bed.open().await, ["b/2/unit"]);
}

async fn queue_up(bench: &Bench, limit: u32, names: &[&str]) {
    let lane = Lane {
        limit: Some(limit),
        ..Lane::new("l")
    };
    let tasks: Vec<Task> = names
        .iter()
        .map(|name| task(name).in_lane(lane.clone()))
        .collect();
    bench.store.enqueue(&tasks).await.unwrap();
}

async fn states(bench: &Bench, names: &[&str]) -> Vec<&'static str> {
    let mut states = Vec::new();
    for name in names {
        states.push(bench.view(name).await.state.as_str());
    }
    states
}

async fn finish(bench: &Bench, name: &str) {
    let worker = bench.worker().await;
    let epoch = bench.claimed(&worker, &task(name)).await.epoch;
    let items = [(id(name), epoch, Settlement::default())];
    bench.store.settle(&items).await.unwrap();
}

/// 40. One at a time.
async fn semaphore_one(bench: Bench) {
    queue_up(&bench, 1, &["a", "b"]).await;
    assert_eq!(states(&bench, &["a", "b"]).await, ["queued", "blocked"]);
    finish(&bench, "a").await;
    assert_eq!(states(&bench, &["a", "b"]).await, ["done", "queued"]);
}

/// 40. Two at a time.
async fn semaphore_two(bench: Bench) {
    queue_up(&bench, 2, &["a", "b", "c"]).await;
    assert_eq!(
        states(&bench, &["a", "b", "c"]).await,
        ["queued", "queued", "blocked"]
    );
    finish(&bench, "b").await;
    assert_eq!(
        states(&bench, &["a", "b", "c"]).await,
        ["queued", "done", "queued"]
    );
}

/// 41. A holder that is canceled frees its place when it has ended, and not before.
async fn semaphore_abandon(bench: Bench) {
    queue_up(&bench, 1, &["a", "b"]).await;
    let worker = bench.worker().await;
    let epoch = bench.claimed(&worker, &task("a")).await.epoch;
    bench.store.cancel("a", "by hand").await.unwrap();
    assert_eq!(states(&bench, &["a", "b"]).await, ["running", "blocked"]);
    let canceled = Settlement {
        state: Some(State::Canceled),
        ..Settlement::default()
    };
    bench
        .store
        .settle(&[(id("a"), epoch, canceled)])
        .await
        .unwrap();
    assert_eq!(states(&bench, &["a", "b"]).await, ["canceled", "queued"]);
}

/// 42. … and at once if it has not begun.
async fn semaphore_abandon_pending_execution(bench: Bench) {
    queue_up(&bench, 1, &["a", "b"]).await;
    bench.store.cancel("a", "by hand").await.unwrap();
    assert_eq!(states(&bench, &["a", "b"]).await, ["canceled", "queued"]);
}

async fn lead(bench: &Bench) -> Fence {
    bench.leader().await
}

/// 43. A dead holder's place is found again; a live one's is left alone.
async fn semaphore_handler_cleanup(bench: Bench) {
    queue_up(&bench, 1, &["a", "b"]).await;
    let (store, member) = bench.other_worker(LONG).await;
    let holder = task("a");
    let claims = [longshore::store::ClaimRequest::once(&holder)];
    store.claim(&member.id, &claims).await.unwrap();
    let fence = lead(&bench).await;
    bench.store.rescue(&fence, 3).await.unwrap();
    assert_eq!(states(&bench, &["a", "b"]).await, ["running", "blocked"]);
    store.leave(&member.id).await.unwrap();
    bench.store.rescue(&fence, 3).await.unwrap();
    // The head again, and nobody else.
    assert_eq!(states(&bench, &["a", "b"]).await, ["queued", "blocked"]);
    store.close().await;
}

/// 44. What goes wrong before it begins frees its place too: it is set aside, or the store is away when somebody would claim it.
async fn semaphore_zk_error(bench: Bench) {
    let lane = || Lane::new("l");
    queue_up(&bench, 1, &["x", "y"]).await;
    let (gone, member) = bench.other_worker(LONG).await;
    gone.close().await;
    let first = task("x");
    let claims = [longshore::store::ClaimRequest::once(&first)];
    assert!(gone.claim(&member.id, &claims).await.is_err());
    finish(&bench, "x").await;
    finish(&bench, "y").await;
    let mut late = task("a").in_lane(lane());
    late.expires_at = Some(bench.clock.now() - 1);
    let tasks = [late.clone(), task("b").in_lane(lane())];
    bench.store.enqueue(&tasks).await.unwrap();
    let aside = longshore::store::SetAside {
        task: late,
        state: State::Expired,
        reason: None,
    };
    bench.store.set_aside(&[aside]).await.unwrap();
    assert_eq!(states(&bench, &["a", "b"]).await, ["expired", "queued"]);
}
