//! Commands as the tasks of a gate: what they are told, and what a probe of theirs says.

use super::*;

/// A publication that ends badly after its effect, once the next entry has been tested.
const GATE: &str = r#"
[gates.g]
publish = "g.publish"
verify = "g.verify"
probe = "g.probe"
tests.build = { task = "g.build", provides = ["deb"] }
tests.install = { task = "g.install", after = ["build"], requires = ["deb"] }
[exec."g.build"]
command = ["./build.sh", "{name}"]
dir = "."
[exec."g.install"]
command = ["./install.sh", "{name}"]
dir = "."
[exec."g.publish"]
command = ["./publish.sh", "{name}"]
dir = "."
[exec."g.probe"]
command = ["./probe.sh", "{name}"]
dir = "."
[exec."g.verify"]
command = ["grep", "-qx", "{name}", "index"]
dir = "."
"#;

on_both_with!("";
    a_gate_of_commands_tests_on_what_is_staged_and_finds_what_a_bad_end_has_published,
);

async fn a_gate_of_commands_tests_on_what_is_staged_and_finds_what_a_bad_end_has_published(
    scene: Arc<Scene>,
) {
    let config = std::fs::read_to_string(&scene.config).unwrap();
    std::fs::write(&scene.config, config + GATE).unwrap();
    scene.program(
        "build.sh",
        r#"cp "$LONGSHORE_ARGS" "$1.build"; result "$1.deb""#,
    );
    scene.program(
        "install.sh",
        r#"cp "$LONGSHORE_ARGS" "new.$1"; mv "new.$1" "$1.install""#,
    );
    // The first one waits until the second is tested on top of it.
    scene.program(
        "publish.sh",
        r#"await b.install; echo "$1" >> index; [ "$1" = b ] || exit 1"#,
    );
    scene.program(
        "probe.sh",
        r#"if grep -qsx "$1" index; then result done; else result absent; fi; touch "$1.probed""#,
    );
    let file = scene.bench.folder.join("entries.json");
    let entry = |name: &str| json!({ "id": name, "kwargs": { "name": name } });
    let entries = json!({ "entries": [entry("a"), entry("b")] });
    std::fs::write(&file, entries.to_string()).unwrap();
    let (file, config) = (file.to_str().unwrap(), scene.config.to_str().unwrap());
    let arguments = ["gate", "enqueue", "g", "--file", file, "--config", config];
    let output = crate::harness::run(&arguments).await;
    assert!(output.status.success(), "{output:?}");
    let _worker = scene.worker("fetch");
    let ended = async || scene.bench.store.gate_ended("g", 10).await.unwrap();
    wait_until("both have ended", 2 * LIMIT, async || {
        ended().await.len() == 2
    })
    .await;
    for (entry, _when) in ended().await {
        assert_eq!(entry.state.as_str(), "published", "{entry:?}");
    }
    // Once each, in order, and the bad end is looked at.
    assert_eq!(scene.wrote("index").as_deref(), Some("a\nb\n"));
    assert!(scene.wrote("a.probed").is_some() && scene.wrote("b.probed").is_none());
    let told = |name: &str| -> Value {
        let text = scene.wrote(name).unwrap();
        serde_json::from_str::<Value>(&text).unwrap()["kwargs"]["gate"].clone()
    };
    let built = told("b.build");
    assert_eq!(
        (&built["entry"], &built["test"], &built["base"][0]["entry"]),
        (&json!("b"), &json!("build"), &json!("a"))
    );
    assert_eq!(built["base"][0]["kwargs"], json!({ "name": "a" }));
    let installed = told("b.install");
    assert_eq!(installed["results"]["build"], json!("b.deb"));
    assert_eq!(
        installed["artifacts"],
        json!([{ "entry": "a", "test": "build", "provides": "deb", "result": "a.deb" }])
    );
}
