//! Receipts, put together from what the store keeps.

use super::{Finalized, Storage, StorageError};
use cretoai_types::{
    CheckedVertex, Domain, Epoch, EpochStep, Genesis, Hash, MAX_FOLLOWING, MerklePath, OutcomeLeaf,
    Proof, Receipt, ReceiptProof, RecordLink, Sequence, outcome_leaves,
};

/// Whether there is a receipt for a payload.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Receipted {
    /// No sequence ordered the payload as far as this store knows.
    Unknown,
    /// A sequence ordered it, and nothing that proves the record is kept yet: the next decision or
    /// checkpoint will.
    NotYet(Sequence),
    /// Here it is.
    Ready(Box<Receipt>),
}

impl Storage {
    /// The receipt for the newest outcome of a payload. Reads the vertices of one record, and the
    /// records up to the next proof.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn receipt(&self, genesis: &Genesis, payload: &Hash) -> Result<Receipted, StorageError> {
        let Some(location) = self.location(payload)? else { return Ok(Receipted::Unknown) };
        let sequence = location.sequence;
        let missing = |sequence: Sequence| self.damaged(format!("record {sequence} is missing"));
        let finalized = self.finalized(sequence)?.ok_or_else(|| missing(sequence))?;
        let chain_id = genesis.chain_id();
        let domain = Domain { chain_id, epoch: finalized.epoch };
        let Some((following, proof)) = self.proof_after(&domain, sequence)? else {
            return Ok(Receipted::NotYet(sequence));
        };
        let leaves = self.leaves(&domain, &finalized)?;
        let hashes: Vec<Hash> = leaves.iter().map(OutcomeLeaf::hash).collect();
        let leaf = leaves.into_iter().nth(location.index as usize);
        let (leaf, path) = leaf
            .filter(|leaf| leaf.payload == *payload)
            .zip(MerklePath::of(&hashes, location.index))
            .ok_or_else(|| self.damaged(format!("record {sequence} lacks payload {payload}")))?;
        Ok(Receipted::Ready(Box::new(Receipt {
            chain_id,
            epochs: self.epochs_before(genesis, finalized.epoch)?,
            sequence,
            leaf,
            path,
            previous: finalized.record.proposal.prev,
            record: finalized.record.link(&domain),
            following,
            proof,
        })))
    }

    /// What a quorum signed at or after a sequence, and the records between. Nothing while no such
    /// proof is there.
    fn proof_after(
        &self,
        domain: &Domain,
        sequence: Sequence,
    ) -> Result<Option<(Vec<RecordLink>, ReceiptProof)>, StorageError> {
        let mut following = Vec::new();
        let mut at = sequence;
        loop {
            if let Some(certificate) = self.checkpoint_at(at)? {
                return Ok(Some((following, ReceiptProof::Checkpoint(certificate))));
            }
            at = at.next();
            let next = self.finalized(at)?.filter(|next| next.epoch == domain.epoch);
            let Some(Finalized { record, .. }) = next else { return Ok(None) };
            if let Some(Proof::Commit(certificate)) = self.proof(at)? {
                let next = record.proposal;
                return Ok(Some((following, ReceiptProof::Commit { next, certificate })));
            }
            if following.len() >= MAX_FOLLOWING {
                return Err(self.damaged(format!("no proof is kept after sequence {sequence}")));
            }
            following.push(record.link(domain));
        }
    }

    /// What became of every payload of a record, in order.
    pub(super) fn leaves(
        &self,
        domain: &Domain,
        finalized: &Finalized,
    ) -> Result<Vec<OutcomeLeaf>, StorageError> {
        let mut vertices = Vec::with_capacity(finalized.record.vertices.len());
        for id in &finalized.record.vertices {
            let vertex =
                self.vertex(id)?.ok_or_else(|| self.damaged(format!("vertex {id} is missing")))?;
            vertices.push(CheckedVertex::trusted(vertex, domain));
        }
        let outcomes = finalized.outcomes.iter().map(Vec::as_slice);
        Ok(outcome_leaves(vertices.iter().zip(outcomes)))
    }

    /// The ends of all epochs before one.
    fn epochs_before(
        &self,
        genesis: &Genesis,
        epoch: Epoch,
    ) -> Result<Vec<EpochStep>, StorageError> {
        let mut steps = Vec::new();
        for ended in (0..epoch.0).map(Epoch) {
            let end = self.epoch_certificate(ended)?.zip(self.validators(genesis, ended.next())?);
            let (certificate, validators) =
                end.ok_or_else(|| self.damaged(format!("the end of epoch {ended} is missing")))?;
            steps.push(EpochStep { certificate, validators });
        }
        Ok(steps)
    }
}
