//! What ends pods: the kubelet's part of a deletion.

use std::sync::Arc;

use super::Cluster;
use super::server::Server;
use super::state::Key;

impl Cluster {
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
