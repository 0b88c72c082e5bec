//! The engine: what one validator does, as a pure state machine.
//!
//! It has no clock, thread, socket, disk or randomness. A driver feeds it with [`Engine::handle`], any number of times,
//! and then takes the [`Turn`] that follows with [`Engine::end_turn`]. The rule that makes it safe:
//!
//! > **Everything in [`Turn::writes`] is durable before anything in [`Turn::sends`] leaves.**
//!
//! | part | what it keeps | protocol section |
//! |---|---|---|
//! | `data` | sealing, receiving, acknowledging and fetching vertices | data layer (lanes) |
//! | `normal` | PRE-PREPARE, PREPARE, COMMIT, EXECUTE | normal case |
//! | `repair` | heartbeat, resending, catching up | repair; durability and recovery |

mod data;
mod lane;
mod normal;
mod recent;
mod repair;
mod round;

use crate::{
    crypto::{PublicKey, Signer, Verifier},
    decision::{Certificate, Proposal, Record, Vote},
    domain::Domain,
    genesis::{Genesis, Member},
    hash::Hash,
    ids::{Epoch, NodeId, Sequence, View},
    message::{Message, Status},
    payload::{Outcome, Payload},
    quorum::Quorum,
    vertex::{CheckedVertex, Tip},
};
use lane::Lane;
use recent::RecentIds;
use repair::{CatchUp, Peer};
use round::Round;
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// The two times that the engine is told, and the only ones it knows.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Now {
    /// Monotonic, from any beginning: for intervals.
    pub at: Duration,
    /// Wall clock, Unix milliseconds: for the time of proposals.
    pub wall_ms: u64,
}

/// Local intervals. None needs to be the same on all nodes.
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
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { pace: ms(6), seal_floor: ms(6), seal_wait: ms(20), status: ms(50), patience: ms(100) }
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

/// What the engine is made of.
pub struct Config {
    /// The chain.
    pub genesis: Genesis,
    /// Which validator this is.
    pub own: NodeId,
    /// Its key.
    pub signer: Arc<dyn Signer>,
    /// Checks the others' signatures.
    pub verifier: Arc<dyn Verifier>,
    /// Local intervals.
    pub timing: Timing,
    /// Local bounds.
    pub limits: Limits,
}

/// What a node's store gives back when it starts. [`Recovered::at_genesis`] is an empty one.
#[derive(Clone, Debug, Default)]
pub struct Recovered {
    /// The newest executed sequence.
    pub executed: Sequence,
    /// The chain hash there; at sequence 0 the chain id.
    pub chain_hash: Hash,
    /// The newest decision's time.
    pub time_ms: u64,
    /// The decided tip of every lane.
    pub tips: Vec<Tip>,
    /// Every stored vertex above the decided tips, by height.
    pub undecided: Vec<Arc<CheckedVertex>>,
    /// The proposal of the sequence after the executed one that this node voted for, if it did.
    pub proposal: Option<(Proposal, Vote)>,
    /// This node's votes in that sequence, oldest first.
    pub votes: Vec<Vote>,
    /// Payloads executed within the last minute of chain time: id, `valid_until`, sequence.
    pub recent: Vec<(Hash, u64, Sequence)>,
}

impl Recovered {
    /// The state before the first decision.
    #[must_use]
    pub fn at_genesis(genesis: &Genesis) -> Self {
        Self {
            chain_hash: genesis.chain_id(),
            time_ms: genesis.created_ms,
            tips: vec![Tip::default(); genesis.members.len()],
            ..Self::default()
        }
    }
}

/// What happens to a node.
#[derive(Clone, Debug)]
pub enum Input {
    /// A message came from a validator; the channel proved who sent it.
    Message {
        /// The sender.
        from: NodeId,
        /// What it says. Nothing in it is verified yet.
        message: Message,
    },
    /// The channel to a peer is new: what was sent before may be lost.
    Connected(NodeId),
    /// A client's payload.
    Submit(Payload),
}

/// What must be written before the turn's messages leave.
#[derive(Clone, Debug)]
pub enum Write {
    /// A vertex, before it is sent or acknowledged.
    Vertex(Arc<CheckedVertex>),
    /// A vote, before it is sent; with the proposal and the leader's vote for it, if it is the first for its sequence.
    Vote {
        /// What this node voted.
        vote: Vote,
        /// What it voted for.
        proposed: Option<(Proposal, Vote)>,
    },
    /// The prepared certificate, before the COMMIT.
    Prepared(Certificate),
    /// A decision. Needs no fsync of its own: a quorum holds its certificate durably.
    Execution(Arc<Execution>),
}

/// A decision carried out.
#[derive(Clone, Debug)]
pub struct Execution {
    /// The record.
    pub record: Record,
    /// The chain hash after it.
    pub chain_hash: Hash,
    /// The commit certificate, unless it was learnt from a later one.
    pub certificate: Option<Certificate>,
    /// The vertices that became final, in their order, each with its payloads' outcomes in theirs.
    pub vertices: Vec<(Arc<CheckedVertex>, Vec<Outcome>)>,
}

/// Whom to send to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Recipient {
    /// Every other validator.
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
    /// Two signed objects that contradict each other: vertices of one slot, or votes of one phase.
    Equivocation,
    /// A signature or certificate that does not verify. Not proof against the signer: counted against the channel.
    InvalidSignature,
    /// A message that no honest node sends.
    Malformed,
}

/// What a turn leads to. Writes first, then everything else.
#[derive(Debug, Default)]
pub struct Turn {
    /// To be made durable in this order.
    pub writes: Vec<Write>,
    /// Whether the writes need an fsync before the sends. False when only executions are among them.
    pub sync: bool,
    /// Messages, in order.
    pub sends: Vec<(Recipient, Message)>,
    /// Decisions carried out, in order; clients are to be told.
    pub executions: Vec<Arc<Execution>>,
    /// Submitted payloads that there is no room for.
    pub refused: Vec<Hash>,
    /// Rules that peers broke.
    pub violations: Vec<Violation>,
    /// A proof that this node's chain differs from what a quorum decided: the node must stop.
    pub diverged: Option<String>,
    /// Call [`Engine::end_turn`] again at this time at the latest.
    pub wake: Duration,
}

/// A payload that waits to be sealed.
#[derive(Debug)]
struct Pooled {
    payload: Payload,
    since: Duration,
}

/// One validator.
pub struct Engine {
    domain: Domain,
    members: Vec<Member>,
    keys: Vec<PublicKey>,
    quorum: Quorum,
    own: NodeId,
    signer: Arc<dyn Signer>,
    verifier: Arc<dyn Verifier>,
    timing: Timing,
    limits: Limits,

    view: View,
    executed: Sequence,
    chain_hash: Hash,
    time_ms: u64,
    lanes: Vec<Lane>,
    /// The sequence after the executed one, and the one after that.
    round: Round,
    next_round: Round,
    recent: RecentIds,

    pool: VecDeque<Pooled>,
    pool_bytes: usize,
    last_sealed: Option<Duration>,
    last_proposed: Option<Duration>,
    round_since: Duration,
    last_status: Option<Duration>,
    acknowledged: Vec<Tip>,
    peers: Vec<Peer>,
    catch_up: CatchUp,

    turn: Turn,
}

impl Engine {
    /// Starts from what the store gave back.
    #[must_use]
    pub fn new(config: Config, recovered: Recovered) -> Self {
        let Config { genesis, own, signer, verifier, timing, limits } = config;
        let members = genesis.members();
        let keys = members.iter().map(|m| m.key.clone()).collect();
        let lanes: Vec<Lane> = recovered.tips.iter().map(|tip| Lane::new(*tip)).collect();
        let peers = members.iter().map(|_| Peer::new(members.len())).collect();
        let mut engine = Self {
            domain: Domain { chain_id: genesis.chain_id(), epoch: Epoch(0) },
            quorum: genesis.quorum(),
            catch_up: CatchUp::new(members.len()),
            members,
            keys,
            own,
            signer,
            verifier,
            timing,
            limits,
            view: View(0),
            executed: recovered.executed,
            chain_hash: recovered.chain_hash,
            time_ms: recovered.time_ms,
            lanes,
            round: Round::default(),
            next_round: Round::default(),
            recent: RecentIds::default(),
            pool: VecDeque::new(),
            pool_bytes: 0,
            last_sealed: None,
            last_proposed: None,
            round_since: Duration::ZERO,
            last_status: None,
            acknowledged: Vec::new(),
            peers,
            turn: Turn::default(),
        };
        for (id, valid_until, sequence) in recovered.recent {
            engine.recent.remember(id, valid_until, sequence);
        }
        // The votes first: of a lane that forked, what was voted for is held again.
        engine.recall_votes(recovered.proposal, recovered.votes);
        engine.want_named();
        for vertex in recovered.undecided {
            if let Some(lane) = engine.lanes.get_mut(vertex.header().author.lane()) {
                lane.offer(vertex, usize::MAX);
            }
        }
        engine
    }

    /// Takes in what happened. What follows from it comes with [`Self::end_turn`].
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Message { from, message } if from != self.own && from.lane() < self.members.len() => self.receive(now, from, message),
            Input::Message { from, .. } => self.violation(from, ViolationKind::Malformed),
            Input::Connected(peer) => self.reconnected(peer),
            Input::Submit(payload) => self.submit(now, payload),
        }
    }

    /// Does everything that is due, and returns what it leads to.
    pub fn end_turn(&mut self, now: Now) -> Turn {
        self.settle(now);
        self.seal(now);
        // With one validator a proposal is decided by the vote that makes it.
        while self.propose(now) {
            self.settle(now);
        }
        self.acknowledge();
        self.fetch_missing(now);
        self.heartbeat(now);
        self.turn.wake = self.next_wake(now);
        std::mem::take(&mut self.turn)
    }

    /// Decides as far as possible.
    fn settle(&mut self, now: Now) {
        self.want_named();
        while self.advance(now) {
            self.want_named();
        }
    }

    /// One step of deciding: whichever of execute, COMMIT, PREPARE and catching up is possible.
    fn advance(&mut self, now: Now) -> bool {
        self.execute_decided(now) || self.execute_learnt(now) || self.commit(now) || self.prepare(now)
    }

    fn receive(&mut self, now: Now, from: NodeId, message: Message) {
        match message {
            Message::Vertex(vertex) | Message::Fetched(vertex) => self.receive_vertex(from, Arc::unwrap_or_clone(vertex)),
            Message::Acknowledge(tips) => self.receive_acknowledgement(from, tips),
            Message::PrePrepare { proposal, vote } => self.receive_proposal(from, proposal, vote),
            Message::Vote(vote) => self.receive_vote(from, &vote),
            Message::Status(status) => self.receive_status(now, from, status),
            Message::Records { records, certificate } => self.receive_records(now, from, records, certificate),
            // The driver answers these from the store; they never come this far.
            Message::FetchRecords { .. } | Message::FetchLane { .. } => self.violation(from, ViolationKind::Malformed),
        }
    }

    fn violation(&mut self, node: NodeId, kind: ViolationKind) {
        self.turn.violations.push(Violation { node, kind });
    }

    fn send(&mut self, to: Recipient, message: Message) {
        self.turn.sends.push((to, message));
    }

    fn persist(&mut self, write: Write) {
        self.turn.sync |= !matches!(write, Write::Execution(_));
        self.turn.writes.push(write);
    }

    /// When something is due without any input.
    fn next_wake(&self, now: Now) -> Duration {
        let heartbeat = self.last_status.map_or(now.at, |last| last + self.timing.status);
        [self.seal_due(now), self.proposal_due(now)].into_iter().flatten().fold(heartbeat, Duration::min)
    }

    /// The leader of the current view: a fixed function of epoch and view.
    #[must_use]
    pub fn leader(&self) -> NodeId {
        self.leader_of(self.view)
    }

    /// The current view.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// The newest executed sequence.
    #[must_use]
    pub const fn executed(&self) -> Sequence {
        self.executed
    }

    /// The chain hash at [`Self::executed`].
    #[must_use]
    pub const fn chain_hash(&self) -> Hash {
        self.chain_hash
    }

    /// The newest decision's time, Unix milliseconds.
    #[must_use]
    pub const fn time_ms(&self) -> u64 {
        self.time_ms
    }

    /// The newest status that a peer sent, and when it came.
    #[must_use]
    pub fn peer_status(&self, peer: NodeId) -> Option<&(Status, Duration)> {
        self.peers.get(peer.lane())?.status.as_ref()
    }

    /// How much the engine holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            pool_bytes: self.pool_bytes,
            undecided_vertices: self.lanes.iter().map(Lane::undecided).sum(),
            recent_payloads: self.recent.len(),
        }
    }
}

/// How much an engine holds, for metrics.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Sizes {
    /// Bytes of payloads that wait to be sealed.
    pub pool_bytes: usize,
    /// Undecided vertices of all lanes.
    pub undecided_vertices: usize,
    /// Executed payloads that are still valid.
    pub recent_payloads: usize,
}
