//! Attackers. Each runs an honest engine, and what leaves it goes through the strategies that it was given; nothing is
//! signed with another's key. Attackers share what the leader told whom, and vote to each side what it wants to hear.

use crate::{
    crypto::{self, SimKey},
    rng::Rng,
};
use cretoai_consensus::{
    Ballot, CheckedVertex, Domain, Hash, Height, Message, NodeId, Payload, Phase, Sequence, Signature, Signer, Status, Tip, View, Vote,
};
use std::{collections::BTreeMap, sync::Arc};

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Strategy {
    /// Two chains in its lane, each shown to some; now and then from a common vertex, or deeper.
    ForkLane,
    /// Two proposals for a sequence, and votes for both.
    Equivocate,
    /// Votes that are broken, of others, or of another place.
    Forge,
    /// Says nothing for a while.
    Silence,
    /// Shows its vertices to some only and answers no fetches.
    Withhold,
    /// Acknowledges what it does not hold.
    WrongAcknowledgements,
    /// Answers fetches with lies, and sends what nobody asked for.
    ForgeRecords,
    /// Reports an executed sequence, lanes and a clock that are not its own.
    BogusStatus,
}

pub const STRATEGIES: [Strategy; 8] = [
    Strategy::ForkLane,
    Strategy::Equivocate,
    Strategy::Forge,
    Strategy::Silence,
    Strategy::Withhold,
    Strategy::WrongAcknowledgements,
    Strategy::ForgeRecords,
    Strategy::BogusStatus,
];

/// What a Byzantine leader told whom: (sequence, recipient) to digest.
pub type Collusion = BTreeMap<(Sequence, NodeId), Hash>;

pub struct Attacker {
    own: NodeId,
    key: SimKey,
    domain: Domain,
    strategies: Vec<Strategy>,
    /// The second chain of its lane, and who is shown it.
    fork: Option<Tip>,
    shown_fork: Vec<bool>,
    silent_turns: u32,
}

impl Attacker {
    pub fn new(own: NodeId, n: usize, domain: Domain, strategies: Vec<Strategy>, rng: &mut Rng) -> Self {
        let shown_fork = (0..n).map(|_| rng.chance(500)).collect();
        Self { own, key: crypto::member_key(own.lane()), domain, strategies, fork: None, shown_fork, silent_turns: 0 }
    }

    pub fn does(&self, strategy: Strategy) -> bool {
        self.strategies.contains(&strategy)
    }

    pub fn begin_turn(&mut self, rng: &mut Rng) {
        self.silent_turns = self.silent_turns.saturating_sub(1);
        if self.does(Strategy::Silence) && self.silent_turns == 0 && rng.chance(10) {
            self.silent_turns = rng.range(10, 400) as u32;
        }
    }

    /// What goes to `to` in place of an honest message.
    pub fn tamper(&mut self, rng: &mut Rng, collusion: &mut Collusion, to: NodeId, message: Message) -> Vec<Message> {
        if self.silent_turns > 0 {
            return Vec::new();
        }
        match message {
            Message::Vertex(vertex) if vertex.header.author == self.own => self.vertex(rng, to, vertex),
            Message::PrePrepare { proposal, vote } if self.does(Strategy::Equivocate) => {
                let mut proposal = proposal;
                let mut vote = vote;
                if to.0 % 2 == 1 {
                    proposal.time_ms += 1;
                    vote = self.vote(Phase::PrePrepare, vote.ballot.sequence, proposal.digest(&self.domain));
                }
                collusion.insert((proposal.sequence, to), vote.ballot.digest);
                let mut messages = vec![Message::PrePrepare { proposal: proposal.clone(), vote }];
                // And at once all votes for it that this node can give.
                messages.push(Message::Vote(self.vote(Phase::Commit, proposal.sequence, proposal.digest(&self.domain))));
                messages
            }
            Message::Vote(vote) => self.voted(rng, collusion, to, vote),
            Message::Acknowledge(tips) if self.does(Strategy::WrongAcknowledgements) => vec![Message::Acknowledge(self.tips(rng, tips))],
            Message::Status(status) => self.status(rng, status),
            Message::Records { records, certificate } if self.does(Strategy::ForgeRecords) => {
                let (mut records, mut certificate) = (records, certificate);
                match rng.below(6) {
                    0 => records.last_mut().into_iter().for_each(|last| last.vertices.push(crypto::nonsense(rng.next()))),
                    1 => records.truncate(records.len() / 2),
                    2 => records.first_mut().into_iter().for_each(|first| first.proposal.sequence = Sequence(u64::MAX)),
                    3 => certificate.votes.truncate(1),
                    4 => certificate.digest = crypto::nonsense(rng.next()),
                    _ => records.first_mut().into_iter().for_each(|first| first.proposal.prev = crypto::nonsense(rng.next())),
                }
                vec![Message::Records { records, certificate }]
            }
            Message::Records { .. } | Message::Fetched(_) if self.does(Strategy::Withhold) => Vec::new(),
            other => vec![other],
        }
    }

    fn vote(&self, phase: Phase, sequence: Sequence, digest: Hash) -> Vote {
        let ballot = Ballot { phase, view: View(0), sequence, digest, voter: self.own };
        Vote { ballot, signature: self.key.sign(&ballot.signing_message(&self.domain)) }
    }

    fn voted(&self, rng: &mut Rng, collusion: &Collusion, to: NodeId, vote: Vote) -> Vec<Message> {
        let Ballot { phase, sequence, .. } = vote.ballot;
        if self.does(Strategy::Equivocate) {
            if let Some(digest) = collusion.get(&(sequence, to)) {
                let phases = if self.own == NodeId(0) { vec![Phase::Commit] } else { vec![Phase::Prepare, Phase::Commit] };
                return phases.into_iter().map(|phase| Message::Vote(self.vote(phase, sequence, *digest))).collect();
            }
            if rng.chance(300) {
                return vec![Message::Vote(self.vote(phase, sequence, crypto::nonsense(rng.next()))), Message::Vote(vote)];
            }
        }
        if self.does(Strategy::Forge) && rng.chance(300) {
            let mut broken = vote.clone();
            match rng.below(4) {
                0 => broken.signature = Signature(Box::new([7; Signature::SIZE])),
                1 => broken.ballot.voter = NodeId(rng.below(9) as u32),
                2 => broken.ballot.sequence = Sequence(rng.next()),
                _ => broken.ballot.phase = Phase::PrePrepare,
            }
            return vec![Message::Vote(broken), Message::Vote(vote)];
        }
        vec![Message::Vote(vote)]
    }

    fn vertex(&mut self, rng: &mut Rng, to: NodeId, vertex: Arc<cretoai_consensus::Vertex>) -> Vec<Message> {
        if self.does(Strategy::Withhold) && to.0 != 0 && rng.chance(600) {
            return Vec::new();
        }
        if !self.does(Strategy::ForkLane) || !self.shown_fork.get(to.lane()).copied().unwrap_or(false) {
            return vec![Message::Vertex(vertex)];
        }
        let height = vertex.header.height;
        let previous = self.fork.filter(|tip| tip.height.next() == height && !rng.chance(100));
        let previous = previous.unwrap_or(Tip { height: Height(height.0 - 1), id: vertex.header.parent });
        let payload = Payload { key: [9; 16], valid_until_ms: vertex.header.timestamp_ms + 20_000, data: vec![to.0 as u8 % 2, 1] };
        let other = CheckedVertex::seal(&self.domain, &self.key, self.own, previous, Vec::new(), vertex.header.timestamp_ms, vec![payload]);
        self.fork = Some(other.tip());
        vec![Message::Vertex(Arc::new(other.vertex().clone()))]
    }

    fn tips(&self, rng: &mut Rng, mut tips: Vec<Tip>) -> Vec<Tip> {
        match rng.below(4) {
            0 => tips
                .iter_mut()
                .for_each(|tip| *tip = Tip { height: Height(tip.height.0 + rng.below(100)), id: crypto::nonsense(rng.next()) }),
            1 => tips.iter_mut().for_each(|tip| *tip = Tip { height: Height(u64::MAX), id: crypto::nonsense(rng.next()) }),
            2 => tips.truncate(1),
            _ => {}
        }
        tips
    }

    fn status(&self, rng: &mut Rng, mut status: Status) -> Vec<Message> {
        if self.does(Strategy::WrongAcknowledgements) {
            status.acknowledged = self.tips(rng, status.acknowledged);
        }
        if self.does(Strategy::BogusStatus) {
            match rng.below(4) {
                0 => status.executed = Sequence(status.executed.0 + rng.below(50)),
                1 => status.executed = Sequence(u64::MAX),
                2 => status.executed = Sequence(0),
                _ => status.chain_hash = crypto::nonsense(rng.next()),
            }
            status.clock_ms = rng.next();
        }
        let mut messages = vec![Message::Status(status)];
        if self.does(Strategy::ForgeRecords) && rng.chance(100) {
            messages.push(Message::FetchRecords { from: Sequence(rng.next()) });
            messages.push(Message::FetchLane { author: NodeId(rng.below(9) as u32), above: Height(rng.next()), up_to: Height(u64::MAX) });
        }
        messages
    }
}
