//! Port 8080: what clients submit and look up. Plain HTTP inside the cluster; TLS and tokens are
//! the gateway's.
//!
//! The contract is the OpenAPI document that this port serves at `/openapi.json`, with a page to
//! try it at `/docs`. The rules: 200 means that a payload executed, 202 that it may still, 410 that
//! it never will; every other answer is a problem document; what executed never changes.

use super::{
    ApiError, Front,
    caching::{FOR_EVER, is_known, not_stored, wants_json},
    openapi,
    payloads::{Naming, PayloadStatus, check_content_type, naming, read_body, word},
    records::{self, Streams},
};
use crate::{
    handle::{Ledger, Lookup, Place, SubmitError},
    storage::Receipted,
};
use axum::{
    Extension, Json, Router,
    body::Body,
    extract::{
        Path, Query, State,
        rejection::{PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    middleware::from_fn,
    response::{IntoResponse, Response},
};
use cretoai_control::api::{EvidenceItem, EvidenceList, NodeStatus, Problem};
use cretoai_serve::{Budget, Caller};
use cretoai_types::{Hash, Outcome, Payload, Topic};
use serde::Deserialize;
use std::{
    net::{IpAddr, Ipv4Addr},
    sync::Arc,
    time::{Duration, Instant, SystemTime, UNIX_EPOCH},
};
use tokio::sync::Semaphore;
use utoipa::IntoParams;
use utoipa_axum::{router::OpenApiRouter, routes};

const PATHS: &str = "POST /v1/payloads, GET /v1/payloads/{id}, GET /v1/receipts/{id}, GET /v1/records, GET /v1/stream, GET /v1/evidence, GET /v1/evidence/{number}, GET /v1/status, \
                     GET /openapi.json and GET /docs";
/// Evidence in one answer: about 13 KiB each.
const EVIDENCE_PAGE: usize = 64;
/// The longest that a request waits for an outcome.
pub const MAX_WAIT_MS: u64 = 60_000;
/// Bytes of bodies that are being received at one time, all clients together.
const RECEIVING: usize = 64 << 20;
/// Bytes of answers that their readers have not read yet.
const ANSWERING: usize = 64 << 20;
/// Lookups at one time: each reads the disk and decodes a vertex, and the engine needs a processor.
const LOOKUPS: usize = 4;
/// How long a request waits for its turn to look up.
const TURN: Duration = Duration::from_secs(2);

const OUTCOME: HeaderName = HeaderName::from_static("x-creto-outcome");

/// The state of port 8080.
pub(super) struct Api {
    front: Arc<Front>,
    default_wait_ms: u64,
    receiving: Arc<Budget>,
    pub(super) answering: Arc<Budget>,
    lookups: Arc<Semaphore>,
    pub(super) streams: Arc<Streams>,
}

/// The paths with their documents.
pub(super) fn documented() -> OpenApiRouter<Arc<Api>> {
    OpenApiRouter::new()
        .routes(routes!(submit))
        .routes(routes!(look_up))
        .routes(routes!(receipt))
        .merge(records::documented())
        .routes(routes!(list_evidence))
        .routes(routes!(one_evidence))
        .routes(routes!(status))
}

/// The router of port 8080. `default_wait_ms` is how long a submission waits for its outcome unless
/// it says otherwise.
pub fn router(front: Arc<Front>, default_wait_ms: u64) -> Router {
    let api = Api {
        front,
        default_wait_ms: default_wait_ms.min(MAX_WAIT_MS),
        receiving: Budget::new(RECEIVING),
        answering: Budget::new(ANSWERING),
        lookups: Arc::new(Semaphore::new(LOOKUPS)),
        streams: Arc::default(),
    };
    openapi::with_documents(documented())
        .fallback(async || ApiError::no_such_path(PATHS))
        .method_not_allowed_fallback(async || ApiError::wrong_method(PATHS))
        .layer(from_fn(not_stored))
        .with_state(Arc::new(api))
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct SubmitQuery {
    /// How long the answer may wait for the outcome, in milliseconds; 0 answers at once.
    #[param(value_type = Option<u64>, maximum = 60_000)]
    wait: Option<String>,
    /// Under which the payload is filed: part of its id, so the same in every retry.
    #[param(min_length = 1, max_length = 64)]
    topic: Option<String>,
}

#[derive(Debug, Deserialize, IntoParams)]
#[into_params(parameter_in = Query)]
struct EvidenceQuery {
    /// The number of the first evidence in the answer; the first of all is 0.
    #[param(value_type = Option<u64>)]
    from: Option<String>,
}

impl Api {
    pub(super) fn ledger(&self) -> Result<&Arc<dyn Ledger>, ApiError> {
        self.front
            .ledger()
            .ok_or_else(|| not_ready(&format!("this node is {}", self.front.status().waiting_for)))
    }

    fn wait(&self, query: &SubmitQuery) -> Result<Duration, ApiError> {
        let bad = |value: &str| {
            let shown: String = value.chars().take(40).collect();
            let detail = format!("wait={shown} is not a number of milliseconds");
            ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", detail).field("wait").fix(
                format!("send 0 to {MAX_WAIT_MS}, or leave it out for {}", self.default_wait_ms),
            )
        };
        let ms = match &query.wait {
            None => self.default_wait_ms,
            Some(value) => {
                value.parse().ok().filter(|ms| *ms <= MAX_WAIT_MS).ok_or_else(|| bad(value))?
            }
        };
        Ok(Duration::from_millis(ms))
    }

    /// Reads the ledger, off the threads that serve, when it is this request's turn.
    pub(super) async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&dyn Ledger) -> Result<T, String> + Send + 'static,
    ) -> Result<T, ApiError> {
        let ledger = self.ledger()?.clone();
        let turn = tokio::time::timeout(TURN, Arc::clone(&self.lookups).acquire_owned()).await;
        let Ok(Ok(turn)) = turn else {
            return Err(ApiError::overloaded("too many lookups wait for their turn at this node"));
        };
        // The turn lasts as long as the read, although the client may be gone before.
        let read = tokio::task::spawn_blocking(move || {
            let found = read(&*ledger);
            drop(turn);
            found
        });
        read.await
            .map_err(|e| ApiError::internal(format!("reading the ledger failed: {e}")))?
            .map_err(|e| ApiError::internal(format!("the ledger cannot be read: {e}")))
    }

    async fn take_in(
        &self,
        query: &SubmitQuery,
        headers: &HeaderMap,
        caller: Caller,
        body: Body,
    ) -> Result<Response, ApiError> {
        let arrived = Instant::now();
        let ledger = self.ledger()?;
        check_content_type(headers)?;
        let wait = self.wait(query)?;
        let topic = query.topic.as_deref().map(topic).transpose()?;
        let naming = naming(headers, unix_ms().max(ledger.newest_time_ms()))?;
        let mut charge = self.receiving.charge(caller);
        let data = read_body(headers, body, &mut charge).await?;
        let payload = Payload {
            key: naming.key,
            valid_until_ms: naming.valid_until_ms,
            topic,
            data: data.into(),
        };
        let ticket = ledger.submit(payload).map_err(|error| match error {
            SubmitError::Full { retry_after_ms } => full(retry_after_ms),
            SubmitError::NoSpace(why) => {
                ApiError::new(StatusCode::INSUFFICIENT_STORAGE, "no_space", why)
            }
            SubmitError::NotReady(why) => not_ready(&why),
        })?;
        drop(charge);
        self.front.metrics.payloads_accepted.inc();
        let id = ticket.id;
        let pending = |receipt: PayloadStatus| -> Result<Response, ApiError> {
            let location = HeaderValue::from_str(&format!("/v1/payloads/{id}"));
            let location = location.map_err(|e| ApiError::internal(e.to_string()))?;
            let headers = [(header::LOCATION, location)];
            Ok((StatusCode::ACCEPTED, headers, Json(receipt.named(naming))).into_response())
        };
        let told = match tokio::time::timeout(wait, ticket.outcome).await {
            Err(_) => return pending(PayloadStatus::pending(&id)),
            Ok(told) => told.ok(),
        };
        let place = match told.map(|place| place.outcome) {
            Some(Outcome::Executed) => told,
            Some(Outcome::Crowded) => {
                return pending(told.map_or_else(
                    || PayloadStatus::pending(&id),
                    |place| PayloadStatus::ordered(&id, &place),
                ));
            }
            // Another copy may have executed: the first outcome is the payload's.
            Some(Outcome::Expired | Outcome::Duplicate { .. } | Outcome::Early) | None => {
                self.first(id).await?.or(told)
            }
        };
        let Some(place) = place else { return Err(not_kept(&id, naming)) };
        match place.outcome {
            Outcome::Expired => Err(expired(&id, &place)),
            Outcome::Early => Err(early(&id, naming)),
            _ => {
                Ok(Json(PayloadStatus::ordered(&id, &place).named(naming).after(arrived.elapsed()))
                    .into_response())
            }
        }
    }

    /// A body that is charged to its reader until it has been read.
    pub(super) fn held(
        &self,
        caller: Option<Extension<Caller>>,
        data: Vec<u8>,
    ) -> Result<Body, ApiError> {
        let mut charge = self.answering.charge(of(caller));
        if charge.grow(data.len()) {
            return Ok(Body::from(charge.hold(data)));
        }
        Err(ApiError::overloaded(
            "this node holds as many bytes as it may for readers that have not read them yet",
        ))
    }

    /// Where a payload executed, told to a client that submitted it once more.
    async fn first(&self, id: Hash) -> Result<Option<Place>, ApiError> {
        Ok(match self.read(move |ledger| ledger.lookup(&id)).await? {
            Some(Lookup::Final { place, .. }) if place.outcome == Outcome::Executed => {
                let outcome = Outcome::Duplicate { executed_at: place.sequence };
                Some(Place { outcome, ..place })
            }
            _ => None,
        })
    }
}

/// Submits a payload, and waits for its outcome.
///
/// 200 says that the payload executed, here or by an earlier submission (`duplicate`). 202 says
/// that it was taken in and may still execute until its `validUntil`; a node that stops gives up
/// what it has not yet sealed, so send the same bytes with the same key and time again until the
/// answer is 200 or 410: they execute at most once.
#[utoipa::path(
    post,
    path = "/v1/payloads",
    tag = "payloads",
    params(
        SubmitQuery,
        ("Idempotency-Key" = Option<String>, Header, description = "16 random bytes in hexadecimal, part of the payload's id; needs Valid-Until", pattern = "^[0-9a-fA-F]{32}$"),
        ("Valid-Until" = Option<u64>, Header, description = "Unix milliseconds, 1 to 45 s ahead, part of the payload's id; the same in every retry"),
    ),
    request_body(content = Vec<u8>, content_type = "application/octet-stream", description = "1 to 131072 bytes"),
    responses(
        (status = 200, description = "It executed", body = PayloadStatus),
        (status = 202, description = "It was taken in and may still execute", body = PayloadStatus, headers(("Location" = String, description = "Where to look it up"))),
        (status = 400, description = "A header, the parameter or the body is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 408, description = "The body arrived too slowly", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "It was ordered too late and will never execute", body = Problem, content_type = "application/problem+json", headers(("X-Creto-Outcome" = String))),
        (status = 413, description = "The body is too large", body = Problem, content_type = "application/problem+json"),
        (status = 415, description = "The body is not announced as bytes", body = Problem, content_type = "application/problem+json"),
        (status = 429, description = "The node holds as many payloads as it may", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
        (status = 500, description = "The node failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not ready, overloaded, or gave the payload up", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
    )
)]
async fn submit(
    State(api): State<Arc<Api>>,
    query: Result<Query<SubmitQuery>, QueryRejection>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, ApiError> {
    let answer = async {
        let Query(query) = query.map_err(bad_query)?;
        api.take_in(&query, &headers, of(caller), body).await
    };
    let answer = answer.await;
    if answer.is_err() {
        api.front.metrics.payloads_refused.inc();
    }
    answer
}

/// Looks a payload up by its id.
///
/// The answer to an executed payload never changes. It is the bytes, with their place in headers,
/// or JSON for a client that prefers it.
#[utoipa::path(
    get,
    path = "/v1/payloads/{id}",
    tag = "payloads",
    params(
        ("id" = String, Path, description = "The id that the submission was answered with", pattern = "^[0-9a-fA-F]{64}$"),
        ("If-None-Match" = Option<String>, Header, description = "The ETag of what the client has"),
    ),
    responses(
        (status = 200, description = "It executed", content(
            (Vec<u8> = "application/octet-stream"),
            (PayloadStatus = "application/json"),
        ), headers(
            ("X-Creto-Outcome" = String), ("X-Creto-Sequence" = u64), ("X-Creto-Index" = u64),
            ("X-Creto-Chain-Hash" = String), ("X-Creto-Time-Ms" = u64), ("ETag" = String),
        )),
        (status = 202, description = "It may still execute", body = PayloadStatus),
        (status = 304, description = "The client has it already"),
        (status = 400, description = "The id is not one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "This node does not know it, or it was ordered too early", body = Problem, content_type = "application/problem+json"),
        (status = 410, description = "It was ordered too late and will never execute", body = Problem, content_type = "application/problem+json", headers(("X-Creto-Outcome" = String))),
        (status = 500, description = "The node failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not ready or overloaded", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
    )
)]
async fn look_up(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
    caller: Option<Extension<Caller>>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(bad_path)?;
    let hash = payload_id(&id)?;
    let found = api.read(move |ledger| ledger.lookup(&hash)).await?;
    let Some(found) = found else { return Err(unknown(&hash)) };
    let (place, payload) = match found {
        Lookup::Pending => {
            return Ok((StatusCode::ACCEPTED, Json(PayloadStatus::pending(&hash))).into_response());
        }
        Lookup::Final { place, payload } => (place, payload),
    };
    match place.outcome {
        Outcome::Executed | Outcome::Duplicate { .. } => {}
        Outcome::Crowded => {
            let outcome = [(OUTCOME, HeaderValue::from_static(word(place.outcome)))];
            let receipt = PayloadStatus::ordered(&hash, &place).named(Naming::of(&payload));
            return Ok((StatusCode::ACCEPTED, outcome, Json(receipt)).into_response());
        }
        Outcome::Expired => return Err(expired(&hash, &place)),
        Outcome::Early => return Err(early_before(&hash, &place)),
    }
    let json = wants_json(&headers);
    let tag = if json { format!("\"{hash}-json\"") } else { format!("\"{hash}\"") };
    let text = |text: &str| {
        HeaderValue::from_str(text).map_err(|e| ApiError::internal(format!("a header: {e}")))
    };
    let mut head = HeaderMap::new();
    head.insert(header::ETAG, text(&tag)?);
    head.insert(header::CACHE_CONTROL, FOR_EVER);
    head.insert(header::VARY, HeaderValue::from_static("Accept"));
    if is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    head.extend(place_headers(&place)?);
    let (kind, data) = if json {
        let receipt = PayloadStatus::ordered(&hash, &place)
            .named(Naming::of(&payload))
            .filed(payload.topic.as_ref())
            .with_data(&payload.data);
        let json = serde_json::to_vec(&receipt);
        ("application/json", json.map_err(|e| ApiError::internal(format!("the receipt: {e}")))?)
    } else {
        ("application/octet-stream", payload.data)
    };
    head.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
    Ok((head, api.held(caller, data)?).into_response())
}

/// The proof of what became of a payload, as a file for `cretoai-node verify receipt`.
#[utoipa::path(
    get,
    path = "/v1/receipts/{id}",
    tag = "payloads",
    params(("id" = String, Path, description = "The id that the submission was answered with", pattern = "^[0-9a-fA-F]{64}$")),
    responses(
        (status = 200, description = "It needs nothing else but the genesis to be verified", body = Vec<u8>, content_type = "application/octet-stream", headers(("Content-Disposition" = String))),
        (status = 400, description = "The id is not one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "This node does not know the payload, or nothing proves its place yet", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
        (status = 500, description = "The node failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not ready or overloaded", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
    )
)]
async fn receipt(
    State(api): State<Arc<Api>>,
    id: Result<Path<String>, PathRejection>,
    caller: Option<Extension<Caller>>,
) -> Result<Response, ApiError> {
    let Path(id) = id.map_err(bad_path)?;
    let hash = payload_id(&id)?;
    match api.read(move |ledger| ledger.receipt(&hash)).await? {
        Receipted::Unknown => Err(unknown(&hash)),
        Receipted::NotYet(sequence) => {
            let detail = format!(
                "sequence {sequence} ordered payload {hash}, and nothing after it proves that yet"
            );
            Err(ApiError::new(StatusCode::NOT_FOUND, "receipt_not_ready", detail)
                .fix("ask again after Retry-After")
                .retry_after_ms(1_000))
        }
        Receipted::Ready(receipt) => {
            let name = format!("attachment; filename=\"{hash}.receipt\"");
            let name = HeaderValue::from_str(&name);
            let name = name.map_err(|e| ApiError::internal(e.to_string()))?;
            let head = [
                (header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream")),
                (header::CONTENT_DISPOSITION, name),
            ];
            Ok((head, api.held(caller, receipt.encode())?).into_response())
        }
    }
}

/// Lists what the chain counted against its validators, oldest first.
#[utoipa::path(
    get,
    path = "/v1/evidence",
    tag = "evidence",
    params(EvidenceQuery),
    responses(
        (status = 200, description = "At most 64, and where to go on", body = EvidenceList),
        (status = 400, description = "The parameter is wrong", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The node failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not ready or overloaded", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
    )
)]
async fn list_evidence(
    State(api): State<Arc<Api>>,
    query: Result<Query<EvidenceQuery>, QueryRejection>,
) -> Result<Json<EvidenceList>, ApiError> {
    let Query(query) = query.map_err(bad_query)?;
    let first = query.from.map_or(Ok(0), |text| number(&text, "from"))?;
    Ok(Json(api.read(move |ledger| ledger.evidence(first, EVIDENCE_PAGE)).await?))
}

/// One evidence, as a file for `cretoai-node verify evidence`.
#[utoipa::path(
    get,
    path = "/v1/evidence/{number}",
    tag = "evidence",
    params(("number" = u64, Path, description = "Its number among all that counted, from 0")),
    responses(
        (status = 200, description = "It needs nothing else to be verified", body = EvidenceItem, headers(("ETag" = String))),
        (status = 304, description = "The client has it already"),
        (status = 400, description = "The number is not one", body = Problem, content_type = "application/problem+json"),
        (status = 404, description = "The chain counted fewer", body = Problem, content_type = "application/problem+json"),
        (status = 500, description = "The node failed", body = Problem, content_type = "application/problem+json"),
        (status = 503, description = "The node is not ready or overloaded", body = Problem, content_type = "application/problem+json", headers(("Retry-After" = u64))),
    )
)]
async fn one_evidence(
    State(api): State<Arc<Api>>,
    text: Result<Path<String>, PathRejection>,
    headers: HeaderMap,
) -> Result<Response, ApiError> {
    let Path(text) = text.map_err(bad_path)?;
    let number = number(&text, "number")?;
    let list = api.read(move |ledger| ledger.evidence(number, 1)).await?;
    let total = list.total;
    let Some(item) = list.items.into_iter().next() else {
        let detail = format!("there is no evidence {number}; the chain counted {total} in all");
        return Err(ApiError::new(StatusCode::NOT_FOUND, "unknown_evidence", detail)
            .field("number")
            .fix("GET /v1/evidence lists them, from 0 on"));
    };
    let tag = format!("\"{}-{number}\"", item.chain_id);
    let mut head = HeaderMap::new();
    let value = HeaderValue::from_str(&tag).map_err(|e| ApiError::internal(e.to_string()))?;
    head.insert(header::ETAG, value);
    head.insert(header::CACHE_CONTROL, FOR_EVER);
    if is_known(&headers, &tag) {
        return Ok((StatusCode::NOT_MODIFIED, head).into_response());
    }
    Ok((head, Json(item)).into_response())
}

/// The node's account of itself: one node's word.
#[utoipa::path(
    get,
    path = "/v1/status",
    tag = "status",
    responses((status = 200, description = "What it is, what it has, and what it waits for", body = NodeStatus))
)]
async fn status(State(api): State<Arc<Api>>) -> Json<NodeStatus> {
    Json(api.front.status())
}

/// The address that a request is charged to. Only a router without a port has none.
pub(super) fn of(caller: Option<Extension<Caller>>) -> Caller {
    caller
        .map_or_else(|| Caller::from(IpAddr::V4(Ipv4Addr::UNSPECIFIED)), |Extension(caller)| caller)
}

fn payload_id(text: &str) -> Result<Hash, ApiError> {
    text.parse().map_err(|e| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_id", format!("{e}"))
            .field("id")
            .fix("use the id that the submission was answered with: 64 hexadecimal digits")
    })
}

fn unknown(id: &Hash) -> ApiError {
    let detail = format!("this node has no payload {id}, neither ordered nor waiting to be");
    ApiError::new(StatusCode::NOT_FOUND, "unknown_payload", detail)
        .field("id")
        .fix("check the id, or ask the node that answered the submission, or ask again later")
        .retry_after_ms(1_000)
}

fn number(text: &str, field: &'static str) -> Result<usize, ApiError> {
    text.parse().map_err(|_| {
        let shown: String = text.chars().take(40).collect();
        let detail = format!("{shown:?} is not an evidence number");
        ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", detail)
            .field(field)
            .fix("GET /v1/evidence lists them, from 0 on")
    })
}

pub(super) fn bad_query(rejection: QueryRejection) -> ApiError {
    let detail = format!("the query cannot be read: {}", rejection.body_text());
    ApiError::new(StatusCode::BAD_REQUEST, "bad_query", detail)
        .field("query")
        .fix("send each parameter of /openapi.json at most once, percent-encoded")
}

/// A topic, as a parameter names it.
pub(super) fn topic(text: &str) -> Result<Topic, ApiError> {
    Topic::new(text).map_err(|why| {
        let shown: String = text.chars().take(80).collect();
        let detail = format!("topic={shown:?} is not one: {why}");
        ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", detail)
            .field("topic")
            .fix("send such a topic, or leave it out")
    })
}

fn bad_path(rejection: PathRejection) -> ApiError {
    let detail = format!("the path cannot be read: {}", rejection.body_text());
    ApiError::new(StatusCode::BAD_REQUEST, "bad_path", detail)
        .field("path")
        .fix("percent-encode UTF-8 in the path")
}

fn not_ready(why: &str) -> ApiError {
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", why)
        .fix("try another node, or this one after Retry-After")
        .retry_after_ms(1_000)
}

fn full(retry_after_ms: u64) -> ApiError {
    let detail = "this node holds as many payloads as it may";
    ApiError::new(StatusCode::TOO_MANY_REQUESTS, "full", detail)
        .fix("send this one again after Retry-After, or to another node")
        .retry_after_ms(retry_after_ms)
}

/// How to repeat a submission so that it executes at most once.
fn again(naming: Naming) -> String {
    format!(
        "send the same bytes again, here or elsewhere, with Idempotency-Key: {} and Valid-Until: {}: they execute at \
         most once",
        hex::encode(naming.key),
        naming.valid_until_ms
    )
}

fn not_kept(id: &Hash, naming: Naming) -> ApiError {
    let detail = format!("this node gave payload {id} up before a decision ordered it");
    let over = unix_ms() + super::payloads::MIN_AHEAD_MS > naming.valid_until_ms;
    let fix = if over {
        format!(
            "its Valid-Until: {} has passed, so submit the bytes under a new Idempotency-Key unless GET /v1/payloads/{id} \
             answers 200 at another node",
            naming.valid_until_ms
        )
    } else {
        again(naming)
    };
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_kept", detail)
        .fix(fix)
        .retry_after_ms(1_000)
}

fn with_place(error: ApiError, place: &Place) -> ApiError {
    match place_headers(place) {
        Ok(headers) => headers.into_iter().fold(error, |error, (name, value)| match name {
            Some(name) => error.header(name, value),
            None => error,
        }),
        Err(broken) => broken,
    }
}

fn expired(id: &Hash, place: &Place) -> ApiError {
    let detail = format!(
        "payload {id} was ordered at sequence {}, after its Valid-Until, and will never execute",
        place.sequence
    );
    let error = ApiError::new(StatusCode::GONE, "expired", detail)
        .fix("submit the bytes again under a new Idempotency-Key and a later Valid-Until");
    with_place(error, place)
}

fn early(id: &Hash, naming: Naming) -> ApiError {
    let detail = format!(
        "payload {id} was ordered too early and did not execute: Valid-Until: {} is more than 60 s after the chain's time, \
         so this node's clock is ahead of the others'",
        naming.valid_until_ms
    );
    ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "early", detail)
        .field("Valid-Until")
        .fix(again(naming))
        .header(OUTCOME, HeaderValue::from_static("early"))
        .retry_after_ms(5_000)
}

fn early_before(id: &Hash, place: &Place) -> ApiError {
    let detail = format!(
        "payload {id} was ordered at sequence {}, too early, and did not execute",
        place.sequence
    );
    let error = ApiError::new(StatusCode::NOT_FOUND, "early", detail)
        .field("id")
        .fix("submit the same bytes again with the same Idempotency-Key and Valid-Until");
    with_place(error, place)
}

/// Where a payload stands, for an answer whose body does not say it.
fn place_headers(place: &Place) -> Result<HeaderMap, ApiError> {
    let chain_hash = HeaderValue::from_str(&place.chain_hash.to_string())
        .map_err(|e| ApiError::internal(e.to_string()))?;
    let name = HeaderName::from_static;
    Ok(HeaderMap::from_iter([
        (OUTCOME, HeaderValue::from_static(word(place.outcome))),
        (name("x-creto-sequence"), HeaderValue::from(place.sequence.0)),
        (name("x-creto-index"), HeaderValue::from(place.index)),
        (name("x-creto-chain-hash"), chain_hash),
        (name("x-creto-time-ms"), HeaderValue::from(place.time_ms)),
    ]))
}

/// This machine's clock. Before 1970 it is 0, and the newest record's time counts instead.
fn unix_ms() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .ok()
        .and_then(|since| u64::try_from(since.as_millis()).ok())
        .unwrap_or(0)
}
