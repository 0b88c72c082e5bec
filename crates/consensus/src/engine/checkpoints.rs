//! Checkpoints: signed at fixed sequences, at an epoch's end, and at the last sequence before a
//! pause. One that a quorum signed, of a sequence that is executed here, is *stable*: what lies
//! below it may be forgotten.

use super::{Engine, Now, Recipient, ViolationKind, Write};
use crate::message::Message;
use cretoai_types::{
    Checkpoint, CheckpointCertificate, CheckpointState, NodeId, Proof, Sequence, mutants::mutant,
};
use std::sync::Arc;

#[derive(Debug)]
pub(super) struct Checkpoints {
    /// This node's newest.
    pub(super) own: Option<Checkpoint>,
    /// The stable one, of this epoch or the one before.
    pub(super) stable: Option<Arc<CheckpointCertificate>>,
    /// A verified one above what is executed here.
    ahead: Option<Arc<CheckpointCertificate>>,
    /// Each member's newest, verified.
    collected: Vec<Option<Checkpoint>>,
    /// Something came that may make one stable.
    changed: bool,
}

impl Checkpoints {
    pub(super) fn new(
        members: usize,
        own: Option<Checkpoint>,
        stable: Option<Arc<CheckpointCertificate>>,
    ) -> Self {
        Self { own, stable, ahead: None, collected: vec![None; members], changed: true }
    }

    pub(super) fn stable_sequence(&self) -> Sequence {
        self.stable.as_ref().map_or(Sequence(0), |stable| stable.state.sequence)
    }

    pub(super) fn newest_of(&self, node: NodeId) -> Option<Checkpoint> {
        let own_word =
            self.collected.iter().flatten().find(|checkpoint| checkpoint.node == node).cloned();
        own_word.or_else(|| {
            let stable = self.stable.as_ref()?;
            let (_, signature) = stable.signatures.iter().find(|(id, _)| *id == node)?;
            Some(Checkpoint { state: stable.state.clone(), node, signature: signature.clone() })
        })
    }

    /// A certificate of a sequence above the executed one is here.
    pub(super) const fn is_behind(&self) -> bool {
        self.ahead.is_some()
    }

    /// What came before its sequence was executed may be of use now.
    pub(super) fn executed(&mut self) {
        self.changed = true;
    }

    /// Begins an epoch: what the old one's members signed counts no more.
    pub(super) fn restart(&mut self, members: usize) {
        self.ahead = None;
        self.collected = vec![None; members];
    }
}

impl Engine {
    /// The stable sequence, and at the beginning of an epoch its opening.
    pub(super) fn stable_or_opening(&self) -> Sequence {
        self.checkpoints.stable_sequence().max(self.opening.sequence)
    }

    /// The state after the executed sequence, as it is signed.
    pub(super) fn checkpoint_state(&self) -> CheckpointState {
        CheckpointState {
            epoch: self.validators.epoch,
            sequence: self.state.sequence,
            chain_hash: self.state.chain_hash,
            tips: self.state.tips.clone(),
            root: self.state.root(&self.validators),
            successor: self.state.successor,
        }
    }

    /// Signs the state where a checkpoint belongs. In the turn of the execution, because the state
    /// moves on.
    pub(super) fn checkpoint_if_due(&mut self, now: Now) {
        let sequence = self.state.sequence;
        let own = self.checkpoints.own.as_ref().map_or(Sequence(0), |own| own.state.sequence);
        let signed = own.max(self.mark.checkpoint);
        if sequence <= signed
            || sequence <= self.stable_or_opening()
            || self.certified.0 != sequence
            || !self.may_sign()
        {
            return;
        }
        let regular = sequence.0.is_multiple_of(self.validators.parameters.checkpoint_interval)
            || self.successor.is_some();
        // Also while work waits: what it waits for may be this checkpoint.
        let pause = now.at.saturating_sub(self.last_executed) >= self.timing.idle;
        // All get exactly to the end of the window, whatever it began at.
        let full = sequence.next().0
            > self.stable_or_opening().0.saturating_add(self.validators.parameters.window);
        if !regular && !pause && !full {
            return;
        }
        let Some((own, signer)) = self.own.clone() else { return };
        let state = self.checkpoint_state();
        let signature = signer.sign(&state.signing_message(self.chain_id));
        let checkpoint = Checkpoint { state, node: own, signature };
        self.mark.checkpoint = sequence;
        self.persist(Write::Checkpoint(checkpoint.clone()));
        self.checkpoints.own = Some(checkpoint.clone());
        self.count_own_checkpoint();
        self.send(Recipient::All, Message::Checkpoint(checkpoint));
    }

    /// This node's own word counts like the others', also after a restart.
    pub(super) fn count_own_checkpoint(&mut self) {
        let Some(own) =
            self.checkpoints.own.clone().filter(|own| own.state.epoch == self.validators.epoch)
        else {
            return;
        };
        if let Some(slot) = self
            .position(own.node)
            .and_then(|position| self.checkpoints.collected.get_mut(position))
        {
            *slot = Some(own);
            self.checkpoints.changed = true;
        }
    }

    /// What a restart, or a pause, left unsigned. Says whether something was signed.
    pub(super) fn checkpoint(&mut self, now: Now) -> bool {
        let before = self.mark.checkpoint;
        self.checkpoint_if_due(now);
        self.mark.checkpoint != before
    }

    pub(super) fn receive_checkpoint(&mut self, from: NodeId, checkpoint: Checkpoint) {
        if checkpoint.node != from {
            return self.violation(from, ViolationKind::Malformed);
        }
        let state = &checkpoint.state;
        if state.epoch != self.validators.epoch
            || state.sequence <= self.stable_or_opening()
            || state.tips.len() != self.lanes.len()
        {
            return;
        }
        let Some(position) = self.position(from) else { return };
        let known = self
            .checkpoints
            .collected
            .get(position)
            .and_then(Option::as_ref)
            .map(|known| known.state.sequence);
        if known.is_some_and(|known| state.sequence <= known) {
            return;
        }
        if !checkpoint.verifies(self.chain_id, &self.validators, &*self.verifier) {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        if let Some(slot) = self.checkpoints.collected.get_mut(position) {
            *slot = Some(checkpoint);
            self.checkpoints.changed = true;
        }
    }

    /// Takes a certificate of this epoch, which proves itself.
    pub(super) fn receive_stable(
        &mut self,
        now: Now,
        from: NodeId,
        certificate: Arc<CheckpointCertificate>,
    ) {
        let sequence = certificate.state.sequence;
        let known =
            self.checkpoints.ahead.as_ref().map_or(Sequence(0), |ahead| ahead.state.sequence);
        if certificate.state.epoch != self.validators.epoch
            || sequence <= self.stable_or_opening().max(known)
        {
            return;
        }
        if certificate.verify(self.chain_id, &self.validators, &*self.verifier).is_err() {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        self.checkpoints.ahead = Some(certificate);
        self.checkpoints.changed = true;
        if sequence > self.state.sequence {
            self.heard_of(from, sequence);
            self.fetch_records(now);
        }
    }

    /// Makes a checkpoint stable that a quorum signed and this node has executed. Says whether it
    /// did.
    pub(super) fn stabilise(&mut self) -> bool {
        if !self.checkpoints.changed {
            return false;
        }
        let Some(certificate) = self.certificate_above_stable() else {
            self.checkpoints.changed = false;
            return false;
        };
        let sequence = certificate.state.sequence;
        let known =
            self.known_chain_hash(sequence).is_none_or(|hash| hash == certificate.state.chain_hash);
        let own = self
            .checkpoints
            .own
            .as_ref()
            .map(|own| &own.state)
            .filter(|own| own.sequence == sequence && own.epoch == self.validators.epoch);
        let same = match own {
            Some(own) => *own == certificate.state,
            None => sequence != self.state.sequence || certificate.state == self.checkpoint_state(),
        };
        if !known || !same {
            self.turn.diverged = Some(format!(
                "a quorum certified another state at sequence {sequence} than this node has"
            ));
            return false;
        }
        if self.checkpoints.ahead.as_ref().is_some_and(|ahead| ahead.state.sequence <= sequence) {
            self.checkpoints.ahead = None;
        }
        if sequence > self.certified.0 {
            self.prove(
                sequence,
                certificate.state.chain_hash,
                Proof::Checkpoint(certificate.as_ref().clone()),
            );
        }
        self.checkpoints.stable = Some(Arc::clone(&certificate));
        self.persist(Write::Stable(certificate));
        self.status_due = true;
        true
    }

    /// The highest certificate above the stable one, of a sequence that is executed here: received,
    /// or made of a quorum's equal words.
    fn certificate_above_stable(&self) -> Option<Arc<CheckpointCertificate>> {
        let stable = self.stable_or_opening();
        let executed = self.state.sequence;
        let fits = |sequence: Sequence| {
            sequence > stable && (sequence <= executed || mutant!(VotesErasedEarly))
        };
        let ahead = self.checkpoints.ahead.clone().filter(|ahead| fits(ahead.state.sequence));
        let q = if mutant!(CheckpointOffByOne) { self.quorum().q - 1 } else { self.quorum().q };
        let collected = || self.checkpoints.collected.iter().flatten();
        let agreed = collected()
            .map(|checkpoint| &checkpoint.state)
            .filter(|state| fits(state.sequence))
            .filter(|state| collected().filter(|other| other.state == **state).count() >= q)
            .max_by_key(|state| state.sequence);
        let made = agreed.map(|state| {
            let signers = collected().filter(|other| other.state == *state).take(q);
            let signatures =
                signers.map(|checkpoint| (checkpoint.node, checkpoint.signature.clone())).collect();
            Arc::new(CheckpointCertificate { state: state.clone(), signatures })
        });
        [ahead, made].into_iter().flatten().max_by_key(|certificate| certificate.state.sequence)
    }
}
