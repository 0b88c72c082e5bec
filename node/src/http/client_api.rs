//! Port 8080: what clients submit and look up. Plain HTTP inside the cluster; TLS and tokens are
//! the gateway's.
//!
//! | request | answer |
//! |---|---|
//! | `POST /v1/payloads?wait=ms` | 200 with the outcome, or 202 when it is not final within `wait` |
//! | `GET /v1/payloads/{id}` | the bytes, with their place in headers; JSON with `Accept: application/json`; 202 while pending |
//! | `GET /v1/receipts/{id}` | the proof of what became of a payload, for `cretoai-node verify receipt` |
//! | `GET /v1/evidence?from=number` | what the chain counted against its validators, at most 64 a page |
//! | `GET /v1/evidence/{number}` | one of them, as a file for `cretoai-node verify evidence` |
//! | `GET /v1/status` | `NodeStatus` |

use super::{
    ApiError, Front,
    payloads::{Fate, Naming, announced, check_content_type, naming, read_body},
};
use crate::{
    handle::{Ledger, Lookup, SubmitError},
    storage::Receipted,
};
use axum::{
    Json, Router,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use cretoai_control::api::{EvidenceItem, EvidenceList, NodeStatus};
use cretoai_types::{Hash, MAX_PAYLOAD_DATA, Payload};
use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Semaphore;

const PATHS: &str = "POST /v1/payloads, GET /v1/payloads/{id}, GET /v1/receipts/{id}, GET /v1/evidence, GET /v1/evidence/{number} and GET /v1/status";
/// Evidence in one answer: about 13 KiB each.
const EVIDENCE_PAGE: usize = 64;
/// The longest that a request waits for an outcome.
pub const MAX_WAIT_MS: u64 = 60_000;
/// KiB of bodies that are being received at one time, all clients together.
const RECEIVING_KIB: usize = 64 * 1024;
/// How long a request waits for its share of that.
const TURN: Duration = Duration::from_secs(1);

/// The state of port 8080.
struct Api {
    front: Arc<Front>,
    default_wait_ms: u64,
    receiving: Semaphore,
}

/// The router of port 8080. `default_wait_ms` is how long a submission waits for its outcome unless
/// it says otherwise.
pub fn router(front: Arc<Front>, default_wait_ms: u64) -> Router {
    let api = Api {
        front,
        default_wait_ms: default_wait_ms.min(MAX_WAIT_MS),
        receiving: Semaphore::new(RECEIVING_KIB),
    };
    Router::new()
        .route("/v1/payloads", post(submit))
        .route("/v1/payloads/{id}", get(look_up))
        .route("/v1/receipts/{id}", get(receipt))
        .route("/v1/evidence", get(list_evidence))
        .route("/v1/evidence/{number}", get(one_evidence))
        .route("/v1/status", get(status))
        .fallback(async || ApiError::no_such_path(PATHS))
        .method_not_allowed_fallback(async || ApiError::wrong_method(PATHS))
        .with_state(Arc::new(api))
}

impl Api {
    fn ledger(&self) -> Result<&Arc<dyn Ledger>, ApiError> {
        self.front
            .ledger()
            .ok_or_else(|| not_ready(&format!("this node is {}", self.front.status().waiting_for)))
    }

    fn wait(&self, query: &HashMap<String, String>) -> Result<Duration, ApiError> {
        let bad = |value: &str| {
            let shown: String = value.chars().take(40).collect();
            let message = format!(
                "wait={shown} is not a number of milliseconds from 0 to {MAX_WAIT_MS}; leave it out for {}",
                self.default_wait_ms
            );
            ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", message).field("wait")
        };
        let ms = match query.get("wait") {
            None => self.default_wait_ms,
            Some(value) => {
                value.parse().ok().filter(|ms| *ms <= MAX_WAIT_MS).ok_or_else(|| bad(value))?
            }
        };
        Ok(Duration::from_millis(ms))
    }

    async fn take_in(
        &self,
        query: &HashMap<String, String>,
        headers: &HeaderMap,
        body: Body,
    ) -> Result<Response, ApiError> {
        let arrived = Instant::now();
        let ledger = self.ledger()?;
        check_content_type(headers)?;
        let wait = self.wait(query)?;
        let naming = naming(headers, unix_ms().max(ledger.newest_time_ms()))?;
        let kib = announced(headers).unwrap_or(MAX_PAYLOAD_DATA).min(MAX_PAYLOAD_DATA) / 1024 + 1;
        let turn = self.receiving.acquire_many(u32::try_from(kib).unwrap_or(u32::MAX));
        let Ok(Ok(turn)) = tokio::time::timeout(TURN, turn).await else { return Err(full(1_000)) };
        let data = read_body(headers, body).await?;
        let payload = Payload {
            key: naming.key,
            valid_until_ms: naming.valid_until_ms,
            topic: None,
            data: data.into(),
        };
        let ticket = ledger.submit(payload).map_err(|error| match error {
            SubmitError::Full { retry_after_ms } => full(retry_after_ms),
            SubmitError::NotReady(why) => not_ready(&why),
        })?;
        drop(turn);
        self.front.metrics.payloads_accepted.inc();
        match tokio::time::timeout(wait, ticket.outcome).await {
            Ok(Ok(place)) => {
                Ok(Json(Fate::decided(&ticket.id, naming, &place).after(arrived.elapsed()))
                    .into_response())
            }
            Ok(Err(_)) => Err(not_kept(&ticket.id, naming)),
            Err(_) => {
                Ok((StatusCode::ACCEPTED, Json(Fate::pending(&ticket.id, naming))).into_response())
            }
        }
    }
}

async fn submit(
    State(api): State<Arc<Api>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let answer = api.take_in(&query, &headers, body).await;
    if answer.is_err() {
        api.front.metrics.payloads_refused.inc();
    }
    answer
}

async fn look_up(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let ledger = api.ledger()?.clone();
    let hash = payload_id(&id)?;
    let found = tokio::task::spawn_blocking(move || ledger.lookup(&hash)).await;
    let found = found.map_err(|e| ApiError::internal(format!("the lookup failed: {e}")))?;
    let json = headers
        .get_all(header::ACCEPT)
        .iter()
        .any(|value| value.to_str().is_ok_and(|v| v.contains("application/json")));
    match found.map_err(|e| ApiError::internal(format!("the ledger cannot be read: {e}")))? {
        None => Err(unknown(&hash)),
        Some(Lookup::Pending) => {
            let body = serde_json::json!({ "id": hash.to_string(), "status": "pending" });
            Ok((StatusCode::ACCEPTED, Json(body)).into_response())
        }
        Some(Lookup::Final { place, payload }) if json => {
            let naming = Naming { key: payload.key, valid_until_ms: payload.valid_until_ms };
            Ok(Json(Fate::decided(&hash, naming, &place).with_data(&payload.data)).into_response())
        }
        Some(Lookup::Final { place, payload }) => {
            let chain_hash = HeaderValue::from_str(&place.chain_hash.to_string())
                .map_err(|e| ApiError::internal(e.to_string()))?;
            let head = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
                (HeaderName::from_static("x-creto-sequence"), HeaderValue::from(place.sequence.0)),
                (HeaderName::from_static("x-creto-index"), HeaderValue::from(place.index)),
                (HeaderName::from_static("x-creto-chain-hash"), chain_hash),
            ];
            Ok((head, payload.data).into_response())
        }
    }
}

/// The file that `cretoai-node verify receipt` verifies.
async fn receipt(
    State(api): State<Arc<Api>>,
    Path(id): Path<String>,
) -> Result<Response, ApiError> {
    let ledger = api.ledger()?.clone();
    let hash = payload_id(&id)?;
    let found = tokio::task::spawn_blocking(move || ledger.receipt(&hash)).await;
    let found = found.map_err(|e| ApiError::internal(format!("the lookup failed: {e}")))?;
    match found.map_err(|e| ApiError::internal(format!("the ledger cannot be read: {e}")))? {
        Receipted::Unknown => Err(unknown(&hash)),
        Receipted::NotYet(sequence) => {
            let message = format!(
                "sequence {sequence} ordered payload {hash}, and nothing after it proves that yet; ask again in a second"
            );
            let error = ApiError::new(StatusCode::NOT_FOUND, "receipt_not_ready", message);
            Ok(([(header::RETRY_AFTER, HeaderValue::from_static("1"))], error).into_response())
        }
        Receipted::Ready(receipt) => {
            let name = format!("attachment; filename=\"{hash}.receipt\"");
            let head = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
                (
                    header::CONTENT_DISPOSITION,
                    HeaderValue::from_str(&name).map_err(|e| ApiError::internal(e.to_string()))?,
                ),
            ];
            Ok((head, receipt.encode()).into_response())
        }
    }
}

fn payload_id(text: &str) -> Result<Hash, ApiError> {
    text.parse().map_err(|e| {
        let message = format!("{e}; use the id that the submission was answered with");
        ApiError::new(StatusCode::BAD_REQUEST, "bad_id", message).field("id")
    })
}

fn unknown(id: &Hash) -> ApiError {
    let message = format!(
        "no payload {id} was ordered as far as this node knows, and none is waiting here; check the id, or ask again later"
    );
    ApiError::new(StatusCode::NOT_FOUND, "unknown_payload", message).field("id")
}

/// Evidence from the store, off the threads that serve.
async fn evidence(api: &Api, first: usize, count: usize) -> Result<EvidenceList, ApiError> {
    let ledger = api.ledger()?.clone();
    let found = tokio::task::spawn_blocking(move || ledger.evidence(first, count)).await;
    let found =
        found.map_err(|e| ApiError::internal(format!("reading the evidence failed: {e}")))?;
    found.map_err(|e| ApiError::internal(format!("the ledger cannot be read: {e}")))
}

fn number(text: &str, field: &'static str) -> Result<usize, ApiError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        let message = format!(
            "{shown:?} is not the number of an evidence; GET /v1/evidence lists them from 0 on"
        );
        ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", message).field(field)
    })
}

async fn list_evidence(
    State(api): State<Arc<Api>>,
    Query(query): Query<HashMap<String, String>>,
) -> Result<Json<EvidenceList>, ApiError> {
    let first = query.get("from").map_or(Ok(0), |text| number(text, "from"))?;
    Ok(Json(evidence(&api, first, EVIDENCE_PAGE).await?))
}

async fn one_evidence(
    State(api): State<Arc<Api>>,
    Path(text): Path<String>,
) -> Result<Json<EvidenceItem>, ApiError> {
    let number = number(&text, "number")?;
    let list = evidence(&api, number, 1).await?;
    let total = list.total;
    list.items.into_iter().next().map(Json).ok_or_else(|| {
        let message = format!("there is no evidence {number}; the chain counted {total} in all");
        ApiError::new(StatusCode::NOT_FOUND, "unknown_evidence", message).field("number")
    })
}

async fn status(State(api): State<Arc<Api>>) -> Json<NodeStatus> {
    Json(api.front.status())
}

fn not_ready(why: &str) -> ApiError {
    ApiError::new(
        StatusCode::SERVICE_UNAVAILABLE,
        "not_ready",
        format!("{why}; try another node, or this one later"),
    )
    .retry_after_ms(1_000)
}

fn full(retry_after_ms: u64) -> ApiError {
    let message = "this node holds as many payloads as it may; send this one again after Retry-After, or to another node";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "full", message).retry_after_ms(retry_after_ms)
}

fn not_kept(id: &Hash, naming: Naming) -> ApiError {
    let message = format!(
        "this node gave payload {id} up before a decision ordered it; send the same bytes again, here or elsewhere, with \
         Idempotency-Key: {} and Valid-Until: {}: they execute at most once",
        hex::encode(naming.key),
        naming.valid_until_ms
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_kept", message).retry_after_ms(1_000)
}

/// This machine's clock. Before 1970 it is 0, and the newest record's time counts instead.
fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
