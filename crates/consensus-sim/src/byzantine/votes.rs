//! Lies about proposals, votes, acknowledgements and status.

use super::{Attacker, Collusion, Situation, Strategy};
use crate::{crypto::nonsense, rng::Rng};
use cretoai_consensus::{Message, Status};
use cretoai_types::{Epoch, Height, NodeId, Phase, Proposal, Sequence, Signature, Tip, View, Vote};

impl Attacker {
    pub(super) fn proposal(
        &mut self,
        rng: &mut Rng,
        collusion: &mut Collusion,
        situation: &Situation<'_>,
        to: NodeId,
        proposal: Proposal,
        vote: Vote,
    ) -> Vec<Message> {
        let ballot = vote.ballot;
        let mut changed = proposal.clone();
        if self.does(Strategy::FreezeTime) {
            self.freeze(situation, &mut changed);
        } else if self.freed.contains(&(ballot.view, to)) {
            // To whom the view is free: a fresh proposal in place of what was chosen.
            changed.origin_view = ballot.view;
            changed.time_ms += 1;
        } else if self.does(Strategy::Equivocate) && self.other_face.contains(&to) {
            changed.time_ms += 1;
        } else if self.does(Strategy::BadProposals) && rng.chance(150) {
            bad(rng, &mut changed);
        }
        if changed == proposal {
            return vec![Message::PrePrepare { proposal, vote }];
        }
        let digest = changed.digest(&self.domain(ballot.epoch));
        let Some(vote) = self.vote(situation, Phase::PrePrepare, ballot, digest) else {
            return Vec::new();
        };
        collusion.told.insert((ballot.view, changed.sequence, to), digest);
        let commit = self.vote(situation, Phase::Commit, ballot, digest);
        let mut messages = vec![Message::PrePrepare { proposal: changed, vote }];
        // And at once all votes for it that this node can give.
        messages.extend(commit.map(Message::Vote));
        messages
    }

    pub(super) fn voted(
        &self,
        rng: &mut Rng,
        collusion: &Collusion,
        situation: &Situation<'_>,
        to: NodeId,
        vote: Vote,
    ) -> Vec<Message> {
        let ballot = vote.ballot;
        if self.does(Strategy::Equivocate)
            && let Some(digest) = collusion.told.get(&(ballot.view, ballot.sequence, to))
        {
            let leads = situation.validators.leader(ballot.view) == self.own;
            let phases: &[Phase] =
                if leads { &[Phase::Commit] } else { &[Phase::Prepare, Phase::Commit] };
            return phases
                .iter()
                .filter_map(|phase| self.vote(situation, *phase, ballot, *digest))
                .map(Message::Vote)
                .collect();
        }
        let mut messages = Vec::new();
        if self.does(Strategy::ConflictingVotes) && rng.chance(200) {
            messages.extend(
                self.vote(situation, ballot.phase, ballot, nonsense(rng.next())).map(Message::Vote),
            );
        }
        if self.does(Strategy::ForgeVotes) && rng.chance(300) {
            messages.push(Message::Vote(forged(rng, &vote)));
        }
        messages.push(Message::Vote(vote));
        if rng.chance(500) {
            messages.reverse();
        }
        messages
    }

    pub(super) fn status(&self, rng: &mut Rng, mut status: Status) -> Vec<Message> {
        if self.does(Strategy::WrongAcknowledgements) {
            status.acknowledged = wrong_tips(rng, status.acknowledged);
        }
        if self.does(Strategy::WrongWants) {
            match rng.below(5) {
                0 => status.want = View(status.want.0 + rng.below(4)),
                1 => status.want = View(u64::MAX),
                2 => (status.view, status.want) = (View(rng.next()), View(rng.next())),
                3 => status.active = !status.active,
                _ => {}
            }
        }
        if self.does(Strategy::BogusStatus) {
            match rng.below(7) {
                0 => status.executed = Sequence(status.executed.0 + rng.below(50)),
                1 => status.executed = Sequence(u64::MAX),
                2 => status.executed = Sequence(0),
                3 => status.stable = Sequence(rng.next()),
                4 => status.epoch = Epoch(rng.below(4)),
                5 => status.voted = Some(Phase::Commit),
                _ => status.chain_hash = nonsense(rng.next()),
            }
            status.clock_ms = rng.next();
        }
        let mut messages = vec![Message::Status(status)];
        if self.does(Strategy::ForgeRecords) && rng.chance(100) {
            messages.push(Message::FetchRecords {
                epoch: Epoch(rng.below(3)),
                from: Sequence(rng.next()),
            });
            messages.push(Message::FetchLane {
                author: NodeId(rng.below(9) as u32),
                above: Height(rng.next()),
                up_to: Height(u64::MAX),
            });
        }
        messages
    }
}

fn bad(rng: &mut Rng, proposal: &mut Proposal) {
    let lane = rng.index(proposal.cut.len());
    match rng.below(8) {
        0 => proposal.time_ms += 120_000,
        1 => proposal.time_ms = proposal.time_ms.saturating_sub(20_000),
        2 => proposal.cut[lane].height.0 += 100,
        3 => {
            proposal.cut[lane] =
                Tip { height: Height(proposal.cut[lane].height.0 + 1), id: nonsense(rng.next()) }
        }
        4 => proposal.cut[lane] = Tip::default(),
        5 => proposal.prev = nonsense(rng.next()),
        6 => proposal.origin_view = View(proposal.origin_view.0 + 1),
        _ => {
            proposal.cut.pop();
        }
    }
}

fn forged(rng: &mut Rng, vote: &Vote) -> Vote {
    let mut broken = vote.clone();
    match rng.below(7) {
        0 => broken.signature = Signature(Box::new([7; Signature::SIZE])),
        1 => broken.ballot.voter = NodeId(rng.below(9) as u32),
        2 => broken.ballot.sequence = Sequence(rng.next()),
        3 => broken.ballot.view = View(broken.ballot.view.0 + 1),
        4 => broken.ballot.epoch = Epoch(broken.ballot.epoch.0 + 1),
        5 => broken.ballot.digest = nonsense(rng.next()),
        _ => broken.ballot.phase = Phase::PrePrepare,
    }
    broken
}

pub(super) fn wrong_tips(rng: &mut Rng, mut tips: Vec<Tip>) -> Vec<Tip> {
    match rng.below(4) {
        0 => {
            for tip in &mut tips {
                *tip =
                    Tip { height: Height(tip.height.0 + rng.below(100)), id: nonsense(rng.next()) };
            }
        }
        1 => tips
            .iter_mut()
            .for_each(|tip| *tip = Tip { height: Height(u64::MAX), id: nonsense(rng.next()) }),
        2 => tips.truncate(1),
        _ => {}
    }
    tips
}
