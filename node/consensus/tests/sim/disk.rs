//! A node's disk and the store on it. What is written is visible at once and survives a killed process; a power loss
//! keeps only what an fsync covered and any prefix of the batches after it. Restart and fetches answer as the node's
//! RocksDB store does.

use cretoai_consensus::{
    Ballot, Certificate, CheckedVertex, Genesis, Hash, Height, MAX_FETCHED_VERTICES, MAX_FRAME, MAX_RECORDS, Message, NodeId, Outcome,
    Phase, Proposal, Sequence, Tip, VALIDITY_WINDOW_MS, Vote, encode,
    engine::{Execution, Recovered, Write},
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// How a disk or its driver may be broken, to show that the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Reports writes as durable that are not.
    IgnoresFsync,
    /// Gives no vote back after a restart.
    ForgetsVotes,
    /// Gives no executed payload back after a restart: the window of ids that guards against a second execution is empty.
    ForgetsRecentPayloads,
}

#[derive(Clone, Default)]
struct Content {
    vertices: BTreeMap<(NodeId, Height), Vec<Arc<CheckedVertex>>>,
    proposed: Option<(Proposal, Vote)>,
    prepare: Option<Vote>,
    commit: Option<Vote>,
    executions: BTreeMap<Sequence, Arc<Execution>>,
    certificates: BTreeSet<Sequence>,
}

impl Content {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Vertex(vertex) => {
                let slot = self.vertices.entry((vertex.header().author, vertex.header().height)).or_default();
                if slot.iter().all(|known| known.id() != vertex.id()) {
                    slot.push(Arc::clone(vertex));
                }
            }
            Write::Vote { vote, proposed } => {
                if proposed.is_some() {
                    self.proposed.clone_from(proposed);
                }
                let slot = if vote.ballot.phase == Phase::Commit { &mut self.commit } else { &mut self.prepare };
                *slot = Some(vote.clone());
            }
            // Not needed while the view is fixed.
            Write::Prepared(_) => {}
            Write::Execution(execution) => {
                let sequence = execution.record.proposal.sequence;
                self.executions.insert(sequence, Arc::clone(execution));
                if execution.certificate.is_some() {
                    self.certificates.insert(sequence);
                }
                // The newest 256, every 16th, and those of large records stay; here the window is shorter, to be met.
                if let Some(old) = sequence.0.checked_sub(24).map(Sequence)
                    && !old.0.is_multiple_of(16)
                    && self.executions.get(&old).is_none_or(|e| e.record.vertices.len() <= 256)
                    // The end of a range that was learnt has no other proof.
                    && old.0.checked_sub(1).is_none_or(|before| before == 0 || self.executions.get(&Sequence(before)).is_none_or(|e| e.certificate.is_some()))
                {
                    self.certificates.remove(&old);
                }
            }
        }
    }

    fn certificate(&self, sequence: Sequence) -> Option<&Certificate> {
        self.certificates.contains(&sequence).then(|| self.executions.get(&sequence)?.certificate.as_ref()).flatten()
    }
}

#[derive(Default)]
pub struct Disk {
    visible: Content,
    durable: Content,
    pending: Vec<Vec<Write>>,
    fault: Option<DiskFault>,
}

impl Disk {
    pub fn new(fault: Option<DiskFault>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Writes a turn's batch; with `sync`, it and all before it are durable afterwards.
    pub fn write(&mut self, batch: &[Write], sync: bool) {
        batch.iter().for_each(|write| self.visible.apply(write));
        self.pending.push(batch.to_vec());
        if sync && self.fault != Some(DiskFault::IgnoresFsync) {
            self.sync(usize::MAX);
        }
    }

    fn sync(&mut self, batches: usize) {
        for batch in self.pending.drain(..batches.min(self.pending.len())) {
            batch.iter().for_each(|write| self.durable.apply(write));
        }
    }

    /// How many batches no fsync covers yet.
    pub fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// The power fails: of the batches that no fsync covers, `kept` survive.
    pub fn lose_power(&mut self, kept: usize) {
        self.sync(kept);
        self.pending.clear();
        self.visible = self.durable.clone();
    }

    /// What a restarted node reads. Opening the store makes durable what it reads.
    pub fn recover(&mut self, genesis: &Genesis) -> Recovered {
        if self.fault != Some(DiskFault::IgnoresFsync) {
            self.sync(usize::MAX);
        }
        let content = &self.visible;
        let mut recovered = Recovered::at_genesis(genesis);
        if let Some(newest) = content.executions.values().next_back() {
            let proposal = &newest.record.proposal;
            recovered.executed = proposal.sequence;
            recovered.chain_hash = newest.chain_hash;
            recovered.time_ms = proposal.time_ms;
            recovered.tips.clone_from(&proposal.cut);
        }
        let above = |v: &&Arc<CheckedVertex>| v.header().height > recovered.tips[v.header().author.lane()].height;
        recovered.undecided = content.vertices.values().flatten().filter(above).cloned().collect();
        if self.fault != Some(DiskFault::ForgetsVotes) {
            recovered.proposal.clone_from(&content.proposed);
            recovered.votes = [&content.prepare, &content.commit].into_iter().flatten().cloned().collect();
        }
        if self.fault != Some(DiskFault::ForgetsRecentPayloads) {
            for (sequence, execution) in content.executions.iter().rev() {
                if execution.record.proposal.time_ms + VALIDITY_WINDOW_MS < recovered.time_ms {
                    break;
                }
                for (vertex, outcomes) in &execution.vertices {
                    let executed = vertex.payloads().zip(outcomes).filter(|(_, outcome)| **outcome == Outcome::Executed);
                    let valid = executed.filter(|((_, payload), _)| payload.valid_until_ms >= recovered.time_ms);
                    recovered.recent.extend(valid.map(|((id, payload), _)| (id, payload.valid_until_ms, *sequence)));
                }
            }
        }
        recovered
    }

    /// Whether a vote that leaves now would be known after a power loss: itself, or the decision that made it needless.
    pub fn holds_vote(&self, vote: &Vote) -> bool {
        let content = &self.durable;
        let slot = if vote.ballot.phase == Phase::Commit { &content.commit } else { &content.prepare };
        let decided = content.executions.keys().next_back().is_some_and(|newest| *newest >= vote.ballot.sequence);
        decided || slot.as_ref().is_some_and(|known| known.ballot == vote.ballot)
    }

    /// Whether a lane is durable here up to a tip.
    pub fn holds_tip(&self, author: NodeId, tip: Tip) -> bool {
        tip == Tip::default() || self.durable.vertices.get(&(author, tip.height)).is_some_and(|slot| slot.iter().any(|v| v.id() == tip.id))
    }

    /// What the node answers to [`Message::FetchRecords`] and [`Message::FetchLane`].
    pub fn answer(&self, request: &Message) -> Vec<Message> {
        match request {
            Message::FetchRecords { from } => self.records(*from).into_iter().collect(),
            Message::FetchLane { author, above, up_to } => {
                let last = up_to.0.min(above.0.saturating_add(MAX_FETCHED_VERTICES));
                let heights = above.0.saturating_add(1)..=last;
                let slots = heights.map_while(|height| self.visible.vertices.get(&(*author, Height(height))));
                let vertices = slots.flatten().take(MAX_FETCHED_VERTICES as usize);
                vertices.map(|v| Message::Fetched(Arc::new(v.vertex().clone()))).collect()
            }
            _ => Vec::new(),
        }
    }

    fn records(&self, from: Sequence) -> Option<Message> {
        let (mut records, mut bytes, mut answer) = (Vec::new(), 0, None);
        for sequence in (from.0..).map(Sequence).take(MAX_RECORDS) {
            let Some(execution) = self.visible.executions.get(&sequence) else { break };
            bytes += encode(&execution.record).len();
            records.push(execution.record.clone());
            let Some(certificate) = self.visible.certificate(sequence) else { continue };
            if bytes + encode(certificate).len() + 64 > MAX_FRAME {
                break;
            }
            answer = Some((records.len(), certificate.clone()));
        }
        let (count, certificate) = answer?;
        records.truncate(count);
        Some(Message::Records { records, certificate })
    }

    /// Whether the newest COMMIT here is for this digest.
    pub fn committed(&self, sequence: Sequence, digest: Hash) -> bool {
        self.visible.commit.as_ref().is_some_and(|vote| (vote.ballot.sequence, vote.ballot.digest) == (sequence, digest))
    }

    /// The newest PRE-PREPARE or PREPARE here.
    pub fn prepared(&self) -> Option<Ballot> {
        self.durable.prepare.as_ref().map(|vote| vote.ballot)
    }

    /// The decisions above a sequence.
    pub fn executions_above(&self, sequence: Sequence) -> Vec<Arc<Execution>> {
        self.visible.executions.range(sequence.next()..).map(|(_, execution)| Arc::clone(execution)).collect()
    }

    /// The chain hash of a decision, if it is here.
    pub fn chain_hash(&self, sequence: Sequence) -> Option<Hash> {
        self.visible.executions.get(&sequence).map(|e| e.chain_hash)
    }
}
