//! Checkpoints: what a quorum says the state is. They close what lies below, prove ranges of
//! records to laggards, and one of them ends each epoch.

use crate::{
    certificate::{CertificateError, verify_quorum},
    crypto::{Signature, Verifier},
    domain::Domain,
    hash::Hash,
    ids::{Epoch, NodeId, Sequence},
    tip::Tip,
    validators::Validators,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The state after a sequence, as it is signed.
#[derive(Clone, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct CheckpointState {
    /// The epoch that executed the sequence.
    pub epoch: Epoch,
    /// The sequence.
    pub sequence: Sequence,
    /// The chain hash after it.
    pub chain_hash: Hash,
    /// The decided tip of each lane.
    pub tips: Vec<Tip>,
    /// The hash of all else that follows from the chain ([`crate::ChainState::root`]).
    pub root: Hash,
    /// At an epoch's end: the hash of the next epoch's [`Validators`].
    pub successor: Option<Hash>,
}

impl CheckpointState {
    /// What a member signs.
    #[must_use]
    pub fn signing_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }.signing_message("creto checkpoint v1", self)
    }
}

/// One member's word for a state.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Checkpoint {
    /// The state.
    pub state: CheckpointState,
    /// Who signs.
    pub node: NodeId,
    /// Its signature over the state.
    pub signature: Signature,
}

impl Checkpoint {
    /// Whether it is signed by the member that it names.
    #[must_use]
    pub fn verifies(
        &self,
        chain_id: Hash,
        validators: &Validators,
        verifier: &dyn Verifier,
    ) -> bool {
        let key = validators.member(self.node).map(|member| &member.key);
        self.state.epoch == validators.epoch
            && key.is_some_and(|key| {
                verifier.verify(key, &self.state.signing_message(chain_id), &self.signature)
            })
    }
}

/// The word of a quorum for one state. It proves itself. That of an epoch's end opens the next
/// epoch.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CheckpointCertificate {
    /// The state.
    pub state: CheckpointState,
    /// Members and signatures, in order of the members.
    pub signatures: Vec<(NodeId, Signature)>,
}

impl CheckpointCertificate {
    /// Verifies it against the members of its epoch.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(
        &self,
        chain_id: Hash,
        validators: &Validators,
        verifier: &dyn Verifier,
    ) -> Result<(), CertificateError> {
        if self.state.epoch != validators.epoch {
            return Err(CertificateError::Epoch);
        }
        let message = self.state.signing_message(chain_id);
        verify_quorum(&self.signatures, validators, verifier, |_| message.clone())
    }
}
