//! Leader election: when another view is wanted, and when it is entered.
//!
//! A node is ready to leave its view exactly while a reason holds, and says so in its Status
//! (`want`). It keeps working until a quorum wants a higher view, and then enters the highest that
//! a quorum wants: no liar can push views up, and one want of each peer is all that is kept (Bravo,
//! Chockler, Gotsman, DISC'20).

use super::{Engine, Now};
use cretoai_types::{Height, NodeId, Sequence, View, mutants::mutant};
use std::time::Duration;

/// The timeout doubles with each view that ends early, up to so many times.
const MAX_DOUBLINGS: u32 = 6;
/// So many sequences executed in one view halve the next timeout.
const CALM: u64 = 64;
/// How often reasons are looked for, as a part of the timeout.
const LOOKS: u32 = 16;
/// A view that has lasted so long halves the next timeout.
const QUIET: Duration = Duration::from_secs(60);
/// A quorum that was not heard for so many times T0 was away.
const ALONE_TIMEOUTS: u32 = 4;
/// A leader that lacks what a quorum holds has so many timeouts to fetch and decide it.
const FETCHING_TIMEOUTS: u32 = 3;

/// Why a node is ready to leave its view.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Reason {
    /// Nothing came from the leader for T.
    Silent,
    /// The view was entered, and did not begin for T.
    NotBegun,
    /// What a quorum acknowledged stays undecided for T.
    Undone,
    /// The leader signed two digests for one sequence.
    Equivocated,
    /// The leader's term is over.
    TermOver,
    /// The leader resigns.
    Resigned,
    /// More members than can lie are ready to leave it.
    Others,
}

#[derive(Debug, Default)]
pub(super) struct Election {
    /// The view that this node is in or ready to go to.
    pub(super) want: View,
    /// Why it is ready to go, if it is.
    pub(super) reason: Option<Reason>,
    /// The first turn was taken, and when: of this epoch.
    begun: bool,
    started: Duration,
    entered: Duration,
    entered_at: Sequence,
    /// k: how many views in a row ended early, less what calm took off again.
    failures: u32,
    /// The random part of T, drawn when the view was entered.
    jitter: Duration,
    /// When the failures of the past counted for less the last time.
    calmed: Duration,
    /// Since when fewer members than a quorum have been heard.
    alone_since: Option<Duration>,
    leader_heard: Duration,
    /// The leader signed two digests for one sequence of this view.
    equivocated: bool,
    resigning: bool,
    /// Of each lane a height that a quorum acknowledged and that is not decided, and since when.
    undecided: Vec<Option<(Height, Duration)>>,
    /// Of each lane a height that only a weak quorum acknowledged, and since when.
    pub(super) weak: Vec<Option<(Height, Duration)>>,
    /// When to look again.
    look: Duration,
}

impl Election {
    pub(super) fn resign(&mut self) {
        self.resigning = true;
        self.look = Duration::ZERO;
    }

    pub(super) fn heard_leader(&mut self, now: Now) {
        self.leader_heard = now.at;
    }

    pub(super) fn leader_equivocated(&mut self) {
        self.equivocated = true;
        self.look = Duration::ZERO;
    }

    /// A peer wants something else than before.
    pub(super) fn wants_changed(&mut self) {
        self.look = Duration::ZERO;
    }

    pub(super) fn executed(&mut self, sequence: Sequence) {
        if sequence.0.saturating_sub(self.entered_at.0).is_multiple_of(CALM) {
            self.failures = self.failures.saturating_sub(1);
        }
    }

    /// Begins an epoch, at its view 0.
    pub(super) fn restart(&mut self, now: Duration, sequence: Sequence, jitter: Duration) {
        *self = Self {
            begun: true,
            started: self.started,
            entered: now,
            entered_at: sequence,
            jitter,
            calmed: now,
            alone_since: self.alone_since,
            leader_heard: now,
            resigning: self.resigning,
            ..Self::default()
        };
    }
}

impl Engine {
    /// Draws the random part of T: up to T0 / 4.
    pub(super) fn draw_jitter(&mut self) -> Duration {
        self.random.below(self.timing.timeout / 4)
    }

    /// 2^k, by which a view's times are longer after k views that ended early.
    fn multiplier(&self) -> u32 {
        let failures = self.election.failures.min(MAX_DOUBLINGS);
        if mutant!(TimeoutConstant) { 1 } else { 2_u32.pow(failures) }
    }

    /// T = T0 * 2^k and the random part. T0 follows the network, also within a view.
    fn view_timeout(&self) -> Duration {
        self.timing.timeout * self.multiplier() + self.election.jitter
    }

    /// After a start: the view that the store gave back counts as entered now.
    pub(super) fn recall_election(&mut self) {
        self.election.jitter = self.draw_jitter();
        self.election.entered_at = self.state.sequence;
        self.election.want = self.view;
    }

    /// The next view whose leader is not skipped. Beside those that the chain tells of, this node
    /// skips who has fallen silent: a hint like the others, for what is wanted only, so that the
    /// end of a term does not hand the lead to a dead node.
    fn view_after(&self, now: Now, view: View) -> View {
        let mut skipped = self.state.skipped(&self.validators);
        let most = self.quorum().f;
        let is_silent = |id: &NodeId| {
            let heard = self.peer_status(*id).map_or(self.election.started, |(_, came)| *came);
            Some(*id) != self.own_id() && now.at.saturating_sub(heard) >= self.timing.timeout
        };
        for silent in self.validators.ids().filter(is_silent) {
            if skipped.len() < most {
                skipped.insert(silent);
            }
        }
        let mut next = view.next();
        for _ in 0..self.validators.members.len() {
            if !skipped.contains(&self.validators.leader(next)) {
                break;
            }
            next = next.next();
        }
        next
    }

    /// Looks for reasons, sets what this node wants, and enters a view that a quorum wants. Says
    /// whether it entered one.
    pub(super) fn elect(&mut self, now: Now) -> bool {
        if self.own.is_none() || self.validators.members.len() == 1 || self.election.look > now.at {
            return false;
        }
        self.election.look = now.at + self.timing.timeout / LOOKS;
        self.begin_clocks(now);
        self.calm_down(now);
        self.watch_lanes(now);
        let pushed = self.wanted_by(self.quorum().w.max(2), self.view);
        self.election.reason =
            self.own_reason(now).or((pushed > self.view).then_some(Reason::Others));
        let mut want = if self.election.reason.is_some() {
            self.view_after(now, self.view).max(pushed)
        } else {
            self.view
        };
        if mutant!(WantForever) {
            want = want.max(self.election.want);
        }
        if want != self.election.want {
            self.election.want = want;
            self.status_due = true;
        }
        let entered = self.wanted_by(self.quorum().q, want);
        if entered <= self.view || !self.may_sign() || self.successor.is_some() {
            return false;
        }
        self.enter_view(now, entered);
        true
    }

    /// Times count from the first turn: the monotonic clock may begin anywhere.
    fn begin_clocks(&mut self, now: Now) {
        if !std::mem::replace(&mut self.election.begun, true) {
            self.election.entered = now.at;
            self.election.started = now.at;
            self.election.calmed = now.at;
            self.election.leader_heard = self.election.leader_heard.max(now.at);
            self.round_since = self.round_since.max(now.at);
            self.last_executed = self.last_executed.max(now.at);
        }
    }

    /// Failures of the past say little of the network now: each quiet minute halves the timeout's
    /// multiplier, and a quorum that was away and is back begins anew, whatever views failed before.
    fn calm_down(&mut self, now: Now) {
        let t0 = self.timing.timeout;
        let own = self.own_position();
        let others = self.peers.iter().enumerate().filter(|(peer, _)| Some(*peer) != own);
        let heard = others
            .filter_map(|(_, peer)| peer.status.as_ref())
            .filter(|(_, came)| now.at.saturating_sub(*came) < t0)
            .count();
        let election = &mut self.election;
        let mut failures = election.failures;
        if heard + 1 < self.validators.quorum().q {
            election.alone_since.get_or_insert(now.at);
        } else if let Some(since) = election.alone_since.take()
            && now.at.saturating_sub(since) >= ALONE_TIMEOUTS * t0
        {
            failures = 0;
        }
        if now.at.saturating_sub(election.calmed) >= QUIET {
            election.calmed = now.at;
            failures = failures.saturating_sub(1);
        }
        election.failures = failures;
    }

    /// When to look again, while this node is a member.
    pub(super) fn election_due(&self, now: Now) -> Option<Duration> {
        (self.own.is_some() && self.validators.members.len() > 1)
            .then(|| self.election.look.max(now.at))
    }

    /// The `count`-th largest view that members want, this node with `own` among them.
    fn wanted_by(&self, count: usize, own: View) -> View {
        let position = self.own_position();
        let others = self.peers.iter().enumerate().filter(|(peer, _)| Some(*peer) != position);
        let wants = others.filter_map(|(_, peer)| {
            peer.status.as_ref().map(|(status, _)| status.want.max(status.view))
        });
        let mut wants: Vec<View> = wants.chain([own]).collect();
        wants.sort_unstable_by(|a, b| b.cmp(a));
        wants.get(count - 1).copied().unwrap_or(View(0))
    }

    /// Notes since when a quorum, or only a weak quorum, holds what is not decided.
    fn watch_lanes(&mut self, now: Now) {
        let banned: Vec<_> = self.state.banned(&self.validators).collect();
        let lanes = self.lanes.len();
        self.election.undecided.resize(lanes, None);
        self.election.weak.resize(lanes, None);
        let quorum = self.quorum();
        for position in 0..lanes {
            let is_banned = self.validators.id_at(position).is_some_and(|id| banned.contains(&id));
            let decided = self.lanes.get(position).map_or(Height(0), |lane| lane.decided().height);
            let certain = self.acknowledged_by(position, quorum.q).height;
            let weak = self.acknowledged_by(position, quorum.w).height;
            let note =
                |known: Option<(Height, Duration)>, height: Height, above: Height| match known {
                    _ if height <= above || is_banned => None,
                    Some((old, since)) if old > above => Some((old, since)),
                    _ => Some((height, now.at)),
                };
            if let Some(slot) = self.election.undecided.get_mut(position) {
                *slot = note(*slot, certain, decided);
            }
            if let Some(slot) = self.election.weak.get_mut(position) {
                *slot = note(*slot, weak, certain.max(decided));
            }
        }
    }

    /// A certificate, or more nodes than can lie, say that the cluster has gone on.
    fn is_behind(&self) -> bool {
        let executed = self.state.sequence;
        let ahead = self
            .peers
            .iter()
            .filter(|peer| {
                peer.status.as_ref().is_some_and(|(status, _)| status.executed > executed)
            })
            .count();
        self.checkpoints.is_behind() || ahead >= self.quorum().w.max(2)
    }

    /// The first of this node's own reasons to leave the view that holds.
    fn own_reason(&self, now: Now) -> Option<Reason> {
        let election = &self.election;
        let timeout = self.view_timeout();
        let working = timeout + self.timing.deciding * self.multiplier();
        let lasted = |since: Duration, time: Duration| {
            now.at.saturating_sub(since.max(election.entered)) >= time
        };
        let leader = self.leader();
        let leads = self.leads();
        // Who knows that a quorum went on catches up instead.
        let behind = self.catch_up.has_records() || self.successor.is_some() || self.is_behind();
        let silent = !leads && lasted(election.leader_heard, timeout);
        let not_begun = !self.active && lasted(election.entered, working);
        let acknowledged = self
            .position(leader)
            .filter(|_| !leads)
            .and_then(|position| self.peers.get(position))
            .map(|peer| &peer.acknowledged);
        let undone = (0..).zip(&election.undecided).any(|(lane, undecided): (usize, _)| {
            // A liar can keep its own lane from a leader for a while. The leader then fetches it
            // from the others, and is not to blame before it had the time.
            let lacks = |height: Height| {
                acknowledged
                    .is_some_and(|tips| tips.get(lane).is_none_or(|tip| tip.height < height))
            };
            undecided.is_some_and(|(height, since)| {
                lasted(since, working * if lacks(height) { FETCHING_TIMEOUTS } else { 1 })
            })
        });
        let decided = self.state.sequence.0.saturating_sub(election.entered_at.0);
        let parameters = &self.validators.parameters;
        let served =
            u64::try_from(now.at.saturating_sub(election.entered).as_millis()).unwrap_or(u64::MAX);
        let over =
            decided >= parameters.term_sequences || (decided > 0 && served >= parameters.term_ms);
        let resigns = if leads {
            election.resigning
        } else {
            // The leader may also have left this view on its own: it still sends heartbeats but no
            // longer signs in it.
            let leaves = |status: &crate::Status| {
                let left = status.view > self.view && !mutant!(LeaderGoneIgnored);
                left || (status.view == self.view && status.want > self.view)
            };
            self.peer_status(leader).is_some_and(|(status, _)| leaves(status))
        };
        let reasons = [
            (election.equivocated, Reason::Equivocated),
            (over, Reason::TermOver),
            (resigns, Reason::Resigned),
            (!behind && silent, Reason::Silent),
            (!behind && not_begun, Reason::NotBegun),
            (!behind && undone, Reason::Undone),
        ];
        reasons.into_iter().find_map(|(holds, reason)| holds.then_some(reason))
    }

    /// A view that lasted has not failed. That it decided something is not enough: a liar and a
    /// slow node could push views for ever, and only a growing timeout ends that.
    fn served_half_a_term(&self, now: Now) -> bool {
        let parameters = &self.validators.parameters;
        let served = u64::try_from(now.at.saturating_sub(self.election.entered).as_millis())
            .unwrap_or(u64::MAX);
        let decided = self.state.sequence.0.saturating_sub(self.election.entered_at.0);
        served >= parameters.term_ms / 2 || decided >= parameters.term_sequences / 2
    }

    /// Leaves the view behind. From here on nothing is signed below the new one.
    pub(super) fn enter_view(&mut self, now: Now, view: View) {
        self.turn.left = Some((self.view, self.election.reason.unwrap_or(Reason::Others)));
        let before = self.election.failures;
        let failures = if self.served_half_a_term(now) {
            before.saturating_sub(1)
        } else {
            (before + 1).min(MAX_DOUBLINGS)
        };
        let jitter = self.draw_jitter();
        self.election.restart(now.at, self.state.sequence, jitter);
        self.election.failures = failures;
        self.election.want = view;
        self.remember_votes(self.state.sequence.next());
        self.view = view;
        self.active = false;
        self.choice = None;
        // What the old view named may be an invention. The new one names again what is needed.
        self.lanes.iter_mut().for_each(super::Lane::forget_wanted);
        self.new_view = None;
        self.round = super::Round::default();
        self.next_round = super::Round::default();
        self.round_since = now.at;
        // The new leader knows no acknowledgement of this node yet.
        self.acknowledged.clear();
        self.status_due = true;
        self.change_view();
    }
}
