//! The fleet as the store knows it, and what any worker of it does for all.

use crate::bundle::{Fleet, State, Verb, Wait};
use crate::config::Bundle;
use crate::store::{Store, StoreError};

/// Who follows a bundle, as they are now.
///
/// # Errors
///
/// As any verb.
pub async fn fleet(store: &Store, bundle: &str) -> Result<Fleet, StoreError> {
    Ok(Fleet {
        state: store.bundle_state(bundle).await?.1,
        followers: store.bundle_reports(bundle).await?,
        now: store.clock().now(),
    })
}

/// Shows in the metrics who lags, and when a freeze ends.
///
/// # Errors
///
/// As any verb.
pub async fn gauges(store: &Store, bundle: &Bundle) -> Result<(), StoreError> {
    let name = || bundle.name.clone();
    let fleet = fleet(store, &bundle.name).await?;
    let late = fleet.laggards(bundle.late_after).len();
    metrics::gauge!("longshore_bundle_late_workers", "bundle" => name()).set(late as f64);
    let end = fleet.state.freeze.map_or(0, |freeze| freeze.until);
    metrics::gauge!("longshore_bundle_freeze_end_timestamp_seconds", "bundle" => name())
        .set(end as f64 / 1000.0);
    Ok(())
}

/// Goes on with a revision that a few workers have first, and notes that a freeze is over: whoever looks may do so, and it is
/// done once.
pub(super) async fn tend(store: &Store, bundle: &str, state: &State) {
    let now = store.clock().now();
    if let Some(freeze) = &state.freeze
        && !freeze.ended
        && now >= freeze.until
    {
        match store
            .bundle_follows(bundle, &Verb::Ended, "freeze over", None, &freeze.reason)
            .await
        {
            Ok(true) => tracing::warn!(
                bundle,
                reason = freeze.reason,
                "a freeze is over; what was published meanwhile goes out"
            ),
            Ok(false) => {}
            Err(error) => tracing::debug!(%error, "the end of a freeze could not be noted"),
        }
    }
    let Some(Wait::Canary { .. }) = state.wait(None, now) else {
        return;
    };
    let step = match fleet(store, bundle).await {
        Ok(fleet) => fleet.canary_step(),
        Err(error) => return tracing::debug!(%error, "the bundle's workers could not be looked at"),
    };
    let Some(verb) = step else {
        return;
    };
    let (what, detail) = match &verb {
        Verb::Choose(places) => {
            let names: Vec<&str> = places.iter().map(String::as_str).collect();
            ("chosen", names.join(", "))
        }
        Verb::Promote
        | Verb::Publish { .. }
        | Verb::Freeze(_)
        | Verb::Thaw
        | Verb::Ended
        | Verb::ApplyNow
        | Verb::Ack { .. }
        | Verb::Good(_) => ("promoted", String::new()),
    };
    let revision = state.newest.as_ref().map(|newest| &newest.revision);
    if let Err(error) = store
        .bundle_follows(bundle, &verb, what, revision, &detail)
        .await
    {
        tracing::warn!(%error, "the bundle could not go on");
    }
}
