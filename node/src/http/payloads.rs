//! What a submitted payload must look like before it comes near the ledger, and the receipt that
//! answers it.
//!
//! The rule of validity (protocol, "Clients"): a client that names a payload (`Idempotency-Key`)
//! also says until when it may execute (`Valid-Until`), because both are part of its id; a client
//! that names neither is given both.

use super::ApiError;
use crate::handle::Place;
use axum::{
    body::{Body, Bytes},
    http::{HeaderMap, HeaderName, StatusCode, header},
};
use cretoai_serve::Charge;
use cretoai_types::{Hash, MAX_PAYLOAD_DATA, Outcome, Payload, Topic};
use http_body_util::BodyExt;
use serde::Serialize;
use std::time::Duration;
use tokio::time::{Instant, timeout_at};

/// How far ahead `Valid-Until` may lie: less than the chain's window, so that no payload is ordered
/// too early.
pub const MAX_AHEAD_MS: u64 = 45_000;
/// How far ahead it must lie at least: a payload with less would most likely be ordered too late.
pub const MIN_AHEAD_MS: u64 = 1_000;
/// What the API gives to a payload without `Valid-Until`.
pub const DEFAULT_AHEAD_MS: u64 = 30_000;
/// How long a body may take to arrive.
const BODY_LIMIT: Duration = Duration::from_secs(10);
/// In each such span at least [`LEAST`] bytes of a body must arrive, or the rest of it.
const SPAN: Duration = Duration::from_secs(2);
const LEAST: usize = 4 * 1024;

const IDEMPOTENCY_KEY: HeaderName = HeaderName::from_static("idempotency-key");
const VALID_UNTIL: HeaderName = HeaderName::from_static("valid-until");

/// A payload's name and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Naming {
    pub(super) key: [u8; 16],
    pub(super) valid_until_ms: u64,
}

impl Naming {
    pub(super) const fn of(payload: &Payload) -> Self {
        Self { key: payload.key, valid_until_ms: payload.valid_until_ms }
    }
}

/// Reads the two headers; `now_ms` is the later of the clock and the newest record's time.
pub(super) fn naming(headers: &HeaderMap, now_ms: u64) -> Result<Naming, ApiError> {
    let example = now_ms + DEFAULT_AHEAD_MS;
    let text = |name: &HeaderName| {
        headers.get(name).map(|value| {
            String::from_utf8_lossy(value.as_bytes()).chars().take(80).collect::<String>()
        })
    };
    let bad = |field, detail: String| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_header", detail).field(field)
    };
    let until = |text: String| {
        let refuse = |why: &str| {
            bad("Valid-Until", format!("Valid-Until: {text} {why}")).fix(format!(
                "send Unix milliseconds, 1 to 45 s ahead, such as {example}; the later of this node's clock and the \
                 newest record's time is {now_ms}"
            ))
        };
        let ms: u64 = text.parse().map_err(|_| refuse("is not a number"))?;
        if ms <= now_ms {
            return Err(refuse("has passed, so the payload could never execute"));
        }
        if ms < now_ms + MIN_AHEAD_MS {
            return Err(refuse("is less than 1 s ahead, too soon to be ordered in time"));
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
            Err(bad("Valid-Until", why.into())
                .fix(format!("send Valid-Until: {example}, and the same value with every retry")))
        }
        (Some(key), Some(ms)) => {
            let bytes = hex::decode(&key).ok().and_then(|bytes| bytes.try_into().ok());
            let key = bytes.ok_or_else(|| {
                let why = format!("Idempotency-Key: {key} is not 32 hexadecimal digits");
                bad("Idempotency-Key", why).fix("send 16 random bytes in hexadecimal")
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
    let detail = format!("Content-Type {shown:?} is not taken");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", detail)
        .field("Content-Type")
        .fix("send the payload's bytes with Content-Type: application/octet-stream"))
}

fn too_large() -> ApiError {
    let detail = format!("a payload has at most {MAX_PAYLOAD_DATA} bytes");
    ApiError::new(StatusCode::PAYLOAD_TOO_LARGE, "too_large", detail).fix("send less, or split it")
}

fn slow(detail: String) -> ApiError {
    ApiError::new(StatusCode::REQUEST_TIMEOUT, "slow_body", detail)
        .fix("send the whole request again, at 2 KiB/s at least; nothing was taken in")
}

/// Reads 1 to [`MAX_PAYLOAD_DATA`] bytes. Each is charged when it arrives: a promise of bytes costs
/// others nothing.
pub(super) async fn read_body(
    headers: &HeaderMap,
    mut body: Body,
    charge: &mut Charge,
) -> Result<Bytes, ApiError> {
    let announced: Option<u64> = headers
        .get(header::CONTENT_LENGTH)
        .and_then(|value| value.to_str().ok())
        .and_then(|value| value.parse().ok());
    if announced.is_some_and(|bytes| bytes > MAX_PAYLOAD_DATA as u64) {
        return Err(too_large());
    }
    let end = Instant::now() + BODY_LIMIT;
    let mut span = Instant::now() + SPAN;
    let (mut data, mut in_span) = (Vec::new(), 0);
    loop {
        let frame = match timeout_at(span.min(end), body.frame()).await {
            Ok(None) => break,
            Ok(Some(Ok(frame))) => frame,
            Ok(Some(Err(_))) => {
                let detail = "the body ended before it was complete";
                return Err(ApiError::new(StatusCode::BAD_REQUEST, "truncated", detail)
                    .fix("send the whole request again; nothing was taken in"));
            }
            Err(_) if Instant::now() >= end => {
                let limit = BODY_LIMIT.as_secs();
                return Err(slow(format!("the body did not arrive within {limit} s")));
            }
            Err(_) if in_span < LEAST => {
                return Err(slow(format!("the body arrives at less than {LEAST} bytes in 2 s")));
            }
            Err(_) => {
                (span, in_span) = (Instant::now() + SPAN, 0);
                continue;
            }
        };
        let Some(bytes) = frame.data_ref() else { continue };
        if data.len() + bytes.len() > MAX_PAYLOAD_DATA {
            return Err(too_large());
        }
        if !charge.grow(bytes.len()) {
            return Err(ApiError::overloaded(
                "this node is receiving as many bytes as it may, from this address or from all",
            ));
        }
        in_span += bytes.len();
        data.extend_from_slice(bytes);
    }
    if data.is_empty() {
        return Err(ApiError::new(StatusCode::BAD_REQUEST, "empty", "the body is empty")
            .fix("send at least 1 byte; the body is the payload"));
    }
    Ok(data.into())
}

/// The word of the API for an outcome.
pub(super) const fn word(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Executed => "executed",
        Outcome::Duplicate { .. } => "duplicate",
        Outcome::Expired => "expired",
        Outcome::Early => "early",
        Outcome::Crowded => "crowded",
    }
}

/// What became of a payload.
#[derive(Clone, Debug, PartialEq, Serialize, utoipa::ToSchema)]
#[serde(rename_all = "camelCase")]
pub(super) struct PayloadStatus {
    /// The payload's id, 64 hexadecimal digits.
    id: String,
    /// `final`: it executed. `pending`: it may still execute.
    #[schema(pattern = "^(final|pending)$")]
    status: &'static str,
    /// `executed`; `duplicate` for a repeated submission of what had executed; `crowded` for a
    /// pending payload whose lane was full, and which is ordered again.
    #[serde(skip_serializing_if = "Option::is_none")]
    #[schema(pattern = "^(executed|duplicate|crowded)$")]
    outcome: Option<&'static str>,
    /// The decision that ordered it.
    #[serde(skip_serializing_if = "Option::is_none")]
    sequence: Option<u64>,
    /// Its position in that decision, from 0.
    #[serde(skip_serializing_if = "Option::is_none")]
    index: Option<u32>,
    /// The chain hash of that decision, 64 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    chain_hash: Option<String>,
    /// The time of that decision, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    time_ms: Option<u64>,
    /// Of a duplicate: the sequence that executed it.
    #[serde(skip_serializing_if = "Option::is_none")]
    executed_at: Option<u64>,
    /// From the arrival of a submission to its outcome.
    #[serde(skip_serializing_if = "Option::is_none")]
    latency_ms: Option<f64>,
    /// The key that is part of the id, 32 hexadecimal digits.
    #[serde(skip_serializing_if = "Option::is_none")]
    idempotency_key: Option<String>,
    /// Until when it may execute, Unix milliseconds.
    #[serde(skip_serializing_if = "Option::is_none")]
    valid_until: Option<u64>,
    /// Its topic, when it was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    topic: Option<String>,
    /// The payload in Base64, when it was looked up.
    #[serde(skip_serializing_if = "Option::is_none")]
    data: Option<String>,
}

impl PayloadStatus {
    /// Taken in, not yet ordered.
    pub(super) fn pending(id: &Hash) -> Self {
        Self {
            id: id.to_string(),
            status: "pending",
            outcome: None,
            sequence: None,
            index: None,
            chain_hash: None,
            time_ms: None,
            executed_at: None,
            latency_ms: None,
            idempotency_key: None,
            valid_until: None,
            topic: None,
            data: None,
        }
    }

    /// Ordered.
    pub(super) fn ordered(id: &Hash, place: &Place) -> Self {
        let executed_at = match place.outcome {
            Outcome::Duplicate { executed_at } => Some(executed_at.0),
            _ => None,
        };
        Self {
            status: if place.outcome.is_final() { "final" } else { "pending" },
            outcome: Some(word(place.outcome)),
            sequence: Some(place.sequence.0),
            index: Some(place.index),
            chain_hash: Some(place.chain_hash.to_string()),
            time_ms: Some(place.time_ms),
            executed_at,
            ..Self::pending(id)
        }
    }

    pub(super) fn named(mut self, naming: Naming) -> Self {
        self.idempotency_key = Some(hex::encode(naming.key));
        self.valid_until = Some(naming.valid_until_ms);
        self
    }

    pub(super) fn after(mut self, latency: Duration) -> Self {
        self.latency_ms = Some((latency.as_secs_f64() * 1e6).round() / 1e3);
        self
    }

    pub(super) fn filed(mut self, topic: Option<&Topic>) -> Self {
        self.topic = topic.map(|topic| topic.as_str().to_owned());
        self
    }

    pub(super) fn with_data(mut self, data: &[u8]) -> Self {
        self.data = Some(cretoai_control::api::encode_base64(data));
        self
    }
}
