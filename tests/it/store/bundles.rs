//! The files of bundles: kept while somebody may want them, and not for ever.

use longshore::bundle::{Manifest, Revision, Verb};
use longshore::store::BundleNote;

use crate::harness::{Bench, on_both};

on_both!(the_files_of_revisions_that_nobody_can_want_are_forgotten,);

const BUNDLE: &str = "production";

/// Publishes a revision with one source of its own and one that all have.
async fn publish(bench: &Bench, number: usize) -> Revision {
    let sources = [("own", format!("own-{number}.")), ("all", "all.".into())];
    let packed = sources
        .each_ref()
        .map(|(_, source)| (source.clone(), vec![1]));
    let manifest = Manifest {
        sources: sources.map(|(name, source)| (name.into(), source)).into(),
        undoes: None,
    };
    let revision = manifest.revision();
    let verb = Verb::Publish {
        revision: revision.clone(),
        requires: [].into(),
        canary: None,
    };
    let note = BundleNote {
        what: "published",
        revision: Some(&revision),
        who: "ann",
        detail: "",
    };
    let published = bench
        .store
        .bundle_publish(BUNDLE, &manifest, &packed, &verb, &note);
    published.await.unwrap();
    revision
}

async fn the_files_of_revisions_that_nobody_can_want_are_forgotten(bench: Bench) {
    let mut revisions = Vec::new();
    for number in 0..60 {
        let revision = publish(&bench, number).await;
        // So that they have an order, however fast they come.
        let at =
            format!("update bundles set published_at = {number} where revision = '{revision}'");
        bench.execute(&at).await;
        revisions.push(revision);
    }
    bench
        .store
        .bundle_good(BUNDLE, &revisions[3])
        .await
        .unwrap();
    let kept = async || bench.number("select count(*) from bundle_sources").await;
    assert_eq!(kept().await, 61, "what was published a moment ago is kept");
    bench
        .execute("update bundle_sources set published_at = 0 where source <> 'own-2.'")
        .await;
    revisions.push(publish(&bench, 60).await);
    for number in 0..=60 {
        let own = format!("select count(*) from bundle_sources where source = 'own-{number}.'");
        let is_kept = number > 10 || number == 3 || number == 2;
        assert_eq!(bench.number(&own).await == 1, is_kept, "{number}");
    }
    assert_eq!(kept().await, 50 + 3, "and what all have");
    let manifest = bench.store.bundle_manifest(BUNDLE, &revisions[0]).await;
    assert!(manifest.unwrap().is_some(), "what it was is known");
}
