//! What a turn has written comes back after a start, stays as long as it must, and can be served to
//! peers.

use cretoai_consensus::{
    MAX_RECORDS, Message,
    engine::{Execution, Mark, Recovered, Turn, Write},
};
use cretoai_control::keys::SecretKey;
use cretoai_node::{
    metrics::Metrics,
    storage::{Storage, StorageOptions},
};
use cretoai_types::{
    Ballot, Certificate, ChainState, CheckedVertex, Checkpoint, CheckpointCertificate,
    CheckpointState, Domain, Epoch, FaultModel, Genesis, GenesisMember, Hash, MAX_FRAME, NewView,
    NodeId, Outcome, Parameters, Payload, Phase, Prepared, Proof, Proposal, Record, Sequence,
    Signature, SignedGenesis, Tip, Validators, View, ViewChange, ViewChangeHead, Vote, encode,
};
use std::{collections::BTreeMap, path::Path, sync::Arc};

struct Disk {
    folder: tempfile::TempDir,
    storage: Storage,
    genesis: Genesis,
    state: ChainState,
    validators: Arc<Validators>,
}

fn open(folder: &Path) -> Storage {
    let options = StorageOptions { cache_bytes: 8 << 20, write_buffer_bytes: 8 << 20 };
    Storage::open(folder, options, Arc::new(Metrics::new().unwrap())).unwrap()
}

fn signature(byte: u8) -> Signature {
    Signature(Box::new([byte; Signature::SIZE]))
}

fn key(n: u8) -> SecretKey {
    SecretKey::from_seed(&[n; 32]).unwrap()
}

impl Disk {
    fn new() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let storage = open(folder.path());
        let member = |n: u8| GenesisMember {
            name: format!("node-{n}"),
            key: key(n).public_key().clone(),
            proof: signature(n),
        };
        let genesis = Genesis {
            cluster_uid: "test".into(),
            admin_key: key(99).public_key().clone(),
            members: (0..4).map(member).collect(),
            fault_model: FaultModel::Byzantine,
            parameters: Parameters::default(),
            created_ms: 1_000,
        };
        storage
            .put_genesis(
                &SignedGenesis { genesis: genesis.clone(), signature: signature(0) },
                Hash([1; 32]),
            )
            .unwrap();
        let state = ChainState::at_genesis(&genesis);
        let validators = Arc::new(genesis.validators());
        Self { folder, storage, genesis, state, validators }
    }

    fn write(&self, writes: Vec<Write>) {
        self.storage.write(&Turn { writes, sync: true, ..Turn::default() }).unwrap();
    }

    fn restart(self) -> (Self, Recovered) {
        let Self { folder, storage, genesis, state, validators } = self;
        drop(storage);
        let storage = open(folder.path());
        let recovered = storage.recover(&genesis, key(0).public_key()).unwrap();
        (Self { folder, storage, genesis, state, validators }, recovered)
    }

    fn domain(&self) -> Domain {
        Domain { chain_id: self.genesis.chain_id(), epoch: self.validators.epoch }
    }

    fn proposal(&self) -> Proposal {
        let (sequence, prev) = (self.state.sequence.next(), self.state.chain_hash);
        Proposal {
            sequence,
            prev,
            time_ms: self.state.time_ms + 1,
            origin_view: View(0),
            cut: self.state.tips.clone(),
        }
    }

    fn vote(&self, phase: Phase, sequence: u64) -> Vote {
        let ballot = Ballot {
            epoch: self.validators.epoch,
            phase,
            view: View(2),
            sequence: Sequence(sequence),
            digest: Hash([4; 32]),
            voter: NodeId(0),
        };
        Vote { ballot, signature: signature(9) }
    }

    fn certificate(&self, phase: Phase, sequence: Sequence, voters: u32) -> Certificate {
        let votes = (0..voters).map(|id| (NodeId(id), signature(id as u8))).collect();
        Certificate {
            epoch: self.validators.epoch,
            phase,
            view: View(0),
            sequence,
            digest: Hash([5; 32]),
            votes,
        }
    }

    fn checkpoint(&self, successor: Option<Hash>) -> Arc<CheckpointCertificate> {
        let state = CheckpointState {
            epoch: self.validators.epoch,
            sequence: self.state.sequence,
            chain_hash: self.state.chain_hash,
            tips: self.state.tips.clone(),
            root: self.state.root(&self.validators),
            successor,
        };
        Arc::new(CheckpointCertificate { state, signatures: vec![(NodeId(1), signature(1))] })
    }

    /// The next execution; `padding` makes its record large.
    fn execution(&mut self, prove: bool, padding: usize) -> Arc<Execution> {
        let record = Record {
            proposal: self.proposal(),
            vertices: vec![Hash([7; 32]); padding],
            outcomes: Hash([8; 32]),
        };
        let sequence = record.proposal.sequence;
        let chain_hash = record.chain_hash(&self.domain());
        let time_ms = record.proposal.time_ms;
        let tips = self.state.tips.clone();
        let validators = Arc::clone(&self.validators);
        self.state.executed(&validators, sequence, View(0), chain_hash, time_ms, tips);
        let proof = prove.then(|| Proof::Commit(self.certificate(Phase::Commit, sequence, 3)));
        Arc::new(Execution {
            epoch: self.validators.epoch,
            record,
            chain_hash,
            proof,
            vertices: vec![],
            state: self.state.clone(),
            evidence: vec![],
            successor: None,
        })
    }

    fn execute(&mut self, prove: bool, padding: usize) {
        let execution = self.execution(prove, padding);
        self.write(vec![Write::Execution(execution)]);
    }

    /// Every record that is there can be served: in answers that fit, each of which ends with a
    /// proof.
    fn serves_everything_up_to(&self, last: u64) {
        for from in 1..=last {
            match self.storage.records(Epoch(0), Sequence(from)).unwrap() {
                Some(message @ Message::Records { .. }) => {
                    assert!(encode(&message).len() <= MAX_FRAME, "from {from}");
                    let Message::Records { epoch, records, proof } = message else {
                        unreachable!()
                    };
                    assert_eq!((epoch, records[0].proposal.sequence), (Epoch(0), Sequence(from)));
                    assert!(records.len() <= MAX_RECORDS);
                    assert_eq!(
                        records.last().unwrap().proposal.sequence,
                        proof.sequence(),
                        "from {from}"
                    );
                }
                other => panic!("from {from}: {other:?}"),
            }
        }
    }
}

#[test]
fn everything_that_is_signed_comes_back() {
    let mut disk = Disk::new();
    let (head_disk, at_first) = disk.restart();
    disk = head_disk;
    assert_eq!(
        (at_first.state.sequence, at_first.votes.len(), at_first.stale, at_first.mark),
        (Sequence(0), 0, false, Mark::default())
    );
    let vertex = CheckedVertex::seal(
        &disk.domain(),
        &key(2),
        NodeId(2),
        Tip::default(),
        vec![],
        1_001,
        vec![],
        vec![],
    );
    let prepare = disk.vote(Phase::Prepare, 1);
    let commit = disk.vote(Phase::Commit, 1);
    let proposed = (disk.proposal(), disk.vote(Phase::PrePrepare, 1));
    let prepared = Prepared {
        certificate: disk.certificate(Phase::Prepare, Sequence(1), 3),
        proposal: disk.proposal(),
    };
    let head = ViewChangeHead {
        epoch: Epoch(0),
        view: View(2),
        node: NodeId(0),
        executed: Sequence(0),
        chain_hash: disk.state.chain_hash,
        prepared: None,
    };
    let change = Arc::new(ViewChange {
        head: head.clone(),
        signature: signature(3),
        proof: None,
        prepared: None,
    });
    let heads = vec![(head, signature(3))];
    let new_view = Arc::new(NewView {
        epoch: Epoch(0),
        view: View(2),
        heads,
        proof: None,
        prepared: Some(prepared.clone()),
        signature: signature(4),
    });
    let checkpoint = Checkpoint {
        state: disk.checkpoint(None).state.clone(),
        node: NodeId(0),
        signature: signature(5),
    };
    let mark = Mark {
        view: View(2),
        vote: Some((View(2), Sequence(1), Phase::Commit)),
        ..Mark::default()
    };
    let vertex = Arc::new(vertex);
    disk.write(vec![
        Write::Vertex(Arc::clone(&vertex)),
        Write::ViewChange(Arc::clone(&change)),
        Write::NewView(Arc::clone(&new_view)),
        Write::Vote { vote: prepare.clone(), proposed: Some(proposed.clone()) },
        Write::Prepared(prepared.clone()),
        Write::Vote { vote: commit.clone(), proposed: None },
        Write::Checkpoint(checkpoint.clone()),
        Write::Stale,
        Write::Mark(mark),
    ]);
    let (_, back) = disk.restart();
    assert_eq!(back.undecided, [vertex]);
    assert_eq!((back.view_change, back.new_view), (Some(change), Some(new_view)));
    assert_eq!(
        (back.votes, back.proposal, back.prepared),
        (vec![prepare, commit], Some(proposed), Some(prepared))
    );
    assert_eq!((back.checkpoint, back.mark, back.stale), (Some(checkpoint), mark, true));
}

#[test]
fn a_decision_comes_back_with_its_state_and_its_proof() {
    let mut disk = Disk::new();
    disk.execute(true, 1);
    disk.execute(true, 2);
    // A successor that is not opened yet.
    let mut next = disk.validators.as_ref().clone();
    next.epoch = Epoch(1);
    let next = Arc::new(next);
    disk.state.successor = Some(next.hash());
    let mut last = Arc::unwrap_or_clone(disk.execution(false, 0));
    last.state.successor = Some(next.hash());
    last.successor = Some(Arc::clone(&next));
    disk.state = last.state.clone();
    disk.write(vec![Write::Execution(Arc::new(last))]);
    let (disk, back) = disk.restart();
    assert_eq!(back.state, disk.state);
    assert_eq!(back.successor.as_deref(), Some(next.as_ref()));
    let (sequence, chain_hash, proof) = back.certified.unwrap();
    assert_eq!((sequence, proof.sequence()), (Sequence(2), Sequence(2)));
    assert_eq!(chain_hash, disk.storage.finalized(Sequence(2)).unwrap().unwrap().chain_hash);
}

#[test]
fn a_stable_checkpoint_takes_the_place_of_what_lies_below_it() {
    let mut disk = Disk::new();
    for _ in 0..64 {
        disk.execute(true, 1);
    }
    disk.write(vec![
        Write::Vote {
            vote: disk.vote(Phase::Prepare, 64),
            proposed: Some((
                Proposal { sequence: Sequence(64), ..disk.proposal() },
                disk.vote(Phase::PrePrepare, 64),
            )),
        },
        Write::Vote { vote: disk.vote(Phase::Commit, 64), proposed: None },
        Write::Prepared(Prepared {
            certificate: disk.certificate(Phase::Prepare, Sequence(64), 3),
            proposal: disk.proposal(),
        }),
    ]);
    let stable = disk.checkpoint(None);
    // The turn that makes it stable votes for the next sequence.
    let newer = disk.vote(Phase::Prepare, 65);
    disk.write(vec![
        Write::Vote { vote: newer.clone(), proposed: None },
        Write::Stable(Arc::clone(&stable)),
    ]);
    let (mut disk, back) = disk.restart();
    assert_eq!((back.votes, back.proposal, back.prepared), (vec![newer], None, None));
    assert_eq!(back.stable, Some(Arc::clone(&stable)));
    assert_eq!(
        back.certified.map(|(sequence, _, proof)| (sequence, proof)),
        Some((Sequence(64), Proof::Checkpoint(stable.as_ref().clone())))
    );
    assert_eq!(disk.storage.proof(Sequence(63)).unwrap(), None, "its commit certificate is gone");
    assert_eq!(
        disk.storage.proof(Sequence(64)).unwrap(),
        Some(Proof::Checkpoint(stable.as_ref().clone()))
    );
    disk.serves_everything_up_to(64);

    // One that a pause made is kept only until the next.
    disk.execute(true, 1);
    let pause = disk.checkpoint(None);
    disk.write(vec![Write::Stable(Arc::clone(&pause))]);
    assert_eq!(
        disk.storage.proof(Sequence(65)).unwrap(),
        Some(Proof::Checkpoint(pause.as_ref().clone()))
    );
    for _ in 66..=128 {
        disk.execute(true, 1);
    }
    disk.write(vec![Write::Stable(disk.checkpoint(None))]);
    assert_eq!(disk.storage.proof(Sequence(65)).unwrap(), None);
    disk.serves_everything_up_to(128);
}

#[test]
fn every_range_can_be_served_for_ever() {
    let mut disk = Disk::new();
    // Large records, small ones, and a range that was learnt with one proof.
    for n in 1..=300_u64 {
        let learnt = (100..150).contains(&n);
        disk.execute(!learnt, if n < 60 { 1_900 } else { 3 });
        if n % 50 == 20 {
            // A restart between two proofs.
            disk = disk.restart().0;
        }
    }
    // A proof that was learnt alone, after its record.
    disk.execute(false, 3);
    let late = Proof::Commit(disk.certificate(Phase::Commit, Sequence(301), 3));
    disk.write(vec![Write::Proof(Sequence(301), late.clone())]);
    assert_eq!(disk.storage.proof(Sequence(301)).unwrap(), Some(late));
    // Checkpoints come late: those below were not signed while this node learnt.
    let far = disk.checkpoint(None);
    disk.write(vec![Write::Stable(far)]);
    disk.serves_everything_up_to(301);
}

#[test]
fn an_epoch_begins_with_nothing_of_the_old_one() {
    let mut disk = Disk::new();
    for _ in 0..3 {
        disk.execute(true, 1);
    }
    let mut next = disk.validators.as_ref().clone();
    next.epoch = Epoch(1);
    next.members.remove(3);
    let next = Arc::new(next);
    let old_vertex = Arc::new(CheckedVertex::seal(
        &disk.domain(),
        &key(0),
        NodeId(0),
        Tip::default(),
        vec![],
        1_001,
        vec![],
        vec![],
    ));
    disk.write(vec![
        Write::Vertex(Arc::clone(&old_vertex)),
        Write::Vote {
            vote: disk.vote(Phase::Prepare, 3),
            proposed: Some((disk.proposal(), disk.vote(Phase::PrePrepare, 3))),
        },
        Write::Vote { vote: disk.vote(Phase::Commit, 3), proposed: None },
        Write::Prepared(Prepared {
            certificate: disk.certificate(Phase::Prepare, Sequence(4), 3),
            proposal: disk.proposal(),
        }),
    ]);
    let certificate = disk.checkpoint(Some(next.hash()));
    let state = disk.state.opened(&disk.validators, &next);
    let mark = Mark { epoch: Epoch(1), ..Mark::default() };
    disk.write(vec![
        Write::Stable(Arc::clone(&certificate)),
        Write::Epoch {
            certificate: Arc::clone(&certificate),
            validators: Arc::clone(&next),
            state: Box::new(state.clone()),
        },
        Write::Mark(mark),
    ]);
    let (mut disk, back) = disk.restart();
    assert_eq!(
        (back.validators.as_ref(), back.previous.as_deref()),
        (next.as_ref(), Some(disk.validators.as_ref()))
    );
    assert_eq!((back.state, back.mark), (state.clone(), mark));
    assert_eq!(
        (back.opening.sequence, back.opening.chain_hash),
        (Sequence(3), disk.state.chain_hash)
    );
    assert_eq!(
        (back.opened_by.as_ref(), back.stable.as_ref()),
        (Some(&certificate), Some(&certificate))
    );
    assert!(
        back.votes.is_empty()
            && back.proposal.is_none()
            && back.prepared.is_none()
            && back.successor.is_none()
    );
    assert!(back.view_change.is_none() && back.new_view.is_none() && back.certified.is_none());
    assert!(back.undecided.is_empty(), "a vertex of the old epoch counts only there");
    assert_eq!(
        back.left_behind,
        [Arc::clone(&old_vertex)],
        "its author has to seal what was in it anew"
    );
    let of_another = disk.storage.recover(&disk.genesis, key(1).public_key()).unwrap();
    assert!(of_another.left_behind.is_empty());
    // It is still served.
    assert_eq!(
        disk.storage
            .lane(NodeId(0), cretoai_types::Height(0), cretoai_types::Height(9))
            .unwrap()
            .len(),
        1
    );

    (disk.validators, disk.state) = (next, state);
    disk.execute(true, 1);
    match disk.storage.records(Epoch(0), Sequence(2)).unwrap().unwrap() {
        Message::Records { records, proof, .. } => {
            assert_eq!((records.len(), proof.sequence()), (2, Sequence(3)), "never beyond its end")
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        disk.storage.records(Epoch(0), Sequence(4)).unwrap(),
        Some(Message::Stable(certificate))
    );
    match disk.storage.records(Epoch(1), Sequence(4)).unwrap().unwrap() {
        Message::Records { epoch, records, .. } => {
            assert_eq!((epoch, records.len()), (Epoch(1), 1))
        }
        other => panic!("{other:?}"),
    }
    assert_eq!(
        disk.storage.records(Epoch(1), Sequence(3)).unwrap(),
        None,
        "sequence 3 is not of epoch 1"
    );
}

/// A vertex with this payload alone.
fn carrying(disk: &Disk, author: u8, payload: &Payload) -> Arc<CheckedVertex> {
    Arc::new(CheckedVertex::seal(
        &disk.domain(),
        &key(author),
        NodeId(author.into()),
        Tip::default(),
        vec![],
        1_001,
        vec![payload.clone()],
        vec![],
    ))
}

/// Decisions that order the same payload, one after the other.
fn ordering(disk: &mut Disk, payload: &Payload, outcomes: &[Outcome]) -> Vec<Write> {
    (0..)
        .zip(outcomes)
        .map(|(author, outcome)| {
            let vertices = vec![(carrying(disk, author, payload), vec![*outcome])];
            let execution = Arc::unwrap_or_clone(disk.execution(true, 1));
            Write::Execution(Arc::new(Execution { vertices, ..execution }))
        })
        .collect()
}

#[test]
fn outcomes_do_not_depend_on_how_many_decisions_a_turn_executes() {
    use Outcome::{Crowded, Duplicate, Early, Executed, Expired};
    let duplicate = Duplicate { executed_at: Sequence(1) };
    for outcomes in [
        vec![Executed, Expired],
        vec![Executed, Expired, Early],
        vec![Expired, Expired],
        vec![Expired, Executed, Expired],
        vec![Crowded, Early, Executed, duplicate, Expired],
        vec![Crowded, Expired, Early],
    ] {
        let payload =
            Payload { key: [3; 16], valid_until_ms: 9_000, topic: None, data: b"once".to_vec() };
        let (mut live, mut late) = (Disk::new(), Disk::new());
        for write in ordering(&mut live, &payload, &outcomes) {
            live.write(vec![write]);
        }
        let turn = ordering(&mut late, &payload, &outcomes);
        late.write(turn);
        let id = payload.id(live.genesis.chain_id());
        let [live, late] = [live, late].map(|disk| disk.storage.location(&id).unwrap().unwrap());
        assert_eq!((live.sequence, live.outcome), (late.sequence, late.outcome), "{outcomes:?}");
    }
}

/// Every file of a folder with its bytes.
fn files(folder: &Path) -> BTreeMap<String, Vec<u8>> {
    let entries = std::fs::read_dir(folder).unwrap().map(|entry| entry.unwrap());
    let data = entries.filter(|entry| !entry.file_name().to_string_lossy().starts_with("LO"));
    data.map(|e| (e.file_name().into_string().unwrap(), std::fs::read(e.path()).unwrap())).collect()
}

/// A store with tables and a log, closed.
fn closed() -> tempfile::TempDir {
    let mut disk = Disk::new();
    for _ in 0..20 {
        disk.execute(true, 50);
    }
    let mut disk = disk.restart().0;
    for _ in 0..20 {
        disk.execute(true, 50);
    }
    let Disk { folder, storage, .. } = disk;
    drop(storage);
    folder
}

fn refused(folder: &Path) -> String {
    let options = StorageOptions { cache_bytes: 8 << 20, write_buffer_bytes: 8 << 20 };
    let metrics = Arc::new(Metrics::new().unwrap());
    match Storage::open(folder, options, metrics) {
        Ok(_) => panic!("a damaged store was opened"),
        Err(error) => {
            assert!(error.is_damage(), "{error}");
            error.to_string()
        }
    }
}

#[test]
fn nothing_is_created_over_the_rests_of_a_database() {
    type Damage = (&'static str, fn(&Path));
    let manifest = |folder: &Path| {
        folder.join(std::fs::read_to_string(folder.join("CURRENT")).unwrap().trim())
    };
    let damages: [Damage; 4] = [
        ("CURRENT is missing", |folder| {
            std::fs::remove_file(folder.join("CURRENT")).unwrap();
        }),
        ("CURRENT names no MANIFEST", |folder| {
            std::fs::write(folder.join("CURRENT"), "").unwrap();
        }),
        ("is missing", |_| {}),
        ("ends within a record", |_| {}),
    ];
    for (at, (said, damage)) in damages.into_iter().enumerate() {
        let folder = closed();
        damage(folder.path());
        if at == 2 {
            std::fs::remove_file(manifest(folder.path())).unwrap();
        }
        if at == 3 {
            let bytes = std::fs::read(manifest(folder.path())).unwrap();
            std::fs::write(manifest(folder.path()), &bytes[..bytes.len() - 7]).unwrap();
        }
        let before = files(folder.path());
        for _ in 0..3 {
            let told = refused(folder.path());
            assert!(told.contains(said) && told.contains("replace this validator"), "{told}");
            assert_eq!(files(folder.path()), before, "{said}");
        }
    }
}

#[test]
fn a_flipped_bit_in_a_log_is_damage_and_a_torn_end_is_not() {
    let log = |folder: &Path| {
        let logs = files(folder).into_iter().filter(|(name, _)| name.ends_with(".log"));
        logs.max_by_key(|(_, bytes)| bytes.len()).unwrap()
    };
    let folder = closed();
    let (name, mut bytes) = log(folder.path());
    assert!(bytes.len() > 10_000, "{name} has {} bytes", bytes.len());
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    std::fs::write(folder.path().join(&name), &bytes).unwrap();
    let told = refused(folder.path());
    assert!(told.contains("damaged"), "{told}");
    // Only what a crash cut off at the end is forgiven: it was never durable.
    let folder = closed();
    let (name, bytes) = log(folder.path());
    std::fs::write(folder.path().join(&name), &bytes[..bytes.len() - 20]).unwrap();
    let storage = open(folder.path());
    assert_eq!(storage.newest().unwrap().unwrap().record.proposal.sequence, Sequence(39));
}
