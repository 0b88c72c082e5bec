//! What must hold after every step, whatever the network, the disks and up to f attackers do. The checks keep a history
//! of their own, across crashes, and never ask an engine what it thinks.

use crate::disk::Disk;
use cretoai_consensus::{
    Ballot, Domain, Hash, Height, Message, NodeId, Outcome, Phase, PublicKey, Quorum, Sequence, Tip, VALIDITY_WINDOW_MS, View,
    engine::{Execution, Violation},
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// A broken rule: its name first, as mutants are recognised by it.
pub type Broken = String;

/// One step of the chain as the first honest node executed it.
struct Step {
    execution: Arc<Execution>,
    by: NodeId,
}

pub struct Checks {
    domain: Domain,
    keys: Vec<PublicKey>,
    quorum: Quorum,
    honest: BTreeSet<NodeId>,
    chain: Vec<Step>,
    tips: Vec<Tip>,
    time_ms: u64,
    chain_hash: Hash,
    /// Where each payload took effect.
    executed: HashMap<Hash, Sequence>,
    /// What honest nodes said in a step: (voter, COMMIT or not, view, sequence) to digest.
    votes: BTreeMap<(NodeId, bool, View, Sequence), Hash>,
    /// Who committed what.
    commits: BTreeMap<(Sequence, Hash), BTreeSet<NodeId>>,
    /// The first vertex that an honest author sent for a height.
    slots: HashMap<(NodeId, Height), Hash>,
}

macro_rules! rule {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}

impl Checks {
    pub fn new(domain: Domain, keys: Vec<PublicKey>, quorum: Quorum, honest: BTreeSet<NodeId>, created_ms: u64) -> Self {
        Self {
            chain_hash: domain.chain_id,
            tips: vec![Tip::default(); keys.len()],
            time_ms: created_ms,
            domain,
            keys,
            quorum,
            honest,
            chain: Vec::new(),
            executed: HashMap::new(),
            votes: BTreeMap::new(),
            commits: BTreeMap::new(),
            slots: HashMap::new(),
        }
    }

    pub fn length(&self) -> Sequence {
        Sequence(self.chain.len() as u64)
    }

    pub fn where_executed(&self, id: &Hash) -> Option<Sequence> {
        self.executed.get(id).copied()
    }

    /// An honest node sends a message: its votes never contradict each other, and what it says rests on its disk.
    pub fn sent(&mut self, node: NodeId, message: &Message, disk: &Disk) -> Result<(), Broken> {
        match message {
            Message::PrePrepare { vote, .. } | Message::Vote(vote) if vote.ballot.voter == node => {
                if let Some(prepared) = disk.prepared() {
                    // Perhaps it died before it could send this one, but stands by it.
                    self.voted(node, prepared)?;
                }
                self.voted(node, vote.ballot)?;
                rule!(disk.holds_vote(vote), "durability: node {node} sent {:?} before it was durable", vote.ballot);
            }
            Message::Acknowledge(tips) => self.acknowledged(node, tips, disk)?,
            Message::Status(status) => {
                self.acknowledged(node, &status.acknowledged, disk)?;
                let known = status.executed == Sequence(0) || disk.chain_hash(status.executed) == Some(status.chain_hash);
                rule!(known, "status: node {node} reports sequence {} that is not on its disk", status.executed);
            }
            Message::Vertex(vertex) if vertex.header.author == node => {
                let (height, id) = (vertex.header.height, vertex.header.id(&self.domain));
                let known = *self.slots.entry((node, height)).or_insert(id);
                rule!(known == id, "fork: honest node {node} made two vertices of height {height}");
                rule!(disk.holds_tip(node, Tip { height, id }), "durability: node {node} sent vertex {height} before it was durable");
            }
            _ => {}
        }
        Ok(())
    }

    fn voted(&mut self, node: NodeId, ballot: Ballot) -> Result<(), Broken> {
        let Ballot { phase, view, sequence, digest, .. } = ballot;
        let commit = phase == Phase::Commit;
        let known = *self.votes.entry((node, commit, view, sequence)).or_insert(digest);
        rule!(known == digest, "votes: honest node {node} voted {known:?} and {digest:?} in {phase:?} of sequence {sequence}");
        if commit {
            let prepared = self.votes.get(&(node, false, view, sequence));
            rule!(prepared == Some(&digest), "votes: node {node} committed {digest:?} in sequence {sequence} and prepared {prepared:?}");
            self.commits.entry((sequence, digest)).or_default().insert(node);
        }
        Ok(())
    }

    fn acknowledged(&self, node: NodeId, tips: &[Tip], disk: &Disk) -> Result<(), Broken> {
        for (author, tip) in (0..).map(NodeId).zip(tips) {
            rule!(
                disk.holds_tip(author, *tip),
                "durability: node {node} acknowledged lane {author} up to {} before it was durable",
                tip.height
            );
        }
        Ok(())
    }

    /// An honest node carried out a decision: it is the one that all carry out, and it is right by itself.
    pub fn executed(&mut self, node: NodeId, execution: &Arc<Execution>, disk: &Disk) -> Result<(), Broken> {
        let sequence = execution.record.proposal.sequence;
        let digest = execution.record.proposal.digest(&self.domain);
        if disk.committed(sequence, digest) {
            // Perhaps it died before it could send this COMMIT, but counted it.
            self.commits.entry((sequence, digest)).or_default().insert(node);
        }
        let Some(index) = sequence.0.checked_sub(1).and_then(|i| usize::try_from(i).ok()) else {
            return Err("agreement: sequence 0 was executed".into());
        };
        if let Some(Step { execution: first, by }) = self.chain.get(index) {
            let same = first.record == execution.record && first.chain_hash == execution.chain_hash;
            rule!(same, "agreement: nodes {by} and {node} executed different records for sequence {sequence}");
            let outcomes = |e: &Execution| e.vertices.iter().map(|(_, outcomes)| outcomes.clone()).collect::<Vec<_>>();
            rule!(outcomes(first) == outcomes(execution), "outcomes: nodes {by} and {node} disagree at sequence {sequence}");
            return Ok(());
        }
        rule!(index == self.chain.len(), "order: node {node} executed {sequence} after {}", self.chain.len());
        self.extend(node, execution)
    }

    fn extend(&mut self, node: NodeId, execution: &Arc<Execution>) -> Result<(), Broken> {
        let proposal = &execution.record.proposal;
        let (sequence, digest) = (proposal.sequence, proposal.digest(&self.domain));
        rule!(proposal.prev == self.chain_hash, "chain: sequence {sequence} does not continue the chain");
        rule!(execution.chain_hash == execution.record.chain_hash(&self.domain), "chain: wrong chain hash at {sequence}");
        rule!(proposal.time_ms >= self.time_ms, "time: sequence {sequence} goes back in time");
        let committed = self.commits.get(&(sequence, digest)).map_or(0, BTreeSet::len);
        let liars = self.keys.len() - self.honest.len();
        rule!(committed + liars >= self.quorum.q, "quorum: only {committed} honest nodes committed sequence {sequence}");
        if let Some(certificate) = &execution.certificate {
            let leader = NodeId((certificate.view.0 % self.keys.len() as u64) as u32);
            let valid = certificate.verify(&self.domain, &self.keys, self.quorum, leader, &crate::crypto::SimVerifier);
            let about = (certificate.sequence, certificate.digest) == (sequence, digest);
            rule!(about && valid.is_ok(), "certificate: that of sequence {sequence} proves nothing: {valid:?}");
        }
        let ids: Vec<Hash> = execution.vertices.iter().map(|(v, _)| v.id()).collect();
        rule!(ids == execution.record.vertices, "record: other vertices than executed at {sequence}");
        self.lanes_grow(execution)?;
        for (vertex, outcomes) in &execution.vertices {
            rule!(vertex.payloads().count() == outcomes.len(), "outcomes: not one for each payload at {sequence}");
            for ((id, payload), outcome) in vertex.payloads().zip(outcomes) {
                let expected = self.outcome(id, payload.valid_until_ms, proposal.time_ms);
                rule!(expected == *outcome, "outcomes: payload {id} at sequence {sequence} is {outcome:?} and should be {expected:?}");
                if *outcome == Outcome::Executed {
                    self.executed.insert(id, sequence);
                }
            }
        }
        self.chain_hash = execution.chain_hash;
        self.time_ms = proposal.time_ms;
        self.chain.push(Step { execution: Arc::clone(execution), by: node });
        Ok(())
    }

    fn outcome(&self, id: Hash, valid_until_ms: u64, time_ms: u64) -> Outcome {
        if time_ms > valid_until_ms {
            Outcome::Expired
        } else if let Some(executed_at) = self.executed.get(&id) {
            Outcome::Duplicate { executed_at: *executed_at }
        } else if valid_until_ms > time_ms + VALIDITY_WINDOW_MS {
            Outcome::Early
        } else {
            Outcome::Executed
        }
    }

    /// Each lane goes on from its decided tip to the cut, vertex by vertex.
    fn lanes_grow(&mut self, execution: &Execution) -> Result<(), Broken> {
        let sequence = execution.record.proposal.sequence;
        for (vertex, _) in &execution.vertices {
            let header = vertex.header();
            let tip = &mut self.tips[header.author.lane()];
            let extends = header.height == tip.height.next() && header.parent == tip.id;
            rule!(extends, "lanes: vertex {} of lane {} at sequence {sequence} does not extend {tip:?}", header.height, header.author);
            *tip = vertex.tip();
        }
        rule!(self.tips == execution.record.proposal.cut, "lanes: the vertices of sequence {sequence} do not end at its cut");
        Ok(())
    }

    /// Nobody honest is ever accused.
    pub fn accused(&self, by: NodeId, violation: Violation) -> Result<(), Broken> {
        let Violation { node, kind } = violation;
        rule!(!self.honest.contains(&node), "accusation: honest node {node} is accused of {kind:?} by {by}");
        Ok(())
    }
}
