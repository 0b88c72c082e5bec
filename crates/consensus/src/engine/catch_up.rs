//! Catching up with records that prove themselves.
//!
//! A range of records is believed by the proof of its last one, whose proposal names the chain hash
//! of all before. Who is behind asks those who say that they are ahead, each in turn; who hears
//! nobody (a learner) asks the members in turn.

use super::{Engine, MAX_ADVANCE, Now, Recipient, ViolationKind, Write};
use crate::message::{MAX_RECORDS, Message};
use cretoai_types::{
    CheckedVertex, Epoch, Hash, Height, NodeId, Phase, Proof, Record, Sequence, Tip,
    mutants::mutant,
};
use std::{
    collections::{BTreeSet, HashMap, VecDeque},
    sync::Arc,
    time::Duration,
};

/// After so many requests in a row that ran out of time the wait for an answer doubles, up to so
/// many times.
const MANY_TRIES: u32 = 8;
const MAX_BACK_OFF: u32 = 5;

/// So many nodes' reports of their sequence are kept, members of other epochs among them.
const MAX_REPORTS: usize = 64;

/// What this node is fetching.
#[derive(Debug)]
pub(super) struct CatchUp {
    records: VecDeque<(Record, Option<Proof>)>,
    asked: Option<Duration>,
    /// Who was asked for records last: the next one is asked next, so that a liar cannot keep a
    /// laggard for himself.
    last_asked: NodeId,
    /// Every node that was asked since records came last: a late answer is as good as one in time.
    answering: BTreeSet<NodeId>,
    behind_since: Option<Duration>,
    lanes: Vec<LaneFetch>,
}

/// What is missing of one lane, and who was asked for it.
///
/// The rule: a request is judged by whether its goal was reached, never by whether something came.
/// A holder that sends a little at a time could otherwise keep this node from asking another one.
#[derive(Clone, Debug, Default)]
struct LaneFetch {
    /// The height that this node was found to lack, and since when it has lacked it.
    lacks: Option<(Height, Duration)>,
    asked: Option<Asked>,
    /// Holders whose time ran out. They are asked again once every holder failed.
    failed: BTreeSet<NodeId>,
    /// How many requests in a row ran out of time.
    tries: u32,
}

#[derive(Clone, Copy, Debug)]
struct Asked {
    peer: NodeId,
    goal: Goal,
    at: Duration,
}

/// What a request to a holder of a lane is to bring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Goal {
    /// The lane up to a height.
    Height(Height),
    /// The named vertex, and its ancestors down to this height.
    Branch(Tip, Height),
}

impl CatchUp {
    pub(super) fn new(lanes: usize) -> Self {
        Self {
            records: VecDeque::new(),
            asked: None,
            last_asked: NodeId(0),
            answering: BTreeSet::new(),
            behind_since: None,
            lanes: vec![LaneFetch::default(); lanes],
        }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn has_records(&self) -> bool {
        !self.records.is_empty()
    }

    /// A decision was carried out: if this node is behind, then not since before.
    pub(super) fn moved_on(&mut self) {
        self.behind_since = None;
    }

    /// Since when this node has lacked what it lacks of a lane. Reaching the height that was noted
    /// ends the wait, and a higher one begins anew.
    pub(super) fn lacks(
        &mut self,
        lane: usize,
        lacks: Option<Height>,
        held: Height,
        now: Duration,
    ) -> Option<Duration> {
        let lane = self.lanes.get_mut(lane)?;
        lane.lacks = match lane.lacks {
            Some((height, since)) if height > held && lacks.is_some() => Some((height, since)),
            _ => lacks.map(|height| (height, now)),
        };
        lane.lacks.map(|(_, since)| since)
    }

    /// How often requests for a lane ran out of time since one succeeded.
    pub(super) fn tries(&self, lane: usize) -> u32 {
        self.lanes.get(lane).map_or(0, |lane| lane.tries)
    }

    /// Whether a request for a lane may still be answered. `reached` says whether a goal is met;
    /// a holder that did not meet it in time has failed.
    pub(super) fn lane_is_asked(
        &mut self,
        lane: usize,
        reached: impl Fn(Goal) -> bool,
        now: Duration,
        retry: Duration,
    ) -> bool {
        let Some(lane) = self.lanes.get_mut(lane) else { return false };
        let Some(Asked { peer, goal, at }) = lane.asked else { return false };
        if reached(goal) {
            (lane.asked, lane.tries) = (None, 0);
            return false;
        }
        // Names that nobody answers, such as a liar's invention, are asked for less and less often.
        let wait = retry * (1 << (lane.tries / MANY_TRIES).min(MAX_BACK_OFF));
        if now.saturating_sub(at) < wait {
            return true;
        }
        lane.asked = None;
        lane.tries = lane.tries.saturating_add(1);
        if !mutant!(HolderNeverFails) {
            lane.failed.insert(peer);
        }
        false
    }

    /// The holder to ask next: the first that has not failed.
    pub(super) fn ask_for_lane(
        &mut self,
        lane: usize,
        goal: Goal,
        holders: &[NodeId],
        now: Duration,
    ) -> Option<NodeId> {
        let lane = self.lanes.get_mut(lane)?;
        if holders.iter().all(|holder| lane.failed.contains(holder)) {
            holders.iter().for_each(|holder| {
                lane.failed.remove(holder);
            });
        }
        let peer = *holders.iter().find(|holder| !lane.failed.contains(holder))?;
        lane.asked = Some(Asked { peer, goal, at: now });
        Some(peer)
    }
}

impl Engine {
    /// Notes the sequence that a node says it has executed.
    pub(super) fn heard_of(&mut self, node: NodeId, executed: Sequence) {
        if self.reported.len() < MAX_REPORTS || self.reported.contains_key(&node) {
            self.reported.insert(node, executed);
        }
    }

    /// Asks a peer that says it is ahead for records, each in turn: at once if by two or more, else
    /// when the votes had time to come.
    pub(super) fn fetch_records(&mut self, now: Now) {
        let executed = self.state.sequence;
        let own = self.own_id();
        let ahead = || {
            self.reported
                .iter()
                .filter(|(node, sequence)| Some(**node) != own && **sequence > executed)
        };
        let last = self.catch_up.last_asked;
        let next = ahead().find(|(node, _)| **node > last).or_else(|| ahead().next());
        let Some((peer, sequence)) = next.map(|(node, sequence)| (*node, *sequence)) else {
            return;
        };
        let since = *self.catch_up.behind_since.get_or_insert(now.at);
        let patient = now.at.saturating_sub(since) < self.timing.patience;
        let outstanding = self
            .catch_up
            .asked
            .is_some_and(|at| now.at.saturating_sub(at) < 2 * self.timing.patience);
        if self.catch_up.has_records() || outstanding || (sequence == executed.next() && patient) {
            return;
        }
        self.ask_for_records(now, peer);
    }

    fn ask_for_records(&mut self, now: Now, peer: NodeId) {
        self.catch_up.asked = Some(now.at);
        self.catch_up.last_asked = peer;
        self.catch_up.answering.insert(peer);
        let from =
            if self.lacks_proof() { self.state.sequence } else { self.state.sequence.next() };
        self.send(
            Recipient::One(peer),
            Message::FetchRecords { epoch: self.validators.epoch, from },
        );
    }

    fn lacks_proof(&self) -> bool {
        self.certified.0 < self.state.sequence && !self.catch_up.has_records()
    }

    /// Asks the members in turn for what no report would make it ask for: it is none of them; or
    /// its epoch has ended and the certificate of that is missing; or it cannot prove what it
    /// executed, because it stopped within a range; or nobody of its epoch is left to report.
    pub(super) fn learn(&mut self, now: Now) {
        let heard = self
            .peers
            .iter()
            .filter_map(|peer| peer.status.as_ref())
            .map(|(_, came)| *came)
            .max()
            .unwrap_or_default();
        let forgotten = now.at.saturating_sub(heard) >= 10 * self.timing.patience
            && self.validators.members.len() > 1;
        let alone =
            self.own.is_none() || self.successor.is_some() || self.lacks_proof() || forgotten;
        let asked = self
            .catch_up
            .asked
            .is_some_and(|at| now.at.saturating_sub(at) < 2 * self.timing.patience);
        if !alone || asked || self.catch_up.has_records() {
            return;
        }
        let own = self.own_id();
        let others = || self.validators.ids().filter(|id| Some(*id) != own);
        let last = self.catch_up.last_asked;
        let next = others().find(|id| *id > last).or_else(|| others().next());
        if let Some(peer) = next {
            self.ask_for_records(now, peer);
        }
    }

    /// Takes a range of records, if what proves its last one verifies and it continues this node's
    /// chain.
    pub(super) fn receive_records(
        &mut self,
        now: Now,
        from: NodeId,
        epoch: Epoch,
        records: Vec<Record>,
        proof: Proof,
    ) {
        let executed = self.state.sequence;
        // Only from a node that was asked: records that nobody asked for could keep longer ranges
        // away.
        let asked = self.catch_up.answering.contains(&from);
        if epoch != self.validators.epoch
            || self.catch_up.has_records()
            || self.successor.is_some()
            || !asked
        {
            return;
        }
        let well_formed = records.len() <= MAX_RECORDS
            && records.iter().all(|r| r.proposal.cut.len() == self.lanes.len());
        let Some(last) = records.last().filter(|_| well_formed) else {
            return self.violation(from, ViolationKind::Malformed);
        };
        let continues =
            records.first().is_some_and(|first| first.proposal.sequence <= executed.next());
        let only_proves = last.proposal.sequence == executed && self.lacks_proof();
        if (last.proposal.sequence <= executed && !only_proves) || !continues {
            return;
        }
        let domain = self.domain();
        let about = match &proof {
            Proof::Commit(certificate) => {
                (certificate.phase, certificate.sequence, certificate.digest)
                    == (Phase::Commit, last.proposal.sequence, last.proposal.digest(&domain))
            }
            Proof::Checkpoint(certificate) => {
                (certificate.state.sequence, certificate.state.chain_hash)
                    == (last.proposal.sequence, last.chain_hash(&domain))
            }
        };
        if !about || proof.verify(self.chain_id, &self.validators, &*self.verifier).is_err() {
            return self.violation(from, ViolationKind::InvalidSignature);
        }
        if !is_chain(&records, &domain) {
            return self.violation(from, ViolationKind::Malformed);
        }
        if only_proves {
            if last.chain_hash(&domain) == self.state.chain_hash {
                self.prove(executed, self.state.chain_hash, proof.clone());
                self.persist(Write::Proof(executed, proof));
            }
            return;
        }
        let mut records: VecDeque<Record> =
            records.into_iter().skip_while(|r| r.proposal.sequence <= executed).collect();
        let Some(first) = records.front().filter(|r| r.proposal.sequence == executed.next()) else {
            return;
        };
        if first.proposal.prev != self.state.chain_hash {
            self.turn.diverged = Some(format!(
                "a quorum certified sequence {} on top of chain hash {}, but this node's chain hash at {} is {}",
                proof.sequence(),
                first.proposal.prev,
                executed,
                self.state.chain_hash
            ));
            return;
        }
        self.catch_up.answering.clear();
        let last = records.pop_back();
        self.catch_up.records =
            records.into_iter().map(|r| (r, None)).chain(last.map(|r| (r, Some(proof)))).collect();
        self.catch_up.asked = Some(now.at);
    }

    /// Carries out the next learnt record, once its data is here. Says whether it did.
    pub(super) fn execute_learnt(&mut self, now: Now) -> bool {
        while self
            .catch_up
            .records
            .front()
            .is_some_and(|(r, _)| r.proposal.sequence <= self.state.sequence)
        {
            self.catch_up.records.pop_front();
        }
        let Some((record, proof)) = self.catch_up.records.front() else { return false };
        if self.successor.is_some() {
            self.turn.diverged = Some(format!(
                "a quorum certified sequence {} after this node's epoch ended",
                record.proposal.sequence
            ));
            return false;
        }
        let (proposal, proof) = (record.proposal.clone(), proof.clone());
        // The chain hash in the next record, or in a checkpoint, proves this one's vertices and
        // outcomes. With a commit certificate they are only claimed by the sender: what its
        // certified cut gives here counts, and a lie must not stop this node.
        let proven = (!matches!(proof, Some(Proof::Commit(_))))
            .then(|| (record.vertices.clone(), record.outcomes));
        let Some(vertices) = self.order(&proposal) else { return false };
        if proven.as_ref().is_some_and(|(proven, _)| {
            !vertices.iter().map(|vertex| vertex.id()).eq(proven.iter().copied())
        }) {
            self.turn.diverged = Some(format!(
                "a quorum certified other vertices for sequence {} than its cut gives here",
                proposal.sequence
            ));
            return false;
        }
        self.catch_up.records.pop_front();
        let certified = if let Some(Proof::Checkpoint(certificate)) = &proof {
            Some(certificate.state.clone())
        } else {
            None
        };
        self.execute(now, proposal, vertices, proof);
        let outcomes = self.turn.executions.last().map(|execution| execution.record.outcomes);
        if proven.is_some_and(|(_, proven)| outcomes != Some(proven)) {
            self.turn.diverged = Some(format!(
                "a quorum certified other outcomes for sequence {} than this node's execution",
                self.state.sequence
            ));
            return false;
        }
        if certified.is_some_and(|certified| certified != self.checkpoint_state()) {
            self.turn.diverged = Some(format!(
                "a quorum certified another state at sequence {} than this node has",
                self.state.sequence
            ));
            return false;
        }
        if self.catch_up.records.is_empty() {
            // Go on at once with whoever is ahead.
            self.catch_up.asked = None;
            self.catch_up.behind_since = None;
            self.fetch_records(now);
        }
        true
    }

    /// Has every lane look for the tip that is named next: by the next learnt record, else by the
    /// current proposal, or by what NEW-VIEW chose.
    pub(super) fn want_named(&mut self) {
        let learnt =
            self.catch_up.records.front().map(|(record, _)| (&record.proposal.cut, u64::MAX));
        let proposed = || self.round.proposed.as_ref().map(|p| (&p.proposal.cut, MAX_ADVANCE));
        let chosen = || self.chosen().map(|prepared| (&prepared.proposal.cut, MAX_ADVANCE));
        let Some((cut, reach)) = learnt.or_else(proposed).or_else(chosen) else { return };
        let cut = cut.clone();
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

    /// After a restart: of a lane that forked, the branch that is named is held again, before what
    /// else is stored takes its place.
    pub(super) fn recall_named_branches(&mut self, stored: &[Arc<CheckedVertex>]) {
        let by_id: HashMap<Hash, &Arc<CheckedVertex>> =
            stored.iter().map(|vertex| (vertex.id(), vertex)).collect();
        for lane in &mut self.lanes {
            let mut before = None;
            while let Some(needed) = lane.needed().filter(|needed| before != Some(*needed)) {
                let Some(vertex) = by_id.get(&needed.id) else { break };
                lane.offer(Arc::clone(vertex), usize::MAX);
                before = Some(needed);
            }
        }
    }

    /// The cuts that name data which this node may have to fetch, and whether a quorum stands
    /// behind them.
    pub(super) fn named_tips(&self) -> impl Iterator<Item = (&Vec<Tip>, bool)> {
        let proposed =
            [&self.round, &self.next_round].into_iter().filter_map(|round| round.proposed.as_ref());
        let learnt = self.catch_up.records.back().map(|(record, _)| (&record.proposal.cut, true));
        let chosen = self.chosen().map(|prepared| (&prepared.proposal.cut, false));
        proposed.map(|p| (&p.proposal.cut, false)).chain(chosen).chain(learnt)
    }
}

/// Whether each record continues the one before.
fn is_chain(records: &[Record], domain: &cretoai_types::Domain) -> bool {
    let mut expected: Option<(Sequence, Hash)> = None;
    records.iter().all(|record| {
        let continues = expected
            .is_none_or(|expected| expected == (record.proposal.sequence, record.proposal.prev));
        // The first may name any sequence, even the last there is.
        let next = record.proposal.sequence.0.checked_add(1).map(Sequence);
        expected = next.map(|next| (next, record.chain_hash(domain)));
        continues && expected.is_some()
    })
}
