//! A leader's proposal for one sequence, and the record that its decision leaves behind.

use crate::{
    domain::Domain,
    hash::{Hash, TaggedHasher},
    ids::{Sequence, View},
    tip::Tip,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// For each lane, in order, the vertex up to which it is decided.
pub type Cut = Vec<Tip>;

/// What a leader proposes for one sequence. A re-proposal in a later view keeps every byte.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proposal {
    /// The sequence.
    pub sequence: Sequence,
    /// The chain hash of the sequence before.
    pub prev: Hash,
    /// The decision's time, Unix milliseconds; never goes back.
    pub time_ms: u64,
    /// The view that first proposed it.
    pub origin_view: View,
    /// The tips that it decides.
    pub cut: Cut,
}

impl Proposal {
    /// The digest that is voted on.
    #[must_use]
    pub fn digest(&self, domain: &Domain) -> Hash {
        domain.id("creto proposal v1", self)
    }
}

/// What a decision leaves: the proposal and the vertices that it ordered. No signature, certificate
/// or deciding view is part of it: one digest can be committed in two views.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// The decided proposal.
    pub proposal: Proposal,
    /// The vertices that became final, in their order.
    pub vertices: Vec<Hash>,
}

impl Record {
    /// The chain hash after this record: over the chain hash before, the sequence, the digest and
    /// the ordered ids.
    #[must_use]
    pub fn chain_hash(&self, domain: &Domain) -> Hash {
        TaggedHasher::new("creto record v1")
            .with(&self.proposal.prev)
            .with(&self.proposal.sequence)
            .with(&self.proposal.digest(domain))
            .with(&self.vertices)
            .finish()
    }
}
