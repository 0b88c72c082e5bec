//! Vertices: the DAG's blocks of payloads, one lane for each author.

use crate::{
    crypto::{PublicKey, Signature, Signer, Verifier},
    domain::Domain,
    evidence::Evidence,
    hash::{Hash, TaggedHasher, merkle_root},
    ids::{Epoch, Height, NodeId},
    mutants::mutant,
    payload::Payload,
    reconfig::SignedReconfig,
    wire::encode,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The most bytes of payloads and system items in one vertex.
pub const MAX_BODY: usize = 256 * 1024;

/// The most payloads in one vertex: a payload takes more memory than its bytes.
pub const MAX_PAYLOADS: usize = 2_048;

/// What a vertex takes in memory beside its bytes: for itself, and for each payload.
const OVERHEAD: usize = 8 * 1024;
const PAYLOAD_OVERHEAD: usize = 128;

/// The most system items in one vertex.
pub const MAX_ITEMS: usize = 4;

/// What the protocol itself puts into a vertex. Judged when it is executed, never on arrival; a bad
/// one has no effect.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Item {
    /// A proof that a validator broke a rule.
    Evidence(Box<Evidence>),
    /// The admin's order to change the validators.
    Reconfig(Box<SignedReconfig>),
}

/// The bytes that system items take in a vertex.
pub(crate) fn items_bytes(items: &[Item]) -> usize {
    if items.is_empty() { 0 } else { encode(&items).len() }
}

/// The hash of a vertex's system items.
fn items_root(items: &[Item]) -> Hash {
    if items.is_empty() {
        Hash::ZERO
    } else {
        TaggedHasher::new("creto items v1").with(&items).finish()
    }
}

fn payload_ids(payloads: &[Payload], domain: &Domain) -> Vec<Hash> {
    let of = |payload: &Payload| payload.id(domain.chain_id);
    if mutant!(PayloadIdWithEpoch) {
        return payloads.iter().map(|payload| domain.id("mutant", &of(payload))).collect();
    }
    payloads.iter().map(of).collect()
}

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

/// A signed header with the payloads that it names.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Vertex {
    /// The header.
    pub header: VertexHeader,
    /// The author's signature over the header.
    pub signature: Signature,
    /// The payloads, in their order.
    pub payloads: Vec<Payload>,
    /// System items, at most [`MAX_ITEMS`].
    pub items: Vec<Item>,
}

/// A vertex whose signature, body and form were checked, with the ids that checking computed.
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
    /// The payloads are not those that the header names.
    #[error("its body is not what its header names")]
    Root,
    /// Not signed by its author.
    #[error("its signature does not verify")]
    Signature,
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

impl CheckedVertex {
    /// Seals payloads into a vertex and signs it.
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

    /// Checks all that needs no state: form, sizes, body against root, signature. `author_key`
    /// gives a lane's key.
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

    /// A vertex that this node checked before it wrote it to its own store.
    #[must_use]
    pub fn trusted(vertex: Vertex, domain: &Domain) -> Self {
        let payload_ids = payload_ids(&vertex.payloads, domain);
        let id = vertex.header.id(domain);
        Self { vertex, id, payload_ids }
    }

    /// Its id.
    #[must_use]
    pub const fn id(&self) -> Hash {
        self.id
    }

    /// Its header.
    #[must_use]
    pub const fn header(&self) -> &VertexHeader {
        &self.vertex.header
    }

    /// Its place in its lane.
    #[must_use]
    pub const fn tip(&self) -> Tip {
        Tip { height: self.vertex.header.height, id: self.id }
    }

    /// What it takes in memory, at the most.
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
