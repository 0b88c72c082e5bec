//! The domain of ids and signatures. Each is bound to the kind of its object, to the chain and to
//! the epoch, so that no id or signature of one kind, chain or epoch is valid in another.

use crate::{
    hash::{Hash, TaggedHasher},
    ids::Epoch,
};
use borsh::BorshSerialize;

/// The chain and the epoch that an object belongs to. The same object has different ids in
/// different domains, and a signature of one domain does not verify in another.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Domain {
    /// The id of the chain: the hash of its genesis.
    pub chain_id: Hash,
    /// The epoch whose members sign.
    pub epoch: Epoch,
}

impl Domain {
    /// The id of a value of the kind `tag`.
    pub(crate) fn id(&self, tag: &str, value: &impl BorshSerialize) -> Hash {
        TaggedHasher::new(tag).with(&self.chain_id).with(&self.epoch).with(value).finish()
    }

    /// The bytes that are signed for a value of the kind `tag`.
    pub(crate) fn signing_message(&self, tag: &str, value: &impl BorshSerialize) -> Vec<u8> {
        [b"creto signature v1".as_slice(), &self.id(tag, value).0].concat()
    }
}
