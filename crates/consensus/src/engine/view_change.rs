//! VIEW-CHANGE and NEW-VIEW: how a view begins with all that an earlier one may have decided.
//!
//! A commit of (v, s) leaves its prepared certificate with q - f honest nodes. Of q VIEW-CHANGEs
//! one is of them, so a new view begins at or above s, or must propose that very digest for s. The
//! NEW-VIEW holds the signed heads of q VIEW-CHANGEs and the proofs of the two claims that decide,
//! so that everyone recomputes the choice from the one message.

use super::{Engine, Now, Recipient, ViolationKind, Write, standing::Standing};
use crate::message::Message;
use cretoai_types::{
    Choice, Evidence, NewView, NodeId, Phase, Prepared, Signature, ViewChange, ViewChangeHead,
    mutants::mutant,
};
use std::sync::Arc;

impl Engine {
    /// Signs the VIEW-CHANGE of the view that was just entered. It stays byte for byte the same.
    pub(super) fn change_view(&mut self) {
        let Some((own, signer)) = self.own.clone() else { return };
        let (executed, chain_hash, proof) = self.certified.clone();
        let prepared = self
            .prepared
            .clone()
            .filter(|p| p.certificate.sequence == executed.next() && !mutant!(PreparedDropped));
        let head = ViewChangeHead {
            epoch: self.validators.epoch,
            view: self.view,
            node: own,
            executed,
            chain_hash,
            prepared: prepared.as_ref().map(|p| (p.certificate.view, p.certificate.digest)),
        };
        let signature = signer.sign(&head.signing_message(self.chain_id));
        let change = Arc::new(ViewChange { head, signature, proof, prepared });
        if self.view <= self.mark.view
            && self.mark.epoch == self.validators.epoch
            && !mutant!(ViewNotDurable)
            && !mutant!(StaleViewAccepted)
        {
            // The mark outlives everything: this view was entered before, with another VIEW-CHANGE.
            return;
        }
        if !mutant!(ViewNotDurable) {
            self.mark.view = self.view;
            self.persist(Write::ViewChange(Arc::clone(&change)));
        }
        self.view_change = Some(Arc::clone(&change));
        self.send(Recipient::All, Message::ViewChange(change));
    }

    /// After a restart the written view decides.
    pub(super) fn recall_view(
        &mut self,
        change: Option<Arc<ViewChange>>,
        new_view: Option<Arc<NewView>>,
        prepared: Option<Prepared>,
    ) {
        let epoch = self.validators.epoch;
        if let Some(change) = change.filter(|change| change.head.epoch == epoch) {
            self.view = change.head.view;
            self.active = false;
            self.view_change = Some(change);
        }
        if let Some(new_view) =
            new_view.filter(|new_view| (new_view.epoch, new_view.view) == (epoch, self.view))
        {
            self.active = true;
            self.choice = new_view.choice();
            self.new_view = Some(new_view);
        }
        let held = prepared
            .filter(|p| p.certificate.epoch == epoch && p.certificate.sequence > self.certified.0);
        if held.as_ref().is_some_and(|p| p.certificate.sequence > self.certified.0.next()) {
            // A store that lost what this node stood on when it prepared that: what it would report
            // now would be a lie.
            self.standing = Standing::Stale;
        }
        self.prepared = held.filter(|_| !mutant!(LockLostOnRestart));
        self.recall_election();
    }

    /// Keeps a peer's VIEW-CHANGE: one of each peer, of the highest view. All of it is verified
    /// when the view begins.
    pub(super) fn receive_view_change(&mut self, from: NodeId, change: Arc<ViewChange>) {
        let head = &change.head;
        if head.node != from {
            return self.violation(from, ViolationKind::Malformed);
        }
        if head.epoch != self.validators.epoch || head.view < self.view {
            return;
        }
        let Some(position) = self.position(from) else { return };
        let known = self
            .peers
            .get(position)
            .and_then(|peer| peer.signed_view.as_ref())
            .map(|(head, _)| head.view);
        if known.is_some_and(|known| head.view <= known) {
            return;
        }
        if !head.verifies(&change.signature, self.chain_id, &self.validators, &*self.verifier) {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        self.look_for_concealment(head, &change.signature);
        let will_lead = Some(self.validators.leader(head.view)) == self.own_id();
        let Some(peer) = self.peers.get_mut(position) else { return };
        peer.signed_view = Some((head.clone(), change.signature.clone()));
        peer.view_change = will_lead.then_some((change, None));
    }

    /// A VIEW-CHANGE that does not show what its node committed before is evidence.
    ///
    /// The COMMIT may be of a round that this node has left or decided since.
    fn look_for_concealment(&mut self, head: &ViewChangeHead, signature: &Signature) {
        let commits = self
            .votes_of(head.node)
            .into_iter()
            .filter(|vote| vote.ballot.phase == Phase::Commit && vote.ballot.view < head.view);
        let mut evidence = commits
            .map(|commit| Evidence::Concealed(commit, head.clone(), signature.clone()))
            .filter(|evidence| evidence.offence().is_some());
        if let Some(evidence) = evidence.next() {
            self.accuse(evidence);
        }
    }

    /// As the leader of a view that has not begun: begins it once a quorum entered it whose reports
    /// this node can follow. Any quorum will do, and a report that nobody else can follow must not
    /// be waited for. Says whether it did.
    pub(super) fn begin_view(&mut self, now: Now) -> bool {
        if self.active || !self.leads() || !self.may_sign() || self.successor.is_some() {
            return false;
        }
        let Some(own) = self.view_change.clone().filter(|change| change.head.view == self.view)
        else {
            return false;
        };
        self.verify_view_changes();
        let view = self.view;
        let others = self.peers.iter().filter_map(|peer| {
            let (change, verified) = peer.view_change.as_ref()?;
            (change.head.view == view && *verified == Some(true)).then(|| Arc::clone(change))
        });
        // Who leads has executed all that the view begins after; while too few report no more than
        // that, it catches up.
        let executed = self.state.sequence;
        let own_executed = own.head.executed;
        let follows = |head: &ViewChangeHead| {
            // What decides must be of this chain, and be known to be.
            let known =
                head.executed <= own_executed || self.known_chain_hash(head.executed).is_some();
            head.executed <= executed && known && self.is_of_this_chain(head)
        };
        let mut changes: Vec<Arc<ViewChange>> =
            others.filter(|change| follows(&change.head)).collect();
        // Of more than a quorum those that report most.
        changes.sort_by_key(|change| {
            std::cmp::Reverse((change.head.executed, change.head.prepared.map(|(view, _)| view)))
        });
        changes.truncate(self.quorum().q - 1);
        changes.push(own);
        if changes.len() < self.quorum().q {
            return false;
        }
        changes.sort_by_key(|change| change.head.node);
        let Some(choice) = Choice::of(changes.iter().map(|change| &change.head)) else {
            return false;
        };
        let shows = |change: &&Arc<ViewChange>| {
            change.head.executed == choice.executed && change.head.prepared == choice.prepared
        };
        let Some(best) = changes.iter().find(shows) else { return false };
        let (proof, prepared) = (best.proof.clone(), best.prepared.clone());
        let heads: Vec<_> =
            changes.iter().map(|change| (change.head.clone(), change.signature.clone())).collect();
        let epoch = self.validators.epoch;
        let message = NewView::signing_message(epoch, view, &heads, self.chain_id);
        let Some((_, signer)) = &self.own else { return false };
        let new_view = Arc::new(NewView {
            epoch,
            view,
            heads,
            proof,
            prepared,
            signature: signer.sign(&message),
        });
        self.send(Recipient::All, Message::NewView(Arc::clone(&new_view)));
        self.activate(now, new_view, choice);
        true
    }

    /// Verifies all of the VIEW-CHANGEs for this view, each once.
    fn verify_view_changes(&mut self) {
        let view = self.view;
        for peer in &mut self.peers {
            let Some((change, verified @ None)) = &mut peer.view_change else { continue };
            if change.head.view == view {
                *verified = Some(change.verify(
                    self.chain_id,
                    &self.validators,
                    self.opening,
                    &*self.verifier,
                ));
            }
        }
    }

    /// A commit certificate proves no chain hash: where this node knows the right one, a wrong one
    /// is not counted.
    fn is_of_this_chain(&self, head: &ViewChangeHead) -> bool {
        self.known_chain_hash(head.executed).is_none_or(|known| known == head.chain_hash)
    }

    pub(super) fn receive_new_view(&mut self, now: Now, from: NodeId, new_view: Arc<NewView>) {
        let already = new_view.view < self.view || (new_view.view == self.view && self.active);
        if new_view.epoch != self.validators.epoch
            || already
            || !self.may_sign()
            || self.successor.is_some()
        {
            return;
        }
        let choice = if mutant!(NewViewNotRecomputed) {
            let prepared =
                new_view.prepared.as_ref().map(|p| (p.certificate.view, p.certificate.digest));
            new_view.choice().map(|choice| Choice { prepared, ..choice })
        } else {
            new_view.verify(self.chain_id, &self.validators, self.opening, &*self.verifier)
        };
        let Some(choice) = choice else { return self.violation(from, ViolationKind::Malformed) };
        for (head, signature) in &new_view.heads {
            self.look_for_concealment(head, signature);
        }
        if new_view.view > self.view {
            // Its heads prove that a quorum entered it.
            self.enter_view(now, new_view.view);
        }
        self.activate(now, new_view, choice);
    }

    fn activate(&mut self, now: Now, new_view: Arc<NewView>, choice: Choice) {
        if !mutant!(NewViewNotStored) {
            self.persist(Write::NewView(Arc::clone(&new_view)));
        }
        self.active = true;
        self.choice = Some(choice);
        self.new_view = Some(new_view);
        self.round_since = now.at;
        self.status_due = true;
        self.take_in_early(now);
    }

    /// What NEW-VIEW of this view makes everyone propose and prepare next, if it does.
    pub(super) fn chosen(&self) -> Option<&Prepared> {
        let choice = self
            .choice
            .filter(|choice| choice.executed == self.state.sequence && choice.prepared.is_some())?;
        let prepared = self.new_view.as_ref()?.prepared.as_ref()?;
        (Some((prepared.certificate.view, prepared.certificate.digest)) == choice.prepared
            && !mutant!(ChoiceIgnored))
        .then_some(prepared)
    }

    /// Whether this node has executed all that its view begins after, and may vote in it.
    pub(super) fn has_caught_up_with_view(&self) -> bool {
        self.active && self.choice.is_none_or(|choice| choice.executed <= self.state.sequence)
    }
}
