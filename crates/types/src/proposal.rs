//! A leader's proposal for one sequence, and the record that its decision leaves behind.

use crate::{
    domain::Domain,
    hash::{Hash, TaggedHasher},
    ids::{Sequence, View},
    merkle::merkle_root,
    tip::Tip,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// One tip for each lane, in order of the lanes. Everything up to the tips is decided.
pub type Cut = Vec<Tip>;

/// A leader's proposal for one sequence. A re-proposal in a later view keeps every byte.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Proposal {
    /// The sequence that it is for.
    pub sequence: Sequence,
    /// The chain hash after the previous sequence.
    pub prev: Hash,
    /// The decision's time in Unix milliseconds, which never goes back.
    pub time_ms: u64,
    /// The view in which it was first proposed.
    pub origin_view: View,
    /// The tips that it decides.
    pub cut: Cut,
}

impl Proposal {
    /// The digest, which votes name.
    #[must_use]
    pub fn digest(&self, domain: &Domain) -> Hash {
        domain.id("creto proposal v1", self)
    }
}

/// The record of a decision: the proposal, the vertices that it ordered, and the outcomes of their
/// payloads. It holds no signature, certificate or deciding view, because one digest can be
/// committed in two views and the record must be equal on all nodes.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// The decided proposal.
    pub proposal: Proposal,
    /// The ids of the vertices that became final, in the order of their execution.
    pub vertices: Vec<Hash>,
    /// The Merkle root of the outcomes of their payloads ([`outcomes_root`](crate::outcomes_root)).
    pub outcomes: Hash,
}

impl Record {
    /// The hashes of this record that the chain hash covers.
    #[must_use]
    pub fn link(&self, domain: &Domain) -> RecordLink {
        RecordLink {
            digest: self.proposal.digest(domain),
            vertices: merkle_root(&self.vertices),
            outcomes: self.outcomes,
        }
    }

    /// The chain hash after this record.
    #[must_use]
    pub fn chain_hash(&self, domain: &Domain) -> Hash {
        self.link(domain).chain_hash(self.proposal.prev, self.proposal.sequence)
    }
}

/// A record in the form that the chain hash covers: its hashes.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct RecordLink {
    /// The proposal's digest.
    pub digest: Hash,
    /// The Merkle root of the ordered vertices' ids.
    pub vertices: Hash,
    /// The Merkle root of the outcomes.
    pub outcomes: Hash,
}

impl RecordLink {
    /// The chain hash after the record of `sequence`, which follows the chain hash `previous`.
    #[must_use]
    pub fn chain_hash(&self, previous: Hash, sequence: Sequence) -> Hash {
        TaggedHasher::new("creto record v2").with(&previous).with(&sequence).with(self).finish()
    }
}
