//! Bundles: from publishing to live on twenty workers, what a look costs that finds nothing new, and what a task costs more that says
//! which revision it ran with.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Write as _;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::bundle::{File, Follower, Manifest, Report, Revision, Snapshot, Verb, Verdict};
use longshore::config::{Config, Tools};
use longshore::follow::{self, Following, Look, Recipe};
use longshore::handler::{Registry, Terms};
use longshore::id::WorkerId;
use longshore::store::{BundleNote, Store};

use crate::scene::{Back, Scene};
use crate::servers::Servers;
use crate::{Figure, figure, median, noop, quantile};

const WORKERS: usize = 20;
const BUNDLE: &str = "bench";
/// Looks that find nothing new.
const LOOKS: usize = 2000;
/// Runs of the no-op task each way.
const RUNS: usize = 5;

pub(crate) async fn run(servers: &Servers) -> Vec<Figure> {
    let mut figures = Vec::new();
    for (every, times) in [("5s", 12), ("500ms", 40)] {
        figures.push(live(servers, every, times).await);
    }
    figures.push(idle(servers).await);
    figures.push(task(servers).await);
    figures
}

/// From the beginning of a publication until every worker has said that it is live.
async fn live(servers: &Servers, every: &str, times: usize) -> Figure {
    let scene = Scene::new(servers, Back::Servers, 2, "[]").await;
    let file = std::fs::OpenOptions::new()
        .append(true)
        .open(scene.folder.join("longshore.toml"));
    let section =
        format!("[bundle]\nname = \"{BUNDLE}\"\nfolder = \"kept\"\nlook_every = \"{every}\"\n");
    file.unwrap().write_all(section.as_bytes()).unwrap();
    let workers = (0..WORKERS)
        .map(|_| scene.worker("fetch"))
        .collect::<Vec<_>>();
    let first = publish(&scene.store, 0).await;
    until_live(&scene.store, &first).await;
    let mut seconds = Vec::with_capacity(times);
    for number in 1..=times {
        let begun = Instant::now();
        let revision = publish(&scene.store, number).await;
        until_live(&scene.store, &revision).await;
        seconds.push(begun.elapsed().as_secs_f64());
    }
    for worker in workers {
        worker.signal(rustix::process::Signal::TERM);
        worker.ended().await;
    }
    scene.end().await;
    figure(
        format!("published → live on {WORKERS} workers, look_every {every}"),
        format!(
            "median {:.2} s, p99 {:.2} s of {times}",
            median(&mut seconds),
            quantile(&mut seconds, 0.99)
        ),
    )
}

async fn until_live(store: &Store, revision: &Revision) {
    loop {
        let fleet = follow::fleet(store, BUNDLE).await.unwrap();
        if fleet.verdict(revision, None) == Verdict::Live(WORKERS) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(2)).await;
    }
}

/// Three sources with one file each.
async fn publish(store: &Store, number: usize) -> Revision {
    let sources: BTreeMap<String, Snapshot> = ["policies", "projects", "switches"]
        .map(|name| {
            let file = File {
                bytes: format!("[features]\n{name}-{number} = true\n").into_bytes(),
                executable: false,
            };
            let snapshot = Snapshot {
                files: BTreeMap::from([(format!("{name}.toml"), file)]),
                ..Snapshot::default()
            };
            (name.to_owned(), snapshot)
        })
        .into();
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
    let packed = packed.collect::<Vec<_>>();
    let revision = manifest.revision();
    let verb = Verb::Publish {
        revision: revision.clone(),
        requires: BTreeSet::new(),
        canary: None,
    };
    let note = BundleNote {
        what: "published",
        revision: Some(&revision),
        who: "bench",
        detail: "",
    };
    store
        .bundle_publish(BUNDLE, &manifest, &packed, &verb, &note)
        .await
        .unwrap();
    revision
}

/// A look of one worker that has what it is to have.
async fn idle(servers: &Servers) -> Figure {
    let scene = Scene::new(servers, Back::Servers, 2, "[]").await;
    publish(&scene.store, 0).await;
    let file = scene.folder.join("bundle.toml");
    let text = format!("[bundle]\nname = \"{BUNDLE}\"\nfolder = \"kept\"\n");
    std::fs::write(&file, text).unwrap();
    let config = Config {
        bundle: Config::load(Some(&file), [], &[]).unwrap().bundle,
        ..Config::load(None, [], &[]).unwrap()
    };
    let me = Follower {
        worker: WorkerId::new("bench"),
        pool: "fetch".into(),
        kind: "pinned".into(),
        host: "bench".into(),
        lost: false,
        at: 0,
        report: Report::default(),
    };
    let recipe = Recipe {
        load: Arc::new(|folder: &Path| Config::load_with_bundle(None, folder, [], &[])),
        build: Arc::new(|_| Ok(Registry::default())),
    };
    let bundle = config.bundle.clone().unwrap();
    let mut following = Following::new(scene.store.clone(), &Arc::new(config), bundle, me, recipe);
    following.begin().await.unwrap();
    following.first_word().await;
    let mut micros = Vec::with_capacity(LOOKS);
    for _ in 0..LOOKS {
        let begun = Instant::now();
        let look = following.look().await;
        micros.push(begun.elapsed().as_secs_f64() * 1e6);
        assert!(matches!(look, Look::Same), "{look:?}");
    }
    scene.end().await;
    figure(
        "a look that finds nothing new, RabbitMQ + PostgreSQL",
        format!(
            "median {:.0} µs, p99 {:.0} µs of {LOOKS}",
            median(&mut micros),
            quantile(&mut micros, 0.99)
        ),
    )
}

/// The no-op task with a revision, beside the same without; who goes first alternates.
async fn task(servers: &Servers) -> Figure {
    let terms = Arc::new(Terms {
        revision: Revision::parse("0123456789abcdef"),
        ..Terms::default()
    });
    let mut ratios = Vec::with_capacity(RUNS);
    for run in 0..RUNS {
        let with = async || {
            noop::under(
                &servers.ledger().await,
                servers,
                Tools::Off,
                Arc::clone(&terms),
            )
            .await
        };
        let without = async || noop::longshore(&servers.ledger().await, servers).await;
        let (with, without) = if run % 2 == 0 {
            let without = without().await;
            (with().await, without)
        } else {
            (with().await, without().await)
        };
        eprintln!("  {with:.0} with, {without:.0} without");
        ratios.push(without / with);
    }
    let middle = median(&mut ratios);
    figure(
        format!("a task that carries a revision, time beside one without, median of {RUNS}"),
        format!(
            "{middle:.3} × ({:.3} to {:.3})",
            ratios[0],
            ratios[RUNS - 1]
        ),
    )
}
