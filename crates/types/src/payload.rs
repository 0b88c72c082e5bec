//! What clients submit, and what becomes of it.

use crate::{
    hash::{Hash, TaggedHasher},
    ids::Sequence,
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
    /// 1 to [`MAX_PAYLOAD_DATA`] bytes that the ledger does not interpret.
    pub data: Vec<u8>,
}

impl Payload {
    /// The id. Bound to the chain but, alone among all ids, not to the epoch: the same bytes must
    /// be known again in the next one.
    #[must_use]
    pub fn id(&self, chain_id: Hash) -> Hash {
        TaggedHasher::new("creto payload v1").with(&chain_id).with(self).finish()
    }

    /// Whether its size is allowed.
    #[must_use]
    pub const fn has_valid_size(&self) -> bool {
        !self.data.is_empty() && self.data.len() <= MAX_PAYLOAD_DATA
    }

    /// The bytes that it takes in a vertex body.
    #[must_use]
    pub const fn encoded_len(&self) -> usize {
        16 + 8 + 4 + self.data.len()
    }
}

/// What the chain alone says of a payload that a decision ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// It took effect here.
    Executed,
    /// It took effect before.
    Duplicate {
        /// Where.
        executed_at: Sequence,
    },
    /// The decision's time is after its `valid_until`: it never will take effect.
    Expired,
    /// Its `valid_until` is more than [`VALIDITY_WINDOW_MS`] after the decision's time. Not final:
    /// it may be ordered again.
    Early,
    /// The lane has as many executed payloads that are still valid as are remembered of one lane.
    /// Not final: it may be ordered again, by this lane later or by another one.
    Crowded,
}

impl Outcome {
    /// Whether nothing can change it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Early | Self::Crowded)
    }
}
