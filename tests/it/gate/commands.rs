//! `longshore gate`, by the real program; the test plays the workers.

use std::path::Path;

use serde_json::{Value, json};

use super::bed::Bed;
use crate::harness::{Bench, Child, LIMIT, on_both, run, wait_for, wait_until};
use crate::program::with_broker;

on_both!(
    a_gate_is_filled_and_shown,
    what_is_held_is_decided_about_by_hand,
    entries_are_moved_and_taken_out_by_hand,
    a_file_of_entries_is_taken_whole_or_refused,
    a_gate_that_somebody_has_to_look_at_is_told_and_counted,
);

const CONFIG: &str = "[pools.fetch]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\n\
    [gates.g]\ntests = [\"unit\"]\npublish = \"publish\"\nverify = \"verify\"\nprobe = \"probe\"\n\
    revert = \"revert\"\nwindow = 3\n";

/// The program, asked about the gate `g`.
struct Program {
    config: String,
}

impl Program {
    /// What a verb prints; it has to be done.
    async fn says(&self, verb: &str, rest: &[&str]) -> String {
        let (code, out, error) = self.ends(verb, rest).await;
        assert_eq!(code, Some(0), "{verb} {rest:?}: {error}");
        out
    }

    /// Why a verb is refused.
    async fn refuses(&self, verb: &str, rest: &[&str]) -> String {
        let (code, out, error) = self.ends(verb, rest).await;
        assert_eq!(
            (code, out.as_str()),
            (Some(2), ""),
            "{verb} {rest:?}: {error}"
        );
        error
    }

    async fn ends(&self, verb: &str, rest: &[&str]) -> (Option<i32>, String, String) {
        let first = ["gate", verb];
        let last = ["--config", &self.config];
        let output = run(&[&first[..], rest, &last[..]].concat()).await;
        let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
        let out = text(&output.stdout).trim_end().to_owned();
        (output.status.code(), out, text(&output.stderr))
    }

    async fn json(&self, verb: &str, rest: &[&str]) -> Value {
        let out = self.says(verb, &[rest, &["--json"]].concat()).await;
        serde_json::from_str(&out).unwrap()
    }

    /// The line of an entry, its words one space apart.
    async fn line(&self, id: &str) -> String {
        let shown = self.says("show", &["g"]).await;
        let words = |line: &str| line.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines = shown.lines().map(words);
        let line = lines.find(|line| line.split(' ').nth(1) == Some(id));
        line.unwrap_or_else(|| panic!("no {id} in {shown}"))
    }
}

async fn with_program<F: Future<Output = ()>>(bench: Bench, test: impl FnOnce(Bed, Program) -> F) {
    with_broker(&bench.clone(), async |broker| {
        let config = bench.write_config(&broker, CONFIG);
        let program = Program {
            config: config.to_str().unwrap().to_owned(),
        };
        test(Bed::new(bench.clone()).await, program).await;
    })
    .await;
}

fn write(bed: &Bed, text: &str) -> String {
    let path = bed.bench.folder.join("entries.json");
    std::fs::write(&path, text).unwrap();
    let path: &Path = path.as_ref();
    path.to_str().unwrap().to_owned()
}

async fn unpublished(bed: &Bed) -> i64 {
    bed.bench.number("select count(*) from outbox").await
}

async fn a_gate_is_filled_and_shown(bench: Bench) {
    with_program(bench, async |bed, program| {
        let error = program.refuses("show", &["g"]).await;
        assert!(error.contains("there is no gate \"g\""), "{error}");
        let error = program.refuses("enqueue", &["other", "a"]).await;
        assert!(error.contains("no [gates.other]; it has g"), "{error}");
        for id in ["a", "b", "c"] {
            program.says("enqueue", &["g", id]).await;
        }
        let arguments = [
            "g",
            "d",
            "--needs",
            "c",
            "--change",
            "x",
            "--kwargs",
            r#"{"n": 1}"#,
        ];
        let out = program.says("enqueue", &arguments).await;
        assert_eq!(out, "d enqueued, 4 in gate g");
        let out = program.says("enqueue", &["g", "b"]).await;
        assert_eq!(out, "b was there already, 2 in gate g");
        // What they begin is announced.
        assert_eq!(unpublished(&bed).await, 0);
        assert!(
            program
                .line("c")
                .await
                .ends_with("1 a@1 b@1 waits for test unit (queued)")
        );
        assert!(program.line("d").await.starts_with("4 d x queued"));
        assert!(program.line("d").await.ends_with("outside the window of 3"));
    })
    .await;
}

async fn what_is_held_is_decided_about_by_hand(bench: Bench) {
    with_program(bench, async |bed, program| {
        for id in ["a", "b"] {
            program.says("enqueue", &["g", id]).await;
        }
        bed.done("a/1/unit").await;
        bed.done("b/1/unit").await;
        bed.done("a/publish/1").await;
        bed.fails("a/verify/1").await;
        let shown = program.says("show", &["g"]).await;
        assert!(shown.starts_with("BLOCKED by a for "), "{shown}");
        let waits = "published, and could not be verified: it does not work";
        assert!(program.line("b").await.contains("behind a (held for "));
        assert!(program.line("b").await.contains(waits));
        assert!(
            program
                .line("a")
                .await
                .ends_with("Decide: retry, revert or accept")
        );
        assert!(program.says("list", &[]).await.contains("by a for "));
        let error = program.refuses("dequeue", &["g", "a"]).await;
        assert!(error.contains("entry a is held"), "{error}");
        // What the played workers announce is nobody's to publish here.
        let before = unpublished(&bed).await;
        assert_eq!(program.says("retry", &["g"]).await, "a is verifying");
        assert_eq!(unpublished(&bed).await, before);
        let error = program.refuses("accept", &["g"]).await;
        assert!(
            error.contains("its first entry, a, is verifying"),
            "{error}"
        );
        bed.fails("a/verify/2").await;
        program.says("hold", &["g", "--reason", "a freeze"]).await;
        assert_eq!(program.says("accept", &["g"]).await, "a is published");
        assert!(program.line("b").await.contains("the gate is on hold for "));
        program.says("release", &["g"]).await;
        assert!(
            program
                .line("b")
                .await
                .ends_with("waits for publish (queued)")
        );
        let error = program.refuses("release", &["g"]).await;
        assert!(error.contains("gate g was not on hold"), "{error}");
    })
    .await;
}

async fn entries_are_moved_and_taken_out_by_hand(bench: Bench) {
    with_program(bench, async |bed, program| {
        for id in ["a", "b", "c"] {
            program.says("enqueue", &["g", id]).await;
        }
        program.says("enqueue", &["g", "d", "--needs", "c"]).await;
        bed.lands("a").await;
        bed.done("b/1/unit").await;
        let out = program.says("promote", &["g", "d"]).await;
        assert!(out.ends_with(": d, c"), "{out}");
        let out = program.says("dequeue", &["g", "c"]).await;
        assert_eq!(out, "dequeued: c, d");
        bed.fails("b/publish/1").await;
        bed.returns("b/probe/1", json!("partial")).await;
        assert_eq!(program.says("revert", &["g"]).await, "b is reverting");
        bed.done("b/revert/1").await;
        let ended = program.json("show", &["g", "--ended"]).await;
        let states = ended.as_array().unwrap().iter();
        let mut states: Vec<&str> = states.map(|it| it["state"].as_str().unwrap()).collect();
        states.sort_unstable();
        assert_eq!(states, ["canceled", "canceled", "failed", "published"]);
        let shown = program.says("show", &["g"]).await;
        assert_eq!(shown, "nothing is in gate g; 1 entries were published");
    })
    .await;
}

async fn a_file_of_entries_is_taken_whole_or_refused(bench: Bench) {
    with_program(bench, async |bed, program| {
        let file = write(
            &bed,
            r#"{"entries": [{"id": "b", "needs": ["a"]}, {"id": "a"}]}"#,
        );
        let out = program.says("enqueue", &["g", "--file", &file]).await;
        assert_eq!(out, "b enqueued, 2 in gate g\na enqueued, 1 in gate g");
        for (text, why) in [
            (
                r#"{"entries": [{"id": "c"}, {"id": "d", "needs": ["nobody"]}]}"#,
                "needs nobody",
            ),
            (r#"{"entries": [{"id": "c"}, {"id": "e/f"}]}"#, "no /"),
            (
                r#"{"entries": [{"id": "c", "kwarg": {}}]}"#,
                "entries.json: no entries: ",
            ),
        ] {
            let file = write(&bed, text);
            let error = program.refuses("enqueue", &["g", "--file", &file]).await;
            assert!(error.contains(why), "{error}");
        }
        let shown = program.json("show", &["g"]).await;
        assert_eq!(shown["entries"].as_array().unwrap().len(), 2);
        assert_eq!(
            shown["entries"][1]["waits_for"],
            json!("waits for test unit (queued)")
        );
        assert_eq!(shown["settings"]["window"]["start"], json!(3));
        // Nobody else makes a task of that name, which the gate would take for its own.
        let config = program.config.as_str();
        let foreign = [
            "enqueue",
            "task",
            "x",
            "--id",
            "gate/g/a/publish/1",
            "--config",
            config,
        ];
        let output = run(&foreign).await;
        assert_eq!(output.status.code(), Some(2), "{output:?}");
    })
    .await;
}

async fn a_gate_that_somebody_has_to_look_at_is_told_and_counted(bench: Bench) {
    with_program(bench, async |bed, program| {
        program.says("enqueue", &["g", "a"]).await;
        bed.done("a/1/unit").await;
        bed.done("a/publish/1").await;
        bed.fails("a/verify/1").await;
        let arguments = ["run", "--pool", "fetch", "--config", &program.config];
        let listen = [("LONGSHORE__HTTP__LISTEN", "127.0.0.1:0")];
        let worker = Child::start(&bed.bench.folder, &arguments, &listen);
        worker.said("gate is blocked", LIMIT).await;
        let address = wait_for("it says where it listens", LIMIT, async || {
            let log = worker.log();
            let (_, rest) = log.split_once("answering probes")?;
            let (_, rest) = rest.split_once("address=")?;
            Some(rest.split_whitespace().next()?.to_owned())
        })
        .await;
        let _installed = rustls::crypto::ring::default_provider().install_default();
        let counted = async |count: u32| {
            let line = format!("longshore_gates_blocked {count}\n");
            let answer = reqwest::get(format!("http://{address}/metrics")).await;
            answer.unwrap().text().await.unwrap().contains(&line)
        };
        wait_until("it is counted", LIMIT, async || counted(1).await).await;
        program.says("accept", &["g"]).await;
        wait_until("it is not any more", LIMIT, async || counted(0).await).await;
    })
    .await;
}
