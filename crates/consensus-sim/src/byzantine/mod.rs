//! Attackers. Each runs an honest engine, and what leaves it goes through the strategies that it
//! was given; nothing is signed with another's key. Attackers share what the leader told whom, and
//! vote to each side what it wants to hear.
//!
//! | part | lies about |
//! |---|---|
//! | `votes` | proposals, votes, acknowledgements, status |
//! | `views` | VIEW-CHANGE, NEW-VIEW, checkpoints, what others signed |
//! | `data` | vertices, evidence, catch-up |
//! | `hoard` | what its lane holds, until a cut names it |
//! | `delay` | nothing: it tells the truth too late, too slowly or to too few |
//! | `noise` | replays, garbage, floods, other chains and epochs |

mod data;
mod delay;
mod hoard;
mod noise;
mod views;
mod votes;

use crate::{crypto::SimKey, rng::Rng};
use cretoai_consensus::Message;
use cretoai_types::{
    Ballot, Domain, Epoch, Evidence, Hash, Height, NodeId, Phase, Sequence, SignedHeader, Signer,
    Tip, Validators, View, ViewChange, Vote,
};
use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    sync::Arc,
};

macro_rules! strategies {
    ($($(#[$doc:meta])* $name:ident,)*) => {
        /// One way to lie.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Strategy {
            $($(#[$doc])* $name,)*
        }

        /// All of them.
        pub const STRATEGIES: &[Strategy] = &[$(Strategy::$name,)*];
    };
}

strategies! {
    /// Two chains in its lane, each shown to some; now and then from a common vertex, or deeper.
    ForkLane,
    /// Two proposals for a sequence, and votes for both.
    Equivocate,
    /// Votes for other digests beside its own.
    ConflictingVotes,
    /// Votes that are broken, of others, or of another place.
    ForgeVotes,
    /// Proposals that no rule allows.
    BadProposals,
    /// Says nothing for a while.
    Silence,
    /// Is as slow as one can be without being replaced.
    Sluggish,
    /// Shows its vertices to some only and answers no fetches.
    Withhold,
    /// Sends nothing at all to some.
    Selective,
    /// VIEW-CHANGEs that hide what it knows.
    HidePrepared,
    /// NEW-VIEWs that choose wrongly, others to others.
    LieNewView,
    /// Checkpoints of states that are not.
    FalseCheckpoints,
    /// Says that others signed what they did not.
    LyingRecall,
    /// Wants other views, and says that it is elsewhere.
    WrongWants,
    /// Reports an executed sequence, lanes and a clock that are not its own.
    BogusStatus,
    /// Acknowledges what it does not hold.
    WrongAcknowledgements,
    /// Answers fetches with lies, and sends what nobody asked for.
    ForgeRecords,
    /// Evidence that should make an honest node look bad.
    Frame,
    /// Sends old messages again.
    Replay,
    /// Bursts of messages.
    Flood,
    /// Messages with broken bytes.
    Garbage,
    /// Messages of another chain or epoch.
    OtherDomain,
    /// As leader it names more of its lane than anyone was shown or can fetch, and feeds it to just
    /// enough members, the newest vertex first.
    FeedTopDown,
    /// The same with a second branch, after the first one was shown to all.
    HeavyForks,
    /// As leader it names thousands of payloads of one byte.
    TinyPayloads,
    /// Shows its lane to some members at a rate at which they never catch up.
    Trickle,
    /// Proposes the time of the decision before, for as long as it leads.
    FreezeTime,
    /// Proposes as late as it can without being replaced.
    SlowLeader,
    /// Streams single records to whoever is behind, unasked.
    PushRecords,
    /// Votes for the running decision with signatures that do not verify.
    FloodInvalid,
    /// As leader it keeps silent towards two members, and tells one of them that it leaves.
    Exile,
}

impl Strategy {
    /// Whether only named scenes play it. Such a strategy makes gigabytes of messages or vertices in
    /// some random runs, more than a run of thousands of seeds has room for.
    #[must_use]
    pub const fn is_of_scenes(self) -> bool {
        matches!(
            self,
            Self::FeedTopDown
                | Self::HeavyForks
                | Self::TinyPayloads
                | Self::Trickle
                | Self::FreezeTime
                | Self::SlowLeader
                | Self::PushRecords
                | Self::FloodInvalid
                | Self::Exile
        )
    }
}

/// What attackers know together.
#[derive(Default)]
pub struct Collusion {
    /// What a leader told whom: (view, sequence, recipient) to digest.
    told: BTreeMap<(View, Sequence, NodeId), Hash>,
}

/// Where an attacker is.
pub struct Situation<'a> {
    /// Its epoch's validators.
    pub validators: &'a Validators,
    /// Its keys.
    pub keys: &'a [SimKey],
    /// What it executed.
    pub executed: Sequence,
    /// Its wall clock.
    pub wall_ms: u64,
    /// Its view.
    pub view: View,
    /// The time of the newest decision.
    pub chain_ms: u64,
    /// Microseconds since the beginning of the run.
    pub now: u64,
}

impl Situation<'_> {
    fn leader(&self) -> NodeId {
        self.validators.leader(self.view)
    }
}

/// So many messages are remembered for replays.
const MEMORY: usize = 64;

/// A machine that lies.
pub struct Attacker {
    own: NodeId,
    chain_id: Hash,
    strategies: BTreeSet<Strategy>,
    /// The second chain of its lane.
    fork: Option<Tip>,
    /// What stands in for which of its vertices where that chain is shown.
    stand_ins: BTreeMap<(Epoch, Height), Arc<cretoai_types::Vertex>>,
    /// To whom it shows another face: the second chain, the other proposal, nothing.
    other_face: BTreeSet<NodeId>,
    silent_turns: u32,
    memory: VecDeque<Message>,
    /// VIEW-CHANGEs of others, of their highest view.
    view_changes: BTreeMap<NodeId, Arc<ViewChange>>,
    /// Who was told that this view may begin with anything.
    freed: BTreeSet<(View, NodeId)>,
    /// A vertex header of each slot, and pairs of different epochs.
    headers: BTreeMap<(NodeId, Height), SignedHeader>,
    frames: VecDeque<Evidence>,
    votes_seen: VecDeque<Vote>,
    hoard: Option<hoard::Hoard>,
    hoards_made: u32,
    /// The time that it proposes for a sequence of a view.
    frozen: Option<(View, Sequence, u64)>,
    /// When the next vertex goes to a member that gets them slowly.
    trickles: BTreeMap<NodeId, u64>,
}

impl Attacker {
    /// One with these strategies.
    #[must_use]
    pub fn new(
        own: NodeId,
        n: usize,
        chain_id: Hash,
        strategies: impl IntoIterator<Item = Strategy>,
        rng: &mut Rng,
    ) -> Self {
        Self {
            own,
            chain_id,
            strategies: strategies.into_iter().collect(),
            fork: None,
            stand_ins: BTreeMap::new(),
            other_face: (0..n as u32).map(NodeId).filter(|_| rng.chance(500)).collect(),
            silent_turns: 0,
            memory: VecDeque::new(),
            view_changes: BTreeMap::new(),
            freed: BTreeSet::new(),
            headers: BTreeMap::new(),
            frames: VecDeque::new(),
            votes_seen: VecDeque::new(),
            hoard: None,
            hoards_made: 0,
            frozen: None,
            trickles: BTreeMap::new(),
        }
    }

    /// Whether it follows a strategy.
    #[must_use]
    pub fn does(&self, strategy: Strategy) -> bool {
        self.strategies.contains(&strategy)
    }

    /// Before each of its turns.
    pub fn begin_turn(&mut self, rng: &mut Rng) {
        self.silent_turns = self.silent_turns.saturating_sub(1);
        if self.does(Strategy::Silence) && self.silent_turns == 0 && rng.chance(10) {
            self.silent_turns = rng.range(10, 400) as u32;
        }
    }

    /// What it hears.
    pub fn hear(&mut self, rng: &mut Rng, message: &Message) {
        if self.does(Strategy::Replay) && rng.chance(50) {
            self.remember(message);
        }
        match message {
            Message::ViewChange(change) => {
                let newest =
                    self.view_changes.entry(change.head.node).or_insert_with(|| Arc::clone(change));
                if (newest.head.epoch, newest.head.view) < (change.head.epoch, change.head.view) {
                    *newest = Arc::clone(change);
                }
            }
            Message::Vertex(vertex) if self.does(Strategy::Frame) => {
                self.hear_header(SignedHeader {
                    header: vertex.header.clone(),
                    signature: vertex.signature.clone(),
                });
            }
            Message::Vote(vote) if self.does(Strategy::Frame) && rng.chance(100) => {
                if self.votes_seen.len() >= 8 {
                    self.votes_seen.pop_front();
                }
                self.votes_seen.push_back(vote.clone());
            }
            _ => {}
        }
    }

    fn remember(&mut self, message: &Message) {
        if self.memory.len() >= MEMORY {
            self.memory.pop_front();
        }
        self.memory.push_back(message.clone());
    }

    /// What goes to `to` in place of an honest message, and how many microseconds later.
    pub fn tamper(
        &mut self,
        rng: &mut Rng,
        collusion: &mut Collusion,
        situation: &Situation<'_>,
        to: NodeId,
        message: Message,
    ) -> Vec<(u64, Message)> {
        if self.silent_turns > 0
            || (self.does(Strategy::Selective) && self.other_face.contains(&to))
        {
            return Vec::new();
        }
        if self.does(Strategy::Replay) && rng.chance(50) {
            self.remember(&message);
        }
        let Some(message) = self.exiles(situation, to, message) else { return Vec::new() };
        let message = match message {
            Message::PrePrepare { proposal, vote } if self.hoards() => {
                return self.name_hoard(collusion, situation, to, proposal, vote);
            }
            Message::Vertex(vertex) | Message::Fetched(vertex)
                if self.hoards() && vertex.header.author == self.own =>
            {
                return Vec::new();
            }
            other => other,
        };
        let delayed = self.delay(situation, to, &message);
        let mut messages = match message {
            Message::Vertex(vertex) if vertex.header.author == self.own => {
                self.vertex(rng, situation, to, &vertex)
            }
            Message::PrePrepare { proposal, vote } => {
                self.proposal(rng, collusion, situation, to, proposal, vote)
            }
            Message::Vote(vote) => self.voted(rng, collusion, situation, to, vote),
            Message::Acknowledge { epoch, tips } if self.does(Strategy::WrongAcknowledgements) => {
                vec![Message::Acknowledge { epoch, tips: wrong_tips(rng, tips) }]
            }
            Message::Status(status) => self.status(rng, status),
            Message::ViewChange(change) if self.does(Strategy::HidePrepared) => {
                self.view_change(rng, situation, &change)
            }
            Message::NewView(new_view) if self.does(Strategy::LieNewView) => {
                self.new_view(rng, situation, to, &new_view)
            }
            Message::Checkpoint(checkpoint) if self.does(Strategy::FalseCheckpoints) => {
                self.checkpoint(rng, situation, checkpoint)
            }
            Message::Recalled(recalled) if self.does(Strategy::LyingRecall) => {
                self.recalled(rng, situation, to, *recalled)
            }
            Message::Records { epoch, records, proof } if self.does(Strategy::ForgeRecords) => {
                forged_records(rng, epoch, records, proof)
            }
            Message::Fetched(vertex) if self.does(Strategy::ForgeRecords) => {
                self.wrong_chunk(rng, situation, &vertex)
            }
            Message::Records { .. } | Message::Fetched(_) if self.does(Strategy::Withhold) => {
                Vec::new()
            }
            other => vec![other],
        };
        self.add_noise(rng, situation, &mut messages);
        let Some(delayed) = delayed else { return Vec::new() };
        let late = if self.does(Strategy::Sluggish) && rng.chance(300) {
            delayed.max(rng.range(1_000, 240_000))
        } else {
            delayed
        };
        messages.into_iter().map(|message| (late, message)).collect()
    }

    /// Its key in this epoch.
    fn key<'s>(&self, situation: &Situation<'s>) -> Option<&'s SimKey> {
        let member = situation.validators.member(self.own)?;
        situation.keys.iter().find(|key| *key.public_key() == member.key)
    }

    fn domain(&self, epoch: Epoch) -> Domain {
        Domain { chain_id: self.chain_id, epoch }
    }

    /// A vote of its own for anything.
    fn vote(
        &self,
        situation: &Situation<'_>,
        phase: Phase,
        like: Ballot,
        digest: Hash,
    ) -> Option<Vote> {
        let ballot = Ballot { phase, digest, voter: self.own, ..like };
        Some(Vote {
            ballot,
            signature: self.key(situation)?.sign(&ballot.signing_message(self.chain_id)),
        })
    }
}

use data::forged_records;
use votes::wrong_tips;
