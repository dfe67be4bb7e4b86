//! Commands as tasks: the real program, real commands, real signals.

use std::os::unix::fs::PermissionsExt;
use std::sync::Arc;

use longshore::store::State;
use longshore::task::Task;
use serde_json::{Value, json};

use crate::harness::{Child, LIMIT, wait_for, wait_until};
use crate::scene::{GRACE, Scene, on_both_with};

mod ends;
mod gate;
mod input;
mod probe;

pub(crate) const QUEUE: &str = "ci_fetch";

/// What the scripts of these tests begin with.
const HEAD: &str = r#"#!/bin/sh
set -eu
save() { printf %s "$1" > "$LONGSHORE_CHECKPOINT_OUT.new"; mv "$LONGSHORE_CHECKPOINT_OUT.new" "$LONGSHORE_CHECKPOINT_OUT"; }
saved() { cat "$LONGSHORE_CHECKPOINT" 2>/dev/null || echo nothing; }
result() { printf '"%s"' "$1" > "$LONGSHORE_RESULT"; }
pids() { for pid; do echo "$pid"; done > pids.new; mv pids.new pids; }
await() { until [ -e "$1" ]; do sleep 0.05; done; }
"#;

impl Scene {
    /// Lets tasks called `demo` run a script in the test's folder; `rest` is more of its section.
    pub(crate) fn script(&self, script: &str, rest: &str) {
        self.program("demo.sh", script);
        let text = std::fs::read_to_string(&self.config).unwrap();
        let command = if rest.contains("command =") {
            ""
        } else {
            "command = [\"./demo.sh\"]\n"
        };
        let section = format!("\n[exec.demo]\n{command}dir = \".\"\n{rest}\n");
        std::fs::write(&self.config, text + &section).unwrap();
    }

    /// Makes a script in the test's folder.
    fn program(&self, name: &str, script: &str) {
        let path = self.bench.folder.join(name);
        std::fs::write(&path, format!("{HEAD}{script}\n")).unwrap();
        std::fs::set_permissions(&path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// What a script wrote into a file; `None` if nothing yet.
    pub(crate) fn wrote(&self, name: &str) -> Option<String> {
        std::fs::read_to_string(self.bench.folder.join(name)).ok()
    }

    pub(crate) fn touch(&self, name: &str) {
        std::fs::write(self.bench.folder.join(name), "").unwrap();
    }

    /// Waits for what a script writes, whole lines of it.
    pub(crate) async fn writes(&self, name: &str) -> String {
        wait_for(&format!("the script writes {name}"), LIMIT, async || {
            self.wrote(name).filter(|text| text.ends_with('\n'))
        })
        .await
    }

    async fn demo(&self, id: &str) {
        self.enqueue(&[Task::new("demo", QUEUE).with_id(id)]).await;
    }

    async fn result(&self, id: &str) -> Value {
        let view = self.bench.view(id).await;
        serde_json::from_str(&view.result.unwrap_or_default()).unwrap_or_default()
    }

    /// Waits until a checkpoint with `text` in it is durable.
    pub(crate) async fn has_saved(&self, text: &str) {
        let sql = format!("select count(*) from tasks where checkpoint like '%{text}%'");
        wait_until("the checkpoint is durable", LIMIT, async || {
            self.bench.number(&sql).await > 0
        })
        .await;
    }
}

/// Whether a process runs: one that nobody has waited for yet does not.
fn runs(pid: &str) -> bool {
    let status = std::fs::read_to_string(format!("/proc/{}/stat", pid.trim()));
    status.is_ok_and(|status| {
        let state = status.rsplit(')').next().unwrap_or_default().trim_start();
        !state.starts_with(['Z', 'X'])
    })
}

/// Waits until all of the processes whose ids stand in `pids` have ended.
async fn gone(pids: &str) {
    assert!(!pids.trim().is_empty());
    wait_until("its processes are gone", LIMIT, async || {
        !pids.lines().any(runs)
    })
    .await;
}

/// Stops a worker in good order.
pub(crate) async fn stop(mut worker: Child) {
    worker.signal("TERM");
    let status = worker.ended(GRACE).await;
    assert_eq!(status.code(), Some(0), "{}", worker.log());
}

on_both_with!("";
    sigterm_hands_a_command_off_and_another_worker_goes_on_from_its_checkpoint,
    a_killed_worker_takes_its_command_along_and_another_goes_on_from_the_checkpoint,
    nothing_that_a_command_of_a_zombie_writes_is_accepted,
    a_command_of_an_older_epoch_saves_nothing_and_is_killed,
);

/// Saves, says who it is, and waits for ever; its heir says what it found.
const STEPS: &str = r#"
    if [ "$LONGSHORE_EPOCH" -gt 1 ]; then result "went on after $(saved)"; exit 0; fi
    save seven
    sleep 1000 &
    pids $$ $!
    wait"#;

async fn sigterm_hands_a_command_off_and_another_worker_goes_on_from_its_checkpoint(
    scene: Arc<Scene>,
) {
    scene.script(STEPS, "on_drain = 'terminate'");
    let first = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    // The last checkpoint is saved even if it came after the last look.
    stop(first).await;
    assert!(!pids.lines().any(runs), "they ended before their worker");
    let view = scene.bench.view("1").await;
    assert_eq!((view.state, view.interruptions), (State::Queued, 1));
    let _second = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.result("1").await, json!("went on after seven"));
    let view = scene.bench.view("1").await;
    assert_eq!((view.failures, view.crashes), (0, 0), "that was no failure");
}

async fn a_killed_worker_takes_its_command_along_and_another_goes_on_from_the_checkpoint(
    scene: Arc<Scene>,
) {
    scene.script(STEPS, "");
    let mut first = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    scene.has_saved("seven").await;
    assert!(pids.lines().all(runs));
    first.signal("KILL");
    first.ended(LIMIT).await;
    gone(&pids).await;
    let _second = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.result("1").await, json!("went on after seven"));
    assert_eq!(scene.bench.view("1").await.crashes, 1);
}

async fn nothing_that_a_command_of_a_zombie_writes_is_accepted(scene: Arc<Scene>) {
    scene.script(
        r#"
        if [ "$LONGSHORE_EPOCH" -gt 1 ]; then
            echo heir > heir; await end; result "heir after $(saved)"; exit 0
        fi
        save early
        sleep 1000 &
        echo $! > pids
        await late
        save zombie
        result zombie
        echo late > ended"#,
        "",
    );
    let zombie = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    scene.has_saved("early").await;
    scene.bench.freeze(&zombie).await;
    let _heir = scene.worker("fetch");
    scene.writes("heir").await;
    scene.touch("late");
    scene.writes("ended").await;
    zombie.signal("CONT");
    zombie.said("lease is lost", LIMIT).await;
    gone(&pids).await;
    scene.touch("end");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.result("1").await, json!("heir after early"));
    let saved = "select count(*) from tasks where checkpoint like '%zombie%'";
    assert_eq!(scene.bench.number(saved).await, 0);
}

async fn a_command_of_an_older_epoch_saves_nothing_and_is_killed(scene: Arc<Scene>) {
    scene.script(
        r#"
        save early
        sleep 1000 &
        pids $$ $!
        await late
        save zombie
        wait"#,
        "",
    );
    let worker = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    scene.has_saved("early").await;
    // As another claim would, while this worker lives and looks.
    scene
        .bench
        .execute("update tasks set epoch = epoch + 1 where id = '1'")
        .await;
    scene.touch("late");
    worker.said("its lease is lost", LIMIT).await;
    gone(&pids).await;
    let saved = "select count(*) from tasks where checkpoint like '%zombie%'";
    assert_eq!(scene.bench.number(saved).await, 0);
}
