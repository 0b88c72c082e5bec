//! What the engine gets back when a node starts.

use super::{
    CONSENSUS, Finalized, METADATA, Storage, StorageError, VertexMetadata,
    votes::{COMMIT, NEW_VIEW, PREPARE, PREPARED, PROPOSED, STALE, STATE, SUCCESSOR, VIEW_CHANGE},
};
use cretoai_consensus::engine::{Limits, Recovered, Remembered};
use cretoai_types::{
    ChainState, CheckedVertex, Domain, Epoch, Genesis, Hash, Height, NodeId, Opening, Outcome,
    Proof, PublicKey, REMEMBERED_MS, Sequence, Tip, Validators, Vertex, Vote,
};
use std::sync::Arc;

impl Storage {
    /// Reads the state after the newest decision, and all that the node with this key signed.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recover(&self, genesis: &Genesis, key: &PublicKey) -> Result<Recovered, StorageError> {
        let mut recovered = Recovered::at_genesis(genesis);
        let chain_id = genesis.chain_id();
        if let Some(state) = self.get::<ChainState>(CONSENSUS, STATE)? {
            recovered.validators = self.validators_of(genesis, state.epoch)?;
            if let Some(before) = state.epoch.0.checked_sub(1).map(Epoch) {
                recovered.previous = Some(self.validators_of(genesis, before)?);
                let certificate = self.epoch_certificate(before)?;
                let certificate = certificate
                    .ok_or_else(|| self.damaged(format!("the end of epoch {before} is missing")))?;
                let end = &certificate.state;
                recovered.opening = Opening { sequence: end.sequence, chain_hash: end.chain_hash };
                recovered.opened_by = Some(Arc::new(certificate));
            }
            if state.successor.is_some() {
                recovered.successor = self.get(CONSENSUS, SUCCESSOR)?.map(Arc::new);
            }
            recovered.certified = self.certified(recovered.opening.sequence, state.sequence)?;
            recovered.state = state;
        }
        if let Some(newest) = self.newest()? {
            recovered.recent = self.recent_payloads(chain_id, newest)?;
        }
        let domain = Domain { chain_id, epoch: recovered.validators.epoch };
        let lanes: Vec<(NodeId, Tip)> =
            recovered.validators.ids().zip(recovered.state.tips.iter().copied()).collect();
        let own = recovered.validators.by_key(key).map(|member| member.id);
        for (author, tip) in lanes {
            self.recover_lane(&domain, author, tip, &mut recovered.undecided)?;
            if Some(author) == own {
                recovered.left_behind = self.left_behind(&domain, author, tip)?;
            }
        }
        recovered.view_change = self.get(CONSENSUS, VIEW_CHANGE)?.map(Arc::new);
        recovered.new_view = self.get(CONSENSUS, NEW_VIEW)?.map(Arc::new);
        recovered.prepared = self.get(CONSENSUS, PREPARED)?;
        recovered.proposal = self.get(CONSENSUS, PROPOSED)?;
        let votes: [Option<Vote>; 2] =
            [self.get(CONSENSUS, PREPARE)?, self.get(CONSENSUS, COMMIT)?];
        recovered.votes = votes.into_iter().flatten().collect();
        recovered.mark = self.mark()?.unwrap_or_default();
        recovered.stale = self.get::<()>(CONSENSUS, STALE)?.is_some();
        recovered.checkpoint = self.own_checkpoint()?;
        recovered.stable = self.stable()?.map(Arc::new);
        Ok(recovered)
    }

    fn validators_of(
        &self,
        genesis: &Genesis,
        epoch: Epoch,
    ) -> Result<Arc<Validators>, StorageError> {
        let validators = self.validators(genesis, epoch)?;
        validators
            .map(Arc::new)
            .ok_or_else(|| self.damaged(format!("the validators of epoch {epoch} are missing")))
    }

    /// The newest sequence of the epoch whose proof is kept.
    fn certified(
        &self,
        opening: Sequence,
        executed: Sequence,
    ) -> Result<Option<(Sequence, Hash, Proof)>, StorageError> {
        for sequence in (opening.next().0..=executed.0).rev().map(Sequence) {
            if let Some(proof) = self.proof(sequence)? {
                let finalized = self.finalized(sequence)?;
                let finalized = finalized.ok_or_else(|| {
                    self.damaged(format!("the record of sequence {sequence} is missing"))
                })?;
                return Ok(Some((sequence, finalized.chain_hash, proof)));
            }
        }
        Ok(None)
    }

    /// A lane's decided tip and the stored vertices above it, by height: all of a slot. Which
    /// branch of a fork counts, the engine knows by what was voted for. Vertices of older epochs
    /// are passed over.
    fn recover_lane(
        &self,
        domain: &Domain,
        author: NodeId,
        decided: Tip,
        into: &mut Vec<Arc<CheckedVertex>>,
    ) -> Result<(), StorageError> {
        let mut recall = |vertex: Vertex| {
            if vertex.header.epoch == domain.epoch {
                into.push(Arc::new(CheckedVertex::trusted(vertex, domain)));
            }
        };
        if let Some(tip) = self.vertex(&decided.id)? {
            recall(tip);
        }
        let mut height = decided.height.next();
        loop {
            let slot = self.slot(author, height)?;
            if slot.is_empty() {
                return Ok(());
            }
            for id in slot {
                recall(
                    self.vertex(&id)?.ok_or_else(|| {
                        self.damaged(format!("vertex {id} is indexed but missing"))
                    })?,
                );
            }
            height = height.next();
        }
    }

    /// A lane's vertices of older epochs that no sequence decided, by height. They lie above the
    /// tip at which this epoch began, and what was in them is the first that it seals.
    fn left_behind(
        &self,
        domain: &Domain,
        author: NodeId,
        decided: Tip,
    ) -> Result<Vec<Arc<CheckedVertex>>, StorageError> {
        let mut left = Vec::new();
        let mut height =
            Height(decided.height.0.saturating_sub(Limits::default().lane as u64)).next();
        loop {
            let slot = self.slot(author, height)?;
            if slot.is_empty() && height > decided.height {
                return Ok(left);
            }
            for id in slot {
                let metadata = self.get::<VertexMetadata>(METADATA, &id.0)?;
                let Some(vertex) =
                    self.vertex(&id)?.filter(|vertex| vertex.header.epoch < domain.epoch)
                else {
                    continue;
                };
                if metadata.is_some_and(|metadata| metadata.finalized.is_none()) {
                    let domain = Domain { epoch: vertex.header.epoch, ..*domain };
                    left.push(Arc::new(CheckedVertex::trusted(vertex, &domain)));
                }
            }
            height = height.next();
        }
    }

    /// Payloads that executed lately, by the chain's time.
    fn recent_payloads(
        &self,
        chain_id: Hash,
        newest: Finalized,
    ) -> Result<Vec<Remembered>, StorageError> {
        let time_ms = newest.record.proposal.time_ms;
        let mut recent = Vec::new();
        let mut next = Some(newest);
        while let Some(Finalized { record, outcomes, .. }) = next {
            let sequence = record.proposal.sequence;
            if record.proposal.time_ms + REMEMBERED_MS < time_ms {
                break;
            }
            for (id, outcomes) in record.vertices.iter().zip(outcomes) {
                let vertex = self.vertex(id)?.ok_or_else(|| {
                    self.damaged(format!("vertex {id} of sequence {sequence} is missing"))
                })?;
                let author = vertex.header.author;
                let executed = vertex.payloads.iter().zip(outcomes).filter(|(payload, outcome)| {
                    *outcome == Outcome::Executed
                        && payload.valid_until_ms / 1_000 >= time_ms / 1_000
                });
                recent.extend(executed.map(|(payload, _)| Remembered {
                    author,
                    id: payload.id(chain_id),
                    valid_until_ms: payload.valid_until_ms,
                    sequence,
                }));
            }
            next = sequence
                .0
                .checked_sub(1)
                .filter(|s| *s > 0)
                .map(|s| self.finalized(Sequence(s)))
                .transpose()?
                .flatten();
        }
        Ok(recent)
    }

    /// Chain hashes of the newest `count` decisions, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recent_chain_hashes(
        &self,
        executed: Sequence,
        count: u64,
    ) -> Result<Vec<(Sequence, Hash)>, StorageError> {
        let first = executed.0.saturating_sub(count) + 1;
        let mut hashes = Vec::new();
        for sequence in (first..=executed.0).map(Sequence) {
            let finalized = self.finalized(sequence)?.ok_or_else(|| {
                self.damaged(format!("the record of sequence {sequence} is missing"))
            })?;
            hashes.push((sequence, finalized.chain_hash));
        }
        Ok(hashes)
    }
}
