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
    /// The height; 0 is the beginning of the lane.
    pub height: Height,
    /// The vertex there; [`Hash::ZERO`] at the beginning.
    pub id: Hash,
}

/// A link to another lane's newest vertex that the author held. Never waited for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Link {
    /// That lane's author.
    pub author: NodeId,
    /// The place in it.
    pub tip: Tip,
}
