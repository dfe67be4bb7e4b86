//! `POST /api/tasks`: many tasks at once, with their lanes and what they wait for, in one transaction.

use std::collections::HashSet;

use axum::body::Bytes;
use axum::http::HeaderMap;
use serde::Serialize;

use super::Api;
use super::answer::Refusal;
use crate::graph;
use crate::store::StoreError;

/// One of the tasks, in the order in which they were given.
#[derive(Serialize)]
pub(super) struct Enqueued {
    #[serde(skip_serializing_if = "Option::is_none")]
    r#ref: Option<String>,
    id: String,
    /// Whether it was not there before.
    new: bool,
}

pub(super) async fn enqueue(
    api: &Api,
    headers: &HeaderMap,
    body: &Bytes,
) -> Result<Vec<Enqueued>, Refusal> {
    let (who, token) = api.tokens.known(headers)?;
    let now = api.store.clock().now();
    let named = graph::read(body, now, |name| api.config.route(name))
        .map_err(|error| Refusal::Bad(error.to_string()))?;
    if let Some((_, task)) = named
        .iter()
        .find(|(_, task)| !token.may_enqueue(&task.name))
    {
        tracing::warn!(
            by = who,
            task.name,
            "a task was refused: api.tokens does not allow it"
        );
        return Err(Refusal::Forbidden);
    }
    let (refs, tasks): (Vec<_>, Vec<_>) = named.into_iter().unzip();
    let enqueued = match api.store.enqueue(&tasks).await {
        Err(StoreError::Graph { reason }) => return Err(Refusal::Bad(reason)),
        enqueued => enqueued?,
    };
    let new: HashSet<_> = enqueued.new.iter().collect();
    let answer = refs.into_iter().zip(&tasks).map(|(name, task)| Enqueued {
        r#ref: name,
        id: task.id.to_string(),
        new: new.contains(&task.id),
    });
    let answer = answer.collect();
    api.relay.publish(enqueued.rings).await;
    tracing::info!(by = who, tasks = tasks.len(), "tasks are enqueued");
    Ok(answer)
}
