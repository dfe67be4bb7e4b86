//! The real kubectl against the server: its drain is the one that operators run, and it knows nothing of our model.

use std::path::{Path, PathBuf};
use std::process::{Output, Stdio};

use serde_json::{Value, json};
use tokio::process::{Child, Command};

use super::{BUSY, Budget, Cluster, Pod, Rule};
use crate::harness::{Folder, LIMIT};

/// kubectl with a configuration of this test alone.
pub(crate) struct Kubectl {
    folder: Folder,
    config: PathBuf,
}

impl Kubectl {
    pub(crate) fn of(cluster: &Cluster) -> Self {
        let folder = Folder::new();
        let config = cluster.kubeconfig(&folder);
        Self { folder, config }
    }

    /// For the server that a kubeconfig names.
    pub(crate) fn at(config: PathBuf) -> Self {
        let folder = Folder::new();
        Self { folder, config }
    }

    pub(crate) fn start(&self, arguments: &[&str]) -> Child {
        let program = Path::new(env!("CARGO_MANIFEST_DIR")).join("target/tools/kubectl");
        assert!(
            program.exists(),
            "{} is missing: scripts/tools fetches it",
            program.display()
        );
        Command::new(program)
            .args(arguments)
            .env_clear()
            .env("KUBECONFIG", &self.config)
            .env("KUBECACHEDIR", self.folder.join("cache"))
            .env("HOME", self.folder.join("home"))
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .kill_on_drop(true)
            .spawn()
            .unwrap()
    }

    async fn run(&self, arguments: &[&str]) -> Output {
        ended(self.start(arguments)).await
    }

    /// What it says when it succeeds.
    pub(crate) async fn says(&self, arguments: &[&str]) -> String {
        let output = self.run(arguments).await;
        assert!(output.status.success(), "{output:?}");
        String::from_utf8(output.stdout).unwrap()
    }
}

pub(crate) async fn ended(kubectl: Child) -> Output {
    let output = tokio::time::timeout(LIMIT, kubectl.wait_with_output()).await;
    output.expect("kubectl ends").unwrap()
}

pub(crate) const DRAIN: &[&str] = &[
    "drain",
    "n1",
    "--ignore-daemonsets",
    "--delete-emptydir-data",
];

/// The words of a line that says `name`.
fn line<'a>(text: &'a str, name: &str) -> Vec<&'a str> {
    let line = text.lines().find(|line| line.starts_with(name));
    line.unwrap_or_else(|| panic!("{text}"))
        .split_whitespace()
        .collect()
}

fn evictions(cluster: &Cluster, pod: &str) -> Vec<u16> {
    let rule = Rule::on("create", "pods/eviction").named(pod);
    cluster
        .requests(&rule)
        .iter()
        .filter_map(|seen| seen.code)
        .collect()
}

fn deletions(cluster: &Cluster) -> usize {
    cluster.requests(&Rule::on("delete", "pods")).len()
}

#[tokio::test]
async fn kubectl_shows_nodes_and_pods_and_cordons() {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    cluster.add_pod(Pod::pinned("pool", "p-0").on("n1"));
    let kubectl = Kubectl::of(&cluster);
    assert!(
        kubectl
            .says(&["version"])
            .await
            .contains("Server Version: v1.37.1")
    );
    assert_eq!(
        line(&kubectl.says(&["get", "nodes"]).await, "n1"),
        ["n1", "Ready"]
    );
    assert_eq!(
        line(&kubectl.says(&["get", "pods"]).await, "p-0"),
        ["p-0", "1/1", "Running"]
    );
    assert!(
        kubectl
            .says(&["cordon", "n1"])
            .await
            .contains("node/n1 cordoned")
    );
    assert_eq!(
        cluster.object("nodes", "n1").unwrap()["spec"]["unschedulable"],
        true
    );
    assert_eq!(
        line(&kubectl.says(&["get", "node", "n1"]).await, "n1"),
        ["n1", "Ready,SchedulingDisabled"]
    );
    assert!(
        kubectl
            .says(&["uncordon", "n1"])
            .await
            .contains("node/n1 uncordoned")
    );
    assert_ne!(
        cluster.object("nodes", "n1").unwrap()["spec"]["unschedulable"],
        true
    );
    let missing = kubectl.run(&["cordon", "n2"]).await;
    assert!(
        String::from_utf8(missing.stderr)
            .unwrap()
            .contains("nodes \"n2\" not found")
    );
}

#[tokio::test]
async fn a_drain_evicts_what_no_budget_keeps_and_leaves_daemons() {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    cluster.add_budget(Budget::busy());
    cluster.add_pod(
        Pod::pinned("pool", "p-0")
            .on("n1")
            .owner_statefulset("p", 1),
    );
    cluster.add_pod(Pod::elastic("pool", "d-0").on("n1").owner_daemonset("d"));
    cluster.add_pod(Pod::elastic("pool", "far").on("n2").busy());
    cluster.pods_end_at_once();
    let kubectl = Kubectl::of(&cluster);
    let said = kubectl.says(DRAIN).await;
    assert!(said.contains("node/n1 drained"), "{said}");
    assert!(cluster.pod("p-0").is_none());
    assert!(cluster.pod("d-0").is_some() && cluster.pod("far").is_some());
    assert_eq!(
        (evictions(&cluster, "p-0"), deletions(&cluster)),
        (vec![201], 0)
    );
    assert_eq!(
        cluster.object("nodes", "n1").unwrap()["spec"]["unschedulable"],
        true
    );
}

#[tokio::test]
async fn a_drain_waits_for_a_busy_pod_and_ends_when_its_label_is_removed() {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    cluster.add_budget(Budget::busy());
    cluster.add_pod(
        Pod::pinned("pool", "p-0")
            .on("n1")
            .busy()
            .owner_statefulset("p", 1),
    );
    cluster.pods_end_at_once();
    let kubectl = Kubectl::of(&cluster);
    let drain = kubectl.start(DRAIN);
    cluster
        .until("the eviction is refused", |cluster| {
            evictions(cluster, "p-0").contains(&429).then_some(())
        })
        .await;
    assert!(cluster.pod("p-0").unwrap()["metadata"]["deletionTimestamp"].is_null());
    cluster.edit("pods", "p-0", |pod| {
        pod["metadata"]["labels"][BUSY] = Value::Null
    });
    let output = ended(drain).await;
    assert!(output.status.success(), "{output:?}");
    assert!(
        String::from_utf8(output.stderr)
            .unwrap()
            .contains("will retry after 5s")
    );
    assert!(cluster.pod("p-0").is_none());
    assert_eq!(
        (evictions(&cluster, "p-0"), deletions(&cluster)),
        (vec![429, 201], 0)
    );
}

#[tokio::test]
async fn a_drain_with_a_time_limit_gives_up_on_a_busy_pod() {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    cluster.add_budget(Budget::busy());
    cluster.add_pod(
        Pod::pinned("pool", "p-0")
            .on("n1")
            .busy()
            .owner_statefulset("p", 1),
    );
    let kubectl = Kubectl::of(&cluster);
    let output = kubectl.run(&[DRAIN, &["--timeout=1s"]].concat()).await;
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("global timeout reached"), "{error}");
    assert!(cluster.pod("p-0").unwrap()["metadata"]["deletionTimestamp"].is_null());
}

#[tokio::test]
async fn a_drain_fails_at_once_where_two_budgets_match() {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    cluster.add_budget(Budget::busy());
    cluster.add_budget(Budget::of_pool(
        "second",
        "pool",
        &json!({"maxUnavailable": 1}),
    ));
    cluster.add_pod(
        Pod::pinned("pool", "p-0")
            .on("n1")
            .busy()
            .owner_statefulset("p", 1),
    );
    let kubectl = Kubectl::of(&cluster);
    let output = kubectl.run(DRAIN).await;
    assert!(!output.status.success());
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(
        error.contains("more than one PodDisruptionBudget"),
        "{error}"
    );
    assert_eq!(evictions(&cluster, "p-0"), [500]);
}

#[tokio::test]
async fn a_drain_does_not_touch_scratch_space_or_lone_pods_unasked() {
    let cluster = Cluster::start();
    cluster.add_node("n1");
    cluster.add_pod(
        Pod::pinned("pool", "p-0")
            .on("n1")
            .owner_statefulset("p", 1),
    );
    cluster.add_pod(Pod::pinned("pool", "lone").on("n1"));
    let kubectl = Kubectl::of(&cluster);
    for (arguments, flag) in [(&DRAIN[..3], "--delete-emptydir-data"), (DRAIN, "--force")] {
        let output = kubectl.run(arguments).await;
        let error = String::from_utf8(output.stderr).unwrap();
        assert!(error.contains(flag), "{error}");
    }
    assert!(evictions(&cluster, "p-0").is_empty() && evictions(&cluster, "lone").is_empty());
}
