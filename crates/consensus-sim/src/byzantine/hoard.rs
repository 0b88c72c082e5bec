//! What a leader keeps of its own lane until its cut names it. Nobody could hold it before, and the
//! members that are fed are just enough to decide: the others must be able to fetch it from them.

use super::{Attacker, Collusion, Situation, Strategy};
use crate::crypto::SimKey;
use cretoai_consensus::Message;
use cretoai_types::{
    CheckedVertex, Domain, Epoch, MAX_PAYLOADS, NodeId, Payload, Phase, Proposal, Tip, Vertex, Vote,
};
use std::sync::Arc;

/// Heavy vertices that exceed what one answer to a fetch holds, and what a lane may hold.
const TOO_MANY: u64 = 44;
/// Heavy vertices of which one branch fits an answer to a fetch, and two do not.
const BRANCH: u64 = 14;
/// Vertices full of payloads.
const CROWDS: u64 = 6;
const HEAVY_PAYLOAD: usize = 100 * 1024;

/// The most hoards of one attacker: each costs megabytes.
const MOST_HOARDS: u32 = 3;

/// Microseconds from what is shown to what is named, and from one vertex to the next.
const NAMED_AFTER: u64 = 20_000;
const BETWEEN: u64 = 300;

/// Two branches of one lane above a tip.
pub(super) struct Hoard {
    epoch: Epoch,
    base: Tip,
    /// For everyone, before the cut is known.
    shown: Vec<Arc<Vertex>>,
    /// What the cut names.
    named: Vec<Arc<Vertex>>,
    tip: Tip,
}

impl Attacker {
    pub(super) fn hoards(&self) -> bool {
        [Strategy::FeedTopDown, Strategy::HeavyForks, Strategy::TinyPayloads]
            .into_iter()
            .any(|strategy| self.does(strategy))
    }

    /// A proposal that names the hoard, and the hoard itself for as many as have to vote.
    pub(super) fn name_hoard(
        &mut self,
        collusion: &mut Collusion,
        situation: &Situation<'_>,
        to: NodeId,
        proposal: Proposal,
        vote: Vote,
    ) -> Vec<(u64, Message)> {
        let ballot = vote.ballot;
        let unchanged = Message::PrePrepare { proposal: proposal.clone(), vote };
        let lane = situation.validators.position(self.own);
        let base = lane.and_then(|lane| proposal.cut.get(lane)).copied();
        let (Some(lane), Some(base), Some(key)) = (lane, base, self.key(situation)) else {
            return vec![(0, unchanged)];
        };
        let known = self.hoard.as_ref().is_some_and(|h| (h.epoch, h.base) == (ballot.epoch, base));
        if !known {
            if self.hoards_made >= MOST_HOARDS {
                return vec![(0, unchanged)];
            }
            self.hoard = Some(self.make_hoard(key, situation, ballot.epoch, base));
            self.hoards_made += 1;
        }
        let Some(hoard) = &self.hoard else { return vec![(0, unchanged)] };
        let mut changed = proposal;
        if let Some(tip) = changed.cut.get_mut(lane) {
            *tip = hoard.tip;
        }
        let digest = changed.digest(&self.domain(ballot.epoch));
        let votes = [Phase::PrePrepare, Phase::Commit]
            .map(|phase| self.vote(situation, phase, ballot, digest));
        let [Some(vote), Some(commit)] = votes else { return vec![(0, unchanged)] };
        collusion.told.insert((ballot.view, changed.sequence, to), digest);
        let shown = hoard.shown.iter().map(|vertex| Message::Vertex(Arc::clone(vertex)));
        let mut messages: Vec<(u64, Message)> = spaced(0, shown);
        messages.push((NAMED_AFTER, Message::PrePrepare { proposal: changed, vote }));
        messages.push((NAMED_AFTER, Message::Vote(commit)));
        if self.is_fed(situation, to) {
            let fed = hoard.named.iter().rev().map(|vertex| Message::Vertex(Arc::clone(vertex)));
            messages.extend(spaced(NAMED_AFTER + 2_000, fed));
        }
        messages
    }

    /// Whether a member is among those that complete a quorum.
    fn is_fed(&self, situation: &Situation<'_>, to: NodeId) -> bool {
        let others = situation.validators.ids().filter(|id| *id != self.own);
        others.take(situation.validators.quorum().q.saturating_sub(1)).any(|id| id == to)
    }

    fn make_hoard(
        &self,
        key: &SimKey,
        situation: &Situation<'_>,
        epoch: Epoch,
        base: Tip,
    ) -> Hoard {
        let branch = |number: u8, length: u64, payloads: usize, bytes: usize| {
            let domain = Domain { chain_id: self.chain_id, epoch };
            let mut previous = base;
            let next = |height: u64| {
                let payload = |index: usize| {
                    let mut key = [number; 16];
                    key[..8].copy_from_slice(&(base.height.0 + height).to_le_bytes());
                    key[8..12].copy_from_slice(&(index as u32).to_le_bytes());
                    let valid_until_ms = situation.wall_ms + 20_000;
                    Payload { key, valid_until_ms, topic: None, data: vec![number; bytes] }
                };
                let payloads: Vec<Payload> = (0..payloads).map(payload).collect();
                let vertex = CheckedVertex::seal(
                    &domain,
                    key,
                    self.own,
                    previous,
                    Vec::new(),
                    situation.wall_ms,
                    payloads,
                    Vec::new(),
                );
                previous = vertex.tip();
                Arc::new(vertex.vertex().clone())
            };
            let vertices: Vec<Arc<Vertex>> = (1..=length).map(next).collect();
            (vertices, previous)
        };
        let (mut shown, (named, tip)) = if self.does(Strategy::HeavyForks) {
            (branch(1, BRANCH, 2, HEAVY_PAYLOAD).0, branch(2, BRANCH, 2, HEAVY_PAYLOAD))
        } else if self.does(Strategy::FeedTopDown) {
            (Vec::new(), branch(3, TOO_MANY, 2, HEAVY_PAYLOAD))
        } else {
            (Vec::new(), branch(4, CROWDS, MAX_PAYLOADS, 1))
        };
        if self.does(Strategy::TinyPayloads) && shown.is_empty() {
            shown.clone_from(&named);
        }
        Hoard { epoch, base, shown, named, tip }
    }
}

fn spaced(from: u64, messages: impl Iterator<Item = Message>) -> Vec<(u64, Message)> {
    (0..).map(|index: u64| from + index * BETWEEN).zip(messages).collect()
}
