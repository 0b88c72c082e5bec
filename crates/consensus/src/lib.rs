//! The CretoAI consensus protocol: PBFT over cuts of DAG lanes, without any I/O.
//!
//! # The protocol in prose
//! Every validator seals its clients' payloads into *vertices* and links them into a *lane* of its
//! own, height by height; it sends each vertex to all, and every node that wrote one durably
//! *acknowledges* it. The leader of the *view* proposes, for one *sequence* at a time, a *cut*: for
//! each lane the highest tip that a quorum acknowledged. Followers that hold all data which the cut
//! names vote PREPARE; who sees a quorum of them votes COMMIT; a quorum of COMMITs decides.
//! Executing orders the vertices between the last cut and this one, decides the outcome of each
//! payload, judges the system items, and extends the *chain hash*, which is equal on all honest
//! nodes.
//!
//! A leader that is silent or leaves work undone is replaced: each node says which view it `want`s,
//! and enters the highest that a quorum wants with a VIEW-CHANGE. NEW-VIEW shows the signed heads
//! of a quorum of them, and so which digest must be proposed again. Checkpoints that a quorum
//! signed close what lies below. A RECONFIG ends an epoch; the checkpoint of its last sequence
//! opens the next one, with other validators.
//!
//! | message | who to whom | durable before it is sent |
//! |---|---|---|
//! | [`Message::Vertex`] | author to all | the vertex |
//! | [`Message::Acknowledge`] | each to the leader | all that it names |
//! | [`Message::PrePrepare`] | leader to all | proposal and vote |
//! | [`Message::Vote`] PREPARE | each to all | proposal, vote, and all data it names |
//! | [`Message::Vote`] COMMIT | each to all | prepared certificate and vote |
//! | [`Message::ViewChange`] | each to all | the view and the message itself |
//! | [`Message::NewView`] | leader to all; anyone passes it on | the message itself |
//! | [`Message::Checkpoint`] | each to all | the signature |
//! | [`Message::Stable`] | whoever has it to whoever lacks it | nothing |
//! | [`Message::Status`] | each to all, every 50 ms | what it says was acknowledged |
//! | [`Message::FetchRecords`], [`Message::FetchLane`] | laggard to holder; answered from the store | nothing |
//! | [`Message::Recall`] | who has started to all; answered with [`Message::Recalled`] | nothing |
//!
//! With n validators f = floor((n - 1) / 3) may be faulty and q = n - f are a [`Quorum`](cretoai_types::Quorum); any two
//! quorums share an honest node, so no two decisions of one sequence differ. `docs/protocol.md` in
//! the repository states every rule, and [`engine`] says which module keeps which.

pub mod engine;
mod message;

pub use engine::Engine;
pub use message::{
    MAX_FETCHED_VERTICES, MAX_RECALLED_VOTES, MAX_RECORDS, Message, Recalled, Status, Urgency,
};
