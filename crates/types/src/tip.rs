//! Places in lanes, and links between lanes.

use crate::{
    hash::Hash,
    ids::{Height, NodeId},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// A place in a lane.
#[derive(
    Clone,
    Copy,
    Debug,
    Default,
    PartialEq,
    Eq,
    PartialOrd,
    Ord,
    Hash,
    BorshSerialize,
    BorshDeserialize,
)]
pub struct Tip {
    /// The height of the vertex; 0 at the beginning of the lane.
    pub height: Height,
    /// The id of the vertex; [`Hash::ZERO`] at the beginning of the lane.
    pub id: Hash,
}

/// A link to the newest vertex of another lane that the author held. A node accepts a vertex before
/// it has the vertices that its links name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Link {
    /// The author of the other lane.
    pub author: NodeId,
    /// The place in the other lane.
    pub tip: Tip,
}
