//! The real program in pods, with real signals, and the real kubectl.

use std::sync::Arc;
use std::time::{Duration, Instant};

use longshore::handler::Registry;
use longshore::lab::{Effect, Fault};

use super::{Site, pinned};
use crate::cluster::{DRAIN, Kubectl, Pod, Rule};
use crate::harness::{Child, LIMIT, wait_for, wait_until};
use crate::scene::{GRACE, Scene, on_both_with};

/// A pinned pool that fetches, an elastic one of the same queue, and leases that nobody waits for.
pub(crate) const SETTINGS: &str = "[worker]\nlease = \"10m\"\ngrace = \"8s\"\nmargin = \"1s\"\ncheckpoint_every = \"100ms\"\n\
    [pools.pinned]\nkind = \"pinned\"\nqueues = [\"ci_fetch\"]\n\
    [pools.elastic]\nkind = \"elastic\"\nqueues = [\"ci_fetch\"]\n";

on_both_with!(
    super::SETTINGS;
    a_drain_waits_for_a_busy_worker_and_ends_soon_after_its_work,
    an_elastic_process_on_a_cordoned_node_hands_off_before_it_is_told_to_end,
    a_process_hands_off_and_ends_before_its_kubelet_kills_it,
    a_process_that_does_not_end_is_killed_at_its_deadline,
    the_tasks_of_a_pod_that_is_gone_run_elsewhere_at_once,
    probes_and_metrics_say_how_it_is,
    an_api_server_that_is_away_is_said_once_and_shown,
);

/// What the server's answers wait for, in the stand-in LAVA: long enough to be met at work.
const SLOW: Duration = Duration::from_secs(6);

impl Scene {
    /// A worker process in the pod `name`.
    pub(crate) fn process(
        &self,
        site: &Site,
        pool: &str,
        name: &str,
        more: &[(&str, &str)],
    ) -> Child {
        let identity = site.settings(name).identity.unwrap();
        let kubeconfig = site.kubeconfig.to_str().unwrap();
        let mut variables = vec![
            ("LONGSHORE__KUBERNETES__POD", identity.pod.as_str()),
            (
                "LONGSHORE__KUBERNETES__NAMESPACE",
                identity.namespace.as_str(),
            ),
            ("LONGSHORE__KUBERNETES__UID", identity.uid.as_str()),
            ("LONGSHORE__KUBERNETES__NODE", "n1"),
            ("LONGSHORE__KUBERNETES__KUBECONFIG", kubeconfig),
        ];
        variables.extend(more);
        let config = self.config.to_str().unwrap();
        let arguments = ["run", "--pool", pool, "--config", config];
        Child::start(&self.bench.folder, &arguments, &variables)
    }
}

async fn a_drain_waits_for_a_busy_worker_and_ends_soon_after_its_work(scene: Arc<Scene>) {
    let site = Site::new();
    site.cluster.add_pod(
        Pod::pinned("pinned", "p-0")
            .on("n1")
            .owner_statefulset("p", 1),
    );
    let mut worker = scene.process(&site, "pinned", "p-0", &[]);
    scene.small_job("1");
    scene
        .lab
        .fail(Fault::new("suites", Effect::Delay(SLOW)).times(1));
    scene.fetch("lab", "1").await;
    // The label alone would not do: it comes before the claim, which a cordon in between prevents.
    wait_until("it is at work", LIMIT, async || {
        scene.lab.count("suites") > 0
    })
    .await;
    assert!(site.label("p-0").is_some(), "the pod is busy");
    let kubectl = Kubectl::of(&site.cluster);
    let draining = kubectl.start(DRAIN);
    let eviction = Rule::on("create", "pods/eviction");
    site.cluster
        .until("the drain was refused", |cluster| {
            let refused = |seen: &crate::cluster::Seen| seen.code == Some(429);
            cluster
                .requests(&eviction)
                .iter()
                .any(refused)
                .then_some(())
        })
        .await;
    let job = scene.find("lab", "1").await.expect("it is being fetched");
    assert_ne!(job.state, "complete", "the drain came while it was at work");
    let drained = tokio::spawn(crate::cluster::ended(draining));
    let finished = async {
        scene.reaches("lab", "1", "postprocessing").await;
        Instant::now()
    };
    let (finished, stopped) = tokio::join!(finished, site.cluster.runs("p-0", &mut worker));
    assert!(stopped.status.success() && !stopped.killed, "{stopped:?}");
    let output = drained.await.unwrap();
    assert!(output.status.success(), "{output:?}");
    // kubectl tries every five seconds.
    let waited = finished.elapsed();
    assert!(
        waited < Duration::from_secs(7),
        "the drain ended {waited:?} after the work"
    );
    let disturbed = "select count(*) from tasks where interruptions + crashes > 0";
    assert_eq!(scene.bench.number(disturbed).await, 0);
}

async fn an_elastic_process_on_a_cordoned_node_hands_off_before_it_is_told_to_end(
    scene: Arc<Scene>,
) {
    let site = Site::new();
    site.cluster
        .add_pod(Pod::elastic("elastic", "e-0").on("n1"));
    let mut worker = scene.process(&site, "elastic", "e-0", &[]);
    scene.small_job("1");
    scene
        .lab
        .fail(Fault::new("suites", Effect::Delay(LIMIT)).times(1));
    scene.fetch("lab", "1").await;
    wait_until("it is at work", LIMIT, async || {
        scene.lab.count("suites") > 0
    })
    .await;
    let kubectl = Kubectl::of(&site.cluster);
    kubectl.says(&["cordon", "n1"]).await;
    let handed_off = "select count(*) from tasks where state = 'queued' and interruptions = 1";
    wait_until("the task is handed off", LIMIT, async || {
        scene.bench.number(handed_off).await == 1
    })
    .await;
    kubectl.says(&["uncordon", "n1"]).await;
    scene.reaches("lab", "1", "postprocessing").await;
    worker.signal("TERM");
    assert!(worker.ended(GRACE).await.success());
}

async fn a_process_hands_off_and_ends_before_its_kubelet_kills_it(scene: Arc<Scene>) {
    // The configuration knows nothing of the pod's four seconds.
    scene.configure("grace = \"8s\"", "grace = \"1h\"");
    let site = Site::new();
    // A pinned one is not asked before SIGTERM. It hands off when its drain begins; were it deaf, then at the pod's deadline.
    let pod = Pod::pinned("pinned", "p-0").on("n1").grace(4);
    site.cluster.add_pod(pod.owner_statefulset("p", 1));
    let mut worker = scene.process(&site, "pinned", "p-0", &[]);
    scene.small_job("1");
    scene
        .lab
        .fail(Fault::new("suites", Effect::Delay(2 * LIMIT)));
    scene.fetch("lab", "1").await;
    wait_until("it is at work", LIMIT, async || {
        scene.lab.count("suites") > 0
    })
    .await;
    let kubectl = Kubectl::of(&site.cluster);
    let delete = ["delete", "pod", "p-0", "--wait=false"];
    let (stopped, _said) =
        tokio::join!(site.cluster.runs("p-0", &mut worker), kubectl.says(&delete));
    assert!(stopped.status.success() && !stopped.killed, "{stopped:?}");
    let deadline = Duration::from_secs(4);
    assert!(
        stopped.took.is_some_and(|took| took < deadline),
        "{stopped:?}"
    );
    let handed_off =
        "select count(*) from tasks where state = 'queued' and interruptions = 1 and crashes = 0";
    assert_eq!(scene.bench.number(handed_off).await, 1);
    assert_eq!(site.cluster.phases("p-0"), ["Running", "Succeeded"]);
    assert!(site.cluster.pod("p-0").is_none());
}

/// That the test above could fail.
async fn a_process_that_does_not_end_is_killed_at_its_deadline(scene: Arc<Scene>) {
    let site = Site::new();
    let pod = Pod::elastic("elastic", "e-0").on("n1");
    site.cluster.add_pod(pod.grace(3600));
    let mut worker = scene.process(&site, "elastic", "e-0", &[]);
    worker.signal("STOP");
    let kubectl = Kubectl::of(&site.cluster);
    let told = Instant::now();
    let deletions = async {
        kubectl
            .says(&["delete", "pod", "e-0", "--wait=false"])
            .await;
        let shorter = ["--wait=false", "--grace-period=2"];
        kubectl
            .says(&[&["delete", "pod", "e-0"], &shorter[..]].concat())
            .await;
    };
    let (stopped, ()) = tokio::join!(site.cluster.runs("e-0", &mut worker), deletions);
    assert!(stopped.killed && !stopped.status.success(), "{stopped:?}");
    assert!(told.elapsed() < LIMIT, "{stopped:?}");
    assert_eq!(site.cluster.phases("e-0"), ["Running", "Failed"]);
    assert!(site.cluster.pod("e-0").is_none());
}

async fn the_tasks_of_a_pod_that_is_gone_run_elsewhere_at_once(scene: Arc<Scene>) {
    let site = Site::new();
    // The leader first, so that it knows the pod while it lives.
    let leader = scene.inside(Registry::default(), pinned(site.pinned("leader").await));
    let listing = Rule::on("watch", "pods");
    site.cluster
        .until("the leader follows the pods", |cluster| {
            let all = |seen: &crate::cluster::Seen| seen.query.contains_key("labelSelector");
            cluster.requests(&listing).iter().any(all).then_some(())
        })
        .await;
    site.cluster
        .add_pod(Pod::elastic("elastic", "e-0").on("n1"));
    site.cluster
        .add_pod(Pod::elastic("elastic", "e-1").on("n1"));
    let worker = scene.process(&site, "elastic", "e-0", &[]);
    scene.small_job("1");
    scene
        .lab
        .fail(Fault::new("suites", Effect::Delay(LIMIT)).times(1));
    scene.fetch("lab", "1").await;
    wait_until("it is at work", LIMIT, async || {
        scene.lab.count("suites") > 0
    })
    .await;
    // As on a node that is lost: nobody hears of the process, its lock and its lease of ten minutes are there.
    scene.bench.freeze(&worker).await;
    let mut heir = scene.process(&site, "elastic", "e-1", &[]);
    let lost = Instant::now();
    site.cluster.remove("pods", "e-0");
    scene.reaches("lab", "1", "postprocessing").await;
    assert!(lost.elapsed() < LIMIT, "it took {:?}", lost.elapsed());
    worker.signal("KILL");
    heir.signal("TERM");
    assert!(heir.ended(GRACE).await.success());
    leader.stop().await;
    let _exit = leader.ended().await;
}

/// Where a worker answers probes.
pub(crate) async fn address(worker: &Child) -> String {
    wait_for("it says where it listens", LIMIT, async || {
        let log = worker.log();
        let (_, rest) = log.split_once("answering probes")?;
        let (_, rest) = rest.split_once("address=")?;
        Some(rest.split_whitespace().next()?.to_owned())
    })
    .await
}

pub(crate) async fn get(address: &str, path: &str) -> (u16, String) {
    let _installed = rustls::crypto::ring::default_provider().install_default();
    let answer = reqwest::get(format!("http://{address}{path}"))
        .await
        .unwrap();
    (answer.status().as_u16(), answer.text().await.unwrap())
}

async fn probes_and_metrics_say_how_it_is(scene: Arc<Scene>) {
    let site = Site::new();
    site.cluster.add_pod(
        Pod::pinned("pinned", "p-0")
            .on("n1")
            .owner_statefulset("p", 1),
    );
    let listen = [("LONGSHORE__HTTP__LISTEN", "127.0.0.1:0")];
    let mut worker = scene.process(&site, "pinned", "p-0", &listen);
    let address = address(&worker).await;
    let get = async |path: &str| get(&address, path).await;
    for path in ["/startupz", "/readyz"] {
        wait_until(path, LIMIT, async || get(path).await.0 == 200).await;
    }
    assert_eq!(get("/livez").await, (200, "alive\n".into()));
    scene.small_job("1");
    scene.fetch("lab", "1").await;
    scene.reaches("lab", "1", "postprocessing").await;
    let done =
        "longshore_tasks_total{name=\"testjob.fetch\",queue=\"ci_fetch\",outcome=\"succeeded\"} 1";
    wait_until("the task is counted", LIMIT, async || {
        get("/metrics").await.1.contains(done)
    })
    .await;
    for metric in [
        "longshore_busy",
        "longshore_kubernetes_lost",
        "longshore_checkpoint_age_seconds",
    ] {
        let metrics = get("/metrics").await.1;
        assert!(
            metrics.lines().any(|line| line.starts_with(metric)),
            "{metric}: {metrics}"
        );
    }
    // By request quiet is ready, and so is busy: an unready pod would be the first to go.
    site.cordon(true);
    let quiet = "longshore_quiet 1";
    wait_until("it is quiet", LIMIT, async || {
        get("/metrics").await.1.contains(quiet)
    })
    .await;
    assert_eq!(get("/readyz").await.0, 200);
    worker.signal("TERM");
    assert!(worker.ended(GRACE).await.success());
}

async fn an_api_server_that_is_away_is_said_once_and_shown(scene: Arc<Scene>) {
    let site = Site::new();
    site.cluster
        .add_pod(Pod::elastic("elastic", "e-0").on("n1"));
    site.cluster.away();
    let listen = [("LONGSHORE__HTTP__LISTEN", "127.0.0.1:0")];
    let mut worker = scene.process(&site, "elastic", "e-0", &listen);
    let address = address(&worker).await;
    let shows = async |what: &str| {
        wait_until(what, LIMIT, async || {
            let (_, metrics) = get(&address, "/metrics").await;
            metrics.lines().any(|line| line == what)
        })
        .await;
    };
    shows("longshore_kubernetes_errors_total{call=\"watch_pod\"} 3").await;
    shows("longshore_kubernetes_lost 1").await;
    let said = |words: &str| {
        let log = worker.log();
        let lines = log.lines();
        lines
            .filter(|line| line.contains(words) && line.contains("watch_pod"))
            .count()
    };
    assert_eq!(said("the API server fails"), 1, "{}", worker.log());
    site.cluster.back();
    shows("longshore_kubernetes_lost 0").await;
    assert_eq!(said("the API server answers again"), 1, "{}", worker.log());
    worker.signal("TERM");
    assert!(worker.ended(GRACE).await.success());
}
