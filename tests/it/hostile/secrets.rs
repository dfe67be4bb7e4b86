//! Secrets: never in a log, an error, the store, or what a verb prints; not when all goes well, and not when the
//! server they are for refuses them.

use std::sync::Arc;

use longshore::store::State;
use reqwest::Method;
use serde_json::json;

use crate::harness::{BackEnd, Child, LIMIT};
use crate::scene::{Scene, on_both_with};

on_both_with!(""; no_secret_is_ever_told);

const TOKEN: &str = "s3cret-token";
const OTHER: &str = "s3cret-other";
const STORE: &str = "s3cret-store";
const BROKER: &str = "s3cret-broker";
/// What all of them have in common.
const SECRET: &str = "s3cret";

/// Gives each of the deployment's servers a secret of its own: from a file, from a variable, in an address.
async fn keep_secrets(scene: &Scene) {
    scene.lab.require_token(TOKEN);
    std::fs::write(scene.bench.folder.join("token"), format!("{TOKEN}\n")).unwrap();
    let lab = "[backends.lab]\n";
    scene.configure(
        lab,
        &format!("{lab}username = \"me\"\ntoken_file = \"token\"\n"),
    );
    let other = format!(
        "[backends.other]\nkind = \"lava\"\nurl = \"{}\"\nusername = \"me\"\ntoken_env = \"OTHER_TOKEN\"\n",
        scene.lab.rpc_url()
    );
    scene.configure(lab, &format!("{other}{lab}"));
    if scene.bench.back_end == BackEnd::Postgres {
        scene.configure(
            "postgres://postgres@",
            &format!("postgres://postgres:{STORE}@"),
        );
    }
    if let Some(bell) = &scene.bell {
        let user = format!("u{}", scene.bench.config.schema);
        let account = json!({ "password": BROKER, "tags": "" });
        bell.api(Method::PUT, &format!("users/{user}"), Some(account))
            .await;
        let all = json!({ "configure": ".*", "write": ".*", "read": ".*" });
        let path = bell
            .permissions_path()
            .replace("/guest", &format!("/{user}"));
        bell.api(Method::PUT, &path, Some(all)).await;
        scene.configure("amqp://guest:guest@", &format!("amqp://{user}:{BROKER}@"));
    }
}

fn worker(scene: &Scene, pool: &str) -> Child {
    let config = scene.config.to_str().unwrap();
    let arguments = ["run", "--pool", pool, "--config", config];
    // All that this program and its HTTP client ever say, not only what is on by default.
    let variables = [
        ("OTHER_TOKEN", OTHER),
        (
            "LONGSHORE_LOG",
            "info,longshore=trace,reqwest=trace,hyper_util=trace,lapin=debug,sqlx=debug",
        ),
    ];
    Child::start(&scene.bench.folder, &arguments, &variables)
}

/// Every text of the store that contains a secret.
async fn told_by_the_store(scene: &Scene) -> Vec<String> {
    if scene.bench.back_end == BackEnd::Sqlite {
        let files = ["store.db", "store.db-wal"].map(|name| scene.bench.folder.join(name));
        let files = files
            .iter()
            .filter_map(|file| Some((file, std::fs::read(file).ok()?)));
        let mut bytes = 0;
        let told = files
            .inspect(|(_, content)| bytes += content.len())
            .filter(|(_, content)| {
                content
                    .windows(SECRET.len())
                    .any(|part| part == SECRET.as_bytes())
            })
            .map(|(file, _)| file.display().to_string())
            .collect();
        assert!(bytes > 0, "there is no store");
        return told;
    }
    let schema = &scene.bench.config.schema;
    let names = format!(
        "select table_name::text from information_schema.tables where table_schema = '{schema}' and table_type = 'BASE TABLE'"
    );
    let mut told = Vec::new();
    let tables = scene.bench.texts(&names).await;
    assert!(tables.len() > 5, "{tables:?}");
    for table in tables {
        let rows = format!("select count(*) from {table} t where t::text like '%{SECRET}%'");
        if scene.bench.number(&rows).await > 0 {
            told.push(table);
        }
    }
    told
}

async fn no_secret_is_ever_told(scene: Arc<Scene>) {
    keep_secrets(&scene).await;
    scene.small_job("7000");
    let workers = [worker(&scene, "fetch"), worker(&scene, "postprocess")];
    let token = [("OTHER_TOKEN", OTHER)];
    let mut said = String::new();
    for arguments in [
        &[
            "enqueue",
            "fetch",
            "--backend",
            "lab",
            "--id",
            "7000",
            "--target",
            "g/p/b/e",
        ][..],
        &[
            "enqueue",
            "fetch",
            "--backend",
            "other",
            "--id",
            "1",
            "--target",
            "g/p/b/e",
        ],
    ] {
        said += &verb(&scene, arguments, &token).await;
    }
    scene.reaches("lab", "7000", "complete").await;
    // Its token is refused: the reason says so, and not which token.
    scene.task_reaches("fetch:other/1", State::Dead).await;
    let reason = scene.bench.view("fetch:other/1").await.reason.unwrap();
    assert!(reason.contains("401"), "{reason}");
    for arguments in [
        &["config", "show"][..],
        &["task", "list", "--json"],
        &["task", "show", "fetch:other/1"],
        &["testjob", "list", "--json"],
        &["testjob", "show", "other/1"],
        &["worker", "list"],
    ] {
        said += &verb(&scene, arguments, &token).await;
    }
    assert!(
        said.contains("***"),
        "config show says that there are secrets:\n{said}"
    );
    for worker in &workers {
        worker.said("worker joined", LIMIT).await;
        said += &worker.log();
    }
    assert!(!said.contains(SECRET), "a secret was told: {}", told(&said));
    for secret in [TOKEN, OTHER, STORE, BROKER] {
        let packed =
            base64::Engine::encode(&base64::prelude::BASE64_STANDARD, format!("me:{secret}"));
        assert!(!said.contains(&packed), "a secret was told in base64");
    }
    let by_store = told_by_the_store(&scene).await;
    assert!(
        by_store.is_empty(),
        "the store holds a secret: {by_store:?}"
    );
}

/// The lines that tell a secret.
fn told(said: &str) -> String {
    said.lines()
        .filter(|line| line.contains(SECRET))
        .collect::<Vec<_>>()
        .join("\n")
}

/// What a verb prints to both of its outputs.
async fn verb(scene: &Scene, arguments: &[&str], variables: &[(&str, &str)]) -> String {
    let mut all = vec!["--config", scene.config.to_str().unwrap()];
    all.extend(arguments);
    let mut child = Child::start(&scene.bench.folder, &all, variables);
    let status = child.ended(LIMIT).await;
    assert!(status.success(), "{arguments:?}: {}", child.log());
    child.log()
}
