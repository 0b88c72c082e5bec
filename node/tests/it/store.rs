//! Four engines on four real stores, without a network: what the store gives back after a restart
//! is what the engine knew, peers are served from it, and a late one catches up with nothing else.

use cretoai_consensus::{
    Message,
    engine::{Config, Engine, Input, Limits, Now, Recipient, Recovered, Role, Timing},
};
use cretoai_control::{
    api::{Accused, EvidenceItem},
    keys::{MlDsa87, SecretKey},
};
use cretoai_node::{
    evidence::{self, Refused},
    metrics::Metrics,
    storage::{Receipted, Storage, StorageOptions},
};
use cretoai_types::{
    Change, CheckedVertex, Domain, Epoch, Evidence, FaultModel, Genesis, GenesisMember, Hash,
    Height, NodeId, OffenceKind, Outcome, Parameters, Payload, PublicKey, Receipt, ReceiptProof,
    Reconfig, Sequence, SignedGenesis, SignedReconfig, Tip, Topic,
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
    /// Who may be seen to break rules.
    liar: Option<NodeId>,
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
    Engine::new(config, storage.recover(genesis, &key_of(seed)).unwrap())
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

fn key_of(seed: &[u8; 32]) -> PublicKey {
    SecretKey::from_seed(seed).unwrap().public_key().clone()
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
        Self {
            genesis,
            folder,
            validators,
            at: Duration::ZERO,
            flying: VecDeque::new(),
            executed: Vec::new(),
            liar: None,
        }
    }

    fn recover(&self, i: usize) -> Recovered {
        let Validator { storage, seed, .. } = &self.validators[i];
        storage.recover(&self.genesis, &key_of(seed)).unwrap()
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
        let strange: Vec<_> =
            turn.violations.iter().filter(|violation| Some(violation.node) != self.liar).collect();
        assert!(strange.is_empty(), "{strange:?}");
        validator.storage.write(&turn).unwrap();
        for execution in turn.executions {
            let outcomes =
                execution.vertices.iter().flat_map(|(_, outcomes)| outcomes.clone()).collect();
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
                Message::FetchRecords { epoch, from } => {
                    validator.storage.records(*epoch, *from).unwrap().into_iter().collect()
                }
                Message::FetchLane { author, above, up_to } => {
                    validator.storage.lane(*author, *above, *up_to).unwrap()
                }
                Message::FetchBranch { author, tip, above } => {
                    validator.storage.branch(*author, *tip, *above).unwrap()
                }
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
        panic!(
            "not within 5 s: {what}; at {:?}",
            self.validators.iter().map(|v| v.engine.executed()).collect::<Vec<_>>()
        );
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
    Payload { key: [7; 16], valid_until_ms: WALL + 40_000, topic: None, data }
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
    cluster.run_until("all 40 on all stores", |c| {
        c.validators.iter().all(|v| ids.iter().all(|id| v.storage.location(id).unwrap().is_some()))
    });
    for (i, id) in (0..40).zip(&ids) {
        let places: Vec<_> =
            cluster.validators.iter().map(|v| v.storage.location(id).unwrap().unwrap()).collect();
        assert!(places.iter().all(|place| *place == places[0]), "{places:?}");
        assert_eq!(
            cluster.validators[0].storage.payload(&places[0]).unwrap(),
            payload(i, 1 << (i % 15))
        );
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
fn every_store_gives_receipts_that_prove_what_became_of_a_payload() {
    let mut cluster = Cluster::new(4);
    let genesis = cluster.genesis.clone();
    let chain_id = genesis.chain_id();
    let topic = Some(Topic::new("orders").unwrap());
    let payloads: Vec<_> =
        (0..12).map(|i| Payload { topic: topic.clone(), ..payload(i, 100) }).collect();
    let ids: Vec<_> = payloads.iter().map(|payload| payload.id(chain_id)).collect();
    let receipt = |v: &Validator, id: &Hash| match v.storage.receipt(&genesis, id).unwrap() {
        Receipted::Ready(receipt) => Some(*receipt),
        Receipted::Unknown | Receipted::NotYet(_) => None,
    };
    for (i, payload) in payloads.iter().enumerate() {
        cluster.submit(i % 4, payload);
        (0..5).for_each(|_| cluster.step());
    }
    // While decisions go on, the next one proves; the pause afterwards makes a checkpoint.
    cluster.run_until("a receipt for the first", |c| receipt(&c.validators[0], &ids[0]).is_some());
    let by_commit = receipt(&cluster.validators[0], &ids[0]).unwrap();
    assert!(matches!(by_commit.proof, ReceiptProof::Commit { .. }));
    let proven = |v: &Validator| {
        let newest = receipt(v, &ids[11]);
        newest.is_some_and(|newest| matches!(newest.proof, ReceiptProof::Checkpoint(_)))
    };
    cluster.run_until("a checkpoint on every store", |c| c.validators.iter().all(proven));
    let mut receipts = vec![by_commit];
    for validator in &cluster.validators {
        receipts.extend(ids.iter().map(|id| receipt(validator, id).unwrap()));
    }
    for (receipt, id) in receipts.iter().skip(1).zip(ids.iter().cycle()) {
        receipt.verify(&genesis, &MlDsa87).unwrap();
        assert_eq!((receipt.leaf.payload, receipt.leaf.outcome), (*id, Outcome::Executed));
        assert_eq!(receipt.leaf.topic, topic);
    }
    let unknown = cluster.validators[0].storage.receipt(&genesis, &chain_id).unwrap();
    assert_eq!(unknown, Receipted::Unknown);
    // With real signatures every byte counts.
    for receipt in [&receipts[0], &receipts[12]] {
        receipt.verify(&genesis, &MlDsa87).unwrap();
        let bytes = receipt.encode();
        for at in 0..bytes.len() {
            let mut altered = bytes.clone();
            altered[at] ^= 1 << (at % 8);
            let verdict =
                Receipt::decode(&altered).and_then(|receipt| receipt.verify(&genesis, &MlDsa87));
            assert!(verdict.is_err(), "byte {at} of {}", bytes.len());
        }
    }
}

#[test]
fn a_store_of_another_format_is_refused_by_its_number() {
    let folder = tempfile::tempdir().unwrap();
    let genesis = genesis(&[[1; 32]]);
    let signature = admin().sign(&genesis.signing_message());
    let signed = SignedGenesis { genesis, signature };
    {
        let storage = open(folder.path());
        storage.put_genesis(&signed, key_of(&[1; 32]).fingerprint()).unwrap();
    }
    drop(open(folder.path()));
    for (format, found) in [(Some(3_u32), 3), (None, 1)] {
        {
            let names = rocksdb::DB::list_cf(&rocksdb::Options::default(), folder.path()).unwrap();
            let db = rocksdb::DB::open_cf(&rocksdb::Options::default(), folder.path(), names);
            let db = db.unwrap();
            let family = db.cf_handle("consensus").unwrap();
            match format {
                Some(format) => db.put_cf(&family, "format", format.to_le_bytes()).unwrap(),
                None => db.delete_cf(&family, "format").unwrap(),
            }
        }
        let options = StorageOptions { cache_bytes: 8 << 20, write_buffer_bytes: 8 << 20 };
        let metrics = Arc::new(Metrics::new().unwrap());
        let error = Storage::open(folder.path(), options, metrics).err().unwrap().to_string();
        assert!(error.contains(&format!("has format {found}")), "{error}");
    }
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
        let records: Vec<_> = cluster
            .validators
            .iter()
            .map(|v| v.storage.finalized(sequence).unwrap().unwrap())
            .collect();
        assert!(records.iter().all(|record| *record == records[0]), "sequence {sequence}");
    }
    // It can itself serve what it learnt, up to certificates that it kept.
    assert!(cluster.validators[3].storage.records(Epoch(0), Sequence(1)).unwrap().is_some());
    assert_eq!(
        cluster.validators[3].storage.lane(NodeId(0), Height(0), Height(3)).unwrap().len(),
        3
    );
}

#[test]
fn a_vote_is_remembered_before_its_decision() {
    let mut cluster = Cluster::new(4);
    cluster.run_until("all know what they signed", |c| {
        c.validators.iter().all(|v| v.engine.role() == Role::Validator)
    });
    // Only the leader and one follower are up: both vote, nothing is decided.
    cluster.validators[2].down = true;
    cluster.validators[3].down = true;
    cluster.submit(0, &payload(1, 10));
    let voted = |c: &Cluster, i: usize| c.recover(i).proposal.is_some();
    cluster.run_until("both voted", |c| voted(c, 0) && voted(c, 1));
    let before = cluster.recover(0);
    cluster.restart(0);
    cluster.restart(1);
    let after = cluster.recover(0);
    assert_eq!(before.votes, after.votes);
    assert_eq!(before.proposal, after.proposal);
    assert_eq!(before.mark, after.mark);
    assert!(after.mark.vote.is_some());
    assert_eq!(cluster.validators[0].engine.executed(), Sequence(0));
    assert_eq!(
        cluster.validators[0].engine.role(),
        Role::Checking,
        "it signs nothing before the others said what it signed"
    );
    for validator in &mut cluster.validators {
        validator.down = false;
    }
    // No turn may show a violation: whoever voted does not vote otherwise now.
    cluster.run_until("it is decided", |c| c.all_at_least(Sequence(1)));
}

#[test]
fn an_epoch_ends_on_disk_and_a_laggard_is_told_so() {
    let mut cluster = Cluster::new(4);
    let chain_id = cluster.genesis.chain_id();
    cluster.submit(1, &payload(1, 100));
    cluster.run_until("a decision", |c| c.all_at_least(Sequence(1)));
    cluster.validators[3].down = true;
    let parameters = Parameters { checkpoint_interval: 8, window: 64, ..Parameters::default() };
    let reconfig = Reconfig {
        epoch: Epoch(0),
        valid_until_ms: WALL + 60_000,
        change: Change::SetParameters(parameters),
        ready: None,
    };
    let order = SignedReconfig {
        admin: admin().sign(&reconfig.signing_message(chain_id)),
        reconfig,
        new_key: None,
        old_key: None,
    };
    let now = cluster.now();
    cluster.validators[0].engine.handle(now, Input::Reconfigure(Box::new(order)));
    cluster.run_until("the next epoch", |c| {
        c.validators[..3].iter().all(|v| v.engine.epoch() == Epoch(1))
    });
    for i in 0..30 {
        cluster.submit(i as usize % 3, &payload(100 + i, 500));
        cluster.step();
    }
    let far = Sequence(cluster.validators[0].engine.executed().0 + 10);
    let mut n = 200;
    while cluster.validators[0].engine.executed() < far {
        n += 1;
        cluster.submit(0, &payload(n, 10));
        cluster.step();
    }
    let storage = &cluster.validators[0].storage;
    let end = storage.epoch_certificate(Epoch(0)).unwrap().unwrap().state.sequence;
    let recovered = cluster.recover(0);
    assert_eq!(
        (recovered.validators.epoch, recovered.validators.parameters),
        (Epoch(1), parameters)
    );
    assert_eq!((recovered.opening.sequence, recovered.previous.unwrap().epoch), (end, Epoch(0)));
    assert!(recovered.successor.is_none());
    assert!(recovered.undecided.iter().all(|vertex| vertex.header().epoch == Epoch(1)));
    assert!(recovered.certified.is_some_and(|(sequence, ..)| sequence > end));
    assert_eq!(storage.finalized(end).unwrap().unwrap().epoch, Epoch(0));
    assert_eq!(storage.finalized(end.next()).unwrap().unwrap().epoch, Epoch(1));
    match storage.records(Epoch(0), Sequence(1)).unwrap().unwrap() {
        Message::Records { epoch, records, proof } => {
            assert_eq!(
                (epoch, records.last().unwrap().proposal.sequence, proof.sequence()),
                (Epoch(0), end, end)
            );
        }
        other => panic!("{other:?}"),
    }
    match storage.records(Epoch(0), end.next()).unwrap().unwrap() {
        Message::Stable(certificate) => assert_eq!(certificate.state.sequence, end),
        other => panic!("{other:?}"),
    }
    assert_eq!(storage.records(Epoch(2), end.next()).unwrap(), None);
    // The laggard learns all of it from the stores, and restarts in the new epoch like the others.
    cluster.validators[3].down = false;
    cluster.run_until("the fourth follows", |c| {
        c.validators[3].engine.epoch() == Epoch(1) && c.all_at_least(far)
    });
    for i in 0..4 {
        cluster.restart(i);
        assert_eq!(cluster.validators[i].engine.epoch(), Epoch(1));
    }
    cluster.submit(3, &payload(9_999, 10));
    let goal = cluster.validators[3].engine.executed().next();
    cluster.run_until("the epoch goes on", |c| c.all_at_least(goal));
}

#[test]
fn evidence_that_counted_is_kept_by_every_store() {
    let mut cluster = Cluster::new(4);
    cluster.run_until("all know what they signed", |c| {
        c.validators.iter().all(|v| v.engine.role() == Role::Validator)
    });
    let domain = Domain { chain_id: cluster.genesis.chain_id(), epoch: Epoch(0) };
    let key = SecretKey::from_seed(&cluster.validators[3].seed).unwrap();
    cluster.liar = Some(NodeId(3));
    for data in [b"one branch".to_vec(), b"another".to_vec()] {
        let payload = Payload { data, ..payload(1, 4) };
        let vertex = CheckedVertex::seal(
            &domain,
            &key,
            NodeId(3),
            Tip::default(),
            vec![],
            WALL + 1,
            vec![payload],
            vec![],
        );
        let message = Message::Vertex(Arc::new(vertex.vertex().clone()));
        cluster.flying.push_back((NodeId(3), NodeId(0), message));
    }
    cluster.validators[3].down = true;
    cluster.run_until("it counts", |c| {
        c.validators[..3].iter().all(|v| v.storage.evidence(0, 9).unwrap().1 == 1)
    });
    let found: Vec<_> =
        cluster.validators[..3].iter().map(|v| v.storage.evidence(0, 9).unwrap().0).collect();
    assert!(found.iter().all(|one| *one == found[0]));
    let counted = &found[0][0];
    assert_eq!(
        (counted.offence.accused, counted.offence.kind),
        (NodeId(3), OffenceKind::Fork(Height(1)))
    );
    assert!(matches!(counted.evidence, Evidence::Fork(..)));
    assert_eq!(cluster.validators[0].storage.evidence(1, 9).unwrap(), (vec![], 1));

    // As a file it verifies with nothing else, and not when a word in it is changed.
    let members = cluster.genesis.members();
    let file = evidence::item(domain.chain_id, 0, counted, &members[3]);
    let file: EvidenceItem = serde_json::from_slice(&serde_json::to_vec(&file).unwrap()).unwrap();
    let proven = evidence::verify(&file, &MlDsa87).unwrap();
    assert!(
        proven.told().contains("node-3")
            && proven.told().contains("two different vertices of height 1"),
        "{}",
        proven.told()
    );
    let genesis = cluster.genesis.clone();
    let signed = SignedGenesis { signature: admin().sign(&genesis.signing_message()), genesis };
    proven.check_genesis(&signed, &MlDsa87).unwrap();
    let framed = EvidenceItem {
        accused: Accused { key: hex::encode(members[2].key.as_bytes()), ..file.accused.clone() },
        ..file.clone()
    };
    assert_eq!(evidence::verify(&framed, &MlDsa87), Err(Refused::Signature));
    let renamed = EvidenceItem {
        accused: Accused { name: "node-2".into(), ..file.accused.clone() },
        ..file.clone()
    };
    let renamed = evidence::verify(&renamed, &MlDsa87).unwrap().check_genesis(&signed, &MlDsa87);
    assert!(matches!(renamed, Err(Refused::OtherKey { .. })));
    let elsewhere = EvidenceItem { chain_id: Hash([1; 32]).to_string(), ..file.clone() };
    assert_eq!(evidence::verify(&elsewhere, &MlDsa87), Err(Refused::Signature));
    assert!(matches!(
        evidence::verify(&EvidenceItem { epoch: 1, ..file.clone() }, &MlDsa87),
        Err(Refused::Told { field: "epoch", .. })
    ));
    assert!(matches!(
        evidence::verify(&EvidenceItem { evidence: "AAAA".into(), ..file }, &MlDsa87),
        Err(Refused::Field { .. })
    ));
}
