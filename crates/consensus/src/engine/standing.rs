//! Whether this node may sign.
//!
//! Only a member of the epoch signs, and only when it knows that it remembers all that it signed:
//! before its first signature after a start it asks q - 1 other members what they hold of its own.
//! A signature above its mark shows a volume restored from an older copy, and its key never signs
//! again. A claim without its signature means nothing.

use super::{Engine, Now, Recipient, Write};
use crate::message::{MAX_RECALLED_VOTES, Message, Recalled};
use borsh::{BorshDeserialize, BorshSerialize};
use cretoai_types::{
    Checkpoint, Domain, Epoch, Height, NodeId, Phase, Sequence, Signature, SignedHeader, Signer,
    Validators, View, ViewChangeHead, Vote, mutants::mutant,
};
use std::{collections::BTreeSet, sync::Arc};

/// The newest thing of each kind that a node signed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Mark {
    /// The epoch of all of them.
    pub epoch: Epoch,
    /// The view that it entered.
    pub view: View,
    /// Its last vote.
    pub vote: Option<(View, Sequence, Phase)>,
    /// The height of its last vertex.
    pub height: Height,
    /// Its last checkpoint.
    pub checkpoint: Sequence,
}

/// What a node is, for people.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// A member that votes.
    Validator,
    /// A member that asks the others what it signed, and does not sign before it knows.
    Checking,
    /// It follows the chain and votes for nothing.
    Learner,
    /// A member whose volume was restored from an older copy. It never signs again with its key.
    Stale,
}

#[derive(Debug)]
pub(super) enum Standing {
    /// Who has answered so far.
    Checking(BTreeSet<NodeId>),
    Sound,
    Stale,
}

impl Standing {
    pub(super) const fn at_start(stale: bool) -> Self {
        if stale { Self::Stale } else { Self::Checking(BTreeSet::new()) }
    }
}

/// The member that one of the keys belongs to.
pub(super) fn own_key(
    validators: &Validators,
    signers: &[Arc<dyn Signer>],
) -> Option<(NodeId, Arc<dyn Signer>)> {
    signers
        .iter()
        .find_map(|signer| Some((validators.by_key(signer.public_key())?.id, Arc::clone(signer))))
}

impl Engine {
    /// Whether this node may sign.
    pub(super) fn may_sign(&self) -> bool {
        let sound = matches!(self.standing, Standing::Sound)
            || (mutant!(StaleVolumeSigns) && self.own.is_some());
        self.own.is_some() && sound
    }

    /// What this node is.
    #[must_use]
    pub fn role(&self) -> Role {
        match (&self.own, &self.standing) {
            (None, _) => Role::Learner,
            (Some(_), Standing::Stale) => Role::Stale,
            (Some(_), Standing::Checking(_)) => Role::Checking,
            (Some(_), Standing::Sound) => Role::Validator,
        }
    }

    /// At a start, or when this node becomes a member.
    pub(super) fn begin_standing(&mut self) {
        self.conclude_check();
        self.ask_what_was_signed();
    }

    /// Asks every member that has not answered. Repeated with the heartbeat.
    pub(super) fn ask_what_was_signed(&mut self) {
        let (Standing::Checking(heard), Some(own)) = (&self.standing, self.own_id()) else {
            return;
        };
        let silent: Vec<NodeId> =
            self.validators.ids().filter(|id| *id != own && !heard.contains(id)).collect();
        for id in silent {
            self.send(Recipient::One(id), Message::Recall);
        }
    }

    fn conclude_check(&mut self) {
        let Standing::Checking(heard) = &self.standing else { return };
        if self.own.is_some() && heard.len() + 1 >= self.validators.quorum().q {
            self.standing = Standing::Sound;
            self.status_due = true;
        }
    }

    /// Tells a member what this node holds that it signed. Before its own check is done, too: nodes
    /// that restart together must not wait for each other.
    pub(super) fn answer_recall(&mut self, now: Now, from: NodeId) {
        let Some(position) = self.position(from) else { return };
        let Some(peer) = self.peers.get(position) else { return };
        if peer.told.is_some_and(|told| now.at.saturating_sub(told) < self.timing.status / 2) {
            return;
        }
        let in_new_view = self
            .new_view
            .iter()
            .flat_map(|new_view| &new_view.heads)
            .find(|(head, _)| head.node == from);
        let view_change = [peer.signed_view.as_ref(), in_new_view]
            .into_iter()
            .flatten()
            .max_by_key(|(head, _)| head.view)
            .cloned();
        let mut recalled =
            Recalled { epoch: self.validators.epoch, view_change, ..Recalled::default() };
        let mut votes = self.votes_of(from);
        votes.sort_by_key(|vote| {
            std::cmp::Reverse((vote.ballot.view, vote.ballot.sequence, vote.ballot.phase))
        });
        votes.truncate(MAX_RECALLED_VOTES);
        recalled.votes = votes;
        recalled.checkpoint = self.checkpoints.newest_of(from);
        if let Some(peer) = self.peers.get_mut(position) {
            peer.told = Some(now.at);
        }
        let newest = self.lanes.get(position).and_then(|lane| lane.newest());
        recalled.vertex = newest.map(|v| SignedHeader {
            header: v.header().clone(),
            signature: v.vertex().signature.clone(),
        });
        self.send(Recipient::One(from), Message::Recalled(Box::new(recalled)));
    }

    /// All votes of a member that this node holds.
    pub(super) fn votes_of(&self, voter: NodeId) -> Vec<Vote> {
        let chosen = self.new_view.as_ref().and_then(|new_view| new_view.prepared.as_ref());
        let certificates = [
            self.prepared.as_ref().map(|p| &p.certificate),
            chosen.map(|p| &p.certificate),
            self.certified_by_votes(),
        ];
        let in_certificates = certificates.into_iter().flatten().filter_map(|certificate| {
            let (_, signature) = certificate.votes.iter().find(|(id, _)| *id == voter)?;
            let leader = self.validators.leader(certificate.view);
            Some(Vote { ballot: certificate.ballot(voter, leader), signature: signature.clone() })
        });
        let rounds = [
            (&self.round, self.state.sequence.next()),
            (&self.next_round, self.state.sequence.next().next()),
        ];
        let leader = self.leader();
        let in_rounds = rounds.into_iter().flat_map(|(round, sequence)| {
            round.votes_of(voter, leader).map(move |(phase, digest, signature)| {
                let ballot = cretoai_types::Ballot {
                    epoch: self.validators.epoch,
                    phase,
                    view: self.view,
                    sequence,
                    digest,
                    voter,
                };
                Vote { ballot, signature }
            })
        });
        let peer = self.position(voter).and_then(|position| self.peers.get(position));
        let given_up = peer.and_then(|peer| peer.newest_vote.clone());
        in_certificates.chain(in_rounds).chain(given_up).collect()
    }

    pub(super) fn receive_recalled(&mut self, from: NodeId, recalled: Recalled) {
        if self.position(from).is_none()
            || !matches!(self.standing, Standing::Checking(_))
            || recalled.votes.len() > MAX_RECALLED_VOTES
        {
            return;
        }
        if self.is_above_the_mark(&recalled) {
            self.standing = Standing::Stale;
            self.persist(Write::Stale);
            return;
        }
        // The others of another epoch do not know what was signed in this one.
        if let Standing::Checking(heard) = &mut self.standing
            && recalled.epoch == self.validators.epoch
        {
            heard.insert(from);
        }
        self.conclude_check();
    }

    /// Whether something in it is signed with a key of this node and newer than what it remembers.
    fn is_above_the_mark(&self, recalled: &Recalled) -> bool {
        let Some((own, _)) = &self.own else { return false };
        let mark = &self.mark;
        // With any key of this node: the others may be in an epoch in which it had the next one
        // already.
        let verifies = |message: Vec<u8>, signature: &Signature| {
            self.signers
                .iter()
                .any(|signer| self.verifier.verify(signer.public_key(), &message, signature))
        };
        let view = |(head, signature): &(ViewChangeHead, Signature)| {
            head.node == *own
                && (head.epoch, head.view) > (mark.epoch, mark.view)
                && verifies(head.signing_message(self.chain_id), signature)
        };
        let vote = |vote: &Vote| {
            let ballot = &vote.ballot;
            ballot.voter == *own
                && (ballot.epoch, Some((ballot.view, ballot.sequence, ballot.phase)))
                    > (mark.epoch, mark.vote)
                && verifies(ballot.signing_message(self.chain_id), &vote.signature)
        };
        let checkpoint = |checkpoint: &Checkpoint| {
            checkpoint.node == *own
                && (checkpoint.state.epoch, checkpoint.state.sequence)
                    > (mark.epoch, mark.checkpoint)
                && verifies(checkpoint.state.signing_message(self.chain_id), &checkpoint.signature)
        };
        let vertex = |signed: &SignedHeader| {
            let header = &signed.header;
            let domain = Domain { chain_id: self.chain_id, epoch: header.epoch };
            header.author == *own
                && (header.epoch, header.height) > (mark.epoch, mark.height)
                && verifies(header.signing_message(&domain), &signed.signature)
        };
        recalled.view_change.as_ref().is_some_and(view)
            || recalled.votes.iter().any(vote)
            || recalled.checkpoint.as_ref().is_some_and(checkpoint)
            || recalled.vertex.as_ref().is_some_and(vertex)
    }

    /// Writes the mark in the batch of whatever was signed.
    pub(super) fn write_mark(&mut self) {
        if self.mark != self.written_mark {
            self.written_mark = self.mark;
            self.persist(Write::Mark(self.mark));
        }
    }
}
