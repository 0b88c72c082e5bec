//! One honest node among four under attack: what a liar, a slow author or a wrong clock must not
//! achieve. Each test fails without the rule that it names.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use common::{CREATED_MS, Check, Key, ballot, certificate, genesis, payload, vote_by};
use cretoai_consensus::{
    Engine, Message, Status,
    engine::{Config, Input, Limits, Now, Recipient, Recovered, Timing},
};
use cretoai_types::{
    CheckedVertex, Domain, Epoch, Genesis, Hash, Height, MAX_PAYLOADS, NodeId, Payload, Phase,
    Proof, Proposal, PublicKey, Record, Sequence, Signature, Signer, Tip, Verifier, View,
    ViewChange, ViewChangeHead, Vote, outcomes_root,
};
use std::{
    cell::Cell,
    collections::BTreeSet,
    sync::{Arc, Mutex},
    time::Duration,
};

const MS: Duration = Duration::from_millis(1);
const T0: Duration = Duration::from_millis(250);

/// Counts what is verified.
#[derive(Default)]
struct Counting(Mutex<Cell<usize>>);

impl Counting {
    fn count(&self) -> usize {
        self.0.lock().unwrap().get()
    }
}

impl Verifier for Counting {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        let count = self.0.lock().unwrap();
        count.set(count.get() + 1);
        Check.verify(key, message, signature)
    }
}

/// The engine of one of four members, and what it sent.
struct Honest {
    engine: Engine,
    own: u32,
    at: Duration,
    /// How far its clock is ahead of the others', milliseconds.
    clock_off: i64,
    domain: Domain,
    verifier: Arc<Counting>,
    sent: Vec<(Recipient, Message)>,
    executed: u64,
}

impl Honest {
    fn start(own: u32) -> Self {
        Self::with_clock(own, 0)
    }

    fn with_clock(own: u32, clock_off: i64) -> Self {
        let genesis: Genesis = genesis(4);
        let verifier = Arc::new(Counting::default());
        let config = Config {
            chain_id: genesis.chain_id(),
            signers: vec![Arc::new(Key::member(own))],
            verifier: Arc::clone(&verifier) as Arc<dyn Verifier>,
            timing: Timing::default(),
            limits: Limits::default(),
            seed: 1,
        };
        let engine = Engine::new(config, Recovered::at_genesis(&genesis));
        let domain = Domain { chain_id: genesis.chain_id(), epoch: Epoch(0) };
        let mut honest = Self {
            engine,
            own,
            at: Duration::from_secs(1),
            clock_off,
            domain,
            verifier,
            sent: Vec::new(),
            executed: 0,
        };
        for other in honest.others() {
            honest.hear(other, Message::Recalled(Box::default()));
        }
        honest.turn();
        honest
    }

    fn others(&self) -> Vec<u32> {
        (0..4).filter(|id| *id != self.own).collect()
    }

    fn true_ms(&self) -> u64 {
        CREATED_MS + self.at.as_millis() as u64
    }

    fn now(&self) -> Now {
        Now { at: self.at, wall_ms: self.true_ms().saturating_add_signed(self.clock_off) }
    }

    fn hear(&mut self, from: u32, message: Message) {
        self.engine.handle(self.now(), Input::Message { from: NodeId(from), message });
    }

    fn turn(&mut self) {
        let turn = self.engine.end_turn(self.now());
        assert_eq!(turn.diverged, None);
        self.executed += turn.executions.len() as u64;
        self.sent.extend(turn.sends);
    }

    /// Lets time pass in turns of a millisecond.
    fn pass(&mut self, time: Duration) {
        let end = self.at + time;
        while self.at < end {
            self.at += MS;
            self.turn();
        }
    }

    /// A heartbeat of another member with these tips.
    fn status(&self, tips: Vec<Tip>) -> Message {
        Message::Status(Status {
            epoch: Epoch(0),
            view: View(0),
            active: true,
            want: View(0),
            signs: true,
            executed: Sequence(0),
            chain_hash: self.domain.chain_id,
            stable: Sequence(0),
            voted: None,
            acknowledged: tips,
            clock_ms: self.true_ms(),
        })
    }

    fn vertex(&self, author: u32, previous: Tip, payloads: Vec<Payload>) -> CheckedVertex {
        CheckedVertex::seal(
            &self.domain,
            &Key::member(author),
            NodeId(author),
            previous,
            Vec::new(),
            1,
            payloads,
            Vec::new(),
        )
    }

    fn lane(
        &self,
        author: u32,
        count: usize,
        body: impl Fn() -> Vec<Payload>,
    ) -> Vec<CheckedVertex> {
        let mut previous = Tip::default();
        let next = std::iter::repeat_with(|| {
            let vertex = self.vertex(author, previous, body());
            previous = vertex.tip();
            vertex
        });
        next.take(count).collect()
    }

    /// What the leader of view 0 proposes first.
    fn proposal(&self, time_ms: u64, tips: [Tip; 4]) -> (Proposal, Vote) {
        let proposal = Proposal {
            sequence: Sequence(1),
            prev: self.domain.chain_id,
            time_ms,
            origin_view: View(0),
            cut: tips.to_vec(),
        };
        let digest = proposal.digest(&self.domain);
        let ballot = ballot(0, Phase::PrePrepare, 0, 1, digest, 0);
        (proposal, vote_by(&Key::member(0), self.domain.chain_id, ballot))
    }

    fn prepared(&self) -> bool {
        self.sent.iter().any(
            |(_, message)| matches!(message, Message::Vote(vote) if vote.ballot.phase == Phase::Prepare),
        )
    }

    /// The view that it wants, as its newest heartbeat says.
    fn wants(&self) -> View {
        let statuses = self.sent.iter().rev().filter_map(|(_, message)| match message {
            Message::Status(status) => Some(status.want),
            _ => None,
        });
        statuses.take(1).next().unwrap_or(View(0))
    }

    /// Members that were asked for vertices of a lane.
    fn asked(&self, lane: u32) -> Vec<u32> {
        let asks = |message: &Message| match message {
            Message::FetchLane { author, .. } | Message::FetchBranch { author, .. } => {
                *author == NodeId(lane)
            }
            _ => false,
        };
        let to = |recipient: &Recipient| match recipient {
            Recipient::One(id) => Some(id.0),
            Recipient::All => None,
        };
        let asks = self.sent.iter().filter(|(_, message)| asks(message));
        asks.filter_map(|(recipient, _)| to(recipient)).collect()
    }
}

fn frame(vertex: &CheckedVertex) -> Message {
    Message::Vertex(Arc::new(vertex.vertex().clone()))
}

fn nothing() -> Tip {
    Tip::default()
}

// ---- what one cut may decide

#[test]
fn a_cut_that_is_too_heavy_is_not_prepared_even_by_nodes_that_hold_it() {
    // Few bytes in many payloads, and many bytes in few.
    let tiny = || (0..MAX_PAYLOADS).map(|_| payload(1, 1)).collect::<Vec<_>>();
    let large = || vec![payload(1, 120 * 1024), payload(2, 120 * 1024)];
    let bodies: [&dyn Fn() -> Vec<Payload>; 2] = [&tiny, &large];
    for (body, most) in bodies.into_iter().zip([2, 16]) {
        for (height, allowed) in [(most - 1, true), (most, true), (most + 1, false)] {
            let mut honest = Honest::start(1);
            let lane = honest.lane(0, height, body);
            for vertex in &lane {
                honest.hear(0, frame(vertex));
            }
            let tip = lane[height - 1].tip();
            let (proposal, vote) =
                honest.proposal(honest.true_ms(), [tip, nothing(), nothing(), nothing()]);
            honest.hear(0, Message::PrePrepare { proposal, vote });
            honest.pass(5 * MS);
            assert_eq!(honest.prepared(), allowed, "{height} vertices");
        }
    }
}

#[test]
fn a_leader_proposes_no_more_of_a_lane_than_a_cut_may_decide() {
    let mut honest = Honest::start(0);
    let lane = honest.lane(1, 5, || (0..MAX_PAYLOADS).map(|_| payload(1, 1)).collect());
    for vertex in &lane {
        honest.hear(1, frame(vertex));
    }
    for other in honest.others() {
        honest.hear(other, honest.status(vec![nothing(), lane[4].tip(), nothing(), nothing()]));
    }
    honest.pass(20 * MS);
    let proposed = honest.sent.iter().find_map(|(_, message)| match message {
        Message::PrePrepare { proposal, .. } => Some(proposal.clone()),
        _ => None,
    });
    assert_eq!(proposed.unwrap().cut[1], lane[1].tip(), "two vertices of 2,048 payloads");
}

// ---- fetching

#[test]
fn a_trickling_author_does_not_keep_a_node_from_asking_the_others() {
    let mut honest = Honest::start(1);
    let lane = honest.lane(0, 60, Vec::new);
    for (shown, vertex) in lane.iter().enumerate().take(20) {
        for other in [0, 2, 3] {
            let newest = lane[(shown + 20).min(59)].tip();
            honest.hear(other, honest.status(vec![newest, nothing(), nothing(), nothing()]));
        }
        honest.hear(0, frame(vertex));
        honest.pass(20 * MS);
    }
    let asked: BTreeSet<u32> = honest.asked(0).into_iter().collect();
    assert!(asked.contains(&2) || asked.contains(&3), "only {asked:?} were asked");
}

#[test]
fn a_named_tip_is_asked_for_by_its_hash_of_every_member_and_less_and_less_often() {
    let mut honest = Honest::start(1);
    let lane = honest.lane(2, 3, Vec::new);
    let tip = lane[2].tip();
    let (proposal, vote) =
        honest.proposal(honest.true_ms(), [nothing(), nothing(), tip, nothing()]);
    honest.hear(0, Message::PrePrepare { proposal, vote });
    let mut by_hash = BTreeSet::new();
    for _ in 0..40 {
        // The leader keeps its view alive; nobody answers.
        honest.hear(0, honest.status(vec![nothing(); 4]));
        honest.pass(20 * MS);
    }
    for (recipient, message) in &honest.sent {
        if let (Recipient::One(id), Message::FetchBranch { tip: wanted, .. }) = (recipient, message)
        {
            assert_eq!(*wanted, tip);
            by_hash.insert(id.0);
        }
    }
    assert_eq!(by_hash, BTreeSet::from([0, 2, 3]));
    let first = honest.asked(2).len();
    for _ in 0..40 {
        honest.hear(0, honest.status(vec![nothing(); 4]));
        honest.pass(20 * MS);
    }
    let second = honest.asked(2).len() - first;
    assert!(second < first, "{first} requests, then {second}");
    // From the top down, as a store answers it: complete after one answer.
    for vertex in lane.iter().rev() {
        honest.hear(3, Message::Fetched(Arc::new(vertex.vertex().clone())));
    }
    honest.pass(MS);
    assert!(honest.prepared() || honest.wants() > View(0));
}

#[test]
fn records_that_nobody_asked_for_keep_no_longer_range_away() {
    let mut honest = Honest::start(1);
    let lane = honest.lane(0, 1, Vec::new);
    let (proposal, _) =
        honest.proposal(honest.true_ms(), [lane[0].tip(), nothing(), nothing(), nothing()]);
    let digest = proposal.digest(&honest.domain);
    let members = genesis(4).validators();
    let proof = Proof::Commit(certificate(
        honest.domain.chain_id,
        &members,
        Phase::Commit,
        0,
        1,
        digest,
        &[0, 2, 3],
    ));
    let records =
        vec![Record { proposal, vertices: vec![lane[0].id()], outcomes: outcomes_root(&[]) }];
    let answer = Message::Records { epoch: Epoch(0), records, proof };
    honest.hear(0, frame(&lane[0]));
    honest.hear(0, answer.clone());
    honest.turn();
    assert_eq!(honest.executed, 0, "it asked for nothing");
    // Once two say that they are ahead it asks one of them, and takes that one's answer.
    for other in [2, 3] {
        let Message::Status(mut status) = honest.status(vec![nothing(); 4]) else { unreachable!() };
        status.executed = Sequence(5);
        honest.hear(other, Message::Status(status));
    }
    honest.pass(MS);
    let asked = honest.sent.iter().rev().find_map(|(to, message)| match (to, message) {
        (Recipient::One(id), Message::FetchRecords { .. }) => Some(id.0),
        _ => None,
    });
    honest.hear(asked.expect("it asks"), answer);
    honest.turn();
    assert_eq!(honest.executed, 1);
}

// ---- clocks

/// A laggard that asks by hash needs another tip for each record. The request that brought one of
/// them has not failed, and what is missing next is asked for at once.
#[test]
fn a_laggard_that_fetches_by_hash_does_not_wait_between_records() {
    let mut honest = Honest::start(1);
    let lane = honest.lane(0, 6, Vec::new);
    let mut records: Vec<Record> = Vec::new();
    for (sequence, vertex) in (1..).zip(&lane) {
        let tips = [vertex.tip(), nothing(), nothing(), nothing()];
        let (mut proposal, _) = honest.proposal(honest.true_ms(), tips);
        proposal.sequence = Sequence(sequence);
        if let Some(before) = records.last() {
            proposal.prev = before.chain_hash(&honest.domain);
        }
        let outcomes = outcomes_root(&[]);
        records.push(Record { proposal, vertices: vec![vertex.id()], outcomes });
    }
    let digest = records[5].proposal.digest(&honest.domain);
    let members = genesis(4).validators();
    let chain_id = honest.domain.chain_id;
    let voters = [0, 2, 3];
    let proof =
        Proof::Commit(certificate(chain_id, &members, Phase::Commit, 0, 6, digest, &voters));
    for other in [2, 3] {
        let Message::Status(mut status) = honest.status(vec![nothing(); 4]) else { unreachable!() };
        status.executed = Sequence(6);
        honest.hear(other, Message::Status(status));
    }
    honest.pass(MS);
    for other in honest.others() {
        let (records, proof) = (records.clone(), proof.clone());
        honest.hear(other, Message::Records { epoch: Epoch(0), records, proof });
    }
    // Nobody answers until it asks by hash.
    honest.pass(2 * T0);
    let by_hash = honest.sent.iter().any(|(_, m)| matches!(m, Message::FetchBranch { .. }));
    assert!(by_hash, "it asks by hash");
    // A request has just been sent, so that its time is not over.
    let mut asked = honest.asked(0).len();
    while honest.asked(0).len() == asked {
        honest.pass(MS);
    }
    asked += 1;
    let arrive = |honest: &mut Honest, vertex: &CheckedVertex| {
        honest.hear(2, Message::Fetched(Arc::new(vertex.vertex().clone())));
        honest.pass(2 * MS);
    };
    arrive(&mut honest, &lane[0]);
    assert_eq!(honest.executed, 1);
    assert_eq!(honest.asked(0).len(), asked + 1, "the rest of the lane is asked for at once");
    lane[1..].iter().for_each(|vertex| arrive(&mut honest, vertex));
    assert_eq!(honest.executed, 6);
}

#[test]
fn the_chain_s_time_may_not_stand_still() {
    let offered = |behind_ms: u64| {
        let mut honest = Honest::start(1);
        honest.pass(Duration::from_secs(70));
        honest.sent.clear();
        let lane = honest.lane(0, 1, Vec::new);
        honest.hear(0, frame(&lane[0]));
        honest.hear(0, honest.status(vec![nothing(); 4]));
        // Far from the time of the sequence before only when nothing was decided for long.
        let time_ms = if behind_ms == 0 { CREATED_MS } else { honest.true_ms() - behind_ms };
        let (proposal, vote) =
            honest.proposal(time_ms, [lane[0].tip(), nothing(), nothing(), nothing()]);
        honest.hear(0, Message::PrePrepare { proposal, vote });
        honest.pass(2 * MS);
        honest.prepared()
    };
    assert!(!offered(0), "the previous time is no excuse");
    assert!(!offered(10_100));
    assert!(offered(9_000), "a slow clock is borne");
}

#[test]
fn a_leader_with_a_wrong_clock_proposes_a_time_that_a_quorum_votes_for() {
    for clock_off in [-60_000, -20_000, 0, 20_000, 60_000] {
        let mut honest = Honest::with_clock(0, clock_off);
        honest.pass(Duration::from_secs(70));
        let lane = honest.lane(1, 1, Vec::new);
        honest.hear(1, frame(&lane[0]));
        for other in honest.others() {
            honest.hear(other, honest.status(vec![nothing(), lane[0].tip(), nothing(), nothing()]));
        }
        honest.pass(10 * MS);
        let time_ms = honest.sent.iter().find_map(|(_, message)| match message {
            Message::PrePrepare { proposal, .. } => Some(proposal.time_ms),
            _ => None,
        });
        let (time_ms, now) = (time_ms.expect("it proposes"), honest.true_ms());
        assert!(
            time_ms + 10_000 >= now && time_ms <= now + 1_000,
            "clock {clock_off} ms off: proposed {} ms off",
            time_ms as i64 - now as i64
        );
    }
}

// ---- blame

#[test]
fn a_leader_is_not_to_blame_for_what_an_author_keeps_from_it() {
    let deposed_after = |leader_holds: bool| {
        let mut honest = Honest::start(1);
        let lane = honest.lane(3, 1, Vec::new);
        honest.hear(3, frame(&lane[0]));
        let (with, without) =
            (vec![nothing(), nothing(), nothing(), lane[0].tip()], vec![nothing(); 4]);
        for turns in 0..400 {
            honest.hear(2, honest.status(with.clone()));
            honest.hear(3, honest.status(with.clone()));
            let of_leader = if leader_holds { with.clone() } else { without.clone() };
            honest.hear(0, honest.status(of_leader));
            honest.pass(5 * MS);
            if honest.wants() > View(0) {
                return 5 * MS * turns;
            }
        }
        panic!("it is never deposed");
    };
    let (holds, lacks) = (deposed_after(true), deposed_after(false));
    assert!(holds >= T0 && holds <= 2 * T0, "{holds:?}");
    assert!(lacks >= 3 * T0 && lacks <= 6 * T0, "it has time to fetch, not for ever: {lacks:?}");
}

// ---- floods

#[test]
fn one_invalid_vote_of_a_step_is_verified_and_no_more() {
    let mut honest = Honest::start(1);
    let before = honest.verifier.count();
    for number in 0..500_u32 {
        for phase in [Phase::Prepare, Phase::Commit] {
            let digest = Hash::of_bytes(&number.to_be_bytes());
            let ballot = ballot(0, phase, 0, 1, digest, 2);
            honest.hear(2, Message::Vote(Vote { ballot, signature: common::forged() }));
        }
    }
    assert_eq!(honest.verifier.count() - before, 2, "one in each of the two phases");
}

#[test]
fn conflicting_votes_are_verified_until_they_are_evidence_and_no_more() {
    let mut honest = Honest::start(1);
    let before = honest.verifier.count();
    for number in 0..500_u32 {
        let digest = Hash::of_bytes(&number.to_be_bytes());
        let ballot = ballot(0, Phase::Prepare, 0, 1, digest, 2);
        let vote = vote_by(&Key::member(2), honest.domain.chain_id, ballot);
        honest.hear(2, Message::Vote(vote));
    }
    // Evidence that is made here is verified once more when it is sealed.
    assert!(honest.verifier.count() - before <= 5, "{}", honest.verifier.count() - before);
    assert!(honest.engine.sizes().waiting_items > 0, "the first contradiction is evidence");
    // A muted member's honest votes of the other phase still count.
    let digest = Hash::of_bytes(b"one");
    let ballot = ballot(0, Phase::Commit, 0, 1, digest, 2);
    let before = honest.verifier.count();
    honest.hear(2, Message::Vote(vote_by(&Key::member(2), honest.domain.chain_id, ballot)));
    assert_eq!(honest.verifier.count() - before, 1);
}

/// A member commits, everyone leaves the view, and only then the member says that it prepared
/// nothing.
#[test]
fn a_commit_that_is_concealed_after_the_view_was_left_is_evidence() {
    let mut honest = Honest::start(1);
    let commit = ballot(0, Phase::Commit, 0, 1, Hash::of_bytes(b"one"), 2);
    honest.hear(2, Message::Vote(vote_by(&Key::member(2), honest.domain.chain_id, commit)));
    for other in honest.others() {
        let Message::Status(status) = honest.status(vec![nothing(); 4]) else { panic!() };
        honest.hear(other, Message::Status(Status { want: View(2), ..status }));
    }
    honest.pass(T0);
    assert_eq!(honest.engine.view(), View(2));
    assert_eq!(honest.engine.sizes().waiting_items, 0);
    let head = ViewChangeHead {
        epoch: Epoch(0),
        view: View(2),
        node: NodeId(2),
        executed: Sequence(0),
        chain_hash: honest.domain.chain_id,
        prepared: None,
    };
    let signature = Key::member(2).sign(&head.signing_message(honest.domain.chain_id));
    let change = ViewChange { head, signature, proof: None, prepared: None };
    honest.hear(2, Message::ViewChange(Arc::new(change)));
    assert_eq!(honest.engine.sizes().waiting_items, 1, "the contradiction is evidence");
}

#[test]
fn every_height_of_a_named_range_is_reachable_within_one_answer() {
    // 64 empty vertices, the farthest that a cut may reach: one request by hash brings them.
    let mut honest = Honest::start(1);
    let lane = honest.lane(0, 64, Vec::new);
    let (proposal, vote) =
        honest.proposal(honest.true_ms(), [lane[63].tip(), nothing(), nothing(), nothing()]);
    honest.hear(0, Message::PrePrepare { proposal, vote });
    honest.pass(MS);
    for vertex in lane.iter().rev() {
        honest.hear(2, Message::Fetched(Arc::new(vertex.vertex().clone())));
    }
    honest.pass(2 * MS);
    assert!(honest.prepared());
    assert_eq!(lane[63].tip().height, Height(64));
}
