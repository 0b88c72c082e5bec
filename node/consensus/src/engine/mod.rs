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
//! | `normal` | PRE-PREPARE, PREPARE, COMMIT | normal case |
//! | `execute` | EXECUTE, outcomes, system items | normal case; Byzantine detection; reconfiguration |
//! | `election` | `want`, timeouts, terms, entering a view | leader election and view change |
//! | `view_change` | VIEW-CHANGE, NEW-VIEW, what a new view begins with | leader election and view change |
//! | `checkpoints` | signing, collecting, closing what lies below | durability and recovery |
//! | `epochs` | the end of an epoch and the beginning of the next | reconfiguration |
//! | `standing` | whether this node may sign: members, learners, stale volumes | durability and recovery |
//! | `evidence` | pairs that contradict each other, on their way into a vertex | Byzantine detection |
//! | `repair` | heartbeat, resending | repair |
//! | `catch_up` | learning records that prove themselves | repair; durability and recovery |

mod catch_up;
mod checkpoints;
mod data;
mod election;
mod epochs;
mod evidence;
mod execute;
mod lane;
mod normal;
mod peer;
mod random;
mod recent;
mod repair;
mod round;
mod standing;
mod view_change;

use crate::mutants::mutant;
use crate::{
    checkpoint::{Checkpoint, CheckpointCertificate},
    crypto::{Signer, Verifier},
    decision::{Phase, Proposal, Record, Vote},
    domain::Domain,
    evidence::{Evidence, Offence},
    genesis::Genesis,
    hash::Hash,
    ids::{Epoch, NodeId, Sequence, View},
    message::{Message, Status},
    payload::{Outcome, Payload},
    quorum::Quorum,
    reconfig::SignedReconfig,
    state::ChainState,
    validators::Validators,
    vertex::{CheckedVertex, Item, Tip},
    view::{Choice, NewView, Opening, Prepared, Proof, ViewChange},
};
use catch_up::CatchUp;
use checkpoints::Checkpoints;
use election::Election;
use lane::Lane;
use peer::Peer;
use random::Random;
use recent::RecentIds;
use round::Round;
use standing::Standing;
pub use standing::{Mark, Role};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

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
    /// T0: how long a leader may be silent, or leave work undone, before another one is wanted.
    pub timeout: Duration,
    /// After so long without work the last sequence is checkpointed.
    pub idle: Duration,
}

impl Default for Timing {
    fn default() -> Self {
        let ms = Duration::from_millis;
        Self { pace: ms(6), seal_floor: ms(6), seal_wait: ms(20), status: ms(50), patience: ms(100), timeout: ms(250), idle: ms(1_000) }
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

/// System items that wait to be sealed. More evidence than counts for every member.
const MAX_ITEMS_WAITING: usize = 64;

/// What the engine is made of.
pub struct Config {
    /// The chain.
    pub chain_id: Hash,
    /// The keys that this node has: its own, and while it rotates the next one. Whichever is a member's signs.
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
    /// Those of the epoch before; needed in every epoch but the first, or evidence would be judged otherwise than elsewhere.
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
    /// Somebody showed a signature of this node's that it does not remember: it never signs again with that key.
    pub stale: bool,
    /// This node's newest checkpoint.
    pub checkpoint: Option<Checkpoint>,
    /// The stable checkpoint.
    pub stable: Option<Arc<CheckpointCertificate>>,
    /// Payloads executed within the last minute of chain time, also of the epochs before: id, `valid_until`, sequence.
    pub recent: Vec<(Hash, u64, Sequence)>,
}

impl Recovered {
    /// The state before the first decision.
    #[must_use]
    pub fn at_genesis(genesis: &Genesis) -> Self {
        let state = ChainState::at_genesis(genesis);
        Self {
            validators: Arc::new(Validators::of_genesis(genesis)),
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
    /// A vote, before it is sent; with the proposal and the leader's vote for it, unless it is a COMMIT.
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
    /// A checkpoint is stable and its sequence executed: votes, prepared and commit certificates up to it may go.
    Stable(Arc<CheckpointCertificate>),
    /// A decision. Needs no fsync of its own: a quorum holds its certificate durably.
    Execution(Arc<Execution>),
    /// What proves an executed sequence, learnt after its execution was written. Before this node votes on top of it.
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
    /// The newest thing of each kind that this node signed. In the batch of every signature; never collected.
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
    /// The validators of an epoch that this turn opened: whom to talk to from now on.
    pub opened: Option<Arc<Validators>>,
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

/// One node: a validator, or a learner that follows.
pub struct Engine {
    chain_id: Hash,
    signers: Vec<Arc<dyn Signer>>,
    verifier: Arc<dyn Verifier>,
    timing: Timing,
    limits: Limits,
    random: Random,

    // ---- the epoch
    validators: Arc<Validators>,
    previous: Option<Arc<Validators>>,
    /// The next epoch's, once this one has ended.
    successor: Option<Arc<Validators>>,
    opening: Opening,
    opened_by: Option<Arc<CheckpointCertificate>>,
    /// This node's id and key, if it is a member of the epoch.
    own: Option<(NodeId, Arc<dyn Signer>)>,
    standing: Standing,
    mark: Mark,
    /// The mark as it was written last.
    written_mark: Mark,

    // ---- the chain
    state: ChainState,
    /// The newest executed sequence of the epoch that this node can prove, its chain hash and the proof (none at the
    /// opening). Only from here on does it vote.
    certified: (Sequence, Hash, Option<Proof>),
    /// The newest chain hashes, oldest first.
    hashes: VecDeque<(Sequence, Hash)>,
    recent: RecentIds,

    // ---- the view
    view: View,
    active: bool,
    /// What NEW-VIEW of this view chose.
    choice: Option<Choice>,
    view_change: Option<Arc<ViewChange>>,
    new_view: Option<Arc<NewView>>,
    election: Election,

    // ---- the sequence after the executed one, and the one after that
    round: Round,
    next_round: Round,
    /// What came for a later view: of each peer and step the newest.
    early: BTreeMap<(NodeId, Phase), (View, Message)>,
    /// The prepared certificate of the highest view, of the sequence after [`Self::certified`].
    prepared: Option<Prepared>,

    // ---- data
    lanes: Vec<Lane>,
    pool: VecDeque<Pooled>,
    pool_bytes: usize,
    items: VecDeque<Item>,
    /// What evidence in undecided own vertices is about.
    sealed: BTreeSet<Offence>,
    last_sealed: Option<Duration>,
    /// An epoch has begun: one vertex, empty if need be, proves that it works.
    seal_empty: bool,
    acknowledged: Vec<Tip>,

    // ---- others
    peers: Vec<Peer>,
    /// Who reports which sequence, also of other epochs.
    reported: BTreeMap<NodeId, Sequence>,
    /// Who was shown the end of its epoch, and when.
    shown: BTreeMap<NodeId, Duration>,
    catch_up: CatchUp,
    checkpoints: Checkpoints,

    last_proposed: Option<Duration>,
    round_since: Duration,
    last_executed: Duration,
    last_status: Option<Duration>,
    /// Something in the Status changed that others wait for.
    status_due: bool,

    turn: Turn,
}

impl Engine {
    /// Starts from what the store gave back.
    #[must_use]
    pub fn new(config: Config, recovered: Recovered) -> Self {
        let Config { chain_id, signers, verifier, timing, limits, seed } = config;
        let Recovered { validators, previous, successor, opening, opened_by, state, certified, undecided, .. } = recovered;
        let (view_change, new_view, prepared) = (recovered.view_change, recovered.new_view, recovered.prepared);
        let own = standing::own_key(&validators, &signers);
        let n = validators.members.len();
        let mut engine = Self {
            chain_id,
            verifier,
            timing,
            limits,
            random: Random::new(seed),
            standing: Standing::at_start(recovered.stale),
            mark: recovered.mark,
            written_mark: recovered.mark,
            certified: (opening.sequence, opening.chain_hash, None),
            hashes: VecDeque::new(),
            recent: RecentIds::default(),
            view: View(0),
            active: true,
            choice: None,
            view_change: None,
            new_view: None,
            election: Election::default(),
            round: Round::default(),
            next_round: Round::default(),
            early: BTreeMap::new(),
            prepared: None,
            lanes: state.tips.iter().map(|tip| Lane::new(*tip)).collect(),
            pool: VecDeque::new(),
            pool_bytes: 0,
            items: VecDeque::new(),
            sealed: BTreeSet::new(),
            last_sealed: None,
            seal_empty: false,
            acknowledged: Vec::new(),
            peers: (0..n).map(|_| Peer::new(n)).collect(),
            reported: BTreeMap::new(),
            shown: BTreeMap::new(),
            catch_up: CatchUp::new(n),
            checkpoints: Checkpoints::new(n, recovered.checkpoint, recovered.stable),
            last_proposed: None,
            round_since: Duration::ZERO,
            last_executed: Duration::ZERO,
            last_status: None,
            status_due: false,
            turn: Turn::default(),
            signers,
            validators,
            previous,
            successor,
            opening,
            opened_by,
            own,
            state,
        };
        let stable = engine.checkpoints.stable.clone().filter(|stable| stable.state.epoch == engine.validators.epoch);
        let stable = stable.map(|stable| (stable.state.sequence, stable.state.chain_hash, Proof::Checkpoint(stable.as_ref().clone())));
        let proven = [certified, stable].into_iter().flatten().filter(|(sequence, ..)| *sequence > engine.opening.sequence);
        if let Some((sequence, chain_hash, proof)) = proven.max_by_key(|(sequence, ..)| *sequence) {
            engine.certified = (sequence, chain_hash, Some(proof));
        }
        engine.count_own_checkpoint();
        for (id, valid_until, sequence) in recovered.recent {
            engine.recent.remember(id, valid_until, sequence);
        }
        engine.recall_view(view_change, new_view, prepared);
        // The votes first: of a lane that forked, what was voted for is held again.
        engine.recall_votes(recovered.proposal, recovered.votes);
        engine.want_named();
        for vertex in undecided {
            if let Some(lane) = engine.position(vertex.header().author).and_then(|position| engine.lanes.get_mut(position)) {
                if vertex.tip() == lane.decided() {
                    lane.recall_decided(vertex);
                } else {
                    lane.offer(vertex, usize::MAX);
                }
            }
        }
        engine.begin_standing();
        engine
    }

    /// Takes in what happened. What follows from it comes with [`Self::end_turn`].
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Message { from, message } if Some(from) != self.own_id() => self.receive(now, from, message),
            Input::Message { from, .. } => self.violation(from, ViolationKind::Malformed),
            Input::Connected(peer) => self.reconnected(peer),
            Input::Submit(payload) => self.submit(now, payload),
            Input::Reconfigure(order) => self.take_item(Item::Reconfig(order)),
            Input::Resign => self.election.resign(),
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
        self.learn(now);
        self.heartbeat(now);
        self.write_mark();
        self.turn.wake = self.next_wake(now);
        std::mem::take(&mut self.turn)
    }

    /// Goes as far as possible: deciding, changing views, closing checkpoints, opening epochs.
    fn settle(&mut self, now: Now) {
        self.want_named();
        while self.advance(now) {
            self.want_named();
        }
    }

    fn advance(&mut self, now: Now) -> bool {
        self.execute_decided(now)
            || self.execute_learnt(now)
            || self.commit(now)
            || self.prepare(now)
            || self.checkpoint(now)
            || self.stabilise()
            || self.open_epoch(now)
            || self.elect(now)
            || self.begin_view(now)
    }

    fn receive(&mut self, now: Now, from: NodeId, message: Message) {
        match message {
            // What proves itself may come from anyone.
            Message::Fetched(vertex) => self.receive_vertex(from, Arc::unwrap_or_clone(vertex), true),
            Message::Records { epoch, records, proof } => self.receive_records(now, from, epoch, records, proof),
            Message::Stable(certificate) => self.receive_stable(now, from, certificate),
            Message::Status(status) => self.receive_status(now, from, status),
            Message::Recalled(recalled) => self.receive_recalled(from, *recalled),
            // Everything else is between members of one epoch. Who is in another one is told so by Status.
            message if self.position(from).is_some() => self.receive_from_member(now, from, message),
            _ => {}
        }
    }

    fn receive_from_member(&mut self, now: Now, from: NodeId, message: Message) {
        if self.validators.leader(self.view) == from {
            self.election.heard_leader(now);
        }
        match message {
            Message::Vertex(vertex) => self.receive_vertex(from, Arc::unwrap_or_clone(vertex), false),
            Message::Acknowledge { epoch, tips } => self.receive_acknowledgement(from, epoch, tips),
            Message::PrePrepare { proposal, vote } => self.receive_proposal(now, from, proposal, vote),
            Message::Vote(vote) => self.receive_vote(from, &vote),
            Message::ViewChange(change) => self.receive_view_change(from, change),
            Message::NewView(new_view) => self.receive_new_view(now, from, new_view),
            Message::Checkpoint(checkpoint) => self.receive_checkpoint(from, checkpoint),
            Message::Recall => self.answer_recall(now, from),
            // The driver answers these from the store; they never come this far. The others were taken above.
            Message::FetchRecords { .. } | Message::FetchLane { .. } => self.violation(from, ViolationKind::Malformed),
            Message::Status(_) | Message::Fetched(_) | Message::Records { .. } | Message::Stable(_) | Message::Recalled(_) => {}
        }
    }

    fn violation(&mut self, node: NodeId, kind: ViolationKind) {
        self.turn.violations.push(Violation { node, kind });
    }

    fn send(&mut self, to: Recipient, message: Message) {
        self.turn.sends.push((to, message));
    }

    fn persist(&mut self, write: Write) {
        let needs_no_sync =
            matches!(write, Write::Execution(_)) || (mutant!(VoteBeforeDurable) && matches!(write, Write::Vote { .. } | Write::Mark(_)));
        self.turn.sync |= !needs_no_sync;
        self.turn.writes.push(write);
    }

    /// When something is due without any input.
    fn next_wake(&self, now: Now) -> Duration {
        let heartbeat = self.last_status.map_or(now.at, |last| last + self.timing.status);
        let due = [self.seal_due(now), self.proposal_due(now), self.election_due(now)];
        due.into_iter().flatten().fold(heartbeat, Duration::min)
    }

    // ---- who is who

    fn domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, epoch: self.validators.epoch }
    }

    fn quorum(&self) -> Quorum {
        let mut quorum = self.validators.quorum();
        if mutant!(QuorumOffByOne) {
            quorum.q -= 1;
        }
        if mutant!(WeakQuorumTooSmall) {
            quorum.w = quorum.f + 1;
        }
        quorum
    }

    fn position(&self, id: NodeId) -> Option<usize> {
        self.validators.position(id)
    }

    fn own_id(&self) -> Option<NodeId> {
        self.own.as_ref().map(|(id, _)| *id)
    }

    fn own_position(&self) -> Option<usize> {
        self.position(self.own_id()?)
    }

    /// The leader of the current view.
    #[must_use]
    pub fn leader(&self) -> NodeId {
        let leader = self.validators.leader(self.view);
        let accuses = |item: &Item| matches!(item, Item::Evidence(e) if e.offence().is_some_and(|offence| offence.accused == leader));
        if mutant!(LeaderFromLocalBans) && self.items.iter().any(accuses) {
            return self.validators.leader(self.view.next());
        }
        leader
    }

    fn leads(&self) -> bool {
        self.own_id() == Some(self.leader())
    }

    // ---- what a driver may look at

    /// The validators of the current epoch.
    #[must_use]
    pub const fn validators(&self) -> &Arc<Validators> {
        &self.validators
    }

    /// The current epoch.
    #[must_use]
    pub fn epoch(&self) -> Epoch {
        self.validators.epoch
    }

    /// The view that this node entered last.
    #[must_use]
    pub const fn view(&self) -> View {
        self.view
    }

    /// Whether that view has begun.
    #[must_use]
    pub const fn is_active(&self) -> bool {
        self.active
    }

    /// The view that this node is in or ready to go to.
    #[must_use]
    pub const fn want(&self) -> View {
        self.election.want
    }

    /// The newest executed sequence.
    #[must_use]
    pub const fn executed(&self) -> Sequence {
        self.state.sequence
    }

    /// The chain hash at [`Self::executed`].
    #[must_use]
    pub const fn chain_hash(&self) -> Hash {
        self.state.chain_hash
    }

    /// The newest decision's time, Unix milliseconds.
    #[must_use]
    pub const fn time_ms(&self) -> u64 {
        self.state.time_ms
    }

    /// The state after the newest executed sequence: reputation, bans and all else that follows from the chain.
    #[must_use]
    pub const fn state(&self) -> &ChainState {
        &self.state
    }

    /// The sequence of the stable checkpoint.
    #[must_use]
    pub fn stable(&self) -> Sequence {
        self.checkpoints.stable_sequence()
    }

    /// The newest status that a peer sent, and when it came.
    #[must_use]
    pub fn peer_status(&self, peer: NodeId) -> Option<&(Status, Duration)> {
        self.peers.get(self.position(peer)?)?.status.as_ref()
    }

    /// How much the engine holds.
    #[must_use]
    pub fn sizes(&self) -> Sizes {
        Sizes {
            pool_bytes: self.pool_bytes,
            undecided_vertices: self.lanes.iter().map(Lane::undecided).sum(),
            other_vertices: self.lanes.iter().map(Lane::beside).sum(),
            recent_payloads: self.recent.len(),
            waiting_items: self.items.len(),
            learnt_records: self.catch_up.len(),
            votes: self.round.len() + self.next_round.len(),
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
