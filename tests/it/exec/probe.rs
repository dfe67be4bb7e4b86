//! A worker that dies between a command's effect and the commit that says so, and what is staged before it.

use super::*;

/// Has its effect, a line in a file, whatever there is already.
const EFFECT: &str =
    r#"echo "$LONGSHORE_EPOCH $LONGSHORE_PROBE" >> effects; result "$LONGSHORE_PROBE""#;

/// Ends a worker at `point` of the first attempt, and lets another settle the task.
async fn ends_at(scene: &Scene, point: &str) {
    scene.demo("1").await;
    let mut doomed = scene.doomed("fetch", point);
    let status = doomed.ended(2 * LIMIT).await;
    assert!(!status.success(), "{point} was never reached");
}

on_both_with!("";
    an_effect_that_is_there_is_not_repeated,
    an_effect_that_is_not_there_comes_once,
);

async fn an_effect_that_is_there_is_not_repeated(scene: Arc<Scene>) {
    scene.script(EFFECT, "probe = ['./probe.sh']");
    scene.program("probe.sh", "[ -e effects ] || exit 10; result found");
    ends_at(&scene, "settle:ready").await;
    assert_eq!(scene.wrote("effects").as_deref(), Some("1 \n"));
    let _heir = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.wrote("effects").as_deref(), Some("1 \n"), "once");
    assert_eq!(scene.result("1").await, json!("found"));
}

async fn an_effect_that_is_not_there_comes_once(scene: Arc<Scene>) {
    scene.script(EFFECT, "probe = ['./probe.sh']");
    scene.program("probe.sh", "[ -e effects ] || exit 10");
    ends_at(&scene, "intake:claimed").await;
    let _heir = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.wrote("effects").as_deref(), Some("2 absent\n"));
}

async fn a_part_of_an_effect_is_told_to_the_command(scene: Arc<Scene>) {
    scene.script(EFFECT, "probe = ['./probe.sh']");
    scene.program("probe.sh", "exit 11");
    ends_at(&scene, "settle:ready").await;
    let _heir = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    let effects = scene.wrote("effects");
    assert_eq!(effects.as_deref(), Some("1 \n2 partial\n"));
    assert_eq!(scene.result("1").await, json!("partial"));
}

async fn without_a_probe_the_command_runs_again(scene: Arc<Scene>) {
    scene.script(EFFECT, "");
    ends_at(&scene, "settle:ready").await;
    let _heir = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.wrote("effects").as_deref(), Some("1 \n2 \n"));
}

async fn a_probe_that_fails_is_asked_again_and_the_command_is_not_repeated(scene: Arc<Scene>) {
    scene.script(
        EFFECT,
        "probe = ['./probe.sh']\n[tasks.demo]\nattempts = 3\n",
    );
    scene.program("probe.sh", "echo 'no index' >&2; exit 1");
    ends_at(&scene, "settle:ready").await;
    let _heir = scene.worker("fetch");
    scene.task_reaches("1", State::Dead).await;
    let view = scene.bench.view("1").await;
    assert_eq!(view.failures, 3);
    let reason = view.reason.unwrap();
    assert!(
        reason.contains("the probe does not know: it ended with exit code 1"),
        "{reason}"
    );
    assert!(reason.contains("no index"), "{reason}");
    assert_eq!(scene.wrote("effects").as_deref(), Some("1 \n"));
    // Once the probe is well again, it is settled by hand.
    scene.program("probe.sh", "grep -q 1 effects");
    scene.verb(&["task", "retry", "1"]).await;
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.wrote("effects").as_deref(), Some("1 \n"));
}

async fn what_is_staged_is_staged_once_unless_the_command_fails(scene: Arc<Scene>) {
    scene.script(
        r#"
        echo "$LONGSHORE_EPOCH" >> commands
        case $LONGSHORE_EPOCH in
            1) sleep 1000;;
            2) exit 75;;
            *) result "$(cat staged | tr '\n' ' ')after $(saved)";;
        esac"#,
        "stage = ['./stage.sh']",
    );
    scene.program("stage.sh", "save files; echo $LONGSHORE_EPOCH >> staged");
    let mut first = scene.worker("fetch");
    scene.demo("1").await;
    scene.writes("commands").await;
    first.signal("KILL");
    first.ended(LIMIT).await;
    let _second = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.result("1").await, json!("1 3 after files"));
}

async fn a_stage_that_fails_fails_the_task(scene: Arc<Scene>) {
    scene.script(EFFECT, "stage = ['./stage.sh']");
    scene.program("stage.sh", "echo 'no such file' >&2; exit 2");
    let _worker = scene.worker("fetch");
    scene.demo("1").await;
    scene.task_reaches("1", State::Dead).await;
    let reason = scene.bench.view("1").await.reason.unwrap();
    assert!(
        reason.contains("the stage failed: it ended with exit code 2"),
        "{reason}"
    );
    assert_eq!(scene.wrote("effects"), None);
}

macro_rules! on_sqlite {
    ($($name:ident),+ $(,)?) => {
        mod sqlite {
            $(#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
            async fn $name() {
                $crate::scene::scene($crate::harness::BackEnd::Sqlite, "", super::$name).await;
            })+
        }
    };
}
pub(super) use on_sqlite;

on_sqlite!(
    a_part_of_an_effect_is_told_to_the_command,
    without_a_probe_the_command_runs_again,
    a_probe_that_fails_is_asked_again_and_the_command_is_not_repeated,
    what_is_staged_is_staged_once_unless_the_command_fails,
    a_stage_that_fails_fails_the_task,
);
