//! System items, which the protocol itself puts into vertices. The rule: an item is judged when it
//! is executed, from the state that all nodes share, and never when it arrives.

use crate::{
    evidence::Evidence,
    hash::{Hash, TaggedHasher},
    reconfig::SignedReconfig,
    wire::encode,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The most system items in one vertex.
pub const MAX_ITEMS: usize = 4;

/// An object that the protocol itself puts into a vertex. An invalid item has no effect.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Item {
    /// A proof that a validator broke a rule.
    Evidence(Box<Evidence>),
    /// The admin's order to change the validators.
    Reconfig(Box<SignedReconfig>),
}

/// The number of bytes that system items take in a vertex.
#[must_use]
pub fn items_bytes(items: &[Item]) -> usize {
    if items.is_empty() { 0 } else { encode(&items).len() }
}

/// The hash of a vertex's system items.
pub(crate) fn items_root(items: &[Item]) -> Hash {
    if items.is_empty() {
        Hash::ZERO
    } else {
        TaggedHasher::new("creto items v1").with(&items).finish()
    }
}
