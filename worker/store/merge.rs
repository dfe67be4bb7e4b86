//! Commands of one shape that wait for one another are written as one: each statement with the rows of all of them.
//!
//! While a command of a shape (the same verb, the same statements) is on its way, others of that shape wait, and go together once it is
//! done: one transaction, whose statements cost once what they would cost each time. Nobody waits for company: a command that finds none
//! on its way goes at once, by itself. All of it is written, or nothing; and if the database will not have them together (one lost its
//! lease, a condition of one does not hold, a value of one does not fit, a lock is held), each is run by itself, as if there were no
//! others, and answered by itself. What reads one row for each of several goes together likewise.
//!
//! Only statements that are known to do for many rows what they do for each may be in such a command ([`SEVERAL`]), and only few
//! rows. Never changes what a command does, never makes one fail that would not fail alone. PostgreSQL only: SQLite has one writer,
//! and no way to it that is worth sharing.

use std::collections::{HashMap, VecDeque};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use serde_json::json;
use tokio::sync::oneshot;

use super::command::{Guard, Op, Row};
use super::sql::sql;
use super::{Db, Store, StoreError};
use crate::id::TaskId;

/// Statements that do for the rows of several commands, one for each, what they do for those of one; of those with a condition each
/// command gives one row, and gets one back if it holds.
const SEVERAL: [&str; 43] = [
    "checkpoint",
    "settle",
    "stage_pieces",
    "stage_columns",
    "stage_metrics",
    "stage_facts",
    "stage_files",
    "testjob_begin",
    "run_begin",
    "testjob_lock",
    "run_publish",
    "runs_add",
    "testjob_fetched",
    "testjob_finish",
    "enqueue",
    "ring",
    "squad/begin",
    "squad/looked",
    "squad/said",
    "squad/file_length",
    "squad/patience",
    "squad/lock",
    "squad/facts",
    "squad/replaced",
    "squad/names",
    "squad/suites",
    "squad/testrun",
    "squad/issues",
    "squad/keys_held",
    "squad/tests",
    "squad/keys_checked",
    "squad/links",
    "squad/metrics",
    "squad/versions",
    "squad/no_status",
    "squad/status",
    "squad/attachments",
    "squad/testjob",
    "squad/no_input",
    "squad/build",
    "squad/resubmitted",
    "squad/told",
    "squad/post",
];
/// The name of what only reads.
const READ: &str = "read";
/// Commands of one shape that are on their way at once.
const UNDER_WAY: usize = 1;
/// For so long others wait for a command that goes by itself; see also `brief.sql`.
const HOLD: Duration = Duration::from_secs(1);
/// The most commands in one transaction.
const MOST: usize = 32;
/// The values of a command that goes with others, and of all in one transaction.
const BYTES: usize = 1024 * 1024;

/// A command's verb and statements.
type Shape = (&'static str, Vec<&'static str>);

/// What waits, by shape. A shape is forgotten when none of it is on its way.
#[derive(Default)]
pub(super) struct Merger(Mutex<HashMap<Shape, Line>>);

#[derive(Default)]
struct Line {
    under_way: usize,
    waiting: VecDeque<Waiting>,
}

/// A command, and who waits for its answer.
struct Waiting {
    /// What stands before and after it among them.
    order: String,
    ops: Vec<Op>,
    answer: oneshot::Sender<Result<Answer, StoreError>>,
}

/// What a command was answered, alone or with others.
#[derive(Clone)]
pub(super) struct Answer {
    /// The rows of each statement, those of the others among them.
    pub(super) rows: Arc<Vec<Vec<Row>>>,
    /// Whether this is the one of them that takes care of what is meant for nobody in particular.
    pub(super) speaks: bool,
}

impl Merger {
    fn lines<T>(&self, with: impl FnOnce(&mut HashMap<Shape, Line>) -> T) -> T {
        with(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Queues a command up. Whether its shape has room for one more on its way, which the caller is to [take](Self::take).
    fn wait(&self, shape: &Shape, command: Waiting) -> bool {
        self.lines(|lines| {
            let line = lines.entry(shape.clone()).or_default();
            line.waiting.push_back(command);
            let goes = line.under_way < UNDER_WAY;
            line.under_way += usize::from(goes);
            goes
        })
    }

    /// Those that go next, in the order in which others lock several tasks; none: nothing waits, and one less is on its way.
    fn take(&self, shape: &Shape) -> Vec<Waiting> {
        self.lines(|lines| {
            let Some(line) = lines.get_mut(shape) else {
                return Vec::new();
            };
            let (mut bytes, mut count) = (0, 0);
            for command in line.waiting.iter().take(MOST) {
                bytes += weight(&command.ops);
                if count > 0 && bytes > BYTES {
                    break;
                }
                count += 1;
            }
            let mut taken: Vec<_> = line.waiting.drain(..count).collect();
            if taken.is_empty() {
                line.under_way -= 1;
                if line.under_way == 0 {
                    lines.remove(shape);
                }
            }
            taken.sort_by(|one, other| one.order.cmp(&other.order));
            taken
        })
    }
}

impl Store {
    /// Runs a command of the task `task`, whose own statement comes first, with others of its shape that wait: all of `ops` in one
    /// transaction, or nothing.
    pub(super) async fn together(
        &self,
        name: &'static str,
        task: &TaskId,
        ops: Vec<Op>,
    ) -> Result<Answer, StoreError> {
        let postgres = matches!(self.0.db, Db::Postgres(_));
        if !postgres || !merges(&ops) {
            return self.once(name, ops).await.map(Answer::of_one);
        }
        self.queue_up(name, task.as_str(), ops).await
    }

    /// Reads by a statement that finds for each row what it finds for that row alone, with others that wait. The answer has what it
    /// finds for all of them.
    pub(super) async fn read_together(&self, op: Op) -> Result<Vec<Row>, StoreError> {
        if matches!(self.0.db, Db::Postgres(_)) {
            let order = op.rows.clone();
            return self
                .queue_up(READ, &order, vec![op])
                .await
                .map(Answer::first);
        }
        self.once(READ, vec![op])
            .await
            .map(|rows| Answer::of_one(rows).first())
    }

    async fn queue_up(
        &self,
        name: &'static str,
        order: &str,
        ops: Vec<Op>,
    ) -> Result<Answer, StoreError> {
        let shape = (name, ops.iter().map(|op| op.sql.name).collect());
        let (sender, answer) = oneshot::channel();
        let command = Waiting {
            order: order.to_owned(),
            ops,
            answer: sender,
        };
        if self.0.merger.wait(&shape, command) {
            let store = self.clone();
            let running = async move {
                loop {
                    let taken = store.0.merger.take(&shape);
                    if taken.is_empty() {
                        break;
                    }
                    store.all(name, taken).await;
                }
            };
            self.0.commands.spawn(running);
        }
        answer.await.unwrap_or_else(|_| {
            Err(StoreError::Away {
                reason: "the store was closed".to_owned(),
            })
        })
    }

    /// One transaction, or one read.
    async fn once(&self, name: &'static str, ops: Vec<Op>) -> Result<Vec<Vec<Row>>, StoreError> {
        let ([op], READ) = (ops.as_slice(), name) else {
            return self.command(name, ops).await;
        };
        self.read_rows(op).await.map(|rows| vec![rows])
    }

    /// Runs these as one, or each by itself if that cannot be.
    async fn all(&self, name: &'static str, commands: Vec<Waiting>) {
        if commands.len() > 1 {
            match self.as_one(name, &commands).await {
                Ok(rows) => return answer(commands, &Answer::of_one(rows)),
                // Whether it was written is not known, and each asks for itself.
                Err(error @ StoreError::Away { .. }) => {
                    for command in commands {
                        // Who has gone needs no answer.
                        let _gone = command.answer.send(Err(error.clone()));
                    }
                    return;
                }
                Err(error) => {
                    tracing::debug!(%error, commands = commands.len(), "commands were refused together; each is tried alone");
                }
            }
        }
        let alone = commands.into_iter().map(|command| {
            let store = self.clone();
            self.0.commands.spawn(async move {
                let answer = store.once(name, command.ops).await;
                let _gone = command.answer.send(answer.map(Answer::of_one));
            })
        });
        // One that waits for longer is still answered, and the next ones go beside it.
        let _slow = tokio::time::timeout(HOLD, futures::future::join_all(alone)).await;
    }

    async fn as_one(
        &self,
        name: &'static str,
        commands: &[Waiting],
    ) -> Result<Vec<Vec<Row>>, StoreError> {
        let ops = merged(commands.iter().map(|command| &command.ops));
        if name == READ {
            return self.once(name, ops).await;
        }
        let mut all = vec![Op::one(sql!("brief"), &json!({ "nothing": 0 }))?];
        all.extend(ops);
        let mut rows = self.once(name, all).await?;
        Ok(rows.split_off(1))
    }
}

impl Answer {
    fn of_one(rows: Vec<Vec<Row>>) -> Self {
        Self {
            rows: Arc::new(rows),
            speaks: true,
        }
    }

    /// The rows of its one statement.
    fn first(self) -> Vec<Row> {
        self.rows.first().cloned().unwrap_or_default()
    }
}

fn answer(commands: Vec<Waiting>, answer: &Answer) {
    for (at, command) in commands.into_iter().enumerate() {
        let answer = Answer {
            speaks: at == 0,
            ..answer.clone()
        };
        let _gone = command.answer.send(Ok(answer));
    }
}

/// Whether a command may be written with others.
fn merges(ops: &[Op]) -> bool {
    let fits = |op: &Op| {
        let one = match op.guard {
            Guard::Free => true,
            Guard::Some => op.count == 1,
            Guard::All(_) => false,
        };
        SEVERAL.contains(&op.sql.name) && one && !op.alone && op.bytes.is_none()
    };
    ops.iter().all(fits) && weight(ops) <= BYTES / 4
}

fn weight(ops: &[Op]) -> usize {
    ops.iter().map(Op::weight).sum()
}

/// Commands of one shape as one.
fn merged<'a>(mut commands: impl Iterator<Item = &'a Vec<Op>>) -> Vec<Op> {
    let mut all = commands.next().cloned().unwrap_or_default();
    for command in commands {
        for (one, op) in all.iter_mut().zip(command) {
            one.append(op);
        }
    }
    for op in &mut all {
        if op.guard == Guard::Some {
            op.guard = Guard::All(op.count);
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::store::command::{Columns, Tests};

    fn op(name: &'static str, rows: usize) -> Op {
        let rows = (0..rows).map(|at| json!({ "n": at })).collect::<Vec<_>>();
        Op::new(crate::store::sql::Sql { name, text: "" }, &rows).unwrap()
    }

    fn waiting(order: &str, ops: Vec<Op>) -> Waiting {
        Waiting {
            order: order.to_owned(),
            ops,
            answer: oneshot::channel().0,
        }
    }

    fn shape(name: &'static str) -> Shape {
        (name, vec!["settle"])
    }

    #[test]
    fn only_few_rows_of_statements_that_are_known_to_do_for_several_go_together() {
        let settled = || op("settle", 1).guarded();
        assert!(merges(&[settled(), op("squad/told", 1)]));
        assert!(
            merges(&[settled(), op("ring", 3)]),
            "rows without a condition"
        );
        assert!(!merges(&[settled(), op("lanes/lock", 1)]), "not known");
        assert!(
            !merges(&[settled(), op("squad/said", 2).guarded()]),
            "which of the two held?"
        );
        assert!(!merges(&[settled(), op("squad/told", 1).alone()]));
        let mut many = Tests::default();
        (0..1000)
            .for_each(|seq| many.push(1, seq, ["suite", "name", "pass"], Some(&"x".repeat(300))));
        let many = Op::of_columns(op("stage_columns", 0).sql, Columns::Tests(many)).unwrap();
        assert!(!merges(&[settled(), many]));
    }

    #[test]
    fn each_condition_is_asked_for_each_command() {
        let command = || {
            vec![
                op("settle", 1).guarded(),
                op("squad/told", 1),
                op("ring", 0),
            ]
        };
        let (one, other) = (
            command(),
            vec![
                op("settle", 1).guarded(),
                op("squad/told", 1),
                op("ring", 2),
            ],
        );
        let all = merged([&one, &other, &one].into_iter());
        let seen = all.iter().map(|op| (op.count, op.guard, op.rows.as_str()));
        let rows = r#"[{"n":0},{"n":0},{"n":0}]"#;
        assert_eq!(
            seen.collect::<Vec<_>>(),
            [
                (3, Guard::All(3), rows),
                (3, Guard::Free, rows),
                (2, Guard::Free, r#"[{"n":0},{"n":1}]"#)
            ]
        );
    }

    #[test]
    fn columns_of_several_are_one_after_another() {
        let one = |run| {
            let mut tests = Tests::default();
            tests.push(run, 1, ["suite", "name", "pass"], None);
            vec![Op::of_columns(op("stage_columns", 0).sql, Columns::Tests(tests)).unwrap()]
        };
        let all = merged([&one(7), &one(8)].into_iter());
        let Some(Columns::Tests(tests)) = all[0].columns.as_deref() else {
            panic!("{all:?}");
        };
        assert_eq!((tests.run.as_slice(), all[0].count), (&[7, 8][..], 2));
    }

    #[test]
    fn one_goes_at_once_and_those_of_its_shape_go_together_after_it() {
        let merger = Merger::default();
        let orders =
            |taken: Vec<Waiting>| taken.into_iter().map(|one| one.order).collect::<Vec<_>>();
        let (publish, begin) = (shape("publish"), shape("checkpoint"));
        assert!(merger.wait(&publish, waiting("a", vec![])));
        assert_eq!(orders(merger.take(&publish)), ["a"]);
        assert!(!merger.wait(&publish, waiting("c", vec![])));
        assert!(!merger.wait(&publish, waiting("b", vec![])));
        assert!(
            merger.wait(&begin, waiting("d", vec![])),
            "another shape does not wait"
        );
        assert_eq!(orders(merger.take(&begin)), ["d"]);
        assert_eq!(orders(merger.take(&publish)), ["b", "c"], "in their order");
        assert!(merger.take(&publish).is_empty());
        assert!(merger.take(&begin).is_empty());
        assert!(
            merger.lines(|lines| lines.is_empty()),
            "nothing is left of a shape"
        );
        assert!(
            merger.wait(&publish, waiting("e", vec![])),
            "which begins anew"
        );
    }

    #[test]
    fn what_goes_together_is_bounded() {
        let merger = Merger::default();
        let large = || vec![op("ring", 20_000)];
        assert!(weight(&large()) > BYTES / 6);
        for order in 0..60 {
            let ops = if order < 40 { vec![] } else { large() };
            merger.wait(&shape("publish"), waiting(&format!("{order:02}"), ops));
        }
        let mut counts = Vec::new();
        loop {
            let taken = merger.take(&shape("publish"));
            if taken.is_empty() {
                break;
            }
            assert!(taken.iter().map(|one| weight(&one.ops)).sum::<usize>() <= BYTES);
            counts.push(taken.len());
        }
        assert_eq!(
            (counts[0], counts.iter().sum::<usize>()),
            (MOST, 60),
            "{counts:?}"
        );
    }
}
