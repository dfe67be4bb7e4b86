//! The disruption controller: a budget's status from its pods and the scale of their owners.
//!
//! As the real one, it looks at a budget again when a pod that the budget selects *now* has changed or has gone, not
//! when a pod has left the selection: removing a label leaves the status stale. Unlike the real one it has no lag,
//! unless a test pauses it.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::kind::Kind;
use super::select::selects;
use super::state::{Key, State, is_ready, set_condition};

/// An eviction that was allowed and whose pod is still not terminating counts for so long.
const DISRUPTED: Duration = Duration::from_secs(2 * 60);

/// What the controller does after `object` was written or removed.
pub(super) fn after(state: &mut State, key: &Key, object: &Value) {
    if !state.controller {
        return;
    }
    match key.plural {
        "pods" => {
            for budget in of_pod(state, key, object) {
                sync(state, &budget);
            }
        }
        "poddisruptionbudgets" => sync(state, key),
        _ => {}
    }
}

/// Looks at every budget.
pub(super) fn sync_all(state: &mut State) {
    let keys: Vec<Key> = state
        .all("poddisruptionbudgets")
        .map(|(key, _)| key.clone())
        .collect();
    for key in keys {
        sync(state, &key);
    }
}

/// The budgets that select `pod`.
pub(super) fn of_pod(state: &State, key: &Key, pod: &Value) -> Vec<Key> {
    let budgets = state.all("poddisruptionbudgets");
    budgets
        .filter(|(budget, object)| {
            budget.namespace == key.namespace && selects(&object["spec"]["selector"], pod)
        })
        .map(|(budget, _)| budget.clone())
        .collect()
}

fn sync(state: &mut State, key: &Key) {
    let Some(mut budget) = state.get(key).cloned() else {
        return;
    };
    let pods: Vec<&Value> = state
        .all("pods")
        .filter(|(pod, object)| {
            pod.namespace == key.namespace && selects(&budget["spec"]["selector"], object)
        })
        .map(|(_, pod)| pod)
        .collect();
    let disrupted = disrupted(&budget, &pods);
    match expected(state, key, &budget["spec"], &pods) {
        Ok((expected, desired)) => {
            let healthy = pods.iter().filter(|pod| {
                let name = pod["metadata"]["name"].as_str().unwrap_or_default();
                is_ready(pod)
                    && pod["metadata"]["deletionTimestamp"].is_null()
                    && !disrupted.contains_key(name)
            });
            let healthy = i64::try_from(healthy.count()).unwrap();
            let allowed = if expected > 0 {
                (healthy - desired).max(0)
            } else {
                0
            };
            let reason = if allowed > 0 {
                "SufficientPods"
            } else {
                "InsufficientPods"
            };
            let mut conditions = budget["status"]["conditions"].take();
            set_condition(&mut conditions, allowance(allowed > 0, reason, ""));
            budget["status"] = json!({
                "observedGeneration": budget["metadata"]["generation"],
                "currentHealthy": healthy, "desiredHealthy": desired, "expectedPods": expected,
                "disruptionsAllowed": allowed, "disruptedPods": disrupted, "conditions": conditions,
            });
        }
        Err(error) => {
            // The observed generation stays: a budget that was never understood is still "being processed".
            budget["status"]["disruptionsAllowed"] = 0.into();
            let conditions = &mut budget["status"]["conditions"];
            set_condition(conditions, allowance(false, "SyncFailed", &error));
        }
    }
    state.put(key, budget);
}

pub(super) fn allowance(allowed: bool, reason: &str, message: &str) -> Value {
    let status = if allowed { "True" } else { "False" };
    json!({"type": "DisruptionAllowed", "status": status, "reason": reason, "message": message})
}

/// The evictions that were allowed and are not yet seen in their pods.
fn disrupted(budget: &Value, pods: &[&Value]) -> BTreeMap<String, Value> {
    let entries = budget["status"]["disruptedPods"].as_object();
    let entries = entries.into_iter().flatten().filter(|(name, since)| {
        let since = since
            .as_str()
            .and_then(|text| humantime::parse_rfc3339(text).ok());
        let holds = pods.iter().any(|pod| {
            pod["metadata"]["name"] == name.as_str()
                && pod["metadata"]["deletionTimestamp"].is_null()
        });
        holds && since.is_some_and(|since| since + DISRUPTED > SystemTime::now())
    });
    entries
        .map(|(name, since)| (name.clone(), since.clone()))
        .collect()
}

/// How many pods there should be, and how many must be healthy.
fn expected(state: &State, key: &Key, spec: &Value, pods: &[&Value]) -> Result<(i64, i64), String> {
    if let Some(unavailable) = spec.get("maxUnavailable").filter(|value| !value.is_null()) {
        let expected = scale(state, key, pods)?;
        return Ok((expected, (expected - amount(unavailable, expected)?).max(0)));
    }
    let available = spec.get("minAvailable").unwrap_or(&Value::Null);
    if let Some(number) = available.as_i64() {
        return Ok((i64::try_from(pods.len()).unwrap(), number));
    }
    let expected = scale(state, key, pods)?;
    Ok((expected, amount(available, expected)?))
}

/// The sum of the replicas of the owners of `pods`, each once. Pods without an owner do not count.
fn scale(state: &State, key: &Key, pods: &[&Value]) -> Result<i64, String> {
    let mut owners: BTreeMap<Key, i64> = BTreeMap::new();
    for pod in pods {
        let references = pod["metadata"]["ownerReferences"].as_array();
        let controller = references
            .into_iter()
            .flatten()
            .find(|owner| owner["controller"] == true);
        let Some(owner) = controller else { continue };
        let name = owner["name"].as_str().unwrap_or_default();
        let found = match owner["kind"].as_str() {
            Some("StatefulSet") => Some("statefulsets"),
            Some("ReplicaSet") => Some("replicasets"),
            _ => None,
        }
        .map(|plural| Key::new(Kind::of(plural), &key.namespace, name))
        .and_then(|key| Some((state.get(&key)?, key)));
        let Some((object, owner)) = found else {
            return Err(format!(
                "found no controllers for pod {}",
                pod["metadata"]["name"]
            ));
        };
        owners.insert(owner, object["spec"]["replicas"].as_i64().unwrap_or(1));
    }
    Ok(owners.values().sum())
}

/// A number, or a percentage of `whole`, rounded up.
fn amount(value: &Value, whole: i64) -> Result<i64, String> {
    if let Some(number) = value.as_i64() {
        return Ok(number);
    }
    let percent = value
        .as_str()
        .and_then(|text| text.strip_suffix('%')?.parse::<i64>().ok());
    let percent = percent.ok_or_else(|| format!("{value} is no number and no percentage"))?;
    Ok((whole * percent + 99) / 100)
}
