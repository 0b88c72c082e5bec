//! What a submitted payload must look like before it comes near the ledger, and how its fate is
//! told.
//!
//! The rule of validity (protocol, "Clients"): whoever names a payload (`Idempotency-Key`) also
//! says until when it may execute (`Valid-Until`), because both are part of its id; whoever names
//! neither is given both.

use super::ApiError;
use crate::handle::Place;
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, StatusCode, header},
};
use cretoai_types::{Hash, MAX_PAYLOAD_DATA, Outcome};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Serialize;
use std::time::Duration;

/// How far ahead `Valid-Until` may lie: less than the chain's window, so that no payload is ordered
/// too early.
pub const MAX_AHEAD_MS: u64 = 45_000;
/// What the API gives to a payload without `Valid-Until`.
pub const DEFAULT_AHEAD_MS: u64 = 30_000;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// What is read and thrown away of a body that is too large, so that its sender sees the answer
/// instead of a reset.
const DRAINED: usize = 1 << 20;
const DRAIN_LIMIT: Duration = Duration::from_millis(500);

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const VALID_UNTIL: HeaderName = HeaderName::from_static("valid-until");

/// A payload's name and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    pub(super) key: [u8; 16],
    pub(super) valid_until_ms: u64,
}

/// Reads the two headers; `now_ms` is the later of the clock and the newest record's time.
pub(super) fn naming(headers: &HeaderMap, now_ms: u64) -> Result<Naming, ApiError> {
    let example = now_ms + DEFAULT_AHEAD_MS;
    let text = |name: &HeaderName| {
        headers.get(name).map(|value| {
            String::from_utf8_lossy(value.as_bytes()).chars().take(80).collect::<String>()
        })
    };
    let bad = |field, message: String| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_header", message).field(field)
    };
    let until = |text: String| {
        let refuse = |why: &str| {
            bad(
                "Valid-Until",
                format!("Valid-Until: {text} {why}; send Unix milliseconds, such as {example}"),
            )
        };
        let ms: u64 = text.parse().map_err(|_| refuse("is not a number"))?;
        if ms <= now_ms {
            return Err(refuse("has passed, so the payload could never execute"));
        }
        if ms > now_ms + MAX_AHEAD_MS {
            return Err(refuse("is more than 45 s ahead"));
        }
        Ok(ms)
    };
    match (text(&IDEMPOTENCY_KEY), text(&VALID_UNTIL)) {
        (None, None) => Ok(Naming { key: rand::random(), valid_until_ms: example }),
        (None, Some(ms)) => Ok(Naming { key: rand::random(), valid_until_ms: until(ms)? }),
        (Some(_), None) => {
            let why = "Idempotency-Key needs Valid-Until beside it, because both are part of the payload's id";
            Err(bad(
                "Valid-Until",
                format!("{why}; send Valid-Until: {example}, and the same value with every retry"),
            ))
        }
        (Some(key), Some(ms)) => {
            let bytes = hex::decode(&key).ok().and_then(|bytes| bytes.try_into().ok());
            let key = bytes.ok_or_else(|| {
                bad("Idempotency-Key", format!("Idempotency-Key: {key} is not 32 hexadecimal digits; send 16 random bytes in hexadecimal"))
            })?;
            Ok(Naming { key, valid_until_ms: until(ms)? })
        }
    }
}

/// Refuses what is not plain bytes, before the body is read.
pub(super) fn check_content_type(headers: &HeaderMap) -> Result<(), ApiError> {
    let value =
        headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let essence = value.split(';').next().unwrap_or_default().trim();
    if essence.eq_ignore_ascii_case("application/octet-stream") {
        return Ok(());
    }
    let shown: String = value.chars().take(80).collect();
    let message = format!(
        "Content-Type {shown:?} is not taken; send the payload's bytes with Content-Type: application/octet-stream"
    );
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message)
        .field("Content-Type"))
}

/// What the client says it will send, at most what is allowed.
pub(super) fn announced(headers: &HeaderMap) -> Option<usize> {
    headers.get(header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
}

fn too_large() -> ApiError {
    let message = format!("a payload has at most {MAX_PAYLOAD_DATA} bytes; send less, or split it");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", message)
}

/// Reads 1 to [`MAX_PAYLOAD_DATA`] bytes.
pub(super) async fn read_body(headers: &HeaderMap, body: Body) -> Result<Bytes, ApiError> {
    if announced(headers).is_some_and(|bytes| bytes > MAX_PAYLOAD_DATA) {
        let drained = tokio::time::timeout(DRAIN_LIMIT, drain(body)).await;
        tracing::trace!(whole = drained.is_ok(), "threw away a body that is too large");
        return Err(too_large());
    }
    let bytes = match tokio::time::timeout(
        BODY_LIMIT,
        Limited::new(body, MAX_PAYLOAD_DATA).collect(),
    )
    .await
    {
        Ok(Ok(collected)) => collected.to_bytes(),
        Ok(Err(error)) if error.is::<LengthLimitError>() => return Err(too_large()),
        Ok(Err(_)) => {
            let message =
                "the body ended before it was complete, and nothing was taken in; send it again";
            return Err(ApiError::new(StatusCode::BAD_REQUEST, "truncated", message));
        }
        Err(_) => {
            let message = format!(
                "the body did not arrive within {} s, and nothing was taken in; send it again",
                BODY_LIMIT.as_secs()
            );
            return Err(ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", message));
        }
    };
    if bytes.is_empty() {
        return Err(ApiError::new(
            StatusCode::BAD_REQUEST,
            "empty",
            "a payload has at least 1 byte; send the bytes as the body",
        ));
    }
    Ok(bytes)
}

async fn drain(mut body: Body) {
    let mut drained = 0;
    while let Some(Ok(frame)) = body.frame().await {
        drained += frame.data_ref().map_or(0, Bytes::len);
        if drained > DRAINED {
            break;
        }
    }
}

/// A payload's fate, as the API tells it.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Fate {
    id: String,
    status: &'static str,
    #[serde(flatten, skip_serializing_if = "Option::is_none")]
    place: Option<Told>,
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    idempotency_key: String,
    valid_until: u64,
    /// Base64, when it was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

/// A [`Place`] in JSON.
#[derive(Clone, Debug, PartialEq, Serialize)]
#[serde(rename_all = "camelCase")]
struct Told {
    outcome: &'static str,
    sequence: u64,
    index: u32,
    chain_hash: String,
    time_ms: u64,
    /// For a duplicate: the sequence that executed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    executed_at: Option<u64>,
}

impl Fate {
    /// Taken in, not yet ordered.
    pub(super) fn pending(id: &Hash, naming: Naming) -> Self {
        Self {
            id: id.to_string(),
            status: "pending",
            place: None,
            latency_ms: None,
            idempotency_key: hex::encode(naming.key),
            valid_until: naming.valid_until_ms,
            data: None,
        }
    }

    /// Ordered.
    pub(super) fn decided(id: &Hash, naming: Naming, place: &Place) -> Self {
        let (outcome, executed_at) = match place.outcome {
            Outcome::Executed => ("executed", None),
            Outcome::Duplicate { executed_at } => ("duplicate", Some(executed_at.0)),
            Outcome::Expired => ("expired", None),
            Outcome::Early => ("early", None),
            Outcome::Crowded => ("crowded", None),
        };
        let told = Told {
            outcome,
            sequence: place.sequence.0,
            index: place.index,
            chain_hash: place.chain_hash.to_string(),
            time_ms: place.time_ms,
            executed_at,
        };
        let status = if place.outcome.is_final() { "final" } else { "pending" };
        Self { status, place: Some(told), ..Self::pending(id, naming) }
    }

    pub(super) fn after(mut self, latency: Duration) -> Self {
        self.latency_ms = Some((latency.as_secs_f64() * 1e6).round() / 1e3);
        self
    }

    pub(super) fn with_data(mut self, data: &[u8]) -> Self {
        self.data = Some(cretoai_control::api::encode_base64(data));
        self
    }
}
