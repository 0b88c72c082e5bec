//! The normal case: PRE-PREPARE, PREPARE, COMMIT, one sequence at a time.

use super::{
    Engine, MAX_ADVANCE, MAX_AHEAD_MS, MAX_BEHIND_MS, Now, Recipient, ViolationKind, Write,
    round::{Proposed, Round, VoteCheck},
};
use crate::message::Message;
use cretoai_types::{
    Ballot, Evidence, Hash, Height, NodeId, Phase, Prepared, Proposal, Sequence, Tip, View, Vote,
    mutants::{mutant, rule},
};
use std::time::Duration;

/// Beyond what a quorum acknowledged, a cut takes at most so many vertices of a lane that a weak
/// quorum holds.
const WEAK_VERTICES: u64 = 4;

/// Whether a proposal may be voted for.
enum Verdict {
    Vote,
    /// Not yet: data is missing, its time is ahead of our clock, or the view begins after what we
    /// executed.
    Wait,
    Refuse,
}

impl Engine {
    /// Whether this node votes for the sequence after the executed one: it may sign, its view has
    /// begun, it can prove what it executed, the epoch goes on, and the stable checkpoint is near.
    fn may_vote(&self) -> bool {
        let ended = self.state.successor.is_some() && !mutant!(PreparedPastReconfig);
        let within = self.state.sequence.next().0
            <= self.stable_or_opening().0.saturating_add(self.validators.parameters.window);
        self.may_sign()
            && self.has_caught_up_with_view()
            && self.certified.0 == self.state.sequence
            && !ended
            && within
    }

    // ---- PRE-PREPARE

    /// As the leader: proposes the next sequence, if the pace allows and some lane advances; or
    /// what NEW-VIEW chose, once all its data is here. Says whether it did.
    pub(super) fn propose(&mut self, now: Now) -> bool {
        if self.proposal_due(now).is_none_or(|due| due > now.at) {
            return false;
        }
        let proposal = match self.chosen() {
            Some(prepared) => prepared.proposal.clone(),
            None => Proposal {
                sequence: self.state.sequence.next(),
                prev: self.state.chain_hash,
                time_ms: self.proposal_time(now),
                origin_view: self.view,
                cut: self.proposable_cut(now),
            },
        };
        let Some(vote) =
            self.sign(Phase::PrePrepare, proposal.sequence, proposal.digest(&self.domain()))
        else {
            return false;
        };
        self.round.proposed = Some(Proposed {
            digest: vote.ballot.digest,
            proposal: proposal.clone(),
            vote: vote.clone(),
            arrived_ms: now.wall_ms,
        });
        self.pin(&proposal);
        self.cast(now, vote.clone(), Some((proposal.clone(), vote.clone())));
        self.send(Recipient::All, Message::PrePrepare { proposal, vote });
        self.last_proposed = Some(now.at);
        true
    }

    /// This node's clock, but never before the previous decision, and within what a quorum's clocks
    /// let it vote for.
    fn proposal_time(&self, now: Now) -> u64 {
        if mutant!(TimeGoesBack) {
            return now.wall_ms.saturating_sub(self.state.sequence.0 % 3 * 5_000);
        }
        let aged = |came: Duration| {
            u64::try_from(now.at.saturating_sub(came).as_millis()).unwrap_or(u64::MAX)
        };
        let own = self.own_position();
        let others = self
            .peers
            .iter()
            .enumerate()
            .filter(|(peer, _)| Some(*peer) != own)
            .filter_map(|(_, peer)| peer.status.as_ref());
        // The clock of one that is silent tells nothing.
        let others = others.filter(|(_, came)| now.at.saturating_sub(*came) < self.timing.timeout);
        let mut clocks: Vec<u64> = others
            .map(|(status, came)| status.clock_ms.saturating_add(aged(*came)))
            .chain([now.wall_ms])
            .collect();
        clocks.sort_unstable_by(|a, b| b.cmp(a));
        if mutant!(TimeStandsStill) {
            return self.state.time_ms.max(now.wall_ms);
        }
        // At least one honest clock is not before the q-th largest, and a quorum's are not far
        // before it: between these bounds a quorum votes, however wrong this node's clock is.
        let of_quorum =
            clocks.get(self.quorum().q - 1).or(clocks.last()).copied().unwrap_or(now.wall_ms);
        let latest = of_quorum.saturating_add(MAX_AHEAD_MS / 2);
        let earliest = of_quorum.saturating_sub(MAX_BEHIND_MS / 2);
        self.state.time_ms.max(now.wall_ms.clamp(earliest, latest))
    }

    /// When this node will propose, if it leads and nothing is proposed yet.
    pub(super) fn proposal_due(&self, now: Now) -> Option<Duration> {
        let idle = self.leads()
            && self.round.proposed.is_none()
            && !self.catch_up.has_records()
            && self.may_vote();
        if !idle {
            return None;
        }
        let ready = match self.chosen() {
            Some(prepared) => self.holds_all(&prepared.proposal.cut),
            None => self.some_lane_advances(now),
        };
        ready.then(|| self.last_proposed.map_or(now.at, |last| last + self.timing.pace))
    }

    fn holds_all(&self, cut: &[Tip]) -> bool {
        cut.iter().zip(&self.lanes).all(|(tip, lane)| lane.holds(*tip))
    }

    fn some_lane_advances(&self, now: Now) -> bool {
        let banned = self.banned_lanes();
        (0..self.lanes.len()).any(|lane| {
            !banned.contains(&lane) && self.proposable_tip(now, lane) != self.decided(lane)
        })
    }

    fn decided(&self, lane: usize) -> Tip {
        self.lanes.get(lane).map_or_else(Tip::default, super::Lane::decided)
    }

    /// The positions whose lanes no longer advance.
    fn banned_lanes(&self) -> Vec<usize> {
        self.state.banned(&self.validators).filter_map(|id| self.position(id)).collect()
    }

    /// Of each lane what this node holds and a quorum acknowledged, and a little beyond it what a
    /// weak quorum has held for a while, within the bound.
    fn proposable_cut(&self, now: Now) -> Vec<Tip> {
        let banned = self.banned_lanes();
        let lanes = 0..self.lanes.len();
        lanes
            .map(|lane| {
                if banned.contains(&lane) {
                    self.decided(lane)
                } else {
                    self.proposable_tip(now, lane)
                }
            })
            .collect()
    }

    fn proposable_tip(&self, now: Now, position: usize) -> Tip {
        let Some(lane) = self.lanes.get(position) else { return Tip::default() };
        let certain = self.acknowledged_by(position, self.quorum().q);
        let weak = self.election.weak.get(position).copied().flatten();
        let aged =
            weak.filter(|(_, since)| now.at.saturating_sub(*since) >= self.timing.timeout / 4);
        let beyond = aged
            .map_or(certain.height.0, |(height, _)| height.0.min(certain.height.0 + WEAK_VERTICES));
        let highest = beyond.max(certain.height.0).min(lane.decided().height.0 + MAX_ADVANCE);
        lane.highest_that_fits(Height(highest))
    }

    pub(super) fn receive_proposal(
        &mut self,
        now: Now,
        from: NodeId,
        proposal: Proposal,
        vote: Vote,
    ) {
        let ballot = vote.ballot;
        if mutant!(StaleViewAccepted)
            && ballot.view < self.view
            && !self.active
            && ballot.epoch == self.validators.epoch
        {
            self.view = ballot.view;
            self.active = true;
            self.choice = None;
        }
        if ballot.epoch != self.validators.epoch || self.successor.is_some() {
            return;
        }
        if ballot.view > self.view {
            return self.keep_for_later(from, ballot.view, Message::PrePrepare { proposal, vote });
        }
        if ballot.view < self.view {
            return;
        }
        let leads = ballot.phase == Phase::PrePrepare && ballot.voter == self.leader();
        let belongs =
            ballot.sequence == proposal.sequence && proposal.cut.len() == self.lanes.len();
        if !leads || !belongs || ballot.digest != proposal.digest(&self.domain()) {
            return self.violation(from, ViolationKind::Malformed);
        }
        let quorum = self.quorum().q;
        let Some(round) = self.round_of(proposal.sequence) else { return };
        if round.proposed.as_ref().is_some_and(|p| p.digest == ballot.digest) {
            return;
        }
        let check = round.check(Phase::PrePrepare, ballot.voter, ballot.digest, quorum);
        if !self.verifies(&vote) {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        if check == VoteCheck::Conflicts {
            return self.contradicted(&vote);
        }
        if let Some(round) = self.round_of(proposal.sequence) {
            round.add(&vote);
            round.proposed.get_or_insert(Proposed {
                digest: ballot.digest,
                proposal,
                vote,
                arrived_ms: now.wall_ms,
            });
        }
    }

    /// A member voted otherwise before.
    fn contradicted(&mut self, vote: &Vote) {
        let Ballot { phase, voter, sequence, .. } = vote.ballot;
        if voter == self.leader() && phase != Phase::Commit {
            self.election.leader_equivocated();
        }
        let leader = self.leader();
        let own = Ballot { digest: Hash::ZERO, ..vote.ballot };
        let first = self.round_of(sequence).and_then(|round| {
            let held = round
                .votes_of(voter, leader)
                .find(|(held, ..)| (*held == Phase::Commit) == (phase == Phase::Commit));
            held.map(|(phase, digest, signature)| Vote {
                ballot: Ballot { phase, digest, ..own },
                signature,
            })
        });
        if let Some(first) = first {
            self.accuse(Evidence::Votes(first, vote.clone()));
        }
    }

    // ---- PREPARE

    /// Votes for the leader's proposal, if every rule holds. Says whether it did.
    pub(super) fn prepare(&mut self, now: Now) -> bool {
        let Some(proposed) = &self.round.proposed else { return false };
        if self.leads() || self.round.prepared().is_some() || self.round.refused || !self.may_vote()
        {
            return false;
        }
        match self.judge(now, proposed) {
            Verdict::Wait => false,
            Verdict::Refuse => {
                // The slot stays taken: a second proposal for it would be an equivocation. The view
                // runs out of time.
                self.round.refused = true;
                false
            }
            Verdict::Vote => {
                let Proposed { proposal, digest, vote, .. } = proposed.clone();
                let Some(prepare) = self.sign(Phase::Prepare, proposal.sequence, digest) else {
                    return false;
                };
                self.pin(&proposal);
                self.cast(now, prepare.clone(), Some((proposal, vote)));
                self.send(Recipient::All, Message::Vote(prepare));
                true
            }
        }
    }

    fn judge(&self, now: Now, proposed: &Proposed) -> Verdict {
        let proposal = &proposed.proposal;
        if proposal.prev != self.state.chain_hash
            || (proposal.time_ms < self.state.time_ms && !mutant!(TimeGoesBack))
        {
            return Verdict::Refuse;
        }
        // Chosen by NEW-VIEW: this digest and no other, whatever the clocks say. Else fresh from
        // this view's leader.
        let chosen = self.chosen().map(|prepared| prepared.certificate.digest);
        let is_fresh = chosen.is_none();
        if chosen.is_some_and(|chosen| chosen != proposed.digest)
            || (is_fresh && proposal.origin_view != self.view)
        {
            return Verdict::Refuse;
        }
        let banned = self.banned_lanes();
        let mut advances = false;
        let mut missing = false;
        for (position, (tip, lane)) in proposal.cut.iter().zip(&self.lanes).enumerate() {
            let decided = lane.decided();
            if *tip == decided {
                continue;
            }
            let out_of_reach =
                tip.height <= decided.height || tip.height.0 > decided.height.0 + MAX_ADVANCE;
            if !rule!(TipNotDescending, !out_of_reach)
                || banned.contains(&position)
                || lane.is_too_heavy(*tip)
            {
                return Verdict::Refuse;
            }
            advances = true;
            missing |= !rule!(TipNotDescending, rule!(DataNotHeld, lane.holds(*tip)));
        }
        if !advances {
            return Verdict::Refuse;
        }
        // Against the clock at arrival: what had to wait for its data is not late. The chain's time
        // may not stand still either, or no payload would be valid any more.
        let stands_still = proposal.time_ms == self.state.time_ms && mutant!(TimeStandsStill);
        if is_fresh
            && proposal.time_ms < proposed.arrived_ms.saturating_sub(MAX_BEHIND_MS)
            && !stands_still
        {
            return Verdict::Refuse;
        }
        // A clock that was set back does not stop the chain: the previous time is always allowed.
        let early = is_fresh
            && proposal.time_ms > now.wall_ms + MAX_AHEAD_MS
            && proposal.time_ms != self.state.time_ms;
        if missing || early { Verdict::Wait } else { Verdict::Vote }
    }

    pub(super) fn receive_vote(&mut self, from: NodeId, vote: &Vote) {
        let Ballot { epoch, phase, view, sequence, digest, voter } = vote.ballot;
        if epoch == self.validators.epoch && view > self.view {
            return self.keep_for_later(from, view, Message::Vote(vote.clone()));
        }
        if (epoch != self.validators.epoch && !mutant!(OldEpochVotes)) || view != self.view {
            return;
        }
        // Votes come from their voters: nobody relays them outside certificates.
        if voter != from
            || phase == Phase::PrePrepare
            || (phase == Phase::Prepare && voter == self.leader())
        {
            return self.violation(from, ViolationKind::Malformed);
        }
        let quorum = self.quorum().q;
        let Some(round) = self.round_of(sequence) else { return };
        let check = round.check(phase, voter, digest, quorum);
        if check == VoteCheck::Needless {
            return;
        }
        if !rule!(UnverifiedVote, self.verifies(vote)) {
            if let Some(round) = self.round_of(sequence) {
                round.mute(voter, phase);
            }
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        if check == VoteCheck::Conflicts {
            if let Some(round) = self.round_of(sequence) {
                round.conflicted(voter, phase);
            }
            return self.contradicted(vote);
        }
        if let Some(round) = self.round_of(sequence) {
            round.add(vote);
        }
    }

    // ---- COMMIT

    /// Once a quorum prepared what this node prepared in this view: keeps the certificate and votes
    /// COMMIT. Says whether it did.
    pub(super) fn commit(&mut self, now: Now) -> bool {
        if self.round.committed() || !self.may_vote() {
            return false;
        }
        let prepared = self.round.prepared().or_else(|| {
            self.round.proposed.as_ref().map(|p| p.digest).filter(|_| mutant!(CommitUnprepared))
        });
        let Some(digest) = prepared else { return false };
        let Some(proposed) =
            self.round.proposed.as_ref().filter(|proposed| proposed.digest == digest)
        else {
            return false;
        };
        let sequence = self.state.sequence.next();
        let certificate = self.round.certificate(
            self.validators.epoch,
            Phase::Prepare,
            self.view,
            sequence,
            digest,
            self.leader(),
            self.quorum().q,
        );
        let Some(certificate) = certificate else { return false };
        let prepared = Prepared { certificate, proposal: proposed.proposal.clone() };
        let Some(commit) = self.sign(Phase::Commit, sequence, digest) else { return false };
        self.persist(Write::Prepared(prepared.clone()));
        self.prepared = Some(prepared);
        self.cast(now, commit.clone(), None);
        self.send(Recipient::All, Message::Vote(commit));
        true
    }

    // ---- votes

    /// A vote of a view that this node enters a moment later, perhaps: one of each peer and step,
    /// of its newest view.
    fn keep_for_later(&mut self, from: NodeId, view: View, message: Message) {
        let step = match &message {
            Message::PrePrepare { .. } => Phase::PrePrepare,
            Message::Vote(vote) => vote.ballot.phase,
            _ => return,
        };
        if self.early.get(&(from, step)).is_none_or(|(known, _)| *known <= view) {
            self.early.insert((from, step), (view, message));
        }
    }

    /// Takes in what came too early for this view.
    pub(super) fn take_in_early(&mut self, now: Now) {
        let view = self.view;
        for ((from, _), (of, message)) in std::mem::take(&mut self.early) {
            match message {
                _ if of > view => self.keep_for_later(from, of, message),
                _ if of < view => {}
                Message::PrePrepare { proposal, vote } => {
                    self.receive_proposal(now, from, proposal, vote)
                }
                Message::Vote(vote) => self.receive_vote(from, &vote),
                _ => {}
            }
        }
    }

    /// Of each member the newest vote of a round that is given up: it may be asked for.
    pub(super) fn remember_votes(&mut self, sequence: Sequence) {
        let leader = self.leader();
        let ids: Vec<NodeId> =
            self.validators.ids().filter(|id| Some(*id) != self.own_id()).collect();
        for voter in ids {
            let newest = self.round.votes_of(voter, leader).last();
            let Some((phase, digest, signature)) = newest else { continue };
            let ballot = Ballot {
                epoch: self.validators.epoch,
                phase,
                view: self.view,
                sequence,
                digest,
                voter,
            };
            if let Some(peer) =
                self.position(voter).and_then(|position| self.peers.get_mut(position))
            {
                peer.newest_vote = Some(Vote { ballot, signature });
            }
        }
    }

    /// Votes are kept for the next two sequences only.
    pub(super) fn round_of(&mut self, sequence: Sequence) -> Option<&mut Round> {
        let next = self.state.sequence.next();
        if sequence == next {
            Some(&mut self.round)
        } else if sequence == next.next() {
            Some(&mut self.next_round)
        } else {
            None
        }
    }

    fn sign(&self, phase: Phase, sequence: Sequence, digest: Hash) -> Option<Vote> {
        let (own, signer) = self.own.as_ref()?;
        // The mark outlives everything: whatever a store gave back, nothing is signed twice.
        let forgotten =
            mutant!(VotesLostOnRestart) || mutant!(StaleViewAccepted) || mutant!(ViewNotDurable);
        if self.mark.epoch == self.validators.epoch
            && Some((self.view, sequence, phase)) <= self.mark.vote
            && !forgotten
        {
            return None;
        }
        let ballot = Ballot {
            epoch: self.validators.epoch,
            phase,
            view: self.view,
            sequence,
            digest,
            voter: *own,
        };
        Some(Vote { ballot, signature: signer.sign(&ballot.signing_message(self.chain_id)) })
    }

    fn verifies(&self, vote: &Vote) -> bool {
        vote.verifies(self.chain_id, &self.validators, &*self.verifier)
    }

    /// Counts an own vote and has it written before the turn's messages leave.
    fn cast(&mut self, now: Now, vote: Vote, proposed: Option<(Proposal, Vote)>) {
        let Ballot { view, sequence, phase, .. } = vote.ballot;
        self.mark.vote = Some((view, sequence, phase));
        self.round.add(&vote);
        self.round.own.push(vote.clone());
        self.round_since = now.at;
        self.persist(Write::Vote { vote, proposed });
    }

    /// After a restart the written votes decide: the same are sent again, never others.
    pub(super) fn recall_votes(&mut self, proposed: Option<(Proposal, Vote)>, votes: Vec<Vote>) {
        if mutant!(VotesLostOnRestart) {
            return;
        }
        let place = (self.validators.epoch, self.view, self.state.sequence.next());
        let of = |vote: &Vote| (vote.ballot.epoch, vote.ballot.view, vote.ballot.sequence);
        if let Some((proposal, vote)) = proposed.filter(|(_, vote)| of(vote) == place) {
            self.pin(&proposal);
            self.round.add(&vote);
            self.round.proposed = Some(Proposed {
                digest: vote.ballot.digest,
                arrived_ms: proposal.time_ms,
                proposal,
                vote,
            });
        }
        if let Some(proposal) = self.prepared.as_ref().map(|prepared| prepared.proposal.clone()) {
            self.pin(&proposal);
        }
        for vote in votes.into_iter().filter(|vote| of(vote) == place) {
            self.round.add(&vote);
            self.round.own.push(vote);
        }
    }

    /// Keeps the data that a proposal names whatever becomes of the view, until its sequence is
    /// decided.
    fn pin(&mut self, proposal: &Proposal) {
        for (tip, lane) in proposal.cut.iter().zip(&mut self.lanes) {
            lane.pin(*tip);
        }
    }
}
