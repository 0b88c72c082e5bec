//! Port 9000: attestation, genesis, reconfiguration and status for the holder of the admin key. See
//! `cretoai_control::api`.

use super::{ApiError, Front, front::OfferError};
use crate::{
    handle::{GenesisRefused, Ledger},
    version::VERSION,
};
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, Query, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    routing::{get, post, put},
};
use cretoai_control::{
    api::{
        ATTEST_PATH, AttestRequest, Attestation, CONTROL_ALPN, GENESIS_PATH, LEARNERS_PATH,
        Learners, MAX_BODY, NodeStatus, READY_PATH, RECONFIG_PATH, ReadyAnswer, ReadyRequest,
        STATUS_PATH, attest_message, decode_base64, encode_base64,
    },
    tls::{TlsError, server_config},
};
use cretoai_types::{
    Change, Genesis, MAX_MEMBERS, PublicKey, Reconfig, SignedGenesis, SignedReconfig, decode,
};
use std::{collections::HashMap, sync::Arc};

const PATHS: &str = "POST /v1/attest, PUT /v1/genesis, PUT /v1/learners, POST /v1/ready, POST /v1/reconfig and GET /v1/status";
/// A projected token has about 1 KiB.
const MAX_TOKEN: u64 = 64 * 1024;

/// TLS that admits only the admin key.
///
/// # Errors
/// When rustls does not take the node's key.
pub fn tls(front: &Front) -> Result<rustls::ServerConfig, TlsError> {
    let admin = front.identification.admin;
    let admit = move |key: &PublicKey| admin.is_some_and(|admin| key.fingerprint() == admin);
    server_config(&front.key, Arc::new(admit), CONTROL_ALPN)
}

/// The router of port 9000.
pub fn router(front: Arc<Front>) -> Router {
    Router::new()
        .route(ATTEST_PATH, post(attest))
        .route(GENESIS_PATH, put(put_genesis))
        .route(LEARNERS_PATH, put(admit_learners))
        .route(READY_PATH, post(ready))
        .route(RECONFIG_PATH, post(reconfigure))
        .route(STATUS_PATH, get(status))
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .fallback(async || ApiError::no_such_path(PATHS))
        .method_not_allowed_fallback(async || ApiError::wrong_method(PATHS))
        .with_state(front)
}

async fn status(State(front): State<Arc<Front>>) -> Json<NodeStatus> {
    Json(front.status())
}

fn body(result: Result<Bytes, BytesRejection>) -> Result<Bytes, ApiError> {
    result.map_err(|rejection| {
        ApiError::new(
            rejection.status(),
            "body",
            format!("{}; at most {MAX_BODY} bytes, all of them", rejection.body_text()),
        )
    })
}

async fn attest(
    State(front): State<Arc<Front>>,
    question: Result<Bytes, BytesRejection>,
) -> Result<Json<Attestation>, ApiError> {
    let question = body(question)?;
    let bad = |message: String| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_nonce", message).field("nonce")
    };
    let question: AttestRequest = serde_json::from_slice(&question)
        .map_err(|e| bad(format!("{e}; send {{\"nonce\": \"64 hexadecimal digits\"}}")))?;
    let nonce: [u8; 32] = hex::decode(&question.nonce)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| {
            bad("the nonce is not 64 hexadecimal digits; send 32 random bytes in hexadecimal"
                .into())
        })?;
    let who = &front.identification;
    let token = match &who.token_path {
        None => String::new(),
        Some(path) => read_token(path).await.map_err(|e| {
            let path = path.display();
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_token",
                format!(
                    "the ServiceAccount token {path} cannot be read: {e}; project it into the pod"
                ),
            )
        })?,
    };
    let answer = Attestation {
        public_key: encode_base64(front.key.public_key().as_bytes()),
        pod_name: who.name.clone(),
        pod_uid: who.pod_uid.clone(),
        cluster_uid: who.cluster_uid.clone(),
        proof: encode_base64(
            front.key.sign(&attest_message(&nonce, &who.cluster_uid, &who.pod_uid)).as_bytes(),
        ),
        possession: encode_base64(
            front.key.sign(&Genesis::possession_message(&who.cluster_uid, &who.name)).as_bytes(),
        ),
        token,
        chain_id: front.chain_id().map(|id| id.to_string()),
        version: VERSION.into(),
    };
    Ok(Json(answer))
}

async fn read_token(path: &std::path::Path) -> std::io::Result<String> {
    use tokio::io::AsyncReadExt;
    let mut token = String::new();
    tokio::fs::File::open(path).await?.take(MAX_TOKEN).read_to_string(&mut token).await?;
    Ok(token.trim().to_owned())
}

/// Refuses what is not plain bytes.
fn check_octets(headers: &HeaderMap, what: &str) -> Result<(), ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if content_type == Some("application/octet-stream") {
        return Ok(());
    }
    let message = format!("send the encoded {what} with Content-Type: application/octet-stream");
    Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message)
        .field("Content-Type"))
}

fn ledger(front: &Front) -> Result<&Arc<dyn Ledger>, ApiError> {
    front.ledger().ok_or_else(|| {
        let message =
            format!("this node is {}; ask again when it runs", front.status().waiting_for);
        ApiError::new(StatusCode::SERVICE_UNAVAILABLE, "not_ready", message).retry_after_ms(1_000)
    })
}

async fn admit_learners(
    State(front): State<Arc<Front>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let bad =
        |message: String| ApiError::new(StatusCode::BAD_REQUEST, "bad_key", message).field("keys");
    let learners: Learners = serde_json::from_slice(&body(bytes)?)
        .map_err(|e| bad(format!("{e}; send {{\"keys\": [\"base64 of a public key\"]}}")))?;
    if learners.keys.len() > MAX_MEMBERS {
        return Err(bad(format!(
            "{} keys are too many; at most {MAX_MEMBERS} learners can wait",
            learners.keys.len()
        )));
    }
    let key = |text: &String| decode_base64(text).and_then(|bytes| PublicKey::from_slice(&bytes));
    let keys: Option<Vec<PublicKey>> = learners.keys.iter().map(key).collect();
    let keys = keys.ok_or_else(|| bad("a key is not base64 of an ML-DSA-87 public key".into()))?;
    ledger(&front)?.admit_learners(keys);
    Ok(StatusCode::NO_CONTENT)
}

async fn ready(
    State(front): State<Arc<Front>>,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<Json<ReadyAnswer>, ApiError> {
    let bad = |message: String| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_change", message).field("change")
    };
    let question: ReadyRequest =
        serde_json::from_slice(&body(bytes)?).map_err(|e| bad(e.to_string()))?;
    let change = decode_base64(&question.change).and_then(|bytes| decode::<Change>(&bytes).ok());
    let change = change.ok_or_else(|| bad("it is not base64 of an encoded change".into()))?;
    let conflict =
        |message: String| ApiError::new(StatusCode::CONFLICT, "not_ready_for_it", message);
    if change.new_key() != Some(front.key.public_key()) {
        return Err(conflict(
            "the change does not bring this node's key in; attest this pod again".into(),
        ));
    }
    let chain_id =
        front.chain_id().ok_or_else(|| conflict("this node has no genesis yet".into()))?;
    let running = ledger(&front)?.clone();
    let known = tokio::task::spawn_blocking(move || running.knows()).await;
    let known = known.map_err(|e| ApiError::internal(format!("reading the state failed: {e}")))?;
    let (epoch, ready) =
        known.map_err(|e| ApiError::internal(format!("the ledger cannot be read: {e}")))?;
    if epoch.0 != question.epoch {
        return Err(conflict(format!(
            "this node is in epoch {epoch}, the change ends epoch {}; look again",
            question.epoch
        )));
    }
    let reconfig = Reconfig { epoch, valid_until_ms: 0, change, ready: Some(ready) };
    let signature = front.key.sign(&reconfig.possession_message(chain_id));
    Ok(Json(ReadyAnswer {
        sequence: ready.sequence.0,
        chain_hash: ready.chain_hash.to_string(),
        signature: encode_base64(signature.as_bytes()),
    }))
}

async fn reconfigure(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    check_octets(&headers, "order")?;
    let order: SignedReconfig = decode(&body(bytes)?).map_err(|e| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_order", format!("{e}; send one encoded order"))
    })?;
    let running = ledger(&front)?.clone();
    let taken = tokio::task::spawn_blocking(move || running.reconfigure(order)).await;
    match taken.map_err(|e| ApiError::internal(format!("checking the order failed: {e}")))? {
        Ok(()) => Ok(StatusCode::ACCEPTED),
        Err(why) => Err(ApiError::new(StatusCode::CONFLICT, "void", why)),
    }
}

async fn put_genesis(
    State(front): State<Arc<Front>>,
    Query(query): Query<HashMap<String, String>>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    check_octets(&headers, "genesis")?;
    let learner = match query.get("as").map(String::as_str) {
        None => false,
        Some("learner") => true,
        Some(other) => {
            let shown: String = other.chars().take(40).collect();
            let message = format!(
                "as={shown} is not known; leave it out for a validator, or write as=learner"
            );
            return Err(
                ApiError::new(StatusCode::BAD_REQUEST, "bad_parameter", message).field("as")
            );
        }
    };
    let bytes = body(bytes)?;
    let signed = SignedGenesis::decode(&bytes).map_err(|e| {
        ApiError::new(
            StatusCode::BAD_REQUEST,
            "bad_genesis",
            format!("{e}; send the bytes of the genesis ConfigMap as they are"),
        )
    })?;
    let offered = tokio::task::spawn_blocking(move || front.offer_genesis(signed, learner)).await;
    match offered.map_err(|e| ApiError::internal(format!("checking the genesis failed: {e}")))? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => {
            let (status, code) = match &error {
                OfferError::OtherAdmin { .. } => (StatusCode::FORBIDDEN, "other_admin"),
                OfferError::OtherCluster { .. } => (StatusCode::CONFLICT, "other_cluster"),
                OfferError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_genesis"),
                OfferError::NotAMember { .. } => (StatusCode::CONFLICT, "not_a_member"),
                OfferError::Refused(GenesisRefused::OtherChain { .. }) => {
                    (StatusCode::CONFLICT, "other_chain")
                }
                OfferError::Refused(GenesisRefused::Storage(_)) => {
                    (StatusCode::INTERNAL_SERVER_ERROR, "storage")
                }
            };
            Err(ApiError::new(status, code, error.to_string()))
        }
    }
}
