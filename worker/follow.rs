//! A worker follows its bundle: looks at what it is to have, fetches it beside what it has, checks it, and takes it over.
//!
//! Level-triggered: each look compares what is wanted with what is applied, and does the next thing; nothing is remembered of how it
//! came to that but for how long to wait before a refused revision is tried again. Who cannot take what is wanted has what all were to
//! have before it, also after a restart: nothing that is refused changes anything.
//!
//! Never checks a revision twice at once, never touches a running attempt, and never restarts a pinned worker.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::bundle::{Follower, Report, Revision, Seen, State};
use crate::clock::Millis;
use crate::config::{Bundle, Config, Policies, PoolKind, Problem};
use crate::crash;
use crate::handler::{Registry, Terms};
use crate::store::{BundleNote, Store, StoreError};

mod fleet;
mod folder;
mod mounts;
mod prepare;

pub use fleet::{fleet, gauges};
use folder::{Folder, Hold};

/// A worker says that it is there at least this often.
const SAY: Duration = Duration::from_secs(10);
/// Between two tries of a refused revision, at most.
const LONGEST_PAUSE: Duration = Duration::from_secs(300);

/// What an attempt begins with. It keeps it to its end.
#[derive(Debug, Clone)]
pub struct Live {
    /// What each attempt is told.
    pub terms: Arc<Terms>,
    /// Who runs which task.
    pub registry: Registry,
    /// How often and how long tasks are tried.
    pub policies: Policies,
    /// How many attempts run at once.
    pub slots: u32,
    /// How long attempts may run.
    pub kind: PoolKind,
    /// The files of its revision, which they may read.
    pub hold: Option<Arc<Hold>>,
}

type Load = dyn Fn(&Path) -> Result<Config, Vec<Problem>> + Send + Sync;
type Build = dyn Fn(&Arc<Config>) -> anyhow::Result<Registry> + Send + Sync;

/// How configuration becomes what attempts run with.
#[derive(Clone)]
pub struct Recipe {
    /// The worker's own configuration with that of a bundle, whose sources stand in a folder.
    pub load: Arc<Load>,
    /// The handlers of a configuration. Reaches nothing over a network.
    pub build: Arc<Build>,
}

impl std::fmt::Debug for Recipe {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Recipe")
    }
}

/// What a look has come to.
#[derive(Debug)]
pub enum Look {
    /// Nothing is to be done.
    Same,
    /// The store is away.
    Away,
    /// From now on attempts begin with this. Say [`Following::adopted`] when they do.
    Adopt(Arc<Live>),
    /// The next life of this worker begins with it.
    Restart,
}

/// What is found right and not taken yet.
struct Checked {
    config: Arc<Config>,
    live: Arc<Live>,
}

/// Why a revision is not taken.
struct Refused(String);

/// One worker and its bundle.
#[derive(Debug)]
pub struct Following {
    store: Store,
    bundle: Bundle,
    folder: Folder,
    recipe: Recipe,
    me: Follower,
    /// What the worker was started with, or has taken over since.
    config: Arc<Config>,
    applied: Option<Revision>,
    next: Option<(Revision, Arc<Config>)>,
    /// Checks that have not ended within their time.
    running: Vec<(Revision, JoinHandle<Result<Checked, Refused>>)>,
    /// A revision that cannot be taken, or not without a restart, is looked at again at that time, and after so long.
    again: Option<(Revision, Instant, Duration)>,
    moving: Option<Seen>,
    said: Option<Instant>,
    /// What is wanted of the bundle, as it was looked at last.
    state: State,
    /// The files of what the worker began with.
    _begun: Option<Arc<Hold>>,
}

impl std::fmt::Debug for Checked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Checked({:?})", self.live.terms.revision)
    }
}

impl std::fmt::Debug for Refused {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Refused({})", self.0)
    }
}

impl From<std::io::Error> for Refused {
    fn from(error: std::io::Error) -> Self {
        Self(error.to_string())
    }
}

/// Why a look ended before it came to anything.
enum Stop {
    /// The store is away.
    Store(StoreError),
    /// The revision is not taken.
    Refused(String),
}

impl From<StoreError> for Stop {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl From<Refused> for Stop {
    fn from(refused: Refused) -> Self {
        Self::Refused(refused.0)
    }
}

impl Live {
    /// What a worker of `pool` runs with under `config`.
    fn new(
        (revision, hold): (Revision, Hold),
        config: &Arc<Config>,
        pool: &str,
        build: &Build,
    ) -> Result<Self, Refused> {
        let registry = build(config).map_err(|error| Refused(format!("{error:#}")))?;
        let entry = config.pools.get(pool);
        let entry = entry.ok_or_else(|| Refused(format!("there is no pool {pool:?} in it")))?;
        let terms = Terms {
            revision: Some(revision),
            features: config.features.clone(),
        };
        Ok(Self {
            terms: Arc::new(terms),
            registry,
            policies: config.tasks.clone(),
            slots: entry.slots,
            kind: entry.kind.clone(),
            hold: Some(Arc::new(hold)),
        })
    }
}

impl Following {
    /// A worker that is about to start with its own configuration `config`, as `me`; it has nothing of the bundle yet.
    pub fn new(
        store: Store,
        config: &Arc<Config>,
        bundle: Bundle,
        mut me: Follower,
        recipe: Recipe,
    ) -> Self {
        let fresh = bundle.look_every.max(SAY) * 3 + bundle.check_limit;
        me.report.fresh_for = Millis::try_from(fresh.as_millis()).unwrap_or(Millis::MAX);
        Self {
            folder: Folder::new(&bundle.folder, &bundle.name, &me.pool),
            store,
            bundle,
            recipe,
            me,
            config: Arc::clone(config),
            applied: None,
            next: None,
            running: Vec::new(),
            again: None,
            moving: None,
            said: None,
            state: State::default(),
            _begun: None,
        }
    }

    /// The bundle that is followed.
    pub fn place(&self) -> Bundle {
        self.bundle.clone()
    }

    /// Between two looks.
    pub fn every(&self) -> Duration {
        self.bundle.look_every
    }

    /// What the worker starts with: what it is to have, or else what all had before that, or else the last one that was good here, or
    /// else one that was good elsewhere. While a bundle is published and none of it can be had, the worker does not start.
    ///
    /// # Errors
    ///
    /// What the store says.
    pub async fn begin(&mut self) -> Result<Arc<Config>, StoreError> {
        let mut waited = false;
        loop {
            if let Some(config) = self.first().await? {
                return Ok(config);
            }
            if !waited {
                tracing::error!(error = ?self.me.report.error, "no revision of the bundle can be used; the worker waits for one");
                waited = true;
            }
            // So that it is seen, and that nobody who waits for a revision forgets it.
            self.say(None, false).await;
            tokio::time::sleep(self.bundle.look_every).await;
        }
    }

    async fn first(&mut self) -> Result<Option<Arc<Config>>, StoreError> {
        let own = Arc::clone(&self.config);
        let mut tried = BTreeSet::new();
        let wanted = match self.wanted().await {
            Ok(wanted) => wanted,
            Err(Stop::Refused(error)) => {
                self.lacks(error).await;
                None
            }
            Err(Stop::Store(error)) => return Err(error),
        };
        let last = self.folder.current();
        if wanted.is_none() && last.is_none() && self.state.newest.is_none() {
            // Nobody has published anything yet.
            return Ok(self.bundle.sources.is_empty().then_some(own));
        }
        for revision in wanted
            .into_iter()
            // What all had that could have it: somebody may have been told so.
            .chain(self.state.before())
            .chain(last)
            .chain(self.state.good.clone())
        {
            if !tried.insert(revision.clone()) {
                continue;
            }
            match self.prepare(&revision).await {
                Ok(Checked { config, live }) => {
                    self.folder_keeps(&revision);
                    self._begun.clone_from(&live.hold);
                    self.config = Arc::clone(&config);
                    self.take(revision);
                    return Ok(Some(config));
                }
                Err(Stop::Refused(error)) => {
                    tracing::error!(%revision, error, "a revision of the bundle cannot be used");
                    // Of the others nobody asks whether it can have them.
                    if tried.len() == 1 {
                        self.refuse(&revision, error).await;
                    }
                }
                Err(Stop::Store(error)) => return Err(error),
            }
        }
        Ok(None)
    }

    /// What is applied.
    pub fn revision(&self) -> Option<&Revision> {
        self.applied.as_ref()
    }

    /// Looks, and does what follows up to the moment at which attempts would begin with something else.
    pub async fn look(&mut self) -> Look {
        let stepped = self.step().await;
        fleet::tend(&self.store, &self.bundle.name, &self.state).await;
        match stepped {
            Ok(look) => look,
            Err(Stop::Store(error)) => {
                tracing::warn!(%error, "the bundle could not be looked at");
                Look::Away
            }
            Err(Stop::Refused(error)) => {
                self.lacks(error).await;
                Look::Same
            }
        }
    }

    /// What is wanted cannot be said or had, for now.
    async fn lacks(&mut self, error: String) {
        let now = self.store.clock().now();
        let report = &mut self.me.report;
        report.behind_since.get_or_insert(now);
        let is_new = report.error.as_deref() != Some(error.as_str());
        if is_new {
            tracing::warn!(
                error,
                "the bundle's sources cannot be taken over; the last good ones stay"
            );
        }
        report.error = Some(error);
        self.say(None, is_new).await;
    }

    async fn step(&mut self) -> Result<Look, Stop> {
        let before = self.me.report.clone();
        let wanted = self.wanted().await?;
        self.me.report.desired.clone_from(&wanted);
        let Some(wanted) = wanted.filter(|wanted| Some(wanted) != self.applied.as_ref()) else {
            self.settled();
            self.say(None, before != self.me.report).await;
            return Ok(Look::Same);
        };
        let now = self.store.clock().now();
        self.me.report.behind_since.get_or_insert(now);
        if let Some((refused, at, _)) = &self.again
            && *refused == wanted
            && Instant::now() < *at
        {
            self.say(None, before != self.me.report).await;
            return Ok(Look::Same);
        }
        let checked = match self.prepare(&wanted).await {
            Ok(checked) => checked,
            Err(Stop::Refused(error)) => {
                tracing::error!(revision = %wanted, error, "a revision of the bundle was refused; the last good one stays");
                self.refuse(&wanted, error).await;
                return self.fall_back(&wanted).await;
            }
            Err(stop @ Stop::Store(_)) => return Err(stop),
        };
        let restart = self.config.restarts(&checked.config, &self.me.pool);
        if restart.is_empty() || self.me.kind == "elastic" {
            return Ok(self.take_over(wanted, checked, restart).await);
        }
        self.later(&wanted);
        self.me.report.refused = None;
        self.me.report.error = Some(format!(
            "{} can only be taken over by a restart, which a pinned worker leaves to you",
            restart.join(", ")
        ));
        self.me.report.restart = restart;
        self.say(None, before != self.me.report).await;
        Ok(Look::Same)
    }

    /// A revision that is found right is what attempts begin with, here or in the next life.
    async fn take_over(
        &mut self,
        revision: Revision,
        checked: Checked,
        restart: Vec<String>,
    ) -> Look {
        if restart.is_empty() {
            self.next = Some((revision.clone(), checked.config));
            self.folder_keeps(&revision);
            return Look::Adopt(checked.live);
        }
        tracing::info!(%revision, sections = ?restart, "a revision of the bundle needs a restart; the worker drains");
        self.folder_keeps(&revision);
        self.me.report.restart = restart;
        self.say(None, true).await;
        Look::Restart
    }

    /// What is wanted cannot be had: the worker has what all were to have before it. It may have missed that.
    async fn fall_back(&mut self, refused: &Revision) -> Result<Look, Stop> {
        for revision in self.state.before() {
            if revision == *refused {
                continue;
            }
            if self.applied.as_ref() == Some(&revision) {
                break;
            }
            match self.prepare(&revision).await {
                Ok(checked) => {
                    let restart = self.config.restarts(&checked.config, &self.me.pool);
                    if !restart.is_empty() && self.me.kind != "elastic" {
                        break;
                    }
                    return Ok(self.take_over(revision, checked, restart).await);
                }
                Err(Stop::Refused(error)) => {
                    tracing::warn!(%revision, error, "nor can what was wanted before it be used");
                }
                Err(stop @ Stop::Store(_)) => {
                    // The next look begins with this again.
                    self.again = None;
                    return Err(stop);
                }
            }
        }
        Ok(Look::Same)
    }

    /// Attempts begin with what the last look has found.
    pub async fn adopted(&mut self) {
        let Some((revision, config)) = self.next.take() else {
            return;
        };
        crash::point("bundle:adopted");
        self.config = config;
        tracing::info!(%revision, "the bundle is live");
        self.take(revision.clone());
        if self.me.report.desired.as_ref() == Some(&revision) {
            self.settled();
        }
        let who = self.me.worker.to_string();
        let note = BundleNote {
            what: "live",
            revision: Some(&revision),
            who: &who,
            detail: &self.me.pool.clone(),
        };
        self.say(Some(note), true).await;
        self.is_good(&revision).await;
    }

    /// The worker's first word, which has to be heard before it takes any work; waits while the store is away.
    pub async fn first_word(&mut self) {
        let revision = self.applied.clone();
        let who = self.me.worker.to_string();
        let note = revision.as_ref().map(|revision| BundleNote {
            what: "live",
            revision: Some(revision),
            who: &who,
            detail: "started",
        });
        while let Err(error) = self.try_say(note.as_ref(), true).await {
            tracing::warn!(%error, "the worker cannot say which configuration it has");
            tokio::time::sleep(self.bundle.look_every).await;
        }
        if let Some(revision) = revision {
            self.is_good(&revision).await;
        }
    }

    /// Others that cannot take what is newer may begin with it.
    async fn is_good(&self, revision: &Revision) {
        if self.bundle.sources.is_empty()
            && !self.state.good.contains(revision)
            && let Err(error) = self.store.bundle_good(&self.bundle.name, revision).await
        {
            tracing::debug!(%error, "that a revision of the bundle is good could not be noted");
        }
    }

    /// The worker ends.
    ///
    /// # Errors
    ///
    /// As any verb.
    pub async fn leave(&self) -> Result<(), StoreError> {
        self.store
            .bundle_leave(&self.bundle.name, &self.me.worker)
            .await
            .map(drop)
    }

    fn take(&mut self, revision: Revision) {
        let report = &mut self.me.report;
        report.applied = Some(revision.clone());
        report.applied_at = self.store.clock().now();
        self.applied = Some(revision);
    }

    /// It has what it is to have.
    fn settled(&mut self) {
        self.again = None;
        let report = &mut self.me.report;
        report.error = None;
        report.refused = None;
        report.restart.clear();
        report.behind_since = None;
    }

    /// A restart begins with it. That it does not is no reason to stop now.
    fn folder_keeps(&self, revision: &Revision) {
        if let Err(error) = self.folder.set_current(revision) {
            tracing::warn!(%error, "a restart would not begin with this revision of the bundle");
        }
        if let Err(error) = self.folder.tidy() {
            tracing::debug!(%error, "old revisions of the bundle could not be taken away");
        }
        crash::point("bundle:kept");
    }

    /// It is looked at again after a while, each time after twice as long.
    fn later(&mut self, revision: &Revision) {
        let pause = match &self.again {
            Some((known, _, pause)) if known == revision => (*pause * 2).min(LONGEST_PAUSE),
            Some(_) | None => self.bundle.look_every,
        };
        self.again = Some((revision.clone(), Instant::now() + pause, pause));
    }

    async fn refuse(&mut self, revision: &Revision, error: String) {
        self.later(revision);
        let is_new = self.me.report.refused.as_ref() != Some(revision)
            || self.me.report.error.as_deref() != Some(error.as_str());
        self.me.report.refused = Some(revision.clone());
        self.me.report.restart.clear();
        self.me.report.error = Some(error.clone());
        metrics::counter!("longshore_bundle_refusals_total").increment(1);
        let who = self.me.worker.to_string();
        let note = BundleNote {
            what: "refused",
            revision: Some(revision),
            who: &who,
            detail: &error,
        };
        self.say(is_new.then_some(note), is_new).await;
    }

    /// Reports if something is new, or if it was silent for long.
    async fn say(&mut self, note: Option<BundleNote<'_>>, is_new: bool) {
        let is_due = self.said.is_none_or(|said| said.elapsed() >= SAY);
        if (is_new || is_due || note.is_some())
            && let Err(error) = self.try_say(note.as_ref(), is_due).await
        {
            // What is so is said at the next look.
            self.said = None;
            tracing::warn!(%error, "the worker cannot say which configuration it has");
        }
    }

    async fn try_say(
        &mut self,
        note: Option<&BundleNote<'_>>,
        succeeds: bool,
    ) -> Result<(), StoreError> {
        own_gauges(&self.me.report, self.store.clock().now());
        self.store
            .bundle_report(&self.bundle.name, &self.me, succeeds, note)
            .await?;
        self.said = Some(Instant::now());
        Ok(())
    }

    /// What the worker is to have now.
    async fn wanted(&mut self) -> Result<Option<Revision>, Stop> {
        let (version, state) = self.store.bundle_state(&self.bundle.name).await?;
        self.me.report.version = version;
        let now = self.store.clock().now();
        let wanted = state.desired(&self.me.place(), now).cloned();
        let is_frozen = state.frozen(now).is_some();
        self.state = state;
        if self.bundle.sources.is_empty() {
            return Ok(wanted);
        }
        self.wanted_of_sources(is_frozen, now).await
    }
}

fn own_gauges(report: &Report, now: Millis) {
    let behind = report.behind_since.map_or(0, |since| now - since);
    metrics::gauge!("longshore_bundle_behind_seconds").set(behind as f64 / 1000.0);
    let flag = |flag| if flag { 1.0 } else { 0.0 };
    metrics::gauge!("longshore_bundle_refused").set(flag(report.refused.is_some()));
    metrics::gauge!("longshore_bundle_needs_restart").set(flag(!report.restart.is_empty()));
}
