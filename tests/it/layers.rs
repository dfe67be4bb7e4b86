//! Which module may import which, which crate may be named where, and that each statement is used.
//! A new edge is a design change: edit the table in the same commit.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// `(module, what it may import from this crate)`, lowest first.
const LAYERS: &[(&str, &[&str])] = &[
    ("clock", &[]),
    ("crash", &[]),
    ("id", &[]),
    ("lane", &["id"]),
    ("task", &["id", "lane"]),
    ("graph", &["id", "lane", "task"]),
    ("gate", &["clock", "id", "lane", "task"]),
    ("lifecycle", &[]),
    ("bundle", &["clock", "id"]),
    ("config", &["bundle", "gate"]),
    ("bucket", &["config"]),
    ("storage", &["bucket", "config", "crash"]),
    ("codec", &["id", "task"]),
    (
        "store",
        &["bundle", "clock", "crash", "gate", "id", "lane", "task"],
    ),
    ("broker", &["codec", "id", "store"]),
    ("handler", &["bundle", "id", "store", "task"]),
    (
        "follow",
        &["bundle", "clock", "config", "crash", "handler", "store"],
    ),
    ("kube", &["clock", "config"]),
    ("outbox", &["broker", "codec", "crash", "store", "task"]),
    (
        "celery",
        &[
            "broker", "clock", "codec", "config", "handler", "id", "store", "task",
        ],
    ),
    ("plugin_host", &["celery", "config", "handler", "task"]),
    ("exec", &["config", "handler", "id", "plugin_host", "task"]),
    (
        "maintenance",
        &["broker", "celery", "id", "kube", "outbox", "store"],
    ),
    (
        "pool",
        &[
            "broker",
            "celery",
            "clock",
            "codec",
            "config",
            "crash",
            "follow",
            "handler",
            "id",
            "kube",
            "lifecycle",
            "maintenance",
            "outbox",
            "store",
            "task",
        ],
    ),
    (
        "testjob",
        &["config", "crash", "handler", "plugin_host", "store", "task"],
    ),
    (
        "squad",
        &[
            "bucket", "clock", "config", "handler", "store", "task", "testjob",
        ],
    ),
    (
        "apt",
        &["clock", "config", "crash", "handler", "storage", "task"],
    ),
    (
        "api",
        &["config", "gate", "graph", "outbox", "store", "testjob"],
    ),
    ("lab", &["testjob"]),
    ("http", &["pool"]),
    (
        "cli",
        &[
            "api",
            "apt",
            "broker",
            "bundle",
            "celery",
            "clock",
            "config",
            "exec",
            "follow",
            "gate",
            "graph",
            "handler",
            "http",
            "id",
            "kube",
            "lab",
            "lane",
            "outbox",
            "plugin_host",
            "pool",
            "squad",
            "store",
            "task",
            "testjob",
        ],
    ),
    ("main", &[]),
];

/// `(crate, the only places that may name it)`: a module, or a file or folder of one.
const CRATES: &[(&str, &[&str])] = &[
    ("axum", &["api", "http", "lab"]),
    ("clap", &["cli"]),
    ("comfy_table", &["cli"]),
    ("csv", &["cli"]),
    ("hyper", &["api"]),
    ("hyper_util", &["api"]),
    ("indicatif", &["cli"]),
    ("k8s_openapi", &["kube"]),
    ("lapin", &["broker/rabbitmq"]),
    ("liblzma", &["apt/deb", "testjob/format"]),
    ("metrics_exporter_prometheus", &["http"]),
    ("object_store", &["bucket", "storage/bucket"]),
    ("prost", &["codec"]),
    ("reqwest", &["testjob/backend/http"]),
    ("ring", &["api"]),
    ("rmpv", &["codec/value"]),
    ("signal_hook", &["cli"]),
    ("signal_hook_tokio", &["cli"]),
    ("sqlx", &["store"]),
    ("tar", &["apt/deb", "bundle/snapshot", "testjob/format"]),
    ("toml", &["cli/config/publish", "config"]),
    ("tracing_subscriber", &["cli"]),
];

fn worker() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("worker")
}

/// Every source file with its path below `worker/`, without tests that stand in a file of their own.
pub(crate) fn sources() -> BTreeMap<String, String> {
    let mut found = BTreeMap::new();
    let mut folders = vec![worker()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs")
                && path.file_name().is_some_and(|name| name != "tests.rs")
            {
                let name = path.strip_prefix(worker()).unwrap().to_str().unwrap();
                found.insert(name.to_owned(), std::fs::read_to_string(&path).unwrap());
            }
        }
    }
    found
}

/// The lines of code, numbered: no comments, and nothing after the first `mod tests` block.
pub(crate) fn code(text: &str) -> impl Iterator<Item = (usize, &str)> {
    text.lines()
        .enumerate()
        .take_while(|(_, line)| *line != "mod tests {")
        .map(|(at, line)| (at + 1, line.split("//").next().unwrap_or_default()))
}

fn is_in(file: &str, place: &str) -> bool {
    file == format!("{place}.rs") || file.starts_with(&format!("{place}/"))
}

/// The modules that a line imports by `crate::a` or `crate::{a, b::c}`.
fn imports(line: &str) -> Vec<&str> {
    let name = |text: &'_ str| -> usize {
        text.find(|c: char| !c.is_alphanumeric() && c != '_')
            .unwrap_or(text.len())
    };
    let mut found = Vec::new();
    for (at, _) in line.match_indices("crate::") {
        let rest = &line[at + "crate::".len()..];
        match rest.strip_prefix('{') {
            Some(list) => {
                let list = list.split('}').next().unwrap_or_default();
                found.extend(list.split(", ").map(|item| &item[..name(item)]));
            }
            None => found.push(&rest[..name(rest)]),
        }
    }
    found
}

#[test]
fn modules_import_only_what_the_table_allows() {
    for (file, text) in sources() {
        let module = file.split(['/', '.']).next().unwrap_or_default();
        if module == "lib" {
            continue;
        }
        let allowed = LAYERS.iter().find(|(name, _)| *name == module);
        let Some((_, allowed)) = allowed else {
            panic!("worker/{file}: `{module}` is not in the table of layers");
        };
        for (number, line) in code(&text) {
            for target in imports(line) {
                assert!(
                    target == module || allowed.contains(&target),
                    "worker/{file}:{number}: `{module}` may not import `{target}`"
                );
            }
        }
    }
}

#[test]
fn the_table_of_layers_points_one_way() {
    for (at, (module, allowed)) in LAYERS.iter().enumerate() {
        for target in *allowed {
            let below = LAYERS[..at].iter().any(|(name, _)| name == target);
            assert!(
                below,
                "`{module}` imports `{target}`, which is not below it"
            );
        }
        let there = worker().join(format!("{module}.rs")).exists();
        assert!(there, "the table names `{module}`, which is not there");
    }
}

#[test]
fn a_crate_is_named_only_where_the_table_allows() {
    for (file, text) in sources() {
        for (number, line) in code(&text) {
            for (name, places) in CRATES {
                let named = line.match_indices(&format!("{name}::")).any(|(at, _)| {
                    !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_' || c == ':')
                });
                assert!(
                    !named || places.iter().any(|place| is_in(&file, place)),
                    "worker/{file}:{number}: only {places:?} may name `{name}`"
                );
            }
        }
    }
}

#[test]
fn each_statement_is_used_once_and_says_why() {
    let sources = sources();
    let mut statements = 0;
    let root = worker().join("store/sql");
    let mut found = Vec::new();
    let mut folders = vec![root.clone()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(folder).unwrap() {
            let path = entry.unwrap().path();
            if path.is_dir() {
                folders.push(path);
            } else {
                found.push(path);
            }
        }
    }
    for path in found {
        let name = path.strip_prefix(&root).unwrap().with_extension("");
        let name = name.to_str().unwrap();
        let text = std::fs::read_to_string(&path).unwrap();
        assert!(text.starts_with("-- "), "{name}.sql begins with no comment");
        let used: usize = sources
            .values()
            .flat_map(|text| code(text))
            .map(|(_, line)| line.matches(&format!("sql!(\"{name}\")")).count())
            .sum();
        assert_eq!(used, 1, "sql!(\"{name}\") stands {used} times in the store");
        statements += 1;
    }
    assert!(statements > 0, "there are no statements");
}
