//! The LAVA backend against the stand-in server.

use std::time::Duration;

use serde_json::json;
use tokio::io::AsyncReadExt as _;
use tokio::sync::mpsc;

use super::*;
use crate::lab::{Effect, Fault, Lab, LabAttachment, LabJob, LabSuite, LabTest};
use crate::testjob::item::{Metric, Test};

fn quick() -> Limits {
    Limits {
        retries: 1,
        retry_delay: Duration::from_millis(1),
        retry_after: Duration::from_secs(1),
        ..Limits::default()
    }
}

fn config(url: &str, limits: Limits) -> LavaConfig {
    LavaConfig {
        url: Url::parse(url).unwrap(),
        username: Some("me".into()),
        token: Some(Secret::new("hunter2")),
        limits,
        log_limit: 1 << 30,
    }
}

/// Collects everything of a test job.
async fn all(
    lava: &Lava,
    id: &str,
    settings: &Settings,
) -> (Result<Collected, BackendError>, Vec<Item>) {
    let (out, mut items) = mpsc::channel(4);
    let collect = async move { lava.collect(id, settings, &out).await };
    let gather = async move {
        let mut found = Vec::new();
        while let Some(item) = items.recv().await {
            found.push(item);
        }
        found
    };
    tokio::join!(collect, gather)
}

fn summary(outcome: Result<Collected, BackendError>) -> Summary {
    match outcome {
        Ok(Collected::Done(summary)) => summary,
        other => panic!("{other:?}"),
    }
}

fn tests(items: &[Item]) -> Vec<&Test> {
    items
        .iter()
        .filter_map(|item| {
            if let Item::Test(test) = item {
                Some(test)
            } else {
                None
            }
        })
        .collect()
}

fn metrics(items: &[Item]) -> Vec<&Metric> {
    items
        .iter()
        .filter_map(|item| {
            if let Item::Metric(metric) = item {
                Some(metric)
            } else {
                None
            }
        })
        .collect()
}

fn facts(items: &[Item]) -> serde_json::Map<String, Value> {
    let mut facts = serde_json::Map::new();
    for item in items {
        if let Item::Metadata(key, value) = item {
            facts.insert(key.clone(), value.clone());
        }
    }
    facts
}

fn problems(items: &[Item]) -> Vec<&str> {
    items
        .iter()
        .filter_map(|item| {
            if let Item::Problem(text) = item {
                Some(text.as_str())
            } else {
                None
            }
        })
        .collect()
}

/// The content of the file `wanted`.
fn file(items: &[Item], wanted: &str) -> Option<String> {
    let mut found: Option<Vec<u8>> = None;
    let mut inside = false;
    for item in items {
        match item {
            Item::File { name, .. } => {
                inside = name == wanted;
                if inside {
                    found = Some(Vec::new());
                }
            }
            Item::Data(data) if inside => found.as_mut().unwrap().extend_from_slice(data),
            Item::Data(_)
            | Item::Test(_)
            | Item::Metric(_)
            | Item::Metadata(..)
            | Item::Problem(_) => {}
        }
    }
    found.map(|bytes| String::from_utf8(bytes).unwrap())
}

fn job() -> LabJob {
    LabJob::new("7")
        .with("build", "42")
        .with("smoke__version", "1.2")
        .log(20)
        .suite(LabSuite::new(
            "0_smoke",
            vec![
                LabTest::new("uname", "pass").logged(3, 4),
                LabTest::new("boot-time", "pass").measured("2.5000000000", "seconds"),
                LabTest::new("odd", "fail").measured("NaN", ""),
                LabTest::new("a/b", "unknown"),
            ],
        ))
        .suite(LabSuite::generated("1_many", 1203))
}

async fn both(job: LabJob) -> (Lab, [Lava; 2]) {
    let lab = Lab::start(vec![job], Vec::new()).await.unwrap();
    lab.require_token("hunter2");
    let lavas =
        [lab.rest_url(), lab.rpc_url()].map(|url| Lava::new(config(&url, quick())).unwrap());
    (lab, lavas)
}

#[tokio::test]
async fn both_interfaces_yield_the_same_whole_result() {
    let (lab, lavas) = both(job()).await;
    let mut seen = Vec::new();
    for lava in &lavas {
        let (outcome, items) = all(lava, "7", &Settings::default()).await;
        let summary = summary(outcome);
        assert_eq!(
            (
                summary.status.as_str(),
                summary.completed,
                summary.can_resubmit
            ),
            ("Complete", true, false)
        );
        assert_eq!(summary.name.as_deref(), Some("test job 7"));
        assert_eq!(tests(&items).len() + metrics(&items).len(), 4 + 1203);
        assert_eq!(problems(&items).len(), 1, "{:?}", problems(&items));
        let facts = facts(&items);
        assert_eq!(
            facts["job_url"],
            json!(format!("{}/scheduler/job/7", lab.url()))
        );
        assert_eq!(
            (&facts["job_id"], &facts["job_status"]),
            (&json!("7"), &json!("Complete"))
        );
        assert_eq!(
            (&facts["build"], &facts["suite_versions"]),
            (&json!("42"), &json!({"smoke": "1.2"}))
        );
        assert!(
            file(&items, "definition.yaml")
                .unwrap()
                .contains("job_name: \"test job 7\"")
        );
        let log = file(&items, "log").unwrap();
        assert_eq!(
            (log.lines().count(), log.lines().next()),
            (18, Some("[    0.000002] line 2 of the device"))
        );
        let uname = tests(&items)
            .into_iter()
            .find(|test| test.name == "uname")
            .unwrap();
        let text = uname.log.as_deref().unwrap();
        assert!(
            text.starts_with(&format!("{}/scheduler/job/7#L3\n", lab.url()))
                && text.lines().count() == 3,
            "{text}"
        );
        let again = all(lava, "7", &Settings::default()).await.1;
        assert!(
            merged(again) == merged(items.clone()),
            "another look sends something else"
        );
        seen.push(
            merged(items)
                .into_iter()
                .filter(|item| !is_time(item))
                .collect::<Vec<_>>(),
        );
    }
    assert!(seen[0] == seen[1]);
}

/// Items with neighbouring data joined: how a body falls into pieces is the network's affair.
fn merged(items: Vec<Item>) -> Vec<Item> {
    let mut out = Vec::new();
    for item in items {
        match (out.last_mut(), item) {
            (Some(Item::Data(before)), Item::Data(data)) => {
                *before = [before.as_ref(), data.as_ref()].concat().into()
            }
            (_, item) => out.push(item),
        }
    }
    out
}

/// The interfaces spell times differently.
fn is_time(item: &Item) -> bool {
    matches!(item, Item::Metadata(key, _) if key.ends_with("_time"))
}

#[tokio::test]
async fn a_page_that_cannot_be_read_fails_the_whole_collection() {
    let (lab, [rest, rpc]) = both(job()).await;
    lab.fail(Fault::new("/suites/3/tests", Effect::Status(500)).after(1));
    let (outcome, _) = all(&rest, "7", &Settings::default()).await;
    assert!(
        matches!(outcome, Err(BackendError::Temporary(_))),
        "{outcome:?}"
    );
    lab.heal();
    lab.fail(Fault::new("/jobs/7/suites/", Effect::Status(500)));
    let (outcome, _) = all(&rest, "7", &Settings::default()).await;
    assert!(
        matches!(outcome, Err(BackendError::Temporary(_))),
        "{outcome:?}"
    );
    lab.heal();
    lab.fail(Fault::new("/RPC2", Effect::Status(502)).after(4));
    let (outcome, _) = all(&rpc, "7", &Settings::default()).await;
    assert!(
        matches!(outcome, Err(BackendError::Temporary(_))),
        "{outcome:?}"
    );
}

#[tokio::test]
async fn each_fault_is_temporary_or_final_as_the_table_says() {
    use Effect::{Break, Cut, Page, RetryAfter, Short, Status};
    let (lab, lavas) = both(job()).await;
    for effect in [
        Status(500),
        Status(503),
        Status(429),
        RetryAfter(503, 3600),
        Page,
        Break(10),
        Short(10),
        Cut(10),
    ] {
        lab.heal();
        lab.fail(Fault::new("/", effect.clone()));
        for lava in &lavas {
            let (outcome, items) = all(lava, "7", &Settings::default()).await;
            assert!(
                matches!(outcome, Err(BackendError::Temporary(_))),
                "{effect:?}: {outcome:?}"
            );
            assert!(items.is_empty());
        }
    }
    for effect in [
        Status(400),
        Status(401),
        Status(403),
        Status(404),
        Status(410),
    ] {
        lab.heal();
        lab.fail(Fault::new("/", effect.clone()));
        for lava in &lavas {
            let (outcome, _) = all(lava, "7", &Settings::default()).await;
            assert!(
                matches!(outcome, Err(BackendError::Final(_))),
                "{effect:?}: {outcome:?}"
            );
        }
    }
    lab.heal();
    lab.require_token("another");
    for lava in &lavas {
        let (outcome, _) = all(lava, "7", &Settings::default()).await;
        let text = outcome.unwrap_err().to_string();
        assert!(
            text.contains("401") && !text.contains("hunter2") && !text.contains("token="),
            "{text}"
        );
    }
}

#[tokio::test]
async fn short_troubles_are_sat_out() {
    let (lab, [rest, rpc]) = both(job()).await;
    for effect in [
        Effect::Status(503),
        Effect::Break(5),
        Effect::RetryAfter(429, 0),
    ] {
        lab.heal();
        for path in ["/jobs/7/", "/jobs/7/suites/", "/jobs/7/logs/", "/RPC2"] {
            lab.fail(Fault::new(path, effect.clone()).times(1));
        }
        // A log that breaks off once it flows is not taken up again in the same collection.
        let (outcome, items) = all(&rest, "7", &Settings::default()).await;
        match (&effect, outcome) {
            (Effect::Break(_), outcome) => {
                assert!(matches!(outcome, Err(BackendError::Temporary(_))))
            }
            (_, outcome) => assert!(summary(outcome).completed && items.len() > 1200),
        }
        assert!(summary(all(&rpc, "7", &Settings::default()).await.0).completed);
    }
    assert!(lab.count("/RPC2") > 10);
}

#[tokio::test]
async fn a_silent_or_dripping_server_is_left() {
    let (lab, _) = both(job()).await;
    let limits = Limits {
        idle: Duration::from_millis(80),
        exchange: Duration::from_millis(300),
        retries: 0,
        ..quick()
    };
    let lava = Lava::new(config(&lab.rest_url(), limits)).unwrap();
    for effect in [
        Effect::Drip(Duration::from_secs(60)),
        Effect::Drip(Duration::from_millis(20)),
        Effect::Delay(Duration::from_secs(60)),
    ] {
        lab.heal();
        lab.fail(Fault::new("/jobs/7/", effect));
        let (outcome, _) = all(&lava, "7", &Settings::default()).await;
        assert!(
            matches!(&outcome, Err(BackendError::Temporary(text)) if text.contains("time limit")),
            "{outcome:?}"
        );
    }
}

#[tokio::test]
async fn a_log_that_ends_early_fails_and_one_that_is_missing_does_not() {
    let (lab, [rest, rpc]) = both(job().log(5000)).await;
    for effect in [Effect::Break(100_000), Effect::Page] {
        lab.heal();
        lab.fail(Fault::new("/log", effect));
        for lava in [&rest, &rpc] {
            let (outcome, _) = all(lava, "7", &Settings::default()).await;
            assert!(
                matches!(outcome, Err(BackendError::Temporary(_))),
                "{outcome:?}"
            );
        }
    }
    lab.heal();
    lab.fail(Fault::new("/log", Effect::Status(404)));
    for lava in [&rest, &rpc] {
        let (outcome, items) = all(lava, "7", &Settings::default()).await;
        assert!(summary(outcome).completed);
        assert!(problems(&items).contains(&"the log is not there"));
        assert!(
            tests(&items)
                .iter()
                .any(|test| test.name == "uname" && test.log.is_none())
        );
    }
}

#[tokio::test]
async fn a_running_job_sends_nothing() {
    let (_lab, lavas) = both(job().in_state("Running", "Unknown")).await;
    for lava in &lavas {
        let (outcome, items) = all(lava, "7", &Settings::default()).await;
        assert_eq!(outcome.unwrap(), Collected::Running("Running".into()));
        assert!(items.is_empty());
    }
}

#[tokio::test]
async fn results_after_an_infrastructure_error_count_only_where_wanted() {
    let (_lab, lavas) = both(job().failed("Infrastructure", "the board is gone")).await;
    let wanted = Settings([("CI_LAVA_WORK_AROUND_INFRA_ERRORS".to_owned(), json!(true))].into());
    for lava in &lavas {
        let (outcome, items) = all(lava, "7", &Settings::default()).await;
        let found = summary(outcome);
        assert_eq!(
            (found.completed, found.can_resubmit, found.status.as_str()),
            (false, true, "Incomplete")
        );
        assert_eq!(
            found.failure.unwrap()["error_msg"],
            json!("the board is gone")
        );
        assert!(
            tests(&items).is_empty() && metrics(&items).is_empty() && file(&items, "log").is_some()
        );
        let (outcome, items) = all(lava, "7", &wanted).await;
        assert!(summary(outcome).completed && tests(&items).len() > 1000);
    }
}

#[tokio::test]
async fn a_canceled_or_empty_job_is_not_completed() {
    let (lab, [rest, _]) = both(job().in_state("Finished", "Canceled")).await;
    let (outcome, items) = all(&rest, "7", &Settings::default()).await;
    let found = summary(outcome);
    assert_eq!(
        (found.status.as_str(), found.completed),
        ("Canceled", false)
    );
    assert!(tests(&items).is_empty());
    lab.put(LabJob::new("8"));
    let found = summary(all(&rest, "8", &Settings::default()).await.0);
    assert_eq!(
        (found.status.as_str(), found.completed, found.can_resubmit),
        ("Complete", false, true)
    );
}

#[tokio::test]
async fn an_attachment_is_streamed_and_a_broken_one_is_no_end() {
    let path = std::env::temp_dir().join(format!("longshore-lab-{}", uuid::Uuid::now_v7()));
    let content = vec![7_u8; 300_000];
    std::fs::write(&path, &content).unwrap();
    let lab = Lab::start(Vec::new(), Vec::new()).await.unwrap();
    let attachment = LabAttachment {
        name: "result.tar.xz".into(),
        path: path.clone(),
        definition: "cts".into(),
        results_format: "aggregated".into(),
        rate: None,
    };
    lab.put(job().attachment(attachment, lab.url()));
    let lava = Lava::new(config(&lab.rest_url(), quick())).unwrap();
    let (_, items) = all(&lava, "7", &Settings::default()).await;
    assert!(
        file(&items, "definition.yaml")
            .unwrap()
            .contains("tradefed.yaml")
    );
    assert!(
        tests(&items)
            .iter()
            .any(|test| test.suite == "cts" && test.name == "test-attachment")
    );

    let reference = format!("{}/attachments/result.tar.xz", lab.url());
    assert_eq!(
        facts(&items)[REFERENCES],
        json!({"cts/test-attachment": reference})
    );
    let mut read = Vec::new();
    lava.open("7", &reference)
        .await
        .unwrap()
        .read_to_end(&mut read)
        .await
        .unwrap();
    assert!(read == content);
    for effect in [Effect::Short(200_000), Effect::Break(200_000)] {
        lab.heal();
        lab.fail(Fault::new("/attachments/", effect));
        let error = lava
            .open("7", &reference)
            .await
            .unwrap()
            .read_to_end(&mut Vec::new())
            .await
            .unwrap_err();
        assert!(matches!(
            crate::testjob::backend::http::read_error(&error),
            BackendError::Temporary(_)
        ));
    }
    lab.heal();
    let missing = lava
        .open("7", &format!("{}/attachments/none", lab.url()))
        .await;
    assert!(matches!(missing, Err(BackendError::Final(_))));
    assert!(matches!(
        lava.open("7", "file:///etc/passwd").await,
        Err(BackendError::Final(_))
    ));
    std::fs::remove_file(path).unwrap();
}

#[tokio::test]
async fn a_token_never_goes_to_another_host() {
    let (lab, _) = both(job()).await;
    let stranger = Lab::start(vec![job()], Vec::new()).await.unwrap();
    stranger.require_token("hunter2");
    lab.fail(Fault::new(
        "/jobs/7/",
        Effect::Redirect(format!(
            "{}api/v0.2/jobs/7/",
            stranger.rest_url().replace("api/v0.2/", "")
        )),
    ));
    let lava = Lava::new(config(&lab.rest_url(), quick())).unwrap();
    let (outcome, _) = all(&lava, "7", &Settings::default()).await;
    assert!(
        matches!(&outcome, Err(BackendError::Final(text)) if text.contains("401")),
        "{outcome:?}"
    );
    assert_eq!(stranger.count("/jobs/7/"), 1);
}

#[test]
fn an_id_is_a_number() {
    for good in ["1", "1234.0", "1234.12"] {
        assert_eq!(JobId::parse(good).unwrap().as_str(), good);
    }
    for bad in [
        "",
        "1/../2",
        "a",
        "1.",
        ".1",
        "1.2.3",
        "1?x",
        "-1",
        "1234567890123456789012",
    ] {
        assert!(
            matches!(JobId::parse(bad), Err(BackendError::Final(_))),
            "{bad}"
        );
    }
}

#[tokio::test]
async fn a_closed_sink_stops_the_collection() {
    let (_lab, [rest, _]) = both(job()).await;
    let (out, items) = mpsc::channel(1);
    drop(items);
    let outcome = rest.collect("7", &Settings::default(), &out).await;
    assert!(matches!(outcome, Err(BackendError::Stopped)));
}
