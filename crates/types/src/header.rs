//! The header of a vertex: the part that the author signs. It names the payloads and items by their
//! roots.

use crate::{
    domain::Domain,
    hash::Hash,
    ids::{Epoch, Height, NodeId},
    tip::Link,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The fields that the id and the signature of a vertex cover.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct VertexHeader {
    /// The epoch in which the vertex was sealed.
    pub epoch: Epoch,
    /// The author, in whose lane the vertex is.
    pub author: NodeId,
    /// The position in the lane.
    pub height: Height,
    /// The id of the author's previous vertex.
    pub parent: Hash,
    /// Parents in other lanes: at most one for each lane, in order of the lanes' authors.
    pub links: Vec<Link>,
    /// The time of sealing as the author claims it, in Unix milliseconds. It is indexed, and no
    /// decision depends on it.
    pub timestamp_ms: u64,
    /// The Merkle root of the payload ids.
    pub payload_root: Hash,
    /// The number of bytes that the payloads take.
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

    /// The bytes that the author signs.
    #[must_use]
    pub fn signing_message(&self, domain: &Domain) -> Vec<u8> {
        domain.signing_message(ID, self)
    }

    /// The ids of all parents: the one in the own lane, then the links. They are the edges of the
    /// DAG.
    pub fn parents(&self) -> impl Iterator<Item = Hash> + '_ {
        std::iter::once(self.parent)
            .filter(|p| *p != Hash::ZERO)
            .chain(self.links.iter().map(|link| link.tip.id))
    }
}
