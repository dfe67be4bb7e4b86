//! Bad input: whatever a producer, a backend or a file does, the task or the test job says why it failed, nothing of
//! it is published in part (the scene watches), time and memory are bounded, and other work goes on.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::broker::{Outgoing, unreadable_queue};
use longshore::codec::Message;
use longshore::lab::{Effect, Fault, LabJob, LabSuite};
use longshore::store::State;
use longshore::testjob::item::CUT;

use crate::harness::{Child, LIMIT, wait_for};
use crate::scene::{Scene, on_both_with};

mod configuration;
mod files;
mod secrets;

on_both_with!("";
    a_message_that_cannot_be_read_is_kept_with_its_reason,
    a_task_for_an_unknown_backend_is_a_dead_letter_that_names_it_and_the_mend,
    a_remote_id_that_does_not_exist_fails_its_test_job,
    a_metric_that_is_no_number_and_a_nul_cost_themselves_only,
    a_server_that_stands_still_is_left_and_tried_again_while_other_work_goes_on,
);
on_both_with!("[limits]\nlog = \"64KiB\"\n"; a_log_over_its_limit_is_cut_and_said);
on_both_with!("[retention]\nabandoned_runs = \"1h\"\n"; a_large_log_takes_no_memory);

/// The memory that a worker may have had at most, in KiB, however large a log or a file.
const MEMORY: u64 = 120 * 1024;
/// Lines of a large log, of about 100 bytes each.
const LARGE: u64 = 3_000_000;

/// An elastic and a pinned worker.
fn workers(scene: &Scene) -> (Child, Child) {
    (scene.worker("fetch"), scene.worker("postprocess"))
}

/// Other work goes on: a good test job is completed.
async fn good(scene: &Scene) {
    scene.small_job("7000");
    scene.fetch("lab", "7000").await;
    let job = scene.reaches("lab", "7000", "complete").await;
    assert_eq!(job.tests + job.metrics, 10, "{job:?}");
}

/// Collects a test job that cannot be: it fails at once and says `words`, and nothing of it is published.
async fn fails(scene: &Scene, backend: &str, id: &str, words: &[&str]) {
    scene.fetch(backend, id).await;
    let job = scene.reaches(backend, id, "failed").await;
    let reason = job.reason.clone().unwrap_or_default();
    for word in words {
        assert!(reason.contains(word), "{reason:?} does not say {word:?}");
    }
    assert_eq!((job.tests, job.metrics), (0, 0));
    let published = format!("select count(*) from published_runs where remote_id = '{id}'");
    assert_eq!(
        scene.bench.number(&published).await,
        0,
        "a part was published"
    );
    let task = scene.bench.view(&format!("fetch:{backend}/{id}")).await;
    assert_eq!((task.state, task.failures), (State::Dead, 1), "{task:?}");
    assert_eq!(task.reason, Some(reason), "the task says the same");
}

/// The most memory that a worker ever had, in KiB.
fn peak(worker: &Child) -> u64 {
    let status = std::fs::read_to_string(format!("/proc/{}/status", worker.pid())).unwrap();
    let line = status.lines().find(|line| line.starts_with("VmHWM:"));
    let number = line.and_then(|line| line.split_whitespace().nth(1));
    number.unwrap().parse().unwrap()
}

async fn a_message_that_cannot_be_read_is_kept_with_its_reason(scene: Arc<Scene>) {
    let _workers = workers(&scene);
    let id = scene.bench.worker().await;
    let broker = scene.broker(&scene.bench.store, &id);
    let bodies = [
        (
            "application/json",
            &b"{\"id\": \"1\", \"task\": \"testjob.f"[..],
            "JSON",
        ),
        ("application/x-python-serialize", b"\x80\x04.", "pickle"),
        (longshore::codec::NATIVE, b"\xff\xff\xff\xff", "protobuf"),
    ];
    let messages = bodies.map(|(kind, body, _)| Outgoing {
        queue: "ci_fetch".into(),
        message: Message {
            content_type: Some(kind.into()),
            body: body.into(),
            ..Message::default()
        },
        optional: false,
    });
    for published in broker.publish(&messages).await {
        published.unwrap();
    }
    good(&scene).await;
    let mut kept = broker.consume(&[unreadable_queue("ci_fetch")], 10);
    let mut left = bodies.to_vec();
    while !left.is_empty() {
        let delivery = crate::harness::next(&mut kept).await;
        let reason = delivery.message.headers["longshore-unreadable"]
            .as_str()
            .unwrap();
        let at = left.iter().position(|(kind, body, _)| {
            delivery.message.content_type.as_deref() == Some(kind) && delivery.message.body == *body
        });
        let (_, _, word) = left.remove(at.expect("the message is kept as it came"));
        assert!(
            reason.to_lowercase().contains(&word.to_lowercase()),
            "{reason:?} does not say {word:?}"
        );
    }
    kept.quiet();
    broker.close().await;
    assert_eq!(
        scene
            .bench
            .number("select count(*) from tasks where state = 'dead'")
            .await,
        0
    );
}

async fn a_task_for_an_unknown_backend_is_a_dead_letter_that_names_it_and_the_mend(
    scene: Arc<Scene>,
) {
    let _workers = workers(&scene);
    let kwargs = r#"{"backend": "moon", "id": "1", "target": "group/project/build/environment"}"#;
    let verb = [
        "enqueue",
        "task",
        "testjob.fetch",
        "--id",
        "1",
        "--kwargs",
        kwargs,
    ];
    scene.verb(&verb).await;
    scene.task_reaches("1", State::Dead).await;
    let view = scene.bench.view("1").await;
    let reason = view.reason.unwrap();
    for word in ["\"moon\"", "configured: dir, lab", "[backends.moon]"] {
        assert!(reason.contains(word), "{reason:?} does not say {word:?}");
    }
    assert_eq!(view.failures, 1, "another attempt would fail the same");
    let listed = scene
        .verb(&["task", "list", "--state", "dead", "--json"])
        .await;
    assert!(listed.contains("[backends.moon]"), "{listed}");
    assert!(scene.find("moon", "1").await.is_none());
    good(&scene).await;
}

async fn a_remote_id_that_does_not_exist_fails_its_test_job(scene: Arc<Scene>) {
    let _workers = workers(&scene);
    fails(&scene, "lab", "404", &["404"]).await;
    fails(&scene, "dir", "nowhere", &["nowhere"]).await;
    fails(&scene, "dir", "../longshore.toml", &["is no path below"]).await;
    assert_eq!(
        scene.lab.count("/jobs/404"),
        1,
        "what is not there is asked for once"
    );
    good(&scene).await;
}

async fn a_metric_that_is_no_number_and_a_nul_cost_themselves_only(scene: Arc<Scene>) {
    let _workers = workers(&scene);
    let long = "n".repeat(1000);
    let tests = serde_json::json!({
        "s/good": "pass", "s/nul\u{0}": { "result": "fail", "log": "before\u{0}after" }, format!("s/{long}"): "pass",
        format!("{long}/a"): "pass",
    });
    scene.file("1", "tests.json", tests.to_string());
    scene.file(
        "1",
        "metrics.json",
        r#"{"s/good": 1.5, "s/bad": "fast", "s/list": [1, "x"]}"#,
    );
    scene.fetch("dir", "1").await;
    let job = scene.reaches("dir", "1", "complete").await;
    assert_eq!((job.tests, job.failed, job.metrics), (4, 1, 1));
    assert!(
        job.problems > 0,
        "what was changed or left out is counted: {job:?}"
    );
    let results = scene.verb(&["testjob", "results", "dir/1", "--json"]).await;
    assert!(
        results.contains("before\u{fffd}after") && results.contains("nul\u{fffd}"),
        "{results}"
    );
    assert!(
        results.contains("nnn…"),
        "a long name is kept, cut and marked: {results}"
    );
    let shown = scene.verb(&["testjob", "show", "dir/1", "--json"]).await;
    assert!(shown.contains("s/bad"), "{shown}");
    good(&scene).await;
}

async fn a_server_that_stands_still_is_left_and_tried_again_while_other_work_goes_on(
    scene: Arc<Scene>,
) {
    scene.configure("timeout = \"5s\"", "timeout = \"1s\"");
    let minute = Effect::Drip(Duration::from_secs(60));
    scene.lab.fail(Fault::new("/jobs/60/", minute));
    scene.small_job("60");
    let _workers = workers(&scene);
    scene.fetch("lab", "60").await;
    let begun = Instant::now();
    good(&scene).await;
    let task = wait_for("the attempt is given up", 2 * LIMIT, async || {
        let task = scene.bench.find("fetch:lab/60").await?;
        (task.failures > 0).then_some(task)
    })
    .await;
    assert!(
        begun.elapsed() < Duration::from_secs(30),
        "{:?}",
        begun.elapsed()
    );
    let reason = task.reason.unwrap();
    assert!(
        reason.contains("/jobs/60") && reason.contains("time limit"),
        "{reason}"
    );
    assert_ne!(
        task.state,
        State::Dead,
        "a slow server may be fast tomorrow"
    );
    scene.lab.heal();
    let job = scene.reaches("lab", "60", "complete").await;
    assert_eq!(job.tests + job.metrics, 10, "{job:?}");
}

async fn a_log_over_its_limit_is_cut_and_said(scene: Arc<Scene>) {
    let _workers = workers(&scene);
    scene.lab.put(
        LabJob::new("1")
            .suite(LabSuite::generated("0_suite", 10))
            .log(20_000),
    );
    scene.fetch("lab", "1").await;
    let job = scene.reaches("lab", "1", "complete").await;
    let shown = scene
        .verb(&["testjob", "show", &job.id.to_string(), "--json"])
        .await;
    assert!(
        shown.contains("the log is cut after 65536 bytes"),
        "{shown}"
    );
    let size = "select coalesce(sum(length(data)), 0) from staged_data";
    let size = scene.bench.number(size).await;
    assert!((1..=1 << 20).contains(&size), "{size} bytes were kept");
    // The same in a folder; what is no text is not marked, and what just fits is whole.
    scene.file("2", "log", "line\n".repeat(100_000));
    scene.file("2", "tests.json", r#"{"a/b": "pass"}"#);
    scene.file("2", "x.bin", [7; (64 << 10) + 1]);
    scene.file("2", "y.bin", [7; 64 << 10]);
    scene.fetch("dir", "2").await;
    let job = scene.reaches("dir", "2", "complete").await;
    let shown = scene.verb(&["testjob", "show", "dir/2", "--json"]).await;
    assert_eq!(job.tests, 1, "{shown}");
    assert!(!shown.contains("y.bin is cut"), "{shown}");
    for name in ["log", "x.bin"] {
        let said = format!("{name} is cut after 65536 bytes");
        assert!(shown.contains(&said), "{shown}");
    }
    let marker = i64::try_from(CUT.len()).unwrap();
    for (name, size) in [
        ("log", 65_536 + marker),
        ("x.bin", 65_536),
        ("y.bin", 65_536),
    ] {
        let kept = format!(
            "select sum(length(d.data)) from published_files f join testjobs j on j.id = f.testjob and j.backend = 'dir' join staged_data d on d.run = f.run and d.file = f.seq where f.name = '{name}'"
        );
        assert_eq!(scene.bench.number(&kept).await, size, "{name}");
    }
    good(&scene).await;
}

async fn a_large_log_takes_no_memory(scene: Arc<Scene>) {
    let workers = workers(&scene);
    let suite = LabSuite::generated("0_suite", 10);
    scene.lab.put(LabJob::new("1").suite(suite).log(LARGE));
    scene.fetch("lab", "1").await;
    let what = "the large test job is complete";
    wait_for(what, 6 * LIMIT, async || {
        let job = scene.find("lab", "1").await?;
        assert_ne!(job.state, "failed", "{job:?}");
        (job.state == "complete").then_some(())
    })
    .await;
    let size = scene
        .bench
        .number("select sum(length(data)) from staged_data")
        .await;
    assert!(size > 100_000_000, "{size} bytes were kept");
    for worker in [&workers.0, &workers.1] {
        let peak = peak(worker);
        assert!(peak < MEMORY, "a worker had {peak} KiB at most");
    }
    good(&scene).await;
}
