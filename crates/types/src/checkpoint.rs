//! Checkpoints: signed statements about the state after a sequence. A quorum of them lets nodes
//! drop votes below, proves ranges of records to nodes that are behind, and ends each epoch.

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

/// The state after a sequence, in the form that is signed.
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
    /// The hash of all other state that follows from the chain ([`crate::ChainState::root`]).
    pub root: Hash,
    /// At the end of an epoch, the hash of the next epoch's [`Validators`].
    pub successor: Option<Hash>,
}

impl CheckpointState {
    /// The bytes that a member signs.
    #[must_use]
    pub fn signing_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }.signing_message("creto checkpoint v1", self)
    }
}

/// One member's signature over a state.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Checkpoint {
    /// The state.
    pub state: CheckpointState,
    /// The member that signs.
    pub node: NodeId,
    /// The member's signature over the state.
    pub signature: Signature,
}

impl Checkpoint {
    /// Whether the member that the checkpoint names signed it.
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

/// A quorum's signatures over one state. The certificate at the end of an epoch opens the next
/// epoch.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct CheckpointCertificate {
    /// The state.
    pub state: CheckpointState,
    /// The members and their signatures, in ascending order of the members.
    pub signatures: Vec<(NodeId, Signature)>,
}

impl CheckpointCertificate {
    /// Verifies the certificate against the members of its epoch.
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
