//! A genesis from a file or a peer: decoded and verified, or refused by name.

#![no_main]

#[path = "../../types/tests/common/mod.rs"]
mod common;

use common::Check;
use cretoai_types::{ChainState, Signature, SignedGenesis, Signer, Validators};
use libfuzzer_sys::fuzz_target;

fuzz_target!(|bytes: &[u8]| {
    let Ok(mut signed) = SignedGenesis::decode(bytes) else { return };
    assert_eq!(signed.encode(), bytes);
    let _refused = signed.verify(&Check).map_err(|error| error.to_string());
    let _refused = signed.genesis.validate(&Check).map_err(|error| error.to_string());
    // Signed by whoever made it.
    let admin = common::Key(signed.genesis.admin_key.clone());
    signed.signature = admin.sign(&signed.genesis.signing_message());
    assert_eq!(signed.signature.as_bytes().len(), Signature::SIZE);
    if signed.verify(&Check).is_ok() {
        let (validators, state) =
            (signed.genesis.validators(), ChainState::at_genesis(&signed.genesis));
        assert_eq!(validators.members.len(), state.tips.len());
        assert!(validators.quorum().q >= 1);
        let _root = state.root(&validators);
    }
});
