//! The objects of a CretoAI chain, which are signed, hashed, stored and sent.
//!
//! Every object has one encoding ([`encode`], strict borsh), which serves disk, wire and hashing,
//! and an id or a signature that is bound to its kind, its chain and its epoch ([`Domain`]).
//! Everything that can be verified offline is verified here: vertices, certificates, checkpoints,
//! evidence and reconfigurations. Signatures go through the [`Verifier`] and [`Signer`] traits, so
//! that this crate brings no cryptographic library and also runs in a browser.
//!
//! | module | objects |
//! |---|---|
//! | `ids`, `hash`, `domain`, `wire` | numbers, hashes, the domain of signatures, the encoding |
//! | `genesis`, `validators`, `quorum` | the members of a chain, and how many of them decide |
//! | `payload`, `topic`, `item`, `header`, `vertex`, `tip` | the data of a lane, and places in it |
//! | `proposal`, `vote`, `certificate`, `view` | one decision, and the change of a view |
//! | `outcome`, `merkle`, `receipt` | the outcome of a payload, and its proof |
//! | `checkpoint`, `chain_state`, `reconfig`, `evidence` | the state that follows from decisions |

mod certificate;
mod chain_state;
mod checkpoint;
mod crypto;
mod domain;
mod evidence;
mod genesis;
mod hash;
mod header;
mod ids;
mod item;
mod merkle;
pub mod mutants;
mod outcome;
mod payload;
mod proposal;
mod quorum;
mod receipt;
mod reconfig;
mod tip;
mod topic;
mod validators;
mod vertex;
mod view;
mod vote;
mod wire;

pub use certificate::{Certificate, CertificateError};
pub use chain_state::{ChainState, Conduct, FULL_REPUTATION, Judged, Leaders};
pub use checkpoint::{Checkpoint, CheckpointCertificate, CheckpointState};
pub use crypto::{PublicKey, Signature, Signer, Verifier};
pub use domain::Domain;
pub use evidence::{Evidence, Offence, OffenceKind, SignedHeader};
pub use genesis::{Genesis, GenesisError, GenesisMember, SignedGenesis};
pub use hash::{Hash, NotAHash, TaggedHasher};
pub use header::VertexHeader;
pub use ids::{Epoch, Height, NodeId, Sequence, View};
pub use item::{Item, MAX_ITEMS, items_bytes};
pub use merkle::{MerklePath, merkle_root};
pub use outcome::{Outcome, OutcomeLeaf, outcome_leaves, outcomes_root};
pub use payload::{MAX_PAYLOAD_DATA, Payload, REMEMBERED_MS, VALIDITY_WINDOW_MS};
pub use proposal::{Cut, Proposal, Record, RecordLink};
pub use quorum::{FaultModel, MAX_MEMBERS, Quorum};
pub use receipt::{EpochStep, MAX_FOLLOWING, Receipt, ReceiptError, ReceiptProof};
pub use reconfig::{Change, Ready, Reconfig, SignedReconfig, Void};
pub use tip::{Link, Tip};
pub use topic::{NotATopic, Topic};
pub use validators::{Member, Parameters, Validators};
pub use vertex::{CheckedVertex, MAX_BODY, MAX_PAYLOADS, Vertex, VertexError};
pub use view::{Choice, NewView, Opening, Prepared, Proof, ViewChange, ViewChangeHead};
pub use vote::{Ballot, Phase, Vote};
pub use wire::{DecodeError, MAX_FRAME, decode, encode};
