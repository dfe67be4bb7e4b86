//! What `longshore drain` asks of the API server: cordon, look, ask for hand-off, evict.
//!
//! Never: a deletion, a shorter grace period, a pod that is not Longshore's, an eviction of a pod that is
//! labelled busy or is no longer what was looked at ([`plan`]). Each call has a time limit and none is
//! repeated here: that a budget refuses (429) is an answer. The eviction's body is built by hand, since
//! that of kube 5.0.0 spells `deleteOptions` so that the API server does not see them.

use std::error::Error as _;
use std::path::Path;
use std::time::Duration;

use futures::stream::{BoxStream, StreamExt as _};
use k8s_openapi::api::core::v1::{Node, Pod};
use kube::api::{Api, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::config::{KubeConfigOptions, Kubeconfig};
use serde_json::{Value, json};

use super::{HAND_OFF_ANNOTATION, POOL_LABEL};

pub mod plan;

pub use plan::{PodView, Standing, Step, Wanted};

/// How many pods one page of a list has.
const PAGE: u32 = 250;
/// How long one watch lasts.
const WATCH: Duration = Duration::from_secs(120);
/// Where pods are listed that may be in any namespace.
const EVERYWHERE: &str = " in all namespaces";

/// Why the API server did not do what it was asked.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Trouble {
    /// It cannot be reached, does not answer in time, or has too much to do: later it may.
    #[error("the API server does not answer: {0}")]
    Away(String),
    /// It refuses, and will until somebody mends something.
    #[error("the API server refuses to {what}: {reason} ({code})\n  {mend}")]
    Refused {
        /// What was asked, and where.
        what: String,
        /// The HTTP status.
        code: u16,
        /// What it said.
        reason: String,
        /// What to do.
        mend: String,
    },
    /// There is no such object.
    #[error("there is no {0}")]
    Missing(String),
    /// The object is another than the one that was looked at.
    #[error("{0} has changed meanwhile")]
    Changed(String),
}

/// What became of an eviction.
#[derive(Debug, Clone, PartialEq, Eq)]
#[must_use]
pub enum Evicted {
    /// The pod is being deleted, within its own grace period.
    Accepted,
    /// Not now: a budget, or the API server has too much to do.
    Waits(String),
    /// The pod is gone, or is another than the one that was looked at.
    Changed,
}

/// Whether a node takes new pods.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cordon {
    /// It did until now.
    Made,
    /// It did not before either.
    Found,
}

/// Which pods.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Which {
    /// Those on a node; of one namespace, or of all.
    OnNode {
        /// The node.
        node: String,
        /// Just this one.
        namespace: Option<String>,
    },
    /// Those of a pool.
    OfPool {
        /// The pool.
        pool: String,
        /// Its namespace.
        namespace: String,
    },
    /// One.
    Named {
        /// Its name.
        name: String,
        /// Its namespace.
        namespace: String,
    },
}

/// An API server, as somebody who drains asks it.
pub struct Cluster {
    client: kube::Client,
    address: String,
    limit: Duration,
}

impl std::fmt::Debug for Cluster {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Cluster({})", self.address)
    }
}

impl Cluster {
    /// The cluster that `kubeconfig` names; else the one of `KUBECONFIG`, of `~/.kube/config`, or of the own pod's
    /// service account. Nothing is asked yet. A call may take no longer than `limit`.
    ///
    /// # Errors
    ///
    /// What is wrong with the file, or that there is none. A file that was named is never passed over for another
    /// cluster.
    pub async fn connect(
        kubeconfig: Option<&Path>,
        context: Option<String>,
        limit: Duration,
    ) -> anyhow::Result<Self> {
        let is_named = context.is_some() || std::env::var_os("KUBECONFIG").is_some();
        let options = KubeConfigOptions {
            context,
            ..KubeConfigOptions::default()
        };
        let mut config = match kubeconfig {
            Some(path) => {
                let file = Kubeconfig::read_from(path)?;
                kube::Config::from_custom_kubeconfig(file, &options).await?
            }
            None if is_named => kube::Config::from_kubeconfig(&options).await?,
            None => kube::Config::infer().await?,
        };
        config.default_retry = false;
        config.connect_timeout = Some(limit);
        let address = config.cluster_url.to_string();
        Ok(Self {
            client: kube::Client::try_from(config)?,
            address,
            limit,
        })
    }

    /// Where it is.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// The namespace that is meant when none is named.
    pub fn namespace(&self) -> &str {
        self.client.default_namespace()
    }

    /// Sees to it that the node takes no new pods.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    pub async fn cordon(&self, node: &str) -> Result<Cordon, Trouble> {
        if self.is_cordoned(node).await? {
            return Ok(Cordon::Found);
        }
        let patch = Patch::Merge(json!({ "spec": { "unschedulable": true } }));
        let parameters = PatchParams::default();
        let nodes = self.nodes();
        let asked = nodes.patch(node, &parameters, &patch);
        self.call(&format!("patch node {node}"), asked).await?;
        Ok(Cordon::Made)
    }

    /// Whether the node takes no new pods.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    pub async fn is_cordoned(&self, node: &str) -> Result<bool, Trouble> {
        let nodes = self.nodes();
        let found = self
            .call(&format!("get node {node}"), nodes.get(node))
            .await?;
        Ok(found.spec.and_then(|spec| spec.unschedulable) == Some(true))
    }

    /// Longshore's pods among `which`, and the version from which on they can be watched. Of a name, the pod that has
    /// it, whoever's it is.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    pub async fn pods(&self, which: &Which) -> Result<(Vec<PodView>, String), Trouble> {
        let Selected {
            pods,
            labels,
            fields,
            place,
        } = self.select(which);
        let mut page = ListParams {
            label_selector: labels,
            field_selector: fields,
            ..ListParams::default()
        };
        let what = format!("list pods{place}");
        let (found, version) = self.every_page(&what, &pods, &mut page).await?;
        Ok((found.iter().map(PodView::of).collect(), version))
    }

    /// How many pods are on the node that are not Longshore's and that a drain by kubectl would evict.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    pub async fn others(&self, node: &str) -> Result<usize, Trouble> {
        let mut page = ListParams::default()
            .labels(&format!("!{POOL_LABEL}"))
            .fields(&format!("spec.nodeName={node}"));
        let pods = self.some_pods(None);
        let (found, _) = self
            .every_page(&format!("list pods{EVERYWHERE}"), &pods, &mut page)
            .await?;
        Ok(found.iter().filter(|pod| plan::is_evictable(pod)).count())
    }

    async fn every_page(
        &self,
        what: &str,
        pods: &Api<Pod>,
        page: &mut ListParams,
    ) -> Result<(Vec<Pod>, String), Trouble> {
        page.limit = Some(PAGE);
        let mut found = Vec::new();
        loop {
            let list = self.call(what, pods.list(page)).await?;
            found.extend(list.items);
            match list.metadata.continue_.filter(|token| !token.is_empty()) {
                Some(token) => page.continue_token = Some(token),
                None => {
                    let version = list.metadata.resource_version.unwrap_or_default();
                    return Ok((found, version));
                }
            }
        }
    }

    /// Something for each change of the pods that a look at `which` would find, from `version` on. It ends by itself:
    /// whoever waits for it looks from time to time as well.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    pub async fn changes(
        &self,
        which: &Which,
        version: &str,
    ) -> Result<BoxStream<'static, ()>, Trouble> {
        let Selected {
            pods,
            labels,
            fields,
            place,
        } = self.select(which);
        let parameters = WatchParams {
            label_selector: labels,
            field_selector: fields,
            timeout: u32::try_from(WATCH.as_secs()).ok(),
            ..WatchParams::default()
        };
        let what = format!("watch pods{place}");
        let stream = self
            .call(&what, pods.watch(&parameters, version))
            .await?
            .take_while(|event| {
                let goes_on = matches!(event, Ok(event) if !matches!(event, WatchEvent::Error(_)));
                std::future::ready(goes_on)
            })
            .filter_map(|event| {
                let is_change = !matches!(event, Ok(WatchEvent::Bookmark(_)));
                std::future::ready(is_change.then_some(()))
            });
        Ok(stream.boxed())
    }

    /// Asks a pod to hand off what it runs, or takes that back. Answers the pod as it is then.
    ///
    /// # Errors
    ///
    /// [`Trouble`].
    pub async fn ask_hand_off(&self, pod: &PodView, asked: bool) -> Result<PodView, Trouble> {
        let value = asked.then_some("true");
        // The uid keeps this from a successor of the same name.
        let patch = Patch::Merge(json!({
            "metadata": { "uid": pod.uid, "annotations": { HAND_OFF_ANNOTATION: value } },
        }));
        let pods = self.some_pods(Some(&pod.namespace));
        let parameters = PatchParams::default();
        let what = format!("patch pod {pod}");
        let patched = self
            .call(&what, pods.patch(&pod.name, &parameters, &patch))
            .await?;
        Ok(PodView::of(&patched))
    }

    /// Evicts a pod if it still is as it was looked at, and if its budget lets it.
    ///
    /// The API server asks the budget first: a pod that has changed has then taken one of the disruptions that its
    /// budget allows, for the two minutes after which nobody waits for its end any more.
    ///
    /// # Errors
    ///
    /// [`Trouble`], except what [`Evicted`] says.
    pub async fn evict(&self, pod: &PodView) -> Result<Evicted, Trouble> {
        let pods = self.some_pods(Some(&pod.namespace));
        let what = format!("evict pod {pod}");
        let parameters = PostParams::default();
        let body = eviction(pod);
        let asked = pods.create_subresource::<_, Value>("eviction", &pod.name, &parameters, &body);
        let error = match tokio::time::timeout(self.limit, asked).await {
            Ok(Ok(_)) => return Ok(Evicted::Accepted),
            Ok(Err(error)) => error,
            Err(_) => return Err(self.late()),
        };
        let kube::Error::Api(status) = &error else {
            return Err(trouble(&error, &what));
        };
        match status.code {
            429 => Ok(Evicted::Waits(refusal(status))),
            404 | 409 => Ok(Evicted::Changed),
            500 if status.message.contains("more than one PodDisruptionBudget") => {
                Err(Trouble::Refused {
                    what,
                    code: status.code,
                    reason: status.message.clone(),
                    mend: format!(
                        "leave one PodDisruptionBudget in namespace {} that selects this pod: the chart's",
                        pod.namespace
                    ),
                })
            }
            _ => Err(trouble(&error, &what)),
        }
    }

    async fn call<T>(
        &self,
        what: &str,
        asked: impl Future<Output = kube::Result<T>>,
    ) -> Result<T, Trouble> {
        match tokio::time::timeout(self.limit, asked).await {
            Ok(answer) => answer.map_err(|error| trouble(&error, what)),
            Err(_) => Err(self.late()),
        }
    }

    fn late(&self) -> Trouble {
        Trouble::Away(format!("nothing came in {:?}", self.limit))
    }

    fn nodes(&self) -> Api<Node> {
        Api::all(self.client.clone())
    }

    fn some_pods(&self, namespace: Option<&str>) -> Api<Pod> {
        match namespace {
            Some(namespace) => Api::namespaced(self.client.clone(), namespace),
            None => Api::all(self.client.clone()),
        }
    }

    fn select(&self, which: &Which) -> Selected {
        let (namespace, labels, fields) = match which {
            Which::OnNode { node, namespace } => (
                namespace.as_deref(),
                Some(POOL_LABEL.to_owned()),
                Some(format!("spec.nodeName={node}")),
            ),
            Which::OfPool { pool, namespace } => {
                let labels = format!("{POOL_LABEL}={pool}");
                (Some(namespace.as_str()), Some(labels), None)
            }
            Which::Named { name, namespace } => {
                let fields = format!("metadata.name={name}");
                (Some(namespace.as_str()), None, Some(fields))
            }
        };
        Selected {
            pods: self.some_pods(namespace),
            labels,
            fields,
            place: match namespace {
                Some(namespace) => format!(" in namespace {namespace}"),
                None => EVERYWHERE.to_owned(),
            },
        }
    }
}

/// How [`Which`] is put to the API server.
struct Selected {
    pods: Api<Pod>,
    labels: Option<String>,
    fields: Option<String>,
    /// For messages.
    place: String,
}

/// An eviction of the pod as it was looked at, with the pod's own grace period
/// (`policy/v1`, [the API's documentation](https://kubernetes.io/docs/concepts/scheduling-eviction/api-eviction/)).
fn eviction(pod: &PodView) -> Value {
    json!({
        "apiVersion": "policy/v1",
        "kind": "Eviction",
        "metadata": { "name": pod.name, "namespace": pod.namespace },
        "deleteOptions": { "preconditions": { "uid": pod.uid, "resourceVersion": pod.version } },
    })
}

/// Why an eviction has to wait: the budget's words, if there are any.
fn refusal(status: &kube::core::Status) -> String {
    let causes = status.details.iter().flat_map(|details| &details.causes);
    causes
        .map(|cause| cause.message.clone())
        .find(|message| !message.is_empty())
        .unwrap_or_else(|| status.message.clone())
}

fn trouble(error: &kube::Error, what: &str) -> Trouble {
    let kube::Error::Api(status) = error else {
        return Trouble::Away(chain(error));
    };
    let mend = match status.code {
        404 => return Trouble::Missing(object(what)),
        409 => return Trouble::Changed(object(what)),
        // To a patch that names another object's uid, the API server says that it cannot be changed.
        422 if is_about_uid(status) => return Trouble::Changed(object(what)),
        // Too old a version of a list, too: the next look begins anew.
        410 | 429 | 500.. => {
            return Trouble::Away(format!("{} ({})", status.message, status.code));
        }
        401 => "log in: the kubeconfig's credentials are not valid (any more)".to_owned(),
        403 if what.ends_with(EVERYWHERE) => {
            "grant this user that right (a ClusterRole), or name one namespace with --namespace"
                .to_owned()
        }
        403 => {
            "grant this user that right: the chart's rbac.drain has all that is needed".to_owned()
        }
        _ => "look at what the API server says".to_owned(),
    };
    Trouble::Refused {
        what: what.to_owned(),
        code: status.code,
        reason: status.message.clone(),
        mend,
    }
}

fn is_about_uid(status: &kube::core::Status) -> bool {
    let mut causes = status.details.iter().flat_map(|details| &details.causes);
    causes.any(|cause| cause.field == "metadata.uid")
}

/// What was asked without the verb: `node n1`.
fn object(what: &str) -> String {
    what.split_once(' ')
        .map_or(what, |(_, object)| object)
        .to_owned()
}

/// An error with what caused it: the client's own words are few.
fn chain(error: &kube::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        let cause_text = cause.to_string();
        if !text.contains(&cause_text) {
            text.push_str(": ");
            text.push_str(&cause_text);
        }
        source = cause.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn answer(value: Value) -> kube::Error {
        let status: kube::core::Status = serde_json::from_value(value).unwrap();
        kube::Error::Api(status.boxed())
    }

    #[test]
    fn an_eviction_names_the_pod_as_it_was_seen_where_the_api_server_looks_for_it() {
        let pod = PodView {
            name: "p-0".into(),
            namespace: "ci".into(),
            uid: "u".into(),
            version: "7".into(),
            ..PodView::default()
        };
        let body = eviction(&pod);
        let preconditions = &body["deleteOptions"]["preconditions"];
        assert_eq!(
            *preconditions,
            json!({ "uid": "u", "resourceVersion": "7" })
        );
        let parsed: k8s_openapi::api::policy::v1::Eviction = serde_json::from_value(body).unwrap();
        let options = parsed.delete_options.unwrap();
        assert_eq!(options.preconditions.unwrap().uid.as_deref(), Some("u"));
        assert_eq!(options.grace_period_seconds, None);
    }

    #[test]
    fn what_the_api_server_says_is_gone_changed_refused_or_for_later() {
        let of = |code: u16, what: &str| {
            trouble(&answer(json!({ "code": code, "message": "no" })), what)
        };
        assert_eq!(of(404, "get node n1"), Trouble::Missing("node n1".into()));
        assert_eq!(of(409, "patch pod a/b"), Trouble::Changed("pod a/b".into()));
        let uid = json!({
            "code": 422, "message": "no",
            "details": { "causes": [{ "reason": "FieldValueInvalid", "field": "metadata.uid" }] },
        });
        assert_eq!(
            trouble(&answer(uid), "patch pod a/b"),
            Trouble::Changed("pod a/b".into())
        );
        for code in [410, 429, 500, 503, 504] {
            assert_eq!(of(code, "x"), Trouble::Away(format!("no ({code})")));
        }
        for (code, what, mend) in [
            (401, "get node n1", "log in"),
            (403, "patch node n1", "rbac.drain"),
            (403, "list pods in all namespaces", "--namespace"),
            (422, "evict pod a/b", "look at"),
        ] {
            let text = of(code, what).to_string();
            assert!(text.contains(what) && text.contains(mend), "{text}");
        }
    }

    #[test]
    fn a_refused_eviction_says_which_budget_refused_it() {
        let cause = "The disruption budget busy needs 1 healthy pods and has 1 currently";
        let with_cause = json!({
            "code": 429, "message": "Cannot evict pod",
            "details": { "causes": [{ "reason": "DisruptionBudget", "message": cause }] },
        });
        let words = |value| {
            let kube::Error::Api(status) = answer(value) else {
                panic!("it is the API server's answer");
            };
            refusal(&status)
        };
        assert_eq!(words(with_cause), cause);
        assert_eq!(
            words(json!({ "code": 429, "message": "slow down" })),
            "slow down"
        );
    }
}
