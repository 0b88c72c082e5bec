//! Errors as clients see them: `{"error": {"code", "field", "message"}}`, one readable sentence
//! that names the fix.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cretoai_control::api::{ErrorBody, ErrorDetail};

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    field: Option<&'static str>,
    message: String,
    retry_after_s: Option<u64>,
}

impl ApiError {
    /// An error with a fixed word and a sentence.
    pub fn new(status: StatusCode, code: &'static str, message: impl Into<String>) -> Self {
        Self { status, code, field: None, message: message.into(), retry_after_s: None }
    }

    /// Names the header, parameter or field that is wrong.
    #[must_use]
    pub const fn field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// Says when to try again, in whole seconds, at least 1.
    #[must_use]
    pub fn retry_after_ms(mut self, ms: u64) -> Self {
        self.retry_after_s = Some(ms.div_ceil(1000).max(1));
        self
    }

    /// There is nothing at this path.
    pub fn no_such_path(paths: &str) -> Self {
        Self::new(
            StatusCode::NOT_FOUND,
            "no_such_path",
            format!("there is nothing at this path; this port serves {paths}"),
        )
    }

    /// The path is right and the method is not.
    pub fn wrong_method(paths: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong_method",
            format!("this path does not take this method; this port serves {paths}"),
        )
    }

    /// The node itself failed.
    pub fn internal(message: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", message)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let error = ErrorDetail {
            code: self.code.into(),
            field: self.field.map(Into::into),
            message: self.message,
        };
        let mut response = (self.status, Json(ErrorBody { error })).into_response();
        if let Some(seconds) = self.retry_after_s {
            response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}
