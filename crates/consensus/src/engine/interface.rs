//! What goes into the engine, what comes out of it, and what it starts from.

use super::{Mark, Reason};
use crate::message::Message;
use cretoai_types::{
    ChainState, CheckedVertex, Checkpoint, CheckpointCertificate, Epoch, Evidence, Genesis, Hash,
    NewView, NodeId, Offence, Opening, Outcome, Payload, Prepared, Proof, Proposal, Record,
    Sequence, SignedReconfig, Signer, Validators, Verifier, View, ViewChange, Vote,
};
use std::{sync::Arc, time::Duration};

/// The two times that the engine is told, and the only ones it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, from any beginning: for intervals.
    pub at: Duration,
    /// Wall clock, Unix milliseconds: for the time of proposals.
    pub wall_ms: u64,
}

/// Local intervals. None needs to be the same on all nodes. Where the network is slower than they
/// expect, they follow it: see [`Timing::over`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timing {
    /// The least time between two proposals of a leader.
    pub pace: Duration,
    /// The least time between two vertices of this node while nothing is being decided.
    pub seal_floor: Duration,
    /// The longest that a payload waits to be sealed.
    pub seal_wait: Duration,
    /// The interval of the heartbeat.
    pub status: Duration,
    /// How long something may be missing before it is asked for or sent again.
    pub patience: Duration,
    /// How long a holder has to bring what it was asked for before the next one is asked.
    pub retry: Duration,
    /// T0: how long a leader may be silent, or leave work undone, before another one is wanted.
    pub timeout: Duration,
    /// How much longer than a silent leader one may take that leaves work undone.
    pub deciding: Duration,
    /// After so long without work the last sequence is checkpointed.
    pub idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self {
            pace: ms(6),
            seal_floor: ms(6),
            seal_wait: ms(20),
            status: ms(50),
            patience: ms(100),
            retry: ms(50),
            timeout: ms(250),
            deciding: Duration::ZERO,
            idle: ms(1_000),
        }
    }
}

/// What a node may hold. Each of these bounds something that a peer or a client can grow.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Undecided vertices held of one lane.
    pub lane: usize,
    /// Own vertices that no quorum has acknowledged yet.
    pub unacknowledged: u64,
    /// Bytes of payloads that wait to be sealed.
    pub pool_bytes: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self { lane: 256, unacknowledged: 32, pool_bytes: 16 << 20 }
    }
}

/// How far above the decided tip a cut may go in one lane.
pub const MAX_ADVANCE: u64 = 64;

/// How far ahead of this node's clock a proposal's time may be, in milliseconds.
pub const MAX_AHEAD_MS: u64 = 1_000;

/// How far behind this node's clock a fresh proposal's time may be, in milliseconds.
pub const MAX_BEHIND_MS: u64 = 10_000;

/// What the engine is made of.
pub struct Config {
    /// The chain.
    pub chain_id: Hash,
    /// The keys that this node has: its own, and while it rotates the next one. Whichever is a
    /// member's signs.
    pub signers: Vec<Arc<dyn Signer>>,
    /// Checks the others' signatures.
    pub verifier: Arc<dyn Verifier>,
    /// Local intervals.
    pub timing: Timing,
    /// Local bounds.
    pub limits: Limits,
    /// What the timeouts' randomness is drawn from. Two nodes should not share one.
    pub seed: u64,
}

/// What a node's store gives back when it starts. [`Recovered::at_genesis`] is an empty one.
#[derive(Clone, Debug)]
pub struct Recovered {
    /// The validators of the newest epoch that was opened here.
    pub validators: Arc<Validators>,
    /// Those of the epoch before; needed in every epoch but the first, or evidence would be judged
    /// otherwise than elsewhere.
    pub previous: Option<Arc<Validators>>,
    /// Those of the next epoch, if the newest sequence ended this one and it is not opened yet.
    pub successor: Option<Arc<Validators>>,
    /// Where the epoch began.
    pub opening: Opening,
    /// What opened it; nothing in epoch 0.
    pub opened_by: Option<Arc<CheckpointCertificate>>,
    /// The state after the newest executed sequence.
    pub state: ChainState,
    /// The newest executed sequence of this epoch whose proof is kept, with its chain hash.
    pub certified: Option<(Sequence, Hash, Proof)>,
    /// Every stored vertex of this epoch at or above the decided tips, by height.
    pub undecided: Vec<Arc<CheckedVertex>>,
    /// The VIEW-CHANGE with which this node entered its view, unless that is the epoch's first.
    pub view_change: Option<Arc<ViewChange>>,
    /// The newest NEW-VIEW that was acted on.
    pub new_view: Option<Arc<NewView>>,
    /// The prepared certificate of the highest view.
    pub prepared: Option<Prepared>,
    /// The proposal that this node voted for last, with the leader's vote.
    pub proposal: Option<(Proposal, Vote)>,
    /// This node's newest PREPARE (or PRE-PREPARE) and COMMIT.
    pub votes: Vec<Vote>,
    /// The newest thing of each kind that this node signed.
    pub mark: Mark,
    /// Somebody showed a signature of this node's that it does not remember: it never signs again
    /// with that key.
    pub stale: bool,
    /// This node's newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The stable checkpoint.
    pub stable: Option<Arc<CheckpointCertificate>>,
    /// Payloads that executed at most [`cretoai_types::REMEMBERED_MS`] before the newest record's time,
    /// also in the epochs before, and whose `valid_until` is not in a second before it.
    pub recent: Vec<Remembered>,
    /// This node's own vertices of older epochs that no sequence decided, by height: what was in
    /// them is sealed anew.
    pub left_behind: Vec<Arc<CheckedVertex>>,
}

/// An executed payload, as it is read back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Remembered {
    /// Whose lane it was in.
    pub author: NodeId,
    /// The payload's id.
    pub id: Hash,
    /// Its `valid_until`, Unix milliseconds.
    pub valid_until_ms: u64,
    /// Where it took effect.
    pub sequence: Sequence,
}

impl Recovered {
    /// The state before the first decision.
    #[must_use]
    pub fn at_genesis(genesis: &Genesis) -> Self {
        let state = ChainState::at_genesis(genesis);
        Self {
            validators: Arc::new(genesis.validators()),
            previous: None,
            successor: None,
            opening: Opening { sequence: Sequence(0), chain_hash: state.chain_hash },
            opened_by: None,
            state,
            certified: None,
            undecided: Vec::new(),
            view_change: None,
            new_view: None,
            prepared: None,
            proposal: None,
            votes: Vec::new(),
            mark: Mark::default(),
            stale: false,
            checkpoint: None,
            stable: None,
            recent: Vec::new(),
            left_behind: Vec::new(),
        }
    }
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message came from a validator of this or another epoch; the channel proved who sent it.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says. Nothing in it is verified yet.
        message: Message,
    },
    /// The channel to a peer is new: what was sent before may be lost.
    Connected(NodeId),
    /// The driver measured how long a message to a peer and the answer to it take.
    RoundTrip {
        /// The peer.
        peer: NodeId,
        /// How long.
        time: Duration,
    },
    /// A client's payload.
    Submit(Payload),
    /// The admin's order to change the validators.
    Reconfigure(Box<SignedReconfig>),
    /// This node is about to stop: if it leads, another one should.
    Resign,
}

/// What must be written before the turn's messages leave.
#[derive(Clone, Debug)]
pub enum Write {
    /// A vertex, before it is sent or acknowledged.
    Vertex(Arc<CheckedVertex>),
    /// A vote, before it is sent; with the proposal and the leader's vote for it, unless it is a
    /// COMMIT.
    Vote {
        /// What this node voted.
        vote: Vote,
        /// What it voted for.
        proposed: Option<(Proposal, Vote)>,
    },
    /// The prepared certificate of the highest view, before the COMMIT.
    Prepared(Prepared),
    /// This node entered a view: from now on it signs nothing below it.
    ViewChange(Arc<ViewChange>),
    /// A view begins, before anything is signed in it.
    NewView(Arc<NewView>),
    /// This node's word for a state, before it is sent.
    Checkpoint(Checkpoint),
    /// A checkpoint is stable and its sequence executed: votes, prepared and commit certificates up
    /// to it may go.
    Stable(Arc<CheckpointCertificate>),
    /// A decision. Needs no fsync of its own: a quorum holds its certificate durably.
    Execution(Arc<Execution>),
    /// What proves an executed sequence, learnt after its execution was written. Before this node
    /// votes on top of it.
    Proof(Sequence, Proof),
    /// The next epoch begins. Its views, votes and undecided vertices start afresh.
    Epoch {
        /// What opens it: the forced checkpoint of the old epoch's last sequence.
        certificate: Arc<CheckpointCertificate>,
        /// Its validators.
        validators: Arc<Validators>,
        /// The state with which it begins.
        state: Box<ChainState>,
    },
    /// The newest thing of each kind that this node signed. In the batch of every signature; never
    /// collected.
    Mark(Mark),
    /// This node's key must never sign again.
    Stale,
}

/// A decision carried out.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The epoch that decided it.
    pub epoch: Epoch,
    /// The record.
    pub record: Record,
    /// The chain hash after it.
    pub chain_hash: Hash,
    /// Its proof, unless it was learnt from a later one.
    pub proof: Option<Proof>,
    /// The vertices that became final, in their order, each with its payloads' outcomes in theirs.
    pub vertices: Vec<(Arc<CheckedVertex>, Vec<Outcome>)>,
    /// The state after it.
    pub state: ChainState,
    /// Evidence in it that counted.
    pub evidence: Vec<(Offence, Evidence)>,
    /// The validators of the next epoch, if it ended its own.
    pub successor: Option<Arc<Validators>>,
}

/// Whom to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Every other validator of the epoch.
    All,
    /// One.
    One(NodeId),
}

/// A rule that a validator was seen to break.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Violation {
    /// Who.
    pub node: NodeId,
    /// What.
    pub kind: ViolationKind,
}

/// The rules that are watched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ViolationKind {
    /// Two signed objects that contradict each other.
    Equivocation,
    /// A signature or certificate that does not verify. Not proof against the signer: counted
    /// against the channel.
    InvalidSignature,
    /// A message that no honest node sends.
    Malformed,
}

/// What a turn leads to. Writes first, then everything else.
#[derive(Debug, Default)]
pub struct Turn {
    /// To be made durable in this order.
    pub writes: Vec<Write>,
    /// Whether the writes need an fsync before the sends. False when only executions are among
    /// them.
    pub sync: bool,
    /// Messages, in order.
    pub sends: Vec<(Recipient, Message)>,
    /// Decisions carried out, in order; clients are to be told.
    pub executions: Vec<Arc<Execution>>,
    /// The validators of an epoch that this turn opened: whom to talk to from now on.
    pub opened: Option<Arc<Validators>>,
    /// The view that this node left, and why. The new one is [`super::Engine::view`].
    pub left: Option<(View, Reason)>,
    /// Submitted payloads that there is no room for.
    pub refused: Vec<Hash>,
    /// Rules that peers broke.
    pub violations: Vec<Violation>,
    /// A proof that this node's chain differs from what a quorum decided: the node must stop.
    pub diverged: Option<String>,
    /// Call [`Engine::end_turn`] again at this time at the latest.
    pub wake: Duration,
}

/// How much an engine holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of payloads that wait to be sealed.
    pub pool_bytes: usize,
    /// Undecided vertices of all lanes.
    pub undecided_vertices: usize,
    /// Vertices beside them: that wait for parents, or of branches that a proposal named.
    pub other_vertices: usize,
    /// Executed payloads that are still valid.
    pub recent_payloads: usize,
    /// System items that wait to be sealed.
    pub waiting_items: usize,
    /// Records that were learnt and wait for their data.
    pub learnt_records: usize,
    /// Votes of the next two sequences.
    pub votes: usize,
}
