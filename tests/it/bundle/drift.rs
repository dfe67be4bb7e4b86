//! Who lags shows in the metrics of any worker: so many as stand still or refuse, for as long as they do.

use super::crew::{QUEUES, host};
use super::*;

/// A worker that stands still is not taken for dead: what it owes is what is looked at.
pub(crate) const PATIENT: &str = "[bundle]\nname = \"production\"\nfolder = \"kept\"\nlook_every = \"100ms\"\ncheck_limit = \"3s\"\nlate_after = \"1s\"\n\
    [worker]\nlease = \"10m\"\n";

on_both_with!(crate::bundle::drift::PATIENT;
    so_many_are_late_as_stand_still_or_refuse,
    a_freeze_shows_when_it_ends,
);

const BEHIND: &str = "longshore_bundle_behind_seconds";
const REFUSED: &str = "longshore_bundle_refused";
const LATE: &str = "longshore_bundle_late_workers{bundle=\"production\"}";
const FREEZE: &str = "longshore_bundle_freeze_end_timestamp_seconds{bundle=\"production\"}";

/// A worker and where its metrics are.
struct Watched {
    child: Child,
    address: String,
}

impl Watched {
    async fn start(scene: &Scene, pool: &str, host: &str) -> Self {
        let child = scene.on(pool, host, &[("LONGSHORE__HTTP__LISTEN", "127.0.0.1:0")]);
        let address = crate::pod::process::address(&child).await;
        Self { child, address }
    }

    /// A series that every worker has that follows a bundle, once it has looked.
    async fn value(&self, series: &str) -> Option<f64> {
        let (_, text) = crate::pod::process::get(&self.address, "/metrics").await;
        let lines = text.lines();
        let mut values = lines.filter_map(|line| line.strip_prefix(series)?.strip_prefix(' '));
        Some(values.next()?.parse().unwrap())
    }

    async fn reaches(&self, series: &str, value: f64) {
        wait_until(&format!("{series} is {value}"), LIMIT, async || {
            self.value(series).await == Some(value)
        })
        .await;
    }
}

/// Who is late by `config status`.
async fn late(scene: &Scene) -> Vec<String> {
    let status = scene.status().await;
    let workers = status["workers"].as_array().unwrap().iter();
    let late = workers.filter(|one| one["late"] == true);
    let names = late.map(|one| host(one["worker"].as_str().unwrap()).to_owned());
    names.collect()
}

async fn so_many_are_late_as_stand_still_or_refuse(scene: Arc<Scene>) {
    scene.tells(1);
    let first = scene.publish().await;
    let watched = Watched::start(&scene, "fetch", "e1").await;
    let (still, pinned) = (
        scene.on("fetch", "e2", &[]),
        scene.on("postprocess", "p1", &[]),
    );
    // A secret that only this one has not.
    let secret = scene.bench.folder.join("secret");
    let own = [(
        "LONGSHORE__BACKENDS__LAB__TOKEN_FILE",
        secret.to_str().unwrap(),
    )];
    std::fs::write(&secret, "s").unwrap();
    let refusing = scene.on("postprocess", "p2", &own);
    all_four(&scene, &first).await;
    watched.reaches(LATE, 0.0).await;
    for (series, value) in [(BEHIND, 0.0), (REFUSED, 0.0), (FREEZE, 0.0)] {
        assert_eq!(watched.value(series).await, Some(value), "{series}");
    }

    for child in [&still, &pinned] {
        scene.bench.freeze(child).await;
    }
    std::fs::remove_file(&secret).unwrap();
    scene.tells(2);
    scene.publish().await;
    watched.reaches(LATE, 3.0).await;
    assert_eq!(late(&scene).await, ["e2", "p1", "p2"]);
    assert_eq!(watched.value(BEHIND).await, Some(0.0), "it has it itself");
    // What those owe who stand still stays owed, whatever is published.
    std::fs::write(&secret, "s").unwrap();
    scene.tells(3);
    let third = scene.publish().await;
    wait_until("two are late", LIMIT, async || {
        late(&scene).await == ["e2", "p1"]
    })
    .await;
    assert_eq!(scene.wait(&third, "100ms").await.0, 2);
    for child in [&still, &pinned] {
        child.signal("CONT");
    }
    all_four(&scene, &third).await;
    assert_eq!(late(&scene).await, [""; 0]);
    its_own_refusal_shows(&scene, &watched).await;
    drop((still, pinned, refusing));
}

/// Of what nobody can take, all are late, and each says so of itself.
async fn its_own_refusal_shows(scene: &Scene, watched: &Watched) {
    scene.tells_nonsense(4);
    ok(scene.publish_with(&["--unchecked"]).await);
    watched.reaches(REFUSED, 1.0).await;
    wait_until("it is behind", LIMIT, async || {
        watched
            .value(BEHIND)
            .await
            .is_some_and(|behind| behind > 1.0)
    })
    .await;
    let refusals = watched.value("longshore_bundle_refusals_total").await;
    assert!(
        refusals.is_some_and(|refusals| refusals >= 1.0),
        "{refusals:?}"
    );
    wait_until("all are late", LIMIT, async || {
        late(scene).await == ["e1", "e2", "p1", "p2"]
    })
    .await;
    let task = |queue| Task::new("tell", queue).with_id(queue);
    scene.enqueue(&QUEUES.map(task)).await;
    scene.settles().await;
    assert!(scene.told().iter().all(|line| line.number() == 3));
    scene.tells(5);
    let mended = scene.publish().await;
    all_four(scene, &mended).await;
    for series in [REFUSED, BEHIND, LATE] {
        watched.reaches(series, 0.0).await;
    }
}

async fn all_four(scene: &Scene, revision: &str) {
    wait_until("all four have it", LIMIT, async || {
        let (code, told) = scene.wait(revision, "20s").await;
        code == 0 && told.contains("4 workers")
    })
    .await;
}

async fn a_freeze_shows_when_it_ends(scene: Arc<Scene>) {
    scene.tells(1);
    let first = scene.publish().await;
    let watched = Watched::start(&scene, "fetch", "e1").await;
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    watched.reaches(FREEZE, 0.0).await;
    let end = 4_102_444_800.0;
    let freeze = [
        "freeze",
        "--reason",
        "a release",
        "--until",
        "2100-01-01T00:00:00Z",
    ];
    ok(scene.config_verb(&freeze).await);
    scene.tells(2);
    scene.publish().await;
    // Another one, which asks at its start, begins with what was there before the freeze.
    let other = Watched::start(&scene, "postprocess", "p1").await;
    other.reaches(FREEZE, end).await;
    // What is held back is nobody's fault.
    wait_until("it is there", LIMIT, async || {
        let status = scene.status().await;
        status["workers"].as_array().unwrap().len() == 2
    })
    .await;
    assert_eq!(late(&scene).await, [""; 0]);
    for watched in [&watched, &other] {
        assert_eq!(watched.value(BEHIND).await, Some(0.0));
    }
    ok(scene.config_verb(&["thaw"]).await);
    scene.is_live("newest").await;
    other.reaches(FREEZE, 0.0).await;
    for watched in [watched, other] {
        crate::exec::stop(watched.child).await;
    }
}
