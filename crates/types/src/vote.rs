//! The signed votes of the three phases of a decision.

use crate::{
    crypto::{Signature, Verifier},
    domain::Domain,
    hash::Hash,
    ids::{Epoch, NodeId, Sequence, View},
    validators::Validators,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The steps of a decision.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub enum Phase {
    /// The leader's proposal, which counts as its PREPARE.
    PrePrepare,
    /// "I hold all data that the proposal names, and I vote for nothing else in this view."
    Prepare,
    /// "I hold a quorum's PREPAREs."
    Commit,
}

/// The content of a vote, which its signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Ballot {
    /// The epoch whose members vote.
    pub epoch: Epoch,
    /// The step that the vote is for.
    pub phase: Phase,
    /// The view in which it is cast.
    pub view: View,
    /// The sequence that it is for.
    pub sequence: Sequence,
    /// The digest of the proposal.
    pub digest: Hash,
    /// The member that votes.
    pub voter: NodeId,
}

impl Ballot {
    /// The bytes that the voter signs on the chain `chain_id`.
    #[must_use]
    pub fn signing_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }.signing_message("creto vote v1", self)
    }
}

/// A signed vote.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vote {
    /// The content.
    pub ballot: Ballot,
    /// The voter's signature.
    pub signature: Signature,
}

impl Vote {
    /// Whether the member that the ballot names signed it.
    #[must_use]
    pub fn verifies(
        &self,
        chain_id: Hash,
        validators: &Validators,
        verifier: &dyn Verifier,
    ) -> bool {
        let key = validators.member(self.ballot.voter).map(|member| &member.key);
        key.is_some_and(|key| {
            verifier.verify(key, &self.ballot.signing_message(chain_id), &self.signature)
        })
    }
}
