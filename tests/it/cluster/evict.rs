//! Graceful deletion and eviction, as the API server decides them.
//!
//! An eviction is two steps, and another request may come between them, as in the real server: what the budgets say,
//! then the condition and the deletion. The deletion of a healthy pod does not look whether the pod has changed since.

use std::collections::BTreeMap;
use std::time::{Duration, SystemTime};

use serde_json::{Value, json};

use super::budget;
use super::kind::Kind;
use super::refusal::Refusal;
use super::state::{Key, State, is_ready, now, set_condition, stamp};

/// What a client says of a deletion.
#[derive(Debug, Clone, Default)]
pub(super) struct Options {
    pub(super) grace: Option<i64>,
    uid: Option<String>,
    version: Option<String>,
    pub(super) dry_run: bool,
}

/// An eviction that may go on.
#[derive(Debug)]
pub(super) struct Decision {
    options: Options,
    /// The budget that let an unready pod go, as the pod was then.
    unready: Option<String>,
    /// The pod was not looked at for a budget: when it has changed it is looked at again.
    pub(super) again: bool,
}

impl Options {
    /// From `DeleteOptions` and the query, which may say the same.
    pub(super) fn read(body: &Value, query: &BTreeMap<String, String>) -> Self {
        let text = |field: &str| body["preconditions"][field].as_str().map(str::to_owned);
        let dry = body["dryRun"]
            .as_array()
            .is_some_and(|list| !list.is_empty());
        let grace = query
            .get("gracePeriodSeconds")
            .and_then(|text| text.parse().ok());
        Self {
            grace: body["gracePeriodSeconds"].as_i64().or(grace),
            uid: text("uid"),
            version: text("resourceVersion"),
            dry_run: dry || query.get("dryRun").is_some_and(|how| how == "All"),
        }
    }

    fn check(&self, kind: &Kind, object: &Value) -> Result<(), Refusal> {
        let meta = &object["metadata"];
        let name = meta["name"].as_str().unwrap_or_default();
        for (wanted, field, what) in [
            (&self.uid, "uid", "UID"),
            (&self.version, "resourceVersion", "ResourceVersion"),
        ] {
            if let Some(wanted) = wanted.as_deref().filter(|wanted| meta[field] != *wanted) {
                let why = format!(
                    "the {what} in the precondition ({wanted}) does not match the {what} in record ({}). The object \
                     might have been modified, or deleted and then recreated",
                    meta[field].as_str().unwrap_or_default()
                );
                return Err(Refusal::conflict(kind, name, &why));
            }
        }
        Ok(())
    }
}

/// Deletes: pods gracefully, everything else at once. Answers what a client gets.
pub(super) fn delete(state: &mut State, key: &Key, options: &Options) -> Result<Value, Refusal> {
    let kind = Kind::of(key.plural);
    let mut object = state.find(key)?.clone();
    options.check(kind, &object)?;
    if key.plural != "pods" {
        let uid = object["metadata"]["uid"].take();
        state.remove(key);
        if key.plural == "namespaces" {
            state.empty(&key.name);
        }
        let details =
            json!({"name": key.name, "group": kind.group, "kind": kind.plural, "uid": uid});
        return Ok(json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "details": details,
        }));
    }
    match grace(&object, options.grace) {
        Grace::Pending => Ok(object),
        Grace::Now => Ok(state.remove(key).unwrap_or(object)),
        Grace::Until { deadline, seconds } => {
            let meta = &mut object["metadata"];
            if meta["deletionTimestamp"].is_null() {
                let generation = meta["generation"].as_i64().unwrap_or(0);
                meta["generation"] = (generation + 1).into();
            }
            meta["deletionTimestamp"] = stamp(deadline).into();
            meta["deletionGracePeriodSeconds"] = seconds.into();
            Ok(state.put(key, object))
        }
    }
}

enum Grace {
    Now,
    Until {
        deadline: SystemTime,
        seconds: i64,
    },
    /// It is being deleted, and this deletion does not shorten that.
    Pending,
}

/// When a pod that is deleted with `asked` seconds has to be gone.
fn grace(pod: &Value, asked: Option<i64>) -> Grace {
    let asked = asked.map(|seconds| if seconds < 0 { 1 } else { seconds });
    let meta = &pod["metadata"];
    if let Some(deadline) = meta["deletionTimestamp"].as_str() {
        let before = meta["deletionGracePeriodSeconds"].as_i64().unwrap_or(0);
        return match asked {
            _ if before == 0 => Grace::Now,
            Some(0) => Grace::Now,
            Some(seconds) if seconds < before => {
                let start = humantime::parse_rfc3339(deadline).unwrap() - duration(before);
                Grace::Until {
                    deadline: start + duration(seconds),
                    seconds,
                }
            }
            _ => Grace::Pending,
        };
    }
    let unscheduled = pod["spec"]["nodeName"].as_str().is_none_or(str::is_empty);
    if unscheduled || is_terminal(pod) {
        return Grace::Now;
    }
    match asked.or_else(|| pod["spec"]["terminationGracePeriodSeconds"].as_i64()) {
        Some(0) | None => Grace::Now,
        Some(seconds) => Grace::Until {
            deadline: SystemTime::now() + duration(seconds.max(1)),
            seconds: seconds.max(1),
        },
    }
}

fn duration(seconds: i64) -> Duration {
    Duration::from_secs(seconds.unsigned_abs())
}

pub(super) fn is_terminal(pod: &Value) -> bool {
    let phase = &pod["status"]["phase"];
    phase == "Succeeded" || phase == "Failed"
}

/// The first step: what the budgets say. Takes one disruption from the budget that allows it.
pub(super) fn decide(state: &mut State, key: &Key, options: &Options) -> Result<Decision, Refusal> {
    let pod = state.find(key)?.clone();
    let mut decision = Decision {
        options: options.clone(),
        unready: None,
        again: false,
    };
    let ending = is_terminal(&pod) || !pod["metadata"]["deletionTimestamp"].is_null();
    let version = pod["metadata"]["resourceVersion"]
        .as_str()
        .map(str::to_owned);
    if ending || pod["status"]["phase"] == "Pending" {
        if !ending && options.version.is_none() {
            decision.options.version = version;
            decision.again = true;
        }
        return Ok(decision);
    }
    let budgets = budget::of_pod(state, key, &pod);
    if budgets.len() > 1 {
        let message = "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.";
        return Err(Refusal::new(500, "", message));
    }
    let Some(budget) = budgets.first() else {
        return Ok(decision);
    };
    let object = state.find(budget)?.clone();
    let number = |field: &str| object["status"][field].as_i64().unwrap_or(0);
    if !is_ready(&pod) {
        let always = object["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow";
        let (healthy, desired) = (number("currentHealthy"), number("desiredHealthy"));
        if always || (healthy >= desired && desired > 0) {
            if options.version.is_none() {
                decision.options.version = version;
                decision.unready = Some(budget.name.clone());
            }
            return Ok(decision);
        }
    }
    take_one(state, budget, object, &key.name, options.dry_run)?;
    Ok(decision)
}

/// One disruption less, or why not.
fn take_one(
    state: &mut State,
    key: &Key,
    mut budget: Value,
    pod: &str,
    dry_run: bool,
) -> Result<(), Refusal> {
    let number = |field: &str| budget["status"][field].as_i64().unwrap_or(0);
    let generation = budget["metadata"]["generation"].as_i64().unwrap_or(0);
    if number("observedGeneration") < generation {
        return Err(still_processed(&key.name));
    }
    let allowed = number("disruptionsAllowed");
    if allowed <= 0 {
        let cause = format!(
            "The disruption budget {} needs {} healthy pods and has {} currently",
            key.name,
            number("desiredHealthy"),
            number("currentHealthy")
        );
        return Err(violated(None).because_of_budget(cause));
    }
    if dry_run {
        return Ok(());
    }
    let status = &mut budget["status"];
    status["disruptionsAllowed"] = (allowed - 1).into();
    status["disruptedPods"][pod] = now().into();
    if allowed == 1 {
        let condition = budget::allowance(false, "InsufficientPods", "");
        set_condition(&mut status["conditions"], condition);
    }
    state.put(key, budget);
    Ok(())
}

fn violated(retry_after: Option<u32>) -> Refusal {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    Refusal::too_many(message, retry_after)
}

fn still_processed(budget: &str) -> Refusal {
    let cause = format!("The disruption budget {budget} is still being processed by the server.");
    violated(Some(10)).because_of_budget(cause)
}

/// The second step: the condition, then the deletion.
pub(super) fn evict(state: &mut State, key: &Key, decision: &Decision) -> Result<Value, Refusal> {
    let kind = Kind::of(key.plural);
    let mut pod = state.find(key)?.clone();
    let mut options = decision.options.clone();
    if let Err(conflict) = options.check(kind, &pod) {
        return Err(match &decision.unready {
            Some(budget) => still_processed(budget),
            None => conflict,
        });
    }
    if !options.dry_run {
        let condition = json!({
            "type": "DisruptionTarget", "status": "True", "reason": "EvictionByEvictionAPI",
            "message": "Eviction API: evicting",
        });
        set_condition(&mut pod["status"]["conditions"], condition);
        let written = state.put(key, pod);
        if options.version.is_some() {
            options.version = written["metadata"]["resourceVersion"]
                .as_str()
                .map(str::to_owned);
        }
    }
    delete(state, key, &options)?;
    Ok(json!({
        "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201,
    }))
}
