//! The canonical encoding: every object reads back what it wrote, nothing else reads, damage never panics, and the ids
//! of fixed objects never change by accident.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

use borsh::{BorshDeserialize, BorshSerialize};
use cretoai_consensus::{
    Ballot, Certificate, CertificateError, CheckedVertex, Domain, Epoch, FaultModel, Genesis, GenesisMember, Hash, Height, Link, Message,
    NodeId, Outcome, Payload, Phase, Proposal, PublicKey, Quorum, Record, Sequence, Signature, SignedGenesis, Signer, Status, Tip,
    Verifier, Vertex, VertexError, View, Vote, decode, encode,
};
use proptest::prelude::*;
use std::{fmt::Debug, sync::Arc};

// ---- cheap keys

struct Key(PublicKey);

impl Key {
    fn new(number: u8) -> Self {
        Self(PublicKey(Box::new([number; PublicKey::SIZE])))
    }
}

fn mac(key: &PublicKey, message: &[u8]) -> [u8; 32] {
    *blake3::keyed_hash(&[key.as_bytes()[0]; 32], message).as_bytes()
}

impl Signer for Key {
    fn public_key(&self) -> &PublicKey {
        &self.0
    }

    fn sign(&self, message: &[u8]) -> Signature {
        let mut bytes = [0; Signature::SIZE];
        bytes[..32].copy_from_slice(&mac(&self.0, message));
        Signature(Box::new(bytes))
    }
}

struct Check;

impl Verifier for Check {
    fn verify(&self, key: &PublicKey, message: &[u8], signature: &Signature) -> bool {
        signature.as_bytes()[..32] == mac(key, message)
    }
}

// ---- fixed objects

fn domain() -> Domain {
    Domain { chain_id: Hash::of_bytes(b"chain"), epoch: Epoch(0) }
}

fn payload(number: u8) -> Payload {
    Payload { key: [number; 16], valid_until_ms: 1_790_000_030_000, data: vec![number; 3] }
}

fn vertex() -> CheckedVertex {
    let previous = Tip { height: Height(6), id: Hash::of_bytes(b"parent") };
    let link = Link { author: NodeId(2), tip: Tip { height: Height(4), id: Hash::of_bytes(b"link") } };
    CheckedVertex::seal(&domain(), &Key::new(2), NodeId(1), previous, vec![link], 1_790_000_000_000, vec![payload(1), payload(2)])
}

fn proposal() -> Proposal {
    Proposal {
        sequence: Sequence(9),
        prev: Hash::of_bytes(b"prev"),
        time_ms: 1_790_000_000_001,
        origin_view: View(0),
        cut: vec![Tip::default(), vertex().tip()],
    }
}

fn record() -> Record {
    Record { proposal: proposal(), vertices: vec![vertex().id()] }
}

fn genesis() -> Genesis {
    let member = |number: u8| {
        let name = format!("m-{number}");
        let proof = Key::new(number).sign(&Genesis::possession_message("uid", &name));
        GenesisMember { name, key: Key::new(number).0, proof }
    };
    Genesis {
        cluster_uid: "uid".into(),
        admin_key: Key::new(99).0,
        members: (1..=4).map(member).collect(),
        fault_model: FaultModel::Byzantine,
        created_ms: 1_790_000_000_000,
    }
}

fn vote(phase: Phase, voter: u32, digest: Hash) -> Vote {
    let ballot = Ballot { phase, view: View(0), sequence: Sequence(9), digest, voter: NodeId(voter) };
    Vote { signature: Key::new(voter as u8 + 1).sign(&ballot.signing_message(&domain())), ballot }
}

fn certificate(phase: Phase, voters: &[u32]) -> Certificate {
    let digest = proposal().digest(&domain());
    let votes = voters.iter().map(|voter| {
        let phase = if phase == Phase::Prepare && *voter == 0 { Phase::PrePrepare } else { phase };
        (NodeId(*voter), vote(phase, *voter, digest).signature)
    });
    Certificate { phase, view: View(0), sequence: Sequence(9), digest, votes: votes.collect() }
}

fn messages() -> Vec<Message> {
    let digest = proposal().digest(&domain());
    let vertex = Arc::new(vertex().vertex().clone());
    vec![
        Message::Vertex(Arc::clone(&vertex)),
        Message::Acknowledge(vec![Tip::default(), proposal().cut[1]]),
        Message::PrePrepare { proposal: proposal(), vote: vote(Phase::PrePrepare, 0, digest) },
        Message::Vote(vote(Phase::Commit, 1, digest)),
        Message::Status(Status {
            view: View(0),
            executed: Sequence(8),
            chain_hash: Hash::of_bytes(b"prev"),
            voted: 2,
            acknowledged: proposal().cut,
            clock_ms: 5,
        }),
        Message::FetchRecords { from: Sequence(3) },
        Message::Records { records: vec![record()], certificate: certificate(Phase::Commit, &[0, 1, 2]) },
        Message::FetchLane { author: NodeId(1), above: Height(2), up_to: Height(9) },
        Message::Fetched(vertex),
    ]
}

// ---- round trips and damage

/// Reads back, and refuses every truncation, anything left over, and (or as another value) every flipped byte.
fn is_strict<T: BorshSerialize + BorshDeserialize + PartialEq + Debug>(value: &T) {
    let bytes = encode(value);
    assert_eq!(decode::<T>(&bytes).as_ref(), Ok(value));
    let step = 1 + bytes.len() / 500;
    for cut in (0..bytes.len()).step_by(step) {
        assert!(decode::<T>(&bytes[..cut]).is_err(), "cut at {cut}");
    }
    let longer = [bytes.as_slice(), &[0]].concat();
    assert!(decode::<T>(&longer).is_err());
    for at in (0..bytes.len()).step_by(step) {
        for flip in [1, 0x80, 0xFF] {
            let mut changed = bytes.clone();
            changed[at] ^= flip;
            if let Ok(other) = decode::<T>(&changed) {
                assert_ne!(&other, value, "byte {at}");
                assert_eq!(encode(&other), changed, "one value has one encoding");
            }
        }
    }
}

#[test]
fn every_object_has_one_strict_encoding() {
    messages().iter().for_each(is_strict);
    is_strict(vertex().vertex());
    is_strict(&proposal());
    is_strict(&record());
    is_strict(&certificate(Phase::Prepare, &[0, 1, 3]));
    is_strict(&payload(1));
    is_strict(&SignedGenesis { signature: Key::new(99).sign(&genesis().signing_message()), genesis: genesis() });
    for outcome in [Outcome::Executed, Outcome::Duplicate { executed_at: Sequence(3) }, Outcome::Expired, Outcome::Early] {
        is_strict(&outcome);
    }
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    // A vector of 2^32 - 1 tips, and no byte of them.
    let mut bytes = encode(&Message::Acknowledge(Vec::new()));
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&[0xFF; 4]);
    assert!(decode::<Message>(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn payloads_and_proposals_read_back(
        key: [u8; 16], valid: u64, data in proptest::collection::vec(any::<u8>(), 0..400),
        sequence: u64, prev: [u8; 32], time: u64, heights in proptest::collection::vec(any::<(u64, [u8; 32])>(), 0..31),
    ) {
        let payload = Payload { key, valid_until_ms: valid, data };
        prop_assert_eq!(encode(&payload).len(), payload.encoded_len());
        prop_assert_eq!(decode::<Payload>(&encode(&payload)).unwrap(), payload);
        let cut = heights.into_iter().map(|(height, id)| Tip { height: Height(height), id: Hash(id) }).collect();
        let proposal = Proposal { sequence: Sequence(sequence), prev: Hash(prev), time_ms: time, origin_view: View(time), cut };
        prop_assert_eq!(decode::<Proposal>(&encode(&proposal)).unwrap(), proposal);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for first in 0..9 {
            let mut bytes = bytes.clone();
            if let Some(tag) = bytes.first_mut() { *tag = first; }
            if let Ok(message) = decode::<Message>(&bytes) {
                prop_assert_eq!(encode(&message), bytes);
            }
        }
    }

    #[test]
    fn a_changed_vertex_is_refused(at in 0_usize..10_000, flip in 1_u8..) {
        let mut bytes = encode(vertex().vertex());
        let at = at % bytes.len();
        bytes[at] ^= flip;
        let keys: Vec<PublicKey> = (1..=4).map(|n| Key::new(n).0).collect();
        if let Ok(changed) = decode::<Vertex>(&bytes) {
            let padding = changed.header == vertex().vertex().header && changed.payloads == vertex().vertex().payloads;
            let checked = CheckedVertex::check(changed, &domain(), &Check, |author| keys.get(author.0 as usize));
            // The cheap signature fills 32 of the 4627 bytes.
            prop_assert!(checked.is_err() || padding);
        }
    }
}

// ---- golden ids: a change here is a change of the format, and of every chain

#[test]
fn the_ids_of_fixed_objects_never_change() {
    let ids = [
        ("genesis", genesis().chain_id()),
        ("payload", payload(1).id(domain().chain_id)),
        ("vertex", vertex().id()),
        ("proposal", proposal().digest(&domain())),
        ("record", record().chain_hash(&domain())),
        ("ballot", Hash::of_bytes(&vote(Phase::Commit, 1, Hash::ZERO).ballot.signing_message(&domain()))),
        ("possession", Hash::of_bytes(&Genesis::possession_message("uid", "m-1"))),
    ];
    let text: Vec<String> = ids.iter().map(|(name, id)| format!("{name} {id}")).collect();
    assert_eq!(text.join("\n"), include_str!("golden_ids.txt").trim_end());
}

// ---- what certificates and vertices must not pass

#[test]
fn a_certificate_needs_a_quorum_of_distinct_members_in_order_with_valid_signatures() {
    let keys: Vec<PublicKey> = (1..=4).map(|n| Key::new(n).0).collect();
    let quorum = Quorum::new(4, FaultModel::Byzantine);
    let verify = |c: &Certificate| c.verify(&domain(), &keys, quorum, NodeId(0), &Check);

    assert_eq!(verify(&certificate(Phase::Commit, &[1, 2, 3])), Ok(()));
    assert_eq!(verify(&certificate(Phase::Commit, &[0, 1, 2, 3])), Ok(()));
    assert_eq!(verify(&certificate(Phase::Prepare, &[0, 2, 3])), Ok(()));
    for voters in [&[][..], &[0, 1], &[0, 1, 1], &[1, 0, 2], &[0, 1, 1, 2]] {
        assert_eq!(verify(&certificate(Phase::Commit, voters)), Err(CertificateError::Voters), "{voters:?}");
    }
    assert_eq!(verify(&certificate(Phase::Commit, &[0, 1, 4])), Err(CertificateError::Voters), "4 is no member");
    assert_eq!(verify(&certificate(Phase::Prepare, &[1, 2, 3])), Err(CertificateError::Leader));
    assert_eq!(verify(&Certificate { phase: Phase::PrePrepare, ..certificate(Phase::Commit, &[0, 1, 2]) }), Err(CertificateError::Voters));

    let good = certificate(Phase::Commit, &[0, 1, 2]);
    let signature = |c: Certificate| assert!(matches!(verify(&c), Err(CertificateError::Signature(_))), "{c:?}");
    signature(Certificate { view: View(1), ..good.clone() });
    signature(Certificate { sequence: Sequence(8), ..good.clone() });
    signature(Certificate { digest: Hash::ZERO, ..good.clone() });
    let mut stolen = good.clone();
    stolen.votes[1].1 = stolen.votes[0].1.clone();
    signature(stolen);
    // PREPAREs do not pass for COMMITs, nor the other way round.
    signature(Certificate { phase: Phase::Commit, ..certificate(Phase::Prepare, &[0, 1, 2]) });
    signature(Certificate { phase: Phase::Prepare, ..good.clone() });
    let other = Domain { epoch: Epoch(1), ..domain() };
    assert!(good.verify(&other, &keys, quorum, NodeId(0), &Check).is_err(), "another epoch");
}

#[test]
fn a_malformed_vertex_is_refused_by_name() {
    let keys: Vec<PublicKey> = (1..=4).map(|n| Key::new(n).0).collect();
    let check = |v: Vertex| CheckedVertex::check(v, &domain(), &Check, |author| keys.get(author.0 as usize)).map(|_| ());
    let good = vertex().vertex().clone();
    assert_eq!(check(good.clone()), Ok(()));
    let with = |change: &dyn Fn(&mut Vertex)| {
        let mut changed = good.clone();
        change(&mut changed);
        check(changed)
    };
    assert_eq!(with(&|v| v.header.epoch = Epoch(1)), Err(VertexError::Header));
    assert_eq!(with(&|v| v.header.author = NodeId(9)), Err(VertexError::Header));
    assert_eq!(with(&|v| v.header.height = Height(0)), Err(VertexError::Header));
    assert_eq!(with(&|v| v.header.links[0].author = NodeId(1)), Err(VertexError::Header), "a link to its own lane");
    assert_eq!(with(&|v| v.header.links.push(v.header.links[0])), Err(VertexError::Header), "two links to a lane");
    assert_eq!(with(&|v| v.header.payload_bytes += 1), Err(VertexError::Body));
    assert_eq!(with(&|v| v.payloads[0].data.clear()), Err(VertexError::Body));
    assert_eq!(with(&|v| v.payloads.swap(0, 1)), Err(VertexError::Root));
    assert_eq!(with(&|v| v.header.timestamp_ms += 1), Err(VertexError::Signature));
    assert_eq!(with(&|v| v.header.author = NodeId(0)), Err(VertexError::Signature));
}

#[test]
fn a_genesis_is_refused_by_name() {
    let sign = |genesis: Genesis| SignedGenesis { signature: Key::new(99).sign(&genesis.signing_message()), genesis }.verify(&Check);
    assert!(sign(genesis()).is_ok());
    let with = |change: &dyn Fn(&mut Genesis)| {
        let mut changed = genesis();
        change(&mut changed);
        sign(changed).unwrap_err().to_string()
    };
    assert!(with(&|g| g.members.truncate(2)).contains("names 2"));
    assert!(with(&|g| g.members.clear()).contains("names 0"));
    assert!(with(&|g| g.fault_model = FaultModel::Crash).contains("crash"));
    assert!(with(&|g| g.members[1].name = g.members[0].name.clone()).contains("m-1"));
    assert!(with(&|g| g.members[1].name = "x".repeat(254)).contains("longer"));
    assert!(with(&|g| g.members[1].key = g.members[0].key.clone()).contains("used twice"));
    assert!(with(&|g| g.members[1].key = g.admin_key.clone()).contains("used twice"));
    assert!(with(&|g| g.cluster_uid.push('x')).contains("possession"));
    let mut stolen = SignedGenesis { signature: Key::new(98).sign(&genesis().signing_message()), genesis: genesis() };
    assert!(stolen.verify(&Check).is_err());
    stolen.signature = Key::new(99).sign(&genesis().signing_message());
    stolen.genesis.created_ms += 1;
    assert!(stolen.verify(&Check).is_err());
}
