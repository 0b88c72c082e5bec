//! Payloads, which clients submit. The rule: a payload takes effect at most once, within its
//! validity, whichever nodes it was sent to.

use crate::{
    hash::{Hash, TaggedHasher},
    topic::Topic,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The most bytes of data in one payload.
pub const MAX_PAYLOAD_DATA: usize = 128 * 1024;

/// The most milliseconds by which a payload's `valid_until` may lie after a decision's time.
pub const VALIDITY_WINDOW_MS: u64 = 60_000;

/// The most milliseconds after its decision's time for which an executed payload is remembered: the
/// validity window, rounded up by a second.
pub const REMEMBERED_MS: u64 = VALIDITY_WINDOW_MS + 1_000;

/// A client's payload. Its id is the hash of all fields, so every node recognises the same bytes.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Payload {
    /// Tells payloads with equal data apart. The client chooses it, or the API at random.
    pub key: [u8; 16],
    /// The time, in Unix milliseconds, after which the payload can no longer execute.
    pub valid_until_ms: u64,
    /// The topic under which the client files the payload, if it gives one.
    pub topic: Option<Topic>,
    /// 1 to [`MAX_PAYLOAD_DATA`] bytes that the ledger does not interpret.
    pub data: Vec<u8>,
}

impl Payload {
    /// The id. Unlike every other id it is bound to the chain only and not to the epoch, because
    /// the same bytes must be recognised in the next epoch.
    #[must_use]
    pub fn id(&self, chain_id: Hash) -> Hash {
        TaggedHasher::new("creto payload v2").with(&chain_id).with(self).finish()
    }

    /// Whether its size is allowed.
    #[must_use]
    pub const fn has_valid_size(&self) -> bool {
        !self.data.is_empty() && self.data.len() <= MAX_PAYLOAD_DATA
    }

    /// The number of bytes that the payload takes in the body of a vertex.
    #[must_use]
    pub fn encoded_len(&self) -> usize {
        let topic = self.topic.as_ref().map_or(0, |topic| 4 + topic.as_str().len());
        16 + 8 + 1 + topic + 4 + self.data.len()
    }
}
