//! Bundles: configuration from several sources under one revision, and which revision a worker is to have.
//!
//! Pure: [`State`] is what a fleet shares of a bundle, [`State::apply`] what a person's verb makes of it, [`State::desired`] what
//! one worker is to have now. Everything is decided from what is so, never from what has changed: who looks late finds the same.
//!
//! Never reads a clock, a file or the store.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::clock::Millis;

mod fleet;
mod quiet;
pub mod snapshot;

pub use fleet::{Fleet, Follower, Report, Standing, Verdict};
pub use quiet::{Quiet, Seen};
pub use snapshot::{File, Snapshot, SourceError};

/// How many revisions that were live are remembered, for rollbacks, and how many that all were to have, for workers that cannot take
/// the newest.
const GOOD: usize = 16;

/// Whether `text` can be the name of a bundle or a source, which is a folder's too: letters, digits, `-`, `_` and `.`, the last not in
/// front, at most 63.
pub fn is_name(text: &str) -> bool {
    let is_fit = |byte: u8| byte.is_ascii_alphanumeric() || b"-_.".contains(&byte);
    (1..=63).contains(&text.len()) && !text.starts_with('.') && text.bytes().all(is_fit)
}

/// Names one content of a bundle: 16 hexadecimal digits.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Revision(String);

impl Revision {
    /// How many digits it has.
    pub const DIGITS: usize = 16;

    /// The revision that `text` writes.
    pub fn parse(text: &str) -> Option<Self> {
        let is_digit = |byte: u8| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte);
        (text.len() == Self::DIGITS && text.bytes().all(is_digit)).then(|| Self(text.to_owned()))
    }

    /// Its digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// What a bundle is made of.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Manifest {
    /// The revision of each source, by its name: the SHA-256 of its files.
    pub sources: BTreeMap<String, String>,
    /// The revision that this one takes back, by bringing back what was before it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub undoes: Option<Revision>,
}

impl Manifest {
    /// The one revision over all sources: the first digits of the SHA-256 of this manifest as JSON, keys sorted.
    pub fn revision(&self) -> Revision {
        let text =
            serde_json::json!({ "sources": self.sources, "undoes": self.undoes }).to_string();
        let mut digits = hex(&Sha256::digest(text.as_bytes()));
        digits.truncate(Revision::DIGITS);
        Revision(digits)
    }
}

pub(crate) fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// How many workers begin with a revision.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum First {
    /// So many.
    Count(u32),
    /// So many of a hundred of those that live, and at least one.
    Percent(u32),
}

impl First {
    /// So many of `live` workers.
    pub fn of(self, live: usize) -> usize {
        match self {
            Self::Count(count) => count as usize,
            Self::Percent(percent) => (live * percent as usize).div_ceil(100).max(1),
        }
    }
}

/// A revision that goes to a few workers first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Canary {
    /// How many.
    pub first: First,
    /// For how long they have to be well before the others follow, in milliseconds.
    pub healthy: Millis,
    /// Where they are ([`Follower::place`]): a worker that begins anew there is one of them.
    #[serde(default)]
    pub chosen: BTreeSet<String>,
}

/// A revision that somebody has published.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Publication {
    /// Which.
    pub revision: Revision,
    /// The state's version that it came with: reports of later versions know of it.
    pub version: i64,
    /// When.
    pub at: Millis,
    /// Steps by hand that have to be done before.
    #[serde(default)]
    pub requires: BTreeSet<String>,
    /// The steps of those that are done.
    #[serde(default)]
    pub acked: BTreeSet<String>,
    /// The few workers that have it first, until the others follow.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub canary: Option<Canary>,
    /// It waits for no freeze and no canary.
    #[serde(default)]
    pub urgent: bool,
}

/// Nothing new goes out for a time.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Freeze {
    /// Why.
    pub reason: String,
    /// When it ends.
    pub until: Millis,
    /// Who said so.
    pub by: String,
    /// Its end was noted.
    #[serde(default)]
    pub ended: bool,
}

/// What keeps the newest revision from a worker.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(tag = "waits_for", rename_all = "lowercase")]
pub enum Wait {
    /// A freeze.
    Freeze(Freeze),
    /// Steps by hand.
    Steps {
        /// Which.
        steps: Vec<String>,
    },
    /// Those that have it first.
    Canary {
        /// Where they are so far.
        chosen: Vec<String>,
    },
}

/// What a fleet shares of a bundle.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct State {
    /// What was published last.
    pub newest: Option<Publication>,
    /// What those have who wait for the newest.
    pub settled: Option<Revision>,
    /// What all were to have before that, the last in front.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub earlier: Vec<Revision>,
    /// Revisions that were live on some worker, those that were live last in front.
    #[serde(default)]
    pub good: Vec<Revision>,
    /// Nothing new goes out for a time.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub freeze: Option<Freeze>,
}

/// What a person, or a worker, does to a bundle.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Verb {
    /// A revision is to become live.
    Publish {
        /// Which.
        revision: Revision,
        /// Steps by hand before it.
        requires: BTreeSet<String>,
        /// How many have it first, and for how long in milliseconds.
        canary: Option<(First, Millis)>,
    },
    /// Nothing new goes out until then.
    Freeze(Freeze),
    /// The freeze ends now.
    Thaw,
    /// That the freeze's time was over is noted.
    Ended,
    /// The newest goes out now, freeze and canary or not.
    ApplyNow,
    /// A step by hand is done.
    Ack {
        /// Which.
        step: String,
    },
    /// Those there begin with the newest.
    Choose(BTreeSet<String>),
    /// The others follow.
    Promote,
    /// It is live on a worker.
    Good(Revision),
}

/// Why a verb cannot be done.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// Nothing was published.
    #[error("nothing was published yet: `longshore config publish` does")]
    Nothing,
    /// It has no such step.
    #[error("revision {revision} requires no step {step:?}{}", listed(.steps))]
    NoStep {
        /// The newest revision.
        revision: Revision,
        /// What was asked for.
        step: String,
        /// What there is.
        steps: Vec<String>,
    },
    /// Nothing was frozen.
    #[error("nothing is frozen")]
    NotFrozen,
}

fn listed(steps: &[String]) -> String {
    if steps.is_empty() {
        String::new()
    } else {
        format!(" (it requires: {})", steps.join(", "))
    }
}

impl Publication {
    /// Steps that nobody has done.
    pub fn undone(&self) -> Vec<String> {
        self.requires.difference(&self.acked).cloned().collect()
    }
}

impl State {
    /// The freeze that holds at `now`.
    pub fn frozen(&self, now: Millis) -> Option<&Freeze> {
        self.freeze.as_ref().filter(|freeze| now < freeze.until)
    }

    /// What keeps the newest revision from a worker at `place`, or from somebody if none is named.
    pub fn wait(&self, place: Option<&str>, now: Millis) -> Option<Wait> {
        let newest = self.newest.as_ref()?;
        if self.settled.as_ref() == Some(&newest.revision) {
            return None;
        }
        if !newest.undone().is_empty() {
            return Some(Wait::Steps {
                steps: newest.undone(),
            });
        }
        if newest.urgent {
            return None;
        }
        let is_first = |canary: &Canary| place.is_some_and(|place| canary.chosen.contains(place));
        match &newest.canary {
            // Whoever has begun with it keeps it; a freeze stops the rest.
            Some(canary) if is_first(canary) => None,
            Some(_) | None if self.frozen(now).is_some() => self.freeze.clone().map(Wait::Freeze),
            Some(canary) => Some(Wait::Canary {
                chosen: canary.chosen.iter().cloned().collect(),
            }),
            None => None,
        }
    }

    /// The revision that a worker at `place` is to have.
    pub fn desired(&self, place: &str, now: Millis) -> Option<&Revision> {
        match self.wait(Some(place), now) {
            None => self.newest.as_ref().map(|newest| &newest.revision),
            Some(_) => self.settled.as_ref(),
        }
    }

    /// What a worker has that cannot take the revision that it is to have: the first of these that it can take.
    pub fn before(&self) -> Vec<Revision> {
        self.settled.iter().chain(&self.earlier).cloned().collect()
    }

    /// Does `verb`, as version `version`. `false`: nothing is different after it.
    ///
    /// # Errors
    ///
    /// [`Refusal`], with nothing changed.
    pub fn apply(&mut self, verb: &Verb, version: i64, now: Millis) -> Result<bool, Refusal> {
        let before = self.clone();
        match verb {
            Verb::Publish {
                revision,
                requires,
                canary,
            } => self.publish(revision, requires, *canary, version, now),
            Verb::Freeze(freeze) => {
                self.settle(now);
                self.freeze = Some(freeze.clone());
            }
            Verb::Thaw => {
                if self.frozen(now).is_none() {
                    return Err(Refusal::NotFrozen);
                }
                self.freeze = None;
            }
            Verb::Ended => {
                if let Some(freeze) = self.freeze.as_mut().filter(|freeze| now >= freeze.until) {
                    freeze.ended = true;
                }
            }
            Verb::ApplyNow => {
                self.newest.as_mut().ok_or(Refusal::Nothing)?.urgent = true;
            }
            Verb::Ack { step } => {
                let newest = self.newest.as_mut().ok_or(Refusal::Nothing)?;
                if !newest.requires.contains(step) {
                    return Err(Refusal::NoStep {
                        revision: newest.revision.clone(),
                        step: step.clone(),
                        steps: newest.requires.iter().cloned().collect(),
                    });
                }
                newest.acked.insert(step.clone());
            }
            Verb::Choose(workers) => {
                if let Some(canary) = self.canary() {
                    canary.chosen.clone_from(workers);
                }
            }
            Verb::Promote => {
                if let Some(newest) = &mut self.newest {
                    newest.canary = None;
                }
            }
            Verb::Good(revision) => {
                if !self.good.contains(revision) {
                    self.good.insert(0, revision.clone());
                    self.good.truncate(GOOD);
                }
            }
        }
        Ok(*self != before)
    }

    fn canary(&mut self) -> Option<&mut Canary> {
        self.newest.as_mut()?.canary.as_mut()
    }

    /// What everybody may have already is what those keep who wait for something newer.
    fn settle(&mut self, now: Millis) {
        if let Some(newest) = &self.newest
            && self.wait(None, now).is_none()
        {
            let revision = newest.revision.clone();
            if let Some(at) = self.good.iter().position(|good| *good == revision) {
                // It may have been live before: what was live last is in front.
                self.good[..=at].rotate_right(1);
            }
            if self.settled.as_ref() != Some(&revision) {
                self.earlier.retain(|earlier| *earlier != revision);
                self.earlier.splice(0..0, self.settled.replace(revision));
                self.earlier.truncate(GOOD);
            }
        }
    }

    fn publish(
        &mut self,
        revision: &Revision,
        requires: &BTreeSet<String>,
        canary: Option<(First, Millis)>,
        version: i64,
        now: Millis,
    ) {
        if self.newest.as_ref().map(|newest| &newest.revision) == Some(revision) {
            return;
        }
        self.settle(now);
        self.newest = Some(Publication {
            revision: revision.clone(),
            version,
            at: now,
            requires: requires.clone(),
            acked: BTreeSet::new(),
            canary: canary.map(|(first, healthy)| Canary {
                first,
                healthy,
                chosen: BTreeSet::new(),
            }),
            urgent: false,
        });
    }
}

#[cfg(test)]
mod tests;
