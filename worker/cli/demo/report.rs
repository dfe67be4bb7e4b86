//! What the demo found, as a table for people and as one JSON object for programs.

use std::time::Duration;

use comfy_table::{CellAlignment, Table, presets};
use serde::Serialize;

use super::death::{Death, Signal};

/// All that was found.
#[derive(Debug, Serialize)]
pub(super) struct Report {
    /// Test jobs that were enqueued.
    pub(super) test_jobs: u64,
    /// Those that are complete.
    pub(super) complete: u64,
    /// Tests that readers find.
    pub(super) tests_published: i64,
    /// Tests that the server served.
    pub(super) tests_expected: i64,
    /// Workers asked to end in the middle of a task.
    pub(super) sigterms: usize,
    /// Workers killed in the middle of a task.
    pub(super) sigkills: usize,
    /// Attempts that saved their state and gave their task back.
    pub(super) handoffs: u64,
    /// Attempts whose worker died, taken over by another.
    pub(super) rescues: u64,
    /// From each signal until the task ran elsewhere, in milliseconds.
    pub(super) resume_ms: Vec<f64>,
    /// From the checkpoint that each task went on from until the signal, in milliseconds.
    pub(super) repeated_ms: Vec<i64>,
    /// Rows that were durable when their task went on; their source was read again, they were skipped.
    pub(super) rows_read_again: i64,
    /// Rows that were durable and are there twice, or were taken away and written again.
    pub(super) rows_written_again: i64,
    /// How often the reader looked at the published views.
    pub(super) looks: u64,
    /// How often it found a part of a result in place of the whole.
    pub(super) half_written: u64,
    /// Test jobs that are not complete, and results that are missing or different.
    pub(super) lost: u64,
    /// Results that nobody served.
    pub(super) surplus: u64,
    /// All of it.
    pub(super) seconds: f64,
    /// Each death.
    pub(super) deaths: Vec<Death>,
    /// Every worker process there was.
    pub(super) pids: Vec<u32>,
    /// What is wrong, if anything.
    pub(super) problems: Vec<String>,
}

impl Report {
    /// Whether nothing was half-written, nothing is lost and everything is complete.
    pub(super) fn is_well(&self) -> bool {
        self.half_written == 0
            && self.lost == 0
            && self.surplus == 0
            && self.rows_written_again == 0
            && self.complete == self.test_jobs
            && self.tests_published == self.tests_expected
    }

    /// For people, on 80 columns.
    pub(super) fn table(&self) -> String {
        let mut totals = table();
        let mut row = |name: &str, value: String, remark: &str| {
            totals.add_row([name, &value, remark]);
        };
        row("test jobs", grouped(self.test_jobs), "");
        row(
            "complete",
            grouped(self.complete),
            "fetched, and every plugin's results published",
        );
        row(
            "tests published",
            grouped(self.tests_published),
            &format!("of {} served", grouped(self.tests_expected)),
        );
        row(
            "SIGTERMs",
            grouped(self.sigterms),
            "to an elastic worker, in the middle of a fetch",
        );
        row(
            "SIGKILLs",
            grouped(self.sigkills),
            "of a pinned worker, in the middle of a plugin",
        );
        row(
            "hand-offs",
            grouped(self.handoffs),
            "tasks saved and given back by a worker that ends",
        );
        row(
            "rescues",
            grouped(self.rescues),
            "tasks taken over from a worker that is dead",
        );
        row(
            "rows read again",
            grouped(self.rows_read_again),
            "from the source, and skipped: they were durable",
        );
        row("rows written again", grouped(self.rows_written_again), "");
        row(
            "half-written",
            grouped(self.half_written),
            &format!(
                "results, in {} looks at what is published",
                grouped(self.looks)
            ),
        );
        row(
            "lost",
            grouped(self.lost),
            "missing or different, each test compared",
        );
        if self.surplus > 0 {
            row(
                "surplus",
                grouped(self.surplus),
                "results that nobody served",
            );
        }
        if let Some(column) = totals.column_mut(1) {
            column.set_cell_alignment(CellAlignment::Right);
        }
        trimmed(&format!("{totals}\n\n{}", self.deaths()))
    }

    fn deaths(&self) -> Table {
        let mut deaths = table();
        deaths.set_header([
            "SIGNAL",
            "WORKER",
            "IN THE MIDDLE OF",
            "RESUMED AFTER",
            "WORK REPEATED",
        ]);
        for death in &self.deaths {
            deaths.add_row([
                death.signal.word().to_owned(),
                death.worker.clone(),
                death.task.clone(),
                format!("{} ms", death.resume_ms),
                format!("{} ms", death.repeated_ms),
            ]);
        }
        for column in [3, 4] {
            if let Some(column) = deaths.column_mut(column) {
                column.set_cell_alignment(CellAlignment::Right);
            }
        }
        deaths
    }

    /// The last line.
    pub(super) fn verdict(&self) -> String {
        let seconds = self.seconds;
        if self.is_well() {
            format!("All is well after {seconds} s: no death cost a result, or showed half of one.")
        } else {
            format!(
                "Not all is well after {seconds} s:\n  {}",
                self.problems.join("\n  ")
            )
        }
    }
}

/// How many deaths by `signal`.
pub(super) fn count(deaths: &[Death], signal: Signal) -> usize {
    deaths.iter().filter(|death| death.signal == signal).count()
}

/// Seconds for people.
pub(super) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

/// Without the blanks that tables end their lines with.
fn trimmed(text: &str) -> String {
    let lines = text.lines().map(str::trim_end).collect::<Vec<_>>();
    lines.join("\n")
}

fn table() -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING);
    table
}

/// A number with its thousands apart.
pub(super) fn grouped(number: impl ToString) -> String {
    let digits = number.to_string();
    let mut out = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            out.push(' ');
        }
        out.push(digit);
    }
    out
}

#[cfg(test)]
mod tests {
    use super::grouped;

    #[test]
    fn numbers_have_their_thousands_apart() {
        assert_eq!(grouped(7), "7");
        assert_eq!(grouped(100_000), "100 000");
        assert_eq!(grouped(1_234_567), "1 234 567");
    }
}
