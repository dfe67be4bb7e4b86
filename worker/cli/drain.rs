//! `longshore drain`: empties a node, a pod or a pool of work, and never by force.
//!
//! Exit codes: 0 done, 4 the deadline came, 5 refused (something holds it and nobody was to wait, or
//! somebody has to mend something), 6 the API server does not answer, 130 and 143 interrupted; 2 wrong
//! usage. Whatever happens, a node that was cordoned stays so, and the last words say how to undo it.

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};

use super::{Answer, Failure};
use crate::kube::HAND_OFF_ANNOTATION;
use crate::kube::drain::{Cluster, Wanted, Which};

mod details;
mod estimate;
mod flow;
mod screen;

use flow::{Flow, Target};
use screen::Outcome;

/// The longest that one call of the API server may take.
const CALL: Duration = Duration::from_secs(10);

#[derive(clap::Subcommand)]
pub(super) enum Verb {
    /// Cordons a node and evicts Longshore's pods from it, each as soon as it is idle
    Node {
        /// The node
        name: String,
        #[command(flatten)]
        eviction: Eviction,
    },
    /// Evicts one pod as soon as it is idle
    Pod {
        /// The pod
        name: String,
        #[command(flatten)]
        eviction: Eviction,
    },
    /// Asks all pods of a pool to hand off what they run and to take nothing new; evicts none
    #[command(group(clap::ArgGroup::new("what").required(true).args(["hand_off", "undo"])))]
    Pool {
        /// The pool
        name: String,
        /// Asks them
        #[arg(long)]
        hand_off: bool,
        /// Takes it back: they work again
        #[arg(long, conflicts_with = "wait")]
        undo: bool,
        #[command(flatten)]
        waiting: Waiting,
        #[command(flatten)]
        place: Place,
    },
}

/// How pods are evicted.
#[derive(clap::Args)]
pub(super) struct Eviction {
    /// Asks for what runs to be handed off, so that it goes on elsewhere
    #[arg(long)]
    hand_off: bool,
    #[command(flatten)]
    waiting: Waiting,
    #[command(flatten)]
    place: Place,
}

/// For how long.
#[derive(clap::Args)]
pub(super) struct Waiting {
    /// Waits until it is done, or until the deadline; else looks once
    #[arg(long)]
    wait: bool,
    /// The longest that is waited
    #[arg(long, default_value = "30m", requires = "wait", value_parser = humantime::parse_duration)]
    deadline: Duration,
    /// One JSON object for each change
    #[arg(long)]
    json: bool,
}

/// Which cluster, and where in it.
#[derive(clap::Args)]
pub(super) struct Place {
    /// The namespace; by default the kubeconfig's, and for a node all
    #[arg(long, short)]
    namespace: Option<String>,
    /// Says where the API server is; by default KUBECONFIG, ~/.kube/config or the pod's service account
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
    /// Which of the kubeconfig's contexts
    #[arg(long)]
    context: Option<String>,
}

pub(super) async fn run(config: Option<PathBuf>, verb: Verb) -> Answer {
    let details = details::Details::open(config);
    let (target, waiting, place) = read(verb)?;
    let Place {
        namespace,
        kubeconfig,
        context,
    } = place;
    let cluster = Cluster::connect(kubeconfig.as_deref(), context, CALL)
        .await
        .map_err(|error| {
            Failure::Wrong(format!(
                "the API server cannot be found: {error:#}\n  name a file with --kubeconfig"
            ))
        })?;
    let target = target.resolve(namespace, cluster.namespace());
    let Waiting {
        wait,
        deadline,
        json,
    } = waiting;
    // From here on an interruption is heard: a node may be cordoned any moment.
    let (mut interrupt, mut terminate) = (
        signal(SignalKind::interrupt())?,
        signal(SignalKind::terminate())?,
    );
    let mut flow = Flow::new(cluster, target, details, wait.then_some(deadline), json);
    let ended = {
        let run = std::pin::pin!(flow.run());
        tokio::select! {
            biased;
            _ = interrupt.recv() => Ok((Outcome::Interrupted, 130)),
            _ = terminate.recv() => Ok((Outcome::Interrupted, 143)),
            outcome = run => outcome.map(|outcome| (outcome, code(outcome))),
        }
    };
    let (outcome, code) = match ended {
        Ok(ended) => ended,
        Err(failure) => {
            flow.abandon().await;
            return Err(failure);
        }
    };
    flow.end(outcome).await?;
    Ok(ExitCode::from(code))
}

fn code(outcome: Outcome) -> u8 {
    match outcome {
        Outcome::Waiting | Outcome::Done => 0,
        Outcome::Deadline => 4,
        Outcome::Refused => 5,
        Outcome::Unreachable => 6,
        Outcome::Interrupted => 130,
    }
}

/// What is to be drained before the cluster is known, whose namespace may be meant.
struct Unplaced {
    kind: Kind,
    name: String,
    wanted: Wanted,
}

enum Kind {
    Node,
    Pod,
    Pool,
}

impl Unplaced {
    fn resolve(self, namespace: Option<String>, default: &str) -> Target {
        let Self { kind, name, wanted } = self;
        let here = || namespace.clone().unwrap_or_else(|| default.to_owned());
        let (words, which) = match kind {
            Kind::Node => {
                let node = name.clone();
                (format!("node {name}"), Which::OnNode { node, namespace })
            }
            Kind::Pod => {
                let namespace = here();
                (
                    format!("pod {namespace}/{name}"),
                    Which::Named { name, namespace },
                )
            }
            Kind::Pool => {
                let namespace = here();
                let words = format!("pool {name} in namespace {namespace}");
                (
                    words,
                    Which::OfPool {
                        pool: name,
                        namespace,
                    },
                )
            }
        };
        Target {
            words,
            which,
            wanted,
        }
    }
}

fn read(verb: Verb) -> Result<(Unplaced, Waiting, Place), Failure> {
    let evicted = |kind, name, eviction: Eviction| {
        let wanted = Wanted {
            hand_off: eviction.hand_off.then_some(true),
            evict: true,
        };
        (kind, name, wanted, eviction.waiting, eviction.place)
    };
    let (kind, name, wanted, waiting, place) = match verb {
        Verb::Node { name, eviction } => evicted(Kind::Node, name, eviction),
        Verb::Pod { name, eviction } => evicted(Kind::Pod, name, eviction),
        Verb::Pool {
            name,
            hand_off: asked,
            undo: _,
            waiting,
            place,
        } => {
            let wanted = Wanted {
                hand_off: Some(asked),
                evict: false,
            };
            (Kind::Pool, name, wanted, waiting, place)
        }
    };
    for (what, text) in [
        ("name", Some(&name)),
        ("namespace", place.namespace.as_ref()),
    ] {
        if text.is_some_and(|text| !is_name(text)) {
            return Err(Failure::Wrong(format!(
                "{:?} is not a {what}: those have letters, digits, '-', '.' and '_' alone",
                text.map_or("", String::as_str)
            )));
        }
    }
    Ok((Unplaced { kind, name, wanted }, waiting, place))
}

/// Whether it can stand in a selector without meaning more than itself.
fn is_name(text: &str) -> bool {
    let is_fit = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '.' | '_');
    !text.is_empty() && text.len() <= 253 && text.chars().all(is_fit)
}

/// How one pod's request is taken back by hand.
fn undo_pod(namespace: &str, pod: &str) -> String {
    format!("kubectl annotate pod -n {namespace} {pod} {HAND_OFF_ANNOTATION}-")
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::Parser as _;

    #[derive(clap::Parser)]
    struct Line {
        #[command(subcommand)]
        verb: Verb,
    }

    fn parse(line: &str) -> Result<Verb, clap::Error> {
        Line::try_parse_from(std::iter::once("drain").chain(line.split(' '))).map(|line| line.verb)
    }

    #[test]
    fn what_makes_no_sense_together_is_refused() {
        for line in [
            "node",
            "node n1 --deadline 5m",
            "node n1 --force",
            "pool fetch",
            "pool fetch --hand-off --undo",
            "pool fetch --undo --wait",
        ] {
            assert!(parse(line).is_err(), "{line}");
        }
        for line in [
            "node n1",
            "node n1 --wait --deadline 5m --hand-off --json",
            "pod p-0 -n ci --wait",
            "pool fetch --hand-off --wait",
            "pool fetch --undo",
        ] {
            assert!(parse(line).is_ok(), "{line}");
        }
    }

    #[test]
    fn a_name_that_would_widen_a_selector_is_refused() {
        for line in [
            "node n1,n2",
            "pod p=0",
            "pool a,b --hand-off",
            "node n1 -n a/b",
        ] {
            let verb = parse(line).unwrap_or_else(|error| panic!("{error}"));
            assert!(matches!(read(verb), Err(Failure::Wrong(_))), "{line}");
        }
    }

    #[test]
    fn each_end_has_a_code_of_its_own() {
        let codes = [
            Outcome::Done,
            Outcome::Deadline,
            Outcome::Refused,
            Outcome::Unreachable,
            Outcome::Interrupted,
        ]
        .map(code);
        assert_eq!(codes, [0, 4, 5, 6, 130]);
    }
}
