//! Everything that proves something: certificates, VIEW-CHANGEs, NEW-VIEWs, evidence, orders. The
//! first byte says which.

#![no_main]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use borsh::{BorshDeserialize, BorshSerialize};
use common::{Check, genesis};
use cretoai_types::{
    Certificate, CheckpointCertificate, Epoch, Evidence, Hash, NewView, Opening, Prepared, Proof,
    Record, Sequence, SignedReconfig, Validators, View, ViewChange, decode, encode,
};
use libfuzzer_sys::fuzz_target;
use std::sync::LazyLock;

static CHAIN: LazyLock<(Hash, Validators)> = LazyLock::new(|| {
    let genesis = genesis(4);
    (genesis.chain_id(), genesis.validators())
});

fn read<T: BorshSerialize + BorshDeserialize>(bytes: &[u8]) -> Option<T> {
    let value = decode::<T>(bytes).ok()?;
    assert_eq!(encode(&value), bytes);
    Some(value)
}

fuzz_target!(|bytes: &[u8]| {
    let Some((kind, bytes)) = bytes.split_first() else { return };
    let (chain_id, validators) = &*CHAIN;
    let (chain_id, opening) = (*chain_id, Opening { sequence: Sequence(0), chain_hash: *chain_id });
    match kind % 9 {
        0 => drop(
            read::<Certificate>(bytes)
                .map(|certificate| certificate.verify(chain_id, validators, &Check)),
        ),
        1 => drop(
            read::<CheckpointCertificate>(bytes)
                .map(|certificate| certificate.verify(chain_id, validators, &Check)),
        ),
        2 => drop(
            read::<Proof>(bytes)
                .map(|proof| (proof.sequence(), proof.verify(chain_id, validators, &Check))),
        ),
        3 => drop(read::<Prepared>(bytes).map(|prepared| {
            let claim = (prepared.certificate.view, prepared.certificate.digest);
            let before = Sequence(prepared.certificate.sequence.0.wrapping_sub(1));
            prepared.proves(claim, before, prepared.proposal.prev, chain_id, validators, &Check)
        })),
        4 => drop(
            read::<ViewChange>(bytes)
                .map(|change| change.verify(chain_id, validators, opening, &Check)),
        ),
        5 => drop(read::<NewView>(bytes).map(|new_view| {
            let choice = new_view.verify(chain_id, validators, opening, &Check);
            assert!(choice.is_none() || choice == new_view.choice());
        })),
        6 => drop(read::<Evidence>(bytes).map(|evidence| {
            let signed = evidence.is_signed(chain_id, validators, &Check);
            assert!(!signed || evidence.offence().is_some());
        })),
        7 => drop(read::<SignedReconfig>(bytes).map(|order| {
            let state = cretoai_types::ChainState::at_genesis(&genesis(4));
            if let Ok(next) =
                state.judge_reconfig(&order, chain_id, validators, state.time_ms, &Check)
            {
                assert_eq!(next.epoch, Epoch(1));
                assert!(next.quorum().q >= 1 && next.position(next.leader(View(0))).is_some());
            }
        })),
        _ => {
            drop(read::<Record>(bytes).map(|record| {
                record.chain_hash(&cretoai_types::Domain { chain_id, epoch: Epoch(0) })
            }))
        }
    }
});
