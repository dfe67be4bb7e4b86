//! A gate of 100 entries of which every tenth is broken: the tests that it runs beside what cannot be avoided, and what a step of
//! it costs.
//!
//! The first half plays a gate without a store: as many workers as there are tests, tests of 5 to 15 minutes, publications of
//! 10 seconds. A scheduler that knew beforehand who fails would run one test an entry.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, HashSet};
use std::time::Instant;

use longshore::clock::Clock;
use longshore::gate::{
    Effects, Fact, Gate, NewEntry, Settings, Spec, State, Step, Test, Verb, Window,
};
use longshore::id::{TaskId, WorkerId};
use longshore::store::{self, ClaimAnswer, ClaimRequest, Settlement, Store, StoreConfig};
use longshore::task::Task;
use serde_json::Value;

use crate::servers::Servers;
use crate::{Figure, figure, median, quantile};

const ENTRIES: usize = 100;
const BROKEN: usize = 10;
/// Histories of each window.
const RUNS: u64 = 21;
/// Milliseconds.
const TEST: i64 = 600_000;
const PUBLISH: i64 = 10_000;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let mut figures = played();
    let name = format!("bench_{}", uuid::Uuid::now_v7().simple());
    let folder = std::env::temp_dir().join(&name);
    std::fs::create_dir(&folder).unwrap();
    let stores = [
        ("embedded", StoreConfig::sqlite(&folder.join("store.db"))),
        ("PostgreSQL", servers.config(&name)),
    ];
    for (what, config) in stores {
        figures.extend(steps(what, &config).await);
    }
    std::fs::remove_dir_all(folder).unwrap();
    figures
}

/// The tests of each window.
pub(crate) fn played() -> Vec<Figure> {
    let windows = [
        ("1 (one after the other)", Window::fixed(1)),
        ("5", Window::fixed(5)),
        ("10", Window::fixed(10)),
        ("20", Window::fixed(20)),
        ("20, by default: +1 and ÷2, from 3 on", Window::default()),
        (
            "without limit",
            Window {
                start: 0,
                ..Window::default()
            },
        ),
    ];
    let mut figures = Vec::new();
    let mut times = Vec::new();
    for (name, window) in windows {
        let (mut begun, mut least, mut whole, mut lasted) = (vec![], vec![], vec![], vec![]);
        for seed in 0..RUNS {
            let mut play = Play::new(&window, seed);
            play.runs();
            begun.push(play.begun as f64);
            whole.push(play.whole as f64);
            lasted.push(play.now as f64 / TEST as f64);
            least.push(unavoidable(&window, &play.broken) as f64);
            times.extend(play.times);
        }
        figures.push(figure(
            format!("gate of {ENTRIES}, {BROKEN} broken, window {name}"),
            format!(
                "{:.0} tests begun, {:.0} run to their end, in the time of {:.1} tests; unavoidable {:.0}; known beforehand {ENTRIES}",
                median(&mut begun), median(&mut whole), median(&mut lasted), median(&mut least),
            ),
        ));
    }
    figures.push(figure(
        "  a decision about a gate of up to 100 entries (no store)",
        format!(
            "median {:.0} µs, p99 {:.0} µs",
            median(&mut times),
            quantile(&mut times, 0.99)
        ),
    ));
    figures
}

/// What any scheduler runs that tests as many entries at once and learns of a failure when its test ends: all tests last the same,
/// who passes is published at once, and whoever was tested behind one that fails is tested again.
fn unavoidable(window: &Window, broken: &HashSet<usize>) -> usize {
    let clamp = |size: usize| {
        let (floor, ceiling) = (
            window.floor as usize,
            window.ceiling.map_or(ENTRIES, |most| most as usize),
        );
        size.clamp(floor, ceiling)
    };
    let (mut first, mut tests, mut size) = (0, 0, window.start as usize);
    while first < ENTRIES {
        let width = if window.start == 0 { ENTRIES } else { size };
        let round = first..ENTRIES.min(first + width);
        tests += round.len();
        let fails = round.clone().find(|entry| broken.contains(entry));
        let landed = fails.unwrap_or(round.end) - first;
        size = clamp(size + landed * window.increase as usize);
        if fails.is_some() {
            size = clamp(size / window.decrease as usize);
        }
        first = fails.map_or(round.end, |entry| entry + 1);
    }
    tests
}

/// A gate and its workers.
struct Play {
    gate: Gate,
    broken: HashSet<usize>,
    /// When which task ends.
    ends: BinaryHeap<Reverse<(i64, String)>>,
    canceled: HashSet<String>,
    facts: HashMap<TaskId, Fact>,
    now: i64,
    begun: usize,
    whole: usize,
    /// How long each decision took, in microseconds.
    times: Vec<f64>,
    random: u64,
}

impl Play {
    fn new(window: &Window, seed: u64) -> Self {
        let settings = Settings {
            window: window.clone(),
            ..Settings::default()
        };
        let mut play = Self {
            gate: Gate::new("bench", settings.clone()),
            broken: HashSet::new(),
            ends: BinaryHeap::new(),
            canceled: HashSet::new(),
            facts: HashMap::new(),
            now: 0,
            begun: 0,
            whole: 0,
            times: Vec::new(),
            random: (seed + 1).wrapping_mul(0x9e37_79b9_7f4a_7c15),
        };
        while play.broken.len() < BROKEN {
            let entry = play.any(ENTRIES as u64);
            play.broken.insert(entry as usize);
        }
        let entries = (0..ENTRIES).map(entry).collect();
        let mut effects = Effects::default();
        let verb = Verb::Enqueue(settings, entries);
        play.gate
            .ask(verb, &HashMap::new(), 0, &mut effects)
            .unwrap();
        play.step();
        play
    }

    /// Any number below `below`.
    fn any(&mut self, below: u64) -> u64 {
        // Knuth's generator: the same in each run.
        self.random = self
            .random
            .wrapping_mul(6_364_136_223_846_793_005)
            .wrapping_add(1_442_695_040_888_963_407);
        (self.random >> 33) % below
    }

    fn step(&mut self) {
        let begun = Instant::now();
        let effects = self.gate.step(&self.facts, self.now);
        self.times.push(begun.elapsed().as_secs_f64() * 1e6);
        self.gate.ended.clear();
        self.facts.clear();
        self.canceled
            .extend(effects.cancel.iter().map(TaskId::to_string));
        for task in effects.enqueue {
            let is_test = task.name == "test";
            let lasts = if is_test {
                TEST / 2 + self.any(TEST as u64) as i64
            } else {
                PUBLISH
            };
            self.begun += usize::from(is_test);
            self.ends
                .push(Reverse((self.now + lasts, task.id.to_string())));
        }
    }

    fn runs(&mut self) {
        while let Some(Reverse((at, id))) = self.ends.pop() {
            if self.canceled.contains(&id) {
                continue;
            }
            let parts: Vec<&str> = id.split('/').collect();
            let is_test = parts[4] == "unit";
            let number: usize = parts[2].parse().unwrap();
            self.whole += usize::from(is_test);
            let fact = if is_test && self.broken.contains(&number) {
                Fact::Failed("broken".into())
            } else {
                Fact::Done(Value::Null)
            };
            self.now = at;
            self.facts.insert(TaskId::new(id), fact);
            self.step();
        }
        assert!(self.gate.entries.is_empty());
        assert_eq!(self.gate.published, (ENTRIES - BROKEN) as u64);
    }
}

fn entry(number: usize) -> NewEntry {
    let step = |task: &str| Step {
        task: task.into(),
        queue: "bench".into(),
        ..Step::default()
    };
    let unit = Test {
        key: "unit".into(),
        step: step("test"),
        voting: true,
        after: Vec::new(),
        after_any: Vec::new(),
        provides: Vec::new(),
        requires: Vec::new(),
    };
    NewEntry {
        id: number.to_string(),
        spec: Spec {
            tests: vec![unit],
            publish: step("publish"),
            ..Spec::default()
        },
        ..NewEntry::default()
    }
}

/// What an end costs that a gate of 100 entries, all in its window, goes on from, beside an end without a gate.
async fn steps(what: &str, config: &StoreConfig) -> Vec<Figure> {
    let store = Store::open(config, Clock::system()).unwrap();
    store.migrate().await.unwrap();
    let worker = crate::scene::joined(&store).await;
    let settings = Settings {
        window: Window {
            start: 0,
            ..Window::default()
        },
        ..Settings::default()
    };
    let verb = Verb::Enqueue(settings, (0..ENTRIES).map(entry).collect());
    let begun = Instant::now();
    store.gate("bench", &verb).await.unwrap();
    let enqueue = begun.elapsed().as_secs_f64() * 1000.0;
    let (mut tests, mut publications, mut plain, mut looks) = (vec![], vec![], vec![], vec![]);
    // The last first, so that all are there all the time.
    for number in (0..ENTRIES).rev() {
        let alone = Task::new("test", "bench");
        store.enqueue(std::slice::from_ref(&alone)).await.unwrap();
        plain.push(ends(&store, &worker, &alone.id).await);
        tests.push(
            ends(
                &store,
                &worker,
                &TaskId::new(format!("gate/bench/{number}/1/unit")),
            )
            .await,
        );
        let begun = Instant::now();
        store.gate_step("bench").await.unwrap();
        looks.push(begun.elapsed().as_secs_f64() * 1000.0);
    }
    for number in 0..ENTRIES {
        let id = TaskId::new(format!("gate/bench/{number}/publish/1"));
        publications.push(ends(&store, &worker, &id).await);
    }
    let ended = store.gate_ended("bench", 1000).await.unwrap();
    assert!(
        ended
            .iter()
            .all(|(entry, _)| entry.state == State::Published)
            && ended.len() == ENTRIES
    );
    store.close().await;
    let shown = |name: &str, values: &mut Vec<f64>| {
        figure(
            format!("  {what}: {name}"),
            format!(
                "median {:.1} ms, p99 {:.1} ms",
                median(values),
                quantile(values, 0.99)
            ),
        )
    };
    vec![
        figure(
            format!("  {what}: {ENTRIES} entries enqueued at once, with their tests"),
            format!("{enqueue:.0} ms"),
        ),
        shown("end of a task of no gate", &mut plain),
        shown(
            "end of a test in a gate of 100, and what follows",
            &mut tests,
        ),
        shown("end of a publication, and what follows", &mut publications),
        shown("a look after which nothing follows", &mut looks),
    ]
}

/// Runs a task, and answers how long its end took, in milliseconds.
async fn ends(store: &Store, worker: &WorkerId, id: &TaskId) -> f64 {
    let task = Task::new("test", "bench").with_id(id.as_str());
    let answer = store
        .claim(worker, &[ClaimRequest::once(&task)])
        .await
        .unwrap();
    let Some(ClaimAnswer::Claimed(claimed)) = answer.into_iter().next() else {
        panic!("{id} may run");
    };
    let done = Settlement {
        state: Some(store::State::Done),
        ..Settlement::default()
    };
    let items = [(id.clone(), claimed.epoch, done)];
    let begun = Instant::now();
    let (settled, _) = store.settle(&items).await.unwrap();
    let time = begun.elapsed().as_secs_f64() * 1000.0;
    assert_eq!(settled.len(), 1);
    time
}
