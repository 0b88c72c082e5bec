//! What all ports share: the identity, the store's birth side, and the ledger once it runs.

use crate::{
    handle::{Birth, GenesisRefused, Ledger},
    metrics::Metrics,
    version::VERSION,
};
use cretoai_control::{
    api::{NodeStatus, Role},
    keys::{MlDsa87, SecretKey},
};
use cretoai_types::{GenesisError, Hash, NodeId, SignedGenesis};
use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};
use tokio::sync::watch;

/// Who this node is, as its pod template and its volume say.
#[derive(Clone)]
pub struct Identification {
    /// The validator's name: the pod's.
    pub name: String,
    /// The pod's UID; empty outside Kubernetes.
    pub pod_uid: String,
    /// The UID of the CretoCluster, which the genesis must name.
    pub cluster_uid: String,
    /// The fingerprint of the only key that may use the control port.
    pub admin: Option<Hash>,
    /// The file of the projected ServiceAccount token, if there is one.
    pub token_path: Option<PathBuf>,
}

/// The state behind every port.
pub struct Front {
    /// Who this node is.
    pub identification: Identification,
    /// The node's key.
    pub key: SecretKey,
    /// The counters.
    pub metrics: Arc<Metrics>,
    birth: Arc<dyn Birth>,
    ledger: OnceLock<Arc<dyn Ledger>>,
    arrived: watch::Sender<bool>,
}

/// Why an offered genesis is refused.
#[derive(Debug, thiserror::Error)]
pub enum OfferError {
    /// Signed by a key that is not this cluster's.
    #[error(
        "this genesis is signed by admin key {offered}, and this pod belongs to admin key {expected}; sign it with the key in the \
         cluster's admin-key Secret"
    )]
    OtherAdmin {
        /// The fingerprint in the genesis.
        offered: Hash,
        /// The fingerprint in the pod template.
        expected: String,
    },
    /// For another cluster.
    #[error("this genesis is for cluster {offered}, and this pod belongs to cluster {expected}")]
    OtherCluster {
        /// The UID in the genesis.
        offered: String,
        /// The UID in the pod template.
        expected: String,
    },
    /// It does not hold.
    #[error("this genesis is not valid: {0}")]
    Invalid(#[from] GenesisError),
    /// This node is not in it.
    #[error(
        "this genesis does not name validator {name} with key {fingerprint}; attest this pod again and put its key into the genesis, or offer it with as=learner"
    )]
    NotAMember {
        /// This node's name.
        name: String,
        /// This node's key.
        fingerprint: Hash,
    },
    /// The store refused.
    #[error(transparent)]
    Refused(#[from] GenesisRefused),
}

impl Front {
    /// A node without a running ledger.
    #[must_use]
    pub fn new(
        identification: Identification,
        key: SecretKey,
        metrics: Arc<Metrics>,
        birth: Arc<dyn Birth>,
    ) -> Arc<Self> {
        let arrived = watch::Sender::new(birth.chain_id().is_some());
        Arc::new(Self { identification, key, metrics, birth, ledger: OnceLock::new(), arrived })
    }

    /// The ledger, once it runs.
    pub fn ledger(&self) -> Option<&Arc<dyn Ledger>> {
        self.ledger.get()
    }

    /// From now on clients are served.
    pub fn set_ledger(&self, ledger: Arc<dyn Ledger>) {
        if self.ledger.set(ledger).is_err() {
            tracing::error!("the ledger was started twice; the first one stays");
        }
    }

    /// The chain that the volume holds.
    pub fn chain_id(&self) -> Option<Hash> {
        self.birth.chain_id()
    }

    /// Waits until the store holds a genesis.
    pub async fn genesis_arrived(&self) {
        let mut arrived = self.arrived.subscribe();
        // An error means that the sender is gone; it lives as long as `self`.
        if arrived.wait_for(|arrived| *arrived).await.is_err() {}
    }

    /// Checks an offered genesis and writes it. Unless it is to be a learner, the genesis must name
    /// this node. Blocks: signatures are verified and the disk is written.
    ///
    /// # Errors
    /// [`OfferError`].
    pub fn offer_genesis(&self, signed: SignedGenesis, learner: bool) -> Result<(), OfferError> {
        let genesis = &signed.genesis;
        let who = &self.identification;
        let offered = genesis.admin_key.fingerprint();
        if who.admin != Some(offered) {
            let expected = who
                .admin
                .map_or_else(|| "(none: CRETO_ADMIN_KEY is not set)".into(), |a| a.to_string());
            return Err(OfferError::OtherAdmin { offered, expected });
        }
        if genesis.cluster_uid != who.cluster_uid {
            return Err(OfferError::OtherCluster {
                offered: genesis.cluster_uid.chars().take(100).collect(),
                expected: who.cluster_uid.clone(),
            });
        }
        signed.verify(&MlDsa87)?;
        if !learner && self.own_id(&signed).is_none() {
            return Err(OfferError::NotAMember {
                name: who.name.clone(),
                fingerprint: self.key.public_key().fingerprint(),
            });
        }
        self.birth.accept_genesis(signed)?;
        self.arrived.send_replace(true);
        Ok(())
    }

    /// This node's id in a genesis, if it is a member by name and key.
    #[must_use]
    pub fn own_id(&self, signed: &SignedGenesis) -> Option<NodeId> {
        let own = |member: &cretoai_types::Member| {
            member.name == self.identification.name && member.key == *self.key.public_key()
        };
        signed.genesis.members().iter().find(|member| own(member)).map(|member| member.id)
    }

    /// The node's account of itself, with or without a ledger.
    pub fn status(&self) -> NodeStatus {
        if let Some(ledger) = self.ledger() {
            return ledger.status();
        }
        let chain_id = self.chain_id();
        let waiting_for = match chain_id {
            None => "waiting for the operator to attest this pod and hand it the genesis",
            Some(_) => "opening the ledger",
        };
        NodeStatus {
            name: self.identification.name.clone(),
            node_id: None,
            key_fingerprint: self.key.public_key().fingerprint().to_string(),
            role: Role::Waiting,
            chain_id: chain_id.map(|id| id.to_string()),
            epoch: 0,
            view: 0,
            active: false,
            want: 0,
            leader: None,
            sequence: 0,
            chain_hash: chain_id.unwrap_or(Hash::ZERO).to_string(),
            time_ms: 0,
            stable: 0,
            quorum: None,
            members: vec![],
            suspected: vec![],
            peers: vec![],
            recent: vec![],
            finality_p99_ms: None,
            version: VERSION.into(),
            ready: false,
            waiting_for: waiting_for.into(),
        }
    }
}
