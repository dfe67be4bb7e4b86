//! Failures as Python knows them, so that `AsyncResult.get()` raises what the task raised.

use serde_json::{Value, json};

/// An exception of Python's. A handler that returns one as its error names what Celery's clients raise; any other error is
/// a `RuntimeError` with its text.
#[derive(Debug, Clone, PartialEq, thiserror::Error)]
#[error("{}", self.text())]
pub struct Exception {
    /// Its module, for instance `builtins`. One that the client has not imported becomes a class of that name.
    pub module: String,
    /// Its class, for instance `ValueError`.
    pub class: String,
    /// What it was made with.
    pub args: Vec<Value>,
    /// For people.
    pub traceback: Option<String>,
}

impl Exception {
    /// `module.class(text)`.
    pub fn new(module: &str, class: &str, text: impl Into<String>) -> Self {
        Self {
            module: module.to_owned(),
            class: class.to_owned(),
            args: vec![Value::String(text.into())],
            traceback: None,
        }
    }

    /// What a failed handler's error is to Celery's clients.
    pub fn of(error: &anyhow::Error) -> Self {
        match error.downcast_ref::<Self>() {
            Some(exception) => exception.clone(),
            None => Self::new("builtins", "RuntimeError", format!("{error:#}")),
        }
    }

    pub(super) fn revoked(reason: &str) -> Self {
        Self::new("celery.exceptions", "TaskRevokedError", reason)
    }

    /// As Celery's JSON results hold it.
    pub(super) fn value(&self) -> Value {
        json!({ "exc_type": self.class, "exc_message": self.args, "exc_module": self.module })
    }

    /// As Python's `repr` would have it, nearly.
    pub(super) fn repr(&self) -> String {
        let args = self.args.iter().map(|arg| match arg.as_str() {
            Some(text) => format!("'{text}'"),
            None => arg.to_string(),
        });
        format!("{}({})", self.class, args.collect::<Vec<_>>().join(", "))
    }

    /// What Celery's clients show as the traceback.
    pub(super) fn trace(&self) -> String {
        self.traceback.clone().unwrap_or_else(|| self.text())
    }

    fn text(&self) -> String {
        if self.args.is_empty() {
            return self.class.clone();
        }
        let args = self
            .args
            .iter()
            .map(|arg| arg.as_str().map_or_else(|| arg.to_string(), str::to_owned));
        format!("{}: {}", self.class, args.collect::<Vec<_>>().join(", "))
    }
}
