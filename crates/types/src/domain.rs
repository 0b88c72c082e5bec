//! What every id and signature is bound to: a tag for the kind of object, the chain, and the epoch.

use crate::{
    hash::{Hash, TaggedHasher},
    ids::Epoch,
};
use borsh::BorshSerialize;

/// The chain and epoch that objects belong to. An object of another chain or epoch has another id,
/// and no signature of one verifies in the other.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The hash of the genesis.
    pub chain_id: Hash,
    /// The epoch.
    pub epoch: Epoch,
}

impl Domain {
    /// The id of a value in the domain `tag`.
    pub(crate) fn id(&self, tag: &str, value: &impl BorshSerialize) -> Hash {
        TaggedHasher::new(tag).with(&self.chain_id).with(&self.epoch).with(value).finish()
    }

    /// What is signed for a value in the domain `tag`.
    pub(crate) fn signing_message(&self, tag: &str, value: &impl BorshSerialize) -> Vec<u8> {
        [b"creto signature v1".as_slice(), &self.id(tag, value).0].concat()
    }
}
