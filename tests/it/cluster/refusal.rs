//! What the server says when it does not do what it was asked: a `Status`.

use serde_json::{Value, json};

use super::kind::Kind;

/// An answer other than success.
#[derive(Debug, Clone)]
pub(super) struct Refusal {
    pub(super) code: u16,
    status: Box<Value>,
    /// Seconds, for the header.
    pub(super) retry_after: Option<u32>,
}

impl Refusal {
    pub(super) fn new(code: u16, reason: &str, message: impl Into<String>) -> Self {
        let message: String = message.into();
        let mut status = json!({
            "kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Failure",
            "message": message, "details": {}, "code": code,
        });
        if !reason.is_empty() {
            status["reason"] = reason.into();
        }
        Self {
            code,
            status: Box::new(status),
            retry_after: None,
        }
    }

    fn about(kind: &Kind, name: &str, code: u16, reason: &str, message: String) -> Self {
        let mut refusal = Self::new(code, reason, message);
        refusal.status["details"] = json!({"name": name, "group": kind.group, "kind": kind.plural});
        refusal
    }

    pub(super) fn not_found(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" not found", kind.plural);
        Self::about(kind, name, 404, "NotFound", message)
    }

    pub(super) fn no_such_path() -> Self {
        Self::new(
            404,
            "NotFound",
            "the server could not find the requested resource",
        )
    }

    pub(super) fn exists(kind: &Kind, name: &str) -> Self {
        let message = format!("{} \"{name}\" already exists", kind.plural);
        Self::about(kind, name, 409, "AlreadyExists", message)
    }

    pub(super) fn conflict(kind: &Kind, name: &str, why: &str) -> Self {
        let message = format!(
            "Operation cannot be fulfilled on {} \"{name}\": {why}",
            kind.plural
        );
        Self::about(kind, name, 409, "Conflict", message)
    }

    pub(super) fn bad_request(message: impl Into<String>) -> Self {
        Self::new(400, "BadRequest", message)
    }

    pub(super) fn invalid(message: impl Into<String>) -> Self {
        Self::new(422, "Invalid", message)
    }

    /// A patch would change what no client may change.
    pub(super) fn immutable(kind: &Kind, name: &str, field: &str, given: &Value) -> Self {
        let why = format!("Invalid value: {given}: field is immutable");
        let message = format!("{} \"{name}\" is invalid: {field}: {why}", kind.kind);
        let mut refusal = Self::about(kind, name, 422, "Invalid", message);
        refusal.status["details"]["causes"] =
            json!([{"reason": "FieldValueInvalid", "message": why, "field": field}]);
        refusal
    }

    pub(super) fn media_type(given: &str) -> Self {
        let message = format!("the body of the request was in an unknown format: {given}");
        Self::new(415, "UnsupportedMediaType", message)
    }

    pub(super) fn method() -> Self {
        Self::new(
            405,
            "MethodNotAllowed",
            "the server does not allow this method on the requested resource",
        )
    }

    pub(super) fn forbidden(what: &str) -> Self {
        Self::new(403, "Forbidden", format!("{what} is forbidden: a fault"))
    }

    pub(super) fn internal(message: impl Into<String>) -> Self {
        Self::new(500, "InternalError", message)
    }

    pub(super) fn expired(asked: u64, floor: u64) -> Self {
        Self::new(
            410,
            "Expired",
            format!("too old resource version: {asked} ({floor})"),
        )
    }

    pub(super) fn too_many(message: impl Into<String>, retry_after: Option<u32>) -> Self {
        let mut refusal = Self::new(429, "TooManyRequests", message);
        refusal.retry_after = retry_after;
        if let Some(seconds) = retry_after {
            refusal.status["details"] = json!({"retryAfterSeconds": seconds});
        }
        refusal
    }

    /// Names the budget that refuses, where kubectl looks for it.
    pub(super) fn because_of_budget(mut self, message: String) -> Self {
        self.status["details"]["causes"] =
            json!([{"reason": "DisruptionBudget", "message": message}]);
        self
    }

    pub(super) fn status(&self) -> &Value {
        &self.status
    }
}
