//! Refusals as problem documents (RFC 9457): `type`, `title`, `status` and `detail`, and our
//! `code`, `field` and `fix`.
//!
//! Every answer that is not a success is one, on every path of every port; `code` is a fixed word
//! for programs, `fix` says what to do.

use axum::{
    body::Body,
    http::{HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use cretoai_control::api::Problem;

/// An answer that is not a success.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ApiError {
    status: StatusCode,
    code: &'static str,
    field: Option<&'static str>,
    detail: String,
    fix: Option<String>,
    headers: Vec<(HeaderName, HeaderValue)>,
}

impl ApiError {
    /// An error with a fixed word and a sentence.
    pub fn new(status: StatusCode, code: &'static str, detail: impl Into<String>) -> Self {
        let (detail, fix, headers) = (detail.into(), None, Vec::new());
        Self { status, code, field: None, detail, fix, headers }
    }

    /// The status of the answer.
    #[must_use]
    pub const fn status(&self) -> StatusCode {
        self.status
    }

    /// Says what to do, as an imperative.
    #[must_use]
    pub fn fix(mut self, fix: impl Into<String>) -> Self {
        self.fix = Some(fix.into());
        self
    }

    /// Names the header, parameter or field that is wrong.
    #[must_use]
    pub const fn field(mut self, field: &'static str) -> Self {
        self.field = Some(field);
        self
    }

    /// Says when to try again, in whole seconds, at least 1.
    #[must_use]
    pub fn retry_after_ms(self, ms: u64) -> Self {
        self.header(header::RETRY_AFTER, HeaderValue::from(ms.div_ceil(1000).max(1)))
    }

    /// Adds a header.
    #[must_use]
    pub fn header(mut self, name: HeaderName, value: HeaderValue) -> Self {
        self.headers.push((name, value));
        self
    }

    /// There is nothing at this path.
    pub fn no_such_path(paths: &str) -> Self {
        Self::new(StatusCode::NOT_FOUND, "no_such_path", "there is nothing at this path")
            .fix(format!("use what this port serves: {paths}"))
    }

    /// The path is right and the method is not.
    pub fn wrong_method(paths: &str) -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong_method",
            "this path does not take this method",
        )
        .fix(format!("use a method in the header Allow; this port serves {paths}"))
    }

    /// The node itself failed.
    pub fn internal(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
            .fix("ask another node, and read this one's log")
    }

    /// The node has as much to do for its callers as it may.
    pub fn overloaded(what: &str) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, "overloaded", what)
            .fix("send the request again after Retry-After, or to another node")
            .retry_after_ms(1_000)
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problem = Problem::new(
            self.status.as_u16(),
            self.code,
            self.field.map(Into::into),
            self.detail,
            self.fix,
        );
        let body = serde_json::to_vec(&problem).unwrap_or_default();
        let mut response = Response::new(Body::from(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(Problem::CONTENT_TYPE));
        headers.extend(self.headers);
        response
    }
}
