mod tables;

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use proptest::prelude::*;

use super::*;

const PLUGINS: [&str; 2] = ["tradefed", "kernel-log"];
const EXAMPLE: &str = include_str!(concat!(
    env!("CARGO_MANIFEST_DIR"),
    "/longshore.example.toml"
));

fn load(text: &str, env: &[(&str, &str)]) -> Result<Config, Vec<Problem>> {
    let env = env
        .iter()
        .map(|(name, value)| (OsString::from(name), OsString::from(value)));
    Config::assemble(
        Document::parse(Path::new("t.toml"), text),
        Path::new("etc"),
        env,
        &PLUGINS,
    )
}

fn good(text: &str) -> Config {
    load(text, &[]).expect("no problem")
}

fn told(result: Result<Config, Vec<Problem>>) -> Vec<String> {
    result
        .expect_err("problems")
        .iter()
        .map(ToString::to_string)
        .collect()
}

/// The one problem of `text`.
fn one(text: &str) -> String {
    let mut told = told(load(text, &[]));
    assert_eq!(told.len(), 1, "{told:#?}");
    told.remove(0)
}

/// A folder of its own that is removed with everything in it.
struct Folder(PathBuf);

impl Folder {
    fn new() -> Self {
        let path = std::env::temp_dir().join(format!("longshore-config-{}", uuid::Uuid::now_v7()));
        fs::create_dir(&path).expect("a folder");
        Self(path)
    }

    fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.0.join(name);
        fs::write(&path, text).expect("a file");
        path
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        drop(fs::remove_dir_all(&self.0));
    }
}

const GOOD: &str = r#"
[store]
url = "postgres://me@db.example.org/longshore"
connections = 20
liveness = "lease"
[broker]
url = "amqp://me@mq.example.org:5672/ci"
queue_type = "passive"
[celery]
tools = "events"
[worker]
grace = "1m"
log = "json"
[pools.fetch]
kind = "elastic"
queues = ["ci_fetch", "ci_quick"]
slots = 16
[pools.slow]
kind = "pinned"
queues = ["ci_fetch_postprocess"]
[routes]
"testjob.*" = "ci_quick"
"testjob.postprocess" = "ci_fetch_postprocess"
[tasks.default]
attempts = 7
[tasks."testjob.fetch"]
backoff_min = "1s"
[backends.lab]
kind = "lava"
url = "https://lava.example.org/api/v0.2"
settings = { CI_LAVA_HANDLE_SUITE = true }
[backends.files]
kind = "directory"
path = "/srv/results"
[projects."lkft/mainline"]
plugins = ["tradefed"]
[projects."*"]
plugins = ["kernel-log"]
[limits]
log = "1GiB"
[retention]
finished_tasks = "7d"
"#;

#[test]
fn squads_files_are_in_a_folder_or_in_a_bucket() {
    let storage = |text: &str| good(&format!("[squad]\nstorage = {text:?}")).squad.storage;
    let folder = |path: &str| Some(Storage::Folder(PathBuf::from(path)));
    assert_eq!(storage("/srv/squad"), folder("/srv/squad"));
    assert_eq!(storage("squad"), folder("etc/squad"));
    let place = |bucket: &str, prefix: &str| {
        Some(Storage::Bucket(BucketPlace {
            bucket: bucket.to_owned(),
            prefix: prefix.to_owned(),
        }))
    };
    assert_eq!(storage("s3://b.c-1"), place("b.c-1", ""));
    assert_eq!(storage("s3://b/"), place("b", ""));
    assert_eq!(storage("s3://b/in/here/"), place("b", "in/here"));
    for wrong in [
        "gs://b",
        "s3://",
        "s3:///b",
        "s3://me@b/c",
        "s3://b//c",
        "s3://b/../c",
    ] {
        assert!(one(&format!("[squad]\nstorage = {wrong:?}")).contains("squad.storage"));
    }
    let shown = good("[squad]\nstorage = \"s3://b/in\"").redacted_toml();
    assert!(shown.contains("storage = \"s3://b/in\""), "{shown}");
}

#[test]
fn a_key_of_s3_is_an_id_and_a_secret() {
    let config =
        good("[s3]\nendpoint = \"http://host:9000\"\nkey_id = \"k\"\nsecret_key = \"hush\"");
    let endpoint = config.s3.endpoint.as_ref().map(url::Url::as_str);
    assert_eq!(endpoint, Some("http://host:9000/"));
    assert!(!config.redacted_toml().contains("hush"));
    let in_url = one("[s3]\nendpoint = \"http://me:hush@host:9000\"");
    assert!(
        in_url.contains("s3.endpoint") && !in_url.contains("hush"),
        "{in_url}"
    );
    assert!(one("[s3]\nkey_id = \"k\"").contains("one of them is missing"));
    assert!(one("[s3]\nsecret_key = \"k\"").contains("one of them is missing"));
    assert!(one("[s3]\nendpoint = \"s3.example.org\"").contains("s3.endpoint"));
}

#[test]
fn a_good_file_is_taken_as_written() {
    let config = good(GOOD);
    assert_eq!(config.store.connections, 20);
    assert_eq!(config.store.liveness, Liveness::Lease);
    assert_eq!(config.broker.queue_type, QueueType::Passive);
    assert_eq!(config.celery.tools, Tools::Events);
    assert_eq!(config.worker.log, LogFormat::Json);
    assert_eq!(config.limits.log, 1 << 30);
    assert_eq!(
        config.retention.finished_tasks,
        Duration::from_secs(7 * 86_400)
    );
    let budget = Duration::from_secs(57);
    assert_eq!(
        config.pools["fetch"].kind,
        PoolKind::Elastic {
            budget,
            overrun_queue: None
        }
    );
    assert_eq!(config.pools["slow"].slots, 2);
    assert_eq!(config.route("testjob.fetch"), "ci_quick");
    assert_eq!(config.route("testjob.postprocess"), "ci_fetch_postprocess");
    assert_eq!(config.route("mail.send"), "ci_fetch");
    assert_eq!(
        config.backends["files"].kind,
        BackendKind::Directory {
            path: "/srv/results".into()
        }
    );
    assert_eq!(
        config.backends["lab"].settings.get("CI_LAVA_HANDLE_SUITE"),
        Some(&true.into())
    );
    assert_eq!(config.warnings, []);
}

#[test]
fn a_task_takes_from_the_default_policy_what_it_leaves_out() {
    let config = good(GOOD);
    let expected = Policy {
        attempts: 7,
        backoff_min: Duration::from_secs(1),
        ..Policy::default()
    };
    assert_eq!(config.policy("testjob.fetch"), &expected);
    assert_eq!(
        config.policy("another"),
        &Policy {
            attempts: 7,
            ..Policy::default()
        }
    );
}

#[test]
fn a_project_is_its_own_entry_or_that_of_all_or_empty() {
    let config = good(GOOD);
    assert_eq!(config.project("lkft/mainline").plugins, ["tradefed"]);
    assert_eq!(config.project("lkft/next").plugins, ["kernel-log"]);
    assert_eq!(good("").project("lkft/next"), Project::default());
}

#[test]
fn ten_mistakes_are_ten_problems_with_place_and_key() {
    let text = r#"[store]
url = "mysql://me@host/db"
conections = 3
[worker]
lease = "1s"
hold = 90
log = "xml"
[pools.fetch]
kind = "elastik"
queues = []
slots = 0
[limits]
log = "5 bananas"
[pool.fetch]
slots = 1
[backends.lab]
kind = "lava"
"#;
    let told = told(load(text, &[]));
    let expected = [
        "t.toml:2: store.url = \"mysql://***@host/db\": not a URL that starts with postgres or postgresql: ",
        "t.toml:3: store.conections: unknown key: did you mean \"connections\"?",
        "t.toml:5: worker.lease = \"1s\": out of range: give a duration from 3s to 1h",
        "t.toml:6: worker.hold = 90: a duration needs a unit: write 90s or 90m",
        "t.toml:7: worker.log = \"xml\": not one of \"text\", \"json\": known here: \"text\", \"json\"",
        "t.toml:9: pools.fetch.kind = \"elastik\": not one of \"elastic\", \"pinned\": did you mean \"elastic\"?",
        "t.toml:10: pools.fetch.queues: a pool without a queue: write queues = [\"name\"]",
        "t.toml:11: pools.fetch.slots = 0: out of range: give a number from 1 to 1024",
        "t.toml:13: limits.log = \"5 bananas\": not a size: ",
        "t.toml:14: pool: unknown key: did you mean \"pools\"?",
        "t.toml:16: backends.lab.url: missing: write url = \"…\"",
    ];
    assert_eq!(told.len(), expected.len(), "{told:#?}");
    for (told, expected) in told.iter().zip(expected) {
        assert!(
            told.starts_with(expected),
            "{told}\n  does not start with\n{expected}"
        );
    }
}

/// Files that break one rule, and what their problem starts with.
const BROKEN: &[(&str, &str)] = &[
    (
        "[worker]\ngrace = '2s'\nmargin = '2s'",
        "t.toml:3: worker.margin = \"2s\": grace (2s) is not more than",
    ),
    (
        "[pools.a]\nkind='elastic'\nqueues=['q']\nbudget='29s'",
        "t.toml:4: pools.a.budget = \"29s\": more than a stopping worker has (28s",
    ),
    (
        "[pools.a]\nkind='elastic'\nqueues=['q']\noverrun_queue='x'",
        "t.toml:4: pools.a.overrun_queue = \"x\": no pinned pool",
    ),
    (
        "[pools.a]\nkind='elastic'\nqueues=['q']\noverrun_queue='q'",
        "t.toml:4: pools.a.overrun_queue = \"q\": the elastic pool \"a\"",
    ),
    (
        "[pools.a]\nkind='pinned'\nqueues=['q']\nbudget='1s'",
        "t.toml:4: pools.a.budget: a pinned pool has none",
    ),
    (
        "[store]\nurl='postgres://h/d'",
        "configuration: broker.url = \"embedded\": the embedded broker is part",
    ),
    (
        "[store]\nreader_url='postgres://h/d'",
        "t.toml:2: store.reader_url: an SQLite file has no roles",
    ),
    (
        "[tasks.a]\nbackoff_min='1h'",
        "t.toml:2: tasks.a.backoff_min = \"1h\": backoff_min (1h) is more than",
    ),
    (
        "[backends.a]\nkind='directory'\npath='x'\nurl='https://h'",
        "t.toml:3: backends.a.path: a directory behind HTTP has",
    ),
    (
        "[projects.'a/b']\nplugins=['tradfed']",
        "t.toml:2: projects.\"a/b\".plugins = \"tradfed\": unknown plugin: did",
    ),
    ("[projects.a]", "t.toml:1: projects.a: not a project's name"),
    (
        "[pools.a]\nkind='pinned'\nqueues=['q','q']",
        "t.toml:3: pools.a.queues = [\"q\", \"q\"]: \"q\" stands twice",
    ),
    (
        "[routes]\n'a*'='q'",
        "t.toml:2: routes.\"a*\": not a pattern",
    ),
    (
        "store = 3",
        "t.toml:1: store: is a whole number instead of a section",
    ),
    (
        "[tasks.default]\njitter = 1.5",
        "t.toml:2: tasks.default.jitter = 1.5: out of range: give a number from 0 to 1",
    ),
    (
        "[limits]\nresults = 1e3",
        "t.toml:2: limits.results = 1000: is a fraction instead of a whole number",
    ),
    (
        "[celery]\ntools='on'",
        "t.toml:2: celery.tools = \"on\": Celery's tools reach a worker through RabbitMQ",
    ),
    (
        "[broker]\nurl='amqp:///v'",
        "t.toml:2: broker.url = \"amqp:///v\": a URL without a host",
    ),
];

#[test]
fn rules_between_keys_are_checked() {
    for (text, expected) in BROKEN {
        let problem = one(text);
        assert!(
            problem.starts_with(expected),
            "{problem}\n  does not start with\n{expected}"
        );
    }
}

#[test]
fn a_value_that_is_already_wrong_breaks_no_further_rule() {
    assert!(one("[worker]\ngrace = '0s'\nmargin = '50s'").contains("worker.grace"));
    let url = "[store]\nurl = 'postgres://h:x/d'\nreader_url = 'postgres://h/d'";
    assert!(one(url).contains("store.url"));
}

#[test]
fn a_queue_that_nobody_here_serves_is_a_warning() {
    let config = good("[routes]\n'a.*' = 'elsewhere'");
    let warnings: Vec<String> = config.warnings.iter().map(ToString::to_string).collect();
    assert_eq!(warnings.len(), 1, "{warnings:?}");
    assert!(
        warnings[0].starts_with("t.toml:2: routes.\"a.*\" = \"elsewhere\": no pool here"),
        "{warnings:?}"
    );
}

#[test]
fn a_gates_own_queue_that_nobody_here_serves_is_a_warning() {
    let config = good(
        r#"
[pools.tests]
kind = "pinned"
queues = ["tests"]
[gates.g]
publish = { task = "p", queue = "nobodys" }
[gates.g.tests]
unit = { task = "t", queue = "tests" }
lint = { task = "t", queue = "nobodys" }
"#,
    );
    let warnings = config.warnings.iter().map(ToString::to_string);
    let gates: Vec<String> = warnings.filter(|text| text.contains("gates.g")).collect();
    assert_eq!(gates.len(), 2, "{gates:#?}");
    assert!(gates[0].contains("gates.g.publish.queue = \"nobodys\": no pool here"));
    assert!(gates[1].contains("gates.g.tests.lint.queue = \"nobodys\": no pool here"));
}

#[test]
fn variables_go_before_the_file() {
    let env = [
        ("LONGSHORE__POOLS__FETCH__SLOTS", "3"),
        ("LONGSHORE__POOLS__FETCH__QUEUES", "one, two"),
        ("LONGSHORE__TASKS__TESTJOB_FETCH__JITTER", "0.5"),
        ("LONGSHORE__BACKENDS__LAB__TOKEN", "hunter2"),
        ("LONGSHORE__RETENTION__FINISHED_TASKS", "1d"),
        ("LONGSHORE__LIMITS__BODY", "1MiB"),
        ("LONGSHORE_PORT", "tcp://10.0.0.1:80"),
        ("PGPASSWORD", "hunter3"),
    ];
    let config = load(GOOD, &env).expect("no problem");
    assert_eq!(config.pools["fetch"].slots, 3);
    assert_eq!(config.pools["fetch"].queues, ["one", "two"]);
    assert_eq!(config.policy("testjob.fetch").jitter, 0.5);
    assert_eq!(config.backends["lab"].token, Some(Secret::new("hunter2")));
    assert_eq!(config.store.password, Some(Secret::new("hunter3")));
    assert_eq!(config.retention.finished_tasks, Duration::from_secs(86_400));
    assert_eq!(config.limits.body, 1 << 20);
}

#[test]
fn a_wrong_variable_is_named() {
    let env = [
        ("LONGSHORE__WORKER__LEASE", "15"),
        ("LONGSHORE__WORKR__HOLD", "hunter2"),
    ];
    let expected = [
        "variable LONGSHORE__WORKER__LEASE: worker.lease = \"15\": a duration needs a unit: write 15s or 15m",
        "variable LONGSHORE__WORKR__HOLD: workr: unknown key: did you mean \"worker\"?",
    ];
    assert_eq!(told(load("[worker]\nlease = '3s'", &env)), expected);
}

#[test]
fn secrets_come_from_files_variables_and_urls() {
    let folder = Folder::new();
    folder.write("store", "from-file\n");
    let text = r#"
[store]
url = "postgres://me@host/db"
password_file = "store"
[broker]
url = "amqp://me:from%2Durl@host/v"
[backends.a]
kind = "lava"
url = "https://me:from-url@host/"
[backends.b]
kind = "tuxsuite"
url = "https://host/"
token_env = "TOKEN"
"#;
    let path = folder.write("longshore.toml", text);
    let env = [(OsString::from("TOKEN"), OsString::from("from-variable"))];
    let config = Config::load(Some(&path), env, &PLUGINS).expect("no problem");
    let exposed =
        |secret: &Option<Secret>| secret.as_ref().map(|secret| secret.expose().to_owned());
    assert_eq!(
        exposed(&config.store.password).as_deref(),
        Some("from-file")
    );
    assert_eq!(
        exposed(&config.broker.password).as_deref(),
        Some("from-url")
    );
    assert_eq!(
        exposed(&config.backends["a"].token).as_deref(),
        Some("from-url")
    );
    assert_eq!(config.backends["a"].username.as_deref(), Some("me"));
    assert_eq!(
        exposed(&config.backends["b"].token).as_deref(),
        Some("from-variable")
    );
}

#[test]
fn a_secret_may_be_given_once_only_but_a_variable_goes_before_the_file() {
    let text =
        "[store]\nurl = 'postgres://me:one@host/db'\npassword = 'two'\n[broker]\nurl='amqp://h/v'";
    let problem = one(text);
    assert!(
        problem.starts_with("t.toml:3: store.password: the secret is given here and by `url`"),
        "{problem}"
    );
    let config = load(text, &[("LONGSHORE__STORE__PASSWORD", "three")]).expect("no problem");
    assert_eq!(config.store.password, Some(Secret::new("three")));
}

#[test]
fn a_secret_that_cannot_be_had_is_a_problem() {
    let text = "[backends.a]\nkind='lava'\nurl='https://h'\ntoken_env='NO_TOKEN'\n[backends.b]\nkind='lava'\nurl='https://h'\ntoken_file='none'";
    let told = told(load(text, &[]));
    assert_eq!(told.len(), 2, "{told:?}");
    assert!(
        told[0]
            .starts_with("t.toml:4: backends.a.token_env = \"NO_TOKEN\": this variable is not set")
    );
    assert!(
        told[1].starts_with("t.toml:8: backends.b.token_file = \"etc/none\": cannot be read"),
        "{told:?}"
    );
}

#[test]
fn no_secret_is_ever_shown() {
    const TEXT: &str = r#"
[store]
url = "postgres://me:hunter2a@host/db"
reader_url = "postgres://me@host/db?password=hunter2b"
[broker]
url = "amqp://me@host/v"
password = "hunter2c"
[backends.a]
kind = "lava"
url = "https://host"
token = "hunter2d"
settings = { TUXSUITE_TOKEN = "hunter2e", deep = { password = ["hunter2f"] } }
"#;
    let config = good(TEXT);
    assert_eq!(config.store.reader_password, Some(Secret::new("hunter2b")));
    let shown = format!("{config:?} {config:#?} {}", config.redacted_toml());
    assert!(!shown.contains("hunter2"), "{shown}");
    assert!(config.redacted_toml().contains(r#"password = "***""#));

    let wrong = [
        "store = 'postgres://me:hunter2@h/d'",
        "[store]\npasword = 'hunter2'",
        "[store]\npassword = ['hunter2']",
        "[store]\nurl = 'postgres://me:hunter2@h:port/d'",
        "[store]\nurl = ['postgres://me:hunter2@h/d']",
        "[store]\nurl = 'sqlite:me:hunter2@h/d'",
        "[store]\nurl = 'postgres://h/d?password=hunter2#x'",
        "[store]\nurl = 'postgres://me:hunter2@h/d'\npassword = 'hunter2'",
        "[broker]\nurl = 'ampq://me:hunter2@h/d'",
        "[broker]\nurl = 'amqp://me:hunter2/hunter2@h/d'",
        "[backends.a]\nkind = 'lava'\nurl = 'https://h?token=hunter2'",
        "[backends.a]\nkind = 'lava'\nurl = 'https://h'\nsettings = 'hunter2'",
        "[backends]\na = 'https://me:hunter2@h'",
        "[store]\npassword = 'hunter2",
        "[store]\npassword = 'hunter2'\npassword = 'hunter2'",
        "[store]\npassword = hunter2",
        "[store]\npassword 'hunter2'",
    ];
    for text in wrong {
        let problems = load(text, &[]).expect_err(text);
        assert!(
            !format!("{problems:?}{problems:#?}").contains("hunter2"),
            "{text}: {problems:?}"
        );
        assert!(
            !told(load(text, &[])).concat().contains("hunter2"),
            "{text}"
        );
    }
}

#[test]
fn what_is_printed_means_the_same_when_read_again() {
    for config in [good(GOOD), good("")] {
        let printed = config.redacted_toml();
        let again = Config::assemble(
            Document::parse(Path::new("t.toml"), &printed),
            Path::new(""),
            [],
            &PLUGINS,
        );
        assert_eq!(again.as_ref(), Ok(&config), "{printed}");
    }
}

#[test]
fn an_empty_file_no_file_and_the_embedded_mode_are_the_same() {
    assert_eq!(good(""), Config::embedded(Path::new("etc")));
    assert_eq!(
        Config::load(None, [], &[]),
        Ok(Config::embedded(Path::new("")))
    );
    let store = Config::embedded(Path::new("here")).store;
    assert_eq!(
        store.address,
        StoreAddress::Sqlite("here/longshore.db".into())
    );
}

#[test]
fn a_path_starts_at_the_file_or_for_a_variable_at_the_working_directory() {
    let config = good("[store]\nurl = 'sqlite:x.db'");
    assert_eq!(
        config.store.address,
        StoreAddress::Sqlite("etc/x.db".into())
    );
    let config = load("", &[("LONGSHORE__STORE__URL", "sqlite:x.db")]).expect("no problem");
    assert_eq!(config.store.address, StoreAddress::Sqlite("x.db".into()));
    let config = good("[store]\nurl = 'sqlite:///var/x.db'");
    assert_eq!(
        config.store.address,
        StoreAddress::Sqlite("/var/x.db".into())
    );
}

#[test]
fn a_file_that_cannot_be_read_is_one_problem() {
    let told = told(Config::load(Some(Path::new("no/such.toml")), [], &[]));
    assert_eq!(told.len(), 1);
    assert!(
        told[0].starts_with("no/such.toml: cannot be read: "),
        "{told:?}"
    );
}

#[test]
fn results_need_the_place_where_they_go() {
    let told = one("[celery]\nresults = \"django\"");
    assert!(
        told.contains("celery.results") && told.contains("SQLite"),
        "{told}"
    );
    let told = one("[celery]\nresults = \"rpc\"");
    assert!(
        told.contains("celery.results") && told.contains("embedded"),
        "{told}"
    );
    let tables = GOOD.replace(
        "[celery]\n",
        "[celery]\nresults = \"database\"\ndatabase_format = \"pickle\"\n",
    );
    assert_eq!(good(&tables).celery.results, Results::Database);
}

#[test]
fn tasks_are_not_sent_on_to_our_own_queues() {
    let told = one(&GOOD.replace("[celery]\n", "[celery]\nunknown_queue = \"ci_quick\"\n"));
    assert!(told.contains("celery.unknown_queue"), "{told}");
}

#[test]
fn the_example_holds_the_defaults() {
    let config = Config {
        backends: BTreeMap::new(),
        projects: BTreeMap::new(),
        ..good(EXAMPLE)
    };
    assert_eq!(config, Config::embedded(Path::new("etc")));
}

#[test]
fn the_example_names_every_key_that_is_printed() {
    let printed = good(EXAMPLE).redacted_toml();
    for line in printed.lines().filter_map(|line| line.split_once(" = ")) {
        let (key, _) = line;
        assert!(
            EXAMPLE.contains(&format!("{key} = ")),
            "the example has no {key}"
        );
    }
}

#[test]
fn what_the_example_leaves_out_can_be_put_in() {
    let folder = Folder::new();
    fs::create_dir(folder.0.join("secrets")).expect("a folder");
    for name in ["store", "reader", "broker", "lab", "qa", "ci", "s3"] {
        folder.write(&format!("secrets/{name}"), "secret");
    }
    let uncommented: Vec<&str> = EXAMPLE
        .lines()
        .map(|line| {
            line.strip_prefix('#')
                .filter(|rest| !rest.is_empty() && !rest.starts_with(' '))
                .unwrap_or(line)
        })
        .map(|line| match line {
            r#"url = "sqlite:longshore.db""# => r#"url = "postgres://me@host/db""#,
            r#"url = "embedded""# => r#"url = "amqp://me@host/v""#,
            line => line,
        })
        .collect();
    let path = folder.write("longshore.toml", &uncommented.join("\n"));
    let env = [(OsString::from("TUXSUITE_TOKEN"), OsString::from("secret"))];
    let config = Config::load(Some(&path), env, &PLUGINS).expect("no problem");
    assert_eq!(config.backends.len(), 3);
    assert_eq!(config.policy("testjob.postprocess").attempts, 3);
}

const KEYS: &str = r#"store broker worker pools pools.a routes tasks tasks.default tasks.'a.b'
    backends.x projects.'a/b' projects.'*' limits retention url password kind queues slots budget
    overrun_queue lease hold grace margin settings plugins log x attempts jitter results body path
    token_env '*' 'a.*' '' "\u0000""#;

const VALUES: &str = r"1 -1 0x7f 99999999999999999999999999999999999999999999 1e400 nan true [] {}
    [1,'a'] [[]] {a=1} 'elastic' 'pinned' 'lava' 'directory' '1s' '5GiB' 'é' '' 'sqlite:x'
    'postgres://a:b@h/d' 'amqp://h' '://' '%' 1979-05-27 ['q'] '";

/// Fragments of our own format, right and wrong, in any order: far more telling than random bytes.
fn fragments() -> impl Strategy<Value = String> {
    let key = prop::sample::select(KEYS.split_whitespace().collect::<Vec<_>>());
    let value = prop::sample::select(VALUES.split_whitespace().collect::<Vec<_>>());
    let line = (key, value, 0..4_u8).prop_map(|(key, value, form)| match form {
        0 => format!("[{key}]"),
        1 => format!("[[{key}]]"),
        _ => format!("{key} = {value}"),
    });
    prop::collection::vec(line, 0..12).prop_map(|lines| lines.join("\n"))
}

proptest! {
    #[test]
    fn no_file_panics(text in prop_oneof![fragments(), any::<String>(), "[\\[\\]a-c.='\"{}\n#0-9,_ -]{0,60}"]) {
        if let Err(problems) = load(&text, &[]) {
            prop_assert!(!problems.is_empty());
        }
    }

    #[test]
    fn no_variable_panics(name in "(LONGSHORE__)?[A-Z_.*]{0,30}", value: String) {
        drop(load(GOOD, &[(&name, &value)]));
    }
}
