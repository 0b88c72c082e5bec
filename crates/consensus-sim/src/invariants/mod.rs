//! What must hold after every step, whatever the network, the disks and up to f attackers do. The
//! checks keep a history of their own, across crashes, and never ask an engine what it thinks.
//!
//! | part | what it looks at |
//! |---|---|
//! | this one | the chain: what honest nodes execute |
//! | `signed` | what honest nodes write and send |

mod signed;

use crate::crypto::SimVerifier;
use cretoai_consensus::engine::{Execution, Sizes, Violation};
use cretoai_types::{
    Domain, Epoch, Genesis, Hash, Height, NodeId, Opening, Outcome, Phase, Proof, Sequence, Tip,
    VALIDITY_WINDOW_MS, Validators, View,
};
use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

/// A broken rule: its name first, as mutants are recognised by it.
pub type Broken = String;

macro_rules! rule {
    ($holds:expr, $($text:tt)*) => {
        if !$holds {
            return Err(format!($($text)*));
        }
    };
}
use rule;

/// One step of the chain as the first honest node executed it.
struct Step {
    execution: Arc<Execution>,
    by: NodeId,
}

/// Who committed one digest in one view of an epoch.
type Commits = HashMap<(Epoch, Sequence, Hash), BTreeMap<View, BTreeSet<NodeId>>>;

/// The history against which everything is checked.
pub struct Checks {
    chain_id: Hash,
    epochs: BTreeMap<Epoch, Arc<Validators>>,
    openings: BTreeMap<Epoch, Opening>,
    attackers: BTreeSet<NodeId>,
    /// Nodes whose volume was restored from an older copy, and the first epoch in which they have a
    /// new key.
    suspects: BTreeMap<NodeId, Option<Epoch>>,
    chain: Vec<Step>,
    tips: BTreeMap<NodeId, Tip>,
    time_ms: u64,
    chain_hash: Hash,
    /// Where each payload took effect.
    executed: HashMap<Hash, Sequence>,
    /// How many payloads of each lane took effect, by the second until which they are valid.
    alive: BTreeMap<(NodeId, u64), u64>,
    commits: Commits,
    signed: signed::Signed,
}

impl Checks {
    /// At the beginning of a chain.
    #[must_use]
    pub fn new(genesis: &Genesis, attackers: BTreeSet<NodeId>) -> Self {
        let (chain_id, validators) = (genesis.chain_id(), genesis.validators());
        Self {
            chain_id,
            chain_hash: chain_id,
            tips: validators.ids().map(|id| (id, Tip::default())).collect(),
            epochs: BTreeMap::from([(Epoch(0), Arc::new(validators))]),
            openings: BTreeMap::from([(
                Epoch(0),
                Opening { sequence: Sequence(0), chain_hash: chain_id },
            )]),
            attackers,
            suspects: BTreeMap::new(),
            chain: Vec::new(),
            time_ms: genesis.created_ms,
            executed: HashMap::new(),
            alive: BTreeMap::new(),
            commits: Commits::new(),
            signed: signed::Signed::default(),
        }
    }

    /// The newest sequence that an honest node executed.
    #[must_use]
    pub fn length(&self) -> Sequence {
        Sequence(self.chain.len() as u64)
    }

    /// The chain hash after it.
    #[must_use]
    pub const fn chain_hash(&self) -> Hash {
        self.chain_hash
    }

    /// The chain hash after a sequence.
    #[must_use]
    pub fn chain_hash_at(&self, sequence: Sequence) -> Option<Hash> {
        let Some(index) = sequence.0.checked_sub(1) else { return Some(self.chain_id) };
        Some(self.chain.get(usize::try_from(index).ok()?)?.execution.chain_hash)
    }

    /// The newest decision's time, Unix milliseconds.
    #[must_use]
    pub const fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The validators that decide the next sequence.
    #[must_use]
    pub fn validators(&self) -> Option<&Arc<Validators>> {
        self.epochs.values().next_back()
    }

    /// The epoch that decides the next sequence.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.epochs.keys().next_back().copied().unwrap_or_default()
    }

    /// The highest view that gave a record, and so much for every epoch before.
    #[must_use]
    pub fn views(&self) -> u64 {
        let mut highest: BTreeMap<Epoch, u64> = BTreeMap::new();
        for step in &self.chain {
            let view = highest.entry(step.execution.epoch).or_default();
            *view = (*view).max(step.execution.record.proposal.origin_view.0);
        }
        highest.values().sum()
    }

    /// Where a payload took effect.
    #[must_use]
    pub fn where_executed(&self, id: &Hash) -> Option<Sequence> {
        self.executed.get(id).copied()
    }

    /// A volume was restored from an older copy: until its key is replaced the node may contradict
    /// itself.
    pub fn suspect(&mut self, node: NodeId, until: Option<Epoch>) {
        self.suspects.insert(node, until);
    }

    fn is_honest(&self, node: NodeId, epoch: Epoch) -> bool {
        let suspect =
            self.suspects.get(&node).is_some_and(|until| until.is_none_or(|until| epoch < until));
        !suspect && !self.attackers.contains(&node)
    }

    fn liars(&self, validators: &Validators) -> usize {
        validators.ids().filter(|id| !self.is_honest(*id, validators.epoch)).count()
    }

    /// An honest node carried out a decision: it is the one that all carry out, and it is right by
    /// itself.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn executed(&mut self, node: NodeId, execution: &Arc<Execution>) -> Result<(), Broken> {
        let sequence = execution.record.proposal.sequence;
        self.is_proven(execution)?;
        let Some(index) = sequence.0.checked_sub(1).and_then(|i| usize::try_from(i).ok()) else {
            return Err("agreement: sequence 0 was executed".into());
        };
        if let Some(Step { execution: first, by }) = self.chain.get(index) {
            let same = (first.epoch, &first.record, first.chain_hash)
                == (execution.epoch, &execution.record, execution.chain_hash);
            rule!(
                same,
                "agreement: nodes {by} and {node} executed different records for sequence {sequence}"
            );
            let outcomes = |e: &Execution| {
                e.vertices.iter().map(|(_, outcomes)| outcomes.clone()).collect::<Vec<_>>()
            };
            rule!(
                outcomes(first) == outcomes(execution),
                "outcomes: nodes {by} and {node} disagree at sequence {sequence}"
            );
            rule!(
                first.state == execution.state,
                "state: nodes {by} and {node} disagree at sequence {sequence}"
            );
            rule!(
                first.successor == execution.successor,
                "epochs: nodes {by} and {node} disagree at sequence {sequence}"
            );
            return Ok(());
        }
        rule!(
            index == self.chain.len(),
            "order: node {node} executed {sequence} after {}",
            self.chain.len()
        );
        self.extend(node, execution)
    }

    /// A proof of it proves it.
    fn is_proven(&self, execution: &Execution) -> Result<(), Broken> {
        let sequence = execution.record.proposal.sequence;
        let Some(validators) = self.epochs.get(&execution.epoch) else {
            return Err(format!(
                "epochs: sequence {sequence} was decided by epoch {}, which nothing opened",
                execution.epoch
            ));
        };
        let Some(proof) = &execution.proof else { return Ok(()) };
        let digest = execution
            .record
            .proposal
            .digest(&Domain { chain_id: self.chain_id, epoch: execution.epoch });
        let about = match proof {
            Proof::Commit(certificate) => {
                (certificate.phase, certificate.sequence, certificate.digest)
                    == (Phase::Commit, sequence, digest)
            }
            Proof::Checkpoint(certificate) => {
                (certificate.state.sequence, certificate.state.chain_hash)
                    == (sequence, execution.chain_hash)
            }
        };
        let valid = proof.verify(self.chain_id, validators, &SimVerifier);
        rule!(
            about && valid.is_ok(),
            "certificate: that of sequence {sequence} proves nothing: {valid:?}"
        );
        Ok(())
    }

    fn extend(&mut self, node: NodeId, execution: &Arc<Execution>) -> Result<(), Broken> {
        let proposal = &execution.record.proposal;
        let epoch = execution.epoch;
        let domain = Domain { chain_id: self.chain_id, epoch };
        let (sequence, digest) = (proposal.sequence, proposal.digest(&domain));
        rule!(
            epoch == self.epoch(),
            "epochs: sequence {sequence} was decided by epoch {epoch}, which had ended"
        );
        rule!(
            proposal.prev == self.chain_hash,
            "chain: sequence {sequence} does not continue the chain"
        );
        rule!(
            execution.chain_hash == execution.record.chain_hash(&domain),
            "chain: wrong chain hash at {sequence}"
        );
        rule!(proposal.time_ms >= self.time_ms, "time: sequence {sequence} goes back in time");
        self.is_committed(sequence, digest)?;
        let ids: Vec<Hash> = execution.vertices.iter().map(|(v, _)| v.id()).collect();
        rule!(
            ids == execution.record.vertices,
            "record: other vertices than executed at {sequence}"
        );
        self.lanes_grow(execution)?;
        self.payloads_execute_once(execution)?;
        for (offence, _) in &execution.evidence {
            let honest = self.is_honest(offence.accused, offence.epoch);
            rule!(
                !honest,
                "accusation: evidence against honest node {} counts at {sequence}: {:?}",
                offence.accused,
                offence.kind
            );
        }
        self.chain_hash = execution.chain_hash;
        self.time_ms = proposal.time_ms;
        if let Some(next) = &execution.successor {
            rule!(next.epoch == epoch.next(), "epochs: epoch {} follows {epoch}", next.epoch);
            self.tips = next
                .ids()
                .map(|id| (id, self.tips.get(&id).copied().unwrap_or_default()))
                .collect();
            self.openings
                .insert(next.epoch, Opening { sequence, chain_hash: execution.chain_hash });
            self.epochs.insert(next.epoch, Arc::clone(next));
        }
        self.chain.push(Step { execution: Arc::clone(execution), by: node });
        Ok(())
    }

    /// In some view a quorum committed it, as far as the honest go.
    fn is_committed(&self, sequence: Sequence, digest: Hash) -> Result<(), Broken> {
        let Some(validators) = self.validators() else { return Ok(()) };
        let by_view = self.commits.get(&(validators.epoch, sequence, digest));
        let committed =
            by_view.into_iter().flatten().map(|(_, nodes)| nodes.len()).max().unwrap_or(0);
        let q = validators.quorum().q;
        rule!(
            committed + self.liars(validators) >= q,
            "quorum: only {committed} honest nodes committed sequence {sequence}"
        );
        Ok(())
    }

    fn payloads_execute_once(&mut self, execution: &Execution) -> Result<(), Broken> {
        let Record { sequence, time_ms } = Record::of(execution);
        for (vertex, outcomes) in &execution.vertices {
            rule!(
                vertex.payloads().count() == outcomes.len(),
                "outcomes: not one for each payload at {sequence}"
            );
            for ((id, payload), outcome) in vertex.payloads().zip(outcomes) {
                rule!(
                    id == payload.id(self.chain_id),
                    "outcomes: payload at sequence {sequence} is known by an id that is not its own"
                );
                let expected =
                    self.outcome(vertex.header().author, id, payload.valid_until_ms, time_ms);
                rule!(
                    expected == *outcome,
                    "outcomes: payload {id} at sequence {sequence} is {outcome:?} and should be {expected:?}"
                );
                if *outcome == Outcome::Executed {
                    self.executed.insert(id, sequence);
                    *self
                        .alive
                        .entry((vertex.header().author, payload.valid_until_ms / 1000))
                        .or_default() += 1;
                }
            }
        }
        Ok(())
    }

    fn outcome(&self, author: NodeId, id: Hash, valid_until_ms: u64, time_ms: u64) -> Outcome {
        let crowd: u64 = self
            .alive
            .range((author, time_ms / 1000)..=(author, u64::MAX))
            .map(|(_, count)| count)
            .sum();
        if time_ms > valid_until_ms {
            Outcome::Expired
        } else if let Some(executed_at) = self.executed.get(&id) {
            Outcome::Duplicate { executed_at: *executed_at }
        } else if valid_until_ms > time_ms + VALIDITY_WINDOW_MS {
            Outcome::Early
        } else if self.validators().is_some_and(|validators| crowd >= validators.payload_share()) {
            Outcome::Crowded
        } else {
            Outcome::Executed
        }
    }

    /// Each lane goes on from its decided tip to the cut, vertex by vertex, all of this epoch.
    fn lanes_grow(&mut self, execution: &Execution) -> Result<(), Broken> {
        let sequence = execution.record.proposal.sequence;
        cut_is_bounded(execution)?;
        for (vertex, _) in &execution.vertices {
            let header = vertex.header();
            let Some(tip) = self.tips.get_mut(&header.author) else {
                return Err(format!(
                    "lanes: a vertex of {}, who is no validator, at sequence {sequence}",
                    header.author
                ));
            };
            let extends = header.height == tip.height.next()
                && header.parent == tip.id
                && header.epoch == execution.epoch;
            rule!(
                extends,
                "lanes: vertex {} of lane {} at sequence {sequence} does not extend {tip:?}",
                header.height,
                header.author
            );
            *tip = vertex.tip();
        }
        let cut = self.tips.values().copied();
        rule!(
            cut.eq(execution.record.proposal.cut.iter().copied()),
            "lanes: the vertices of sequence {sequence} do not end at its cut"
        );
        Ok(())
    }

    /// Nobody honest is ever accused.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn accused(&self, by: NodeId, epoch: Epoch, violation: Violation) -> Result<(), Broken> {
        let Violation { node, kind } = violation;
        rule!(
            !self.is_honest(node, epoch),
            "accusation: honest node {node} is accused of {kind:?} by {by}"
        );
        Ok(())
    }

    /// No engine holds more than it may.
    ///
    /// # Errors
    /// The rule that is broken.
    pub fn bounds(
        &self,
        node: NodeId,
        sizes: Sizes,
        validators: &Validators,
    ) -> Result<(), Broken> {
        let limits = crate::machine::LIMITS;
        let members = validators.members.len();
        let remembered = validators.parameters.recent_payloads as usize;
        let beside = 64 + 4 * 64 + 2 * 64;
        let held = sizes.pool_bytes <= 2 * limits.pool_bytes
            && sizes.undecided_vertices <= (limits.lane + 64) * members
            && sizes.other_vertices <= beside * members
            // Those of the last minute: lanes that went may have used up their shares, too.
            && sizes.recent_payloads <= 2 * remembered
            && sizes.waiting_items <= 64
            && sizes.learnt_records <= cretoai_consensus::MAX_RECORDS
            && sizes.votes <= 4 * members;
        rule!(held, "bounds: node {node} of {members} holds {sizes:?}");
        Ok(())
    }
}

/// What one lane may add in a single decision: as much as an answer to a fetch brings, and a
/// bounded amount of work for everyone.
const MOST_OF_A_LANE: (usize, usize) = (4 << 20, 4_096);

fn cut_is_bounded(execution: &Execution) -> Result<(), Broken> {
    let sequence = execution.record.proposal.sequence;
    let mut lanes: BTreeMap<NodeId, (usize, usize)> = BTreeMap::new();
    for (vertex, outcomes) in &execution.vertices {
        let (bytes, payloads) = lanes.entry(vertex.header().author).or_default();
        *bytes += vertex.weight();
        *payloads += outcomes.len();
    }
    for (author, (bytes, payloads)) in lanes {
        rule!(
            bytes <= MOST_OF_A_LANE.0 && payloads <= MOST_OF_A_LANE.1,
            "cut: lane {author} adds {bytes} bytes and {payloads} payloads at sequence {sequence}"
        );
    }
    Ok(())
}

/// The two numbers of a record that most checks need.
struct Record {
    sequence: Sequence,
    time_ms: u64,
}

impl Record {
    const fn of(execution: &Execution) -> Self {
        let proposal = &execution.record.proposal;
        Self { sequence: proposal.sequence, time_ms: proposal.time_ms }
    }
}

/// A slot of a lane.
type Slot = (Epoch, NodeId, Height);
