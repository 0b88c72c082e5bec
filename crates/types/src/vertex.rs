//! Vertices: the signed blocks of payloads that form the DAG, with one lane for each author. The
//! rule: only a [`CheckedVertex`] is believed, and making one checks everything that needs no
//! state.

use crate::{
    crypto::{PublicKey, Signature, Signer, Verifier},
    domain::Domain,
    hash::Hash,
    header::VertexHeader,
    ids::{Height, NodeId},
    item::{Item, MAX_ITEMS, items_bytes, items_root},
    merkle::merkle_root,
    mutants::mutant,
    payload::Payload,
    tip::{Link, Tip},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The most bytes of payloads and system items in one vertex.
pub const MAX_BODY: usize = 256 * 1024;

/// The most payloads in one vertex. A limit on bytes alone would not bound memory, because each
/// payload takes more than its bytes.
pub const MAX_PAYLOADS: usize = 2_048;

/// The memory that a vertex takes beside the bytes of its body.
const OVERHEAD: usize = 8 * 1024;
const PAYLOAD_OVERHEAD: usize = 128;

fn payload_ids(payloads: &[Payload], domain: &Domain) -> Vec<Hash> {
    let of = |payload: &Payload| payload.id(domain.chain_id);
    if mutant!(PayloadIdWithEpoch) {
        return payloads.iter().map(|payload| domain.id("mutant", &of(payload))).collect();
    }
    payloads.iter().map(of).collect()
}

/// A signed header with the payloads and items that it names.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vertex {
    /// The header.
    pub header: VertexHeader,
    /// The author's signature over the header.
    pub signature: Signature,
    /// The payloads, in the order in which they execute.
    pub payloads: Vec<Payload>,
    /// System items, at most [`MAX_ITEMS`].
    pub items: Vec<Item>,
}

/// A vertex whose form, body and signature were checked, with the ids that were computed for it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckedVertex {
    vertex: Vertex,
    id: Hash,
    payload_ids: Vec<Hash>,
}

/// Why a vertex is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum VertexError {
    /// Another epoch, an unknown author, height 0 or links out of order.
    #[error("its header is malformed")]
    Header,
    /// A payload of a forbidden size, or too many bytes.
    #[error("its body is malformed or too large")]
    Body,
    /// Payloads or items that are not those that the header names.
    #[error("its body is not what its header names")]
    Root,
    /// A signature that is not the author's.
    #[error("its signature does not verify")]
    Signature,
}

impl CheckedVertex {
    /// Seals payloads and items into the vertex after `previous`, and signs it.
    #[must_use]
    #[allow(clippy::too_many_arguments, reason = "the parts of a vertex, each once")]
    pub fn seal(
        domain: &Domain,
        signer: &dyn Signer,
        author: NodeId,
        previous: Tip,
        links: Vec<Link>,
        timestamp_ms: u64,
        payloads: Vec<Payload>,
        items: Vec<Item>,
    ) -> Self {
        let payload_ids = payload_ids(&payloads, domain);
        let header = VertexHeader {
            epoch: domain.epoch,
            author,
            height: previous.height.next(),
            parent: previous.id,
            links,
            timestamp_ms,
            payload_root: merkle_root(&payload_ids),
            payload_bytes: payloads.iter().map(Payload::encoded_len).sum::<usize>() as u32,
            items_root: items_root(&items),
        };
        let id = header.id(domain);
        let signature = signer.sign(&header.signing_message(domain));
        Self { vertex: Vertex { header, signature, payloads, items }, id, payload_ids }
    }

    /// Checks everything that needs no state: form, sizes, the body against its roots, and the
    /// signature. `author_key` returns the key of a lane's author.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn check<'k>(
        vertex: Vertex,
        domain: &Domain,
        verifier: &dyn Verifier,
        author_key: impl Fn(NodeId) -> Option<&'k PublicKey>,
    ) -> Result<Self, VertexError> {
        let header = &vertex.header;
        let in_order =
            header.links.windows(2).all(|pair| matches!(pair, [a, b] if a.author < b.author));
        let strangers = header
            .links
            .iter()
            .any(|link| link.author == header.author || author_key(link.author).is_none());
        if header.epoch != domain.epoch || header.height == Height(0) || !in_order || strangers {
            return Err(VertexError::Header);
        }
        let key = author_key(header.author).ok_or(VertexError::Header)?;
        let bytes: usize = vertex.payloads.iter().map(Payload::encoded_len).sum();
        let fits =
            bytes + items_bytes(&vertex.items) <= MAX_BODY && vertex.payloads.len() <= MAX_PAYLOADS;
        if !fits
            || bytes != header.payload_bytes as usize
            || !vertex.payloads.iter().all(Payload::has_valid_size)
            || vertex.items.len() > MAX_ITEMS
        {
            return Err(VertexError::Body);
        }
        let payload_ids = payload_ids(&vertex.payloads, domain);
        if merkle_root(&payload_ids) != header.payload_root
            || items_root(&vertex.items) != header.items_root
        {
            return Err(VertexError::Root);
        }
        if !verifier.verify(key, &header.signing_message(domain), &vertex.signature) {
            return Err(VertexError::Signature);
        }
        let id = header.id(domain);
        Ok(Self { vertex, id, payload_ids })
    }

    /// Wraps a vertex from the node's own store, which was checked before it was written.
    #[must_use]
    pub fn trusted(vertex: Vertex, domain: &Domain) -> Self {
        let payload_ids = payload_ids(&vertex.payloads, domain);
        let id = vertex.header.id(domain);
        Self { vertex, id, payload_ids }
    }

    /// The vertex id.
    #[must_use]
    pub const fn id(&self) -> Hash {
        self.id
    }

    /// The signed header.
    #[must_use]
    pub const fn header(&self) -> &VertexHeader {
        &self.vertex.header
    }

    /// The place of the vertex in its lane.
    #[must_use]
    pub const fn tip(&self) -> Tip {
        Tip { height: self.vertex.header.height, id: self.id }
    }

    /// The greatest weight that a vertex can have.
    pub const MAX_WEIGHT: usize = OVERHEAD + MAX_BODY + PAYLOAD_OVERHEAD * MAX_PAYLOADS;

    /// The memory that it takes, in bytes: its body, and an allowance for itself and each payload.
    #[must_use]
    pub fn weight(&self) -> usize {
        let bytes = self.vertex.header.payload_bytes as usize + items_bytes(&self.vertex.items);
        OVERHEAD + bytes + PAYLOAD_OVERHEAD * self.vertex.payloads.len()
    }

    /// The whole vertex.
    #[must_use]
    pub const fn vertex(&self) -> &Vertex {
        &self.vertex
    }

    /// The payloads with their ids, in order.
    pub fn payloads(&self) -> impl DoubleEndedIterator<Item = (Hash, &Payload)> {
        self.payload_ids.iter().copied().zip(&self.vertex.payloads)
    }
}
