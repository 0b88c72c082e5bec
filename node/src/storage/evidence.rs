//! Evidence that counted, by the place in the chain where it did: equal on all nodes, and kept for
//! ever.
//!
//! | key in `consensus` | value |
//! |---|---|
//! | `evidence/` sequence, index | [`Counted`] |
//!
//! What one key can be accused of is bounded by the protocol, so the list is as long as the set of
//! keys at most.

use super::{CONSENSUS, Storage, StorageError};
use borsh::{BorshDeserialize, BorshSerialize};
use cretoai_consensus::engine::Execution;
use cretoai_types::{Evidence, Offence, Sequence, decode, encode};
use rocksdb::{Direction, IteratorMode, WriteBatch};

const PREFIX: &[u8] = b"evidence/";

/// One piece of evidence that counted.
#[derive(Clone, Debug, PartialEq, Eq, BorshSerialize, BorshDeserialize)]
pub struct Counted {
    /// The sequence that executed it.
    pub sequence: Sequence,
    /// What it proves.
    pub offence: Offence,
    /// The two signed objects.
    pub evidence: Evidence,
}

fn key(sequence: Sequence, index: u32) -> Vec<u8> {
    [PREFIX, &sequence.0.to_be_bytes(), &index.to_be_bytes()].concat()
}

impl Storage {
    pub(super) fn put_evidence(
        &self,
        batch: &mut WriteBatch,
        execution: &Execution,
    ) -> Result<(), StorageError> {
        let sequence = execution.record.proposal.sequence;
        for (index, (offence, evidence)) in (0..).zip(&execution.evidence) {
            let counted = Counted { sequence, offence: *offence, evidence: evidence.clone() };
            self.put(batch, CONSENSUS, &key(sequence, index), &encode(&counted))?;
        }
        Ok(())
    }

    /// Evidence in the order of the chain, at most `count` from number `first` on, and how much
    /// there is in all.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn evidence(
        &self,
        first: usize,
        count: usize,
    ) -> Result<(Vec<Counted>, usize), StorageError> {
        let mut found = Vec::new();
        let mut total = 0;
        for entry in self
            .db
            .iterator_cf(&self.family(CONSENSUS)?, IteratorMode::From(PREFIX, Direction::Forward))
        {
            let (key, bytes) = entry.map_err(|e| self.failed(e))?;
            if !key.starts_with(PREFIX) {
                break;
            }
            if total >= first && found.len() < count {
                found.push(decode(&bytes).map_err(|e| self.unreadable(&e))?);
            }
            total += 1;
        }
        Ok((found, total))
    }
}
