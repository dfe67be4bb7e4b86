//! The busy label against a drain, in random interleavings of their requests: never an attempt on an evicted pod.

use longshore::kube::busy::Admission;
use serde_json::{Value, json};

use super::Site;
use crate::cluster::{Cluster, Held, Rule};

const ROUNDS: usize = 1000;

/// How a drain goes about it.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Drainer {
    /// Cordons, then evicts: `kubectl drain`, the autoscalers. The eviction's decision and its deletion are apart.
    Cordons,
    /// Evicts without a cordon, decision and deletion in one.
    Evicts,
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_attempt_begins_on_a_pod_that_is_evicted_in_a_thousand_interleavings() {
    let site = Site::new();
    let mut random = Random(0x1090_5403);
    let (mut began, mut evicted) = (0, 0);
    for round in 0..ROUNDS {
        let drainer = if random.below(2) == 0 {
            Drainer::Cordons
        } else {
            Drainer::Evicts
        };
        let (went, gone) = play(&site, &mut random, round, drainer).await;
        assert!(
            !(went && gone),
            "round {round}, {drainer:?}: an attempt began on an evicted pod; {:#?}",
            site.cluster.log().iter().rev().take(12).collect::<Vec<_>>()
        );
        began += usize::from(went);
        evicted += usize::from(gone);
    }
    // Both won often enough for the test to say something.
    assert!(
        began > ROUNDS / 20 && evicted > ROUNDS / 20,
        "{began} began, {evicted} evicted"
    );
}

/// One round: whether the attempt began, and whether the pod was evicted.
async fn play(site: &Site, random: &mut Random, round: usize, drainer: Drainer) -> (bool, bool) {
    let name = format!("p-{round}");
    let pod = site.pinned(&name).await;
    let cluster = &site.cluster;
    let mut gates = vec![cluster.gate(Rule::on("*", "*"))];
    if drainer == Drainer::Cordons {
        gates.push(cluster.gate(Rule::on("create", "pods/eviction").decided()));
    }
    let admitting = tokio::spawn({
        let pod = pod.clone();
        async move { pod.admit().await }
    });
    let draining = tokio::spawn(drain(cluster.url(), name.clone(), drainer));
    // Whose turn it is: only that one's requests go on, until the turn changes.
    let (mut held, mut drains_turn) = (Vec::new(), random.below(2) == 0);
    while !(admitting.is_finished() && draining.is_finished()) {
        for gate in &mut gates {
            while let Some(request) = gate.waiting() {
                held.push(request);
            }
        }
        let turn = held
            .iter()
            .position(|request| is_drain(request) == drains_turn);
        let is_over = if drains_turn {
            draining.is_finished()
        } else {
            admitting.is_finished()
        };
        match turn {
            Some(at) => {
                held.swap_remove(at).release();
                drains_turn ^= random.below(3) == 0;
            }
            None if is_over => drains_turn = !drains_turn,
            None => tokio::task::yield_now().await,
        }
    }
    drop(gates);
    let went = admitting.await.unwrap() == Admission::Go;
    draining.await.unwrap();
    let gone = is_evicted(cluster, &name);
    site.cordon(false);
    if cluster.pod(&name).is_some() {
        cluster.remove("pods", &name);
    }
    (went, gone)
}

fn is_drain(request: &Held) -> bool {
    matches!(
        (request.seen.verb, request.seen.resource.as_str()),
        ("patch", "nodes") | ("create", "pods/eviction")
    )
}

fn is_evicted(cluster: &Cluster, name: &str) -> bool {
    cluster
        .pod(name)
        .is_none_or(|pod| pod["metadata"]["deletionTimestamp"] != Value::Null)
}

async fn drain(url: String, name: String, drainer: Drainer) {
    let client = reqwest::Client::new();
    if drainer == Drainer::Cordons {
        let answer = client
            .patch(format!("{url}/api/v1/nodes/n1"))
            .header("content-type", "application/merge-patch+json")
            .body(json!({ "spec": { "unschedulable": true } }).to_string())
            .send()
            .await
            .unwrap();
        assert!(answer.status().is_success(), "{answer:?}");
    }
    let eviction =
        json!({ "apiVersion": "policy/v1", "kind": "Eviction", "metadata": { "name": name } });
    let answer = client
        .post(format!(
            "{url}/api/v1/namespaces/longshore/pods/{name}/eviction"
        ))
        .header("content-type", "application/json")
        .body(eviction.to_string())
        .send()
        .await
        .unwrap();
    let code = answer.status().as_u16();
    assert!(matches!(code, 201 | 429), "{answer:?}");
}

/// Numbers that are the same in each run (xorshift).
struct Random(u64);

impl Random {
    fn below(&mut self, end: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % end
    }
}
