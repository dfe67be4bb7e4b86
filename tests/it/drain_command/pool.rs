//! A pool that is asked to hand off.

use super::Bed;
use crate::cluster::{Pod, Rule};

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_asked_to_hand_off_and_told_to_work_again() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.add_pod(Pod::pinned("other", "o-0").on("n1"));
    let ended = bed.drain("pool post --hand-off").await;
    ended.with(0, &["1 pods were asked", "drain pool post --undo"]);
    assert!(bed.is_asked("p-0") && !bed.is_asked("o-0"));
    let (ended, ()) = tokio::join!(bed.drain("pool post --hand-off --wait"), async {
        bed.until_looked(6).await;
        bed.set_busy("p-0", false);
    });
    ended.with(0, &["nothing runs any more"]);
    bed.drain("pool post --undo")
        .await
        .with(0, &["told to work again"]);
    assert!(!bed.is_asked("p-0"));
    assert!(!bed.is_deleted("p-0") && !bed.is_cordoned());
    let tried = Rule::on("create", "pods/eviction");
    assert!(bed.cluster.requests(&tried).is_empty());
}

#[tokio::test]
async fn an_elastic_pool_is_not_called_idle_when_nobody_can_say() {
    let bed = Bed::new();
    bed.cluster.add_pod(Pod::elastic("fetch", "f-0").on("n1"));
    let ended = bed
        .drain("pool fetch --hand-off --wait --deadline 1s")
        .await;
    ended.with(4, &["unknown", "What the pods run is not known"]);
}
