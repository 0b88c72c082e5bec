//! The votes of one sequence in one view, as one node sees them: at most one for each member and
//! phase.

use cretoai_types::{
    Certificate, Epoch, Hash, NodeId, Phase, Proposal, Sequence, Signature, View, Vote,
};
use std::collections::{BTreeMap, BTreeSet};

/// A proposal that its leader signed.
#[derive(Clone, Debug)]
pub(super) struct Proposed {
    pub(super) proposal: Proposal,
    pub(super) digest: Hash,
    pub(super) vote: Vote,
    /// This node's clock when it came, Unix milliseconds.
    pub(super) arrived_ms: u64,
}

#[derive(Debug, Default)]
pub(super) struct Round {
    pub(super) proposed: Option<Proposed>,
    /// PRE-PREPARE counts as the leader's PREPARE.
    prepares: BTreeMap<NodeId, (Hash, Signature)>,
    commits: BTreeMap<NodeId, (Hash, Signature)>,
    /// What this node voted, as it was signed, oldest first.
    pub(super) own: Vec<Vote>,
    /// Whether the proposal was found to break a rule.
    pub(super) refused: bool,
    /// Members that sent an invalid or a second conflicting vote of a phase: nothing more of them
    /// is looked at in that phase, or every one of their votes would cost a verification.
    muted: BTreeSet<(NodeId, Phase)>,
    conflicted: BTreeSet<(NodeId, Phase)>,
}

/// What a vote changes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum VoteCheck {
    /// Not seen yet.
    New,
    /// The same vote, one that a quorum has made needless, or one of a muted voter.
    Needless,
    /// The voter has voted another digest in this phase.
    Conflicts,
}

impl Round {
    /// The digest that this node prepared (or proposed).
    pub(super) fn prepared(&self) -> Option<Hash> {
        self.own.iter().find(|v| v.ballot.phase != Phase::Commit).map(|v| v.ballot.digest)
    }

    pub(super) fn committed(&self) -> bool {
        self.own.iter().any(|v| v.ballot.phase == Phase::Commit)
    }

    fn votes(&self, phase: Phase) -> &BTreeMap<NodeId, (Hash, Signature)> {
        if phase == Phase::Commit { &self.commits } else { &self.prepares }
    }

    fn count(&self, phase: Phase, digest: Hash) -> usize {
        self.votes(phase).values().filter(|(d, _)| *d == digest).count()
    }

    /// Where a vote stands before its signature is looked at.
    pub(super) fn check(
        &self,
        phase: Phase,
        voter: NodeId,
        digest: Hash,
        quorum: usize,
    ) -> VoteCheck {
        if self.muted.contains(&(voter, phase)) {
            return VoteCheck::Needless;
        }
        match self.votes(phase).get(&voter) {
            Some((known, _)) if *known == digest => VoteCheck::Needless,
            Some(_) => VoteCheck::Conflicts,
            None if self.count(phase, digest) >= quorum => VoteCheck::Needless,
            None => VoteCheck::New,
        }
    }

    /// A vote of this member in this phase did not verify.
    pub(super) fn mute(&mut self, voter: NodeId, phase: Phase) {
        self.muted.insert((voter, phase));
    }

    /// A verified vote contradicted an earlier one. The first is evidence; the second mutes.
    pub(super) fn conflicted(&mut self, voter: NodeId, phase: Phase) {
        if !self.conflicted.insert((voter, phase)) {
            self.muted.insert((voter, phase));
        }
    }

    /// Adds a verified vote.
    pub(super) fn add(&mut self, vote: &Vote) {
        let votes =
            if vote.ballot.phase == Phase::Commit { &mut self.commits } else { &mut self.prepares };
        votes
            .entry(vote.ballot.voter)
            .or_insert_with(|| (vote.ballot.digest, vote.signature.clone()));
    }

    /// The digest that a quorum committed, if one did.
    pub(super) fn decided(&self, quorum: usize) -> Option<Hash> {
        let digest = self
            .commits
            .values()
            .map(|(d, _)| *d)
            .find(|d| self.count(Phase::Commit, *d) >= quorum)?;
        Some(digest)
    }

    /// How many votes are held.
    pub(super) fn len(&self) -> usize {
        self.prepares.len() + self.commits.len()
    }

    /// What a member voted, as it was signed. A leader's PREPARE is its PRE-PREPARE.
    pub(super) fn votes_of(
        &self,
        voter: NodeId,
        leader: NodeId,
    ) -> impl Iterator<Item = (Phase, Hash, Signature)> + '_ {
        let first = if voter == leader { Phase::PrePrepare } else { Phase::Prepare };
        let held = [(first, &self.prepares), (Phase::Commit, &self.commits)];
        held.into_iter().filter_map(move |(phase, votes)| {
            let (digest, signature) = votes.get(&voter)?;
            Some((phase, *digest, signature.clone()))
        })
    }

    /// The certificate of a quorum for `digest`, the leader's vote included where the phase needs
    /// it.
    #[allow(clippy::too_many_arguments, reason = "the parts of a certificate, each once")]
    pub(super) fn certificate(
        &self,
        epoch: Epoch,
        phase: Phase,
        view: View,
        sequence: Sequence,
        digest: Hash,
        leader: NodeId,
        quorum: usize,
    ) -> Option<Certificate> {
        // Counted before anything is copied: this is asked in every turn.
        if self.count(phase, digest) < quorum {
            return None;
        }
        let matching = || self.votes(phase).iter().filter(|(_, (d, _))| *d == digest);
        if phase == Phase::Prepare && !matching().any(|(voter, _)| *voter == leader) {
            return None;
        }
        // The leader first, so that it is among the quorum that is kept.
        let mut votes: Vec<(NodeId, Signature)> = matching()
            .filter(|(voter, _)| **voter == leader)
            .chain(matching().filter(|(voter, _)| **voter != leader))
            .take(quorum)
            .map(|(voter, (_, signature))| (*voter, signature.clone()))
            .collect();
        votes.sort_by_key(|(voter, _)| *voter);
        (votes.len() == quorum).then_some(Certificate {
            epoch,
            phase,
            view,
            sequence,
            digest,
            votes,
        })
    }
}
