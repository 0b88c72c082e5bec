//! Somebody who is in the pod network and not a member: connects to a node's control port and
//! validators' port, with a key of his own, and with a member's public key that he stole (which he
//! can show, and not sign with).
//!
//! The rule: an attempt counts as refused only if the node ended it. Anything that the node answers
//! is a hole.

use anyhow::{Context, Result, bail};
use clap::Args;
use cretoai_control::{
    api::{CONTROL_ALPN, STATUS_PATH, decode_base64},
    keys::SecretKey,
    tls::{self, Expect, subject_public_key_info},
};
use cretoai_types::PublicKey;
use rustls::{
    ClientConfig, SignatureScheme, client::ResolvesClientCert, pki_types::CertificateDer,
    pki_types::ServerName, sign::CertifiedKey,
};
use serde::{Deserialize, Serialize};
use std::{net::IpAddr, net::SocketAddr, sync::Arc, time::Duration};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::timeout,
};

/// ALPN name of the validators' port.
const PEER_ALPN: &[u8] = b"cretoai/1";
const LIMIT: Duration = Duration::from_secs(10);

/// Whom to attack.
#[derive(Args, Clone, Debug)]
pub struct Arguments {
    /// Address of a node.
    #[arg(long)]
    pub node: IpAddr,
    /// The public key that the control port admits, base64.
    #[arg(long)]
    pub admin_key: String,
    /// The public key of a validator, base64.
    #[arg(long)]
    pub member_key: String,
}

/// How one attempt ended.
#[derive(Clone, Debug, Deserialize, Serialize, PartialEq, Eq)]
pub struct Attempt {
    /// What was tried.
    pub what: String,
    /// Whether the node refused.
    pub refused: bool,
    /// How it did, or what it answered instead.
    pub how: String,
}

/// Shows a key that is not its own.
#[derive(Debug)]
struct Stolen {
    own: Arc<dyn ResolvesClientCert>,
    shown: CertificateDer<'static>,
}

impl ResolvesClientCert for Stolen {
    fn resolve(&self, hints: &[&[u8]], schemes: &[SignatureScheme]) -> Option<Arc<CertifiedKey>> {
        let own = self.own.resolve(hints, schemes)?;
        Some(Arc::new(CertifiedKey::new(vec![self.shown.clone()], Arc::clone(&own.key))))
    }

    fn only_raw_public_keys(&self) -> bool {
        self.own.only_raw_public_keys()
    }

    fn has_certs(&self) -> bool {
        true
    }
}

fn config(key: &SecretKey, shown: Option<&PublicKey>, alpn: &[u8]) -> Result<ClientConfig> {
    let mut config = tls::client_config(key, Expect::Any, alpn)?;
    if let Some(stolen) = shown {
        let own = Arc::clone(&config.client_auth_cert_resolver);
        config.client_auth_cert_resolver =
            Arc::new(Stolen { own, shown: CertificateDer::from(subject_public_key_info(stolen)) });
    }
    Ok(config)
}

/// Tries everything, and prints one line of JSON for each attempt.
///
/// # Errors
/// The attempts could not be made.
pub async fn run(arguments: &Arguments) -> Result<()> {
    for attempt in attempts(arguments).await? {
        println!("{}", serde_json::to_string(&attempt)?);
    }
    Ok(())
}

/// Tries everything.
///
/// # Errors
/// The attempts could not be made.
pub async fn attempts(arguments: &Arguments) -> Result<Vec<Attempt>> {
    let key = |text: &str| {
        decode_base64(text)
            .and_then(|bytes| PublicKey::from_slice(&bytes))
            .context("not a public key")
    };
    let (admin, member) = (key(&arguments.admin_key)?, key(&arguments.member_key)?);
    let own = SecretKey::generate()?;
    let control = SocketAddr::new(arguments.node, 9000);
    let peers = SocketAddr::new(arguments.node, 9001);
    let mut attempts = Vec::new();
    for (who, shown) in [("a key of his own", None), ("the stolen public key", Some(&admin))] {
        let result = over_tcp(control, config(&own, shown, CONTROL_ALPN)?).await;
        attempts.push(attempt(format!("9000 with {who}"), result));
    }
    for (who, shown) in [("a key of his own", None), ("the stolen public key", Some(&member))] {
        let result = over_quic(peers, quic(config(&own, shown, PEER_ALPN)?)?).await;
        attempts.push(attempt(format!("9001 with {who}"), result));
    }
    Ok(attempts)
}

fn attempt(what: String, result: Result<String>) -> Attempt {
    match result {
        Ok(answer) => Attempt { what, refused: false, how: answer },
        Err(error) => Attempt { what, refused: true, how: format!("{error:#}") },
    }
}

/// What the node answers to a request for its status; an error if it ends the connection.
async fn over_tcp(address: SocketAddr, config: ClientConfig) -> Result<String> {
    let exchange = async {
        let tcp = TcpStream::connect(address)
            .await
            .with_context(|| format!("{address} cannot be reached at all"))?;
        let mut stream = tokio_rustls::TlsConnector::from(Arc::new(config))
            .connect(ServerName::from(address.ip()), tcp)
            .await?;
        stream
            .write_all(format!("GET {STATUS_PATH} HTTP/1.1\r\nHost: node\r\n\r\n").as_bytes())
            .await?;
        // The client finishes its side of the handshake first; the refusal arrives with the first
        // read.
        let mut answer = vec![0; 4096];
        let count = stream.read(&mut answer).await?;
        if count == 0 {
            bail!("the node closed the connection");
        }
        answer.truncate(count);
        Ok(String::from_utf8_lossy(&answer).into_owned())
    };
    match timeout(LIMIT, exchange).await {
        Ok(result) => result,
        Err(_) => Ok(format!("neither answer nor refusal within {} s", LIMIT.as_secs())),
    }
}

/// QUIC's first packets are always sealed with AES-128, which the nodes' TLS does not offer, so the
/// suite is named here.
fn quic(config: ClientConfig) -> Result<quinn::ClientConfig> {
    let suite = rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
    let initial = suite
        .tls13()
        .and_then(|suite| suite.quic_suite())
        .context("no suite for QUIC's first packets")?;
    let config = quinn::crypto::rustls::QuicClientConfig::with_initial(Arc::new(config), initial)
        .context("TLS that QUIC does not take")?;
    Ok(quinn::ClientConfig::new(Arc::new(config)))
}

/// What the node lets happen on a connection; an error if it ends it.
async fn over_quic(address: SocketAddr, config: quinn::ClientConfig) -> Result<String> {
    let any: SocketAddr =
        if address.is_ipv4() { ([0, 0, 0, 0], 0).into() } else { ([0_u16; 8], 0).into() };
    let endpoint = quinn::Endpoint::client(any)?;
    let exchange = async {
        let connection = endpoint.connect_with(config, address, "node")?.await?;
        // As with TCP, the refusal comes after our side of the handshake: it closes the connection.
        Err::<String, _>(anyhow::Error::from(connection.closed().await))
    };
    let result = match timeout(LIMIT, exchange).await {
        Ok(result) => result,
        Err(_) => Ok(format!("the connection still stood after {} s", LIMIT.as_secs())),
    };
    endpoint.close(0_u32.into(), b"");
    result
}
