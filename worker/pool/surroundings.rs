//! What follows for a worker from its pod and node: rest and wake, hand off early, the drain's deadline, the
//! busy label, the deletion cost.
//!
//! Without a pod all of it does nothing. Never: a claim of a pinned worker before the pod is labelled and
//! looked at; the label taken off before the store has what ran.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;

use super::Worker;
use super::decide::Cut;
use crate::kube::busy::Admission;
use crate::kube::cost::{self, Written};
use crate::kube::signs::Seen;
use crate::kube::{Note, Pod};

/// How often what runs is looked at while the worker rests or is busy.
const LOOK: Duration = Duration::from_millis(250);
/// Before a label that could not be changed is tried again, doubled with each …
const PAUSE: Duration = Duration::from_secs(1);
/// … up to this.
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// The longest that the API server may keep a worker that ends.
const LAST_WORD: Duration = Duration::from_millis(500);

/// A claim is under way while this lives.
pub(super) struct Claiming<'w>(&'w Worker);

impl Drop for Claiming<'_> {
    fn drop(&mut self) {
        self.0.claiming.fetch_sub(1, Ordering::SeqCst);
        self.0.changed.notify_waiters();
    }
}

impl Worker {
    /// Waits while the worker rests. False: it shall take nothing any more.
    pub(super) async fn until_awake(&self) -> bool {
        let mut resting = self.resting.subscribe();
        tokio::select! {
            biased;
            () = self.quiet.cancelled() => false,
            _ = resting.wait_for(Option::is_none) => true,
        }
    }

    /// Waits until the worker shall take nothing new, for now or for ever.
    pub(super) async fn until_resting(&self) {
        let mut resting = self.resting.subscribe();
        tokio::select! {
            () = self.quiet.cancelled() => {}
            _ = resting.wait_for(Option::is_some) => {}
        }
    }

    pub(super) fn claiming(&self) -> Claiming<'_> {
        self.claiming.fetch_add(1, Ordering::SeqCst);
        Claiming(self)
    }

    /// Whether a claim may follow, now: on a pinned pod it is labelled busy first, and the pod looked at afresh.
    pub(super) async fn admitted(&self) -> bool {
        let Some(pod) = &self.setup.pod else {
            return true;
        };
        if self.setup.pool.kind.is_elastic() {
            return true;
        }
        match pod.admit().await {
            Admission::Go => true,
            Admission::Rest => {
                self.rest(pod);
                false
            }
        }
    }

    /// Rests or wakes by what pod and node say.
    fn rest(&self, pod: &Pod) {
        let reason = pod.signs().quiet;
        let changed = self.resting.send_if_modified(|resting| {
            let changed = *resting != reason;
            resting.clone_from(&reason);
            changed
        });
        if !changed {
            return;
        }
        self.tell_rest();
        match reason {
            Some(reason) => {
                tracing::info!(reason, running = self.count(), "nothing new is taken");
                let pod = pod.clone();
                self.tasks.spawn(async move {
                    let text = format!("takes nothing new: {reason}");
                    pod.event(Note::Quiet, text).await;
                });
            }
            None => tracing::info!("work is taken again"),
        }
    }

    /// Tells probes whether anything is taken: pod and node may forbid it, or a tool all queues.
    pub(super) fn tell_rest(&self) {
        let rests = self.resting.borrow().is_some() || self.queues.borrow().is_empty();
        self.setup.health.rests(rests);
    }

    /// Whether the pod must not be evicted: something is being claimed, or runs and gets on.
    fn is_busy(&self, limit: Duration) -> bool {
        self.claiming.load(Ordering::SeqCst) > 0
            || self.attempts(|attempts| {
                attempts
                    .values()
                    .any(|attempt| attempt.pulse.still_for() < limit)
            })
    }

    /// Asks attempts to go on elsewhere, and ends those that do not. Of an elastic worker those that are long already,
    /// each once it is; by request all of any worker.
    fn hand_off_early(&self, all: bool) {
        let every = self.setup.worker.checkpoint_every;
        self.attempts(|attempts| {
            for ((id, _), attempt) in attempts.iter_mut() {
                match attempt.asked {
                    None if all || attempt.begun.elapsed() >= every => {
                        tracing::info!(task.id = %id, task.name = attempt.task.name, "attempt is asked to go on elsewhere");
                        attempt.asked = Some(Instant::now());
                        attempt.drain.cancel();
                    }
                    Some(asked) if asked.elapsed() >= every * 2 => attempt.cut(Cut::HandOff),
                    None | Some(_) => {}
                }
            }
        });
    }
}

/// The first look at pod and node, so that a worker that is started on a cordoned node takes nothing. Bounded by the
/// time limit of a call.
pub(super) async fn first_look(worker: &Arc<Worker>) {
    let Some(pod) = &worker.setup.pod else { return };
    pod.follow(&worker.give_up);
    pod.look_around().await;
    worker.rest(pod);
}

/// Rests, wakes and hands off as pod and node say.
pub(super) async fn signs(worker: Arc<Worker>) {
    let Some(pod) = worker.setup.pod.clone() else {
        return;
    };
    let mut seen = pod.seen();
    let mut told = 0;
    loop {
        worker.rest(&pod);
        let asked = pod.signs().hand_off;
        let resting = worker.resting.borrow().is_some();
        if resting && (asked || worker.setup.pool.kind.is_elastic()) && !worker.quiet.is_cancelled()
        {
            worker.hand_off_early(asked);
        }
        let gone = worker.handed_off.load(Ordering::Relaxed);
        if gone > told && !worker.quiet.is_cancelled() {
            let text = format!("handed off {} tasks; they go on elsewhere", gone - told);
            told = gone;
            let pod = pod.clone();
            worker
                .tasks
                .spawn(async move { pod.event(Note::HandedOff, text).await });
        }
        tokio::select! {
            () = worker.give_up.cancelled() => return,
            Ok(()) = seen.changed() => {}
            () = tokio::time::sleep(LOOK), if resting => {}
        }
    }
}

/// Keeps the busy label of a pinned pod, or the deletion cost of an elastic one.
pub(super) async fn labels(worker: Arc<Worker>) {
    let Some(pod) = worker.setup.pod.clone() else {
        return;
    };
    if worker.setup.pool.kind.is_elastic() {
        keep_cost(&worker, &pod).await;
    } else {
        keep_busy(&worker, &pod).await;
    }
}

async fn keep_busy(worker: &Worker, pod: &Pod) {
    let limit = pod.busy_limit();
    let (mut stuck, mut pause) = (false, PAUSE);
    loop {
        // Taken before the look, so that no change after it is missed.
        let changed = worker.changed.notified();
        let settled = pod.settle_busy(|| worker.is_busy(limit)).await;
        let running = worker.count();
        let was = std::mem::replace(&mut stuck, running > 0 && !worker.is_busy(limit));
        if stuck && !was {
            tracing::error!(
                running,
                ?limit,
                "attempts make no progress; they no longer keep the node"
            );
            let text = format!(
                "{running} attempts made no progress for {limit:?}: the pod may be evicted"
            );
            pod.event(Note::BusyTooLong, text).await;
        }
        tokio::select! {
            () = worker.give_up.cancelled() => return,
            () = changed, if settled => {}
            () = tokio::time::sleep(if settled { LOOK * 4 } else { pause }) => {}
        }
        pause = if settled {
            PAUSE
        } else {
            (pause * 2).min(LONGEST_PAUSE)
        };
    }
}

async fn keep_cost(worker: &Worker, pod: &Pod) {
    let mut written = Written::default();
    loop {
        let oldest = worker.attempts(|attempts| {
            attempts
                .values()
                .map(|attempt| attempt.begun.elapsed())
                .max()
        });
        let (cost, now) = (cost::cost(oldest), Instant::now());
        if written.due(cost, now) {
            let answer = pod.write_cost(cost).await;
            if let Err(error) = &answer {
                tracing::debug!(%error, cost, "the deletion cost could not be written");
            }
            written.note(answer.ok().map(|()| cost), now);
        }
        tokio::select! {
            () = worker.give_up.cancelled() => return,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Until when a drain has time. It may come nearer while the drain goes on.
pub(super) struct Plan {
    begun: Instant,
    deadline: Instant,
    seen: Option<watch::Receiver<Seen>>,
    look: Option<futures::future::BoxFuture<'static, ()>>,
}

impl Plan {
    /// The plan as far as is known: until the pod has answered, the short time that is left without an answer.
    pub(super) fn new(worker: &Worker, begun: Instant) -> Self {
        let pod = worker.setup.pod.clone();
        let look = pod
            .clone()
            .map(|pod| -> futures::future::BoxFuture<'static, ()> {
                Box::pin(async move { pod.look_for_deadline().await })
            });
        let mut plan = Self {
            begun,
            deadline: begun,
            seen: pod.map(|pod| pod.seen()),
            look,
        };
        plan.deadline = plan.derive(worker);
        plan
    }

    pub(super) fn deadline(&self) -> Instant {
        self.deadline
    }

    /// Waits until the pod says anything that changes the plan. True: everything shall be handed off now.
    ///
    /// # Cancel safety
    ///
    /// Nothing is lost: the look goes on at the next call.
    pub(super) async fn changed(&mut self, worker: &Worker) -> bool {
        loop {
            let Some(seen) = &mut self.seen else {
                return std::future::pending().await;
            };
            match &mut self.look {
                Some(look) => {
                    tokio::select! {
                        () = look => {
                            self.look = None;
                            announce(worker, self.begun, self.derive(worker));
                        }
                        Ok(()) = seen.changed() => {}
                    }
                }
                None => {
                    if seen.changed().await.is_err() {
                        self.seen = None;
                        continue;
                    }
                }
            }
            let asked = worker
                .setup
                .pod
                .as_ref()
                .is_some_and(|pod| pod.signs().hand_off);
            let deadline = self.derive(worker);
            let moved = deadline != self.deadline;
            if moved {
                let seconds = deadline
                    .saturating_duration_since(Instant::now())
                    .as_secs_f64();
                tracing::info!(
                    seconds,
                    running = worker.count(),
                    "the drain's deadline is another"
                );
                self.deadline = deadline;
            }
            if moved || asked {
                return asked;
            }
        }
    }

    fn derive(&self, worker: &Worker) -> Instant {
        let config = &worker.setup.worker;
        let end = match &worker.setup.pod {
            None => self.begun + config.grace,
            Some(pod) => pod
                .signs()
                .ends
                .unwrap_or_else(|| self.begun + config.grace.min(pod.unknown_grace())),
        };
        // What is past is now, so that there is still a moment to hand off in; what was now once stays so.
        end.checked_sub(config.margin)
            .unwrap_or(self.begun)
            .max(self.deadline.min(Instant::now()))
    }
}

/// Says by an event that a drain has begun, beside it.
fn announce(worker: &Worker, begun: Instant, deadline: Instant) {
    let Some(pod) = worker.setup.pod.clone() else {
        return;
    };
    let seconds = deadline.saturating_duration_since(begun).as_secs();
    let text = format!(
        "drain begun with {} attempts running and {seconds} s for them",
        worker.count()
    );
    worker
        .tasks
        .spawn(async move { pod.event(Note::DrainBegun, text).await });
}

/// Leaves the pod as it should be found: without a busy label for work that is over (a container that does not come back
/// would keep its node for ever), and with an event of what was handed off. For no longer than a moment.
pub(super) async fn last_word(worker: &Worker) {
    let Some(pod) = &worker.setup.pod else { return };
    let gone = worker.handed_off.load(Ordering::Relaxed);
    let left = async {
        if !worker.setup.pool.kind.is_elastic() {
            pod.settle_busy(|| worker.count() > 0).await;
        }
        if gone > 0 {
            let text = format!("handed off {gone} tasks; they go on elsewhere");
            pod.event(Note::HandedOff, text).await;
        }
    };
    if tokio::time::timeout(LAST_WORD, left).await.is_err() {
        tracing::debug!("the API server did not take the worker's last words in time");
    }
}
