//! Certificates: a quorum's equal votes, which prove that a proposal was prepared or decided.

use crate::{
    crypto::{Signature, Verifier},
    hash::Hash,
    ids::{Epoch, NodeId, Sequence, View},
    validators::Validators,
    vote::{Ballot, Phase},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// Votes of a quorum of distinct members for one (epoch, phase, view, sequence, digest). PREPAREs,
/// with the leader's PRE-PREPARE among them, make a prepared certificate; COMMITs make a commit
/// certificate.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Certificate {
    /// The epoch whose members voted.
    pub epoch: Epoch,
    /// [`Phase::Prepare`] or [`Phase::Commit`].
    pub phase: Phase,
    /// The view in which they voted.
    pub view: View,
    /// The sequence that they voted on.
    pub sequence: Sequence,
    /// The digest that they voted for.
    pub digest: Hash,
    /// The voters and their signatures, in ascending order of the voters.
    pub votes: Vec<(NodeId, Signature)>,
}

/// Why a certificate proves nothing.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CertificateError {
    /// The epoch is not that of the members.
    #[error("it is of another epoch")]
    Epoch,
    /// There are fewer voters than a quorum, a voter is no member, or the voters are not in
    /// ascending order.
    #[error("its voters are not a quorum of distinct members")]
    Voters,
    /// A prepared certificate lacks the vote of its leader.
    #[error("the leader's PRE-PREPARE is not in it")]
    Leader,
    /// A signature does not verify.
    #[error("the signature of voter {0} does not verify")]
    Signature(NodeId),
}

/// Checks the part that all certificates share: a quorum of distinct members in ascending order,
/// each with a valid signature.
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
    /// The ballot that the signature of `voter` covers.
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
