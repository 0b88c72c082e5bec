//! EXECUTE: what a quorum decided becomes final, in the same order and with the same outcomes
//! everywhere.

use super::{Engine, Execution, Now, Write};
use cretoai_types::{
    Certificate, CheckedVertex, Hash, Outcome, Phase, Proof, Proposal, Record, Sequence,
    TaggedHasher, mutants::mutant, outcome_leaves, outcomes_root,
};
use std::sync::Arc;

/// So many of the newest chain hashes are kept in memory.
const HASHES_KEPT: usize = 256;

impl Engine {
    /// Carries out what a quorum committed in this view, once all its data is here. Says whether it
    /// did.
    pub(super) fn execute_decided(&mut self, now: Now) -> bool {
        if self.successor.is_some() {
            return false;
        }
        let Some(digest) = self.round.decided(self.quorum().q) else { return false };
        let Some(proposed) = self.round.proposed.as_ref().filter(|p| p.digest == digest) else {
            return false;
        };
        let proposal = proposed.proposal.clone();
        if proposal.prev != self.state.chain_hash {
            self.turn.diverged = Some(format!(
                "a quorum decided sequence {} on top of chain hash {}, but this node's is {}",
                proposal.sequence, proposal.prev, self.state.chain_hash
            ));
            return false;
        }
        let Some(vertices) = self.order(&proposal) else { return false };
        let (epoch, leader, q) = (self.validators.epoch, self.leader(), self.quorum().q);
        let certificate = self.round.certificate(
            epoch,
            Phase::Commit,
            self.view,
            proposal.sequence,
            digest,
            leader,
            q,
        );
        self.execute(now, proposal, vertices, certificate.map(Proof::Commit));
        true
    }

    /// The vertices that a proposal makes final, in their order: by height above the lane's decided
    /// tip, then by lane, beginning with another one in each sequence. Nothing while some are
    /// missing.
    pub(super) fn order(&self, proposal: &Proposal) -> Option<Vec<Arc<CheckedVertex>>> {
        let n = self.lanes.len() as u64;
        let mut ordered = Vec::new();
        for (index, (tip, lane)) in (0_u64..).zip(proposal.cut.iter().zip(&self.lanes)) {
            for (above, vertex) in lane.between(*tip)?.enumerate() {
                ordered.push((above, (index + proposal.sequence.0) % n, Arc::clone(vertex)));
            }
        }
        ordered.sort_by_key(|(above, turn, _)| (*above, *turn));
        Some(ordered.into_iter().map(|(_, _, vertex)| vertex).collect())
    }

    /// Makes a decision final. Its proof is there, or a later record's is.
    pub(super) fn execute(
        &mut self,
        now: Now,
        proposal: Proposal,
        vertices: Vec<Arc<CheckedVertex>>,
        proof: Option<Proof>,
    ) {
        let Proposal { sequence, time_ms, origin_view, .. } = proposal;
        self.recent.forget_before(time_ms);
        let share = self.validators.payload_share();
        let mut outcomes = Vec::with_capacity(vertices.len());
        for vertex in &vertices {
            let author = vertex.header().author;
            let of_vertex: Vec<Outcome> = vertex
                .payloads()
                .map(|(id, payload)| {
                    self.recent.execute(author, share, id, payload, sequence, time_ms)
                })
                .collect();
            outcomes.push(of_vertex);
        }
        let leaves = outcome_leaves(
            vertices.iter().map(AsRef::as_ref).zip(outcomes.iter().map(Vec::as_slice)),
        );
        let record = Record {
            vertices: vertices.iter().map(|v| v.id()).collect(),
            outcomes: outcomes_root(&leaves),
            proposal,
        };
        let mut chain_hash = record.chain_hash(&self.domain());
        if mutant!(ViewInRecord) {
            chain_hash = TaggedHasher::new("mutant").with(&chain_hash).with(&self.view).finish();
        }
        for (tip, lane) in record.proposal.cut.iter().zip(&mut self.lanes) {
            lane.decide(*tip);
        }
        let validators = Arc::clone(&self.validators);
        self.state.executed(
            &validators,
            sequence,
            origin_view,
            chain_hash,
            time_ms,
            record.proposal.cut.clone(),
        );
        let judged = self.state.judge_items(
            self.chain_id,
            &validators,
            self.previous.as_deref(),
            &vertices,
            &*self.verifier,
        );
        self.successor.clone_from(&judged.successor);
        self.note_chain_hash(sequence, chain_hash);
        if let Some(proof) = &proof {
            self.prove(sequence, chain_hash, proof.clone());
            // A decision of this view shows that it has begun.
            if matches!(proof, Proof::Commit(certificate) if certificate.view == self.view)
                && !self.active
            {
                self.active = true;
                self.status_due = true;
            }
        }
        self.drop_needless_items();
        self.take_back_void_items(&vertices);
        self.take_back_crowded(now, &vertices, &outcomes);
        self.remember_votes(sequence);
        self.round = std::mem::take(&mut self.next_round);
        self.round_since = now.at;
        self.last_executed = now.at;
        self.election.executed(sequence);
        self.catch_up.moved_on();
        self.checkpoints.executed();
        let execution = Arc::new(Execution {
            epoch: validators.epoch,
            record,
            chain_hash,
            proof,
            vertices: vertices.into_iter().zip(outcomes).collect(),
            state: self.state.clone(),
            evidence: judged.counted,
            successor: judged.successor,
        });
        self.persist(Write::Execution(Arc::clone(&execution)));
        self.turn.executions.push(execution);
        self.checkpoint_if_due(now);
    }

    /// This node can prove what it executed up to here: what it prepared below is decided.
    pub(super) fn prove(&mut self, sequence: Sequence, chain_hash: Hash, proof: Proof) {
        self.certified = (sequence, chain_hash, Some(proof));
        if self.prepared.as_ref().is_some_and(|prepared| prepared.certificate.sequence <= sequence)
        {
            self.prepared = None;
        }
    }

    fn note_chain_hash(&mut self, sequence: Sequence, chain_hash: Hash) {
        if self.hashes.len() >= HASHES_KEPT {
            self.hashes.pop_front();
        }
        self.hashes.push_back((sequence, chain_hash));
    }

    /// The chain hash of a sequence, if this node still has it in memory.
    pub(super) fn known_chain_hash(&self, sequence: Sequence) -> Option<Hash> {
        if sequence == self.state.sequence {
            return Some(self.state.chain_hash);
        }
        self.hashes.iter().rev().find(|(known, _)| *known == sequence).map(|(_, hash)| *hash)
    }

    /// The commit certificate of what this node executed, if that is its proof.
    pub(super) fn certified_by_votes(&self) -> Option<&Certificate> {
        match &self.certified.2 {
            Some(Proof::Commit(certificate)) => Some(certificate),
            _ => None,
        }
    }
}
