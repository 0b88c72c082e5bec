//! BLAKE3 hashes. Every one is over a domain tag, so that no two kinds of object can share a hash.

use borsh::{BorshDeserialize, BorshSerialize};
use std::{fmt, str::FromStr};

/// A 32-byte BLAKE3 hash. As text: 64 lowercase hexadecimal digits.
#[derive(
    Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, BorshSerialize, BorshDeserialize,
)]
pub struct Hash(pub [u8; 32]);

impl Hash {
    /// What stands where nothing came before: the parent of a lane's first vertex.
    pub const ZERO: Self = Self([0; 32]);

    /// The hash of plain bytes, without a tag (key fingerprints).
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

/// Feeds a hasher with the canonical encoding of what it is given.
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
        // A hasher takes every byte, and our objects have no length beyond u32: neither side of
        // this can fail.
        if borsh::to_writer(&mut self.0, value).is_err() {
            unreachable!("hashing never fails to take bytes");
        }
        self
    }

    /// The hash of all that was added.
    #[must_use]
    pub fn finish(self) -> Hash {
        Hash(*self.0.finalize().as_bytes())
    }
}

/// The root of a binary Merkle tree over `leaves`, in order. An odd node moves up unchanged; inner
/// nodes and the count are in domains of their own, so that neither a leaf nor another count can
/// pose as this root.
#[must_use]
pub(crate) fn merkle_root(leaves: &[Hash]) -> Hash {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = level
            .chunks(2)
            .map(|pair| match *pair {
                [left, right] => {
                    TaggedHasher::new("creto merkle node v1").with(&left).with(&right).finish()
                }
                _ => pair.first().copied().unwrap_or(Hash::ZERO),
            })
            .collect();
    }
    let top = level.first().copied().unwrap_or(Hash::ZERO);
    TaggedHasher::new("creto merkle root v1").with(&(leaves.len() as u64)).with(&top).finish()
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

    #[test]
    fn a_merkle_root_depends_on_every_leaf_their_order_and_their_count() {
        let leaves: Vec<Hash> = (0_u8..7).map(|i| Hash::of_bytes(&[i])).collect();
        let root = merkle_root(&leaves);
        for i in 0..leaves.len() {
            let mut changed = leaves.clone();
            changed[i] = Hash::ZERO;
            assert_ne!(merkle_root(&changed), root, "leaf {i}");
        }
        let mut swapped = leaves.clone();
        swapped.swap(2, 3);
        assert_ne!(merkle_root(&swapped), root);
        assert_ne!(merkle_root(&leaves[..6]), root);
        assert_ne!(merkle_root(&[]), merkle_root(&[Hash::ZERO]));
        // An inner node given as a leaf does not make the same root.
        assert_ne!(merkle_root(&[merkle_root(&leaves[..2])]), merkle_root(&leaves[..2]));
    }
}
