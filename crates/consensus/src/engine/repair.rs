//! Repair: the heartbeat, and sending again what a peer lacks.
//!
//! A channel loses what it held when it breaks. Who sees from a peer's Status that it stands still
//! sends again what it lacks: votes of its view and sequence, what changes or begins its view,
//! vertices, checkpoints, the end of its epoch.

use super::{Engine, Now, Recipient, ViolationKind};
use crate::message::{Message, Status};
use cretoai_types::{NodeId, Phase, mutants::mutant};
use std::sync::Arc;

/// How many own vertices are sent again to a peer at a time.
const RESENT_VERTICES: usize = 8;

impl Engine {
    // ---- the heartbeat

    /// Sends Status to everyone when it is time, and at once when others wait for what changed in
    /// it.
    pub(super) fn heartbeat(&mut self, now: Now) {
        let due =
            self.last_status.is_none_or(|last| now.at.saturating_sub(last) >= self.timing.status);
        if !due && !self.status_due {
            return;
        }
        self.last_status = Some(now.at);
        self.status_due = false;
        if self.own.is_none() {
            return;
        }
        let status = Status {
            epoch: self.validators.epoch,
            view: self.view,
            active: self.active,
            want: self.election.want,
            signs: self.may_sign(),
            executed: self.state.sequence,
            chain_hash: self.state.chain_hash,
            stable: self.stable_or_opening(),
            voted: self.round.own.iter().map(|vote| vote.ballot.phase).max(),
            acknowledged: self.acknowledged_tips(),
            clock_ms: now.wall_ms,
        };
        self.send(Recipient::All, Message::Status(status));
        self.ask_what_was_signed();
    }

    /// What was sent on the old channel may be lost; the peer's next Status will show what it
    /// lacks.
    pub(super) fn reconnected(&mut self, peer: NodeId) {
        if let Some(peer) = self.position(peer).and_then(|position| self.peers.get_mut(position)) {
            peer.progress.forget();
            peer.lane.forget();
            peer.checkpoint.forget();
        }
        // The new channel begins with an acknowledgement and a heartbeat.
        self.last_status = None;
    }

    pub(super) fn receive_status(&mut self, now: Now, from: NodeId, status: Status) {
        self.heard_of(from, status.executed);
        if status.epoch < self.validators.epoch {
            return self.show_the_end_of_its_epoch(now, from, &status);
        }
        let Some(position) = self.position(from).filter(|_| status.epoch == self.validators.epoch)
        else {
            return self.fetch_records(now);
        };
        if status.acknowledged.len() != self.lanes.len() {
            return self.violation(from, ViolationKind::Malformed);
        }
        if from == self.leader() && status.view >= self.view {
            self.election.heard_leader(now);
        }
        self.receive_acknowledgement(from, status.epoch, status.acknowledged.clone());
        let own_lane = self.own_position();
        let Some(peer) = self.peers.get_mut(position) else { return };
        let old = peer.status.as_ref().map(|(old, _)| old);
        let progress = |s: &Status| (s.view, s.active, s.executed, s.voted);
        if old.is_none_or(|old| progress(old) != progress(&status)) {
            peer.progress.moved(now.at);
        }
        let lane = |s: &Status| own_lane.and_then(|lane| s.acknowledged.get(lane).copied());
        if old.is_none_or(|old| lane(old) != lane(&status)) {
            peer.lane.moved(now.at);
        }
        if old.is_none_or(|old| old.stable != status.stable) {
            peer.checkpoint.moved(now.at);
        }
        let wants = |s: &Status| (s.view, s.want);
        if old.is_none_or(|old| wants(old) != wants(&status)) {
            self.election.wants_changed();
        }
        let behind = status.executed > self.state.sequence;
        peer.status = Some((status, now.at));
        if behind {
            self.fetch_records(now);
        }
        self.resend(now, position, from);
    }

    // ---- what a peer lacks

    /// A peer that executed the last sequence of the epoch before this one lacks only its
    /// certificate. One that is further behind fetches records first.
    fn show_the_end_of_its_epoch(&mut self, now: Now, to: NodeId, status: &Status) {
        let waits = status.epoch.next() == self.validators.epoch
            && status.executed >= self.opening.sequence;
        // Members of this epoch or the one before, each once in a while.
        let known = self.validators.member(to).is_some()
            || self.previous.as_ref().is_some_and(|previous| previous.member(to).is_some());
        let told = self
            .shown
            .get(&to)
            .is_some_and(|told| now.at.saturating_sub(*told) < self.timing.patience);
        if !waits || !known || told || mutant!(RepairOff) {
            return;
        }
        if let Some(certificate) = self.opened_by.clone() {
            self.shown.insert(to, now.at);
            self.send(Recipient::One(to), Message::Stable(certificate));
        }
    }

    /// Sends again what a peer that stands still lacks.
    fn resend(&mut self, now: Now, position: usize, to: NodeId) {
        if mutant!(RepairOff) {
            return;
        }
        let patience = self.timing.patience;
        let Some(peer) = self.peers.get(position) else { return };
        let Some((status, _)) = &peer.status else { return };
        let mut messages = Vec::new();
        let lasted = now.at.saturating_sub(self.round_since) >= patience;
        let progress = peer.progress.is_due(now.at, patience) && lasted;
        if progress {
            messages.extend(self.lacking_in_its_view(status, to));
        }
        let lane = peer.lane.is_due(now.at, patience);
        let vertices = if lane { self.lacking_of_own_lane(position) } else { Vec::new() };
        let checkpoint = peer
            .checkpoint
            .is_due(now.at, patience)
            .then(|| self.lacking_checkpoint(status))
            .flatten();
        let Some(peer) = self.peers.get_mut(position) else { return };
        if !messages.is_empty() {
            peer.progress.resent(now.at);
        }
        if !vertices.is_empty() {
            peer.lane.resent(now.at);
        }
        if checkpoint.is_some() {
            peer.checkpoint.resent(now.at);
        }
        for message in messages.into_iter().chain(vertices).chain(checkpoint) {
            self.send(Recipient::One(to), message);
        }
    }

    /// NEW-VIEW, if its view has not begun; VIEW-CHANGE, if it is to begin the view; votes of its
    /// sequence.
    fn lacking_in_its_view(&self, status: &Status, to: NodeId) -> Vec<Message> {
        let mut messages = Vec::new();
        let begun = status.view == self.view && status.active;
        if !begun && status.signs && status.view <= self.view {
            if let Some(new_view) = &self.new_view {
                messages.push(Message::NewView(Arc::clone(new_view)));
            } else if let Some(change) = self
                .view_change
                .as_ref()
                .filter(|_| status.view == self.view && to == self.leader())
            {
                messages.push(Message::ViewChange(Arc::clone(change)));
            }
        }
        if status.view == self.view && status.executed == self.state.sequence {
            if let Some(proposed) = self.round.proposed.as_ref().filter(|_| self.leads()) {
                messages.push(Message::PrePrepare {
                    proposal: proposed.proposal.clone(),
                    vote: proposed.vote.clone(),
                });
            }
            let own = self.round.own.iter().filter(|vote| vote.ballot.phase != Phase::PrePrepare);
            messages.extend(own.cloned().map(Message::Vote));
        }
        messages
    }

    fn lacking_of_own_lane(&self, position: usize) -> Vec<Message> {
        let Some(own) = self.own_position() else { return Vec::new() };
        let tip = self.peers.get(position).and_then(|peer| peer.acknowledged.get(own));
        let (Some(lane), Some(tip)) = (self.lanes.get(own), tip) else { return Vec::new() };
        if !lane.holds(*tip) {
            return Vec::new();
        }
        lane.above(tip.height)
            .take(RESENT_VERTICES)
            .map(|v| Message::Vertex(Arc::new(v.vertex().clone())))
            .collect()
    }

    /// The stable checkpoint, or this node's word for one that may become stable.
    fn lacking_checkpoint(&self, status: &Status) -> Option<Message> {
        let checkpoints = &self.checkpoints;
        let stable = checkpoints
            .stable
            .as_ref()
            .filter(|stable| stable.state.epoch == self.validators.epoch);
        if let Some(stable) = stable.filter(|stable| status.stable < stable.state.sequence) {
            return Some(Message::Stable(Arc::clone(stable)));
        }
        let own =
            checkpoints.own.as_ref().filter(|own| own.state.epoch == self.validators.epoch)?;
        (status.stable < own.state.sequence).then(|| Message::Checkpoint(own.clone()))
    }
}
