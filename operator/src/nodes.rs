//! How the operator speaks to nodes, behind a trait, so that tests need no network.

use cretoai_control::{
    api::{Attestation, NodeStatus},
    client::{ControlClient, ControlError},
    keys::SecretKey,
};
use cretoai_types::{PublicKey, SignedGenesis};
use futures::future::BoxFuture;
use std::{io::ErrorKind, net::SocketAddr, sync::Arc, time::Duration};

/// How long one question may take. Short, since a pass asks all nodes at once and its status should
/// be fresh.
pub const ANSWER_LIMIT: Duration = Duration::from_secs(2);

/// Why a node gave no answer that counts.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NodeError {
    /// None came.
    #[error("{0}")]
    Silent(String),
    /// Nothing listens there.
    #[error("{0}")]
    NotServing(String),
    /// It is not who it should be, or says no.
    #[error("{0}")]
    Refused(String),
}

impl From<ControlError> for NodeError {
    fn from(error: ControlError) -> Self {
        let text = error.to_string();
        match error {
            ControlError::Handshake { source, .. } if source.kind() == ErrorKind::InvalidData => {
                Self::Refused(text)
            }
            ControlError::Connect { source, .. }
                if source.kind() == ErrorKind::ConnectionRefused =>
            {
                Self::NotServing(text)
            }
            ControlError::Refused { .. } | ControlError::Attestation { .. } => Self::Refused(text),
            _ => Self::Silent(text),
        }
    }
}

/// Nodes of one cluster.
pub trait NodeClient: Send + Sync {
    /// Who is at `address`? The answer is proven to be the key's own, for this nonce.
    fn attest(
        &self,
        address: SocketAddr,
        nonce: [u8; 32],
    ) -> BoxFuture<'_, Result<(PublicKey, Attestation), NodeError>>;
    /// Gives the node its genesis.
    fn put_genesis(
        &self,
        address: SocketAddr,
        expect: PublicKey,
        genesis: Arc<SignedGenesis>,
    ) -> BoxFuture<'_, Result<(), NodeError>>;
    /// How is the node that holds `expect`?
    fn status(
        &self,
        address: SocketAddr,
        expect: PublicKey,
    ) -> BoxFuture<'_, Result<NodeStatus, NodeError>>;
}

/// Makes the client of a cluster from its admin key.
pub trait Connector: Send + Sync {
    /// The client.
    ///
    /// # Errors
    /// If the key cannot be used.
    fn connect(&self, admin: &SecretKey) -> Result<Arc<dyn NodeClient>, NodeError>;
}

/// Real nodes.
#[derive(Clone, Copy, Debug, Default)]
pub struct Network;

impl Connector for Network {
    fn connect(&self, admin: &SecretKey) -> Result<Arc<dyn NodeClient>, NodeError> {
        Ok(Arc::new(ControlClient::new(admin)?))
    }
}

async fn in_time<T>(
    address: SocketAddr,
    call: impl Future<Output = Result<T, ControlError>>,
) -> Result<T, NodeError> {
    match tokio::time::timeout(ANSWER_LIMIT, call).await {
        Ok(answer) => Ok(answer?),
        Err(_) => Err(NodeError::Silent(format!(
            "{address} did not answer within {} s",
            ANSWER_LIMIT.as_secs()
        ))),
    }
}

impl NodeClient for ControlClient {
    fn attest(
        &self,
        address: SocketAddr,
        nonce: [u8; 32],
    ) -> BoxFuture<'_, Result<(PublicKey, Attestation), NodeError>> {
        Box::pin(async move { in_time(address, self.attest(address, &nonce)).await })
    }

    fn put_genesis(
        &self,
        address: SocketAddr,
        expect: PublicKey,
        genesis: Arc<SignedGenesis>,
    ) -> BoxFuture<'_, Result<(), NodeError>> {
        Box::pin(
            async move { in_time(address, self.put_genesis(address, &expect, &genesis)).await },
        )
    }

    fn status(
        &self,
        address: SocketAddr,
        expect: PublicKey,
    ) -> BoxFuture<'_, Result<NodeStatus, NodeError>> {
        Box::pin(async move { in_time(address, self.status(address, &expect)).await })
    }
}
