//! Receipts: proofs of a payload's outcome for anybody who has the chain's genesis.
//!
//! A receipt leads from the genesis to the validators of an epoch, from their certificate back to
//! one record, and in that record to one payload:
//!
//! ```text
//! genesis -> validators of each epoch -> certificate -> chain hash -> record -> outcome
//! ```
//!
//! A commit certificate proves the proposal after the record, and that proposal names the chain
//! hash that the record led to. A checkpoint certificate proves a chain hash itself. Verifying
//! needs no node, no clock and no network. `docs/receipts.md` specifies the bytes.

use crate::{
    certificate::{Certificate, CertificateError},
    checkpoint::CheckpointCertificate,
    crypto::Verifier,
    domain::Domain,
    genesis::Genesis,
    hash::Hash,
    ids::{Epoch, Sequence},
    merkle::MerklePath,
    outcome::{Outcome, OutcomeLeaf},
    proposal::{Proposal, RecordLink},
    validators::Validators,
    vote::Phase,
    wire::{DecodeError, decode, encode},
};
use borsh::{BorshDeserialize, BorshSerialize};
use std::fmt;

/// The version of the format, which is the first byte of an encoded receipt.
const VERSION: u8 = 1;

/// The most records between the record of the payload and the certificate: those of two checkpoint
/// intervals.
pub const MAX_FOLLOWING: usize = 2_048;

/// The step from the validators of one epoch to those of the next.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct EpochStep {
    /// The checkpoint that ended the epoch, signed by its validators.
    pub certificate: CheckpointCertificate,
    /// The validators of the next epoch.
    pub validators: Validators,
}

/// The certificate of a quorum that covers the record.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub enum ReceiptProof {
    /// The decision of the next proposal, which names the chain hash before it.
    Commit {
        /// The next proposal.
        next: Proposal,
        /// The COMMITs of a quorum for its digest.
        certificate: Certificate,
    },
    /// A quorum's signatures over a checkpoint, which names the chain hash.
    Checkpoint(CheckpointCertificate),
}

/// The proof of the outcome of one payload.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Receipt {
    /// The chain id: the hash of the genesis.
    pub chain_id: Hash,
    /// The ends of all epochs before that of the record.
    pub epochs: Vec<EpochStep>,
    /// The sequence that ordered the payload.
    pub sequence: Sequence,
    /// The payload and its outcome.
    pub leaf: OutcomeLeaf,
    /// The leaf's path to the outcomes of the record.
    pub path: MerklePath,
    /// The chain hash before the record.
    pub previous: Hash,
    /// The record.
    pub record: RecordLink,
    /// The records after it, up to the one that the proof covers.
    pub following: Vec<RecordLink>,
    /// The certificate.
    pub proof: ReceiptProof,
}

/// Why a receipt proves nothing.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ReceiptError {
    /// The receipt is of another version.
    #[error(
        "it is a receipt of version {0}, and this program reads version {VERSION}; use the program of the release that made it"
    )]
    Version(u8),
    /// The bytes are not exactly one receipt.
    #[error("{0}")]
    Encoding(#[from] DecodeError),
    /// The receipt is of another chain than the genesis.
    #[error("it is of chain {receipt}, and the genesis makes chain {genesis}")]
    OtherChain {
        /// The chain id in the receipt.
        receipt: Hash,
        /// The chain id of the genesis.
        genesis: Hash,
    },
    /// The validators of an epoch do not follow from those of the epoch before.
    #[error("the end of epoch {epoch} does not verify: {why}")]
    Epoch {
        /// The epoch.
        epoch: Epoch,
        /// The reason.
        why: String,
    },
    /// The path does not lead from the outcome to the record.
    #[error("the outcome is not one that the record commits to")]
    Outcome,
    /// The certificate covers other records.
    #[error("its certificate is about other records than its own")]
    OtherRecord,
    /// The certificate does not verify.
    #[error("its certificate does not verify: {0}")]
    Certificate(CertificateError),
}

impl Receipt {
    /// The bytes of the receipt: the version, then the canonical encoding.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        [&[VERSION], encode(self).as_slice()].concat()
    }

    /// Reads a receipt without verifying it.
    ///
    /// # Errors
    /// [`ReceiptError::Version`] or [`ReceiptError::Encoding`].
    pub fn decode(bytes: &[u8]) -> Result<Self, ReceiptError> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => Ok(decode(rest)?),
            Some((version, _)) => Err(ReceiptError::Version(*version)),
            None => Err(decode::<Self>(bytes).err().map_or(ReceiptError::Outcome, Into::into)),
        }
    }

    /// Verifies the whole receipt against the genesis of the chain.
    ///
    /// # Errors
    /// The first thing that is wrong.
    pub fn verify(&self, genesis: &Genesis, verifier: &dyn Verifier) -> Result<(), ReceiptError> {
        let chain_id = genesis.chain_id();
        if self.chain_id != chain_id {
            return Err(ReceiptError::OtherChain { receipt: self.chain_id, genesis: chain_id });
        }
        let validators = self.validators(genesis, verifier)?;
        let domain = Domain { chain_id, epoch: validators.epoch };
        if self.path.index != self.leaf.index
            || self.path.root(self.leaf.hash()) != Some(self.record.outcomes)
            || self.following.len() > MAX_FOLLOWING
        {
            return Err(ReceiptError::Outcome);
        }
        let (mut sequence, mut chain_hash) = (self.sequence, self.previous);
        for (nth, link) in std::iter::once(&self.record).chain(&self.following).enumerate() {
            if nth > 0 {
                sequence = Sequence(sequence.0.checked_add(1).ok_or(ReceiptError::OtherRecord)?);
            }
            chain_hash = link.chain_hash(chain_hash, sequence);
        }
        match &self.proof {
            ReceiptProof::Commit { next, certificate } => {
                let about = next.prev == chain_hash
                    && sequence.0.checked_add(1) == Some(next.sequence.0)
                    && certificate.phase == Phase::Commit
                    && certificate.sequence == next.sequence
                    && certificate.digest == next.digest(&domain);
                if !about {
                    return Err(ReceiptError::OtherRecord);
                }
                certificate.verify(chain_id, &validators, verifier)
            }
            ReceiptProof::Checkpoint(certificate) => {
                if (certificate.state.sequence, certificate.state.chain_hash)
                    != (sequence, chain_hash)
                {
                    return Err(ReceiptError::OtherRecord);
                }
                certificate.verify(chain_id, &validators, verifier)
            }
        }
        .map_err(ReceiptError::Certificate)
    }

    /// The validators of the record's epoch.
    fn validators(
        &self,
        genesis: &Genesis,
        verifier: &dyn Verifier,
    ) -> Result<Validators, ReceiptError> {
        let mut validators = genesis.validators();
        for step in &self.epochs {
            let epoch = validators.epoch;
            let wrong = |why: String| ReceiptError::Epoch { epoch, why };
            step.certificate
                .verify(self.chain_id, &validators, verifier)
                .map_err(|error| wrong(error.to_string()))?;
            if step.certificate.state.successor != Some(step.validators.hash())
                || epoch.0.checked_add(1) != Some(step.validators.epoch.0)
            {
                return Err(wrong("it names other validators for the next epoch".to_owned()));
            }
            validators = step.validators.clone();
        }
        Ok(validators)
    }
}

/// Prints the receipt's statement in one sentence. The statement is true once the receipt was
/// verified.
impl fmt::Display for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let OutcomeLeaf { index, topic, payload, outcome } = &self.leaf;
        write!(f, "payload {payload}")?;
        if let Some(topic) = topic {
            write!(f, " of topic {topic:?}", topic = topic.as_str())?;
        }
        match outcome {
            Outcome::Executed => write!(f, " executed")?,
            Outcome::Duplicate { executed_at } => {
                write!(f, " had executed at sequence {executed_at} and was ordered once more")?
            }
            Outcome::Expired => write!(f, " was ordered too late and expired: final")?,
            Outcome::Early => write!(f, " was ordered too early: not final")?,
            Outcome::Crowded => write!(f, " found no room: not final")?,
        }
        let Self { sequence, chain_id, .. } = self;
        write!(f, ", at sequence {sequence}, position {index}, of chain {chain_id}")
    }
}
