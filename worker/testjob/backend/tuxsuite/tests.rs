//! The TuxSuite backend against a few canned answers.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use serde_json::json;
use tokio::sync::mpsc;
use tokio_util::task::TaskTracker;

use super::*;
use crate::testjob::item::Item;

/// Serves `answers` by path; `BASE` in them becomes the server's address. Any other path is a 404.
async fn serve(answers: &[(&str, Value)]) -> TuxSuite {
    let listener = tokio::net::TcpListener::bind((Ipv4Addr::LOCALHOST, 0))
        .await
        .unwrap();
    let base = format!("http://{}", listener.local_addr().unwrap());
    let answers: BTreeMap<String, String> = answers
        .iter()
        .map(|(path, answer)| {
            let text = answer
                .as_str()
                .map_or_else(|| answer.to_string(), str::to_owned);
            ((*path).to_owned(), text.replace("BASE", &base))
        })
        .collect();
    let router = Router::new().fallback(answer).with_state(Arc::new(answers));
    TaskTracker::new().spawn(async move { axum::serve(listener, router).await });
    let limits = Limits {
        retries: 0,
        retry_delay: Duration::from_millis(1),
        ..Limits::default()
    };
    let url = Url::parse(&base).unwrap();
    TuxSuite::new(TuxSuiteConfig {
        url,
        token: Some(Secret::new("t0ken")),
        limits,
        log_limit: 1 << 20,
    })
    .unwrap()
}

async fn answer(
    State(answers): State<Arc<BTreeMap<String, String>>>,
    request: Request,
) -> (StatusCode, String) {
    if request
        .headers()
        .get("authorization")
        .is_none_or(|token| token != "t0ken")
    {
        return (StatusCode::UNAUTHORIZED, String::new());
    }
    match answers.get(request.uri().path()) {
        Some(text) if text == "503" => (StatusCode::SERVICE_UNAVAILABLE, String::new()),
        Some(text) => (StatusCode::OK, text.clone()),
        None => (
            StatusCode::NOT_FOUND,
            "{\"error\": \"not found\"}".to_owned(),
        ),
    }
}

async fn all(suite: &TuxSuite, id: &str) -> (Result<Collected, BackendError>, Vec<Item>) {
    let settings = Settings([("TEST_BUILD_METADATA_KEYS".to_owned(), json!(["toolchain"]))].into());
    let (out, mut items) = mpsc::channel(1000);
    let outcome = suite.collect(id, &settings, &out).await;
    drop(out);
    let mut found = Vec::new();
    while let Some(item) = items.recv().await {
        found.push(item);
    }
    (outcome, found)
}

fn results(items: &[Item]) -> Vec<String> {
    let lines = items.iter().filter_map(|item| match item {
        Item::Test(test) => Some(format!(
            "{}/{} {:?} {}",
            test.suite,
            test.name,
            test.result,
            test.log.is_some()
        )),
        Item::Metric(metric) => Some(format!("{}/{} {}", metric.suite, metric.name, metric.value)),
        Item::Metadata(..) | Item::File { .. } | Item::Data(_) | Item::Problem(_) => None,
    });
    lines.collect()
}

fn done(outcome: Result<Collected, BackendError>) -> Summary {
    match outcome {
        Ok(Collected::Done(summary)) => summary,
        other => panic!("{other:?}"),
    }
}

fn build(status: &str) -> Value {
    json!({
        "state": "finished", "build_status": status, "warnings_count": 3, "retry": 0,
        "toolchain": "gcc-13", "kconfig": ["defconfig", "CONFIG_X=y"],
        "download_url": "BASE/files/", "tuxmake_metadata": {"results": {"duration": {"build": 61.5}}},
    })
}

#[tokio::test]
async fn a_build_is_a_test_and_two_metrics() {
    let suite = serve(&[
        ("/groups/g/projects/p/builds/u1", build("pass")),
        ("/files/build.log", json!("make\ndone\n")),
        ("/files/config", json!("CONFIG_X=y")),
        ("/files/metadata.json", json!({"arch": "arm64"})),
    ])
    .await;
    let (outcome, items) = all(&suite, "BUILD:g@p#u1").await;
    let summary = done(outcome);
    let name = "gcc-13-defconfig-e9ee253b";
    assert_eq!(summary.name.as_deref(), Some(name));
    assert_eq!(
        (summary.status.as_str(), summary.completed),
        ("Complete", true)
    );
    let expected = [
        format!("build/{name} Pass false"),
        format!("build/{name}-warnings 3"),
        format!("build/{name}-duration 61.5"),
    ];
    assert_eq!(results(&items), expected);
    let files: Vec<_> = items
        .iter()
        .filter_map(|item| {
            if let Item::File { name, .. } = item {
                Some(name.as_str())
            } else {
                None
            }
        })
        .collect();
    assert_eq!(files, ["log", "config"]);
    assert!(items.contains(&Item::Metadata("arch".into(), json!("arm64"))));
}

#[tokio::test]
async fn a_build_that_tuxsuite_gave_up_is_incomplete() {
    let suite = serve(&[("/groups/g/projects/p/builds/u1", build("error"))]).await;
    let (outcome, items) = all(&suite, "BUILD:g@p#u1").await;
    assert_eq!(done(outcome).status, "Incomplete");
    assert_eq!(
        results(&items),
        ["build/gcc-13-defconfig-e9ee253b Skip false"]
    );
}

fn test(result: &str, boot: &str) -> Value {
    json!({
        "state": "finished", "result": result, "results": {"boot": boot, "ltp": result}, "tests": ["boot", "ltp"],
        "waiting_for": "TEST#s1", "test_name": "arm64-ltp", "uid": "t1", "download_url": "BASE/files",
    })
}

#[tokio::test]
async fn a_test_finds_its_build_and_its_logs() {
    let suite = serve(&[
        ("/groups/g/projects/p/tests/t1", test("fail", "pass")),
        ("/groups/g/projects/p/tests/s1", json!({"waiting_for": "BUILD#u1"})),
        ("/groups/g/projects/p/builds/u1", build("pass")),
        ("/groups/g/projects/p/tests/t1/results", json!({
            "0_ltp": {"a": {"result": "pass", "starttc": "1", "endtc": 2}, "b": {"result": "fail"}, "c": {}},
        })),
        ("/files/lava-logs.yaml", json!("- {\"lvl\": \"target\", \"msg\": \"x\"}\n- {\"lvl\": \"info\", \"msg\": \"y\"}\n")),
    ])
    .await;
    let (outcome, items) = all(&suite, "TEST:g@p#t1").await;
    let summary = done(outcome);
    assert_eq!(summary.environment.as_deref(), Some("arm64-ltp"));
    assert_eq!(summary.name.as_deref(), Some("ltp"));
    assert!(summary.failure.is_some());
    let expected = [
        "boot/gcc-13-defconfig-e9ee253b Pass false",
        "ltp/b Fail false",
        "ltp/a Pass true",
    ];
    assert_eq!(results(&items), expected);
    assert!(items.contains(&Item::Data("x\n".into())));
    assert!(items.contains(&Item::Metadata("toolchain".into(), json!("gcc-13"))));
}

#[tokio::test]
async fn what_is_not_there_yet_is_running_and_what_is_not_there_is_final() {
    let suite = serve(&[
        ("/groups/g/projects/p/tests/t1", test("pass", "unknown")),
        (
            "/groups/g/projects/p/tests/t2",
            json!({"state": "provisioning"}),
        ),
        ("/groups/g/projects/p/tests/t3", json!("503")),
    ])
    .await;
    for id in ["TEST:g@p#t1", "TEST:g@p#t2"] {
        let (outcome, items) = all(&suite, id).await;
        assert!(
            matches!(outcome, Ok(Collected::Running(_))) && items.is_empty(),
            "{id}"
        );
    }
    assert!(matches!(
        all(&suite, "TEST:g@p#t3").await.0,
        Err(BackendError::Temporary(_))
    ));
    assert!(matches!(
        all(&suite, "TEST:g@p#t4").await.0,
        Err(BackendError::Final(_))
    ));
}

#[tokio::test]
async fn a_test_without_results_says_why() {
    let none = |waiting: Value| json!({"state": "finished", "results": {}, "tests": ["boot"], "waiting_for": waiting});
    let suite = serve(&[
        ("/groups/g/projects/p/tests/t1", none(Value::Null)),
        ("/groups/g/projects/p/tests/t2", none(json!("BUILD#x"))),
        ("/groups/g/projects/p/tests/t3", none(json!("TEST#x"))),
        ("/groups/g/projects/p/tests/t4", test("canceled", "pass")),
    ])
    .await;
    for (id, status, why) in [
        ("t1", "Complete", "no results"),
        ("t2", "Complete", "build failed"),
        ("t3", "Complete", "sanity test failed"),
        ("t4", "Canceled", "tuxsuite job canceled"),
    ] {
        let (outcome, items) = all(&suite, &format!("TEST:g@p#{id}")).await;
        let summary = done(outcome);
        assert_eq!(
            (summary.status.as_str(), summary.failure),
            (status, Some(json!(why)))
        );
        assert_eq!(results(&items), ["boot/boot Skip false"]);
    }
}

#[test]
fn an_id_is_one_of_three_kinds() {
    let id = JobId::parse("OEBUILD:linaro@my-team#1yPYGaOEPNwr2pCqBgONY43zORq").unwrap();
    assert_eq!(
        (id.kind, id.group.as_str(), id.project.as_str()),
        (Kind::OeBuild, "linaro", "my-team")
    );
    for bad in [
        "",
        "TEST:g#u",
        "TEST:g@p#",
        "TEST:g@p#u/x",
        "POD:g@p#u",
        "TEST:..@p#u",
        "xTEST:g@p#u",
        "TEST:g@p#u\n",
    ] {
        assert!(
            matches!(JobId::parse(bad), Err(BackendError::Final(_))),
            "{bad}"
        );
    }
}
