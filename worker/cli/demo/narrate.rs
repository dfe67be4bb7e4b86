//! What the demo says while it runs, on standard error: lines, and progress bars where a person watches.

use std::collections::HashMap;
use std::io::{IsTerminal as _, Write as _};
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use indicatif::{MultiProgress, ProgressBar, ProgressStyle};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::watch::Seen;
use crate::store::{Filter, State, Store, TaskView};
use crate::task::Task;

/// Between two looks at what runs.
const TICK: Duration = Duration::from_millis(100);
/// A task that ends sooner gets no line of its own, in milliseconds.
const WORTH_A_LINE: i64 = 150;

/// Says what happens.
pub(super) struct Narrator {
    begun: Instant,
    how: How,
    /// What is waited for, to be told if it does not come.
    step: Mutex<String>,
}

enum How {
    /// A program listens: nothing is said.
    Silent,
    Lines,
    Bars(MultiProgress),
}

impl Narrator {
    /// `silent` for programs.
    pub(super) fn new(silent: bool) -> Self {
        let how = if silent {
            How::Silent
        } else if std::io::stderr().is_terminal() {
            How::Bars(MultiProgress::new())
        } else {
            How::Lines
        };
        Self {
            begun: Instant::now(),
            how,
            step: Mutex::default(),
        }
    }

    /// A line with the time.
    pub(super) fn say(&self, text: &str) {
        self.plain(&format!("{:5.1} s  {text}", self.elapsed().as_secs_f64()));
    }

    /// A line.
    pub(super) fn plain(&self, text: &str) {
        match &self.how {
            How::Silent => {}
            // Nobody may be reading any more.
            How::Lines => drop(writeln!(std::io::stderr(), "{text}")),
            How::Bars(bars) => drop(bars.println(text)),
        }
    }

    /// From now on this is waited for.
    pub(super) fn waits_for(&self, what: &str) {
        what.clone_into(&mut self.step.lock().unwrap_or_else(PoisonError::into_inner));
    }

    /// What is waited for.
    pub(super) fn step(&self) -> String {
        self.step
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone()
    }

    /// Since the demo began.
    pub(super) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }

    /// Draws the bars until `enough`: `jobs` test jobs and `tests` tests are to come.
    pub(super) async fn draw(
        &self,
        store: Store,
        jobs: u64,
        tests: u64,
        seen: watch::Receiver<Seen>,
        enough: CancellationToken,
    ) {
        let How::Bars(all) = &self.how else { return };
        let total = |prefix: &'static str, length| {
            let bar = ProgressBar::new(length).with_prefix(prefix);
            all.add(bar.with_style(style("{prefix:<20} {wide_bar} {human_pos}/{human_len}")))
        };
        let (complete, published) = (
            total("test jobs complete", jobs),
            total("tests published", tests),
        );
        let mut lines: HashMap<String, ProgressBar> = HashMap::new();
        while !enough.is_cancelled() {
            let Seen {
                complete: done,
                tests,
                ..
            } = *seen.borrow();
            complete.set_position(done);
            published.set_position(u64::try_from(tests).unwrap_or_default());
            let filter = Filter {
                id: None,
                state: Some(State::Running),
                most: 20,
            };
            // Bars that stand still for a moment are no harm.
            let running = store.tasks(&filter).await.unwrap_or_default();
            let now = store.clock().now();
            lines.retain(|id, line| {
                let runs = running.iter().any(|task| task.id == *id);
                if !runs {
                    line.finish_and_clear();
                    all.remove(line);
                }
                runs
            });
            for task in &running {
                if now - task.started_at.unwrap_or(now) < WORTH_A_LINE
                    && !lines.contains_key(&task.id)
                {
                    continue;
                }
                let line = lines.entry(task.id.clone()).or_insert_with(|| {
                    all.add(ProgressBar::new_spinner().with_style(style("  {spinner} {wide_msg}")))
                });
                line.set_message(label(task));
                line.tick();
            }
            tokio::select! {
                () = enough.cancelled() => {}
                () = tokio::time::sleep(TICK) => {}
            }
        }
        lines.values().for_each(ProgressBar::finish_and_clear);
        complete.finish_and_clear();
        published.finish_and_clear();
    }
}

/// A task for people: its part and its test job, its epoch, and how far it is.
fn label(view: &TaskView) -> String {
    let kwargs = serde_json::from_str::<Task>(&view.task)
        .map(|task| task.kwargs)
        .unwrap_or_default();
    let text = |key: &str| kwargs.get(key).and_then(Value::as_str);
    format!(
        "{} of {} ({}): {}",
        text("plugin").unwrap_or("fetch"),
        text("id").unwrap_or(&view.id),
        view.epoch,
        view.progress.as_deref().unwrap_or("begun")
    )
}

/// A template of ours is always sound; the default style is no harm.
fn style(template: &str) -> ProgressStyle {
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
