//! Merkle trees over hashes, and paths that prove that a tree has a leaf.
//!
//! The rule: neither a leaf nor a tree of another size can have the same root, because inner nodes
//! and the number of leaves are hashed with tags of their own. A node without a neighbour moves up
//! unchanged.

use crate::hash::{Hash, TaggedHasher};
use borsh::{BorshDeserialize, BorshSerialize};

/// The length of the longest path, which is that of a tree with as many leaves as a `u32` can
/// count.
const MAX_SIBLINGS: usize = 32;

fn node(left: &Hash, right: &Hash) -> Hash {
    TaggedHasher::new("creto merkle node v1").with(left).with(right).finish()
}

fn root_of(top: &Hash, leaves: u64) -> Hash {
    TaggedHasher::new("creto merkle root v1").with(&leaves).with(top).finish()
}

/// The level above `level`.
fn above(level: &[Hash]) -> Vec<Hash> {
    let parent = |pair: &[Hash]| match pair {
        [left, right] => node(left, right),
        alone => alone.first().copied().unwrap_or(Hash::ZERO),
    };
    level.chunks(2).map(parent).collect()
}

/// The root of the tree over `leaves`, in their order.
#[must_use]
pub fn merkle_root(leaves: &[Hash]) -> Hash {
    let mut level = leaves.to_vec();
    while level.len() > 1 {
        level = above(&level);
    }
    root_of(&level.first().copied().unwrap_or(Hash::ZERO), leaves.len() as u64)
}

/// The path from one leaf to the root.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct MerklePath {
    /// The position of the leaf, from 0.
    pub index: u32,
    /// The number of leaves of the tree.
    pub leaves: u32,
    /// The neighbours from the bottom up. A level where the node has no neighbour has no entry.
    pub siblings: Vec<Hash>,
}

impl MerklePath {
    /// The path of the leaf at `index`, if there is one.
    #[must_use]
    pub fn of(leaves: &[Hash], index: u32) -> Option<Self> {
        let count = u32::try_from(leaves.len()).ok().filter(|count| index < *count)?;
        let (mut level, mut at, mut siblings) = (leaves.to_vec(), index as usize, Vec::new());
        while level.len() > 1 {
            siblings.extend(level.get(at ^ 1));
            level = above(&level);
            at /= 2;
        }
        Some(Self { index, leaves: count, siblings })
    }

    /// The root to which this path leads from a leaf. The result is nothing if the path does not
    /// have the form that its index and size demand, so that one leaf of one tree has exactly one
    /// path.
    #[must_use]
    pub fn root(&self, leaf: Hash) -> Option<Hash> {
        if self.index >= self.leaves || self.siblings.len() > MAX_SIBLINGS {
            return None;
        }
        let (mut at, mut width, mut hash) = (self.index, self.leaves, leaf);
        let mut siblings = self.siblings.iter();
        while width > 1 {
            if at ^ 1 < width {
                let sibling = siblings.next()?;
                hash = if at % 2 == 0 { node(&hash, sibling) } else { node(sibling, &hash) };
            }
            (at, width) = (at / 2, width.div_ceil(2));
        }
        siblings.next().is_none().then(|| root_of(&hash, u64::from(self.leaves)))
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]
mod tests {
    use super::*;

    fn leaves(count: u8) -> Vec<Hash> {
        (0..count).map(|i| Hash::of_bytes(&[i])).collect()
    }

    #[test]
    fn a_root_depends_on_every_leaf_their_order_and_their_count() {
        let leaves = leaves(7);
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
        // A root that is given as a leaf does not make the same root.
        assert_ne!(merkle_root(&[merkle_root(&leaves[..2])]), merkle_root(&leaves[..2]));
    }

    #[test]
    fn every_leaf_has_one_path_and_it_gives_the_root() {
        for count in 1..40 {
            let leaves = leaves(count);
            let root = merkle_root(&leaves);
            for index in 0..u32::from(count) {
                let path = MerklePath::of(&leaves, index).unwrap();
                assert_eq!(path.root(leaves[index as usize]), Some(root), "{index} of {count}");
                assert_ne!(path.root(Hash::ZERO), Some(root));
                for at in 0..path.siblings.len() {
                    let mut other = path.clone();
                    other.siblings[at] = Hash::ZERO;
                    assert_ne!(other.root(leaves[index as usize]), Some(root));
                }
                for changed in [
                    MerklePath { index: index ^ 1, ..path.clone() },
                    MerklePath { leaves: path.leaves + 1, ..path.clone() },
                    MerklePath {
                        siblings: [path.siblings.clone(), vec![root]].concat(),
                        ..path.clone()
                    },
                ] {
                    assert_ne!(changed.root(leaves[index as usize]), Some(root));
                }
            }
            assert_eq!(MerklePath::of(&leaves, count.into()), None);
        }
        assert_eq!(MerklePath::of(&[], 0), None);
    }
}
