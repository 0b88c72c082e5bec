//! A vertex from the wire: decoded, checked, and its items judged by the state; never a panic.

#![no_main]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use common::{Check, genesis};
use cretoai_types::{
    ChainState, CheckedVertex, Domain, Epoch, Item, Validators, Vertex, decode, encode,
};
use libfuzzer_sys::fuzz_target;
use std::sync::{Arc, LazyLock};

static CHAIN: LazyLock<(Domain, Validators, ChainState)> = LazyLock::new(|| {
    let genesis = genesis(4);
    let domain = Domain { chain_id: genesis.chain_id(), epoch: Epoch(0) };
    (domain, genesis.validators(), ChainState::at_genesis(&genesis))
});

fuzz_target!(|bytes: &[u8]| {
    let Ok(vertex) = decode::<Vertex>(bytes) else { return };
    assert_eq!(encode(&vertex), bytes);
    let (domain, validators, state) = &*CHAIN;
    for item in &vertex.items {
        match item {
            Item::Evidence(evidence) => {
                let _offence = state.could_count(validators, evidence);
                let _signed = evidence.is_signed(domain.chain_id, validators, &Check);
            }
            Item::Reconfig(order) => {
                let _next =
                    state.judge_reconfig(order, domain.chain_id, validators, state.time_ms, &Check);
            }
        }
    }
    let checked = CheckedVertex::check(vertex.clone(), domain, &Check, |author| {
        validators.member(author).map(|member| &member.key)
    });
    let _parents: Vec<_> = vertex.header.parents().collect();
    // Whatever its signature: what a quorum ordered is executed.
    let trusted = checked.unwrap_or_else(|_| CheckedVertex::trusted(vertex, domain));
    let judged =
        state.clone().judge_items(domain.chain_id, validators, None, &[Arc::new(trusted)], &Check);
    assert!(judged.counted.len() <= 4);
});
