//! The data layer: sealing payloads into vertices, receiving the others', acknowledging what is
//! durable, and fetching what is missing.

use super::{
    Engine, MAX_ADVANCE, MAX_AHEAD_MS, Now, Pooled, Recipient, ViolationKind, Write,
    catch_up::Goal, lane::Offer, standing::Standing,
};
use crate::message::{MAX_FETCHED_VERTICES, Message};
use cretoai_types::{
    CheckedVertex, Epoch, Height, Link, MAX_BODY, MAX_PAYLOADS, NodeId, Outcome, Payload, Tip,
    Vertex, VertexError, items_bytes, mutants::mutant,
};
use std::{sync::Arc, time::Duration};

impl Engine {
    /// Takes a client's payload, if there is room.
    pub(super) fn submit(&mut self, now: Now, payload: Payload) {
        let bytes = payload.encoded_len();
        let seals =
            self.own.is_some() && !matches!(self.standing, Standing::Stale) && !self.is_banned();
        if !seals || !payload.has_valid_size() || self.pool_bytes + bytes > self.limits.pool_bytes {
            self.turn.refused.push(payload.id(self.chain_id));
            return;
        }
        self.pool_bytes += bytes;
        self.pool.push_back(Pooled { payload, since: now.at });
    }

    /// Whether this node's lane advances no more.
    fn is_banned(&self) -> bool {
        let own = self.own_id();
        self.state.banned(&self.validators).any(|id| Some(id) == own)
    }

    /// Whether this node's lane has room for one more vertex.
    fn may_seal(&self) -> bool {
        let Some(own) = self.own_position().filter(|_| self.may_sign() && self.successor.is_none())
        else {
            return false;
        };
        let Some(lane) = self.lanes.get(own) else { return false };
        // The mark outlives everything: a height that was sealed before, and that the store lost,
        // is not sealed again.
        if lane.tip().height < self.mark.height && self.mark.epoch == self.validators.epoch {
            return false;
        }
        let acknowledged =
            self.acknowledged_by(own, self.quorum().q).height.max(lane.decided().height);
        lane.undecided() < self.limits.lane
            && lane.has_room_for_bytes()
            && lane.tip().height.0 - acknowledged.0 < self.limits.unacknowledged
    }

    /// How many payloads the next vertex may carry: more would find no room among those that are
    /// remembered. The decision's time is the leader's, which may be behind this node's clock.
    fn room_for_payloads(&self, now: Now) -> usize {
        let Some((own, lane)) =
            self.own_id().zip(self.own_position().and_then(|position| self.lanes.get(position)))
        else {
            return 0;
        };
        let sealed: usize =
            lane.above(lane.decided().height).map(|vertex| vertex.vertex().payloads.len()).sum();
        let used = self
            .recent
            .used_at(own, now.wall_ms.saturating_sub(MAX_AHEAD_MS).max(self.state.time_ms))
            .saturating_add(sealed as u64);
        let share = if mutant!(ShareIgnored) { u64::MAX } else { self.validators.payload_share() };
        share.saturating_sub(used).min(MAX_PAYLOADS as u64) as usize
    }

    /// Seals what waits: with the COMMIT of this turn; or at once when nothing is being decided; or
    /// when a vertex is full; or when a payload has waited long enough.
    pub(super) fn seal(&mut self, now: Now) {
        loop {
            let due = self.seal_due(now).is_some_and(|due| due <= now.at)
                || (self.committed_this_turn() && self.has_something_to_seal(now));
            if !due || !self.may_seal() || !self.seal_one(now) {
                return;
            }
        }
    }

    fn committed_this_turn(&self) -> bool {
        self.turn.writes.iter().any(|write| matches!(write, Write::Prepared(_)))
    }

    /// When the waiting payloads are to be sealed, whatever else happens. Nothing when there is
    /// none, or no room.
    pub(super) fn seal_due(&self, now: Now) -> Option<Duration> {
        if !self.has_something_to_seal(now) || !self.may_seal() {
            return None;
        }
        if self.pool_bytes >= MAX_BODY || self.seal_empty {
            return Some(now.at);
        }
        let patience =
            self.pool.front().map_or(now.at, |oldest| oldest.since) + self.timing.seal_wait;
        let idle = self.round.proposed.is_none();
        let floor = self.last_sealed.map_or(now.at, |last| last + self.timing.seal_floor);
        Some(if idle { floor.min(patience) } else { patience })
    }

    fn has_something_to_seal(&self, now: Now) -> bool {
        !self.items.is_empty()
            || self.seal_empty
            || (!self.pool.is_empty() && self.room_for_payloads(now) > 0)
    }

    /// Seals one vertex. Says whether the lane took it.
    fn seal_one(&mut self, now: Now) -> bool {
        let (Some((own, signer)), Some(position)) = (self.own.clone(), self.own_position()) else {
            return false;
        };
        let most = self.room_for_payloads(now);
        let items = self.items_to_seal();
        let room = MAX_BODY.saturating_sub(items_bytes(&items));
        let mut payloads: Vec<Payload> = Vec::new();
        let mut bytes = 0;
        for Pooled { payload, .. } in &self.pool {
            let size = payload.encoded_len();
            if bytes + size > room || payloads.len() >= most {
                break;
            }
            bytes += size;
            payloads.push(payload.clone());
        }
        let taken = payloads.len();
        let others = self
            .validators
            .ids()
            .zip(&self.lanes)
            .filter(|(author, lane)| *author != own && lane.tip() != Tip::default());
        let links = others.map(|(author, lane)| Link { author, tip: lane.tip() }).collect();
        let Some(previous) = self.lanes.get(position).map(super::lane::Lane::tip) else {
            return false;
        };
        let vertex = Arc::new(CheckedVertex::seal(
            &self.domain(),
            &*signer,
            own,
            previous,
            links,
            now.wall_ms,
            payloads,
            items,
        ));
        // First into the lane: what has no place there is not promised, sent or marked.
        if !self.extend(Arc::clone(&vertex)) {
            return false;
        }
        self.pool.drain(..taken);
        self.pool_bytes -= bytes;
        self.last_sealed = Some(now.at);
        self.seal_empty = false;
        self.mark.height = vertex.header().height;
        let message = Message::Vertex(Arc::new(vertex.vertex().clone()));
        self.send(Recipient::All, message);
        true
    }

    /// Checks a vertex and takes it into its lane. What was fetched may be of another epoch: of no
    /// use, and no offence.
    pub(super) fn receive_vertex(&mut self, from: NodeId, vertex: Vertex, fetched: bool) {
        let header = &vertex.header;
        if header.epoch != self.validators.epoch {
            return;
        }
        let Some(lane) = self.position(header.author).and_then(|position| self.lanes.get(position))
        else {
            if !fetched {
                self.violation(from, ViolationKind::Malformed);
            }
            return;
        };
        // What cannot be taken is not worth checking; a fork is, because it is evidence.
        let held = lane.holds(Tip { height: header.height, id: header.id(&self.domain()) });
        if held
            || header.height <= lane.decided().height
            || !lane.may_take(header.height, self.limits.lane)
            || self.refuses_for_items(&vertex)
            || self.waits_for_links(&vertex)
        {
            return;
        }
        let validators = Arc::clone(&self.validators);
        match CheckedVertex::check(vertex, &self.domain(), &*self.verifier, |author| {
            validators.member(author).map(|m| &m.key)
        }) {
            Ok(vertex) => {
                self.extend(Arc::new(vertex));
            }
            Err(VertexError::Signature) => self.violation(from, ViolationKind::InvalidSignature),
            Err(_) => self.violation(from, ViolationKind::Malformed),
        }
    }

    /// Broken on purpose: links are waited for.
    fn waits_for_links(&self, vertex: &Vertex) -> bool {
        let held = |link: &Link| {
            let lane = self.position(link.author).and_then(|position| self.lanes.get(position));
            lane.is_some_and(|lane| {
                link.tip.height <= lane.decided().height || lane.holds(link.tip)
            })
        };
        mutant!(LinksRequired) && !vertex.header.links.iter().all(held)
    }

    /// Offers a checked vertex to its lane. Says whether the lane has it now and did not before.
    fn extend(&mut self, vertex: Arc<CheckedVertex>) -> bool {
        let author = vertex.header().author;
        let Some(position) = self.position(author) else { return false };
        let Some(lane) = self.lanes.get_mut(position) else { return false };
        let first =
            lane.in_slot(vertex.header().height).filter(|held| held.id() != vertex.id()).cloned();
        if mutant!(ForkAcknowledged) && first.is_some() {
            lane.want(vertex.tip());
        }
        let offer = lane.offer(Arc::clone(&vertex), self.limits.lane);
        if let Some(first) = first {
            self.accuse_of_fork(&first, &vertex);
        }
        let Offer::Extended(vertices) = offer else { return false };
        for vertex in vertices {
            self.persist(Write::Vertex(vertex));
        }
        true
    }

    /// Own payloads that found no room after all, because the decision's time lagged: they are
    /// sealed again when there is.
    pub(super) fn take_back_crowded(
        &mut self,
        now: Now,
        vertices: &[Arc<CheckedVertex>],
        outcomes: &[Vec<Outcome>],
    ) {
        let own = self.own_id();
        let of_own =
            vertices.iter().zip(outcomes).filter(|(vertex, _)| Some(vertex.header().author) == own);
        for ((_, payload), outcome) in
            of_own.flat_map(|(vertex, outcomes)| vertex.payloads().zip(outcomes))
        {
            if *outcome == Outcome::Crowded {
                self.pool_bytes += payload.encoded_len();
                self.pool.push_back(Pooled { payload: payload.clone(), since: now.at });
            }
        }
    }

    /// The tip of every lane: what this node holds durably once the turn is written.
    pub(super) fn acknowledged_tips(&self) -> Vec<Tip> {
        self.lanes.iter().map(super::lane::Lane::tip).collect()
    }

    /// Tells the leader what is durable here once this turn is written.
    pub(super) fn acknowledge(&mut self) {
        let tips = self.acknowledged_tips();
        if tips == self.acknowledged || self.own.is_none() {
            return;
        }
        self.acknowledged.clone_from(&tips);
        if !self.leads() {
            let (leader, epoch) = (self.leader(), self.validators.epoch);
            self.send(Recipient::One(leader), Message::Acknowledge { epoch, tips });
        }
    }

    /// Notes what a peer holds. The newest acknowledgement counts.
    pub(super) fn receive_acknowledgement(&mut self, from: NodeId, epoch: Epoch, tips: Vec<Tip>) {
        if epoch != self.validators.epoch {
            return;
        }
        if tips.len() != self.lanes.len() {
            return self.violation(from, ViolationKind::Malformed);
        }
        let Some(peer) = self.position(from).and_then(|position| self.peers.get_mut(position))
        else {
            return;
        };
        for ((confirmed, tip), lane) in peer.confirmed.iter_mut().zip(&tips).zip(&self.lanes) {
            if lane.holds(*tip) {
                *confirmed = *tip;
            }
        }
        peer.acknowledged = tips;
    }

    /// The highest vertex of a lane that this node holds and `count` nodes acknowledged, itself
    /// included. An acknowledgement of a tip counts for its ancestors.
    pub(super) fn acknowledged_by(&self, position: usize, count: usize) -> Tip {
        let own = self.own_position();
        let Some(lane) = self.lanes.get(position) else { return Tip::default() };
        if lane.undecided() == 0 {
            return lane.decided();
        }
        let others = self.peers.iter().enumerate().filter(|(peer, _)| Some(*peer) != own);
        let acknowledged = others.filter_map(|(_, peer)| {
            let newest = peer.acknowledged.get(position).filter(|tip| lane.holds(**tip));
            newest
                .or_else(|| peer.confirmed.get(position).filter(|tip| lane.holds(**tip)))
                .map(|tip| tip.height)
        });
        let mut heights: Vec<Height> = acknowledged.chain(own.map(|_| lane.tip().height)).collect();
        heights.sort_unstable_by(|a, b| b.cmp(a));
        let height = heights.get(count - 1).copied().unwrap_or(lane.decided().height);
        lane.above(lane.decided().height)
            .take_while(|v| v.header().height <= height)
            .last()
            .map_or(lane.decided(), |v| v.tip())
    }

    /// Asks for what is known to exist and missing here: another holder after each wait, until it
    /// is here.
    ///
    /// A lane is asked for by heights, which brings what later decisions need, too. Where that did
    /// not lead to the tip that is named, or the tip is on another branch, the tip is asked for by
    /// its hash: no answer can then be full of something else.
    pub(super) fn fetch_missing(&mut self, now: Now) {
        let authors: Vec<NodeId> = self.validators.ids().collect();
        for (position, author) in authors.into_iter().enumerate() {
            let Some(lane) = self.lanes.get(position) else { continue };
            let (held, decided) = (lane.tip().height, lane.decided().height);
            let (needed, forked) = (lane.needed(), lane.is_forked());
            let (named, claimed) = (self.named(position), self.claimed(position));
            let since = self.catch_up.lacks(position, claimed, held, now.at);
            let waited =
                since.is_some_and(|since| now.at.saturating_sub(since) >= self.timing.patience);
            let target = named.max(claimed.filter(|_| waited));
            let Some(lane) = self.lanes.get(position) else { continue };
            let reached = |goal| match goal {
                Goal::Height(height) => lane.tip().height >= height,
                // The next record may need the next tip already: that is another goal.
                Goal::Branch(tip, above) => {
                    tip.height <= lane.decided().height
                        || lane.holds(tip)
                        || lane.needed().is_none_or(|needed| needed.height <= above)
                }
            };
            if self.catch_up.lane_is_asked(position, reached, now.at, self.timing.retry) {
                continue;
            }
            let by_hash = needed
                .filter(|_| forked || self.catch_up.tries(position) > 2)
                .filter(|_| !mutant!(FetchedByHeight));
            let (goal, message) = match (by_hash, target) {
                (Some(tip), _) => {
                    let above = if forked { decided } else { held };
                    (Goal::Branch(tip, above), Message::FetchBranch { author, tip, above })
                }
                (None, Some(target)) => {
                    let up_to = Height(target.0.min(held.0 + MAX_FETCHED_VERTICES));
                    (Goal::Height(up_to), Message::FetchLane { author, above: held, up_to })
                }
                (None, None) => continue,
            };
            let holders = self.holders(author, position, goal);
            if let Some(peer) = self.catch_up.ask_for_lane(position, goal, &holders, now.at) {
                self.send(Recipient::One(peer), message);
            }
        }
    }

    /// The highest height of a lane that a cut names and this node lacks.
    fn named(&self, position: usize) -> Option<Height> {
        let lane = self.lanes.get(position)?;
        let reach = lane.decided().height.0 + MAX_ADVANCE;
        self.named_tips()
            .filter_map(|(cut, proven)| Some((cut.get(position)?, proven)))
            .filter(|(tip, proven)| !lane.holds(**tip) && (*proven || tip.height.0 <= reach))
            .map(|(tip, _)| tip.height)
            .max()
            .filter(|height| *height > lane.tip().height)
    }

    /// The height of a lane that a weak quorum says it holds, or that a waiting vertex stands on,
    /// if this node lacks it.
    fn claimed(&self, position: usize) -> Option<Height> {
        let own = self.own_position();
        let lane = self.lanes.get(position)?;
        let others = self.peers.iter().enumerate().filter(|(peer, _)| Some(*peer) != own);
        let mut claimed: Vec<Height> = others
            .filter_map(|(_, peer)| peer.acknowledged.get(position).map(|tip| tip.height))
            .collect();
        claimed.sort_unstable_by(|a, b| b.cmp(a));
        let enough = self.quorum().w.min(self.validators.members.len() - 1);
        let claimed = enough.checked_sub(1).and_then(|i| claimed.get(i).copied());
        claimed.max(lane.gap()).filter(|height| *height > lane.tip().height)
    }

    /// The members that may hold what is missing of a lane. Its author comes first, unless the lane
    /// forked.
    fn holders(&self, author: NodeId, position: usize, goal: Goal) -> Vec<NodeId> {
        let own = self.own_id();
        let leader = self.leader();
        let others = || self.validators.ids().filter(|peer| Some(*peer) != own);
        let holds = |peer: &NodeId| {
            let acknowledged = self
                .position(*peer)
                .and_then(|peer| self.peers.get(peer))
                .and_then(|peer| peer.acknowledged.get(position));
            match goal {
                Goal::Height(height) => acknowledged.is_some_and(|tip| tip.height >= height),
                // The leader named it; of the others heights tell nothing of branches.
                Goal::Branch(tip, _) => {
                    *peer == leader || acknowledged.is_some_and(|held| held.height >= tip.height)
                }
            }
        };
        let forked = self.lanes.get(position).is_some_and(super::lane::Lane::is_forked);
        let mut holders: Vec<NodeId> = others().filter(holds).collect();
        // A learner hears no acknowledgements, and of a branch they tell little: after a round of
        // vain requests everyone is asked in turn.
        let all_failed = self.catch_up.tries(position) >= self.validators.members.len() as u32;
        if holders.is_empty() || all_failed || self.own.is_none() || self.catch_up.has_records() {
            holders = others().collect();
        }
        holders.sort_by_key(|peer| (*peer != author) != forked);
        holders
    }
}
