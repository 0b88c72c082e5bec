//! Evidence: two objects signed by one key that contradict each other. Evidence holds headers and
//! votes and never data, so that it stays small and verifies offline.

use crate::{
    crypto::{Signature, Verifier},
    domain::Domain,
    hash::Hash,
    header::VertexHeader,
    ids::{Epoch, Height, NodeId, Sequence, View},
    mutants::mutant,
    validators::Validators,
    view::ViewChangeHead,
    vote::{Phase, Vote},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// A vertex's header as it was signed.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct SignedHeader {
    /// The signed header.
    pub header: VertexHeader,
    /// The author's signature over the header.
    pub signature: Signature,
}

/// A proof that one validator broke a rule. Two objects contradict each other by their content and
/// never by their signature bytes, because signing is randomised.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Evidence {
    /// Two different vertices of one slot: the same author, epoch and height.
    Fork(Box<SignedHeader>, Box<SignedHeader>),
    /// Two votes of one step with different digests. A PRE-PREPARE counts as its leader's PREPARE.
    Votes(Vote, Vote),
    /// A COMMIT, and a VIEW-CHANGE of a later view that conceals it.
    Concealed(Vote, ViewChangeHead, Signature),
}

/// An offence. Each counts once, however many pieces of evidence prove it.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Offence {
    /// The epoch of both contradicting objects.
    pub epoch: Epoch,
    /// The validator that signed both.
    pub accused: NodeId,
    /// The kind, with its slot or step.
    pub kind: OffenceKind,
}

/// The kinds of offence. The fields tell offences of one kind apart.
#[derive(
    Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub enum OffenceKind {
    /// [`Evidence::Fork`] of this slot.
    Fork(Height),
    /// [`Evidence::Votes`]: PREPAREs (false) or COMMITs (true).
    Votes(bool, View, Sequence),
    /// [`Evidence::Concealed`]: the COMMIT's view and sequence.
    Concealed(View, Sequence),
}

impl OffenceKind {
    /// The fixed word that metrics and status use for the kind.
    #[must_use]
    pub const fn label(self) -> &'static str {
        match self {
            Self::Fork(_) => "vertex_fork",
            Self::Votes(false, ..) => "conflicting_prepare",
            Self::Votes(true, ..) => "conflicting_commit",
            Self::Concealed(..) => "concealed_commit",
        }
    }
}

impl Evidence {
    /// The offence that the two objects prove if they contradict each other. Signatures are not
    /// checked here.
    #[must_use]
    pub fn offence(&self) -> Option<Offence> {
        match self {
            Self::Fork(a, b) => {
                let (a, b) = (&a.header, &b.header);
                let same_slot = (a.author, a.height) == (b.author, b.height)
                    && (a.epoch == b.epoch || mutant!(EvidenceAcrossEpochs));
                (same_slot && a != b).then_some(Offence {
                    epoch: a.epoch,
                    accused: a.author,
                    kind: OffenceKind::Fork(a.height),
                })
            }
            Self::Votes(a, b) => {
                let (a, b) = (&a.ballot, &b.ballot);
                let commits = a.phase == Phase::Commit;
                let same = (a.voter, a.view, a.sequence) == (b.voter, b.view, b.sequence)
                    && (a.epoch == b.epoch || mutant!(EvidenceAcrossEpochs))
                    && commits == (b.phase == Phase::Commit);
                let kind = OffenceKind::Votes(commits, a.view, a.sequence);
                (same && a.digest != b.digest).then_some(Offence {
                    epoch: a.epoch,
                    accused: a.voter,
                    kind,
                })
            }
            Self::Concealed(commit, head, _) => {
                let ballot = &commit.ballot;
                let same = ballot.phase == Phase::Commit
                    && (ballot.epoch, ballot.voter) == (head.epoch, head.node);
                let knew = head.executed >= ballot.sequence
                    || (head.executed.0.checked_add(1) == Some(ballot.sequence.0)
                        && head.prepared.is_some_and(|(view, _)| view >= ballot.view));
                let kind = OffenceKind::Concealed(ballot.view, ballot.sequence);
                (same && head.view > ballot.view && !knew).then_some(Offence {
                    epoch: ballot.epoch,
                    accused: ballot.voter,
                    kind,
                })
            }
        }
    }

    /// Whether the accused signed both objects with its key in the epoch of `validators`.
    #[must_use]
    pub fn is_signed(
        &self,
        chain_id: Hash,
        validators: &Validators,
        verifier: &dyn Verifier,
    ) -> bool {
        let Some(offence) = self.offence().filter(|offence| offence.epoch == validators.epoch)
        else {
            return false;
        };
        let Some(member) = validators.member(offence.accused) else { return false };
        if mutant!(EvidenceUnsigned) {
            return true;
        }
        let header = |signed: &SignedHeader| {
            let domain = Domain { chain_id, epoch: signed.header.epoch };
            verifier.verify(&member.key, &signed.header.signing_message(&domain), &signed.signature)
        };
        let vote = |vote: &Vote| {
            verifier.verify(&member.key, &vote.ballot.signing_message(chain_id), &vote.signature)
        };
        match self {
            Self::Fork(a, b) => header(a) && header(b),
            Self::Votes(a, b) => vote(a) && vote(b),
            Self::Concealed(commit, head, signature) => {
                vote(commit)
                    && verifier.verify(&member.key, &head.signing_message(chain_id), signature)
            }
        }
    }
}
