//! Attacks with nothing but true messages: too late, too slowly, or to too few.

use super::{Attacker, Situation, Strategy};
use cretoai_consensus::Message;
use cretoai_types::{NodeId, Proposal, View};

/// From one vertex to the next, where they trickle, microseconds.
const TRICKLE: u64 = 20_000;
/// What would be longer on its way is not sent at all.
const LONGEST: u64 = 2_000_000;
/// How late a slow leader proposes: within T0.
const SLOW: u64 = 200_000;

impl Attacker {
    /// How many microseconds later a message leaves, or that it does not.
    pub(super) fn delay(
        &mut self,
        situation: &Situation<'_>,
        to: NodeId,
        message: &Message,
    ) -> Option<u64> {
        match message {
            Message::Vertex(vertex) | Message::Fetched(vertex)
                if self.does(Strategy::Trickle)
                    && vertex.header.author == self.own
                    && self.is_starved(situation, to) =>
            {
                let next = self.trickles.entry(to).or_default();
                *next = situation.now.max(*next + TRICKLE);
                let late = *next - situation.now;
                if late > LONGEST {
                    *next -= TRICKLE;
                    return None;
                }
                Some(late)
            }
            Message::PrePrepare { .. } if self.does(Strategy::SlowLeader) => Some(SLOW),
            _ => Some(0),
        }
    }

    /// The leader, which is to lack what it should propose, and one more member.
    fn is_starved(&self, situation: &Situation<'_>, to: NodeId) -> bool {
        to == situation.leader() || self.other_face.first() == Some(&to)
    }

    /// The time that it proposes in place of its own.
    pub(super) fn freeze(&mut self, situation: &Situation<'_>, proposal: &mut Proposal) {
        let place = (situation.view, proposal.sequence);
        let frozen = self
            .frozen
            .filter(|(view, sequence, _)| (*view, *sequence) == place)
            .map_or(situation.chain_ms, |(.., time_ms)| time_ms);
        self.frozen = Some((place.0, place.1, frozen));
        proposal.time_ms = frozen;
    }

    /// While it leads: nothing but heartbeats to two members, of which one is told to leave.
    pub(super) fn exiles(
        &self,
        situation: &Situation<'_>,
        to: NodeId,
        message: Message,
    ) -> Option<Message> {
        if !self.does(Strategy::Exile) || situation.leader() != self.own {
            return Some(message);
        }
        let mut others = situation.validators.ids().filter(|id| *id != self.own);
        let victims = (others.next(), others.next());
        match message {
            Message::Status(mut status) if victims.0 == Some(to) => {
                status.want = View(status.view.0 + 1);
                Some(Message::Status(status))
            }
            Message::Status(_) => Some(message),
            _ if victims.0 == Some(to) || victims.1 == Some(to) => None,
            other => Some(other),
        }
    }
}
