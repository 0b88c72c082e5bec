//! `/health`, `/ready` and `/metrics` of the operator, plain HTTP.

use crate::{health::Health, metrics::Metrics};
use axum::{Router, http::StatusCode, routing::get};
use std::time::Instant;
use tokio::net::TcpListener;

fn answer(verdict: Result<(), String>) -> (StatusCode, String) {
    match verdict {
        Ok(()) => (StatusCode::OK, "ok\n".to_string()),
        Err(why) => (StatusCode::SERVICE_UNAVAILABLE, format!("{why}\n")),
    }
}

/// Serves on `listener` until `stop`. A standby is as ready as the leader.
///
/// # Errors
/// If the listener fails.
pub async fn serve(
    listener: TcpListener,
    metrics: Metrics,
    health: Health,
    stop: impl Future<Output = ()> + Send + 'static,
) -> std::io::Result<()> {
    let lives = health.clone();
    let router = Router::new()
        .route("/health", get(move || async move { answer(lives.healthy(Instant::now())) }))
        .route("/ready", get(move || async move { answer(health.ready(Instant::now())) }))
        .route(
            "/metrics",
            get(move || async move {
                metrics
                    .text()
                    .map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
            }),
        );
    axum::serve(listener, router).with_graceful_shutdown(stop).await
}
