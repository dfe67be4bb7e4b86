//! What a drain shows: a table that is drawn again where a person watches, lines where nobody does, and
//! objects for programs. Standard output has the last table or the objects, and nothing else.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};
use serde::Serialize;

use crate::cli::show::{ago, cell, json, table};
use crate::cli::{Failure, print};
use crate::clock::Millis;
use crate::store::RunningView;

/// How a drain stands, or ended. The words are those of `--json`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Outcome {
    Waiting,
    Done,
    Deadline,
    Refused,
    Unreachable,
    Interrupted,
}

/// All there is to say at one moment; one object of `--json`.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Report {
    pub(super) outcome: Outcome,
    /// `node n1`.
    pub(super) target: String,
    /// Of a node: whether it takes no new pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) cordoned: Option<bool>,
    /// The pods that are waited for.
    pub(super) holds: Vec<Hold>,
    /// The pods that were evicted.
    pub(super) evicted: Vec<String>,
    /// Pods of others on the node, if that could be found out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) others: Option<usize>,
    /// Why `tasks` are missing.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) details_missing: Option<String>,
    /// What somebody has to mend.
    pub(super) problems: Vec<String>,
}

/// A pod that is waited for.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Hold {
    pub(super) namespace: String,
    pub(super) pod: String,
    pub(super) uid: String,
    pub(super) pool: String,
    pub(super) kind: Option<String>,
    /// `busy`, `working`, `idle`, `unknown`, `ending`.
    pub(super) state: &'static str,
    /// When a pod that is ending is killed.
    pub(super) killed_at: Option<Millis>,
    /// What an eviction waits for.
    pub(super) refused_by: Option<String>,
    pub(super) hand_off_asked: bool,
    /// What it runs, if the store could be asked.
    pub(super) tasks: Option<Vec<Running>>,
}

/// A task that a pod runs.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub(super) struct Running {
    #[serde(flatten)]
    pub(super) view: RunningView,
    /// When it ends if it goes on as it went, where its progress tells.
    pub(super) estimated_end: Option<Millis>,
}

/// Where reports go.
pub(super) struct Screen {
    how: How,
}

enum How {
    /// The last object that was printed.
    Objects(String),
    /// The last line on each pod.
    Lines(BTreeMap<String, String>),
    Drawn(ProgressBar),
}

impl Screen {
    /// `live`: more than one report will come.
    pub(super) fn new(as_json: bool, live: bool) -> Self {
        let how = if as_json {
            How::Objects(String::new())
        } else if live && std::io::stderr().is_terminal() {
            let bar = ProgressBar::new_spinner();
            // A template of ours is always sound; the default style is no harm.
            let style = ProgressStyle::with_template("{spinner} {elapsed} {prefix}\n{msg}");
            bar.set_style(style.unwrap_or_else(|_| ProgressStyle::default_spinner()));
            bar.enable_steady_tick(Duration::from_millis(250));
            How::Drawn(bar)
        } else {
            How::Lines(BTreeMap::new())
        };
        Self { how }
    }

    /// Says something beside the reports, on standard error.
    pub(super) fn note(&self, text: &str) {
        match &self.how {
            How::Drawn(bar) => bar.println(text),
            // Nobody may be reading any more.
            How::Objects(_) | How::Lines(_) => drop(writeln!(std::io::stderr(), "{text}")),
        }
    }

    /// Shows how it stands.
    pub(super) fn show(&mut self, report: &Report, now: Millis) -> Result<(), Failure> {
        match &mut self.how {
            How::Objects(last) => {
                let object = json(report)?;
                if *last != object {
                    print(&object);
                    *last = object;
                }
            }
            How::Drawn(bar) => {
                bar.set_prefix(format!("{}: {}", report.target, waited_for(report)));
                bar.set_message(listing(report, now));
            }
            How::Lines(last) => {
                let lines = report
                    .holds
                    .iter()
                    .map(|hold| (hold.name(), line(hold, now)));
                let lines = lines.collect::<BTreeMap<_, _>>();
                for (name, (_, text)) in lines
                    .iter()
                    .filter(|(name, (key, _))| last.get(*name) != Some(key))
                {
                    drop(writeln!(std::io::stderr(), "{name} {text}"));
                }
                for name in last.keys().filter(|name| !lines.contains_key(*name)) {
                    drop(writeln!(std::io::stderr(), "{name} no longer holds it"));
                }
                *last = lines
                    .into_iter()
                    .map(|(name, (key, _))| (name, key))
                    .collect();
            }
        }
        Ok(())
    }

    /// Shows how it ended, with `words` for people.
    pub(super) fn end(
        mut self,
        report: &Report,
        words: &[String],
        now: Millis,
    ) -> Result<(), Failure> {
        match &mut self.how {
            How::Objects(_) => return self.show(report, now),
            How::Drawn(bar) => bar.finish_and_clear(),
            // Whoever was told of pods is told that they are gone.
            How::Lines(last) if !last.is_empty() => self.show(report, now)?,
            How::Lines(_) => {}
        }
        if !report.holds.is_empty() {
            print(&listing(report, now));
        }
        words.iter().for_each(|line| print(line));
        for problem in &report.problems {
            self.note(problem);
        }
        Ok(())
    }
}

impl Hold {
    fn name(&self) -> String {
        format!("{}/{}", self.namespace, self.pod)
    }

    /// Its state, and why it stays so.
    fn standing(&self, now: Millis) -> String {
        match (self.killed_at, &self.refused_by) {
            (Some(end), _) => format!("ending, killed {}", until(end, now)),
            (None, Some(why)) => format!("{}, not evicted: {why}", self.state),
            (None, None) if self.hand_off_asked => format!("{}, asked to hand off", self.state),
            (None, None) => self.state.to_owned(),
        }
    }
}

fn waited_for(report: &Report) -> String {
    match report.holds.len() {
        1 => "1 pod holds it".into(),
        number => format!("{number} pods hold it"),
    }
}

fn until(end: Millis, now: Millis) -> String {
    if end <= now {
        "now".into()
    } else {
        format!("in {}", ago(Some(now), end))
    }
}

/// A line on a pod, after what must change for it to be said again.
fn line(hold: &Hold, now: Millis) -> (String, String) {
    let mut text = format!("({}) {}", hold.pool, hold.standing(now));
    let mut key = format!(
        "{} {:?} {:?} {}",
        hold.state, hold.killed_at, hold.refused_by, hold.hand_off_asked
    );
    for Running { view, .. } in hold.tasks.iter().flatten() {
        text.push_str(&format!(
            "; {} {} {} since {}",
            view.name,
            view.id,
            cell(view.testjob.as_deref()),
            ago(view.started_at, now)
        ));
        key.push_str(&format!(" {}", view.id));
    }
    (key, text)
}

/// The table: a row for each task, and one for a pod without.
fn listing(report: &Report, now: Millis) -> String {
    let mut rows = table(&[
        "namespace",
        "pod",
        "pool",
        "state",
        "task",
        "name",
        "test job",
        "since",
        "checkpoint",
        "progress",
        "ends",
    ]);
    for hold in &report.holds {
        let pod = [
            hold.namespace.clone(),
            hold.pod.clone(),
            hold.pool.clone(),
            hold.standing(now),
        ];
        let tasks = hold.tasks.iter().flatten().map(|task| {
            let view = &task.view;
            [
                view.id.to_string(),
                view.name.clone(),
                cell(view.testjob.as_deref()),
                ago(view.started_at, now),
                ago(view.checkpoint_at, now),
                cell(view.progress.as_deref()),
                task.estimated_end
                    .map_or_else(|| "-".into(), |end| until(end, now)),
            ]
        });
        let mut tasks = tasks.collect::<Vec<_>>();
        if tasks.is_empty() {
            tasks.push(std::array::from_fn(|_| "-".to_owned()));
        }
        for task in tasks {
            rows.add_row(pod.iter().cloned().chain(task));
        }
    }
    rows.to_string()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::id::{Epoch, TaskId, WorkerId};

    fn hold() -> Hold {
        let view = RunningView {
            worker: WorkerId::new("p-0.u.1"),
            id: TaskId::new("t1"),
            name: "testjob.postprocess".into(),
            queue: "q".into(),
            epoch: Epoch::FIRST,
            testjob: Some("lava/7".into()),
            started_at: Some(1000),
            checkpoint_at: Some(50_000),
            progress: Some("45 %".into()),
        };
        Hold {
            namespace: "ci".into(),
            pod: "p-0".into(),
            uid: "u".into(),
            pool: "post".into(),
            kind: Some("pinned".into()),
            state: "busy",
            killed_at: None,
            refused_by: None,
            hand_off_asked: false,
            tasks: Some(vec![Running {
                view,
                estimated_end: Some(121_000),
            }]),
        }
    }

    #[test]
    fn the_table_says_what_holds_the_node_since_when_and_until_when() {
        let report = Report {
            outcome: Outcome::Waiting,
            target: "node n1".into(),
            cordoned: Some(true),
            holds: vec![hold()],
            evicted: vec![],
            others: None,
            details_missing: None,
            problems: vec![],
        };
        let text = listing(&report, 61_000);
        let row = text.lines().nth(1).unwrap();
        let words = row.split_whitespace().collect::<Vec<_>>().join(" ");
        assert_eq!(
            words,
            "ci p-0 post busy t1 testjob.postprocess lava/7 60s 11s 45 % in 60s"
        );
    }

    #[test]
    fn a_line_is_said_again_when_the_state_changes_and_not_as_time_goes_by() {
        let (busy, later) = (line(&hold(), 61_000), line(&hold(), 71_000));
        assert_eq!(busy.0, later.0);
        assert_ne!(busy.1, later.1);
        let ending = Hold {
            killed_at: Some(90_000),
            state: "ending",
            ..hold()
        };
        assert_ne!(line(&ending, 61_000).0, busy.0);
        assert!(line(&ending, 61_000).1.contains("killed in 29s"));
    }
}
