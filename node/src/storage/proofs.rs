//! What proves decisions to others: commit certificates, checkpoint certificates, and the ends of
//! epochs.
//!
//! | key in `consensus` | value | how long |
//! |---|---|---|
//! | `certificate/` sequence | commit certificate | until a stable checkpoint covers it |
//! | `kept-certificate/` sequence | commit certificate | for ever, where no checkpoint proves the records before it |
//! | `checkpoint-certificate/` sequence | the checkpoint of an interval or of an epoch's end | for ever |
//! | `stable` | the stable checkpoint, also one that a pause made | until the next |
//! | `epoch-certificate/` epoch | the checkpoint that ended it | for ever |
//!
//! The rule: from any sequence on there is a proof that is kept within [`MAX_RECORDS`] records and
//! within a frame, so that every range can be served for ever.

use super::{CONSENSUS, Finalized, Storage, StorageError, votes::STABLE};
use crate::sync::lock;
use cretoai_consensus::{
    MAX_RECORDS,
    engine::{Execution, Turn, Write},
};
use cretoai_types::{CheckpointCertificate, Epoch, MAX_FRAME, Parameters, Proof, Sequence, encode};
use rocksdb::WriteBatch;

/// Records between two kept proofs take at most about so many bytes: a frame's worth, less the
/// largest record and certificate.
const MAX_RANGE: usize = MAX_FRAME / 2;

/// The records since the newest proof that is kept for ever. Sequence 0, the genesis, needs none.
#[derive(Clone, Copy, Debug)]
pub(super) struct Range {
    /// The sequence of that proof.
    kept: Sequence,
    /// The newest record.
    last: Sequence,
    /// Whether it has a proof, if only for a while.
    proven: bool,
    /// What the records between take.
    bytes: usize,
}

/// From where on commit certificates may be left that a stable checkpoint covers. Deletions of
/// ranges do not overlap: RocksDB sorts all that one memory table holds for every read after it.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Sweep {
    from: Sequence,
}

impl Sweep {
    /// A certificate is written.
    fn written(&mut self, sequence: Sequence) {
        self.from = self.from.min(sequence);
    }

    /// What a stable checkpoint at `stable` covers and nothing deleted yet.
    fn next(&mut self, stable: Sequence) -> Option<std::ops::Range<Sequence>> {
        let range = self.from..stable.next();
        (range.start < range.end).then(|| {
            self.from = range.end;
            range
        })
    }
}

fn recent(sequence: Sequence) -> Vec<u8> {
    [b"certificate/".as_slice(), &sequence.0.to_be_bytes()].concat()
}

fn kept(sequence: Sequence) -> Vec<u8> {
    [b"kept-certificate/".as_slice(), &sequence.0.to_be_bytes()].concat()
}

fn checkpoint(sequence: Sequence) -> Vec<u8> {
    [b"checkpoint-certificate/".as_slice(), &sequence.0.to_be_bytes()].concat()
}

fn end_of(epoch: Epoch) -> Vec<u8> {
    [b"epoch-certificate/".as_slice(), &epoch.0.to_be_bytes()].concat()
}

impl Storage {
    /// What proves a sequence, if that is kept.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn proof(&self, sequence: Sequence) -> Result<Option<Proof>, StorageError> {
        for key in [recent(sequence), kept(sequence)] {
            if let Some(certificate) = self.get(CONSENSUS, &key)? {
                return Ok(Some(Proof::Commit(certificate)));
            }
        }
        Ok(self.checkpoint_at(sequence)?.map(Proof::Checkpoint))
    }

    /// The checkpoint certificate of a sequence, if one is kept.
    pub(super) fn checkpoint_at(
        &self,
        sequence: Sequence,
    ) -> Result<Option<CheckpointCertificate>, StorageError> {
        if let Some(certificate) = self.get(CONSENSUS, &checkpoint(sequence))? {
            return Ok(Some(certificate));
        }
        Ok(self.stable()?.filter(|stable| stable.state.sequence == sequence))
    }

    /// The stable checkpoint.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn stable(&self) -> Result<Option<CheckpointCertificate>, StorageError> {
        self.get(CONSENSUS, STABLE)
    }

    /// The checkpoint that ended an epoch.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn epoch_certificate(
        &self,
        epoch: Epoch,
    ) -> Result<Option<CheckpointCertificate>, StorageError> {
        self.get(CONSENSUS, &end_of(epoch))
    }

    pub(super) fn put_epoch_certificate(
        &self,
        batch: &mut WriteBatch,
        certificate: &CheckpointCertificate,
    ) -> Result<(), StorageError> {
        self.put(batch, CONSENSUS, &end_of(certificate.state.epoch), &encode(certificate))
    }

    /// A checkpoint takes the place of the commit certificates up to it.
    pub(super) fn put_stable(
        &self,
        batch: &mut WriteBatch,
        certificate: &CheckpointCertificate,
    ) -> Result<(), StorageError> {
        let state = &certificate.state;
        self.put(batch, CONSENSUS, STABLE, &encode(certificate))?;
        let family = self.family(CONSENSUS)?;
        let covered = lock(&self.sweep).next(state.sequence);
        if let Some(covered) = covered {
            batch.delete_range_cf(&family, recent(covered.start), recent(covered.end));
        }
        // What a pause made is kept as the stable one only: later checkpoints prove its records
        // too.
        let interval = self.parameters(state.epoch)?.checkpoint_interval.max(1);
        if state.sequence.0.is_multiple_of(interval) || state.successor.is_some() {
            batch.delete_cf(&family, kept(state.sequence));
            self.put(batch, CONSENSUS, &checkpoint(state.sequence), &encode(certificate))?;
            let mut range = lock(&self.range);
            if let Some(range) = range.as_mut().filter(|range| range.kept < state.sequence) {
                (range.kept, range.bytes) = (state.sequence, 0);
            }
        }
        Ok(())
    }

    /// Intervals of an epoch; the usual ones in a store without a genesis.
    fn parameters(&self, epoch: Epoch) -> Result<Parameters, StorageError> {
        let Some(genesis) = self.genesis()? else { return Ok(Parameters::default()) };
        Ok(self
            .validators(&genesis.genesis, epoch)?
            .map_or(genesis.genesis.parameters, |validators| validators.parameters))
    }

    pub(super) fn put_proof(
        &self,
        batch: &mut WriteBatch,
        turn: &Turn,
        execution: &Execution,
    ) -> Result<(), StorageError> {
        let sequence = execution.record.proposal.sequence;
        let previous = Sequence(sequence.0.saturating_sub(1));
        let mut range = self.range_up_to(previous)?;
        range.bytes += encode(&execution.record).len();
        match &execution.proof {
            None => {
                // Learnt from a later proof: what proves the records before it must not go.
                if range.proven && range.kept < previous && self.keep(batch, turn, previous)? {
                    (range.kept, range.bytes) = (previous, 0);
                }
                range.proven = false;
            }
            Some(proof) => self.place_proof(batch, &mut range, sequence, proof)?,
        }
        range.last = sequence;
        *lock(&self.range) = Some(range);
        Ok(())
    }

    /// A proof that came after its decision was written.
    pub(super) fn put_late_proof(
        &self,
        batch: &mut WriteBatch,
        sequence: Sequence,
        proof: &Proof,
    ) -> Result<(), StorageError> {
        let mut range = self.range_up_to(sequence)?;
        self.place_proof(batch, &mut range, sequence, proof)?;
        *lock(&self.range) = Some(range);
        Ok(())
    }

    /// Writes the proof of the newest record: for ever, where it is the only one near.
    fn place_proof(
        &self,
        batch: &mut WriteBatch,
        range: &mut Range,
        sequence: Sequence,
        proof: &Proof,
    ) -> Result<(), StorageError> {
        match proof {
            Proof::Checkpoint(certificate) => {
                self.put(batch, CONSENSUS, &checkpoint(sequence), &encode(certificate))?;
                (range.kept, range.bytes) = (sequence, 0);
            }
            Proof::Commit(certificate) => {
                let many = sequence.0.saturating_sub(range.kept.0) >= MAX_RECORDS as u64
                    || range.bytes >= MAX_RANGE;
                if many || !range.proven {
                    self.put(batch, CONSENSUS, &kept(sequence), &encode(certificate))?;
                    (range.kept, range.bytes) = (sequence, 0);
                } else {
                    self.put(batch, CONSENSUS, &recent(sequence), &encode(certificate))?;
                    lock(&self.sweep).written(sequence);
                }
            }
        }
        range.proven = true;
        Ok(())
    }

    /// Keeps what proves a sequence for ever, if there is something, also in this very turn. Says
    /// whether there is.
    fn keep(
        &self,
        batch: &mut WriteBatch,
        turn: &Turn,
        sequence: Sequence,
    ) -> Result<bool, StorageError> {
        let written = turn.writes.iter().find_map(|write| match write {
            Write::Execution(execution) if execution.record.proposal.sequence == sequence => {
                execution.proof.clone()
            }
            _ => None,
        });
        let proof = if written.is_some() { written } else { self.proof(sequence)? };
        match proof {
            Some(Proof::Commit(certificate)) => {
                self.put(batch, CONSENSUS, &kept(sequence), &encode(&certificate))?
            }
            Some(Proof::Checkpoint(certificate)) => {
                self.put(batch, CONSENSUS, &checkpoint(sequence), &encode(&certificate))?
            }
            None => return Ok(false),
        }
        Ok(true)
    }

    /// The records up to `last` since the newest kept proof. Counted along, and after a start read
    /// once.
    fn range_up_to(&self, last: Sequence) -> Result<Range, StorageError> {
        let known = *lock(&self.range);
        if let Some(range) = known.filter(|range| range.last == last) {
            return Ok(range);
        }
        let family = self.family(CONSENSUS)?;
        let held = |key: Vec<u8>| {
            self.db
                .get_pinned_cf(&family, key)
                .map(|found| found.is_some())
                .map_err(|e| self.failed(e))
        };
        let proven = last == Sequence(0) || self.proof(last)?.is_some();
        let mut range = Range { kept: Sequence(0), last, proven, bytes: 0 };
        let oldest = last.0.saturating_sub(MAX_RECORDS as u64);
        for sequence in (oldest + 1..=last.0).rev().map(Sequence) {
            if held(kept(sequence))? || held(checkpoint(sequence))? {
                range.kept = sequence;
                return Ok(range);
            }
            let Some(Finalized { record, .. }) = self.finalized(sequence)? else { break };
            range.bytes += encode(&record).len();
        }
        range.kept = Sequence(oldest);
        Ok(range)
    }
}

#[cfg(test)]
mod tests {
    #![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic)]

    use super::*;

    #[test]
    fn deletions_of_certificates_never_overlap_and_forget_none() {
        let mut sweep = Sweep::default();
        assert_eq!(sweep.next(Sequence(64)), Some(Sequence(0)..Sequence(65)));
        assert_eq!(sweep.next(Sequence(64)), None);
        sweep.written(Sequence(70));
        assert_eq!(sweep.next(Sequence(128)), Some(Sequence(65)..Sequence(129)));
        // A node that catches up writes below its stable checkpoint.
        sweep.written(Sequence(100));
        assert_eq!(sweep.next(Sequence(192)), Some(Sequence(100)..Sequence(193)));
        assert_eq!(sweep.next(Sequence(256)), Some(Sequence(193)..Sequence(257)));
    }
}
