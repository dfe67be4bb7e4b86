//! A worker ends at every single step of a fetch and of a plugin; another one finishes, and what readers get
//! is row for row what an undisturbed worker publishes. Nobody ever sees a part of it (the scene watches).

use std::time::Duration;

use longshore::lab::{Effect, Fault};

use crate::harness::{BackEnd, LIMIT, wait_until};
use crate::scene::{OWN, scene};

/// Ends `pool`'s worker at `point`, lets another finish, and compares with an undisturbed job.
async fn survives(back_end: BackEnd, pool: &'static str, point: &'static str) {
    scene(back_end, "", async |scene| {
        scene.job("1");
        scene.job("2");
        let other = if pool == "fetch" {
            "postprocess"
        } else {
            "fetch"
        };
        let helper = scene.worker(other);
        scene.fetch("lab", "1").await;
        let mut doomed = scene.doomed(pool, point);
        let status = doomed.ended(2 * LIMIT).await;
        assert!(
            !status.success(),
            "{point} was never reached:\n{}",
            doomed.log()
        );
        let name = point.split_once('#').map_or(point, |(name, _)| name);
        assert!(
            doomed.log().contains(name),
            "it ended elsewhere than at {point}"
        );
        let heir = scene.worker(pool);
        scene.reaches("lab", "1", "complete").await;
        scene.fetch("lab", "2").await;
        scene.reaches("lab", "2", "complete").await;
        scene.settles().await;
        let (disturbed, undisturbed) = (scene.seen("lab", "1").await, scene.seen("lab", "2").await);
        assert!(
            undisturbed.tests() as u64 > OWN,
            "the undisturbed job is whole"
        );
        assert!(
            disturbed == undisturbed,
            "after the end at {point} the results differ"
        );
        drop((helper, heir));
    })
    .await;
}

/// Tells a worker in the middle of a fetch to stop, ends it at `point` of its hand-off, and lets another finish.
async fn survives_in_a_drain(back_end: BackEnd, point: &'static str) {
    scene(back_end, "", async |scene| {
        scene.job("1");
        scene.job("2");
        let slow = Fault::new("/logs", Effect::Drip(Duration::from_millis(100)));
        scene.lab.fail(slow);
        let mut doomed = scene.doomed("fetch", point);
        scene.fetch("lab", "1").await;
        wait_until("the log is being read", 2 * LIMIT, async || {
            scene.lab.count("/logs") > 0
        })
        .await;
        doomed.signal("TERM");
        let status = doomed.ended(2 * LIMIT).await;
        assert!(
            !status.success(),
            "{point} was never reached:\n{}",
            doomed.log()
        );
        scene.lab.heal();
        let _heirs = (scene.worker("fetch"), scene.worker("postprocess"));
        scene.reaches("lab", "1", "complete").await;
        scene.fetch("lab", "2").await;
        scene.reaches("lab", "2", "complete").await;
        scene.settles().await;
        let (disturbed, undisturbed) = (scene.seen("lab", "1").await, scene.seen("lab", "2").await);
        assert!(
            disturbed == undisturbed,
            "after the end at {point} the results differ"
        );
    })
    .await;
}

macro_rules! drain_points {
    ($($name:ident = $point:literal,)+) => {
        pub(crate) const DRAIN_POINTS: &[&str] = &[$($point),+];
        mod drain {
            $(mod $name {
                use crate::harness::BackEnd;

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    super::super::survives_in_a_drain(BackEnd::Sqlite, $point).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    super::super::survives_in_a_drain(BackEnd::Postgres, $point).await;
                }
            })+
        }
    };
}

drain_points! {
    ready_to_hand_off = "settle:ready",
    before_the_hand_off = "settle:before",
    after_the_hand_off = "settle:after",
    handed_off = "settle:stored",
    acknowledged = "settle:acknowledged",
    before_leaving = "leave:before",
    after_leaving = "leave:after",
}

macro_rules! points {
    ($($pool:ident { $($name:ident = $point:literal,)+ })+) => {
        pub(crate) const POINTS: &[&str] = &[$($($point),+),+];
        $(mod $pool {
            $(mod $name {
                use crate::harness::BackEnd;

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn sqlite() {
                    super::super::survives(BackEnd::Sqlite, stringify!($pool), $point).await;
                }

                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn postgres() {
                    super::super::survives(BackEnd::Postgres, stringify!($pool), $point).await;
                }
            })+
        })+
    };
}

points! {
    fetch {
        delivered = "intake:delivered",
        before_the_claim = "claim:before",
        after_the_claim = "claim:after",
        claimed = "intake:claimed",
        before_the_first_checkpoint = "checkpoint:before",
        after_the_first_checkpoint = "checkpoint:after",
        before_a_chunk = "stage:before",
        after_a_chunk = "stage:after",
        ready_to_publish = "publish:ready",
        before_publishing = "publish:before",
        after_publishing = "publish:after",
        published = "publish:stored",
        before_the_outbox = "outbox:before-publish",
        after_the_outbox = "outbox:published",
        before_the_outbox_is_marked = "outbox_done:before",
        after_the_outbox_is_marked = "outbox_done:after",
        acknowledged = "publish:acknowledged",
    }
    postprocess {
        delivered = "intake:delivered",
        before_the_claim = "claim:before",
        after_the_claim = "claim:after",
        claimed = "intake:claimed",
        before_the_first_checkpoint = "checkpoint:before",
        after_the_first_checkpoint = "checkpoint:after",
        before_a_chunk = "stage:before",
        after_a_chunk = "stage:after",
        ready_to_publish = "publish:ready",
        before_publishing = "publish:before",
        after_publishing = "publish:after",
        published = "publish:stored",
        before_the_second_is_published = "publish:before#2",
        after_the_second_is_published = "publish:after#2",
        acknowledged = "publish:acknowledged",
    }
}
