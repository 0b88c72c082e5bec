//! The chain as it was decided, read in order.

use super::{Storage, StorageError};
use cretoai_types::{Domain, Epoch, Hash, OutcomeLeaf, Sequence};

/// What one sequence decided.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decided {
    /// The sequence.
    pub sequence: Sequence,
    /// The epoch in which it was decided.
    pub epoch: Epoch,
    /// The chain hash there.
    pub chain_hash: Hash,
    /// The decision's time, Unix milliseconds.
    pub time_ms: u64,
    /// What became of its payloads, in order.
    pub outcomes: Vec<OutcomeLeaf>,
}

impl Storage {
    /// What one sequence decided, or nothing if it is not decided here. Reads its vertices.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn decided(
        &self,
        chain_id: Hash,
        sequence: Sequence,
    ) -> Result<Option<Decided>, StorageError> {
        let Some(finalized) = self.finalized(sequence)? else { return Ok(None) };
        let domain = Domain { chain_id, epoch: finalized.epoch };
        let outcomes = self.leaves(&domain, &finalized)?;
        Ok(Some(Decided {
            sequence,
            epoch: finalized.epoch,
            chain_hash: finalized.chain_hash,
            time_ms: finalized.record.proposal.time_ms,
            outcomes,
        }))
    }
}
