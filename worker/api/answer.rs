//! What a producer is told: the id of its test job, or why there is none.

use axum::Json;
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use serde_json::json;

use super::LARGEST;
use crate::store::StoreError;

/// The id of a test job here.
pub(super) type Answer = Result<i64, Refusal>;

/// Why a request was refused.
#[derive(Debug)]
pub(super) enum Refusal {
    /// Nobody we know.
    Unknown,
    /// Somebody we know who may not.
    Forbidden,
    /// There is no such project, or the address is no target.
    NotFound,
    /// What is wrong with the request.
    Bad(String),
    /// The body is too large, or broke off.
    Large,
    /// It took too long.
    Late,
    /// The store did not take it.
    Store(StoreError),
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        Self::Store(error)
    }
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        match self {
            Self::Unknown => (
                StatusCode::UNAUTHORIZED,
                [(header::WWW_AUTHENTICATE, "Token")],
                "authentication needed: send a token of [api.tokens] as `Authorization: Token …` or `Auth-Token: …`",
            )
                .into_response(),
            Self::Forbidden => (
                StatusCode::FORBIDDEN,
                Json(json!({ "detail": "User needs permission to submit test jobs." })),
            )
                .into_response(),
            Self::NotFound => (StatusCode::NOT_FOUND, "not found").into_response(),
            Self::Bad(text) => (StatusCode::BAD_REQUEST, text).into_response(),
            Self::Large => (
                StatusCode::PAYLOAD_TOO_LARGE,
                format!("the request broke off or has more than {LARGEST} bytes"),
            )
                .into_response(),
            Self::Late => (StatusCode::SERVICE_UNAVAILABLE, "it took too long: try again").into_response(),
            Self::Store(error) => {
                tracing::warn!(%error, "what was asked for was not stored");
                (StatusCode::SERVICE_UNAVAILABLE, "the store did not take it: try again").into_response()
            }
        }
    }
}
