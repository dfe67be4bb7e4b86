//! What the store knows of pods: which tasks their workers run. A drain works without.

use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use tokio::time::Instant;

use crate::cli::{logs, open_store};
use crate::clock::{Clock, Millis};
use crate::config::{Config, LogFormat, StoreAddress};
use crate::kube::drain::PodView;
use crate::store::{RunningView, Store, StoreError};
use crate::testjob::plugin;

/// How long a look may take.
const LIMIT: Duration = Duration::from_secs(3);
/// A store that did not answer is not asked again for this long, so that it does not slow the drain down.
const REST: Duration = Duration::from_secs(15);

/// The tasks of each pod, by its uid.
pub(super) type Running = HashMap<String, Vec<RunningView>>;

/// The store, if there is one to ask.
pub(super) struct Details {
    store: Option<Store>,
    is_checked: bool,
    asked_again: Option<Instant>,
    /// Why nothing is known.
    missing: Option<String>,
}

impl Details {
    /// By the configuration, if one was named. One that is wrong or missing costs the details alone.
    pub(super) fn open(path: Option<PathBuf>) -> Self {
        let (store, missing) = match store(path) {
            Ok(store) => (Some(store), None),
            Err(why) => (None, Some(why)),
        };
        // The first to set it decides: the configuration's format, if there is one.
        logs(LogFormat::Text);
        Self {
            store,
            is_checked: false,
            asked_again: None,
            missing,
        }
    }

    /// Why nothing is known of what runs.
    pub(super) fn missing(&self) -> Option<&str> {
        self.missing.as_deref()
    }

    /// The time that the store's times are compared with.
    pub(super) fn now(&self) -> Millis {
        match &self.store {
            Some(store) => store.clock().now(),
            None => Clock::system().now(),
        }
    }

    /// What the workers in `pods` run. `None`: nobody can say ([`Details::missing`]).
    pub(super) async fn running(&mut self, pods: &[PodView]) -> Option<Running> {
        let store = self.store.clone()?;
        let now = Instant::now();
        if self.asked_again.is_some_and(|then| now < then) {
            return None;
        }
        let hosts = pods.iter().map(|pod| pod.name.as_str()).collect::<Vec<_>>();
        let asked = async {
            if !self.is_checked {
                store.check_schema().await?;
                store.anchor_clock().await?;
                self.is_checked = true;
            }
            store.running_on(&hosts).await
        };
        let answer = tokio::time::timeout(LIMIT, asked).await;
        let found = answer.map_err(|_| format!("the store did not answer in {LIMIT:?}"));
        match found.and_then(|rows| rows.map_err(|error: StoreError| error.to_string())) {
            Ok(rows) => {
                (self.missing, self.asked_again) = (None, None);
                Some(by_pod(rows, pods))
            }
            Err(why) => {
                (self.missing, self.asked_again) = (Some(why), Some(now + REST));
                None
            }
        }
    }

    /// Closes the connections, or leaves them to the end of the process.
    pub(super) async fn close(self) {
        if let Some(store) = self.store {
            let _closed = tokio::time::timeout(LIMIT / 3, store.close()).await;
        }
    }
}

fn store(path: Option<PathBuf>) -> Result<Store, String> {
    let is_set = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with("LONGSHORE__STORE__");
    if path.is_none() && !std::env::vars_os().any(|(name, _)| is_set(&name)) {
        return Err("no configuration was named (--config) that says where the store is".into());
    }
    let config =
        Config::load(path.as_deref(), std::env::vars_os(), &plugin::KNOWN).map_err(|problems| {
            let first = problems.first().map(ToString::to_string);
            format!(
                "the configuration is not sound (`longshore config check`): {}",
                first.unwrap_or_default()
            )
        })?;
    logs(config.worker.log);
    if let StoreAddress::Sqlite(path) = &config.store.address
        && !path.exists()
    {
        // To open it would make it.
        return Err(format!("there is no store at {}", path.display()));
    }
    open_store(&config).map_err(|error| error.to_string())
}

/// A worker's id begins with its pod's name and uid: a successor of the same name has another.
fn by_pod(rows: Vec<RunningView>, pods: &[PodView]) -> Running {
    let mut found = Running::new();
    for row in rows {
        let of = |pod: &&PodView| {
            let prefix = format!("{}.{}.", pod.name, pod.uid);
            row.worker.as_str().starts_with(&prefix)
        };
        if let Some(pod) = pods.iter().find(of) {
            found.entry(pod.uid.clone()).or_default().push(row);
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, TaskId, WorkerId};

    #[test]
    fn a_task_belongs_to_the_pod_that_runs_it_and_to_no_other_life_of_its_name() {
        let pod = |uid: &str| PodView {
            name: "p-0".into(),
            uid: uid.into(),
            ..PodView::default()
        };
        let row = |worker: &str| RunningView {
            worker: WorkerId::new(worker),
            id: TaskId::new(worker),
            name: "demo".into(),
            queue: "q".into(),
            epoch: Epoch::FIRST,
            testjob: None,
            started_at: None,
            checkpoint_at: None,
            progress: None,
        };
        let rows = vec![row("p-0.old.1"), row("p-0.new.1"), row("p-0.new.2")];
        let found = by_pod(rows, &[pod("new")]);
        assert_eq!(found.len(), 1);
        assert_eq!(found["new"].len(), 2);
    }
}
