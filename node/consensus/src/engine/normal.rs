//! The normal case: PRE-PREPARE, PREPARE, COMMIT, EXECUTE, one sequence at a time.

use super::{
    Engine, Execution, MAX_ADVANCE, MAX_AHEAD_MS, Now, Recipient, ViolationKind, Write,
    round::{Proposed, Round, Standing},
};
use crate::{
    decision::{Ballot, Certificate, Phase, Proposal, Record, Vote},
    hash::Hash,
    ids::{NodeId, Sequence},
    message::Message,
    payload::Outcome,
    vertex::{CheckedVertex, Tip},
};
use std::{sync::Arc, time::Duration};

/// Whether a proposal may be voted for.
enum Verdict {
    Vote,
    /// Not yet: data is missing, or its time is ahead of our clock.
    Wait,
    Refuse,
}

impl Engine {
    // ---- PRE-PREPARE

    /// As the leader: proposes the next sequence, if the pace allows and some lane advances. Says whether it did.
    pub(super) fn propose(&mut self, now: Now) -> bool {
        if self.proposal_due(now).is_none_or(|due| due > now.at) {
            return false;
        }
        let proposal = Proposal {
            sequence: self.executed.next(),
            prev: self.chain_hash,
            time_ms: self.proposal_time(now),
            origin_view: self.view,
            cut: self.proposable_cut(),
        };
        let vote = self.sign(Phase::PrePrepare, proposal.sequence, proposal.digest(&self.domain));
        self.round.proposed = Some(Proposed { digest: vote.ballot.digest, proposal: proposal.clone(), vote: vote.clone() });
        self.cast(now, vote.clone(), Some((proposal.clone(), vote.clone())));
        self.send(Recipient::All, Message::PrePrepare { proposal, vote });
        self.last_proposed = Some(now.at);
        true
    }

    /// This node's clock, but never before the previous decision, nor so far ahead that a quorum would wait for its
    /// own clocks: a leader whose clock is wrong must not make a proposal durable that nobody can vote for.
    fn proposal_time(&self, now: Now) -> u64 {
        let aged = |came: Duration| u64::try_from(now.at.saturating_sub(came).as_millis()).unwrap_or(u64::MAX);
        let others = self.peers.iter().filter_map(|peer| peer.status.as_ref());
        let mut clocks: Vec<u64> = others.map(|(status, came)| status.clock_ms.saturating_add(aged(*came))).chain([now.wall_ms]).collect();
        clocks.sort_unstable_by(|a, b| b.cmp(a));
        let allowed = clocks.get(self.quorum.q - 1).map_or(now.wall_ms, |clock| clock.saturating_add(MAX_AHEAD_MS / 2));
        self.time_ms.max(now.wall_ms.min(allowed))
    }

    /// When this node will propose, if it leads, nothing is proposed yet and some lane advances.
    pub(super) fn proposal_due(&self, now: Now) -> Option<Duration> {
        let idle = self.leader() == self.own && self.round.proposed.is_none() && !self.catch_up.has_records();
        let advances =
            || (0..).map(NodeId).zip(&self.lanes).any(|(author, lane)| self.acknowledged_by(author, self.quorum.q) != lane.decided());
        (idle && advances()).then(|| self.last_proposed.map_or(now.at, |last| last + self.timing.pace))
    }

    /// Of each lane the highest vertex that this node holds and a quorum acknowledged, within the bound.
    fn proposable_cut(&self) -> Vec<Tip> {
        let lanes = (0..).map(NodeId).zip(&self.lanes);
        lanes
            .map(|(author, lane)| {
                let tip = self.acknowledged_by(author, self.quorum.q);
                let highest = lane.decided().height.0 + MAX_ADVANCE;
                if tip.height.0 <= highest {
                    return tip;
                }
                lane.above(lane.decided().height).take_while(|v| v.header().height.0 <= highest).last().map_or(lane.decided(), |v| v.tip())
            })
            .collect()
    }

    pub(super) fn receive_proposal(&mut self, from: NodeId, proposal: Proposal, vote: Vote) {
        let ballot = vote.ballot;
        let leads = ballot.phase == Phase::PrePrepare && ballot.view == self.view && ballot.voter == self.leader();
        let belongs = ballot.sequence == proposal.sequence && proposal.cut.len() == self.lanes.len();
        if !leads || !belongs || ballot.digest != proposal.digest(&self.domain) {
            return self.violation(from, ViolationKind::Malformed);
        }
        let quorum = self.quorum.q;
        let Some(round) = self.round_of(proposal.sequence) else { return };
        if round.proposed.as_ref().is_some_and(|p| p.digest == ballot.digest) {
            return;
        }
        let standing = round.standing(Phase::PrePrepare, ballot.voter, ballot.digest, quorum);
        if !self.verifies(&vote) {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        if standing == Standing::Conflicts {
            return self.violation(ballot.voter, ViolationKind::Equivocation);
        }
        if let Some(round) = self.round_of(proposal.sequence) {
            round.add(&vote);
            round.proposed.get_or_insert(Proposed { digest: ballot.digest, proposal, vote });
        }
    }

    // ---- PREPARE

    /// Votes for the leader's proposal, if every rule holds. Says whether it did.
    pub(super) fn prepare(&mut self, now: Now) -> bool {
        let Some(proposed) = &self.round.proposed else { return false };
        if self.own == self.leader() || self.round.prepared().is_some() {
            return false;
        }
        match self.judge(now, &proposed.proposal) {
            Verdict::Wait => false,
            Verdict::Refuse => {
                let leader = self.leader();
                // The slot stays taken: a second proposal for it would be an equivocation.
                self.violation_once(leader);
                false
            }
            Verdict::Vote => {
                let Proposed { proposal, digest, vote } = proposed.clone();
                let prepare = self.sign(Phase::Prepare, proposal.sequence, digest);
                self.cast(now, prepare.clone(), Some((proposal, vote)));
                self.send(Recipient::All, Message::Vote(prepare));
                true
            }
        }
    }

    fn judge(&self, now: Now, proposal: &Proposal) -> Verdict {
        if proposal.prev != self.chain_hash || proposal.origin_view != self.view || proposal.time_ms < self.time_ms {
            return Verdict::Refuse;
        }
        let mut advances = false;
        let mut missing = false;
        for (tip, lane) in proposal.cut.iter().zip(&self.lanes) {
            let decided = lane.decided();
            if *tip == decided {
                continue;
            }
            if tip.height <= decided.height || tip.height.0 > decided.height.0 + MAX_ADVANCE {
                return Verdict::Refuse;
            }
            advances = true;
            missing |= !lane.holds(*tip);
        }
        if !advances {
            return Verdict::Refuse;
        }
        // A clock that was set back does not stop the chain: the previous time is always allowed.
        let early = proposal.time_ms > now.wall_ms + MAX_AHEAD_MS && proposal.time_ms != self.time_ms;
        if missing || early { Verdict::Wait } else { Verdict::Vote }
    }

    fn violation_once(&mut self, node: NodeId) {
        if !std::mem::replace(&mut self.round.refused, true) {
            self.violation(node, ViolationKind::Malformed);
        }
    }

    pub(super) fn receive_vote(&mut self, from: NodeId, vote: &Vote) {
        let Ballot { phase, view, sequence, digest, voter } = vote.ballot;
        // Votes come from their voters: nobody relays them outside certificates.
        if voter != from || phase == Phase::PrePrepare || (phase == Phase::Prepare && voter == self.leader()) {
            return self.violation(from, ViolationKind::Malformed);
        }
        let (own_view, quorum) = (self.view, self.quorum.q);
        let Some(round) = self.round_of(sequence).filter(|_| view == own_view) else { return };
        let standing = round.standing(phase, voter, digest, quorum);
        if standing == Standing::Needless {
            return;
        }
        if !self.verifies(vote) {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        if standing == Standing::Conflicts {
            return self.violation(voter, ViolationKind::Equivocation);
        }
        if let Some(round) = self.round_of(sequence) {
            round.add(vote);
        }
    }

    // ---- COMMIT

    /// Once a quorum prepared what this node prepared: keeps the certificate and votes COMMIT. Says whether it did.
    pub(super) fn commit(&mut self, now: Now) -> bool {
        let Some(digest) = self.round.prepared().filter(|_| !self.round.committed()) else { return false };
        let sequence = self.executed.next();
        let Some(certificate) = self.round.certificate(Phase::Prepare, self.view, sequence, digest, self.leader(), self.quorum.q) else {
            return false;
        };
        self.persist(Write::Prepared(certificate));
        let commit = self.sign(Phase::Commit, sequence, digest);
        self.cast(now, commit.clone(), None);
        self.send(Recipient::All, Message::Vote(commit));
        true
    }

    // ---- EXECUTE

    /// Carries out what a quorum committed, once all its data is here. Says whether it did.
    pub(super) fn execute_decided(&mut self, now: Now) -> bool {
        let Some(digest) = self.round.decided(self.quorum.q) else { return false };
        let Some(proposed) = self.round.proposed.as_ref().filter(|p| p.digest == digest) else { return false };
        let proposal = proposed.proposal.clone();
        if proposal.prev != self.chain_hash {
            self.turn.diverged = Some(format!(
                "a quorum decided sequence {} on top of chain hash {}, but this node's is {}",
                proposal.sequence, proposal.prev, self.chain_hash
            ));
            return false;
        }
        let Some(vertices) = self.order(&proposal) else { return false };
        let certificate = self.round.certificate(Phase::Commit, self.view, proposal.sequence, digest, self.leader(), self.quorum.q);
        self.execute(now, proposal, vertices, certificate);
        true
    }

    /// The vertices that a proposal makes final, in their order: by height above the lane's decided tip, then by lane,
    /// beginning with another one in each sequence. Nothing while some are missing.
    pub(super) fn order(&self, proposal: &Proposal) -> Option<Vec<Arc<CheckedVertex>>> {
        let n = self.lanes.len() as u64;
        let mut ordered = Vec::new();
        for (index, (tip, lane)) in (0_u64..).zip(proposal.cut.iter().zip(&self.lanes)) {
            for (above, vertex) in lane.between(*tip)?.enumerate() {
                ordered.push((above, (index + proposal.sequence.0) % n, Arc::clone(vertex)));
            }
        }
        ordered.sort_by_key(|(above, turn, _)| (*above, *turn));
        Some(ordered.into_iter().map(|(_, _, vertex)| vertex).collect())
    }

    /// Makes a decision final. Its certificate is there, or a later record's proves it.
    pub(super) fn execute(&mut self, now: Now, proposal: Proposal, vertices: Vec<Arc<CheckedVertex>>, certificate: Option<Certificate>) {
        let record = Record { vertices: vertices.iter().map(|v| v.id()).collect(), proposal };
        let (sequence, time_ms) = (record.proposal.sequence, record.proposal.time_ms);
        self.recent.forget_before(time_ms);
        let vertices = vertices
            .into_iter()
            .map(|vertex| {
                let outcomes: Vec<Outcome> =
                    vertex.payloads().map(|(id, payload)| self.recent.execute(id, payload, sequence, time_ms)).collect();
                (vertex, outcomes)
            })
            .collect();
        for (tip, lane) in record.proposal.cut.iter().zip(&mut self.lanes) {
            lane.decide(*tip);
        }
        self.executed = sequence;
        self.time_ms = time_ms;
        self.chain_hash = record.chain_hash(&self.domain);
        self.round = std::mem::take(&mut self.next_round);
        self.round_since = now.at;
        self.catch_up.moved_on();
        let execution = Arc::new(Execution { record, chain_hash: self.chain_hash, certificate, vertices });
        self.persist(Write::Execution(Arc::clone(&execution)));
        self.turn.executions.push(execution);
    }

    // ---- votes

    /// Votes are kept for the next two sequences only.
    fn round_of(&mut self, sequence: Sequence) -> Option<&mut Round> {
        if sequence == self.executed.next() {
            Some(&mut self.round)
        } else if sequence == self.executed.next().next() {
            Some(&mut self.next_round)
        } else {
            None
        }
    }

    fn sign(&self, phase: Phase, sequence: Sequence, digest: Hash) -> Vote {
        let ballot = Ballot { phase, view: self.view, sequence, digest, voter: self.own };
        Vote { ballot, signature: self.signer.sign(&ballot.signing_message(&self.domain)) }
    }

    fn verifies(&self, vote: &Vote) -> bool {
        let message = vote.ballot.signing_message(&self.domain);
        self.keys.get(vote.ballot.voter.lane()).is_some_and(|key| self.verifier.verify(key, &message, &vote.signature))
    }

    /// Counts an own vote and has it written before the turn's messages leave.
    fn cast(&mut self, now: Now, vote: Vote, proposed: Option<(Proposal, Vote)>) {
        self.round.add(&vote);
        self.round.own.push(vote.clone());
        self.round_since = now.at;
        self.persist(Write::Vote { vote, proposed });
    }

    /// After a restart the written votes decide: the same are sent again, never others.
    pub(super) fn recall_votes(&mut self, proposed: Option<(Proposal, Vote)>, votes: Vec<Vote>) {
        let next = self.executed.next();
        if let Some((proposal, vote)) = proposed.filter(|(proposal, _)| proposal.sequence == next) {
            self.round.add(&vote);
            self.round.proposed = Some(Proposed { digest: vote.ballot.digest, proposal, vote });
        }
        for vote in votes.into_iter().filter(|vote| vote.ballot.sequence == next) {
            self.round.add(&vote);
            self.round.own.push(vote);
        }
    }
}
