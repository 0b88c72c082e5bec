//! Lies in view changes, checkpoints, and about what others signed.

use super::{Attacker, Situation, Strategy};
use crate::{crypto::nonsense, rng::Rng};
use cretoai_consensus::{Message, Recalled};
use cretoai_types::{
    Checkpoint, Choice, NewView, NodeId, Sequence, Signature, Signer, View, ViewChange,
    ViewChangeHead,
};
use std::sync::Arc;

impl Attacker {
    /// A VIEW-CHANGE that hides what this node knows.
    pub(super) fn view_change(
        &self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        change: &Arc<ViewChange>,
    ) -> Vec<Message> {
        let Some(key) = self.key(situation) else { return Vec::new() };
        let mut lie = (**change).clone();
        match rng.below(6) {
            0 | 1 => (lie.head.prepared, lie.prepared) = (None, None),
            2 => {
                // As if it had executed nothing since the epoch began.
                let opening = situation.validators.epoch.0 == 0;
                (lie.head.executed, lie.head.prepared, lie.proof, lie.prepared) =
                    (Sequence(0), None, None, None);
                if opening {
                    lie.head.chain_hash = self.chain_id;
                }
            }
            3 => {
                lie.head.prepared =
                    Some((View(lie.head.view.0.saturating_sub(1)), nonsense(rng.next())))
            }
            4 => lie.head.chain_hash = nonsense(rng.next()),
            _ => return vec![Message::ViewChange(Arc::clone(change))],
        }
        lie.signature = key.sign(&lie.head.signing_message(self.chain_id));
        vec![Message::ViewChange(Arc::new(lie))]
    }

    /// A NEW-VIEW with another choice than the right one, where the VIEW-CHANGEs that came allow it
    /// or not.
    pub(super) fn new_view(
        &mut self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        to: NodeId,
        new_view: &Arc<NewView>,
    ) -> Vec<Message> {
        let Some(key) =
            self.key(situation).filter(|_| situation.validators.leader(new_view.view) == self.own)
        else {
            return vec![Message::NewView(Arc::clone(new_view))];
        };
        let mut lie = (**new_view).clone();
        let other_face = self.other_face.contains(&to);
        match rng.below(5) {
            0 | 1 if other_face => {
                // The heads tell the truth, the choice does not.
                lie.prepared = None;
                self.freed.insert((new_view.view, to));
            }
            2 if other_face => {
                if let Some(other) = self.other_quorum(situation, new_view, key) {
                    lie = other;
                    self.freed.insert((new_view.view, to));
                }
            }
            3 => {
                lie.heads.pop();
            }
            _ => return vec![Message::NewView(Arc::clone(new_view))],
        }
        lie.signature =
            key.sign(&NewView::signing_message(lie.epoch, lie.view, &lie.heads, self.chain_id));
        vec![Message::NewView(Arc::new(lie))]
    }

    /// Other VIEW-CHANGEs for the same view: of those that came, the ones that show least.
    fn other_quorum(
        &self,
        situation: &Situation<'_>,
        new_view: &NewView,
        key: &impl Signer,
    ) -> Option<NewView> {
        let own = new_view.heads.iter().find(|(head, _)| head.node == self.own)?;
        let mut own = own.clone();
        own.0.prepared = None;
        own.1 = key.sign(&own.0.signing_message(self.chain_id));
        let of_view = |change: &&Arc<ViewChange>| {
            (change.head.epoch, change.head.view) == (new_view.epoch, new_view.view)
        };
        let mut others: Vec<&Arc<ViewChange>> = self
            .view_changes
            .values()
            .filter(of_view)
            .filter(|c| c.head.node != self.own)
            .collect();
        others.sort_by_key(|change| {
            (change.head.prepared.map(|(view, _)| view), change.head.executed)
        });
        others.truncate(situation.validators.quorum().q - 1);
        let mut heads: Vec<(ViewChangeHead, Signature)> =
            others.iter().map(|c| (c.head.clone(), c.signature.clone())).chain([own]).collect();
        heads.sort_by_key(|(head, _)| head.node);
        let choice = Choice::of(heads.iter().map(|(head, _)| head))?;
        let shows = |change: &&&Arc<ViewChange>| {
            change.head.executed == choice.executed && change.head.prepared == choice.prepared
        };
        let best = others.iter().find(shows);
        let (proof, prepared) = best.map_or((new_view.proof.clone(), None), |best| {
            (best.proof.clone(), best.prepared.clone())
        });
        Some(NewView { heads, proof, prepared, ..new_view.clone() })
    }

    /// A checkpoint of a state that is not.
    pub(super) fn checkpoint(
        &self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        mut checkpoint: Checkpoint,
    ) -> Vec<Message> {
        let Some(key) = self.key(situation) else { return Vec::new() };
        let state = &mut checkpoint.state;
        match rng.below(6) {
            0 => state.root = nonsense(rng.next()),
            1 => state.chain_hash = nonsense(rng.next()),
            2 => state.successor = Some(nonsense(rng.next())),
            3 => state.sequence = Sequence(state.sequence.0 + 1_000),
            4 => {
                state.tips.pop();
            }
            _ => {}
        }
        checkpoint.signature = key.sign(&checkpoint.state.signing_message(self.chain_id));
        vec![Message::Checkpoint(checkpoint)]
    }

    /// Things that `to` never signed, though they name it.
    pub(super) fn recalled(
        &self,
        rng: &mut Rng,
        situation: &Situation<'_>,
        to: NodeId,
        mut recalled: Recalled,
    ) -> Vec<Message> {
        let Some(key) = self.key(situation) else { return Vec::new() };
        for vote in &mut recalled.votes {
            vote.ballot.sequence = Sequence(vote.ballot.sequence.0 + 1 + rng.below(5));
        }
        let head = ViewChangeHead {
            epoch: situation.validators.epoch,
            view: View(1_000_000),
            node: to,
            executed: Sequence(0),
            chain_hash: self.chain_id,
            prepared: None,
        };
        let signature = key.sign(&head.signing_message(self.chain_id));
        recalled.view_change = Some((head, signature));
        if let Some(vertex) = &mut recalled.vertex {
            vertex.header.height.0 += 10;
        }
        let mut messages = vec![Message::Recalled(Box::new(recalled))];
        if self.does(Strategy::Flood) {
            messages.push(Message::Recall);
        }
        messages
    }
}
