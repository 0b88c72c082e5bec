//! What validators say to each other.

use borsh::{BorshDeserialize, BorshSerialize};
use cretoai_types::{
    Checkpoint, CheckpointCertificate, Epoch, Hash, Height, NewView, NodeId, Phase, Proof,
    Proposal, Record, Sequence, Signature, SignedHeader, Tip, Vertex, View, ViewChange,
    ViewChangeHead, Vote,
};
use std::sync::Arc;

/// The most records in one answer to [`Message::FetchRecords`].
pub const MAX_RECORDS: usize = 64;

/// The most vertices in answer to one [`Message::FetchLane`] or [`Message::FetchBranch`].
pub const MAX_FETCHED_VERTICES: u64 = 64;

/// How a message is urgent. Votes never queue behind data, data never behind what a laggard asked
/// for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Urgency {
    /// Votes, acknowledgements, status.
    Vote,
    /// New vertices.
    Data,
    /// Answers to fetches.
    Bulk,
}

/// A message from one validator to another. The channel says who sent it.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum Message {
    /// A new vertex of the sender's lane.
    Vertex(Arc<Vertex>),
    /// "I hold every lane of this epoch durably up to these tips." Cumulative; the newest counts.
    Acknowledge {
        /// The epoch of the lanes.
        epoch: Epoch,
        /// Of each lane.
        tips: Vec<Tip>,
    },
    /// The leader's proposal with its vote.
    PrePrepare {
        /// What is proposed.
        proposal: Proposal,
        /// The leader's signed vote for its digest.
        vote: Vote,
    },
    /// A PREPARE or COMMIT.
    Vote(Vote),
    /// The heartbeat.
    Status(Status),
    /// The sender entered a view.
    ViewChange(Arc<ViewChange>),
    /// A view begins. Anyone may pass it on.
    NewView(Arc<NewView>),
    /// The sender's word for a state.
    Checkpoint(Checkpoint),
    /// A quorum's word for a state: the sender's stable checkpoint, or the end of an epoch.
    Stable(Arc<CheckpointCertificate>),
    /// Asks for records of an epoch from this sequence on. Answered from the store, with
    /// [`Message::Records`], or, where the epoch ended before that sequence, with its end:
    /// [`Message::Stable`].
    FetchRecords {
        /// The epoch that the asker is in.
        epoch: Epoch,
        /// The first sequence wanted.
        from: Sequence,
    },
    /// At most [`MAX_RECORDS`] records in a row of one epoch, with what proves the last: its
    /// proposal's `prev` proves all before it.
    Records {
        /// The epoch that decided them.
        epoch: Epoch,
        /// The records, by sequence.
        records: Vec<Record>,
        /// The proof of the last one.
        proof: Proof,
    },
    /// Asks for vertices of a lane, heights `above` < h <= `up_to`. Answered from the store, with
    /// [`Message::Fetched`].
    FetchLane {
        /// The lane.
        author: NodeId,
        /// The height that the asker holds.
        above: Height,
        /// The last height wanted.
        up_to: Height,
    },
    /// A vertex that was asked for.
    Fetched(Arc<Vertex>),
    /// "I have started. What did I sign, as far as you know?"
    Recall,
    /// The answer.
    Recalled(Box<Recalled>),
    /// Asks for a branch of a lane by hash: the vertex `tip` and its ancestors above `above`.
    /// Answered from the store from the top down, with [`Message::Fetched`], so that each vertex
    /// is the parent that the one before it names.
    FetchBranch {
        /// The lane.
        author: NodeId,
        /// The highest vertex wanted.
        tip: Tip,
        /// The height that the asker holds, or has decided.
        above: Height,
    },
}

/// The newest objects that a node holds which another one signed. Only the signatures count.
#[derive(Clone, Debug, Default, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Recalled {
    /// The answerer's epoch: only answers of the asker's own count as heard.
    pub epoch: Epoch,
    /// Of the highest view.
    pub view_change: Option<(ViewChangeHead, Signature)>,
    /// Of the highest (view, sequence), at most [`MAX_RECALLED_VOTES`].
    pub votes: Vec<Vote>,
    /// Of the highest sequence.
    pub checkpoint: Option<Checkpoint>,
    /// Of the highest height.
    pub vertex: Option<SignedHeader>,
}

/// The most votes in a [`Recalled`].
pub const MAX_RECALLED_VOTES: usize = 4;

impl Message {
    /// Which stream it travels on.
    #[must_use]
    pub const fn urgency(&self) -> Urgency {
        match self {
            Self::Acknowledge { .. }
            | Self::PrePrepare { .. }
            | Self::Vote(_)
            | Self::Status(_)
            | Self::ViewChange(_)
            | Self::NewView(_)
            | Self::Checkpoint(_)
            | Self::FetchRecords { .. }
            | Self::FetchLane { .. }
            | Self::FetchBranch { .. }
            | Self::Recall
            | Self::Recalled(_) => Urgency::Vote,
            Self::Vertex(_) => Urgency::Data,
            Self::Stable(_) | Self::Records { .. } | Self::Fetched(_) => Urgency::Bulk,
        }
    }
}

/// Where a node is. Unsigned: true by the channel that it comes on, and a claim only.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Status {
    /// The epoch that it works in.
    pub epoch: Epoch,
    /// The view that it entered last.
    pub view: View,
    /// Whether that view has begun for it.
    pub active: bool,
    /// The view that it is in or ready to go to.
    pub want: View,
    /// Whether it may sign: a learner, or a stale volume, has no use for what begins a view.
    pub signs: bool,
    /// The newest sequence that it executed.
    pub executed: Sequence,
    /// The chain hash there.
    pub chain_hash: Hash,
    /// Its stable checkpoint.
    pub stable: Sequence,
    /// What it voted in its view for the sequence after the executed one.
    pub voted: Option<Phase>,
    /// Every lane that it holds durably, up to these tips.
    pub acknowledged: Vec<Tip>,
    /// Its clock, Unix milliseconds.
    pub clock_ms: u64,
}
