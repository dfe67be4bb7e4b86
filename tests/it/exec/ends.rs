//! How commands end, and what that is to their tasks.

use super::probe::on_sqlite;
use super::*;

on_sqlite!(
    exit_codes_are_success_retry_or_failure,
    a_program_that_is_not_there_is_said_so,
    a_command_may_end_by_itself_while_its_worker_drains,
    a_command_that_hears_nothing_is_killed_in_time_for_a_hand_off,
    a_command_that_runs_too_long_is_told_and_killed_with_all_it_started,
    what_a_command_leaves_behind_ends_with_it,
    a_flood_of_output_is_bounded_and_its_end_is_kept,
    a_result_that_is_no_json_fails_the_task,
    a_canceled_command_is_killed,
    a_command_whose_guard_is_killed_is_killed_too,
);

async fn exit_codes_are_success_retry_or_failure(scene: Arc<Scene>) {
    scene.script(
        "case $1 in dies) kill -9 $$;; *) exit \"$1\";; esac",
        "command = ['./demo.sh', '{code}']\nsuccess = [0, 4]\n[tasks.demo]\nattempts = 2\n",
    );
    let _worker = scene.worker("fetch");
    for (code, state, failures, reason) in [
        ("0", State::Done, 0, None),
        ("4", State::Done, 0, None),
        ("1", State::Dead, 1, Some("exit code 1")),
        ("127", State::Dead, 1, Some("exit code 127")),
        ("75", State::Dead, 2, Some("exit code 75 (attempt 2 of 2)")),
        ("dies", State::Dead, 2, Some("signal 9")),
    ] {
        let task = Task::new("demo", QUEUE).with_id(code).with("code", code);
        scene.enqueue(&[task]).await;
        scene.task_reaches(code, state).await;
        let view = scene.bench.view(code).await;
        assert_eq!(view.failures, failures, "{code}: {view:?}");
        let said = view.reason.unwrap_or_default();
        assert!(said.contains(reason.unwrap_or("")), "{code}: {said}");
    }
}

async fn a_program_that_is_not_there_is_said_so(scene: Arc<Scene>) {
    let rest = "command = ['no-such-program']\n[tasks.demo]\nattempts = 1\n";
    scene.script("", rest);
    let _worker = scene.worker("fetch");
    scene.demo("1").await;
    scene.task_reaches("1", State::Dead).await;
    let reason = scene.bench.view("1").await.reason.unwrap();
    assert!(
        reason.contains("the command cannot be started: \"no-such-program\": No such file"),
        "{reason}"
    );
}

async fn a_command_may_end_by_itself_while_its_worker_drains(scene: Arc<Scene>) {
    scene.script(
        "trap 'echo told > told' TERM; echo > begun; await go; result 'in time'",
        "grace = '1s'",
    );
    let mut worker = scene.worker("fetch");
    scene.demo("1").await;
    scene.writes("begun").await;
    worker.signal("TERM");
    worker.said("drain begun", LIMIT).await;
    scene.touch("go");
    let status = worker.ended(GRACE).await;
    assert_eq!(status.code(), Some(0), "{}", worker.log());
    let view = scene.bench.view("1").await;
    assert_eq!((view.state, view.interruptions), (State::Done, 0));
    assert_eq!(scene.wrote("told"), None, "there was time");
}

async fn a_command_that_hears_nothing_is_killed_in_time_for_a_hand_off(scene: Arc<Scene>) {
    scene.script(
        r#"
        if [ "$LONGSHORE_EPOCH" -gt 1 ]; then result "$(saved)"; exit 0; fi
        trap 'save told' TERM
        echo $$ > pids
        while :; do sleep 1000 & wait || :; done"#,
        "grace = '3s'",
    );
    let first = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    stop(first).await;
    assert!(!pids.lines().any(runs));
    let _second = scene.worker("fetch");
    scene.task_reaches("1", State::Done).await;
    assert_eq!(
        scene.result("1").await,
        json!("told"),
        "what it saved after SIGTERM is kept"
    );
}

async fn a_command_that_runs_too_long_is_told_and_killed_with_all_it_started(scene: Arc<Scene>) {
    scene.script(
        r#"
        trap 'echo told >> told' TERM
        sleep 1000 &
        pids $$ $!
        while :; do sleep 1000 & wait || :; done"#,
        "time_limit = '1s'\ngrace = '1s'\n[tasks.demo]\nattempts = 1\n",
    );
    let _worker = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    scene.task_reaches("1", State::Dead).await;
    gone(&pids).await;
    let reason = scene.bench.view("1").await.reason.unwrap();
    assert!(
        reason.contains("it ran longer than its time limit of 1s"),
        "{reason}"
    );
    assert_eq!(
        scene.wrote("told").as_deref(),
        Some("told\n"),
        "SIGTERM first"
    );
}

async fn what_a_command_leaves_behind_ends_with_it(scene: Arc<Scene>) {
    scene.script("sleep 1000 & echo $! > pids", "");
    let _worker = scene.worker("fetch");
    scene.demo("1").await;
    scene.task_reaches("1", State::Done).await;
    gone(&scene.writes("pids").await).await;
}

async fn a_flood_of_output_is_bounded_and_its_end_is_kept(scene: Arc<Scene>) {
    scene.script(
        r"
        head -c 1000000 /dev/zero | tr '\0' x; echo
        yes 'the same line again and again' | head -n 300000
        yes '' | head -n 1000000
        echo 'the last line' >&2
        exit 3",
        "log_limit = '64KiB'",
    );
    let worker = scene.worker("fetch");
    scene.demo("1").await;
    scene.task_reaches("1", State::Dead).await;
    let reason = scene.bench.view("1").await.reason.unwrap();
    assert!(reason.contains("the last line"), "{reason}");
    assert!(reason.len() < 4096, "{} bytes", reason.len());
    worker.said("more output than log_limit", LIMIT).await;
    let log = worker.log();
    assert!(log.len() < 512 * 1024, "{} bytes of log", log.len());
    assert!(log.contains("the same line again"));
}

async fn a_result_that_is_no_json_fails_the_task(scene: Arc<Scene>) {
    scene.script("echo nothing > \"$LONGSHORE_RESULT\"", "");
    let _worker = scene.worker("fetch");
    scene.demo("1").await;
    scene.task_reaches("1", State::Dead).await;
    let reason = scene.bench.view("1").await.reason.unwrap();
    assert!(reason.contains("holds no JSON"), "{reason}");
}

async fn a_canceled_command_is_killed(scene: Arc<Scene>) {
    scene.script("sleep 1000 & pids $$ $!; wait", "");
    let _worker = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    scene.verb(&["task", "cancel", "1"]).await;
    scene.task_reaches("1", State::Canceled).await;
    gone(&pids).await;
}

async fn a_command_whose_guard_is_killed_is_killed_too(scene: Arc<Scene>) {
    scene.script(
        r#"
        if [ "$LONGSHORE_EPOCH" -gt 1 ]; then exit 0; fi
        sleep 1000 & pids $$ $! $PPID; wait"#,
        "",
    );
    let _worker = scene.worker("fetch");
    scene.demo("1").await;
    let pids = scene.writes("pids").await;
    let guard = pids.lines().last().unwrap();
    let killed = std::process::Command::new("kill")
        .args(["-9", guard])
        .status();
    assert!(killed.unwrap().success());
    gone(&pids).await;
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.bench.view("1").await.failures, 1);
}
