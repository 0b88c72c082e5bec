//! The end of an epoch and the beginning of the next.
//!
//! The first valid RECONFIG that a sequence executes ends the epoch there: nobody votes for the
//! next sequence in it. The forced checkpoint of that sequence, signed by a quorum of the old
//! members, opens the next epoch at view 0. Undecided vertices count in their own epoch only; their
//! authors seal what was in them anew.

use super::{
    CatchUp, Engine, Lane, Now, Pooled, Round, Write,
    peer::Peer,
    standing::{self, Mark, Standing},
};
use cretoai_types::{CheckedVertex, Item, Opening, View, mutants::mutant};
use std::{collections::BTreeSet, sync::Arc, time::Duration};

impl Engine {
    /// Opens the next epoch once its certificate is here. Says whether it did.
    pub(super) fn open_epoch(&mut self, now: Now) -> bool {
        let Some(next) = self.successor.clone() else { return false };
        let ends = |certificate: &&Arc<cretoai_types::CheckpointCertificate>| {
            let state = &certificate.state;
            (state.epoch, state.sequence, state.successor)
                == (self.validators.epoch, self.state.sequence, Some(next.hash()))
        };
        let Some(certificate) = self.checkpoints.stable.as_ref().filter(ends).cloned() else {
            return false;
        };
        self.sealed.clear();
        self.take_back_undecided(now);
        let old = std::mem::replace(&mut self.validators, Arc::clone(&next));
        let state = self.state.opened(&old, &next);
        let old_own = self.own.take();
        let n = next.members.len();
        self.opening = Opening { sequence: state.sequence, chain_hash: state.chain_hash };
        self.certified = (state.sequence, state.chain_hash, None);
        self.state = state;
        self.successor = None;
        self.opened_by = Some(Arc::clone(&certificate));
        self.own = standing::own_key(&next, &self.signers);
        if mutant!(LearnerVotes) && self.own.is_none() {
            self.own.clone_from(&old_own);
        }
        let key = |own: &Option<(cretoai_types::NodeId, Arc<dyn cretoai_types::Signer>)>| {
            own.as_ref().map(|(_, signer)| signer.public_key().clone())
        };
        let other_key = self.own.is_some() && key(&old_own) != key(&self.own);
        if other_key || matches!(self.standing, Standing::Checking(_)) {
            // A key that joins has never signed, unless this volume is an older copy. And what the
            // old members answered says nothing of the new epoch.
            self.standing = Standing::Checking(BTreeSet::new());
        }
        self.lanes = self.state.tips.iter().map(|tip| Lane::new(*tip)).collect();
        self.peers = (0..n).map(|_| Peer::new(n)).collect();
        self.catch_up = CatchUp::new(n);
        self.checkpoints.restart(n);
        self.early.clear();
        self.reported.retain(|id, _| next.member(*id).is_some() || old.member(*id).is_some());
        self.view = View(0);
        self.active = true;
        self.choice = None;
        self.view_change = None;
        self.new_view = None;
        self.prepared = None;
        self.round = Round::default();
        self.next_round = Round::default();
        self.round_since = now.at;
        self.acknowledged.clear();
        self.follow_the_network();
        let jitter = self.draw_jitter();
        self.election.restart(now.at, self.state.sequence, jitter);
        let own_tip = self
            .own_position()
            .and_then(|position| self.state.tips.get(position))
            .copied()
            .unwrap_or_default();
        self.mark = Mark {
            epoch: next.epoch,
            height: own_tip.height,
            checkpoint: self.state.sequence,
            ..Mark::default()
        };
        // Every epoch proves at once that it works.
        self.seal_empty = self.own.is_some();
        self.last_sealed = None;
        self.status_due = true;
        self.previous = Some(old);
        if self.own.is_none() {
            // Nobody will seal these here: their senders go elsewhere.
            self.turn
                .refused
                .extend(self.pool.drain(..).map(|pooled| pooled.payload.id(self.chain_id)));
            self.pool_bytes = 0;
            self.items.clear();
        }
        self.persist(Write::Epoch {
            certificate,
            validators: Arc::clone(&next),
            state: Box::new(self.state.clone()),
        });
        self.turn.opened = Some(next);
        self.begin_standing();
        true
    }

    /// What this node sealed in the epoch that ends and nobody decided.
    fn take_back_undecided(&mut self, now: Now) {
        let Some(lane) = self.own_position().and_then(|position| self.lanes.get(position)) else {
            return;
        };
        let vertices: Vec<_> = lane.above(lane.decided().height).cloned().collect();
        self.take_back(now.at, &vertices);
        self.items.retain(|item| matches!(item, Item::Evidence(_)));
    }

    /// Payloads and evidence of own vertices that count no more go back to where they came from, to
    /// be sealed anew. What a later vertex carries already executes once all the same.
    pub(super) fn take_back(&mut self, since: Duration, vertices: &[Arc<CheckedVertex>]) {
        for (id, payload) in vertices.iter().rev().flat_map(|vertex| vertex.payloads().rev()) {
            if payload.valid_until_ms < self.state.time_ms {
                // Whoever waits for it here is told.
                self.turn.refused.push(id);
            } else if self.recent.executed_at(id, payload.valid_until_ms).is_none() {
                self.pool_bytes += payload.encoded_len();
                self.pool.push_front(Pooled { payload: payload.clone(), since });
            }
        }
        let items = vertices.iter().flat_map(|vertex| &vertex.vertex().items);
        for item in items.filter(|item| matches!(item, Item::Evidence(_))) {
            self.take_item(item.clone());
        }
    }
}
