//! The objects of a view change: VIEW-CHANGE and NEW-VIEW.
//!
//! The rule: a NEW-VIEW is checked from its own content alone, so that every node comes to the same
//! choice and no liar can withhold a part of it.

use crate::{
    certificate::{Certificate, CertificateError},
    checkpoint::CheckpointCertificate,
    crypto::{Signature, Verifier},
    domain::Domain,
    hash::Hash,
    ids::{Epoch, NodeId, Sequence, View},
    proposal::Proposal,
    validators::Validators,
    vote::Phase,
};
use borsh::{BorshDeserialize, BorshSerialize};
use std::collections::BTreeSet;

/// A proof that a sequence was decided.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Proof {
    /// COMMITs of a quorum. They prove the digest of the sequence.
    Commit(Certificate),
    /// Checkpoints of a quorum. They prove the chain hash of the sequence.
    Checkpoint(CheckpointCertificate),
}

impl Proof {
    /// The sequence that the proof is about.
    #[must_use]
    pub const fn sequence(&self) -> Sequence {
        match self {
            Self::Commit(certificate) => certificate.sequence,
            Self::Checkpoint(certificate) => certificate.state.sequence,
        }
    }

    /// Verifies the proof against the members of its epoch.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(
        &self,
        chain_id: Hash,
        validators: &Validators,
        verifier: &dyn Verifier,
    ) -> Result<(), CertificateError> {
        match self {
            Self::Commit(certificate) if certificate.phase != Phase::Commit => {
                Err(CertificateError::Voters)
            }
            Self::Commit(certificate) => certificate.verify(chain_id, validators, verifier),
            Self::Checkpoint(certificate) => certificate.verify(chain_id, validators, verifier),
        }
    }
}

/// The part of a VIEW-CHANGE that its signature covers. A NEW-VIEW repeats only this part.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ViewChangeHead {
    /// The epoch.
    pub epoch: Epoch,
    /// The view that the node enters.
    pub view: View,
    /// The node that enters it.
    pub node: NodeId,
    /// The newest sequence that the node executed and can prove.
    pub executed: Sequence,
    /// The chain hash there.
    pub chain_hash: Hash,
    /// The view and digest of the node's prepared certificate for the sequence after `executed`. Of
    /// several certificates it is the one of the highest view.
    pub prepared: Option<(View, Hash)>,
}

impl ViewChangeHead {
    /// The bytes that the node signs.
    #[must_use]
    pub fn signing_message(&self, chain_id: Hash) -> Vec<u8> {
        Domain { chain_id, epoch: self.epoch }.signing_message("creto view change v1", self)
    }

    /// Whether `signature` is the node's signature over this head.
    #[must_use]
    pub fn verifies(
        &self,
        signature: &Signature,
        chain_id: Hash,
        validators: &Validators,
        verifier: &dyn Verifier,
    ) -> bool {
        let key = validators.member(self.node).map(|member| &member.key);
        key.is_some_and(|key| verifier.verify(key, &self.signing_message(chain_id), signature))
    }
}

/// A prepared certificate with its proposal.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Prepared {
    /// PREPAREs of a quorum, the leader's PRE-PREPARE among them.
    pub certificate: Certificate,
    /// The prepared proposal.
    pub proposal: Proposal,
}

impl Prepared {
    /// Whether the certificate verifies and is for `claim`, a (view, digest), at the sequence after
    /// `executed`.
    #[must_use]
    pub fn proves(
        &self,
        claim: (View, Hash),
        executed: Sequence,
        chain_hash: Hash,
        chain_id: Hash,
        validators: &Validators,
        verifier: &dyn Verifier,
    ) -> bool {
        let Self { certificate, proposal } = self;
        let domain = Domain { chain_id, epoch: validators.epoch };
        certificate.phase == Phase::Prepare
            && (certificate.view, certificate.digest) == claim
            && Some(certificate.sequence.0) == executed.0.checked_add(1)
            && proposal.sequence == certificate.sequence
            && proposal.prev == chain_hash
            && proposal.cut.len() == validators.members.len()
            && proposal.digest(&domain) == certificate.digest
            && certificate.verify(chain_id, validators, verifier).is_ok()
    }
}

/// A node's statement on entering a view: "From now on I sign nothing in a lower view, and this is
/// what I executed and prepared." The node sends it again with the same bytes as often as it is
/// needed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct ViewChange {
    /// The signed part.
    pub head: ViewChangeHead,
    /// The node's signature over the head.
    pub signature: Signature,
    /// The proof of the executed sequence; none at the beginning of an epoch.
    pub proof: Option<Proof>,
    /// The proof of the prepared digest.
    pub prepared: Option<Prepared>,
}

/// The beginning of an epoch, which all its nodes know without a proof.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Opening {
    /// The last sequence of the previous epoch; 0 for the genesis.
    pub sequence: Sequence,
    /// The chain hash there.
    pub chain_hash: Hash,
}

/// Whether the head's executed sequence is proven: it is the opening of the epoch, or `proof` is
/// for it and verifies.
///
/// A commit certificate proves a digest and not a chain hash. That the two belong together is not
/// checked here. A node that executed the sequence knows its chain hash, and a node that did not
/// catches up first.
fn is_proven(
    head: &ViewChangeHead,
    proof: Option<&Proof>,
    opening: Opening,
    chain_id: Hash,
    validators: &Validators,
    verifier: &dyn Verifier,
) -> bool {
    if head.executed <= opening.sequence {
        return (head.executed, head.chain_hash) == (opening.sequence, opening.chain_hash);
    }
    let Some(proof) = proof else { return false };
    let same = match proof {
        Proof::Commit(certificate) => certificate.sequence == head.executed,
        Proof::Checkpoint(certificate) => {
            (certificate.state.sequence, certificate.state.chain_hash)
                == (head.executed, head.chain_hash)
        }
    };
    same && proof.verify(chain_id, validators, verifier).is_ok()
}

impl ViewChange {
    /// Whether the signature, the proof and the prepared certificate verify.
    #[must_use]
    pub fn verify(
        &self,
        chain_id: Hash,
        validators: &Validators,
        opening: Opening,
        verifier: &dyn Verifier,
    ) -> bool {
        let Self { head, signature, proof, prepared } = self;
        head.epoch == validators.epoch
            && head.verifies(signature, chain_id, validators, verifier)
            && is_proven(head, proof.as_ref(), opening, chain_id, validators, verifier)
            && match (head.prepared, prepared) {
                (None, None) => true,
                (Some(claim), Some(prepared)) => {
                    claim.0 < head.view
                        && prepared.proves(
                            claim,
                            head.executed,
                            head.chain_hash,
                            chain_id,
                            validators,
                            verifier,
                        )
                }
                _ => false,
            }
    }
}

/// The beginning of a new view: the highest executed sequence, and what must be proposed after it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Choice {
    /// The highest executed sequence that was reported.
    pub executed: Sequence,
    /// The chain hash there.
    pub chain_hash: Hash,
    /// The prepared (view, digest) for the sequence after `executed`; nothing if the leader is free
    /// to propose.
    pub prepared: Option<(View, Hash)>,
}

impl Choice {
    /// The choice that the heads of a quorum make: the highest executed sequence, and among the
    /// heads that report it the prepared digest of the highest view. No heads make no choice.
    pub fn of<'a>(heads: impl IntoIterator<Item = &'a ViewChangeHead> + Clone) -> Option<Self> {
        let executed = heads.clone().into_iter().map(|head| head.executed).max()?;
        let highest = heads.into_iter().filter(|head| head.executed == executed);
        let best = highest.max_by_key(|head| (head.prepared.map(|(view, _)| view), head.node))?;
        Some(Self { executed, chain_hash: best.chain_hash, prepared: best.prepared })
    }
}

/// A leader's proof that its view may begin: the signed heads of a quorum's VIEW-CHANGEs, and the
/// proofs of the two claims that decide the choice.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct NewView {
    /// The epoch.
    pub epoch: Epoch,
    /// The view that begins.
    pub view: View,
    /// The heads of the VIEW-CHANGEs with their signatures, in ascending order of the nodes. The
    /// leader's own is among them.
    pub heads: Vec<(ViewChangeHead, Signature)>,
    /// The proof of the highest executed sequence; none at the beginning of an epoch.
    pub proof: Option<Proof>,
    /// The proof of the chosen digest, if one is chosen.
    pub prepared: Option<Prepared>,
    /// The leader's signature over the view and the heads.
    pub signature: Signature,
}

impl NewView {
    /// The bytes that the leader signs.
    #[must_use]
    pub fn signing_message(
        epoch: Epoch,
        view: View,
        heads: &[(ViewChangeHead, Signature)],
        chain_id: Hash,
    ) -> Vec<u8> {
        let heads: Vec<&ViewChangeHead> = heads.iter().map(|(head, _)| head).collect();
        Domain { chain_id, epoch }.signing_message("creto new view v1", &(view, heads))
    }

    /// The choice that the heads make.
    #[must_use]
    pub fn choice(&self) -> Option<Choice> {
        Choice::of(self.heads.iter().map(|(head, _)| head))
    }

    /// Verifies everything and recomputes the choice. The result is nothing if no honest leader
    /// would send this NEW-VIEW.
    #[must_use]
    pub fn verify(
        &self,
        chain_id: Hash,
        validators: &Validators,
        opening: Opening,
        verifier: &dyn Verifier,
    ) -> Option<Choice> {
        let leader = validators.leader(self.view);
        let nodes: BTreeSet<NodeId> = self.heads.iter().map(|(head, _)| head.node).collect();
        let in_order =
            self.heads.windows(2).all(|pair| matches!(pair, [a, b] if a.0.node < b.0.node));
        let well_formed = self.epoch == validators.epoch
            && in_order
            && self.heads.len() == validators.quorum().q
            && nodes.contains(&leader)
            && self
                .heads
                .iter()
                .all(|(head, _)| (head.epoch, head.view) == (self.epoch, self.view));
        if !well_formed {
            return None;
        }
        let choice = self.choice()?;
        let highest =
            self.heads.iter().map(|(head, _)| head).filter(|head| head.executed == choice.executed);
        // A commit certificate does not prove a chain hash. Heads that disagree about it cannot all
        // be honest.
        if highest.clone().any(|head| head.chain_hash != choice.chain_hash) {
            return None;
        }
        let best = highest.clone().next()?;
        let message = Self::signing_message(self.epoch, self.view, &self.heads, chain_id);
        let signed = validators
            .member(leader)
            .is_some_and(|leader| verifier.verify(&leader.key, &message, &self.signature));
        let prepared = || match (choice.prepared, &self.prepared) {
            (None, None) => true,
            (Some(claim), Some(prepared)) => {
                claim.0 < self.view
                    && prepared.proves(
                        claim,
                        choice.executed,
                        choice.chain_hash,
                        chain_id,
                        validators,
                        verifier,
                    )
            }
            _ => false,
        };
        let valid = signed
            && prepared()
            && is_proven(best, self.proof.as_ref(), opening, chain_id, validators, verifier)
            && self
                .heads
                .iter()
                .all(|(head, signature)| head.verifies(signature, chain_id, validators, verifier));
        valid.then_some(choice)
    }
}
