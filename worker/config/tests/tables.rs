//! Tables with a form of their own: plugins, commands, repositories, gates.

use super::*;

#[test]
fn plugins_that_are_programs_can_be_named_by_projects() {
    let text = r#"
[plugins.mine]
command = ["bin/mine", "--fast", "--fast"]
[plugins.theirs]
command = ["theirs"]
[projects."*"]
plugins = ["mine", "theirs", "tradefed"]
[python]
python = "venv/bin/python"
path = ["src"]
memory = "1GiB"
"#;
    let config = good(text);
    assert_eq!(
        config.plugins["mine"].command,
        ["etc/bin/mine", "--fast", "--fast"]
    );
    assert_eq!(config.plugins["theirs"].command, ["theirs"]);
    assert_eq!(config.python.python, Path::new("etc/venv/bin/python"));
    assert_eq!(config.python.path, [Path::new("etc/src")]);
    assert_eq!(good(&config.redacted_toml()).python.memory, Some(1 << 30));
}

#[test]
fn mistakes_in_plugins_are_told() {
    let told = one("[plugins.mine]\ncommand = []\n");
    assert!(told.contains("plugins.mine.command"), "{told}");
    let told = one("[plugins.tradefed]\ncommand = [\"x\"]\n");
    assert!(told.contains("built in"), "{told}");
    let told = one("[plugins.mine]\ncommand = [\"x\"]\n[projects.\"*\"]\nplugins = [\"mind\"]\n");
    assert!(told.contains("did you mean \"mine\"?"), "{told}");
}

#[test]
fn commands_that_run_as_tasks_are_read_and_written() {
    let text = r#"
[exec."apt.sign"]
command = ["bin/sign", "--suite={suite}", "{{{note:any}}}", ""]
probe = ["grep", "-q", "x"]
retry = [75, 100]
on_drain = "terminate"
time_limit = "10m"
env = { GNUPGHOME = "/srv/keys" }
pass_env = ["LANG"]
"#;
    let config = good(text);
    let exec = &config.exec["apt.sign"];
    assert_eq!(exec.command.program, "etc/bin/sign");
    let value = |name: &str, any| Piece::Value {
        name: name.to_owned(),
        any,
    };
    let fixed = |text: &str| Piece::Text(text.to_owned());
    let pieces: Vec<&[Piece]> = exec
        .command
        .arguments
        .iter()
        .map(|argument| argument.pieces.as_slice())
        .collect();
    assert_eq!(
        pieces,
        [
            &[fixed("--suite="), value("suite", false)][..],
            &[fixed("{"), value("note", true), fixed("}")],
            &[fixed("")],
        ]
    );
    assert_eq!(
        (&exec.success[..], &exec.retry[..]),
        (&[0][..], &[75, 100][..])
    );
    assert_eq!(exec.env["GNUPGHOME"], "/srv/keys");
    let shown = config.redacted_toml();
    assert!(shown.contains(r#""--suite={suite}""#), "{shown}");
    assert!(shown.contains(r#"command = ["etc/bin/sign""#), "{shown}");
}

#[test]
fn mistakes_in_commands_are_told() {
    let told = |rest: &str| one(&format!("[exec.x]\n{rest}\n"));
    for (rest, what) in [
        ("probe = ['a']", "exec.x.command: missing"),
        ("command = []", "empty"),
        ("command = ['{program}']", "a task never does"),
        ("command = ['a', '{b']", "a brace stands alone"),
        ("command = ['a', 'b}']", "a brace stands alone"),
        ("command = ['a', '{}']", "no name"),
        ("command = ['a', '{b:all}']", "something else than any"),
        ("command = ['sh', '-c', 'echo {b}']", "a shell would run"),
        (
            "command = ['/bin/bash', '-euc', '{b}', 'x']",
            "a shell would run",
        ),
        ("command = ['a']\nretry = [0]", "stands in success too"),
        ("command = ['a']\nretry = [256]", "out of range"),
        (
            "command = ['a']\npass_env = ['LONGSHORE__STORE__PASSWORD']",
            "own",
        ),
        (
            "command = ['a']\nenv = { 'A=B' = 'c' }",
            "no name of a variable",
        ),
        (
            "command = ['a']\ntime_limit = '1h'",
            "more than the task may run",
        ),
        (
            "command = ['a']\ncommnd = ['a']",
            "did you mean \"command\"",
        ),
    ] {
        let told = told(rest);
        assert!(told.contains(what), "{rest}: {told}");
    }
    let fine = "[exec.x]\ncommand = ['sh', '-c', 'echo \"$1\"', 'sh', '{b}']\n";
    assert_eq!(good(fine).exec.len(), 1);
}

const KEY: &str = "gpg_home = \"g\"\nkey = \"00112233445566778899aabbccddeeff00112233\"\n";

#[test]
fn repositories_are_read_and_written() {
    let text = format!(
        "[apt.main]\nstorage = \"s3://debs/some/where/\"\nincoming = \"in\"\nchannels = [\"stable\"]\n{KEY}keep = \"2h\"\n"
    );
    let config = good(&text);
    let apt = &config.apt["main"];
    assert_eq!(apt.storage.to_string(), "s3://debs/some/where");
    assert_eq!(
        apt.incoming.as_ref().expect("a folder").to_string(),
        "etc/in"
    );
    assert_eq!((apt.component.as_str(), apt.keep_generations), ("main", 10));
    assert_eq!(apt.key, "00112233445566778899AABBCCDDEEFF00112233");
    let shown = config.redacted_toml();
    assert!(
        shown.contains("storage = \"s3://debs/some/where\""),
        "{shown}"
    );
}

#[test]
fn mistakes_in_repositories_are_told() {
    let told = |rest: &str| one(&format!("[apt.x]\nstorage = \"r\"\n{rest}\n"));
    let channels = "channels = [\"stable\"]\n";
    for (rest, what) in [
        (KEY.to_owned(), "apt.x.channels: missing"),
        (format!("{KEY}channels = []"), "empty"),
        (format!("{KEY}channels = [\"../x\"]"), "other characters"),
        (format!("{KEY}channels = [\"a/b\"]"), "other characters"),
        (format!("{KEY}{channels}component = \"..\""), "no"),
        (format!("{KEY}{channels}origin = \" a\""), "not one line"),
        (
            format!("{KEY}{channels}incoming = \"http://a\""),
            "neither a folder",
        ),
        (
            format!("gpg_home = \"g\"\nkey = \"me\"\n{channels}"),
            "no fingerprint",
        ),
        (
            format!("{KEY}{channels}chanels = []"),
            "did you mean \"channels\"",
        ),
    ] {
        let told = told(&rest);
        assert!(told.contains(what), "{rest}: {told}");
    }
}

const GATE: &str = r#"
[routes]
"pkg.*" = "ci_fetch_postprocess"
[gates.stable]
publish = { task = "pkg.publish", kwargs = { suite = "stable" } }
verify = "pkg.verify"
window = 4
newest_only = true
overdue = "10m"
[gates.stable.tests.a-install]
task = "pkg.install"
queue = "ci_fetch"
after = ["build"]
requires = ["deb"]
[gates.stable.tests.build]
task = "pkg.build"
provides = ["deb"]
[gates.stable.tests.lint]
task = "lint"
voting = false
[gates.small]
tests = ["pkg.test"]
publish = "pkg.publish"
[gates.small.window]
start = 8
ceiling = 9
"#;

#[test]
fn gates_are_read_and_written() {
    let config = good(GATE);
    let stable = &config.gates["stable"];
    let spec = stable.spec();
    let keys: Vec<&str> = spec.tests.iter().map(|test| test.key.as_str()).collect();
    // What another one waits for stands before it.
    assert_eq!(keys, ["build", "a-install", "lint"]);
    let queues: Vec<&str> = spec.tests.iter().map(|t| t.step.queue.as_str()).collect();
    assert_eq!(queues, ["ci_fetch_postprocess", "ci_fetch", "ci_fetch"]);
    assert_eq!(spec.publish.queue, "ci_fetch_postprocess");
    assert_eq!(spec.publish.kwargs["suite"], "stable");
    assert!(spec.tests[0].voting && !spec.tests[2].voting);
    let settings = stable.settings();
    assert_eq!(settings.window, crate::gate::Window::fixed(4));
    assert!(settings.newest_only && !settings.run_all_tests);
    assert_eq!(
        (settings.republish, settings.overdue_s),
        (Some(2), Some(600))
    );
    let small = &config.gates["small"];
    let window = &small.settings().window;
    assert_eq!(
        (window.start, window.floor, window.ceiling),
        (8, 3, Some(9))
    );
    assert_eq!(small.spec().tests[0].key, "pkg.test");
    let shown = config.redacted_toml();
    assert_eq!(good(&shown).gates, config.gates, "{shown}");
}

#[test]
fn mistakes_in_gates_are_told_at_once() {
    let told = told(load(
        r#"
[gates."a/b"]
publish = "p"
[gates.x]
on_unverified = "waits"
on_verify_failure = "revert"
run_all_tests = "yes"
window = -1
[gates.x.probe]
queue = "q"
[gates.x.tests.one]
task = "t"
after = ["twos"]
requires = ["dep"]
[gates.x.tests.two]
task = "t"
provides = ["deb"]
votes = true
[gates.circle]
publish = { task = "p", kwargs = { gate = 1 } }
window = { start = 2, floor = 3 }
[gates.circle.tests]
a = { task = "t", after = ["b"] }
b = { task = "t", after_any = ["a"] }
"#,
        &[],
    ));
    for (key, what) in [
        (r#"gates."a/b""#, "without /"),
        ("gates.x.on_unverified", "not one of"),
        ("gates.x.on_verify_failure", "taken back"),
        ("gates.x.run_all_tests", "true or false"),
        ("gates.x.window", "out of range"),
        ("gates.x.publish", "missing"),
        ("gates.x.probe.task", "missing"),
        ("gates.x.tests.one.after", "did you mean \"two\""),
        ("gates.x.tests.one.requires", "did you mean \"deb\""),
        ("gates.x.tests.two.votes", "unknown key"),
        ("gates.circle.publish.kwargs", "tells its tasks"),
        ("gates.circle.window.start", "not between"),
        ("gates.circle.tests", "wait for one another"),
    ] {
        let found = |line: &&String| line.contains(key) && line.contains(what);
        assert_eq!(told.iter().filter(found).count(), 1, "{key}: {told:#?}");
    }
    assert_eq!(told.len(), 13, "{told:#?}");
}
