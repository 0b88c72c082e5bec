//! Intervals that follow the network.
//!
//! The driver measures the round-trip time to each peer ([`Input::RoundTrip`](super::Input)). The
//! time to a quorum, not to the farthest peer, stretches the configured intervals: fewer members
//! than can lie cannot make this node more patient than an honest quorum does.

use super::{Engine, Timing};
use cretoai_types::{NodeId, mutants::mutant};
use std::{collections::BTreeMap, time::Duration};

/// The longest round trip that is believed. While few peers are connected, a single one says what
/// the time to a quorum is.
const LONGEST: Duration = Duration::from_secs(1);
/// Times are noted of members of the epoch, and of those of the next one who connect early.
const MAX_TIMES: usize = 256;

#[derive(Debug, Default)]
pub(super) struct RoundTrips(BTreeMap<NodeId, Duration>);

impl RoundTrips {
    fn note(&mut self, peer: NodeId, time: Duration) {
        if self.0.len() < MAX_TIMES || self.0.contains_key(&peer) {
            self.0.insert(peer, time.min(LONGEST));
        }
    }

    /// The time within which as many of these members answer, or all whose time is known if those
    /// are fewer.
    fn to_reach(&self, count: usize, members: impl Iterator<Item = NodeId>) -> Option<Duration> {
        let mut times: Vec<Duration> =
            members.filter_map(|member| self.0.get(&member).copied()).collect();
        times.sort_unstable();
        times.get(count.saturating_sub(1)).or(times.last()).copied()
    }
}

impl Timing {
    /// These intervals, each at least as long as the round trip to a quorum asks for.
    ///
    /// A leader's heartbeats come at their interval whatever the distance is, so two round trips of
    /// silence are enough to want another leader. What a quorum holds may have to wait for a
    /// decision that is under way, which is three one-way delays, before its own: two round trips
    /// more.
    #[must_use]
    pub fn over(self, round_trip: Duration) -> Self {
        Self {
            patience: self.patience.max(round_trip * 3 / 2),
            retry: self.retry.max(round_trip * 3 / 2),
            timeout: self.timeout.max(round_trip * 2),
            deciding: self.deciding.max(round_trip * 2),
            ..self
        }
    }
}

impl Engine {
    /// Notes what the driver measured.
    pub(super) fn measured(&mut self, peer: NodeId, time: Duration) {
        self.round_trips.note(peer, time);
        self.follow_the_network();
    }

    /// Sets the intervals by the round trip to the others of a quorum.
    pub(super) fn follow_the_network(&mut self) {
        let own = self.own_id();
        let others = self.validators.ids().filter(|id| Some(*id) != own);
        let count = self.quorum().q - usize::from(own.is_some());
        let round_trip = self.round_trips.to_reach(count, others).unwrap_or_default();
        self.timing =
            if mutant!(RoundTripIgnored) { self.floors } else { self.floors.over(round_trip) };
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const fn ms(ms: u64) -> Duration {
        Duration::from_millis(ms)
    }

    #[test]
    fn the_time_to_a_quorum_counts_and_not_that_to_the_farthest_peer() {
        let mut times = RoundTrips::default();
        let members = || (1..4).map(NodeId);
        assert_eq!(times.to_reach(2, members()), None);
        times.note(NodeId(3), ms(900));
        assert_eq!(times.to_reach(2, members()), Some(ms(900)));
        times.note(NodeId(1), ms(60));
        times.note(NodeId(2), ms(80));
        assert_eq!(times.to_reach(2, members()), Some(ms(80)));
        // Who is no member says nothing.
        times.note(NodeId(9), ms(1));
        assert_eq!(times.to_reach(2, members()), Some(ms(80)));
    }

    #[test]
    fn no_measurement_is_believed_beyond_a_second_and_no_crowd_grows_the_memory() {
        let mut times = RoundTrips::default();
        for id in 0..1_000 {
            times.note(NodeId(id), ms(60_000));
        }
        assert_eq!(times.0.len(), MAX_TIMES);
        assert_eq!(times.to_reach(1, [NodeId(0)].into_iter()), Some(LONGEST));
    }

    #[test]
    fn a_lan_keeps_the_configured_intervals_and_a_wan_stretches_them() {
        let configured = Timing::default();
        let lan = configured.over(ms(1));
        assert_eq!((lan.patience, lan.retry, lan.timeout), (ms(100), ms(50), ms(250)));
        let wan = configured.over(ms(200));
        assert_eq!((wan.patience, wan.retry, wan.timeout), (ms(300), ms(300), ms(400)));
        assert_eq!((wan.deciding, wan.pace, wan.status), (ms(400), lan.pace, lan.status));
    }
}
