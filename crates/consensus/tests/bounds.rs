//! What ten hostile members of thirty-one, and clients that flood, can make one honest node hold:
//! every bound of [`Sizes`](cretoai_consensus::engine::Sizes), and its live heap.
//!
//! The heap is that of the whole process less what it was before the engine: all that a test builds
//! is dropped before it is looked at. One test at a time.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use common::{
    Check, Key, ballot, certificate, checkpoint, forged, genesis, hash, signed_head, tip, vote_by,
};
use cretoai_consensus::{
    Engine, MAX_RECORDS, Message, Status,
    engine::{
        Config, Input, Limits, MAX_ADVANCE, Now, Recovered, Remembered, Role, Sizes, Timing, Turn,
        ViolationKind,
    },
};
use cretoai_types::{
    Certificate, Change, CheckedVertex, CheckpointCertificate, CheckpointState, Domain, Epoch,
    Evidence, Hash, Height, Item, MAX_BODY, MAX_FRAME, MAX_ITEMS, MAX_PAYLOADS, NewView, NodeId,
    Parameters, Payload, Phase, Prepared, Proof, Proposal, Reconfig, Record, Sequence,
    SignedReconfig, Tip, Validators, View, ViewChange, ViewChangeHead, encode,
};
use peak_alloc::PeakAlloc;
use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

#[global_allocator]
static HEAP: PeakAlloc = PeakAlloc;

static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());

const N: u32 = 31;
/// f members attack, the leader of view 0 among them.
const ATTACKERS: std::ops::Range<u32> = 0..10;
/// The honest node that is looked at.
const OWN: u32 = 30;
const MIB: usize = 1 << 20;
const HEAP_BOUND: usize = 256 * MIB;

/// One engine under attack.
struct Target {
    engine: Engine,
    now: Duration,
    chain_id: Hash,
    validators: Validators,
    before: usize,
    pending: usize,
    equivocations: usize,
}

impl Target {
    fn new() -> Self {
        Self::that_remembers(Vec::new)
    }

    fn that_remembers(recent: impl FnOnce() -> Vec<Remembered>) -> Self {
        let genesis = genesis(N);
        let (chain_id, validators) = (genesis.chain_id(), genesis.validators());
        let (mut recovered, key) = (Recovered::at_genesis(&genesis), Key::member(OWN));
        drop(genesis);
        let before = HEAP.current_usage();
        recovered.recent = recent();
        let config = Config {
            chain_id,
            signers: vec![Arc::new(key)],
            verifier: Arc::new(Check),
            timing: Timing::default(),
            limits: Limits::default(),
            seed: 1,
        };
        let engine = Engine::new(config, recovered);
        let now = Duration::from_secs(1);
        let mut target =
            Self { engine, now, chain_id, validators, before, pending: 0, equivocations: 0 };
        for honest in ATTACKERS.end..OWN {
            target.send(honest, Message::Recalled(Box::default()));
        }
        target.turn();
        assert_eq!(target.engine.role(), Role::Validator);
        target
    }

    const fn domain(&self) -> Domain {
        Domain { chain_id: self.chain_id, epoch: Epoch(0) }
    }

    fn at(&self) -> Now {
        Now { at: self.now, wall_ms: common::CREATED_MS + 1_000 + self.now.as_millis() as u64 }
    }

    fn send(&mut self, from: u32, message: Message) {
        let now = self.at();
        self.engine.handle(now, Input::Message { from: NodeId(from), message });
        self.pending += 1;
        if self.pending >= 64 {
            self.turn();
        }
    }

    /// As from the wire: nothing larger than a frame arrives.
    fn send_frame(&mut self, from: u32, message: Message) {
        assert!(encode(&message).len() <= MAX_FRAME, "{} bytes", encode(&message).len());
        self.send(from, message);
    }

    fn turn(&mut self) {
        self.pending = 0;
        self.now += Duration::from_millis(1);
        let now = self.at();
        let Turn { violations, diverged, .. } = self.engine.end_turn(now);
        assert_eq!(diverged, None);
        self.equivocations += violations
            .iter()
            .filter(|violation| violation.kind == ViolationKind::Equivocation)
            .count();
        assert_within_bounds(self.engine.sizes());
    }

    /// Live bytes of the engine.
    fn heap(&self) -> usize {
        HEAP.current_usage().saturating_sub(self.before)
    }

    fn report(&mut self, attack: &str) -> usize {
        self.turn();
        println!(
            "{attack:<60} {:>7.1} MiB  {:?}",
            self.heap() as f64 / MIB as f64,
            self.engine.sizes()
        );
        self.heap()
    }

    fn after(
        &self,
        author: u32,
        previous: Tip,
        stamp: u64,
        payloads: Vec<Payload>,
        items: Vec<Item>,
    ) -> CheckedVertex {
        CheckedVertex::seal(
            &self.domain(),
            &Key::member(author),
            NodeId(author),
            previous,
            Vec::new(),
            stamp,
            payloads,
            items,
        )
    }

    /// A lane of `count` vertices by each attacker.
    fn lanes(&mut self, count: u64, body: impl Fn() -> (Vec<Payload>, Vec<Item>)) {
        let before = self.engine.sizes().undecided_vertices;
        for author in ATTACKERS {
            let mut previous = Tip::default();
            for stamp in 0..count {
                let (payloads, items) = body();
                let vertex = self.after(author, previous, stamp, payloads, items);
                previous = vertex.tip();
                self.send_frame(author, Message::Vertex(Arc::new(vertex.vertex().clone())));
            }
        }
        self.turn();
        let taken = self.engine.sizes().undecided_vertices - before;
        assert!(
            taken >= 16 * ATTACKERS.len(),
            "what was refused tests no bound: {taken} were taken"
        );
    }
}

/// Every count that [`Sizes`] shows, against the bound that the protocol page or the module names.
fn assert_within_bounds(sizes: Sizes) {
    let lanes = N as usize;
    // Waiting for parents; candidates for a named tip; branches that prepared proposals named.
    let beside = 64 + MAX_ADVANCE as usize * 4 + MAX_ADVANCE as usize * 2;
    assert!(sizes.pool_bytes <= Limits::default().pool_bytes, "{sizes:?}");
    assert!(sizes.undecided_vertices <= lanes * Limits::default().lane, "{sizes:?}");
    assert!(sizes.other_vertices <= lanes * beside, "{sizes:?}");
    assert!(sizes.recent_payloads as u64 <= Parameters::default().recent_payloads, "{sizes:?}");
    assert!(sizes.waiting_items <= 64, "{sizes:?}");
    assert!(sizes.learnt_records <= MAX_RECORDS, "{sizes:?}");
    assert!(sizes.votes <= 2 * 2 * lanes, "{sizes:?}");
}

// ---- bodies as large as they may be

fn large_payloads() -> (Vec<Payload>, Vec<Item>) {
    let payload = |number| common::payload(number, 128 * 1024 - 29);
    (vec![payload(1), payload(2)], Vec::new())
}

/// As many payloads as a vertex may hold, as small as they may be.
fn tiny_payloads() -> (Vec<Payload>, Vec<Item>) {
    ((0..MAX_PAYLOADS).map(|_| common::payload(1, 1)).collect(), Vec::new())
}

/// Items that fill the body: a name of an order, and evidence.
fn large_items() -> (Vec<Payload>, Vec<Item>) {
    let vote = |digest: &str| {
        vote_by(&Key::member(0), Hash::ZERO, ballot(0, Phase::Prepare, 0, 1, hash(digest), 0))
    };
    let small = Item::Evidence(Box::new(Evidence::Votes(vote("a"), vote("b"))));
    let change = Change::Add { name: "x".repeat(MAX_BODY - 64 * 1024), key: Key::member(0).0 };
    let reconfig = Reconfig { epoch: Epoch(0), valid_until_ms: u64::MAX, change, ready: None };
    let order = SignedReconfig { reconfig, admin: forged(), new_key: None, old_key: None };
    (Vec::new(), [vec![Item::Reconfig(Box::new(order))], vec![small; MAX_ITEMS - 1]].concat())
}

fn alone() -> std::sync::MutexGuard<'static, ()> {
    ONE_AT_A_TIME.lock().unwrap_or_else(PoisonError::into_inner)
}

fn bounded(attack: &str, flood: impl FnOnce(&mut Target)) {
    let _one = alone();
    bounded_in(Target::new(), attack, flood);
}

fn bounded_in(mut target: Target, attack: &str, flood: impl FnOnce(&mut Target)) {
    flood(&mut target);
    let heap = target.report(attack);
    assert!(heap < HEAP_BOUND, "{attack}: {} MiB live, {:?}", heap / MIB, target.engine.sizes());
}

#[test]
fn lanes_of_large_payloads() {
    bounded("lanes of full vertices, two payloads each", |target| {
        target.lanes(300, large_payloads)
    });
}

#[test]
fn lanes_of_tiny_payloads() {
    bounded("lanes of as many payloads of one byte as may be", |target| {
        target.lanes(300, tiny_payloads)
    });
}

#[test]
fn lanes_of_large_items() {
    bounded("lanes of empty vertices full of items", |target| target.lanes(300, large_items));
}

#[test]
fn vertices_without_parents() {
    bounded("full vertices whose parents never come", |target| {
        for author in ATTACKERS {
            for height in 0..200 {
                let parent = tip(1_000 + 2 * height, hash("missing"));
                let vertex = target.after(author, parent, 0, large_payloads().0, Vec::new());
                target.send_frame(author, Message::Vertex(Arc::new(vertex.vertex().clone())));
            }
            let highest =
                target.after(author, tip(u64::MAX - 1, hash("missing")), 0, Vec::new(), Vec::new());
            target.send_frame(author, Message::Vertex(Arc::new(highest.vertex().clone())));
        }
    });
}

/// Every slot of every hostile lane is forked, and the hostile leader of each view names tips of
/// the branches.
#[test]
fn forks_that_a_hostile_leader_names() {
    bounded("forks of every slot, named by hostile leaders", |target| {
        let branches: Vec<Vec<Vec<CheckedVertex>>> = ATTACKERS
            .map(|author| {
                (0..6)
                    .map(|branch| {
                        let mut lane: Vec<CheckedVertex> = Vec::new();
                        for _ in 0..MAX_ADVANCE {
                            let previous =
                                lane.last().map_or_else(Tip::default, CheckedVertex::tip);
                            lane.push(target.after(
                                author,
                                previous,
                                branch,
                                vec![common::payload(branch as u8, 32 * 1024)],
                                Vec::new(),
                            ));
                        }
                        lane
                    })
                    .collect()
            })
            .collect();
        for view in 0..3 {
            let mut cut = vec![Tip::default(); N as usize];
            for (author, lanes) in branches.iter().enumerate() {
                cut[author] = lanes[5 - view].last().unwrap().tip();
            }
            let (prev, origin_view) = (target.chain_id, View(view as u64));
            let proposal = |time_ms| Proposal {
                sequence: Sequence(1),
                prev,
                time_ms,
                origin_view,
                cut: cut.clone(),
            };
            for time_ms in [common::CREATED_MS + 1_500, common::CREATED_MS + 1_501] {
                let proposal = proposal(time_ms);
                let digest = proposal.digest(&target.domain());
                let leader = view as u32;
                let vote = vote_by(
                    &Key::member(leader),
                    target.chain_id,
                    ballot(0, Phase::PrePrepare, view as u64, 1, digest, leader),
                );
                target.send_frame(leader, Message::PrePrepare { proposal, vote });
            }
            // Each branch from the top down, less what it stands on: none of it can be taken yet.
            for (author, lanes) in branches.iter().enumerate() {
                for vertex in lanes.iter().flat_map(|lane| lane.iter().skip(1).rev()) {
                    target.send_frame(
                        author as u32,
                        Message::Fetched(Arc::new(vertex.vertex().clone())),
                    );
                }
            }
            target.turn();
            println!("view {view}: candidates are held, {:?}", target.engine.sizes());
            for (author, lanes) in branches.iter().enumerate() {
                for vertex in lanes.iter().filter_map(|lane| lane.first()) {
                    target.send_frame(
                        author as u32,
                        Message::Fetched(Arc::new(vertex.vertex().clone())),
                    );
                }
            }
            target.turn();
            // The honest leave the view.
            for honest in ATTACKERS.end..OWN {
                let status = status(target, View(view as u64 + 1), View(view as u64 + 1));
                target.send(honest, Message::Status(status));
            }
            for _ in 0..40 {
                target.turn();
            }
            assert_eq!(target.engine.view(), View(view as u64 + 1));
        }
        assert!(target.equivocations > 0);
        drop(branches);
    });
}

fn status(target: &Target, view: View, want: View) -> Status {
    Status {
        epoch: Epoch(0),
        view,
        active: false,
        want,
        signs: true,
        executed: Sequence(0),
        chain_hash: target.chain_id,
        stable: Sequence(0),
        voted: None,
        acknowledged: vec![Tip::default(); N as usize],
        clock_ms: common::CREATED_MS,
    }
}

/// Fills a certificate with as many votes as a frame holds.
fn stuffed(certificate: Certificate, votes: usize) -> Certificate {
    Certificate {
        votes: (0..votes as u32).map(|voter| (NodeId(voter), forged())).collect(),
        ..certificate
    }
}

#[test]
fn everything_else_that_a_member_can_say() {
    bounded("votes, view changes, checkpoints, statuses, records, garbage", |target| {
        small_talk(target, 40);
        assert!(target.equivocations > 0);
    });
}

fn small_talk(target: &mut Target, rounds: u64) {
    let chain_id = target.chain_id;
    let validators = target.validators.clone();
    for attacker in ATTACKERS {
        let key = Key::member(attacker);
        for round in 0..rounds {
            let digest = hash(&format!("{attacker} {round}"));
            // Votes of many views and sequences, and two for each place.
            for (view, sequence) in
                [(0, 1), (0, 2), (0, 3 + round), (round, 1), (u64::MAX, u64::MAX), (0, u64::MAX)]
            {
                for phase in [Phase::PrePrepare, Phase::Prepare, Phase::Commit] {
                    let vote =
                        vote_by(&key, chain_id, ballot(0, phase, view, sequence, digest, attacker));
                    target.send_frame(attacker, Message::Vote(vote));
                }
            }
            // VIEW-CHANGEs for views that the target leads, with certificates as large as a frame
            // holds.
            let view = View(u64::from(OWN) + u64::from(N) * round);
            let head = ViewChangeHead {
                epoch: Epoch(0),
                view,
                node: NodeId(attacker),
                executed: Sequence(round),
                chain_hash: digest,
                prepared: Some((View(0), digest)),
            };
            let (head, signature) = signed_head(chain_id, head);
            let small = certificate(
                chain_id,
                &validators,
                Phase::Prepare,
                0,
                round + 1,
                digest,
                &[attacker],
            );
            let proposal = Proposal {
                sequence: Sequence(1),
                prev: digest,
                time_ms: 0,
                origin_view: View(0),
                cut: vec![tip(1, digest); 600],
            };
            let prepared =
                Prepared { certificate: stuffed(small.clone(), 40), proposal: proposal.clone() };
            let proof = Some(Proof::Commit(stuffed(
                Certificate { phase: Phase::Commit, ..small.clone() },
                40,
            )));
            let change = ViewChange {
                head: head.clone(),
                signature: signature.clone(),
                proof: proof.clone(),
                prepared: Some(prepared.clone()),
            };
            target.send_frame(attacker, Message::ViewChange(Arc::new(change)));
            let new_view = NewView {
                epoch: Epoch(0),
                view: View(u64::from(attacker) + u64::from(N) * round),
                heads: vec![(head, signature); 21],
                proof,
                prepared: Some(prepared),
                signature: forged(),
            };
            target.send_frame(attacker, Message::NewView(Arc::new(new_view)));
            // Checkpoints of ever higher sequences, and certificates that no quorum signed.
            let state = CheckpointState {
                epoch: Epoch(0),
                sequence: Sequence(64 * (round + 1)),
                chain_hash: digest,
                tips: vec![tip(round, digest); N as usize],
                root: digest,
                successor: None,
            };
            target
                .send_frame(attacker, Message::Checkpoint(checkpoint(chain_id, &state, attacker)));
            let signatures = (0..90).map(|node| (NodeId(node), forged())).collect();
            target.send_frame(
                attacker,
                Message::Stable(Arc::new(CheckpointCertificate { state, signatures })),
            );
            // Statuses that want, have and hold everything; of members, strangers and other epochs.
            let mut extreme = status(target, View(round), View(u64::MAX));
            extreme.executed = Sequence(u64::MAX - round);
            extreme.stable = Sequence(u64::MAX);
            extreme.clock_ms = u64::MAX;
            extreme.acknowledged = vec![tip(u64::MAX, digest); N as usize];
            target.send_frame(attacker, Message::Status(extreme.clone()));
            target.send_frame(
                attacker,
                Message::Acknowledge { epoch: Epoch(0), tips: extreme.acknowledged.clone() },
            );
            target.send_frame(
                attacker,
                Message::Acknowledge { epoch: Epoch(0), tips: vec![tip(1, digest); 10_000] },
            );
            for epoch in [1, u64::MAX] {
                let status = Status { epoch: Epoch(epoch), ..extreme.clone() };
                target.send_frame(1_000 + attacker * 1_000 + round as u32, Message::Status(status));
            }
            // Proposals that only a leader may make, and records without a proof.
            let vote = vote_by(
                &key,
                chain_id,
                ballot(0, Phase::PrePrepare, 0, 1, proposal.digest(&target.domain()), attacker),
            );
            target.send_frame(attacker, Message::PrePrepare { proposal: proposal.clone(), vote });
            let record = |sequence| Record {
                proposal: Proposal {
                    sequence: Sequence(sequence),
                    cut: vec![Tip::default(); N as usize],
                    ..proposal.clone()
                },
                vertices: vec![digest; 200],
                outcomes: digest,
            };
            let records: Vec<Record> = (1..40).map(record).collect();
            target.send_frame(
                attacker,
                Message::Records {
                    epoch: Epoch(0),
                    records,
                    proof: Proof::Commit(stuffed(small, 20)),
                },
            );
            let (author, above, up_to) = (NodeId(attacker), Height(0), Height(u64::MAX));
            target.send_frame(attacker, Message::FetchLane { author, above, up_to });
            target
                .send_frame(attacker, Message::FetchRecords { epoch: Epoch(0), from: Sequence(0) });
            target.send_frame(attacker, Message::Recall);
            target.send_frame(attacker, Message::Recalled(Box::default()));
        }
    }
    target.turn();
}

#[test]
fn clients_that_submit_more_than_there_is_room_for() {
    bounded("a pool full of payloads of one byte", |target| {
        for number in 0..700_000_u32 {
            let mut payload = common::payload(1, 1);
            payload.key[..4].copy_from_slice(&number.to_be_bytes());
            let now = target.at();
            target.engine.handle(now, Input::Submit(payload));
        }
    });
}

/// Every lane has used up its share, within seconds that each hold a little more than fits a table.
fn full_memory_of_payloads() -> Vec<Remembered> {
    let most = Parameters::default().recent_payloads / u64::from(N) * u64::from(N);
    let seconds = 54;
    let remembered = |number: u64| {
        let mut id = [0; 32];
        id[..8].copy_from_slice(&number.wrapping_mul(0x9E37_79B9_7F4A_7C15).to_le_bytes());
        Remembered {
            author: NodeId((number % u64::from(N)) as u32),
            id: Hash(id),
            valid_until_ms: common::CREATED_MS + 1_000 * (1 + number % seconds),
            sequence: Sequence(number),
        }
    };
    (0..most).map(remembered).collect()
}

#[test]
fn all_of_it_at_once() {
    let _one = alone();
    let target = Target::that_remembers(full_memory_of_payloads);
    let share = Parameters::default().recent_payloads / u64::from(N);
    assert_eq!(target.engine.sizes().recent_payloads as u64, share * u64::from(N));
    bounded_in(target, "all of it at once, and a minute of payloads", |target| {
        small_talk(target, 10);
        target.lanes(300, tiny_payloads);
        small_talk(target, 10);
    });
}
