//! A drain: look, do what can be done, show what holds it, and wait for the next change.

use std::collections::HashMap;
use std::time::Duration;

use futures::FutureExt as _;
use futures::stream::{BoxStream, StreamExt as _};
use tokio::time::Instant;

use super::details::{Details, Running as Tasks};
use super::estimate::Estimates;
use super::screen::{Hold, Outcome, Report, Running, Screen};
use super::undo_pod;
use crate::cli::Failure;
use crate::kube::drain::{
    Cluster, Cordon, Evicted, PodView, Standing, Step, Trouble, Wanted, Which,
};

/// The longest between two looks.
const LOOK: Duration = Duration::from_secs(2);
/// The least between two looks, however much changes.
const PAUSE: Duration = Duration::from_millis(200);
/// How often one pass is made again at once because something changed under its hands.
const AGAIN: usize = 3;

/// What is drained.
pub(super) struct Target {
    /// `node n1`.
    pub(super) words: String,
    pub(super) which: Which,
    pub(super) wanted: Wanted,
}

/// One drain.
pub(super) struct Flow {
    cluster: Cluster,
    target: Target,
    details: Details,
    estimates: Estimates,
    screen: Screen,
    /// `None`: one look.
    wait: Option<Duration>,
    changes: Option<BoxStream<'static, ()>>,
    /// From which version on changes are news.
    version: String,
    /// The uid of the pod that is drained: a successor of its name is another.
    uid: Option<String>,
    /// The API server did not answer the last look; or there was none.
    is_away: bool,
    /// What was said of that.
    told: Option<String>,
    /// Something was not as it was looked at.
    again: bool,
    /// Pods that were annotated.
    asked: usize,
    report: Report,
}

/// Why a pass did not come to its end.
enum Stop {
    Trouble(Trouble),
    Wrong(String),
}

impl From<Trouble> for Stop {
    fn from(trouble: Trouble) -> Self {
        match trouble {
            Trouble::Missing(what) => Self::Wrong(format!("there is no {what}")),
            other @ (Trouble::Away(_) | Trouble::Refused { .. } | Trouble::Changed(_)) => {
                Self::Trouble(other)
            }
        }
    }
}

impl Flow {
    pub(super) fn new(
        cluster: Cluster,
        target: Target,
        details: Details,
        wait: Option<Duration>,
        as_json: bool,
    ) -> Self {
        let screen = Screen::new(as_json, wait.is_some());
        let report = Report {
            outcome: Outcome::Waiting,
            target: target.words.clone(),
            cordoned: None,
            holds: Vec::new(),
            evicted: Vec::new(),
            others: None,
            details_missing: None,
            problems: Vec::new(),
        };
        Self {
            cluster,
            target,
            details,
            estimates: Estimates::default(),
            screen,
            wait,
            changes: None,
            version: String::new(),
            uid: None,
            is_away: true,
            told: None,
            again: false,
            asked: 0,
            report,
        }
    }

    /// Drains until it is done, must not go on, or shall not wait any longer.
    ///
    /// # Cancel safety
    ///
    /// What was asked of the API server may have been done; [`Flow::end`] says how to take it back.
    pub(super) async fn run(&mut self) -> Result<Outcome, Failure> {
        let Some(wait) = self.wait else {
            return self.once().await;
        };
        let end = Instant::now() + wait;
        loop {
            // The deadline may come in the midst of a pass.
            let Ok(passed) = tokio::time::timeout_at(end, self.pass()).await else {
                return Ok(self.late());
            };
            if let Some(outcome) = self.take(passed)? {
                return Ok(outcome);
            }
            if !self.is_away {
                self.screen.show(&self.report, self.details.now())?;
            }
            if !self.next_look(end).await {
                return Ok(self.late());
            }
        }
    }

    /// One pass; or some, if what it looks at changes under its hands.
    async fn once(&mut self) -> Result<Outcome, Failure> {
        for _ in 0..AGAIN {
            let passed = self.pass().await;
            if let Some(outcome) = self.take(passed)? {
                return Ok(outcome);
            }
            if !self.again {
                break;
            }
        }
        Ok(Outcome::Refused)
    }

    /// Whether the drain ends with this pass, and how.
    fn take(&mut self, passed: Result<(), Stop>) -> Result<Option<Outcome>, Failure> {
        match passed {
            Ok(()) => {
                self.is_away = false;
                if self.told.take().is_some() {
                    self.screen.note("the API server answers again");
                }
                if !self.report.problems.is_empty() {
                    return Ok(Some(Outcome::Refused));
                }
                Ok(self.is_done().then_some(Outcome::Done))
            }
            Err(Stop::Wrong(text)) => Err(Failure::Wrong(text)),
            Err(Stop::Trouble(Trouble::Changed(_))) => {
                self.again = true;
                Ok(None)
            }
            Err(Stop::Trouble(away @ Trouble::Away(_))) => {
                self.is_away = true;
                if self.wait.is_none() {
                    self.report.problems.push(away.to_string());
                    return Ok(Some(Outcome::Unreachable));
                }
                if self.told.replace(away.to_string()).is_none() {
                    self.screen
                        .note(&format!("{away}; it is tried again until the deadline"));
                }
                Ok(None)
            }
            Err(Stop::Trouble(other)) => {
                self.report.problems.push(other.to_string());
                Ok(Some(Outcome::Refused))
            }
        }
    }

    /// How it ends when the deadline comes.
    fn late(&mut self) -> Outcome {
        if self.is_away {
            self.report.problems.extend(self.told.take());
            Outcome::Unreachable
        } else {
            Outcome::Deadline
        }
    }

    /// Waits for a change, or for a while. False: the deadline has come.
    async fn next_look(&mut self, end: Instant) -> bool {
        let next = Instant::now() + LOOK;
        if self.changes.is_none() && !self.version.is_empty() {
            let opened = self.cluster.changes(&self.target.which, &self.version);
            let opened = tokio::time::timeout_at(next.min(end), opened).await;
            // Without, it is looked at from time to time alone.
            self.changes = opened.ok().and_then(Result::ok);
        }
        tokio::time::sleep_until((Instant::now() + PAUSE).min(end)).await;
        if let Some(changes) = &mut self.changes {
            match tokio::time::timeout_at(next.min(end), changes.next()).await {
                Ok(Some(())) => {
                    // One look answers all that has come.
                    while let Some(Some(())) = changes.next().now_or_never() {}
                }
                Ok(None) => self.changes = None,
                Err(_) => {}
            }
        }
        if self.changes.is_none() {
            tokio::time::sleep_until(next.min(end)).await;
        }
        Instant::now() < end
    }

    /// One look, and what follows from it.
    async fn pass(&mut self) -> Result<(), Stop> {
        self.again = false;
        self.see_to_node().await?;
        if !self.report.problems.is_empty() {
            return Ok(());
        }
        let mut pods = self.look().await?;
        let mut refused = HashMap::new();
        let mut has_acted = false;
        for pod in &mut pods {
            has_acted |= self.see_to_pod(pod, &mut refused).await?;
        }
        if has_acted {
            // What is said is how it is now.
            pods = self.look().await?;
        }
        let tasks = self.details.running(&pods).await;
        self.report.details_missing = self.details.missing().map(str::to_owned);
        pods.retain(|pod| self.holds(pod, tasks.as_ref()));
        let estimates = &mut self.estimates;
        let holds = pods
            .iter()
            .map(|pod| hold(pod, tasks.as_ref(), estimates, &refused));
        self.report.holds = holds.collect();
        Ok(())
    }

    /// Cordons the node, once. Whoever takes that back later wants the drain to end.
    async fn see_to_node(&mut self) -> Result<(), Stop> {
        let Which::OnNode { node, .. } = &self.target.which else {
            return Ok(());
        };
        if self.report.cordoned.is_none() {
            let cordoned = self.cluster.cordon(node).await?;
            self.report.cordoned = Some(true);
            // How many others there are may be more than this user is allowed to know.
            self.report.others = self.cluster.others(node).await.ok();
            self.screen.note(&match cordoned {
                Cordon::Made => format!("node {node} of {} is cordoned", self.cluster.address()),
                Cordon::Found => format!(
                    "node {node} of {} was cordoned already",
                    self.cluster.address()
                ),
            });
            return Ok(());
        }
        match self.cluster.is_cordoned(node).await {
            Ok(true) | Err(Trouble::Missing(_)) => Ok(()),
            Ok(false) => {
                self.report.cordoned = Some(false);
                let text = format!(
                    "somebody has uncordoned node {node}: the drain ends; run it again if it shall go on"
                );
                self.report.problems.push(text);
                Ok(())
            }
            Err(other) => Err(other.into()),
        }
    }

    /// The pods that are to be drained, as they are now.
    async fn look(&mut self) -> Result<Vec<PodView>, Stop> {
        let (mut pods, version) = self.cluster.pods(&self.target.which).await?;
        let is_first = self.version.is_empty();
        match &self.target.which {
            Which::OnNode { .. } => {}
            Which::Named { name, namespace } => {
                if is_first {
                    self.uid = Some(drainable(&pods, namespace, name)?);
                }
                pods.retain(|pod| Some(&pod.uid) == self.uid.as_ref());
            }
            Which::OfPool { pool, namespace } if is_first && pods.is_empty() => {
                return Err(Stop::Wrong(format!(
                    "there is no pod of a pool {pool} in namespace {namespace}"
                )));
            }
            Which::OfPool { .. } => {}
        }
        self.version = version;
        pods.retain(PodView::counts);
        Ok(pods)
    }

    /// Asks and evicts, as is wanted. Whether anything came of it.
    async fn see_to_pod(
        &mut self,
        pod: &mut PodView,
        refused: &mut HashMap<String, String>,
    ) -> Result<bool, Stop> {
        let mut has_acted = false;
        let mut step = pod.step(self.target.wanted);
        if let Step::Ask(asked) = step {
            match self.cluster.ask_hand_off(pod, asked).await {
                Ok(fresh) => *pod = fresh,
                Err(Trouble::Changed(_) | Trouble::Missing(_)) => {
                    self.again = true;
                    return Ok(true);
                }
                Err(refused @ Trouble::Refused { .. }) => {
                    self.report.problems.push(refused.to_string());
                    return Ok(false);
                }
                Err(away @ Trouble::Away(_)) => return Err(away.into()),
            }
            self.asked += 1;
            has_acted = true;
            step = pod.step(self.target.wanted);
        }
        if step != Step::Evict {
            return Ok(has_acted);
        }
        match self.cluster.evict(pod).await {
            Ok(Evicted::Accepted) => {
                self.report.evicted.push(pod.to_string());
                has_acted = true;
            }
            Ok(Evicted::Waits(why)) => drop(refused.insert(pod.uid.clone(), why)),
            Ok(Evicted::Changed) => self.again = true,
            Err(refused @ Trouble::Refused { .. }) => {
                self.report.problems.push(refused.to_string())
            }
            Err(other) => return Err(other.into()),
        }
        Ok(has_acted || self.again)
    }

    /// Whether the pod is waited for.
    fn holds(&self, pod: &PodView, tasks: Option<&Tasks>) -> bool {
        self.target.wanted.evict || pod.works(number(pod, tasks)) != Some(false)
    }

    fn is_done(&self) -> bool {
        // To ask a pool is all that is wanted of it, unless it is waited for.
        let only_asks = !self.target.wanted.evict && self.wait.is_none() && !self.again;
        self.report.holds.is_empty() && !self.again || only_asks
    }

    /// Ends without a word: what is wrong is said elsewhere.
    pub(super) async fn abandon(self) {
        self.details.close().await;
    }

    /// Says how it ended, and how to undo what stays.
    pub(super) async fn end(mut self, outcome: Outcome) -> Result<(), Failure> {
        self.report.outcome = outcome;
        let words = self.words(outcome);
        self.screen.end(&self.report, &words, self.details.now())?;
        self.details.close().await;
        Ok(())
    }

    fn words(&self, outcome: Outcome) -> Vec<String> {
        let mut words = vec![self.verdict(outcome)];
        if let Some(why) = self
            .report
            .details_missing
            .as_deref()
            .or(self.details.missing())
            && !self.report.holds.is_empty()
        {
            words.push(format!("What the pods run is not known: {why}."));
        }
        match &self.target.which {
            Which::OnNode { node, .. } => {
                if let Some(number @ 1..) = self.report.others {
                    words.push(format!(
                        "Pods of others on the node: {number}; `kubectl drain {node}` sees to them."
                    ));
                }
                match self.report.cordoned {
                    Some(true) => words.push(format!(
                        "The node stays cordoned. To undo: kubectl uncordon {node}"
                    )),
                    Some(false) => {}
                    None => words.push(format!(
                        "The node may be cordoned. To undo: kubectl uncordon {node}"
                    )),
                }
            }
            Which::OfPool { pool, namespace } if self.target.wanted.hand_off == Some(true) => {
                words.push(format!(
                    "Its pods take nothing new until you run: longshore drain pool {pool} --undo --namespace {namespace}"
                ));
            }
            Which::OfPool { .. } | Which::Named { .. } => {}
        }
        if self.target.wanted.evict {
            let asked = self.report.holds.iter();
            for hold in asked.filter(|hold| hold.hand_off_asked && hold.killed_at.is_none()) {
                words.push(format!(
                    "{} takes nothing new. To undo: {}",
                    hold.pod,
                    undo_pod(&hold.namespace, &hold.pod)
                ));
            }
        }
        words
    }

    fn verdict(&self, outcome: Outcome) -> String {
        let (target, evicted) = (&self.target.words, self.report.evicted.len());
        let held = match self.report.holds.len() {
            1 => "1 pod".to_owned(),
            number => format!("{number} pods"),
        };
        match outcome {
            Outcome::Done if self.target.wanted.evict => {
                format!("{target}: nothing of Longshore is left ({evicted} evicted)")
            }
            Outcome::Done if self.wait.is_some() => format!("{target}: nothing runs any more"),
            Outcome::Done => {
                let verb = if self.target.wanted.hand_off == Some(true) {
                    "asked to hand off"
                } else {
                    "told to work again"
                };
                format!("{target}: {} pods were {verb}", self.asked)
            }
            Outcome::Waiting | Outcome::Interrupted => {
                format!("{target}: interrupted while {held} held it; nothing was forced")
            }
            Outcome::Deadline => {
                format!("{target}: the deadline came while {held} held it; nothing was forced")
            }
            Outcome::Refused if self.report.problems.is_empty() => {
                format!("{target}: {held} hold it ({evicted} evicted); --wait waits for them")
            }
            Outcome::Refused => format!("{target}: not drained ({evicted} evicted)"),
            Outcome::Unreachable => format!("{target}: the API server did not answer"),
        }
    }
}

/// The uid of the pod that was named, if it may be drained.
fn drainable(pods: &[PodView], namespace: &str, name: &str) -> Result<String, Stop> {
    let wrong = match pods.first() {
        None => format!("there is no pod {namespace}/{name}"),
        Some(pod) if pod.pool.is_none() => {
            format!("pod {pod} is not Longshore's: it has no label longshore.dev/pool")
        }
        Some(pod) if pod.is_fixed => {
            format!("pod {pod} belongs to a DaemonSet or to its node, which would start it again")
        }
        Some(pod) => return Ok(pod.uid.clone()),
    };
    Err(Stop::Wrong(wrong))
}

fn number(pod: &PodView, tasks: Option<&Tasks>) -> Option<usize> {
    tasks.map(|tasks| tasks.get(&pod.uid).map_or(0, Vec::len))
}

fn hold(
    pod: &PodView,
    tasks: Option<&Tasks>,
    estimates: &mut Estimates,
    refused: &HashMap<String, String>,
) -> Hold {
    let (state, killed_at) = match pod.standing() {
        Standing::Ending(end) => ("ending", Some(end)),
        Standing::Busy => ("busy", None),
        Standing::Free => match pod.works(number(pod, tasks)) {
            Some(true) => ("working", None),
            Some(false) => ("idle", None),
            None => ("unknown", None),
        },
    };
    let running = tasks.map(|tasks| {
        let of_pod = tasks.get(&pod.uid).into_iter().flatten();
        of_pod
            .map(|view| Running {
                estimated_end: estimates.of(view),
                view: view.clone(),
            })
            .collect()
    });
    Hold {
        namespace: pod.namespace.clone(),
        pod: pod.name.clone(),
        uid: pod.uid.clone(),
        pool: pod.pool.clone().unwrap_or_default(),
        kind: pod.kind.clone(),
        state,
        killed_at,
        refused_by: refused.get(&pod.uid).cloned(),
        hand_off_asked: pod.is_asked,
        tasks: running,
    }
}
