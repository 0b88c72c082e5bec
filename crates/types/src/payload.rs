//! What clients submit, and what becomes of it.

use crate::{
    hash::{Hash, TaggedHasher},
    topic::Topic,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The most bytes of data in one payload.
pub const MAX_PAYLOAD_DATA: usize = 128 * 1024;

/// How far ahead of a decision's time a payload's `valid_until` may lie, in milliseconds.
pub const VALIDITY_WINDOW_MS: u64 = 60_000;

/// An executed payload is remembered for at most so long after its decision's time, in
/// milliseconds: the window, to the second.
pub const REMEMBERED_MS: u64 = VALIDITY_WINDOW_MS + 1_000;

/// A client's payload. Its id is the hash of all of it, so the same bytes are known again wherever
/// they are sent.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Payload {
    /// Chosen by the client (or at random by the API): tells equal data apart.
    pub key: [u8; 16],
    /// Unix milliseconds after which it can never execute.
    pub valid_until_ms: u64,
    /// What it is filed under, if the client says so.
    pub topic: Option<Topic>,
    /// 1 to [`MAX_PAYLOAD_DATA`] bytes that the ledger does not interpret.
    pub data: Vec<u8>,
}

impl Payload {
    /// The id. Bound to the chain but, alone among all ids, not to the epoch: the same bytes must
    /// be known again in the next one.
    #[must_use]
    pub fn id(&self, chain_id: Hash) -> Hash {
        TaggedHasher::new("creto payload v2").with(&chain_id).with(self).finish()
    }

    /// Whether its size is allowed.
    #[must_use]
    pub const fn has_valid_size(&self) -> bool {
        !self.data.is_empty() && self.data.len() <= MAX_PAYLOAD_DATA
    }

    /// The bytes that it takes in a vertex body.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let topic = self.topic.as_ref().map_or(0, |topic| 4 + topic.as_str().len());
        16 + 8 + 1 + topic + 4 + self.data.len()
    }
}
