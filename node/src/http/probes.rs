//! Port 9090: metrics and probes in plain HTTP, and nothing else.
//!
//! `/health` says that the process lives, its engine turns and its disk answers. It never asks the
//! consensus, so that a lost quorum does not make Kubernetes restart the nodes that could bring it
//! back. `/ready` says whether this node
//! serves clients.

use super::{ApiError, Front};
use crate::config::MetricsSection;
use axum::{
    Router,
    extract::State,
    http::{StatusCode, header},
    response::IntoResponse,
    routing::get,
};
use std::sync::Arc;

/// The router of port 9090.
pub fn router(front: Arc<Front>, section: &MetricsSection) -> Router {
    let paths = if section.enabled {
        format!("GET {}, /health and /ready", section.endpoint)
    } else {
        "GET /health and /ready".to_owned()
    };
    let mut router = Router::new().route("/health", get(health)).route("/ready", get(ready));
    if section.enabled {
        router = router.route(&section.endpoint, get(metrics));
    }
    let served = paths.clone();
    router
        .fallback(async move || ApiError::no_such_path(&paths))
        .method_not_allowed_fallback(async move || ApiError::wrong_method(&served))
        .with_state(front)
}

async fn health(State(front): State<Arc<Front>>) -> impl IntoResponse {
    match front.ledger().and_then(|ledger| ledger.death()) {
        None => (StatusCode::OK, "alive\n".to_owned()),
        Some(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

async fn ready(State(front): State<Arc<Front>>) -> impl IntoResponse {
    let status = front.status();
    let code = if status.ready { StatusCode::OK } else { StatusCode::SERVICE_UNAVAILABLE };
    (code, format!("{}\n", status.waiting_for))
}

async fn metrics(State(front): State<Arc<Front>>) -> Result<impl IntoResponse, ApiError> {
    let text = front
        .metrics
        .render()
        .map_err(|e| ApiError::internal(format!("the metrics cannot be rendered: {e}")))?;
    Ok(([(header::CONTENT_TYPE, "text/plain; version=0.0.4")], text))
}
