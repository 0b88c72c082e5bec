//! Four engines on four real stores, without a network: what the store gives back after a restart is what the engine
//! knew, peers are served from it, and a late one catches up with nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

use cretoai_consensus::{
    Ballot, Change, Checkpoint, CheckpointCertificate, CheckpointState, Domain, Epoch, Evidence, FaultModel, Genesis, GenesisMember, Hash,
    Height, Message, NewView, NodeId, Outcome, Parameters, Payload, Phase, Prepared, Proof, Proposal, Ready, Reconfig, Sequence,
    SignedGenesis, SignedReconfig, Validators, View, ViewChange, ViewChangeHead, Vote,
    engine::{Config, Engine, Execution, Input, Limits, Mark, Now, Recipient, Recovered, Role, Timing, Turn, Write},
};
use cretoai_control::keys::{MlDsa87, SecretKey};
use cretoai_node::{
    metrics::Metrics,
    storage::{Storage, StorageOptions},
};
use std::{collections::VecDeque, path::Path, sync::Arc, time::Duration};

const WALL: u64 = 1_800_000_000_000;

struct Validator {
    engine: Engine,
    storage: Storage,
    seed: [u8; 32],
    down: bool,
}

struct Cluster {
    genesis: Genesis,
    folder: tempfile::TempDir,
    validators: Vec<Validator>,
    at: Duration,
    flying: VecDeque<(NodeId, NodeId, Message)>,
    executed: Vec<(NodeId, Sequence, Vec<Outcome>)>,
}

fn open(folder: &Path) -> Storage {
    let options = StorageOptions { cache_bytes: 8 << 20, write_buffer_bytes: 8 << 20 };
    Storage::open(folder, options, Arc::new(Metrics::new().unwrap())).unwrap()
}

fn start(genesis: &Genesis, seed: &[u8; 32], storage: &Storage) -> Engine {
    let config = Config {
        chain_id: genesis.chain_id(),
        signers: vec![Arc::new(SecretKey::from_seed(seed).unwrap())],
        verifier: Arc::new(MlDsa87),
        timing: Timing::default(),
        limits: Limits::default(),
        seed: u64::from(seed[0]),
    };
    Engine::new(config, storage.recover(genesis).unwrap())
}

fn genesis(seeds: &[[u8; 32]]) -> Genesis {
    let member = |(i, seed): (usize, &[u8; 32])| {
        let key = SecretKey::from_seed(seed).unwrap();
        let name = format!("node-{i}");
        let proof = key.sign(&Genesis::possession_message("test", &name));
        GenesisMember { name, key: key.public_key().clone(), proof }
    };
    let genesis = Genesis {
        cluster_uid: "test".into(),
        admin_key: admin().public_key().clone(),
        members: seeds.iter().enumerate().map(member).collect(),
        fault_model: FaultModel::Byzantine,
        parameters: Parameters::default(),
        created_ms: WALL,
    };
    genesis.validate(&MlDsa87).unwrap();
    genesis
}

fn admin() -> SecretKey {
    SecretKey::from_seed(&[99; 32]).unwrap()
}

impl Cluster {
    fn new(n: u8) -> Self {
        let seeds: Vec<[u8; 32]> = (1..=n).map(|i| [i; 32]).collect();
        let genesis = genesis(&seeds);
        let folder = tempfile::tempdir().unwrap();
        let validators = (0..).map(NodeId).zip(seeds).map(|(own, seed)| {
            let storage = open(&folder.path().join(own.0.to_string()));
            Validator { engine: start(&genesis, &seed, &storage), storage, seed, down: false }
        });
        let validators = validators.collect();
        Self { genesis, folder, validators, at: Duration::ZERO, flying: VecDeque::new(), executed: Vec::new() }
    }

    fn now(&self) -> Now {
        Now { at: self.at, wall_ms: WALL + 1 + self.at.as_millis() as u64 }
    }

    fn turn(&mut self, i: usize) {
        let now = self.now();
        let from = NodeId(i as u32);
        let n = self.validators.len() as u32;
        let validator = &mut self.validators[i];
        let turn = validator.engine.end_turn(now);
        assert_eq!(turn.diverged, None);
        assert!(turn.violations.is_empty(), "{:?}", turn.violations);
        validator.storage.write(&turn).unwrap();
        for execution in turn.executions {
            let outcomes = execution.vertices.iter().flat_map(|(_, outcomes)| outcomes.clone()).collect();
            self.executed.push((from, execution.record.proposal.sequence, outcomes));
        }
        for (to, message) in turn.sends {
            let all = (0..n).map(NodeId).filter(|to| *to != from);
            match to {
                Recipient::All => self.flying.extend(all.map(|to| (from, to, message.clone()))),
                Recipient::One(to) => self.flying.push_back((from, to, message)),
            }
        }
    }

    /// Lets a millisecond pass, in which everything that flies arrives.
    fn step(&mut self) {
        self.at += Duration::from_millis(1);
        for (from, to, message) in std::mem::take(&mut self.flying) {
            let now = self.now();
            let validator = &mut self.validators[to.0 as usize];
            if validator.down {
                continue;
            }
            let answers = match &message {
                Message::FetchRecords { from } => validator.storage.records(*from).unwrap().into_iter().collect(),
                Message::FetchLane { author, above, up_to } => validator.storage.lane(*author, *above, *up_to).unwrap(),
                _ => {
                    validator.engine.handle(now, Input::Message { from, message });
                    Vec::new()
                }
            };
            self.flying.extend(answers.into_iter().map(|answer| (to, from, answer)));
        }
        for i in 0..self.validators.len() {
            if !self.validators[i].down {
                self.turn(i);
            }
        }
    }

    fn submit(&mut self, to: usize, payload: &Payload) {
        let now = self.now();
        self.validators[to].engine.handle(now, Input::Submit(payload.clone()));
    }

    fn run_until(&mut self, what: &str, done: impl Fn(&Self) -> bool) {
        for _ in 0..5_000 {
            if done(self) {
                return;
            }
            self.step();
        }
        panic!("not within 5 s: {what}; at {:?}", self.validators.iter().map(|v| v.engine.executed()).collect::<Vec<_>>());
    }

    fn all_at_least(&self, sequence: Sequence) -> bool {
        self.validators.iter().filter(|v| !v.down).all(|v| v.engine.executed() >= sequence)
    }

    fn restart(&mut self, i: usize) {
        let old = self.validators.remove(i);
        let known = (old.engine.executed(), old.engine.chain_hash(), old.engine.time_ms());
        let seed = old.seed;
        drop(old);
        let storage = open(&self.folder.path().join(i.to_string()));
        let engine = start(&self.genesis, &seed, &storage);
        assert_eq!((engine.executed(), engine.chain_hash(), engine.time_ms()), known);
        self.validators.insert(i, Validator { engine, storage, seed, down: false });
    }
}

fn payload(n: u32, size: usize) -> Payload {
    let mut data = n.to_le_bytes().to_vec();
    data.resize(size.max(4), n as u8);
    Payload { key: [7; 16], valid_until_ms: WALL + 40_000, data }
}

#[test]
fn payloads_become_final_on_every_store_and_survive_restarts() {
    let mut cluster = Cluster::new(4);
    let chain_id = cluster.genesis.chain_id();
    for i in 0..40 {
        cluster.submit(i as usize % 4, &payload(i, 1 << (i % 15)));
        cluster.step();
    }
    let ids: Vec<_> = (0..40).map(|i| payload(i, 1 << (i % 15)).id(chain_id)).collect();
    cluster
        .run_until("all 40 on all stores", |c| c.validators.iter().all(|v| ids.iter().all(|id| v.storage.location(id).unwrap().is_some())));
    for (i, id) in (0..40).zip(&ids) {
        let places: Vec<_> = cluster.validators.iter().map(|v| v.storage.location(id).unwrap().unwrap()).collect();
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        assert_eq!(cluster.validators[0].storage.payload(&places[0]).unwrap(), payload(i, 1 << (i % 15)));
    }
    for i in 0..4 {
        cluster.restart(i);
    }
    // The same bytes again, after the restart: known from the store alone.
    cluster.submit(2, &payload(3, 8));
    let before = cluster.validators[0].engine.executed();
    cluster.run_until("one more decision", |c| c.all_at_least(before.next()));
    let (_, _, outcomes) = cluster.executed.last().unwrap();
    let first = cluster.validators[0].storage.location(&ids[3]).unwrap().unwrap();
    assert_eq!(*outcomes, [Outcome::Duplicate { executed_at: first.sequence }]);
    let hashes: Vec<_> = cluster.validators.iter().map(|v| v.engine.chain_hash()).collect();
    assert!(hashes.iter().all(|hash| *hash == hashes[0]));
}

#[test]
fn a_node_that_was_down_catches_up_from_the_stores_of_the_others() {
    let mut cluster = Cluster::new(4);
    cluster.validators[3].down = true;
    for i in 0..300 {
        cluster.submit(i as usize % 3, &payload(i, 2_000));
        for _ in 0..7 {
            cluster.step();
        }
    }
    let target = cluster.validators[0].engine.executed();
    assert!(target > Sequence(100), "{target}");
    cluster.validators[3].down = false;
    cluster.run_until("the fourth catches up", |c| c.all_at_least(target));
    for sequence in (1..=target.0).map(Sequence) {
        let records: Vec<_> = cluster.validators.iter().map(|v| v.storage.finalized(sequence).unwrap().unwrap()).collect();
        assert!(records.iter().all(|record| *record == records[0]), "sequence {sequence}");
    }
    // It can itself serve what it learnt, up to certificates that it kept.
    assert!(cluster.validators[3].storage.records(Epoch(0), Sequence(1)).unwrap().is_some());
    assert_eq!(cluster.validators[3].storage.lane(NodeId(0), Height(0), Height(3)).unwrap().len(), 3);
}

#[test]
fn a_vote_is_remembered_before_its_decision() {
    let mut cluster = Cluster::new(4);
    // Only the leader and one follower are up: both vote, nothing is decided.
    cluster.validators[2].down = true;
    cluster.submit(0, &payload(1, 10));
    for _ in 0..3 {
        cluster.step();
    }
    cluster.validators[3].down = true;
    for _ in 0..200 {
        cluster.step();
    }
    let before = cluster.validators[0].storage.recover(&cluster.genesis).unwrap();
    cluster.restart(0);
    cluster.restart(1);
    let after = cluster.validators[0].storage.recover(&cluster.genesis).unwrap();
    assert_eq!(before.votes, after.votes);
    assert_eq!(before.proposal, after.proposal);
    assert_eq!(cluster.validators[0].engine.executed(), Sequence(0));
    assert!(after.proposal.is_some(), "the leader proposed");
    for validator in &mut cluster.validators {
        validator.down = false;
    }
    cluster.run_until("the old proposal is decided", |c| c.all_at_least(Sequence(1)));
    let decided = cluster.validators[3].storage.finalized(Sequence(1)).unwrap().unwrap();
    assert_eq!(Some(decided.record.proposal), after.proposal.map(|(proposal, _)| proposal));
}
