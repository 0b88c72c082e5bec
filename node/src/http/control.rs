//! Port 9000: attestation, genesis and status for the holder of the admin key. See `cretoai_control::api`.

use super::{
    ApiError, Front,
    front::{OfferError, VERSION},
};
use crate::handle::GenesisRefused;
use axum::{
    Json, Router,
    body::Bytes,
    extract::{DefaultBodyLimit, State, rejection::BytesRejection},
    http::{HeaderMap, StatusCode, header},
    routing::{get, post, put},
};
use cretoai_consensus::{Genesis, PublicKey, SignedGenesis};
use cretoai_control::{
    api::{
        ATTEST_PATH, AttestRequest, Attestation, CONTROL_ALPN, GENESIS_PATH, MAX_BODY, NodeStatus, STATUS_PATH, attest_message,
        encode_base64,
    },
    tls::{TlsError, server_config},
};
use std::sync::Arc;

const PATHS: &str = "POST /v1/attest, PUT /v1/genesis and GET /v1/status";
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
        ApiError::new(rejection.status(), "body", format!("{}; at most {MAX_BODY} bytes, all of them", rejection.body_text()))
    })
}

async fn attest(State(front): State<Arc<Front>>, question: Result<Bytes, BytesRejection>) -> Result<Json<Attestation>, ApiError> {
    let question = body(question)?;
    let bad = |message: String| ApiError::new(StatusCode::BAD_REQUEST, "bad_nonce", message).field("nonce");
    let question: AttestRequest =
        serde_json::from_slice(&question).map_err(|e| bad(format!("{e}; send {{\"nonce\": \"64 hexadecimal digits\"}}")))?;
    let nonce: [u8; 32] = hex::decode(&question.nonce)
        .ok()
        .and_then(|bytes| bytes.try_into().ok())
        .ok_or_else(|| bad("the nonce is not 64 hexadecimal digits; send 32 random bytes in hexadecimal".into()))?;
    let who = &front.identification;
    let token = match &who.token_path {
        None => String::new(),
        Some(path) => read_token(path).await.map_err(|e| {
            let path = path.display();
            ApiError::new(
                StatusCode::SERVICE_UNAVAILABLE,
                "no_token",
                format!("the ServiceAccount token {path} cannot be read: {e}; project it into the pod"),
            )
        })?,
    };
    let answer = Attestation {
        public_key: encode_base64(front.key.public_key().as_bytes()),
        pod_name: who.name.clone(),
        pod_uid: who.pod_uid.clone(),
        cluster_uid: who.cluster_uid.clone(),
        proof: encode_base64(front.key.sign(&attest_message(&nonce, &who.cluster_uid, &who.pod_uid)).as_bytes()),
        possession: encode_base64(front.key.sign(&Genesis::possession_message(&who.cluster_uid, &who.name)).as_bytes()),
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

async fn put_genesis(
    State(front): State<Arc<Front>>,
    headers: HeaderMap,
    bytes: Result<Bytes, BytesRejection>,
) -> Result<StatusCode, ApiError> {
    let content_type = headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
    if content_type != Some("application/octet-stream") {
        let message = "send the encoded genesis with Content-Type: application/octet-stream";
        return Err(ApiError::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "content_type", message).field("Content-Type"));
    }
    let bytes = body(bytes)?;
    let signed = SignedGenesis::decode(&bytes).map_err(|e| {
        ApiError::new(StatusCode::BAD_REQUEST, "bad_genesis", format!("{e}; send the bytes of the genesis ConfigMap as they are"))
    })?;
    let offered = tokio::task::spawn_blocking(move || front.offer_genesis(signed)).await;
    match offered.map_err(|e| ApiError::internal(format!("checking the genesis failed: {e}")))? {
        Ok(()) => Ok(StatusCode::NO_CONTENT),
        Err(error) => {
            let (status, code) = match &error {
                OfferError::OtherAdmin { .. } => (StatusCode::FORBIDDEN, "other_admin"),
                OfferError::OtherCluster { .. } => (StatusCode::CONFLICT, "other_cluster"),
                OfferError::Invalid(_) => (StatusCode::BAD_REQUEST, "bad_genesis"),
                OfferError::NotAMember { .. } => (StatusCode::CONFLICT, "not_a_member"),
                OfferError::Refused(GenesisRefused::OtherChain { .. }) => (StatusCode::CONFLICT, "other_chain"),
                OfferError::Refused(GenesisRefused::Storage(_)) => (StatusCode::INTERNAL_SERVER_ERROR, "storage"),
            };
            Err(ApiError::new(status, code, error.to_string()))
        }
    }
}
