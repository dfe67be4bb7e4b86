//! What a message can do to a command, and what a command sees of its worker.

use super::probe::on_sqlite;
use super::*;

on_sqlite!(
    a_value_is_one_argument_whatever_is_in_it,
    a_value_that_could_be_an_option_is_refused_before_anything_runs,
    a_command_sees_nothing_of_its_workers_environment,
    what_is_no_placeholder_is_in_a_file,
    a_program_is_found_from_a_configuration_with_a_relative_path,
    a_name_that_is_built_in_is_refused,
);

async fn a_value_is_one_argument_whatever_is_in_it(scene: Arc<Scene>) {
    scene.script(
        "for argument; do printf '%s\\0' \"$argument\"; done > arguments; echo >> arguments",
        "command = ['./demo.sh', '{a}', '--b={b}', '{c:any}']",
    );
    let _worker = scene.worker("fetch");
    let hostile = "a b\n\"'`touch pwned` $(touch pwned) ; touch pwned & {b} * ~ é";
    let task = Task::new("demo", QUEUE)
        .with_id("1")
        .with("a", hostile)
        .with("b", "-x y")
        .with("c", "-rf");
    // One that is embedded must not begin with a dash either: nobody knows what it is put together to.
    scene.enqueue(std::slice::from_ref(&task)).await;
    scene.task_reaches("1", State::Dead).await;
    scene.enqueue(&[task.with_id("2").with("b", "x --y")]).await;
    scene.task_reaches("2", State::Done).await;
    let want = format!("{hostile}\0--b=x --y\0-rf\0\n");
    assert_eq!(scene.wrote("arguments"), Some(want));
    assert_eq!(scene.wrote("pwned"), None);
}

async fn a_value_that_could_be_an_option_is_refused_before_anything_runs(scene: Arc<Scene>) {
    scene.script(
        "echo >> ran",
        "command = ['./demo.sh', '{a}']\nstage = ['./demo.sh']",
    );
    let _worker = scene.worker("fetch");
    let values = [
        (json!("-rf"), "begins with \"-\""),
        (json!(""), "is empty"),
        (json!("a\0b"), "NUL"),
        (json!("a".repeat(70_000)), "more than 65536 bytes"),
        (json!(["a", "b"]), "a list"),
        (Value::Null, "null"),
    ];
    for (at, (value, what)) in values.into_iter().enumerate() {
        let id = at.to_string();
        let task = Task::new("demo", QUEUE).with_id(&id).with("a", value);
        scene.enqueue(&[task]).await;
        scene.task_reaches(&id, State::Dead).await;
        let view = scene.bench.view(&id).await;
        let reason = view.reason.unwrap();
        assert!(reason.contains(what), "{what}: {reason}");
        assert_eq!(view.failures, 1, "another attempt would fail the same");
    }
    scene.demo("none").await;
    scene.task_reaches("none", State::Dead).await;
    let reason = scene.bench.view("none").await.reason.unwrap();
    assert!(reason.contains("no named argument \"a\""), "{reason}");
    assert_eq!(scene.wrote("ran"), None);
}

async fn a_command_sees_nothing_of_its_workers_environment(scene: Arc<Scene>) {
    scene.script(
        "env > environment; echo >> environment",
        "pass_env = ['WANTED', 'NOT_THERE']\nenv = { GIVEN = 'a b' }",
    );
    let config = scene.config.to_str().unwrap();
    let _worker = Child::start(
        &scene.bench.folder,
        &["run", "--pool", "fetch", "--config", config],
        &[
            ("LONGSHORE__KUBERNETES__KUBECONFIG", "s3cret"),
            ("SECRET", "s3cret"),
            ("WANTED", "this"),
        ],
    );
    // A message says nothing of programs, folders and variables, whatever it says.
    let task = Task::new("demo", QUEUE)
        .with_id("1")
        .with("command", json!(["touch", "pwned"]))
        .with("dir", "/")
        .with("env", json!({ "LD_PRELOAD": "x" }));
    scene.enqueue(&[task]).await;
    scene.task_reaches("1", State::Done).await;
    let environment = scene.writes("environment").await;
    let names: Vec<&str> = environment
        .lines()
        .filter_map(|line| Some(line.split_once('=')?.0))
        .filter(|name| !["PATH", "PWD", "OLDPWD", "SHLVL", "_"].contains(name))
        .filter(|name| !name.starts_with("LONGSHORE_"))
        .collect();
    assert_eq!(names.len(), 2, "{environment}");
    assert!(environment.contains("GIVEN=a b\n") && environment.contains("WANTED=this\n"));
    assert!(!environment.contains("s3cret"), "{environment}");
    assert!(!environment.contains("LONGSHORE__"), "{environment}");
    for said in [
        "LONGSHORE_TASK_ID=1\n",
        "LONGSHORE_TASK=demo\n",
        "LONGSHORE_ATTEMPT=1\n",
        "LONGSHORE_EPOCH=1\n",
        "LONGSHORE_TOKEN=1\n",
        "LONGSHORE_PHASE=command\n",
    ] {
        assert!(environment.contains(said), "{said}: {environment}");
    }
    assert_eq!(scene.wrote("pwned"), None);
}

async fn what_is_no_placeholder_is_in_a_file(scene: Arc<Scene>) {
    scene.script("cat \"$LONGSHORE_ARGS\" > \"$LONGSHORE_RESULT\"", "");
    let _worker = scene.worker("fetch");
    let mut task = Task::new("demo", QUEUE)
        .with_id("1")
        .with("packages", json!(["a", "b c"]));
    task.args = vec![json!(1)];
    scene.enqueue(&[task]).await;
    scene.task_reaches("1", State::Done).await;
    let want = json!({ "args": [1], "kwargs": { "packages": ["a", "b c"] } });
    assert_eq!(scene.result("1").await, want);
}

async fn a_program_is_found_from_a_configuration_with_a_relative_path(scene: Arc<Scene>) {
    scene.script("result here", "probe = ['./demo.sh']");
    scene.configure("dir = \".\"\n", "");
    let up = std::env::current_dir().unwrap();
    let up = "../".repeat(up.components().count() - 1);
    let config = format!(
        "{up}{}",
        scene.config.to_str().unwrap().trim_start_matches('/')
    );
    let _worker = Child::worker(&scene.bench.folder, config.as_ref(), "fetch");
    scene.demo("1").await;
    scene.task_reaches("1", State::Done).await;
    assert_eq!(scene.result("1").await, json!("here"));
}

async fn a_name_that_is_built_in_is_refused(scene: Arc<Scene>) {
    scene.script("", "");
    scene.configure("[exec.demo]", "[exec.\"testjob.fetch\"]");
    let mut worker = scene.worker("fetch");
    let status = worker.ended(LIMIT).await;
    assert_eq!(status.code(), Some(2), "{}", worker.log());
    assert!(worker.log().contains("built in"), "{}", worker.log());
}
