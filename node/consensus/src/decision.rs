//! What is voted on, what proves a vote's result, and what a decision leaves behind.

use crate::{
    crypto::{PublicKey, Signature, Verifier},
    domain::Domain,
    hash::{Hash, TaggedHasher},
    ids::{NodeId, Sequence, View},
    quorum::Quorum,
    vertex::Tip,
};
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeSet;

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

/// The steps of a decision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize)]
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
    /// What the voter signs.
    #[must_use]
    pub fn signing_message(&self, domain: &Domain) -> Vec<u8> {
        domain.signing_message("creto vote v1", self)
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

/// Votes of a quorum of distinct members for one (phase, view, sequence, digest). Of PREPAREs (the leader's
/// PRE-PREPARE among them) it is PBFT's prepared certificate, of COMMITs the commit certificate.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Certificate {
    /// [`Phase::Prepare`] or [`Phase::Commit`].
    pub phase: Phase,
    /// The view of the votes.
    pub view: View,
    /// The sequence.
    pub sequence: Sequence,
    /// The digest that they agree on.
    pub digest: Hash,
    /// Voters and signatures, in order of the voters.
    pub votes: Vec<(NodeId, Signature)>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// Fewer distinct members than a quorum, or a voter that is no member, or out of order.
    #[error("its voters are not a quorum of distinct members")]
    Voters,
    /// A prepared certificate without its leader.
    #[error("the leader's PRE-PREPARE is not in it")]
    Leader,
    /// A signature that does not verify.
    #[error("the signature of voter {0} does not verify")]
    Signature(NodeId),
}

impl Certificate {
    /// Verifies it against the members' keys (by position) and the leader of its view.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(
        &self,
        domain: &Domain,
        keys: &[PublicKey],
        quorum: Quorum,
        leader: NodeId,
        verifier: &dyn Verifier,
    ) -> Result<(), CertificateError> {
        let voters: BTreeSet<NodeId> = self.votes.iter().map(|(voter, _)| *voter).collect();
        let in_order = self.votes.windows(2).all(|pair| matches!(pair, [a, b] if a.0 < b.0));
        if !in_order || voters.len() < quorum.q || self.phase == Phase::PrePrepare {
            return Err(CertificateError::Voters);
        }
        if self.phase == Phase::Prepare && !voters.contains(&leader) {
            return Err(CertificateError::Leader);
        }
        for (voter, signature) in &self.votes {
            let key = keys.get(voter.lane()).ok_or(CertificateError::Voters)?;
            let phase = if self.phase == Phase::Prepare && *voter == leader { Phase::PrePrepare } else { self.phase };
            let ballot = Ballot { phase, view: self.view, sequence: self.sequence, digest: self.digest, voter: *voter };
            if !verifier.verify(key, &ballot.signing_message(domain), signature) {
                return Err(CertificateError::Signature(*voter));
            }
        }
        Ok(())
    }
}

/// What a decision leaves: the proposal and the vertices that it ordered. No signature, certificate or deciding view
/// is part of it: one digest can be committed in two views.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Record {
    /// The decided proposal.
    pub proposal: Proposal,
    /// The vertices that became final, in their order.
    pub vertices: Vec<Hash>,
}

impl Record {
    /// The chain hash after this record: over the chain hash before, the sequence, the digest and the ordered ids.
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
