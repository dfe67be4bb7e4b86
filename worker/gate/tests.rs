//! Random histories of a gate against an observer who keeps a log of his own: what was tested on what, what was published, who
//! ended how. He knows nothing of how a gate decides, and holds the invariants by their names:
//!
//! G1 one publisher, in order; G2 published as tested; G3 nothing stale has an effect; G4 reset if, and only if, what is ahead
//! has changed; G5 a failure is final once its base is published; G6 only the window runs tests; G7 nothing waits for nothing; G8 published is
//! what was published and verified; G9 an unknown outcome is probed; G10 whoever needs a failed one leaves; G11 artifacts of the base, of its
//! generations; G12 only voting tests decide; G13 each ends once and is reported once; G14 the alarm; G15 restarts.

mod observer;
mod world;

use proptest::prelude::*;
use proptest::test_runner::RngSeed;

use super::{Doubt, State};
use world::{End, Make, Move, Seen, World, some_move};

/// The same histories in every run, so that a change is judged by itself; `PROPTEST_CASES` asks for so many others.
fn config(cases: u32) -> ProptestConfig {
    let others = std::env::var("PROPTEST_CASES").ok();
    let others = others.and_then(|text| text.parse().ok());
    ProptestConfig {
        cases: others.unwrap_or(cases),
        rng_seed: others.map_or(RngSeed::Fixed(1), |_| RngSeed::Random),
        failure_persistence: None,
        ..ProptestConfig::default()
    }
}

fn play(which: usize, moves: Vec<Move>) {
    let mut world = World::new(which);
    for next in moves {
        world.take(next);
    }
    world.drains();
}

fn makes(shape: usize) -> Make {
    Make {
        needs: Vec::new(),
        change: None,
        shape,
        again: None,
    }
}

#[test]
fn a_smaller_window_begins_nothing_outside_of_it() {
    let mut world = World::new(2);
    world.take(Move::Enqueue(vec![makes(3), makes(3), makes(3)]));
    let lint = world.open.iter().position(|id| id == "gate/g/e2/1/lint");
    world.take(Move::Settings(1));
    assert_eq!(world.gate.window, 2);
    world.take(Move::End(lint.unwrap(), End::Done, Seen::Absent));
    assert!(!world.open.contains(&"gate/g/e2/1/late".into()));
    // What ran ran on, and counts.
    assert!(world.open.contains(&"gate/g/e2/1/unit".into()));
    assert_eq!(world.gate.entries[2].generation, 1);
    world.drains();
}

#[test]
fn what_nothing_takes_back_is_held_and_not_said_to_be_taken_back() {
    let mut world = World::new(8);
    world.take(Move::Enqueue(vec![makes(5)]));
    for (id, end) in [
        ("e0/1/unit", End::Done),
        ("e0/publish/1", End::Done),
        ("e0/verify/1", End::Failed),
    ] {
        let at = world.open.iter().position(|open| open.ends_with(id));
        world.take(Move::End(at.unwrap(), end, Seen::Done));
    }
    let head = &world.gate.entries[0];
    assert_eq!(
        (head.state, head.doubt),
        (State::Held, Some(Doubt::Unverified))
    );
    world.drains();
}

proptest! {
    #![proptest_config(config(1500))]

    #[test]
    fn a_gate_keeps_its_invariants_whatever_happens(which in 0..32_usize, moves in prop::collection::vec(some_move(), 1..120)) {
        play(which, moves);
    }
}
