//! The kubelet's part: probes, and the end of pods that are deleted.

use std::sync::Arc;

use serde_json::json;

use super::Cluster;
use super::server::Server;
use super::state::{Key, set_condition};

impl Cluster {
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
