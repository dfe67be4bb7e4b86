//! `POST /api/gates/NAME/entries`: entries of a gate, all or none.

use std::collections::HashSet;

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde::Serialize;

use super::Api;
use super::answer::Refusal;
use crate::gate::{self, Verb};
use crate::store::StoreError;

/// One of the entries, in the order in which they were given.
#[derive(Serialize)]
pub(super) struct Entered {
    id: String,
    /// Whether it was not there before.
    new: bool,
}

pub(super) async fn enqueue(
    api: &Api,
    name: &str,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Vec<Entered>, Refusal> {
    let (who, token) = api.tokens.known(headers)?;
    if !token.may_enqueue(&format!("gate/{name}")) {
        tracing::warn!(
            by = who,
            gate = name,
            "entries were refused: api.tokens does not allow them"
        );
        return Err(Refusal::Forbidden);
    }
    let Some(gate) = api.config.gates.get(name) else {
        return Err(Refusal::NotFound);
    };
    let entries =
        gate::read(body, &gate.spec()).map_err(|refused| Refusal::Bad(refused.to_string()))?;
    let before = api.store.gate_view(name).await?;
    let before = before.map(|view| view.entries).unwrap_or_default();
    let before: HashSet<&str> = before.iter().map(gate::Entry::id).collect();
    let verb = Verb::Enqueue(gate.settings(), entries);
    let (ids, rings) = match api.store.gate(name, &verb).await {
        Err(StoreError::Gate { reason }) => return Err(Refusal::Bad(reason)),
        asked => asked?,
    };
    api.relay.publish(rings).await;
    let after = api.store.gate_view(name).await?;
    let after = after.map(|view| view.entries).unwrap_or_default();
    let after: HashSet<&str> = after.iter().map(gate::Entry::id).collect();
    tracing::info!(
        by = who,
        gate = name,
        entries = ids.len(),
        "entries are in the gate"
    );
    let entered = |id: String| Entered {
        new: after.contains(id.as_str()) && !before.contains(id.as_str()),
        id,
    };
    Ok(ids.into_iter().map(entered).collect())
}
