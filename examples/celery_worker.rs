//! A worker with handlers of its own, for tasks that Celery's clients send: the whole of `longshore` (configuration,
//! `migrate`, `run`, …) with a few task names more.
//!
//! ```text
//! celery_worker --config longshore.toml migrate
//! celery_worker --config longshore.toml run --pool math
//! ```
//!
//! and in Python, with nothing of Longshore's: `app.send_task("add", (2, 3), queue="math").get()`.
//!
//! The tests in `tests/celery` run it.

use std::io::Write as _;
use std::path::PathBuf;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::Duration;

use longshore::celery::Exception;
use longshore::handler::{Fatal, Outcome, Registry};
use longshore::task::Task;
use serde_json::{Value, json};

fn main() -> ExitCode {
    longshore::cli::main_with(handlers)
}

fn handlers(registry: &mut Registry) {
    registry.add("add", |task, _| async move {
        Ok(number(numbers(&task)?.iter().sum()))
    });
    registry.add("mul", |task, _| async move {
        Ok(number(numbers(&task)?.iter().product()))
    });
    // Adds up lists too: the body of a chord gets one list of all results.
    registry.add("total", |task, _| async move {
        let parts = task.args.iter().flat_map(|arg| match arg.as_array() {
            Some(items) => items.clone(),
            None => vec![arg.clone()],
        });
        Ok(number(parts.filter_map(|part| part.as_f64()).sum()))
    });
    registry.add("echo", |task, _| async move {
        Ok(Outcome::done(
            json!({ "args": task.args, "kwargs": task.kwargs }),
        ))
    });
    // An error is tried again as the configuration says …
    registry.add("fail", |task, _| async move {
        Err(anyhow::anyhow!("{}", text(&task, "message", 0)?))
    });
    // … and this one is not.
    registry.add("fatal", |task, _| async move {
        Err(Fatal(text(&task, "message", 0)?).into())
    });
    // An error that has a name in Python: what `AsyncResult.get()` raises there.
    registry.add("raise", |task, _| async move {
        let class = text(&task, "class", 0)?;
        Err(Exception::new("builtins", &class, text(&task, "message", 1)?).into())
    });
    // Adds a line to a file, for whoever counts, and passes on what it was given.
    registry.add("note", |task, _| async move {
        note(&path(&task, "file", 0)?, &text(&task, "line", 1)?)?;
        Ok(Outcome::done(task.args.get(2)))
    });
    registry.add("wait", |task, context| async move {
        let (begun, go) = (path(&task, "begun", 0)?, path(&task, "go", 1)?);
        note(&begun, "begun")?;
        while !go.exists() {
            if context.is_draining() && task.kwargs.contains_key("obeys") {
                note(&begun, "draining")?;
                return Ok(Outcome::HandOff);
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Outcome::done("went on"))
    });
}

/// A number as Python would write it: whole where it can be.
fn number(value: f64) -> Outcome {
    if value.fract() == 0.0 {
        Outcome::done(value as i64)
    } else {
        Outcome::done(value)
    }
}

fn numbers(task: &Arc<Task>) -> Result<Vec<f64>, Fatal> {
    task.args
        .iter()
        .map(|arg| {
            arg.as_f64()
                .ok_or_else(|| Fatal(format!("{arg} is no number")))
        })
        .collect()
}

fn text(task: &Arc<Task>, key: &str, index: usize) -> Result<String, Fatal> {
    task.arg(key, index)
        .and_then(Value::as_str)
        .map(str::to_owned)
        .ok_or_else(|| Fatal(format!("the argument {key:?} is no text")))
}

fn path(task: &Arc<Task>, key: &str, index: usize) -> Result<PathBuf, Fatal> {
    text(task, key, index).map(PathBuf::from)
}

fn note(file: &PathBuf, line: &str) -> anyhow::Result<()> {
    let mut file = std::fs::OpenOptions::new()
        .create(true)
        .append(true)
        .open(file)?;
    Ok(writeln!(file, "{line}")?)
}
