//! What validators say to each other.

use crate::{
    decision::{Certificate, Proposal, Record, Vote},
    hash::Hash,
    ids::{Height, NodeId, Sequence, View},
    vertex::{Tip, Vertex},
};
use borsh::{BorshDeserialize, BorshSerialize};
use std::sync::Arc;

/// The most records in one answer to [`Message::FetchRecords`].
pub const MAX_RECORDS: usize = 64;

/// The most vertices in answer to one [`Message::FetchLane`].
pub const MAX_FETCHED_VERTICES: u64 = 64;

/// How a message is urgent. Votes never queue behind data, data never behind what a laggard asked for.
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
    /// "I hold every lane durably up to these tips." Cumulative; the newest counts.
    Acknowledge(Vec<Tip>),
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
    /// Asks for records from this sequence on. Answered from the store, with [`Message::Records`].
    FetchRecords {
        /// The first sequence wanted.
        from: Sequence,
    },
    /// At most [`MAX_RECORDS`] records in a row, with the commit certificate of the last: its proposal's `prev`
    /// proves all before it.
    Records {
        /// The records, by sequence.
        records: Vec<Record>,
        /// The commit certificate of the last one.
        certificate: Certificate,
    },
    /// Asks for vertices of a lane, heights `above` < h <= `up_to`. Answered from the store, with [`Message::Fetched`].
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
}

impl Message {
    /// Which stream it travels on.
    #[must_use]
    pub const fn urgency(&self) -> Urgency {
        match self {
            Self::Acknowledge(_)
            | Self::PrePrepare { .. }
            | Self::Vote(_)
            | Self::Status(_)
            | Self::FetchRecords { .. }
            | Self::FetchLane { .. } => Urgency::Vote,
            Self::Vertex(_) => Urgency::Data,
            Self::Records { .. } | Self::Fetched(_) => Urgency::Bulk,
        }
    }
}

/// Where a node is. Unsigned: true by the channel that it comes on, and a claim only.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Status {
    /// The view that it works in.
    pub view: View,
    /// The newest sequence that it executed.
    pub executed: Sequence,
    /// The chain hash there.
    pub chain_hash: Hash,
    /// What it voted in the sequence after that: none, PREPARE (1) or COMMIT (2).
    pub voted: u8,
    /// Every lane that it holds durably, up to these tips.
    pub acknowledged: Vec<Tip>,
    /// Its clock, Unix milliseconds.
    pub clock_ms: u64,
}
