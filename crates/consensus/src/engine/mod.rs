//! The engine: what one validator does, as a pure state machine.
//!
//! It has no clock, thread, socket, disk or randomness. A driver feeds it with [`Engine::handle`],
//! any number of times, and then takes the [`Turn`] that follows with [`Engine::end_turn`]. The
//! rule that makes it safe:
//!
//! > **Everything in [`Turn::writes`] is durable before anything in [`Turn::sends`] leaves.**
//!
//! | part | what it keeps | protocol section |
//! |---|---|---|
//! | `interface` | what goes in and what comes out | |
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
mod interface;
mod lane;
mod normal;
mod peer;
mod random;
mod recent;
mod repair;
mod round;
mod round_trips;
mod standing;
mod view_change;

use crate::message::{Message, Status};
use catch_up::CatchUp;
use checkpoints::Checkpoints;
use cretoai_types::{
    ChainState, CheckpointCertificate, Choice, Domain, Epoch, Hash, Item, NewView, NodeId, Offence,
    Opening, Payload, Phase, Prepared, Proof, Quorum, Sequence, Signer, Tip, Validators, Verifier,
    View, ViewChange, mutants::mutant,
};
use election::Election;
pub use election::Reason;
pub use interface::{
    Config, Execution, Input, Limits, MAX_ADVANCE, MAX_AHEAD_MS, MAX_BEHIND_MS, Now, Recipient,
    Recovered, Remembered, Sizes, Timing, Turn, Violation, ViolationKind, Write,
};
use lane::Lane;
use peer::Peer;
use random::Random;
use recent::RecentIds;
use round::Round;
use round_trips::RoundTrips;
use standing::Standing;
pub use standing::{Mark, Role};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
    time::Duration,
};

/// System items that wait to be sealed. More evidence than counts for every member.
const MAX_ITEMS_WAITING: usize = 64;

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
    /// The configured intervals.
    floors: Timing,
    /// The intervals in force: the configured ones, stretched by the network.
    timing: Timing,
    round_trips: RoundTrips,
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
    /// The newest executed sequence of the epoch that this node can prove, its chain hash and the
    /// proof (none at the opening). Only from here on does it vote.
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
        let Recovered {
            validators,
            previous,
            successor,
            opening,
            opened_by,
            state,
            certified,
            undecided,
            ..
        } = recovered;
        let (view_change, new_view, prepared) =
            (recovered.view_change, recovered.new_view, recovered.prepared);
        let own = standing::own_key(&validators, &signers);
        let n = validators.members.len();
        let mut engine = Self {
            chain_id,
            verifier,
            floors: timing,
            timing,
            round_trips: RoundTrips::default(),
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
        let stable = engine
            .checkpoints
            .stable
            .clone()
            .filter(|stable| stable.state.epoch == engine.validators.epoch);
        let stable = stable.map(|stable| {
            (
                stable.state.sequence,
                stable.state.chain_hash,
                Proof::Checkpoint(stable.as_ref().clone()),
            )
        });
        let proven = [certified, stable]
            .into_iter()
            .flatten()
            .filter(|(sequence, ..)| *sequence > engine.opening.sequence);
        if let Some((sequence, chain_hash, proof)) = proven.max_by_key(|(sequence, ..)| *sequence) {
            engine.certified = (sequence, chain_hash, Some(proof));
        }
        engine.count_own_checkpoint();
        for Remembered { author, id, valid_until_ms, sequence } in recovered.recent {
            engine.recent.remember(author, id, valid_until_ms, sequence);
        }
        engine.recent.forget_before(engine.state.time_ms);
        engine.recall_view(view_change, new_view, prepared);
        // The votes first: of a lane that forked, what was voted for is held again.
        engine.recall_votes(recovered.proposal, recovered.votes);
        engine.want_named();
        engine.recall_named_branches(&undecided);
        for vertex in undecided {
            if let Some(lane) = engine
                .position(vertex.header().author)
                .and_then(|position| engine.lanes.get_mut(position))
            {
                if vertex.tip() == lane.decided() {
                    lane.recall_decided(vertex);
                } else {
                    lane.offer(vertex, usize::MAX);
                }
            }
        }
        engine.take_back(Duration::ZERO, &recovered.left_behind);
        engine.begin_standing();
        engine
    }

    /// Takes in what happened. What follows from it comes with [`Self::end_turn`].
    pub fn handle(&mut self, now: Now, input: Input) {
        match input {
            Input::Message { from, message } if Some(from) != self.own_id() => {
                self.receive(now, from, message)
            }
            Input::Message { from, .. } => self.violation(from, ViolationKind::Malformed),
            Input::Connected(peer) => self.reconnected(peer),
            Input::RoundTrip { peer, time } => self.measured(peer, time),
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
            Message::Fetched(vertex) => {
                self.receive_vertex(from, Arc::unwrap_or_clone(vertex), true)
            }
            Message::Records { epoch, records, proof } => {
                self.receive_records(now, from, epoch, records, proof)
            }
            Message::Stable(certificate) => self.receive_stable(now, from, certificate),
            Message::Status(status) => self.receive_status(now, from, status),
            Message::Recalled(recalled) => self.receive_recalled(from, *recalled),
            // Everything else is between members of one epoch. Who is in another one is told so by
            // Status.
            message if self.position(from).is_some() => {
                self.receive_from_member(now, from, message)
            }
            _ => {}
        }
    }

    fn receive_from_member(&mut self, now: Now, from: NodeId, message: Message) {
        if self.validators.leader(self.view) == from {
            self.election.heard_leader(now);
        }
        match message {
            Message::Vertex(vertex) => {
                self.receive_vertex(from, Arc::unwrap_or_clone(vertex), false)
            }
            Message::Acknowledge { epoch, tips } => self.receive_acknowledgement(from, epoch, tips),
            Message::PrePrepare { proposal, vote } => {
                self.receive_proposal(now, from, proposal, vote)
            }
            Message::Vote(vote) => self.receive_vote(from, &vote),
            Message::ViewChange(change) => self.receive_view_change(from, change),
            Message::NewView(new_view) => self.receive_new_view(now, from, new_view),
            Message::Checkpoint(checkpoint) => self.receive_checkpoint(from, checkpoint),
            Message::Recall => self.answer_recall(now, from),
            // The driver answers these from the store; they never come this far. The others were
            // taken above.
            Message::FetchRecords { .. }
            | Message::FetchLane { .. }
            | Message::FetchBranch { .. } => self.violation(from, ViolationKind::Malformed),
            Message::Status(_)
            | Message::Fetched(_)
            | Message::Records { .. }
            | Message::Stable(_)
            | Message::Recalled(_) => {}
        }
    }

    fn violation(&mut self, node: NodeId, kind: ViolationKind) {
        self.turn.violations.push(Violation { node, kind });
    }

    fn send(&mut self, to: Recipient, message: Message) {
        self.turn.sends.push((to, message));
    }

    fn persist(&mut self, write: Write) {
        let needs_no_sync = matches!(write, Write::Execution(_))
            || (mutant!(VoteBeforeDurable) && matches!(write, Write::Vote { .. } | Write::Mark(_)));
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

    /// The state after the newest executed sequence: reputation, bans and all else that follows
    /// from the chain.
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
