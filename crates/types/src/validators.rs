//! The validators of one epoch, and all else that they must agree on.

use crate::{
    crypto::PublicKey,
    hash::{Hash, TaggedHasher},
    ids::{Epoch, NodeId, View},
    quorum::{FaultModel, MAX_MEMBERS, Quorum},
};
use borsh::{BorshDeserialize, BorshSerialize};

/// The most bytes in a member's name.
pub(crate) const MAX_NAME: usize = 253;

/// A validator of an epoch.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Member {
    /// Its id.
    pub id: NodeId,
    /// What people call it: the pod's name.
    pub name: String,
    /// The key that signs its vertices and votes.
    pub key: PublicKey,
    /// The epoch from which on it answers for itself: evidence of an earlier one is about another
    /// key that was lost.
    pub since: Epoch,
}

/// Intervals and sizes that all nodes must share. Changed by a RECONFIG only.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Parameters {
    /// A checkpoint is signed at each sequence that this divides.
    pub checkpoint_interval: u64,
    /// Nothing is prepared further than this above the stable checkpoint.
    pub window: u64,
    /// After so many sequences the leader's term is over.
    pub term_sequences: u64,
    /// After so long, in milliseconds, with work, the leader's term is over.
    pub term_ms: u64,
    /// So many executed payloads are remembered while they are still valid; each lane has an equal
    /// share of them.
    pub recent_payloads: u64,
}

impl Default for Parameters {
    fn default() -> Self {
        Self {
            checkpoint_interval: 64,
            window: 256,
            term_sequences: 10_000,
            term_ms: 60_000,
            recent_payloads: 3 << 20,
        }
    }
}

impl Parameters {
    /// Whether a cluster can run with them.
    #[must_use]
    pub const fn are_sound(&self) -> bool {
        self.checkpoint_interval > 0
            && self.window / 2 >= self.checkpoint_interval
            && self.term_sequences > 0
            && self.term_ms > 0
            && self.recent_payloads >= MAX_MEMBERS as u64
    }
}

/// Everything that the nodes of one epoch agree on. Fixed until the epoch ends.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Validators {
    /// The epoch.
    pub epoch: Epoch,
    /// The members, by id.
    pub members: Vec<Member>,
    /// The id that the next one to join will get.
    pub next_id: NodeId,
    /// The key that signs reconfigurations.
    pub admin_key: PublicKey,
    /// What the faulty are assumed to do.
    pub fault_model: FaultModel,
    /// Shared intervals.
    pub parameters: Parameters,
    /// The position of the leader of view 0.
    pub first: u32,
}

impl Validators {
    /// The counts that their number gives.
    #[must_use]
    pub const fn quorum(&self) -> Quorum {
        Quorum::new(self.members.len(), self.fault_model)
    }

    /// How many executed payloads of one lane are remembered while they are still valid.
    #[must_use]
    pub fn payload_share(&self) -> u64 {
        self.parameters.recent_payloads / self.members.len().max(1) as u64
    }

    /// The leader of a view: a fixed function of epoch and view, never of local state.
    #[must_use]
    pub fn leader(&self, view: View) -> NodeId {
        let n = self.members.len().max(1) as u64;
        let position = (u64::from(self.first) + view.0 % n) % n;
        self.members.get(position as usize).map_or(NodeId(0), |member| member.id)
    }

    /// The position of a member's lane.
    #[must_use]
    pub fn position(&self, id: NodeId) -> Option<usize> {
        self.members.binary_search_by_key(&id, |member| member.id).ok()
    }

    /// The member with an id.
    #[must_use]
    pub fn member(&self, id: NodeId) -> Option<&Member> {
        self.members.get(self.position(id)?)
    }

    /// The member with a key.
    #[must_use]
    pub fn by_key(&self, key: &PublicKey) -> Option<&Member> {
        self.members.iter().find(|member| member.key == *key)
    }

    /// The id at a position.
    #[must_use]
    pub fn id_at(&self, position: usize) -> Option<NodeId> {
        self.members.get(position).map(|member| member.id)
    }

    /// The ids, in order.
    pub fn ids(&self) -> impl Iterator<Item = NodeId> + '_ {
        self.members.iter().map(|member| member.id)
    }

    /// The hash of all of it: what the forced checkpoint at an epoch's end names.
    #[must_use]
    pub fn hash(&self) -> Hash {
        TaggedHasher::new("creto validators v1").with(self).finish()
    }
}
