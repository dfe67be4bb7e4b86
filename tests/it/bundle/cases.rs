//! What Mozilla's fleet suffered from reconfiguring itself (M1 to M11), one test each.

use super::*;

on_both_with!(crate::bundle::FOLLOWS;
    m1_what_failed_once_is_tried_again_without_a_new_push,
    m2_a_set_is_published_as_a_whole_or_not_at_all,
    m3_what_is_bad_touches_nothing_and_a_restart_begins_with_the_last_good_one,
    m4_a_source_without_configuration_is_part_of_the_set,
    m5_a_death_at_any_step_leaves_no_lock_and_no_half_set,
    m6_a_refusal_is_seen_everywhere,
    m7_nobody_is_told_that_it_is_live_before_it_is,
    m8_a_check_that_hangs_ends_and_the_worker_goes_on,
    m9_nothing_of_an_older_revision_is_left_over,
    m10_a_check_needs_no_server,
    m11_a_running_attempt_keeps_what_it_began_with,
);

async fn m1_what_failed_once_is_tried_again_without_a_new_push(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    // It needs a secret that this machine does not have yet.
    let secret = scene.bench.folder.join("token");
    scene.three(2);
    scene.write(
        "switches/backend.toml",
        &format!("[backends.other]\nkind = \"lava\"\nurl = \"http://127.0.0.1:1\"\ntoken_file = \"{}\"\n", secret.display()),
    );
    ok(scene.publish_with(&["--unchecked"]).await);
    let report = scene
        .reports("it is refused", |report| !report["refused"].is_null())
        .await;
    assert!(
        report["error"]
            .as_str()
            .unwrap()
            .contains("switches/backend.toml:4"),
        "{report}"
    );
    assert_eq!(scene.runs("say", "one").await, Some(first));
    std::fs::write(&secret, "s").unwrap();
    let (code, told) = scene.wait("newest", "30s").await;
    // It has refused it until it looks again.
    assert!(code == 0 || code == 3, "{told}");
    let second = scene
        .reports("it is live", |report| {
            report["applied"] == report["desired"]
        })
        .await;
    assert_eq!(
        scene.runs("say", "two").await.as_deref(),
        second["applied"].as_str()
    );
    assert_eq!(scene.report().await["error"], Value::Null);
}

async fn m2_a_set_is_published_as_a_whole_or_not_at_all(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    scene.three(2);
    for point in &POINTS[STEPS..STEPS + 2] {
        let killed = scene.publish_and_die(point).await;
        assert!(!killed.status.success(), "{point}");
        let newest = scene.status().await["state"]["newest"]["revision"]
            .as_str()
            .unwrap()
            .to_owned();
        let whole = "select count(*) from bundles b where b.revision = ".to_owned();
        assert_eq!(scene.bench.number(&format!("{whole}'{newest}'")).await, 1);
        assert_eq!(newest == first, *point == "bundle_change:before");
    }
    scene.is_live("newest").await;
    // A source that is gone meanwhile: the rest of the set is not published without it.
    scene.three(3);
    std::fs::remove_dir_all(scene.source("switches")).unwrap();
    let told = failed(&scene.publish_with(&[]).await);
    assert!(
        told.contains("source switches") && told.contains("nothing was published"),
        "{told}"
    );
    scene.runs("say", "one").await;
    assert_eq!(scene.said(), ["2 2 2"; 2]);
}

async fn m3_what_is_bad_touches_nothing_and_a_restart_begins_with_the_last_good_one(
    scene: Arc<Scene>,
) {
    scene.three(1);
    let first = scene.publish().await;
    let mut worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    scene
        .enqueue(&[Task::new("wait", QUEUE).with_id("long")])
        .await;
    wait_until("it runs", LIMIT, async || scene.said().len() == 1).await;
    scene.three(2);
    scene.write(
        "commands/bad.toml",
        "[tasks.say]\nattempts = -1\n[pools.fetch]\nslots = \"many\"\n",
    );
    let told = failed(&scene.publish_with(&[]).await);
    assert!(
        told.contains("commands/bad.toml:2") && told.contains("commands/bad.toml:4"),
        "all at once: {told}"
    );
    ok(scene.publish_with(&["--unchecked"]).await);
    scene
        .reports("it is refused", |report| !report["refused"].is_null())
        .await;
    assert_eq!(scene.runs("say", "short").await, Some(first.clone()));
    worker.signal("KILL");
    worker.wait().await;
    let _next = scene.fetch_worker();
    scene
        .reports("the next life begins with the last good one", |report| {
            report["applied"] == first.as_str() && !report["refused"].is_null()
        })
        .await;
    std::fs::write(scene.bench.folder.join("said.go"), "").unwrap();
    scene.done("long").await;
    assert_eq!(scene.runs("say", "after").await, Some(first));
    assert!(
        scene.said().iter().all(|line| line == "1 1 1"),
        "{:?}",
        scene.said()
    );
}

async fn m4_a_source_without_configuration_is_part_of_the_set(scene: Arc<Scene>) {
    scene.three(1);
    scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| !report["applied"].is_null())
        .await;
    scene.write("scripts/number", "7");
    let second = scene.publish().await;
    scene.is_live(&second).await;
    assert_eq!(scene.runs("say", "one").await, Some(second));
    assert_eq!(scene.said(), ["1 1 7"; 2]);
}

async fn m5_a_death_at_any_step_leaves_no_lock_and_no_half_set(scene: Arc<Scene>) {
    for (number, point) in (1..).zip(&POINTS[..STEPS]) {
        scene.three(number);
        let revision = scene.publish().await;
        let config = scene.config.to_str().unwrap();
        // The first moment of a life, and its first look after it has begun, come by the same steps.
        let mut worker = Child::start(
            &scene.bench.folder,
            &["run", "--pool", "fetch", "--config", config],
            &[("LONGSHORE_CRASH_AT", *point)],
        );
        if *point == "bundle:adopted" {
            scene
                .reports("it has begun", |report| {
                    report["applied"] == revision.as_str()
                })
                .await;
            scene.three(number + 100);
            scene.publish().await;
        }
        assert!(!worker.ended(LIMIT).await.success(), "{point}");
        let heir = scene.fetch_worker();
        wait_until("its heir has all of it", LIMIT, async || {
            scene.wait("newest", "10s").await.0 == 0
        })
        .await;
        let id = format!("task-{number}");
        scene.runs("say", &id).await;
        crate::exec::stop(heir).await;
    }
    deaths_at_the_end_of_a_life(&scene).await;
    let (said, wanted) = (scene.said(), [1, 2, 3, 4, 105, 6, 7]);
    let wanted = wanted.iter().flat_map(|number| {
        [
            format!("{number} {number} {number}"),
            format!("{number} {number} {number}"),
        ]
    });
    assert_eq!(said, wanted.collect::<Vec<_>>());
}

/// One that ends leaves the list: if it dies there, its heir takes it off.
async fn deaths_at_the_end_of_a_life(scene: &Scene) {
    for point in &POINTS[STEPS + 2..] {
        let config = scene.config.to_str().unwrap();
        let run = ["run", "--pool", "fetch", "--config", config];
        let mut worker = Child::start(&scene.bench.folder, &run, &[("LONGSHORE_CRASH_AT", *point)]);
        // A life before it, which died, may still be on the list.
        worker.said("worker joined", LIMIT).await;
        worker.signal("TERM");
        assert!(!worker.ended(LIMIT).await.success(), "{point}");
        let heir = scene.fetch_worker();
        wait_until("its heir is there", LIMIT, async || {
            scene.wait("newest", "10s").await.0 == 0
        })
        .await;
        crate::exec::stop(heir).await;
    }
}

async fn m6_a_refusal_is_seen_everywhere(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    scene.write("commands/bad.toml", "[exec.say]\ndir = \"/\"\n");
    ok(scene.publish_with(&["--unchecked"]).await);
    let report = scene
        .reports("it is refused", |report| !report["refused"].is_null())
        .await;
    assert!(
        report["error"].as_str().unwrap().contains("is written at"),
        "{report}"
    );
    assert!(report["behind_since"].as_i64().unwrap() > 0);
    let (code, told) = scene.wait("newest", "10s").await;
    assert_eq!(code, 3, "{told}");
    let table = ok(scene.config_verb(&["status"]).await);
    assert!(table.contains("refused"), "{table}");
    let log = ok(scene.config_verb(&["log"]).await);
    assert!(log.contains("refused"), "{log}");
    worker.said("was refused", LIMIT).await;
}

async fn m7_nobody_is_told_that_it_is_live_before_it_is(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let worker = scene.fetch_worker();
    let _other = scene.fetch_worker();
    wait_until("both begin", LIMIT, async || {
        let status = scene.status().await;
        status["workers"].as_array().is_some_and(|all| {
            all.len() == 2
                && all
                    .iter()
                    .all(|one| one["report"]["applied"] == first.as_str())
        })
    })
    .await;
    scene.bench.freeze(&worker).await;
    scene.three(2);
    let second = scene.publish().await;
    let (code, told) = scene.wait(&second, "2s").await;
    assert_eq!(code, 2, "one of two says nothing: {told}");
    worker.signal("CONT");
    scene.is_live(&second).await;
    // The same revision as before, which both had once: an old word does not count.
    scene.bench.freeze(&worker).await;
    scene.three(1);
    assert_eq!(scene.publish().await, first);
    let (code, told) = scene.wait(&first, "1s").await;
    assert_eq!(code, 2, "{told}");
    worker.signal("CONT");
    scene.is_live(&first).await;
}

async fn m8_a_check_that_hangs_ends_and_the_worker_goes_on(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    let pipe = scene.bench.folder.join("pipe");
    let made = std::process::Command::new("mkfifo")
        .arg(&pipe)
        .status()
        .unwrap();
    assert!(made.success());
    scene.three(2);
    scene.write(
        "switches/backend.toml",
        &format!("[backends.other]\nkind = \"lava\"\nurl = \"http://127.0.0.1:1\"\ntoken_file = \"{}\"\n", pipe.display()),
    );
    ok(scene.publish_with(&["--unchecked"]).await);
    let report = scene
        .reports("the check is given up", |report| {
            !report["refused"].is_null()
        })
        .await;
    let why = report["error"].as_str().unwrap();
    assert!(
        why.contains("check_limit") || why.contains("not ended yet"),
        "{report}"
    );
    assert_eq!(scene.runs("say", "one").await, Some(first));
    // Who sits at the other end at last lets it go on.
    std::fs::write(&pipe, "s").unwrap();
    std::fs::remove_file(&pipe).unwrap();
    std::fs::write(&pipe, "s").unwrap();
    let report = scene
        .reports("it is live", |report| {
            report["applied"] == report["desired"]
        })
        .await;
    assert_eq!(
        scene.runs("say", "two").await.as_deref(),
        report["applied"].as_str()
    );
}

async fn m9_nothing_of_an_older_revision_is_left_over(scene: Arc<Scene>) {
    scene.three(1);
    scene.write("switches/more.toml", "[exec.old]\ncommand = [\"true\"]\n");
    scene.write("scripts/derived", "old");
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    assert_eq!(scene.runs("old", "one").await, Some(first));
    std::fs::remove_file(scene.source("switches").join("more.toml")).unwrap();
    std::fs::remove_file(scene.source("scripts").join("derived")).unwrap();
    let second = scene.publish().await;
    scene.is_live(&second).await;
    scene
        .enqueue(&[Task::new("old", QUEUE).with_id("two")])
        .await;
    wait_until("nobody knows it any more", LIMIT, async || {
        scene
            .bench
            .find("two")
            .await
            .is_some_and(|view| view.state == State::Parked)
    })
    .await;
    let kept = scene.bench.folder.join("kept/production").join(second);
    assert!(kept.join("sources/scripts/say.sh").exists());
    assert!(!kept.join("sources/scripts/derived").exists());
}

async fn m10_a_check_needs_no_server(scene: Arc<Scene>) {
    scene.three(1);
    scene.write(
        "switches/backends.toml",
        "[backends.gone]\nkind = \"lava\"\nurl = \"http://127.0.0.1:1\"\n[backends.nowhere]\nkind = \"tuxsuite\"\nurl = \"http://nowhere.invalid\"\n",
    );
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    assert_eq!(scene.runs("say", "one").await, Some(first));
}

async fn m11_a_running_attempt_keeps_what_it_began_with(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    scene
        .enqueue(&[Task::new("wait", QUEUE).with_id("long")])
        .await;
    wait_until("it runs", LIMIT, async || scene.said().len() == 1).await;
    scene.three(2);
    let second = scene.publish().await;
    scene.is_live(&second).await;
    assert_eq!(scene.runs("say", "short").await, Some(second));
    std::fs::write(scene.bench.folder.join("said.go"), "").unwrap();
    scene.done("long").await;
    assert_eq!(scene.revision_of("long").await, Some(first));
    assert_eq!(scene.said(), ["1 1 1", "2 2 2", "2 2 2", "1 1 1"]);
}
