//! The kubelet's part: probes, and the end of pods that are deleted.

use std::process::ExitStatus;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use serde_json::{Value, json};

use super::Cluster;
use super::kind::Kind;
use super::server::Server;
use super::state::{Key, Record, set_condition};
use super::{NAMESPACE, state};
use crate::harness::{Child, LIMIT};

/// How the process of a pod has ended.
#[derive(Debug)]
#[must_use]
pub(crate) struct Stopped {
    pub(crate) status: ExitStatus,
    /// It did not end in its time.
    pub(crate) killed: bool,
    /// From SIGTERM on; none if it was told nothing.
    pub(crate) took: Option<Duration>,
}

/// What a process is owed.
#[derive(Debug, Clone, Copy)]
enum Time {
    Running,
    Until(SystemTime),
    /// Its pod is no more.
    Gone,
}

impl Cluster {
    /// The kubelet's part for the pod `name`, whose container is `process`, until that has ended: SIGTERM when the pod is
    /// deleted, SIGKILL at its deadline, also when that comes nearer, or when the pod is gone; then its phase, and the
    /// pod is removed if it was deleted.
    ///
    /// The deadline is `deletionTimestamp` to the second, without the seconds that the real kubelet is late or adds. A
    /// container that ends by itself is not started again.
    pub(crate) async fn runs(&self, name: &str, process: &mut Child) -> Stopped {
        let run = self.run(name, process);
        let stopped = tokio::time::timeout(2 * LIMIT, run).await;
        stopped.unwrap_or_else(|_| panic!("the pod {name} has not ended; {:#?}", self.log()))
    }

    async fn run(&self, name: &str, process: &mut Child) -> Stopped {
        let uid = self.pod(name).expect("the pod is there")["metadata"]["uid"].clone();
        let mut moves = self.server.moves();
        let (mut told, mut killed) = (None, false);
        let status = loop {
            moves.borrow_and_update();
            let time = self.time(name, &uid);
            if told.is_none() && !matches!(time, Time::Running) {
                process.signal("TERM");
                told = Some(Instant::now());
            }
            let over = async {
                match time {
                    Time::Until(deadline) if !killed => {
                        let left = deadline.duration_since(SystemTime::now());
                        tokio::time::sleep(left.unwrap_or_default()).await;
                    }
                    Time::Gone if !killed => {}
                    Time::Running | Time::Until(_) | Time::Gone => std::future::pending().await,
                }
            };
            tokio::select! {
                biased;
                status = process.wait() => break status,
                () = over => {
                    process.signal("KILL");
                    killed = true;
                }
                changed = moves.changed() => changed.expect("the server is there"),
            }
        };
        let took = told.map(|told| told.elapsed());
        self.has_ended(name, &uid, status);
        Stopped {
            status,
            killed,
            took,
        }
    }

    fn time(&self, name: &str, uid: &Value) -> Time {
        let pod = self.pod(name);
        let Some(pod) = pod.filter(|pod| pod["metadata"]["uid"] == *uid) else {
            return Time::Gone;
        };
        let deadline = pod["metadata"]["deletionTimestamp"].as_str();
        deadline.map_or(Time::Running, |deadline| {
            Time::Until(humantime::parse_rfc3339(deadline).unwrap())
        })
    }

    /// The pod's phase first, so that whoever watches sees it, then its removal.
    fn has_ended(&self, name: &str, uid: &Value, status: ExitStatus) {
        let key = Key::new(Kind::of("pods"), NAMESPACE, name);
        self.server.change(|state| {
            let pod = state.get(&key).cloned();
            let Some(mut pod) = pod.filter(|pod| pod["metadata"]["uid"] == *uid) else {
                return;
            };
            let phase = if status.success() {
                "Succeeded"
            } else {
                "Failed"
            };
            pod["status"]["phase"] = phase.into();
            // As a shell says it, if a signal ended it.
            let code = status.code().unwrap_or(128 + 9);
            pod["status"]["containerStatuses"] = json!([{
                "name": "worker", "restartCount": 0, "ready": false,
                "state": {"terminated": {"exitCode": code, "finishedAt": state::now()}},
            }]);
            let ready = json!({"type": "Ready", "status": "False", "reason": "PodCompleted"});
            set_condition(&mut pod["status"]["conditions"], ready);
            let pod = state.put(&key, pod);
            if !pod["metadata"]["deletionTimestamp"].is_null() {
                state.remove(&key);
            }
        });
    }

    /// The phases that the pod `name` has been in, so far.
    pub(crate) fn phases(&self, name: &str) -> Vec<String> {
        self.server.look(|state| {
            let mut phases = Vec::new();
            for record in &state.history {
                let Record::Change {
                    plural: "pods",
                    new: Some(pod),
                    ..
                } = record
                else {
                    continue;
                };
                let phase = pod["status"]["phase"].as_str().unwrap_or_default();
                if pod["metadata"]["name"] == name && phases.last().is_none_or(|last| last != phase)
                {
                    phases.push(phase.to_owned());
                }
            }
            phases
        })
    }

    /// What a readiness probe of the pod `name` has answered.
    pub(crate) fn probed(&self, name: &str, ready: bool) {
        let status = if ready { "True" } else { "False" };
        self.edit("pods", name, |pod| {
            let ready = json!({"type": "Ready", "status": status});
            set_condition(&mut pod["status"]["conditions"], ready);
        });
    }

    /// Pods have no process, so one that is deleted ends at once.
    pub(crate) fn pods_end_at_once(&self) {
        let server = Arc::clone(&self.server);
        tokio::spawn(async move {
            let mut moves = server.moves();
            loop {
                moves.borrow_and_update();
                for key in terminating(&server) {
                    server.change(|state| state.remove(&key));
                }
                moves.changed().await.expect("the server is there");
            }
        });
    }
}

fn terminating(server: &Server) -> Vec<Key> {
    server.look(|state| {
        let pods = state.all("pods");
        let ending = pods.filter(|(_, pod)| !pod["metadata"]["deletionTimestamp"].is_null());
        ending.map(|(key, _)| key.clone()).collect()
    })
}
