//! BLAKE3 hashes. The hash of an object includes a tag for its kind, so that no two kinds of object
//! can share a hash.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{fmt, str::FromStr};

/// A 32-byte BLAKE3 hash. As text: 64 lowercase hexadecimal digits.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// The hash that stands for nothing, such as the parent of a lane's first vertex.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of plain bytes without a tag. Fingerprints of keys are such hashes.
    #[must_use]
    pub fn of_bytes(bytes: &[u8]) -> Self {
        Self(*blake3::hash(bytes).as_bytes())
    }
}

impl fmt::Display for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().try_for_each(|byte| write!(f, "{byte:02x}"))
    }
}

impl fmt::Debug for Hash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.iter().take(4).try_for_each(|byte| write!(f, "{byte:02x}"))?;
        f.write_str("..")
    }
}

/// Text that is not 64 hexadecimal digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a hash is 64 hexadecimal digits")]
pub struct NotAHash;

impl FromStr for Hash {
    type Err = NotAHash;

    fn from_str(text: &str) -> Result<Self, NotAHash> {
        let text = text.as_bytes();
        if text.len() != 64 {
            return Err(NotAHash);
        }
        let digit = |c: u8| char::from(c).to_digit(16).ok_or(NotAHash);
        let mut bytes = [0; 32];
        for (byte, pair) in bytes.iter_mut().zip(text.chunks_exact(2)) {
            if let [high, low] = *pair {
                *byte = (digit(high)? * 16 + digit(low)?) as u8;
            }
        }
        Ok(Self(bytes))
    }
}

/// A hasher over the canonical encodings of values, within the domain of a tag.
pub struct TaggedHasher(blake3::Hasher);

impl TaggedHasher {
    /// Starts a hash in the domain `tag`.
    #[must_use]
    pub fn new(tag: &str) -> Self {
        Self(blake3::Hasher::new_derive_key(tag))
    }

    /// Adds a value's canonical encoding.
    #[must_use]
    pub fn with(mut self, value: &impl BorshSerialize) -> Self {
        // A hasher accepts every byte, and no bounded object has a length beyond u32, so this
        // cannot fail.
        if borsh::to_writer(&mut self.0, value).is_err() {
            unreachable!("hashing never fails to take bytes");
        }
        self
    }

    /// The hash of all values that were added.
    #[must_use]
    pub fn finish(self) -> Hash {
        Hash(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_hash_reads_back_what_it_prints() {
        let hash = Hash::of_bytes(b"creto");
        assert_eq!(hash.to_string().parse(), Ok(hash));
        assert_eq!("zz".parse::<Hash>(), Err(NotAHash));
        assert_eq!("zz".repeat(32).parse::<Hash>(), Err(NotAHash));
    }
}
