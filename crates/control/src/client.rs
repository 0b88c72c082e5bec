//! A client for port 9000, as the operator and the tests use it.
//!
//! The rule: it believes a node only by its key. [`ControlClient::attest`] learns a key together
//! with proofs of it, every other call names the key that it expects.

use crate::{
    api::{
        ATTEST_PATH, AttestRequest, Attestation, AttestationError, CONTROL_ALPN, ErrorBody,
        GENESIS_PATH, LEARNER_GENESIS_PATH, LEARNERS_PATH, Learners, MAX_BODY, NodeStatus,
        READY_PATH, RECONFIG_PATH, ReadyAnswer, ReadyRequest, STATUS_PATH, decode_base64,
        encode_base64,
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

/// How long one call may take, connection included.
pub const CALL_LIMIT: Duration = Duration::from_secs(5);

/// Why a call to a node failed.
#[derive(Debug, thiserror::Error)]
pub enum ControlError {
    /// The own key cannot be used.
    #[error(transparent)]
    Tls(#[from] TlsError),
    /// Nothing listens there, or the network does not let us through.
    #[error("no connection to {address}: {source}; is the pod running, and does a NetworkPolicy allow port {}?", .address.port())]
    Connect {
        /// Where to.
        address: SocketAddr,
        /// What the system answered.
        source: io::Error,
    },
    /// The TLS handshake failed: the node has another key than expected, or does not admit ours.
    #[error(
        "TLS with {address}: {source}; the node admits only the admin key named in its pod template"
    )]
    Handshake {
        /// Where to.
        address: SocketAddr,
        /// What rustls says.
        source: io::Error,
    },
    /// HTTP went wrong half way.
    #[error("HTTP with {address}: {reason}")]
    Http {
        /// Where to.
        address: SocketAddr,
        /// What was wrong.
        reason: String,
    },
    /// No answer in time.
    #[error("{address} did not answer within {} s", CALL_LIMIT.as_secs())]
    Timeout {
        /// Where to.
        address: SocketAddr,
    },
    /// The node said no.
    #[error("{address} answered {status} ({code}): {message}")]
    Refused {
        /// Where to.
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
        /// Where to.
        address: SocketAddr,
        /// What is wrong with it.
        source: AttestationError,
    },
}

/// Calls nodes with one key. Every call makes a connection of its own.
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

    /// Asks the node at `address` who it is. What comes back is proven to be said by the holder of
    /// the returned key, for this `nonce`.
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

    /// Gives the node its genesis; the same one again is accepted.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with status 409 if the node's volume holds another chain; the
    /// others.
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

    /// Gives the genesis to a node that it does not name, which will follow the chain.
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

    /// Asks a learner for what an order must hold that makes it a validator: what it knows of the
    /// chain, and its signature over that and the change.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with status 409 if it is in another epoch or the change is not of
    /// its key; the others.
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

    /// Hands in an order. It takes effect when a decision executes it; the epoch in the status
    /// shows that.
    ///
    /// # Errors
    /// [`ControlError::Refused`] with status 409 if it is void as far as the node knows; the
    /// others.
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

    /// Asks the node how it is.
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
        let (code, message) = match serde_json::from_slice::<ErrorBody>(&body) {
            Ok(body) => (body.error.code, body.error.message),
            Err(_) => {
                ("unknown".into(), String::from_utf8_lossy(&body).chars().take(200).collect())
            }
        };
        Err(ControlError::Refused { address, status: head.status, code, message })
    };
    // The connection must be polled for the request to move; it ends with the answer.
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

/// A server refuses a TLS 1.3 client key after the client has finished its own handshake, so that
/// the refusal comes back on the first read: that is a failed handshake to whoever reads the error.
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
