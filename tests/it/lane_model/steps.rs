//! What may happen to lanes, at random.

use longshore::lane::{OnFailure, When};
use longshore::store::State;
use proptest::prelude::*;

use super::LANES;

/// A task to be enqueued. Numbers choose among what is there.
#[derive(Debug, Clone)]
pub(super) struct Spec {
    pub(super) lane: Option<usize>,
    pub(super) limit: Option<u32>,
    pub(super) policy: OnFailure,
    pub(super) after: Vec<(usize, When)>,
    pub(super) later: bool,
    /// It is none that is new.
    pub(super) again: Option<usize>,
}

#[derive(Debug, Clone)]
pub(super) enum Step {
    Enqueue(Vec<Spec>),
    Claim(usize),
    Settle(usize, State),
    /// The worker dies with all that it holds, and the leader looks.
    Kill,
    Cancel(usize),
    Revive(Vec<usize>),
    Skip(usize),
    Limit(usize, u32),
    Expire(usize),
    Park(usize),
    /// Time passes, and workers come that know every name.
    Pass,
    /// A process ends a task and dies before it can pass that on; perhaps something else comes before the leader looks.
    Die(usize, State, Option<Box<Step>>),
}

pub(super) fn when() -> impl Strategy<Value = When> {
    prop_oneof![3 => Just(When::Success), 1 => Just(When::Done), 1 => Just(When::Failed)]
}

pub(super) fn spec() -> impl Strategy<Value = Spec> {
    let policy = prop_oneof![
        Just(OnFailure::Halt),
        Just(OnFailure::Skip),
        Just(OnFailure::CancelRest)
    ];
    (
        prop::option::weighted(0.7, 0..LANES),
        prop::option::weighted(0.2, 1..4_u32),
        policy,
        prop::collection::vec((any::<usize>(), when()), 0..3),
        prop::bool::weighted(0.1),
        prop::option::weighted(0.1, any::<usize>()),
    )
        .prop_map(|(lane, limit, policy, after, later, again)| Spec {
            lane,
            limit,
            policy,
            after,
            later,
            again,
        })
}

pub(super) fn outcome() -> impl Strategy<Value = State> {
    prop_oneof![4 => Just(State::Done), 4 => Just(State::Dead), 1 => Just(State::Waiting), 1 => Just(State::Queued)]
}

pub(super) fn step() -> impl Strategy<Value = Step> {
    let which = any::<usize>();
    let enqueue = prop::collection::vec(spec(), 1..5)
        .prop_map(Step::Enqueue)
        .boxed();
    let revive = prop::collection::vec(which, 1..4)
        .prop_map(Step::Revive)
        .boxed();
    let limit = (0..LANES, 1..4_u32)
        .prop_map(|(lane, limit)| Step::Limit(lane, limit))
        .boxed();
    let by_hand = prop_oneof![
        2 => enqueue.clone(), 2 => which.prop_map(Step::Cancel), 4 => revive.clone(),
        1 => (0..LANES).prop_map(Step::Skip), 1 => limit.clone(),
    ];
    let ended = prop_oneof![Just(State::Done), Just(State::Dead), Just(State::Canceled)];
    prop_oneof![
        4 => enqueue,
        8 => which.prop_map(Step::Claim),
        8 => (which, outcome()).prop_map(|(which, state)| Step::Settle(which, state)),
        1 => Just(Step::Kill),
        2 => which.prop_map(Step::Cancel),
        5 => revive,
        1 => (0..LANES).prop_map(Step::Skip),
        1 => limit,
        1 => which.prop_map(Step::Expire),
        1 => which.prop_map(Step::Park),
        1 => Just(Step::Pass),
        3 => (which, ended, prop::option::weighted(0.7, by_hand.prop_map(Box::new)))
            .prop_map(|(which, state, then)| Step::Die(which, state, then)),
    ]
}
