//! Repair: the heartbeat, sending again what a peer lacks, and catching up with records that prove themselves.
//!
//! A channel loses what it held when it breaks. Who sees from a peer's Status that it stands still sends its votes and
//! vertices again; who sees that he is behind asks for records. A range of records is believed by the commit
//! certificate of its last one, whose proposal names the chain hash of all before.

use super::{Engine, MAX_ADVANCE, Now, Recipient, ViolationKind, Write};
use crate::{
    decision::{Certificate, Phase, Record},
    hash::Hash,
    ids::{Height, NodeId, Sequence, View},
    message::{MAX_RECORDS, Message, Status},
    vertex::Tip,
};
use std::{collections::VecDeque, sync::Arc, time::Duration};

/// How many own vertices are sent again to a peer at a time.
const RESENT_VERTICES: usize = 8;

/// What is known of a peer.
#[derive(Debug)]
pub(super) struct Peer {
    /// Its newest acknowledgement of every lane.
    pub(super) acknowledged: Vec<Tip>,
    /// Its newest acknowledgement of every lane that was of a vertex held here.
    pub(super) confirmed: Vec<Tip>,
    /// Its newest status, and when it came.
    pub(super) status: Option<(Status, Duration)>,
    /// Since when it reports the same executed sequence and vote.
    stands_since: Duration,
    resent: Option<Duration>,
    /// Since when it reports the same acknowledgement of this node's lane. Apart from the above: a cluster that goes on
    /// deciding other lanes must not keep this one from being repaired.
    lane_stands_since: Duration,
    lane_resent: Option<Duration>,
}

impl Peer {
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            acknowledged: vec![Tip::default(); lanes],
            confirmed: vec![Tip::default(); lanes],
            status: None,
            stands_since: Duration::ZERO,
            resent: None,
            lane_stands_since: Duration::ZERO,
            lane_resent: None,
        }
    }
}

/// What this node is fetching.
#[derive(Debug)]
pub(super) struct CatchUp {
    records: VecDeque<(Record, Option<Certificate>)>,
    asked: Option<Duration>,
    /// Who was asked for records last: the next one is asked next, so that a liar cannot keep a laggard for himself.
    last_asked: NodeId,
    behind_since: Option<Duration>,
    lanes: Vec<LaneFetch>,
}

#[derive(Clone, Debug, Default)]
struct LaneFetch {
    asked: Option<(Height, Duration)>,
    tries: usize,
    grew: bool,
    /// Something came since the last request.
    arriving: bool,
    stands_since: Option<Duration>,
}

impl CatchUp {
    pub(super) fn new(lanes: usize) -> Self {
        Self { records: VecDeque::new(), asked: None, last_asked: NodeId(0), behind_since: None, lanes: vec![LaneFetch::default(); lanes] }
    }

    pub(super) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// A decision was carried out: if this node is behind, then not since before.
    pub(super) fn moved_on(&mut self) {
        self.behind_since = None;
    }

    pub(super) fn lane_grew(&mut self, author: NodeId) {
        if let Some(lane) = self.lanes.get_mut(author.lane()) {
            lane.grew = true;
            lane.arriving = true;
        }
    }

    /// Since when a lane has not grown.
    pub(super) fn lane_stands_since(&mut self, author: NodeId, now: Duration) -> Duration {
        let Some(lane) = self.lanes.get_mut(author.lane()) else { return now };
        if std::mem::take(&mut lane.grew) {
            lane.stands_since = None;
        }
        *lane.stands_since.get_or_insert(now)
    }

    /// Whom to ask now for a lane that is held up to `tip`; nobody while an answer is outstanding.
    pub(super) fn ask_for_lane(
        &mut self,
        author: NodeId,
        tip: Height,
        up_to: Height,
        holders: &[NodeId],
        now: Duration,
        retry: Duration,
    ) -> Option<NodeId> {
        let lane = self.lanes.get_mut(author.lane())?;
        if let Some((height, asked)) = lane.asked.filter(|(height, _)| tip < *height) {
            // While the answer is coming in, it is not asked for again.
            if std::mem::take(&mut lane.arriving) {
                lane.asked = Some((height, now));
                return None;
            }
            if now.saturating_sub(asked) < retry {
                return None;
            }
            // Nothing came, or not all: the next holder.
            lane.tries += usize::from(height == up_to);
        }
        let peer = holders.get(lane.tries % holders.len().max(1)).copied()?;
        lane.asked = Some((up_to, now));
        Some(peer)
    }
}

impl Engine {
    // ---- the heartbeat

    /// Sends Status to everyone when it is time.
    pub(super) fn heartbeat(&mut self, now: Now) {
        if self.last_status.is_some_and(|last| now.at.saturating_sub(last) < self.timing.status) {
            return;
        }
        self.last_status = Some(now.at);
        let status = Status {
            view: self.view,
            executed: self.executed,
            chain_hash: self.chain_hash,
            voted: self.voted(),
            acknowledged: self.acknowledged.clone(),
            clock_ms: now.wall_ms,
        };
        self.send(Recipient::All, Message::Status(status));
    }

    fn voted(&self) -> u8 {
        if self.round.committed() { 2 } else { u8::from(self.round.prepared().is_some()) }
    }

    /// What was sent on the old channel may be lost; the peer's next Status will show what it lacks.
    pub(super) fn reconnected(&mut self, peer: NodeId) {
        if let Some(peer) = self.peers.get_mut(peer.lane()) {
            peer.resent = None;
            peer.stands_since = Duration::ZERO;
            peer.lane_resent = None;
            peer.lane_stands_since = Duration::ZERO;
        }
        // The new channel begins with an acknowledgement and a heartbeat.
        self.last_status = None;
    }

    pub(super) fn receive_status(&mut self, now: Now, from: NodeId, status: Status) {
        if status.acknowledged.len() != self.lanes.len() {
            return self.violation(from, ViolationKind::Malformed);
        }
        self.receive_acknowledgement(from, status.acknowledged.clone());
        let own_lane = self.own.lane();
        let Some(peer) = self.peers.get_mut(from.lane()) else { return };
        let marks = |s: &Status| (s.executed, s.voted);
        if peer.status.as_ref().is_none_or(|(old, _)| marks(old) != marks(&status)) {
            peer.stands_since = now.at;
        }
        let lane = |s: &Status| s.acknowledged.get(own_lane).copied();
        if peer.status.as_ref().is_none_or(|(old, _)| lane(old) != lane(&status)) {
            peer.lane_stands_since = now.at;
        }
        let behind = status.executed > self.executed;
        peer.status = Some((status, now.at));
        if behind {
            self.fetch_records(now);
        } else {
            self.resend(now, from);
        }
    }

    // ---- what a peer lacks

    /// Sends again what a peer that stands still lacks: my votes of its sequence, my vertices above what it holds.
    fn resend(&mut self, now: Now, to: NodeId) {
        let patience = self.timing.patience;
        let Some(peer) = self.peers.get(to.lane()) else { return };
        let Some((status, _)) = &peer.status else { return };
        let waited = |since: Duration| now.at.saturating_sub(since) >= patience;
        let due = |since: Duration, resent: Option<Duration>| waited(since) && resent.is_none_or(waited);
        let mut votes = Vec::new();
        if due(peer.stands_since, peer.resent) && status.executed == self.executed && waited(self.round_since) {
            if let Some(proposed) = self.round.proposed.as_ref().filter(|_| self.leader() == self.own) {
                votes.push(Message::PrePrepare { proposal: proposed.proposal.clone(), vote: proposed.vote.clone() });
            }
            let own = self.round.own.iter().filter(|vote| vote.ballot.phase != Phase::PrePrepare);
            votes.extend(own.cloned().map(Message::Vote));
        }
        let mut vertices = Vec::new();
        if let (Some(lane), Some(tip)) = (self.lanes.get(self.own.lane()), peer.acknowledged.get(self.own.lane()))
            && lane.holds(*tip)
            && due(peer.lane_stands_since, peer.lane_resent)
        {
            let lacking = lane.above(tip.height).take(RESENT_VERTICES);
            vertices.extend(lacking.map(|v| Message::Vertex(Arc::new(v.vertex().clone()))));
        }
        let Some(peer) = self.peers.get_mut(to.lane()) else { return };
        if !votes.is_empty() {
            peer.resent = Some(now.at);
        }
        if !vertices.is_empty() {
            peer.lane_resent = Some(now.at);
        }
        for message in votes.into_iter().chain(vertices) {
            self.send(Recipient::One(to), message);
        }
    }

    // ---- what this node lacks

    /// Asks a peer that says it is ahead for records, each in turn: at once if by two or more, else when the votes had
    /// time to come.
    fn fetch_records(&mut self, now: Now) {
        let ahead_of_us = |peer: &NodeId| {
            let (status, _) = self.peers.get(peer.lane())?.status.as_ref()?;
            let ahead = status.executed.0.checked_sub(self.executed.0)?;
            (*peer != self.own && ahead > 0).then_some((*peer, ahead))
        };
        let n = self.members.len() as u32;
        let in_turn = (1..=n).map(|step| NodeId((self.catch_up.last_asked.0 + step) % n));
        let Some((peer, ahead)) = in_turn.filter_map(|peer| ahead_of_us(&peer)).next() else { return };
        let since = *self.catch_up.behind_since.get_or_insert(now.at);
        let patient = now.at.saturating_sub(since) < self.timing.patience;
        let outstanding = self.catch_up.asked.is_some_and(|at| now.at.saturating_sub(at) < 2 * self.timing.patience);
        if self.catch_up.has_records() || outstanding || (ahead == 1 && patient) {
            return;
        }
        self.catch_up.asked = Some(now.at);
        self.catch_up.last_asked = peer;
        self.send(Recipient::One(peer), Message::FetchRecords { from: self.executed.next() });
    }

    /// Takes a range of records, if its last certificate proves it and it continues this node's chain.
    pub(super) fn receive_records(&mut self, now: Now, from: NodeId, records: Vec<Record>, certificate: Certificate) {
        if self.catch_up.has_records() || self.catch_up.asked.is_none() {
            return;
        }
        let executed = self.executed;
        let well_formed = records.len() <= MAX_RECORDS && records.iter().all(|r| r.proposal.cut.len() == self.lanes.len());
        let Some(last) = records.last().filter(|_| well_formed) else { return self.violation(from, ViolationKind::Malformed) };
        if last.proposal.sequence <= executed {
            return;
        }
        let proves = (certificate.phase, certificate.sequence, certificate.digest)
            == (Phase::Commit, last.proposal.sequence, last.proposal.digest(&self.domain));
        let leader = self.leader_of(certificate.view);
        if !proves || certificate.verify(&self.domain, &self.keys, self.quorum, leader, &*self.verifier).is_err() {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        if !is_chain(&records, &self.domain) {
            return self.violation(from, ViolationKind::Malformed);
        }
        let mut records: VecDeque<Record> = records.into_iter().skip_while(|r| r.proposal.sequence <= executed).collect();
        let Some(first) = records.front().filter(|r| r.proposal.sequence == executed.next()) else { return };
        if first.proposal.prev != self.chain_hash {
            self.turn.diverged = Some(format!(
                "a quorum certified sequence {} on top of chain hash {}, but this node's chain hash at {} is {}",
                certificate.sequence, first.proposal.prev, executed, self.chain_hash
            ));
            return;
        }
        let last = records.pop_back();
        self.catch_up.records = records.into_iter().map(|r| (r, None)).chain(last.map(|r| (r, Some(certificate)))).collect();
        self.catch_up.asked = Some(now.at);
    }

    /// Carries out the next learnt record, once its data is here. Says whether it did.
    pub(super) fn execute_learnt(&mut self, now: Now) -> bool {
        while self.catch_up.records.front().is_some_and(|(r, _)| r.proposal.sequence <= self.executed) {
            self.catch_up.records.pop_front();
        }
        let Some((record, certificate)) = self.catch_up.records.front() else { return false };
        let (proposal, certificate) = (record.proposal.clone(), certificate.clone());
        // The chain hash in the next record proves this one's vertices. The last one's are only claimed by the sender:
        // what its certified cut gives here counts, and a lie about it must not stop this node.
        let proven = certificate.is_none().then(|| record.vertices.clone());
        let Some(vertices) = self.order(&proposal) else { return false };
        if proven.is_some_and(|proven| !vertices.iter().map(|v| v.id()).eq(proven)) {
            self.turn.diverged =
                Some(format!("a quorum certified other vertices for sequence {} than its cut gives here", proposal.sequence));
            return false;
        }
        self.execute(now, proposal, vertices, certificate);
        self.catch_up.records.pop_front();
        if self.catch_up.records.is_empty() {
            // Go on at once with whoever is ahead.
            self.catch_up.asked = None;
            self.catch_up.behind_since = None;
            self.fetch_records(now);
        }
        true
    }

    /// Has every lane look for the tip that is named next: by the next learnt record, else by the current proposal.
    pub(super) fn want_named(&mut self) {
        let learnt = self.catch_up.records.front().map(|(record, _)| (&record.proposal.cut, u64::MAX));
        let proposed = || self.round.proposed.as_ref().map(|p| (&p.proposal.cut, MAX_ADVANCE));
        let Some((cut, reach)) = learnt.or_else(proposed) else { return };
        let mut found = Vec::new();
        for (tip, lane) in cut.iter().zip(&mut self.lanes) {
            if tip.height.0 <= lane.decided().height.0.saturating_add(reach) {
                found.extend(lane.want(*tip));
            }
        }
        for vertex in found {
            self.persist(Write::Vertex(vertex));
        }
    }

    /// The cuts that name data which this node may have to fetch.
    pub(super) fn named_tips(&self) -> impl Iterator<Item = (&Vec<Tip>, bool)> {
        let proposed = [&self.round, &self.next_round].into_iter().filter_map(|round| round.proposed.as_ref());
        let learnt = self.catch_up.records.back().map(|(record, _)| (&record.proposal.cut, true));
        proposed.map(|p| (&p.proposal.cut, false)).chain(learnt)
    }

    /// The leader of a view.
    pub(super) fn leader_of(&self, view: View) -> NodeId {
        NodeId((view.0 % self.members.len() as u64) as u32)
    }
}

/// Whether each record continues the one before.
fn is_chain(records: &[Record], domain: &crate::domain::Domain) -> bool {
    let mut expected: Option<(Sequence, Hash)> = None;
    records.iter().all(|record| {
        let continues = expected.is_none_or(|expected| expected == (record.proposal.sequence, record.proposal.prev));
        // The first may name any sequence, even the last there is.
        let next = record.proposal.sequence.0.checked_add(1).map(Sequence);
        expected = next.map(|next| (next, record.chain_hash(domain)));
        continues && expected.is_some()
    })
}
