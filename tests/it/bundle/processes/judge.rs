//! Whether what the fleet did was right: by each attempt's lines, and by each task's row.

use std::collections::BTreeMap;

use longshore::bundle::{Manifest, Revision};

use super::*;

/// Somebody was told that the publication `index` is live everywhere, when so many tasks were enqueued.
#[derive(Debug, Clone, Copy)]
pub(super) struct Promise {
    pub(super) index: usize,
    pub(super) after: usize,
    /// Of this pool; else of all.
    pub(super) pool: Option<&'static str>,
}

/// The number of the publication that a rollback brings back.
pub(super) async fn same(scene: &Scene, published: &[Published], manifest: &Manifest) -> u32 {
    for older in published.iter().rev() {
        let revision = Revision::parse(&older.revision).unwrap();
        let found = scene
            .bench
            .store
            .bundle_manifest("production", &revision)
            .await;
        if found.unwrap().unwrap().sources == manifest.sources {
            return older.number;
        }
    }
    panic!("nobody has published {manifest:?}");
}

impl Storm {
    fn index(&self, revision: &str) -> usize {
        let found = self
            .published
            .iter()
            .position(|one| one.revision == revision);
        found.unwrap_or_else(|| panic!("nobody has published {revision}"))
    }

    /// Every attempt ran with one whole set that was good, from its beginning to its end.
    fn judge_attempts(&self) -> BTreeMap<(String, String), u32> {
        let mut attempts = BTreeMap::new();
        for line in self.scene.told() {
            let number = line.number();
            let mut of_it = self.published.iter().filter(|one| one.number == number);
            assert!(
                of_it.any(|one| !one.is_bad),
                "{line:?} is no good set that was published"
            );
            let before = *attempts
                .entry((line.task.clone(), line.epoch.clone()))
                .or_insert(number);
            assert_eq!(before, number, "{line:?} began with another");
        }
        attempts
    }
}

pub(super) async fn all(mut storm: Storm, mut promises: Vec<Promise>) {
    for waiting in std::mem::take(&mut storm.waits) {
        promises.extend(waiting.await.unwrap());
    }
    let (scene, attempts) = (&storm.scene, storm.judge_attempts());
    let (mut indices, tasks) = (BTreeSet::new(), storm.fed.load(Ordering::SeqCst));
    for number in 0..tasks {
        let view = scene.bench.view(&number.to_string()).await;
        assert_eq!((view.state, view.failures), (State::Done, 0), "{view:?}");
        let index = storm.index(view.revision.as_deref().unwrap());
        let publication = &storm.published[index];
        assert!(!publication.is_bad, "{view:?}");
        let attempt = (view.id.clone(), view.epoch.get().to_string());
        assert_eq!(
            attempts.get(&attempt),
            Some(&publication.number),
            "{view:?} ran with another"
        );
        let is_meant = |promise: &&Promise| {
            let is_of_pool = promise.pool.is_none() || view.queue == QUEUES[0];
            is_of_pool && promise.after <= number
        };
        for promise in promises.iter().filter(is_meant) {
            assert!(
                index >= promise.index,
                "{promise:?} was broken: {view:?}\n{:#?}",
                storm.published
            );
        }
        indices.insert(index);
    }
    // All of it has come to pass.
    let refused = scene.log().await;
    let refused = refused
        .iter()
        .filter(|entry| entry["what"] == "refused")
        .count();
    let bad = storm.published.iter().filter(|one| one.is_bad).count();
    let counts = [
        ("tasks", tasks, 100),
        ("revisions that tasks ran with", indices.len(), 8),
        ("promises", promises.len(), 4),
        ("refusals", refused, 3),
        ("bad publications", bad, 2),
        ("deaths", storm.deaths, 8),
    ];
    eprintln!("{counts:?}");
    for (what, count, least) in counts {
        assert!(count >= least, "{count} {what} are no proof");
    }
}
