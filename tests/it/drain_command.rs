//! `longshore drain` against an API server: what it does, what it leaves alone, and how it ends.

mod answer;
mod details;
mod eviction;
mod node;
mod pool;
mod server;
mod worker;

use std::path::PathBuf;
use std::process::Output;
use std::time::Duration;

use serde_json::Value;

use crate::cluster::{BUSY, Budget, Cluster, Pod, Rule};
use crate::harness::{Child, Folder, run};

const ASKED: &str = "longshore.dev/hand-off";
/// A drain ends so soon after what it waits for.
const SOON: Duration = Duration::from_secs(5);

/// A cluster with the node `n1`, and the way to it.
struct Bed {
    cluster: Cluster,
    folder: Folder,
    kubeconfig: PathBuf,
}

impl Bed {
    fn new() -> Self {
        let (cluster, folder) = (Cluster::start(), Folder::new());
        cluster.add_node("n1");
        let kubeconfig = cluster.kubeconfig(&folder);
        Self {
            cluster,
            folder,
            kubeconfig,
        }
    }

    /// With `p-0` of the pool `post` on its node, and the chart's budget.
    fn with_pod(pod: impl FnOnce(Pod) -> Pod) -> Self {
        let bed = Self::new();
        bed.cluster.add_budget(Budget::busy());
        let pinned = Pod::pinned("post", "p-0").on("n1");
        bed.cluster
            .add_pod(pod(pinned).owner_statefulset("post", 1));
        bed
    }

    fn line<'a>(&'a self, arguments: &'a str) -> Vec<&'a str> {
        let mut line = vec!["drain"];
        line.extend(arguments.split(' '));
        line.extend(["--kubeconfig", self.kubeconfig.to_str().unwrap()]);
        line
    }

    async fn drain(&self, arguments: &str) -> Ended {
        Ended::of(&run(&self.line(arguments)).await)
    }

    fn start(&self, arguments: &str) -> Child {
        Child::start(&self.folder, &self.line(arguments), &[])
    }

    fn set_busy(&self, pod: &str, busy: bool) {
        self.cluster.edit("pods", pod, |pod| {
            let labels = pod["metadata"]["labels"].as_object_mut().unwrap();
            if busy {
                labels.insert(BUSY.into(), "true".into());
            } else {
                labels.remove(BUSY);
            }
        });
    }

    fn is_cordoned(&self) -> bool {
        let node = self.cluster.object("nodes", "n1").unwrap();
        node["spec"]["unschedulable"] == true
    }

    fn is_deleted(&self, pod: &str) -> bool {
        let pod = self.cluster.pod(pod);
        pod.is_none_or(|pod| !pod["metadata"]["deletionTimestamp"].is_null())
    }

    fn is_asked(&self, pod: &str) -> bool {
        let pod = self.cluster.pod(pod).unwrap();
        pod["metadata"]["annotations"][ASKED] == "true"
    }

    /// Whether anything was ever deleted.
    fn nothing_was_deleted(&self) {
        let deletions = self.cluster.requests(&Rule::on("delete", "*"));
        assert!(deletions.is_empty(), "{deletions:?}");
    }

    async fn until_cordoned(&self) {
        let cordoned = |_: &Cluster| self.is_cordoned().then_some(());
        self.cluster.until("the node is cordoned", cordoned).await;
    }

    /// Until the command has looked at the pods so many times.
    async fn until_looked(&self, times: usize) {
        let looked = |cluster: &Cluster| {
            let looks = cluster.requests(&Rule::on("list", "pods"));
            (looks.len() >= times).then_some(())
        };
        self.cluster.until("the pods were looked at", looked).await;
    }
}

struct Ended {
    code: Option<i32>,
    out: String,
    err: String,
}

impl Ended {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code(),
            out: String::from_utf8_lossy(&output.stdout).into_owned(),
            err: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    fn with(&self, code: i32, words: &[&str]) {
        let said = format!("{}{}", self.out, self.err);
        assert_eq!(self.code, Some(code), "{said}");
        for word in words {
            assert!(said.contains(word), "{word:?} is not in: {said}");
        }
    }

    /// Standard output as JSON, a line each.
    fn objects(&self) -> Vec<Value> {
        let lines = self.out.lines();
        lines
            .map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line:?}")))
            .collect()
    }
}
