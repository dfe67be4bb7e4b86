//! `longshore drain` against an API server: what it does, what it leaves alone, and how it ends.

use std::path::PathBuf;
use std::process::Output;
use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::id::WorkerId;
use longshore::lab::{Effect, Fault as LabFault};
use longshore::store::{Filter, Member, State};
use serde_json::{Value, json};

use crate::cluster::{BUSY, Budget, Cluster, Fault, NAMESPACE, Pod, Rule};
use crate::harness::{
    Bench, Child, Folder, LIMIT, LONG, id, member, on_both, run, task, wait_until,
};
use crate::pod::Site;
use crate::scene::{Scene, on_both_with};

const ASKED: &str = "longshore.dev/hand-off";
/// A drain ends so soon after what it waits for.
const SOON: Duration = Duration::from_secs(5);

on_both_with!(
    crate::pod::process::SETTINGS;
    a_workers_node_is_drained_when_its_work_is_done,
    by_request_a_workers_node_is_drained_before_its_work_is_done,
);

on_both!(
    what_runs_is_told_from_the_store,
    a_pool_is_waited_for_until_the_store_says_that_nothing_runs,
);

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

#[tokio::test]
async fn a_node_without_longshores_pods_is_cordoned_and_others_are_left_alone() {
    let bed = Bed::new();
    let daemon = |name| Pod::pinned("x", name).on("n1").owner_daemonset("d");
    bed.cluster.add_pod(Pod::pinned("x", "foreign").on("n1"));
    bed.cluster.add_pod(daemon("foreign-daemon"));
    bed.cluster.add_pod(daemon("daemon"));
    for name in ["foreign", "foreign-daemon"] {
        bed.cluster.edit("pods", name, |pod| {
            pod["metadata"]["labels"] = json!({"app": "foreign"});
        });
    }
    let ended = bed.drain("node n1").await;
    ended.with(
        0,
        &[
            "nothing of Longshore is left",
            "Pods of others on the node: 1",
            "kubectl drain n1",
            "kubectl uncordon n1",
        ],
    );
    assert!(bed.is_cordoned());
    assert!(!bed.is_deleted("foreign") && !bed.is_deleted("daemon"));
    assert!(
        bed.cluster
            .requests(&Rule::on("*", "pods/eviction"))
            .is_empty()
    );
    bed.drain("node n1").await.with(0, &["cordoned already"]);
    let patches = bed.cluster.requests(&Rule::on("patch", "nodes"));
    assert_eq!(patches.len(), 1, "a cordoned node needs no patch");
}

#[tokio::test]
async fn one_look_evicts_what_is_idle_and_says_what_holds_the_node() {
    let bed = Bed::with_pod(Pod::busy);
    let idle = Pod::pinned("post", "p-1").on("n1");
    bed.cluster.add_pod(idle.owner_statefulset("post", 2));
    bed.cluster
        .add_pod(Pod::elastic("fetch", "f-0").on("n1").grace(20));
    let over = Pod::pinned("post", "over").on("n1").phase("Succeeded");
    bed.cluster.add_pod(over);
    bed.cluster
        .add_pod(Pod::pinned("post", "elsewhere").on("n2"));
    let ended = bed.drain("node n1").await;
    ended.with(5, &["3 pods hold it (2 evicted)", "--wait", "killed in"]);
    assert!(bed.is_deleted("p-1") && bed.is_deleted("f-0"));
    assert!(!bed.is_deleted("p-0") && !bed.is_deleted("elsewhere") && !bed.is_deleted("over"));
    let row = |pod: &str| {
        let row = ended.out.lines().find(|line| line.contains(pod));
        row.unwrap_or_default().to_owned()
    };
    assert!(row("p-0").contains("busy"), "{}", ended.out);
    assert!(row("f-0").contains("ending"), "{}", ended.out);
    assert!(row("over").is_empty() && row("elsewhere").is_empty());
    let evictions = bed.cluster.requests(&Rule::on("create", "pods/eviction"));
    assert_eq!(
        evictions.len(),
        2,
        "a busy pod's eviction is not even tried"
    );
    for eviction in evictions {
        let options = &eviction.body["deleteOptions"];
        let pod = bed.cluster.pod(&eviction.name).unwrap();
        assert_eq!(options["preconditions"]["uid"], pod["metadata"]["uid"]);
        assert_eq!(options["gracePeriodSeconds"], Value::Null);
    }
    bed.nothing_was_deleted();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drain_waits_as_long_as_the_work_and_no_longer() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    let mut drain = bed.start("node n1 --wait");
    drain.said("p-0 (post) busy", LIMIT).await;
    bed.until_looked(5).await;
    assert!(!bed.is_deleted("p-0"));
    let end = Instant::now();
    bed.set_busy("p-0", false);
    let status = drain.ended(LIMIT).await;
    assert_eq!(status.code(), Some(0), "{}", drain.log());
    assert!(end.elapsed() < SOON, "it took {:?}", end.elapsed());
    drain.said("p-0 no longer holds it", LIMIT).await;
    drain
        .said("nothing of Longshore is left (1 evicted)", LIMIT)
        .await;
    bed.nothing_was_deleted();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_takes_work_under_the_drains_hands_is_not_evicted_though_no_budget_holds_it() {
    let bed = Bed::new();
    bed.cluster.add_pod(Pod::pinned("post", "p-0").on("n1"));
    let mut gate = bed.cluster.gate(Rule::on("create", "pods/eviction"));
    let (ended, ()) = tokio::join!(bed.drain("node n1"), async {
        let eviction = gate.next().await;
        bed.set_busy("p-0", true);
        eviction.release();
    });
    ended.with(5, &["busy", "1 pod hold"]);
    assert!(!bed.is_deleted("p-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_budget_that_refuses_is_named_and_waited_for() {
    let bed = Bed::with_pod(|pod| pod);
    let zero = json!({"maxUnavailable": 0});
    bed.cluster
        .add_budget(Budget::of_pool("own", "post", &zero));
    let ended = bed.drain("node n1").await;
    ended.with(5, &["idle, not evicted", "disruption budget own"]);
    bed.cluster.pods_end_at_once();
    let mut drain = bed.start("node n1 --wait");
    drain.said("disruption budget own", LIMIT).await;
    bed.cluster.remove("poddisruptionbudgets", "own");
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0));
}

#[tokio::test]
async fn two_budgets_over_one_pod_are_refused_with_the_mend_though_others_are_evicted() {
    let bed = Bed::with_pod(|pod| pod);
    bed.cluster.add_pod(Pod::elastic("fetch", "f-0").on("n1"));
    for name in ["own", "another"] {
        let all = json!({"maxUnavailable": "100%"});
        bed.cluster.add_budget(Budget::of_pool(name, "post", &all));
    }
    let ended = bed.drain("node n1 --wait").await;
    ended.with(
        5,
        &[
            "evict pod longshore/p-0",
            "more than one PodDisruptionBudget",
            "leave one PodDisruptionBudget in namespace longshore",
            "kubectl uncordon n1",
        ],
    );
    assert!(bed.is_deleted("f-0") && !bed.is_deleted("p-0"));
}

#[tokio::test]
async fn what_is_forbidden_is_said_with_its_place_and_mend() {
    for (rule, words) in [
        (Rule::on("get", "nodes"), ["get node n1", "rbac.drain"]),
        (Rule::on("patch", "nodes"), ["patch node n1", "rbac.drain"]),
        (
            Rule::on("list", "pods"),
            ["list pods in all namespaces", "--namespace"],
        ),
        (
            Rule::on("patch", "pods"),
            ["patch pod longshore/p-0", "rbac.drain"],
        ),
        (
            Rule::on("create", "pods/eviction"),
            ["evict pod longshore/p-0", "rbac.drain"],
        ),
    ] {
        for wait in ["", " --wait"] {
            let bed = Bed::with_pod(|pod| pod);
            bed.cluster.fault(rule.clone(), Fault::Forbidden);
            let ended = bed.drain(&format!("node n1 --hand-off{wait}")).await;
            ended.with(5, &words);
            ended.with(5, &["403"]);
            assert!(!bed.is_deleted("p-0"));
        }
    }
}

#[tokio::test]
async fn a_user_of_one_namespace_drains_what_is_in_it() {
    let bed = Bed::with_pod(|pod| pod);
    let ended = bed.drain(&format!("node n1 --namespace {NAMESPACE}")).await;
    ended.with(5, &["ending"]);
    assert!(bed.is_deleted("p-0"));
    let elsewhere = Bed::with_pod(|pod| pod);
    elsewhere.drain("node n1 -n other").await.with(0, &[]);
    assert!(!elsewhere.is_deleted("p-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_api_server_that_is_away_ends_one_look_and_is_waited_for_by_a_waiting_drain() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    bed.cluster.away();
    let ended = bed.drain("node n1").await;
    ended.with(6, &["does not answer", "may be cordoned"]);
    let ended = bed.drain("node n1 --wait --deadline 1s --json").await;
    ended.with(6, &["tried again until the deadline"]);
    assert_eq!(ended.objects().last().unwrap()["outcome"], "unreachable");

    let mut drain = bed.start("node n1 --wait");
    drain.said("tried again until the deadline", LIMIT).await;
    bed.cluster.back();
    drain.said("answers again", LIMIT).await;
    drain.said("p-0 (post) busy", LIMIT).await;
    bed.cluster.away();
    bed.cluster.back();
    bed.set_busy("p-0", false);
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
}

#[tokio::test]
async fn an_api_server_that_never_answers_or_fails_is_unreachable_at_the_deadline() {
    for fault in [Fault::Hang, Fault::Internal, Fault::TooMany(Some(1))] {
        let bed = Bed::with_pod(|pod| pod);
        bed.cluster.fault(Rule::on("*", "*"), fault);
        let ended = bed.drain("node n1 --wait --deadline 1s").await;
        ended.with(6, &["may be cordoned"]);
    }
}

#[tokio::test]
async fn at_the_deadline_nothing_is_forced() {
    let bed = Bed::with_pod(Pod::busy);
    let ended = bed.drain("node n1 --wait --deadline 1s").await;
    ended.with(
        4,
        &[
            "the deadline came while 1 pod held it",
            "nothing was forced",
            "kubectl uncordon n1",
        ],
    );
    assert!(bed.is_cordoned() && !bed.is_deleted("p-0"));
    let tried = Rule::on("create", "pods/eviction");
    assert!(bed.cluster.requests(&tried).is_empty());
}

#[tokio::test(flavor = "multi_thread")]
async fn for_programs_there_is_an_object_for_each_change_and_nothing_else() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    let (ended, ()) = tokio::join!(bed.drain("node n1 --wait --json"), async {
        bed.until_looked(5).await;
        bed.set_busy("p-0", false);
    });
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    let objects = ended.objects();
    let (first, last) = (&objects[0], objects.last().unwrap());
    assert_eq!(first["outcome"], "waiting");
    assert_eq!(first["cordoned"], true);
    assert_eq!(first["holds"][0]["pod"], "p-0");
    assert_eq!(first["holds"][0]["state"], "busy");
    assert_eq!(first["holds"][0]["tasks"], Value::Null);
    let missing = first["details_missing"].as_str().unwrap();
    assert!(missing.contains("--config"), "{missing}");
    assert_eq!(last["outcome"], "done");
    assert_eq!(last["evicted"], json!(["longshore/p-0"]));
    for pair in objects.windows(2) {
        assert_ne!(pair[0], pair[1], "said twice");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn by_request_pods_are_asked_to_hand_off_before_they_are_evicted() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.pods_end_at_once();
    let mut drain = bed.start("node n1 --wait --hand-off");
    let asked = |_: &Cluster| bed.is_asked("p-0").then_some(());
    bed.cluster.until("the pod is asked", asked).await;
    bed.set_busy("p-0", false);
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
    let patches = bed.cluster.requests(&Rule::on("patch", "pods"));
    assert_eq!(patches.len(), 1, "asked once");
}

#[tokio::test]
async fn an_interrupted_drain_says_how_to_undo_what_it_did() {
    for (signal, code) in [("INT", 130), ("TERM", 143)] {
        let bed = Bed::with_pod(Pod::busy);
        let mut drain = bed.start("node n1 --wait --hand-off");
        drain.said("p-0 (post) busy, asked", LIMIT).await;
        drain.signal(signal);
        assert_eq!(drain.ended(LIMIT).await.code(), Some(code));
        for words in [
            "interrupted while 1 pod held it",
            "The node stays cordoned. To undo: kubectl uncordon n1",
            "kubectl annotate pod -n longshore p-0 longshore.dev/hand-off-",
        ] {
            drain.said(words, LIMIT).await;
        }
        assert!(bed.is_cordoned() && !bed.is_deleted("p-0"));
    }
}

#[tokio::test]
async fn a_node_that_somebody_uncordons_is_not_drained_any_further() {
    let bed = Bed::with_pod(Pod::busy);
    let mut drain = bed.start("node n1 --wait");
    bed.until_cordoned().await;
    drain.said("p-0 (post) busy", LIMIT).await;
    bed.cluster.edit("nodes", "n1", |node| {
        node["spec"]["unschedulable"] = false.into();
    });
    assert_eq!(drain.ended(LIMIT).await.code(), Some(5));
    drain.said("somebody has uncordoned node n1", LIMIT).await;
    assert!(!bed.is_cordoned());
}

#[tokio::test]
async fn what_is_not_there_or_not_longshores_is_wrong_usage() {
    let bed = Bed::with_pod(|pod| pod);
    bed.cluster.add_pod(Pod::pinned("x", "foreign").on("n1"));
    bed.cluster.edit("pods", "foreign", |pod| {
        pod["metadata"]["labels"] = json!({"app": "foreign"});
    });
    let daemon = Pod::pinned("x", "daemon").on("n1").owner_daemonset("d");
    bed.cluster.add_pod(daemon);
    for (arguments, words) in [
        ("node n9", "there is no node n9"),
        ("pod p-9", "there is no pod longshore/p-9"),
        ("pod foreign --hand-off", "not Longshore's"),
        ("pod daemon", "DaemonSet"),
        (
            "pool nobody --hand-off",
            "no pod of a pool nobody in namespace longshore",
        ),
        ("pod p-0 -n a,b", "is not a namespace"),
    ] {
        bed.drain(arguments).await.with(2, &[words]);
    }
    let missing = run(&["drain", "node", "n1", "--kubeconfig", "/nowhere"]).await;
    Ended::of(&missing).with(2, &["/nowhere", "--kubeconfig"]);
    let changes = bed.cluster.log();
    assert!(
        changes
            .iter()
            .all(|seen| matches!(seen.verb, "get" | "list"))
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pods_successor_of_the_same_name_is_none_of_the_drains_business() {
    let bed = Bed::with_pod(|pod| pod);
    let mut drain = bed.start("pod p-0 --wait");
    let deleted = |_: &Cluster| bed.is_deleted("p-0").then_some(());
    bed.cluster.until("the pod is evicted", deleted).await;
    bed.cluster.remove("pods", "p-0");
    let successor = Pod::pinned("post", "p-0").on("n1").busy();
    bed.cluster.add_pod(successor.owner_statefulset("post", 1));
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
    assert!(!bed.is_deleted("p-0") && !bed.is_cordoned());
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pod_that_is_replaced_while_it_is_asked_is_no_refusal() {
    let bed = Bed::with_pod(Pod::busy);
    let mut gate = bed.cluster.gate(Rule::on("patch", "pods"));
    let mut drain = bed.start("pod p-0 --wait --hand-off");
    let asked = gate.next().await;
    bed.cluster.remove("pods", "p-0");
    let successor = Pod::pinned("post", "p-0").on("n1").busy();
    bed.cluster.add_pod(successor.owner_statefulset("post", 1));
    drop(gate);
    asked.release();
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
    assert!(!bed.is_asked("p-0") && !bed.is_deleted("p-0"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_pool_is_asked_to_hand_off_and_told_to_work_again() {
    let bed = Bed::with_pod(Pod::busy);
    bed.cluster.add_pod(Pod::pinned("other", "o-0").on("n1"));
    let ended = bed.drain("pool post --hand-off").await;
    ended.with(0, &["1 pods were asked", "drain pool post --undo"]);
    assert!(bed.is_asked("p-0") && !bed.is_asked("o-0"));
    let (ended, ()) = tokio::join!(bed.drain("pool post --hand-off --wait"), async {
        bed.until_looked(6).await;
        bed.set_busy("p-0", false);
    });
    ended.with(0, &["nothing runs any more"]);
    bed.drain("pool post --undo")
        .await
        .with(0, &["told to work again"]);
    assert!(!bed.is_asked("p-0"));
    assert!(!bed.is_deleted("p-0") && !bed.is_cordoned());
    let tried = Rule::on("create", "pods/eviction");
    assert!(bed.cluster.requests(&tried).is_empty());
}

#[tokio::test]
async fn an_elastic_pool_is_not_called_idle_when_nobody_can_say() {
    let bed = Bed::new();
    bed.cluster.add_pod(Pod::elastic("fetch", "f-0").on("n1"));
    let ended = bed
        .drain("pool fetch --hand-off --wait --deadline 1s")
        .await;
    ended.with(4, &["unknown", "What the pods run is not known"]);
}

/// A worker of the pod `p-0` that the store knows.
async fn worker_of(bench: &Bench, bed: &Bed, pod: &str) -> WorkerId {
    let uid = bed.cluster.pod(pod).unwrap()["metadata"]["uid"].clone();
    let uid = uid.as_str().unwrap();
    let fresh = member();
    let member = Member {
        id: WorkerId::new(format!("{pod}.{uid}.{}", fresh.id)),
        host: pod.into(),
        ..fresh
    };
    bench.store.join(&member, "running", LONG).await.unwrap();
    member.id
}

/// A configuration with the test's store; its broker is not asked.
fn config_of(bench: &Bench) -> PathBuf {
    let broker = if bench.store.is_embedded() {
        "embedded"
    } else {
        "amqp://nobody@127.0.0.1:1/"
    };
    bench.write_config(broker, "")
}

async fn what_runs_is_told_from_the_store(bench: Bench) {
    let bed = Bed::with_pod(Pod::busy);
    let worker = worker_of(&bench, &bed, "p-0").await;
    let epoch = bench.claimed(&worker, &task("t1")).await.epoch;
    let (t1, state, progress) = (id("t1"), json!({}), Some("45 % of the modules"));
    let saved = bench
        .store
        .checkpoint(&t1, epoch, Some(&state), progress, vec![]);
    saved.await.unwrap();
    bench
        .execute("update tasks set started_at = started_at - 60000 where id = 't1'")
        .await;
    // Of an earlier life of the name, and of nobody.
    let stranger = Member {
        host: "p-0".into(),
        ..member()
    };
    bench.store.join(&stranger, "running", LONG).await.unwrap();
    bench.claimed(&stranger.id, &task("t2")).await;
    bench
        .execute(
            "insert into testjobs (backend, remote_id, project, build, environment, state, created_at) \
             values ('lab', '7', 'p', 'b', 'e', 'postprocessing', 1); \
             insert into runs (testjob, generation, part, task_id, state, created_at) \
             select id, 1, 'tradefed', 't1', 'staging', 1 from testjobs",
        )
        .await;
    let config = config_of(&bench);
    let line = format!("node n1 --json --config {}", config.display());
    let ended = bed.drain(&line).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    let report = ended.objects().remove(0);
    assert_eq!(report["details_missing"], Value::Null);
    let tasks = report["holds"][0]["tasks"].as_array().unwrap();
    assert_eq!(tasks.len(), 1, "{tasks:?}");
    for (key, value) in [
        ("id", "t1"),
        ("testjob", "lab/7"),
        ("progress", "45 % of the modules"),
    ] {
        assert_eq!(tasks[0][key], value);
    }
    for key in ["started_at", "checkpoint_at", "estimated_end"] {
        assert!(tasks[0][key].is_i64(), "{key}: {}", tasks[0]);
    }
    // A store that answers with an error costs the details alone.
    bench.execute("alter table tasks rename to gone").await;
    let ended = bed.drain(&line).await;
    assert_eq!(ended.code, Some(5), "{}", ended.err);
    let report = ended.objects().remove(0);
    assert_eq!(report["holds"][0]["state"], "busy");
    assert!(report["details_missing"].is_string());
}

async fn a_pool_is_waited_for_until_the_store_says_that_nothing_runs(bench: Bench) {
    let bed = Bed::new();
    bed.cluster.add_pod(Pod::elastic("fetch", "f-0").on("n1"));
    let worker = worker_of(&bench, &bed, "f-0").await;
    bench.claimed(&worker, &task("t1")).await;
    let config = config_of(&bench);
    let line = format!("pool fetch --hand-off --wait --config {}", config.display());
    let mut drain = bed.start(&line);
    drain.said("working, asked to hand off", LIMIT).await;
    bench
        .execute("update tasks set state = 'done', ended_at = 1 where id = 't1'")
        .await;
    assert_eq!(drain.ended(LIMIT).await.code(), Some(0), "{}", drain.log());
}

/// A pinned worker process in the pod `p-0` that collects a test job, whose server answers `later`.
async fn busy_worker(scene: &Scene, later: LabFault) -> (Site, Child) {
    let site = Site::new();
    let pod = Pod::pinned("pinned", "p-0").on("n1");
    site.cluster.add_pod(pod.owner_statefulset("p", 1));
    let worker = scene.process(&site, "pinned", "p-0", &[]);
    scene.small_job("1");
    scene.lab.fail(later);
    scene.fetch("lab", "1").await;
    // The label alone would not do: it comes before the claim, which a cordon in between prevents.
    wait_until("it is at work", LIMIT, async || {
        scene.lab.count("suites") > 0
    })
    .await;
    assert!(site.label("p-0").is_some(), "the pod is busy");
    (site, worker)
}

async fn a_workers_node_is_drained_when_its_work_is_done(scene: Arc<Scene>) {
    let delay = Effect::Delay(Duration::from_secs(6));
    let later = LabFault::new("suites", delay).times(1);
    let (site, mut worker) = busy_worker(&scene, later).await;
    let kubeconfig = site.kubeconfig.to_str().unwrap();
    let line = [
        "drain",
        "node",
        "n1",
        "--wait",
        "--json",
        "--kubeconfig",
        kubeconfig,
    ];
    let idle = |_: &Cluster| site.label("p-0").is_none().then(Instant::now);
    let (output, end, stopped) = tokio::join!(
        scene.try_verb(&line),
        site.cluster.until("the work is done", idle),
        site.cluster.runs("p-0", &mut worker),
    );
    let took = end.elapsed();
    let ended = Ended::of(&output);
    assert_eq!(ended.code, Some(0), "{}", ended.err);
    assert!(took < SOON, "it took {took:?}");
    assert!(stopped.status.success() && !stopped.killed, "{stopped:?}");
    let objects = ended.objects();
    let busy = |report: &&Value| report["holds"][0]["tasks"][0]["testjob"] == "lab/1";
    let held = objects.iter().find(busy);
    let held = held.unwrap_or_else(|| panic!("nobody was told of lab/1: {}", ended.out));
    assert_eq!(held["holds"][0]["state"], "busy");
    assert_eq!(objects.last().unwrap()["outcome"], "done");
    assert_eq!(
        scene.find("lab", "1").await.unwrap().state,
        "postprocessing"
    );
}

async fn by_request_a_workers_node_is_drained_before_its_work_is_done(scene: Arc<Scene>) {
    let never = Effect::Delay(Duration::from_secs(600));
    let (site, mut worker) = busy_worker(&scene, LabFault::new("suites", never)).await;
    let kubeconfig = site.kubeconfig.to_str().unwrap();
    let line = [
        "drain",
        "node",
        "n1",
        "--wait",
        "--hand-off",
        "--kubeconfig",
        kubeconfig,
    ];
    let (output, stopped) =
        tokio::join!(scene.try_verb(&line), site.cluster.runs("p-0", &mut worker));
    assert!(stopped.status.success() && !stopped.killed, "{stopped:?}");
    Ended::of(&output).with(0, &["nothing of Longshore is left (1 evicted)"]);
    let all = Filter {
        id: None,
        state: Some(State::Queued),
        most: 10,
    };
    let queued = scene.bench.store.tasks(&all).await.unwrap();
    let counts = queued
        .iter()
        .map(|task| (task.interruptions, task.failures));
    assert_eq!(counts.collect::<Vec<_>>(), [(1, 0)], "{queued:?}");
}
