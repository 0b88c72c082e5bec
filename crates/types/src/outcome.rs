//! What became of the payloads that a decision ordered, as the chain commits to it.

use crate::{
    hash::{Hash, TaggedHasher},
    ids::Sequence,
    merkle::merkle_root,
    topic::Topic,
    vertex::CheckedVertex,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// What the chain alone says of a payload that a decision ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// It took effect here.
    Executed,
    /// It took effect before.
    Duplicate {
        /// Where.
        executed_at: Sequence,
    },
    /// The decision's time is after its `valid_until`: it never will take effect.
    Expired,
    /// Its `valid_until` is more than [`VALIDITY_WINDOW_MS`] after the decision's time. Not final:
    /// it may be ordered again.
    Early,
    /// The lane has as many executed payloads that are still valid as are remembered of one lane.
    /// Not final: it may be ordered again, by this lane later or by another one.
    Crowded,
}

impl Outcome {
    /// Whether nothing can change it.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Early | Self::Crowded)
    }
}

/// What a record commits to for each payload that it ordered: one leaf of the tree under
/// [`Record::outcomes`](crate::Record::outcomes).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OutcomeLeaf {
    /// The payload's position among all that the sequence ordered, from 0.
    pub index: u32,
    /// What the payload is filed under.
    pub topic: Option<Topic>,
    /// The payload's id.
    pub payload: Hash,
    /// What became of it.
    pub outcome: Outcome,
}

impl OutcomeLeaf {
    /// The leaf's hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        TaggedHasher::new("creto outcome v1").with(self).finish()
    }
}

/// The leaves of a record, in order: of each vertex the payloads with their outcomes.
pub fn outcome_leaves<'v>(
    vertices: impl IntoIterator<Item = (&'v CheckedVertex, &'v [Outcome])>,
) -> Vec<OutcomeLeaf> {
    let payloads =
        vertices.into_iter().flat_map(|(vertex, outcomes)| vertex.payloads().zip(outcomes));
    (0..)
        .zip(payloads)
        .map(|(index, ((payload, content), outcome))| OutcomeLeaf {
            index,
            topic: content.topic.clone(),
            payload,
            outcome: *outcome,
        })
        .collect()
}

/// The root over a record's leaves.
#[must_use]
pub fn outcomes_root(leaves: &[OutcomeLeaf]) -> Hash {
    merkle_root(&leaves.iter().map(OutcomeLeaf::hash).collect::<Vec<_>>())
}
