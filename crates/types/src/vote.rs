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
    /// The leader's proposal; counts as its PREPARE.
    PrePrepare,
    /// "I hold all data that it names and vote for nothing else in this view."
    Prepare,
    /// "I hold a quorum's PREPAREs."
    Commit,
}

/// What a vote's signature covers.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, BorshSerialize, BorshDeserialize)]
pub struct Ballot {
    /// The epoch whose members vote.
    pub epoch: Epoch,
    /// The step.
    pub phase: Phase,
    /// The view.
    pub view: View,
    /// The sequence.
    pub sequence: Sequence,
    /// The proposal's digest.
    pub digest: Hash,
    /// Who votes.
    pub voter: NodeId,
}

impl Ballot {
    /// What the voter signs on the chain `chain_id`.
    #[must_use]
    pub fn signing_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }.signing_message("creto vote v1", self)
    }
}

/// A signed vote.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vote {
    /// What is voted.
    pub ballot: Ballot,
    /// The voter's signature.
    pub signature: Signature,
}

impl Vote {
    /// Whether it is signed by the member of `validators` that it names.
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
