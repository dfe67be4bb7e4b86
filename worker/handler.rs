//! What a user writes: a handler per task name, and what it gets and returns.
//!
//! A handler never holds a transaction, never acknowledges and never decides who may run: it computes, saves
//! checkpoints through its [`Context`], and returns an [`Outcome`]. When the lease is lost, every write
//! through the context fails with [`Stop`], and whatever the handler returns then is dropped.
//!
//! ```
//! use longshore::handler::{Outcome, Registry};
//!
//! let mut registry = Registry::default();
//! registry.add("sum.squares", |task, context| async move {
//!     let most = task.arg("most", 0).and_then(|value| value.as_u64()).unwrap_or(10);
//!     // Goes on where the last attempt stopped, on whichever worker that was.
//!     let (mut next, mut sum): (u64, u64) = context.resume()?.unwrap_or((0, 0));
//!     while next < most {
//!         sum += next * next;
//!         next += 1;
//!         if next % 1000 == 0 {
//!             context.save(&(next, sum)).await?;
//!             if context.is_draining() {
//!                 return Ok(Outcome::HandOff);
//!             }
//!         }
//!     }
//!     Ok(Outcome::done(sum))
//! });
//! assert!(registry.knows("sum.squares"));
//! ```

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures::future::BoxFuture;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::bundle::Revision;
use crate::id::{Epoch, TaskId};
use crate::store::{Claimed, Op, Store, StoreError};
use crate::task::Task;

/// How an attempt ended, as its handler sees it. An error instead is a failure, tried again by the policy
/// of the task's name; see also [`Fatal`].
#[derive(Debug)]
#[must_use]
pub enum Outcome {
    /// It did what it should; the value is kept as the task's result.
    Done(Value),
    /// The same, with writes of its own and new tasks in the very transaction that says so.
    Publish {
        /// Kept as the task's result.
        result: Value,
        /// The writes, from the store's verbs.
        with: Vec<Op>,
        /// New tasks.
        follow: Vec<Task>,
    },
    /// Not yet: run again after this time. Burns no attempt.
    Later {
        /// How long to wait.
        after: Duration,
        /// What for.
        reason: String,
    },
    /// Not yet either, and from another checkpoint: both are written at once. Burns no attempt: the task counts
    /// its own, as Celery's `self.retry` does.
    Again {
        /// How long to wait.
        after: Duration,
        /// What for.
        reason: String,
        /// Where to go on.
        checkpoint: Value,
        /// Its message from now on, for others on its queue.
        message: Box<Task>,
    },
    /// It is over and nobody is to be told: no result, no callbacks (Celery's `Ignore`).
    Ignored,
    /// Others take it over: who waits for it, and what follows from it, is theirs too.
    PassedOn {
        /// Their queue.
        queue: String,
        /// What puts its message there.
        with: Op,
    },
    /// Drain asked, and the last saved checkpoint is where to go on: at once, on another worker. Burns no attempt.
    HandOff,
}

impl Outcome {
    /// [`Outcome::Done`] with anything that can be JSON.
    pub fn done(result: impl Serialize) -> Self {
        Self::Done(serde_json::to_value(result).unwrap_or(Value::Null))
    }
}

/// A failure that another attempt would repeat: the task becomes a dead letter at once.
#[derive(Debug, Clone, thiserror::Error)]
#[error("{0}")]
pub struct Fatal(pub String);

/// The attempt is over, whatever the handler thinks: return it.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Stop {
    /// Another attempt holds the task now. Nothing was written.
    #[error("the lease is lost")]
    LeaseLost,
    /// The store refused what was to be written.
    #[error(transparent)]
    Store(StoreError),
    /// A checkpoint cannot be read as what the handler expects, or not be written as JSON.
    #[error("the checkpoint does not fit: {0}")]
    Checkpoint(String),
}

/// A handler's future.
pub type Running = BoxFuture<'static, anyhow::Result<Outcome>>;

type Handler = Arc<dyn Fn(Arc<Task>, Context) -> Running + Send + Sync>;

/// Which handler runs which task name.
#[derive(Clone, Default)]
pub struct Registry {
    handlers: BTreeMap<String, Handler>,
    repeated: BTreeSet<String>,
    timed: BTreeSet<String>,
}

impl std::fmt::Debug for Registry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_set().entries(self.handlers.keys()).finish()
    }
}

impl Registry {
    /// Lets `handler` run the tasks called `name`; the last one said wins.
    pub fn add<F, R>(&mut self, name: impl Into<String>, handler: F)
    where
        F: Fn(Arc<Task>, Context) -> R + Send + Sync + 'static,
        R: Future<Output = anyhow::Result<Outcome>> + Send + 'static,
    {
        self.handlers.insert(
            name.into(),
            Arc::new(move |task, context| Box::pin(handler(task, context))),
        );
    }

    /// Takes over all of `other`.
    pub fn merge(&mut self, other: &Self) {
        self.handlers.extend(other.handlers.clone());
        self.repeated.extend(other.repeated.clone());
        self.timed.extend(other.timed.clone());
    }

    /// A message of a task called `name` that is over runs it again: for producers who use an id for each subject, not
    /// for each message. Its handler sees for itself that there is nothing to do, since a broker may deliver a message
    /// twice.
    pub fn repeat(&mut self, name: impl Into<String>) {
        self.repeated.insert(name.into());
    }

    /// Whether a message of a task called `name` that is over runs it again.
    pub fn repeats(&self, name: &str) -> bool {
        self.repeated.contains(name)
    }

    /// The handler for `name` keeps the time limits of Celery's messages itself.
    pub fn keep_time(&mut self, name: impl Into<String>) {
        self.timed.insert(name.into());
    }

    /// Whether the handler for `name` keeps the time limits of Celery's messages itself.
    pub fn keeps_time(&self, name: &str) -> bool {
        self.timed.contains(name)
    }

    /// Whether a handler for `name` is there.
    pub fn knows(&self, name: &str) -> bool {
        self.handlers.contains_key(name)
    }

    /// Every name.
    pub fn names(&self) -> Vec<String> {
        self.handlers.keys().cloned().collect()
    }

    /// Begins an attempt.
    pub(crate) fn start(&self, task: &Arc<Task>, context: Context) -> Option<Running> {
        self.handlers
            .get(&task.name)
            .map(|handler| handler(Arc::clone(task), context))
    }
}

/// What the configuration says to an attempt, as it was when the attempt began.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Terms {
    /// The bundle's revision, if the worker follows one.
    pub revision: Option<Revision>,
    /// `[features]`.
    pub features: BTreeMap<String, bool>,
}

/// What an attempt may do and should know. Clones share it.
#[derive(Clone)]
pub struct Context(Arc<Shared>);

struct Shared {
    store: Store,
    task: Arc<Task>,
    claimed: Claimed,
    terms: Arc<Terms>,
    drain: CancellationToken,
    deadline: watch::Receiver<Option<Instant>>,
    lost: CancellationToken,
    progress: Mutex<Option<String>>,
    pulse: Arc<Pulse>,
}

/// When an attempt last showed that it gets on. Shared with the pool.
#[derive(Debug)]
pub struct Pulse(Mutex<Moments>);

#[derive(Debug, Clone, Copy)]
struct Moments {
    moved: Instant,
    saved: Instant,
}

impl Default for Pulse {
    fn default() -> Self {
        let now = Instant::now();
        Self(Mutex::new(Moments {
            moved: now,
            saved: now,
        }))
    }
}

impl Pulse {
    /// For how long it has neither written nor said anything.
    pub fn still_for(&self) -> Duration {
        self.moments(|moments| moments.moved.elapsed())
    }

    /// For how long nothing of it was made durable.
    pub fn unsaved_for(&self) -> Duration {
        self.moments(|moments| moments.saved.elapsed())
    }

    fn moved(&self) {
        self.moments(|moments| moments.moved = Instant::now());
    }

    fn saved(&self) {
        let now = Instant::now();
        self.moments(|moments| {
            *moments = Moments {
                moved: now,
                saved: now,
            }
        });
    }

    fn moments<T>(&self, with: impl FnOnce(&mut Moments) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl std::fmt::Debug for Context {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Context({} {})", self.0.task.id, self.0.claimed.epoch)
    }
}

impl Context {
    pub(crate) fn new(
        store: Store,
        task: Arc<Task>,
        claimed: Claimed,
        terms: Arc<Terms>,
        (drain, lost): (CancellationToken, CancellationToken),
        deadline: watch::Receiver<Option<Instant>>,
        pulse: Arc<Pulse>,
    ) -> Self {
        Self(Arc::new(Shared {
            store,
            task,
            claimed,
            terms,
            drain,
            deadline,
            lost,
            progress: Mutex::new(None),
            pulse,
        }))
    }

    /// The same for one of several parts of an attempt, which knows no checkpoint of another.
    pub(crate) fn anew(&self) -> Self {
        let Shared {
            store,
            task,
            claimed,
            terms,
            drain,
            deadline,
            lost,
            progress: _,
            pulse,
        } = &*self.0;
        let claimed = Claimed {
            checkpoint: None,
            ..claimed.clone()
        };
        Self::new(
            store.clone(),
            Arc::clone(task),
            claimed,
            Arc::clone(terms),
            (drain.clone(), lost.clone()),
            deadline.clone(),
            Arc::clone(pulse),
        )
    }

    /// The id of the task.
    pub fn task(&self) -> &TaskId {
        &self.0.task.id
    }

    /// Which claim of the task this attempt is.
    pub fn epoch(&self) -> Epoch {
        self.0.claimed.epoch
    }

    /// The fencing token for effects elsewhere that can compare it (a conditional write, a file's generation): refuse what comes with
    /// a smaller one than the last. In a lane with one task at a time it grows from attempt to attempt of all the lane's tasks, without
    /// a lane from attempt to attempt of this task.
    pub fn token(&self) -> i64 {
        self.0.claimed.token
    }

    /// The revision of the bundle that this attempt began with, and keeps.
    pub fn revision(&self) -> Option<&Revision> {
        self.0.terms.revision.as_ref()
    }

    /// Whether the switch `name` of `[features]` was on when this attempt began. One that nobody has written is off.
    pub fn is_on(&self, name: &str) -> bool {
        self.0.terms.features.get(name).copied().unwrap_or_default()
    }

    /// How often the task failed, lost its worker, and was handed off before.
    pub fn history(&self) -> (u32, u32, u32) {
        let Claimed {
            failures,
            crashes,
            interruptions,
            ..
        } = self.0.claimed;
        (failures, crashes, interruptions)
    }

    /// The store, for its reading verbs.
    pub fn store(&self) -> &Store {
        &self.0.store
    }

    /// Where the last attempt got to; `None`: this is the beginning.
    ///
    /// # Errors
    ///
    /// [`Stop::Checkpoint`] if what was saved is no `T`.
    pub fn resume<T: DeserializeOwned>(&self) -> Result<Option<T>, Stop> {
        self.0
            .claimed
            .checkpoint
            .clone()
            .map(|value| {
                serde_json::from_value(value).map_err(|error| Stop::Checkpoint(error.to_string()))
            })
            .transpose()
    }

    /// Makes `checkpoint` durable: no later attempt begins before it. Waits while the store is away.
    ///
    /// # Errors
    ///
    /// [`Stop`]: return it.
    ///
    /// # Cancel safety
    ///
    /// A save that was begun is either whole or not there; which, shows at the next attempt.
    pub async fn save<T: Serialize>(&self, checkpoint: &T) -> Result<(), Stop> {
        self.save_with(checkpoint, Vec::new()).await
    }

    /// The same together with writes of the store's verbs, in one transaction.
    ///
    /// # Errors
    ///
    /// [`Stop`]: return it.
    pub async fn save_with<T: Serialize>(&self, checkpoint: &T, with: Vec<Op>) -> Result<(), Stop> {
        let value = serde_json::to_value(checkpoint)
            .map_err(|error| Stop::Checkpoint(error.to_string()))?;
        let progress = self.progress();
        let Shared {
            store,
            task,
            claimed,
            ..
        } = &*self.0;
        let saved = self
            .patiently(|| {
                store.checkpoint(
                    &task.id,
                    claimed.epoch,
                    Some(&value),
                    progress.as_deref(),
                    with.clone(),
                )
            })
            .await;
        match saved {
            Ok(_) => {
                self.0.pulse.saved();
                Ok(())
            }
            // The connection may have ended between a commit and its answer; the second try then meets its own rows.
            Err(Stop::Store(StoreError::Refused { reason })) => {
                let there = self
                    .patiently(|| store.checkpoint_of(&task.id, claimed.epoch))
                    .await?;
                if there.as_ref() == Some(&value) {
                    self.0.pulse.saved();
                    Ok(())
                } else {
                    Err(Stop::Store(StoreError::Refused { reason }))
                }
            }
            Err(stop) => Err(stop),
        }
    }

    /// Whether anything of this attempt was made durable within the last `time`.
    pub(crate) fn saved_within(&self, time: Duration) -> bool {
        self.0.pulse.unsaved_for() <= time
    }

    /// Writes with the store's verbs, under this attempt's lease, and leaves the checkpoint as it is.
    ///
    /// # Errors
    ///
    /// [`Stop`]: return it.
    pub async fn write(&self, with: Vec<Op>) -> Result<(), Stop> {
        let Shared {
            store,
            task,
            claimed,
            ..
        } = &*self.0;
        self.patiently(|| store.checkpoint(&task.id, claimed.epoch, None, None, with.clone()))
            .await?;
        self.0.pulse.moved();
        Ok(())
    }

    /// Runs a verb of the store again while the store is away; a lease that is lost ends it.
    ///
    /// # Errors
    ///
    /// [`Stop`]: return it.
    pub async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
        &self,
        verb: impl Fn() -> F,
    ) -> Result<T, Stop> {
        /// Between two tries; the pool ends the attempt if it takes too long.
        const PAUSE: Duration = Duration::from_millis(250);
        loop {
            if self.0.lost.is_cancelled() {
                return Err(Stop::LeaseLost);
            }
            match verb().await {
                Ok(answer) => return Ok(answer),
                Err(StoreError::Stale { .. }) => {
                    self.0.lost.cancel();
                    return Err(Stop::LeaseLost);
                }
                Err(error) if error.is_temporary() => {
                    tracing::warn!(%error, task.id = %self.0.task.id, "the store is away; the attempt waits for it");
                    tokio::time::sleep(PAUSE).await;
                }
                Err(error) => return Err(Stop::Store(error)),
            }
        }
    }

    /// Says for people how far it is; kept in memory, and stored with the next checkpoint.
    pub fn set_progress(&self, text: impl Into<String>) {
        self.0.pulse.moved();
        *self
            .0
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner) = Some(text.into());
    }

    /// What was said last.
    pub fn progress(&self) -> Option<String> {
        self.0
            .progress
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Whether the worker wants to end: save, and return [`Outcome::HandOff`], unless it is over anyway.
    pub fn is_draining(&self) -> bool {
        self.0.drain.is_cancelled()
    }

    /// Waits until the worker wants to end.
    pub async fn draining(&self) {
        self.0.drain.cancelled().await;
    }

    /// When the attempt will be ended, once the worker wants to end. It may come nearer.
    pub fn deadline(&self) -> Option<Instant> {
        *self.0.deadline.borrow()
    }
}
