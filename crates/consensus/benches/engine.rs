//! What the protocol itself costs: the handlers of one node among four, with signatures that cost
//! nothing.
//!
//! | benchmark | bar |
//! |---|---|
//! | `decision/...`: all that one node does for one decision of one vertex a lane | 60 us |
//! | `ordering/...`: vertices that one node takes in, acknowledges, orders and executes | 10,000 a second |
//!
//! Only [`Engine::handle`] and [`Engine::end_turn`] of the one node are timed; a turn ends after
//! every single message, which is the most turns that there can be. Sealing, hashing of payloads
//! and the Merkle root are the engine's and are in it; the encoding, the network, the disk and real
//! signatures are not.

#![allow(clippy::unwrap_used, clippy::expect_used, missing_docs)]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use common::{CREATED_MS, Key, genesis};
use cretoai_consensus::{
    Engine, Message,
    engine::{Config, Input, Limits, Now, Recipient, Recovered, Timing},
};
use cretoai_types::{NodeId, Payload, PublicKey, Sequence, Signature, Signer, Verifier};
use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use std::{
    cell::{LazyCell, RefCell},
    collections::VecDeque,
    hint::black_box,
    sync::Arc,
    time::{Duration, Instant},
};

struct FreeSigner(PublicKey);

impl Signer for FreeSigner {
    fn public_key(&self) -> &PublicKey {
        &self.0
    }

    fn sign(&self, _: &[u8]) -> Signature {
        Signature(Box::new([0; Signature::SIZE]))
    }
}

struct FreeVerifier;

impl Verifier for FreeVerifier {
    fn verify(&self, _: &PublicKey, _: &[u8], _: &Signature) -> bool {
        true
    }
}

/// Engines that hear each other at once.
struct Cluster {
    engines: Vec<Engine>,
    inbox: VecDeque<(usize, Input)>,
    now: Duration,
    /// The node whose handlers are timed.
    timed: usize,
    spent: Duration,
    turns: u64,
    ordered: u64,
}

impl Cluster {
    fn new(n: u32, timed: usize) -> Self {
        let genesis = genesis(n);
        let engine = |index: u32| {
            let config = Config {
                chain_id: genesis.chain_id(),
                signers: vec![Arc::new(FreeSigner(Key::member(index).0))],
                verifier: Arc::new(FreeVerifier),
                timing: Timing::default(),
                limits: Limits::default(),
                seed: u64::from(index),
            };
            Engine::new(config, Recovered::at_genesis(&genesis))
        };
        let engines = (0..n).map(engine).collect();
        let mut cluster = Self {
            engines,
            inbox: VecDeque::new(),
            now: Duration::from_secs(1),
            timed,
            spent: Duration::ZERO,
            turns: 0,
            ordered: 0,
        };
        cluster.tick();
        cluster
    }

    /// One that decides one vertex of each lane at a time.
    fn running(n: u32, timed: usize, payloads: u64, bytes: usize) -> Self {
        let mut cluster = Self::new(n, timed);
        cluster.decide(64, payloads, bytes);
        let before = (cluster.turns, cluster.ordered);
        cluster.decide(64, payloads, bytes);
        let (turns, vertices) = (cluster.turns - before.0, cluster.ordered - before.1);
        println!(
            "one of {n}: a decision takes {:.1} turns and orders {:.1} vertices",
            turns as f64 / 64.0,
            vertices as f64 / 64.0
        );
        assert_eq!(vertices, u64::from(n) * 64);
        cluster
    }

    fn at(&self) -> Now {
        Now { at: self.now, wall_ms: CREATED_MS + self.now.as_millis() as u64 }
    }

    /// Lets every node do what is due, and then all that follows from it at this time.
    fn tick(&mut self) {
        for node in 0..self.engines.len() {
            self.turn(node, None);
        }
        while let Some((node, input)) = self.inbox.pop_front() {
            self.turn(node, Some(input));
        }
    }

    fn turn(&mut self, node: usize, input: Option<Input>) {
        let now = self.at();
        let engine = &mut self.engines[node];
        let began = Instant::now();
        if let Some(input) = input {
            engine.handle(now, black_box(input));
        }
        let turn = black_box(engine.end_turn(now));
        if node == self.timed {
            self.spent += began.elapsed();
            self.turns += 1;
            self.ordered += turn
                .executions
                .iter()
                .map(|execution| execution.vertices.len() as u64)
                .sum::<u64>();
        }
        assert_eq!(turn.diverged, None);
        for (to, message) in turn.sends {
            let from = NodeId(node as u32);
            match to {
                Recipient::One(to) => {
                    self.inbox.push_back((to.0 as usize, Input::Message { from, message }))
                }
                Recipient::All => {
                    for to in (0..self.engines.len()).filter(|to| *to != node) {
                        // As a decoder makes it: a vertex of its own for each node.
                        let message = match &message {
                            Message::Vertex(vertex) => {
                                Message::Vertex(Arc::new(vertex.as_ref().clone()))
                            }
                            other => other.clone(),
                        };
                        self.inbox.push_back((to, Input::Message { from, message }));
                    }
                }
            }
        }
    }

    /// What the timed node spends on so many decisions, while every node has payloads for one
    /// vertex in each of them.
    fn decide(&mut self, decisions: u64, payloads: u64, bytes: usize) -> Duration {
        self.spent = Duration::ZERO;
        let until = self.executed().0 + decisions;
        while self.executed().0 < until {
            self.now += Duration::from_millis(6);
            for node in 0..self.engines.len() {
                for number in 0..payloads {
                    let mut key = [node as u8; 16];
                    key[..8].copy_from_slice(&number.to_be_bytes());
                    key[8..12].copy_from_slice(&(self.now.as_millis() as u32).to_be_bytes());
                    let payload = Payload {
                        key,
                        valid_until_ms: self.at().wall_ms + 30_000,
                        topic: None,
                        data: vec![7; bytes],
                    };
                    let now = self.at();
                    self.engines[node].handle(now, Input::Submit(payload));
                }
            }
            self.tick();
        }
        self.spent
    }

    fn executed(&self) -> Sequence {
        self.engines[self.timed].executed()
    }
}

fn decision(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("decision");
    for (n, name, timed) in [
        (4, "n=4 leader", 0),
        (4, "n=4 follower", 1),
        (7, "n=7 follower", 1),
        (31, "n=31 follower", 1),
    ] {
        let cluster = LazyCell::new(|| RefCell::new(Cluster::running(n, timed, 1, 256)));
        // Of thirty-one engines one is timed, and all take their time.
        group.sample_size(if n > 7 { 10 } else { 100 });
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|decisions| cluster.borrow_mut().decide(decisions, 1, 256))
        });
    }
    group.finish();
}

fn ordering(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("ordering");
    group.sample_size(20);
    for (name, payloads, bytes) in [
        ("n=4 vertices of one payload of 256 bytes", 1, 256),
        ("n=4 vertices of 50 payloads of 512 bytes", 50, 512),
    ] {
        let cluster = LazyCell::new(|| RefCell::new(Cluster::running(4, 1, payloads, bytes)));
        group.throughput(Throughput::Elements(4));
        group.bench_function(name, |bencher| {
            bencher.iter_custom(|decisions| cluster.borrow_mut().decide(decisions, payloads, bytes))
        });
    }
    group.finish();
}

criterion_group!(benches, decision, ordering);
criterion_main!(benches);
