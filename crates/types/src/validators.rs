//! The validators of one epoch and everything else that they must agree on. It is fixed until the
//! epoch ends.

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
    /// The name for people: that of the pod.
    pub name: String,
    /// The key that signs its vertices and votes.
    pub key: PublicKey,
    /// The first epoch for which the member answers. Evidence of an earlier epoch is about a key
    /// that was lost and replaced.
    pub since: Epoch,
}

/// Intervals and sizes that all nodes must share. Only a RECONFIG changes them.
#[derive(Clone, Copy, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Parameters {
    /// A checkpoint is signed at each multiple of this number.
    pub checkpoint_interval: u64,
    /// No sequence is prepared that is further than this above the stable checkpoint.
    pub window: u64,
    /// The number of sequences after which a leader's term is over.
    pub term_sequences: u64,
    /// The time in milliseconds after which the term of a leader with work is over.
    pub term_ms: u64,
    /// The number of executed payloads that are remembered while they are still valid. Each lane
    /// has an equal share of it.
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

/// Everything that the nodes of one epoch agree on.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Validators {
    /// The epoch.
    pub epoch: Epoch,
    /// The members, in ascending order of their ids.
    pub members: Vec<Member>,
    /// The id of the next validator to join.
    pub next_id: NodeId,
    /// The key that signs reconfigurations.
    pub admin_key: PublicKey,
    /// The assumption about faulty nodes.
    pub fault_model: FaultModel,
    /// Shared intervals.
    pub parameters: Parameters,
    /// The position of the leader of view 0.
    pub first: u32,
}

impl Validators {
    /// The quorum sizes for this number of members.
    #[must_use]
    pub const fn quorum(&self) -> Quorum {
        Quorum::new(self.members.len(), self.fault_model)
    }

    /// One lane's share of the executed payloads that are remembered while they are still valid.
    #[must_use]
    pub fn payload_share(&self) -> u64 {
        self.parameters.recent_payloads / self.members.len().max(1) as u64
    }

    /// The leader of a view. It is a fixed function of epoch and view and does not depend on local
    /// state.
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

    /// The hash of all fields. The forced checkpoint at the end of an epoch names its successor by
    /// this hash.
    #[must_use]
    pub fn hash(&self) -> Hash {
        TaggedHasher::new("creto validators v1").with(self).finish()
    }
}
