//! The genesis: everything that the validators of a chain agree on before the first decision. Its
//! hash is the chain id, so a change of any field makes another chain.

use crate::{
    crypto::{PublicKey, Signature, Verifier},
    hash::{Hash, TaggedHasher},
    ids::{Epoch, NodeId},
    quorum::{FaultModel, MAX_MEMBERS, Quorum},
    validators::{MAX_NAME, Member, Parameters, Validators},
    wire::{DecodeError, decode, encode},
};
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeSet;

/// A validator as the genesis names it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct GenesisMember {
    /// The pod's name.
    pub name: String,
    /// Its public key.
    pub key: PublicKey,
    /// The validator's signature over [`Genesis::possession_message`], which proves that it holds
    /// the key.
    pub proof: Signature,
}

/// The first agreement of a chain.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Genesis {
    /// The UID of the CretoCluster resource (or any unique name outside Kubernetes).
    pub cluster_uid: String,
    /// The key that signs the genesis and, later, reconfigurations.
    pub admin_key: PublicKey,
    /// The validators, in order of their ids.
    pub members: Vec<GenesisMember>,
    /// The assumption about faulty nodes.
    pub fault_model: FaultModel,
    /// Intervals that all nodes share.
    pub parameters: Parameters,
    /// The time of sequence 0, in Unix milliseconds.
    pub created_ms: u64,
}

/// A genesis with the admin key's signature.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedGenesis {
    /// The signed genesis.
    pub genesis: Genesis,
    /// The signature of [`Genesis::admin_key`] over [`Genesis::signing_message`].
    pub signature: Signature,
}

/// Why a genesis is refused.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum GenesisError {
    /// A number of validators that the protocol does not know.
    #[error("a genesis names 1 or 3 to {MAX_MEMBERS} validators, this one names {0}")]
    MemberCount(usize),
    /// The crash model is for small development clusters.
    #[error("fault model `crash` is for at most 3 validators, this genesis names {0}")]
    CrashModel(usize),
    /// Intervals with which no cluster can run.
    #[error(
        "its parameters are not sound: no interval may be 0, the window is at least two checkpoint intervals, and recent_payloads at least {MAX_MEMBERS}"
    )]
    Parameters,
    /// A name that is empty, too long or used twice.
    #[error("validator name {0:?} is empty, longer than {MAX_NAME} bytes, or there twice")]
    Name(String),
    /// A key that two validators, or a validator and the admin, share.
    #[error("the key of validator {0:?} is used twice")]
    SharedKey(String),
    /// A member without proof that it holds its key.
    #[error("the proof of possession of validator {0:?} does not verify")]
    Possession(String),
    /// A signature by another key, or a genesis that was changed after signing.
    #[error("the admin key's signature does not verify")]
    Signature,
}

impl Genesis {
    /// The chain id: the hash of the genesis.
    #[must_use]
    pub fn chain_id(&self) -> Hash {
        TaggedHasher::new("creto genesis v1").with(self).finish()
    }

    /// The bytes that the admin key signs.
    #[must_use]
    pub fn signing_message(&self) -> Vec<u8> {
        [b"creto genesis signature v1".as_slice(), &self.chain_id().0].concat()
    }

    /// The bytes that a validator's key signs to prove possession. They name the cluster and the
    /// validator, so the proof is valid for no other.
    #[must_use]
    pub fn possession_message(cluster_uid: &str, name: &str) -> Vec<u8> {
        let hash = TaggedHasher::new("creto possession v1").with(&cluster_uid).with(&name).finish();
        [b"creto possession v1".as_slice(), &hash.0].concat()
    }

    /// The validators, numbered in their order.
    #[must_use]
    pub fn members(&self) -> Vec<Member> {
        let ids = (0..).map(NodeId);
        ids.zip(&self.members)
            .map(|(id, m)| Member { id, name: m.name.clone(), key: m.key.clone(), since: Epoch(0) })
            .collect()
    }

    /// The validators of epoch 0.
    #[must_use]
    pub fn validators(&self) -> Validators {
        Validators {
            epoch: Epoch(0),
            members: self.members(),
            next_id: NodeId(self.members.len() as u32),
            admin_key: self.admin_key.clone(),
            fault_model: self.fault_model,
            parameters: self.parameters,
            first: 0,
        }
    }

    /// The quorum sizes of epoch 0.
    #[must_use]
    pub const fn quorum(&self) -> Quorum {
        Quorum::new(self.members.len(), self.fault_model)
    }

    /// Checks counts, names, keys and proofs.
    ///
    /// # Errors
    /// The first thing that is wrong, by name.
    pub fn validate(&self, verifier: &dyn Verifier) -> Result<(), GenesisError> {
        let n = self.members.len();
        if n == 0 || n == 2 || n > MAX_MEMBERS {
            return Err(GenesisError::MemberCount(n));
        }
        if self.fault_model == FaultModel::Crash && n > 3 {
            return Err(GenesisError::CrashModel(n));
        }
        if !self.parameters.are_sound() {
            return Err(GenesisError::Parameters);
        }
        let mut names = BTreeSet::new();
        let mut keys = BTreeSet::from([&self.admin_key]);
        for member in &self.members {
            let name = &member.name;
            if name.is_empty() || name.len() > MAX_NAME || !names.insert(name) {
                return Err(GenesisError::Name(name.chars().take(64).collect()));
            }
            if !keys.insert(&member.key) {
                return Err(GenesisError::SharedKey(name.clone()));
            }
            if !verifier.verify(
                &member.key,
                &Self::possession_message(&self.cluster_uid, name),
                &member.proof,
            ) {
                return Err(GenesisError::Possession(name.clone()));
            }
        }
        Ok(())
    }
}

impl SignedGenesis {
    /// The canonical bytes.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        encode(self)
    }

    /// Reads canonical bytes; nothing is verified yet.
    ///
    /// # Errors
    /// When the bytes are not exactly one signed genesis.
    pub fn decode(bytes: &[u8]) -> Result<Self, DecodeError> {
        decode(bytes)
    }

    /// Checks the signature and [`Genesis::validate`].
    ///
    /// # Errors
    /// The first thing that is wrong, by name.
    pub fn verify(&self, verifier: &dyn Verifier) -> Result<(), GenesisError> {
        let genesis = &self.genesis;
        if !verifier.verify(&genesis.admin_key, &genesis.signing_message(), &self.signature) {
            return Err(GenesisError::Signature);
        }
        genesis.validate(verifier)
    }
}
