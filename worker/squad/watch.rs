//! Whether SQUAD has heard: a test job that it was told of, and that it or its build does not show so, is told of again.
//!
//! SQUAD's worker acknowledges before it works, and gives up silently when the row is locked: a message is lost easily,
//! and saying it twice is harmless. The pauses double up to a quarter of an hour: what is late for want of workers is not
//! to come later still for our repetitions.

use std::sync::Arc;

use super::Squad;
use super::plan::{Plan, enabled};
use crate::config::Config;
use crate::handler::{Context, Outcome};
use crate::task::Task;

/// The task's name.
pub(super) const NAME: &str = "longshore.squad.watch";
/// Told again in one look.
const MOST: i64 = 200;

/// The one task that looks, for as long as there is a store.
pub fn task(config: &Config) -> Task {
    Task::new(NAME, &config.squad.postprocess_queue).with_id(NAME)
}

pub(super) async fn run(
    squad: Arc<Squad>,
    _task: Arc<Task>,
    context: Context,
) -> anyhow::Result<Outcome> {
    let store = context.store();
    let patience = squad.config.squad.patience;
    let millis = i64::try_from(patience.as_millis()).unwrap_or(i64::MAX);
    let before = store.clock().now().saturating_sub(millis);
    let untold = context
        .patiently(|| store.squad_untold(before, MOST))
        .await?;
    let mut ops = vec![store.squad_heard(before)?];
    for one in &untold {
        let Some(job) = context.patiently(|| store.squad_job(one.pk)).await? else {
            continue;
        };
        let plan = Plan::of(&squad.config, &job.project, enabled(&job));
        let status = one.status.as_deref().unwrap_or("Complete");
        // What ran once is not to run twice: only the end is told again. Python's plugins come before the end, unless
        // they keep failing, as one that is not installed does.
        let end = Plan {
            testjob: plan.testjob && one.since < millis.saturating_mul(4),
            ..Plan::default()
        };
        tracing::warn!(
            testjob = one.pk,
            "SQUAD has not ended a test job that it was told of; it is told again"
        );
        ops.extend(store.squad_tell(
            one,
            &end.messages(&squad.config.squad, one.pk, one.generation, status),
        )?);
    }
    context.write(ops).await?;
    Ok(Outcome::Later {
        after: patience,
        reason: "looks whether SQUAD has heard of every test job".to_owned(),
    })
}
