//! The data layer: sealing payloads into vertices, receiving the others', acknowledging what is durable, and fetching
//! what is missing.

use super::{Engine, MAX_ADVANCE, Now, Pooled, Recipient, ViolationKind, Write, lane::Offer};
use crate::{
    ids::{Height, NodeId},
    message::{MAX_FETCHED_VERTICES, Message},
    payload::Payload,
    vertex::{CheckedVertex, Link, MAX_BODY, Tip, Vertex, VertexError},
};
use std::{sync::Arc, time::Duration};

impl Engine {
    /// Takes a client's payload, if there is room.
    pub(super) fn submit(&mut self, now: Now, payload: Payload) {
        let bytes = payload.encoded_len();
        if !payload.has_valid_size() || self.pool_bytes + bytes > self.limits.pool_bytes {
            self.turn.refused.push(payload.id(self.domain.chain_id));
            return;
        }
        self.pool_bytes += bytes;
        self.pool.push_back(Pooled { payload, since: now.at });
    }

    /// Whether this node's lane has room for one more vertex.
    fn may_seal(&self) -> bool {
        let Some(lane) = self.lanes.get(self.own.lane()) else { return false };
        let acknowledged = self.acknowledged_by(self.own, self.quorum.q).height.max(lane.decided().height);
        lane.undecided() < self.limits.lane && lane.tip().height.0 - acknowledged.0 < self.limits.unacknowledged
    }

    /// Seals what waits: with the COMMIT of this turn; or at once when nothing is being decided; or when a vertex is
    /// full; or when a payload has waited long enough.
    pub(super) fn seal(&mut self, now: Now) {
        loop {
            let due = self.seal_due(now).is_some_and(|due| due <= now.at) || (self.committed_this_turn() && !self.pool.is_empty());
            if !due || !self.may_seal() {
                return;
            }
            self.seal_one(now);
        }
    }

    fn committed_this_turn(&self) -> bool {
        self.turn.writes.iter().any(|write| matches!(write, Write::Prepared(_)))
    }

    /// When the waiting payloads are to be sealed, whatever else happens. Nothing when there is none, or no room.
    pub(super) fn seal_due(&self, now: Now) -> Option<Duration> {
        let oldest = self.pool.front()?;
        if !self.may_seal() {
            return None;
        }
        if self.pool_bytes >= MAX_BODY {
            return Some(now.at);
        }
        let patience = oldest.since + self.timing.seal_wait;
        let idle = self.round.proposed.is_none();
        let floor = self.last_sealed.map_or(now.at, |last| last + self.timing.seal_floor);
        Some(if idle { floor.min(patience) } else { patience })
    }

    fn seal_one(&mut self, now: Now) {
        let mut payloads = Vec::new();
        let mut bytes = 0;
        while let Some(pooled) = self.pool.front() {
            let size = pooled.payload.encoded_len();
            if bytes + size > MAX_BODY {
                break;
            }
            bytes += size;
            payloads.extend(self.pool.pop_front().map(|pooled| pooled.payload));
        }
        self.pool_bytes -= bytes;
        self.last_sealed = Some(now.at);
        let links = (0..).map(NodeId).zip(&self.lanes).filter(|(author, lane)| *author != self.own && lane.tip() != Tip::default());
        let links = links.map(|(author, lane)| Link { author, tip: lane.tip() }).collect();
        let previous = self.lanes.get(self.own.lane()).map_or_else(Tip::default, super::lane::Lane::tip);
        let vertex = CheckedVertex::seal(&self.domain, &*self.signer, self.own, previous, links, now.wall_ms, payloads);
        let message = Message::Vertex(Arc::new(vertex.vertex().clone()));
        self.extend(Arc::new(vertex));
        self.send(Recipient::All, message);
    }

    /// Checks a vertex and takes it into its lane.
    pub(super) fn receive_vertex(&mut self, from: NodeId, vertex: Vertex) {
        let author = vertex.header.author;
        let Some(lane) = self.lanes.get(author.lane()) else { return self.violation(from, ViolationKind::Malformed) };
        // What cannot be taken is not worth checking; a fork is, because it is evidence.
        let held = lane.holds(Tip { height: vertex.header.height, id: vertex.header.id(&self.domain) });
        if held || vertex.header.height <= lane.decided().height {
            return;
        }
        let keys = &self.keys;
        match CheckedVertex::check(vertex, &self.domain, &*self.verifier, |author| keys.get(author.lane())) {
            Ok(vertex) => self.extend(Arc::new(vertex)),
            Err(VertexError::Signature) => self.violation(from, ViolationKind::InvalidSignature),
            Err(_) => self.violation(from, ViolationKind::Malformed),
        }
    }

    fn extend(&mut self, vertex: Arc<CheckedVertex>) {
        let author = vertex.header().author;
        let Some(lane) = self.lanes.get_mut(author.lane()) else { return };
        let forked = lane.contradicts(vertex.tip());
        if let Offer::Extended(vertices) = lane.offer(vertex, self.limits.lane) {
            for vertex in vertices {
                self.persist(Write::Vertex(vertex));
            }
            self.catch_up.lane_grew(author);
        }
        if forked {
            self.violation(author, ViolationKind::Equivocation);
        }
    }

    /// Tells the leader what is durable here once this turn is written.
    pub(super) fn acknowledge(&mut self) {
        let tips: Vec<Tip> = self.lanes.iter().map(super::lane::Lane::tip).collect();
        if tips == self.acknowledged {
            return;
        }
        self.acknowledged.clone_from(&tips);
        let leader = self.leader();
        if leader != self.own {
            self.send(Recipient::One(leader), Message::Acknowledge(tips));
        }
    }

    /// Notes what a peer holds. The newest acknowledgement counts.
    pub(super) fn receive_acknowledgement(&mut self, from: NodeId, tips: Vec<Tip>) {
        if tips.len() != self.lanes.len() {
            return self.violation(from, ViolationKind::Malformed);
        }
        let Some(peer) = self.peers.get_mut(from.lane()) else { return };
        for ((confirmed, tip), lane) in peer.confirmed.iter_mut().zip(&tips).zip(&self.lanes) {
            if lane.holds(*tip) {
                *confirmed = *tip;
            }
        }
        peer.acknowledged = tips;
    }

    /// The highest vertex of a lane that this node holds and `count` nodes acknowledged, itself included. An
    /// acknowledgement of a tip counts for its ancestors.
    pub(super) fn acknowledged_by(&self, author: NodeId, count: usize) -> Tip {
        let Some(lane) = self.lanes.get(author.lane()) else { return Tip::default() };
        let others = self.peers.iter().enumerate().filter(|(peer, _)| *peer != self.own.lane());
        let acknowledged = others.filter_map(|(_, peer)| {
            let newest = peer.acknowledged.get(author.lane()).filter(|tip| lane.holds(**tip));
            newest.or_else(|| peer.confirmed.get(author.lane()).filter(|tip| lane.holds(**tip))).map(|tip| tip.height)
        });
        let mut heights: Vec<Height> = acknowledged.chain([lane.tip().height]).collect();
        heights.sort_unstable_by(|a, b| b.cmp(a));
        let height = heights.get(count - 1).copied().unwrap_or(lane.decided().height);
        lane.above(lane.decided().height).take_while(|v| v.header().height <= height).last().map_or(lane.decided(), |v| v.tip())
    }

    /// Asks for what is known to exist and missing here: the next holder after each wait.
    pub(super) fn fetch_missing(&mut self, now: Now) {
        for author in (0..).map(NodeId).take(self.lanes.len()) {
            let stands_since = self.catch_up.lane_stands_since(author, now.at);
            let waited = now.at.saturating_sub(stands_since) >= self.timing.patience;
            let Some(lane) = self.lanes.get(author.lane()) else { continue };
            let (above, up_to) = match (lane.forked(), self.missing(author, waited)) {
                (Some(range), _) => range,
                (None, Some(target)) => (lane.tip().height, Height(target.0.min(lane.tip().height.0 + MAX_FETCHED_VERTICES))),
                (None, None) => continue,
            };
            let holders = self.holders(author, up_to);
            if let Some(peer) = self.catch_up.ask_for_lane(author, above, up_to, &holders, now.at, self.timing.status) {
                self.send(Recipient::One(peer), Message::FetchLane { author, above, up_to });
            }
        }
    }

    /// The height up to which vertices of a lane are known to exist that this node lacks: what a cut names, and, when
    /// it had time to arrive by itself, what a weak quorum holds or a later vertex stands on.
    fn missing(&self, author: NodeId, waited: bool) -> Option<Height> {
        let lane = self.lanes.get(author.lane())?;
        let reach = lane.decided().height.0 + MAX_ADVANCE;
        let named = self
            .named_tips()
            .filter_map(|(cut, proven)| Some((cut.get(author.lane())?, proven)))
            .filter(|(tip, proven)| !lane.holds(**tip) && (*proven || tip.height.0 <= reach))
            .map(|(tip, _)| tip.height);
        let others = self.peers.iter().enumerate().filter(|(peer, _)| *peer != self.own.lane());
        let mut claimed: Vec<Height> = others.filter_map(|(_, peer)| peer.acknowledged.get(author.lane()).map(|tip| tip.height)).collect();
        claimed.sort_unstable_by(|a, b| b.cmp(a));
        let enough = self.quorum.w.min(self.members.len() - 1);
        let claimed = enough.checked_sub(1).and_then(|i| claimed.get(i).copied()).filter(|_| waited);
        let gap = lane.gap().filter(|_| waited);
        named.chain(claimed).chain(gap).max().filter(|height| *height > lane.tip().height)
    }

    /// Who says that he holds a lane up to a height; its author first.
    fn holders(&self, author: NodeId, height: Height) -> Vec<NodeId> {
        let others = (0..).map(NodeId).take(self.members.len()).filter(|peer| *peer != self.own);
        let mut holders: Vec<NodeId> = others
            .filter(|peer| {
                let peer = self.peers.get(peer.lane());
                peer.and_then(|p| p.acknowledged.get(author.lane())).is_some_and(|tip| tip.height >= height)
            })
            .collect();
        if holders.is_empty() {
            holders = (0..).map(NodeId).take(self.members.len()).filter(|peer| *peer != self.own).collect();
        }
        holders.sort_by_key(|peer| *peer != author);
        holders
    }
}
