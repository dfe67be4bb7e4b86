//! Who of a fleet has which revision, who lags, and what may be said to somebody who waits for one.

use std::collections::BTreeSet;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use super::{Revision, State, Verb, Wait};
use crate::clock::Millis;
use crate::id::WorkerId;

/// What a worker says of itself.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Report {
    /// The version of the bundle's state that it has looked at; 0: none.
    pub version: i64,
    /// What it is to have.
    pub desired: Option<Revision>,
    /// What it has fetched last.
    pub fetched: Option<Revision>,
    /// What it has found right last.
    pub checked: Option<Revision>,
    /// What its next attempt begins with.
    pub applied: Option<Revision>,
    /// Since when, or since when it has none.
    pub applied_at: Millis,
    /// What it cannot take, and why.
    pub refused: Option<Revision>,
    /// Why it has not what it is to have.
    pub error: Option<String>,
    /// Sections that differ and need a restart, which of a pinned worker nobody makes but a person.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub restart: Vec<String>,
    /// Since when it has not what it is to have.
    pub behind_since: Option<Millis>,
    /// For so long it may say nothing, in milliseconds.
    #[serde(default)]
    pub fresh_for: Millis,
}

/// A worker that follows a bundle.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Follower {
    /// This life of it.
    pub worker: WorkerId,
    /// Its pool.
    pub pool: String,
    /// `elastic` or `pinned`.
    pub kind: String,
    /// The machine or pod.
    pub host: String,
    /// The store takes it for dead.
    pub lost: bool,
    /// When it last said something.
    pub at: Millis,
    /// What it said.
    pub report: Report,
}

/// How a worker stands to what it is to have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Standing {
    /// It has it.
    Live,
    /// It is on its way.
    Behind,
    /// It needs a restart by hand.
    Restart,
    /// It cannot take it.
    Refused,
    /// It says nothing.
    Silent,
}

impl Standing {
    /// The word for it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Live => "live",
            Self::Behind => "behind",
            Self::Restart => "restart",
            Self::Refused => "refused",
            Self::Silent => "silent",
        }
    }
}

/// What may be said to somebody who waits for a revision.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verdict {
    /// It is live on so many workers, which are all.
    Live(usize),
    /// Not yet: these have it not, or all have it on trial.
    Waiting(Vec<WorkerId>),
    /// This worker cannot take it.
    Refused(WorkerId, String),
    /// Another one was published since.
    Superseded(Revision),
    /// A freeze keeps it back.
    Frozen(String),
    /// Nobody follows the bundle there.
    NoWorker,
}

/// All workers that follow a bundle, as they were at one moment.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fleet {
    /// What is wanted of the bundle.
    pub state: State,
    /// They, in the order of their pools and names.
    pub followers: Vec<Follower>,
    /// The moment.
    pub now: Millis,
}

impl Follower {
    /// Where it is, whichever life of it this is.
    pub fn place(&self) -> String {
        format!("{}/{}", self.pool, self.host)
    }
}

impl Fleet {
    /// Those that count: an elastic worker that died is nobody's laggard, its pool has another or needs none. One that begins anew is
    /// merely away for a moment.
    fn expected(&self) -> impl Iterator<Item = &Follower> {
        let counts = |one: &&Follower| {
            let begins_anew = || !one.report.restart.is_empty() && self.is_recent(one);
            !one.lost || one.kind != "elastic" || begins_anew()
        };
        self.followers.iter().filter(counts)
    }

    /// Whether it lives and has said something lately.
    pub fn is_heard(&self, follower: &Follower) -> bool {
        !follower.lost && self.is_recent(follower)
    }

    fn is_recent(&self, follower: &Follower) -> bool {
        self.now - follower.at <= follower.report.fresh_for
    }

    /// What a worker is to have: by the bundle's state, or by its own word where its own sources say it.
    pub fn wanted<'f>(&'f self, follower: &'f Follower) -> Option<&'f Revision> {
        match &self.state.newest {
            Some(_) => self.state.desired(&follower.place(), self.now),
            None => follower.report.desired.as_ref(),
        }
    }

    /// How a worker stands.
    pub fn standing(&self, follower: &Follower) -> Standing {
        let report = &follower.report;
        let wanted = self.wanted(follower);
        if !self.is_heard(follower) {
            Standing::Silent
        } else if report.applied.as_ref() == wanted && report.error.is_none() {
            Standing::Live
        } else if report.refused.is_some() && report.refused.as_ref() == wanted {
            Standing::Refused
        } else if !report.restart.is_empty() {
            Standing::Restart
        } else {
            Standing::Behind
        }
    }

    /// Since when a worker has not what it is to have: by its own word, or since that is wanted if it does not know yet.
    pub fn behind_since(&self, follower: &Follower) -> Option<Millis> {
        let report = &follower.report;
        if report.desired.as_ref() == self.wanted(follower) && report.behind_since.is_some() {
            return report.behind_since;
        }
        let newest = self.state.newest.as_ref()?;
        let freed = self.state.freeze.as_ref().map(|freeze| freeze.until);
        Some(
            freed
                .filter(|until| *until <= self.now)
                .map_or(newest.at, |until| until.max(newest.at)),
        )
    }

    /// Those that have not had what they are to have for longer than `patience`, and those that have been silent for so long.
    pub fn laggards(&self, patience: Duration) -> Vec<&Follower> {
        let long = |since: Millis| {
            u128::try_from(self.now - since).is_ok_and(|passed| passed > patience.as_millis())
        };
        let lags = |follower: &&Follower| match self.standing(follower) {
            Standing::Live => false,
            Standing::Silent => long(follower.at),
            Standing::Behind | Standing::Restart | Standing::Refused => {
                self.behind_since(follower).is_some_and(long)
            }
        };
        self.expected().filter(lags).collect()
    }

    /// What may be said to somebody who waits until `revision` is live in `pool`, or everywhere.
    pub fn verdict(&self, revision: &Revision, pool: Option<&str>) -> Verdict {
        let newest = self.state.newest.as_ref();
        if let Some(newest) = newest
            && newest.revision != *revision
        {
            return Verdict::Superseded(newest.revision.clone());
        }
        let version = newest.map_or(0, |newest| newest.version);
        let asked = self
            .expected()
            .filter(|follower| pool.is_none_or(|pool| follower.pool == pool));
        let asked: Vec<&Follower> = asked.collect();
        if asked.is_empty() {
            return Verdict::NoWorker;
        }
        // A report of before the publication says nothing of it, even if it names the same revision.
        let knows =
            |follower: &Follower| self.is_heard(follower) && follower.report.version >= version;
        let has = |follower: &Follower| {
            let report = &follower.report;
            knows(follower)
                && report.applied.as_ref() == Some(revision)
                && report.desired == report.applied
        };
        let missing: Vec<&Follower> = asked.iter().copied().filter(|one| !has(one)).collect();
        let waits = self.state.wait(None, self.now);
        // What all canaries have is not what all keep yet.
        if missing.is_empty() && waits.is_none() {
            return Verdict::Live(asked.len());
        }
        let refuses =
            |one: &&&Follower| knows(one) && one.report.refused.as_ref() == Some(revision);
        if let Some(refusing) = missing.iter().find(refuses) {
            let error = refusing.report.error.clone().unwrap_or_default();
            return Verdict::Refused(refusing.worker.clone(), error);
        }
        let frozen = self.state.frozen(self.now);
        if let (None, Some(freeze)) = (newest, frozen) {
            return Verdict::Frozen(freeze.reason.clone());
        }
        match waits {
            Some(Wait::Freeze(freeze)) => Verdict::Frozen(freeze.reason),
            Some(Wait::Steps { .. } | Wait::Canary { .. }) | None => {
                Verdict::Waiting(missing.into_iter().map(|one| one.worker.clone()).collect())
            }
        }
    }

    /// What is to be done about those that have the newest revision first, if anything.
    pub fn canary_step(&self) -> Option<Verb> {
        let Some(Wait::Canary { .. }) = self.state.wait(None, self.now) else {
            return None;
        };
        let newest = self.state.newest.as_ref()?;
        let canary = newest.canary.as_ref()?;
        let mut live: Vec<&Follower> = self.expected().filter(|one| self.is_heard(one)).collect();
        let mut chosen: BTreeSet<String> = live
            .iter()
            .map(|one| one.place())
            .filter(|place| canary.chosen.contains(place))
            .collect();
        let wanted = canary.first.of(live.len()).min(live.len());
        // Others for each revision, the same for whoever asks.
        live.sort_by_key(|one| Sha256::digest(format!("{} {}", newest.revision, one.place())));
        let count = |is_there: &dyn Fn(&str) -> bool| {
            live.iter().filter(|one| is_there(&one.place())).count()
        };
        // Those of one pool on one machine have it together.
        let mut first = count(&|place| chosen.contains(place));
        for place in live.iter().map(|one| one.place()) {
            if first < wanted && chosen.insert(place.clone()) {
                first += count(&|other| other == place);
            }
        }
        if chosen != canary.chosen {
            return Some(Verb::Choose(chosen));
        }
        let is_well = |one: &Follower| {
            let report = &one.report;
            report.version >= newest.version
                && report.applied.as_ref() == Some(&newest.revision)
                && self.now - report.applied_at >= canary.healthy
        };
        let mut first = live.into_iter().filter(|one| chosen.contains(&one.place()));
        let well = first.all(is_well);
        (!chosen.is_empty() && well).then_some(Verb::Promote)
    }
}
