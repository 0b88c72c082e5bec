//! The signed part of a vertex.

use crate::{
    domain::Domain,
    hash::Hash,
    ids::{Epoch, Height, NodeId},
    tip::Link,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// What a vertex's id and signature cover.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VertexHeader {
    /// The epoch that it was made in.
    pub epoch: Epoch,
    /// Its author, whose lane it is in.
    pub author: NodeId,
    /// Its place in the lane.
    pub height: Height,
    /// The author's previous vertex.
    pub parent: Hash,
    /// Parents in other lanes: at most one for each, in order of their authors.
    pub links: Vec<Link>,
    /// The author's claim of when it was made, Unix milliseconds. Indexed, never decided on.
    pub timestamp_ms: u64,
    /// The Merkle root of the payload ids.
    pub payload_root: Hash,
    /// The bytes that the payloads take.
    pub payload_bytes: u32,
    /// The hash of the system items; [`Hash::ZERO`] if there are none.
    pub items_root: Hash,
}

const ID: &str = "creto vertex v1";

impl VertexHeader {
    /// The vertex id: the hash of the header, without the signature.
    #[must_use]
    pub fn id(&self, domain: &Domain) -> Hash {
        domain.id(ID, self)
    }

    /// What its author signs.
    #[must_use]
    pub fn signing_message(&self, domain: &Domain) -> Vec<u8> {
        domain.signing_message(ID, self)
    }

    /// Every parent: the own-lane one, then the links. The edges of the DAG.
    pub fn parents(&self) -> impl Iterator<Item = Hash> + '_ {
        std::iter::once(self.parent)
            .filter(|p| *p != Hash::ZERO)
            .chain(self.links.iter().map(|link| link.tip.id))
    }
}
