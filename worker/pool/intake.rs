//! Deliveries become claims, as many as there are free slots; what may not run gets a row and goes.

use std::sync::Arc;
use std::time::Duration;

use serde_json::Value;
use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::time::Instant;

use super::decide::{Triage, triage};
use super::{Worker, attempt};
use crate::broker::{Consumer, Delivery, Outgoing, Receipt, unreadable_queue};
use crate::celery::{self, events::What};
use crate::codec::{self, Unreadable};
use crate::crash;
use crate::follow::Live;
use crate::id::{Epoch, WorkerId};
use crate::store::{ClaimAnswer, ClaimRequest, SetAside, State, StoreError};
use crate::task::{Task, Wire};

/// Deliveries that share a claim's commit: at this number a commit is a small part of each.
const BATCH: usize = 256;
/// Between two tries while the store is away.
const PAUSE: Duration = Duration::from_millis(250);
/// Before each look at whether a redelivered task's owner is dead, in milliseconds: a killed worker's lock is free within
/// milliseconds, on a busy server within some hundred, and a live one's stays. The steps are what a look may come too late.
const DISPUTE: [u64; 14] = [0, 5, 10, 20, 40, 50, 50, 50, 75, 100, 100, 150, 250, 300];

/// A delivery that can be read.
struct Incoming {
    task: Task,
    receipt: Receipt,
    redelivered: bool,
    received: Instant,
    /// The dead worker whose task this is.
    heir_of: Option<(WorkerId, Epoch)>,
}

/// Takes deliveries until quiet; while the worker rests, nothing of the broker's is held.
pub(super) async fn run(worker: Arc<Worker>) {
    let slots = worker.live().slots;
    let (disputes, mut decided) = mpsc::channel::<Incoming>(slots as usize + 1);
    let mut queues = worker.queues.subscribe();
    let mut slots = worker.wanted_slots.subscribe();
    while worker.until_awake().await {
        let taken = queues.borrow_and_update().clone();
        if taken.is_empty() {
            until_disturbed(&worker, &mut queues, &mut slots).await;
            continue;
        }
        let prefetch = u16::try_from(*slots.borrow_and_update()).unwrap_or(u16::MAX);
        let consumer = worker.broker.consume(&taken, prefetch);
        worker.setup.health.consumes(consumer.attached());
        let changes = (&mut queues, &mut slots);
        take_from(&worker, consumer, changes, &disputes, &mut decided).await;
    }
}

/// Waits until the worker shall take nothing, for now or for ever, or from other queues, or hold more or fewer.
async fn until_disturbed(
    worker: &Worker,
    queues: &mut watch::Receiver<Vec<String>>,
    slots: &mut watch::Receiver<u32>,
) {
    tokio::select! {
        () = worker.until_resting() => {}
        Ok(()) = queues.changed() => {}
        Ok(()) = slots.changed() => {}
    }
}

/// Takes deliveries until the worker is quiet, rests or changes its queues, then gives back what was not begun.
async fn take_from(
    worker: &Arc<Worker>,
    mut consumer: Consumer,
    (queues, slots): (&mut watch::Receiver<Vec<String>>, &mut watch::Receiver<u32>),
    disputes: &mpsc::Sender<Incoming>,
    decided: &mut mpsc::Receiver<Incoming>,
) {
    let mut buffer = Vec::with_capacity(BATCH);
    loop {
        let place = tokio::select! {
            () = until_disturbed(worker, queues, slots) => break,
            place = Arc::clone(&worker.slots).acquire_owned() => place,
            // Every slot is busy for longer than a delivery may be held: another worker may have a free one.
            () = tokio::time::sleep(worker.setup.worker.hold) => {
                while let Ok(delivery) = consumer.deliveries.try_recv() {
                    buffer.push(delivery);
                }
                give_back(worker, std::mem::take(&mut buffer)).await;
                continue;
            }
        };
        let Ok(place) = place else { break };
        let most = BATCH.min(worker.slots.available_permits() + 1);
        tokio::select! {
            biased;
            () = until_disturbed(worker, queues, slots) => break,
            Some(incoming) = decided.recv() => take_over(worker, incoming, place).await,
            count = consumer.deliveries.recv_many(&mut buffer, most) => {
                if count == 0 {
                    break;
                }
                let places = places(worker, place, count);
                take(worker, std::mem::take(&mut buffer), places, disputes).await;
            }
        }
    }
    consumer.quiet();
    while consumer.deliveries.recv_many(&mut buffer, BATCH).await > 0 {
        give_back(worker, std::mem::take(&mut buffer)).await;
    }
}

/// `count` slots, the first of which is `place`.
fn places(worker: &Worker, place: OwnedSemaphorePermit, count: usize) -> Vec<OwnedSemaphorePermit> {
    let mut places = vec![place];
    while places.len() < count
        && let Ok(place) = Arc::clone(&worker.slots).try_acquire_owned()
    {
        places.push(place);
    }
    places
}

async fn take(
    worker: &Arc<Worker>,
    deliveries: Vec<Delivery>,
    places: Vec<OwnedSemaphorePermit>,
    disputes: &mpsc::Sender<Incoming>,
) {
    crash::point("intake:delivered");
    let Some(beginning) = worker.beginning().await else {
        return give_back(worker, deliveries).await;
    };
    let live = worker.live();
    let mut claims = Vec::with_capacity(deliveries.len());
    let (mut asides, mut receipts) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        let Some((incoming, known)) = read(worker, &live, delivery).await else {
            continue;
        };
        match triage(&incoming.task, worker.store.clock().now(), known) {
            Triage::Claim => claims.push(incoming),
            Triage::Aside(state, reason) => {
                tracing::info!(task.id = %incoming.task.id, task.name = incoming.task.name, state = state.as_str(), "task set aside");
                asides.push(SetAside {
                    task: incoming.task,
                    state,
                    reason,
                });
                receipts.push(incoming.receipt);
            }
        }
    }
    set_aside(worker, asides, receipts).await;
    if claims.is_empty() {
        return;
    }
    let lost = claim(worker, live, claims, places, disputes).await;
    drop(beginning);
    if !lost.is_empty() {
        requeue(worker, lost).await;
        patiently(worker, || worker.join_again()).await;
    }
}

/// Claims in one commit, and begins what was granted. Returns what could not be claimed because the worker was given up for dead.
async fn claim(
    worker: &Arc<Worker>,
    live: Arc<Live>,
    claims: Vec<Incoming>,
    mut places: Vec<OwnedSemaphorePermit>,
    disputes: &mpsc::Sender<Incoming>,
) -> Vec<Incoming> {
    let claiming = worker.claiming();
    if !worker.admitted().await {
        drop(claiming);
        requeue(worker, claims).await;
        return Vec::new();
    }
    let requests = claims
        .iter()
        .map(|incoming| ClaimRequest {
            task: &incoming.task,
            repeat: live.registry.repeats(&incoming.task.name),
            revision: live.terms.revision.as_ref(),
        })
        .collect::<Vec<_>>();
    let answers = patiently(worker, || worker.store.claim(&worker.member.id, &requests)).await;
    drop(requests);
    let Some(answers) = answers else {
        let receipts = claims.into_iter().map(|incoming| incoming.receipt);
        worker.broker.release(receipts.collect()).await;
        return Vec::new();
    };
    crash::point("intake:claimed");
    let (mut dropped, mut revoked, mut lost) = (Vec::new(), Vec::new(), Vec::new());
    for (incoming, answer) in claims.into_iter().zip(answers) {
        match answer {
            ClaimAnswer::Claimed(claimed) => match places.pop() {
                Some(place) => attempt::start(
                    worker,
                    Arc::clone(&live),
                    incoming.task,
                    claimed,
                    (incoming.receipt, incoming.received),
                    place,
                ),
                None => {
                    tracing::error!(task.id = %incoming.task.id, "a claim had no slot; rescue takes it over")
                }
            },
            ClaimAnswer::Lost => lost.push(incoming),
            ClaimAnswer::Not(state) => {
                dropped.push(incoming.receipt);
                if state == State::Canceled {
                    revoked.push(incoming.task);
                }
            }
            ClaimAnswer::Busy {
                worker: owner,
                epoch: _,
            } if owner == worker.member.id => dropped.push(incoming.receipt),
            ClaimAnswer::Busy {
                worker: owner,
                epoch,
            } => {
                let (worker, disputes) = (Arc::clone(worker), disputes.clone());
                let heir = Incoming {
                    heir_of: Some((owner, epoch)),
                    ..incoming
                };
                let tasks = worker.tasks.clone();
                tasks.spawn(async move { dispute(&worker, heir, disputes).await });
            }
        }
    }
    drop_all(worker, dropped, &revoked).await;
    lost
}

/// Lets messages go whose tasks may not run. Those of `revoked` are canceled, perhaps before anything but their id was known.
async fn drop_all(worker: &Worker, receipts: Vec<Receipt>, revoked: &[Task]) {
    if !revoked.is_empty() {
        for task in revoked {
            worker.tell_revoked(task, false);
        }
        let told = patiently(worker, || worker.store.came_revoked(revoked)).await;
        if told.is_none() {
            return worker.broker.release(receipts).await;
        }
    }
    worker.broker.ack(receipts).await;
}

/// Decodes a delivery; one that cannot be read goes to a queue of its own with the reason.
async fn read(worker: &Worker, live: &Live, delivery: Delivery) -> Option<(Incoming, bool)> {
    let Delivery {
        queue,
        message,
        redelivered,
        received,
        receipt,
    } = delivery;
    match codec::decode(&message, &queue) {
        Ok(task) => {
            let name = match task.wire {
                Wire::Celery => celery::handler_of(&task),
                Wire::Native | Wire::Reply => &task.name,
            };
            let known = live.registry.knows(&task.name) && live.registry.knows(name);
            if !known && let Some(queue) = worker.setup.celery.queue_of_unknown(&task) {
                send_on(worker, &task, queue, message, receipt).await;
                return None;
            }
            Some((
                Incoming {
                    task,
                    receipt,
                    redelivered,
                    received,
                    heir_of: None,
                },
                known,
            ))
        }
        Err(reason) => {
            set_unreadable(worker, &queue, message, &reason, receipt).await;
            None
        }
    }
}

/// Puts a message that is Python's on a queue of Python's workers, as it came.
async fn send_on(
    worker: &Worker,
    task: &Task,
    queue: &str,
    message: codec::Message,
    receipt: Receipt,
) {
    let outgoing = Outgoing {
        queue: queue.to_owned(),
        message,
        optional: false,
    };
    if patiently_publish(worker, outgoing).await {
        tracing::debug!(task.id = %task.id, task.name, queue, "a task that is not known here was sent on");
        worker.broker.ack(vec![receipt]).await;
    } else {
        worker.broker.release(vec![receipt]).await;
    }
}

async fn set_unreadable(
    worker: &Worker,
    queue: &str,
    mut message: codec::Message,
    reason: &Unreadable,
    receipt: Receipt,
) {
    message.headers.insert(
        "longshore-unreadable".into(),
        Value::from(reason.to_string()),
    );
    let outgoing = Outgoing {
        queue: unreadable_queue(queue),
        message,
        optional: false,
    };
    let published = patiently_publish(worker, outgoing).await;
    if published {
        tracing::warn!(queue, %reason, "a message that cannot be read was set aside");
        worker.broker.ack(vec![receipt]).await;
    } else {
        worker.broker.release(vec![receipt]).await;
    }
}

async fn patiently_publish(worker: &Worker, outgoing: Outgoing) -> bool {
    loop {
        match worker
            .broker
            .publish(std::slice::from_ref(&outgoing))
            .await
            .pop()
        {
            Some(Ok(())) => return true,
            Some(Err(error)) => {
                tracing::warn!(%error, "a message could not be set aside yet")
            }
            None => return false,
        }
        tokio::select! {
            () = worker.quiet.cancelled() => return false,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}

/// Gives tasks a row that says where they stand; then their messages can go.
async fn set_aside(worker: &Worker, asides: Vec<SetAside>, receipts: Vec<Receipt>) {
    if asides.is_empty() {
        return;
    }
    match patiently(worker, || worker.store.set_aside(&asides)).await {
        Some(rings) => {
            crash::point("intake:set-aside");
            for aside in &asides {
                count(worker, aside);
            }
            worker.relay.publish(rings).await;
            worker.broker.ack(receipts).await;
        }
        None => worker.broker.release(receipts).await,
    }
}

/// A task that was set aside. Of one that nobody knows only that is counted: its name is whatever a message says.
fn count(worker: &Worker, aside: &SetAside) {
    let outcome = match aside.state {
        State::Parked => {
            worker.tell_aside(&aside.task, Some(What::Rejected));
            "parked"
        }
        State::Expired => {
            worker.tell_revoked(&aside.task, true);
            "expired"
        }
        State::Waiting => return worker.tell_aside(&aside.task, None),
        State::Queued
        | State::Blocked
        | State::Running
        | State::Done
        | State::Dead
        | State::Canceled => return,
    };
    if worker.setup.health.is_watched() {
        let name = if worker.live().registry.knows(&aside.task.name) {
            aside.task.name.clone()
        } else {
            "unknown".to_owned()
        };
        let queue = aside.task.queue.clone();
        metrics::counter!("longshore_tasks_total", "name" => name, "queue" => queue, "outcome" => outcome)
            .increment(1);
    }
}

/// Puts deliveries that were not begun back on their queue: by the store and a new message, since a
/// requeue counts towards RabbitMQ's delivery limit.
async fn give_back(worker: &Worker, deliveries: Vec<Delivery>) {
    let live = worker.live();
    let (mut asides, mut receipts) = (Vec::new(), Vec::new());
    for delivery in deliveries {
        let Some((incoming, known)) = read(worker, &live, delivery).await else {
            continue;
        };
        let (state, reason) = match triage(&incoming.task, worker.store.clock().now(), known) {
            Triage::Claim => (State::Queued, None),
            Triage::Aside(state, reason) => (state, reason),
        };
        asides.push(SetAside {
            task: incoming.task,
            state,
            reason,
        });
        receipts.push(incoming.receipt);
    }
    set_aside(worker, asides, receipts).await;
}

/// Puts deliveries that could be claimed, but not here, back on their queue in the same way.
async fn requeue(worker: &Worker, claims: Vec<Incoming>) {
    let (mut asides, mut receipts) = (Vec::new(), Vec::new());
    for Incoming { task, receipt, .. } in claims {
        asides.push(SetAside {
            task,
            state: State::Queued,
            reason: None,
        });
        receipts.push(receipt);
    }
    set_aside(worker, asides, receipts).await;
}

/// Another worker has the task. If it is dead, the delivery is our right to go on at once; if it lives, its
/// lease keeps the task and the delivery is dropped.
async fn dispute(worker: &Worker, incoming: Incoming, disputes: mpsc::Sender<Incoming>) {
    let Some((owner, _)) = incoming.heir_of.clone() else {
        return;
    };
    let looks = if incoming.redelivered {
        DISPUTE.len()
    } else {
        1
    };
    for wait in DISPUTE.iter().take(looks) {
        tokio::select! {
            () = worker.quiet.cancelled() => break,
            () = tokio::time::sleep(Duration::from_millis(*wait)) => {}
        }
        match worker.store.dead_among(std::slice::from_ref(&owner)).await {
            Ok(dead) if dead.is_empty() => {}
            Ok(_) => {
                if let Err(mpsc::error::SendError(incoming)) = disputes.send(incoming).await {
                    worker.broker.release(vec![incoming.receipt]).await;
                }
                return;
            }
            Err(error) => tracing::warn!(%error, "the owner of a task could not be looked for"),
        }
    }
    tracing::debug!(task.id = %incoming.task.id, owner = %owner, "dropped a delivery whose task a live worker has");
    worker.broker.ack(vec![incoming.receipt]).await;
}

async fn take_over(worker: &Arc<Worker>, incoming: Incoming, place: OwnedSemaphorePermit) {
    let Incoming {
        task,
        receipt,
        received,
        heir_of,
        ..
    } = incoming;
    let Some((owner, epoch)) = heir_of else {
        return;
    };
    let Some(_beginning) = worker.beginning().await else {
        return worker.broker.release(vec![receipt]).await;
    };
    let _claiming = worker.claiming();
    if !worker.admitted().await {
        // The leader takes it from the dead worker all the same.
        worker.broker.ack(vec![receipt]).await;
        return;
    }
    let limit = worker.setup.worker.crash_limit;
    let live = worker.live();
    let answer = patiently(worker, || {
        worker.store.take_over(
            &worker.member.id,
            &task.id,
            epoch,
            &owner,
            limit,
            live.terms.revision.as_ref(),
        )
    })
    .await;
    match answer {
        Some(Some(claimed)) => {
            tracing::info!(task.id = %task.id, task.name, epoch = %claimed.epoch, dead = %owner, "task taken over from a dead worker");
            metrics::counter!("longshore_rescues_total").increment(1);
            attempt::start(worker, live, task, claimed, (receipt, received), place);
        }
        // Somebody was faster, or it has ended too many workers or is to be canceled: rescue will say so.
        Some(None) => worker.broker.ack(vec![receipt]).await,
        None => worker.broker.release(vec![receipt]).await,
    }
}

/// Runs a verb again while the store is away. `None`: the worker ends before it came back.
async fn patiently<T, F: Future<Output = Result<T, StoreError>>>(
    worker: &Worker,
    verb: impl Fn() -> F,
) -> Option<T> {
    loop {
        match verb().await {
            Ok(answer) => return Some(answer),
            Err(error) => tracing::warn!(%error, "the store is away; deliveries wait"),
        }
        tokio::select! {
            () = worker.give_up.cancelled() => return None,
            () = tokio::time::sleep(PAUSE) => {}
        }
    }
}
