//! The canonical encoding, borsh, which disk, wire and hashing share. Decoding is strict: bytes
//! that are left over are an error, and no length is believed before its bytes are there.

use borsh::{BorshDeserialize, BorshSerialize};

/// The largest frame that a peer may send, in bytes.
pub const MAX_FRAME: usize = 512 * 1024;

/// Bytes that are not exactly one canonical object of the expected type.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a canonical {what}: {reason}")]
pub struct DecodeError {
    /// The Rust name of the expected type.
    pub what: &'static str,
    /// The decoder's reason.
    pub reason: String,
}

/// The canonical bytes of a value.
#[must_use]
pub fn encode(value: &impl BorshSerialize) -> Vec<u8> {
    // Encoding to memory fails only for a length beyond u32, which no bounded object has.
    borsh::to_vec(value).unwrap_or_else(|error| unreachable!("encoding to memory failed: {error}"))
}

/// Decodes one value from all of `bytes`.
///
/// # Errors
/// When the bytes are cut short, left over, or not canonical.
pub fn decode<T: BorshDeserialize>(bytes: &[u8]) -> Result<T, DecodeError> {
    T::try_from_slice(bytes).map_err(|error| DecodeError {
        what: std::any::type_name::<T>(),
        reason: error.to_string(),
    })
}
