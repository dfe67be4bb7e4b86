//! Gates: what follows from an end that its process could not pass on is the leader's to do, and is done once.

use std::sync::Arc;

use longshore::gate::{NewEntry, Settings, Spec, Step, Test, Verb};
use longshore::store::State;
use serde_json::Map;

use super::ended_at;
use crate::harness::{Child, LIMIT, wait_until};
use crate::scene::{Scene, on_both_with};

pub(super) const PASSED_ON: [&str; 6] = [
    "pass_on:before",
    "pass_on:after",
    "gate:before",
    "gate:after",
    "doom:before",
    "doom:after",
];
on_both_with!("";
    what_follows_from_an_end_that_was_not_passed_on_is_the_leaders,
    a_gate_that_a_verb_changed_when_it_ended_is_gone_on_with,
);

/// A task that a worker parks: its message has come.
fn parks() -> Step {
    Step {
        task: "nobody.knows".into(),
        queue: "ci_fetch".into(),
        kwargs: Map::default(),
    }
}

fn entry(id: &str) -> NewEntry {
    let unit = Test {
        key: "unit".into(),
        step: parks(),
        voting: true,
        after: Vec::new(),
        after_any: Vec::new(),
        provides: Vec::new(),
        requires: Vec::new(),
    };
    NewEntry {
        id: id.into(),
        spec: Spec {
            tests: vec![unit],
            publish: parks(),
            report: Some(parks()),
            ..Spec::default()
        },
        ..NewEntry::default()
    }
}

/// Two entries; the first one's test, which nobody has begun, is canceled by a process that ends on the way.
async fn fails_and_dies(scene: &Scene, gate: &str, point: &str) {
    let enqueue = Verb::Enqueue(Settings::default(), vec![entry("a"), entry("b")]);
    scene.bench.store.gate(gate, &enqueue).await.unwrap();
    let test = format!("gate/{gate}/a/1/unit");
    let config = scene.config.to_str().unwrap();
    let cancel = ["task", "cancel", test.as_str(), "--config", config];
    let variables = [("LONGSHORE_CRASH_AT", point)];
    let doomed = Child::start(&scene.bench.folder, &cancel, &variables);
    ended_at(doomed, point).await;
    assert_eq!(scene.bench.view(&test).await.state, State::Canceled);
}

/// The first has failed, is reported once, and the second is tested without it.
async fn goes_on(scene: &Scene, gate: &str, generation: u32) {
    let retested = format!("gate/{gate}/b/{generation}/unit");
    wait_until("the second is tested again", 2 * LIMIT, async || {
        scene.bench.find(&retested).await.is_some()
    })
    .await;
    for id in [retested, format!("gate/{gate}/a/report")] {
        scene.task_reaches(&id, State::Parked).await;
    }
    let view = scene.bench.store.gate_view(gate).await.unwrap().unwrap();
    assert_eq!(view.entries.len(), 1, "{gate}");
    let second = &view.entries[0];
    assert_eq!(
        (second.id(), second.generation),
        ("b", generation),
        "{gate}"
    );
    assert!(second.base.is_empty(), "{gate}");
    let ended = scene.bench.store.gate_ended(gate, 9).await.unwrap();
    let ended: Vec<&str> = ended
        .iter()
        .map(|(entry, _)| entry.state.as_str())
        .collect();
    assert_eq!(ended, ["failed"], "{gate}");
    let old = format!("gate/{gate}/b/1/unit");
    scene.task_reaches(&old, State::Canceled).await;
}

async fn what_follows_from_an_end_that_was_not_passed_on_is_the_leaders(scene: Arc<Scene>) {
    for point in PASSED_ON {
        let gate = point.replace(':', "-");
        fails_and_dies(&scene, &gate, point).await;
        let view = scene.bench.store.gate_view(&gate).await.unwrap().unwrap();
        let over = view.entries[0].id() == "b";
        assert_eq!(over, point == "gate:after", "{point}");
        // The commit that passed the end on says that somebody has to look: nobody waits for a look at all gates.
        if ["pass_on:after", "gate:before"].contains(&point) {
            let left = scene.bench.store.gates_left(false).await.unwrap();
            assert!(left.contains(&gate), "{point}");
        }
    }
    let _leader = scene.worker("fetch");
    for point in PASSED_ON {
        goes_on(&scene, &point.replace(':', "-"), 2).await;
    }
    let left = scene.bench.store.gates_left(false).await.unwrap();
    assert_eq!(left, [""; 0]);
}

/// Whoever comes next does what the one that died would have, before he does his own.
async fn a_gate_that_a_verb_changed_when_it_ended_is_gone_on_with(scene: Arc<Scene>) {
    for point in ["pass_on:after", "gate:before", "gate:after"] {
        let gate = point.replace(':', "-");
        fails_and_dies(&scene, &gate, point).await;
        let hold = Verb::Hold("a freeze".into());
        scene.bench.store.gate(&gate, &hold).await.unwrap();
    }
    let _leader = scene.worker("fetch");
    for point in ["pass_on:after", "gate:before", "gate:after"] {
        goes_on(&scene, &point.replace(':', "-"), 2).await;
    }
}
