//! What is voted on, what proves a vote's result, and what a decision leaves behind.

use crate::{
    crypto::{Signature, Verifier},
    domain::Domain,
    hash::{Hash, TaggedHasher},
    ids::{Epoch, NodeId, Sequence, View},
    validators::Validators,
    vertex::Tip,
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

/// Votes of a quorum of distinct members for one (epoch, phase, view, sequence, digest). Of
/// PREPAREs (the leader's PRE-PREPARE among them) it is PBFT's prepared certificate, of COMMITs the
/// commit certificate.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Certificate {
    /// The epoch whose members voted.
    pub epoch: Epoch,
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
    /// Another epoch than the members'.
    #[error("it is of another epoch")]
    Epoch,
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

/// Checks what all certificates share: a quorum of distinct members, in order, each of whose
/// signatures verifies.
pub(crate) fn verify_quorum(
    votes: &[(NodeId, Signature)],
    validators: &Validators,
    verifier: &dyn Verifier,
    message: impl Fn(NodeId) -> Vec<u8>,
) -> Result<(), CertificateError> {
    let in_order = votes.windows(2).all(|pair| matches!(pair, [a, b] if a.0 < b.0));
    if !in_order || votes.len() < validators.quorum().q || votes.len() > validators.members.len() {
        return Err(CertificateError::Voters);
    }
    for (voter, signature) in votes {
        let member = validators.member(*voter).ok_or(CertificateError::Voters)?;
        if !verifier.verify(&member.key, &message(*voter), signature) {
            return Err(CertificateError::Signature(*voter));
        }
    }
    Ok(())
}

impl Certificate {
    /// The vote of one voter in it, as it was signed.
    #[must_use]
    pub fn ballot(&self, voter: NodeId, leader: NodeId) -> Ballot {
        let phase = if self.phase == Phase::Prepare && voter == leader {
            Phase::PrePrepare
        } else {
            self.phase
        };
        Ballot {
            epoch: self.epoch,
            phase,
            view: self.view,
            sequence: self.sequence,
            digest: self.digest,
            voter,
        }
    }

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
        if self.epoch != validators.epoch {
            return Err(CertificateError::Epoch);
        }
        if self.phase == Phase::PrePrepare {
            return Err(CertificateError::Voters);
        }
        let leader = validators.leader(self.view);
        if self.phase == Phase::Prepare && !self.votes.iter().any(|(voter, _)| *voter == leader) {
            return Err(CertificateError::Leader);
        }
        verify_quorum(&self.votes, validators, verifier, |voter| {
            self.ballot(voter, leader).signing_message(chain_id)
        })
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
