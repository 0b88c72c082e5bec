//! A receipt proves what it says to whoever has the genesis, and nothing once a byte was altered.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, missing_docs)]

mod common;

use common::{Check, Key, certificate, checkpoint_certificate, genesis, hash, tip};
use cretoai_types::{
    CheckedVertex, CheckpointState, Domain, Epoch, EpochStep, Genesis, MerklePath, NodeId, Outcome,
    OutcomeLeaf, Payload, Phase, Proposal, Receipt, ReceiptError, ReceiptProof, Record, Sequence,
    Tip, Topic, Validators, View, outcome_leaves, outcomes_root,
};

/// One record with five payloads of every outcome, on top of `previous`.
struct Decision {
    domain: Domain,
    record: Record,
    leaves: Vec<OutcomeLeaf>,
}

fn proposal(previous: cretoai_types::Hash, sequence: u64) -> Proposal {
    Proposal {
        sequence: Sequence(sequence),
        prev: previous,
        time_ms: common::CREATED_MS + sequence,
        origin_view: View(0),
        cut: vec![tip(sequence, hash("tip")); 4],
    }
}

fn decision(
    genesis: &Genesis,
    epoch: u64,
    previous: cretoai_types::Hash,
    sequence: u64,
) -> Decision {
    let domain = Domain { chain_id: genesis.chain_id(), epoch: Epoch(epoch) };
    let payload = |number: u8| Payload {
        topic: number.is_multiple_of(2).then(|| Topic::new("orders").unwrap()),
        ..common::payload(number, 10)
    };
    let vertex = |numbers: &[u8]| {
        CheckedVertex::seal(
            &domain,
            &Key::member(0),
            NodeId(0),
            Tip::default(),
            Vec::new(),
            1,
            numbers.iter().copied().map(payload).collect(),
            Vec::new(),
        )
    };
    let vertices = [vertex(&[1, 2]), vertex(&[]), vertex(&[3, 4, 5])];
    let outcomes: [&[Outcome]; 3] = [
        &[Outcome::Executed, Outcome::Duplicate { executed_at: Sequence(3) }],
        &[],
        &[Outcome::Expired, Outcome::Early, Outcome::Crowded],
    ];
    let leaves = outcome_leaves(vertices.iter().zip(outcomes));
    let record = Record {
        proposal: proposal(previous, sequence),
        vertices: vertices.iter().map(CheckedVertex::id).collect(),
        outcomes: outcomes_root(&leaves),
    };
    Decision { domain, record, leaves }
}

/// A receipt for the payload at `index`, proven by the decision `gap` records later.
fn by_commit(genesis: &Genesis, index: u32, gap: u64) -> Receipt {
    let decision = decision(genesis, 0, hash("before"), 7);
    let mut chain_hash = decision.record.chain_hash(&decision.domain);
    let mut following = Vec::new();
    for sequence in 8..8 + gap {
        let link = self::decision(genesis, 0, chain_hash, sequence).record.link(&decision.domain);
        chain_hash = link.chain_hash(chain_hash, Sequence(sequence));
        following.push(link);
    }
    let next = proposal(chain_hash, 8 + gap);
    let certificate = certificate(
        genesis.chain_id(),
        &genesis.validators(),
        Phase::Commit,
        2,
        next.sequence.0,
        next.digest(&decision.domain),
        &[0, 2, 3],
    );
    receipt(genesis, decision, index, following, ReceiptProof::Commit { next, certificate })
}

fn receipt(
    genesis: &Genesis,
    decision: Decision,
    index: u32,
    following: Vec<cretoai_types::RecordLink>,
    proof: ReceiptProof,
) -> Receipt {
    let hashes: Vec<_> = decision.leaves.iter().map(OutcomeLeaf::hash).collect();
    Receipt {
        chain_id: genesis.chain_id(),
        epochs: Vec::new(),
        sequence: decision.record.proposal.sequence,
        leaf: decision.leaves[index as usize].clone(),
        path: MerklePath::of(&hashes, index).unwrap(),
        previous: decision.record.proposal.prev,
        record: decision.record.link(&decision.domain),
        following,
        proof,
    }
}

fn state(epoch: u64, sequence: u64, chain_hash: cretoai_types::Hash) -> CheckpointState {
    CheckpointState {
        epoch: Epoch(epoch),
        sequence: Sequence(sequence),
        chain_hash,
        tips: vec![tip(9, hash("tip")); 4],
        root: hash("root"),
        successor: None,
    }
}

/// Of epoch 1, whose validators the end of epoch 0 names; proven by a checkpoint.
fn by_checkpoint(genesis: &Genesis) -> Receipt {
    let old = genesis.validators();
    let next = Validators { epoch: Epoch(1), first: 2, ..old };
    let end = CheckpointState {
        successor: Some(next.hash()),
        ..state(0, 100, hash("the end of epoch 0"))
    };
    let step = EpochStep {
        certificate: checkpoint_certificate(genesis.chain_id(), &end, &[0, 1, 3]),
        validators: next,
    };
    let decision = decision(genesis, 1, hash("before"), 128);
    let chain_hash = decision.record.chain_hash(&decision.domain);
    let proof = checkpoint_certificate(genesis.chain_id(), &state(1, 128, chain_hash), &[1, 2, 3]);
    Receipt {
        epochs: vec![step],
        ..receipt(genesis, decision, 0, Vec::new(), ReceiptProof::Checkpoint(proof))
    }
}

#[test]
fn every_outcome_is_proven_by_the_next_decision_or_a_later_one() {
    let genesis = genesis(4);
    let said = [
        "executed, at",
        "had executed at sequence 3",
        "expired: final",
        "too early: not final",
        "found no room: not final",
    ];
    for (index, said) in (0..).zip(said) {
        for gap in [0, 1, 5] {
            let receipt = by_commit(&genesis, index, gap);
            assert_eq!(receipt.verify(&genesis, &Check), Ok(()));
            let text = receipt.to_string();
            assert!(text.contains(said) && text.contains("at sequence 7"), "{text}");
            assert_eq!(text.contains("of topic \"orders\""), index == 1 || index == 3, "{text}");
            assert_eq!(Receipt::decode(&receipt.encode()), Ok(receipt));
        }
    }
}

#[test]
fn a_checkpoint_proves_and_epochs_are_followed_from_the_genesis() {
    let genesis = genesis(4);
    let good = by_checkpoint(&genesis);
    assert_eq!(good.verify(&genesis, &Check), Ok(()));
    let mut skipped = good.clone();
    skipped.epochs.clear();
    assert!(matches!(skipped.verify(&genesis, &Check), Err(ReceiptError::Certificate(_))));
    let mut twice = good.clone();
    twice.epochs.push(good.epochs[0].clone());
    assert!(matches!(twice.verify(&genesis, &Check), Err(ReceiptError::Epoch { .. })));
    let mut others = good;
    others.epochs[0].validators.first = 1;
    assert!(matches!(others.verify(&genesis, &Check), Err(ReceiptError::Epoch { .. })));
}

#[test]
fn an_altered_byte_anywhere_proves_nothing() {
    let genesis = genesis(4);
    for receipt in [by_commit(&genesis, 3, 2), by_checkpoint(&genesis)] {
        let bytes = receipt.encode();
        for at in 0..bytes.len() {
            for flip in [0x01, 0x80] {
                let mut altered = bytes.clone();
                altered[at] ^= flip;
                let verdict =
                    Receipt::decode(&altered).and_then(|receipt| receipt.verify(&genesis, &Check));
                // The test's signatures have a tag of 32 bytes; what pads them to the size of real
                // ones is not signed.
                let padding = verdict.is_ok() && bytes[at] == 0;
                assert!(verdict.is_err() || padding, "byte {at} of {}", bytes.len());
            }
        }
        for length in 0..bytes.len() {
            assert!(Receipt::decode(&bytes[..length]).is_err(), "cut to {length}");
        }
        assert!(Receipt::decode(&[bytes.as_slice(), &[0]].concat()).is_err());
    }
}

#[test]
fn what_does_not_belong_together_proves_nothing() {
    let genesis = genesis(4);
    let good = by_commit(&genesis, 0, 1);
    let other = common::genesis(7);
    assert!(matches!(good.verify(&other, &Check), Err(ReceiptError::OtherChain { .. })));
    let mut moved = good.clone();
    moved.leaf.index = 1;
    assert_eq!(moved.verify(&genesis, &Check), Err(ReceiptError::Outcome));
    let mut executed = by_commit(&genesis, 4, 1);
    executed.leaf.outcome = Outcome::Executed;
    assert_eq!(executed.verify(&genesis, &Check), Err(ReceiptError::Outcome));
    let mut later = good.clone();
    later.sequence = Sequence(8);
    assert_eq!(later.verify(&genesis, &Check), Err(ReceiptError::OtherRecord));
    let mut last = good.clone();
    last.sequence = Sequence(u64::MAX);
    assert_eq!(last.verify(&genesis, &Check), Err(ReceiptError::OtherRecord));
    let mut prepared = good;
    let ReceiptProof::Commit { certificate, .. } = &mut prepared.proof else { unreachable!() };
    certificate.phase = Phase::Prepare;
    assert_eq!(prepared.verify(&genesis, &Check), Err(ReceiptError::OtherRecord));
}

#[test]
fn another_version_is_refused_by_name() {
    let mut bytes = by_commit(&genesis(4), 0, 0).encode();
    assert_eq!(bytes[0], 1);
    bytes[0] = 2;
    let error = Receipt::decode(&bytes).unwrap_err();
    assert_eq!(error, ReceiptError::Version(2));
    assert!(error.to_string().contains("version 2"), "{error}");
    assert!(Receipt::decode(&[]).is_err());
}
