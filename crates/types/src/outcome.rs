//! The outcomes of the payloads that a decision ordered, in the form to which the chain hash
//! commits. Outcomes follow from the chain alone, so they are equal on all honest nodes.

use crate::{
    hash::{Hash, TaggedHasher},
    ids::Sequence,
    merkle::merkle_root,
    topic::Topic,
    vertex::CheckedVertex,
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The outcome of a payload that a decision ordered.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Outcome {
    /// The payload took effect in this decision.
    Executed,
    /// The payload took effect in an earlier decision.
    Duplicate {
        /// The sequence of the earlier decision.
        executed_at: Sequence,
    },
    /// The decision's time is after the payload's `valid_until`, so it can no longer take effect.
    Expired,
    /// The payload's `valid_until` is more than [`VALIDITY_WINDOW_MS`] after the decision's time.
    /// This is not final: the payload may be ordered again.
    Early,
    /// The lane has used up its share of the executed payloads that are remembered. This is not
    /// final: this lane may order the payload again later, or another lane may.
    Crowded,
}

impl Outcome {
    /// Whether no later decision can change the outcome.
    #[must_use]
    pub const fn is_final(self) -> bool {
        !matches!(self, Self::Early | Self::Crowded)
    }
}

/// The leaf for one payload in the tree whose root is
/// [`Record::outcomes`](crate::Record::outcomes).
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct OutcomeLeaf {
    /// The payload's position among all that the sequence ordered, from 0.
    pub index: u32,
    /// The payload's topic.
    pub topic: Option<Topic>,
    /// The payload's id.
    pub payload: Hash,
    /// The payload's outcome.
    pub outcome: Outcome,
}

impl OutcomeLeaf {
    /// The hash of the leaf.
    #[must_use]
    pub fn hash(&self) -> Hash {
        TaggedHasher::new("creto outcome v1").with(self).finish()
    }
}

/// The leaves of a record: the payloads of each vertex with their outcomes, in the order of
/// execution.
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

/// The root of the tree over a record's leaves.
#[must_use]
pub fn outcomes_root(leaves: &[OutcomeLeaf]) -> Hash {
    merkle_root(&leaves.iter().map(OutcomeLeaf::hash).collect::<Vec<_>>())
}
