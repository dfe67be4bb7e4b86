//! The directory backend behind HTTP: a folder of known files, a single file, a file that is not there, a short read.

use std::path::PathBuf;
use std::sync::Arc;

use axum::Router;
use axum::extract::{Request, State};
use axum::http::StatusCode;
use axum::response::IntoResponse;
use longshore::store::State as Task;

use crate::harness::BackEnd;
use crate::scene::{Scene, scene};

/// Serves the files below `root`; 404 for the rest.
async fn serve(root: PathBuf) -> String {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = format!("http://{}/results", listener.local_addr().unwrap());
    let app = Router::new().fallback(file).with_state(root);
    tokio::spawn(async move { axum::serve(listener, app).await.unwrap() });
    address
}

async fn file(State(root): State<PathBuf>, request: Request) -> axum::response::Response {
    let path = request
        .uri()
        .path()
        .trim_start_matches("/results/")
        .to_owned();
    match std::fs::read(root.join(path)) {
        Ok(bytes) => bytes.into_response(),
        Err(_) => StatusCode::NOT_FOUND.into_response(),
    }
}

async fn files_behind_http_are_collected(scene: Arc<Scene>) {
    let root = scene.bench.folder.join("site");
    std::fs::create_dir_all(root.join("builds/7")).unwrap();
    std::fs::write(
        root.join("builds/7/tests.json"),
        r#"{"boot/up": "pass", "boot/wifi": "fail"}"#,
    )
    .unwrap();
    std::fs::write(root.join("builds/7/metrics.json"), r#"{"boot/time": 1.5}"#).unwrap();
    std::fs::write(
        root.join("builds/one.xml"),
        r#"<testsuite name="s"><testcase name="a"/></testsuite>"#,
    )
    .unwrap();
    std::fs::write(
        root.join("builds/cut.xml"),
        r#"<testsuite name="s"><testcase name="a"/>"#,
    )
    .unwrap();
    let url = serve(root).await;
    let text = std::fs::read_to_string(&scene.config).unwrap();
    std::fs::write(&scene.config, format!("{text}\n[backends.web]\nkind = \"directory\"\nurl = \"{url}\"\n[tasks.\"testjob.fetch\"]\nattempts = 2\n")).unwrap();
    let _workers = (scene.worker("fetch"), scene.worker("postprocess"));
    for id in [
        "builds/7",
        "builds/one.xml",
        "builds/none",
        "builds/cut.xml",
    ] {
        scene.fetch("web", id).await;
    }
    let folder = scene.reaches("web", "builds/7", "complete").await;
    assert_eq!((folder.tests, folder.failed, folder.metrics), (2, 1, 1));
    assert_eq!(
        scene
            .reaches("web", "builds/one.xml", "complete")
            .await
            .passed,
        1
    );
    let none = scene.reaches("web", "builds/none", "failed").await;
    assert!(
        none.reason.unwrap().contains("is there"),
        "what was asked for is named"
    );
    // It may have been cut on its way, so it is tried again, and then given up with the reason.
    let cut = scene.reaches("web", "builds/cut.xml", "failed").await;
    assert!(
        cut.reason.as_deref().unwrap().contains("ended too early"),
        "{:?}",
        cut.reason
    );
    assert_eq!(cut.tests, 0, "nothing of it is published");
    let view = scene.bench.view("fetch:web/builds/cut.xml").await;
    assert_eq!((view.state, view.failures), (Task::Dead, 2));
}

mod behind_http {
    use super::*;

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn sqlite() {
        scene(BackEnd::Sqlite, "", files_behind_http_are_collected).await;
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn postgres() {
        scene(BackEnd::Postgres, "", files_behind_http_are_collected).await;
    }
}
