//! `longshore config status`, `wait` and `log`.

use std::process::ExitCode;
use std::time::Duration;

use serde_json::json;

use super::{Of, Place, at, outcome, revision};
use crate::bundle::{Fleet, Revision, Standing, Verdict};
use crate::cli::show::{ago, cell, json, table};
use crate::cli::{Answer, Failure, print};
use crate::config::Config;
use crate::follow;
use crate::id::WorkerId;

/// Between two looks at the fleet.
const LOOK: Duration = Duration::from_millis(250);
/// When a worker counts as late if the configuration follows no bundle.
const LATE: Duration = Duration::from_secs(600);

#[derive(clap::Args)]
pub(in crate::cli) struct Status {
    #[command(flatten)]
    of: Of,
    /// Only the workers of this pool
    #[arg(long)]
    pool: Option<String>,
    /// As JSON
    #[arg(long)]
    json: bool,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Waiting {
    #[command(flatten)]
    of: Of,
    /// The revision; `newest` is what was published last
    revision: String,
    /// Only the workers of this pool
    #[arg(long)]
    pool: Option<String>,
    /// How long at most
    #[arg(long, default_value = "10m", value_parser = humantime::parse_duration)]
    timeout: Duration,
}

#[derive(clap::Args)]
pub(in crate::cli) struct Log {
    #[command(flatten)]
    of: Of,
    /// At most so many entries
    #[arg(long, default_value_t = 50, value_parser = clap::value_parser!(i64).range(1..=10_000))]
    limit: i64,
    /// As JSON
    #[arg(long)]
    json: bool,
}

/// How `wait` ends.
const TOO_LATE: u8 = 2;
const REFUSED: u8 = 3;
const SUPERSEDED: u8 = 4;
const FROZEN: u8 = 5;
const NOBODY: u8 = 6;

pub(super) async fn status(config: &Config, arguments: Status) -> Answer {
    let Status {
        of,
        pool,
        json: as_json,
    } = arguments;
    let place = Place::open(config, of).await?;
    let mut fleet = follow::fleet(&place.store, &place.bundle).await?;
    fleet
        .followers
        .retain(|one| pool.as_ref().is_none_or(|pool| one.pool == *pool));
    let late = config
        .bundle
        .as_ref()
        .map_or(LATE, |bundle| bundle.late_after);
    if as_json {
        let workers = fleet.followers.iter().map(|one| {
            json!({
                "worker": one.worker, "pool": one.pool, "kind": one.kind, "host": one.host, "standing": fleet.standing(one),
                "heard_at": one.at, "late": fleet.laggards(late).contains(&one), "report": one.report,
            })
        });
        let whole = json!({
            "bundle": place.bundle, "state": fleet.state, "waits": fleet.state.wait(None, fleet.now),
            "workers": workers.collect::<Vec<_>>(),
        });
        print(&json(&whole)?);
    } else {
        print(&listing(&place, &fleet, pool.as_deref(), late));
    }
    Ok(ExitCode::SUCCESS)
}

fn listing(place: &Place, fleet: &Fleet, pool: Option<&str>, late: Duration) -> String {
    let mut text = outcome(place, &fleet.state);
    if fleet.followers.is_empty() {
        let of = pool.map(|pool| format!(" of pool {pool}"));
        return format!("{text}\nno worker{} follows it", of.unwrap_or_default());
    }
    let late = fleet.laggards(late);
    let mut table = table(&[
        "worker", "pool", "state", "desired", "applied", "since", "heard", "error",
    ]);
    for one in &fleet.followers {
        let report = &one.report;
        let standing = fleet.standing(one).as_str();
        let standing = if late.contains(&one) {
            format!("{standing}, late")
        } else {
            standing.to_owned()
        };
        let short = |revision: Option<&Revision>| cell(revision.map(Revision::as_str));
        let behind = fleet
            .behind_since(one)
            .filter(|_| fleet.standing(one) != Standing::Live);
        let since = behind.unwrap_or(report.applied_at);
        table.add_row([
            one.worker.to_string(),
            one.pool.clone(),
            standing,
            short(fleet.wanted(one)),
            short(report.applied.as_ref()),
            ago(Some(since).filter(|since| *since > 0), fleet.now),
            ago(Some(one.at), fleet.now),
            cell(report.error.as_deref()),
        ]);
    }
    text.push_str(&format!("\n{}", table.trim_fmt()));
    text
}

pub(super) async fn wait(config: &Config, arguments: Waiting) -> Answer {
    let Waiting {
        of,
        revision: text,
        pool,
        timeout,
    } = arguments;
    let place = Place::open(config, of).await?;
    let deadline = tokio::time::Instant::now() + timeout;
    let wanted = match text.as_str() {
        "newest" => {
            let (_, state) = place.store.bundle_state(&place.bundle).await?;
            let newest = state.newest.ok_or_else(|| {
                Failure::Wrong(format!("nothing was published of bundle {}", place.bundle))
            })?;
            newest.revision
        }
        text => revision(text).map_err(Failure::Wrong)?,
    };
    loop {
        let fleet = follow::fleet(&place.store, &place.bundle).await?;
        let verdict = fleet.verdict(&wanted, pool.as_deref());
        let (code, text) = match verdict {
            Verdict::Live(workers) => (
                0,
                format!("revision {wanted} is live on {}", counted(workers)),
            ),
            Verdict::Refused(worker, error) => (
                REFUSED,
                format!("worker {worker} refuses revision {wanted}: {error}"),
            ),
            Verdict::Superseded(newer) => (
                SUPERSEDED,
                format!("revision {newer} was published in place of {wanted}"),
            ),
            Verdict::Frozen(reason) => (
                FROZEN,
                format!("revision {wanted} is held back, frozen: {reason}"),
            ),
            Verdict::NoWorker => (
                NOBODY,
                format!("no worker follows bundle {} there", place.bundle),
            ),
            Verdict::Waiting(missing) if tokio::time::Instant::now() >= deadline => {
                let names = told(&fleet, &missing);
                // Those named may have what they are to have, since that is not this one yet.
                let names = if names.is_empty() {
                    "all for good".to_owned()
                } else {
                    names
                };
                let held = fleet.state.wait(None, fleet.now);
                let held = held.map(|wait| format!("; it {}", super::told(&wait)));
                (
                    TOO_LATE,
                    format!(
                        "revision {wanted} is not live after {timeout:?} on {names}{}",
                        held.unwrap_or_default()
                    ),
                )
            }
            Verdict::Waiting(_) => {
                tokio::time::sleep(LOOK.min(deadline - tokio::time::Instant::now())).await;
                continue;
            }
        };
        print(&text);
        return Ok(ExitCode::from(code));
    }
}

/// Who has it not, and why.
fn told(fleet: &Fleet, missing: &[WorkerId]) -> String {
    let missing = fleet
        .followers
        .iter()
        .filter(|one| missing.contains(&one.worker));
    let names = missing.map(|one| {
        let why = one.report.error.as_deref();
        let why = why.map(|why| format!(": {why}")).unwrap_or_default();
        format!("{} ({}{why})", one.worker, fleet.standing(one).as_str())
    });
    names.collect::<Vec<_>>().join(", ")
}

fn counted(workers: usize) -> String {
    if workers == 1 {
        "1 worker, which is all".to_owned()
    } else {
        format!("{workers} workers, which are all")
    }
}

pub(super) async fn log(config: &Config, arguments: Log) -> Answer {
    let Log {
        of,
        limit,
        json: as_json,
    } = arguments;
    let place = Place::open(config, of).await?;
    let entries = place
        .store
        .bundle_log(&place.bundle, i64::MAX, limit)
        .await?;
    if as_json {
        print(&json(&entries)?);
        return Ok(ExitCode::SUCCESS);
    }
    let mut table = table(&["at", "what", "revision", "who", "detail"]);
    for entry in &entries {
        table.add_row([
            at(entry.at),
            entry.what.clone(),
            cell(entry.revision.as_ref().map(Revision::as_str)),
            entry.who.clone(),
            cell(Some(&entry.detail)),
        ]);
    }
    print(&table.trim_fmt());
    Ok(ExitCode::SUCCESS)
}
