//! A few workers have a revision first: so many and no others, by what their tasks say as much as by what they say themselves.

use std::collections::{BTreeMap, BTreeSet};

use super::crew::{QUEUES, host};
use super::*;

on_both_with!(crate::bundle::FOLLOWS;
    two_of_five_have_it_first_and_the_rest_once_they_have_done_well,
    a_killed_elastic_canary_is_replaced_and_a_rollback_takes_it_back_from_all,
    a_killed_pinned_canary_is_replaced_and_apply_now_ends_the_wait,
    what_a_canary_refuses_reaches_nobody_else,
    a_freeze_keeps_a_canary_from_the_rest,
    what_the_only_worker_has_on_trial_is_not_live,
);

const FIVE: [(&str, &str); 5] = [
    ("e1", "fetch"),
    ("e2", "fetch"),
    ("e3", "fetch"),
    ("p1", "postprocess"),
    ("p2", "postprocess"),
];

/// Workers by their machines, with the queues that they take from.
struct Crew(BTreeMap<&'static str, (&'static str, Child)>);

impl Crew {
    /// Starts them, and waits until all have `revision`.
    async fn start(scene: &Scene, of: &[(&'static str, &'static str)], revision: &str) -> Self {
        let mut crew = Self(BTreeMap::new());
        for (host, pool) in of {
            crew.add(scene, host, pool);
        }
        all_have(scene, revision, of.len()).await;
        crew
    }

    fn add(&mut self, scene: &Scene, host: &'static str, pool: &str) {
        let queue = if pool == "fetch" {
            QUEUES[0]
        } else {
            QUEUES[1]
        };
        self.0.insert(host, (queue, scene.on(pool, host, &[])));
    }

    async fn kill(&mut self, host: &str) {
        let (_, child) = self.0.get_mut(host).unwrap();
        child.signal("KILL");
        child.wait().await;
    }

    /// Some work for everybody, to its end.
    async fn round(&self, scene: &Scene) {
        let queues = self.0.values().map(|(queue, _)| *queue);
        let tasks = queues.flat_map(|queue| (0..3).map(move |_| Task::new("tell", queue)));
        scene.enqueue(&tasks.collect::<Vec<_>>()).await;
        scene.settles().await;
    }

    /// Works until the last that each of `hosts` has told is `number`.
    async fn tells(&self, scene: &Scene, hosts: &BTreeSet<String>, number: u32) {
        let before = scene.told().len();
        wait_until(
            &format!("each of {hosts:?} tells {number}"),
            LIMIT,
            async || {
                self.round(scene).await;
                let told = scene.told();
                let last = |host: &String| told[before..].iter().rfind(|line| line.host == *host);
                hosts
                    .iter()
                    .all(|host| last(host).is_some_and(|line| line.number() == number))
            },
        )
        .await;
    }
}

/// Publishes that all sources are `number`.
async fn published(scene: &Scene, number: u32) -> String {
    scene.tells(number);
    scene.publish().await
}

/// Waits until all have `revision`, who are so many.
async fn all_have(scene: &Scene, revision: &str, workers: usize) {
    wait_until("all have it", LIMIT, async || {
        let (code, told) = scene.wait(revision, "20s").await;
        code == 0 && told.contains(&format!("{workers} worker"))
    })
    .await;
}

/// The machines whose workers say that they have `revision`.
async fn having(scene: &Scene, revision: &str) -> BTreeSet<String> {
    let status = scene.status().await;
    let workers = status["workers"].as_array().unwrap().iter();
    let have =
        workers.filter(|one| one["report"]["applied"] == revision && one["standing"] != "silent");
    have.map(|one| one["host"].as_str().unwrap().to_owned())
        .collect()
}

/// The machines that are to have the newest first: `pool/host` each.
async fn chosen(scene: &Scene) -> BTreeSet<String> {
    let state = scene.status().await["state"].clone();
    let chosen = state["newest"]["canary"]["chosen"].as_array().cloned();
    let places = chosen.unwrap_or_default();
    let hosts = places
        .iter()
        .map(|place| place.as_str().unwrap().split_once('/').unwrap().1);
    hosts.map(ToOwned::to_owned).collect()
}

/// Waits until `count` workers were chosen, and have `revision`.
async fn canaries_have(scene: &Scene, revision: &str, count: usize) -> BTreeSet<String> {
    wait_for("the canaries have it", LIMIT, async || {
        let chosen = chosen(scene).await;
        (chosen.len() == count && having(scene, revision).await == chosen).then_some(chosen)
    })
    .await
}

fn hosts(of: &[(&str, &str)]) -> BTreeSet<String> {
    of.iter().map(|(host, _)| (*host).to_owned()).collect()
}

fn without(hosts: &BTreeSet<String>, those: &BTreeSet<String>) -> BTreeSet<String> {
    hosts.difference(those).cloned().collect()
}

async fn two_of_five_have_it_first_and_the_rest_once_they_have_done_well(scene: Arc<Scene>) {
    let (all, first) = (hosts(&FIVE), published(&scene, 1).await);
    let crew = Crew::start(&scene, &FIVE, &first).await;
    scene.tells(2);
    let second = scene
        .publish_as(&["--first", "40%", "--healthy", "3s"])
        .await;
    // There is work all the time.
    wait_until("all have it", LIMIT, async || {
        crew.round(&scene).await;
        having(&scene, &second).await == all
    })
    .await;
    all_have(&scene, &second, 5).await;
    crew.tells(&scene, &all, 2).await;

    // The log has it all, in the order in which it came.
    let log = scene.log().await;
    let of_it: Vec<&Value> = log
        .iter()
        .filter(|entry| entry["revision"] == second.as_str())
        .collect();
    assert_eq!(
        whats(&of_it),
        [
            "published",
            "chosen",
            "live",
            "live",
            "promoted",
            "live",
            "live",
            "live"
        ]
    );
    let by = |entries: &[&Value]| -> BTreeSet<String> {
        entries
            .iter()
            .map(|entry| host(entry["who"].as_str().unwrap()).to_owned())
            .collect()
    };
    let canaries = by(&of_it[2..4]);
    assert_eq!(by(&of_it[5..]), without(&all, &canaries));
    let chosen = of_it[1]["detail"].as_str().unwrap();
    assert!(
        canaries
            .iter()
            .all(|host| chosen.contains(&format!("/{host}"))),
        "{chosen}"
    );
    let at = |entry: &Value| entry["at"].as_i64().unwrap();
    // That it is live is noted a moment after it is so.
    let well = at(of_it[4]) - at(of_it[3]);
    assert!(well > 2500, "the second one was well for {well} ms only");
    nobody_had_it_before(&scene, &second, at(of_it[4]), &canaries).await;
}

fn whats<'v>(entries: &[&'v Value]) -> Vec<&'v str> {
    entries
        .iter()
        .map(|entry| entry["what"].as_str().unwrap())
        .collect()
}

/// By the rows of the tasks: before `moment` only the workers at `canaries` began any with `revision`.
async fn nobody_had_it_before(
    scene: &Scene,
    revision: &str,
    moment: i64,
    canaries: &BTreeSet<String>,
) {
    let mut early = 0;
    for line in scene.told() {
        let view = scene.bench.view(&line.task).await;
        if view.revision.as_deref() == Some(revision) && view.started_at.unwrap() < moment {
            assert!(canaries.contains(&line.host), "{line:?}");
            early += 1;
        }
    }
    assert!(early > 0, "nobody tried it");
}

/// Kills the only canary of three workers, and lets its machine come back; answers what is new and who have it not.
async fn replaced(scene: &Scene, pool: &'static str) -> (Crew, String, BTreeSet<String>) {
    let three = [("a", pool), ("b", pool), ("c", pool)];
    let (all, first) = (hosts(&three), published(scene, 1).await);
    let mut crew = Crew::start(scene, &three, &first).await;
    scene.tells(2);
    let second = scene.publish_as(&["--first", "1", "--healthy", "1h"]).await;
    let canary = canaries_have(scene, &second, 1).await;
    let (code, told) = scene.wait(&second, "100ms").await;
    assert_eq!(code, 2, "{told}");
    assert!(told.contains("; it goes first to "), "{told}");
    for host in &all {
        let is_named = told.contains(&format!("{host}."));
        assert_eq!(is_named, !canary.contains(host), "{told}");
    }
    crew.tells(scene, &canary, 2).await;
    crew.tells(scene, &without(&all, &canary), 1).await;
    crew.kill(canary.first().unwrap()).await;
    let next = wait_for("another has it", LIMIT, async || {
        let chosen = chosen(scene).await;
        let has = having(scene, &second).await;
        (chosen != canary && chosen.len() == 1 && has == chosen).then_some(chosen)
    })
    .await;
    crew.tells(scene, &next, 2).await;
    // Whoever comes back there is not one of the first any more.
    let (host, _) = three
        .iter()
        .find(|(host, _)| canary.contains(*host))
        .unwrap();
    crew.add(scene, host, pool);
    crew.tells(scene, &without(&all, &next), 1).await;
    assert_eq!(having(scene, &second).await, next);
    (crew, second, all)
}

async fn a_killed_elastic_canary_is_replaced_and_a_rollback_takes_it_back_from_all(
    scene: Arc<Scene>,
) {
    let (crew, second, all) = replaced(&scene, "fetch").await;
    let back = ok(scene.config_verb(&["rollback"]).await);
    let back = back.split_whitespace().nth(1).unwrap().to_owned();
    all_have(&scene, &back, 3).await;
    crew.tells(&scene, &all, 1).await;
    assert_eq!(scene.wait(&second, "1s").await.0, 4, "superseded");
    assert_eq!(scene.status().await["waits"], Value::Null);
}

async fn a_killed_pinned_canary_is_replaced_and_apply_now_ends_the_wait(scene: Arc<Scene>) {
    let (crew, second, all) = replaced(&scene, "postprocess").await;
    ok(scene.config_verb(&["apply-now"]).await);
    all_have(&scene, &second, 3).await;
    crew.tells(&scene, &all, 2).await;
}

async fn what_a_canary_refuses_reaches_nobody_else(scene: Arc<Scene>) {
    let (all, first) = (hosts(&FIVE), published(&scene, 1).await);
    let crew = Crew::start(&scene, &FIVE, &first).await;
    scene.tells_nonsense(2);
    let second = scene
        .publish_as(&["--first", "1", "--healthy", "1ms", "--unchecked"])
        .await;
    let canary = wait_for("it is refused", LIMIT, async || {
        let status = scene.status().await;
        let mut workers = status["workers"].as_array().unwrap().iter();
        let refusing = workers.find(|one| one["standing"] == "refused")?;
        Some(refusing["host"].as_str().unwrap().to_owned())
    })
    .await;
    let (code, told) = scene.wait(&second, "20s").await;
    assert_eq!(code, 3, "{told}");
    let why = [format!("{canary}."), "switches/switch.toml:4".into()];
    assert!(why.iter().all(|why| told.contains(why)), "{told}");
    // Twenty looks of each later it is the same.
    later(&scene, 2000).await;
    crew.tells(&scene, &all, 1).await;
    let status = scene.status().await;
    assert_eq!(status["waits"]["waits_for"], "canary", "{status}");
    for one in status["workers"].as_array().unwrap() {
        let is_canary = one["host"] == canary.as_str();
        let (standing, desired) = if is_canary {
            ("refused", &second)
        } else {
            ("live", &first)
        };
        assert_eq!(one["standing"], standing, "{one}");
        assert_eq!(one["report"]["desired"], desired.as_str(), "{one}");
        assert_eq!(one["report"]["applied"], first.as_str(), "{one}");
    }
    let log = scene.log().await;
    let of_it: Vec<&Value> = log
        .iter()
        .filter(|entry| entry["revision"] == second.as_str())
        .collect();
    assert_eq!(whats(&of_it), ["published", "chosen", "refused"]);

    scene.tells(3);
    let third = scene
        .publish_as(&["--first", "1", "--healthy", "300ms"])
        .await;
    all_have(&scene, &third, 5).await;
    crew.tells(&scene, &all, 3).await;
}

/// Lets some time pass in which nothing may happen.
async fn later(scene: &Scene, millis: i64) {
    let end = scene.bench.clock.now() + millis;
    wait_until("it is later", LIMIT, async || scene.bench.clock.now() > end).await;
}

async fn a_freeze_keeps_a_canary_from_the_rest(scene: Arc<Scene>) {
    let three = [("a", "fetch"), ("b", "fetch"), ("c", "postprocess")];
    let (all, first) = (hosts(&three), published(&scene, 1).await);
    let crew = Crew::start(&scene, &three, &first).await;
    scene.tells(2);
    let second = scene.publish_as(&["--first", "1", "--healthy", "5s"]).await;
    let canary = canaries_have(&scene, &second, 1).await;
    let freeze = ["freeze", "--reason", "a release", "--until", "1h"];
    ok(scene.config_verb(&freeze).await);
    let (code, told) = scene.wait(&second, "5s").await;
    assert_eq!(code, 5, "{told}");
    // By then it has been well for long enough.
    later(&scene, 5500).await;
    crew.tells(&scene, &canary, 2).await;
    crew.tells(&scene, &without(&all, &canary), 1).await;
    ok(scene.config_verb(&["thaw"]).await);
    all_have(&scene, &second, 3).await;
    crew.tells(&scene, &all, 2).await;
}

async fn what_the_only_worker_has_on_trial_is_not_live(scene: Arc<Scene>) {
    let first = published(&scene, 1).await;
    let _crew = Crew::start(&scene, &[("a", "fetch")], &first).await;
    scene.tells(2);
    let second = scene.publish_as(&["--first", "1", "--healthy", "1h"]).await;
    canaries_have(&scene, &second, 1).await;
    let (code, told) = scene.wait(&second, "300ms").await;
    assert_eq!(code, 2, "{told}");
    assert!(
        told.contains("on all for good") && told.contains("goes first to"),
        "{told}"
    );
    ok(scene.config_verb(&["apply-now"]).await);
    all_have(&scene, &second, 1).await;
}
