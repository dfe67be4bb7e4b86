//! What is left of entries that have ended.

use std::time::Duration;

use super::bed::{Bed, entry};
use crate::harness::{Bench, on_both};

on_both!(an_entry_is_forgotten_with_its_tasks_and_not_before);

/// A task of an entry that is forgotten must not be there for the next entry of its id.
async fn an_entry_is_forgotten_with_its_tasks_and_not_before(bench: Bench) {
    let hour = Duration::from_secs(3600);
    let leader = bench.leader().await;
    let bed = Bed::new(bench).await;
    let (store, clock) = (bed.bench.store.clone(), bed.bench.clock.clone());
    bed.enqueue([entry("a"), entry("b")]).await;
    bed.lands("a").await;
    bed.fails("b/1/unit").await;
    while store.pass_on_left().await.unwrap().0 {}
    assert_eq!(store.sweep(&leader, hour).await.unwrap(), 0);
    clock.advance(hour * 2);
    // First the tasks, then the entry; that of a dead letter stays beside it.
    assert!(store.sweep(&leader, hour).await.unwrap() > 0);
    assert_eq!(bed.ended().await, "a:published b:failed");
    assert_eq!(store.sweep(&leader, hour).await.unwrap(), 0);
    assert_eq!(bed.ended().await, "b:failed");
    bed.enqueue([entry("a"), entry("b")]).await;
    assert_eq!(bed.states().await, "a:speculating", "b has ended");
    assert_eq!(bed.open().await, ["a/1/unit"]);
    bed.lands("a").await;
}
