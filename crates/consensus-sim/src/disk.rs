//! A node's disk and the store on it. What is written is visible at once and survives a killed
//! process; a power loss keeps only what an fsync covered and any prefix of the batches after it. A
//! batch is whole or not there. Restart and fetches answer as the node's RocksDB store does.

use cretoai_consensus::{
    MAX_FETCHED_VERTICES, MAX_RECORDS, Message,
    engine::{Execution, Mark, Recovered, Remembered, Write},
};
use cretoai_types::{ChainState, Opening};
use cretoai_types::{
    CheckedVertex, Checkpoint, CheckpointCertificate, Epoch, Genesis, Hash, Height, MAX_FRAME,
    NewView, NodeId, Outcome, Phase, Prepared, Proof, Proposal, REMEMBERED_MS, Sequence, Tip,
    Validators, ViewChange, Vote, encode,
};
use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
};

/// The bounds of one answer with vertices, as the node's store has them: what it holds at the most,
/// and what each vertex counts beside its payloads.
const MAX_ANSWER: usize = 4 << 20;
const VERTEX_BYTES: usize = 8_192;

/// How a disk may be broken, to show that the checks notice.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DiskFault {
    /// Reports writes as durable that are not.
    IgnoresFsync,
    /// Gives no prepared certificate back after a restart.
    ForgetsPrepared,
    /// Gives no view back after a restart.
    ForgetsView,
    /// Gives no executed payload back after a restart: the window of ids that guards against a
    /// second execution is empty.
    ForgetsRecentPayloads,
    /// Gives no undecided vertex back after a restart.
    ForgetsVertices,
}

impl DiskFault {
    /// All of them.
    pub const ALL: [Self; 5] = [
        Self::IgnoresFsync,
        Self::ForgetsPrepared,
        Self::ForgetsView,
        Self::ForgetsRecentPayloads,
        Self::ForgetsVertices,
    ];
}

#[derive(Clone, Debug)]
struct Opened {
    validators: Arc<Validators>,
    state: ChainState,
}

#[derive(Clone, Debug, Default)]
struct Content {
    vertices: BTreeMap<(NodeId, Height), Vec<Arc<CheckedVertex>>>,
    proposed: Option<(Proposal, Vote)>,
    prepare: Option<Vote>,
    commit: Option<Vote>,
    prepared: Option<Prepared>,
    view_change: Option<Arc<ViewChange>>,
    new_view: Option<Arc<NewView>>,
    checkpoint: Option<Checkpoint>,
    stable: Option<Arc<CheckpointCertificate>>,
    executions: BTreeMap<Sequence, Arc<Execution>>,
    /// The sequences whose commit certificate is kept.
    committed: BTreeSet<Sequence>,
    /// Commit certificates that came after their decision was written.
    learnt: BTreeMap<Sequence, Proof>,
    checkpoints: BTreeMap<Sequence, Arc<CheckpointCertificate>>,
    /// What ended each epoch.
    ends: BTreeMap<Epoch, Arc<CheckpointCertificate>>,
    opened: BTreeMap<Epoch, Opened>,
    mark: Mark,
    stale: bool,
}

impl Content {
    fn apply(&mut self, write: &Write) {
        match write {
            Write::Vertex(vertex) => {
                let slot = self
                    .vertices
                    .entry((vertex.header().author, vertex.header().height))
                    .or_default();
                if slot.iter().all(|known| known.id() != vertex.id()) {
                    slot.push(Arc::clone(vertex));
                }
            }
            Write::Vote { vote, proposed } => {
                if proposed.is_some() {
                    self.proposed.clone_from(proposed);
                }
                let slot = if vote.ballot.phase == Phase::Commit {
                    &mut self.commit
                } else {
                    &mut self.prepare
                };
                *slot = Some(vote.clone());
            }
            Write::Prepared(prepared) => self.prepared = Some(prepared.clone()),
            Write::ViewChange(change) => self.view_change = Some(Arc::clone(change)),
            Write::NewView(new_view) => self.new_view = Some(Arc::clone(new_view)),
            Write::Checkpoint(checkpoint) => self.checkpoint = Some(checkpoint.clone()),
            Write::Stable(certificate) => self.close(certificate),
            Write::Execution(execution) => {
                let sequence = execution.record.proposal.sequence;
                self.executions.insert(sequence, Arc::clone(execution));
                match &execution.proof {
                    Some(Proof::Commit(_)) => {
                        self.committed.insert(sequence);
                    }
                    Some(Proof::Checkpoint(certificate)) => {
                        self.checkpoints.insert(sequence, Arc::new(certificate.clone()));
                    }
                    None => {}
                }
            }
            Write::Proof(sequence, Proof::Checkpoint(certificate)) => {
                self.checkpoints.insert(*sequence, Arc::new(certificate.clone()));
            }
            Write::Proof(sequence, proof) => {
                self.learnt.insert(*sequence, proof.clone());
            }
            Write::Epoch { certificate, validators, state } => {
                self.ends.insert(certificate.state.epoch, Arc::clone(certificate));
                self.checkpoints.insert(certificate.state.sequence, Arc::clone(certificate));
                self.opened.insert(
                    validators.epoch,
                    Opened { validators: Arc::clone(validators), state: (**state).clone() },
                );
                (self.proposed, self.prepare, self.commit, self.prepared) =
                    (None, None, None, None);
                (self.view_change, self.new_view) = (None, None);
            }
            Write::Mark(mark) => self.mark = *mark,
            Write::Stale => self.stale = true,
        }
    }

    /// A checkpoint is stable: what lies below it goes. Its certificate stays.
    fn close(&mut self, certificate: &Arc<CheckpointCertificate>) {
        let sequence = certificate.state.sequence;
        self.stable = Some(Arc::clone(certificate));
        self.checkpoints.insert(sequence, Arc::clone(certificate));
        self.committed = self.committed.split_off(&sequence.next());
        self.learnt = self.learnt.split_off(&sequence.next());
        if self.proposed.as_ref().is_some_and(|(proposal, _)| proposal.sequence <= sequence) {
            self.proposed = None;
        }
        for slot in [&mut self.prepare, &mut self.commit] {
            if slot.as_ref().is_some_and(|vote| vote.ballot.sequence <= sequence) {
                *slot = None;
            }
        }
        if self.prepared.as_ref().is_some_and(|prepared| prepared.certificate.sequence <= sequence)
        {
            self.prepared = None;
        }
    }

    fn proof(&self, sequence: Sequence) -> Option<Proof> {
        if let Some(certificate) = self.checkpoints.get(&sequence) {
            return Some(Proof::Checkpoint((**certificate).clone()));
        }
        let with_decision = || {
            self.committed
                .contains(&sequence)
                .then(|| self.executions.get(&sequence)?.proof.clone())
                .flatten()
        };
        self.learnt.get(&sequence).cloned().or_else(with_decision)
    }

    fn newest(&self) -> Option<&Arc<Execution>> {
        self.executions.values().next_back()
    }
}

/// One volume. A copy of it is what a backup of the volume holds.
#[derive(Clone, Debug, Default)]
pub struct Disk {
    visible: Content,
    durable: Content,
    pending: Vec<Arc<Vec<Write>>>,
    fault: Option<DiskFault>,
    /// Batches that became durable and that nobody asked for yet.
    fresh: Vec<Arc<Vec<Write>>>,
}

impl Disk {
    /// An empty one.
    #[must_use]
    pub fn new(fault: Option<DiskFault>) -> Self {
        Self { fault, ..Self::default() }
    }

    /// Writes a turn's batch: visible at once, durable after the next [`Self::sync`].
    pub fn write(&mut self, batch: Arc<Vec<Write>>) {
        batch.iter().for_each(|write| self.visible.apply(write));
        self.pending.push(batch);
    }

    /// Makes all that was written durable.
    pub fn sync(&mut self) {
        if self.fault != Some(DiskFault::IgnoresFsync) {
            self.sync_first(usize::MAX);
        }
    }

    fn sync_first(&mut self, batches: usize) {
        for batch in self.pending.drain(..batches.min(self.pending.len())) {
            batch.iter().for_each(|write| self.durable.apply(write));
            self.fresh.push(batch);
        }
    }

    /// What became durable since this was asked last.
    pub fn take_fresh(&mut self) -> Vec<Arc<Vec<Write>>> {
        std::mem::take(&mut self.fresh)
    }

    /// How many batches no fsync covers yet.
    #[must_use]
    pub const fn unsynced(&self) -> usize {
        self.pending.len()
    }

    /// The power fails: of the batches that no fsync covers, `kept` survive.
    pub fn lose_power(&mut self, kept: usize) {
        self.sync_first(kept);
        self.pending.clear();
        self.visible = self.durable.clone();
    }

    /// What a restarted node reads. Opening the store makes durable what it reads.
    pub fn recover(&mut self, genesis: &Genesis, own: NodeId) -> Recovered {
        self.sync();
        let content = &self.visible;
        let mut recovered = Recovered::at_genesis(genesis);
        if let Some((epoch, opened)) = content.opened.last_key_value() {
            let before = Epoch(epoch.0 - 1);
            let genesis_validators = Arc::clone(&recovered.validators);
            recovered.previous = if before == Epoch(0) {
                Some(genesis_validators)
            } else {
                content.opened.get(&before).map(|o| Arc::clone(&o.validators))
            };
            recovered.validators = Arc::clone(&opened.validators);
            recovered.state = opened.state.clone();
            recovered.opening =
                Opening { sequence: opened.state.sequence, chain_hash: opened.state.chain_hash };
            recovered.opened_by = content.ends.get(&before).cloned();
        }
        let epoch = recovered.validators.epoch;
        let of_epoch =
            || content.executions.values().rev().take_while(|execution| execution.epoch == epoch);
        if let Some(newest) = of_epoch().next() {
            recovered.state = newest.state.clone();
            recovered.successor.clone_from(&newest.successor);
        }
        recovered.certified = of_epoch().find_map(|execution| {
            let sequence = execution.record.proposal.sequence;
            Some((sequence, execution.chain_hash, content.proof(sequence)?))
        });
        recovered.view_change =
            content.view_change.clone().filter(|_| self.fault != Some(DiskFault::ForgetsView));
        recovered.new_view =
            content.new_view.clone().filter(|_| self.fault != Some(DiskFault::ForgetsView));
        recovered.prepared =
            content.prepared.clone().filter(|_| self.fault != Some(DiskFault::ForgetsPrepared));
        recovered.proposal.clone_from(&content.proposed);
        recovered.votes =
            [&content.prepare, &content.commit].into_iter().flatten().cloned().collect();
        recovered.mark = content.mark;
        recovered.stale = content.stale;
        recovered.checkpoint.clone_from(&content.checkpoint);
        recovered.stable.clone_from(&content.stable);
        if self.fault != Some(DiskFault::ForgetsVertices) {
            recovered.undecided = Self::undecided(content, &recovered);
            recovered.left_behind = Self::left_behind(content, own, epoch);
        }
        if self.fault != Some(DiskFault::ForgetsRecentPayloads) {
            recovered.recent = Self::recent(content, recovered.state.time_ms);
        }
        recovered
    }

    /// Every branch of every lane at or above its decided tip, by height.
    fn undecided(content: &Content, recovered: &Recovered) -> Vec<Arc<CheckedVertex>> {
        let epoch = recovered.validators.epoch;
        let tips: BTreeMap<NodeId, Tip> =
            recovered.validators.ids().zip(recovered.state.tips.iter().copied()).collect();
        let above = |v: &&Arc<CheckedVertex>| {
            let header = v.header();
            header.epoch == epoch
                && tips
                    .get(&header.author)
                    .is_some_and(|tip| header.height > tip.height || v.tip() == *tip)
        };
        let mut vertices: Vec<_> =
            content.vertices.values().flatten().filter(above).cloned().collect();
        vertices.sort_by_key(|vertex| vertex.header().height);
        vertices
    }

    /// What a node sealed in older epochs and no sequence decided, by height.
    fn left_behind(content: &Content, own: NodeId, epoch: Epoch) -> Vec<Arc<CheckedVertex>> {
        let slots = content.vertices.range((own, Height(0))..=(own, Height(u64::MAX)));
        let older: Vec<_> = slots
            .flat_map(|(_, slot)| slot)
            .filter(|vertex| vertex.header().epoch < epoch)
            .cloned()
            .collect();
        if older.is_empty() {
            return older;
        }
        let decided: BTreeSet<Hash> =
            content.executions.values().flat_map(|e| e.record.vertices.iter().copied()).collect();
        older.into_iter().filter(|vertex| !decided.contains(&vertex.id())).collect()
    }

    fn recent(content: &Content, time_ms: u64) -> Vec<Remembered> {
        let lately = |execution: &&Arc<Execution>| {
            execution.record.proposal.time_ms + REMEMBERED_MS >= time_ms
        };
        let executions = content.executions.values().rev().take_while(lately);
        let vertices = executions.flat_map(|execution| {
            execution.vertices.iter().map(move |(v, outcomes)| (execution, v, outcomes))
        });
        vertices
            .flat_map(|(execution, vertex, outcomes)| {
                let executed = vertex.payloads().zip(outcomes).filter(|((_, payload), outcome)| {
                    **outcome == Outcome::Executed
                        && payload.valid_until_ms / 1_000 >= time_ms / 1_000
                });
                executed.map(move |((id, payload), _)| Remembered {
                    author: vertex.header().author,
                    id,
                    valid_until_ms: payload.valid_until_ms,
                    sequence: execution.record.proposal.sequence,
                })
            })
            .collect()
    }

    // ---- what the checks ask

    /// Whether a vote that leaves now would be known after a power loss: itself, or what made it
    /// needless.
    #[must_use]
    pub fn holds_vote(&self, vote: &Vote) -> bool {
        let content = &self.durable;
        let slot =
            if vote.ballot.phase == Phase::Commit { &content.commit } else { &content.prepare };
        let place = |vote: &Vote| (vote.ballot.epoch, vote.ballot.sequence, vote.ballot.view);
        let decided = content
            .newest()
            .is_some_and(|newest| newest.record.proposal.sequence >= vote.ballot.sequence);
        decided
            || slot
                .as_ref()
                .is_some_and(|known| known.ballot == vote.ballot || place(known) > place(vote))
    }

    /// Whether the prepared certificate of a COMMIT is durable here, or its decision is.
    #[must_use]
    pub fn holds_prepared_of(&self, commit: &Vote) -> bool {
        let content = &self.durable;
        let place = (commit.ballot.view, commit.ballot.sequence, commit.ballot.digest);
        let decided = content
            .newest()
            .is_some_and(|newest| newest.record.proposal.sequence >= commit.ballot.sequence);
        let of = |prepared: &Prepared| {
            (prepared.certificate.view, prepared.certificate.sequence, prepared.certificate.digest)
        };
        decided
            || content.prepared.as_ref().is_some_and(|prepared| {
                of(prepared) == place || prepared.certificate.view > commit.ballot.view
            })
    }

    /// Whether a lane is durable here up to a tip.
    #[must_use]
    pub fn holds_tip(&self, author: NodeId, tip: Tip) -> bool {
        tip == Tip::default() || self.vertex(author, tip).is_some()
    }

    fn vertex(&self, author: NodeId, tip: Tip) -> Option<&Arc<CheckedVertex>> {
        self.durable
            .vertices
            .get(&(author, tip.height))?
            .iter()
            .find(|vertex| vertex.id() == tip.id)
    }

    /// Whether the durable vertices show that `tip` is `ancestor` or stands on it.
    #[must_use]
    pub fn descends(&self, author: NodeId, tip: Tip, ancestor: Tip) -> bool {
        let mut tip = tip;
        while tip.height > ancestor.height {
            let Some(vertex) = self.vertex(author, tip) else { return false };
            tip = Tip { height: Height(tip.height.0 - 1), id: vertex.header().parent };
        }
        tip == ancestor
    }

    /// The durable VIEW-CHANGE.
    #[must_use]
    pub const fn view_change(&self) -> Option<&Arc<ViewChange>> {
        self.durable.view_change.as_ref()
    }

    /// The durable NEW-VIEW.
    #[must_use]
    pub const fn new_view(&self) -> Option<&Arc<NewView>> {
        self.durable.new_view.as_ref()
    }

    /// This node's newest durable checkpoint.
    #[must_use]
    pub const fn checkpoint(&self) -> Option<&Checkpoint> {
        self.durable.checkpoint.as_ref()
    }

    /// The durable mark.
    #[must_use]
    pub const fn mark(&self) -> &Mark {
        &self.durable.mark
    }

    /// The newest epoch that was opened durably.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.durable.opened.last_key_value().map_or(Epoch(0), |(epoch, _)| *epoch)
    }

    /// The decisions above a sequence.
    #[must_use]
    pub fn executions_above(&self, sequence: Sequence) -> Vec<Arc<Execution>> {
        self.visible
            .executions
            .range(sequence.next()..)
            .map(|(_, execution)| Arc::clone(execution))
            .collect()
    }

    /// The chain hash of a decision, if it is here.
    #[must_use]
    pub fn chain_hash(&self, sequence: Sequence) -> Option<Hash> {
        self.visible.executions.get(&sequence).map(|e| e.chain_hash)
    }

    /// The newest decision here.
    #[must_use]
    pub fn newest(&self) -> Sequence {
        self.visible.newest().map_or(Sequence(0), |newest| newest.record.proposal.sequence)
    }

    // ---- what others ask

    /// What the node answers to a fetch, in the order and within the bounds of the node's store.
    #[must_use]
    pub fn answer(&self, request: &Message) -> Vec<Message> {
        match request {
            Message::FetchRecords { epoch, from } => {
                self.records(*epoch, *from).into_iter().collect()
            }
            Message::FetchLane { author, above, up_to } => self.lane(*author, *above, *up_to),
            Message::FetchBranch { author, tip, above } => self.branch(*author, *tip, *above),
            _ => Vec::new(),
        }
    }

    /// Ascending, every vertex of a slot.
    fn lane(&self, author: NodeId, above: Height, up_to: Height) -> Vec<Message> {
        let last = up_to.0.min(above.0.saturating_add(MAX_FETCHED_VERTICES));
        let (mut answer, mut bytes) = (Vec::new(), 0);
        for height in (above.0.saturating_add(1)..=last).map(Height) {
            let Some(slot) = self.visible.vertices.get(&(author, height)) else { break };
            if bytes > MAX_ANSWER {
                break;
            }
            // A store finds the vertices of a slot in the order of their ids.
            let mut slot: Vec<_> = slot.iter().collect();
            slot.sort_by_key(|vertex| vertex.id());
            for vertex in slot {
                bytes += vertex.header().payload_bytes as usize + VERTEX_BYTES;
                answer.push(Message::Fetched(Arc::new(vertex.vertex().clone())));
            }
        }
        answer
    }

    /// From the top down, each the parent of the one before it.
    fn branch(&self, author: NodeId, tip: Tip, above: Height) -> Vec<Message> {
        let (mut answer, mut bytes, mut tip) = (Vec::new(), 0, tip);
        while tip.height > above
            && answer.len() < MAX_FETCHED_VERTICES as usize
            && bytes <= MAX_ANSWER
        {
            let slot = self.visible.vertices.get(&(author, tip.height));
            let Some(vertex) = slot.into_iter().flatten().find(|v| v.id() == tip.id) else { break };
            bytes += vertex.header().payload_bytes as usize + VERTEX_BYTES;
            tip = Tip { height: Height(tip.height.0 - 1), id: vertex.header().parent };
            answer.push(Message::Fetched(Arc::new(vertex.vertex().clone())));
        }
        answer
    }

    /// A record with its proof: the least that is an answer.
    #[must_use]
    pub fn single_record(&self, sequence: Sequence) -> Option<Message> {
        let execution = self.visible.executions.get(&sequence)?;
        let proof = self.visible.proof(sequence)?;
        let records = vec![execution.record.clone()];
        Some(Message::Records { epoch: execution.epoch, records, proof })
    }

    fn records(&self, epoch: Epoch, from: Sequence) -> Option<Message> {
        let content = &self.visible;
        if let Some(end) = content.ends.get(&epoch).filter(|end| end.state.sequence < from) {
            return Some(Message::Stable(Arc::clone(end)));
        }
        let (mut records, mut bytes, mut answer) = (Vec::new(), 0, None);
        for (expected, (sequence, execution)) in
            (from.0..).zip(content.executions.range(from..)).take(MAX_RECORDS)
        {
            if sequence.0 != expected || execution.epoch != epoch {
                break;
            }
            bytes += encode(&execution.record).len();
            records.push(execution.record.clone());
            let Some(proof) = content.proof(*sequence) else { continue };
            if bytes + encode(&proof).len() + 64 > MAX_FRAME {
                break;
            }
            answer = Some((records.len(), proof));
        }
        let (count, proof) = answer?;
        records.truncate(count);
        Some(Message::Records { epoch, records, proof })
    }
}
