//! A fleet of twenty workers, five hundred publications of three sources, and what goes wrong: stalls, half sets, bad
//! configurations, deaths in the midst of taking over, freezes. Followers are the worker's own, in one process, so that a
//! death is the end of a future wherever it is; each begins attempts all the time, and looks at what it was given.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use longshore::bundle::{
    File, Follower, Manifest, Report, Revision, Snapshot, Standing, Verb, Verdict,
};
use longshore::config::Config;
use longshore::follow::{self, Following, Live, Look, Recipe};
use longshore::handler::Registry;
use longshore::id::WorkerId;
use longshore::store::{BundleNote, Store};

use crate::harness::{Bench, LIMIT, on_both, wait_until};

const WORKERS: usize = 20;
const PUBLICATIONS: u64 = 500;
const BUNDLE: &str = "fleet";

on_both!(five_hundred_publications_reach_twenty_workers_whole_or_not_at_all);

/// Chance that is the same each time.
pub(super) struct Random(u64);

impl Random {
    pub(super) fn new(seed: u64) -> Self {
        Self(seed | 1)
    }

    fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }
}

/// What all of them share.
struct Sea {
    /// Each follower's store is one of these: a connection pool for each would be too many.
    stores: Vec<Store>,
    base: Arc<Config>,
    /// Attempts that began.
    attempts: AtomicU64,
    /// Those that saw something that they must not see.
    wrong: Mutex<Vec<String>>,
    /// These followers do not look.
    stalled: Mutex<Vec<usize>>,
    /// Those of them that have noticed.
    still: Mutex<BTreeSet<usize>>,
    over: AtomicBool,
    /// Nobody is killed any more.
    calm: AtomicBool,
    lives: AtomicI64,
    /// Lives that will be killed.
    doomed: AtomicI64,
}

/// One worker of the fleet, over its lives.
struct Hull {
    sea: Arc<Sea>,
    number: usize,
}

/// The number that all three sources of a revision have to say.
fn number_of(live: &Live) -> Result<Option<u64>, String> {
    let features = &live.terms.features;
    let numbers: BTreeMap<&str, u64> = features
        .keys()
        .filter_map(|name| {
            let (source, number) = name.split_once('-')?;
            Some((source, number.parse().ok()?))
        })
        .collect();
    match (&live.terms.revision, numbers.len()) {
        (None, 0) => Ok(None),
        (Some(_), 3) => {
            let first = numbers.values().next().copied();
            if numbers.values().all(|number| Some(*number) == first) {
                Ok(first)
            } else {
                Err(format!("a mixed set: {features:?}"))
            }
        }
        (revision, _) => Err(format!("not a whole set: {features:?} of {revision:?}")),
    }
}

impl Hull {
    fn store(&self) -> Store {
        let stores = &self.sea.stores;
        stores[self.number % stores.len()].clone()
    }

    /// One life: it begins, and then looks and begins attempts until it is killed or all is over.
    async fn live(&self, seed: u64) {
        let (store, mut random) = (self.store(), Random::new(seed));
        let mut config = (*self.sea.base).clone();
        let bundle = config.bundle.as_mut().unwrap();
        // Four share one each.
        bundle.folder = bundle.folder.join((self.number % 5).to_string());
        let bundle = bundle.clone();
        let life = self.sea.lives.fetch_add(1, Ordering::Relaxed);
        let me = Follower {
            worker: WorkerId::new(format!("w{}.{life}", self.number)),
            pool: "fetch".into(),
            kind: "pinned".into(),
            host: format!("w{}", self.number),
            lost: false,
            at: 0,
            report: Report::default(),
        };
        let recipe = Recipe {
            load: Arc::new(|folder: &Path| Config::load_with_bundle(None, folder, [], &[])),
            build: Arc::new(|_| Ok(Registry::default())),
        };
        let mut following = Following::new(store, &Arc::new(config), bundle, me, recipe);
        let begun = following.begin().await.unwrap();
        let mut live = Arc::new(Live {
            terms: Arc::new(longshore::handler::Terms {
                revision: following.revision().cloned(),
                features: begun.features.clone(),
            }),
            registry: Registry::default(),
            policies: begun.tasks.clone(),
            slots: 1,
            kind: longshore::config::PoolKind::Pinned,
            hold: None,
        });
        following.first_word().await;
        while !self.sea.over.load(Ordering::Relaxed) {
            let is_stalled = self.sea.stalled.lock().unwrap().contains(&self.number);
            if is_stalled {
                self.sea.still.lock().unwrap().insert(self.number);
            } else {
                match following.look().await {
                    Look::Same | Look::Away => {}
                    Look::Adopt(next) => {
                        live = next;
                        following.adopted().await;
                    }
                    Look::Restart => self.wrong("it is to restart".into()),
                }
            }
            self.attempt(&live, &following, is_stalled);
            tokio::time::sleep(Duration::from_millis(random.below(40))).await;
        }
    }

    /// An attempt sees one whole set, never a bad one, and the one that its worker says it has.
    fn attempt(&self, live: &Live, following: &Following, is_stalled: bool) {
        self.sea.attempts.fetch_add(1, Ordering::Relaxed);
        match number_of(live) {
            Err(wrong) => self.wrong(wrong),
            Ok(Some(number)) if is_bad(number) => self.wrong(format!("{number} is bad")),
            Ok(_) => {}
        }
        if !is_stalled && live.terms.revision.as_ref() != following.revision() {
            self.wrong(format!("{:?} is not what it says", live.terms.revision));
        }
    }

    fn wrong(&self, what: String) {
        self.sea
            .wrong
            .lock()
            .unwrap()
            .push(format!("w{}: {what}", self.number));
    }

    /// One life after another: each is killed after a while, wherever it is.
    async fn sail(self, seed: u64) {
        let mut random = Random::new(seed);
        while !self.sea.over.load(Ordering::Relaxed) {
            let span = Duration::from_millis(100 + random.below(3000));
            let life = self.live(random.next());
            if self.sea.calm.load(Ordering::Relaxed) {
                life.await;
            } else {
                self.sea.doomed.fetch_add(1, Ordering::Relaxed);
                let _killed = tokio::time::timeout(span, life).await;
                self.sea.doomed.fetch_sub(1, Ordering::Relaxed);
            }
        }
    }
}

/// Every seventh publication says something that no worker may run with.
fn is_bad(number: u64) -> bool {
    number % 7 == 3
}

/// The three sources of publication `number`.
fn sources(number: u64) -> BTreeMap<String, Snapshot> {
    let source = |name: &str| {
        let mut text = format!("[features]\n{name}-{number} = true\n");
        if is_bad(number) && name == ["ant", "bee", "cat"][(number / 7 % 3) as usize] {
            text.push_str("[tasks.x]\nattempts = -1\n");
        }
        let file = File {
            bytes: text.into_bytes(),
            executable: false,
        };
        let snapshot = Snapshot {
            files: BTreeMap::from([(format!("{name}.toml"), file)]),
            ..Snapshot::default()
        };
        (name.to_owned(), snapshot)
    };
    ["ant", "bee", "cat"].map(source).into()
}

async fn publish(store: &Store, number: u64) -> Revision {
    let sources = sources(number);
    let manifest = Manifest {
        sources: sources
            .iter()
            .map(|(name, source)| (name.clone(), source.revision()))
            .collect(),
        undoes: None,
    };
    let packed = sources
        .values()
        .map(|source| (source.revision(), source.pack().unwrap()));
    let revision = manifest.revision();
    let verb = Verb::Publish {
        revision: revision.clone(),
        requires: BTreeSet::new(),
        canary: None,
    };
    let note = BundleNote {
        what: "published",
        revision: Some(&revision),
        who: "test",
        detail: "",
    };
    store
        .bundle_publish(BUNDLE, &manifest, &packed.collect::<Vec<_>>(), &verb, &note)
        .await
        .unwrap();
    revision
}

async fn verb(store: &Store, verb: Verb, what: &str) {
    // A thaw of nothing is refused.
    let _done = store.bundle_follows(BUNDLE, &verb, what, None, "").await;
}

async fn five_hundred_publications_reach_twenty_workers_whole_or_not_at_all(bench: Bench) {
    let file = bench.folder.join("base.toml");
    let folder = bench.folder.join("kept");
    let text = format!(
        "[bundle]\nname = \"{BUNDLE}\"\nfolder = \"{}\"\nlook_every = \"100ms\"\n",
        folder.display()
    );
    std::fs::write(&file, text).unwrap();
    let bundle = Config::load(Some(&file), [], &[]).unwrap().bundle;
    // What is not of the bundle is as it is without a file, with which a follower here compares.
    let base = Config {
        bundle,
        ..Config::load(None, [], &[]).unwrap()
    };
    let sea = Arc::new(Sea {
        stores: (0..4).map(|_| bench.other()).collect(),
        base: Arc::new(base),
        attempts: AtomicU64::new(0),
        wrong: Mutex::default(),
        stalled: Mutex::default(),
        still: Mutex::default(),
        over: AtomicBool::new(false),
        calm: AtomicBool::new(false),
        lives: AtomicI64::new(0),
        doomed: AtomicI64::new(0),
    });
    let seed = 20_261_123;
    let ships = (0..WORKERS).map(|number| {
        let hull = Hull {
            sea: Arc::clone(&sea),
            number,
        };
        tokio::task::spawn(hull.sail(seed + number as u64))
    });
    let ships = ships.collect::<Vec<_>>();
    storm(&bench.store, seed).await;

    // Calm: what was killed lives again, and what is published last reaches all without another push.
    sea.calm.store(true, Ordering::Relaxed);
    wait_until("the last that was to be killed is", LIMIT, async || {
        sea.doomed.load(Ordering::Relaxed) == 0
    })
    .await;
    verb(&bench.store, Verb::Thaw, "thawed").await;
    let last = publish(&bench.store, 10_000).await;
    all_have(&bench.store, &last).await;

    some_lag(&bench.store, &sea).await;

    sea.over.store(true, Ordering::Relaxed);
    for ship in ships {
        ship.await.unwrap();
    }
    assert_eq!(*sea.wrong.lock().unwrap(), [""; 0]);
    let attempts = sea.attempts.load(Ordering::Relaxed);
    assert!(attempts > 2000, "{attempts} attempts are no proof");
}

/// Some do not look any more: they, and nobody else, are late.
async fn some_lag(store: &Store, sea: &Sea) {
    let stalled = vec![3, 8, 17];
    sea.stalled.lock().unwrap().clone_from(&stalled);
    wait_until("they stand still", LIMIT, async || {
        sea.still.lock().unwrap().len() == 3
    })
    .await;
    let next = publish(store, 10_001).await;
    let patience = Duration::from_secs(2);
    let names =
        |hosts: Vec<&Follower>| hosts.iter().map(|one| one.host.clone()).collect::<Vec<_>>();
    wait_until("the others have it, and it is late", LIMIT, async || {
        let fleet = follow::fleet(store, BUNDLE).await.unwrap();
        let verdict = fleet.verdict(&next, None);
        assert!(!matches!(verdict, Verdict::Live(_)), "{verdict:?}");
        let live = |one: &&Follower| fleet.standing(one) == Standing::Live;
        let since = fleet.state.newest.as_ref().unwrap().at;
        fleet.followers.iter().filter(live).count() == WORKERS - 3
            && fleet.now - since > 2 * patience.as_millis() as i64
    })
    .await;
    let fleet = follow::fleet(store, BUNDLE).await.unwrap();
    let mut late = names(fleet.laggards(patience));
    late.sort();
    assert_eq!(late, ["w17", "w3", "w8"]);
    sea.stalled.lock().unwrap().clear();
    all_have(store, &next).await;
    let fleet = follow::fleet(store, BUNDLE).await.unwrap();
    assert_eq!(names(fleet.laggards(Duration::ZERO)), [""; 0]);
}

async fn all_have(store: &Store, revision: &Revision) {
    wait_until("all have it", LIMIT, async || {
        let fleet = follow::fleet(store, BUNDLE).await.unwrap();
        fleet.verdict(revision, None) == Verdict::Live(WORKERS)
    })
    .await;
}

/// Publishes, freezes and lets go by chance; whoever waits meanwhile is never told that something is live that is not.
async fn storm(store: &Store, seed: u64) {
    let mut random = Random::new(seed);
    for number in 1..=PUBLICATIONS {
        match random.below(12) {
            0 => {
                let freeze = longshore::bundle::Freeze {
                    reason: "a test".into(),
                    until: store.clock().now() + 300,
                    by: "test".into(),
                    ended: false,
                };
                verb(store, Verb::Freeze(freeze), "frozen").await;
            }
            1 => verb(store, Verb::Thaw, "thawed").await,
            2 => verb(store, Verb::ApplyNow, "apply now").await,
            // Half a set: its publisher ends somewhere.
            3 => {
                let half = publish(store, 100_000 + number);
                let _ended =
                    tokio::time::timeout(Duration::from_millis(random.below(8)), half).await;
            }
            _ => {}
        }
        let revision = publish(store, number).await;
        let fleet = follow::fleet(store, BUNDLE).await.unwrap();
        if let Verdict::Live(workers) = fleet.verdict(&revision, None) {
            let has = |one: &Follower| one.report.applied.as_ref() == Some(&revision);
            assert!(
                workers > 0 && fleet.followers.iter().all(has) && !is_bad(number),
                "{fleet:?}"
            );
        }
        tokio::time::sleep(Duration::from_millis(random.below(25))).await;
    }
}
