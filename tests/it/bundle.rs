//! Bundles: the real program follows, fetches, checks and takes over; what others suffered, each case by name.
//!
//! Tasks run a script of one source under a setting of another, so that whatever is mixed shows in what they write.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;

use longshore::store::State;
use longshore::task::Task;
use serde_json::Value;

use crate::harness::{BackEnd, Child, LIMIT, run, run_with, wait_for, wait_until};
use crate::scene::{Scene, on_both_with};

mod arrivals;
mod canary;
mod cases;
mod crew;
mod drift;
mod early;
mod fleet;
mod mounts;
mod processes;
mod restarts;
mod verbs;

pub(crate) const QUEUE: &str = "ci_fetch";

/// Looks are frequent and checks short, so that a test does not wait long for what it is about.
pub(crate) const FOLLOWS: &str = "[bundle]\nname = \"production\"\nfolder = \"kept\"\nlook_every = \"100ms\"\ncheck_limit = \"3s\"\n";

/// Where tests end a worker or a publisher: at the steps of taking over, in publishing, and at the end of a life.
pub(crate) const POINTS: [&str; 11] = [
    "bundle:written",
    "bundle:fetched",
    "bundle:checked",
    "bundle:kept",
    "bundle:adopted",
    "bundle_report:before",
    "bundle_report:after",
    "bundle_change:before",
    "bundle_change:after",
    "bundle_leave:before",
    "bundle_leave:after",
];
/// So many of them are steps of taking over.
const STEPS: usize = 7;

impl Scene {
    fn source(&self, source: &str) -> PathBuf {
        self.bench.folder.join("sources").join(source)
    }

    /// Writes a file of a source.
    fn write(&self, path: &str, text: &str) {
        let path = self.bench.folder.join("sources").join(path);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, text).unwrap();
    }

    /// Three sources that say that they are `number`: what runs, with which argument, and a switch.
    fn three(&self, number: u32) {
        let line = format!("echo \"{number} $1 $(cat number)\" >> \"$2\"\n");
        let wait = "[ -z \"${3-}\" ] || until [ -e \"$3\" ]; do sleep 0.02; done\n";
        self.write("scripts/say.sh", &format!("{line}{wait}{line}"));
        self.write("scripts/number", &number.to_string());
        let out = self.bench.folder.join("said");
        self.write(
            "commands/say.toml",
            &format!(
                "[exec.say]\ncommand = [\"sh\", \"say.sh\", \"{number}\", \"{0}\"]\ndir = \"../scripts\"\n\
                 [exec.wait]\ncommand = [\"sh\", \"say.sh\", \"{number}\", \"{0}\", \"{0}.go\"]\ndir = \"../scripts\"\n",
                out.display()
            ),
        );
        self.write(
            "switches/features.toml",
            &format!("[features]\nnumber-{number} = true\n"),
        );
    }

    async fn config_verb(&self, arguments: &[&str]) -> Output {
        let config = self.config.to_str().unwrap();
        let mut all = vec!["--config", config, "config"];
        all.extend(arguments);
        run(&all).await
    }

    /// Publishes the three sources as they are.
    async fn publish_with(&self, more: &[&str]) -> Output {
        let sources = ["scripts", "commands", "switches"]
            .map(|name| format!("{name}={}", self.source(name).display()));
        let mut arguments = vec!["publish"];
        for source in &sources {
            arguments.extend(["--source", source]);
        }
        arguments.extend(more);
        self.config_verb(&arguments).await
    }

    async fn publish(&self) -> String {
        let told = ok(self.publish_with(&[]).await);
        let revision = told.split_whitespace().nth(1).unwrap();
        revision.to_owned()
    }

    /// How a wait for `revision` ends, and what it says.
    async fn wait(&self, revision: &str, timeout: &str) -> (i32, String) {
        let output = self
            .config_verb(&["wait", revision, "--timeout", timeout])
            .await;
        (
            output.status.code().unwrap(),
            String::from_utf8(output.stdout).unwrap(),
        )
    }

    async fn is_live(&self, revision: &str) {
        let (code, told) = self.wait(revision, "20s").await;
        assert_eq!(code, 0, "{told}");
    }

    async fn status(&self) -> Value {
        let output = self.config_verb(&["status", "--json"]).await;
        serde_json::from_str(&ok(output)).unwrap()
    }

    /// The only worker's report.
    async fn report(&self) -> Value {
        self.status().await["workers"][0]["report"].clone()
    }

    /// Waits until the only worker says so.
    async fn reports(&self, what: &str, mut holds: impl FnMut(&Value) -> bool) -> Value {
        wait_for(what, LIMIT, async || {
            let report = self.report().await;
            holds(&report).then_some(report)
        })
        .await
    }

    fn fetch_worker(&self) -> Child {
        Child::worker(&self.bench.folder, &self.config, "fetch")
    }

    /// Runs the task called `name` to its end, and answers the revision that it ran with.
    async fn runs(&self, name: &str, id: &str) -> Option<String> {
        self.enqueue(&[Task::new(name, QUEUE).with_id(id)]).await;
        self.done(id).await;
        self.revision_of(id).await
    }

    async fn done(&self, id: &str) {
        wait_until("the task is done", LIMIT, async || {
            let view = self.bench.find(id).await;
            view.is_some_and(|view| view.state == State::Done)
        })
        .await;
    }

    async fn revision_of(&self, id: &str) -> Option<String> {
        self.bench.view(id).await.revision
    }

    /// What the tasks have written, a line each.
    fn said(&self) -> Vec<String> {
        let text = std::fs::read_to_string(self.bench.folder.join("said")).unwrap_or_default();
        text.lines().map(ToOwned::to_owned).collect()
    }
}

/// What a verb that succeeded has printed.
fn ok(output: Output) -> String {
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    assert!(output.status.success(), "{error}");
    String::from_utf8(output.stdout).unwrap()
}

fn failed(output: &Output) -> String {
    assert!(!output.status.success());
    String::from_utf8_lossy(&output.stderr).into_owned()
}

on_both_with!(crate::bundle::FOLLOWS;
    from_publishing_to_every_verb_of_an_operator,
);

async fn from_publishing_to_every_verb_of_an_operator(scene: Arc<Scene>) {
    scene.three(1);
    let first = scene.publish().await;
    let (code, _) = scene.wait(&first, "1s").await;
    assert_eq!(code, 6, "nobody follows it");
    let _worker = scene.fetch_worker();
    scene
        .reports("it begins with it", |report| {
            report["applied"] == first.as_str()
        })
        .await;
    assert_eq!(scene.runs("say", "one").await, Some(first.clone()));

    scene.three(2);
    let told = ok(scene.publish_with(&["--dry-run"]).await);
    assert!(
        told.contains("~ switches/features.toml: +features.number-2 -features.number-1")
            || told.contains("~ switches/features.toml: -features.number-1 +features.number-2"),
        "{told}"
    );
    ok(scene
        .config_verb(&[
            "freeze",
            "--reason",
            "a release",
            "--until",
            "1h",
            "--by",
            "ann",
        ])
        .await);
    let second = scene.publish().await;
    let (code, told) = scene.wait(&second, "5s").await;
    assert_eq!(code, 5, "{told}");
    assert_eq!(scene.runs("say", "two").await, Some(first.clone()));
    let (code, _) = scene.wait(&first, "5s").await;
    assert_eq!(code, 4, "superseded");
    ok(scene.config_verb(&["apply-now"]).await);
    scene.is_live(&second).await;
    assert_eq!(scene.runs("say", "three").await, Some(second.clone()));
    ok(scene.config_verb(&["thaw"]).await);
    assert!(failed(&scene.config_verb(&["thaw"]).await).contains("nothing is frozen"));

    let back = ok(scene.config_verb(&["rollback"]).await);
    let back = back.split_whitespace().nth(1).unwrap().to_owned();
    assert!(back != first && back != second, "a new revision");
    scene.is_live(&back).await;
    assert_eq!(scene.runs("say", "four").await, Some(back.clone()));
    assert_eq!(
        scene.said(),
        ["1 1 1"; 4]
            .into_iter()
            .chain(["2 2 2"; 2])
            .chain(["1 1 1"; 2])
            .collect::<Vec<_>>()
    );

    steps_come_first_and_all_is_in_the_log(&scene).await;
}

async fn steps_come_first_and_all_is_in_the_log(scene: &Scene) {
    scene.three(3);
    let third = scene
        .publish_with(&["--requires", "restart the proxy"])
        .await;
    let third = ok(third).split_whitespace().nth(1).unwrap().to_owned();
    let (code, _) = scene.wait(&third, "300ms").await;
    assert_eq!(code, 2, "too late");
    assert!(failed(&scene.config_verb(&["ack", "paint it"]).await).contains("restart the proxy"));
    ok(scene.config_verb(&["ack", "restart the proxy"]).await);
    scene.is_live(&third).await;

    let log: Value =
        serde_json::from_str(&ok(scene.config_verb(&["log", "--json"]).await)).unwrap();
    let whats = log
        .as_array()
        .unwrap()
        .iter()
        .rev()
        .map(|entry| entry["what"].as_str().unwrap())
        .collect::<Vec<_>>();
    assert_eq!(
        whats,
        [
            "published",
            "live",
            "frozen",
            "published",
            "apply now",
            "live",
            "thawed",
            "rolled back",
            "live",
            "published",
            "acknowledged",
            "live"
        ]
    );
    assert_eq!(log[9]["who"], "ann");

    scene.bench.execute("delete from bundle_sources").await;
    let told = failed(&scene.config_verb(&["rollback"]).await);
    assert!(
        told.contains("not kept any more: publish them again"),
        "{told}"
    );
}
