//! Result files that are cut, nested, packed or named to do harm.

use std::io::Read as _;
use std::sync::Arc;

use longshore::lab::{Effect, Fault, LabAttachment, LabJob};
use longshore::store::State;

use super::{MEMORY, fails, good, peak, workers};
use crate::harness::{LIMIT, wait_for};
use crate::scene::{Scene, on_both_with};

on_both_with!("";
    xml_that_is_cut_off_fails_its_test_job,
    xml_with_entities_is_refused_unexpanded,
    xml_nested_ten_thousand_deep_is_refused,
    an_archive_with_names_that_lead_out_of_it_is_refused,
    a_decompression_bomb_is_refused_in_little_memory,
    an_attachment_cut_on_its_way_is_fetched_again,
    an_attachment_that_is_a_bomb_fails_its_plugin_and_leaves_the_rest,
);

/// What a bomb unpacks to: more than the ratio of real archives allows.
const BOMB: u64 = 200 << 20;

/// A tar archive with one file.
fn tar(name: &str, size: u64, data: impl std::io::Read) -> Vec<u8> {
    let mut header = tar::Header::new_gnu();
    // Not by `set_path`: that refuses what this is about.
    header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
    header.set_size(size);
    header.set_mode(0o644);
    header.set_cksum();
    let mut builder = tar::Builder::new(liblzma::write::XzEncoder::new(Vec::new(), 1));
    builder.append(&header, data).unwrap();
    builder.into_inner().unwrap().finish().unwrap()
}

fn bomb() -> Vec<u8> {
    let packed = tar("zeros", BOMB, std::io::repeat(0).take(BOMB));
    assert!((packed.len() as u64) < BOMB / 2000, "{}", packed.len());
    packed
}

async fn xml_that_is_cut_off_fails_its_test_job(scene: Arc<Scene>) {
    let _workers = workers(&scene);
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<testsuites><testsuite name=\"s\">");
    for case in 0..20_000 {
        xml += &format!("<testcase name=\"t{case}\" classname=\"s\"/>\n");
    }
    // More than one chunk is staged by then, and none of it is ever seen.
    scene.file("cut", "junit.xml", &xml);
    fails(
        &scene,
        "dir",
        "cut",
        &["junit.xml", "ended too early", "byte"],
    )
    .await;
    let result = "<Result><Module name=\"m\"><TestCase name=\"c\"><Test result=\"pa";
    scene.file("cts", "test_result.xml", result);
    fails(
        &scene,
        "dir",
        "cts",
        &["test_result.xml", "ended too early"],
    )
    .await;
    good(&scene).await;
}

async fn xml_with_entities_is_refused_unexpanded(scene: Arc<Scene>) {
    let workers = workers(&scene);
    let mut xml = String::from("<?xml version=\"1.0\"?>\n<!DOCTYPE t [<!ENTITY e0 \"ha\">\n");
    for level in 1..40 {
        let before = level - 1;
        xml += &format!("<!ENTITY e{level} \"&e{before};&e{before};&e{before};&e{before};\">\n");
    }
    let bodies = [
        (
            "billion",
            "<testsuite name=\"s\"><testcase name=\"a\"><failure>&e39;</failure></testcase></testsuite>",
        ),
        (
            "attribute",
            "<testsuite name=\"s\"><testcase name=\"&e39;\"/></testsuite>",
        ),
    ];
    for (id, body) in bodies {
        scene.file(id, "junit.xml", format!("{xml}]>\n{body}"));
        fails(
            &scene,
            "dir",
            id,
            &[
                "junit.xml",
                "a DOCTYPE with declarations of its own is refused",
            ],
        )
        .await;
    }
    let outside = "<?xml version=\"1.0\"?>\n<!DOCTYPE t [<!ENTITY x SYSTEM \"file:///etc/hostname\">]>\n\
                   <testsuite name=\"s\"><testcase name=\"&x;\"/></testsuite>";
    scene.file("outside", "junit.xml", outside);
    fails(
        &scene,
        "dir",
        "outside",
        &[
            "junit.xml",
            "a DOCTYPE with declarations of its own is refused",
        ],
    )
    .await;
    let undeclared = "<testsuite name=\"s\"><testcase name=\"&x;\"/></testsuite>";
    scene.file("undeclared", "junit.xml", undeclared);
    fails(
        &scene,
        "dir",
        "undeclared",
        &["junit.xml", "unknown entity `&x;`"],
    )
    .await;
    assert!(peak(&workers.0) < MEMORY);
    good(&scene).await;
}

async fn xml_nested_ten_thousand_deep_is_refused(scene: Arc<Scene>) {
    let _workers = workers(&scene);
    let deep = |open: &str, close: &str| format!("{}{}", open.repeat(10_000), close.repeat(10_000));
    let junit = deep("<testsuite name=\"s\">", "</testsuite>");
    scene.file("junit", "junit.xml", junit);
    fails(&scene, "dir", "junit", &["depth", "limit"]).await;
    let cts = format!(
        "<Result>{}</Result>",
        deep("<Module name=\"m\">", "</Module>")
    );
    scene.file("cts", "test_result.xml", cts);
    fails(&scene, "dir", "cts", &["depth", "limit"]).await;
    scene.file("json", "tests.json", deep("[", "]"));
    fails(&scene, "dir", "json", &["tests.json"]).await;
    good(&scene).await;
}

async fn an_archive_with_names_that_lead_out_of_it_is_refused(scene: Arc<Scene>) {
    let _workers = workers(&scene);
    let xml = b"<Result></Result>";
    for (id, name) in [
        ("up", "../../up/test_result.xml"),
        ("root", "/tmp/test_result.xml"),
    ] {
        let packed = tar(name, xml.len() as u64, &xml[..]);
        scene.file(id, "results.tar.xz", packed);
        fails(&scene, "dir", id, &["results.tar.xz", name]).await;
    }
    let outside = scene.bench.folder.join("up");
    assert!(!outside.exists(), "something was written outside");
    good(&scene).await;
}

async fn a_decompression_bomb_is_refused_in_little_memory(scene: Arc<Scene>) {
    let workers = workers(&scene);
    scene.file("bomb", "results.tar.xz", bomb());
    fails(&scene, "dir", "bomb", &["results.tar.xz", "limit"]).await;
    let peak = peak(&workers.0);
    assert!(peak < MEMORY, "the worker had {peak} KiB at most");
    good(&scene).await;
}

/// A test job whose attachment has these bytes.
fn attached(scene: &Scene, id: &str, bytes: &[u8]) {
    let path = scene.bench.folder.join("attachment.tar.xz");
    std::fs::write(&path, bytes).unwrap();
    let attachment = LabAttachment {
        name: "attachment.tar.xz".into(),
        path,
        definition: "cts".into(),
        results_format: "aggregated".into(),
        rate: None,
    };
    scene.lab.put(
        LabJob::new(id)
            .warning("made_up")
            .attachment(attachment, scene.lab.url()),
    );
}

async fn an_attachment_cut_on_its_way_is_fetched_again(scene: Arc<Scene>) {
    scene.job("1");
    scene.job("2");
    // The connection breaks, and an answer that says of its half that it is the whole.
    for effect in [Effect::Short(9_000), Effect::Cut(9_000)] {
        scene.lab.fail(Fault::new("/attachments/", effect).times(1));
    }
    let _workers = workers(&scene);
    scene.fetch("lab", "1").await;
    let job = scene.reaches("lab", "1", "complete").await;
    let task = scene
        .bench
        .view(&format!("testjob:{}.{}/tradefed", job.id, job.wanted))
        .await;
    assert_eq!((task.state, task.failures), (State::Done, 2), "{task:?}");
    scene.fetch("lab", "2").await;
    scene.reaches("lab", "2", "complete").await;
    let (cut, whole) = (scene.seen("lab", "1").await, scene.seen("lab", "2").await);
    assert!(cut == whole, "a short read was taken for a result");
}

async fn an_attachment_that_is_a_bomb_fails_its_plugin_and_leaves_the_rest(scene: Arc<Scene>) {
    let workers = workers(&scene);
    attached(&scene, "1", &bomb());
    scene.fetch("lab", "1").await;
    let job = scene.reaches("lab", "1", "failed").await;
    let reason = job.reason.unwrap();
    assert!(
        reason.contains("attachment.tar.xz") && reason.contains("limit"),
        "{reason}"
    );
    let published = "select count(*) from published_runs where part = 'kernel-log'";
    wait_for("the other plugin is published", LIMIT, async || {
        (scene.bench.number(published).await == 1).then_some(())
    })
    .await;
    let published = "select count(*) from published_runs where part = 'tradefed'";
    assert_eq!(scene.bench.number(published).await, 0);
    let peak = peak(&workers.1);
    assert!(peak < MEMORY, "the worker had {peak} KiB at most");
    good(&scene).await;
}
