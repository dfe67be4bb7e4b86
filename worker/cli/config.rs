//! `longshore config`: what the configuration says, and bundles of it: published, held back, waited for, and who has which.
//!
//! `wait` ends with a code of its own for each answer: 0 live everywhere, 2 too late, 3 refused by a worker, 4 superseded,
//! 5 frozen, 6 nobody follows it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use super::{Answer, Failure, open_store, print};
use crate::bundle::{Freeze, Revision, State, Verb as Change, Wait, is_name};
use crate::clock::Millis;
use crate::config::Config;
use crate::store::{BundleError, BundleNote, Store};

mod fleet;
mod publish;

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Says whether the configuration is valid, and every mistake if not
    Check,
    /// Prints it whole, with defaults, without secrets
    Show,
    /// Makes a bundle of its sources, all of it or nothing, and has every worker that follows it take it over
    Publish(publish::Arguments),
    /// Brings back what was live before the newest revision, as a new one
    Rollback {
        #[command(flatten)]
        of: Of,
        /// This revision, in place of the last one that was live
        #[arg(long, value_parser = revision)]
        to: Option<Revision>,
        /// At once, whatever is frozen
        #[arg(long)]
        now: bool,
    },
    /// Lists the workers that follow a bundle: what each is to have, has, and why not; silent ones too
    Status(fleet::Status),
    /// Waits until a revision is live on every worker: ends with 0 then, 2 too late, 3 refused, 4 superseded, 5 frozen, 6 nobody there
    Wait(fleet::Waiting),
    /// Says who did what to a bundle, and when it was live on which worker
    Log(fleet::Log),
    /// Lets nothing new out until then
    Freeze {
        #[command(flatten)]
        of: Of,
        /// Why
        #[arg(long)]
        reason: String,
        /// Until then: RFC 3339 (2026-12-31T08:00:00Z), or a duration from now (8h)
        #[arg(long, value_parser = until)]
        until: Until,
    },
    /// Ends a freeze before its time
    Thaw {
        #[command(flatten)]
        of: Of,
    },
    /// Lets the newest revision out at once, whatever is frozen and whoever is to have it first
    ApplyNow {
        #[command(flatten)]
        of: Of,
    },
    /// Says that a step by hand is done which the newest revision requires
    Ack {
        #[command(flatten)]
        of: Of,
        /// The step, as it was published
        step: String,
    },
    /// Takes a worker off the list that will not come back
    Forget {
        #[command(flatten)]
        of: Of,
        /// Its id, as `status` shows it
        worker: String,
    },
}

/// Which bundle, and on whose behalf.
#[derive(clap::Args)]
pub(super) struct Of {
    /// The bundle; by default the one that the configuration follows
    #[arg(long)]
    bundle: Option<String>,
    /// Who says so, for the log; by default the user
    #[arg(long)]
    by: Option<String>,
}

/// A bundle in its store.
struct Place {
    store: Store,
    bundle: String,
    by: String,
}

impl Place {
    async fn open(config: &Config, of: Of) -> Result<Self, Failure> {
        let followed = config.bundle.as_ref().map(|bundle| bundle.name.clone());
        let Some(bundle) = of.bundle.or(followed) else {
            return Err(Failure::Wrong(
                "which bundle? Name it with --bundle, or write [bundle] name = \"…\" in the configuration".into(),
            ));
        };
        if !is_name(&bundle) {
            return Err(Failure::Wrong(format!(
                "{bundle:?} cannot be a bundle's name: write 1 to 63 letters, digits, '-', '_' and '.', the last not in front"
            )));
        }
        let store = open_store(config)?;
        store.check_schema().await?;
        store.anchor_clock().await?;
        let by = of.by.or_else(|| std::env::var("USER").ok());
        Ok(Self {
            store,
            bundle,
            by: by.unwrap_or_else(|| "somebody".into()),
        })
    }

    fn now(&self) -> Millis {
        self.store.clock().now()
    }

    async fn change(
        &self,
        change: &Change,
        what: &str,
        detail: &str,
    ) -> Result<(State, bool), Failure> {
        let (_, state) = self.store.bundle_state(&self.bundle).await?;
        let newest = state.newest.map(|newest| newest.revision);
        let note = BundleNote {
            what,
            revision: newest.as_ref(),
            who: &self.by,
            detail,
        };
        let done = self.store.bundle_verb(&self.bundle, change, &note);
        done.await.map_err(failed)
    }
}

fn failed(error: BundleError) -> Failure {
    match error {
        BundleError::Refused(refusal) => Failure::Wrong(refusal.to_string()),
        BundleError::Store(error) => error.into(),
    }
}

fn revision(text: &str) -> Result<Revision, String> {
    Revision::parse(text).ok_or_else(|| {
        format!(
            "a revision has {} hexadecimal digits, as `longshore config log` shows them",
            Revision::DIGITS
        )
    })
}

/// When a freeze ends.
#[derive(Debug, Clone, Copy)]
pub(super) enum Until {
    Moment(SystemTime),
    After(Duration),
}

fn until(text: &str) -> Result<Until, String> {
    let moment = humantime::parse_rfc3339_weak(text).map(Until::Moment);
    moment
        .or_else(|_| humantime::parse_duration(text).map(Until::After))
        .map_err(|_| "write a time (2026-12-31T08:00:00Z) or a duration (8h)".to_owned())
}

fn millis(time: Duration) -> Millis {
    Millis::try_from(time.as_millis()).unwrap_or(Millis::MAX)
}

/// A moment for people.
fn at(moment: Millis) -> String {
    let since = Duration::from_millis(u64::try_from(moment).unwrap_or_default());
    SystemTime::UNIX_EPOCH.checked_add(since).map_or_else(
        || "-".into(),
        |at| humantime::format_rfc3339_seconds(at).to_string(),
    )
}

/// What keeps the newest revision back, for people.
fn told(wait: &Wait) -> String {
    match wait {
        Wait::Freeze(freeze) => {
            format!(
                "is held back: frozen until {} by {}: {}",
                at(freeze.until),
                freeze.by,
                freeze.reason
            )
        }
        Wait::Steps { steps } => {
            format!(
                "waits for steps by hand: {} (`longshore config ack STEP`)",
                steps.join(", ")
            )
        }
        Wait::Canary { chosen } if chosen.is_empty() => "goes to a few workers first".into(),
        Wait::Canary { chosen } => format!("goes first to {}", chosen.join(", ")),
    }
}

pub(super) async fn run(path: Option<PathBuf>, config: Arc<Config>, verb: Verb) -> Answer {
    match verb {
        Verb::Check if path.is_none() => print(
            "the configuration is valid: defaults and variables, since no file is named (--config, LONGSHORE_CONFIG)",
        ),
        Verb::Check => print("the configuration is valid"),
        Verb::Show => print(config.redacted_toml().trim_end()),
        Verb::Publish(arguments) => return publish::run(path, &config, arguments).await,
        Verb::Rollback { of, to, now } => return publish::rollback(&config, of, to, now).await,
        Verb::Status(arguments) => return fleet::status(&config, arguments).await,
        Verb::Wait(arguments) => return fleet::wait(&config, arguments).await,
        Verb::Log(arguments) => return fleet::log(&config, arguments).await,
        Verb::Freeze { of, reason, until } => return freeze(&config, of, reason, until).await,
        Verb::Thaw { of } => {
            let place = Place::open(&config, of).await?;
            place.change(&Change::Thaw, "thawed", "").await?;
            print(&format!("bundle {} is no longer frozen", place.bundle));
        }
        Verb::ApplyNow { of } => {
            let place = Place::open(&config, of).await?;
            let (state, _) = place.change(&Change::ApplyNow, "apply now", "").await?;
            print(&outcome(&place, &state));
        }
        Verb::Ack { of, step } => {
            let place = Place::open(&config, of).await?;
            let change = Change::Ack { step: step.clone() };
            let (state, _) = place.change(&change, "acknowledged", &step).await?;
            print(&outcome(&place, &state));
        }
        Verb::Forget { of, worker } => {
            let place = Place::open(&config, of).await?;
            let id = crate::id::WorkerId::new(&worker);
            if !place.store.bundle_leave(&place.bundle, &id).await? {
                return Err(Failure::Wrong(format!(
                    "bundle {} knows no worker {worker:?}: see `longshore config status`",
                    place.bundle
                )));
            }
            print(&format!("worker {worker} is forgotten"));
        }
    }
    Ok(ExitCode::SUCCESS)
}

async fn freeze(config: &Config, of: Of, reason: String, until: Until) -> Answer {
    let place = Place::open(config, of).await?;
    let until = match until {
        Until::Moment(moment) => millis(
            moment
                .duration_since(SystemTime::UNIX_EPOCH)
                .unwrap_or_default(),
        ),
        Until::After(time) => place.now() + millis(time),
    };
    if until <= place.now() {
        return Err(Failure::Wrong(format!(
            "--until {} is over already",
            at(until)
        )));
    }
    let change = Change::Freeze(Freeze {
        reason: reason.clone(),
        until,
        by: place.by.clone(),
        ended: false,
    });
    let detail = format!("until {}: {reason}", at(until));
    place.change(&change, "frozen", &detail).await?;
    print(&format!(
        "bundle {} is frozen until {}; what is published meanwhile goes out then",
        place.bundle,
        at(until)
    ));
    Ok(ExitCode::SUCCESS)
}

/// How the newest revision stands, in one line.
fn outcome(place: &Place, state: &State) -> String {
    let Some(newest) = &state.newest else {
        return format!(
            "nothing was published of bundle {} in the store",
            place.bundle
        );
    };
    let what = state.wait(None, place.now());
    let what = what.map_or_else(|| "is wanted everywhere".to_owned(), |wait| told(&wait));
    format!(
        "revision {} of bundle {} {what}",
        newest.revision, place.bundle
    )
}
