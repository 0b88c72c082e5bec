//! The canonical encoding: every object reads back what it wrote, nothing else reads, damage never
//! panics, and the ids of fixed objects never change by accident.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use borsh::{BorshDeserialize, BorshSerialize};
use common::{Check, Key, checkpoint, hash, payload, signed_head, vote_by};
use cretoai_consensus::{Message, Recalled, Status, engine::Mark};
use cretoai_types::{
    Ballot, Certificate, CertificateError, ChainState, Change, CheckedVertex,
    CheckpointCertificate, CheckpointState, Domain, Epoch, Evidence, FaultModel, Genesis, Hash,
    Height, Item, Link, MAX_ITEMS, MAX_PAYLOAD_DATA, NewView, NodeId, Offence, OffenceKind,
    Outcome, Parameters, Payload, Phase, Prepared, Proof, Proposal, Ready, Reconfig, Record,
    Sequence, SignedGenesis, SignedHeader, SignedReconfig, Signer, Tip, Topic, Validators, Vertex,
    VertexError, View, ViewChange, ViewChangeHead, Vote, decode, encode,
};
use proptest::prelude::*;
use std::{fmt::Debug, sync::Arc};

// ---- fixed objects: of a chain of four, in epoch 0

fn domain() -> Domain {
    Domain { chain_id: hash("chain"), epoch: Epoch(0) }
}

fn genesis() -> Genesis {
    common::genesis(4)
}

fn validators() -> Validators {
    genesis().validators()
}

fn vertex_with(items: Vec<Item>) -> CheckedVertex {
    let previous = Tip { height: Height(6), id: hash("parent") };
    let link = Link { author: NodeId(2), tip: Tip { height: Height(4), id: hash("link") } };
    let payloads = vec![payload(1, 3), payload(2, 3)];
    CheckedVertex::seal(
        &domain(),
        &Key::member(1),
        NodeId(1),
        previous,
        vec![link],
        1_790_000_000_000,
        payloads,
        items,
    )
}

fn vertex() -> CheckedVertex {
    vertex_with(Vec::new())
}

fn proposal() -> Proposal {
    Proposal {
        sequence: Sequence(9),
        prev: hash("prev"),
        time_ms: 1_790_000_000_001,
        origin_view: View(0),
        cut: vec![
            Tip::default(),
            vertex().tip(),
            Tip::default(),
            Tip { height: Height(3), id: hash("tip") },
        ],
    }
}

fn digest() -> Hash {
    proposal().digest(&domain())
}

fn record() -> Record {
    Record { proposal: proposal(), vertices: vec![vertex().id()], outcomes: hash("outcomes") }
}

fn vote(phase: Phase, voter: u32, digest: Hash) -> Vote {
    let ballot = Ballot {
        epoch: Epoch(0),
        phase,
        view: View(0),
        sequence: Sequence(9),
        digest,
        voter: NodeId(voter),
    };
    vote_by(&Key::member(voter), domain().chain_id, ballot)
}

fn certificate(phase: Phase, voters: &[u32]) -> Certificate {
    common::certificate(domain().chain_id, &validators(), phase, 0, 9, digest(), voters)
}

fn state() -> CheckpointState {
    CheckpointState {
        epoch: Epoch(0),
        sequence: Sequence(64),
        chain_hash: hash("chain hash"),
        tips: proposal().cut,
        root: hash("root"),
        successor: Some(hash("successor")),
    }
}

fn stable() -> CheckpointCertificate {
    common::checkpoint_certificate(domain().chain_id, &state(), &[0, 2, 3])
}

fn prepared() -> Prepared {
    Prepared { certificate: certificate(Phase::Prepare, &[0, 1, 2]), proposal: proposal() }
}

fn head(node: u32) -> ViewChangeHead {
    ViewChangeHead {
        epoch: Epoch(0),
        view: View(1),
        node: NodeId(node),
        executed: Sequence(8),
        chain_hash: hash("prev"),
        prepared: (node == 1).then(|| (View(0), digest())),
    }
}

fn view_change() -> ViewChange {
    let (head, signature) = signed_head(domain().chain_id, head(1));
    let proof = Proof::Commit(certificate(Phase::Commit, &[0, 1, 2]));
    ViewChange { head, signature, proof: Some(proof), prepared: Some(prepared()) }
}

fn new_view() -> NewView {
    let heads: Vec<_> = (1..4).map(|node| signed_head(domain().chain_id, head(node))).collect();
    let message = NewView::signing_message(Epoch(0), View(1), &heads, domain().chain_id);
    NewView {
        epoch: Epoch(0),
        view: View(1),
        heads,
        proof: Some(Proof::Checkpoint(stable())),
        prepared: Some(prepared()),
        signature: Key::member(1).sign(&message),
    }
}

fn signed_header(stamp: u64) -> SignedHeader {
    let vertex = common::vertex(
        &domain(),
        1,
        &Key::member(1),
        Tip { height: Height(6), id: hash("parent") },
        stamp,
        Vec::new(),
    );
    SignedHeader { header: vertex.header().clone(), signature: vertex.vertex().signature.clone() }
}

fn evidence() -> Vec<Evidence> {
    let (head, signature) =
        signed_head(domain().chain_id, ViewChangeHead { prepared: None, ..head(1) });
    vec![
        Evidence::Fork(Box::new(signed_header(1)), Box::new(signed_header(2))),
        Evidence::Votes(vote(Phase::Prepare, 1, digest()), vote(Phase::Prepare, 1, hash("other"))),
        Evidence::Concealed(vote(Phase::Commit, 1, digest()), head, signature),
    ]
}

fn changes() -> Vec<Change> {
    let (name, key) = ("m-4".into(), Key::member(4).0);
    vec![
        Change::Add { name, key: key.clone() },
        Change::Remove { id: NodeId(2) },
        Change::Rotate { id: NodeId(2), key: key.clone() },
        Change::Replace { id: NodeId(2), key: key.clone() },
        Change::RotateAdmin { key },
        Change::SetParameters(Parameters::default()),
    ]
}

fn reconfig(change: Change) -> Reconfig {
    let ready = Some(Ready { sequence: Sequence(64), chain_hash: hash("chain hash") });
    Reconfig { epoch: Epoch(0), valid_until_ms: 1_790_000_060_000, change, ready }
}

fn order(change: Change) -> SignedReconfig {
    let reconfig = reconfig(change);
    let chain_id = domain().chain_id;
    SignedReconfig {
        admin: Key::admin().sign(&reconfig.signing_message(chain_id)),
        new_key: Some(Key::member(4).sign(&reconfig.possession_message(chain_id))),
        old_key: Some(Key::member(2).sign(&reconfig.signing_message(chain_id))),
        reconfig,
    }
}

fn items() -> Vec<Item> {
    let orders = changes().into_iter().map(|change| Item::Reconfig(Box::new(order(change))));
    evidence()
        .into_iter()
        .map(|evidence| Item::Evidence(Box::new(evidence)))
        .chain(orders)
        .collect()
}

fn chain_state() -> ChainState {
    let mut state = ChainState::at_genesis(&genesis());
    state.executed(
        &validators(),
        Sequence(64),
        View(2),
        hash("chain hash"),
        1_790_000_000_001,
        proposal().cut,
    );
    state.bans = vec![NodeId(3)];
    state.conduct[3].offences = evidence().iter().filter_map(Evidence::offence).collect();
    state.successor = Some(hash("successor"));
    state
}

fn messages() -> Vec<Message> {
    let vertex = Arc::new(vertex_with(items().into_iter().take(4).collect()).vertex().clone());
    let status = Status {
        epoch: Epoch(0),
        view: View(1),
        active: true,
        want: View(2),
        signs: true,
        executed: Sequence(8),
        chain_hash: hash("prev"),
        stable: Sequence(0),
        voted: Some(Phase::Commit),
        acknowledged: proposal().cut,
        clock_ms: 5,
    };
    let recalled = Recalled {
        epoch: Epoch(0),
        view_change: Some(signed_head(domain().chain_id, head(2))),
        votes: vec![vote(Phase::Prepare, 2, digest()), vote(Phase::Commit, 2, digest())],
        checkpoint: Some(checkpoint(domain().chain_id, &state(), 2)),
        vertex: Some(signed_header(1)),
    };
    vec![
        Message::Vertex(Arc::clone(&vertex)),
        Message::Acknowledge { epoch: Epoch(0), tips: proposal().cut },
        Message::PrePrepare { proposal: proposal(), vote: vote(Phase::PrePrepare, 0, digest()) },
        Message::Vote(vote(Phase::Commit, 1, digest())),
        Message::Status(status),
        Message::ViewChange(Arc::new(view_change())),
        Message::NewView(Arc::new(new_view())),
        Message::Checkpoint(checkpoint(domain().chain_id, &state(), 1)),
        Message::Stable(Arc::new(stable())),
        Message::FetchRecords { epoch: Epoch(0), from: Sequence(3) },
        Message::Records {
            epoch: Epoch(0),
            records: vec![record()],
            proof: Proof::Commit(certificate(Phase::Commit, &[0, 1, 2])),
        },
        Message::FetchLane { author: NodeId(1), above: Height(2), up_to: Height(9) },
        Message::Fetched(vertex),
        Message::Recall,
        Message::Recalled(Box::new(recalled)),
        Message::FetchBranch {
            author: NodeId(1),
            tip: Tip { height: Height(9), id: hash("tip") },
            above: Height(2),
        },
    ]
}

// ---- round trips and damage

/// Reads back, and refuses every truncation, anything left over, and (or as another value) every
/// flipped byte.
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
    items().iter().for_each(is_strict);
    is_strict(vertex().vertex());
    is_strict(&proposal());
    is_strict(&record());
    is_strict(&certificate(Phase::Prepare, &[0, 1, 3]));
    is_strict(&payload(1, 3));
    is_strict(&SignedGenesis {
        signature: Key::admin().sign(&genesis().signing_message()),
        genesis: genesis(),
    });
    for fault_model in [FaultModel::Byzantine, FaultModel::Crash] {
        is_strict(&Validators { fault_model, ..validators() });
    }
    is_strict(&chain_state());
    is_strict(&state());
    is_strict(&ViewChange { proof: None, prepared: None, ..view_change() });
    is_strict(&prepared());
    is_strict(&Recalled::default());
    for kind in [
        OffenceKind::Fork(Height(7)),
        OffenceKind::Votes(true, View(1), Sequence(2)),
        OffenceKind::Concealed(View(1), Sequence(2)),
    ] {
        is_strict(&Offence { epoch: Epoch(1), accused: NodeId(2), kind });
    }
    let vote = Some((View(3), Sequence(9), Phase::PrePrepare));
    is_strict(&Mark {
        epoch: Epoch(1),
        view: View(3),
        vote,
        height: Height(4),
        checkpoint: Sequence(8),
    });
    is_strict(&Mark::default());
    for outcome in [
        Outcome::Executed,
        Outcome::Duplicate { executed_at: Sequence(3) },
        Outcome::Expired,
        Outcome::Early,
        Outcome::Crowded,
    ] {
        is_strict(&outcome);
    }
}

#[test]
fn a_set_has_one_order() {
    let mut keys = chain_state().keys.into_iter().collect::<Vec<Hash>>();
    assert!(decode::<std::collections::BTreeSet<Hash>>(&encode(&keys)).is_ok());
    keys.swap(0, 1);
    assert!(decode::<std::collections::BTreeSet<Hash>>(&encode(&keys)).is_err());
    keys[0] = keys[1];
    assert!(decode::<std::collections::BTreeSet<Hash>>(&encode(&keys)).is_err());
}

#[test]
fn a_length_that_lies_costs_no_memory() {
    // A vector of 2^32 - 1 tips, and no byte of them.
    let mut bytes = encode(&Message::Acknowledge { epoch: Epoch(0), tips: Vec::new() });
    let at = bytes.len() - 4;
    bytes[at..].copy_from_slice(&[0xFF; 4]);
    assert!(decode::<Message>(&bytes).is_err());
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 256, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn payloads_and_proposals_read_back(
        key: [u8; 16], valid: u64, topic: bool, data in proptest::collection::vec(any::<u8>(), 0..400),
        sequence: u64, prev: [u8; 32], time: u64, heights in proptest::collection::vec(any::<(u64, [u8; 32])>(), 0..31),
    ) {
        let topic = topic.then(|| Topic::new("orders").unwrap());
        let payload = Payload { key, valid_until_ms: valid, topic, data };
        prop_assert_eq!(encode(&payload).len(), payload.encoded_len());
        prop_assert_eq!(decode::<Payload>(&encode(&payload)).unwrap(), payload);
        let cut = heights.into_iter().map(|(height, id)| Tip { height: Height(height), id: Hash(id) }).collect();
        let proposal = Proposal { sequence: Sequence(sequence), prev: Hash(prev), time_ms: time, origin_view: View(time), cut };
        prop_assert_eq!(decode::<Proposal>(&encode(&proposal)).unwrap(), proposal);
    }

    #[test]
    fn arbitrary_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..2000)) {
        for first in 0..16 {
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
        let validators = validators();
        if let Ok(changed) = decode::<Vertex>(&bytes) {
            let padding = changed.header == vertex().vertex().header && changed.payloads == vertex().vertex().payloads;
            let checked = CheckedVertex::check(changed, &domain(), &Check, |author| validators.member(author).map(|m| &m.key));
            // The cheap signature fills 32 of the 4627 bytes.
            prop_assert!(checked.is_err() || padding);
        }
    }
}

// ---- golden ids: a change here is a change of the format, and of every chain

#[test]
fn the_ids_of_fixed_objects_never_change() {
    let chain_id = domain().chain_id;
    let message = |bytes: &[u8]| Hash::of_bytes(bytes);
    let mut ids = vec![
        ("genesis".to_owned(), genesis().chain_id()),
        ("payload".into(), payload(1, 3).id(chain_id)),
        ("vertex".into(), vertex().id()),
        ("vertex with items".into(), vertex_with(items().into_iter().take(4).collect()).id()),
        ("vertex signature".into(), message(&vertex().header().signing_message(&domain()))),
        ("proposal".into(), digest()),
        ("record".into(), record().chain_hash(&domain())),
        (
            "ballot".into(),
            message(&vote(Phase::Commit, 1, Hash::ZERO).ballot.signing_message(chain_id)),
        ),
        ("possession".into(), message(&Genesis::possession_message("uid", "m-1"))),
        ("validators".into(), validators().hash()),
        ("state root".into(), chain_state().root(&validators())),
        ("checkpoint".into(), message(&state().signing_message(chain_id))),
        ("view change".into(), message(&head(1).signing_message(chain_id))),
        (
            "new view".into(),
            message(&NewView::signing_message(Epoch(0), View(1), &new_view().heads, chain_id)),
        ),
        ("reconfig".into(), message(&reconfig(changes().remove(0)).signing_message(chain_id))),
        ("new key".into(), message(&reconfig(changes().remove(0)).possession_message(chain_id))),
    ];
    // The cheap signatures are not randomised: whole encodings are fixed, too.
    let encoded = |name: String, bytes: Vec<u8>| (name, Hash::of_bytes(&bytes));
    ids.extend(
        items().iter().enumerate().map(|(i, item)| encoded(format!("item {i}"), encode(item))),
    );
    ids.extend(
        messages()
            .iter()
            .enumerate()
            .map(|(i, sent)| encoded(format!("message {i}"), encode(sent))),
    );
    let text: Vec<String> = ids.iter().map(|(name, id)| format!("{name} {id}")).collect();
    assert_eq!(text.join("\n"), include_str!("golden_ids.txt").trim_end());
}

#[test]
fn every_id_is_bound_to_its_chain_and_all_but_the_payload_to_its_epoch() {
    let here = domain();
    let elsewhere =
        [Domain { chain_id: hash("another"), ..here }, Domain { epoch: Epoch(1), ..here }];
    for other in elsewhere {
        assert_ne!(vertex().header().id(&here), vertex().header().id(&other));
        assert_ne!(
            vertex().header().signing_message(&here),
            vertex().header().signing_message(&other)
        );
        assert_ne!(proposal().digest(&here), proposal().digest(&other));
        assert_ne!(record().chain_hash(&here), record().chain_hash(&other));
        let same_chain = here.chain_id == other.chain_id;
        assert_eq!(payload(1, 3).id(here.chain_id) == payload(1, 3).id(other.chain_id), same_chain);
    }
    let other = hash("another");
    let ballot = vote(Phase::Commit, 1, Hash::ZERO).ballot;
    assert_ne!(ballot.signing_message(here.chain_id), ballot.signing_message(other));
    assert_ne!(
        ballot.signing_message(here.chain_id),
        Ballot { epoch: Epoch(1), ..ballot }.signing_message(here.chain_id)
    );
    assert_ne!(state().signing_message(here.chain_id), state().signing_message(other));
    assert_ne!(head(1).signing_message(here.chain_id), head(1).signing_message(other));
    assert_ne!(
        reconfig(changes().remove(0)).signing_message(here.chain_id),
        reconfig(changes().remove(0)).signing_message(other)
    );
}

// ---- what certificates and vertices must not pass

#[test]
fn a_certificate_needs_a_quorum_of_distinct_members_in_order_with_valid_signatures() {
    let verify = |c: &Certificate| c.verify(domain().chain_id, &validators(), &Check);

    assert_eq!(verify(&certificate(Phase::Commit, &[1, 2, 3])), Ok(()));
    assert_eq!(verify(&certificate(Phase::Commit, &[0, 1, 2, 3])), Ok(()));
    assert_eq!(verify(&certificate(Phase::Prepare, &[0, 2, 3])), Ok(()));
    for voters in [&[][..], &[0, 1], &[0, 1, 1], &[1, 0, 2], &[0, 1, 1, 2]] {
        assert_eq!(
            verify(&certificate(Phase::Commit, voters)),
            Err(CertificateError::Voters),
            "{voters:?}"
        );
    }
    assert_eq!(
        verify(&certificate(Phase::Commit, &[0, 1, 4])),
        Err(CertificateError::Voters),
        "4 is no member"
    );
    assert_eq!(verify(&certificate(Phase::Prepare, &[1, 2, 3])), Err(CertificateError::Leader));
    assert_eq!(
        verify(&Certificate { phase: Phase::PrePrepare, ..certificate(Phase::Commit, &[0, 1, 2]) }),
        Err(CertificateError::Voters)
    );

    let good = certificate(Phase::Commit, &[0, 1, 2]);
    let signature = |c: Certificate| {
        assert!(matches!(verify(&c), Err(CertificateError::Signature(_))), "{c:?}")
    };
    signature(Certificate { view: View(1), ..good.clone() });
    signature(Certificate { sequence: Sequence(8), ..good.clone() });
    signature(Certificate { digest: Hash::ZERO, ..good.clone() });
    let mut stolen = good.clone();
    stolen.votes[1].1 = stolen.votes[0].1.clone();
    signature(stolen);
    // PREPAREs do not pass for COMMITs, nor the other way round.
    signature(Certificate { phase: Phase::Commit, ..certificate(Phase::Prepare, &[0, 1, 2]) });
    signature(Certificate { phase: Phase::Prepare, ..good.clone() });
    assert!(good.verify(hash("another"), &validators(), &Check).is_err(), "another chain");
    assert_eq!(
        good.verify(domain().chain_id, &Validators { epoch: Epoch(1), ..validators() }, &Check),
        Err(CertificateError::Epoch)
    );
    let relabelled = Certificate { epoch: Epoch(1), ..good };
    let next = Validators { epoch: Epoch(1), ..validators() };
    assert!(matches!(
        relabelled.verify(domain().chain_id, &next, &Check),
        Err(CertificateError::Signature(_))
    ));
}

#[test]
fn a_malformed_vertex_is_refused_by_name() {
    let validators = validators();
    let check = |v: Vertex| {
        CheckedVertex::check(v, &domain(), &Check, |author| {
            validators.member(author).map(|m| &m.key)
        })
        .map(|_| ())
    };
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
    assert_eq!(
        with(&|v| v.header.links[0].author = NodeId(1)),
        Err(VertexError::Header),
        "a link to its own lane"
    );
    assert_eq!(
        with(&|v| v.header.links.push(v.header.links[0])),
        Err(VertexError::Header),
        "two links to a lane"
    );
    assert_eq!(with(&|v| v.header.payload_bytes += 1), Err(VertexError::Body));
    assert_eq!(with(&|v| v.payloads[0].data.clear()), Err(VertexError::Body));
    assert_eq!(
        with(&|v| v.payloads[0].data = vec![0; MAX_PAYLOAD_DATA + 1]),
        Err(VertexError::Body)
    );
    assert_eq!(
        with(&|v| v.items = items().into_iter().take(MAX_ITEMS + 1).collect()),
        Err(VertexError::Body)
    );
    assert_eq!(with(&|v| v.payloads.swap(0, 1)), Err(VertexError::Root));
    assert_eq!(
        with(&|v| v.items = items().into_iter().take(1).collect()),
        Err(VertexError::Root),
        "items that nobody signed"
    );
    assert_eq!(
        with(&|v| v.header.links[0].author = NodeId(4)),
        Err(VertexError::Header),
        "a link to no lane"
    );
    assert_eq!(with(&|v| v.header.timestamp_ms += 1), Err(VertexError::Signature));
    assert_eq!(with(&|v| v.header.author = NodeId(0)), Err(VertexError::Signature));
}

#[test]
fn a_genesis_is_refused_by_name() {
    let sign = |genesis: Genesis| {
        SignedGenesis { signature: Key::admin().sign(&genesis.signing_message()), genesis }
            .verify(&Check)
    };
    assert!(sign(genesis()).is_ok());
    let with = |change: &dyn Fn(&mut Genesis)| {
        let mut changed = genesis();
        change(&mut changed);
        sign(changed).unwrap_err().to_string()
    };
    assert!(with(&|g| g.members.truncate(2)).contains("names 2"));
    assert!(with(&|g| g.members.clear()).contains("names 0"));
    assert!(with(&|g| g.fault_model = FaultModel::Crash).contains("crash"));
    assert!(with(&|g| g.members[1].name = g.members[0].name.clone()).contains("m-0"));
    assert!(with(&|g| g.members[1].name = "x".repeat(254)).contains("longer"));
    assert!(with(&|g| g.members[1].key = g.members[0].key.clone()).contains("used twice"));
    assert!(with(&|g| g.members[1].key = g.admin_key.clone()).contains("used twice"));
    for parameters in [
        Parameters { checkpoint_interval: 0, ..Parameters::default() },
        Parameters { window: 127, ..Parameters::default() },
        Parameters { term_sequences: 0, ..Parameters::default() },
        Parameters { term_ms: 0, ..Parameters::default() },
        Parameters { recent_payloads: 30, ..Parameters::default() },
    ] {
        assert!(with(&|g| g.parameters = parameters).contains("parameters"), "{parameters:?}");
    }
    assert!(with(&|g| g.cluster_uid.push('x')).contains("possession"));
    let mut stolen = SignedGenesis {
        signature: Key::new("somebody").sign(&genesis().signing_message()),
        genesis: genesis(),
    };
    assert!(stolen.verify(&Check).is_err());
    stolen.signature = Key::admin().sign(&genesis().signing_message());
    stolen.genesis.created_ms += 1;
    assert!(stolen.verify(&Check).is_err());
}

// ---- seeds

/// The smaller of the fixed objects are where fuzzing begins.
#[test]
#[ignore = "writes crates/consensus-fuzz/seeds: run it when the format changes"]
fn writes_the_seeds_of_the_fuzz_targets() {
    let folder = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("../consensus-fuzz/seeds");
    let write = |target: &str, number: usize, bytes: &[u8]| {
        let folder = folder.join(target);
        std::fs::create_dir_all(&folder).unwrap();
        if bytes.len() <= 48 * 1024 {
            std::fs::write(folder.join(format!("{number:02}")), bytes).unwrap();
        }
    };
    for (number, message) in messages().iter().enumerate() {
        write("decode_message", number, &encode(message));
    }
    write("decode_vertex", 0, &encode(vertex().vertex()));
    let signed = |change: Change| Item::Reconfig(Box::new(order(change)));
    for (number, item) in
        (1..).zip(changes().into_iter().map(signed).chain(items().into_iter().take(3)))
    {
        write("decode_vertex", number, &encode(vertex_with(vec![item]).vertex()));
    }
    let genesis = common::genesis(1);
    write(
        "decode_genesis",
        0,
        &SignedGenesis { signature: Key::admin().sign(&genesis.signing_message()), genesis }
            .encode(),
    );
    let proof = Proof::Commit(certificate(Phase::Commit, &[0, 1, 2]));
    let small = ViewChange { proof: None, prepared: None, ..view_change() };
    let objects = [
        encode(&certificate(Phase::Commit, &[1, 2, 3])),
        encode(&stable()),
        encode(&proof),
        encode(&prepared()),
        encode(&small),
        encode(&NewView { proof: None, prepared: None, ..new_view() }),
        encode(&evidence()[1]),
        encode(&order(changes().remove(0))),
        encode(&record()),
    ];
    for (number, object) in objects.iter().enumerate() {
        write("decode_certificates", number, &[&[number as u8], object.as_slice()].concat());
    }
    // Scripts: decisions without an attack, with a silent member, and with every kind of message of
    // the hostile one.
    let calm: Vec<u8> = (0..20).flat_map(|round| [4, round % 4, 9, 3, 0, 2, 20, 1]).collect();
    let silent: Vec<u8> =
        (0..20).flat_map(|round| [4, round % 4, 9, 2, 250, 0, 2, 250, 1]).collect();
    let loud: Vec<u8> = (0..72)
        .flat_map(|round| {
            [4, round % 4, 9, 3, 0, 10, 4, round % 18, 1, 0, 2, 0, 1, 3, 0, 200, 7, 2, 1, 0]
        })
        .collect();
    for (number, script) in (0_u8..).zip([calm, silent, loud]) {
        for hostile in 0..4 {
            write(
                "handle",
                usize::from(number * 4 + hostile),
                &[&[hostile], script.as_slice()].concat(),
            );
        }
    }
}
