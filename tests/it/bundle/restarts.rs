//! What only a restart can take over: elastic workers begin anew, pinned ones say so. What a worker changes while it works: slots.

use super::*;

on_both_with!(crate::bundle::FOLLOWS;
    an_elastic_worker_begins_anew_once_its_work_is_done_or_handed_off,
    a_pinned_worker_says_that_it_needs_a_restart_and_goes_on,
    a_canary_that_has_to_begin_anew_stays_one,
    the_heir_of_a_killed_pinned_worker_takes_its_place,
    a_worker_has_as_many_slots_as_the_bundle_says,
    what_a_worker_needs_to_find_its_bundle_cannot_be_in_it,
);

async fn an_elastic_worker_begins_anew_once_its_work_is_done_or_handed_off(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    let before = scene.status().await["workers"][0]["worker"].clone();
    scene.write("switches/limits.toml", "[limits]\nresults = 77\n");
    let second = scene.publish().await;
    scene.is_live(&second).await;
    wait_until("the life before is forgotten", LIMIT, async || {
        let workers = scene.status().await["workers"].clone();
        workers.as_array().unwrap().len() == 1 && workers[0]["worker"] != before
    })
    .await;
    assert_eq!(scene.runs("say", "one").await, Some(second));
    worker.said("results = 77", LIMIT).await;
    crate::exec::stop(worker).await;
}

async fn a_pinned_worker_says_that_it_needs_a_restart_and_goes_on(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let worker = Child::worker(&scene.bench.folder, &scene.config, "postprocess");
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    scene.write(
        "switches/limits.toml",
        "[limits]\nresults = 77\n[retention]\nfinished_tasks = \"2h\"\n",
    );
    scene.publish().await;
    let report = scene
        .reports("it needs a restart", |report| report["restart"].is_array())
        .await;
    assert_eq!(
        report["restart"],
        serde_json::json!(["limits", "retention"])
    );
    assert_eq!(
        report["applied"],
        first.as_str(),
        "nothing of it is taken by halves"
    );
    assert_eq!(scene.status().await["workers"][0]["standing"], "restart");
    let task = Task::new("say", "ci_fetch_postprocess").with_id("one");
    scene.enqueue(&[task]).await;
    scene.done("one").await;
    assert_eq!(scene.revision_of("one").await.as_ref(), Some(&first));
    crate::exec::stop(worker).await;
    let _next = Child::worker(&scene.bench.folder, &scene.config, "postprocess");
    scene
        .reports("its next life has it", |report| {
            report["applied"] != first.as_str() && report["applied"] == report["desired"]
        })
        .await;
}

async fn a_canary_that_has_to_begin_anew_stays_one(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    scene.write("switches/limits.toml", "[limits]\nresults = 77\n");
    ok(scene
        .publish_with(&["--first", "1", "--healthy", "300ms"])
        .await);
    wait_until("it is promoted", LIMIT, async || {
        scene.status().await["state"]["newest"]["canary"].is_null()
    })
    .await;
    let log = ok(scene.config_verb(&["log"]).await);
    assert_eq!(log.matches(" chosen ").count(), 1, "{log}");
    scene.is_live("newest").await;
}

async fn the_heir_of_a_killed_pinned_worker_takes_its_place(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let mut worker = Child::worker(&scene.bench.folder, &scene.config, "postprocess");
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    worker.signal("KILL");
    worker.wait().await;
    // At once: its lease is not over yet.
    let _heir = Child::worker(&scene.bench.folder, &scene.config, "postprocess");
    wait_until("it is the only one", LIMIT, async || {
        scene.status().await["workers"]
            .as_array()
            .is_some_and(|all| all.len() == 1 && all[0]["standing"] == "live")
    })
    .await;
    scene.three(2);
    let second = scene.publish().await;
    scene.is_live(&second).await;
}

async fn a_worker_has_as_many_slots_as_the_bundle_says(scene: Arc<Scene>) {
    scene.three(1);
    let slots = |number: u32| {
        scene.write(
            "switches/pool.toml",
            &format!(
                "[pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\nslots = {number}\n"
            ),
        );
    };
    slots(1);
    let first = scene.publish().await;
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins", |report| report["applied"] == first.as_str())
        .await;
    let tasks = (0..4).map(|number| Task::new("wait", QUEUE).with_id(format!("w{number}")));
    scene.enqueue(&tasks.collect::<Vec<_>>()).await;
    let running = "select count(*) from tasks where state = 'running'";
    wait_until("one runs", LIMIT, async || scene.said().len() == 1).await;
    slots(3);
    scene.publish().await;
    wait_until("three run", LIMIT, async || scene.said().len() == 3).await;
    assert_eq!(scene.bench.number(running).await, 3);
    slots(1);
    let last = scene.publish().await;
    scene.is_live(&last).await;
    std::fs::write(scene.bench.folder.join("said.go"), "").unwrap();
    for number in 0..4 {
        scene.done(&format!("w{number}")).await;
    }
    std::fs::remove_file(scene.bench.folder.join("said.go")).unwrap();
    let tasks = (4..8).map(|number| Task::new("wait", QUEUE).with_id(format!("w{number}")));
    scene.enqueue(&tasks.collect::<Vec<_>>()).await;
    wait_until("one runs again", LIMIT, async || scene.said().len() == 9).await;
    assert_eq!(scene.bench.number(running).await, 1);
    std::fs::write(scene.bench.folder.join("said.go"), "").unwrap();
    scene.done("w7").await;
}

async fn what_a_worker_needs_to_find_its_bundle_cannot_be_in_it(scene: Arc<Scene>) {
    scene.three(1);
    scene.write(
        "commands/more.toml",
        "[store]\nurl = \"sqlite:other.db\"\n[bundle]\nname = \"other\"\n",
    );
    scene.write("switches/more.toml", "[exec.say]\ndir = \"/\"\n");
    let told = failed(&scene.publish_with(&[]).await);
    for line in [
        "commands/more.toml:1: store: cannot be in a bundle",
        "commands/more.toml:3: bundle: cannot be in a bundle",
        "switches/more.toml:2: exec.say.dir: is written at commands/say.toml:3 too",
        "nothing was published",
    ] {
        assert!(told.contains(line), "{line} in {told}");
    }
}
