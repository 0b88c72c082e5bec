//! What the engine gets back when a node starts.

use super::{Finalized, Storage, StorageError, domain, votes::LastVotes};
use cretoai_consensus::{CheckedVertex, Genesis, Hash, NodeId, Outcome, Sequence, Tip, VALIDITY_WINDOW_MS, engine::Recovered};
use std::sync::Arc;

impl Storage {
    /// Reads the state after the newest decision.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recover(&self, genesis: &Genesis) -> Result<Recovered, StorageError> {
        let mut recovered = Recovered::at_genesis(genesis);
        let chain_id = genesis.chain_id();
        if let Some(newest) = self.newest()? {
            let proposal = &newest.record.proposal;
            recovered.executed = proposal.sequence;
            recovered.time_ms = proposal.time_ms;
            recovered.tips.clone_from(&proposal.cut);
            recovered.chain_hash = newest.chain_hash;
            recovered.recent = self.recent_payloads(chain_id, newest)?;
        }
        for (author, tip) in (0..).map(NodeId).zip(recovered.tips.clone()) {
            self.recover_lane(chain_id, author, tip, &mut recovered.undecided)?;
        }
        let LastVotes { proposed, votes } = self.last_votes()?;
        recovered.proposal = proposed;
        recovered.votes = votes;
        Ok(recovered)
    }

    /// The stored vertices above a lane's decided tip, by height: all of a slot. Which branch of a fork counts, the engine
    /// knows by what was voted for.
    fn recover_lane(&self, chain_id: Hash, author: NodeId, decided: Tip, into: &mut Vec<Arc<CheckedVertex>>) -> Result<(), StorageError> {
        let mut height = decided.height.next();
        loop {
            let slot = self.slot(author, height)?;
            if slot.is_empty() {
                return Ok(());
            }
            for id in slot {
                let vertex = self.vertex(&id)?.ok_or_else(|| self.damaged(format!("vertex {id} is indexed but missing")))?;
                into.push(Arc::new(CheckedVertex::trusted(vertex, &domain(chain_id))));
            }
            height = height.next();
        }
    }

    /// Payloads that executed within the validity window before the newest record's time.
    fn recent_payloads(&self, chain_id: Hash, newest: Finalized) -> Result<Vec<(Hash, u64, Sequence)>, StorageError> {
        let time_ms = newest.record.proposal.time_ms;
        let mut recent = Vec::new();
        let mut next = Some(newest);
        while let Some(Finalized { record, outcomes, .. }) = next {
            let sequence = record.proposal.sequence;
            if record.proposal.time_ms + VALIDITY_WINDOW_MS < time_ms {
                break;
            }
            for (id, outcomes) in record.vertices.iter().zip(outcomes) {
                let vertex = self.vertex(id)?.ok_or_else(|| self.damaged(format!("vertex {id} of sequence {sequence} is missing")))?;
                let executed = vertex
                    .payloads
                    .iter()
                    .zip(outcomes)
                    .filter(|(p, outcome)| *outcome == Outcome::Executed && p.valid_until_ms >= time_ms);
                recent.extend(executed.map(|(p, _)| (p.id(chain_id), p.valid_until_ms, sequence)));
            }
            next = sequence.0.checked_sub(1).filter(|s| *s > 0).map(|s| self.finalized(Sequence(s))).transpose()?.flatten();
        }
        Ok(recent)
    }

    /// Chain hashes of the newest `count` decisions, oldest first.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn recent_chain_hashes(&self, executed: Sequence, count: u64) -> Result<Vec<(Sequence, Hash)>, StorageError> {
        let first = executed.0.saturating_sub(count) + 1;
        let mut hashes = Vec::new();
        for sequence in (first..=executed.0).map(Sequence) {
            let finalized =
                self.finalized(sequence)?.ok_or_else(|| self.damaged(format!("the record of sequence {sequence} is missing")))?;
            hashes.push((sequence, finalized.chain_hash));
        }
        Ok(hashes)
    }
}
