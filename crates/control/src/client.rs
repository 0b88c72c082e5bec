//! A client for port 9000, for the operator and the tests.
//!
//! The rule: the client believes a node only by its key. [`ControlClient::attest`] learns a key
//! together with proofs of it. Every other call names the key that it expects.

use crate::{
    api::{
        ATTEST_PATH, AttestRequest, Attestation, AttestationError, CONTROL_ALPN, GENESIS_PATH,
        LEARNER_GENESIS_PATH, LEARNERS_PATH, Learners, MAX_BODY, NodeStatus, Problem, READY_PATH,
        RECONFIG_PATH, ReadyAnswer, ReadyRequest, STATUS_PATH, decode_base64, encode_base64,
    },
    keys::{MlDsa87, SecretKey},
    tls::{self, Expect, TlsError},
};
use cretoai_types::{
    Change, Epoch, PublicKey, Ready, Sequence, Signature, SignedGenesis, SignedReconfig, encode,
};
use http::{Method, Request, StatusCode, header};
use http_body_util::{BodyExt, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use std::{future::Future, io, net::SocketAddr, sync::Arc, time::Duration};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// The most time that one call may take, the connection included.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Why a call to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The client's own key cannot be used for TLS.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nothing listens at the address, or the network does not let the client through.
    #[error("no connection to {address}: {source}; is the pod running, and does a NetworkPolicy allow port {}?", .address.port())]
    Connect {
        /// The node's address.
        address: SocketAddr,
        /// The system's error.
        source: io::Error,
    },
    /// The TLS handshake failed: the node has another key than expected, or does not admit ours.
    #[error(
        "TLS with {address}: {source}; the node admits only the admin key named in its pod template"
    )]
    Handshake {
        /// The node's address.
        address: SocketAddr,
        /// The error of rustls.
        source: io::Error,
    },
    /// The HTTP exchange failed, or the answer is not of the expected form.
    #[error("HTTP with {address}: {reason}")]
    Http {
        /// The node's address.
        address: SocketAddr,
        /// The reason.
        reason: String,
    },
    /// No answer came within [`CALL_LIMIT`].
    #[error("{address} did not answer within {} s", CALL_LIMIT.as_secs())]
    Timeout {
        /// The node's address.
        address: SocketAddr,
    },
    /// The node refused.
    #[error("{address} answered {status} ({code}): {message}")]
    Refused {
        /// The node's address.
        address: SocketAddr,
        /// The HTTP status.
        status: StatusCode,
        /// The error's fixed word.
        code: String,
        /// The error's sentence.
        message: String,
    },
    /// The node's identity is not proven.
    #[error("attestation of {address} is not believed: {source}")]
    Attestation {
        /// The node's address.
        address: SocketAddr,
        /// The reason.
        source: AttestationError,
    },
}

/// A client with one key. Every call makes a connection of its own.
#[derive(Clone)]
pub struct ControlClient {
    key: SecretKey,
}

impl ControlClient {
    /// A client that shows `admin` to the nodes.
    ///
    /// # Errors
    /// [`ControlError::Tls`] if the key cannot be used for TLS.
    pub fn new(admin: &SecretKey) -> Result<Self, ControlError> {
        tls::client_config(admin, Expect::Any, CONTROL_ALPN)?;
        Ok(Self { key: admin.clone() })
    }

    /// Attests the node at `address`. The holder of the returned key gave the returned answer to
    /// this `nonce`.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn attest(
        &self,
        address: SocketAddr,
        nonce: &[u8; 32],
    ) -> Result<(PublicKey, Attestation), ControlError> {
        let question = AttestRequest { nonce: hex::encode(nonce) };
        let body = serde_json::to_vec(&question)
            .map_err(|e| ControlError::Http { address, reason: e.to_string() })?;
        let call =
            self.call(address, Expect::Any, Method::POST, ATTEST_PATH, "application/json", body);
        let (key, answer) = call.await?;
        let attestation: Attestation = read_json(address, &answer)?;
        attestation
            .verify(&MlDsa87, &key, nonce)
            .map_err(|source| ControlError::Attestation { address, source })?;
        Ok((key, attestation))
    }

    /// Gives a member its genesis. The node accepts the same genesis again.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with status 409 if the node's volume holds another chain, and every
    /// other kind.
    pub async fn put_genesis(
        &self,
        address: SocketAddr,
        expect: &PublicKey,
        genesis: &SignedGenesis,
    ) -> Result<(), ControlError> {
        let expect = Expect::Key(expect.clone());
        let body = genesis.encode();
        self.call(address, expect, Method::PUT, GENESIS_PATH, "application/octet-stream", body)
            .await?;
        Ok(())
    }

    /// Gives the genesis to a node that it does not name, so that the node follows the chain as a
    /// learner.
    ///
    /// # Errors
    /// As [`Self::put_genesis`].
    pub async fn put_genesis_to_learner(
        &self,
        address: SocketAddr,
        expect: &PublicKey,
        genesis: &SignedGenesis,
    ) -> Result<(), ControlError> {
        let expect = Expect::Key(expect.clone());
        let body = genesis.encode();
        self.call(
            address,
            expect,
            Method::PUT,
            LEARNER_GENESIS_PATH,
            "application/octet-stream",
            body,
        )
        .await?;
        Ok(())
    }

    /// Lets the holders of `keys` connect to the node and fetch, until it stops.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn admit_learners(
        &self,
        address: SocketAddr,
        expect: &PublicKey,
        keys: &[PublicKey],
    ) -> Result<(), ControlError> {
        let expect = Expect::Key(expect.clone());
        let learners =
            Learners { keys: keys.iter().map(|key| encode_base64(key.as_bytes())).collect() };
        let body = serde_json::to_vec(&learners)
            .map_err(|e| ControlError::Http { address, reason: e.to_string() })?;
        self.call(address, expect, Method::PUT, LEARNERS_PATH, "application/json", body).await?;
        Ok(())
    }

    /// Asks a learner for its part of an order that makes it a validator: a recent chain hash, and
    /// its signature over that and the change.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with status 409 if it is in another epoch or the change is not of
    /// its key, and every other kind.
    pub async fn ready(
        &self,
        address: SocketAddr,
        expect: &PublicKey,
        epoch: Epoch,
        change: &Change,
    ) -> Result<(Ready, Signature), ControlError> {
        let question = ReadyRequest { epoch: epoch.0, change: encode_base64(&encode(change)) };
        let body = serde_json::to_vec(&question)
            .map_err(|e| ControlError::Http { address, reason: e.to_string() })?;
        let call = self.call(
            address,
            Expect::Key(expect.clone()),
            Method::POST,
            READY_PATH,
            "application/json",
            body,
        );
        let (_, answer) = call.await?;
        let answer: ReadyAnswer = read_json(address, &answer)?;
        let chain_hash = answer.chain_hash.parse().ok();
        let signature =
            decode_base64(&answer.signature).and_then(|bytes| Signature::from_slice(&bytes));
        match (chain_hash, signature) {
            (Some(chain_hash), Some(signature)) => {
                Ok((Ready { sequence: Sequence(answer.sequence), chain_hash }, signature))
            }
            _ => Err(ControlError::Http { address, reason: "the answer is no READY".into() }),
        }
    }

    /// Hands in an order to change the validators. The order takes effect when a decision executes
    /// it; then the epoch in the status is the next one.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with status 409 if it is void as far as the node knows, and
    /// every other kind.
    pub async fn reconfigure(
        &self,
        address: SocketAddr,
        expect: &PublicKey,
        order: &SignedReconfig,
    ) -> Result<(), ControlError> {
        let expect = Expect::Key(expect.clone());
        self.call(
            address,
            expect,
            Method::POST,
            RECONFIG_PATH,
            "application/octet-stream",
            encode(order),
        )
        .await?;
        Ok(())
    }

    /// Asks the node for its status.
    ///
    /// # Errors
    /// [`ControlError`].
    pub async fn status(
        &self,
        address: SocketAddr,
        expect: &PublicKey,
    ) -> Result<NodeStatus, ControlError> {
        let expect = Expect::Key(expect.clone());
        let (_, answer) = self
            .call(address, expect, Method::GET, STATUS_PATH, "application/json", vec![])
            .await?;
        read_json(address, &answer)
    }

    async fn call(
        &self,
        address: SocketAddr,
        expect: Expect,
        method: Method,
        path: &'static str,
        content_type: &'static str,
        body: Vec<u8>,
    ) -> Result<(PublicKey, Bytes), ControlError> {
        let config = Arc::new(tls::client_config(&self.key, expect, CONTROL_ALPN)?);
        let request = Request::builder()
            .method(method)
            .uri(path)
            .header(header::HOST, "node")
            .header(header::CONTENT_TYPE, content_type)
            .body(Full::new(Bytes::from(body)))
            .map_err(|e| ControlError::Http { address, reason: e.to_string() })?;
        within_limit(address, exchange(address, config, request)).await
    }
}

async fn within_limit<T>(
    address: SocketAddr,
    call: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, ControlError> {
    tokio::time::timeout(CALL_LIMIT, call).await.unwrap_or(Err(ControlError::Timeout { address }))
}

async fn exchange(
    address: SocketAddr,
    config: Arc<rustls::ClientConfig>,
    request: Request<Full<Bytes>>,
) -> Result<(PublicKey, Bytes), ControlError> {
    let http = |reason: String| ControlError::Http { address, reason };
    let tcp = TcpStream::connect(address)
        .await
        .map_err(|source| ControlError::Connect { address, source })?;
    let name = ServerName::from(address.ip());
    let stream = TlsConnector::from(config)
        .connect(name, tcp)
        .await
        .map_err(|source| ControlError::Handshake { address, source })?;
    let key = stream
        .get_ref()
        .1
        .peer_certificates()
        .and_then(tls::peer_key)
        .ok_or_else(|| http("the node showed no key".into()))?;
    let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream))
        .await
        .map_err(|e| http(e.to_string()))?;
    let answer = async {
        let response = sender.send_request(request).await.map_err(|e| describe(address, &e))?;
        let (head, body) = response.into_parts();
        let body = Limited::new(body, MAX_BODY)
            .collect()
            .await
            .map_err(|e| http(e.to_string()))?
            .to_bytes();
        if head.status.is_success() {
            return Ok(body);
        }
        let (code, message) = match serde_json::from_slice::<Problem>(&body) {
            Ok(problem) => (problem.code.clone(), problem.sentence()),
            Err(_) => {
                ("unknown".into(), String::from_utf8_lossy(&body).chars().take(200).collect())
            }
        };
        Err(ControlError::Refused { address, status: head.status, code, message })
    };
    // The request only moves while the connection is polled. The connection ends with the answer.
    let mut answer = std::pin::pin!(answer);
    let mut connection = std::pin::pin!(connection);
    let answer = tokio::select! {
        answer = &mut answer => answer,
        ended = &mut connection => match ended {
            Ok(()) => answer.await,
            Err(e) => Err(describe(address, &e)),
        },
    };
    answer.map(|body| (key, body))
}

/// Turns an error of hyper into ours. A server refuses a TLS 1.3 client key after the client has
/// finished its own handshake, so the refusal comes back on the first read. It is reported as a
/// failed handshake.
fn describe(address: SocketAddr, error: &hyper::Error) -> ControlError {
    let mut cause = std::error::Error::source(error);
    while let Some(e) = cause {
        if let Some(io) = e.downcast_ref::<io::Error>()
            && io.get_ref().is_some_and(|inner| inner.is::<rustls::Error>())
        {
            return ControlError::Handshake {
                address,
                source: io::Error::new(io.kind(), io.to_string()),
            };
        }
        cause = e.source();
    }
    let reason = std::error::Error::source(error)
        .map_or_else(|| error.to_string(), |s| format!("{error}: {s}"));
    ControlError::Http { address, reason }
}

fn read_json<T: serde::de::DeserializeOwned>(
    address: SocketAddr,
    body: &[u8],
) -> Result<T, ControlError> {
    serde_json::from_slice(body).map_err(|e| ControlError::Http {
        address,
        reason: format!("the answer is not what was asked for: {e}"),
    })
}
